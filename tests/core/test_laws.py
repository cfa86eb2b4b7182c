"""Laws over random walks. A seed is the whole bug report; every find becomes a case of its own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.effects import PurgeCredentials
from statemachine.events import (
    ClockObserved,
    CredentialLost,
    HoldRequested,
    ReprovisionRequested,
)
from statemachine.explain import status_of
from statemachine.machine import step
from statemachine.states import State
from tests.core.laws import broken
from tests.core.walks import seeded, walk
from tests.core.world import DAY, NO_DPS, POLICY, configured, provisioned

LENGTH = 100
BULK = 300

QUIET = settings(deadline=None, derandomize=True, max_examples=60, database=None)


@pytest.mark.parametrize("first", range(0, BULK, 100))
def test_every_law_holds_after_every_step(first):
    for seed in range(first, first + 100):
        assert broken(seeded(seed, LENGTH).history) == [], f"seed {seed}"


@QUIET
@given(chance=st.randoms(use_true_random=False), losses=st.booleans())
def test_every_law_holds_however_the_chance_falls(chance, losses):
    assert broken(walk(chance, 40, losses=losses).history) == []


@pytest.mark.parametrize("first", range(0, BULK, 100))
def test_once_issued_a_usable_pair_is_always_current(first):
    """Whatever is killed, lost or refused: unless somebody damages the store, a matching pair is current."""

    def watch(world):
        if world.store.ever_issued:
            assert world.store.usable(), (seed, world.history[-1])

    for seed in range(first, first + 100):
        seeded(seed, LENGTH, losses=False, watch=watch)


@pytest.mark.parametrize("first", range(0, BULK, 100))
def test_snapshot_and_store_agree_on_what_is_current(first):
    """Unless no source was left in the configuration under a running commit, or a kill came in between."""

    def watch(world):
        snapshot = world.snapshot
        credential = snapshot.credential
        ever_none = any(decision.snapshot.policy == NO_DPS for _, _, decision in world.history)
        if credential is not None and snapshot.candidate is None and not ever_none:
            assert world.store.current == credential.generation, (seed, world.history[-1])

    for seed in range(first, first + 100):
        seeded(seed, 60, losses=False, watch=watch)


@QUIET
@given(seed=st.integers(0, 2**32), drift=st.integers(-(10**15), 10**15))
def test_a_step_is_a_function_of_its_arguments(seed, drift):
    world = seeded(seed, 30)
    now, event, _ = world.history[-1]
    before = world.history[-2][2].snapshot
    assert step(before, event, now + drift) == step(before, event, now + drift)


@pytest.mark.parametrize("seed", range(40))
def test_nothing_in_the_snapshot_grows_without_bound(seed):
    largest = seeded(seed, 600).snapshot
    assert len(largest.armed) <= 8
    assert len(largest.outstanding) <= 4
    assert len(largest.degraded) <= 2


# --- home from anywhere ------------------------------------------------------------------------------


def friendly(world, until, limit=400):
    """From here on every answer is good, every deadline fires, and the clock is right."""
    for _ in range(limit):
        if until(world):
            return
        if world.snapshot.outstanding:
            world.take(world.perform(world.snapshot.outstanding[0]), after_ms=10)
        else:
            world.fire(min(world.snapshot.armed, key=lambda one: one.at_unix_ms).name)
    raise AssertionError(f"does not come home: {world.position}, {world.snapshot.armed}")


def at_home(world):
    snapshot = world.snapshot
    if not (snapshot.state is State.PROVISIONED and world.store.usable()):
        return False
    held = world.store.committed[world.store.current]
    valid = held.not_after_unix_ms > world.now
    if snapshot.policy.manual is not None:
        valid = held.source == "configured" and held.hub == snapshot.policy.manual.hub
    return valid and snapshot.assignment.fingerprint == held.fingerprint == snapshot.fingerprint


@pytest.mark.parametrize("first", range(0, BULK, 100))
def test_from_anywhere_a_friendly_world_leads_home(first):
    """Whatever happened: without a restart, and without anybody's help unless help is asked for."""
    for seed in range(first, first + 100):
        world = seeded(seed, LENGTH)
        snapshot = world.snapshot
        world.take(ClockObserved(kernel_synchronised=True))
        if snapshot.purge is not None:
            if not world.asks(PurgeCredentials):
                world.fire("collect")
            world.answer(PurgeCredentials)
        if snapshot.hold:
            world.take(HoldRequested(hold=False, uid=0))
        if snapshot.policy == NO_DPS:
            world.take(configured(POLICY))
        if snapshot.foreign_machine:
            assert status_of(world.snapshot, world.now).stuck or world.snapshot.policy.manual is not None
            world.take(ReprovisionRequested(uid=0))
        credential = world.store.committed.get(world.store.current)
        if snapshot.credential is not None and credential is None:
            world.take(CredentialLost(generation=snapshot.credential.generation, reason="gone"))
        try:
            friendly(world, at_home)
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc


def test_ten_years_in_a_friendly_world():
    """Some sixty renewals; a valid certificate at every single step."""
    world = provisioned()
    ends = world.now + 3650 * DAY
    valid = []

    def until(world):
        valid.append(world.store.committed[world.store.current].not_after_unix_ms > world.now)
        return world.now >= ends

    friendly(world, until, limit=2_000)
    assert all(valid)
    assert 50 < world.snapshot.credential.generation < 60
    assert len(world.store.keys) <= 2
