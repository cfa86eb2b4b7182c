"""The system's trust store on a made-up root, and what TLS of our own believes of it afterwards."""

import fcntl
import os
import ssl
import stat

import pytest
import trio
import trustme

from adapters.cli import trust_store
from adapters.cli.failure import NO, CommandFailed
from adapters.cli.trust_store import TrustStore, run_command
from adapters.errors import AdapterError
from adapters.wire import installed_roots as wire
from adapters.wire import system_roots
from adapters.wire.http_client import HttpsClient, TlsOptions, client_context
from adapters.wire.installed_roots import DEBIAN, MANIFEST, RHEL, distrusted_roots, read_manifest
from adapters.wire.pem import certificate_blocks, sha256_hex
from tests.adapters.roots import root_id, root_pem
from tests.adapters.tls_peer import Peer, http, replies, server_context

A, B, C = (root_id(name) for name in "ABC")
LAYOUTS = pytest.mark.parametrize("layout", [DEBIAN, RHEL], ids=["debian", "rhel"])


def wanted(names):
    return {root_id(name): root_pem(name) for name in names}


class Device:
    """A root with a trust store, and the system's command as far as it is needed."""

    def __init__(self, root, layout=DEBIAN):
        self.root = root
        self.layout = layout
        self.state = root / "var/lib/aziot/identityd"
        self.directory = root / layout.directory
        self.commands = []
        self.failing = None
        (root / layout.marker).mkdir(parents=True)
        self.state.mkdir(parents=True)

    def file(self, sha256):
        return self.directory / self.layout.file_name(sha256)

    def store(self):
        return TrustStore(str(self.root), str(self.state), run=self.run)

    def run(self, command):
        self.commands.append(tuple(command))
        if self.failing is not None:
            raise self.failing

    def install(self, names="", allow=()):
        return self.store().install(wanted(names), allow)

    def at_slash(self, monkeypatch):
        """Have this root taken for `/`."""
        monkeypatch.setattr(trust_store, "SYSTEM_ROOT", str(self.root))

    def manifest(self):
        return read_manifest(str(self.state))

    def distrusted(self):
        return distrusted_roots(str(self.state), str(self.root))

    def put(self, path, content):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def files(self):
        """Everything below the root, with what a change of any kind would change."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            now = path.lstat()
            found[path] = (now.st_ino, now.st_mtime_ns, now.st_mode, now.st_size)
        return found


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


# --- installing --------------------------------------------------------------------------------------


@LAYOUTS
def test_install_and_again(tmp_path, layout):
    device = Device(tmp_path, layout)
    plan = device.install("AB")
    assert (plan.layout, plan.added, plan.removed, plan.kept) == (layout.name, (A, B), (), ())
    for name in "AB":
        path = device.file(root_id(name))
        assert path.read_bytes() == root_pem(name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(os.listdir(device.directory)) == sorted(map(layout.file_name, (A, B)))
    assert device.manifest().certificates == tuple(sorted((A, B)))
    assert stat.S_IMODE((device.state / MANIFEST).stat().st_mode) == 0o644
    before = device.files()
    plan = device.install("AB")
    assert (plan.added, plan.removed, plan.kept, plan.update) == ((), (), (A, B), "not-needed")
    assert device.files() == before


def test_paths_of_both_families(tmp_path):
    for layout, path in (
        (DEBIAN, f"usr/local/share/ca-certificates/identityd/{A}.crt"),
        (RHEL, f"etc/pki/ca-trust/source/anchors/identityd-{A}.pem"),
    ):
        device = Device(tmp_path / layout.name, layout)
        device.install("A")
        assert (device.root / path).is_file()


def test_the_directory_is_for_everybody_whatever_the_umask(device):
    before = os.umask(0o077)
    try:
        device.install("A")
    finally:
        os.umask(before)
    assert stat.S_IMODE(device.directory.stat().st_mode) == 0o755
    assert stat.S_IMODE(device.file(A).stat().st_mode) == 0o644


@LAYOUTS
def test_what_left_the_bundle_is_removed(tmp_path, layout):
    device = Device(tmp_path, layout)
    device.install("AB")
    plan = device.install("BC")
    assert (plan.added, plan.removed, plan.kept) == ((C,), (A,), (B,))
    assert sorted(os.listdir(device.directory)) == sorted(map(layout.file_name, (B, C)))
    assert device.manifest().certificates == tuple(sorted((B, C)))
    plan = device.install()
    assert set(plan.removed) == {B, C}
    assert device.manifest().certificates == ()
    assert os.path.isdir(device.root / layout.marker)
    assert device.directory.exists() is (layout is RHEL), (
        "an empty directory of ours goes, the system's stays"
    )
    assert device.install().update == "not-needed"


@LAYOUTS
def test_foreign_files_are_not_touched(tmp_path, layout):
    device = Device(tmp_path, layout)
    foreign = [
        device.put(f"{layout.directory}/{name}", content)
        for name, content in (
            ("corporate.crt", root_pem("corporate")),
            ("identityd-x.pem", root_pem("odd name")),
            (layout.file_name(root_id("lost")), root_pem("lost")),
            (f"{'0' * 64}.crt", b"not even a certificate"),
        )
    ]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in foreign}
    device.install("A")
    device.install("B")
    device.install()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in foreign} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"# note\n" + path.read_bytes()),
        lambda path: path.write_bytes(root_pem("other")),
        lambda path: path.write_bytes(path.read_bytes() * 2),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"x" * 600_000),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.rename(f"{path}.moved"), path.symlink_to(f"{path}.moved")),
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
    ],
    ids=["note", "other", "twice", "empty", "huge", "directory", "fifo", "link", "dangling"],
)
@pytest.mark.parametrize("names", ["AB", "B"], ids=["wanted", "unwanted"])
def test_what_somebody_changed_is_left_and_told(device, change, names):
    device.install("AB")
    change(device.file(A))
    before = device.files()
    for _ in range(2):
        plan = device.install(names)
        assert [(one.sha256, one.path) for one in plan.left] == [(A, str(device.file(A)))]
        assert (plan.added, plan.removed, plan.kept) == ((), (), (B,))
        assert device.files() == before
    assert A in device.distrusted(), "it may be in the store still"


def test_a_link_planted_where_a_file_of_ours_goes_is_not_written_through(device):
    victim = device.put("victim", b"precious")
    device.directory.mkdir()
    device.file(A).symlink_to(victim)
    plan = device.install("AB")
    assert [one.sha256 for one in plan.left] == [A]
    assert plan.added == (B,)
    assert victim.read_bytes() == b"precious"
    assert device.manifest().certificates == (B,)


def test_a_link_planted_under_the_unfinished_name_is_not_written_through(device):
    victim = device.put("victim", b"precious")
    device.directory.mkdir()
    (device.directory / f"{A}.crt.new").symlink_to(victim)
    with pytest.raises(CommandFailed, match="identityd"):
        device.install("A")
    assert victim.read_bytes() == b"precious"


@LAYOUTS
def test_a_link_planted_for_the_directory_is_refused(tmp_path, layout):
    device = Device(tmp_path, layout)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if device.directory.exists():
        device.directory.rmdir()
    device.directory.symlink_to(elsewhere)
    if layout is RHEL:
        # The marker is the directory itself: a system that links it does so on purpose, but not for us.
        device.put("elsewhere/keep", b"")
    with pytest.raises(CommandFailed, match="is not a directory; move it away"):
        device.install("A")
    assert [one for one in os.listdir(elsewhere) if one != "keep"] == []
    assert device.manifest().certificates == ()


def test_a_deleted_file_is_put_back(device):
    device.install("AB")
    device.file(A).unlink()
    plan = device.install("AB")
    assert (plan.added, plan.kept) == ((A,), (B,))
    assert device.file(A).read_bytes() == root_pem("A")


def test_after_a_lost_manifest_what_is_wanted_is_ours_again(device):
    device.install("AB")
    (device.state / MANIFEST).unlink()
    plan = device.install("A")
    assert (plan.added, plan.kept, plan.update) == ((), (A,), "not-needed")
    assert device.manifest().certificates == (A,)
    assert device.file(B).exists(), "nobody can say that it was ours"
    assert device.distrusted() == {A, B}, "but nobody believes it either"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version":2}', b'{"certificates":["../../etc/passwd"]}', b"\xff"]
)
def test_a_damaged_manifest_is_told(device, content):
    device.install("A")
    before = device.put(f"var/lib/aziot/identityd/{MANIFEST}", content).read_bytes()
    with pytest.raises(CommandFailed, match="is damaged"):
        device.install("B")
    assert (device.state / MANIFEST).read_bytes() == before
    assert device.distrusted() == {A}


def test_the_operators_list(device):
    plan = device.install("ABC", allow={B})
    assert (plan.added, plan.refused, plan.left) == ((B,), (A, C), ())
    plan = device.install("ABC", allow={C})
    assert (plan.added, plan.removed, plan.refused) == ((C,), (B,), (A, B))
    assert os.listdir(device.directory) == [f"{C}.crt"]


def test_a_dry_run_changes_nothing(device):
    before = device.files()
    plan = device.store().plan(wanted("AB"), ())
    assert (plan.added, plan.update) == ((A, B), "other-root")
    assert device.files() == before
    device.install("A")
    before = device.files()
    plan = device.store().plan(wanted("B"), ())
    assert (plan.added, plan.removed) == ((B,), (A,))
    assert device.files() == before


def test_no_layout(tmp_path):
    with pytest.raises(CommandFailed) as caught:
        TrustStore(str(tmp_path), str(tmp_path))
    assert caught.value.status == NO
    assert "usr/local/share/ca-certificates" in caught.value.message
    assert "etc/pki/ca-trust/source/anchors" in caught.value.message


def test_two_at_once(device):
    handle = os.open(device.root / DEBIAN.marker, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(CommandFailed, match="another"):
            device.install("A")
    finally:
        os.close(handle)
    assert device.install("A").added == (A,)


# --- what the system trusts by itself ----------------------------------------------------------------

BY_ITSELF = {
    "distribution": {
        "etc/ca-certificates.conf": b"# list\nmozilla/A.crt\n",
        "usr/share/ca-certificates/mozilla/A.crt": root_pem("A"),
    },
    "operator": {"usr/local/share/ca-certificates/corporate/a.crt": root_pem("A")},
    "beside ours": {"usr/local/share/ca-certificates/identityd/corporate.crt": root_pem("A")},
    "combined": {"etc/ssl/certs/ca-certificates.crt": root_pem("B") + root_pem("A")},
}
NOT_BY_ITSELF = {
    "deselected": {
        "etc/ca-certificates.conf": b"!mozilla/A.crt\n#mozilla/A.crt\nmozilla/\0A.crt\n\xff\n",
        "usr/share/ca-certificates/mozilla/A.crt": root_pem("A"),
        "usr/share/ca-certificates/!mozilla/A.crt": root_pem("A"),
    },
    "not listed": {"usr/share/ca-certificates/mozilla/A.crt": root_pem("A")},
    "not a name the system takes": {"usr/local/share/ca-certificates/a.pem": root_pem("A")},
    "unreadable": {"usr/local/share/ca-certificates/a.crt": root_pem("A")[:-60]},
}


@pytest.mark.parametrize("files", BY_ITSELF.values(), ids=BY_ITSELF)
def test_what_the_system_trusts_already_is_not_installed(device, files):
    for path, content in files.items():
        device.put(path, content)
    plan = device.install("AC")
    assert (plan.added, plan.already_trusted) == ((C,), (A,))
    assert device.manifest().certificates == (C,)
    assert device.distrusted() == {C}


@pytest.mark.parametrize("files", NOT_BY_ITSELF.values(), ids=NOT_BY_ITSELF)
def test_what_it_does_not_trust_is(device, files):
    for path, content in files.items():
        device.put(path, content)
    plan = device.install("A")
    assert (plan.added, plan.already_trusted) == ((A,), ())
    assert device.distrusted() == {A}


def test_what_we_installed_is_not_the_systems_own(device):
    """Neither in the combined file nor among the sources: it would be believed after the second run."""
    device.install("AB")
    device.put("etc/ssl/certs/ca-certificates.crt", root_pem("A") + root_pem("B"))
    plan = device.install("AB")
    assert (plan.already_trusted, plan.kept) == ((), (A, B))
    assert device.distrusted() == {A, B}


@LAYOUTS
def test_a_half_written_file_of_ours_is_not_the_systems_own(tmp_path, layout):
    """update-ca-trust takes every file in its directory."""
    device = Device(tmp_path, layout)
    device.install("A")
    half = device.put(f"{layout.directory}/{layout.file_name(B)}.new", root_pem("B"))
    assert device.distrusted() == {A, B}
    device.install("AB")
    assert not half.exists()


def test_on_rhel_the_combined_file_says_what_is_trusted_before(tmp_path):
    device = Device(tmp_path, RHEL)
    device.put(RHEL.combined, root_pem("A"))
    device.put("usr/share/pki/ca-trust-source/anchors/vendor", root_pem("B"))
    plan = device.install("ABC")
    assert (plan.added, plan.already_trusted) == ((C,), (A, B))


def test_a_root_that_a_distribution_brings_later_is_believed_and_no_longer_ours(device):
    device.install("AB")
    assert device.distrusted() == {A, B}
    device.put("usr/share/ca-certificates/mozilla/A.crt", root_pem("A"))
    device.put("etc/ca-certificates.conf", b"mozilla/A.crt\n")
    assert device.distrusted() == {B}
    plan = device.install("AB")
    assert (plan.removed, plan.already_trusted, plan.kept) == ((A,), (A,), (B,))


# --- the system's command ----------------------------------------------------------------------------


def test_the_command_runs_only_for_the_systems_own_root(device):
    plan = device.install("A")
    assert plan.update == "other-root"
    assert device.commands == []
    assert device.manifest().update_due is False


@LAYOUTS
def test_the_command_runs_when_something_changed(tmp_path, monkeypatch, layout):
    device = Device(tmp_path, layout)
    device.at_slash(monkeypatch)
    assert device.install("A").update == "run"
    assert device.install("A").update == "not-needed"
    assert device.install("").update == "run"
    assert device.install("").update == "not-needed"
    assert device.commands == [layout.update] * 2


def test_a_deleted_file_that_is_not_wanted_has_the_command_run_before_it_is_believed(device, monkeypatch):
    device.at_slash(monkeypatch)
    device.install("AB")
    device.file(A).unlink()
    assert device.install("B").update == "run"
    assert device.manifest().certificates == (B,)
    assert len(device.commands) == 2


def test_what_the_command_did_not_take_in_stays_due_and_disbelieved(device, monkeypatch):
    device.at_slash(monkeypatch)
    device.install("A")
    device.failing = CommandFailed("update-ca-certificates failed")
    for _ in range(2):
        with pytest.raises(CommandFailed, match="failed"):
            device.install("B")
        assert device.manifest().update_due
        # A is gone from its directory, but what programs load still holds it.
        assert device.distrusted() == {A, B}
    device.failing = None
    plan = device.install("B")
    assert (plan.added, plan.kept, plan.update) == ((), (B,), "run")
    assert device.manifest().certificates == (B,)
    assert device.manifest().update_due is False
    assert device.distrusted() == {B}


def test_the_manifest_is_there_before_the_first_file(device, monkeypatch):
    seen = []
    real = trust_store.replace_file

    def watched(path, content, *, mode):
        seen.append((os.path.basename(path), device.manifest().certificates))
        real(path, content, mode=mode)

    monkeypatch.setattr(trust_store, "replace_file", watched)
    device.install("A")
    assert seen[0] == (MANIFEST, ())
    assert seen[1] == (f"{A}.crt", (A,))


def test_a_full_disk_is_healed_by_the_next_run(device, monkeypatch):
    real = trust_store.replace_file

    def full(path, content, *, mode):
        if B in path:
            raise OSError(28, "No space left on device", path)
        real(path, content, mode=mode)

    monkeypatch.setattr(trust_store, "replace_file", full)
    with pytest.raises(CommandFailed, match="No space left on device"):
        device.install("AB")
    assert device.distrusted() == {A, B}
    monkeypatch.setattr(trust_store, "replace_file", real)
    plan = device.install("AB")
    assert (plan.added, plan.kept) == ((B,), (A,))
    assert device.manifest().update_due is False


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 0", None),
        ("echo broken store >&2; exit 3", "exit status 3: broken store"),
        ("exit 1", "exit status 1: no word"),
        ("kill -9 $$", "exit status -9"),
    ],
)
def test_running_a_command(script, told):
    if told is None:
        run_command(("/bin/sh", "-c", script))
        return
    with pytest.raises(CommandFailed) as caught:
        run_command(("/bin/sh", "-c", script))
    assert told in caught.value.message
    assert "again" in caught.value.message


def test_a_command_that_is_not_there_or_does_not_end(monkeypatch):
    with pytest.raises(CommandFailed, match="cannot be run: No such file"):
        run_command(("/nonexistent/update-ca-certificates",))
    monkeypatch.setattr(trust_store, "UPDATE_WITHIN_S", 0.05)
    with pytest.raises(CommandFailed, match="did not end within"):
        run_command(("/bin/sleep", "60"))


# --- TLS of our own ----------------------------------------------------------------------------------

CA = trustme.CA()
SERVER = CA.issue_cert("localhost")
ROOT = CA.cert_pem.bytes()
(ROOT_DER,) = certificate_blocks(ROOT)
ROOT_ID = sha256_hex(ROOT_DER)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """OpenSSL's file and directory, where a test puts what it likes."""
    (tmp_path / "certs").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certs"))
    (tmp_path / "system.pem").write_bytes(root_pem("A"))
    return tmp_path


def connects(options):
    """None, or the code of the refusal."""
    peer = Peer(replies(http(200)), server_context(SERVER))

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            client = HttpsClient(options, environ={})
            try:
                await client.request("GET", f"https://localhost:{peer.port}/", timeout_s=5)
                return None
            except AdapterError as exc:
                return exc.code
            finally:
                await client.aclose()
                nursery.cancel_scope.cancel()

    return trio.run(main)


def loaded(options):
    """Hex SHA-256 of the CA certificates that are believed."""
    return {sha256_hex(der) for der in client_context(options).get_ca_certs(binary_form=True)}


def test_an_installed_root_is_not_believed(system, tmp_path):
    """The whole way: installed, taken in by the system, and then a server under it answers."""
    device = Device(tmp_path / "device")
    device.store().install({ROOT_ID: ssl.DER_cert_to_PEM_cert(ROOT_DER).encode()}, ())
    (system / "system.pem").write_bytes(root_pem("A") + ROOT)
    assert connects(TlsOptions()) is None, "else the store below proves nothing"
    distrust = device.distrusted()
    assert distrust == {ROOT_ID}
    assert connects(TlsOptions(distrust=distrust)) == "tls-untrusted"
    (system / "ca.pem").write_bytes(ROOT)
    assert connects(TlsOptions(distrust=distrust, ca_file=str(system / "ca.pem"))) is None
    device.install("")
    assert connects(TlsOptions(distrust=device.distrusted())) is None


def test_nor_one_in_a_directory(system):
    (system / "certs" / "0123abcd.0").write_bytes(ROOT)
    assert connects(TlsOptions(distrust=frozenset({B}))) is None
    assert connects(TlsOptions(distrust=frozenset({ROOT_ID}))) == "tls-untrusted"


def test_everything_else_is_loaded(system):
    (system / "system.pem").write_bytes(root_pem("A") + b"junk\n" + root_pem("B") + root_pem("A"))
    (system / "certs" / "0123abcd.0").write_bytes(root_pem("C"))
    (system / "certs" / "fedcba98.11").write_bytes(root_pem("B"))
    (system / "certs" / "unhashed.pem").write_bytes(root_pem("D"))
    assert loaded(TlsOptions(distrust=frozenset({B}))) == {A, C}


def test_changes_of_the_store_are_seen(system):
    options = TlsOptions(distrust=frozenset({B}))
    assert loaded(options) == {A}
    (system / "system.pem").write_bytes(root_pem("C"))
    assert loaded(options) == {C}
    (system / "certs" / "0123abcd.0").write_bytes(root_pem("A"))
    assert loaded(options) == {A, C}
    assert loaded(TlsOptions(distrust=frozenset({A}))) == {C}
    (system / "system.pem").unlink()
    assert loaded(options) == {A}


def test_an_unchanged_store_is_read_once(system, monkeypatch):
    read = []
    real = system_roots.read_bounded
    monkeypatch.setattr(
        system_roots, "read_bounded", lambda path, limit: read.append(path) or real(path, limit)
    )
    options = TlsOptions(distrust=frozenset({B}))
    for _ in range(3):
        assert loaded(options) == {A}
    assert read == [str(system / "system.pem")]


def test_what_cannot_be_read_is_left_out(system):
    (system / "system.pem").write_bytes(
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n" + root_pem("A")
    )
    os.mkfifo(system / "certs" / "0123abcd.0")
    (system / "certs" / "0123abcd.1").mkdir()
    assert loaded(TlsOptions(distrust=frozenset({B}))) == {A}


def test_no_store_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'none'}:{tmp_path / 'nor this'}")
    assert loaded(TlsOptions(distrust=frozenset({B}))) == set()


def test_directories_are_a_list(system, monkeypatch):
    other = system / "other"
    other.mkdir()
    (other / "0123abcd.0").write_bytes(root_pem("C"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{system / 'certs'}:{other}")
    assert loaded(TlsOptions(distrust=frozenset({B}))) == {A, C}


def test_nothing_to_disbelieve_leaves_loading_to_openssl(system, monkeypatch):
    monkeypatch.setattr(system_roots, "read_bounded", lambda path, limit: pytest.fail("was read by hand"))
    assert loaded(TlsOptions()) == {A}


def test_asking_again_reads_nothing(device, monkeypatch):
    device.install("A")
    assert device.distrusted() == {A}
    monkeypatch.setattr(wire, "read_bounded", lambda path, limit: pytest.fail("was read again"))
    assert device.distrusted() == {A}


def test_a_service_with_a_root_of_its_own_keeps_what_the_machine_trusts(device, monkeypatch, tmp_path):
    """OpenSSL loads the machine's store, so the machine's own sources count."""
    machine = Device(tmp_path / "machine")
    machine.put("usr/share/ca-certificates/mozilla/A.crt", root_pem("A"))
    machine.put("etc/ca-certificates.conf", b"mozilla/A.crt\n")
    monkeypatch.setattr(wire, "SYSTEM_ROOT", str(machine.root))
    device.install("AB")
    assert device.distrusted() == {B}
