"""What an event brings into the snapshot, at the edges of the clock rule and for each fact by itself.

Found by mutation: the larger stories hold as well when one of these is a millisecond, or a fact, off.
"""

import pytest
from msgspec import structs

from statemachine import policy
from statemachine.effects import ArmDeadline, ProveCredential, SubmitRegistration
from statemachine.events import (
    ClockObserved,
    ConfigurationChanged,
    CredentialLost,
    HoldRequested,
    HubRefusedCredential,
    ReprovisionRequested,
    RulesChanged,
)
from statemachine.machine import RULES_REVISION
from statemachine.snapshot import Armed, Assignment, Budget, Bundle, ClockTrust, Credential
from statemachine.states import Phase, State
from tests.core.world import (
    DAY,
    HOUR,
    MINUTE,
    NO_DPS,
    POLICY,
    SECOND,
    T0,
    World,
    certless,
    configured,
    expiring,
    holding,
    provisioned,
    refusal,
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

BEHIND = ClockTrust(trusted=False, offset_ms=100 * DAY, measured=True)
"A clock that is a hundred days behind, and is known to be."


@pytest.mark.parametrize(
    ("jump_ms", "afresh"), [(HOUR, False), (HOUR + 1, True), (-HOUR, False), (-HOUR - 1, True)]
)
def test_a_confirmed_jump_of_an_hour_is_no_reason_for_failures(jump_ms, afresh):
    """So far off a clock is still believed, so what failed did not fail because of it."""
    world = unprovisioned()
    world.take(ClockObserved(kernel_synchronised=True, jump_ms=jump_ms), after_ms=jump_ms)
    assert (world.snapshot.budget.spent == 0) is afresh


def test_a_wrong_clock_that_goes_back_leaves_nothing_in_the_future_either():
    """What counts is the best known time: by it the budget began now, and a second ago is before that."""
    world = unprovisioned()
    world.snapshot = structs.replace(
        world.snapshot,
        clock=BEHIND,
        budget=Budget(spent=1, since_unix_ms=world.now + BEHIND.offset_ms),
    )
    world.take(HubRefusedCredential(generation=1, code="hub-401"), after_ms=-SECOND)
    assert world.snapshot.budget.since_unix_ms == world.now + BEHIND.offset_ms


def test_a_time_that_turns_out_to_be_earlier_leaves_nothing_in_the_future_either():
    """Nobody set the clock: what was believed of it was wrong, so the best known time goes back."""
    world = provisioned()
    world.snapshot = structs.replace(
        world.snapshot, clock=BEHIND, reprovisioned_unix_ms=world.now + BEHIND.offset_ms
    )
    world.take(ClockObserved(kernel_synchronised=True))
    assert world.snapshot.reprovisioned_unix_ms == world.now


def test_trust_alone_arms_every_deadline_again():
    """Nothing was wrong with the clock, as it turns out; what was not believed counts from now on."""
    world = provisioned()
    world.snapshot = structs.replace(world.snapshot, clock=ClockTrust(trusted=False))
    decision = world.take(ClockObserved(kernel_synchronised=True))
    assert {effect.name for effect in decision.effects} == {"window", "expiry"}
    assert all(isinstance(effect, ArmDeadline) for effect in decision.effects)


def test_a_clock_that_goes_back_does_not_make_an_old_result_recent_for_years():
    world = reprovisioning().settle()
    world.take(ClockObserved(kernel_synchronised=True), after_ms=-400 * DAY)
    assert world.snapshot.reprovisioned_unix_ms == world.now
    world.take(ReprovisionRequested(uid=1000, privileged=False), after_ms=policy.REPEAT_MS)
    assert world.snapshot.state is State.REPROVISIONING


def test_a_jump_arms_no_end_for_what_has_none():
    """A configured credential ends nowhere that we know of."""
    world = certless()
    world.take(ClockObserved(kernel_synchronised=True, jump_ms=2 * HOUR), after_ms=2 * HOUR)
    assert world.snapshot.armed_as("expiry") is None


# --- after a power-on --------------------------------------------------------------------------------


@pytest.mark.parametrize(("left_ms", "bound_ms"), [(100 * MINUTE, 10 * MINUTE), (10 * DAY, 15 * MINUTE)])
def test_what_is_overdue_is_spread_over_a_tenth_of_what_is_left(left_ms, bound_ms):
    world = expiring()
    ends = world.snapshot.credential.not_after_unix_ms
    assert world.snapshot.armed_as("attempt").at_unix_ms < ends - 10 * DAY
    world.now = ends - left_ms
    world.restart(down_ms=0, draw_ppm=999_999)
    armed = world.snapshot.armed_as("attempt")
    assert armed.delay_ms == bound_ms * 999_999 // 1_000_000


def test_what_is_due_this_very_instant_is_overdue():
    world = expiring()
    world.now = world.snapshot.armed_as("attempt").at_unix_ms
    world.restart(down_ms=0, draw_ppm=500_000)
    assert world.snapshot.armed_as("attempt").delay_ms == 15 * MINUTE // 2


# --- what the cloud says of our clock ----------------------------------------------------------------


def told(clock, ahead_ms):
    """What is believed after an answer whose Date is so much ahead of our clock."""
    world = registering(Phase.SUBMITTING)
    world.snapshot = structs.replace(world.snapshot, clock=clock)
    world.answer(SubmitRegistration, after_ms=0, server_date_unix_ms=world.now + ahead_ms)
    return world.snapshot.clock


def test_a_clock_that_is_nearly_right_has_its_latest_offset():
    """It moves no deadline, and tokens are stamped by it."""
    clock = told(ClockTrust(trusted=True, offset_ms=2 * MINUTE, measured=True), 3 * MINUTE)
    assert (clock.trusted, clock.offset_ms) == (True, 3 * MINUTE)


@pytest.mark.parametrize(
    ("before", "ahead_ms", "offset_ms"),
    [
        (BEHIND, 100 * DAY + 5 * MINUTE, 100 * DAY),
        (BEHIND, 100 * DAY - 5 * MINUTE, 100 * DAY),
        (BEHIND, 100 * DAY + 5 * MINUTE + 1, 100 * DAY + 5 * MINUTE + 1),
        (BEHIND, 50 * DAY, 50 * DAY),
        (structs.replace(BEHIND, measured=False), 100 * DAY + MINUTE, 100 * DAY + MINUTE),
    ],
)
def test_an_offset_stays_while_it_is_measured_much_the_same(before, ahead_ms, offset_ms):
    """A lower bound was not measured, however near it comes."""
    clock = told(before, ahead_ms)
    assert (clock.trusted, clock.measured, clock.offset_ms) == (False, True, offset_ms)


# --- what a start, and a look, say of our clock ------------------------------------------------------


def restarted(clock, moved_ms):
    """The clock after a start that nobody confirms; meanwhile it has moved so far."""
    world = provisioned()
    world.snapshot = structs.replace(world.snapshot, clock=clock)
    world.restart(down_ms=moved_ms, kernel_synchronised=False)
    return world.now, world.snapshot.clock


def test_a_clock_known_to_be_wrong_is_measured_with_what_is_known():
    """By itself it is earlier than what has passed; corrected it is not, and stays measured."""
    floor = T0 + 99 * DAY
    _, clock = restarted(structs.replace(BEHIND, floor_unix_ms=floor), HOUR)
    assert (clock.measured, clock.offset_ms) == (True, BEHIND.offset_ms)


@pytest.mark.parametrize("moved_ms", [-DAY - HOUR, DAY + HOUR])
def test_a_clock_that_moved_by_more_than_a_day_while_down_is_in_doubt(moved_ms):
    """Either way. Nothing says how wrong it is, so nothing is corrected."""
    floor = T0 - 100 * DAY
    before = ClockTrust(trusted=True, floor_unix_ms=floor, offset_ms=MINUTE, measured=True)
    _, clock = restarted(before, moved_ms)
    assert (clock.trusted, clock.measured, clock.offset_ms) == (False, False, 0)
    assert "moved by more than a day" in clock.reason


def test_a_clock_that_moved_behind_what_has_passed_is_at_least_there():
    now, clock = restarted(ClockTrust(trusted=True, floor_unix_ms=T0), -40 * DAY)
    assert clock.offset_ms == T0 - now


@pytest.mark.parametrize("jump_ms", [HOUR, -HOUR, DAY])
def test_a_jump_of_a_clock_known_to_be_wrong_is_taken_off_what_is_known(jump_ms):
    """True time did not jump."""
    world = provisioned()
    world.snapshot = structs.replace(world.snapshot, clock=BEHIND)
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=jump_ms), after_ms=jump_ms)
    assert world.snapshot.clock.offset_ms == BEHIND.offset_ms - jump_ms
    assert world.snapshot.clock.measured


def looked_at(clock, jump_ms):
    """The clock after a jump that nobody confirms."""
    world = provisioned()
    world.snapshot = structs.replace(world.snapshot, clock=clock)
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=jump_ms), after_ms=jump_ms)
    return world.now, world.snapshot.clock


@pytest.mark.parametrize("jump_ms", [2 * DAY, -2 * DAY])
def test_an_unconfirmed_jump_of_days_is_taken_back(jump_ms):
    """Either way; what the offset was while the clock was believed does not count."""
    clock = ClockTrust(trusted=True, floor_unix_ms=T0 - 100 * DAY, offset_ms=MINUTE)
    _, after = looked_at(clock, jump_ms)
    assert (after.trusted, after.offset_ms) == (False, -jump_ms)
    assert after.reason == "jumped by more than a day"


def test_the_floor_itself_is_not_before_the_floor():
    now = provisioned().now
    _, after = looked_at(ClockTrust(trusted=True, floor_unix_ms=now), 0)
    assert after.trusted
    _, after = looked_at(ClockTrust(trusted=True, floor_unix_ms=now + 2 * DAY), 2 * DAY)
    assert after.reason == "jumped by more than a day"


def test_a_look_at_a_clock_behind_the_floor_says_so_and_forgets_no_measure():
    floor = T0 + 90 * DAY
    now, after = looked_at(structs.replace(BEHIND, floor_unix_ms=floor), -HOUR)
    assert after.reason == "is earlier than an instant known to have passed"
    assert (after.measured, after.offset_ms) == (True, BEHIND.offset_ms + HOUR)
    now, after = looked_at(ClockTrust(trusted=True, floor_unix_ms=floor), 0)
    assert (after.measured, after.offset_ms) == (False, floor - now)


# --- the rest of a start -----------------------------------------------------------------------------


def test_a_start_brings_the_rules_it_was_made_with():
    world = World()
    world.take(started(rules_revision=7))
    assert world.snapshot.rules_revision == 7


def test_without_a_credential_no_hub_is_asked_for_the_time():
    world = World()
    world.take(started(kernel_synchronised=False, build_unix_ms=T0 + DAY))
    assert not world.snapshot.clock.trusted
    assert world.snapshot.armed_as("prove") is None


def test_without_a_source_no_hub_is_asked_for_the_time():
    world = provisioned()
    world.now -= 400 * DAY
    decision = world.restart(policy=NO_DPS, fingerprint="", kernel_synchronised=False)
    assert not world.snapshot.clock.trusted
    assert "arm prove" not in wishes(decision)


def test_the_hub_is_asked_for_the_time_once():
    world = provisioned()
    world.now -= 400 * DAY
    assert wishes(world.restart(kernel_synchronised=False)).count("arm prove") == 1


def test_what_the_stores_lost_leaves_no_slack():
    """What is overdue after that has nothing left to wait for."""
    world = waiting()
    world.store.lose()
    world.now = world.snapshot.armed_as("attempt").at_unix_ms
    world.restart(draw_ppm=999_999)
    assert world.snapshot.credential is None
    assert world.snapshot.armed_as("attempt").delay_ms == 0


def test_another_generation_than_the_candidates_is_believed():
    """Neither the one in use nor the one that was being committed: the stores win."""
    world = renewing(Phase.COMMITTING)
    world.restart(inventory=holding(stored(generation=9)))
    assert world.snapshot.credential.generation == 9


def test_assignment_and_bundle_go_with_the_credential():
    world = provisioned()
    assert world.snapshot.bundle is not None
    world.store.lose()
    world.restart()
    assert (world.snapshot.credential, world.snapshot.assignment, world.snapshot.bundle) == (None, None, None)


def test_everything_the_stores_say_of_a_credential_is_taken_over():
    world = World()
    current = stored(
        generation=3,
        substatus="initialAssignment",
        certificate_type="issued",
        bundle_id="bundle-1",
        bundle_certificates=2,
        bundle_sha256="b2",
    )
    world.take(started(inventory=holding(current), draw_ppm=123_456))
    assert world.snapshot.assignment == Assignment(
        hub=current.hub,
        device_id=current.device_id,
        fingerprint=current.fingerprint,
        since_unix_ms=T0,
        substatus="initialAssignment",
        certificate_type="issued",
    )
    assert world.snapshot.credential == Credential(
        generation=3,
        source="issued",
        sha256=current.sha256,
        serial=current.serial,
        spki_sha256=current.spki_sha256,
        not_before_unix_ms=current.not_before_unix_ms,
        not_after_unix_ms=current.not_after_unix_ms,
        proven=True,
        committed_unix_ms=T0,
        draw_ppm=123_456,
    )
    assert world.snapshot.bundle == Bundle(id="bundle-1", certificates=2, sha256="b2")


# --- configuration and refusals ----------------------------------------------------------------------


@pytest.mark.parametrize(("fingerprint", "failures"), [("f1", 1), ("f2", 0)])
def test_another_configuration_counts_failures_afresh(fingerprint, failures):
    world = unprovisioned()
    assert world.snapshot.failures == 1
    world.take(HoldRequested(hold=True, uid=0))
    world.take(ConfigurationChanged(policy=POLICY, fingerprint=fingerprint))
    assert world.snapshot.failures == failures


@pytest.mark.parametrize(("fields", "count"), [({}, 1), ({"refused": False}, 0), ({"generation": 7}, 0)])
def test_without_a_clock_a_refused_proof_of_what_is_in_use_is_counted(fields, count):
    world = unproven()
    world.snapshot = structs.replace(world.snapshot, clock=ClockTrust(trusted=False))
    world.fire("prove")
    world.deny(ProveCredential, **{"refused": True, **fields})
    assert world.snapshot.refusals.count == count


def test_with_a_clock_a_refused_proof_has_rows_of_its_own():
    world = unproven()
    world.fire("prove")
    world.deny(ProveCredential, refused=True)
    assert world.snapshot.refusals.count == 0


def test_a_loss_takes_assignment_and_bundle_along():
    world = provisioned()
    assert world.snapshot.bundle is not None
    world.take(CredentialLost(generation=world.snapshot.credential.generation, reason="gone"))
    assert (world.snapshot.credential, world.snapshot.assignment, world.snapshot.bundle) == (None, None, None)


def test_a_change_of_rules_is_remembered():
    world = provisioned()
    world.take(RulesChanged(before=RULES_REVISION, after=99))
    assert world.snapshot.rules_revision == 99


# --- since revision 2: steps that add up, bounds that are none, and what is tried again --------------

LOW = T0 - 100 * DAY
"A floor that nothing here comes near."


@pytest.mark.parametrize(
    ("before", "jump_ms", "after"),
    [
        # Steps of a clock that is believed add up, until they are as far as one that is not.
        (
            ClockTrust(trusted=True, floor_unix_ms=LOW, moved_ms=HOUR),
            HOUR,
            {"trusted": True, "moved_ms": 2 * HOUR},
        ),
        (
            ClockTrust(trusted=True, floor_unix_ms=LOW, moved_ms=20 * HOUR),
            4 * HOUR,
            {"trusted": True, "moved_ms": DAY},
        ),
        (
            ClockTrust(trusted=True, floor_unix_ms=LOW, moved_ms=20 * HOUR),
            5 * HOUR,
            {"trusted": False, "offset_ms": -25 * HOUR, "moved_ms": 0, "at_least": False},
        ),
        # Steps from before it was in doubt were counted when it came into doubt.
        (
            structs.replace(BEHIND, floor_unix_ms=LOW, moved_ms=5 * HOUR),
            HOUR,
            {"offset_ms": 100 * DAY - HOUR, "moved_ms": 0, "at_least": False},
        ),
        # A bound stays one while nobody sets the clock, and is forgotten when somebody does.
        (
            ClockTrust(offset_ms=10 * DAY, floor_unix_ms=LOW, at_least=True),
            0,
            {"offset_ms": 10 * DAY, "at_least": True},
        ),
        (
            ClockTrust(offset_ms=10 * DAY, floor_unix_ms=LOW, at_least=True),
            2 * HOUR,
            {"offset_ms": 0, "at_least": False},
        ),
    ],
)
def test_what_a_look_makes_of_a_clock(before, jump_ms, after):
    _, clock = looked_at(before, jump_ms)
    assert {name: getattr(clock, name) for name in after} == after


@pytest.mark.parametrize(
    ("offset_ms", "ahead_ms", "at_least"),
    [(10 * DAY, 10 * DAY, False), (10 * DAY, 10 * DAY + 1, True), (0, HOUR, True)],
)
def test_what_is_known_yields_to_an_instant_that_has_passed(offset_ms, ahead_ms, at_least):
    """Then only a bound is known: how far the floor is ahead of our clock."""
    now = provisioned().now
    before = ClockTrust(offset_ms=offset_ms, floor_unix_ms=now + ahead_ms)
    _, clock = looked_at(before, 0)
    assert (clock.offset_ms, clock.at_least) == (max(offset_ms, ahead_ms), at_least)


def test_a_bound_moves_with_a_clock_that_was_set_below_it():
    now = provisioned().now
    before = ClockTrust(offset_ms=DAY, floor_unix_ms=now + DAY, at_least=True)
    _, clock = looked_at(before, 2 * HOUR)
    assert (clock.offset_ms, clock.at_least) == (DAY - 2 * HOUR, True)


def test_before_revision_2_each_step_was_looked_at_alone():
    world = provisioned()
    before = ClockTrust(trusted=True, floor_unix_ms=LOW, moved_ms=20 * HOUR)
    world.snapshot = structs.replace(world.snapshot, rules_revision=1, clock=before)
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=HOUR), after_ms=HOUR)
    assert world.snapshot.clock == before
    world.snapshot = structs.replace(
        world.snapshot, clock=ClockTrust(floor_unix_ms=world.now + DAY, at_least=True)
    )
    world.take(ClockObserved(kernel_synchronised=False))
    assert not world.snapshot.clock.at_least


@pytest.mark.parametrize("moved_ms", [-2 * DAY, -HOUR])
@pytest.mark.parametrize("revision", [1, 2])
def test_a_start_knows_a_bound_and_since_revision_2_that_it_is_one(moved_ms, revision):
    world = provisioned()
    floor = world.now + 10 * DAY
    world.snapshot = structs.replace(
        world.snapshot, clock=ClockTrust(trusted=True, floor_unix_ms=floor, moved_ms=HOUR)
    )
    world.restart(down_ms=moved_ms, kernel_synchronised=False, rules_revision=revision)
    clock = world.snapshot.clock
    assert (clock.trusted, clock.offset_ms, clock.moved_ms) == (False, floor - world.now, 0)
    assert clock.at_least is (revision >= 2)


HALF = 500_000
SOON = policy.CLOCK_TURNED_MS // 2
"What half of the draws makes of it."


def set_right(world, **fields):
    """The clock turns out to be two hours off, and somebody who knows sets it."""
    world.take(
        ClockObserved(**{"kernel_synchronised": True, "jump_ms": 2 * HOUR, "draw_ppm": HALF, **fields}),
        after_ms=2 * HOUR,
    )
    return world


def waits(world, name, delay_ms):
    """The same place, with this wait."""
    others = tuple(one for one in world.snapshot.armed if one.name != name)
    armed = Armed(name=name, at_unix_ms=world.now + delay_ms, delay_ms=delay_ms)
    world.snapshot = structs.replace(world.snapshot, armed=(*others, armed))
    return world


@pytest.mark.parametrize(
    ("failure_class", "wait_ms", "left_ms"),
    [
        ("clock", HOUR, SOON),
        ("clock", SOON + 1, SOON),
        ("clock", SOON, SOON),
        ("clock", SOON - 1, SOON - 1),
        ("retry", HOUR, HOUR),
    ],
)
def test_what_a_wrong_clock_made_fail_is_tried_again_soon(failure_class, wait_ms, left_ms):
    world = waits(unprovisioned(failure_class=failure_class), "attempt", wait_ms)
    set_right(world)
    assert world.snapshot.armed_as("attempt").at_unix_ms - world.now == left_ms


def test_so_it_is_within_an_attempt():
    world = registering(Phase.PROVING)
    world.take(refusal(world.pending(ProveCredential), refused=True, failure_class="clock"))
    waits(world, "phase", HOUR)
    set_right(world)
    assert world.snapshot.armed_as("phase").delay_ms == SOON


def test_an_attempt_does_not_answer_for_the_one_before():
    """That one failed by the clock; this one waits for its poll."""
    world = unprovisioned(failure_class="clock")
    world.fire("attempt")
    world.until(Phase.POLLING)
    waits(world, "phase", HOUR)
    set_right(world)
    assert world.snapshot.armed_as("phase").delay_ms == HOUR


@pytest.mark.parametrize("kernel_synchronised", [True, False])
@pytest.mark.parametrize("armed_ms", [None, HOUR, MINUTE // 10])
def test_a_clock_that_was_set_is_looked_up_soon_where_nobody_knows_it(kernel_synchronised, armed_ms):
    world = provisioned()
    world.snapshot = structs.replace(world.snapshot, clock=ClockTrust(floor_unix_ms=LOW))
    if armed_ms is not None:
        waits(world, "prove", armed_ms)
    set_right(world, kernel_synchronised=kernel_synchronised)
    left = world.snapshot.armed_as("prove")
    if kernel_synchronised:
        assert (None if left is None else left.at_unix_ms - world.now) == armed_ms
    else:
        true_time = world.now + world.snapshot.clock.correction_ms
        assert left.at_unix_ms - true_time == min(SOON, armed_ms or SOON)


def test_nobody_is_asked_without_a_credential_or_a_source():
    world = waits(unprovisioned(), "attempt", HOUR)
    world.snapshot = structs.replace(world.snapshot, clock=ClockTrust(floor_unix_ms=LOW))
    set_right(world, kernel_synchronised=False)
    assert world.snapshot.armed_as("prove") is None
    world = provisioned()
    world.take(configured(NO_DPS))
    world.snapshot = structs.replace(world.snapshot, clock=ClockTrust(floor_unix_ms=LOW))
    set_right(world, kernel_synchronised=False)
    assert world.snapshot.armed_as("prove") is None


def test_before_revision_2_nothing_was_tried_sooner():
    world = waits(unprovisioned(failure_class="clock"), "attempt", HOUR)
    world.snapshot = structs.replace(world.snapshot, rules_revision=1)
    set_right(world)
    assert world.snapshot.armed_as("attempt").delay_ms == HOUR


def test_a_change_of_rules_has_no_stamp_of_its_own():
    """The start that brought it compares its stamp with the last one of the run before."""
    world = provisioned()
    before = world.snapshot.last_unix_ms
    world.take(RulesChanged(before=1, after=RULES_REVISION), after_ms=3 * DAY)
    assert world.snapshot.last_unix_ms == before


def test_a_clock_that_goes_back_moves_nothing_that_is_past_all_the_same():
    world = renewing(Phase.PROVING)
    credential, candidate = world.snapshot.credential, world.snapshot.candidate
    world.now += DAY
    world.take(ClockObserved(kernel_synchronised=True))
    world.take(ClockObserved(kernel_synchronised=True, jump_ms=-HOUR), after_ms=-HOUR)
    assert world.snapshot.credential == credential
    assert world.snapshot.candidate == candidate


def test_a_date_that_shows_how_wrong_our_clock_is_arms_every_deadline_by_it():
    """In the very step that takes it: what our clock put off for a hundred days may be due tomorrow."""
    world = unproven()
    world.fire("prove")
    armed = {one.name: one.at_unix_ms for one in world.snapshot.armed if one.delay_ms is None}
    assert set(armed) == {"window", "expiry"}
    decision = world.answer(ProveCredential, after_ms=0, server_date_unix_ms=world.now + 30 * DAY)
    assert world.snapshot.clock.correction_ms == 30 * DAY
    for name, at in armed.items():
        assert ArmDeadline(name=name, at_unix_ms=at - 30 * DAY) in decision.effects
