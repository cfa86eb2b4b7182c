"""How a step is noticed: a timerfd that the kernel cancels, and what is done where there is none.

The clock of the machine is not touched here; ``python -m tests.clocks --set-clock`` does, where it may.
"""

import errno
import os
import select

import pytest
import trio
import trio.testing

from adapters.driven import clock as system
from adapters.driven.clock import FIRST_RECHECK_S, RECHECK_S, SystemClock, SystemClockChanges
from adapters.driven.timers import TrioTimers
from adapters.fakes.clock import VirtualClock
from statemachine.events import ClockObserved

T0 = 1_790_000_000_000
DAY = 86_400_000


class Kernel:
    """As much of libc as the watch calls; its descriptors become readable as a cancelled timerfd does."""

    def __init__(self):
        self.watched, self.cancels = [], []
        self.flags = []

    def adjtimex(self, reading):
        return 0

    def timerfd_create(self, clock_id, flags):
        read, write = os.pipe()
        self.watched.append(read)
        self.cancels.append(write)
        return read

    def timerfd_settime(self, handle, flags, spec, old):
        self.flags.append(flags)
        return 0

    def set_clock(self):
        os.write(self.cancels[-1], b"x")

    def close(self):
        for end in self.cancels:
            os.close(end)


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    monkeypatch.setattr(system, "_libc", kernel)
    yield kernel
    kernel.close()


def test_a_cancelled_timerfd_makes_the_timers_look(kernel):
    """From the kernel's word to the event, without any time passing."""
    clock = VirtualClock(T0)
    seen = []

    async def main():
        async with trio.open_nursery() as nursery:
            timers = TrioTimers(clock, SystemClockChanges(clock))

            def post(event):
                seen.append((timers.look(), trio.current_time()))

            await nursery.start(timers.run, post)
            await trio.sleep(1_000)
            for by_ms in (2 * DAY, -DAY):
                clock.step(by_ms)
                kernel.set_clock()
                await trio.sleep(500)
            nursery.cancel_scope.cancel()

    # The kernel's word comes on a real descriptor, so virtual time waits a moment for it.
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))
    assert [event.jump_ms for event, _ in seen] == [2 * DAY, -DAY]
    assert [at for _, at in seen] == [pytest.approx(1_000, abs=0.01), pytest.approx(1_500, abs=0.01)]
    # TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET.
    assert set(kernel.flags) == {3}


def test_each_watch_is_given_back(kernel):
    async def main():
        changes = SystemClockChanges(VirtualClock(T0))
        await changes.wait()
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(changes.wait)
                await trio.testing.wait_all_tasks_blocked()
                kernel.set_clock()

    trio.run(main)
    assert len(kernel.watched) == 3
    for handle in kernel.watched:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


def test_a_step_before_there_was_a_watch_is_seen():
    """Between the first look at the clock and the first watch anything may happen."""
    clock = VirtualClock(T0)
    seen = []

    class Late(SystemClockChanges):
        async def wait(self):
            if not self._began:
                clock.step(3 * DAY)
            await super().wait()

    async def main():
        async with trio.open_nursery() as nursery:
            timers = TrioTimers(clock, Late(clock, trio.sleep_forever))
            await nursery.start(timers.run, lambda event: seen.append(timers.look()))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert seen == [ClockObserved(kernel_synchronised=True, jump_ms=3 * DAY)]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINVAL])
@pytest.mark.parametrize("synchronised", [True, False])
def test_a_kernel_that_refuses_the_watch_is_asked_every_minute(monkeypatch, code, synchronised):
    """No such call, a seccomp filter that forbids it, a kernel before 3.0 that does not know the flag."""

    def refuse(*_):
        system.ctypes.set_errno(code)
        return -1

    class Libc:
        timerfd_create = staticmethod(refuse)

    monkeypatch.setattr(system, "_libc", Libc())
    assert _looks(synchronised) == _looks_every_minute(synchronised)


@pytest.mark.parametrize("synchronised", [True, False])
def test_a_libc_without_timerfd_too(monkeypatch, synchronised):
    monkeypatch.setattr(system, "_libc", object())
    assert _looks(synchronised) == _looks_every_minute(synchronised)


def _looks(synchronised):
    looks = []

    async def main():
        changes = SystemClockChanges(VirtualClock(T0, synchronised=synchronised))
        with trio.move_on_after(5 * RECHECK_S - 1):
            while True:
                await changes.wait()
                looks.append(trio.current_time())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return looks


def _looks_every_minute(synchronised):
    # Sooner at the beginning, where a time service is about to say that the clock is synchronised.
    return [0, 60, 120, 180, 240] if synchronised else [0, 2, 10, 42, 102, 162, 222, 282]


def test_after_a_step_the_kernel_is_asked_soon_again():
    """A time service sets the clock first and says that it is synchronised a moment later."""
    clock = VirtualClock(T0, synchronised=False)
    seen = []

    async def main():
        async with trio.open_nursery() as nursery:
            timers = TrioTimers(clock, SystemClockChanges(clock, clock.wait_until_set))
            await nursery.start(timers.run, lambda event: seen.append((timers.look(), trio.current_time())))
            await trio.sleep(10_000)
            clock.step(5 * DAY)
            await trio.sleep(0.5)
            clock.synchronise()
            await trio.sleep(10_000)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [(event.kernel_synchronised, event.jump_ms) for event, _ in seen] == [(False, 5 * DAY), (True, 0)]
    assert seen[1][1] - seen[0][1] == pytest.approx(FIRST_RECHECK_S)


def test_the_real_watch_is_quiet_while_nobody_sets_the_clock():
    handle = system.open_set_watch(SystemClock().now_unix_ms() // 1000)
    try:
        assert select.select([handle], [], [], 0)[0] == []
        with pytest.raises(BlockingIOError):
            os.read(handle, 8)
    finally:
        os.close(handle)


def test_the_set_clock_script_speaks_the_kernels_layout():
    """Where ``time`` lies in struct timex: 8 longs after modes, with the padding of a status between."""
    from tests.clocks.set_clock import _Offset

    word = system.ctypes.sizeof(system.ctypes.c_long)
    assert _Offset.time_s.offset == 9 * word
    assert system._Timex.status.offset == 5 * word == _Offset.status.offset
