"""A device among wrong clocks. ``python -m tests.clocks [--only WORD|--idle-process SECONDS|--set-clock]``

Without options: every generated scenario on virtual time, the real runtime, machine, timers and clock
watch, judged by the true time. Exit status 1 when any is not as claimed.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.clocks.idle import measure_idle_process
from tests.clocks.judge import Seen, judge
from tests.clocks.life import play
from tests.clocks.scenario import FEW, Scenario
from tests.clocks.scenarios import scenarios
from tests.clocks.set_clock import try_setting

CLAIM_S = 60


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.clocks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", metavar="WORD", help="scenarios whose name contains it")
    parser.add_argument("--seed", type=int, default=0, help="another order of what happens at one instant")
    parser.add_argument("--idle-process", metavar="SECONDS", type=float, help="watch a real process rest")
    parser.add_argument(
        "--set-clock",
        action="store_true",
        help="set this machine's clock a nanosecond on and back: is it noticed? needs CAP_SYS_TIME",
    )
    args = parser.parse_args()
    if args.idle_process is not None:
        return measure_idle_process(args.idle_process)
    if args.set_clock:
        return try_setting()
    logging.getLogger("identityd").setLevel(logging.CRITICAL)
    chosen = [one for one in scenarios() if args.only is None or args.only in one.name]
    began = time.process_time()
    lives = [_seen(one, args.seed) for one in chosen]
    print(report(chosen, lives, seconds=time.process_time() - began))
    return int(not lives or any(life.wrong for life in lives))


def _seen(scenario: Scenario, seed: int) -> Seen:
    life = judge(play(scenario, seed))
    if life.wrong:
        print(f"WRONG {life.name}: {'; '.join(life.wrong)}", flush=True)
    return life


def report(chosen: Sequence[Scenario], lives: Sequence[Seen], *, seconds: float) -> str:
    """What the run showed, for people."""
    pairs = list(zip(chosen, lives, strict=True))
    turned = [life for one, life in pairs if one.right and one.right_within_s == CLAIM_S]
    sound = [life for one, life in pairs if one.a_day == FEW]
    wrong = sum(bool(life.wrong) for life in lives)
    lines = [f"{len(lives)} scenarios in {seconds:.0f} s of processor time; {wrong} wrong"]
    for family, number in Counter(life.family for life in lives).items():
        mine = [(one, life) for one, life in pairs if life.family == family]
        slowest = max((life.right_after_s or 0.0 for _, life in mine), default=0.0)
        busiest = max(life.a_day for _, life in mine)
        lines.append(
            f"  {family:<15}{number:>4}  right after {slowest:8.1f} s  {busiest:>4} registrations a day"
        )
    if turned:
        slowest = max(turned, key=lambda life: life.right_after_s or 0.0)
        lines.append(
            f"worst time to right: {slowest.right_after_s:.1f} s of {CLAIM_S}, over {len(turned)} scenarios "
            f"in which the clock becomes right ({slowest.name})"
        )
    if sound:
        busiest = max(sound, key=lambda life: life.a_day)
        lines.append(
            f"worst registrations in a day: {busiest.a_day} of {FEW}, over {len(sound)} scenarios in which "
            f"the cloud does not contradict itself ({busiest.name})"
        )
    lines.append(f"records replayed equal: {sum(life.records for life in lives)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
