"""``identityd demo --once``: one life, told check by check, with a bound on its time that is kept."""

import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import msgspec

from adapters.cli.demo_checks import Check, Checks, Said, Tell
from adapters.cli.demo_life import Life
from adapters.cli.demo_stage import Root, Stage
from adapters.cli.failure import DONE, NO, CommandFailed
from adapters.cli.screen import Ink
from adapters.errors import bounded

LIMIT_S = 40.0
"What is left of the promised 45 s is for stopping the children and the interpreter."
_ABOUT_COLUMN = 18
_NARROW, _WIDE = 60, 140


class _OutOfTime(Exception):
    """Not an OSError: nothing on the way may take it for a slow socket."""


def once(root: Root, *, as_json: bool) -> int:
    """The status: 0 only when every check held."""
    began_s = time.monotonic()
    checks = Checks(_json if as_json else _text(Ink()), lambda: round(time.monotonic() - began_s, 2))
    if not as_json:
        print(f"A whole life below {root.paths.root}, at most 45 s. NOT FOR PRODUCTION.", flush=True)
    interrupted = True
    try:
        with Stage(root.paths) as stage, _alarm(LIMIT_S):
            try:
                Life(stage, checks, began_s + LIMIT_S).lead()
            except CommandFailed as exc:
                checks.stop(exc.message)
            except _OutOfTime:
                checks.stop(f"not held within {LIMIT_S:g} s")
        interrupted = False
    finally:
        held = checks.result(kept=None).ok
        kept = None if root.temporary and held else root.paths.root
        if kept is None:
            root.remove()
        elif interrupted and root.temporary:
            print(f"what happened so far is kept in {kept}", file=sys.stderr, flush=True)
    result = checks.result(kept=kept)
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        print()
        where = f"; kept in {kept}" if kept is not None else ""
        if result.ok:
            print(f"All {result.checks} checks held, in {result.seconds:.1f} s{where}")
        else:
            print(
                f"{len(result.failed)} of {result.checks} checks FAILED ({', '.join(result.failed)}), "
                f"after {result.seconds:.1f} s{where}"
            )
    return DONE if result.ok else NO


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """_OutOfTime after so long, wherever the main thread waits just then."""

    def ring(_: int, __: FrameType | None) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _json(told: Check | Said) -> None:
    print(msgspec.json.encode(told).decode(), flush=True)


def _text(ink: Ink) -> Tell:
    def tell(told: Check | Said) -> None:
        for line in check_lines(told, ink, shutil.get_terminal_size((100, 24)).columns):
            print(line, flush=True)

    return tell


def check_lines(told: Check | Said, ink: Ink, columns: int) -> Iterator[str]:
    """What people read: a heading for a chapter; what was checked and what was seen for a check."""
    if isinstance(told, Said):
        yield ""
        yield f"{ink('strong', told.chapter.capitalize())}  {ink('dim', told.about)}"
        return
    mark = ink("good", "ok    ") if told.ok else ink("bad", "FAILED")
    yield f"  {mark} {told.after_s:>5.1f} s  {told.about}"
    room = max(_NARROW, min(columns, _WIDE)) - _ABOUT_COLUMN - 1
    for line in textwrap.wrap(bounded(told.seen, 1500), room):
        yield f"{' ' * _ABOUT_COLUMN}{line if not told.ok else ink('dim', line)}"
