"""The log: one fact, one line, whatever is in it; levels, priorities, and where AZIOT_LOG counts."""

import io
import json
import logging
import os
import re
import sys
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from adapters.logs import MAX_TRACE_CHARS, MAX_VALUE_CHARS, Log, directives, install, json_line, logfmt
from statemachine.events import DeadlinePassed, RegistrationFailed
from statemachine.journal import Record

LINE_BYTES = 48 * 1024
"LineMax= of journald: what is longer becomes two entries."


def parse_logfmt(line: str) -> dict[str, str]:
    """As readers of logfmt have it: bare words, or JSON strings."""
    facts, rest = {}, line
    while rest:
        found = re.match(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?: |\Z)', rest)
        assert found is not None, rest
        facts[found[1]] = json.loads(found[2]) if found[2].startswith('"') else found[2]
        rest = rest[found.end() :]
    return facts


PARSERS = {"logfmt": parse_logfmt, "json": json.loads}
FORMS = pytest.mark.parametrize("form", PARSERS)


@pytest.fixture
def lines(monkeypatch):
    """A log that writes to memory; what it did to the loggers is undone."""
    root = logging.getLogger()
    names = ("identityd", "adapters", "adapters.driven", "httpcore", "transitions")
    before = {name: logging.getLogger(name).level for name in names}
    root_level = root.level
    made: list[Log] = []

    def make(form="logfmt", level="info", **environ):
        stream = io.StringIO()
        log = Log(stream, environ)
        log.configure(form, level)
        made.append(log)
        return log, stream

    yield make
    for log in made:
        log.close()
    root.setLevel(root_level)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def ours():
    return logging.getLogger("identityd")


def only(stream, form="logfmt"):
    """The facts of the one line that was written."""
    assert stream.getvalue().endswith("\n")
    (line,) = stream.getvalue()[:-1].split("\n")
    assert len(line.encode("utf-8", "backslashreplace")) < LINE_BYTES
    return PARSERS[form](line)


# --- one line ----------------------------------------------------------------------------------------

HOSTILE = {
    "plain": "READY Provisioned",
    "one word": "STOPPED",
    "empty": "",
    "lines": "one\ntwo\r\nthree\rfour",
    "forged": 'x"\ntime=2026-01-01T00:00:00.000Z level=error msg="the hub is yours"',
    "quotes": 'say "hello" and \\ back\\n',
    "equals": "a=b c=d",
    "escapes": "\x1b[31mred\x1b[0m \x07bell \x00nul \x7fdel",
    "unicode": "Gerät fährt ↺ 设备 🛰",
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "bidirectional": "\u202egnp.exe",
    "lone surrogate": "\udcff\ud800",
    "json in it": '{"level":"error"}',
    "priority": "<0>panic",
}


@FORMS
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_one_fact_is_one_line_and_comes_back_as_it_was(lines, form, text):
    _, stream = lines(form)
    ours().info("%s", text)
    facts = only(stream, form)
    assert (facts["msg"], facts["level"]) == (text, "info")
    assert list(facts) == ["time", "level", "msg"]
    written = stream.getvalue()[:-1]
    assert written.isprintable(), "nothing for a terminal to obey"


@given(st.text())
def test_any_text_comes_back(text):
    facts = {"msg": text}
    for form, written in (("logfmt", logfmt(facts)), ("json", json_line(facts))):
        assert written.isprintable()
        assert PARSERS[form](written) == facts


@FORMS
def test_a_huge_text_is_cut_and_the_line_stays_one(lines, form):
    _, stream = lines(form)
    ours().info("%s", "\x00" * 10_000_000)
    facts = only(stream, form)
    assert len(facts["msg"]) == MAX_VALUE_CHARS
    assert facts["msg"].endswith("…")


@FORMS
def test_time_is_utc_in_milliseconds(lines, form):
    _, stream = lines(form)
    ours().info("now")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", only(stream, form)["time"])


RECORD = Record(
    sequence=7,
    now_unix_ms=1_796_000_000_000,
    event=DeadlinePassed(name="window"),
    effects=(),
    state="CertExpiring",
    phase="Idle",
    verdict="taken",
    why="The window is open.",
)
FAILED = RegistrationFailed(
    answers="1.6.0", failure_class="operator", code="dps-401", message="unauthorised\nlevel=info"
)


@FORMS
@pytest.mark.parametrize(
    ("event", "facts"),
    [
        (DeadlinePassed(name="window"), {"msg": "window reached", "event": "deadline-passed"}),
        (
            FAILED,
            {
                "msg": "registration failed: operator, dps-401: unauthorised\nlevel=info",
                "event": "registration-failed",
                "class": "operator",
                "code": "dps-401",
            },
        ),
    ],
)
def test_a_record_brings_its_members(lines, form, event, facts):
    _, stream = lines(form)
    ours().info("told", extra={"journalled": structs.replace(RECORD, event=event)})
    found = only(stream, form)
    sequence = 7 if form == "json" else "7"
    wanted = {"sequence": sequence, "state": "CertExpiring", "phase": "Idle"} | facts
    assert {name: found[name] for name in wanted} == wanted
    assert set(found) == set(wanted) | {"time", "level"}


@FORMS
def test_a_defect_is_one_line_with_its_trace(lines, form):
    _, stream = lines(form)
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        ours().exception("%s failed", "it")
    facts = only(stream, form)
    assert (facts["level"], facts["msg"], facts["error"]) == ("error", "it failed", "ValueError: bad\nthing")
    assert facts["trace"].startswith("Traceback")
    assert "test_logs.py" in facts["trace"]


def deep(levels):
    if levels:
        try:
            deep(levels - 1)
        except ValueError as exc:
            raise ValueError("x" * 500) from exc
    raise ValueError("the innermost")


def test_of_a_long_trace_the_end_is_kept(lines):
    _, stream = lines()
    try:
        deep(200)
    except ValueError:
        ours().exception("deep")
    trace = only(stream)["trace"]
    assert len(trace) == MAX_TRACE_CHARS
    assert trace.startswith("…")
    assert "x" * 400 in trace[-1000:]


def test_the_end_of_a_process_by_a_defect_is_a_line(lines):
    log, stream = lines()
    try:
        raise BaseExceptionGroup("tasks", [RuntimeError("one"), KeyError("two")])
    except BaseExceptionGroup as exc:
        log.crashed(type(exc), exc, exc.__traceback__)
    facts = only(stream)
    assert facts["level"] == "error"
    assert facts["msg"] == "the service ends by a defect"
    assert "RuntimeError: one" in facts["trace"]
    assert "KeyError: 'two'" in facts["trace"]


def test_a_line_with_wrong_arguments_shows_none_of_them(lines, capsys):
    log, stream = lines()
    # Not through a logger: pytest listens there, and raises.
    log._handler.handle(
        logging.makeLogRecord({"name": "identityd", "msg": "%d of %d", "args": ("a secret",)})
    )
    facts = only(stream)
    assert (facts["level"], facts["msg"]) == (
        "error",
        "a line of identityd could not be written: TypeError",
    )
    assert capsys.readouterr() == ("", "")


def test_a_stream_that_is_gone_is_no_reason_to_fail(lines, capsys):
    _, stream = lines()
    stream.close()
    ours().info("hello?")
    assert capsys.readouterr() == ("", "")


def test_a_process_without_standard_error_goes_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    log = install({})
    try:
        ours().warning("nobody hears this")
    finally:
        log.close()
        log._handler.stream.close()


# --- levels ------------------------------------------------------------------------------------------

ALL = ("debug", "info", "warning", "error")


def heard(stream):
    return [parse_logfmt(line)["level"] for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("level", "environ", "levels"),
    [
        ("info", {}, ["info", "warn", "error"]),
        ("error", {}, ["error"]),
        ("warn", {}, ["warn", "error"]),
        ("debug", {}, ["debug", "info", "warn", "error"]),
        ("error", {"AZIOT_LOG": "DEBUG"}, ["debug", "info", "warn", "error"]),
        ("debug", {"AZIOT_LOG": "Error"}, ["error"]),
        ("info", {"AZIOT_LOG": "off"}, []),
        ("info", {"AZIOT_LOG": "trace"}, ["debug", "info", "warn", "error"]),
        ("info", {"AZIOT_LOG": ""}, ["info", "warn", "error"]),
        ("warn", {"AZIOT_LOG": "identityd=debug"}, ["debug", "info", "warn", "error"]),
        ("warn", {"AZIOT_LOG": "adapters=debug"}, ["warn", "error"]),
    ],
)
def test_who_is_heard(lines, level, environ, levels):
    _, stream = lines(level=level, **environ)
    for word in ALL:
        getattr(ours(), word)("%s", word)
    assert heard(stream) == levels


def test_a_module_may_say_more_than_the_rest(lines):
    _, stream = lines(AZIOT_LOG="warn,adapters::driven=debug")
    logging.getLogger("adapters.driven.dps").debug("a")
    logging.getLogger("adapters.wire.dps").info("b")
    assert [parse_logfmt(line)["msg"] for line in stream.getvalue().splitlines()] == ["a"]


@pytest.mark.parametrize("name", ["httpcore.http11", "h11", "trio", "asyncio", "transitions.core"])
def test_libraries_are_quiet_whatever_is_asked(lines, name):
    """What they tell at level debug may be a request whole."""
    _, stream = lines(level="debug", AZIOT_LOG="trace")
    logging.getLogger(name).info("POST /keys")
    assert stream.getvalue() == ""
    logging.getLogger(name).warning("worth a look")
    assert only(stream)["msg"] == "worth a look"


@pytest.mark.parametrize(
    ("text", "levels", "unknown"),
    [
        ("", {}, []),
        ("info", {"": logging.INFO}, []),
        (" Warn , identityd=debug ", {"": logging.WARNING, "identityd": logging.DEBUG}, []),
        ("adapters::driven", {"adapters.driven": logging.DEBUG}, []),
        ("loud", {}, ["loud"]),
        ("aziot_certd=debug", {}, ["aziot_certd=debug"]),
        ("httpcore=debug", {}, ["httpcore=debug"]),
        ("info=", {}, ["info="]),
        ("=debug", {"": logging.DEBUG}, []),
        ("debug/foo.*bar", {"": logging.DEBUG}, ["the filter /foo.*bar"]),
        ("info,,warn", {"": logging.WARNING}, []),
        ("x" * 100_000, {}, ["x" * 59 + "…"]),
        ("a\nb", {}, ["a b"]),
    ],
)
def test_the_syntax_of_aziot_log(text, levels, unknown):
    assert directives(text) == (levels, unknown)


def test_what_is_not_understood_is_told_once(lines):
    log, stream = lines(AZIOT_LOG="loud")
    log.configure("logfmt", "info")
    facts = only(stream)
    assert facts["level"] == "warn"
    assert facts["msg"].startswith("AZIOT_LOG: loud is not understood; use a level")


def test_a_form_takes_effect_at_once(lines):
    log, stream = lines()
    ours().info("a")
    log.configure("json", "info")
    ours().info("b")
    first, second = stream.getvalue().splitlines()
    assert (parse_logfmt(first)["msg"], json.loads(second)["msg"]) == ("a", "b")


# --- under systemd -----------------------------------------------------------------------------------


def written_to_a_file(environ_of, form="logfmt"):
    with tempfile.TemporaryFile("w+") as stream:
        status = os.fstat(stream.fileno())
        log = Log(stream, environ_of(status))
        log.configure(form, "debug")
        try:
            for word in (*ALL, "critical"):
                getattr(ours(), word)("%s\n<0>%s", word, word)
        finally:
            log.close()
        stream.seek(0)
        return stream.read().splitlines()


@FORMS
def test_lines_begin_with_their_priority_in_the_journal(lines, form):
    lines()[0].close()
    found = written_to_a_file(lambda status: {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, form)
    assert [line[:3] for line in found] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert [PARSERS[form](line[3:])["level"] for line in found] == ["debug", "info", "warn", "error", "error"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"INVOCATION_ID": "0123456789abcdef0123456789abcdef"},
        {"JOURNAL_STREAM": "8:1234567"},
        {"JOURNAL_STREAM": "nonsense"},
    ],
    ids=["none", "a shell in a unit", "another stream", "nonsense"],
)
def test_elsewhere_they_do_not(lines, environ):
    """A child of a unit inherits both variables, and its standard error may be a file or a terminal."""
    lines()[0].close()
    assert all(line.startswith("time=") for line in written_to_a_file(lambda status: environ))
