"""A reprovision that is waited for: the real machine in virtual time, and watchers that are dropped."""

import math
from contextlib import contextmanager

import msgspec
import pytest
import trio
import trio.testing

from adapters.driving.reprovision import WAIT_S, reprovision
from adapters.errors import StoreUnavailable
from adapters.fakes.peer import no
from adapters.ports import Taken
from adapters.runtime import WATCHER_LINES
from statemachine.effects import SubmitRegistration
from statemachine.events import HoldRequested, ReprovisionRequested
from statemachine.settings import PolicySettings
from statemachine.states import Phase, State
from statemachine.status import AttemptStatus, LastError
from tests.adapters.simulated import (
    OBSERVED,
    RENEW,
    Simulated,
    at,
    rests_in,
    simulate,
    until,
    until_provisioned,
)
from tests.adapters.unix_peer import Machine

pytestmark = pytest.mark.usefixtures("quiet")

EDGED = 1001


def ask(runtime, uid=EDGED, *, privileged=False):
    return reprovision(runtime, uid=uid, privileged=privileged)


class Many:
    """Requests side by side, and what became of each."""

    def __init__(self, runtime, nursery):
        self.runtime, self.nursery = runtime, nursery
        self.answers = []

    def ask(self, **fields):
        self.nursery.start_soon(self._ask, fields)

    async def _ask(self, fields):
        self.answers.append(await ask(self.runtime, **fields))


def commands(device):
    return [one.event for one in device.records if isinstance(one.event, ReprovisionRequested)]


def registrations(device):
    return len(device.asked_for(SubmitRegistration))


# --- the machine -------------------------------------------------------------------------------------


def test_it_returns_when_the_device_is_provisioned_again():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            before = runtime.snapshot.credential.generation
            assert await ask(runtime) is None
            assert rests_in(State.PROVISIONED)(runtime.snapshot)
            assert runtime.snapshot.credential.generation > before

    simulate(scenario)
    assert commands(device)[0].uid == EDGED
    assert commands(device)[0].privileged is False


def test_a_first_registration_can_be_waited_for():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            assert runtime.snapshot.state is State.REGISTERING
            assert await ask(runtime) is None

    simulate(scenario)
    assert registrations(device) == 1


def test_a_failure_says_why_while_the_device_keeps_what_it_has():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            before = runtime.snapshot.credential
            device.registrar.then(
                no("dps-429", "wait", message="Too many", tracking_id="T-1", retry_after_ms=3_600_000)
            )
            why = await ask(runtime)
            assert runtime.snapshot.credential == before
            return why, runtime.status().attempt.last_error.retry_at

    why, retry_at = simulate(scenario)
    assert why == (
        f"dps-429: Too many (class wait, tracking id T-1, tried again at {retry_at}); "
        "the device keeps the identity it has"
    )


def test_a_failure_without_an_identity_promises_none():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            device.registrar.then(no("dps-401", "operator", message="not enrolled"))
            return await ask(runtime)

    why = simulate(scenario)
    assert why.startswith("dps-401: not enrolled (class operator, tried again at ")
    assert why.endswith(")")


def test_who_repeats_soon_shares_the_result_and_root_does_not():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            assert await ask(runtime) is None
            once = registrations(device)
            await trio.sleep(50)
            assert await ask(runtime) is None
            assert registrations(device) == once
            assert await ask(runtime, uid=0, privileged=True) is None
            assert registrations(device) == once + 1
            await trio.sleep(61)
            assert await ask(runtime) is None
            assert registrations(device) == once + 2

    simulate(scenario)


def test_many_join_one_attempt():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            async with trio.open_nursery() as nursery:
                many = Many(runtime, nursery)
                many.ask()
                await until(runtime, at(State.REPROVISIONING, Phase.POLLING))
                for _ in range(9):
                    many.ask(uid=0, privileged=True)
            return many.answers

    assert simulate(scenario) == [None] * 10
    assert registrations(device) == 2, "the first registration and one more"


def test_a_renewal_under_way_becomes_the_reprovisioning():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await runtime.command(RENEW)
            await until(runtime, at(State.RENEWING, Phase.POLLING))
            return await ask(runtime)

    assert simulate(scenario) is None
    assert registrations(device) == 2


def test_who_hangs_up_changes_nothing():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            before = runtime.snapshot.credential.generation
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, runtime)
                await until(runtime, at(State.REPROVISIONING, Phase.POLLING))
                nursery.cancel_scope.cancel()
            await until_provisioned(runtime)
            assert runtime.snapshot.credential.generation > before

    simulate(scenario)
    assert registrations(device) == 2


def test_a_cloud_that_never_answers_is_not_waited_for():
    device = Simulated(policy=msgspec.structs.replace(Simulated().policy, attempt_timeout_ms=86_400_000))

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.registrar.latency_s = math.inf
            before = trio.current_time()
            why = await ask(runtime)
            assert trio.current_time() - before == pytest.approx(WAIT_S, abs=1)
            assert runtime.snapshot.phase is Phase.SUBMITTING
            return why

    why = simulate(scenario)
    assert why.startswith("not ended after 590 s; it goes on. Registration is repeated;")


# --- the command itself ------------------------------------------------------------------------------


def test_without_dps_it_is_refused():
    device = Simulated(policy=PolicySettings(dps=False))

    async def scenario():
        async with device.running() as runtime:
            return await ask(runtime)

    assert "names no provisioning service" in simulate(scenario)


def test_a_hold_refuses():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await runtime.command(HoldRequested(hold=True, uid=0))
            return await ask(runtime)

    assert simulate(scenario) == "Attempts are on hold; release the hold first."


def test_a_journal_that_cannot_be_written_takes_no_command():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.journal.fail(1000)
            with pytest.raises(StoreUnavailable) as told:
                await ask(runtime)
            assert runtime.snapshot.state is State.PROVISIONED
            return told.value.code

    assert simulate(scenario) == "journal-unavailable"
    assert commands(device) == []


# --- watchers that are dropped -----------------------------------------------------------------------


def test_records_that_rush_by_are_made_up_for_by_the_status():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            async with trio.open_nursery() as nursery:
                many = Many(runtime, nursery)
                many.ask()
                await until(runtime, at(State.REPROVISIONING, Phase.POLLING))
                slow = Watched(runtime)
                nursery.start_soon(slow.ask)
                await slow.asked.wait()
                for _ in range(WATCHER_LINES + 50):
                    await runtime.command(OBSERVED)
                slow.may_read.set()
            assert slow.follows > 1
            return [*many.answers, slow.answer]

    assert simulate(scenario) == [None, None]


class Watched:
    """A lifecycle whose first watcher is not read until later: it falls behind and is dropped."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.asked, self.may_read = trio.Event(), trio.Event()
        self.answer = "nothing yet"
        self.follows = 0

    async def ask(self):
        self.answer = await ask(self)

    async def command(self, event):
        taken = await self.runtime.command(event)
        self.asked.set()
        await self.may_read.wait()
        return taken

    def follow(self):
        self.follows += 1
        return self.runtime.follow()

    def status(self):
        return self.runtime.status()


ERROR = LastError(failure_class="retry", code="dps-503", message="busy")


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ({"fields": {"attempt": AttemptStatus(number=2)}}, None),
        (
            {"state": "Reprovisioning", "fields": {"attempt": AttemptStatus(number=2, last_error=ERROR)}},
            "dps-503: busy (class retry)",
        ),
        (
            {"state": "Unprovisioned", "fields": {"reason": "The device has no identity yet."}},
            "The device has no identity yet.",
        ),
    ],
)
def test_the_status_tells_the_end(then, expected):
    machine = Machine()

    async def scenario():
        machine.state, machine.phase = "Reprovisioning", "Polling"
        machine.on_command = lambda event: machine.record(state="Reprovisioning", phase="Staging")
        async with trio.open_nursery() as nursery:
            answers = []

            async def one():
                answers.append(await ask(machine))

            nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                machine.end()
                await trio.sleep(5)
                assert answers == []
            machine.state, machine.phase = "Provisioned", "Idle"
            for name, value in then.items():
                setattr(machine, name, value)
            machine.end()
        return answers

    assert simulate(scenario) == [expected]
    assert machine.watchers == 0


def test_a_watcher_that_is_dropped_at_once_every_time_does_not_spin():
    machine = Machine()
    machine.state, machine.phase = "Reprovisioning", "Polling"
    machine.taken = Taken(sequence=0, verdict="taken", why="begins")
    looks = []

    @contextmanager
    def dropped():
        looks.append(trio.current_time())
        send, receive = trio.open_memory_channel(1)
        send.close()
        with receive:
            yield receive

    machine.follow = dropped
    assert simulate(lambda: ask(machine)).startswith("not ended")
    assert len(looks) == pytest.approx(WAIT_S, abs=3)


def test_heads_of_files_are_no_records():
    machine = Machine()

    def taken(event):
        machine.publish(b'{"type":"header","format":1,"state":"Provisioned","phase":"Idle"}\n')
        machine.record(state="Reprovisioning", phase="Retiring")
        machine.record({"type": "credential-retired"}, state="Provisioned", effects=[{"type": "disarm"}])

    machine.on_command = taken
    assert simulate(lambda: ask(machine)) is None
