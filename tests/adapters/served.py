"""A server on a real Unix socket, and clients of it that say bytes, whoever the kernel says they are."""

import contextlib
import itertools
import json
import os
import socket

import trio

from adapters.wire import http_server
from adapters.wire.http_server import Peer, Response, ServerLimits, serve, unix_listener

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PATIENCE_S = 20
"Of a whole test; none needs it unless it hangs."

_numbers = itertools.count()


async def echo(request):
    return Response(200, json.dumps([request.method, request.target, request.body.decode()]).encode())


class Served:
    """The server, seen from outside but for its counts."""

    def __init__(self, path, errors):
        self.path = path
        self.errors = errors
        self.admission = None

    async def connect(self, uid=None):
        """``uid`` needs ``impersonate``."""
        return trio.SocketStream(await _connected(self.path, uid))

    async def ask(self, data, *, eof=False, uid=None):
        """Everything the server says until it closes."""
        async with await self.connect(uid) as stream:
            with contextlib.suppress(trio.BrokenResourceError):  # closed before all was written
                await stream.send_all(data)
                if eof:
                    await stream.send_eof()
            return await read_all(stream)

    async def until(self, *, requests=None, connections=None):
        """Wait for the counts of the server."""
        while requests not in (None, self.admission.requests) or connections not in (
            None,
            self.admission.connections,
        ):
            await trio.lowlevel.checkpoint()


async def _connected(path, uid):
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if uid is not None:
        await sock.bind(f"{path}.{uid}.{next(_numbers)}")
    await sock.connect(path)
    return sock


def impersonate(monkeypatch):
    """Clients that said so have another uid: the kernel knows only one in a test."""
    credentials = http_server._credentials

    def claimed(sock):
        name = sock.getpeername()
        return Peer(uid=int(name.split(".")[-2])) if name else credentials(sock)

    monkeypatch.setattr(http_server, "_credentials", claimed)


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
        served = Served(path, errors)
        with trio.fail_after(PATIENCE_S):
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

                served.admission = await nursery.start(start)
                await client(served)
                nursery.cancel_scope.cancel()

    trio.run(main)
    return errors


def asked(path, data, *, handler=echo, eof=False, **limits):
    """The answer to one connection's bytes, and the errors that were contained."""
    answers = []

    async def client(served):
        answers.append(await served.ask(data, eof=eof))

    errors = run_served(client, handler=handler, path=path, **limits)
    return answers[0], errors


def status_and_message(answer):
    """Of a refusal, which says that it is the last answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/json\r\n" in head
    assert b"\r\nconnection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["message"]


def open_descriptors():
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))
