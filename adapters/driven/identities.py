"""Who the device and its modules are (services.md §3.6, cloud.md §3.4). Fills ``ports.HubIdentities``.

The device's identity is what the machine knows, and needs no network. Modules are the hub's; when it cannot
be reached, and only then, reads are answered from the cache. Identical reads that are under way at the same
time are one request. Nothing waits for anything else: no lock is held while the hub is.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from adapters.driven.flights import Flights
from adapters.driven.hub_credential import network_host
from adapters.driven.hub_modules import MODULE_GONE, HubModules, Where
from adapters.driven.module_cache import ModuleCache
from adapters.driven.module_keys import ModuleKeys
from adapters.errors import NotProvisioned, PeerRefused, PeerUnreachable, StoreUnavailable
from adapters.ports import Authentication, Clock, HubIdentity, KeyService
from adapters.wire.hub import Module, check_module_id
from statemachine.explain import status_of
from statemachine.settings import (
    DEVICE_ID,
    IDENTITY_CERTIFICATE_ID,
    IDENTITY_KEY_ID,
    Configuration,
    DpsProvisioning,
    ManualProvisioning,
    SymmetricKeySource,
)
from statemachine.snapshot import Snapshot

T = TypeVar("T")

log = logging.getLogger("identityd")


class Identities:
    """``configuration`` and ``snapshot`` are asked at each use. ``run`` must be alive while reads are served.

    Beyond what the port says: creating a module that is there already gives it its keys, as updating does.
    """

    def __init__(
        self,
        configuration: Callable[[], Configuration],
        snapshot: Callable[[], Snapshot],
        clock: Clock,
        keys: KeyService,
        modules: HubModules,
        cache: ModuleCache,
        module_keys: ModuleKeys,
    ) -> None:
        self._configuration = configuration
        self._snapshot = snapshot
        self._clock = clock
        self._keys = keys
        self._hub = modules
        self._cache = cache
        self._module_keys = module_keys
        self._flights = Flights()
        self._deletions = 0
        "Begun or done: what was read before one of them is not written to the cache after it."
        self._additions = 0
        "The same, for lists: what came after one is not missing from it."

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Where shared reads are worked on; lives as long as the service."""
        await self._flights.run(task_status=task_status)

    # --- the device ----------------------------------------------------------------------------------

    async def device(self) -> HubIdentity:
        """Also when the credential has expired: the machine renews, no request does."""
        where = self._where()
        return self._identity(where, authentication=await self._device_authentication())

    async def _device_authentication(self) -> Authentication:
        credential = self._snapshot().credential
        if credential is not None and credential.source == "issued":
            handle = await self._keys.load_key_pair(IDENTITY_KEY_ID)
            return Authentication(type="x509", key_handle=handle, certificate_id=IDENTITY_CERTIFICATE_ID)
        provisioning = self._configuration().provisioning
        source = None
        if isinstance(provisioning, DpsProvisioning):
            source = provisioning.attestation
        elif isinstance(provisioning, ManualProvisioning):
            source = provisioning.authentication
        if isinstance(source, SymmetricKeySource):
            return Authentication(type="sas", key_handle=await self._keys.load_key(DEVICE_ID))
        handle = await self._keys.load_key_pair(DEVICE_ID)
        return Authentication(type="x509", key_handle=handle, certificate_id=DEVICE_ID)

    # --- reading modules -----------------------------------------------------------------------------

    async def modules(self) -> tuple[HubIdentity, ...]:
        where = self._where()
        found = await self._flights.join(("list", where), lambda: self._read_all(where))
        return tuple(self._identity(where, module) for module in found)

    async def _read_all(self, where: Where) -> tuple[Module, ...]:
        if self._prefers_cache() and (known := await self._known(where)):
            return known
        before, additions = self._deletions, self._additions
        try:
            found = await self._hub.list(where)
        except PeerUnreachable:
            # No modules known is not the same as no modules: whoever is told so would make them anew.
            if known := await self._known(where):
                return known
            raise
        if additions == self._additions:
            await self._keep(where, found, before, complete=True)
        return found

    async def module(self, module_id: str) -> HubIdentity:
        check_module_id(module_id)
        where = self._where()
        found = await self._flights.join(("get", where, module_id), lambda: self._read(where, module_id))
        return await self._with_key(where, found)

    async def _read(self, where: Where, module_id: str) -> Module:
        if self._prefers_cache() and (known := await self._known_one(where, module_id)):
            return known
        before = self._deletions
        try:
            found = await self._noticing_gone(where, module_id, lambda: self._hub.get(where, module_id))
        except PeerUnreachable:
            known = await self._known_one(where, module_id)
            if known is None:
                raise
            return known
        await self._keep(where, (found,), before)
        return found

    # --- changing modules ----------------------------------------------------------------------------

    async def create_module(self, module_id: str) -> HubIdentity:
        check_module_id(module_id)
        # First: a module without keys is of no use to anybody.
        where = self._where()
        await self._module_keys.ensure()
        return await self._push(where, module_id, lambda: self._hub.create(where, module_id))

    async def update_module(self, module_id: str) -> HubIdentity:
        check_module_id(module_id)
        where = self._where()
        await self._module_keys.ensure()
        return await self._push(where, module_id, lambda: self._hub.get(where, module_id))

    async def _push(self, where: Where, module_id: str, ask: Callable[[], Awaitable[Module]]) -> HubIdentity:
        before = self._deletions
        self._additions += 1

        async def work() -> Module:
            return await self._module_keys.push(self._hub, where, await ask())

        pushed = await self._noticing_gone(where, module_id, work)
        self._additions += 1
        await self._keep(where, (pushed,), before)
        return await self._with_key(where, pushed)

    async def delete_module(self, module_id: str) -> None:
        check_module_id(module_id)
        where = self._where()
        self._deletions += 1
        await self._noticing_gone(where, module_id, lambda: self._hub.delete(where, module_id))
        await self._forget(where, module_id)

    # --- what both need ------------------------------------------------------------------------------

    def _where(self) -> Where:
        """Raises NotProvisioned with the status's reason, and what happens next."""
        where = self._hub.where()
        provisioned = isinstance(self._configuration().provisioning, DpsProvisioning | ManualProvisioning)
        if where is not None and provisioned:
            return where
        status = status_of(self._snapshot(), self._clock.now_unix_ms())
        said = status.reason.rstrip(".")
        if status.next is not None:
            at = f", at {status.next.at}" if status.next.at else ""
            said = f"{said}; next: {status.next.what}{at}"
        raise NotProvisioned(said, code="not-provisioned")

    def _identity(
        self, where: Where, module: Module | None = None, authentication: Authentication | None = None
    ) -> HubIdentity:
        return HubIdentity(
            hub=where.hub,
            gateway=network_host(self._configuration(), where.hub),
            device_id=where.device_id,
            module_id=None if module is None else module.module_id,
            generation_id=None if module is None else module.generation_id,
            authentication=authentication,
        )

    async def _with_key(self, where: Where, module: Module) -> HubIdentity:
        keyed = await self._module_keys.keyed(module)
        return self._identity(where, module, Authentication(type="sas", key_handle=keyed.handle))

    async def _noticing_gone(self, where: Where, module_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """What ``work`` returns; the cache forgets a module the hub does not know."""
        try:
            return await work()
        except PeerRefused as exc:
            if exc.code == MODULE_GONE:
                await self._forget(where, module_id)
            raise

    # --- the cache -----------------------------------------------------------------------------------

    def _prefers_cache(self) -> bool:
        return self._configuration().identities.prefer_cache

    async def _known(self, where: Where) -> tuple[Module, ...]:
        """Nothing when it cannot be read: what the hub says, or why it cannot be asked, is told instead."""
        try:
            return await self._cache.of(where)
        except StoreUnavailable as exc:
            log.warning("the modules' cache: %s", exc.message)
            return ()

    async def _known_one(self, where: Where, module_id: str) -> Module | None:
        """None also for one without a generation: nothing can be made of it."""
        known = await self._cache.read(where, module_id)
        return known if known is not None and known.generation_id else None

    async def _keep(
        self, where: Where, modules: tuple[Module, ...], before: int, *, complete: bool = False
    ) -> None:
        """For the day the hub cannot be reached. What the hub said is served whether this works or not."""
        if before != self._deletions or where != self._hub.where():
            return
        try:
            if modules:
                # The master key before the first file: files without it mean that it was lost.
                await self._module_keys.ensure()
            if before == self._deletions and where == self._hub.where():
                await self._cache.write(where, modules, complete=complete)
        except StoreUnavailable as exc:
            log.warning("modules are not kept for when the hub cannot be reached: %s", exc.message)

    async def _forget(self, where: Where, module_id: str) -> None:
        self._deletions += 1
        try:
            await self._cache.remove(where, module_id)
        except StoreUnavailable as exc:
            log.warning("module %s is not forgotten: %s", module_id, exc.message)
