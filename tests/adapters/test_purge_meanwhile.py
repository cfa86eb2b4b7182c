"""The device is given up while its hub is being asked: what the answer brings is kept nowhere."""

import pytest
import trio

from adapters.driven.hub_modules import HUB_MOVED
from adapters.driven.remains import Remains
from adapters.errors import PeerRefused, RequestRefused
from statemachine.effects import PushModuleKeys
from statemachine.settings import MASTER_KEY_ID
from statemachine.snapshot import Snapshot
from tests.adapters.hub_device import with_cloud
from tests.adapters.test_reconcile import reconciled


def given_up_after(parts, name):
    """At the end of that exchange with the hub the machine was told, and everything was erased."""
    real = getattr(parts.hub, name)
    remains = Remains(
        str(parts.state_dir), parts.keys, parts.cache, [parts.hub.aclose, parts.reconciler.forget]
    )

    async def exchange(*args):
        answer = await real(*args)
        parts.snapshot = Snapshot(hold=True)
        parts.state_dir.mkdir(exist_ok=True)
        await remains.erase()
        return answer

    setattr(parts.hub, name, exchange)


async def nothing_is_kept(parts):
    assert not await parts.cache.holds_any()
    assert not (parts.state_dir / "reconciled.json").exists()


@pytest.mark.parametrize("exchange", ["list", "create", "update"])
def test_while_modules_are_reconciled(tmp_path, exchange):
    async def test(parts, cloud):
        wanted = parts.reconciler._wanted()
        given_up_after(parts, exchange)
        with pytest.raises((PeerRefused, RequestRefused)):
            await parts.reconciler._reconcile(wanted)
        await nothing_is_kept(parts)

    with_cloud(test, tmp_path, modules=("a", "b"))


def test_while_nothing_is_left_to_reconcile(tmp_path):
    """The list is all that was asked for, and its modules are known already."""

    async def test(parts, cloud):
        await reconciled(parts)
        wanted = parts.reconciler._wanted()
        given_up_after(parts, "list")
        with pytest.raises(PeerRefused) as caught:
            await parts.reconciler._reconcile(wanted)
        assert caught.value.code == HUB_MOVED
        await nothing_is_kept(parts)

    with_cloud(test, tmp_path, modules=("a",))


@pytest.mark.parametrize(
    ("exchange", "read"),
    [
        ("list", lambda identities: identities.modules()),
        ("get", lambda identities: identities.module("a")),
        ("update", lambda identities: identities.update_module("a")),
        ("create", lambda identities: identities.create_module("c")),
    ],
)
def test_while_somebody_asks_for_modules(tmp_path, exchange, read):
    async def test(parts, cloud):
        await reconciled(parts)
        given_up_after(parts, exchange)
        try:
            await read(parts.identities)
        except (PeerRefused, RequestRefused):
            assert exchange != "list", "a list needs no key"
        await nothing_is_kept(parts)

    with_cloud(test, tmp_path, modules=("a",))


def test_while_keys_are_pushed(tmp_path):
    async def test(parts, cloud):
        await reconciled(parts)
        given_up_after(parts, "update")
        await parts.pusher.push("1.2.0", PushModuleKeys())
        await nothing_is_kept(parts)
        with pytest.raises(RequestRefused):
            await parts.keys.load_key(MASTER_KEY_ID)

    with_cloud(test, tmp_path, modules=("a",))


def test_connections_made_with_the_credential_are_closed(tmp_path):
    async def test(parts, cloud):
        await parts.identities.modules()
        assert parts.hub._lease is not None
        await Remains(str(parts.state_dir), parts.keys, parts.cache, [parts.hub.aclose]).erase()
        assert parts.hub._lease is None

    async def made(parts, cloud):
        parts.state_dir.mkdir(exist_ok=True)
        with trio.fail_after(20):
            await test(parts, cloud)

    with_cloud(made, tmp_path)
