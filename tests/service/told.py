"""What a process says, collected as it comes, for whoever waits for a word of it."""

import threading
import time
from collections.abc import Callable
from typing import IO


class Told:
    """The lines so far. A thread of its own reads them, so that no process waits for a reader."""

    def __init__(self, output: IO[bytes]) -> None:
        self.lines: list[str] = []
        self._output = output
        self._ended = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        with self._output as output:
            for raw in output:
                with self._more:
                    self.lines.append(raw.decode(errors="replace").rstrip("\n"))
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, come: Callable[[], object], deadline: float) -> bool:
        """Asks again after each line. False when none is left, or at that instant of time.monotonic()."""
        with self._more:
            while not come():
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    return False
                self._more.wait(left)
        return True

    def wait(self, within_s: float) -> None:
        """For the last line, once the process is gone."""
        self._reader.join(within_s)
