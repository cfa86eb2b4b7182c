"""Armed names become events. Fills ``ports.Timers``.

A deadline is an instant of the wall clock, a delay is elapsed time. The task sleeps until the earliest
of them, however far, and is woken when a name is armed or the wall clock was set. That it was set is
posted before the deadlines this made due. How far it was is said by ``look``, to whoever stamps events:
one that waited in the inbox across a step would be judged by the new time with the step not known yet.
"""

import math
from typing import Protocol

import trio
from msgspec import Struct

from adapters.ports import Clock, Post
from statemachine.effects import ArmDeadline, ArmDelay, Disarm
from statemachine.events import ClockObserved, DeadlinePassed
from statemachine.states import Timer

STEP_MS = 1_000
"A smaller movement of wall time against elapsed time moves deadlines, but is no news."

PAUSE_MS, READINGS = 20, 5


class ClockChanges(Protocol):
    """Who knows that the wall clock was set."""

    async def wait(self) -> None:
        """Returns when the clock may have been set or become disciplined; too often is fine."""


class _Armed(Struct, frozen=True):
    order: int
    at_ms: int
    wall: bool

    def due_in_ms(self, now_unix_ms: int, elapsed_ms: int) -> int:
        return self.at_ms - (now_unix_ms if self.wall else elapsed_ms)


class TrioTimers:
    """One task. Sleeps on trio's clock, so under a mock clock it runs on virtual time, without threads."""

    def __init__(self, clock: Clock, changes: ClockChanges | None = None) -> None:
        self._clock = clock
        self._changes = changes
        self._armed: dict[Timer, _Armed] = {}
        self._order = 0
        self._woken = trio.Event()
        self._offset: int | None = None
        "Wall minus elapsed time at the last look; None before the first."
        self._synchronised = False

    def arm_deadline(self, effect: ArmDeadline) -> None:
        self._arm(effect.name, effect.at_unix_ms, wall=True)

    def arm_delay(self, effect: ArmDelay) -> None:
        self._arm(effect.name, self._clock.elapsed_ms() + effect.delay_ms, wall=False)

    def disarm(self, effect: Disarm) -> None:
        self._armed.pop(effect.name, None)

    def look(self) -> ClockObserved | None:
        """What became of the clock since the last look; None when that is no news."""
        synchronised, jump = self._clock.kernel_synchronised(), self._jump_ms()
        if self._offset is None or (abs(jump) < STEP_MS and synchronised == self._synchronised):
            return None
        self._offset, self._synchronised = self._offset + jump, synchronised
        return ClockObserved(kernel_synchronised=synchronised, jump_ms=jump)

    def clock_changed(self) -> None:
        """Look at the clock now."""
        self._woken.set()

    async def run(self, post: Post, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            if self._changes is not None:
                nursery.start_soon(self._watch, self._changes)
            self._offset, self._synchronised = self._offset_ms(), self._clock.kernel_synchronised()
            task_status.started()
            while True:
                self._woken = trio.Event()
                synchronised = self._clock.kernel_synchronised()
                if abs(self._jump_ms()) >= STEP_MS or synchronised != self._synchronised:
                    post(ClockObserved(kernel_synchronised=synchronised))
                for name in self._take_due():
                    post(DeadlinePassed(name=name))
                with trio.move_on_after(self._sleep_s()):
                    await self._woken.wait()

    async def _watch(self, changes: ClockChanges) -> None:
        while True:
            await changes.wait()
            self.clock_changed()

    def _arm(self, name: Timer, at_ms: int, *, wall: bool) -> None:
        self._order += 1
        self._armed[name] = _Armed(self._order, at_ms, wall)
        self._woken.set()

    def _jump_ms(self) -> int:
        return 0 if self._offset is None else self._offset_ms() - self._offset

    def _offset_ms(self) -> int:
        """Wall time minus elapsed time. A pause between the two readings must not look like a step."""
        for _ in range(READINGS):
            before, now, after = (
                self._clock.elapsed_ms(),
                self._clock.now_unix_ms(),
                self._clock.elapsed_ms(),
            )
            if after - before <= PAUSE_MS:
                break
        return now - before

    def _take_due(self) -> list[Timer]:
        """Earliest first; those of one instant in the order in which they were armed."""
        now, elapsed = self._clock.now_unix_ms(), self._clock.elapsed_ms()
        waiting = [(one.due_in_ms(now, elapsed), one.order, name) for name, one in self._armed.items()]
        due = [name for left_ms, _, name in sorted(waiting) if left_ms <= 0]
        for name in due:
            del self._armed[name]
        return due

    def _sleep_s(self) -> float:
        now, elapsed = self._clock.now_unix_ms(), self._clock.elapsed_ms()
        left_ms = min((one.due_in_ms(now, elapsed) for one in self._armed.values()), default=None)
        # At least a millisecond: both clocks are read in whole ones.
        return math.inf if left_ms is None else max(left_ms, 1) / 1000
