"""What people read on a terminal: one screen of status, instants and spans in words, colour when it helps."""

import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TextIO

from adapters.errors import bounded
from statemachine.status import CredentialStatus, LastError, Status

_CODES: Mapping[str, str] = {"good": "32", "busy": "33", "bad": "31;1", "dim": "2", "strong": "1"}
_STATE_STYLES: Mapping[str, str] = {"Provisioned": "good", "Unprovisioned": "bad"}
_LABEL_WIDTH = 14
_ROOMY, _LEAST = 60, 24
"Columns from which a margin as wide as the label is worth it; and how few are still reckoned with."
_INSTANT = re.compile(r"\b\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?Z")
_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


class Ink:
    """Colour for one stream: on a terminal, unless NO_COLOR is set or TERM is dumb."""

    def __init__(self, stream: TextIO | None = None, environ: Mapping[str, str] | None = None) -> None:
        stream = sys.stdout if stream is None else stream
        environ = os.environ if environ is None else environ
        # https://no-color.org: any non-empty value.
        self._colour = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._colour else text

    def state(self, state: str, text: str) -> str:
        """``text`` in the colour of ``state``."""
        return self(state_style(state), text)


def state_style(state: str) -> str:
    """The colour of a state, as Ink knows it."""
    return _STATE_STYLES.get(state, "busy")


def columns(stream: TextIO | None = None) -> int | None:
    """Of a terminal; None for anything else, where lines are not broken."""
    stream = sys.stdout if stream is None else stream
    return shutil.get_terminal_size((80, 24)).columns if stream.isatty() else None


def status_screen(
    status: Status, ink: Ink, *, now_unix_ms: int | None = None, columns: int | None = None
) -> Iterator[str]:
    """The whole status, the most important line first; wrapped when ``columns`` is given."""
    now = int(time.time() * 1000) if now_unix_ms is None else now_unix_ms
    yield from headline(status, ink, now_unix_ms=now, columns=columns)
    for label, text in _rows(status, now):
        yield from _labelled(ink, "dim", label.ljust(_LABEL_WIDTH - 1), text, columns)


def headline(status: Status, ink: Ink, *, now_unix_ms: int, columns: int | None = None) -> Iterator[str]:
    """Position and what is wrong with it."""
    phase = "" if status.phase == "Idle" else f", {status.phase}"
    since = f"{phase} since {instant(status.since, now_unix_ms)}"
    first, *rest = wrapped(f"{status.state}{since}", columns)
    yield ink("strong", ink.state(status.state, status.state)) + first[len(status.state) :]
    yield from rest
    if status.stuck:
        yield from _labelled(ink, "bad", "help needed", status.reason, columns)
    elif status.reason:
        yield from wrapped(f"  {bounded(status.reason)}", columns)
    for one in status.degraded:
        yield from _labelled(ink, "busy", "degraded", one, columns)


def _labelled(ink: Ink, style: str, label: str, text: str, columns: int | None) -> Iterator[str]:
    first, *rest = wrapped(f"  {label} {bounded(text)}", columns, hanging=len(label) + 3)
    yield f"  {ink(style, label)}{first[len(label) + 2 :]}"
    yield from rest


def wrapped(text: str, columns: int | None, *, hanging: int = 4) -> list[str]:
    """Lines of so many columns; few columns have no room for a wide margin."""
    if columns is None or len(text) <= columns:
        return [text]
    margin = " " * (hanging if columns >= _ROOMY else 4)
    return textwrap.wrap(text, max(columns, _LEAST), subsequent_indent=margin)


def _rows(status: Status, now: int) -> Iterator[tuple[str, str]]:
    if status.assignment is not None:
        yield "hub", status.assignment.hub
        yield "device", status.assignment.device_id
    if status.credential is not None:
        yield "credential", _credential(status.credential, now)
    if status.next is not None:
        yield "next", status.next.what + (f", {instant(status.next.at, now)}" if status.next.at else "")
    if status.attempt is not None:
        started = f", begun {instant(status.attempt.started, now)}" if status.attempt.started else ""
        yield "attempt", f"number {status.attempt.number}{started}"
        if status.attempt.last_error is not None:
            yield "last error", failure_text(status.attempt.last_error)
    if status.trust_bundle is not None:
        yield "trust bundle", f"{status.trust_bundle.id}, {_count(status.trust_bundle.certificates)}"
    ends = status.onboarding.not_after
    yield "onboarding", status.onboarding.method + (f", ends {instant(ends, now)}" if ends else "")
    yield "clock", f"{'trusted' if status.clock.trusted else 'NOT trusted'}: {status.clock.reason}"
    yield "journal", f"record {status.sequence}"
    yield "version", status.version


def result_text(status: Status) -> str:
    """What an attempt that succeeded left behind."""
    where = f"{status.assignment.device_id} at {status.assignment.hub}" if status.assignment else status.state
    credential = status.credential
    if credential is None:
        return where
    if credential.source == "configured" and status.onboarding.source == "manual":
        return f"{where}, with the configured credential"
    if credential.source == "configured":
        return f"{where}, with the configured credential: no certificate was issued"
    return f"{where}, certificate valid to {credential.not_after}"


def failure_text(error: LastError) -> str:
    """Code and class, the message, and what the cloud's support asks for."""
    tracking = f", tracking id {error.tracking_id}" if error.tracking_id else ""
    message = f": {error.message}" if error.message else ""
    return f"{error.code} ({error.failure_class}){message}{tracking}"


def _credential(credential: CredentialStatus, now: int) -> str:
    known = [f"{credential.source}, generation {credential.generation}"]
    if credential.serial:
        known.append(f"serial {credential.serial}")
    if credential.not_after:
        known.append(f"valid to {instant(credential.not_after, now)}")
    known.append("accepted by the hub" if credential.proven else "not yet accepted by the hub")
    return ", ".join(known)


def _count(certificates: int) -> str:
    return f"{certificates} certificate" + ("" if certificates == 1 else "s")


def instant(text: str, now_unix_ms: int) -> str:
    """An RFC 3339 instant with its distance from now; returned as it is when it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    away_ms = int(at.timestamp() * 1000) - now_unix_ms
    distance = f"in {span(away_ms)}" if away_ms >= 0 else f"{span(-away_ms)} ago"
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z ({distance})"


def with_distances(text: str, now_unix_ms: int) -> str:
    """Every RFC 3339 instant in a text as `instant` has it."""
    return _INSTANT.sub(lambda found: instant(found[0], now_unix_ms), text)


def clock_time(unix_ms: int) -> str:
    """Date and time of a record, UTC."""
    try:
        return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (ValueError, OverflowError, OSError):
        return str(unix_ms)


def span(ms: int) -> str:
    """Elapsed time in its two largest units."""
    seconds = ms // 1000
    for unit_s, unit, part_s, part in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= unit_s:
            rest = seconds % unit_s // part_s
            return f"{seconds // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{seconds} s"
