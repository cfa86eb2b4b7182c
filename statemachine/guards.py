"""Named questions that rows ask. Each reads the snapshot, the event and the stamp, and changes nothing."""

from statemachine import policy
from statemachine.effects import CommitCredential, PushModuleKeys
from statemachine.events import CredentialProofFailed, Failure, RegistrationAssigned, ReprovisionRequested
from statemachine.judge import chain_problem
from statemachine.states import Phase, State
from statemachine.work import Work

# --- may an attempt begin? ---------------------------------------------------------------------------


def source_is_none(work: Work) -> bool:
    """Neither DPS nor the configuration itself assigns the device."""
    return not work.snapshot.policy.dps and not assigned_by_configuration(work)


def assigned_by_configuration(work: Work) -> bool:
    """Manual provisioning: the configuration is the assignment, and DPS is never asked."""
    return work.snapshot.policy.manual is not None


def purging(work: Work) -> bool:
    """The device was given up, and not all of it is erased."""
    return work.snapshot.purge is not None


def on_hold(work: Work) -> bool:
    return work.snapshot.hold


def may_begin(work: Work) -> bool:
    """A source is configured, no hold, this is our machine, and the budget allows a registration."""
    return may_begin_by_command(work) and not image_unconfirmed(work) and within_budget(work)


def may_begin_by_command(work: Work) -> bool:
    """A person's word confirms a copied image and does not count against the budget."""
    return not source_is_none(work) and not work.snapshot.hold


def image_unconfirmed(work: Work) -> bool:
    """A copied image registers nothing. What its configuration names is not registered: a person wrote it."""
    return work.snapshot.foreign_machine and not assigned_by_configuration(work)


def within_budget(work: Work) -> bool:
    """In the last tenth of a certificate's life only the backoff bounds attempts: no budget may end one."""
    budget, settings = work.snapshot.budget, work.snapshot.policy
    return (
        budget.spent < settings.budget_registrations
        or work.now - budget.since_unix_ms >= settings.budget_window_ms
        or no_budget_counts(work)
    )


def no_budget_counts(work: Work) -> bool:
    """Attempts register nothing, or the certificate in use is about to end."""
    return assigned_by_configuration(work) or in_last_part(work)


def in_last_part(work: Work) -> bool:
    """The issued certificate in use is in the last tenth of its life; registrations are not counted then."""
    credential = work.snapshot.credential
    return (
        credential is not None
        and credential.source == "issued"
        and policy.last_part_begins(credential.not_before_unix_ms, credential.not_after_unix_ms)
        <= work.now
        < credential.not_after_unix_ms
    )


def beyond_callers_rights(work: Work) -> bool:
    """Only an operator may confirm a copied image or go beyond the budget, not every local caller."""
    event: ReprovisionRequested = work.event
    return not event.privileged and (image_unconfirmed(work) or not within_budget(work))


# --- what holds of the credential in use? ------------------------------------------------------------


def has_credential(work: Work) -> bool:
    return work.snapshot.credential is not None


def lost_credential(work: Work) -> bool:
    return work.snapshot.credential is None


def holds_issued(work: Work) -> bool:
    credential = work.snapshot.credential
    return credential is not None and credential.source == "issued"


def clock_known(work: Work) -> bool:
    """The true time is known: the clock is trusted, or the cloud said how wrong it is."""
    clock = work.snapshot.clock
    return clock.trusted or clock.measured


def credential_expired(work: Work) -> bool:
    """Only a trusted clock can say so."""
    credential = work.snapshot.credential
    return (
        credential is not None
        and credential.source == "issued"
        and work.snapshot.clock.trusted
        and work.now >= credential.not_after_unix_ms
    )


def window_open(work: Work) -> bool:
    """The certificate in use is inside its renewal window (or past it)."""
    credential, settings = work.snapshot.credential, work.snapshot.policy
    return (
        credential is not None
        and credential.source == "issued"
        and work.now
        >= policy.window_opens(
            credential.not_before_unix_ms,
            credential.not_after_unix_ms,
            earliest_percent=settings.renewal_earliest_percent,
        )
    )


def another_life(work: Work) -> bool:
    """What is armed was armed for another credential than the one the stores hold."""
    snapshot = work.snapshot
    credential, armed = snapshot.credential, snapshot.armed_as("expiry")
    if credential is None or credential.source == "configured":
        return armed is not None
    return armed is None or armed.at_unix_ms != credential.not_after_unix_ms


def another_life_window_open(work: Work) -> bool:
    return another_life(work) and window_open(work)


def assignment_outdated(work: Work) -> bool:
    """The stored assignment was made for another configuration, or the bundle is filed under another id.

    Next to an assignment by the configuration nothing may be left that DPS issued.
    """
    snapshot = work.snapshot
    assignment, bundle, manual = snapshot.assignment, snapshot.bundle, snapshot.policy.manual
    if snapshot.credential is None or assignment is None:
        return False
    if assignment.fingerprint != snapshot.fingerprint:
        return True
    if manual is None:
        return bundle is not None and bundle.id != snapshot.policy.trust_bundle_id
    issued = snapshot.credential.source == "issued" or bundle is not None
    return issued or (assignment.hub, assignment.device_id) != (manual.hub, manual.device_id)


def refusals_confirmed(work: Work) -> bool:
    """At least three refusals over at least 15 minutes, and not more often than the interval allows.

    Since revision 4 the one at hand is among them: it is about the credential in use, and the time is known.
    """
    refusals = work.snapshot.refusals
    counted = about_current(work) and work.snapshot.clock.trusted
    return (
        (counted or not work.since(4))
        and refusals.count >= policy.REFUSALS_NEEDED
        and work.now - refusals.first_unix_ms >= policy.REFUSALS_SPREAD_MS
        and (refusals.driven_unix_ms == 0 or work.now - refusals.driven_unix_ms >= refusals.interval_ms)
    )


def repeats_recent(work: Work) -> bool:
    """An unprivileged caller asks again within a minute of a reprovisioning that succeeded."""
    event: ReprovisionRequested = work.event
    return not event.privileged and work.now - work.snapshot.reprovisioned_unix_ms < policy.REPEAT_MS


# --- the running attempt -----------------------------------------------------------------------------


def attempt_running(work: Work) -> bool:
    return work.phase is not Phase.IDLE


def resting(work: Work) -> bool:
    return work.phase is Phase.IDLE


def backoff_goes_on(work: Work) -> bool:
    """The next attempt is armed, and what the last one ran into is not for a person to mend.

    After a failure of class operator a restart is usually the last step of the repair, so it tries at once.
    So it does when what failed had another source, or was for another manual assignment.
    """
    snapshot = work.snapshot
    error = snapshot.ended.error if snapshot.ended is not None else None
    mendable = error is not None and error.failure_class == "operator"
    tried = snapshot.ended.manual if snapshot.ended is not None else None
    same = tried == snapshot.policy.manual
    return snapshot.armed_as("attempt") is not None and same and not mendable


def renews_for_another_configuration(work: Work) -> bool:
    """What is in use was made for another configuration than the one in force. Since revision 3."""
    return work.since(3) and assignment_outdated(work)


def attempt_outdated(work: Work) -> bool:
    """The running attempt was begun under another configuration, or on another machine.

    Not once the store was told to flip: what happens then cannot be called back, only waited for.
    """
    snapshot = work.snapshot
    attempt = snapshot.attempt
    return (
        attempt is not None
        and (
            attempt.fingerprint != snapshot.fingerprint
            or attempt.manual != snapshot.policy.manual
            or image_unconfirmed(work)
        )
        and work.phase is not Phase.RETIRING
        and not any(isinstance(one.effect, CommitCredential) for one in snapshot.outstanding)
    )


def outdated_and_may_begin(work: Work) -> bool:
    """The same, and another attempt may begin at once."""
    return attempt_outdated(work) and may_begin(work)


def attempt_goes_on(work: Work) -> bool:
    """A start finds the attempt fit to be continued where it was."""
    return (
        not source_is_none(work)
        and not attempt_outdated(work)
        and not (work.state is State.RENEWING and lost_credential(work))
    )


def repeat_beyond_budget(work: Work) -> bool:
    """The registration under way would be sent once more, and the budget does not allow it."""
    return attempt_goes_on(work) and not within_budget(work)


def operation_too_old(work: Work) -> bool:
    """The attempt goes on, but its operation is older than 10 minutes, or from the future."""
    attempt = work.snapshot.attempt
    return (
        attempt is not None
        and attempt_goes_on(work)
        and within_budget(work)
        and not 0 <= work.now - attempt.operation_unix_ms < policy.OPERATION_LIFE_MS
    )


def staged_key_fits(work: Work) -> bool:
    """A key from a failed attempt waits, of the algorithm and name that are asked for now."""
    staged, settings = work.snapshot.staged, work.snapshot.policy
    return (
        staged is not None
        and staged.algorithm == settings.key_algorithm
        and staged.common_name == settings.registration_id
    )


def csr_refused(work: Work) -> bool:
    """DPS says that the enrolment issues no certificates, and a certificate-less answer is welcome here."""
    event: Failure = work.event
    return event.code == "csr-not-configured" and certless_welcome(work) and _sent_csr(work)


def _sent_csr(work: Work) -> bool:
    attempt = work.snapshot.attempt
    return attempt is not None and attempt.with_csr


def certless_welcome(work: Work) -> bool:
    """Not while renewing: that would switch the hub's authentication behind everybody's back."""
    return work.state is not State.RENEWING


def chain_acceptable(work: Work) -> bool:
    event: RegistrationAssigned = work.event
    return event.chain is not None and chain_problem(work.snapshot, event, work.now) is None


def certless_accepted(work: Work) -> bool:
    event: RegistrationAssigned = work.event
    return event.chain is None and certless_welcome(work)


def must_reregister(work: Work) -> bool:
    """DPS forgot the operation; a few times per attempt it is submitted again."""
    event: Failure = work.event
    attempt = work.snapshot.attempt
    return (
        event.failure_class == "reregister"
        and attempt is not None
        and attempt.submits < policy.SUBMITS_PER_ATTEMPT
        and within_budget(work)
    )


def worth_repeating(work: Work) -> bool:
    """Asking the same again may help."""
    event: Failure = work.event
    return event.failure_class in ("retry", "wait")


def commit_worth_repeating(work: Work) -> bool:
    """Asking the store again may help, and what is to be committed is still wanted, and still valid."""
    return worth_repeating(work) and not attempt_outdated(work) and not candidate_ended(work)


def candidate_ended(work: Work) -> bool:
    """The new certificate was over before it was current; only a known time can say so. Since revision 2."""
    candidate = work.snapshot.candidate
    return (
        work.since(2)
        and clock_known(work)
        and candidate is not None
        and candidate.chain is not None
        and candidate.chain.not_after_unix_ms <= work.now
    )


def staged_key_gone(work: Work) -> bool:
    """The new credential cannot be shown to anybody: the store has lost its key. Since revision 2."""
    event: CredentialProofFailed = work.event
    return work.since(2) and event.failure_class == "new_key"


def hub_may_be_late(work: Work) -> bool:
    """A refusal soon after a new assignment is no verdict, nor one of a certificate that has yet to begin.

    The latter since revision 2.
    """
    event: CredentialProofFailed = work.event
    candidate = work.snapshot.candidate
    if candidate is None or not event.refused:
        return False
    chain = candidate.chain
    ahead = work.since(2) and chain is not None and chain.not_before_unix_ms > candidate.assigned_unix_ms
    late = work.now - candidate.assigned_unix_ms < policy.HUB_LATE_MS
    return late and (candidate.new_assignment or ahead)


def refusal_to_be_checked(work: Work) -> bool:
    """The first refusal of the configured credential: a token may have been made by a wrong clock.

    Nothing else told the time before, as DPS does; the answer may have.
    """
    return configuration_refused(work) and _tries(work) == 1


def configuration_refused(work: Work) -> bool:
    """The hub refuses what the configuration says."""
    attempt = work.snapshot.attempt
    return candidate_refused(work) and attempt is not None and attempt.manual is not None


def _tries(work: Work) -> int:
    attempt = work.snapshot.attempt
    return 0 if attempt is None else attempt.tries


def candidate_refused(work: Work) -> bool:
    """The hub's verdict on the new credential is no."""
    event: CredentialProofFailed = work.event
    return event.refused


def proof_can_wait(work: Work) -> bool:
    """The hub cannot be reached, and the credential in use is good for a while.

    When the configuration is the assignment, a configured credential in use is the very one that is to be
    proven, or is configured no more: there is nothing to keep.
    """
    credential = work.snapshot.credential
    if credential is None:
        return False
    if credential.source == "configured":
        return not assigned_by_configuration(work)
    return work.now < policy.last_part_begins(credential.not_before_unix_ms, credential.not_after_unix_ms)


def new_hub_silent(work: Work) -> bool:
    """DPS named a hub that never answered, for as long as hubs may be late: perhaps there is none.

    What is in use works meanwhile, and DPS may know better by now. Since revision 2.
    """
    candidate = work.snapshot.candidate
    return (
        work.since(2)
        and candidate is not None
        and candidate.new_assignment
        and work.now - candidate.assigned_unix_ms >= policy.HUB_LATE_MS
        and proof_can_wait(work)
    )


def about_current(work: Work) -> bool:
    """The answer is about the credential in use."""
    credential = work.snapshot.credential
    return credential is not None and work.event.generation == credential.generation


def current_refused_for_good(work: Work) -> bool:
    """A credential committed unproven is refused, and its assignment is not new any more."""
    event: CredentialProofFailed = work.event
    credential = work.snapshot.credential
    return (
        about_current(work)
        and event.refused
        and credential is not None
        and not credential.proven
        and work.now - credential.committed_unix_ms >= policy.HUB_LATE_MS
    )


def refused_without_a_clock(work: Work) -> bool:
    """Refused three times in a row, with backoffs between, by a hub that may know an end we cannot see."""
    event: CredentialProofFailed = work.event
    return (
        about_current(work)
        and event.refused
        and not clock_known(work)
        and work.snapshot.refusals.count >= policy.REFUSALS_NEEDED
    )


def proof_wanted(work: Work) -> bool:
    """The hub was not asked yet, or its Date header is wanted because our clock is in doubt."""
    credential = work.snapshot.credential
    return credential is not None and (not credential.proven or not clock_known(work))


def rests_and_proof_wanted(work: Work) -> bool:
    return resting(work) and proof_wanted(work)


# --- module keys -------------------------------------------------------------------------------------


def stopping(work: Work) -> bool:
    """The service was asked to stop."""
    return work.snapshot.stopping


def push_under_way(work: Work) -> bool:
    """A push of module keys is unanswered; its answer is that to whoever asks meanwhile, too."""
    return any(isinstance(one.effect, PushModuleKeys) for one in work.snapshot.outstanding)


def nobody_to_push_to(work: Work) -> bool:
    """There is no credential in use that a hub would accept, or none that may be used."""
    return source_is_none(work) or lost_credential(work) or credential_expired(work)
