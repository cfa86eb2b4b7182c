"""Which turns in a device's life others are told of, read off snapshots and off recorded journals."""

from pathlib import Path

import pytest
from msgspec import structs

from adapters.driven.hook_turns import Told, told_of, turns
from statemachine.replay import steps_of
from statemachine.snapshot import Assignment, Credential, Snapshot
from statemachine.states import Phase, State

JOURNALS = Path(__file__).parents[1] / "journals"
LIFE = Snapshot(
    state=State.PROVISIONED,
    sequence=40,
    last_unix_ms=1_790_000_000_000,
    reprovisioned_unix_ms=1_000,
    assignment=Assignment(hub="hub.example", device_id="d-1", fingerprint="f"),
    credential=Credential(
        generation=3,
        source="issued",
        sha256="ab",
        serial="7",
        not_before_unix_ms=1_780_000_000_000,
        not_after_unix_ms=1_800_000_000_000,
    ),
)
TOLD = Told(hub="hub.example", device_id="d-1", generation=3, reprovisioned_unix_ms=1_000)


def life(*, hub="hub.example", device_id="d-1", generation=3, reprovisioned=1_000, **more):
    return structs.replace(
        LIFE,
        assignment=structs.replace(LIFE.assignment, hub=hub, device_id=device_id),
        credential=structs.replace(LIFE.credential, generation=generation),
        reprovisioned_unix_ms=reprovisioned,
        **more,
    )


@pytest.mark.parametrize(
    ("snapshot", "kinds"),
    [
        (life(), []),
        (life(generation=4), ["renewal"]),
        (life(generation=2), ["renewal"]),
        (life(reprovisioned=2_000), ["reprovision"]),
        (life(generation=4, reprovisioned=2_000), ["reprovision", "renewal"]),
        (life(hub="other.example"), ["moved"]),
        (life(hub="HUB.example"), []),
        (life(device_id="D-1"), ["moved"]),
        (life(hub="other", generation=9, reprovisioned=2_000), ["moved", "reprovision", "renewal"]),
        # A clock that was set back is no turn.
        (life(reprovisioned=500), []),
        # While a credential is put in place, nobody knows yet what it comes to.
        (life(generation=4, phase=Phase.COMMITTING, state=State.RENEWING), []),
        (life(generation=4, phase=Phase.RETIRING, state=State.RENEWING), []),
        (life(generation=4, phase=Phase.POLLING, state=State.RENEWING), ["renewal"]),
        (Snapshot(), []),
    ],
)
def test_kinds(snapshot, kinds):
    assert [turn.kind for turn in turns(TOLD, snapshot)] == kinds


def test_the_facts_of_a_move():
    moved, _ = turns(TOLD, life(hub="other.example", generation=4))
    assert structs.asdict(moved) == {
        "kind": "moved",
        "sequence": 40,
        "at": "2026-09-21T14:13:20.000Z",
        "hub": "other.example",
        "device_id": "d-1",
        "generation": 4,
        "source": "issued",
        "certificate_id": "aziot-dps-identity-cert",
        "sha256": "ab",
        "serial": "7",
        "not_before": "2026-05-28T20:26:40.000Z",
        "not_after": "2027-01-15T08:00:00.000Z",
        "substatus": None,
        "previous_hub": "hub.example",
        "previous_device_id": "d-1",
    }


def test_a_configured_credential_has_no_certificate_to_tell_of():
    snapshot = structs.replace(
        LIFE,
        credential=Credential(generation=4, source="configured"),
        assignment=structs.replace(LIFE.assignment, substatus="initialAssignment"),
    )
    (turn,) = turns(TOLD, snapshot)
    assert (turn.source, turn.certificate_id, turn.not_after) == ("configured", None, None)
    assert turn.substatus == "initialAssignment"


RENEWED = ["renewal"]
BOTH = ["reprovision", "renewal"]
ALL = ["moved", *BOTH]


@pytest.mark.parametrize(
    ("journal", "kinds"),
    [
        # A first registration is no turn; a certificate that is another one is renewed, whatever the way.
        (
            "register-renew",
            {26: RENEWED, 38: RENEWED, 50: RENEWED, 62: RENEWED, 72: RENEWED, 84: BOTH, 92: RENEWED},
        ),
        ("reprovision-and-restart", {25: ALL, 35: ALL, 46: BOTH, 54: BOTH, 68: RENEWED}),
        ("failures-and-backoff", {72: BOTH}),
        ("manual", {17: BOTH, 28: ALL, 39: ALL, 49: ALL}),
        ("module-keys", {25: RENEWED}),
    ],
)
def test_lives_that_were_recorded(journal, kinds):
    told, seen = None, {}
    for step in steps_of([(journal, (JOURNALS / f"{journal}.jsonl").read_bytes())]):
        now = told_of(step.after)
        if now is None:
            continue
        if told is not None and (happened := turns(told, step.after)):
            seen[step.record.sequence] = [turn.kind for turn in happened]
        told = now
    assert seen == kinds
