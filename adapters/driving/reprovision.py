"""Registration from the start, as a request that returns when it has ended (services.md §3.6, I9).

The command is an event like any other; who asks then watches the records until the machine says how it
went. Going away changes nothing: the attempt is the machine's, not the caller's.
"""

import msgspec
import trio
from msgspec import Struct

from adapters.ports import Lifecycle
from statemachine.events import ReprovisionRequested
from statemachine.outcome import Course
from statemachine.status import LastError, Status

WAIT_S = 590.0
"A little less than the ten minutes after which existing clients give up by themselves."
PAUSE_S = 1.0
"Between two looks for a watcher that keeps being dropped; what happens meanwhile the status tells."


class _Event(Struct, frozen=True):
    type: str = ""


class _Line(Struct, frozen=True):
    """As much of a journal line as its judgement depends on."""

    type: str
    sequence: int = 0
    event: _Event = _Event()
    effects: tuple[msgspec.Raw, ...] = ()
    state: str = ""
    phase: str = ""


_lines = msgspec.json.Decoder(_Line)


async def reprovision(lifecycle: Lifecycle, *, uid: int, privileged: bool) -> str | None:
    """None when the device is provisioned now; else why not, for people.

    Raises StoreUnavailable (code `journal-unavailable`) when the command could not be taken.
    """
    # Followed before the command is given, so that its own record is seen.
    with lifecycle.follow() as lines:
        taken = await lifecycle.command(ReprovisionRequested(uid=uid, privileged=privileged))
        if taken.verdict != "taken":
            return taken.why
        course = Course(taken.sequence)
        with trio.move_on_after(WAIT_S):
            await _watch(lifecycle, lines, course)
    status = lifecycle.status()
    if not course.over:
        return f"not ended after {WAIT_S:g} s; it goes on. {status.reason}"
    if course.succeeded:
        return None
    return taken.why if course.was_nothing_to_do else _failure(status)


async def _watch(lifecycle: Lifecycle, lines: trio.MemoryReceiveChannel[bytes], course: Course) -> None:
    """Until the course is over, by the records, or by the status where records were missed."""
    await _take(lines, course)
    while not course.over:
        with lifecycle.follow() as again:
            # Nothing happens between these two, so no record is missed and none is taken twice.
            course.catch_up(lifecycle.status())
            await _take(again, course)
        if not course.over:
            await trio.sleep(PAUSE_S)


async def _take(lines: trio.MemoryReceiveChannel[bytes], course: Course) -> None:
    """Until the course is over or the channel ends."""
    while not course.over:
        try:
            line = _lines.decode(await lines.receive())
        except trio.EndOfChannel:
            return
        if line.type == "record":
            course.take(
                sequence=line.sequence,
                state=line.state,
                phase=line.phase,
                event=line.event.type,
                wished=bool(line.effects),
            )


def _failure(status: Status) -> str:
    error = status.attempt.last_error if status.attempt is not None else None
    if error is None:
        return status.reason
    return f"{error.code}: {error.message} ({_particulars(error)}){_kept(status)}"


def _particulars(error: LastError) -> str:
    known = [f"class {error.failure_class}"]
    if error.tracking_id is not None:
        known.append(f"tracking id {error.tracking_id}")
    if error.retry_at is not None:
        known.append(f"tried again at {error.retry_at}")
    return ", ".join(known)


def _kept(status: Status) -> str:
    return "" if status.credential is None else "; the device keeps the identity it has"
