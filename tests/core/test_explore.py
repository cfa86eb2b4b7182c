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
    SORTS,
    Choice,
    Disk,
    Impossible,
    Late,
    World,
    common,
    happen,
    rare,
    sort_of,
    staged,
)
from statemachine.explore import (
    LIVENESS,
    NOBODY,
    POSITIONS,
    WORLD_LAWS,
    Graph,
    Offer,
    Part,
    good,
    path,
    search,
    split,
    traps,
)
from statemachine.invariants import positions
from statemachine.machine import build
from statemachine.reduction import canonical, pack, passings, unpack
from statemachine.replay import replay_files
from statemachine.rows import EVENT_KEYS
from statemachine.settings import PolicySettings
from statemachine.snapshot import Attempt, Budget, Purge, Snapshot, StagedKey, Superseded
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
    digests = [set(split(part.graph().digests)) for part in parts]
    assert not digests[0] & digests[1]
    near = set(list(split(alone.graph().digests))[:150])
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
    assert explore.digest_of(pack(world)) == list(split(parts[1].graph().digests))[5]


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


@pytest.mark.parametrize("sort", SORTS)
def test_only_surprises_of_the_sorts_asked_for_are_followed(sort):
    part = Part(surprises=1, sorts=[sort])
    part.begin()
    part.run(200)
    assert {sort_of(offer.choice) for offer in part._later.values()} == {sort}


def test_whatever_may_surprise_has_a_sort():
    part = Part(surprises=1)
    part.begin()
    part.run(200)
    assert {sort_of(offer.choice) for offer in part._later.values()} == set(SORTS)
    # What happened so far was one surprise, so whatever may come next is another.
    part.next_level()
    assert {sort_of(one) for _, packed in part._todo for one in rare(unpack(packed))} == set(SORTS)


def test_offers_of_a_later_level_wait():
    world = canonical(lived(HAPPY[0]))
    packed = pack(world)
    offer = Offer(explore.digest_of(packed), packed, 1, NOBODY, HAPPY[0])
    part = Part(surprises=1)
    part.take([offer, offer])
    assert len(part) == 0
    part.next_level()
    part.take([offer])
    assert not any(unpack(packed).snapshot.hold for _, packed in part._todo)
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
    longer = (few[0], Choice("passes", "budget"), Choice("clock confirmed"), *few[1:])
    assert shortest(longer, breaks) == few
    content = journal_of(relive(few))
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
        b"".join(digests),
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
        Choice("stale", "no such thing"),
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


def test_a_store_that_lost_the_key_it_should_copy_says_so():
    effect = StageKey(generation=4, algorithm="ec-p256", common_name="device-1", reuse_generation=3)
    world = structs.replace(provisioned(), late=Late(effect))
    assert happen(world, Choice("late")).world.disk.keys == (1,)
    assert staged(Disk(keys=(3,)), effect).keys == (3, 4)
    assert staged(Disk(keys=(4,)), effect).keys == (4,)


@pytest.mark.parametrize("how", ["ok", "retry"])
def test_the_answer_of_a_retirement(how):
    world = lived(*HAPPY[:7])
    after = happen(world, Choice("answer", "RetireCredential", how)).world
    assert after.snapshot.state is State.PROVISIONED


def test_a_push_of_module_keys_is_answered_aside():
    world = happen(provisioned(), Choice("module keys asked for")).world
    after = happen(world, Choice("answer", "PushModuleKeys", "ok")).world
    assert after.snapshot.outstanding == ()
    assert canonical(world).snapshot.outstanding == ()


def test_all_that_was_asked_may_be_done_when_the_kill_comes():
    for count in (1, 6, 7):
        after = happen(lived(*HAPPY[:count]), Choice("restart", "effects done")).world
        assert after.disk.keys == (1,)


def test_what_was_asked_of_others_is_not_done_by_a_kill():
    before = lived(*HAPPY[:5])
    assert happen(before, Choice("restart", "effects done")).world.disk == before.disk


def test_one_refusal_stands_for_all_but_the_last():
    world = happen(provisioned(), Choice("refused by the hub")).world
    after = happen(world, Choice("refused by the hub", "often")).world
    assert after.snapshot.refusals.count == 3


def test_a_search_ends_when_the_last_level_is_closed(monkeypatch):
    """A world in which nothing happens after the first start."""
    monkeypatch.setattr(explore, "common", lambda world: HAPPY[:1] if not world.snapshot.sequence else ())
    monkeypatch.setattr(explore, "rare", lambda world: ())
    monkeypatch.setattr(explore, "passings", lambda world: ())
    part = search(2)
    assert (len(part), part.level, part.condition) == (1, 2, "idle")


def test_work_that_ends_late_tells_the_machine_nothing():
    world = canonical(lived(*HAPPY[:6], Choice("configured", "none")))
    part = Part(surprises=0)
    part.take([Offer(explore.digest_of(pack(world)), pack(world), 0, NOBODY, HAPPY[0])])
    part.run(1)
    assert part.steps >= 1
    assert part.found == []


def test_what_is_changed_aside_is_found(monkeypatch):
    broken = with_action(table.ROWS, "From here on another revision", forget)
    rebuilt(monkeypatch, lifecycle=broken)
    part = search(1, most=1)
    assert "aside" in {found.law for found in part.found}


def forget(work):
    work.change(hold=True)


def test_a_law_of_a_state_and_of_a_step_are_both_reported(monkeypatch):
    monkeypatch.setattr(explore, "STATE_LAWS", (always_wrong,))
    monkeypatch.setattr(explore, "STEP_LAWS", (never_right,))
    part = search(0, most=5)
    assert {found.law for found in part.found} == {"always_wrong", "never_right"}
    assert part.facts().found == tuple(part.found[: explore.MOST_FOUND])
    assert part.condition == "found"


def always_wrong(after):
    return "wrong"


def never_right(before, stamp, event, decision):
    return "wrong"


def test_what_good_runs_are_made_of():
    assert good(Choice("answer", "PollRegistration", "assigned"))
    assert not good(Choice("answer", "PollRegistration", "retry"))
    assert not good(Choice("deadline", "timeout"))
    assert good(Choice("deadline", "window"))
    assert good(Choice("passes", "life"))
    assert not good(Choice("passes", "operation"))
    assert good(Choice("release"))
    assert good(Choice("clock set", "right"))
    assert not good(Choice("clock set", "behind"))
    assert not good(Choice("renew"))


# --- counterexamples -------------------------------------------------------------------------------------


UNPROVEN = (*HAPPY[:5], Choice("answer", "ProveCredential", "unreachable"), *HAPPY[6:])


@pytest.mark.parametrize(
    ("way", "what"),
    [
        (HAPPY, "life"),
        ((*HAPPY, Choice("lost")), "stored"),
        ((*HAPPY[:6], Choice("restart", "effects done")), "stored"),
        (HAPPY[:5], "candidate"),
        ((*HAPPY[:6], Choice("configured", "none")), "late"),
        (HAPPY[:4], "operation"),
        (HAPPY[:2], "budget"),
        (HAPPY, "budget"),
        (HAPPY, "superseded"),
        ((*HAPPY, Choice("renew"), *HAPPY[1:7]), "superseded"),
        ((*HAPPY[:2], Choice("answer", "SubmitRegistration", "retry")), "attempt"),
        (HAPPY[:1], "life"),
        (HAPPY[:1], "nothing"),
        ((*HAPPY, *(Choice("passes", "life"),) * 4), "life"),
    ],
)
def test_time_passes_as_far_as_it_must(way, what):
    """What a reduced world calls older takes that long in one that is not reduced."""
    before = relive(way).world
    after = relive((*way, Choice("passes", what))).world
    reduced = dict(passings(canonical(before)))
    aged = reduced.get(Choice("passes", what))
    if aged is None:
        assert canonical(after) == canonical(before)
    else:
        assert after.now > before.now
        assert all(part_of_it(canonical(after), name) == part_of_it(aged, name) for name in CHANGED[what])


def part_of_it(world, name):
    value = world
    for step in name.split("."):
        value = getattr(value, step)
    return value


CHANGED = {
    "life": ("snapshot.credential.not_after_unix_ms", "disk.current"),
    "stored": ("disk.current",),
    "candidate": ("snapshot.candidate.chain",),
    "late": ("late.stored.not_after_unix_ms",),
    "operation": ("snapshot.attempt.operation_unix_ms",),
    "budget": ("snapshot.budget",),
    "attempt": ("snapshot.armed",),
    "superseded": ("snapshot.superseded",),
}


@pytest.mark.parametrize(
    "choice",
    [
        Choice("restart later", "at once"),
        Choice("clock set", "behind", "later"),
        Choice("refused by the hub", "often"),
    ],
)
def test_what_reduced_worlds_do_at_once_takes_time(choice):
    lived_again = relive((*HAPPY, choice))
    assert lived_again.world.now > relive(HAPPY).world.now + 60_000
    assert replay_files([("way", journal_of(lived_again))]).equal
    assert lived_again.broken == frozenset()


def test_what_is_impossible_is_passed_over():
    assert relive((HAPPY[0], Choice("late"), Choice("answer", "CommitCredential", "ok"))).records == (
        relive(HAPPY[:1]).records
    )
    late = relive((*HAPPY[:6], Choice("configured", "none"), Choice("late")))
    assert late.world.disk.current.generation == 1


# --- beyond what is followed -------------------------------------------------------------------------------


def alone_in(world, *, surprises=0):
    """A part that knows this one world."""
    part = Part(surprises=surprises)
    reduced = canonical(world)
    part.take([Offer(explore.digest_of(pack(reduced)), pack(reduced), 0, NOBODY, HAPPY[0])])
    return part


def test_every_position_meets_every_event():
    """Without a surprise that is followed: what may come once more is looked at in every situation."""
    part = search(0)
    assert part.condition == "idle"
    assert part.facts().visited == {(*position, key) for position in POSITIONS for key in EVENT_KEYS}


def test_positions_are_those_that_the_invariant_allows():
    assert len(POSITIONS) == len(set(POSITIONS)) == 22
    for state, phase in ((state, phase) for state in State for phase in Phase):
        attempt = None if phase is Phase.IDLE else Attempt(number=1, fingerprint="f1", started_unix_ms=0)
        place = Snapshot(state=state, phase=phase, attempt=attempt)
        wrong = positions(place)
        possible = wrong is None or wrong.startswith("no credential")
        assert ((state, phase) in POSITIONS) == possible


def test_one_surprise_more_is_looked_at_and_what_commonly_follows(monkeypatch):
    """A release that arms nothing: it follows what held, which is a surprise too many to be followed."""
    broken = with_action(table.ROWS, "Attempts may begin, or not, from now on", hold_and_forget)
    rebuilt(monkeypatch, lifecycle=broken)
    world = lived(*HAPPY[:2], Choice("answer", "SubmitRegistration", "retry"))
    part = alone_in(world)
    part.run(1)
    ways = {found.way for found in part.found if found.law == "goes_on"}
    assert any(len(way) > 1 and way[-1] == Choice("release") for way in ways)
    assert not any(unpack(packed).snapshot.hold for _, packed in part._todo)


def hold_and_forget(work):
    work.disarm("attempt")


def test_another_part_is_told_once_of_its_worlds():
    part = Part(surprises=1, index=0, parts=2)
    part.begin()
    part.run(200)
    told = [offer.digest for box in part.outbox for offer in box]
    assert len(told) > 50
    worse = {offer.digest for box in part.outbox for offer in box if offer.surprises == 1}
    twice = {digest for digest in told if told.count(digest) > 1}
    assert twice <= worse


@pytest.mark.parametrize(
    ("choice", "state", "generation"),
    [
        (Choice("restart", "journal lost"), State.PROVISIONED, 1),
        (Choice("restart", "journal lost", "another scope"), State.REPROVISIONING, 1),
        (Choice("restart", "another store", "early"), State.PROVISIONED, 2),
        (Choice("restart", "another store", "in its window"), State.CERT_EXPIRING, 2),
    ],
)
def test_what_the_stores_hold_wins(choice, state, generation):
    after = happen(provisioned(), choice).world
    assert (after.snapshot.state, after.snapshot.credential.generation) == (state, generation)
    again = relive((*HAPPY, choice))
    assert again.world.snapshot.state is state
    assert again.broken == frozenset()
    assert replay_files([("way", journal_of(again))]).equal


def test_a_lost_journal_begins_another_epoch():
    again = relive((*HAPPY, Choice("restart", "journal lost"), Choice("renew")))
    assert again.world.snapshot.epoch == 2
    assert [record.sequence for record in again.records] == [1, 2]


def test_there_is_no_other_store_where_there_was_none():
    with pytest.raises(Impossible):
        happen(lived(HAPPY[0]), Choice("restart", "another store", "early"))


def test_a_device_that_is_given_up_has_nothing_left():
    purged = lived(*HAPPY, Choice("purge"), Choice("answer", "PurgeCredentials", "ok"))
    assert (purged.disk, purged.snapshot.purge) == (Disk(), None)
    kept = lived(*HAPPY, Choice("purge"), Choice("answer", "PurgeCredentials", "retry"))
    assert kept.disk.keys == (1,)
    assert canonical(kept).snapshot.purge == Purge()
    killed = lived(*HAPPY, Choice("purge"), Choice("restart", "effects done"))
    assert killed.disk == Disk()


def test_an_erasure_comes_after_what_was_begun_before_it():
    """The flip that was under way is done when the erasure is, and gone with it."""
    world = lived(*HAPPY[:6], Choice("purge"))
    assert isinstance(world.late.effect, CommitCredential)
    assert happen(world, Choice("answer", "PurgeCredentials", "ok")).world.late is None


def test_a_budget_that_is_spent_stands_for_one_that_is_spent_more_than_once():
    world = lived(*HAPPY[:2])
    once = happen(world, Choice("answer", "SubmitRegistration", "unsent")).world
    assert once.snapshot.budget.spent == 0
    many = happen(world, Choice("answer", "SubmitRegistration", "unsent, of many")).world
    assert many.snapshot.budget.spent == 1
    again = relive((*HAPPY[:2], Choice("answer", "SubmitRegistration", "unsent, of many")))
    assert again.records[-1].event.unsent
    assert again.world.snapshot.budget.spent == 0
    fresh = with_snapshot(world, budget=Budget())
    with pytest.raises(Impossible):
        happen(fresh, Choice("answer", "SubmitRegistration", "unsent, of many"))


def test_one_refused_proof_stands_for_many_where_nobody_knows_the_time():
    asked = (*HAPPY, Choice("restart", "clock", "behind"), Choice("deadline", "prove"))
    often = Choice("answer", "ProveCredential", "alert, often")
    assert often in tuple(rare(lived(*asked)))
    after = happen(lived(*asked), often).world
    assert after.snapshot.refusals.count == 0
    assert after.snapshot.state is State.REPROVISIONING
    again = relive((*asked, often))
    assert again.broken == frozenset()
    assert replay_files([("way", journal_of(again))]).equal


@pytest.mark.parametrize(
    "choice",
    [
        Choice("stale", "deadline", "window"),
        Choice("stale", "early"),
        Choice("stale", "loss"),
        Choice("lost already"),
    ],
)
def test_what_may_come_too_late_is_impossible_where_it_would_be_in_time(choice):
    at_rest = provisioned()
    nowhere = lived(*HAPPY[:2], Choice("answer", "SubmitRegistration", "retry"))
    possible = {"stale": nowhere, "lost already": nowhere}
    impossible = {"stale": at_rest, "lost already": at_rest}
    if choice.what in ("early", "loss"):
        possible, impossible = impossible, possible
    world = possible[choice.kind]
    assert canonical(happen(world, choice).world) == canonical(world)
    with pytest.raises(Impossible):
        happen(impossible[choice.kind], choice)
