"""A command that ends with the demo that started it: ``python -P -m adapters.cli.demo_child PID WORDS…``.

The demo stops its children itself. This is for the ends it cannot act on, SIGKILL above all.
"""

import ctypes
import os
import signal
import sys

from adapters.__main__ import identityd

PR_SET_PDEATHSIG = 1


def main() -> int:
    parent, *words = sys.argv[1:]
    # The demo starts its children with its own signals blocked, and a mask is inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have ended before that was asked for.
    if os.getppid() != int(parent):
        return 1
    return identityd(words)


if __name__ == "__main__":
    sys.exit(main())
