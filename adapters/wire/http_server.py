"""HTTP/1.1 for local Unix sockets and for TLS listeners: h11 parses, trio waits, a handler answers.

One task per connection contains its own failures; no client can disturb another. Every wait has a bound
in ``ServerLimits`` except the handler's own, which knows how long its work may take. What existing
clients rely on (reference/services.md §1.4): a request without Host is served, absolute-form targets
too, and head and body leave in one write with few headers, because one client reads 512 bytes once.
"""

import contextlib
import logging
import math
import re
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from http import HTTPStatus
from urllib.parse import parse_qsl

import h11
import msgspec
import trio
from msgspec import Struct

from adapters.errors import bounded
from adapters.wire.http_date import http_date as http_date
from adapters.wire.listeners import listener_from_fd as listener_from_fd
from adapters.wire.listeners import unix_listener as unix_listener

ACCEPT_PAUSE_S = 0.1
"After a failed accept: out of descriptors or memory, which only time and closing connections cure."
LINGER_S = 1.0
"How long the rest of a refused request is read and thrown away, so that its sender sees the answer."
READ_BYTES = 65_536

_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_HEAD_END = re.compile(rb"\n\r?\n")
_HOST = re.compile(rb"\nhost[ \t]*:", re.IGNORECASE)
_BODYLESS = frozenset({204, 304})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
"Optional in HTTP/1.1, but small parsers look for one."

log = logging.getLogger(__name__)

OnError = Callable[[str, Exception], None]
"Told of what was contained: what was being done, and the exception. Must not raise."


def log_error(doing: str, exc: Exception) -> None:
    """The OnError that writes to the log."""
    log.error("%s failed", doing, exc_info=exc)


# --- what a handler sees and answers -----------------------------------------------------------------


class Peer(Struct, frozen=True, kw_only=True):
    """Who is at the other end, as the kernel or TLS vouch for it."""

    uid: int | None = None
    "With gid and pid from SO_PEERCRED, as of connect(). None on other than Unix sockets."
    gid: int | None = None
    pid: int | None = None
    certificate_der: bytes | None = None
    "The client's leaf certificate, verified by the listener's TLS context. None when it showed none."


class Request(Struct, frozen=True):
    """One complete request."""

    method: str
    target: str
    "As received: origin-form or absolute-form."
    headers: tuple[tuple[str, str], ...] = ()
    "Names in lower case, in order."
    body: bytes = b""
    peer: Peer = Peer()

    @property
    def path(self) -> str:
        """The raw path, percent-encoding untouched, so that ``%2F`` stays inside its segment."""
        return _ABSOLUTE.sub("", self.target, count=1).partition("?")[0] or "/"

    @property
    def query_pairs(self) -> list[tuple[str, str]]:
        """The query as a form: ``+`` is a space, ``%XX`` decoded, invalid UTF-8 replaced."""
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    def query(self, name: str) -> str | None:
        """The last value under that name, None when there is none."""
        return next((value for key, value in reversed(self.query_pairs) if key == name), None)

    def header(self, name: str) -> str | None:
        """The first value of that header, None when there is none."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key == wanted), None)


class Response(Struct, frozen=True):
    """One answer. ``date`` and the framing headers are added unless ``headers`` has them."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    "Names in lower case."
    stream: AsyncIterator[bytes] | None = None
    """Sent instead of ``body``, each chunk as it comes; chunked, unless ``headers`` has a content-length.
    A reader that takes none of a chunk for ``write_s`` is dropped. An exception cuts the connection."""
    abort_after: int | None = None
    "Reset the connection after the head and this many bytes of ``body``. For stand-in peers."


Handler = Callable[[Request], Awaitable[Response]]


def error_response(status: int, message: str) -> Response:
    """The error body of every socket: ``{"message": "…"}``."""
    return Response(status, msgspec.json.encode({"message": message}))


class ServerLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one ``serve``. Seconds, bytes, and connections open at once."""

    connections: int = 64
    connections_per_uid: int | None = None
    "Unix sockets only. None bounds the sum alone."
    body_bytes: int = 1_048_576
    head_bytes: int = 16_384
    idle_s: float = 60.0
    "Between requests, and before the first."
    head_s: float = 5.0
    "From the first byte of a head to its last."
    body_s: float = 5.0
    "The whole request body."
    write_s: float = 10.0
    "One write: a whole answer, or one chunk of a stream."
    handshake_s: float = 10.0


# --- the server --------------------------------------------------------------------------------------


async def serve(
    listeners: Sequence[trio.SocketListener],
    handler: Handler,
    limits: ServerLimits | None = None,
    *,
    tls: Callable[[], ssl.SSLContext] | None = None,
    on_error: OnError = log_error,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, then close the listeners. A Unix socket's file is left in place.

    ``tls`` is called for each connection, so that certificates and trust may change while it runs.
    Limits are of all ``listeners`` together. A client over the limit is closed without a word, which is
    what the original does and its clients retry (reference/services.md §1.5).
    """
    server = _Server(handler, limits or ServerLimits(), tls, on_error)
    try:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(server.accept, listener, nursery)
            task_status.started()
    finally:
        for listener in listeners:
            listener.socket.close()


class _Server:
    def __init__(
        self,
        handler: Handler,
        limits: ServerLimits,
        tls: Callable[[], ssl.SSLContext] | None,
        on_error: OnError,
    ) -> None:
        self._handler = handler
        self._limits = limits
        self._tls = tls
        self._on_error = on_error
        self._open = 0
        self._open_by_uid: Counter[int | None] = Counter()

    async def accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        failing = False
        while True:
            try:
                transport = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as exc:
                if not failing:  # once per trouble, not ten times a second
                    self._on_error("accepting a connection", exc)
                failing = True
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            failing = False
            try:
                peer = _credentials(transport.socket)
            except OSError:
                peer = None
            if peer is None or self._is_full(peer.uid):
                transport.socket.close()
                continue
            self._open += 1
            self._open_by_uid[peer.uid] += 1
            nursery.start_soon(self._connection, transport, peer)

    def _is_full(self, uid: int | None) -> bool:
        if self._open >= self._limits.connections:
            return True
        per_uid = self._limits.connections_per_uid
        return per_uid is not None and uid is not None and self._open_by_uid[uid] >= per_uid

    async def _connection(self, transport: trio.SocketStream, peer: Peer) -> None:
        try:
            stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = transport
            if self._tls is not None:
                stream = await self._handshake(transport, self._tls())
                peer = Peer(certificate_der=stream.getpeercert(binary_form=True))
            await _Connection(stream, transport, peer, self._handler, self._limits, self._on_error).run()
        except _ClientLost:
            pass
        except _HandshakeFailed as failed:
            self._on_error("a TLS handshake", failed.why)
        except Exception as exc:  # contained here, since it would end every other connection too
            self._on_error("a connection", exc)
        finally:
            self._open -= 1
            self._open_by_uid[peer.uid] -= 1
            if not self._open_by_uid[peer.uid]:
                del self._open_by_uid[peer.uid]
            await trio.aclose_forcefully(transport)

    async def _handshake(
        self, transport: trio.SocketStream, context: ssl.SSLContext
    ) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self._limits.handshake_s):
                await stream.do_handshake()
        except trio.TooSlowError as exc:
            raise _HandshakeFailed(exc) from exc
        except trio.BrokenResourceError as exc:
            cause = exc.__cause__
            if not isinstance(cause, ssl.SSLError):
                raise _HandshakeFailed(exc) from exc
            await _send_alert(stream, transport)
            raise _HandshakeFailed(cause) from exc
        return stream


async def _send_alert(stream: trio.SSLStream[trio.SocketStream], transport: trio.SocketStream) -> None:
    """Say why. trio drops the alert that OpenSSL left to be sent, and offers no public way to it."""
    outgoing = getattr(stream, "_outgoing", None)
    with trio.move_on_after(LINGER_S), contextlib.suppress(trio.BrokenResourceError):
        if isinstance(outgoing, ssl.MemoryBIO):
            await transport.send_all(outgoing.read())
        # As after any refusal: what the client has sent meanwhile must not reset the connection.
        await transport.send_eof()
        while await transport.receive_some(READ_BYTES):
            pass


class _HandshakeFailed(Exception):
    def __init__(self, why: Exception) -> None:
        super().__init__()
        self.why = why


def _credentials(sock: trio.socket.SocketType) -> Peer:
    if sock.family != socket.AF_UNIX:
        return Peer()
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
    pid, uid, gid = struct.unpack("=iII", packed)
    return Peer(uid=uid, gid=gid, pid=pid)


# --- one connection ----------------------------------------------------------------------------------


class _Refused(Exception):
    """The request cannot be read: answer so, and close."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Connection:
    def __init__(
        self,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        transport: trio.SocketStream,
        peer: Peer,
        handler: Handler,
        limits: ServerLimits,
        on_error: OnError,
    ) -> None:
        self._stream = stream
        self._transport = transport
        self._peer = peer
        self._handler = handler
        self._limits = limits
        self._on_error = on_error
        self._held = bytearray()
        "Received, and not yet part of a request."

    async def run(self) -> None:
        while await self._one_request():
            pass

    async def _one_request(self) -> bool:
        """True when another may follow."""
        # A parser for each request: what follows a request is held here, where a Host can be added.
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes + 64)
        try:
            head = await self._read_head()
            if head is None:
                return False
            request = await self._read_request(parser, head)
        except _Refused as refused:
            await self._say(error_response(refused.status, refused.message))
            await self._linger()
            return False
        try:
            response = await self._handler(request)
        except Exception as exc:
            self._on_error(f"{request.method} {request.path}", exc)
            await self._say(error_response(500, "internal error"), bodyless=request.method == "HEAD")
            return False
        return await self._respond(parser, request, response)

    # reading

    async def _read_head(self) -> bytes | None:
        """The bytes up to and with the empty line; None when the client is done."""
        self._skip_empty_lines()
        if not self._held and not await self._receive(self._limits.idle_s):
            return None
        end, searched = None, 0
        with trio.CancelScope(deadline=trio.current_time() + self._limits.head_s) as patience:
            while True:
                self._skip_empty_lines()
                if self._held and self._held[0] < 0x21:
                    raise _Refused(400, "not an HTTP request")  # TLS, most likely: do not wait for a line
                end = _HEAD_END.search(self._held, searched)
                if end is not None or len(self._held) > self._limits.head_bytes:
                    break
                searched = max(len(self._held) - 2, 0)
                if not await self._receive(math.inf):
                    if self._held:
                        raise _Refused(400, "the request ended within its head")
                    return None
        if patience.cancelled_caught:
            if not self._held:
                return None  # empty lines are not yet a request
            raise _Refused(408, "the request head did not arrive in time")
        if end is None or end.end() > self._limits.head_bytes:
            raise _Refused(431, f"the request head is larger than {self._limits.head_bytes} bytes")
        head = bytes(self._held[: end.end()])
        del self._held[: end.end()]
        return head

    def _skip_empty_lines(self) -> None:
        """RFC 9112 §2.2: some clients send one after a body."""
        while self._held and self._held[0] in b"\r\n":
            del self._held[:1]

    async def _read_request(self, parser: h11.Connection, head: bytes) -> Request:
        try:
            parser.receive_data(_with_host(head))
            event = parser.next_event()
            if not isinstance(event, h11.Request):
                raise _Refused(400, "not an HTTP request")
            if event.http_version not in (b"1.1", b"1.0"):
                raise _Refused(505, "HTTP/1.1 is spoken here")
            method = event.method.decode("ascii")
            if method == "CONNECT":
                raise _Refused(400, "method not allowed")
            body = await self._read_body(parser, event)
        except h11.RemoteProtocolError as exc:
            raise _Refused(exc.error_status_hint, f"malformed request: {bounded(str(exc), 200)}") from exc
        return Request(
            method,
            event.target.decode("ascii"),
            tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers),
            body,
            self._peer,
        )

    async def _read_body(self, parser: h11.Connection, head: h11.Request) -> bytes:
        limit = self._limits.body_bytes
        too_large = _Refused(413, f"the request body is larger than {limit} bytes")
        for name, value in head.headers:
            if name == b"content-length" and int(value) > limit:
                raise too_large
        body = bytearray()
        with trio.CancelScope(deadline=trio.current_time() + self._limits.body_s) as patience:
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    if parser.they_are_waiting_for_100_continue:
                        await self._write(parser.send(h11.InformationalResponse(status_code=100, headers=[])))
                    if not self._held:
                        await self._receive(math.inf)
                    # At the end of the connection this is empty, which the parser refuses.
                    parser.receive_data(bytes(self._held))
                    self._held.clear()
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > limit:
                        raise too_large
                else:
                    break
        if patience.cancelled_caught:
            raise _Refused(408, "the request body did not arrive in time")
        self._held += parser.trailing_data[0]
        return bytes(body)

    async def _receive(self, within_s: float) -> bool:
        """False at the end of the connection, and when nothing came in time."""
        try:
            with trio.move_on_after(within_s):
                data = await self._stream.receive_some(READ_BYTES)
                self._held += data
                return bool(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise _ClientLost from exc
        return False

    # writing

    async def _respond(self, parser: h11.Connection, request: Request, response: Response) -> bool:
        bodyless = request.method == "HEAD" or response.status in _BODYLESS
        try:
            head = parser.send(_response_head(response))
            if response.stream is None:
                body = b"" if bodyless else response.body
                # h11 counts the body against the head, and says here when they do not fit.
                data = head + parser.send(h11.Data(data=body)) + parser.send(h11.EndOfMessage())
        except h11.LocalProtocolError as exc:
            self._on_error(f"answering {request.method} {request.path}", exc)
            await self._say(error_response(500, "internal error"), bodyless=request.method == "HEAD")
            return False
        if response.stream is not None:
            if not await self._send_stream(parser, request, head, response.stream, bodyless=bodyless):
                return False
        elif response.abort_after is not None:
            await self._write(data[: len(head) + response.abort_after])
            self._reset()
            return False
        else:
            await self._write(data)
        return parser.our_state is h11.DONE

    async def _send_stream(
        self,
        parser: h11.Connection,
        request: Request,
        head: bytes,
        stream: AsyncIterator[bytes],
        *,
        bodyless: bool,
    ) -> bool:
        """True when it ended as it should."""
        try:
            await self._write(head)
            if not bodyless:
                async for chunk in stream:
                    await self._write(parser.send(h11.Data(data=chunk)))
            await self._write(parser.send(h11.EndOfMessage()))
            return True
        except _ClientLost:
            raise
        except Exception as exc:
            # The head is gone, so an unfinished body is the only way left to say it.
            self._on_error(f"streaming {request.method} {request.path}", exc)
            return False
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _say(self, response: Response, *, bodyless: bool = False) -> None:
        """The last answer of this connection, whatever state its parser is in."""
        parser = h11.Connection(h11.SERVER)
        data = parser.send(_response_head(response, close=True))
        await self._write(data if bodyless else data + response.body)

    async def _write(self, data: bytes | None) -> None:
        if not data:
            return
        try:
            with trio.fail_after(self._limits.write_s):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as exc:
            raise _ClientLost from exc

    async def _linger(self) -> None:
        """Closing with unread bytes resets the connection, and a reset can overtake the answer."""
        with trio.move_on_after(LINGER_S), contextlib.suppress(_ClientLost, trio.BrokenResourceError):
            if self._stream is self._transport:
                await self._transport.send_eof()
            while await self._receive(LINGER_S):
                self._held.clear()

    def _reset(self) -> None:
        self._transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _ClientLost(Exception):
    """The client went away, or takes no bytes: nothing is left to be said to it."""


def _with_host(head: bytes) -> bytes:
    """Host is what h11 insists on and clients of local sockets leave out; an empty one is valid."""
    if _HOST.search(head):
        return head
    line, newline, rest = head.partition(b"\n")
    return line + newline + b"Host:\r\n" + rest


def _response_head(response: Response, *, close: bool = False) -> h11.Response:
    given = {name for name, _ in response.headers}
    headers = [(name, value) for name, value in _own_headers(response, close=close) if name not in given]
    headers += response.headers
    return h11.Response(
        status_code=response.status, headers=headers, reason=_REASONS.get(response.status, b"")
    )


def _own_headers(response: Response, *, close: bool) -> Iterator[tuple[str, str]]:
    if response.status not in _BODYLESS:
        yield "content-type", response.content_type
        if response.stream is None:
            yield "content-length", str(len(response.body))
    yield "date", http_date(int(time.time()))
    if close:
        yield "connection", "close"
