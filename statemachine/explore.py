"""Every world that can be reached, breadth-first over the real ``step``, and what must hold in all of them.

Worlds are those of environment.py, reduced as reduction.py says. A *surprise* is whatever the world does
beside the common run of things: time passing, deadlines, answers as wished for, waiting for them and waiting
in vain are none; any other answer, a kill, a command, a set clock, a changed configuration or a lost
credential is one each. The worlds within so many surprises are explored to closure: nothing is left that
leads to a new one. A world is filed under the fewest surprises that lead to it, so it is looked at once.

A ``Part`` holds those worlds whose digest falls to it; several may work side by side, and tell each other
what they find. One alone is the whole search.
"""

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Literal, NamedTuple

from statemachine import attempt, table
from statemachine.environment import (
    AFTERWARDS,
    ASIDE,
    MAY_CHANGE,
    NOW,
    SORTS,
    STALE,
    Choice,
    Happened,
    Impossible,
    Sort,
    World,
    common,
    happen,
    rare,
    sort_of,
)
from statemachine.explain import status_of
from statemachine.invariants import STATE_LAWS, STEP_LAWS
from statemachine.reduction import canonical, pack, part_of, passings, unpack
from statemachine.rows import key_of
from statemachine.snapshot import Snapshot
from statemachine.states import ATTEMPT_STATES, Phase, State

DIGEST_BYTES = 12
NOBODY = 2**64 - 1
"Came first."

_GOOD = frozenset(
    {
        ("StageKey", "ok"),
        ("SubmitRegistration", "accepted"),
        ("PollRegistration", "assigned"),
        ("ProveCredential", "ok"),
        ("CommitCredential", "ok"),
        ("RetireCredential", "ok"),
        ("PurgeCredentials", "ok"),
    }
)
"Answers of a store that works, and of a fair cloud."


def digest_of(packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest()


def split(digests: bytes) -> Iterator[bytes]:
    """Digests that stand one after another."""
    for start in range(0, len(digests), DIGEST_BYTES):
        yield digests[start : start + DIGEST_BYTES]


# --- what must hold of worlds --------------------------------------------------------------------------


def a_usable_pair_is_on_disk(world: World) -> str | None:
    """Once a credential was committed, what the store holds as current can be used."""
    if world.disk.current is None or world.disk.usable():
        return None
    return f"generation {world.disk.current.generation} is current without its key"


def what_is_in_use_is_on_disk(world: World) -> str | None:
    """The key of the certificate in use is there, unless somebody took what the store held."""
    credential = world.snapshot.credential
    if credential is None or credential.source == "configured" or world.disk.current is None:
        return None
    return None if credential.generation in world.disk.keys else "the key of the credential in use is gone"


def what_waits_is_on_disk(world: World) -> str | None:
    """A staged key is there for as long as the machine counts on it, unless somebody took it."""
    staged = world.snapshot.staged
    if staged is None or staged.generation in (*world.disk.keys, *world.disk.taken):
        return None
    return f"the staged key of generation {staged.generation} is gone"


def superseded_keys_stay(world: World) -> str | None:
    """The key of a superseded certificate that has not ended is there, unless somebody took it."""
    for one in world.snapshot.superseded:
        there = (*world.disk.keys, *world.disk.taken)
        if one.keep_until_unix_ms > world.now and one.generation not in there:
            return f"the superseded key of generation {one.generation} is gone"
    return None


def help_is_asked_for_or_something_waits(world: World) -> str | None:
    """No world is dead: something is armed, or waited for, or a person has to do something."""
    snapshot = world.snapshot
    if snapshot.armed or snapshot.outstanding or snapshot.hold or snapshot.stopping:
        return None
    if not snapshot.policy.dps and snapshot.policy.manual is None:
        return None
    if snapshot.policy.manual is not None and snapshot.state is State.PROVISIONED:
        return None
    return (
        None if status_of(snapshot, world.stamp).stuck else "nothing is armed, and nobody is asked for help"
    )


WorldLaw = Callable[[World], str | None]

WORLD_LAWS: tuple[WorldLaw, ...] = (
    a_usable_pair_is_on_disk,
    what_is_in_use_is_on_disk,
    what_waits_is_on_disk,
    superseded_keys_stay,
    help_is_asked_for_or_something_waits,
)


# --- liveness ------------------------------------------------------------------------------------------


@cache
def good(choice: Choice) -> bool:
    """It belongs to a run under a fair cloud, a store that works and a clock that becomes right.

    Asked at every step; there are some two hundred choices.
    """
    match choice:
        case Choice("answer", what, how):
            return (what, how) in _GOOD
        case Choice("deadline", what):
            # No attempt times out: every answer comes.
            return what != "timeout"
        case Choice("passes", what):
            return what in ("life", "attempt", "superseded", "budget")
        case Choice("clock confirmed" | "release" | "late"):
            return True
        case Choice("clock set", "right", ""):
            return True
    return False


def arrived(snapshot: Snapshot) -> bool:
    """Where every good run leads."""
    return snapshot.state is State.PROVISIONED


def excused(snapshot: Snapshot) -> bool:
    """A person has to act first: no source is configured, or this may be a copied image."""
    return (not snapshot.policy.dps and snapshot.policy.manual is None) or (
        snapshot.foreign_machine and snapshot.policy.manual is None
    )


# --- the search ----------------------------------------------------------------------------------------


class Found(NamedTuple):
    """An invariant that does not hold."""

    law: str
    what: str
    world: int
    "Where it began: a world's number."
    way: tuple[Choice, ...]
    "What happened from there on; nothing: it is the world itself."


class Offer(NamedTuple):
    """A world for another part."""

    digest: bytes
    packed: bytes
    surprises: int
    parent: int
    choice: Choice


class Facts(NamedTuple):
    """What one part came to."""

    worlds: int
    by_surprises: tuple[int, ...]
    steps: int
    rows: frozenset[tuple[str, int]]
    "Table and place of every row taken."
    visited: frozenset[tuple[State, Phase, str]]
    "Position and event."
    found: tuple[Found, ...]


class Graph(NamedTuple):
    """The good steps of one part, and what liveness asks of its worlds."""

    sources: "array[int]"
    targets: bytes
    "Digests, one after another."
    arrived: "array[int]"
    excused: "array[int]"
    digests: bytes
    "The same of its worlds, in the order of their places."


POSITIONS: tuple[tuple[State, Phase], ...] = tuple(
    (state, phase)
    for state in State
    for phase in Phase
    if (phase is Phase.IDLE and state not in (State.REGISTERING, State.RENEWING))
    or (phase is not Phase.IDLE and state in ATTEMPT_STATES)
)
"Every one that can be reached."

LIVENESS = "every_good_run_arrives"
MOST_FOUND = 20

_ROWS: dict[int, tuple[str, int]] = {
    id(row): (name, place)
    for name, rows in (("lifecycle", table.ROWS), ("attempt", attempt.ROWS))
    for place, row in enumerate(rows)
}


class Part:
    """The worlds whose digest falls to one of ``parts``. Worlds are numbered ``index + parts * place``."""

    def __init__(
        self, *, surprises: int, sorts: Collection[Sort] = SORTS, index: int = 0, parts: int = 1
    ) -> None:
        self.index, self.parts, self.surprises = index, parts, surprises
        self._sorts = frozenset(sorts)
        "Of the surprises that are followed."
        self.level = 0
        self.outbox: list[list[Offer]] = [[] for _ in range(parts)]
        self.found: list[Found] = []
        self.steps = 0
        self._places: dict[bytes, int] = {}
        self._parents = array("Q")
        self._choices: list[Choice] = []
        self._counts = [0] * (surprises + 1)
        self._todo: deque[tuple[int, bytes]] = deque()
        "Packed: whole, they would fill the memory, and be far apart in it."
        self._later: dict[bytes, Offer] = {}
        self._told: dict[bytes, int] = {}
        "With how many surprises other parts were told of their worlds."
        self._rows: set[int] = set()
        self._visited: set[tuple[State, Phase, str]] = set()
        self._looked_ahead: set[tuple[object, ...]] = set()
        "Situations."
        self._looked_aside: set[tuple[object, ...]] = set()
        "Situations, and what was armed."
        self._glimpsed: set[tuple[object, ...]] = set()
        "The same, met on the way only."
        self._from = array("Q")
        self._to = bytearray()
        self._arrived = array("Q")
        self._excused = array("Q")

    def __len__(self) -> int:
        return len(self._places)

    def begin(self) -> None:
        """Offer where every life begins."""
        start = World()
        for choice in common(start):
            self._follow(NOBODY, choice, start, 0)
        for choice in self._followed(start):
            self._follow(NOBODY, choice, start, 1)

    def take(self, offers: Iterable[Offer]) -> None:
        """Worlds that are ours."""
        for offer in offers:
            self._file(offer)

    def next_level(self) -> None:
        """One more surprise."""
        self.level += 1
        later, self._later = self._later, {}
        for offer in later.values():
            self._file(offer)

    def run(self, most: int | None = None) -> None:
        """Look at worlds with these surprises, at so many at most; ends early when something was found."""
        looked = 0
        while self._todo and not self.found and (most is None or looked < most):
            number, packed = self._todo.popleft()
            self._look(number, unpack(packed))
            looked += 1

    @property
    def condition(self) -> Literal["found", "busy", "idle"]:
        return "found" if self.found else "busy" if self._todo else "idle"

    def hand_over(self) -> list[list[Offer]]:
        """What was found for the other parts since, by part."""
        outbox, self.outbox = self.outbox, [[] for _ in range(self.parts)]
        return outbox

    def facts(self) -> Facts:
        return Facts(
            worlds=len(self._places),
            by_surprises=tuple(self._counts),
            steps=self.steps,
            rows=frozenset(_ROWS[row] for row in self._rows if row in _ROWS),
            visited=frozenset(self._visited),
            found=tuple(self.found[:MOST_FOUND]),
        )

    def origin(self, number: int) -> tuple[int, Choice]:
        """Where a world of ours was come to from, and how."""
        place = number // self.parts
        return self._parents[place], self._choices[place]

    def graph(self) -> "Graph":
        """For liveness."""
        return Graph(self._from, bytes(self._to), self._arrived, self._excused, b"".join(self._places))

    def _file(self, offer: Offer) -> None:
        if offer.digest in self._places:
            return
        if offer.surprises > self.level:
            self._later.setdefault(offer.digest, offer)
            return
        self._add(offer.digest, offer.packed, unpack(offer.packed), offer.parent, offer.choice)

    def _add(self, digest: bytes, packed: bytes, world: World, parent: int, choice: Choice) -> None:
        place = len(self._places)
        number = self.index + self.parts * place
        self._places[digest] = place
        self._parents.append(parent)
        self._choices.append(choice)
        self._counts[self.level] += 1
        self.found.extend(Found(law, wrong, number, ()) for law, wrong in _broken(world))
        if arrived(world.snapshot):
            self._arrived.append(number)
        elif excused(world.snapshot):
            self._excused.append(number)
        self._todo.append((number, packed))

    def _look(self, number: int, world: World) -> None:
        for choice in common(world):
            self._follow(number, choice, world, 0)
        for choice, after in passings(world):
            self._lead(number, choice, after, 0)
        if self.level < self.surprises:
            for choice in self._followed(world):
                self._follow(number, choice, world, 1)
        situation = _situation(world)
        if situation not in self._looked_ahead:
            self._looked_ahead.add(situation)
            if self.level == self.surprises:
                self._look_ahead(number, world)
        armed = tuple(one.name for one in world.snapshot.armed)
        if (situation, armed) not in self._looked_aside:
            self._looked_aside.add((situation, armed))
            self._look_aside(number, world)

    def _followed(self, world: World) -> Iterator[Choice]:
        return (choice for choice in rare(world) if sort_of(choice) in self._sorts)

    def _look_aside(self, number: int, world: World) -> None:
        for choice in (*STALE, *ASIDE):
            try:
                happened = happen(world, choice)
            except Impossible:
                continue
            self._judge_step(number, (choice,), happened)
            if choice.kind not in MAY_CHANGE and canonical(happened.world) != world:
                self.found.append(Found("aside", "it changed what it must not touch", number, (choice,)))
            for afterwards in AFTERWARDS.get(choice, ()):
                with suppress(Impossible):
                    self._judge_step(number, (choice, afterwards), happen(happened.world, afterwards))

    def _look_ahead(self, number: int, world: World) -> None:
        """One surprise more than are followed, and the common run of things from where that is new."""
        todo: list[tuple[World, tuple[Choice, ...], Choice]] = [(world, (), one) for one in rare(world)]
        while todo:
            before, way, choice = todo.pop()
            happened = happen(before, choice)
            way = (*way, choice)
            self._judge_step(number, way, happened)
            after = canonical(happened.world, before)
            self.found.extend(Found(law, wrong, number, way) for law, wrong in _broken(after))
            situation = (_situation(after), tuple(one.name for one in after.snapshot.armed))
            if situation not in self._looked_aside and situation not in self._glimpsed:
                self._glimpsed.add(situation)
                todo.extend((after, way, one) for one in common(after))

    def _follow(self, number: int, choice: Choice, before: World, surprises: int) -> None:
        happened = happen(before, choice)
        self._judge_step(number, (choice,), happened)
        decision = happened.decision
        if decision is None or decision.verdict != "refused":
            after = canonical(happened.world, None if number == NOBODY else before)
            self._lead(number, choice, after, surprises)

    def _judge_step(self, number: int, way: tuple[Choice, ...], happened: Happened) -> None:
        self.steps += 1
        event, decision = happened.event, happened.decision
        if event is None or decision is None:
            return
        snapshot = happened.told
        self._visited.add((snapshot.state, snapshot.phase, key_of(event)))
        self._rows.update(map(id, happened.rows))
        stamp = happened.world.stamp
        for law in STEP_LAWS:
            wrong = law(snapshot, stamp, event, decision)
            if wrong is not None:
                self.found.append(Found(law.__name__, wrong, number, way))

    def _lead(self, number: int, choice: Choice, after: World, surprises: int) -> None:
        packed = pack(after)
        digest = digest_of(packed)
        if number != NOBODY and good(choice):
            self._from.append(number)
            self._to += digest
        level = self.level + surprises
        owner = digest[0] % self.parts
        if owner != self.index:
            if level < self._told.get(digest, self.surprises + 1):
                self._told[digest] = level
                self.outbox[owner].append(Offer(digest, packed, level, number, choice))
        elif digest not in self._places:
            if level > self.level:
                self._later.setdefault(digest, Offer(digest, packed, level, number, choice))
            else:
                self._add(digest, packed, after, number, choice)


def _broken(world: World) -> Iterator[tuple[str, str]]:
    """(invariant, what is wrong) of one world."""
    for law in STATE_LAWS:
        wrong = law(world.snapshot)
        if wrong is not None:
            yield law.__name__, wrong
    for world_law in WORLD_LAWS:
        wrong = world_law(world)
        if wrong is not None:
            yield world_law.__name__, wrong


def _situation(world: World) -> tuple[object, ...]:
    """What decides which rows could be taken next; what is not followed is looked at once in each."""
    snapshot = world.snapshot
    credential, candidate, attempt = snapshot.credential, snapshot.candidate, snapshot.attempt
    refusals, believed = snapshot.refusals, world.stamp + snapshot.clock.correction_ms
    return (
        snapshot.state,
        snapshot.phase,
        snapshot.hold,
        snapshot.policy,
        snapshot.clock.trusted,
        refusals.count,
        refusals.count > 0 and refusals.first_unix_ms == believed,
        None if attempt is None else (attempt.manual is None, attempt.tries),
        None
        if candidate is None
        else (candidate.new_assignment, candidate.assigned_unix_ms == believed, candidate.chain is None),
        None
        if credential is None
        else (
            credential.source,
            credential.proven,
            credential.committed_unix_ms == believed,
            part_of(credential.not_before_unix_ms, credential.not_after_unix_ms, NOW),
        ),
        tuple(type(one.effect) for one in snapshot.outstanding),
    )


def search(surprises: int, most: int | None = None) -> Part:
    """All of it, in this process; ends early at the first find, or after ``most`` worlds of one level."""
    part = Part(surprises=surprises)
    part.begin()
    part.run(most)
    while part.condition == "idle" and part.level < surprises:
        part.next_level()
        part.run(most)
    return part


def path(origin: Callable[[int], tuple[int, Choice]], number: int) -> tuple[Choice, ...]:
    """The choices that lead to a world, from the very first start."""
    found: list[Choice] = []
    while number != NOBODY:
        number, choice = origin(number)
        found.append(choice)
    return tuple(reversed(found))


def traps(graphs: Sequence[Graph]) -> tuple[int, ...]:
    """Worlds from which no good run leads to Provisioned, nor to where a person has to act first.

    Under a fair cloud each good step that stays possible is taken in the end, so from every other world
    every good run arrives.
    """
    numbers: dict[bytes, int] = {}
    for index, graph in enumerate(graphs):
        numbers.update((one, index + len(graphs) * place) for place, one in enumerate(split(graph.digests)))
    into: dict[int, list[int]] = {}
    reached: set[int] = set()
    for graph in graphs:
        reached.update(graph.arrived)
        reached.update(graph.excused)
        for source, digest in zip(graph.sources, split(graph.targets), strict=True):
            target = numbers[digest]
            if source != target:
                into.setdefault(target, []).append(source)
    todo = list(reached)
    while todo:
        for source in into.get(todo.pop(), ()):
            if source not in reached:
                reached.add(source)
                todo.append(source)
    return tuple(sorted(number for number in numbers.values() if number not in reached))
