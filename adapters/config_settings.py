"""Every key of ``config.toml`` this service reads: one row each, with its range and its meaning.

The rows are the one home of ranges: validation (``config_rules.py``) and the reference page are both
made from them. Defaults live in ``statemachine.settings`` and are looked up there.
"""

from typing import Any, Literal

from msgspec import Struct

from statemachine.settings import API_VERSIONS, KEY_ALGORITHMS, Configuration, NoProvisioning

Kind = Literal["integer", "text", "boolean", "list of text"]

DEFAULTS = Configuration(provisioning=NoProvisioning())

FILE_URI_FORM = "a file URI with an absolute path: file:///path"
FILE_FORM = "a file URI or an absolute path: file:///path or /path"


class Setting(Struct, frozen=True, kw_only=True):
    """One key."""

    path: str
    "Dotted key path in config.toml."
    kind: Kind
    meaning: str
    "One line for the reference page."
    target: str = ""
    "Dotted field of ``Configuration`` it fills; empty for keys that are assembled into ``provisioning``."
    unit: str = ""
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    form: str = ""
    "What is allowed, in words, where neither a range nor choices say it."
    secret: bool = False
    "The value may never be quoted."

    @property
    def default(self) -> int | str | bool | tuple[str, ...] | None:
        """The value used when the key is absent; None when there is no such value."""
        if not self.target:
            return None
        value: Any = DEFAULTS
        for name in self.target.split("."):
            value = getattr(value, name)
        default: int | str | bool | tuple[str, ...] | None = value
        return default

    @property
    def allowed(self) -> str:
        """The range in words: the text after "allowed" in an error, and in the reference page."""
        if self.kind == "boolean":
            return "true or false"
        if self.choices:
            return one_of(self.choices)
        if self.kind == "integer":
            return f"a whole number from {self.low} to {self.high}" + (f" ({self.unit})" if self.unit else "")
        return self.form


def one_of(words: tuple[str, ...]) -> str:
    """``"a", "b" or "c"``."""
    quoted = [f'"{word}"' for word in words]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]


SETTINGS: tuple[Setting, ...] = (
    Setting(
        path="hostname",
        kind="text",
        target="hostname",
        form="a host name of 1 to 253 letters, digits, '-', '_' and '.'",
        meaning="The name of this machine as other services see it; the system's own when absent.",
    ),
    Setting(
        path="dps_trust_bundle",
        kind="text",
        target="trust_bundle_id",
        form='a certificate id of 1 to 255 characters without "/", "*", "?" and control characters, '
        "not an id the service uses itself",
        meaning="Certificate id under which the trust bundle of DPS is saved; no effect without DPS.",
    ),
    Setting(
        path="cloud_timeout_sec",
        kind="integer",
        target="cloud_timeout_seconds",
        unit="seconds",
        low=1,
        high=3600,
        meaning="Bound of one HTTP exchange with DPS or IoT Hub, from connect to the last byte.",
    ),
    Setting(
        path="cloud_retries",
        kind="integer",
        target="cloud_retries",
        unit="extra tries",
        low=0,
        high=10,
        meaning="Extra tries of one HTTP exchange after a transport error.",
    ),
    Setting(
        path="provisioning.source",
        kind="text",
        choices=("dps", "none"),
        meaning='Where the identity comes from. Required. "none" keeps to local identities.',
    ),
    Setting(
        path="provisioning.global_endpoint",
        kind="text",
        form="a URL https://HOST or https://HOST:PORT",
        meaning="Address of the provisioning service; a path or query is dropped. Required for DPS.",
    ),
    Setting(
        path="provisioning.id_scope",
        kind="text",
        form="1 to 128 letters, digits, '-' and '_'",
        meaning="ID scope of the DPS instance. Required for DPS.",
    ),
    Setting(
        path="provisioning.payload.uri",
        kind="text",
        form=FILE_URI_FORM,
        meaning="A JSON file sent with every registration; read again each time.",
    ),
    Setting(
        path="provisioning.attestation.method",
        kind="text",
        choices=("symmetric_key", "x509"),
        meaning="How the device proves itself to DPS. Required for DPS.",
    ),
    Setting(
        path="provisioning.attestation.registration_id",
        kind="text",
        form="1 to 64 letters, digits, ':', '.', '_' and '-', the last one a letter, a digit or '-'",
        meaning="Registration ID, and the CN of the identity certificate. Required for symmetric_key; "
        "the CN of identity_cert when absent for x509.",
    ),
    Setting(
        path="provisioning.attestation.symmetric_key.value",
        kind="text",
        form="a key in standard base64, padding complete or absent, no spaces",
        secret=True,
        meaning="The symmetric key itself. This or symmetric_key.uri, for method symmetric_key.",
    ),
    Setting(
        path="provisioning.attestation.symmetric_key.uri",
        kind="text",
        form=FILE_URI_FORM,
        secret=True,  # what stands here by mistake is the key itself
        meaning="A file that holds the raw decoded bytes of the symmetric key.",
    ),
    Setting(
        path="provisioning.attestation.identity_cert",
        kind="text",
        form=FILE_FORM,
        meaning="The device certificate for DPS: a PEM file, leaf first. Required for x509.",
    ),
    Setting(
        path="provisioning.attestation.identity_pk",
        kind="text",
        form=FILE_FORM,
        meaning="The private key of identity_cert: a PEM file. Required for x509.",
    ),
    Setting(
        path="identityd.api_version",
        kind="text",
        target="api_version",
        choices=API_VERSIONS,
        meaning="The DPS device api-version spoken, and with it the names of the certificate fields.",
    ),
    Setting(
        path="identityd.when_config_is_broken",
        kind="text",
        target="when_config_is_broken",
        choices=("last-good", "refuse"),
        meaning="What a start does when config.toml is broken: use the last good one, or refuse to start.",
    ),
    Setting(
        path="identityd.keys.algorithm",
        kind="text",
        target="key_algorithm",
        choices=KEY_ALGORITHMS,
        meaning="Algorithm of the identity certificate's key; takes effect with the next new key.",
    ),
    Setting(
        path="identityd.renewal.earliest_percent",
        kind="integer",
        target="renewal_earliest_percent",
        unit="percent of the certificate's life",
        low=1,
        high=94,
        meaning="Renewal begins at a moment drawn once between earliest_percent and latest_percent.",
    ),
    Setting(
        path="identityd.renewal.latest_percent",
        kind="integer",
        target="renewal_latest_percent",
        unit="percent of the certificate's life",
        low=2,
        high=95,
        meaning="Upper bound of the draw; more than earliest_percent, or a fleet would renew in step.",
    ),
    Setting(
        path="identityd.renewal.rotate_key",
        kind="boolean",
        target="rotate_key",
        meaning="A fresh key for every renewal; false keeps the key and renews only the certificate.",
    ),
    Setting(
        path="identityd.renewal.maintenance_windows",
        kind="list of text",
        target="maintenance_windows",
        unit="times of day, UTC",
        form='at most 24 texts like "02:00-04:00", UTC, end not equal to start; "00:00-24:00" is all day',
        meaning="Daily intervals in which renewals prefer to happen; one may cross midnight.",
    ),
    Setting(
        path="identityd.attempts.timeout_sec",
        kind="integer",
        target="attempt_timeout_seconds",
        unit="seconds",
        low=1,
        high=3600,
        meaning="Overall deadline of one registration attempt.",
    ),
    Setting(
        path="identityd.attempts.backoff_base_sec",
        kind="integer",
        target="backoff_base_seconds",
        unit="seconds",
        low=1,
        high=3600,
        meaning="First wait after a failed attempt; it doubles with each further failure.",
    ),
    Setting(
        path="identityd.attempts.backoff_cap_sec",
        kind="integer",
        target="backoff_cap_seconds",
        unit="seconds",
        low=1,
        high=86_400,
        meaning="Longest wait between attempts; not below backoff_base_sec.",
    ),
    Setting(
        path="identityd.attempts.budget_registrations",
        kind="integer",
        target="budget_registrations",
        unit="registrations",
        low=10,
        high=10_000,
        meaning="At most this many registrations without success in budget_days; DPS bills each.",
    ),
    Setting(
        path="identityd.attempts.budget_days",
        kind="integer",
        target="budget_days",
        unit="days",
        low=1,
        high=365,
        meaning="The time budget_registrations counts over.",
    ),
    Setting(
        path="identityd.attempts.reissue_hours",
        kind="integer",
        target="reissue_hours",
        unit="hours",
        low=1,
        high=8760,
        meaning="How long after an assignment without certificate one is asked for again.",
    ),
    Setting(
        path="identityd.tls.ca_file",
        kind="text",
        target="tls.ca_file",
        form="an absolute path",
        meaning="PEM file of extra trust roots for DPS and IoT Hub, beside the system's.",
    ),
    Setting(
        path="identityd.journal.segment_bytes",
        kind="integer",
        target="journal.segment_bytes",
        unit="bytes",
        low=65_536,
        high=1_073_741_824,
        meaning="A journal file is closed and a new one begun when it reaches this size.",
    ),
    Setting(
        path="identityd.journal.keep_bytes",
        kind="integer",
        target="journal.keep_bytes",
        unit="bytes",
        low=0,
        high=1_099_511_627_776,
        meaning="Closed journal files are kept up to this size together, the newest first.",
    ),
    Setting(
        path="identityd.journal.when_damaged",
        kind="text",
        target="journal.when_damaged",
        choices=("new-epoch", "refuse"),
        meaning="What a start does with a damaged journal: set it aside and begin anew, or refuse.",
    ),
    Setting(
        path="identityd.limits.connections",
        kind="integer",
        target="limits.connections",
        unit="connections of one socket",
        low=1,
        high=1024,
        meaning="Open connections of one local socket.",
    ),
    Setting(
        path="identityd.limits.body_bytes",
        kind="integer",
        target="limits.body_bytes",
        unit="bytes",
        low=1024,
        high=16_777_216,
        meaning="Largest request body on a local socket.",
    ),
    Setting(
        path="identityd.limits.idle_sec",
        kind="integer",
        target="limits.idle_seconds",
        unit="seconds",
        low=1,
        high=3600,
        meaning="An idle connection of a local socket is closed after this time.",
    ),
    Setting(
        path="identityd.limits.head_sec",
        kind="integer",
        target="limits.head_seconds",
        unit="seconds",
        low=1,
        high=600,
        meaning="Time a client has to send a request head.",
    ),
    Setting(
        path="identityd.limits.body_sec",
        kind="integer",
        target="limits.body_seconds",
        unit="seconds",
        low=1,
        high=600,
        meaning="Time a client has to send a request body.",
    ),
)

BY_PATH = {setting.path: setting for setting in SETTINGS}

TABLES = {setting.path[:dot] for setting in SETTINGS for dot, c in enumerate(setting.path) if c == "."}
"Paths of the tables those keys live in."

NOT_READ_YET = frozenset(
    {
        # config-and-cli.md §4: keys of the original that this release accepts without a look inside.
        "aziot_keys",
        "aziot_max_requests",
        "cert_issuance",
        "endpoints",
        "local_gateway_hostname",
        "localid",
        "parent_hostname",
        "prefer_module_identity_cache",
        "preloaded_certs",
        "preloaded_keys",
        "tpm",
        # IoT Edge keeps its own keys in the same file.
        "agent",
        "allow_elevated_docker_permissions",
        "auto_reprovisioning_mode",
        "connect",
        "edge_ca",
        "image_garbage_collection",
        "imported_master_encryption_key",
        "listen",
        "manifest_trust_bundle_cert",
        "moby_runtime",
        "trust_bundle_cert",
        "watchdog",
    }
)
"Top-level keys whose content is accepted as it is."
