"""The runtime on virtual time: event, step, append, dispatch; outages of the journal; commands, watchers."""

import logging
from itertools import pairwise

import pytest
import trio

from adapters.errors import StoreUnavailable
from adapters.fakes.peer import Asked, broken, no
from adapters.runtime import INBOX_EVENTS, WATCHER_LINES
from statemachine.effects import (
    ArmDeadline,
    ArmDelay,
    Asking,
    Disarm,
    StageKey,
)
from statemachine.events import (
    ClockObserved,
    CredentialCommitFailed,
    CredentialProofFailed,
    CredentialRetireFailed,
    Failure,
    KeyStageFailed,
    RegistrationFailed,
    RenewRequested,
    ReprovisionRequested,
)
from statemachine.journal import Record, decode_line
from statemachine.states import Phase, State
from tests.adapters.simulated import (
    OBSERVED,
    RENEW,
    SECOND,
    Simulated,
    at,
    ended,
    rests_in,
    sequence_of_effect,
    simulate,
    stopped,
    until,
    until_provisioned,
)

pytestmark = pytest.mark.usefixtures("quiet")


# --- order -------------------------------------------------------------------------------------------


def test_nothing_is_done_before_its_record_is_appended():
    device = Simulated()
    device.journal.latency_s = 0.2

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
        async with device.running() as runtime:
            await until(runtime, lambda snapshot: snapshot.attempts == 3)
            await until_provisioned(runtime)

    simulate(scenario)
    durable, wished = 0, []
    for entry in device.trace:
        match entry:
            case Record():
                # Everything the record before wished for was at least begun, timers in the order of wishing.
                durable = entry.sequence
                wished += [one for one in entry.effects if isinstance(one, ArmDeadline | ArmDelay | Disarm)]
            case Asked():
                assert sequence_of_effect(entry.effect_id) <= durable
            case _:
                assert entry == wished.pop(0)
    assert not wished
    assert len(device.asked_for(Asking)) >= 3 * 7
    assert device.replay().equal


def test_while_a_record_is_being_written_nothing_of_it_is_seen_or_done():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.latency_s = 5
            before, asked = runtime.snapshot, len(device.asked_for(Asking))
            with runtime.follow() as lines:
                runtime.post(RENEW)
                await trio.sleep(4.9)
                assert runtime.snapshot is before
                assert len(device.asked_for(Asking)) == asked
                with pytest.raises(trio.WouldBlock):
                    lines.receive_nowait()
                await trio.sleep(0.2)
                assert runtime.snapshot.state is State.RENEWING
                assert len(device.asked_for(Asking)) == asked + 1
                assert decode_line(lines.receive_nowait()).sequence == before.sequence + 1

    simulate(scenario)


def test_a_record_holds_stamp_event_effects_position_and_verdict():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await trio.sleep(3)
            await runtime.command(RENEW)

    simulate(scenario)
    record = next(one for one in device.records if isinstance(one.event, RenewRequested))
    provisioned = device.records[record.sequence - 2]
    assert record.now_unix_ms == provisioned.now_unix_ms + 3 * SECOND
    assert (record.state, record.phase, record.verdict) == ("Renewing", "Staging", "taken")
    assert [type(effect) for effect in record.effects][-1] is StageKey
    assert record.event.draw_ppm > 0
    assert len({one.event.draw_ppm for one in device.records}) == len(device.records)


# --- a journal that fails ----------------------------------------------------------------------------


def test_a_failing_append_discards_the_step_and_keeps_the_event():
    device = Simulated()
    tries = 9

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            before, asked = runtime.snapshot, len(device.asked_for(Asking))
            device.journal.fail(tries)
            device.journal.tried_s.clear()
            runtime.post(RENEW)
            await trio.sleep(1.5)
            assert runtime.snapshot is before
            assert "journal: unavailable: the journal was told to fail" in runtime.status().degraded
            assert runtime.status().sequence == before.sequence
            assert len(device.asked_for(Asking)) == asked
            await until(runtime, at(State.RENEWING, Phase.STAGING))
            assert not runtime.status().degraded
            await until_provisioned(runtime)
            return before

    before = simulate(scenario)
    tried = device.journal.tried_s[: tries + 1]
    gaps = [round(later - earlier, 6) for earlier, later in pairwise(tried)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    orders = [one for one in device.records if isinstance(one.event, RenewRequested)]
    assert [one.sequence for one in orders] == [before.sequence + 1]
    # Stamped when it was taken, not when it was first tried.
    assert orders[0].now_unix_ms == before.last_unix_ms + sum(gaps) * SECOND
    assert device.replay().equal


def test_events_that_come_meanwhile_are_taken_in_order_afterwards():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.fail(3)
            runtime.post(OBSERVED)
            await trio.sleep(0.1)
            runtime.post(ClockObserved(kernel_synchronised=False, jump_ms=5))
            runtime.post(RENEW)
            await until(runtime, at(State.RENEWING, Phase.STAGING))

    simulate(scenario)
    events = [one.event for one in device.records][-3:]
    assert [type(event) for event in events] == [ClockObserved, ClockObserved, RenewRequested]
    assert events[1].jump_ms == 5


def test_commands_are_refused_at_once_while_the_journal_is_unavailable():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.fail(3)
            runtime.post(OBSERVED)
            await trio.sleep(0.5)
            began = trio.current_time()
            with pytest.raises(StoreUnavailable, match="told to fail") as caught:
                await runtime.command(RENEW)
            assert caught.value.code == "journal-unavailable"
            with pytest.raises(StoreUnavailable):
                runtime.lines_from(1)
            assert trio.current_time() == began
            await trio.sleep(10)
            assert (await runtime.command(RENEW)).verdict == "taken"

    simulate(scenario)
    assert sum(isinstance(one.event, RenewRequested) for one in device.records) == 1


def test_a_command_whose_own_record_cannot_be_written_is_not_taken():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            before = runtime.snapshot
            device.journal.fail(1)
            with pytest.raises(StoreUnavailable, match="told to fail"):
                await runtime.command(RENEW)
            assert any("journal: unavailable" in note for note in runtime.status().degraded)
            assert runtime.snapshot is before
            await trio.sleep(100)
            assert runtime.snapshot is before
            # The next thing that happens finds the journal well again.
            runtime.post(OBSERVED)
            await until(runtime, lambda snapshot: snapshot.sequence == before.sequence + 1)
            assert not runtime.status().degraded

    simulate(scenario)


def test_a_command_repeated_once_the_disk_is_repaired_is_taken():
    """Nothing else happens meanwhile: a provisioned device rests for weeks."""
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.fail(2)
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="told to fail"):
                    await runtime.command(RENEW)
            assert (await runtime.command(RENEW)).verdict == "taken"
            assert not runtime.status().degraded

    simulate(scenario)


def test_a_command_that_had_to_wait_too_long_is_withdrawn():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.fail(4)
            runtime.post(OBSERVED)
            with pytest.raises(StoreUnavailable, match="not journalled within 10 s"):
                await runtime.command(RENEW)
            await trio.sleep(60)
            assert rests_in(State.PROVISIONED)(runtime.snapshot)
            assert (await runtime.command(RENEW)).verdict == "taken"

    simulate(scenario)
    assert sum(isinstance(one.event, RenewRequested) for one in device.records) == 1


def test_a_command_whose_record_is_being_written_is_waited_for():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.latency_s = 25
            began = trio.current_time()
            taken = await runtime.command(RENEW)
            assert taken.sequence == runtime.snapshot.sequence
            assert trio.current_time() == began + 25

    simulate(scenario)


def test_a_full_inbox_refuses_commands_and_drops_events(caplog):
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.latency_s = 1
            runtime.post(OBSERVED)
            await trio.sleep(0.5)
            for _ in range(INBOX_EVENTS):
                runtime.post(OBSERVED)
            with pytest.raises(StoreUnavailable, match="busy"):
                await runtime.command(RENEW)
            caplog.set_level(logging.ERROR, logger="identityd")
            runtime.post(RENEW)

    simulate(scenario)
    assert caplog.messages == ["inbox full, dropped RenewRequested"]


# --- commands ----------------------------------------------------------------------------------------


def test_a_command_gets_its_sequence_and_the_verdict():
    device = Simulated()
    device.registrar.then(no("dps-401", "operator"))

    async def scenario():
        async with device.running() as runtime:
            await until(runtime, rests_in(State.UNPROVISIONED))
            refused = await runtime.command(RENEW)
            assert refused.verdict == "refused"
            taken = await runtime.command(ReprovisionRequested(uid=0))
            assert taken.verdict == "taken"
            await until_provisioned(runtime)
            repeated = await runtime.command(ReprovisionRequested(uid=1000, privileged=False))
            return refused, taken, repeated

    for answer in simulate(scenario):
        record = device.records[answer.sequence - 1]
        assert isinstance(record.event, RenewRequested | ReprovisionRequested)
        assert (record.sequence, record.verdict, record.why) == (
            answer.sequence,
            answer.verdict,
            answer.why,
        )
        assert answer.why


def test_a_caller_that_goes_away_does_not_take_its_command_back():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.latency_s = 2
            with trio.move_on_after(1):
                await runtime.command(RENEW)
            await until(runtime, at(State.RENEWING, Phase.STAGING))

    simulate(scenario)


# --- watchers ----------------------------------------------------------------------------------------


def test_watchers_get_every_line_in_order_until_the_end():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime, trio.open_nursery() as nursery:
            seen = [[], []]
            for lines in seen:
                nursery.start_soon(_watch, runtime, lines)
            await until_provisioned(runtime)
            await stopped(runtime)
        return seen

    seen = simulate(scenario)
    stored = [line for line in device.journal.lines if b'"type":"record"' in line]
    assert len(seen[0]) >= 8
    assert seen[0] == stored[-len(seen[0]) :]
    assert seen[1] == stored[-len(seen[1]) :]


async def _watch(runtime, lines):
    with runtime.follow() as channel:
        lines.extend(await ended(channel))


def test_a_slow_watcher_is_dropped_and_nobody_waits_for_it():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime, trio.open_nursery() as nursery:
            await until_provisioned(runtime)
            lines = []
            nursery.start_soon(_watch, runtime, lines)
            with runtime.follow() as slow:
                for _ in range(2 * WATCHER_LINES):
                    await runtime.command(RENEW)
                kept = await ended(slow)
            await stopped(runtime)
        return kept, lines

    kept, lines = simulate(scenario)
    assert len(kept) == WATCHER_LINES
    assert len(lines) > 2 * WATCHER_LINES
    assert lines[: len(kept)] == kept


def test_a_watcher_that_leaves_is_forgotten():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            with runtime.follow() as lines:
                await lines.receive()
            await until_provisioned(runtime)
            with pytest.raises(trio.ClosedResourceError):
                await lines.receive()

    simulate(scenario)


def test_stored_lines_are_read_from_a_sequence_on():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            return [line async for line in runtime.lines_from(7)]

    lines = simulate(scenario)
    assert [decode_line(line).sequence for line in lines] == list(range(7, len(device.records) + 1))


# --- defects in adapters -----------------------------------------------------------------------------

DEFECTS = [
    (Phase.STAGING, "store", KeyStageFailed),
    (Phase.SUBMITTING, "registrar", RegistrationFailed),
    (Phase.POLLING, "registrar", RegistrationFailed),
    (Phase.PROVING, "hub", CredentialProofFailed),
    (Phase.COMMITTING, "store", CredentialCommitFailed),
    (Phase.RETIRING, "store", CredentialRetireFailed),
]


@pytest.mark.parametrize(("phase", "peer", "failure"), DEFECTS)
def test_an_unexpected_exception_becomes_a_typed_failure(phase, peer, failure):
    device = Simulated(pending=0)
    device.store.latency_s = 1

    async def scenario():
        async with device.running() as runtime:
            if not at(State.REGISTERING, phase)(runtime.snapshot):
                await until(runtime, at(State.REGISTERING, phase))
            getattr(device, peer).then(broken(ZeroDivisionError("/secret/of/the/adapter")))
            await until_provisioned(runtime)

    simulate(scenario)
    failures = [one.event for one in device.records if isinstance(one.event, Failure)]
    assert [type(one) for one in failures] == [failure]
    assert (failures[0].failure_class, failures[0].code) == ("retry", "internal-error")
    assert failures[0].message == "ZeroDivisionError in an adapter; the log has the details"
    assert device.replay().equal


def test_the_log_has_the_details(caplog):
    device = Simulated()
    caplog.set_level(logging.ERROR, logger="identityd")
    device.store.then(broken(ZeroDivisionError("details")))

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)

    simulate(scenario)
    record = next(one for one in caplog.records if one.exc_info)
    assert record.getMessage() == "StageKey failed unexpectedly"
    assert "details" in str(record.exc_info[1])
