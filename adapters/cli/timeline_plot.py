"""One section of a device's life as a picture: lanes over one axis of time, made of positioned boxes.

Boxes, no SVG: letters keep their size however narrow the picture is. Every shape can be pointed at and
focused, and then tells its facts; no script is needed for it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TypeVar

from msgspec import Struct

from adapters.cli.chronicle import Entry
from adapters.cli.history import Attempt, Certificate, Section, Stretch
from adapters.cli.timeline_words import (
    attempt_facts,
    attempt_title,
    certificate_facts,
    down_facts,
    in_use,
    lasted_ms,
    outage_facts,
    stamp,
    state_facts,
)
from adapters.errors import bounded

MOST_LANES = 8
"Certificates that overlap beyond this share lanes."
NEAR = 0.6
"Percent of the width within which neighbours are one shape."
ROOMY = 2
"Percent of the width from which a certificate's renewal is drawn."
THIN = 0.5
"Percent of the width below which a shape lies above others."
MOST_IN_TIP = 6
TICKS = 7

_STEPS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * one for one in (1, 2, 5, 10, 15, 30)),
    *(3600 * one for one in (1, 2, 3, 6, 12)),
    *(86_400 * one for one in (1, 2, 5, 10, 20, 30, 60, 91, 182, 365, 730, 1825, 3650)),
)
_RANK = ("Registering", "Reprovisioning", "Unprovisioned")
"Of states that are one shape the last of these is drawn."
_RESULTS = ("failed", "abandoned", "running", "succeeded")
"Of attempts that are one shape the first of these."

T = TypeVar("T", Stretch, Attempt, Certificate)


class Axis(Struct, frozen=True, kw_only=True):
    """Instants to places, in percent of the width."""

    from_unix_ms: int
    until_unix_ms: int
    recorded_unix_ms: int
    "The last stamp; what is right of it had not happened yet."

    def x(self, at_unix_ms: int) -> float:
        """Inside the picture, whatever the instant."""
        length = self.until_unix_ms - self.from_unix_ms
        return min(max((at_unix_ms - self.from_unix_ms) * 100 / length, 0.0), 100.0)


def axis_of(section: Section, *, last: bool) -> Axis:
    """What was recorded; of the last section also what is to come, but no longer than what was."""
    length = max(section.until_unix_ms - section.from_unix_ms, 1_000)
    recorded = section.from_unix_ms + length
    until = recorded
    current = in_use(section)
    if last and current is not None and current.ends_unix_ms > recorded:
        until = min(current.ends_unix_ms + length // 50, recorded + length)
    return Axis(from_unix_ms=section.from_unix_ms, until_unix_ms=until, recorded_unix_ms=recorded)


def picture(section: Section, entries: Sequence[Entry], *, last: bool) -> str:
    """The lanes of one section. ``entries`` are its own."""
    axis = axis_of(section, last=last)
    lanes = [
        ("", _ticks(axis), "axis", 1),
        ("state", _states(section, axis), "", 1),
        *_certificate_lane(section, axis),
        ("attempts", _attempts(section, axis), "", 1),
        ("outages", _outages(section, axis), "", 1),
        ("events", _events(entries, axis), "events", 1),
    ]
    rows = "".join(
        f"<b>{label}</b><div class='lane {kind}' style='--n:{height}'>{_ahead(axis)}{''.join(shapes)}</div>"
        for label, shapes, kind, height in lanes
        if kind != "none"
    )
    return f"<div class='plot'>{rows}</div>"


def _ahead(axis: Axis) -> str:
    """Nothing is recorded there."""
    x = axis.x(axis.recorded_unix_ms)
    return f"<i class='ahead' style='left:{x:.2f}%'></i>" if x < 100 else ""


# --- lanes -------------------------------------------------------------------------------------------


def _ticks(axis: Axis) -> list[str]:
    length_s = (axis.until_unix_ms - axis.from_unix_ms) / 1000
    step_s = next((one for one in _STEPS_S if length_s / one <= TICKS), _STEPS_S[-1])
    form = "%H:%M:%S" if step_s < 60 else "%H:%M" if step_s < 86_400 else "%Y-%m-%d"
    step_ms = step_s * 1000
    at = -(-axis.from_unix_ms // step_ms) * step_ms
    ticks: list[str] = []
    while at <= axis.until_unix_ms and len(ticks) <= TICKS + 1:
        # At the very end there is no room for a label.
        label = _spelt(at, form) if axis.x(at) < 90 else ""
        far = " far" if axis.x(at) > 75 else ""
        ticks.append(f"<i class='tick{far}' style='left:{axis.x(at):.2f}%'>{label}</i>")
        at += step_ms
    return ticks


def _spelt(unix_ms: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return ""


def _states(section: Section, axis: Axis) -> Iterator[str]:
    for some in _grouped(section.states, axis):
        worst = _worst(some, section)
        facts = state_facts(some[0], section)
        if len(some) > 1:
            facts = (f"{len(some)} changes of state", *_each(some, lambda one: _state_line(one, section)))
        label = worst.what if len(some) == 1 else ""
        yield _shape(
            axis, f"s-{_word(worst.what)}", *_extent(some, axis), facts, some[0].sequence, label=label
        )


def _worst(some: Sequence[Stretch], section: Section) -> Stretch:
    """What calls for attention; among states that are all well, the one that lasted longest."""
    calling = [one for one in some if one.what in _RANK]
    if calling:
        return max(calling, key=lambda one: _RANK.index(one.what))
    return max(some, key=lambda one: lasted_ms(one, section))


def _state_line(one: Stretch, section: Section) -> str:
    what, when, lasted = state_facts(one, section)
    return f"{when[: len('YYYY-MM-DD HH:MM:SS')]} {what} {lasted}"


def _attempts(section: Section, axis: Axis) -> Iterator[str]:
    for some in _grouped(section.attempts, axis):
        worst = min((one.result for one in some), key=_RESULTS.index)
        facts = attempt_facts(some[0], section)
        if len(some) > 1:
            results = Counter(str(one.result) for one in some)
            counts = ", ".join(f"{results[result]} {result}" for result in _RESULTS if results[result])
            lines = _each(some, lambda one: f"{stamp(one.from_unix_ms)} {attempt_title(one)}{_code(one)}")
            facts = (f"{len(some)} attempts: {counts}", *lines)
        yield _shape(axis, f"r-{worst}", *_extent(some, axis), facts, some[0].sequence)


def _code(one: Attempt) -> str:
    return f", {one.mishaps[-1].code}" if one.mishaps else ""


def _outages(section: Section, axis: Axis) -> Iterator[str]:
    for some in _grouped(section.down, axis):
        facts = down_facts(some[0], section)
        if len(some) > 1:
            lines = _each(some, lambda one: f"{stamp(one.from_unix_ms)} {one.what}")
            facts = (f"the service did not run, {len(some)} times", *lines)
        yield _shape(axis, "down", *_extent(some, axis), facts, some[0].sequence)
    for peer, kind in (("DPS", "dps"), ("the hub", "hub")):
        for some in _grouped([one for one in section.outages if one.what == peer], axis):
            facts = outage_facts(some[0], section)
            if len(some) > 1:
                lines = _each(some, lambda one: outage_facts(one, section)[1])
                facts = (f"{peer} was not reached, {len(some)} times", *lines)
            yield _shape(axis, kind, *_extent(some, axis), facts, some[0].sequence)


def _events(entries: Sequence[Entry], axis: Axis) -> Iterator[str]:
    """Marks; events too close to be told apart are one mark, which tells them all."""
    groups: list[list[Entry]] = []
    since = -100.0
    for entry in entries:
        if not entry.notable:
            continue
        x = axis.x(entry.at_unix_ms)
        if groups and abs(x - since) < NEAR:
            groups[-1].append(entry)
        else:
            groups.append([entry])
            since = x
    for group in groups:
        failed, entered = any(one.failed for one in group), any(one.entered for one in group)
        kind = "bad" if failed else "turn" if entered else "calm"
        size = " many" if len(group) > 1 else ""
        yield _mark(axis.x(group[0].at_unix_ms), f"dot {kind}{size}", _told(group))


def _told(group: Sequence[Entry]) -> str:
    rows = [
        f"<span>{escape(stamp(one.at_unix_ms)[-8:])} {_link(one.sequence)} <b>{escape(one.state)}</b> "
        f"{escape(bounded(one.what, 160))}</span>"
        for one in group[:MOST_IN_TIP]
    ]
    if len(group) == 1:
        rows.append(f"<span class='why'>{escape(bounded(group[0].why, 240))}</span>")
    if len(group) > MOST_IN_TIP:
        rows.append(f"<span>and {len(group) - MOST_IN_TIP} more, to record {group[-1].sequence}</span>")
    return f"<span class='day'>{escape(stamp(group[0].at_unix_ms)[:10])}</span>{''.join(rows)}"


# --- certificates ------------------------------------------------------------------------------------


def _certificate_lane(section: Section, axis: Axis) -> Iterator[tuple[str, Iterable[str], str, int]]:
    """Faint for their lives, solid while in use; on them the renewal window and the drawn instant."""
    if not section.certificates:
        return
    placed = list(_placed(list(_grouped(section.certificates, axis)), axis))
    height = max(lane for _, lane in placed) + 1
    yield (
        "certificates",
        (shape for some, lane in placed for shape in _certificate(axis, some, lane)),
        "certificates",
        height,
    )


def _placed(
    groups: Sequence[Sequence[Certificate]], axis: Axis
) -> Iterator[tuple[Sequence[Certificate], int]]:
    """Each with its lane: the first that is free, so that lives which overlap lie above each other."""
    free: list[float] = []
    for some in groups:
        left = axis.x(_begins(some))
        right = axis.x(max(max(one.ends_unix_ms, one.until_unix_ms or 0) for one in some))
        lane = next((number for number, ends in enumerate(free) if ends <= left), len(free))
        if lane >= MOST_LANES:
            lane = min(range(MOST_LANES), key=free.__getitem__)
        if lane == len(free):
            free.append(0)
        free[lane] = right
        yield some, lane


def _begins(some: Sequence[Certificate]) -> int:
    return min(min(one.begins_unix_ms, one.from_unix_ms) for one in some)


def _certificate(axis: Axis, some: Sequence[Certificate], lane: int) -> Iterator[str]:
    first, last = some[0], some[-1]
    begins, ends = _begins(some), max(one.ends_unix_ms for one in some)
    used = axis.recorded_unix_ms if last.until_unix_ms is None else last.until_unix_ms
    label = str(first.generation)
    facts = certificate_facts(first)
    if len(some) > 1:
        label = f"{first.generation} to {last.generation}"
        lines = _each(some, lambda one: f"{one.generation}: {certificate_facts(one)[2]}")
        facts = (f"{len(some)} certificates", *lines)
    inside = _part(begins, ends, first.from_unix_ms, min(used, ends), "used", axis)
    for one in some:
        if used > one.ends_unix_ms and one.until_unix_ms != one.ends_unix_ms:
            until = used if one.until_unix_ms is None else one.until_unix_ms
            if until > one.ends_unix_ms:
                # Served although it had ended: nothing better was there.
                late = certificate_facts(one)
                yield _shape(axis, "late", one.ends_unix_ms, until, late, one.sequence, lane=lane)
    opens, due, closes = first.opens_unix_ms, first.due_unix_ms, first.closes_unix_ms
    told = len(some) == 1 and axis.x(ends) - axis.x(begins) > ROOMY
    if told and opens is not None and closes is not None:
        inside += _part(begins, ends, opens, closes, "window", axis)
    cut = " cut" if ends > axis.until_unix_ms else ""
    yield _shape(
        axis, f"cert{cut}", begins, ends, facts, first.sequence, lane=lane, inside=inside, label=label
    )
    if told and due is not None and axis.from_unix_ms <= due <= axis.until_unix_ms:
        yield f"<i class='due' style='left:{axis.x(due):.2f}%;--l:{lane}'></i>"


def _part(begins: int, ends: int, since: int, until: int, kind: str, axis: Axis) -> str:
    """Of a bar, in percent of what is seen of it."""
    left, right = axis.x(begins), axis.x(ends)
    width = max(right - left, 0.001)
    x, end = (axis.x(since) - left) * 100 / width, (axis.x(until) - left) * 100 / width
    return f"<i class='{kind}' style='left:{x:.2f}%;width:{end - x:.2f}%'></i>" if end > x else ""


# --- neighbours --------------------------------------------------------------------------------------


def _grouped(some: Iterable[T], axis: Axis) -> Iterator[list[T]]:
    """Neighbours that would lie within a hair's breadth are drawn as one shape."""
    group: list[T] = []
    for one in some:
        left, right = (axis.x(at) for at in _extent([one], axis))
        if group and right - axis.x(group[0].from_unix_ms) < NEAR:
            group.append(one)
            continue
        if group:
            yield group
        group = [one]
        if right - left >= NEAR:
            yield group
            group = []
    if group:
        yield group


def _extent(some: Sequence[T], axis: Axis) -> tuple[int, int]:
    last = some[-1].until_unix_ms
    return some[0].from_unix_ms, axis.recorded_unix_ms if last is None else last


def _each(some: Sequence[T], line: Callable[[T], str]) -> tuple[str, ...]:
    """A line for each, as many as fit into a tip."""
    lines: tuple[str, ...] = tuple(line(one) for one in some[:MOST_IN_TIP])
    more = len(some) - MOST_IN_TIP
    return (*lines, f"and {more} more") if more > 0 else lines


# --- shapes ------------------------------------------------------------------------------------------


def _shape(
    axis: Axis,
    kind: str,
    since: int,
    until: int,
    facts: Iterable[str],
    sequence: int,
    *,
    lane: int = 0,
    inside: str = "",
    label: str = "",
) -> str:
    """A box from then to then; empty where it lies outside."""
    if until < axis.from_unix_ms or since > axis.until_unix_ms:
        return ""
    left, right = axis.x(since), axis.x(until)
    first, *rest = facts
    lines = "".join(f"<span>{escape(one)}</span>" for one in rest)
    tip = f"<b>{escape(first)}</b>{lines}<span>record {_link(sequence)}</span>"
    text = f"<em>{escape(label)}</em>" if label and right - left > 1.2 * len(label) else ""
    where = f"left:min({left:.2f}%,100% - 3px);width:{right - left:.2f}%;--l:{lane}"
    # What is short must not be hidden by its neighbours.
    thin = " thin" if right - left < THIN else ""
    return (
        f"<span class='box {kind}{thin}' tabindex='0' style='{where}'>{inside}{text}"
        f"<span class='tip{_side(left, right)}'>{tip}</span></span>"
    )


def _mark(x: float, kind: str, tip: str) -> str:
    return (
        f"<span class='{kind}' tabindex='0' style='left:{x:.2f}%'>"
        f"<span class='tip{_side(x, x)}'>{tip}</span></span>"
    )


def _side(left: float, right: float) -> str:
    """Where there is room for what a shape tells."""
    middle = (left + right) / 2
    return " west" if middle < 34 else " east" if middle > 66 else ""


def _link(sequence: int) -> str:
    return f"<a href='#r{sequence}'>{sequence}</a>"


def _word(text: str) -> str:
    """Fit to be a class name, whatever the journal says."""
    return "".join(sign for sign in text if sign.isascii() and sign.isalnum())
