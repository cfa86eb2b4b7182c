"""What is in the Debian package and what is not, without installing it."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.paths import paths_below
from tests.packaging.debian import EPOCH, ROOT, build, contents, control, extract, needs_clean_root

CODE = "./usr/lib/identityd"


@pytest.fixture(scope="session")
def tree(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extract(package, tmp_path_factory.mktemp("tree"))


def test_everything_is_roots_and_of_one_date(package):
    for member in contents(package):
        assert (member.uid, member.gid) == (0, 0), member.name
        assert member.mtime == int(EPOCH), member.name
        assert not member.mode & 0o022, member.name
        assert not member.mode & 0o7000, member.name


def test_it_brings_no_stand_in_cloud_no_tests_and_nothing_of_developers(package):
    names = {member.name for member in contents(package)}
    assert f"{CODE}/adapters/service.py" in names
    for unwanted in (
        r"/simulators/",
        r"/cli/(cloud|demo)",
        r"/demo\.toml$",
        r"/(pip|pytest|mypy|ruff|hypothesis|trustme|schemathesis|hatchling)(-|/|$)",
        r"\.pyc$",
        r"^\./etc/aziot",
        r"^\./usr/bin/(aziotctl|iotedge)$",
        r"^\./var/",
    ):
        assert [name for name in names if re.search(unwanted, name)] == [], unwanted


def test_configuration_of_the_administrator_is_a_conffile(package):
    etc = {m.name.lstrip(".") for m in contents(package) if m.name.startswith("./etc/") and m.isfile()}
    assert set(control(package, "conffiles").split()) == etc == {"/etc/default/identityd"}


def test_it_depends_on_the_python_it_was_built_for(package):
    major, minor = sys.version_info[:2]
    depends = re.search(r"^Depends: (.*)$", control(package, "control"), re.M)[1]
    assert f"python3 (>= {major}.{minor})" in depends
    assert f"python3 (<< {major}.{minor + 1})" in depends


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_parse_and_stop_at_a_failure(package, script):
    text = control(package, script)
    assert text.startswith("#!/bin/sh\nset -e\n")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True, timeout=60)


def test_files_are_where_systemd_looks(package):
    names = {member.name for member in contents(package)}
    for place in (
        "systemd/system/identityd.service",
        "systemd/system/identityd-control.socket",
        "sysusers.d/identityd.conf",
        "tmpfiles.d/identityd.conf",
    ):
        assert f"./usr/lib/{place}" in names


def run(tree: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """As the launcher does, but from that tree."""
    code = (
        f"import sys; sys.path.insert(0, {str(tree / 'usr/lib/identityd')!r}); sys.argv[0] = 'identityd'\n"
        "from adapters.__main__ import identityd; sys.exit(identityd())"
    )
    return subprocess.run(
        [sys.executable, "-ISB", "-c", code, *words],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        timeout=60,
    )


def test_all_that_is_left_can_be_imported_without_what_was_left_out(tree):
    code = (
        f"import sys, pkgutil, importlib; sys.path.insert(0, {str(tree / 'usr/lib/identityd')!r})\n"
        "import adapters, statemachine\n"
        "for package in (adapters, statemachine):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(found.name); print(found.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-ISB", "-c", code], capture_output=True, text=True, cwd="/", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "adapters.service" in done.stdout.split()


def test_it_runs_from_its_own_files_alone(tree):
    version = run(tree, "--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "identityd"), version.stderr
    simulated = run(tree, "simulate", "--years", "1", "--json")
    assert simulated.returncode == 0, simulated.stderr


@pytest.mark.parametrize("command", ["cloud", "demo"])
def test_what_was_left_out_says_so(tree, command):
    done = run(tree, command)
    assert done.returncode == 2
    assert f"`identityd {command}` is not part of this installation" in done.stderr


def test_what_removal_erases_is_what_the_service_keeps(package):
    paths = paths_below("/")
    erased = re.findall(r"/var/lib/aziot/\w+", control(package, "postrm"))
    assert {paths.state_dir, paths.certd_home, paths.keyd_home} <= set(erased)


@needs_clean_root
def test_the_same_sources_elsewhere_give_the_same_bytes(tmp_path):
    parts = ("adapters", "statemachine", "config", "docs", "packaging")
    files = ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "requirements.lock")
    first, second = tmp_path / "first", tmp_path / "second"
    for part in parts:
        shutil.copytree(ROOT / part, first / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in files:
        shutil.copy(ROOT / file, first)
    shutil.copytree(first, second)
    digests = {hashlib.sha256(build(one / "out", one).read_bytes()).hexdigest() for one in (first, second)}
    assert len(digests) == 1
