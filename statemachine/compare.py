"""Two journals side by side: where two lives part, and what became of each.

Records are compared by their sequence, from the first one that both may hold. What a record says in words
(``why``) is no part of it, as in a replay.
"""

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct, structs

from statemachine.errors import JournalUnreadable
from statemachine.events import AnyEvent, tag_of
from statemachine.journal import Record, read
from statemachine.life import Life, life_of
from statemachine.snapshot import Snapshot

SHOWN = 2_000
"Characters of either side of a difference."

MEANINGS = {
    "missing": "Only one of them has this record.",
    "checkpoint": "What they remember of everything before this record is not the same.",
    "event": "Something else happened.",
    "facts": "The same kind of event brought other facts.",
    "time": "The same event came at another instant, or with another draw.",
    "verdict": "The same event was judged otherwise: by other rules, or after another history.",
    "position": "The same event led elsewhere: by other rules, or after another history.",
    "effects": "The same event was answered otherwise: by other rules, or after another history.",
}
"The aspects in which records differ, in the order in which they explain each other."


class Parting(Struct, frozen=True, kw_only=True):
    """The first record in which two lives are not the same."""

    sequence: int
    aspects: tuple[str, ...]
    "Keys of MEANINGS; the first explains the others."
    old: str
    "What the first aspect is on this side, as the journal writes it; null where there is nothing."
    new: str


class Comparison(Struct, frozen=True, kw_only=True):
    """What two journals have in common, and what not."""

    same: bool
    "Every record on either side is on the other one too, and says the same."
    compared_from: int
    "The first sequence that both may hold; what only one remembers from before is left out."
    common: int
    "Records that are the same on both sides before the lives part."
    parting: Parting | None = None
    firsts: dict[str, int]
    """The first sequence that differs in each aspect. Two runs of one story differ in `time` and `facts`
    throughout; what counts for them is the rest."""
    old: Life
    "From ``compared_from`` to its end."
    new: Life


class _Side(Struct, frozen=True, kw_only=True):
    """One journal."""

    first: int
    heads: dict[int, Snapshot]
    "Checkpoints, by the sequence that follows them."
    records: dict[int, Record]
    "By sequence, in order."

    def life(self, first: int) -> Life:
        """From that sequence on."""
        before = self.heads[self.first]
        state, phase = before.state.value, before.phase.value
        for number, record in self.records.items():
            if number < first:
                state, phase = record.state, record.phase
        kept = [record for number, record in self.records.items() if number >= first]
        return life_of(
            kept,
            state=state,
            phase=phase,
            from_unix_ms=kept[0].now_unix_ms if kept else 0,
            until_unix_ms=kept[-1].now_unix_ms if kept else 0,
        )


def compare(old: Sequence[tuple[str, bytes]], new: Sequence[tuple[str, bytes]]) -> Comparison:
    """Two journals, each as named files, oldest first. Raises JournalUnreadable."""
    before, after = _side(old), _side(new)
    first = max(before.first, after.first)
    numbers = {first, *before.records, *after.records}
    common, parting = 0, None
    firsts: dict[str, int] = {}
    for number in sorted(number for number in numbers if number >= first):
        differing = _differences(before, after, number)
        for aspect in differing:
            firsts.setdefault(aspect, number)
        if differing and parting is None:
            mine, theirs = next(iter(differing.values()))
            parting = Parting(sequence=number, aspects=tuple(differing), old=_shown(mine), new=_shown(theirs))
        elif parting is None and number in before.records:
            common += 1
    return Comparison(
        same=parting is None,
        compared_from=first,
        common=common,
        parting=parting,
        firsts=firsts,
        old=before.life(first),
        new=after.life(first),
    )


def _side(named: Sequence[tuple[str, bytes]]) -> _Side:
    heads: dict[int, Snapshot] = {}
    records: dict[int, Record] = {}
    for name, content in named:
        reading = read(content)
        if reading.header is None or reading.snapshot is None or (reading.problem and not reading.torn):
            raise JournalUnreadable(f"{name}: {reading.problem}")
        first = reading.header.first_sequence
        if first <= max([*heads, *records], default=0):
            raise JournalUnreadable(f"{name}: begins with record {first}: give the files in order, each once")
        heads[first] = reading.snapshot
        records |= {record.sequence: record for record in reading.records}
    if not heads:
        raise JournalUnreadable("no journal file was named")
    return _Side(first=min(heads), heads=heads, records=records)


def _differences(before: _Side, after: _Side, number: int) -> dict[str, tuple[object, object]]:
    """What the two say at one sequence, where they do not say the same; by aspect, in order."""
    pairs: dict[str, tuple[object, object]] = {}
    if number == before.first == after.first:
        pairs["checkpoint"] = before.heads[number], after.heads[number]
    old, new = before.records.get(number), after.records.get(number)
    if old is None or new is None:
        pairs["missing"] = old, new
    elif tag_of(old.event) != tag_of(new.event):
        pairs["event"] = old.event, new.event
    else:
        pairs["facts"] = _undrawn(old.event), _undrawn(new.event)
    if old is not None and new is not None:
        for aspect, say in _SAID.items():
            pairs[aspect] = say(old), say(new)
    return {aspect: pairs[aspect] for aspect in MEANINGS if aspect in pairs and _differ(pairs[aspect])}


def _differ(pair: tuple[object, object]) -> bool:
    return pair[0] != pair[1]


def _undrawn(event: AnyEvent) -> AnyEvent:
    """Chance is not what happened."""
    return structs.replace(event, draw_ppm=0)


_SAID: dict[str, Callable[[Record], object]] = {
    "time": lambda record: (record.now_unix_ms, record.event.draw_ppm),
    "verdict": lambda record: record.verdict,
    "position": lambda record: (record.state, record.phase),
    "effects": lambda record: record.effects,
}


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()[:SHOWN]
