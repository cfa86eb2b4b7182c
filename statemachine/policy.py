"""Arithmetic of decisions: when to renew, how long to back off, how often to poll, what a clock is worth.

Instants are Unix milliseconds UTC, durations milliseconds, draws parts per million. Nothing here
knows the machine; every function is total for any integers.
"""

from statemachine.settings import MaintenanceWindow
from statemachine.states import FailureClass

DRAWS = 1_000_000
DAY_MS = 86_400_000
_MINUTE_MS = 60_000

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

    With maintenance windows, the first instant from the drawn one on that lies in one of them, if that
    is still inside the renewal window; else the drawn instant (a missed window must not cost a certificate).
    """
    opens = window_opens(not_before, not_after, earliest_percent=earliest_percent)
    closes = window_opens(not_before, not_after, earliest_percent=latest_percent)
    drawn = opens + (closes - opens) * draw_ppm // DRAWS
    if not windows:
        return drawn
    preferred = min(_next_inside(drawn, window) for window in windows)
    if preferred <= closes:
        return preferred
    # The draw fell behind the last opening: from the start of the renewal window on there may be one.
    earlier = min(_next_inside(opens, window) for window in windows)
    return earlier if earlier <= closes else drawn


def _next_inside(instant: int, window: MaintenanceWindow) -> int:
    """First instant not before ``instant`` inside the daily window."""
    into = (instant - window.start_minute * _MINUTE_MS) % DAY_MS
    if into < window.duration_minutes * _MINUTE_MS:
        return instant
    return instant + DAY_MS - into


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
) -> int:
    """Delay before the next attempt after ``failures`` (at least 1) failed ones in a row.

    Exponential with full jitter. Class operator waits between half the cap and the cap: a person has to
    act first. Near expiry no wait is longer than a tenth of what remains. Retry-After wins when longer,
    but never takes more than half of what remains beyond the cap.
    """
    if failure_class == "operator":
        delay = cap_ms // 2 + (cap_ms - cap_ms // 2) * draw_ppm // DRAWS
    else:
        ceiling = min(cap_ms, base_ms << min(max(failures - 1, 0), 32))
        delay = ceiling * draw_ppm // DRAWS
    wish = retry_after_ms or 0
    if remaining_life_ms is not None:
        delay = min(delay, max(SOON_MS, remaining_life_ms // 10))
        wish = min(wish, max(cap_ms, remaining_life_ms // 2))
    return max(delay, wish)


def poll_delay_ms(polls: int, retry_after_ms: int | None) -> int:
    """Wait before the next poll when ``polls`` were made. Retry-After wins when longer."""
    gap = _POLL_GAPS_MS[polls] if polls < len(_POLL_GAPS_MS) else _POLL_STEADY_MS
    return max(gap, retry_after_ms or 0)


def repeat_delay_ms(
    tries: int, *, base_ms: int, cap_ms: int, draw_ppm: int, retry_after_ms: int | None
) -> int:
    """Wait before a phase acts again (proof, commit): half fixed, half drawn, doubling from the base."""
    ceiling = min(cap_ms, base_ms << min(max(tries - 1, 0), 32))
    return max(ceiling // 2 + (ceiling - ceiling // 2) * draw_ppm // DRAWS, retry_after_ms or 0)


def start_spread_ms(*, draw_ppm: int, slack_ms: int) -> int:
    """U(0, min(10 % of the slack, 15 min)): a fleet that wakes together must not arrive together."""
    return min(max(slack_ms, 0) // 10, START_SPREAD_MS) * draw_ppm // DRAWS
