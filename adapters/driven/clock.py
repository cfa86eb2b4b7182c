"""The kernel's clocks and chance. Fills ``ports.Clock`` and ``ports.Chance``, and tells of steps."""

import ctypes
import errno
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from math import inf

import trio

from adapters.ports import Clock

DRAWS = 1_000_000
RECHECK_S = 60
"Where the kernel cannot say that its clock was set, it is looked at this often."
FIRST_RECHECK_S, UNSYNCHRONISED_RECHECK_S = 2, 120
"""The kernel does not announce that its clock became disciplined, so until then it is asked: soon after a
start and after the clock was set, for that is when a time service says so, and then ever less often."""

_STA_UNSYNC = 0x0040  # linux/timex.h
_CANCEL_FLAGS = 0x1 | 0x2  # TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, linux/timerfd.h
_FAR_S = 10 * 365 * 86_400
_LONG_MAX = 2 ** (8 * ctypes.sizeof(ctypes.c_long) - 1) - 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Timex(ctypes.Structure):
    """The head of ``struct timex`` (adjtimex(2)); the rest is room for what the kernel fills in."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class SystemClock:
    """Elapsed time is CLOCK_BOOTTIME: it goes on while the machine sleeps."""

    def now_unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def elapsed_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def kernel_synchronised(self) -> bool:
        """False also where asking is not allowed: it is only ever a confirmation."""
        reading = _Timex(modes=0)
        try:
            answer = _libc.adjtimex(ctypes.byref(reading))
        except AttributeError:
            return False
        return bool(answer >= 0 and not reading.status & _STA_UNSYNC)


class SystemChance:
    """The kernel's generator: a fleet of identical images must not draw alike."""

    def draw_ppm(self) -> int:
        return secrets.randbelow(DRAWS)


class SystemClockChanges:
    """Fills ``timers.ClockChanges``. ``until_set`` returns when the clock was set, or after a sleep.

    It raises OSError where nobody can say so; the clock is then looked at every minute.
    """

    def __init__(self, clock: Clock, until_set: Callable[[], Awaitable[None]] | None = None) -> None:
        self._clock = clock
        self._until_set = self._watch if until_set is None else until_set
        self._began = False
        self._recheck_s = FIRST_RECHECK_S

    async def wait(self) -> None:
        """Returns when the clock may have been set or may have become disciplined, and once at the beginning.

        Whoever waits looked before there was a watch, and would not hear of a step in between.
        """
        if not self._began:
            self._began = True
            return
        bound: float = inf
        if self._clock.kernel_synchronised():
            self._recheck_s = FIRST_RECHECK_S
        else:
            bound = self._recheck_s
            self._recheck_s = min(self._recheck_s * 4, UNSYNCHRONISED_RECHECK_S)
        try:
            with trio.move_on_after(bound):
                await self._until_set()
                self._recheck_s = FIRST_RECHECK_S
        except OSError:
            await trio.sleep(min(bound, RECHECK_S))

    async def _watch(self) -> None:
        handle = open_set_watch(self._clock.now_unix_ms() // 1000)
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            os.close(handle)


def open_set_watch(now_s: int) -> int:
    """A descriptor that becomes readable when the wall clock is set. Raises OSError where there is none."""
    far_s = min(now_s + _FAR_S, _LONG_MAX)
    if far_s - now_s < 86_400:
        # 32-bit time ends here: a timer in the past would be readable at once, for ever.
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
    try:
        handle = int(_libc.timerfd_create(time.CLOCK_REALTIME, os.O_CLOEXEC | os.O_NONBLOCK))
        if handle < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        spec = _Itimerspec(value_s=far_s)
        if _libc.timerfd_settime(handle, _CANCEL_FLAGS, ctypes.byref(spec), None) != 0:
            code = ctypes.get_errno()
            os.close(handle)
            raise OSError(code, os.strerror(code))
    except AttributeError as exc:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from exc
    return handle
