"""Disks that are full, read-only or somebody else's: a clear error, nothing half-written, service goes on."""

import contextlib
import os
import shutil
import subprocess

import pytest

from tests.service.device import ask

ROOT = os.geteuid() == 0
CERTIFICATE = "aziot-dps-identity-cert"


@contextlib.contextmanager
def small_disk(path, kilobytes):
    """A file system of its own; skips where that cannot be had."""
    path.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0755", "tmpfs", str(path)]
    if (
        not ROOT
        or shutil.which("mount") is None
        or subprocess.run(["mount", *options], check=False).returncode
    ):
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path):
    """To the last block."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(65536)):
            pass


def no_leftovers(device):
    found = [path for path in device.root.rglob("*") if path.name.endswith((".new", ".gone", ".begun", "~"))]
    return found == []


def test_a_renewal_fits_on_a_full_disk_and_more_do_when_there_is_room(make, place):
    device = make()
    disk = device.root / "var"
    with small_disk(disk, 6000):
        device.configure(more="[identityd.journal]\nsegment_bytes = 65536\nkeep_bytes = 65536").start()
        device.until_provisioned()
        fill(disk / "ballast")
        # Space for the journal and one generation was allocated ahead.
        assert device.attempt("renew")[-1]["state"] == "Provisioned"
        assert device.pair().generation == 2
        assert device.certificate(CERTIFICATE).json["pem"].encode() == device.pair().chain_pem

        # However long it goes on: certificates are served, what is there stays whole, the reason is told.
        shutil.rmtree(device.credentials / "spare")
        fill(disk / "more-ballast")
        for _ in range(40):
            before = device.pair()
            answer = ask(device.control, "/v1/renew", "POST")
            if answer.status == 503:
                break
            device.until(lambda status: status["phase"] == "Idle" or "unavailable" in str(status["degraded"]))
            if device.pair() == before:
                break
        status = device.status()
        told = str(status["degraded"]) + str(status["attempt"]["last_error"])
        assert device.pair() is not None
        assert device.certificate(CERTIFICATE).status == 200
        if answer.status == 503 or device.pair() == before:
            assert "No space left" in told or "disk" in told

        os.unlink(disk / "ballast")
        os.unlink(disk / "more-ballast")
        device.until(lambda status: "unavailable" not in str(status["degraded"]))
        before = device.pair()
        device.until(lambda status: status["phase"] == "Idle")
        assert device.attempt("renew")[-1]["state"] == "Provisioned"
        assert device.pair().generation > before.generation
        device.stop()
        assert device.reading().problem is None
        assert no_leftovers(device)


def test_started_on_a_full_disk(make):
    device = make()
    disk = device.root / "var"
    with small_disk(disk, 4000):
        device.start().until_provisioned()
        device.stop()
        before = device.pair()
        fill(disk / "ballast")
        device.start()
        assert device.certificate(CERTIFICATE).json["pem"].encode() == before.chain_pem
        assert device.until_provisioned()["credential"]["generation"] == 1
        assert device.attempt("renew")[-1]["state"] == "Provisioned"
        assert device.pair().generation == 2


def test_a_first_start_on_a_full_disk_waits_for_room(make):
    device = make()
    disk = device.root / "var"
    with small_disk(disk, 4000):
        fill(disk / "ballast")
        device.start()
        status = device.status()
        assert "No space left" in str(status["degraded"])
        assert ask(device.control, "/v1/reprovision", "POST").status == 503
        os.unlink(disk / "ballast")
        assert device.until_provisioned()["credential"]["generation"] == 1
        assert device.pair() is not None


def test_read_only(make):
    device = make()
    disk = device.root / "var"
    with small_disk(disk, 4000):
        device.start().until_provisioned()
        device.stop()
        before = device.pair()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        device.start()
        status = device.status()
        assert "Read-only" in str(status["degraded"])
        assert "mount" in str(status["degraded"]), "the fix is named"
        assert status["state"] == "Provisioned"
        assert device.certificate(CERTIFICATE).json["pem"].encode() == before.chain_pem
        answer = ask(device.control, "/v1/renew", "POST")
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "nothing was done" in answer.json["message"]
        code, said = device.run("renew")
        assert code == 1
        assert "journal" in said

        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        device.process.until_line("started ")
        assert device.attempt("renew")[-1]["state"] == "Provisioned"
        assert device.status()["degraded"] == []
        assert device.pair().generation == 2


def test_a_file_size_limit_stands_for_a_broken_disk(make):
    """Every write beyond 12 kB fails: the journal's allowance ends in the middle of a record."""
    device = make()
    device.start(peculiar={"file_bytes": 12_000})
    device.until(lambda status: status["state"] == "Provisioned" or "unavailable" in str(status["degraded"]))
    for _ in range(10):
        answer = ask(device.control, "/v1/renew", "POST")
        if answer.status == 503:
            break
        device.until(lambda status: status["phase"] == "Idle" or "unavailable" in str(status["degraded"]))
    assert answer.status == 503
    assert "journal.jsonl" in answer.json["message"]
    assert "unavailable" in str(device.status()["degraded"])
    before = device.pair()
    if before is not None:
        assert device.certificate(CERTIFICATE).json["pem"].encode() == before.chain_pem
    reading = device.reading()
    assert reading.problem is None, "no half-written line"
    device.kill()
    # On a sound disk it goes on from there.
    device.start()
    assert device.until_provisioned()["degraded"] == []
    assert device.reading().header.epoch == 1
    assert device.pair() is not None


def test_a_state_directory_that_may_not_be_entered(provisioned):
    device = provisioned
    os.chmod(device.state, 0)
    try:
        device.start(ready=False, peculiar={"obedient": 1})
        status = device.process.wait()
        said, device.process = device.process.log, None
    finally:
        os.chmod(device.state, 0o700)
    assert status == 1
    assert str(device.state) in said
    assert "Permission denied" in said
    assert "give the directory and its files to the service's user" in said
    assert "Traceback" not in said


def test_a_permission_lost_while_it_runs(provisioned):
    """The directory of the generations can no longer be written to."""
    device = provisioned
    device.start(peculiar={"obedient": 1}).until_provisioned()
    before = device.pair()
    os.chmod(device.credentials, 0o500)
    try:
        records = device.attempt("renew")
        (failed,) = [record["event"] for record in records if record["event"].get("class")]
        assert (failed["type"], failed["code"]) == ("key-stage-failed", "permission")
        assert str(device.credentials) in failed["message"]
        assert device.pair() == before
        assert records[-1]["state"] == "Provisioned"
        assert device.status()["attempt"]["last_error"]["code"] == "permission"
    finally:
        os.chmod(device.credentials, 0o700)
    assert device.attempt("renew")[-1]["state"] == "Provisioned"
    assert device.pair().generation > before.generation


def test_a_journal_that_may_not_be_read_is_set_aside(provisioned):
    device = provisioned
    before, content = device.pair(), device.journal.read_bytes()
    os.chmod(device.journal, 0)
    device.start(peculiar={"obedient": 1})
    (note,) = device.status()["degraded"]
    assert "Permission denied" in note
    assert device.certificate(CERTIFICATE).json["pem"].encode() == before.chain_pem
    assert device.pair() == before
    aside = device.journal.with_name("journal.jsonl.damaged-1")
    assert str(aside) in note
    aside.chmod(0o600)
    assert aside.read_bytes() == content


def test_nothing_can_be_written_below_the_root(make):
    """A file where a directory must be."""
    device = make()
    (device.root / "var").write_text("in the way")
    device.start(ready=False)
    status = device.process.wait()
    said, device.process = device.process.log, None
    assert status != 0
    assert str(device.root / "var") in said
    assert "Traceback" not in said


@pytest.mark.parametrize("where", ["run", "run/aziot", "run/aziot/control.sock"])
def test_a_socket_that_cannot_be_had(provisioned, where):
    """A file where a directory or a socket must be: told in a line, not as a traceback."""
    device = provisioned
    shutil.rmtree(device.root / "run", ignore_errors=True)
    path = device.root / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    device.start(ready=False)
    status = device.process.wait()
    said, device.process = device.process.log, None
    assert status == 1
    assert str(path) in said
    assert "Traceback" not in said
    assert path.read_text() == "in the way"
