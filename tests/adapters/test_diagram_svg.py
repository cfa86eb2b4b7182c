"""The machine as a picture: everything in the tables is there, and nothing lies on anything else."""

import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest

from adapters.__main__ import identityd
from adapters.cli.diagram import TITLES
from adapters.cli.diagram_svg import CHARACTER, ROW, WIDTH, svg
from adapters.tables import arrows_of, machine_facts
from docs.generate import REFERENCE

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=["lifecycle", "attempt"])
def table(request):
    facts = machine_facts()
    return getattr(facts, request.param)


@pytest.fixture
def drawing(table):
    return ElementTree.fromstring(svg(table, "about"))


def texts(drawing):
    """Each with its box: left, top, right, bottom."""
    for one in drawing.iter(f"{SVG}text"):
        x, y = float(one.get("x")), float(one.get("y"))
        width = len(one.text) * CHARACTER
        kinds = one.get("class").split()
        left = x - width if "end" in kinds else x - width / 2 if "name" in kinds else x
        yield one.text, (left, y - ROW * 0.75, left + width, y + ROW * 0.25)


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_no_text_lies_on_another_or_outside(drawing):
    boxes = list(texts(drawing))
    height = float(drawing.get("height"))
    for text, (left, top, right, bottom) in boxes:
        assert left >= 0, text
        assert right <= WIDTH, text
        assert top >= 0, text
        assert bottom <= height, text
    for (one, its), (other, theirs) in combinations(boxes, 2):
        assert apart(its, theirs), (one, other)


def test_no_arrow_lies_on_a_text(drawing):
    arrows = [one.get("d") for one in drawing.iter(f"{SVG}path") if one.get("class") == "way"]
    levels = [float(path.split()[1].partition("H")[0]) for path in arrows if "H" in path]
    for level in levels:
        for text, (_, top, _, bottom) in texts(drawing):
            assert not top < level < bottom, text


def test_every_way_is_there_once(table, drawing):
    arrows = arrows_of(table.rows)
    titles = [one.text for one in drawing.iter(f"{SVG}text") if "title" in one.get("class")]
    assert sorted(titles) == sorted(f"{source} → {dest}" for source, dest in arrows)
    labels = [one.text for one in drawing.iter(f"{SVG}text") if "label" in one.get("class")]
    assert sorted(labels) == sorted(label for some in arrows.values() for label in some)
    columns = {text: (box[0] + box[2]) / 2 for text, box in texts(drawing) if text in table.positions}
    drawn = {
        tuple(map(float, (one.get("d").split()[0][1:], one.get("d").partition("H")[2])))
        for one in drawing.iter(f"{SVG}path")
        if "H" in one.get("d")
    }
    assert len(drawn) == len(arrows)
    for since, until in drawn:
        ends = [min(columns, key=lambda name, x=x: abs(columns[name] - x)) for x in (since, until)]
        assert tuple(ends) in arrows


@pytest.mark.parametrize("name", sorted(TITLES))
def test_the_command_writes_what_the_docs_show(name, capsys):
    assert identityd(["diagram", "--table", name, "--format", "svg"]) == 0
    out = capsys.readouterr().out
    assert out == (REFERENCE / f"{name}.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(out).find(f"{SVG}title").text == TITLES[name]
    assert "http" not in out.replace("http://www.w3.org/2000/svg", "")


def test_mermaid_stays_the_default(capsys):
    assert identityd(["diagram", "--format", "mermaid"]) == 0
    explicit = capsys.readouterr().out
    assert identityd(["diagram"]) == 0
    assert capsys.readouterr().out == explicit
    assert explicit.startswith("stateDiagram-v2\n")


def test_data_has_no_format(capsys):
    assert identityd(["diagram", "--json", "--format", "svg"]) == 2
    assert "name one" in capsys.readouterr().err
