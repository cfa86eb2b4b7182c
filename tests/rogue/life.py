"""A renewal under each fault: the whole machine, the real adapters and stores, real TLS, on virtual time.

A device is provisioned once. Each case starts from a copy of its disk, shortly before the renewal window
opens, with the fault in force. What the catalogue says of the first attempt must come about; the credential
in use must stay, usable, until another one is proven; and when the fault is gone the device must be
Provisioned with a fresh credential, without anybody's help.
"""

import copy
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import trio
import trio.testing
from msgspec import Struct

from adapters.driven.clock import SystemClock
from adapters.driven.timers import TrioTimers
from adapters.fakes.clock import SeededChance, VirtualClock
from adapters.fakes.journal import MemoryJournal
from adapters.fakes.module_keys import FakeModuleKeys
from adapters.runtime import Opened, Ports, Runtime
from adapters.simulators.case import Case
from adapters.simulators.dps import SCOPE_ID
from adapters.simulators.state import REGISTRATION_ID
from statemachine.effects import (
    AnyEffect,
    ArmDelay,
    PollRegistration,
    ProveCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import Inventory, Started
from statemachine.journal import Header, Record, decode_line, head_lines, read, sequence_of
from statemachine.machine import RULES_REVISION, decide
from statemachine.replay import replay_files, restore
from statemachine.settings import PolicySettings
from statemachine.snapshot import Snapshot
from statemachine.states import Phase, State
from tests.rogue.memory import MemoryNetwork, in_memory
from tests.rogue.stand import Stand, adapters, quick_trust, store_below
from tests.rogue.table import MEMORY, frozen

E = TypeVar("E", bound=AnyEffect)

DAY_MS, HOUR_S = 86_400_000, 3_600
LIFE_MS = 30 * DAY_MS
AGO_MS = LIFE_MS * 97 // 100
"""How long ago the device was provisioned. OpenSSL goes by the real clock, so whatever happens in virtual
time must lie in the real past, and what was issued at its beginning must not have ended."""
STARTS_MS = LIFE_MS * 69 // 100
"Since it was provisioned; the renewal window opens after it."
FIRST_WITHIN_S = 60 * HOUR_S
"The renewal window is a day and a half long."
GOES_ON_S = 90
"How long the fault stays after the first attempt was seen to go as it should."
HEALED_WITHIN_S = 26 * HOUR_S
"No Retry-After puts anything off for more than a day."


class Template(Struct, frozen=True):
    """A device that was provisioned and stopped."""

    directory: Path
    began_unix_ms: int
    journal: MemoryJournal

    @property
    def cloud(self) -> Path:
        return self.directory / "cloud"

    @property
    def disk(self) -> Path:
        return self.directory / "device"


class Life:
    """One run of a device."""

    def __init__(
        self, stand: Stand, clock: VirtualClock, disk: Path, journal: MemoryJournal, case: Case | None
    ):
        self.stand, self.clock, self.journal = stand, clock, journal
        self.store = store_below(disk)
        version = case.api_version if case is not None else stand.configuration().api_version
        configuration = stand.configuration(version)  # type: ignore[arg-type]
        self.registrar, hub = adapters(configuration, clock, self.store)
        self.policy = PolicySettings(
            registration_id=REGISTRATION_ID,
            endpoint=f"https://localhost:{stand.port}",
            scope_id=SCOPE_ID,
            attestation="symmetric_key",
            api_version=version,
            renewal_latest_percent=75,
            attempt_timeout_ms=30_000,
        )
        timers = TrioTimers(clock, clock)
        self.ports = Ports(
            registrar=self.registrar,
            hub=hub,
            store=self.store,
            module_keys=FakeModuleKeys(),
            timers=timers,
            clock=clock,
            chance=SeededChance(1),
        )
        self.timers = timers
        self.runtime = Runtime(self._open, self.ports, self._header(), self._provisional())
        self.changed = trio.Event()
        self.runtime.observe(self._look)
        self.looks: Callable[[Snapshot], None] = lambda snapshot: None

    def _look(self, snapshot: Snapshot) -> None:
        self.looks(snapshot)
        self.changed.set()
        self.changed = trio.Event()

    async def _open(self) -> Opened:
        await trio.lowlevel.checkpoint()
        reading = read(b"".join(self.journal.segments[-1]))
        snapshot = None if reading.header is None else restore(reading)
        last_hash = reading.last_hash
        if snapshot is None:
            snapshot = Snapshot()
            head, last_hash = head_lines(self._header(), snapshot)
            self.journal.begin(head)
        return Opened(journal=self.journal, snapshot=snapshot, last_hash=last_hash, events=(self._started(),))

    def _header(self) -> Header:
        return Header(
            rules_revision=RULES_REVISION,
            software_version="0.1.0",
            machine="m",
            device=REGISTRATION_ID,
            epoch=1,
            first_sequence=1,
            created_unix_ms=self.clock.now_unix_ms(),
        )

    def _started(self) -> Started:
        return Started(
            policy=self.policy,
            fingerprint="f1",
            inventory=self.store.inventory(),
            build_unix_ms=self.clock.now_unix_ms() - 60 * DAY_MS,
            rules_revision=RULES_REVISION,
            software_version="0.1.0",
            kernel_synchronised=True,
        )

    def _provisional(self) -> Snapshot:
        return decide(Snapshot(hold=True), self._started(), self.clock.now_unix_ms()).snapshot

    async def until(self, wanted: Callable[[Snapshot], bool], within_s: float) -> bool:
        """False when it did not come about."""
        with trio.move_on_after(within_s):
            while not wanted(self.runtime.snapshot):
                await self.changed.wait()
        return wanted(self.runtime.snapshot)

    @property
    def records(self) -> list[Record]:
        return [one for line in self.journal.lines if isinstance(one := decode_line(line), Record)]


def rests_provisioned(snapshot: Snapshot) -> bool:
    return snapshot.state is State.PROVISIONED and snapshot.phase is Phase.IDLE


@contextmanager
def provisioned() -> Iterator[Template]:
    """The device that every case starts from."""
    with tempfile.TemporaryDirectory(prefix="id-", dir=MEMORY) as directory:
        root = Path(directory)
        began = SystemClock().now_unix_ms() - AGO_MS
        journal = MemoryJournal(sequence_of)

        async def main(network: MemoryNetwork) -> None:
            clock = VirtualClock(began)
            stand = Stand(root / "cloud", clock, life_s=LIFE_MS / 1000)
            async with stand.serving(network), trio.open_nursery() as nursery:
                life = Life(stand, clock, root / "device", journal, None)
                await nursery.start(life.timers.run, life.runtime.post)
                await nursery.start(life.runtime.run)
                assert await life.until(rests_provisioned, HOUR_S), life.runtime.status()
                nursery.cancel_scope.cancel()

        with quick_trust(root), frozen():
            _virtually(main)
            yield Template(root, began, journal)


def _virtually(main: Callable[[MemoryNetwork], Awaitable[None]]) -> None:
    network = MemoryNetwork()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with in_memory(network):
            trio.run(main, network, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.disable(level)


def renewal_under(case: Case, template: Template) -> list[str]:
    """What went otherwise than it should; empty when nothing did."""
    found: list[str] = []
    disk = template.directory / f"device-{os.urandom(4).hex()}"
    shutil.copytree(template.disk, disk, symlinks=True)

    async def main(network: MemoryNetwork) -> None:
        clock = VirtualClock(template.began_unix_ms + STARTS_MS)
        stand = Stand(template.cloud, clock, life_s=LIFE_MS / 1000)
        async with stand.serving(network), trio.open_nursery() as nursery:
            life = Life(stand, clock, disk, copy.deepcopy(template.journal), case)
            found.extend(await _watch(life, case, nursery))
            nursery.cancel_scope.cancel()
        if (
            outcome := replay_files([("journal", b"".join(life.journal.segments[-1]))])
        ) and not outcome.equal:
            found.append(f"does not replay: {outcome.divergence or outcome.unreadable}")

    try:
        _virtually(main)
    finally:
        shutil.rmtree(disk)
    return found


async def _watch(life: Life, case: Case, nursery: trio.Nursery) -> list[str]:
    found: list[str] = []
    begins = len(life.records)
    old = life.store.inventory()
    assert old.current is not None
    kept = _Kept(life, old)
    life.looks = kept
    life.stand.fault(case.fault)
    await nursery.start(life.timers.run, life.runtime.post)
    await nursery.start(life.runtime.run)
    if case.then == "goes-on":
        if not await life.until(_fresh(old), FIRST_WITHIN_S):
            found.append(f"no fresh credential while the fault lasts: {life.runtime.status().reason}")
    else:
        found += [one async for one in _first_attempt(life, case, begins)]
        await trio.sleep(GOES_ON_S)
        if not kept.still:
            found.append("the credential in use was replaced although nothing was proven")
    life.stand.fault()
    if not await life.until(_fresh(old), HEALED_WITHIN_S):
        found.append(f"not renewed after the fault: {life.runtime.status().reason}")
    now = life.store.inventory()
    credential = life.runtime.snapshot.credential
    if now.current is None or credential is None or now.current.sha256 != credential.sha256:
        found.append(f"the disk does not hold what the machine says: {now.problem}")
    if case.fault["kind"] == "moved" and "hub" not in case.fault:
        assignment = life.runtime.snapshot.assignment
        if assignment is None or not assignment.hub.startswith("127.0.0.1:"):
            found.append(f"not moved: {assignment}")
    return found + kept.found


def _fresh(old: Inventory) -> Callable[[Snapshot], bool]:
    """Provisioned, with another certificate than before, which the hub has accepted."""

    def holds(snapshot: Snapshot) -> bool:
        credential = snapshot.credential
        return (
            rests_provisioned(snapshot)
            and credential is not None
            and old.current is not None
            and credential.sha256 != old.current.sha256
            and credential.proven
        )

    return holds


class _Kept:
    """Looks at the disk at every step: what is current is usable, and another only once it is proven."""

    def __init__(self, life: Life, old: Inventory) -> None:
        self._life, self._old = life, old
        self.found: list[str] = []
        self.still = True

    def __call__(self, snapshot: Snapshot) -> None:
        current = self._life.store.inventory()
        if current.current is None:
            self.found.append(f"nothing usable on the disk: {current.problem}")
            return
        if current.current == self._old.current:
            return
        self.still = False
        candidate, credential = snapshot.candidate, snapshot.credential
        if not (candidate is not None and candidate.proven) and not (
            credential is not None and credential.proven
        ):
            self.found.append("an unproven credential became current")


async def _first_attempt(life: Life, case: Case, begins: int) -> AsyncIterator[str]:
    """What went otherwise than the catalogue says."""

    def records() -> list[Record]:
        return life.records[begins:]

    def asked(kind: type[E]) -> list[E]:
        return [effect for record in records() for effect in record.effects if isinstance(effect, kind)]

    if case.then == "shown-again":
        await life.until(lambda _: len(asked(ProveCredential)) > 1, FIRST_WITHIN_S)
        if len(asked(ProveCredential)) < 2 or life.runtime.snapshot.phase is not Phase.PROVING:
            yield "not shown to the hub again"
            return
        attempt = life.runtime.snapshot.attempt
        error = None if attempt is None else attempt.last_error
        if error is None or (error.failure_class, error.code) != (case.failure_class, case.code):
            yield f"its error is {error}"
        return
    before = life.runtime.snapshot.ended
    if not await life.until(lambda snapshot: snapshot.ended != before, FIRST_WITHIN_S):
        yield f"no attempt ended: {life.runtime.status().reason}"
        return
    snapshot = life.runtime.snapshot
    ended = snapshot.ended
    assert ended is not None
    error = ended.error
    wanted = (case.failure_class, case.code)
    if case.then == "asked-again":
        wanted = ("retry", "attempt-timeout")
    if error is None or (error.failure_class, error.code) != wanted:
        yield f"the attempt ended with {error}, not {wanted}"
    submits, polls = asked(SubmitRegistration), asked(PollRegistration)
    if case.then == "asked-again" and (len(submits), len({poll.operation_id for poll in polls})) != (1, 1):
        yield f"{len(submits)} registrations and other operations than one"
    if case.then == "asked-again" and len(polls) < 2:
        yield "asked for only once"
    if case.then == "new-hub" and len(asked(ProveCredential)) < 2:
        yield "the new hub was asked only once"
    if case.then == "submitted-again" and [one.generation for one in submits] != [submits[0].generation] * 2:
        yield f"{len(submits)} registrations instead of the same one twice"
    spent = len(submits) if case.counts else 0
    if snapshot.budget.spent != spent:
        yield f"{snapshot.budget.spent} registrations count, not {spent}"
    delays = [
        one.delay_ms for one in records()[-1].effects if isinstance(one, ArmDelay) and one.name == "attempt"
    ]
    wait_ms = case.retry_after_ms if case.code is not None and case.then != "asked-again" else None
    if len(delays) != 1 or delays[0] < (wait_ms or 0):
        yield f"the next attempt is armed in {delays} ms"
    if case.then == "person" and (
        not life.runtime.status().stuck or not delays or delays[0] < life.policy.backoff_cap_ms // 2
    ):
        yield "nobody is called"
    if (snapshot.staged is None) != (case.then == "new-key"):
        yield f"the staged key is {snapshot.staged}"
    if case.then == "new-key":
        await life.until(lambda _: len(asked(StageKey)) > 1, FIRST_WITHIN_S)
        if len({one.generation for one in asked(StageKey)}) < 2:
            yield "no other key was made"


def all_lives(cases: Iterable[Case]) -> Iterator[tuple[Case, list[str]]]:
    """Each case and what went wrong with it."""
    with provisioned() as template:
        for case in cases:
            yield case, renewal_under(case, template)
