"""TCP without the kernel, and worker threads that are none: real adapters and real TLS on virtual time.

A mock clock jumps when every task waits, and a task that waits for a socket or a thread waits for something
it cannot see. So connections are queues of bytes here, and what would run in a thread runs at once.
"""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast
from unittest import mock

import trio

_RESET = struct.pack("ii", 1, 0)


class _Pipe:
    """Bytes on their way, in one direction."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.reset = False
        self.stirred = trio.Event()

    def stir(self) -> None:
        self.stirred.set()
        self.stirred = trio.Event()


class _Socket:
    """What is asked of a connection's socket beside its bytes."""

    family = socket.AF_INET

    def __init__(self, stream: "MemoryStream") -> None:
        self._stream = stream

    def is_readable(self) -> bool:
        """Bytes, or the end."""
        pipe = self._stream.incoming
        return bool(pipe.data) or pipe.ended


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection; as ``trio.SocketStream`` as far as the service and the stand-in cloud know."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.socket = _Socket(self)
        self._closed = False
        self._resets = False

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """SO_LINGER 0 makes closing a reset."""
        self._resets = (level, option, value) == (socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        if self.outgoing.ended or self.incoming.reset:
            raise trio.BrokenResourceError
        self.outgoing.data += data
        self.outgoing.stir()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self.incoming
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if pipe.data:
                taken = bytes(pipe.data[:max_bytes])
                del pipe.data[: len(taken)]
                return taken
            if pipe.reset:
                raise trio.BrokenResourceError
            if pipe.ended:
                return b""
            await pipe.stirred.wait()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._end()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self.outgoing.reset = self._resets
            self._end()
            # Whoever still sends here is told.
            self.incoming.ended = True
            self.incoming.stir()
        await trio.lowlevel.checkpoint()

    def _end(self) -> None:
        self.outgoing.ended = True
        self.outgoing.stir()


class MemoryListener:
    """As ``trio.SocketListener`` as far as ``http_server.serve`` knows."""

    def __init__(self, network: "MemoryNetwork", port: int) -> None:
        self._network = network
        self._port = port
        self._send, self._receive = trio.open_memory_channel[MemoryStream](64)
        self.socket = self

    async def accept(self) -> MemoryStream:
        return await self._receive.receive()

    def connect(self) -> MemoryStream:
        there, back = _Pipe(), _Pipe()
        self._send.send_nowait(MemoryStream(there, back))
        return MemoryStream(back, there)

    def close(self) -> None:
        self._network.forget(self._port)


class MemoryNetwork:
    """Every host is here; a port where nobody listens refuses."""

    def __init__(self) -> None:
        self._listeners: dict[int, MemoryListener] = {}
        self.connections = 0

    def listen(self, port: int) -> trio.SocketListener:
        listener = self._listeners[port] = MemoryListener(self, port)
        return cast("trio.SocketListener", listener)

    def forget(self, port: int) -> None:
        self._listeners.pop(port, None)

    async def connect(self, host: str, port: int, **_: object) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        if port not in self._listeners:
            raise OSError(f"Error connecting to ({host!r}, {port}): Connection refused")
        self.connections += 1
        return self._listeners[port].connect()


async def at_once(work: Callable[..., Any], *arguments: object, **_: object) -> Any:
    await trio.lowlevel.checkpoint()
    return work(*arguments)


@contextlib.contextmanager
def in_memory(network: MemoryNetwork) -> Iterator[None]:
    """Connections go over ``network``, and nothing runs in a thread."""
    with (
        mock.patch.object(trio, "open_tcp_stream", network.connect),
        mock.patch.object(trio.to_thread, "run_sync", at_once),
    ):
        yield
