"""A device is held, released, given up and taken up again; killed on the way, nothing of it comes back."""

import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.service.device import REPOSITORY, WITHIN_S, Device, ask, event_is
from tests.service.test_compatible import create_module, identityd, module_key

CERTIFICATE, BUNDLE = "aziot-dps-identity-cert", "aziot-dps-trust-bundle"
KEY_PAIR = f"/keypair/{CERTIFICATE}-key?api-version=2021-05-01"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a purge is for root")


def lines_of(pem: bytes) -> list[bytes]:
    """Of the base64: whatever format a file has, it holds these."""
    return [line for line in pem.split(b"\n") if line and not line.startswith(b"-----")]


def keys_of(device: Device) -> list[bytes]:
    """Every private key of the identity, and the master key of its modules."""
    needles = []
    for path in device.credentials.glob("[0-9]*/key.pem"):
        needles += lines_of(path.read_bytes())
    master = next((device.root / "var/lib/aziot/keyd/keys").glob("aziotidentitydmasterid-*"), None)
    return [*needles, *([] if master is None else [master.read_bytes()])]


def found(device: Device, needles: list[bytes], *, journal: bool = True) -> list[str]:
    """Files of the whole root that hold one of them."""
    assert needles
    paths = [path for path in device.root.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
    return [
        str(path)
        for path in paths
        if journal or not path.name.startswith("journal")
        if any(needle in path.read_bytes() for needle in needles)
    ]


def key_pair(device: Device) -> int:
    """The status with which keyd answers who wants the identity's key."""
    return ask(device.root / "run/aziot/keyd.sock", KEY_PAIR).status


def purge(device: Device, confirm: str = "device") -> tuple[int, str]:
    return device.run("purge", "--confirm", confirm)


def nothing_is_served(device: Device) -> None:
    assert device.certificate(CERTIFICATE).status == 400
    assert device.certificate(BUNDLE).status == 400
    assert key_pair(device) == 400
    answer = identityd(device, "POST", "identities/device", {"type": "aziot"})
    assert answer.status >= 400, answer
    assert "keyHandle" not in answer.body.decode()
    status = device.status()
    assert (status["state"], status["assignment"], status["credential"]) == ("Unprovisioned", None, None)


def nothing_is_left(device: Device, keys: list[bytes], certificate: bytes) -> None:
    assert found(device, keys) == []
    assert found(device, lines_of(certificate), journal=False) == []
    assert sorted(os.listdir(device.credentials)) == ["spare"]
    assert not (device.state / "modules").exists()
    assert device.pair() is None


@pytest.fixture
def lived(make, cloud) -> Device:
    """Registered, renewed, with a trust bundle and a module; it runs."""
    cloud.bundle(cloud.ca_file.read_bytes())
    device: Device = make().start()
    device.until_provisioned()
    device.attempt("renew")
    create_module(device, "telemetry")
    return device


def test_held_refused_released(make):
    device = make().start()
    device.until_provisioned()
    before = device.pair()
    assert device.run("hold")[0] == 0
    assert "on hold" in device.status()["reason"]
    refused = ask(device.control, "/v1/renew", "POST")
    assert (refused.status, refused.json["verdict"]) == (409, "refused")
    assert "release the hold first" in refused.json["message"]
    assert device.run("renew")[0] == 1
    assert device.certificate(CERTIFICATE).json["pem"].encode() == before.chain_pem, "still serving"

    device.stop()
    device.start()
    assert ask(device.control, "/v1/renew", "POST").status == 409, "a restart is no release"
    assert device.run("release")[0] == 0
    assert device.attempt("renew")[-1]["state"] == "Provisioned"
    assert device.pair().generation == before.generation + 1


def test_given_up_and_taken_up_again(lived):
    device = lived
    keys, before = keys_of(device), device.pair()
    assert len(found(device, keys)) >= 2
    module_before = module_key(device, "telemetry")
    assert key_pair(device) == 200

    status, said = purge(device, "another-device")
    assert status == 1
    assert '"another-device" is not this device' in said
    assert '"device"' in said
    assert device.pair() == before, "nothing happened"
    assert device.run("purge")[0] == 2, "nobody there to be asked"
    assert device.pair() == before

    status, said = purge(device)
    assert status == 0, said
    assert "purge done: what the cloud gave this device is erased" in said
    nothing_is_served(device)
    nothing_is_left(device, keys, before.chain_pem)
    assert ask(device.control, "/v1/renew", "POST").status == 409

    device.kill()
    device.start()
    nothing_is_served(device)
    assert purge(device)[0] == 0, "once more does no harm"

    assert device.run("release")[0] == 0
    device.until_provisioned()
    after = device.pair()
    assert after.generation > before.generation, "no number is given out twice"
    assert after.spki != before.spki
    assert device.certificate(BUNDLE).status == 200
    assert create_module(device, "telemetry")
    generation_id, key = module_key(device, "telemetry")
    assert (generation_id, key) != module_before
    assert key != module_before[1], "of another master key"
    assert device.run("replay")[0] == 0


def test_the_page_that_tells_it(make):
    """Its commands, one after the other."""
    page = (REPOSITORY / "docs/how-to/hold-and-purge.md").read_text()
    commands = re.findall(r"^sudo identityd (.+)$", page, re.MULTILINE)
    device = make("press-17").start()
    device.until_provisioned()
    before = device.pair()
    for command in commands:
        assert device.run(*command.split())[0] == 0, command
        if command.startswith("purge"):
            assert device.pair() is None
    assert commands[-1] == "release"
    device.until_provisioned()
    assert device.pair().spki != before.spki


def test_a_person_at_a_terminal_types_the_name(make):
    device = make().start()
    device.until_provisioned()

    def typed(answer: bytes) -> tuple[int, str]:
        person, terminal = pty.openpty()
        try:
            command = [sys.executable, "-m", "adapters", "purge", "--root", str(device.root)]
            os.write(person, answer)
            done = subprocess.run(
                command, stdin=terminal, capture_output=True, text=True, timeout=WITHIN_S, cwd=REPOSITORY
            )
        finally:
            os.close(person)
            os.close(terminal)
        return done.returncode, done.stdout + done.stderr

    status, said = typed(b"yes\n")
    assert (status, device.pair() is None) == (2, False), said
    assert "Type device to go on: " in said
    status, said = typed(b"device\n")
    assert status == 0, said
    assert device.pair() is None


def test_killed_as_soon_as_it_was_asked_for(lived):
    device = lived
    keys, before = keys_of(device), device.pair()
    start = device.status()["sequence"]
    assert device.run("purge", "--confirm", "device", "--no-wait")[0] == 0
    device.until_record(event_is("purge-requested"), start)
    device.kill()
    device.start()
    device.until_record(event_is("credentials-purged"), start)
    nothing_is_served(device)
    nothing_is_left(device, keys, before.chain_pem)


@pytest.fixture
def asked_for_only(lived, place) -> Device:
    """The disk of a device that lost its power between the record of a purge and the first thing erased."""
    device = lived
    assert device.stop() == 0
    copy = place / "copy"
    shutil.copytree(device.root, copy, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    device.start()
    assert purge(device)[0] == 0
    assert device.stop() == 0
    journal = device.journal.read_bytes().splitlines(keepends=True)
    end = next(at for at, line in enumerate(journal, 1) if b'"purge-requested"' in line)
    shutil.rmtree(device.root)
    shutil.move(copy, device.root)
    device.journal.write_bytes(b"".join(journal[:end]))
    assert device.pair() is not None
    return device


def test_the_next_start_erases_what_was_asked_for(asked_for_only):
    device = asked_for_only
    keys, before = keys_of(device), device.pair()
    device.start()
    device.until_record(event_is("credentials-purged"), 1)
    nothing_is_served(device)
    nothing_is_left(device, keys, before.chain_pem)
    assert device.run("release")[0] == 0
    device.until_provisioned()


def test_what_cannot_be_erased_is_not_served_either(asked_for_only):
    device = asked_for_only
    keys = keys_of(device)
    device.credentials.chmod(0o500)
    try:
        device.start(peculiar={"obedient": 1})
        assert len(found(device, keys)) >= 2, "it is all there"
        nothing_is_served(device)
        failed = device.until_record(event_is("credentials-purge-failed"), 1)
        assert failed["event"]["code"] == "permission"
        assert str(device.credentials) in failed["event"]["message"]
        nothing_is_served(device)
        assert "not all could be erased" in json.dumps(device.status()["degraded"])
        assert ask(device.control, "/v1/release", "POST").status == 409
        device.kill()
        device.start(peculiar={"obedient": 1})
        nothing_is_served(device)
    finally:
        device.credentials.chmod(0o700)


def test_the_originals_things_go_and_other_programs_keep_theirs(lived):
    device = lived
    state = device.state
    (state / "device_info").write_text(f'hub_name = "x"\ndevice_id = "{device.name}"\n')
    kept = Path(state, "adopted/keys/old.key")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"a key of the original's")
    keyd = device.root / "run/aziot/keyd.sock"
    body = json.dumps({"keyId": "theirs", "usage": "encrypt", "keyBytes": "c2VjcmV0"}).encode()
    assert ask(keyd, "/key?api-version=2021-05-01", "POST", body).status == 200
    assert purge(device)[0] == 0
    assert not (state / "device_info").exists()
    assert not (state / "adopted").exists()
    assert ask(keyd, f"/key/{quote('theirs')}?api-version=2021-05-01").status == 200
    assert device.config.exists()
