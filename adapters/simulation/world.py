"""One device in virtual time: the real runtime, machine and timers, everything else a fake.

The cloud goes by the true time; the device's own clock may be set away from it. No two things happen at one
instant unless one causes the other, because every answer takes a time of its own, drawn by the id of its
effect: trio runs what is due together in any order, and the same seed must give the same life.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import trio
import trio.testing
from msgspec import Struct

from adapters.driven.timers import TrioTimers
from adapters.fakes.clock import SeededChance, VirtualClock
from adapters.fakes.cloud import FakeHub, FakeRegistrar
from adapters.fakes.journal import MemoryJournal
from adapters.fakes.module_keys import FakeModuleKeys
from adapters.fakes.peer import Peer, no
from adapters.fakes.store import MemoryStore
from adapters.runtime import Opened, Ports, Runtime
from adapters.simulation.history import Life, Traffic, Watch, certificates, without_identity
from adapters.simulation.options import Scenario
from statemachine.effects import PollRegistration, ProveCredential, SubmitRegistration
from statemachine.events import (
    CredentialProofFailed,
    CredentialProven,
    Failure,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
    Started,
)
from statemachine.journal import Header, head_lines, sequence_of
from statemachine.machine import RULES_REVISION, decide
from statemachine.policy import DAY_MS
from statemachine.snapshot import Snapshot

SOFTWARE = "simulation"
BUILD_AGE_MS = 30 * DAY_MS
"The release is this old at the start: no clock can truly be earlier than its build."
OPERATION_MS = 3_000
"How long DPS takes to issue, from the PUT on."
CLOUD_LATENCY_US, DISK_LATENCY_US = (20_000, 200_000), (1_000, 10_000)
"Least and most of an answer's time, microseconds."
CHAIN_PADDING = 1_280
"Brings a chain to about 2200 bytes of PEM: leaf, intermediate and root with P-256 keys."

UNREACHABLE, NOBODY = "unreachable", "nobody answered"

A = TypeVar("A")


def live(scenario: Scenario, device: int) -> Life:
    """The whole life of one device, numbered from 1. Takes about 4 ms a renewal."""
    world = World(scenario, device)
    trio.run(world.run, clock=trio.testing.MockClock(autojump_threshold=0))
    return world.life()


def seed_of(seed: int, device: int) -> int:
    """Of one device; neighbours have nothing in common."""
    return int.from_bytes(hashlib.sha256(b"%d:%d" % (seed, device)).digest()[:8], "big")


class Metered:
    """Registrar and hub on the way to the fakes: counts what is asked."""

    def __init__(self, registrar: FakeRegistrar, hub: FakeHub, true: VirtualClock) -> None:
        self._registrar, self._hub = registrar, hub
        self._true = true
        self.traffic = Traffic()
        self.registered_unix_ms: list[int] = []

    async def submit(
        self, effect_id: str, effect: SubmitRegistration
    ) -> RegistrationAccepted | RegistrationAssigned | RegistrationFailed:
        self.traffic.registrations_sent += 1
        self.registered_unix_ms.append(self._true.now_unix_ms())
        answer = await self._registrar.submit(effect_id, effect)
        self.traffic.registrations_billed += not isinstance(answer, Failure)
        return self._counted(answer)

    async def poll(
        self, effect_id: str, effect: PollRegistration
    ) -> RegistrationPending | RegistrationAssigned | RegistrationFailed:
        self.traffic.polls_sent += 1
        return self._counted(await self._registrar.poll(effect_id, effect))

    async def prove(
        self, effect_id: str, effect: ProveCredential
    ) -> CredentialProven | CredentialProofFailed:
        self.traffic.hub_requests_sent += 1
        return self._counted(await self._hub.prove(effect_id, effect))

    def _counted(self, answer: A) -> A:
        if isinstance(answer, Failure) and answer.code == UNREACHABLE:
            self.traffic.unanswered_requests += 1
        return answer


def pace(seed: int, least_us: int, most_us: int) -> Callable[[str], float]:
    """How long each answer takes, seconds: by the effect's id, not by the order of the questions."""

    def seconds(effect_id: str) -> float:
        digest = hashlib.sha256(f"{seed}:{effect_id}".encode()).digest()
        return (least_us + int.from_bytes(digest[:8], "big") % (most_us - least_us)) / 1_000_000

    return seconds


class Moment(Struct, frozen=True, kw_only=True):
    """When something happens to the world."""

    at_unix_ms: int
    happen: Callable[[], None]


class World:
    """Everything around one device."""

    def __init__(self, scenario: Scenario, device: int) -> None:
        self._scenario = scenario
        self._device = device
        seed = seed_of(scenario.seed, device)
        start = scenario.start_unix_ms
        self._true, self._clock = VirtualClock(start), VirtualClock(start)
        self._wrong_by_ms = 0
        timeout_s = scenario.answer_timeout_ms / 1000
        self._store = MemoryStore(self._true)
        self._store.pace = pace(seed, *DISK_LATENCY_US)
        registrar = FakeRegistrar(
            self._true,
            registration_id=scenario.policy.registration_id,
            life_ms=scenario.cert_lifetime_ms,
            pending=0,
            timeout_s=timeout_s,
        )
        registrar.takes_ms = OPERATION_MS
        registrar.padding = "." * CHAIN_PADDING
        # No connection came about, so DPS saw nothing of the request.
        registrar.absent = no(UNREACHABLE, message=NOBODY, unsent=True)
        hub = FakeHub(self._true, self._store, timeout_s=timeout_s)
        hub.absent = no(UNREACHABLE, message=NOBODY)
        registrar.pace = hub.pace = pace(seed, *CLOUD_LATENCY_US)
        self._peers: dict[str, Peer] = {"dps": registrar, "hub": hub}
        self._outages = {"dps": 0, "hub": 0}
        "That are under way: they may overlap."
        self._metered = Metered(registrar, hub, self._true)
        self._journal = MemoryJournal(sequence_of, segment_bytes=scenario.segment_bytes, keep=0)
        self._timers = TrioTimers(self._clock, self._clock)
        self._chance = SeededChance(seed)
        self._watch = Watch(self._true)
        self._final_state = ""

    async def run(self) -> None:
        """The life. Under a mock clock it takes as long as its events."""
        scenario = self._scenario
        runtime = self._runtime()
        runtime.observe(self._watch)
        moments = sorted(self._moments(), key=lambda one: one.at_unix_ms)
        async with trio.open_nursery() as nursery:
            for moment in moments:
                if moment.at_unix_ms <= scenario.start_unix_ms:
                    moment.happen()
            await nursery.start(self._timers.run, runtime.post)
            await nursery.start(runtime.run)
            for moment in moments:
                if scenario.start_unix_ms < moment.at_unix_ms < scenario.end_unix_ms:
                    await self._until(moment.at_unix_ms)
                    moment.happen()
            await self._until(scenario.end_unix_ms)
            self._final_state = self._watch.finish()
            nursery.cancel_scope.cancel()

    def life(self) -> Life:
        """What became of it. Only after ``run``."""
        used = certificates(self._store.flips, self._scenario.end_unix_ms)
        traffic = self._metered.traffic
        traffic.journal_records = self._journal.written_lines
        traffic.journal_bytes = self._journal.written_bytes
        return Life(
            device=self._device,
            start_unix_ms=self._scenario.start_unix_ms,
            end_unix_ms=self._scenario.end_unix_ms,
            certificates=used,
            attempts=tuple(self._watch.attempts),
            states=tuple(self._watch.states),
            without_identity=without_identity(used),
            traffic=traffic,
            registered_unix_ms=tuple(self._metered.registered_unix_ms),
            final_state=self._final_state,
        )

    async def _until(self, unix_ms: int) -> None:
        await trio.sleep(max(unix_ms - self._true.now_unix_ms(), 0) / 1000)

    # --- what happens to it --------------------------------------------------------------------------

    def _moments(self) -> Iterator[Moment]:
        for outage in self._scenario.outages:
            yield Moment(at_unix_ms=outage.begins_unix_ms, happen=partial(self._away, outage.peers, 1))
            yield Moment(at_unix_ms=outage.ends_unix_ms, happen=partial(self._away, outage.peers, -1))
        for step in self._scenario.clock_steps:
            yield Moment(at_unix_ms=step.at_unix_ms, happen=partial(self._set_clock, step.by_ms))

    def _away(self, peers: Sequence[str], more: int) -> None:
        for name in peers:
            self._outages[name] += more
            self._peers[name].down = self._outages[name] > 0

    def _set_clock(self, by_ms: int) -> None:
        self._wrong_by_ms += by_ms
        self._clock.synchronise(self._wrong_by_ms == 0)
        self._clock.step(by_ms)

    # --- the device ----------------------------------------------------------------------------------

    def _runtime(self) -> Runtime:
        ports = Ports(
            registrar=self._metered,
            hub=self._metered,
            store=self._store,
            module_keys=FakeModuleKeys(modules=0),
            timers=self._timers,
            clock=self._clock,
            chance=self._chance,
        )
        started = self._started()
        provisional = decide(Snapshot(hold=True), started, self._scenario.start_unix_ms).snapshot
        return Runtime(self._open, ports, self._header(), provisional)

    async def _open(self) -> Opened:
        await trio.lowlevel.checkpoint()
        snapshot = Snapshot()
        head, last_hash = head_lines(self._header(), snapshot)
        self._journal.begin(head)
        return Opened(
            journal=self._journal, snapshot=snapshot, last_hash=last_hash, events=(self._started(),)
        )

    def _started(self) -> Started:
        return Started(
            policy=self._scenario.policy,
            fingerprint=SOFTWARE,
            inventory=self._store.inventory(),
            build_unix_ms=self._scenario.start_unix_ms - BUILD_AGE_MS,
            rules_revision=RULES_REVISION,
            software_version=SOFTWARE,
            kernel_synchronised=self._clock.kernel_synchronised(),
        )

    def _header(self) -> Header:
        return Header(
            rules_revision=RULES_REVISION,
            software_version=SOFTWARE,
            machine=SOFTWARE,
            device=self._scenario.policy.registration_id,
            epoch=1,
            first_sequence=1,
            created_unix_ms=self._scenario.start_unix_ms,
        )
