"""A report for a terminal: at most 80 columns, still readable at 40."""

import textwrap
from collections.abc import Callable, Iterable, Iterator

from adapters.simulation.report import Report
from adapters.simulation.words import assumptions, results, title, told, unix_s, verdict

WIDEST, NARROWEST, ROOMY = 80, 40, 60
"Below ROOMY columns a text stands under its label instead of beside it."
LABEL = 22
MOST_LINES = 200
"Of the timeline; JSON has all of it."
WEEK_S = 7 * 86_400
WEEKS = 53
"A year begins anywhere in its first week."

Paint = Callable[[str, str], str]
"Style and text to styled text."

_STYLES = {"without-identity": "bad", "failed": "busy", "outage": "strong", "hub-outage": "strong"}
_MARKS = (
    ("without-identity", "X", "no valid certificate"),
    ("failed", "!", "attempts failed"),
    ("outage", "o", "outage"),
    ("hub-outage", "h", "hub outage"),
    ("clock-set", "c", "clock set"),
)
"The first that applies to a week is drawn."


def lines(report: Report, columns: int, paint: Paint) -> Iterator[str]:
    """Everything, without line ends."""
    width = min(max(columns, NARROWEST), WIDEST)
    lost = report.total.missed_renewals or report.total.never_provisioned
    yield from _wrapped(title(report), width, lambda text: paint("strong", text))
    yield from _wrapped(
        verdict(report.total, report.assumed.devices),
        width,
        lambda text: paint("bad" if lost else "good", text),
    )
    yield ""
    yield from _table(results(report), width, paint)
    yield ""
    yield paint("dim", "assumed")
    yield from _table(assumptions(report), width, paint)
    yield ""
    worst = "" if report.assumed.devices == 1 else ", which fared worst"
    yield paint("strong", f"device {report.device.device}{worst}")
    yield from _strips(report, width, paint)
    yield ""
    yield from _timeline(report, width, paint)


def _table(rows: Iterable[tuple[str, str]], width: int, paint: Paint) -> Iterator[str]:
    for label, text in rows:
        if width >= ROOMY:
            first, *rest = textwrap.wrap(text, width - LABEL - 2)
            yield f"  {paint('dim', label.ljust(LABEL))}{first}"
            yield from (" " * (LABEL + 2) + one for one in rest)
        else:
            yield f"  {paint('dim', label)}"
            yield from textwrap.wrap(text, width, initial_indent=" " * 4, subsequent_indent=" " * 4)


def _timeline(report: Report, width: int, paint: Paint) -> Iterator[str]:
    all_lines = list(told(report.device.timeline))
    for at, what, kind in all_lines[:MOST_LINES]:
        style = _STYLES.get(kind, "")
        if width >= ROOMY:
            first, *rest = textwrap.wrap(what, width - len(at) - 2)
            yield f"{paint('dim', at)}  {paint(style, first)}"
            yield from (" " * (len(at) + 2) + paint(style, one) for one in rest)
        else:
            yield paint("dim", at)
            indent = " " * 2
            for one in textwrap.wrap(what, width - len(indent)):
                yield indent + paint(style, one)
    if len(all_lines) > MOST_LINES:
        yield f"… and {len(all_lines) - MOST_LINES} more lines; --json has all of them"


# --- a strip for each year, a sign for each week ------------------------------------------------------


def _strips(report: Report, width: int, paint: Paint) -> Iterator[str]:
    """Half as many signs, each for two weeks, where a year does not fit."""
    weeks_each = 1 if width >= ROOMY else 2
    start, end = unix_s(report.assumed.start), unix_s(report.assumed.end)
    marks = {kind for kind, _, _ in _MARKS}
    marked = [
        (one.kind, unix_s(one.at), unix_s(one.until)) for one in report.device.timeline if one.kind in marks
    ]
    signs: dict[int, list[str]] = {}
    used = {"="}
    for year in range(int(report.assumed.start[:4]), int(report.assumed.end[:4]) + 1):
        begins = unix_s(f"{year}-01-01T00:00:00Z")
        for slot in range(0, WEEKS, weeks_each):
            since = begins + slot * WEEK_S
            until = min(since + weeks_each * WEEK_S, unix_s(f"{year + 1}-01-01T00:00:00Z"))
            if until <= since:
                continue
            sign = " " if until <= start or since >= end else _sign(marked, since, until)
            used.add(sign)
            signs.setdefault(year, []).append(sign)
    for year, strip in signs.items():
        if set(strip) != {" "}:
            yield f"{paint('dim', str(year))}  {''.join(strip)}".rstrip()
    legend = ["= all is well", *(f"{sign} {about}" for _, sign, about in _MARKS if sign in used)]
    each = "a sign is a week" if weeks_each == 1 else "a sign is two weeks"
    yield from textwrap.wrap(
        f"{each}: {', '.join(legend)}", width, initial_indent=" " * 6, subsequent_indent=" " * 6
    )


def _sign(marked: Iterable[tuple[str, float, float]], since: float, until: float) -> str:
    kinds = {kind for kind, begins, ends in marked if begins < until and ends >= since}
    return next((sign for kind, sign, _ in _MARKS if kind in kinds), "=")


def _wrapped(text: str, width: int, paint: Callable[[str], str]) -> Iterator[str]:
    yield from map(paint, textwrap.wrap(text, width))
