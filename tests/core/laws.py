"""What must hold after every step of every walk."""

from collections.abc import Callable

from statemachine import policy
from statemachine.effects import (
    Asking,
    PollRegistration,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    SubmitRegistration,
    effect_id,
)
from statemachine.events import (
    AnyEvent,
    DeadlinePassed,
    ModuleKeysLost,
    ModuleKeysPushed,
    ModuleKeysPushFailed,
    ModuleKeysRequested,
    RegistrationFailed,
    RenewRequested,
    ReprovisionRequested,
)
from statemachine.machine import Decision
from statemachine.snapshot import Snapshot
from statemachine.states import ATTEMPT_STATES, Phase, State

HOLDING = frozenset({State.PROVISIONED, State.CERT_EXPIRING, State.RENEWING})

Law = Callable[[Snapshot, int, AnyEvent, Decision], str | None]
"""(before, now, event, decision) -> what is wrong, or None."""


def positions(before, now, event, decision):
    after = decision.snapshot
    if after.phase is not Phase.IDLE and after.state not in ATTEMPT_STATES:
        return "an attempt runs outside an attempt state"
    if after.phase is Phase.IDLE and after.state in (State.REGISTERING, State.RENEWING):
        return "an attempt state without an attempt"
    if (after.attempt is None) != (after.phase is Phase.IDLE):
        return "the phase and the attempt disagree"
    if after.state in HOLDING and (after.credential is None or after.assignment is None):
        return "no credential in a state that promises one"
    if after.candidate is not None and after.phase not in (Phase.PROVING, Phase.COMMITTING):
        return "a candidate outside proving and committing"
    return None


def goes_on(before, now, event, decision):
    """Something is armed or outstanding, or a person was told what holds everything back."""
    after = decision.snapshot
    if after.phase is not Phase.IDLE:
        asked = any(not isinstance(one.effect, PushModuleKeys) for one in after.outstanding)
        return None if asked or after.armed_as("phase") else "the attempt waits for nothing"
    manual = after.policy.manual is not None
    if after.hold or after.stopping or not (after.policy.dps or manual):
        return None
    if manual and after.state is State.PROVISIONED:
        return "issuance is asked of nobody" if after.armed_as("reissue") else None
    if after.foreign_machine and not manual:
        return None
    timers = {
        State.UNPROVISIONED: ("attempt",),
        State.PROVISIONED: ("window", "reissue"),
        State.CERT_EXPIRING: ("attempt",),
        State.REPROVISIONING: ("attempt",),
    }[after.state]
    return None if any(after.armed_as(name) for name in timers) else "at rest, and nothing is armed"


def expiry_is_watched(before, now, event, decision):
    after = decision.snapshot
    credential = after.credential
    if after.state not in (State.PROVISIONED, State.CERT_EXPIRING) or credential.source == "configured":
        return None
    if after.armed_as("expiry") is None and after.clock.trusted:
        return "a certificate in use, a trusted clock, and its end is not armed"
    return None


def one_attempt_at_a_time(before, now, event, decision):
    after = decision.snapshot
    if after.phase is not Phase.IDLE and after.armed_as("attempt") is not None:
        return "another attempt is armed while one runs"
    return None


def a_phase_acts_again_only_where_it_can(before, now, event, decision):
    after = decision.snapshot
    if after.armed_as("phase") and after.phase not in (Phase.POLLING, Phase.PROVING, Phase.COMMITTING):
        return "the phase is armed where it does nothing"
    if after.armed_as("timeout") and after.phase not in (Phase.STAGING, Phase.SUBMITTING, Phase.POLLING):
        return "the deadline of an attempt outlives it"
    return None


def bookkeeping(before, now, event, decision):
    """Armed names are unique, ids are places in the record, and what was asked stays until answered."""
    after = decision.snapshot
    names = [one.name for one in after.armed]
    if len(set(names)) != len(names):
        return "a name is armed twice"
    ids = [one.id for one in after.outstanding]
    if len(set(ids)) != len(ids):
        return "an id is outstanding twice"
    for index, effect in enumerate(decision.effects):
        mine = effect_id(after.epoch, after.sequence, index)
        if (mine in ids) and not isinstance(effect, Asking):
            return "something without an answer is outstanding"
    if after.sequence != before.sequence + 1 or after.last_unix_ms != now:
        return "sequence or stamp"
    return None


def one_draw_per_certificate(before, now, event, decision):
    old, new = before.credential, decision.snapshot.credential
    same = (
        old is not None and new is not None and (old.generation, old.sha256) == (new.generation, new.sha256)
    )
    return "drawn again" if same and old.draw_ppm != new.draw_ppm else None


def registrations_are_bounded(before, now, event, decision):
    """A registration begins only within the budget, by an operator, or where the budget is not counted."""
    if not any(isinstance(effect, SubmitRegistration) for effect in decision.effects):
        return None
    after = decision.snapshot
    operator = isinstance(event, RenewRequested) or (
        isinstance(event, ReprovisionRequested) and event.privileged
    )
    without_csr = isinstance(event, RegistrationFailed) and event.code == "csr-not-configured"
    # The key is staged first; a changed budget may arrive in between.
    continued = before.phase is Phase.STAGING
    credential = before.credential
    reserve = (
        credential is not None
        and credential.source == "issued"
        and policy.last_part_begins(credential.not_before_unix_ms, credential.not_after_unix_ms) <= now
    )
    if operator or without_csr or continued or reserve:
        return None
    if after.budget.spent > after.policy.budget_registrations:
        return f"registration {after.budget.spent} of {after.policy.budget_registrations}"
    return None


def nothing_needed_is_retired(before, now, event, decision):
    after = decision.snapshot
    needed = {one.generation for one in (after.credential, after.staged, after.candidate) if one is not None}
    needed |= {one.generation for one in after.superseded}
    for effect in decision.effects:
        if isinstance(effect, RetireCredential) and not needed <= set(effect.keep):
            return f"{sorted(needed - set(effect.keep))} would be removed"
    if not after.clock.trusted and not {one.generation for one in before.superseded} <= needed:
        return "a clock that is not trusted deletes something"
    return None


def unproven_is_proven_later(before, now, event, decision):
    after = decision.snapshot
    credential = after.credential
    if credential is None or credential.proven or after.phase is not Phase.IDLE:
        return None
    if after.state is State.UNPROVISIONED:
        return None
    asked = any(type(one.effect).__name__ == "ProveCredential" for one in after.outstanding)
    return None if asked or after.armed_as("prove") else "an unproven credential is never shown again"


def expiry_needs_a_trusted_clock(before, now, event, decision):
    after = decision.snapshot
    if isinstance(event, DeadlinePassed) and event.name == "expiry" and not after.clock.trusted:
        return None if after.state is before.state else "declared expired by a clock that is not trusted"
    return None


def a_manual_assignment_needs_no_dps(before, now, event, decision):
    after = decision.snapshot
    if after.policy.manual is None:
        return None
    if any(
        isinstance(effect, StageKey | SubmitRegistration | PollRegistration) for effect in decision.effects
    ):
        return "DPS is asked for what the configuration says"
    if after.state not in (State.PROVISIONED, State.CERT_EXPIRING):
        return None
    here = (after.assignment.hub, after.assignment.device_id, after.credential.source, after.bundle)
    manual = after.policy.manual
    if after.state is State.PROVISIONED and here == (manual.hub, manual.device_id, "configured", None):
        return None
    return f"at rest with {here}"


MODULE_KEYS = (ModuleKeysLost, ModuleKeysRequested, ModuleKeysPushed, ModuleKeysPushFailed)


def module_keys_are_nobody_elses_business(before, now, event, decision):
    """The flag goes up and down by their own events only, and those touch neither the life nor an attempt."""
    after = decision.snapshot
    if not isinstance(event, MODULE_KEYS):
        same = before.module_keys_lost == after.module_keys_lost
        return None if same else "something else changed what is known of module keys"
    if isinstance(event, ModuleKeysLost) and after.module_keys_lost is None:
        return "a loss was not noted"
    if isinstance(event, ModuleKeysPushFailed) and after.module_keys_lost != before.module_keys_lost:
        return "a failure changed what is known of the master key"
    if any(not isinstance(effect, PushModuleKeys) for effect in decision.effects):
        return "more than a push was wished for"
    asked = [sum(isinstance(one.effect, PushModuleKeys) for one in it.outstanding) for it in (before, after)]
    if asked[1] > 1:
        return "two pushes at once"
    touched = [
        name
        for name in ("state", "phase", "attempt", "candidate", "staged", "assignment", "armed", "failures")
        if getattr(before, name) != getattr(after, name)
    ]
    return f"{touched} changed" if touched else None


def stale_changes_nothing(before, now, event, decision):
    if decision.verdict == "ignored" and decision.snapshot.state is not before.state:
        return "an ignored event moved the machine"
    return None


LAWS: tuple[Law, ...] = (
    positions,
    goes_on,
    expiry_is_watched,
    one_attempt_at_a_time,
    a_phase_acts_again_only_where_it_can,
    bookkeeping,
    one_draw_per_certificate,
    registrations_are_bounded,
    nothing_needed_is_retired,
    unproven_is_proven_later,
    expiry_needs_a_trusted_clock,
    a_manual_assignment_needs_no_dps,
    module_keys_are_nobody_elses_business,
    stale_changes_nothing,
)


def broken(history) -> list[str]:
    """Every law broken in a history, with the place."""
    before = Snapshot()
    found = []
    for now, event, decision in history:
        for law in LAWS:
            wrong = law(before, now, event, decision)
            if wrong is not None:
                found.append(
                    f"{law.__name__} at {decision.snapshot.sequence}, {decision.snapshot.state.value}/"
                    f"{decision.snapshot.phase.value} after {event}: {wrong}"
                )
        before = decision.snapshot
    return found
