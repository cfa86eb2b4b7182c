"""Where commands find journal files: those that are named, else what the service of a root keeps."""

import os
import sys

from adapters.cli.failure import USAGE, CommandFailed
from adapters.paths import client_paths

ACTIVE = "journal.jsonl"


def kept_below(root: str | None) -> list[str]:
    """The files of the service below that root, oldest first. Raises CommandFailed."""
    return kept_in(os.path.dirname(client_paths(root).journal))


def kept_in(directory: str) -> list[str]:
    """The journal files of a directory, oldest first. Raises CommandFailed."""
    try:
        kept = os.listdir(directory)
    except OSError as exc:
        fix = "use sudo" if isinstance(exc, PermissionError) else "name the files"
        raise CommandFailed(f"cannot read {directory}: {exc.strerror}; {fix}", USAGE) from exc
    # Zero-padded sequences: their order as text is their order in time.
    closed = sorted(one for one in kept if one.startswith("journal-") and one.endswith(".jsonl"))
    found = [os.path.join(directory, one) for one in (*closed, *{ACTIVE}.intersection(kept))]
    if not found:
        raise CommandFailed(f"there is no journal in {directory}; name the files, or say --root", USAGE)
    return found


def read_input(path: str) -> bytes:
    """A whole file; - is standard input. Raises CommandFailed."""
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise CommandFailed(f"cannot read {path}: {exc.strerror}", USAGE) from exc
