"""The original's own cases, where they are at hand; ``python -m tests.conformance`` prints the tally."""

from pathlib import Path

import pytest

from tests.conformance import __main__ as tally
from tests.conformance import apply_cases, identityd_files


def cases() -> list[object]:
    found = [
        pytest.param(kind, name, id=f"{title}/{name}") for title, kind in tally.SETS for name in kind.names()
    ]
    gone = pytest.mark.skip(reason="the conformance files are not beside this repository")
    return found or [pytest.param(None, "", marks=gone, id="none")]


@pytest.mark.parametrize(("kind", "name"), cases())
def test_case(kind, name) -> None:
    assert kind.differences(name) == []


def test_the_tally_of_nothing_says_so(monkeypatch, capsys) -> None:
    for kind in (apply_cases, identityd_files):
        monkeypatch.setattr(kind, "DIRECTORY", Path("/nonexistent"))
    assert tally.main() == 2
    assert capsys.readouterr().out.count("not beside this repository") == 2


def test_the_tally_counts_what_differs(monkeypatch, capsys) -> None:
    monkeypatch.setattr(apply_cases, "names", lambda: ["a", "b"])
    monkeypatch.setattr(apply_cases, "differences", lambda name: [] if name == "a" else ["certd.toml: x"])
    monkeypatch.setattr(identityd_files, "names", lambda: [])
    assert tally.main() == 1
    told = capsys.readouterr().out
    assert "config-apply: 1 of 2 cases equal\n  b\n    certd.toml: x\n" in told
    assert told.endswith("1 of 2 cases equal\n")
