"""identityd journal export: the journal as one file, with the real names or with others."""

import os
import sys
from argparse import Namespace

from adapters.cli.failure import DONE, USAGE, CommandFailed
from adapters.cli.journal_input import kept_below, read_input
from adapters.durable import replace_file
from adapters.errors import bounded
from adapters.journal_copy import copy_journal
from adapters.pseudonyms import Pseudonyms
from statemachine.errors import JournalUnreadable


def main(args: Namespace) -> int:
    """Of this root's service, or of the files that were named; they are only read."""
    files = args.journal or kept_below(args.root)
    named = [(path, read_input(path)) for path in files]
    try:
        copied = copy_journal(named, Pseudonyms() if args.pseudonymise else None)
    except JournalUnreadable as exc:
        hint = "name the files that can be read with --journal"
        raise CommandFailed(f"{bounded(str(exc), 600)}; {hint}", USAGE) from exc
    for note in copied.notes:
        print(f"identityd: {note}", file=sys.stderr)
    if args.file in (None, "-"):
        sys.stdout.buffer.write(copied.content)
        sys.stdout.buffer.flush()
        return DONE
    write_private(args.file, copied.content)
    print(f"{args.file}: {copied.records} records, from record {copied.first_sequence}")
    return DONE


def write_private(name: str, content: bytes) -> None:
    """Mode 0600, in one step. Raises CommandFailed."""
    # A link stays a link; a pipe or a device must not be renamed over.
    path = os.path.realpath(name)
    if os.path.lexists(path) and not os.path.isfile(path):
        raise CommandFailed(f"{name} is not a plain file")
    if not os.path.isdir(os.path.dirname(path)):
        raise CommandFailed(f"{os.path.dirname(path)} is not a directory; make it first")
    try:
        replace_file(path, content)
    except OSError as exc:
        raise CommandFailed(f"cannot write {name}: {exc.strerror}") from exc
