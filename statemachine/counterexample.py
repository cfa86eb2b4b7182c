"""A way to a world, lived again with real instants, and told as a journal that replays.

The explorer moves among reduced worlds, whose time stands still. Here the same choices are made in one world
that is not reduced: time passes as far as each of them needs. What no longer changes the end is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from msgspec import structs

from statemachine import policy as rules
from statemachine.environment import MUCH_LATER_MS, NOW, Choice, Impossible, World, happen
from statemachine.explore import WORLD_LAWS
from statemachine.invariants import STATE_LAWS, STEP_LAWS
from statemachine.journal import Header, Record, encode_line, head_lines, record_of
from statemachine.machine import RULES_REVISION
from statemachine.reduction import PARTS, part_of
from statemachine.snapshot import Snapshot

TICK_MS = 10


class Lived(NamedTuple):
    """What a sequence of choices came to."""

    world: World
    records: tuple[Record, ...]
    "Since the journal was last lost."
    broken: frozenset[str]
    "Names of the invariants that did not hold, at any step."


def relive(choices: Sequence[Choice]) -> Lived:
    """Make these choices, from the very first start; what is impossible at its turn is passed over."""
    world = World()
    records: list[Record] = []
    broken: set[str] = set()
    for choice in choices:
        for wait_ms, real in _really(world, choice):
            world = structs.replace(world, now=world.now + wait_ms)
            if real is None:
                continue
            try:
                happened = happen(world, real)
            except Impossible:
                continue
            before, world = happened.told, happened.world
            event, decision = happened.event, happened.decision
            if event is None or decision is None:
                continue
            if not before.sequence:
                records.clear()
            stamp = world.stamp
            records.append(record_of(stamp, event, decision))
            broken |= {law.__name__ for law in STATE_LAWS if law(decision.snapshot) is not None}
            broken |= {law.__name__ for law in STEP_LAWS if law(before, stamp, event, decision) is not None}
        broken |= {law.__name__ for law in WORLD_LAWS if law(world) is not None}
    return Lived(world, tuple(records), frozenset(broken))


def shortest(choices: Sequence[Choice], holds: Callable[[Lived], bool]) -> tuple[Choice, ...]:
    """The same end with every choice left out that it does not need. ``holds`` must hold of ``choices``."""
    kept = list(choices)
    place = len(kept) - 1
    while place >= 0:
        fewer = [*kept[:place], *kept[place + 1 :]]
        if holds(relive(fewer)):
            kept = fewer
        place -= 1
    return tuple(kept)


def journal_of(lived: Lived) -> bytes:
    """As the service writes it."""
    epoch = lived.world.snapshot.epoch
    header = Header(
        rules_revision=RULES_REVISION,
        software_version="",
        machine="",
        device="device-1",
        epoch=epoch,
        first_sequence=1,
        created_unix_ms=NOW,
    )
    head, digest = head_lines(header, Snapshot(epoch=epoch))
    lines = list(head)
    for record in lived.records:
        line, digest = encode_line(record, digest)
        lines.append(line)
    return b"".join(lines)


def _really(world: World, choice: Choice) -> Iterator[tuple[int, Choice | None]]:
    """(wait, choice): what a reduced world does to its snapshot takes time here."""
    match choice:
        case Choice("passes", what):
            yield _until(world, what), None
        case Choice("restart later"):
            yield MUCH_LATER_MS, choice._replace(kind="restart")
        case Choice("clock set", _, "later"):
            yield MUCH_LATER_MS, choice._replace(how="")
        case Choice("refused by the hub", "often"):
            for _ in range(rules.REFUSALS_NEEDED):
                yield rules.REFUSALS_SPREAD_MS // 2, choice._replace(what="")
        case Choice("answer", _, "alert, often"):
            for _ in range(rules.REFUSALS_NEEDED):
                yield TICK_MS, choice._replace(how="alert")
                yield TICK_MS, Choice("deadline", "prove")
        case Choice("answer", _, "unsent, of many"):
            # It was spent by what came before, or it was not.
            yield TICK_MS, choice._replace(how="unsent")
        case _:
            yield TICK_MS, choice


def _until(world: World, what: str) -> int:
    """How long it takes for that to be over."""
    snapshot = world.snapshot
    credential, candidate, late = snapshot.credential, snapshot.candidate, world.late
    lives = {
        "life": credential,
        "stored": world.disk.current,
        "candidate": None if candidate is None else candidate.chain,
        "late": None if late is None else late.stored,
    }
    if what in lives:
        life = lives[what]
        if life is None or not life.not_after_unix_ms:
            return 0
        begins, ends = life.not_before_unix_ms, life.not_after_unix_ms
        part = part_of(begins, ends, world.now)
        return begins + PARTS[part + 1] - world.now if part + 1 < len(PARTS) else 0
    if what == "superseded":
        ahead = (one.keep_until_unix_ms - world.now for one in snapshot.superseded)
        return min((one for one in ahead if one > 0), default=0)
    for armed in snapshot.armed:
        if armed.name == what:
            return max(armed.at_unix_ms - world.stamp - snapshot.clock.correction_ms, 0)
    return _AGES.get(what, snapshot.policy.budget_window_ms if what == "budget" else 0)


_AGES = {
    "operation": rules.OPERATION_LIFE_MS,
    "assigned": rules.HUB_LATE_MS,
    "committed": rules.HUB_LATE_MS,
    "refusals": rules.REFUSALS_SPREAD_MS,
    "driven": rules.REFUSAL_INTERVAL_MS,
    "reprovisioned": rules.REPEAT_MS,
}
