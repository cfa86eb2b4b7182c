"""Every mutant, generated from the rows and functions as they are now. Nothing here is listed by hand.

A new row, guard, action or constant has its mutants with the next run.
"""

from collections.abc import Iterator

from tests.mutation.code import code_mutants, guard_mutants
from tests.mutation.rows import positions_of, row_mutants
from tests.mutation.source import Mutant, Source

TABLES = ("statemachine.attempt", "statemachine.table")
GUARDS = "statemachine.guards"
CODE = (
    "statemachine.guards",
    "statemachine.judge",
    "statemachine.policy",
    "statemachine.renewal_policy",
    "statemachine.absorb",
    "statemachine.actions",
    "statemachine.attempt_actions",
    "statemachine.work",
    "statemachine.snapshot",
    "statemachine.machine",
)
"Whatever a step runs. The vocabulary, journal lines and words for people are tested as such."


def all_mutants() -> list[Mutant]:
    """In a stable order. Reads the sources anew, so the trees are nobody else's."""
    return list(_all())


def _all() -> Iterator[Mutant]:
    for name in TABLES:
        source = Source(name)
        yield from row_mutants(source, positions_of(source))
    yield from guard_mutants(Source(GUARDS))
    for name in CODE:
        yield from code_mutants(Source(name))
