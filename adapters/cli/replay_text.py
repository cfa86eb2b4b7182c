"""What `replay --diff` and `replay --what-if` found, in lines for people."""

from collections.abc import Iterator

from adapters.cli.screen import clock_time, span
from adapters.errors import bounded
from statemachine.compare import MEANINGS, Comparison
from statemachine.life import Life
from statemachine.what_if import Change, Stretch, WhatIf

_LONGEST = 300


def comparison_lines(found: Comparison) -> Iterator[str]:
    """Where two lives part, and what became of each."""
    if found.parting is None:
        yield f"same: {found.common} records, from record {found.compared_from}"
        return
    parting = found.parting
    yield f"the same for {found.common} records, from record {found.compared_from}"
    yield f"they part at record {parting.sequence}: {MEANINGS[parting.aspects[0]]}"
    yield f"- {bounded(parting.old, _LONGEST)}"
    yield f"+ {bounded(parting.new, _LONGEST)}"
    yield "first other: " + ", ".join(f"{aspect} at {number}" for aspect, number in found.firsts.items())
    yield from _lives("old", found.old, "new", found.new)


def what_if_lines(found: WhatIf) -> Iterator[str]:
    """What other settings would have changed, decision by decision, and a device followed."""
    if not found.settings:
        yield "these are the settings of the journal"
    for name, (was, would_be) in found.settings.items():
        yield f"{name}: {was} -> {would_be}"
    yield f"{len(found.decisions)} of {found.records} decisions would have been otherwise"
    for one in found.decisions:
        yield f"  record {one.sequence}, {clock_time(one.now_unix_ms)}, {one.event}"
        for change in one.changes:
            yield f"    {_change(change)}"
    if not found.different:
        return
    for stretch in found.stretches:
        yield from _stretch(stretch)


def _change(change: Change) -> str:
    text = f"{change.what}: {bounded(change.recorded, _LONGEST)} -> {bounded(change.other, _LONGEST)}"
    return text if change.later_ms is None else f"{text} ({_shift(change.later_ms)})"


def _shift(later_ms: int) -> str:
    return f"{span(abs(later_ms))} {'earlier' if later_ms < 0 else 'later'}"


def _stretch(stretch: Stretch) -> Iterator[str]:
    yield (
        f"followed from record {stretch.first_sequence}, {clock_time(stretch.from_unix_ms)}, "
        f"to {clock_time(stretch.until_unix_ms)}"
    )
    if stretch.ends == "journal":
        yield "  to the end of the journal"
    else:
        yield f"  there the evidence ends: {stretch.why}"
    next_attempt = stretch.next_recorded_attempt_unix_ms
    if next_attempt is not None:
        yield f"  the recorded device began its next attempt {clock_time(next_attempt)}"
    yield (
        f"  {stretch.passed_alone} deadlines passed only there, {stretch.not_due} recorded ones were not "
        f"due, {stretch.not_asked} recorded answers were to nothing it would have asked"
    )
    yield from _lives("recorded", stretch.recorded, "other", stretch.other)


def _lives(name: str, life: Life, other_name: str, other: Life) -> Iterator[str]:
    rows, others = _figures(life), _figures(other)
    labels = [*rows, *(label for label in others if label not in rows)]
    cells = [
        ("", name, other_name),
        *((label, rows.get(label, "0"), others.get(label, "0")) for label in labels),
    ]
    widths = [max(len(cell[column]) for cell in cells) for column in (0, 1)]
    for label, one, another in cells:
        mark = "*" if label and one != another else " "
        yield f"{mark} {label:{widths[0]}}  {one:{widths[1]}}  {another}"


def _figures(life: Life) -> dict[str, str]:
    """Rows by label; a label that only one of two lives has counts as 0 for the other."""
    attempts = life.attempts_unix_ms
    return {
        "records": str(life.records),
        "starts": str(life.starts),
        "at the end": life.state if life.phase == "Idle" else f"{life.state}/{life.phase}",
        "attempts begun": str(len(attempts)),
        "the first at": clock_time(attempts[0]) if attempts else "never",
        "the last at": clock_time(attempts[-1]) if attempts else "never",
        "registrations": str(life.registrations),
        "polls": str(life.polls),
        "became current": ", ".join(map(str, life.committed)) or "none",
        **{f"failed: {code}": str(count) for code, count in life.failures.items()},
        **{f"time {state}": span(ms) for state, ms in life.state_ms.items()},
    }
