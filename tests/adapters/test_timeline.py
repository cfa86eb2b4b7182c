"""``identityd journal timeline``: lines, facts, page; of whole, damaged, hostile and large journals."""

import io
import os
import re
import stat
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from adapters.__main__ import identityd
from adapters.cli import chronicle as chronicles
from adapters.cli import timeline_page
from adapters.cli.chronicle import chronicle
from adapters.cli.history import Section, Stretch
from adapters.cli.timeline_plot import axis_of, picture
from adapters.cli.timeline_words import stamp
from statemachine.events import (
    ClockObserved,
    RegistrationFailed,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
)
from statemachine.journal import read
from tests.adapters.journal_writer import DAY, START, Writer, started, stored
from tests.adapters.test_history import register

JOURNALS = Path(__file__).parents[1] / "journals"
RECORDED = JOURNALS / "recorded-0.1.0"
HOSTILE = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\u202e\x1b[2J"
VOID = {"meta", "br", "img", "link", "input", "hr"}


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("AZIOT_ROOT", "NO_COLOR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


class Page(HTMLParser):
    """What a browser would find; that every element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.texts = []
        self._open = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def of_class(self, name):
        return [some for _, some in self.elements if name in (some.get("class") or "").split()]

    def ids(self):
        return [some["id"] for _, some in self.elements if "id" in some]


def page_of(path, **options):
    return Page(timeline_page.page(chronicle([str(path)], details=100, **options)))


def written(tmp_path, writer, name="journal.jsonl"):
    path = tmp_path / name
    path.write_bytes(writer.content)
    return path


# --- lines -------------------------------------------------------------------------------------------


def test_a_life_in_lines(capsys):
    assert identityd(["journal", "timeline", str(RECORDED / "outage-past-expiry.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "device-1 at localhost:40915"
    assert lines[1] == "2026-12-01 01:03:14 to 2026-12-01 01:03:21 UTC, records 1 to 31"
    assert lines[2].startswith("At the end: Provisioned, with a certificate valid until 2026-12-31 01:03:22")
    assert "  attempts     4 failed, 2 succeeded" in lines
    assert "  outages      1, 1 s in all" in lines
    assert lines[lines.index("2026-12-01") - 1] == ""
    failures = [line for line in lines if "registration failed: unreachable" in line]
    assert len(failures) == 4
    assert not any("phase reached" in line for line in lines), "only what is worth telling"


def test_from_tells_less_but_knows_all(capsys):
    path = str(RECORDED / "outage-past-expiry.jsonl")
    assert identityd(["journal", "timeline", "--from", "30", path]) == 0
    out = capsys.readouterr().out
    assert "4 failed, 2 succeeded" in out
    assert len(out.partition("2026-12-01\n")[2].splitlines()) == 2


@pytest.mark.parametrize("columns", [20, 40, 79])
def test_lines_fit_a_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", stream)
    identityd(["journal", "timeline", str(RECORDED / "wrong-clock.jsonl")])
    text = stream.getvalue()
    assert "\x1b[31;1m" in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= max(columns, 24)
    assert "The clock was set ahead by 1825 d" in " ".join(" ".join(lines).split())


def test_facts(capsys):
    assert identityd(["journal", "timeline", "--json", str(RECORDED / "renewal.jsonl")]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert told["device"] == "device-1"
    assert [one["result"] for one in told["sections"][0]["attempts"]] == ["succeeded"] * 3
    assert [one["sequence"] for one in told["entries"]] == list(range(1, 36))


def test_the_journal_of_the_root(tmp_path, capsys):
    directory = tmp_path / "var/lib/aziot/identityd"
    directory.mkdir(parents=True)
    first, second = Writer(), None
    register(first, 0, 1, (0, 30 * DAY))
    (directory / "journal-000000000001.jsonl").write_bytes(first.content)
    second = Writer(
        msgspec.structs.replace(read(first.content).snapshot, sequence=5, last_unix_ms=START + 40)
    )
    second.say(5000, ShutdownRequested())
    (directory / "journal.jsonl").write_bytes(second.content)
    assert identityd(["journal", "timeline", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "records 1 to 6" in out
    assert "asked to stop" in out


# --- pages -------------------------------------------------------------------------------------------


def test_a_page_is_written_for_its_owner_alone(tmp_path, capsys):
    target = tmp_path / "life.html"
    argv = ["journal", "timeline", str(RECORDED / "renewal.jsonl"), "--html"]
    assert identityd([*argv, str(target)]) == 0
    assert capsys.readouterr().out == f"the page is {target}\n"
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o600
    first = target.read_bytes()
    assert identityd([*argv, str(target)]) == 0
    assert target.read_bytes() == first, "the same journal gives the same page"
    assert list(tmp_path.iterdir()) == [target]


def test_a_page_into_a_pipe(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=raw, flush=lambda: None))
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=io.BytesIO((RECORDED / "renewal.jsonl").read_bytes()))
    )
    assert identityd(["journal", "timeline", "-", "--html", "-"]) == 0
    assert raw.getvalue().startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    "path", sorted([*JOURNALS.glob("*.jsonl"), *RECORDED.glob("*.jsonl")]), ids=lambda p: p.name
)
def test_every_journal_makes_a_whole_page_of_its_own(path):
    text = timeline_page.page(chronicle([str(path)], details=100))
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not re.search(r"https?://|@import|url\(|\bon\w+\s*=", re.sub(r">[^<]*<", "><", text))
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    for _, attributes in page.elements:
        assert attributes.get("href", "#").startswith("#")
    ids = page.ids()
    assert len(ids) == len(set(ids))
    linked = {some["href"][1:] for tag, some in page.elements if tag == "a"}
    # A checkpoint has no record that could be shown.
    head = read(path.read_bytes()).snapshot.sequence
    assert linked - set(ids) <= {f"r{head}"}


def test_the_picture_has_everything_that_happened():
    page = page_of(RECORDED / "outage-past-expiry.jsonl")
    certificates = page.of_class("cert")
    assert len(certificates) == 2
    assert len(page.of_class("due")) == 1, "that of the second lies far outside"
    assert len(page.of_class("window")) == 1
    assert len(page.of_class("late")) == 1, "the first was used after its end"
    assert len(page.of_class("dps")) == 1
    assert len(page.of_class("r-failed")) == 4
    assert len(page.of_class("r-succeeded")) == 2
    for shape in page.of_class("box") + page.of_class("dot"):
        assert shape["tabindex"] == "0", "to be reached with a keyboard, and by touch"
    assert len(page.of_class("tip")) == len(page.of_class("box")) + len(page.of_class("dot"))
    assert page.ids() == [f"r{number}" for number in range(1, 32)]
    assert "unreachable (retry): cannot connect to localhost: Connection refused" in page.text
    assert "renewal window 2026-12-01 01:03:18 to 2026-12-01 01:03:19" in page.text
    assert "replaced" in page.text or "too late" in page.text


def test_overlapping_lives_lie_above_each_other():
    page = page_of(RECORDED / "renewal.jsonl")
    lanes = [re.search(r"--l:(\d)", some["style"])[1] for some in page.of_class("cert")]
    assert lanes == ["0", "1", "0"]


def test_what_everybody_may_see_holds_no_certificate():
    text = timeline_page.page(chronicle([str(RECORDED / "renewal.jsonl")], details=100))
    assert "LS0tLS1CRUdJTi" not in text
    assert "&quot;chain_pem&quot;:&quot;(" in text


def test_a_set_clock_is_two_pictures():
    page = page_of(RECORDED / "wrong-clock.jsonl")
    assert len(page.of_class("plot")) == 2
    assert "The clock was set ahead by 1825 d" in page.text


def test_a_hostile_journal_is_only_text(tmp_path):
    writer = Writer()
    writer.say(0, started(stored(1, 0, 30 * DAY, serial=HOSTILE, hub=HOSTILE, device_id=HOSTILE)))
    writer.say(10, RenewRequested(uid=0), state=HOSTILE, phase=HOSTILE, why=HOSTILE)
    failure = RegistrationFailed(
        answers="1.1.0", failure_class="retry", code=HOSTILE, message=HOSTILE, tracking_id=HOSTILE
    )
    writer.say(20, failure, state=HOSTILE, phase=HOSTILE, why=HOSTILE)
    writer.say(30, ShutdownRequested(reason=HOSTILE), why=HOSTILE)
    writer.say(9000, started(), why=HOSTILE)
    text = timeline_page.page(chronicle([str(written(tmp_path, writer))], details=100))
    page = Page(text)
    assert "<script" not in text
    assert "<img" not in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert all(name.isprintable() for _, some in page.elements for name in some)
    for _, attributes in page.elements:
        assert set(attributes) <= {
            "class",
            "style",
            "tabindex",
            "href",
            "id",
            "title",
            "name",
            "content",
            "charset",
            "lang",
            "http-equiv",
        }
    assert "<script>alert(1)</script>" in page.text


# --- axes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "ends", "last", "until"),
    [
        (10 * DAY, 12 * DAY, True, 12 * DAY + DAY // 5),
        (10 * DAY, 300 * DAY, True, 20 * DAY),
        (10 * DAY, 12 * DAY, False, 10 * DAY),
        (10 * DAY, 5 * DAY, True, 10 * DAY),
        (0, 30 * DAY, True, 2000),
    ],
)
def test_the_axis_looks_as_far_ahead_as_back(length, ends, last, until):
    section = Section(from_unix_ms=START, until_unix_ms=START + length)
    writer = Writer()
    writer.say(0, started(stored(1, 0, ends)))
    section.certificates = chronicle_of(writer).sections[0].certificates
    axis = axis_of(section, last=last)
    assert axis.until_unix_ms - START == until
    assert axis.x(START) == 0
    assert axis.x(START + 10**15) == 100


def chronicle_of(writer):
    from adapters.cli.history import Historian

    historian = Historian()
    for record in writer.records:
        historian.take(record)
    return historian


@pytest.mark.parametrize("seconds", [0, 1, 59, 3_600, 86_400, 40 * 86_400, 400 * 86_400, 30_000 * 86_400])
def test_ticks_are_few_and_inside(seconds):
    section = Section(from_unix_ms=START, until_unix_ms=START + seconds * 1000)
    section.states = [Stretch(what="Provisioned", sequence=1, from_unix_ms=START)]
    page = Page(picture(section, (), last=True))
    ticks = page.of_class("tick")
    assert 0 <= len(ticks) <= 8
    assert all(0 <= float(re.search(r"left:([\d.]+)%", some["style"])[1]) <= 100 for some in ticks)


def test_an_instant_beyond_every_calendar_is_drawn_somewhere():
    section = Section(from_unix_ms=10**17, until_unix_ms=10**17 + 5000)
    section.states = [Stretch(what="Provisioned", sequence=1, from_unix_ms=10**17)]
    assert Page(picture(section, (), last=True)).of_class("s-Provisioned")


# --- bounds ------------------------------------------------------------------------------------------


def test_neighbours_are_one_shape(tmp_path):
    """A month of refusals every minute is no ten thousand shapes."""
    writer = Writer()
    writer.say(0, started(stored(1, 0, 400 * DAY)))
    for minute in range(3_000):
        at = 1000 + minute * 60_000
        writer.say(at, ReprovisionRequested(uid=0), state="Reprovisioning", phase="Submitting")
        refused = RegistrationFailed(answers="1.1.0", failure_class="retry", code="timeout")
        writer.say(at + 500, refused, state="Reprovisioning")
    writer.say(300 * DAY, ClockObserved(kernel_synchronised=True))
    page = page_of(written(tmp_path, writer))
    assert len(page.of_class("box")) < 30
    assert len(page.of_class("dot")) < 30
    assert "3000 attempts: 3000 failed" in page.text
    assert len(page.of_class("attempt")) == timeline_page.MOST_ATTEMPTS
    assert len(page.of_class("ev")) == timeline_page.MOST_ENTRIES
    assert "4,002 earlier ones are left out" in page.text


def test_more_records_than_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(chronicles, "MAX_ENTRIES", 10)
    told = chronicle([str(RECORDED / "renewal.jsonl")])
    assert (len(told.entries), told.left_out, told.records) == (10, 25, 35)
    first = stamp(told.entries[0].at_unix_ms)
    page = Page(timeline_page.page(told))
    assert f"Events before {first} are too many to be marked." in page.text


def test_a_clock_set_a_hundred_times(tmp_path):
    writer = Writer()
    for number in range(100):
        writer.say((number % 2) * 10 * DAY, started())
    page = page_of(written(tmp_path, writer))
    assert len(page.of_class("plot")) == timeline_page.MOST_SECTIONS


# --- what cannot be read -----------------------------------------------------------------------------


def test_a_damaged_file_is_told_as_far_as_it_can_be_believed(tmp_path, capsys):
    content = (RECORDED / "renewal.jsonl").read_bytes().splitlines(keepends=True)
    content[20] = content[20].replace(b"Renewing", b"Sleeping")
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(content))
    assert identityd(["journal", "timeline", str(path)]) == 0
    out = capsys.readouterr().out
    assert "records 1 to 18" in out
    assert (
        "journal.jsonl: line 21: its hash does not follow from the line before; the rest is not shown" in out
    )
    assert "line 21" in page_of(path).text


def test_a_torn_tail_is_told_as_such(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes((RECORDED / "renewal.jsonl").read_bytes()[:-30])
    assert chronicle([str(path)]).notes == ("journal.jsonl: its last line is cut off",)


def test_records_that_are_missing_between_two_files(tmp_path):
    first = Writer()
    first.say(0, started())
    second = Writer(msgspec.structs.replace(first.snapshot, sequence=9, last_unix_ms=START + 10))
    second.say(20, ShutdownRequested())
    paths = [str(written(tmp_path, one, name)) for one, name in ((first, "a.jsonl"), (second, "b.jsonl"))]
    assert chronicle(paths).notes == ("records 2 to 9 are missing",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no journal: it ends before its checkpoint"),
        (b"\x00\xff" * 100, "is no journal: line 1"),
        (b"{}\n", "is no journal: line 1"),
        (None, "cannot read"),
        (Writer().content, "there is no record in it yet"),
    ],
    ids=["empty", "garbage", "no journal", "not there", "no record"],
)
def test_what_is_no_journal(content, message, tmp_path, capsys):
    path = tmp_path / "j"
    if content is not None:
        path.write_bytes(content)
    assert identityd(["journal", "timeline", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_files_in_the_wrong_order(tmp_path, capsys):
    path = str(RECORDED / "renewal.jsonl")
    assert identityd(["journal", "timeline", path, path]) == 2
    assert "give them in order" in capsys.readouterr().err


def test_a_file_too_large_to_be_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chronicles, "MAX_FILE_BYTES", 1000)
    assert identityd(["journal", "timeline", str(RECORDED / "renewal.jsonl")]) == 2
    assert "no journal file is" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["/no/such/directory/page.html", "."])
def test_where_no_page_can_be(target, capsys):
    assert identityd(["journal", "timeline", str(RECORDED / "renewal.jsonl"), "--html", target]) == 2
    assert "name a file in a directory of yours" in capsys.readouterr().err


def test_a_disk_that_is_full(monkeypatch, capsys, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adapters.durable.replace_file", full)
    target = str(tmp_path / "p.html")
    assert identityd(["journal", "timeline", str(RECORDED / "renewal.jsonl"), "--html", target]) == 1
    assert "No space left on device" in capsys.readouterr().err
