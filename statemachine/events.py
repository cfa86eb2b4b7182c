"""Everything that can happen to the machine.

An event is a fact that has happened. It carries no time: the runtime stamps it when it is taken.
Chance enters here and nowhere else: ``draw_ppm`` is drawn by the runtime when it stamps the event,
so that a replay sees the very same draw. Tags are written out: renaming a class keeps old journals readable.
"""

from typing import Literal

from msgspec import Struct, field

from statemachine.settings import PolicySettings
from statemachine.states import FailureClass, Timer


class Event(
    Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True, omit_defaults=True
):
    """Root of all events."""

    draw_ppm: int = 0
    "Uniform in 0 to 999 999, drawn when the event is stamped. The only chance a decision may use."


class Answer(Event, frozen=True, kw_only=True):
    """Root of events that answer an effect."""

    answers: str
    "Id of the effect, `epoch.sequence.index`. An answer to anything not outstanding changes nothing."
    server_date_unix_ms: int | None = None
    "The peer's Date header when it came over validated TLS: it corroborates our clock."


class Failure(Answer, frozen=True, kw_only=True):
    """Root of the answers that say no."""

    failure_class: FailureClass = field(name="class")
    "What to do about it."
    code: str
    "Why: short, kebab-case, stable, for example `dps-429`."
    message: str = ""
    "For people; bounded, without secrets."
    retry_after_ms: int | None = None
    "The peer's Retry-After."
    tracking_id: str | None = None
    "The cloud's tracking id, what its support asks for."


# --- facts carried by events -------------------------------------------------------------------------


class ChainFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An issued chain as the adapter read it. The adapter parses and orders; guards judge."""

    chain_pem: bytes
    "Leaf first, each issued by the next; order already repaired where it could be."
    intact: bool = True
    "False when it cannot be put into issuing order."
    spki_sha256: str
    "Hex SHA-256 of the leaf's SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7)."
    subject_cn: str
    is_ca: bool = False
    "basicConstraints of the leaf say CA."
    not_before_unix_ms: int
    not_after_unix_ms: int
    sha256: str
    "Hex SHA-256 of the leaf's DER."
    serial: str
    "Hex, without leading zeros."


class BundleFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trust bundle as the adapter read it; certificates in the cloud's order."""

    bundle_pem: bytes
    certificates: int
    sha256: str
    "Hex SHA-256 of bundle_pem."


class StoredCredential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the credential store holds as current, read back from disk and checked.

    ``source`` issued means certificate and key are there and match.
    """

    generation: int
    source: Literal["issued", "configured"]
    hub: str
    device_id: str
    fingerprint: str
    "Configuration fingerprint the assignment was obtained under."
    substatus: str | None = None
    certificate_type: str | None = None
    sha256: str = ""
    serial: str = ""
    spki_sha256: str = ""
    not_before_unix_ms: int = 0
    not_after_unix_ms: int = 0
    bundle_id: str | None = None
    bundle_certificates: int = 0
    bundle_sha256: str = ""


class Inventory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the stores hold at start."""

    current: StoredCredential | None = None
    problem: str | None = None
    "Why `current` is None although something is there: damaged, half missing, not matching."
    newest_generation: int = 0
    "Highest generation number on disk, staged ones included: the next stage uses a higher one."


# --- timers ------------------------------------------------------------------------------------------


class DeadlinePassed(Event, frozen=True, kw_only=True, tag="deadline-passed"):
    """An armed instant was reached, or an armed delay ran out."""

    name: Timer


# --- commands ----------------------------------------------------------------------------------------


class ReprovisionRequested(Event, frozen=True, kw_only=True, tag="reprovision-requested"):
    """Somebody asked for registration from the start."""

    uid: int
    "Peer uid of the caller; -1 when the service itself asks."
    privileged: bool = True
    "Root, the service's own uid, or a principal named for it: repeats are honoured at once."


class RenewRequested(Event, frozen=True, kw_only=True, tag="renew-requested"):
    """Somebody asked for a new certificate now."""

    uid: int


class HoldRequested(Event, frozen=True, kw_only=True, tag="hold-requested"):
    """Stop (or resume) attempts; service goes on."""

    hold: bool
    uid: int


class PurgeRequested(Event, frozen=True, kw_only=True, tag="purge-requested"):
    """The device is given up: erase whatever identifies it to the cloud, and begin nothing."""

    uid: int


class ModuleKeysRequested(Event, frozen=True, kw_only=True, tag="module-keys-requested"):
    """Somebody asked for the hub to be given this device's module keys."""

    uid: int


class ConfigurationChanged(Event, frozen=True, kw_only=True, tag="configuration-changed"):
    """A new configuration was read and is valid."""

    policy: PolicySettings
    fingerprint: str
    "SHA-256 over who we are to DPS: endpoint, scope, registration id, attestation, dialect."
    configuration_notes: tuple[str, ...] = ()
    "What reading it had to work around; replaces what was noted before."
    onboarding_not_after_unix_ms: int | None = None
    "Expiry of the configured X.509 credential; None for a symmetric key."


class ShutdownRequested(Event, frozen=True, kw_only=True, tag="shutdown-requested"):
    """A signal or a command asked the service to stop."""

    reason: str = ""


# --- observations ------------------------------------------------------------------------------------


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """The process started: everything from outside that decisions need."""

    policy: PolicySettings
    fingerprint: str
    inventory: Inventory
    build_unix_ms: int
    "Build date of this release: no clock can truly be earlier."
    rules_revision: int
    software_version: str
    kernel_synchronised: bool = False
    "The kernel says that something disciplines its clock (adjtimex, STA_UNSYNC clear)."
    foreign_machine: bool = False
    "The journal was written on another machine: register nothing until the operator confirms."
    degraded: tuple[str, ...] = ()
    "What this start had to work around in journal and stores."
    configuration_notes: tuple[str, ...] = ()
    "What it had to work around in the configuration: the last good one in use, an unreadable credential."
    onboarding_not_after_unix_ms: int | None = None
    "Expiry of the configured X.509 credential; None for a symmetric key."


class ClockObserved(Event, frozen=True, kw_only=True, tag="clock-observed"):
    """The clock was set, or something confirmed it."""

    kernel_synchronised: bool
    jump_ms: int = 0
    "How far wall time moved against elapsed time since the last look."


class HubRefusedCredential(Event, frozen=True, kw_only=True, tag="hub-refused-credential"):
    """The hub refused the credential in use (401, 404001, or a TLS certificate alert)."""

    generation: int
    code: str


class CredentialLost(Event, frozen=True, kw_only=True, tag="credential-lost"):
    """What the store held as current is gone or damaged."""

    generation: int
    reason: str


class ModuleKeysLost(Event, frozen=True, kw_only=True, tag="module-keys-lost"):
    """The master key is missing while modules are known: no key that the hub accepts can be made for them.

    Told once is enough: it stays known, over restarts too, until the hub was given new keys.
    """

    reason: str
    "For people, bounded, for example which file is missing."


class HookEnded(Event, frozen=True, kw_only=True, tag="hook-ended"):
    """Somebody's hook on a renewal, a reprovisioning or a move has run, or could not."""

    hook: Literal["renewal", "reprovision", "moved"]
    outcome: Literal["done", "failed", "timeout", "refused"]
    message: str = ""
    "For people; bounded, without what the hook printed."


class RulesChanged(Event, frozen=True, kw_only=True, tag="rules-changed"):
    """From here on another revision of the rules decides (an upgrade)."""

    before: int
    after: int


# --- answers -----------------------------------------------------------------------------------------


class KeyStaged(Answer, frozen=True, kw_only=True, tag="key-staged"):
    """A key (and its CSR) lies beside the current one."""

    generation: int
    spki_sha256: str


class KeyStageFailed(Failure, frozen=True, kw_only=True, tag="key-stage-failed"):
    """No key could be stored."""


class RegistrationAccepted(Answer, frozen=True, kw_only=True, tag="registration-accepted"):
    """DPS took the registration and named its operation."""

    operation_id: str
    retry_after_ms: int | None = None


class RegistrationPending(Answer, frozen=True, kw_only=True, tag="registration-pending"):
    """DPS is still at it (assigning, unassigned)."""

    retry_after_ms: int | None = None


class RegistrationAssigned(Answer, frozen=True, kw_only=True, tag="registration-assigned"):
    """DPS finished the operation and named a hub."""

    assigned_hub: str
    "Host name without scheme; a port is kept when the cloud names one."
    device_id: str
    substatus: str | None = None
    certificate_type: str | None = None
    "deviceCertificateIssuanceSettings.certificateType, where the dialect has it."
    chain: ChainFacts | None = None
    "None when no certificate was issued."
    bundle: BundleFacts | None = None
    "None when absent, empty, or unreadable."
    bundle_problem: str | None = None
    "Why a bundle that came could not be used; never a reason to fail the credential."
    bundle_spoken: bool = True
    "False when the dialect has no trust bundles: their absence then says nothing."


class RegistrationFailed(Failure, frozen=True, kw_only=True, tag="registration-failed"):
    """DPS said no, or could not be asked. `csr-not-configured` is the code for a refused CSR."""

    unsent: bool = False
    "No connection came about, so DPS saw nothing of the request: being offline costs no budget."


class CredentialProven(Answer, frozen=True, kw_only=True, tag="credential-proven"):
    """The hub accepted the credential: any answer but a refusal."""

    generation: int


class CredentialProofFailed(Failure, frozen=True, kw_only=True, tag="credential-proof-failed"):
    """The hub refused the credential, or could not be asked."""

    generation: int
    refused: bool
    "True only for 401, 404001 and TLS certificate alerts; False for anything else."


class CredentialCommitted(Answer, frozen=True, kw_only=True, tag="credential-committed"):
    """The pointer was flipped and is durable."""

    generation: int


class CredentialCommitFailed(Failure, frozen=True, kw_only=True, tag="credential-commit-failed"):
    """Nothing was flipped; what was current still is."""


class CredentialRetired(Answer, frozen=True, kw_only=True, tag="credential-retired"):
    """Superseded or staged generations are gone, or marked to go."""


class CredentialRetireFailed(Failure, frozen=True, kw_only=True, tag="credential-retire-failed"):
    """They could not be removed now; orphans are collected at the next start."""


class CredentialsPurged(Answer, frozen=True, kw_only=True, tag="credentials-purged"):
    """Nothing is left of what the cloud gave this device."""


class CredentialsPurgeFailed(Failure, frozen=True, kw_only=True, tag="credentials-purge-failed"):
    """Something could not be erased now."""


class ModuleKeysPushed(Answer, frozen=True, kw_only=True, tag="module-keys-pushed"):
    """The hub accepts the keys derived from the master key on disk."""

    modules: int
    "How many modules got theirs; 0 when the device has none."


class ModuleKeysPushFailed(Failure, frozen=True, kw_only=True, tag="module-keys-push-failed"):
    """Not every module has its key; those that have it keep it, and a repeat goes over all of them again."""


AnyEvent = (
    DeadlinePassed
    | ReprovisionRequested
    | RenewRequested
    | HoldRequested
    | PurgeRequested
    | ModuleKeysRequested
    | ConfigurationChanged
    | ShutdownRequested
    | Started
    | ClockObserved
    | HubRefusedCredential
    | CredentialLost
    | ModuleKeysLost
    | HookEnded
    | RulesChanged
    | KeyStaged
    | KeyStageFailed
    | RegistrationAccepted
    | RegistrationPending
    | RegistrationAssigned
    | RegistrationFailed
    | CredentialProven
    | CredentialProofFailed
    | CredentialCommitted
    | CredentialCommitFailed
    | CredentialRetired
    | CredentialRetireFailed
    | CredentialsPurged
    | CredentialsPurgeFailed
    | ModuleKeysPushed
    | ModuleKeysPushFailed
)

EVENTS: tuple[type[Event], ...] = AnyEvent.__args__


def tag_of(event: type[Struct] | Struct) -> str:
    """The tag an event, effect or signal is filed under in the journal."""
    return str(event.__struct_config__.tag)
