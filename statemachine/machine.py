"""Checks the rows, compiles them to ``transitions``, and runs one event to completion.

The library's builder is lenient: it takes misspelt states and shadowed rows in silence, so rows are
checked here first. Both machines are built once, at import; each step moves a throw-away model
through them, and an exception can spoil only that.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Any, Literal

from msgspec import Struct
from transitions import Event, EventData, Machine, Transition

from statemachine import attempt, table
from statemachine.absorb import absorb
from statemachine.effects import AnyEffect
from statemachine.errors import TableMistake
from statemachine.events import Answer, AnyEvent, DeadlinePassed
from statemachine.rows import EVENT_KEYS, SIGNAL_KEYS, Ignored, Position, Row, key_of
from statemachine.snapshot import Snapshot
from statemachine.states import Phase, State
from statemachine.work import Work

RULES_REVISION = 4
"""Raised when any decision changes; journals name the one in force.

Every revision that ever decided anything still does: the snapshot says which is in force, and guards and
actions that decide otherwise since ask for it (``Work.since``). What each changed is in
docs/reference/journal.md.
"""

Verdict = Literal["taken", "ignored", "refused"]


class Decision(Struct, frozen=True, kw_only=True):
    """What one event came to."""

    snapshot: Snapshot
    effects: tuple[AnyEffect, ...]
    verdict: Verdict
    why: str


class Table(Struct, frozen=True, kw_only=True):
    """One compiled table."""

    machine: Machine
    rows: dict[tuple[Enum, str], tuple[Row[Any], ...]]
    ignored: dict[tuple[Enum, str], str]


class BareTransition(Transition):
    """One row from one of its sources: its guard, the move, its action.

    The library's own also serves callbacks of states and machine, which nobody registers here, and logs
    each; that costs a third of a step.
    """

    def __init__(self, *as_usual: Any, row: Row[Any]) -> None:  # noqa: ANN401 - the library's own arguments
        Transition.__init__(self, *as_usual)
        self.row = row

    def execute(self, event_data: EventData) -> bool:
        work: Any = event_data.model
        row = self.row
        if row.guard is not None and not row.guard(work):
            return False
        if row.dest is not None:
            setattr(work, event_data.machine.model_attribute, row.dest)
        if row.action is not None:
            row.action(work)
        (taken,) = event_data.args
        taken.append(row)
        return True


class BareEvent(Event):
    """Its transitions from where the model is, in order, until one is taken.

    The library's own looks the state up by name, and wraps each call for queues and handlers of errors,
    which there are none of here; that is another third of a step. Where it has no transition it is not
    taken: the builder checks that every event has an answer.
    """

    def trigger(self, model: object, *args: object, **kwargs: object) -> bool:
        # ``name`` says the same, eleven times as slowly.
        place = getattr(model, self.machine.model_attribute)._name_
        transitions = self.transitions.get(place)
        if transitions is None:
            return False
        data = EventData(None, self, self.machine, model, args, kwargs)
        for transition in transitions:  # noqa: SIM110 - a generator costs more than a guard
            if transition.execute(data):
                return True
        return False


class BareMachine(Machine):
    transition_cls = BareTransition
    event_cls = BareEvent


def step(snapshot: Snapshot, event: AnyEvent, now: int) -> tuple[Snapshot, tuple[AnyEffect, ...]]:
    """Run one event to completion. ``now`` is its stamp, Unix milliseconds UTC; it may go backwards."""
    decision = decide(snapshot, event, now)
    return decision.snapshot, decision.effects


def decide(snapshot: Snapshot, event: AnyEvent, now: int, rows: list[Row[Any]] | None = None) -> Decision:
    """The same, with the verdict and the reason for people. Pure and total.

    ``rows`` collects every row that was taken.
    """
    taken: list[Row[Any]] = [] if rows is None else rows
    work = Work(snapshot, event, now)
    absorb(work)
    stale = _stale(work)
    if stale is not None:
        return _decision(work, "ignored", stale)
    key = key_of(event)
    row = _run(ATTEMPT, work, key, taken) or _run(LIFECYCLE, work, key, taken)
    if row is None:
        return _decision(work, "ignored", LIFECYCLE.ignored[work.state, key])
    while work.signals:
        signal = work.signals.pop(0).tag
        if _run(ATTEMPT, work, signal, taken) is None:
            outcome = _run(LIFECYCLE, work, signal, taken)
            assert outcome is not None, f"{signal} has no row in {work.state}: the builder checks that"
            row = outcome
    return _decision(work, "refused" if row.refuses else "taken", row.why)


def _stale(work: Work) -> str | None:
    """Fired and answered entries leave the snapshot here; what was not waited for is stale."""
    event, snapshot = work.event, work.snapshot
    if isinstance(event, DeadlinePassed):
        armed = snapshot.armed_as(event.name)
        if armed is None:
            return "Nothing is armed under that name any more."
        if armed.delay_ms is None and work.now < armed.at_unix_ms:
            work.arm_at(armed.name, armed.at_unix_ms)
            return "By the clock the instant is still ahead; it is armed again."
        work.change(armed=tuple(one for one in snapshot.armed if one is not armed))
    elif isinstance(event, Answer):
        left = tuple(one for one in snapshot.outstanding if one.id != event.answers)
        if len(left) == len(snapshot.outstanding):
            return "It answers nothing that is outstanding."
        work.change(outstanding=left)
    return None


def _decision(work: Work, verdict: Verdict, why: str) -> Decision:
    before = work.snapshot
    moved = work.state is not before.state
    if moved or work.phase is not before.phase or before.since_unix_ms == 0:
        since = work.now if moved or before.since_unix_ms == 0 else before.since_unix_ms
        work.change(state=work.state, phase=work.phase, since_unix_ms=since)
    return Decision(snapshot=work.snapshot, effects=tuple(work.effects), verdict=verdict, why=why)


def _run(compiled: Table, work: Work, key: str, taken: list[Row[Any]]) -> Row[Any] | None:
    """Trigger the library; the row that was taken, or None when there is none or no guard held."""
    event = compiled.machine.events.get(key)
    return taken[-1] if event is not None and event.trigger(work, taken) else None


# --- building ----------------------------------------------------------------------------------------


def build(
    positions: type[Enum],
    rows: Iterable[Row[Any]],
    ignored: Iterable[Ignored[Any]],
    *,
    initial: Enum,
    attribute: str,
    total_over: Iterable[str] = (),
) -> Table:
    """Check the rows and compile them.

    Every (position, key of ``total_over``) must end in an unguarded row or be listed as ignored.
    Raises TableMistake, naming the row.
    """
    filed: dict[tuple[Enum, str], tuple[Row[Any], ...]] = {}
    known = {*EVENT_KEYS, *SIGNAL_KEYS}
    for row in rows:
        _check_row(positions, row, known)
        for source in row.source:
            before = filed.get((source, row.event), ())
            if any(one.guard is None or one.guard is row.guard for one in before):
                raise TableMistake(f"{source}, {row.event}: this row can never be taken: {row.why}")
            filed[source, row.event] = (*before, row)
    reasons: dict[tuple[Enum, str], str] = {}
    for entry in ignored:
        for source in entry.source:
            _check_member(positions, source, entry.event)
            if entry.event not in known:
                raise TableMistake(f"no event has the key {entry.event!r}")
            if (source, entry.event) in reasons or any(
                row.guard is None for row in filed.get((source, entry.event), ())
            ):
                raise TableMistake(f"{source}, {entry.event}: ignored, but something takes it")
            reasons[source, entry.event] = entry.why
    for position in positions:
        for key in total_over:
            total = any(row.guard is None for row in filed.get((position, key), ()))
            if not total and (position, key) not in reasons:
                raise TableMistake(f"{position}, {key}: neither a row that always holds nor ignored")
    machine = BareMachine(
        model=None,
        states=positions,
        initial=initial,
        transitions=[_compiled(row) for row in rows],
        queued=False,
        auto_transitions=False,
        model_attribute=attribute,
    )
    return Table(machine=machine, rows=filed, ignored=reasons)


def _check_row(positions: type[Enum], row: Row[Any], known: set[str]) -> None:
    for member in (*row.source, *(() if row.dest is None else (row.dest,))):
        _check_member(positions, member, row.event)
    if not row.source:
        raise TableMistake(f"{row.event}: a row without a source: {row.why}")
    if row.event not in known:
        raise TableMistake(f"no event has the key {row.event!r}: {row.why}")
    for function in (row.guard, row.action):
        name = getattr(function, "__name__", "")
        if function is not None and (not name or name == "<lambda>"):
            raise TableMistake(f"{row.event}: guards and actions need names: {row.why}")
    if not row.why or not row.rule:
        raise TableMistake(f"{row.event}: every row says why, and where its rule comes from")
    if row.refuses and (row.dest is not None or row.action is not None):
        raise TableMistake(f"{row.event}: a refusal changes nothing: {row.why}")


def _check_member(positions: type[Enum], member: object, event: str) -> None:
    if not isinstance(member, positions):
        raise TableMistake(f"{event}: {member!r} is not a {positions.__name__}")


def _compiled(row: Row[Position]) -> dict[str, Any]:
    """The library's form of a row."""
    return {
        "trigger": row.event,
        "source": row.source,
        "dest": row.dest,
        "conditions": row.guard,
        "after": row.action,
        "row": row,
    }


ATTEMPT = build(Phase, attempt.ROWS, (), initial=Phase.IDLE, attribute="phase")
LIFECYCLE = build(
    State,
    table.ROWS,
    table.IGNORED,
    initial=State.UNPROVISIONED,
    attribute="state",
    total_over=EVENT_KEYS,
)
