"""identityd purge: the device is given up, and who says so must name it."""

import sys
import time
from argparse import Namespace

from adapters.cli.client import Ending, tell_ending
from adapters.cli.control_client import ControlClient, Happening, Line
from adapters.cli.failure import USAGE, CommandFailed
from adapters.cli.screen import columns, wrapped
from adapters.errors import bounded
from adapters.paths import client_paths
from statemachine.status import LastError

_BEFORE = (
    "This erases the certificates that the cloud issued with their keys, the assignment, and all that is "
    "kept of modules. Programs on this device lose their identity at once, and nothing brings the keys back."
)
_ERASED = (
    "issued certificates and their keys, the cloud's trust bundle, the assignment, the module cache, "
    "the master key of module identities, what was kept of an adopted installation"
)
_NOT_ERASED = (
    "the configuration and its onboarding credential (with it the device can register again), other "
    "programs' keys and certificates, the journal (it holds no key), enrolment and device in the cloud; "
    "flash may still hold what was deleted"
)
_AFTERWARDS = "No attempt begins until `identityd release`."


def main(args: Namespace) -> int:
    """Exit status 1 when not all was erased in time, 2 when nobody confirmed."""
    client = ControlClient(client_paths(args.root).control_sock)
    until = time.monotonic() + args.timeout
    taken = client.purge(_confirmed(args, client))
    if args.no_wait:
        return tell_ending(args, Ending(outcome="running", sequence=taken.sequence, why=taken.why))
    failure: Happening | None = None
    done = False
    try:
        # Said again while it is under way, it is followed from there.
        for line in client.follow(taken.sequence, until=until):
            answer = _answer(line)
            if answer is None:
                continue
            failure = answer if answer.failure_class is not None else None
            if failure is None:
                done = True
                break
            if not args.json:
                print(f"not all could be erased: {bounded(failure.message, 600)}; it is tried again")
    except KeyboardInterrupt:
        print("no longer waiting: purge goes on, `identityd status` tells how", file=sys.stderr)
        raise
    now = client.status()
    ending = Ending(
        outcome="done" if done else "running" if failure is None else "failed",
        sequence=taken.sequence,
        why=_why(args, done=done, reason=now.reason),
        state=now.state,
        phase=now.phase,
        error=None if failure is None else _error(failure),
    )
    status = tell_ending(args, ending)
    if done and not args.json:
        for text in (f"erased: {_ERASED}.", f"not erased: {_NOT_ERASED}.", _AFTERWARDS):
            print("\n".join(wrapped(text, columns(), hanging=2)))
    return status


def _confirmed(args: Namespace, client: ControlClient) -> str:
    """What the device is called, in the words of whoever wants it erased. Raises CommandFailed."""
    if args.confirm is not None:
        return str(args.confirm)
    own = client.names()[0]
    if not sys.stdin.isatty():
        raise CommandFailed(f"nobody is there to confirm this; say --confirm {bounded(own, 128)}", USAGE)
    if args.yes:
        return own
    print("\n".join(wrapped(_BEFORE, columns(), hanging=0)), file=sys.stderr)
    print(f"Type {bounded(own, 128)} to go on: ", end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline().strip()
    if typed != own:
        raise CommandFailed("that is not this device; nothing was erased", USAGE)
    return typed


def _answer(line: Line) -> Happening | None:
    """The event, if this record is what an erasure came to."""
    event = line.event
    answers = event is not None and event.type in ("credentials-purged", "credentials-purge-failed")
    return event if answers and line.verdict != "ignored" else None


def _why(args: Namespace, *, done: bool, reason: str) -> str:
    if done:
        return "what the cloud gave this device is erased"
    return f"not ended after {args.timeout:g} s; it goes on. Now: {reason}"


def _error(failure: Happening) -> LastError:
    return LastError(
        failure_class=failure.failure_class or "",
        code=failure.code or "",
        message=failure.message,
        tracking_id=failure.tracking_id,
    )
