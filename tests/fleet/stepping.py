"""The same fleet through the real ``decide``: every device is a snapshot, every attempt the machine's own.

Answers come at once, and a registration that is admitted is assigned in the answer to its PUT, so that the
instants are those of the policy alone.
"""

import heapq
import random
from collections.abc import Callable

from msgspec import structs

from statemachine.effects import (
    AnyEffect,
    ArmDeadline,
    ArmDelay,
    Asking,
    CommitCredential,
    Disarm,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
    effect_id,
)
from statemachine.events import (
    AnyEvent,
    ChainFacts,
    CredentialCommitted,
    CredentialProven,
    CredentialRetired,
    DeadlinePassed,
    Inventory,
    KeyStaged,
    RegistrationAssigned,
    RegistrationFailed,
    Started,
)
from statemachine.machine import RULES_REVISION, Decision, decide
from statemachine.settings import PolicySettings
from statemachine.snapshot import Snapshot
from tests.fleet.model import DRAWS, Cloud, Plan, Recovery, begins

T0 = 1_790_000_000_000
"Of the plan's instants, in the machine's time."
POLICY = PolicySettings(
    registration_id="d", endpoint="https://dps.example", scope_id="0ne0", attestation="symmetric_key"
)
STARTED = Started(
    policy=POLICY,
    fingerprint="f",
    inventory=Inventory(),
    build_unix_ms=T0,
    rules_revision=RULES_REVISION,
    software_version="0",
    kernel_synchronised=True,
)

Saw = Callable[[Snapshot, AnyEvent, Decision], None]
"Told each step: the snapshot before it, the event, what it came to."


class Stepped:
    """One device: its snapshot and what is armed."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.snapshot = Snapshot()
        self.armed: dict[str, int] = {}
        self.certificates = 0

    def take(self, event: AnyEvent, at: int) -> None:
        """The event, and everything that follows from it at the same instant."""
        events = [event]
        while events:
            drawn = self._world.drawn(events.pop(0))
            before, decision = self.snapshot, decide(self.snapshot, drawn, T0 + at)
            self.snapshot = decision.snapshot
            self._world.saw(before, drawn, decision)
            for index, effect in enumerate(decision.effects):
                if isinstance(effect, Asking):
                    asked = effect_id(self.snapshot.epoch, self.snapshot.sequence, index)
                    events.append(self._answer(asked, effect, at))
                else:
                    self._arm(effect, at)

    def next(self) -> tuple[int, str] | None:
        """When and which."""
        return min(((at, name) for name, at in self.armed.items()), default=None)

    def _arm(self, effect: AnyEffect, at: int) -> None:
        match effect:
            case ArmDeadline(name=name, at_unix_ms=unix_ms):
                self.armed[name] = max(unix_ms - T0, at)
            case ArmDelay(name=name, delay_ms=delay_ms):
                self.armed[name] = at + delay_ms
            case Disarm(name=name):
                self.armed.pop(name, None)

    def _answer(self, asked: str, effect: Asking, at: int) -> AnyEvent:
        match effect:
            case StageKey(generation=generation):
                return KeyStaged(answers=asked, generation=generation, spki_sha256=f"k{generation}")
            case SubmitRegistration(spki_sha256=spki_sha256):
                return self._submit(asked, spki_sha256, at)
            case ProveCredential(generation=generation):
                return CredentialProven(answers=asked, generation=generation)
            case CommitCredential(generation=generation):
                return CredentialCommitted(answers=asked, generation=generation)
            case RetireCredential():
                return CredentialRetired(answers=asked)
        raise AssertionError(f"nothing here asks for {effect}")

    def _submit(self, asked: str, spki_sha256: str, at: int) -> AnyEvent:
        admitted, retry_after_ms = self._world.admits(at)
        if not admitted and self._world.cloud.away(at):
            return RegistrationFailed(answers=asked, failure_class="retry", code="unreachable", unsent=True)
        if not admitted:
            return RegistrationFailed(
                answers=asked, failure_class="retry", code="dps-429", retry_after_ms=retry_after_ms
            )
        self.certificates += 1
        return RegistrationAssigned(
            answers=asked,
            assigned_hub="hub.example",
            device_id="d",
            chain=ChainFacts(
                chain_pem=b"",
                spki_sha256=spki_sha256,
                subject_cn="d",
                not_before_unix_ms=T0 + at,
                not_after_unix_ms=T0 + at + self._world.plan.life_ms,
                sha256=f"{self.certificates}",
                serial=f"{self.certificates}",
            ),
        )


class World:
    """The fleet, from enrolment through the first renewal of each device."""

    def __init__(self, plan: Plan, saw: Saw = lambda before, event, came: None) -> None:
        self.plan = plan
        self.cloud = Cloud(plan)
        self.saw = saw
        self._chance = random.Random(plan.seed)
        self.enrolling = True

    def drawn(self, event: AnyEvent) -> AnyEvent:
        """As the runtime does, when it takes the event."""
        return structs.replace(event, draw_ppm=self._chance.randrange(DRAWS))

    def admits(self, at: int) -> tuple[bool, int | None]:
        """Enrolment is not what is measured: everybody is admitted."""
        return (True, None) if self.enrolling else self.cloud.asked(at)

    def run(self) -> Recovery:
        devices = []
        for begin in begins(self.plan):
            device = Stepped(self)
            device.take(STARTED, begin)
            devices.append((begin, device))
        self.enrolling = False
        waiting: list[tuple[int, int]] = []
        for number, (_, device) in enumerate(devices):
            coming = device.next()
            assert coming is not None, "a device with a certificate waits for something"
            waiting.append((coming[0], number))
        heapq.heapify(waiting)
        result = self.cloud.recovery
        while waiting:
            _, number = heapq.heappop(waiting)
            begin, device = devices[number]
            coming = device.next()
            assert coming is not None, "a device that is not renewed waits for something"
            at, name = coming
            del device.armed[name]
            device.take(DeadlinePassed(name=name), at)
            ends = begin + self.plan.life_ms
            if device.certificates == 2:
                result.renewed += at < ends
                result.worst_slack_ms = min(result.worst_slack_ms, ends - at)
            if at >= ends:
                self.cloud.lost(ends)
            elif device.certificates < 2:
                following = device.next()
                assert following is not None, "a device that is not renewed waits for something"
                heapq.heappush(waiting, (following[0], number))
        return result
