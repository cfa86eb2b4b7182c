"""Fold a journal again and compare: same events, same stamps, therefore same effects and positions."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import Struct

from statemachine.errors import JournalUnreadable
from statemachine.events import AnyEvent, RulesChanged
from statemachine.journal import START, Reading, Record, read
from statemachine.machine import RULES_REVISION, Decision, decide
from statemachine.snapshot import Snapshot

Rules = Callable[[Snapshot, AnyEvent, int], Decision]

RULES: dict[int, Rules] = dict.fromkeys(range(1, RULES_REVISION + 1), decide)
"Every revision of the rules that ever decided anything stays callable: snapshots say which is in force."


class Outcome(Struct, frozen=True, kw_only=True):
    """What a replay found."""

    equal: bool
    records: int
    "Records folded before the end, or before the divergence."
    divergence: str | None = None
    "The first difference, as a diff for people."
    unreadable: str | None = None
    "Why a file could not be read to its end; ``equal`` is False then."
    snapshot: Snapshot | None = None
    "Where the fold ended."


def fold(snapshot: Snapshot, records: Sequence[Record], revision: int) -> tuple[Snapshot, int, str | None]:
    """Run records again. Returns where it ended, how many agreed, and the first divergence."""
    for count, record in enumerate(records):
        if isinstance(record.event, RulesChanged):
            revision = record.event.after
        rules = RULES.get(revision)
        if rules is None:
            return snapshot, count, f"sequence {record.sequence}: rules revision {revision} is not known"
        decision = rules(snapshot, record.event, record.now_unix_ms)
        difference = _difference(record, decision)
        if difference is not None:
            return snapshot, count, f"sequence {record.sequence}: {difference}"
        snapshot = decision.snapshot
    return snapshot, len(records), None


def _difference(record: Record, decision: Decision) -> str | None:
    after = decision.snapshot
    # ``value`` says the same as ``_value_``, eleven times as slowly.
    if record.verdict != decision.verdict:
        return _differ("verdict", record.verdict, decision.verdict)
    if record.state != after.state._value_:
        return _differ("state", record.state, after.state.value)
    if record.phase != after.phase._value_:
        return _differ("phase", record.phase, after.phase.value)
    if record.effects != decision.effects:
        return _differ("effects", record.effects, decision.effects)
    return None


def _differ(name: str, recorded: object, computed: object) -> str:
    return f"{name} differ\n- {_shown(recorded)}\n+ {_shown(computed)}"


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()[:2000]


def replay_files(named: Sequence[tuple[str, bytes]]) -> Outcome:
    """Replay files, oldest first. One that continues the file before must begin where that ended."""
    total = 0
    snapshot: Snapshot | None = None
    last_hash = START
    for name, content in named:
        reading = read(content)
        if reading.header is None or reading.snapshot is None or (reading.problem and not reading.torn):
            return Outcome(equal=False, records=total, unreadable=f"{name}: {reading.problem}")
        if snapshot is not None and reading.header.first_sequence <= snapshot.sequence:
            wrong = (
                f"{name}: begins with record {reading.header.first_sequence}, but the file before ends with "
                f"record {snapshot.sequence}: give them in order"
            )
            return Outcome(equal=False, records=total, unreadable=wrong)
        if snapshot is not None and reading.header.continues == last_hash and reading.snapshot != snapshot:
            return Outcome(
                equal=False,
                records=total,
                divergence=f"{name}: its checkpoint is not what the file before it folds to",
            )
        snapshot, count, divergence = fold(reading.snapshot, reading.records, reading.header.rules_revision)
        total += count
        if divergence is not None:
            return Outcome(equal=False, records=total, divergence=f"{name}, {divergence}", snapshot=snapshot)
        last_hash = reading.last_hash
    return Outcome(equal=True, records=total, snapshot=snapshot)


class Step(Struct, frozen=True, kw_only=True):
    """One record that replays, and what was true around it."""

    before: Snapshot
    record: Record
    after: Snapshot
    rules: Rules
    "Those that were in force."


def steps_of(named: Sequence[tuple[str, bytes]]) -> Iterator[Step]:
    """Every record of files, oldest first. Raises JournalUnreadable where one cannot be read, or diverges."""
    outcome = replay_files(named)
    if not outcome.equal:
        raise JournalUnreadable(outcome.unreadable or f"it does not replay: {outcome.divergence}")
    for _, content in named:
        reading = read(content)
        assert reading.header is not None, "it was read before"
        assert reading.snapshot is not None, "it was read before"
        revision, snapshot = reading.header.rules_revision, reading.snapshot
        for record in reading.records:
            if isinstance(record.event, RulesChanged):
                revision = record.event.after
            after = RULES[revision](snapshot, record.event, record.now_unix_ms).snapshot
            yield Step(before=snapshot, record=record, after=after, rules=RULES[revision])
            snapshot = after


def restore(reading: Reading) -> Snapshot | None:
    """The snapshot a readable file ends in; None when it diverges from its rules, or they are not known.

    Rules that are not known matter without any record too: they made the checkpoint.
    """
    if reading.header is None or reading.snapshot is None or reading.header.rules_revision not in RULES:
        return None
    snapshot, _, divergence = fold(reading.snapshot, reading.records, reading.header.rules_revision)
    return snapshot if divergence is None else None
