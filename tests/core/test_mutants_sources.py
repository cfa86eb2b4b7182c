"""Rows in each of the states they are for: what holds in one of them says nothing of the others.

Found by mutation: a row could lose a state without any test failing.
"""

import pytest

from statemachine.effects import PollRegistration, ProveCredential, PushModuleKeys, SubmitRegistration
from statemachine.events import (
    ConfigurationChanged,
    CredentialLost,
    HoldRequested,
    ModuleKeysRequested,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
)
from statemachine.policy import REFUSALS_NEEDED
from statemachine.snapshot import Armed, Budget, ClockTrust, Outstanding, Refusals
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    HOUR,
    MANUAL,
    NO_DPS,
    POLICY,
    World,
    assigned,
    chain,
    configured,
    expiring,
    holding,
    manual,
    provisioned,
    registering,
    renewing,
    reprovisioning,
    started,
    stored,
    structs,
    unprovisioned,
    waiting,
)

# --- an attempt --------------------------------------------------------------------------------------


def test_an_assignment_without_a_chain_may_come_at_once():
    world = registering(Phase.SUBMITTING)
    submission = world.pending(SubmitRegistration).id
    world.take(assigned(submission, "", world.now))
    assert world.position == (State.REGISTERING, Phase.PROVING)


def test_a_chain_that_comes_at_once_is_judged_as_any():
    world = registering(Phase.SUBMITTING)
    world.take(assigned(world.pending(SubmitRegistration).id, "other", world.now))
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.ended.error.code == "chain-wrong-key"


def test_a_lost_key_is_given_up_even_where_the_certificate_has_ended_too():
    """Another certificate for the same key would come to the same."""
    world = renewing(Phase.PROVING)
    world.now = world.snapshot.candidate.chain.not_after_unix_ms
    world.deny(ProveCredential, failure_class="new_key", code="key-missing")
    assert world.snapshot.phase is Phase.IDLE
    assert world.snapshot.staged is None


# --- starts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [unprovisioned, registering, provisioned, expiring, renewing, waiting])
def test_without_a_source_every_start_leads_to_unprovisioned(place):
    world = place()
    world.restart(policy=NO_DPS, fingerprint="")
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    world.restart(policy=NO_DPS, fingerprint="")
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)


def test_without_a_source_what_the_stores_hold_is_not_taken_up():
    world = World()
    world.take(started(policy=NO_DPS, fingerprint="", inventory=holding(stored(fingerprint=""))))
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.armed_as("expiry") is None


def test_a_start_that_may_not_begin_waits_for_the_budget():
    world = unprovisioned()
    world.snapshot = structs.replace(
        world.snapshot,
        armed=(),
        budget=Budget(spent=POLICY.budget_registrations, since_unix_ms=world.now),
    )
    since = world.now
    world.restart()
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    assert world.snapshot.armed_as("attempt").at_unix_ms == since + POLICY.budget_window_ms


@pytest.mark.parametrize("place", [provisioned, expiring])
def test_another_configuration_found_by_a_start_reprovisions(place):
    world = place()
    world.restart(fingerprint="f2")
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.attempt.fingerprint == "f2"


@pytest.mark.parametrize("place", [provisioned, expiring])
@pytest.mark.parametrize(("age_days", "state"), [(80, State.CERT_EXPIRING), (1, State.PROVISIONED)])
def test_another_certificate_found_by_a_start_begins_its_own_life(place, age_days, state):
    world = place()
    begins = world.now - age_days * DAY
    found = stored(generation=9, not_before_unix_ms=begins, not_after_unix_ms=begins + 90 * DAY)
    world.take(started(inventory=holding(found)))
    assert world.position == (state, Phase.IDLE)
    assert world.snapshot.armed_as("expiry").at_unix_ms == found.not_after_unix_ms


# --- deadlines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [renewing, reprovisioning])
def test_a_window_that_opens_during_an_attempt_moves_nothing(place):
    world = place()
    before = world.position
    world.take(RenewRequested(uid=0))
    world.snapshot = structs.replace(
        world.snapshot, armed=(*without(world, "window"), Armed(name="window", at_unix_ms=world.now))
    )
    world.fire("window")
    assert world.position == before


def without(world, name):
    return tuple(one for one in world.snapshot.armed if one.name != name)


@pytest.mark.parametrize("proven", [False, True])
@pytest.mark.parametrize("place", [provisioned, expiring, renewing, waiting, reprovisioning])
def test_a_proof_that_is_due_moves_nothing_and_is_asked_for_at_rest(place, proven):
    world = place()
    before = world.position
    credential = structs.replace(world.snapshot.credential, proven=proven)
    armed = (*without(world, "prove"), Armed(name="prove", at_unix_ms=world.now, delay_ms=0))
    world.snapshot = structs.replace(world.snapshot, credential=credential, armed=armed)
    world.fire("prove")
    assert world.position == before
    assert world.asks(ProveCredential) is (world.snapshot.phase is Phase.IDLE and not proven)


# --- outcomes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [registering, reprovisioning])
def test_what_is_lost_again_before_the_attempt_ends_is_registered_again(place):
    world = place(Phase.RETIRING)
    number = world.snapshot.attempt.number
    world.take(CredentialLost(generation=world.snapshot.credential.generation, reason="gone"))
    world.once()
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.attempt.number == number + 1


@pytest.mark.parametrize("place", [registering, renewing, reprovisioning])
def test_a_certificate_that_is_inside_its_window_at_once_is_expiring(place):
    world = place(Phase.POLLING)
    world.fire("phase")
    spki = world.pending(PollRegistration).effect.spki_sha256
    world.answer(PollRegistration, chain=chain(spki, world.now - 80 * DAY))
    world.settle()
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)


# --- commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [ReprovisionRequested(uid=0), RenewRequested(uid=0)])
def test_an_operator_who_joins_a_reprovisioning_has_ordered_it(event):
    world = provisioned()
    world.take(ReprovisionRequested(uid=1000, privileged=False), after_ms=HOUR)
    assert not world.snapshot.attempt.by_operator
    assert world.take(event).verdict == "taken"
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.attempt.by_operator


@pytest.mark.parametrize("place", [unprovisioned, provisioned, expiring, waiting])
def test_no_local_caller_goes_beyond_the_budget(place):
    world = place()
    world.snapshot = structs.replace(
        world.snapshot, budget=Budget(spent=POLICY.budget_registrations, since_unix_ms=world.now)
    )
    before = world.position
    decision = world.take(ReprovisionRequested(uid=1000, privileged=False))
    assert (decision.verdict, world.position) == ("refused", before)
    assert "budget" in decision.why


@pytest.mark.parametrize("age_days", [0, 80])
def test_a_repeat_within_a_minute_leaves_everything_as_it_is(age_days):
    """Whether what was issued is young or inside its window already."""
    world = reprovisioning(Phase.POLLING)
    world.fire("phase")
    world.answer(PollRegistration, chain=chain("k2", world.now - age_days * DAY))
    world.settle()
    before = world.position
    assert before[0] is (State.CERT_EXPIRING if age_days else State.PROVISIONED)
    decision = world.take(ReprovisionRequested(uid=1000, privileged=False))
    assert (decision.verdict, decision.effects, world.position) == ("taken", (), before)


def failed_manually():
    """A configured assignment that was refused: nothing is taken up."""
    world = manual(Phase.PROVING)
    for _ in range(2):
        world.deny(ProveCredential, refused=True, code="hub-401")
        if world.snapshot.attempt is not None:
            world.fire("phase")
    return world


def renewed_into_manual():
    """The store was told to flip when the configuration changed, so the renewal is waited for."""
    world = renewing(Phase.COMMITTING)
    world.take(configured(MANUAL))
    return world


def reprovisioning_manually():
    world = manual()
    world.take(ReprovisionRequested(uid=0), after_ms=HOUR)
    return world


@pytest.mark.parametrize(
    ("place", "state"),
    [
        (failed_manually, State.UNPROVISIONED),
        (lambda: manual(Phase.PROVING), State.REGISTERING),
        (manual, State.PROVISIONED),
        (renewed_into_manual, State.RENEWING),
        (reprovisioning_manually, State.REPROVISIONING),
    ],
)
def test_nowhere_is_a_configured_credential_renewed(place, state):
    world = place()
    assert world.snapshot.state is state
    decision = world.take(RenewRequested(uid=0))
    assert (decision.verdict, world.snapshot.state) == ("refused", state)
    assert "the credential is configured" in decision.why


@pytest.mark.parametrize("place", [registering, renewing])
def test_who_asks_for_a_renewal_joins_what_is_under_way(place):
    world = place()
    world.take(RenewRequested(uid=0))
    assert world.snapshot.attempt.by_operator


@pytest.mark.parametrize("place", [provisioned, expiring, waiting])
def test_no_renewal_begins_during_a_hold(place):
    world = place()
    world.take(HoldRequested(hold=True, uid=0))
    before = world.position
    decision = world.take(RenewRequested(uid=0))
    assert (decision.verdict, world.position) == ("refused", before)
    assert "hold" in decision.why


EVERYWHERE = [unprovisioned, registering, provisioned, expiring, renewing, reprovisioning, waiting]


def with_push(place):
    world = place()
    push = Outstanding(id="0.0.1", effect=PushModuleKeys())
    world.snapshot = structs.replace(world.snapshot, outstanding=(*world.snapshot.outstanding, push))
    return world


@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_push_is_shared_and_a_service_that_stops_takes_none(place):
    world = with_push(place)
    decision = world.take(ModuleKeysRequested(uid=0))
    assert (decision.verdict, decision.effects) == ("taken", ())
    world = place()
    world.take(ShutdownRequested(reason="SIGTERM"))
    decision = world.take(ModuleKeysRequested(uid=0))
    assert (decision.verdict, "stopping" in decision.why) == ("refused", True)


@pytest.mark.parametrize("place", [provisioned, expiring, renewing, waiting])
def test_no_hub_takes_keys_from_a_certificate_that_has_ended(place):
    """Also in the moment before its deadline is looked at."""
    world = place()
    world.now = world.snapshot.credential.not_after_unix_ms
    decision = world.take(ModuleKeysRequested(uid=0))
    assert (decision.verdict, "No hub" in decision.why) == ("refused", True)


# --- configuration, losses and proofs ----------------------------------------------------------------


@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_configuration_without_a_source_leads_to_unprovisioned_from_everywhere(place):
    world = place()
    world.take(configured(NO_DPS))
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)


@pytest.mark.parametrize("place", [provisioned, expiring])
def test_another_configuration_reprovisions_what_serves(place):
    world = place()
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.attempt.fingerprint == "f2"


def unprovisioned_with_credential():
    """Somebody took the source out of the configuration; what was issued is still there."""
    world = provisioned()
    world.take(configured(NO_DPS))
    return world


@pytest.mark.parametrize(
    "place", [unprovisioned_with_credential, lambda: registering(Phase.RETIRING), waiting, reprovisioning]
)
def test_a_loss_where_no_credential_is_promised_moves_nothing(place):
    world = place()
    before = world.position
    decision = world.take(CredentialLost(generation=world.snapshot.credential.generation, reason="gone"))
    assert world.position == before
    assert decision.why.startswith("No credential is left")
    assert world.snapshot.armed_as("expiry") is None


@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_loss_of_another_generation_moves_nothing(place):
    world = place()
    before, credential = world.position, world.snapshot.credential
    decision = world.take(CredentialLost(generation=99, reason="gone"))
    assert (world.position, world.snapshot.credential, decision.effects) == (before, credential, ())


def with_proof(place):
    """The credential in use was committed unproven long ago, and the hub is being asked."""
    world = place()
    credential = structs.replace(world.snapshot.credential, proven=False)
    proof = ProveCredential(generation=credential.generation, hub="hub.example", device_id="device-1")
    world.snapshot = structs.replace(
        world.snapshot, credential=credential, outstanding=(Outstanding(id="0.0.1", effect=proof),)
    )
    world.now += HOUR
    return world


@pytest.mark.parametrize("place", [provisioned, expiring, waiting])
def test_a_proof_of_what_is_in_use_is_noted_and_moves_nothing(place):
    world = with_proof(place)
    before = world.position
    world.answer(ProveCredential)
    assert world.position == before
    assert world.snapshot.credential.proven


@pytest.mark.parametrize("place", [provisioned, expiring, waiting])
def test_a_hub_that_cannot_be_asked_is_asked_later_and_moves_nothing(place):
    world = with_proof(place)
    before = world.position
    world.deny(ProveCredential)
    assert world.position == before
    assert world.snapshot.armed_as("prove") is not None


@pytest.mark.parametrize("place", [provisioned, expiring])
def test_what_was_committed_unproven_and_is_refused_is_replaced(place):
    world = with_proof(place)
    world.deny(ProveCredential, refused=True, code="hub-401")
    assert world.snapshot.state is State.REPROVISIONING


@pytest.mark.parametrize("place", [provisioned, expiring])
def test_without_a_clock_a_third_refusal_is_believed_wherever_it_serves(place):
    world = with_proof(place)
    world.snapshot = structs.replace(
        world.snapshot,
        credential=structs.replace(world.snapshot.credential, proven=True),
        clock=ClockTrust(),
        refusals=Refusals(count=REFUSALS_NEEDED - 1),
    )
    world.deny(ProveCredential, refused=True, code="hub-401")
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.refusals.driven_unix_ms == world.now
