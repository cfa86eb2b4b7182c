"""Signals become events; systemd hears what it asked for, and hands over sockets by name."""

import contextlib
import os
import signal
import socket

import pytest
import trio
import trio.testing

from adapters.driving.signals import watch_signals
from adapters.driving.systemd import Notifier, inherited_fds
from adapters.errors import ConfigurationInvalid
from adapters.wire.http_server import listener_from_fd
from statemachine.events import ShutdownRequested

PID = os.getpid()


def test_signals_become_events():
    async def main():
        happened, told = trio.open_memory_channel(4)

        async def reload():
            await happened.send("reload")

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                await nursery.start(watch_signals, happened.send_nowait, reload)
                got = []
                for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                    os.kill(PID, number)
                    got.append(await told.receive())
                nursery.cancel_scope.cancel()
        return got

    assert trio.run(main) == [
        "reload",
        ShutdownRequested(reason="SIGTERM"),
        ShutdownRequested(reason="SIGINT"),
    ]


# --- sd_notify ---------------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """The socket of a service manager, and its address as NOTIFY_SOCKET spells it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        address = f"@identityd-test-{PID}" if request.param == "abstract" else str(tmp_path / "notify")
        receiver.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        receiver.setblocking(False)
        yield receiver, address


def test_what_the_manager_hears(manager):
    receiver, address = manager
    environ = {"NOTIFY_SOCKET": address, "OTHER": "1"}
    notifier = Notifier.from_environment(environ, PID)
    assert environ == {"OTHER": "1"}
    notifier.ready()
    notifier.status("Provisioned\nREADY=1 \t since today")
    notifier.stopping()
    heard = [receiver.recv(1000) for _ in range(3)]
    assert heard == [b"READY=1", b"STATUS=Provisioned READY=1 since today", b"STOPPING=1"]


def test_watchdog_at_half_its_time(manager):
    receiver, address = manager
    notifier = Notifier.from_environment(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "180000000", "WATCHDOG_PID": str(PID)}, PID
    )

    async def main():
        with trio.move_on_after(271):
            await notifier.run_watchdog()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [receiver.recv(1000) for _ in range(4)] == [b"WATCHDOG=1"] * 4
    with pytest.raises(BlockingIOError):
        receiver.recv(1000)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "-5"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog(environ):
    notifier = Notifier.from_environment(dict(environ), PID)
    trio.run(notifier.run_watchdog)


@pytest.mark.parametrize(
    "address", [None, "", "/no/such/socket", "vsock:2:1234", "@identityd-nobody", "/" + "x" * 200]
)
def test_an_absent_manager_costs_nothing(address):
    Notifier(address).ready()


def test_a_full_queue_costs_nothing(manager):
    receiver, address = manager
    notifier = Notifier(address)
    for _ in range(2000):
        notifier.ready()
    assert receiver.recv(1000) == b"READY=1"


# --- socket activation -------------------------------------------------------------------------------

FIRST = 900
"Far from the descriptors pytest uses."


@pytest.fixture
def sockets(tmp_path):
    """Two listening sockets at FIRST and after, as systemd would leave them."""
    with contextlib.ExitStack() as stack:
        for offset in range(2):
            made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            made.bind(str(tmp_path / f"{offset}.sock"))
            made.listen()
            os.dup2(made.fileno(), FIRST + offset, inheritable=True)
        yield
        for offset in range(2):
            with contextlib.suppress(OSError):
                os.close(FIRST + offset)


def environment(count="2", names="aziot-certd.socket:aziot-control.socket", pid=str(PID)):
    given = {"LISTEN_PID": pid, "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    return {name: value for name, value in given.items() if value is not None}


@pytest.mark.usefixtures("sockets")
def test_sockets_by_name():
    environ = environment() | {"OTHER": "1"}
    found = inherited_fds(environ, PID, first_fd=FIRST)
    assert found == {"aziot-certd.socket": FIRST, "aziot-control.socket": FIRST + 1}
    assert environ == {"OTHER": "1"}
    assert [os.get_inheritable(fd) for fd in found.values()] == [False, False]

    async def main():
        listener_from_fd(found["aziot-certd.socket"]).socket.close()

    trio.run(main)


@pytest.mark.usefixtures("sockets")
@pytest.mark.parametrize(("names", "name"), [(None, "unknown"), ("my-own", "my-own"), ("", "")])
def test_one_socket(names, name):
    assert inherited_fds(environment("1", names), PID, first_fd=FIRST) == {name: FIRST}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        environment(pid=None),
        environment(pid="1"),
        environment(count=None),
        environment(count="0", names=""),
        environment(count="2", names=None),
    ],
)
def test_not_activated(environ):
    assert inherited_fds(environ, PID, first_fd=FIRST) == {}
    assert environ == {}


@pytest.mark.usefixtures("sockets")
@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (environment(pid="me"), "LISTEN_PID is not a number"),
        (environment(pid="-1"), "LISTEN_PID is not a number"),
        (environment(count="two"), "LISTEN_FDS is not a number"),
        (environment(count="9" * 30), "LISTEN_FDS is not a number"),
        (environment(names="only-one"), "names 1 sockets, but LISTEN_FDS says 2"),
        (environment(names="a:b:c"), "names 3 sockets, but LISTEN_FDS says 2"),
        (environment(names="twin:twin"), "names two sockets twin"),
        (environment(count="3", names="a:b:c"), f"hands over {FIRST + 2}, which is not open"),
    ],
)
def test_nonsense_is_refused(environ, problem):
    with pytest.raises(ConfigurationInvalid, match=problem) as caught:
        inherited_fds(environ, PID, first_fd=FIRST)
    assert caught.value.problems[0].endswith("check the socket units")
