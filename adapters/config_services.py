"""What certd, keyd and identityd need: ``config.toml`` first, then the drop-ins over it, then the whole.

The original merges raw trees and only then looks (config-and-cli.md §2), so its errors name no file. Here
each file is checked on its own, what passed is merged by the same rules, and what spans files is told of the
file that said it last.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from adapters.config_findings import Findings, name_shown
from adapters.config_grants import certificate_grants, key_grants, principals
from adapters.config_issuance import check_rule, rule_fields, rule_of
from adapters.config_rows_drop_ins import Service
from adapters.config_setting import ANY_ID, Setting, one_of
from adapters.config_settings import BY_PATH
from adapters.config_walk import Element
from statemachine.settings import (
    DEFAULT_MANIFEST_BUNDLE_ID,
    DEFAULT_WORKLOAD_BUNDLE_ID,
    DEVICE_ID,
    HANDLE_KEY_ID,
    IDENTITY_CERTIFICATE_ID,
    IDENTITY_KEY_ID,
    MASTER_KEY_ID,
    CertificateSettings,
    DpsProvisioning,
    IdentitySettings,
    IssuedSource,
    KeySettings,
    LocalCa,
    ManualProvisioning,
    NoProvisioning,
    X509Source,
    credential_of,
)

LOCAL_CA = "cert_issuance.local_ca"
LOCAL_CA_ID = "local-ca"
"Certificate, key and rule of a local CA that config.toml describes (config-and-cli.md §5.1)."
USER_BUNDLE_ID = "trust-bundle-user"
EDGE_CA_ID = "aziot-edged-ca"
"What IoT Edge's own tool makes of trust_bundle_cert (services.md §7.2)."

MAX_BUNDLE = 1000
"Certificates of one list, its lists' included: what reading it costs."

_OWN_KEYS = {
    IDENTITY_KEY_ID: "the key of the certificate that DPS issues",
    MASTER_KEY_ID: "module keys are derived from it",
    HANDLE_KEY_ID: "it authenticates key handles",
}


class Services(Struct, frozen=True, kw_only=True):
    keys: KeySettings
    certificates: CertificateSettings
    identities: IdentitySettings


class Collected:
    """What the files say so far; each entry with the findings of the file that said it last."""

    def __init__(self, rows: Mapping[str, Setting] = BY_PATH) -> None:
        """``rows`` are those that the values of ``config.toml`` were checked against."""
        self._rows = rows
        self.keys: dict[str, tuple[str, Findings]] = {}
        self.certificates: dict[str, tuple[str | tuple[str, ...], Findings]] = {}
        self.rules: dict[str, tuple[dict[str, Any], Findings]] = {}
        self.methods: set[str] = set()
        "Ids whose rule names a method in a drop-in, rightly or not."
        self.local_ca: dict[str, tuple[str, Findings]] = {}
        self.local_ca_meant = False
        "Whether any file speaks of one, rightly or not."
        self.domain: str | None = None
        self.principals: dict[Service, list[tuple[Element, Findings]]] = {}

    # --- config.toml ---------------------------------------------------------------------------------

    def add_config(self, tree: Mapping[str, Any], values: Mapping[str, Any], findings: Findings) -> None:
        self._add_lists(values, findings)
        if "trust_bundle_cert" in values:
            self._generate_certificate(USER_BUNDLE_ID, values["trust_bundle_cert"], findings)
            self._generate_certificate(DEFAULT_WORKLOAD_BUNDLE_ID, (EDGE_CA_ID, USER_BUNDLE_ID), findings)
        if "manifest_trust_bundle_cert" in values:
            path = values["manifest_trust_bundle_cert"]
            self._generate_certificate(DEFAULT_MANIFEST_BUNDLE_ID, path, findings)
        issuance = tree.get("cert_issuance")
        table = issuance.get("local_ca") if isinstance(issuance, dict) else None
        if table is not None:
            self.local_ca_meant = True
        if isinstance(table, dict):
            self._add_local_ca(table, values, findings)

    def _add_local_ca(self, table: dict[str, Any], values: Mapping[str, Any], findings: Findings) -> None:
        at, given = f"{LOCAL_CA}.cert", table.get("cert")
        self.local_ca = {"cert": (LOCAL_CA_ID, findings), "pk": (LOCAL_CA_ID, findings)}
        if isinstance(given, dict):
            check_rule(given, at, findings, allowed=self._rows[f"{at}.method"].allowed)
            if "pk" in table:
                findings.note(
                    f"{LOCAL_CA}.pk", "not used: the key of a certificate to be issued is made here"
                )
            self.rules[LOCAL_CA_ID] = (rule_fields(values, at) | {"allow_ca": True}, findings)
            return
        for name in ("cert", "pk"):
            if name not in table:
                findings.unfit(f"{LOCAL_CA}.{name}", "nothing", self._rows[f"{LOCAL_CA}.{name}"].allowed)
        if at in values:
            self._generate_certificate(LOCAL_CA_ID, values[at], findings)
        if f"{LOCAL_CA}.pk" in values:
            if LOCAL_CA_ID in self.keys:
                findings.note(f"preloaded_keys.{LOCAL_CA_ID}", f"replaced by {LOCAL_CA}.pk")
            self.keys[LOCAL_CA_ID] = (values[f"{LOCAL_CA}.pk"], findings)

    def _generate_certificate(
        self, certificate_id: str, value: str | tuple[str, ...], findings: Findings
    ) -> None:
        """config-and-cli.md §5.1: generated entries replace the operator's of the same id."""
        if certificate_id in self.certificates:
            findings.note(f"preloaded_certs.{certificate_id}", "replaced by what other keys say of it")
        self.certificates[certificate_id] = (value, findings)

    # --- drop-ins ------------------------------------------------------------------------------------

    def add_drop_in(self, service: Service, values: Mapping[str, Any], findings: Findings) -> None:
        self._add_lists(values, findings)
        elements: list[Element] = values.get("principal", [])
        self.principals.setdefault(service, []).extend((element, findings) for element in elements)
        for certificate_id, names in values.get(f"cert_issuance.{ANY_ID}", {}).items():
            if "method" in names:
                self.methods.add(certificate_id)
            self._add_rule(
                certificate_id, rule_fields(values, f"cert_issuance.{ANY_ID}", certificate_id), findings
            )
        for name in ("cert", "pk"):
            if f"{LOCAL_CA}.{name}" in values:
                self.local_ca[name] = (values[f"{LOCAL_CA}.{name}"], findings)
                self.local_ca_meant = True

    def _add_rule(self, certificate_id: str, fields: dict[str, Any], findings: Findings) -> None:
        before, _ = self.rules.get(certificate_id, ({}, findings))
        if "subject" in before and "subject" in fields:
            fields["subject"] = before["subject"] | fields["subject"]
        self.rules[certificate_id] = (before | fields, findings)

    def _add_lists(self, values: Mapping[str, Any], findings: Findings) -> None:
        """What has the same form in both kinds of file."""
        self.domain = values.get("localid.domain", self.domain)
        for key_id, path in values.get(f"preloaded_keys.{ANY_ID}", {}).items():
            self.keys[key_id] = (path, findings)
        for certificate_id, value in values.get(f"preloaded_certs.{ANY_ID}", {}).items():
            before, _ = self.certificates.get(certificate_id, ("", findings))
            if isinstance(before, tuple) and isinstance(value, tuple):
                value = (*before, *value)
            self.certificates[certificate_id] = (value, findings)

    # --- the whole -----------------------------------------------------------------------------------

    def finish(
        self,
        findings: Findings,
        *,
        provisioning: DpsProvisioning | ManualProvisioning | NoProvisioning | None,
        trust_bundle_id: str,
        prefer_cache: bool,
        lenient: bool,
    ) -> Services:
        """``findings`` are those of ``config.toml``; usable only when nothing was found wrong."""
        own = {
            IDENTITY_CERTIFICATE_ID: "the certificate that DPS issues",
            trust_bundle_id: "the trust bundle of DPS",
        }
        self._refuse_own(own)
        self._check_bundles()
        self._check_rules(provisioning, findings)
        self._note_replaced(provisioning)
        for name in ("cert", "pk"):
            if self.local_ca and name not in self.local_ca:
                _, last = next(iter(self.local_ca.values()))
                last.unfit(f"{LOCAL_CA}.{name}", "nothing", "an id; both cert and pk are needed")
        local_ca = None
        if self.local_ca.keys() == {"cert", "pk"}:
            local_ca = LocalCa(certificate_id=self.local_ca["cert"][0], key_id=self.local_ca["pk"][0])
        return Services(
            keys=KeySettings(
                preloaded={key_id: path for key_id, (path, _) in self.keys.items()},
                grants=key_grants(self.principals.get("keyd", []), lenient=lenient),
            ),
            certificates=CertificateSettings(
                preloaded={name: value for name, (value, _) in self.certificates.items()},
                rules={name: rule_of(rule) for name, (rule, _) in self.rules.items() if "method" in rule},
                local_ca=local_ca,
                grants=certificate_grants(self.principals.get("certd", []), lenient=lenient),
            ),
            identities=IdentitySettings(
                principals=principals(
                    self.principals.get("identityd", []),
                    local_identities=self.domain is not None,
                    hub=None if provisioning is None else not isinstance(provisioning, NoProvisioning),
                    lenient=lenient,
                ),
                local_domain=self.domain,
                prefer_cache=prefer_cache,
            ),
        )

    def _refuse_own(self, certificates: Mapping[str, str]) -> None:
        """Redirecting one of these would take it from the machine (design §4; config-and-cli.md §13.7)."""
        for key_id, (_, findings) in self.keys.items():
            _refuse(f"preloaded_keys.{name_shown(key_id)}", _OWN_KEYS.get(key_id), findings)
        for certificate_id, (_, findings) in self.certificates.items():
            _refuse(
                f"preloaded_certs.{name_shown(certificate_id)}", certificates.get(certificate_id), findings
            )
        for certificate_id, (_, findings) in self.rules.items():
            _refuse(f"cert_issuance.{name_shown(certificate_id)}", certificates.get(certificate_id), findings)
        for name, reasons in (("cert", certificates), ("pk", _OWN_KEYS)):
            if name in self.local_ca:
                own_id, findings = self.local_ca[name]
                _refuse(f"{LOCAL_CA}.{name}", reasons.get(own_id), findings)

    def _check_rules(
        self, provisioning: DpsProvisioning | ManualProvisioning | NoProvisioning | None, findings: Findings
    ) -> None:
        ca_id = self.local_ca["cert"][0] if "cert" in self.local_ca else None
        for certificate_id, (rule, said_by) in self.rules.items():
            label = f"cert_issuance.{name_shown(certificate_id)}"
            if "method" not in rule:
                if certificate_id != LOCAL_CA_ID and certificate_id not in self.methods:
                    said_by.unfit(f"{label}.method", "nothing", one_of(("self_signed", "local_ca")))
            elif rule["method"] == "local_ca" and certificate_id == ca_id:
                said_by.unfit(f"{label}.method", '"local_ca" for the CA itself', '"self_signed"')
            elif rule["method"] == "local_ca" and not self.local_ca_meant:
                said_by.add(f"{label}.method", NO_LOCAL_CA)
            if "common_name" in rule and "subject" in rule:
                said_by.note(label, "has both common_name and subject; common_name counts")
        source = credential_of(provisioning)
        if isinstance(source, IssuedSource) and source.rule.method == "local_ca" and not self.local_ca_meant:
            table = "attestation" if isinstance(provisioning, DpsProvisioning) else "authentication"
            findings.add(f"provisioning.{table}.identity_cert.method", NO_LOCAL_CA)

    def _note_replaced(
        self, provisioning: DpsProvisioning | ManualProvisioning | NoProvisioning | None
    ) -> None:
        source = credential_of(provisioning)
        if source is None or isinstance(source, IssuedSource):
            return
        if DEVICE_ID in self.keys:
            self.keys[DEVICE_ID][1].note(
                f"preloaded_keys.{DEVICE_ID}", "replaced by the configured credential"
            )
        if DEVICE_ID in self.certificates and isinstance(source, X509Source):
            findings = self.certificates[DEVICE_ID][1]
            findings.note(f"preloaded_certs.{DEVICE_ID}", "replaced by the configured credential")

    def _check_bundles(self) -> None:
        """Lists of lists are followed when they are read: they must end, and not in a million certificates.

        Without recursion: a chain may be as long as its files allow.
        """
        sizes: dict[str, int] = {}
        for start in self.certificates:
            path: dict[str, None] = {}
            waiting = [start]
            while waiting:
                name = waiting[-1]
                members = self._members(name)
                if name in sizes or not members:
                    sizes.setdefault(name, 1)
                    waiting.pop()
                elif name in path:
                    sizes[name] = self._size(name, [sizes[member] for member in members])
                    del path[name]
                    waiting.pop()
                else:
                    path[name] = None
                    back = next((member for member in members if member in path), None)
                    if back is not None:
                        names = list(path)
                        self._tell_cycle([*names[names.index(back) :], back])
                        return
                    waiting += [member for member in members if member not in sizes]

    def _size(self, certificate_id: str, parts: list[int]) -> int:
        size = min(sum(parts), MAX_BUNDLE + 1)
        if size > MAX_BUNDLE >= max(parts):
            findings = self.certificates[certificate_id][1]
            label = f"preloaded_certs.{name_shown(certificate_id)}"
            found = "a list of too many certificates, those of its lists counted"
            findings.unfit(label, found, f"at most {MAX_BUNDLE}")
        return size

    def _members(self, certificate_id: str) -> tuple[str, ...]:
        value, _ = self.certificates.get(certificate_id, ("", None))
        return value if isinstance(value, tuple) else ()

    def _tell_cycle(self, names: list[str]) -> None:
        told = [name_shown(name) for name in names]
        if len(told) > 6:
            told = [*told[:3], "…", *told[-2:]]
        self.certificates[names[0]][1].unfit(
            f"preloaded_certs.{name_shown(names[0])}",
            f"a list that leads back to itself: {', '.join(name[:60] for name in told)}",
            "lists that end in certificates",
        )


NO_LOCAL_CA = 'found "local_ca"; allowed with a CA in cert_issuance.local_ca, which is not there'


def _refuse(where: str, reason: str | None, findings: Findings) -> None:
    if reason is not None:
        findings.unfit(where, f"an id the service uses itself ({reason})", "another id")
