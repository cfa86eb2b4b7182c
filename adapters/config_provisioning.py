"""What ``[provisioning]`` says as a whole: which keys must, and which may not, stand beside each other."""

from collections.abc import Iterable, Mapping
from typing import Any

from adapters.config_findings import Findings
from adapters.config_forms import MAX_COMMON_NAME_CHARS
from adapters.config_issuance import check_rule, rule_fields, rule_of
from adapters.config_setting import Setting
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
GLOBAL_ENDPOINT = f"{PROVISIONING}.global_endpoint"

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
    return _Reading(BY_PATH, values, findings).of(tree)


def check_provisioning(
    rows: Mapping[str, Setting], tree: dict[str, Any], values: dict[str, Any], findings: Findings
) -> None:
    """The same mistakes in a file that may also say what only the original can do.

    ``rows`` are those ``values`` were checked against.
    """
    _Reading(rows, values, findings, widely=True).of(tree)


class _Reading:
    """``rows`` say what is allowed where something is missing. ``widely``: as far as the original goes."""

    def __init__(
        self,
        rows: Mapping[str, Setting],
        values: dict[str, Any],
        findings: Findings,
        *,
        widely: bool = False,
    ) -> None:
        self._rows = rows
        self._values = values
        self._findings = findings
        self._widely = widely

    def of(self, tree: dict[str, Any]) -> Provisioning | None:
        gateway = self._gateway(tree)
        table = tree.get(PROVISIONING, {})
        if not isinstance(table, dict):
            return None
        self._require(table, PROVISIONING, "source")
        match self._values.get(SOURCE):
            case "none":
                return NoProvisioning()
            case "manual":
                self._only(table, PROVISIONING, ("source", *_MANUAL_KEYS), _DPS_KEYS, 'source "manual"')
                return self._manual(table, gateway)
            case "dps":
                self._only(table, PROVISIONING, ("source", *_DPS_KEYS), _MANUAL_KEYS, 'source "dps"')
                return self._dps(table)
        return None

    def _gateway(self, tree: dict[str, Any]) -> str | None:
        given = [name for name in GATEWAYS if name in tree]
        if len(given) == 2:
            self._findings.add(
                given[1], f"found beside {given[0]}, which means the same; allowed one of them"
            )
        if given and self._values.get(SOURCE) == "dps":
            self._findings.add(
                given[0], "DPS provisioning is not supported in nested mode; allowed without DPS only"
            )
        gateway: str | None = self._values.get(given[0]) if given else None
        return gateway

    # --- dps -----------------------------------------------------------------------------------------

    def _dps(self, table: dict[str, Any]) -> DpsProvisioning | None:
        for name in ("global_endpoint", "id_scope"):
            self._require(table, PROVISIONING, name)
        attestation = table.get("attestation", {})
        if not isinstance(attestation, dict):
            return None
        self._require(attestation, ATTESTATION, "method")
        source: Credential | None = None
        match self._values.get(f"{ATTESTATION}.method"):
            case "x509":
                self._only_method(attestation, ATTESTATION, ("registration_id", *_X509_KEYS))
                source = self._certificate(attestation, ATTESTATION)
                # The original's identityd takes it from the certificate once there is one.
                if isinstance(attestation.get("identity_cert"), dict) and not self._widely:
                    self._require(attestation, ATTESTATION, "registration_id")
            case "symmetric_key":
                self._only_method(attestation, ATTESTATION, ("registration_id", "symmetric_key"))
                self._require(attestation, ATTESTATION, "registration_id")
                source = self._symmetric_key(attestation, ATTESTATION, "symmetric_key")
            case "tpm":
                self._only_method(attestation, ATTESTATION, ("registration_id",))
                self._require(attestation, ATTESTATION, "registration_id")
        if source is None or self._findings.lines:
            return None
        return DpsProvisioning(
            global_endpoint=self._values[f"{PROVISIONING}.global_endpoint"],
            scope_id=self._values[f"{PROVISIONING}.id_scope"],
            registration_id=self._values.get(REGISTRATION_ID),
            attestation=source,
            payload_path=self._values.get(f"{PROVISIONING}.payload.uri"),
        )

    # --- manual --------------------------------------------------------------------------------------

    def _manual(self, table: dict[str, Any], gateway: str | None) -> ManualProvisioning | None:
        beside = [name for name in _LONG_FORM if name in table]
        if "connection_string" in table:
            # The original lets the connection string win; a person who wrote both deserves to know.
            for name in beside:
                self._findings.unfit(
                    f"{PROVISIONING}.{name}", "a key beside connection_string", f"{_TWO_FORMS}"
                )
            if CONNECTION_STRING not in self._values:
                return None
            hub, device_id, key = self._values[CONNECTION_STRING]
            source: Credential | None = SymmetricKeySource(value=key)
        else:
            if not beside:
                self._findings.unfit(CONNECTION_STRING, "nothing", _TWO_FORMS)
                return None
            for name in ("iothub_hostname", "device_id"):
                self._require(table, PROVISIONING, name)
            source = self._authentication(table.get("authentication", {}))
            hub, device_id = self._values.get(f"{PROVISIONING}.iothub_hostname"), self._values.get(DEVICE_ID)
        if source is None or hub is None or device_id is None:
            return None
        if isinstance(source, IssuedSource):
            if len(device_id) > MAX_COMMON_NAME_CHARS:
                allowed = f"at most {MAX_COMMON_NAME_CHARS} for an issued certificate, whose CN it becomes"
                self._findings.unfit(DEVICE_ID, f"{len(device_id)} characters", allowed)
            if source.auto_renew is not None:
                # As in the original (config-and-cli.md §4.4): the hub may know the certificate by thumbprint.
                self._findings.note(
                    f"{AUTHENTICATION}.identity_cert.auto_renew", "takes effect with DPS only"
                )
                source = IssuedSource(rule=source.rule)
        return ManualProvisioning(hub=hub, device_id=device_id, authentication=source, gateway=gateway)

    def _authentication(self, table: object) -> Credential | None:
        if not isinstance(table, dict):
            return None
        self._require(table, AUTHENTICATION, "method")
        match self._values.get(f"{AUTHENTICATION}.method"):
            case "sas":
                self._only_method(table, AUTHENTICATION, ("device_id_pk",))
                return self._symmetric_key(table, AUTHENTICATION, "device_id_pk")
            case "x509":
                self._only_method(table, AUTHENTICATION, _X509_KEYS)
                return self._certificate(table, AUTHENTICATION)
        return None

    # --- credentials ---------------------------------------------------------------------------------

    def _symmetric_key(self, table: dict[str, Any], at: str, name: str) -> SymmetricKeySource | None:
        path, key = f"{at}.{name}", table.get(name)
        if key is None or (isinstance(key, dict) and not {"value", "uri"} & key.keys()):
            self._findings.unfit(path, "nothing", TABLE_FORMS[path])
        elif isinstance(key, dict) and {"value", "uri"} <= key.keys():
            # The original lets value win; a person who wrote both deserves to know which key is in use.
            self._findings.unfit(path, "both value and uri", "one of them")
        else:
            value, place = self._values.get(f"{path}.value"), self._values.get(f"{path}.uri")
            if value is not None or place is not None:
                return SymmetricKeySource(value=value, path=place)
        return None

    def _certificate(self, table: dict[str, Any], at: str) -> X509Source | IssuedSource | None:
        path = f"{at}.identity_cert"
        self._require(table, at, "identity_cert")
        given = table.get("identity_cert")
        if isinstance(given, dict):
            check_rule(given, path, self._findings, allowed=self._rows[f"{path}.method"].allowed)
            if "identity_pk" in table:
                self._findings.note(
                    f"{at}.identity_pk", "not used: the key of a certificate to be issued is made here"
                )
            renewal = self._auto_renew(given, f"{path}.auto_renew")
            if f"{path}.method" not in self._values:
                return None
            return IssuedSource(rule=rule_of(rule_fields(self._values, path)), auto_renew=renewal)
        self._require(table, at, "identity_pk")
        certificate, key = self._values.get(path), self._values.get(f"{at}.identity_pk")
        if certificate is None or key is None:
            return None
        return X509Source(certificate_path=certificate, key_path=key)

    def _auto_renew(self, given: dict[str, Any], at: str) -> AutoRenew | None:
        table = given.get("auto_renew")
        if not isinstance(table, dict) or f"{at.rpartition('.')[0]}.method" not in self._values:
            return None
        names = ("rotate_key", "threshold", "retry")
        for name in names:
            self._require(table, at, name)
        if not all(f"{at}.{name}" in self._values for name in names):
            return None
        return AutoRenew(**{name: self._values[f"{at}.{name}"] for name in names})

    # --- which keys ----------------------------------------------------------------------------------

    def _require(self, table: dict[str, Any], at: str, name: str) -> None:
        if name not in table:
            path = f"{at}.{name}"
            self._findings.unfit(path, "nothing", self._rows[path].allowed)

    def _only_method(self, table: dict[str, Any], at: str, allowed: tuple[str, ...]) -> None:
        known = {p[len(at) + 1 :].partition(".")[0] for p in self._rows if p.startswith(f"{at}.")}
        self._only(table, at, ("method", *allowed), known, f'method "{table["method"]}"')

    def _only(
        self, table: dict[str, Any], at: str, allowed: tuple[str, ...], known: Iterable[str], owner: str
    ) -> None:
        """Keys in ``known`` that are not ``allowed`` belong to another ``owner``; the unknown were told."""
        for name in table:
            if name in known and name not in allowed:
                self._findings.unfit(f"{at}.{name}", f"a key that {owner} does not have", ", ".join(allowed))
