"""What became of a configuration that was read again: which keys changed, and when each takes effect.

The fields of two ``Configuration``s are compared, not their texts: a key that is written out with its default
has not changed. No value is told, since any of them may be a secret.
"""

from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from adapters.config_findings import name_shown
from adapters.config_settings import SETTINGS
from statemachine.settings import Configuration, IssuedSource, X509Source

TakesEffect = Literal["now", "next", "restart", "reprovision"]

FIELDS: dict[str, TakesEffect] = {
    "provisioning": "next",
    "hostname": "now",
    "trust_bundle_id": "next",
    "cloud_timeout_seconds": "now",
    "cloud_retries": "now",
    "api_version": "next",
    "key_algorithm": "next",
    "rotate_key": "next",
    "renewal_earliest_percent": "now",
    "renewal_latest_percent": "now",
    "maintenance_windows": "now",
    "attempt_timeout_seconds": "next",
    "backoff_base_seconds": "now",
    "backoff_cap_seconds": "now",
    "budget_registrations": "now",
    "budget_days": "now",
    "reissue_hours": "now",
    "when_config_is_broken": "now",
    "tls": "now",
    "keys": "now",
    "certificates": "now",
    "identities": "now",
    "workload_bundle_id": "now",
    "manifest_bundle_id": "now",
    "trust_store_allow": "now",
    "control": "now",
    "log": "now",
    "hooks": "now",
}
"Fields of Configuration that a reload replaces. All others are looked at once, when the service starts."

IDENTITY = frozenset({"provisioning", "api_version"})
"Fields that say who the device is; when that is another one, they are why it registers again."
KEYS: dict[str, TakesEffect] = {"provisioning.payload.uri": "next", "local_gateway_hostname": "now"}
"Keys beside them in those fields that do not."

_NAMES: dict[str, str] = {
    "provisioning.global_endpoint": "provisioning.global_endpoint",
    "provisioning.scope_id": "provisioning.id_scope",
    "provisioning.registration_id": "provisioning.attestation.registration_id",
    "provisioning.payload_path": "provisioning.payload.uri",
    "provisioning.hub": "provisioning.iothub_hostname",
    "provisioning.device_id": "provisioning.device_id",
    "provisioning.gateway": "local_gateway_hostname",
    "certificates.local_ca": "cert_issuance.local_ca",
    "keys.grants": "principal (keyd)",
    "certificates.grants": "principal (certd)",
    "identities.principals": "principal (identityd)",
}
"Of fields that no single row fills."
_BY_ID: dict[str, str] = {
    "keys.preloaded": "preloaded_keys",
    "certificates.preloaded": "preloaded_certs",
    "certificates.rules": "cert_issuance",
}
"Of fields that hold a value for each id."
_SYMMETRIC: dict[str, str] = {
    "provisioning.attestation": "symmetric_key",
    "provisioning.authentication": "device_id_pk",
}
_BY_FIELD = {setting.target: setting.path for setting in SETTINGS if setting.target}
_BY_FIELD |= {
    field: setting.path
    for setting in reversed(SETTINGS)
    for field in setting.fills
    if field not in _NAMES and field not in _BY_ID
}


def changes(
    before: Configuration, after: Configuration, *, started: Configuration, another: bool
) -> dict[str, TakesEffect]:
    """Keys that are not what they were in ``before``, by name; a field of several keys has one of them.

    ``started`` is what the service was started with: a key that only a start looks at is told for as long as
    the file and the running service differ. ``another``: the device is somebody else to the cloud now.
    """
    found: dict[str, TakesEffect] = {}
    for field in after.__struct_fields__:
        effect = FIELDS.get(field, "restart")
        old = getattr(started if effect == "restart" else before, field)
        if another and field in IDENTITY:
            effect = "reprovision"
        for key in _differing(field, old, getattr(after, field)):
            found[key] = KEYS.get(key, effect)
    return dict(sorted(found.items()))


def _differing(path: str, old: Any, new: Any) -> Iterator[str]:  # noqa: ANN401 - any field
    """Names of the keys below the field ``path`` whose values differ."""
    if old == new:
        return
    if path in _BY_ID:
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                yield f"{_BY_ID[path]}.{name_shown(key)}"
    elif path in _SYMMETRIC:
        yield from _credential(path, old, new)
    elif path == "provisioning" and type(old) is not type(new):
        yield "provisioning.source"
    elif path in _BY_FIELD or path in _NAMES:
        yield _BY_FIELD.get(path) or _NAMES[path]
    elif isinstance(old, Struct) and type(old) is type(new):
        for field in old.__struct_fields__:
            yield from _differing(f"{path}.{field}", getattr(old, field), getattr(new, field))
    else:
        yield path


def _credential(path: str, old: Struct, new: Struct) -> Iterator[str]:
    if type(old) is not type(new):
        yield f"{path}.method"
    elif isinstance(old, X509Source) and isinstance(new, X509Source):
        if old.certificate_path != new.certificate_path:
            yield f"{path}.identity_cert"
        if old.key_path != new.key_path:
            yield f"{path}.identity_pk"
    else:
        yield f"{path}.identity_cert" if isinstance(new, IssuedSource) else f"{path}.{_SYMMETRIC[path]}"
