"""The runtime over a device's life: restarts, shutdown, a history that cannot be opened, rotation, years."""

import math
import random
from itertools import pairwise

import pytest
import trio

from adapters.errors import StoreUnavailable
from adapters.fakes.peer import no
from statemachine.effects import (
    Asking,
    PollRegistration,
    SubmitRegistration,
)
from statemachine.events import (
    RenewRequested,
    ReprovisionRequested,
    RulesChanged,
    ShutdownRequested,
    Started,
)
from statemachine.journal import read
from statemachine.states import Phase, State
from tests.adapters.simulated import (
    DAY,
    HOUR,
    OBSERVED,
    RENEW,
    SECOND,
    T0,
    Simulated,
    at,
    live,
    rests_in,
    simulate,
    stopped,
    until,
    until_provisioned,
)

pytestmark = pytest.mark.usefixtures("quiet")


# --- restarts ----------------------------------------------------------------------------------------

PHASES = [phase for phase in Phase if phase is not Phase.IDLE]


@pytest.mark.parametrize("phase", PHASES)
def test_what_was_asked_and_not_answered_is_asked_again_under_its_id(phase):
    device = Simulated(pending=0)
    for peer in (device.store, device.registrar, device.hub):
        peer.latency_s = 1

    async def scenario():
        async with device.running() as runtime:
            await until(runtime, at(State.REGISTERING, phase))
            await trio.sleep(0.5)
            outstanding = runtime.snapshot.outstanding
        async with device.running() as runtime:
            await until_provisioned(runtime)
        return outstanding

    outstanding = simulate(scenario)
    assert [one.id for one in outstanding] == [device.asked_for(type(outstanding[0].effect))[0].effect_id]
    asked = [(one.effect_id, one.effect) for one in device.asked_for(Asking)]
    twice = (outstanding[0].id, outstanding[0].effect)
    assert asked.count(twice) == 2
    assert len(asked) == len({effect_id for effect_id, _ in asked}) + 1
    assert len(device.store.flips) == 1
    assert sum(isinstance(one.event, Started) for one in device.records) == 2
    assert device.replay().equal


def test_what_the_start_made_pointless_is_not_asked_again():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            device.registrar.latency_s = 0
            await until(runtime, at(State.REGISTERING, Phase.POLLING))
            device.registrar.latency_s = math.inf
            await trio.sleep(1)
        device.registrar.latency_s = 0
        await trio.sleep(660)
        async with device.running() as runtime:
            await until_provisioned(runtime)

    simulate(scenario)
    # An operation older than ten minutes is submitted again instead of polled for.
    polled = [one.effect_id for one in device.asked_for(PollRegistration)]
    assert len(set(polled)) == len(polled) == 3
    assert len(device.asked_for(SubmitRegistration)) == 2
    assert device.replay().equal


def test_a_deadline_is_armed_again_and_not_moved():
    def renewed_at(kill):
        device = Simulated()

        async def scenario():
            async with device.running() as runtime:
                await until_provisioned(runtime)
                if not kill:
                    await until(runtime, at(State.RENEWING, Phase.STAGING))
                    return
            await trio.sleep(70 * 86_400)
            async with device.running() as runtime:
                await until(runtime, at(State.RENEWING, Phase.STAGING))

        simulate(scenario)
        return device.records[-1].now_unix_ms

    assert renewed_at(kill=True) == renewed_at(kill=False) > T0 + 70 * DAY


def test_a_delay_keeps_what_is_left_of_it():
    device = Simulated()
    device.registrar.then(no("dps-429", retry_after_ms=600 * SECOND))

    async def scenario():
        async with device.running() as runtime:
            await until(runtime, rests_in(State.UNPROVISIONED))
            failed = trio.current_time()
            await trio.sleep(200)
        async with device.running() as runtime:
            assert rests_in(State.UNPROVISIONED)(runtime.snapshot)
            await until(runtime, at(State.REGISTERING, Phase.SUBMITTING))
            return trio.current_time() - failed

    assert simulate(scenario) == pytest.approx(600, abs=0.01)


def test_an_overdue_renewal_is_spread_after_a_start():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
        await trio.sleep(85 * 86_400)
        began = trio.current_time()
        async with device.running() as runtime:
            await until(runtime, at(State.RENEWING, Phase.STAGING))
        return trio.current_time() - began

    assert 0 < simulate(scenario) <= 15 * 60


def test_what_the_stores_hold_goes_into_the_start():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
        device.store.lose()
        async with device.running() as runtime:
            assert runtime.snapshot.credential is None
            await until_provisioned(runtime)

    simulate(scenario)
    assert device.store.current is not None
    assert device.store.current.generation == 2


def test_a_file_of_another_machine_is_closed_at_once():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
        device.rotate_first = True
        async with device.running() as runtime:
            return runtime.snapshot.sequence

    sequence = simulate(scenario)
    assert len(device.journal.segments) == 2
    assert read(b"".join(device.journal.segments[1])).header.first_sequence == sequence + 1
    assert device.replay().equal


def test_events_of_the_opening_come_before_anything_else():
    device = Simulated()
    opening = device.open

    async def upgraded():
        opened = await opening()
        return type(opened)(
            journal=opened.journal,
            snapshot=opened.snapshot,
            last_hash=opened.last_hash,
            events=(RulesChanged(before=1, after=1), *opened.events),
        )

    device.open = upgraded

    async def scenario():
        async with device.running() as runtime:
            # Started was journalled before anybody was told that the service is there.
            assert runtime.snapshot.sequence >= 2

    simulate(scenario)
    assert [type(one.event) for one in device.records[:2]] == [RulesChanged, Started]


# --- shutdown ----------------------------------------------------------------------------------------


async def _to_unprovisioned(device, runtime):
    device.registrar.then(no("dps-401", "operator"))
    await until(runtime, rests_in(State.UNPROVISIONED))


async def _to_registering(device, runtime):
    await until(runtime, at(State.REGISTERING, Phase.SUBMITTING))


async def _to_provisioned(device, runtime):
    await until_provisioned(runtime)


async def _to_cert_expiring(device, runtime):
    await until(runtime, rests_in(State.CERT_EXPIRING))


async def _to_renewing(device, runtime):
    await until(runtime, at(State.RENEWING, Phase.POLLING))


async def _to_reprovisioning(device, runtime):
    await until_provisioned(runtime)
    device.registrar.latency_s = math.inf
    await runtime.command(ReprovisionRequested(uid=0))
    await until(runtime, at(State.REPROVISIONING, Phase.SUBMITTING))


WAYS = {
    State.UNPROVISIONED: _to_unprovisioned,
    State.REGISTERING: _to_registering,
    State.PROVISIONED: _to_provisioned,
    State.CERT_EXPIRING: _to_cert_expiring,
    State.RENEWING: _to_renewing,
    State.REPROVISIONING: _to_reprovisioning,
}


@pytest.mark.parametrize("state", State)
def test_shutdown_is_graceful_from_every_state(state):
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await WAYS[state](device, runtime)
            records = await stopped(runtime)
            assert runtime.snapshot.stopping
            # Whoever is late finds nobody, and is told.
            runtime.post(OBSERVED)
            with pytest.raises(StoreUnavailable, match="stopping"):
                await runtime.command(RENEW)
        device.registrar.latency_s = 0.05
        async with device.running() as runtime:
            assert not runtime.snapshot.stopping
            await until_provisioned(runtime)
        return records

    records = simulate(scenario)
    assert isinstance(records[-1].event, ShutdownRequested)
    assert records[-1].state == state.value
    assert device.replay().equal


@pytest.mark.parametrize("state", State)
def test_shutdown_does_not_wait_for_a_journal_that_is_unavailable(state):
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await WAYS[state](device, runtime)
            device.journal.fail(1_000_000)
            runtime.post(OBSERVED)
            await trio.sleep(90)
            began = trio.current_time()
            assert await stopped(runtime) == []
            assert trio.current_time() == began
        device.journal.fail(0)
        device.registrar.latency_s = 0.05
        async with device.running() as runtime:
            await until_provisioned(runtime)

    simulate(scenario)
    assert device.replay().equal


def test_a_shutdown_that_cannot_be_journalled_is_one_all_the_same():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.fail(1_000_000)
            began = trio.current_time()
            assert await stopped(runtime) == []
            assert trio.current_time() == began

    simulate(scenario)


def test_commands_still_waiting_at_shutdown_are_told():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime, trio.open_nursery() as nursery:
            await until_provisioned(runtime)
            device.journal.latency_s = 1
            runtime.post(ShutdownRequested())
            nursery.start_soon(_refused, runtime)
            with trio.fail_after(2):
                await stopped(runtime)

    simulate(scenario)
    assert not any(isinstance(one.event, RenewRequested) for one in device.records)


async def _refused(runtime):
    with pytest.raises(StoreUnavailable, match="stopping"):
        await runtime.command(RENEW)


# --- a history that cannot be opened -----------------------------------------------------------------


def test_status_is_provisional_while_the_history_cannot_be_opened():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            sequence = runtime.snapshot.sequence
        device.opening_fails = 8
        device.opened_s.clear()
        async with device.running() as runtime:
            status = runtime.status()
            assert (status.state, status.sequence) == ("Provisioned", 1)
            assert status.credential is not None
            assert status.degraded == ("journal: unavailable: the disk is away",)
            with pytest.raises(StoreUnavailable, match="the disk is away"):
                await runtime.command(RENEW)
            with pytest.raises(StoreUnavailable, match="the disk is away"):
                runtime.lines_from(1)
            asked = len(device.asked_for(Asking))
            await trio.sleep(1 + 2 + 4 + 8 + 16 + 32 + 60 + 59)
            assert runtime.status().degraded
            await until(runtime, lambda snapshot: snapshot.sequence == sequence + 1)
            assert not runtime.status().degraded
            assert len(device.asked_for(Asking)) == asked
            assert (await runtime.command(RENEW)).sequence == sequence + 2

    simulate(scenario)
    gaps = [round(later - earlier, 6) for earlier, later in pairwise(device.opened_s)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60]
    assert device.replay().equal


def test_the_service_is_up_although_its_start_cannot_be_journalled():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            sequence = runtime.snapshot.sequence
        device.journal.fail(5)
        async with device.running() as runtime:
            status = runtime.status()
            assert (status.state, status.sequence) == ("Provisioned", 1)
            assert status.degraded == ("journal: unavailable: the journal was told to fail",)
            await until(runtime, lambda snapshot: snapshot.sequence == sequence + 1)
            assert runtime.status().degraded == ()

    simulate(scenario)
    assert sum(isinstance(one.event, Started) for one in device.records) == 2
    assert device.replay().equal


@pytest.mark.parametrize("opens", [False, True])
def test_shutdown_before_the_history_was_taken_up(opens):
    device = Simulated()
    device.opening_fails = 0 if opens else 1_000_000
    device.journal.fail(1_000_000)

    async def scenario():
        async with device.running() as runtime:
            await trio.sleep(3)
            assert await stopped(runtime) == []

    simulate(scenario)
    assert device.records == []


def test_before_the_journal_was_opened_there_are_no_stored_lines():
    device = Simulated()
    opening = device.open

    async def slow():
        await trio.sleep(5)
        return await opening()

    device.open = slow

    async def scenario():
        async with trio.open_nursery() as nursery:
            runtime = device.runtime()
            nursery.start_soon(runtime.run)
            await trio.sleep(1)
            with pytest.raises(StoreUnavailable, match="being opened"):
                runtime.lines_from(1)
            nursery.cancel_scope.cancel()

    simulate(scenario)


# --- rotation ----------------------------------------------------------------------------------------


def test_a_full_file_is_closed_and_the_next_begins_with_a_checkpoint():
    device = Simulated(segment_bytes=20_000, keep=1_000)

    async def scenario():
        async with device.running() as runtime:
            await trio.sleep(700 * 86_400)
            await until_provisioned(runtime)
            return runtime.snapshot

    snapshot = simulate(scenario)
    readings = [read(b"".join(lines)) for lines in device.journal.segments]
    assert len(readings) > 3
    for before, after in pairwise(readings):
        assert after.header.continues == before.last_hash
        assert after.header.first_sequence == before.header.first_sequence + len(before.records)
        assert after.header.created_unix_ms == before.records[-1].now_unix_ms
        assert sum(len(line) for line in device.journal.segments[0]) >= 20_000
    outcome = device.replay()
    assert outcome.equal
    assert outcome.records == snapshot.sequence
    assert outcome.snapshot == snapshot


def test_only_so_many_files_are_kept_and_the_rest_replays():
    device = Simulated(segment_bytes=20_000, keep=2)

    async def scenario():
        async with device.running() as runtime:
            await trio.sleep(1_000 * 86_400)
            await until_provisioned(runtime)
            return runtime.snapshot

    snapshot = simulate(scenario)
    assert len(device.journal.segments) == 3
    assert device.replay().equal
    assert device.replay().snapshot == snapshot


def test_a_rotation_that_fails_is_tried_again_and_stops_nothing():
    device = Simulated(segment_bytes=1)
    device.journal.fail_rotations(3)

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            assert not runtime.status().degraded

    simulate(scenario)
    records = [len(read(b"".join(lines)).records) for lines in device.journal.segments]
    assert records[:3] == [4, 1, 1]
    assert device.replay().equal


def test_a_restart_goes_on_from_the_last_checkpoint():
    device = Simulated(segment_bytes=5_000, keep=0)

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            sequence = runtime.snapshot.sequence
        async with device.running() as runtime:
            assert rests_in(State.PROVISIONED)(runtime.snapshot)
            assert runtime.snapshot.sequence == sequence + 1
            await until(runtime, lambda snapshot: snapshot.attempts == 2)
            await until_provisioned(runtime)

    simulate(scenario)
    assert len(device.journal.segments) == 1
    assert device.replay().equal


# --- whole lives -------------------------------------------------------------------------------------


def test_ten_quiet_years():
    device = Simulated(keep=1_000)

    async def scenario():
        async with device.running() as runtime:
            await trio.sleep(3_650 * 86_400)
            await until_provisioned(runtime)
            return runtime.snapshot

    snapshot = simulate(scenario)
    # One certificate for every 70 to 90 % of 90 days.
    assert 3_650 / 81 <= len(device.registrar.issued) <= 3_650 / 63 + 1
    assert device.uncovered_ms(device.true_unix_ms(3_650)) == 0
    assert device.replay().snapshot == snapshot
    # What is superseded goes when its certificate has ended, not before.
    assert len(device.store.generations) <= 2


@pytest.mark.parametrize("seed", range(4))
def test_ten_years_of_outages_kills_full_disks_and_set_clocks(seed):
    device = Simulated(seed=seed, segment_bytes=100_000, keep=1_000)
    simulate(lambda: live(device, 3_650, random.Random(seed)))
    last = device.records[-1]
    assert (last.state, last.phase) == ("Provisioned", "Idle")
    assert device.uncovered_ms(device.store.flips[-1].at_unix_ms + 1) == 0
    assert device.uncovered_ms(device.true_unix_ms(3_650)) == 0
    outcome = device.replay()
    assert outcome.divergence is None
    assert outcome.equal
    assert outcome.records == last.sequence


@pytest.mark.parametrize("seed", range(3))
def test_outages_that_outlast_a_certificate(seed):
    """Certificates of six hours: they end meanwhile, and the device finds its way back by itself."""
    device = Simulated(seed=seed, life_ms=6 * HOUR)
    chance = random.Random(seed)

    async def scenario():
        for _ in range(4):
            async with device.running() as runtime:
                await until_provisioned(runtime)
                device.registrar.down = True
                device.hub.down = chance.random() < 0.5
                await trio.sleep(chance.uniform(6, 40) * 3600)
                assert runtime.snapshot.state is State.REPROVISIONING
                assert runtime.snapshot.credential is not None
                device.registrar.down = device.hub.down = False
                if chance.random() < 0.5:
                    began = trio.current_time()
                    await until_provisioned(runtime)
                    # The budget of registrations without success is nearly spent: it paces what is left.
                    assert trio.current_time() - began < 86_400

    simulate(scenario)
    assert device.replay().equal


def test_a_clock_that_is_far_ahead_causes_no_storm_of_registrations():
    """Every new certificate looks expired by such a clock: each renewal is due at once."""
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.clock.synchronise(False)
            device.clock.step(400 * DAY)
            await trio.sleep(60)

    simulate(scenario)
    assert len(device.registrar.issued) <= 3


def test_a_device_without_a_clock_renews_in_time():
    """Booted in 2015 by its own clock, and never told better but by the cloud's Date."""
    device = Simulated()
    device.clock.synchronise(False)
    device.clock.step(-4_000 * DAY)

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await trio.sleep(200 * 86_400)

    simulate(scenario)
    assert device.uncovered_ms(device.true_unix_ms(200)) == 0
