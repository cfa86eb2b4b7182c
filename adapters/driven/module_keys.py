"""Keys of modules: made from one master key and the generation ids the hub gives (cloud.md §3.3).

Nothing is stored but the master key. With it gone while modules are known, no key can be made that the hub
accepts: a new one would strand every module without a word, so none is made until somebody asks for it.
"""

import logging

from msgspec import Struct

from adapters.driven.hub_modules import MODULE_GONE, HubModules, Where
from adapters.driven.module_cache import ModuleCache
from adapters.errors import AdapterError, PeerProtocolError, PeerRefused, RequestRefused, StoreUnavailable
from adapters.ports import KeyService, Post
from adapters.wire.hub import Module, ModuleKeyPair
from statemachine.effects import PushModuleKeys
from statemachine.events import ModuleKeysLost, ModuleKeysPushed, ModuleKeysPushFailed
from statemachine.settings import MASTER_KEY_ID

MASTER_KEY_MISSING = "master-key-missing"
NO_GENERATION = "generation-id-missing"
PUSHES = 3
"Tries to give a module its keys while somebody else keeps making it anew."

log = logging.getLogger("identityd")


class Keyed(Struct, frozen=True, kw_only=True):
    """A module, and the handle of the key it proves itself with."""

    module: Module
    handle: str
    "Of the primary key. A bearer capability."

    def __repr__(self) -> str:
        return f"Keyed({self.module.module_id!r})"


class ModuleKeys:
    """All methods raise StoreUnavailable (code ``master-key-missing``, class operator, and the key store's)
    and RequestRefused (code ``generation-id-missing``)."""

    def __init__(self, keys: KeyService, cache: ModuleCache, post: Post) -> None:
        self._keys = keys
        self._cache = cache
        self._post = post
        self._told = False

    async def ensure(self) -> None:
        """The master key is there; it is made when no module was ever known."""
        await self._master()

    async def make_master(self) -> None:
        """The master key is there; it is made whatever is known. For whoever pushes new keys afterwards."""
        await self._keys.create_key(MASTER_KEY_ID, ("derive", "sign"), None)
        # If it is lost once more, that is another story to tell.
        self._told = False

    async def keyed(self, module: Module) -> Keyed:
        """With a fresh handle."""
        generation_id = _generation(module)
        handle = await self._derive(await self._master(), module.module_id, generation_id, "primary")
        return Keyed(module=module, handle=handle)

    async def pair(self, module: Module) -> ModuleKeyPair:
        generation_id = _generation(module)
        master = await self._master()
        primary, secondary = [
            await self._keys.export_derived_key(
                await self._derive(master, module.module_id, generation_id, which)
            )
            for which in ("primary", "secondary")
        ]
        return ModuleKeyPair(primary=primary, secondary=secondary)

    async def push(self, hub: HubModules, where: Where, module: Module) -> Module:
        """Give the hub this module's keys; the module as the hub then has it. Raises as HubModules, too.

        A module that is made anew between the question and this has another generation, hence other keys.
        """
        for _ in range(PUSHES):
            updated = await hub.update(where, module, await self.pair(module))
            if updated.generation_id is None or updated.generation_id == module.generation_id:
                return module
            module = updated
        raise PeerProtocolError(
            f"module {module.module_id} has another generation id with every answer of the hub",
            code="answer-malformed",
        )

    async def _derive(self, master: str, module_id: str, generation_id: str, which: str) -> str:
        return await self._keys.derive_key(master, f"{module_id}:{generation_id}:{which}".encode())

    async def _master(self) -> str:
        handle = await self._load()
        if handle is not None:
            return handle
        known = await self._cache.holds_any()
        if not known:
            return await self._keys.create_key(MASTER_KEY_ID, ("derive", "sign"), None)
        # Looked at again: the first module of all may have been made between the two looks.
        handle = await self._load()
        if handle is not None:
            return handle
        reason = f"there is no key {MASTER_KEY_ID}, but modules are known in {self._cache.root}"
        if not self._told:
            self._told = True
            self._post(ModuleKeysLost(reason=reason))
        raise StoreUnavailable(
            f"{reason}; restore the key from a backup, or give the hub new ones with "
            "`identityd module-keys push`",
            code=MASTER_KEY_MISSING,
            failure_class="operator",
        )

    async def _load(self) -> str | None:
        try:
            handle = await self._keys.load_key(MASTER_KEY_ID)
        except RequestRefused as exc:
            if exc.code == "not-found":
                return None
            raise StoreUnavailable(
                f"key {MASTER_KEY_ID} cannot be used: {exc.message}", code=exc.code, failure_class="operator"
            ) from exc
        self._told = False
        return handle


def _generation(module: Module) -> str:
    if not module.generation_id:
        raise RequestRefused("module identity not found", code=NO_GENERATION)
    return module.generation_id


class ModuleKeysPusher:
    """Fills ``ports.ModuleKeyPusher``."""

    def __init__(self, hub: HubModules, cache: ModuleCache, module_keys: ModuleKeys) -> None:
        self._hub = hub
        self._cache = cache
        self._module_keys = module_keys

    async def push(self, effect_id: str, effect: PushModuleKeys) -> ModuleKeysPushed | ModuleKeysPushFailed:
        """Keys of every module of this device that is known, as the hub has it now.

        A module that is gone from the hub is forgotten. The first other failure ends it; a repeat begins
        at the front, with the same keys.
        """
        try:
            return ModuleKeysPushed(answers=effect_id, modules=await self._push())
        except AdapterError as exc:
            return ModuleKeysPushFailed(
                answers=effect_id,
                failure_class=exc.failure_class,
                code=exc.code,
                message=exc.message,
                retry_after_ms=exc.retry_after_ms,
                tracking_id=exc.tracking_id,
            )

    async def _push(self) -> int:
        where = self._hub.where()
        if where is None:
            raise AdapterError(
                "the device is not assigned to a hub", code="not-provisioned", failure_class="operator"
            )
        # Before any module: from here on their keys can be made, whatever becomes of this push.
        await self._module_keys.make_master()
        pushed = 0
        for known in await self._cache.of(where):
            try:
                module = await self._hub.get(where, known.module_id)
                module = await self._module_keys.push(self._hub, where, module)
            except PeerRefused as exc:
                if exc.code != MODULE_GONE:
                    raise
                log.info("module %s is gone from the hub", known.module_id)
                await self._cache.remove(where, known.module_id)
                continue
            if self._hub.where() == where:
                await self._cache.write(where, (module,))
            pushed += 1
        return pushed
