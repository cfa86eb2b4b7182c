"""Arithmetic of decisions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import policy
from statemachine.settings import MaintenanceWindow
from tests.core.world import DAY, HOUR, MINUTE, T0

QUIET = settings(deadline=None, derandomize=True, max_examples=200, database=None)

draws = st.integers(0, policy.DRAWS - 1)
instants = st.integers(-(2**53), 2**53)
lives = st.integers(0, 20 * 365 * DAY)
windows = st.lists(
    st.builds(
        MaintenanceWindow,
        start_minute=st.integers(0, 1439),
        duration_minutes=st.integers(1, 1440),
    ),
    max_size=3,
).map(tuple)


def due(begins, life, draw, *, windows=(), earliest=70, latest=90):
    return policy.renew_at(
        begins,
        begins + life,
        earliest_percent=earliest,
        latest_percent=latest,
        draw_ppm=draw,
        windows=windows,
    )


# --- renewal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "expected"),
    [(0, 70 * HOUR), (500_000, 80 * HOUR), (250_000, 75 * HOUR), (999_999, 90 * HOUR - 72)],
)
def test_the_draw_spans_the_window(draw, expected):
    assert due(T0, 100 * HOUR, draw) == T0 + expected


@QUIET
@given(begins=instants, life=lives, draw=draws, some=windows)
def test_renewal_is_always_inside_the_window(begins, life, draw, some):
    instant = due(begins, life, draw, windows=some)
    assert begins + life * 70 // 100 <= instant <= begins + life * 90 // 100


def test_draws_are_uniform_over_the_window():
    """A hundred thousand devices: every tenth of the window gets its tenth of them."""
    tenths = [0] * 10
    for device in range(100_000):
        instant = due(0, 1_000_000, device * 10)
        tenths[(instant - 700_000) // 20_000] += 1
    assert tenths == [10_000] * 10


@QUIET
@given(begins=instants, ends=instants)
def test_an_inverted_life_is_due_at_once(begins, ends):
    opens = policy.window_opens(begins, min(begins, ends), earliest_percent=70)
    assert opens == begins
    assert policy.last_part_begins(begins, min(begins, ends)) == min(begins, ends)


NIGHT = MaintenanceWindow(start_minute=22 * 60, duration_minutes=240)
"22:00 to 02:00 UTC, across midnight."


def minute_of_day(instant):
    return instant // MINUTE % 1440


def in_night(instant):
    return minute_of_day(instant) >= 22 * 60 or minute_of_day(instant) < 2 * 60


@QUIET
@given(draw=draws, begins=st.integers(T0, T0 + 3 * DAY))
def test_a_long_life_is_renewed_in_its_maintenance_window(draw, begins):
    assert in_night(due(begins, 90 * DAY, draw, windows=(NIGHT,)))


def test_inside_a_window_the_draw_stays():
    for draw in range(0, 1_000_000, 1_000):
        plain = due(T0, 90 * DAY, draw)
        if in_night(plain):
            assert due(T0, 90 * DAY, draw, windows=(NIGHT,)) == plain


def test_a_fleet_is_spread_over_the_window_not_gathered_at_its_opening():
    minutes = [minute_of_day(due(T0, 90 * DAY, draw, windows=(NIGHT,))) for draw in range(0, 1_000_000, 997)]
    by_hour = [sum((minute - 22 * 60) % 1440 // 60 == hour for minute in minutes) for hour in range(4)]
    assert min(by_hour) > 200
    assert max(by_hour) < 300


def test_a_draw_behind_the_last_window_takes_an_earlier_one():
    """A life of 50 hours whose renewal window is from 01:00 to 11:00: one hour of the night is in it."""
    begins = (T0 // DAY) * DAY - 10 * HOUR
    found = {due(begins, 50 * HOUR, draw, windows=(NIGHT,)) for draw in range(200_000, 1_000_000, 50_000)}
    assert all(in_night(instant) for instant in found)
    assert len(found) == 16


def test_a_window_that_never_comes_costs_no_certificate():
    noon = MaintenanceWindow(start_minute=12 * 60, duration_minutes=1)
    begins = (T0 // DAY) * DAY
    assert due(begins, HOUR, 300_000, windows=(noon,)) == due(begins, HOUR, 300_000)


# --- backoff -----------------------------------------------------------------------------------------

BASE, CAP = 2_000, 900_000


def backoff(failures=1, draw=999_999, failure_class="retry", retry_after=None, remaining=None, patient=True):
    return policy.backoff_ms(
        failures=failures,
        failure_class=failure_class,
        draw_ppm=draw,
        base_ms=BASE,
        cap_ms=CAP,
        retry_after_ms=retry_after,
        remaining_life_ms=remaining,
        patient=patient,
    )


@pytest.mark.parametrize(
    ("failures", "ceiling"),
    [(0, 2_000), (1, 2_000), (2, 4_000), (5, 32_000), (9, 512_000), (10, CAP), (10**6, CAP)],
)
def test_backoff_doubles_up_to_its_cap(failures, ceiling):
    assert ceiling * 99 // 100 <= backoff(failures) < ceiling
    assert backoff(failures, draw=0) == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"retry_after": 60_000}, 60_000),
        ({"retry_after": 10, "draw": 500_000}, 1_000),
        ({"retry_after": 400 * DAY}, DAY),
        ({"failure_class": "operator", "draw": 0}, CAP // 2),
        ({"failure_class": "operator"}, CAP - 1),
        ({"failures": 20, "remaining": 600_000}, 120_000),
        ({"failures": 5, "remaining": 90 * DAY}, 32_000),
        ({"failures": 10, "remaining": 90 * DAY}, 1_024_000),
        ({"failures": 20, "remaining": 10 * HOUR}, 2 * HOUR),
        ({"failures": 20, "remaining": 90 * DAY, "draw": 500_000}, 3 * HOUR),
        ({"failures": 20, "remaining": 90 * DAY}, 24 * CAP),
        ({"failures": 20, "remaining": 90 * DAY, "failure_class": "operator"}, CAP - 1),
        ({"failures": 20, "remaining": 100}, 500),
        ({"failures": 20, "remaining": 0, "draw": 0}, 0),
        ({"retry_after": DAY, "remaining": DAY}, 12 * HOUR),
        ({"retry_after": DAY, "remaining": HOUR}, 30 * MINUTE),
        ({"retry_after": DAY, "remaining": MINUTE}, 15 * MINUTE),
    ],
)
def test_backoff(fields, expected):
    # The greatest draw is a millionth below one.
    assert expected - expected // 999_999 - 1 <= backoff(**fields) <= expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"failures": 20, "remaining": 600_000}, 60_000),
        ({"failures": 20, "remaining": 90 * DAY}, CAP - 1),
        ({"failures": 20, "remaining": 90 * DAY, "draw": 500_000}, CAP // 2),
        ({"failures": 20, "remaining": 100}, 500),
        ({"failures": 20}, CAP - 1),
        ({"failures": 20, "remaining": 600_000, "failure_class": "operator"}, 60_000),
        ({"retry_after": DAY, "remaining": HOUR}, 30 * MINUTE),
    ],
)
def test_backoff_under_the_first_revision_of_the_rules(fields, expected):
    """No longer than the cap, and a tenth of what remains."""
    assert backoff(**fields, patient=False) == expected


@QUIET
@given(
    failures=st.integers(-5, 10**9),
    draw=draws,
    retry_after=st.none() | st.integers(0, 10**15),
    remaining=st.none() | st.integers(0, 20 * 365 * DAY),
    failure_class=st.sampled_from(["retry", "wait", "operator", "new_key", "reregister", "clock"]),
)
def test_backoff_is_bounded(failures, draw, retry_after, remaining, failure_class):
    delay = backoff(failures, draw, failure_class, retry_after, remaining)
    assert 0 <= delay <= max(CAP, DAY)
    if retry_after is None and remaining is not None:
        assert delay <= max(policy.SOON_MS, min(remaining // 5, 24 * CAP))
    if retry_after is None and remaining is None:
        assert delay <= CAP
    if retry_after is not None and remaining is None:
        assert delay >= min(retry_after, policy.RETRY_AFTER_CAP_MS)


@QUIET
@given(tries=st.integers(0, 10**9), draw=draws, retry_after=st.none() | st.integers(0, 10**15))
def test_a_phase_acts_again_after_half_to_all_of_its_backoff(tries, draw, retry_after):
    delay = policy.repeat_delay_ms(tries, base_ms=BASE, cap_ms=CAP, draw_ppm=draw, retry_after_ms=retry_after)
    ceiling = min(CAP, BASE << min(max(tries - 1, 0), 32))
    assert max(ceiling // 2, min(retry_after or 0, DAY)) <= delay
    assert delay <= max(ceiling, min(retry_after or 0, DAY))


# --- polls -------------------------------------------------------------------------------------------


def poll_instants(count, latency_ms=0):
    now, instants = 0, []
    for polls in range(count):
        now += policy.poll_delay_ms(polls, None)
        instants.append(now)
        now += latency_ms
    return instants


def test_polls_come_early_and_then_steadily():
    assert poll_instants(8) == [100, 600, 1_600, 4_000, 7_000, 10_200, 12_200, 14_200]


@pytest.mark.parametrize("latency_ms", [0, 1, 50, 500, 2_000])
def test_never_more_than_five_polls_in_ten_seconds(latency_ms):
    instants = poll_instants(200, latency_ms)
    for first in instants:
        assert sum(first <= one < first + 10_000 for one in instants) <= 5


@pytest.mark.parametrize(
    ("polls", "retry_after", "expected"), [(0, 3_000, 3_000), (4, 1_000, 3_000), (50, 400 * DAY, DAY)]
)
def test_retry_after_wins_when_longer(polls, retry_after, expected):
    assert policy.poll_delay_ms(polls, retry_after) == expected


# --- start and budget --------------------------------------------------------------------------------


@QUIET
@given(draw=draws, slack=st.integers(-(10**12), 10**13))
def test_the_spread_after_a_power_on(draw, slack):
    spread = policy.start_spread_ms(draw_ppm=draw, slack_ms=slack)
    assert 0 <= spread <= min(max(slack, 0) // 10, 15 * MINUTE)


@pytest.mark.parametrize(("slack", "expected"), [(0, 0), (-5, 0), (10 * MINUTE, 30_000), (DAY, 450_000)])
def test_half_a_draw_spreads_half_of_the_bound(slack, expected):
    assert policy.start_spread_ms(draw_ppm=500_000, slack_ms=slack) == expected


@pytest.mark.parametrize(
    ("spent", "left_ms", "expected"),
    [
        (0, 30 * DAY, 0),
        (99, 30 * DAY, 0),
        (100, 30 * DAY, 30 * DAY // 101),
        (199, 30 * DAY, 15 * DAY),
        (200, 10 * DAY, 10 * DAY),
        (500, 10 * DAY, 10 * DAY),
        (150, -5, 0),
    ],
)
def test_the_second_half_of_the_budget_is_spread_over_its_window(spent, left_ms, expected):
    assert policy.budget_gap_ms(spent=spent, registrations=200, left_ms=left_ms) == expected
