"""What one attempt asks for, notes and leaves, fact by fact.

Found by mutation: the stories come to the same end when one of these is left out.
"""

import pytest

from statemachine.effects import (
    ArmDeadline,
    CommitCredential,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import ConfigurationChanged, RenewRequested
from statemachine.snapshot import Assignment, Budget, Bundle, ClockTrust, Credential
from statemachine.states import Phase
from tests.core.world import (
    BUNDLE,
    DAY,
    HOUR,
    POLICY,
    certless,
    chain,
    fresh,
    provisioned,
    registering,
    renewing,
    structs,
    wishes,
    with_policy,
)

# --- stage and submit --------------------------------------------------------------------------------


def test_a_device_without_any_key_has_none_to_keep():
    world = fresh(policy=with_policy(rotate_key=False))
    assert world.pending(StageKey).effect.reuse_generation is None


def test_a_key_is_kept_only_where_there_is_an_issued_one():
    keep = with_policy(rotate_key=False)
    assert renewing(policy=keep).pending(StageKey).effect.reuse_generation == 1
    assert renewing().pending(StageKey).effect.reuse_generation is None
    world = certless(policy=keep)
    world.take(RenewRequested(uid=0))
    assert world.pending(StageKey).effect.reuse_generation is None


BEHIND = ClockTrust(trusted=False, offset_ms=100 * DAY, measured=True)


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        (Phase.SUBMITTING, SubmitRegistration),
        (Phase.POLLING, PollRegistration),
        (Phase.PROVING, ProveCredential),
    ],
)
def test_whoever_is_asked_is_told_how_wrong_our_clock_is(phase, kind):
    """A SAS token made by the wrong time is refused."""
    world = fresh()
    world.snapshot = structs.replace(world.snapshot, clock=BEHIND)
    world.until(phase)
    if phase is Phase.POLLING:
        world.fire("phase")
    assert world.pending(kind).effect.clock_offset_ms == 100 * DAY


def test_another_submission_begins_with_nothing_of_the_operation_before():
    world = registering(Phase.POLLING)
    world.fire("phase")
    world.deny(PollRegistration, failure_class="reregister", code="dps-404")
    attempt = world.snapshot.attempt
    assert (attempt.submits, attempt.polls, attempt.operation_id) == (2, 0, None)
    assert attempt.last_error.code == "dps-404"
    assert not world.asks(PollRegistration)


def test_an_old_operation_is_not_asked_for_beside_the_new_submission():
    world = registering(Phase.POLLING)
    world.fire("phase")
    assert world.asks(PollRegistration)
    world.restart(down_ms=HOUR)
    assert world.snapshot.phase is Phase.SUBMITTING
    assert not world.asks(PollRegistration)


def test_a_budget_given_back_whole_begins_its_window_anew():
    world = registering(Phase.SUBMITTING)
    world.deny(SubmitRegistration, failure_class="clock", code="tls-dates")
    assert world.snapshot.budget.spent == 0
    world.now += HOUR
    world.fire("attempt")
    assert world.snapshot.budget == Budget(spent=1, since_unix_ms=world.now)


# --- what was assigned -------------------------------------------------------------------------------


def test_an_ordered_renewal_without_a_bundle_removes_none():
    """A person ordered a certificate, not registration from the start."""
    world = provisioned()
    world.take(RenewRequested(uid=0))
    world.until(Phase.POLLING)
    world.fire("phase")
    world.answer(PollRegistration, bundle=None)
    world.settle()
    assert world.snapshot.credential.generation == 2
    assert world.snapshot.bundle is not None


@pytest.mark.parametrize(("ahead_ms", "trusted"), [(HOUR, True), (HOUR + 1, False)])
def test_a_certificate_that_begins_an_hour_ahead_is_no_sign_of_a_wrong_clock(ahead_ms, trusted):
    world = registering(Phase.POLLING)
    world.fire("phase")
    world.answer(PollRegistration, after_ms=0, chain=chain("k1", world.now + ahead_ms))
    assert world.snapshot.phase is Phase.PROVING
    assert world.snapshot.clock.trusted is trusted


def test_what_a_certificate_says_of_our_clock_holds_at_once():
    """The hub is asked with it, and every deadline is armed by it."""
    world = renewing(Phase.POLLING)
    ends = world.snapshot.armed_as("expiry").at_unix_ms
    world.fire("phase")
    begins = world.now + 400 * DAY
    spki = world.pending(PollRegistration).effect.spki_sha256
    decision = world.answer(PollRegistration, after_ms=0, chain=chain(spki, begins))
    assert world.snapshot.clock.correction_ms == 400 * DAY
    assert world.pending(ProveCredential).effect.clock_offset_ms == 400 * DAY
    assert ArmDeadline(name="expiry", at_unix_ms=ends - 400 * DAY) in decision.effects


# --- commit ------------------------------------------------------------------------------------------


def committing(place, **fields):
    """An attempt whose assignment says this; the store is being asked."""
    world = place(Phase.POLLING)
    world.fire("phase")
    world.answer(PollRegistration, **fields)
    return world.until(Phase.COMMITTING)


def test_a_bundle_that_is_kept_is_said_to_be():
    world = committing(renewing, bundle=None)
    assert world.pending(CommitCredential).effect.keep_bundle
    assert not committing(renewing).pending(CommitCredential).effect.keep_bundle


def test_everything_that_was_assigned_becomes_what_is_in_use():
    world = committing(registering, substatus="initialAssignment", certificate_type="issued")
    facts = world.snapshot.candidate.chain
    world.answer(CommitCredential, draw_ppm=123_456)
    assert world.snapshot.credential == Credential(
        generation=1,
        source="issued",
        sha256=facts.sha256,
        serial=facts.serial,
        spki_sha256=facts.spki_sha256,
        not_before_unix_ms=facts.not_before_unix_ms,
        not_after_unix_ms=facts.not_after_unix_ms,
        proven=True,
        committed_unix_ms=world.now,
        draw_ppm=123_456,
    )
    assert world.snapshot.assignment == Assignment(
        hub="hub.example",
        device_id="device-1",
        fingerprint="f1",
        since_unix_ms=world.now,
        substatus="initialAssignment",
        certificate_type="issued",
    )
    assert world.snapshot.bundle == Bundle(
        id=POLICY.trust_bundle_id, certificates=BUNDLE.certificates, sha256=BUNDLE.sha256
    )
    assert (world.snapshot.staged, world.snapshot.candidate) == (None, None)


def test_a_configured_credential_has_no_dates():
    world = committing(registering, chain=None)
    world.answer(CommitCredential)
    assert world.snapshot.credential == Credential(
        generation=2, source="configured", proven=True, committed_unix_ms=world.now
    )


def test_a_kept_bundle_is_filed_under_the_name_that_is_asked_for_now():
    """Renamed in the configuration while the attempt that keeps it was under way."""
    world = renewing(Phase.POLLING)
    world.take(ConfigurationChanged(policy=with_policy(trust_bundle_id="bundle-2"), fingerprint="f1"))
    world.fire("phase")
    world.answer(PollRegistration, bundle=None)
    world.until(Phase.COMMITTING)
    world.answer(CommitCredential)
    assert world.snapshot.bundle.id == "bundle-2"


def test_what_is_committed_again_is_not_superseded_by_itself():
    """The stores held the candidate's generation before the journal knew of it."""
    world = committing(renewing)
    credential = structs.replace(world.snapshot.credential, generation=world.snapshot.candidate.generation)
    world.snapshot = structs.replace(world.snapshot, credential=credential)
    world.answer(CommitCredential)
    assert world.snapshot.superseded == ()


# --- ends --------------------------------------------------------------------------------------------


def test_where_no_key_was_staged_none_is_collected():
    world = fresh()
    decision = world.deny(StageKey, failure_class="new_key", code="disk-full")
    assert wishes(decision) == ["disarm timeout", "arm attempt"]


@pytest.mark.parametrize(
    ("fields", "spent"),
    [
        ({"failure_class": "clock"}, 3),
        ({"failure_class": "retry", "unsent": True}, 3),
        ({"failure_class": "retry"}, 4),
    ],
)
def test_one_registration_is_given_back_and_only_where_dps_did_not_count_it(fields, spent):
    world = registering(Phase.SUBMITTING)
    world.snapshot = structs.replace(world.snapshot, budget=Budget(spent=4, since_unix_ms=world.now))
    world.deny(SubmitRegistration, **fields)
    assert world.snapshot.budget.spent == spent


def test_what_happens_is_dated_by_the_best_known_time():
    """The answer that tells the time is itself dated by it."""
    world = registering(Phase.SUBMITTING)
    true_time = world.now + 100 * DAY
    world.answer(SubmitRegistration, after_ms=0, server_date_unix_ms=true_time)
    assert world.snapshot.attempt.operation_unix_ms == true_time


# --- since revision 2 --------------------------------------------------------------------------------

HALF_MS = POLICY.attempt_timeout_ms // 2


@pytest.mark.parametrize(
    ("revision", "retry_after_ms", "delay_ms"),
    [
        (2, None, 100),
        (2, HALF_MS, HALF_MS),
        (2, HALF_MS + 1, HALF_MS),
        (1, HALF_MS + 1, HALF_MS + 1),
    ],
)
def test_no_retry_after_takes_the_whole_time_of_an_attempt(revision, retry_after_ms, delay_ms):
    world = registering(Phase.SUBMITTING)
    world.snapshot = structs.replace(world.snapshot, rules_revision=revision)
    world.answer(SubmitRegistration, retry_after_ms=retry_after_ms)
    assert world.snapshot.armed_as("phase").delay_ms == delay_ms


@pytest.mark.parametrize(("revision", "newest"), [(2, 1), (1, None)])
def test_a_retirement_touches_nothing_younger_than_itself(revision, newest):
    """Since revision 2 it says how far it looks: a key that is staged meanwhile is not its business."""
    world = committing(registering)
    world.snapshot = structs.replace(world.snapshot, rules_revision=revision)
    world.answer(CommitCredential)
    assert world.pending(RetireCredential).effect.newest == newest
