"""What systemd and the service tell each other: readiness, liveness, inherited sockets.

Only the protocols of sd_notify(3) and sd_listen_fds(3), as they are documented; no library.
"""

import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping

import trio
from msgspec import Struct

from adapters.errors import ConfigurationInvalid, bounded

FIRST_FD = 3
"SD_LISTEN_FDS_START."
UNNAMED = "unknown"
"What sd_listen_fds_with_names(3) calls a socket without a name."
ACTIVATION_NAMES = {
    service: frozenset(
        {service, f"aziot-{service}", f"aziot-{service}.socket", f"identityd-{service}.socket"}
    )
    for service in ("certd", "keyd", "identityd", "workload", "control")
}
"Names of a service's socket: plain, and as units of the original's packages and of ours are called."
ACTIVATION_NAMES["workload"] |= {"aziot-edged.workload.socket"}
_KNOWN_NAMES = frozenset().union(*ACTIVATION_NAMES.values())

log = logging.getLogger(__name__)


class Notifier:
    """Tells the service manager, when there is one (NOTIFY_SOCKET).

    Not being heard is never a reason to fail: the device's identity does not depend on it.
    """

    def __init__(self, address: str | None, watchdog_usec: int = 0) -> None:
        self._address = address
        self._status = ""
        self.watchdog_usec = watchdog_usec
        "How long the manager waits for a sign of life; 0 when it does not."

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int) -> "Notifier":
        """Takes the variables out of ``environ``, so that no child speaks for the service."""
        address = environ.pop("NOTIFY_SOCKET", None)
        usec = environ.pop("WATCHDOG_USEC", "")
        for_pid = environ.pop("WATCHDOG_PID", str(pid))
        ours = for_pid == str(pid) and usec.isascii() and usec.isdecimal() and len(usec) < 20
        return cls(address, int(usec) if ours else 0)

    @property
    def heard(self) -> bool:
        """There is a manager that listens."""
        return bool(self._address)

    def ready(self) -> None:
        """READY=1."""
        self._send("READY=1")

    def stopping(self) -> None:
        """STOPPING=1."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        line = bounded(" ".join(text.split()))
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """RELOADING=1, and READY=1 at the end, whatever came of it: the service goes on either way."""
        # MONOTONIC_USEC is for Type=notify-reload, which systemd has since 253.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.ready()

    async def run_watchdog(self, alive: Callable[[], Awaitable[None]]) -> None:
        """A sign of life at half the time the manager waits, each only once ``alive`` has returned.

        Returns at once when the manager does not wait.
        """
        if not (self._address and self.watchdog_usec):
            return
        while True:
            await alive()
            self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_usec / 2_000_000)

    def _send(self, message: str) -> None:
        # Other families (vsock:) exist for virtual machines, not for services.
        if not self._address or self._address[0] not in "/@":
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(message.encode(), address)


class InheritedSocket(Struct, frozen=True):
    """One descriptor that systemd handed over."""

    fd: int
    name: str
    "FileDescriptorName= of its unit, by default the unit's own name; UNNAMED when systemd gave none."
    path: str
    "What it is bound to; empty for anything but a Unix socket with a path."


def inherited_fds(
    environ: MutableMapping[str, str], pid: int, *, first_fd: int = FIRST_FD
) -> list[InheritedSocket]:
    """What systemd handed over; empty when not activated (LISTEN_PID absent, or another process's).

    Takes the variables out of ``environ`` and marks the descriptors close-on-exec; the list is for
    ``claim`` and then ``close_unclaimed``. Raises ConfigurationInvalid for variables that make no sense,
    which is fatal in the original too (reference/services.md §1.2).
    """
    for_pid, count_text, names_text = (
        environ.pop(name, None) for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if for_pid is None or _number("LISTEN_PID", for_pid) != pid or count_text is None:
        return []
    count = _number("LISTEN_FDS", count_text)
    if count == 0:
        return []
    names: Iterable[str] = itertools.repeat(UNNAMED, count)
    if names_text is not None:
        names = given = names_text.split(":")
        if len(given) != count:
            raise _nonsense("LISTEN_FDNAMES", f"names {len(given)} sockets, but LISTEN_FDS says {count}")
    found: list[InheritedSocket] = []
    seen: set[str] = set()
    for fd, name in enumerate(names, first_fd):
        if name in seen and name not in ("", UNNAMED):
            raise _nonsense("LISTEN_FDNAMES", f"names two sockets {bounded(name, 60)}")
        try:
            os.set_inheritable(fd, False)
        except OSError as exc:
            raise _nonsense("LISTEN_FDS", f"hands over {fd}, which is not open: {exc.strerror}") from exc
        seen.add(name)
        found.append(InheritedSocket(fd, name, _bound_to(fd)))
    return found


def claim(inherited: list[InheritedSocket], service: str, path: str) -> int | None:
    """Take the descriptor of that service out of the list; None when there is none. It is the caller's then.

    By name first. A name that belongs to no service is no answer, and then the path it is bound to is: the
    original, with one socket in each process, takes a single descriptor whatever its name. Here several
    sockets live in one process, so that an unknown one at an unknown path is nobody's. Whether it is a Unix
    stream socket is for ``http_server.listener_from_fd`` to say.
    """
    place = os.path.realpath(path)
    by_name = (one for one in inherited if one.name in ACTIVATION_NAMES[service])
    by_path = (
        one
        for one in inherited
        if one.name not in _KNOWN_NAMES and one.path and os.path.realpath(one.path) == place
    )
    given = next(by_name, None) or next(by_path, None)
    if given is None:
        return None
    inherited.remove(given)
    return given.fd


def close_unclaimed(inherited: list[InheritedSocket]) -> None:
    """After every service has claimed its own: nobody would ever answer on the rest, so say it and close."""
    for given in inherited:
        log.warning(
            "systemd handed over descriptor %d (name %s, %s), which belongs to no socket of this service and "
            "is closed; FileDescriptorName= of its socket unit should be one of %s",
            given.fd,
            bounded(given.name, 60) or "empty",
            f"bound to {bounded(given.path, 120)}" if given.path else "without a path",
            ", ".join(ACTIVATION_NAMES),
        )
        os.close(given.fd)
    inherited.clear()


def _bound_to(fd: int) -> str:
    try:
        probe = socket.socket(fileno=fd)
    except OSError:
        return ""
    try:
        address = probe.getsockname()
    except OSError:
        return ""
    finally:
        probe.detach()
    # Bytes are an abstract address, a tuple is no Unix socket.
    return address if isinstance(address, str) else ""


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _nonsense(name, "is not a number")
    return int(text)


def _nonsense(name: str, why: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(name, (f"{name} {why}; it is set by systemd, check the socket units",))
