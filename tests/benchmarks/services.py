"""Requests to the local services of a real process: how many a second, how long they take, what they leave.

One keep-alive connection, then sixteen of one client that keeps each of them waiting for exactly one answer.
A 404 of the same server is measured beside each: what is over is the work, what is under is the transport.
"""

import json
import selectors
import time
from pathlib import Path

from tests.benchmarks.processes import resident_mib
from tests.benchmarks.report import Measure, percentile
from tests.benchmarks.sockets import Client
from tests.service.device import Device

MANY = 16
GROWTH_LIMIT_MIB = 1.0
"Of resident memory over all requests of the growth run: fragmentation, not growth."
OLD, KEYD = "api-version=2020-09-01", "api-version=2021-05-01"
ROUTINE = f"GET /nope/nope?{OLD}", b""


def measure_services(device: Device, *, quick: bool) -> list[Measure]:
    """``device`` is provisioned with an issued certificate and allows one uid ``MANY`` requests at once."""
    sockets = device.root / "run/aziot"
    identity = json.dumps({"type": "aziot"}).encode()
    device_identity = f"POST /identities/device?{OLD}", identity
    handle = json.loads(_once(sockets / "identityd.sock", device_identity))["spec"]["auth"]["keyHandle"]
    digest = {"digest": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="}
    sign = json.dumps({"keyHandle": handle, "algorithm": "ECDSA", "parameters": digest}).encode()
    kinds = {
        "GET /certificates/<id>": ("certd", (f"GET /certificates/aziot-dps-identity-cert?{OLD}", b"")),
        "POST /sign, ECDSA": ("keyd", (f"POST /sign?{KEYD}", sign)),
        "POST /identities/device": ("identityd", device_identity),
    }
    each = 500 if quick else 4_000
    measures = []
    for what, (service, request) in kinds.items():
        path = sockets / f"{service}.sock"
        for connections in (1, MANY):
            _closed_loop(path, request, connections, each // 10)
            took, seconds = _closed_loop(path, request, connections, each)
            bare, bare_seconds = _closed_loop(path, ROUTINE, connections, each)
            measures.append(
                Measure(
                    what=f"{what}, {connections} connection{'s' if connections > 1 else ''}",
                    measured=each / seconds,
                    unit="requests/s",
                    beside=each / bare_seconds,
                    beside_what="404s of the same socket",
                    detail=f"{each} requests: {_spread(took)}; a 404 takes {_spread(bare)}",
                )
            )
    return [*measures, _growth(device, sockets, kinds, 5_000 if quick else 100_000)]


def _growth(
    device: Device, sockets: Path, kinds: dict[str, tuple[str, tuple[str, bytes]]], requests: int
) -> Measure:
    assert device.process is not None
    share = requests // len(kinds)
    for service, request in kinds.values():
        _closed_loop(sockets / f"{service}.sock", request, MANY, 1_000)
    before = resident_mib(device.process.pid)
    for service, request in kinds.values():
        _closed_loop(sockets / f"{service}.sock", request, MANY, share)
    after = resident_mib(device.process.pid)
    return Measure(
        what=f"growth over {requests:,} requests",
        measured=after - before,
        unit="MiB",
        limit=GROWTH_LIMIT_MIB,
        detail=f"VmRSS {before:.1f} MiB before, {after:.1f} MiB after; a third each of the above",
    )


def _spread(took: list[float]) -> str:
    return f"p50 {percentile(took, 50):.2f} ms, p99 {percentile(took, 99):.2f} ms"


def _once(path: Path, request: tuple[str, bytes]) -> bytes:
    client = Client(path)
    try:
        return client.ask(*request)
    finally:
        client.close()


def _closed_loop(
    path: Path, request: tuple[str, bytes], connections: int, count: int
) -> tuple[list[float], float]:
    """Milliseconds of each request, and the seconds of all."""
    took: list[float] = []
    clients = [Client(path) for _ in range(connections)]
    sent: dict[int, float] = {}
    left = count
    try:
        with selectors.DefaultSelector() as selector:
            began = time.perf_counter()
            for client in clients:
                key = selector.register(client.socket, selectors.EVENT_READ, client)
                sent[key.fd] = time.perf_counter()
                client.send(*request)
                left -= 1
            while len(took) < count:
                for key, _ in selector.select():
                    key.data.answer()
                    now = time.perf_counter()
                    took.append((now - sent[key.fd]) * 1000)
                    if left > 0:
                        left -= 1
                        sent[key.fd] = now
                        key.data.send(*request)
            return took, time.perf_counter() - began
    finally:
        for client in clients:
            client.close()
