"""The command: the same bytes for the same options in every form, and what is said of wrong options."""

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from adapters.__main__ import identityd

SHORT = ("--years", "0.05", "--cert-lifetime", "3d")
"18 days."
LOST = (
    *SHORT,
    "--outage",
    "27h@2027-01-03",
    "--hub-outage",
    "6h@2027-01-10",
    "--clock-step",
    "-2d@2027-01-08",
)
DEMO = Path(__file__).parents[2] / "config" / "demo.toml"


@pytest.fixture
def run(capsys, monkeypatch):
    """Status, output and errors of ``identityd simulate`` with these options."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*options):
        try:
            status = identityd(["simulate", *options])
        except SystemExit as exc:
            status = exc.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


# --- the same bytes ----------------------------------------------------------------------------------


def elsewhere(options, path):
    """The same in another process, whose hashes are another's."""
    env = os.environ | {"PYTHONHASHSEED": "77", "COLUMNS": "80", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-m", "adapters", "simulate", *options]
    done = subprocess.run(command, env=env, cwd=path, capture_output=True, check=False, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_same_seed_gives_the_same_bytes(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(DEMO.parents[1]))
    as_json = run(*LOST, "--devices", "2", "--json")
    assert run(*LOST, "--devices", "2", "--json") == as_json
    shown = run(*LOST, "--html", "page.html")
    page = Path("page.html").read_bytes()
    Path("page.html").unlink()
    assert elsewhere((*LOST, "--html", "page.html"), tmp_path) == shown
    assert Path("page.html").read_bytes() == page
    assert elsewhere((*LOST, "--devices", "2", "--json"), tmp_path) == as_json


def test_another_seed_gives_another_life(run):
    assert run(*SHORT, "--json")[1] != run(*SHORT, "--json", "--seed", "2")[1]


# --- what it answers ---------------------------------------------------------------------------------


def test_the_exit_status_tells_whether_an_identity_was_lost(run):
    assert run(*SHORT)[0] == 0
    status, out, err = run(*LOST)
    assert (status, err) == (1, "")
    assert re.search(r"Identity was lost for 3 h( \d+ min)? in all: 1 certificate ended", out)
    assert run("--years", "0.01", "--outage", "100h@2027-01-01")[0] == 1


def test_what_the_text_says(run):
    _, out, _ = run(*LOST)
    assert out.startswith("1 device, 2027-01-01 to 2027-01-19\n")
    for said in (
        "nobody reaches DPS or hub for 1 d 3 h",
        "nobody reaches the hub for 6 h",
        "the clock is set back by 2 d",
        "attempts failed in",
        "NO VALID CERTIFICATE for 3 h",
        "registered anew, 3 h",
        "missed renewals       1, of 8 certificates",
        "2027  X",
    ):
        assert said in out
    assert "\x1b" not in out


@pytest.mark.parametrize("columns", [40, 80])
def test_the_text_fits(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = run(*LOST, "--devices", "2")
    lines = out.splitlines()
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > columns - 10
    # A value stands beside its label where there is room.
    assert any(line.startswith("  worst slack ") for line in lines) == (columns == 80)


def test_a_wide_terminal_is_not_filled(run, monkeypatch):
    at_80 = run(*SHORT)
    monkeypatch.setenv("COLUMNS", "200")
    assert run(*SHORT) == at_80


COUNTS = re.compile(
    r"(format|seed|device|devices|budget_registrations|certificates|renewals|failed_attempts|missed_renewals|"
    r"never_provisioned|registrations_(sent|billed)|polls_sent|hub_requests_sent|unanswered_requests|"
    r"peak_registrations_per_minute|journal_records|count|times)"
)
UNITS = re.compile(r".*_(s|ms|bytes|percent)|.*_s_per_device_year|device_years")


def numbers_of(value, name=""):
    """Names of everything that is a number."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from numbers_of(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from numbers_of(one, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name


def test_numbers_in_json_are_counts_or_name_their_unit(run):
    status, out, _ = run(*LOST, "--json")
    facts = msgspec.json.decode(out)
    names = set(numbers_of(facts))
    assert [name for name in names if not (COUNTS.fullmatch(name) or UNITS.fullmatch(name))] == []
    assert {"unavailable_s", "worst_slack_s", "journal_bytes", "by_s", "duration_s"} <= names
    assert status == 1
    total = facts["total"]
    assert total["missed_renewals"] == 1
    assert total["unavailable_s"] > 3 * 3_600 - 60
    years = total["device_years"]
    assert total["unavailable_s_per_device_year"] == pytest.approx(total["unavailable_s"] / years, abs=0.001)
    assert total["worst_slack_s"] == -total["unavailable_s"]
    assert sum(one["total_s"] for one in facts["device"]["states"]) == pytest.approx(years * 365 * 86_400)
    kinds = {one["kind"] for one in facts["device"]["timeline"]}
    assert kinds == {
        "registered",
        "renewed",
        "reprovisioned",
        "failed",
        "without-identity",
        "outage",
        "hub-outage",
        "clock-set",
    }


# --- the page ----------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Fails on an element that is not closed; collects names, titles and text."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes, self.text = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(run, tmp_path, *options):
    path = tmp_path / "page.html"
    status, out, err = run(*options, "--html", str(path))
    assert err == ""
    assert out.endswith(f"\nthe page is {path}\n")
    reader = Reader()
    text = path.read_text()
    reader.feed(text)
    assert reader.open == []
    return status, text, reader


def test_the_page_needs_nothing_but_itself(run, tmp_path):
    _, text, reader = page_of(run, tmp_path, *LOST)
    assert not reader.seen & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not re.search(r"https?:|url\(|@import|//", text)
    assert not {name for name, _ in reader.attributes} & {"src", "href", "srcset", "onload", "onclick"}
    assert {"svg", "title", "table", "details"} <= reader.seen
    for query in ("(prefers-color-scheme:dark)", "(max-width:560px)", "print"):
        assert f"@media {query}{{" in text


def test_every_certificate_and_outage_is_drawn_with_a_title(run, tmp_path):
    _, text, reader = page_of(run, tmp_path, *LOST)
    facts = msgspec.json.decode(run(*LOST, "--json")[1])
    certificates = facts["device"]["certificates"]
    drawn = set(re.findall(r"<title>certificate (\w+):", text))
    assert drawn == {one["serial"] for one in certificates}
    for title in ("nobody reaches DPS or hub", "nobody reaches the hub", "NO VALID", "the clock is set back"):
        assert re.search(rf"<title>[^<]*{title}", text)
    assert text.count('class="dot') == facts["total"]["renewals"]
    assert "Identity was lost" in "".join(reader.text)


def test_a_page_of_a_fleet(run, tmp_path):
    _, text, reader = page_of(run, tmp_path, *LOST, "--devices", "3")
    said = "".join(reader.text)
    assert "All devices by their worst slack" in said
    assert "too late" in said
    assert text.count("<tr><td class='n'>") == 3


def test_a_page_of_more_certificates_than_can_be_drawn(run, tmp_path, monkeypatch):
    from adapters.simulation import plot

    monkeypatch.setattr(plot, "MOST_BARS", 3)
    _, text, _ = page_of(run, tmp_path, *SHORT)
    assert "More certificates than can be drawn" in text
    assert "<title>certificate" not in text
    assert 1 <= text.count('class="dot') <= 3


@pytest.mark.parametrize(
    ("years", "rows", "tick"), [("0.02", 8, "3 h"), ("0.1", 6, "day 7"), ("1.5", 2, "J")]
)
def test_rows_are_days_weeks_or_years(run, tmp_path, years, rows, tick):
    _, text, _ = page_of(run, tmp_path, "--years", years)
    assert text.count("<svg") == rows + 1
    assert f"<span>{tick}</span>" in text


@pytest.mark.parametrize("where", ["nowhere/page.html", "."])
def test_a_page_that_cannot_be_written_is_told_first(run, tmp_path, where):
    status, out, err = run(*SHORT, "--html", str(tmp_path / where))
    assert (status, out) == (2, "")
    assert "argument --html: " in err
    assert "name a file in a directory" in err


def test_another_start(run):
    _, out, _ = run(*SHORT, "--start", "2030-06-01T12:00", "--outage", "6h@2030-06-03")
    assert out.startswith("1 device, 2030-06-01 to 2030-06-19\n")
    assert "2030-06-01 12:00  registered, first certificate after" in out
    assert "2030-06-03 00:00  nobody reaches DPS or hub for 6 h" in out


# --- options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--years", "ten"), "argument --years: 'ten' is not a number from 0.01 to 100"),
        (("--outage", "6h"), "argument --outage: '6h' does not say when; write it like 6h@2027-03-01"),
        (("--outage", "6h@2040-01-01"), "argument --outage: it lies outside the simulated time, 2027-01-01"),
        (("--hub-outage", "6h@x"), "argument --hub-outage: 'x' is no date"),
        (("--clock-step", "-2x@2027-05-01"), "argument --clock-step: '-2x' is not a duration"),
        (("--cert-lifetime", "1m"), "argument --cert-lifetime: certificates live from 10m to 3650d"),
        (("--seed", "-1"), "argument --seed: '-1' is not a whole number"),
        (("--devices", "1001"), "argument --devices: '1001' is not a whole number from 1 to 1000"),
        (("--devices", "1000"), "argument --devices: about 153000 attempts"),
        (("--start", "yesterday"), "argument --start: 'yesterday' is no date"),
        (("--json", "--html", "x"), "not allowed with argument"),
        (("--config", "/nowhere.toml"), "/nowhere.toml"),
    ],
)
def test_a_wrong_option_is_told_shortly_with_a_way_out(run, options, says):
    status, out, err = run(*options)
    assert (status, out) == (2, "")
    assert says in err
    assert len(err) < 1_500


def configured(tmp_path, more):
    path = tmp_path / "config.toml"
    path.write_text(
        '[provisioning]\nsource = "dps"\nid_scope = "0ne0"\n'
        'global_endpoint = "https://dps.example"\n'
        '[provisioning.attestation]\nmethod = "symmetric_key"\nregistration_id = "d"\n'
        f'symmetric_key = {{ value = "AAAA" }}\n{more}'
    )
    return str(path)


def test_the_configuration_decides(run, tmp_path):
    path = configured(tmp_path, "[identityd.renewal]\nearliest_percent = 40\nlatest_percent = 50\n")
    facts = msgspec.json.decode(run(*SHORT, "--json", "--config", path)[1])
    assert facts["assumed"]["renewal_latest_percent"] == 50
    assert facts["total"]["worst_slack_s"] > 0.49 * 3 * 86_400
    # Early enough to sit the outage out.
    assert run(*SHORT, "--outage", "27h@2027-01-03", "--config", path)[0] == 0


def test_a_configuration_without_dps(run, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[provisioning]\nsource = "none"\n')
    status, out, err = run("--config", str(path))
    assert (status, out) == (2, "")
    assert "only DPS issues what is simulated" in err


def test_a_broken_configuration_is_told_with_its_mistakes(run, tmp_path):
    path = configured(tmp_path, "[identityd.renewal]\nearliest_percent = 400\n")
    status, _, err = run("--config", path)
    assert status == 2
    assert "earliest_percent" in err
