"""Renewals of the onboarding certificate as the real machine goes through them, in virtual time."""

import contextlib

import pytest
import trio

from adapters.driving.reprovision import reprovision
from adapters.fakes.peer import no
from statemachine.events import ConfigurationChanged, HoldRequested, ReprovisionRequested
from statemachine.settings import PolicySettings
from statemachine.states import State
from tests.adapters import test_onboarding_issue as issuing
from tests.adapters.simulated import DAY, HOUR, Simulated, rests_in, simulate, until, until_provisioned

pytestmark = pytest.mark.usefixtures("quiet", "no_threads")

POLICY = PolicySettings(
    registration_id="press-17", endpoint="https://dps.test", scope_id="s", attestation="x509"
)


@pytest.fixture
def no_threads(monkeypatch):
    """A clock that jumps does not wait for threads."""

    async def at_once(work, *args, **_):
        return work(*args)

    def driven(work, *args):
        with contextlib.closing(work(*args)) as coroutine:
            try:
                coroutine.send(None)
            except StopIteration as end:
                return end.value
        raise AssertionError("it would have had to wait")

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    monkeypatch.setattr(trio.from_thread, "run", driven)


class Device(Simulated):
    """The machine's side is real; files, keys and certificates of the credential too."""

    def __init__(self, root, auto_renew):
        super().__init__(policy=POLICY)
        self.registrar.registration_id = "press-17"
        self.files = issuing.World(root, rule=issuing.LOCAL_CA, auto_renew=auto_renew)
        self.submitted = []
        "The certificate that was shown, for each registration."
        submit = self.registrar.submit

        async def shown(effect_id, effect):
            chain, _ = issuing.pair_of(self.files.issuer.trial(self.files.configuration))
            self.submitted.append(chain)
            return await submit(effect_id, effect)

        self.registrar.submit = shown

    @contextlib.asynccontextmanager
    async def alive(self):
        """The service: what was issued before the machine runs, the machine, and the task."""
        self.files.clock = self.clock
        self.files.start()
        issuer = self.files.issuer
        await issuer.prepare()
        self.fingerprint = self.who()
        async with self.running() as runtime, trio.open_nursery() as nursery:

            async def changed():
                self.fingerprint = self.who()
                runtime.post(ConfigurationChanged(policy=POLICY, fingerprint=self.fingerprint))

            async def ask():
                return await reprovision(runtime, uid=-1, privileged=True)

            issuer._snapshot = lambda: runtime.snapshot
            issuer._changed, issuer._reprovision = changed, ask
            await nursery.start(issuer.run)
            yield runtime
            nursery.cancel_scope.cancel()

    def who(self):
        chain, _ = issuing.pair_of(self.files.issuer.trial(self.files.configuration))
        return issuing.spki(chain.public_key())

    @property
    def leaf(self):
        return self.files.leaf

    @property
    def commands(self):
        return [one.event for one in self.records if isinstance(one.event, ReprovisionRequested)]


async def days(count):
    await trio.sleep(count * DAY / 1000)


def settled(device, runtime):
    assert rests_in(State.PROVISIONED)(runtime.snapshot)
    assert runtime.snapshot.assignment.fingerprint == runtime.snapshot.fingerprint == device.who()
    assert device.submitted[-1] == device.leaf
    files = device.files.files()
    assert (files["new certificate"], files["new key"]) == (None, None)


BOTH = pytest.mark.parametrize("auto_renew", [issuing.RENEWED, issuing.SAME_KEY])


@BOTH
def test_a_renewal_is_one_registration(tmp_path, auto_renew):
    async def scenario():
        async with device.alive() as runtime:
            await until_provisioned(runtime)
            old, asked = device.leaf, len(device.submitted)
            await days(23.9)
            assert (device.leaf, len(device.submitted)) == (old, asked)
            await days(0.2)
            assert device.leaf != old
            assert len(device.submitted) == asked + 1
            settled(device, runtime)

    device = Device(tmp_path, auto_renew)
    simulate(scenario)
    assert len(device.commands) == 1
    assert device.replay().equal


@BOTH
def test_a_year_of_renewals(tmp_path, auto_renew):
    async def scenario():
        seen = set()
        async with device.alive() as runtime:
            await until_provisioned(runtime)
            for _ in range(365):
                await days(1)
                seen.add(device.leaf.serial_number)
                assert runtime.snapshot.credential is not None
                assert device.leaf.not_valid_after_utc.timestamp() * 1000 > device.clock.now_unix_ms()
            settled(device, runtime)
        return len(seen)

    device = Device(tmp_path, auto_renew)
    assert simulate(scenario) == 1 + 365 // 24


@BOTH
def test_a_refusal_returns_the_device_to_the_old_one(tmp_path, auto_renew):
    async def scenario():
        async with device.alive() as runtime:
            await until_provisioned(runtime)
            old, served = device.leaf, runtime.snapshot.credential
            await days(23.9)
            device.registrar.then(no("dps-401", "operator", message="not enrolled"))
            await days(0.2)
            assert device.submitted[-2] != old  # the trial
            assert device.leaf == old
            assert served.generation <= runtime.snapshot.credential.generation
            assert "dps-401: not enrolled" in device.files.issuer.note
            settled(device, runtime)  # and the old one has registered since
            await days(1.2)
            assert device.leaf != old
            assert device.files.issuer.note is None
            settled(device, runtime)

    device = Device(tmp_path, auto_renew)
    simulate(scenario)
    assert device.replay().equal


@BOTH
@pytest.mark.parametrize("after_s", [0.01, 0.06, 0.2, 0.5, 1, 3])
def test_a_kill_at_any_time_of_a_trial(tmp_path, auto_renew, after_s):
    async def scenario():
        async with device.alive() as runtime:
            await until_provisioned(runtime)
            old = device.leaf
            await until(runtime, lambda _: device.commands)
            await trio.sleep(after_s)
            if after_s < 0.3:
                assert b"trial" in device.files.files()["marker"]
        await trio.sleep(60)
        async with device.alive() as runtime:
            await days(0.5)
            assert device.leaf != old
            settled(device, runtime)

    device = Device(tmp_path, auto_renew)
    simulate(scenario)
    assert device.replay().equal


def test_a_hold_puts_it_off(tmp_path):
    async def scenario():
        async with device.alive() as runtime:
            await until_provisioned(runtime)
            old = device.leaf
            await runtime.command(HoldRequested(uid=0, hold=True))
            await days(25)
            assert device.leaf == old
            assert device.commands == []
            await runtime.command(HoldRequested(uid=0, hold=False))
            device.files.issuer.wake()
            await trio.sleep(HOUR / 1000)
            assert device.leaf != old
            settled(device, runtime)

    device = Device(tmp_path, issuing.RENEWED)
    simulate(scenario)


def test_without_the_cloud_the_old_one_stays_and_tries_are_few(tmp_path):
    async def scenario():
        async with device.alive() as runtime:
            await until_provisioned(runtime)
            old = device.leaf
            await days(23.9)
            device.registrar.down = True
            await days(5)
            assert device.leaf == old
            device.registrar.down = False
            await until(runtime, rests_in(State.PROVISIONED))
            await days(1.3)
            assert device.leaf != old
            settled(device, runtime)

    device = Device(tmp_path, issuing.RENEWED)
    simulate(scenario)
    assert len(device.commands) <= 6
