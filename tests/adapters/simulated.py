"""A whole device in virtual time: the real runtime, machine and timers, everything else a fake.

The cloud goes by the true time; the device's own clock may be stepped away from it. Stores and journal
outlive the runtime, so that a device may be killed and started again within one scenario.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import trio
import trio.testing

from adapters.driven.timers import TrioTimers
from adapters.errors import StoreUnavailable
from adapters.fakes.clock import SeededChance, VirtualClock
from adapters.fakes.cloud import FakeHub, FakeRegistrar
from adapters.fakes.journal import MemoryJournal
from adapters.fakes.module_keys import FakeModuleKeys
from adapters.fakes.peer import Asked, no
from adapters.fakes.store import MemoryStore
from adapters.runtime import Opened, Ports, Runtime
from statemachine.events import (
    ClockObserved,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
    Started,
)
from statemachine.journal import Header, Record, decode_line, head_lines, read, sequence_of
from statemachine.machine import RULES_REVISION, decide
from statemachine.replay import Outcome, replay_files, restore
from statemachine.settings import PolicySettings
from statemachine.snapshot import Snapshot
from statemachine.states import Phase, State

T = TypeVar("T")

T0 = 1_790_000_000_000
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
YEAR = 365 * DAY
POLICY = PolicySettings(
    registration_id="device-1", endpoint="https://dps.example", scope_id="0ne0", attestation="symmetric_key"
)
RENEW = RenewRequested(uid=0)
OBSERVED = ClockObserved(kernel_synchronised=True)
"An event that changes next to nothing."


def sequence_of_effect(effect_id: str) -> int:
    return int(effect_id.split(".")[1])


def simulate(scenario: Callable[[], Awaitable[T]]) -> T:
    """Run it on a clock that jumps to whatever is next."""
    return trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


class TracedJournal(MemoryJournal):
    """Notes when it was tried and what became durable, among what was asked of the peers."""

    def __init__(self, trace: list[object], **facts: int) -> None:
        super().__init__(sequence_of, **facts)
        self.trace = trace
        self.tried_s: list[float] = []

    async def append(self, line: bytes) -> None:
        self.tried_s.append(trio.current_time())
        await super().append(line)
        self.trace.append(decode_line(line))


class TracedTimers(TrioTimers):
    """Notes what is armed."""

    trace: list[object]

    def arm_deadline(self, effect):
        self.trace.append(effect)
        super().arm_deadline(effect)

    def arm_delay(self, effect):
        self.trace.append(effect)
        super().arm_delay(effect)

    def disarm(self, effect):
        self.trace.append(effect)
        super().disarm(effect)


class Simulated:
    """``async with device.running() as runtime``: leaving it is a kill."""

    def __init__(
        self,
        *,
        seed: int = 1,
        policy: PolicySettings = POLICY,
        pending: int = 1,
        life_ms: int = 90 * DAY,
        **journal: int,
    ) -> None:
        self.trace: list[object] = []
        "Records as they became durable, effects as they were performed, in this order."
        self.clock, self.true = VirtualClock(T0), VirtualClock(T0)
        self.chance = SeededChance(seed)
        self.policy = policy
        self.fingerprint = "f1"
        self.journal = TracedJournal(self.trace, **journal)
        self.asked: list[Asked] = self.trace  # type: ignore[assignment]
        self.store = MemoryStore(self.true, asked=self.asked)
        self.registrar = FakeRegistrar(self.true, pending=pending, life_ms=life_ms, asked=self.asked)
        self.hub = FakeHub(self.true, self.store, asked=self.asked)
        self.module_keys = FakeModuleKeys(asked=self.asked)
        self.opening_fails = 0
        "So many tries to open the journal."
        self.opened_s: list[float] = []
        self.rotate_first = False
        self.began = False

    # --- life ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Runtime]:
        runtime = self.runtime()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.timers.run, runtime.post)
            await nursery.start(runtime.run)
            yield runtime
            nursery.cancel_scope.cancel()

    def runtime(self) -> Runtime:
        self.timers = TracedTimers(self.clock, self.clock)
        self.timers.trace = self.trace
        ports = Ports(
            registrar=self.registrar,
            hub=self.hub,
            store=self.store,
            module_keys=self.module_keys,
            timers=self.timers,
            clock=self.clock,
            chance=self.chance,
        )
        return Runtime(self.open, ports, self.header(), self.provisional())

    async def open(self) -> Opened:
        self.opened_s.append(trio.current_time())
        if self.opening_fails > 0:
            self.opening_fails -= 1
            raise StoreUnavailable("the disk is away", code="journal-unavailable")
        if not self.began:
            self.began = True
            snapshot = Snapshot()
            head, last_hash = head_lines(self.header(), snapshot)
            self.journal.begin(head)
        else:
            reading = read(b"".join(self.journal.segments[-1]))
            assert reading.problem is None
            restored = restore(reading)
            assert restored is not None
            snapshot, last_hash = restored, reading.last_hash
        return Opened(
            journal=self.journal,
            snapshot=snapshot,
            last_hash=last_hash,
            events=(self.started(),),
            rotate=self.rotate_first,
        )

    def header(self) -> Header:
        return Header(
            rules_revision=RULES_REVISION,
            software_version="0.1.0",
            machine="m",
            device="device-1",
            epoch=1,
            first_sequence=1,
            created_unix_ms=T0,
        )

    def started(self) -> Started:
        return Started(
            policy=self.policy,
            fingerprint=self.fingerprint,
            inventory=self.store.inventory(),
            build_unix_ms=T0 - 30 * DAY,
            rules_revision=RULES_REVISION,
            software_version="0.1.0",
            kernel_synchronised=self.clock.kernel_synchronised(),
        )

    def provisional(self) -> Snapshot:
        return decide(Snapshot(hold=True), self.started(), T0).snapshot

    # --- what became of it ---------------------------------------------------------------------------

    @property
    def records(self) -> list[Record]:
        return [value for line in self.journal.lines if isinstance(value := decode_line(line), Record)]

    def asked_for(self, kind: type) -> list[Asked]:
        return [one for one in self.trace if isinstance(one, Asked) and isinstance(one.effect, kind)]

    def replay(self) -> Outcome:
        return replay_files(
            [(f"segment {n}", b"".join(lines)) for n, lines in enumerate(self.journal.segments)]
        )

    def true_unix_ms(self, days: int) -> int:
        return T0 + days * DAY

    def uncovered_ms(self, until_unix_ms: int) -> int:
        """How long, by the true time, the device was without a valid credential after its first."""
        total = 0
        for flip, following in zip(self.store.flips, [*self.store.flips[1:], None], strict=True):
            end = until_unix_ms if following is None else following.at_unix_ms
            valid_until = flip.at_unix_ms
            if flip.current is not None:
                valid_until = flip.current.not_after_unix_ms if flip.current.source == "issued" else end
            total += max(end - max(valid_until, flip.at_unix_ms), 0)
        return total


async def until(runtime: Runtime, wanted: Callable[[Snapshot], bool], within_s: float = 400 * 86_400) -> None:
    """Until the machine is so. Looks at every record, and at nothing in between."""
    with trio.fail_after(within_s), runtime.follow() as lines:
        while not wanted(runtime.snapshot):
            await lines.receive()


def rests_in(state: State) -> Callable[[Snapshot], bool]:
    return lambda snapshot: snapshot.state is state and snapshot.phase is Phase.IDLE


def at(state: State, phase: Phase) -> Callable[[Snapshot], bool]:
    return lambda snapshot: (snapshot.state, snapshot.phase) == (state, phase)


async def until_provisioned(runtime: Runtime) -> None:
    await until(runtime, rests_in(State.PROVISIONED))


async def ended(channel: trio.MemoryReceiveChannel[bytes]) -> list[bytes]:
    """Everything up to the end of a watcher's channel."""
    lines: list[bytes] = []
    with suppress(trio.EndOfChannel):
        while True:
            lines.append(await channel.receive())
    return lines


async def stopped(runtime: Runtime) -> list[Record]:
    """Ask it to stop, and see that it did; the records from the request on."""
    with trio.fail_after(120), runtime.follow() as lines:
        runtime.post(ShutdownRequested(reason="test"))
        return [value for line in await ended(lines) if isinstance(value := decode_line(line), Record)]


# --- a life ------------------------------------------------------------------------------------------

Weather = Callable[[Simulated, Runtime, random.Random], Awaitable[None]]
"Something that happens to a device; returns when it is over."


async def live(
    device: Simulated, days: int, chance: random.Random, weather: Sequence[Weather] | None = None
) -> None:
    """Ends calmly, with the device running and at rest. Kills, outages, full disks and set clocks before."""
    end = trio.current_time() + days * 86_400
    while trio.current_time() < end:
        async with device.running() as runtime:
            for _ in range(chance.randrange(1, 6)):
                await trio.sleep(chance.uniform(1, 40) * 86_400)
                await chance.choice(weather or WEATHER)(device, runtime, chance)
        await trio.sleep(chance.uniform(0, 7_200))
    async with device.running() as runtime:
        await until_provisioned(runtime)


async def _outage(device: Simulated, runtime: Runtime, chance: random.Random) -> None:
    peers = chance.choice([[device.registrar], [device.hub], [device.registrar, device.hub]])
    for peer in peers:
        peer.down = True
    await trio.sleep(chance.uniform(600, 5 * 86_400))
    for peer in peers:
        peer.down = False


async def _wrong_clock(device: Simulated, runtime: Runtime, chance: random.Random) -> None:
    """Up to three days off for up to a day, then put right."""
    by_ms = chance.randrange(-3 * DAY, 3 * DAY)
    device.clock.synchronise(False)
    device.clock.step(by_ms)
    await trio.sleep(chance.uniform(60, 86_400))
    device.clock.step(-by_ms)
    device.clock.synchronise(True)


async def _full_disk(device: Simulated, runtime: Runtime, chance: random.Random) -> None:
    device.journal.fail(chance.randrange(1, 40))


async def _cloud_says_no(device: Simulated, runtime: Runtime, chance: random.Random) -> None:
    device.registrar.then(*[no("dps-503", retry_after_ms=chance.choice([None, HOUR]))] * chance.randrange(9))
    device.hub.then(*[no("hub-503")] * chance.randrange(5))


async def _command(device: Simulated, runtime: Runtime, chance: random.Random) -> None:
    with suppress(StoreUnavailable):
        await runtime.command(chance.choice([RENEW, ReprovisionRequested(uid=0)]))


async def _calm(device: Simulated, runtime: Runtime, chance: random.Random) -> None:
    await trio.sleep(chance.uniform(0, 60))


CLOUD_WEATHER: Sequence[Weather] = (_outage, _full_disk, _cloud_says_no, _command, _calm)
WEATHER: Sequence[Weather] = (*CLOUD_WEATHER, _wrong_clock)
