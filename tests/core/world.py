"""A small world around the machine for tests: answers every effect, by seeded chance or by script."""

import random
from dataclasses import dataclass, field

from statemachine.effects import (
    CommitCredential,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    AnyEvent,
    BundleFacts,
    ChainFacts,
    ClockObserved,
    ConfigurationChanged,
    CredentialCommitFailed,
    CredentialCommitted,
    CredentialLost,
    CredentialProofFailed,
    CredentialProven,
    CredentialRetired,
    CredentialRetireFailed,
    DeadlinePassed,
    HoldRequested,
    HubRefusedCredential,
    Inventory,
    KeyStaged,
    KeyStageFailed,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
    RenewRequested,
    ReprovisionRequested,
    RulesChanged,
    ShutdownRequested,
    Started,
    StoredCredential,
)
from statemachine.machine import RULES_REVISION, Decision, decide
from statemachine.settings import PolicySettings
from statemachine.snapshot import Outstanding, Snapshot

T0 = 1_790_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR

POLICY = PolicySettings(
    registration_id="device-1",
    endpoint="https://dps.example",
    scope_id="0ne0",
    attestation="symmetric_key",
)


def started(**fields):
    return Started(
        **{
            "policy": POLICY,
            "fingerprint": "f1",
            "inventory": Inventory(),
            "build_unix_ms": T0 - 30 * DAY,
            "rules_revision": RULES_REVISION,
            "software_version": "0.1.0",
            "kernel_synchronised": True,
            **fields,
        }
    )


def chain(spki, now, *, life_ms=90 * DAY, cn="device-1", **fields):
    return ChainFacts(
        **{
            "chain_pem": b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
            "spki_sha256": spki,
            "subject_cn": cn,
            "not_before_unix_ms": now,
            "not_after_unix_ms": now + life_ms,
            "sha256": f"cert-{spki}-{now}",
            "serial": "1f",
            **fields,
        }
    )


BUNDLE = BundleFacts(
    bundle_pem=b"-----BEGIN CERTIFICATE-----\nAQ==\n-----END CERTIFICATE-----\n",
    certificates=1,
    sha256="b1",
)


def assigned(effect_id, spki, now, *, hub="hub.example", issued=True, **fields):
    return RegistrationAssigned(
        **{
            "answers": effect_id,
            "assigned_hub": hub,
            "device_id": "device-1",
            "chain": chain(spki, now) if issued else None,
            "bundle": BUNDLE,
            **fields,
        }
    )


@dataclass
class Store:
    """What the credential store would hold on disk."""

    generations: set[int] = field(default_factory=set)
    current: StoredCredential | None = None

    def inventory(self):
        return Inventory(current=self.current, newest_generation=max(self.generations, default=0))


@dataclass
class World:
    """The machine, its store, the time, and the history of decisions."""

    snapshot: Snapshot = field(default_factory=Snapshot)
    now: int = T0
    store: Store = field(default_factory=Store)
    history: list[tuple[int, AnyEvent, Decision]] = field(default_factory=list)

    def take(self, event, *, after_ms=0):
        self.now += after_ms
        decision = decide(self.snapshot, event, self.now)
        self.snapshot = decision.snapshot
        self.history.append((self.now, event, decision))
        for one in self.snapshot.outstanding:
            if isinstance(one.effect, CommitCredential | StageKey):
                self.store.generations.add(one.effect.generation)
        return decision

    # --- the happy answers ---

    def pending(self, kind):
        return next(one for one in self.snapshot.outstanding if isinstance(one.effect, kind))

    def good_answer(self, one: Outstanding, **fields) -> AnyEvent:
        effect = one.effect
        match effect:
            case StageKey():
                return KeyStaged(
                    answers=one.id,
                    generation=effect.generation,
                    spki_sha256=f"k{effect.generation}",
                    **fields,
                )
            case SubmitRegistration():
                return RegistrationAccepted(answers=one.id, operation_id="op-1", **fields)
            case PollRegistration():
                return assigned(
                    one.id, effect.spki_sha256, self.now, issued=bool(effect.spki_sha256), **fields
                )
            case ProveCredential():
                return CredentialProven(answers=one.id, generation=effect.generation, **fields)
            case CommitCredential():
                self.flip(effect)
                return CredentialCommitted(answers=one.id, generation=effect.generation, **fields)
            case RetireCredential():
                self.retire(effect)
                return CredentialRetired(answers=one.id, **fields)
        raise AssertionError(effect)

    def flip(self, effect: CommitCredential):
        candidate = self.snapshot.candidate
        facts = candidate.chain if candidate is not None else None
        self.store.generations.add(effect.generation)
        self.store.current = StoredCredential(
            generation=effect.generation,
            source="issued" if effect.chain_pem is not None else "configured",
            hub=effect.hub,
            device_id=effect.device_id,
            fingerprint=effect.fingerprint,
            sha256=facts.sha256 if facts else "",
            serial=facts.serial if facts else "",
            spki_sha256=facts.spki_sha256 if facts else "",
            not_before_unix_ms=facts.not_before_unix_ms if facts else 0,
            not_after_unix_ms=facts.not_after_unix_ms if facts else 0,
        )

    def retire(self, effect: RetireCredential):
        kept = set(effect.keep) | ({self.store.current.generation} if self.store.current else set())
        self.store.generations &= kept

    def answer(self, kind, after_ms=10, **fields):
        self.now += after_ms
        return self.take(self.good_answer(self.pending(kind), **fields))

    def fire(self, name):
        armed = self.snapshot.armed_as(name)
        assert armed is not None, f"{name} is not armed"
        self.now = max(self.now, armed.at_unix_ms)
        return self.take(DeadlinePassed(name=name))

    def settle(self, limit=60):
        """Answer everything happily until nothing is outstanding and no phase delay is armed."""
        for _ in range(limit):
            if self.snapshot.outstanding:
                self.take(self.good_answer(self.snapshot.outstanding[0]), after_ms=10)
            elif self.snapshot.armed_as("phase") is not None:
                self.fire("phase")
            else:
                return self
        raise AssertionError(f"does not settle: {self.snapshot.state} {self.snapshot.phase}")


def provisioned(**fields):
    """A device that registered and serves."""
    world = World()
    world.take(started(**fields))
    return world.settle()


FAILURE_CLASSES = ("retry", "wait", "operator", "new_key", "reregister", "clock")


def random_event(world: World, chance: random.Random) -> AnyEvent:
    """Anything the world might say next: mostly answers and deadlines, now and then a surprise."""
    draw = {"draw_ppm": chance.randrange(1_000_000)}
    snapshot = world.snapshot
    choices = []
    if snapshot.outstanding:
        choices += ["answer"] * 8 + ["failure"] * 3
    if snapshot.armed:
        choices += ["deadline"] * 6
    choices += ["command"] * 2 + ["surprise", "stale"]
    match chance.choice(choices):
        case "answer":
            one = chance.choice(snapshot.outstanding)
            if isinstance(one.effect, SubmitRegistration | PollRegistration):
                return _registration(world, one, chance, draw)
            return world.good_answer(one, **draw)
        case "failure":
            return _failure(chance.choice(snapshot.outstanding), chance, draw)
        case "deadline":
            armed = chance.choice(snapshot.armed)
            if chance.random() < 0.8:
                world.now = max(world.now, armed.at_unix_ms)
            return DeadlinePassed(name=armed.name, **draw)
        case "stale":
            return chance.choice(
                [
                    DeadlinePassed(name=chance.choice(["window", "attempt", "phase", "prove"]), **draw),
                    KeyStaged(answers="9.9.9", generation=1, spki_sha256="k1", **draw),
                    CredentialCommitted(answers="9.9.9", generation=1, **draw),
                ]
            )
        case "command":
            return chance.choice(
                [
                    ReprovisionRequested(uid=0, **draw),
                    ReprovisionRequested(uid=1000, privileged=False, **draw),
                    RenewRequested(uid=0, **draw),
                    HoldRequested(hold=chance.random() < 0.3, uid=0, **draw),
                    HoldRequested(hold=False, uid=0, **draw),
                ]
            )
    return _surprise(world, chance, draw)


def _registration(world, one, chance, draw):
    effect = one.effect
    spki = effect.spki_sha256
    roll = chance.random()
    if roll < 0.4 and isinstance(effect, SubmitRegistration):
        return RegistrationAccepted(answers=one.id, operation_id=f"op-{chance.randrange(9)}", **draw)
    if roll < 0.4:
        return RegistrationPending(answers=one.id, retry_after_ms=chance.choice([None, 3000]), **draw)
    facts = {}
    if spki:
        facts["chain"] = chain(
            chance.choice([spki, spki, spki, "other"]),
            world.now - chance.choice([0, DAY, 80 * DAY]),
            life_ms=chance.choice([20_000, DAY, 90 * DAY, 3650 * DAY]),
            cn=chance.choice(["device-1", "DEVICE-1", "device-1", "device-2"]),
            is_ca=chance.random() < 0.05,
        )
    return assigned(
        one.id,
        spki,
        world.now,
        issued=bool(spki),
        hub=chance.choice(["hub.example", "hub.example", "other.example"]),
        bundle=chance.choice([BUNDLE, None]),
        server_date_unix_ms=chance.choice([None, world.now, world.now + 400 * DAY]),
        bundle_spoken=chance.random() < 0.8,
        **{**facts, **draw},
        **({} if chance.random() < 0.8 or not spki else {}),
    )


def _failure(one, chance, draw):
    fields = {
        "answers": one.id,
        "failure_class": chance.choice(FAILURE_CLASSES),
        "code": chance.choice(["dps-503", "csr-not-configured", "unreachable"]),
        "message": "no",
        "retry_after_ms": chance.choice([None, None, 5_000, DAY]),
        **draw,
    }
    match one.effect:
        case StageKey():
            return KeyStageFailed(**fields)
        case SubmitRegistration() | PollRegistration():
            return RegistrationFailed(**fields)
        case ProveCredential():
            return CredentialProofFailed(
                generation=one.effect.generation, refused=chance.random() < 0.5, **fields
            )
        case CommitCredential():
            return CredentialCommitFailed(**fields)
    return CredentialRetireFailed(**fields)


def _surprise(world, chance, draw):
    generation = world.snapshot.credential.generation if world.snapshot.credential else 1
    roll = chance.randrange(9)
    if roll == 0:
        lost = chance.random() < 0.1
        if lost:
            world.store.current = None
        return started(
            inventory=world.store.inventory(),
            kernel_synchronised=chance.random() < 0.5,
            fingerprint=chance.choice([world.snapshot.fingerprint or "f1"] * 4 + ["f2"]),
            policy=POLICY if chance.random() < 0.9 else PolicySettings(dps=False),
            **draw,
        )
    if roll == 1:
        world.now += chance.choice([-2 * DAY, -HOUR, HOUR, 2 * DAY, 100 * DAY])
        return ClockObserved(
            kernel_synchronised=chance.random() < 0.5, jump_ms=chance.choice([0, 2 * DAY]), **draw
        )
    if roll == 2:
        return HubRefusedCredential(generation=chance.choice([generation, 1]), code="hub-401", **draw)
    if roll == 3 and chance.random() < 0.3:
        world.store.current = None
        return CredentialLost(generation=generation, reason="gone", **draw)
    if roll == 4:
        return RulesChanged(before=RULES_REVISION, after=RULES_REVISION, **draw)
    if roll == 5:
        return ShutdownRequested(**draw)
    if roll == 6:
        return ConfigurationChanged(
            policy=chance.choice(
                [
                    POLICY,
                    PolicySettings(dps=False),
                    PolicySettings(**{**_fields(POLICY), "trust_bundle_id": "b2"}),
                ]
            ),
            fingerprint=chance.choice(["f1", "f1", "f2"]),
            **draw,
        )
    world.now += chance.randrange(20 * 60_000)
    return HubRefusedCredential(generation=generation, code="hub-401", **draw)


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def walk(seed: int, length: int) -> World:
    chance = random.Random(seed)
    world = World()
    world.take(started())
    for _ in range(length):
        world.now += chance.randrange(0, 3000)
        world.take(random_event(world, chance))
    return world
