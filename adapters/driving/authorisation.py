"""Who is the caller of identityd, and what may it do (services.md §3.1).

The principals are looked at first, so uid 0 that is listed there has lost root's rights. Who is not listed
is root, or nobody in particular. The service's own uid counts as root unless it is listed: whoever runs
as the service holds its keys anyway, and can so ask it to reprovision without sudo. The original has no
such rule.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from statemachine.settings import IdentityKind, IdentityPrincipal

CallerClass = Literal["root", "daemon", "host process", "unknown"]


class Caller(Struct, frozen=True, kw_only=True):
    """A uid and its rights."""

    uid: int
    standing: CallerClass
    name: str = ""
    "Of the principal; empty for root and unknown."
    kinds: tuple[IdentityKind, ...] = ()
    "What a host process may be."

    @property
    def may_manage(self) -> bool:
        """List, create, update and delete modules; reprovision; local identities of any name."""
        return self.standing in ("root", "daemon")

    @property
    def may_read_device(self) -> bool:
        return self.may_manage or "device" in self.kinds

    def may_read_module(self, module_id: str, kind: str | None = None) -> bool:
        """A host process only its own name, and only as a kind it is (services.md §10, quirk 17).

        Before the ``type`` of a request was looked at, or when it is none we know, either kind will do.
        """
        if self.may_manage:
            return True
        wanted = {"aziot": ("module",), "local": ("local",)}.get(kind or "", ("module", "local"))
        return self.name == module_id and any(one in self.kinds for one in wanted)


def caller_of(uid: int, principals: Sequence[IdentityPrincipal], own_uid: int) -> Caller:
    """The caller behind that uid. Of two entries with one uid the later counts, as in the original."""
    found: Caller | None = None
    daemon_seen = False
    for principal in principals:
        if principal.kinds is None:
            # Only the first without kinds is the daemon; the others have no rights from it.
            is_daemon, daemon_seen = not daemon_seen, True
            if not is_daemon:
                continue
        if principal.uid == uid:
            standing: CallerClass = "daemon" if principal.kinds is None else "host process"
            found = Caller(uid=uid, standing=standing, name=principal.name, kinds=principal.kinds or ())
    if found is not None:
        return found
    return Caller(uid=uid, standing="root" if uid in (0, own_uid) and uid >= 0 else "unknown")
