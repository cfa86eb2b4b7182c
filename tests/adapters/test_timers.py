"""Deadlines on the wall clock, delays on elapsed time, both on virtual time; and the kernel's clocks."""

import errno
import os
import time

import pytest
import trio
import trio.lowlevel
import trio.testing

from adapters.driven import clock as system
from adapters.driven.clock import SystemChance, SystemClock, SystemClockChanges
from adapters.driven.timers import TrioTimers
from adapters.fakes.clock import SeededChance, VirtualClock
from statemachine.effects import ArmDeadline, ArmDelay, Disarm
from statemachine.events import ClockObserved, DeadlinePassed

T0 = 1_700_000_000_000
DAY = 86_400_000


class Bench:
    """Timers on virtual time; ``posted`` is what came, with the wall and elapsed milliseconds then."""

    def __init__(self, *, synchronised=True, announced=True):
        self.clock = VirtualClock(T0, synchronised=synchronised)
        self.timers = TrioTimers(self.clock, self.clock if announced else None)
        self.posted = []

    def post(self, event):
        if isinstance(event, ClockObserved):
            # As the runtime does: how far the clock went is measured when the event is stamped.
            event = self.timers.look()
        what = event.name if isinstance(event, DeadlinePassed) else event
        self.posted.append((what, self.clock.now_unix_ms() - T0, self.clock.elapsed_ms()))

    def deadline(self, name, after_ms):
        self.timers.arm_deadline(ArmDeadline(name=name, at_unix_ms=T0 + after_ms))

    def delay(self, name, delay_ms):
        self.timers.arm_delay(ArmDelay(name=name, delay_ms=delay_ms))

    def run(self, scenario):
        """The scenario with the timers running; virtual time jumps to whatever is next."""

        async def main():
            async with trio.open_nursery() as nursery:
                await nursery.start(self.timers.run, self.post)
                await scenario()
                nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        return self.posted


def test_each_fires_once_at_its_time():
    bench = Bench()

    async def scenario():
        bench.deadline("expiry", 30 * DAY)
        bench.delay("phase", 500)
        bench.deadline("window", 20 * DAY)
        await trio.sleep(60 * DAY / 1000)

    assert bench.run(scenario) == [
        ("phase", 500, 500),
        ("window", 20 * DAY, 20 * DAY),
        ("expiry", 30 * DAY, 30 * DAY),
    ]


def test_what_is_due_already_fires_at_once_the_earliest_first():
    bench = Bench()

    async def scenario():
        bench.delay("phase", 0)
        bench.deadline("window", -5)
        bench.deadline("expiry", -DAY)
        bench.delay("prove", 0)
        bench.delay("attempt", -1)
        await trio.sleep(1)

    assert [name for name, _, _ in bench.run(scenario)] == ["expiry", "window", "attempt", "phase", "prove"]


def test_armed_before_the_task_runs():
    bench = Bench()

    async def main():
        bench.deadline("window", 1000)
        async with trio.open_nursery() as nursery:
            await nursery.start(bench.timers.run, bench.post)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert bench.posted == [("window", 1000, 1000)]


def test_arming_again_replaces_whatever_the_kind():
    bench = Bench()

    async def scenario():
        bench.deadline("attempt", 1000)
        bench.delay("attempt", 3000)
        bench.delay("phase", 100)
        bench.deadline("phase", 200)
        await trio.sleep(10)

    assert bench.run(scenario) == [("phase", 200, 200), ("attempt", 3000, 3000)]


def test_disarmed_does_not_fire():
    bench = Bench()

    async def scenario():
        bench.delay("phase", 100)
        bench.deadline("window", 100)
        bench.timers.disarm(Disarm(name="phase"))
        bench.timers.disarm(Disarm(name="expiry"))
        await trio.sleep(10)

    assert bench.run(scenario) == [("window", 100, 100)]


def test_arming_from_the_posted_event_works():
    bench = Bench()
    original = bench.post

    def post(event):
        original(event)
        if len(bench.posted) < 4:
            bench.delay("phase", 100)

    bench.post = post

    async def scenario():
        bench.delay("phase", 100)
        await trio.sleep(10)

    assert [at for _, at, _ in bench.run(scenario)] == [100, 200, 300, 400]


def test_a_step_forward_makes_deadlines_due_and_is_told_first():
    bench = Bench()

    async def scenario():
        bench.deadline("expiry", 10 * DAY)
        bench.delay("phase", 5000)
        await trio.sleep(1)
        bench.clock.step(11 * DAY)
        await trio.sleep(10)

    assert bench.run(scenario) == [
        (ClockObserved(kernel_synchronised=True, jump_ms=11 * DAY), 11 * DAY + 1000, 1000),
        ("expiry", 11 * DAY + 1000, 1000),
        ("phase", 11 * DAY + 5000, 5000),
    ]


def test_a_step_back_moves_deadlines_and_not_delays():
    bench = Bench()

    async def scenario():
        bench.deadline("window", 5000)
        bench.delay("phase", 5000)
        await trio.sleep(1)
        bench.clock.step(-DAY)
        await trio.sleep(2 * DAY / 1000)

    assert bench.run(scenario) == [
        (ClockObserved(kernel_synchronised=True, jump_ms=-DAY), 1000 - DAY, 1000),
        ("phase", 5000 - DAY, 5000),
        ("window", 5000, DAY + 5000),
    ]


def test_small_steps_are_no_news_until_they_add_up():
    bench = Bench()

    async def scenario():
        bench.deadline("window", 10_000)
        for _ in range(3):
            bench.clock.step(400)
            await trio.sleep(1)
        await trio.sleep(20)

    assert bench.run(scenario) == [
        (ClockObserved(kernel_synchronised=True, jump_ms=1200), 3200, 2000),
        ("window", 10_000, 8800),
    ]


def test_becoming_synchronised_is_told_once():
    bench = Bench(synchronised=False)

    async def scenario():
        await trio.sleep(1)
        bench.clock.synchronise()
        await trio.sleep(1)
        bench.clock.step(1)
        await trio.sleep(1)
        bench.clock.synchronise(False)
        await trio.sleep(1)

    assert [event for event, _, _ in bench.run(scenario)] == [
        ClockObserved(kernel_synchronised=True, jump_ms=0),
        ClockObserved(kernel_synchronised=False, jump_ms=1),
    ]


def test_without_announcements_a_step_is_seen_when_looked():
    bench = Bench(announced=False)

    async def scenario():
        bench.deadline("window", DAY)
        await trio.sleep(1)
        bench.clock.step(2 * DAY)
        await trio.sleep(1)
        assert bench.posted == []
        bench.timers.clock_changed()
        await trio.sleep(1)

    assert [event for event, _, _ in bench.run(scenario)] == [
        ClockObserved(kernel_synchronised=True, jump_ms=2 * DAY),
        "window",
    ]


def test_an_idle_timer_wakes_nobody():
    bench = Bench()
    looks = []
    real = bench.clock.kernel_synchronised
    bench.clock.kernel_synchronised = lambda: looks.append(1) or real()

    async def scenario():
        bench.deadline("window", 365 * DAY)
        await trio.lowlevel.checkpoint()
        before = len(looks)
        await trio.sleep(364 * DAY / 1000)
        assert len(looks) - before <= 2

    bench.run(scenario)


def test_a_pause_between_two_readings_is_no_step():
    class Pausing(VirtualClock):
        paused_ms, pausing = 0, False

        def elapsed_ms(self):
            return super().elapsed_ms() + self.paused_ms

        def now_unix_ms(self):
            if self.pausing:
                self.pausing, self.paused_ms = False, self.paused_ms + 5000
            return super().now_unix_ms()

    bench = Bench()
    bench.clock = Pausing(T0)
    bench.timers = TrioTimers(bench.clock)

    async def scenario():
        bench.deadline("window", 7000)
        await trio.sleep(1)
        bench.clock.pausing = True
        bench.timers.clock_changed()
        await trio.sleep(10)

    assert bench.run(scenario) == [("window", 7000, 7000)]
    assert not bench.clock.pausing


def test_ten_years_of_daily_deadlines_are_quick_and_exact():
    bench = Bench()
    original = bench.post

    def post(event):
        original(event)
        bench.deadline("window", (len(bench.posted) + 1) * DAY)

    bench.post = post

    async def scenario():
        bench.deadline("window", DAY)
        await trio.sleep(3653 * DAY / 1000 + 1)

    posted = bench.run(scenario)
    assert len(posted) == 3653
    assert all(at == (i + 1) * DAY for i, (_, at, _) in enumerate(posted))


# --- the kernel's --------------------------------------------------------------------------------------


def test_the_system_clock():
    clock = SystemClock()
    before = time.time_ns() // 1_000_000
    now = clock.now_unix_ms()
    assert before <= now <= time.time_ns() // 1_000_000
    first = clock.elapsed_ms()
    assert clock.elapsed_ms() >= first
    assert isinstance(clock.kernel_synchronised(), bool)


def test_a_kernel_that_cannot_be_asked_confirms_nothing(monkeypatch):
    class Libc:
        def adjtimex(self, reading):
            return -1

    monkeypatch.setattr(system, "_libc", Libc())
    assert SystemClock().kernel_synchronised() is False
    monkeypatch.setattr(system, "_libc", object())
    assert SystemClock().kernel_synchronised() is False


@pytest.mark.parametrize(("status", "answer"), [(0, True), (0x2001, True), (0x40, False), (0x2041, False)])
def test_the_kernel_says_whether_its_clock_is_disciplined(monkeypatch, status, answer):
    class Libc:
        def adjtimex(self, reading):
            reading._obj.status = status
            return 5 if status & 0x40 else 0

    monkeypatch.setattr(system, "_libc", Libc())
    assert SystemClock().kernel_synchronised() is answer


class Synchronised(SystemClock):
    def __init__(self, synchronised):
        self.synchronised = synchronised

    def kernel_synchronised(self):
        return self.synchronised


def descriptors():
    return set(os.listdir("/proc/self/fd"))


def test_the_watch_waits_and_gives_its_descriptor_back():
    """The clock is not set here; that it is waited for, and nothing leaks, can be tried."""

    async def main():
        changes = SystemClockChanges(Synchronised(True))
        await changes.wait()
        before = descriptors()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changes.wait)
            await trio.testing.wait_all_tasks_blocked()
            assert len(descriptors() - before) == 1
            nursery.cancel_scope.cancel()
        assert descriptors() == before

    trio.run(main)


@pytest.mark.parametrize(("synchronised", "looks_s"), [(False, [0, 2, 10, 42, 162, 282]), (True, [0])])
def test_only_an_undisciplined_clock_is_looked_at_again_and_ever_less_often(synchronised, looks_s):
    """The first look is at once: whoever waits looked before there was a watch."""
    looks = []

    async def main():
        changes = SystemClockChanges(Synchronised(synchronised))
        with trio.move_on_after(400):
            while True:
                await changes.wait()
                looks.append(trio.current_time())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert looks == looks_s


def test_a_watch_that_fired_is_readable():
    """The same calls with an instant that has come: the layout of the structures is right."""
    handle = system.open_set_watch(0 - system._FAR_S + 2 * 86_400)
    try:
        assert os.read(handle, 8) == (1).to_bytes(8, "little")
    finally:
        os.close(handle)


def test_where_there_is_no_watch_the_clock_is_looked_at(monkeypatch):
    class Libc:
        def timerfd_create(self, *_):
            return -1

    async def main():
        changes = SystemClockChanges(Synchronised(True))
        await changes.wait()
        await changes.wait()
        return trio.current_time()

    for libc in (Libc(), object()):
        monkeypatch.setattr(system, "_libc", libc)
        assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == system.RECHECK_S


def test_a_watch_that_cannot_be_set_is_closed(monkeypatch):
    opened = []

    class Libc:
        def timerfd_create(self, *_):
            opened.append(os.open("/dev/null", os.O_RDONLY))
            return opened[0]

        def timerfd_settime(self, *_):
            return -1

    monkeypatch.setattr(system, "_libc", Libc())
    with pytest.raises(OSError):  # noqa: PT011 - whatever errno says
        system.open_set_watch(T0 // 1000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_the_end_of_32_bit_time_does_not_spin(monkeypatch):
    monkeypatch.setattr(system, "_LONG_MAX", 2**31 - 1)
    os.close(system.open_set_watch(2**31 - 2 * 86_400))
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is checked
        system.open_set_watch(2**31 - 100)
    assert caught.value.errno == errno.EOVERFLOW


def test_chance():
    assert all(0 <= SystemChance().draw_ppm() < 1_000_000 for _ in range(1000))
    first, again, other = SeededChance(1), SeededChance(1), SeededChance(2)
    drawn = [first.draw_ppm() for _ in range(100)]
    assert drawn == [again.draw_ppm() for _ in range(100)]
    assert drawn != [other.draw_ppm() for _ in range(100)]
    assert all(0 <= draw < 1_000_000 for draw in drawn)
