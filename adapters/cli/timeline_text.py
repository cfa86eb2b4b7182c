"""The timeline in lines: what is worth telling, day by day, with the numbers above."""

import textwrap
from collections.abc import Callable, Iterator

from adapters.cli.chronicle import Chronicle, Entry
from adapters.cli.history import Section
from adapters.cli.timeline_words import period, section_title, stamp, summary, title, verdict

ROOMY = 60
LABEL = 13
STATE = 14
Paint = Callable[[str, str], str]
"Style and text to styled text."
State = Callable[[str], str]
"A state to its style."


def lines(told: Chronicle, columns: int | None, paint: Paint, style_of: State) -> Iterator[str]:
    """Everything, without line ends; ``columns`` None never breaks a line."""
    yield from _wrapped("", title(told), columns, lambda text: paint("strong", text))
    yield from _wrapped("", period(told), columns, lambda text: paint("dim", text))
    yield from _wrapped("", verdict(told), columns, lambda text: text)
    for note in told.notes:
        yield from _wrapped("", note, columns, lambda text: paint("bad", text))
    for label, text in summary(told):
        yield from _wrapped(f"  {label:{LABEL}}", text, columns, lambda text: text)
    day, section = "", 0
    if told.left_out:
        yield ""
        yield f"{told.left_out} earlier records are left out; `identityd journal show` has them"
    for entry in told.entries:
        if not entry.notable:
            continue
        if entry.section != section:
            section = entry.section
            yield from _break(told.sections[section], columns, paint)
        if stamp(entry.at_unix_ms)[:10] != day:
            day = stamp(entry.at_unix_ms)[:10]
            yield ""
            yield paint("strong", day)
        yield from _entry(entry, columns, paint, style_of)


def _break(section: Section, columns: int | None, paint: Paint) -> Iterator[str]:
    yield ""
    yield from _wrapped("", section_title(section), columns, lambda text: paint("busy", text))


def _entry(entry: Entry, columns: int | None, paint: Paint, style_of: State) -> Iterator[str]:
    at = stamp(entry.at_unix_ms)[11:]
    style = "bad" if entry.failed else "strong" if entry.entered else ""
    if columns is None:
        yield f"{at}  {entry.state:{STATE}}  {entry.what}. {entry.why}"
        return
    if columns < ROOMY:
        yield f"{paint('dim', at)} {paint(style_of(entry.state), entry.state)}"
        for line in textwrap.wrap(entry.what, columns - 2):
            yield f"  {paint(style, line) if style else line}"
        return
    head = f"{at}  {entry.state:{STATE}}  "
    first, *rest = textwrap.wrap(entry.what, columns - len(head)) or [""]
    painted = paint(style, first) if style else first
    yield f"{paint('dim', at)}  {paint(style_of(entry.state), f'{entry.state:{STATE}}')}  {painted}"
    for line in rest:
        yield " " * len(head) + (paint(style, line) if style else line)
    for line in textwrap.wrap(entry.why, columns - len(head)):
        yield " " * len(head) + paint("dim", line)


def _wrapped(label: str, text: str, columns: int | None, paint: Callable[[str], str]) -> Iterator[str]:
    if columns is None or len(label) + len(text) <= columns:
        yield f"{label}{paint(text)}"
        return
    indent = " " * (len(label) if columns >= ROOMY else 4)
    first, *rest = textwrap.wrap(
        text, max(columns, 20), initial_indent=" " * len(label), subsequent_indent=indent
    )
    yield f"{label}{paint(first[len(label) :])}"
    for line in rest:
        yield indent + paint(line[len(indent) :])
