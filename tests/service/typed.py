"""A command as a reader of the documentation types it; see pages.py.

What does not end dies with the reader. No check asks a time server of the world, nor minds that this machine
keeps its temporary files in memory.
"""

import ctypes
import os
import signal
import sys

from adapters import __main__ as entry_points

PR_SET_PDEATHSIG = 1
PRIVATE = ("--ntp-server", "127.0.0.1:9", "--dont-run", "host-local-time state-durable")


def main() -> int:
    if os.getppid() == int(os.environ["PAGE_READER"]):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    program, *arguments = sys.argv[1:]
    if arguments[:1] in (["check"], ["support-bundle"]):
        arguments += PRIVATE
    sys.argv = [program, *arguments]
    status: int = getattr(entry_points, program)(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
