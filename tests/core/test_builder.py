"""A wrong row is found when the tables are built, by name, not when a device meets it."""

import pytest

from statemachine import table
from statemachine.errors import TableMistake
from statemachine.events import HoldRequested, RenewRequested
from statemachine.machine import ATTEMPT, LIFECYCLE, build
from statemachine.rows import Ignored, Row, deadline, on
from statemachine.snapshot import Snapshot
from statemachine.states import Phase, State
from statemachine.work import Work

HELD = on(HoldRequested)


def holds(work):
    return True


def nothing(work):
    pass


def row(**fields):
    return Row(
        **{
            "source": (State.PROVISIONED,),
            "event": HELD,
            "why": "It is tested.",
            "rule": "none",
            **fields,
        }
    )


def built(rows=(), ignored=(), total_over=()):
    return build(State, rows, ignored, initial=State.UNPROVISIONED, attribute="state", total_over=total_over)


def ignored(**fields):
    return Ignored(**{"source": (State.PROVISIONED,), "event": HELD, "why": "It is tested.", **fields})


class Callable:
    """No function, so no name."""

    def __call__(self, work):
        return True


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(source=("Provisoned",))], "'Provisoned' is not a State"),
        ([row(source=(Phase.IDLE,))], "is not a State"),
        ([row(dest=Phase.IDLE)], "is not a State"),
        ([row(source=())], "without a source"),
        ([row(event="hold-requsted")], "no event has the key 'hold-requsted'"),
        ([row(event=deadline("widnow"))], "no event has the key 'deadline-passed/widnow'"),
        ([row(), row()], "can never be taken"),
        ([row(), row(guard=holds)], "can never be taken"),
        ([row(guard=holds), row(guard=holds)], "can never be taken"),
        ([row(guard=lambda work: True)], "need names"),
        ([row(action=lambda work: None)], "need names"),
        ([row(guard=Callable())], "need names"),
        ([row(why="")], "says why"),
        ([row(rule="")], "says why"),
        ([row(refuses=True, action=nothing)], "a refusal changes nothing"),
        ([row(refuses=True, dest=State.PROVISIONED)], "a refusal changes nothing"),
    ],
)
def test_a_mistake_in_a_row(rows, says):
    with pytest.raises(TableMistake, match=says):
        built(rows)


@pytest.mark.parametrize(
    ("rows", "entries", "says"),
    [
        ([row()], [ignored()], "something takes it"),
        ([], [ignored(), ignored()], "something takes it"),
        ([], [ignored(event="hold")], "no event has the key"),
        ([], [ignored(source=("Provisioned",))], "is not a State"),
    ],
)
def test_a_mistake_in_what_is_ignored(rows, entries, says):
    with pytest.raises(TableMistake, match=says):
        built(rows, entries)


def test_a_guarded_row_may_fall_through_to_being_ignored():
    everywhere = tuple(State)
    table = built([row(guard=holds)], [ignored(source=everywhere)], total_over=(HELD,))
    assert table.ignored[State.PROVISIONED, HELD] == "It is tested."


def test_a_pair_without_an_answer_is_named():
    with pytest.raises(TableMistake, match=r"UNPROVISIONED.*hold-requested.*neither"):
        built([row()], total_over=(HELD,))


def test_the_first_row_whose_guard_holds_is_taken():
    def never(work):
        return False

    first, second, third = row(guard=never), row(guard=holds, dest=State.RENEWING), row()
    table = built([first, second, third])
    work = Work(Snapshot(state=State.PROVISIONED), HoldRequested(hold=True, uid=0), 0)
    taken = []
    assert table.machine.events[HELD].trigger(work, taken)
    assert taken == [second]
    assert work.state is State.RENEWING


def test_where_an_event_has_no_row_nothing_is_taken():
    """Whether that may be so is for the builder to say, which wants each pair answered or ignored."""
    table = built([row()])
    before = Snapshot(state=State.RENEWING)
    work = Work(before, HoldRequested(hold=True, uid=0), 0)
    taken = []
    assert not table.machine.events[HELD].trigger(work, taken)
    assert taken == []
    assert work.snapshot is before
    assert work.state is State.RENEWING


def test_the_library_invents_nothing():
    """No to_X triggers, no methods on the model, and names for the diagrams."""
    for compiled in (LIFECYCLE, ATTEMPT):
        assert {key for _, key in compiled.rows} == set(compiled.machine.events)
    taken_by = LIFECYCLE.machine.events[on(RenewRequested)].transitions[State.UNPROVISIONED.name]
    assert [after.__name__ for after in taken_by[0].after] == []
    held = LIFECYCLE.machine.events[HELD].transitions[State.REPROVISIONING.name]
    assert [one.conditions[0].func.__name__ for one in held[:1]] == ["resting"]
    assert [[after.__name__ for after in one.after] for one in held] == [["release"], []]


def test_every_row_of_the_tables_has_a_sentence_for_people():
    for one in (*table.ROWS, *table.IGNORED):
        assert one.why.endswith(".")
        assert one.why[0].isupper()
