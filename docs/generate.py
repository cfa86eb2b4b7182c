"""Writes docs/reference from the source: ``python -m docs.generate``.

With ``--check`` nothing is written; stale files are named and the exit status is 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from docs.pages import all_pages
from docs.reading import ROOT

REFERENCE = ROOT / "docs" / "reference"
BY_HAND = frozenset({"compatibility.md", "journal.md"})
"Pages there that people write."


def stale(directory: Path = REFERENCE) -> list[str]:
    """File names that are missing, differ from what would be written, or do not belong there."""
    wanted = all_pages()
    found = {
        path.name: path
        for kind in ("*.md", "*.svg")
        for path in directory.glob(kind)
        if path.name not in BY_HAND
    }
    differing = [
        name
        for name, text in wanted.items()
        if name not in found or found[name].read_text(encoding="utf-8") != text
    ]
    return sorted([*differing, *(set(found) - set(wanted))])


def write(directory: Path = REFERENCE) -> list[str]:
    """Bring the directory up to date; returns the names of what changed."""
    changed, wanted = stale(directory), all_pages()
    directory.mkdir(parents=True, exist_ok=True)
    for name in changed:
        path = directory / name
        if name in wanted:
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    return changed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    args = parser.parse_args(argv)
    names = stale() if args.check else write()
    for name in names:
        print(f"{'stale' if args.check else 'written'}: docs/reference/{name}")
    return 1 if args.check and names else 0


if __name__ == "__main__":
    sys.exit(main())
