"""One start of the service in this process: what ``adapters/service.py`` puts together, without sockets.

Real are the lock, the last good configuration, the stores, the journal and how both are opened, the
machine, the runtime and its timers. Fakes are DPS and the hub, the clock and chance. Work that belongs
into threads is done at once, because a clock that jumps does not wait for threads, and so that an
operation of the disk has one place in the order of all.
"""

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import trio
import trio.testing
from msgspec import structs

from adapters import config
from adapters.driven import configured
from adapters.driven.certificates.embedded import EmbeddedCertificates
from adapters.driven.credentials import GenerationStore
from adapters.driven.instance_lock import InstanceLock
from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driven.module_cache import ModuleCache
from adapters.driven.timers import TrioTimers
from adapters.fakes.clock import SeededChance, VirtualClock
from adapters.fakes.module_keys import FakeModuleKeys
from adapters.fakes.peer import Asked
from adapters.opening import Opener, keep_last_good, provisional
from adapters.paths import Paths, paths_below
from adapters.release import BUILD_UNIX_MS
from adapters.runtime import Opened, Ports, Runtime
from statemachine.effects import CommitCredential
from statemachine.events import CredentialCommitFailed, CredentialCommitted
from statemachine.settings import Configuration
from tests.crash.cloud import CloudState, Hub, Registrar
from tests.crash.promises import PAIR, Promises, said

T = TypeVar("T")

T0 = BUILD_UNIX_MS + 10 * 86_400_000

_TEXT = """\
[provisioning]
source = "dps"
global_endpoint = "https://dps.example"
id_scope = "0ne0"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "device-1"
symmetric_key = { value = "c2VjcmV0LXNlY3JldC1zZWNyZXQ=" }
[identityd.renewal]
rotate_key = %s
"""
SEGMENT_BYTES, KEEP_BYTES = 24 * 1024, 40 * 1024
"So small that a life of five credentials closes several files, and drops one."


def settings(*, rotate_key: bool) -> config.Loaded:
    text = _TEXT % ("true" if rotate_key else "false")
    configuration = config.parse("config.toml", text)
    journal = structs.replace(configuration.journal, segment_bytes=SEGMENT_BYTES, keep_bytes=KEEP_BYTES)
    configuration = structs.replace(configuration, journal=journal)
    return config.Loaded(configuration=configuration, source="file", text=text)


LOADED = {rotate: settings(rotate_key=rotate) for rotate in (False, True)}


class Start:
    """A process, from its start to its end. ``async with start.running() as runtime``."""

    def __init__(
        self,
        root: str,
        *,
        now_unix_ms: int,
        cloud: CloudState,
        rotate_key: bool,
        seed: int = 1,
        promises: Promises | None = None,
    ) -> None:
        self.loaded = LOADED[rotate_key]
        self.paths: Paths = paths_below(root)
        self.clock = VirtualClock(now_unix_ms)
        self.asked: list[Asked] = []
        self.promises = Promises() if promises is None else promises
        self._registrar: Registrar | None = None
        self._seed = seed
        self._cloud = cloud

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Runtime]:
        """As ``service.main`` and ``service._serve``; leaving it is the end of the process."""
        paths = self.paths
        with InstanceLock(paths.state_dir):
            notes = keep_last_good(paths, self.loaded)
            self.store = store = _PromisingStore(self.promises, paths)
            store.open()
            self.keys = EmbeddedKeys(paths.keyd_home, lambda: configured.keys_of(self.configuration()), store)
            self.certificates = EmbeddedCertificates(
                paths.certd_home,
                store.read_certificate,
                lambda: configured.certificates_of(self.configuration()),
                self.keys,
                self.clock,
            )
            self.modules = ModuleCache(paths.state_dir)
            self._registrar = Registrar(self.clock, store, self._cloud, self.asked)
            self.hub = Hub(self.clock, store, asked=self.asked)
            timers = TrioTimers(self.clock, self.clock)
            ports = Ports(
                registrar=self._registrar,
                hub=self.hub,
                store=store,
                module_keys=FakeModuleKeys(asked=self.asked),
                timers=timers,
                clock=self.clock,
                chance=SeededChance(self._seed),
            )
            opener = Opener(paths, self.configuration, store, self.clock, notes)  # type: ignore[arg-type]
            self._opened: Opened | None = None

            async def opened() -> Opened:
                self._opened = await opener.open()
                promise_appends(self._opened.journal, self.promises)
                return self._opened

            self.runtime = runtime = Runtime(opened, ports, opener.header(), provisional(opener))
            async with trio.open_nursery() as nursery:
                await nursery.start(timers.run, runtime.post)
                await nursery.start(runtime.run)
                try:
                    yield runtime
                finally:
                    nursery.cancel_scope.cancel()

    def configuration(self) -> Configuration:
        return self.loaded.configuration

    @property
    def registrar(self) -> Registrar:
        assert self._registrar is not None, "it does not run yet"
        return self._registrar

    @property
    def cloud(self) -> CloudState:
        return self._cloud if self._registrar is None else self._registrar.state


class _PromisingStore(GenerationStore):
    """Tells when a pair may have become current, and when it must have."""

    def __init__(self, promises: Promises, paths: Paths) -> None:
        super().__init__(paths.state_dir, paths.certd_home, paths.keyd_home)
        self._promises = promises

    async def commit(
        self, effect_id: str, effect: CommitCredential
    ) -> CredentialCommitted | CredentialCommitFailed:
        keep = self._promises.begin(PAIR, said(effect.chain_pem))
        answer = await super().commit(effect_id, effect)
        if isinstance(answer, CredentialCommitted):
            keep(effect.chain_pem)
        return answer


def promise_appends(journal: Any, promises: Promises) -> None:
    append = journal.append

    async def appended(line: bytes) -> None:
        await append(line)
        promises.appended(line)

    journal.append = appended


# --- running it --------------------------------------------------------------------------------------


_REAL_SYNCS = {"fsync": os.fsync, "fdatasync": os.fdatasync}


async def _at_once(work: Callable[..., T], *args: Any, **_: Any) -> T:
    await trio.lowlevel.checkpoint_if_cancelled()
    return work(*args)


@contextmanager
def in_one_thread() -> Iterator[None]:
    """What goes on in worker threads is done at once, and said by nobody. Syncs are believed, or recorded."""
    syncs = {name: getattr(os, name) for name in ("fsync", "fdatasync")}
    for name, call in syncs.items():
        if call is _REAL_SYNCS[name]:
            setattr(os, name, lambda handle: None)
    real, trio.to_thread.run_sync = trio.to_thread.run_sync, _at_once  # type: ignore[assignment]
    log = logging.getLogger("identityd")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        trio.to_thread.run_sync = real
        for name, call in syncs.items():
            setattr(os, name, call)
        log.setLevel(level)


def live(scenario: Callable[[], Awaitable[T]], root: str) -> T:
    """One process's life on a clock that jumps; what it had open is closed, as a kernel does."""
    try:
        with in_one_thread():
            return trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        for handle in open_below(root):
            os.close(handle)


def open_below(root: str) -> list[int]:
    """Descriptors of this process that lead below ``root``."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that lists them
        if path.startswith(f"{root}/"):
            found.append(int(name))
    return found
