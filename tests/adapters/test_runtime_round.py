"""Whether the task that owns the machine still answers: what a watchdog is fed from."""

import trio
import trio.testing

from tests.adapters.simulated import RENEW, Simulated, simulate


def test_a_machine_at_rest_answers_and_nothing_is_journalled():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await trio.sleep(3600)
            before = runtime.snapshot.sequence
            for _ in range(3):
                with trio.fail_after(1):
                    await runtime.come_round()
            assert runtime.snapshot.sequence == before

    simulate(scenario)


def test_a_journal_that_is_tried_again_is_no_hanging_machine():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await trio.sleep(3600)
            device.journal.fail(8)
            runtime.post(RENEW)
            for _ in range(20):
                with trio.fail_after(1):
                    await runtime.come_round()
                await trio.sleep(3)
            assert any("journal: unavailable" in note for note in runtime.status().degraded)

    simulate(scenario)


def test_a_write_that_never_returns_is_one(monkeypatch):
    device = Simulated()

    async def hang(line):
        await trio.sleep_forever()

    async def scenario():
        async with device.running() as runtime:
            await trio.sleep(3600)
            monkeypatch.setattr(device.journal, "append", hang)
            runtime.post(RENEW)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1000) as bound:
                await runtime.come_round()
            assert bound.cancelled_caught

    simulate(scenario)


def test_a_full_inbox_is_worked_through():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await trio.sleep(3600)
            for _ in range(2000):
                runtime.post(RENEW)
            with trio.fail_after(1):
                await runtime.come_round()

    simulate(scenario)


def test_a_service_that_has_stopped_holds_nobody_up():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            pass
        with trio.fail_after(1):
            await runtime.come_round()

    simulate(scenario)
