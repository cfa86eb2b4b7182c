"""Module keys and manual assignments through the runtime: dispatch, kills, defects, and no word to DPS."""

import pytest
import trio

from adapters.fakes.module_keys import FakeModuleKeys
from adapters.fakes.peer import broken, no
from statemachine.effects import (
    PollRegistration,
    ProveCredential,
    PushModuleKeys,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    ConfigurationChanged,
    ModuleKeysLost,
    ModuleKeysPushed,
    ModuleKeysPushFailed,
    ModuleKeysRequested,
    ReprovisionRequested,
)
from statemachine.settings import ManualAssignment, PolicySettings
from statemachine.states import Phase, State
from tests.adapters.simulated import (
    RENEW,
    Simulated,
    at,
    rests_in,
    simulate,
    stopped,
    until,
    until_provisioned,
)

pytestmark = pytest.mark.usefixtures("quiet")

PUSH = ModuleKeysRequested(uid=0)
LOST = ModuleKeysLost(reason="no such file")
MANUAL = PolicySettings(
    dps=False,
    manual=ManualAssignment(hub="hub.example", device_id="device-1"),
    attestation="symmetric_key",
)


def pushing(snapshot):
    return any(isinstance(one.effect, PushModuleKeys) for one in snapshot.outstanding)


def idle(snapshot):
    return not pushing(snapshot)


def answers(device, kind):
    return [one for one in device.records if isinstance(one.event, kind)]


def test_the_fake_answers_as_its_port_says():
    fake = FakeModuleKeys(modules=5)

    async def scenario():
        fake.then(no("hub-429", "wait", retry_after_ms=5))
        return [await fake.push(str(number), PushModuleKeys()) for number in range(2)]

    refused, pushed = simulate(scenario)
    assert isinstance(refused, ModuleKeysPushFailed)
    assert (refused.answers, refused.code, refused.retry_after_ms) == ("0", "hub-429", 5)
    assert pushed == ModuleKeysPushed(answers="1", modules=5)


def test_a_push_is_asked_for_and_its_answer_taken():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            runtime.post(LOST)
            await until(runtime, lambda snapshot: snapshot.module_keys_lost is not None)
            stuck = runtime.status().stuck
            taken = await runtime.command(PUSH)
            await until(runtime, idle)
            return stuck, taken, runtime.status().stuck

    stuck, taken, still = simulate(scenario)
    assert (stuck, still) == (True, False)
    (asked,) = device.asked_for(PushModuleKeys)
    assert asked.effect_id == f"1.{taken.sequence}.0"
    (answer,) = answers(device, ModuleKeysPushed)
    assert answer.event.answers == asked.effect_id
    assert device.replay().equal


def test_a_slow_push_delays_no_renewal():
    device = Simulated()
    device.module_keys.latency_s = 3_600

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await runtime.command(PUSH)
            await runtime.command(RENEW)
            await until_provisioned(runtime)
            renewed = trio.current_time()
            assert pushing(runtime.snapshot)
            await until(runtime, idle)
            return runtime.snapshot.credential.generation, trio.current_time() - renewed

    generation, seconds = simulate(scenario)
    assert generation == 2
    assert seconds > 3_000


@pytest.mark.parametrize("graceful", [True, False])
def test_a_push_that_was_cut_off_is_performed_again_under_its_id(graceful):
    device = Simulated()
    device.module_keys.latency_s = 10

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await runtime.command(PUSH)
            await trio.sleep(5)
            if graceful:
                await stopped(runtime)
        async with device.running() as runtime:
            assert pushing(runtime.snapshot)
            await until(runtime, idle)

    simulate(scenario)
    ids = [one.effect_id for one in device.asked_for(PushModuleKeys)]
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert len(answers(device, ModuleKeysPushed)) == 1
    assert device.replay().equal


def test_a_defect_in_the_pusher_is_a_failure_like_any_other():
    device = Simulated()
    device.module_keys.then(broken(ZeroDivisionError("/secret/of/the/adapter")))

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            runtime.post(LOST)
            await runtime.command(PUSH)
            await until(runtime, idle)
            return runtime.status()

    status = simulate(scenario)
    (answer,) = answers(device, ModuleKeysPushFailed)
    assert (answer.event.failure_class, answer.event.code) == ("retry", "internal-error")
    assert answer.event.message == "ZeroDivisionError in an adapter; the log has the details"
    assert status.stuck
    assert any("internal-error" in note for note in status.degraded)
    assert len(device.asked_for(PushModuleKeys)) == 1


# --- the configuration is the assignment -------------------------------------------------------------


def manual():
    device = Simulated(policy=MANUAL)
    device.fingerprint = "m"
    return device


def nothing_of_dps(device):
    return not any(device.asked_for(kind) for kind in (StageKey, SubmitRegistration, PollRegistration))


def test_a_manual_device_is_provisioned_without_dps():
    device = manual()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await runtime.command(ReprovisionRequested(uid=0))
            await until_provisioned(runtime)
            assert (await runtime.command(RENEW)).verdict == "refused"
            return runtime.status()

    status = simulate(scenario)
    assert nothing_of_dps(device)
    assert status.onboarding.source == "manual"
    assert (status.credential.source, status.credential.generation) == ("configured", 2)
    current = device.store.inventory().current
    assert (current.hub, current.source, current.bundle_id) == ("hub.example", "configured", None)
    assert device.replay().equal


@pytest.mark.parametrize("phase", [Phase.PROVING, Phase.COMMITTING, Phase.RETIRING])
def test_a_manual_device_that_is_killed_goes_on_where_it_was(phase):
    device = manual()
    device.store.latency_s = device.hub.latency_s = 1

    async def scenario():
        async with device.running() as runtime:
            await until(runtime, at(State.REGISTERING, phase))
            await trio.sleep(0.5)
        async with device.running() as runtime:
            await until_provisioned(runtime)

    simulate(scenario)
    assert nothing_of_dps(device)
    assert len(device.store.flips) == 1
    assert device.replay().equal


def test_a_device_moves_from_dps_to_its_configuration_and_back():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            for policy, fingerprint, source in ((MANUAL, "m", "configured"), (device.policy, "f1", "issued")):
                runtime.post(ConfigurationChanged(policy=policy, fingerprint=fingerprint))
                await until(runtime, lambda snapshot: snapshot.attempt is not None)
                await until(runtime, rests_in(State.PROVISIONED))
                assert runtime.snapshot.credential.source == source
            device.hub.refuses = True
            runtime.post(ConfigurationChanged(policy=MANUAL, fingerprint="m"))
            await until(runtime, lambda snapshot: snapshot.attempt is not None)
            await until(runtime, rests_in(State.REPROVISIONING))
            return runtime.status()

    status = simulate(scenario)
    assert status.stuck
    assert status.credential.source == "issued", "what works is kept"
    assert len(device.asked_for(ProveCredential)) == 1 + 1 + 1 + 2
    assert device.replay().equal
