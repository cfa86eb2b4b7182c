"""A command as a process that dies with whoever started it.

With ``--ahead`` it imports what the service needs before anybody wants it. Then it reads from its standard
input what it is to be: one line of JSON with ``program``, ``arguments``, ``environ``, the pid of its
``parent``, and what is peculiar about it:

- ``file_bytes``: the largest file it may write, after which writing fails as on a disk that is broken.
- ``obedient``: even root heeds file permissions.
- ``socket``: a descriptor to hand over as systemd does.
"""

import ctypes
import importlib
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from adapters import __main__ as entry_points

PR_SET_PDEATHSIG = 1
CAPABILITY_VERSION_3 = 0x20080522
OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

libc = ctypes.CDLL(None, use_errno=True)


def obey_permissions() -> None:
    """Give up what lets root past the mode of a file; capset(2)."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same for the upper half
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for i in range(3):
        sets[i] &= ~OVERRIDES
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def main() -> int:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if "--ahead" in sys.argv:
        importlib.import_module("adapters.service")
    line = sys.stdin.readline()
    if not line:
        return 0  # never needed
    asked = msgspec.json.decode(line)
    return become(asked)


def become(asked: Mapping[str, Any]) -> int:
    """The command that was asked for; its exit status."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if os.getppid() != asked["parent"]:
        return 1  # gone before that was said
    os.environ |= asked["environ"]
    if asked.get("obedient"):
        obey_permissions()
    if asked.get("file_bytes"):
        sys.dont_write_bytecode = True  # or half a file of it would be left for everybody
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_bytes"], asked["file_bytes"]))
    if asked.get("socket"):
        os.dup2(asked["socket"], 3)
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    sys.argv = [asked["program"], *asked["arguments"]]
    status: int = getattr(entry_points, asked["program"])(asked["arguments"])
    return status


if __name__ == "__main__":
    sys.exit(main())
