"""A device that is given up: nothing of it is left, nothing is shown on the way, and no crash undoes it."""

import errno
import os
import pathlib

import pytest
import trio
import trio.testing

from adapters.driven.adopted import Adopted, Kept, kept_path, write_record
from adapters.driven.generations import certificate_file_name, key_file_name
from adapters.driven.hub_modules import Where
from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driven.module_cache import ModuleCache
from adapters.driven.remains import Remains
from adapters.durable import replace_file
from adapters.errors import RequestRefused, StoreUnavailable
from adapters.wire.hub import Module
from statemachine.effects import PurgeCredentials
from statemachine.events import CredentialCommitted, CredentialsPurged, CredentialsPurgeFailed
from statemachine.settings import (
    DEFAULT_TRUST_BUNDLE_ID,
    IDENTITY_CERTIFICATE_ID,
    IDENTITY_KEY_ID,
    MASTER_KEY_ID,
)
from tests.adapters.disk import Disk, believed_syncs, ram_path  # noqa: F401 - fixtures
from tests.adapters.test_credentials import Device

pytestmark = pytest.mark.usefixtures("believed_syncs")

PURGED = CredentialsPurged(answers="1.9.0")
HERE = Where(hub="hub.test", device_id="press-17")


@pytest.fixture
def tmp_path(ram_path):  # noqa: F811 - the fixture above
    return ram_path


@pytest.fixture
def device(tmp_path):
    """With a credential in use, one before it, and one that was staged."""
    made = Device(tmp_path / "device")
    made.provision(1)
    made.provision(2)
    made.stage(3)
    return made


def purge(device):
    return trio.run(device.store.purge, "1.9.0", PurgeCredentials())


def secrets_of(device):
    """What must be nowhere: keys and certificates."""
    keys = [device.read(number, "key.pem") for number in (1, 2, 3)]
    return [*keys, *(device.read(number, "chain.pem") for number in (1, 2))]


def found_below(root, *needles):
    """Files in which one of them is found."""
    found = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = pathlib.Path(directory, name)
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                found += [str(path) for needle in needles if needle in content]
    return found


def nothing_is_left(device, *needles):
    assert found_below(device.root, *needles) == []
    assert device.store.layout.generations() == []
    assert set(device.store.layout.entries()) <= {"spare"}
    assert device.current() is None
    assert device.published() is None
    assert device.published_key() is None
    assert device.published(DEFAULT_TRUST_BUNDLE_ID) is None


# --- the store ---------------------------------------------------------------------------------------


def test_all_generations_go_and_all_names(device):
    needles = secrets_of(device)
    assert len(found_below(device.root, *needles)) == 5
    assert purge(device) == PURGED
    nothing_is_left(device, *needles)
    for directory in ("certd/certs", "keyd/keys"):
        assert os.listdir(os.path.join(device.root, directory)) == []
    assert device.store.current_key_generation() is None
    assert device.store.key_pem(2) is None
    assert len(os.listdir(device.path("spare"))) == 12, "space for the next generation is still held back"


@pytest.mark.parametrize("opened", [True, False], ids=["again", "after a restart"])
def test_a_repeat_finds_nothing_to_do(device, opened):
    assert purge(device) == PURGED
    if not opened:
        device.reopen()
    assert purge(device) == PURGED
    nothing_is_left(device)


def test_an_empty_store_is_purged_too(tmp_path):
    device = Device(tmp_path / "device", opened=False)
    assert purge(device) == PURGED
    device.reopen()
    assert device.store.repairs == ()


def test_a_new_life_begins_afterwards(device):
    purge(device)
    current = device.provision(4)
    assert (current.generation, device.check_coherent().generation) == (4, 4)
    assert device.published(DEFAULT_TRUST_BUNDLE_ID) is not None
    device.reopen()
    assert device.current() == current


def test_a_pointer_that_became_a_directory_goes_with_its_key(device):
    needles = secrets_of(device)
    os.unlink(device.path("current"))
    os.mkdir(device.path("current"))
    pathlib.Path(device.path("current", "key.pem")).write_bytes(needles[1])
    assert purge(device) == PURGED
    nothing_is_left(device, *needles)


def test_the_originals_files_under_the_same_names_go_others_stay(device):
    own = pathlib.Path(device.certd, "certs", certificate_file_name(IDENTITY_CERTIFICATE_ID))
    key = pathlib.Path(device.keyd, "keys", key_file_name(IDENTITY_KEY_ID))
    for path in (own, key):
        path.unlink()
        path.write_bytes(b"the original's")
    other_certificate = pathlib.Path(device.certd, "certs", certificate_file_name("edge-ca"))
    other_key = pathlib.Path(device.keyd, "keys", key_file_name("edge-ca"))
    for path in (other_certificate, other_key):
        path.write_bytes(b"somebody else's")
    assert purge(device) == PURGED
    assert found_below(device.root, b"the original's") == []
    assert sorted(found_below(device.root, b"somebody else's")) == sorted(
        map(str, (other_certificate, other_key))
    )


def test_an_originals_certificate_is_not_handed_out_either(device):
    own = pathlib.Path(device.certd, "certs", certificate_file_name(IDENTITY_CERTIFICATE_ID))
    own.unlink()
    own.write_bytes(b"the original's")
    device.store.open(given_up=True)
    assert device.store.read_certificate(IDENTITY_CERTIFICATE_ID) is None
    assert own.exists(), "nothing is done before the machine asks"
    assert device.store.key_pem(2) is None
    assert device.store.current_key_generation() is None


def test_what_was_asked_for_before_is_done_before(device):
    """A commit that waits for its turn, and a purge right behind it."""
    order = []
    wish = device.wish(3)

    async def tell(answer):
        order.append(await answer)

    async def main():
        async with device.store._turn, trio.open_nursery() as nursery:
            nursery.start_soon(tell, device.store.commit("1.8.0", wish))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(tell, device.store.purge("1.9.0", PurgeCredentials()))
            await trio.testing.wait_all_tasks_blocked()
            assert device.current() is None, "from here on nobody is shown anything"
            device.store._turn.release()
            await trio.testing.wait_all_tasks_blocked()
            await device.store._turn.acquire()

    trio.run(main)
    assert order == [CredentialCommitted(answers="1.8.0", generation=3), PURGED]
    nothing_is_left(device)


# --- crashes and faults --------------------------------------------------------------------------------


def calls_of_a_purge(tmp_path):
    device = Device(tmp_path / "counted")
    device.provision(1)
    device.provision(2)
    device.stage(3)
    with Disk() as disk:
        assert purge(device) == PURGED
    return disk.calls


def test_power_fails_at_every_call(tmp_path):
    """The next start shows the whole of the identity or nothing, and a repeat ends it."""
    seen = set()
    for cut_at in range(1, calls_of_a_purge(tmp_path) + 1):
        device = Device(tmp_path / f"device-{cut_at}")
        device.provision(1)
        device.provision(2)
        device.stage(3)
        needles = secrets_of(device)
        with Disk(cut_at=cut_at) as disk:
            purge(device)
        disk.lose_unsynced(device.root)
        device.reopen()
        current = device.check_coherent()
        seen.add(None if current is None else current.generation)
        # As the journal has it: it was asked for, and never answered.
        device.store.open(given_up=True)
        assert device.current() is None, cut_at
        assert device.store.read_certificate(IDENTITY_CERTIFICATE_ID) is None, cut_at
        assert purge(device) == PURGED, cut_at
        nothing_is_left(device, *needles)
        device.provision(4)
    assert seen == {None, 2}, "never the one before, which is complete as well"


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_any_call_may_fail(tmp_path, error, lasting):
    for fail_at in range(1, calls_of_a_purge(tmp_path) + 1):
        device = Device(tmp_path / f"device-{error}-{lasting}-{fail_at}")
        device.provision(1)
        device.provision(2)
        device.stage(3)
        needles = secrets_of(device)
        with Disk(fail_at=fail_at, error=error, lasting=lasting):
            answer = purge(device)
        if isinstance(answer, CredentialsPurgeFailed):
            assert answer.code == ("io-error" if error == errno.EIO else "disk-full")
            assert answer.message.startswith(device.root)
            assert device.current() is None, "what could not be erased is not handed out"
            assert device.store.read_certificate(IDENTITY_CERTIFICATE_ID) is None
            assert device.store.key_pem(2) is None
        else:
            assert answer == PURGED
        assert purge(device) == PURGED
        nothing_is_left(device, *needles)


def test_a_start_finishes_what_a_crash_cut_short_without_a_journal(device):
    needles = secrets_of(device)
    with Disk(fail_at=2, error=errno.EIO, lasting=True, only=("rename",)):
        assert isinstance(purge(device), CredentialsPurgeFailed)
    assert os.path.lexists(device.path("purging"))
    device.reopen()
    nothing_is_left(device, *needles)


def test_a_start_that_cannot_finish_it_adopts_nothing(device):
    with Disk(fail_at=2, error=errno.EIO, lasting=True, only=("rename",)):
        purge(device)
        device.reopen()
        assert "Input/output error" in device.store.repairs[0]
        assert device.current() is None
        assert device.published() is None
    assert purge(device) == PURGED


# --- what lies elsewhere ---------------------------------------------------------------------------------


class Home:
    """A key store, a cache, and what else there may be."""

    def __init__(self, root, preloaded=None):
        self.device = Device(root)
        self.state = pathlib.Path(self.device.state)
        self.keys = EmbeddedKeys(self.device.keyd, lambda: preloaded or {}, self.device.store)
        self.cache = ModuleCache(str(self.state))
        self.forgotten = []
        self.remains = Remains(str(self.state), self.keys, self.cache, [self.forget])

    async def forget(self):
        self.forgotten.append(sorted(os.listdir(self.state)))

    async def live(self):
        await self.keys.create_key(MASTER_KEY_ID, ("derive", "sign"), b"master" * 5)
        await self.keys.create_key("somebody", ("sign",), b"theirs" * 5)
        await self.cache.write(HERE, (Module(module_id="m", device_id="press-17", generation_id="1"),))
        (self.state / "device_info").write_text('hub_name = "hub.test"\ndevice_id = "press-17"\n')
        kept = Kept(kind="keys", name="a.key", mode=0o600, uid=0, gid=0)
        write_record(str(self.state), Adopted(source="/", in_place=True, at_unix_ms=1, kept=(kept,)))
        replace_file(kept_path(str(self.state), kept), b"the original's key")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "device")


def test_what_is_kept_of_modules_and_of_the_original_goes(home):
    async def main():
        await home.live()
        await home.remains.erase()
        await home.remains.erase()
        with pytest.raises(RequestRefused, match="no key"):
            await home.keys.load_key(MASTER_KEY_ID)
        assert await home.keys.load_key("somebody")
        assert not await home.cache.holds_any()

    trio.run(main)
    assert found_below(home.device.root, b"mastermaster", b"the original's key", b"press-17") == []
    assert len(home.forgotten) == 2
    assert "modules" in home.forgotten[0], "connections go first, before anything they may still be used for"


def test_a_preloaded_master_key_is_the_operators(tmp_path):
    path = tmp_path / "master"
    path.write_bytes(b"m" * 32)
    home = Home(tmp_path / "device", preloaded={MASTER_KEY_ID: str(path)})
    trio.run(home.remains.erase)
    assert path.read_bytes() == b"m" * 32


def test_an_unusable_master_key_goes_as_well(home):
    path = pathlib.Path(home.device.keyd, "keys", key_file_name(MASTER_KEY_ID))
    path.write_bytes(b"")
    trio.run(home.remains.erase)
    assert not path.exists()


def test_what_fails_elsewhere_fails_the_purge_and_a_repeat_ends_it(home):
    store = home.device.store
    store._purge_more = home.remains.erase

    async def main():
        await home.live()
        with Disk(fail_at=1, error=errno.EACCES, only=("rmdir",), lasting=True):
            return await store.purge("1.9.0", PurgeCredentials())

    failed = trio.run(main)
    assert isinstance(failed, CredentialsPurgeFailed)
    assert (failed.code, failed.failure_class) == ("permission", "retry")
    assert "modules" in failed.message
    assert purge(home.device) == PURGED
    assert not (home.state / "modules").exists()


def test_the_store_is_not_opened_by_a_failure(device):
    """Only an erasure that ended lets the store be read again."""

    async def fails():
        raise StoreUnavailable("not now", code="io-error")

    device.store._purge_more = fails
    assert isinstance(purge(device), CredentialsPurgeFailed)
    assert device.store.inventory().current is None
