"""The generator and the harness themselves, and a sample of mutants that must all be killed."""

import ast
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from statemachine import attempt, guards, table
from statemachine.errors import TableMistake
from tests.mutation import equivalent, killers
from tests.mutation.difference import difference, steps
from tests.mutation.equivalent import Entry, EntryMistake
from tests.mutation.graft import NotGrafted, graft
from tests.mutation.harness import ROOT, GreenFirst, Look, Verdict, green
from tests.mutation.mutants import CODE, TABLES, all_mutants
from tests.mutation.report import Run, text
from tests.mutation.source import Change, Mutant, Source, named


@pytest.fixture(scope="module")
def mutants():
    return all_mutants()


@pytest.fixture(scope="module")
def some_steps():
    return steps(seeds=6)


@pytest.fixture(scope="module")
def journals():
    """Read before any graft: those that replay then are the ones that count."""
    return killers.Journals()


def in_child(work):
    """What it returns, from a process that is thrown away."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writing, repr(work()).encode()[:4000])
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the child failed"
    return said


def counts(mutants, module):
    return Counter(one.kind for one in mutants if one.source.short == module)


# --- what is generated -------------------------------------------------------------------------------


def test_ids_are_unique_and_say_where(mutants):
    assert len({one.id for one in mutants}) == len(mutants) > 3_000
    assert all(one.id.startswith(f"{one.source.short}.") for one in mutants)
    assert not [one.id for one in mutants if re.search(r"\bline \d", one.id)]


@pytest.mark.parametrize("name", [*TABLES, *CODE])
def test_every_module_that_decides_has_mutants(name, mutants):
    assert any(one.source.name == name for one in mutants)


@pytest.mark.parametrize("module", [attempt, table], ids=lambda one: one.__name__)
def test_every_row_is_dropped_redirected_and_robbed_of_guard_and_action(module, mutants):
    found = counts(mutants, module.__name__.rpartition(".")[2])
    rows = module.ROWS
    guarded = sum(row.guard is not None for row in rows)
    assert found["row dropped"] == len(rows)
    assert found["guard dropped"] == found["guard negated"] == guarded
    assert found["action dropped"] == sum(row.action is not None for row in rows)
    assert found["target dropped"] == sum(row.dest is not None for row in rows)
    assert found["source dropped"] == sum(len(row.source) for row in rows if len(row.source) > 1)
    assert found["target swapped"] > 3 * len(rows)
    assert found["order swapped"] > 0


def test_every_guard_is_always_yes_always_no_and_the_opposite(mutants):
    found = {one.id for one in mutants if one.kind == "guard"}
    for name, function in vars(guards).items():
        if (
            getattr(function, "__module__", "") == guards.__name__
            and function.__annotations__["return"] is bool
        ):
            for what in ("always True", "always False", "negated"):
                assert f"guards.{name}: guard: {what}" in found


def test_every_wish_is_dropped_once(mutants):
    """Counted the simple way: calls of the methods through which effects leave a step."""
    for name in ("statemachine.actions", "statemachine.attempt_actions", "statemachine.absorb"):
        source = Source(name)
        calls = re.findall(r"\bwork\.(?:ask|tell|arm_at|arm_after|disarm|signal)\(", source.path.read_text())
        dropped = [
            one
            for one in mutants
            if one.source.name == name and one.kind == "effect dropped" and " without " not in one.id
        ]
        assert len(dropped) == len(calls)


def test_ids_do_not_move_with_the_lines(mutants):
    """Somebody writes a comment above everything: the same mutants, one line lower."""
    source = Source("statemachine.guards")
    moved = ast.parse("# A comment.\n" + source.path.read_text(encoding="utf-8"))
    before = list(named(source, _code_changes(source)))
    source.tree = moved
    after = list(named(source, _code_changes(source)))
    assert [one.id for one in before] == [one.id for one in after]
    assert {two.line - one.line for one, two in zip(before, after, strict=True)} == {1}


def _code_changes(source):
    from tests.mutation.code import _changes

    return list(_changes(source))


def test_generating_changes_nothing(mutants):
    """Edits are made when a mutant is wanted, not before."""
    trees = {id(one.source): one.source for one in mutants}
    for source in trees.values():
        assert ast.dump(source.tree) == ast.dump(ast.parse(source.path.read_text(encoding="utf-8")))


def test_every_edit_changes_its_tree(mutants):
    """An edit that changes nothing would be a mutant that cannot be killed."""
    for mutant in random.Random(5).sample(mutants, 40):
        assert in_child(lambda mutant=mutant: edited(mutant)) == "True", mutant.id


def edited(mutant):
    before = ast.dump(mutant.source.tree)
    mutant.edit()
    return ast.dump(mutant.source.tree) != before


# --- grafting ----------------------------------------------------------------------------------------


def unchanged(name, function=None):
    """A mutant that is none."""
    source = Source(name)
    change = Change(kind="none", what="nothing", node=source.tree, edit=lambda: None, function=function)
    return next(named(source, [change]))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("statemachine.table", None),
        ("statemachine.attempt", None),
        ("statemachine.absorb", None),
        ("statemachine.policy", None),
        ("statemachine.guards", "within_budget"),
        ("statemachine.work", "Work.ask"),
        ("statemachine.snapshot", "ClockTrust.correction_ms"),
        ("statemachine.machine", "_compiled"),
    ],
)
def test_a_graft_without_a_change_decides_the_same(name, function, journals, some_steps):
    def work():
        graft(unchanged(name, function))
        return journals.finds(), difference(some_steps)

    assert in_child(work) == "(None, None)"


@pytest.mark.parametrize(
    ("mutant", "expected"),
    [
        ("table.on(HoldRequested) in (U, E): row dropped: stays", "refused"),
        ("attempt.on(KeyStaged) in (STAGING,): action dropped: do.keep_key_and_submit", "seen"),
        ("attempt.on(KeyStaged) in (STAGING,): target swapped: to SUBMITTING -> to POLLING", "seen"),
        ("guards.has_credential: guard: negated", "seen"),
        ("policy._POLL_GAPS_MS: constant: in (100, 500, 1000, 2400, 3000, 3200), 100 -> 101", "seen"),
        ("work.Work.arm_after: arithmetic: self.now + delay_ms: + -> -", "seen"),
        ("absorb._TAKES: entry dropped: Started", "seen"),
        ("machine._stale: effect dropped: work.arm_at(armed.name, armed.at_unix_ms)", "seen"),
    ],
)
def test_a_graft_reaches_the_live_machine(mutant, expected, mutants, journals, some_steps):
    one = next(one for one in mutants if one.id == mutant)

    def work():
        try:
            graft(one)
        except TableMistake:
            return "refused"
        return "seen" if journals.finds() is not None or difference(some_steps) is not None else "missed"

    assert in_child(work) == repr(expected)


def test_what_cannot_be_grafted_is_no_mutant_killed():
    with pytest.raises(NotGrafted, match=r"guards\.no_such"):
        graft(unchanged("statemachine.guards", "no_such"))


def test_killers_are_quiet_on_the_unchanged_machine(journals, some_steps):
    assert len(journals.readings) >= 12
    assert journals.finds() is None
    assert difference(some_steps) is None


def test_a_test_that_is_red_before_any_change_stops_the_run():
    red = '{"tests/core/test_a.py::test_a": {"ok": false, "cpu_s": 0.1}}'
    with pytest.raises(GreenFirst, match=r"fails without any change"):
        green(red)
    assert green(red.replace("false", "true"))["tests/core/test_a.py::test_a"].cpu_s == 0.1


def test_a_test_is_asked_only_about_what_it_reaches(mutants):
    look = Look(ok=True, cpu_s=0.0, lines={"statemachine.guards": frozenset({1})}, measured=True)
    some = next(one for one in mutants if one.source.short == "guards" and one.lines and 1 not in one.lines)
    row = next(one for one in mutants if one.pairs)
    top = next(one for one in mutants if one.source.short == "policy" and not one.lines)
    assert not look.may_notice(some)
    assert not look.may_notice(row)
    assert look.may_notice(top), "what a module does at import reaches everybody"
    assert Look(ok=True, cpu_s=0.0).may_notice(some), "nobody measured it"
    reaching = Look(ok=True, cpu_s=0.0, pairs=frozenset(list(row.pairs)[:1]), measured=True)
    assert reaching.may_notice(row)


# --- the list of equivalent ones, and the report -----------------------------------------------------


def test_every_entry_is_about_mutants_that_exist(mutants):
    assert equivalent.stale(equivalent.entries(), mutants, ()) == []


def test_stale_entries_are_told(mutants):
    gone = Entry(pattern="guards.no_such: *", reason="It is for a test only.")
    wrong = Entry(pattern="guards.on_hold: guard: *", reason="It is for a test only.")
    killed = [one for one in mutants if one.id == "guards.on_hold: guard: negated"]
    assert equivalent.stale((gone, wrong), mutants, killed) == [
        "no such mutant: guards.no_such: *",
        "it is not equivalent, for it was killed: guards.on_hold: guard: negated",
    ]
    assert equivalent.reason_for(killed[0], (gone, wrong)) == "It is for a test only."
    assert equivalent.reason_for(killed[0], (gone,)) is None


@pytest.mark.parametrize(
    "content",
    [
        '[[equivalent]]\nid = "a"',
        '[[equivalent]]\nid = "a"\nreason = "Because."',
        '[[equivalent]]\nid = ["a", "a"]\nreason = "It is listed twice here."',
    ],
)
def test_a_list_without_reasons_is_refused(content, tmp_path):
    file = tmp_path / "equivalent.toml"
    file.write_text(content)
    with pytest.raises(EntryMistake):
        equivalent.entries(file)


def verdicts(mutants: list[Mutant], *outcomes: str | None) -> list[Verdict]:
    return [Verdict(mutant=one, killer=killer) for one, killer in zip(mutants, outcomes, strict=False)]


def test_the_score_leaves_equivalent_ones_out(mutants):
    run = Run(verdicts=verdicts(mutants, "build", "journals", None, None, "difference"))
    run.reasons = {mutants[2].id: "Nobody can tell."}
    assert run.score == "2/4 = 50.00 %"
    assert [one.mutant for one in run.survivors] == [mutants[3], mutants[4]]
    assert not run.passed
    assert "score: killed / non-equivalent = 2/4 = 50.00 %" in text(run)
    assert Run(verdicts=verdicts(mutants, "build", "tests")).passed
    assert not Run(verdicts=verdicts(mutants, "build", "tests"), stale=["no such mutant: x"]).passed


# --- a sample of the whole ---------------------------------------------------------------------------


def test_a_sample_of_mutants_is_killed():
    """The whole run is ``python -m tests.mutation``; the tests of this run are those that must kill."""
    command = ["-m", "tests.mutation", "--sample", "12", "--seed", "3", "--unchecked"]
    command += ["--killers", "build,journals,tests,rest"]
    ran = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "score: killed / non-equivalent" in ran.stdout
