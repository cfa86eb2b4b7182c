"""identityd explore: every world that so many surprises can lead to, and what must hold in all of them."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec

from adapters.cli.failure import DONE, NO, USAGE, CommandFailed
from adapters.exploring import Outcome, explore
from statemachine import attempt, table
from statemachine.counterexample import Lived, journal_of, relive, shortest
from statemachine.environment import SORTS, Choice, Sort
from statemachine.explore import LIVENESS, POSITIONS, WORLD_LAWS, Found
from statemachine.invariants import STATE_LAWS, STEP_LAWS
from statemachine.rows import EVENT_KEYS, Row

TABLES: dict[str, tuple[Row[Any], ...]] = {"lifecycle": table.ROWS, "attempt": attempt.ROWS}
ROWS = sum(map(len, TABLES.values()))
PREFIX = "identityd-counterexample-"


def main(args: Namespace) -> int:
    """0 when all of it holds everywhere; 1 with the shortest way to where it does not."""
    jobs = args.jobs or os.cpu_count() or 1
    sorts = _sorts(args.only)
    outcome = explore(args.surprises, jobs=jobs, most=args.most, tell=_tell, sorts=sorts)
    if args.json:
        print(msgspec.json.encode(_facts(outcome)).decode())
    else:
        _print(outcome)
    for found, way in outcome.found[:1]:
        _explain(found, way, args.journal)
    if outcome.found:
        return NO
    if not outcome.closed:
        raise CommandFailed(f"not closed: more than {args.most} worlds; raise --most, or leave it out", USAGE)
    return DONE


def _sorts(words: str) -> tuple[Sort, ...]:
    asked = {word.strip() for word in words.split(",") if word.strip()}
    wrong = sorted(asked - set(SORTS))
    if wrong:
        raise CommandFailed(f"--only: no surprise is a {wrong[0]!r}; there are {', '.join(SORTS)}", USAGE)
    return tuple(sort for sort in SORTS if sort in asked or not asked)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _facts(outcome: Outcome) -> dict[str, object]:
    return {
        "closed": outcome.closed,
        "surprises_followed": outcome.sorts,
        "worlds": outcome.worlds,
        "worlds_by_surprises": outcome.by_surprises,
        "steps": outcome.steps,
        "seconds": round(outcome.seconds, 1),
        "invariants": len(STATE_LAWS) + len(STEP_LAWS) + len(WORLD_LAWS) + 1,
        "rows_taken": len(outcome.rows),
        "rows": ROWS,
        "rows_never_taken": _never_taken(outcome),
        "positions_and_events_met": len(outcome.visited),
        "positions_and_events": len(POSITIONS) * len(EVENT_KEYS),
        "positions_and_events_never_met": [
            f"{state.value}/{phase.value}, {key}"
            for state, phase in POSITIONS
            for key in EVENT_KEYS
            if (state, phase, key) not in outcome.visited
        ],
        "trapped": outcome.trapped,
        "violated": [
            {"invariant": found.law, "what": found.what, "way": [_words(choice) for choice in way]}
            for found, way in outcome.found
        ],
    }


def _never_taken(outcome: Outcome) -> list[str]:
    return [
        f"{name}, {row.event}: {row.why}"
        for name, rows in TABLES.items()
        for place, row in enumerate(rows)
        if (name, place) not in outcome.rows
    ]


def _print(outcome: Outcome) -> None:
    facts = _facts(outcome)
    counts = ", ".join(f"{count} more with {n}" for n, count in enumerate(outcome.by_surprises) if n)
    first = outcome.by_surprises[0]
    if outcome.sorts != SORTS:
        print(f"surprises followed: {', '.join(outcome.sorts)}; no others")
    print(f"worlds: {outcome.worlds} ({first} without a surprise{', ' if counts else ''}{counts})")
    print(f"steps: {outcome.steps}, each by the real tables, in {outcome.seconds:.0f} s")
    print("closed: nothing is left to look at" if outcome.closed else "not closed: it ended early")
    pairs = f"{facts['positions_and_events_met']} of {facts['positions_and_events']}"
    print(f"rows taken: {len(outcome.rows)} of {ROWS}; positions and events met: {pairs}")
    print(f"invariants: {facts['invariants']}, {'violated' if outcome.found else 'all hold'}")


def _words(choice: Choice) -> str:
    return ", ".join(filter(None, choice))


def _explain(found: Found, way: tuple[Choice, ...], path: str | None) -> None:
    """The way there, as short as it gets, and as a journal."""
    steps = (*way, *found.way)

    def breaks(lived: Lived) -> bool:
        return found.law in lived.broken

    real = breaks(relive(steps))
    steps = shortest(steps, breaks) if real else steps
    print(f"\n{found.law}: {found.what}")
    for number, choice in enumerate(steps, 1):
        print(f"{number:4} {_words(choice)}")
    if not real:
        reason = "a run that ends there is no violation in itself" if found.law == LIVENESS else ""
        print(f"With real instants it did not come about{': ' if reason else '.'}{reason}")
    content = journal_of(relive(steps))
    target = Path(path) if path is not None else Path(f"{PREFIX}{found.law}.jsonl")
    target.write_bytes(content)
    print(f"As a journal: {target}; read it with `identityd journal show {target}`")
