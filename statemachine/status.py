"""What people and programs are told about the machine: one object, `GET /v1/status`.

Field names are the control socket's; times are RFC 3339 UTC. Plain data, filled by explain.py.
"""

from typing import Literal

from msgspec import Struct, field


class LastError(Struct, frozen=True, kw_only=True):
    """Why the latest attempt failed, or what the running one last ran into."""

    failure_class: str = field(name="class")
    "What is done about it: retry, wait, operator, new_key, reregister or clock."
    code: str
    "Why, stable and short."
    message: str
    "Why, for people."
    tracking_id: str | None = None
    "The cloud's, for its support."
    retry_at: str | None = None
    "When it is tried again."


class AttemptStatus(Struct, frozen=True, kw_only=True):
    """The running attempt, or the latest one."""

    number: int
    "Counts up for the life of the device."
    started: str | None = None
    "When it began."
    last_error: LastError | None = None
    "None when it succeeded, or nothing went wrong so far."


class AssignmentStatus(Struct, frozen=True, kw_only=True):
    """Where DPS, or the configuration, put the device."""

    hub: str
    "Host name of the IoT hub, with a port when the cloud named one."
    device_id: str
    "Name of the device there."


class CredentialStatus(Struct, frozen=True, kw_only=True):
    """The credential in use for IoT Hub."""

    source: Literal["issued", "configured"]
    "`issued` by DPS, or the `configured` one: the cloud issues none, or the configuration is the assignment."
    certificate_id: str | None = None
    "Under which certd serves it."
    sha256: str | None = None
    "Hex, of the certificate's DER."
    serial: str | None = None
    "Hex."
    not_before: str | None = None
    "When it begins."
    not_after: str | None = None
    "When it ends."
    generation: int
    "Number of the directory that holds it."
    proven: bool
    "The hub has accepted it."


class OnboardingStatus(Struct, frozen=True, kw_only=True):
    """Where the assignment comes from, and the configured credential: the only way back to it."""

    source: Literal["dps", "manual", "none"] = "dps"
    "`dps` asks DPS, `manual` takes the configuration's own word, `none` leaves the device without a hub."
    method: str
    "`symmetric_key`, `x509` or `none`."
    not_after: str | None = None
    "When an X.509 one ends."


class ClockStatus(Struct, frozen=True, kw_only=True):
    """What is believed of the device's clock."""

    trusted: bool
    "Only a trusted clock may declare anything expired."
    reason: str
    "Why, or why not."


class TrustBundleStatus(Struct, frozen=True, kw_only=True):
    """The CA certificates the cloud sent."""

    id: str
    "Under which certd serves it."
    certificates: int
    "How many."
    sha256: str
    "Hex, of the PEM text."


class NextStatus(Struct, frozen=True, kw_only=True):
    """What happens next without anybody's help, and when; ``at`` is None when it waits for an answer."""

    what: str
    "In words."
    at: str | None = None
    "When."


class RenewalStatus(Struct, frozen=True, kw_only=True):
    """When the issued certificate in use is to be renewed."""

    opens: str
    "The renewal window begins."
    due: str
    "The certificate's own drawn instant inside it."
    closes: str
    "The renewal window ends."


class Status(Struct, frozen=True, kw_only=True):
    """The whole answer."""

    state: str
    "Unprovisioned, Registering, Provisioned, CertExpiring, Renewing or Reprovisioning."
    phase: str
    "Idle, or how far the running attempt is."
    since: str
    "When the state was entered."
    sequence: int
    "Of the latest record."
    stuck: bool
    "Operator help is needed; `reason` says why."
    hold: bool = False
    "No attempt begins before `identityd release`."
    degraded: tuple[str, ...]
    "What this service had to work around, empty when nothing."
    reason: str
    "What is true and why, in words."
    next: NextStatus | None
    "None when nothing happens without somebody's help."
    attempt: AttemptStatus | None
    "None before the first."
    assignment: AssignmentStatus | None
    "None before the first."
    credential: CredentialStatus | None
    "None when there is none."
    renewal: RenewalStatus | None = None
    "None when no issued certificate is in use."
    onboarding: OnboardingStatus
    "The configured credential."
    clock: ClockStatus
    "The device's clock."
    trust_bundle: TrustBundleStatus | None
    "None when the cloud sent none."
    version: str
    "Of this software."
