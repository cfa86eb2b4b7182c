"""A run of records in figures."""

from msgspec import structs

from statemachine.effects import SubmitRegistration
from statemachine.life import Life, life_of
from tests.core.world import DAY, SECOND, T0, Phase, provisioned, record_of, registering


def life(world, *, until_unix_ms=None, skip=0):
    records = [record_of(*one) for one in world.history][skip:]
    before = world.history[skip - 1][2].snapshot if skip else None
    return life_of(
        records,
        state="Unprovisioned" if before is None else before.state.value,
        phase="Idle" if before is None else before.phase.value,
        from_unix_ms=T0 if before is None else before.last_unix_ms,
        until_unix_ms=world.now if until_unix_ms is None else until_unix_ms,
    )


def test_a_registration():
    world = provisioned()
    found = life(world, until_unix_ms=world.now + DAY)
    assert found == Life(
        records=len(world.history),
        starts=1,
        state="Provisioned",
        phase="Idle",
        state_ms={"Provisioned": DAY, "Registering": world.now - T0},
        attempts_unix_ms=(T0,),
        registrations=1,
        polls=1,
        failures={},
        committed=(1,),
    )


def test_failures_are_counted_by_code():
    world = registering(Phase.SUBMITTING)
    for _ in range(2):
        world.deny(SubmitRegistration, code="unreachable")
        world.fire("attempt")
    world.deny(SubmitRegistration, code="dps-503")
    found = life(world)
    assert found.failures == {"dps-503": 1, "unreachable": 2}
    assert len(found.attempts_unix_ms) == found.registrations == 3
    assert found.committed == ()


def test_an_attempt_that_was_under_way_before_is_none_of_these():
    world = registering(Phase.SUBMITTING)
    skip = len(world.history)
    world.settle()
    found = life(world, skip=skip)
    assert found.attempts_unix_ms == ()
    assert (found.starts, found.committed) == (0, (1,))


def test_a_clock_set_back_counts_as_no_time():
    world = provisioned()
    records = [record_of(*one) for one in world.history]
    back = structs.replace(records[-1], now_unix_ms=T0 - DAY)
    found = life_of(
        [*records, back],
        state="Unprovisioned",
        phase="Idle",
        from_unix_ms=T0,
        until_unix_ms=T0 - DAY + SECOND,
    )
    assert found.state_ms == {"Provisioned": SECOND, "Registering": world.now - T0}


def test_nothing_happened():
    found = life_of([], state="Provisioned", phase="Idle", from_unix_ms=T0, until_unix_ms=T0 + DAY)
    assert (found.state, found.phase, found.state_ms) == ("Provisioned", "Idle", {"Provisioned": DAY})
    assert found.attempts_unix_ms == ()
