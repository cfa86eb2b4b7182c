"""Manual provisioning: the configuration is the assignment, and DPS is never asked."""

import pytest
from msgspec import structs

from statemachine.effects import (
    CommitCredential,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    CredentialLost,
    HoldRequested,
    HubRefusedCredential,
    Inventory,
    RenewRequested,
    ReprovisionRequested,
)
from statemachine.policy import REFUSAL_INTERVAL_MS
from statemachine.snapshot import Budget
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    ELSEWHERE,
    HOUR,
    MANUAL,
    MINUTE,
    NO_DPS,
    POLICY,
    SECOND,
    T0,
    World,
    asked,
    certless,
    configured,
    fingerprint_of,
    holding,
    manual,
    provisioned,
    registering,
    renewing,
    reprovisioning,
    started,
    stored,
    unprovisioned,
    waiting,
    wishes,
)

U, G, P = State.UNPROVISIONED, State.REGISTERING, State.PROVISIONED
X = State.REPROVISIONING
RUNNING = (Phase.PROVING, Phase.COMMITTING, Phase.RETIRING)
TO_DPS = (StageKey, SubmitRegistration, PollRegistration)


def again(policy=MANUAL, **fields):
    """Fields of a start with that configuration."""
    return {"policy": policy, "fingerprint": fingerprint_of(policy), **fields}


def everything_asked(world):
    return [effect for _, _, decision in world.history for effect in asked(decision)]


def refused(world):
    """The hub refuses the configured credential, and once more when asked again."""
    world.deny(ProveCredential, refused=True, code="hub-401", message="who are you?")
    world.fire("phase")
    return world.deny(ProveCredential, refused=True, code="hub-401", message="who are you?", draw_ppm=0)


def outside(world):
    """What a device is to the world: where it belongs, by what, and what the store has."""
    snapshot = world.snapshot
    current = world.store.committed[world.store.current]
    return (
        (snapshot.assignment.hub, snapshot.assignment.device_id, snapshot.credential.source),
        (current.hub, current.device_id, current.source, current.bundle_id),
    )


HERE = (("hub.example", "device-1", "configured"), ("hub.example", "device-1", "configured", None))
THERE = (
    ("other.example:8443", "device-1", "configured"),
    ("other.example:8443", "device-1", "configured", None),
)


# --- from nothing ------------------------------------------------------------------------------------


def test_the_configuration_is_taken_up_without_dps():
    world = manual()
    assert world.position == (P, Phase.IDLE)
    assert [type(effect) for effect in everything_asked(world)] == [
        ProveCredential,
        CommitCredential,
        RetireCredential,
    ]
    prove, commit, _ = everything_asked(world)
    assert (prove.issued, prove.chain_pem, prove.hub, prove.device_id) == (
        False,
        None,
        "hub.example",
        "device-1",
    )
    assert (commit.chain_pem, commit.bundle_pem, commit.keep_bundle) == (None, None, False)
    assert commit.fingerprint == "m-hub.example"
    assert outside(world) == HERE
    assert world.snapshot.credential.proven
    assert world.snapshot.budget == Budget()


def test_nothing_is_armed_for_it():
    """There is no cloud to ask for a certificate, and nothing that ends."""
    assert manual().snapshot.armed == ()


@pytest.mark.parametrize("years", [1, 10])
def test_a_restart_finds_it_and_does_nothing(years):
    world = manual()
    decision = world.restart(down_ms=years * 365 * DAY, **again())
    assert (world.position, decision.effects) == ((P, Phase.IDLE), ())
    assert outside(world) == HERE


def test_a_journal_that_is_gone_does_not_matter():
    """The store alone says what was committed; it fits the configuration, so it serves at once."""
    first = manual()
    world = World(now=first.now, store=first.store)
    decision = world.restart(**again())
    assert (world.position, decision.effects) == ((P, Phase.IDLE), ())
    assert outside(world) == HERE


@pytest.mark.parametrize("phase", RUNNING)
def test_a_restart_resumes_in_every_phase(phase):
    world = manual(phase)
    before = world.snapshot
    world.restart(**again())
    assert (world.snapshot.attempt, world.snapshot.outstanding) == (before.attempt, before.outstanding)
    assert world.snapshot.phase is phase
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)


def test_a_restart_after_the_flip_goes_on_to_its_end():
    world = manual(Phase.COMMITTING)
    world.perform(world.pending(CommitCredential))
    world.restart(**again())
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)
    assert world.snapshot.attempts == 1


def test_without_any_source_nothing_happens():
    world = World()
    decision = world.take(started(policy=NO_DPS, fingerprint=""))
    assert (world.position, decision.effects) == ((U, Phase.IDLE), ())


# --- a hub that says no, or nothing ------------------------------------------------------------------


def test_a_hub_that_cannot_be_reached_is_believed_to_accept_it():
    """There is nothing else to serve with; it is proven at the next contact."""
    world = manual(Phase.PROVING)
    world.deny(ProveCredential)
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)
    assert not world.snapshot.credential.proven
    world.fire("prove")
    world.settle()
    assert world.snapshot.credential.proven


def test_a_first_refusal_may_come_from_a_wrong_clock():
    """No DPS told the time before. The answer does, and the next token is made by it."""
    world = manual(Phase.PROVING, kernel_synchronised=False)
    date = world.now + 400 * DAY
    world.deny(ProveCredential, refused=True, server_date_unix_ms=date, after_ms=0)
    assert world.position == (G, Phase.PROVING)
    armed = world.snapshot.armed_as("phase")
    assert armed.delay_ms <= 2 * SECOND
    world.fire("phase")
    assert world.pending(ProveCredential).effect.clock_offset_ms == 400 * DAY
    world.settle()
    assert outside(world) == HERE


def test_a_hub_that_refuses_is_a_matter_for_a_person():
    world = manual(Phase.PROVING)
    refused(world)
    assert world.position == (U, Phase.IDLE)
    error = world.snapshot.ended.error
    assert (error.failure_class, error.code, error.message) == ("operator", "hub-401", "who are you?")
    assert world.store.current is None
    assert world.snapshot.armed_as("attempt").delay_ms == POLICY.backoff_cap_ms // 2
    world.fire("attempt")
    world.settle()
    assert outside(world) == HERE


def test_a_restart_is_the_last_step_of_a_repair():
    world = manual(Phase.PROVING)
    refused(world)
    world.restart(**again())
    assert world.position == (G, Phase.PROVING)


def test_other_failures_keep_their_backoff_over_a_restart():
    world = manual(Phase.COMMITTING)
    world.deny(CommitCredential, failure_class="new_key", draw_ppm=999_999)
    assert world.position == (U, Phase.IDLE)
    at = world.snapshot.armed_as("attempt").at_unix_ms
    world.restart(down_ms=10, **again())
    assert world.snapshot.armed_as("attempt").at_unix_ms == at
    world.restart(down_ms=10, **again(ELSEWHERE))
    assert world.position == (G, Phase.PROVING), "that backoff was for another assignment"


def test_no_failure_gives_back_a_registration_that_dps_counted():
    world = provisioned()
    world.snapshot = structs.replace(world.snapshot, budget=Budget(spent=7, since_unix_ms=T0))
    world.restart(**again())
    world.until(Phase.COMMITTING)
    world.deny(CommitCredential, failure_class="clock")
    assert (world.position, world.snapshot.ended.error.failure_class) == ((X, Phase.IDLE), "clock")
    assert world.snapshot.budget.spent == 7


def test_refusals_of_what_is_in_use_are_counted_as_ever():
    """Three over fifteen minutes; then it is shown again, for ever if need be, and DPS is not asked."""
    world = manual()
    for _ in range(3):
        assert world.snapshot.state is P
        world.take(HubRefusedCredential(generation=1, code="hub-401"), after_ms=8 * MINUTE)
    assert world.position == (X, Phase.PROVING)
    assert world.snapshot.refusals.interval_ms == REFUSAL_INTERVAL_MS
    for _ in range(5):
        refused(world)
        assert world.position == (X, Phase.IDLE)
        assert world.snapshot.credential.generation == 1
        world.fire("attempt")
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)
    assert not [effect for effect in everything_asked(world) if isinstance(effect, TO_DPS)]


def test_what_was_committed_unproven_and_is_refused_is_shown_again():
    world = manual(Phase.PROVING)
    world.deny(ProveCredential)
    world.settle()
    world.fire("prove")
    world.deny(ProveCredential, refused=True, after_ms=HOUR)
    assert world.position == (X, Phase.PROVING)
    refused(world)
    assert (world.position, world.snapshot.ended.error.failure_class) == ((X, Phase.IDLE), "operator")


def test_a_lost_assignment_is_committed_again():
    world = manual()
    world.store.lose()
    world.take(CredentialLost(generation=1, reason="removed by hand"))
    assert world.position == (X, Phase.PROVING)
    world.settle()
    assert outside(world) == HERE


def test_a_clock_in_doubt_is_looked_up_at_the_hub():
    world = manual()
    world.restart(down_ms=-400 * DAY, **again(kernel_synchronised=False, draw_ppm=999_999))
    assert world.snapshot.armed_as("prove").delay_ms <= MINUTE


# --- commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [manual, lambda: manual(Phase.PROVING), lambda: manual(Phase.RETIRING)])
def test_there_is_nothing_to_renew(place):
    world = place()
    before = world.snapshot
    decision = world.take(RenewRequested(uid=0))
    assert (decision.verdict, decision.effects) == ("refused", ())
    assert (
        structs.replace(world.snapshot, sequence=before.sequence, last_unix_ms=before.last_unix_ms) == before
    )


@pytest.mark.parametrize("privileged", [True, False])
def test_a_reprovisioning_proves_and_commits_again(privileged):
    world = manual()
    world.take(ReprovisionRequested(uid=1000, privileged=privileged), after_ms=HOUR)
    assert world.position == (X, Phase.PROVING)
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)
    assert (world.snapshot.credential.generation, world.snapshot.reprovisioned_unix_ms) == (2, world.now)
    assert not [effect for effect in everything_asked(world) if isinstance(effect, TO_DPS)]


def test_a_reprovisioning_does_not_wait_for_a_hub_that_cannot_be_reached():
    """What is in use is the same configured credential: there is nothing to keep by waiting."""
    world = manual()
    world.take(ReprovisionRequested(uid=0), after_ms=HOUR)
    world.deny(ProveCredential)
    world.settle()
    assert (world.position, world.snapshot.credential.proven) == ((P, Phase.IDLE), False)


def test_a_hold_keeps_what_is_in_use():
    world = provisioned()
    world.take(HoldRequested(hold=True, uid=0))
    world.take(configured(MANUAL))
    assert (world.position, world.snapshot.credential.source) == ((X, Phase.IDLE), "issued")
    assert world.take(ReprovisionRequested(uid=0)).verdict == "refused"
    world.take(HoldRequested(hold=False, uid=0))
    world.fire("attempt")
    world.settle()
    assert outside(world) == HERE


# --- from DPS and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [provisioned, certless, renewing, reprovisioning, waiting])
def test_what_dps_issued_is_taken_away(place):
    world = place()
    world.take(configured(MANUAL))
    assert world.position == (X, Phase.PROVING)
    assert world.snapshot.assignment.fingerprint == "f1", "what is in use serves until then"
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)
    assert (world.snapshot.bundle, world.snapshot.staged) == (None, None)
    assert not world.snapshot.armed_as("reissue")
    assert not world.snapshot.armed_as("window")


@pytest.mark.parametrize("place", [registering, unprovisioned])
def test_a_registration_that_never_succeeded_is_given_up(place):
    world = place()
    world.take(configured(MANUAL))
    assert world.position == (G, Phase.PROVING)
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)
    assert world.store.keys == {}, "no staged key is left"


def test_the_key_of_an_issued_certificate_goes_when_the_certificate_has_ended():
    world = provisioned()
    ends = world.snapshot.credential.not_after_unix_ms
    world.take(configured(MANUAL))
    world.settle()
    assert world.snapshot.armed_as("collect").at_unix_ms == ends
    assert 1 in world.store.keys
    world.fire("collect")
    world.settle()
    assert world.store.keys == {}
    assert world.snapshot.armed == ()


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("place", [registering, renewing, reprovisioning])
def test_from_dps_in_every_phase(place, phase, down):
    world = place(phase)
    if down:
        world.restart(**again())
    else:
        world.take(configured(MANUAL))
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)
    assert world.snapshot.staged is None


@pytest.mark.parametrize("phase", RUNNING)
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_to_another_hub_in_every_phase(phase, down, first):
    world = manual(phase) if first else manual()
    if not first:
        world.take(ReprovisionRequested(uid=0), after_ms=HOUR)
        world.until(phase)
    if down:
        world.restart(**again(ELSEWHERE))
    else:
        world.take(configured(ELSEWHERE))
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), THERE)


@pytest.mark.parametrize("phase", RUNNING)
@pytest.mark.parametrize("down", [False, True])
def test_back_to_dps_in_every_phase(phase, down):
    world = manual(phase)
    if down:
        world.restart(**again(POLICY))
    else:
        world.take(configured(POLICY))
    world.settle()
    assert world.position == (P, Phase.IDLE)
    assert world.snapshot.credential.source == "issued"
    assert world.snapshot.armed_as("window")


@pytest.mark.parametrize("down", [False, True])
def test_back_to_dps_from_rest(down):
    world = manual()
    if down:
        world.restart(**again(POLICY))
    else:
        world.take(configured(POLICY))
    assert world.position == (X, Phase.STAGING)
    assert outside(world) == HERE
    world.settle()
    assert (world.position, world.snapshot.credential.source) == ((P, Phase.IDLE), "issued")


@pytest.mark.parametrize(
    "policy",
    [
        structs.replace(MANUAL, manual=structs.replace(MANUAL.manual, hub="other.example")),
        structs.replace(MANUAL, manual=structs.replace(MANUAL.manual, device_id="device-2")),
    ],
)
def test_the_assignment_itself_counts_not_only_the_fingerprint(policy):
    world = manual()
    world.take(configured(policy, fingerprint=world.snapshot.fingerprint))
    assert world.position == (X, Phase.PROVING)
    world.settle()
    assert (world.snapshot.assignment.hub, world.snapshot.assignment.device_id) == (
        policy.manual.hub,
        policy.manual.device_id,
    )


@pytest.mark.parametrize("policy", [ELSEWHERE, POLICY])
def test_so_it_does_while_an_attempt_is_running(policy):
    world = manual(Phase.PROVING)
    world.take(configured(policy, fingerprint=world.snapshot.fingerprint))
    assert world.snapshot.attempt.manual == policy.manual
    assert world.snapshot.attempts == 2


def test_a_certificate_less_assignment_that_says_the_same_is_kept():
    """Only that nobody is asked for a certificate any more."""
    world = registering(Phase.POLLING)
    world.fire("phase")
    world.answer(PollRegistration, chain=None, bundle=None)
    world.settle()
    assert world.snapshot.armed_as("reissue")
    world.take(configured(MANUAL, fingerprint="f1"))
    assert (world.position, world.snapshot.armed) == ((P, Phase.IDLE), ())


def test_what_was_wrong_with_the_bundle_of_dps_is_forgotten():
    world = registering(Phase.POLLING)
    world.fire("phase")
    world.answer(PollRegistration, bundle=None, bundle_problem="not PEM")
    world.settle()
    assert world.snapshot.bundle_problem == "not PEM"
    world.take(configured(MANUAL))
    world.settle()
    assert world.snapshot.bundle_problem is None


def test_a_configuration_that_says_the_same_changes_nothing():
    world = manual()
    decision = world.take(configured(structs.replace(MANUAL, backoff_cap_ms=1)))
    assert (world.position, decision.effects) == ((P, Phase.IDLE), ())
    assert world.snapshot.attempts == 1


@pytest.mark.parametrize(
    "left",
    [
        stored(fingerprint="m-hub.example"),
        stored(fingerprint="f1"),
        stored(fingerprint="m-hub.example", source="configured", bundle_id="bundle", sha256=""),
        stored(fingerprint="f1", source="configured", sha256=""),
    ],
)
def test_whatever_a_store_holds_from_before_is_replaced(left):
    world = World()
    world.store.committed[1], world.store.current = left, 1
    world.store.keys[1] = left.spki_sha256
    world.take(started(**again(inventory=holding(left))))
    assert world.position == (X, Phase.PROVING)
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)


def test_an_issued_certificate_serves_while_the_new_hub_cannot_be_reached():
    """Until it is in the last tenth of its life; then the configuration is believed."""
    world = provisioned()
    world.take(configured(ELSEWHERE))
    for _ in range(20):
        world.deny(ProveCredential)
        assert (world.position, world.snapshot.credential.source) == ((X, Phase.PROVING), "issued")
        world.fire("phase")
    world.deny(ProveCredential, after_ms=85 * DAY)
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), THERE)


def test_no_budget_or_backoff_of_dps_holds_it_back():
    """A device that used up its registrations, and is then told where it belongs."""
    world = unprovisioned()
    budget = Budget(spent=POLICY.budget_registrations, since_unix_ms=world.now)
    world.snapshot = structs.replace(world.snapshot, budget=budget)
    world.fire("attempt")
    assert world.snapshot.armed_as("attempt").at_unix_ms > world.now + 29 * DAY
    world.restart(**again())
    assert world.position == (G, Phase.PROVING)
    refused(world)
    assert world.snapshot.armed_as("attempt").at_unix_ms < world.now + HOUR
    assert world.take(ReprovisionRequested(uid=1000, privileged=False)).verdict == "taken"


@pytest.mark.parametrize("privileged", [True, False])
def test_a_copied_image_takes_up_what_its_own_configuration_says(privileged):
    world = provisioned()
    world.restart(**again(foreign_machine=True))
    assert world.position == (X, Phase.PROVING)
    world.settle()
    assert outside(world) == HERE
    assert world.take(ReprovisionRequested(uid=0, privileged=privileged)).verdict == "taken"
    world.settle()
    world.take(configured(POLICY))
    assert world.snapshot.foreign_machine is not privileged
    expected = (X, Phase.STAGING) if privileged else (X, Phase.IDLE)
    assert world.position == expected


def test_off_and_on_again():
    world = manual()
    world.take(configured(NO_DPS))
    assert (world.position, world.snapshot.armed) == ((U, Phase.IDLE), ())
    world.take(configured(MANUAL))
    world.settle()
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)


def test_an_empty_inventory_after_a_loss_while_down():
    world = manual()
    world.store.lose()
    decision = world.restart(**again(inventory=Inventory(problem="no pointer")))
    assert world.position == (X, Phase.PROVING)
    assert wishes(decision) == ["prove 2"]


@pytest.mark.parametrize("setting", [{"trust_bundle_id": "another"}, {"rotate_key": False}])
def test_settings_of_dps_mean_nothing_to_it(setting):
    world = manual()
    world.take(configured(structs.replace(MANUAL, **setting)))
    assert (world.position, outside(world)) == ((P, Phase.IDLE), HERE)
