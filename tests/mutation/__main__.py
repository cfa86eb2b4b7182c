"""Mutants of the machine, and who kills them. ``python -m tests.mutation [--jobs 2] [--only PATTERN]``

Mutants are generated from every row of both tables, every guard, and every function a step runs. One is
killed when the machine's own builder refuses it, a recorded journal no longer replays, a test of tests/core
fails, or the explorer finds an invariant violated. What survives must be listed, with its reason, in
equivalent.toml.

Exit status 0 only if every other mutant was killed and no entry of that list is stale.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutation import equivalent
from tests.mutation.difference import steps
from tests.mutation.harness import (
    Panel,
    Verdict,
    examine,
    look_at_unchanged,
    remembered_looks,
    supposed_looks,
    with_tests,
)
from tests.mutation.killers import EXPLORED, KILLERS, explorer
from tests.mutation.mutants import all_mutants
from tests.mutation.report import Run, as_json, text
from tests.mutation.source import Mutant


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m tests.mutation --only 'guards.within_budget' --verbose",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants side by side (1)")
    parser.add_argument("--only", metavar="TEXT", help="mutants whose id contains this, or any line of @FILE")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them, drawn by --seed")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the sample (1)")
    parser.add_argument("--killers", default=",".join(KILLERS), help="a choice of " + ",".join(KILLERS))
    parser.add_argument(
        "--worlds", type=int, default=EXPLORED, metavar="N", help=f"that the explorer looks at ({EXPLORED})"
    )
    parser.add_argument(
        "--unchecked", action="store_true", help="the tests are known to pass; do not run them first"
    )
    parser.add_argument(
        "--unmeasured", action="store_true", help="do not find out first which test reaches what"
    )
    parser.add_argument(
        "--looks", type=Path, metavar="FILE", help="keep there, and use again, what that found out"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="one JSON object a mutant")
    parser.add_argument("--list", action="store_true", help="the mutants only")
    parser.add_argument("--verbose", action="store_true", help="each verdict as it becomes known")
    args = parser.parse_args()
    every = all_mutants()
    chosen = _chosen(every, args.only, args.sample, args.seed)
    if args.list:
        print("\n".join(f"{one.place}  {one.id}" for one in chosen))
        return 0
    killers = frozenset(args.killers.split(","))
    if not killers <= set(KILLERS):
        parser.error(f"no such killer: {', '.join(sorted(killers - set(KILLERS)))}")
    run = Run()
    began = time.monotonic()

    def work(items: list[pytest.Item]) -> None:
        if args.unchecked:
            looks = supposed_looks(items)
        elif args.looks is not None:
            looks = remembered_looks(items, args.looks)
        else:
            looks = look_at_unchanged(items, measured=not args.unmeasured)
        green = "supposed to pass" if args.unchecked else "pass"
        _say(f"{len(items)} tests {green} on the unchanged machine")
        _say(f"{len(chosen)} of {len(every)} mutants follow")
        known = equivalent.entries()
        listed = frozenset(one.id for one in chosen if equivalent.reason_for(one, known) is not None)
        panel = Panel(
            items=items,
            looks=looks,
            killers=killers,
            explorer=explorer(args.worlds),
            listed=listed,
            steps=steps() if listed else [],
        )
        for verdict in examine(chosen, panel, jobs=args.jobs):
            run.verdicts.append(verdict)
            _tell(verdict, len(run.verdicts), len(chosen), verbose=args.verbose)

    with_tests(work)
    run.wall_s = time.monotonic() - began
    _judge(run, every)
    print(text(run))
    if args.report is not None:
        args.report.write_text(as_json(run.verdicts, run.reasons) + "\n", encoding="utf-8")
    return 0 if run.passed else 1


def _chosen(every: list[Mutant], only: str | None, sample: int | None, seed: int) -> list[Mutant]:
    some = every
    if only is not None:
        texts = Path(only[1:]).read_text(encoding="utf-8").splitlines() if only.startswith("@") else [only]
        some = [one for one in every if any(_fits(one, part) for part in texts if part)]
    if sample is not None and sample < len(some):
        # By each one's own name, so that a new row or line does not draw another sample.
        drawn = {one.id for one in sorted(some, key=lambda one: _lot(seed, one))[:sample]}
        some = [one for one in some if one.id in drawn]
    return some


def _fits(mutant: Mutant, text: str) -> bool:
    """``^`` in front means at the beginning."""
    return mutant.id.startswith(text[1:]) if text.startswith("^") else text in mutant.id


def _lot(seed: int, mutant: Mutant) -> bytes:
    return hashlib.sha256(f"{seed} {mutant.id}".encode()).digest()


def _judge(run: Run, every: list[Mutant]) -> None:
    known = equivalent.entries()
    for verdict in run.verdicts:
        reason = equivalent.reason_for(verdict.mutant, known)
        if reason is not None and verdict.killer is None:
            run.reasons[verdict.mutant.id] = reason
    run.stale = equivalent.stale(known, every, (one.mutant for one in run.killed))


_say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731


def _tell(verdict: Verdict, number: int, of: int, *, verbose: bool) -> None:
    who = f"{number}/{of}  {verdict.killer or 'SURVIVES'}  {verdict.mutant.id}  ({verdict.cpu_s:.1f} s)"
    if verdict.killer is None or verbose:
        _say(f"{who}  {verdict.test} {verdict.found}".rstrip())
    elif number % 100 == 0:
        _say(f"{number}/{of}")


if __name__ == "__main__":
    sys.exit(main())
