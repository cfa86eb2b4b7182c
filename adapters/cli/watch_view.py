"""``identityd watch`` as a picture of so many lines and columns: nothing here reads a clock or writes.

What does not fit is left out, the least important first: position, what is wrong and what comes next stay.
"""

import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from msgspec import Struct

from adapters.cli.happenings import Happening, Validity, moment
from adapters.cli.history import Certificate
from adapters.cli.life_bar import life_bar
from adapters.cli.screen import Ink, clock_time, failure_text, span, state_style
from adapters.cli.terminal import Signs, Span, cells, painted, shown
from adapters.errors import bounded
from statemachine.states import Phase, State
from statemachine.status import Status

ROOMY = 60
"Below so many columns labels stand above what they label."
LABEL = 13
WIDEST_BAR = 100
MOST_TEXT_LINES = 3
EVENTS_RANK = 3
"What is of this rank or below stays before the last events do."
HINT = "Ctrl-C ends it"

_CHAIN = (State.UNPROVISIONED, State.REGISTERING, State.PROVISIONED, State.CERT_EXPIRING, State.RENEWING)
_PHASES = tuple(phase.value for phase in Phase if phase is not Phase.IDLE)


class View(Struct, frozen=True, kw_only=True):
    """What is to be seen."""

    status: Status
    happenings: tuple[Happening, ...] = ()
    "Oldest first."
    certificate: Certificate | None = None
    "The one in use, as the records tell it."
    away: str = ""
    "Why the service did not answer; empty when it did."


class _Block(Struct, frozen=True, kw_only=True):
    """Lines that belong together. Of those that do not fit the one with the highest rank goes first."""

    rank: int
    lines: tuple[tuple[Span, ...], ...]


def frame(view: View, now_unix_ms: int, size: os.terminal_size, ink: Ink, signs: Signs) -> list[str]:
    """At most ``size.lines`` lines, each of at most ``size.columns`` columns."""
    blocks = [
        _Block(rank=rank, lines=tuple(lines))
        for rank, lines in _blocks(view, now_unix_ms, size.columns, signs)
    ]
    rows = max(size.lines, 1)
    footer = _footer(view, now_unix_ms, size.columns)
    least_events = 2 if view.happenings else 0
    while len(blocks) > 1 and _height(blocks) + least_events + 1 > rows:
        least = max(blocks, key=lambda block: block.rank)
        if least_events and least.rank <= EVENTS_RANK:
            least_events = 0
        else:
            blocks.remove(least)
    lines = [line for block in blocks for line in block.lines]
    room = rows - len(lines) - 1
    events = list(_events(view.happenings, now_unix_ms, size.columns, room)) if room >= least_events else []
    lines += events
    lines += [()] * (rows - 1 - len(lines))
    lines = [*lines[: rows - 1], footer]
    return [painted(line, size.columns, ink, signs) for line in lines]


def _height(blocks: Sequence[_Block]) -> int:
    return sum(len(block.lines) for block in blocks)


def _blocks(
    view: View, now: int, columns: int, signs: Signs
) -> Iterator[tuple[int, Iterable[tuple[Span, ...]]]]:
    """Rank and lines of each block, from the top; `frame` takes away from the highest rank on."""
    status = view.status
    yield 4, [_title(status, now, columns)]
    yield 9, [()]
    yield 0, list(_lifecycle(status, columns, signs))
    yield 7, list(_phases(status, columns, signs))
    yield 8, [()]
    if status.stuck or status.reason:
        style, label = ("bad", "help needed") if status.stuck else ("", "why")
        yield 1 if status.stuck else 6, list(_text(label, bounded(status.reason), columns, signs, style))
    for note in status.degraded[:3]:
        yield 3, list(_text("degraded", bounded(note), columns, signs, "busy"))
    yield 1, list(_next(status, now, columns, signs))
    error = status.attempt.last_error if status.attempt is not None else None
    if error is not None:
        yield 4, list(_text("last error", bounded(failure_text(error)), columns, signs, "bad"))
    life = validity(status)
    if life is not None:
        yield 5, list(_credential(status, life, now, columns, signs))
        yield 2, [_bar(life, view.certificate, now, columns, signs)]
        yield 5, [_ends(life, columns)]
        yield 6, list(_renewal(view.certificate, life, now, columns, signs))
    elif status.credential is not None:
        yield 5, list(_text("credential", "the configured one: no certificate was issued", columns, signs))
    yield 8, [()]


# --- parts -------------------------------------------------------------------------------------------


def _title(status: Status, now: int, columns: int) -> tuple[Span, ...]:
    where = f"{status.assignment.device_id} at {status.assignment.hub}" if status.assignment else "no hub yet"
    clock = clock_time(now)
    left: tuple[Span, ...] = (("strong", "identityd"), ("", f"  {bounded(where, 200)}"))
    gap = columns - cells("".join(text for _, text in left)) - len(clock)
    return (*left, ("", " " * gap), ("dim", clock)) if gap >= 2 else left


def _lifecycle(status: Status, columns: int, signs: Signs) -> Iterator[tuple[Span, ...]]:
    """The way of a device, the current state lit; and the way back."""
    names = [one.value for one in _CHAIN]
    yield from _chain(names, status.state, columns, signs, indent="  ")
    back = State.REPROVISIONING.value
    yield ("", "  "), ("dim", "from the start: "), _lit(back, status.state)


def _phases(status: Status, columns: int, signs: Signs) -> Iterator[tuple[Span, ...]]:
    number = f"attempt {status.attempt.number}" if status.attempt is not None else "attempt"
    running = status.phase != Phase.IDLE.value
    label = number if running else "no attempt under way"
    yield ("", "  "), ("busy" if running else "dim", label)
    yield from _chain(_PHASES, status.phase, columns, signs, indent="    ")


def _chain(
    names: Sequence[str], current: str, columns: int, signs: Signs, *, indent: str
) -> Iterator[tuple[Span, ...]]:
    """Names with arrows between them, in as many lines as they need."""
    arrow = f" {signs.arrow} "
    line: list[Span] = [("", indent)]
    used = len(indent)
    for at, name in enumerate(names):
        lit = _lit(name, current)
        more = (("dim", arrow),) if at else ()
        width = len(lit[1]) + (len(arrow) if at else 0)
        if used + width > columns and len(line) > 1:
            yield tuple(line)
            line, used = [("", indent)], len(indent)
        line += [*more, lit]
        used += width
    yield tuple(line)


def _lit(name: str, current: str) -> Span:
    # In brackets too, for where there is no colour.
    return (state_style(name), f"[{name}]") if name == current else ("dim", name)


def _next(status: Status, now: int, columns: int, signs: Signs) -> Iterator[tuple[Span, ...]]:
    if status.next is None:
        what = "nothing without help" if status.stuck else "nothing"
        yield from _text("next", what, columns, signs)
    elif status.next.at is None:
        yield from _text("next", bounded(status.next.what), columns, signs, "strong")
    else:
        at = unix_ms(status.next.at)
        when = "" if at is None else f" {countdown(at - now)}"
        yield from _text("next", f"{bounded(status.next.what)}{when}", columns, signs, "strong")


def _credential(
    status: Status, life: Validity, now: int, columns: int, signs: Signs
) -> Iterator[tuple[Span, ...]]:
    credential = status.credential
    assert credential is not None, "it has a life"
    left = life.not_after_unix_ms - now
    until = f"{span(left)} left" if left > 0 else f"EXPIRED {span(-left)} ago"
    proven = "accepted by the hub" if credential.proven else "not yet accepted by the hub"
    text = f"{until}, generation {credential.generation}, {proven}"
    yield from _text("certificate", text, columns, signs, "bad" if left <= 0 else "")


def _bar(
    life: Validity, certificate: Certificate | None, now: int, columns: int, signs: Signs
) -> tuple[Span, ...]:
    return ("", "  "), *life_bar(life, certificate, now, _bar_columns(columns), signs)


def _bar_columns(columns: int) -> int:
    return max(min(columns - 4, WIDEST_BAR), 1)


def _ends(life: Validity, columns: int) -> tuple[Span, ...]:
    width = _bar_columns(columns)
    begins, ends = (
        clock_time(at).removesuffix(":00Z").removesuffix("Z")
        for at in (life.not_before_unix_ms, life.not_after_unix_ms)
    )
    gap = width - len(begins) - len(ends)
    if gap < 1:
        return ("dim", f"  {begins[:10]}"), ("dim", f"{ends[:10]:>{max(width - 10, 11)}}")
    return (("dim", f"  {begins}{' ' * gap}{ends}"),)


def _renewal(
    certificate: Certificate | None, life: Validity, now: int, columns: int, signs: Signs
) -> Iterator[tuple[Span, ...]]:
    if certificate is None or certificate.ends_unix_ms != life.not_after_unix_ms:
        return
    opens, due, closes = certificate.opens_unix_ms, certificate.due_unix_ms, certificate.closes_unix_ms
    if opens is None or due is None or closes is None:
        return
    opened = "open since" if opens <= now else "opens"
    window = f"{signs.window} window {opened} {moment(opens, now)}, to {moment(closes, now)}"
    yield from _text("renewal", window, columns, signs)
    yield from _text(
        "", f"{signs.drawn} drawn for {moment(due, now)}, {countdown(due - now)}", columns, signs
    )


def _events(happenings: Sequence[Happening], now: int, columns: int, room: int) -> Iterator[tuple[Span, ...]]:
    """As many of the latest as there is room for, under a heading."""
    told = happenings[-max(room - 1, 0) :] if room > 1 else ()
    if not told:
        return
    yield (("dim", "last events"),)
    old = any(len(moment(one.now_unix_ms, now)) > len("HH:MM:SS") for one in told)
    for one in told:
        at = clock_time(one.now_unix_ms).removesuffix("Z")
        at = (at[:16] if columns >= ROOMY else at[5:16]) if old else at[-len("HH:MM:SS") :]
        state: tuple[Span, ...] = ()
        if columns >= ROOMY:
            state = ((state_style(one.state), one.state.ljust(14)), ("", "  "))
        what: Span = ("bad" if one.failed else "strong" if one.entered else "", one.what)
        yield ("", "  "), ("dim", at), ("", "  "), *state, what, ("dim", f"  {one.why}" if one.why else "")


def _footer(view: View, now: int, columns: int) -> tuple[Span, ...]:
    if view.away:
        return (("bad", f"the service does not answer: {view.away}"),)
    status = view.status
    since = unix_ms(status.since)
    long = "" if since is None else f" for {span(max(now - since, 0))}"
    facts = f"{status.state}{long}, record {status.sequence}, {status.version}"
    return ("dim", HINT), ("dim", f"   {facts}" if columns >= ROOMY else "")


def _text(label: str, text: str, columns: int, signs: Signs, style: str = "") -> Iterator[tuple[Span, ...]]:
    """A label and some lines of text beside it, or below it where columns are few."""
    if columns >= ROOMY:
        indent = " " * (LABEL + 2)
        first: tuple[Span, ...] = (("", "  "), ("dim", label.ljust(LABEL)))
    else:
        indent = "    "
        first = (("", "  "), ("dim", f"{label}: ")) if label else (("", indent),)
    head = sum(cells(part) for _, part in first)
    wrapped = textwrap.wrap(
        shown(text, signs),
        max(columns, 10),
        initial_indent=" " * head,
        subsequent_indent=indent,
        max_lines=MOST_TEXT_LINES,
        placeholder=f" {signs.ellipsis}",
    ) or [""]
    yield *first, (style, wrapped[0][head:])
    for line in wrapped[1:]:
        yield ("", indent), (style, line[len(indent) :])


# --- instants ----------------------------------------------------------------------------------------


def countdown(ms: int) -> str:
    """What is left until an instant, to the second, rounded up."""
    if ms <= 0:
        return "now"
    seconds = -(-ms // 1000)
    days, rest = divmod(seconds, 86_400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"in {days} d {clock}" if days else f"in {clock}"


def validity(status: Status) -> Validity | None:
    """Of the certificate in use; None when there is none, or no dates of it."""
    credential = status.credential
    if credential is None or credential.not_before is None or credential.not_after is None:
        return None
    begins, ends = unix_ms(credential.not_before), unix_ms(credential.not_after)
    if begins is None or ends is None:
        return None
    return Validity(serial=credential.serial or "", not_before_unix_ms=begins, not_after_unix_ms=ends)


def unix_ms(text: str) -> int | None:
    """Of an RFC 3339 instant; None when it is none."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
