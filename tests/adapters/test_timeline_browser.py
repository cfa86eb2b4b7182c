"""The page of a timeline in a real browser: nothing sticks out, everything can be reached and read."""

import struct
import zlib
from pathlib import Path

import pytest

from adapters.cli.chronicle import chronicle
from adapters.cli.timeline_page import page
from tests.adapters import browser
from tests.adapters.test_timeline import HOSTILE

pytestmark = pytest.mark.skipif(browser.found() is None, reason="no chromium on this machine")

RECORDED = Path(__file__).parents[1] / "journals/recorded-0.1.0"
NAMES = ("outage-past-expiry", "wrong-clock", "crash-polling")

LAYOUT = """
const root = page.documentElement;
const shapes = [...page.querySelectorAll('.box,.dot')];
const over = shapes.map(one => {
  one.focus();
  const tip = one.querySelector('.tip'), box = tip.getBoundingClientRect();
  const shown = look.getComputedStyle(tip).display;
  return [shown, box.left, box.right, tip.textContent.length];
});
const lanes = [...page.querySelectorAll('.lane')].map(one => one.getBoundingClientRect());
return {
  width: root.clientWidth, scrolls: root.scrollWidth, tips: over, lanes: lanes.length,
  outside: shapes.filter(one => {
    const box = one.getBoundingClientRect(), lane = one.parentElement.getBoundingClientRect();
    return box.left < lane.left - 6 || box.right > lane.right + 6 || box.width < 2;
  }).length,
  small: [...page.querySelectorAll('*')].filter(one => one.childNodes.length
    && [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
    && parseFloat(look.getComputedStyle(one).fontSize) < 10).length,
  ticks: [...page.querySelectorAll('.tick')].map(one => {
    const range = page.createRange();
    range.selectNodeContents(one);
    const box = range.getBoundingClientRect();
    return [box.left, box.right, box.top];
  }).filter(box => box[1] > box[0]),
};
"""


def page_of(name):
    return page(chronicle([str(RECORDED / f"{name}.jsonl")], details=100))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [400, 1280])
def test_a_page_fits_and_every_shape_tells(name, width, tmp_path):
    seen = browser.measured(tmp_path, page_of(name), width, LAYOUT)
    assert seen["width"] == width
    assert seen["scrolls"] <= width, "nothing to scroll sideways"
    assert seen["lanes"] >= 6
    assert seen["outside"] == 0
    assert seen["small"] == 0, "letters of less than 10 px"
    assert seen["tips"]
    for shown, left, right, length in seen["tips"]:
        assert shown == "block", "focused, it tells"
        assert left >= 0
        assert right <= width
        assert length > 10
    for (_, right, top), (left, _, next_top) in zip(seen["ticks"], seen["ticks"][1:], strict=False):
        assert top != next_top or right < left, "labels of the axis lie side by side"


def test_a_tip_shows_only_while_it_is_wanted(tmp_path):
    hidden = "return [...page.querySelectorAll('.tip')].map(one => look.getComputedStyle(one).display)"
    assert set(browser.measured(tmp_path, page_of(NAMES[0]), 800, hidden)) == {"none"}


def test_a_link_leads_to_its_record(tmp_path):
    measure = """
    const link = page.querySelector('.attempt a');
    look.location.hash = link.getAttribute('href');
    const target = page.querySelector(':target');
    return [link.textContent, target.id, target.querySelector('summary') !== null];
    """
    text, leads, unfolds = browser.measured(tmp_path, page_of(NAMES[0]), 800, measure)
    assert (text.replace("record ", "r"), unfolds) == (leads, True)


def test_what_a_journal_says_does_not_run(tmp_path):
    hostile = page_of(NAMES[0]).replace("device-1 at", f"{HOSTILE}<b onclick='x'>device-1 at")
    measure = """
    return [page.querySelectorAll('script').length, look.alerted === undefined,
            [...page.querySelectorAll('img')].every(one => !one.complete || one.naturalWidth === 0)];
    """
    scripts, quiet, blank = browser.measured(
        tmp_path,
        hostile.replace("alert(1)", "window.alerted=1").replace("alert(2)", "window.alerted=2"),
        800,
        measure,
    )
    assert scripts > 0, "it was put into the page without being escaped"
    assert quiet, "and still the page's own policy let nothing of it run"
    assert blank


@pytest.mark.parametrize(
    ("scheme", "bright"), [("", True), ("--blink-settings=preferredColorScheme=0", False)]
)
@pytest.mark.parametrize(("width", "height"), [(400, 1000), (1280, 700)])
def test_it_is_a_picture_in_light_and_dark(scheme, bright, width, height, tmp_path):
    options = [scheme] if scheme else []
    rows = list(pixels(browser.picture(tmp_path, page_of(NAMES[0]), width, height, *options)))
    assert len(rows) == height
    corner = rows[2][2]
    assert (min(corner) > 200) is bright
    colours = {pixel for row in rows[::3] for pixel in row[::3]}
    assert len(colours) > 40, "states, bars and marks have colours of their own"


def pixels(png):
    """Rows of (red, green, blue) of a PNG without interlacing (RFC 2083 section 6)."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (depth, kind in (2, 6)) == (8, True)
    step = 3 if kind == 2 else 4
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(data)
    before = bytearray(width * step)
    for number in range(height):
        start = number * (width * step + 1)
        before = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + width * step]), before, step)
        yield [tuple(before[x : x + 3]) for x in range(0, width * step, step)]


def unfiltered(kind, row, above, step):
    for at in range(len(row)):
        left = row[at - step] if at >= step else 0
        up, corner = above[at], above[at - step] if at >= step else 0
        if kind == 1:
            row[at] = (row[at] + left) & 255
        elif kind == 2:
            row[at] = (row[at] + up) & 255
        elif kind == 3:
            row[at] = (row[at] + (left + up) // 2) & 255
        elif kind == 4:
            guess = left + up - corner
            nearest = min(
                (abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner)
            )
            row[at] = (row[at] + nearest[2]) & 255
    return row
