"""Mutants that nobody can tell from the original, each with the reason. Kept in equivalent.toml.

An entry is about mutants that exist and survive: one whose mutants are gone, or are killed by now, is stale
and fails the run. A pattern may stand for several; ``*`` matches anything.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.source import Mutant

FILE = Path(__file__).with_name("equivalent.toml")


class EntryMistake(Exception):
    """The file says what it cannot mean."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One reason, for one mutant or for several of a kind."""

    pattern: str
    reason: str

    def matches(self, mutant: Mutant) -> bool:
        first, *others = self.pattern.split("*")
        if not others or not mutant.id.startswith(first):
            return mutant.id == self.pattern
        return re.fullmatch(".*".join(map(re.escape, (first, *others))), mutant.id) is not None


def entries(path: Path = FILE) -> tuple[Entry, ...]:
    """All of them. Raises EntryMistake."""
    found = []
    for table in tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", []):
        if set(table) != {"id", "reason"} or len(table["reason"].split()) < 4:
            raise EntryMistake(f"an entry has an id and a reason, in words: {table}")
        ids = table["id"] if isinstance(table["id"], list) else [table["id"]]
        found += [Entry(pattern=one, reason=table["reason"]) for one in ids]
    patterns = [entry.pattern for entry in found]
    twice = next((one for one in patterns if patterns.count(one) > 1), None)
    if twice is not None:
        raise EntryMistake(f"listed twice: {twice}")
    return tuple(found)


def reason_for(mutant: Mutant, known: Sequence[Entry]) -> str | None:
    return next((entry.reason for entry in known if entry.matches(mutant)), None)


def stale(known: Iterable[Entry], mutants: Sequence[Mutant], killed: Iterable[Mutant]) -> list[str]:
    """What is wrong with the list, a line each: entries for nothing, and entries for what was killed."""
    dead = tuple(killed)
    wrong = []
    for entry in known:
        if not any(entry.matches(one) for one in mutants):
            wrong.append(f"no such mutant: {entry.pattern}")
        wrong += [f"it is not equivalent, for it was killed: {one.id}" for one in dead if entry.matches(one)]
    return wrong
