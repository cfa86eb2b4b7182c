"""What can be asked for, and that what cannot is told shortly, with the option's name and a way out."""

import pytest

from adapters.simulation.options import (
    START_UNIX_MS,
    YEAR_MS,
    ClockStep,
    OptionWrong,
    Outage,
    Scenario,
    check,
    clock_steps,
    expected_attempts,
    instant,
    number,
    outages,
    span_ms,
)

HOUR, DAY = 3_600_000, 86_400_000
MARCH = 1_803_859_200_000
"2027-03-01."


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", 90_000),
        ("15m", 900_000),
        ("6h", 6 * HOUR),
        ("-2d", -2 * DAY),
        ("+2d", 2 * DAY),
        ("1.5d", 36 * HOUR),
        ("0.001s", 1),
    ],
)
def test_durations(text, ms):
    assert span_ms("--x", text) == ms


@pytest.mark.parametrize("text", ["", "6", "h", "6w", "6 h", "0h", "-0d", "1e9d", "99999999d", "6h6h", "٣h"])
def test_what_is_no_duration(text):
    with pytest.raises(OptionWrong, match=r"argument --x: .* is not a duration above 0, such as"):
        span_ms("--x", text)


@pytest.mark.parametrize(
    ("text", "unix_ms"),
    [
        ("2027-03-01", MARCH),
        ("2027-03-01T06:00", MARCH + 6 * HOUR),
        ("2027-03-01 06:00:00Z", MARCH + 6 * HOUR),
        ("2027-03-01T06:00+02:00", MARCH + 4 * HOUR),
    ],
)
def test_instants(text, unix_ms):
    assert instant("--x", text) == unix_ms


@pytest.mark.parametrize("text", ["", "tomorrow", "2027-13-01", "1999-12-31", "2100-01-01", "0001-01-01"])
def test_what_is_no_instant(text):
    with pytest.raises(OptionWrong, match=r"argument --x: .* is no date from 2000 to 2099, such as"):
        instant("--x", text)


def test_outages_and_steps():
    assert outages("--outage", ["6h@2027-03-01"], ("dps", "hub")) == (
        Outage(peers=("dps", "hub"), begins_unix_ms=MARCH, ends_unix_ms=MARCH + 6 * HOUR),
    )
    assert clock_steps("--clock-step", ["-2d@2027-03-01"]) == (ClockStep(at_unix_ms=MARCH, by_ms=-2 * DAY),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("6h", "does not say when; write it like 6h@2027-03-01"),
        ("-6h@2027-03-01", "give it without the minus"),
        ("6h@", "is no date"),
        ("@2027-03-01", "is not a duration"),
        (f"{'9' * 5_000}h@2027-03-01", "is not a duration"),
    ],
)
def test_what_is_no_outage(text, says):
    with pytest.raises(OptionWrong, match=says) as caught:
        outages("--outage", [text], ("hub",))
    assert caught.value.message.startswith("argument --outage: ")
    assert len(caught.value.message) < 160


@pytest.mark.parametrize("text", ["", "ten", "0", "11", "1.5", "nan"])
def test_what_is_no_number(text):
    with pytest.raises(OptionWrong, match="is not a whole number from 1 to 10"):
        number("--x", text, 1, 10)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e99"])
def test_what_is_no_number_with_parts(text):
    with pytest.raises(OptionWrong, match=r"is not a number from 0\.5 to 10"):
        number("--x", text, 0.5, 10, whole=False)
    assert number("--x", "2.5", 0.5, 10, whole=False) == 2.5


OUTAGE = Outage(peers=("hub",), begins_unix_ms=START_UNIX_MS, ends_unix_ms=START_UNIX_MS + DAY)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"cert_lifetime_ms": 1}, "--cert-lifetime: certificates live from 10m"),
        ({"cert_lifetime_ms": 11 * YEAR_MS}, "--cert-lifetime: certificates live from 10m to 3650d"),
        ({"cert_lifetime_ms": HOUR, "devices": 10}, "--devices: about .* the limit is 100000; use fewer"),
        ({"outages": (OUTAGE,) * 201}, "--outage: at most 200"),
        ({"end_unix_ms": START_UNIX_MS, "outages": (OUTAGE,)}, "--hub-outage: it lies outside"),
        (
            {"clock_steps": (ClockStep(at_unix_ms=START_UNIX_MS - 1, by_ms=1),)},
            "--clock-step: it lies outside the simulated time, 2027-01-01 to 2036-12-29; see --start",
        ),
    ],
)
def test_limits(facts, says):
    with pytest.raises(OptionWrong, match=says):
        check(Scenario(**facts))


def test_the_first_instant_is_inside_and_the_defaults_are_far_from_any_limit():
    scenario = Scenario(outages=(OUTAGE,))
    assert check(scenario) is scenario
    assert 150 <= expected_attempts(Scenario()) <= 160
