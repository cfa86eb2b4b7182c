"""Journals of real runs: each is what its name says, tells nothing it must not, and replays for ever."""

import itertools
import re
from pathlib import Path

import pytest

from adapters.__main__ import identityd
from statemachine.effects import (
    CommitCredential,
    PollRegistration,
    ProveCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    ClockObserved,
    ConfigurationChanged,
    CredentialCommitted,
    DeadlinePassed,
    HubRefusedCredential,
    KeyStaged,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    ReprovisionRequested,
    ShutdownRequested,
    Started,
)
from statemachine.journal import read
from statemachine.replay import replay_files, steps_of
from tests.journals.record import MACHINE, RECORDINGS, REFUSALS_APART_S, unfit

HERE = Path(__file__).parent
FOLDERS = sorted(HERE.glob("recorded-*"))
FIRST = HERE / "recorded-0.1.0"
PHASES = ("Staging", "Submitting", "Polling", "Proving", "Committing", "Retiring")
DAY = 86_400_000


def series(path):
    """A journal's files, oldest first: the file itself, or those of a directory."""
    if path.is_file():
        return [path]
    return [*sorted(path.glob("journal-*.jsonl")), path / "journal.jsonl"]


JOURNALS = [
    path
    for folder in FOLDERS
    for path in sorted(folder.iterdir())
    if path.suffix == ".jsonl" or path.is_dir()
]


def contents(path):
    return [(file.name, file.read_bytes()) for file in series(path)]


def steps(name):
    path = FIRST / f"{name}.jsonl"
    return list(steps_of(contents(path if path.exists() else FIRST / name)))


def events(found, kind, **facts):
    """Steps with that event."""
    return [
        step
        for step in found
        if isinstance(step.record.event, kind)
        and all(getattr(step.record.event, key) == value for key, value in facts.items())
    ]


def effects(found, kind):
    return [one for step in found for one in step.record.effects if isinstance(one, kind)]


def positions(found):
    """Without repeats."""
    return [key for key, _ in itertools.groupby((step.record.state, step.record.phase) for step in found)]


# --- all of them -------------------------------------------------------------------------------------


def test_every_recording_is_kept_and_told():
    kept = {path.name.removesuffix(".jsonl") for path in JOURNALS if path.parent == FIRST}
    assert set(RECORDINGS) == kept
    told = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", (HERE / "README.md").read_text(), re.M)
    assert [name for name, _ in told] == list(RECORDINGS)
    assert all(sentence.endswith(".") for _, sentence in told)


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recorded_journal_still_replays(path, capsys):
    """Never edit one: a difference here is a difference to every device in the field."""
    outcome = replay_files(contents(path))
    assert outcome.unreadable is None
    assert outcome.equal, outcome.divergence
    assert outcome.records > 10
    assert identityd(["replay", *map(str, series(path))]) == 0
    assert capsys.readouterr().out.startswith(f"equal: {outcome.records} records")


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_tells_nothing_of_where_it_was_made(path):
    for file in series(path):
        content = file.read_bytes()
        assert unfit(content) is None
        assert read(content).header.machine == MACHINE
        assert len(content) < 70_000


@pytest.mark.parametrize(
    "line",
    [b'{"a":{"b":["file /home/x/key"]}}', b'{"a":"-----BEGIN PRIVATE KEY-----"}', b'{"a":"the name of it"}'],
)
def test_what_must_not_be_in_one_is_found(line):
    assert unfit(b'{"a":"harmless","chain_pem":"/tmp/"}\n' + line + b"\n", "name of it") is not None


@pytest.mark.parametrize("name", RECORDINGS)
def test_each_begins_with_an_empty_disk_and_ends_gracefully_in_service(name):
    found = steps(name)
    assert isinstance(found[0].record.event, Started)
    assert found[0].record.event.inventory.newest_generation == 0
    assert found[0].before.sequence == 0
    last = found[-1].record
    assert isinstance(last.event, ShutdownRequested)
    assert (last.state, last.phase) == ("Provisioned", "Idle")
    assert not found[-1].after.degraded


# --- each of them ------------------------------------------------------------------------------------


def test_first_start():
    found = steps("first-start")
    assert positions(found) == [*(("Registering", phase) for phase in PHASES), ("Provisioned", "Idle")]
    assert found[-1].after.credential.proven


def test_csr_refused():
    found = steps("csr-refused")
    (refused,) = events(found, RegistrationFailed, code="csr-not-configured")
    assert [one.generation for one in effects([refused], SubmitRegistration)] == [None]
    without, with_chain = effects(found, CommitCredential)
    assert without.chain_pem is None
    assert with_chain.chain_pem is not None
    assert found[-1].after.credential.source == "issued"


def test_renewal():
    found = steps("renewal")
    windows = events(found, DeadlinePassed, name="window")
    assert [step.record.state for step in windows] == ["CertExpiring"] * 2
    begun = events(found, DeadlinePassed, name="attempt")
    assert [step.record.state for step in begun] == ["Renewing"] * 2
    committed = events(found, CredentialCommitted)
    assert [step.record.state for step in committed] == ["Registering", "Renewing", "Renewing"]
    assert len({step.record.event.spki_sha256 for step in events(found, KeyStaged)}) == 3
    for step, window in zip(begun, windows, strict=True):
        old = window.before.credential
        life = old.not_after_unix_ms - old.not_before_unix_ms
        part = (step.record.now_unix_ms - old.not_before_unix_ms) / life
        assert 0.7 <= part < 0.95, "the instant was drawn between 70 and 90 %; a timer may be a little late"


def test_key_kept():
    found = steps("key-kept")
    assert [one.reuse_generation for one in effects(found, StageKey)] == [None, 1, 2]
    assert len({step.record.event.spki_sha256 for step in events(found, KeyStaged)}) == 1
    assert len({step.record.event.chain.sha256 for step in events(found, RegistrationAssigned)}) == 3


def test_outage_past_expiry():
    found = steps("outage-past-expiry")
    (expired,) = events(found, DeadlinePassed, name="expiry")
    assert expired.record.state == "Reprovisioning"
    failed = events(found, RegistrationFailed, code="unreachable", unsent=True)
    assert {step.record.sequence > expired.record.sequence for step in failed} == {False, True}
    assert all(step.after.credential.generation == 1 for step in failed), "the old one serves on"
    assert found[-1].after.credential.generation == 2


def test_hub_refusal():
    found = steps("hub-refusal")
    refused = events(found, HubRefusedCredential)
    assert [step.record.state for step in refused] == ["Provisioned", "Provisioned", "Reprovisioning"]
    took = refused[-1].record.now_unix_ms - refused[0].record.now_unix_ms
    assert took >= 2 * REFUSALS_APART_S * 1000
    assert found[-1].after.credential.generation == 2


def test_wrong_clock():
    found = steps("wrong-clock")
    started = found[0].record
    assert started.now_unix_ms < started.event.build_unix_ms - 4 * 365 * DAY
    (failed,) = events(found, RegistrationFailed, failure_class="clock")
    assert failed.after.clock.measured
    assert not found[11].after.clock.trusted
    assert events(found[:12], CredentialCommitted), "it does not wait for a right clock"
    (observed,) = events(found, ClockObserved, kernel_synchronised=True)
    assert observed.record.event.jump_ms > 4 * 365 * DAY
    assert observed.after.clock.trusted
    assert found[-1].after.credential.generation == 2


@pytest.mark.parametrize("phase", PHASES)
def test_crash(phase):
    found = steps(f"crash-{phase.lower()}")
    killed, again = next((a, b) for a, b in itertools.pairwise(found) if isinstance(b.record.event, Started))
    assert not isinstance(killed.record.event, ShutdownRequested)
    assert (killed.record.state, killed.record.phase) == ("Registering", phase)
    outstanding = killed.after.outstanding
    assert again.after.outstanding == outstanding, "asked again under the same ids"
    assert bool(outstanding) == (phase != "Polling"), "the next poll had only been armed"
    assert len(effects(found, StageKey)) == 1
    assert len({step.record.event.spki_sha256 for step in events(found, KeyStaged)}) == 1
    assert len(effects(found, SubmitRegistration)) == len(effects(found, ProveCredential)) == 1
    assert len(events(found, RegistrationAccepted)) == 1
    (accepted,) = events(found, RegistrationAccepted)
    polled = {one.operation_id for one in effects(found, PollRegistration)}
    assert polled == {accepted.record.event.operation_id}
    assert found[-1].after.credential.generation == 1


def test_configuration_change():
    found = steps("configuration-change")
    first, second = events(found, ConfigurationChanged)
    assert (first.before.policy.renewal_latest_percent, first.after.policy.renewal_latest_percent) == (90, 85)
    assert first.record.state == "Provisioned"
    assert second.before.fingerprint != second.after.fingerprint
    assert second.record.state == "Reprovisioning"
    assert found[-1].after.assignment.device_id == "renamed"


def test_operator_reprovision():
    found = steps("operator-reprovision")
    asked = events(found, ReprovisionRequested)
    assert [step.record.phase for step in asked] == ["Staging", "Staging", "Polling"]
    assert asked[2].before.attempts == asked[2].after.attempts, "it joined the one under way"
    assert found[-1].after.credential.generation == 3


def test_bundle_change():
    found = steps("bundle-change")
    first, changed, unusable, removed = events(found, RegistrationAssigned)
    assert (first.record.event.bundle.certificates, changed.record.event.bundle.certificates) == (1, 2)
    assert unusable.record.event.bundle is None
    assert unusable.after.bundle_problem
    assert removed.record.event.bundle is None
    commits = effects(found, CommitCredential)
    assert [one.bundle_pem is not None for one in commits] == [True, True, False, False]
    assert [one.keep_bundle for one in commits] == [False, False, True, False]
    assert found[-1].after.bundle is None


def test_compaction():
    first, second = (read(content) for _, content in contents(FIRST / "compaction"))
    assert second.header.continues == first.last_hash
    assert second.header.first_sequence == first.records[-1].sequence + 1
    assert second.snapshot.credential is not None
    assert [type(record.event) for record in second.records].count(Started) == 1
    # The file before may be gone: the later one stands by itself.
    assert replay_files([("journal.jsonl", (FIRST / "compaction/journal.jsonl").read_bytes())]).equal
