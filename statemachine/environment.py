"""A small model of the world around the machine: what it may do next, and what that comes to.

The world is a store of credentials, a true time, an own clock that may be wrong, and whoever is asked.
It may do anything at any moment: answer in every way that a decision can tell apart, let a deadline
fire early, late or never, set the clock, kill the process with its last effects done or not done, take
what the store holds, change the configuration. Nothing here decides, and nothing here looks at a state.

What is taken for granted: the store keeps its promises (ports.CredentialStore), a Date header that came
over validated TLS is true, and a kernel says that it is synchronised only when it is.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

from msgspec import Struct, structs

from statemachine.effects import (
    AnyEffect,
    CommitCredential,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
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
    CredentialsPurged,
    CredentialsPurgeFailed,
    DeadlinePassed,
    HoldRequested,
    HookEnded,
    HubRefusedCredential,
    Inventory,
    KeyStaged,
    KeyStageFailed,
    ModuleKeysLost,
    ModuleKeysPushed,
    ModuleKeysPushFailed,
    ModuleKeysRequested,
    PurgeRequested,
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
from statemachine.policy import DAY_MS, REFUSALS_NEEDED
from statemachine.rows import Row, key_of
from statemachine.settings import ManualAssignment, PolicySettings
from statemachine.snapshot import Armed, Outstanding, Snapshot
from statemachine.states import FailureClass, Phase, Timer

NOW = 2_000_000_000_000
"True time where a world begins, Unix milliseconds."
BUILD = NOW - 600 * DAY_MS
"When the release was built: no clock that shows less can be right."
LIFE_MS = 100 * DAY_MS
"Of every issued certificate."
AGE_MS = 10 * DAY_MS
"How long ago a certificate begins when it is issued."
DRAW_PPM = 500_000
MUCH_LATER_MS = 38 * DAY_MS
SILENT_MS = 2 * DAY_MS
"Long enough for a start to notice."

ERRORS: dict[str, int] = {
    "right": 0,
    "behind": -400 * DAY_MS,
    "1970": DAY_MS - NOW,
    "ahead": 400 * DAY_MS,
}
"What the own clock shows, less the true time."

HUBS = ("one.example", "two.example")
BUNDLES = (
    BundleFacts(bundle_pem=b"one", certificates=1, sha256="b1"),
    BundleFacts(bundle_pem=b"two", certificates=1, sha256="b2"),
)
_BY_PEM = {bundle.bundle_pem: bundle for bundle in BUNDLES}

_DPS = PolicySettings(
    registration_id="device-1",
    endpoint="https://dps.example",
    scope_id="0ne0",
    attestation="symmetric_key",
    budget_registrations=1,
)
CONFIGURATIONS: dict[str, tuple[PolicySettings, str]] = {
    "dps": (_DPS, "f1"),
    "same key": (structs.replace(_DPS, rotate_key=False), "f1"),
    "another scope": (structs.replace(_DPS, scope_id="0ne1"), "f2"),
    "another bundle id": (structs.replace(_DPS, trust_bundle_id="bundle-2"), "f1"),
    "manual": (
        PolicySettings(
            dps=False,
            manual=ManualAssignment(hub=HUBS[0], device_id="device-1"),
            attestation="symmetric_key",
        ),
        "m1",
    ),
    "none": (PolicySettings(dps=False), ""),
}
"By name: what is configured, and its fingerprint. The bound of registrations is low, so that it is met."


class Disk(Struct, frozen=True):
    """What the store holds: the credential its pointer names, and which generations have their key.

    A configured credential has none of its own, and is complete without.
    """

    current: StoredCredential | None = None
    keys: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()
    "Generations whose keys somebody took."

    def usable(self) -> bool:
        """What is current can be used: a matching pair, or the configured credential."""
        one = self.current
        return one is not None and (one.source == "configured" or one.generation in self.keys)


class Late(Struct, frozen=True):
    """Work of the store that nobody waits for any more, and that happens all the same."""

    effect: StageKey | CommitCredential | RetireCredential
    stored: StoredCredential | None = None
    "What a commit makes current."


class World(Struct, frozen=True):
    """Everything there is."""

    snapshot: Snapshot = Snapshot()
    disk: Disk = Disk()
    now: int = NOW
    "True time."
    error: int = 0
    "What the own clock shows, less the true time."
    late: Late | None = None

    @property
    def stamp(self) -> int:
        return self.now + self.error


class Choice(NamedTuple):
    """One thing the world may do next; plain data, the same in every world where it is possible."""

    kind: str
    what: str = ""
    how: str = ""


class Happened(NamedTuple):
    """What a choice came to. Without an event nothing was told to the machine."""

    world: World
    event: AnyEvent | None = None
    decision: Decision | None = None
    rows: tuple[Row[Any], ...] = ()
    "Those that were taken."
    told: Snapshot = Snapshot()
    "What the machine knew when it was told."


class Impossible(Exception):
    """The choice does not exist in this world."""


# --- what may happen ----------------------------------------------------------------------------------

_COMMON_ANSWERS: dict[type[AnyEffect], tuple[str, ...]] = {
    StageKey: ("ok",),
    SubmitRegistration: ("accepted",),
    PollRegistration: ("pending", "assigned"),
    ProveCredential: ("ok",),
    CommitCredential: ("ok",),
    RetireCredential: ("ok",),
    PurgeCredentials: ("ok",),
}
"A store that works, and a cloud that does what is asked of it, or takes its time: too long, even."

_RARE_ANSWERS: dict[type[AnyEffect], tuple[str, ...]] = {
    StageKey: ("retry", "operator"),
    SubmitRegistration: (
        "assigned",
        "unsent",
        "retry",
        "operator",
        "new_key",
        "reregister",
        "clock",
        "no csr",
    ),
    PollRegistration: (
        "assigned, another bundle",
        "assigned, no bundle",
        "assigned, bundles not spoken",
        "moved",
        "moved, no bundle",
        "in its window",
        "no certificate",
        "another key",
        "retry",
        "operator",
        "reregister",
        "no csr",
    ),
    ProveCredential: ("refused", "alert", "unreachable", "new_key"),
    CommitCredential: ("retry", "operator"),
    RetireCredential: ("retry",),
    PurgeCredentials: ("retry",),
}
"""The others that decisions can tell apart. `wait` is to them what `retry` is.

A refusal by a TLS alert comes without a Date.
"""

_COMMANDS = (
    Choice("reprovision", "operator"),
    Choice("reprovision", "caller"),
    Choice("renew"),
)
_OBSERVATIONS = (Choice("refused by the hub"), Choice("refused by the hub", "often"), Choice("lost"))
_FIRST_OBSERVATIONS = (Choice("refused by the hub"), Choice("lost"))
_RESTARTS = (
    Choice("restart", "at once"),
    Choice("restart", "another machine"),
    Choice("restart", "store empty"),
    Choice("restart", "journal lost"),
    Choice("restart", "journal lost", "another scope"),
)


_TELLING_LATER = ("at once", "clock")
"Starts that see how long nothing was heard; of the others it is enough that one of these comes before."
_NEWS_AT_START = ("another scope", "manual", "none")
_FIRST_CONFIGURATIONS = ("same key", "manual", "none")
_OTHER_STORES = ("early", "in its window")
"How old the certificate is that a restored store holds."


def common(world: World) -> Iterator[Choice]:
    """The common run of things, beside time passing: it never surprises, and never ends."""
    snapshot = world.snapshot
    if snapshot.sequence == 0:
        yield Choice("first start", "right")
        yield from (Choice("first start", "right", name) for name in _FIRST_CONFIGURATIONS)
        return
    for one in snapshot.outstanding:
        kind = type(one.effect)
        for how in _COMMON_ANSWERS[kind]:
            yield Choice("answer", kind.__name__, how)
    for armed in snapshot.armed:
        if due(world, armed):
            yield Choice("deadline", armed.name)
    if snapshot.hold:
        yield Choice("release")
    if world.error:
        yield Choice("clock set", "right")
    elif not snapshot.clock.trusted:
        yield Choice("clock confirmed")
    if world.late is not None:
        yield Choice("late")


def due(world: World, armed: Armed) -> bool:
    """It is a delay, or its instant has come by the own clock."""
    return armed.delay_ms is not None or armed.at_unix_ms <= world.stamp + world.snapshot.clock.correction_ms


def rare(world: World) -> Iterator[Choice]:
    """Whatever else may happen, at any moment."""
    snapshot = world.snapshot
    if snapshot.sequence == 0:
        yield from (Choice("first start", name) for name in ERRORS if name != "right")
        return
    yield from _restarts(world)
    for one in snapshot.outstanding:
        kind = type(one.effect)
        for how in _RARE_ANSWERS[kind]:
            yield Choice("answer", kind.__name__, how)
        if kind is SubmitRegistration and _budget_is_spent(world):
            yield Choice("answer", kind.__name__, "unsent, of many")
        if kind is ProveCredential and not snapshot.clock.trusted and snapshot.phase is Phase.IDLE:
            yield Choice("answer", kind.__name__, "alert, often")
    yield from _COMMANDS
    if not snapshot.hold:
        yield Choice("hold")
    yield Choice("purge")
    for name, (policy, fingerprint) in CONFIGURATIONS.items():
        if (policy, fingerprint) != (snapshot.policy, snapshot.fingerprint):
            yield Choice("configured", name)
    if snapshot.credential is not None:
        yield from _OBSERVATIONS if snapshot.refusals.count else _FIRST_OBSERVATIONS
    if not world.error and snapshot.clock.trusted:
        yield Choice("clock confirmed")
    for name, error in ERRORS.items():
        if error != world.error:
            if error:
                yield Choice("clock set", name)
            yield Choice("clock set", name, "later")


Sort = Literal["answer", "kill", "clock", "command", "configuration", "loss", "refusal"]

SORTS: tuple[Sort, ...] = get_args(Sort)

_SORTS: dict[str, Sort] = {
    "answer": "answer",
    "reprovision": "command",
    "renew": "command",
    "hold": "command",
    "purge": "command",
    "configured": "configuration",
    "clock set": "clock",
    "clock confirmed": "clock",
    "first start": "clock",
    "refused by the hub": "refusal",
    "lost": "loss",
}
_SORTS_OF_STARTS: dict[str, Sort] = {
    "at once": "kill",
    "effects done": "kill",
    "clock": "clock",
    "clock confirmed": "clock",
    "configured": "configuration",
    "another machine": "loss",
    "store empty": "loss",
    "another store": "loss",
    "journal lost": "loss",
}


def sort_of(choice: Choice) -> Sort:
    """What kind of surprise it is. A start that meets another world is what made it another."""
    return _SORTS_OF_STARTS[choice.what] if choice.kind.startswith("restart") else _SORTS[choice.kind]


def _restarts(world: World) -> Iterator[Choice]:
    for choice in _starts(world):
        yield choice
        if choice.what in _TELLING_LATER:
            yield choice._replace(kind="restart later")


def _starts(world: World) -> Iterator[Choice]:
    yield from _RESTARTS
    if not world.error and not world.snapshot.clock.trusted:
        yield Choice("restart", "clock confirmed")
    if any(
        isinstance(one.effect, StageKey | CommitCredential | PurgeCredentials)
        for one in world.snapshot.outstanding
    ):
        yield Choice("restart", "effects done")
    for name, error in ERRORS.items():
        if error != world.error:
            yield Choice("restart", "clock", name)
    if world.disk.current is not None:
        yield from (Choice("restart", "another store", how) for how in _OTHER_STORES)
    for name in _NEWS_AT_START:
        if CONFIGURATIONS[name] != (world.snapshot.policy, world.snapshot.fingerprint):
            yield Choice("restart", "configured", name)


_NOBODY_ASKED: dict[str, Any] = {"answers": "9.9.9"}
_IT_FAILED: dict[str, Any] = {**_NOBODY_ASKED, "failure_class": "retry", "code": "late"}
_TIMERS: dict[str, Timer] = {name: name for name in get_args(Timer)}
_STALE_ANSWERS: dict[str, AnyEvent] = {
    key_of(one): one
    for one in (
        KeyStaged(**_NOBODY_ASKED, generation=1, spki_sha256="k1"),
        KeyStageFailed(**_IT_FAILED),
        RegistrationAccepted(**_NOBODY_ASKED, operation_id="op"),
        RegistrationPending(**_NOBODY_ASKED),
        RegistrationAssigned(**_NOBODY_ASKED, assigned_hub=HUBS[0], device_id="device-1"),
        RegistrationFailed(**_IT_FAILED),
        CredentialProven(**_NOBODY_ASKED, generation=1),
        CredentialProofFailed(**_IT_FAILED, generation=1, refused=True),
        CredentialCommitted(**_NOBODY_ASKED, generation=1),
        CredentialCommitFailed(**_IT_FAILED),
        CredentialRetired(**_NOBODY_ASKED),
        CredentialRetireFailed(**_IT_FAILED),
        CredentialsPurged(**_NOBODY_ASKED),
        CredentialsPurgeFailed(**_IT_FAILED),
        ModuleKeysPushed(**_NOBODY_ASKED, modules=1),
        ModuleKeysPushFailed(**_IT_FAILED),
    )
}

STALE = (
    *(Choice("stale", "answer", key) for key in _STALE_ANSWERS),
    *(Choice("stale", "deadline", name) for name in _TIMERS),
    Choice("stale", "early"),
    Choice("stale", "refusal"),
    Choice("stale", "loss"),
)
"What may come at any moment and must change nothing."

ASIDE = (
    Choice("shutdown"),
    Choice("module keys lost"),
    Choice("lost already"),
    Choice("module keys asked for"),
    Choice("hook ended"),
    Choice("rules"),
)
"What must touch nothing but its own: looked at in every situation, and not followed."
MAY_CHANGE = ("shutdown", "lost already")
"Of these: the one stops the service, the other may find a deadline of what is gone."

AFTERWARDS: dict[Choice, tuple[Choice, ...]] = {
    Choice("shutdown"): (*_COMMANDS, Choice("module keys asked for"), *_FIRST_OBSERVATIONS),
    Choice("module keys asked for"): (
        Choice("module keys asked for"),
        Choice("answer", "PushModuleKeys", "ok"),
        Choice("answer", "PushModuleKeys", "retry"),
    ),
}
"What may come next, where it is not followed any further."


# --- what it comes to ---------------------------------------------------------------------------------


def happen(world: World, choice: Choice) -> Happened:
    """Do it. Raises Impossible."""
    match choice:
        case Choice("answer", what, how):
            return _answer(world, what, how)
        case Choice("deadline"):
            return _take(world, _told(world, choice))
        case Choice("first start", error, name):
            return _start(structs.replace(world, error=ERRORS[error]), *CONFIGURATIONS[name or "dps"])
        case Choice("restart", what, how):
            return _restart(world, what, how)
        case Choice("restart later", what, how):
            return _restart(_much_later(world), what, how)
        case Choice("late"):
            return _late(world)
        case Choice("refused by the hub", "often"):
            return _take(_refused_before(world), _told(world, choice))
        case Choice("clock set", error, how):
            jump = ERRORS[error] - world.error
            world = _much_later(world) if how else world
            seen = structs.replace(world, error=ERRORS[error])
            return _take(seen, ClockObserved(jump_ms=jump, kernel_synchronised=not seen.error))
        case Choice("lost"):
            empty = structs.replace(world, disk=structs.replace(world.disk, current=None))
            return _take(empty, CredentialLost(generation=_generation(world), reason="gone"))
        case Choice("stale"):
            return _take(world, _stale(world, choice))
    return _take(world, _told(world, choice))


def _told(world: World, choice: Choice) -> AnyEvent:
    match choice:
        case Choice("deadline", what):
            for one in world.snapshot.armed:
                if one.name == what:
                    return DeadlinePassed(name=one.name, draw_ppm=DRAW_PPM)
        case Choice("reprovision", "operator"):
            return ReprovisionRequested(uid=0, draw_ppm=DRAW_PPM)
        case Choice("reprovision"):
            return ReprovisionRequested(uid=1000, privileged=False, draw_ppm=DRAW_PPM)
        case Choice("renew"):
            return RenewRequested(uid=0, draw_ppm=DRAW_PPM)
        case Choice("hold" | "release" as kind):
            return HoldRequested(hold=kind == "hold", uid=0, draw_ppm=DRAW_PPM)
        case Choice("purge"):
            return PurgeRequested(uid=0, draw_ppm=DRAW_PPM)
        case Choice("configured", name):
            policy, fingerprint = CONFIGURATIONS[name]
            return ConfigurationChanged(policy=policy, fingerprint=fingerprint, draw_ppm=DRAW_PPM)
        case Choice("shutdown"):
            return ShutdownRequested()
        case Choice("refused by the hub"):
            return HubRefusedCredential(generation=_generation(world), code="hub-401", draw_ppm=DRAW_PPM)
        case Choice("clock confirmed"):
            return ClockObserved(kernel_synchronised=True)
        case Choice("lost already"):
            if world.snapshot.credential is not None:
                raise Impossible("already")
            return CredentialLost(generation=0, reason="gone")
        case Choice("module keys lost"):
            return ModuleKeysLost(reason="gone")
        case Choice("module keys asked for"):
            return ModuleKeysRequested(uid=0)
        case Choice("hook ended"):
            return HookEnded(hook="renewal", outcome="done")
        case Choice("rules"):
            return RulesChanged(before=RULES_REVISION, after=RULES_REVISION)
    raise Impossible(choice)


def _refused_before(world: World) -> World:
    """One refusal stands for any number below the one that is believed."""
    if not world.snapshot.refusals.count:
        raise Impossible("often")
    return _refused_often(world)


def _stale(world: World, choice: Choice) -> AnyEvent:
    """Nobody waits for it, or it is about what is not in use."""
    generation = _generation(world)
    match choice:
        case Choice("stale", "answer", key):
            answer = _STALE_ANSWERS[key]
            mine = isinstance(answer, CredentialProven | CredentialProofFailed)
            return structs.replace(answer, generation=generation) if mine else answer
        case Choice("stale", "deadline", how):
            name = _TIMERS[how]
            if world.snapshot.armed_as(name) is None:
                return DeadlinePassed(name=name, draw_ppm=DRAW_PPM)
        case Choice("stale", "early"):
            for one in world.snapshot.armed:
                if not due(world, one):
                    return DeadlinePassed(name=one.name, draw_ppm=DRAW_PPM)
        case Choice("stale", "refusal"):
            return HubRefusedCredential(generation=generation + 9, code="hub-401")
        case Choice("stale", "loss"):
            if world.snapshot.credential is not None:
                return CredentialLost(generation=generation + 9, reason="gone")
    raise Impossible(choice)


def _generation(world: World) -> int:
    credential = world.snapshot.credential
    return 0 if credential is None else credential.generation


def _take(world: World, event: AnyEvent) -> Happened:
    """Tell the machine; what it forgets to wait for goes on without it."""
    before = world.snapshot
    rows: list[Row[Any]] = []
    decision = decide(before, event, world.stamp, rows)
    after = decision.snapshot
    late = world.late
    if after.outstanding is not before.outstanding and before.outstanding:
        waited = {one.id for one in after.outstanding}
        answered = getattr(event, "answers", "")
        for one in before.outstanding:
            if one.id not in waited and one.id != answered:
                late = _forgotten(before, one) or late
    return Happened(structs.replace(world, snapshot=after, late=late), event, decision, tuple(rows), before)


def _forgotten(before: Snapshot, one: Outstanding) -> Late | None:
    match one.effect:
        case StageKey() as effect:
            return Late(effect)
        case CommitCredential() as effect:
            return Late(effect, stored=_to_be(before))
        case RetireCredential() as effect:
            return Late(effect)
    return None


def _to_be(snapshot: Snapshot) -> StoredCredential:
    """What committing the candidate makes current."""
    candidate = snapshot.candidate
    assert candidate is not None, "a commit is asked for with a candidate"
    bundle = candidate.bundle
    attempt = snapshot.attempt
    assert attempt is not None, "and in an attempt"
    kept = snapshot.bundle if candidate.keep_bundle else None
    chain = candidate.chain
    return StoredCredential(
        generation=candidate.generation,
        source="configured" if chain is None else "issued",
        hub=candidate.hub,
        device_id=candidate.device_id,
        fingerprint=attempt.fingerprint,
        sha256="" if chain is None else chain.sha256,
        spki_sha256="" if chain is None else chain.spki_sha256,
        not_before_unix_ms=0 if chain is None else chain.not_before_unix_ms,
        not_after_unix_ms=0 if chain is None else chain.not_after_unix_ms,
        bundle_id=candidate.bundle_id if bundle is not None or kept is not None else None,
        bundle_certificates=0 if bundle is None and kept is None else 1,
        bundle_sha256=bundle.sha256 if bundle is not None else kept.sha256 if kept is not None else "",
    )


# --- the store ----------------------------------------------------------------------------------------


def _with_key(disk: Disk, generation: int) -> Disk:
    if generation in disk.keys:
        return disk
    taken = tuple(one for one in disk.taken if one != generation)
    return Disk(disk.current, tuple(sorted((*disk.keys, generation))), taken)


def staged(disk: Disk, effect: StageKey) -> Disk | None:
    """None when the key to copy is not there."""
    reuse = effect.reuse_generation
    if reuse is not None and reuse not in disk.keys and effect.generation not in disk.keys:
        return None
    return _with_key(disk, effect.generation)


def committed(disk: Disk, stored: StoredCredential) -> Disk | None:
    """None when the staged key is not there any more: nothing is flipped then."""
    if stored.source == "issued" and stored.generation not in disk.keys:
        return None
    whole = _with_key(disk, stored.generation)
    return Disk(stored, whole.keys, whole.taken)


def retired(disk: Disk, effect: RetireCredential) -> Disk:
    """What is current, kept, or younger than what was asked of stays."""
    newest = effect.newest
    kept = {*effect.keep, 0 if disk.current is None else disk.current.generation}
    return Disk(
        disk.current,
        tuple(one for one in disk.keys if one in kept or (newest is not None and one > newest)),
        disk.taken,
    )


def _late(world: World) -> Happened:
    late, disk = world.late, world.disk
    if late is None:
        raise Impossible("late")
    match late.effect:
        case StageKey() as effect:
            disk = staged(disk, effect) or disk
        case RetireCredential() as effect:
            disk = retired(disk, effect)
        case _:
            assert late.stored is not None, "a commit knows what it makes current"
            disk = committed(disk, late.stored) or disk
    return Happened(structs.replace(world, disk=disk, late=None))


# --- answers ------------------------------------------------------------------------------------------

_CLASSES: dict[str, FailureClass] = {
    "unsent": "retry",
    "retry": "retry",
    "operator": "operator",
    "new_key": "new_key",
    "reregister": "reregister",
    "clock": "clock",
    "no csr": "operator",
    "unreachable": "retry",
    "refused": "operator",
    "alert": "operator",
}


def _budget_is_spent(world: World) -> bool:
    snapshot = world.snapshot
    return snapshot.budget.spent >= snapshot.policy.budget_registrations


def _refused_often(world: World) -> World:
    refusals = world.snapshot.refusals
    counted = structs.replace(refusals, count=max(refusals.count, REFUSALS_NEEDED - 1))
    return structs.replace(world, snapshot=structs.replace(world.snapshot, refusals=counted))


def _more_spent(world: World) -> World:
    """A budget that is spent stands for one that is spent more than once."""
    if not _budget_is_spent(world):
        raise Impossible("of many")
    budget = world.snapshot.budget
    more = structs.replace(world.snapshot, budget=structs.replace(budget, spent=budget.spent + 1))
    return structs.replace(world, snapshot=more)


def _answer(world: World, what: str, how: str) -> Happened:
    if how == "unsent, of many":
        world, how = _more_spent(world), "unsent"
    if how == "alert, often":
        world, how = _refused_often(world), "alert"
    for one in world.snapshot.outstanding:
        if type(one.effect).__name__ == what:
            disk, event = _reply(world, one, how)
            # The store does one thing after the other: nothing begun before comes after an erasure.
            late = None if isinstance(one.effect, PurgeCredentials) else world.late
            return _take(structs.replace(world, disk=disk, late=late), event)
    raise Impossible(what)


def _reply(world: World, one: Outstanding, how: str) -> tuple[Disk, AnyEvent]:
    disk = world.disk
    match one.effect:
        case StageKey() as effect:
            after = staged(disk, effect) if how == "ok" else None
            if after is None:
                return disk, KeyStageFailed(**_no(one, "new_key" if how == "ok" else how))
            spki = f"k{effect.generation}"
            return after, KeyStaged(answers=one.id, generation=effect.generation, spki_sha256=spki)
        case SubmitRegistration() | PollRegistration() as effect:
            return disk, _registration(world, one, effect, how)
        case ProveCredential(generation=generation):
            if how == "ok":
                return disk, CredentialProven(
                    answers=one.id, generation=generation, server_date_unix_ms=world.now, draw_ppm=DRAW_PPM
                )
            refusal = CredentialProofFailed(
                generation=generation,
                refused=how in ("refused", "alert"),
                server_date_unix_ms=world.now if how == "refused" else None,
                **_no(one, how),
            )
            return disk, refusal
        case CommitCredential():
            after = committed(disk, _to_be(world.snapshot)) if how == "ok" else None
            if after is None:
                return disk, CredentialCommitFailed(**_no(one, "new_key" if how == "ok" else how))
            return after, CredentialCommitted(
                answers=one.id, generation=one.effect.generation, draw_ppm=DRAW_PPM
            )
        case RetireCredential() as effect if how == "ok":
            return retired(disk, effect), CredentialRetired(answers=one.id, draw_ppm=DRAW_PPM)
        case RetireCredential():
            return disk, CredentialRetireFailed(**_no(one, how))
        case PurgeCredentials() if how == "ok":
            return Disk(), CredentialsPurged(answers=one.id, draw_ppm=DRAW_PPM)
        case PurgeCredentials():
            return disk, CredentialsPurgeFailed(**_no(one, how))
        case _ if how == "retry":
            return disk, ModuleKeysPushFailed(answers=one.id, failure_class="retry", code="hub-503")
    return disk, ModuleKeysPushed(answers=one.id, modules=1)


def _no(one: Outstanding, how: str) -> dict[str, Any]:
    return {
        "answers": one.id,
        "failure_class": _CLASSES[how],
        "code": "csr-not-configured" if how == "no csr" else how,
        "draw_ppm": DRAW_PPM,
    }


def _registration(
    world: World, one: Outstanding, effect: SubmitRegistration | PollRegistration, how: str
) -> AnyEvent:
    date = world.now
    match how:
        case "accepted":
            return RegistrationAccepted(answers=one.id, operation_id="op", server_date_unix_ms=date)
        case "pending":
            return RegistrationPending(answers=one.id, server_date_unix_ms=date)
        case "unsent" | "clock":
            return RegistrationFailed(unsent=how == "unsent", **_no(one, how))
        case "retry" | "operator" | "new_key" | "reregister" | "no csr":
            return RegistrationFailed(server_date_unix_ms=date, **_no(one, how))
    held = world.snapshot.bundle
    second = held is not None and held.sha256 == BUNDLES[1].sha256
    bundle: BundleFacts | None = BUNDLES[second != ("another bundle" in how)]
    if "no bundle" in how or "spoken" in how:
        bundle = None
    return RegistrationAssigned(
        answers=one.id,
        assigned_hub=HUBS["moved" in how],
        device_id="device-1",
        chain=_chain(world, effect.spki_sha256, how),
        bundle=bundle,
        bundle_spoken="spoken" not in how,
        server_date_unix_ms=date,
        draw_ppm=DRAW_PPM,
    )


def _chain(world: World, spki: str, how: str) -> ChainFacts | None:
    """Without a CSR no certificate is issued."""
    if not spki or how == "no certificate":
        return None
    begins = _begins(world, how)
    return ChainFacts(
        chain_pem=b"",
        spki_sha256="other" if how == "another key" else spki,
        subject_cn="device-1",
        not_before_unix_ms=begins,
        not_after_unix_ms=begins + LIFE_MS,
        sha256=f"c{spki[1:]}",
        serial="",
    )


# --- starts -------------------------------------------------------------------------------------------


def _restart(world: World, what: str, how: str) -> Happened:
    """A kill at this very moment, and the next start; nothing that was under way survives it."""
    dead = structs.replace(world, late=None)
    snapshot = dead.snapshot
    policy, fingerprint = snapshot.policy, snapshot.fingerprint
    foreign = confirmed = False
    match what:
        case "effects done":
            dead = structs.replace(dead, disk=_all_done(dead))
        case "another machine":
            foreign = True
        case "store empty":
            gone = tuple(sorted({*dead.disk.keys, *dead.disk.taken}))
            dead = structs.replace(dead, disk=Disk(taken=gone))
        case "another store":
            dead = structs.replace(dead, disk=_restored(dead, how))
        case "journal lost":
            known = structs.replace(dead.disk, taken=())
            dead = structs.replace(dead, snapshot=Snapshot(epoch=snapshot.epoch + 1), disk=known)
            if how:
                policy, fingerprint = CONFIGURATIONS[how]
        case "clock confirmed":
            confirmed = True
        case "clock":
            dead = structs.replace(dead, error=ERRORS[how])
        case "configured":
            policy, fingerprint = CONFIGURATIONS[how]
    return _start(dead, policy, fingerprint, foreign=foreign, confirmed=confirmed)


def _much_later(world: World) -> World:
    """The last that was heard, and the last instant that is known to be over, are long ago.

    An operation was taken at that instant.
    """
    snapshot = world.snapshot
    clock = structs.replace(
        snapshot.clock, floor_unix_ms=min(snapshot.clock.floor_unix_ms, world.now - MUCH_LATER_MS)
    )
    last = min(snapshot.last_unix_ms, world.stamp - SILENT_MS)
    attempt = snapshot.attempt
    if attempt is not None and attempt.operation_id is not None:
        attempt = structs.replace(attempt, operation_unix_ms=clock.floor_unix_ms)
    older = structs.replace(snapshot, last_unix_ms=last, clock=clock, attempt=attempt)
    return structs.replace(world, snapshot=older)


def _restored(world: World, how: str) -> Disk:
    """Somebody put back what the store held once: an issued credential that the journal knows nothing of."""
    disk, snapshot = world.disk, world.snapshot
    old = disk.current
    if old is None:
        raise Impossible("another store")
    generation = 1 + max(snapshot.newest_generation, old.generation, *disk.keys, *disk.taken, 0)
    begins = _begins(world, how)
    restored = StoredCredential(
        generation=generation,
        source="issued",
        hub=old.hub,
        device_id=old.device_id,
        fingerprint=old.fingerprint,
        sha256=f"c{generation}",
        spki_sha256=f"k{generation}",
        not_before_unix_ms=begins,
        not_after_unix_ms=begins + LIFE_MS,
        bundle_id=old.bundle_id,
        bundle_certificates=old.bundle_certificates,
        bundle_sha256=old.bundle_sha256,
    )
    return Disk(restored, (generation,), tuple(sorted({*disk.keys, *disk.taken})))


def _begins(world: World, how: str) -> int:
    return world.now - (75 * DAY_MS if how == "in its window" else AGE_MS)


def _all_done(world: World) -> Disk:
    disk = world.disk
    for one in world.snapshot.outstanding:
        match one.effect:
            case StageKey() as effect:
                disk = staged(disk, effect) or disk
            case CommitCredential():
                disk = committed(disk, _to_be(world.snapshot)) or disk
            case RetireCredential() as effect:
                disk = retired(disk, effect)
            case PurgeCredentials():
                disk = Disk()
    return disk


def _start(
    world: World, policy: PolicySettings, fingerprint: str, *, foreign: bool = False, confirmed: bool = False
) -> Happened:
    disk = world.disk
    newest = max((*disk.keys, 0 if disk.current is None else disk.current.generation), default=0)
    return _take(
        world,
        Started(
            policy=policy,
            fingerprint=fingerprint,
            inventory=Inventory(
                current=disk.current if disk.usable() else None,
                problem=None if disk.current is None or disk.usable() else "damaged",
                newest_generation=newest,
            ),
            build_unix_ms=BUILD,
            rules_revision=RULES_REVISION,
            software_version="",
            kernel_synchronised=confirmed,
            foreign_machine=foreign,
            draw_ppm=DRAW_PPM,
        ),
    )
