"""The service's own sockets, asked by a client that never waits long."""

import http.client
import socket

from msgspec import Struct

WITHIN_S = 5.0
MAX_BYTES = 2 * 1024 * 1024


class Answered(Struct, frozen=True, kw_only=True):
    """What came back; ``status`` is 0 when nothing did."""

    status: int
    body: bytes = b""
    problem: str = ""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = _connected(self._path)


def connects(path: str) -> str | None:
    """None when somebody listens there, else why not."""
    try:
        _connected(path).close()
    except OSError as exc:
        return exc.strerror or "no answer in time"
    return None


def ask(path: str, target: str) -> Answered:
    """One GET."""
    connection = _Connection(path)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return Answered(status=answer.status, body=answer.read(MAX_BYTES))
    except (OSError, http.client.HTTPException) as exc:
        return Answered(status=0, problem=getattr(exc, "strerror", None) or "no answer in time")
    finally:
        connection.close()


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(WITHIN_S)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
