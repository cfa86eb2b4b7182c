"""The package in a clean Debian: installed, serving a real device, removed, purged.

`make deb-test` runs it. systemd is not process 1 there, so the service is started by hand as its user, with
the directories that its unit would make.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.packaging.debian import CONFIG, Root, clean_root, needs_clean_root
from tests.service.device import Cloud, Device, Json, ask

pytestmark = needs_clean_root
AS_SERVICE = ("setpriv", "--reuid=aziotid", "--regid=aziotid", "--init-groups", "--no-new-privs", "--")
STATE = "/var/lib/aziot/identityd"
WITHIN_S = 60.0


class Service:
    """identityd in the root, as its unit would run it."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self.log = root.path("/tmp/identityd.log").open("w+")
        self._process = subprocess.Popen(
            root.command(*AS_SERVICE, "/usr/bin/identityd", "run", "--root", "/"),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin"},
        )

    def until(self, text: str) -> None:
        """A line of its log says so."""
        deadline = time.monotonic() + WITHIN_S
        with open(self.log.name, encoding="utf-8") as log:
            seen = ""
            while text not in seen:
                assert self._process.poll() is None, seen
                assert time.monotonic() < deadline, seen
                seen += log.readline()

    def stop(self) -> None:
        # Its namespace ends with it (--kill-child): that is a power cut, which it has to survive anyway.
        self._process.kill()
        self._process.wait(WITHIN_S)
        self.log.close()


@pytest.fixture(scope="module")
def serving(root: Root, cloud: Cloud) -> Iterator[Service]:
    key = f'value = "{cloud.key}"'
    root.set_up_device(config=CONFIG.format(cloud=cloud, key=key), ca_file=cloud.ca_file)
    # ExecStartPre=, StateDirectory= and the runtime directory of identityd.service.
    root.run("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/identityd.conf")
    for part in ("identityd", "certd", "keyd"):
        root.run("install", "-d", "-m", "0700", "-o", "aziotid", "-g", "aziotid", f"/var/lib/aziot/{part}")
    root.run("install", "-d", "-m", "0755", "-o", "aziotid", "-g", "aziotid", "/run/aziot")
    service = Service(root)
    try:
        service.until("READY")
        yield service
    finally:
        service.stop()


def provisioned(root: Root) -> Json:
    """Its status once it has an identity; what happened instead, when that does not come about."""
    device = Device(root.directory, None)
    device.until_record(lambda record: record["state"] == "Provisioned" and record["phase"] == "Idle")
    return device.status()


def test_it_is_installed_for_the_systems_python(root):
    assert root.run("identityd", "--version").startswith("identityd ")
    assert "1 error" not in root.run("dpkg", "--audit")
    assert root.run("dpkg", "--verify", "identityd") == ""
    assert list(root.path("/usr/lib/identityd").rglob("*.pyc")), "compiled, so that a start is fast"


def test_users_groups_and_units_are_there(root):
    assert set(root.run("id", "-nG", "aziotid").split()) >= {"aziotid", "aziotcs", "aziotks"}
    enabled = root.path("/etc/systemd/system/sockets.target.wants")
    assert {path.name for path in enabled.iterdir()} == {
        f"identityd-{name}.socket" for name in ("certd", "keyd", "identityd", "workload", "control")
    }


def test_the_vendors_names_are_alternatives_and_pass_on(root):
    assert os.readlink(root.path("/usr/bin/aziotctl")) == "/etc/alternatives/aziotctl"
    assert "reprovision" in root.run("aziotctl", "--help")
    vendor = root.path("/usr/bin/iotedge")
    link = os.readlink(vendor)
    vendor.unlink()
    try:
        # As if the vendor's package came later: dpkg puts its file in the link's place.
        vendor.write_text('#!/bin/sh\necho "vendor: $*"\n')
        vendor.chmod(0o755)
        assert root.run("/usr/lib/identityd/bin/iotedge", "list") == "vendor: list\n"
    finally:
        vendor.unlink()
        vendor.symlink_to(link)


def test_the_service_serves_an_identity_as_its_own_user(root, serving):
    status = provisioned(root)
    assert status["assignment"]["device_id"] == "clean-root"
    owner = root.path(STATE).stat()
    assert (owner.st_uid, owner.st_mode & 0o777) == (int(root.run("id", "-u", "aziotid")), 0o700)
    assert root.path("/etc/aziot/config.toml").stat().st_mode & 0o777 == 0o640
    answer = ask(
        root.path("/run/aziot/certd.sock"), "/certificates/aziot-dps-identity-cert?api-version=2020-09-01"
    )
    assert answer.status == 200


def test_check_runs_and_finds_no_error(root, serving):
    provisioned(root)
    said = root.run("identityd", "check", "--output", "json")
    assert '"error"' not in said


def test_a_renewal_leaves_its_stamp(root, serving):
    provisioned(root)
    root.run("identityd", "renew", "--timeout", "60")
    serving.until("hook renewal: told")
    stamp = root.path("/run/aziot/hooks/renewal")
    assert '"device_id":"clean-root"' in stamp.read_text()
    assert stamp.stat().st_mode & 0o777 == 0o644


def test_removal_keeps_the_identity_and_purge_keeps_it_too_unless_told(root, serving):
    provisioned(root)
    serving.stop()
    kept = sorted(path.name for path in root.path(STATE).iterdir())
    root.run("dpkg", "--remove", "identityd")
    assert not root.path("/usr/bin/identityd").exists()
    assert not root.path("/usr/lib/identityd").exists()
    assert not os.path.lexists(root.path("/usr/bin/aziotctl"))
    assert root.path("/etc/default/identityd").exists()
    assert sorted(path.name for path in root.path(STATE).iterdir()) == kept

    assert "identity stays" in root.run("dpkg", "--purge", "identityd")
    assert not root.path("/etc/default/identityd").exists()
    assert not root.path("/run/aziot/hooks").exists()
    assert sorted(path.name for path in root.path(STATE).iterdir()) == kept

    # Installed again, it goes on with the identity it had; then everything goes.
    root.run("dpkg", "--install", "/tmp/identityd.deb")
    root.run("dpkg", "--purge", "identityd", IDENTITYD_PURGE="identity")
    assert not root.path("/var/lib/aziot").exists()
    assert root.path("/etc/aziot/config.toml").exists(), "it is the administrator's"
    assert root.run("dpkg-query", "-W", "-f", "${Package}\n", "identityd", status=1)


def vendors_package(root: Root) -> str:
    """A package of the vendor's name, with tools of the vendor's names."""
    tree = root.path("/tmp/vendor")
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: aziot-identity-service\nVersion: 1.5.0\nArchitecture: all\n"
        "Maintainer: nobody <nobody@localhost>\nDescription: stands in for the vendor's\n"
    )
    (tree / "usr/bin").mkdir(parents=True)
    for tool in ("aziotctl", "iotedge"):
        (tree / f"usr/bin/{tool}").write_text(f"#!/bin/sh\necho vendor {tool}\n")
        (tree / f"usr/bin/{tool}").chmod(0o755)
    root.run("dpkg-deb", "--root-owner-group", "--build", "/tmp/vendor", "/tmp/vendor.deb")
    return "/tmp/vendor.deb"


@pytest.mark.parametrize("first", ["vendor", "ours"])
def test_beside_the_vendors_package_each_keeps_its_own(package, place, first):
    root = Root(clean_root(place / "root"))
    shutil.copy(package, root.path("/tmp/identityd.deb"))
    both = [vendors_package(root), "/tmp/identityd.deb"]
    for deb in both if first == "vendor" else reversed(both):
        root.run("dpkg", "--install", deb)
    for tool in ("aziotctl", "iotedge"):
        assert root.run(tool, "--version") == f"vendor {tool}\n"
        assert root.run(f"/usr/lib/identityd/bin/{tool}", "--version").startswith(f"{tool} ")
        # What ours does not know is passed on.
        assert root.run(f"/usr/lib/identityd/bin/{tool}", "system", "logs") == f"vendor {tool}\n"
    wants = root.path("/etc/systemd/system/sockets.target.wants")
    assert wants.exists() == (first == "ours"), "where the vendor serves, nothing of ours is enabled"
    root.run("dpkg", "--purge", "identityd")
    for tool in ("aziotctl", "iotedge"):
        assert root.run(tool, "--version") == f"vendor {tool}\n"
