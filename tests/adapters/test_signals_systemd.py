"""Signals become events; systemd hears what it asked for, and hands over sockets by name."""

import contextlib
import os
import signal
import socket

import pytest
import trio
import trio.testing

from adapters.driving.signals import watch_signals
from adapters.driving.systemd import (
    ACTIVATION_NAMES,
    InheritedSocket,
    Notifier,
    claim,
    close_unclaimed,
    inherited_fds,
)
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
    for _ in range(2):
        notifier.status("Provisioned\nREADY=1 \t since today")
    notifier.stopping()
    heard = [receiver.recv(1000) for _ in range(3)]
    # The same status is not worth saying twice.
    assert heard == [b"READY=1", b"STATUS=Provisioned READY=1 since today", b"STOPPING=1"]


def test_a_reload_is_over_whatever_came_of_it(manager):
    receiver, address = manager
    with pytest.raises(RuntimeError), Notifier(address).reloading():
        raise RuntimeError
    first, *instant = receiver.recv(1000).split(b"\n")
    assert first == b"RELOADING=1"
    assert int(instant[0].removeprefix(b"MONOTONIC_USEC=")) > 0
    assert receiver.recv(1000) == b"READY=1"


def test_no_sign_of_life_from_a_service_whose_machine_hangs(manager):
    receiver, address = manager
    notifier = Notifier(address, watchdog_usec=10_000_000)
    rounds = 0

    async def come_round():
        nonlocal rounds
        rounds += 1
        if rounds > 2:
            await trio.sleep_forever()

    async def main():
        with trio.move_on_after(3600):
            await notifier.run_watchdog(come_round)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [receiver.recv(1000) for _ in range(2)] == [b"WATCHDOG=1"] * 2
    with pytest.raises(BlockingIOError):
        receiver.recv(1000)


def test_watchdog_at_half_its_time(manager):
    receiver, address = manager
    notifier = Notifier.from_environment(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "180000000", "WATCHDOG_PID": str(PID)}, PID
    )

    async def main():
        with trio.move_on_after(271):
            await notifier.run_watchdog(trio.lowlevel.checkpoint)

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
    trio.run(notifier.run_watchdog, trio.lowlevel.checkpoint)


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
def places(tmp_path):
    """Two listening sockets at FIRST and after, as systemd would leave them, and where they are bound."""
    paths = [str(tmp_path / f"{offset}.sock") for offset in range(2)]
    with contextlib.ExitStack() as stack:
        for offset, path in enumerate(paths):
            made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            made.bind(path)
            made.listen()
            os.dup2(made.fileno(), FIRST + offset, inheritable=True)
        yield paths
        for offset in range(2):
            with contextlib.suppress(OSError):
                os.close(FIRST + offset)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def environment(count="2", names="aziot-certd.socket:aziot-control.socket", pid=str(PID)):
    given = {"LISTEN_PID": pid, "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    return {name: value for name, value in given.items() if value is not None}


def test_sockets_are_found_and_kept_from_children(places):
    environ = environment() | {"OTHER": "1"}
    found = inherited_fds(environ, PID, first_fd=FIRST)
    assert found == [
        InheritedSocket(FIRST, "aziot-certd.socket", places[0]),
        InheritedSocket(FIRST + 1, "aziot-control.socket", places[1]),
    ]
    assert environ == {"OTHER": "1"}
    assert [os.get_inheritable(one.fd) for one in found] == [False, False]

    async def main():
        listener_from_fd(claim(found, "certd", "/elsewhere")).socket.close()

    trio.run(main)
    assert [one.name for one in found] == ["aziot-control.socket"]


@pytest.mark.parametrize(
    ("service", "name"),
    [
        (service, form.format(service))
        for service in ("certd", "keyd", "identityd", "workload", "control")
        for form in ("{}", "aziot-{}", "aziot-{}.socket", "identityd-{}.socket")
    ]
    + [("workload", "aziot-edged.workload.socket")],
)
def test_the_names_of_a_service(service, name):
    others = [one for one in ACTIVATION_NAMES if one != service]
    found = [InheritedSocket(3, name, "")]
    assert [claim(found, other, "/run/aziot/other.sock") for other in others] == [None] * 4
    assert claim(found, service, "/run/aziot/x.sock") == 3
    assert found == []


@pytest.mark.parametrize(
    ("names", "name"), [(None, "unknown"), ("unknown", "unknown"), ("my-own", "my-own"), ("", "")]
)
def test_a_single_socket_without_a_known_name_is_known_by_its_path(places, tmp_path, names, name):
    """The original takes it whatever it is; one process with several sockets must not guess."""
    found = inherited_fds(environment("1", names), PID, first_fd=FIRST)
    assert found == [InheritedSocket(FIRST, name, places[0])]
    assert claim(found, "keyd", places[1]) is None
    (tmp_path / "run").symlink_to(tmp_path)  # as /var/run is one to /run
    assert claim(found, "certd", str(tmp_path / "run" / "0.sock")) == FIRST


def test_several_sockets_without_names_are_known_by_their_paths(places):
    found = inherited_fds(environment("2", None), PID, first_fd=FIRST)
    assert [os.get_inheritable(FIRST + offset) for offset in range(2)] == [False, False]
    assert claim(found, "keyd", places[1]) == FIRST + 1
    assert claim(found, "certd", places[0]) == FIRST


def test_a_name_counts_more_than_a_path():
    found = [InheritedSocket(3, "mine", "/run/a"), InheritedSocket(4, "certd", "/run/b")]
    assert claim(found, "certd", "/run/a") == 4
    found = [InheritedSocket(3, "keyd", "/run/certd.sock")]
    assert claim(found, "certd", "/run/certd.sock") is None


def test_what_nobody_claims_is_told_and_closed(caplog, places):
    found = inherited_fds(environment("2", "aziot-certd.socket:aziot-tpmd.socket"), PID, first_fd=FIRST)
    claim(found, "certd", "/elsewhere")
    close_unclaimed(found)
    assert found == []
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    for fact in (str(FIRST + 1), "name aziot-tpmd.socket", places[1], "certd, keyd, identityd, workload"):
        assert fact in record.getMessage()
    assert is_open(FIRST)
    assert not is_open(FIRST + 1)


def test_an_unclaimed_descriptor_may_be_anything(caplog):
    """TCP, an abstract address, a pipe: all have no path."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0identityd-test-{PID}-activation")
        reading, writing = os.pipe()
        os.close(writing)
        for offset, fd in enumerate((tcp.fileno(), abstract.fileno(), reading)):
            os.dup2(fd, FIRST + offset)
        os.close(reading)
    found = inherited_fds(environment("3", "unknown:unknown:"), PID, first_fd=FIRST)
    assert [one.path for one in found] == ["", "", ""]
    assert claim(found, "certd", "/run/aziot/certd.sock") is None
    close_unclaimed(found)
    assert len(caplog.records) == 3
    assert not any(is_open(FIRST + offset) for offset in range(3))


@pytest.mark.parametrize(
    "environ",
    [
        {},
        environment(pid=None),
        environment(pid="1"),
        environment(count=None),
        environment(count="0", names=""),
    ],
)
def test_not_activated(environ):
    assert inherited_fds(environ, PID, first_fd=FIRST) == []
    assert environ == {}


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (environment(pid="me"), "LISTEN_PID is not a number"),
        (environment(pid=""), "LISTEN_PID is not a number"),
        (environment(pid="-1"), "LISTEN_PID is not a number"),
        (environment(count="two"), "LISTEN_FDS is not a number"),
        (environment(count="9" * 30), "LISTEN_FDS is not a number"),
        (environment(names="only-one"), "names 1 sockets, but LISTEN_FDS says 2"),
        (environment(names="a:b:c"), "names 3 sockets, but LISTEN_FDS says 2"),
        (environment(names="twin:twin"), "names two sockets twin"),
        (environment(count="3", names="a:b:c"), f"hands over {FIRST + 2}, which is not open"),
        (environment(count="999999999", names=None), f"hands over {FIRST + 2}, which is not open"),
    ],
)
def test_nonsense_is_refused(environ, problem):
    with pytest.raises(ConfigurationInvalid, match=problem) as caught:
        inherited_fds(environ, PID, first_fd=FIRST)
    assert caught.value.problems[0].endswith("check the socket units")
