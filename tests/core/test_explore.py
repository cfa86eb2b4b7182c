"""The explorer: what it claims of the real tables, and that it finds what is broken on purpose."""

from array import array
from dataclasses import replace

import pytest
from msgspec import structs

from statemachine import attempt, explore, machine, table
from statemachine.counterexample import journal_of, relive, shortest
from statemachine.effects import CommitCredential, RetireCredential, StageKey
from statemachine.environment import (
    CONFIGURATIONS,
    NOW,
    Choice,
    Disk,
    Impossible,
    Late,
    World,
    common,
    happen,
    rare,
)
from statemachine.explore import LIVENESS, NOBODY, WORLD_LAWS, Graph, Offer, Part, path, search, traps
from statemachine.machine import build
from statemachine.reduction import canonical, pack, passings
from statemachine.replay import replay_files
from statemachine.settings import PolicySettings
from statemachine.snapshot import StagedKey, Superseded
from statemachine.states import Phase, State

HAPPY = (
    Choice("first start", "right"),
    Choice("answer", "StageKey", "ok"),
    Choice("answer", "SubmitRegistration", "accepted"),
    Choice("deadline", "phase"),
    Choice("answer", "PollRegistration", "assigned"),
    Choice("answer", "ProveCredential", "ok"),
    Choice("answer", "CommitCredential", "ok"),
    Choice("answer", "RetireCredential", "ok"),
)


def lived(*choices):
    world = World()
    for choice in choices:
        world = happen(world, choice).world
    return world


# --- the real tables ------------------------------------------------------------------------------------


def test_nothing_is_wrong_near_the_beginning():
    part = search(1, most=700)
    assert part.found == []
    facts = part.facts()
    assert facts.worlds > 700
    assert facts.steps > 20_000
    assert len(facts.rows) > 80


def test_two_parts_find_what_one_does():
    """A few rounds of both, against the one; what they hand over is taken in once."""
    alone = Part(surprises=0)
    alone.begin()
    alone.run(400)
    parts = [Part(surprises=0, index=index, parts=2) for index in (0, 1)]
    parts[0].begin()
    for _ in range(40):
        for part in parts:
            part.run(20)
        boxes = [part.hand_over() for part in parts]
        for target, part in enumerate(parts):
            for box in boxes:
                part.take(box[target])
    digests = [set(part.graph().digests) for part in parts]
    assert not digests[0] & digests[1]
    near = set(alone.graph().digests[:150])
    assert near <= digests[0] | digests[1]

    def origin(number):
        return parts[number % 2].origin(number)

    number = parts[1].index + 2 * 5
    way = path(origin, number)
    assert way[0].kind == "first start"
    world = World()
    for choice in way:
        before = canonical(world) if world.snapshot.sequence else world
        if choice.kind == "passes":
            world = dict(passings(before))[choice]
        else:
            world = canonical(happen(before, choice).world)
    assert explore.digest_of(pack(world)) == parts[1].graph().digests[5]


def test_a_level_is_closed_before_the_next_begins():
    part = Part(surprises=1)
    part.begin()
    part.run(30)
    assert (part.condition, part.level) == ("busy", 0)
    first = len(part)
    part.next_level()
    assert part.level == 1
    assert len(part) > first
    assert part.facts().by_surprises[1] == len(part) - first


def test_offers_of_a_later_level_wait():
    world = canonical(lived(HAPPY[0]))
    packed = pack(world)
    offer = Offer(explore.digest_of(packed), packed, 1, NOBODY, HAPPY[0])
    part = Part(surprises=1)
    part.take([offer, offer])
    assert len(part) == 0
    part.next_level()
    part.take([offer])
    assert len(part) == 1
    assert part.origin(0) == (NOBODY, HAPPY[0])


# --- what is broken on purpose ----------------------------------------------------------------------------


def rebuilt(monkeypatch, *, lifecycle=table.ROWS, of_attempt=attempt.ROWS):
    compiled = build(Phase, of_attempt, (), initial=Phase.IDLE, attribute="phase")
    monkeypatch.setattr(machine, "ATTEMPT", compiled)
    whole = build(State, lifecycle, table.IGNORED, initial=State.UNPROVISIONED, attribute="state")
    monkeypatch.setattr(machine, "LIFECYCLE", whole)


def nothing(work):
    pass


def with_action(rows, why, action):
    changed = tuple(replace(row, action=action) if row.why.startswith(why) else row for row in rows)
    assert changed != rows, why
    return changed


def test_a_lost_deadline_is_found_and_told_as_a_journal(monkeypatch):
    """An attempt that fails and arms nothing: the shortest way there replays."""
    broken = with_action(table.ROWS, "The registration failed; another follows", nothing)
    rebuilt(monkeypatch, lifecycle=broken)
    part = search(1, most=400)
    found = part.found[0]
    assert found.law in ("goes_on", "help_is_asked_for_or_something_waits")
    way = path(part.origin, found.world)

    def breaks(end):
        return found.law in end.broken

    assert breaks(relive(way))
    few = shortest(way, breaks)
    assert len(few) <= len(way)
    assert [choice.kind for choice in few] == ["first start", "deadline"]
    content = journal_of(relive(few).records)
    outcome = replay_files([("way.jsonl", content)])
    assert outcome.equal
    assert outcome.records == len(few)


def test_a_credential_given_up_unproven_is_found(monkeypatch):
    broken = tuple(
        row for row in attempt.ROWS if not row.why.startswith("The hub cannot be asked, and the credential")
    )
    rebuilt(monkeypatch, of_attempt=broken)
    world = lived(*HAPPY)
    part = Part(surprises=1)
    part.take([Offer(explore.digest_of(pack(canonical(world))), pack(canonical(world)), 0, NOBODY, HAPPY[0])])
    part.run(1_500)
    while part.condition == "idle" and part.level < 1:
        part.next_level()
        part.run(1_500)
    assert part.condition == "found"
    assert {found.law for found in part.found} == {"nothing_works_is_given_up_unproven"}


def test_a_trap_is_found():
    """From 2 no good step leads to 0 or to 1, where a person has to act."""
    digests = tuple(bytes([number]) * explore.DIGEST_BYTES for number in range(5))
    graph = Graph(
        array("Q", [3, 4, 2, 4]),
        digests[0] + digests[1] + digests[2] + digests[3],
        array("Q", [0]),
        array("Q", [1]),
        digests,
    )
    assert traps([graph]) == (2,)
    assert LIVENESS


# --- laws of worlds ---------------------------------------------------------------------------------------


def provisioned():
    return lived(*HAPPY)


def law(name):
    return next(one for one in WORLD_LAWS if one.__name__ == name)


def with_snapshot(world, **fields):
    return structs.replace(world, snapshot=structs.replace(world.snapshot, **fields))


def test_every_law_of_worlds_holds_of_a_good_one():
    for one in WORLD_LAWS:
        assert one(provisioned()) is None


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("a_usable_pair_is_on_disk", lambda good: structs.replace(good, disk=Disk(good.disk.current))),
        ("what_is_in_use_is_on_disk", lambda good: structs.replace(good, disk=Disk(good.disk.current, (9,)))),
        (
            "what_waits_is_on_disk",
            lambda good: with_snapshot(
                good,
                staged=StagedKey(generation=7, spki_sha256="k7", algorithm="ec-p256", common_name="device-1"),
            ),
        ),
        (
            "superseded_keys_stay",
            lambda good: with_snapshot(
                good, superseded=(Superseded(generation=7, keep_until_unix_ms=good.now + 1),)
            ),
        ),
        ("help_is_asked_for_or_something_waits", lambda good: with_snapshot(good, armed=(), outstanding=())),
    ],
)
def test_a_law_of_worlds_finds_its_violation(name, broken):
    assert law(name)(broken(provisioned())) is not None


@pytest.mark.parametrize(
    "excuse",
    [
        {"hold": True},
        {"stopping": True},
        {"policy": PolicySettings(dps=False)},
        {"policy": CONFIGURATIONS["manual"][0]},
        {"foreign_machine": True},
    ],
)
def test_nobody_is_asked_for_help_where_none_is_needed(excuse):
    world = with_snapshot(provisioned(), armed=(), outstanding=(), **excuse)
    assert law("help_is_asked_for_or_something_waits")(world) is None


def test_a_superseded_key_may_go_when_its_certificate_has_ended():
    ended = with_snapshot(provisioned(), superseded=(Superseded(generation=7, keep_until_unix_ms=NOW - 1),))
    assert law("superseded_keys_stay")(ended) is None


# --- the world --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        Choice("answer", "CommitCredential", "ok"),
        Choice("deadline", "window"),
        Choice("late"),
        Choice("refused by the hub", "often"),
        Choice("no such thing"),
    ],
)
def test_what_cannot_happen_is_told(choice):
    with pytest.raises(Impossible):
        happen(lived(HAPPY[0]), choice)


def test_every_choice_that_is_offered_can_be_made():
    """Along a whole life, and of the reduced worlds in it."""
    world = World()
    for step in (*HAPPY, Choice("clock set", "behind"), Choice("hold"), Choice("configured", "none")):
        for one in (world, canonical(world)) if world.snapshot.sequence else (world,):
            for choice in (*common(one), *rare(one)):
                happen(one, choice)
        world = happen(world, step).world


def test_a_late_commit_flips_behind_the_machines_back():
    """The configuration loses its source while the store is at it."""
    world = lived(*HAPPY[:6], Choice("configured", "none"))
    assert isinstance(world.late.effect, CommitCredential)
    after = happen(world, Choice("late")).world
    assert after.disk.current.generation == 1
    assert after.snapshot.credential is None
    assert after.late is None


def test_a_late_retirement_touches_nothing_that_was_staged_since():
    late = Late(RetireCredential(keep=(1,), newest=1))
    world = structs.replace(provisioned(), disk=Disk(provisioned().disk.current, (1, 2)), late=late)
    assert happen(world, Choice("late")).world.disk.keys == (1, 2)
    unbounded = structs.replace(world, late=Late(RetireCredential(keep=(1,))))
    assert happen(unbounded, Choice("late")).world.disk.keys == (1,)


def test_a_late_staging_makes_its_key():
    effect = StageKey(generation=4, algorithm="ec-p256", common_name="device-1")
    world = structs.replace(provisioned(), late=Late(effect))
    assert happen(world, Choice("late")).world.disk.keys == (1, 4)
