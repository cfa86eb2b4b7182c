"""What is typed is for our tool or for the vendor's, and what a package left out says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters import __main__ as entry_points
from adapters.cli.arguments import AZIOTCTL, IOTEDGE
from adapters.cli.vendor import PASSED_ON, vendors_tool

OURS = ("system reprovision", "config apply", "config mp", "check")
TOOL = """#!/bin/sh
echo "vendor: $*"
exit 7
"""


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    for name in ("aziotctl", "iotedge"):
        path = tmp_path / name
        path.write_text(TOOL)
        path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "whose"),
    [
        ("", "ours"),
        ("--help", "ours"),
        ("--version", "ours"),
        ("--root /x check", "ours"),
        ("check", "ours"),
        ("check --verbose", "ours"),
        ("config", "ours"),
        ("config --help", "ours"),
        ("config mp -c x", "ours"),
        ("system reprovision", "ours"),
        ("system logs", "vendor's"),
        ("system restart", "vendor's"),
        ("config set-option", "vendor's"),
        ("list", "vendor's"),
        ("logs edgeAgent", "vendor's"),
        ("apply", "vendor's"),
    ],
)
def test_whose_it_is(vendor, typed, whose):
    tool = vendors_tool("aziotctl", OURS, typed.split(), directory=str(vendor), environ={})
    assert tool == (str(vendor / "aziotctl") if whose == "vendor's" else None)


def test_without_the_vendors_tool_everything_is_ours(tmp_path):
    assert vendors_tool("iotedge", OURS, ["list"], directory=str(tmp_path), environ={}) is None


def test_nothing_is_passed_on_twice(vendor):
    given = {PASSED_ON: "1"}
    assert vendors_tool("iotedge", OURS, ["list"], directory=str(vendor), environ=given) is None


def test_a_link_to_ourselves_is_not_the_vendors(vendor, monkeypatch, tmp_path):
    itself = tmp_path / "itself"
    itself.symlink_to(vendor / "iotedge")
    monkeypatch.setattr(sys, "argv", [str(itself)])
    assert vendors_tool("iotedge", OURS, ["list"], directory=str(vendor), environ={}) is None


@pytest.mark.parametrize(("program", "commands"), [("aziotctl", AZIOTCTL), ("iotedge", IOTEDGE)])
def test_every_command_of_ours_stays_ours(vendor, program, commands):
    words = [command.words for command in commands]
    for typed in words:
        assert vendors_tool(program, words, typed.split(), directory=str(vendor), environ={}) is None


def test_the_vendors_tool_takes_the_place_of_ours(vendor):
    code = (
        "import sys; from adapters.cli import vendor; from adapters.__main__ import iotedge\n"
        f"vendor.vendors_tool.__kwdefaults__['directory'] = {str(vendor)!r}\n"
        "sys.exit(iotedge())"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, "logs", "edge Agent", "--tail", "5"],
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (7, "vendor: logs edge Agent --tail 5\n"), done.stderr


@pytest.mark.parametrize("command", ["cloud", "demo"])
def test_what_was_left_out_says_so(monkeypatch, capsys, command):
    # As in an installation without it: None makes an import fail as if nothing were there.
    monkeypatch.setitem(sys.modules, f"adapters.cli.{command}", None)
    assert entry_points.identityd([command]) == 2
    said = capsys.readouterr().err
    assert f"`identityd {command}` is not part of this installation" in said
    assert "pipx install" in said
