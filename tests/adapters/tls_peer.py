"""A scripted HTTPS peer and a CONNECT proxy on loopback, for tests of the client side."""

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import h11
import trio
import trustme


@dataclass
class Seen:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    client_certificate: bool


Respond = Callable[[trio.abc.Stream, Seen], Awaitable[bool | None]]
"Writes the answer. Returns True to keep the connection."


def http(status: int, body: bytes = b"{}", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def replies(*answers: bytes) -> Respond:
    """One canned answer after the other, the last one forever."""
    left = list(answers)

    async def respond(stream: trio.abc.Stream, seen: Seen) -> bool:
        await stream.send_all(left.pop(0) if len(left) > 1 else left[0])
        return True

    return respond


@dataclass
class Peer:
    respond: Respond
    context: ssl.SSLContext | None
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def start(self, nursery: trio.Nursery) -> "Peer":
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, self._connection, [listener])
        return self

    async def _connection(self, transport: trio.SocketStream) -> None:
        self.connections += 1
        stream: trio.abc.Stream = transport
        if self.context is not None:
            stream = trio.SSLStream(transport, self.context, server_side=True, https_compatible=True)
        try:
            if isinstance(stream, trio.SSLStream):
                await self._handshake(stream)
            while await self._one(stream):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass
        finally:
            await trio.aclose_forcefully(transport)

    async def _handshake(self, stream: trio.SSLStream) -> None:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            # trio 0.35 drops the alert that OpenSSL wrote for the other side; every other server sends it.
            await stream.transport_stream.send_all(stream._outgoing.read())
            raise

    async def _one(self, stream: trio.abc.Stream) -> bool | None:
        parser = h11.Connection(h11.SERVER)
        head, body = None, b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await stream.receive_some(65536)
                if not data and head is None:
                    return False
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
        peer_certificate = isinstance(stream, trio.SSLStream) and stream.getpeercert() is not None
        seen = Seen(
            method=head.method.decode(),
            target=head.target.decode(),
            headers={name.decode(): value.decode() for name, value in head.headers},
            body=body,
            client_certificate=bool(peer_certificate),
        )
        self.seen.append(seen)
        return await self.respond(stream, seen)


def tunnel_to(port: int) -> Respond:
    """A CONNECT proxy that leads everything to one port, whatever name was asked for."""

    async def respond(stream: trio.abc.Stream, seen: Seen) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def copy(source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
            try:
                while data := await source.receive_some(65536):
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            scope.cancel()

        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(copy, stream, far, nursery.cancel_scope)
            nursery.start_soon(copy, far, stream, nursery.cancel_scope)

    return respond


def server_context(
    issued: trustme.LeafCert, *, clients: trustme.CA | None = None, required: bool = True
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context
