"""Settings as typed values, without reading any file.

Two families live here. ``PolicySettings`` is what decisions need; it holds no secret and travels
inside ``Started`` and ``ConfigurationChanged``, so that a replay knows what was configured.
``Configuration`` is the whole of ``config.toml`` after validation; it never leaves the adapters.
"""

from typing import Literal

from msgspec import Struct, field

API_VERSIONS = ("2021-11-01-preview", "2025-07-01-preview", "2026-11-01")
"DPS device api-versions that accept a CSR; the wire shapes are rows in adapters/wire/dps.py."

KEY_ALGORITHMS = ("ec-p256", "rsa-2048", "rsa-3072", "rsa-4096")

ApiVersion = Literal["2021-11-01-preview", "2025-07-01-preview", "2026-11-01"]
KeyAlgorithm = Literal["ec-p256", "rsa-2048", "rsa-3072", "rsa-4096"]

DEFAULT_TRUST_BUNDLE_ID = "aziot-dps-trust-bundle"
IDENTITY_CERTIFICATE_ID = "aziot-dps-identity-cert"
IDENTITY_KEY_ID = "aziot-dps-identity-cert-key"
DEFAULT_WORKLOAD_BUNDLE_ID = "aziot-edged-trust-bundle"
DEFAULT_MANIFEST_BUNDLE_ID = "aziot-edged-manifest-trust-bundle"
DEVICE_ID = "device-id"
"Key, key pair and certificate of the configured credential, whatever its kind (config-and-cli.md §5.1)."
DEVICE_TEMPORARY_ID = "device-id-temp"
"Its successor while it is being renewed."
MASTER_KEY_ID = "aziot_identityd_master_id"
"Module keys are derived from it (cloud.md §3.3)."
HANDLE_KEY_ID = "handle-validation-key"
"Authenticates key handles (services.md §5.4)."


class MaintenanceWindow(Struct, frozen=True, forbid_unknown_fields=True):
    """A daily interval, UTC, in which renewals prefer to happen. It may cross midnight."""

    start_minute: int
    "Minutes after midnight UTC, 0 to 1439."
    duration_minutes: int
    "1 to 1440."


class ManualAssignment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ``[provisioning] source = "manual"`` says the device belongs."""

    hub: str
    "Host name of the hub; a port is kept."
    device_id: str


class PolicySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the machine needs to know of the configuration. No secrets, no paths."""

    dps: bool = True
    "False for provisioning sources that never talk to DPS (manual, none)."
    manual: ManualAssignment | None = None
    "The assignment, when the configuration names it instead of DPS; ``dps`` is then False."
    registration_id: str = ""
    "Also the CN asked for in every CSR."
    endpoint: str = ""
    "Global DPS endpoint, scheme included."
    scope_id: str = ""
    attestation: Literal["symmetric_key", "x509", "none"] = "none"
    api_version: str = "2021-11-01-preview"
    trust_bundle_id: str = DEFAULT_TRUST_BUNDLE_ID
    key_algorithm: KeyAlgorithm = "ec-p256"
    rotate_key: bool = True
    "A fresh key for every renewal; False keeps the key and renews only the certificate."
    renewal_earliest_percent: int = 70
    renewal_latest_percent: int = 90
    "Bounds of the one uniform draw, in percent of the certificate's life."
    maintenance_windows: tuple[MaintenanceWindow, ...] = ()
    attempt_timeout_ms: int = 300_000
    "Overall deadline of one registration attempt, from its PUT to its final answer."
    backoff_base_ms: int = 2_000
    backoff_cap_ms: int = 900_000
    budget_registrations: int = 200
    budget_window_ms: int = 30 * 86_400_000
    "At most this many registrations (PUTs) without success in this much time."
    reissue_interval_ms: int = 86_400_000
    "How long after a certificate-less assignment issuance is asked for again."


class SymmetricKeySource(Struct, frozen=True, kw_only=True):
    """Where the DPS symmetric key comes from: exactly one member is set."""

    value: bytes | None = None
    "The decoded key. Secret: never printed, journalled or compared in messages."
    path: str | None = None
    "Absolute path of a file that holds the raw decoded key bytes."

    def __repr__(self) -> str:
        where = self.path if self.path is not None else "<inline>"
        return f"SymmetricKeySource({where})"


class X509Source(Struct, frozen=True, kw_only=True):
    """The configured X.509 credential: two PEM files."""

    certificate_path: str
    key_path: str


class AutoRenew(Struct, frozen=True, kw_only=True):
    """When a configured certificate that was issued here is renewed (cloud.md §5)."""

    rotate_key: bool = True
    threshold: str = "80%"
    "Renewal policy string: `<n>%` of the life elapsed, or `<n>min` or `<n>day` before the end."
    retry: str = "4%"


class IssuanceRule(Struct, frozen=True, kw_only=True):
    """How a certificate is issued on this device: one entry of ``[cert_issuance]``."""

    method: Literal["self_signed", "local_ca"]
    expiry_days: int = 30
    common_name: str | None = None
    "With ``subject``: overrides the subject of the CSR; at most one of the two."
    subject: tuple[tuple[str, str], ...] = ()
    "Short attribute names and values, sorted by name."
    allow_ca: bool = False
    "Whether a CSR may ask for CA:TRUE."


class IssuedSource(Struct, frozen=True, kw_only=True):
    """A configured X.509 credential that certd issues: ``identity_cert`` is a table."""

    rule: IssuanceRule
    auto_renew: AutoRenew | None = None
    "None: it is never renewed."


class DpsProvisioning(Struct, frozen=True, kw_only=True):
    """``[provisioning] source = "dps"``."""

    global_endpoint: str
    "URL with scheme https, without a trailing slash; a port is kept."
    scope_id: str
    registration_id: str | None
    "None only for X.509, where the CN of the certificate says it."
    attestation: SymmetricKeySource | X509Source | IssuedSource
    payload_path: str | None = None
    "A JSON file sent with every registration; read again each time."


class ManualProvisioning(Struct, frozen=True, kw_only=True):
    """``[provisioning] source = "manual"``: the configuration is the assignment."""

    hub: str
    "Host name of the hub; a port is kept."
    device_id: str
    authentication: SymmetricKeySource | X509Source | IssuedSource
    gateway: str | None = None
    "``local_gateway_hostname``: the parent that hub requests go to instead of the hub."


class NoProvisioning(Struct, frozen=True, kw_only=True):
    """``[provisioning] source = "none"``: local identities only."""


def credential_of(
    provisioning: DpsProvisioning | ManualProvisioning | NoProvisioning | None,
) -> SymmetricKeySource | X509Source | IssuedSource | None:
    """What the configuration proves the device with, whatever the source; None without one."""
    match provisioning:
        case DpsProvisioning():
            return provisioning.attestation
        case ManualProvisioning():
            return provisioning.authentication
        case _:
            return None


class TlsSettings(Struct, frozen=True, kw_only=True):
    """``[identityd.tls]``."""

    ca_file: str | None = None
    "Extra trust roots for DPS and IoT Hub, beside the system's."


class JournalSettings(Struct, frozen=True, kw_only=True):
    """``[identityd.journal]``."""

    segment_bytes: int = 1_048_576
    "A journal file is closed and a new one begun with a checkpoint when it reaches this size."
    keep_bytes: int = 8_388_608
    "Closed journal files are kept up to this size together, the newest first."
    when_damaged: Literal["new-epoch", "refuse"] = "new-epoch"


class LimitSettings(Struct, frozen=True, kw_only=True):
    """``[identityd.limits]``: bounds of the local sockets."""

    connections: int = 64
    "Open connections of one socket."
    body_bytes: int = 1_048_576
    idle_seconds: int = 60
    head_seconds: int = 5
    body_seconds: int = 5
    when_busy: Literal["close", "503"] = "close"
    "What a request over the limit of its uid gets: the original's silent close, or 503 with Retry-After."


class KeyGrant(Struct, frozen=True, kw_only=True):
    """One ``[[principal]]`` of keyd: who may name which keys."""

    uid: int
    keys: tuple[str, ...]
    "Patterns: `*` any run of characters, `?` exactly one."


class CertificateGrant(Struct, frozen=True, kw_only=True):
    """One ``[[principal]]`` of certd: who may write which certificates."""

    uid: int
    certs: tuple[str, ...]
    "Patterns: `*` any run of characters, `?` exactly one."


class KeySettings(Struct, frozen=True, kw_only=True):
    """What keyd needs."""

    preloaded: dict[str, str] = {}
    "Key id to absolute path; the only place of that id."
    grants: tuple[KeyGrant, ...] = ()


class LocalCa(Struct, frozen=True, kw_only=True):
    """``[cert_issuance.local_ca]``: ids of certificate and key pair."""

    certificate_id: str
    key_id: str


class CertificateSettings(Struct, frozen=True, kw_only=True):
    """What certd needs."""

    preloaded: dict[str, str | tuple[str, ...]] = {}
    "Certificate id to absolute path, or to a list of ids that are read one after another."
    rules: dict[str, IssuanceRule] = {}
    "By certificate id."
    local_ca: LocalCa | None = None
    grants: tuple[CertificateGrant, ...] = ()


IdentityKind = Literal["device", "module", "local"]
LocalAttributes = Literal["client", "server"]


class IdentityPrincipal(Struct, frozen=True, kw_only=True):
    """One ``[[principal]]`` of identityd (services.md §3.1)."""

    uid: int
    name: str
    kinds: tuple[IdentityKind, ...] | None = None
    "None: the daemon, which may do everything."
    local: LocalAttributes = "client"
    "Extended key usage of its local identity; `server` includes `client`."


class IdentitySettings(Struct, frozen=True, kw_only=True):
    """What identityd needs beside provisioning."""

    principals: tuple[IdentityPrincipal, ...] = ()
    local_domain: str | None = None
    "``[localid] domain``: suffix of the CN of local identities."
    prefer_cache: bool = False
    "``prefer_module_identity_cache``: answer module reads from the cache first."

    @property
    def modules(self) -> tuple[str, ...]:
        """Names that are to exist as modules on the hub."""
        return tuple(p.name for p in self.principals if p.kinds is not None and "module" in p.kinds)


class ControlSettings(Struct, frozen=True, kw_only=True):
    """``[identityd.control]``."""

    principals: tuple[int, ...] = ()
    "Users who may give commands on control.sock, beside root and the service's own."


class RequestLimits(Struct, frozen=True, kw_only=True):
    """``[aziot_max_requests]``: requests of one uid in flight on one socket."""

    keyd: int = 10
    certd: int = 10
    identityd: int = 10
    workload: int = 10


class HookSettings(Struct, frozen=True, kw_only=True):
    """``[identityd.hooks]``: a command for each kind; None runs none."""

    renewal: str | None = None
    reprovision: str | None = None
    moved: str | None = None
    timeout_seconds: int = 60


LogFormat = Literal["logfmt", "json"]
LogLevel = Literal["error", "warn", "info", "debug"]


class LogSettings(Struct, frozen=True, kw_only=True):
    """``[identityd.log]``: how the service writes to standard error."""

    format: LogFormat = "logfmt"
    level: LogLevel = "info"


class Configuration(Struct, frozen=True, kw_only=True):
    """Everything ``config.toml`` says, validated, defaults filled in."""

    provisioning: DpsProvisioning | ManualProvisioning | NoProvisioning
    hostname: str | None = None
    trust_bundle_id: str = DEFAULT_TRUST_BUNDLE_ID
    cloud_timeout_seconds: int = 10
    "Bound of one HTTP exchange, connect to last body byte."
    cloud_retries: int = 1
    "Extra tries of one HTTP exchange after a transport error."
    api_version: ApiVersion = "2021-11-01-preview"
    key_algorithm: KeyAlgorithm = "ec-p256"
    rotate_key: bool = True
    renewal_earliest_percent: int = 70
    renewal_latest_percent: int = 90
    maintenance_windows: tuple[MaintenanceWindow, ...] = ()
    attempt_timeout_seconds: int = 300
    backoff_base_seconds: int = 2
    backoff_cap_seconds: int = 900
    budget_registrations: int = 200
    budget_days: int = 30
    reissue_hours: int = 24
    when_config_is_broken: Literal["last-good", "refuse"] = "last-good"
    tls: TlsSettings = field(default_factory=TlsSettings)
    journal: JournalSettings = field(default_factory=JournalSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    keys: KeySettings = field(default_factory=KeySettings)
    certificates: CertificateSettings = field(default_factory=CertificateSettings)
    identities: IdentitySettings = field(default_factory=IdentitySettings)
    requests: RequestLimits = field(default_factory=RequestLimits)
    control: ControlSettings = field(default_factory=ControlSettings)
    hooks: HookSettings = field(default_factory=HookSettings)
    log: LogSettings = field(default_factory=LogSettings)
    workload_bundle_id: str = DEFAULT_WORKLOAD_BUNDLE_ID
    "Certificate id of the locally configured trust bundle, which workload.sock serves first."
    manifest_bundle_id: str = DEFAULT_MANIFEST_BUNDLE_ID
    trust_store_allow: tuple[str, ...] = ()
    "Hex SHA-256 of certificates that `trust-bundle install` may put into the system's store; empty: all."
