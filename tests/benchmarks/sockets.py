"""The control socket: one who asks, and a hundred who watch. A bare client of a real process."""

import selectors
import socket
import time
from pathlib import Path

from tests.benchmarks.report import Batches, Measure, percentile
from tests.service.device import Device

WATCHERS = 100
EACH = 200
"Of a batch: its 99th percentile is the second worst."
CONFIG = f"""\
[provisioning]
source = "none"

[identityd.limits]
connections = {2 * WATCHERS}
"""
"A command to such a device is refused, which is one record and nothing else."


class Client:
    """One kept connection; blocking, and no more HTTP than it takes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self._rest = b""

    def send(self, line: str, body: bytes = b"") -> None:
        head = f"{line} HTTP/1.1\r\nHost: localhost\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.socket.sendall(f"{head}\r\n".encode() + body)

    def ask(self, line: str, body: bytes = b"") -> bytes:
        """The body."""
        self.send(line, body)
        return self.answer()

    def answer(self) -> bytes:
        got = self._rest
        while b"\r\n\r\n" not in got:
            got += self._receive()
        head, _, body = got.partition(b"\r\n\r\n")
        length = next(
            int(one.partition(b":")[2])
            for one in head.lower().split(b"\r\n")
            if one[:15] == b"content-length:"
        )
        while len(body) < length:
            body += self._receive()
        self._rest = body[length:]
        return body[:length]

    def until(self, text: bytes) -> None:
        """Read past it."""
        while text not in self._rest:
            self._rest += self._receive()
        self._rest = self._rest.partition(text)[2]

    def _receive(self) -> bytes:
        got = self.socket.recv(65_536)
        if not got:
            raise ConnectionError("the service hung up")
        return got

    def close(self) -> None:
        self.socket.close()


def measure_status(device: Device, *, quick: bool) -> list[Measure]:
    """``device`` is provisioned."""
    client = Client(device.control)
    batches = Batches(2, least=5 if quick else 20, most=60)
    try:
        for _ in batches:
            batches.ours[-1] = _timed(client, "GET /v1/status", EACH)
            batches.bare[-1] = _timed(client, "GET /none", EACH)
    finally:
        client.close()
    each = f"{EACH} over one kept connection"
    return [batches.measure("status request p99", "a 404 of the same server", each)]


def _timed(client: Client, line: str, count: int) -> list[float]:
    took = []
    for _ in range(count):
        began = time.perf_counter()
        client.ask(line)
        took.append((time.perf_counter() - began) * 1000)
    return took


def measure_watchers(device: Device, *, quick: bool) -> list[Measure]:
    """``device`` runs on ``CONFIG``."""
    commander = Client(device.control)
    watchers = [Client(device.control) for _ in range(WATCHERS)]
    batches = Batches(5, least=3 if quick else 10, most=40)
    spread: list[float] = []
    try:
        with selectors.DefaultSelector() as selector:
            for one in watchers:
                one.send("GET /v1/events")
                one.until(b'"heartbeat"')
                selector.register(one.socket, selectors.EVENT_READ)
            for _ in batches:
                for _ in range(EACH):
                    whole, first = _fan_out(selector, commander)
                    batches.ours[-1].append(whole)
                    batches.bare[-1].append(first)
                    spread.append(whole - first)
    finally:
        for one in (commander, *watchers):
            one.close()
    note = f"; first to last watcher {percentile(spread, 50):.2f} ms; durable append included"
    return [
        batches.measure(
            f"{WATCHERS} watchers, command to last, p99", "command to first", f"{EACH} commands", note
        )
    ]


def _fan_out(selector: selectors.BaseSelector, commander: Client) -> tuple[float, float]:
    """Milliseconds from the command to the last watcher, and to the first."""
    waiting = set(selector.get_map())
    first = 0.0
    began = time.perf_counter()
    commander.send("POST /v1/renew")
    while waiting:
        for key, _ in selector.select():
            if b'"record"' in key.fileobj.recv(65_536):  # type: ignore[union-attr]
                waiting.discard(key.fd)
                first = first or time.perf_counter()
    last = time.perf_counter()
    commander.answer()
    return (last - began) * 1000, (first - began) * 1000
