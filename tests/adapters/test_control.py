"""control.sock: what it shows, who may command, and that a watcher misses nothing and gets nothing twice."""

import os

import msgspec
import pytest
import trio
import trio.testing

from adapters.driving.control import ROUTES, control_handler, event_lines
from adapters.errors import StoreUnavailable
from adapters.ports import Taken
from adapters.wire.http_server import Peer, Request
from statemachine.events import ModuleKeysRequested, RenewRequested, ReprovisionRequested
from statemachine.status import Status
from tests.adapters.unix_peer import Machine, exchange, record_line, serving

OWN_UID, PRINCIPAL, STRANGER = 990, 1001, 4242
TABLES = b'{"lifecycle":[],"mermaid":"stateDiagram-v2"}'


def handler_of(machine):
    return control_handler(machine, own_uid=OWN_UID, principals=lambda: [PRINCIPAL], machine=lambda: TABLES)


def ask(machine, method, target, uid=0):
    async def main():
        return await handler_of(machine)(Request(method, target, peer=Peer(uid=uid)))

    return trio.run(main)


def said(response):
    return msgspec.json.decode(response.body)


def decoded(lines):
    return [msgspec.json.decode(line) for line in lines]


def sequences(lines):
    return [(one["type"], one["sequence"]) for one in decoded(lines)]


# --- questions ---------------------------------------------------------------------------------------


def test_status():
    machine = Machine()
    response = ask(machine, "GET", "/v1/status", uid=STRANGER)
    assert response.status == 200
    assert response.content_type == "application/json"
    assert msgspec.json.decode(response.body, type=Status) == machine.status()


def test_machine():
    response = ask(Machine(), "GET", "/v1/machine", uid=STRANGER)
    assert (response.status, response.content_type, response.body) == (200, "application/json", TABLES)


@pytest.mark.parametrize("target", ["/", "/v1", "/v1/status/", "/v2/status", "/metrics%00", "/V1/status"])
def test_a_wrong_path_names_the_right_ones(target):
    response = ask(Machine(), "GET", target)
    assert response.status == 404
    for path in ROUTES:
        assert path in said(response)["message"]


@pytest.mark.parametrize(("path", "allowed"), ROUTES.items())
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE"])
def test_a_wrong_method_names_the_right_one(path, allowed, method):
    if method == allowed:
        return
    machine = Machine()
    response = ask(machine, method, path)
    assert response.status == 405
    assert response.headers == (("allow", allowed),)
    assert allowed in said(response)["message"]
    assert machine.commands == []


# --- commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [0, OWN_UID, PRINCIPAL])
def test_who_may_command(uid):
    machine = Machine()
    response = ask(machine, "POST", "/v1/renew", uid)
    assert (response.status, said(response)) == (
        202,
        {"sequence": 1, "verdict": "taken", "why": "begins now"},
    )
    assert ask(machine, "POST", "/v1/reprovision", uid).status == 202
    assert ask(machine, "POST", "/v1/module-keys", uid).status == 202
    assert machine.commands == [
        RenewRequested(uid=uid),
        ReprovisionRequested(uid=uid, privileged=True),
        ModuleKeysRequested(uid=uid),
    ]


@pytest.mark.parametrize("uid", [STRANGER, 65534, None])
@pytest.mark.parametrize("path", ["/v1/renew", "/v1/reprovision", "/v1/module-keys"])
def test_who_may_not(uid, path):
    machine = Machine()
    response = ask(machine, "POST", path, uid)
    assert response.status == 403
    assert str(uid) in said(response)["message"]
    assert "try sudo" in said(response)["message"]
    assert "990, 1001" in said(response)["message"]
    assert machine.commands == []


def test_a_service_of_root_has_only_root_to_name():
    async def main():
        handle = control_handler(Machine(), own_uid=0, machine=lambda: b"")
        return await handle(Request("POST", "/v1/renew", peer=Peer(uid=1000)))

    assert said(trio.run(main))["message"].endswith("commands are for root (try sudo)")


def test_ignored_is_still_an_answer():
    machine = Machine()
    machine.taken = Taken(sequence=7, verdict="ignored", why="already under way")
    response = ask(machine, "POST", "/v1/renew")
    assert (response.status, said(response)["verdict"]) == (202, "ignored")


def test_refused():
    machine = Machine()
    machine.taken = Taken(sequence=7, verdict="refused", why="on hold; resume first")
    response = ask(machine, "POST", "/v1/renew")
    assert response.status == 409
    assert said(response) == {"message": "on hold; resume first", "sequence": 7, "verdict": "refused"}


@pytest.mark.parametrize(("retry_after_ms", "seconds"), [(None, "5"), (1, "1"), (1001, "2"), (60_000, "60")])
def test_journal_unavailable(retry_after_ms, seconds):
    machine = Machine()
    machine.unavailable = StoreUnavailable(
        "No space left on device", code="journal-unavailable", retry_after_ms=retry_after_ms
    )
    response = ask(machine, "POST", "/v1/reprovision")
    assert response.status == 503
    assert response.headers == (("retry-after", seconds),)
    assert "No space left on device" in said(response)["message"]
    assert f"in {seconds} s" in said(response)["message"]


# --- events ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["0", "-1", "x", "", "1.0", "9223372036854775808", "1" * 400, "%D9%A1"])
def test_from_must_be_a_sequence(asked):
    response = ask(Machine(), "GET", f"/v1/events?from={asked}")
    assert response.status == 400
    assert "from 1" in said(response)["message"]


def test_stored_then_live_without_gap_or_duplicate():
    machine = Machine()
    for _ in range(3):
        machine.record()

    def meanwhile():
        # Durable after the watcher followed, before the stored lines are read: it comes both ways.
        machine.record()

    machine.before_stored = meanwhile

    async def main():
        lines = event_lines(machine, 2)
        got = [await anext(lines) for _ in range(4)]
        machine.record()
        machine.publish(b'{"type":"checkpoint","sequence":5}')
        machine.record()
        got += [await anext(lines) for _ in range(2)]
        machine.end()
        got += [line async for line in lines]
        assert machine.watchers == 0
        return got

    got = trio.run(main)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in got)
    assert sequences(got) == [
        ("record", 2),
        ("record", 3),
        ("record", 4),
        ("heartbeat", 4),
        ("record", 5),
        ("record", 6),
    ]
    assert got[0] == machine.lines[1] + b"\n"


def test_without_from_only_what_is_new():
    machine = Machine()
    machine.record()

    async def main():
        response = await handler_of(machine)(Request("GET", "/v1/events", peer=Peer(uid=0)))
        assert (response.status, response.content_type) == (200, "application/jsonl")
        first = await anext(response.stream)
        machine.record()
        second = await anext(response.stream)
        await response.stream.aclose()
        return [first, second]

    assert sequences(trio.run(main)) == [("heartbeat", 1), ("record", 2)]


def test_from_ahead_of_history():
    machine = Machine()

    async def main():
        lines = event_lines(machine, 3)
        got = [await anext(lines)]
        for _ in range(4):
            machine.record()
        got += [await anext(lines) for _ in range(2)]
        await lines.aclose()
        return got

    assert sequences(trio.run(main)) == [("heartbeat", 2), ("record", 3), ("record", 4)]


def test_heartbeats_in_silence():
    machine = Machine()

    async def main():
        lines = event_lines(machine, 1)
        began = trio.current_time()
        got = []
        for _ in range(3):
            got.append(await anext(lines))
            got.append(trio.current_time() - began)
        await lines.aclose()
        assert machine.watchers == 0
        return got

    got = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert sequences(got[::2]) == [("heartbeat", 0)] * 3
    assert got[1::2] == [0, 15, 30]


def test_a_journal_that_cannot_be_read_says_so():
    machine = Machine()
    machine.record()
    machine.lines.append(StoreUnavailable("Input/output error", code="journal-unavailable"))

    async def main():
        return [line async for line in event_lines(machine, 1)]

    got = trio.run(main)
    assert sequences(got[:1]) == [("record", 1)]
    assert decoded(got[1:]) == [{"type": "error", "message": "Input/output error"}]
    assert machine.watchers == 0


def test_a_reader_that_leaves_leaves_nothing_behind():
    machine = Machine()
    for _ in range(3):
        machine.record()

    async def main():
        lines = event_lines(machine, 1)
        await anext(lines)
        await lines.aclose()

    trio.run(main)
    assert machine.watchers == 0


# --- over the socket ---------------------------------------------------------------------------------


def test_a_watcher_over_the_socket(tmp_path):
    machine = Machine()
    machine.record()
    path = str(tmp_path / "control.sock")

    async def main():
        async with serving(path, handler_of(machine)), await trio.open_unix_socket(path) as stream:
            await stream.send_all(b"GET /v1/events?from=1 HTTP/1.1\r\n\r\n")
            got = await until(stream, b"heartbeat")
            assert b"application/jsonl" in got
            assert machine.lines[0] in got
            machine.record()
            assert machine.lines[1] in await until(stream, b"\n\r\n")
            machine.end()
            # The end of a stream is no end of the connection: the watcher may ask again on it.
            await until(stream, b"0\r\n\r\n")
            await stream.send_all(b"GET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert b'"sequence":2' in b"".join([chunk async for chunk in stream])

    trio.run(main)


def test_a_slow_reader_is_dropped(tmp_path):
    """It reads nothing; the machine goes on, and its channel is given up."""
    machine = Machine(channel_lines=1)
    path = str(tmp_path / "control.sock")
    big = {"type": "clock-observed", "padding": "x" * 400_000}

    async def main():
        dropped = trio.Event()
        machine.on_leave = dropped.set
        async with serving(path, handler_of(machine), write_s=0.05):
            slow = await trio.open_unix_socket(path)
            async with slow, await trio.open_unix_socket(path) as quick:
                for stream in (slow, quick):
                    await stream.send_all(b"GET /v1/events HTTP/1.1\r\n\r\n")
                await until(quick, b"heartbeat")
                await until(slow, b"heartbeat")
                assert machine.watchers == 2
                for _ in range(3):
                    machine.record(big)
                    await until(quick, b'x"},')
                await dropped.wait()
                assert machine.watchers == 1

    trio.run(main)


def test_a_command_over_the_socket_is_the_peers(tmp_path):
    machine = Machine()
    path = str(tmp_path / "control.sock")

    async def main():
        handler = control_handler(machine, own_uid=os.getuid(), machine=lambda: b"")
        async with serving(path, handler):
            got = await exchange(path, "POST /v1/renew HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 202")

    trio.run(main)
    assert machine.commands == [RenewRequested(uid=os.getuid())]


async def until(stream, sign):
    """What comes, up to and with ``sign``."""
    got = b""
    while sign not in got:
        chunk = await stream.receive_some()
        assert chunk, got
        got += chunk
    return got


def test_the_helper_writes_what_the_handler_reads():
    assert msgspec.json.decode(record_line(3))["sequence"] == 3
