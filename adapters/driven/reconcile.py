"""Modules of configured principals, made to exist at the hub (cloud.md §4.5).

Differences from the original, on purpose (cloud.md Q9, Q10): nothing is ever made anew. A module that is
there keeps its generation and its twin. What is kept of the last success is hub, device and names; with
another hub or device the names count for nothing, and nothing is deleted there.

=============  =============  =========  ==========================================================
at the hub     configured     before     what is done
=============  =============  =========  ==========================================================
yes            yes            yes        nothing
yes            yes            no         its keys are pushed: they may be somebody else's
no             yes            any        created, its keys pushed
yes            no             yes        deleted
yes            no             no         nothing: it is not ours
=============  =============  =========  ==========================================================

``before``: the last success, with this hub and device, had it. A push of the keys it has changes nothing.
"""

import logging
import os
from collections.abc import Callable

import msgspec
import trio
from msgspec import Struct

from adapters.driven.files import read_file, remove_tree, unavailable
from adapters.driven.hub_modules import HUB_MOVED, MODULE_GONE, REFUSALS, HubModules, Where
from adapters.driven.module_cache import ModuleCache
from adapters.driven.module_keys import ModuleKeys
from adapters.durable import replace_file, sync_directory
from adapters.errors import AdapterError, PeerRefused, RequestRefused
from adapters.ports import Chance, Clock
from adapters.wire.hub import Module, check_module_id
from statemachine.settings import Configuration, NoProvisioning
from statemachine.snapshot import Snapshot

FILE = "reconciled.json"
MAX_FILE_BYTES = 1024 * 1024
FIRST_WAIT_S, LAST_WAIT_S = 4.0, 900.0
"Bounds of the exponential back-off, of which a uniform share is waited."
LEAST_WAIT_S = 1.0
DRAWS = 1_000_000

log = logging.getLogger("identityd")


class Reconciled(Struct, frozen=True, kw_only=True):
    """``reconciled.json``: the last success."""

    hub: str
    device_id: str
    modules: tuple[str, ...]


class _Wanted(Struct, frozen=True, kw_only=True):
    """What a success would be for. Another one is another task, with no failures yet."""

    where: Where
    source: str
    generation: int
    proven: bool
    names: tuple[str, ...]


class Reconciler:
    """One task. ``configuration`` and ``snapshot`` are asked at each turn."""

    def __init__(
        self,
        state_dir: str,
        configuration: Callable[[], Configuration],
        snapshot: Callable[[], Snapshot],
        clock: Clock,
        chance: Chance,
        modules: HubModules,
        cache: ModuleCache,
        module_keys: ModuleKeys,
    ) -> None:
        self._path = os.path.join(state_dir, FILE)
        self._configuration = configuration
        self._snapshot = snapshot
        self._clock = clock
        self._chance = chance
        self._hub = modules
        self._cache = cache
        self._module_keys = module_keys
        self._woken = trio.Event()
        self._file = trio.CapacityLimiter(1)
        self._said: str | None = None

    def wake(self) -> None:
        """Snapshot or configuration may have changed. Cheap, never blocks."""
        self._woken.set()

    async def forget(self) -> None:
        """What the last success was is not known any more. Durable on return. Raises StoreUnavailable."""
        await trio.to_thread.run_sync(self._remove, limiter=self._file)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reconciles when there is something new to reconcile, and again until that succeeded."""
        task_status.started()
        done: _Wanted | None = None
        failures = 0
        while True:
            wanted = self._wanted()
            if wanted is None or wanted == done:
                failures = 0
                await self._changed_from(wanted)
                continue
            try:
                await self._reconcile(wanted)
            except AdapterError as exc:
                if exc.code == HUB_MOVED and self._wanted() != wanted:
                    continue
                failures += 1
                wait_s = self._wait_s(exc, failures)
                self._tell(f"modules are not reconciled with the hub: {exc.code}: {exc.message}")
                with trio.move_on_after(wait_s):
                    await self._changed_from(wanted)
                    failures = 0
            else:
                done, failures, self._said = wanted, 0, None

    async def _changed_from(self, wanted: _Wanted | None) -> None:
        """Returns when something else is wanted."""
        while self._wanted() == wanted:
            await self._woken.wait()
            self._woken = trio.Event()

    def _wanted(self) -> _Wanted | None:
        """None without an assignment and a credential that the hub may accept."""
        snapshot, configuration = self._snapshot(), self._configuration()
        where, credential = self._hub.where(), snapshot.credential
        if where is None or credential is None or isinstance(configuration.provisioning, NoProvisioning):
            return None
        now = self._clock.now_unix_ms()
        if credential.source == "issued" and snapshot.clock.trusted and credential.not_after_unix_ms <= now:
            return None  # a wait that the next credential ends
        names = tuple(sorted(set(configuration.identities.modules)))
        return _Wanted(
            where=where,
            source=credential.source,
            generation=credential.generation,
            proven=credential.proven,
            names=names,
        )

    def _wait_s(self, exc: AdapterError, failures: int) -> float:
        """Retry-After wins when it is longer. A refusal is the machine's to act on: no hurry here."""
        if exc.code in REFUSALS:
            wait_s = LAST_WAIT_S
        else:
            bound_s = min(LAST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 16))
            wait_s = max(LEAST_WAIT_S, bound_s * self._chance.draw_ppm() / DRAWS)
        return max(wait_s, (exc.retry_after_ms or 0) / 1000)

    def _tell(self, text: str) -> None:
        if text != self._said:  # a hub that is away for a week is one line
            self._said = text
            log.warning("%s", text)

    # --- one turn ------------------------------------------------------------------------------------

    async def _reconcile(self, wanted: _Wanted) -> None:
        where = wanted.where
        kept = await trio.to_thread.run_sync(self._read)
        ours = kept is not None and (kept.hub, kept.device_id) == (where.hub, where.device_id)
        before = frozenset(kept.modules) if kept is not None and ours else frozenset()
        names = frozenset(name for name in wanted.names if _possible(name))
        if names or before:
            await self._work(where, before, names)
        if names != before or (kept is not None and not ours):
            self._check_still(where)
            now = Reconciled(hub=where.hub, device_id=where.device_id, modules=tuple(sorted(names)))
            await trio.to_thread.run_sync(self._write, now, limiter=self._file)
        if wanted.proven and self._hub.where() == where:
            # Accepted by the hub: there is no way back to another one.
            await self._cache.forget_others(where)

    async def _work(self, where: Where, before: frozenset[str], names: frozenset[str]) -> None:
        there = {module.module_id: module for module in await self._hub.list(where)}
        if names:
            await self._module_keys.ensure()
        for name in sorted(before - names):
            if name in there:
                log.info("module %s is no longer configured: deleted from the hub", name)
                await self._delete(where, name)
            await self._cache.remove(where, name)
        for name in sorted(names):
            module = there.get(name)
            if module is None:
                log.info("module %s is created at the hub", name)
                module = await self._hub.create(where, name)
            elif name in before:
                self._check_still(where)
                await self._cache.write(where, (module,))
                continue
            await self._push(where, module)

    async def _push(self, where: Where, module: Module) -> None:
        pushed = await self._module_keys.push(self._hub, where, module)
        self._check_still(where)
        await self._cache.write(where, (pushed,))

    def _check_still(self, where: Where) -> None:
        """Nothing is kept of a device that was given up, or moved, while its hub was asked."""
        if self._hub.where() != where:
            raise PeerRefused(f"device {where.device_id} is no longer at {where.hub}", code=HUB_MOVED)

    async def _delete(self, where: Where, name: str) -> None:
        try:
            await self._hub.delete(where, name)
        except PeerRefused as exc:
            if exc.code != MODULE_GONE:
                raise

    # --- the file ------------------------------------------------------------------------------------

    def _read(self) -> Reconciled | None:
        """None for one that is missing or cannot be used: then nothing is deleted, and keys are pushed."""
        try:
            content = read_file(self._path, MAX_FILE_BYTES)
            return None if content is None else msgspec.json.decode(content, type=Reconciled)
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            log.warning("%s is not used: %s", self._path, why)
            return None

    def _write(self, reconciled: Reconciled) -> None:
        try:
            replace_file(self._path, msgspec.json.encode(reconciled))
        except OSError as exc:
            raise unavailable(exc, self._path) from exc

    def _remove(self) -> None:
        try:
            remove_tree(self._path)
            sync_directory(os.path.dirname(self._path))
        except OSError as exc:
            raise unavailable(exc, self._path) from exc


def _possible(name: str) -> bool:
    try:
        check_module_id(name)
    except RequestRefused as exc:
        log.warning("principal %r cannot be a module: %s", name[:80], exc.message)
        return False
    return True
