"""The same events under other settings: what the rules would have decided otherwise.

A journal holds what happened, not what would have happened. So two questions are kept apart.

*Decisions.* At every record the rules are asked once more, in the very situation in which the device was,
with the other settings. Each answer stands by itself, and holds for the whole journal.

*Stretches.* From the first record on, a device with the other settings is followed: it takes the events that
do not depend on it, its own deadlines pass at its own instants, and answers reach it where it asked the same.
That goes on until it asks the world something at an instant at which the journal has no answer, or a start
finds stores that it would have left otherwise. There the evidence ends. The next stretch begins where the
recorded device got its next credential, from its situation.

What of the settings says who the device is (``IDENTITY``) stays as recorded: another identity is another
life. A deadline that passes only here gets the draw of the next record, which is as uniform as any.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs

from statemachine.effects import (
    AnyEffect,
    ArmDeadline,
    ArmDelay,
    Asking,
    Disarm,
    ProveCredential,
    SubmitRegistration,
    effect_id,
)
from statemachine.events import Answer, AnyEvent, ConfigurationChanged, DeadlinePassed, Started, tag_of
from statemachine.explain import rfc3339
from statemachine.journal import Record
from statemachine.life import Life, life_of
from statemachine.machine import Decision
from statemachine.replay import Step, steps_of
from statemachine.settings import PolicySettings
from statemachine.snapshot import Armed, Snapshot
from statemachine.states import Phase

IDENTITY = ("dps", "manual", "registration_id", "endpoint", "scope_id", "attestation", "api_version")
"Settings that stay as they were recorded."

NOTHING = "0.0.0"
"No effect has this id."

SHOWN = 400
"Characters of either side of a difference."


class Change(Struct, frozen=True, kw_only=True):
    """One thing that would have been decided otherwise."""

    what: str
    "`deadline NAME`, `state`, `phase`, `verdict`, or `ask TAG`."
    recorded: str
    other: str
    later_ms: int | None = None
    "For a deadline that both arm: how much later the other one is; negative is earlier."


class Otherwise(Struct, frozen=True, kw_only=True):
    """A record that the other settings would have answered otherwise."""

    sequence: int
    now_unix_ms: int
    event: str
    "Its tag."
    changes: tuple[Change, ...]


class Stretch(Struct, frozen=True, kw_only=True):
    """A device with the other settings, followed as far as the journal can tell."""

    first_sequence: int
    "Of the record with whose situation it begins."
    from_unix_ms: int
    until_unix_ms: int
    ends: Literal["journal", "evidence"]
    "`journal`: it was followed to the end. `evidence`: what comes next is in no journal."
    why: str
    "Where the evidence ended, for people; empty at the end of the journal."
    recorded: Life
    "What the journal has of the same time."
    other: Life
    next_recorded_attempt_unix_ms: int | None
    "When the recorded device began its next attempt after the stretch."
    passed_alone: int
    "Deadlines of its own that passed."
    not_due: int
    "Recorded deadlines that would not have passed then."
    not_asked: int
    "Recorded answers to what would not have been asked."


class WhatIf(Struct, frozen=True, kw_only=True):
    """What other settings would have changed."""

    records: int
    settings: dict[str, tuple[Any, Any]]
    "What is not the same in the settings: at the end of the journal, and other."
    decisions: tuple[Otherwise, ...]
    stretches: tuple[Stretch, ...]

    @property
    def different(self) -> bool:
        return bool(self.decisions)


def what_if(named: Sequence[tuple[str, bytes]], wanted: PolicySettings) -> WhatIf:
    """A journal as named files, oldest first, and the other settings.

    Raises JournalUnreadable, also for a journal that does not replay: nothing can be said from there.
    """
    steps = tuple(steps_of(named))
    return WhatIf(
        records=len(steps),
        settings=_settings(steps, wanted),
        decisions=tuple(_decisions(steps, wanted)),
        stretches=tuple(_stretches(steps, wanted)),
    )


# --- other settings ----------------------------------------------------------------------------------


def other(recorded: PolicySettings, wanted: PolicySettings) -> PolicySettings:
    """The wanted settings for the recorded device."""
    return structs.replace(wanted, **{name: getattr(recorded, name) for name in IDENTITY})


def _situation(snapshot: Snapshot, wanted: PolicySettings) -> Snapshot:
    return structs.replace(snapshot, policy=other(snapshot.policy, wanted))


def _configured(event: AnyEvent, wanted: PolicySettings) -> AnyEvent:
    if isinstance(event, Started | ConfigurationChanged):
        return structs.replace(event, policy=other(event.policy, wanted))
    return event


def _settings(steps: Sequence[Step], wanted: PolicySettings) -> dict[str, tuple[Any, Any]]:
    recorded = steps[-1].after.policy if steps else wanted
    would_be = structs.asdict(other(recorded, wanted))
    pairs = ((name, was, would_be[name]) for name, was in structs.asdict(recorded).items())
    return {name: (was, wanted) for name, was, wanted in pairs if was != wanted}


# --- decisions, one by one ---------------------------------------------------------------------------


def _decisions(steps: Sequence[Step], wanted: PolicySettings) -> Iterator[Otherwise]:
    told: dict[str, Change] = {}
    for step in steps:
        record = step.record
        event = _configured(record.event, wanted)
        decision = step.rules(_situation(step.before, wanted), event, record.now_unix_ms)
        changes = tuple(_changes(record, decision))
        # Deadlines are armed anew at every start; the same thing is told once.
        new = tuple(one for one in changes if told.get(one.what) != one)
        told |= {one.what: one for one in changes}
        if new:
            yield Otherwise(
                sequence=record.sequence,
                now_unix_ms=record.now_unix_ms,
                event=tag_of(record.event),
                changes=new,
            )


def _changes(record: Record, decision: Decision) -> Iterator[Change]:
    pairs = (
        ("verdict", record.verdict, decision.verdict),
        ("state", record.state, decision.snapshot.state.value),
        ("phase", record.phase, decision.snapshot.phase.value),
    )
    for what, was, would_be in pairs:
        if was != would_be:
            yield Change(what=what, recorded=was, other=would_be)
    yield from _armed_otherwise(record.effects, decision.effects)
    asked, would_ask = _asked(record.effects), _asked(decision.effects)
    for tag in sorted({*asked, *would_ask}):
        one, another = asked.get(tag), would_ask.get(tag)
        if one != another:
            yield Change(what=f"ask {tag}", recorded=_shown(one), other=_shown(another))


def _armed_otherwise(recorded: Sequence[AnyEffect], would_be: Sequence[AnyEffect]) -> Iterator[Change]:
    was, other = _arms(recorded), _arms(would_be)
    for name in sorted({*was, *other}):
        one, another = was.get(name), other.get(name)
        if one == another:
            continue
        later = None
        if isinstance(one, ArmDeadline) and isinstance(another, ArmDeadline):
            later = another.at_unix_ms - one.at_unix_ms
        elif isinstance(one, ArmDelay) and isinstance(another, ArmDelay):
            later = another.delay_ms - one.delay_ms
        yield Change(
            what=f"deadline {name}", recorded=_arm_shown(one), other=_arm_shown(another), later_ms=later
        )


def _arms(effects: Sequence[AnyEffect]) -> dict[str, ArmDeadline | ArmDelay | Disarm]:
    """The last word on each name."""
    return {one.name: one for one in effects if isinstance(one, ArmDeadline | ArmDelay | Disarm)}


def _arm_shown(arm: ArmDeadline | ArmDelay | Disarm | None) -> str:
    if isinstance(arm, ArmDeadline):
        return rfc3339(arm.at_unix_ms)
    if isinstance(arm, ArmDelay):
        return f"after {arm.delay_ms / 1000:g} s"
    return "as it was" if arm is None else "disarmed"


def _asked(effects: Sequence[AnyEffect]) -> dict[str, Asking]:
    """By tag; no step asks one thing twice."""
    return {tag_of(one): one for one in effects if isinstance(one, Asking)}


def _shown(asked: Asking | None) -> str:
    return "not asked" if asked is None else msgspec.json.encode(asked).decode()[:SHOWN]


# --- a device followed -------------------------------------------------------------------------------


def _stretches(steps: Sequence[Step], wanted: PolicySettings) -> Iterator[Stretch]:
    begin = 0
    while begin < len(steps):
        followed = _Followed(steps, begin, wanted)
        yield followed.stretch()
        begin = next(
            (i for i in range(max(followed.end, begin + 1), len(steps)) if _new_credential(steps[i])),
            len(steps),
        )


def _new_credential(step: Step) -> bool:
    """With this record an attempt ended well: another credential, or another assignment, is in use."""
    return (
        step.before.phase is not Phase.IDLE
        and step.after.phase is Phase.IDLE
        and step.after.ended is not None
        and step.after.ended.error is None
    )


class _EvidenceEnds(Exception):
    """The journal does not know what comes next. The message says of what."""


class _Followed:
    """A device with the other settings, among recorded events."""

    def __init__(self, steps: Sequence[Step], begin: int, wanted: PolicySettings) -> None:
        self._steps = steps
        self._begin = begin
        self._wanted = wanted
        self._snapshot = _situation(steps[begin].before, wanted)
        self._ids = {one.id: one.id for one in self._snapshot.outstanding}
        "Id of a recorded effect to the id of the same one here."
        self._generations: dict[int, int] = {}
        "The same for generations, where they differ."
        self._records: list[Record] = []
        self._alone = self._not_due = self._not_asked = 0
        self._why = ""
        self.end = len(steps)
        "Index of the first recorded step that was not taken in."
        for index in range(begin, len(steps)):
            try:
                self._own_deadlines(index)
                self._recorded(steps[index])
            except _EvidenceEnds as exc:
                self._why = str(exc)
                self.end = index
                break

    def stretch(self) -> Stretch:
        steps, first = self._steps, self._steps[self._begin]
        begun = first.before.last_unix_ms or first.record.now_unix_ms
        recorded = [step.record for step in steps[self._begin : self.end]]
        # At the end of the evidence its own last record may be younger than the last recorded one.
        until = max(record.now_unix_ms for record in (*recorded[-1:], *self._records[-1:], first.record))
        lives = [
            life_of(
                records,
                state=first.before.state.value,
                phase=first.before.phase.value,
                from_unix_ms=begun,
                until_unix_ms=until,
            )
            for records in (recorded, self._records)
        ]
        return Stretch(
            first_sequence=first.record.sequence,
            from_unix_ms=begun,
            until_unix_ms=until,
            ends="evidence" if self._why else "journal",
            why=self._why,
            recorded=lives[0],
            other=lives[1],
            next_recorded_attempt_unix_ms=self._next_attempt(),
            passed_alone=self._alone,
            not_due=self._not_due,
            not_asked=self._not_asked,
        )

    def _next_attempt(self) -> int | None:
        for step in self._steps[self.end :]:
            if step.before.phase is Phase.IDLE and step.after.phase is not Phase.IDLE:
                return step.record.now_unix_ms
        return None

    # --- its own deadlines ---------------------------------------------------------------------------

    def _own_deadlines(self, index: int) -> None:
        """What passes here before the next recorded event and did not pass there."""
        step = self._steps[index]
        if isinstance(step.record.event, Started):
            return  # The process was down for part of the time, and nobody knows since when.
        while True:
            due = [one for one in self._snapshot.armed if self._passes_alone(one, step)]
            if not due:
                return
            self._pass(min(due, key=_instant), step)

    def _passes_alone(self, armed: Armed, step: Step) -> bool:
        if armed in step.before.armed:
            return False  # It passes when the recorded one does.
        return self._by_own_clock(armed) < step.record.now_unix_ms

    def _by_own_clock(self, armed: Armed) -> int:
        return armed.at_unix_ms - self._snapshot.clock.correction_ms

    def _pass(self, armed: Armed, step: Step) -> None:
        self._alone += 1
        at = max(self._by_own_clock(armed), self._snapshot.last_unix_ms)
        event = DeadlinePassed(name=armed.name, draw_ppm=step.record.event.draw_ppm)
        decision = self._decide(step, event, at)
        if any(isinstance(effect, Asking) for effect in decision.effects):
            raise _EvidenceEnds(
                f"at {rfc3339(at)} its deadline `{armed.name}` would have passed and it would have asked: "
                f"{', '.join(_asked(decision.effects))}; no answer of that time is in the journal"
            )

    # --- what was recorded ---------------------------------------------------------------------------

    def _recorded(self, step: Step) -> None:
        event = step.record.event
        if isinstance(event, DeadlinePassed) and not self._due(event, step):
            self._not_due += 1
            return
        if isinstance(event, Answer):
            here = self._ids.get(event.answers, NOTHING)
            if _waits_for(step.before, event.answers) and not _waits_for(self._snapshot, here):
                self._not_asked += 1
                return
            event = structs.replace(event, answers=here)
        event = _configured(self._renumbered(event), self._wanted)
        decision = self._decide(step, event, step.record.now_unix_ms)
        self._pair(step, decision)

    def _due(self, event: DeadlinePassed, step: Step) -> bool:
        armed, there = self._snapshot.armed_as(event.name), step.before.armed_as(event.name)
        if armed is None or armed == there:
            return armed == there  # Stale is stale here too.
        return self._by_own_clock(armed) <= step.record.now_unix_ms

    def _renumbered(self, event: Any) -> AnyEvent:  # noqa: ANN401  some events have a generation
        """Generations as they are numbered here. Raises _EvidenceEnds."""
        if isinstance(event, Started):
            return self._started(event)
        if hasattr(event, "generation"):
            number = self._generations.get(event.generation, event.generation)
            event = structs.replace(event, generation=number)
        found: AnyEvent = event
        return found

    def _started(self, event: Started) -> Started:
        """Stores as this device would have left them, if they can be told. Raises _EvidenceEnds."""
        current = event.inventory.current
        if current is not None:  # What was lost is lost here too.
            number = self._generations.get(current.generation, current.generation)
            mine = [one.generation for one in (self._snapshot.credential, self._snapshot.candidate) if one]
            if number not in mine:
                raise _EvidenceEnds("a start found another credential than this device would have had")
            current = structs.replace(current, generation=number)
        newest = max(event.inventory.newest_generation, self._snapshot.newest_generation)
        inventory = structs.replace(event.inventory, current=current, newest_generation=newest)
        return structs.replace(event, inventory=inventory)

    def _pair(self, step: Step, decision: Decision) -> None:
        """What is asked here is what was asked there, so that its answer is known. Raises _EvidenceEnds."""
        there = _with_ids(step.after, step.record.effects)
        for number, effect in _with_ids(decision.snapshot, decision.effects):
            same = next((one for one in there if _alike(one[1], effect)), None)
            if same is None:
                raise _EvidenceEnds(
                    f"record {step.record.sequence} would have made it ask: {tag_of(effect)}; "
                    "no answer is in the journal"
                )
            self._ids[same[0]] = number
            self._number(same[1], effect)

    def _number(self, recorded: Any, here: Any) -> None:  # noqa: ANN401  some effects have a generation
        generation = getattr(recorded, "generation", None)
        if generation is not None:
            self._generations[generation] = here.generation

    def _decide(self, step: Step, event: AnyEvent, now: int) -> Decision:
        decision = step.rules(self._snapshot, event, now)
        self._snapshot = decision.snapshot
        self._records.append(
            Record(
                sequence=decision.snapshot.sequence,
                now_unix_ms=now,
                event=event,
                effects=decision.effects,
                state=decision.snapshot.state.value,
                phase=decision.snapshot.phase.value,
                verdict=decision.verdict,
                why=decision.why,
            )
        )
        return decision


def _waits_for(snapshot: Snapshot, effect: str) -> bool:
    return any(one.id == effect for one in snapshot.outstanding)


def _instant(armed: Armed) -> int:
    return armed.at_unix_ms


def _with_ids(after: Snapshot, effects: Sequence[AnyEffect]) -> list[tuple[str, Asking]]:
    return [
        (effect_id(after.epoch, after.sequence, index), effect)
        for index, effect in enumerate(effects)
        if isinstance(effect, Asking)
    ]


def _alike(recorded: Asking, here: Asking) -> bool:
    """Whether an answer to one is an answer to the other."""
    match recorded, here:
        case SubmitRegistration(), SubmitRegistration():
            return (recorded.generation is None) == (here.generation is None)
        case ProveCredential(), ProveCredential():
            return (recorded.issued, recorded.hub) == (here.issued, here.hub)
        case _:
            return type(recorded) is type(here)
