"""In which line a key stands, whatever way it is written."""

import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.config_files import parsed
from adapters.config_findings import MAX_PROBLEMS, Findings
from adapters.config_lines import MAX_LABEL_CHARS, lines_by_key
from adapters.config_toml import toml_text

TEXTS: dict[str, tuple[str, dict[str, int]]] = {
    "plain keys": ("a = 1\n\n# b\nb = 2", {"a": 1, "b": 4}),
    "tables": ("[t]\nk = 1\n[t.u]\nk = 1", {"t": 1, "t.k": 2, "t.u": 3, "t.u.k": 4}),
    "dotted keys": ("a.b . c = 1\na.d = 1", {"a": 1, "a.b": 1, "a.b.c": 1, "a.d": 2}),
    "a table that comes late": ("[a.b]\n[a]\nk = 1", {"a": 1, "a.b": 1, "a.k": 3}),
    "quoted keys": ('"a b" = 1\n\'c"d\' = 2\n"\\u0041\\"" = 3', {"a b": 1, 'c"d': 2, 'A"': 3}),
    "an array of tables": (
        "[[p]]\nu = 1\n[p.l]\nk = 1\n[[p]]\nu = 2",
        {"p": 1, "p[1]": 1, "p[1].u": 2, "p[1].l": 3, "p[1].l.k": 4, "p[2]": 5, "p[2].u": 6},
    ),
    "the same inline": (
        "p = [ # one\n  { u = 1 },\n  { u = 2, v = { w = 3 } }, ]\nq = 1",
        {
            "p": 1,
            "p[1]": 2,
            "p[1].u": 2,
            "p[2]": 3,
            "p[2].u": 3,
            "p[2].v": 3,
            "p[2].v.w": 3,
            "q": 4,
        },
    ),
    "lists of lists": (
        "a = [\n[1],\n[2, 3]]",
        {"a": 1, "a[1]": 2, "a[1][1]": 2, "a[2]": 3, "a[2][1]": 3, "a[2][2]": 3},
    ),
    "texts that look like keys": (
        'a = """\nb = 1\n[c]\n\\"""\n""""\nd = \'\'\'\n[e]\n\'\'\'\nf = "g = 1 # h"\nh = \'x = [\'',
        {"a": 1, "d": 6, "f": 9, "h": 10},
    ),
    "values with signs": ("a = 1979-05-27 07:32:00Z # b = 1\nc = -inf", {"a": 1, "c": 2}),
    "lines of Windows": ("a = 1\r\nb = 2\r\n[t]\r\nc = 3\r\n", {"a": 1, "b": 2, "t": 3, "t.c": 4}),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS)
def test_where_a_key_stands(text, expected) -> None:
    assert tomllib.loads(text)
    assert lines_by_key(text, str) == expected


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: "." not in name and "[" not in name
)
values = st.recursive(
    st.text(max_size=12) | st.integers(-(10**9), 10**9) | st.booleans(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(names, below, max_size=3),
    max_leaves=12,
)
trees = st.dictionaries(names, values, max_size=5)
fuzzed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@fuzzed
@given(tree=trees)
def test_what_is_written_is_read_back_and_every_key_of_it_is_found(tree: dict[str, Any]) -> None:
    text = toml_text(tree)
    assert tomllib.loads(text) == tree
    found = lines_by_key(text, str)
    for label in labels(tree, ""):
        assert label in found
        # Where a table or a plain key begins, its name is in that very line.
        assert 1 <= found[label] <= text.count("\n") + 1


def labels(tree: dict[str, Any], start: str) -> list[str]:
    found = []
    for name, value in tree.items():
        label = f"{start}.{name}" if start else name
        found.append(label)
        if isinstance(value, dict):
            found += labels(value, label)
    return found


@fuzzed
@given(
    text=st.text(max_size=60)
    | st.lists(st.sampled_from(list("[]{}=\"'\n.,a0#\\ ")), max_size=40).map("".join)
)
def test_any_text_comes_to_an_end(text) -> None:
    assert all(len(label) < MAX_LABEL_CHARS for label in lines_by_key(text, str))


@pytest.mark.parametrize(
    "text",
    [
        "a" + ".a" * 500 + " = 1\n" * 1,
        "".join(f"k{number} = [1]\n" for number in range(20_000)),
        f"a = [{'1,' * 60_000}]",
        "".join("[[p]]\n" for _ in range(20_000)),
        f"a = [{'[' * 300}{']' * 300}]",
    ],
    ids=["a long path", "many keys", "a long list", "many elements", "deep"],
)
def test_what_is_large_is_bounded_and_told(text) -> None:
    findings = Findings("c.toml")
    assert parsed(text, findings) is not None
    findings.add("nowhere", "x")
    assert findings.mistakes[0].line is None


# --- in findings -------------------------------------------------------------------------------------


def test_a_missing_key_is_told_with_the_table_around_it() -> None:
    findings = Findings("c.toml")
    assert parsed("x = 1\n[a.b]\nc = 1\n", findings) is not None
    for key in ("a.b.c", "a.b.d", "a.e", "f", "a.b.c.d"):
        findings.add(key, "told")
    assert findings.lines == (
        "c.toml: line 3: a.b.c: told",
        "c.toml: line 2: a.b.d: told",
        "c.toml: line 2: a.e: told",
        "c.toml: f: told",
        "c.toml: line 3: a.b.c.d: told",
    )


def test_each_file_has_its_own_lines() -> None:
    findings = Findings("c.toml")
    other = findings.of("d.toml")
    assert parsed("a = 1", findings) is not None
    assert parsed("\n\na = 1", other) is not None
    findings.add("a", "one")
    findings.of("d.toml").note("a", "two")
    assert findings.lines == ("c.toml: line 1: a: one",)
    assert findings.notes == ("d.toml: line 3: a: two",)


def test_a_key_that_may_be_a_secret_is_found_under_the_name_it_is_told_by() -> None:
    findings = Findings("c.toml")
    assert parsed(f"a = 1\n[t]\n{'A' * 40} = 1", findings) is not None
    findings.note("t.<hidden>", "x")
    assert findings.remarks[0].line == 3


def test_broken_toml_is_told_with_its_place() -> None:
    findings = Findings("c.toml")
    assert parsed("a = 1\nb = ?", findings) is None
    (mistake,) = findings.mistakes
    assert (mistake.line, mistake.column, mistake.key) == (2, 5, "")
    assert str(mistake) == "c.toml: line 2, column 5: not valid TOML: Invalid value"


def test_remarks_are_bounded_too() -> None:
    findings = Findings("c.toml")
    for number in range(MAX_PROBLEMS + 7):
        findings.note("", f"{number}")
    assert len(findings.remarks) == MAX_PROBLEMS + 1
    assert findings.remarks[-1].text == "and 7 more remarks like these"
