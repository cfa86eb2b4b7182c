"""``[[principal]]`` of each service: who may do what (config-and-cli.md §6.2-8, services.md §3.1)."""

import pwd
from collections.abc import Sequence

from adapters.config_findings import Findings
from adapters.config_forms import shown
from adapters.config_rows_drop_ins import DROP_INS, Service
from adapters.config_setting import HIGHEST_UID
from adapters.config_walk import Element
from statemachine.settings import CertificateGrant, IdentityPrincipal, KeyGrant

Said = Sequence[tuple[Element, Findings]]

NO_USER = HIGHEST_UID + 1
"No process has this user id: ``(uid_t) -1``."


def key_grants(said: Said, *, lenient: bool) -> tuple[KeyGrant, ...]:
    """keyd's; several of one user add up."""
    return tuple(KeyGrant(uid=uid, keys=keys) for uid, keys in _grants(said, "keyd", "keys", lenient))


def certificate_grants(said: Said, *, lenient: bool) -> tuple[CertificateGrant, ...]:
    """certd's; several of one user add up."""
    return tuple(
        CertificateGrant(uid=uid, certs=ids) for uid, ids in _grants(said, "certd", "certs", lenient)
    )


def _grants(said: Said, service: Service, name: str, lenient: bool) -> list[tuple[int, tuple[str, ...]]]:
    found = []
    for element, findings in said:
        _require(element, service, ("uid", name), findings)
        uid = _uid(element, findings, lenient)
        patterns = element.values.get(f"principal.{name}")
        if uid is not None and uid != NO_USER and patterns is not None:
            found.append((uid, patterns))
    return found


def principals(
    said: Said, *, local_identities: bool, hub: bool | None, lenient: bool
) -> tuple[IdentityPrincipal, ...]:
    """identityd's. ``local_identities``: there is a domain for them. ``hub``: provisioning leads to one;
    None when that is not known."""
    found: list[IdentityPrincipal] = []
    names: set[str] = set()
    for element, findings in said:
        principal = _principal(element, findings, lenient)
        _check_kinds(element, findings, local_identities=local_identities, hub=hub)
        if principal is None:
            continue
        if principal.name in names:
            findings.unfit(f"{element.label}.name", f"{shown(principal.name)} once more", "each name once")
        names.add(principal.name)
        # services.md §10, quirk 16: in the original the later one silently takes the place of the earlier.
        if principal.uid != NO_USER and any(one.uid == principal.uid for one in found):
            findings.unfit(
                f"{element.label}.uid", f"{principal.uid} once more", "one principal for each user"
            )
        if principal.kinds is None and any(one.kinds is None for one in found):
            findings.note(
                element.label, "a second daemon (without idtype), not used: only the first one counts"
            )
            continue
        found.append(principal)
    return tuple(found)


def _principal(element: Element, findings: Findings, lenient: bool) -> IdentityPrincipal | None:
    _require(element, "identityd", ("uid", "name"), findings)
    values, localid = element.values, element.table.get("localid")
    if isinstance(localid, dict) and "type" not in localid:
        findings.unfit(f"{element.label}.localid.type", "nothing", '"x509"')
    uid = _uid(element, findings, lenient)
    if uid is None or "principal.name" not in values:
        return None
    if "idtype" in element.table and "principal.idtype" not in values:
        return None
    return IdentityPrincipal(
        uid=uid,
        name=values["principal.name"],
        kinds=values.get("principal.idtype"),
        local=values.get("principal.localid.attributes", "client"),
    )


def _check_kinds(element: Element, findings: Findings, *, local_identities: bool, hub: bool | None) -> None:
    kinds = element.values.get("principal.idtype")
    if kinds is None:
        return
    where = f"{element.label}.idtype"
    if "local" in kinds and not local_identities:
        findings.unfit(where, '"local" without a [localid] domain', "that, or a domain in config.toml")
    if "local" not in kinds and "localid" in element.table:
        findings.unfit(
            f"{element.label}.localid", 'options of a local identity without "local" in idtype', "both"
        )
    if hub is False and {"device", "module"} & set(kinds):
        findings.unfit(where, '"device" or "module" with provisioning.source = "none"', '"local"')


def _require(element: Element, service: Service, names: Sequence[str], findings: Findings) -> None:
    for name in names:
        if name not in element.table:
            row = next(row for row in DROP_INS[service] if row.path == f"principal.{name}")
            findings.unfit(f"{element.label}.{name}", "nothing", row.allowed)


def _uid(element: Element, findings: Findings, lenient: bool) -> int | None:
    """None when there is none that could be used, which was told.

    ``lenient`` is for the last good configuration: a user who has gone since must not keep the device from
    starting. Then it is nobody's, rather than left out: its module stays in the set that is kept at the hub.
    """
    uid: int | str | None = element.values.get("principal.uid")
    return None if uid is None else _user(uid, f"{element.label}.uid", findings, lenient)


def control_principals(
    users: Sequence[int | str], where: str, findings: Findings, *, lenient: bool
) -> tuple[int, ...]:
    """Who may give commands on control.sock."""
    found = (_user(user, where, findings, lenient) for user in users)
    return tuple(sorted({uid for uid in found if uid is not None and uid != NO_USER}))


def _user(uid: int | str, where: str, findings: Findings, lenient: bool) -> int | None:
    if isinstance(uid, int):
        return uid
    try:
        return pwd.getpwnam(uid).pw_uid
    except (KeyError, OSError):
        if lenient:
            findings.note(where, f"{shown(uid)} is no user of this machine; nobody has its rights")
            return NO_USER
        fix = "a user of this machine" + ("; write a number without quotes" if uid.isdigit() else "")
        findings.unfit(where, f"{shown(uid)}, who is no user here", fix)
        return None
