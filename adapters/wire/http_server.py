"""HTTP/1.1 for local Unix sockets and for TLS listeners: who is let in, and one task for each connection.

A task contains its own failures; no client can disturb another. What is spoken on a connection is in
``http_connection.py``, who makes room for whom in ``admission.py``. Other parts import all of it from here.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Sequence

import trio
from msgspec import structs

from adapters.wire.admission import Admission as Admission
from adapters.wire.admission import Place
from adapters.wire.admission import ServerLimits as ServerLimits
from adapters.wire.http_connection import (
    LINGER_S,
    READ_BYTES,
    ByteStream,
    ClientLost,
    Connection,
)
from adapters.wire.http_connection import OnAnswer as OnAnswer
from adapters.wire.http_connection import OnError as OnError
from adapters.wire.http_connection import log_error as log_error
from adapters.wire.http_connection import no_matter as no_matter
from adapters.wire.http_date import http_date as http_date
from adapters.wire.http_message import Handler as Handler
from adapters.wire.http_message import Peer as Peer
from adapters.wire.http_message import Request as Request
from adapters.wire.http_message import Response as Response
from adapters.wire.http_message import error_response as error_response
from adapters.wire.listeners import listener_from_fd as listener_from_fd
from adapters.wire.listeners import unix_listener as unix_listener

ACCEPT_PAUSE_S = 0.1
"After a failed accept: out of descriptors or memory, which only time and closing connections cure."


async def serve(
    listeners: Sequence[trio.SocketListener],
    handler: Handler,
    limits: ServerLimits | None = None,
    *,
    tls: Callable[[], ssl.SSLContext] | None = None,
    on_error: OnError = log_error,
    on_answer: OnAnswer = no_matter,
    task_status: trio.TaskStatus[Admission] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, then close the listeners. A Unix socket's file is left in place.

    ``tls`` is called for each connection, so that certificates and trust may change while it runs.
    Limits are of all ``listeners`` together. A client over the limit is closed without a word, which is
    what the original does and its clients retry (reference/services.md §1.5). ``nursery.start`` returns
    the Admission, whose counts say who is in.
    """
    server = _Server(handler, limits or ServerLimits(), tls, on_error, on_answer)
    try:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(server.accept, listener, nursery)
            task_status.started(server.admission)
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
        on_answer: OnAnswer,
    ) -> None:
        self.admission = Admission(limits)
        self._handler = handler
        self._limits = limits
        self._tls = tls
        self._on_error = on_error
        self._on_answer = on_answer

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
            except OSError as exc:
                self._on_error("asking who has connected", exc)
                transport.socket.close()
                continue
            place = self.admission.admit(peer.uid, transport.socket)
            if place is None:
                transport.socket.close()
                continue
            nursery.start_soon(self._connection, transport, peer, place)

    async def _connection(self, transport: trio.SocketStream, peer: Peer, place: Place) -> None:
        try:
            stream: ByteStream = transport
            if self._tls is not None:
                place.stir()
                stream = await self._handshake(transport, self._tls())
                peer = structs.replace(peer, certificate_der=stream.getpeercert(binary_form=True))
            await Connection(
                stream,
                transport,
                peer,
                place,
                self.admission,
                self._handler,
                self._limits,
                self._on_error,
                self._on_answer,
            ).run()
        except ClientLost:
            pass
        except _HandshakeFailed as failed:
            self._on_error("a TLS handshake", failed.why)
        except Exception as exc:  # contained here, since it would end every other connection too
            self._on_error("a connection", exc)
        finally:
            place.leave()
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
