"""Journals and configurations that are damaged, foreign, missing or newer: the device serves, and says so."""

import json
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import structs

from statemachine.journal import START, Chain, encode_line, read
from statemachine.replay import replay_files
from tests.service.device import Process, ask, effects_of, event_is, hang_up

CERTIFICATE = "aziot-dps-identity-cert"


@pytest.fixture
def device(provisioned):
    return provisioned


def lines_of(device):
    return device.journal.read_bytes().splitlines(keepends=True)


def rewrite_header(device, **facts):
    """Another header, and every hash after it."""
    chain, last, written = Chain(), START, b""
    for line in lines_of(device):
        value = chain.take(line)
        if not written:
            value = structs.replace(value, **facts)
        content, last = encode_line(value, last)
        written += content
    device.journal.write_bytes(written)


def check_serves(device, before):
    """As before, without asking the cloud for anything."""
    device.start()
    status = device.until_provisioned()
    assert device.pair() == before
    assert device.certificate(CERTIFICATE).json["pem"].encode() == before.chain_pem
    assert not effects_of(device.records(), "submit-registration") or status["sequence"] < 1_000_000
    return status


def test_a_torn_end_is_cut(device):
    before, whole = device.pair(), device.journal.read_bytes()
    last = lines_of(device)[-1]
    device.journal.write_bytes(whole + last[: len(last) // 2])
    status = check_serves(device, before)
    (note,) = status["degraded"]
    assert "torn end" in note
    assert "line " in note
    assert note in device.log
    assert device.reading().header.epoch == 1
    assert device.reading().problem is None
    device.stop()
    assert device.start().status()["degraded"] == [], "said once; nothing is wrong any more"


def flip(device):
    lines = lines_of(device)
    lines[4] = lines[4].replace(b"Registering", b"registering", 1)
    device.journal.write_bytes(b"".join(lines))
    return "line 5"


def zero(device):
    content = device.journal.read_bytes()
    middle = len(content) // 2
    device.journal.write_bytes(content[:middle] + bytes(700) + content[middle + 700 :])
    return "line "


def newer(device):
    rewrite_header(device, format=99)
    return "format 99 is from a newer release"


def empty(device):
    device.journal.write_bytes(b"")
    return "ends before its checkpoint"


def rubbish(device):
    device.journal.write_bytes(b"\x00\xff rubbish\n" * 50)
    return "line 1"


def a_directory(device):
    device.journal.unlink()
    device.journal.mkdir()
    return "not a plain file"


@pytest.mark.parametrize("damage", [flip, zero, newer, empty, rubbish, a_directory])
def test_a_damaged_journal_is_set_aside(device, damage):
    before = device.pair()
    said = damage(device)
    content = device.journal.read_bytes() if device.journal.is_file() else None
    status = check_serves(device, before)
    (note,) = status["degraded"]
    assert said in note
    assert note in device.log
    aside = device.journal.with_name("journal.jsonl.damaged-1")
    assert str(aside) in note
    assert content is None or aside.read_bytes() == content, "untouched"
    reading = device.reading()
    assert reading.problem is None
    assert reading.header.epoch >= 2
    assert reading.header.first_sequence >= 1_000_000
    # Life goes on, in the new epoch.
    assert device.attempt("renew")[-1]["state"] == "Provisioned"
    assert device.pair().generation == before.generation + 1
    device.stop()
    assert replay_files([("journal", device.journal.read_bytes())]).equal


def test_a_missing_journal_is_told(device):
    before = device.pair()
    device.journal.unlink()
    status = check_serves(device, before)
    assert any("journal: missing" in note for note in status["degraded"])
    assert device.reading().header.epoch >= 2


def test_damage_may_be_a_reason_to_refuse(device):
    device.configure(more='[identityd.journal]\nwhen_damaged = "refuse"')
    flip(device)
    before = device.pair()
    device.start()
    status = device.status()
    assert any("journal: unavailable" in note for note in status["degraded"])
    assert ask(device.control, "/v1/renew", "POST").status == 503
    assert device.certificate(CERTIFICATE).json["pem"].encode() == before.chain_pem, "certificates are served"
    assert device.stop() == 0
    assert not list(device.state.glob("*.damaged-*"))


def test_a_journal_of_another_machine_registers_nothing(device):
    before = device.pair()
    rewrite_header(device, machine="0" * 32)
    begun = device.records()[-1]["sequence"]
    device.start()
    status = device.until_provisioned()
    assert status["stuck"]
    assert "another machine" in status["reason"] or "copied image" in status["reason"]
    assert device.pair() == before
    new = [record for record in device.records() if record["sequence"] > begun]
    assert not effects_of(new, "submit-registration")
    # It stays so over a restart, though the journal is now this machine's.
    device.stop()
    device.start()
    assert device.status()["stuck"]
    device.attempt("reprovision")
    status = device.until_provisioned()
    assert not status["stuck"]
    assert device.pair().generation > before.generation


@pytest.mark.parametrize("on", ["register", "operation"])
def test_a_copied_image_does_not_go_on_with_an_attempt_either(make, cloud, on):
    cloud.faults({"on": on, "kind": "stall"})
    device = make("copied").start()
    device.until_record(lambda record: record["phase"] in ("Submitting", "Polling"))
    if on == "operation":
        device.until_record(event_is("registration-accepted"))
    device.kill()
    cloud.faults()
    rewrite_header(device, machine="0" * 32)
    seen = cloud.log()[-1]["sequence"]
    device.start()
    started = device.until_record(
        lambda record: record["event"]["type"] == "started" and record["sequence"] > 1
    )
    assert started["event"]["foreign_machine"]
    assert device.status()["stuck"]
    # A command is taken after everything the start brought about.
    device.command("reprovision")
    device.until_provisioned()
    records = device.records()
    ordered = next(record for record in records if event_is("reprovision-requested")(record))
    between = [one for one in records if started["sequence"] <= one["sequence"] < ordered["sequence"]]
    assert not effects_of(between, "submit-registration")
    assert not any(event_is("registration-accepted")(one) for one in between)
    asked = [entry for entry in cloud.log(seen + 1) if "/copied/" in entry["path"]]
    accepted = [one for one in records if event_is("registration-accepted")(one)]
    registers = [entry for entry in asked if entry["method"] == "PUT"]
    assert len(registers) == len([one for one in accepted if one["sequence"] > ordered["sequence"]])


# --- credentials -------------------------------------------------------------------------------------


def lose_the_certificate(device):
    (device.credentials / "1/chain.pem").unlink()


def lose_the_key(device):
    (device.credentials / "1/key.pem").unlink()


def lose_everything(device):
    shutil.rmtree(device.credentials)


def another_key(device):
    key = device.credentials / "1/key.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


LOSSES = [lose_the_certificate, lose_the_key, lose_everything, another_key]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_credential_lost_while_it_was_down_is_got_again(device, lose):
    last = device.records()[-1]["sequence"]
    lose(device)
    device.start()
    started = device.until_record(event_is("started"), last + 1)
    assert started["state"] == "Reprovisioning"
    device.until_provisioned()
    assert device.pair().generation >= 1
    assert device.certificate(CERTIFICATE).json["pem"].encode() == device.pair().chain_pem


@pytest.mark.parametrize("lose", [lose_the_certificate, lose_everything])
def test_a_credential_lost_while_it_runs_is_noticed_by_whoever_reads_it(device, lose):
    device.start().until_provisioned()
    lose(device)
    answer = device.certificate(CERTIFICATE)
    assert answer.status in (400, 500), answer
    lost = device.until_record(event_is("credential-lost"))
    assert lost["state"] == "Reprovisioning"
    device.until_provisioned()
    assert device.certificate(CERTIFICATE).json["pem"].encode() == device.pair().chain_pem


# --- configuration -----------------------------------------------------------------------------------


def test_a_broken_configuration_at_start_runs_on_the_last_good_one(device):
    before, good = device.pair(), device.config.read_text()
    device.config.write_text(
        good.replace('id_scope = "', 'id_scoop = "').replace("[identityd]", "[identityd")
    )
    status = check_serves(device, before)
    (note,) = [note for note in status["degraded"] if "configuration" in note]
    assert "last good one is in force" in note
    assert str(device.config) in note
    assert str(device.config) in device.log
    assert device.attempt("renew")[-1]["state"] == "Provisioned", (
        "not only serving: the old settings are in force"
    )
    # Mended while it runs.
    device.config.write_text(good)
    hang_up(device.process)
    device.process.until_line("configuration reloaded")


def test_without_a_last_good_one_every_mistake_is_named(make, cloud):
    device = make()
    text = device.config.read_text()
    text = text.replace('id_scope = "', 'id_scope = "!!').replace("https://", "ftp://")
    device.config.write_text(text.replace("backoff_base_sec = 1", "backoff_base_sec = 0\nunknown = 1"))
    device.start(ready=False)
    status = device.process.wait()
    said = device.process.log
    device.process = None
    assert status == 2
    for mistake in ("id_scope", "global_endpoint", "backoff_base_sec", "unknown"):
        assert mistake in said, mistake
    assert cloud.key not in said


def test_no_configuration_at_all(make):
    device = make()
    device.config.unlink()
    device.start(ready=False)
    status = device.process.wait()
    said, device.process = device.process.log, None
    assert status == 2
    assert str(device.config) in said


def test_a_second_one_is_refused_and_told_who_is_there(device):
    device.start()
    second = Process("run", "--root", str(device.root))
    assert second.wait() == 1
    assert str(device.process.pid) in second.log
    assert device.status()["state"] == "Provisioned", "the first one does not mind"
    # The lock goes with its holder, however that ends.
    device.kill()
    device.start()
    assert device.status()["state"] == "Provisioned"


def test_a_socket_path_that_is_too_long(make, place, cloud):
    device = make("d" * 90)
    device.start(ready=False)
    status = device.process.wait()
    said, device.process = device.process.log, None
    assert status == 2
    assert "107" in said


def test_an_old_journal_reads_as_it_was_written(device):
    """What a stop leaves behind is whole, ends with the stop, and is readable with other tools."""
    reading = read(device.journal.read_bytes())
    assert reading.problem is None
    assert reading.records[-1].event.reason == "SIGTERM"
    for line in lines_of(device):
        json.loads(line)
    status, said = device.run("journal", "show")
    assert status == 0
    assert len(said.splitlines()) == len(reading.records)
