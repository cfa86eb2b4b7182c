"""identityd config check: every mistake in the configuration at once, without a running service."""

import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TextIO

import msgspec
from msgspec import Struct

from adapters.cli.failure import DONE, NO
from adapters.cli.screen import Ink
from adapters.config_findings import Finding, Findings
from adapters.paths import client_paths

_READERS = {"run": "identityd run", "apply": "config apply", "identityd": "the original's identityd"}


class Answer(Struct, frozen=True, kw_only=True):
    """What ``--json`` prints."""

    file: str
    reader: str
    "`run`, `apply` or `identityd`."
    usable: bool
    mistakes: tuple[Finding, ...]
    remarks: tuple[Finding, ...]


def main(args: Namespace) -> int:
    """Exit status 1 when there is a mistake."""
    path = args.file or client_paths(args.root).config
    found = _examined(path, args.reader)
    mistakes, remarks = found.mistakes, found.remarks
    if args.json:
        answer = Answer(
            file=path, reader=args.reader, usable=not mistakes, mistakes=mistakes, remarks=remarks
        )
        print(msgspec.json.encode(answer).decode())
    else:
        for line in told(mistakes, remarks, sys.stdout):
            print(line)
        print(_sum(path, args.reader, len(mistakes), len(remarks)))
    return NO if mistakes or (remarks and args.warnings_as_errors) else DONE


def told(mistakes: Sequence[Finding], remarks: Sequence[Finding], stream: TextIO) -> Iterator[str]:
    """A line for each, as compilers have them, in the order of the file; folded on a terminal."""
    ink = Ink(stream)
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    for style, word, findings in (("bad", "mistake", mistakes), ("busy", "remark", remarks)):
        for one in sorted(findings, key=lambda found: sys.maxsize if found.line is None else found.line):
            text = f"{word}: {one}"
            if width is not None:
                text = textwrap.fill(text, max(width, 20), subsequent_indent="    ", break_on_hyphens=False)
            yield ink(style, word) + text.removeprefix(word)


def tell_remarks(found: Findings) -> None:
    """To standard error, by a command that has an answer of its own."""
    for line in told((), found.remarks, sys.stderr):
        print(line, file=sys.stderr)


def _examined(path: str, reader: str) -> Findings:
    from adapters import config, config_apply, config_identityd

    examine = {
        "run": config.examine,
        "apply": config_apply.examine,
        "identityd": config_identityd.examine,
    }
    return examine[reader](path)


def _sum(path: str, reader: str, mistakes: int, remarks: int) -> str:
    counted = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((mistakes, "mistake"), (remarks, "remark"))
        if count
    ]
    verdict = "cannot be used by" if mistakes else "is good for"
    return f"{path} {verdict} {_READERS[reader]}{': ' if counted else ''}{', '.join(counted)}"
