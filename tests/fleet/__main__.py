"""Peaks of a whole fleet, and what an outage of a day comes to: ``python -m tests.fleet --devices 100000``.

Exits with 1 when a claim does not hold: at most 100 renewals a minute of up to 100 000 devices, and after the
outage no more attempts a minute than the cloud admits, with no certificate ended that it left time for.
"""

import argparse
import random
import sys
import time
from collections import Counter

from statemachine.policy import DRAWS, START_SPREAD_MS, start_spread_ms
from tests.fleet.model import DAY, HOUR, MINUTE, Plan, Recovery, recover, renewals_by_minute

PEAK_OF_100_000 = 100
POSITIONS_H = (110.0, 117.6, 123.0, 127.0, 133.0)
"When the outage begins, after enrolment: the renewal window is open from hour 117.6 to 151.2, the end 168."
LATE_H = (139.0, 143.0)
"It then ends so late that everybody has to hurry: nobody may expire, but about demand nothing is claimed."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--retry-after", type=int, metavar="SECONDS", help="of a 429 (default: none is sent)")
    args = parser.parse_args()
    retry_after_ms = None if args.retry_after is None else args.retry_after * 1000
    plan = Plan(seed=args.seed, retry_after_ms=retry_after_ms).scaled(args.devices)
    failed = [*_draws(plan), *_outages(plan)]
    _power_on(plan)
    for claim in failed:
        print(f"DOES NOT HOLD: {claim}")
    return int(bool(failed))


def _draws(plan: Plan) -> list[str]:
    began = time.perf_counter()
    peak = max(renewals_by_minute(plan).values())
    limit = max(PEAK_OF_100_000 * plan.devices // 100_000, PEAK_OF_100_000)
    print(
        f"{plan.devices} devices enrolled in one minute, {plan.life_ms // DAY}-day certificates: "
        f"peak {peak} renewals a minute (limit {limit}); {time.perf_counter() - began:.1f} s"
    )
    return [] if peak <= limit else [f"at most {limit} renewals a minute"]


def _outages(plan: Plan) -> list[str]:
    failed = []
    print(f"cloud away for {plan.outage_ms // HOUR} h, then admits {plan.admitted} registrations a minute:")
    for begins_h in (*POSITIONS_H, *LATE_H):
        began = time.perf_counter()
        placed = Plan(
            devices=plan.devices,
            admitted=plan.admitted,
            seed=plan.seed,
            retry_after_ms=plan.retry_after_ms,
            outage_begins_ms=round(begins_h * HOUR),
        )
        found = recover(placed)
        print(
            f"  from hour {begins_h:g}: {_told(placed, found)}; {time.perf_counter() - began:.1f} s",
            flush=True,
        )
        if found.peak > placed.admitted and begins_h in POSITIONS_H:
            failed.append(f"demand under the admitted rate, outage from hour {begins_h:g}")
        if found.expired > found.hopeless:
            failed.append(f"no certificate ends, outage from hour {begins_h:g}")
    return failed


def _told(plan: Plan, found: Recovery) -> str:
    return (
        f"peak demand {found.peak} a minute ({found.peak / plan.admitted:.2f} of what is admitted), "
        f"{found.minutes_over(plan.admitted)} minutes over it, {found.refused} refused, "
        f"{found.unanswered} attempts into the outage, {found.expired} expired ({found.hopeless} before its "
        f"end), worst slack {found.worst_slack_ms / HOUR:.1f} h"
    )


def _power_on(plan: Plan) -> None:
    """No claim: power returns to a site, not to a fleet."""
    chance = random.Random(plan.seed)
    slack_ms = plan.life_ms // 10
    minutes = Counter(
        start_spread_ms(draw_ppm=chance.randrange(DRAWS), slack_ms=slack_ms) // MINUTE
        for _ in range(plan.devices)
    )
    print(
        f"all powered on at once with a renewal overdue: peak {max(minutes.values())} a minute over "
        f"{START_SPREAD_MS // MINUTE} minutes (no claim)"
    )


if __name__ == "__main__":
    sys.exit(main())
