"""A device at rest stays at rest: nobody of runtime, timers and clock watch runs for a day."""

import pytest
import trio
import trio.abc
import trio.lowlevel
import trio.testing

from adapters.driven import clock as system
from adapters.driven.clock import RECHECK_S, UNSYNCHRONISED_RECHECK_S, SystemClockChanges
from adapters.driven.timers import TrioTimers
from tests.adapters.simulated import Simulated, until_provisioned

pytestmark = pytest.mark.usefixtures("quiet")

DAY_S = 86_400


class Turns(trio.abc.Instrument):
    """Counts how often each task runs."""

    def __init__(self):
        self.names = []

    def before_task_step(self, task):
        self.names.append(task.name.rpartition(".")[2])


class Resting(Simulated):
    """The product's own watch, on the real kernel; only the clocks that it reads are virtual."""

    def runtime(self):
        runtime = super().runtime()
        self.timers._changes = SystemClockChanges(self.clock)
        return runtime


def day_of(device, monkeypatch) -> list[str]:
    """Whose turn it was, and when there was a timeout to wait for, within a day at rest."""
    turns = Turns()

    async def main():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await trio.sleep(DAY_S)
            records = len(device.records)
            trio.lowlevel.add_instrument(turns)
            await trio.sleep(DAY_S)
            trio.lowlevel.remove_instrument(turns)
            assert len(device.records) == records, "a device at rest writes nothing"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    # The one who sleeps through the day is the test itself.
    turns.names.remove("main")
    return turns.names


def test_a_synchronised_device_does_not_wake_up(monkeypatch):
    assert day_of(Resting(), monkeypatch) == []


def test_an_unsynchronised_one_asks_the_kernel_now_and_then(monkeypatch):
    device = Resting()
    device.clock = type(device.clock)(device.true_unix_ms(0), synchronised=False)
    turns = day_of(device, monkeypatch)
    looks = DAY_S // UNSYNCHRONISED_RECHECK_S
    # The watch wakes up, and has the timers look: two turns, one awakening.
    assert looks - 1 <= turns.count("_watch") <= looks + 1
    assert len(turns) <= 2 * (looks + 1)
    assert looks <= 24 * 60, "once a minute at most"


def test_where_the_kernel_cannot_say_it_is_once_a_minute(monkeypatch):
    monkeypatch.setattr(system, "_libc", object())
    turns = day_of(Resting(), monkeypatch)
    looks = int(DAY_S // RECHECK_S)
    assert looks - 1 <= turns.count("_watch") <= looks + 1
    assert looks <= 24 * 60


def test_timers_own_no_thread_and_no_second_sleeper():
    """One task for what is armed, one for the clock: nothing else that could wake up."""
    device = Resting()

    async def main():
        async with trio.open_nursery() as nursery:
            timers = TrioTimers(device.clock, SystemClockChanges(device.clock))
            await nursery.start(timers.run, lambda event: None)
            await trio.testing.wait_all_tasks_blocked()
            tasks = [task for child in nursery.child_tasks for task in (child, *_below(child))]
            names = [task.name.rpartition(".")[2] for task in tasks]
            nursery.cancel_scope.cancel()
        return names

    assert trio.run(main) == ["run", "_watch"]


def _below(task):
    return [child for nursery in task.child_nurseries for child in nursery.child_tasks]
