"""A run of records in figures: how long in which state, what was attempted, what came of it.

Only what the records say is counted, so that a journal which does not replay has figures too.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from statemachine.effects import PollRegistration, SubmitRegistration
from statemachine.events import CredentialCommitted, Failure, Started
from statemachine.journal import Record
from statemachine.states import Phase


class Life(Struct, frozen=True, kw_only=True):
    """What happened between two instants. Counts are of records, instants are their stamps."""

    records: int
    starts: int = 0
    state: str
    "At the end."
    phase: str
    "At the end."
    state_ms: dict[str, int]
    "Time in each state, by the device's own clock; a clock set back counts as no time."
    attempts_unix_ms: tuple[int, ...] = ()
    "When the phase left Idle, one for each attempt."
    registrations: int = 0
    "How often DPS was asked to register, repeats included."
    polls: int = 0
    failures: dict[str, int]
    "By code."
    committed: tuple[int, ...] = ()
    "Generations that became current, in order."


def life_of(
    records: Sequence[Record], *, state: str, phase: str, from_unix_ms: int, until_unix_ms: int
) -> Life:
    """``state`` and ``phase`` are those before the first record."""
    effects = [effect for record in records for effect in record.effects]
    phases = [phase, *(record.phase for record in records)]
    return Life(
        records=len(records),
        starts=sum(isinstance(record.event, Started) for record in records),
        state=records[-1].state if records else state,
        phase=phases[-1],
        state_ms=_state_ms(records, state, from_unix_ms, until_unix_ms),
        attempts_unix_ms=tuple(
            record.now_unix_ms
            for (before, after), record in zip(pairwise(phases), records, strict=True)
            if before == Phase.IDLE.value != after
        ),
        registrations=sum(isinstance(effect, SubmitRegistration) for effect in effects),
        polls=sum(isinstance(effect, PollRegistration) for effect in effects),
        failures=dict(
            sorted(Counter(one.event.code for one in records if isinstance(one.event, Failure)).items())
        ),
        committed=tuple(
            record.event.generation for record in records if isinstance(record.event, CredentialCommitted)
        ),
    )


def _state_ms(records: Sequence[Record], state: str, from_unix_ms: int, until_unix_ms: int) -> dict[str, int]:
    spent: Counter[str] = Counter()
    at = from_unix_ms
    for record in records:
        spent[state] += max(record.now_unix_ms - at, 0)
        state, at = record.state, record.now_unix_ms
    spent[state] += max(until_unix_ms - at, 0)
    return {name: ms for name, ms in sorted(spent.items()) if ms}
