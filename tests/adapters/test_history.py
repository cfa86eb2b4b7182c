"""A device's life put together from its records."""

from pathlib import Path

import msgspec
import pytest

from adapters.cli.history import Historian, leaps
from statemachine.effects import CommitCredential, SubmitRegistration
from statemachine.events import (
    ClockObserved,
    ConfigurationChanged,
    CredentialCommitted,
    CredentialLost,
    CredentialProofFailed,
    CredentialProven,
    CredentialRetired,
    DeadlinePassed,
    KeyStaged,
    ModuleKeysPushFailed,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
)
from statemachine.journal import read
from statemachine.settings import PolicySettings
from statemachine.snapshot import Attempt, Credential, Snapshot
from statemachine.states import Phase, State
from tests.adapters.journal_writer import DAY, START, Writer, chain, started, stored

JOURNALS = Path(__file__).parents[1] / "journals"
RECORDED = JOURNALS / "recorded-0.1.0"


def told(writer):
    historian = Historian()
    historian.begin(writer.snapshot)
    moved = leaps(writer.records)
    for record in writer.records:
        historian.take(record, moved.get(record.sequence, 0))
    return historian


def history_of(path):
    reading = read(path.read_bytes())
    writer = Writer(reading.snapshot)
    writer.records = list(reading.records)
    return told(writer)


def commit(generation, *, issued=True):
    return CommitCredential(
        generation=generation,
        hub="hub.test",
        device_id="dev-1",
        fingerprint="f",
        chain_pem=b"x" if issued else None,
        bundle_id="b",
    )


def assigned(begins, ends, serial="1f", **facts):
    return RegistrationAssigned(
        answers="1.1.0",
        assigned_hub="hub.test",
        device_id="dev-1",
        chain=chain(begins, ends, serial),
        **facts,
    )


def failed(code="unreachable", kind=RegistrationFailed, **facts):
    return kind(answers="1.1.0", failure_class="retry", code=code, message="no", **facts)


def register(writer, at, generation, life, *, state="Registering", attempt=1):
    """A whole attempt that ends well; ten milliseconds a step."""
    writer.say(
        at,
        KeyStaged(answers="1.1.0", generation=generation, spki_sha256="0"),
        SubmitRegistration(attempt=attempt, generation=generation),
        state=state,
        phase="Submitting",
    )
    writer.say(at + 10, assigned(*life, f"{generation:x}"), state=state, phase="Proving")
    writer.say(
        at + 20,
        CredentialProven(answers="1.1.0", generation=generation),
        commit(generation),
        state=state,
        phase="Committing",
    )
    writer.say(
        at + 30,
        CredentialCommitted(answers="1.1.0", generation=generation, draw_ppm=500_000),
        state=state,
        phase="Retiring",
    )
    writer.say(at + 40, CredentialRetired(answers="1.1.0"))


# --- what real services have recorded ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "attempts", "certificates", "outages", "down"),
    [
        ("first-start.jsonl", ["registration succeeded"], 1, [], 0),
        ("renewal.jsonl", ["registration succeeded", *["renewal succeeded"] * 2], 3, [], 0),
        (
            "outage-past-expiry.jsonl",
            ["registration succeeded", *["renewal failed"] * 4, "reprovisioning succeeded"],
            2,
            ["DPS"],
            0,
        ),
        ("crash-polling.jsonl", ["registration succeeded"], 1, [], 1),
        ("crash-committing.jsonl", ["registration succeeded"], 1, [], 1),
        ("hub-refusal.jsonl", ["registration succeeded", "reprovisioning succeeded"], 2, [], 0),
        (
            "operator-reprovision.jsonl",
            ["registration succeeded", *["reprovisioning succeeded"] * 2],
            3,
            [],
            0,
        ),
    ],
)
def test_recorded_lives(name, attempts, certificates, outages, down):
    (section,) = history_of(RECORDED / name).sections
    assert [f"{one.kind} {one.result}" for one in section.attempts] == attempts
    assert [one.generation for one in section.certificates] == list(range(1, certificates + 1))
    assert [one.what for one in section.outages] == outages
    assert len(section.down) == down
    assert section.states[-1].what == "Provisioned"
    assert section.states[-1].until_unix_ms is None


@pytest.mark.parametrize(
    "path", sorted([*JOURNALS.glob("*.jsonl"), *RECORDED.glob("*.jsonl")]), ids=lambda p: p.name
)
def test_every_history_is_whole(path):
    """Stretches follow each other without gap; everything lies inside its section."""
    historian = history_of(path)
    for section in historian.sections:
        for before, after in zip(section.states, section.states[1:], strict=False):
            assert before.until_unix_ms == after.from_unix_ms
            assert before.what != after.what
        for some in (section.states, section.attempts, section.outages, section.down):
            for one in some:
                until = section.until_unix_ms if one.until_unix_ms is None else one.until_unix_ms
                assert section.from_unix_ms <= one.from_unix_ms <= until <= section.until_unix_ms
        for attempt in section.attempts:
            for phase in attempt.phases:
                assert attempt.from_unix_ms <= phase.from_unix_ms
            assert (attempt.result == "running") == (attempt.until_unix_ms is None)
        for certificate in section.certificates:
            assert certificate.opens_unix_ms <= certificate.due_unix_ms <= certificate.closes_unix_ms
            assert certificate.begins_unix_ms <= certificate.opens_unix_ms
            assert certificate.closes_unix_ms <= certificate.ends_unix_ms
        for one in (*section.certificates[:-1], *section.states[:-1]):
            assert one.until_unix_ms is not None, "only the last of them goes on"


# --- certificates ------------------------------------------------------------------------------------


def test_the_window_and_the_draw_are_those_of_the_settings_in_force():
    writer = Writer()
    writer.say(
        0,
        started(renewal_earliest_percent=50, renewal_latest_percent=60),
        state="Registering",
        phase="Staging",
    )
    register(writer, 100, 1, (0, 100 * DAY))
    known = told(writer).certificate
    assert (known.opens_unix_ms, known.due_unix_ms, known.closes_unix_ms) == (
        START + 50 * DAY,
        START + 55 * DAY,
        START + 60 * DAY,
    )
    policy = PolicySettings(dps=True, renewal_earliest_percent=70, renewal_latest_percent=80)
    writer.say(200, ConfigurationChanged(policy=policy, fingerprint="f"))
    known = told(writer).certificate
    assert known.due_unix_ms == START + 75 * DAY


def test_a_successor_ends_the_use_of_what_was_before():
    writer = Writer()
    writer.say(0, started(), state="Registering", phase="Staging")
    register(writer, 100, 1, (0, 30 * DAY))
    register(writer, 20 * DAY, 2, (20 * DAY, 50 * DAY), state="Renewing", attempt=2)
    (section,) = told(writer).sections
    first, second = section.certificates
    assert first.until_unix_ms == second.from_unix_ms == START + 20 * DAY + 30
    assert second.until_unix_ms is None


@pytest.mark.parametrize(
    ("found", "used"),
    [
        (stored(1, 0, 30 * DAY), [1]),
        (stored(2, 0, 30 * DAY), [1, 2]),
        (stored(2, 0, 0, source="configured"), [1]),
        (None, [1]),
    ],
    ids=["the same", "another", "the configured one", "nothing"],
)
def test_a_start_believes_the_disk(found, used):
    writer = Writer()
    writer.say(0, started(), state="Registering", phase="Staging")
    register(writer, 100, 1, (0, 30 * DAY))
    writer.say(5000, started(found))
    historian = told(writer)
    assert [one.generation for one in historian.sections[0].certificates] == used
    assert (historian.certificate is not None) == (found is not None and found.source == "issued")


def test_an_answer_after_the_start_that_found_it_is_the_same_certificate():
    writer = Writer()
    writer.say(0, started(), state="Registering", phase="Staging")
    writer.say(10, assigned(0, 30 * DAY), state="Registering", phase="Proving")
    writer.say(
        20,
        CredentialProven(answers="1.1.0", generation=1),
        commit(1),
        state="Registering",
        phase="Committing",
    )
    writer.say(30, started(stored(1, 0, 30 * DAY)), state="Registering", phase="Committing")
    writer.say(
        40,
        CredentialCommitted(answers="1.1.0", generation=1, draw_ppm=999_999),
        state="Registering",
        phase="Retiring",
    )
    (known,) = told(writer).sections[0].certificates
    assert known.from_unix_ms == START + 30
    assert known.draw_ppm == 999_999


@pytest.mark.parametrize(
    ("event", "effects"),
    [
        (CredentialLost(generation=1, reason="gone"), ()),
        (CredentialCommitted(answers="1.1.0", generation=2), ()),
    ],
    ids=["lost", "replaced by the configured one"],
)
def test_a_certificate_that_is_in_use_no_more(event, effects):
    writer = Writer()
    writer.say(0, started(), state="Registering", phase="Staging")
    register(writer, 100, 1, (0, 30 * DAY))
    writer.say(
        500, ReprovisionRequested(uid=0), commit(2, issued=False), state="Reprovisioning", phase="Committing"
    )
    writer.say(1000, event, *effects, state="Reprovisioning", phase="Retiring")
    historian = told(writer)
    assert historian.certificate is None
    assert historian.sections[0].certificates[0].until_unix_ms == START + 1000


def test_a_checkpoint_tells_what_was_before():
    snapshot = Snapshot(
        sequence=41,
        state=State.RENEWING,
        phase=Phase.POLLING,
        last_unix_ms=START,
        policy=PolicySettings(dps=True),
        attempt=Attempt(number=7, fingerprint="f", started_unix_ms=START - 5000),
        credential=Credential(
            generation=3,
            source="issued",
            serial="3",
            not_before_unix_ms=START - 20 * DAY,
            not_after_unix_ms=START + 10 * DAY,
            committed_unix_ms=START - 20 * DAY,
        ),
    )
    writer = Writer(snapshot)
    writer.say(50, assigned(0, 30 * DAY), state="Renewing", phase="Proving")
    historian = told(writer)
    (section,) = historian.sections
    assert [one.what for one in section.states] == ["Renewing"]
    assert historian.certificate.from_unix_ms == START - 20 * DAY
    assert historian.certificate.due_unix_ms is not None
    (attempt,) = section.attempts
    assert (attempt.number, [one.what for one in attempt.phases]) == (7, ["Polling", "Proving"])


# --- attempts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "result"),
    [
        (failed("dps-401"), "failed"),
        (DeadlinePassed(name="timeout"), "failed"),
        (assigned(0, 1), "failed"),
        (ConfigurationChanged(policy=PolicySettings(), fingerprint="g"), "abandoned"),
        (ReprovisionRequested(uid=0), "abandoned"),
    ],
)
def test_how_an_attempt_without_a_certificate_ended(event, result):
    writer = Writer()
    submit = SubmitRegistration(attempt=4, generation=1)
    writer.say(0, started(), submit, state="Registering", phase="Submitting")
    writer.say(10, event, state="Unprovisioned", why="That was it.")
    (attempt,) = told(writer).sections[0].attempts
    assert (attempt.result, attempt.number, attempt.why) == (result, 4, "That was it.")
    assert attempt.until_unix_ms == START + 10


def test_an_attempt_that_follows_at_once_is_another_one():
    writer = Writer()
    writer.say(
        0, started(), SubmitRegistration(attempt=1, generation=1), state="Registering", phase="Submitting"
    )
    writer.say(
        10,
        ReprovisionRequested(uid=0),
        SubmitRegistration(attempt=2, generation=1),
        state="Reprovisioning",
        phase="Submitting",
    )
    first, second = told(writer).sections[0].attempts
    assert (first.result, second.result) == ("abandoned", "running")
    assert (first.kind, second.kind) == ("registration", "reprovisioning")


def test_mishaps_on_the_way_are_kept_with_what_the_cloud_calls_them():
    writer = Writer()
    writer.say(0, started(), state="Registering", phase="Submitting")
    writer.say(10, failed("dps-429", tracking_id="7ac5"), state="Registering", phase="Polling")
    writer.say(20, failed("unreachable", ModuleKeysPushFailed), state="Registering", phase="Polling")
    (attempt,) = told(writer).sections[0].attempts
    assert [(one.code, one.tracking_id) for one in attempt.mishaps] == [("dps-429", "7ac5")]


# --- outages and times without service ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "outages"),
    [
        (
            [failed(), failed("timeout"), RegistrationAccepted(answers="1.1.0", operation_id="o")],
            [("DPS", 0, 200)],
        ),
        ([failed(), failed("dps-503")], [("DPS", 0, 100)]),
        ([failed()], [("DPS", 0, None)]),
        ([failed("dps-503")], []),
        (
            [
                failed("unreachable", CredentialProofFailed, generation=1, refused=False),
                failed(),
                CredentialProven(answers="1.1.0", generation=1),
            ],
            [("the hub", 0, 200), ("DPS", 100, None)],
        ),
    ],
)
def test_outages_last_until_somebody_answers(events, outages):
    writer = Writer()
    for at, event in enumerate(events):
        writer.say(at * 100, event, state="Registering", phase="Submitting")
    found = told(writer).sections[0].outages
    ends = [None if one.until_unix_ms is None else one.until_unix_ms - START for one in found]
    assert [
        (one.what, one.from_unix_ms - START, end) for one, end in zip(found, ends, strict=True)
    ] == outages


@pytest.mark.parametrize(
    ("event", "how"),
    [
        (ShutdownRequested(reason="SIGTERM"), "asked to stop (SIGTERM)"),
        (ShutdownRequested(), "asked to stop"),
        (RenewRequested(uid=0), "ended without a word"),
    ],
)
def test_when_the_service_did_not_run(event, how):
    writer = Writer()
    writer.say(0, started())
    writer.say(100, event)
    writer.say(7000, started())
    (down,) = told(writer).sections[0].down
    assert (down.what, down.from_unix_ms - START, down.until_unix_ms - START) == (how, 100, 7000)


# --- clocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamps", "jump_ms", "at"),
    [
        ([0, 100, 400 * DAY], 400 * DAY, 2),
        ([0, 400 * DAY, 400 * DAY + 5], 400 * DAY, 1),
        ([0, 10 * DAY, 10 * DAY + 5], -3 * DAY, 2),
        ([10 * DAY, 7 * DAY, 7 * DAY + 5], -3 * DAY, 1),
        ([0, 5, 10], 60_000, None),
    ],
)
def test_a_leap_is_where_the_stamps_leap(stamps, jump_ms, at):
    writer = Writer()
    for stamp in stamps[:-1]:
        writer.say(stamp, RenewRequested(uid=0))
    writer.say(stamps[-1], ClockObserved(kernel_synchronised=True, jump_ms=jump_ms))
    assert leaps(writer.records) == ({} if at is None else {at + 1: jump_ms})


def test_what_goes_on_goes_on_by_the_new_clock():
    writer = Writer()
    writer.say(0, started(stored(1, 0, 30 * DAY)), state="Renewing", phase="Submitting")
    writer.say(100, failed(), state="Renewing", phase="Submitting")
    leap = ClockObserved(kernel_synchronised=True, jump_ms=400 * DAY)
    writer.say(400 * DAY, leap, state="Renewing", phase="Submitting")
    writer.say(400 * DAY + 50, failed("dps-500"), state="CertExpiring")
    before, after = told(writer).sections
    assert (before.until_unix_ms - START, after.from_unix_ms - START) == (100, 400 * DAY)
    assert after.clock_moved_ms == 400 * DAY
    for section in (before, after):
        assert section.states[0].what == "Renewing"
        assert [one.generation for one in section.certificates] == [1]
        assert [one.what for one in section.outages] == ["DPS"]
        assert len(section.attempts) == 1
    assert before.states[-1].until_unix_ms == before.until_unix_ms
    assert (before.attempts[0].carried, after.attempts[0].carried) == (False, True)
    assert after.attempts[0].result == "failed"
    assert after.outages[0].until_unix_ms == START + 400 * DAY + 50


def test_a_clock_that_falls_back_begins_anew_without_a_word():
    writer = Writer()
    writer.say(0, started())
    writer.say(-DAY, started())
    first, second = told(writer).sections
    assert second.clock_moved_ms == -DAY
    assert (first.down, second.down) == ([], [])


def test_a_history_is_data():
    historian = history_of(RECORDED / "wrong-clock.jsonl")
    encoded = msgspec.json.decode(msgspec.json.encode(historian.sections))
    assert [section["clock_moved_ms"] for section in encoded] == [0, 157_680_000_000]
