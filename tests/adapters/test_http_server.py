"""The server against raw sockets: what is served, what is refused with which status, what is contained."""

import errno
import json
import os
import shutil
import socket
import ssl

import pytest
import trio
import trustme
from msgspec import structs

from adapters.wire import http_server
from adapters.wire.http_server import ACCEPT_PAUSE_S, Peer, Request, Response, error_response, http_date
from tests.adapters.served import CLOSE, GET, asked, read_all, run_served, status_and_message


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.sock")


# --- what is served ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "seen"),
    [
        (CLOSE, ["GET", "/x", ""]),
        (b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n", ["GET", "/x", ""]),
        (b"GET /x HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", ["GET", "/x", ""]),
        (b"GET /x HTTP/1.0\r\n\r\n", ["GET", "/x", ""]),
        (b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", ["GET", "/x", ""]),
        (
            b"GET http://certd.sock?x=1 HTTP/1.1\r\nConnection: close\r\n\r\n",
            ["GET", "http://certd.sock?x=1", ""],
        ),
        ("GET /x HTTP/1.1\r\nX: Gerät\r\nConnection: close\r\n\r\n".encode(), ["GET", "/x", ""]),
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


async def every_kind(request):
    match request.path:
        case "/created":
            return Response(201, b'{"certId":"a"}')
        case "/none":
            return Response(204)
        case "/refused":
            return error_response(400, 'parameter "id" has an invalid value\ncaused by: not found')
        case "/later":
            return structs.replace(error_response(503, "later"), headers=(("retry-after", "5"),))
        case "/broken":
            raise ValueError
    return Response(200, b'{"certificate":""}')


POST = b"POST /x HTTP/1.1\r\nContent-Length: "
ANSWERS = {
    "200": b"GET /certificates/a?api-version=2020-09-01 HTTP/1.1\r\n\r\n",
    "200 to the last request": CLOSE,
    "200 to HEAD": b"HEAD /x HTTP/1.1\r\n\r\n",
    "201": b"POST /created HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "204": b"DELETE /none HTTP/1.1\r\n\r\n",
    "400 of a handler": b"GET /refused HTTP/1.1\r\n\r\n",
    "400 of the server": b"nonsense\r\n\r\n",
    "408 head": b"GET /x",
    "408 body": POST + b"2\r\n\r\n",
    "413": POST + b"99999999\r\n\r\n",
    "431": b"GET /x HTTP/1.1\r\nX: " + b"x" * 20_000,
    "500": b"GET /broken HTTP/1.1\r\n\r\n",
    "501": b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "503": b"GET /later HTTP/1.1\r\n\r\n",
    "505": b"GET /x HTTP/3.0\r\n\r\n",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_is_one_write_that_a_client_with_512_bytes_understands(path, monkeypatch, kind):
    written = []
    send_all = trio.SocketStream.send_all

    async def noted(stream, data):
        written.append(bytes(data))
        await send_all(stream, data)

    async def client(served):
        raw = await trio.to_thread.run_sync(first_read, served.path, ANSWERS[kind])
        assert written == [raw]
        head, end, body = raw.partition(b"\r\n\r\n")
        assert end
        status, *lines = head.split(b"\r\n")
        assert status.startswith(b"HTTP/1.1 " + kind[:3].encode() + b" ")
        headers = dict(line.split(b": ", 1) for line in lines)
        assert len(headers) == len(lines) < 8
        if kind == "204":
            assert b"content-type" not in headers
            assert b"content-length" not in headers
            assert body == b""
        else:
            assert headers[b"content-type"] == b"application/json"
            assert int(headers[b"content-length"]) == len(body) or kind == "200 to HEAD"

    monkeypatch.setattr(trio.SocketStream, "send_all", noted)
    run_served(client, handler=every_kind, path=path, head_s=0.05, body_s=0.05)


def first_read(path, request_bytes):
    """As the original's synchronous key client reads: once."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        peer.sendall(request_bytes)
        return peer.recv(512)


def test_the_head_of_a_stream_is_one_write_too(path):
    proceed = trio.Event()

    async def chunks():
        await proceed.wait()
        yield b"{}\n"

    async def handler(_):
        return Response(200, stream=chunks())

    async def client(served):
        raw = await trio.to_thread.run_sync(first_read, served.path, CLOSE)
        assert raw.endswith(b"\r\n\r\n")
        assert b"\r\ncontent-type: application/json\r\n" in raw
        proceed.set()

    run_served(client, handler=handler, path=path)


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


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    ("size", "status"), [(2, "200"), (1_048_576, "200"), (1_048_577, "413"), (3_000_000, "413")]
)
@pytest.mark.parametrize("framing", ["content-length: {}", "transfer-encoding: chunked"])
def test_curl_expects_100_continue(path, tmp_path, framing, size, status):
    (tmp_path / "body").write_bytes(b"x" * size)

    async def client(served):
        command = ["curl", "-sS", "--unix-socket", served.path, "-w", "%{http_code}", "-o", os.devnull]
        command += ["-H", "Expect: 100-continue", "-H", framing.format(size), "--expect100-timeout", "60"]
        command += ["-X", "POST", "--data-binary", f"@{tmp_path}/body", "http://certd.sock/x"]
        done = await trio.run_process(command, capture_stdout=True)
        assert done.stdout.decode() == status

    run_served(client, path=path)


def test_an_empty_line_is_no_request_and_does_not_end_the_wait_for_one(path):
    async def client(served):
        async with await served.connect() as stream:
            await stream.send_all(b"\r\n")
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert (served.admission.idle, served.admission.requests) == (1, 0)
            await stream.send_all(b"\r\n" * 50_000 + CLOSE)
            assert b"200" in await read_all(stream)

    run_served(client, path=path, head_s=0)


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
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        ("GET /ä HTTP/1.1\r\n\r\n".encode(), 400),
        (b"GET /a\x00b HTTP/1.1\r\n\r\n", 400),
        (b"GET /a\tb HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: \xff\xfe\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: a\x1bb\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: a\x7fb\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: a\rb\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX\x01: a\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /x HTTP/2.0\r\n\r\n", 505),
        (b"PUT /x HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: " + b"9" * 500 + b"\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: " + b"a" * 2000 + b"\r\n\r\n", 431),
        (b"GET /x HTTP/1.1\r\nX: " + b"a" * 4000, 431),
        (b"PUT /x HTTP/1.1\r\nContent-Length: 11\r\n\r\n", 413),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n", 413),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 11, 413),
        (b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 2000, 431),
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


def test_raw_bytes_are_all_that_is_sent(path):
    async def chunks():
        yield b"no "
        yield b"HTTP"

    async def handler(_):
        return Response(200, b"0123456789", raw=chunks())

    answer, errors = asked(path, CLOSE, handler=handler)
    assert (answer, errors) == (b"no HTTP", [])


def test_a_stream_may_declare_its_length_and_stop_short_of_it(path):
    async def chunks():
        yield b"01"

    async def handler(_):
        return Response(200, stream=chunks(), headers=(("content-length", "4"),))

    answer, errors = asked(path, CLOSE, handler=handler)
    assert answer.endswith(b"\r\n\r\n01")
    assert len(errors) == 1


@pytest.mark.parametrize(
    "code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED]
)
def test_accepting_survives_what_passes(path, monkeypatch, code):
    failures = [OSError(code, "passing")] * 3
    accept = trio.SocketListener.accept
    pauses = []

    async def flaky(self):
        if failures:
            raise failures.pop()
        return await accept(self)

    async def pause(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(trio.SocketListener, "accept", flaky)
    monkeypatch.setattr("adapters.wire.http_server.trio.sleep", pause)
    answer, errors = asked(path, CLOSE)
    assert b"200" in answer
    assert [doing for doing, _ in errors] == ["accepting a connection"]
    assert pauses == [ACCEPT_PAUSE_S] * 3


def test_a_client_that_the_kernel_does_not_name_is_closed_and_no_other(path, monkeypatch):
    credentials, failures = http_server._credentials, [OSError(errno.ENOTCONN, "gone")]

    def flaky(sock):
        if failures:
            raise failures.pop()
        return credentials(sock)

    async def client(served):
        assert await served.ask(CLOSE) == b""
        assert b"200" in await served.ask(CLOSE)

    monkeypatch.setattr(http_server, "_credentials", flaky)
    errors = run_served(client, path=path)
    assert [doing for doing, _ in errors] == ["asking who has connected"]


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


def test_the_error_body():
    assert error_response(400, 'a "b"').body == rb'{"message":"a \"b\""}'
