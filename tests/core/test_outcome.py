"""How a command ended, as the command line and the sockets tell it."""

import pytest

from statemachine.effects import SubmitRegistration
from statemachine.events import CredentialCommitted, ReprovisionRequested, tag_of
from statemachine.explain import status_of
from statemachine.outcome import Course
from statemachine.snapshot import Ended, Problem, Snapshot
from statemachine.states import Phase, State
from tests.core.world import (
    HOUR,
    T0,
    expiring,
    provisioned,
    registering,
    renewing,
    reprovisioning,
    unprovisioned,
    waiting,
)

COMMITTED = tag_of(CredentialCommitted)
SERVING = ("Provisioned", "CertExpiring")


def follow(course, *records):
    """Each record is (sequence, state, phase), then its event's tag and whether it has effects."""
    for record in records:
        sequence, state, phase, event, wished = record if len(record) == 5 else (*record, "", True)
        course.take(sequence=sequence, state=state, phase=phase, event=event, wished=wished)
    return course


def seen(course):
    return course.over, course.succeeded, course.was_nothing_to_do


UNKNOWN = (False, False, False)
DONE = (True, True, False)
FAILED = (True, False, False)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([], UNKNOWN, id="no record yet"),
        pytest.param([(7, "Reprovisioning", "Staging")], UNKNOWN, id="begun"),
        pytest.param([(7, "Registering", "Polling"), (8, "Unprovisioned", "Idle")], FAILED, id="failed"),
        pytest.param(
            [(7, "Registering", "Proving"), (8, "Registering", "Retiring", COMMITTED, True)],
            UNKNOWN,
            id="committed, old keys still to go",
        ),
        pytest.param(
            [
                (7, "Registering", "Committing"),
                (8, "Registering", "Retiring", COMMITTED, True),
                (9, "Provisioned", "Idle", "credential-retired", True),
            ],
            DONE,
            id="succeeded",
        ),
        pytest.param(
            [(7, "Reprovisioning", "Retiring"), (8, "Provisioned", "Idle")], DONE, id="joined at its very end"
        ),
        pytest.param(
            [
                (7, "Reprovisioning", "Retiring", COMMITTED, True),
                (8, "Reprovisioning", "Submitting", "credential-retired", True),
                (9, "Reprovisioning", "Idle", "registration-failed", True),
            ],
            FAILED,
            id="a second attempt followed at once, and failed",
        ),
        pytest.param(
            [
                (7, "Reprovisioning", "Retiring", COMMITTED, True),
                (8, "Reprovisioning", "Staging", "credential-retired", True),
                (9, "Reprovisioning", "Retiring", COMMITTED, True),
                (10, "Provisioned", "Idle"),
            ],
            DONE,
            id="a second attempt followed at once, and succeeded",
        ),
        pytest.param(
            [
                (7, "Reprovisioning", "Retiring", COMMITTED, True),
                (8, "Reprovisioning", "Proving", "credential-retired", True),
                (9, "Reprovisioning", "Idle", "credential-proof-failed", True),
            ],
            FAILED,
            id="one of the configuration's own followed at once, and failed",
        ),
        pytest.param(
            [(5, "Registering", "Polling"), (6, "Unprovisioned", "Idle")], UNKNOWN, id="before the command"
        ),
        pytest.param(
            [(7, "Reprovisioning", "Idle", "reprovision-requested", True)], UNKNOWN, id="it waits to begin"
        ),
        pytest.param(
            [(8, "Provisioned", "Idle", "clock-observed", False)], UNKNOWN, id="another record at rest"
        ),
    ],
)
def test_records_tell(records, expected):
    assert seen(follow(Course(7), *records)) == expected


@pytest.mark.parametrize("state", [state.value for state in State])
def test_nothing_to_do_is_a_success_where_there_is_an_identity(state):
    course = follow(Course(7), (7, state, "Idle", "reprovision-requested", False))
    assert seen(course) == (True, state in SERVING, True)


def test_moves_and_position_are_for_people():
    course = Course(7)
    moves = [
        course.take(sequence=sequence, state="Renewing", phase=phase, event="", wished=True)
        for sequence, phase in [(6, "Idle"), (7, "Polling"), (8, "Polling"), (9, "Retiring")]
    ]
    assert moves == [False, True, False, True]
    assert course.position == "Renewing, Retiring"
    assert course.take(sequence=10, state="Provisioned", phase="Idle", event="", wished=True)
    assert course.position == "Provisioned"


# --- records that were missed ------------------------------------------------------------------------

ERROR = Problem(failure_class="retry", code="dps-429", message="slow down")


def status(state, phase, *, sequence=9, error=None, ended=True):
    last = Ended(number=1, started_unix_ms=T0, ended_unix_ms=T0, error=error) if ended else None
    return status_of(Snapshot(state=state, phase=phase, sequence=sequence, ended=last), T0)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (status(State.PROVISIONED, Phase.IDLE), DONE),
        (status(State.CERT_EXPIRING, Phase.IDLE), DONE),
        (status(State.PROVISIONED, Phase.IDLE, ended=False), DONE),
        (status(State.PROVISIONED, Phase.IDLE, error=ERROR), FAILED),
        (status(State.REPROVISIONING, Phase.IDLE, error=ERROR), FAILED),
        (status(State.UNPROVISIONED, Phase.IDLE), FAILED),
        (status(State.REPROVISIONING, Phase.POLLING), UNKNOWN),
        (status(State.PROVISIONED, Phase.IDLE, sequence=6), UNKNOWN),
    ],
)
def test_status_tells_what_was_missed(told, expected):
    course = Course(7)
    course.catch_up(told)
    assert seen(course) == expected


@pytest.mark.parametrize(("phase", "succeeded"), [(Phase.POLLING, False), (Phase.RETIRING, True)])
def test_records_go_on_after_a_gap(phase, succeeded):
    course = follow(Course(7), (7, "Reprovisioning", "Retiring", COMMITTED, True))
    course.catch_up(status(State.REPROVISIONING, phase, sequence=20))
    follow(course, (21, "Provisioned" if succeeded else "Reprovisioning", "Idle"))
    assert seen(course) == (True, succeeded, False)


# --- the machine itself ------------------------------------------------------------------------------


def course_of(world, command_at=-1):
    """Judged from the world's records: the command is that one of them."""
    sequence = world.history[command_at][2].snapshot.sequence
    course = Course(sequence)
    for _, event, decision in world.history:
        if not course.over:
            course.take(
                sequence=decision.snapshot.sequence,
                state=decision.snapshot.state.value,
                phase=decision.snapshot.phase.value,
                event=tag_of(event),
                wished=bool(decision.effects),
            )
    return course


def command(world, **fields):
    """Its place in the history."""
    world.take(ReprovisionRequested(uid=0, **fields), after_ms=HOUR)
    return len(world.history) - 1


@pytest.mark.parametrize("place", [provisioned, unprovisioned, waiting, renewing, registering, expiring])
def test_the_machine_succeeds(place):
    world = place()
    at = command(world)
    assert seen(course_of(world, at)) == UNKNOWN
    world.settle()
    assert seen(course_of(world, at)) == DONE


@pytest.mark.parametrize("place", [provisioned, unprovisioned, waiting, registering])
def test_the_machine_fails(place):
    world = place()
    at = command(world)
    world.until(Phase.SUBMITTING)
    world.deny(SubmitRegistration)
    assert seen(course_of(world, at)) == FAILED
    missed = Course(world.history[at][2].snapshot.sequence)
    missed.catch_up(status_of(world.snapshot, world.now))
    assert seen(missed) == FAILED


def test_a_repeat_shares_the_result():
    world = reprovisioning().settle()
    world.take(ReprovisionRequested(uid=1001, privileged=False), after_ms=1000)
    assert seen(course_of(world)) == (True, True, True)
