"""identityd trust-bundle as people type it, against sockets that answer as the services do."""

import json
import os
import ssl
import stat

import pytest
import trio

from adapters.__main__ import identityd
from adapters.cli import trust_store
from adapters.cli.failure import CommandFailed
from adapters.driving.routes import json_response
from adapters.driving.workload_api import workload_handler
from adapters.errors import StoreUnavailable
from adapters.paths import paths_below
from adapters.wire.http_server import Response, ServerLimits, error_response, serve, unix_listener
from adapters.wire.installed_roots import DEBIAN, RHEL, Manifest, read_manifest
from tests.adapters.roots import root_der, root_id, root_pem

LOCAL, DPS = "aziot-edged-trust-bundle", "our-bundle"
CONFIG = f"""
dps_trust_bundle = "{DPS}"
[provisioning]
source = "none"
"""
LEAF = root_pem("leaf", ca=False)
LEAF_ID = root_id("leaf", ca=False)
A, B, C = (root_id(name) for name in "ABC")


class Certificates:
    def __init__(self):
        self.stored = {}

    async def read_certificate(self, certificate_id):
        await trio.lowlevel.checkpoint()
        found = self.stored.get(certificate_id)
        if isinstance(found, Exception):
            raise found
        return found


class Device:
    """A root with sockets; ``run`` types a command: status, stdout, stderr."""

    def __init__(self, root, capsys):
        self.paths = paths_below(str(root))
        self.root = root
        self.certificates = Certificates()
        self.handlers = {
            self.paths.certd_sock: self._certd,
            self.paths.workload_sock: workload_handler(
                self.certificates, lambda: LOCAL, lambda: DPS, lambda: "manifest"
            ),
        }
        self._capsys = capsys
        (root / DEBIAN.marker).mkdir(parents=True)
        self.configure(CONFIG)

    async def _certd(self, request):
        """As much of certd as is asked here (services.md §4)."""
        directory, _, name = request.path.rpartition("/")
        assert (request.method, directory) == ("GET", "/certificates")
        assert request.query_pairs == [("api-version", "2020-09-01")]
        try:
            pem = await self.certificates.read_certificate(name)
        except StoreUnavailable:
            return error_response(500, "internal error")
        if pem is None:
            return error_response(400, 'parameter "id" has an invalid value\ncaused by: not found')
        return json_response({"pem": pem.decode()})

    def configure(self, text):
        os.makedirs(os.path.dirname(self.paths.config), exist_ok=True)
        with open(self.paths.config, "w") as file:
            file.write(text)

    def bundles(self, *, local=None, dps=None):
        self.certificates.stored = {LOCAL: local, DPS: dps}

    def run(self, *argv):
        async def main():
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for path, handler in self.handlers.items():
                        await nursery.start(serve, [unix_listener(path)], handler, ServerLimits())
                    status = await trio.to_thread.run_sync(
                        identityd, ["--root", str(self.root), "trust-bundle", *argv]
                    )
                    nursery.cancel_scope.cancel()
            return status

        self._capsys.readouterr()
        status = trio.run(main)
        printed = self._capsys.readouterr()
        return status, printed.out, printed.err


@pytest.fixture
def device(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("AZIOT_ROOT", raising=False)
    return Device(tmp_path, capsys)


# --- show --------------------------------------------------------------------------------------------


def test_show(device):
    device.bundles(local=root_pem("A") + root_pem("B"), dps=root_pem("B") + LEAF)
    status, out, err = device.run("show")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "SHA-256           NOT AFTER   FROM        SUBJECT",
        f"{A[:16]}  2040-01-02  local       CN=A",
        f"{B[:16]}  2040-01-02  local, DPS  CN=B",
        f"{LEAF_ID[:16]}  2040-01-02  DPS         CN=leaf",
    ]


def test_show_json(device):
    device.bundles(local=root_pem("A"), dps=root_pem("A") + LEAF)
    status, out, err = device.run("show", "--json")
    assert (status, err) == (0, "")
    common = {"not_after": "2040-01-02T03:04:05Z"}
    assert json.loads(out) == [
        common | {"subject": "CN=A", "sha256": A, "ca": True, "bundles": ["local", "DPS"]},
        common | {"subject": "CN=leaf", "sha256": LEAF_ID, "ca": False, "bundles": ["DPS"]},
    ]


def test_show_nothing(device):
    assert device.run("show") == (0, "no bundle holds a certificate\n", "")
    assert device.run("show", "--json") == (0, "[]\n", "")


def test_show_says_what_is_left_out(device):
    device.bundles(dps=b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n" + root_pem("A"))
    status, out, err = device.run("show")
    assert status == 0
    assert err == 'identityd: trust bundle "DPS": block 1 is not a certificate, and is left out\n'
    assert len(out.splitlines()) == 2


def test_show_a_certificate_that_openssl_reads_and_we_do_not(device):
    # A month that is none: OpenSSL looks at it only when it verifies.
    odd = root_der("A").replace(b"150513030405Z", b"159913030405Z")
    assert odd != root_der("A")
    device.bundles(dps=ssl.DER_cert_to_PEM_cert(odd).encode() + root_pem("B"))
    status, out, err = device.run("show")
    assert (status, err) == (0, "")
    assert [line.split()[1:] for line in out.splitlines()[1:]] == [["DPS"], ["2040-01-02", "DPS", "CN=B"]]
    status, out, _ = device.run("install")
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines()[:2]] == ["added", "skipped, not readable"]


def test_show_needs_no_configuration(device):
    """It may hold a key, and be readable for the service alone."""
    os.unlink(device.paths.config)
    device.certificates.stored = {LOCAL: root_pem("A"), "aziot-dps-trust-bundle": root_pem("B")}
    status, out, err = device.run("show")
    assert status == 0
    assert err == "identityd: the configuration cannot be read; looking under the default ids\n"
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["CN=A", "CN=B"]


def test_show_needs_a_service(device):
    device.handlers = {}
    status, out, err = device.run("show")
    assert (status, out) == (3, "")
    assert err.startswith(f"identityd: no service answers at {device.paths.certd_sock}")


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (Response(200, b"{}"), "answers in a way unknown here"),
        (Response(200, b"\xff"), "answers in a way unknown here"),
        (Response(404, b'{"message":"who is asking?"}'), "who is asking?"),
        (Response(500, b"<html>"), "certd.sock answered 500"),
    ],
)
def test_show_to_a_peer_that_is_another(device, response, told):
    async def handle(request):
        return response

    device.handlers[device.paths.certd_sock] = handle
    status, out, err = device.run("show")
    assert (status, out) == (1, "")
    assert told in err


# --- export ------------------------------------------------------------------------------------------

BOTH = (root_pem("A") + root_pem("B")).decode()


def test_export(device):
    device.bundles(local=root_pem("A"), dps=root_pem("A") + root_pem("B"))
    assert device.run("export") == (0, BOTH, "")
    assert device.run("export", "-") == (0, BOTH, "")
    path = device.root / "roots.pem"
    path.write_text("old")
    assert device.run("export", str(path)) == (0, "", "")
    assert path.read_text() == BOTH
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [one.name for one in device.root.glob("roots.pem*")] == ["roots.pem"]


def test_export_through_a_link(device):
    device.bundles(dps=root_pem("A") + root_pem("B"))
    target, link = device.root / "target.pem", device.root / "link.pem"
    target.write_text("old")
    link.symlink_to(target)
    assert device.run("export", str(link))[0] == 0
    assert link.is_symlink()
    assert target.read_text() == BOTH


def test_export_of_nothing_keeps_the_old_file(device):
    path = device.root / "roots.pem"
    path.write_text("old")
    status, out, err = device.run("export", str(path))
    assert (status, out) == (1, "")
    assert "there is no trust bundle" in err
    assert path.read_text() == "old"


def test_export_only_over_plain_files(device):
    device.bundles(dps=root_pem("A"))
    os.mkfifo(device.root / "fifo")
    for path, told in (
        (device.root / "fifo", "is not a plain file"),
        (device.root, "is not a plain file"),
        (device.root / "missing" / "roots.pem", "make it first"),
    ):
        status, out, err = device.run("export", str(path))
        assert (status, out) == (1, "")
        assert told in err
    assert stat.S_ISFIFO((device.root / "fifo").stat().st_mode)
    assert not (device.root / "missing").exists()


def test_export_needs_a_service(device):
    device.handlers = {}
    status, _, err = device.run("export")
    assert status == 3
    assert "workload.sock" in err


# --- install -----------------------------------------------------------------------------------------


def installed(device):
    return sorted(os.listdir(device.root / DEBIAN.directory))


def test_install_and_again(device):
    device.bundles(local=root_pem("local only"), dps=root_pem("A") + LEAF + root_pem("B"))
    status, out, err = device.run("install")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"added: {A} CN=A",
        f"added: {B} CN=B",
        f"skipped, not a CA certificate: {LEAF_ID} CN=leaf",
        f"the system's update command was not run: this store lies below {device.root}",
    ]
    assert installed(device) == sorted((f"{A}.crt", f"{B}.crt"))
    status, out, err = device.run("install")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"already there: {A} CN=A",
        f"already there: {B} CN=B",
        f"skipped, not a CA certificate: {LEAF_ID} CN=leaf",
        "nothing to change",
    ]


def test_install_json(device):
    device.bundles(dps=root_pem("A") + LEAF)
    status, out, err = device.run("install", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "layout": "debian",
        "root": str(device.root),
        "added": [A],
        "removed": [],
        "kept": [],
        "already_trusted": [],
        "refused": [],
        "left": [],
        "update": "other-root",
        "skipped": [{"sha256": LEAF_ID, "subject": "CN=leaf", "why": "not a CA certificate"}],
        "dry_run": False,
    }


def test_install_follows_the_bundle_to_its_end(device):
    device.bundles(dps=root_pem("A") + root_pem("B"))
    device.run("install")
    device.bundles(dps=root_pem("B") + root_pem("C"))
    status, out, _ = device.run("install")
    assert status == 0
    assert f"removed: {A}\n" in out
    assert installed(device) == sorted((f"{B}.crt", f"{C}.crt"))
    device.bundles()
    status, out, _ = device.run("install")
    assert status == 0
    assert sorted(out.splitlines()[:2]) == sorted((f"removed: {B}", f"removed: {C}"))
    assert not (device.root / DEBIAN.directory).exists()
    assert read_manifest(device.paths.state_dir) == Manifest()


def test_install_dry_run(device):
    device.bundles(dps=root_pem("A"))
    status, out, _ = device.run("install", "--dry-run")
    assert status == 0
    assert out.splitlines()[0] == f"would be added: {A} CN=A"
    assert not (device.root / DEBIAN.directory).exists()
    assert not os.path.exists(device.paths.state_dir)


def test_install_honours_the_list(device):
    device.configure(f'{CONFIG}[identityd.trust_store]\nallow = ["{B.upper()}"]\n')
    device.bundles(dps=root_pem("A") + root_pem("B"))
    status, out, _ = device.run("install")
    assert status == 0
    assert out.splitlines()[:2] == [
        f"added: {B} CN=B",
        f"refused, not in [identityd.trust_store] allow: {A} CN=A",
    ]
    assert installed(device) == [f"{B}.crt"]


def test_install_says_no_when_something_is_left(device):
    device.bundles(dps=root_pem("A"))
    device.run("install")
    path = device.root / DEBIAN.directory / f"{A}.crt"
    path.write_text("changed")
    status, out, err = device.run("install")
    assert status == 1
    assert out == "nothing to change\n"
    assert err == f"left, it is not as it was written here: {path}\n"
    status, out, _ = device.run("install", "--json")
    assert status == 1
    assert [one["path"] for one in json.loads(out)["left"]] == [str(path)]


def test_install_removes_nothing_for_a_bundle_that_cannot_be_read(device):
    device.bundles(dps=root_pem("A"))
    device.run("install")
    for content, told in (
        (b"-----BEGIN CERTIFICATE-----\nMIIB", "holds no certificate that can be read"),
        (StoreUnavailable("the card is gone", code="io-error"), "internal error"),
    ):
        device.bundles(dps=content)
        status, _, err = device.run("install")
        assert status == 1
        assert told in err
        assert installed(device) == [f"{A}.crt"]


def test_install_needs_the_configuration(device):
    """The list in it may forbid what would be installed."""
    device.bundles(dps=root_pem("A"))
    device.configure("provisioning = 1\n")
    status, _, err = device.run("install")
    assert status == 2
    assert "provisioning" in err
    assert not (device.root / DEBIAN.directory).exists()


def test_install_needs_a_store_it_knows(device):
    os.rmdir(device.root / DEBIAN.marker)
    status, _, err = device.run("install")
    assert status == 1
    assert "no trust store known here" in err


def test_install_needs_a_service(device):
    device.handlers = {}
    status, _, err = device.run("install")
    assert status == 3
    assert "certd.sock" in err


def test_install_on_rhel(device):
    os.rmdir(device.root / DEBIAN.marker)
    (device.root / RHEL.marker).mkdir(parents=True)
    device.bundles(dps=root_pem("A"))
    assert device.run("install")[0] == 0
    assert os.listdir(device.root / RHEL.directory) == [f"identityd-{A}.pem"]


def test_install_tells_why_the_command_failed(device, monkeypatch):
    def fail(command):
        raise CommandFailed("update-ca-certificates failed with exit status 1")

    monkeypatch.setattr(trust_store, "SYSTEM_ROOT", str(device.root))
    monkeypatch.setattr(trust_store, "run_command", fail)
    device.bundles(dps=root_pem("A"))
    status, out, err = device.run("install")
    assert (status, out) == (1, "")
    assert err == "identityd: update-ca-certificates failed with exit status 1\n"
    assert read_manifest(device.paths.state_dir).update_due
