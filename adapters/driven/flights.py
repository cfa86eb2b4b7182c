"""Single flight: identical questions that are asked at the same time are asked once.

The question is worked on in a nursery of its own, so that whoever asked first may go away without taking
the answer with him. When everybody has gone, the work is cancelled.
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import trio

from adapters.errors import StoreUnavailable

T = TypeVar("T")


class _Flight:
    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.landed = trio.Event()
        self.waiting = 0
        self.result: Any = None
        self.error: Exception | None = None


class Flights:
    """``run`` must be alive while ``join`` is used."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._flights: dict[Hashable, _Flight] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Lives as long as the service."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def join(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of ``work``, or of the same that is under way under this key. Raises what it raises."""
        flight = self._flights.get(key)
        if flight is None:
            if self._nursery is None:
                raise _stopping()
            flight = self._flights[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, work)
        flight.waiting += 1
        try:
            await flight.landed.wait()
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.landed.is_set():
                # Nobody may board it any more: who asks now gets an answer, not this cancellation.
                self._leave(key, flight)
                flight.scope.cancel()
        if flight.error is not None:
            raise flight.error
        result: T = flight.result
        return result

    async def _fly(self, key: Hashable, flight: _Flight, work: Callable[[], Awaitable[Any]]) -> None:
        flight.error = _stopping()
        try:
            with flight.scope:
                flight.result = await work()
                flight.error = None
        except Exception as exc:  # carried to those who wait; it is theirs
            flight.error = exc
        finally:
            self._leave(key, flight)
            flight.landed.set()

    def _leave(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _stopping() -> StoreUnavailable:
    return StoreUnavailable("the service is stopping", code="stopping")
