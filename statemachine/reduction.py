"""Worlds that no decision can tell apart are one world: the reductions under which the model is finite.

Each is checked against walks that are not reduced (tests/core/test_reduction.py).

- *Names.* Sequence numbers, effect ids, attempt numbers, texts, tracking ids, operation ids and hashes are
  only compared for being equal. They are written anew; generations keep their order.
- *Time.* Only differences of instants matter, so true time stands still at ``NOW``. Of each instant no
  more is kept than on which side of the one threshold it is compared with now lies: young or old, ahead
  or past. A certificate's life has four parts, with the window's opening, the last tenth and the end
  between them. ``passings`` lists what may grow older; each may at any moment, without the others. Real
  time is less free, so more is explored than can happen. The one exception: where the best known time goes
  back, what was old is young again here, while in truth it may stay old.
- *Counters.* Refusals saturate at three, the budget at its bound, superseded generations at one, failures
  at none: they only lengthen delays, and a delay may end at any moment here anyway.
- *What no decision reads* is left out: what was measured or told for people.
- *Module keys* are nobody else's business (invariants.py), and left out.
"""

from collections.abc import Callable, Iterator
from operator import eq
from typing import TypeVar

import msgspec
from msgspec import Struct, structs

from statemachine import policy as rules
from statemachine.effects import (
    AnyEffect,
    CommitCredential,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.environment import (
    AGE_MS,
    BUILD,
    BUNDLES,
    CONFIGURATIONS,
    ERRORS,
    LIFE_MS,
    NOW,
    Choice,
    Disk,
    Late,
    World,
    retired,
)
from statemachine.events import ChainFacts, StoredCredential
from statemachine.policy import DAY_MS
from statemachine.settings import PolicySettings
from statemachine.snapshot import (
    Armed,
    Assignment,
    Attempt,
    Budget,
    Candidate,
    ClockTrust,
    Credential,
    Ended,
    Outstanding,
    Problem,
    Purge,
    Refusals,
    Snapshot,
    StagedKey,
    Superseded,
)
from statemachine.states import Phase, Timer

PARTS: tuple[int, ...] = (AGE_MS, 75 * DAY_MS, 95 * DAY_MS, 101 * DAY_MS)
"Ages that stand for the parts of a certificate's life: early, window open, last tenth, ended."
_MARKS = (70, 90, 100)
"Where a part ends, in percent of the life: opening, last tenth, end."

SUPERSEDED = 1
FAR_MS = 3_000 * DAY_MS
DELAY_MS = 1_000
_AHEAD_MS = 40 * DAY_MS
_FLOOR_AGE_MS = 200 * DAY_MS
_BEHIND = (0, -1_000, -35 * DAY_MS)
_WRONG = (*_BEHIND[1:], ERRORS["behind"], ERRORS["ahead"], BUILD - NOW)
"How far the best known time may be from the true one, where it is not right."

E = TypeVar("E", bound=AnyEffect)


def canonical(world: World, before: World | None = None) -> World:
    """The one world that stands for all that are like it. A canonical world stands for itself.

    ``before``: a canonical world; what both hold is taken over as it is.
    """
    snapshot, disk = world.snapshot, world.disk
    believed = world.stamp + snapshot.clock.correction_ms
    same_clock = (
        before is not None
        and snapshot.clock is before.snapshot.clock
        and world.now == NOW
        and world.error == before.error
    )
    clock = snapshot.clock if same_clock else _clock(world, believed)
    seen = _Seen(world.now, believed, NOW + world.error + clock.correction_ms)
    numbers = _numbers(snapshot, disk, world.late)
    late = None if world.late is None else _late(world, numbers)
    old = _NOTHING
    if before is not None and world.now == NOW and seen.believed == seen.reduced:
        was = before.snapshot
        same_time = before.stamp + was.clock.correction_ms == believed
        same_names = len(numbers) == was.newest_generation and all(map(eq, numbers, numbers.values()))
        if same_time and same_names:
            old = was
    same_bundle = _held(snapshot) == _held(old)
    credential = (
        old.credential
        if snapshot.credential is old.credential
        else _credential(snapshot.credential, seen, numbers)
    )
    reduced = Snapshot(
        sequence=1,
        state=snapshot.state,
        phase=snapshot.phase,
        last_unix_ms=NOW + world.error,
        rules_revision=snapshot.rules_revision,
        policy=snapshot.policy,
        fingerprint=snapshot.fingerprint,
        attempt=old.attempt
        if snapshot.attempt is old.attempt and snapshot.phase is old.phase
        else _attempt(snapshot, seen),
        ended=old.ended if snapshot.ended is old.ended else _ended(snapshot.ended),
        staged=old.staged if snapshot.staged is old.staged else _staged(snapshot.staged, numbers),
        candidate=old.candidate
        if snapshot.candidate is old.candidate and snapshot.phase is old.phase and same_bundle
        else _candidate(snapshot, seen, numbers),
        assignment=old.assignment
        if snapshot.assignment is old.assignment
        else _assignment(snapshot.assignment),
        credential=credential,
        bundle=None if snapshot.bundle is None else structs.replace(snapshot.bundle, sha256="b1"),
        superseded=old.superseded
        if snapshot.superseded is old.superseded
        else _superseded(snapshot.superseded, seen, numbers),
        newest_generation=len(numbers),
        armed=old.armed
        if snapshot.armed is old.armed and credential is old.credential
        else _armed(snapshot, credential, seen),
        outstanding=old.outstanding
        if snapshot.outstanding is old.outstanding
        else _outstanding(snapshot.outstanding, numbers),
        budget=old.budget
        if snapshot.budget is old.budget and snapshot.policy == old.policy
        else _budget(snapshot, seen),
        clock=clock,
        refusals=old.refusals if snapshot.refusals is old.refusals else _refusals(snapshot.refusals, seen),
        reprovisioned_unix_ms=seen.age(snapshot.reprovisioned_unix_ms, rules.REPEAT_MS),
        hold=snapshot.hold,
        purge=None if snapshot.purge is None else Purge(),
        foreign_machine=snapshot.foreign_machine,
        stopping=snapshot.stopping,
    )
    if old is not _NOTHING and before is not None and disk is before.disk and same_bundle:
        kept = disk
    else:
        current = disk.current
        kept = Disk(
            None if current is None else _stored(current, snapshot, seen, numbers),
            _kept(disk.keys, numbers),
            _kept(disk.taken, numbers),
        )
    return World(
        snapshot=reduced,
        disk=kept,
        now=NOW,
        error=world.error,
        late=None
        if late is None
        else Late(
            _effect(late.effect, numbers),
            None if late.stored is None else _stored(late.stored, snapshot, seen, numbers),
        ),
    )


def _held(snapshot: Snapshot) -> str:
    """Against it other bundles are told apart."""
    return "" if snapshot.bundle is None else snapshot.bundle.sha256


_NOTHING = Snapshot(refusals=Refusals(count=-1), budget=Budget(spent=-1))
"Shares nothing with any snapshot but what is empty in both."


def _late(world: World, numbers: dict[int, int]) -> Late | None:
    """What would change nothing any more is left out; a key that nobody will ask for is nothing."""
    late, disk = world.late, world.disk
    match late:
        case Late(effect=CommitCredential(generation=generation)):
            lost = late.stored is None or (late.stored.source == "issued" and generation not in disk.keys)
            return None if lost else late
        case Late(effect=RetireCredential() as effect):
            left = retired(disk, effect).keys
            return late if any(one in numbers and one not in left for one in disk.keys) else None
    return None


class _Seen:
    """The same moment in both worlds: true time, and what the machine believes it to be."""

    __slots__ = ("believed", "reduced", "true")

    def __init__(self, true: int, believed: int, reduced: int) -> None:
        self.true = true
        self.believed = believed
        self.reduced = reduced

    def past(self, instant: int, threshold_ms: int) -> bool:
        return self.believed - instant >= threshold_ms

    def age(self, instant: int, threshold_ms: int) -> int:
        """Young or old; what lies ahead, since the clock went back, is young."""
        return self.reduced - threshold_ms if self.past(instant, threshold_ms) else self.reduced


def _clock(world: World, believed: int) -> ClockTrust:
    clock = world.snapshot.clock
    floor = BUILD if world.now - clock.floor_unix_ms > _FLOOR_AGE_MS else NOW
    if clock.trusted:
        return ClockTrust(
            trusted=True,
            reason="",
            floor_unix_ms=floor,
            measured=clock.measured,
            at_least=clock.at_least,
        )
    off = believed - world.now
    wrong = min(_WRONG, key=lambda one: abs(one - off)) if off else 0
    return ClockTrust(
        trusted=False,
        reason="",
        floor_unix_ms=floor,
        offset_ms=wrong - world.error,
        measured=clock.measured,
        at_least=clock.at_least,
    )


# --- generations ---------------------------------------------------------------------------------------


def _numbers(snapshot: Snapshot, disk: Disk, late: Late | None) -> dict[int, int]:
    """New numbers, in order, of the generations that something refers to."""
    used = {one.generation for one in snapshot.superseded[-SUPERSEDED:]}
    for holder in (snapshot.credential, snapshot.staged, snapshot.candidate, disk.current):
        if holder is not None:
            used.add(holder.generation)
    for one in snapshot.outstanding:
        if isinstance(one.effect, StageKey):
            used.add(one.effect.generation)
            if one.effect.reuse_generation in disk.keys:
                used.add(one.effect.reuse_generation)
    if late is not None and isinstance(late.effect, CommitCredential):
        used.add(late.effect.generation)
    return {old: new for new, old in enumerate(sorted(used), 1)}


def _at_most(generation: int, numbers: dict[int, int]) -> int:
    return sum(one <= generation for one in numbers)


def _kept(generations: tuple[int, ...], numbers: dict[int, int]) -> tuple[int, ...]:
    return tuple(numbers[one] for one in generations if one in numbers)


# --- lives ---------------------------------------------------------------------------------------------


def part_of(begins: int, ends: int, now: int) -> int:
    """Which part of its life a certificate is in, 0 to 3."""
    life = max(ends - begins, 1)
    part = 0
    for mark in _MARKS:
        if now >= begins + life * mark // 100:
            part += 1
    return part


def _begins(begins: int, ends: int, seen: _Seen, generation: int) -> int:
    """No two certificates have the same dates."""
    return NOW - PARTS[part_of(begins, ends, seen.true)] - 1_000 * generation


def _credential(credential: Credential | None, seen: _Seen, numbers: dict[int, int]) -> Credential | None:
    if credential is None:
        return None
    generation = numbers[credential.generation]
    committed = seen.age(credential.committed_unix_ms, rules.HUB_LATE_MS)
    if credential.proven:
        committed = seen.reduced
    if credential.source == "configured":
        return Credential(
            generation=generation, source="configured", proven=credential.proven, committed_unix_ms=committed
        )
    begins = _begins(credential.not_before_unix_ms, credential.not_after_unix_ms, seen, generation)
    return Credential(
        generation=generation,
        source="issued",
        sha256=f"c{generation}",
        spki_sha256=f"k{generation}",
        not_before_unix_ms=begins,
        not_after_unix_ms=begins + LIFE_MS,
        proven=credential.proven,
        committed_unix_ms=committed,
        draw_ppm=credential.draw_ppm,
    )


def _stored(
    stored: StoredCredential, snapshot: Snapshot, seen: _Seen, numbers: dict[int, int]
) -> StoredCredential:
    held = _held(snapshot)
    generation = numbers[stored.generation]
    issued = stored.source == "issued"
    begins = _begins(stored.not_before_unix_ms, stored.not_after_unix_ms, seen, generation) if issued else 0
    return structs.replace(
        stored,
        generation=generation,
        sha256=f"c{generation}" if issued else "",
        spki_sha256=f"k{generation}" if issued else "",
        not_before_unix_ms=begins,
        not_after_unix_ms=begins + LIFE_MS if issued else 0,
        bundle_sha256="" if not stored.bundle_sha256 else "b1" if stored.bundle_sha256 == held else "b2",
    )


def _candidate(snapshot: Snapshot, seen: _Seen, numbers: dict[int, int]) -> Candidate | None:
    candidate = snapshot.candidate
    if candidate is None:
        return None
    proving = snapshot.phase is Phase.PROVING
    bundle, held = candidate.bundle, _held(snapshot)
    generation, chain = numbers[candidate.generation], candidate.chain
    if chain is not None:
        begins = _begins(chain.not_before_unix_ms, chain.not_after_unix_ms, seen, generation)
        chain = ChainFacts(
            chain_pem=b"",
            spki_sha256=f"k{generation}",
            subject_cn=chain.subject_cn,
            not_before_unix_ms=begins,
            not_after_unix_ms=begins + LIFE_MS,
            sha256=f"c{generation}",
            serial="",
        )
    assigned = seen.age(candidate.assigned_unix_ms, rules.HUB_LATE_MS)
    return structs.replace(
        candidate,
        generation=generation,
        chain=chain,
        assigned_unix_ms=assigned if candidate.new_assignment and proving else seen.reduced,
        bundle=None if bundle is None else BUNDLES[bundle.sha256 != held],
    )


def _superseded(
    superseded: tuple[Superseded, ...], seen: _Seen, numbers: dict[int, int]
) -> tuple[Superseded, ...]:
    return tuple(
        Superseded(
            generation=numbers[one.generation],
            keep_until_unix_ms=NOW + _AHEAD_MS if one.keep_until_unix_ms > seen.true else NOW - 1,
        )
        for one in superseded[-SUPERSEDED:]
    )


def _staged(staged: StagedKey | None, numbers: dict[int, int]) -> StagedKey | None:
    if staged is None:
        return None
    generation = numbers[staged.generation]
    return structs.replace(staged, generation=generation, spki_sha256=f"k{generation}")


def _assignment(assignment: Assignment | None) -> Assignment | None:
    return None if assignment is None else structs.replace(assignment, since_unix_ms=0)


# --- the attempt ---------------------------------------------------------------------------------------


def _attempt(snapshot: Snapshot, seen: _Seen) -> Attempt | None:
    """What is asked of it in its phase, and later."""
    attempt, phase = snapshot.attempt, snapshot.phase
    if attempt is None:
        return None
    asking = phase in _BEFORE_PROOF
    operation = phase is Phase.POLLING
    age = seen.believed - attempt.operation_unix_ms
    young = 0 <= age < rules.OPERATION_LIFE_MS
    return Attempt(
        number=1,
        fingerprint=attempt.fingerprint,
        manual=attempt.manual,
        started_unix_ms=0,
        by_operator=attempt.by_operator and asking,
        with_csr=attempt.with_csr or not asking,
        operation_id="op" if operation else None,
        operation_unix_ms=(seen.reduced - (0 if young else rules.OPERATION_LIFE_MS)) if operation else 0,
        tries=0 if attempt.manual is None else min(attempt.tries, 2),
        submits=min(attempt.submits, rules.SUBMITS_PER_ATTEMPT) if asking else 0,
    )


_BEFORE_PROOF = frozenset({Phase.STAGING, Phase.SUBMITTING, Phase.POLLING})


def _ended(ended: Ended | None) -> Ended | None:
    if ended is None:
        return None
    person = ended.error is not None and ended.error.failure_class == "operator"
    if not person and ended.manual is None:
        return None
    return Ended(
        number=1,
        started_unix_ms=0,
        ended_unix_ms=0,
        error=_PERSON if person else None,
        manual=ended.manual,
    )


_PERSON = Problem(failure_class="operator", code="", message="")


def _outstanding(waited: tuple[Outstanding, ...], numbers: dict[int, int]) -> tuple[Outstanding, ...]:
    """Module keys are nobody else's business (invariants.py), and left out."""
    by_kind = sorted(
        (one for one in waited if not isinstance(one.effect, PushModuleKeys)),
        key=lambda one: type(one.effect).__name__,
    )
    return tuple(
        Outstanding(id=f"1.0.{index}", effect=_effect(one.effect, numbers))
        for index, one in enumerate(by_kind)
    )


def _effect(effect: E, numbers: dict[int, int]) -> E:
    """What its answer depends on."""
    match effect:
        case StageKey():
            reuse = effect.reuse_generation
            return structs.replace(
                effect,
                generation=numbers[effect.generation],
                reuse_generation=None if reuse is None else numbers.get(reuse, 0),
            )
        case SubmitRegistration():
            generation = None if effect.generation is None else numbers.get(effect.generation, 0)
            return structs.replace(
                effect,
                attempt=1,
                generation=generation,
                spki_sha256="" if generation is None else f"k{generation}",
                clock_offset_ms=0,
            )
        case PollRegistration():
            key = effect.spki_sha256
            spki = f"k{numbers.get(int(key[1:]), 0)}" if key else ""
            return structs.replace(effect, attempt=1, operation_id="op", spki_sha256=spki, clock_offset_ms=0)
        case ProveCredential():
            return structs.replace(
                effect, generation=numbers.get(effect.generation, 0), chain_pem=None, clock_offset_ms=0
            )
        case CommitCredential():
            return structs.replace(
                effect, generation=numbers[effect.generation], chain_pem=None, bundle_pem=None
            )
        case PurgeCredentials():
            return effect
        case _:
            assert isinstance(effect, RetireCredential), "pushes of module keys are left out"
            newest = None if effect.newest is None else _at_most(effect.newest, numbers)
            return structs.replace(effect, keep=_kept(effect.keep, numbers), newest=newest)


def _budget(snapshot: Snapshot, seen: _Seen) -> Budget:
    budget, settings = snapshot.budget, snapshot.policy
    if not budget.spent:
        return Budget()
    return Budget(
        spent=min(budget.spent, settings.budget_registrations),
        since_unix_ms=seen.age(budget.since_unix_ms, settings.budget_window_ms),
    )


def _refusals(refusals: Refusals, seen: _Seen) -> Refusals:
    """Never is as long ago."""
    lately = refusals.driven_unix_ms != 0 and not seen.past(refusals.driven_unix_ms, refusals.interval_ms)
    return Refusals(
        count=min(refusals.count, 1) if refusals.count < rules.REFUSALS_NEEDED else rules.REFUSALS_NEEDED,
        first_unix_ms=seen.age(refusals.first_unix_ms, rules.REFUSALS_SPREAD_MS) if refusals.count else 0,
        driven_unix_ms=seen.reduced - (0 if lately else rules.REFUSAL_INTERVAL_MS),
        interval_ms=rules.REFUSAL_INTERVAL_MS,
    )


# --- what is armed -------------------------------------------------------------------------------------


def _armed(snapshot: Snapshot, reduced: Credential | None, seen: _Seen) -> tuple[Armed, ...]:
    credential = snapshot.credential
    issued = credential if credential is not None and credential.source == "issued" else None
    by_name = sorted(snapshot.armed, key=lambda one: one.name)
    return tuple(
        Armed(name=one.name, at_unix_ms=_fires(one, snapshot, issued, reduced, seen), delay_ms=DELAY_MS)
        if one.delay_ms is not None and one.name != "attempt"
        else Armed(name=one.name, at_unix_ms=_fires(one, snapshot, issued, reduced, seen))
        for one in by_name
    )


def _fires(
    one: Armed, snapshot: Snapshot, issued: Credential | None, reduced: Credential | None, seen: _Seen
) -> int:
    """When it fires, as far as that is kept: not whether the next attempt waits for an instant or a while."""
    at = one.at_unix_ms
    if one.delay_ms is not None and one.name != "attempt":
        return seen.reduced + DELAY_MS
    if issued is not None and reduced is not None and one.name in ("window", "expiry"):
        percent = 100 if one.name == "expiry" else snapshot.policy.renewal_earliest_percent
        if at == _mark(issued, percent):
            return _mark(reduced, percent)
    return seen.reduced if at <= seen.believed else seen.reduced + FAR_MS


def _mark(credential: Credential, percent: int) -> int:
    begins, ends = credential.not_before_unix_ms, credential.not_after_unix_ms
    return begins + (ends - begins) * percent // 100


# --- time passes ---------------------------------------------------------------------------------------


def passings(world: World) -> Iterator[tuple[Choice, World]]:
    """What may grow older in a canonical world, and the canonical world in which it has."""
    believed = world.stamp + world.snapshot.clock.correction_ms
    for what, grows_older in _PASSINGS.items():
        aged = grows_older(world, believed)
        if aged is not None:
            yield Choice("passes", what), aged if what in _STAYS_CANONICAL else canonical(aged, world)


def _next_part_ms(begins: int, ends: int) -> int:
    """By how much a life of that part moves on; 0 at its end."""
    part = part_of(begins, ends, NOW)
    return PARTS[part + 1] - PARTS[part] if part + 1 < len(PARTS) else 0


def _with(world: World, **fields: object) -> World:
    return structs.replace(world, snapshot=structs.replace(world.snapshot, **fields))


def _candidate_passes(world: World, believed: int) -> World | None:
    candidate = world.snapshot.candidate
    if candidate is None or candidate.chain is None:
        return None
    chain = candidate.chain
    by_ms = _next_part_ms(chain.not_before_unix_ms, chain.not_after_unix_ms)
    if not by_ms:
        return None
    older = structs.replace(
        chain,
        not_before_unix_ms=chain.not_before_unix_ms - by_ms,
        not_after_unix_ms=chain.not_after_unix_ms - by_ms,
    )
    return _with(world, candidate=structs.replace(candidate, chain=older))


def _operation_passes(world: World, believed: int) -> World | None:
    attempt = world.snapshot.attempt
    if attempt is None or attempt.operation_unix_ms != believed:
        return None
    old = believed - rules.OPERATION_LIFE_MS
    return _with(world, attempt=structs.replace(attempt, operation_unix_ms=old))


def _assigned_passes(world: World, believed: int) -> World | None:
    candidate = world.snapshot.candidate
    if candidate is None or not candidate.new_assignment or candidate.assigned_unix_ms != believed:
        return None
    old = believed - rules.HUB_LATE_MS
    return _with(world, candidate=structs.replace(candidate, assigned_unix_ms=old))


def _committed_passes(world: World, believed: int) -> World | None:
    credential = world.snapshot.credential
    if credential is None or credential.proven or credential.committed_unix_ms != believed:
        return None
    old = believed - rules.HUB_LATE_MS
    return _with(world, credential=structs.replace(credential, committed_unix_ms=old))


def _refusals_pass(world: World, believed: int) -> World | None:
    refusals = world.snapshot.refusals
    if not refusals.count or refusals.first_unix_ms != believed:
        return None
    old = believed - rules.REFUSALS_SPREAD_MS
    return _with(world, refusals=structs.replace(refusals, first_unix_ms=old))


def _driven_passes(world: World, believed: int) -> World | None:
    refusals = world.snapshot.refusals
    if refusals.driven_unix_ms != believed:
        return None
    old = believed - refusals.interval_ms
    return _with(world, refusals=structs.replace(refusals, driven_unix_ms=old))


def _reprovisioned_passes(world: World, believed: int) -> World | None:
    if world.snapshot.reprovisioned_unix_ms != believed:
        return None
    return _with(world, reprovisioned_unix_ms=believed - rules.REPEAT_MS)


def _budget_passes(world: World, believed: int) -> World | None:
    snapshot = world.snapshot
    if not snapshot.budget.spent or snapshot.budget.since_unix_ms != believed:
        return None
    old = believed - snapshot.policy.budget_window_ms
    return _with(world, budget=structs.replace(snapshot.budget, since_unix_ms=old))


def _less_known(world: World, believed: int) -> World | None:
    """The best known time, where it is only a lower bound, is behind the true one by more, or by less.

    What was measured by it moves along.
    """
    snapshot, clock = world.snapshot, world.snapshot.clock
    if clock.trusted or believed - NOW not in _BEHIND:
        return None
    place = _BEHIND.index(believed - NOW)
    by_ms = _BEHIND[place % 2 + 1] - _BEHIND[place]
    moved: dict[str, object] = {
        "clock": structs.replace(clock, offset_ms=clock.offset_ms + by_ms),
        "reprovisioned_unix_ms": snapshot.reprovisioned_unix_ms + by_ms,
        "refusals": structs.replace(
            snapshot.refusals,
            first_unix_ms=snapshot.refusals.first_unix_ms + by_ms,
            driven_unix_ms=snapshot.refusals.driven_unix_ms + by_ms,
        ),
        "budget": structs.replace(snapshot.budget, since_unix_ms=snapshot.budget.since_unix_ms + by_ms),
        "armed": tuple(
            one
            if one.delay_ms is None and one.at_unix_ms not in (believed, believed + FAR_MS)
            else structs.replace(one, at_unix_ms=one.at_unix_ms + by_ms)
            for one in snapshot.armed
        ),
    }
    attempt, candidate, credential = snapshot.attempt, snapshot.candidate, snapshot.credential
    if attempt is not None:
        older = attempt.operation_unix_ms + by_ms
        moved["attempt"] = structs.replace(attempt, operation_unix_ms=older)
    if candidate is not None:
        moved["candidate"] = structs.replace(candidate, assigned_unix_ms=candidate.assigned_unix_ms + by_ms)
    if credential is not None:
        moved["credential"] = structs.replace(
            credential, committed_unix_ms=credential.committed_unix_ms + by_ms
        )
    return _with(world, **moved)


def _due(world: World, name: Timer, believed: int) -> World | None:
    """A deadline that belongs to no life is over."""
    armed = world.snapshot.armed_as(name)
    if armed is None or armed.at_unix_ms != believed + FAR_MS:
        return None
    due = structs.replace(armed, at_unix_ms=believed)
    return _with(world, armed=tuple(due if one is armed else one for one in world.snapshot.armed))


def _life_passes(world: World, believed: int) -> World | None:
    snapshot = world.snapshot
    credential = snapshot.credential
    if credential is None or credential.source == "configured":
        return None
    by_ms = _next_part_ms(credential.not_before_unix_ms, credential.not_after_unix_ms)
    if not by_ms:
        return None
    armed = tuple(
        structs.replace(one, at_unix_ms=one.at_unix_ms - by_ms)
        if one.delay_ms is None and one.name in _OF_A_LIFE and one.at_unix_ms != believed + FAR_MS
        else one
        for one in snapshot.armed
    )
    older = structs.replace(
        credential,
        not_before_unix_ms=credential.not_before_unix_ms - by_ms,
        not_after_unix_ms=credential.not_after_unix_ms - by_ms,
    )
    aged = structs.replace(world, snapshot=structs.replace(snapshot, credential=older, armed=armed))
    stored = world.disk.current
    if stored is not None and stored.generation == credential.generation:
        aged = structs.replace(aged, disk=structs.replace(world.disk, current=_older(stored, by_ms)))
    return aged


_OF_A_LIFE = ("window", "expiry")


def _older(stored: StoredCredential, by_ms: int) -> StoredCredential:
    return structs.replace(
        stored,
        not_before_unix_ms=stored.not_before_unix_ms - by_ms,
        not_after_unix_ms=stored.not_after_unix_ms - by_ms,
    )


def _stored_passes(world: World, believed: int) -> World | None:
    """What the store holds is another credential than the machine knows of."""
    stored, credential = world.disk.current, world.snapshot.credential
    if stored is None or stored.source == "configured":
        return None
    if credential is not None and credential.generation == stored.generation:
        return None
    by_ms = _next_part_ms(stored.not_before_unix_ms, stored.not_after_unix_ms)
    if not by_ms:
        return None
    return structs.replace(world, disk=structs.replace(world.disk, current=_older(stored, by_ms)))


def _late_passes(world: World, believed: int) -> World | None:
    late = world.late
    if late is None or late.stored is None or late.stored.source == "configured":
        return None
    stored = late.stored
    by_ms = _next_part_ms(stored.not_before_unix_ms, stored.not_after_unix_ms)
    if not by_ms:
        return None
    return structs.replace(world, late=structs.replace(late, stored=_older(stored, by_ms)))


def _superseded_passes(world: World, believed: int) -> World | None:
    """The oldest that is still valid ends."""
    superseded = world.snapshot.superseded
    for place, one in enumerate(superseded):
        if one.keep_until_unix_ms > NOW:
            ended = structs.replace(one, keep_until_unix_ms=NOW - 1)
            after = (*superseded[:place], ended, *superseded[place + 1 :])
            return structs.replace(world, snapshot=structs.replace(world.snapshot, superseded=after))
    return None


_PASSINGS: dict[str, Callable[[World, int], World | None]] = {
    "life": _life_passes,
    "stored": _stored_passes,
    "late": _late_passes,
    "candidate": _candidate_passes,
    "operation": _operation_passes,
    "assigned": _assigned_passes,
    "committed": _committed_passes,
    "refusals": _refusals_pass,
    "driven": _driven_passes,
    "reprovisioned": _reprovisioned_passes,
    "budget": _budget_passes,
    "superseded": _superseded_passes,
    "accuracy": _less_known,
    "attempt": lambda world, believed: _due(world, "attempt", believed),
    "window": lambda world, believed: _due(world, "window", believed),
    "expiry": lambda world, believed: _due(world, "expiry", believed),
    "collect": lambda world, believed: _due(world, "collect", believed),
}


_STAYS_CANONICAL = _PASSINGS.keys() - {"life", "accuracy", "assigned"}
"What these lead to stands for itself already (tests/core/test_reduction.py)."


# --- as bytes ------------------------------------------------------------------------------------------

_POLICIES: tuple[PolicySettings, ...] = tuple(policy for policy, _ in CONFIGURATIONS.values())
_PLACES: dict[PolicySettings, int] = {policy: place for place, policy in enumerate(_POLICIES)}


class _Packed(Struct, array_like=True, frozen=True):
    policy: int
    snapshot: Snapshot
    disk: Disk
    error: int
    late: Late | None


_NO_POLICY = PolicySettings()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed)


def pack(world: World) -> bytes:
    """A canonical world; equal worlds, and no others, have equal bytes."""
    snapshot = world.snapshot
    return _encoder.encode(
        _Packed(
            _PLACES[snapshot.policy],
            structs.replace(snapshot, policy=_NO_POLICY),
            world.disk,
            world.error,
            world.late,
        )
    )


def unpack(packed: bytes) -> World:
    """The canonical world again. Raises msgspec.DecodeError."""
    one = _decoder.decode(packed)
    snapshot = structs.replace(one.snapshot, policy=_POLICIES[one.policy])
    return World(snapshot=snapshot, disk=one.disk, now=NOW, error=one.error, late=one.late)
