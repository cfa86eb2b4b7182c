"""Named pure work that rows do for one attempt: stage, submit, poll, prove, commit, retire."""

from msgspec import structs

from statemachine import policy
from statemachine.actions import problem_of, tidy
from statemachine.effects import (
    Asking,
    CommitCredential,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    Failure,
    KeyStaged,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
)
from statemachine.guards import in_last_part
from statemachine.judge import chain_problem
from statemachine.snapshot import (
    Assignment,
    Attempt,
    Budget,
    Bundle,
    Candidate,
    Credential,
    Ended,
    Problem,
    StagedKey,
    Superseded,
)
from statemachine.states import State
from statemachine.work import AttemptFailed, AttemptSucceeded, Work

_ATTEMPT_EFFECTS: tuple[type[Asking], ...] = (
    StageKey,
    SubmitRegistration,
    PollRegistration,
    ProveCredential,
    CommitCredential,
    RetireCredential,
)


def attempt_of(work: Work) -> Attempt:
    attempt = work.snapshot.attempt
    assert attempt is not None, "attempt rows run only while there is an attempt"
    return attempt


def candidate_of(work: Work) -> Candidate:
    candidate = work.snapshot.candidate
    assert candidate is not None, "the phase implies a candidate"
    return candidate


def _note(work: Work, **fields: object) -> None:
    work.change(attempt=structs.replace(attempt_of(work), **fields))


# --- stage and submit --------------------------------------------------------------------------------


def _open(work: Work) -> None:
    """Background work is forgotten: the attempt does it better, or its deadline asks again."""
    snapshot = work.snapshot
    number = snapshot.attempts + 1
    work.forget_asked(_ATTEMPT_EFFECTS)
    work.change(
        attempts=number,
        attempt=Attempt(
            number=number,
            fingerprint=snapshot.fingerprint,
            started_unix_ms=work.now,
            by_operator=work.ordered,
            manual=snapshot.policy.manual,
        ),
    )


def _open_registration(work: Work) -> None:
    _open(work)
    work.arm_after("timeout", work.snapshot.policy.attempt_timeout_ms)


def stage(work: Work) -> None:
    """A new generation's key, beside everything that exists."""
    _open_registration(work)
    snapshot = work.snapshot
    settings, credential = snapshot.policy, snapshot.credential
    generation = snapshot.newest_generation + 1
    reuse = None
    if not settings.rotate_key and credential is not None and credential.source == "issued":
        reuse = credential.generation
    work.change(newest_generation=generation)
    work.ask(
        StageKey(
            generation=generation,
            algorithm=settings.key_algorithm,
            common_name=settings.registration_id,
            reuse_generation=reuse,
        )
    )


def submit_staged(work: Work) -> None:
    """The key from an earlier attempt is used again: DPS may already have issued for it."""
    _open_registration(work)
    submit(work)


def keep_key_and_submit(work: Work) -> None:
    event: KeyStaged = work.event
    settings = work.snapshot.policy
    work.change(
        staged=StagedKey(
            generation=event.generation,
            spki_sha256=event.spki_sha256,
            algorithm=settings.key_algorithm,
            common_name=settings.registration_id,
        )
    )
    submit(work)


def submit(work: Work) -> None:
    """Register. Each time counts against the budget."""
    _spend(work)
    snapshot = work.snapshot
    attempt, staged = attempt_of(work), snapshot.staged
    work.disarm("phase")
    work.forget_asked((SubmitRegistration, PollRegistration))
    work.change(
        attempt=structs.replace(attempt, submits=attempt.submits + 1, operation_id=None, polls=0),
    )
    send_key = attempt.with_csr and staged is not None
    work.ask(
        SubmitRegistration(
            attempt=attempt.number,
            generation=staged.generation if staged is not None and send_key else None,
            spki_sha256=staged.spki_sha256 if staged is not None and send_key else "",
            clock_offset_ms=snapshot.clock.offset_ms,
        )
    )


def _spend(work: Work) -> None:
    """Count one registration. The last part of a certificate's life has a reserve of its own."""
    if in_last_part(work):
        return
    budget = work.snapshot.budget
    if budget.spent == 0 or work.now - budget.since_unix_ms >= work.snapshot.policy.budget_window_ms:
        budget = Budget(since_unix_ms=work.now)
    work.change(budget=structs.replace(budget, spent=budget.spent + 1))


def count_repeat(work: Work) -> None:
    """After a start the outstanding registration is performed again, under its id."""
    _spend(work)


def submit_without_csr(work: Work) -> None:
    _note(work, with_csr=False, last_error=problem_of(work.event))
    submit(work)


def submit_again(work: Work) -> None:
    event: Failure = work.event
    _note(work, last_error=problem_of(event))
    submit(work)


def fail_by_budget(work: Work) -> None:
    """Restart after restart must not register without bound."""
    _fail(
        work,
        Problem(
            failure_class="wait",
            code="budget-used-up",
            message="as many registrations without success as the budget allows were made",
        ),
    )


# --- poll --------------------------------------------------------------------------------------------


def keep_operation(work: Work) -> None:
    event: RegistrationAccepted = work.event
    _note(work, operation_id=event.operation_id, operation_unix_ms=work.now, polls=0)
    _arm_poll(work, event.retry_after_ms)


def _arm_poll(work: Work, retry_after_ms: int | None) -> None:
    """Since revision 2 no Retry-After takes the attempt's whole time: it would end without an answer."""
    longest_ms = work.snapshot.policy.attempt_timeout_ms // 2
    if work.since(2) and retry_after_ms is not None:
        retry_after_ms = min(retry_after_ms, longest_ms)
    work.arm_after("phase", policy.poll_delay_ms(attempt_of(work).polls, retry_after_ms))


def poll(work: Work) -> None:
    snapshot, attempt = work.snapshot, attempt_of(work)
    operation_id = attempt.operation_id
    assert operation_id is not None, "polling follows an accepted registration"
    staged = snapshot.staged
    _note(work, polls=attempt.polls + 1)
    work.ask(
        PollRegistration(
            attempt=attempt.number,
            operation_id=operation_id,
            spki_sha256=staged.spki_sha256 if staged is not None and attempt.with_csr else "",
            clock_offset_ms=snapshot.clock.offset_ms,
        )
    )


def poll_later(work: Work) -> None:
    _arm_poll(work, work.event.retry_after_ms)


def poll_again(work: Work) -> None:
    """The answer was lost, not the operation."""
    event: Failure = work.event
    _note(work, last_error=problem_of(event))
    _arm_poll(work, event.retry_after_ms)


# --- prove -------------------------------------------------------------------------------------------


def propose(work: Work) -> None:
    """What was assigned becomes the candidate."""
    snapshot, event = work.snapshot, work.event
    assert isinstance(event, RegistrationAssigned)
    staged, old, attempt = snapshot.staged, snapshot.assignment, attempt_of(work)
    generation = snapshot.newest_generation + 1
    if event.chain is not None and staged is not None:
        generation = staged.generation
    same = old is not None and (old.hub, old.device_id) == (event.assigned_hub, event.device_id)
    work.disarm("timeout", "phase")
    work.change(
        newest_generation=max(generation, snapshot.newest_generation),
        bundle_problem=event.bundle_problem,
        candidate=Candidate(
            generation=generation,
            hub=event.assigned_hub,
            device_id=event.device_id,
            assigned_unix_ms=work.now,
            substatus=event.substatus,
            certificate_type=event.certificate_type,
            chain=event.chain,
            bundle=event.bundle,
            bundle_id=snapshot.policy.trust_bundle_id,
            keep_bundle=event.bundle is None
            and not _removes_bundle(event, ordered=_registers_anew(work, attempt), same=same),
            new_assignment=not same,
        ),
    )
    _note(work, tries=0)


def _registers_anew(work: Work, attempt: Attempt) -> bool:
    """A person ordered registration from the start. A renewal, ordered or not, is none."""
    return attempt.by_operator and work.state is not State.RENEWING


def _removes_bundle(event: RegistrationAssigned, *, ordered: bool, same: bool) -> bool:
    """Absence speaks only in a dialect that has bundles, and only after a move or a person's word."""
    return event.bundle_spoken and event.bundle_problem is None and (ordered or not same)


def propose_configured(work: Work) -> None:
    """The configuration's assignment becomes the candidate, with the configured credential.

    Neither certificate nor bundle come with it, so its commit takes away what DPS issued before. It is not
    new to the hub: no DPS told anybody about it just now.
    """
    _open(work)
    snapshot = work.snapshot
    manual = snapshot.policy.manual
    assert manual is not None, "the row's guard says so"
    generation = snapshot.newest_generation + 1
    work.change(
        newest_generation=generation,
        bundle_problem=None,
        candidate=Candidate(
            generation=generation,
            hub=manual.hub,
            device_id=manual.device_id,
            assigned_unix_ms=work.now,
            bundle_id=snapshot.policy.trust_bundle_id,
        ),
    )
    prove(work)


def propose_and_prove(work: Work) -> None:
    propose(work)
    chain = candidate_of(work).chain
    if chain is not None:
        _learn_time(work, chain.not_before_unix_ms)
    prove(work)


def _learn_time(work: Work, begins_unix_ms: int) -> None:
    """A verified certificate that has begun moves the floor, and shows up a clock that is behind it."""
    clock = work.snapshot.clock
    clock = structs.replace(clock, floor_unix_ms=max(clock.floor_unix_ms, begins_unix_ms))
    if begins_unix_ms > work.now + policy.CLOCK_TOLERANCE_MS:
        clock = structs.replace(
            clock,
            trusted=False,
            reason="is earlier than the beginning of a certificate just issued",
            offset_ms=begins_unix_ms - work.stamp,
        )
    before = work.snapshot.clock.correction_ms
    work.believe(clock)
    if clock.correction_ms != before:
        work.rearm_deadlines()


def prove(work: Work) -> None:
    candidate = candidate_of(work)
    _note(work, tries=attempt_of(work).tries + 1)
    work.ask(
        ProveCredential(
            generation=candidate.generation,
            hub=candidate.hub,
            device_id=candidate.device_id,
            issued=candidate.chain is not None,
            chain_pem=candidate.chain.chain_pem if candidate.chain is not None else None,
            clock_offset_ms=work.snapshot.clock.offset_ms,
        )
    )


def act_again_later(work: Work) -> None:
    """The running phase acts again after a backoff of its own."""
    event: Failure = work.event
    attempt, settings = attempt_of(work), work.snapshot.policy
    _note(work, last_error=problem_of(event))
    work.arm_after(
        "phase",
        policy.repeat_delay_ms(
            attempt.tries,
            base_ms=settings.backoff_base_ms,
            cap_ms=settings.backoff_cap_ms,
            draw_ppm=event.draw_ppm,
            retry_after_ms=event.retry_after_ms,
        ),
    )


# --- commit and retire -------------------------------------------------------------------------------


def commit_proven(work: Work) -> None:
    work.change(candidate=structs.replace(candidate_of(work), proven=True))
    _note(work, tries=0, last_error=None)
    commit(work)


def commit_unproven(work: Work) -> None:
    """Better a credential nobody could ask about than one that ends first."""
    event: Failure = work.event
    _note(work, tries=0, last_error=problem_of(event))
    commit(work)


def commit(work: Work) -> None:
    candidate = candidate_of(work)
    _note(work, tries=attempt_of(work).tries + 1)
    work.ask(
        CommitCredential(
            generation=candidate.generation,
            hub=candidate.hub,
            device_id=candidate.device_id,
            fingerprint=attempt_of(work).fingerprint,
            chain_pem=candidate.chain.chain_pem if candidate.chain is not None else None,
            bundle_id=candidate.bundle_id,
            bundle_pem=candidate.bundle.bundle_pem if candidate.bundle is not None else None,
            keep_bundle=candidate.keep_bundle,
            substatus=candidate.substatus,
            certificate_type=candidate.certificate_type,
        )
    )


def switch(work: Work) -> None:
    """The flip is durable: from here on the candidate is the credential in use."""
    snapshot, candidate = work.snapshot, candidate_of(work)
    old, chain, bundle = snapshot.credential, candidate.chain, candidate.bundle
    superseded = snapshot.superseded
    if old is not None and old.generation != candidate.generation:
        superseded = (
            *superseded,
            Superseded(generation=old.generation, keep_until_unix_ms=max(old.not_after_unix_ms, work.now)),
        )
    kept = snapshot.bundle if candidate.keep_bundle else None
    bundle_id = candidate.bundle_id
    work.disarm("prove", "collect")
    work.change(
        superseded=superseded,
        credential=Credential(
            generation=candidate.generation,
            source="issued" if chain is not None else "configured",
            sha256=chain.sha256 if chain is not None else "",
            serial=chain.serial if chain is not None else "",
            spki_sha256=chain.spki_sha256 if chain is not None else "",
            not_before_unix_ms=chain.not_before_unix_ms if chain is not None else 0,
            not_after_unix_ms=chain.not_after_unix_ms if chain is not None else 0,
            proven=candidate.proven,
            committed_unix_ms=work.now,
            draw_ppm=work.event.draw_ppm,
        ),
        assignment=Assignment(
            hub=candidate.hub,
            device_id=candidate.device_id,
            fingerprint=attempt_of(work).fingerprint,
            since_unix_ms=work.now,
            substatus=candidate.substatus,
            certificate_type=candidate.certificate_type,
        ),
        bundle=structs.replace(kept, id=bundle_id)
        if kept is not None
        else None
        if bundle is None
        else Bundle(id=bundle_id, certificates=bundle.certificates, sha256=bundle.sha256),
        staged=None,
        candidate=None,
    )
    tidy(work)


# --- ends --------------------------------------------------------------------------------------------


def finish(work: Work) -> None:
    """Everything is done; whether the old keys could be removed now does not matter."""
    _end(work, None)
    work.signal(AttemptSucceeded)


def fail(work: Work) -> None:
    """The answer ends the attempt. What is in use was not touched."""
    event: Failure = work.event
    _fail(work, problem_of(event))


def fail_for_a_person(work: Work) -> None:
    """Nothing but another configuration, or a change at the hub, can make this one accepted."""
    event: Failure = work.event
    _fail(work, structs.replace(problem_of(event), failure_class="operator"))


def fail_to_prove_in_time(work: Work) -> None:
    """Whatever the hub said of a certificate that has ended, another one may fare better."""
    event: Failure = work.event
    _fail(work, structs.replace(problem_of(event), failure_class="retry"))


def fail_to_commit_in_time(work: Work) -> None:
    """A commit that is under way cannot be called back; one that would be asked for again can be left."""
    last = attempt_of(work).last_error
    after = f"; the last error was {last.code}: {last.message}" if last is not None else ""
    _fail(
        work,
        Problem(
            failure_class="retry",
            code="certificate-ended",
            message=f"the new certificate ended before it could be made current{after}"[:400],
        ),
    )


def fail_by_judgement(work: Work) -> None:
    """DPS assigned, but what it issued cannot be used."""
    problem = chain_problem(work.snapshot, work.event, work.now)
    assert problem is not None, "the row before this one takes acceptable chains"
    _fail(work, problem)


def fail_by_timeout(work: Work) -> None:
    last = attempt_of(work).last_error
    seconds = work.snapshot.policy.attempt_timeout_ms // 1000
    after = f"; its last error was {last.code}: {last.message}" if last is not None else ""
    _fail(
        work,
        Problem(
            failure_class="retry",
            code="attempt-timeout",
            message=f"no final answer within {seconds} s{after}"[:400],
            tracking_id=last.tracking_id if last is not None else None,
        ),
    )


def _fail(work: Work, problem: Problem) -> None:
    if _gives_back(work, problem):
        # A wrong clock is not the cloud's fault, and DPS saw nothing of what was never sent.
        budget = work.snapshot.budget
        work.change(budget=structs.replace(budget, spent=max(budget.spent - 1, 0)))
    work.change(failures=work.snapshot.failures + 1)
    _end(work, problem)
    if problem.failure_class == "new_key" and work.snapshot.staged is not None:
        work.change(staged=None)
        tidy(work)
    work.signal(AttemptFailed)


def _gives_back(work: Work, problem: Problem) -> bool:
    """The attempt's registration, where it made one, does not count."""
    return attempt_of(work).manual is None and (problem.failure_class == "clock" or _never_sent(work))


def _never_sent(work: Work) -> bool:
    """The registration itself, not a poll of one that arrived."""
    event = work.event
    return isinstance(event, RegistrationFailed) and event.unsent and attempt_of(work).operation_id is None


def _end(work: Work, problem: Problem | None) -> None:
    attempt = attempt_of(work)
    clear(work)
    work.change(
        ended=Ended(
            number=attempt.number,
            started_unix_ms=attempt.started_unix_ms,
            ended_unix_ms=work.now,
            error=problem,
            manual=attempt.manual,
        )
    )


def clear(work: Work) -> None:
    """Nothing of the attempt is left but the staged key."""
    work.disarm("phase", "timeout")
    work.forget_asked(_ATTEMPT_EFFECTS)
    work.change(attempt=None, candidate=None)
