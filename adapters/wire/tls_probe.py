"""One look at a TLS endpoint: how far it goes, and what the peer presents when that is not believed.

Nothing is sent but the handshake. Blocking, for threads; every step is bounded by one deadline, but for the
system's resolver, which has none: a thread that waits for it may be left behind.
"""

import base64
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from adapters.errors import AdapterError, bounded
from adapters.wire.http_client import TlsOptions, client_context
from adapters.wire.proxies import Proxy, proxy_for

MAX_HEAD_BYTES = 16 * 1024
"Of a proxy's answer."

Stage = Literal["configuration", "resolve", "connect", "proxy", "tls", "done"]


class Probed(Struct, frozen=True, kw_only=True):
    """How far it went."""

    stage: Stage
    "Where it ended; `done` when TLS stands."
    problem: str = ""
    timed_out: bool = False
    verify_code: int = 0
    "X509_V_ERR_…, when the presented chain was not believed."
    presented: tuple[bytes, ...] = ()
    "DER, as the peer sent it, leaf first; only asked for when it was not believed."
    addresses: tuple[str, ...] = ()
    proxy: str = ""
    "Its URL without credentials, when one is on the way."
    protocol: str = ""
    "Of the connection that stands, for example TLSv1.3."


def probe(
    host: str,
    port: int,
    options: TlsOptions,
    *,
    environ: Mapping[str, str],
    within_s: float,
    proxied: bool = True,
) -> Probed:
    """Never raises. ``environ`` is where the proxy variables are; ``proxied`` is False for a direct look."""
    until = time.monotonic() + within_s
    try:
        context = client_context(options)
        proxy = proxy_for(host, port, environ) if proxied else None
    except AdapterError as exc:
        return Probed(stage="configuration", problem=exc.message)
    plain = TlsOptions(ca_file=options.ca_file, distrust=options.distrust)
    look = _Look(host, port, proxy, plain, until)
    found = look.handshake(context)
    if not found.verify_code:
        return found
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    second = look.handshake(blind)
    return Probed(
        stage="tls",
        problem=found.problem,
        verify_code=found.verify_code,
        presented=second.presented,
        addresses=found.addresses,
        proxy=found.proxy,
    )


class _Ended(Exception):
    def __init__(self, stage: Stage, problem: str, *, timed_out: bool = False, verify_code: int = 0) -> None:
        super().__init__(problem)
        self.stage: Stage = stage
        self.problem = problem
        self.timed_out = timed_out
        self.verify_code = verify_code


class _Look:
    def __init__(self, host: str, port: int, proxy: Proxy | None, to_proxy: TlsOptions, until: float) -> None:
        self._host, self._port, self._proxy, self._until = host, port, proxy, until
        self._to_proxy = to_proxy
        self._addresses: tuple[str, ...] = ()

    def handshake(self, context: ssl.SSLContext) -> Probed:
        """One connection, closed again."""
        proxy = "" if self._proxy is None else self._proxy.url
        try:
            protocol, presented = self._handshake(context)
        except _Ended as end:
            return Probed(
                stage=end.stage,
                problem=end.problem,
                timed_out=end.timed_out,
                verify_code=end.verify_code,
                addresses=self._addresses,
                proxy=proxy,
            )
        return Probed(
            stage="done", presented=presented, addresses=self._addresses, proxy=proxy, protocol=protocol
        )

    def _handshake(self, context: ssl.SSLContext) -> tuple[str, tuple[bytes, ...]]:
        connection = self._connect()
        try:
            if self._proxy is not None:
                connection = self._tunnel(connection, self._proxy)
            with _told("tls"):
                connection.settimeout(self._left())
                with context.wrap_socket(connection, server_hostname=self._host) as tls:
                    presented = _presented(tls) if context.verify_mode is ssl.CERT_NONE else ()
                    return tls.version() or "", presented
        finally:
            connection.close()

    def _connect(self) -> socket.socket:
        host, port = self._host, self._port
        if self._proxy is not None:
            parts = urlsplit(self._proxy.url)
            host = parts.hostname or ""
            port = parts.port or (443 if parts.scheme == "https" else 80)
        with _told("resolve"):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        self._addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        failed: _Ended | None = None
        for family, kind, protocol, _, address in found:
            connection = socket.socket(family, kind, protocol)
            try:
                with _told("connect"):
                    connection.settimeout(self._left())
                    connection.connect(address)
                return connection
            except _Ended as exc:
                connection.close()
                failed = exc
                if exc.timed_out:
                    break
        raise failed or _Ended("resolve", "the name has no address")

    def _tunnel(self, connection: socket.socket, proxy: Proxy) -> socket.socket:
        with _told("proxy"):
            connection.settimeout(self._left())
            if proxy.url.startswith("https:"):
                context = client_context(self._to_proxy)  # no client certificate
                connection = context.wrap_socket(connection, server_hostname=urlsplit(proxy.url).hostname)
            name = f"[{self._host}]" if ":" in self._host else self._host
            head = f"CONNECT {name}:{self._port} HTTP/1.1\r\nHost: {name}:{self._port}\r\n"
            if proxy.credentials is not None:
                token = base64.b64encode(b":".join(proxy.credentials)).decode()
                head += f"Proxy-Authorization: Basic {token}\r\n"
            connection.sendall(f"{head}\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < MAX_HEAD_BYTES:
                connection.settimeout(self._left())
                piece = connection.recv(1)  # not a byte of what follows: it is TLS
                if not piece:
                    break
                answer += piece
        status = answer[:64].split(b" ")[1:2]
        if status == [b"200"]:
            return connection
        said = bounded(answer.split(b"\r\n")[0].decode("latin-1"), 80) or "nothing"
        raise _Ended("proxy", f"the proxy opened no tunnel; it answered {said}")

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@contextlib.contextmanager
def _told(stage: Stage) -> Iterator[None]:
    """What sockets and TLS raise, in our words and with the stage."""
    try:
        yield
    except ssl.SSLCertVerificationError as exc:
        raise _Ended(stage, exc.verify_message, verify_code=exc.verify_code) from exc
    except TimeoutError as exc:
        raise _Ended(stage, "no answer in time", timed_out=True) from exc
    except ssl.SSLError as exc:
        raise _Ended(stage, exc.reason or "TLS failed") from exc
    except (OSError, ValueError) as exc:
        raise _Ended(stage, getattr(exc, "strerror", None) or "not possible") from exc


def _presented(tls: ssl.SSLSocket) -> tuple[bytes, ...]:
    """The whole chain where this Python has it (public from 3.13 on), else the leaf."""
    whole = getattr(tls, "get_unverified_chain", None)
    if whole is not None:
        return tuple(whole())
    inner = getattr(tls, "_sslobj", None)
    try:
        return tuple(ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain())  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError):
        leaf = tls.getpeercert(binary_form=True)
        return (leaf,) if leaf else ()
