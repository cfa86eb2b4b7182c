"""One attempt, from the staged key to the retired one: its identity, its answers, its ends."""

import pytest
from msgspec import structs

from statemachine.effects import (
    CommitCredential,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    ConfigurationChanged,
    CredentialCommitted,
    CredentialProven,
    CredentialRetired,
    DeadlinePassed,
    HoldRequested,
    Inventory,
    KeyStaged,
    RegistrationAccepted,
    RegistrationPending,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
)
from statemachine.states import Phase, State
from tests.core.world import (
    BUNDLE,
    DAY,
    HOUR,
    MINUTE,
    NO_DPS,
    PEM,
    POLICY,
    T0,
    World,
    asked,
    assigned,
    certless,
    chain,
    expiring,
    fresh,
    holding,
    provisioned,
    registering,
    renewing,
    reprovisioning,
    started,
    stored,
    unproven,
    unprovisioned,
    waiting,
    wishes,
    with_policy,
)

ATTEMPTS = (registering, renewing, reprovisioning)


def polling(place):
    """The first poll is outstanding."""
    world = place(Phase.POLLING)
    world.fire("phase")
    return world


def assign(world, **fields):
    return world.answer(PollRegistration, **fields)


def issued(world, **fields):
    """A good chain for the staged key, except for these fields."""
    return assign(world, chain=chain(world.snapshot.staged.spki_sha256, world.now + 10, **fields))


# --- identity: restarts, other attempts, stale answers -----------------------------------------------


@pytest.mark.parametrize("place", ATTEMPTS)
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
def test_a_restart_resumes_in_every_phase(place, phase):
    world = place(phase)
    before = world.snapshot
    world.restart()
    after = world.snapshot
    assert (after.state, after.phase) == (before.state, before.phase)
    assert after.attempt == before.attempt
    assert after.staged == before.staged
    assert after.outstanding == before.outstanding
    world.settle()
    assert world.snapshot.state is State.PROVISIONED


def test_the_same_operation_is_asked_for_after_a_restart():
    world = registering(Phase.POLLING)
    world.restart(down_ms=9 * MINUTE)
    world.fire("phase")
    (poll,) = asked(world.history[-1][2])
    assert (poll.operation_id, poll.attempt) == ("op-1", 1)


@pytest.mark.parametrize(
    ("down_ms", "polls"),
    [(10 * MINUTE - 1, True), (10 * MINUTE, False), (400 * DAY, False), (-HOUR, False)],
)
def test_an_old_operation_is_submitted_again_with_the_same_key(down_ms, polls):
    """Older than ten minutes, or from the future, which says as little."""
    world = registering(Phase.POLLING)
    staged = world.snapshot.staged
    decision = world.restart(down_ms=down_ms)
    assert (world.snapshot.phase is Phase.POLLING) is polls
    if not polls:
        (submit,) = asked(decision)
        assert (submit.generation, submit.spki_sha256) == (staged.generation, staged.spki_sha256)
        assert world.snapshot.attempt.operation_id is None
    assert world.snapshot.staged == staged
    world.settle()


def test_time_without_power_does_not_count_against_the_attempt():
    world = registering(Phase.SUBMITTING)
    world.restart(down_ms=HOUR)
    assert world.snapshot.armed_as("timeout").at_unix_ms == world.now + POLICY.attempt_timeout_ms


def test_a_changed_fingerprint_abandons_and_late_answers_change_nothing():
    world = registering(Phase.SUBMITTING)
    late = world.perform(world.pending(SubmitRegistration))
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    assert world.snapshot.attempt.number == 2
    assert world.snapshot.attempt.fingerprint == "f2"
    before = world.snapshot
    decision = world.take(late)
    assert decision.verdict == "ignored"
    assert decision.effects == ()
    assert world.snapshot.attempt == before.attempt
    assert world.snapshot.phase is Phase.SUBMITTING


@pytest.mark.parametrize("place", ATTEMPTS)
@pytest.mark.parametrize("phase", [Phase.STAGING, Phase.SUBMITTING, Phase.POLLING, Phase.PROVING])
def test_nothing_of_an_abandoned_attempt_can_come_back(place, phase):
    world = place(phase)
    asked_before = {one.id for one in world.snapshot.outstanding}
    world.restart(fingerprint="f2")
    assert not asked_before & {one.id for one in world.snapshot.outstanding}
    assert world.snapshot.candidate is None
    assert world.snapshot.attempt.fingerprint == "f2"


@pytest.mark.parametrize(
    "event",
    [
        KeyStaged(answers="1.2.9", generation=9, spki_sha256="other"),
        RegistrationAccepted(answers="1.2.9", operation_id="other"),
        RegistrationPending(answers="1.2.9"),
        assigned("1.2.9", "other", T0),
        CredentialProven(answers="1.2.9", generation=9),
        CredentialCommitted(answers="1.2.9", generation=9),
        CredentialRetired(answers="1.2.9"),
        DeadlinePassed(name="prove"),
    ],
)
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
def test_stale_answers_change_nothing(event, phase):
    world = renewing(phase)
    before = world.snapshot
    decision = world.take(event)
    assert decision.verdict == "ignored"
    assert decision.effects == ()
    assert world.snapshot == structs.replace(before, sequence=before.sequence + 1, last_unix_ms=world.now)


def test_an_answer_is_taken_once():
    world = registering(Phase.SUBMITTING)
    answer = world.perform(world.pending(SubmitRegistration))
    assert world.take(answer).verdict == "taken"
    assert world.take(answer).verdict == "ignored"


def test_a_commit_under_way_is_waited_for_when_the_configuration_changes():
    """It may flip whatever is decided meanwhile, so its answer is needed."""
    world = renewing(Phase.COMMITTING)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    assert world.position == (State.RENEWING, Phase.COMMITTING)
    world.answer(CommitCredential)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f3"))
    assert world.position == (State.RENEWING, Phase.RETIRING)
    world.answer(RetireCredential)
    assert world.position == (State.REPROVISIONING, Phase.STAGING)
    assert world.snapshot.credential.generation == world.store.current == 2
    world.settle()
    assert world.snapshot.assignment.fingerprint == "f3"


def test_a_commit_that_failed_is_not_repeated_for_a_configuration_that_is_gone():
    world = renewing(Phase.COMMITTING)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    world.deny(CommitCredential)
    assert world.position == (State.REPROVISIONING, Phase.IDLE)
    assert world.snapshot.credential.generation == 1, "it serves on"
    world.fire("attempt")
    assert world.snapshot.attempt.fingerprint == "f2"
    world.settle()
    assert world.snapshot.assignment.fingerprint == "f2"


def test_between_two_commits_an_outdated_attempt_is_abandoned():
    world = renewing(Phase.COMMITTING)
    world.deny(CommitCredential)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    assert world.position == (State.REPROVISIONING, Phase.SUBMITTING)


def test_a_kill_between_the_flip_and_its_answer():
    world = renewing(Phase.COMMITTING)
    world.perform(world.pending(CommitCredential))
    world.restart()
    assert world.snapshot.credential.generation == 1
    world.answer(CommitCredential)
    assert world.snapshot.credential.generation == 2
    world.settle()


def test_a_copied_image_does_not_go_on_with_the_attempt_of_the_original():
    world = registering(Phase.SUBMITTING)
    world.restart(foreign_machine=True)
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.outstanding == ()
    world.take(ReprovisionRequested(uid=1000, privileged=False))
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    world.restart()
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    world.take(ReprovisionRequested(uid=0))
    assert world.position == (State.REGISTERING, Phase.SUBMITTING)
    assert not world.snapshot.foreign_machine


# --- stage -------------------------------------------------------------------------------------------


def test_a_new_generation_is_staged_beside_the_old():
    world = expiring()
    world.fire("attempt")
    (stage,) = asked(world.history[-1][2])
    assert stage == StageKey(generation=2, algorithm="ec-p256", common_name="device-1")


def test_a_generation_found_on_disk_is_never_staged_over():
    world = World()
    world.take(started(inventory=Inventory(newest_generation=7)))
    assert "stage 8" in wishes(world.history[-1][2])


def test_a_key_that_is_kept_is_copied_from_the_current_generation():
    world = expiring(policy=with_policy(rotate_key=False))
    world.fire("attempt")
    (stage,) = asked(world.history[-1][2])
    assert (stage.generation, stage.reuse_generation) == (2, 1)
    world.settle()
    assert world.snapshot.credential.spki_sha256 == "k1"


def test_there_is_no_key_to_keep_of_a_configured_credential():
    world = certless(policy=with_policy(rotate_key=False))
    world.fire("reissue")
    (stage,) = asked(world.history[-1][2])
    assert stage.reuse_generation is None


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        (POLICY, True),
        (with_policy(key_algorithm="rsa-2048"), False),
        (with_policy(registration_id="device-2"), False),
    ],
)
def test_the_key_of_a_failed_attempt_is_used_again_when_it_still_fits(policy, waits):
    world = unprovisioned()
    world.restart(policy=policy)
    world.fire("attempt")
    assert world.snapshot.phase is (Phase.SUBMITTING if waits else Phase.STAGING)


@pytest.mark.parametrize("failure_class", ["retry", "wait", "operator", "reregister", "clock", "new_key"])
def test_the_staged_key_outlives_every_failure_but_new_key(failure_class):
    world = renewing(Phase.SUBMITTING)
    decision = world.deny(SubmitRegistration, failure_class=failure_class)
    kept = world.snapshot.staged is not None
    assert kept is (failure_class != "new_key")
    assert ("keep 1" in wishes(decision)) is not kept
    if not kept:
        world.answer(RetireCredential)
        assert world.store.keys.keys() == {1}
        world.fire("attempt")
        assert "stage 3" in wishes(world.history[-1][2])


# --- submit and poll ---------------------------------------------------------------------------------


def test_polls_follow_their_schedule_and_retry_after():
    world = registering(Phase.SUBMITTING)
    world.answer(SubmitRegistration, retry_after_ms=3_000)
    assert world.snapshot.armed_as("phase").delay_ms == 3_000
    expected = [500, 1_000, 2_400, 3_000, 3_200, 2_000, 2_000]
    for gap in expected:
        world.fire("phase")
        world.take(RegistrationPending(answers=world.pending(PollRegistration).id))
        assert world.snapshot.armed_as("phase").delay_ms == gap


def test_an_assignment_may_come_at_once():
    world = registering(Phase.SUBMITTING)
    one = world.pending(SubmitRegistration)
    world.take(assigned(one.id, "k1", world.now))
    assert world.snapshot.phase is Phase.PROVING


def test_polls_that_get_no_answer_are_repeated_until_the_attempts_deadline():
    world = polling(registering)
    begun = world.snapshot.attempt.started_unix_ms
    while world.snapshot.phase is Phase.POLLING:
        if world.asks(PollRegistration):
            world.deny(PollRegistration, code="dps-503", tracking_id="t-1")
        elif world.snapshot.armed_as("phase").at_unix_ms < world.snapshot.armed_as("timeout").at_unix_ms:
            world.fire("phase")
        else:
            world.fire("timeout")
    assert world.now - begun == POLICY.attempt_timeout_ms
    error = world.snapshot.ended.error
    assert (error.code, error.failure_class, error.tracking_id) == ("attempt-timeout", "retry", "t-1")
    assert "dps-503" in error.message


@pytest.mark.parametrize(
    ("retry_after_ms", "delay_ms"),
    [(149_999, 149_999), (150_000, 150_000), (150_001, 150_000), (HOUR, 150_000), (2 * DAY, 150_000)],
)
@pytest.mark.parametrize("how", ["accepted", "pending", "lost"])
def test_no_retry_after_takes_the_time_of_the_whole_attempt(retry_after_ms, delay_ms, how):
    """Half of it at most, or no poll would come before its deadline."""
    assert POLICY.attempt_timeout_ms == 300_000
    if how == "accepted":
        world = registering(Phase.SUBMITTING)
        world.answer(SubmitRegistration, retry_after_ms=retry_after_ms)
    else:
        world = polling(registering)
        one = world.pending(PollRegistration)
        if how == "pending":
            world.take(RegistrationPending(answers=one.id, retry_after_ms=retry_after_ms))
        else:
            world.deny(PollRegistration, retry_after_ms=retry_after_ms)
    assert world.snapshot.armed_as("phase").delay_ms == delay_ms


@pytest.mark.parametrize("place", ATTEMPTS)
def test_an_attempt_polls_however_long_dps_wants_to_be_left_alone(place):
    world = place(Phase.SUBMITTING)
    world.answer(SubmitRegistration, retry_after_ms=HOUR)
    assert world.snapshot.armed_as("phase").at_unix_ms < world.snapshot.armed_as("timeout").at_unix_ms
    world.settle()
    assert world.snapshot.state is State.PROVISIONED
    assert world.snapshot.ended.error is None


def test_a_failed_attempt_still_waits_as_long_as_it_was_told():
    """Only within an attempt: DPS may say when the next one is welcome."""
    world = registering(Phase.SUBMITTING)
    world.deny(SubmitRegistration, retry_after_ms=HOUR)
    assert world.snapshot.armed_as("attempt").at_unix_ms - world.now >= HOUR


def test_a_deadline_without_any_answer():
    world = registering(Phase.SUBMITTING)
    world.fire("timeout")
    assert world.snapshot.ended.error.message == "no final answer within 300 s"


def test_an_operator_failure_ends_a_poll():
    world = polling(registering)
    world.deny(PollRegistration, failure_class="operator", code="dps-401")
    assert world.snapshot.ended.error.code == "dps-401"


# --- certificate-less answers ------------------------------------------------------------------------


@pytest.mark.parametrize("place", [registering, reprovisioning])
@pytest.mark.parametrize("phase", [Phase.SUBMITTING, Phase.POLLING])
def test_without_a_csr_where_that_is_welcome(place, phase):
    world = place(Phase.SUBMITTING) if phase is Phase.SUBMITTING else polling(place)
    kind = SubmitRegistration if phase is Phase.SUBMITTING else PollRegistration
    decision = world.deny(kind, failure_class="operator", code="csr-not-configured")
    (submit,) = asked(decision)
    assert (submit.generation, submit.spki_sha256) == (None, "")
    world.until(Phase.POLLING)
    world.fire("phase")
    (poll,) = asked(world.history[-1][2])
    assert poll.spki_sha256 == ""
    world.settle()
    assert world.snapshot.state is State.PROVISIONED
    assert world.snapshot.credential.source == "configured"
    assert world.snapshot.armed_as("reissue").delay_ms == POLICY.reissue_interval_ms
    assert world.snapshot.armed_as("expiry") is None
    assert world.snapshot.staged is None


def test_without_a_csr_is_tried_once_only():
    world = registering(Phase.SUBMITTING)
    for _ in range(2):
        world.deny(SubmitRegistration, failure_class="operator", code="csr-not-configured")
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)


def test_while_renewing_the_certificate_is_kept():
    world = renewing(Phase.SUBMITTING)
    world.deny(SubmitRegistration, failure_class="operator", code="csr-not-configured")
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.credential.source == "issued"
    world.fire("attempt")
    world.until(Phase.POLLING)
    world.fire("phase")
    assign(world, chain=None)
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.ended.error.code == "not-issued"
    assert world.snapshot.credential.source == "issued"


@pytest.mark.parametrize("how", ["command", "expiry"])
def test_after_that_the_certless_way_is_taken_on_command_or_expiry(how):
    world = renewing(Phase.SUBMITTING)
    world.deny(SubmitRegistration, failure_class="operator", code="csr-not-configured")
    if how == "command":
        world.take(ReprovisionRequested(uid=0))
    else:
        world.fire("expiry")
    assert world.position == (State.REPROVISIONING, Phase.SUBMITTING)
    world.deny(SubmitRegistration, failure_class="operator", code="csr-not-configured")
    world.settle()
    assert world.snapshot.credential.source == "configured"
    assert world.store.committed[world.store.current].source == "configured"


def test_a_certless_device_asks_for_issuance_again():
    world = certless()
    world.fire("reissue")
    assert world.snapshot.state is State.RENEWING
    world.settle()
    assert world.snapshot.credential.source == "issued"
    assert world.snapshot.armed_as("reissue") is None


def test_and_rests_for_another_day_when_there_is_none():
    world = certless()
    world.fire("reissue")
    world.until(Phase.POLLING)
    world.fire("phase")
    assign(world, chain=None)
    assert world.position == (State.PROVISIONED, Phase.IDLE)
    assert world.snapshot.armed_as("reissue").at_unix_ms == world.now + POLICY.reissue_interval_ms


def test_a_certless_assignment_is_shown_to_the_hub():
    world = polling(registering)
    decision = assign(world, chain=None)
    (prove,) = asked(decision)
    assert (prove.issued, prove.chain_pem, prove.generation) == (False, None, 2)
    world.answer(ProveCredential)
    commit = world.pending(CommitCredential).effect
    assert (commit.chain_pem, commit.generation) == (None, 2)


# --- bundle ------------------------------------------------------------------------------------------

OTHER = structs.replace(BUNDLE, sha256="b2", certificates=3)


@pytest.mark.parametrize("place", ATTEMPTS)
def test_a_present_bundle_replaces_the_stored_one(place):
    world = polling(place)
    assign(world, bundle=OTHER)
    world.settle()
    assert world.snapshot.bundle.sha256 == "b2"
    assert world.snapshot.bundle.certificates == 3


@pytest.mark.parametrize(
    ("place", "fields", "stays"),
    [
        (renewing, {}, True),
        (renewing, {"assigned_hub": "other.example"}, False),
        (renewing, {"assigned_hub": "other.example", "bundle_spoken": False}, True),
        (renewing, {"assigned_hub": "other.example", "bundle_problem": "garbage"}, True),
        (renewing, {"device_id": "device-x"}, False),
        (reprovisioning, {}, False),
        (reprovisioning, {"bundle_spoken": False}, True),
        (reprovisioning, {"bundle_problem": "garbage"}, True),
    ],
)
def test_absence_removes_the_bundle_only_after_a_move_or_an_operators_word(place, fields, stays):
    world = polling(place)
    assign(world, bundle=None, **fields)
    assert world.snapshot.candidate.keep_bundle is stays
    world.settle()
    assert (world.snapshot.bundle is not None) is stays
    assert world.snapshot.bundle_problem == fields.get("bundle_problem")


def test_a_caller_without_rights_removes_no_bundle():
    world = provisioned()
    world.take(ReprovisionRequested(uid=1000, privileged=False))
    world.until(Phase.POLLING)
    world.fire("phase")
    assign(world, bundle=None)
    world.settle()
    assert world.snapshot.bundle is not None


@pytest.mark.parametrize(
    ("event", "removed"),
    [(ReprovisionRequested(uid=0), True), (ReprovisionRequested(uid=9, privileged=False), False)],
)
def test_joining_makes_an_attempt_an_operators_only_when_one_asked(event, removed):
    world = polling(renewing)
    world.take(event)
    assert world.snapshot.state is State.REPROVISIONING
    assign(world, bundle=None)
    assert world.snapshot.candidate.keep_bundle is not removed


def test_a_bad_bundle_never_fails_a_credential():
    world = polling(renewing)
    assign(world, bundle=None, bundle_problem="no certificate in it")
    world.settle()
    assert world.snapshot.credential.generation == 2
    assert world.snapshot.bundle.sha256 == BUNDLE.sha256
    assert world.snapshot.bundle_problem == "no certificate in it"


def test_renaming_the_bundle_registers_again_and_files_it_under_the_new_name():
    world = provisioned()
    world.take(ConfigurationChanged(policy=with_policy(trust_bundle_id="mine"), fingerprint="f1"))
    assert world.snapshot.state is State.REPROVISIONING
    world.until(Phase.POLLING)
    world.fire("phase")
    assign(world, bundle=None)
    world.settle()
    assert world.snapshot.state is State.PROVISIONED
    assert world.snapshot.bundle.id == "mine"
    assert world.snapshot.bundle.sha256 == BUNDLE.sha256


def test_a_bundle_renamed_during_an_attempt_is_renamed_by_another():
    world = renewing(Phase.PROVING)
    world.take(ConfigurationChanged(policy=with_policy(trust_bundle_id="mine"), fingerprint="f1"))
    assert world.snapshot.phase is Phase.PROVING
    world.until(Phase.RETIRING)
    world.answer(RetireCredential)
    assert world.position == (State.REPROVISIONING, Phase.STAGING)
    world.settle()
    assert world.snapshot.bundle.id == "mine"
    assert world.snapshot.state is State.PROVISIONED


def test_without_any_bundle_a_new_name_changes_nothing():
    world = polling(registering)
    assign(world, bundle=None)
    world.settle()
    world.take(ConfigurationChanged(policy=with_policy(trust_bundle_id="mine"), fingerprint="f1"))
    assert world.snapshot.state is State.PROVISIONED


def test_assignment_certificate_key_and_bundle_are_one_commit():
    world = polling(renewing)
    assign(world, substatus="reprovisionedToInitialAssignment", certificate_type="x509")
    world.answer(ProveCredential)
    commit = world.pending(CommitCredential).effect
    assert commit == CommitCredential(
        generation=2,
        hub="hub.example",
        device_id="device-1",
        fingerprint="f1",
        chain_pem=PEM,
        bundle_id=POLICY.trust_bundle_id,
        bundle_pem=BUNDLE.bundle_pem,
        substatus="reprovisionedToInitialAssignment",
        certificate_type="x509",
    )
    world.settle()
    assert world.snapshot.assignment.substatus == "reprovisionedToInitialAssignment"


# --- verify ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "failure_class"),
    [
        ({"spki_sha256": "k1"}, "chain-wrong-key", "new_key"),
        ({"subject_cn": "device-2"}, "chain-wrong-subject", "retry"),
        ({"subject_cn": "x" * 500}, "chain-wrong-subject", "retry"),
        ({"is_ca": True}, "chain-is-ca", "retry"),
        ({"intact": False}, "chain-broken", "retry"),
        ({"not_after_unix_ms": T0 - DAY, "not_before_unix_ms": T0}, "chain-inverted", "retry"),
        ({"not_after_unix_ms": T0, "not_before_unix_ms": T0}, "chain-inverted", "retry"),
        ({"not_after_unix_ms": T0, "not_before_unix_ms": T0 - DAY}, "chain-expired", "retry"),
    ],
)
def test_what_is_wrong_with_a_chain(fields, code, failure_class):
    world = polling(renewing)
    issued(world, **fields)
    error = world.snapshot.ended.error
    assert (error.code, error.failure_class) == (code, failure_class)
    assert len(error.message) < 300
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.credential.generation == 1


@pytest.mark.parametrize("name", ["device-1", "DEVICE-1", "Device-1"])
def test_names_compare_as_dps_compares_them(name):
    world = polling(renewing)
    issued(world, subject_cn=name)
    assert world.snapshot.phase is Phase.PROVING


@pytest.mark.parametrize(
    ("begins", "code"),
    [(0, None), (5 * MINUTE, None), (5 * MINUTE + 1, "chain-not-yet-valid"), (-80 * DAY, None)],
)
def test_dates_are_judged_by_the_clouds_clock_when_it_says(begins, code):
    world = polling(renewing)
    date = world.now + 400 * DAY
    one = world.pending(PollRegistration)
    facts = chain(one.effect.spki_sha256, date + begins)
    world.take(assigned(one.id, "", 0, chain=facts, server_date_unix_ms=date))
    assert (world.snapshot.phase is Phase.PROVING) is (code is None)
    if code:
        assert world.snapshot.ended.error.code == code


def test_an_expired_chain_is_expired_by_the_clouds_clock_too():
    world = polling(renewing)
    date = world.now + 400 * DAY
    one = world.pending(PollRegistration)
    world.take(assigned(one.id, one.effect.spki_sha256, world.now, server_date_unix_ms=date))
    assert world.snapshot.ended.error.code == "chain-expired"


def test_without_any_known_time_dates_are_not_judged():
    world = registering(Phase.POLLING, kernel_synchronised=False, build_unix_ms=T0 + DAY)
    world.fire("phase")
    issued(world, not_before_unix_ms=T0 - 9 * DAY, not_after_unix_ms=T0 - DAY)
    assert world.snapshot.phase is Phase.PROVING


# --- prove -------------------------------------------------------------------------------------------


def test_a_refusal_soon_after_a_new_assignment_is_shown_again():
    world = registering(Phase.PROVING)
    for _ in range(5):
        world.deny(ProveCredential, refused=True)
        assert world.snapshot.phase is Phase.PROVING
        world.fire("phase")
    assert world.snapshot.attempt.tries == 6
    assert world.snapshot.attempt.last_error.code == "unreachable"


def test_fifteen_minutes_later_it_is_a_verdict():
    world = registering(Phase.PROVING)
    world.deny(ProveCredential, refused=True, after_ms=15 * MINUTE - 1)
    world.fire("phase")
    world.now = world.snapshot.candidate.assigned_unix_ms + 15 * MINUTE
    world.deny(ProveCredential, refused=True, failure_class="operator", code="hub-401", after_ms=0)
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.candidate is None
    assert world.snapshot.staged is not None


def test_the_same_hub_has_no_such_excuse():
    world = renewing(Phase.PROVING)
    world.deny(ProveCredential, refused=True)
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.credential.generation == world.store.current == 1


def test_a_moved_device_has_it():
    world = polling(renewing)
    assign(world, assigned_hub="other.example:8443")
    world.deny(ProveCredential, refused=True)
    assert world.snapshot.phase is Phase.PROVING
    assert world.snapshot.assignment.hub == "hub.example"
    world.settle()
    assert world.snapshot.assignment.hub == "other.example:8443"


def ending(place, *, life_ms=HOUR, **fields):
    """What is being proven does not live long."""
    world = polling(place)
    assign(world, life_ms=life_ms, **fields)
    assert world.snapshot.phase is Phase.PROVING
    return world


REFUSED = {"refused": True, "failure_class": "operator", "code": "hub-401"}
UNREACHABLE = {"refused": False, "failure_class": "wait", "code": "unreachable"}


@pytest.mark.parametrize("place", ATTEMPTS)
@pytest.mark.parametrize("no", [REFUSED, UNREACHABLE], ids=["refused", "unreachable"])
@pytest.mark.parametrize("hub", ["hub.example", "other.example"])
def test_a_certificate_that_ends_before_it_is_proven_gives_way_to_another(place, no, hub):
    """It is neither shown for ever, nor committed because nobody could be asked about it."""
    world = ending(place, assigned_hub=hub)
    before = world.snapshot
    world.now = before.candidate.chain.not_after_unix_ms
    world.deny(ProveCredential, after_ms=0, **no)
    after = world.snapshot
    assert world.position == (
        {
            State.REGISTERING: State.UNPROVISIONED,
            State.RENEWING: State.CERT_EXPIRING,
            State.REPROVISIONING: State.REPROVISIONING,
        }[before.state],
        Phase.IDLE,
    )
    assert (after.credential, after.assignment) == (before.credential, before.assignment)
    assert after.candidate is None
    # Nobody has to mend anything: the next one is issued for the same key.
    assert (after.ended.error.failure_class, after.ended.error.code) == ("retry", no["code"])
    assert after.failures == 1
    world.fire("attempt")
    (submit,) = asked(world.history[-1][2])
    assert (submit.generation, submit.spki_sha256) == (before.staged.generation, before.staged.spki_sha256)
    world.settle()
    assert world.snapshot.credential.generation == before.staged.generation
    assert world.snapshot.credential.proven


@pytest.mark.parametrize("no", [REFUSED, UNREACHABLE], ids=["refused", "unreachable"])
def test_until_the_instant_it_ends_it_may_be_proven(no):
    world = ending(renewing, life_ms=14 * MINUTE, assigned_hub="other.example")
    end = world.snapshot.candidate.chain.not_after_unix_ms
    world.now = end - 1
    world.deny(ProveCredential, after_ms=0, **no)
    assert world.snapshot.phase is Phase.PROVING


def test_what_ended_before_it_was_proven_replaces_nothing():
    """Off in between for longer than the new one lived, while the old one came to its last tenth."""
    world = polling(renewing)
    assign(world, life_ms=DAY)
    old = world.snapshot.credential
    world.restart(down_ms=old.not_after_unix_ms - 8 * DAY - world.now)
    assert world.snapshot.candidate.chain.not_after_unix_ms < world.now < old.not_after_unix_ms
    world.deny(ProveCredential)
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.credential == old
    world.settle()


@pytest.mark.parametrize(
    ("place", "no", "position"),
    [
        (registering, REFUSED, (State.UNPROVISIONED, Phase.IDLE)),
        (registering, UNREACHABLE, (State.REGISTERING, Phase.COMMITTING)),
        (renewing, REFUSED, (State.CERT_EXPIRING, Phase.IDLE)),
        (renewing, UNREACHABLE, (State.RENEWING, Phase.PROVING)),
    ],
)
def test_where_nobody_knows_the_time_nothing_has_ended(place, no, position):
    world = ending(place)
    world.restart(down_ms=2 * DAY, kernel_synchronised=False)
    assert not world.snapshot.clock.trusted
    assert world.snapshot.candidate.chain.not_after_unix_ms < world.now
    world.deny(ProveCredential, **no)
    assert world.position == position
    if world.snapshot.phase is Phase.IDLE:
        assert world.snapshot.ended.error.failure_class == no["failure_class"]


def test_the_refusal_itself_may_tell_the_time_at_which_it_ended():
    world = ending(registering)
    world.restart(down_ms=-2 * DAY, kernel_synchronised=False)
    world.deny(ProveCredential, server_date_unix_ms=world.now + 2 * DAY + 2 * HOUR, **REFUSED)
    assert not world.snapshot.clock.trusted
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.ended.error.failure_class == "retry"


def test_a_configured_credential_has_no_end_that_could_come_first():
    world = polling(registering)
    assign(world, chain=None)
    world.deny(ProveCredential, refused=True)
    assert world.snapshot.phase is Phase.PROVING


def test_an_unreachable_hub_waits_while_the_old_certificate_is_good():
    world = renewing(Phase.PROVING)
    credential = world.snapshot.credential
    last = credential.not_after_unix_ms - (credential.not_after_unix_ms - credential.not_before_unix_ms) // 10
    while world.now < last:
        world.deny(ProveCredential, draw_ppm=999_999, retry_after_ms=DAY)
        if world.snapshot.phase is Phase.PROVING:
            world.fire("phase")
    world.deny(ProveCredential)
    assert world.snapshot.phase is Phase.COMMITTING
    assert not world.snapshot.candidate.proven
    world.settle()
    assert not world.snapshot.credential.proven
    assert world.store.keys.keys() == {1, 2}


def test_an_unreachable_hub_waits_while_the_configured_credential_serves():
    world = certless()
    world.fire("reissue")
    world.until(Phase.PROVING)
    world.deny(ProveCredential)
    assert world.snapshot.phase is Phase.PROVING


@pytest.mark.parametrize("place", [renewing, reprovisioning])
def test_a_hub_that_never_answered_is_asked_for_again(place):
    """DPS may have named one that does not exist; what is in use is kept, and so is the key."""
    world = polling(place)
    assign(world, assigned_hub="nowhere.example")
    before = world.snapshot
    world.now = before.candidate.assigned_unix_ms + 15 * MINUTE
    world.deny(ProveCredential, after_ms=0)
    after = world.snapshot
    assert world.snapshot.phase is Phase.IDLE
    assert (after.credential, after.assignment) == (before.credential, before.assignment)
    assert (after.ended.error.failure_class, after.ended.error.code) == ("retry", "unreachable")
    world.fire("attempt")
    (submit,) = asked(world.history[-1][2])
    assert (submit.generation, submit.spki_sha256) == (before.staged.generation, before.staged.spki_sha256)
    world.settle()
    assert world.snapshot.assignment.hub == "hub.example"
    assert world.snapshot.credential.proven


def test_for_fifteen_minutes_a_new_hub_may_be_out_of_reach():
    world = polling(renewing)
    assign(world, assigned_hub="other.example")
    world.now = world.snapshot.candidate.assigned_unix_ms + 15 * MINUTE - 1
    world.deny(ProveCredential, after_ms=0)
    assert world.position == (State.RENEWING, Phase.PROVING)
    world.settle()
    assert world.snapshot.assignment.hub == "other.example"


def test_the_hub_in_use_is_waited_for_however_long_it_is_out_of_reach():
    world = renewing(Phase.PROVING)
    world.deny(ProveCredential, after_ms=HOUR)
    assert world.position == (State.RENEWING, Phase.PROVING)


def test_a_certless_device_does_not_move_to_a_hub_that_never_answered():
    """The configured credential serves the old hub as well as it would the new one."""
    world = certless()
    world.fire("reissue")
    world.until(Phase.POLLING)
    world.fire("phase")
    assign(world, assigned_hub="nowhere.example")
    world.deny(ProveCredential, after_ms=15 * MINUTE)
    assert world.snapshot.phase is Phase.IDLE
    assert world.snapshot.assignment.hub == "hub.example"
    assert world.snapshot.credential.source == "configured"


def test_without_a_working_credential_a_new_hub_is_taken_unproven():
    """There is nothing to keep, and waiting would not make anything better."""
    world = registering(Phase.PROVING)
    assert world.snapshot.candidate.new_assignment
    world.deny(ProveCredential, after_ms=15 * MINUTE)
    assert world.position == (State.REGISTERING, Phase.COMMITTING)


def test_and_so_it_is_in_the_last_tenth_of_the_certificate_in_use():
    world = polling(renewing)
    assign(world, assigned_hub="other.example")
    world.now = world.snapshot.credential.not_after_unix_ms - 8 * DAY
    world.deny(ProveCredential)
    assert world.position == (State.RENEWING, Phase.COMMITTING)
    assert not world.snapshot.candidate.proven


def test_without_any_credential_it_is_committed_and_proven_later():
    world = unproven()
    assert world.snapshot.armed_as("prove") is not None
    world.fire("prove")
    (prove,) = asked(world.history[-1][2])
    assert (prove.generation, prove.issued, prove.chain_pem) == (1, True, None)
    world.answer(ProveCredential)
    assert world.snapshot.credential.proven
    assert world.snapshot.armed_as("prove") is None


def test_an_unproven_credential_is_shown_until_the_hub_says_something():
    world = unproven()
    for _ in range(20):
        world.fire("prove")
        world.deny(ProveCredential)
    assert world.position == (State.PROVISIONED, Phase.IDLE)
    world.fire("prove")
    world.deny(ProveCredential, refused=True)
    assert world.position == (State.REPROVISIONING, Phase.STAGING)


def test_an_attempt_forgets_background_proofs_and_asks_again_afterwards():
    world = unproven()
    world.fire("prove")
    late = world.perform(world.pending(ProveCredential))
    world.take(RenewRequested(uid=0))
    assert not world.asks(ProveCredential)
    assert world.take(late).verdict == "ignored"
    world.answer(StageKey)
    world.deny(SubmitRegistration)
    assert world.snapshot.armed_as("prove") is not None


def test_the_superseded_key_stays_until_its_successor_is_proven():
    world = unproven()
    world.now = world.snapshot.armed_as("window").at_unix_ms
    world.take(RenewRequested(uid=0))
    world.until(Phase.PROVING)
    world.now += 60 * DAY
    world.deny(ProveCredential)
    world.settle()
    assert [one.generation for one in world.snapshot.superseded] == [1]
    assert world.store.keys.keys() == {1, 2}
    world.fire("prove")
    world.answer(ProveCredential)
    world.settle()
    assert world.store.keys.keys() == {2}


def test_only_the_latest_expired_one_waits_for_that():
    world = unproven()
    for _ in range(3):
        world.take(RenewRequested(uid=0), after_ms=85 * DAY)
        world.until(Phase.PROVING)
        world.deny(ProveCredential)
        world.settle()
    assert [one.generation for one in world.snapshot.superseded] == [3]


# --- commit and retire -------------------------------------------------------------------------------


def test_a_commit_is_repeated_until_the_store_can():
    world = renewing(Phase.COMMITTING)
    for _ in range(5):
        world.deny(CommitCredential, code="disk-full")
        assert world.snapshot.phase is Phase.COMMITTING
        world.fire("phase")
    assert world.snapshot.credential.generation == 1
    world.settle()
    assert world.snapshot.credential.generation == 2


@pytest.mark.parametrize("failure_class", ["retry", "wait"])
def test_a_commit_is_not_repeated_for_a_certificate_that_ended_meanwhile(failure_class):
    """A disk that was full for longer than it lived: what is current is the better one."""
    world = ending(renewing)
    world.answer(ProveCredential)
    end = world.snapshot.candidate.chain.not_after_unix_ms
    world.now = end
    world.deny(CommitCredential, after_ms=0, failure_class=failure_class, code="disk-full")
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.credential.generation == 1
    assert world.snapshot.ended.error.code == "disk-full"
    world.settle()


def test_until_it_ends_a_commit_is_repeated():
    world = ending(renewing)
    world.answer(ProveCredential)
    world.now = world.snapshot.candidate.chain.not_after_unix_ms - 1
    world.deny(CommitCredential, after_ms=0, code="disk-full")
    assert world.position == (State.RENEWING, Phase.COMMITTING)


@pytest.mark.parametrize("down_ms", [2 * DAY, HOUR])
def test_nor_is_the_store_asked_again_when_it_ended_in_between(down_ms):
    """Switched off between two tries: an ended one would replace one that has months left."""
    world = ending(renewing)
    staged = world.snapshot.staged
    world.answer(ProveCredential)
    world.deny(CommitCredential, code="disk-full")
    world.restart(down_ms=down_ms)
    decision = world.fire("phase")
    assert not asked(decision)
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.credential.generation == 1
    error = world.snapshot.ended.error
    assert (error.failure_class, error.code) == ("retry", "certificate-ended")
    assert error.message.endswith("; the last error was disk-full: no")
    assert world.snapshot.staged == staged
    world.settle()


def test_a_commit_under_way_is_not_called_back_though_its_certificate_ended():
    """It may have flipped already."""
    world = ending(renewing)
    world.answer(ProveCredential)
    world.restart(down_ms=HOUR)
    assert world.asks(CommitCredential)
    assert world.position == (State.RENEWING, Phase.COMMITTING)


def test_where_nobody_knows_the_time_a_commit_is_repeated():
    world = ending(renewing)
    world.answer(ProveCredential)
    world.restart(down_ms=2 * DAY, kernel_synchronised=False)
    world.deny(CommitCredential, code="disk-full")
    assert world.position == (State.RENEWING, Phase.COMMITTING)


@pytest.mark.parametrize("failure_class", ["operator", "new_key", "reregister", "clock"])
def test_a_commit_refused_for_good_ends_the_attempt(failure_class):
    world = renewing(Phase.COMMITTING)
    world.deny(CommitCredential, failure_class=failure_class)
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.credential.generation == 1
    assert world.snapshot.candidate is None


def test_a_new_key_in_the_store_means_a_new_generation():
    world = renewing(Phase.COMMITTING)
    world.store.keys.pop(2)
    world.answer(CommitCredential)
    assert world.snapshot.staged is None
    world.fire("attempt")
    assert "stage 3" in wishes(world.history[-1][2])
    world.settle()
    assert world.store.usable()


@pytest.mark.parametrize("place", ATTEMPTS)
def test_whether_the_old_keys_could_be_removed_does_not_matter(place):
    world = place(Phase.RETIRING)
    world.deny(RetireCredential)
    assert world.position == (State.PROVISIONED, Phase.IDLE)
    assert world.snapshot.ended.error is None


def test_a_superseded_key_stays_until_its_certificate_has_ended():
    """Requests that began before the flip hold handles that sign with it."""
    world = expiring()
    world.fire("attempt")
    ends = world.snapshot.credential.not_after_unix_ms
    world.settle()
    assert world.store.keys.keys() == {1, 2}
    assert world.snapshot.armed_as("collect").at_unix_ms == ends
    world.fire("collect")
    world.settle()
    assert world.store.keys.keys() == {2}
    assert world.snapshot.armed_as("collect") is None


def test_a_superseded_configured_credential_holds_nothing_back():
    world = certless()
    world.fire("reissue")
    world.settle()
    assert world.snapshot.superseded == ()
    assert world.store.committed.keys() == {3}


def test_collecting_waits_for_a_running_attempt():
    world = expiring()
    world.fire("attempt")
    world.settle()
    world.take(RenewRequested(uid=0))
    world.fire("collect")
    assert world.snapshot.armed_as("collect").delay_ms == HOUR
    world.settle()
    assert world.store.usable()


def test_no_retirement_is_repeated_beside_a_newer_one():
    world = unproven()
    world.fire("prove")
    world.answer(ProveCredential)
    world.take(RenewRequested(uid=0))
    assert not world.asks(RetireCredential)


# --- ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_failures_are_counted_until_a_success(failures):
    world = unprovisioned()
    for _ in range(failures - 1):
        world.fire("attempt")
        world.deny(SubmitRegistration)
    assert world.snapshot.failures == failures
    world.fire("attempt")
    world.settle()
    assert world.snapshot.failures == 0
    assert world.snapshot.ended.error is None


def test_a_failed_renewal_near_the_end_is_repeated_sooner():
    world = renewing(Phase.SUBMITTING)
    world.now = world.snapshot.credential.not_after_unix_ms - 60_000
    world.deny(SubmitRegistration, failure_class="operator", draw_ppm=999_999, after_ms=0)
    assert world.snapshot.armed_as("attempt").delay_ms == 12_000


def test_a_renewal_serves_to_its_last_second_and_then_reprovisions():
    world = expiring()
    while world.snapshot.state is not State.REPROVISIONING:
        if world.asks(StageKey):
            world.answer(StageKey)
        elif world.asks(SubmitRegistration):
            world.deny(SubmitRegistration, draw_ppm=999_999, failure_class="operator", code="dps-403")
        else:
            world.fire(min(world.snapshot.armed, key=lambda one: one.at_unix_ms).name, draw_ppm=999_999)
    assert world.now >= world.snapshot.credential.not_after_unix_ms
    assert world.snapshot.credential.generation == world.store.current == 1
    world.settle()
    assert world.snapshot.state is State.PROVISIONED


@pytest.mark.parametrize("place", [expiring, waiting])
@pytest.mark.parametrize(
    ("draw", "delay"), [(0, 0), (500_000, 7 * MINUTE + 30_000), (999_999, 15 * MINUTE - 1)]
)
def test_what_is_overdue_at_a_start_is_spread(draw, delay, place):
    """A fleet that wakes together must not arrive together: neither with renewals nor out of a backoff."""
    world = place()
    before = world.position
    overdue = world.snapshot.armed_as("attempt").at_unix_ms - world.now + MINUTE
    world.restart(down_ms=overdue, draw_ppm=draw)
    assert world.position == before
    assert world.snapshot.armed_as("attempt").delay_ms == delay


def test_a_certificate_that_expired_meanwhile_is_not_spread():
    world = expiring()
    world.restart(down_ms=60 * DAY, draw_ppm=500_000)
    assert world.position == (State.REPROVISIONING, Phase.STAGING)


def test_a_delay_keeps_what_is_left_of_it_over_a_start():
    world = waiting(retry_after_ms=HOUR)
    left = world.snapshot.armed_as("attempt").at_unix_ms - world.now
    assert left == HOUR
    world.restart(down_ms=10 * MINUTE)
    assert world.snapshot.armed_as("attempt").delay_ms == 50 * MINUTE
    world.restart(down_ms=2 * HOUR)
    assert world.snapshot.armed_as("attempt").delay_ms == 0


def test_one_draw_per_certificate():
    world = provisioned()
    draw = world.snapshot.credential.draw_ppm
    for event_draw in (1, 2, 3):
        world.restart(draw_ppm=event_draw)
        world.take(ConfigurationChanged(policy=POLICY, fingerprint="f1", draw_ppm=event_draw))
    world.fire("window", draw_ppm=999_999)
    assert world.snapshot.credential.draw_ppm == draw


def test_the_draw_comes_with_the_commit():
    world = registering(Phase.COMMITTING)
    world.answer(CommitCredential, draw_ppm=250_000)
    world.answer(RetireCredential, draw_ppm=999_999)
    world.fire("window")
    credential = world.snapshot.credential
    life = credential.not_after_unix_ms - credential.not_before_unix_ms
    assert world.snapshot.armed_as("attempt").at_unix_ms == credential.not_before_unix_ms + life * 75 // 100


def test_a_credential_adopted_from_the_store_draws_once():
    world = World()
    world.take(started(inventory=holding(stored(bundle_id="b", bundle_certificates=2)), draw_ppm=123))
    assert world.snapshot.credential.draw_ppm == 123
    assert world.snapshot.bundle.certificates == 2
    world.take(started(inventory=holding(stored()), draw_ppm=456))
    assert world.snapshot.credential.draw_ppm == 123


def test_a_problem_in_the_stores_is_told_once_per_start():
    world = provisioned()
    for _ in range(3):
        world.restart(inventory=Inventory(problem="half missing"), degraded=("journal: missing",))
        assert world.snapshot.degraded == ("journal: missing", "half missing")
    world.restart()
    assert world.snapshot.degraded == ()


def test_everything_stays_as_it_is_at_a_shutdown():
    world = renewing(Phase.POLLING)
    before = world.snapshot
    decision = world.take(ShutdownRequested(reason="SIGTERM"))
    assert wishes(decision) == ["stop"]
    assert world.snapshot.stopping
    world.restart()
    assert not world.snapshot.stopping
    assert world.snapshot.attempt == before.attempt


def test_a_hold_during_registration_lets_it_finish_and_begins_no_other():
    world = fresh()
    world.take(HoldRequested(hold=True, uid=0))
    world.answer(StageKey)
    world.deny(SubmitRegistration)
    world.fire("attempt")
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.armed == ()
    world.restart()
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    world.take(HoldRequested(hold=False, uid=0))
    assert world.snapshot.armed_as("attempt").delay_ms == 0
    world.fire("attempt")
    world.settle()
    assert world.snapshot.state is State.PROVISIONED


def test_without_dps_nothing_registers_whatever_is_released():
    world = World()
    world.take(started(policy=NO_DPS))
    world.take(HoldRequested(hold=True, uid=0))
    world.take(HoldRequested(hold=False, uid=0))
    world.fire("attempt")
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.armed == ()


# --- small print -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ATTEMPTS)
@pytest.mark.parametrize("phase", [Phase.SUBMITTING, Phase.POLLING])
def test_without_dps_an_attempt_does_not_go_on_after_a_start(place, phase):
    world = place(phase)
    decision = world.restart(policy=NO_DPS, down_ms=HOUR)
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert asked(decision) == []


@pytest.mark.parametrize("fields", [{"policy": NO_DPS}, {"fingerprint": "f2"}])
def test_an_attempt_that_is_given_up_anyway_did_not_fail_by_its_budget(fields):
    world = registering(Phase.SUBMITTING, policy=with_policy(budget_registrations=1))
    world.restart(**{"policy": with_policy(budget_registrations=1), **fields})
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.ended is None


def test_an_old_operation_is_not_submitted_again_beyond_the_budget():
    policy = with_policy(budget_registrations=1)
    world = registering(Phase.POLLING, policy=policy)
    world.restart(policy=policy, down_ms=HOUR)
    assert world.snapshot.phase is Phase.POLLING


def test_a_privileged_repeat_is_honoured_at_once():
    world = reprovisioning().settle()
    world.take(ReprovisionRequested(uid=0), after_ms=1_000)
    assert world.snapshot.state is State.REPROVISIONING


def test_asking_for_issuance_keeps_its_instant_over_a_start():
    world = certless()
    at = world.snapshot.armed_as("reissue").at_unix_ms
    world.restart(down_ms=HOUR)
    assert world.snapshot.armed_as("reissue").at_unix_ms == at


def test_an_issued_credential_found_at_a_start_ends_the_asking_for_issuance():
    world = certless()
    world.restart(inventory=holding(stored(5)))
    assert world.snapshot.armed_as("reissue") is None
    assert world.snapshot.armed_as("window") is not None


@pytest.mark.parametrize(("early_ms", "state"), [(1, State.PROVISIONED), (0, State.CERT_EXPIRING)])
def test_the_instant_at_which_the_window_opens_is_inside_it(early_ms, state):
    world = World(now=T0 - DAY + 63 * DAY - early_ms)
    world.take(started(inventory=holding(stored())))
    assert world.snapshot.state is state
    assert (world.snapshot.armed_as("window") is None) is (state is State.CERT_EXPIRING)


def test_a_success_that_is_outdated_is_a_success_for_the_counters():
    world = renewing(Phase.SUBMITTING)
    world.deny(SubmitRegistration)
    world.fire("attempt")
    world.until(Phase.COMMITTING)
    world.take(ConfigurationChanged(policy=with_policy(trust_bundle_id="mine"), fingerprint="f1"))
    world.answer(CommitCredential)
    assert (world.snapshot.failures, world.snapshot.budget.spent) == (1, 2)
    world.answer(RetireCredential)
    assert (world.snapshot.failures, world.snapshot.budget.spent) == (0, 0)


def test_one_background_proof_at_a_time():
    world = unproven()
    world.fire("prove")
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f1"))
    world.fire("prove")
    assert len(world.snapshot.outstanding) == 1


def test_a_credential_refused_during_a_hold_is_still_shown_later():
    world = unproven()
    world.take(HoldRequested(hold=True, uid=0), after_ms=15 * MINUTE)
    world.fire("prove")
    world.deny(ProveCredential, refused=True)
    assert world.position == (State.REPROVISIONING, Phase.IDLE)
    assert world.snapshot.armed_as("prove") is not None


def test_submitting_again_leaves_nothing_of_the_poll():
    world = polling(renewing)
    world.restart(down_ms=10 * MINUTE)
    assert [type(one.effect) for one in world.snapshot.outstanding] == [SubmitRegistration]
    world = renewing(Phase.POLLING)
    world.restart(down_ms=10 * MINUTE)
    assert world.snapshot.armed_as("phase") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"failure_class": "operator", "code": "csr-not-configured"},
        {"failure_class": "reregister", "code": "dps-404"},
    ],
)
def test_why_it_was_submitted_again_is_remembered(fields):
    world = polling(registering)
    world.deny(PollRegistration, **fields)
    assert world.snapshot.phase is Phase.SUBMITTING
    assert world.snapshot.attempt.last_error.code == fields["code"]


def test_each_phase_counts_its_own_repeats():
    """The backoff of the commit does not begin where that of the proof ended."""
    world = registering(Phase.PROVING)
    assert world.snapshot.attempt.tries == 1
    for _ in range(5):
        world.deny(ProveCredential, refused=True, draw_ppm=999_999)
        world.fire("phase")
    world.answer(ProveCredential)
    assert world.snapshot.attempt.last_error is None
    delays = []
    for _ in range(4):
        world.deny(CommitCredential, draw_ppm=999_999)
        delays.append(world.snapshot.armed_as("phase").delay_ms)
        world.fire("phase")
    assert delays == [1_999, 3_999, 7_999, 15_999]


def test_a_commit_that_could_not_be_proven_remembers_why():
    world = registering(Phase.PROVING)
    world.deny(ProveCredential, code="unreachable")
    assert world.snapshot.phase is Phase.COMMITTING
    assert (world.snapshot.attempt.last_error.code, world.snapshot.attempt.tries) == ("unreachable", 1)


def test_a_proven_successor_needs_no_proof_of_the_one_before():
    world = unproven()
    world.take(RenewRequested(uid=0))
    world.settle()
    assert world.snapshot.credential.proven
    assert world.snapshot.armed_as("prove") is None


def test_nothing_kept_is_nothing_to_collect():
    world = registering(Phase.COMMITTING, kernel_synchronised=False, build_unix_ms=T0 + DAY)
    assert not world.snapshot.clock.trusted
    world.settle()
    assert world.snapshot.armed_as("collect") is None


def test_a_hold_that_is_repeated_releases_nothing():
    world = waiting()
    world.take(HoldRequested(hold=True, uid=0))
    world.fire("attempt")
    world.take(HoldRequested(hold=True, uid=0))
    assert world.snapshot.armed_as("attempt") is None


@pytest.mark.parametrize(("left_ms", "usable"), [(0, False), (1, True)])
def test_a_certificate_is_usable_until_the_instant_it_ends(left_ms, usable):
    world = polling(renewing)
    ends = world.now + 10 + left_ms
    issued(world, not_before_unix_ms=ends - DAY, not_after_unix_ms=ends)
    assert (world.snapshot.phase is Phase.PROVING) is usable


@pytest.mark.parametrize(("after_ms", "begins"), [(59_999, False), (60_000, True)])
def test_for_a_minute_a_callers_repeat_gets_the_result_that_is_there(after_ms, begins):
    world = reprovisioning().settle()
    world.now = world.snapshot.reprovisioned_unix_ms + after_ms
    world.take(ReprovisionRequested(uid=1000, privileged=False))
    assert (world.snapshot.state is State.REPROVISIONING) is begins
