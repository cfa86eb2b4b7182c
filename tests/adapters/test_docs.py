"""The documentation: generated pages are fresh, links lead somewhere, what is shown is real."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tomli

from adapters import config
from adapters.__main__ import AZIOTCTL, IDENTITYD, IOTEDGE
from adapters.cli.arguments import Command, parser_for
from adapters.config_rows_drop_ins import DROP_INS
from adapters.tables import machine_facts
from docs import generate
from docs.reading import ROOT, failure_codes, read
from statemachine.explore import LIVENESS, WORLD_LAWS
from statemachine.invariants import STATE_LAWS, STEP_LAWS

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
PROGRAMS: dict[str, Sequence[Command]] = {
    "identityd": IDENTITYD,
    "aziotctl": AZIOTCTL,
    "iotedge": IOTEDGE,
}
OTHERS = {"make", "curl", "journalctl", "openssl", "cat", "ls", "kill", "mkdir", "sh", "export"}
OTHERS |= {"apt-get", "az", "chown", "cp", "pipx", "systemctl"}
"What a shown command may be beside ours; anything else is a misspelling or needs a thought."

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, kind: str) -> Iterator[str]:
    for found_kind, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if found_kind == kind:
            yield text


def shown(kind: str, pages: Sequence[Path] = PAGES) -> list[tuple[str, str]]:
    return [(name_of(page), text) for page in pages for text in blocks(page, kind)]


def command_lines() -> list[tuple[str, str]]:
    return [
        (page, line.strip())
        for page, text in shown("sh")
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


def anchors(page: Path) -> set[str]:
    """Heading ids as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


# --- generated pages ---------------------------------------------------------------------------------


def test_the_reference_is_fresh() -> None:
    assert generate.stale() == [], "run `make docs`"


def test_generating_twice_gives_the_same(tmp_path: Path) -> None:
    assert generate.write(tmp_path)
    assert generate.write(tmp_path) == []


def test_what_is_stale_is_named(tmp_path: Path) -> None:
    generate.write(tmp_path)
    (tmp_path / "states.md").write_text("old", encoding="utf-8")
    (tmp_path / "cli.md").unlink()
    (tmp_path / "stranger.md").write_text("", encoding="utf-8")
    assert generate.stale(tmp_path) == ["cli.md", "states.md", "stranger.md"]
    generate.write(tmp_path)
    assert generate.stale(tmp_path) == []


def test_check_says_which(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(generate, "stale", lambda: ["cli.md"])
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "stale: docs/reference/cli.md\n"


def test_every_generated_page_says_so() -> None:
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        if page.name in generate.BY_HAND:
            continue
        assert "make docs" in "\n".join(page.read_text(encoding="utf-8").splitlines()[:5]), page


def test_strings_under_fields_are_read() -> None:
    event = read("statemachine/events.py").classes["Failure"]
    by_name = {one.name: one for one in event.fields}
    assert by_name["class"].meaning == "What to do about it."
    assert by_name["message"].default == '""'
    assert event.section == ""
    assert read("statemachine/events.py").classes["KeyStaged"].section == "answers"


def test_codes_are_found_however_they_are_passed(tmp_path: Path) -> None:
    source = tmp_path / "some.py"
    source.write_text(
        "def f(x, e):\n"
        "    raise AdapterError(f'no {x}', code='plain')\n"
        "    raise AdapterError('no', code=f'http-{x}', failure_class='operator')\n"
        "    raise AdapterError('no', code='one' if x else 'two', failure_class=pick(x))\n"
        "    raise g('helped', 'because')\n"
        "    raise g('told', 'because', 'clock')\n"
        "    raise h('fixed')\n"
        "    event = {'failure_class': 'retry', 'code': 'in-dict', 'message': 'm'}\n"
        "    return Failed(code=e.code)\n"
        "def g(code, message, failure_class='wait'):\n"
        "    return AdapterError(message, code=code, failure_class=failure_class)\n"
        "def h(code):\n"
        "    return AdapterError('m', code=code, failure_class='new_key' if code == 'fixed' else 'retry')\n",
        encoding="utf-8",
    )
    found = {code.name: (code.classes, code.messages) for code in failure_codes([str(source)])}
    assert found == {
        "plain": ({"retry"}, ["no …"]),
        "http-…": ({"operator"}, ["no"]),
        "one": ({"…"}, ["no"]),
        "two": ({"…"}, ["no"]),
        "helped": ({"wait"}, ["because"]),
        "told": ({"clock"}, ["because"]),
        "fixed": ({"new_key"}, []),
        "in-dict": ({"retry"}, ["m"]),
    }


# --- what people wrote down of the source ------------------------------------------------------------


def test_every_invariant_is_told_in_its_own_sentence() -> None:
    page = (ROOT / "docs" / "explanation" / "exploring.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (\w+) \| `(\w+)` \| (.+) \|$", page, re.M)
    laws = {"state": STATE_LAWS, "step": STEP_LAWS, "world": WORLD_LAWS}
    assert told == [(of, law.__name__, law.__doc__) for of, some in laws.items() for law in some]
    assert f"`{LIVENESS}`" in page


# --- links -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        led = (page.parent / path).resolve() if path else page
        assert led.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(led), f"{name_of(page)}: {target} has no such heading"


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in _LINK.findall(index.read_text(encoding="utf-8"))
    }
    assert set((ROOT / "docs").rglob("*.md")) - linked == {index}


# --- shown commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_shown_commands_parse(page: str, line: str) -> None:
    words = shlex.split(line.removesuffix("&").replace("<", " < ").replace("|", " | "))
    while words and (words[0] == "sudo" or re.match(r"[A-Z_]+=", words[0])):
        words = words[1:]
    program, arguments = Path(words[0]).name, words[1:]
    if program in PROGRAMS:
        # A mistake exits, with argparse's words on stderr.
        assert parser_for(program, PROGRAMS[program]).parse_args(arguments).code, f"{page}: {line}"
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert set(arguments) <= set(targets), f"{page}: {line}"
    else:
        assert program in OTHERS, f"{page}: {line}"


def test_commands_are_shown_at_all() -> None:
    assert len(command_lines()) > 40


_DROP_IN = re.compile(r"# /etc/aziot/(\w+)/config\.d/\S+\.toml")
HUB = """
[provisioning]
source = "manual"
connection_string = "HostName=hub.example;DeviceId=d;SharedAccessKey=AAAA"
"""


@pytest.mark.parametrize(("page", "text"), shown("toml"))
def test_shown_settings_are_valid(page: str, text: str, tmp_path: Path) -> None:
    dedented = "\n".join(line.strip() for line in text.splitlines())
    assert tomli.loads(dedented)
    drop_in = _DROP_IN.match(dedented)
    if drop_in:
        directory = tmp_path / drop_in[1] / "config.d"
        directory.mkdir(parents=True)
        (directory / "shown.toml").write_text(dedented, encoding="utf-8")
        dedented = HUB
    elif "[provisioning]" not in dedented:
        dedented += '\n[provisioning]\nsource = "none"\n'
    (tmp_path / "config.toml").write_text(dedented, encoding="utf-8")
    loaded = config.load_with_fallback(str(tmp_path / "config.toml"), "/dev/null")
    assert loaded.notes == (), page
    if drop_in:
        # A file of another service, or one that is not found, would be good as well.
        assert loaded.configuration != config.parse(page, HUB)


def test_drop_ins_are_shown_at_all() -> None:
    files = [found[1] for _, text in shown("toml") if (found := _DROP_IN.search(text))]
    assert set(files) == set(DROP_INS)


def test_every_key_of_a_file_is_on_the_page_of_settings() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    for service, rows in DROP_INS.items():
        shown_here = re.findall(r"^\| `([^`]+)` ", sections[f"Drop-ins of {service}"], re.M)
        assert shown_here == [row.path for row in rows]


# --- diagrams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "text"), shown("mermaid"))
def test_diagrams_begin_as_what_they_are(page: str, text: str) -> None:
    assert text.split()[0] in ("stateDiagram-v2", "flowchart", "sequenceDiagram"), page
    assert "\t" not in text


def test_the_readme_draws_what_the_table_does() -> None:
    """The picture leaves most arrows out, but invents none."""
    table = machine_facts().lifecycle
    real = {(source, row.dest) for row in table.rows for source in row.source}
    (picture,) = blocks(ROOT / "README.md", "mermaid")
    drawn = re.findall(r"^ *(\w+) --> (\w+)", picture, re.M)
    assert set(drawn) <= real
    assert {state for pair in drawn for state in pair} == set(table.positions)
