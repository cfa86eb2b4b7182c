"""`identityd explore`: several processes, exit statuses, and the way to a violation as a journal."""

from dataclasses import replace

import msgspec
import pytest

from adapters.__main__ import identityd
from statemachine import explore, machine, table
from statemachine.environment import SORTS, Choice
from statemachine.machine import build
from statemachine.replay import replay_files
from statemachine.states import State


def run(capsys, *arguments):
    status = identityd(["explore", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def nothing_ever_happens(monkeypatch):
    """But the first start: a world small enough to be closed at once."""
    first = (Choice("first start", "right"),)
    monkeypatch.setattr(explore, "common", lambda world: () if world.snapshot.sequence else first)
    monkeypatch.setattr(explore, "rare", lambda world: ())
    monkeypatch.setattr(explore, "passings", lambda world: ())


def test_what_was_not_looked_at_is_no_answer(capsys):
    status, out, err = run(capsys, "--surprises", "0", "--most", "400", "--jobs", "2", "--json")
    facts = msgspec.json.decode(out)
    assert status == 2
    assert "not closed: more than 400 worlds" in err
    assert not facts["closed"]
    assert facts["violated"] == []
    assert facts["worlds"] >= 400
    assert facts["worlds"] == sum(facts["worlds_by_surprises"])


def test_what_leads_nowhere_is_a_trap(capsys, nothing_ever_happens, monkeypatch, tmp_path):
    """Closed, and no way on from the only world there is."""
    path = tmp_path / "way.jsonl"
    status, out, err = run(capsys, "--surprises", "1", "--jobs", "2", "--journal", str(path))
    assert status == 1
    assert "closed: nothing is left to look at" in out
    assert explore.LIVENESS in out
    assert "With real instants it did not come about" in out
    assert "with 1 surprises: 1 worlds, all looked at" in err
    assert replay_files([("way", path.read_bytes())]).records == 1


def test_a_closed_search_without_a_find_is_the_claim(capsys, nothing_ever_happens, monkeypatch):
    monkeypatch.setattr(explore, "arrived", lambda snapshot: True)
    status, out, _ = run(capsys, "--surprises", "1", "--jobs", "1", "--json")
    assert status == 0
    assert msgspec.json.decode(out)["worlds_by_surprises"] == [1, 0]


def test_surprises_of_some_sorts_alone(capsys, nothing_ever_happens, monkeypatch):
    """A device that stays at its first start, and what might go otherwise there: a command, and a kill."""
    monkeypatch.setattr(explore, "arrived", lambda snapshot: True)
    restart, renew = Choice("restart", "another machine"), Choice("reprovision", "operator")
    monkeypatch.setattr(explore, "rare", lambda world: (restart, renew) if world.snapshot.sequence else ())
    _, out, _ = run(capsys, "--only", "command, refusal", "--jobs", "1", "--json")
    facts = msgspec.json.decode(out)
    assert facts["surprises_followed"] == ["command", "refusal"]
    assert facts["worlds_by_surprises"] == [1, 1]
    _, out, _ = run(capsys, "--jobs", "1", "--json")
    facts = msgspec.json.decode(out)
    assert facts["surprises_followed"] == list(SORTS)
    assert facts["worlds_by_surprises"] == [1, 2]
    _, out, _ = run(capsys, "--only", "loss", "--jobs", "1")
    assert out.startswith("surprises followed: loss; no others\nworlds: 2 (")


def test_a_sort_that_does_not_exist_is_told_with_those_that_do(capsys):
    status, _, err = run(capsys, "--only", "kill,crash")
    assert status == 2
    assert "--only: no surprise is a 'crash'; there are answer, kill, clock" in err


def test_the_help_names_every_sort(capsys):
    with pytest.raises(SystemExit):
        identityd(["explore", "--help"])
    assert ", ".join(SORTS) in " ".join(capsys.readouterr().out.split())


def nothing(work):
    pass


def test_a_violation_is_told_as_a_journal_that_replays(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rows = tuple(
        replace(row, action=nothing) if row.why.startswith("The registration failed; another") else row
        for row in table.ROWS
    )
    broken = build(State, rows, table.IGNORED, initial=State.UNPROVISIONED, attribute="state")
    monkeypatch.setattr(machine, "LIFECYCLE", broken)
    status, out, _ = run(capsys, "--surprises", "0", "--jobs", "2")
    assert status == 1
    assert "violated" in out
    assert "   1 first start, right\n   2 deadline, timeout\n" in out
    (path,) = tmp_path.glob("identityd-counterexample-*.jsonl")
    assert f"read it with `identityd journal show {path.name}`" in out
    outcome = replay_files([(path.name, path.read_bytes())])
    assert (outcome.equal, outcome.records) == (True, 2)
