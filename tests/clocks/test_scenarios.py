"""A slice of the scenarios that has every value of every dimension. All of them: python -m tests.clocks."""

from collections import Counter

import pytest

from tests.clocks.judge import judge, most_within
from tests.clocks.life import play
from tests.clocks.scenarios import FAMILIES, covering, scenarios

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("scenario", covering(), ids=lambda scenario: scenario.name.replace(" ", "_"))
def test_a_device_among_wrong_clocks(scenario):
    assert judge(play(scenario)).wrong == ()


def test_there_are_enough_and_each_is_another():
    everything = scenarios()
    assert len(everything) >= 200
    assert len({one.name for one in everything}) == len(everything)
    by_family = Counter(one.family for one in everything)
    assert len(by_family) == len(FAMILIES)
    assert min(by_family.values()) >= 10


def test_the_slice_has_every_value_of_every_dimension():
    def values(chosen):
        return {(one.family, *place) for one in chosen for place in enumerate(one.name.split())}

    assert values(covering()) == values(scenarios())
    assert covering() == covering()


def test_most_of_them_are_held_to_the_minute():
    claimed = [one for one in scenarios() if one.right]
    assert sum(one.right_within_s == 60 for one in claimed) >= 400
    # The rest: a kernel without a watch, a cloud whose answers were useless, a CA that is ahead.
    assert {one.family for one in claimed if one.right_within_s != 60} == {"suspend", "date", "issuer"}


@pytest.mark.parametrize(
    ("instants", "window", "most"),
    [([], 10, 0), ([5], 10, 1), ([0, 9], 10, 2), ([0, 10], 10, 1), ([0, 3, 5, 12, 14, 21], 10, 3)],
)
def test_the_fullest_window(instants, window, most):
    assert most_within(instants, window) == most
