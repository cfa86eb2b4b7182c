"""What the files say together: parsed TOML trees become a ``Configuration``, or a list of mistakes.

Each key is checked on its own in ``config_walk.py``; what depends on several is in ``config_provisioning.py``
and ``config_services.py``.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from adapters.config_findings import Findings
from adapters.config_grants import control_principals
from adapters.config_provisioning import provisioning
from adapters.config_rows_drop_ins import DROP_INS, SERVICES, UNREAD, Service
from adapters.config_rows_original import ORIGINAL
from adapters.config_rows_own import OWN
from adapters.config_services import Collected
from adapters.config_setting import ANY_ID, DEFAULTS
from adapters.config_settings import BY_PATH, NOT_READ_YET
from adapters.config_walk import NOT_YET, schema, walk
from statemachine.settings import Configuration

__all__ = ["NOT_YET", "DropInTree", "interpret"]

CONFIG = schema(
    (*ORIGINAL, *OWN),
    unread={
        **dict.fromkeys(NOT_READ_YET, ""),
        "cert_issuance.est": "not read; certificates over EST come later",
        "cert_issuance.local_ca.cert.auto_renew": "not read; only the device's own certificate is renewed",
        f"cert_issuance.{ANY_ID}": "not read here; a drop-in of certd has issuance by certificate id",
    },
)

CONTROL_PRINCIPALS = "identityd.control.principals"

OF_SERVICE = {
    service: schema(DROP_INS[service], unread=UNREAD[service], arrays=("principal",)) for service in SERVICES
}


class DropInTree(Struct, frozen=True, kw_only=True):
    """One drop-in, parsed."""

    service: Service
    path: str
    tree: dict[str, Any]


def interpret(
    tree: dict[str, Any],
    findings: Findings,
    drop_ins: Sequence[DropInTree] = (),
    *,
    lenient: bool = False,
) -> Configuration | None:
    """The configuration the files describe, or None with every mistake in ``findings``.

    ``drop_ins`` come in the order in which later ones count more. ``lenient``: users named in them may be
    gone.
    """
    values = walk(CONFIG, tree, findings)
    check_pairs(values, findings)
    source = provisioning(tree, values, findings)
    collected = Collected()
    collected.add_config(tree, values, findings)
    for drop_in in drop_ins:
        its_own = findings.of(drop_in.path)
        collected.add_drop_in(
            drop_in.service, walk(OF_SERVICE[drop_in.service], drop_in.tree, its_own), its_own
        )
    services = collected.finish(
        findings,
        provisioning=source,
        trust_bundle_id=values.get("dps_trust_bundle", DEFAULTS.trust_bundle_id),
        prefer_cache=values.get("prefer_module_identity_cache", DEFAULTS.identities.prefer_cache),
        lenient=lenient,
    )
    commanders = control_principals(
        values.get(CONTROL_PRINCIPALS, ()), CONTROL_PRINCIPALS, findings, lenient=lenient
    )
    if source is None or findings.lines:
        return None
    filled = _filled(values)
    return replace(
        filled,
        provisioning=source,
        keys=services.keys,
        certificates=services.certificates,
        identities=services.identities,
        control=replace(filled.control, principals=commanders),
    )


def _filled(values: dict[str, Any]) -> Configuration:
    """Those keys that fill a field by themselves."""
    parts: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for path, value in values.items():
        row = BY_PATH.get(path)
        part, dot, name = row.target.partition(".") if row is not None else ("", "", "")
        if dot:
            parts.setdefault(part, {})[name] = value
        elif part:
            top[part] = value
    built = {part: replace(getattr(DEFAULTS, part), **fields) for part, fields in parts.items()}
    return replace(DEFAULTS, **top, **built)


def check_pairs(values: dict[str, Any], findings: Findings) -> None:
    """Bounds of our own that must not cross."""
    for low_path, high_path, gap, words in (
        ("identityd.renewal.earliest_percent", "identityd.renewal.latest_percent", 1, "more than"),
        ("identityd.attempts.backoff_base_sec", "identityd.attempts.backoff_cap_sec", 0, "at least"),
    ):
        low: Any = values.get(low_path, BY_PATH[low_path].default)
        high: Any = values.get(high_path, BY_PATH[high_path].default)
        if high - low < gap:
            found, limit = (
                f"{value}" if path in values else f"{value}, the default"
                for path, value in ((high_path, high), (low_path, low))
            )
            findings.unfit(high_path, found, f"{words} {low_path.rpartition('.')[2]} ({limit})")
