"""A terminal as it is: how large, which signs it has, how wide a text is on it, and how it is given back."""

import contextlib
import os
import signal
import sys
import termios
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, TextIO

from msgspec import Struct

from adapters.cli.encoding import takes_unicode
from adapters.cli.screen import Ink

Span = tuple[str, str]
"Style and text; the style of plain text is empty."

NOT_KNOWN = os.terminal_size((80, 24))
"What a terminal that says 0 by 0, such as a serial line, is taken for."

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"Another screen, without a cursor, whose long lines do not wrap (xterm's ctlseqs, DEC private modes)."
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


class Signs(Struct, frozen=True, kw_only=True):
    """What pictures and shortened texts are made of."""

    full: str
    empty: str
    window: str
    drawn: str
    arrow: str
    pointer: str
    ellipsis: str
    ascii: bool


UNICODE = Signs(full="█", empty="░", window="▒", drawn="◆", arrow="→", pointer="▲", ellipsis="…", ascii=False)
ASCII = Signs(full="#", empty=".", window="=", drawn="*", arrow=">", pointer="^", ellipsis="...", ascii=True)


def signs_of(stream: TextIO, environ: Mapping[str, str] | None = None) -> Signs:
    """Blocks and arrows where they can be shown."""
    return UNICODE if takes_unicode(stream, environ) else ASCII


# --- text --------------------------------------------------------------------------------------------


def cells(text: str) -> int:
    """Columns that a printable text takes: East Asian signs take two, accents of their own none."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(sign: str) -> int:
    if unicodedata.combining(sign) or unicodedata.category(sign) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def shown(text: str, signs: Signs) -> str:
    """One line of what this terminal has signs for."""
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    if not signs.ascii or text.isascii():
        return text
    return text.replace("…", "...").encode("ascii", "replace").decode()


def cut(text: str, columns: int, signs: Signs) -> str:
    """``text`` when it fits, else its beginning and an ellipsis."""
    if cells(text) <= columns:
        return text
    room = columns - cells(signs.ellipsis)
    if room < 0:
        return signs.ellipsis[: max(columns, 0)]
    kept = 0
    for at, sign in enumerate(text):
        kept += _cell(sign)
        if kept > room:
            return text[:at] + signs.ellipsis
    return text


def painted(spans: Iterable[Span], columns: int, ink: Ink, signs: Signs) -> str:
    """One line in colour, no wider than that."""
    parts: list[str] = []
    left = columns
    for style, text in spans:
        text = shown(text, signs)
        fitting = cut(text, left, signs)
        parts.append(ink(style, fitting) if style and fitting else fitting)
        left -= cells(fitting)
        if fitting != text:
            break
    return "".join(parts)


# --- the whole screen --------------------------------------------------------------------------------


def is_live(stream: TextIO, environ: Mapping[str, str] | None = None) -> bool:
    """Whether pictures can be drawn over each other there."""
    environ = os.environ if environ is None else environ
    return stream.isatty() and environ.get("TERM", "dumb") != "dumb"


class Canvas:
    """The whole terminal, for frames that are drawn over each other; given back as it was, whatever ends it.

    ``wake`` is called from a signal handler when it has to be drawn again: another size, back from Ctrl-Z.
    Main thread only. SIGTERM and SIGHUP end the process as ever, once the terminal is given back.
    """

    def __init__(self, stream: TextIO, wake: Callable[[], None]) -> None:
        self._stream = stream
        self._wake = wake
        self._handlers: dict[int, Any] = {}
        self._echo: list[Any] | None = None

    @property
    def size(self) -> os.terminal_size:
        """As it is now: COLUMNS of the environment is of another time."""
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._stream.fileno())
            if size.columns and size.lines:
                return size
        return NOT_KNOWN

    def __enter__(self) -> "Canvas":
        self._stream.flush()
        for number in _ENDINGS:
            self._handlers[number] = signal.signal(number, self._end)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: self._wake())
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._pause)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def draw(self, lines: Sequence[str]) -> None:
        """Raises OSError when the terminal is gone."""
        text = f"{_REST_OF_LINE}\r\n".join(lines)
        self._write(f"{_HOME}{text}{_REST_OF_LINE}{_REST_OF_SCREEN}")

    def _write(self, text: str) -> None:
        # Past the stream's buffer: that one must not be entered by a handler while it is written.
        left = memoryview(text.encode(self._stream.encoding or "ascii", "replace"))
        while left:
            left = left[os.write(self._stream.fileno(), left) :]

    def _take(self) -> None:
        self._quiet()
        self._write(_ENTER)

    def _give_back(self) -> None:
        # A terminal that is gone need not be given back.
        with contextlib.suppress(OSError):
            self._write(_LEAVE)
        if self._echo is not None:
            with contextlib.suppress(OSError, termios.error):
                # What was typed meanwhile was for nobody; the shell must not take it for a command.
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, self._echo)
            self._echo = None

    def _quiet(self) -> None:
        """What is typed is not shown: it would stand across the picture."""
        try:
            handle = sys.stdin.fileno()
            # In the background nothing may be set, and trying stops the process (SIGTTOU).
            if not sys.stdin.isatty() or os.tcgetpgrp(handle) != os.getpgrp():
                return
            self._echo = termios.tcgetattr(handle)
            silent = termios.tcgetattr(handle)
            silent[3] &= ~termios.ECHO
            termios.tcsetattr(handle, termios.TCSANOW, silent)
        except (AttributeError, OSError, ValueError, termios.error):
            self._echo = None

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _pause(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        handler = signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Here it goes on, after SIGCONT.
        signal.signal(number, handler)
        self._take()
        self._wake()
