"""What people and programs are told about the machine: one object, `GET /v1/status`.

Field names are the control socket's; times are RFC 3339 UTC. Plain data, filled by explain.py.
"""

from typing import Literal

from msgspec import Struct, field


class LastError(Struct, frozen=True, kw_only=True):
    """Why the latest attempt failed, or what the running one last ran into."""

    failure_class: str = field(name="class")
    code: str
    message: str
    tracking_id: str | None = None
    retry_at: str | None = None


class AttemptStatus(Struct, frozen=True, kw_only=True):
    """The running attempt, or the latest one."""

    number: int
    started: str | None = None
    last_error: LastError | None = None


class AssignmentStatus(Struct, frozen=True, kw_only=True):
    hub: str
    device_id: str


class CredentialStatus(Struct, frozen=True, kw_only=True):
    """The credential in use for IoT Hub."""

    source: Literal["issued", "configured"]
    certificate_id: str | None = None
    sha256: str | None = None
    serial: str | None = None
    not_before: str | None = None
    not_after: str | None = None
    generation: int
    proven: bool


class OnboardingStatus(Struct, frozen=True, kw_only=True):
    """The configured credential, the only way back to DPS."""

    method: str
    not_after: str | None = None


class ClockStatus(Struct, frozen=True, kw_only=True):
    trusted: bool
    reason: str


class TrustBundleStatus(Struct, frozen=True, kw_only=True):
    id: str
    certificates: int
    sha256: str


class NextStatus(Struct, frozen=True, kw_only=True):
    """What happens next without anybody's help, and when; ``at`` is None when it waits for an answer."""

    what: str
    at: str | None = None


class Status(Struct, frozen=True, kw_only=True):
    """The whole answer."""

    state: str
    phase: str
    since: str
    sequence: int
    stuck: bool
    "Operator help is needed; `reason` says why."
    degraded: tuple[str, ...]
    "What this service had to work around, empty when nothing."
    reason: str
    next: NextStatus | None
    attempt: AttemptStatus | None
    assignment: AssignmentStatus | None
    credential: CredentialStatus | None
    onboarding: OnboardingStatus
    clock: ClockStatus
    trust_bundle: TrustBundleStatus | None
    version: str
