"""A server on a real Unix socket, a client that says bytes, and a machine that does as it is told."""

import contextlib
import tempfile
from urllib.parse import quote

import msgspec
import trio

from adapters.errors import StoreUnavailable
from adapters.ports import Taken
from adapters.wire.http_server import Response, ServerLimits, serve, unix_listener
from statemachine.status import ClockStatus, OnboardingStatus, Status

PATIENCE_S = 5


@contextlib.asynccontextmanager
async def serving(path, handler, **limits):
    """The handler on that socket while the block runs."""
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, [unix_listener(path)], handler, ServerLimits(**limits))
            yield
            nursery.cancel_scope.cancel()


async def exchange(path, request):
    """Everything the server says until it closes."""
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(request.encode())
        return b"".join([chunk async for chunk in stream])


def over_a_socket(handler, request):
    """The answer to that request over a real Unix socket, from the peer that it names."""

    async def as_that_peer(received):
        return await handler(msgspec.structs.replace(received, peer=request.peer))

    async def main():
        with tempfile.TemporaryDirectory(prefix="id-") as directory:
            path = f"{directory}/s.sock"
            async with serving(path, as_that_peer), await trio.open_unix_socket(path) as stream:
                await stream.send_all(_written(request))
                return b"".join([chunk async for chunk in stream])

    if request.method == "HEAD":
        # What it answers has no body on the wire.
        return trio.run(handler, request)
    head, _, body = trio.run(main).partition(b"\r\n\r\n")
    line, *lines = head.decode("ascii").split("\r\n")
    status = int(line.split()[1])
    headers = dict(line.lower().split(": ", 1) for line in lines)
    framing = {
        name: headers.pop(name, None) for name in ("content-type", "content-length", "date", "connection")
    }
    # An answer without a body says no type, and the handler's own says the usual one.
    kind = framing["content-type"] or ("application/json" if status == 204 else "")
    return Response(status, body, kind, tuple(headers.items()))


_PRINTABLE = "".join(chr(code) for code in range(33, 127))


def _written(request):
    lines = [
        f"{request.method} {quote(request.target, safe=_PRINTABLE)} HTTP/1.1",
        "host: s.sock",
        "connection: close",
    ]
    lines += [f"{name}: {value}" for name, value in request.headers]
    if request.body or request.method in ("POST", "PUT"):
        lines.append(f"content-length: {len(request.body)}")
    return "\r\n".join([*lines, "", ""]).encode() + request.body


class Machine:
    """A Lifecycle whose history is a list of lines."""

    def __init__(self, *, channel_lines=16):
        self.lines = []
        self.commands = []
        self.taken = Taken(sequence=1, verdict="taken", why="begins now")
        self.unavailable = None
        "Raised instead of an answer."
        self.on_command = lambda event: None
        self.on_leave = lambda: None
        self.before_stored = lambda: None
        "Called between following and reading what is stored."
        self.state, self.phase = "Provisioned", "Idle"
        self.fields = {}
        self._watchers = []
        self._channel_lines = channel_lines

    def status(self):
        facts = {
            "state": self.state,
            "phase": self.phase,
            "since": "2026-11-25T01:20:11.123Z",
            "sequence": len(self.lines),
            "stuck": False,
            "degraded": (),
            "reason": "",
            "next": None,
            "attempt": None,
            "assignment": None,
            "credential": None,
            "onboarding": OnboardingStatus(method="symmetric_key"),
            "clock": ClockStatus(trusted=True, reason="the kernel says it is synchronised"),
            "trust_bundle": None,
            "version": "0.1.0",
        }
        return Status(**(facts | self.fields))

    async def command(self, event):
        await trio.lowlevel.checkpoint()
        self.commands.append(event)
        if self.unavailable is not None:
            raise self.unavailable
        self.on_command(event)
        return self.taken

    @contextlib.contextmanager
    def follow(self):
        send, receive = trio.open_memory_channel(self._channel_lines)
        self._watchers.append(send)
        try:
            with send, receive:
                yield receive
        finally:
            self._watchers.remove(send)
            self.on_leave()

    async def lines_from(self, sequence):
        self.before_stored()
        for line in self.lines[sequence - 1 :]:
            await trio.lowlevel.checkpoint()
            if isinstance(line, StoreUnavailable):
                raise line
            yield line

    def record(self, event=None, **facts):
        """Append a record and tell the watchers; one that is too slow is dropped, as promised."""
        line = record_line(len(self.lines) + 1, event, **facts)
        self.lines.append(line)
        self.publish(line)

    def publish(self, line):
        for send in self._watchers:
            try:
                send.send_nowait(line)
            except trio.WouldBlock:
                send.close()

    def end(self):
        """Shutdown, as far as watchers see it."""
        for send in self._watchers:
            send.close()

    @property
    def watchers(self):
        return len(self._watchers)


def record_line(sequence, event=None, *, state="Provisioned", phase="Idle", effects=()):
    """A record as far as the control socket and its clients look into it."""
    return msgspec.json.encode(
        {
            "type": "record",
            "sequence": sequence,
            "now_unix_ms": 1_764_000_000_000 + sequence,
            "event": event or {"type": "clock-observed", "kernel_synchronised": True},
            "effects": list(effects),
            "state": state,
            "phase": phase,
            "verdict": "taken",
            "why": "",
            "hash": "00",
        }
    )
