"""What follows when somebody reads the device's own certificate and it is gone."""

import threading

import pytest
import trio
import trio.testing

from adapters import watched
from adapters.errors import StoreUnavailable
from adapters.ports import Issuer
from adapters.watched import WatchedCertificates
from statemachine.events import CredentialLost, Inventory, StoredCredential
from statemachine.settings import IDENTITY_CERTIFICATE_ID
from statemachine.snapshot import Snapshot
from tests.adapters.simulated import Simulated, simulate, until_provisioned

PEM = b"-----BEGIN CERTIFICATE-----"
KEPT = Inventory(
    current=StoredCredential(generation=1, source="issued", hub="h", device_id="d", fingerprint="f"),
    newest_generation=1,
)
LOST = Inventory(problem="key.pem is missing", newest_generation=1)


def provisioned_snapshot():
    device = Simulated()

    async def scenario():
        async with device.running() as runtime:
            await until_provisioned(runtime)
            return runtime.snapshot

    return simulate(scenario)


PROVISIONED = provisioned_snapshot()


class Machine:
    """As much of the runtime as a reader sees."""

    def __init__(self, snapshot=PROVISIONED):
        self.snapshot = snapshot
        self.posted = []

    def post(self, event):
        assert threading.current_thread() is threading.main_thread()
        self.posted.append(event)


class Certd:
    """A CertificateService with one content, and the inventory of the store below it."""

    def __init__(self, content=None, inventory=LOST):
        self.content = content
        self.kept = inventory
        self.free = threading.Event()
        self.free.set()
        self.looking = 0
        self.written = []

    async def read_certificate(self, certificate_id):
        await trio.lowlevel.checkpoint()
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    async def create_certificate(self, *what):
        self.written.append(what)
        return PEM

    async def import_certificate(self, *what):
        self.written.append(what)

    async def delete_certificate(self, *what):
        self.written.append(what)

    def inventory(self):
        assert threading.current_thread() is not threading.main_thread()
        self.looking += 1
        assert self.free.wait(10)
        return self.kept


def watching(certd, machine):
    return WatchedCertificates(certd, certd.inventory, machine)


def test_a_certificate_that_is_there_is_only_read():
    machine = Machine()
    certificates = watching(Certd(PEM), machine)
    assert trio.run(certificates.read_certificate, IDENTITY_CERTIFICATE_ID) == PEM
    assert machine.posted == []


def test_many_readers_of_a_lost_credential_tell_it_once():
    machine = Machine()
    certificates = watching(Certd(), machine)

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(certificates.read_certificate, IDENTITY_CERTIFICATE_ID)
        await certificates.read_certificate(IDENTITY_CERTIFICATE_ID)

    trio.run(main)
    generation = PROVISIONED.credential.generation
    assert machine.posted == [CredentialLost(generation=generation, reason="key.pem is missing")]


def test_what_cannot_be_read_is_looked_into_and_still_an_error():
    machine = Machine()
    certificates = watching(Certd(StoreUnavailable("no", code="io-error")), machine)
    with pytest.raises(StoreUnavailable):
        trio.run(certificates.read_certificate, IDENTITY_CERTIFICATE_ID)
    assert len(machine.posted) == 1


@pytest.mark.parametrize(
    ("certificate_id", "snapshot", "inventory"),
    [
        ("aziot-dps-trust-bundle", PROVISIONED, Inventory(newest_generation=1)),
        (IDENTITY_CERTIFICATE_ID, Snapshot(), Inventory(newest_generation=1)),
        (IDENTITY_CERTIFICATE_ID, PROVISIONED, KEPT),
    ],
)
def test_nothing_is_lost(certificate_id, snapshot, inventory):
    machine = Machine(snapshot)
    certificates = watching(Certd(inventory=inventory), machine)
    assert trio.run(certificates.read_certificate, certificate_id) is None
    assert machine.posted == []


def test_a_card_that_hangs_keeps_nothing_but_who_looks(monkeypatch):
    monkeypatch.setattr(watched, "LOOKS", 2)
    certd = Certd()
    certd.free.clear()

    async def main():
        certificates = watching(certd, Machine())
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(certificates.read_certificate, IDENTITY_CERTIFICATE_ID)
            await trio.testing.wait_all_tasks_blocked(0.05)
            # The threads of everybody else are free, and nobody who looks has to be waited for.
            await trio.to_thread.run_sync(lambda: None)
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    finally:
        certd.free.set()
    assert certd.looking == 2


def test_writing_is_passed_on():
    certd, machine = Certd(), Machine()
    certificates = watching(certd, machine)
    issuer = Issuer(certificate_id="ca", key_handle="h")

    async def main():
        assert await certificates.create_certificate("x", "a request", issuer) == PEM
        await certificates.import_certificate("x", "a certificate")
        await certificates.delete_certificate("x")

    trio.run(main)
    assert certd.written == [("x", "a request", issuer), ("x", "a certificate"), ("x",)]
    assert (certd.looking, machine.posted) == (0, [])
