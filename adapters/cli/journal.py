"""Commands that read journals from files, with or without a running service: replay, journal show."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import msgspec

from adapters.cli.control_client import Line
from adapters.cli.failure import DONE, NO, USAGE, CommandFailed
from adapters.cli.journal_input import kept_below, kept_in, read_input
from adapters.errors import bounded

if TYPE_CHECKING:
    from statemachine.settings import PolicySettings

T = TypeVar("T")

MAX_SETTINGS_BYTES = 1024 * 1024
"No config.toml is as large; what is was named by mistake."


def replay(args: Namespace) -> int:
    """Fold the journals again: 0 equal, 1 with the first divergence, 2 unreadable."""
    from statemachine.replay import replay_files

    if args.diff is not None:
        return _diff(args)
    if args.what_if is not None:
        return _what_if(args)

    outcome = replay_files([(path, read_input(path)) for path in files_of(args)])
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


def _diff(args: Namespace) -> int:
    """Where two journals part: 0 they do not, 1 they do, 2 unreadable."""
    from adapters.cli.replay_text import comparison_lines
    from statemachine.compare import compare
    from statemachine.errors import JournalUnreadable

    if args.files:
        raise CommandFailed("--diff takes two journals and no other files", USAGE)
    old, new = ([(path, read_input(path)) for path in _series(named)] for named in args.diff)
    try:
        found = compare(old, new)
    except JournalUnreadable as exc:
        raise CommandFailed(bounded(str(exc), 600), USAGE) from exc
    _tell(args, found, comparison_lines)
    return DONE if found.same else NO


def _what_if(args: Namespace) -> int:
    """What other settings would have changed: 0 nothing, 1 something, 2 unreadable."""
    from adapters.cli.replay_text import what_if_lines
    from statemachine.errors import JournalUnreadable
    from statemachine.what_if import what_if

    wanted = _policy_in(args.what_if)
    try:
        found = what_if([(path, read_input(path)) for path in files_of(args)], wanted)
    except JournalUnreadable as exc:
        raise CommandFailed(bounded(str(exc), 600), USAGE) from exc
    _tell(args, found, what_if_lines)
    return NO if found.different else DONE


def _tell(args: Namespace, found: T, lines: Callable[[T], Iterable[str]]) -> None:
    if args.json:
        print(msgspec.json.encode(found).decode())
    else:
        print("\n".join(lines(found)))


def _policy_in(path: str) -> "PolicySettings":
    """The settings that decisions need, of a config.toml. One without [provisioning] will do."""
    import tomli

    from adapters import config
    from adapters.errors import ConfigurationInvalid

    content = read_input(path)
    try:
        text = content[:MAX_SETTINGS_BYTES].decode()
        if "provisioning" not in tomli.loads(text):
            text += '\n[provisioning]\nsource = "none"\n'
        loaded = config.parse_noted(path, text)
        for note in loaded.notes:
            print(f"identityd: {note}", file=sys.stderr)
        return config.policy(loaded.configuration, "")
    except ConfigurationInvalid as exc:
        raise CommandFailed("\n".join(exc.problems), USAGE) from exc
    except (ValueError, RecursionError) as exc:
        raise CommandFailed(f"{path} is not TOML: {bounded(str(exc))}", USAGE) from exc


def _series(named: str) -> list[str]:
    """A journal by its file, or by the directory that holds its files."""
    return kept_in(named) if os.path.isdir(named) else [named]


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
    for path in files_of(args):
        *whole, rest = read_input(path).split(b"\n")
        for number, raw in enumerate(whole, 1):
            yield f"{path}, line {number},", raw
        if rest and not whole:
            yield f"{path}, line 1,", rest
        elif rest:
            # What a power cut leaves, or a service that is writing right now. replay passes it over as well.
            print(f"identityd: {path}: its last line is cut off, and left out", file=sys.stderr)


def files_of(args: Namespace) -> list[str]:
    """The named files, else what this root's service keeps, oldest first."""
    if args.files:
        return list(args.files)
    return kept_below(args.root)
