"""Where a mutant decides otherwise than the original: the check on what is called equivalent.

A difference is no fault that anybody would notice, so this is no killer. It refutes a reason in
equivalent.toml, and it shows whoever has to write the missing test a place to begin.
"""

from collections.abc import Iterator, Sequence

from msgspec import structs

from statemachine.events import AnyEvent
from statemachine.machine import Decision, decide
from statemachine.snapshot import Snapshot
from tests.core.test_totality import events
from tests.core.walks import seeded
from tests.mutation.killers import named

SEEDS, LENGTH = 150, 100
EVERY = 25
"Every so many steps of a walk, all kinds of events are tried from there."

Step = tuple[Snapshot, AnyEvent, int, Decision]


def steps(first_seed: int = 50_000, seeds: int = SEEDS) -> list[Step]:
    """Steps of the original: random walks, and beside them what else could have come."""
    found: list[Step] = []
    for seed in range(first_seed, first_seed + seeds):
        before = Snapshot()
        for number, (now, event, decision) in enumerate(seeded(seed, LENGTH).history):
            found.append((before, event, now, decision))
            if number % EVERY == 0:
                found.extend(_beside(before, now, seed + number))
            before = decision.snapshot
    return found


def _beside(before: Snapshot, now: int, seed: int) -> Iterator[Step]:
    for number, event in enumerate(events(before)):  # type: ignore[no-untyped-call]
        drawn = structs.replace(event, draw_ppm=(seed * 7919 + number * 104_729) % 1_000_000)
        yield before, drawn, now, decide(before, drawn, now)


def difference(some: Sequence[Step]) -> str | None:
    """The first step that is decided otherwise, in one line. Spoils nothing, but means the live machine."""
    for before, event, now, decision in some:
        place = f"{before.state.value}/{before.phase.value}, {type(event).__name__}"
        try:
            other = decide(before, event, now)
        except Exception as exc:
            return f"{place}: {named(exc)}"
        if other != decision:
            return f"{place}: {_first(decision, other)}; {event}"
    return None


def _first(one: Decision, other: Decision) -> str:
    for name in ("verdict", "why", "effects"):
        if getattr(one, name) != getattr(other, name):
            return f"{name} {getattr(one, name)} / {getattr(other, name)}"
    changed = [
        f"{field} {getattr(one.snapshot, field)} / {getattr(other.snapshot, field)}"
        for field in Snapshot.__struct_fields__
        if getattr(one.snapshot, field) != getattr(other.snapshot, field)
    ]
    return "; ".join(changed)
