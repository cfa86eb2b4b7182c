"""The told device as pictures: a row for each year (or week, or day), and what was left at each renewal.

Inline SVG without text in it: a picture that is made narrow for a phone would make its letters unreadable.
Labels are the page's. Every shape has a title, which shows when it is pointed at.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from msgspec import Struct

from adapters.simulation.report import CertificateRow, Entry, Report
from adapters.simulation.words import line, minute, span, unix_s

WIDTH = 720
"Of a picture, in its own units; it is drawn as wide as there is room."
LANE, GAP, STRIP = 11, 3, 7
ROW = 2 * LANE + 3 * GAP + STRIP
SLACK_HEIGHT = 150
LEAST = 1.5
"Narrowest shape: an outage of an hour is to be seen in a year."
MOST_BARS = 1_500
"More certificates are slivers, and the page a burden."
DAY_S, WEEK_S = 86_400, 7 * 86_400

_RANK = ("Provisioned", "CertExpiring", "Renewing", "Registering", "Reprovisioning", "Unprovisioned")
"Of the states within one unit of width the last of these is drawn."


class Row(Struct, frozen=True, kw_only=True):
    """One row of the calendar."""

    label: str
    since_s: float
    until_s: float
    svg: str


class Calendar(Struct, frozen=True, kw_only=True):
    """Rows under each other, with what stands above them."""

    rows: tuple[Row, ...]
    ticks: tuple[str, ...]
    "Labels, evenly spaced over the width."
    bars: bool
    "False: too many certificates to draw each."


def calendar(report: Report) -> Calendar:
    """States, certificates and outages over time."""
    start, end = unix_s(report.assumed.start), unix_s(report.assumed.end)
    bounds, ticks = _rows(start, end)
    bars = len(report.device.certificates) <= MOST_BARS
    rows = (
        Row(label=label, since_s=since, until_s=until, svg=_row(report, since, until, bars))
        for label, since, until in bounds
    )
    return Calendar(rows=tuple(rows), ticks=ticks, bars=bars)


def _rows(start: float, end: float) -> tuple[list[tuple[str, float, float]], tuple[str, ...]]:
    """Years, weeks or days, whichever gives few rows that are full."""
    if end - start > 140 * DAY_S:
        years = range(_date(start).year, _date(end - 0.001).year + 1)
        return [(str(year), _new_year(year), _new_year(year + 1)) for year in years], tuple("JFMAMJJASOND")
    length, ticks = WEEK_S, tuple(f"day {one}" for one in range(1, 8))
    if end - start <= 14 * DAY_S:
        length, ticks = DAY_S, tuple(f"{one} h" for one in range(0, 24, 3))
    count = int(-(-(end - start) // length))
    rows = [(start + one * length, start + (one + 1) * length) for one in range(count)]
    return [(f"{_date(since):%m-%d}", since, until) for since, until in rows], ticks


def _row(report: Report, since: float, until: float, bars: bool) -> str:
    axis = _Axis(since, until)
    start, end = unix_s(report.assumed.start), unix_s(report.assumed.end)
    parts = [axis.rect("ground", max(start, since), min(end, until), 0, ROW, "")]
    for entry in report.device.timeline:
        if entry.kind in ("outage", "hub-outage"):
            parts.append(axis.rect(entry.kind, *_span(entry), 0, ROW, _told(entry)))
    if bars:
        for number, one in enumerate(report.device.certificates):
            parts += _bars(axis, one, number)
    for entry in report.device.timeline:
        if entry.kind == "without-identity":
            parts.append(axis.rect("lost", *_span(entry), GAP, 2 * LANE + GAP, _told(entry)))
    parts += _strip(report, axis)
    for entry in report.device.timeline:
        if entry.kind == "failed":
            parts.append(axis.rect("failed", *_span(entry), ROW - STRIP, STRIP, _told(entry)))
        elif entry.kind == "clock-set":
            parts.append(axis.rect("clock", *_span(entry), 0, ROW, _told(entry)))
    return _svg(ROW, parts, "certificates, states and outages of one row", kind="row")


def _bars(axis: "_Axis", one: CertificateRow, number: int) -> Iterator[str]:
    """Solid while it was in use, faint for what was left of it. Neighbours overlap, so two lanes."""
    top = GAP + number % 2 * (LANE + GAP)
    used_from, used_until, ends = unix_s(one.used_from), unix_s(one.used_until), unix_s(one.ends)
    valid_until = min(used_until, ends)
    what = f"certificate {one.serial}: {minute(one.begins)} to {minute(one.ends)}"
    left = f"; replaced {minute(one.used_until)}, {span(one.slack_s)} left" if one.replaced else "; in use"
    yield axis.rect("used", used_from, valid_until, top, LANE, what + left)
    if ends > valid_until:
        yield axis.rect("left", valid_until, ends, top, LANE, what + left)


def _strip(report: Report, axis: "_Axis") -> Iterator[str]:
    """The states, at the bottom of a row. In each unit of width the one that calls for attention most."""
    worst = [-1] * WIDTH
    for one in report.device.stretches:
        rank = _RANK.index(one.state)
        since, until = axis.x(unix_s(one.since)), axis.x(unix_s(one.until))
        if until < 0 or since >= WIDTH:
            continue
        for column in range(max(int(since), 0), min(int(until), WIDTH - 1) + 1):
            worst[column] = max(worst[column], rank)
    column = 0
    while column < WIDTH:
        last = column
        while last < WIDTH and worst[last] == worst[column]:
            last += 1
        if worst[column] >= 0:
            state = _RANK[worst[column]]
            since, until = axis.at(column), axis.at(last)
            about = f"{state}: {_minute_of(since)} to {_minute_of(until)}"
            yield _rect(f"s-{state}", column, last - column, ROW - STRIP, STRIP, about)
        column = last


class _Axis:
    """Instants to places."""

    def __init__(self, since_s: float, until_s: float) -> None:
        self._since, self._length = since_s, until_s - since_s

    def x(self, at_s: float) -> float:
        return (at_s - self._since) / self._length * WIDTH

    def at(self, x: float) -> float:
        return self._since + x / WIDTH * self._length

    def rect(self, kind: str, since_s: float, until_s: float, top: float, height: float, about: str) -> str:
        """Empty where it lies outside."""
        left, right = max(self.x(since_s), 0), min(self.x(until_s), WIDTH)
        if self.x(until_s) < 0 or left >= WIDTH or (right < left):
            return ""
        return _rect(kind, left, max(right - left, LEAST), top, height, about)


# --- what was left at each renewal -------------------------------------------------------------------


def slacks(report: Report) -> str:
    """Upwards, from the end of a certificate's life to half of it; below the line it was too late."""
    start, end = unix_s(report.assumed.start), unix_s(report.assumed.end)
    axis = _Axis(start, end)
    ended = [one for one in report.device.certificates if one.replaced or one.slack_s < 0]
    top_s, bottom_s = slack_bounds(report)
    height = top_s - bottom_s
    zero = SLACK_HEIGHT * top_s / height
    parts = [
        _rect("ground", 0, WIDTH, 0, zero, ""),
        _rect("late", 0, WIDTH, zero, SLACK_HEIGHT - zero, "") if bottom_s < 0 else "",
    ]
    for entry in report.device.timeline:
        if entry.kind in ("outage", "hub-outage"):
            parts.append(axis.rect(entry.kind, *_span(entry), 0, SLACK_HEIGHT, _told(entry)))
    for one in _thinned(ended):
        x = axis.x(unix_s(one.used_until))
        y = min(max((top_s - one.slack_s) / height * SLACK_HEIGHT, 3), SLACK_HEIGHT - 3)
        word = "left" if one.slack_s >= 0 else "too late"
        about = f"{minute(one.used_until)}: {span(abs(one.slack_s))} {word}"
        kind = "dot" if one.slack_s >= 0 else "dot bad"
        # A line of no length with round ends: a circle would be squeezed where the picture is.
        parts.append(f'<path class="{kind}" d="M{x:.1f} {y:.1f}h0"><title>{escape(about)}</title></path>')
    about = "what was left of each certificate when it was replaced"
    return _svg(SLACK_HEIGHT, parts, about, kind="slack")


def slack_bounds(report: Report) -> tuple[float, float]:
    """Top and bottom of that picture, seconds."""
    found = [one.slack_s for one in report.device.certificates if one.replaced or one.slack_s < 0]
    life_s = report.assumed.cert_lifetime_s
    top = max([life_s * 0.4, *found])
    bottom = min([0.0, *found])
    # One very late renewal must not make all others a line at the top.
    return top, max(bottom, -life_s)


def _thinned(rows: Sequence[CertificateRow]) -> Sequence[CertificateRow]:
    """At most MOST_BARS: the smallest slack of each group of neighbours."""
    each = -(-len(rows) // MOST_BARS)
    if each <= 1:
        return rows
    groups = (rows[at : at + each] for at in range(0, len(rows), each))
    return [min(group, key=lambda one: one.slack_s) for group in groups]


# --- of several devices ------------------------------------------------------------------------------


class Bin(Struct, frozen=True, kw_only=True):
    """One bar of a histogram."""

    label: str
    count: int
    bad: bool


def slack_bins(report: Report, bins: int = 12) -> tuple[Bin, ...]:
    """How many devices had which worst slack."""
    found = [one.numbers.worst_slack_s for one in report.devices]
    known = [one for one in found if one is not None]
    if not known:
        return ()
    late = sum(one < 0 for one in known)
    in_time = [one for one in known if one >= 0]
    low, high = min(in_time, default=0.0), max(in_time, default=0.0)
    width = max((high - low) / bins, 1.0)
    counts = [0] * bins
    for one in in_time:
        counts[min(int((one - low) / width), bins - 1)] += 1
    rows = [
        Bin(label=f"{span(low + at * width)} or more", count=count, bad=False)
        for at, count in enumerate(counts)
        if in_time
    ]
    return (Bin(label="too late", count=late, bad=True), *rows) if late else tuple(rows)


# --- shapes ------------------------------------------------------------------------------------------


def _rect(kind: str, x: float, width: float, y: float, height: float, about: str) -> str:
    place = f'x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}"'
    if not about:
        return f'<rect class="{kind}" {place}/>'
    return f'<rect class="{kind}" {place}><title>{escape(about)}</title></rect>'


def _svg(height: int, parts: Sequence[str], about: str, *, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(about)}">{"".join(parts)}</svg>'
    )


def _span(entry: Entry) -> tuple[float, float]:
    return unix_s(entry.at), unix_s(entry.until)


def _told(entry: Entry) -> str:
    at, what, _ = line(entry)
    return f"{at}: {what}"


def _date(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, UTC)


def _minute_of(unix: float) -> str:
    return f"{_date(unix):%Y-%m-%d %H:%M}"


def _new_year(year: int) -> float:
    return datetime(year, 1, 1, tzinfo=UTC).timestamp()
