"""Where keys, certificates and servers are, as URIs in the form that is written (config-and-cli.md §3)."""

import re
from urllib.parse import quote, unquote, urlsplit

from adapters import config_forms as forms
from adapters.config_forms import Unfit
from adapters.config_setting import FILE_FORM, FILE_URI_FORM

KEY_URI_FORM = f"{FILE_URI_FORM}, or a PKCS#11 URI: pkcs11:token=T;object=O?pin-value=P"
KEY_FORM = f"{FILE_FORM}, or a PKCS#11 URI: pkcs11:token=T;object=O?pin-value=P"
URL_FORM = "a URL https://HOST or https://HOST:PORT, with a path if need be"

MAX_URI_CHARS = 4096

_PORTS = {"https": 443, "http": 80}
_UNRESERVED_IN_PATH = "/!$&'()*+,:;=@[]|"
"Beside letters, digits and -._~; the URL standard escapes the rest in a path."
_HIGHEST_SLOT = 2**64 - 1
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


def key_uri(text: str) -> str:
    """``file:`` or ``pkcs11:``, canonical."""
    return pkcs11_uri(text) if _scheme(text) == "pkcs11" else file_uri(text)


def key_place(text: str) -> str:
    """The same, or a bare path, which the original refuses."""
    return pkcs11_uri(text) if _scheme(text) == "pkcs11" else file_place(text)


def file_uri(text: str) -> str:
    if _scheme(text) == "pkcs11":
        raise Unfit(found="a pkcs11: URI")
    return _of_path(forms.file_uri(text))


def file_place(text: str) -> str:
    return _of_path(text) if text.startswith("/") else file_uri(text)


def place_or_names(value: str | list[object]) -> str | tuple[str, ...]:
    return file_uri(value) if isinstance(value, str) else forms.names(value)


def places(items: list[object]) -> tuple[str, ...]:
    return tuple(file_uri(item) for item in forms.texts(items))


def pkcs11_slot(text: str) -> str:
    """A PKCS#11 URI as it stands: the original passes this one on unread."""
    pkcs11_uri(text)
    return text


def pkcs11_uri(text: str) -> str:
    """RFC 7512 as far as the original reads it: a slot or a token, an object, a PIN; the rest is dropped."""
    scheme, _, rest = text.partition(":")
    if scheme.lower() != "pkcs11" or len(text) > MAX_URI_CHARS:
        raise Unfit
    path, _, query = rest.partition("?")
    place, more = _attributes(path, ";"), _attributes(query, "&")
    slot = place.get("slot-id", "")
    if slot:
        if not (slot.isascii() and slot.isdigit() and int(slot) <= _HIGHEST_SLOT):
            raise Unfit(found="a pkcs11: URI whose slot-id is no number")
        found = f"slot-id={int(slot)}"
    elif "token" in place:
        found = f"token={_escaped(place['token'])}"
    else:
        raise Unfit(found="a pkcs11: URI without slot-id and token")
    if "object" in place:
        found += f";object={_escaped(place['object'])}"
    if "pin-value" in more:
        found += f"?pin-value={_escaped(more['pin-value'])}"
    return f"pkcs11:{found}"


def url(text: str) -> str:
    """``http(s)://host[:port]/path[?query]``: host in lower case, no default port, never an empty path."""
    try:
        if not text.isascii() or len(text) > MAX_URI_CHARS or any(c <= " " or c == "\x7f" for c in text):
            raise Unfit
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise Unfit from exc
    if parts.username is not None or parts.password is not None:
        raise Unfit(found="a URL with a user name or password")
    if parts.scheme not in _PORTS or not host or port == 0 or parts.fragment:
        raise Unfit
    if ":" in host:
        host = f"[{host}]"
    else:
        forms.hostname(host)
    where = host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{where}{parts.path or '/'}{query}"


def _scheme(text: str) -> str:
    return text.partition(":")[0].lower()


def _of_path(path: str) -> str:
    forms.absolute_path(path)
    if "/../" in f"{path}/" or "/./" in f"{path}/":
        raise Unfit(found="a path with . or .. in it")
    return f"file://{quote(path, safe=_UNRESERVED_IN_PATH)}"


def _attributes(text: str, separator: str) -> dict[str, str]:
    found = {}
    for part in text.split(separator):
        name, _, value = part.partition("=")
        if _BAD_ESCAPE.search(value):
            raise Unfit(found="a pkcs11: URI with a bad escape")
        try:
            found[name] = unquote(value, errors="strict")
        except UnicodeDecodeError as exc:
            raise Unfit(found="a pkcs11: URI that is not UTF-8") from exc
    return found


def _escaped(value: str) -> str:
    """Every byte but ASCII letters and digits as its escape, as the original writes them."""
    return "".join(
        chr(byte) if byte < 0x80 and chr(byte).isalnum() else f"%{byte:02X}" for byte in value.encode()
    )
