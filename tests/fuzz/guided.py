"""The same, guided by coverage: ``python -m tests.fuzz.guided [--minutes 10] [--seed N]``.

Needs atheris, which is not among the dependencies, being 35 MB and behind with versions of Python:
``pip install atheris``.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["adapters", "statemachine", "h11", "httpcore"]):
    import trio
    import trio.testing

    from tests.fuzz.__main__ import Figures, Found, one, report, tell
    from tests.fuzz.harness import Harness
    from tests.fuzz.inputs import from_bytes, kept, to_bytes
    from tests.fuzz.peer import Peer, spoken_to
    from tests.rogue.table import frozen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    figures, peer, begun = Figures(), Peer(), time.monotonic()
    harness = Harness(peer)

    def test_one(content: bytes) -> None:
        given = from_bytes(content)
        try:
            figures.count(trio.run(one, harness, given, clock=trio.testing.MockClock(autojump_threshold=0)))
        except Found as found:
            _leave(tell(found))
        figures.seconds = time.monotonic() - begun
        if figures.seconds >= args.minutes * 60:
            figures.weigh()
            report(figures)
            _leave(int(not figures.within_bounds))

    with tempfile.TemporaryDirectory() as directory, spoken_to(peer), frozen():
        for number, given in enumerate(kept()):
            (Path(directory) / f"{number:03}").write_bytes(to_bytes(given))
        options = [f"-seed={args.seed}", "-max_len=16384", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], *options, directory], test_one)
        atheris.Fuzz()


def _leave(status: int) -> NoReturn:
    """Out of libFuzzer, which takes an exception for a finding, and lets Python finish nothing."""
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
