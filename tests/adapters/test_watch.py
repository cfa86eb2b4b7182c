"""The live view: as a picture for any size of terminal, and on a real one with a real process."""

import io
import os
import re
import signal
import subprocess
import sys
from os import terminal_size
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import trio

from adapters.cli.control_client import Line
from adapters.cli.failure import NO, UNREACHABLE, CommandFailed
from adapters.cli.happenings import Happening, Validity
from adapters.cli.history import Certificate
from adapters.cli.life_bar import life_bar
from adapters.cli.screen import Ink
from adapters.cli.terminal import ASCII, UNICODE, cells
from adapters.cli.watch_live import Watched
from adapters.cli.watch_view import View, countdown, frame
from adapters.driving.control import control_handler
from statemachine.explain import rfc3339
from statemachine.journal import read
from statemachine.states import State
from statemachine.status import (
    AssignmentStatus,
    AttemptStatus,
    CredentialStatus,
    LastError,
    NextStatus,
)
from tests.adapters import unix_peer
from tests.adapters.pty_peer import ENTER, LEAVE, WITHIN_S, OnTerminal
from tests.adapters.unix_peer import Machine, record_line, serving

NOW = 1_795_572_000_000
"2026-11-25T02:00:00Z."
DAY = 86_400_000
JOURNALS = Path(__file__).parents[1] / "journals"
PLAIN = Ink(io.StringIO(), {})
COLOUR = Ink(SimpleNamespace(isatty=lambda: True), {})

IN_USE = Certificate(
    generation=3,
    serial="1f",
    sequence=10,
    begins_unix_ms=NOW - 10 * DAY,
    ends_unix_ms=NOW + 20 * DAY,
    from_unix_ms=NOW - 10 * DAY,
    draw_ppm=500_000,
    opens_unix_ms=NOW + 11 * DAY,
    due_unix_ms=NOW + 14 * DAY,
    closes_unix_ms=NOW + 17 * DAY,
)
LIFE = Validity(serial="1f", not_before_unix_ms=NOW - 10 * DAY, not_after_unix_ms=NOW + 20 * DAY)
CREDENTIAL = CredentialStatus(
    source="issued",
    generation=3,
    proven=True,
    serial="1f",
    not_before=rfc3339(NOW - 10 * DAY),
    not_after=rfc3339(NOW + 20 * DAY),
)
WELL = {
    "assignment": AssignmentStatus(hub="hub.test:8443", device_id="dev-1"),
    "credential": CREDENTIAL,
    "reason": "Assigned, with a valid certificate.",
    "next": NextStatus(what="renewal", at=rfc3339(NOW + 14 * DAY)),
    "attempt": AttemptStatus(number=4),
}
ILL = {
    "stuck": True,
    "reason": "DPS refuses the key\x1b[2J of this device, and so it will stay until somebody looks at it",
    "degraded": ("journal set aside", "日本語 \u202e note"),
    "attempt": AttemptStatus(
        number=4,
        last_error=LastError(failure_class="operator", code="dps-401", message="Unauthorized " * 40),
    ),
}


def happenings(count):
    return tuple(
        Happening(
            time="",
            now_unix_ms=NOW - (count - at) * 1000,
            sequence=at,
            state="Provisioned",
            phase="Idle",
            what=f"event {at} happens to be told at some length",
            why="Because it is so.",
            failed=at % 2 == 1,
        )
        for at in range(count)
    )


def view(facts, *, state="Provisioned", phase="Idle", told=30, away="", certificate=IN_USE):
    machine = Machine()
    machine.state, machine.phase, machine.fields = state, phase, facts
    return View(status=machine.status(), happenings=happenings(told), certificate=certificate, away=away)


def plain(lines):
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


# --- the picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [{}, WELL, WELL | ILL], ids=["empty", "well", "ill"])
@pytest.mark.parametrize("signs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize(
    "size", [(80, 24), (40, 24), (40, 8), (132, 50), (20, 10), (1, 1), (200, 3), (59, 30)]
)
def test_it_never_leaves_the_terminal(facts, signs, size):
    lines = frame(view(facts), NOW, terminal_size(size), COLOUR, signs)
    assert len(lines) == size[1]
    for line in plain(lines):
        assert line.isprintable()
        assert cells(line) <= size[0], line
        assert line.isascii() or not signs.ascii


@pytest.mark.parametrize("state", [one.value for one in State])
@pytest.mark.parametrize("columns", [40, 80])
def test_the_current_state_is_lit_without_colour_too(state, columns):
    text = "\n".join(frame(view(WELL, state=state), NOW, terminal_size((columns, 30)), PLAIN, UNICODE))
    assert "\x1b" not in text
    assert re.findall(r"\[(\w+)\]", text) == [state]
    assert all(one.value in text for one in State)


def test_the_running_attempt_has_its_phase_lit():
    lines = frame(view(WELL, state="Renewing", phase="Polling"), NOW, terminal_size((80, 30)), PLAIN, UNICODE)
    assert "  attempt 4" in lines
    assert "    Staging → Submitting → [Polling] → Proving → Committing → Retiring" in lines
    idle = frame(view(WELL), NOW, terminal_size((80, 30)), PLAIN, UNICODE)
    assert "  no attempt under way" in idle


def test_everything_that_is_known_is_told():
    lines = frame(view(WELL), NOW, terminal_size((80, 24)), PLAIN, UNICODE)
    assert lines[0] == "identityd  dev-1 at hub.test:8443".ljust(60) + "2026-11-25 02:00:00Z"
    assert "  next         renewal in 14 d 00:00:00" in lines
    assert "  certificate  20 d left, generation 3, accepted by the hub" in lines
    assert f"  2026-11-15 02:00{' ' * 44}2026-12-15 02:00" in lines
    assert "  renewal      ▒ window opens 2026-12-06 02:00, to 2026-12-12 02:00" in lines
    assert "               ◆ drawn for 2026-12-09 02:00, in 14 d 00:00:00" in lines
    assert "event 29 happens" in lines[-2]
    assert lines[-1].startswith("Ctrl-C ends it   Provisioned for 39 min")


@pytest.mark.parametrize("rows", [5, 6, 8, 10])
def test_few_rows_keep_what_matters(rows):
    text = "\n".join(frame(view(WELL | ILL), NOW, terminal_size((80, rows)), PLAIN, UNICODE))
    assert "[Provisioned]" in text
    assert rows < 8 or "help needed" in text
    assert rows < 10 or "next         renewal" in text


def test_who_does_not_answer_is_said_in_the_last_line():
    lines = frame(view(WELL, away="no service answers"), NOW, terminal_size((80, 24)), PLAIN, UNICODE)
    assert lines[-1] == "the service does not answer: no service answers"
    assert "[Provisioned]" in "\n".join(lines)


@pytest.mark.parametrize(
    ("facts", "told", "untold"),
    [
        ({"credential": None}, "next", "generation"),
        (
            {"credential": CredentialStatus(source="configured", generation=1, proven=True)},
            "the configured one: no certificate was issued",
            "generation",
        ),
        ({"next": None}, "next         nothing", "renewal in"),
        ({"next": None, "stuck": True, "reason": "x"}, "next         nothing without help", "why"),
        ({"next": NextStatus(what="DPS is asked")}, "next         DPS is asked", "DPS is asked in"),
        (
            {"credential": msgspec.structs.replace(CREDENTIAL, not_after=rfc3339(NOW - DAY))},
            "EXPIRED 1 d ago",
            "drawn for",
        ),
        ({"credential": msgspec.structs.replace(CREDENTIAL, not_after="soon")}, "configured", "left"),
    ],
)
def test_what_is_not_there_is_not_told(facts, told, untold):
    lines = frame(view(WELL | facts), NOW, terminal_size((80, 24)), PLAIN, UNICODE)
    text = "\n".join(line for line in lines if "event" not in line)
    assert told in text
    assert untold not in text


def test_no_history_leaves_no_heading():
    assert "last events" not in "\n".join(
        frame(view(WELL, told=0), NOW, terminal_size((80, 24)), PLAIN, UNICODE)
    )


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-1, "now"),
        (0, "now"),
        (1, "in 00:00:01"),
        (60_000, "in 00:01:00"),
        (DAY - 1, "in 1 d 00:00:00"),
        (3 * DAY + 3_723_000, "in 3 d 01:02:03"),
    ],
)
def test_countdowns(ms, text):
    assert countdown(ms) == text


# --- the bar -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "bar", "styles"),
    [
        (NOW - 11 * DAY, "████████████████████▒▒▒◆▒▒████", {"good", "strong"}),
        (NOW, "░░░░░░░░░░██████████▒▒▒◆▒▒████", {"dim", "good", "strong"}),
        (NOW + 12 * DAY, "░░░░░░░░░░░░░░░░░░░░░░▒◆▒▒████", {"dim", "busy", "strong"}),
        (NOW + 18 * DAY, "░░░░░░░░░░░░░░░░░░░░░░░◆░░░░██", {"dim", "bad", "strong"}),
        (NOW + 99 * DAY, "░░░░░░░░░░░░░░░░░░░░░░░◆░░░░░░", {"dim", "strong"}),
    ],
)
def test_a_life_with_its_window_and_its_draw(now, bar, styles):
    certificate = msgspec.structs.replace(
        IN_USE, opens_unix_ms=NOW + 10 * DAY, due_unix_ms=NOW + 13 * DAY, closes_unix_ms=NOW + 16 * DAY
    )
    spans = life_bar(LIFE, certificate, now, 30, UNICODE)
    assert "".join(text for _, text in spans) == bar
    assert {style for style, _ in spans} == styles


@pytest.mark.parametrize(
    "certificate",
    [None, msgspec.structs.replace(IN_USE, ends_unix_ms=NOW)],
    ids=["none known", "another one known"],
)
def test_a_life_whose_renewal_is_not_known(certificate):
    assert life_bar(LIFE, certificate, NOW, 6, ASCII) == [("dim", ".."), ("good", "####")]


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_a_life_without_length(columns):
    spans = life_bar(
        Validity(serial="", not_before_unix_ms=NOW, not_after_unix_ms=NOW), None, NOW, columns, UNICODE
    )
    assert sum(len(text) for _, text in spans) == columns


# --- what is known -----------------------------------------------------------------------------------


class Asked:
    """A client whose answers are set."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0

    def status(self):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def lines_of(name):
    for raw in (JOURNALS / name).read_bytes().splitlines():
        line = msgspec.json.decode(raw, type=Line)
        if line.type == "record":
            yield msgspec.structs.replace(line, raw=raw)


def test_records_tell_of_the_renewal():
    machine = Machine()
    watched = Watched(Asked(machine.status()), machine.status())
    watched.take(list(lines_of("recorded-0.1.0/renewal.jsonl")))
    known = watched.view.certificate
    reading = read((JOURNALS / "recorded-0.1.0/renewal.jsonl").read_bytes())
    armed = [e for r in reading.records for e in r.effects if getattr(e, "name", "") == "window"]
    assert known.generation == 3
    assert known.opens_unix_ms == armed[-1].at_unix_ms
    assert known.opens_unix_ms <= known.due_unix_ms <= known.closes_unix_ms
    assert watched.view.happenings[-1].what.startswith("asked to stop")


def test_a_record_of_tomorrow_is_told_by_its_tag():
    machine = Machine()
    raw = record_line(7, {"type": "event-of-tomorrow"}, state="Renewing")
    line = msgspec.structs.replace(msgspec.json.decode(raw, type=Line), raw=raw)
    watched = Watched(Asked(machine.status()), machine.status())
    watched.take([line])
    assert [one.what for one in watched.view.happenings] == ["event-of-tomorrow"]


@pytest.mark.parametrize(("status", "goes_on"), [(UNREACHABLE, True), (NO, False)])
def test_a_service_that_is_away_may_come_back(status, goes_on):
    machine = Machine()
    client = Asked(CommandFailed("nobody there", status))
    watched = Watched(client, machine.status())
    beat = [Line(type="heartbeat")]
    if not goes_on:
        with pytest.raises(CommandFailed):
            watched.take(beat)
        return
    watched.take(beat)
    assert watched.view.away == "nobody there"
    client.answer = machine.status()
    watched.take(beat)
    assert watched.view.away == ""


def test_nothing_is_asked_while_nothing_happens():
    machine = Machine()
    client = Asked(machine.status())
    watched = Watched(client, machine.status())
    watched.take([])
    assert client.asked == 0


# --- on a terminal -----------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch):
    """A process takes longer to begin than a request."""
    monkeypatch.setattr(unix_peer, "PATIENCE_S", WITHIN_S)


@pytest.fixture
def watching(tmp_path, patient):
    """Runs ``what(terminal, machine, act)`` against ``identityd watch`` on a terminal.

    ``act`` calls in the loop that serves the machine.
    """

    def run(what, *, columns=80, rows=24, **environ):
        machine = Machine()
        machine.fields = WELL
        machine.lines = [line.raw + b"\n" for line in lines_of("register-renew.jsonl")]
        handler = control_handler(machine, own_uid=os.getuid(), machine=lambda: b"")

        async def main():
            async with serving(str(tmp_path / "run/aziot/control.sock"), handler):
                await trio.to_thread.run_sync(in_thread)

        def in_thread():
            terminal = OnTerminal("watch", "--root", str(tmp_path), columns=columns, rows=rows, **environ)
            try:
                what(terminal, machine, trio.from_thread.run_sync)
            finally:
                terminal.close()

        trio.run(main)

    return run


def ended_well(terminal):
    """The terminal is as it was, and the shell's next line begins at its beginning."""
    assert terminal.text.count(ENTER) == terminal.text.count(LEAVE)
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
    assert terminal.text.rindex("\x1b[?7h") > terminal.text.rindex("\x1b[?7l")
    assert terminal.echoes


def test_it_is_drawn_and_given_back_at_ctrl_c(watching):
    def what(terminal, machine, act):
        terminal.until_frame("[Provisioned]", "last events", "dev-1 at hub.test:8443")
        assert not terminal.echoes
        assert len(terminal.frame) == 24
        assert max(map(cells, terminal.frame)) <= 80
        terminal.type(b"\x03")
        assert terminal.end() == 0
        ended_well(terminal)
        after = terminal.text.rpartition(LEAVE)[2]
        assert "Provisioned" in after
        assert "Assigned, with a valid certificate." in after

    watching(what)


def test_it_follows_what_happens_and_the_clock(watching):
    def what(terminal, machine, act):
        terminal.until_frame("[Provisioned]")
        seen = terminal.frame[0]
        terminal.until(lambda one: one.frame[0] != seen and one.frame[0].startswith("identityd"))

        def change():
            machine.state, machine.phase = "Renewing", "Polling"
            machine.record({"type": "event-of-tomorrow"}, state="Renewing", phase="Polling")

        act(change)
        terminal.until_frame("[Renewing]", "[Polling]", "event-of-tomorrow")
        terminal.type(b"\x03")
        assert terminal.end() == 0

    watching(what)


def test_another_size_is_another_picture(watching):
    def what(terminal, machine, act):
        terminal.until_frame("[Provisioned]")
        for columns, rows in ((40, 12), (120, 40), (80, 5)):
            terminal.resize(columns, rows)
            terminal.until(lambda one, rows=rows: len(one.frame) == rows and one.text.endswith("\x1b[J"))
            assert max(map(cells, terminal.frame)) <= columns
            assert any("[Provisioned]" in line for line in terminal.frame)
        terminal.type(b"\x03")
        assert terminal.end() == 0

    watching(what)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_ever_but_not_the_terminal(watching, number):
    def what(terminal, machine, act):
        terminal.until_frame("[Provisioned]")
        terminal.send(number)
        assert terminal.end() == -number
        ended_well(terminal)

    watching(what)


def test_ctrl_z_gives_the_terminal_back_for_a_while(watching):
    def what(terminal, machine, act):
        terminal.until_frame("[Provisioned]")
        # Its session has nobody to wake it again, so the kernel lets it go on at once (an orphaned group).
        terminal.send(signal.SIGTSTP)
        terminal.until(lambda one: one.text.count(ENTER) == 2)
        terminal.until_frame("[Provisioned]")
        terminal.type(b"\x03")
        assert terminal.end() == 0
        ended_well(terminal)

    watching(what)


@pytest.mark.parametrize(
    "environ",
    [{"LANG": "C"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=["LANG=C", "LC_ALL=C", "latin-1"],
)
def test_no_utf8_breaks_nothing(watching, environ):
    def what(terminal, machine, act):
        terminal.until_frame("> [Provisioned] >", "#")
        assert terminal.text.isascii()
        terminal.type(b"\x03")
        assert terminal.end() == 0

    watching(what, **environ)


def test_no_colour_where_none_is_wanted(watching):
    def what(terminal, machine, act):
        terminal.until_frame("[Provisioned]")
        assert not re.search(r"\x1b\[[0-9;]+m", terminal.text)
        terminal.type(b"\x03")
        assert terminal.end() == 0

    watching(what, NO_COLOR="1")


def test_a_dumb_terminal_gets_lines(watching):
    def what(terminal, machine, act):
        terminal.until(lambda one: "credential committed" in one.text)
        assert "\x1b" not in terminal.text
        terminal.type(b"\x03")
        assert terminal.end() == 0

    watching(what, TERM="dumb")


def test_a_service_that_stops_is_told_and_waited_for(watching):
    def what(terminal, machine, act):
        terminal.until_frame("[Provisioned]")
        os.unlink(terminal.process.args[-1] + "/run/aziot/control.sock")
        act(machine.end)
        terminal.until_frame("the service does not answer")
        terminal.type(b"\x03")
        assert terminal.end() == 0
        ended_well(terminal)

    watching(what)


def test_nobody_there_leaves_the_terminal_alone(tmp_path):
    terminal = OnTerminal("watch", "--root", str(tmp_path))
    try:
        assert terminal.end() == 3
        assert "no service answers" in terminal.text
        assert ENTER not in terminal.text
    finally:
        terminal.close()


def test_a_reader_that_has_seen_enough(tmp_path, patient):
    machine = Machine()
    machine.lines = [line.raw + b"\n" for line in lines_of("register-renew.jsonl")]
    handler = control_handler(machine, own_uid=os.getuid(), machine=lambda: b"")
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "adapters", "watch", "--root", str(tmp_path)]

    def run():
        with open(write_end, "wb") as pipe:
            return subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)

    async def main():
        async with serving(str(tmp_path / "run/aziot/control.sock"), handler):
            return await trio.to_thread.run_sync(run)

    done = trio.run(main)
    assert (done.returncode, done.stderr) == (1, b"")
