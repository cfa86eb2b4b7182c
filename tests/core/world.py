"""A small world around the machine: a store, a clock, and the answers of cloud and hub, by script.

Nothing here decides. What the store would do on disk is modelled, so that laws can ask whether a
device still holds a usable credential, whatever was killed or lost in between.
"""

from dataclasses import dataclass, field

from msgspec import structs

from statemachine.effects import (
    AnyEffect,
    ArmDeadline,
    ArmDelay,
    Asking,
    CommitCredential,
    Disarm,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    StopService,
    SubmitRegistration,
)
from statemachine.events import (
    AnyEvent,
    BundleFacts,
    ChainFacts,
    ConfigurationChanged,
    CredentialCommitFailed,
    CredentialCommitted,
    CredentialProofFailed,
    CredentialProven,
    CredentialRetired,
    CredentialRetireFailed,
    CredentialsPurged,
    CredentialsPurgeFailed,
    DeadlinePassed,
    Inventory,
    KeyStaged,
    KeyStageFailed,
    ModuleKeysPushed,
    ModuleKeysPushFailed,
    PurgeRequested,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    ReprovisionRequested,
    Started,
    StoredCredential,
)
from statemachine.journal import record_of as record_of
from statemachine.machine import RULES_REVISION, Decision, decide
from statemachine.settings import ManualAssignment, PolicySettings
from statemachine.snapshot import Outstanding, Snapshot
from statemachine.states import Phase, State

T0 = 1_790_000_000_000
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

ENDLESS = 30_000
"No script takes as many steps; one that does would hang instead of failing."

POLICY = PolicySettings(
    registration_id="device-1",
    endpoint="https://dps.example",
    scope_id="0ne0",
    attestation="symmetric_key",
)
NO_DPS = PolicySettings(dps=False)
MANUAL = PolicySettings(
    dps=False,
    manual=ManualAssignment(hub="hub.example", device_id="device-1"),
    attestation="symmetric_key",
)
ELSEWHERE = structs.replace(MANUAL, manual=ManualAssignment(hub="other.example:8443", device_id="device-1"))
PEM = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
BUNDLE = BundleFacts(bundle_pem=PEM, certificates=1, sha256="b1")


def with_policy(**fields):
    return structs.replace(POLICY, **fields)


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


def chain(spki, now, *, life_ms=90 * DAY, **fields):
    return ChainFacts(
        **{
            "chain_pem": PEM,
            "spki_sha256": spki,
            "subject_cn": "device-1",
            "not_before_unix_ms": now,
            "not_after_unix_ms": now + life_ms,
            "sha256": f"cert-{spki}-{now}",
            "serial": "1f",
            **fields,
        }
    )


def assigned(effect_id, spki, now, *, life_ms=90 * DAY, **fields):
    return RegistrationAssigned(
        **{
            "answers": effect_id,
            "assigned_hub": "hub.example",
            "device_id": "device-1",
            "chain": chain(spki, now, life_ms=life_ms) if spki else None,
            "bundle": BUNDLE,
            **fields,
        }
    )


def stored(generation=1, **fields):
    """A credential as a start reads it from disk."""
    return StoredCredential(
        **{
            "generation": generation,
            "source": "issued",
            "hub": "hub.example",
            "device_id": "device-1",
            "fingerprint": "f1",
            "sha256": f"stored-{generation}",
            "serial": "2a",
            "spki_sha256": f"k{generation}",
            "not_before_unix_ms": T0 - DAY,
            "not_after_unix_ms": T0 + 89 * DAY,
            **fields,
        }
    )


def holding(current, **fields):
    return Inventory(current=current, newest_generation=current.generation, **fields)


@dataclass
class Store:
    """What the credential store holds on disk: keys by generation, what was committed, and the pointer."""

    keys: dict[int, str] = field(default_factory=dict)
    committed: dict[int, StoredCredential] = field(default_factory=dict)
    current: int | None = None
    ever_issued: bool = False

    def inventory(self):
        current = self.committed.get(self.current) if self.usable() else None
        generations = {*self.keys, *self.committed}
        return Inventory(current=current, newest_generation=max(generations, default=0))

    def usable(self):
        """A matching key and certificate, or the configured credential, is current."""
        if self.current is None:
            return False
        one = self.committed[self.current]
        return one.source == "configured" or self.keys.get(self.current) == one.spki_sha256

    def stage(self, effect: StageKey):
        source = effect.reuse_generation
        reused = self.keys.get(source) if source is not None else None
        self.keys.setdefault(effect.generation, reused or f"k{effect.generation}")
        return self.keys[effect.generation]

    def commit(self, effect: CommitCredential, facts: ChainFacts | None):
        """False when the staged key is not there any more."""
        generation = effect.generation
        if facts is not None and self.keys.get(generation) != facts.spki_sha256:
            return False
        chosen = {} if facts is None else _facts(facts)
        self.committed[generation] = StoredCredential(
            generation=generation,
            source="configured" if facts is None else "issued",
            hub=effect.hub,
            device_id=effect.device_id,
            fingerprint=effect.fingerprint,
            bundle_id=effect.bundle_id if effect.bundle_pem is not None else None,
            bundle_certificates=0 if effect.bundle_pem is None else 1,
            bundle_sha256="" if effect.bundle_pem is None else BUNDLE.sha256,
            **chosen,
        )
        self.current = generation
        self.ever_issued = self.ever_issued or facts is not None
        return True

    def retire(self, effect: RetireCredential):
        younger = (one for one in self.keys if effect.newest is not None and one > effect.newest)
        kept = {*effect.keep, self.current, *younger}
        self.keys = {number: key for number, key in self.keys.items() if number in kept}
        self.committed = {number: one for number, one in self.committed.items() if number in kept}

    def lose(self):
        """The pointer; by an erasure too, which begins with it."""
        self.current = None
        self.ever_issued = False

    def purge(self):
        self.lose()
        self.keys, self.committed = {}, {}


def _facts(facts):
    return {
        "sha256": facts.sha256,
        "serial": facts.serial,
        "spki_sha256": facts.spki_sha256,
        "not_before_unix_ms": facts.not_before_unix_ms,
        "not_after_unix_ms": facts.not_after_unix_ms,
    }


@dataclass
class World:
    """The machine, its store, the time, and the history of decisions."""

    snapshot: Snapshot = field(default_factory=Snapshot)
    now: int = T0
    store: Store = field(default_factory=Store)
    history: list[tuple[int, AnyEvent, Decision]] = field(default_factory=list)

    def take(self, event, *, after_ms=0):
        assert len(self.history) < ENDLESS, "this goes on for ever"
        self.now += after_ms
        decision = decide(self.snapshot, event, self.now)
        self.snapshot = decision.snapshot
        self.history.append((self.now, event, decision))
        return decision

    @property
    def position(self):
        return self.snapshot.state, self.snapshot.phase

    # --- effects and their answers -------------------------------------------------------------------

    def pending(self, kind) -> Outstanding:
        return next(one for one in self.snapshot.outstanding if isinstance(one.effect, kind))

    def asks(self, kind):
        return any(isinstance(one.effect, kind) for one in self.snapshot.outstanding)

    def perform(self, one: Outstanding, **fields) -> AnyEvent:
        """What the peer does when all is well; the answer is returned, not taken."""
        effect = one.effect
        match effect:
            case StageKey():
                spki = self.store.stage(effect)
                return KeyStaged(
                    **{
                        "answers": one.id,
                        "generation": effect.generation,
                        "spki_sha256": spki,
                        **fields,
                    }
                )
            case SubmitRegistration():
                return RegistrationAccepted(**{"answers": one.id, "operation_id": "op-1", **fields})
            case PollRegistration():
                return assigned(one.id, effect.spki_sha256, self.now, **fields)
            case ProveCredential():
                return CredentialProven(
                    **{"answers": one.id, "generation": effect.generation, **fields},
                )
            case CommitCredential():
                return self._commit(one, effect, fields)
            case RetireCredential():
                self.store.retire(effect)
                return CredentialRetired(answers=one.id, **fields)
            case PurgeCredentials():
                self.store.purge()
                return CredentialsPurged(answers=one.id, **fields)
            case PushModuleKeys():
                return ModuleKeysPushed(**{"answers": one.id, "modules": 2, **fields})
        raise AssertionError(effect)

    def _commit(self, one, effect, fields):
        candidate = self.snapshot.candidate
        facts = candidate.chain if candidate is not None else None
        if self.store.commit(effect, facts):
            return CredentialCommitted(
                **{"answers": one.id, "generation": effect.generation, **fields},
            )
        return refusal(one, failure_class="new_key", code="key-missing")

    def answer(self, kind, after_ms=10, **fields):
        """All is well with the effect of that kind."""
        self.now += after_ms
        return self.take(self.perform(self.pending(kind), **fields))

    def deny(self, kind, after_ms=10, **fields):
        """The effect of that kind fails."""
        return self.take(refusal(self.pending(kind), **fields), after_ms=after_ms)

    def by_our_clock(self, at_unix_ms):
        """What our own clock, right or wrong, will show at a true instant."""
        return at_unix_ms - self.snapshot.clock.correction_ms

    def fire(self, name, **fields):
        armed = self.snapshot.armed_as(name)
        assert armed is not None, f"{name} is not armed"
        self.now = max(self.now, self.by_our_clock(armed.at_unix_ms))
        return self.take(DeadlinePassed(name=name, **fields))

    def restart(self, *, down_ms=5_000, **fields):
        """The process was killed and starts again; the store is as it was left."""
        self.now += down_ms
        return self.take(started(**{"inventory": self.store.inventory(), **fields}))

    # --- getting somewhere ---------------------------------------------------------------------------

    def once(self, **fields):
        """The next answer, or the phase acts again."""
        if self.snapshot.outstanding:
            return self.take(self.perform(self.snapshot.outstanding[0], **fields), after_ms=10)
        return self.fire("phase")

    def until(self, phase, limit=60):
        """Answer everything happily until that phase."""
        for _ in range(limit):
            if self.snapshot.phase is phase:
                return self
            self.once()
        raise AssertionError(f"does not come to {phase}: {self.position}")

    def settle(self, limit=60):
        """Answer everything happily until nothing is outstanding and no attempt is running."""
        for _ in range(limit):
            if not self.snapshot.outstanding and self.snapshot.phase is Phase.IDLE:
                return self
            self.once()
        raise AssertionError(f"does not settle: {self.position}")


def refusal(one: Outstanding, **fields):
    """The failure that answers an effect."""
    facts = {
        "answers": one.id,
        "failure_class": "retry",
        "code": "unreachable",
        "message": "no",
        **fields,
    }
    match one.effect:
        case StageKey():
            return KeyStageFailed(**facts)
        case SubmitRegistration() | PollRegistration():
            return RegistrationFailed(**facts)
        case ProveCredential():
            return CredentialProofFailed(**{"generation": one.effect.generation, "refused": False, **facts})
        case CommitCredential():
            return CredentialCommitFailed(**facts)
        case RetireCredential():
            return CredentialRetireFailed(**facts)
        case PurgeCredentials():
            return CredentialsPurgeFailed(**facts)
        case PushModuleKeys():
            return ModuleKeysPushFailed(**facts)
    raise AssertionError(one)


# --- places ------------------------------------------------------------------------------------------


def fresh(**fields):
    """Registering, its key being staged: where every new device begins."""
    world = World()
    world.take(started(**fields))
    return world


def registering(phase=Phase.STAGING, **fields):
    return fresh(**fields).until(phase)


def unprovisioned(**fields):
    """A first registration failed; the next attempt is armed."""
    world = registering(Phase.SUBMITTING)
    world.deny(SubmitRegistration, **fields)
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    return world


def provisioned(**fields):
    """A device that registered and serves its issued certificate."""
    return fresh(**fields).settle()


def certless(**fields):
    """A device whose enrolment issues no certificate."""
    world = registering(Phase.POLLING, **fields)
    world.fire("phase")
    world.answer(PollRegistration, chain=None)
    world.settle()
    assert world.snapshot.credential.source == "configured"
    return world


def expiring(**fields):
    world = provisioned(**fields)
    world.fire("window")
    assert world.position == (State.CERT_EXPIRING, Phase.IDLE)
    return world


def renewing(phase=Phase.STAGING, **fields):
    world = expiring(**fields)
    world.fire("attempt")
    assert world.snapshot.state is State.RENEWING
    return world.until(phase)


def reprovisioning(phase=Phase.STAGING, **fields):
    world = provisioned(**fields)
    world.take(ReprovisionRequested(uid=0), after_ms=HOUR)
    assert world.snapshot.state is State.REPROVISIONING
    return world.until(phase)


def waiting(**fields):
    """Reprovisioning, between two attempts."""
    world = reprovisioning(Phase.SUBMITTING)
    world.deny(SubmitRegistration, draw_ppm=500_000, **fields)
    assert world.position == (State.REPROVISIONING, Phase.IDLE)
    return world


def unproven():
    """Provisioned with a certificate that was committed while the hub could not be reached."""
    world = registering(Phase.PROVING)
    world.deny(ProveCredential)
    world.settle()
    assert world.position == (State.PROVISIONED, Phase.IDLE)
    assert not world.snapshot.credential.proven
    return world


def purging(place=provisioned):
    """Given up; what identified the device is being erased."""
    world = place()
    world.take(PurgeRequested(uid=0))
    assert world.position == (State.UNPROVISIONED, Phase.IDLE)
    return world


def given_up(place=provisioned):
    """And all of it is gone."""
    world = purging(place)
    world.answer(PurgeCredentials)
    return world


def manual(phase=Phase.IDLE, policy=MANUAL, **fields):
    """A device whose configuration is the assignment: taken up, or on the way there."""
    world = fresh(policy=policy, fingerprint=fingerprint_of(policy), **fields)
    return world.settle() if phase is Phase.IDLE else world.until(phase)


def fingerprint_of(policy):
    """Another for every assignment that a configuration may name, as the reader of config.toml makes it."""
    if policy.manual is not None:
        return f"m-{policy.manual.hub}"
    return "f1" if policy.dps else ""


def configured(policy, fingerprint=None):
    """Somebody changed config.toml."""
    return ConfigurationChanged(
        policy=policy, fingerprint=fingerprint_of(policy) if fingerprint is None else fingerprint
    )


# --- reading decisions -------------------------------------------------------------------------------


def wish(effect: AnyEffect) -> str:
    """An effect in two words, for tables."""
    match effect:
        case ArmDeadline() | ArmDelay():
            return f"arm {effect.name}"
        case Disarm():
            return f"disarm {effect.name}"
        case StageKey():
            return f"stage {effect.generation}"
        case SubmitRegistration():
            return f"register {effect.generation}"
        case PollRegistration():
            return "poll"
        case ProveCredential():
            return f"prove {effect.generation}"
        case CommitCredential():
            return f"commit {effect.generation}"
        case RetireCredential():
            return f"keep {','.join(map(str, effect.keep))}"
        case PurgeCredentials():
            return "erase"
        case PushModuleKeys():
            return "push"
        case StopService():
            return "stop"
    raise AssertionError(effect)


def wishes(decision: Decision) -> list[str]:
    return [wish(effect) for effect in decision.effects]


def asked(decision: Decision):
    """The effects that must be answered."""
    return [effect for effect in decision.effects if isinstance(effect, Asking)]
