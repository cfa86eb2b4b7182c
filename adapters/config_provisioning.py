"""What ``[provisioning]`` says as a whole: which keys must, and which may not, stand beside each other."""

from collections.abc import Iterable
from typing import Any

from adapters.config_findings import Findings
from adapters.config_forms import MAX_COMMON_NAME_CHARS
from adapters.config_issuance import check_rule, rule_fields, rule_of
from adapters.config_rows_original import METHODS
from adapters.config_settings import BY_PATH
from adapters.config_walk import TABLE_FORMS
from statemachine.settings import (
    AutoRenew,
    DpsProvisioning,
    IssuedSource,
    ManualProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    X509Source,
)

PROVISIONING = "provisioning"
SOURCE = f"{PROVISIONING}.source"
CONNECTION_STRING = f"{PROVISIONING}.connection_string"
DEVICE_ID = f"{PROVISIONING}.device_id"
ATTESTATION = f"{PROVISIONING}.attestation"
AUTHENTICATION = f"{PROVISIONING}.authentication"
REGISTRATION_ID = f"{ATTESTATION}.registration_id"

GATEWAYS = ("local_gateway_hostname", "parent_hostname")

_DPS_KEYS = ("global_endpoint", "id_scope", "payload", "attestation")
_LONG_FORM = ("iothub_hostname", "device_id", "authentication")
_MANUAL_KEYS = ("connection_string", *_LONG_FORM)
_X509_KEYS = ("identity_cert", "identity_pk")

_TWO_FORMS = "connection_string, or iothub_hostname, device_id and authentication"

Credential = SymmetricKeySource | X509Source | IssuedSource
Provisioning = DpsProvisioning | ManualProvisioning | NoProvisioning


def provisioning(tree: dict[str, Any], values: dict[str, Any], findings: Findings) -> Provisioning | None:
    """None when something is missing or wrong, which ``findings`` then has."""
    gateway = _gateway(tree, values, findings)
    table = tree.get(PROVISIONING, {})
    if not isinstance(table, dict):
        return None
    if "source" not in table:
        findings.unfit(SOURCE, "nothing", BY_PATH[SOURCE].allowed)
    match values.get(SOURCE):
        case "none":
            return NoProvisioning()
        case "manual":
            _only(table, PROVISIONING, ("source", *_MANUAL_KEYS), _DPS_KEYS, 'source "manual"', findings)
            return _manual(table, values, gateway, findings)
        case "dps":
            _only(table, PROVISIONING, ("source", *_DPS_KEYS), _MANUAL_KEYS, 'source "dps"', findings)
            return _dps(table, values, findings)
    return None


def _gateway(tree: dict[str, Any], values: dict[str, Any], findings: Findings) -> str | None:
    given = [name for name in GATEWAYS if name in tree]
    if len(given) == 2:
        findings.add(given[1], f"found beside {given[0]}, which means the same; allowed one of them")
    if given and values.get(SOURCE) == "dps":
        findings.add(given[0], "DPS provisioning is not supported in nested mode; allowed without DPS only")
    gateway: str | None = values.get(given[0]) if given else None
    return gateway


# --- dps ---------------------------------------------------------------------------------------------


def _dps(table: dict[str, Any], values: dict[str, Any], findings: Findings) -> DpsProvisioning | None:
    for name in ("global_endpoint", "id_scope"):
        _require(table, PROVISIONING, name, findings)
    attestation = table.get("attestation", {})
    if not isinstance(attestation, dict):
        return None
    _require(attestation, ATTESTATION, "method", findings)
    source: Credential | None = None
    match values.get(f"{ATTESTATION}.method"):
        case "x509":
            _only_method(attestation, ATTESTATION, ("registration_id", *_X509_KEYS), findings)
            source = _certificate(attestation, ATTESTATION, values, findings)
            if isinstance(attestation.get("identity_cert"), dict):
                _require(attestation, ATTESTATION, "registration_id", findings)
        case "symmetric_key":
            _only_method(attestation, ATTESTATION, ("registration_id", "symmetric_key"), findings)
            _require(attestation, ATTESTATION, "registration_id", findings)
            source = _symmetric_key(attestation, ATTESTATION, "symmetric_key", values, findings)
    if source is None or findings.lines:
        return None
    return DpsProvisioning(
        global_endpoint=values[f"{PROVISIONING}.global_endpoint"],
        scope_id=values[f"{PROVISIONING}.id_scope"],
        registration_id=values.get(REGISTRATION_ID),
        attestation=source,
        payload_path=values.get(f"{PROVISIONING}.payload.uri"),
    )


# --- manual ------------------------------------------------------------------------------------------


def _manual(
    table: dict[str, Any], values: dict[str, Any], gateway: str | None, findings: Findings
) -> ManualProvisioning | None:
    beside = [name for name in _LONG_FORM if name in table]
    if "connection_string" in table:
        # The original lets the connection string win; a person who wrote both deserves to know.
        for name in beside:
            findings.unfit(f"{PROVISIONING}.{name}", "a key beside connection_string", f"{_TWO_FORMS}")
        if CONNECTION_STRING not in values:
            return None
        hub, device_id, key = values[CONNECTION_STRING]
        source: Credential | None = SymmetricKeySource(value=key)
    else:
        if not beside:
            findings.unfit(CONNECTION_STRING, "nothing", _TWO_FORMS)
            return None
        for name in ("iothub_hostname", "device_id"):
            _require(table, PROVISIONING, name, findings)
        source = _authentication(table.get("authentication", {}), values, findings)
        hub, device_id = values.get(f"{PROVISIONING}.iothub_hostname"), values.get(DEVICE_ID)
    if source is None or hub is None or device_id is None:
        return None
    if isinstance(source, IssuedSource):
        if len(device_id) > MAX_COMMON_NAME_CHARS:
            allowed = f"at most {MAX_COMMON_NAME_CHARS} for an issued certificate, whose CN it becomes"
            findings.unfit(DEVICE_ID, f"{len(device_id)} characters", allowed)
        if source.auto_renew is not None:
            # As in the original (config-and-cli.md §4.4): the hub may know the certificate by thumbprint.
            findings.note(f"{AUTHENTICATION}.identity_cert.auto_renew", "takes effect with DPS only")
            source = IssuedSource(rule=source.rule)
    return ManualProvisioning(hub=hub, device_id=device_id, authentication=source, gateway=gateway)


def _authentication(table: object, values: dict[str, Any], findings: Findings) -> Credential | None:
    if not isinstance(table, dict):
        return None
    _require(table, AUTHENTICATION, "method", findings)
    match values.get(f"{AUTHENTICATION}.method"):
        case "sas":
            _only_method(table, AUTHENTICATION, ("device_id_pk",), findings)
            return _symmetric_key(table, AUTHENTICATION, "device_id_pk", values, findings)
        case "x509":
            _only_method(table, AUTHENTICATION, _X509_KEYS, findings)
            return _certificate(table, AUTHENTICATION, values, findings)
    return None


# --- credentials -------------------------------------------------------------------------------------


def _symmetric_key(
    table: dict[str, Any], at: str, name: str, values: dict[str, Any], findings: Findings
) -> SymmetricKeySource | None:
    path, key = f"{at}.{name}", table.get(name)
    if key is None or (isinstance(key, dict) and not {"value", "uri"} & key.keys()):
        findings.unfit(path, "nothing", TABLE_FORMS[path])
    elif isinstance(key, dict) and {"value", "uri"} <= key.keys():
        # The original lets value win; a person who wrote both deserves to know which key is in use.
        findings.unfit(path, "both value and uri", "one of them")
    else:
        value, place = values.get(f"{path}.value"), values.get(f"{path}.uri")
        if value is not None or place is not None:
            return SymmetricKeySource(value=value, path=place)
    return None


def _certificate(
    table: dict[str, Any], at: str, values: dict[str, Any], findings: Findings
) -> X509Source | IssuedSource | None:
    path = f"{at}.identity_cert"
    _require(table, at, "identity_cert", findings)
    given = table.get("identity_cert")
    if isinstance(given, dict):
        check_rule(given, path, findings)
        if "identity_pk" in table:
            findings.note(f"{at}.identity_pk", "not used: the key of a certificate to be issued is made here")
        renewal = _auto_renew(given, f"{path}.auto_renew", values, findings)
        if f"{path}.method" not in values:
            return None
        return IssuedSource(rule=rule_of(rule_fields(values, path)), auto_renew=renewal)
    _require(table, at, "identity_pk", findings)
    certificate, key = values.get(path), values.get(f"{at}.identity_pk")
    if certificate is None or key is None:
        return None
    return X509Source(certificate_path=certificate, key_path=key)


def _auto_renew(
    given: dict[str, Any], at: str, values: dict[str, Any], findings: Findings
) -> AutoRenew | None:
    table = given.get("auto_renew")
    if not isinstance(table, dict) or given.get("method") not in METHODS:
        return None
    names = ("rotate_key", "threshold", "retry")
    for name in names:
        _require(table, at, name, findings)
    if not all(f"{at}.{name}" in values for name in names):
        return None
    return AutoRenew(**{name: values[f"{at}.{name}"] for name in names})


# --- which keys --------------------------------------------------------------------------------------


def _require(table: dict[str, Any], at: str, name: str, findings: Findings) -> None:
    if name not in table:
        path = f"{at}.{name}"
        findings.unfit(path, "nothing", BY_PATH[path].allowed)


def _only_method(table: dict[str, Any], at: str, allowed: tuple[str, ...], findings: Findings) -> None:
    known = {p[len(at) + 1 :].partition(".")[0] for p in BY_PATH if p.startswith(f"{at}.")}
    _only(table, at, ("method", *allowed), known, f'method "{table["method"]}"', findings)


def _only(
    table: dict[str, Any],
    at: str,
    allowed: tuple[str, ...],
    known: Iterable[str],
    owner: str,
    findings: Findings,
) -> None:
    """Keys in ``known`` that are not ``allowed`` belong to another ``owner``; the unknown were reported."""
    for name in table:
        if name in known and name not in allowed:
            findings.unfit(f"{at}.{name}", f"a key that {owner} does not have", ", ".join(allowed))
