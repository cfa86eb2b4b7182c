"""Who is let in: requests in flight for each uid, and idle connections that make room."""

import json
import logging
import os
import shutil
import socket
import subprocess

import pytest
import trio
import trio.testing

from adapters.wire import admission, http_connection
from adapters.wire.admission import TELL_EVERY_S, Admission, ServerLimits
from adapters.wire.http_server import Response
from tests.adapters.served import CLOSE, GET, impersonate, read_all, run_served, status_and_message

ME, OTHER = 1001, 1002
HEAD = b"GET /x HT"
BODY = b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhi"
WAIT = GET.replace(b"/x", b"/wait")
BIG = GET.replace(b"/x", b"/big")
STREAM = GET.replace(b"/x", b"/stream")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.sock")


class Slow:
    """A handler that answers some paths only when it is let go."""

    def __init__(self):
        self.go = trio.Event()

    async def __call__(self, request):
        match request.path:
            case "/wait":
                await self.go.wait()
            case "/big":
                return Response(200, b"x" * 5_000_000)
            case "/stream":
                return Response(200, stream=self._chunks())
            case "/broken":
                raise ValueError
            case "/cut":
                return Response(200, b"0123456789", abort_after=4)
        return Response(200, b"{}")

    async def _chunks(self):
        yield b"1\n"
        await self.go.wait()
        yield b"2\n"


async def stalled(served, opened, request_bytes, count, uid=None):
    """So many connections that have begun a request and do not go on."""
    streams = [await served.connect(uid) for _ in range(count)]
    for stream in streams:
        await stream.send_all(request_bytes)
    opened.streams.extend(streams)
    await served.until(requests=count)
    return streams


class Opened:
    """Closes what a test left open."""

    def __init__(self):
        self.streams = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for stream in self.streams:
            await trio.aclose_forcefully(stream)


# --- requests in flight ------------------------------------------------------------------------------


@pytest.mark.parametrize("request_bytes", [b"G", HEAD, BODY, WAIT, BIG, STREAM])
def test_the_eleventh_request_in_flight_is_closed_without_a_word(path, monkeypatch, request_bytes):
    impersonate(monkeypatch)

    async def client(served):
        async with Opened() as opened:
            streams = await stalled(served, opened, request_bytes, 10, ME)
            assert await served.ask(CLOSE, uid=ME) == b""
            assert await served.ask(b"G", uid=ME) == b""
            assert b"200" in await served.ask(CLOSE, uid=OTHER)
            await trio.aclose_forcefully(streams[0])
            handler.go.set()
            while not await served.ask(CLOSE, uid=ME):  # freed as soon as the server has seen it
                await trio.lowlevel.checkpoint()
        await served.until(requests=0, connections=0)

    handler = Slow()
    assert run_served(client, path=path, handler=handler, requests_per_uid=10) == []


def test_idle_connections_hold_nothing(path):
    async def client(served):
        async with Opened() as opened:
            for _ in range(20):
                stream = await served.connect()
                opened.streams.append(stream)
                await stream.send_all(GET)
                assert b"200" in await stream.receive_some(512)
            await served.until(requests=0)
            assert (served.admission.connections, served.admission.idle) == (20, 20)
            assert b"200" in await served.ask(CLOSE)

    assert run_served(client, path=path, requests_per_uid=1) == []


def test_an_answer_that_has_arrived_has_freed_its_place(path, monkeypatch):
    """The next request may be on another connection, and be read before the task of the first one runs."""
    send_all, others = trio.SocketStream.send_all, []

    async def followed_at_once(stream, data):
        if data.startswith(b"HTTP/1.1 ") and others:
            os.write(others.pop(), GET)
        await send_all(stream, data)

    async def client(served):
        async with await served.connect() as one, await served.connect() as another:
            others.extend(stream.socket.fileno() for stream in (another, one) * 30)
            await another.send_all(GET)
            for stream in (another, one) * 30:
                assert b"200" in await stream.receive_some(512)

    monkeypatch.setattr(trio.SocketStream, "send_all", followed_at_once)
    assert run_served(client, path=path, requests_per_uid=1) == []


def test_a_limit_of_none_denies_everybody(path, monkeypatch):
    impersonate(monkeypatch)

    async def client(served):
        for uid in (ME, OTHER):
            assert await served.ask(CLOSE, uid=uid) == b""
        await served.until(connections=0)

    assert run_served(client, path=path, requests_per_uid=0) == []


def test_busy_may_be_said_instead(path):
    async def client(served):
        async with Opened() as opened:
            await stalled(served, opened, HEAD, 2)
            answer = await served.ask(b"POST /x HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
            status, message = status_and_message(answer)
            assert status == 503
            assert message.endswith("is over its limit of 2 requests in flight; try again")
            assert b"\r\nretry-after: 1\r\n" in answer
        await served.until(requests=0, connections=0)

    assert run_served(client, path=path, requests_per_uid=2, when_busy="503") == []


WAYS_OUT = {
    "answered": CLOSE,
    "refused": b"nonsense\r\n\r\n",
    "head in time no more": HEAD,
    "body in time no more": BODY,
    "head too large": b"GET /x HTTP/1.1\r\nX: " + b"x" * 20_000,
    "handler raises": CLOSE.replace(b"/x", b"/broken"),
    "answer cut": CLOSE.replace(b"/x", b"/cut"),
    "answer not taken": BIG,
    "stream ends": CLOSE.replace(b"/x", b"/stream"),
    "many": GET * 50 + CLOSE,
}


@pytest.mark.parametrize("hang_up", [False, True])
@pytest.mark.parametrize("way", WAYS_OUT)
def test_every_way_out_frees_the_place(path, way, hang_up):
    async def client(served):
        async with await served.connect() as stream:
            await stream.send_all(WAYS_OUT[way])
            if hang_up:
                await trio.aclose_forcefully(stream)
            elif way != "answer not taken":
                await read_all(stream)
            await served.until(requests=0)
        await served.until(connections=0)
        assert b"200" in await served.ask(CLOSE)

    handler = Slow()
    handler.go.set()
    limits = {"requests_per_uid": 1, "head_s": 0.05, "body_s": 0.05, "write_s": 0.05}
    errors = run_served(client, path=path, handler=handler, **limits)
    assert [doing for doing, _ in errors] == (["GET /broken"] if way == "handler raises" else [])


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_what_curl_sees(path):
    """services.md §11.7. 52 is an empty reply, 56 a reset, and clients take both for "try again"."""

    async def client(served):
        async with Opened() as opened:
            await stalled(served, opened, HEAD, 10)
            command = ["curl", "-sS", "--unix-socket", served.path, "http://certd.sock/x"]
            refused = await trio.run_process(command, check=False, stderr=subprocess.DEVNULL)
            assert refused.returncode in (52, 56)
        await served.until(requests=0)
        served_again = await trio.run_process(command, capture_stdout=True)
        assert json.loads(served_again.stdout)[0] == "GET"

    assert run_served(client, path=path, requests_per_uid=10) == []


# --- connections -------------------------------------------------------------------------------------


async def visit(served, uid=None):
    """A connection that has been answered and is kept."""
    stream = await served.connect(uid)
    await stream.send_all(GET)
    assert b"200" in await stream.receive_some(512)
    await served.until(requests=0)
    return stream


async def still_served(stream):
    try:
        await stream.send_all(GET)
        return b"200" in await stream.receive_some(512)
    except trio.BrokenResourceError:
        return False


def test_the_connection_idle_longest_makes_room(path):
    async def client(served):
        async with await visit(served) as first, await visit(served) as second:
            assert await still_served(first)  # and now the second is idle longest
            await served.until(requests=0)
            async with await visit(served) as third:
                assert await read_all(second) == b""
                assert await still_served(first)
                assert await still_served(third)
                assert served.admission.connections == 2

    assert run_served(client, path=path, connections=2) == []
    assert run_served(client, path=path, connections_per_uid=2) == []


def test_the_share_of_a_uid_is_made_room_in_by_the_same_uid(path, monkeypatch):
    impersonate(monkeypatch)

    async def client(served):
        async with await visit(served, OTHER) as others, await visit(served, ME) as mine:
            again = await visit(served, ME)
            assert await read_all(mine) == b""
            # All places together: who is idle longest, whichever uid.
            async with again, await visit(served, 1003), await visit(served, 1004):
                assert await read_all(others) == b""
                assert await still_served(again)

    assert run_served(client, path=path, connections=3, connections_per_uid=1) == []


@pytest.mark.parametrize("limit", ["connections", "connections_per_uid"])
def test_nobody_at_work_makes_room(path, limit):
    async def client(served):
        async with Opened() as opened:
            streams = await stalled(served, opened, WAIT, 2)
            assert await served.ask(CLOSE) == b""
            handler.go.set()
            assert b"200" in await streams[0].receive_some(512)
            assert b"200" in await streams[1].receive_some(512)

    handler = Slow()
    assert run_served(client, path=path, handler=handler, **{limit: 2}) == []


def test_who_is_only_listened_to_politely_makes_room(path, monkeypatch):
    """After a refusal the rest is read and thrown away, which is no reason to keep others out."""
    monkeypatch.setattr(http_connection, "LINGER_S", 3600)

    async def client(served):
        async with await served.connect() as refused:
            await refused.send_all(b"nonsense\r\n\r\n")
            assert b"400" in await refused.receive_some(512)
            await served.until(requests=0)
            assert b"200" in await served.ask(CLOSE)

    assert run_served(client, path=path, connections=1) == []


def test_bytes_that_have_arrived_are_not_idleness():
    async def main():
        admitted = Admission(ServerLimits(connections=2))
        pairs = [trio.socket.socketpair() for _ in range(3)]
        first, second = (admitted.admit(1, server) for server, _ in pairs[:2])
        await pairs[0][1].send(b"G")
        third = admitted.admit(1, pairs[2][0])
        assert [place.given_up for place in (first, second, third)] == [False, True, False]
        pairs[0][1].close()  # nobody is there to read an answer to it
        third.stir()  # a TLS handshake is not idleness either
        admitted.admit(1, pairs[1][0])
        assert first.given_up
        assert not third.given_up
        for pair in pairs:
            for end in pair:
                end.close()

    trio.run(main)


def test_a_place_that_is_lost_before_its_task_runs():
    async def main():
        admitted = Admission(ServerLimits(connections=1))
        ours, theirs = trio.socket.socketpair()
        place = admitted.admit(1, ours)
        assert admitted.admit(2, ours) is not None
        with place.rest(3600) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        place.leave()
        assert admitted.connections == 1
        ours.close()
        theirs.close()

    trio.run(main)


# --- what is logged ----------------------------------------------------------------------------------


def test_refusals_are_told_once_in_a_while(caplog):
    async def main():
        admitted = Admission(ServerLimits(requests_per_uid=1, connections=3, connections_per_uid=2))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            mine = [admitted.admit(ME, ours), admitted.admit(ME, ours)]
            assert mine[0].begin()
            for _ in range(1000):
                assert not mine[1].begin()
                admitted.refused(mine[1])
                assert admitted.admit(ME, ours) is None
            other = admitted.admit(OTHER, ours)
            other.stir()
            assert admitted.admit(1003, ours) is None
            await trio.sleep(TELL_EVERY_S)
            admitted.refused(mine[1])

    with caplog.at_level(logging.INFO):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert caplog.messages == [
        "uid 1001 is over its limit of 1 requests in flight; refused",
        "uid 1001 is over its share of 2 connections, none of them idle; refused",
        "uid 1003 is one too many: 3 connections are open, none of them idle; refused",
        "uid 1001 is over its limit of 1 requests in flight; refused",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert {record.name for record in caplog.records} == {admission.__name__}


def test_tcp_has_no_uid_and_no_share(caplog):
    async def main():
        admitted = Admission(ServerLimits(requests_per_uid=0, connections=2, connections_per_uid=1))
        with socket.create_server(("127.0.0.1", 0)) as ours:
            places = [admitted.admit(None, ours) for _ in range(2)]
            assert all(place.begin() for place in places)
            assert admitted.admit(None, ours) is None

    trio.run(main)
    assert caplog.messages == []
