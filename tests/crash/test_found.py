"""What the enumeration found, each as a test of its own.

All are about what was begun, failed, and then looked finished to whoever came next. The disk that is judged
is the unluckiest: only what was synced is on it.
"""

import contextlib
import errno
import os

import pytest
import trio

from adapters.driven import settled
from adapters.driven.certificates.store import CertificateFiles
from adapters.driven.files import make_durable_directory, settle_directory
from adapters.driven.generations import Layout, key_file_name
from adapters.driven.hub_modules import Where
from adapters.driven.journal_file import ACTIVE, open_journal
from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driven.keys.store import KeyFiles
from adapters.driven.module_cache import ModuleCache
from adapters.driven.published import PublishedNames
from adapters.driven.settled import Settled
from adapters.errors import StoreUnavailable
from adapters.wire.hub import Module
from statemachine.journal import Header, head_lines, sequence_of
from statemachine.machine import RULES_REVISION
from statemachine.settings import HANDLE_KEY_ID
from statemachine.snapshot import Snapshot
from tests.crash.device import in_one_thread, open_below
from tests.crash.image import shown
from tests.crash.judge import empty_directory
from tests.crash.models import prefixes
from tests.crash.recording import Fault, Recorder
from tests.crash.sequence import BEGINNING, Life

WHERE = Where(hub="hub.example", device_id="device-1")
MODULE = Module(module_id="edgeAgent", device_id="device-1", generation_id="1")


def durable(recorder):
    """Paths that a power cut leaves, at worst."""
    last = prefixes(Life(recorder=recorder, opening=(), end=BEGINNING))[-1]
    return "\n".join(shown(last.durable))


def recorded(root, fault=None):
    return Recorder(root, lambda: BEGINNING, fault=fault)


def failing_once(work, error=errno.EIO):
    """``work(root, recorder)`` on new disks, until each call that changes something has failed once."""
    for at in range(1, 100):
        with empty_directory() as root:
            with recorded(root, Fault(at=at, error=error, hit=[])) as recorder:
                work(root, recorder)
            assert recorder.unrecorded() == []
        if recorder.calls < at:
            assert at > 2
            return
    raise AssertionError("it has no end")


def insist(work):
    """Again, as a caller does."""
    for _ in range(3):
        try:
            return work()
        except (OSError, StoreUnavailable):
            continue
    raise AssertionError("it fails without a fault")


def run(work, *args, **facts):
    with in_one_thread():
        return trio.run(lambda: work(*args, **facts))


def head():
    header = Header(
        rules_revision=RULES_REVISION,
        software_version="0.1.0",
        machine="m",
        device="device-1",
        epoch=1,
        first_sequence=1,
        created_unix_ms=0,
    )
    return head_lines(header, Snapshot())[0]


# --- the journal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["begin", "resume"])
def test_a_journal_that_cannot_be_opened_keeps_no_file_open(way):
    def work(root, recorder):
        if way == "resume":
            with open(os.open(f"{root}/{ACTIVE}", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(b"".join(head()))
        journal = open_journal(root, sequence_of)
        try:
            journal.begin(head()) if way == "begin" else journal.resume()
        except StoreUnavailable:
            assert open_below(root) == []
        else:
            journal.close()

    def suffer(root, recorder):
        with contextlib.suppress(OSError, StoreUnavailable):
            work(root, recorder)

    failing_once(suffer)


def test_a_closed_file_has_its_name_on_disk_before_the_new_one_takes_over():
    with empty_directory() as root, recorded(root) as recorder:
        journal = open_journal(root, sequence_of)
        journal.begin(head())
        journal._first = 1
        journal.rotate_now(head())
        journal.close()
    found = prefixes(Life(recorder=recorder, opening=(), end=BEGINNING))
    (renamed,) = [
        n + 1 for n, one in enumerate(recorder.operations) if one.said == f"rename {ACTIVE}.new to {ACTIVE}"
    ][1:]
    assert "/journal-000000000001.jsonl" in "\n".join(shown(found[renamed].durable))


def test_what_a_killed_process_made_is_on_disk_before_a_journal_promises_anything():
    with empty_directory() as root, recorded(root) as recorder:
        os.mkdir(f"{root}/var", 0o700)
        os.mkdir(f"{root}/var/identityd", 0o700)
        assert durable(recorder) == "0700 /"
        journal = open_journal(f"{root}/var/identityd", sequence_of)
        journal.begin(head())
        journal.close()
    assert "/var/identityd/journal.jsonl" in durable(recorder)


# --- directories -------------------------------------------------------------------------------------


def test_a_directory_that_could_not_be_synced_is_made_again():
    def work(root, recorder):
        insist(lambda: make_durable_directory(f"{root}/a/b"))
        assert "/a/b/" in durable(recorder)

    failing_once(work)


def test_settling_goes_up_as_far_as_something_can_have_been_made():
    with empty_directory() as root, recorded(root) as recorder:
        os.makedirs(f"{root}/a/b", 0o700)
        settle_directory(f"{root}/a/b")
    assert "/a/b/" in durable(recorder)


def test_what_an_earlier_process_left_is_settled_once_and_never_fails(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(settled, "sync_directory", synced.append)
    known = Settled()
    known.settle("here")
    known.settle("here")
    assert synced == ["here"]

    def fail(directory):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(settled, "sync_directory", fail)
    known.settle("elsewhere")
    known.finish("elsewhere")
    with pytest.raises(OSError, match="no"), known.changing("here"):
        fail("here")
    for again in (known.settle, known.finish):
        with pytest.raises(OSError, match="no"):
            again("here")
    monkeypatch.setattr(settled, "sync_directory", synced.append)
    known.settle("here")
    known.settle("here")
    assert synced == ["here", "here"]


# --- a change that looks done ------------------------------------------------------------------------


def test_a_key_that_could_not_be_synced_is_promised_only_once_it_is():
    def work(root, recorder):
        keys = EmbeddedKeys(root, dict, NoIdentity())
        insist(lambda: run(keys.create_key_pair, "pair", "ec-p256"))
        insist(lambda: run(keys.create_key, "key", (), None))
        tree = durable(recorder)
        assert f"/keys/{key_file_name('pair')}" in tree
        assert f"/keys/{key_file_name('key')}" in tree
        assert f"/keys/{key_file_name(HANDLE_KEY_ID)}" in tree

    failing_once(work)


class NoIdentity:
    def current_key_generation(self):
        return None

    def key_pem(self, generation):
        return None


def test_a_key_that_a_killed_process_left_is_brought_to_disk_before_it_is_promised():
    with empty_directory() as root, recorded(root) as recorder:
        KeyFiles(root, dict).write(KeyFiles(root, dict).place("other"), b"other")
        path = f"{root}/keys/{key_file_name('key')}"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(bytes(32))
            file.flush()
            os.fsync(file.fileno())
        assert key_file_name("key") not in durable(recorder)
        keys = EmbeddedKeys(root, dict, NoIdentity())
        keys._files.settle(keys._files.place("key"))
    assert key_file_name("key") in durable(recorder)


@pytest.mark.parametrize("kind", ["key", "certificate", "module"])
def test_a_deletion_that_could_not_be_synced_is_not_done(kind):
    def work(root, recorder):
        if kind == "key":
            files = KeyFiles(root, dict)
            place = files.place("a")
            insist(lambda: files.write(place, b"key"))
            insist(lambda: files.delete(place))
        elif kind == "certificate":
            stored = CertificateFiles(root, lambda _: None, dict)
            insist(lambda: run(stored.write, "a", b"certificate"))
            insist(lambda: run(stored.delete, "a"))
        else:
            cache = ModuleCache(root)
            insist(lambda: run(cache.write, WHERE, [MODULE]))
            assert "edgeAgent" in durable(recorder)
            insist(lambda: run(cache.remove, WHERE, "edgeAgent"))
        left = durable(recorder)
        assert ".cer" not in left
        assert ".key" not in left
        assert "edgeAgent" not in left

    failing_once(work)


def test_other_devices_modules_that_could_not_be_forgotten_are_forgotten_later():
    other = Where(hub="other.example", device_id="device-1")

    def work(root, recorder):
        cache = ModuleCache(root)
        insist(lambda: run(cache.write, other, [MODULE]))
        insist(lambda: run(cache.forget_others, WHERE))
        assert "edgeAgent" not in durable(recorder)

    failing_once(work)


def test_a_published_name_that_could_not_be_synced_is_synced_by_the_next_look():
    def work(root, recorder):
        layout = Layout(f"{root}/identityd", f"{root}/certd", f"{root}/keyd")
        names = PublishedNames(layout)
        insist(lambda: make_durable_directory(layout.root))
        insist(names.show)
        left = durable(recorder)
        assert os.path.basename(layout.certificate_link) in left
        assert os.path.basename(layout.key_link) in left

    failing_once(work)
