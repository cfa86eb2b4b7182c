"""What systemd and the service tell each other: readiness, liveness, inherited sockets.

Only the protocols of sd_notify(3) and sd_listen_fds(3), as they are documented; no library.
"""

import contextlib
import os
import socket
from collections.abc import MutableMapping

import trio

from adapters.errors import ConfigurationInvalid

FIRST_FD = 3
"SD_LISTEN_FDS_START."
UNNAMED = "unknown"
"What sd_listen_fds_with_names(3) calls a socket without a name."


class Notifier:
    """Tells the service manager, when there is one (NOTIFY_SOCKET).

    Not being heard is never a reason to fail: the device's identity does not depend on it.
    """

    def __init__(self, address: str | None, watchdog_usec: int = 0) -> None:
        self._address = address
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

    def ready(self) -> None:
        """READY=1."""
        self._send("READY=1")

    def stopping(self) -> None:
        """STOPPING=1."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")

    async def run_watchdog(self) -> None:
        """A sign of life at half the time the manager waits. Returns at once when it does not wait."""
        if not (self._address and self.watchdog_usec):
            return
        while True:
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


def inherited_fds(environ: MutableMapping[str, str], pid: int, *, first_fd: int = FIRST_FD) -> dict[str, int]:
    """Sockets handed over by systemd: name → descriptor; empty when not activated.

    Names are FileDescriptorName= of the socket units, by default the unit's own (`aziot-certd.socket`). A
    single socket without a name is called UNNAMED; several without names are no activation, since nobody
    could tell which is which. Variables meant for another process (LISTEN_PID) are none either. Takes the
    variables out of ``environ`` and marks the descriptors close-on-exec; whether each is a Unix socket is
    for ``http_server.listener_from_fd`` to say. Raises ConfigurationInvalid for variables that make no sense.
    """
    for_pid, count_text, names_text = (
        environ.pop(name, None) for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if for_pid is None or _number("LISTEN_PID", for_pid) != pid or count_text is None:
        return {}
    count = _number("LISTEN_FDS", count_text)
    if count == 0 or (names_text is None and count > 1):
        return {}
    names = [UNNAMED] if names_text is None else names_text.split(":")
    if len(names) != count:
        raise _nonsense("LISTEN_FDNAMES", f"names {len(names)} sockets, but LISTEN_FDS says {count}")
    found: dict[str, int] = {}
    for fd, name in enumerate(names, first_fd):
        if name in found:
            raise _nonsense("LISTEN_FDNAMES", f"names two sockets {name}")
        try:
            os.set_inheritable(fd, False)
        except OSError as exc:
            raise _nonsense("LISTEN_FDS", f"hands over {fd}, which is not open: {exc.strerror}") from exc
        found[name] = fd
    return found


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _nonsense(name, "is not a number")
    return int(text)


def _nonsense(name: str, why: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(name, (f"{name} {why}; it is set by systemd, check the socket units",))
