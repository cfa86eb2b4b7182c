"""A device's life as its journal has it: states, certificates, attempts, outages, and when nobody served.

Only what records say is put together; nothing is decided again, so that a journal that does not replay has a
history too. Instants are the device's own stamps. A clock that was set ends a *section*: what was before and
what came after have no common axis.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

from msgspec import Struct, field, structs

from adapters.errors import bounded
from statemachine.effects import CommitCredential, SubmitRegistration
from statemachine.events import (
    AnyEvent,
    ChainFacts,
    ClockObserved,
    ConfigurationChanged,
    CredentialCommitted,
    CredentialLost,
    CredentialProofFailed,
    CredentialProven,
    DeadlinePassed,
    Failure,
    HubRefusedCredential,
    ModuleKeysPushed,
    ModuleKeysPushFailed,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
    ShutdownRequested,
    Started,
    StoredCredential,
)
from statemachine.journal import Record
from statemachine.policy import renew_at, window_opens
from statemachine.settings import PolicySettings
from statemachine.snapshot import Snapshot
from statemachine.states import Phase

SECTION_MS = 3_600_000
"A clock set by more than this, either way, begins a section."

_LOOK_BACK = 8

SERIAL_CHARS, NAME_CHARS = 64, 40
"A journal's words are quoted, never trusted to be short."

NOT_REACHED = frozenset({"unreachable", "timeout"})
"Codes of failures that say that nobody answered."

Kind = Literal["registration", "renewal", "reprovisioning"]
Result = Literal["succeeded", "failed", "abandoned", "running"]

_KINDS: dict[str, Kind] = {"Renewing": "renewal", "Reprovisioning": "reprovisioning"}
_IDLE = Phase.IDLE.value


class Stretch(Struct, kw_only=True):
    """From when to when something was so."""

    what: str
    sequence: int
    "Of the record that began it."
    from_unix_ms: int
    until_unix_ms: int | None = None
    "None: it still was so at the end."


class Certificate(Struct, kw_only=True):
    """An issued one, while it was in use."""

    generation: int
    serial: str
    sequence: int
    "Of the record that made it current."
    begins_unix_ms: int
    ends_unix_ms: int
    from_unix_ms: int
    until_unix_ms: int | None = None
    "None: it still was in use at the end."
    draw_ppm: int
    opens_unix_ms: int | None = None
    "Of its renewal window. None when no record that is kept has the settings."
    due_unix_ms: int | None = None
    "The drawn instant of its renewal."
    closes_unix_ms: int | None = None


class Mishap(Struct, frozen=True, kw_only=True):
    """One answer that said no."""

    sequence: int
    at_unix_ms: int
    failure_class: str
    code: str
    message: str
    tracking_id: str | None = None


class Attempt(Struct, kw_only=True):
    """One attempt to obtain a credential."""

    kind: Kind
    sequence: int
    number: int | None = None
    "None as long as DPS was not asked."
    from_unix_ms: int
    until_unix_ms: int | None = None
    result: Result = "running"
    why: str = ""
    "Of the record that ended it."
    phases: list[Stretch] = field(default_factory=list)
    mishaps: list[Mishap] = field(default_factory=list)
    committed: int | None = None
    "The generation that it made current."
    carried: bool = False
    "It began in the section before."


class Section(Struct, kw_only=True):
    """What one clock measured, without being set."""

    clock_moved_ms: int = 0
    "By how much it was set at the beginning of this section."
    from_unix_ms: int
    until_unix_ms: int
    "The last stamp."
    states: list[Stretch] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    outages: list[Stretch] = field(default_factory=list)
    "`what` is who was not reached."
    down: list[Stretch] = field(default_factory=list)
    "The service did not run; `what` says how it had ended."


T = TypeVar("T", Stretch, Certificate, Attempt)


class Historian:
    """Records in order become sections."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.policy: PolicySettings | None = None
        self.device = ""
        self.hub = ""
        self.records = 0
        self.starts = 0
        self.last_sequence = 0
        self._phase = _IDLE
        self._chain: ChainFacts | None = None
        "What DPS issued last."
        self._issued: dict[int, bool] = {}
        "Generations on their way to become current, and whether with an issued certificate."
        self._ending: str | None = None
        "How the service was asked to stop; None while it runs."
        self._last_unix_ms = 0
        "Stamp of the record before; 0 before the first."

    @property
    def certificate(self) -> Certificate | None:
        """The one in use."""
        return _open(self.sections[-1].certificates) if self.sections else None

    def begin(self, snapshot: Snapshot) -> None:
        """A file's checkpoint: what was before the records that follow it."""
        if snapshot.sequence == self.last_sequence:
            # Nothing before it, or the file before has told it all.
            return
        now = snapshot.last_unix_ms
        self._measure(now, 0)
        self.last_sequence, self.policy = snapshot.sequence, snapshot.policy
        self._last_unix_ms = now
        if snapshot.assignment is not None:
            self.device, self.hub = snapshot.assignment.device_id, snapshot.assignment.hub
        candidate, credential = snapshot.candidate, snapshot.credential
        if candidate is not None:
            self._chain = candidate.chain
            self._issued[candidate.generation] = candidate.chain is not None
        if credential is not None and credential.source == "issued":
            self._use(
                Certificate(
                    generation=credential.generation,
                    serial=bounded(credential.serial, SERIAL_CHARS),
                    sequence=snapshot.sequence,
                    begins_unix_ms=credential.not_before_unix_ms,
                    ends_unix_ms=credential.not_after_unix_ms,
                    from_unix_ms=min(credential.committed_unix_ms, now) or now,
                    draw_ppm=credential.draw_ppm,
                )
            )
        self._enter(snapshot.state.value, snapshot.sequence, now)
        self._phase = snapshot.phase.value
        if snapshot.attempt is not None:
            begun = self._attempt_begins(snapshot.state.value, snapshot.phase.value, snapshot.sequence, now)
            begun.number = snapshot.attempt.number

    def take(self, record: Record, moved_ms: int = 0) -> None:
        """One record. ``moved_ms`` is by how much the clock was set before its stamp, told by `leaps`."""
        now, event = record.now_unix_ms, record.event
        self._measure(now, moved_ms)
        self.records += 1
        self._serving(record)
        self._learn(event)
        self._reach(event, record.sequence, now)
        if record.verdict == "taken":
            self._credential(record)
        self._attempt(record)
        self._enter(record.state, record.sequence, now)
        self._phase, self.last_sequence = record.phase, record.sequence

    # --- time ----------------------------------------------------------------------------------------

    def _measure(self, now: int, moved_ms: int) -> None:
        """The section that this stamp belongs to; what goes on goes on in a new one."""
        if not self.sections:
            self.sections.append(Section(from_unix_ms=now, until_unix_ms=now))
            return
        before = self.sections[-1]
        back_ms = before.until_unix_ms - now
        if abs(moved_ms) <= SECTION_MS and back_ms <= SECTION_MS:
            before.until_unix_ms = max(before.until_unix_ms, now)
            return
        after = Section(clock_moved_ms=moved_ms or -back_ms, from_unix_ms=now, until_unix_ms=now)
        for one in before.attempts:
            _carry(one.phases, [], before.until_unix_ms, now)
        _carry(before.states, after.states, before.until_unix_ms, now)
        _carry(before.certificates, after.certificates, before.until_unix_ms, now)
        _carry(before.attempts, after.attempts, before.until_unix_ms, now)
        _carry(before.outages, after.outages, before.until_unix_ms, now)
        for attempt in after.attempts:
            attempt.carried = True
            attempt.phases = [
                Stretch(what=bounded(self._phase, NAME_CHARS), sequence=attempt.sequence, from_unix_ms=now)
            ]
            attempt.mishaps = []
        self.sections.append(after)

    def _enter(self, state: str, sequence: int, now: int) -> None:
        _become(self.sections[-1].states, state, sequence, now)

    def _serving(self, record: Record) -> None:
        """When the service did not run: from its last record to its start."""
        now, section = record.now_unix_ms, self.sections[-1]
        if isinstance(record.event, ShutdownRequested):
            reason = bounded(record.event.reason, 80)
            self._ending = f"asked to stop ({reason})" if reason else "asked to stop"
        elif isinstance(record.event, Started):
            # A clock that was set meanwhile has no stamp to begin with.
            if section.from_unix_ms <= self._last_unix_ms <= now:
                how = self._ending or "ended without a word"
                since = self._last_unix_ms
                section.down.append(
                    Stretch(what=how, sequence=record.sequence, from_unix_ms=since, until_unix_ms=now)
                )
            self.starts += 1
            self._ending = None
        self._last_unix_ms = now

    # --- what records tell ---------------------------------------------------------------------------

    def _learn(self, event: AnyEvent) -> None:
        match event:
            case Started() | ConfigurationChanged():
                self.policy = event.policy
                if self.certificate is not None:
                    self._plan(self.certificate)
            case RegistrationAssigned():
                self._chain = event.chain
                self.device, self.hub = event.device_id, event.assigned_hub
            case _:
                pass
        if isinstance(event, Started) and event.inventory.current is not None:
            self.device, self.hub = event.inventory.current.device_id, event.inventory.current.hub

    def _reach(self, event: AnyEvent, sequence: int, now: int) -> None:
        """Who was reached, and who was not."""
        match event:
            case (
                RegistrationAccepted() | RegistrationPending() | RegistrationAssigned() | RegistrationFailed()
            ):
                peer = "DPS"
            case (
                CredentialProven()
                | CredentialProofFailed()
                | HubRefusedCredential()
                | ModuleKeysPushed()
                | ModuleKeysPushFailed()
            ):
                peer = "the hub"
            case _:
                return
        outages = self.sections[-1].outages
        going_on = next((one for one in outages if one.what == peer and one.until_unix_ms is None), None)
        if not isinstance(event, Failure) or event.code not in NOT_REACHED:
            if going_on is not None:
                going_on.until_unix_ms = now
        elif going_on is None:
            outages.append(Stretch(what=peer, sequence=sequence, from_unix_ms=now))

    def _credential(self, record: Record) -> None:
        for effect in record.effects:
            if isinstance(effect, CommitCredential):
                self._issued[effect.generation] = effect.chain_pem is not None
        event, now = record.event, record.now_unix_ms
        match event:
            case Started(inventory=inventory):
                self._found(inventory.current, record)
            case CredentialLost():
                _close(self.sections[-1].certificates, now)
            case CredentialCommitted(generation=generation):
                current, chain = self.certificate, self._chain
                if current is not None and current.generation == generation:
                    # A start has found it on disk before the answer came, and the answer draws anew.
                    self._issued.pop(generation, None)
                    current.draw_ppm = event.draw_ppm
                    self._plan(current)
                    return
                _close(self.sections[-1].certificates, now)
                if self._issued.pop(generation, False) and chain is not None:
                    self._use(
                        Certificate(
                            generation=generation,
                            serial=bounded(chain.serial, SERIAL_CHARS),
                            sequence=record.sequence,
                            begins_unix_ms=chain.not_before_unix_ms,
                            ends_unix_ms=chain.not_after_unix_ms,
                            from_unix_ms=now,
                            draw_ppm=event.draw_ppm,
                        )
                    )
            case _:
                pass

    def _found(self, current: StoredCredential | None, record: Record) -> None:
        """What a start finds on disk is in use, whatever was known before."""
        known = self.certificate
        issued = current is not None and current.source == "issued"
        if issued and known is not None and current is not None and known.generation == current.generation:
            return
        _close(self.sections[-1].certificates, record.now_unix_ms)
        if current is not None and issued:
            self._use(
                Certificate(
                    generation=current.generation,
                    serial=bounded(current.serial, SERIAL_CHARS),
                    sequence=record.sequence,
                    begins_unix_ms=current.not_before_unix_ms,
                    ends_unix_ms=current.not_after_unix_ms,
                    from_unix_ms=record.now_unix_ms,
                    draw_ppm=record.event.draw_ppm,
                )
            )

    def _use(self, certificate: Certificate) -> None:
        self._plan(certificate)
        self.sections[-1].certificates.append(certificate)

    def _plan(self, certificate: Certificate) -> None:
        """Its renewal, under the settings in force."""
        settings, life = self.policy, (certificate.begins_unix_ms, certificate.ends_unix_ms)
        if settings is None:
            return
        earliest, latest = settings.renewal_earliest_percent, settings.renewal_latest_percent
        certificate.opens_unix_ms = window_opens(*life, earliest_percent=earliest)
        certificate.closes_unix_ms = window_opens(*life, earliest_percent=latest)
        certificate.due_unix_ms = renew_at(
            *life,
            earliest_percent=earliest,
            latest_percent=latest,
            draw_ppm=certificate.draw_ppm,
            windows=settings.maintenance_windows,
        )

    # --- attempts ------------------------------------------------------------------------------------

    def _attempt(self, record: Record) -> None:
        now = record.now_unix_ms
        attempts = self.sections[-1].attempts
        numbers = [one.attempt for one in record.effects if isinstance(one, SubmitRegistration)]
        running = _open(attempts)
        if running is not None and numbers and running.number not in (None, numbers[0]):
            self._attempt_ends(running, "abandoned", record)
            running = None
        if running is None and record.phase != _IDLE:
            running = self._attempt_begins(record.state, record.phase, record.sequence, now)
        if running is None:
            return
        if numbers:
            running.number = numbers[0]
        event = record.event
        if isinstance(event, Failure) and not isinstance(event, ModuleKeysPushFailed):
            running.mishaps.append(
                Mishap(
                    sequence=record.sequence,
                    at_unix_ms=now,
                    failure_class=event.failure_class,
                    code=bounded(event.code, 80),
                    message=bounded(event.message),
                    tracking_id=bounded(event.tracking_id, 80) if event.tracking_id else None,
                )
            )
        if isinstance(event, CredentialCommitted) and record.verdict == "taken":
            running.committed = event.generation
        if record.phase != _IDLE:
            _become(running.phases, record.phase, record.sequence, now)
        elif running.committed is not None:
            self._attempt_ends(running, "succeeded", record)
        elif isinstance(event, Failure | DeadlinePassed | RegistrationAssigned):
            self._attempt_ends(running, "failed", record)
        else:
            self._attempt_ends(running, "abandoned", record)

    def _attempt_begins(self, state: str, phase: str, sequence: int, now: int) -> Attempt:
        begun = Attempt(kind=_KINDS.get(state, "registration"), sequence=sequence, from_unix_ms=now)
        _become(begun.phases, phase, sequence, now)
        self.sections[-1].attempts.append(begun)
        return begun

    def _attempt_ends(self, attempt: Attempt, result: Result, record: Record) -> None:
        attempt.result, attempt.why = result, bounded(record.why)
        attempt.until_unix_ms = record.now_unix_ms
        _close(attempt.phases, record.now_unix_ms)


# --- the clock ---------------------------------------------------------------------------------------


def leaps(records: Sequence[Record]) -> dict[int, int]:
    """By how much the clock was set, by the sequence of the first record with a stamp of the new time.

    A step is measured when a record is stamped, and journalled behind it: it is looked for some records back.
    """
    found: dict[int, int] = {}
    for at, record in enumerate(records):
        jump_ms = record.event.jump_ms if isinstance(record.event, ClockObserved) else 0
        if abs(jump_ms) <= SECTION_MS:
            continue
        first = at
        for back in range(at, max(at - _LOOK_BACK, 0), -1):
            gap_ms = records[back].now_unix_ms - records[back - 1].now_unix_ms
            if abs(gap_ms) * 2 > abs(jump_ms) and (gap_ms > 0) == (jump_ms > 0):
                first = back
                break
        found[records[first].sequence] = jump_ms
    return found


# --- stretches ---------------------------------------------------------------------------------------


def _open(some: list[T]) -> T | None:
    """The last one, if it goes on."""
    return some[-1] if some and some[-1].until_unix_ms is None else None


def _close(some: list[T], now: int) -> None:
    last = _open(some)
    if last is not None:
        last.until_unix_ms = max(now, last.from_unix_ms)


def _become(some: list[Stretch], what: str, sequence: int, now: int) -> None:
    what, last = bounded(what, NAME_CHARS), _open(some)
    if last is None or last.what != what:
        _close(some, now)
        some.append(Stretch(what=what, sequence=sequence, from_unix_ms=now))


def _carry(before: list[T], after: list[T], until: int, now: int) -> None:
    """What is open ends here and goes on there."""
    for one in before:
        if one.until_unix_ms is None:
            one.until_unix_ms = max(until, one.from_unix_ms)
            after.append(structs.replace(one, from_unix_ms=now, until_unix_ms=None))
