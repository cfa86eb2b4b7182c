"""Cases of the catalogue met by the real adapters: the event that comes of each, and what is wrong."""

import gc
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
import trio.testing
from msgspec import Struct

from adapters.driven.clock import SystemClock
from adapters.driven.credentials import GenerationStore
from adapters.fakes.clock import VirtualClock
from adapters.ports import Clock
from adapters.simulators.case import Case
from adapters.simulators.catalogue import CASES
from adapters.simulators.state import REGISTRATION_ID
from statemachine.effects import PollRegistration, ProveCredential, StageKey, SubmitRegistration
from statemachine.events import (
    AnyEvent,
    Failure,
    KeyStaged,
    RegistrationAccepted,
    RegistrationAssigned,
    tag_of,
)
from statemachine.judge import chain_problem
from statemachine.snapshot import Problem, Snapshot, StagedKey
from tests.rogue.memory import MemoryNetwork, in_memory
from tests.rogue.stand import Stand, adapters, quick_trust, store_below

STALLS = tuple(case for case in CASES if case.fault["kind"] == "stall")
"Met on virtual time, where nobody waits for a timeout. Everything else goes over loopback."
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
VIRTUAL_MS = 3_600_000
"How far virtual time may run in one table."
EFFECT_ID = "1.1.0"
GENERATION = 1
MAX_EVENT_BYTES = 2 * 1024 * 1024
"A bundle of 1 MiB and a chain of 256 KiB at the most, and what JSON adds."


class Met(Struct, frozen=True):
    """What came of one case."""

    event: AnyEvent
    judgement: Problem | None = None
    "Of the machine, on an assignment."


class Device:
    """One staged key, whose registrations meet one fault after the other."""

    def __init__(self, stand: Stand, root: Path, **settings: Any) -> None:
        self.stand = stand
        self.clock: Clock = stand.clock
        self.store: GenerationStore = store_below(root)
        self._settings = settings
        self.staged: StagedKey | None = None

    async def stage(self) -> None:
        wish = StageKey(generation=GENERATION, algorithm="ec-p256", common_name=REGISTRATION_ID)
        staged = await self.store.stage(EFFECT_ID, wish)
        assert isinstance(staged, KeyStaged), staged
        self.staged = StagedKey(
            generation=GENERATION,
            spki_sha256=staged.spki_sha256,
            algorithm="ec-p256",
            common_name=REGISTRATION_ID,
        )

    async def meet(self, case: Case) -> Met:
        """The case's fault is in force for the one question it is about, and gone afterwards."""
        assert self.staged is not None
        configuration = self.stand.configuration(case.api_version, **self._settings)  # type: ignore[arg-type]
        registrar, hub = adapters(configuration, self.clock, self.store)
        spki = self.staged.spki_sha256
        event: AnyEvent
        self.stand.fault(*((case.fault,) if case.asks == "submit" else ()))
        try:
            event = await registrar.submit(
                EFFECT_ID, SubmitRegistration(attempt=1, generation=GENERATION, spki_sha256=spki)
            )
            if case.asks == "submit":
                return self._met(event)
            assert isinstance(event, RegistrationAccepted), event
            self.stand.fault(*((case.fault,) if case.fault["on"] == "operation" else ()))
            event = await registrar.poll(
                EFFECT_ID, PollRegistration(attempt=1, operation_id=event.operation_id, spki_sha256=spki)
            )
            if case.asks == "poll":
                return self._met(event)
            assert isinstance(event, RegistrationAssigned), event
            assert event.chain is not None
            assert self._met(event).judgement is None
            self.stand.fault(case.fault)
            proof = ProveCredential(
                generation=GENERATION,
                hub=event.assigned_hub,
                device_id=event.device_id,
                issued=True,
                chain_pem=event.chain.chain_pem,
            )
            return self._met(await hub.prove(EFFECT_ID, proof))
        finally:
            await registrar.aclose()
            self.stand.fault()

    def _met(self, event: AnyEvent) -> Met:
        if not isinstance(event, RegistrationAssigned):
            return Met(event)
        return Met(event, chain_problem(Snapshot(staged=self.staged), event, self.clock.now_unix_ms()))


def differences(case: Case, met: Met, secrets: tuple[str, ...]) -> Iterator[str]:
    """What is otherwise than the catalogue says."""
    event = met.event
    if tag_of(type(event)) != case.event:
        yield f"{tag_of(type(event))} instead of {case.event}: {event!r:.300}"
        return
    failure = met.judgement if case.judged else event
    if isinstance(failure, Failure | Problem):
        said: tuple[str | None, str | None] = (failure.failure_class, failure.code)
        if not failure.message:
            yield "no message"
    else:
        said = (None, None)
    if said != (case.failure_class, case.code):
        yield f"{said} instead of {(case.failure_class, case.code)}: {failure!r:.300}"
    if not case.judged and met.judgement is not None:
        yield f"refused by the machine: {met.judgement}"
    for name, wanted in (
        ("retry_after_ms", case.retry_after_ms),
        ("refused", case.refused),
        ("unsent", case.unsent),
    ):
        found = getattr(event, name, wanted)
        if found != wanted:
            yield f"{name} is {found}, not {wanted}"
    if case.failure_class is not None and isinstance(event, RegistrationAssigned) != case.judged:
        yield "judged by the wrong one"
    if isinstance(event, RegistrationAssigned) and (event.bundle_problem is not None) != case.flagged:
        yield f"the bundle's problem is {event.bundle_problem}"
    told = case.fault.get("tracking_id")
    if told is not None and isinstance(event, Failure) and event.tracking_id != told:
        yield f"the tracking id is {event.tracking_id}"
    written = msgspec.json.encode(event).decode()
    if len(written) > MAX_EVENT_BYTES:
        yield f"an event of {len(written)} bytes"
    if any(secret in written for secret in secrets):
        yield "a secret is in the event"


def meet_all(cases: Iterable[Case], *, virtual: bool = False) -> dict[str, list[str]]:
    """What differs, by the name of the case. One cloud and one device for all.

    ``virtual`` is in memory and on virtual time, so that a timeout costs nothing; otherwise over loopback.
    """
    found: dict[str, list[str]] = {}

    async def main(network: MemoryNetwork | None) -> None:
        with tempfile.TemporaryDirectory(prefix="id-", dir=MEMORY) as directory:
            root = Path(directory)
            # OpenSSL goes by the real clock: what is issued in virtual time must not lie ahead of it.
            now_unix_ms = SystemClock().now_unix_ms() - VIRTUAL_MS
            stand = Stand(root / "cloud", VirtualClock(now_unix_ms) if network else SystemClock())
            with quick_trust(root):
                async with stand.serving(network):
                    device = Device(stand, root / "device", cloud_retries=0)
                    await device.stage()
                    for case in cases:
                        found[case.name] = list(differences(case, await device.meet(case), stand.secrets))

    with frozen():
        if virtual:
            network = MemoryNetwork()
            with in_memory(network):
                trio.run(main, network, clock=trio.testing.MockClock(autojump_threshold=0))
        else:
            trio.run(main, None)
    return found


@contextmanager
def frozen() -> Iterator[None]:
    """As in the service once it runs: what is there is no garbage, which each closing client looks for."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
