"""A command of the operator's, run with suspicion: root's own file, no shell, bounded in time and in echo."""

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Mapping
from typing import Literal, NamedTuple

import trio

from adapters.errors import bounded

GRACE_S = 2.0
"From SIGTERM to SIGKILL, and for what is left in the pipe of a command that has ended."
ECHO_BYTES = 1024
"The last of its output, for the log."
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Ended(NamedTuple):
    """How a command ended."""

    outcome: Literal["done", "failed", "timeout"]
    why: str = ""
    said: str = ""
    "The last line it printed, for the log."

    @property
    def problem(self) -> str | None:
        return None if self.outcome == "done" else f"{self.why}{self.said}"


def untrusted(path: str, *, owner: int = 0) -> str | None:
    """Why nobody but ``owner`` may be sure of what is at ``path``, with the fix; None when all is well.

    The file and every directory above it belong to ``owner`` and are writable to nobody else; no part of the
    path is a link, so that what is checked is what is run. Blocks.
    """
    if not os.path.isabs(path) or os.path.normpath(path) != path or path.startswith("//"):
        return f"{bounded(path, 200)} is not a plain absolute path"
    place = path
    while True:
        try:
            found = os.lstat(place)
        except (OSError, ValueError) as exc:
            return f"{bounded(place, 200)}: {getattr(exc, 'strerror', None) or 'not a usable path'}"
        problem = _problem(place, found, owner, last=place == path)
        if problem is not None:
            return f"{bounded(place, 200)} {problem}"
        if place == "/":
            break
        place = os.path.dirname(place)
    if not os.access(path, os.X_OK):
        return f"{bounded(path, 200)} may not be executed by the service's user; give it mode 0755"
    return None


def _problem(place: str, found: os.stat_result, owner: int, *, last: bool) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return f"is a link; name {bounded(os.path.realpath(place), 200)} instead"
    if last and not stat.S_ISREG(found.st_mode):
        return "is not a plain file"
    if found.st_uid != owner:
        return f"belongs to uid {found.st_uid}; give it to uid {owner}"
    if found.st_mode & 0o022:
        return "can be written by others than its owner; take that away with chmod go-w"
    return None


async def run_command(path: str, facts: Mapping[str, str], *, within_s: float) -> Ended:
    """Run it with ``facts`` as its environment, beside PATH, and say how it ended.

    It is the leader of a session of its own, which is ended when time is up or the service stops.
    """
    try:
        process = await trio.lowlevel.open_process(
            [path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": PATH, **facts},
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        return Ended("failed", f"cannot be run: {getattr(exc, 'strerror', None) or exc}")
    echo = bytearray()
    try:
        with trio.move_on_after(within_s):
            await _wait(process, echo)
        if process.returncode is None:
            return Ended("timeout", f"did not end within {within_s:g} s and was ended", _said(echo))
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)
    if process.returncode == 0:
        return Ended("done")
    if process.returncode < 0:
        return Ended("failed", f"was ended by {_signal_name(-process.returncode)}", _said(echo))
    return Ended("failed", f"exit status {process.returncode}", _said(echo))


async def _wait(process: trio.Process, echo: bytearray) -> None:
    async with trio.open_nursery() as nursery:
        drained = trio.Event()
        nursery.start_soon(_drain, process, echo, drained)
        await process.wait()
        # Somebody it left behind may hold the pipe open for good.
        with trio.move_on_after(GRACE_S):
            await drained.wait()
        nursery.cancel_scope.cancel()


async def _drain(process: trio.Process, echo: bytearray, drained: trio.Event) -> None:
    assert process.stdout is not None
    async for piece in process.stdout:
        echo += piece
        del echo[:-ECHO_BYTES]
    drained.set()


async def _end(process: trio.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with trio.move_on_after(GRACE_S):
            await process.wait()
    if process.stdout is not None:
        await process.stdout.aclose()


def _said(echo: bytearray) -> str:
    lines = echo.decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"; it said: {bounded(last, 200)}" if last else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
