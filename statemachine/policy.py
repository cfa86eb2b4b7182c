"""Arithmetic of decisions: when to renew, how long to back off, how often to poll, what a clock is worth.

Instants are Unix milliseconds UTC, durations milliseconds, draws parts per million. Nothing here
knows the machine; every function is total for any integers.
"""

from statemachine.settings import MaintenanceWindow
from statemachine.states import FailureClass

DRAWS = 1_000_000
DAY_MS = 86_400_000
_SCATTER = 617_051
"Odd, no multiple of 5 and large: neighbouring draws land far apart."
_MINUTE_MS = 60_000
_DAY_MINUTES = 1_440

LOOK_AT_CLOCK_MS = _MINUTE_MS
"Within this time after a start the cloud is asked for the time, when the clock is in doubt."

CLOCK_TURNED_MS = _MINUTE_MS // 2
"Within this time after the clock was set, what failed because of it is tried again, and the time asked for."

CLOCK_AGAIN_MS = 4 * 3_600_000
"How long until the hub, which could not be reached, is asked for the time again; half of it at least."

START_SPREAD_MS = 15 * _MINUTE_MS
"Upper bound of the random wait after a power-on with something overdue."

CLOCK_TOLERANCE_MS = 3_600_000
"A clock this far from the cloud's is still believed; device certificates live far longer."

JUMP_MS = DAY_MS
"An unconfirmed jump longer than this, either way, makes the clock untrusted."

DATE_TOLERANCE_MS = 5 * _MINUTE_MS
"How far notBefore may lie ahead of the best known time: clocks of a CA and of DPS differ a little."

OPERATION_LIFE_MS = 10 * _MINUTE_MS
"An operation older than this is submitted again instead of asked for."

SUBMITS_PER_ATTEMPT = 2
"Registrations (PUT) one attempt may make while DPS keeps forgetting its operation."

HUB_LATE_MS = 15 * _MINUTE_MS
"Hubs refuse falsely this long after a new assignment."

REFUSALS_NEEDED = 3
REFUSALS_SPREAD_MS = 15 * _MINUTE_MS
REFUSAL_INTERVAL_MS = 6 * 3_600_000
REFUSAL_INTERVAL_CAP_MS = 30 * DAY_MS

REPEAT_MS = 60_000
"A reprovision asked for again within this time by an unprivileged caller shares the earlier result."

SOON_MS = 500
"Shortest bound that nearness of expiry puts on a backoff."

PATIENCE = 5
"""While a certificate lives no wait is longer than a fifth of what remains of it: short near the end, and
long enough before it that a fleet which an outage held up does not fall on the cloud when it is back."""
PATIENT_CAPS = 24
"Nor longer than so many times the cap, however long it lives: six hours by default."

RETRY_AFTER_CAP_MS = DAY_MS
"No answer of a peer puts anything off for longer."

RENEWALS_RESERVED_PERCENT = 10
"In this last part of a certificate's life no budget holds an attempt back."

_POLL_GAPS_MS = (100, 500, 1_000, 2_400, 3_000, 3_200)
"Polls at 0.1, 0.6, 1.6, 4, 7 and 10.2 s: never more than five within ten seconds (DPS device quota)."
_POLL_STEADY_MS = 2_000


def window_opens(not_before: int, not_after: int, *, earliest_percent: int) -> int:
    """When the renewal window opens. An empty or inverted life opens at not_before."""
    return not_before + max(not_after - not_before, 0) * earliest_percent // 100


def renew_at(
    not_before: int,
    not_after: int,
    *,
    earliest_percent: int,
    latest_percent: int,
    draw_ppm: int,
    windows: tuple[MaintenanceWindow, ...] = (),
) -> int:
    """When renewal is due: uniform over the renewal window by the certificate's own draw.

    With maintenance windows, the drawn instant when it lies in one of them, else one drawn inside the next
    (a fleet must not arrive together when a window opens), if that is still inside the renewal window;
    else the drawn instant (a missed window must not cost a certificate).
    """
    opens = window_opens(not_before, not_after, earliest_percent=earliest_percent)
    closes = window_opens(not_before, not_after, earliest_percent=latest_percent)
    drawn = opens + (closes - opens) * draw_ppm // DRAWS
    if not windows or any(_minutes_into(drawn, window) < window.duration_minutes for window in windows):
        return drawn
    # The draw chose the day; scattered, it chooses the place inside the window as well.
    place_ppm = draw_ppm * _SCATTER % DRAWS
    # When the draw fell behind the last window, there may still be one since the renewal window opened.
    for since in (drawn, opens):
        preferred = min(_inside_next(since, closes, window, place_ppm) for window in windows)
        if preferred <= closes:
            return preferred
    return drawn


def _minutes_into(instant: int, window: MaintenanceWindow) -> int:
    """Since the latest opening of the daily window."""
    return (instant // _MINUTE_MS - window.start_minute) % _DAY_MINUTES


def _inside_next(since: int, closes: int, window: MaintenanceWindow, place_ppm: int) -> int:
    """An instant in what is left of the running window, or in the next; before ``closes`` if it can be."""
    into = _minutes_into(since, window) * _MINUTE_MS + since % _MINUTE_MS
    begins, length = since, window.duration_minutes * _MINUTE_MS - into
    if length <= 0:
        begins, length = since + DAY_MS - into, window.duration_minutes * _MINUTE_MS
    return begins + min(length, max(closes - begins, 0)) * place_ppm // DRAWS


def last_part_begins(not_before: int, not_after: int) -> int:
    """Start of the last tenth of a certificate's life."""
    return not_after - max(not_after - not_before, 0) * RENEWALS_RESERVED_PERCENT // 100


def backoff_ms(
    *,
    failures: int,
    failure_class: FailureClass,
    draw_ppm: int,
    base_ms: int,
    cap_ms: int,
    retry_after_ms: int | None,
    remaining_life_ms: int | None,
    patient: bool = True,
) -> int:
    """Delay before the next attempt after ``failures`` (at least 1) failed ones in a row.

    Exponential with full jitter, up to the cap; while a certificate lives, up to a fifth of what remains of
    it or ``PATIENT_CAPS`` times the cap instead. Class operator waits between half the cap and the cap: a
    person has to act first. Retry-After wins when longer, but beyond the cap never takes more than half of
    what remains.
    Not ``patient`` is revision 1 of the rules: up to the cap, and a tenth of what remains.
    """
    longest, soonest = cap_ms, cap_ms
    if remaining_life_ms is not None:
        share = remaining_life_ms // (PATIENCE if patient else 10)
        soonest = max(SOON_MS, min(share, PATIENT_CAPS * cap_ms) if patient else share)
        longest = soonest if patient else cap_ms
    if failure_class == "operator":
        delay = cap_ms // 2 + (cap_ms - cap_ms // 2) * draw_ppm // DRAWS
    else:
        delay = min(longest, base_ms << min(max(failures - 1, 0), 32)) * draw_ppm // DRAWS
    wish = min(retry_after_ms or 0, RETRY_AFTER_CAP_MS)
    if remaining_life_ms is not None:
        delay = min(delay, soonest)
        wish = min(wish, max(cap_ms, remaining_life_ms // 2))
    return max(delay, wish)


def poll_delay_ms(polls: int, retry_after_ms: int | None) -> int:
    """Wait before the next poll when ``polls`` were made. Retry-After wins when longer."""
    gap = _POLL_GAPS_MS[polls] if polls < len(_POLL_GAPS_MS) else _POLL_STEADY_MS
    return max(gap, min(retry_after_ms or 0, RETRY_AFTER_CAP_MS))


def repeat_delay_ms(
    tries: int, *, base_ms: int, cap_ms: int, draw_ppm: int, retry_after_ms: int | None
) -> int:
    """Wait before a phase acts again (proof, commit): half fixed, half drawn, doubling from the base."""
    ceiling = min(cap_ms, base_ms << min(max(tries - 1, 0), 32))
    delay = ceiling // 2 + (ceiling - ceiling // 2) * draw_ppm // DRAWS
    return max(delay, min(retry_after_ms or 0, RETRY_AFTER_CAP_MS))


def budget_gap_ms(*, spent: int, registrations: int, left_ms: int) -> int:
    """Least wait between registrations so that a long outage does not end in weeks of silence.

    The first half of the budget goes as fast as backoff allows; the rest is spread evenly over what is
    left of its window.
    """
    if spent * 2 < registrations:
        return 0
    return max(left_ms, 0) // max(registrations - spent + 1, 1)


def start_spread_ms(*, draw_ppm: int, slack_ms: int) -> int:
    """U(0, min(10 % of the slack, 15 min)): a fleet that wakes together must not arrive together."""
    return min(max(slack_ms, 0) // 10, START_SPREAD_MS) * draw_ppm // DRAWS
