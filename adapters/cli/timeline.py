"""identityd journal timeline: a device's life out of its journal, in lines or as a page."""

import os
import sys
from argparse import Namespace

import msgspec

from adapters.cli.chronicle import Chronicle, chronicle
from adapters.cli.failure import DONE, USAGE, CommandFailed
from adapters.cli.journal import files_of
from adapters.cli.screen import Ink, columns, state_style
from adapters.cli.timeline_text import lines

DETAILS = 1_000
"Records whose every field a page has; a page of all of them would be a burden."


def main(args: Namespace) -> int:
    """Text, facts, or a page."""
    if args.html is not None:
        _check_writable(args.html)
    # Details are what a page can show on demand.
    details = DETAILS if args.html is not None else 0
    told = chronicle(files_of(args), args.start or 0, details=details)
    if args.json:
        print(msgspec.json.encode(told).decode())
    elif args.html is not None:
        _write(args.html, told)
    else:
        for line in lines(told, columns(), Ink(), state_style):
            print(line)
    return DONE


def _check_writable(path: str) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    if path != "-" and (os.path.isdir(path) or not os.access(directory, os.W_OK)):
        fix = "name a file in a directory of yours"
        raise CommandFailed(f"argument --html: {path} cannot be written; {fix}", USAGE)


def _write(path: str, told: Chronicle) -> None:
    from adapters.cli.timeline_page import page
    from adapters.durable import replace_file

    content = page(told).encode()
    if path == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        # A journal is for root alone, so is what is made of it.
        replace_file(os.path.abspath(path), content)
    except OSError as exc:
        raise CommandFailed(f"cannot write {path}: {exc.strerror}") from exc
    print(f"the page is {path}")
