"""Facts an event carries enter the snapshot here, before any row is looked at. Nothing is decided.

The clock rule (which instants may be believed) is one of these facts: every stamp and every Date
header passes through ``_clock``.
"""

from collections.abc import Callable
from typing import Any

from msgspec import structs

from statemachine import policy
from statemachine.events import (
    Answer,
    ClockObserved,
    ConfigurationChanged,
    CredentialLost,
    CredentialProofFailed,
    Event,
    HoldRequested,
    HubRefusedCredential,
    Inventory,
    ModuleKeysLost,
    RulesChanged,
    Started,
    StoredCredential,
)
from statemachine.guards import clock_known, credential_expired, source_is_none
from statemachine.snapshot import (
    Armed,
    Assignment,
    Budget,
    Bundle,
    ClockTrust,
    Credential,
    Snapshot,
)
from statemachine.states import ATTEMPT_STATES
from statemachine.work import Work


def absorb(work: Work) -> None:
    """Take in what the event says. Deadlines are armed again when the clock became trusted or was set."""
    before = work.snapshot
    # A change of rules comes before the start that brought it, which compares its stamp with the last run's.
    last = before.last_unix_ms if isinstance(work.event, RulesChanged) else work.stamp
    clock = _clock(before, work.event, work.stamp)
    work.believe(clock, sequence=before.sequence + 1, last_unix_ms=last)
    if work.now < before.last_unix_ms + before.clock.correction_ms:
        _nothing_past_lies_ahead(work)
    take = _TAKES.get(type(work.event))
    if take is not None:
        take(work)
    if isinstance(work.event, Started):
        return
    observed = work.event if isinstance(work.event, ClockObserved) else None
    jump_ms = 0 if observed is None else observed.jump_ms
    trust_gained = clock.trusted and not before.clock.trusted
    confirmed = observed is not None and observed.kernel_synchronised
    if trust_gained or (confirmed and abs(jump_ms) > policy.CLOCK_TOLERANCE_MS):
        # What failed until now may have failed because of the clock.
        work.change(budget=Budget())
    corrected_ms = clock.correction_ms - before.clock.correction_ms
    if trust_gained or jump_ms or corrected_ms:
        _move_delays(work, corrected_ms + jump_ms)
        _rearm_life(work)
        if work.since(2):
            _try_again(work)


def _move_delays(work: Work, by_ms: int) -> None:
    """The best known time moved; what counts elapsed time ends no sooner or later for it."""
    armed = tuple(
        one if one.delay_ms is None else structs.replace(one, at_unix_ms=one.at_unix_ms + by_ms)
        for one in work.snapshot.armed
    )
    work.change(armed=armed)


def _try_again(work: Work) -> None:
    """More is known of the time: what a wrong clock made fail does not sit out a wait that it earned.

    And where still nobody knows the time, the hub's Date header is asked for.
    """
    snapshot = work.snapshot
    delay_ms = policy.CLOCK_TURNED_MS * work.event.draw_ppm // policy.DRAWS
    attempt, ended = snapshot.attempt, snapshot.ended
    problem = attempt.last_error if attempt is not None else None if ended is None else ended.error
    waiting = snapshot.armed_as("attempt" if attempt is None else "phase")
    if problem is not None and problem.failure_class == "clock" and waiting is not None:
        _arm_sooner(work, waiting, delay_ms)
    if snapshot.credential is None or clock_known(work) or source_is_none(work):
        return
    looking = snapshot.armed_as("prove")
    if looking is None:
        work.arm_after("prove", delay_ms)
    else:
        _arm_sooner(work, looking, delay_ms)


def _arm_sooner(work: Work, armed: Armed, delay_ms: int) -> None:
    if armed.at_unix_ms > work.now + delay_ms:
        work.arm_after(armed.name, delay_ms)


def _nothing_past_lies_ahead(work: Work) -> None:
    """The clock went back: what has happened is at latest now, or waits from it could last for years."""
    snapshot, now = work.snapshot, work.now
    budget, refusals = snapshot.budget, snapshot.refusals
    work.change(
        budget=structs.replace(budget, since_unix_ms=min(budget.since_unix_ms, now)),
        refusals=structs.replace(
            refusals,
            first_unix_ms=min(refusals.first_unix_ms, now),
            driven_unix_ms=min(refusals.driven_unix_ms, now),
        ),
        reprovisioned_unix_ms=min(snapshot.reprovisioned_unix_ms, now),
    )
    credential, candidate = snapshot.credential, snapshot.candidate
    if credential is not None and credential.committed_unix_ms > now:
        work.change(credential=structs.replace(credential, committed_unix_ms=now))
    if candidate is not None and candidate.assigned_unix_ms > now:
        work.change(candidate=structs.replace(candidate, assigned_unix_ms=now))


def _rearm_life(work: Work) -> None:
    """Every deadline again, so that what a set clock put into the past fires, and what it put off waits."""
    work.rearm_deadlines()
    credential = work.snapshot.credential
    if credential is not None and credential.source == "issued" and work.snapshot.armed_as("expiry") is None:
        work.arm_at("expiry", credential.not_after_unix_ms)


def arm_overdue(work: Work) -> None:
    """Spread over what slack is left; at once when nothing is left to lose."""
    credential = work.snapshot.credential
    slack = 0 if credential is None or credential_expired(work) else credential.not_after_unix_ms - work.now
    work.arm_after("attempt", policy.start_spread_ms(draw_ppm=work.event.draw_ppm, slack_ms=slack))


def rearm_all(work: Work) -> None:
    """After a start: everything armed again. What is overdue is spread; a delay keeps what is left of it.

    Except the running attempt's deadline: time without power does not count against it.
    """
    for armed in work.snapshot.armed:
        if armed.name == "timeout":
            work.arm_after("timeout", work.snapshot.policy.attempt_timeout_ms)
        elif armed.name == "attempt" and armed.at_unix_ms <= work.now:
            arm_overdue(work)
        elif armed.delay_ms is not None:
            work.arm_after(armed.name, min(armed.delay_ms, max(armed.at_unix_ms - work.now, 0)))
        else:
            work.arm_at(armed.name, armed.at_unix_ms)


def _clock(snapshot: Snapshot, event: Event, stamp: int) -> ClockTrust:
    """What is known of our clock after this event. ``stamp`` is what it shows."""
    clock = snapshot.clock
    if isinstance(event, Answer) and event.server_date_unix_ms is not None:
        offset = event.server_date_unix_ms - stamp
        near = abs(offset) <= policy.CLOCK_TOLERANCE_MS
        if not near and clock.measured and abs(offset - clock.offset_ms) <= policy.DATE_TOLERANCE_MS:
            # As measured before: latency and drift are no reason to move every deadline.
            offset = clock.offset_ms
        return ClockTrust(
            trusted=near,
            reason="agrees with the cloud" if near else f"is {_span(offset)} the cloud's clock",
            floor_unix_ms=max(clock.floor_unix_ms, event.server_date_unix_ms),
            offset_ms=offset,
            measured=True,
        )
    if isinstance(event, Started):
        return _clock_at_start(snapshot, event, stamp)
    if isinstance(event, ClockObserved):
        return _clock_observed(clock, event, stamp, since_2=snapshot.rules_revision >= 2)
    return clock


def _clock_at_start(snapshot: Snapshot, event: Started, stamp: int) -> ClockTrust:
    floor = max(snapshot.clock.floor_unix_ms, event.build_unix_ms)
    clock = structs.replace(snapshot.clock, floor_unix_ms=floor)
    if event.kernel_synchronised:
        return _synchronised(clock, stamp)
    bound = event.rules_revision >= 2
    if snapshot.last_unix_ms and abs(stamp - snapshot.last_unix_ms) > policy.JUMP_MS:
        # Off for long, reset by the power cut, or set meanwhile: what the offset was says nothing now.
        doubt = "moved by more than a day while the service was down"
        return _distrusted(clock, doubt, offset_ms=max(floor - stamp, 0), at_least=bound)
    if stamp + clock.correction_ms < floor:
        doubt = "is earlier than an instant known to have passed"
        return _distrusted(clock, doubt, offset_ms=floor - stamp, at_least=bound)
    if snapshot.last_unix_ms == 0:
        return structs.replace(clock, trusted=True, reason="plausible: nothing contradicts it")
    # As it was: a restart alone confirms nothing.
    return clock


def _clock_observed(clock: ClockTrust, event: ClockObserved, stamp: int, *, since_2: bool) -> ClockTrust:
    """Before revision 2 each step was looked at alone, and a bound was taken for an offset."""
    if event.kernel_synchronised:
        return _synchronised(clock, stamp)
    # Many small steps are as far as a large one.
    moved = event.jump_ms + (clock.moved_ms if clock.trusted else 0)
    jumped = abs(moved) > policy.JUMP_MS
    if clock.trusted and not jumped and stamp >= clock.floor_unix_ms:
        return structs.replace(clock, moved_ms=moved) if since_2 else clock
    # True time did not jump: elapsed time carries on what was known before.
    carried = (0 if clock.trusted else clock.offset_ms) - moved
    if clock.at_least and event.jump_ms:
        # Nothing was known but a bound. Above it, whoever set the clock knows better.
        carried = 0
    bound = clock.floor_unix_ms - stamp
    behind = stamp < clock.floor_unix_ms
    reason = "jumped by more than a day" if jumped else clock.reason
    return _distrusted(
        clock,
        "is earlier than an instant known to have passed" if behind else reason,
        offset_ms=max(carried, bound),
        measured=clock.measured,
        at_least=since_2 and (carried < bound or (clock.at_least and not event.jump_ms)),
    )


def _synchronised(clock: ClockTrust, stamp: int) -> ClockTrust:
    return ClockTrust(
        trusted=True,
        reason="the kernel says it is synchronised",
        floor_unix_ms=max(clock.floor_unix_ms, stamp),
    )


def _distrusted(
    clock: ClockTrust, reason: str, *, offset_ms: int, measured: bool = False, at_least: bool = False
) -> ClockTrust:
    return structs.replace(
        clock,
        trusted=False,
        reason=reason,
        offset_ms=offset_ms,
        measured=measured,
        at_least=at_least,
        moved_ms=0,
    )


def _span(offset_ms: int) -> str:
    return f"{abs(offset_ms) // 1000} s {'behind' if offset_ms > 0 else 'ahead of'}"


def _started(work: Work) -> None:
    event: Started = work.event
    work.change(
        policy=event.policy,
        fingerprint=event.fingerprint,
        software_version=event.software_version,
        rules_revision=event.rules_revision,
        foreign_machine=work.snapshot.foreign_machine or event.foreign_machine,
        degraded=event.degraded,
        configuration_notes=event.configuration_notes,
        onboarding_not_after_unix_ms=event.onboarding_not_after_unix_ms,
        newest_generation=max(work.snapshot.newest_generation, event.inventory.newest_generation),
        stopping=False,
    )
    _stores(work, event.inventory)
    rearm_all(work)
    if work.snapshot.credential is not None and not clock_known(work) and not source_is_none(work):
        # The hub's Date header tells what our clock cannot. Soon, but not a whole fleet at once.
        work.arm_after("prove", policy.LOOK_AT_CLOCK_MS * event.draw_ppm // policy.DRAWS)


def _stores(work: Work, inventory: Inventory) -> None:
    """The stores win over the journal: what they hold is what the device can prove."""
    snapshot = work.snapshot
    if snapshot.purge is not None:
        # What is still there is being erased.
        return
    candidate, credential, current = snapshot.candidate, snapshot.credential, inventory.current
    if current is None:
        # A commit that was under way is repeated and makes its generation current; nothing else is left.
        work.change(credential=None, assignment=None, bundle=None)
        if inventory.problem is not None:
            work.change(degraded=(*snapshot.degraded, inventory.problem))
        return
    if candidate is not None and current.generation == candidate.generation:
        # The crash came between the flip and its answer; the repeated commit will say so.
        return
    if credential is not None and (current.generation, current.sha256) == (
        credential.generation,
        credential.sha256,
    ):
        return
    adopt(work, current)
    if work.since(3) and work.state in ATTEMPT_STATES:
        _watch_expiry(work, current)


def _watch_expiry(work: Work, current: StoredCredential) -> None:
    """Another certificate than the journal speaks of ends at another instant.

    At rest the rows of a start say what is armed for it.
    """
    others = tuple(one for one in work.snapshot.armed if one.name != "expiry")
    watched = (Armed(name="expiry", at_unix_ms=current.not_after_unix_ms),)
    work.change(armed=(*others, *(watched if current.source == "issued" else ())))


def adopt(work: Work, current: StoredCredential) -> None:
    """Believe what the stores hold as current."""
    work.change(
        assignment=Assignment(
            hub=current.hub,
            device_id=current.device_id,
            fingerprint=current.fingerprint,
            since_unix_ms=work.now,
            substatus=current.substatus,
            certificate_type=current.certificate_type,
        ),
        credential=Credential(
            generation=current.generation,
            source=current.source,
            sha256=current.sha256,
            serial=current.serial,
            spki_sha256=current.spki_sha256,
            not_before_unix_ms=current.not_before_unix_ms,
            not_after_unix_ms=current.not_after_unix_ms,
            proven=True,
            committed_unix_ms=work.now,
            draw_ppm=work.event.draw_ppm,
        ),
        bundle=None
        if current.bundle_id is None
        else Bundle(
            id=current.bundle_id, certificates=current.bundle_certificates, sha256=current.bundle_sha256
        ),
    )


def _configured(work: Work) -> None:
    event: ConfigurationChanged = work.event
    if event.fingerprint != work.snapshot.fingerprint:
        work.change(budget=Budget(), failures=0)
    work.change(
        policy=event.policy,
        fingerprint=event.fingerprint,
        configuration_notes=event.configuration_notes,
        onboarding_not_after_unix_ms=event.onboarding_not_after_unix_ms,
    )


def _held(work: Work) -> None:
    event: HoldRequested = work.event
    if work.snapshot.purge is None:
        work.change(hold=event.hold, given_up=work.snapshot.given_up and event.hold)


def _refused(work: Work) -> None:
    event: HubRefusedCredential = work.event
    credential, refusals = work.snapshot.credential, work.snapshot.refusals
    if credential is None or event.generation != credential.generation or not work.snapshot.clock.trusted:
        return
    first = refusals.first_unix_ms if refusals.count else work.now
    work.change(refusals=structs.replace(refusals, count=refusals.count + 1, first_unix_ms=first))


def _proof_refused(work: Work) -> None:
    """Counted only where nobody knows the time; elsewhere one refusal of a proof has rows of its own."""
    event: CredentialProofFailed = work.event
    credential, refusals = work.snapshot.credential, work.snapshot.refusals
    mine = credential is not None and event.generation == credential.generation
    # Before revision 3 an answer that nobody waits for was counted as well.
    asked = not work.since(3) or any(one.id == event.answers for one in work.snapshot.outstanding)
    if mine and asked and event.refused and not clock_known(work):
        work.change(refusals=structs.replace(refusals, count=refusals.count + 1))


def _lost(work: Work) -> None:
    event: CredentialLost = work.event
    credential = work.snapshot.credential
    if credential is not None and credential.generation == event.generation:
        work.change(credential=None, assignment=None, bundle=None)


def _module_keys_lost(work: Work) -> None:
    event: ModuleKeysLost = work.event
    work.change(module_keys_lost=event.reason)


def _rules(work: Work) -> None:
    work.change(rules_revision=work.event.after)


_TAKES: dict[type[Any], Callable[[Work], None]] = {
    Started: _started,
    ConfigurationChanged: _configured,
    HoldRequested: _held,
    HubRefusedCredential: _refused,
    CredentialProofFailed: _proof_refused,
    CredentialLost: _lost,
    ModuleKeysLost: _module_keys_lost,
    RulesChanged: _rules,
}
