"""Power cuts and failing disks, everywhere in a device's life.

``python -m tests.crash [--model ordered|reordered|torn|twice|faults|all] [--jobs 2] [--sample N] [--seed S]``

Records one life on the real stores and the real journal, enumerates the disks it may leave behind
(``models.py``), what a second crash makes of them (``twice.py``) and the calls that may fail
(``faults.py``), and judges each (``judge.py``). Prints what was tried; exit status 1 when anything was
wrong, told with its operations.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from tests.crash import faults, models, twice
from tests.crash.judge import Wrong, empty_directory, judge
from tests.crash.sequence import Life, lived

SAMPLE, SEED = 2_000, 1
KILLS = 60
SHOWN = 5
"Of the cases that were wrong."

Case = models.State | faults.Injection | twice.Kill
Say = Callable[[str], None]


class Verdict(Struct, frozen=True):
    """On one case: how much it was, and what is wrong with it."""

    judged: int = 1
    wrong: str | None = None


class Trial:
    """A recorded life, and the verdict on what may become of it."""

    def __init__(self) -> None:
        with empty_directory() as root:
            self.life: Life = lived(root)
            self.unrecorded = self.life.recorder.unrecorded()
        self.prefixes = models.prefixes(self.life)

    def verdict(self, case: Case) -> Verdict:
        try:
            if isinstance(case, faults.Injection):
                return Verdict(int(faults.suffer(self.life.opening[case.chapter], case)))
            if isinstance(case, twice.Kill):
                return Verdict(twice.go_on(self.prefixes[case.prefix]))
            prefix = self.prefixes[case.prefix]
            judge(models.image_of(prefix, case), prefix.moment, tidy=case.model != "torn")
        except Wrong as exc:
            return Verdict(wrong=str(exc))
        return Verdict()

    def told(self, case: Case) -> list[str]:
        operations = self.life.recorder.operations
        if isinstance(case, faults.Injection):
            return [faults.told(case)]
        if isinstance(case, twice.Kill):
            case = models.State(model="ordered", prefix=case.prefix)
        return models.tell(self.prefixes[case.prefix], case, operations)

    def try_all(self, cases: Sequence[Case], jobs: int = 1) -> Iterator[tuple[Case, Verdict]]:
        """In the order of the cases."""
        if jobs == 1:
            yield from ((case, self.verdict(case)) for case in cases)
            return
        # Forked: the recording is there already, and disks need not travel.
        global _trial
        _trial = self
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            yield from zip(cases, pool.imap(_verdict, cases, chunksize=4), strict=True)


_trial: Trial | None = None


def _verdict(case: Case) -> Verdict:
    assert _trial is not None
    return _trial.verdict(case)


def crash_anywhere(*, model: str, jobs: int, sample: int, seed: int, say: Say = print) -> bool:
    """Whether all passed."""
    begun = time.monotonic()
    trial = Trial()
    recorder = trial.life.recorder
    for line in trial.unrecorded:
        say(line)
    say(
        f"recorded: {len(recorder.recorded)} operations in {recorder.calls} calls of "
        f"{len(trial.life.opening)} processes; done again, they make "
        f"{'another disk' if trial.unrecorded else 'the very disk that was left'}"
    )
    passed = not trial.unrecorded
    for name in models.MODELS:
        if model in (name, "all"):
            found = models.enumerate_states(trial.life, trial.prefixes, name, sample=sample, seed=seed)
            how = f"{found.reduced} prefixes sampled with seed {seed}" if found.reduced else "all of them"
            what = (
                f"{name}: {found.total} disks ({how}; at most {found.most_pending} changes not durable), "
                f"{len(found.states)} distinct"
            )
            passed = _try(trial, what, "{} judged", found.states, jobs, say) and passed
    if model in ("twice", "all"):
        kills = twice.kills(trial.prefixes, sample=KILLS, seed=seed)
        what = f"twice: {len(kills)} kills (seed {seed}), each followed by a power cut after every operation"
        passed = _try(trial, what, "{} distinct disks judged", kills, jobs, say) and passed
    if model in ("faults", "all"):
        injections = faults.injections(trial.life)
        counts = ", ".join(f"{sum(one.kind == kind for one in injections)} {kind}" for kind in faults.KINDS)
        passed = _try(trial, f"faults: {counts}", "{} were met", injections, jobs, say) and passed
    say(f"{'all passed' if passed else 'FAILED'} in {time.monotonic() - begun:.0f} s")
    return passed


def _try(trial: Trial, what: str, done: str, cases: Sequence[Case], jobs: int, say: Say) -> bool:
    start = time.monotonic()
    judged, wrong = 0, []
    for case, verdict in trial.try_all(cases, jobs):
        judged += verdict.judged
        if verdict.wrong is not None:
            wrong.append((case, verdict.wrong))
    outcome = f"{len(wrong)} WRONG" if wrong else "all right"
    say(f"{what}; {done.format(judged)}: {outcome} ({time.monotonic() - start:.0f} s)")
    for case, why in wrong[:SHOWN]:
        say("\n".join([f"\nwrong: {why}", *trial.told(case)]))
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", choices=(*models.MODELS, "twice", "faults", "all"), default="all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="subsets drawn where there are too many")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    passed = crash_anywhere(model=given.model, jobs=given.jobs, sample=given.sample, seed=given.seed)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
