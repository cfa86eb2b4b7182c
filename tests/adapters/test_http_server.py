"""The server against raw sockets: what is served, what is refused with which status, what is contained."""

import contextlib
import errno
import json
import os
import socket
import ssl
import stat

import pytest
import trio
import trustme

from adapters.errors import StoreUnavailable
from adapters.wire.http_server import (
    Peer,
    Request,
    Response,
    ServerLimits,
    error_response,
    http_date,
    listener_from_fd,
    serve,
    unix_listener,
)

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def echo(request):
    return Response(200, json.dumps([request.method, request.target, request.body.decode()]).encode())


class Served:
    """A server on a Unix socket, and raw clients of it."""

    def __init__(self, path, errors):
        self.path = path
        self.errors = errors

    async def connect(self):
        return await trio.open_unix_socket(self.path)

    async def ask(self, data, *, eof=False):
        """Everything the server says until it closes."""
        async with await self.connect() as stream:
            with contextlib.suppress(trio.BrokenResourceError):  # closed before all was written
                await stream.send_all(data)
                if eof:
                    await stream.send_eof()
            return await read_all(stream)


async def read_all(stream):
    data = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while chunk := await stream.receive_some(65536):
            data += chunk
    return data


def run_served(client, *, handler=echo, path, listeners=None, tls=None, **limits):
    """Run ``client(served)`` against a server; the errors it contained are returned."""
    errors = []

    async def main():
        given = listeners() if listeners else [unix_listener(path)]
        with trio.fail_after(8):
            async with trio.open_nursery() as nursery:

                async def start(task_status):
                    await serve(
                        given,
                        handler,
                        ServerLimits(**limits),
                        tls=tls,
                        on_error=lambda doing, exc: errors.append((doing, exc)),
                        task_status=task_status,
                    )

                await nursery.start(start)
                await client(Served(path, errors))
                nursery.cancel_scope.cancel()

    trio.run(main)
    return errors


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.sock")


def asked(path, data, *, handler=echo, eof=False, **limits):
    answers = []

    async def client(served):
        answers.append(await served.ask(data, eof=eof))

    errors = run_served(client, handler=handler, path=path, **limits)
    return answers[0], errors


def status_and_message(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/json\r\n" in head
    assert b"\r\nconnection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["message"]


# --- what is served ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "seen"),
    [
        (CLOSE, ["GET", "/x", ""]),
        (b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n", ["GET", "/x", ""]),
        (b"GET /x HTTP/1.0\r\n\r\n", ["GET", "/x", ""]),
        (
            b"GET http://certd.sock/x?a=1 HTTP/1.1\r\nConnection: close\r\n\r\n",
            ["GET", "http://certd.sock/x?a=1", ""],
        ),
        (b"\r\n\nGET /x HTTP/1.1\nHost: a\nConnection: close\n\n", ["GET", "/x", ""]),
        (b"PUT /x HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", ["PUT", "/x", "hi"]),
        (
            b"PUT /x HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            ["PUT", "/x", "hi"],
        ),
    ],
)
def test_requests_are_served(path, request_bytes, seen):
    answer, errors = asked(path, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(body) == seen
    assert errors == []


def test_the_parts_of_a_target():
    request = Request("GET", "http://h/a%2Fb?v=1&w=a+b%20c&v=2&e=", headers=(("content-type", "x"),))
    assert request.path == "/a%2Fb"
    assert request.query("v") == "2"
    assert request.query("w") == "a b c"
    assert request.query("e") == ""
    assert request.query("none") is None
    assert request.query_pairs[0] == ("v", "1")
    assert request.header("Content-Type") == "x"
    assert request.header("host") is None
    assert Request("GET", "http://h?v=1").path == "/"
    assert Request("GET", "/?v=1").path == "/"


def test_head_and_body_arrive_in_one_read_of_512_bytes(path):
    async def client(served):
        async with await served.connect() as stream:
            await stream.send_all(b"GET /certificates/a?api-version=2020-09-01 HTTP/1.1\r\n\r\n")
            first = await stream.receive_some(512)
        head, _, body = first.partition(b"\r\n\r\n")
        assert json.loads(body)[0] == "GET"
        lines = head.split(b"\r\n")
        assert b"content-type: application/json" in lines
        assert len(lines) <= 17
        assert len(head) < 512

    run_served(client, path=path)


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(path):
    answer, _ = asked(path, GET + b"\r\n" + GET + CLOSE)
    assert answer.count(b"HTTP/1.1 200 ") == 3


def test_head_and_204_have_no_body(path):
    async def handler(request):
        return Response(204) if request.target == "/none" else Response(200, b'{"a":1}')

    answer, _ = asked(
        path,
        b"HEAD /x HTTP/1.1\r\n\r\nGET /none HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\nConnection: close\r\n\r\n",
        handler=handler,
    )
    first, second, third = answer.split(b"HTTP/1.1 ")[1:]
    assert b"content-length: 7" in first
    assert first.endswith(b"\r\n\r\n")
    assert second.startswith(b"204")
    assert b"content-" not in second
    assert second.endswith(b"\r\n\r\n")
    assert third.endswith(b'{"a":1}')


def test_expect_100_continue_is_answered_before_the_body(path):
    async def client(served):
        async with await served.connect() as stream:
            await stream.send_all(
                b"PUT /x HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
            )
            assert (await stream.receive_some(512)).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(b"hi")
            assert b'"hi"' in await read_all(stream)

    run_served(client, path=path)


def test_the_peer_is_who_the_kernel_says(path):
    peers = []

    async def handler(request):
        peers.append(request.peer)
        return Response(204)

    asked(path, CLOSE, handler=handler)
    assert peers == [Peer(uid=os.getuid(), gid=os.getgid(), pid=os.getpid())]


def test_a_stream_is_sent_chunk_by_chunk_and_closed_afterwards(path):
    closed = []

    async def chunks():
        try:
            yield b"one\n"
            yield b"two\n"
        finally:
            closed.append(True)

    async def handler(_):
        return Response(200, stream=chunks(), content_type="application/x-ndjson")

    answer, errors = asked(path, CLOSE, handler=handler)
    assert b"transfer-encoding: chunked" in answer.lower()
    assert answer.endswith(b"4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n")
    assert closed == [True]
    assert errors == []
    assert asked(path, b"GET / HTTP/1.0\r\n\r\n", handler=handler)[0].endswith(b"\r\n\r\none\ntwo\n")


def test_a_date_is_an_imf_fixdate():
    assert http_date(784111777) == "Sun, 06 Nov 1994 08:49:37 GMT"


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /x HTTP/2.0\r\n\r\n", 505),
        (b"PUT /x HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: " + b"a" * 2000 + b"\r\n\r\n", 431),
        (b"GET /x HTTP/1.1\r\nX: " + b"a" * 4000, 431),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 11\r\n\r\n", 413),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n", 413),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 11\r\n\r\n" + b"x" * 300_000, 413),
    ],
)
def test_refusals_have_a_status_and_a_message(path, request_bytes, status):
    answer, errors = asked(path, request_bytes, head_bytes=1024, body_bytes=10, eof=True)
    assert status_and_message(answer)[0] == status
    assert errors == []


@pytest.mark.parametrize("partial", [b"GET /x HT", b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhi"])
def test_a_request_cut_short_is_refused(path, partial):
    answer, _ = asked(path, partial, eof=True)
    assert status_and_message(answer)[0] == 400


@pytest.mark.parametrize(
    ("partial", "what"),
    [
        (b"GET /x HTTP/1.1\r\nHo", "head"),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhi", "body"),
    ],
)
def test_a_request_that_stalls_gets_408(path, partial, what):
    answer, _ = asked(path, partial, head_s=0.05, body_s=0.05)
    status, message = status_and_message(answer)
    assert status == 408
    assert what in message


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_an_idle_connection_is_closed_without_a_word(path, sent):
    assert asked(path, sent, idle_s=0.05, head_s=0.05)[0] == b""


def test_connections_over_the_limit_are_closed_without_a_word(path):
    async def client(served):
        async with await served.connect() as first, await served.connect() as second:
            for stream in (first, second):  # both are admitted once they are answered
                await stream.send_all(GET)
                assert b"200" in await stream.receive_some(512)
            assert await served.ask(b"") == b""
        while not await served.ask(CLOSE):  # a slot comes free when a connection is gone
            await trio.lowlevel.checkpoint()

    assert run_served(client, path=path, connections=2) == []
    assert run_served(client, path=path, connections_per_uid=2) == []


def test_many_connections_at_once(path):
    async def client(served):
        async def one():
            assert b"200" in await served.ask(CLOSE)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one)

    assert run_served(client, path=path, connections=100) == []


# --- what is contained -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [ValueError("secret"), trio.BrokenResourceError("upstream"), ExceptionGroup("g", [OSError()])]
)
def test_a_handler_that_raises_costs_its_own_client_only(path, failure):
    async def handler(request):
        if request.path == "/bad":
            raise failure
        return Response(200, b"{}")

    async def client(served):
        async with await served.connect() as other:
            await other.send_all(GET)
            assert b"200" in await other.receive_some(512)
            bad = await served.ask(b"GET /bad HTTP/1.1\r\n\r\n" + GET)
            assert status_and_message(bad) == (500, "internal error")
            assert bad.count(b"HTTP/1.1") == 1
            await other.send_all(GET)
            assert b"200" in await other.receive_some(512)

    assert run_served(client, handler=handler, path=path) == [("GET /bad", failure)]


def test_an_answer_that_is_not_http_becomes_500(path):
    async def handler(_):
        return Response(200, b"{}", headers=(("x", "a\r\nb"),))

    answer, errors = asked(path, CLOSE, handler=handler)
    assert status_and_message(answer)[0] == 500
    assert len(errors) == 1


def test_a_stream_that_fails_is_cut_short(path):
    async def chunks():
        yield b"one"
        raise ValueError

    async def handler(_):
        return Response(200, stream=chunks())

    answer, errors = asked(path, CLOSE, handler=handler)
    assert answer.endswith(b"3\r\none\r\n")
    assert errors[0][0] == "streaming GET /x"


def test_a_client_that_hangs_up_is_no_error(path):
    asked_for = trio.Event()

    async def handler(_):
        asked_for.set()
        return Response(200, b"x" * 5_000_000)

    async def client(served):
        async with await served.connect() as stream:
            await stream.send_all(GET)
            await asked_for.wait()
        assert b"200" in await served.ask(CLOSE)

    assert run_served(client, handler=handler, path=path) == []


@pytest.mark.parametrize("streamed", [False, True])
def test_a_reader_that_takes_nothing_is_dropped(path, streamed):
    dropped = trio.Event()

    async def chunks():
        try:
            while True:
                yield b"x" * 100_000
        finally:
            dropped.set()

    async def handler(request):
        if request.path == "/small":
            return Response(204)
        return Response(200, stream=chunks()) if streamed else Response(200, b"x" * 5_000_000)

    async def client(served):
        async with await served.connect() as stream:
            await stream.send_all(GET)
            if streamed:
                await dropped.wait()
            while not await served.ask(CLOSE.replace(b"/x", b"/small")):  # the only slot comes free
                await trio.lowlevel.checkpoint()

    run_served(client, handler=handler, path=path, write_s=0.05, connections=1)


def test_abort_after_cuts_the_body(path):
    async def handler(_):
        return Response(200, b"0123456789", abort_after=4)

    answer, errors = asked(path, CLOSE, handler=handler)
    assert b"content-length: 10" in answer
    assert answer.endswith(b"\r\n\r\n0123")
    assert errors == []


def test_a_stream_may_declare_its_length_and_stop_short_of_it(path):
    async def chunks():
        yield b"01"

    async def handler(_):
        return Response(200, stream=chunks(), headers=(("content-length", "4"),))

    answer, errors = asked(path, CLOSE, handler=handler)
    assert answer.endswith(b"\r\n\r\n01")
    assert len(errors) == 1


def test_accepting_survives_exhausted_descriptors(path, monkeypatch):
    failures = [OSError(errno.EMFILE, "too many"), OSError(errno.ENFILE, "too many")]
    accept = trio.SocketListener.accept

    async def flaky(self):
        if failures:
            raise failures.pop()
        return await accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", flaky)
    monkeypatch.setattr("adapters.wire.http_server.ACCEPT_PAUSE_S", 0)
    answer, errors = asked(path, CLOSE)
    assert b"200" in answer
    assert [doing for doing, _ in errors] == ["accepting a connection"]


# --- TLS ---------------------------------------------------------------------------------------------

CA = trustme.CA()
SERVER = CA.issue_cert("localhost")
CLIENT = CA.issue_cert("dev-1")


def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SERVER.configure_cert(context)
    CA.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def tls_served(client, path, **limits):
    """Run ``client(port)`` against a TLS listener on loopback."""
    bound = socket.create_server(("127.0.0.1", 0))
    port = bound.getsockname()[1]

    async def with_port(_):
        await client(port)

    async def handler(request):
        shown = request.peer.certificate_der
        return Response(
            200, json.dumps({"shown": shown is not None}).encode(), abort_after=limits_abort(request)
        )

    def limits_abort(request):
        return 3 if request.path == "/reset" else None

    return run_served(
        with_port,
        handler=handler,
        path=path,
        tls=server_context,
        listeners=lambda: [trio.SocketListener(trio.socket.from_stdlib_socket(bound))],
        **limits,
    )


async def tls_ask(port, data, issued=None, *, tolerant=True):
    context = ssl.create_default_context()
    CA.configure_trust(context)
    if issued is not None:
        issued.configure_cert(context)
    transport = await trio.open_tcp_stream("127.0.0.1", port)
    stream = trio.SSLStream(transport, context, server_hostname="localhost", https_compatible=True)
    async with transport:
        await stream.send_all(data)
        return await read_all(stream) if tolerant else await stream.receive_some()


def test_the_client_certificate_is_seen(path):
    async def client(port):
        assert b'"shown": false' in await tls_ask(port, CLOSE)
        assert b'"shown": true' in await tls_ask(port, CLOSE, CLIENT)

    assert tls_served(client, path) == []


def test_a_failed_handshake_is_contained_and_reported(path):
    async def client(port):
        stranger = trustme.CA().issue_cert("dev-1")
        with pytest.raises(trio.BrokenResourceError) as told:
            await tls_ask(port, CLOSE, stranger, tolerant=False)
        assert "UNKNOWN_CA" in str(told.value.__cause__)
        async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
            await plain.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await read_all(plain)
        assert b"200" in await tls_ask(port, CLOSE)

    errors = tls_served(client, path)
    assert [doing for doing, _ in errors] == ["a TLS handshake"] * 2
    assert all(isinstance(exc, ssl.SSLError) for _, exc in errors)


def test_a_handshake_that_stalls_is_given_up(path):
    async def client(port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as silent:
            assert await read_all(silent) == b""

    ((doing, exc),) = tls_served(client, path, handshake_s=0.05)
    assert doing == "a TLS handshake"
    assert isinstance(exc, trio.TooSlowError)


def test_a_reset_in_the_middle_of_a_body(path):
    async def client(port):
        assert not (await tls_ask(port, b"GET /reset HTTP/1.1\r\n\r\n")).endswith(b"}")

    assert tls_served(client, path) == []


# --- listeners ---------------------------------------------------------------------------------------


def test_a_unix_listener_has_its_mode_and_makes_its_directory(tmp_path):
    async def main():
        path = tmp_path / "run" / "aziot" / "x.sock"
        listener = unix_listener(str(path), mode=0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        # A stale socket is replaced; the one bound before loses only its name.
        again = unix_listener(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert [entry.name for entry in path.parent.iterdir()] == ["x.sock"]
        await listener.aclose()
        await again.aclose()

    trio.run(main)


def test_an_empty_directory_gives_way_and_anything_else_does_not(tmp_path):
    async def main():
        (tmp_path / "d.sock").mkdir()
        await unix_listener(str(tmp_path / "d.sock")).aclose()
        (tmp_path / "full.sock").mkdir()
        (tmp_path / "full.sock" / "x").touch()
        (tmp_path / "file.sock").write_text("precious")
        for name in ("full.sock", "file.sock"):
            with pytest.raises(StoreUnavailable, match="not a socket") as caught:
                unix_listener(str(tmp_path / name))
            assert caught.value.code == "socket-path-taken"
        assert (tmp_path / "file.sock").read_text() == "precious"
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreUnavailable) as caught:
            unix_listener(str(tmp_path / "file" / "x.sock"))
        assert caught.value.code == "socket-unavailable"

    trio.run(main)


def test_107_bytes_of_path_are_served_and_108_are_not(tmp_path):
    longest = str(tmp_path) + "/" + "s" * (107 - len(str(tmp_path)) - 1)
    answer, _ = asked(longest, CLOSE)
    assert b"200" in answer
    with pytest.raises(StoreUnavailable, match="path too long") as caught:
        unix_listener(longest + "s")
    assert caught.value.code == "socket-unavailable"
    assert os.listdir(tmp_path) == [os.path.basename(longest)]


def test_a_descriptor_bound_by_somebody_else_is_served(path):
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(path)
    bound.listen()
    fd = bound.detach()
    os.set_inheritable(fd, True)
    answers = []

    async def client(served):
        assert not os.get_inheritable(fd)
        answers.append(await served.ask(CLOSE))

    run_served(client, path=path, listeners=lambda: [listener_from_fd(fd)])
    assert b"200" in answers[0]


def test_a_descriptor_of_another_kind_is_refused():
    tcp = socket.socket(socket.AF_INET)
    with pytest.raises(StoreUnavailable, match="not a Unix stream socket"):
        listener_from_fd(tcp.detach())
    unused = socket.socket()
    fd = unused.fileno()
    unused.close()
    with pytest.raises(StoreUnavailable) as caught:
        listener_from_fd(fd)
    assert caught.value.code == "activation-invalid"


def test_the_error_body():
    assert error_response(400, 'a "b"').body == rb'{"message":"a \"b\""}'
