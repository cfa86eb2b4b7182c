"""An HTTPS client: one bounded exchange at a time, foreign exceptions translated at the edge.

Trust is the system's roots, those in ``distrust`` left out, plus ``ca_file``; OpenSSL's ``SSL_CERT_FILE``
and ``SSL_CERT_DIR`` replace the system's part. Contexts are built by hand because
``ssl.create_default_context`` honours ``SSLKEYLOGFILE``. Nothing of a request enters an error text, since
requests carry tokens.

Whether a proxy is on the way says ``proxies.py``. The TLS context for an ``https://`` proxy holds no client
certificate.
"""

import contextlib
import gc
import os
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

import httpcore
import trio
from msgspec import Struct

from adapters.errors import AdapterError, PeerProtocolError, PeerRefused, PeerUnreachable
from adapters.wire.http_date import parse_http_date
from adapters.wire.proxies import Proxy, proxy_for
from adapters.wire.system_roots import load_system_roots

MAX_ANSWER_BYTES = 1024 * 1024
MAX_RETRY_AFTER_MS = 86_400_000
KEEP_ALIVE_S = 10.0
"A pooled connection idle for longer is not used again."

_CERTIFICATE_ALERTS = frozenset(
    {
        "BAD_CERTIFICATE",
        "UNSUPPORTED_CERTIFICATE",
        "CERTIFICATE_REVOKED",
        "CERTIFICATE_EXPIRED",
        "CERTIFICATE_UNKNOWN",
        "CERTIFICATE_REQUIRED",
        "UNKNOWN_CA",
        "ACCESS_DENIED",
        "DECRYPT_ERROR",
    }
)
"""Alerts that mean "your certificate", as OpenSSL names them after `SSLV3_ALERT_`, `TLSV1_ALERT_` or
`TLSV13_ALERT_`; the prefix differs between its releases. Not every alert, since an overloaded peer's
internal_error must not count as a refusal. decrypt_error is a CertificateVerify that did not match."""

_DATE_FAILURES = frozenset({9, 10})
"X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."


class TlsOptions(Struct, frozen=True, kw_only=True):
    """Whom to trust and what to present."""

    ca_file: str | None = None
    "PEM file of extra roots, beside the system's."
    distrust: frozenset[str] = frozenset()
    "Hex SHA-256 of roots that are not believed though the system's store holds them; ca_file outdoes it."
    client_chain_pem: bytes | None = None
    "Leaf first. None presents no certificate."
    client_key_path: str | None = None
    "PEM file of its key; present exactly when client_chain_pem is."


class HttpAnswer(Struct, frozen=True, kw_only=True):
    """Status, headers and the whole body of one exchange."""

    status: int
    headers: dict[str, str]
    "Names in lower case; repeated ones joined with a comma."
    body: bytes

    @property
    def date_unix_ms(self) -> int | None:
        """The peer's clock. It came over validated TLS."""
        return parse_http_date(self.headers.get("date", ""))

    def retry_after_ms(self, now_unix_ms: int) -> int | None:
        """Retry-After, 0 to 24 h; None when absent or malformed.

        A date counts from the peer's own Date where it has one, so that a wrong clock does not matter.
        """
        text = self.headers.get("retry-after", "").strip()
        if re.fullmatch(r"[0-9]+", text):
            # Cut before it is a number: Python refuses texts of some thousand digits.
            wait_ms = MAX_RETRY_AFTER_MS if len(text.lstrip("0")) > 12 else int(text[-12:]) * 1000
        else:
            at = parse_http_date(text)
            if at is None:
                return None
            base = self.date_unix_ms
            wait_ms = at - (now_unix_ms if base is None else base)
        return min(max(wait_ms, 0), MAX_RETRY_AFTER_MS)


# --- TLS contexts ------------------------------------------------------------------------------------


def client_context(options: TlsOptions) -> ssl.SSLContext:
    """TLS 1.2 or newer, names verified. Blocks for 50 to 120 ms: the system's roots are parsed.

    Raises AdapterError (class operator, codes ``ca-file-unusable``, ``client-credential-unusable``).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.distrust:
        load_system_roots(context, options.distrust)
    else:
        context.set_default_verify_paths()
    if options.ca_file is not None:
        try:
            context.load_verify_locations(cafile=options.ca_file)
        except (OSError, ValueError) as exc:
            raise AdapterError(
                f"the extra trust roots in {options.ca_file} cannot be used: {_reason(exc)}",
                code="ca-file-unusable",
                failure_class="operator",
            ) from exc
    if options.client_chain_pem is not None and options.client_key_path is not None:
        try:
            with _as_file(options.client_chain_pem) as chain_path:
                # The empty password keeps OpenSSL from asking a terminal for an encrypted key's.
                context.load_cert_chain(chain_path, options.client_key_path, password="")
        except (OSError, ValueError) as exc:
            raise AdapterError(
                f"the client certificate cannot be used with {options.client_key_path}: {_reason(exc)}",
                code="client-credential-unusable",
                failure_class="operator",
            ) from exc
    return context


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path for an API that wants one; the bytes stay in memory."""
    fd = os.memfd_create("chain")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        return exc.reason or "unreadable"
    return (exc.strerror if isinstance(exc, OSError) else None) or "unreadable"


# --- connections -------------------------------------------------------------------------------------


class LastWords(trio.abc.Stream):
    """A connection whose peer is heard out: what is sent after it hung up is dropped.

    With TLS 1.3 a peer refuses our certificate when we have begun to send already. Its reset then
    makes the sending fail while the alert that says why lies unread; ``trio.SSLStream`` gives up on
    both directions when one fails. The reading that follows finds the alert, an early answer, or the end.
    """

    def __init__(self, transport: trio.abc.Stream) -> None:
        self._transport = transport
        self._hung_up = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises only ClosedResourceError: a broken connection is for the reader to find."""
        if self._hung_up:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._transport.send_all(data)
        except trio.BrokenResourceError:
            self._hung_up = True

    async def wait_send_all_might_not_block(self) -> None:
        """Raises BrokenResourceError, ClosedResourceError."""
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Raises BrokenResourceError, ClosedResourceError."""
        return await self._transport.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()


class _Connection(httpcore.AsyncNetworkStream):
    """What httpcore reads and writes. Time is bounded around the whole exchange, not here.

    httpcore's own stream leaks the socket of a handshake that is cancelled (1.0.9).
    """

    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType) -> None:
        self._stream = stream
        self._socket = socket

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore.ReadError("broken while reading") from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        try:
            await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore.WriteError("broken while writing") from exc

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        stream = trio.SSLStream(
            self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True
        )
        try:
            await stream.do_handshake()
        except BaseException as exc:
            await trio.aclose_forcefully(self._stream)
            if isinstance(exc, trio.BrokenResourceError | trio.ClosedResourceError):
                raise httpcore.ConnectError("no TLS") from exc
            raise
        return _Connection(stream, self._socket)

    def get_extra_info(self, info: str) -> object:
        # Readable while idle means that the peer closed it, or spoke out of turn.
        return self._socket.is_readable() if info == "is_readable" else None


class _Network(httpcore.AsyncNetworkBackend):
    """TCP for httpcore's pools."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            transport = await trio.open_tcp_stream(host, port)
        except OSError as exc:
            raise httpcore.ConnectError("no connection") from exc
        return _Connection(LastWords(transport), transport.socket)


# --- the client --------------------------------------------------------------------------------------


class HttpsClient:
    """HTTPS with one set of TLS options.

    The context and the connection pools are made when first needed and dropped by ``aclose``, after
    which the client may be used again. Not to be used by several tasks while one closes it.
    """

    def __init__(self, options: TlsOptions, *, environ: Mapping[str, str] | None = None) -> None:
        self._options = options
        self._environ = os.environ if environ is None else environ
        self._context: ssl.SSLContext | None = None
        self._proxy_context: ssl.SSLContext | None = None
        self._pools: dict[Proxy | None, httpcore.AsyncConnectionPool] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        fresh: bool = False,
    ) -> HttpAnswer:
        """One exchange, from name resolution to the last byte of the body, within ``timeout_s``.

        ``fresh`` opens a connection of its own and closes it; TLS resumption is never used anyway.
        Redirects are not followed. Raises ValueError for a URL that is not https, and
        AdapterError and its kinds:

        - PeerUnreachable ``timeout`` (class retry): the request was sent;
        - PeerUnreachable ``unreachable``, ``proxy-tls``, ``proxy-NNN`` (class retry): it was not;
        - PeerProtocolError ``connection-broken``, ``answer-malformed``, ``answer-too-large``,
          ``tls-failed`` (class retry);
        - PeerRefused ``tls-certificate-alert`` (class retry), ``proxy-407`` (class operator);
        - AdapterError ``tls-dates`` (class clock), ``tls-untrusted`` and the configuration ones
          (class operator).
        """
        host, port = _target(url)
        proxy = proxy_for(host, port, self._environ)
        progress = _Progress(host=host, proxied=proxy is not None)
        try:
            with trio.fail_after(timeout_s), progress.errors():
                pool = await self._pool(proxy, fresh=fresh)
                try:
                    return await _exchange(pool, method, url, headers or {}, body, progress, max_answer_bytes)
                finally:
                    if fresh:
                        await _close(pool)
        except AdapterError as exc:
            exc.unsent = not progress.sent
            raise
        except trio.TooSlowError as exc:
            if not progress.sent:
                message = f"no connection to {progress.whom} within {timeout_s:g} s"
                unreachable = PeerUnreachable(message, code="unreachable")
                unreachable.unsent = True
                raise unreachable from exc
            raise PeerUnreachable(f"no answer from {host} within {timeout_s:g} s", code="timeout") from exc

    async def aclose(self) -> None:
        """Close idle connections and give back the memory of the trust roots."""
        pools, self._pools = list(self._pools.values()), {}
        self._context = self._proxy_context = None
        for pool in pools:
            await _close(pool)
        # trio's TLS streams are cycles: each would keep its context, 1.7 MiB of it, until the collector
        # comes by itself, which in a service that rests is never.
        gc.collect()

    async def _pool(self, proxy: Proxy | None, *, fresh: bool) -> httpcore.AsyncConnectionPool:
        if not fresh and proxy in self._pools:
            return self._pools[proxy]
        if self._context is None:
            self._context = await trio.to_thread.run_sync(client_context, self._options)
        pool = await self._make_pool(proxy, self._context)
        return pool if fresh else self._pools.setdefault(proxy, pool)

    async def _make_pool(self, proxy: Proxy | None, context: ssl.SSLContext) -> httpcore.AsyncConnectionPool:
        if proxy is None:
            return httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=2,
                keepalive_expiry=KEEP_ALIVE_S,
                network_backend=_Network(),
            )
        if proxy.url.startswith("https:") and self._proxy_context is None:
            plain = TlsOptions(ca_file=self._options.ca_file, distrust=self._options.distrust)
            self._proxy_context = await trio.to_thread.run_sync(client_context, plain)
        return httpcore.AsyncHTTPProxy(
            proxy_url=proxy.url,
            proxy_auth=proxy.credentials,
            proxy_ssl_context=self._proxy_context if proxy.url.startswith("https:") else None,
            ssl_context=context,
            max_connections=2,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=_Network(),
        )


async def _exchange(
    pool: httpcore.AsyncConnectionPool,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    progress: "_Progress",
    max_answer_bytes: int,
) -> HttpAnswer:
    chunks: list[bytes] = []
    received = 0
    async with pool.stream(
        method, url, headers=list(headers.items()), content=body, extensions={"trace": progress.trace}
    ) as response:
        # Leaving the loop early would abandon httpcore's nested generators to the garbage collector;
        # cancelling lets each of them unwind.
        with trio.CancelScope() as download:
            async for chunk in response.aiter_stream():
                received += len(chunk)
                if received > max_answer_bytes:
                    chunks.clear()
                    download.cancel()
                else:
                    chunks.append(chunk)
    if received > max_answer_bytes:
        raise PeerProtocolError(
            f"the answer of {progress.host} is larger than {max_answer_bytes} bytes", code="answer-too-large"
        )
    return HttpAnswer(status=response.status, headers=_headers(response.headers), body=b"".join(chunks))


async def _close(pool: httpcore.AsyncConnectionPool) -> None:
    # Closing a TLS stream for HTTPS sends nothing, so there is nothing to wait for.
    with trio.CancelScope(shield=True):
        await pool.aclose()


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _target(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or not url.isascii():
        raise ValueError("an https URL in ASCII is needed")
    return parts.hostname, 443 if parts.port is None else parts.port


# --- errors at the edge ------------------------------------------------------------------------------


class _Progress:
    """How far an exchange came: an alert from a proxy must not pass for the peer's."""

    def __init__(self, *, host: str, proxied: bool) -> None:
        self.host = host
        self.sent = False
        "The peer may have seen the request."
        self._at_proxy = proxied

    @property
    def whom(self) -> str:
        """Who is being spoken to."""
        return f"the proxy on the way to {self.host}" if self._at_proxy else self.host

    async def trace(self, name: str, info: dict[str, object]) -> None:
        """httpcore's trace extension. The proxy's own request is the CONNECT."""
        if name == "proxy.start_tls.started":
            self._at_proxy = False
        elif name == "http11.send_request_headers.started":
            self._at_proxy = getattr(info.get("request"), "method", b"") == b"CONNECT"
            self.sent = self.sent or not self._at_proxy

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate what httpcore, ssl and the resolver raise."""
        try:
            yield
        except httpcore.ProxyError as exc:
            raise self._proxy_error(str(exc)) from exc
        except (httpcore.ConnectError, UnicodeError) as exc:
            tls = _tls_cause(exc)
            if tls is not None:
                raise self._tls_error(tls) from exc
            # Class retry even for a name that does not resolve: devices boot before their network.
            raise PeerUnreachable(
                f"cannot connect to {self.whom}: {_os_reason(exc)}", code="unreachable"
            ) from exc
        except (httpcore.NetworkError, trio.BrokenResourceError) as exc:
            tls = _tls_cause(exc)
            if tls is not None:
                raise self._tls_error(tls) from exc
            raise self._broken() from exc
        except httpcore.RemoteProtocolError as exc:
            # "Server disconnected", a body cut short, or bytes that are not HTTP. h11 hints a status
            # only in the last case; the first two are broken connections.
            if "disconnected" in str(exc) or "peer closed" in str(exc):
                raise self._broken() from exc
            raise PeerProtocolError(f"{self.host} does not speak HTTP/1.1", code="answer-malformed") from exc
        except (httpcore.LocalProtocolError, httpcore.UnsupportedProtocol) as exc:
            # Not chained: h11 quotes the header it objects to.
            raise AdapterError(
                f"the request to {self.host} cannot be sent: {type(exc).__name__}",
                code="request-invalid",
                failure_class="operator",
            ) from None

    def _broken(self) -> PeerProtocolError:
        return PeerProtocolError(f"the connection to {self.host} broke", code="connection-broken")

    def _proxy_error(self, text: str) -> AdapterError:
        status = text[:3] if text[:3].isdigit() else "refused"
        message = f"the proxy opened no tunnel to {self.host}: {status}"
        if status == "407":
            return PeerRefused(message, code="proxy-407", failure_class="operator")
        return PeerUnreachable(message, code=f"proxy-{status}")

    def _tls_error(self, exc: ssl.SSLError) -> AdapterError:
        whom = self.whom
        if isinstance(exc, ssl.SSLCertVerificationError):
            message = f"the certificate of {whom} was not accepted: {exc.verify_message}"
            if exc.verify_code in _DATE_FAILURES:
                return AdapterError(message, code="tls-dates", failure_class="clock")
            return AdapterError(message, code="tls-untrusted", failure_class="operator")
        reason = exc.reason or "unknown"
        if self._at_proxy:
            return PeerUnreachable(f"TLS with {whom} failed: {reason}", code="proxy-tls")
        if reason.partition("_ALERT_")[2] in _CERTIFICATE_ALERTS:
            return PeerRefused(
                f"{whom} refused the client certificate: {reason}", code="tls-certificate-alert"
            )
        return PeerProtocolError(f"TLS with {whom} failed: {reason}", code="tls-failed")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The exception, and everything it was raised from or during, nearest first."""
    seen: set[int] = set()
    links: list[BaseException | None] = [exc]
    while links:
        link = links.pop(0)
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            links += (link.__cause__, link.__context__)
            if isinstance(link, BaseExceptionGroup):
                links += link.exceptions


def _tls_cause(exc: BaseException) -> ssl.SSLError | None:
    # An EOF in the middle of TLS is a broken connection, not a TLS decision.
    for link in _causes(exc):
        if isinstance(link, ssl.SSLError) and not isinstance(link, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return link
    return None


def _os_reason(exc: BaseException) -> str:
    for link in _causes(exc):
        if isinstance(link, OSError) and link.strerror:
            # trio puts "Error connecting to ('127.0.0.1', 443): " before it.
            return link.strerror.rpartition("): ")[2]
    return "no usable address"
