"""One package for the whole session, since building it takes a while; for each module a root and a cloud."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.debian import Root, build, clean_root
from tests.service.device import Cloud, short_root


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb")
    return build(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """Outside: the package has none."""
    with short_root() as place:
        made = Cloud(place, "--assigning", "0")
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def place() -> Iterator[Path]:
    with short_root() as path:
        yield path


@pytest.fixture(scope="module")
def root(package: Path) -> Iterator[Root]:
    """The package is installed in it."""
    with short_root() as place:
        made = Root(clean_root(place / "root"))
        shutil.copy(package, made.path("/tmp/identityd.deb"))
        made.run("dpkg", "--install", "/tmp/identityd.deb")
        yield made
