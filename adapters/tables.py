"""The machine's two tables for people and programs: ``GET /v1/machine`` and ``identityd diagram``.

Drawn from the rows themselves, so that no picture can disagree with what decides.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct

from statemachine import attempt, table
from statemachine.machine import RULES_REVISION
from statemachine.rows import Ignored, Row
from statemachine.states import Phase, State


class RowFacts(Struct, frozen=True, kw_only=True):
    """One row. ``dest`` None stays where it is; guards and actions by name."""

    source: tuple[str, ...]
    event: str
    guard: str | None
    dest: str | None
    action: str | None
    refuses: bool
    why: str
    rule: str


class IgnoredFacts(Struct, frozen=True, kw_only=True):
    """Pairs that change nothing."""

    source: tuple[str, ...]
    event: str
    why: str


class TableFacts(Struct, frozen=True, kw_only=True):
    """One table; a row is taken when it is the first that fits."""

    positions: tuple[str, ...]
    initial: str
    rows: tuple[RowFacts, ...]
    ignored: tuple[IgnoredFacts, ...]
    mermaid: str


class MachineFacts(Struct, frozen=True, kw_only=True):
    """Both of them. An event goes to ``attempt`` first, then to ``lifecycle``."""

    rules_revision: int
    lifecycle: TableFacts
    attempt: TableFacts


def machine_facts() -> MachineFacts:
    """The tables this release decides by."""
    return MachineFacts(
        rules_revision=RULES_REVISION,
        lifecycle=_facts(State, State.UNPROVISIONED, table.ROWS, table.IGNORED),
        attempt=_facts(Phase, Phase.IDLE, attempt.ROWS, ()),
    )


def machine_json() -> bytes:
    """The answer to ``GET /v1/machine``."""
    return msgspec.json.encode(machine_facts())


def _facts(
    positions: type[Enum], initial: Enum, rows: Iterable[Row[Any]], ignored: Iterable[Ignored[Any]]
) -> TableFacts:
    told = tuple(_row(row) for row in rows)
    return TableFacts(
        positions=tuple(one.value for one in positions),
        initial=initial.value,
        rows=told,
        ignored=tuple(
            IgnoredFacts(source=tuple(one.value for one in entry.source), event=entry.event, why=entry.why)
            for entry in ignored
        ),
        mermaid=_mermaid(initial.value, told),
    )


def _row(row: Row[Any]) -> RowFacts:
    return RowFacts(
        source=tuple(one.value for one in row.source),
        event=row.event,
        guard=None if row.guard is None else row.guard.__name__,
        dest=None if row.dest is None else row.dest.value,
        action=None if row.action is None else row.action.__name__,
        refuses=row.refuses,
        why=row.why,
        rule=row.rule,
    )


def arrows_of(rows: Iterable[RowFacts]) -> dict[tuple[str, str], list[str]]:
    """Labels by pair of positions. What stays where it is would only hide what moves."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        _, timed, name = row.event.rpartition("deadline-passed/")
        label = (f"{name} due" if timed else name) + (f" [{row.guard}]" if row.guard else "")
        for source in row.source:
            if row.dest is not None and row.dest != source:
                labels = arrows.setdefault((source, row.dest), [])
                if label not in labels:
                    labels.append(label)
    return arrows


def _mermaid(initial: str, rows: Iterable[RowFacts]) -> str:
    """One arrow for each pair of positions."""
    arrows = arrows_of(rows)
    lines = ["stateDiagram-v2", f"    [*] --> {initial}"]
    lines += [f"    {source} --> {dest}: {'<br/>'.join(labels)}" for (source, dest), labels in arrows.items()]
    return "\n".join(lines) + "\n"
