"""A device that was the original's: taken over while it is stopped, it goes on, and DPS never hears of it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.service.device import SCOPE_ID, Device, ask

CERTIFICATE, KEY, BUNDLE = "aziot-dps-identity-cert", "aziot-dps-identity-cert-key", "aziot-dps-trust-bundle"


def as_the_original_would_have_it(device: Device, root: Path) -> Path:
    """Its three state directories below ``root``, with what ``device`` was issued, as plain files."""
    state = root / "var/lib/aziot"
    for home in ("identityd", "certd/certs", "keyd/keys"):
        (state / home).mkdir(parents=True, mode=0o700)
    ours = device.root / "var/lib/aziot"
    for home, pattern in (("certd/certs", "*.cer"), ("keyd/keys", "*.key")):
        for path in (ours / home).glob(pattern):
            if path.exists():  # not a name that leads nowhere
                shutil.copyfile(path, state / home / path.name)
    assignment = json.loads((device.credentials / "current/assignment.json").read_text())
    (state / "identityd/device_info").write_text(
        f'hub_name = "{assignment["hub"]}"\nlocal_gateway_hostname = "{assignment["hub"]}"\n'
        f'device_id = "{assignment["device_id"]}"\n'
    )
    (state / "identityd/prev_state").write_text(
        'hostname = "press"\n[provisioning]\nsource = "dps"\n'
        f'global_endpoint = "{device.cloud.endpoint}/"\nscope_id = "{SCOPE_ID}"\n'
        f'[provisioning.attestation]\nmethod = "symmetric_key"\nregistration_id = "{device.name}"\n'
        'symmetric_key = "device-id"\n'
    )
    return root


def registrations(cloud, name: str) -> int:
    """How often it was asked for."""
    return len([one for one in cloud.log() if f"/registrations/{name}/register" in one["path"]])


@pytest.fixture
def left(provisioned, place, cloud):
    """What an installation of the original left of a provisioned device; and the device."""
    cloud.bundle(cloud.ca_file.read_bytes())
    provisioned.start()
    provisioned.attempt("reprovision")
    provisioned.until_provisioned()
    assert provisioned.stop() == 0
    return as_the_original_would_have_it(provisioned, place / "original")


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "from elsewhere"])
def test_it_goes_on_with_what_the_original_was_given(provisioned, left, place, cloud, in_place):
    before = provisioned.pair()
    device = Device(left if in_place else place / "new", cloud, provisioned.name).configure()
    words = () if in_place else ("--from", str(left))
    status, output = device.run("adopt", *words)
    assert status == 0
    assert "goes on as it is, without registering" in output
    status, output = device.run("adopt", "--apply", *words)
    assert (status, "Done." in output) == (0, True)
    assert not device.journal.exists()
    asked = registrations(cloud, device.name)

    device.start()
    try:
        status = device.status()
        assert status["state"] == "Provisioned"
        assert status["degraded"] == [], "nothing was lost, so nothing is said to be"
        assert status["sequence"] == 1
        pair = device.pair()
        assert (pair.generation, pair.chain_pem) == (1, before.chain_pem)
        assert status["trust_bundle"]["certificates"] == 1
        assert device.certificate(CERTIFICATE).json["pem"].encode() == before.chain_pem
        assert device.certificate(BUNDLE).status == 200
        handle = ask(device.root / "run/aziot/keyd.sock", f"/keypair/{KEY}?api-version=2021-05-01")
        assert handle.status == 200
        assert registrations(cloud, device.name) == asked, "DPS was not asked"

        # And it lives on: the next certificate comes in the usual way.
        device.attempt("renew")
        assert device.pair().generation == 2
        assert registrations(cloud, device.name) == asked + 1
    finally:
        device.kill()
    status, output = device.run("adopt", "--apply", *words)
    assert (status, "Nothing to do" in output) == (0, True), output
    # From now on a missing journal is missing.
    device.journal.unlink()
    device.start()
    assert "journal: missing" in str(device.status()["degraded"])
    device.kill()


def test_there_and_back_again(provisioned, left, cloud):
    device = Device(left, cloud, provisioned.name).configure()
    files = [path for path in left.rglob("*") if path.suffix in (".cer", ".key")]
    before = {path: (path.stat().st_mode, path.read_bytes()) for path in files}
    assert device.run("adopt", "--yes")[0] == 0
    device.start()
    try:
        device.attempt("renew")
        status, output = device.run("adopt", "--undo")
        assert (status, "stop it first" in output) == (1, True)
    finally:
        device.stop()
    assert any(path.is_symlink() for path in files)
    status, output = device.run("adopt", "--undo")
    assert (status, "The original can be started again." in output) == (0, True), output
    for path, was in before.items():
        assert not path.is_symlink()
        assert (path.stat().st_mode, path.read_bytes()) == was


def test_an_assignment_made_for_another_scope_serves_while_it_registers(provisioned, left, cloud):
    path = left / "var/lib/aziot/identityd/prev_state"
    path.write_text(path.read_text().replace(SCOPE_ID, "0ne00OTHER"))
    device = Device(left, cloud, provisioned.name).configure()
    status, output = device.run("adopt", "--apply")
    assert (status, "registers at its next start" in output) == (0, True)
    asked = registrations(cloud, device.name)
    device.start()
    try:
        device.until(lambda status: status["state"] == "Provisioned" and device.pair().generation == 2)
        assert registrations(cloud, device.name) == asked + 1
    finally:
        device.kill()


def test_a_journal_that_may_not_be_missing_is_not_missed_after_an_adoption(provisioned, left, cloud):
    device = Device(left, cloud, provisioned.name)
    device.configure(more='[identityd.journal]\nwhen_damaged = "refuse"')
    assert device.run("adopt", "--apply")[0] == 0
    device.start()
    try:
        assert device.status()["state"] == "Provisioned"
    finally:
        device.kill()
