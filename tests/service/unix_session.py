"""``requests`` over a Unix socket: what the contract tests speak through."""

import socket
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

WITHIN_S = 30


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WITHIN_S)
        self.sock.connect(str(self._path))


class _Pool(HTTPConnectionPool):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> Any:
        return _Connection(self._path)


class _Adapter(HTTPAdapter):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = _Pool(path)
        self.requests = 0

    def get_connection_with_tls_context(self, request, verify, proxies=None, cert=None):  # type: ignore[no-untyped-def]
        self.requests += 1
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()


class UnixSession(requests.Session):
    """Everything goes to that socket, whatever the URL's host; counts what it sent."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.trust_env = False
        self._adapter = _Adapter(path)
        self.mount("http://", self._adapter)

    @property
    def sent(self) -> int:
        return self._adapter.requests
