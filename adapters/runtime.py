"""event → step → append and sync → dispatch. One task owns the machine; nothing is done that is not on disk.

Ports only. Every input arrives through one inbox, is stamped and given its draw here, and becomes one
journal record. When the record cannot be written, the step never happened: the event is kept and
tried again, commands are refused, and whatever serves from the stores goes on.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import trio
from msgspec import Struct, structs

from adapters.errors import StoreUnavailable
from adapters.ports import (
    Chance,
    Clock,
    CredentialStore,
    Hub,
    Journal,
    ModuleKeyPusher,
    Registrar,
    Taken,
    Timers,
)
from statemachine.effects import (
    AnyEffect,
    ArmDeadline,
    ArmDelay,
    Asking,
    CommitCredential,
    Disarm,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    StopService,
    SubmitRegistration,
    effect_id,
)
from statemachine.events import (
    AnyEvent,
    ClockObserved,
    CredentialCommitFailed,
    CredentialProofFailed,
    CredentialRetireFailed,
    CredentialsPurgeFailed,
    Failure,
    KeyStageFailed,
    ModuleKeysPushFailed,
    RegistrationFailed,
    RulesChanged,
    ShutdownRequested,
    Started,
)
from statemachine.explain import status_of, tell
from statemachine.journal import Header, encode_line, head_lines, record_of
from statemachine.machine import Decision, decide
from statemachine.snapshot import Outstanding, Snapshot
from statemachine.status import Status

INBOX_EVENTS = 1024
"Timers, answers and commands under way together stay far below this."
WATCHER_LINES = 256
"A watcher that is further behind is dropped, never waited for."
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
COMMAND_WAIT_S = 10.0
"A command that cannot be journalled within this time is taken back."

log = logging.getLogger("identityd")


class Opened(Struct, frozen=True, kw_only=True):
    """The history this run goes on from."""

    journal: Journal
    snapshot: Snapshot
    last_hash: str
    events: tuple[AnyEvent, ...]
    "What happened before anything else: RulesChanged after an upgrade, then Started."
    rotate: bool = False
    "Begin a new file at once: the one that is there was written on another machine."


Opener = Callable[[], Awaitable[Opened]]
"Reads and repairs what is there. Raises StoreUnavailable when that cannot be done now."


class Ports(Struct, frozen=True, kw_only=True):
    """What answers effects."""

    registrar: Registrar
    hub: Hub
    store: CredentialStore
    module_keys: ModuleKeyPusher
    timers: Timers
    clock: Clock
    chance: Chance


class _Entry:
    """An event on its way, and who waits for it."""

    __slots__ = ("done", "event", "result", "withdrawn", "writing")

    def __init__(self, event: AnyEvent, done: trio.Event | None = None) -> None:
        self.event = event
        self.done = done
        self.result: Taken | StoreUnavailable | None = None
        self.withdrawn = False
        self.writing = False

    def finish(self, result: Taken | StoreUnavailable) -> None:
        self.result = result
        if self.done is not None:
            self.done.set()


class Runtime:
    """Fills ``ports.Lifecycle``. ``run`` is the service's life."""

    def __init__(self, opener: Opener, ports: Ports, header: Header, provisional: Snapshot) -> None:
        self._opener = opener
        self._ports = ports
        self._header = header
        "What every new file says about this machine and release."
        self._snapshot = provisional
        "What is true now: provisional until the history is open and this start is part of it."
        self._history = provisional
        "What the next step goes on from."
        self._report_started: Callable[[], None] = _nobody_waits
        self._problem: str | None = None
        "Why the last try to open or write the journal failed; None when it did not."
        self._retrying = False
        "Something is tried again until the journal takes it, so a command would only queue up behind it."
        self._journal: Journal | None = None
        self._hash = ""
        self._post, self._inbox = trio.open_memory_channel[_Entry | None](INBOX_EVENTS)
        "None is no event: somebody asks whether the machine's owner still looks."
        self._round = trio.Event()
        "Set, and replaced, whenever the owner looks."
        self._resting = False
        "The owner waits for its next try at the journal: not looking, and well."
        self._watchers: set[trio.MemorySendChannel[bytes]] = set()
        self._observers: list[Callable[[Snapshot], None]] = []
        self._stop_asked = trio.Event()
        self._perform: Mapping[type[Asking], Callable[[str, Any], Awaitable[AnyEvent]]] = {
            StageKey: ports.store.stage,
            SubmitRegistration: ports.registrar.submit,
            PollRegistration: ports.registrar.poll,
            ProveCredential: ports.hub.prove,
            CommitCredential: ports.store.commit,
            RetireCredential: ports.store.retire,
            PurgeCredentials: ports.store.purge,
            PushModuleKeys: ports.module_keys.push,
        }

    # --- what sockets and signals see ----------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def status(self) -> Status:
        notes = () if self._problem is None else (f"journal: unavailable: {self._problem}",)
        return status_of(self._snapshot, self._ports.clock.now_unix_ms(), notes=notes)

    @property
    def journal_available(self) -> bool:
        """Whether the last try to open or write it went well."""
        return self._problem is None

    def observe(self, observer: Callable[[Snapshot], None]) -> None:
        """Have it called with each new snapshot. It must neither block nor raise."""
        self._observers.append(observer)

    def post(self, event: AnyEvent) -> None:
        """Hand an event in; never blocks."""
        if isinstance(event, ShutdownRequested):
            self._stop_asked.set()
        try:
            self._post.send_nowait(_Entry(event))
        except trio.WouldBlock:
            log.error("inbox full, dropped %s", type(event).__name__)
        except trio.BrokenResourceError:
            log.debug("stopped, dropped %s", type(event).__name__)

    async def come_round(self) -> None:
        """Returns once the task that owns the machine has looked into its inbox, or rests between tries at
        the journal. It does not return when that task hangs. Nothing is journalled."""
        if self._resting:
            return
        looked = self._round
        try:
            self._post.send_nowait(None)
        except trio.WouldBlock:
            log.debug("inbox full, so there is something to look at")
        except trio.BrokenResourceError:
            return
        await looked.wait()

    def _came_round(self) -> None:
        looked, self._round = self._round, trio.Event()
        looked.set()

    async def command(self, event: AnyEvent) -> Taken:
        self._refuse_without_journal()
        entry = _Entry(event, trio.Event())
        assert entry.done is not None
        try:
            self._post.send_nowait(entry)
        except (trio.WouldBlock, trio.BrokenResourceError) as exc:
            raise StoreUnavailable("the service is busy or stopping", code="journal-unavailable") from exc
        with trio.move_on_after(COMMAND_WAIT_S):
            await entry.done.wait()
        if entry.writing:
            # Its record is on the way to the disk and cannot be taken back.
            await entry.done.wait()
        if isinstance(entry.result, Taken):
            return entry.result
        entry.withdrawn = True
        raise entry.result or StoreUnavailable(
            f"not journalled within {COMMAND_WAIT_S:g} s", code="journal-unavailable"
        )

    def _refuse_without_journal(self) -> None:
        # When nothing is being retried the problem may be over: whoever comes next finds out.
        if self._retrying:
            raise StoreUnavailable(f"journal: {self._problem}", code="journal-unavailable")

    @contextmanager
    def follow(self) -> Iterator[trio.MemoryReceiveChannel[bytes]]:
        send, receive = trio.open_memory_channel[bytes](WATCHER_LINES)
        self._watchers.add(send)
        try:
            yield receive
        finally:
            self._watchers.discard(send)
            send.close()
            receive.close()

    def lines_from(self, sequence: int) -> AsyncIterator[bytes]:
        self._refuse_without_journal()
        if self._journal is None:
            raise StoreUnavailable("the journal is being opened", code="journal-unavailable")
        return self._journal.lines_from(sequence)

    # --- the loop ------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until StopService. Started once status is true: history restored, or known to be unavailable."""
        self._report_started = task_status.started
        try:
            async with trio.open_nursery() as effects:
                opened = await self._open()
                if opened is None:
                    return
                self._journal, self._hash = opened.journal, opened.last_hash
                self._history = opened.snapshot
                outstanding = opened.snapshot.outstanding
                for event in opened.events:
                    if not await self._take(_Entry(event), effects):
                        return
                self._perform_again(outstanding, effects)
                if opened.rotate:
                    await self._rotate()
                self._tell_started()
                async for entry in self._inbox:
                    self._came_round()
                    if entry is not None and not await self._take(entry, effects):
                        break
                effects.cancel_scope.cancel()
        finally:
            self._refuse_the_rest()
            for watcher in tuple(self._watchers):
                watcher.close()

    def _tell_started(self) -> None:
        """Once, however often this is called."""
        report, self._report_started = self._report_started, _nobody_waits
        report()

    def _refuse_the_rest(self) -> None:
        """Whoever still waits for a command to be taken is told that it never will be."""
        with suppress(trio.WouldBlock):
            while True:
                entry = self._inbox.receive_nowait()
                if entry is not None:
                    entry.finish(StoreUnavailable("the service is stopping", code="journal-unavailable"))
        self._inbox.close()
        self._came_round()

    async def _open(self) -> Opened | None:
        """None when asked to stop before the history could be read."""
        delay = FIRST_RETRY_S
        while True:
            try:
                opened = await self._opener()
            except StoreUnavailable as exc:
                self._journal_failed(exc)
                self._retrying = True
                if await self._stopped_within(delay):
                    return None
                delay = min(delay * 2, LAST_RETRY_S)
            else:
                self._problem = None
                self._retrying = False
                return opened

    async def _take(self, entry: _Entry, effects: trio.Nursery) -> bool:
        """One event to its end. False when the service is to stop."""
        assert self._journal is not None
        delay = FIRST_RETRY_S
        while not entry.withdrawn:
            # Stamped and drawn anew at each try: what could not be journalled never happened.
            observed = self._ports.timers.look()
            if observed is not None and not self._told_by(entry, observed):
                # A step is known before anything that is stamped after it.
                if not await self._take(_Entry(observed), effects):
                    return False
                continue
            now = self._ports.clock.now_unix_ms()
            event = structs.replace(entry.event, draw_ppm=self._ports.chance.draw_ppm())
            decision = decide(self._history, event, now)
            record = record_of(now, event, decision)
            line, digest = encode_line(record, self._hash)
            entry.writing = True
            try:
                await self._journal.append(line)
            except StoreUnavailable as exc:
                self._journal_failed(exc)
                if entry.done is not None:
                    entry.finish(exc)
                    return True
                self._retrying = True
                if await self._stopped_within(delay):
                    return False
                delay = min(delay * 2, LAST_RETRY_S)
                continue
            if self._problem is not None:
                log.info("journal writable again")
                self._problem = None
            self._retrying = False
            self._snapshot = self._history = decision.snapshot
            self._hash = digest
            self._publish(line)
            for observer in self._observers:
                observer(decision.snapshot)
            level = logging.WARNING if isinstance(event, Failure) else logging.INFO
            log.log(level, "%s", tell(record), extra={"journalled": record})
            entry.finish(Taken(sequence=record.sequence, verdict=decision.verdict, why=decision.why))
            return await self._after(decision, effects)
        return True

    def _told_by(self, entry: _Entry, observed: ClockObserved) -> bool:
        """Whether the event itself tells, from now on, what became of the clock."""
        if isinstance(entry.event, ClockObserved):
            jump_ms = entry.event.jump_ms + observed.jump_ms
            entry.event = structs.replace(observed, jump_ms=jump_ms)
        elif isinstance(entry.event, RulesChanged | Started):
            # A start compares its own stamp with the last one; only what the kernel says comes after it.
            self.post(structs.replace(observed, jump_ms=0))
        else:
            return False
        return True

    async def _after(self, decision: Decision, effects: trio.Nursery) -> bool:
        assert self._journal is not None
        going_on = True
        snapshot = decision.snapshot
        for index, effect in enumerate(decision.effects):
            if isinstance(effect, StopService):
                going_on = False
            elif isinstance(effect, Asking):
                asked = effect_id(snapshot.epoch, snapshot.sequence, index)
                effects.start_soon(self._perform_one, asked, effect)
            else:
                self._arm(effect)
        if self._journal.rotation_due and going_on:
            await self._rotate()
        return going_on

    def _arm(self, effect: AnyEffect) -> None:
        timers = self._ports.timers
        match effect:
            case ArmDeadline():
                timers.arm_deadline(effect)
            case ArmDelay():
                timers.arm_delay(effect)
            case Disarm():
                timers.disarm(effect)

    def _perform_again(self, outstanding: tuple[Outstanding, ...], effects: trio.Nursery) -> None:
        """What the last run asked and never saw answered, under the same ids."""
        still = {one.id for one in self._history.outstanding}
        for one in outstanding:
            if one.id in still and isinstance(one.effect, Asking):
                effects.start_soon(self._perform_one, one.id, one.effect)

    async def _perform_one(self, effect_id: str, effect: Asking) -> None:
        try:
            answer = await self._perform[type(effect)](effect_id, effect)
        except Exception as exc:
            # A defect in an adapter, met on some strange input, must not cost the device its service.
            log.exception("%s failed unexpectedly", type(effect).__name__)
            answer = _failed_unexpectedly(effect_id, effect, exc)
        self.post(answer)

    async def _rotate(self) -> None:
        assert self._journal is not None
        snapshot = self._history
        header = structs.replace(
            self._header,
            epoch=snapshot.epoch,
            first_sequence=snapshot.sequence + 1,
            created_unix_ms=self._ports.clock.now_unix_ms(),
            continues=self._hash,
        )
        head, digest = head_lines(header, snapshot)
        try:
            await self._journal.rotate(head)
        except StoreUnavailable as exc:
            log.warning("journal file not closed yet: %s", exc.message)
        else:
            self._hash = digest

    def _publish(self, line: bytes) -> None:
        for watcher in tuple(self._watchers):
            try:
                watcher.send_nowait(line)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._watchers.discard(watcher)
                watcher.close()

    def _journal_failed(self, exc: StoreUnavailable) -> None:
        if self._problem != exc.message:
            log.error("journal unavailable: %s", exc.message)
        self._problem = exc.message
        # Sockets serve from the stores meanwhile: a supervisor must not take this for a failed start.
        self._tell_started()

    async def _stopped_within(self, seconds: float) -> bool:
        self._resting = True
        self._came_round()
        with trio.move_on_after(seconds):
            await self._stop_asked.wait()
        self._resting = False
        return self._stop_asked.is_set()


def _nobody_waits() -> None:
    """Stands in for a start that was told already."""


def _failed_unexpectedly(effect_id: str, effect: Asking, exc: Exception) -> AnyEvent:
    facts = {
        "answers": effect_id,
        "failure_class": "retry",
        "code": "internal-error",
        "message": f"{type(exc).__name__} in an adapter; the log has the details",
    }
    return _UNEXPECTED[type(effect)](effect)(**facts)


def _proof_failed(effect: Any) -> Callable[..., AnyEvent]:  # noqa: ANN401  one of the map's values
    return partial(CredentialProofFailed, generation=effect.generation, refused=False)


_UNEXPECTED: Mapping[type[Asking], Callable[[Any], Callable[..., AnyEvent]]] = {
    StageKey: lambda effect: KeyStageFailed,
    SubmitRegistration: lambda effect: RegistrationFailed,
    PollRegistration: lambda effect: RegistrationFailed,
    ProveCredential: _proof_failed,
    CommitCredential: lambda effect: CredentialCommitFailed,
    RetireCredential: lambda effect: CredentialRetireFailed,
    PurgeCredentials: lambda effect: CredentialsPurgeFailed,
    PushModuleKeys: lambda effect: ModuleKeysPushFailed,
}
