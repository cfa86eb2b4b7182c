"""The arithmetic of auto_renew, against the examples and the formulas of cloud.md §5."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.renewal_policy import (
    Life,
    Percent,
    Span,
    deadline,
    parse,
    retry_ms,
    should_renew,
)
from tests.core.world import DAY, MINUTE, T0

SECOND = 1_000
NINETY = Life(T0, T0 + 90 * DAY)

policies = st.one_of(
    st.builds(Percent, st.integers(1, 99)), st.builds(Span, st.integers(1, 10**6).map(lambda n: n * MINUTE))
)
instants = st.integers(-(2**53), 2**53)
lives = st.builds(Life, instants, instants)
certificates = st.builds(
    lambda begins, seconds: Life(begins * SECOND, (begins + seconds) * SECOND),
    st.integers(0, 2**34),
    st.integers(1, 20 * 365 * 86_400),
)
"Whole seconds, as ASN.1 writes them."


# --- the text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1%", Percent(1)),
        ("80%", Percent(80)),
        ("99%", Percent(99)),
        ("007%", Percent(7)),
        ("1min", Span(MINUTE)),
        ("90min", Span(90 * MINUTE)),
        ("1day", Span(DAY)),
        ("99999999day", Span(99_999_999 * DAY)),
    ],
)
def test_a_policy_is_read(text, expected):
    assert parse(text) == expected


REFUSED = (
    *("", "%", "day", "80", "100%", "0%", "0min", "000day", "1year", "1days", "1DAY", "1.5day", "1e3min"),
    *("1 day", " 1day", "1day\n", "-1day", "+1day", "٣day", "100000000min", "9" * 5000 + "day"),
)


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="%"):
        parse(text)


# --- the instants ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "threshold", "expected"),
    [
        (NINETY, "80%", T0 + 72 * DAY),
        (NINETY, "1%", T0 + 90 * DAY // 100),
        (NINETY, "99%", T0 + 90 * DAY * 99 // 100),
        (NINETY, "10day", T0 + 80 * DAY),
        (NINETY, "30min", T0 + 90 * DAY - 30 * MINUTE),
        (NINETY, "365day", T0 - 275 * DAY),
        (Life(T0, T0 + 7 * SECOND), "33%", T0 + 2_310),
        (Life(T0, T0), "80%", T0),
    ],
)
def test_the_deadline(life, threshold, expected):
    assert deadline(life, parse(threshold)) == expected


@pytest.mark.parametrize(
    ("threshold", "at", "due"),
    [
        ("80%", 72 * DAY - 1, False),
        ("80%", 72 * DAY, True),
        ("10day", 80 * DAY - 1, False),
        ("10day", 80 * DAY, True),
        ("365day", 0, True),
        ("80%", -DAY, False),
        ("1min", 90 * DAY, True),
        ("1min", 500 * DAY, True),
    ],
)
def test_when_renewal_is_due(threshold, at, due):
    assert should_renew(NINETY, parse(threshold), now=T0 + at) is due


@pytest.mark.parametrize(("begins", "ends"), [(T0, T0), (T0 + 1, T0)])
@pytest.mark.parametrize("threshold", ["80%", "1min"])
def test_what_could_never_be_valid_is_due(begins, ends, threshold):
    assert should_renew(Life(begins, ends), parse(threshold), now=T0 - DAY)


@pytest.mark.parametrize(
    ("life", "retry", "expected"),
    [
        (NINETY, "4%", 36 * DAY // 10),
        (NINETY, "1day", DAY),
        (Life(T0, T0 + 10 * SECOND), "4%", SECOND),
        (Life(T0, T0), "99%", SECOND),
        (Life(T0, T0 - DAY), "99%", SECOND),
    ],
)
def test_the_wait_after_a_failure(life, retry, expected):
    assert retry_ms(life, parse(retry)) == expected


def test_ninety_days_leave_five_tries_before_expiry():
    """The example of cloud.md §5: day 72, then every 3.6 days."""
    threshold, retry = parse("80%"), parse("4%")
    tries, now = [], deadline(NINETY, threshold)
    while now < NINETY.not_after_unix_ms:
        assert should_renew(NINETY, threshold, now=now)
        tries.append((now - T0) / DAY)
        now += retry_ms(NINETY, retry)
    assert tries == [72.0, 75.6, 79.2, 82.8, 86.4]


# --- laws --------------------------------------------------------------------------------------------


@given(life=lives, retry=policies)
def test_the_next_try_is_always_ahead(life, retry):
    assert retry_ms(life, parse(retry) if isinstance(retry, str) else retry) >= SECOND


@given(life=certificates, threshold=policies, now=instants)
def test_due_is_exactly_from_the_deadline_on(life, threshold, now):
    assert should_renew(life, threshold, now=now) is (now >= deadline(life, threshold))


@given(life=lives, threshold=policies, now=instants, later=st.integers(0, 2**53))
def test_what_is_due_stays_due(life, threshold, now, later):
    assert should_renew(life, threshold, now=now + later) >= should_renew(life, threshold, now=now)


@given(life=certificates, share=st.integers(1, 99), now=st.integers(0, 2**45))
def test_shares_agree_with_the_formulas_in_whole_seconds(life, share, now):
    """The original's own arithmetic, cloud.md §5, within the second that it truncates."""
    begins, ends = life.not_before_unix_ms // SECOND, life.not_after_unix_ms // SECOND
    seconds = ends - begins
    assert 0 <= deadline(life, Percent(share)) - (ends - (seconds - seconds * share // 100)) * SECOND < SECOND
    assert 0 <= retry_ms(life, Percent(share)) - max(seconds * share // 100, 1) * SECOND < SECOND
    at = now // SECOND
    originals = at >= ends or (at - begins) * 100 // seconds >= share
    assert should_renew(life, Percent(share), now=at * SECOND) is originals


@given(share=st.integers(1, 99))
def test_a_share_reads_back(share):
    assert parse(f"{share}%") == Percent(share)


@given(text=st.text(max_size=12))
def test_no_text_is_too_strange(text):
    try:
        read = parse(text)
    except ValueError:
        return
    assert text.endswith("%") is isinstance(read, Percent)
