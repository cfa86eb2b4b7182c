"""What is believed of the wall clock, and what may not happen while it is not."""

import pytest

from statemachine.effects import ArmDeadline, PollRegistration, ProveCredential, StageKey, SubmitRegistration
from statemachine.events import ClockObserved, DeadlinePassed, HubRefusedCredential, RegistrationAccepted
from statemachine.snapshot import Budget
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    HOUR,
    MINUTE,
    T0,
    World,
    chain,
    expiring,
    holding,
    provisioned,
    registering,
    renewing,
    started,
    stored,
    unproven,
    unprovisioned,
    waiting,
    wishes,
)

BUILD = T0 - 30 * DAY
CONFIRMED = ClockObserved(kernel_synchronised=True)
UNCONFIRMED = ClockObserved(kernel_synchronised=False)


def clock(world):
    return world.snapshot.clock


def doubtful(place=provisioned):
    """A place, and then the clock jumped by two days without anybody confirming it."""
    world = place()
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=2 * DAY), after_ms=2 * DAY)
    assert not clock(world).trusted
    return world


# --- at a start --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "fields", "trusted", "reason"),
    [
        (T0, {"kernel_synchronised": True}, True, "kernel"),
        (T0, {"kernel_synchronised": False}, True, "plausible"),
        (0, {"kernel_synchronised": False}, False, "earlier"),
        (BUILD - 1, {"kernel_synchronised": False}, False, "earlier"),
        (BUILD, {"kernel_synchronised": False}, True, "plausible"),
        (0, {"kernel_synchronised": True}, True, "kernel"),
    ],
)
def test_the_first_start(now, fields, trusted, reason):
    world = World(now=now)
    world.take(started(**fields))
    assert clock(world).trusted is trusted
    assert reason in clock(world).reason


@pytest.mark.parametrize(
    ("down_ms", "synchronised", "trusted"),
    [
        (DAY, False, True),
        (DAY + 1, False, False),
        (100 * DAY, False, False),
        (100 * DAY, True, True),
        (-DAY, False, False),
        (-400 * DAY, False, False),
        (-400 * DAY, True, True),
    ],
)
def test_a_jump_while_the_service_was_down(down_ms, synchronised, trusted):
    world = World()
    world.take(started(kernel_synchronised=False))
    world.settle()
    world.restart(down_ms=down_ms, kernel_synchronised=synchronised)
    assert clock(world).trusted is trusted


def test_a_restart_alone_does_not_confirm_a_doubtful_clock():
    world = doubtful()
    for _ in range(3):
        world.restart(kernel_synchronised=False)
        assert not clock(world).trusted
        assert clock(world).reason == "jumped by more than a day"
    world.restart(kernel_synchronised=True)
    assert clock(world).trusted


# --- while running -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jump_ms", "synchronised", "trusted"),
    [
        (0, False, True),
        (DAY, False, True),
        (-DAY, False, False),
        (DAY + 1, False, False),
        (DAY + 1, True, True),
        (-400 * DAY, True, True),
    ],
)
def test_a_jump_while_the_service_runs(jump_ms, synchronised, trusted):
    """A step back by a day is behind the floor, which the kernel's word moved to now."""
    world = provisioned()
    world.take(ClockObserved(kernel_synchronised=synchronised, jump_ms=jump_ms), after_ms=jump_ms)
    assert clock(world).trusted is trusted


def test_the_floor_is_what_was_corroborated_never_a_stamp_alone():
    world = World()
    world.take(started(kernel_synchronised=False))
    assert clock(world).floor_unix_ms == BUILD
    world.settle()
    issued = world.snapshot.credential.not_before_unix_ms
    assert clock(world).floor_unix_ms == issued
    world.take(UNCONFIRMED, after_ms=HOUR)
    assert clock(world).floor_unix_ms == issued
    world.take(CONFIRMED, after_ms=HOUR)
    assert clock(world).floor_unix_ms == world.now
    world.take(CONFIRMED, after_ms=-HOUR)
    assert clock(world).floor_unix_ms == world.now + HOUR


@pytest.mark.parametrize(
    ("offset", "trusted", "reason"),
    [
        (0, True, "agrees with the cloud"),
        (HOUR, True, "agrees with the cloud"),
        (-HOUR, True, "agrees with the cloud"),
        (HOUR + 1_000, False, "is 3601 s behind the cloud's clock"),
        (-2 * DAY, False, "is 172800 s ahead of the cloud's clock"),
    ],
)
def test_the_clouds_date_judges_the_clock(offset, trusted, reason):
    world = registering(Phase.SUBMITTING)
    date = world.now + 10 + offset
    world.answer(SubmitRegistration, server_date_unix_ms=date)
    assert (clock(world).trusted, clock(world).reason) == (trusted, reason)
    assert clock(world).offset_ms == offset
    assert clock(world).floor_unix_ms == max(date, T0)
    world.fire("phase")
    assert world.history[-1][2].effects[0].clock_offset_ms == offset


def test_a_date_in_a_stale_answer_is_a_fact_all_the_same():
    world = doubtful()
    world.take(RegistrationAccepted(answers="9.9.9", operation_id="x", server_date_unix_ms=world.now))
    assert clock(world).trusted


def test_a_certificate_that_begins_in_our_future_is_committed_and_marks_the_clock():
    world = registering(Phase.POLLING)
    world.fire("phase")
    spki = world.snapshot.staged.spki_sha256
    begins = world.now + 10 + 300 * DAY
    world.answer(PollRegistration, chain=chain(spki, begins))
    assert world.snapshot.phase is Phase.PROVING
    assert (clock(world).trusted, clock(world).floor_unix_ms) == (False, begins)
    assert clock(world).reason == "is earlier than the beginning of a certificate just issued"
    world.settle()
    assert world.snapshot.state is State.PROVISIONED


# --- untrusted: nothing is declared expired, nothing deleted -----------------------------------------


@pytest.mark.parametrize("place", [provisioned, expiring, renewing, waiting])
def test_nothing_is_declared_expired(place):
    world = doubtful(place)
    before = world.position
    world.fire("expiry")
    assert world.position == before
    assert world.snapshot.credential is not None


@pytest.mark.parametrize("place", [provisioned, expiring])
def test_expiry_is_declared_when_trust_returns(place):
    world = doubtful(place)
    world.fire("expiry")
    assert world.snapshot.armed_as("expiry") is None
    decision = world.take(CONFIRMED, after_ms=10)
    assert "arm expiry" in wishes(decision)
    world.fire("expiry")
    assert world.snapshot.state is State.REPROVISIONING


def test_expiry_is_watched_again_by_a_start_that_trusts_the_clock():
    world = doubtful(renewing)
    world.fire("expiry")
    world.now -= 20 * DAY
    world.restart(kernel_synchronised=True)
    world.fire("timeout")
    assert world.snapshot.state is State.CERT_EXPIRING
    assert world.snapshot.armed_as("expiry").at_unix_ms == world.snapshot.credential.not_after_unix_ms


def test_a_start_with_a_doubtful_clock_does_not_call_a_stored_certificate_expired():
    world = World(now=T0 + 200 * DAY)
    world.take(
        started(
            kernel_synchronised=False,
            build_unix_ms=T0 + 300 * DAY,
            inventory=holding(stored()),
        )
    )
    assert world.snapshot.state is State.CERT_EXPIRING


def test_nothing_is_deleted():
    world = provisioned()
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=2 * DAY), after_ms=100 * DAY)
    world.fire("window")
    world.fire("attempt")
    world.settle()
    assert world.store.keys.keys() == {1, 2}
    assert [one.generation for one in world.snapshot.superseded] == [1]
    world.fire("collect")
    assert world.store.keys.keys() == {1, 2}
    assert world.snapshot.armed_as("collect").delay_ms == DAY
    world.take(CONFIRMED)
    world.fire("collect")
    world.settle()
    assert world.store.keys.keys() == {2}
    assert world.snapshot.armed_as("collect") is None


def test_attempts_may_be_made():
    world = doubtful(unprovisioned)
    world.fire("attempt")
    assert world.snapshot.state is State.REGISTERING
    world.settle()
    assert world.snapshot.state is State.PROVISIONED


def test_refusals_are_not_counted():
    world = doubtful()
    for _ in range(9):
        world.take(HubRefusedCredential(generation=1, code="hub-401"), after_ms=HOUR)
    assert world.snapshot.refusals.count == 0
    assert world.snapshot.state is State.PROVISIONED


def test_dates_cost_no_budget_and_are_tried_again():
    world = registering(Phase.SUBMITTING)
    assert world.snapshot.budget.spent == 1
    world.deny(SubmitRegistration, failure_class="clock", code="tls-dates")
    assert world.snapshot.budget.spent == 0
    assert world.snapshot.armed_as("attempt") is not None


# --- deadlines and the clock -------------------------------------------------------------------------


def test_a_step_measures_every_deadline_again():
    world = provisioned()
    decision = world.take(ClockObserved(kernel_synchronised=True, jump_ms=HOUR), after_ms=HOUR)
    assert sorted(effect.name for effect in decision.effects) == ["expiry", "window"]
    assert all(isinstance(effect, ArmDeadline) for effect in decision.effects)


def test_looking_at_the_clock_without_a_step_wishes_for_nothing():
    assert provisioned().take(CONFIRMED).effects == ()


def test_a_deadline_that_fires_early_is_armed_again():
    world = provisioned()
    at = world.snapshot.armed_as("window").at_unix_ms
    world.now = at - 1
    decision = world.take(DeadlinePassed(name="window"))
    assert decision.verdict == "ignored"
    assert decision.effects == (ArmDeadline(name="window", at_unix_ms=at),)
    assert world.take(DeadlinePassed(name="window"), after_ms=1).verdict == "taken"


def test_a_delay_counts_elapsed_time_whatever_the_clock_says():
    world = unprovisioned(draw_ppm=999_999)
    world.take(ClockObserved(kernel_synchronised=True, jump_ms=-400 * DAY), after_ms=-400 * DAY)
    assert world.take(DeadlinePassed(name="attempt")).verdict == "taken"
    assert world.snapshot.state is State.REGISTERING


def test_trust_that_returns_starts_the_budget_afresh():
    world = doubtful(unprovisioned)
    assert world.snapshot.budget.spent == 1
    world.take(CONFIRMED)
    assert world.snapshot.budget == Budget()


@pytest.mark.parametrize(
    ("jump_ms", "synchronised", "afresh"),
    [(-400 * DAY, True, True), (2 * HOUR, True, True), (-30 * MINUTE, True, False), (2 * HOUR, False, False)],
)
def test_a_corroborated_correction_starts_the_budget_afresh(jump_ms, synchronised, afresh):
    """What failed until then may have failed because of the clock."""
    world = unprovisioned()
    world.take(ClockObserved(kernel_synchronised=synchronised, jump_ms=jump_ms), after_ms=jump_ms)
    assert (world.snapshot.budget.spent == 0) is afresh


def test_a_clock_that_goes_back_leaves_nothing_past_in_the_future():
    world = unproven()
    for _ in range(2):
        world.take(HubRefusedCredential(generation=1, code="hub-401"), after_ms=MINUTE)
    world.take(CONFIRMED, after_ms=-400 * DAY)
    snapshot = world.snapshot
    assert snapshot.refusals.first_unix_ms == world.now
    assert snapshot.credential.committed_unix_ms == world.now
    assert snapshot.refusals.driven_unix_ms == 0


def test_a_clock_that_goes_back_during_an_attempt_moves_its_budget_and_candidate():
    world = registering(Phase.PROVING)
    world.take(CONFIRMED, after_ms=-400 * DAY)
    assert world.snapshot.budget.since_unix_ms == world.now
    assert world.snapshot.candidate.assigned_unix_ms == world.now
    world.deny(ProveCredential, refused=True)
    assert world.snapshot.phase is Phase.PROVING


# --- the best known time -----------------------------------------------------------------------------


def ahead_by(world):
    """The best known time minus what our clock shows."""
    return world.snapshot.clock.correction_ms


def armed_for(decision, name):
    return next(one.at_unix_ms for one in decision.effects if getattr(one, "name", "") == name)


def test_elapsed_time_carries_the_true_time_over_an_unconfirmed_jump():
    world = provisioned()
    opens = world.snapshot.armed_as("window").at_unix_ms
    decision = world.take(ClockObserved(kernel_synchronised=False, jump_ms=400 * DAY), after_ms=400 * DAY)
    assert ahead_by(world) == -400 * DAY
    assert armed_for(decision, "window") == opens + 400 * DAY, "by our clock, as wrong as it is"
    assert world.snapshot.armed_as("window").at_unix_ms == opens
    assert world.fire("window").verdict == "taken"


@pytest.mark.parametrize("wrong_ms", [-4_000 * DAY, -2 * HOUR, 2 * HOUR, 400 * DAY])
def test_the_cloud_s_date_moves_every_deadline_to_its_true_instant(wrong_ms):
    world = World(now=T0 + wrong_ms)
    world.take(started(kernel_synchronised=False, build_unix_ms=T0 - 8_000 * DAY))
    world.answer(StageKey)
    world.answer(SubmitRegistration, server_date_unix_ms=T0)
    assert not clock(world).trusted
    assert clock(world).measured
    world.until(Phase.PROVING)
    world.settle()
    credential = world.snapshot.credential
    decision = world.history[-1][2]
    assert world.snapshot.armed_as("expiry").at_unix_ms == credential.not_after_unix_ms
    assert armed_for(decision, "expiry") == credential.not_after_unix_ms - ahead_by(world)


def test_a_little_more_or_less_moves_nothing():
    world = World(now=T0 - 100 * DAY)
    world.take(started(kernel_synchronised=False))
    world.answer(StageKey)
    world.answer(SubmitRegistration, server_date_unix_ms=T0)
    before = ahead_by(world)
    world.fire("phase")
    world.answer(PollRegistration, server_date_unix_ms=T0 + 2 * MINUTE)
    assert ahead_by(world) == before
    assert world.snapshot.clock.floor_unix_ms >= T0


def test_a_device_without_a_clock_goes_on_from_the_last_instant_it_knows():
    world = provisioned()
    floor = world.snapshot.clock.floor_unix_ms
    world.now = T0 - 4_000 * DAY
    world.restart(kernel_synchronised=False)
    assert ahead_by(world) == floor - world.now
    assert not clock(world).measured
    assert world.snapshot.armed_as("prove") is not None, "the hub's Date header is asked for"
    world.fire("prove")
    date = T0 + 30 * DAY
    world.answer(ProveCredential, server_date_unix_ms=date)
    assert ahead_by(world) == date - world.now
    assert world.snapshot.armed_as("prove") is None


def test_a_hub_that_keeps_refusing_is_believed_where_nobody_knows_the_time():
    world = provisioned()
    world.now = T0 - 4_000 * DAY
    world.restart(kernel_synchronised=False)
    for expected in (State.PROVISIONED, State.PROVISIONED, State.REPROVISIONING):
        world.fire("prove")
        world.deny(ProveCredential, refused=True)
        assert world.snapshot.state is expected


def test_a_hub_that_cannot_be_reached_proves_nothing():
    world = provisioned()
    world.now = T0 - 4_000 * DAY
    world.restart(kernel_synchronised=False)
    for _ in range(5):
        world.fire("prove")
        world.deny(ProveCredential, refused=False)
    assert world.snapshot.state is State.PROVISIONED
    assert world.snapshot.armed_as("prove") is not None


def test_a_certificate_that_has_begun_shows_up_a_clock_that_is_behind():
    world = World(now=T0 - 100 * DAY)
    world.take(started(kernel_synchronised=False, build_unix_ms=T0 - 300 * DAY))
    world.answer(StageKey)
    world.answer(SubmitRegistration)
    world.fire("phase")
    world.answer(PollRegistration, chain=chain("k1", T0))
    assert ahead_by(world) == T0 - world.now
    assert not clock(world).measured


def test_what_counts_elapsed_time_does_not_move():
    world = unprovisioned(draw_ppm=999_999)
    left = world.snapshot.armed_as("attempt").at_unix_ms - world.now
    world.take(ClockObserved(kernel_synchronised=True, jump_ms=-400 * DAY), after_ms=-400 * DAY)
    assert world.snapshot.armed_as("attempt").at_unix_ms - world.now == left
