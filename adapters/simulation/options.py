"""What is to be simulated: values, their limits, and how they are written on a command line.

Nothing is read from the machine the simulation runs on, its clock included: the same options are the same
simulation everywhere.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeVar

from msgspec import Struct

from statemachine.policy import DAY_MS
from statemachine.settings import PolicySettings

YEAR_MS = 365 * DAY_MS
"A year here has 365 days, always."

START_UNIX_MS = 1_798_761_600_000
"2027-01-01T00:00:00Z. Fixed, because a simulation that begins today is another one tomorrow."

LEAST_YEARS, MOST_YEARS = 0.01, 100.0
LEAST_LIFE_MS, MOST_LIFE_MS = 600_000, 10 * YEAR_MS
"Below ten minutes a registration alone takes a noticeable part of a certificate's life."
MOST_DEVICES = 1_000
MOST_HAPPENINGS = 200
"Outages and steps of the clock together."
MOST_SPAN_MS = 100 * YEAR_MS
MOST_SEED = 2**63 - 1
MOST_ATTEMPTS = 100_000
"Expected for all devices together. An attempt takes three to six milliseconds: this is ten minutes at most."

DEFAULT_POLICY = PolicySettings(
    registration_id="device", endpoint="https://dps.example", scope_id="0ne0", attestation="symmetric_key"
)
"What this release does when config.toml says nothing of its own. The names in it are nobody's."

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_SPAN = re.compile(r"([+-]?)(\d{1,9}(?:\.\d{1,3})?)([smhd])", re.ASCII)
_EARLIEST_MS, _LATEST_MS = 946_684_800_000, 4_102_444_800_000
"2000-01-01 and 2100-01-01."

Peer = Literal["dps", "hub"]

T = TypeVar("T")


class OptionWrong(Exception):
    """``option`` cannot be used; ``message`` says why and what would do."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(f"argument {option}: {message}")
        self.option = option
        self.message = str(self)


class Outage(Struct, frozen=True, kw_only=True):
    """Nobody answers there."""

    peers: tuple[Peer, ...]
    begins_unix_ms: int
    ends_unix_ms: int


class ClockStep(Struct, frozen=True, kw_only=True):
    """The device's clock is set. While all steps together are not 0 it is wrong, and the kernel says so."""

    at_unix_ms: int
    by_ms: int


class Scenario(Struct, frozen=True, kw_only=True):
    """All that a simulation depends on."""

    policy: PolicySettings = DEFAULT_POLICY
    start_unix_ms: int = START_UNIX_MS
    end_unix_ms: int = START_UNIX_MS + 10 * YEAR_MS
    cert_lifetime_ms: int = 30 * DAY_MS
    "Of the certificates the cloud issues."
    answer_timeout_ms: int = 20_000
    "How long a request to a peer that does not answer lasts, tries included."
    segment_bytes: int = 1_048_576
    "The journal begins a new file at this size."
    seed: int = 1
    devices: int = 1
    outages: tuple[Outage, ...] = ()
    clock_steps: tuple[ClockStep, ...] = ()

    @property
    def span_ms(self) -> int:
        return self.end_unix_ms - self.start_unix_ms


# --- as they are written -----------------------------------------------------------------------------


def span_ms(option: str, text: str) -> int:
    """`6h`, `-2d`, `1.5d`: a number and one of s, m, h, d. Raises OptionWrong."""
    found = _SPAN.fullmatch(text)
    ms = 0 if found is None else round(float(found[2]) * _UNITS_MS[found[3]])
    if found is None or not 0 < ms <= MOST_SPAN_MS:
        raise OptionWrong(option, f"{_quoted(text)} is not a duration above 0, such as 90m, 6h or 30d")
    return -ms if found[1] == "-" else ms


def instant(option: str, text: str) -> int:
    """A date, or date and time, UTC unless an offset says otherwise. Raises OptionWrong."""
    try:
        at = datetime.fromisoformat(text)
        unix_ms = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        unix_ms = -1
    if not _EARLIEST_MS <= unix_ms < _LATEST_MS:
        raise OptionWrong(
            option, f"{_quoted(text)} is no date from 2000 to 2099, such as 2027-03-01 or 2027-03-01T06:00"
        )
    return unix_ms


def outages(option: str, texts: Sequence[str], peers: tuple[Peer, ...]) -> tuple[Outage, ...]:
    """`6h@2027-03-01`, each. Raises OptionWrong."""

    def outage(lasts_ms: int, at: int) -> Outage:
        if lasts_ms < 0:
            raise OptionWrong(option, "an outage lasts; give it without the minus")
        return Outage(peers=peers, begins_unix_ms=at, ends_unix_ms=at + lasts_ms)

    return tuple(_at(option, text, outage) for text in texts)


def clock_steps(option: str, texts: Sequence[str]) -> tuple[ClockStep, ...]:
    """`-2d@2027-05-01`, each. Raises OptionWrong."""
    return tuple(_at(option, text, lambda by, at: ClockStep(at_unix_ms=at, by_ms=by)) for text in texts)


def _at(option: str, text: str, make: Callable[[int, int], T]) -> T:
    amount, found, at = text.partition("@")
    if not found:
        raise OptionWrong(option, f"{_quoted(text)} does not say when; write it like 6h@2027-03-01")
    return make(span_ms(option, amount), instant(option, at))


def number(option: str, text: str, least: float, most: float, *, whole: bool = True) -> float:
    """Raises OptionWrong."""
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise OptionWrong(option, f"{_quoted(text)} is not {kind} from {least:g} to {most:g}")
    return value


def _quoted(text: str) -> str:
    shown = text if len(text) <= 40 else f"{text[:39]}…"
    return repr(shown)


# --- as a whole --------------------------------------------------------------------------------------


def check(scenario: Scenario) -> Scenario:
    """The scenario, when it can be run in bounded time. Raises OptionWrong."""
    life_ms = scenario.cert_lifetime_ms
    if not LEAST_LIFE_MS <= life_ms <= MOST_LIFE_MS:
        raise OptionWrong("--cert-lifetime", "certificates live from 10m to 3650d")
    if len(scenario.outages) + len(scenario.clock_steps) > MOST_HAPPENINGS:
        raise OptionWrong("--outage", f"at most {MOST_HAPPENINGS} outages and clock steps together")
    for outage in scenario.outages:
        option = "--outage" if "dps" in outage.peers else "--hub-outage"
        _inside(option, outage.begins_unix_ms, scenario)
    for step in scenario.clock_steps:
        _inside("--clock-step", step.at_unix_ms, scenario)
    attempts = expected_attempts(scenario)
    if attempts > MOST_ATTEMPTS:
        raise OptionWrong(
            "--devices",
            f"about {attempts} attempts would be simulated, the limit is {MOST_ATTEMPTS}; use fewer devices "
            "or years, a longer --cert-lifetime, or shorter outages",
        )
    return scenario


def expected_attempts(scenario: Scenario) -> int:
    """Attempts to obtain a certificate that all devices will make, roughly."""
    policy = scenario.policy
    middle_percent = (policy.renewal_earliest_percent + policy.renewal_latest_percent) // 2
    renewals = scenario.span_ms * 100 // max(scenario.cert_lifetime_ms * middle_percent, 1) + 1
    # With full jitter a wait is half its bound on average.
    retries = _total_ms(scenario.outages) // max(policy.backoff_cap_ms // 2, 1)
    return scenario.devices * (renewals + retries)


def _total_ms(outages: Iterable[Outage]) -> int:
    return sum(one.ends_unix_ms - one.begins_unix_ms for one in outages)


def _inside(option: str, at_unix_ms: int, scenario: Scenario) -> None:
    if scenario.start_unix_ms <= at_unix_ms < scenario.end_unix_ms:
        return
    first, last = (
        datetime.fromtimestamp(one / 1000, UTC).strftime("%Y-%m-%d")
        for one in (scenario.start_unix_ms, scenario.end_unix_ms)
    )
    raise OptionWrong(
        option, f"it lies outside the simulated time, {first} to {last}; see --start and --years"
    )
