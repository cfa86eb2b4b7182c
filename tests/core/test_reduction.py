"""The reductions of the explorer against worlds that are not reduced.

A world that lives in real time is walked at random. Whatever happens to it happens to the reduced world that
stands for it as well, and both come to the same: at once, or after something has grown older before or after.
"""

import ast
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs
from msgspec.msgpack import encode

from statemachine import table
from statemachine.environment import BUILD, Choice, Impossible, World, common, happen, rare
from statemachine.explore import search
from statemachine.policy import DAY_MS
from statemachine.reduction import SUPERSEDED, canonical, pack, passings, unpack

WAITS_MS = (
    0,
    0,
    0,
    1_000,
    30_000,
    61_000,
    5 * 60_000,
    11 * 60_000,
    16 * 60_000,
    3_600_000,
    7 * 3_600_000,
    2 * DAY_MS,
    12 * DAY_MS,
    31 * DAY_MS,
)
STEPS = 40
MOST = 4_000
"Worlds that are looked at for the one sought; more would say nothing."
QUIET = 199 * DAY_MS
"The model has no device that learns nothing of the time for longer: its floor would be worth nothing."


def older(world: World) -> Iterator[World]:
    """That world, and those in which something has grown older, the nearest first."""
    seen, todo = {pack(world)}, deque([world])
    while todo and len(seen) < MOST:
        one = todo.popleft()
        yield one
        for _, after in passings(one):
            key = pack(after)
            if key not in seen:
                seen.add(key)
                todo.append(after)


def same_sooner_or_later(world: World, target: World) -> bool:
    return any(one == target for one in older(world))


def ways(choice: Choice) -> Iterator[tuple[Choice, ...]]:
    """What the reduced world has for it: silence before it is a choice of its own there."""
    yield (choice,)
    if choice.kind == "restart":
        yield (choice._replace(kind="restart later"),)
        yield (Choice("restart later", "at once"), choice)
    if choice.kind == "clock set":
        yield (choice._replace(how="later"),)
    if choice.how == "unsent":
        yield (choice._replace(how="unsent, of many"),)


def follows(reduced: World, choice: Choice, target: World) -> bool:
    for before in older(reduced):
        for way in ways(choice):
            world = before
            try:
                for one in way:
                    world = canonical(happen(world, one).world)
            except Impossible:
                if choice.kind != "late":
                    continue
            if world == target or (world.snapshot.state is target.snapshot.state and near(world, target)):
                return True
    return False


def near(world: World, target: World) -> bool:
    """Few things have to grow older between the two."""
    return any(one == target for one, _ in zip(older(world), range(200), strict=False))


def beyond_the_model(world: World) -> bool:
    floor = world.snapshot.clock.floor_unix_ms
    return len(world.snapshot.superseded) > SUPERSEDED or BUILD < floor < world.now - QUIET


def looks_back(before: World, after: World) -> bool:
    """The best known time went back, so that what was old may be young again, or not: the model takes one."""
    was = before.stamp + before.snapshot.clock.correction_ms
    return after.stamp + after.snapshot.clock.correction_ms < was - 1_000


def pick(world: World, chance: random.Random) -> Choice:
    every = [*common(world), *rare(world)]
    nice = [
        one
        for one in every
        if (one.kind == "answer" and one.how in ("ok", "accepted", "assigned"))
        or (one.kind == "deadline" and one.what in ("phase", "attempt", "window"))
    ]
    return chance.choice(nice if nice and chance.random() < 0.6 else every)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_a_reduced_world_does_what_the_real_one_does(first):
    compared = 0
    for seed in range(first, first + 10):
        chance = random.Random(seed)
        world = happen(World(), Choice("first start", "right")).world
        for _ in range(STEPS):
            choice = pick(world, chance)
            waited = structs.replace(world, now=world.now + chance.choice(WAITS_MS))
            if beyond_the_model(waited):
                break
            reduced, before = canonical(waited), canonical(world)
            assert reduced == before or same_sooner_or_later(before, reduced), (seed, choice)
            try:
                after = happen(waited, choice).world
            except Impossible:
                world = waited
                continue
            if not looks_back(waited, after):
                assert follows(reduced, choice, canonical(after)), (seed, choice)
                compared += 1
            world = after
    assert compared > 150


def test_a_reduced_world_stands_for_itself_and_survives_as_bytes():
    chance = random.Random(7)
    for _ in range(20):
        world = happen(World(), Choice("first start", "right")).world
        for _ in range(STEPS):
            try:
                world = happen(world, pick(world, chance)).world
            except Impossible:
                continue
            reduced = canonical(world)
            assert canonical(reduced) == reduced
            assert canonical(reduced, reduced) == reduced
            assert unpack(pack(reduced)) == reduced


def test_what_is_taken_over_from_the_world_before_is_as_if_it_were_reduced_anew():
    """Whatever may happen next, at every step of walks through reduced worlds."""
    chance = random.Random(3)
    compared = 0
    for _ in range(12):
        world = canonical(happen(World(), Choice("first start", "right")).world)
        for _ in range(STEPS):
            nexts = [(choice, happen(world, choice).world) for choice in (*common(world), *rare(world))]
            for choice, after in nexts:
                assert canonical(after, world) == canonical(after), choice
            compared += len(nexts)
            aged = [one for _, one in passings(world)]
            assert [canonical(one) for one in aged] == aged
            picked = canonical(dict(nexts)[pick(world, chance)])
            world = chance.choice(aged) if aged and chance.random() < 0.3 else picked
    assert compared > 10_000


READERS = ("guards", "judge", "absorb", "actions", "attempt_actions", "machine", "invariants", "environment")


def test_every_dimension_is_read_by_a_decision_or_an_invariant():
    """What varies between reduced worlds and is read by nobody would only multiply them.

    The policy is one dimension: which of the six configurations it is.
    """
    part = search(1, most=300)
    part.next_level()
    part.run(300)
    seen: dict[str, set[bytes]] = {}
    for _, packed in part._todo:
        snapshot = unpack(packed).snapshot
        parts = [getattr(snapshot, name) for name in snapshot.__struct_fields__ if name != "policy"]
        for holder in (snapshot, *parts):
            for name in getattr(holder, "__struct_fields__", ()):
                value = encode(getattr(holder, name))
                seen.setdefault(f"{type(holder).__name__}.{name}", set()).add(value)
    varying = {name.partition(".")[2] for name, values in seen.items() if len(values) > 1}
    assert len(varying) > 40
    folder = Path(table.__file__).parent
    read = {
        node.attr
        for name in READERS
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert varying - read == set()


def aged(world: World, what: str, times: int) -> World:
    for _ in range(times):
        world = dict(passings(world))[Choice("passes", what)]
    return world


def names(world: World) -> set[str]:
    return {choice.what for choice, _ in passings(world)}


def flipped_behind_its_back() -> World:
    """A second certificate is being made current when the configuration loses its source."""
    ways = (
        Choice("first start", "right"),
        *(
            Choice("answer", kind, how)
            for kind, how in (("StageKey", "ok"), ("SubmitRegistration", "accepted"))
        ),
        Choice("deadline", "phase"),
        *(
            Choice("answer", kind, how)
            for kind, how in (
                ("PollRegistration", "assigned"),
                ("ProveCredential", "ok"),
                ("CommitCredential", "ok"),
                ("RetireCredential", "ok"),
            )
        ),
        Choice("renew"),
        *(
            Choice("answer", kind, how)
            for kind, how in (("StageKey", "ok"), ("SubmitRegistration", "accepted"))
        ),
        Choice("deadline", "phase"),
        Choice("answer", "PollRegistration", "assigned"),
        Choice("answer", "ProveCredential", "ok"),
        Choice("configured", "none"),
    )
    world = World()
    for choice in ways:
        world = happen(world, choice).world
    return canonical(world)


def test_a_life_that_ended_grows_no_older():
    """The credential in use, the one that the store holds, and the one that is made current late."""
    late = flipped_behind_its_back()
    assert {"life", "late"} <= names(late)
    assert "late" not in names(aged(late, "late", 3))
    stored = canonical(happen(late, Choice("late")).world)
    assert stored.disk.current.generation != stored.snapshot.credential.generation
    assert {"life", "stored"} <= names(stored)
    assert "stored" not in names(aged(stored, "stored", 3))
    older = aged(stored, "life", 3)
    assert "life" not in names(older)
    assert older.disk == stored.disk
