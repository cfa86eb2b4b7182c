"""The event stream, read in a thread of its own, so that the main one is free for Ctrl-C and the clock."""

import queue
import signal
import threading
import time
from collections.abc import Iterator

from adapters.cli.control_client import ControlClient, Line

MOST_AT_ONCE = 1_000


class Follower:
    """Lines of ``/v1/events`` as they come."""

    def __init__(self, client: ControlClient, start: int) -> None:
        # SimpleQueue: its put may be called from a signal handler.
        self._read: queue.SimpleQueue[Line | BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._follow, args=(client, start), daemon=True).start()

    def wake(self) -> None:
        """End the wait that is going on, or the next one; may be called from a signal handler."""
        self._read.put(None)

    def within(self, seconds: float) -> Iterator[Line]:
        """Lines that come in that time. Raises CommandFailed when there is nobody to follow any more."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                read = self._read.get(timeout=left)
            except queue.Empty:
                return
            if read is None:
                return
            if isinstance(read, BaseException):
                raise read
            yield read

    def some(self, seconds: float) -> list[Line]:
        """What has come, or comes first within that time; none when it was woken. Raises like ``within``."""
        lines: list[Line] = []
        try:
            read = self._read.get(timeout=max(seconds, 0))
            while len(lines) < MOST_AT_ONCE:
                if isinstance(read, BaseException):
                    if not lines:
                        raise read
                    # What came before it is told first.
                    self._read.put(read)
                    break
                if read is not None:
                    lines.append(read)
                read = self._read.get_nowait()
        except queue.Empty:
            pass
        return lines

    def _follow(self, client: ControlClient, start: int) -> None:
        # Handlers run in the main thread; a signal that this one got would not end the main one's wait.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for line in client.follow(start):
                self._read.put(line)
        except BaseException as exc:  # whatever it is, the main thread has to hear of it
            self._read.put(exc)
