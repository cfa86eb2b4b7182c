"""What actions leave behind, fact by fact.

Found by mutation: the stories come to the same state when one of these is left out.
"""

import pytest

from statemachine.effects import CommitCredential, PollRegistration, SubmitRegistration
from statemachine.events import (
    ConfigurationChanged,
    CredentialLost,
    DeadlinePassed,
    HoldRequested,
    HubRefusedCredential,
    RenewRequested,
    ReprovisionRequested,
)
from statemachine.snapshot import Armed, Budget, Refusals
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    HOUR,
    MANUAL,
    MINUTE,
    NO_DPS,
    POLICY,
    T0,
    certless,
    configured,
    expiring,
    fingerprint_of,
    holding,
    manual,
    provisioned,
    registering,
    renewing,
    reprovisioning,
    started,
    stored,
    structs,
    unproven,
    unprovisioned,
    waiting,
    wishes,
    with_policy,
)

# --- beginning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [registering, renewing])
def test_nobody_ordered_what_the_machine_begins_by_itself(place):
    assert not place().snapshot.attempt.by_operator


@pytest.mark.parametrize(
    ("event", "afresh"),
    [
        (ReprovisionRequested(uid=0), True),
        (RenewRequested(uid=0), True),
        (ReprovisionRequested(uid=1000, privileged=False), False),
    ],
)
def test_only_an_operators_word_starts_the_counts_afresh(event, afresh):
    world = waiting()
    spent, failures = world.snapshot.budget.spent, world.snapshot.failures
    assert (spent, failures) == (1, 1)
    world.take(event, after_ms=HOUR)
    assert world.snapshot.attempt.by_operator is afresh
    assert world.snapshot.failures == (0 if afresh else failures)
    # The staged key fits, so one registration is sent at once.
    assert world.snapshot.budget.spent == (1 if afresh else spent + 1)


@pytest.mark.parametrize(
    ("before", "interval_ms"),
    [
        (Refusals(), 6 * HOUR),
        (Refusals(driven_unix_ms=T0 - 40 * DAY, interval_ms=6 * HOUR), 12 * HOUR),
        (Refusals(driven_unix_ms=T0 - 40 * DAY, interval_ms=24 * DAY), 30 * DAY),
    ],
)
def test_the_interval_between_refusals_doubles_up_to_a_month(before, interval_ms):
    world = provisioned()
    world.snapshot = structs.replace(
        world.snapshot, refusals=structs.replace(before, count=2, first_unix_ms=T0 - HOUR)
    )
    world.take(HubRefusedCredential(generation=1, code="hub-401"))
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.refusals == Refusals(driven_unix_ms=world.now, interval_ms=interval_ms)


def test_a_wait_for_the_budget_comes_before_a_proof():
    """Effects are recorded in their order, and replay compares them in it."""
    world = unproven()
    world.snapshot = structs.replace(
        world.snapshot,
        budget=Budget(spent=POLICY.budget_registrations, since_unix_ms=world.now),
        armed=tuple(one for one in world.snapshot.armed if one.name != "prove"),
    )
    decision = world.take(ConfigurationChanged(policy=with_policy(trust_bundle_id="b2"), fingerprint="f1"))
    assert world.position == (State.REPROVISIONING, Phase.IDLE)
    assert wishes(decision) == ["arm attempt", "arm prove"]


def test_a_lost_life_is_forgotten_before_another_begins():
    world = provisioned()
    decision = world.take(CredentialLost(generation=1, reason="gone"))
    assert wishes(decision) == ["disarm window", "disarm expiry", "arm timeout", "stage 2"]


@pytest.mark.parametrize(("place", "name"), [(certless, "reissue"), (unproven, "prove")])
def test_nothing_of_a_lost_life_is_left_during_a_hold(place, name):
    """No attempt may begin then that would clear up."""
    world = place()
    world.take(HoldRequested(hold=True, uid=0))
    assert world.snapshot.armed_as(name) is not None
    world.take(CredentialLost(generation=world.snapshot.credential.generation, reason="gone"))
    assert world.position == (State.REPROVISIONING, Phase.IDLE)
    assert world.snapshot.armed_as(name) is None


def test_an_attempt_is_what_issuance_would_be_asked_for():
    world = certless()
    assert world.snapshot.armed_as("reissue") is not None
    world.take(RenewRequested(uid=0))
    assert world.snapshot.armed_as("reissue") is None


@pytest.mark.parametrize(
    ("event", "foreign"),
    [
        (ReprovisionRequested(uid=0), False),
        (RenewRequested(uid=0), True),
        (ReprovisionRequested(uid=1000, privileged=False), True),
    ],
)
def test_an_operator_who_joins_confirms_a_copied_image(event, foreign):
    """A configured assignment is taken up on any machine; renewing it is refused, so that says nothing."""
    world = manual(Phase.PROVING, foreign_machine=True)
    assert world.snapshot.foreign_machine
    world.take(event)
    assert world.snapshot.foreign_machine is foreign
    assert world.snapshot.attempt.by_operator is not foreign


def test_joining_says_nothing_of_a_machine_that_is_ours():
    world = registering(Phase.SUBMITTING)
    world.take(ReprovisionRequested(uid=0))
    assert not world.snapshot.foreign_machine


@pytest.mark.parametrize(
    ("place", "names"),
    [
        (unprovisioned, {"attempt"}),
        (waiting, {"attempt", "window", "expiry"}),
        (certless, {"reissue"}),
        (unproven, {"prove", "window", "expiry"}),
    ],
)
def test_without_a_source_nothing_is_waited_for(place, names):
    world = place()
    assert names <= {one.name for one in world.snapshot.armed}
    world.take(configured(NO_DPS))
    assert world.snapshot.state is State.UNPROVISIONED
    assert world.snapshot.armed == ()


# --- the life of what is in use ----------------------------------------------------------------------


def test_a_certificate_less_assignment_leaves_nothing_of_the_certificate_armed():
    world = reprovisioning(Phase.POLLING)
    assert world.snapshot.armed_as("window") is not None
    world.fire("phase")
    world.answer(PollRegistration, chain=None)
    world.settle()
    assert world.snapshot.credential.source == "configured"
    assert {one.name for one in world.snapshot.armed} <= {"reissue", "collect"}


def test_a_configured_assignment_found_in_the_stores_leaves_no_attempt_armed():
    world = expiring()
    assert world.snapshot.armed_as("attempt") is not None
    fingerprint = fingerprint_of(MANUAL)
    found = stored(
        generation=9, source="configured", fingerprint=fingerprint, not_before_unix_ms=0, not_after_unix_ms=0
    )
    world.take(started(policy=MANUAL, fingerprint=fingerprint, inventory=holding(found)))
    assert world.position == (State.PROVISIONED, Phase.IDLE)
    assert world.snapshot.armed == ()


@pytest.mark.parametrize("late_ms", [0, 1, DAY])
def test_a_renewal_that_is_due_or_overdue_is_spread_and_not_armed_for_the_past(late_ms):
    world = provisioned()
    credential = world.snapshot.credential
    assert credential.draw_ppm == 0, "due as soon as the window opens"
    world.now = world.snapshot.armed_as("window").at_unix_ms + late_ms
    world.take(DeadlinePassed(name="window", draw_ppm=500_000))
    assert world.snapshot.armed_as("attempt").delay_ms == 15 * MINUTE // 2


def without(world, *names):
    """The same place, with these names not armed."""
    world.snapshot = structs.replace(
        world.snapshot, armed=tuple(one for one in world.snapshot.armed if one.name not in names)
    )
    return world


def test_a_renewal_is_armed_before_a_proof():
    world = without(unproven(), "prove")
    early = with_policy(renewal_earliest_percent=0)
    decision = world.take(ConfigurationChanged(policy=early, fingerprint="f1"))
    assert wishes(decision) == ["arm expiry", "disarm window", "arm attempt", "arm prove"]


def test_after_a_failed_attempt_everything_is_waited_for_that_was_not():
    """The next attempt, the end of what is in use, and its proof."""
    world = unproven()
    world.take(ReprovisionRequested(uid=0), after_ms=HOUR)
    world.until(Phase.SUBMITTING)
    decision = without(world, "expiry", "prove").deny(SubmitRegistration)
    assert wishes(decision) == ["disarm timeout", "arm attempt", "arm expiry", "arm prove"]
    credential = world.snapshot.credential
    assert world.snapshot.armed_as("expiry").at_unix_ms == credential.not_after_unix_ms


def test_no_budget_makes_a_configured_assignment_wait():
    world = manual(Phase.COMMITTING)
    world.deny(CommitCredential, failure_class="reregister", draw_ppm=0)
    assert world.snapshot.armed_as("attempt").delay_ms == 0


def test_after_a_renewal_that_nobody_needed_its_own_deadlines_go_on():
    world = unproven()
    world.take(RenewRequested(uid=0), after_ms=HOUR)
    world.until(Phase.SUBMITTING)
    decision = without(world, "prove").deny(SubmitRegistration)
    assert world.position == (State.PROVISIONED, Phase.IDLE)
    assert wishes(decision) == ["disarm timeout", "arm expiry", "arm window", "arm prove"]


KEPT = Refusals(count=2, first_unix_ms=T0, driven_unix_ms=T0, interval_ms=6 * HOUR)


@pytest.mark.parametrize("fingerprint", ["f1", "f2"])
def test_a_success_forgets_refusals_but_not_their_interval(fingerprint):
    """Also one that is no longer wanted: what is in use now was never refused."""
    world = renewing(Phase.COMMITTING)
    world.snapshot = structs.replace(world.snapshot, refusals=KEPT, failures=3)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint=fingerprint))
    world.snapshot = structs.replace(world.snapshot, failures=3)
    number = world.snapshot.attempt.number
    world.answer(CommitCredential)
    while world.snapshot.attempt is not None and world.snapshot.attempt.number == number:
        world.once()
    assert world.snapshot.refusals == Refusals(driven_unix_ms=T0, interval_ms=6 * HOUR)
    assert world.snapshot.failures == 0


def test_a_success_that_is_outdated_gives_the_next_attempt_its_budget():
    world = renewing(Phase.COMMITTING)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    world.snapshot = structs.replace(
        world.snapshot, budget=Budget(spent=POLICY.budget_registrations, since_unix_ms=world.now)
    )
    world.answer(CommitCredential)
    world.once()
    assert world.position == (State.REPROVISIONING, Phase.STAGING)


def test_a_proof_that_is_armed_keeps_its_instant():
    world = unproven()
    armed = world.snapshot.armed_as("prove")
    world.take(ReprovisionRequested(uid=0), after_ms=MINUTE)
    world.until(Phase.SUBMITTING)
    world.deny(SubmitRegistration, draw_ppm=999_999)
    assert world.snapshot.armed_as("prove") == armed


def test_a_key_that_waits_for_its_certificate_is_not_collected():
    world = renewing(Phase.SUBMITTING)
    world.deny(SubmitRegistration)
    staged = world.snapshot.staged.generation
    world.snapshot = structs.replace(
        world.snapshot, armed=(*world.snapshot.armed, Armed(name="collect", at_unix_ms=world.now))
    )
    decision = world.fire("collect")
    assert wishes(decision) == [f"keep 1,{staged}"]


def test_a_lost_life_is_forgotten_before_another_is_waited_for():
    world = provisioned()
    world.snapshot = structs.replace(
        world.snapshot, budget=Budget(spent=POLICY.budget_registrations, since_unix_ms=world.now)
    )
    decision = world.take(CredentialLost(generation=1, reason="gone"))
    assert wishes(decision) == ["disarm window", "disarm expiry", "arm attempt"]
