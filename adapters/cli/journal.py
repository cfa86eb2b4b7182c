"""Commands that read journals from files, with or without a running service: replay, journal show."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator

import msgspec

from adapters.cli.control_client import Line
from adapters.cli.failure import DONE, NO, USAGE, CommandFailed
from adapters.errors import bounded
from adapters.paths import client_paths


def replay(args: Namespace) -> int:
    """Fold the journals again: 0 equal, 1 with the first divergence, 2 unreadable."""
    from statemachine.replay import replay_files

    outcome = replay_files([(path, _read(path)) for path in _files(args)])
    if outcome.unreadable is not None:
        raise CommandFailed(bounded(outcome.unreadable, 600), USAGE)
    if args.json:
        facts = {"equal": outcome.equal, "records": outcome.records, "divergence": outcome.divergence}
        print(msgspec.json.encode(facts).decode())
    elif outcome.equal:
        print(f"equal: {outcome.records} records replay to the same effects and positions")
    else:
        print("\n".join(bounded(line, 4000) for line in str(outcome.divergence).splitlines()))
    return DONE if outcome.equal else NO


def show(args: Namespace) -> int:
    """Records, one readable line each."""
    from adapters.cli.client import record_line
    from adapters.cli.screen import Ink

    ink = Ink()
    for where, raw in _lines(args):
        try:
            line = msgspec.json.decode(raw, type=Line)
        except msgspec.DecodeError as exc:
            raise CommandFailed(f"{where} is not a journal line: {exc}", USAGE) from exc
        if line.type == "record" and line.sequence >= (args.start or 0):
            print(raw.decode() if args.json else record_line(msgspec.structs.replace(line, raw=raw), ink))
    return DONE


def _lines(args: Namespace) -> Iterator[tuple[str, bytes]]:
    for path in _files(args):
        *whole, rest = _read(path).split(b"\n")
        for number, raw in enumerate(whole, 1):
            yield f"{path}, line {number},", raw
        if rest and not whole:
            yield f"{path}, line 1,", rest
        elif rest:
            # What a power cut leaves, or a service that is writing right now. replay passes it over as well.
            print(f"identityd: {path}: its last line is cut off, and left out", file=sys.stderr)


def _files(args: Namespace) -> list[str]:
    """The named files, else what this root's service keeps, oldest first."""
    if args.files:
        return list(args.files)
    active = client_paths(args.root).journal
    directory = os.path.dirname(active)
    try:
        kept = os.listdir(directory)
    except OSError as exc:
        fix = "use sudo" if isinstance(exc, PermissionError) else "name the files"
        raise CommandFailed(f"cannot read {directory}: {exc.strerror}; {fix}", USAGE) from exc
    # Zero-padded sequences: their order as text is their order in time.
    closed = sorted(one for one in kept if one.startswith("journal-") and one.endswith(".jsonl"))
    found = [os.path.join(directory, one) for one in closed]
    found += [active] if os.path.basename(active) in kept else []
    if not found:
        raise CommandFailed(f"there is no journal in {directory}; name the files, or say --root", USAGE)
    return found


def _read(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise CommandFailed(f"cannot read {path}: {exc.strerror}", USAGE) from exc
