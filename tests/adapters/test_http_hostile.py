"""Hostile clients of a real Unix socket: others are served while it lasts, and nothing of it is left.

The attacker has one uid and the polite client another, as the kernel would say; what an attacker does to
others of its own uid is bounded by what it can hold, and over when it stops.
"""

import contextlib
import functools
import itertools
import random
import resource
import socket

import pytest
import trio

from adapters.wire.http_server import Response
from tests.adapters.served import CLOSE, GET, impersonate, open_descriptors, read_all, run_served

POLITE = 1002
LIMITS = {
    "connections": 64,
    "connections_per_uid": 48,
    "requests_per_uid": 10,
    "head_s": 0.1,
    "body_s": 0.1,
    "write_s": 0.1,
    "idle_s": 30,
}
"Waits short enough to be seen ending; idle ones end only because the client goes."

POST = b"POST /x HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
CLIENT_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(range(160))

HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
IDLE = 10_000 if HARD_LIMIT == resource.RLIM_INFINITY else min(10_000, HARD_LIMIT - 500)
"As many as the machine lets one process hold; each of them is a descriptor here, few of them one there."


_numbers = itertools.count()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.sock")


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 500
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def handler(request):
    return Response(200, b"x" * (5_000_000 if request.path == "/big" else 1000))


# --- what they do ------------------------------------------------------------------------------------


async def slowly(served, beginning, rest):
    """One byte, and the next one when all others had theirs; until the server has had enough."""
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(await served.connect()) for _ in range(40)]
        for data in (beginning, *(rest[i : i + 1] for i in range(len(rest)))):
            for peer in peers:
                with contextlib.suppress(trio.BrokenResourceError):
                    await peer.send_all(data)
        for peer in peers:
            assert b"200" not in await read_all(peer)


async def saying(served, data, *, times=20, eof=False):
    """All of it, whatever comes back; and every answer is an error."""
    for _ in range(times):
        answer = await served.ask(data, eof=eof)
        assert not answer.startswith(b"HTTP/1.1 2")


async def idle(served, count):
    """In a thread: connecting blocks while the backlog is full, and only the server empties it."""

    def connect_all():
        peers = []
        try:
            for _ in range(count):
                peer = socket.socket(socket.AF_UNIX)
                peers.append(peer)
                peer.connect(served.path)
        finally:
            for peer in peers:
                peer.close()
        return len(peers)

    assert await trio.to_thread.run_sync(connect_all) == count


async def pipelining(served, count):
    """Requests without reading one answer, as far as they are taken."""
    async with await served.connect() as peer:
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.send_all(GET * count)
        await served.until(requests=0, connections=0)


async def never_reading(served):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            peer = await stack.enter_async_context(await served.connect())
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.send_all(GET.replace(b"/x", b"/big"))
        await served.until(requests=0)


async def half_closed(served):
    """Nothing more will be said, and answers are still read."""
    for _ in range(20):
        assert await served.ask(b"", eof=True) == b""
        assert b"200" in await served.ask(GET, eof=True)
        assert b" 400 " in await served.ask(b"GET /x", eof=True)
        assert b" 400 " in await served.ask(POST % 5 + b"hi", eof=True)


async def hanging_up(served):
    for data in (b"", b"G", GET, GET * 100, POST % 5 + b"hi", GET.replace(b"/x", b"/big")) * 20:
        async with await served.connect() as peer:
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.send_all(data)


GARBAGE = random.Random(1).randbytes(200_000)
TRAILERS = CHUNKED + b"0\r\n" + b"X: y\r\n" * 100_000
HEADERS = b"GET /x HTTP/1.1\r\n" + b"X: y\r\n" * 100_000

HOSTILE = {
    "a slow head": functools.partial(slowly, beginning=b"GET ", rest=b"/x HTTP/1.1\r\nHost: localhos"),
    "a slow body": functools.partial(slowly, beginning=POST % 1000, rest=b"x" * 30),
    "a slow chunked body": functools.partial(slowly, beginning=CHUNKED, rest=b"1\r\nx\r\n" * 5),
    "a header of a megabyte": functools.partial(saying, data=b"GET /x HTTP/1.1\r\nX: " + b"x" * 1_048_576),
    "a hundred thousand headers": functools.partial(saying, data=HEADERS),
    "a target of a megabyte": functools.partial(saying, data=b"GET /" + b"x" * 1_048_576),
    "trailers without end": functools.partial(saying, data=TRAILERS),
    "a body of many megabytes": functools.partial(saying, data=POST % 10**9 + b"x" * 5_000_000),
    "a million chunks": functools.partial(saying, data=CHUNKED + b"1\r\nx\r\n" * 1_048_577, times=2),
    "garbage": functools.partial(saying, data=GARBAGE),
    "garbage in the head": functools.partial(saying, data=b"GET /x HTTP/1.1\r\n" + GARBAGE, eof=True),
    "garbage in the body": functools.partial(saying, data=CHUNKED + GARBAGE, eof=True),
    "zeros": functools.partial(saying, data=bytes(200_000)),
    "a TLS ClientHello": functools.partial(saying, data=CLIENT_HELLO),
    "empty lines": functools.partial(saying, data=b"\r\n" * 500_000, eof=True, times=5),
    f"{IDLE} idle connections": functools.partial(idle, count=IDLE),
    "a thousand requests in one piece": functools.partial(pipelining, count=1000),
    "answers that are not read": never_reading,
    "half-closed": half_closed,
    "hanging up": hanging_up,
}


def polite(path):
    """One request, blocking: where the backlog is full, connecting waits its turn."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.bind(f"{path}.{POLITE}.{next(_numbers)}")
        peer.connect(path)
        peer.sendall(CLOSE)
        return b"".join(iter(lambda: peer.recv(65536), b""))


def alive():
    return trio.lowlevel.current_statistics().tasks_living, open_descriptors()


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize("name", HOSTILE)
def test_others_are_served_and_nothing_is_left(path, monkeypatch, name):
    async def client(served):
        before = alive()
        over = trio.Event()

        async def attack():
            await HOSTILE[name](served)
            over.set()

        meanwhile = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attack)
            while not over.is_set() or not meanwhile:
                assert (await trio.to_thread.run_sync(polite, path)).startswith(b"HTTP/1.1 200 ")
                meanwhile += 1
                assert served.admission.connections <= LIMITS["connections_per_uid"] + 1
                assert served.admission.requests <= LIMITS["requests_per_uid"] + 1
        # The same uid, once it has stopped.
        await served.until(requests=0)
        assert (await served.ask(CLOSE)).startswith(b"HTTP/1.1 200 ")
        await served.until(requests=0, connections=0)
        while alive() != before:  # counted as gone an instant before the task ends
            await trio.lowlevel.checkpoint()

    impersonate(monkeypatch)
    assert run_served(client, handler=handler, path=path, **LIMITS) == []
