"""Whoever speaks TLS to DPS or the hub is told which installed roots not to believe, at each exchange."""

import pytest
import trio

from adapters.driven import dps, hub, hub_modules
from adapters.errors import AdapterError
from adapters.fakes.clock import VirtualClock
from statemachine.effects import PollRegistration, ProveCredential, SubmitRegistration
from statemachine.settings import Configuration, DpsProvisioning, SymmetricKeySource
from statemachine.snapshot import Assignment, Credential, Snapshot

ROOT = frozenset({"ab" * 32})
CONFIGURATION = Configuration(
    provisioning=DpsProvisioning(
        global_endpoint="https://localhost:1",
        scope_id="s",
        registration_id="r",
        attestation=SymmetricKeySource(value=b"key"),
    ),
    cloud_retries=0,
)


class Stored:
    """A generation that lies somewhere."""

    def csr_der(self, generation):
        return b"csr"

    def chain_pem(self, generation):
        return b"chain"

    def key_path(self, generation):
        return "/nowhere/key.pem"


@pytest.fixture
def told(monkeypatch):
    """The distrusted roots of each client that was made."""
    seen = []

    class Client:
        def __init__(self, options, environ=None):
            seen.append(options.distrust)

        async def request(self, *args, **kwargs):
            raise AdapterError("far enough", code="far-enough")

        async def aclose(self):
            pass

    for module in (dps, hub, hub_modules):
        monkeypatch.setattr(module, "HttpsClient", Client)
    return seen


async def submit(clock):
    registrar = dps.DpsRegistrar(lambda: CONFIGURATION, clock, Stored(), distrusted=lambda: ROOT)
    await registrar.submit("1.1.0", SubmitRegistration(attempt=1, generation=None))


async def poll(clock):
    registrar = dps.DpsRegistrar(lambda: CONFIGURATION, clock, Stored(), distrusted=lambda: ROOT)
    await registrar.poll("1.1.0", PollRegistration(attempt=1, operation_id="o"))


def prove(issued):
    async def proof(clock):
        prover = hub.HubProver(lambda: CONFIGURATION, clock, Stored(), distrusted=lambda: ROOT)
        effect = ProveCredential(generation=1, hub="h", device_id="d", issued=issued)
        await prover.prove("1.1.0", effect)

    return proof


def modules(source):
    async def listing(clock):
        snapshot = Snapshot(
            assignment=Assignment(hub="h", device_id="d", fingerprint="f"),
            credential=Credential(generation=1, source=source),
        )
        asked = hub_modules.HubModules(
            lambda: CONFIGURATION,
            lambda: snapshot,
            clock,
            Stored(),
            lambda event: None,
            distrusted=lambda: ROOT,
        )
        with pytest.raises(AdapterError):
            await asked.list(asked.where())

    return listing


@pytest.mark.parametrize(
    "exchange",
    [submit, poll, prove(True), prove(False), modules("issued"), modules("configured")],
    ids=["submit", "poll", "prove issued", "prove configured", "modules issued", "modules configured"],
)
def test_installed_roots_are_not_believed(exchange, told):
    trio.run(exchange, VirtualClock(1_800_000_000_000))
    assert told == [ROOT]
