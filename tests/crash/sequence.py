"""The life that is recorded: register, renew in both ways, move to another hub, grow old, lose the
certificate and get another; and what the journal does meanwhile.

Each chapter is one process: it starts on what the one before left, and ends without a farewell. Beside the
machine's own work the neighbours' stores are used: keys and certificates by id, and what is known of modules.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from msgspec import Struct, structs

from adapters.driven.generations import certificate_file_name, key_file_name
from adapters.driven.hub_modules import Where
from adapters.driven.module_cache import directory_name, file_name
from adapters.errors import StoreUnavailable
from adapters.runtime import Runtime
from adapters.wire.hub import Module
from statemachine.events import ClockObserved, RenewRequested, ReprovisionRequested
from statemachine.snapshot import Snapshot
from statemachine.states import Phase, State
from tests.crash.cloud import DEVICE_ID, CloudState, bundle_named
from tests.crash.device import T0, Start, live, open_below
from tests.crash.image import Image
from tests.crash.promises import ANYTHING, PAIR, Owed, Promises
from tests.crash.recording import Fault, Recorder

PAUSE_MS = 10_000
"Between two processes."
DAY_S = 86_400.0
RETRY_S, INSISTS = 5.0, 500
RESTARTS = 200
DESCRIPTORS = 2
"That a service at rest has open below its directories: the lock and the journal."


class Moment(Struct, frozen=True):
    """All that a start needs to go on from a disk, and that a judge must know."""

    chapter: int
    now_unix_ms: int
    cloud: CloudState
    owed: Owed


class Chapter(Struct, frozen=True, kw_only=True):
    name: str
    rotate_key: bool = True
    play: Callable[[Start, Runtime], Awaitable[None]]


class Opening(Struct, frozen=True):
    """Where a chapter begins."""

    moment: Moment
    image: Image
    operations: int
    calls: int


class Life(Struct, frozen=True, kw_only=True):
    """A recorded life."""

    recorder: Recorder
    opening: tuple[Opening, ...]
    end: Moment


# --- waiting -----------------------------------------------------------------------------------------


async def until(runtime: Runtime, wanted: Callable[[Snapshot], bool], within_s: float = 60 * DAY_S) -> None:
    with trio.fail_after(within_s), runtime.follow() as lines:
        while not wanted(runtime.snapshot):
            await lines.receive()


def provisioned(snapshot: Snapshot) -> bool:
    return snapshot.state is State.PROVISIONED and snapshot.phase is Phase.IDLE


def generation_of(snapshot: Snapshot) -> int:
    return 0 if snapshot.credential is None else snapshot.credential.generation


async def insist(work: Callable[[], Awaitable[object]]) -> None:
    """What a caller does who is told 503: the same again, a little later."""
    for _ in range(INSISTS):
        try:
            await work()
        except StoreUnavailable:
            await trio.sleep(RETRY_S)
        else:
            return
    raise AssertionError("it was never taken")


# --- chapters ----------------------------------------------------------------------------------------


async def register(start: Start, runtime: Runtime) -> None:
    await until(runtime, provisioned)
    await write_key(start, "shared", b"first" * 8)
    await make_pair(start, "leaf-key")
    await write_certificate(start, "edge-root", "three")
    await write_modules(start, "hub-1.example", "edgeAgent", "edgeHub")


async def renew_now(start: Start, runtime: Runtime) -> None:
    before = generation_of(runtime.snapshot)
    await insist(lambda: runtime.command(RenewRequested(uid=0)))
    await until(runtime, lambda snapshot: provisioned(snapshot) and generation_of(snapshot) > before)
    await write_key(start, "shared", b"second" * 8)
    await write_certificate(start, "edge-root", "four")


async def renew_in_time(start: Start, runtime: Runtime) -> None:
    before = generation_of(runtime.snapshot)
    start.registrar.show("two")
    await until(runtime, lambda snapshot: provisioned(snapshot) and generation_of(snapshot) > before)
    await write_certificate(start, "edge-root", None)


async def reprovision(start: Start, runtime: Runtime) -> None:
    start.registrar.move("hub-2.example")
    await _reprovision(runtime)
    await write_modules(start, "hub-2.example", "edgeAgent")
    await forget_modules(start, "hub-1.example", "edgeAgent", "edgeHub")


async def lose_issuance(start: Start, runtime: Runtime) -> None:
    """The enrolment issues no certificates any more: certificate and key are taken back."""
    start.registrar.issues = False
    await _reprovision(runtime)
    assert start.promises.owed.forbids(PAIR, b"any certificate")


async def regain_issuance(start: Start, runtime: Runtime) -> None:
    start.registrar.issues = True
    await _reprovision(runtime)
    assert start.promises.owed.forbids(PAIR, None)


async def _reprovision(runtime: Runtime) -> None:
    before = generation_of(runtime.snapshot)
    await insist(lambda: runtime.command(ReprovisionRequested(uid=0)))
    await until(runtime, lambda snapshot: provisioned(snapshot) and generation_of(snapshot) > before)


async def grow_old(start: Start, runtime: Runtime) -> None:
    """Records until the journal has closed another file, and dropped one that is too many."""
    first = seen = _names(start)
    for _ in range(400):
        await insist(lambda: runtime.command(ClockObserved(kernel_synchronised=True)))
        seen = seen | _names(start)
        if len(seen - first) >= 2 and seen - _names(start):
            return
    raise AssertionError("the journal was never closed")


async def a_month_passes(start: Start, runtime: Runtime) -> None:
    """Another renewal in its time; meanwhile the first certificates end, and their keys go."""
    before = generation_of(runtime.snapshot)
    await until(runtime, lambda snapshot: provisioned(snapshot) and generation_of(snapshot) > before)
    await until(runtime, lambda _: len(start.store.layout.generations()) <= 2)


def _names(start: Start) -> set[str]:
    return {path.name for path in Path(start.paths.state_dir).glob("journal-*.jsonl")}


CHAPTERS = (
    Chapter(name="register", play=register),
    Chapter(name="renew with the same key", rotate_key=False, play=renew_now),
    Chapter(name="renew with a rotated key", play=renew_in_time),
    Chapter(name="reprovision", play=reprovision),
    Chapter(name="compaction", play=grow_old),
    Chapter(name="a month passes", play=a_month_passes),
    Chapter(name="no certificates any more", play=lose_issuance),
    Chapter(name="certificates again", play=regain_issuance),
)


# --- the neighbours' stores --------------------------------------------------------------------------


def _relative(start: Start, path: str) -> str:
    return str(Path(path).relative_to(start.paths.root))


async def write_key(start: Start, key_id: str, material: bytes) -> None:
    path = f"{start.paths.keyd_home}/keys/{key_file_name(key_id)}"
    await _promised(start, path, lambda: start.keys.create_key(key_id, ("derive",), material))


async def make_pair(start: Start, key_id: str) -> None:
    path = f"{start.paths.keyd_home}/keys/{key_file_name(key_id)}"
    await _promised(start, path, lambda: start.keys.create_key_pair(key_id, "ec-p256"))


async def write_certificate(start: Start, certificate_id: str, name: str | None) -> None:
    path = f"{start.paths.certd_home}/certs/{certificate_file_name(certificate_id)}"

    async def work() -> None:
        if name is None:
            await start.certificates.delete_certificate(certificate_id)
        else:
            pem = bundle_named(name).bundle_pem.decode()
            await start.certificates.import_certificate(certificate_id, pem)

    await _promised(start, path, work, gone=name is None)


async def write_modules(start: Start, hub: str, *names: str) -> None:
    where = Where(hub=hub, device_id=DEVICE_ID)
    for name in names:
        module = Module(module_id=name, device_id=DEVICE_ID, generation_id="6361")
        path = f"{start.modules.root}/{directory_name(where)}/{file_name(name)}"
        await _promised(start, path, partial(start.modules.write, where, [module]))


async def forget_modules(start: Start, hub: str, *names: str) -> None:
    """As the reconciler does with another device's modules, once the new place is proven."""
    where = Where(hub=hub, device_id=DEVICE_ID)
    directory = f"{start.modules.root}/{directory_name(where)}"
    kept = [start.promises.begin(_relative(start, f"{directory}/{file_name(name)}"), None) for name in names]
    here = Where(hub=start.registrar.hub, device_id=DEVICE_ID)
    await insist(lambda: start.modules.forget_others(here))
    for keep in kept:
        keep(None)


async def _promised(
    start: Start, path: str, work: Callable[[], Awaitable[object]], *, gone: bool = False
) -> None:
    keep = start.promises.begin(_relative(start, path), None if gone else ANYTHING)
    await insist(work)
    keep(None if gone else _content(path))


def _content(path: str) -> bytes:
    return Path(path).read_bytes()


# --- living it ---------------------------------------------------------------------------------------


class Recording:
    """Chapters below one directory, recorded; each goes on where the one before ended."""

    def __init__(
        self, root: str, moment: Moment, *, image: Image | None = None, fault: Fault | None = None
    ) -> None:
        self.moment = moment
        self.promises = Promises(moment.owed)
        self.starts = 0
        self._start: Start | None = None
        self.recorder = Recorder(root, self._now, now_unix_ms=self._now_unix_ms, fault=fault, image=image)

    def live(self) -> None:
        """The next chapter. A process that cannot begin is started again, as systemd does."""
        chapter = CHAPTERS[self.moment.chapter]
        for _ in range(RESTARTS):
            self.starts += 1
            try:
                self._live(chapter)
            except StoreUnavailable:
                # Out of the start itself: what fails later is answered, and never ends the service.
                self.moment = structs.replace(self._now(), now_unix_ms=self._now_unix_ms() + PAUSE_MS)
            else:
                return
        raise AssertionError("the service never started")

    def _live(self, chapter: Chapter) -> None:
        self._start = start = Start(
            self.recorder.root,
            now_unix_ms=self.moment.now_unix_ms,
            cloud=self.moment.cloud,
            rotate_key=chapter.rotate_key,
            promises=self.promises,
        )

        async def process() -> int:
            async with start.running() as runtime:
                await chapter.play(start, runtime)
                if len(held := open_below(self.recorder.root)) > DESCRIPTORS:
                    raise AssertionError(f"{len(held)} files are open")
                return start.clock.now_unix_ms()

        with self.recorder:
            ended = live(process, self.recorder.root)
        self.moment = structs.replace(
            self._now(), chapter=self.moment.chapter + 1, now_unix_ms=ended + PAUSE_MS
        )

    def _now_unix_ms(self) -> int:
        try:
            return self.moment.now_unix_ms if self._start is None else self._start.clock.now_unix_ms()
        except RuntimeError:  # no clock runs
            return self.moment.now_unix_ms

    def _now(self) -> Moment:
        start = self._start
        cloud = self.moment.cloud if start is None else start.cloud
        return Moment(self.moment.chapter, self._now_unix_ms(), cloud, self.promises.owed)


BEGINNING = Moment(0, T0, CloudState(), Owed())


def lived(root: str, chapters: int | None = None) -> Life:
    """The life below an empty directory, recorded; ``chapters`` of it, or all."""
    recording = Recording(root, BEGINNING)
    opening = []
    for _ in CHAPTERS[:chapters]:
        recorder = recording.recorder
        opening.append(
            Opening(recording.moment, dict(recorder.image), len(recorder.recorded), recorder.calls)
        )
        recording.live()
    return Life(recorder=recording.recorder, opening=tuple(opening), end=recording.moment)
