"""Configured modules come to exist at the hub, and nothing that is there is made anew."""

import itertools
import json

import pytest
import trio
import trio.testing
from msgspec import structs

from adapters.driven.hub_modules import Where
from adapters.driven.reconcile import Reconciler
from adapters.errors import AdapterError, PeerRefused, PeerUnreachable
from adapters.fakes.clock import VirtualClock
from adapters.wire.hub import Module
from statemachine.settings import NoProvisioning
from statemachine.snapshot import ClockTrust, Snapshot
from tests.adapters.hub_device import configured, primary_of, provisioned, with_cloud

T0 = 1_790_000_000_000


# --- against the stand-in cloud ----------------------------------------------------------------------


async def reconciled(parts, *, within_s=5):
    """Run it until one turn has succeeded; whether it wrote its file."""
    path = parts.state_dir / "reconciled.json"
    before = path.stat().st_mtime_ns if path.exists() else None
    turn, done = parts.reconciler._reconcile, trio.Event()

    async def noticed(wanted):
        await turn(wanted)
        done.set()

    parts.reconciler._reconcile = noticed
    with trio.fail_after(within_s):
        async with trio.open_nursery() as nursery:
            await nursery.start(parts.reconciler.run)
            await done.wait()
            nursery.cancel_scope.cancel()
    parts.reconciler._reconcile = turn
    after = path.stat().st_mtime_ns if path.exists() else None
    return before != after


def names(parts):
    return json.loads((parts.state_dir / "reconciled.json").read_bytes())["modules"]


def test_created_kept_and_deleted(tmp_path):
    async def test(parts, cloud):
        await cloud.put("$edgeAgent")
        await cloud.put("theirs")
        assert await reconciled(parts)
        first = await cloud.modules()
        assert set(first) == {"$edgeAgent", "theirs", "a", "b"}
        assert primary_of(first["a"]) == await parts.exported(await parts.identities.module("a"))
        assert "symmetricKey" not in first["theirs"]["authentication"]

        # A restart, a renewal, a lost file of ours: nothing is made anew, and the keys stay.
        for change in ("restart", "renewal", "file"):
            if change == "renewal":
                parts.snapshot = provisioned(cloud.device.hub, generation=2)
            elif change == "file":
                (parts.state_dir / "reconciled.json").write_bytes(b"[" * 100_000)
            parts.begin()
            async with trio.open_nursery() as nursery:
                await nursery.start(parts.hub.run)
                assert await reconciled(parts) == (change == "file")
                nursery.cancel_scope.cancel()
            now = await cloud.modules()
            assert {name: one["generationId"] for name, one in now.items()} == {
                name: one["generationId"] for name, one in first.items()
            }
            assert primary_of(now["a"]) == primary_of(first["a"])

        parts.configure(modules=("b", "c"))
        parts.begin()
        async with trio.open_nursery() as nursery:
            await nursery.start(parts.hub.run)
            assert await reconciled(parts)
            nursery.cancel_scope.cancel()
        last = await cloud.modules()
        assert set(last) == {"$edgeAgent", "theirs", "b", "c"}
        assert last["b"]["generationId"] == first["b"]["generationId"]
        assert {one.module_id for one in await parts.cache.of(parts.where)} == {"b", "c"}
        return names(parts)

    assert with_cloud(test, tmp_path, modules=("a", "b")) == ["b", "c"]


def test_a_module_that_was_there_before_it_was_configured_gets_our_keys_and_keeps_its_generation(tmp_path):
    async def test(parts, cloud):
        there = await cloud.put("a", managedBy="somebody")
        await reconciled(parts)
        now = (await cloud.modules())["a"]
        assert (now["generationId"], now["managedBy"]) == (there["generationId"], "somebody")
        assert primary_of(now) == await parts.exported(await parts.identities.module("a"))

    with_cloud(test, tmp_path, modules=("a",))


def test_names_of_another_device_delete_nothing_here(tmp_path):
    async def test(parts, cloud):
        await cloud.put("old")
        parts.state_dir.mkdir()
        path = parts.state_dir / "reconciled.json"
        path.write_text(json.dumps({"hub": "other.test", "device_id": "x", "modules": ["old", "new"]}))
        other = Where(hub="other.test", device_id="x")
        await parts.cache.write(other, (Module(module_id="old", device_id="x", generation_id="1"),))
        await parts.module_keys.make_master()
        parts.snapshot = provisioned(cloud.device.hub, proven=False)
        await reconciled(parts)
        assert await parts.cache.of(other)
        parts.snapshot = provisioned(cloud.device.hub)
        await reconciled(parts)
        assert await parts.cache.of(other) == ()
        return set(await cloud.modules()), names(parts)

    assert with_cloud(test, tmp_path, modules=("new",)) == ({"old", "new"}, ["new"])


def test_a_name_that_cannot_be_a_module_stops_no_other(tmp_path):
    async def test(parts, cloud):
        await reconciled(parts)
        return set(await cloud.modules())

    assert with_cloud(test, tmp_path, modules=("a/b", "good")) == {"good"}


def test_a_module_deleted_elsewhere_is_created_again_by_the_next_run(tmp_path):
    async def test(parts, cloud):
        await reconciled(parts)
        await cloud.ask("DELETE", "a", **{"If-Match": "*"})
        parts.snapshot = provisioned(cloud.device.hub, generation=2)
        await reconciled(parts)
        return set(await cloud.modules())

    assert with_cloud(test, tmp_path, modules=("a",)) == {"a"}


# --- when it runs, in virtual time -------------------------------------------------------------------


class FakeHub:
    """Counts lists; each fails as it is told."""

    def __init__(self, snapshot):
        self.snapshot = snapshot
        self.asked_s = []
        self.errors = []

    def where(self):
        assignment, credential = self.snapshot.assignment, self.snapshot.credential
        if assignment is None or credential is None:
            return None
        return Where(hub=assignment.hub, device_id=assignment.device_id)

    async def list(self, where):
        self.asked_s.append(trio.current_time())
        if self.errors:
            error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
            if error is not None:
                raise error
        return (Module(module_id="a", device_id=where.device_id, generation_id="1"),)


class FakeKeys:
    async def ensure(self):
        pass

    async def push(self, hub, where, module):
        return module


class FakeCache:
    async def write(self, where, modules):
        pass

    async def forget_others(self, where):
        pass


class World:
    def __init__(self, root, *errors, snapshot=None, modules=("a",)):
        self.configuration = configured(b"k", None, modules=modules)
        self.hub = FakeHub(snapshot or provisioned("h.test"))
        self.hub.errors = list(errors)
        self.draw = 999_999
        self.reconciler = Reconciler(
            str(root),
            lambda: self.configuration,
            lambda: self.hub.snapshot,
            VirtualClock(T0),
            self,
            self.hub,
            FakeCache(),
            FakeKeys(),
        )

    def draw_ppm(self):
        return self.draw

    def become(self, snapshot):
        self.hub.snapshot = snapshot
        self.reconciler.wake()


def lived(world, life):
    """Seconds at which the hub was asked, while ``life`` went on."""

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(world.reconciler.run)
            await life()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))
    start = world.hub.asked_s[0] if world.hub.asked_s else 0
    return [round(at - start, 3) for at in world.hub.asked_s]


UNREACHABLE = PeerUnreachable("away", code="unreachable")


def test_it_runs_when_something_changed_and_only_then(tmp_path):
    world = World(tmp_path, snapshot=Snapshot())

    async def life():
        await trio.sleep(100)
        assert world.hub.asked_s == []
        for count, snapshot in enumerate(
            (
                provisioned("h.test"),
                provisioned("h.test", generation=2),
                provisioned("h.test", source="issued", generation=3, not_after_unix_ms=T0 * 2),
                provisioned("moved.test", source="issued", generation=3, not_after_unix_ms=T0 * 2),
            ),
            1,
        ):
            world.become(snapshot)
            await trio.sleep(100)
            world.reconciler.wake()
            await trio.sleep(100)
            assert len(world.hub.asked_s) == count
        world.configuration = configured(b"k", None, modules=("a", "a"))
        world.reconciler.wake()
        await trio.sleep(10_000)
        assert len(world.hub.asked_s) == 4

    lived(world, life)


@pytest.mark.parametrize(
    ("snapshot", "configuration"),
    [
        (Snapshot(), None),
        (Snapshot(assignment=provisioned("h").assignment), None),
        (provisioned("h", source="issued", not_after_unix_ms=T0 - 1), None),
        (provisioned("h"), configured(b"k", None, modules=("a",), provisioning=NoProvisioning())),
        (provisioned("h"), configured(b"k", None)),
    ],
)
def test_what_there_is_no_use_asking_the_hub_about(tmp_path, snapshot, configuration):
    trusted = ClockTrust(trusted=True, reason="")
    world = World(tmp_path, snapshot=structs.replace(snapshot, clock=trusted))
    world.configuration = configuration or world.configuration

    async def life():
        await trio.sleep(10_000)

    assert lived(world, life) == []


def test_failures_are_repeated_with_growing_waits(tmp_path):
    world = World(tmp_path, UNREACHABLE)

    async def life():
        await trio.sleep(10_000)

    asked = lived(world, life)
    waits = [round(b - a) for a, b in itertools.pairwise(asked)]
    assert waits[:9] == [4, 8, 16, 32, 64, 128, 256, 512, 900]
    assert set(waits[8:]) == {900}


def test_the_wait_is_a_share_of_its_bound(tmp_path):
    world = World(tmp_path, UNREACHABLE)
    world.draw = 0

    async def life():
        await trio.sleep(3.5)

    assert lived(world, life) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (PeerRefused("slow down", code="hub-429", retry_after_ms=1_800_000), 1800),
        (PeerRefused("no", code="hub-401"), 900),
        (PeerRefused("no", code="hub-404001"), 900),
        (PeerRefused("no", code="tls-certificate-alert"), 900),
        (AdapterError("x", code="hub-403"), 4),
    ],
)
def test_whoever_says_when_is_heard_and_a_refusal_is_not_hammered(tmp_path, error, wait_s):
    world = World(tmp_path, error, None)

    async def life():
        await trio.sleep(1)
        world.reconciler.wake()  # nothing new: the wait goes on
        await trio.sleep(10_000)

    asked = lived(world, life)
    assert [round(at) for at in asked] == [0, wait_s]


def test_something_new_ends_the_wait(tmp_path):
    world = World(tmp_path, PeerRefused("no", code="hub-401"), None)

    async def life():
        await trio.sleep(10)
        world.become(provisioned("h.test", generation=2))
        await trio.sleep(10_000)

    assert lived(world, life) == [0, 10]


def test_after_success_failures_are_forgotten(tmp_path):
    world = World(tmp_path, UNREACHABLE, UNREACHABLE, None, UNREACHABLE, None)

    async def life():
        await trio.sleep(100)
        world.become(provisioned("h.test", generation=2))
        await trio.sleep(100)

    assert [round(at) for at in lived(world, life)] == [0, 4, 12, 100, 104]
