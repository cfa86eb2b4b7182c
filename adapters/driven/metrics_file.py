"""The metrics as a file for the node exporter's textfile collector.

Written when a figure has changed and at most every ``EVERY_S``; a service at rest writes nothing. Whoever
reads it sees a whole file or none. It is not synced: after a power cut the service writes it anew. It goes
when the service ends, so that nobody takes the last figures of a service that stopped for the present ones.
"""

import contextlib
import logging
import os
from collections.abc import Callable

import trio

SETTLE_S = 1.0
"After a change, so that what belongs together is written together."
EVERY_S = 15.0
"Nobody scrapes more often, and flash memory counts its writes."
MODE = 0o644
"The node exporter is another user."

log = logging.getLogger("identityd")


class MetricsFile:
    """``text`` makes the content, in the service's own thread."""

    def __init__(self, path: str, text: Callable[[], bytes]) -> None:
        self._path = path
        self._text = text
        self._changed = trio.Event()
        self._written: bytes | None = None
        self._problem: str | None = None

    def changed(self) -> None:
        """A figure is another one. From the service's own thread."""
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Never fails: a file that cannot be written is told once and tried with the next
        change."""
        self._changed.set()
        task_status.started()
        try:
            while True:
                await self._changed.wait()
                await trio.sleep(SETTLE_S)
                self._changed = trio.Event()
                await self._bring_up_to_date()
                await trio.sleep(EVERY_S)
        finally:
            if self._written is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)

    async def _bring_up_to_date(self) -> None:
        content = self._text()
        if content == self._written:
            return
        try:
            await trio.to_thread.run_sync(_replace, self._path, content)
        except OSError as exc:
            problem = f"{exc.strerror or exc}"
            if problem != self._problem:
                log.warning(
                    "the metrics file %s cannot be written: %s; its directory must exist and be writable",
                    self._path,
                    problem,
                )
            self._problem = problem
            return
        self._written, self._problem = content, None


def _replace(path: str, content: bytes) -> None:
    """In one step. Raises OSError."""
    temporary = f"{path}.new"  # the collector reads names that end with .prom
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, MODE), "wb") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(content)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
