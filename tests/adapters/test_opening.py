"""A journal of an older release under this one, through the real opener and the real runtime.

Every record of it as the place of the upgrade is in ``tests/core/test_revisions.py``; here are the files.
"""

from pathlib import Path

import pytest
from msgspec import structs

from adapters import config
from adapters.driven.journal_file import ACTIVE
from adapters.fakes.clock import VirtualClock
from adapters.fakes.cloud import FakeHub, FakeRegistrar
from adapters.fakes.store import Generation, MemoryStore
from adapters.opening import Opener, provisional
from adapters.paths import paths_below
from adapters.runtime import Runtime
from adapters.whoami import Identity
from statemachine.events import RenewRequested, RulesChanged, Started
from statemachine.journal import read
from statemachine.machine import RULES_REVISION
from statemachine.replay import replay_files, restore
from statemachine.states import Phase, State
from tests.adapters.disk import ram_path  # noqa: F401 - a fixture
from tests.adapters.simulated import SECOND, Simulated, until_provisioned
from tests.core.test_revisions import held_by
from tests.crash.device import live

FOLDER = Path(__file__).parent.parent / "journals"
OLD = FOLDER / "register-renew.jsonl"
"Written under revision 1."


class Killed(Exception):
    """No further than here."""


class Upgraded(Simulated):
    """A device with that journal on its disk, and what the journal says in its stores.

    Real: the opener, the journal's files, the runtime. The device is called and configured as it was then.
    """

    def __init__(self, root, content, monkeypatch):
        super().__init__()
        reading = read(content)
        self.left = restore(reading)
        self.header_then = reading.header
        now = self.left.last_unix_ms + 5 * SECOND
        self.clock, self.true = VirtualClock(now), VirtualClock(now)
        self.store = MemoryStore(self.true)
        for generation, spki in held_by(self.left).keys.items():
            self.store.generations[generation] = Generation(spki_sha256=spki)
        self.store.current = held_by(self.left).inventory().current
        self.store.repairs = ()
        self.registrar, self.hub = FakeRegistrar(self.true), FakeHub(self.true, self.store)
        self.paths = paths_below(str(root))
        self.state = Path(self.paths.state_dir)
        self.state.mkdir(parents=True, mode=0o700)
        (self.state / ACTIVE).write_bytes(content)
        then = Identity(
            policy=self.left.policy, fingerprint=self.left.fingerprint, onboarding_not_after_unix_ms=None
        )
        monkeypatch.setattr("adapters.opening.identify", lambda configuration, before: then)
        monkeypatch.setattr("adapters.opening.machine_hash", lambda: self.header_then.machine)
        configuration = config.parse("config.toml", '[provisioning]\nsource = "none"\n')
        self.opener = Opener(self.paths, lambda: configuration, self.store, self.clock, ())
        self.open = self.opener.open
        self.header = self.opener.header
        self.provisional = lambda: provisional(self.opener)

    def files(self):
        """Names and contents, oldest first."""
        found = [*sorted(self.state.glob("journal-*.jsonl")), self.state / ACTIVE]
        return [(path.name, path.read_bytes()) for path in found]

    def readings(self):
        return [read(content) for _, content in self.files()]


@pytest.fixture
def device(ram_path, monkeypatch):  # noqa: F811
    return Upgraded(ram_path, OLD.read_bytes(), monkeypatch)


def in_life(device, scenario):
    """Runs the service for as long as that takes, and then kills it."""

    async def life():
        async with device.running() as runtime:
            return await scenario(runtime)

    return live(life, str(device.paths.root))


async def renews(runtime):
    await runtime.command(RenewRequested(uid=0))
    await until_provisioned(runtime)
    return runtime.snapshot


def test_the_upgrade_is_the_first_thing_that_happens(device):
    assert device.header_then.rules_revision < RULES_REVISION

    async def look():
        opened = await device.opener.open()
        assert opened.snapshot == device.left
        assert opened.last_hash == read(OLD.read_bytes()).last_hash
        changed, begun = opened.events
        assert changed == RulesChanged(before=device.header_then.rules_revision, after=RULES_REVISION)
        assert isinstance(begun, Started)
        assert (begun.rules_revision, begun.foreign_machine, begun.degraded) == (RULES_REVISION, False, ())
        assert opened.rotate, "what follows says in its header by which rules"

    live(look, device.paths.root)


def test_the_history_goes_on_in_a_file_of_the_new_rules(device):
    after = in_life(device, renews)
    assert after.rules_revision == RULES_REVISION
    assert after.epoch == device.left.epoch
    assert after.credential.generation == device.left.credential.generation + 1
    assert after.degraded == ()

    first, second = device.readings()
    assert first.header == device.header_then
    upgrade = [type(record.event) for record in first.records if record.sequence > device.left.sequence]
    assert upgrade == [RulesChanged, Started]
    assert device.files()[0][1].startswith(OLD.read_bytes()), "nothing of what was there is written anew"
    assert second.header.rules_revision == RULES_REVISION
    assert second.header.continues == first.last_hash
    assert second.snapshot.rules_revision == RULES_REVISION

    outcome = replay_files(device.files())
    assert outcome.equal, outcome.divergence or outcome.unreadable
    assert outcome.snapshot == after
    assert outcome.records == after.sequence


def test_the_next_start_is_an_ordinary_one(device):
    in_life(device, renews)
    before = device.readings()[-1]
    in_life(device, renews)
    assert len(device.files()) == 2
    new = device.readings()[-1].records[len(before.records) :]
    assert isinstance(new[0].event, Started)
    assert not any(isinstance(record.event, RulesChanged) for record in new)
    assert replay_files(device.files()).equal


@pytest.mark.parametrize("written", [1, 2])
def test_a_kill_before_the_new_file_is_there_costs_nothing(device, written, monkeypatch):
    """The rules changed, or that and the start are on the disk, under the header of then."""

    async def killed(self):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Runtime, "_rotate", killed)
        with pytest.raises(ExceptionGroup):
            in_life(device, renews)
    lines = (device.state / ACTIVE).read_bytes().splitlines(keepends=True)
    assert len(lines) == len(OLD.read_bytes().splitlines()) + 2
    (device.state / ACTIVE).write_bytes(b"".join(lines[: len(lines) - 2 + written]))

    after = in_life(device, renews)
    assert (after.state, after.phase) == (State.PROVISIONED, Phase.IDLE)
    assert after.epoch == device.left.epoch
    assert after.degraded == ()
    first, second = device.readings()
    changes = [record.event for record in first.records if isinstance(record.event, RulesChanged)]
    assert [change.after for change in changes] == [RULES_REVISION, RULES_REVISION]
    assert second.header.rules_revision == RULES_REVISION
    assert replay_files(device.files()).snapshot == after


def test_a_journal_of_these_rules_is_gone_on_with_in_its_own_file(device, monkeypatch):
    in_life(device, renews)

    async def look():
        opened = await device.opener.open()
        assert [type(event) for event in opened.events] == [Started]
        assert not opened.rotate

    live(look, device.paths.root)


def test_on_another_machine_the_upgrade_comes_first_too(device, monkeypatch):
    monkeypatch.setattr("adapters.opening.machine_hash", lambda: "another")

    async def look():
        opened = await device.opener.open()
        changed, begun = opened.events
        assert isinstance(changed, RulesChanged)
        assert begun.foreign_machine
        assert opened.rotate
        assert structs.replace(begun, foreign_machine=False) == device.opener.started()

    live(look, device.paths.root)
