"""A device that is given up: all that identifies it is erased, and it begins nothing before a release."""

import pytest
from msgspec import structs

from statemachine.effects import (
    CommitCredential,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    SubmitRegistration,
)
from statemachine.events import (
    ClockObserved,
    CredentialLost,
    CredentialsPurged,
    CredentialsPurgeFailed,
    DeadlinePassed,
    HoldRequested,
    HookEnded,
    HubRefusedCredential,
    ModuleKeysLost,
    ModuleKeysRequested,
    PurgeRequested,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
)
from statemachine.explain import status_of, story
from statemachine.machine import decide
from statemachine.snapshot import Budget, Outstanding, Problem, Purge, Superseded
from statemachine.states import Phase, State
from tests.core.laws import broken
from tests.core.world import (
    DAY,
    HOUR,
    MANUAL,
    MINUTE,
    NO_DPS,
    POLICY,
    T0,
    World,
    certless,
    configured,
    expiring,
    fingerprint_of,
    fresh,
    given_up,
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
)

GIVE_UP = PurgeRequested(uid=0)
HOLD = HoldRequested(hold=True, uid=0)
RELEASE = HoldRequested(hold=False, uid=0)
AT_REST = (State.UNPROVISIONED, Phase.IDLE)
RUNNING = [phase for phase in Phase if phase is not Phase.IDLE]
RESTING = [unprovisioned, provisioned, certless, expiring, unproven, waiting, manual]
ATTEMPTING = [(place, phase) for place in (registering, renewing, reprovisioning) for phase in RUNNING]


def status(world):
    return status_of(world.snapshot, world.now)


def told(world):
    return "\n".join(story(status(world)))


def forgot(world):
    """Nothing is believed, awaited or armed of what the device was."""
    snapshot = world.snapshot
    held = ("credential", "assignment", "bundle", "bundle_problem", "staged", "candidate", "attempt")
    assert [name for name in held if getattr(snapshot, name) is not None] == []
    assert snapshot.superseded == ()
    assert (snapshot.module_keys_lost, snapshot.module_keys_problem) == (None, None)
    assert (snapshot.budget, snapshot.failures) == (Budget(), 0)
    assert [type(one.effect) for one in snapshot.outstanding] == [PurgeCredentials]
    assert snapshot.armed == ()
    return snapshot.hold


# --- the order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [*RESTING, World, lambda: fresh(policy=NO_DPS, fingerprint="")])
def test_at_rest_all_is_forgotten_and_to_be_erased(place):
    world = place()
    decision = world.take(GIVE_UP)
    assert (decision.verdict, world.position) == ("taken", AT_REST)
    assert wishes(decision)[-1] == "erase"
    assert forgot(world)


@pytest.mark.parametrize(("place", "phase"), ATTEMPTING)
def test_an_attempt_is_given_up_with_it_and_its_late_answer_changes_nothing(place, phase):
    world = place(phase)
    if not world.snapshot.outstanding:
        world.fire("phase")
    late = world.perform(world.pending(type(world.snapshot.outstanding[0].effect)))
    decision = world.take(GIVE_UP)
    assert world.position == AT_REST
    assert "erase" in wishes(decision)
    assert forgot(world)
    assert world.take(late).verdict == "ignored"
    assert forgot(world)


def test_work_in_the_background_is_forgotten_too():
    world = unproven()
    world.fire("prove")
    world.take(ModuleKeysRequested(uid=0))
    proof, push = world.pending(ProveCredential), world.pending(PushModuleKeys)
    world.take(GIVE_UP)
    assert forgot(world)
    assert world.take(world.perform(proof)).verdict == "ignored"
    assert world.take(world.perform(push)).verdict == "ignored"


def test_so_is_the_collection_of_what_was_superseded():
    world = renewing().settle()
    assert world.snapshot.armed_as("collect") is not None
    world.take(GIVE_UP)
    assert forgot(world)
    world = renewing().settle()
    world.fire("collect")
    assert world.asks(RetireCredential)
    world.take(GIVE_UP)
    assert forgot(world)


def test_nothing_of_the_past_is_held_against_whoever_comes_next():
    world = expiring()
    world.snapshot = structs.replace(
        world.snapshot,
        budget=Budget(spent=9, since_unix_ms=world.now),
        failures=7,
        bundle_problem="garbage",
        module_keys_lost="gone",
        module_keys_problem=Problem(failure_class="retry", code="hub-429", message="slow down"),
        superseded=(Superseded(generation=9, keep_until_unix_ms=T0 + DAY),),
    )
    world.take(GIVE_UP)
    assert forgot(world)


@pytest.mark.parametrize(
    ("place", "names"),
    [
        (provisioned, ["window", "expiry"]),
        (expiring, ["attempt", "expiry"]),
        (certless, ["reissue"]),
        (unproven, ["window", "expiry", "prove"]),
        (lambda: renewing().settle(), ["window", "expiry", "collect"]),
    ],
)
def test_every_deadline_is_disarmed(place, names):
    assert sorted(wishes(place().take(GIVE_UP))) == sorted([*(f"disarm {name}" for name in names), "erase"])


def test_a_second_order_joins_the_first():
    world = purging()
    before = structs.replace(world.snapshot, sequence=0)
    decision = world.take(GIVE_UP)
    assert (decision.verdict, decision.effects) == ("taken", ())
    assert structs.replace(world.snapshot, sequence=0) == before


# --- until it is done --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (RELEASE, "is being erased"),
        (HOLD, "is being erased"),
        (ReprovisionRequested(uid=0), "on hold"),
        (RenewRequested(uid=0), "nothing to renew"),
        (ModuleKeysRequested(uid=0), "No hub"),
    ],
)
def test_commands_are_refused_until_all_is_erased(event, says):
    world = purging()
    decision = world.take(event)
    assert (decision.verdict, decision.effects) == ("refused", ())
    assert says in decision.why
    assert forgot(world)


@pytest.mark.parametrize(
    "event",
    [
        ClockObserved(kernel_synchronised=True, jump_ms=2 * DAY),
        ClockObserved(kernel_synchronised=False, jump_ms=-2 * DAY),
        HubRefusedCredential(generation=1, code="hub-401"),
        CredentialLost(generation=1, reason="gone"),
        DeadlinePassed(name="attempt"),
        HookEnded(hook="renewal", outcome="timeout"),
        configured(POLICY, "f2"),
        configured(MANUAL),
        configured(NO_DPS),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_else_happens_meanwhile_begins_nothing(event):
    world = purging()
    decision = world.take(event)
    assert (decision.effects, world.position) == ((), AT_REST)
    assert forgot(world)
    world.answer(PurgeCredentials)
    assert (world.snapshot.purge, world.snapshot.armed) == (None, ())


def test_a_failure_is_told_and_tried_again_until_it_works():
    world = purging()
    decision = world.deny(PurgeCredentials, code="disk-full", message="no room")
    assert wishes(decision) == ["arm collect"]
    assert decision.effects[0].delay_ms == MINUTE
    assert world.snapshot.purge == Purge(
        problem=Problem(failure_class="retry", code="disk-full", message="no room")
    )
    assert not world.asks(PurgeCredentials)
    assert wishes(world.fire("collect")) == ["erase"]
    world.deny(PurgeCredentials)
    world.fire("collect")
    decision = world.answer(PurgeCredentials)
    assert (decision.verdict, decision.effects) == ("taken", ())
    assert world.snapshot.purge is None
    assert world.store.keys == world.store.committed == {}


def test_a_try_that_is_due_while_one_is_unanswered_replaces_it():
    """A start asks again for what is outstanding, and what was armed is armed again."""
    world = purging()
    first = world.pending(PurgeCredentials)
    world.deny(PurgeCredentials)
    world.snapshot = structs.replace(world.snapshot, outstanding=(first,))
    world.fire("collect")
    assert world.pending(PurgeCredentials) != first
    assert forgot(world)


def test_what_was_armed_for_another_try_is_not_needed_once_it_is_done():
    world = purging()
    first = world.pending(PurgeCredentials)
    world.deny(PurgeCredentials)
    world.snapshot = structs.replace(world.snapshot, outstanding=(first,))
    assert wishes(world.take(CredentialsPurged(answers=first.id))) == ["disarm collect"]
    assert (world.snapshot.purge, world.snapshot.armed) == (None, ())


@pytest.mark.parametrize(
    "place", [unprovisioned, provisioned, lambda: registering(Phase.SUBMITTING), given_up]
)
@pytest.mark.parametrize("fails", [False, True])
def test_an_answer_where_nothing_is_being_erased_is_nonsense(place, fails):
    """Even under the id of something that was asked."""
    world = place()
    asked = Outstanding(id="1.0.9", effect=PushModuleKeys())
    world.snapshot = structs.replace(world.snapshot, outstanding=(*world.snapshot.outstanding, asked))
    before = world.snapshot
    no = {"failure_class": "retry", "code": "disk-full"}
    answer = CredentialsPurgeFailed(answers=asked.id, **no) if fails else CredentialsPurged(answers=asked.id)
    decision = world.take(answer)
    assert (decision.verdict, decision.why, decision.effects) == ("ignored", "Nothing is being erased.", ())
    without = structs.replace(before, sequence=world.snapshot.sequence, outstanding=before.outstanding[:-1])
    assert world.snapshot == without


# --- starts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down_ms", [0, 3 * DAY])
@pytest.mark.parametrize("done", [False, True])
def test_a_start_in_the_middle_goes_on_and_believes_nothing_of_the_stores(down_ms, done):
    world = purging()
    one = world.pending(PurgeCredentials)
    if done:
        world.perform(one)
    world.restart(down_ms=down_ms)
    assert world.position == AT_REST
    assert world.pending(PurgeCredentials) == one
    assert forgot(world)
    world.answer(PurgeCredentials)
    world.restart()
    assert world.position == AT_REST
    assert world.snapshot.credential is None


def test_a_start_between_two_tries_keeps_the_next_one():
    world = purging()
    world.deny(PurgeCredentials)
    world.take(ShutdownRequested(reason="SIGTERM"))
    decision = world.restart(down_ms=10_000)
    assert wishes(decision) == ["arm collect"]
    assert decision.effects[0].delay_ms == MINUTE - 10_000
    assert wishes(world.fire("collect")) == ["erase"]


@pytest.mark.parametrize("policy", [POLICY, NO_DPS, MANUAL])
def test_a_start_under_another_configuration_registers_nothing(policy):
    world = purging()
    world.restart(policy=policy, fingerprint=fingerprint_of(policy))
    assert forgot(world)
    world.answer(PurgeCredentials)
    world.restart(policy=policy, fingerprint=fingerprint_of(policy))
    assert (world.position, world.snapshot.outstanding, world.snapshot.armed) == (AT_REST, (), ())


def test_generations_are_counted_on():
    """A number that was used once must not name another key, in whatever is left of the old one."""
    world = given_up()
    world.restart()
    assert world.store.inventory().newest_generation == 0
    world.take(RELEASE)
    world.fire("attempt")
    assert wishes(world.history[-1][2]) == ["arm timeout", "stage 2"]


# --- and then ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [*RESTING, lambda: renewing(Phase.COMMITTING)])
def test_a_release_lets_it_register_anew(place):
    world = given_up(place)
    assert world.snapshot.armed == ()
    decision = world.take(RELEASE)
    assert (decision.verdict, wishes(decision)) == ("taken", ["arm attempt"])
    world.fire("attempt")
    world.settle()
    assert world.position == (State.PROVISIONED, Phase.IDLE)
    assert world.store.usable()
    assert broken(world.history) == []


def test_it_waits_for_that_for_years():
    world = given_up()
    for _ in range(3):
        world.restart(down_ms=400 * DAY)
        world.take(configured(POLICY, f"f{world.now}"))
        assert (world.position, world.snapshot.outstanding, world.snapshot.armed) == (AT_REST, (), ())
    assert world.take(ReprovisionRequested(uid=0)).verdict == "refused"
    assert world.snapshot.given_up


def test_what_somebody_puts_back_is_believed():
    """A backup restored by hand is an operator's word as well; it serves, and renews nothing."""
    world = given_up()
    world.take(started(inventory=holding(stored(generation=9))))
    assert world.position == (State.PROVISIONED, Phase.IDLE)
    assert "given up" not in status(world).reason
    assert status(world).reason == (
        "Assigned, with a valid certificate. Attempts are on hold until `identityd release`."
    )


def test_it_can_be_given_up_twice():
    world = given_up()
    world.take(RELEASE)
    world.fire("attempt")
    world.settle()
    world.take(GIVE_UP)
    world.answer(PurgeCredentials)
    assert world.store.committed == {}
    assert world.snapshot.given_up


# --- in words ----------------------------------------------------------------------------------------


def test_while_it_is_erased():
    world = purging()
    found = status(world)
    assert found.reason == "This device was given up; what identifies it is being erased."
    assert (found.stuck, found.hold, found.degraded) == (False, True, ())
    assert (found.next.what, found.next.at) == ("What identifies this device is being erased.", None)
    assert (found.credential, found.assignment, found.trust_bundle, found.renewal) == (None,) * 4


def test_when_that_fails():
    world = purging()
    world.deny(PurgeCredentials, code="disk-full", message="no room")
    found = status(world)
    assert found.degraded == ("not all could be erased: disk-full: no room; it is tried again",)
    assert (found.next.what, found.stuck) == ("what is left is erased", False)
    assert found.next.at == status_of(world.snapshot, world.now + HOUR).next.at
    world.fire("collect")
    assert status(world).degraded == found.degraded, "what comes of this try is not known yet"
    world.deny(PurgeCredentials, failure_class="operator", code="read-only", message="remount it")
    found = status(world)
    assert found.stuck
    assert found.reason == (
        "What identifies this device cannot be erased without somebody's help: read-only: remount it"
    )
    world.fire("collect")
    world.answer(PurgeCredentials)
    assert (status(world).stuck, status(world).degraded) == (False, ())


def test_what_kept_it_from_an_identity_is_nobodys_business_any_more():
    world = registering(Phase.SUBMITTING, onboarding_not_after_unix_ms=T0)
    world.deny(SubmitRegistration, failure_class="operator", code="dps-401", message="no such key")
    assert status(world).stuck
    assert status(world).attempt is not None
    for happens in (lambda: world.take(GIVE_UP), lambda: world.answer(PurgeCredentials)):
        happens()
        found = status(world)
        assert (found.stuck, found.attempt) == (False, None)
        assert "dps-401" not in told(world)
    world.take(RELEASE)
    assert "onboarding certificate expired" in status(world).reason


def test_when_it_is_done_it_says_what_would_bring_it_back():
    world = given_up()
    found = status(world)
    assert found.reason == (
        "This device was given up, and what identified it is erased; "
        "`identityd release` lets it register again."
    )
    assert (found.next, found.stuck, found.hold) == (None, False, True)
    assert told(world).endswith("What would change it: `identityd release`; no attempt begins before.")
    world.take(HOLD)
    assert status(world).reason == found.reason, "one hold more changes nothing"
    world.take(RELEASE)
    assert status(world).reason == "The device has no identity yet."
    world.take(HOLD)
    assert status(world).reason == (
        "The device has no identity yet. Attempts are on hold until `identityd release`."
    )


def test_without_a_source_a_release_would_bring_nothing_back():
    world = given_up()
    world.take(configured(NO_DPS))
    assert status(world).reason == "The configuration names no provisioning service."


def test_a_stopping_service_says_that_first():
    world = purging()
    world.take(ShutdownRequested(reason="SIGTERM"))
    assert "stopping" in status(world).reason
    assert status(world).next is None


# --- hooks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [*RESTING, purging, given_up, renewing, lambda: registering(Phase.POLLING)])
@pytest.mark.parametrize("outcome", ["done", "failed", "timeout", "refused"])
def test_a_hook_that_ended_is_kept_and_changes_nothing(place, outcome):
    world = place()
    before = world.snapshot
    decision = world.take(HookEnded(hook="reprovision", outcome=outcome, message="exit status 3"))
    assert (decision.verdict, decision.effects) == ("taken", ())
    assert structs.replace(world.snapshot, sequence=before.sequence) == before


# --- an order comes between any two events -----------------------------------------------------------


@pytest.mark.parametrize("revision", [1, 2, 3])
def test_it_may_come_at_any_moment_under_any_rules(revision):
    """A journal of an older release goes on under its rules for that one step, should anybody post it."""
    world = World()
    world.take(started(rules_revision=revision))
    for _ in range(30):
        decision = decide(world.snapshot, GIVE_UP, world.now)
        assert any(isinstance(effect, PurgeCredentials) for effect in decision.effects)
        after = World(decision.snapshot, world.now)
        assert forgot(after)
        assert broken([(world.now, GIVE_UP, decision)], world.snapshot) == []
        if world.snapshot.outstanding or world.snapshot.phase is not Phase.IDLE:
            world.once()
        else:
            world.fire(min(world.snapshot.armed, key=lambda one: one.at_unix_ms).name)


def test_a_commit_that_flips_after_the_order_leaves_nothing_that_is_believed():
    """The store finishes what it began, and erases it then."""
    world = renewing(Phase.COMMITTING)
    commit = world.pending(CommitCredential)
    world.take(GIVE_UP)
    world.perform(commit)
    assert world.store.usable()
    world.restart()
    assert forgot(world)
    world.answer(PurgeCredentials)
    assert not world.store.usable()
    assert world.store.keys == {}
    world.restart()
    assert world.position == AT_REST


def test_module_keys_found_missing_after_it_do_not_bring_anything_back():
    world = given_up()
    world.take(ModuleKeysLost(reason="no such file"))
    assert world.position == AT_REST
    assert world.snapshot.purge is None
