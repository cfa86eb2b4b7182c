"""Arithmetic at its edges, as worked examples.

Found by mutation: properties over all integers leave a millisecond, a minute or an order open.
"""

import pytest

from statemachine import policy
from statemachine.settings import MaintenanceWindow
from tests.core.world import DAY, HOUR, MINUTE, SECOND, T0

MIDNIGHT = T0 // DAY * DAY
TENTH = 100_000
"A draw that lies a tenth into the renewal window, and a tenth into a maintenance window too."


def due(begins, draw, *windows):
    """Of ten days, all of which are the renewal window."""
    return policy.renew_at(
        begins,
        begins + 10 * DAY,
        earliest_percent=0,
        latest_percent=100,
        draw_ppm=draw,
        windows=tuple(
            MaintenanceWindow(start_minute=start, duration_minutes=length) for start, length in windows
        ),
    )


def test_a_life_without_length_is_due_when_it_begins():
    assert policy.window_opens(T0, T0, earliest_percent=100) == T0
    assert policy.last_part_begins(T0, T0) == T0


def test_of_several_maintenance_windows_the_next_one_counts():
    assert due(MIDNIGHT, TENTH, (720, 100), (1080, 100)) == MIDNIGHT + DAY + 12 * HOUR + 10 * MINUTE
    assert due(MIDNIGHT, TENTH, (1080, 100), (720, 100)) == MIDNIGHT + DAY + 12 * HOUR + 10 * MINUTE


def test_a_window_opens_on_its_minute_whatever_the_second_of_the_draw():
    assert due(MIDNIGHT + 30 * SECOND, TENTH, (720, 100)) == MIDNIGHT + DAY + 12 * HOUR + 10 * MINUTE


def test_the_minute_at_which_a_window_ends_is_outside_it():
    """22:20 to 00:00, and the draw is midnight."""
    assert due(MIDNIGHT, TENTH, (1340, 100)) == MIDNIGHT + DAY + 22 * HOUR + 30 * MINUTE


def test_a_window_that_opens_as_the_renewal_window_closes_is_still_inside():
    assert due(MIDNIGHT, 950_000, (0, 60)) == MIDNIGHT + 10 * DAY


def test_a_window_that_outlasts_the_renewal_window_is_used_up_to_its_end():
    """23:00 to 01:00, and the renewal window closes at midnight: the place is chosen within one hour."""
    place = 950_000 * 617_051 % 1_000_000
    assert due(MIDNIGHT, 950_000, (1380, 120)) == MIDNIGHT + 9 * DAY + 23 * HOUR + HOUR * place // 1_000_000


def test_the_last_instant_of_a_running_window_is_inside_it():
    """The renewal window opens one millisecond before the only maintenance window of that day ends."""
    opens = MIDNIGHT + 100 * MINUTE - 1
    found = policy.renew_at(
        opens,
        opens + 12 * HOUR,
        earliest_percent=0,
        latest_percent=100,
        draw_ppm=500_000,
        windows=(MaintenanceWindow(start_minute=0, duration_minutes=100),),
    )
    assert found == opens


@pytest.mark.parametrize(("life", "last"), [(1_000, 900), (1_009, 909), (10, 9), (0, 0)])
def test_the_last_part_is_a_tenth(life, last):
    assert policy.last_part_begins(0, life) == last


# --- waits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_after_ms", "expected"),
    [(None, 1_000), (500, 1_000), (5_000, 5_000), (2 * DAY, policy.RETRY_AFTER_CAP_MS)],
)
def test_a_phase_acts_again_when_the_peer_asks_for_it(retry_after_ms, expected):
    """Retry-After wins when longer, up to a day."""
    delay = policy.repeat_delay_ms(
        1, base_ms=2_000, cap_ms=900_000, draw_ppm=0, retry_after_ms=retry_after_ms
    )
    assert delay == expected


def test_without_a_base_nothing_is_waited_for():
    assert policy.repeat_delay_ms(1, base_ms=0, cap_ms=0, draw_ppm=999_999, retry_after_ms=None) == 0


def test_a_budget_whose_window_is_over_holds_nothing_back():
    assert policy.budget_gap_ms(spent=10, registrations=10, left_ms=-1) == 0
    assert policy.budget_gap_ms(spent=10, registrations=10, left_ms=7) == 7
