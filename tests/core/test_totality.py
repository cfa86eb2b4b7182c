"""Every position that can be reached, against every event there is: an answer, never an exception."""

from collections import defaultdict
from typing import get_args

import pytest
from msgspec import structs

from statemachine.effects import StageKey
from statemachine.events import (
    Answer,
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
    KeyStaged,
    KeyStageFailed,
    ModuleKeysLost,
    ModuleKeysPushed,
    ModuleKeysPushFailed,
    ModuleKeysRequested,
    PurgeRequested,
    RegistrationAccepted,
    RegistrationFailed,
    RegistrationPending,
    RenewRequested,
    ReprovisionRequested,
    RulesChanged,
    ShutdownRequested,
)
from statemachine.invariants import positions
from statemachine.machine import ATTEMPT, LIFECYCLE, decide
from statemachine.rows import EVENT_KEYS, SIGNAL_KEYS, key_of
from statemachine.snapshot import Outstanding, Snapshot
from statemachine.states import ATTEMPT_STATES, Phase, State, Timer
from tests.core.walks import seeded
from tests.core.world import MANUAL, NO_DPS, POLICY, T0, World, assigned, started

RUNNING = tuple(phase for phase in Phase if phase is not Phase.IDLE)

REACHABLE = frozenset(
    {
        (State.UNPROVISIONED, Phase.IDLE),
        (State.PROVISIONED, Phase.IDLE),
        (State.CERT_EXPIRING, Phase.IDLE),
        (State.REPROVISIONING, Phase.IDLE),
        *((state, phase) for state in ATTEMPT_STATES for phase in RUNNING),
    }
)
UNREACHABLE = frozenset((state, phase) for state in State for phase in Phase) - REACHABLE
"No attempt outside the attempt states, and no Registering or Renewing without one."

PER_POSITION = 8
MINE = "0.0.0"


@pytest.fixture(scope="module")
def places():
    """Snapshots by position, from random walks."""
    found = defaultdict(list)
    for seed in range(160):
        for now, _, decision in seeded(seed, 60).history:
            snapshot = decision.snapshot
            found[snapshot.state, snapshot.phase].append((now, snapshot))
    return {position: some[:: max(len(some) // PER_POSITION, 1)] for position, some in found.items()}


def test_exactly_the_named_positions_are_reached(places):
    assert set(places) == REACHABLE
    assert len(UNREACHABLE) == len(State) * len(Phase) - len(REACHABLE)


def answers(one_id, generation):
    no = {"answers": one_id, "failure_class": "retry", "code": "unreachable"}
    return (
        KeyStaged(answers=one_id, generation=generation, spki_sha256="k"),
        KeyStageFailed(**no),
        RegistrationAccepted(answers=one_id, operation_id="op-2"),
        RegistrationPending(answers=one_id),
        assigned(one_id, "", T0),
        assigned(one_id, "k1", T0),
        RegistrationFailed(**no),
        RegistrationFailed(**{**no, "failure_class": "new_key"}),
        CredentialProven(answers=one_id, generation=generation),
        CredentialProofFailed(**no, generation=generation, refused=False),
        CredentialProofFailed(**no, generation=generation, refused=True),
        CredentialCommitted(answers=one_id, generation=generation),
        CredentialCommitFailed(**no),
        CredentialRetired(answers=one_id),
        CredentialRetireFailed(**no),
        CredentialsPurged(answers=one_id),
        CredentialsPurgeFailed(**no),
        ModuleKeysPushed(answers=one_id, modules=1),
        ModuleKeysPushFailed(**no),
    )


OTHERS = (
    ReprovisionRequested(uid=0),
    ReprovisionRequested(uid=1000, privileged=False),
    RenewRequested(uid=0),
    HoldRequested(hold=True, uid=0),
    HoldRequested(hold=False, uid=0),
    PurgeRequested(uid=0),
    ConfigurationChanged(policy=POLICY, fingerprint="f1"),
    ConfigurationChanged(policy=POLICY, fingerprint="f9"),
    ConfigurationChanged(policy=NO_DPS, fingerprint=""),
    ConfigurationChanged(policy=MANUAL, fingerprint="m"),
    ConfigurationChanged(policy=MANUAL, fingerprint="f1"),
    ModuleKeysRequested(uid=0),
    ShutdownRequested(),
    started(),
    started(policy=NO_DPS),
    started(policy=MANUAL),
    started(policy=MANUAL, fingerprint="m"),
    started(foreign_machine=True, kernel_synchronised=False),
    ClockObserved(kernel_synchronised=True),
    ClockObserved(kernel_synchronised=False, jump_ms=-(10**12)),
    HubRefusedCredential(generation=1, code="hub-401"),
    CredentialLost(generation=1, reason="gone"),
    ModuleKeysLost(reason="no such file"),
    HookEnded(hook="moved", outcome="refused", message="not root's"),
    RulesChanged(before=1, after=1),
    *(DeadlinePassed(name=name) for name in get_args(Timer)),
)


def events(snapshot):
    """Every kind of event; answers both to what is outstanding and to what is not."""
    yield from OTHERS
    yield from answers("9.9.9", 1)
    for one in snapshot.outstanding:
        yield from answers(one.id, getattr(one.effect, "generation", 1) or 1)


@pytest.mark.parametrize(
    "position", sorted(REACHABLE, key=str), ids=lambda one: f"{one[0].value}-{one[1].value}"
)
def test_every_event_has_an_answer(position, places):
    keys = set()
    for now, snapshot in places[position]:
        for event in events(snapshot):
            for stamp in (now, now + 10**11, 0):
                decision = decide(snapshot, event, stamp)
                assert decision.verdict in ("taken", "ignored", "refused")
                assert decision.why.endswith(".")
                assert positions(decision.snapshot) is None
            keys.add(key_of(event))
    assert keys == set(EVENT_KEYS)


@pytest.mark.parametrize("kind", Answer.__subclasses__(), ids=lambda kind: kind.__name__)
def test_an_answer_without_a_question_changes_nothing_but_the_clock(kind):
    for event in answers("9.9.9", 1):
        if isinstance(event, kind):
            decision = decide(Snapshot(), event, T0)
            assert decision.verdict == "ignored"
            assert decision.effects == ()
            assert (
                structs.replace(decision.snapshot, sequence=0, last_unix_ms=0, since_unix_ms=0) == Snapshot()
            )


@pytest.mark.parametrize(
    "position", sorted(REACHABLE, key=str), ids=lambda one: f"{one[0].value}-{one[1].value}"
)
def test_an_answer_to_background_work_is_taken_in_every_position(position, places):
    """Whatever was asked for in the background may be answered at any time, also by nonsense."""
    for now, snapshot in places[position]:
        with_mine = structs.replace(
            snapshot,
            outstanding=(
                *snapshot.outstanding,
                Outstanding(id=MINE, effect=StageKey(generation=99, algorithm="ec-p256", common_name="x")),
            ),
        )
        for event in (
            CredentialRetired(answers=MINE),
            KeyStaged(answers=MINE, generation=1, spki_sha256="k"),
        ):
            decision = decide(with_mine, event, now)
            assert all(one.id != MINE for one in decision.snapshot.outstanding)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("key", EVENT_KEYS)
def test_every_pair_ends_in_a_row_that_always_holds_or_is_ignored(state, key):
    rows = LIFECYCLE.rows.get((state, key), ())
    assert any(row.guard is None for row in rows) != ((state, key) in LIFECYCLE.ignored)


def test_an_ignored_pair_says_why():
    world = World()
    decision = world.take(CredentialRetired(answers="9.9.9"))
    assert decision.verdict == "ignored"
    world = World(
        structs.replace(
            world.snapshot,
            outstanding=(
                Outstanding(id="1.1.0", effect=StageKey(generation=1, algorithm="ec-p256", common_name="x")),
            ),
        )
    )
    decision = world.take(CredentialRetired(answers="1.1.0"))
    assert (decision.verdict, decision.why) == (
        "ignored",
        "Superseded generations are gone; nothing depends on it.",
    )


def test_the_attempt_table_has_no_refusals_and_no_keys_of_its_own():
    known = {*EVENT_KEYS, *SIGNAL_KEYS}
    assert {key for _, key in ATTEMPT.rows} <= known
    assert not any(row.refuses for rows in ATTEMPT.rows.values() for row in rows)
