"""Registrations without success are bounded, and that bound is never what ends a certificate."""

from itertools import pairwise

import pytest
from msgspec import structs

from statemachine.effects import PollRegistration, StageKey, SubmitRegistration
from statemachine.events import ConfigurationChanged, DeadlinePassed, RenewRequested, ReprovisionRequested
from statemachine.policy import last_part_begins
from statemachine.snapshot import Budget
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    HOUR,
    POLICY,
    T0,
    World,
    asked,
    chain,
    expiring,
    provisioned,
    registering,
    renewing,
    started,
    unprovisioned,
    waiting,
    with_policy,
)

SMALL = with_policy(budget_registrations=6)
LIMIT = SMALL.budget_registrations
WINDOW = SMALL.budget_window_ms


def puts(world):
    """Instants of all registrations sent; a start sends the outstanding one again."""
    count = []
    for now, event, decision in world.history:
        count += [now for effect in asked(decision) if isinstance(effect, SubmitRegistration)]
        again = event.__struct_config__.tag == "started" and decision.snapshot.phase is Phase.SUBMITTING
        if again and not any(isinstance(effect, SubmitRegistration) for effect in asked(decision)):
            count.append(now)
    return count


def outage(world, until, **fields):
    """Everything asked of DPS fails, every deadline fires, until an instant."""
    while True:
        if world.asks(StageKey):
            world.answer(StageKey)
        elif world.asks(SubmitRegistration):
            world.deny(SubmitRegistration, draw_ppm=500_000, **fields)
        else:
            armed = min(world.snapshot.armed, key=lambda one: one.at_unix_ms, default=None)
            if armed is None or armed.at_unix_ms >= until:
                world.now = max(world.now, until)
                return world
            world.now = max(world.now, armed.at_unix_ms)
            world.take(DeadlinePassed(name=armed.name, draw_ppm=500_000))


def most_in_a_window(instants):
    return max(sum(first <= one < first + WINDOW for one in instants) for first in instants)


def test_an_outage_of_months_is_bounded_and_never_silent():
    world = World()
    world.take(started(policy=SMALL))
    outage(world, T0 + 120 * DAY)
    made = puts(world)
    assert most_in_a_window(made) <= LIMIT
    assert len(made) > 3 * LIMIT
    gaps = [after - before for before, after in pairwise(made)]
    assert max(gaps) < WINDOW
    assert world.snapshot.armed_as("attempt") is not None


def test_the_default_budget_reaches_beyond_the_first_day():
    """Two hundred at full speed would be gone within a day, and the device dark for a month."""
    world = World()
    world.take(started())
    outage(world, T0 + 30 * DAY)
    made = puts(world)
    assert len(made) <= POLICY.budget_registrations
    assert max(after - before for before, after in pairwise(made)) <= 12 * HOUR


@pytest.mark.parametrize("pause_ms", [1, 1_000, 60_000])
def test_restart_after_restart_is_bounded_as_well(pause_ms):
    """A process that is killed again and again while its registration is on the wire."""
    world = World()
    world.take(started(policy=SMALL))
    for _ in range(60):
        if world.asks(StageKey):
            world.answer(StageKey)
        world.restart(down_ms=pause_ms, policy=SMALL)
        armed = world.snapshot.armed_as("attempt")
        if armed is not None and armed.at_unix_ms < T0 + DAY:
            world.fire("attempt", draw_ppm=0)
    assert len(puts(world)) <= LIMIT
    assert world.snapshot.budget.spent == LIMIT
    assert world.snapshot.state is State.UNPROVISIONED
    assert world.snapshot.armed_as("attempt").at_unix_ms >= T0 + WINDOW - DAY


def test_a_used_up_budget_says_so():
    world = registering(Phase.SUBMITTING, policy=with_policy(budget_registrations=1))
    world.restart(policy=with_policy(budget_registrations=1))
    assert world.snapshot.ended.error.code == "budget-used-up"
    assert world.snapshot.ended.error.failure_class == "wait"


def test_a_used_up_budget_waits_for_the_end_of_its_window():
    world = registering(Phase.SUBMITTING, policy=with_policy(budget_registrations=1))
    world.deny(SubmitRegistration)
    assert world.snapshot.armed_as("attempt").at_unix_ms == world.snapshot.budget.since_unix_ms + WINDOW
    world.fire("attempt")
    assert world.snapshot.state is State.REGISTERING
    assert world.snapshot.budget == Budget(spent=1, since_unix_ms=world.now)


def exhausted(place):
    """At that place, with nothing left of the budget."""
    world = place()
    world.snapshot = structs.replace(
        world.snapshot, budget=Budget(spent=POLICY.budget_registrations, since_unix_ms=world.now)
    )
    return world


def test_an_attempt_that_is_due_waits():
    world = exhausted(waiting)
    world.fire("attempt")
    assert world.position == (State.REPROVISIONING, Phase.IDLE)
    last = last_part_begins(
        world.snapshot.credential.not_before_unix_ms, world.snapshot.credential.not_after_unix_ms
    )
    assert world.snapshot.armed_as("attempt").at_unix_ms == min(
        world.snapshot.budget.since_unix_ms + WINDOW, last
    )


def test_without_a_certificate_nothing_shortens_the_wait():
    world = exhausted(unprovisioned)
    world.fire("attempt")
    assert world.snapshot.armed_as("attempt").at_unix_ms == world.snapshot.budget.since_unix_ms + WINDOW


@pytest.mark.parametrize(
    "event",
    [
        ReprovisionRequested(uid=0),
        RenewRequested(uid=0),
        ConfigurationChanged(policy=POLICY, fingerprint="f2"),
    ],
)
def test_a_command_and_a_changed_configuration_start_it_afresh(event):
    world = exhausted(waiting)
    world.take(event)
    assert world.position == (State.REPROVISIONING, Phase.SUBMITTING)
    assert world.snapshot.budget.spent == 1


def test_the_same_configuration_does_not():
    world = exhausted(waiting)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f1"))
    assert world.position == (State.REPROVISIONING, Phase.IDLE)


def test_a_caller_without_rights_does_not():
    world = exhausted(waiting)
    decision = world.take(ReprovisionRequested(uid=1000, privileged=False))
    assert decision.verdict == "refused"
    assert world.snapshot.budget.spent == POLICY.budget_registrations


def test_callers_without_rights_are_bounded():
    """A daemon that crashes and reprovisions at each of its starts."""
    world = unprovisioned()
    for _ in range(POLICY.budget_registrations + 50):
        world.take(ReprovisionRequested(uid=1000, privileged=False), after_ms=10_000)
        if world.asks(SubmitRegistration):
            world.deny(SubmitRegistration)
    assert len(puts(world)) == POLICY.budget_registrations


def test_success_starts_it_afresh():
    world = unprovisioned()
    world.fire("attempt")
    assert world.snapshot.budget.spent == 2
    world.settle()
    assert world.snapshot.budget == Budget()
    assert world.snapshot.failures == 0


def test_the_last_tenth_of_a_life_is_never_held_back_and_not_counted():
    world = exhausted(expiring)
    credential = world.snapshot.credential
    last = last_part_begins(credential.not_before_unix_ms, credential.not_after_unix_ms)
    world.fire("attempt")
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    assert world.snapshot.armed_as("attempt").at_unix_ms == last
    world.fire("attempt")
    world.answer(StageKey)
    assert world.position == (State.RENEWING, Phase.SUBMITTING)
    assert world.snapshot.budget.spent == POLICY.budget_registrations


def test_what_the_last_tenth_used_is_not_missing_after_the_expiry():
    world = provisioned()
    ends = world.snapshot.credential.not_after_unix_ms
    outage(world, ends - 1)
    assert len(puts(world)) > POLICY.budget_registrations
    outage(world, ends + HOUR)
    assert world.snapshot.state is State.REPROVISIONING
    assert puts(world)[-1] >= ends
    assert world.snapshot.budget.spent < POLICY.budget_registrations


@pytest.mark.parametrize("life_ms", [HOUR, DAY, 7 * DAY, 90 * DAY])
def test_it_is_never_the_cause_of_an_expiry(life_ms):
    """DPS fails until shortly before the end; whatever was spent by then, the next attempt comes in time."""
    world = registering(Phase.POLLING, policy=SMALL)
    world.fire("phase")
    spki = world.snapshot.staged.spki_sha256
    world.answer(PollRegistration, chain=chain(spki, world.now, life_ms=life_ms))
    world.settle()
    ends = world.snapshot.credential.not_after_unix_ms
    outage(world, ends - life_ms // 50)
    assert world.snapshot.state is State.CERT_EXPIRING
    assert world.snapshot.armed_as("attempt").at_unix_ms < ends - life_ms // 100
    world.fire("attempt")
    world.settle()
    assert world.snapshot.credential.not_after_unix_ms > ends


def test_it_does_not_run_backwards_with_the_clock():
    world = exhausted(unprovisioned)
    world.now -= 400 * DAY
    world.take(ReprovisionRequested(uid=1000, privileged=False))
    assert world.snapshot.budget.since_unix_ms == world.now


def test_a_forgotten_operation_is_submitted_again_a_few_times_only():
    world = renewing(Phase.POLLING)
    for _ in range(5):
        if world.snapshot.phase is not Phase.POLLING:
            break
        world.fire("phase")
        world.deny(PollRegistration, failure_class="reregister", code="dps-404")
        if world.asks(SubmitRegistration):
            world.answer(SubmitRegistration)
    assert world.snapshot.state is State.CERT_EXPIRING
    assert world.snapshot.budget.spent == 2


def test_being_offline_costs_nothing():
    """Weeks without a network must not leave a device waiting once the network is back."""
    world = World()
    world.take(started())
    for _ in range(300):
        if world.snapshot.phase is Phase.STAGING:
            world.answer(StageKey)
        world.deny(SubmitRegistration, failure_class="retry", code="unreachable", unsent=True)
        assert world.snapshot.budget.spent == 0
        world.fire("attempt")
    assert world.snapshot.state is State.REGISTERING


def test_an_operation_that_cannot_be_asked_for_was_sent():
    world = registering(Phase.POLLING)
    world.fire("phase")
    world.deny(PollRegistration, failure_class="operator", code="unreachable", unsent=True)
    assert world.snapshot.budget.spent == 1
