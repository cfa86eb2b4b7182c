"""Module keys that the hub does not know any more: said, never mended unasked, and nobody else's business."""

import pytest
from msgspec import structs

from statemachine.effects import PushModuleKeys
from statemachine.events import (
    ModuleKeysLost,
    ModuleKeysPushed,
    ModuleKeysRequested,
    ShutdownRequested,
)
from statemachine.explain import status_of, story
from statemachine.snapshot import Snapshot
from statemachine.states import ATTEMPT_STATES, Phase, State
from tests.core.world import (
    DAY,
    HOUR,
    NO_DPS,
    certless,
    configured,
    expiring,
    fresh,
    manual,
    provisioned,
    registering,
    renewing,
    reprovisioning,
    unproven,
    waiting,
    wishes,
)

LOST = ModuleKeysLost(reason="aziot_identityd_master_id is not there")
PUSH = ModuleKeysRequested(uid=0)
RUNNING = [phase for phase in Phase if phase is not Phase.IDLE]
SERVING = [provisioned, expiring, certless, unproven, waiting, manual]
ATTEMPTING = [(place, phase) for place in (renewing, reprovisioning) for phase in RUNNING]


def status(world):
    return status_of(world.snapshot, world.now)


def life(world):
    """All but what is known of module keys, and the bookkeeping of the events that told it."""
    return structs.replace(
        world.snapshot,
        sequence=0,
        last_unix_ms=0,
        module_keys_lost=None,
        module_keys_problem=None,
        outstanding=tuple(
            one for one in world.snapshot.outstanding if not isinstance(one.effect, PushModuleKeys)
        ),
    )


# --- lost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [*SERVING, fresh])
def test_a_loss_is_said_at_rest_and_changes_nothing_else(place):
    world = place()
    before = life(world)
    assert not status(world).stuck
    decision = world.take(LOST)
    assert (decision.effects, life(world)) == ((), before)
    found = status(world)
    assert found.stuck
    assert "aziot_identityd_master_id is not there" in found.reason
    assert "`identityd module-keys push`" in found.reason
    assert found.reason.endswith("put back from a backup.")


@pytest.mark.parametrize("phase", RUNNING)
@pytest.mark.parametrize("place", [registering, renewing, reprovisioning])
def test_and_in_every_phase_of_an_attempt(place, phase):
    world = place(phase)
    before = life(world)
    world.take(LOST)
    assert life(world) == before
    assert status(world).stuck
    world.settle()
    assert world.snapshot.state is State.PROVISIONED
    assert status(world).stuck


def test_what_else_needs_help_is_said_first():
    world = registering(Phase.SUBMITTING)
    world.take(LOST)
    world.deny(type(world.snapshot.outstanding[0].effect), failure_class="operator", code="dps-401")
    reason = status(world).reason
    assert reason.startswith("The latest attempt failed and needs somebody's help: dps-401")
    assert "`identityd module-keys push`" in reason


def test_it_is_still_so_after_a_restart_and_without_a_source():
    world = provisioned()
    world.take(LOST)
    world.restart()
    assert status(world).stuck
    world.take(configured(NO_DPS))
    assert status(world).stuck


def test_the_latest_reason_is_told():
    world = provisioned()
    world.take(LOST)
    world.take(ModuleKeysLost(reason="cannot be read"))
    assert world.snapshot.module_keys_lost == "cannot be read"


def test_life_goes_on_while_they_are_lost():
    world = provisioned()
    world.take(LOST)
    world.fire("window")
    world.fire("attempt")
    world.settle()
    assert world.snapshot.credential.generation == 2
    assert world.snapshot.module_keys_lost is not None


# --- pushed ------------------------------------------------------------------------------------------


def asked_to_push(world):
    before = life(world)
    decision = world.take(PUSH)
    assert (decision.verdict, wishes(decision), life(world)) == ("taken", ["push"], before)
    return before


@pytest.mark.parametrize("place", SERVING)
def test_a_push_at_rest(place):
    world = place()
    world.take(LOST)
    before = asked_to_push(world)
    assert status(world).stuck, "not before the hub has them"
    assert status(world).reason.endswith("put back from a backup. A push is under way.")
    decision = world.answer(PushModuleKeys)
    assert (decision.verdict, decision.effects, life(world)) == ("taken", (), before)
    assert not status(world).stuck


@pytest.mark.parametrize(("place", "phase"), ATTEMPTING)
def test_a_push_in_every_phase_of_an_attempt(place, phase):
    world = place(phase)
    world.take(LOST)
    before = asked_to_push(world)
    world.answer(PushModuleKeys)
    assert life(world) == before
    assert not status(world).stuck
    world.settle()
    assert world.snapshot.state is State.PROVISIONED


@pytest.mark.parametrize(("place", "phase"), ATTEMPTING)
def test_an_attempt_that_ends_meanwhile_forgets_no_push(place, phase):
    world = place(phase)
    world.take(PUSH)
    push = world.pending(PushModuleKeys)
    while world.snapshot.phase is not Phase.IDLE:
        others = [one for one in world.snapshot.outstanding if one != push]
        if others:
            world.take(world.perform(others[0]), after_ms=10)
        else:
            world.fire("phase")
    assert world.pending(PushModuleKeys) == push
    world.take(LOST)
    assert world.answer(PushModuleKeys).verdict == "taken"
    assert world.snapshot.module_keys_lost is None


@pytest.mark.parametrize("down_ms", [0, DAY])
def test_a_push_is_outstanding_over_a_restart(down_ms):
    """The runtime performs it again under its id; the same keys are pushed, which harms nobody."""
    world = provisioned()
    world.take(PUSH)
    push = world.pending(PushModuleKeys)
    world.take(ShutdownRequested())
    world.restart(down_ms=down_ms)
    assert world.pending(PushModuleKeys) == push
    assert world.answer(PushModuleKeys).verdict == "taken"


def test_keys_that_are_not_lost_can_be_pushed_too():
    world = provisioned()
    asked_to_push(world)
    world.answer(PushModuleKeys)
    assert not status(world).stuck
    assert status(world).degraded == ()


@pytest.mark.parametrize("lost", [True, False])
def test_a_push_that_fails_is_told_and_not_repeated(lost):
    world = provisioned()
    if lost:
        world.take(LOST)
    world.take(PUSH)
    before = life(world)
    decision = world.deny(
        PushModuleKeys, code="hub-429", message="slow down", tracking_id="id-1", retry_after_ms=HOUR
    )
    assert (decision.effects, life(world)) == ((), before)
    found = status(world)
    assert found.stuck is lost
    (note,) = found.degraded
    assert note.startswith("module keys were not pushed to the hub: hub-429: slow down (tracking id id-1)")
    assert any(note in line for line in story(found))
    world.take(PUSH)
    assert status(world).degraded == (), "what comes of this one is not known yet"
    world.deny(PushModuleKeys, code="unreachable", message="nobody answered")
    assert "unreachable: nobody answered; `identityd" in status(world).degraded[0]
    world.take(PUSH)
    world.answer(PushModuleKeys)
    assert (status(world).stuck, status(world).degraded) == (False, ())


def test_a_second_request_joins_the_first():
    world = provisioned()
    world.take(PUSH)
    decision = world.take(PUSH)
    assert (decision.verdict, decision.effects) == ("taken", ())
    world.answer(PushModuleKeys)
    assert wishes(world.take(PUSH)) == ["push"]


def test_an_answer_that_nobody_waits_for_clears_nothing():
    world = provisioned()
    world.take(LOST)
    decision = world.take(ModuleKeysPushed(answers="9.9.9", modules=2))
    assert decision.verdict == "ignored"
    assert world.snapshot.module_keys_lost is not None


# --- refused -----------------------------------------------------------------------------------------


def left_without_source():
    world = provisioned()
    world.take(configured(NO_DPS))
    return world


def expired():
    world = provisioned()
    world.fire("window")
    world.fire("expiry")
    assert world.snapshot.state in ATTEMPT_STATES
    return world


def stopping():
    world = provisioned()
    world.take(ShutdownRequested())
    return world


@pytest.mark.parametrize("place", [fresh, left_without_source, expired, stopping])
def test_refused_where_no_hub_would_take_them(place):
    world = place()
    world.take(LOST)
    before = life(world)
    decision = world.take(PUSH)
    assert (decision.verdict, decision.effects, life(world)) == ("refused", (), before)
    assert world.snapshot.module_keys_lost is not None


def test_an_old_snapshot_knows_nothing_of_them():
    assert (Snapshot().module_keys_lost, Snapshot().module_keys_problem) == (None, None)
