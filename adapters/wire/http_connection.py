"""The requests of one connection, one after another: h11 parses, trio waits, a handler answers.

Every wait has a bound in ``ServerLimits`` except the handler's own, which knows how long its work may
take. What existing clients rely on (reference/services.md §1.4): a request without Host is served,
absolute-form targets too, and head and body leave in one write with few headers, because one client reads
512 bytes once.
"""

import contextlib
import logging
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http import HTTPStatus

import h11
import trio
from msgspec import structs

from adapters.errors import bounded
from adapters.wire.admission import Admission, Place, ServerLimits
from adapters.wire.http_date import http_date
from adapters.wire.http_message import Handler, Peer, Request, Response, error_response

LINGER_S = 1.0
"How long the rest of a refused request is read and thrown away, so that its sender sees the answer."
READ_BYTES = 65_536
CHUNKS_AT_ONCE = 64
"Of a chunked body, before others have their turn: one read can hold ten thousand chunks."

_HEAD_END = re.compile(rb"\n\r?\n")
_NOT_CONTROL = bytes(byte for byte in range(256) if byte in b"\t\r\n" or (byte >= 0x20 and byte != 0x7F))
_BODYLESS = frozenset({204, 304})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
"Optional in HTTP/1.1, but small parsers look for one."

log = logging.getLogger(__name__)

OnError = Callable[[str, Exception], None]
"Told of what was contained: what was being done, and the exception. Must not raise."

OnAnswer = Callable[[int], None]
"Told the status of each request once it is over, or was refused in words. Must not raise."

ByteStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


def log_error(doing: str, exc: Exception) -> None:
    """The OnError that writes to the log."""
    log.error("%s failed", doing, exc_info=exc)


def no_matter(status: int) -> None:
    """The OnAnswer of who does not count."""


class ClientLost(Exception):
    """The client went away, or takes no bytes: nothing is left to be said to it."""


class _Refused(Exception):
    """The request cannot be read: answer so, and close."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Connection:
    """Serves until the client is done, is refused, or its place is given away."""

    def __init__(
        self,
        stream: ByteStream,
        transport: trio.SocketStream,
        peer: Peer,
        place: Place,
        admission: Admission,
        handler: Handler,
        limits: ServerLimits,
        on_error: OnError,
        on_answer: OnAnswer = no_matter,
    ) -> None:
        self._stream = stream
        self._transport = transport
        self._peer = peer
        self._place = place
        self._admission = admission
        self._handler = handler
        self._limits = limits
        self._on_error = on_error
        self._on_answer = on_answer
        self._status: int | None = None
        "What the request that is worked on is answered with; None while that is open."
        self._held = bytearray()
        "Received, and not yet part of a request."
        self._unread = False
        "The client is still sending what will not be read."

    async def run(self) -> None:
        """Raises ClientLost. Closing is the caller's."""
        while await self._next_request():
            pass
        if self._unread:
            await self._linger()

    async def _next_request(self) -> bool:
        """True when another may follow."""
        if not await self._first_byte() or not await self._begin():
            return False
        try:
            return await self._one_request()
        finally:
            self._place.end()
            self._tell()

    def _tell(self) -> None:
        """Whoever counts hears of a request when it counts as one in flight no more."""
        status, self._status = self._status, None
        if status is not None:
            self._on_answer(status)

    async def _first_byte(self) -> bool:
        """Wait, holding nothing, until a request begins. False when none does."""
        self._skip_empty_lines()
        if self._held:
            return True
        with self._place.rest(self._limits.idle_s):
            while await self._receive():
                self._skip_empty_lines()
                if self._held:
                    return True
        return False

    async def _begin(self) -> bool:
        if self._place.given_up:
            return False
        if self._place.begin():
            return True
        # An answer that has just been written frees its place when its task runs, which is this turn.
        await trio.lowlevel.checkpoint()
        if self._place.begin():
            return True
        why = self._admission.refused(self._place)
        if self._limits.when_busy == "503":
            try:
                await self._say(structs.replace(error_response(503, why), headers=(("retry-after", "1"),)))
            finally:
                self._tell()
            self._unread = True
        return False

    async def _one_request(self) -> bool:
        # A parser for each request: what follows a request is held here, where a Host can be added.
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes + 64)
        try:
            head = await self._read_head()
            request = await self._read_request(parser, head)
        except _Refused as refused:
            await self._say(error_response(refused.status, refused.message))
            self._unread = True
            return False
        try:
            response = await self._handler(request)
        except Exception as exc:
            self._on_error(f"{request.method} {request.path}", exc)
            await self._say(error_response(500, "internal error"), bodyless=request.method == "HEAD")
            return False
        return await self._respond(parser, request, response)

    # reading

    async def _read_head(self) -> bytes:
        """The bytes up to and with the empty line."""
        if self._held[0] < 0x21:
            raise _Refused(400, "not an HTTP request")  # TLS, most likely: do not wait for a line
        limit = self._limits.head_bytes
        end = _HEAD_END.search(self._held)
        if end is None and len(self._held) <= limit:
            end = await self._rest_of_head(limit)
        if end is None or end.end() > limit:
            raise _Refused(431, f"the request head is larger than {limit} bytes")
        head = bytes(self._held[: end.end()])
        del self._held[: end.end()]
        return head

    async def _rest_of_head(self, limit: int) -> re.Match[bytes] | None:
        """The end of a head that has not come in one piece; None when it is too large."""
        with trio.CancelScope(deadline=trio.current_time() + self._limits.head_s):
            while True:
                searched = max(len(self._held) - 2, 0)
                if not await self._receive():
                    raise _Refused(400, "the request ended within its head")
                end = _HEAD_END.search(self._held, searched)
                if end is not None or len(self._held) > limit:
                    return end
        raise _Refused(408, "the request head did not arrive in time")

    def _skip_empty_lines(self) -> None:
        """RFC 9112 §2.2: some clients send one after a body."""
        if self._held and self._held[0] in b"\r\n":
            self._held = self._held.lstrip(b"\r\n")

    async def _read_request(self, parser: h11.Connection, head: bytes) -> Request:
        _check_head(head)
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
        event = parser.next_event()
        if isinstance(event, h11.EndOfMessage):
            body = b""
        else:
            with trio.CancelScope(deadline=trio.current_time() + self._limits.body_s) as patience:
                body = await self._collect(parser, event, too_large)
            if patience.cancelled_caught:
                raise _Refused(408, "the request body did not arrive in time")
        self._held += parser.trailing_data[0]
        return body

    async def _collect(self, parser: h11.Connection, event: object, too_large: _Refused) -> bytes:
        """The body from ``event`` on. Raises ``too_large`` when it is."""
        body = bytearray()
        chunks = 0
        while not isinstance(event, h11.EndOfMessage):
            if event is h11.NEED_DATA:
                if parser.they_are_waiting_for_100_continue:
                    await self._write(parser.send(h11.InformationalResponse(status_code=100, headers=[])))
                if not self._held:
                    await self._receive()
                # At the end of the connection this is empty, which the parser refuses.
                parser.receive_data(bytes(self._held))
                self._held.clear()
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._limits.body_bytes:
                    raise too_large
                chunks += 1
                if not chunks % CHUNKS_AT_ONCE:
                    await trio.lowlevel.checkpoint()
            event = parser.next_event()
        return bytes(body)

    async def _receive(self) -> bool:
        """False at the end of the connection."""
        try:
            data = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientLost from exc
        self._held += data
        return bool(data)

    # writing

    async def _respond(self, parser: h11.Connection, request: Request, response: Response) -> bool:
        bodyless = request.method == "HEAD" or response.status in _BODYLESS
        if response.raw is not None:
            await self._send_raw(response.raw)
            if response.abort_after is not None:
                self._reset()
            return False
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
        self._status = response.status
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
        except ClientLost:
            raise
        except Exception as exc:
            # The head is gone, so an unfinished body is the only way left to say it.
            self._on_error(f"streaming {request.method} {request.path}", exc)
            return False
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _send_raw(self, chunks: AsyncIterator[bytes]) -> None:
        try:
            async for chunk in chunks:
                await self._write(chunk)
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    async def _say(self, response: Response, *, bodyless: bool = False) -> None:
        """The last answer of this connection, whatever state its parser is in."""
        self._status = response.status
        parser = h11.Connection(h11.SERVER)
        data = parser.send(_response_head(response, close=True))
        await self._write(data if bodyless else data + response.body)

    async def _write(self, data: bytes | None) -> None:
        if not data:
            return
        try:
            with trio.CancelScope(deadline=trio.current_time() + self._limits.write_s) as patience:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientLost from exc
        if patience.cancelled_caught:
            raise ClientLost

    async def _linger(self) -> None:
        """Closing with unread bytes resets the connection, and a reset can overtake the answer."""
        with self._place.rest(LINGER_S), contextlib.suppress(ClientLost, trio.BrokenResourceError):
            if self._stream is self._transport:
                await self._transport.send_eof()
            while await self._receive():
                self._held.clear()

    def _reset(self) -> None:
        self._transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _check_head(head: bytes) -> None:
    """Refuse what the parser lets pass and two readers could understand in two ways. Raises _Refused."""
    if head.translate(None, _NOT_CONTROL):
        raise _Refused(400, "the request head holds a control character")
    if not head.isascii():
        try:
            head.decode()
        except UnicodeDecodeError as exc:
            raise _Refused(400, "the request head is not UTF-8") from exc
    lowered = head.lower()
    if lowered.count(b"\ncontent-length:") + lowered.count(b"\ntransfer-encoding:") > 1:
        raise _Refused(400, "the request head has more than one Content-Length or Transfer-Encoding")


def _with_host(head: bytes) -> bytes:
    """Host is what h11 insists on and clients of local sockets leave out; an empty one is valid."""
    if b"\nhost:" in head.lower():
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
