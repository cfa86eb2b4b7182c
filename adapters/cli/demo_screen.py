"""How the plain demo looks: lines for a terminal, lines for a pipe, JSON Lines for a program.

On a terminal the last line is alive: it is drawn again while nothing happens, and goes when something does.
"""

import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, TextIO

import msgspec
from msgspec import Struct

from adapters.cli.failure import CommandFailed
from adapters.cli.happenings import Happening, Validity, clock
from adapters.cli.screen import Ink, span
from adapters.errors import bounded
from statemachine.status import Status

STATE_COLUMNS, BAR_COLUMNS, LIFE_COLUMNS = 14, 8, 24
LEAST_TEXT_COLUMNS = 40
URGENT = 0.2
"Below this part of its life a certificate's bar is red."
_ERASE = "\r\x1b[2K"
_HINT = "Ctrl-C ends it"


class Begin(Struct, frozen=True, kw_only=True, tag_field="type", tag="begin"):
    """What runs, and where."""

    root: str
    endpoint: str
    cloud_pid: int
    service_pid: int
    device: str
    certificate_lifetime_s: int


class Note(Struct, frozen=True, kw_only=True, tag_field="type", tag="note"):
    """Something about the processes, which no record tells."""

    text: str


class Suggestion(Struct, frozen=True, kw_only=True):
    """A line to try in another terminal."""

    about: str
    line: str


class Try(Struct, frozen=True, kw_only=True, tag_field="type", tag="try"):
    """What to try."""

    lines: tuple[Suggestion, ...]


class End(Struct, frozen=True, kw_only=True, tag_field="type", tag="end"):
    """The last word."""

    text: str


Told = Begin | Happening | Note | Try | End


class Show(Protocol):
    """Where it is told."""

    def tell(self, told: Told) -> None:
        """Something happened."""

    def tick(self, status: Callable[[], Status]) -> None:
        """Nothing happened; ``status`` asks the service, and raises CommandFailed while it is away."""


class JsonLines:
    """For programs."""

    def tell(self, told: Told) -> None:
        print(msgspec.json.encode(told).decode(), flush=True)

    def tick(self, status: Callable[[], Status]) -> None:
        """Nothing is nothing."""


class Screen:
    """For people, on a terminal or into a pipe."""

    def __init__(self, stream: TextIO | None = None, *, ink: Ink | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._ink = Ink(self._stream) if ink is None else ink
        self._terminal = self._stream.isatty()
        encoding = (getattr(self._stream, "encoding", None) or "ascii").lower().replace("-", "")
        self._full, self._empty = ("█", "░") if encoding == "utf8" else ("#", ".")
        self._drawn = False

    def tell(self, told: Told) -> None:
        self._erase()
        for line in self._lines(told):
            print(line, file=self._stream)
        self._stream.flush()

    def tick(self, status: Callable[[], Status]) -> None:
        if not self._terminal:
            return
        try:
            line = self._alive(status(), int(time.time() * 1000))
        except CommandFailed:
            line = self._ink("bad", "the service does not answer")
        self._stream.write(f"{_ERASE}{line}")
        self._stream.flush()
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(_ERASE)
            self._drawn = False

    def _lines(self, told: Told) -> Iterator[str]:
        match told:
            case Begin():
                yield from self._begin(told)
            case Happening():
                yield from self._happening(told)
            case Note():
                yield self._ink("strong", told.text)
            case Try():
                yield from self._try(told.lines)
            case End():
                yield told.text

    def _begin(self, told: Begin) -> Iterator[str]:
        ink = self._ink
        yield f"{ink('strong', 'identityd demo')}, NOT FOR PRODUCTION. {_HINT}."
        life = f"its certificates live {told.certificate_lifetime_s} s"
        for label, text in (
            ("device", f"{told.device}; {life}"),
            ("service", f"pid {told.service_pid}"),
            ("cloud", f"pid {told.cloud_pid}, a stand-in for DPS and IoT Hub at {told.endpoint}"),
            ("root", told.root),
        ):
            yield f"  {ink('dim', label.ljust(8))} {text}"
        yield ""
        if self._terminal:
            titles = f"{'UTC':8}  {'state':{STATE_COLUMNS}}  {'life':{BAR_COLUMNS}}  what happened, and why"
            yield ink("dim", titles)

    def _happening(self, told: Happening) -> Iterator[str]:
        ink = self._ink
        head = ink("dim", clock(told.now_unix_ms))
        state = ink.state(told.state, told.state.ljust(STATE_COLUMNS))
        if told.entered:
            state = ink("strong", state)
        if not self._terminal:
            yield f"{head}  {state}  {told.what}. {told.why}"
            return
        bar = self._bar(told.certificate, told.now_unix_ms, BAR_COLUMNS)
        indent = len("HH:MM:SS") + STATE_COLUMNS + BAR_COLUMNS + 6
        room = max(self._columns() - indent, LEAST_TEXT_COLUMNS)
        what = textwrap.wrap(told.what, room) or [""]
        lines = [ink("bad", line) if told.failed else line for line in what]
        if len(what) == 1 and len(what[0]) + 2 + len(told.why) <= room:
            lines[0] += f"  {ink('dim', told.why)}"
        else:
            lines += [ink("dim", line) for line in textwrap.wrap(told.why, room)]
        yield f"{head}  {state}  {bar}  {lines[0]}"
        for line in lines[1:]:
            yield " " * indent + line

    def _try(self, lines: Sequence[Suggestion]) -> Iterator[str]:
        yield ""
        yield f"{self._ink('strong', 'To try, in another terminal:')}"
        for suggestion in lines:
            yield self._ink("dim", f"  # {suggestion.about}")
            yield f"  {suggestion.line}"
        yield ""

    def _alive(self, status: Status, now_unix_ms: int) -> str:
        """The line at the bottom, in the columns of those above: what is left, what comes."""
        ink = self._ink
        head, state = clock(now_unix_ms), status.state.ljust(STATE_COLUMNS)
        parts = [(f"{head}  {state}", f"{ink('dim', head)}  {ink.state(status.state, state)}")]
        certificate = _validity(status)
        if certificate is not None:
            left = f"{max(certificate.not_after_unix_ms - now_unix_ms, 0) / 1000:4.1f} s left"
            bar = self._bar(certificate, now_unix_ms, LIFE_COLUMNS)
            parts.append((" " * LIFE_COLUMNS + f" {left}", f"{bar} {left}"))
        coming = _coming(status, now_unix_ms)
        parts += [(text, ink("dim", text)) for text in (coming, _HINT) if text]
        line: list[str] = []
        used = 0
        for plain, styled in parts:
            used += len(plain) + 2
            # A line that wraps could not be drawn over.
            if used > self._columns():
                break
            line.append(styled)
        return "  ".join(line)

    def _bar(self, certificate: Validity | None, now_unix_ms: int, columns: int) -> str:
        """What is left of a certificate's life; blank when there is none."""
        if certificate is None:
            return " " * columns
        left = certificate.left(now_unix_ms)
        full = round(left * columns)
        style = "bad" if left < URGENT else "busy" if left < 0.5 else "good"
        return self._ink(style, self._full * full) + self._ink("dim", self._empty * (columns - full))

    def _columns(self) -> int:
        return shutil.get_terminal_size((100, 24)).columns


def _validity(status: Status) -> Validity | None:
    credential = status.credential
    if credential is None or credential.not_before is None or credential.not_after is None:
        return None
    return Validity(
        serial=credential.serial or "",
        not_before_unix_ms=_unix_ms(credential.not_before),
        not_after_unix_ms=_unix_ms(credential.not_after),
    )


def _coming(status: Status, now_unix_ms: int) -> str:
    if status.stuck:
        return bounded(status.reason)
    if status.next is None:
        return ""
    if status.next.at is None:
        return bounded(status.next.what)
    away_ms = _unix_ms(status.next.at) - now_unix_ms
    return f"{status.next.what} {'now' if away_ms <= 0 else f'in {span(away_ms + 999)}'}"


def _unix_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
