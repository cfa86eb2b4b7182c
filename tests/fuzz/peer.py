"""A peer that says given bytes, whatever is asked: without TCP and without TLS, for throughput."""

import contextlib
import re
import ssl
from collections.abc import Iterator
from unittest import mock

import httpcore
import trio

from adapters.wire import http_client
from tests.fuzz.inputs import Input
from tests.rogue.memory import at_once

AUTHORIZATION = b"@AUTHORIZATION@"
"Where it stands in what is said, the peer quotes the token it was sent."

_LENGTH = re.compile(rb"(?im)^(content-length: *)([0-9]{1,9})(?=\r?$)")
_SENT = re.compile(rb"^authorization: *([^\r\n]*)", re.I | re.M)


class _Socket:
    def is_readable(self) -> bool:
        return False


class _Stream(trio.abc.Stream):
    """What was given, in pieces; then the end that was given."""

    def __init__(self, given: Input) -> None:
        self._given = given
        self._said = given.data
        self._at = 0
        self.socket = _Socket()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        token = _SENT.search(bytes(data))
        if token is not None and AUTHORIZATION in self._said:
            longer = self._said.count(AUTHORIZATION) * (len(token[1]) - len(AUTHORIZATION))
            self._said = self._said.replace(AUTHORIZATION, token[1])
            self._said = _LENGTH.sub(lambda found: found[1] + b"%d" % (int(found[2]) + longer), self._said)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        size = min(self._given.piece, max_bytes or self._given.piece)
        taken = self._said[self._at : self._at + size]
        self._at += len(taken)
        if taken:
            return taken
        if self._given.ending == "stall":
            await trio.sleep_forever()
        if self._given.ending == "reset":
            raise trio.BrokenResourceError
        return b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Peer:
    """Whoever connects reaches it."""

    def __init__(self) -> None:
        self.given = Input("submit-pem", b"")

    async def connect(self, host: str, port: int, **_: object) -> _Stream:
        await trio.lowlevel.checkpoint()
        return _Stream(self.given)


class _NoCollection:
    """Stands in for the module ``gc``."""

    @staticmethod
    def collect() -> int:
        return 0


async def _no_tls(self: httpcore.AsyncNetworkStream, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
    await trio.lowlevel.checkpoint()
    return self


@contextlib.contextmanager
def spoken_to(peer: Peer) -> Iterator[None]:
    """Every connection of ``adapters.wire.http_client`` goes to the peer, in the clear, without threads.

    Its wish for a collection of garbage at each closing is left to whoever runs thousands of them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    # Plain functions: a mock remembers each of its calls, and there are a million.
    def shared(_: http_client.TlsOptions) -> ssl.SSLContext:
        return context

    with (
        mock.patch.object(trio, "open_tcp_stream", peer.connect),
        mock.patch.object(trio.to_thread, "run_sync", at_once),
        mock.patch.object(http_client._Connection, "start_tls", _no_tls),
        mock.patch.object(http_client, "client_context", shared),
        mock.patch.object(http_client, "gc", _NoCollection),
    ):
        yield
