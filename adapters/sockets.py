"""The local sockets: their modes and groups, what bounds them, and who made them."""

import trio

from adapters.driving.systemd import InheritedSocket, claim
from adapters.wire.http_server import ServerLimits, listener_from_fd, unix_listener
from statemachine.settings import Configuration

SOCKET_MODE = 0o660
WORKLOAD_SOCKET_MODE = 0o666
"Modules of any user may ask for the trust bundle, which is public."
SOCKET_GROUPS = {
    "certd": "aziotcs",
    "keyd": "aziotks",
    "identityd": "aziotid",
    "workload": "iotedge",
    "control": "aziotid",
}
"Of the original's packages; where such a group does not exist, the socket keeps the service's own."


def limits_of(configuration: Configuration, requests_per_uid: int | None = None) -> ServerLimits:
    """Of one socket. ``requests_per_uid`` is None for control.sock, where watching is an endless request."""
    limits = configuration.limits
    return ServerLimits(
        connections=limits.connections,
        # A quarter is left to the other users, whatever one of them does.
        connections_per_uid=max(1, limits.connections * 3 // 4),
        requests_per_uid=requests_per_uid,
        when_busy=limits.when_busy,
        body_bytes=limits.body_bytes,
        idle_s=limits.idle_seconds,
        head_s=limits.head_seconds,
        body_s=limits.body_seconds,
    )


def listener_of(name: str, path: str, inherited: list[InheritedSocket]) -> trio.SocketListener:
    """systemd's socket when it hands one over, else our own. Raises StoreUnavailable."""
    fd = claim(inherited, name, path)
    if fd is not None:
        return listener_from_fd(fd)
    mode = WORKLOAD_SOCKET_MODE if name == "workload" else SOCKET_MODE
    return unix_listener(path, mode, SOCKET_GROUPS[name])
