"""The service as a real process whose recording tells nothing about the machine it was made on.

``tests/service/child.py`` with two senses replaced, by environment variables:

- ``RECORDED_MACHINE``: what the hash of the machine id is; empty for a machine that has none.
- ``RECORDED_CLOCK``: a file with two numbers: by how many milliseconds this process's wall clock is off,
  and whether the kernel says that it is synchronised (1 or 0). It is read again at every look at the clock,
  so the clock can be set while the process runs. The machine's own clock is left alone: OpenSSL goes by that
  one, and a clock that is set is noticed where it is looked at, not announced by the kernel.
"""

import os
import sys
import time
from pathlib import Path

from adapters import whoami
from adapters.driven.clock import SystemClock
from tests.service import child


def replace_machine(name: str) -> None:
    whoami.machine_hash = lambda: name


def replace_clock(file: Path) -> None:
    time_ns, wall = time.time_ns, time.time

    def shown() -> tuple[int, bool]:
        off_ms, synchronised = file.read_text().split()
        return int(off_ms), synchronised == "1"

    time.time_ns = lambda: time_ns() + shown()[0] * 1_000_000
    time.time = lambda: wall() + shown()[0] / 1000
    SystemClock.kernel_synchronised = lambda self: shown()[1]  # type: ignore[method-assign]


def main() -> int:
    replace_machine(os.environ.get("RECORDED_MACHINE", ""))
    clock = os.environ.get("RECORDED_CLOCK")
    if clock:
        replace_clock(Path(clock))
    return child.main()


if __name__ == "__main__":
    sys.exit(main())
