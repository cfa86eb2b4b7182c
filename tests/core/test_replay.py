"""A journal folds again to the same effects and positions, on this release and on every later one."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from statemachine import replay
from statemachine.effects import Disarm
from statemachine.errors import JournalUnreadable
from statemachine.events import RulesChanged
from statemachine.journal import START, encode_line, head_lines, read
from statemachine.machine import RULES_REVISION
from statemachine.replay import RULES, fold, replay_files, restore, steps_of
from statemachine.snapshot import Snapshot
from tests.core.test_journal import header, lines_of
from tests.core.walks import seeded, walk
from tests.core.world import DAY, T0, provisioned, record_of

JOURNALS = sorted((Path(__file__).parent.parent / "journals").glob("*.jsonl"))
DIVERGENT = "divergent.jsonl"

QUIET = settings(deadline=None, derandomize=True, max_examples=40, database=None)


def records_of(world):
    return [record_of(*one) for one in world.history]


def file_of(records, snapshot=None, previous=START, **fields):
    """Stored bytes and the last hash."""
    first = snapshot or Snapshot()
    head, digest = head_lines(header(first_sequence=first.sequence + 1, continues=previous, **fields), first)
    lines = list(head)
    for record in records:
        line, digest = encode_line(record, digest)
        lines.append(line)
    return b"".join(lines), digest


# --- equal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_any_walk_replays_to_the_same_snapshot(first):
    for seed in range(first, first + 25):
        world = seeded(seed, 80)
        outcome = replay_files([("journal", b"".join(lines_of(world)))])
        assert outcome.equal, (seed, outcome.divergence, outcome.unreadable)
        assert outcome.records == len(world.history)
        assert outcome.snapshot == world.snapshot


@QUIET
@given(chance=st.randoms(use_true_random=False), rotate_every=st.integers(1, 20))
def test_and_over_any_rotation_of_files(chance, rotate_every):
    world = walk(chance, 30)
    records, files, snapshot, last = records_of(world), [], Snapshot(), START
    for begin in range(0, len(records), rotate_every):
        some = records[begin : begin + rotate_every]
        content, last = file_of(some, snapshot, last)
        files.append((f"file {begin}", content))
        snapshot = world.history[begin + len(some) - 1][2].snapshot
    outcome = replay_files(files)
    assert outcome.equal, outcome
    assert outcome.records == len(records)
    assert outcome.snapshot == world.snapshot


def test_nothing_is_equal_to_nothing():
    assert replay_files([]) == replay.Outcome(equal=True, records=0)


def test_a_torn_tail_replays_up_to_it():
    lines = lines_of(provisioned())
    outcome = replay_files([("journal", b"".join(lines)[:-5])])
    assert outcome.equal
    assert outcome.records == len(lines) - 3


def test_files_with_a_gap_between_them_are_replayed_one_by_one():
    """The files in between were dropped for their size; each begins with a checkpoint."""
    world = provisioned()
    records = records_of(world)
    first, _ = file_of(records[:2])
    third, _ = file_of(records[4:], world.history[3][2].snapshot, "f" * 64)
    outcome = replay_files([("first", first), ("third", third)])
    assert (outcome.equal, outcome.records) == (True, len(records) - 2)


# --- different ---------------------------------------------------------------------------------------


def spoilt(number, **fields):
    records = records_of(provisioned())
    records[number] = structs.replace(records[number], **fields)
    return file_of(records)[0]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"verdict": "ignored"}, "verdict differ"),
        ({"state": "Renewing"}, "state differ"),
        ({"phase": "Idle"}, "phase differ"),
        ({"effects": ()}, "effects differ"),
        ({"effects": (Disarm(name="phase"),)}, "effects differ"),
    ],
)
def test_the_first_divergence_is_shown_as_a_diff(fields, names):
    outcome = replay_files([("journal.jsonl", spoilt(1, **fields))])
    assert not outcome.equal
    assert outcome.records == 1
    assert outcome.divergence.startswith(f"journal.jsonl, sequence 2: {names}\n- ")
    assert "\n+ " in outcome.divergence
    assert outcome.snapshot.sequence == 1


def test_words_for_people_are_no_part_of_the_comparison():
    assert replay_files([("journal.jsonl", spoilt(1, why="It was said otherwise then."))]).equal


def test_another_stamp_diverges_where_it_matters():
    outcome = replay_files([("journal.jsonl", spoilt(7, now_unix_ms=T0 + 80 * DAY))])
    assert "sequence 8: state differ" in outcome.divergence


def test_a_continuation_that_begins_elsewhere():
    world = provisioned()
    records = records_of(world)
    first, last = file_of(records[:4])
    other = structs.replace(world.history[3][2].snapshot, failures=7)
    second, _ = file_of(records[4:], other, last)
    outcome = replay_files([("first", first), ("second", second)])
    assert (outcome.equal, outcome.records) == (False, 4)
    assert outcome.divergence == "second: its checkpoint is not what the file before it folds to"


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"".join(lines_of(provisioned())[:1])])
def test_a_file_that_cannot_be_read(content):
    outcome = replay_files([("journal.jsonl", content)])
    assert not outcome.equal
    assert outcome.unreadable.startswith("journal.jsonl: ")


def test_damage_in_the_middle_is_unreadable():
    lines = lines_of(provisioned())
    outcome = replay_files([("journal.jsonl", b"".join(lines[:4] + lines[5:]))])
    assert (outcome.equal, outcome.records) == (False, 0)
    assert "line 5" in outcome.unreadable


def test_files_come_in_order_and_once():
    content = b"".join(lines_of(provisioned()))
    outcome = replay_files([("a", content), ("a", content)])
    assert not outcome.equal
    assert outcome.unreadable.startswith("a: begins with record 1, but the file before ends with record")


# --- rules evolve ------------------------------------------------------------------------------------


def stubborn(snapshot, event, now):
    """Rules of another revision: nothing ever happens."""
    decision = RULES[RULES_REVISION](snapshot, event, now)
    return structs.replace(
        decision, effects=(), snapshot=structs.replace(snapshot, sequence=snapshot.sequence + 1)
    )


def test_the_revision_in_force_decides(monkeypatch):
    monkeypatch.setitem(RULES, 99, stubborn)
    changed = RulesChanged(before=RULES_REVISION, after=99)
    live, records = Snapshot(), []
    for event, rules in ((changed, stubborn), *((one[1], stubborn) for one in provisioned().history[:3])):
        decision = rules(live, event, T0)
        records.append(record_of(T0, event, decision))
        live = decision.snapshot
    assert fold(Snapshot(), records, RULES_REVISION) == (live, 4, None)
    assert fold(Snapshot(), records[1:], 99)[2] is None
    assert fold(Snapshot(), records[1:], RULES_REVISION)[2] is not None


def test_a_revision_that_is_not_known():
    records = records_of(provisioned())
    assert fold(Snapshot(), records, 98) == (Snapshot(), 0, "sequence 1: rules revision 98 is not known")


# --- restore -----------------------------------------------------------------------------------------


def test_a_readable_file_is_gone_on_from():
    world = provisioned()
    assert restore(read(b"".join(lines_of(world)))) == world.snapshot


def test_a_file_that_diverges_is_not():
    assert restore(read(spoilt(2, effects=()))) is None


@pytest.mark.parametrize("content", [b"", b"".join(lines_of(provisioned())[:1])])
def test_a_file_without_a_head_is_not(content):
    assert restore(read(content)) is None


def test_a_checkpoint_made_by_rules_that_are_not_known_is_not():
    """Also where no record follows: what it says was decided by somebody else."""
    content, _ = file_of([], rules_revision=RULES_REVISION + 1)
    assert restore(read(content)) is None
    content, _ = file_of([])
    assert restore(read(content)) == Snapshot()


# --- record by record --------------------------------------------------------------------------------


def test_every_step_with_what_was_true_around_it():
    world = provisioned()
    records = records_of(world)
    first, last = file_of(records[:4])
    second, _ = file_of(records[4:], world.history[3][2].snapshot, last)
    found = list(steps_of([("first", first), ("second", second)]))
    assert [step.record for step in found] == records
    assert [step.after for step in found] == [decision.snapshot for _, _, decision in world.history]
    assert [step.before for step in found] == [Snapshot(), *(step.after for step in found[:-1])]
    assert {step.rules for step in found} == {RULES[RULES_REVISION]}


def test_each_step_has_the_rules_that_were_in_force(monkeypatch):
    monkeypatch.setitem(RULES, 99, stubborn)
    changed = RulesChanged(before=RULES_REVISION, after=99)
    live, records = Snapshot(), []
    for event, rules in ((provisioned().history[0][1], RULES[RULES_REVISION]), (changed, stubborn)):
        decision = rules(live, event, T0)
        records.append(record_of(T0, event, decision))
        live = decision.snapshot
    found = list(steps_of([("journal", file_of(records)[0])]))
    assert [step.rules for step in found] == [RULES[RULES_REVISION], stubborn]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"garbage\n", "journal: line 1"), (spoilt(1, effects=()), "it does not replay: journal, sequence 2")],
)
def test_no_step_of_what_cannot_be_folded(content, problem):
    with pytest.raises(JournalUnreadable) as caught:
        list(steps_of([("journal", content)]))
    assert str(caught.value).startswith(problem)


# --- recorded journals -------------------------------------------------------------------------------


def test_there_are_recorded_journals():
    assert len(JOURNALS) >= 4
    assert DIVERGENT in {path.name for path in JOURNALS}


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.name)
def test_a_recorded_journal_still_replays(path):
    """Never edit one: a difference here is a difference to every device in the field."""
    outcome = replay_files([(path.name, path.read_bytes())])
    assert outcome.unreadable is None
    if path.name == DIVERGENT:
        assert not outcome.equal
        assert "effects differ" in outcome.divergence
    else:
        assert outcome.equal, outcome.divergence
        assert outcome.records > 10
