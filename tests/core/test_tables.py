"""Both tables, row by row: a place reached by walking the world, what happens there, and what it comes to.

`why` is the beginning of the row's own sentence, so a case says which row it is about, and the last test
finds rows that no case takes.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from statemachine import attempt, machine, table
from statemachine.effects import (
    CommitCredential,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    ClockObserved,
    ConfigurationChanged,
    CredentialLost,
    HoldRequested,
    HookEnded,
    HubRefusedCredential,
    Inventory,
    ModuleKeysLost,
    ModuleKeysRequested,
    PurgeRequested,
    RegistrationPending,
    RenewRequested,
    ReprovisionRequested,
    RulesChanged,
    ShutdownRequested,
)
from statemachine.machine import Decision
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    MANUAL,
    MINUTE,
    NO_DPS,
    POLICY,
    T0,
    World,
    assigned,
    certless,
    chain,
    expiring,
    holding,
    manual,
    provisioned,
    purging,
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

U, G, P = State.UNPROVISIONED, State.REGISTERING, State.PROVISIONED
E, R, X = State.CERT_EXPIRING, State.RENEWING, State.REPROVISIONING
IDLE, STAGING, SUBMITTING, POLLING = Phase.IDLE, Phase.STAGING, Phase.SUBMITTING, Phase.POLLING
PROVING, COMMITTING, RETIRING = Phase.PROVING, Phase.COMMITTING, Phase.RETIRING

LIFECYCLE = table.ROWS
ATTEMPT = attempt.ROWS


class Case(NamedTuple):
    why: str
    "How the row's sentence begins."
    place: Callable[[], World]
    happens: Callable[[World], Decision]
    state: State
    phase: Phase
    effects: str = ""
    "In two words each, in order, separated by semicolons."
    verdict: str = "taken"
    rows: tuple = LIFECYCLE


# --- what happens ------------------------------------------------------------------------------------


def restarts(**fields):
    return lambda world: world.restart(**fields)


def fires(name, **fields):
    return lambda world: world.fire(name, **fields)


def takes(event):
    return lambda world: world.take(event, after_ms=10)


def answers(kind, **fields):
    return lambda world: world.answer(kind, **fields)


def denies(kind, **fields):
    return lambda world: world.deny(kind, **fields)


def after(place, *happenings):
    """A place reached by more events."""

    def there():
        world = place()
        for happens in happenings:
            happens(world)
        return world

    return there


def at(place, phase):
    return lambda: place(phase)


def issues(**fields):
    """The poll is answered with a chain that differs from a good one in these fields."""

    def happens(world):
        one = world.pending(PollRegistration)
        return world.take(
            assigned(
                one.id,
                one.effect.spki_sha256,
                world.now,
                chain=chain(one.effect.spki_sha256, world.now, **fields),
            )
        )

    return happens


def later(ms):
    def happens(world):
        world.now += ms

    return happens


def settles(world):
    world.settle()


PUSH = takes(ModuleKeysRequested(uid=0))
LOSES_KEYS = takes(ModuleKeysLost(reason="no such file"))
HOLD = takes(HoldRequested(hold=True, uid=0))
RELEASE = takes(HoldRequested(hold=False, uid=0))
PURGE = takes(PurgeRequested(uid=0))
REPROVISION = takes(ReprovisionRequested(uid=0))
SOMEBODY = takes(ReprovisionRequested(uid=1000, privileged=False))
RENEW = takes(RenewRequested(uid=0))
LOST = takes(CredentialLost(generation=1, reason="gone"))
JUMPED = takes(ClockObserved(kernel_synchronised=False, jump_ms=2 * DAY))
REFUSED = takes(HubRefusedCredential(generation=1, code="hub-401"))
OLD = {"not_before_unix_ms": T0 - 80 * DAY, "not_after_unix_ms": T0 + 10 * DAY}


def configured(fingerprint="f1", policy=POLICY):
    return takes(ConfigurationChanged(policy=policy, fingerprint=fingerprint))


def starts(**fields):
    return lambda world: world.take(started(**fields))


def polling(place):
    """The first poll is outstanding."""
    return after(at(place, POLLING), fires("phase"))


CASES = (
    # --- start ---------------------------------------------------------------------------------------
    Case(
        "The configuration names no provisioning service; local",
        provisioned,
        restarts(policy=NO_DPS),
        U,
        IDLE,
        "arm expiry; arm window; disarm window; disarm expiry",
    ),
    Case(
        "The configuration changed while the service was down; registration",
        at(registering, SUBMITTING),
        restarts(fingerprint="f2"),
        G,
        SUBMITTING,
        "arm timeout; disarm timeout; arm timeout; register 1",
    ),
    Case(
        "The configuration changed while the service was down, and no attempt",
        after(at(registering, SUBMITTING), HOLD),
        restarts(fingerprint="f2"),
        U,
        IDLE,
        "arm timeout; disarm timeout",
    ),
    Case(
        "The configuration changed while the service was down, so the attempt",
        at(renewing, SUBMITTING),
        restarts(fingerprint="f2"),
        X,
        SUBMITTING,
        "arm expiry; arm timeout; disarm timeout; arm timeout; register 2",
    ),
    Case(
        "The configuration changed while the service was down, so the attempt",
        at(reprovisioning, PROVING),
        restarts(foreign_machine=True),
        X,
        IDLE,
        "arm expiry; arm window",
    ),
    Case(
        "The stores lost the credential in use; the renewal",
        polling(renewing),
        restarts(inventory=Inventory()),
        X,
        POLLING,
        "arm expiry; arm timeout; disarm expiry",
    ),
    Case(
        "The attempt under way goes on: the same key",
        polling(registering),
        restarts(),
        G,
        POLLING,
        "arm timeout",
    ),
    Case(
        "The attempt under way goes on: the same key",
        polling(renewing),
        restarts(),
        R,
        POLLING,
        "arm expiry; arm timeout",
    ),
    Case(
        "The attempt under way goes on: the same key",
        at(reprovisioning, PROVING),
        restarts(),
        X,
        PROVING,
        "arm expiry; arm window",
    ),
    Case(
        "The stores hold an assignment made for another",
        World,
        starts(inventory=holding(stored(fingerprint="f0"))),
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "The stores hold a certificate that has expired",
        World,
        starts(inventory=holding(stored(not_before_unix_ms=T0 - 90 * DAY, not_after_unix_ms=T0))),
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "The stores hold a working certificate that is inside",
        World,
        starts(inventory=holding(stored(**OLD))),
        E,
        IDLE,
        "arm expiry; arm attempt",
    ),
    Case(
        "The stores hold a working credential",
        World,
        starts(inventory=holding(stored())),
        P,
        IDLE,
        "arm expiry; arm window",
    ),
    Case("The next attempt keeps its instant", unprovisioned, restarts(), U, IDLE, "arm attempt"),
    Case(
        "The next attempt keeps its instant",
        waiting,
        restarts(),
        X,
        IDLE,
        "arm expiry; arm window; arm attempt",
    ),
    Case(
        "The device has no identity yet, so it registers", World, starts(), G, STAGING, "arm timeout; stage 1"
    ),
    Case(
        "The device has no identity yet, and no attempt",
        World,
        starts(foreign_machine=True),
        U,
        IDLE,
    ),
    Case(
        "The stores no longer hold the credential",
        provisioned,
        restarts(inventory=Inventory(problem="half missing")),
        X,
        STAGING,
        "arm expiry; arm window; disarm window; disarm expiry; arm timeout; stage 2",
    ),
    Case(
        "The configuration changed while the service was down.",
        provisioned,
        restarts(fingerprint="f2"),
        X,
        STAGING,
        "arm expiry; arm window; arm timeout; stage 2",
    ),
    Case(
        "The certificate expired while the service was down",
        provisioned,
        restarts(down_ms=91 * DAY),
        X,
        STAGING,
        "arm expiry; arm window; arm timeout; stage 2",
    ),
    Case(
        "The stores hold another certificate than the journal",
        provisioned,
        restarts(inventory=holding(stored(2, **OLD))),
        E,
        IDLE,
        "arm expiry; arm window; arm expiry; disarm window; arm attempt",
    ),
    Case(
        "The stores hold another credential than the journal",
        expiring,
        restarts(inventory=holding(stored(2, source="configured"))),
        P,
        IDLE,
        "arm expiry; arm attempt; disarm attempt; disarm expiry; arm reissue",
    ),
    Case("What was armed is armed again", provisioned, restarts(), P, IDLE, "arm expiry; arm window"),
    Case("What was armed is armed again", expiring, restarts(), E, IDLE, "arm expiry; arm attempt"),
    Case(
        "Registration is still owed; a restart",
        after(at(reprovisioning, SUBMITTING), denies(SubmitRegistration, failure_class="operator")),
        restarts(),
        X,
        SUBMITTING,
        "arm expiry; arm window; arm attempt; disarm attempt; arm timeout; register 2",
    ),
    # --- deadlines -----------------------------------------------------------------------------------
    Case(
        "The wait before the next registration is over",
        unprovisioned,
        fires("attempt"),
        G,
        SUBMITTING,
        "arm timeout; register 1",
    ),
    Case(
        "The drawn instant of renewal was reached",
        expiring,
        fires("attempt"),
        R,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "The wait before the next registration is over",
        waiting,
        fires("attempt"),
        X,
        SUBMITTING,
        "arm timeout; register 2",
    ),
    Case("An attempt is due, but a hold", after(expiring, HOLD), fires("attempt"), E, IDLE),
    Case("An attempt is due, but a hold", after(waiting, HOLD), fires("attempt"), X, IDLE),
    Case(
        "The certificate entered its renewal window; its draw",
        provisioned,
        fires("window"),
        E,
        IDLE,
        "arm attempt",
    ),
    Case(
        "The certificate entered its renewal window while",
        after(provisioned, RENEW),
        fires("window"),
        R,
        STAGING,
    ),
    Case("Issuance is asked for again after", certless, fires("reissue"), R, STAGING, "arm timeout; stage 3"),
    Case(
        "Issuance would be asked for again", after(certless, HOLD), fires("reissue"), P, IDLE, "arm reissue"
    ),
    Case(
        "The certificate has expired; the onboarding",
        expiring,
        fires("expiry"),
        X,
        STAGING,
        "disarm attempt; arm timeout; stage 2",
    ),
    Case("The certificate expired during the attempt", renewing, fires("expiry"), X, STAGING),
    Case("The certificate expired; registration is already", reprovisioning, fires("expiry"), X, STAGING),
    Case("The clock is not trusted, so nothing", after(provisioned, JUMPED), fires("expiry"), P, IDLE),
    Case("The clock is not trusted, so nothing", after(renewing, JUMPED), fires("expiry"), R, STAGING),
    Case("The hub is shown the credential", unproven, fires("prove"), P, IDLE, "prove 1"),
    Case(
        "The hub is shown the credential",
        after(
            unproven,
            REPROVISION,
            answers(StageKey),
            denies(SubmitRegistration),
        ),
        fires("prove"),
        X,
        IDLE,
        "prove 1",
    ),
    Case("A running attempt goes first", after(unproven, RENEW), fires("prove"), R, STAGING),
    Case(
        "A superseded key is no longer referred to",
        after(provisioned, RENEW, settles),
        fires("collect"),
        P,
        IDLE,
        "keep 2",
    ),
    Case(
        "A superseded key is no longer referred to",
        after(provisioned, RENEW, settles, REPROVISION, answers(StageKey), denies(SubmitRegistration)),
        fires("collect"),
        X,
        IDLE,
        "keep 2,3",
    ),
    Case(
        "The running attempt tidies up when it commits",
        after(provisioned, RENEW, settles, RENEW),
        fires("collect"),
        R,
        STAGING,
        "arm collect",
    ),
    # --- the attempt's outcome -----------------------------------------------------------------------
    Case(
        "The configuration changed at the last moment",
        after(at(renewing, COMMITTING), configured("f2"), answers(CommitCredential)),
        answers(RetireCredential),
        X,
        STAGING,
        "arm timeout; stage 3",
    ),
    Case(
        "The new credential is gone already",
        after(at(registering, RETIRING), LOST),
        answers(RetireCredential),
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "The new certificate is current, and already",
        after(
            polling(registering),
            issues(not_before_unix_ms=T0 - 800 * DAY),
            answers(ProveCredential),
            answers(CommitCredential),
        ),
        answers(RetireCredential),
        E,
        IDLE,
        "arm expiry; arm attempt",
    ),
    Case(
        "What was assigned is current",
        at(registering, RETIRING),
        answers(RetireCredential),
        P,
        IDLE,
        "arm expiry; arm window",
    ),
    Case(
        "What was assigned is current",
        at(renewing, RETIRING),
        denies(RetireCredential),
        P,
        IDLE,
        "arm expiry; arm window",
    ),
    Case(
        "The new certificate is current, and already",
        after(
            polling(reprovisioning),
            issues(not_before_unix_ms=T0 - 800 * DAY),
            answers(ProveCredential),
            answers(CommitCredential),
        ),
        answers(RetireCredential),
        E,
        IDLE,
        "arm expiry; disarm window; arm attempt",
    ),
    Case(
        "What was assigned is current",
        at(reprovisioning, RETIRING),
        answers(RetireCredential),
        P,
        IDLE,
        "arm expiry; arm window",
    ),
    Case(
        "The registration failed; another follows",
        at(registering, SUBMITTING),
        denies(SubmitRegistration),
        U,
        IDLE,
        "disarm timeout; arm attempt",
    ),
    Case(
        "The renewal failed, and the certificate has expired",
        after(at(renewing, SUBMITTING), later(60 * DAY)),
        denies(SubmitRegistration),
        X,
        IDLE,
        "disarm timeout; arm attempt",
    ),
    Case(
        "The attempt failed, and the configuration changed meanwhile",
        after(at(renewing, COMMITTING), configured("f2")),
        denies(CommitCredential),
        X,
        IDLE,
        "arm attempt",
    ),
    Case(
        "The renewal failed; the certificate in use is kept",
        at(renewing, SUBMITTING),
        denies(SubmitRegistration),
        E,
        IDLE,
        "disarm timeout; arm attempt",
    ),
    Case(
        "The attempt failed; what is in use has time",
        after(provisioned, RENEW, answers(StageKey)),
        denies(SubmitRegistration),
        P,
        IDLE,
        "disarm timeout; arm expiry; arm window",
    ),
    Case(
        "The attempt failed; what is in use has time",
        after(certless, RENEW, answers(StageKey)),
        denies(SubmitRegistration),
        P,
        IDLE,
        "disarm timeout; arm reissue",
    ),
    Case(
        "The registration failed; what is in use is kept",
        at(reprovisioning, SUBMITTING),
        denies(SubmitRegistration),
        X,
        IDLE,
        "disarm timeout; arm attempt",
    ),
    # --- commands ------------------------------------------------------------------------------------
    Case(
        "The configuration names no provisioning service; set",
        after(World, starts(policy=NO_DPS)),
        REPROVISION,
        U,
        IDLE,
        verdict="refused",
    ),
    Case("The registration that is under way is the one", registering, REPROVISION, G, STAGING),
    Case("The renewal that is under way goes on", renewing, REPROVISION, X, STAGING),
    Case("The reprovisioning that is under way is the one", reprovisioning, SOMEBODY, X, STAGING),
    Case("Attempts are on hold", after(provisioned, HOLD), REPROVISION, P, IDLE, verdict="refused"),
    Case(
        "The budget is used up, or this may be a copied",
        after(World, starts(foreign_machine=True)),
        SOMEBODY,
        U,
        IDLE,
        verdict="refused",
    ),
    Case(
        "A reprovisioning succeeded less than a minute ago",
        after(reprovisioning, settles, later(50_000)),
        SOMEBODY,
        P,
        IDLE,
    ),
    Case(
        "Somebody asked for registration.",
        unprovisioned,
        REPROVISION,
        G,
        SUBMITTING,
        "disarm attempt; arm timeout; register 1",
    ),
    Case(
        "Somebody asked for registration from the start",
        provisioned,
        SOMEBODY,
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "Somebody asked for registration from the start",
        expiring,
        REPROVISION,
        X,
        STAGING,
        "disarm attempt; arm timeout; stage 2",
    ),
    Case(
        "Somebody asked for registration; the wait",
        waiting,
        REPROVISION,
        X,
        SUBMITTING,
        "disarm attempt; arm timeout; register 2",
    ),
    Case(
        "There is nothing to renew: the credential is configured", manual, RENEW, P, IDLE, verdict="refused"
    ),
    Case(
        "There is nothing to renew: the credential is configured",
        at(manual, PROVING),
        RENEW,
        G,
        PROVING,
        verdict="refused",
    ),
    Case("There is nothing to renew yet", unprovisioned, RENEW, U, IDLE, verdict="refused"),
    Case("The attempt that is under way is the one", renewing, RENEW, R, STAGING),
    Case("The attempt that is under way is the one", reprovisioning, RENEW, X, STAGING),
    Case("Attempts are on hold", after(expiring, HOLD), RENEW, E, IDLE, verdict="refused"),
    Case("Somebody asked for a new certificate.", provisioned, RENEW, R, STAGING, "arm timeout; stage 2"),
    Case(
        "Somebody asked for a new certificate; the wait",
        waiting,
        RENEW,
        X,
        SUBMITTING,
        "disarm attempt; arm timeout; register 2",
    ),
    Case(
        "Attempts may begin, or not", after(expiring, HOLD, fires("attempt")), RELEASE, E, IDLE, "arm attempt"
    ),
    Case(
        "Attempts may begin, or not", after(waiting, HOLD, fires("attempt")), RELEASE, X, IDLE, "arm attempt"
    ),
    Case("Attempts may begin, or not", after(waiting, HOLD), RELEASE, X, IDLE),
    Case("The attempt under way is finished; no other", registering, HOLD, G, STAGING),
    Case("The attempt under way is finished; no other", provisioned, HOLD, P, IDLE),
    Case(
        "The service is stopping; ask again",
        after(provisioned, takes(ShutdownRequested())),
        PUSH,
        P,
        IDLE,
        verdict="refused",
    ),
    Case("The push that is under way is the one", after(provisioned, PUSH), PUSH, P, IDLE),
    Case("No hub would take module keys now", registering, PUSH, G, STAGING, verdict="refused"),
    Case("Somebody asked for the hub to be given", renewing, PUSH, R, STAGING, "push"),
    Case(
        "The configuration names no provisioning service any more",
        renewing,
        configured("", NO_DPS),
        U,
        IDLE,
        "disarm expiry; disarm timeout",
    ),
    Case(
        "The attempt under way was begun under another configuration.",
        registering,
        configured("f2"),
        G,
        STAGING,
        "disarm timeout; arm timeout; stage 2",
    ),
    Case(
        "The attempt under way was begun under another configuration, and none",
        after(registering, HOLD),
        configured("f2"),
        U,
        IDLE,
        "disarm timeout",
    ),
    Case(
        "The attempt under way was begun under another configuration; what",
        renewing,
        configured("f2"),
        X,
        STAGING,
        "disarm timeout; arm timeout; stage 3",
    ),
    Case("The attempt under way fits the new configuration", registering, configured(), G, STAGING),
    Case("The attempt under way fits the new configuration", reprovisioning, configured(), X, STAGING),
    Case(
        "A source is configured again; the assignment",
        after(provisioned, configured("", NO_DPS)),
        configured(),
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "The configuration changed, so registration is tried at once",
        unprovisioned,
        configured("f2"),
        G,
        SUBMITTING,
        "disarm attempt; arm timeout; register 1",
    ),
    Case(
        "The configuration changed, so registration is tried as soon",
        waiting,
        configured("f2"),
        X,
        SUBMITTING,
        "disarm attempt; arm timeout; register 2",
    ),
    Case(
        "The configuration changed, so registration is tried as soon",
        after(unprovisioned, HOLD),
        configured("f2"),
        U,
        IDLE,
    ),
    Case(
        "The assignment was made for another configuration",
        provisioned,
        configured("f2"),
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "By the new settings the certificate is inside",
        after(provisioned, later(40 * DAY)),
        configured(policy=with_policy(renewal_earliest_percent=30, renewal_latest_percent=60)),
        E,
        IDLE,
        "arm expiry; disarm window; arm attempt",
    ),
    Case(
        "The new settings move the instant of renewal",
        expiring,
        configured(),
        E,
        IDLE,
        "disarm attempt; arm expiry; arm attempt",
    ),
    Case(
        "The new settings move the renewal window",
        expiring,
        configured(policy=with_policy(renewal_earliest_percent=85)),
        P,
        IDLE,
        "disarm attempt; arm expiry; arm window",
    ),
    Case("The service stops; what is under way", renewing, takes(ShutdownRequested()), R, STAGING, "stop"),
    # --- given up ------------------------------------------------------------------------------------
    Case(
        "The device is given up",
        provisioned,
        PURGE,
        U,
        IDLE,
        "disarm window; disarm expiry; erase",
    ),
    Case(
        "The device is given up",
        at(renewing, SUBMITTING),
        PURGE,
        U,
        IDLE,
        "disarm expiry; erase; disarm timeout",
    ),
    Case("The device is being erased already", purging, PURGE, U, IDLE),
    Case("The device is being erased and stays on hold", purging, RELEASE, U, IDLE, verdict="refused"),
    Case("All that the cloud gave this device is erased", purging, answers(PurgeCredentials), U, IDLE),
    Case("Not all of it could be erased", purging, denies(PurgeCredentials), U, IDLE, "arm collect"),
    Case(
        "What could not be erased is tried again",
        after(purging, denies(PurgeCredentials)),
        fires("collect"),
        U,
        IDLE,
        "erase",
    ),
    Case("A hook decides nothing", provisioned, takes(HookEnded(hook="renewal", outcome="done")), P, IDLE),
    # --- observations --------------------------------------------------------------------------------
    Case("The clock was looked at", provisioned, JUMPED, P, IDLE, "arm expiry; arm window; arm prove"),
    Case(
        "The hub has refused the credential often enough",
        after(provisioned, REFUSED, later(8 * MINUTE), REFUSED, later(8 * MINUTE)),
        REFUSED,
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case("The refusal was counted", provisioned, REFUSED, P, IDLE),
    Case(
        "The stores no longer hold the credential in use",
        provisioned,
        LOST,
        X,
        STAGING,
        "disarm window; disarm expiry; arm timeout; stage 2",
    ),
    Case("The credential in use is gone; the attempt", renewing, LOST, X, STAGING, "disarm expiry"),
    Case("No credential is left; none is promised", waiting, LOST, X, IDLE, "disarm window; disarm expiry"),
    Case(
        "That generation is not the one in use",
        provisioned,
        takes(CredentialLost(generation=7, reason="gone")),
        P,
        IDLE,
    ),
    Case("From here on another revision", provisioned, takes(RulesChanged(before=1, after=1)), P, IDLE),
    # --- answers to background work ------------------------------------------------------------------
    Case(
        "The hub accepts the credential in use",
        after(unproven, fires("prove")),
        answers(ProveCredential),
        P,
        IDLE,
        "keep 1",
    ),
    Case(
        "The hub accepts a credential that is no longer",
        after(unproven, fires("prove"), restarts(inventory=holding(stored(2)))),
        answers(ProveCredential),
        P,
        IDLE,
    ),
    Case(
        "The hub refuses a credential that was committed",
        after(unproven, later(15 * MINUTE), fires("prove")),
        denies(ProveCredential, refused=True),
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "The hub keeps refusing the credential",
        after(
            provisioned,
            later(-4_000 * DAY),
            restarts(kernel_synchronised=False),
            *(fires("prove"), denies(ProveCredential, refused=True)) * 2,
            fires("prove"),
        ),
        denies(ProveCredential, refused=True),
        X,
        STAGING,
        "arm timeout; stage 2",
    ),
    Case(
        "The credential in use could not be proven now",
        after(unproven, fires("prove")),
        denies(ProveCredential, refused=True),
        P,
        IDLE,
        "arm prove",
    ),
    # --- one attempt ---------------------------------------------------------------------------------
    Case("The master key is missing", renewing, LOSES_KEYS, R, STAGING),
    Case("The hub accepts the module keys", after(renewing, PUSH), answers(PushModuleKeys), R, STAGING),
    Case("Not every module got its key", after(renewing, PUSH), denies(PushModuleKeys), R, STAGING),
    Case(
        "A key from an earlier attempt waits",
        unprovisioned,
        fires("attempt"),
        G,
        SUBMITTING,
        "arm timeout; register 1",
        rows=ATTEMPT,
    ),
    Case(
        "A new key is made beside the one in use",
        expiring,
        fires("attempt"),
        R,
        STAGING,
        "arm timeout; stage 2",
        rows=ATTEMPT,
    ),
    Case(
        "What was asked is forgotten",
        renewing,
        configured("", NO_DPS),
        U,
        IDLE,
        "disarm expiry; disarm timeout",
        rows=ATTEMPT,
    ),
    Case(
        "The key is stored; its CSR goes",
        registering,
        answers(StageKey),
        G,
        SUBMITTING,
        "register 1",
        rows=ATTEMPT,
    ),
    Case(
        "Without a stored key nothing is asked",
        registering,
        denies(StageKey),
        U,
        IDLE,
        "disarm timeout; arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The overall deadline of one attempt",
        polling(registering),
        fires("timeout"),
        U,
        IDLE,
        "arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The registration would be sent once more, but",
        after(
            World,
            starts(policy=with_policy(budget_registrations=1)),
            answers(StageKey),
        ),
        restarts(policy=with_policy(budget_registrations=1)),
        U,
        IDLE,
        "arm timeout; disarm timeout; arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The registration is sent once more: whether",
        at(registering, SUBMITTING),
        restarts(),
        G,
        SUBMITTING,
        "arm timeout",
        rows=ATTEMPT,
    ),
    Case(
        "DPS took the registration; its operation",
        at(registering, SUBMITTING),
        answers(SubmitRegistration),
        G,
        POLLING,
        "arm phase",
        rows=ATTEMPT,
    ),
    Case(
        "The old credential is given up only after",
        polling(renewing),
        issues(),
        R,
        PROVING,
        "disarm timeout; prove 2",
        rows=ATTEMPT,
    ),
    Case(
        "The enrolment issues no certificate; the configured",
        polling(registering),
        answers(PollRegistration, chain=None),
        G,
        PROVING,
        "disarm timeout; prove 2",
        rows=ATTEMPT,
    ),
    Case(
        "What DPS issued cannot be used",
        polling(renewing),
        answers(PollRegistration, chain=None),
        E,
        IDLE,
        "disarm timeout; arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The enrolment does not take a CSR",
        at(registering, SUBMITTING),
        denies(SubmitRegistration, failure_class="operator", code="csr-not-configured"),
        G,
        SUBMITTING,
        "register None",
        rows=ATTEMPT,
    ),
    Case(
        "DPS no longer knows the operation",
        polling(registering),
        denies(PollRegistration, failure_class="reregister"),
        G,
        SUBMITTING,
        "register 1",
        rows=ATTEMPT,
    ),
    Case(
        "The answer was lost, not the operation",
        polling(registering),
        denies(PollRegistration),
        G,
        POLLING,
        "arm phase",
        rows=ATTEMPT,
    ),
    Case(
        "DPS said no, or could not be asked",
        polling(renewing),
        denies(PollRegistration, failure_class="operator"),
        E,
        IDLE,
        "disarm timeout; arm attempt",
        rows=ATTEMPT,
    ),
    Case("The next poll is due", at(registering, POLLING), fires("phase"), G, POLLING, "poll", rows=ATTEMPT),
    Case(
        "DPS is still at it",
        polling(registering),
        lambda world: world.take(RegistrationPending(answers=world.pending(PollRegistration).id)),
        G,
        POLLING,
        "arm phase",
        rows=ATTEMPT,
    ),
    Case(
        "The operation is older than 10 minutes",
        polling(renewing),
        restarts(down_ms=10 * MINUTE),
        R,
        SUBMITTING,
        "arm expiry; arm timeout; register 2",
        rows=ATTEMPT,
    ),
    Case(
        "The hub accepts the new credential",
        at(renewing, PROVING),
        answers(ProveCredential),
        R,
        COMMITTING,
        "commit 2",
        rows=ATTEMPT,
    ),
    Case(
        "Hubs refuse falsely soon after",
        at(registering, PROVING),
        denies(ProveCredential, refused=True, failure_class="operator"),
        G,
        PROVING,
        "arm phase",
        rows=ATTEMPT,
    ),
    Case(
        "The new certificate ended before the hub",
        after(polling(renewing), issues(life_ms=MINUTE)),
        denies(ProveCredential, after_ms=MINUTE),
        E,
        IDLE,
        "arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The key of the new credential is gone",
        at(renewing, PROVING),
        denies(ProveCredential, failure_class="new_key"),
        E,
        IDLE,
        "keep 1; arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The hub that DPS named cannot be reached for long",
        after(polling(renewing), answers(PollRegistration, assigned_hub="other.example")),
        denies(ProveCredential, after_ms=15 * MINUTE),
        E,
        IDLE,
        "arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The hub refuses the new credential",
        at(renewing, PROVING),
        denies(ProveCredential, refused=True),
        E,
        IDLE,
        "arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The hub cannot be asked, and the credential",
        at(renewing, PROVING),
        denies(ProveCredential),
        R,
        PROVING,
        "arm phase",
        rows=ATTEMPT,
    ),
    Case(
        "The hub cannot be asked, and there is no",
        at(registering, PROVING),
        denies(ProveCredential),
        G,
        COMMITTING,
        "commit 1",
        rows=ATTEMPT,
    ),
    Case(
        "The new credential is shown to the hub again",
        after(at(renewing, PROVING), denies(ProveCredential)),
        fires("phase"),
        R,
        PROVING,
        "prove 2",
        rows=ATTEMPT,
    ),
    Case(
        "Certificate, key, bundle and assignment",
        at(renewing, COMMITTING),
        answers(CommitCredential),
        R,
        RETIRING,
        "keep 1,2; arm collect",
        rows=ATTEMPT,
    ),
    Case(
        "The configuration is the assignment",
        World,
        takes(started(policy=MANUAL, fingerprint="m")),
        G,
        PROVING,
        "prove 1",
        rows=ATTEMPT,
    ),
    Case(
        "The token may be that of a wrong clock",
        at(manual, PROVING),
        denies(ProveCredential, refused=True),
        G,
        PROVING,
        "arm phase",
        rows=ATTEMPT,
    ),
    Case(
        "The hub refuses the configured credential",
        after(at(manual, PROVING), denies(ProveCredential, refused=True), fires("phase")),
        denies(ProveCredential, refused=True),
        U,
        IDLE,
        "arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The store could not flip",
        at(renewing, COMMITTING),
        denies(CommitCredential),
        R,
        COMMITTING,
        "arm phase",
        rows=ATTEMPT,
    ),
    Case(
        "The store refused the credential, or",
        at(renewing, COMMITTING),
        denies(CommitCredential, failure_class="new_key"),
        E,
        IDLE,
        "keep 1; arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "The store is asked again",
        after(at(renewing, COMMITTING), denies(CommitCredential)),
        fires("phase"),
        R,
        COMMITTING,
        "commit 2",
        rows=ATTEMPT,
    ),
    Case(
        "The new certificate ended before the store",
        after(
            polling(renewing),
            issues(life_ms=MINUTE),
            answers(ProveCredential),
            denies(CommitCredential),
            restarts(down_ms=MINUTE),
        ),
        fires("phase"),
        E,
        IDLE,
        "arm attempt",
        rows=ATTEMPT,
    ),
    Case(
        "What is superseded is gone",
        at(renewing, RETIRING),
        answers(RetireCredential),
        P,
        IDLE,
        "arm expiry; arm window",
        rows=ATTEMPT,
    ),
    Case(
        "What is superseded could not be removed",
        at(renewing, RETIRING),
        denies(RetireCredential),
        P,
        IDLE,
        "arm expiry; arm window",
        rows=ATTEMPT,
    ),
)


def _name(case):
    return f"{case.why[:48]}-{case.state.value}-{case.phase.value}"


@pytest.fixture
def rows_taken(monkeypatch):
    """Every row that the machine takes, in order."""
    taken = []
    run = machine._run

    def recording(*arguments):
        row = run(*arguments)
        if row is not None:
            taken.append(row)
        return row

    monkeypatch.setattr(machine, "_run", recording)
    return taken


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_row(case, rows_taken):
    world = case.place()
    rows_taken.clear()
    decision = case.happens(world)
    assert world.position == (case.state, case.phase)
    assert decision.verdict == case.verdict
    assert any(row in case.rows and row.why.startswith(case.why) for row in rows_taken), rows_taken
    assert wishes(decision) == [one for one in case.effects.split("; ") if one]


def test_every_row_of_both_tables_is_taken_by_a_case(rows_taken):
    for case in CASES:
        world = case.place()
        case.happens(world)
    missing = [row for row in (*LIFECYCLE, *ATTEMPT) if row not in rows_taken]
    assert missing == []
