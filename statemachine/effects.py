"""Everything the machine can wish for.

An effect is data, never a call. It gets its id from its record: `epoch.sequence.index`. It is
performed at least once, so each says what a repeat does. An ``Asking`` effect stays in the
snapshot as outstanding until its answer was taken.
"""

from msgspec import Struct

from statemachine.states import Timer


class Effect(
    Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True, omit_defaults=True
):
    """Root of all effects."""


class Asking(Effect, frozen=True, kw_only=True):
    """Root of effects that must be answered."""


class ArmDeadline(Effect, frozen=True, kw_only=True, tag="arm-deadline"):
    """Post DeadlinePassed(name) at an instant of wall time. Arming a name replaces it."""

    name: Timer
    at_unix_ms: int


class ArmDelay(Effect, frozen=True, kw_only=True, tag="arm-delay"):
    """Post DeadlinePassed(name) after elapsed time, whatever the wall clock does meanwhile."""

    name: Timer
    delay_ms: int


class Disarm(Effect, frozen=True, kw_only=True, tag="disarm"):
    """Forget the name. Unknown names are fine."""

    name: Timer


class StopService(Effect, frozen=True, kw_only=True, tag="stop-service"):
    """Finish: no further event is taken."""


class StageKey(Asking, frozen=True, kw_only=True, tag="stage-key"):
    """Make the key of a new generation beside the current one, never over it.

    Answered by KeyStaged or KeyStageFailed. Repeating it finds the key that is there.
    """

    generation: int
    algorithm: str
    common_name: str
    "CN the CSR will ask for: the registration id."
    reuse_generation: int | None = None
    "Copy this generation's key instead of making a new one."


class SubmitRegistration(Asking, frozen=True, kw_only=True, tag="submit-registration"):
    """PUT the registration with the configured credential.

    Answered by RegistrationAccepted, RegistrationAssigned or RegistrationFailed.
    Repeating it registers again with the same key and CSR, which DPS allows.
    """

    attempt: int
    generation: int | None
    "The staged key whose CSR is sent; None registers without a CSR."
    spki_sha256: str = ""
    "Public key of that generation: the leaf of an answered chain is the certificate that carries it."
    clock_offset_ms: int = 0
    "Add this to our clock for the SAS expiry; learned from the Date header."


class PollRegistration(Asking, frozen=True, kw_only=True, tag="poll-registration"):
    """GET the operation.

    Answered by RegistrationPending, RegistrationAssigned or RegistrationFailed. A repeat only asks again.
    """

    attempt: int
    operation_id: str
    spki_sha256: str = ""
    clock_offset_ms: int = 0


class ProveCredential(Asking, frozen=True, kw_only=True, tag="prove-credential"):
    """Ask the hub, over a fresh connection, whether it accepts this credential.

    Answered by CredentialProven or CredentialProofFailed. A repeat only asks again.
    """

    generation: int
    hub: str
    device_id: str
    issued: bool = True
    "False proves the configured credential."
    chain_pem: bytes | None = None
    "The issued chain, leaf first; None takes the one committed with the generation."
    clock_offset_ms: int = 0


class CommitCredential(Asking, frozen=True, kw_only=True, tag="commit-credential"):
    """Make assignment, certificate, key and bundle current in one durable step.

    Answered by CredentialCommitted or CredentialCommitFailed. Repeating it with the generation
    that is already current changes nothing.
    """

    generation: int
    hub: str
    device_id: str
    fingerprint: str
    chain_pem: bytes | None
    "None commits a certificate-less assignment: issued certificate and key are no longer published."
    bundle_id: str
    bundle_pem: bytes | None = None
    "A new bundle; None leaves no bundle, unless keep_bundle."
    keep_bundle: bool = False
    "Carry the current generation's bundle over; bundle_pem is then None."
    substatus: str | None = None
    certificate_type: str | None = None


class RetireCredential(Asking, frozen=True, kw_only=True, tag="retire-credential"):
    """Remove every generation up to the newest named, staged ones included, except those to keep.

    Answered by CredentialRetired or CredentialRetireFailed. A repeat finds nothing left to do.
    The current generation is never removed, named or not.
    """

    keep: tuple[int, ...]
    newest: int | None = None
    """The newest there was when it was asked: it may be performed late, and touches nothing that was staged
    since. None in revision 1 of the rules: no bound."""


class PurgeCredentials(Asking, frozen=True, kw_only=True, tag="purge-credentials"):
    """Erase every generation with its key, what is published of them, and what is kept of modules.

    Answered by CredentialsPurged or CredentialsPurgeFailed. A repeat finds nothing left to do. Work of the
    store that was asked for before is done, or never will be, when the answer comes.
    """


class PushModuleKeys(Asking, frozen=True, kw_only=True, tag="push-module-keys"):
    """Give the hub the keys of this device's modules, made from the master key; a missing one is made first.

    Answered by ModuleKeysPushed or ModuleKeysPushFailed. A repeat pushes the same keys again.
    """


AnyEffect = (
    ArmDeadline
    | ArmDelay
    | Disarm
    | StopService
    | StageKey
    | SubmitRegistration
    | PollRegistration
    | ProveCredential
    | CommitCredential
    | RetireCredential
    | PurgeCredentials
    | PushModuleKeys
)

EFFECTS: tuple[type[Effect], ...] = AnyEffect.__args__


def effect_id(epoch: int, sequence: int, index: int) -> str:
    """Which record wished for it, and at which place: unique for the life of the device."""
    return f"{epoch}.{sequence}.{index}"
