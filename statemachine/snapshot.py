"""Everything the next step may depend on. Frozen: a step makes a new one.

It holds no secret: chains and bundles are public, keys appear as generation numbers only.
"""

from typing import Literal

from msgspec import Struct, field

from statemachine.effects import AnyEffect
from statemachine.events import BundleFacts, ChainFacts
from statemachine.settings import ManualAssignment, PolicySettings
from statemachine.states import FailureClass, Phase, State, Timer


class Armed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One armed name."""

    name: Timer
    at_unix_ms: int
    "When it fires, as far as the wall clock can be believed."
    delay_ms: int | None = None
    "Set for a delay: the elapsed time that counts, whatever the wall clock says."


class Outstanding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An effect whose answer was not taken yet; performed again, under the same id, after a restart."""

    id: str
    effect: AnyEffect


class Problem(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Why something failed."""

    failure_class: FailureClass = field(name="class")
    code: str
    message: str
    tracking_id: str | None = None
    retry_after_ms: int | None = None


class Attempt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The attempt that is running."""

    number: int
    fingerprint: str
    "Configuration it was begun under; when that no longer matches, it is abandoned."
    manual: ManualAssignment | None = None
    "Set when the configuration is the assignment: DPS is not asked."
    started_unix_ms: int
    by_operator: bool = False
    "A person ordered it: certificate-less answers, a missing bundle and the budget are judged accordingly."
    with_csr: bool = True
    operation_id: str | None = None
    operation_unix_ms: int = 0
    polls: int = 0
    tries: int = 0
    "Repeats of the running phase: proofs, commits."
    submits: int = 0
    "Registrations (PUT) of this attempt."
    last_error: Problem | None = None


class Ended(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The latest attempt that ended."""

    number: int
    started_unix_ms: int
    ended_unix_ms: int
    error: Problem | None = None
    "None: it succeeded."
    manual: ManualAssignment | None = None
    "As in the attempt."


class StagedKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that waits for its certificate. It outlives a failed attempt: the next one uses it again."""

    generation: int
    spki_sha256: str
    algorithm: str
    common_name: str


class Candidate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What DPS or the configuration assigned, on its way to become current."""

    generation: int
    hub: str
    device_id: str
    assigned_unix_ms: int
    substatus: str | None = None
    certificate_type: str | None = None
    chain: ChainFacts | None = None
    bundle: BundleFacts | None = None
    bundle_id: str = ""
    keep_bundle: bool = False
    "The answer brought no bundle that could replace the stored one, and no reason to remove it."
    new_assignment: bool = False
    "DPS named another hub or device than before: hubs are late to accept those."
    proven: bool = False


class Assignment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the device belongs."""

    hub: str
    device_id: str
    fingerprint: str
    since_unix_ms: int = 0
    substatus: str | None = None
    certificate_type: str | None = None


class Credential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The credential in use for IoT Hub."""

    generation: int
    source: Literal["issued", "configured"]
    sha256: str = ""
    serial: str = ""
    spki_sha256: str = ""
    not_before_unix_ms: int = 0
    not_after_unix_ms: int = 0
    proven: bool = False
    committed_unix_ms: int = 0
    draw_ppm: int = 0
    "The one draw of this certificate: where in the window it is renewed."


class Bundle(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stored trust bundle."""

    id: str
    certificates: int
    sha256: str


class Superseded(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A generation that was current; its key stays until its certificate has ended."""

    generation: int
    keep_until_unix_ms: int


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Registrations without success."""

    spent: int = 0
    since_unix_ms: int = 0


class ClockTrust(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is believed of the wall clock."""

    trusted: bool = False
    reason: str = "not looked at yet"
    floor_unix_ms: int = 0
    "No true instant can be earlier: build date, and whatever was corroborated since."
    offset_ms: int = 0
    "True time minus our clock: the latest Date header over validated TLS, carried on through steps."
    measured: bool = False
    "A Date header said so since the clock was last in doubt; else the offset is a lower bound, or 0."

    at_least: bool = False
    "The offset is only the least it can be: nothing is known but an instant that has passed."
    moved_ms: int = 0
    "By how much a trusted clock was set since it was last confirmed, all steps together."

    @property
    def correction_ms(self) -> int:
        """What decisions add to a stamp. A trusted clock is believed as it is."""
        return 0 if self.trusted else self.offset_ms


class Refusals(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How often the hub refused the credential in use, and what was done about it."""

    count: int = 0
    first_unix_ms: int = 0
    driven_unix_ms: int = 0
    "When refusals last caused a reprovisioning; 0 for never."
    interval_ms: int = 0
    "Least time until they may do so again."


class Purge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The device was given up, and is being erased."""

    problem: Problem | None = None
    "Why the latest try failed."


class Snapshot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The machine, whole."""

    epoch: int = 1
    sequence: int = 0
    state: State = State.UNPROVISIONED
    phase: Phase = Phase.IDLE
    since_unix_ms: int = 0
    "When the state was entered."
    last_unix_ms: int = 0
    "Stamp of the latest event."
    software_version: str = ""
    rules_revision: int = 0
    policy: PolicySettings = PolicySettings()
    fingerprint: str = ""
    onboarding_not_after_unix_ms: int | None = None
    attempts: int = 0
    "Number of the latest attempt."
    attempt: Attempt | None = None
    ended: Ended | None = None
    staged: StagedKey | None = None
    candidate: Candidate | None = None
    assignment: Assignment | None = None
    credential: Credential | None = None
    bundle: Bundle | None = None
    bundle_problem: str | None = None
    "Why the latest bundle from the cloud could not be used."
    superseded: tuple[Superseded, ...] = ()
    module_keys_lost: str | None = None
    "Why the hub accepts other module keys than this device can make; None when nothing says so."
    module_keys_problem: Problem | None = None
    "Why the latest push of module keys failed."
    newest_generation: int = 0
    armed: tuple[Armed, ...] = ()
    outstanding: tuple[Outstanding, ...] = ()
    failures: int = 0
    "Attempts that failed in a row."
    budget: Budget = Budget()
    clock: ClockTrust = ClockTrust()
    refusals: Refusals = Refusals()
    reprovisioned_unix_ms: int = 0
    "When a reprovisioning last succeeded."
    hold: bool = False
    purge: Purge | None = None
    "Until all is erased; nothing that the stores still hold is believed."
    given_up: bool = False
    "Erased by an operator's word, until the hold that came with it is released. For people; decides nothing."
    foreign_machine: bool = False
    stopping: bool = False
    degraded: tuple[str, ...] = ()
    configuration_notes: tuple[str, ...] = ()
    "What is degraded until the next configuration."

    def armed_as(self, name: Timer) -> Armed | None:
        """The armed entry of that name, or None."""
        for armed in self.armed:
            if armed.name == name:
                return armed
        return None
