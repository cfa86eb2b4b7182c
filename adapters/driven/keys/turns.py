"""One at a time for each path, without holding a worker thread while waiting."""

import contextlib
from collections.abc import AsyncIterator

import trio


class Turns:
    """A lock for each path that somebody changes or waits to change; none for any other."""

    def __init__(self) -> None:
        self._locks: dict[str, trio.Lock] = {}

    @contextlib.asynccontextmanager
    async def of(self, path: str) -> AsyncIterator[None]:
        """Not to be taken twice by one task."""
        lock = self._locks.setdefault(path, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # Who waits was handed the lock already, so an open one is nobody's.
            if not lock.locked() and self._locks.get(path) is lock:
                del self._locks[path]
