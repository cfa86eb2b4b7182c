"""What a terminal can show: signs, widths, and texts where they do not fit."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.cli.encoding import make_tolerant, takes_unicode
from adapters.cli.screen import Ink
from adapters.cli.terminal import ASCII, UNICODE, cells, cut, is_live, painted, shown, signs_of

JOURNAL = Path(__file__).parents[1] / "journals/register-renew.jsonl"
PLAIN = Ink(io.StringIO(), {})


@pytest.mark.parametrize(
    ("encoding", "environ", "takes"),
    [
        ("utf-8", {}, True),
        ("UTF8", {"LANG": "de_DE.UTF-8"}, True),
        ("utf-8", {"LANG": "C.UTF-8"}, True),
        ("utf-8", {"LANG": "C"}, False),
        ("utf-8", {"LANG": "POSIX"}, False),
        ("utf-8", {"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False),
        ("utf-8", {"LANG": "C", "LC_CTYPE": "en_US.UTF-8"}, True),
        ("utf-8", {"LC_ALL": "C", "LANG": "en_US.UTF-8"}, False),
        ("latin-1", {"LANG": "en_US"}, False),
        ("ascii", {}, False),
        (None, {}, False),
    ],
)
def test_signs_fit_stream_and_locale(encoding, environ, takes):
    stream = SimpleNamespace(encoding=encoding)
    assert takes_unicode(stream, environ) is takes
    assert signs_of(stream, environ) is (UNICODE if takes else ASCII)


@pytest.mark.parametrize(
    ("text", "width"), [("plain", 5), ("naïve", 5), ("日本", 4), ("e\u0301", 1), ("", 0), ("a\u200bb", 2)]
)
def test_widths(text, width):
    assert cells(text) == width


@pytest.mark.parametrize(
    ("text", "columns", "unicode", "plain"),
    [
        ("fits", 4, "fits", "fits"),
        ("too long", 5, "too …", "to..."),
        ("日本語", 5, "日本…", "日..."),
        ("abc", 1, "…", "."),
        ("abc", 0, "", ""),
    ],
)
def test_texts_are_cut_to_columns(text, columns, unicode, plain):
    assert cut(text, columns, UNICODE) == unicode
    assert cut(text, columns, ASCII) == plain
    assert cells(cut(text, columns, UNICODE)) <= columns


@pytest.mark.parametrize(
    ("text", "unicode", "plain"),
    [
        ("a\x1b[2Jb\nc", "a [2Jb c", "a [2Jb c"),
        ("zurück…", "zurück…", "zur?ck..."),
        ("\u202eevil", " evil", " evil"),
    ],
)
def test_nothing_but_printable_signs_is_shown(text, unicode, plain):
    assert shown(text, UNICODE) == unicode
    assert shown(text, ASCII) == plain


def test_a_painted_line_ends_where_the_columns_do():
    spans = [("good", "state"), ("", "  "), ("dim", "a long explanation"), ("bad", "never seen")]
    assert painted(spans, 12, PLAIN, UNICODE) == "state  a lo…"
    coloured = painted(spans, 12, Ink(SimpleNamespace(isatty=lambda: True), {}), UNICODE)
    assert coloured == "\x1b[32mstate\x1b[0m  \x1b[2ma lo…\x1b[0m"


@pytest.mark.parametrize(
    ("terminal", "environ", "live"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_where_pictures_can_be_drawn(terminal, environ, live):
    assert is_live(SimpleNamespace(isatty=lambda: terminal), environ) is live


# --- outputs that cannot take every sign -------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "environ", "written"),
    [
        ("ascii", {}, b"h?b ... ?"),
        ("latin-1", {"LANG": "de_DE"}, b"h\xfcb ... ?"),
        ("utf-8", {}, "hüb … 日".encode()),
        # Nobody looks at a pipe, and it may be JSON.
        ("utf-8", {"LANG": "C"}, "hüb … 日".encode()),
    ],
)
def test_what_cannot_be_written_is_spelt(encoding, environ, written):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    make_tolerant(stream, environ)
    stream.write("hüb … 日")
    stream.flush()
    assert raw.getvalue() == written


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_no_command_fails_for_want_of_signs(encoding, tmp_path):
    command = [sys.executable, "-m", "adapters", "journal", "show", str(JOURNAL)]
    done = subprocess.run(
        command, capture_output=True, env={"PYTHONIOENCODING": encoding, "PATH": ""}, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"->" in done.stdout
