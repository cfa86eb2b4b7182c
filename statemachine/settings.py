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


class MaintenanceWindow(Struct, frozen=True, forbid_unknown_fields=True):
    """A daily interval, UTC, in which renewals prefer to happen. It may cross midnight."""

    start_minute: int
    "Minutes after midnight UTC, 0 to 1439."
    duration_minutes: int
    "1 to 1440."


class PolicySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the machine needs to know of the configuration. No secrets, no paths."""

    dps: bool = True
    "False for provisioning sources that never talk to DPS (manual, none)."
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


class DpsProvisioning(Struct, frozen=True, kw_only=True):
    """``[provisioning] source = "dps"``."""

    global_endpoint: str
    "URL with scheme https, without a trailing slash; a port is kept."
    scope_id: str
    registration_id: str | None
    "None only for X.509, where the CN of the certificate says it."
    attestation: SymmetricKeySource | X509Source
    payload_path: str | None = None
    "A JSON file sent with every registration; read again each time."


class NoProvisioning(Struct, frozen=True, kw_only=True):
    """``[provisioning] source = "none"``: local identities only."""


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


class Configuration(Struct, frozen=True, kw_only=True):
    """Everything ``config.toml`` says, validated, defaults filled in."""

    provisioning: DpsProvisioning | NoProvisioning
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
