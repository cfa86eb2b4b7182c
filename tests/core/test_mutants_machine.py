"""The step itself, and the checks of its builder, where no other test looks.

Found by mutation.
"""

import pytest

from statemachine.errors import TableMistake
from statemachine.events import HoldRequested
from statemachine.machine import RULES_REVISION, SIGNAL_KEYS, build, decide
from statemachine.replay import RULES
from statemachine.rows import Row, on
from statemachine.snapshot import Snapshot
from statemachine.states import State
from statemachine.work import SIGNALS, Signal
from tests.core.world import DAY, HOUR, NO_DPS, T0, World, started


def test_a_state_that_nobody_entered_is_dated_by_the_first_event():
    world = World()
    world.take(started(policy=NO_DPS, fingerprint=""))
    assert world.snapshot.state is State.UNPROVISIONED
    assert world.snapshot.since_unix_ms == T0
    world.take(started(policy=NO_DPS, fingerprint=""), after_ms=HOUR)
    assert world.snapshot.since_unix_ms == T0


@pytest.mark.parametrize("stamp", [0, 1])
def test_a_device_that_booted_in_1970_has_a_date_all_the_same(stamp):
    decision = decide(Snapshot(), started(policy=NO_DPS, fingerprint="", kernel_synchronised=False), stamp)
    assert decision.snapshot.since_unix_ms == max(T0 - 30 * DAY, stamp)


def row(**fields):
    return Row(
        **{
            "source": (State.PROVISIONED,),
            "event": on(HoldRequested),
            "why": "It is tested.",
            "rule": "none",
            **fields,
        }
    )


def one(work):
    return True


def other(work):
    return True


def test_every_row_before_counts_not_only_the_last():
    """The third asks what the first has asked already."""
    rows = [row(guard=one), row(guard=other), row(guard=one)]
    with pytest.raises(TableMistake, match="can never be taken"):
        build(State, rows, (), initial=State.UNPROVISIONED, attribute="state")


def test_a_table_knows_all_its_rows_in_their_order():
    rows = (row(guard=one), row(guard=other), row())
    table = build(State, rows, (), initial=State.UNPROVISIONED, attribute="state")
    assert table.rows == {(State.PROVISIONED, on(HoldRequested)): rows}


def test_the_rules_in_force_are_among_those_that_replay():
    assert RULES[RULES_REVISION] is not None


def test_the_tables_may_use_every_signal_there_is():
    assert set(SIGNALS) == set(Signal.__subclasses__())
    assert {signal.tag for signal in SIGNALS} == set(SIGNAL_KEYS)
