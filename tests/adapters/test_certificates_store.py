"""Certificates as files: names, imports, files of the operator, failing disks (services.md §4.4)."""

import errno
import os
import stat
import threading

import pytest
import trio
import trio.testing

from adapters.driven.certificates import store
from adapters.driven.certificates.store import CertificateFiles
from adapters.errors import RequestRefused, StoreUnavailable
from adapters.wire import imported
from statemachine.settings import IssuanceRule
from tests.adapters.certd_parts import EC_KEYS, Certd, Keys, ca_pem, csr
from tests.adapters.disk import Disk, believed_syncs, ram_path  # noqa: F401 - fixtures

A, B = ca_pem(EC_KEYS[0], "A").decode(), ca_pem(EC_KEYS[1], "B").decode()
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("certificate_id", "name"),
    [
        ("device-id", "deviceid-bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655.cer"),
        (
            "aziot-edged-trust-bundle",
            "aziotedgedtrustbundle-ba36b23f586fabb9af7dc6222274f12b7f43a5a8d075c3eca008c6c35cdf3713.cer",
        ),
        ("ä/b c", "bc-c9bcc6f5720b5f900029eec074c815aa9eb14d8e52ad5f3448bb1debe30ca9ee.cer"),
    ],
)
def test_the_names_of_the_original(tmp_path, certificate_id, name):
    """services.md §9.2, E17; the other two names are the machine's."""
    certd = Certd(tmp_path)
    certd.import_(certificate_id, A)
    assert certd.files() == [name]
    status = os.stat(f"{tmp_path}/certd/certs/{name}")
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, len(A))
    assert certd.read(certificate_id) == A.encode()


@pytest.mark.parametrize("certificate_id", ["../../x", "/etc/passwd", "a\0b", ".", "..", "\n", "x" * 182])
def test_no_id_leads_elsewhere(tmp_path, certificate_id):
    certd = Certd(tmp_path)
    certd.import_(certificate_id, A)
    assert certd.read(certificate_id) == A.encode()
    assert [path for path, _, names in os.walk(tmp_path) if names] == [f"{tmp_path}/certd/certs"]
    certd.delete(certificate_id)
    assert certd.files() == []


@pytest.mark.parametrize("certificate_id", ["", "x" * 183, "x" * 4096, "\ud800"])
def test_ids_that_no_file_can_have(tmp_path, certificate_id):
    certd = Certd(tmp_path)
    with pytest.raises(RequestRefused) as caught:
        certd.import_(certificate_id, A)
    assert caught.value.parameter == "id"
    certd.delete(certificate_id)
    assert certd.read(certificate_id) is None


# --- import ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        A,
        A + B,
        A + A,
        A.rstrip("\n"),
        A.replace("\n", "\r\n"),
        f"some wörds\n{A}between\n{B}and after",
        A.replace("CERTIFICATE", "X509 CERTIFICATE"),
    ],
    ids=["one", "two", "twice", "no newline", "CRLF", "words", "old label"],
)
def test_certificates_are_kept_as_they_are(tmp_path, text):
    certd = Certd(tmp_path)
    certd.import_("x", text)
    assert certd.file("x") == text.encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no PEM certificate"),
        ("hello", "no PEM certificate"),
        (PRIVATE_KEY, "no PEM certificate"),
        (A + PRIVATE_KEY, "not a certificate"),
        (A + A.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), "not a certificate"),
        (A + "-----BEGIN CERTIFICATE-----\n", "certificate 2 cannot be parsed"),
        (A + B[:300], "certificate 2 cannot be parsed"),
        (A[40:] + B, "half of one"),
        (A.rstrip("\n") + B[:-2] + "\n", "certificate 2 cannot be parsed"),
        (A.replace("MII", "AII", 1), "certificate 1 cannot be parsed"),
        ("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "certificate 1 cannot be parsed"),
        ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "certificate 1 cannot be parsed"),
        (A + " " * (1024 * 1024), "larger than 1048576 bytes"),
        (A + "\ud800", "not text"),
    ],
    ids=range(14),
)
def test_what_is_no_certificate_is_not_kept(tmp_path, text, said):
    certd = Certd(tmp_path)
    certd.put("x", b"before")
    with pytest.raises(RequestRefused, match=said) as caught:
        certd.import_("x", text)
    assert caught.value.parameter == "pem"
    assert certd.file("x") == b"before"


def test_too_many_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(imported, "MAX_CERTIFICATES", 1)
    Certd(tmp_path).import_("x", A + A)
    with pytest.raises(RequestRefused, match="more than 1"):
        Certd(tmp_path).import_("x", A + B)


def test_what_the_original_issued_is_taken(tmp_path):
    """Its own CA gives the serial number 0, which stricter readers refuse (services.md §10, quirk 15)."""
    der = bytearray(imported.ssl.PEM_cert_to_DER_cert(A))
    position = der.index(b"\xa0\x03\x02\x01\x02\x02\x01\x07") + 7
    der[position] = 0
    text = imported.ssl.DER_cert_to_PEM_cert(bytes(der))
    Certd(tmp_path).import_("x", text)
    assert Certd(tmp_path).read("x") == text.encode()


# --- files of the operator ---------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path):
    """A file of the operator, and a certd that is told of it."""
    path = tmp_path / "secrets" / "mine.pem"
    path.parent.mkdir()
    path.write_text(A)
    path.chmod(0o644)
    return path, Certd(tmp_path, preloaded={"mine": str(path), "list": ("mine", "other")})


def test_a_preloaded_certificate_is_its_file(mine):
    path, certd = mine
    certd.put("mine", b"never seen")
    assert certd.read("mine") == A.encode()
    certd.import_("mine", B)
    assert path.read_text() == B
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["mine.pem"]
    certd.delete("mine")
    assert not path.exists()
    assert certd.read("mine") is None
    certd.delete("mine")
    certd.import_("mine", A)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert certd.file("mine") == b"never seen"


def test_a_certificate_is_issued_into_its_file(mine):
    path, certd = mine
    certd.keys.pairs["mine"] = EC_KEYS[0]
    certd.settings = type(certd.settings)(
        preloaded={"mine": str(path)}, rules={"mine": IssuanceRule(method="self_signed")}
    )
    assert certd.create("mine", csr(EC_KEYS[0])) == path.read_bytes()


def test_a_link_of_the_operator_stays_one(mine, tmp_path):
    path, certd = mine
    target = tmp_path / "real.pem"
    path.rename(target)
    path.symlink_to(target)
    assert certd.read("mine") == A.encode()
    certd.import_("mine", B)
    assert path.is_symlink()
    assert target.read_text() == B


def test_the_owner_of_a_file_stays(mine, monkeypatch):
    path, certd = mine
    given = []
    monkeypatch.setattr(os, "chown", lambda *args: given.append(args))
    certd.import_("mine", B)
    assert given == [(f"{path}.identityd.new", path.stat().st_uid, path.stat().st_gid)]

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    certd.import_("mine", A)
    assert path.read_text() == A


@pytest.mark.parametrize("kind", ["directory", "fifo", "no directory"])
def test_what_is_no_file_is_left_alone(mine, kind):
    path, certd = mine
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.parent.rmdir()
    with pytest.raises(StoreUnavailable, match=r"mine\.pem"):
        certd.import_("mine", A)
    if kind == "no directory":
        assert certd.read("mine") is None
        assert not path.parent.exists()
    else:
        assert os.listdir(path.parent) == ["mine.pem"]
        with pytest.raises(StoreUnavailable, match=r"mine\.pem"):
            certd.read("mine")


def test_a_list_has_no_file_to_write(mine):
    path, certd = mine
    certd.settings = type(certd.settings)(
        preloaded=certd.settings.preloaded, rules={"list": IssuanceRule(method="self_signed")}
    )
    certd.keys.pairs["list"] = EC_KEYS[0]
    for change in (
        lambda: certd.import_("list", A),
        lambda: certd.delete("list"),
        lambda: certd.create("list", csr(EC_KEYS[0])),
    ):
        with pytest.raises(RequestRefused, match='"list" is a list of ids') as caught:
            change()
        assert caught.value.parameter is None
    assert (certd.files(), path.read_text(), certd.keys.used) == ([], A, 0)


def test_a_list_is_its_members(mine):
    _, certd = mine
    assert certd.read("list") == A.encode()
    certd.put("other", B.encode())
    assert certd.read("list") == (A + B).encode()
    certd.delete("mine")
    assert certd.read("list") == B.encode()
    certd.delete("other")
    assert certd.read("list") is None


def test_a_cycle_is_told_once(tmp_path, caplog):
    certd = Certd(tmp_path, preloaded={"a": ("b", "x"), "b": ("a", "y")})
    certd.put("x", b"X")
    certd.put("y", b"Y")
    assert [certd.read("a"), certd.read("a"), certd.read("b")] == [b"Y\nX", b"Y\nX", b"X\nY"]
    assert [record.args for record in caplog.records] == [("a", "a"), ("b", "b")]


def test_a_reload_is_seen(tmp_path):
    certd = Certd(tmp_path, preloaded={"x": ("y",)})
    certd.put("x", b"own")
    assert certd.read("x") is None
    certd.settings = type(certd.settings)()
    assert certd.read("x") == b"own"


# --- disks that fail ---------------------------------------------------------------------------------


def refusal(work, *args):
    """What the store says; None when it does not."""
    try:
        work(*args)
    except StoreUnavailable as exc:
        return exc
    return None


@pytest.mark.parametrize("preloaded", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_leaves_what_was_there(ram_path, preloaded, error):  # noqa: F811 - the fixture above
    fail_at = 0
    while True:
        fail_at += 1
        root = ram_path / str(fail_at)
        root.mkdir()
        path = root / "mine.pem"
        certd = Certd(root, preloaded={"x": str(path)} if preloaded else {})
        certd.import_("x", A)
        with Disk(fail_at=fail_at, error=error) as disk:
            raised = refusal(certd.import_, "x", B)
        there = sorted(name for _, _, names in os.walk(root) for name in names)
        assert len(there) == 1
        if disk.calls < fail_at:
            break
        assert raised.code == ("disk-full" if error == errno.ENOSPC else "io-error")
        # Only when the very last sync failed it is not known which one a power cut would leave.
        assert certd.read("x") in (A.encode(), B.encode())
    assert certd.read("x") == B.encode()
    assert fail_at > 4


def test_a_full_disk_while_a_certificate_is_issued(ram_path):  # noqa: F811 - the fixture above
    certd = Certd(ram_path, keys=Keys(x=EC_KEYS[0]), rules={"x": IssuanceRule(method="self_signed")})
    with Disk(fail_at=1, error=errno.ENOSPC, lasting=True, only=("fsync",)):
        raised = refusal(certd.create, "x", csr(EC_KEYS[0]))
    assert raised.code == "disk-full"
    assert (certd.files(), certd.read("x")) == ([], None)


@pytest.mark.usefixtures("believed_syncs")
@pytest.mark.parametrize(("lost", "expected"), [(True, {A}), (False, {A, B})])
def test_a_power_cut_leaves_the_one_or_the_other_and_no_litter(ram_path, lost, expected):  # noqa: F811 - the fixture above
    """Whether the kernel had written what it was not asked to, or not."""
    seen = set()
    for cut_at in range(1, 30):
        root = ram_path / str(cut_at)
        certd = Certd(root)
        certd.import_("x", A)
        with Disk(cut_at=cut_at) as disk:
            certd.import_("x", B)
        if not disk.dead:
            break
        if lost:
            disk.lose_unsynced(root)
        seen.add(Certd(root).read("x").decode())
        after = Certd(root)
        after.import_("y", A)
        assert len(after.files()) == 2
    assert not disk.dead
    assert seen == expected


def test_the_file_system_says_no(tmp_path):
    certd = Certd(tmp_path)
    os.makedirs(certd.path("x"))
    with pytest.raises(StoreUnavailable):
        certd.import_("x", A)
    with pytest.raises(StoreUnavailable):
        certd.delete("x")
    assert os.path.isdir(certd.path("x"))


# --- threads -----------------------------------------------------------------------------------------


class Hanging:
    """Reading below certd's home, on a card that hangs until it is freed."""

    def __init__(self):
        self.free = threading.Event()
        self.reading = 0

    def __call__(self, certificate_id):
        assert threading.current_thread() is not threading.main_thread()
        self.reading += 1
        assert self.free.wait(10)
        return b"late"


def test_a_card_that_hangs_keeps_nothing_but_its_readers(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "READS", 2)
    hanging = Hanging()

    async def main():
        files = CertificateFiles(str(tmp_path), hanging, dict)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(files.read, "x")
            await trio.testing.wait_all_tasks_blocked(0.05)
            # The threads of everybody else are free, writers too, and no reader has to be waited for.
            await trio.to_thread.run_sync(lambda: None)
            await files.write("x", b"new")
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    finally:
        hanging.free.set()
    assert hanging.reading == 2


def test_a_writer_gives_up_its_wait_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    free = threading.Event()
    real = store.replace_file

    def slow(path, content):
        assert free.wait(10)
        real(path, content)

    monkeypatch.setattr(store, "replace_file", slow)
    certd = Certd(tmp_path)
    certd.put("x", b"before")

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(certd.certificates.import_certificate, "x", A)
            nursery.start_soon(certd.certificates.import_certificate, "x", A)
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.cancel_scope.cancel()
        assert certd.file("x") == b"before"
        free.set()
        # Comes after what was left behind.
        await certd.certificates.import_certificate("x", B)

    trio.run(main)
    assert certd.file("x") == B.encode()
    assert len(certd.files()) == 1


def test_writers_come_one_after_another(tmp_path, monkeypatch):
    inside = []
    overlaps = []
    real = store.replace_file

    def watched(path, content):
        overlaps.append(len(inside))
        inside.append(path)
        real(path, content)
        inside.pop()

    monkeypatch.setattr(store, "replace_file", watched)
    certd = Certd(tmp_path)

    async def main():
        async with trio.open_nursery() as nursery:
            for text in (A, B) * 5:
                nursery.start_soon(certd.certificates.import_certificate, "x", text)

    trio.run(main)
    assert overlaps == [0] * 10
    assert certd.file("x") in (A.encode(), B.encode())
    assert len(certd.files()) == 1
