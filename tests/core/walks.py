"""Random walks: anything the world might say next, mostly answers and deadlines, now and then a surprise.

The chance is handed in, so a seed, or Hypothesis, is the whole bug report.
"""

import random
from collections.abc import Callable

from msgspec import structs

from statemachine.effects import (
    CommitCredential,
    PollRegistration,
    PurgeCredentials,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    AnyEvent,
    ClockObserved,
    CredentialCommitted,
    CredentialLost,
    DeadlinePassed,
    HoldRequested,
    HookEnded,
    HubRefusedCredential,
    KeyStaged,
    ModuleKeysLost,
    ModuleKeysPushed,
    ModuleKeysRequested,
    PurgeRequested,
    RegistrationAccepted,
    RegistrationPending,
    RenewRequested,
    ReprovisionRequested,
    RulesChanged,
    ShutdownRequested,
)
from statemachine.machine import RULES_REVISION
from statemachine.snapshot import Outstanding
from tests.core.world import (
    BUNDLE,
    DAY,
    ELSEWHERE,
    HOUR,
    MANUAL,
    MINUTE,
    NO_DPS,
    POLICY,
    World,
    assigned,
    chain,
    configured,
    fingerprint_of,
    refusal,
    started,
    with_policy,
)

POLICIES = (
    POLICY,
    POLICY,
    with_policy(trust_bundle_id="bundle-2"),
    with_policy(rotate_key=False),
    with_policy(renewal_earliest_percent=30, renewal_latest_percent=40, key_algorithm="rsa-2048"),
    with_policy(budget_registrations=6),
    NO_DPS,
    MANUAL,
    ELSEWHERE,
)
CLASSES = ("retry", "wait", "operator", "new_key", "reregister", "clock")
CODES = ("dps-503", "csr-not-configured", "unreachable")


def walk(
    chance: random.Random,
    length: int,
    *,
    losses: bool = True,
    watch: Callable[[World], None] = lambda world: None,
) -> World:
    """``losses`` False: nobody damages the store behind the machine's back. ``watch`` sees every step."""
    world = World()
    world.take(started(draw_ppm=_draw(chance)))
    friendly = chance.choice((1, 4, 20))
    for _ in range(length):
        world.now += chance.randrange(3_000)
        world.take(anything(world, chance, friendly=friendly, losses=losses))
        watch(world)
    return world


def seeded(seed: int, length: int, **options) -> World:
    return walk(random.Random(seed), length, **options)


def _draw(chance: random.Random) -> int:
    return chance.randrange(1_000_000)


def anything(world: World, chance: random.Random, *, friendly: int = 1, losses: bool = True) -> AnyEvent:
    draw = {"draw_ppm": _draw(chance)}
    snapshot = world.snapshot
    weights = {
        "answer": 8 * friendly if snapshot.outstanding else 0,
        "failure": 3 if snapshot.outstanding else 0,
        "deadline": 6 * friendly if snapshot.armed else 0,
        "command": 2,
        "surprise": 3,
        "stale": 1,
    }
    weights = {what: weight for what, weight in weights.items() if weight}
    match chance.choices(tuple(weights), tuple(weights.values()))[0]:
        case "answer":
            one = chance.choice(snapshot.outstanding)
            if isinstance(one.effect, SubmitRegistration | PollRegistration):
                return _registration(world, one, chance, draw, friendly)
            return world.perform(one, **draw)
        case "failure":
            one = chance.choice(snapshot.outstanding)
            if isinstance(one.effect, CommitCredential) and world.store.current == one.effect.generation:
                # It was flipped before a kill; a store that says otherwise would break its promise.
                return world.perform(one, **draw)
            if isinstance(one.effect, PurgeCredentials) and chance.random() < 0.5:
                # Half of it is gone all the same.
                world.store.lose()
            return _failure(one, chance, draw)
        case "deadline":
            return _deadline(world, chance, draw)
        case "command":
            return _command(chance, draw)
        case "stale":
            return _stale(chance, draw)
    return _surprise(world, chance, draw, losses=losses)


def _deadline(world, chance, draw):
    armed = min(world.snapshot.armed, key=lambda one: one.at_unix_ms)
    if chance.random() < 0.4:
        armed = chance.choice(world.snapshot.armed)
    if chance.random() < 0.9:
        world.now = max(world.now, world.by_our_clock(armed.at_unix_ms))
    return DeadlinePassed(name=armed.name, **draw)


def _stale(chance, draw):
    return chance.choice(
        [
            DeadlinePassed(name=chance.choice(["window", "attempt", "phase", "prove"]), **draw),
            KeyStaged(answers="9.9.9", generation=1, spki_sha256="k1", **draw),
            CredentialCommitted(answers="9.9.9", generation=1, **draw),
            ModuleKeysPushed(answers="9.9.9", modules=1, **draw),
        ]
    )


def _command(chance, draw):
    return chance.choice(
        [
            ReprovisionRequested(uid=0, **draw),
            ReprovisionRequested(uid=1000, privileged=False, **draw),
            RenewRequested(uid=0, **draw),
            HoldRequested(hold=chance.random() < 0.3, uid=0, **draw),
            HoldRequested(hold=False, uid=0, **draw),
            ModuleKeysRequested(uid=0, **draw),
        ]
    )


def _registration(world: World, one: Outstanding, chance, draw, friendly) -> AnyEvent:
    effect = one.effect
    spki = effect.spki_sha256
    if chance.random() < 0.4:
        if isinstance(effect, SubmitRegistration):
            return RegistrationAccepted(answers=one.id, operation_id=f"op-{chance.randrange(9)}", **draw)
        return RegistrationPending(answers=one.id, retry_after_ms=chance.choice([None, 3_000]), **draw)
    odd = chance.random() < 0.3 / friendly
    facts = {}
    if spki:
        facts["chain"] = chain(
            "other" if odd else spki,
            world.now - chance.choice([0, 0, DAY, 80 * DAY]),
            life_ms=chance.choice([20_000, DAY, 90 * DAY, 90 * DAY, 3650 * DAY]),
            subject_cn=chance.choice(["device-1", "DEVICE-1", "device-2" if odd else "device-1"]),
            is_ca=odd and chance.random() < 0.2,
        )
        if chance.random() < 0.05:
            facts["chain"] = None
    return assigned(
        one.id,
        spki,
        world.now,
        **{
            "assigned_hub": chance.choice(["hub.example", "hub.example", "other.example"]),
            "bundle": chance.choice([BUNDLE, None]),
            "server_date_unix_ms": chance.choice([None, world.now, world.now + 400 * DAY]),
            "bundle_spoken": chance.random() < 0.8,
            **facts,
            **draw,
        },
    )


def _failure(one: Outstanding, chance, draw):
    refused = {"refused": chance.random() < 0.5} if type(one.effect).__name__ == "ProveCredential" else {}
    return refusal(
        one,
        failure_class=chance.choice(CLASSES),
        code=chance.choice(CODES),
        retry_after_ms=chance.choice([None, None, 5_000, DAY]),
        **refused,
        **draw,
    )


def _surprise(world: World, chance, draw, *, losses: bool) -> AnyEvent:
    snapshot = world.snapshot
    generation = snapshot.credential.generation if snapshot.credential else 1
    match chance.randrange(9):
        case 0 | 1:
            return _restart(world, chance, draw, losses=losses)
        case 2:
            jump = chance.choice([-400 * DAY, -2 * DAY, -HOUR, HOUR, 2 * DAY, 100 * DAY])
            world.now += jump
            seen = chance.choice([0, jump])
            return ClockObserved(kernel_synchronised=chance.random() < 0.5, jump_ms=seen, **draw)
        case 3 if losses and chance.random() < 0.5:
            world.store.lose()
            return CredentialLost(generation=generation, reason="gone", **draw)
        case 4 if chance.random() < 0.5:
            return HookEnded(hook="renewal", outcome="failed", **draw)
        case 4:
            return RulesChanged(before=RULES_REVISION, after=RULES_REVISION, **draw)
        case 5:
            return ShutdownRequested(**draw)
        case 6:
            policy = chance.choice(POLICIES)
            return structs.replace(configured(policy, _fingerprint(policy, chance)), **draw)
        case 7 if chance.random() < 0.3:
            return PurgeRequested(uid=0, **draw)
        case 7:
            return ModuleKeysLost(reason="no such file", **draw)
    world.now += chance.randrange(20 * MINUTE)
    return HubRefusedCredential(generation=chance.choice([generation, generation, 1]), code="hub-401", **draw)


def _fingerprint(policy, chance, before="f1"):
    """DPS may be configured in two ways; what a manual assignment says is all there is to it."""
    if not policy.dps:
        return fingerprint_of(policy)
    return chance.choice([before if before in ("f1", "f2") else "f1"] * 4 + ["f2"])


def _restart(world: World, chance, draw, *, losses: bool) -> AnyEvent:
    """A kill; before it, the store may have done what it never could report."""
    for one in world.snapshot.outstanding:
        if isinstance(one.effect, CommitCredential | StageKey | PurgeCredentials) and chance.random() < 0.5:
            world.perform(one)
    if losses and chance.random() < 0.1:
        world.store.lose()
    world.now += chance.choice([0, 5_000, HOUR, 3 * DAY])
    policy = chance.choice(POLICIES) if chance.random() < 0.3 else world.snapshot.policy
    return started(
        inventory=world.store.inventory(),
        kernel_synchronised=chance.random() < 0.6,
        fingerprint=_fingerprint(policy, chance, world.snapshot.fingerprint),
        foreign_machine=chance.random() < 0.03,
        policy=policy,
        **draw,
    )
