"""A device's life with a real cloud: registered, renewed, reprovisioned; and what IoT Edge asks of it."""

import os
import shutil
import socket
import stat
import subprocess

import pytest

from statemachine.replay import replay_files
from tests.service.device import WITHIN_S, ask, effects_of, event_is, hang_up, wishes

BUNDLE = "aziot-dps-trust-bundle"
CERTIFICATE = "aziot-dps-identity-cert"
LIFETIME_S = 100
RENEW_EARLY = "[identityd.renewal]\nearliest_percent = 1\nlatest_percent = 2"


def test_registered_renewed_by_itself_reprovisioned_by_command(make, cloud):
    cloud.options(cert_lifetime_s=LIFETIME_S)
    device = make().start()
    status = device.until_provisioned()
    assert status["assignment"] == {"hub": cloud.hub, "device_id": "device"}
    assert (
        status["credential"] | {"generation": 1, "source": "issued", "proven": True} == status["credential"]
    )
    assert not status["degraded"]
    assert not status["stuck"]
    first = device.pair()

    # Due at once or within seconds, long before its end; the next one not before a quarter of an hour.
    cloud.options(cert_lifetime_s=1000 * LIFETIME_S)
    device.configure(more=RENEW_EARLY)
    hang_up(device.process)
    renewal = device.until_record(event_is("credential-committed"), status["sequence"] + 1)
    assert (renewal["state"], renewal["event"]["generation"]) == ("Renewing", 2)
    second = device.until_provisioned()
    assert device.pair().generation == second["credential"]["generation"] == 2
    assert device.pair().spki != first.spki, "a fresh key for every renewal"

    records = device.attempt("reprovision")
    assert {record["state"] for record in records[:-1]} <= {"Reprovisioning", "Registering", "Renewing"}
    assert records[-1]["state"] == "Provisioned"
    assert device.status()["credential"]["serial"] == f"{device.pair().leaf.serial_number:x}"
    assert device.stop() == 0

    assert "STOPPED" in device.log
    assert replay_files([("journal", device.journal.read_bytes())]).equal
    assert device.run("replay")[0] == 0


def test_certificate_and_bundle_by_both_paths(make, cloud):
    cloud.bundle(cloud.ca_file.read_bytes())
    device = make().start()
    device.until_provisioned()
    for short in (False, True):
        assert device.certificate(BUNDLE, short=short).json == {"pem": cloud.ca_file.read_text()}
        assert device.certificate(CERTIFICATE, short=short).json["pem"].encode() == device.pair().chain_pem
    missing = device.certificate("no-such-certificate")
    assert missing.status == 400
    assert "not found" in missing.json["message"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_with_curl(make, cloud):
    cloud.bundle(cloud.ca_file.read_bytes())
    device = make().start()
    device.until_provisioned()

    def curl(path, socket):
        command = ["curl", "--silent", "--fail", "--max-time", "30", "--unix-socket", str(socket)]
        return subprocess.run(
            [*command, f"http://localhost{path}"], check=True, capture_output=True, text=True
        ).stdout

    for path in (f"/certificates/{BUNDLE}", f"/{BUNDLE}"):
        assert "BEGIN CERTIFICATE" in curl(f"{path}?api-version=2020-09-01", device.certd)
    assert '"Provisioned"' in curl("/v1/status", device.control)


def test_the_bundle_follows_the_cloud_and_its_configured_name(make, cloud):
    cloud.bundle(cloud.ca_file.read_bytes())
    device = make().start()
    assert device.until_provisioned()["trust_bundle"]["certificates"] == 1

    cloud.faults({"on": "operation", "kind": "bundle", "bundle": "changed"})
    device.attempt("renew")
    assert device.certificate(BUNDLE).json["pem"].count("BEGIN") == 2, "changed: replaced by a renewal"

    cloud.faults({"on": "operation", "kind": "bundle", "bundle": "garbage"})
    assert device.attempt("renew")[-1]["state"] == "Provisioned"
    assert device.certificate(BUNDLE).json["pem"].count("BEGIN") == 2, "unusable: the old one is kept"

    cloud.faults({"on": "operation", "kind": "bundle", "bundle": "absent"})
    device.attempt("renew")
    assert device.certificate(BUNDLE).json["pem"].count("BEGIN") == 2, "absent: a renewal keeps it"

    cloud.faults()
    before = device.status()["sequence"]
    device.configure(top='dps_trust_bundle = "other-bundle"')
    hang_up(device.process)
    device.until_record(event_is("credential-retired"), before + 1)
    assert device.certificate(BUNDLE).status == 400, "renamed: nothing is left under the old id"
    assert device.certificate("other-bundle").json["pem"] == cloud.ca_file.read_text()

    cloud.bundle(b"")
    device.attempt("reprovision")
    assert device.certificate("other-bundle").status == 400, "absent: the operator's word removes it"
    assert device.status()["trust_bundle"] is None
    assert device.pair() is not None


def test_the_words_people_know(provisioned):
    device = provisioned.start()
    device.until_provisioned()
    for program in ("aziotctl", "iotedge"):
        generation = device.pair().generation
        status, said = device.run("system", "reprovision", program=program)
        assert (status, said) == (0, "Successfully reprovisioned with IoT Hub."), program
        assert device.pair().generation > generation
    assert device.run("status")[0] == 0
    status, said = device.run("explain")
    assert status == 0
    assert said.startswith("Provisioned since")
    device.stop()
    assert device.run("status")[0] == 3
    assert device.run("system", "reprovision", program="aziotctl")[0] == 3


def test_rsa_keys_and_the_same_key_for_every_renewal(make):
    device = make().configure(
        identityd="[identityd.keys]\nalgorithm = 'rsa-2048'\n[identityd.renewal]\nrotate_key = false"
    )
    device.start().until_provisioned()
    before = device.pair()
    assert before.leaf.public_key().key_size == 2048
    device.attempt("renew")
    after = device.pair()
    assert (after.generation, after.spki) == (2, before.spki)
    assert after.leaf.serial_number != before.leaf.serial_number


def test_only_the_owner_reads_what_is_kept(provisioned):
    device = provisioned
    device.start()
    for directory, _, names in os.walk(device.root / "var/lib/aziot"):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700 or directory.endswith("aziot"), directory
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path
    assert stat.S_IMODE(device.control.stat().st_mode) == 0o660


def superseded_before_its_end(device, cloud):
    """Renews until a certificate that ends within seconds is superseded while it lives.

    Its generation, and the records of its successor's attempt. On a busy machine an attempt may take longer
    than the certificate lives; the next one lives for longer.
    """
    for lifetime_s in (2, 8, 32):
        cloud.options(cert_lifetime_s=lifetime_s)
        ending = effects_of(device.attempt("renew"), "commit-credential")[-1]["generation"]
        cloud.options(cert_lifetime_s=3600)
        records = device.attempt("renew")
        if ending in effects_of(records, "retire-credential")[-1]["keep"]:
            return ending, records
    raise AssertionError(f"no renewal within half a minute\n{device.log}")


def test_a_superseded_key_goes_when_its_certificate_has_ended(provisioned, cloud):
    """And not before, and no other: the one of an hour stays."""
    device = provisioned.start()
    ending, records = superseded_before_its_end(device, cloud)
    gone = device.until_record(
        lambda record: any(ending not in one["keep"] for one in effects_of([record], "retire-credential")),
        records[-1]["sequence"],
    )
    assert event_is("deadline-passed", name="collect")(gone)
    assert {1, device.pair().generation} <= set(effects_of([gone], "retire-credential")[0]["keep"])
    device.until_record(event_is("credential-retired"), gone["sequence"])
    assert not (device.credentials / str(ending)).exists()
    assert (device.credentials / "1/key.pem").exists()


def test_sighup_takes_a_new_configuration_and_keeps_the_old_for_a_broken_one(provisioned):
    device = provisioned.start()
    device.until_provisioned()
    before = device.pair()
    good = device.config.read_text()

    device.config.write_text("hostname = [\n")
    hang_up(device.process)
    device.process.until_line("configuration not reloaded")
    broken = device.until_record(event_is("configuration-changed"))
    status = device.status()
    assert status["state"] == "Provisioned"
    assert "configuration: not usable, the one before stays" in status["degraded"][0]

    device.config.write_text(good.replace('registration_id = "device"', 'registration_id = "renamed"'))
    hang_up(device.process)
    changed = device.until_record(event_is("configuration-changed"), broken["sequence"] + 1)
    assert changed["state"] == "Reprovisioning"
    device.until_record(event_is("credential-retired"), changed["sequence"])
    after = device.until_provisioned()
    assert after["assignment"]["device_id"] == "renamed"
    assert after["degraded"] == []
    assert device.pair().generation > before.generation
    assert wishes("stage-key")(changed)


def test_the_service_manager_is_told(provisioned):
    """READY when it is, with its status beside it; STOPPING before it stops; nobody else hears of it."""
    device = provisioned
    address = device.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(WITHIN_S)
        manager.bind(str(address))
        device.start(NOTIFY_SOCKET=str(address))
        ready, status = sorted(manager.recv(4096) for _ in range(2))
        assert ready == b"READY=1"
        assert status.startswith(b"STATUS=Provisioned")
        device.stop()
        last = sorted(manager.recv(4096) for _ in range(2))
        assert last[0].startswith(b"STATUS=Provisioned")
        assert b"stopping" in last[0]
        assert last[1] == b"STOPPING=1"


def test_sockets_handed_over_by_systemd(provisioned):
    """They stay as they are: another path, another mode."""
    device = provisioned
    given = device.root / "given.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(given))
        os.chmod(given, 0o600)
        listener.listen()
        device.start(peculiar={"socket": listener.fileno()}, LISTEN_FDNAMES="certd")
    assert (
        ask(given, f"/{CERTIFICATE}?api-version=2020-09-01").json["pem"].encode() == device.pair().chain_pem
    )
    assert stat.S_IMODE(given.stat().st_mode) == 0o600
    assert not device.certd.exists()
    assert device.status()["state"] == "Provisioned"
    device.stop()
    assert given.exists(), "it is systemd's"
