"""One step under way: the throw-away model that both tables move, and the hands actions have.

Actions change the snapshot only through ``change``, wish only through ``ask``, ``tell`` and the arm
methods. That keeps three things true by construction: every armed name is in the snapshot, every
unanswered effect is in the snapshot, and effect ids are positions in the record.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from statemachine.effects import AnyEffect, ArmDeadline, ArmDelay, Asking, Disarm, effect_id
from statemachine.events import Event
from statemachine.snapshot import Armed, ClockTrust, Outstanding, Snapshot
from statemachine.states import Phase, State, Timer


class Signal:
    """What one table tells the other within a step. Never journalled: it follows from the event."""

    tag = ""


class AttemptBegun(Signal):
    """Lifecycle to attempt: start over."""

    tag = "attempt-begun"


class AttemptAbandoned(Signal):
    """Lifecycle to attempt: forget it."""

    tag = "attempt-abandoned"


class AttemptSucceeded(Signal):
    """Attempt to lifecycle: what DPS assigned is current."""

    tag = "attempt-succeeded"


class AttemptFailed(Signal):
    """Attempt to lifecycle: ``snapshot.ended`` says why."""

    tag = "attempt-failed"


SIGNALS: tuple[type[Signal], ...] = (AttemptBegun, AttemptAbandoned, AttemptSucceeded, AttemptFailed)


class Work:
    """State, phase and snapshot while one event runs to completion."""

    __slots__ = ("effects", "event", "now", "ordered", "phase", "signals", "snapshot", "stamp", "state")

    def __init__(self, snapshot: Snapshot, event: Event, now: int) -> None:
        self.snapshot = snapshot
        self.event: Any = event
        "The event; rows are typed by it, so their guards and actions know its class."
        self.stamp = now
        "By our own clock, right or wrong."
        self.now = now + snapshot.clock.correction_ms
        "The best known true time. Every instant in the snapshot is one of these."
        self.state: State = snapshot.state
        self.phase: Phase = snapshot.phase
        self.effects: list[AnyEffect] = []
        self.signals: list[type[Signal]] = []
        self.ordered = False
        "A person ordered the attempt that is about to begin."

    def since(self, revision: int) -> bool:
        """The rules in force are of that revision, or a later one."""
        return self.snapshot.rules_revision >= revision

    def change(self, **fields: object) -> None:
        self.snapshot = structs.replace(self.snapshot, **fields)

    def tell(self, effect: AnyEffect) -> None:
        """Wish for something that has no answer."""
        self.effects.append(effect)

    def ask(self, effect: AnyEffect) -> None:
        """Wish for something that will be answered."""
        assert isinstance(effect, Asking)
        snapshot = self.snapshot
        asked = Outstanding(id=effect_id(snapshot.epoch, snapshot.sequence, len(self.effects)), effect=effect)
        self.effects.append(effect)
        self.change(outstanding=(*snapshot.outstanding, asked))

    def believe(self, clock: ClockTrust, **fields: object) -> None:
        """Take over what is known of the clock, and what changes with it."""
        self.change(clock=clock, **fields)
        self.now = self.stamp + clock.correction_ms

    def rearm_deadlines(self) -> None:
        """Every deadline again: our clock was set, or more is known of how wrong it is."""
        for armed in self.snapshot.armed:
            if armed.delay_ms is None:
                self.arm_at(armed.name, armed.at_unix_ms)

    def forget_asked(self, kinds: Sequence[type[Asking]]) -> None:
        """Their answers, should they come, change nothing."""
        kept = tuple(one for one in self.snapshot.outstanding if not isinstance(one.effect, tuple(kinds)))
        if len(kept) != len(self.snapshot.outstanding):
            self.change(outstanding=kept)

    def arm_at(self, name: Timer, at_unix_ms: int) -> None:
        by_our_clock = at_unix_ms - self.snapshot.clock.correction_ms
        self.effects.append(ArmDeadline(name=name, at_unix_ms=by_our_clock))
        self._remember(Armed(name=name, at_unix_ms=at_unix_ms))

    def arm_after(self, name: Timer, delay_ms: int) -> None:
        self.effects.append(ArmDelay(name=name, delay_ms=delay_ms))
        self._remember(Armed(name=name, at_unix_ms=self.now + delay_ms, delay_ms=delay_ms))

    def disarm(self, *names: Timer) -> None:
        for name in names:
            if self.snapshot.armed_as(name) is not None:
                self.effects.append(Disarm(name=name))
                self.change(armed=tuple(one for one in self.snapshot.armed if one.name != name))

    def _remember(self, armed: Armed) -> None:
        self.change(armed=(*(one for one in self.snapshot.armed if one.name != armed.name), armed))

    def signal(self, signal: type[Signal]) -> None:
        self.signals.append(signal)
