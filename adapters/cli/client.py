"""Commands that talk to a running service: status, explain, renew, reprovision, hold, module-keys push."""

import sys
import time
from argparse import Namespace

import msgspec
from msgspec import Struct

from adapters.cli.control_client import ControlClient, Happening, Line, Taken
from adapters.cli.failure import DONE, NO, CommandFailed
from adapters.cli.screen import (
    Ink,
    clock_time,
    columns,
    failure_text,
    result_text,
    status_screen,
    with_distances,
    wrapped,
)
from adapters.errors import bounded
from adapters.paths import client_paths
from statemachine.outcome import Course
from statemachine.status import LastError

RECENT_RECORDS = 10
"How far back a timeline begins when nobody says."


class Ending(Struct, frozen=True, kw_only=True):
    """How a command went, what ``--json`` prints."""

    outcome: str
    "`done`, `failed`, `running` (not waited for, or not ended in time), `ignored`."
    sequence: int
    why: str
    state: str = ""
    phase: str = ""
    error: LastError | None = None


def status(args: Namespace) -> int:
    """One screen, or the object itself."""
    client = _client(args)
    if args.json:
        print(client.status_json().decode())
        return DONE
    for line in status_screen(client.status(), Ink(), columns=columns()):
        print(line)
    return DONE


def explain(args: Namespace) -> int:
    """The status as a story: what is true, why, and what happens next."""
    from statemachine.explain import story

    told = story(_client(args).status())
    if args.json:
        print(msgspec.json.encode({"story": told}).decode())
    else:
        now = int(time.time() * 1000)
        for line in told:
            text = with_distances(bounded(line, 1000), now)
            print("\n".join(wrapped(text, columns(), hanging=2)))
    return DONE


def renew(args: Namespace) -> int:
    """A new certificate now."""
    return tell_ending(args, _carry_out(args, "renew"))


def reprovision(args: Namespace) -> int:
    """Registration from the start."""
    return tell_ending(args, _carry_out(args, "reprovision"))


def hold(args: Namespace) -> int:
    """No attempt begins until `release`."""
    return tell_ending(args, _said(args, "hold"))


def release(args: Namespace) -> int:
    """Attempts may begin again."""
    return tell_ending(args, _said(args, "release"))


def push_module_keys(args: Namespace) -> int:
    """The hub is given the keys of this device's modules."""
    return tell_ending(args, _push_module_keys(args))


def system_reprovision(args: Namespace) -> int:
    """The same, in the words of aziotctl and iotedge."""
    ending = _carry_out(args, "reprovision")
    if ending.outcome == "done":
        print("Successfully reprovisioned with IoT Hub.")
        return DONE
    why = failure_text(ending.error) if ending.error is not None else ending.why
    raise CommandFailed(f"Failed to reprovision: {bounded(why)}")


def record_line(line: Line, ink: Ink) -> str:
    """One line for one record; a record newer than this program is told by its tags."""
    from statemachine.errors import JournalUnreadable
    from statemachine.explain import tell
    from statemachine.journal import Record, decode_line

    kind = line.event.type if line.event else line.type
    told = f"{clock_time(line.now_unix_ms)} {line.sequence} {line.state}/{line.phase} {kind}"
    try:
        record = decode_line(line.raw + b"\n")
        told = tell(record) if isinstance(record, Record) else told
    except JournalUnreadable:
        pass
    failed = line.event is not None and line.event.failure_class is not None
    text = bounded(told, 1000)
    return ink("bad", text) if failed else ink.state(line.state, text)


def _client(args: Namespace) -> ControlClient:
    return ControlClient(client_paths(args.root).control_sock)


def _carry_out(args: Namespace, name: str) -> Ending:
    """Have the command taken and, unless told otherwise, follow it to its end."""
    client = _client(args)
    until = time.monotonic() + args.timeout
    taken = client.command(name)
    if taken.verdict == "ignored" or args.no_wait:
        return _not_followed(taken)
    course = Course(taken.sequence)
    try:
        for line in client.follow(taken.sequence, until=until):
            if line.type == "record" and _moves(course, line) and not args.json:
                print(f"{clock_time(line.now_unix_ms)}  {course.position}", flush=True)
            if course.over:
                break
    except KeyboardInterrupt:
        _goes_on(args)
        raise
    now = client.status()
    if not course.over:
        outcome = "running"
        why = f"not ended after {args.timeout:g} s ({course.position or 'no record seen'}); it goes on"
    elif course.succeeded:
        outcome, why = "done", taken.why if course.was_nothing_to_do else result_text(now)
    else:
        outcome, why = "failed", now.reason
    return Ending(
        outcome=outcome,
        sequence=taken.sequence,
        why=why,
        state=now.state,
        phase=now.phase,
        error=now.attempt.last_error if outcome == "failed" and now.attempt is not None else None,
    )


def _said(args: Namespace, name: str) -> Ending:
    """A command that has no end of its own to wait for."""
    client = _client(args)
    taken = client.command(name)
    now = client.status()
    return Ending(outcome="done", sequence=taken.sequence, why=now.reason, state=now.state, phase=now.phase)


def _push_module_keys(args: Namespace) -> Ending:
    """One record answers it, whatever the device itself does meanwhile; a push under way is joined."""
    client = _client(args)
    until = time.monotonic() + args.timeout
    taken = client.command("module-keys")
    if taken.verdict == "ignored" or args.no_wait:
        return _not_followed(taken)
    try:
        answers = (_push_answer(line) for line in client.follow(taken.sequence, until=until))
        answer = next((one for one in answers if one is not None), None)
    except KeyboardInterrupt:
        _goes_on(args)
        raise
    now = client.status()
    error = None
    if answer is None:
        outcome, why = "running", f"not ended after {args.timeout:g} s; it goes on"
    elif answer.failure_class is None:
        outcome, why = "done", _pushed(answer.modules)
    else:
        outcome, why = "failed", now.reason
        error = LastError(
            failure_class=answer.failure_class,
            code=answer.code or "",
            message=answer.message,
            tracking_id=answer.tracking_id,
        )
    return Ending(
        outcome=outcome, sequence=taken.sequence, why=why, state=now.state, phase=now.phase, error=error
    )


def _push_answer(line: Line) -> Happening | None:
    """The event, if this record is what a push came to."""
    event = line.event
    answers = event is not None and event.type in ("module-keys-pushed", "module-keys-push-failed")
    return event if answers and line.verdict != "ignored" else None


def _not_followed(taken: Taken) -> Ending:
    outcome = "ignored" if taken.verdict == "ignored" else "running"
    return Ending(outcome=outcome, sequence=taken.sequence, why=taken.why)


def _goes_on(args: Namespace) -> None:
    print(f"no longer waiting: {args.command} goes on, `identityd status` tells how", file=sys.stderr)


def _moves(course: Course, line: Line) -> bool:
    return course.take(
        sequence=line.sequence,
        state=line.state,
        phase=line.phase,
        event=line.event.type if line.event else "",
        wished=bool(line.effects),
    )


def _pushed(modules: int) -> str:
    return f"new keys pushed to {modules} module{'' if modules == 1 else 's'}"


def tell_ending(args: Namespace, ending: Ending) -> int:
    """Prints it, and says with what status to exit."""
    if args.json:
        print(msgspec.json.encode(ending).decode())
    elif ending.outcome == "failed" and ending.error is not None:
        print(f"{bounded(failure_text(ending.error), 600)}", file=sys.stderr)
        print(f"{args.command} failed. Now: {bounded(ending.why)}", file=sys.stderr)
    elif ending.outcome == "failed" or ending.outcome == "ignored":
        print(f"{args.command} {ending.outcome}: {bounded(ending.why)}", file=sys.stderr)
    else:
        print(f"{args.command} {ending.outcome}: {bounded(ending.why)}")
    if ending.outcome == "running":
        return DONE if args.no_wait else NO
    return DONE if ending.outcome == "done" else NO
