"""Several processes explore side by side: each holds its part of the worlds, and they exchange what is found.

Each part takes in the worlds that were found for it, looks at a thousand, and hands over those that are not
its own; none waits for another. All go on to one more surprise only when no part has anything left.
"""

import gc
import multiprocessing
import pickle
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from msgspec import Struct

from statemachine.environment import SORTS, Choice, Sort
from statemachine.explore import LIVENESS, Facts, Found, Graph, Part, path, traps
from statemachine.states import Phase, State

ROUND = 1_000
"Worlds a part looks at before it hands over."
TOLD = 100_000
"After so many worlds a sign of life is given."

Tell = Callable[[str], None]


class Outcome(Struct, frozen=True, kw_only=True):
    """What an exploration came to."""

    closed: bool
    "Nothing is left that was not looked at."
    worlds: int
    by_surprises: tuple[int, ...]
    "How many more worlds each further surprise leads to."
    steps: int
    seconds: float
    rows: frozenset[tuple[str, int]]
    "Table and place of every row that was taken."
    visited: frozenset[tuple[State, Phase, str]]
    "Positions, and what happened there."
    found: tuple[tuple[Found, tuple[Choice, ...]], ...]
    "What does not hold, and how to get there; empty when everything does."
    trapped: int
    sorts: tuple[Sort, ...]
    "Of the surprises that were followed."


def explore(
    surprises: int, *, jobs: int, most: int | None, tell: Tell, sorts: Collection[Sort] = SORTS
) -> Outcome:
    """All of it. ``most`` bounds the worlds; what is left then was not looked at, and ``closed`` is False.

    ``sorts``: surprises of no other sort are followed.
    """
    began = time.monotonic()
    with _crew(partial(Part, surprises=surprises, sorts=sorts), jobs) as crew:
        closed = crew.search(most, tell)
        facts = crew.facts()
        found = [one for part in facts for one in part.found]
        trapped: tuple[int, ...] = ()
        if closed and not found:
            trapped = traps(crew.graphs())
            found = [Found(LIVENESS, _TRAPPED, number, ()) for number in trapped[:3]]
        return Outcome(
            closed=closed,
            worlds=sum(part.worlds for part in facts),
            by_surprises=tuple(map(sum, zip(*(part.by_surprises for part in facts), strict=True))),
            steps=sum(part.steps for part in facts),
            seconds=time.monotonic() - began,
            rows=frozenset().union(*(part.rows for part in facts)),
            visited=frozenset().union(*(part.visited for part in facts)),
            found=tuple((one, path(crew.origin, one.world)) for one in found),
            trapped=len(trapped),
            sorts=tuple(sorts),
        )


_TRAPPED = "no run leads from here to Provisioned, under a fair cloud and a right clock"


class _Progress:
    """Signs of life."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._began = time.monotonic()
        self._worlds, self._next = 0, TOLD

    def met(self, worlds: int) -> None:
        self._worlds = worlds
        if worlds >= self._next:
            self._tell(f"{worlds} worlds, {self._seconds()} s")
            self._next = worlds + TOLD

    def settled(self, level: int) -> None:
        self._tell(f"with {level} surprises: {self._worlds} worlds, all looked at, {self._seconds()} s")

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._began:.0f}"


class _Crew:
    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def search(self, most: int | None, tell: Tell) -> bool:
        """False when there is something left."""
        progress = _Progress(tell)
        while True:
            if not self._settle(most, progress):
                return False
            levels = self._each("level")
            level, surprises = levels[0]
            progress.settled(level)
            if level == surprises:
                return True
            self._each("next")

    def _settle(self, most: int | None, progress: "_Progress") -> bool:
        """Until no part has anything to look at with so many surprises. False when it ended early.

        No part waits for another: each is sent on as soon as it comes back, with what was found for it since.
        What is handed over stays sealed on its way.
        """
        waiting: list[list[bytes]] = [[] for _ in self._pipes]
        worlds = [0] * len(self._pipes)
        busy = dict.fromkeys(range(len(self._pipes)), True)
        running: set[int] = set()
        ended = False
        while True:
            for index, pipe in enumerate(self._pipes):
                if not ended and index not in running and (busy[index] or waiting[index]):
                    pipe.send(("round", waiting[index]))
                    waiting[index] = []
                    running.add(index)
            if not running:
                return not ended
            for ready in wait([self._pipes[index] for index in running]):
                index = self._pipes.index(cast("Connection", ready))
                outbox, worlds[index], condition = self._pipes[index].recv()
                running.discard(index)
                busy[index] = condition == "busy"
                for box, sealed in zip(waiting, outbox, strict=True):
                    if sealed:
                        box.append(sealed)
                ended = ended or condition == "found" or (most is not None and sum(worlds) >= most)
            progress.met(sum(worlds))

    def facts(self) -> tuple[Facts, ...]:
        return tuple(self._each("facts"))

    def graphs(self) -> tuple[Graph, ...]:
        return tuple(self._each("graph"))

    def origin(self, number: int) -> tuple[int, Choice]:
        pipe = self._pipes[number % len(self._pipes)]
        pipe.send(("origin", number))
        parent, choice = pipe.recv()
        return parent, choice

    def _each(self, what: str) -> list[Any]:
        for pipe in self._pipes:
            pipe.send((what, None))
        return [pipe.recv() for pipe in self._pipes]


@contextmanager
def _crew(part: Callable[..., Part], jobs: int) -> Iterator[_Crew]:
    """Forked, so that every part decides by the tables of this process, also where a test changed them."""
    context = multiprocessing.get_context("fork")
    pipes, workers = [], []
    for index in range(jobs):
        ours, theirs = context.Pipe()
        pipes.append(ours)
        arguments = (theirs, tuple(pipes), partial(part, index=index, parts=jobs))
        worker = context.Process(target=_work, args=arguments, daemon=True)
        worker.start()
        theirs.close()
        workers.append(worker)
    try:
        yield _Crew(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for worker in workers:
            worker.join()


def _work(pipe: Connection, inherited: tuple[Connection, ...], making: Callable[[], Part]) -> None:
    """One part, told what to do next; ends when nobody is there any more."""
    for other in inherited:
        # The other ends came along; held here, they would keep workers waiting for a parent that is gone.
        other.close()
    # Nothing here makes cycles, and millions of worlds would be looked through for them again and again.
    gc.disable()
    part = making()
    if part.index == 0:
        part.begin()
    while True:
        try:
            what, given = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        match what:
            case "round":
                for sealed in given:
                    part.take(pickle.loads(sealed))
                part.run(ROUND)
                outbox = [pickle.dumps(box) if box else b"" for box in part.hand_over()]
                pipe.send((outbox, len(part), part.condition))
            case "level":
                pipe.send((part.level, part.surprises))
            case "next":
                part.next_level()
                pipe.send(None)
            case "facts":
                pipe.send(part.facts())
            case "graph":
                pipe.send(part.graph())
            case "origin":
                pipe.send(part.origin(given))
