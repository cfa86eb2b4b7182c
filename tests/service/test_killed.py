"""Killed with SIGKILL at chosen places of an attempt, and at random ones: what was begun goes on."""

import pytest

from tests.service import kill_anywhere
from tests.service.device import effects_of, event_is, wishes

STALL = {"kind": "stall"}


def staged_keys(records):
    return [record["event"] for record in records if record["event"]["type"] == "key-staged"]


@pytest.fixture(params=["make", "provisioned"])
def device(request):
    """Without and with a credential to lose."""
    found = request.getfixturevalue(request.param)
    return found() if request.param == "make" else found


def begin(device):
    """Have an attempt under way: a new device registers by itself. The sequence with which it begins."""
    before = device.pair()
    device.start()
    return 1 if before is None else device.command("reprovision")


def check_one_attempt(device, start):
    """Since ``start`` one key was staged, once, and the attempt was one and the same to its end."""
    device.until_provisioned()
    records = [record for record in device.records() if record["sequence"] >= start]
    stages = effects_of(records, "stage-key")
    pair = device.pair()
    assert {stage["generation"] for stage in stages} <= {pair.generation}
    submits = effects_of(records, "submit-registration")
    assert {submit["generation"] for submit in submits} == {pair.generation}
    assert len({submit["attempt"] for submit in submits}) == 1
    assert len({key["spki_sha256"] for key in staged_keys(records)}) == 1
    assert not device.status()["degraded"]
    return records


def test_after_the_key_was_staged(device, cloud):
    before = device.pair()
    cloud.faults({"on": "register"} | STALL)
    start = begin(device)
    device.until_record(lambda record: record["phase"] == "Submitting", start)
    device.kill()
    cloud.faults()
    assert device.pair() == before
    device.start()
    records = check_one_attempt(device, start)
    assert len(effects_of(records, "submit-registration")) == 1, "the same effect, performed again"


def test_while_polling_the_same_operation_goes_on(device, cloud):
    before = device.pair()
    cloud.faults({"on": "operation"} | STALL)
    start = begin(device)
    accepted = device.until_record(event_is("registration-accepted"), start)
    device.until_record(wishes("poll-registration"), accepted["sequence"])
    device.kill()
    cloud.faults()
    assert device.pair() == before
    device.start()
    device.until_provisioned()
    after = [record for record in device.records() if record["sequence"] > accepted["sequence"]]
    operations = {poll["operation_id"] for poll in effects_of(after, "poll-registration")}
    assert operations == {accepted["event"]["operation_id"]}
    assert not effects_of(after, "submit-registration")
    assert not effects_of(after, "stage-key")
    assert device.pair() is not None


def test_while_proving(device, cloud):
    before = device.pair()
    cloud.faults({"on": "hub"} | STALL)
    start = begin(device)
    assigned = device.until_record(event_is("registration-assigned"), start)
    device.kill()
    cloud.faults()
    assert device.pair() == before, "not committed before it was proven"
    device.start()
    device.until_provisioned()
    after = [record for record in device.records() if record["sequence"] > assigned["sequence"]]
    assert not effects_of(after, "submit-registration"), (
        "the chain in the journal is used; the cloud gives it once"
    )
    assert effects_of(after, "commit-credential")[0]["chain_pem"] == assigned["event"]["chain"]["chain_pem"]
    assert device.pair().generation == effects_of(after, "commit-credential")[0]["generation"]


@pytest.mark.parametrize(
    "reached",
    [wishes("commit-credential"), event_is("credential-committed"), event_is("credential-retired")],
    ids=["commit-asked", "committed", "retired"],
)
def test_around_the_commit(device, reached):
    before = device.pair()
    start = begin(device)
    seen = device.until_record(reached, start)
    device.kill()
    after = device.pair()
    if seen["event"]["type"] != "credential-proven":
        assert after is not None
    assert after is not None or before is None
    device.start()
    status = device.until_provisioned()
    final = device.pair()
    assert status["credential"]["generation"] == final.generation
    assert after is None or final.generation >= after.generation
    assert len(device.records()) == device.records()[-1]["sequence"]
    assert not status["degraded"]


@pytest.mark.parametrize(
    ("on", "phase"), [("register", "Submitting"), ("operation", "Polling"), ("hub", "Proving")]
)
def test_asked_to_stop_in_the_middle(provisioned, cloud, on, phase):
    """SIGTERM does not wait for the cloud, and nothing is undone."""
    device = provisioned
    before = device.pair()
    cloud.faults({"on": on} | STALL)
    start = begin(device)
    device.until_record(lambda record: record["phase"] == phase, start)
    assert device.stop() == 0
    assert device.pair() == before
    last = device.records()[-1]
    assert (last["event"]["type"], last["phase"]) == ("shutdown-requested", phase)
    cloud.faults()
    device.start()
    device.until_provisioned()
    after = [record for record in device.records() if record["sequence"] > last["sequence"]]
    assert not effects_of(after, "stage-key"), "the attempt goes on"
    assert not effects_of(after, "submit-registration")
    assert device.pair().generation > before.generation


def test_a_power_cut_of_the_cloud_during_an_attempt(make, cloud):
    """An operation the cloud no longer knows is submitted again with the same key."""
    device = make()
    cloud.faults({"on": "operation", "kind": "operation_vanishes", "times": 1})
    device.start().until_provisioned()
    records = device.records()
    assert [submit["generation"] for submit in effects_of(records, "submit-registration")] == [1, 1]
    assert len(staged_keys(records)) == 1


def test_a_certificate_that_ends_before_the_hub_takes_it_is_not_shown_for_ever(make, cloud):
    """Another one is asked for, although hubs may be late after an assignment."""
    cloud.options(cert_lifetime_s=1)
    cloud.faults({"on": "hub", "kind": "hub_refuses", "code": 401})
    device = make().start()
    first = device.until_record(event_is("registration-assigned"))
    device.until_record(event_is("registration-assigned"), first["sequence"] + 1)
    cloud.options(cert_lifetime_s=3600)
    cloud.faults()
    assert device.until_provisioned()["credential"]["proven"]


def test_a_few_kills_anywhere(capsys):
    assert kill_anywhere.main(["--kills", "6", "--seed", "6"]) == 0, capsys.readouterr()


def test_kills_that_were_not_made_are_no_evidence(capsys):
    assert kill_anywhere.main(["--kills", "1", "--minutes-limit", "0"]) == 1
    assert "only 0 of 1 kills" in capsys.readouterr().err


def lose_the_pointer(device):
    (device.credentials / "current").unlink()
    for directory, kind in (("certd/certs", "cert"), ("keyd/keys", "certkey")):
        assert device.published(directory, kind) is None


def lose_the_key(device):
    (device.credentials / "current" / "key.pem").unlink()


def lose_the_journal(device):
    device.journal.unlink()


def lose_a_record(device):
    *lines, _last = device.journal.read_bytes().splitlines(keepends=True)
    device.journal.write_bytes(b"".join(lines))


def damage_a_record(device):
    device.journal.write_bytes(device.journal.read_bytes().replace(b'"Idle"', b'"idle"', 1))


@pytest.mark.parametrize(
    ("lose", "said"),
    [
        (lose_the_pointer, "was committed, nothing is current"),
        (lose_the_key, "key.pem"),
        (lose_the_journal, "the journal is gone"),
        (lose_a_record, "the journal ends at"),
        (damage_a_record, "journal: "),
    ],
)
def test_a_loss_would_be_seen(provisioned, lose, said):
    witness = kill_anywhere.Witness(provisioned)
    assert witness.look() == "Provisioned"
    lose(provisioned)
    with pytest.raises(kill_anywhere.Lost, match=said):
        witness.look()
