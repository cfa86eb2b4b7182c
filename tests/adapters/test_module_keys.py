"""The master key, and what is made from it, beside a hub and a key store that do as they are told."""

import hashlib
import hmac

import pytest
import trio
from msgspec import structs

from adapters.driven.hub_modules import Where
from adapters.driven.module_cache import ModuleCache, directory_name, file_name
from adapters.driven.module_keys import PUSHES, ModuleKeys, ModuleKeysPusher
from adapters.errors import (
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    RequestRefused,
    StoreUnavailable,
)
from adapters.wire.hub import Module, ModuleKeyPair
from statemachine.effects import PushModuleKeys
from statemachine.events import ModuleKeysLost, ModuleKeysPushed, ModuleKeysPushFailed
from statemachine.settings import MASTER_KEY_ID

HERE = Where(hub="hub.test", device_id="d")
ELSEWHERE = Where(hub="other.test", device_id="d")
PUSH = PushModuleKeys()


def module(module_id="m", generation_id="1", where=HERE):
    return Module(module_id=module_id, device_id=where.device_id, generation_id=generation_id)


class Keys:
    """A key store of one key. Every call gives others their turn."""

    def __init__(self):
        self.master = None
        self.made = 0
        self.error = None
        self.derived = {}
        self.handles = 0

    async def load_key(self, key_id):
        await trio.lowlevel.checkpoint()
        assert key_id == MASTER_KEY_ID
        if self.error is not None:
            raise self.error
        if self.master is None:
            raise RequestRefused("no such key", code="not-found")
        return self._handle("master")

    async def create_key(self, key_id, usage, material):
        await trio.lowlevel.checkpoint()
        assert (key_id, tuple(usage), material) == (MASTER_KEY_ID, ("derive", "sign"), None)
        if self.master is None:
            self.made += 1
            self.master = bytes([self.made]) * 32
        return self._handle("master")

    async def derive_key(self, handle, data):
        await trio.lowlevel.checkpoint()
        assert handle.startswith("master-")
        derived = self._handle("derived")
        self.derived[derived] = hmac.digest(self.master, data, hashlib.sha256)
        return derived

    async def export_derived_key(self, handle):
        await trio.lowlevel.checkpoint()
        return self.derived[handle]

    def _handle(self, kind):
        self.handles += 1
        return f"{kind}-{self.handles}"

    def pair(self, module_id, generation_id):
        return ModuleKeyPair(
            **{
                which: hmac.digest(
                    self.master, f"{module_id}:{generation_id}:{which}".encode(), hashlib.sha256
                )
                for which in ("primary", "secondary")
            }
        )


class Hub:
    """Modules and the keys they were given."""

    def __init__(self, *modules):
        self.modules = {one.module_id: one for one in modules}
        self.keys = {}
        self.errors = {}
        self.remade = 0
        "How many more updates find the module made anew."

    def where(self):
        return HERE

    async def get(self, where, module_id):
        await trio.lowlevel.checkpoint()
        assert where == HERE
        if module_id not in self.modules:
            raise PeerRefused(f"module {module_id} not found", code="module-gone", failure_class="operator")
        return self.modules[module_id]

    async def update(self, where, module, keys):
        await trio.lowlevel.checkpoint()
        if module.module_id in self.errors:
            raise self.errors[module.module_id]
        held = self.modules[module.module_id]
        if self.remade:
            self.remade -= 1
            held = structs.replace(held, generation_id=f"{held.generation_id}+")
            self.modules[module.module_id] = held
        self.keys[module.module_id] = keys
        return held


class World:
    def __init__(self, root, *modules):
        self.keys, self.hub, self.posted = Keys(), Hub(*modules), []
        self.cache = ModuleCache(str(root))
        self.module_keys = ModuleKeys(self.keys, self.cache, self.posted.append)
        self.pusher = ModuleKeysPusher(self.hub, self.cache, self.module_keys)

    async def lost(self, ask=None):
        """The error of whoever needs the key."""
        with pytest.raises(StoreUnavailable) as refused:
            await (ask or self.module_keys.ensure)()
        return refused.value


# --- making it ---------------------------------------------------------------------------------------


def test_all_who_need_the_first_key_at_once_get_the_same_one(tmp_path):
    world = World(tmp_path)
    pairs = []

    async def ask():
        pairs.append(await world.module_keys.pair(module()))

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)

    trio.run(main)
    assert world.keys.made == 1
    assert len(pairs) == 20
    assert {(pair.primary, pair.secondary) for pair in pairs} == {
        (expected.primary, expected.secondary) for expected in [world.keys.pair("m", "1")]
    }
    assert world.posted == []


def test_the_handle_is_of_the_primary_key_and_fresh(tmp_path):
    world = World(tmp_path)

    async def main():
        first, second = [await world.module_keys.keyed(module()) for _ in range(2)]
        assert first.handle != second.handle
        assert first.handle not in repr(first)
        return {await world.keys.export_derived_key(one.handle) for one in (first, second)}

    assert trio.run(main) == {world.keys.pair("m", "1").primary}


@pytest.mark.parametrize("generation_id", [None, ""])
@pytest.mark.parametrize("ask", ["keyed", "pair"])
def test_nothing_is_made_for_a_module_without_a_generation(tmp_path, ask, generation_id):
    world = World(tmp_path)

    async def main():
        with pytest.raises(RequestRefused, match=r"^module identity not found$") as refused:
            await getattr(world.module_keys, ask)(module(generation_id=generation_id))
        return refused.value.code

    assert trio.run(main) == "generation-id-missing"
    assert world.keys.derived == {}


# --- having lost it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [HERE, ELSEWHERE])
@pytest.mark.parametrize("content", [None, b"garbage"])
def test_a_known_module_of_any_device_readable_or_not_means_that_it_was_lost(tmp_path, where, content):
    world = World(tmp_path)

    async def main():
        await world.cache.write(where, (module(where=where),))
        if content is not None:
            (tmp_path / "modules" / directory_name(where) / file_name("m")).write_bytes(content)
        for ask in (
            world.module_keys.ensure,
            lambda: world.module_keys.keyed(module()),
            lambda: world.module_keys.pair(module()),
        ):
            error = await world.lost(ask)
            assert (error.code, error.failure_class) == ("master-key-missing", "operator")
            assert "identityd module-keys push" in error.message

    trio.run(main)
    assert world.keys.made == 0
    assert [type(event) for event in world.posted] == [ModuleKeysLost]


def test_it_is_told_once_and_again_when_it_came_back_and_went(tmp_path):
    world = World(tmp_path, module())

    async def main():
        await world.cache.write(HERE, (module(),))
        for _ in range(3):
            await world.lost()
        assert len(world.posted) == 1
        assert await world.pusher.push("1", PUSH) == ModuleKeysPushed(answers="1", modules=1)
        await world.module_keys.ensure()
        assert len(world.posted) == 1
        world.keys.master = None
        for _ in range(3):
            await world.lost()

    trio.run(main)
    assert len(world.posted) == 2


def test_a_push_that_found_nothing_to_push_also_ends_the_story(tmp_path):
    world = World(tmp_path)

    async def main():
        await world.cache.write(ELSEWHERE, (module(where=ELSEWHERE),))
        await world.lost()
        assert await world.pusher.push("1", PUSH) == ModuleKeysPushed(answers="1", modules=0)
        world.keys.master = None
        await world.lost()

    trio.run(main)
    assert len(world.posted) == 2


def test_a_key_that_cannot_be_used_is_not_a_key_that_is_lost(tmp_path):
    world = World(tmp_path)
    world.keys.error = RequestRefused("not a symmetric key", code="crypto-failed")
    error = trio.run(world.lost)
    assert (error.code, error.failure_class) == ("crypto-failed", "operator")
    assert MASTER_KEY_ID in error.message
    assert (world.keys.made, world.posted) == (0, [])


# --- giving the hub its own --------------------------------------------------------------------------


def test_a_module_made_anew_meanwhile_gets_the_keys_of_its_new_generation(tmp_path):
    world = World(tmp_path, module())
    world.hub.remade = PUSHES - 1
    pushed = trio.run(world.module_keys.push, world.hub, HERE, module())
    assert pushed.generation_id == "1" + "+" * (PUSHES - 1)
    held, expected = world.hub.keys["m"], world.keys.pair("m", pushed.generation_id)
    assert (held.primary, held.secondary) == (expected.primary, expected.secondary)


def test_a_module_that_never_stays_the_same_is_given_up(tmp_path):
    world = World(tmp_path, module())
    world.hub.remade = PUSHES

    async def main():
        with pytest.raises(PeerProtocolError, match="another generation id"):
            await world.module_keys.push(world.hub, HERE, module())

    trio.run(main)
    assert world.hub.remade == 0


def test_a_push_is_of_this_device_s_modules_and_forgets_what_is_gone(tmp_path):
    world = World(tmp_path, module("a", "7"), module("b"))

    async def main():
        await world.cache.write(HERE, (module("a", "6"), module("b"), module("gone")))
        await world.cache.write(ELSEWHERE, (module("theirs", where=ELSEWHERE),))
        answer = await world.pusher.push("1", PUSH)
        # The generation is the hub's of today, not the one that was remembered.
        kept = {one.module_id: one.generation_id for one in await world.cache.of(HERE)}
        return answer, kept, len(await world.cache.of(ELSEWHERE))

    assert trio.run(main) == (ModuleKeysPushed(answers="1", modules=2), {"a": "7", "b": "1"}, 1)
    assert {name: pair.primary for name, pair in world.hub.keys.items()} == {
        "a": world.keys.pair("a", "7").primary,
        "b": world.keys.pair("b", "1").primary,
    }


@pytest.mark.parametrize(
    ("error", "failure_class", "retry_after_ms"),
    [
        (PeerUnreachable("away", code="unreachable"), "retry", None),
        (PeerRefused("slow down", code="hub-429", retry_after_ms=9000, tracking_id="t"), "retry", 9000),
        (PeerRefused("no", code="hub-403", failure_class="operator"), "operator", None),
        (PeerProtocolError("what?", code="answer-malformed"), "retry", None),
    ],
)
def test_a_push_that_failed_half_way_is_repeated_with_the_same_keys(
    tmp_path, error, failure_class, retry_after_ms
):
    world = World(tmp_path, module("a"), module("b"))
    world.hub.errors["b"] = error

    async def main():
        await world.cache.write(HERE, (module("a"), module("b")))
        failed = await world.pusher.push("1", PUSH)
        first = world.hub.keys["a"].primary
        world.hub.errors.clear()
        again = await world.pusher.push("2", PUSH)
        assert world.hub.keys["a"].primary == first
        return failed, again

    failed, again = trio.run(main)
    assert failed == ModuleKeysPushFailed(
        answers="1",
        failure_class=failure_class,
        code=error.code,
        message=error.message,
        retry_after_ms=retry_after_ms,
        tracking_id=error.tracking_id,
    )
    assert again == ModuleKeysPushed(answers="2", modules=2)
    assert set(world.hub.keys) == {"a", "b"}
    assert world.keys.made == 1
