"""A purge through the runtime: asked of the store, asked again until it is done, also after a kill."""

import pytest
import trio

from adapters.driven.journal_file import ACTIVE
from adapters.fakes.peer import broken, no
from adapters.opening import was_given_up
from statemachine.effects import CommitCredential, PurgeCredentials, StageKey
from statemachine.events import (
    CredentialsPurged,
    CredentialsPurgeFailed,
    HoldRequested,
    PurgeRequested,
    RenewRequested,
)
from statemachine.states import Phase, State
from tests.adapters.simulated import Simulated, simulate, until, until_provisioned

pytestmark = pytest.mark.usefixtures("quiet")

PURGE = PurgeRequested(uid=0)


def erased(snapshot):
    return snapshot.purge is None and snapshot.hold


def hindered(snapshot):
    return snapshot.purge is not None and snapshot.purge.problem is not None


def kinds(device, *wanted):
    return [type(record.event) for record in device.records if isinstance(record.event, wanted)]


def asked(device, kind):
    return sum(isinstance(one, kind) for record in device.records for one in record.effects)


async def given_up(runtime):
    assert (await runtime.command(PURGE)).verdict == "taken"
    await until(runtime, erased)


def test_given_up_held_and_registered_anew():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await given_up(runtime)
            assert device.store.inventory().current is None
            assert (runtime.snapshot.state, runtime.snapshot.phase) == (State.UNPROVISIONED, Phase.IDLE)
            assert runtime.status().assignment is None
            assert (await runtime.command(RenewRequested(uid=0))).verdict == "refused"
            await trio.sleep(30 * 86_400)
            assert device.store.inventory().current is None, "nothing begins by itself"
        async with device.running() as runtime:
            assert runtime.snapshot.state is State.UNPROVISIONED, "a restart is no release"
            await runtime.command(HoldRequested(hold=False, uid=0))
            await until_provisioned(runtime)

    simulate(scenario)
    assert device.store.current.generation == 2, "a number is never given out twice"
    assert device.replay().equal


@pytest.mark.parametrize(
    "reply", [no("read-only"), broken(RuntimeError("a defect"))], ids=["fails", "raises"]
)
def test_tried_again_until_it_is_done(reply):
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.store.then(reply, reply)
            await runtime.command(PURGE)
            await until(runtime, hindered)
            assert any("not all could be erased" in note for note in runtime.status().degraded)
            assert (await runtime.command(HoldRequested(hold=False, uid=0))).verdict == "refused"
            await until(runtime, erased)

    simulate(scenario)
    assert device.store.current is None
    answers = kinds(device, CredentialsPurged, CredentialsPurgeFailed)
    assert answers == [CredentialsPurgeFailed, CredentialsPurgeFailed, CredentialsPurged]
    assert asked(device, PurgeCredentials) == 3


@pytest.mark.parametrize("reached", [StageKey, CommitCredential])
def test_a_running_attempt_is_given_up_with_the_device(reached):
    device = Simulated()
    device.store.latency_s = 5

    async def scenario():
        async with device.running() as runtime:
            await until(
                runtime, lambda snapshot: any(isinstance(one.effect, reached) for one in snapshot.outstanding)
            )
            await given_up(runtime)
            await trio.sleep(3600)
            assert runtime.snapshot.credential is None

    simulate(scenario)
    assert device.store.current is None
    assert device.replay().equal


def test_killed_in_the_middle_it_is_asked_again():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            device.store.latency_s = float("inf")
            await runtime.command(PURGE)
        device.store.latency_s = 1
        assert device.store.current is not None
        async with device.running() as runtime:
            # The store still holds it, and nobody believes it.
            assert runtime.snapshot.credential is None
            assert runtime.status().credential is None
            await until(runtime, erased)

    simulate(scenario)
    assert device.store.current is None
    assert asked(device, PurgeCredentials) == 1, "the same effect, performed again"
    assert device.replay().equal


# --- what a start knows before it serves -----------------------------------------------------------------


def journal_at(device, wanted):
    """The journal's bytes up to the first record of that kind."""
    lines = device.journal.lines
    for number, line in enumerate(lines, 1):
        if wanted in line:
            return b"".join(lines[:number])
    raise AssertionError(f"no {wanted!r}")


@pytest.fixture(scope="module")
def lived():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            await given_up(runtime)

    simulate(scenario)
    return device


@pytest.mark.parametrize(
    ("until_event", "given_up"),
    [(b'"credential-committed"', False), (b'"purge-requested"', True), (b'"credentials-purged"', False)],
)
def test_what_the_journal_says(lived, tmp_path, until_event, given_up):
    content = journal_at(lived, until_event)
    (tmp_path / ACTIVE).write_bytes(content)
    assert was_given_up(str(tmp_path)) == given_up
    (tmp_path / ACTIVE).write_bytes(content + b'{"type":"record","torn')
    assert was_given_up(str(tmp_path)) == given_up, "a torn end is the next one's beginning"


@pytest.mark.parametrize(
    "damage",
    [
        None,
        lambda content: b"",
        lambda content: b'"purge' * 1000,
        lambda content: content.replace(b"purge-requested", b"purge-of-another-release"),
        lambda content: content[200:],
    ],
    ids=["missing", "empty", "garbage", "newer", "headless"],
)
def test_a_journal_that_says_nothing_stops_nobody(lived, tmp_path, damage):
    if damage is not None:
        (tmp_path / ACTIVE).write_bytes(damage(journal_at(lived, b'"purge-requested"')))
    assert was_given_up(str(tmp_path)) is False
