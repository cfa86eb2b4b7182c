"""Two journals side by side."""

import json

import pytest
from msgspec import structs

from statemachine.compare import MEANINGS, compare
from statemachine.errors import JournalUnreadable
from statemachine.events import HoldRequested
from tests.core.test_replay import file_of, records_of
from tests.core.world import SECOND, T0, configured, provisioned, with_policy

WORLD = provisioned()
RECORDS = records_of(WORLD)
LENGTH = len(RECORDS)


def journal(records=RECORDS, snapshot=None, name="journal"):
    return [(name, file_of(records, snapshot)[0])]


def snapshot_at(sequence):
    return WORLD.history[sequence - 1][2].snapshot


def but(number, **fields):
    """The journal with another record of that sequence."""
    return [*RECORDS[: number - 1], structs.replace(RECORDS[number - 1], **fields), *RECORDS[number:]]


def test_the_same():
    found = compare(journal(), journal())
    assert found.same
    assert (found.common, found.compared_from, found.parting, found.firsts) == (LENGTH, 1, None, {})
    assert found.old == found.new
    assert found.old.committed == (1,)


def test_words_for_people_are_no_difference():
    assert compare(journal(), journal(but(3, why="It was said otherwise."))).same


@pytest.mark.parametrize(
    ("fields", "aspect", "old", "new"),
    [
        ({"now_unix_ms": T0 + 5}, "time", [RECORDS[2].now_unix_ms, 0], [T0 + 5, 0]),
        ({"event": structs.replace(RECORDS[2].event, draw_ppm=7)}, "time", None, [RECORDS[2].now_unix_ms, 7]),
        (
            {"event": HoldRequested(hold=True, uid=0)},
            "event",
            None,
            {"type": "hold-requested", "hold": True, "uid": 0},
        ),
        ({"event": structs.replace(RECORDS[2].event, operation_id="op-2")}, "facts", None, None),
        ({"verdict": "refused"}, "verdict", "taken", "refused"),
        ({"state": "Renewing"}, "position", ["Registering", "Polling"], ["Renewing", "Polling"]),
        ({"effects": ()}, "effects", None, []),
    ],
)
def test_where_they_part_and_in_what(fields, aspect, old, new):
    found = compare(journal(), journal(but(3, **fields)))
    assert not found.same
    assert found.common == 2
    assert found.parting.sequence == 3
    assert found.parting.aspects == (aspect,)
    assert found.firsts == {aspect: 3}
    assert old is None or json.loads(found.parting.old) == old
    assert new is None or json.loads(found.parting.new) == new


def test_what_explains_the_others_comes_first():
    event = HoldRequested(hold=True, uid=0)
    found = compare(journal(), journal(but(3, now_unix_ms=T0, event=event, state="Renewing", effects=())))
    assert found.parting.aspects == ("event", "time", "position", "effects")
    assert set(MEANINGS) >= set(found.parting.aspects)


def test_each_aspect_has_its_first():
    later = [structs.replace(one, now_unix_ms=one.now_unix_ms + SECOND) for one in RECORDS]
    later[4] = structs.replace(later[4], effects=())
    found = compare(journal(), journal(later))
    assert found.firsts == {"time": 1, "effects": 5}
    assert found.parting.sequence == 1
    assert found.common == 0


def test_one_goes_on():
    found = compare(journal(RECORDS[:-2]), journal())
    assert not found.same
    assert found.common == LENGTH - 2
    assert (found.parting.sequence, found.parting.aspects) == (LENGTH - 1, ("missing",))
    assert found.parting.old == "null"
    assert json.loads(found.parting.new)["sequence"] == LENGTH - 1
    assert (found.old.phase, found.new.phase) == (RECORDS[-3].phase, "Idle")


def test_what_only_one_remembers_is_left_out():
    found = compare(journal(), journal(RECORDS[3:], snapshot_at(3)))
    assert found.same
    assert (found.compared_from, found.common) == (4, LENGTH - 3)
    assert found.old == found.new


def test_series_of_files():
    first, last = file_of(RECORDS[:3])
    second, _ = file_of(RECORDS[3:], snapshot_at(3), last)
    found = compare([("first", first), ("second", second)], journal())
    assert found.same
    assert found.common == LENGTH


def test_other_checkpoints():
    other = structs.replace(snapshot_at(3), failures=4)
    found = compare(journal(RECORDS[3:], snapshot_at(3)), journal(RECORDS[3:], other))
    assert found.parting.aspects == ("checkpoint",)
    assert '"failures":4' in found.parting.new


def test_nothing_but_checkpoints():
    found = compare(journal([], snapshot_at(3)), journal([], snapshot_at(3)))
    assert found.same
    assert (found.common, found.old.records) == (0, 0)
    assert found.old.state == "Registering"


def test_no_record_in_common():
    found = compare(journal(RECORDS[:2]), journal(RECORDS[4:], snapshot_at(4)))
    assert (found.common, found.parting.aspects) == (0, ("missing",))
    assert found.old.records == 0
    assert found.new.records == LENGTH - 4


def test_a_journal_that_does_not_replay_is_compared_too():
    found = compare(journal(but(2, effects=())), journal(but(2, effects=())))
    assert found.same


def test_a_torn_end_is_left_out():
    whole = journal()[0][1]
    found = compare([("torn", whole[:-9])], journal())
    assert found.parting.sequence == LENGTH


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ([], "no journal file was named"),
        ([("a", b"garbage\n")], "a: line 1: does not end with a hash"),
        (journal() * 2, "journal: begins with record 1: give the files in order, each once"),
        ([("a", journal()[0][1].replace(b"Staging", b"staging", 1))], "a: line 3: its hash does not follow"),
    ],
)
def test_what_cannot_be_read(named, problem):
    for pair in ((named, journal()), (journal(), named)):
        with pytest.raises(JournalUnreadable) as caught:
            compare(*pair)
        assert str(caught.value).startswith(problem)


def test_long_differences_are_cut():
    policy = with_policy(registration_id="d" * 4_000)
    found = compare(journal(), journal(but(2, event=configured(policy))))
    assert len(found.parting.new) == 2_000
