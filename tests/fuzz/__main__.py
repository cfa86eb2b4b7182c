"""Fuzzing of the DPS and hub adapters: ``python -m tests.fuzz [--minutes 10] [--seed N]``.

The real adapters are told mutated answers over a connection without TCP and TLS; what must hold of each
event is in ``harness.py``. The kept corpus is mutated by a seed; what leads to an outcome not seen before is
mutated further. Prints figures and a histogram of outcomes. Exit status 1 at the first bad event, with the
input as a file. ``guided.py`` does the same by coverage.
"""

import argparse
import gc
import hashlib
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import trio
import trio.testing
from msgspec import Struct, field

from tests.fuzz.harness import Harness, Outcome, described
from tests.fuzz.inputs import Input, kept
from tests.fuzz.mutate import Mutator
from tests.fuzz.peer import Peer, spoken_to
from tests.rogue.table import frozen

MAX_GROWTH_MIB = 32
"Of what the process holds between two inputs, from its first hundreds to its end."
MAX_PEAK_MIB = 64
"Of the most it ever held, beyond that: an answer may have 4 MiB, and there are some copies of it on the way."
WARM = 500
KEPT_INPUTS, KEPT_BYTES = 1_000, 16_384


class Figures(Struct):
    """What a run has seen."""

    executions: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    shapes: set[tuple[str, ...]] = field(default_factory=set)
    warm_mib: float = 0.0
    "Held after the first executions."
    held_mib: float = 0.0
    "Held at the end."
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> bool:
        """True when it is another one than all before."""
        self.executions += 1
        self.outcomes[outcome.key] += 1
        new = outcome.shape not in self.shapes
        self.shapes.add(outcome.shape)
        if self.executions % WARM == 0:
            self.weigh()
        return new

    def weigh(self) -> None:
        """What is held now, garbage taken away."""
        gc.collect()
        with open("/proc/self/statm", encoding="ascii") as file:
            self.held_mib = int(file.read().split()[1]) * resource.getpagesize() / 1024**2
        self.warm_mib = self.warm_mib or self.held_mib

    @property
    def peak_mib(self) -> float:
        """Of the whole life of the process."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    @property
    def within_bounds(self) -> bool:
        """Whether memory is."""
        return (
            self.held_mib - self.warm_mib <= MAX_GROWTH_MIB and self.peak_mib - self.warm_mib <= MAX_PEAK_MIB
        )


class Found(Exception):
    """An input with a bad outcome."""

    def __init__(self, given: Input, why: str) -> None:
        super().__init__(why)
        self.given = given


async def one(harness: Harness, given: Input) -> Outcome:
    """Raises Found."""
    try:
        return await harness.run(given)
    except Exception as exc:  # whatever gets through is what is looked for
        raise Found(given, described(exc)) from exc


def mutate(
    seed: int,
    *,
    seconds: float | None = None,
    executions: int | None = None,
    keep: Path | None = None,
) -> Figures:
    """The corpus as it is, then what comes of it, for so long or so often. Raises Found.

    What led to an event, class or code that no input before had is written below ``keep``.
    """
    figures = Figures()
    begun = time.monotonic()

    async def main() -> None:
        peer = Peer()
        harness, mutator, pool = Harness(peer), Mutator(seed), kept()
        with spoken_to(peer):
            kept_first = len(pool)
            for given in tuple(pool):
                figures.count(await one(harness, given))
            while (executions is None or figures.executions < executions) and (
                seconds is None or time.monotonic() - begun < seconds
            ):
                given, before = mutator.next(pool), len(figures.outcomes)
                if figures.count(await one(harness, given)) and len(given.data) <= KEPT_BYTES:
                    pool.append(given)
                    # Those that were kept first are the corpus.
                    del pool[kept_first : len(pool) - KEPT_INPUTS]
                    if keep is not None and len(figures.outcomes) > before:
                        (keep / given.file_name(f"{seed}-{figures.executions}")).write_bytes(given.data)

    with frozen():
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        figures.weigh()
    figures.seconds = time.monotonic() - begun
    return figures


def report(figures: Figures) -> None:
    """To standard output."""
    print(
        f"{figures.executions} executions in {figures.seconds:.0f} s, "
        f"{figures.executions / max(figures.seconds, 0.001):.0f} a second; "
        f"{len(figures.outcomes)} outcomes in {len(figures.shapes)} shapes; "
        f"memory {figures.warm_mib:.1f} MiB after {WARM}, {figures.held_mib:.1f} MiB at the end, "
        f"{figures.peak_mib:.1f} MiB at the most"
    )
    for (event, what), count in sorted(figures.outcomes.items()):
        print(f"{count:>9}  {event:<26}{what}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="write inputs with an outcome not seen before"
    )
    args = parser.parse_args()
    try:
        figures = mutate(args.seed, seconds=args.minutes * 60, keep=args.keep)
    except Found as found:
        return tell(found)
    report(figures)
    return int(not figures.within_bounds)


def tell(found: Found) -> int:
    """Keep the input, and say where; the exit status."""
    path = Path(tempfile.gettempdir()) / found.given.file_name(
        "found-" + hashlib.sha256(found.given.data).hexdigest()[:12]
    )
    path.write_bytes(found.given.data)
    print(f"{found.given.target}: {found}\nthe input is {path}; move it to tests/fuzz/corpus to keep it")
    return 1


if __name__ == "__main__":
    sys.exit(main())
