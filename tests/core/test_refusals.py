"""Hubs refuse falsely now and then: when that is believed, and how often it may lead to a registration."""

from itertools import pairwise

import pytest

from statemachine.effects import SubmitRegistration
from statemachine.events import HubRefusedCredential
from statemachine.policy import REFUSAL_INTERVAL_CAP_MS
from statemachine.states import Phase, State
from tests.core.world import DAY, HOUR, MINUTE, expiring, provisioned, renewing, unprovisioned, waiting


def refuse(world, after_ms=0, generation=None):
    current = world.snapshot.credential.generation if world.snapshot.credential else 1
    return world.take(
        HubRefusedCredential(generation=generation or current, code="hub-401"), after_ms=after_ms
    )


def believed(world):
    return world.snapshot.state is State.REPROVISIONING


@pytest.mark.parametrize("place", [provisioned, expiring])
@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([0], False),
        ([0, 15 * MINUTE], False),
        ([0, 1, 1, 1, 1, 1], False),
        ([0, 15 * MINUTE - 2, 1], False),
        ([0, 15 * MINUTE - 1, 1], True),
        ([0, 1, 15 * MINUTE], True),
        ([0, DAY, DAY], True),
    ],
)
def test_three_refusals_over_fifteen_minutes(place, gaps, expected):
    world = place()
    for gap in gaps:
        assert not believed(world)
        refuse(world, gap)
    assert believed(world) is expected


def test_refusals_of_another_generation_do_not_count():
    world = provisioned()
    for _ in range(5):
        refuse(world, HOUR, generation=7)
    assert world.snapshot.refusals.count == 0


@pytest.mark.parametrize("place", [unprovisioned, waiting, renewing])
def test_where_an_attempt_is_made_anyway_they_change_nothing(place):
    world = place()
    before = world.position
    for _ in range(5):
        refuse(world, HOUR)
    assert world.position == before


def test_a_success_starts_the_count_again():
    world = provisioned()
    refuse(world)
    refuse(world, 20 * MINUTE)
    world.fire("window")
    world.fire("attempt")
    world.settle()
    assert world.snapshot.refusals.count == 0
    refuse(world, 20 * MINUTE)
    assert not believed(world)


def episode(world, every_ms=10 * MINUTE):
    """The hub goes on refusing until that is believed; then DPS assigns the same again."""
    while not believed(world):
        refuse(world, every_ms)
    at = world.now
    world.settle()
    return at


def test_at_most_one_registration_in_six_hours_then_doubling():
    world = provisioned()
    instants = [episode(world) for _ in range(12)]
    gaps = [after - before for before, after in pairwise(instants)]
    least = 6 * HOUR
    for gap in gaps:
        assert least <= gap < least + 21 * MINUTE
        least = min(least * 2, REFUSAL_INTERVAL_CAP_MS)


def test_a_refusal_driven_registration_goes_by_the_budget_and_keeps_the_old_credential():
    world = provisioned()
    while not believed(world):
        refuse(world, 10 * MINUTE)
    assert world.snapshot.credential.generation == 1
    assert not world.snapshot.attempt.by_operator
    world.until(Phase.SUBMITTING)
    assert world.snapshot.budget.spent == 1
    world.deny(SubmitRegistration)
    assert world.position == (State.REPROVISIONING, Phase.IDLE)
    assert world.snapshot.armed_as("attempt") is not None


def test_a_clock_that_went_back_does_not_block_refusals_for_years():
    world = provisioned()
    episode(world)
    world.now -= 400 * DAY
    refuse(world)
    assert world.snapshot.refusals.driven_unix_ms == world.now
    for _ in range(40):
        if believed(world):
            break
        refuse(world, 10 * MINUTE)
    assert believed(world)
