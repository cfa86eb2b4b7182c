"""Named pure work that rows do for the lifecycle. What one attempt does is in attempt_actions.py."""

from msgspec import structs

from statemachine import policy
from statemachine.absorb import arm_overdue
from statemachine.effects import (
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StopService,
)
from statemachine.events import Failure, RenewRequested, ReprovisionRequested
from statemachine.guards import (
    assigned_by_configuration,
    holds_issued,
    image_unconfirmed,
    may_begin,
    may_begin_by_command,
    no_budget_counts,
    proof_wanted,
)
from statemachine.snapshot import Budget, Credential, Problem, Purge, Refusals, Superseded
from statemachine.work import AttemptAbandoned, AttemptBegun, Work

COLLECT_AGAIN_MS = 3_600_000
PURGE_AGAIN_MS = 60_000

# --- beginning and giving up attempts ----------------------------------------------------------------


def begin(work: Work) -> None:
    """Start an attempt; the attempt table takes it from here."""
    _begin(work, by_operator=False)


def begin_by_command(work: Work) -> None:
    """An operator's word confirms a copied image, and starts counting afresh. Any other caller's does not."""
    if _by_operator(work):
        work.change(foreign_machine=False, budget=Budget(), failures=0)
    _begin(work, by_operator=_by_operator(work))


def _by_operator(work: Work) -> bool:
    event: ReprovisionRequested | RenewRequested = work.event
    return isinstance(event, RenewRequested) or event.privileged


def begin_by_refusal(work: Work) -> None:
    """The interval to the next refusal-driven registration is 6 hours, then doubles."""
    refusals = work.snapshot.refusals
    interval = policy.REFUSAL_INTERVAL_MS if refusals.driven_unix_ms == 0 else refusals.interval_ms * 2
    work.change(
        refusals=Refusals(driven_unix_ms=work.now, interval_ms=min(interval, policy.REFUSAL_INTERVAL_CAP_MS))
    )
    begin_or_wait(work)


def begin_or_wait(work: Work) -> None:
    """Start an attempt, or arm the instant at which one may start."""
    if may_begin(work):
        _begin(work, by_operator=False)
        return
    if may_begin_by_command(work) and not image_unconfirmed(work):
        wait_for_budget(work)
    prove_later(work)


def begin_without_credential(work: Work) -> None:
    forget_life(work)
    begin_or_wait(work)


def forget_life(work: Work) -> None:
    """Deadlines of a credential that is gone."""
    work.disarm("window", "expiry", "reissue", "prove")


def begin_anew(work: Work) -> None:
    """Whatever is running belongs to the past."""
    work.signal(AttemptAbandoned)
    begin_or_wait(work)


def _begin(work: Work, *, by_operator: bool) -> None:
    work.disarm("attempt", "reissue")
    work.ordered = by_operator
    work.signal(AttemptBegun)


def join(work: Work) -> None:
    """The running attempt is the one asked for; when an operator asked, it is ordered from now on."""
    attempt = work.snapshot.attempt
    if attempt is not None and _by_operator(work):
        work.change(attempt=structs.replace(attempt, by_operator=True), foreign_machine=False)


def abandon(work: Work) -> None:
    work.signal(AttemptAbandoned)
    work.disarm("window", "attempt", "expiry", "reissue", "prove")


def wait_for_budget(work: Work) -> None:
    """Until the budget's window has passed, or the last tenth of the certificate's life begins."""
    snapshot = work.snapshot
    at = snapshot.budget.since_unix_ms + snapshot.policy.budget_window_ms
    last = _last_part_ahead(work)
    work.arm_at("attempt", at if last is None else min(at, last))


def _last_part_ahead(work: Work) -> int | None:
    """When the last tenth of the issued certificate's life begins, if that is still to come."""
    credential = work.snapshot.credential
    if credential is None or credential.source == "configured":
        return None
    last = policy.last_part_begins(credential.not_before_unix_ms, credential.not_after_unix_ms)
    return last if last > work.now else None


# --- the life of the credential in use ---------------------------------------------------------------


def credential_of(work: Work) -> Credential:
    credential = work.snapshot.credential
    assert credential is not None, "these rows run only where a credential is in use"
    return credential


def arm_life(work: Work) -> None:
    """Arm what the credential in use brings with itself: its window and end, or the next ask for issuance.

    Where the configuration is the assignment there is nobody to ask.
    """
    credential, settings = credential_of(work), work.snapshot.policy
    work.disarm("attempt")
    if assigned_by_configuration(work):
        work.disarm("window", "expiry", "reissue")
        return
    if credential.source == "configured":
        work.disarm("window", "expiry")
        work.arm_after("reissue", settings.reissue_interval_ms)
        return
    work.disarm("reissue")
    opens = policy.window_opens(
        credential.not_before_unix_ms,
        credential.not_after_unix_ms,
        earliest_percent=settings.renewal_earliest_percent,
    )
    work.arm_at("expiry", credential.not_after_unix_ms)
    if work.now < opens:
        work.arm_at("window", opens)
    else:
        work.disarm("window")


def arm_renewal(work: Work) -> None:
    """Inside the window: the attempt begins at the certificate's own drawn instant."""
    credential, settings = credential_of(work), work.snapshot.policy
    due = policy.renew_at(
        credential.not_before_unix_ms,
        credential.not_after_unix_ms,
        earliest_percent=settings.renewal_earliest_percent,
        latest_percent=settings.renewal_latest_percent,
        draw_ppm=credential.draw_ppm,
        windows=settings.maintenance_windows,
    )
    if due > work.now:
        work.arm_at("attempt", due)
    else:
        arm_overdue(work)


def enter_life(work: Work) -> None:
    """Serve the credential in use: its deadlines, its renewal when the window is open, and its proof."""
    arm_life(work)
    if holds_issued(work) and work.snapshot.armed_as("window") is None:
        arm_renewal(work)
    prove_later(work)


def retry_later(work: Work) -> None:
    """The attempt failed: arm the next one by backoff."""
    snapshot = work.snapshot
    ended = snapshot.ended
    problem = None if ended is None else ended.error
    assert problem is not None, "an attempt that failed says why"
    credential, settings = snapshot.credential, snapshot.policy
    remaining = None
    if credential is not None and credential.source == "issued":
        remaining = max(credential.not_after_unix_ms - work.now, 0) or None
    delay = policy.backoff_ms(
        failures=snapshot.failures,
        failure_class=problem.failure_class,
        draw_ppm=work.event.draw_ppm,
        base_ms=settings.backoff_base_ms,
        cap_ms=settings.backoff_cap_ms,
        retry_after_ms=problem.retry_after_ms,
        remaining_life_ms=remaining,
        patient=work.since(2),
    )
    work.arm_after("attempt", max(delay, _budget_gap(work)))
    if remaining is not None and snapshot.armed_as("expiry") is None:
        # It passed unheeded while the clock was not trusted; since then the service was started anew.
        work.arm_at("expiry", work.now + remaining)
    prove_later(work)


def _budget_gap(work: Work) -> int:
    """Least wait for the budget's sake, never beyond the instant from which none is kept."""
    snapshot = work.snapshot
    budget, settings = snapshot.budget, snapshot.policy
    if no_budget_counts(work):
        return 0
    gap = policy.budget_gap_ms(
        spent=budget.spent,
        registrations=settings.budget_registrations,
        left_ms=budget.since_unix_ms + settings.budget_window_ms - work.now,
    )
    last = _last_part_ahead(work)
    return gap if last is None else min(gap, last - work.now)


def rest_after_failure(work: Work) -> None:
    """The credential in use has time: its own deadlines go on, or issuance is asked for again in time."""
    arm_life(work)
    prove_later(work)


def succeed(work: Work) -> None:
    """The attempt's result is current: serve it, and start counting afresh."""
    work.change(failures=0, budget=Budget(), refusals=_calmed(work))
    enter_life(work)


def succeed_outdated(work: Work) -> None:
    """It worked, but is not what is wanted any more."""
    work.change(failures=0, budget=Budget(), refusals=_calmed(work))
    begin_or_wait(work)


def succeed_reprovisioning(work: Work) -> None:
    work.change(reprovisioned_unix_ms=work.now)
    succeed(work)


def _calmed(work: Work) -> Refusals:
    """The count starts again, but the interval between refusal-driven registrations stays."""
    refusals = work.snapshot.refusals
    return structs.replace(refusals, count=0, first_unix_ms=0)


# --- proving and tidying up in the background --------------------------------------------------------


def prove_later(work: Work) -> None:
    """What was committed unproven is proven at the next contact; a clock in doubt is looked up there."""
    if not proof_wanted(work) or work.snapshot.armed_as("prove") is not None:
        return
    cap_ms = policy.CLOCK_AGAIN_MS if credential_of(work).proven else work.snapshot.policy.backoff_cap_ms
    delay = policy.repeat_delay_ms(
        1, base_ms=cap_ms, cap_ms=cap_ms, draw_ppm=work.event.draw_ppm, retry_after_ms=None
    )
    work.arm_after("prove", delay)


def prove_current(work: Work) -> None:
    snapshot = work.snapshot
    credential, assignment = credential_of(work), snapshot.assignment
    assert assignment is not None, "a credential comes and goes with its assignment"
    work.forget_asked((ProveCredential,))
    work.ask(
        ProveCredential(
            generation=credential.generation,
            hub=assignment.hub,
            device_id=assignment.device_id,
            issued=credential.source == "issued",
            clock_offset_ms=snapshot.clock.offset_ms,
        )
    )


def mark_proven(work: Work) -> None:
    work.change(credential=structs.replace(credential_of(work), proven=True))
    tidy(work)


def tidy(work: Work) -> None:
    """Remove generations nothing refers to, and arm the instant at which the next one may go."""
    snapshot = work.snapshot
    credential = snapshot.credential
    proven = credential is not None and credential.proven
    kept = _still_needed(work, proven=proven)
    work.change(superseded=kept)
    keep = {one.generation for one in kept}
    if credential is not None:
        keep.add(credential.generation)
    if snapshot.staged is not None:
        keep.add(snapshot.staged.generation)
    work.forget_asked((RetireCredential,))
    newest = snapshot.newest_generation if work.since(2) else None
    work.ask(RetireCredential(keep=tuple(sorted(keep)), newest=newest))
    if kept and not snapshot.clock.trusted:
        work.arm_after("collect", policy.DAY_MS)
    elif kept and proven:
        work.arm_at("collect", min(one.keep_until_unix_ms for one in kept))


def _still_needed(work: Work, *, proven: bool) -> tuple[Superseded, ...]:
    """Nothing is deleted by a clock that is not trusted, nor the latest before its successor was proven."""
    superseded = work.snapshot.superseded
    if not work.snapshot.clock.trusted:
        return superseded
    latest = () if proven else superseded[-1:]
    return tuple(one for one in superseded if one.keep_until_unix_ms > work.now or one in latest)


def problem_of(event: Failure) -> Problem:
    return Problem(
        failure_class=event.failure_class,
        code=event.code,
        message=event.message,
        tracking_id=event.tracking_id,
        retry_after_ms=event.retry_after_ms,
    )


def collect_later(work: Work) -> None:
    """The running attempt tidies up itself when it commits."""
    work.arm_after("collect", COLLECT_AGAIN_MS)


# --- module keys: nothing here looks at the phase or moves the machine --------------------------------


def push_module_keys(work: Work) -> None:
    """Ask for it. What the last push ran into is history."""
    work.change(module_keys_problem=None)
    work.ask(PushModuleKeys())


def note_pushed(work: Work) -> None:
    """Hub and device agree again."""
    work.change(module_keys_lost=None)


def note_not_pushed(work: Work) -> None:
    """No retry: a person asked, is told, and decides."""
    event: Failure = work.event
    work.change(module_keys_problem=problem_of(event))


# --- giving the device up ------------------------------------------------------------------------------


def purge(work: Work) -> None:
    """Forget it all, and have it erased; no attempt begins until somebody releases the hold."""
    work.signal(AttemptAbandoned)
    work.disarm("window", "attempt", "expiry", "reissue", "prove", "collect")
    # Abandoning forgets the rest.
    work.forget_asked((PushModuleKeys,))
    work.change(
        hold=True,
        given_up=True,
        purge=Purge(),
        credential=None,
        assignment=None,
        bundle=None,
        bundle_problem=None,
        staged=None,
        superseded=(),
        module_keys_lost=None,
        module_keys_problem=None,
        budget=Budget(),
        failures=0,
    )
    work.ask(PurgeCredentials())


def purge_later(work: Work) -> None:
    event: Failure = work.event
    work.change(purge=Purge(problem=problem_of(event)))
    work.arm_after("collect", PURGE_AGAIN_MS)


def purge_again(work: Work) -> None:
    work.forget_asked((PurgeCredentials,))
    work.ask(PurgeCredentials())


def purged(work: Work) -> None:
    work.change(purge=None)
    work.disarm("collect")


# --- the rest ----------------------------------------------------------------------------------------


def stop(work: Work) -> None:
    """Nothing is undone: what is under way is in the snapshot and goes on at the next start."""
    work.change(stopping=True)
    work.tell(StopService())


def release(work: Work) -> None:
    """After a hold: what waited may begin now."""
    if not work.snapshot.hold and work.snapshot.armed_as("attempt") is None:
        work.arm_after("attempt", 0)
