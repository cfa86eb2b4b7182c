"""Every scenario, generated: families of products."""

import random
from collections.abc import Iterator
from itertools import product

from adapters.driven.clock import RECHECK_S
from statemachine.states import Phase
from tests.clocks.cloud import TLS_BEGUN_MS, TLS_LEFT_MS
from tests.clocks.scenario import (
    BUILD_MS,
    DAY,
    FEW,
    HOUR,
    LIFE_MS,
    MINUTE,
    RIGHT,
    SECOND,
    YEAR,
    AtCommit,
    BeforeEnd,
    CloudShows,
    Dial,
    Drift,
    Happening,
    InPhase,
    Later,
    Off,
    Restart,
    Scenario,
    Set,
    Shows,
    Suspend,
    When,
)

BUDGET_A_DAY = 110
"Where a cloud contradicts itself only the budget holds back: its first half goes as fast as the backoff."
BUDGET_GAP_S = 8 * 3_600
"Its second half is spread over the rest of 30 days."

DIALS: dict[str, Dial] = {
    "1970": Shows(0),
    "2000": Shows(946_684_800_000),
    "before-build": Off(BUILD_MS - DAY),
    "-400d": Off(-400 * DAY),
    "-2d": Off(-2 * DAY),
    "-90min": Off(-90 * MINUTE),
    "-2min": Off(-2 * MINUTE),
    "+2min": Off(2 * MINUTE),
    "+90min": Off(90 * MINUTE),
    "+2d": Off(2 * DAY),
    "+400d": Off(400 * DAY),
    "+20y": Off(20 * YEAR),
}

SYNC = Set(RIGHT, synchronised=True)
BY_HAND = Set(RIGHT, synchronised=False)

LATER: dict[str, tuple[Happening, ...]] = {
    "synced-in-10s": (Happening(Later(10 * SECOND), (SYNC,)),),
    "synced-in-1h": (Happening(Later(HOUR), (SYNC,)),),
    "synced-in-3d": (Happening(Later(3 * DAY), (SYNC,)),),
    "by-hand-in-1h": (Happening(Later(HOUR), (BY_HAND,)),),
    "never": (),
}


def seen_by_tls(dial: Dial) -> bool:
    """TLS with the cloud works with such a clock, so the cloud's Date can be had."""
    return isinstance(dial, Off) and -TLS_BEGUN_MS <= dial.by_ms <= TLS_LEFT_MS


def boots() -> Iterator[Scenario]:
    """The first start of all."""
    for (dial_name, dial), (later, script) in product(DIALS.items(), LATER.items()):
        yield Scenario(
            name=f"boot {dial_name} {later}",
            family="boot",
            dial=dial,
            synchronised=False,
            script=script,
            right=bool(script),
            reachable=bool(script) or seen_by_tls(dial),
            days=130 if script or seen_by_tls(dial) else 2,
        )


JUMPS: dict[str, int] = {
    "-400d": -400 * DAY,
    "-2d": -2 * DAY,
    "-90min": -90 * MINUTE,
    "-2min": -2 * MINUTE,
    "+2min": 2 * MINUTE,
    "+90min": 90 * MINUTE,
    "+2d": 2 * DAY,
    "+400d": 400 * DAY,
}

PHASES = tuple(phase for phase in Phase if phase is not Phase.IDLE)

MOMENTS: dict[str, When] = {
    "at-rest": Later(10 * DAY),
    **{phase.value.lower(): InPhase(phase) for phase in PHASES},
    "before-flip": AtCommit(after=False),
    "after-flip": AtCommit(after=True),
}

SETTLED = Happening(Later(MINUTE), ())
"The first registration is over."

BACK: dict[str, tuple[Happening, ...]] = {
    "synced-in-10min": (Happening(Later(10 * MINUTE), (SYNC,)),),
    "synced-in-1d": (Happening(Later(DAY), (SYNC,)),),
    "by-hand-in-1h": (Happening(Later(HOUR), (BY_HAND,)),),
}


def jumps() -> Iterator[Scenario]:
    """Before, during each phase of, and after a renewal."""
    for (jump, by_ms), (moment, when), (back, script) in product(
        JUMPS.items(), MOMENTS.items(), BACK.items()
    ):
        step = Happening(when, (Set(Off(by_ms), synchronised=False),))
        yield Scenario(name=f"jump {jump} {moment} {back}", family="jump", script=(SETTLED, step, *script))


def restarts() -> Iterator[Scenario]:
    """A provisioned device comes back with another clock: a flat battery, another reader of the RTC."""
    moments: dict[str, tuple[When, int]] = {
        "fresh": (Later(5 * DAY), HOUR),
        "before-the-window": (BeforeEnd(28 * DAY), HOUR),
        "across-the-end": (Later(5 * DAY), 100 * DAY),
        "renewed": (Later(85 * DAY), HOUR),
    }
    laters = {name: LATER[name] for name in ("synced-in-10s", "synced-in-1h", "by-hand-in-1h", "never")}
    for (dial_name, dial), (moment, (when, down_ms)), (later, script) in product(
        DIALS.items(), moments.items(), laters.items()
    ):
        restart = Happening(when, (Restart(down_ms, dial, synchronised=False),))
        reachable = bool(script) or seen_by_tls(dial)
        yield Scenario(
            name=f"restart {dial_name} {moment} {later}",
            family="restart",
            script=(SETTLED, restart, *script),
            right=bool(script),
            reachable=reachable,
            days=130 if reachable else 2,
        )


def crashes() -> Iterator[Scenario]:
    """Killed in each phase of a renewal, and started again at once with another clock."""
    dials = {name: DIALS[name] for name in ("1970", "-2d", "+2d", "+400d")}
    for (dial_name, dial), phase, later in product(dials.items(), PHASES, ("synced-in-10s", "by-hand-in-1h")):
        crash = Happening(InPhase(phase), (Restart(5 * SECOND, dial, synchronised=False),))
        yield Scenario(
            name=f"crash {phase.value} {dial_name} {later}",
            family="crash",
            script=(crash, *LATER[later]),
        )


def suspensions() -> Iterator[Scenario]:
    """Asleep across what was armed. Elapsed time goes on; the RTC that fills the gap may be off."""
    moments: dict[str, tuple[When, int]] = {
        "the-window": (BeforeEnd(28 * DAY), 2 * DAY),
        "the-renewal": (BeforeEnd(28 * DAY), 20 * DAY),
        "the-end": (BeforeEnd(28 * DAY), 40 * DAY),
        "years": (BeforeEnd(28 * DAY), 3 * YEAR),
    }
    slips = {"exact": 0, "-30s": -30 * SECOND, "+10min": 10 * MINUTE}
    for (moment, (when, ms)), (slip, slip_ms), synchronised, watch in product(
        moments.items(), slips.items(), (True, False), (True, False)
    ):
        yield Scenario(
            name=f"suspended across {moment} {slip}{' synced' * synchronised}{' unwatched' * (not watch)}",
            family="suspend",
            synchronised=synchronised,
            watch=watch,
            script=(SETTLED, Happening(when, (Suspend(ms, slip_ms),))),
            right_within_s=60 if watch else 60 + int(RECHECK_S),
        )


def drifts() -> Iterator[Scenario]:
    """An oscillator that is off, and nobody who says so until a sync comes."""
    rates = {"2s": 23, "10s": 116, "5min": 3_472}
    ends = {"10d": 10 * DAY, "60d": 60 * DAY, "200d": 200 * DAY, "never": None}
    for (rate, ppm), sign, (end, ms) in product(rates.items(), (1, -1), ends.items()):
        begins = Happening(Later(0), (Drift(sign * ppm),))
        script = () if ms is None else (Happening(Later(ms), (Drift(0), SYNC)),)
        yield Scenario(
            name=f"drift {'-+'[sign < 0]}{rate}-a-day synced {end}",
            family="drift",
            synchronised=False,
            script=(begins, *script),
            right=ms is not None,
            # Nobody says so: after these days it is off by as much.
            slack_ms=HOUR if ms is not None else max(HOUR, 140 * DAY * ppm // 1_000_000),
        )


def disagreements() -> Iterator[Scenario]:
    """The cloud's Date is wrong, or missing; our own clock is right, and the kernel says so or does not."""
    shows = {**JUMPS, "none": None}
    for (shown, by_ms), synchronised, (lasts, ms) in product(
        shows.items(), (True, False), {"1min": MINUTE, "long": 70 * DAY, "ever": None}.items()
    ):
        off_ms = by_ms or 0
        tolerable = abs(off_ms) <= HOUR
        # Chains that such a Date contradicts are not accepted: those that have yet to begin, or have ended.
        useless = not tolerable and not 0 < off_ms < LIFE_MS
        ends = (
            () if ms is None else (Happening(Later(min(ms, 2 * DAY) if useless else ms), (CloudShows(0),)),)
        )
        yield Scenario(
            name=f"date {shown} for {lasts}{' synced' * synchronised}",
            family="date",
            synchronised=synchronised,
            cloud_shows=by_ms,
            script=ends,
            # How wrong the Date was comes out when the cloud is asked next, and not before.
            right=tolerable or (useless and ms is not None),
            right_within_s=60 if tolerable else BUDGET_GAP_S,
            reachable=ms is not None or not useless,
            slack_ms=HOUR if ms is not None else max(HOUR, abs(off_ms) + 5 * MINUTE),
            a_day=BUDGET_A_DAY if useless else FEW,
            polls_in_10_s=8 if useless else 5,
            days=2 if useless and ms is None else 130,
        )


def hubs() -> Iterator[Scenario]:
    """Only the hub's Date is wrong, for ever. It is asked last, so it is what stays.

    Not by years: deadlines are off by as much, so a hub that is behind by more than a certificate's slack
    and is never right would cost one.
    """
    offs = {name: by_ms for name, by_ms in JUMPS.items() if abs(by_ms) <= 2 * DAY}
    for (jump, by_ms), synchronised in product(offs.items(), (True, False)):
        yield Scenario(
            name=f"hub-date {jump}{' synced' * synchronised}",
            family="hub-date",
            synchronised=synchronised,
            hub_off_ms=by_ms,
            right=False,
            slack_ms=max(HOUR, abs(by_ms) + 5 * MINUTE),
        )


def liars() -> Iterator[Scenario]:
    """The kernel says that its clock is synchronised, and it is wrong; the cloud's Date is right."""
    for (jump, by_ms), (moment, when) in product(
        JUMPS.items(), {"at-rest": Later(10 * DAY), "polling": InPhase(Phase.POLLING)}.items()
    ):
        lie = Happening(when, (Set(Off(by_ms), synchronised=True),))
        mended = Happening(Later(DAY), (SYNC,))
        yield Scenario(
            name=f"lie {jump} {moment}", family="lie", deceived=True, script=(SETTLED, lie, mended)
        )


def there_and_back() -> Iterator[Scenario]:
    """Clocks that are set again and again."""
    ways = {
        "two-days-and-back": (2 * DAY, 0),
        "a-year-and-back": (YEAR, 0),
        "both-ways": (YEAR, -YEAR, 0),
        "a-day-at-a-time": (*(23 * HOUR * n for n in range(1, 15)), 0),
        "back-a-day-at-a-time": (*(-23 * HOUR * n for n in range(1, 15)), 0),
        "every-minute": (2 * DAY, 0) * 30,
    }
    for (way, offs), (pace, ms), synchronised in product(
        ways.items(), {"1min": MINUTE, "1h": HOUR}.items(), (True, False)
    ):
        script = tuple(
            Happening(Later(ms), (Set(Off(by_ms), synchronised=synchronised and by_ms == 0),))
            for by_ms in offs
        )
        yield Scenario(
            name=f"back-and-forth {way} {pace}{' synced' * synchronised}",
            family="back-and-forth",
            script=(Happening(Later(10 * DAY), ()), *script),
        )


def issuers() -> Iterator[Scenario]:
    """Certificates that begin in our future: the CA's clock is ahead of everybody's."""
    for (ahead, ms), synchronised, (dated, shows) in product(
        {"4min": 4 * MINUTE, "90min": 90 * MINUTE, "1d": DAY, "30d": 30 * DAY}.items(),
        (True, False),
        {"dated": 0, "undated": None}.items(),
    ):
        yield Scenario(
            name=f"issued {ahead} ahead {dated}{' synced' * synchronised}",
            family="issuer",
            synchronised=synchronised,
            ca_ahead_ms=ms,
            cloud_shows=shows,
            right=ms <= 5 * MINUTE,
            # The hub takes it once it has begun, and is asked by a backoff that doubles.
            right_within_s=60 + 2 * ms // SECOND,
            reachable=ms <= 5 * MINUTE,
            a_day=FEW if ms <= 5 * MINUTE else BUDGET_A_DAY,
            tries_a_day=400 if ms <= 5 * MINUTE else 800,
            polls_in_10_s=5 if ms <= 5 * MINUTE else 8,
            days=130 if ms <= 5 * MINUTE else 2,
        )


def builds() -> Iterator[Scenario]:
    """A release that was built by a machine whose own clock was ahead."""
    for (ahead, ms), synchronised, restarted in product(
        {"90min": 90 * MINUTE, "2d": 2 * DAY, "400d": 400 * DAY}.items(), (True, False), (True, False)
    ):
        again = Happening(Later(10 * DAY), (Restart(MINUTE, RIGHT, synchronised=synchronised),))
        yield Scenario(
            name=f"built {ahead} ahead{' restarted' * restarted}{' synced' * synchronised}",
            family="build",
            synchronised=synchronised,
            build_ms=ms,
            script=(again,) if restarted else (),
        )


def eras() -> Iterator[Scenario]:
    """The ends of 32-bit time, signed and unsigned, and clocks that wrap there."""
    ends = {"2038": 2**31 * SECOND, "2106": 2**32 * SECOND}
    wraps: dict[str, Dial | None] = {
        "whole": None,
        "wraps-to-1901": Shows(-(2**31) * SECOND),
        "wraps-to-1970": Shows(0),
    }
    for (end, at_ms), (wrap, dial), (moment, ms), synchronised in product(
        ends.items(), wraps.items(), {"at-rest": 30 * DAY, "in-the-window": 70 * DAY}.items(), (True, False)
    ):
        wrapped = () if dial is None else (Set(dial, synchronised=False),)
        yield Scenario(
            name=f"era {end} {moment} {wrap}{' synced' * synchronised}",
            family="era",
            begins_unix_ms=at_ms - ms,
            synchronised=synchronised,
            script=(
                Happening(Later(ms), wrapped),
                Happening(Later(HOUR), (Set(RIGHT, synchronised=synchronised),)),
            ),
        )


FAMILIES = (
    boots,
    restarts,
    jumps,
    crashes,
    suspensions,
    drifts,
    disagreements,
    hubs,
    liars,
    there_and_back,
    issuers,
    builds,
    eras,
)


def scenarios() -> tuple[Scenario, ...]:
    """All of them, each name once."""
    return tuple(scenario for family in FAMILIES for scenario in family())


def covering() -> tuple[Scenario, ...]:
    """A few of them, chosen so that every value of every dimension of every family is in one at least."""
    seen: set[tuple[str, int, str]] = set()
    chosen = []
    everything = list(scenarios())
    random.Random(1).shuffle(everything)
    for scenario in everything:
        values = {(scenario.family, place, word) for place, word in enumerate(scenario.name.split())}
        if not values <= seen:
            seen |= values
            chosen.append(scenario)
    return tuple(chosen)
