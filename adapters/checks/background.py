"""Work that may hang, such as a name that does not resolve, in threads that nobody waits for too long."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


class Background:
    """Begun early, asked for late: everything that waits for the network waits at the same time."""

    def __init__(self) -> None:
        self._begun: dict[str, _Work] = {}

    def begin(self, name: str, work: Callable[[], object]) -> None:
        """Once for each name."""
        if name not in self._begun:
            self._begun[name] = _Work(work)

    def result(self, name: str, within_s: float, otherwise: T) -> T:
        """What it returned; ``otherwise`` when it has not so long after it began, or was never begun."""
        work = self._begun.get(name)
        if work is None or not work.done.wait(max(work.began_s + within_s - time.monotonic(), 0)):
            return otherwise
        if work.raised is not None:
            raise work.raised
        return cast("T", work.returned)


class _Work:
    def __init__(self, work: Callable[[], object]) -> None:
        self.began_s = time.monotonic()
        self.done = threading.Event()
        self.returned: object = None
        self.raised: Exception | None = None
        self._work = work
        # A daemon: the resolver cannot be interrupted, and must not keep the command from its end.
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.returned = self._work()
        except Exception as exc:
            self.raised = exc
        self.done.set()
