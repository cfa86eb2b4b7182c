"""Whether the real kernel cancels the real watch when the real clock is set: by a nanosecond, and back.

Never part of the tests: it needs CAP_SYS_TIME, and touches the clock of the whole machine.
"""

import ctypes
import os
import select
import time

from adapters.driven import clock as system

_ADJ_SETOFFSET_NANO = 0x0100 | 0x2000  # linux/timex.h
NANOSECONDS = (1, -1)


class _Offset(ctypes.Structure):
    """``struct timex`` up to its ``time`` member (adjtimex(2)), and room for what follows."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("before", ctypes.c_long * 4),
        ("status", ctypes.c_int),
        ("after", ctypes.c_long * 3),
        ("time_s", ctypes.c_long),
        ("time_ns", ctypes.c_long),
        ("rest", ctypes.c_char * 512),
    )


def try_setting() -> int:
    """0 when each step was noticed, 1 when one was not, 2 when the clock may not be set here."""
    code = 0
    for by_ns in NANOSECONDS:
        watch = system.open_set_watch(int(time.time()))
        try:
            if select.select([watch], [], [], 0.2)[0]:
                print("the watch is readable although nobody set the clock")
                return 1
            problem = _step(by_ns)
            if problem is not None:
                print(f"the clock may not be set here: {problem}")
                return 2
            code |= _noticed(watch, by_ns)
        finally:
            os.close(watch)
    return code


def _step(by_ns: int) -> str | None:
    """Why it could not be done."""
    # Below zero the seconds carry the sign, and the nanoseconds count up from them.
    wish = _Offset(modes=_ADJ_SETOFFSET_NANO, time_s=by_ns // 10**9, time_ns=by_ns % 10**9)
    if system._libc.adjtimex(ctypes.byref(wish)) < 0:
        return os.strerror(ctypes.get_errno())
    return None


def _noticed(watch: int, by_ns: int) -> int:
    began = time.monotonic()
    if not select.select([watch], [], [], 5.0)[0]:
        print(f"a step of {by_ns:+d} ns was not noticed within 5 s")
        return 1
    waited_ms = (time.monotonic() - began) * 1000
    try:
        os.read(watch, 8)
    except OSError as exc:
        print(
            f"a step of {by_ns:+d} ns: readable after {waited_ms:.2f} ms, read says {os.strerror(exc.errno)}"
        )
        return 0
    print(f"a step of {by_ns:+d} ns: readable, but the read says that the timer ran out")
    return 1
