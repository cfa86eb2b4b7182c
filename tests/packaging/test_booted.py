"""The package in a booted Debian: systemd starts it, shuts it in, hands it sockets and its key, watches it.

`make deb-test` runs it, where systemd-nspawn can boot a container.
"""

import base64
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.packaging.debian import CONFIG, ROOT, Root, needs_clean_root
from tests.service.device import Cloud

pytestmark = [
    needs_clean_root,
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="no systemd-nspawn"),
]

WITHIN_S = 90
UNITS = "/etc/systemd/system"
DROP_IN = """[Service]
LoadCredential=device-key:/etc/aziot/secrets/device-key
# So that a test need not wait for minutes.
WatchdogSec=3s
RestartSec=100ms
"""
APP = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
HOOKS = '[identityd.hooks]\nrenewal = "/usr/bin/env"\n'


class Machine:
    """A booted container."""

    def __init__(self, root: Root) -> None:
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"@identityd-booted-{os.getpid()}"
        self._notify.bind("\0" + address[1:])
        self._notify.settimeout(WITHIN_S)
        self._log = (root.directory.parent / "boot.log").open("w+b")
        self._nspawn = subprocess.Popen(
            [
                *(
                    "systemd-nspawn",
                    "--quiet",
                    "--boot",
                    "--register=no",
                    "--keep-unit",
                    "--notify-ready=yes",
                ),
                *("--console=pipe", "-D", str(root.directory)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": address},
        )
        self._leader = ""

    def boot(self) -> None:
        """Skips where this kernel or sandbox lets nobody boot a container."""
        try:
            while True:
                told = dict(line.partition("=")[::2] for line in self._notify.recv(4096).decode().split("\n"))
                self._leader = told.get("X_NSPAWN_LEADER_PID", self._leader)
                if told.get("READY") == "1":
                    return
        except TimeoutError:
            self._log.seek(0)
            pytest.skip(f"cannot boot a container here: {self._log.read()[-500:].decode(errors='replace')}")

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self._leader}", "--all", "--", *words]

    def run(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            timeout=WITHIN_S,
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def until_logged(self, unit: str, text: str, times: int = 1) -> None:
        """That many lines of the unit, since the boot, hold the text."""
        follow = subprocess.Popen(
            self.command("journalctl", "--follow", "--lines=all", "--no-pager", "-u", unit),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        timer = threading.Timer(WITHIN_S, follow.kill)
        timer.start()
        assert follow.stdout is not None
        seen: list[str] = []
        try:
            with follow.stdout as lines:
                for line in lines:
                    seen.append(line)
                    times -= text in line
                    if times <= 0:
                        return
        finally:
            timer.cancel()
            follow.kill()
            follow.wait()
        raise AssertionError(f"{unit} never said {text!r}:\n{''.join(seen)}")

    def close(self) -> None:
        self._nspawn.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nspawn.wait(20)
        self._nspawn.kill()
        self._nspawn.wait(WITHIN_S)
        self._notify.close()
        self._log.close()


@pytest.fixture(scope="module")
def machine(root: Root, cloud: Cloud) -> Iterator[Machine]:
    config = CONFIG.format(cloud=cloud, key='uri = "credential:device-key"') + HOOKS
    root.set_up_device(config=config, ca_file=cloud.ca_file)
    secret = root.path("/etc/aziot/secrets/device-key")
    secret.parent.mkdir(mode=0o700)
    secret.write_bytes(base64.b64decode(cloud.key))
    secret.chmod(0o600)
    root.path(f"{UNITS}/identityd.service.d").mkdir()
    root.path(f"{UNITS}/identityd.service.d/test.conf").write_text(DROP_IN)
    root.path(f"{UNITS}/my-app.service").write_text(APP)
    for example in (ROOT / "config/systemd/examples").glob("my-app-renewed.*"):
        shutil.copy(example, root.path(f"{UNITS}/{example.name}"))
    for unit in ("my-app.service", "my-app-renewed.path"):
        root.run("systemctl", "enable", unit)
    booted = Machine(root)
    try:
        booted.boot()
        booted.run("systemctl", "start", "identityd.service")
        booted.until_logged("identityd.service", "state=Provisioned phase=Idle")
        yield booted
    finally:
        booted.close()


def shown(machine: Machine, name: str, unit: str = "identityd.service") -> str:
    return machine.run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def test_it_is_provisioned_from_a_credential_and_says_so(machine):
    assert shown(machine, "StatusText").startswith("Provisioned: ")
    assert shown(machine, "User") == "aziotid"
    assert json.loads(machine.run("identityd", "status", "--json"))["state"] == "Provisioned"
    # The key on disk is root's alone; what the service reads is its own.
    machine.run(
        "setpriv", "--reuid=aziotid", "--clear-groups", "cat", "/etc/aziot/secrets/device-key", status=1
    )


def test_sockets_are_systemds_with_their_groups_and_modes(machine):
    found = machine.run("stat", "--format=%n %U:%G %a", *(f"/run/aziot/{name}.sock" for name in SOCKETS))
    assert dict(line.split(" ", 1) for line in found.splitlines()) == {
        f"/run/aziot/{name}.sock": owner for name, owner in SOCKETS.items()
    }


SOCKETS = {
    "certd": "aziotid:aziotcs 660",
    "control": "aziotid:aziotid 660",
    "identityd": "aziotid:aziotid 660",
    "keyd": "aziotid:aziotks 660",
    "workload": "aziotid:iotedge 666",
}


def test_check_finds_no_error(machine):
    assert " - Error" not in machine.run("identityd", "check")


def test_a_renewal_restarts_the_program_that_waits_for_it(machine):
    before = shown(machine, "MainPID", "my-app.service")
    machine.run("identityd", "renew", "--timeout", "60")
    machine.until_logged("my-app-renewed.service", "Finished")
    assert shown(machine, "MainPID", "my-app.service") != before
    machine.until_logged("identityd.service", "hook renewal: /usr/bin/env ended well")


def test_a_reload_is_waited_for(machine):
    machine.run("systemctl", "reload", "identityd.service")
    assert shown(machine, "ActiveState") == "active"
    machine.until_logged("identityd.service", "configuration reloaded")


def test_a_service_that_hangs_is_started_again_and_keeps_its_identity(machine):
    pid = shown(machine, "MainPID")
    serial = json.loads(machine.run("identityd", "status", "--json"))["credential"]["serial"]
    machine.run("kill", "-STOP", pid)
    machine.until_logged("identityd.service", "Watchdog timeout")
    machine.until_logged("identityd.service", "READY Provisioned")
    assert shown(machine, "MainPID") != pid
    assert json.loads(machine.run("identityd", "status", "--json"))["credential"]["serial"] == serial


def test_a_caller_wakes_a_service_that_was_stopped(machine):
    machine.run("systemctl", "stop", "identityd.service")
    assert json.loads(machine.run("identityd", "status", "--json"))["state"] == "Provisioned"
    assert shown(machine, "ActiveState") == "active"


def on_the_page() -> list[list[str]]:
    """What docs/how-to/install.md has people type on the device, in its order."""
    page = (ROOT / "docs/how-to/install.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page, re.M | re.S)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words[0] == "sudo"]


def test_the_page_as_it_stands(machine, root, package):
    commands = on_the_page()
    assert len(commands) >= 7
    shutil.copy(package, root.path(f"/{package.name}"))
    for words in commands:
        if "apt-get" in words:
            # Nobody is there to be asked.
            words = [*words, "--yes", "--no-install-recommends"]
        machine.run("env", "--chdir=/", "DEBIAN_FRONTEND=noninteractive", *words)
    # The last of them erases everything that is ours.
    assert not root.path("/var/lib/aziot").exists()
    assert not root.path("/usr/bin/identityd").exists()
