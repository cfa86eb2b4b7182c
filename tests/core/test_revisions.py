"""What a revision of the rules changed, decided by it and by the ones before.

Journals of the field were written by every revision there was, so each still decides as it did: these are
the same worlds, begun under one revision and under the other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec import structs

from statemachine.effects import (
    CommitCredential,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    SubmitRegistration,
)
from statemachine.events import (
    ClockObserved,
    ConfigurationChanged,
    CredentialProofFailed,
    DeadlinePassed,
    HubRefusedCredential,
    RegistrationPending,
    RenewRequested,
    RulesChanged,
    StoredCredential,
)
from statemachine.journal import read
from statemachine.machine import RULES_REVISION, decide
from statemachine.replay import RULES, fold, replay_files, steps_of
from statemachine.states import Phase, State
from tests.core.laws import broken
from tests.core.test_attempt import ending, issued, polling
from tests.core.test_laws import at_home, friendly
from tests.core.test_replay import DIVERGENT, file_of, records_of
from tests.core.walks import seeded
from tests.core.world import (
    DAY,
    HOUR,
    MINUTE,
    POLICY,
    SECOND,
    T0,
    Store,
    World,
    chain,
    holding,
    provisioned,
    registering,
    renewing,
    reprovisioning,
    started,
    stored,
    wishes,
)

FOLDER = Path(__file__).parent.parent / "journals"
JOURNALS = sorted({*FOLDER.glob("**/*.jsonl")} - {FOLDER / DIVERGENT})

U, G, P = State.UNPROVISIONED, State.REGISTERING, State.PROVISIONED
E, R, X = State.CERT_EXPIRING, State.RENEWING, State.REPROVISIONING
IDLE, SUBMITTING, POLLING, PROVING = Phase.IDLE, Phase.SUBMITTING, Phase.POLLING, Phase.PROVING
COMMITTING, RETIRING = Phase.COMMITTING, Phase.RETIRING


def under(revision, place):
    """The same place, reached under these rules."""
    return lambda phase: place(phase, rules_revision=revision)


def refuses_what_ended(revision):
    """While the hub may still be late."""
    world = ending(under(revision, registering), life_ms=MINUTE)
    world.deny(ProveCredential, refused=True, failure_class="operator", after_ms=MINUTE)
    return world


def refuses_what_ended_while_renewing(revision):
    """Refused is refused; but nobody has to mend anything."""
    world = ending(under(revision, renewing))
    world.deny(ProveCredential, refused=True, failure_class="operator", after_ms=HOUR)
    return world


def does_not_answer_about_what_ended(revision):
    world = ending(under(revision, renewing))
    world.deny(ProveCredential, after_ms=HOUR)
    return world


def does_not_answer_and_nothing_else_is_there(revision):
    world = ending(under(revision, registering))
    world.deny(ProveCredential, after_ms=HOUR)
    return world


def cannot_store_what_ended(revision):
    world = ending(under(revision, renewing))
    world.answer(ProveCredential)
    world.deny(CommitCredential, code="disk-full", after_ms=HOUR)
    return world


def names_a_hub_that_does_not_answer(revision):
    world = polling(under(revision, renewing))
    world.answer(PollRegistration, assigned_hub="nowhere.example")
    world.deny(ProveCredential, after_ms=15 * MINUTE)
    return world


def accepts_and_says_an_hour(revision):
    world = under(revision, registering)(Phase.SUBMITTING)
    world.answer(SubmitRegistration, retry_after_ms=HOUR)
    return world


def is_still_at_it_and_says_two_days(revision):
    world = polling(under(revision, registering))
    one = world.pending(PollRegistration)
    world.take(RegistrationPending(answers=one.id, retry_after_ms=2 * DAY))
    return world


def asks_the_store_again_for_what_ended(revision):
    world = ending(under(revision, renewing))
    world.answer(ProveCredential)
    world.deny(CommitCredential, code="disk-full")
    world.restart(down_ms=HOUR, rules_revision=revision)
    world.fire("phase")
    return world


def refuses_what_has_yet_to_begin(revision):
    """By the cloud's clock, which is three minutes ahead of the hub's."""
    world = polling(under(revision, renewing))
    issued(world, not_before_unix_ms=world.now + 3 * MINUTE)
    world.deny(ProveCredential, refused=True)
    return world


def fails_for_the_tenth_time(revision):
    world = under(revision, renewing)(Phase.SUBMITTING)
    for _ in range(9):
        world.deny(SubmitRegistration, draw_ppm=999_999)
        world.fire("attempt")
    world.deny(SubmitRegistration, draw_ppm=999_999)
    return world


def knows_the_time_after_it_failed_for_it(revision):
    world = under(revision, registering)(Phase.SUBMITTING)
    world.deny(SubmitRegistration, failure_class="clock", draw_ppm=999_999)
    world.take(ClockObserved(kernel_synchronised=True, jump_ms=DAY, draw_ppm=500), after_ms=DAY)
    return world


def knows_no_more_what_time_it_is(revision):
    world = provisioned(rules_revision=revision)
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=2 * DAY), after_ms=2 * DAY)
    return world


def sets_its_clock_in_small_steps(revision):
    world = provisioned(rules_revision=revision)
    for _ in range(3):
        world.take(ClockObserved(kernel_synchronised=False, jump_ms=10 * HOUR), after_ms=10 * HOUR)
    return world


def is_set_right_by_hand_after_it_was_reset(revision):
    """Forty days were lost with the power; somebody gives back sixty, for it was off for twenty.

    Before, the start's lower bound was taken for the time, and the right clock corrected back to it.
    """
    world = provisioned(rules_revision=revision)
    world.restart(down_ms=-40 * DAY, kernel_synchronised=False, rules_revision=revision)
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=60 * DAY), after_ms=60 * DAY)
    return world


def has_lost_the_key_that_is_to_be_proven(revision):
    world = under(revision, renewing)(Phase.PROVING)
    world.deny(ProveCredential, failure_class="new_key", code="key-missing")
    return world


def retires_what_is_superseded(revision):
    world = under(revision, renewing)(Phase.COMMITTING)
    world.answer(CommitCredential)
    return world


def finds_another_certificate(place, phase=SUBMITTING):
    """A start, of a store that was restored from a backup."""

    def happens(revision):
        world = under(revision, place)(phase)
        world.restart(rules_revision=revision, inventory=holding(stored(generation=9)))
        return world

    happens.__name__ = f"finds_another_certificate_{place.__name__}_{phase.value}"
    return happens


def finds_another_certificate_between_two_attempts(revision):
    world = under(revision, reprovisioning)(SUBMITTING)
    world.deny(SubmitRegistration)
    world.restart(rules_revision=revision, inventory=holding(stored(generation=9)))
    return world


def finds_what_never_ends(revision):
    """The configured credential is current, where the journal speaks of a certificate."""
    world = under(revision, renewing)(SUBMITTING)
    dateless = {"source": "configured", "not_before_unix_ms": 0, "not_after_unix_ms": 0}
    world.restart(rules_revision=revision, inventory=holding(stored(generation=9, **dateless)))
    return world


def sees_the_end_of_what_it_found(revision):
    """Which comes before that of the certificate in the journal."""
    world = under(revision, renewing)(SUBMITTING)
    ends = world.now + HOUR
    ending_soon = stored(generation=9, not_before_unix_ms=T0, not_after_unix_ms=ends)
    world.restart(rules_revision=revision, inventory=holding(ending_soon))
    world.take(DeadlinePassed(name="expiry"), after_ms=ends - world.now)
    return world


def fails_to_renew_for_a_configuration_that_is_gone(revision):
    """Inside the renewal window of what is in use."""
    world = under(revision, renewing)(COMMITTING)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    world.deny(CommitCredential)
    return world


def fails_early_for_a_configuration_that_is_gone(revision):
    """Renewed by command, long before the window; what is in use would have had years."""
    world = provisioned(rules_revision=revision)
    world.take(RenewRequested(uid=0))
    world.until(COMMITTING)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    world.deny(CommitCredential)
    return world


def hears_a_late_refusal_where_nobody_knows_the_time(revision):
    """The answer to what nobody asks any more."""
    world = provisioned(rules_revision=revision)
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=2 * DAY), after_ms=2 * DAY)
    generation = world.snapshot.credential.generation
    world.take(
        CredentialProofFailed(
            answers="9.9.9", failure_class="operator", code="hub-401", generation=generation, refused=True
        )
    )
    return world


def is_refused(world, after_ms, *, before=0):
    """What is in use, or what was in use so many credentials before."""
    generation = world.snapshot.credential.generation - before
    world.take(HubRefusedCredential(generation=generation, code="hub-401"), after_ms=after_ms)


def refused_three_times_within_a_minute(revision):
    world = provisioned(rules_revision=revision)
    for _ in range(3):
        is_refused(world, 20 * SECOND)
    return world


def hears_last_of_a_credential_it_has_replaced(revision):
    world = refused_three_times_within_a_minute(revision)
    is_refused(world, HOUR, before=1)
    return world


def is_refused_when_nobody_knows_the_time_any_more(revision):
    """How long ago the first refusal was cannot be told then."""
    world = refused_three_times_within_a_minute(revision)
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=2 * DAY), after_ms=2 * DAY)
    is_refused(world, HOUR)
    return world


class Change(NamedTuple):
    """Positions, wishes and what more can be told, before and after."""

    happens: Callable
    before: tuple
    since: tuple
    alone: bool = True
    "Nothing that was decided before the last event has a part in it."
    revision: int = 2
    "The first that decides in the new way."


def class_of(world):
    return world.snapshot.ended.error.failure_class


def delay_of(world):
    return world.snapshot.armed_as("phase").delay_ms


def wait_of(world):
    return world.snapshot.armed_as("attempt").delay_ms


def trusts_its_clock(world):
    return world.snapshot.clock.trusted


def newest_that_may_go(world):
    return world.pending(RetireCredential).effect.newest


LOST_ENDS = provisioned().snapshot.credential.not_after_unix_ms
FOUND_ENDS = stored(generation=9).not_after_unix_ms


def watched_end(world):
    armed = world.snapshot.armed_as("expiry")
    return None if armed is None else armed.at_unix_ms


def corrected_by(world):
    """In whole days."""
    return round(world.snapshot.clock.correction_ms / DAY)


def refusals_counted(world):
    return world.snapshot.refusals.count


CHANGED = (
    Change(
        hears_last_of_a_credential_it_has_replaced,
        (X, Phase.STAGING, ["arm timeout", "stage 2"], refusals_counted, 0),
        (P, IDLE, [], refusals_counted, 3),
        revision=4,
    ),
    Change(
        is_refused_when_nobody_knows_the_time_any_more,
        (X, Phase.STAGING, ["arm timeout", "stage 2"], refusals_counted, 0),
        (P, IDLE, [], refusals_counted, 3),
        revision=4,
    ),
    Change(
        hears_a_late_refusal_where_nobody_knows_the_time,
        (P, IDLE, [], refusals_counted, 1),
        (P, IDLE, [], refusals_counted, 0),
        revision=3,
    ),
    Change(refuses_what_ended, (G, PROVING, ["arm phase"]), (U, IDLE, ["arm attempt"], class_of, "retry")),
    Change(
        refuses_what_ended_while_renewing,
        (E, IDLE, ["arm attempt"], class_of, "operator"),
        (E, IDLE, ["arm attempt"], class_of, "retry"),
    ),
    Change(does_not_answer_about_what_ended, (R, PROVING, ["arm phase"]), (E, IDLE, ["arm attempt"])),
    Change(
        does_not_answer_and_nothing_else_is_there, (G, COMMITTING, ["commit 1"]), (U, IDLE, ["arm attempt"])
    ),
    Change(cannot_store_what_ended, (R, COMMITTING, ["arm phase"]), (E, IDLE, ["arm attempt"])),
    Change(names_a_hub_that_does_not_answer, (R, PROVING, ["arm phase"]), (E, IDLE, ["arm attempt"])),
    Change(
        accepts_and_says_an_hour,
        (G, POLLING, ["arm phase"], delay_of, HOUR),
        (G, POLLING, ["arm phase"], delay_of, 150_000),
    ),
    Change(
        is_still_at_it_and_says_two_days,
        (G, POLLING, ["arm phase"], delay_of, DAY),
        (G, POLLING, ["arm phase"], delay_of, 150_000),
    ),
    Change(asks_the_store_again_for_what_ended, (R, COMMITTING, ["commit 2"]), (E, IDLE, ["arm attempt"])),
    Change(
        has_lost_the_key_that_is_to_be_proven,
        (R, PROVING, ["arm phase"]),
        (E, IDLE, ["keep 1", "arm attempt"], class_of, "new_key"),
    ),
    Change(
        retires_what_is_superseded,
        (R, RETIRING, ["keep 1,2", "arm collect"], newest_that_may_go, None),
        (R, RETIRING, ["keep 1,2", "arm collect"], newest_that_may_go, 2),
    ),
    Change(refuses_what_has_yet_to_begin, (E, IDLE, ["arm attempt"]), (R, PROVING, ["arm phase"])),
    Change(
        fails_for_the_tenth_time,
        (E, IDLE, ["disarm timeout", "arm attempt"], wait_of, 899_999),
        (E, IDLE, ["disarm timeout", "arm attempt"], wait_of, 1_023_998),
    ),
    Change(knows_the_time_after_it_failed_for_it, (U, IDLE, []), (U, IDLE, ["arm attempt"], wait_of, 15)),
    Change(
        knows_no_more_what_time_it_is,
        (P, IDLE, ["arm expiry", "arm window"]),
        (P, IDLE, ["arm expiry", "arm window", "arm prove"]),
    ),
    Change(
        sets_its_clock_in_small_steps,
        (P, IDLE, ["arm expiry", "arm window"], trusts_its_clock, True),
        (P, IDLE, ["arm expiry", "arm window", "arm prove"], trusts_its_clock, False),
        alone=False,
    ),
    Change(
        is_set_right_by_hand_after_it_was_reset,
        (P, IDLE, ["arm expiry", "arm window"], corrected_by, -20),
        (P, IDLE, ["arm expiry", "arm window"], corrected_by, 0),
        alone=False,
    ),
    Change(
        finds_another_certificate(registering),
        (G, SUBMITTING, ["arm timeout"], watched_end, None),
        (G, SUBMITTING, ["arm timeout", "arm expiry"], watched_end, FOUND_ENDS),
        alone=False,
        revision=3,
    ),
    Change(
        finds_another_certificate(renewing),
        (R, SUBMITTING, ["arm expiry", "arm timeout"], watched_end, LOST_ENDS),
        (R, SUBMITTING, ["arm timeout", "arm expiry"], watched_end, FOUND_ENDS),
        alone=False,
        revision=3,
    ),
    Change(
        finds_another_certificate(reprovisioning),
        (X, SUBMITTING, ["arm expiry", "arm window", "arm timeout"], watched_end, LOST_ENDS),
        (X, SUBMITTING, ["arm window", "arm timeout", "arm expiry"], watched_end, FOUND_ENDS),
        alone=False,
        revision=3,
    ),
    Change(
        finds_another_certificate_between_two_attempts,
        (X, IDLE, ["arm expiry", "arm window", "arm attempt"], watched_end, LOST_ENDS),
        (X, IDLE, ["arm window", "arm attempt", "arm expiry"], watched_end, FOUND_ENDS),
        alone=False,
        revision=3,
    ),
    Change(
        finds_what_never_ends,
        (R, SUBMITTING, ["arm expiry", "arm timeout"], watched_end, LOST_ENDS),
        (R, SUBMITTING, ["arm timeout"], watched_end, None),
        alone=False,
        revision=3,
    ),
    Change(
        sees_the_end_of_what_it_found,
        (R, SUBMITTING, ["arm expiry"], watched_end, LOST_ENDS),
        (X, SUBMITTING, [], watched_end, None),
        alone=False,
        revision=3,
    ),
    Change(
        fails_to_renew_for_a_configuration_that_is_gone,
        (E, IDLE, ["arm attempt"]),
        (X, IDLE, ["arm attempt"]),
        revision=3,
    ),
    Change(
        fails_early_for_a_configuration_that_is_gone,
        (P, IDLE, ["arm expiry", "arm window"]),
        (X, IDLE, ["arm attempt"]),
        revision=3,
    ),
)


def test_every_revision_since_the_first_changed_something():
    assert {change.revision for change in CHANGED} == set(range(2, RULES_REVISION + 1))
    assert set(RULES) == set(range(1, RULES_REVISION + 1))


@pytest.mark.parametrize("revision", RULES)
@pytest.mark.parametrize("change", CHANGED, ids=lambda one: one.happens.__name__)
def test_each_revision_decides_as_it_ever_did(change, revision):
    world = change.happens(revision)
    assert world.snapshot.rules_revision == revision
    expected = change.since if revision >= change.revision else change.before
    state, phase, effects, *more = expected
    assert (*world.position, wishes(world.history[-1][2])) == (state, phase, effects)
    if more:
        fact, value = more
        assert fact(world) == value


@pytest.mark.parametrize("change", CHANGED, ids=lambda one: one.happens.__name__)
def test_what_an_older_revision_decided_still_replays(change):
    old = change.happens(change.revision - 1)
    content, _ = file_of(records_of(old), rules_revision=change.revision - 1)
    outcome = replay_files([("journal", content)])
    assert outcome.equal, outcome.divergence
    assert outcome.snapshot == old.snapshot


@pytest.mark.parametrize(
    "change", [one for one in CHANGED if one.alone], ids=lambda one: one.happens.__name__
)
def test_an_attempt_under_way_is_gone_on_with_by_the_rules_of_the_release_that_starts(change):
    """The last event again, after an upgrade in the middle of the attempt."""
    old = change.happens(change.revision - 1)
    now, event, _ = old.history[-1]
    before = old.history[-2][2].snapshot
    changed = decide(before, RulesChanged(before=change.revision - 1, after=change.revision), now)
    assert changed.effects == ()
    assert (changed.snapshot.state, changed.snapshot.phase) == (before.state, before.phase)
    state, phase, effects, *_ = change.since
    decision = decide(changed.snapshot, event, now)
    assert (decision.snapshot.state, decision.snapshot.phase, wishes(decision)) == (state, phase, effects)


@pytest.mark.parametrize("revision", sorted(RULES)[:-1])
def test_the_laws_held_then_too(revision, monkeypatch):
    """So they are no weaker for what changed since, and an upgrade starts from a sound place."""
    monkeypatch.setattr(
        "tests.core.walks.started", lambda **fields: started(**{"rules_revision": revision, **fields})
    )
    monkeypatch.setattr("tests.core.walks.RULES_REVISION", revision)
    for seed in range(60):
        world = seeded(seed, 80)
        assert world.snapshot.rules_revision == revision
        assert broken(world.history) == [], f"seed {seed}"


# --- an upgrade --------------------------------------------------------------------------------------


def held_by(snapshot):
    """The store that this snapshot was true of."""
    store = Store()
    credential, assignment, bundle = snapshot.credential, snapshot.assignment, snapshot.bundle
    if snapshot.staged is not None:
        store.keys[snapshot.staged.generation] = snapshot.staged.spki_sha256
    if credential is not None:
        current = StoredCredential(
            generation=credential.generation,
            source=credential.source,
            hub=assignment.hub,
            device_id=assignment.device_id,
            fingerprint=assignment.fingerprint,
            sha256=credential.sha256,
            serial=credential.serial,
            spki_sha256=credential.spki_sha256,
            not_before_unix_ms=credential.not_before_unix_ms,
            not_after_unix_ms=credential.not_after_unix_ms,
            bundle_id=None if bundle is None else bundle.id,
            bundle_certificates=0 if bundle is None else bundle.certificates,
            bundle_sha256="" if bundle is None else bundle.sha256,
        )
        store.keys[current.generation] = current.spki_sha256
        store.committed[current.generation] = current
        store.current = current.generation
    return store


class AnyDevice(World):
    """Certificates are for whatever the device is called."""

    def perform(self, one, **fields):
        spki = one.effect.spki_sha256 if isinstance(one.effect, PollRegistration) else ""
        if spki:
            fields["chain"] = chain(spki, self.now, subject_cn=self.snapshot.policy.registration_id)
        return super().perform(one, **fields)


def upgraded(snapshot, revision):
    """The release of today over what that one left, killed just then: what ``adapters/opening.py`` posts."""
    world = AnyDevice(snapshot=snapshot, now=snapshot.last_unix_ms + 5 * SECOND, store=held_by(snapshot))
    world.take(RulesChanged(before=revision, after=RULES_REVISION))
    world.restart(policy=snapshot.policy, fingerprint=snapshot.fingerprint)
    return world


def at_any_record(path):
    """(records so far, where they lead), from the first start on."""
    reading = read(path.read_bytes())
    steps = list(steps_of([(path.name, path.read_bytes())]))
    assert [step.record for step in steps] == list(reading.records)
    for count, step in enumerate(steps, 1):
        yield reading.records[:count], step.after


def test_there_are_journals_of_every_older_revision():
    assert {read(path.read_bytes()).header.rules_revision for path in JOURNALS} >= {*range(1, RULES_REVISION)}


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_an_upgrade_after_any_record_goes_on_with_the_same_history(path):
    """What is under way goes on where it was, every law holds, and it comes home. The whole of it replays."""
    reading = read(path.read_bytes())
    revision = reading.header.rules_revision
    for records, snapshot in at_any_record(path):
        world = upgraded(snapshot, revision)
        assert world.snapshot.rules_revision == RULES_REVISION
        change = world.history[0][2]
        assert (change.verdict, change.effects) == ("taken", ())
        assert structs.replace(
            change.snapshot,
            sequence=snapshot.sequence,
            last_unix_ms=snapshot.last_unix_ms,
            rules_revision=revision,
        ) == structs.replace(snapshot, rules_revision=revision), snapshot.sequence
        if snapshot.attempt is not None and not snapshot.foreign_machine:
            assert world.snapshot.attempt is not None, snapshot.sequence
            assert world.snapshot.attempt.number >= snapshot.attempt.number
        if not snapshot.hold:
            friendly(world, at_home)
        assert broken(world.history, snapshot) == [], snapshot.sequence
        all_of_it = [*records, *records_of(world)]
        assert fold(reading.snapshot, all_of_it, revision) == (world.snapshot, len(all_of_it), None)
