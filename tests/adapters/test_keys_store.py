"""Key files: the original's names and encodings, nothing lost, nothing half-written, nobody kept waiting."""

import base64
import errno
import os
import stat
import threading

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from adapters.driven.credentials import GenerationStore
from adapters.driven.keys.algorithms import chosen
from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driven.keys.handles import DerivedHandle, KeyHandle, PairHandle, make_handle, read_handle
from adapters.driven.keys.store import MAX_KEY_BYTES, KeyFiles
from adapters.driven.keys.turns import Turns
from adapters.errors import RequestRefused, StoreUnavailable
from adapters.ports import Ecdsa, HmacSha256
from adapters.wire import x509
from statemachine.effects import CommitCredential, RetireCredential, StageKey
from statemachine.settings import HANDLE_KEY_ID, IDENTITY_KEY_ID, MASTER_KEY_ID
from tests.adapters.disk import Disk, believed_syncs, crashed_descriptors, ram_path  # noqa: F401 - fixtures
from tests.adapters.keyd_home import (
    H_DEVICE,
    HK1,
    K1,
    P256_ONE,
    RSA_2048,
    VALIDATION_KEY,
    Home,
    file_of,
    pem_of,
)

DIGEST = Ecdsa(b"d" * 32)
HELLO = HmacSha256(b"hello")
HELLO_K1 = base64.b64decode("ev4PeGwuFre5HZY7JRFJY59b3sAbByTQUQVAnK982Ac=")

pytestmark = pytest.mark.usefixtures("believed_syncs")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def run(work, *args):
    return trio.run(work, *args)


def refusal(work, *args):
    with pytest.raises(RequestRefused) as caught:
        trio.run(work, *args)
    return caught.value.code, caught.value.parameter


def unavailable(work, *args):
    with pytest.raises(StoreUnavailable) as caught:
        trio.run(work, *args)
    return caught.value


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# --- names and encodings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key_id", "name"),
    [
        ("device-id", "deviceid-bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655.key"),
        (
            MASTER_KEY_ID,
            "aziotidentitydmasterid-91b92c2c06a5a5dda5fbc9c48b4d428d930b9c1b8b2956a1044ccbc7a266afc9.key",
        ),
        (
            HANDLE_KEY_ID,
            "handlevalidationkey-40f1ca41fe8b50f53e10f3e3a580dcae24087f37aa498ba9903f2612b03e90ba.key",
        ),
        (
            IDENTITY_KEY_ID,
            "aziotdpsidentitycertkey-40cd8def7d390781e92aa1e0ab6b65513ba91a3fb5644738cee9f1aa5e61732f.key",
        ),
        ("ä/b c", "bc-c9bcc6f5720b5f900029eec074c815aa9eb14d8e52ad5f3448bb1debe30ca9ee.key"),
    ],
)
def test_e31(key_id, name):
    assert KeyFiles("/home/keyd", dict).place(key_id).path == f"/home/keyd/keys/{name}"
    assert file_of(key_id) == name


def test_a_first_key_brings_everything_it_needs(tmp_path):
    home = Home(tmp_path, vectors=False, nonce=os.urandom)
    handle = run(home.keys.create_key, "k", (), None)
    assert home.names() == sorted([file_of("k"), file_of(HANDLE_KEY_ID)])
    assert len(home.get("k")) == len(home.get(HANDLE_KEY_ID)) == 32
    assert home.get("k") != home.get(HANDLE_KEY_ID)
    assert {mode_of(home.path(key_id)) for key_id in ("k", HANDLE_KEY_ID)} == {0o600}
    assert {mode_of(home.home), mode_of(home.directory)} == {0o700}
    home.restart()
    assert run(home.keys.sign, handle, HELLO) == run(home.keys.sign, run(home.keys.load_key, "k"), HELLO)


def test_what_the_original_left_is_used_as_it_is(home):
    assert run(home.keys.load_key, "k1") == HK1
    assert run(home.keys.sign, HK1, HELLO) == HELLO_K1
    assert run(home.keys.create_key, "k1", (), None) == HK1
    assert run(home.keys.create_key_pair, "device-id", "rsa-4096") == H_DEVICE
    assert (home.get("k1"), home.get("device-id")) == (K1, pem_of(P256_ONE))


@pytest.mark.parametrize("key", [P256_ONE, RSA_2048], ids=["ec", "rsa"])
def test_a_pair_in_the_traditional_form_stays_in_it(home, key):
    pem = pem_of(key, PrivateFormat.TraditionalOpenSSL)
    home.put("old", pem)
    handle = run(home.keys.create_key_pair, "old", None)
    assert run(home.keys.public_parameter, handle, "algorithm") in ("ECDSA", "RSA")
    assert home.get("old") == pem


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (None, "ec-p256"),
        ("*", "ec-p256"),
        ("ec-p256", "ec-p256"),
        ("rsa-2048", "rsa-2048"),
        ("rsa-4096", "rsa-4096"),
        ("rsa-2048:*", "rsa-2048"),
        ("ec-p256:rsa-4096:*", "ec-p256"),
        ("ed25519:rsa-3072:rsa-2048", "rsa-2048"),
        ("x:*:rsa-4096", "ec-p256"),
        ("", None),
        (":", None),
        ("rsa-3072", None),
        ("RSA-2048: ec-p256", None),
    ],
)
def test_preferred_algorithms(asked, made):
    assert chosen(asked) == made


@pytest.mark.parametrize(("asked", "kind"), [(None, ec.SECP256R1), ("rsa-2048:*", 2048)])
def test_a_pair_is_written_as_pkcs8(home, asked, kind):
    run(home.keys.create_key_pair, "new", asked)
    assert home.get("new").startswith(b"-----BEGIN PRIVATE KEY-----\n")
    key = home.stored_pair("new")
    if isinstance(key, rsa.RSAPrivateKey):
        assert (key.key_size, key.public_key().public_numbers().e) == (kind, 65537)
    else:
        assert isinstance(key.curve, kind)
    assert mode_of(home.path("new")) == 0o600


def test_no_usable_algorithm_makes_nothing(home):
    assert refusal(home.keys.create_key_pair, "new", "rsa-1024:none") == ("algorithm-unknown", None)
    assert not os.path.exists(home.path("new"))


# --- what is there is not lost -----------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\0" * 32, pem_of(P256_ONE)[:100]], ids=["empty", "bytes", "cut"])
def test_a_broken_pair_is_never_replaced(home, content):
    """The original makes a new key over it, and orphans the certificate (quirk 11)."""
    home.put("broken", content)
    for work in (
        lambda: home.keys.create_key_pair("broken", None),
        lambda: home.keys.load_key_pair("broken"),
    ):
        told = unavailable(work)
        assert (told.code, told.failure_class) == ("key-unusable", "operator")
        assert told.message.startswith(home.path("broken"))
    assert home.get("broken") == content


def test_an_empty_key_is_never_replaced_but_by_an_import(home):
    home.put("empty", b"")
    assert unavailable(home.keys.create_key, "empty", (), None).code == "key-unusable"
    assert unavailable(home.keys.load_key, "empty").code == "key-unusable"
    assert home.get("empty") == b""
    run(home.keys.create_key, "empty", (), b"new")
    assert home.get("empty") == b"new"


def test_an_import_replaces_what_is_there(home):
    run(home.keys.create_key, "k1", (), b"other")
    assert home.get("k1") == b"other"


@pytest.mark.parametrize("size", [0, MAX_KEY_BYTES + 1])
def test_an_import_has_its_bounds(home, size):
    assert refusal(home.keys.create_key, "k1", (), b"x" * size) == ("key-length", "keyBytes")
    assert home.get("k1") == K1


def test_an_empty_validation_key_is_not_replaced(home):
    """A fresh one would make every outstanding handle worthless."""
    home.put(HANDLE_KEY_ID, b"")
    assert unavailable(home.keys.load_key, "k1").code == "key-unusable"
    assert home.get(HANDLE_KEY_ID) == b""


def test_without_its_validation_key_every_handle_is_worthless(home):
    os.unlink(home.path(HANDLE_KEY_ID))
    assert refusal(home.keys.sign, HK1, HELLO) == ("handle-invalid", "handle")
    assert not os.path.exists(home.path(HANDLE_KEY_ID)), "looking at a handle makes no key"
    run(home.keys.load_key, "k1")
    assert home.get(HANDLE_KEY_ID) != VALIDATION_KEY
    assert refusal(home.keys.sign, HK1, HELLO) == ("handle-invalid", "handle")


@pytest.mark.parametrize(
    "obstacle", [lambda path: os.symlink("/dev/null", path), os.mkdir, os.mkfifo], ids=["link", "dir", "fifo"]
)
def test_something_else_under_the_name(home, obstacle):
    obstacle(home.path("odd"))
    assert unavailable(home.keys.load_key, "odd").message.endswith("move it away")
    assert unavailable(home.keys.create_key_pair, "odd", None).message.endswith("move it away")


def test_a_huge_file_is_not_read(home):
    home.put("huge", b"x" * (MAX_KEY_BYTES + 1))
    assert "larger than" in unavailable(home.keys.load_key, "huge").message


@pytest.mark.parametrize(
    ("key_id", "why"),
    [
        ("a\0b", "nul"),
        ("x" * 183, "file name"),
        ("-" * 1025, "1024 bytes"),
        ("ä" * 600, "1024 bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_ids_that_cannot_be_filed(home, key_id, why):
    for work, args in (
        (home.keys.create_key, ((), None)),
        (home.keys.create_key_pair, (None,)),
        (home.keys.load_key, ()),
        (home.keys.load_key_pair, ()),
    ):
        with pytest.raises(RequestRefused, match=why) as caught:
            run(work, key_id, *args)
        assert caught.value.parameter == "id"


@pytest.mark.parametrize("key_id", ["", ".", "../../etc/passwd", "a/b", "x" * 182, "-" * 1000, "ä b\n", "*"])
def test_any_other_id_is_a_file_below_the_home(home, key_id):
    run(home.keys.create_key, key_id, (), b"s")
    assert home.get(key_id) == b"s"
    assert sorted(os.listdir(home.home)) == ["keys"]


# --- moving and deleting -----------------------------------------------------------------------------


def test_a_move_replaces_the_target(home):
    run(home.keys.move_key_pair, "rsa", "device-id")
    assert home.get("device-id") == pem_of(RSA_2048)
    assert not os.path.exists(home.path("rsa"))
    assert run(home.keys.public_parameter, H_DEVICE, "algorithm") == "RSA", "old handles address the new key"


def test_a_move_of_nothing_or_of_garbage_leaves_the_target(home):
    assert refusal(home.keys.move_key_pair, "nope", "device-id") == ("not-found", None)
    assert unavailable(home.keys.move_key_pair, "k1", "device-id").code == "key-unusable"
    assert (home.get("device-id"), home.get("k1")) == (pem_of(P256_ONE), K1)


def test_deleting_twice_is_fine(home):
    for _ in range(2):
        run(home.keys.delete_key, HK1)
        run(home.keys.delete_key_pair, H_DEVICE)
    assert home.names() == sorted([file_of(HANDLE_KEY_ID), file_of("rsa")])
    assert refusal(home.keys.sign, HK1, HELLO) == ("not-found", None)
    assert refusal(home.keys.sign, H_DEVICE, DIGEST) == ("not-found", None)


def test_a_changed_file_counts_at_once(home):
    """Also one of the same size, put there within a tick of the clock."""
    first = run(home.keys.public_parameter, H_DEVICE, "ec-point")
    status = os.stat(home.path("device-id"))
    home.put("device-id", pem_of(ec.derive_private_key(2, ec.SECP256R1())))
    os.utime(home.path("device-id"), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run(home.keys.public_parameter, H_DEVICE, "ec-point") != first


def test_more_pairs_than_are_kept_parsed(home):
    for number in range(1, 40):
        home.put(f"pair{number}", pem_of(ec.derive_private_key(number, ec.SECP256R1())))
    points = {
        run(home.keys.public_parameter, run(home.keys.load_key_pair, f"pair{number}"), "ec-point")
        for _ in range(2)
        for number in range(1, 40)
    }
    assert len(points) == 39


def test_what_cannot_be_deleted_or_moved_is_told(home):
    os.unlink(home.path("k1"))
    os.mkdir(home.path("k1"))
    assert unavailable(home.keys.delete_key, HK1).message.startswith(home.path("k1"))
    assert unavailable(home.keys.move_key_pair, "rsa", "k1").message.startswith(home.path("k1"))
    assert home.get("rsa") == pem_of(RSA_2048)


# --- preloaded keys ----------------------------------------------------------------------------------


def test_a_preloaded_path_is_the_only_place(home, tmp_path):
    path = tmp_path / "secrets" / "psk"
    home.preloaded = {"k1": str(path)}
    assert refusal(home.keys.load_key, "k1") == ("not-found", None)
    assert unavailable(home.keys.create_key, "k1", (), b"new").code == "directory-missing"
    path.parent.mkdir()
    run(home.keys.create_key, "k1", (), b"new")
    assert path.read_bytes() == b"new"
    run(home.keys.delete_key, HK1)
    assert not path.exists()
    assert home.get("k1") == K1, "of no concern while another place is configured"
    home.preloaded = {}
    assert run(home.keys.load_key, "k1") == HK1


def test_preloaded_links_are_followed_and_kept(home, tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(pem_of(RSA_2048))
    link.symlink_to(real)
    home.preloaded = {"linked": str(link), "target": str(tmp_path / "target")}
    handle = run(home.keys.load_key_pair, "linked")
    assert run(home.keys.public_parameter, handle, "algorithm") == "RSA"
    run(home.keys.create_key, "linked", (), b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    real.write_bytes(pem_of(RSA_2048))
    run(home.keys.move_key_pair, "linked", "target")
    assert (tmp_path / "target").read_bytes() == pem_of(RSA_2048)


def test_a_pair_is_made_where_the_configuration_says(home, tmp_path):
    home.preloaded = {"made": str(tmp_path / "made.pem")}
    run(home.keys.create_key_pair, "made", None)
    assert (tmp_path / "made.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert not os.path.exists(home.path("made"))


def test_a_key_in_the_configuration_is_read_only(home):
    home.preloaded = {"inline": K1}
    handle = run(home.keys.load_key, "inline")
    assert run(home.keys.sign, handle, HELLO) == run(home.keys.sign, HK1, HELLO)
    assert run(home.keys.create_key, "inline", (), None) == handle
    pair = run(home.keys.load_key_pair, "rsa")
    for work, args in (
        (home.keys.create_key, ("inline", (), b"new")),
        (home.keys.delete_key, (handle,)),
        (home.keys.move_key_pair, ("rsa", "inline")),
    ):
        assert refusal(work, *args) == ("read-only", None)
    for work, args in (
        (home.keys.load_key_pair, ("inline",)),
        (home.keys.create_key_pair, ("inline", None)),
        (home.keys.move_key_pair, ("inline", "rsa")),
    ):
        assert refusal(work, *args) == ("wrong-kind", None)
    assert run(home.keys.public_parameter, pair, "algorithm") == "RSA"


def test_a_place_does_not_show_the_key():
    files = KeyFiles("/home/keyd", lambda: {"inline": K1, "path": "/secrets/psk"})
    assert repr(files.place("inline")) == "Place('inline', inline)"
    assert repr(files.place("path")) == "Place('path', /secrets/psk)"


def test_two_ids_for_one_file_do_not_lock_each_other_up(home, tmp_path):
    home.preloaded = {"one": str(tmp_path / "same"), "two": str(tmp_path / "same")}
    run(home.keys.create_key_pair, "one", None)
    assert refusal(home.keys.move_key_pair, "one", "two") == ("same-file", None)
    assert (tmp_path / "same").exists()


def test_an_unreadable_preloaded_key_says_which(home, tmp_path):
    home.preloaded = {"dir": str(tmp_path)}
    assert unavailable(home.keys.load_key, "dir").message.startswith(str(tmp_path))


# --- derived keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "why"),
    [
        ("garbage", "invalid handle"),
        (H_DEVICE, "handle is not for a key"),
        (make_handle(VALIDATION_KEY, DerivedHandle(HK1, b"d"), b"n" * 64), "nested derived keys are not"),
    ],
)
def test_derived_handles_that_the_original_makes_without_looking(home, base, why):
    """It never inspects the base handle; genuine or not, such a handle is of no use here."""
    handle = make_handle(VALIDATION_KEY, DerivedHandle(base, b"d"), b"n" * 64)
    for work, args in (
        (home.keys.sign, (handle, HELLO)),
        (home.keys.export_derived_key, (handle,)),
        (home.keys.derive_key, (base, b"d")),
    ):
        with pytest.raises(RequestRefused, match=why) as caught:
            run(work, *args)
        assert caught.value.parameter == "handle"


def test_a_derived_key_needs_its_base(home):
    derived = run(home.keys.derive_key, HK1, b"d")
    assert home.keys.key_id_of(derived) == "k1"
    run(home.keys.delete_key, HK1)
    assert refusal(home.keys.export_derived_key, derived) == ("not-found", None)


# --- the machine's keys ------------------------------------------------------------------------------


def test_the_validation_key_is_no_key_for_anybody(home):
    """With a handle of it, which the original gives to whoever may name all keys, one could make handles."""
    forged = {
        name: make_handle(VALIDATION_KEY, meaning, b"n" * 64)
        for name, meaning in {
            "key": KeyHandle(HANDLE_KEY_ID),
            "pair": PairHandle(HANDLE_KEY_ID),
        }.items()
    }
    derived = make_handle(VALIDATION_KEY, DerivedHandle(forged["key"], b"d"), b"n" * 64)
    for work, args in (
        (home.keys.load_key, (HANDLE_KEY_ID,)),
        (home.keys.load_key_pair, (HANDLE_KEY_ID,)),
        (home.keys.create_key, (HANDLE_KEY_ID, (), b"mine")),
        (home.keys.create_key_pair, (HANDLE_KEY_ID, None)),
        (home.keys.move_key_pair, ("rsa", HANDLE_KEY_ID)),
        (home.keys.move_key_pair, (HANDLE_KEY_ID, "rsa")),
        (home.keys.sign, (forged["key"], HELLO)),
        (home.keys.sign, (forged["pair"], DIGEST)),
        (home.keys.sign, (derived, HELLO)),
        (home.keys.export_derived_key, (derived,)),
        (home.keys.derive_key, (forged["key"], b"d")),
        (home.keys.delete_key, (forged["key"],)),
        (home.keys.delete_key_pair, (forged["pair"],)),
    ):
        assert refusal(work, *args) == ("not-found", None)
    assert home.get(HANDLE_KEY_ID) == VALIDATION_KEY


def test_the_identity_key_is_used_by_generation(home):
    old = home.identity.issue(6)
    before = run(home.keys.load_key_pair, IDENTITY_KEY_ID)
    bare = make_handle(VALIDATION_KEY, PairHandle(IDENTITY_KEY_ID), b"n" * 64)
    new = home.identity.issue(7)
    after = run(home.keys.load_key_pair, IDENTITY_KEY_ID)
    assert home.keys.key_id_of(after) == home.keys.key_id_of(bare) == IDENTITY_KEY_ID
    scheme = ec.ECDSA(utils.Prehashed(SHA256()))
    for handle, key in ((before, old), (after, new), (bare, new)):
        key.public_key().verify(run(home.keys.sign, handle, DIGEST), DIGEST.digest, scheme)
    del home.identity.keys[6]
    assert refusal(home.keys.sign, before, DIGEST) == ("not-found", None)
    new.public_key().verify(run(home.keys.sign, after, DIGEST), DIGEST.digest, scheme)


def test_the_identity_key_is_not_changed_here(home):
    home.identity.issue(1)
    handle = run(home.keys.load_key_pair, IDENTITY_KEY_ID)
    for work, args in (
        (home.keys.create_key, (IDENTITY_KEY_ID, (), b"mine")),
        (home.keys.create_key_pair, (IDENTITY_KEY_ID, None)),
        (home.keys.move_key_pair, ("rsa", IDENTITY_KEY_ID)),
        (home.keys.move_key_pair, (IDENTITY_KEY_ID, "rsa")),
        (home.keys.delete_key_pair, (handle,)),
    ):
        assert refusal(work, *args) == ("machine-owned", None)
    assert refusal(home.keys.load_key, IDENTITY_KEY_ID) == ("not-found", None)


def test_before_anything_is_issued_the_originals_file_counts(home):
    assert refusal(home.keys.load_key_pair, IDENTITY_KEY_ID) == ("not-found", None)
    home.put(IDENTITY_KEY_ID, pem_of(P256_ONE))
    handle = run(home.keys.load_key_pair, IDENTITY_KEY_ID)
    assert run(home.keys.public_parameter, handle, "algorithm") == "ECDSA"
    os.unlink(home.path(IDENTITY_KEY_ID))
    os.symlink("../../nowhere/key.pem", home.path(IDENTITY_KEY_ID))
    assert refusal(home.keys.load_key_pair, IDENTITY_KEY_ID) == ("not-found", None)


# --- faults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("work", ["key", "import", "pair", "move"])
def test_a_disk_that_fails_at_any_call_leaves_no_half_key(ram_path, error, work):  # noqa: F811
    """Each call that changes something fails once: the old keys are whole, nothing half-written stays."""

    def change(home):
        match work:
            case "key":
                return run(home.keys.create_key, "new", (), None)
            case "import":
                return run(home.keys.create_key, "k1", (), b"imported")
            case "pair":
                return run(home.keys.create_key_pair, "new", None)
            case "move":
                return run(home.keys.move_key_pair, "rsa", "device-id")

    for fail_at in range(1, 100):
        root = ram_path / str(fail_at)
        root.mkdir()
        home = Home(root)
        with Disk(fail_at=fail_at, error=error) as disk:
            told = []
            try:
                change(home)
            except StoreUnavailable as exc:
                told.append(exc.code)
        if not disk.failed:
            break
        assert told == ["io-error" if error == errno.EIO else "disk-full"], disk.failed
        assert not [name for name in home.names() if not name.endswith(".key")], disk.failed
        assert home.get("k1") in (K1, b"imported"), disk.failed
        assert home.get("device-id") in (pem_of(P256_ONE), pem_of(RSA_2048)), disk.failed
        if os.path.exists(home.path("new")):
            assert len(home.get("new")) == 32 or home.stored_pair("new"), disk.failed
        home.restart()
        if work != "move" or os.path.exists(home.path("rsa")):
            change(home)
    assert fail_at > 2


def test_no_space_for_the_validation_key_makes_no_other(ram_path):  # noqa: F811
    home = Home(ram_path, vectors=False)
    with Disk(fail_at=1, error=errno.ENOSPC, lasting=True, only=("fsync",)):
        unavailable(home.keys.create_key, "k", (), None)
    assert not [name for _, _, names in os.walk(home.root) for name in names]


@pytest.mark.parametrize("work", ["key", "pair"])
def test_power_is_lost_at_any_call(ram_path, work, crashed_descriptors):  # noqa: F811
    for cut_at in range(1, 100):
        root = ram_path / str(cut_at)
        root.mkdir()
        home = Home(root)
        with Disk(cut_at=cut_at) as disk:
            if work == "key":
                run(home.keys.create_key, "new", (), None)
            else:
                run(home.keys.create_key_pair, "new", None)
        if not disk.dead:
            break
        disk.lose_unsynced(str(root), torn_bytes=cut_at % 3 * 10)
        home.restart()
        run(home.keys.load_key, "k1")
        assert not [name for name in home.names() if not name.endswith(".key")], "swept at the first use"
        if work == "key":
            run(home.keys.create_key, "new", (), None)
            assert len(home.get("new")) == 32
        else:
            run(home.keys.create_key_pair, "new", None)
            assert home.stored_pair("new")
    assert cut_at > 3


def test_a_half_written_key_of_an_earlier_life_is_removed(home):
    half = home.path("half") + ".new"
    with open(half, "wb") as file:
        file.write(b"-----BEGIN PRIVATE")
    before = home.contents()
    run(home.keys.sign, HK1, HELLO)
    assert home.contents() == {name: content for name, content in before.items() if name.endswith(".key")}


# --- together ----------------------------------------------------------------------------------------


def test_who_create_the_same_id_get_the_same_key(home, monkeypatch):
    made = []

    def new_key(algorithm):
        made.append(algorithm)
        return x509_new_key(algorithm)

    x509_new_key = x509.new_key
    monkeypatch.setattr(x509, "new_key", new_key)

    async def main():
        handles = []

        async def create():
            handles.append(await home.keys.create_key_pair("shared", None))
            handles.append(await home.keys.create_key("secret", (), None))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(create)
        points = {await home.keys.public_parameter(handle, "ec-point") for handle in handles if pair(handle)}
        macs = {await home.keys.sign(handle, HELLO) for handle in handles if not pair(handle)}
        return points, macs

    def pair(handle):
        return isinstance(read_handle(VALIDATION_KEY, handle), PairHandle)

    points, macs = trio.run(main)
    assert made == ["ec-p256"]
    assert (len(points), len(macs)) == (1, 1)


def test_a_key_in_the_making_delays_nobody(home, monkeypatch):
    """Signing, other keys, and the same key once it is there."""
    release = threading.Event()

    def slow(algorithm):
        release.wait(5)
        return pem_of(RSA_2048)

    monkeypatch.setattr(x509, "new_key", slow)

    async def main():
        done = []

        async def create(key_id):
            await home.keys.create_key_pair(key_id, "rsa-4096")
            done.append(key_id)

        with trio.fail_after(4):
            async with trio.open_nursery() as nursery:
                for key_id in ("slow", "slow", "a", "b", "c", "d", "e"):
                    nursery.start_soon(create, key_id)
                for _ in range(3):
                    await home.keys.sign(HK1, HELLO)
                    await home.keys.create_key("quick", (), None)
                    await home.keys.load_key_pair("rsa")
                assert done == []
                release.set()
        return sorted(done)

    assert trio.run(main) == ["a", "b", "c", "d", "e", "slow", "slow"]


def test_a_card_that_hangs_is_answered_for(home, monkeypatch):
    release = threading.Event()
    read = home.keys._files.read

    def hang(place):
        release.wait(5)
        return read(place)

    async def main():
        await home.keys.load_key("k1")
        monkeypatch.setattr(home.keys._files, "read", hang)
        try:
            await home.keys.load_key("k1")
        finally:
            release.set()

    with pytest.raises(StoreUnavailable) as caught:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert caught.value.code == "too-slow"
    assert "within 10 s" in caught.value.message


def test_turns_leave_nothing_behind():
    turns = Turns()
    order = []

    async def one(name, path):
        async with turns.of(path):
            order.append(name)
            await trio.lowlevel.checkpoint()
            order.append(name)

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a", "p")
            nursery.start_soon(one, "b", "p")
            nursery.start_soon(one, "c", "p")
        with trio.move_on_after(0):
            await one("d", "p")
        return turns._locks

    assert trio.run(main) == {}
    assert order[:6] == [order[0]] * 2 + [order[2]] * 2 + [order[4]] * 2


@given(st.text(max_size=30))
def test_any_list_of_algorithms_is_judged(asked):
    assert chosen(asked) in (None, "ec-p256", "rsa-2048", "rsa-4096")


# --- the credential store as source of the identity's key --------------------------------------------


def test_generations_show_their_keys(tmp_path):
    store = GenerationStore(str(tmp_path / "identityd"), str(tmp_path / "certd"), str(tmp_path / "keyd"))
    store.open()
    keys = EmbeddedKeys(str(tmp_path / "keyd"), dict, store)
    assert store.current_key_generation() is None
    assert refusal(keys.load_key_pair, IDENTITY_KEY_ID) == ("not-found", None)
    wish = {"algorithm": "ec-p256", "common_name": "cn"}
    run(store.stage, "1", StageKey(generation=1, **wish))
    assert store.current_key_generation() is None, "staged is not current"
    aim(store, 1)
    handle = run(keys.load_key_pair, IDENTITY_KEY_ID)
    point = run(keys.public_parameter, handle, "ec-point")
    run(store.stage, "2", StageKey(generation=2, **wish))
    aim(store, 2)
    assert store.current_key_generation() == 2
    assert run(keys.public_parameter, handle, "ec-point") == point
    later = run(keys.load_key_pair, IDENTITY_KEY_ID)
    assert run(keys.public_parameter, later, "ec-point") != point
    run(store.retire, "3", RetireCredential(keep=(2,)))
    assert store.key_pem(1) is None
    assert refusal(keys.public_parameter, handle, "ec-point") == ("not-found", None)
    configured = CommitCredential(
        generation=2, chain_pem=None, hub="h", device_id="d", fingerprint="f", bundle_id="b"
    )
    run(store.commit, "4", configured)
    assert store.current_key_generation() is None, "the assignment without a certificate has no key"


def test_a_damaged_pointer_is_told(tmp_path):
    store = GenerationStore(str(tmp_path / "identityd"), str(tmp_path / "certd"), str(tmp_path / "keyd"))
    store.open()
    os.symlink("nonsense", store.layout.pointer_path)
    with pytest.raises(StoreUnavailable) as caught:
        store.current_key_generation()
    assert caught.value.code == "pointer-damaged"


def test_a_key_that_cannot_be_read_is_told(tmp_path):
    store = GenerationStore(str(tmp_path / "identityd"), str(tmp_path / "certd"), str(tmp_path / "keyd"))
    store.open()
    os.makedirs(store.key_path(1))
    with pytest.raises(StoreUnavailable):
        store.key_pem(1)


def aim(store, generation):
    """What the flip of a commit does."""
    if os.path.lexists(store.layout.pointer_path):
        os.unlink(store.layout.pointer_path)
    os.symlink(str(generation), store.layout.pointer_path)
