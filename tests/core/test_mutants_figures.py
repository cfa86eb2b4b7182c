"""The figures of the rules, written down a second time: a slip of a digit in policy.py is no opinion.

Found by mutation: tests speak of these by name, so each of them could be another without any test failing.
"""

import pytest

from statemachine import actions, policy
from tests.core.world import DAY, HOUR, MINUTE, SECOND

FIGURES = {
    "LOOK_AT_CLOCK_MS": MINUTE,
    "CLOCK_TURNED_MS": MINUTE // 2,
    "CLOCK_AGAIN_MS": 4 * HOUR,
    "START_SPREAD_MS": 15 * MINUTE,
    "CLOCK_TOLERANCE_MS": HOUR,
    "JUMP_MS": DAY,
    "DATE_TOLERANCE_MS": 5 * MINUTE,
    "OPERATION_LIFE_MS": 10 * MINUTE,
    "SUBMITS_PER_ATTEMPT": 2,
    "HUB_LATE_MS": 15 * MINUTE,
    "REFUSALS_NEEDED": 3,
    "REFUSALS_SPREAD_MS": 15 * MINUTE,
    "REFUSAL_INTERVAL_MS": 6 * HOUR,
    "REFUSAL_INTERVAL_CAP_MS": 30 * DAY,
    "REPEAT_MS": MINUTE,
    "SOON_MS": SECOND // 2,
    "PATIENCE": 5,
    "PATIENT_CAPS": 24,
    "RETRY_AFTER_CAP_MS": DAY,
    "RENEWALS_RESERVED_PERCENT": 10,
    "DAY_MS": DAY,
    "DRAWS": 1_000_000,
}


@pytest.mark.parametrize(("name", "figure"), FIGURES.items())
def test_a_figure_is_the_rules(name, figure):
    assert getattr(policy, name) == figure


def test_every_figure_of_the_policy_is_here():
    """A new one is written down twice as well."""
    public = {name for name, value in vars(policy).items() if name.isupper() and isinstance(value, int)}
    assert {name for name in public if not name.startswith("_")} == set(FIGURES)


def test_collecting_is_looked_at_again_in_an_hour():
    assert actions.COLLECT_AGAIN_MS == HOUR


def test_polls_come_at_the_instants_of_the_design():
    """0.1, 0.6, 1.6, 4, 7 and 10.2 s, then 2 s apart: never over five in ten seconds."""
    instants, now = [], 0
    for polls in range(9):
        now += policy.poll_delay_ms(polls, None)
        instants.append(now)
    assert instants == [100, 600, 1_600, 4_000, 7_000, 10_200, 12_200, 14_200, 16_200]
    assert all(sum(first <= one < first + 10 * SECOND for one in instants) <= 5 for first in instants)
