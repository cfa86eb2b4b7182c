"""Asked at the same time, asked once; whoever leaves takes nothing with him."""

import pytest
import trio
import trio.testing

from adapters.driven.flights import Flights
from adapters.errors import PeerUnreachable, StoreUnavailable


class Work:
    def __init__(self, error=None):
        self.began = 0
        self.cancelled = 0
        self.error = error
        self.go = trio.Event()

    async def __call__(self):
        self.began += 1
        number = self.began
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return number


def flying(test):
    async def main():
        flights = Flights()
        async with trio.open_nursery() as nursery:
            await nursery.start(flights.run)
            await test(flights, nursery)
            nursery.cancel_scope.cancel()

    trio.run(main)


async def joined(flights, key, work, results, scope=None):
    with scope or trio.CancelScope():
        try:
            results.append(await flights.join(key, work))
        except Exception as exc:
            results.append(exc)


def test_one_for_all_of_a_key():
    async def test(flights, nursery):
        work, results = Work(), []
        async with trio.open_nursery() as callers:
            for key in ("a", "a", "a", "b"):
                callers.start_soon(joined, flights, key, work, results)
            await trio.testing.wait_all_tasks_blocked()
            assert work.began == 2
            work.go.set()
        assert sorted(results) in ([1, 1, 1, 2], [1, 2, 2, 2])
        assert await flights.join("a", work) == 3

    flying(test)


@pytest.mark.parametrize("leaving", [(0,), (1,), (0, 1)])
def test_who_leaves_fails_nobody(leaving):
    async def test(flights, nursery):
        work, results = Work(), []
        scopes = [trio.CancelScope() for _ in range(3)]
        async with trio.open_nursery() as callers:
            for scope in scopes:
                callers.start_soon(joined, flights, "a", work, results, scope)
                await trio.testing.wait_all_tasks_blocked()
            for number in leaving:
                scopes[number].cancel()
            await trio.testing.wait_all_tasks_blocked()
            work.go.set()
        assert results == [1] * (3 - len(leaving))
        assert (work.began, work.cancelled) == (1, 0)

    flying(test)


def test_when_all_have_left_the_work_ends_and_the_next_begins_anew():
    async def test(flights, nursery):
        work, results = Work(), []
        scope = trio.CancelScope()
        async with trio.open_nursery() as callers:
            callers.start_soon(joined, flights, "a", work, results, scope)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert work.cancelled == 1
            work.go.set()
        assert await flights.join("a", work) == 2
        assert results == []

    flying(test)


def test_a_failure_is_everybody_s_and_not_kept():
    async def test(flights, nursery):
        work, results = Work(PeerUnreachable("away", code="unreachable")), []
        work.go.set()
        async with trio.open_nursery() as callers:
            for _ in range(3):
                callers.start_soon(joined, flights, "a", work, results)
        assert [type(one) for one in results] == [PeerUnreachable] * 3
        work.error = None
        assert await flights.join("a", work) == 2

    flying(test)


def test_at_the_end_nobody_waits_for_ever():
    async def main():
        flights, results = Flights(), []
        async with trio.open_nursery() as callers, trio.open_nursery() as life:
            await life.start(flights.run)
            callers.start_soon(joined, flights, "a", Work(), results)
            await trio.testing.wait_all_tasks_blocked()
            life.cancel_scope.cancel()
        with pytest.raises(StoreUnavailable):
            await flights.join("a", Work())
        return results

    (error,) = trio.run(main)
    assert error.code == "stopping"
