"""One cloud for a whole module; devices that end with their test, whatever became of it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.service.device import Ahead, Cloud, Device, short_root

MakeDevice = Callable[[str], Device]


@pytest.fixture(scope="session", autouse=True)
def ahead() -> Iterator[None]:
    """The next process is made while a test goes on."""
    Ahead.wanted = True
    yield
    Ahead.close()


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """Certificates live an hour, a poll ends an operation, and nothing goes wrong unless a test says so."""
    with short_root() as root:
        made = Cloud(root, "--assigning", "0")
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def template(cloud: Cloud) -> Iterator[Path]:
    """The root of a device that was provisioned and stopped."""
    with short_root() as root:
        device = Device(root / "device", cloud).configure().start()
        try:
            device.until_provisioned()
            assert device.stop() == 0
            yield device.root
        finally:
            device.kill()


@pytest.fixture
def place() -> Iterator[Path]:
    with short_root() as root:
        yield root


@pytest.fixture
def make(cloud: Cloud, place: Path) -> Iterator[MakeDevice]:
    """Makes devices by name, each configured for the cloud, whose settings are put back afterwards."""
    made: list[Device] = []

    def make_device(name: str = "device") -> Device:
        made.append(Device(place / name, cloud, name).configure())
        return made[-1]

    try:
        yield make_device
    finally:
        for device in made:
            device.kill()
        cloud.faults()
        cloud.bundle(b"")
        cloud.options(cert_lifetime_s=3600, assigning=0, identity_certs=True, retry_after_s=None)


@pytest.fixture
def provisioned(make: MakeDevice, template: Path) -> Device:
    """A device of its own, provisioned and stopped."""
    device = make("device")
    shutil.rmtree(device.root)
    shutil.copytree(template, device.root, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    return device
