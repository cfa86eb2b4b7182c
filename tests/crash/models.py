"""Which disks a power cut may leave, given what was done and what was synced.

- *ordered*: every prefix of the operations, all of it there. Also what a killed process leaves.
- *reordered*: at every prefix, any subset of the changes that were not yet durable. A file's changes become
  durable with a sync of that file, a name with a sync of its directory and of nothing else; so a name may be
  there without its content, a content without its name, and a later change without an earlier one. That is
  weaker than what ext4, XFS or btrfs promise. What is taken for granted: one call that changes names does
  so in one step (rename), and one write is there or not.
- *torn*: at every prefix, the last write that was not synced is there in part: cut at every block, after the
  first byte, in the middle and before the last; and with its full length but zeros from there on, as after
  delayed allocation. Everything before it is there.

Two things are not told apart. The lock file's content is not varied: it is the number of a process, for
people, and is never synced. And of the files that hold space back only the number counts, not which of them.

Up to ``ALL_SUBSETS_OF`` changes, the reordered model takes every subset. Beyond that: none, all, each one
alone, each one missing, each pair missing, all up to each one, all from each one on, and a seeded sample;
how many prefixes that concerns is told.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from tests.crash.image import (
    ROOT,
    Change,
    Directory,
    Image,
    Names,
    Operation,
    Sync,
    Write,
    digest,
    perform,
    with_changes,
)
from tests.crash.sequence import Life, Moment

ALL_SUBSETS_OF = 16
BLOCK_BYTES = 512
"Of a disk; a page holds eight."

Model: TypeAlias = Literal["ordered", "reordered", "torn"]
MODELS: tuple[Model, ...] = ("ordered", "reordered", "torn")


class Prefix(Struct, frozen=True, kw_only=True):
    """The disk after so many operations: what is durable, and what may be."""

    count: int
    durable: Image
    pending: tuple[Change, ...]
    "In the order in which they were made."
    moment: Moment


class State(Struct, frozen=True, kw_only=True):
    """One disk, and how it comes about."""

    model: Model
    prefix: int
    missing: tuple[int, ...] = ()
    "Of the prefix's pending changes, by position."
    cut: int | None = None
    "How much of the last write is there."
    zeros: bool = False
    "The file has its full length, with zeros for what is not there."


class Enumerated(Struct, frozen=True, kw_only=True):
    states: tuple[State, ...]
    "Distinct by disk and by what it owes."
    total: int
    reduced: int
    "Prefixes with more than ``ALL_SUBSETS_OF`` pending changes."
    most_pending: int


def prefixes(life: Life, *, before: Prefix | None = None) -> list[Prefix]:
    """One for each operation, and one for the end. ``before``: what an earlier process left unsynced."""
    recorder = life.recorder
    # Inodes exist from the start, without a name: whether one is found is a matter of names only.
    durable: Image = {**recorder.born, **(recorder.start if before is None else before.durable)}
    pending: list[Change] = [] if before is None else list(before.pending)
    doomed: list[Change] = []
    found = []
    moments = [*(one.context for one in recorder.recorded), life.end]
    for count, moment in enumerate(moments):
        assert isinstance(moment, Moment)
        found.append(Prefix(count=count, durable=dict(durable), pending=tuple(pending), moment=moment))
        if count < len(recorder.recorded):
            pending, doomed = _after(recorder.operations[count], durable, pending, doomed)
    return found


def _after(
    operation: Operation, durable: Image, pending: list[Change], doomed: list[Change]
) -> tuple[list[Change], list[Change]]:
    if not isinstance(operation, Sync):
        return [*pending, operation], doomed
    mine = [one for one in pending if operation.inode in one.inodes]
    if operation.failed:
        return pending, [*doomed, *(one for one in mine if not isinstance(one, Names))]
    lost = {id(one) for one in doomed}
    done = [one for one in mine if id(one) not in lost]
    for change in done:
        perform(durable, change)
    gone = {id(one) for one in done}
    return [one for one in pending if id(one) not in gone], doomed


def image_of(prefix: Prefix, state: State) -> Image:
    changes: list[Change] = []
    missing = set(state.missing)
    last = _last_write(prefix) if state.cut is not None else None
    for number, change in enumerate(prefix.pending):
        if number in missing:
            continue
        if number == last:
            assert isinstance(change, Write)
            assert state.cut is not None
            rest = bytes(len(change.data) - state.cut) if state.zeros else b""
            data = change.data[: state.cut] + rest
            change = Write(inode=change.inode, offset=change.offset, data=data, said=change.said)
        changes.append(change)
    return with_changes(prefix.durable, changes)


def _last_write(prefix: Prefix) -> int | None:
    numbers = [n for n, change in enumerate(prefix.pending) if isinstance(change, Write)]
    return numbers[-1] if numbers else None


# --- enumerating -------------------------------------------------------------------------------------


def enumerate_states(
    life: Life, found: Sequence[Prefix], model: Model, *, sample: int, seed: int, only: range | None = None
) -> Enumerated:
    """``sample`` is the number of subsets drawn for each prefix that has too many."""
    chance = random.Random(f"{seed}/{model}")
    lock, spare = _made(life, "identityd.lock"), _made(life, "spare")
    seen: set[tuple[bytes, object]] = set()
    states: list[State] = []
    total = reduced = most = 0
    for prefix in found:
        if only is not None and prefix.count not in only:
            continue
        varied = _varied(prefix, lock)
        most = max(most, len(varied))
        if model == "reordered" and len(varied) > ALL_SUBSETS_OF:
            reduced += 1
        for state in _states(prefix, model, varied, sample, chance):
            total += 1
            key = (digest(image_of(prefix, state), alike=spare), (prefix.moment.owed, prefix.moment.chapter))
            if key not in seen:
                seen.add(key)
                states.append(state)
    return Enumerated(states=tuple(states), total=total, reduced=reduced, most_pending=most)


def _varied(prefix: Prefix, lock: int | None) -> list[int]:
    """Pending changes that can show: not those of a directory or file that no name can lead to any more."""
    reached, ahead = {ROOT}, [ROOT]
    while ahead:
        inode = ahead.pop()
        node = prefix.durable[inode]
        led = set(node.entries.values()) if isinstance(node, Directory) else set()
        for change in prefix.pending:
            if isinstance(change, Names):
                led |= {to for directory, _, to in change.assigned if directory == inode and to is not None}
        ahead += led - reached
        reached |= led
    return [
        n
        for n, one in enumerate(prefix.pending)
        if one.inodes & reached and (isinstance(one, Names) or lock not in one.inodes)
    ]


def _made(life: Life, name: str) -> int | None:
    """The inode that was first made under that name."""
    for operation in life.recorder.operations:
        if isinstance(operation, Names) and operation.assigned[0][1] == name:
            return operation.assigned[0][2]
    return None


def _states(
    prefix: Prefix, model: Model, varied: list[int], sample: int, chance: random.Random
) -> Iterator[State]:
    if model == "ordered":
        yield State(model=model, prefix=prefix.count)
    elif model == "torn":
        yield from _torn(prefix, varied)
    else:
        for missing in _subsets(varied, sample, chance):
            yield State(model=model, prefix=prefix.count, missing=missing)


def _subsets(varied: list[int], sample: int, chance: random.Random) -> Iterator[tuple[int, ...]]:
    """What is missing."""
    if len(varied) <= ALL_SUBSETS_OF:
        for size in range(len(varied) + 1):
            yield from itertools.combinations(varied, size)
        return
    yield ()
    yield tuple(varied)
    for n, one in enumerate(varied):
        yield (one,)
        yield tuple(other for other in varied if other != one)
        yield tuple(varied[:n])
        yield tuple(varied[n:])
    yield from itertools.combinations(varied, 2)
    for _ in range(sample):
        yield tuple(one for one in varied if chance.random() < 0.5)


def _torn(prefix: Prefix, varied: list[int]) -> Iterator[State]:
    last = _last_write(prefix)
    if last is None or last not in varied:
        return
    write = prefix.pending[last]
    assert isinstance(write, Write)
    size = len(write.data)
    # Blocks of the file, not of the write: that is where a disk cuts.
    blocks = range(BLOCK_BYTES - write.offset % BLOCK_BYTES, size, BLOCK_BYTES)
    for cut in sorted({0, 1, size // 2, size - 1, *blocks} & set(range(size))):
        for zeros in (False, True):
            yield State(model="torn", prefix=prefix.count, cut=cut, zeros=zeros)


# --- telling -----------------------------------------------------------------------------------------


def tell(prefix: Prefix, state: State, operations: Sequence[Operation]) -> list[str]:
    """How a disk comes about, for people."""
    lines = [f"{state.model}: after operation {state.prefix} of {len(operations)}"]
    done = operations[max(0, state.prefix - 12) : state.prefix]
    lines += [f"  {state.prefix - len(done) + n + 1}. {one.said}" for n, one in enumerate(done)]
    for number in state.missing:
        lines.append(f"  not on the disk: {prefix.pending[number].said}")
    if state.cut is not None:
        last = _last_write(prefix)
        assert last is not None
        then = "then zeros" if state.zeros else "and no more"
        lines.append(f"  in part: {prefix.pending[last].said}, {state.cut} bytes {then}")
    return lines
