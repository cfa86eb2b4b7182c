"""Hooks of a real service: stamps, and what becomes of a command, in log, status and journal."""

import json
import os
import stat

import pytest

from tests.service.device import event_is

ENV, FALSE = os.path.realpath("/usr/bin/env"), os.path.realpath("/usr/bin/false")
pytestmark = pytest.mark.skipif(
    os.stat(ENV).st_uid != 0 or os.stat(FALSE).st_uid != 0, reason="programs of the system are not root's"
)


def stamp(device, kind):
    return json.loads((device.root / "run/aziot/hooks" / kind).read_bytes())


def test_a_renewal_is_told_and_its_command_run(make):
    device = make("hooked")
    device.configure(more=f'[identityd.hooks]\nrenewal = "{ENV}"').start()
    first = device.until_provisioned()
    assert not (device.root / "run/aziot/hooks").exists(), "a first identity is no turn"
    device.attempt("renew")
    device.process.until_line(f"hook renewal: {ENV} ended well")
    told = stamp(device, "renewal")
    status = device.status()
    assert told["serial"] == status["credential"]["serial"] != first["credential"]["serial"]
    assert told["not_after"] == status["credential"]["not_after"]
    assert (told["device_id"], told["hub"]) == ("hooked", device.cloud.hub)
    assert stat.S_IMODE((device.root / "run/aziot/hooks/renewal").stat().st_mode) == 0o644
    assert status["degraded"] == []


def test_a_failure_is_in_status_and_journal_and_stops_nothing(make):
    device = make("hooked")
    device.configure(more=f'[identityd.hooks]\nreprovision = "{FALSE}"').start()
    device.until_provisioned()
    start = device.status()["sequence"]
    device.attempt("reprovision")
    note = f"hook reprovision: {FALSE} exit status 1"
    device.until(lambda status: note in " ".join(status["degraded"]))
    assert stamp(device, "reprovision")["generation"] == device.status()["credential"]["generation"]
    record = device.until_record(event_is("configuration-changed"), start)
    assert any(note in one for one in record["event"]["configuration_notes"])
    # Nothing was held up, and an unchanged configuration has nobody register again.
    assert record["state"] == "Provisioned"
    device.attempt("renew")
    assert device.status()["state"] == "Provisioned"


def test_a_command_that_anybody_could_change_is_not_run(make):
    device = make("hooked")
    program = device.root.parent / "hook"
    program.write_text(f"#!/bin/sh\ntouch {device.root.parent}/ran\n")
    program.chmod(0o777)
    device.configure(more=f'[identityd.hooks]\nrenewal = "{program}"').start()
    device.until_provisioned()
    device.attempt("renew")
    device.until(lambda status: "hook renewal: not run" in " ".join(status["degraded"]))
    assert not (device.root.parent / "ran").exists()
    assert stamp(device, "renewal")["kind"] == "renewal"


def test_what_happened_while_nobody_was_told_is_told_at_the_next_start(make):
    device = make("hooked").start()
    device.until_provisioned()
    device.attempt("renew")
    device.process.until_line("hook renewal: told")
    device.kill()
    told = device.state / "hooks-told.json"
    # As if the power had failed between the commit and the stamp.
    earlier = json.loads(told.read_bytes()) | {"generation": 0, "hub": "elsewhere.example"}
    told.write_text(json.dumps(earlier))
    device.start()
    device.process.until_line("hook renewal: told")
    assert stamp(device, "moved")["previous_hub"] == "elsewhere.example"
