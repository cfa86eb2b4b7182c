"""Which row comes first where two could be taken, and where a row leads from each of its states.

Found by mutation: rows could be swapped or redirected, and nothing else said that they may not.
"""

import pytest
from msgspec import structs

from statemachine.effects import CommitCredential, PollRegistration, ProveCredential, SubmitRegistration
from statemachine.events import (
    ConfigurationChanged,
    CredentialLost,
    HoldRequested,
    ModuleKeysRequested,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
)
from statemachine.policy import HUB_LATE_MS, REFUSALS_NEEDED
from statemachine.snapshot import Budget, ClockTrust, Refusals
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    HOUR,
    MANUAL,
    POLICY,
    T0,
    configured,
    expiring,
    holding,
    provisioned,
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

# --- what an attempt begins with ---------------------------------------------------------------------


def test_a_waiting_key_is_no_reason_to_ask_dps_for_what_the_configuration_says():
    """The configuration is the assignment, even where its names fit a key that an earlier attempt left."""
    world = unprovisioned()
    policy = structs.replace(MANUAL, registration_id=POLICY.registration_id)
    assert world.snapshot.staged is not None
    decision = world.take(configured(policy))
    assert world.position == (State.REGISTERING, Phase.PROVING)
    assert not any(isinstance(effect, SubmitRegistration) for effect in decision.effects)


def test_that_no_csr_is_taken_outweighs_that_the_operation_is_gone():
    """Submitting the same CSR again would only be told the same."""
    world = registering(Phase.POLLING)
    world.fire("phase")
    decision = world.deny(PollRegistration, failure_class="reregister", code="csr-not-configured")
    assert world.position == (State.REGISTERING, Phase.SUBMITTING)
    assert "register None" in wishes(decision)


# --- starts ------------------------------------------------------------------------------------------


def test_a_renewal_that_lost_its_credential_and_its_configuration_begins_anew():
    """Going on with it would register under a configuration that is gone."""
    world = renewing(Phase.SUBMITTING)
    number = world.snapshot.attempt.number
    world.store.lose()
    world.restart(fingerprint="f2")
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.attempt.number == number + 1
    assert world.snapshot.attempt.fingerprint == "f2"


def test_a_credential_found_in_the_stores_outweighs_a_backoff():
    """The matching pair wins over any journal, also over one that waits for its next attempt."""
    world = unprovisioned()
    assert world.snapshot.armed_as("attempt") is not None
    world.take(started(inventory=holding(stored())))
    assert world.position == (State.PROVISIONED, Phase.IDLE)


@pytest.mark.parametrize("place", [provisioned, expiring])
def test_another_certificate_that_has_expired_is_no_certificate_to_renew(place):
    """The stores hold another than the journal speaks of, and it has ended: registration is repeated."""
    world = place()
    ended = stored(generation=9, not_before_unix_ms=T0 - 90 * DAY, not_after_unix_ms=T0 - DAY)
    world.take(started(inventory=holding(ended)))
    assert world.snapshot.state is State.REPROVISIONING


EXPIRED = {"not_before_unix_ms": T0 - 90 * DAY, "not_after_unix_ms": T0 - DAY}


@pytest.mark.parametrize(
    ("place", "current", "says"),
    [
        (unprovisioned, {**EXPIRED, "fingerprint": "f0"}, "made for another configuration"),
        (provisioned, {**EXPIRED, "fingerprint": "f0"}, "The configuration changed"),
    ],
)
def test_another_configuration_is_told_before_an_expiry(place, current, says):
    """A person can mend the one by what they just wrote; the other mends itself."""
    world = place()
    decision = world.take(started(inventory=holding(stored(generation=9, **current))))
    assert world.snapshot.state is State.REPROVISIONING
    assert says in decision.why


# --- the attempt's outcome ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", [registering, renewing, reprovisioning])
def test_a_success_under_a_configuration_that_is_gone_reprovisions(place):
    """From wherever the attempt began, what was just committed serves until it is replaced."""
    world = place(Phase.COMMITTING)
    number = world.snapshot.attempt.number
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    world.answer(CommitCredential)
    while world.snapshot.attempt is not None and world.snapshot.attempt.number == number:
        world.once()
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.attempt.fingerprint == "f2"
    assert world.snapshot.credential is not None


# --- commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [ReprovisionRequested(uid=0), RenewRequested(uid=0)])
def test_a_command_joins_what_is_under_way_during_a_hold_too(command):
    """A hold stops no attempt that is running, so there is one to share."""
    world = reprovisioning(Phase.SUBMITTING)
    world.take(HoldRequested(hold=True, uid=0))
    decision = world.take(command, after_ms=HOUR)
    assert decision.verdict == "taken"
    assert world.snapshot.attempt.by_operator


@pytest.mark.parametrize("place", [unprovisioned, provisioned, expiring, waiting])
def test_a_hold_is_told_before_a_budget(place):
    """An operator could go beyond the budget; nobody begins an attempt during a hold."""
    world = place()
    world.take(HoldRequested(hold=True, uid=0))
    world.snapshot = structs.replace(
        world.snapshot, budget=Budget(spent=POLICY.budget_registrations, since_unix_ms=world.now)
    )
    decision = world.take(ReprovisionRequested(uid=1000, privileged=False), after_ms=HOUR)
    assert (decision.verdict, "hold" in decision.why) == ("refused", True)


def test_a_copied_image_is_told_even_to_whom_a_recent_result_would_do():
    """The result that stands is the other machine's."""
    world = reprovisioning().settle()
    assert world.snapshot.state is State.PROVISIONED
    world.take(started(inventory=world.store.inventory(), foreign_machine=True), after_ms=1_000)
    decision = world.take(ReprovisionRequested(uid=1000, privileged=False), after_ms=1_000)
    assert decision.verdict == "refused"
    assert "copied image" in decision.why


def test_a_service_that_stops_takes_no_request_even_where_a_push_is_under_way():
    """Its answer may come after the last event that is taken."""
    world = provisioned()
    world.take(ModuleKeysRequested(uid=0))
    world.take(ShutdownRequested(reason="SIGTERM"))
    assert world.take(ModuleKeysRequested(uid=0)).verdict == "refused"


def test_a_push_under_way_is_shared_after_the_credential_is_gone_too():
    """It was asked of the hub while there was one; its answer is on the way."""
    world = provisioned()
    world.take(ModuleKeysRequested(uid=0))
    world.take(CredentialLost(generation=world.snapshot.credential.generation, reason="gone"))
    assert world.take(ModuleKeysRequested(uid=0)).verdict == "taken"


# --- configuration and proofs ------------------------------------------------------------------------


def test_another_configuration_outweighs_its_own_renewal_window():
    """What is inside a window by settings that came with another assignment is not renewed, but replaced."""
    world = provisioned()
    world.now += 30 * DAY
    early = with_policy(renewal_earliest_percent=20)
    world.take(ConfigurationChanged(policy=early, fingerprint="f2"))
    assert world.snapshot.state is State.REPROVISIONING


def test_what_was_never_accepted_spends_no_refusal():
    """Committed unproven and refused: replaced at once, and the interval between refusals does not begin."""
    world = unproven()
    world.snapshot = structs.replace(
        world.snapshot,
        clock=ClockTrust(trusted=False),
        refusals=Refusals(count=REFUSALS_NEEDED - 1),
    )
    world.fire("prove")
    world.deny(ProveCredential, refused=True, after_ms=HUB_LATE_MS)
    assert world.snapshot.state is State.REPROVISIONING
    assert world.snapshot.refusals.driven_unix_ms == 0


def test_what_ended_is_told_before_a_configuration_that_is_gone():
    """Both lead to the same; that nothing valid is left is what a person must know."""
    world = renewing(Phase.COMMITTING)
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f2"))
    ends = world.snapshot.credential.not_after_unix_ms
    decision = world.deny(CommitCredential, after_ms=ends - world.now)
    assert world.position == (State.REPROVISIONING, Phase.IDLE)
    assert "expired meanwhile" in decision.why
