"""What must hold whatever happens. Each is a named function whose docstring says it in one sentence.

The explorer asks them of every state and every step it finds, the walks of the tests of every step they
take. They return what is wrong, or None, and share no code with the guards where that could hide a fault.
"""

from collections.abc import Callable, Sequence

from statemachine.effects import (
    ArmDeadline,
    ArmDelay,
    Asking,
    CommitCredential,
    Disarm,
    Effect,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    SubmitRegistration,
    effect_id,
)
from statemachine.events import (
    AnyEvent,
    CredentialLost,
    DeadlinePassed,
    ModuleKeysLost,
    ModuleKeysPushed,
    ModuleKeysPushFailed,
    ModuleKeysRequested,
    PurgeRequested,
    RegistrationAssigned,
    RegistrationFailed,
    RenewRequested,
    ReprovisionRequested,
    RulesChanged,
    Started,
)
from statemachine.machine import Decision
from statemachine.snapshot import Credential, Snapshot
from statemachine.states import ATTEMPT_STATES, Phase, State

StateLaw = Callable[[Snapshot], str | None]
StepLaw = Callable[[Snapshot, int, AnyEvent, Decision], str | None]
"(before, stamp, event, decision) -> what is wrong, or None."

_HOLDING = frozenset({State.PROVISIONED, State.CERT_EXPIRING, State.RENEWING})
_SERVING = frozenset({State.PROVISIONED, State.CERT_EXPIRING})
_MODULE_KEYS = (ModuleKeysLost, ModuleKeysRequested, ModuleKeysPushed, ModuleKeysPushFailed)
_UNTOUCHED = ("state", "phase", "attempt", "candidate", "staged", "assignment", "armed", "failures")
_LAST_TENTH = 90


# --- of every state ------------------------------------------------------------------------------------


def positions(after: Snapshot) -> str | None:
    """State, phase, attempt, candidate and credential say the same of where the machine is."""
    if after.phase is not Phase.IDLE and after.state not in ATTEMPT_STATES:
        return "an attempt runs outside an attempt state"
    if after.phase is Phase.IDLE and after.state in (State.REGISTERING, State.RENEWING):
        return "an attempt state without an attempt"
    if (after.attempt is None) != (after.phase is Phase.IDLE):
        return "the phase and the attempt disagree"
    if after.state in _HOLDING and (after.credential is None or after.assignment is None):
        return "no credential in a state that promises one"
    if after.candidate is not None and after.phase not in (Phase.PROVING, Phase.COMMITTING):
        return "a candidate outside proving and committing"
    return None


_RESTING: dict[State, tuple[str, ...]] = {
    State.UNPROVISIONED: ("attempt",),
    State.PROVISIONED: ("window", "reissue"),
    State.CERT_EXPIRING: ("attempt",),
    State.REPROVISIONING: ("attempt",),
}


def goes_on(after: Snapshot) -> str | None:
    """No deadline is lost: something is armed or outstanding, or a person was told what holds all back."""
    names = {one.name for one in after.armed}
    if after.phase is not Phase.IDLE:
        asked = any(not isinstance(one.effect, PushModuleKeys) for one in after.outstanding)
        return None if asked or "phase" in names else "the attempt waits for nothing"
    manual = after.policy.manual is not None
    if after.hold or after.stopping or not (after.policy.dps or manual):
        return None
    if manual and after.state is State.PROVISIONED:
        return "issuance is asked of nobody" if "reissue" in names else None
    if after.foreign_machine and not manual:
        return None
    return None if names & {*_RESTING.get(after.state, ())} else "at rest, and nothing is armed"


def expiry_is_watched(after: Snapshot) -> str | None:
    """The end of a certificate in use is armed wherever the clock is trusted."""
    credential = after.credential
    if after.state not in _SERVING or credential is None or credential.source == "configured":
        return None
    if after.armed_as("expiry") is None and after.clock.trusted:
        return "a certificate in use, a trusted clock, and its end is not armed"
    return None


def one_attempt_at_a_time(after: Snapshot) -> str | None:
    """While an attempt runs no other is armed."""
    if after.phase is not Phase.IDLE and after.armed_as("attempt") is not None:
        return "another attempt is armed while one runs"
    return None


def one_csr_in_flight(after: Snapshot) -> str | None:
    """At most one registration, poll, proof, commit or staging is waited for at a time."""
    asked = [type(one.effect) for one in after.outstanding]
    registering = asked.count(SubmitRegistration) + asked.count(PollRegistration)
    if registering > 1:
        return "two registrations are in flight"
    kinds = (
        StageKey,
        ProveCredential,
        CommitCredential,
        RetireCredential,
        PurgeCredentials,
        PushModuleKeys,
    )
    for kind in kinds:
        if asked.count(kind) > 1:
            return f"{kind.__name__} is waited for twice"
    return None


def a_phase_acts_again_only_where_it_can(after: Snapshot) -> str | None:
    """The phase is armed only where it acts, and an attempt's deadline ends with the attempt."""
    if after.armed_as("phase") and after.phase not in (Phase.POLLING, Phase.PROVING, Phase.COMMITTING):
        return "the phase is armed where it does nothing"
    if after.armed_as("timeout") and after.phase not in (Phase.STAGING, Phase.SUBMITTING, Phase.POLLING):
        return "the deadline of an attempt outlives it"
    return None


def unproven_is_proven_later(after: Snapshot) -> str | None:
    """A credential committed unproven is shown to the hub again."""
    credential = after.credential
    if credential is None or credential.proven or after.phase is not Phase.IDLE:
        return None
    if after.state is State.UNPROVISIONED:
        return None
    asked = any(isinstance(one.effect, ProveCredential) for one in after.outstanding)
    return None if asked or after.armed_as("prove") else "an unproven credential is never shown again"


def a_manual_assignment_is_as_configured(after: Snapshot) -> str | None:
    """Where the configuration is the assignment, a device at rest has it, and nothing that DPS issued."""
    manual = after.policy.manual
    if manual is None or after.state not in _SERVING:
        return None
    assignment, credential = after.assignment, after.credential
    if assignment is None or credential is None:
        return "at rest with nothing"
    here = (assignment.hub, assignment.device_id, credential.source, after.bundle)
    if after.state is State.PROVISIONED and here == (manual.hub, manual.device_id, "configured", None):
        return None
    return f"at rest with {here}"


def what_is_erased_is_not_believed(after: Snapshot) -> str | None:
    """A device that is given up holds nothing, begins nothing, and is not done before all is erased."""
    if after.purge is None:
        return None
    holds = (after.credential, after.assignment, after.bundle, after.staged, after.candidate, after.attempt)
    if any(one is not None for one in holds) or after.superseded or not after.hold:
        return "it holds something, or may begin something"
    asked = any(isinstance(one.effect, PurgeCredentials) for one in after.outstanding)
    return None if asked or after.armed_as("collect") else "nobody erases the rest"


STATE_LAWS: tuple[StateLaw, ...] = (
    positions,
    goes_on,
    expiry_is_watched,
    one_attempt_at_a_time,
    one_csr_in_flight,
    a_phase_acts_again_only_where_it_can,
    unproven_is_proven_later,
    a_manual_assignment_is_as_configured,
    what_is_erased_is_not_believed,
)


# --- of every step -------------------------------------------------------------------------------------


def bookkeeping(before: Snapshot, stamp: int, event: AnyEvent, decision: Decision) -> str | None:
    """Armed names are unique, ids are places in the record, and what was asked stays until answered."""
    after = decision.snapshot
    if after.sequence != before.sequence + 1 or after.last_unix_ms != (
        before.last_unix_ms if isinstance(event, RulesChanged) else stamp
    ):
        return "sequence or stamp"
    names = {one.name for one in after.armed}
    if len(names) != len(after.armed):
        return "a name is armed twice"
    ids = {one.id for one in after.outstanding}
    if len(ids) != len(after.outstanding):
        return "an id is outstanding twice"
    for index, effect in enumerate(decision.effects):
        if not isinstance(effect, Asking) and effect_id(after.epoch, after.sequence, index) in ids:
            return "something without an answer is outstanding"
    return None


def timers_are_told(before: Snapshot, stamp: int, event: AnyEvent, decision: Decision) -> str | None:
    """What is armed in the snapshot is what the timers were told, also after a start."""
    told = set() if isinstance(event, Started) else {one.name for one in before.armed}
    if isinstance(event, DeadlinePassed):
        told.discard(event.name)
    for effect in decision.effects:
        if isinstance(effect, ArmDeadline | ArmDelay):
            told.add(effect.name)
        elif isinstance(effect, Disarm):
            told.discard(effect.name)
    armed = {one.name for one in decision.snapshot.armed}
    return None if told == armed else f"told {sorted(told)}, armed {sorted(armed)}"


def one_draw_per_certificate(before: Snapshot, stamp: int, event: AnyEvent, decision: Decision) -> str | None:
    """The instant of renewal is drawn once in a certificate's life."""
    old, new = before.credential, decision.snapshot.credential
    if old is None or new is None or (old.generation, old.sha256) != (new.generation, new.sha256):
        return None
    return "drawn again" if old.draw_ppm != new.draw_ppm else None


def _in_last_tenth(credential: Credential | None, now: int) -> bool:
    if credential is None or credential.source == "configured":
        return False
    return now >= _last_tenth_of(credential)


def registrations_are_bounded(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
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
    reserve = _in_last_tenth(before.credential, stamp + after.clock.correction_ms)
    if operator or without_csr or continued or reserve:
        return None
    if after.budget.spent > after.policy.budget_registrations:
        return f"registration {after.budget.spent} of {after.policy.budget_registrations}"
    return None


def the_budget_ends_no_certificate(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """Whatever holds attempts back lets the next begin before the last tenth of a certificate is over."""
    after = decision.snapshot
    credential, now = after.credential, stamp + after.clock.correction_ms
    if credential is None or credential.source == "configured" or now >= credential.not_after_unix_ms:
        return None
    armed = before.armed_as("attempt")
    for effect in decision.effects:
        if isinstance(effect, ArmDeadline) and effect.name == "attempt":
            begins = effect.at_unix_ms + after.clock.correction_ms
            if armed is not None and armed.at_unix_ms == begins:
                continue  # told once more
            if begins > max(_last_tenth_of(credential), now):
                return "the next attempt is put off into the last tenth of the certificate in use"
    return None


def _last_tenth_of(credential: Credential) -> int:
    begins, ends = credential.not_before_unix_ms, credential.not_after_unix_ms
    return ends - (ends - begins) * (100 - _LAST_TENTH) // 100


def nothing_needed_is_retired(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """No effect deletes what the snapshot still needs, and a clock that is not trusted deletes nothing."""
    after = decision.snapshot
    if isinstance(event, PurgeRequested):
        return None
    if after.superseded is before.superseded and not any(
        isinstance(effect, RetireCredential) for effect in decision.effects
    ):
        return None
    needed = {one.generation for one in (after.credential, after.staged, after.candidate) if one is not None}
    needed |= {one.generation for one in after.superseded}
    for effect in decision.effects:
        if isinstance(effect, RetireCredential) and not needed <= set(effect.keep):
            return f"{sorted(needed - set(effect.keep))} would be removed"
    if not after.clock.trusted and not {one.generation for one in before.superseded} <= needed:
        return "a clock that is not trusted deletes something"
    return None


def nothing_works_is_given_up_unproven(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """A working certificate that is not near its end is replaced only by one the hub has accepted."""
    commits = [effect for effect in decision.effects if isinstance(effect, CommitCredential)]
    if not commits:
        return None
    if len(commits) > 1:
        return "two commits in one step"
    after = decision.snapshot
    credential, candidate = after.credential, after.candidate
    if candidate is None or candidate.generation != commits[0].generation:
        return "what is committed is not the candidate"
    if candidate.proven or credential is None or credential.source == "configured":
        return None
    now = stamp + after.clock.correction_ms
    return None if _in_last_tenth(credential, now) else "an unproven credential replaces a working one"


def only_what_was_assigned_is_proposed(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """A candidate with a certificate is for the staged key, and comes with the answer that issued it."""
    candidate = decision.snapshot.candidate
    if candidate is None or candidate.chain is None or before.candidate is not None:
        return None
    if not isinstance(event, RegistrationAssigned) or before.staged is None:
        return "a certificate that nobody issued just now"
    same = candidate.chain.spki_sha256 == before.staged.spki_sha256
    return None if same and candidate.generation == before.staged.generation else "it is for another key"


def a_commit_is_whole(before: Snapshot, stamp: int, event: AnyEvent, decision: Decision) -> str | None:
    """What becomes current is the candidate: its certificate, its assignment, and its bundle."""
    old, new = before.candidate, decision.snapshot
    if old is None or new.candidate is not None or new.credential is None:
        return None
    if new.phase is not Phase.RETIRING or before.phase is not Phase.COMMITTING:
        return None
    credential, assignment, bundle = new.credential, new.assignment, new.bundle
    if credential.generation != old.generation or assignment is None:
        return "another generation became current"
    if (assignment.hub, assignment.device_id) != (old.hub, old.device_id):
        return "another assignment became current"
    wanted = None if old.bundle is None else old.bundle.sha256
    if old.keep_bundle:
        wanted = None if before.bundle is None else before.bundle.sha256
    return None if (bundle.sha256 if bundle is not None else None) == wanted else "another bundle"


def expiry_needs_a_trusted_clock(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """A clock that is not trusted declares nothing expired."""
    after = decision.snapshot
    if isinstance(event, DeadlinePassed) and event.name == "expiry" and not after.clock.trusted:
        return None if after.state is before.state else "declared expired by a clock that is not trusted"
    return None


def a_credential_is_lost_only_by_loss(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """The machine forgets the credential in use only when the stores lost it, or an operator gave it up."""
    if before.credential is None or decision.snapshot.credential is not None:
        return None
    gone = isinstance(event, CredentialLost | PurgeRequested) or (
        isinstance(event, Started) and event.inventory.current is None
    )
    return None if gone else "the credential in use was forgotten"


def a_manual_assignment_needs_no_dps(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """Where the configuration is the assignment, DPS is not asked."""
    if decision.snapshot.policy.manual is None:
        return None
    if any(
        isinstance(effect, StageKey | SubmitRegistration | PollRegistration) for effect in decision.effects
    ):
        return "DPS is asked for what the configuration says"
    return None


def module_keys_are_nobody_elses_business(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """The flag goes up and down by its own events only, and those touch neither the life nor an attempt."""
    after = decision.snapshot
    if not isinstance(event, _MODULE_KEYS):
        same = before.module_keys_lost == after.module_keys_lost or isinstance(event, PurgeRequested)
        return None if same else "something else changed what is known of module keys"
    if isinstance(event, ModuleKeysLost) and after.module_keys_lost is None:
        return "a loss was not noted"
    if isinstance(event, ModuleKeysPushFailed) and after.module_keys_lost != before.module_keys_lost:
        return "a failure changed what is known of the master key"
    if any(not isinstance(effect, PushModuleKeys) for effect in decision.effects):
        return "more than a push was wished for"
    touched = [name for name in _UNTOUCHED if getattr(before, name) != getattr(after, name)]
    return f"{touched} changed" if touched else None


def nothing_is_erased_unasked(
    before: Snapshot, stamp: int, event: AnyEvent, decision: Decision
) -> str | None:
    """Only an operator's word has a device erased."""
    erases = any(isinstance(effect, PurgeCredentials) for effect in decision.effects)
    if not erases or before.purge is not None or isinstance(event, PurgeRequested):
        return None
    return "it is erased, and nobody asked for that"


def stale_changes_nothing(before: Snapshot, stamp: int, event: AnyEvent, decision: Decision) -> str | None:
    """An event that is ignored moves nothing and asks nothing of anybody but to arm a deadline again."""
    if decision.verdict != "ignored":
        return None
    after = decision.snapshot
    if after.state is not before.state or after.phase is not before.phase:
        return "an ignored event moved the machine"
    asked = [effect for effect in decision.effects if not isinstance(effect, ArmDeadline | ArmDelay)]
    return f"an ignored event asked for {_names(asked)}" if asked else None


def _names(effects: Sequence[Effect]) -> str:
    return ", ".join(type(effect).__name__ for effect in effects)


STEP_LAWS: tuple[StepLaw, ...] = (
    bookkeeping,
    timers_are_told,
    one_draw_per_certificate,
    registrations_are_bounded,
    the_budget_ends_no_certificate,
    nothing_needed_is_retired,
    nothing_works_is_given_up_unproven,
    only_what_was_assigned_is_proposed,
    a_commit_is_whole,
    expiry_needs_a_trusted_clock,
    a_credential_is_lost_only_by_loss,
    a_manual_assignment_needs_no_dps,
    module_keys_are_nobody_elses_business,
    nothing_is_erased_unasked,
    stale_changes_nothing,
)
