"""Which proxy an https request goes through, if any.

``HTTPS_PROXY``/``https_proxy`` and ``NO_PROXY``/``no_proxy`` say so; loopback names are never sent to a
proxy, as in Go.
"""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct

from adapters.errors import AdapterError


class Proxy(Struct, frozen=True, kw_only=True):
    """Where tunnels are opened."""

    url: str
    "Scheme, host and port; credentials taken out."
    credentials: tuple[bytes, bytes] | None = None
    "User and password, percent-decoded. Secret."

    def __repr__(self) -> str:
        return f"Proxy({self.url})"


def proxy_for(host: str, port: int, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy an https request to host:port goes through, or None for a direct connection.

    Raises AdapterError (class operator, code ``proxy-invalid``) for a proxy URL that cannot be used.
    """
    text = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
    if not text.strip() or _bypasses(host, port, environ.get("NO_PROXY") or environ.get("no_proxy") or ""):
        return None
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port_or_none = parts.port
    except ValueError:
        # Not chained: the cause may quote the URL, and with it a password.
        raise _proxy_invalid() from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.hostname.isascii():
        raise _proxy_invalid()
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = name if port_or_none is None else f"{name}:{port_or_none}"
    credentials = None
    if parts.username is not None:
        credentials = (unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or ""))
    return Proxy(url=f"{parts.scheme}://{authority}", credentials=credentials)


def _proxy_invalid() -> AdapterError:
    return AdapterError(
        "HTTPS_PROXY must be http://[user:password@]host[:port] or the same with https",
        code="proxy-invalid",
        failure_class="operator",
    )


def _bypasses(host: str, port: int, no_proxy: str) -> bool:
    host = host.lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback):
        return True
    for entry in re.split(r"[,\s]+", no_proxy.lower()):
        if entry == "*":
            return True
        if address is not None and _network_holds(entry, address):
            return True
        name, colon, entry_port = entry.rpartition(":")
        if colon and entry_port.isdigit() and _address(entry) is None:
            if int(entry_port) != port:
                continue
            entry = name
        if address is not None:
            if _address(entry.strip("[]")) == address:
                return True
            continue
        domain = entry.removeprefix("*").strip(".")
        if domain and (host == domain or host.endswith(f".{domain}")):
            return True
    return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network_holds(text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if "/" not in text:
        return False
    try:
        return address in ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
