"""Every law finds what it is there for, in what would otherwise be sound, and says so.

Each case takes a place or a step of the real machine, which no law minds, and spoils one thing about it.
What looks alike and is allowed has cases of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from statemachine.effects import (
    ArmDeadline,
    ArmDelay,
    CommitCredential,
    Disarm,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    StopService,
    SubmitRegistration,
)
from statemachine.events import (
    AnyEvent,
    ClockObserved,
    CredentialCommitted,
    CredentialLost,
    DeadlinePassed,
    Inventory,
    ModuleKeysLost,
    ModuleKeysPushed,
    ModuleKeysRequested,
    PurgeRequested,
    RegistrationFailed,
    RenewRequested,
    ReprovisionRequested,
    RulesChanged,
)
from statemachine.invariants import (
    STATE_LAWS,
    STEP_LAWS,
    a_commit_is_whole,
    a_credential_is_lost_only_by_loss,
    a_manual_assignment_is_as_configured,
    a_manual_assignment_needs_no_dps,
    a_phase_acts_again_only_where_it_can,
    bookkeeping,
    expiry_is_watched,
    expiry_needs_a_trusted_clock,
    goes_on,
    module_keys_are_nobody_elses_business,
    nothing_is_erased_unasked,
    nothing_needed_is_retired,
    nothing_works_is_given_up_unproven,
    one_attempt_at_a_time,
    one_csr_in_flight,
    one_draw_per_certificate,
    only_what_was_assigned_is_proposed,
    positions,
    registrations_are_bounded,
    stale_changes_nothing,
    the_budget_ends_no_certificate,
    timers_are_told,
    unproven_is_proven_later,
    what_is_erased_is_not_believed,
)
from statemachine.machine import RULES_REVISION, Decision
from statemachine.snapshot import (
    Armed,
    Budget,
    Bundle,
    ClockTrust,
    Credential,
    Outstanding,
    Purge,
    Snapshot,
)
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    ELSEWHERE,
    HOUR,
    NO_DPS,
    POLICY,
    T0,
    World,
    certless,
    expiring,
    given_up,
    manual,
    provisioned,
    purging,
    registering,
    renewing,
    reprovisioning,
    started,
    unproven,
    unprovisioned,
    waiting,
)

OBSERVED = ClockObserved(kernel_synchronised=True)
DOUBTED = ClockTrust(trusted=False, reason="jumped")


def without(snapshot, *names):
    return tuple(one for one in snapshot.armed if one.name not in names)


def also(snapshot, name):
    return (*snapshot.armed, Armed(name=name, at_unix_ms=T0 + 400 * DAY))


def asked(*effects):
    return tuple(Outstanding(id=f"1.9.{n}", effect=effect) for n, effect in enumerate(effects))


STAGE = StageKey(generation=2, algorithm="ec-p256", common_name="device-1")
SUBMIT = SubmitRegistration(attempt=1, generation=2)
POLL = PollRegistration(attempt=1, operation_id="op-1")
PROVE = ProveCredential(generation=1, hub="hub.example", device_id="device-1")
COMMIT = CommitCredential(
    generation=2, hub="h", device_id="d", fingerprint="f1", chain_pem=None, bundle_id="b"
)
RETIRE = RetireCredential(keep=(1,))
PUSH = PushModuleKeys()
ERASE = PurgeCredentials()


# --- of every state ----------------------------------------------------------------------------------


class Place(NamedTuple):
    """One thing about a sound snapshot is changed; ``says`` None: and it is still sound."""

    law: Callable[[Snapshot], str | None]
    says: str | None
    sound: Callable[[], World]
    spoilt: Callable[[Snapshot], dict[str, Any]]
    "New fields."


def fields(**new):
    return lambda snapshot: new


def armed_but(*names):
    return lambda snapshot: {"armed": without(snapshot, *names)}


def armed_and(name):
    return lambda snapshot: {"armed": also(snapshot, name)}


def only(name):
    return fields(armed=(Armed(name=name, at_unix_ms=T0),))


def at(place, phase):
    return lambda: place(phase)


def waiting_for(*effects):
    return fields(outstanding=asked(*effects))


def foreign():
    """A copied image: nothing may begin."""
    world = World()
    world.take(started(foreign_machine=True))
    return world


def foreign_and_manual():
    world = manual()
    world.restart(policy=world.snapshot.policy, fingerprint=world.snapshot.fingerprint, foreign_machine=True)
    return world


OUTSIDE = "an attempt runs outside an attempt state"
WITHOUT = "an attempt state without an attempt"
DISAGREE = "the phase and the attempt disagree"
HOLDS_NONE = "no credential in a state that promises one"
ASTRAY = "a candidate outside proving and committing"
FOR_NOTHING = "the attempt waits for nothing"
AT_REST = "at rest, and nothing is armed"
NOBODY = "issuance is asked of nobody"
NO_END = "a certificate in use, a trusted clock, and its end is not armed"
ANOTHER = "another attempt is armed while one runs"
TWO = "two registrations are in flight"
NO_ACT = "the phase is armed where it does nothing"
OUTLIVES = "the deadline of an attempt outlives it"
HOLDS = "it holds something, or may begin something"
UNERASED = "nobody erases the rest"
NEVER_SHOWN = "an unproven credential is never shown again"

PLACES = (
    *(
        Place(positions, OUTSIDE, at(registering, phase), fields(state=state))
        for phase in (Phase.STAGING, Phase.RETIRING)
        for state in (State.UNPROVISIONED, State.PROVISIONED, State.CERT_EXPIRING)
    ),
    Place(positions, WITHOUT, unprovisioned, fields(state=State.REGISTERING)),
    Place(positions, WITHOUT, expiring, fields(state=State.RENEWING)),
    Place(positions, None, waiting, fields()),
    Place(positions, DISAGREE, registering, fields(attempt=None)),
    Place(positions, DISAGREE, provisioned, fields(attempt=renewing().snapshot.attempt)),
    *(
        Place(positions, HOLDS_NONE, place, fields(**{lost: None}))
        for place in (provisioned, expiring, renewing)
        for lost in ("credential", "assignment")
    ),
    Place(positions, None, waiting, fields(credential=None, assignment=None)),
    *(
        Place(
            positions,
            ASTRAY,
            at(renewing, phase),
            fields(candidate=renewing(Phase.PROVING).snapshot.candidate),
        )
        for phase in (Phase.STAGING, Phase.SUBMITTING, Phase.POLLING, Phase.RETIRING)
    ),
    Place(positions, ASTRAY, waiting, fields(candidate=renewing(Phase.PROVING).snapshot.candidate)),
    Place(positions, None, at(renewing, Phase.PROVING), fields()),
    Place(positions, None, at(renewing, Phase.COMMITTING), fields()),
    # --- something is armed or asked, or somebody knows why not
    *(
        Place(goes_on, FOR_NOTHING, at(place, phase), fields(outstanding=()))
        for place in (registering, renewing, reprovisioning)
        for phase in (Phase.STAGING, Phase.SUBMITTING, Phase.PROVING, Phase.COMMITTING, Phase.RETIRING)
    ),
    Place(goes_on, FOR_NOTHING, at(registering, Phase.SUBMITTING), waiting_for(PUSH)),
    Place(goes_on, None, at(registering, Phase.SUBMITTING), waiting_for(PUSH, SUBMIT)),
    Place(goes_on, FOR_NOTHING, at(registering, Phase.POLLING), armed_but("phase")),
    *(
        Place(goes_on, AT_REST, place, armed_but("attempt", "window", "reissue"))
        for place in (unprovisioned, provisioned, certless, expiring, waiting)
    ),
    Place(goes_on, AT_REST, unprovisioned, only("window")),
    Place(goes_on, AT_REST, provisioned, only("attempt")),
    Place(goes_on, None, provisioned, only("reissue")),
    Place(goes_on, AT_REST, expiring, only("window")),
    Place(goes_on, AT_REST, waiting, only("reissue")),
    *(
        Place(goes_on, None, unprovisioned, fields(armed=(), **why))
        for why in ({"hold": True}, {"stopping": True}, {"policy": NO_DPS}, {"foreign_machine": True})
    ),
    Place(goes_on, None, foreign, fields()),
    Place(goes_on, AT_REST, manual, fields(state=State.UNPROVISIONED, foreign_machine=True)),
    Place(goes_on, None, manual, fields(foreign_machine=True)),
    Place(goes_on, None, foreign_and_manual, fields()),
    Place(goes_on, NOBODY, manual, armed_and("reissue")),
    # --- the end of a certificate
    *(Place(expiry_is_watched, NO_END, place, armed_but("expiry")) for place in (provisioned, expiring)),
    Place(
        expiry_is_watched, None, provisioned, lambda one: {"armed": without(one, "expiry"), "clock": DOUBTED}
    ),
    Place(expiry_is_watched, None, certless, fields(armed=())),
    Place(expiry_is_watched, None, waiting, fields(armed=())),
    Place(expiry_is_watched, None, unprovisioned, fields(armed=())),
    Place(expiry_is_watched, None, provisioned, fields(credential=None)),
    # --- one thing at a time
    *(
        Place(one_attempt_at_a_time, ANOTHER, at(place, phase), armed_and("attempt"))
        for place in (registering, renewing, reprovisioning)
        for phase in Phase
        if phase is not Phase.IDLE
    ),
    Place(one_attempt_at_a_time, None, unprovisioned, fields()),
    *(
        Place(one_csr_in_flight, TWO, at(registering, Phase.SUBMITTING), waiting_for(*some))
        for some in ((SUBMIT, SUBMIT), (SUBMIT, POLL), (POLL, POLL))
    ),
    *(
        Place(
            one_csr_in_flight, f"{type(one).__name__} is waited for twice", provisioned, waiting_for(one, one)
        )
        for one in (STAGE, PROVE, COMMIT, RETIRE, ERASE, PUSH)
    ),
    Place(
        one_csr_in_flight, None, registering, waiting_for(STAGE, SUBMIT, PROVE, COMMIT, RETIRE, ERASE, PUSH)
    ),
    # --- where a phase acts
    *(
        Place(a_phase_acts_again_only_where_it_can, NO_ACT, at(renewing, phase), armed_and("phase"))
        for phase in (Phase.STAGING, Phase.SUBMITTING, Phase.RETIRING)
    ),
    Place(a_phase_acts_again_only_where_it_can, NO_ACT, provisioned, armed_and("phase")),
    *(
        Place(a_phase_acts_again_only_where_it_can, None, at(renewing, phase), armed_and("phase"))
        for phase in (Phase.POLLING, Phase.PROVING, Phase.COMMITTING)
    ),
    *(
        Place(a_phase_acts_again_only_where_it_can, OUTLIVES, at(renewing, phase), armed_and("timeout"))
        for phase in (Phase.PROVING, Phase.COMMITTING, Phase.RETIRING)
    ),
    Place(a_phase_acts_again_only_where_it_can, OUTLIVES, provisioned, armed_and("timeout")),
    # --- unproven
    Place(unproven_is_proven_later, NEVER_SHOWN, unproven, armed_but("prove")),
    Place(unproven_is_proven_later, NEVER_SHOWN, unproven, fields(armed=(), outstanding=asked(PUSH))),
    Place(unproven_is_proven_later, None, unproven, fields(armed=(), outstanding=asked(PROVE))),
    Place(unproven_is_proven_later, None, unproven, fields(armed=(), phase=Phase.STAGING)),
    Place(unproven_is_proven_later, None, unproven, fields(armed=(), state=State.UNPROVISIONED)),
    Place(unproven_is_proven_later, None, unproven, fields(armed=(), credential=None)),
    Place(unproven_is_proven_later, None, provisioned, armed_but("prove")),
    # --- the configuration is the assignment
    Place(a_manual_assignment_is_as_configured, "at rest with nothing", manual, fields(credential=None)),
    Place(a_manual_assignment_is_as_configured, "at rest with nothing", manual, fields(assignment=None)),
    Place(
        a_manual_assignment_is_as_configured,
        "at rest with ('hub.example', 'device-1', 'configured', None)",
        manual,
        fields(policy=ELSEWHERE),
    ),
    Place(
        a_manual_assignment_is_as_configured,
        "at rest with ('hub.example', 'device-1', 'configured', None)",
        manual,
        fields(state=State.CERT_EXPIRING),
    ),
    Place(
        a_manual_assignment_is_as_configured,
        "at rest with ('hub.example', 'device-2', 'configured', None)",
        manual,
        lambda one: {"assignment": structs.replace(one.assignment, device_id="device-2")},
    ),
    Place(
        a_manual_assignment_is_as_configured,
        "at rest with ('hub.example', 'device-1', 'issued', None)",
        manual,
        lambda one: {"credential": structs.replace(one.credential, source="issued")},
    ),
    Place(
        a_manual_assignment_is_as_configured,
        "at rest with ('hub.example', 'device-1', 'configured', Bundle(id='b', certificates=1, sha256='b1'))",
        manual,
        fields(bundle=Bundle(id="b", certificates=1, sha256="b1")),
    ),
    Place(
        a_manual_assignment_is_as_configured,
        None,
        manual,
        fields(state=State.REPROVISIONING, policy=ELSEWHERE),
    ),
    Place(a_manual_assignment_is_as_configured, None, provisioned, fields(policy=POLICY)),
    # --- given up
    *(
        Place(what_is_erased_is_not_believed, HOLDS, purging, fields(**{name: value(renewing)}))
        for name, value in (
            ("credential", lambda place: place().snapshot.credential),
            ("assignment", lambda place: place().snapshot.assignment),
            ("bundle", lambda place: place().snapshot.bundle),
            ("staged", lambda place: place(Phase.SUBMITTING).snapshot.staged),
            ("candidate", lambda place: place(Phase.PROVING).snapshot.candidate),
            ("attempt", lambda place: place().snapshot.attempt),
            ("superseded", lambda place: place().settle().snapshot.superseded),
            ("hold", lambda place: False),
        )
    ),
    Place(what_is_erased_is_not_believed, HOLDS, provisioned, fields(purge=Purge(), hold=True)),
    Place(what_is_erased_is_not_believed, UNERASED, purging, fields(outstanding=())),
    Place(what_is_erased_is_not_believed, UNERASED, purging, fields(outstanding=asked(RETIRE, PUSH))),
    Place(what_is_erased_is_not_believed, UNERASED, given_up, fields(purge=Purge())),
    Place(
        what_is_erased_is_not_believed,
        None,
        purging,
        fields(outstanding=(), armed=(Armed(name="collect", at_unix_ms=T0),)),
    ),
    Place(what_is_erased_is_not_believed, None, provisioned, fields(hold=True)),
    Place(what_is_erased_is_not_believed, None, given_up, fields(hold=False)),
)


@pytest.mark.parametrize("case", PLACES, ids=lambda one: f"{one.law.__name__}-{one.says}"[:90])
def test_of_every_state(case):
    sound = case.sound().snapshot
    assert [law(sound) for law in STATE_LAWS] == [None] * len(STATE_LAWS)
    assert case.law(structs.replace(sound, **case.spoilt(sound))) == case.says


# --- of every step -----------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a step law is asked."""

    before: Snapshot
    stamp: int
    event: AnyEvent
    decision: Decision

    def but(self, *, before=None, after=None, effects=None, verdict=None, **facts):
        """Another step: other fields of the snapshots, other effects, ``event`` or ``stamp``."""
        decision = self.decision
        decision = structs.replace(
            decision,
            snapshot=structs.replace(decision.snapshot, **(after or {})),
            effects=decision.effects if effects is None else tuple(effects),
            verdict=verdict or decision.verdict,
        )
        return self._replace(
            before=structs.replace(self.before, **(before or {})), decision=decision, **facts
        )

    @property
    def after(self):
        return self.decision.snapshot

    @property
    def effects(self):
        return self.decision.effects


def last_of(world):
    now, event, decision = world.history[-1]
    before = world.history[-2][2].snapshot if len(world.history) > 1 else Snapshot()
    return Step(before, now, event, decision)


class Deed(NamedTuple):
    """One thing about a sound step is changed; ``says`` None: and it is still sound."""

    law: Callable[..., str | None]
    says: str | None
    sound: Callable[[], Step]
    spoilt: Callable[[Step], dict[str, Any]]
    "What `Step.but` is told."


def to(**facts):
    return lambda step: facts


def steps(place, happens=lambda world: None):
    """The last step of a place, or what happens there."""

    def step():
        world = place()
        happens(world)
        return last_of(world)

    return step


def commit_is_answered(world):
    world.answer(CommitCredential)


def proof_is_answered(world):
    world.answer(ProveCredential)


def expires_in_doubt(world):
    """The clock is wrong, and somebody fires the end of the certificate."""
    world.restart(down_ms=400 * DAY, kernel_synchronised=False)
    world.take(DeadlinePassed(name="expiry"))
    assert not world.snapshot.clock.trusted


def collects(world):
    """The superseded certificate has ended, and the successor is proven."""
    world.fire("collect")
    assert world.snapshot.superseded == ()


def loses(world):
    world.take(CredentialLost(generation=1, reason="gone"))


def loses_everything(world):
    world.store.lose()
    world.restart()


def renewed():
    return renewing().settle()


staged = steps(registering)
submitted_again = steps(unprovisioned, lambda world: world.fire("attempt"))
"With the key that waits: a registration that begins in this step."
window = steps(provisioned, lambda world: world.fire("window"))
assigned = steps(at(renewing, Phase.PROVING))
proven = steps(at(renewing, Phase.PROVING), proof_is_answered)
committed = steps(at(renewing, Phase.COMMITTING), commit_is_answered)
collected = steps(renewed, collects)
stale = steps(provisioned, lambda world: world.take(CredentialCommitted(answers="9.9.9", generation=1)))
manual_start = steps(at(manual, Phase.PROVING))
erased = steps(purging)
keys_lost = steps(provisioned, lambda world: world.take(ModuleKeysLost(reason="gone")))
SPENT = Budget(spent=POLICY.budget_registrations + 1, since_unix_ms=T0)
OVER = f"registration {SPENT.spent} of {POLICY.budget_registrations}"


def pushing(world):
    world.take(ModuleKeysLost(reason="gone"))
    world.take(ModuleKeysRequested(uid=0))


def push_fails(world):
    pushing(world)
    world.deny(PushModuleKeys)


def erasing_fails(world):
    world.deny(PurgeCredentials)


def gives_up(step):
    return {"event": PurgeRequested(uid=0), "after": {"credential": None}}


def keeps_nothing(step):
    return {"effects": (*step.effects, RetireCredential(keep=()))}


def keeps_nothing_of_what_is_given_up(step):
    return {**keeps_nothing(step), "event": PurgeRequested(uid=0)}


def in_last_tenth(step):
    """When the certificate in use has eight of its ninety days left."""
    return step.before.credential.not_after_unix_ms - 8 * DAY


def with_credential(step, **changes):
    return {"credential": structs.replace(step.after.credential, **changes)}


def next_attempt(step, at_unix_ms):
    return (*step.effects, ArmDeadline(name="attempt", at_unix_ms=at_unix_ms))


BOOKS = "sequence or stamp"
PUT_OFF = "the next attempt is put off into the last tenth of the certificate in use"
DELETES = "a clock that is not trusted deletes something"
GIVEN_UP = "an unproven credential replaces a working one"
NOT_IT = "what is committed is not the candidate"
NOBODY_ISSUED = "a certificate that nobody issued just now"
OTHER_KEY = "it is for another key"
DECLARED = "declared expired by a clock that is not trusted"
UNASKED = "it is erased, and nobody asked for that"
FORGOTTEN = "the credential in use was forgotten"
ASKS_DPS = "DPS is asked for what the configuration says"
MOVED = "an ignored event moved the machine"

DEEDS = (
    Deed(bookkeeping, BOOKS, staged, lambda step: {"after": {"sequence": step.after.sequence + 1}}),
    Deed(bookkeeping, BOOKS, staged, lambda step: {"stamp": step.stamp + 1}),
    Deed(
        bookkeeping,
        BOOKS,
        steps(
            provisioned, lambda world: world.take(RulesChanged(before=1, after=RULES_REVISION), after_ms=5)
        ),
        lambda step: {"after": {"last_unix_ms": step.stamp}},
    ),
    Deed(
        bookkeeping, "a name is armed twice", window, lambda step: {"after": {"armed": step.after.armed * 2}}
    ),
    Deed(
        bookkeeping,
        "an id is outstanding twice",
        staged,
        lambda step: {"after": {"outstanding": step.after.outstanding * 2}},
    ),
    Deed(
        bookkeeping,
        "something without an answer is outstanding",
        staged,
        lambda step: {"effects": [Disarm(name="window"), *step.effects][:1] * len(step.effects)},
    ),
    # --- timers
    Deed(
        timers_are_told,
        "told ['expiry'], armed ['attempt', 'expiry']",
        window,
        to(effects=()),
    ),
    Deed(
        timers_are_told,
        "told ['attempt', 'expiry', 'window'], armed ['attempt', 'expiry']",
        window,
        to(event=OBSERVED),
    ),
    Deed(
        timers_are_told,
        "told ['attempt'], armed ['attempt', 'expiry']",
        window,
        lambda step: {"effects": (*step.effects, Disarm(name="expiry"))},
    ),
    Deed(
        timers_are_told,
        "told ['attempt', 'expiry', 'prove'], armed ['attempt', 'expiry']",
        window,
        lambda step: {"effects": (*step.effects, ArmDelay(name="prove", delay_ms=5))},
    ),
    Deed(
        timers_are_told,
        "told [], armed ['expiry', 'window']",
        steps(provisioned, lambda world: world.restart()),
        to(effects=()),
    ),
    Deed(timers_are_told, None, submitted_again, to()),
    # --- one draw
    Deed(
        one_draw_per_certificate,
        "drawn again",
        window,
        lambda step: {"after": with_credential(step, draw_ppm=step.after.credential.draw_ppm + 1)},
    ),
    *(
        Deed(
            one_draw_per_certificate,
            None,
            window,
            lambda step, other=other: {"after": with_credential(step, draw_ppm=99, **other)},
        )
        for other in ({"generation": 9}, {"sha256": "another"})
    ),
    Deed(one_draw_per_certificate, None, window, to(before={"credential": None})),
    Deed(one_draw_per_certificate, None, window, to(after={"credential": None})),
    # --- registrations
    Deed(registrations_are_bounded, OVER, submitted_again, to(after={"budget": SPENT})),
    Deed(
        registrations_are_bounded,
        None,
        submitted_again,
        to(after={"budget": structs.replace(SPENT, spent=POLICY.budget_registrations)}),
    ),
    Deed(registrations_are_bounded, None, staged, to(after={"budget": SPENT})),
    Deed(
        registrations_are_bounded,
        None,
        submitted_again,
        to(after={"budget": SPENT}, event=RenewRequested(uid=0)),
    ),
    Deed(
        registrations_are_bounded,
        None,
        submitted_again,
        to(after={"budget": SPENT}, event=ReprovisionRequested(uid=0)),
    ),
    Deed(
        registrations_are_bounded,
        OVER,
        submitted_again,
        to(after={"budget": SPENT}, event=ReprovisionRequested(uid=1000, privileged=False)),
    ),
    *(
        Deed(
            registrations_are_bounded,
            says,
            submitted_again,
            to(
                after={"budget": SPENT},
                event=RegistrationFailed(answers="1.1.0", failure_class="operator", code=code),
            ),
        )
        for code, says in (("csr-not-configured", None), ("dps-401", OVER))
    ),
    Deed(
        registrations_are_bounded,
        None,
        submitted_again,
        to(after={"budget": SPENT}, before={"phase": Phase.STAGING}),
    ),
    *(
        Deed(
            registrations_are_bounded,
            says,
            submitted_again,
            lambda step, left_ms=left_ms, source=source: {
                "after": {"budget": SPENT},
                "before": {
                    "credential": Credential(
                        generation=1,
                        source=source,
                        not_before_unix_ms=step.stamp - 90 * DAY + left_ms,
                        not_after_unix_ms=step.stamp + left_ms,
                    )
                },
            },
        )
        for left_ms, source, says in (
            (9 * DAY, "issued", None),
            (9 * DAY + 1, "issued", OVER),
            (9 * DAY, "configured", OVER),
        )
    ),
    Deed(
        registrations_are_bounded,
        None,
        submitted_again,
        lambda step: {
            # Ten days are left by our clock, and nine in truth.
            "after": {"budget": SPENT, "clock": structs.replace(DOUBTED, offset_ms=DAY)},
            "before": {
                "credential": Credential(
                    generation=1,
                    source="issued",
                    not_before_unix_ms=step.stamp - 80 * DAY,
                    not_after_unix_ms=step.stamp + 10 * DAY,
                )
            },
        },
    ),
    # --- the next attempt
    *(
        Deed(
            the_budget_ends_no_certificate,
            says,
            window,
            lambda step, late_ms=late_ms: {
                "effects": next_attempt(step, step.after.credential.not_after_unix_ms - 9 * DAY + late_ms)
            },
        )
        for late_ms, says in ((0, None), (1, PUT_OFF))
    ),
    Deed(
        the_budget_ends_no_certificate,
        PUT_OFF,
        window,
        lambda step: {
            # By our clock it is sooner than in truth.
            "effects": next_attempt(step, step.after.credential.not_after_unix_ms - 10 * DAY),
            "after": {"clock": structs.replace(DOUBTED, offset_ms=2 * DAY)},
        },
    ),
    *(
        Deed(
            the_budget_ends_no_certificate,
            says,
            window,
            lambda step, late_ms=late_ms: {
                "stamp": in_last_tenth(step),
                "effects": next_attempt(step, in_last_tenth(step) + late_ms),
            },
        )
        for late_ms, says in ((0, None), (1, PUT_OFF))
    ),
    Deed(
        the_budget_ends_no_certificate,
        None,
        window,
        lambda step: {
            "before": {"armed": (Armed(name="attempt", at_unix_ms=in_last_tenth(step)),)},
            "effects": next_attempt(step, in_last_tenth(step)),
        },
    ),
    Deed(
        the_budget_ends_no_certificate,
        PUT_OFF,
        window,
        lambda step: {
            "before": {"armed": (Armed(name="attempt", at_unix_ms=in_last_tenth(step) - 1),)},
            "effects": next_attempt(step, in_last_tenth(step)),
        },
    ),
    *(
        Deed(
            the_budget_ends_no_certificate,
            None,
            window,
            lambda step, change=change: {
                "effects": next_attempt(step, in_last_tenth(step)),
                **change(step),
            },
        )
        for change in (
            lambda step: {"after": {"credential": None}},
            lambda step: {"after": with_credential(step, source="configured")},
            lambda step: {
                "stamp": step.after.credential.not_after_unix_ms,
                "effects": next_attempt(step, step.after.credential.not_after_unix_ms + HOUR),
            },
            lambda step: {
                "stamp": step.after.credential.not_after_unix_ms - HOUR,
                "effects": next_attempt(step, step.after.credential.not_after_unix_ms + HOUR),
                "after": {"clock": structs.replace(DOUBTED, offset_ms=HOUR)},
            },
            lambda step: {
                "effects": (*step.effects, ArmDeadline(name="window", at_unix_ms=in_last_tenth(step)))
            },
            lambda step: {"effects": (*step.effects, ArmDelay(name="attempt", delay_ms=400 * DAY))},
        )
    ),
    # --- retired
    *(
        Deed(
            nothing_needed_is_retired,
            f"[{gone}] would be removed",
            committed,
            lambda step, keep=keep: {"effects": (RetireCredential(keep=keep),)},
        )
        for keep, gone in (((2,), 1), ((1,), 2), ((), "1, 2"))
    ),
    *(
        Deed(
            nothing_needed_is_retired,
            "[7] would be removed",
            committed,
            lambda step, what=what, of=of: {"after": {what: structs.replace(of(step), generation=7)}},
        )
        for what, of in (
            ("staged", lambda step: step.before.staged),
            ("candidate", lambda step: step.before.candidate),
        )
    ),
    Deed(
        nothing_needed_is_retired,
        "[1] would be removed",
        window,
        lambda step: {"effects": (*step.effects, RetireCredential(keep=()))},
    ),
    Deed(nothing_needed_is_retired, DELETES, collected, to(after={"clock": DOUBTED})),
    Deed(nothing_needed_is_retired, DELETES, collected, to(after={"clock": DOUBTED}, effects=())),
    Deed(
        nothing_needed_is_retired,
        None,
        collected,
        lambda step: {
            "after": {"clock": DOUBTED, "superseded": step.before.superseded},
            "effects": (RetireCredential(keep=(1, 2)),),
        },
    ),
    Deed(
        nothing_needed_is_retired,
        None,
        collected,
        lambda step: {
            "after": {"clock": DOUBTED, "superseded": step.before.superseded, "credential": None},
            "effects": (RetireCredential(keep=(1,)),),
        },
    ),
    Deed(nothing_needed_is_retired, None, committed, to(effects=())),
    # --- committed unproven
    Deed(
        nothing_works_is_given_up_unproven,
        "two commits in one step",
        proven,
        lambda step: {"effects": step.effects * 2},
    ),
    Deed(nothing_works_is_given_up_unproven, NOT_IT, proven, to(after={"candidate": None})),
    Deed(
        nothing_works_is_given_up_unproven,
        NOT_IT,
        proven,
        lambda step: {"after": {"candidate": structs.replace(step.after.candidate, generation=1)}},
    ),
    Deed(
        nothing_works_is_given_up_unproven,
        GIVEN_UP,
        proven,
        lambda step: {"after": {"candidate": structs.replace(step.after.candidate, proven=False)}},
    ),
    *(
        Deed(
            nothing_works_is_given_up_unproven,
            says,
            proven,
            lambda step, change=change: {
                "after": {"candidate": structs.replace(step.after.candidate, proven=False)},
                **change(step),
            },
        )
        for says, change in (
            (None, lambda step: {"stamp": in_last_tenth(step) - DAY}),
            (GIVEN_UP, lambda step: {"stamp": in_last_tenth(step) - 2 * DAY}),
            (
                None,
                lambda step: {
                    "stamp": in_last_tenth(step) - 2 * DAY,
                    "after": {
                        "candidate": structs.replace(step.after.candidate, proven=False),
                        "clock": structs.replace(DOUBTED, offset_ms=DAY),
                    },
                },
            ),
            (GIVEN_UP, lambda step: {"stamp": in_last_tenth(step) - DAY - 1}),
        )
    ),
    *(
        Deed(
            nothing_works_is_given_up_unproven,
            None,
            proven,
            lambda step, credential=credential: {
                "after": {
                    "candidate": structs.replace(step.after.candidate, proven=False),
                    "credential": credential,
                }
            },
        )
        for credential in (None, Credential(generation=1, source="configured"))
    ),
    Deed(nothing_works_is_given_up_unproven, None, assigned, to()),
    # --- proposed
    Deed(only_what_was_assigned_is_proposed, NOBODY_ISSUED, assigned, to(event=OBSERVED)),
    Deed(only_what_was_assigned_is_proposed, NOBODY_ISSUED, assigned, to(before={"staged": None})),
    Deed(
        only_what_was_assigned_is_proposed,
        OTHER_KEY,
        assigned,
        lambda step: {"before": {"staged": structs.replace(step.before.staged, spki_sha256="k9")}},
    ),
    Deed(
        only_what_was_assigned_is_proposed,
        OTHER_KEY,
        assigned,
        lambda step: {"before": {"staged": structs.replace(step.before.staged, generation=9)}},
    ),
    Deed(only_what_was_assigned_is_proposed, None, assigned, to(event=OBSERVED, after={"candidate": None})),
    Deed(
        only_what_was_assigned_is_proposed,
        None,
        assigned,
        lambda step: {"event": OBSERVED, "before": {"candidate": step.after.candidate}},
    ),
    Deed(
        only_what_was_assigned_is_proposed,
        None,
        assigned,
        lambda step: {
            "event": OBSERVED,
            "after": {"candidate": structs.replace(step.after.candidate, chain=None)},
        },
    ),
    # --- current
    Deed(
        a_commit_is_whole,
        "another generation became current",
        committed,
        lambda step: {"after": with_credential(step, generation=9)},
    ),
    Deed(a_commit_is_whole, "another generation became current", committed, to(after={"assignment": None})),
    *(
        Deed(
            a_commit_is_whole,
            "another assignment became current",
            committed,
            lambda step, other=other: {
                "after": {"assignment": structs.replace(step.after.assignment, **other)}
            },
        )
        for other in ({"hub": "other.example"}, {"device_id": "device-2"})
    ),
    Deed(a_commit_is_whole, "another bundle", committed, to(after={"bundle": None})),
    Deed(
        a_commit_is_whole,
        "another bundle",
        committed,
        lambda step: {"after": {"bundle": structs.replace(step.after.bundle, sha256="b2")}},
    ),
    Deed(
        a_commit_is_whole,
        "another bundle",
        committed,
        lambda step: {"before": {"candidate": structs.replace(step.before.candidate, bundle=None)}},
    ),
    Deed(
        a_commit_is_whole,
        None,
        committed,
        lambda step: {
            "before": {"candidate": structs.replace(step.before.candidate, bundle=None)},
            "after": {"bundle": None},
        },
    ),
    *(
        Deed(
            a_commit_is_whole,
            says,
            committed,
            lambda step, held=held, kept=kept: {
                "before": {
                    "candidate": structs.replace(step.before.candidate, bundle=None, keep_bundle=True),
                    "bundle": held,
                },
                "after": {"bundle": kept},
            },
        )
        for held, kept, says in (
            (Bundle(id="b", certificates=1, sha256="b7"), Bundle(id="c", certificates=1, sha256="b7"), None),
            (Bundle(id="b", certificates=1, sha256="b7"), None, "another bundle"),
            (None, Bundle(id="b", certificates=1, sha256="b7"), "another bundle"),
            (None, None, None),
        )
    ),
    *(
        Deed(
            a_commit_is_whole,
            None,
            committed,
            lambda step, change=change: {
                side: {**change(step).get(side, {}), **({"bundle": None} if side == "after" else {})}
                for side in ("before", "after")
            },
        )
        for change in (
            lambda step: {"before": {"candidate": None}},
            lambda step: {"after": {"candidate": step.before.candidate}},
            lambda step: {"after": {"credential": None}},
            lambda step: {"after": {"phase": Phase.IDLE}},
            lambda step: {"before": {"phase": Phase.PROVING}},
        )
    ),
    # --- expired
    Deed(
        expiry_needs_a_trusted_clock,
        DECLARED,
        steps(provisioned, expires_in_doubt),
        to(after={"state": State.REPROVISIONING}),
    ),
    Deed(
        expiry_needs_a_trusted_clock,
        None,
        steps(provisioned, expires_in_doubt),
        lambda step: {
            "after": {"state": State.REPROVISIONING, "clock": structs.replace(step.after.clock, trusted=True)}
        },
    ),
    *(
        Deed(
            expiry_needs_a_trusted_clock,
            None,
            steps(provisioned, expires_in_doubt),
            to(after={"state": State.REPROVISIONING}, event=event),
        )
        for event in (DeadlinePassed(name="window"), OBSERVED)
    ),
    # --- lost
    Deed(a_credential_is_lost_only_by_loss, FORGOTTEN, steps(provisioned, loses), to(event=OBSERVED)),
    Deed(
        a_credential_is_lost_only_by_loss,
        FORGOTTEN,
        steps(provisioned, loses_everything),
        lambda step: {
            "event": structs.replace(step.event, inventory=provisioned().store.inventory()),
        },
    ),
    Deed(
        a_credential_is_lost_only_by_loss,
        None,
        steps(provisioned, loses),
        to(event=started(inventory=Inventory())),
    ),
    Deed(
        a_credential_is_lost_only_by_loss,
        None,
        steps(provisioned, loses),
        to(event=OBSERVED, before={"credential": None}),
    ),
    Deed(
        a_credential_is_lost_only_by_loss,
        None,
        steps(provisioned, loses),
        lambda step: {"event": OBSERVED, "after": {"credential": step.before.credential}},
    ),
    # --- given up
    Deed(nothing_is_erased_unasked, UNASKED, erased, to(event=OBSERVED)),
    Deed(
        nothing_is_erased_unasked,
        UNASKED,
        window,
        lambda step: {"effects": (*step.effects, ERASE)},
    ),
    Deed(
        nothing_is_erased_unasked, None, erased, to(event=OBSERVED, before={"purge": Purge(), "hold": True})
    ),
    Deed(nothing_is_erased_unasked, None, erased, to(event=OBSERVED, effects=())),
    Deed(nothing_is_erased_unasked, None, steps(purging, erasing_fails), to(event=OBSERVED)),
    Deed(a_credential_is_lost_only_by_loss, FORGOTTEN, erased, to(event=OBSERVED)),
    Deed(a_credential_is_lost_only_by_loss, None, window, gives_up),
    Deed(nothing_needed_is_retired, "[1] would be removed", window, keeps_nothing),
    Deed(nothing_needed_is_retired, None, window, keeps_nothing_of_what_is_given_up),
    Deed(
        module_keys_are_nobody_elses_business,
        None,
        window,
        to(before={"module_keys_lost": "gone"}, event=PurgeRequested(uid=0)),
    ),
    # --- the configuration is the assignment
    *(
        Deed(
            a_manual_assignment_needs_no_dps,
            ASKS_DPS,
            manual_start,
            lambda step, effect=effect: {"effects": (*step.effects, effect)},
        )
        for effect in (STAGE, SUBMIT, POLL)
    ),
    *(
        Deed(
            a_manual_assignment_needs_no_dps,
            None,
            manual_start,
            lambda step, effect=effect: {"effects": (*step.effects, effect)},
        )
        for effect in (PROVE, COMMIT, RETIRE, PUSH)
    ),
    Deed(
        a_manual_assignment_needs_no_dps,
        None,
        manual_start,
        lambda step: {"effects": (*step.effects, SUBMIT), "after": {"policy": POLICY}},
    ),
    # --- module keys
    *(
        Deed(
            module_keys_are_nobody_elses_business,
            "something else changed what is known of module keys",
            window,
            to(**{side: {"module_keys_lost": "gone"}}),
        )
        for side in ("before", "after")
    ),
    Deed(
        module_keys_are_nobody_elses_business,
        "a loss was not noted",
        keys_lost,
        to(after={"module_keys_lost": None}),
    ),
    *(
        Deed(
            module_keys_are_nobody_elses_business,
            "a failure changed what is known of the master key",
            steps(provisioned, push_fails),
            to(after={"module_keys_lost": lost}),
        )
        for lost in (None, "another reason")
    ),
    Deed(
        module_keys_are_nobody_elses_business,
        None,
        steps(provisioned, push_fails),
        to(
            after={"module_keys_lost": None},
            event=ModuleKeysPushed(answers="1.1.0", modules=2),
        ),
    ),
    *(
        Deed(
            module_keys_are_nobody_elses_business,
            "more than a push was wished for",
            steps(provisioned, pushing),
            lambda step, effect=effect: {"effects": (*step.effects, effect)},
        )
        for effect in (Disarm(name="window"), STAGE, StopService())
    ),
    *(
        Deed(
            module_keys_are_nobody_elses_business,
            f"['{name}'] changed",
            steps(provisioned, pushing),
            lambda step, name=name, value=value: {"after": {name: value(step)}},
        )
        for name, value in (
            ("state", lambda step: State.RENEWING),
            ("phase", lambda step: Phase.STAGING),
            ("attempt", lambda step: renewing().snapshot.attempt),
            ("candidate", lambda step: renewing(Phase.PROVING).snapshot.candidate),
            ("staged", lambda step: renewing(Phase.PROVING).snapshot.staged),
            ("assignment", lambda step: None),
            ("armed", lambda step: ()),
            ("failures", lambda step: 1),
        )
    ),
    # --- ignored
    Deed(stale_changes_nothing, MOVED, stale, to(after={"state": State.CERT_EXPIRING})),
    Deed(stale_changes_nothing, MOVED, stale, to(after={"phase": Phase.STAGING})),
    Deed(
        stale_changes_nothing,
        "an ignored event asked for Disarm, StageKey",
        stale,
        to(effects=(Disarm(name="window"), ArmDelay(name="prove", delay_ms=1), STAGE)),
    ),
    Deed(
        stale_changes_nothing,
        None,
        stale,
        to(effects=(ArmDeadline(name="window", at_unix_ms=T0), ArmDelay(name="prove", delay_ms=1))),
    ),
    *(
        Deed(
            stale_changes_nothing,
            None,
            stale,
            to(verdict=verdict, after={"state": State.CERT_EXPIRING}, effects=(STAGE,)),
        )
        for verdict in ("taken", "refused")
    ),
)


@pytest.mark.parametrize("case", DEEDS, ids=lambda one: f"{one.law.__name__}-{one.says}"[:90])
def test_of_every_step(case):
    sound = case.sound()
    assert [law(*sound) for law in STEP_LAWS] == [None] * len(STEP_LAWS)
    spoilt = sound.but(**case.spoilt(sound))
    assert spoilt != sound or case.says is None
    assert case.law(*spoilt) == case.says


def test_every_law_is_shown_to_find_something_and_to_allow_something():
    laws = {*STATE_LAWS, *STEP_LAWS}
    assert {case.law for case in (*PLACES, *DEEDS) if case.says is not None} == laws
    assert len(laws) == len(STATE_LAWS) + len(STEP_LAWS)


@pytest.mark.parametrize("law", [*STATE_LAWS, *STEP_LAWS], ids=lambda law: law.__name__)
def test_a_law_says_in_one_sentence_what_it_is(law):
    assert law.__doc__ is not None
    assert law.__doc__.count("\n") == 0
    assert law.__doc__.endswith(".")
