"""The wheel: what pip and pipx install, and that its commands run from it alone."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.packaging.debian import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (made,) = place.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of a fresh environment; only what the wheel needs is borrowed, so that no index is asked."""
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(place), "--disable-pip-version-check"]
    command = [*pip, "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", str(wheel)]
    subprocess.run(command, check=True, timeout=120)
    return place / "bin"


def run(program: Path, *words: str) -> str:
    done = subprocess.run(
        [str(program), *words], capture_output=True, text=True, cwd="/", env={"PATH": ""}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_two_packages_and_their_data_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "adapters",
        "statemachine",
        "identityd",
    }
    assert {"adapters/data/default.toml", "adapters/data/demo.toml"} <= set(names)
    assert [name for name in names if name.endswith((".pyc", ".sock", ".key", ".pem"))] == []


@pytest.mark.parametrize("program", ["identityd", "aziotctl", "iotedge"])
def test_its_commands_are_there(installed, program):
    assert run(installed / program, "--version").split()[0] == program
    assert "COMMAND" in run(installed / program, "--help")


def test_it_brings_its_own_code_and_the_stand_in_cloud(installed):
    place = run(installed / "python", "-c", "import adapters, statemachine; print(adapters.__file__)")
    assert str(installed.parent) in place
    assert "stand-in" in run(installed / "identityd", "cloud", "--help")
