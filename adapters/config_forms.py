"""What one value of a configuration file must look like, and how a value may be shown when it does not.

Each form takes the value and returns what the configuration holds, or raises Unfit. Which key has which form
is said by its row.
"""

import base64
import binascii
import datetime
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from adapters.config_credentials import NAME_FORM, SCHEME, credential_path
from adapters.config_setting import FILE_URI_FORM, HIGHEST_UID
from adapters.errors import bounded
from statemachine.settings import (
    DEVICE_ID,
    DEVICE_TEMPORARY_ID,
    IDENTITY_CERTIFICATE_ID,
    IDENTITY_KEY_ID,
    MaintenanceWindow,
)

MAX_REGISTRATION_ID_CHARS = 128
MAX_COMMON_NAME_CHARS = 64
"RFC 5280 ub-common-name; the CSR's CN is the registration id."

MAX_WINDOWS = 24
MINUTES_A_DAY = 1440
MAX_ITEMS = 1000
"Of one list of ids, patterns or digests."
MAX_NAME_CHARS = 255

SUBJECT_NAMES = frozenset(
    (
        *("C", "CN", "DC", "GN", "L", "O", "OU", "SN", "ST", "UID"),
        *("emailAddress", "postalCode", "serialNumber", "street", "title"),
    )
)
"Attributes of a subject, by their usual short names (RFC 4519, and OpenSSL's where that has none)."
IDENTITY_KINDS = ("device", "module", "local")

OWN_IDS = frozenset({IDENTITY_CERTIFICATE_ID, IDENTITY_KEY_ID, DEVICE_ID, DEVICE_TEMPORARY_ID})
"Ids the trust bundle may not overwrite (config-and-cli.md §13 item 13)."

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_DEVICE_ID = re.compile(r"[A-Za-z0-9.+%_#*?!(),:=@$'-]{1,128}")
_RENEWAL_POLICY = re.compile(r"[0-9]{1,8}(%|min|day)")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_ID_SCOPE = re.compile(r"[A-Za-z0-9_-]{1,128}")
# The documented rule; the published specification is stricter, but an id that DPS enrolled has to work.
_REGISTRATION_ID = re.compile(r"[A-Za-z0-9:._-]*[A-Za-z0-9-]")
_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_MAYBE_SECRET = re.compile(r"sharedaccess|pin-value|password|//.*@|-----begin", re.IGNORECASE)
# The base64 of 16 bytes and more. A URI is the one place where a slash separates words.
_MAYBE_KEY = re.compile(r"[A-Za-z0-9+/]{21}[A-Za-z0-9+/=]")
_MAYBE_KEY_IN_URI = re.compile(r"[A-Za-z0-9+]{21}[A-Za-z0-9+=]")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


T = TypeVar("T")


class Unfit(Exception):
    """A value that is not allowed. Both texts may be empty: then the value and the setting's row say it."""

    def __init__(self, *, found: str = "", allowed: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.allowed = allowed


# --- forms -------------------------------------------------------------------------------------------


def hostname(text: str) -> str:
    if len(text) > 253 or not _HOST.fullmatch(text):
        raise Unfit
    return text


def bundle_id(text: str) -> str:
    if text in OWN_IDS:
        raise Unfit(found=f'"{text}", an id the service uses itself')
    if (
        not 1 <= len(text) <= 255
        or text in {".", ".."}
        or any(c in "/*?" or not c.isprintable() for c in text)
    ):
        raise Unfit
    return text


def endpoint(text: str) -> str:
    """``https://host[:port]``: path and query are dropped, as the original replaces both."""
    try:
        if not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
            raise Unfit  # urlsplit would silently drop some of these
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
        if ":" in host:
            host = f"[{ipaddress.IPv6Address(host)}]"
    except ValueError as exc:
        raise Unfit from exc
    if parts.username is not None or parts.password is not None:
        raise Unfit(found="a URL with a user name or password")
    if parts.scheme == "http":
        raise Unfit(found="a URL without TLS (http)")
    if parts.scheme != "https" or port == 0 or not (host.startswith("[") or _HOST.fullmatch(host)):
        raise Unfit
    return f"https://{host}" if port is None else f"https://{host}:{port}"


def id_scope(text: str) -> str:
    if not _ID_SCOPE.fullmatch(text):
        raise Unfit
    return text


def registration_id(text: str) -> str:
    if not _REGISTRATION_ID.fullmatch(text) or len(text) > MAX_REGISTRATION_ID_CHARS:
        raise Unfit
    if len(text) > MAX_COMMON_NAME_CHARS:
        raise Unfit(
            found=f"{len(text)} characters",
            allowed=f"at most {MAX_COMMON_NAME_CHARS} for an identity certificate, whose CN it becomes",
        )
    return text


def base64_key(text: str) -> bytes:
    """Standard alphabet; padding complete or absent; no stray bits, so one key has one spelling."""
    padded = text if "=" in text else text + "=" * (-len(text) % 4)
    try:
        key = base64.b64decode(padded, validate=True)
    except (ValueError, binascii.Error) as exc:
        raise Unfit from exc
    if not key or base64.b64encode(key).decode("ascii") != padded:
        raise Unfit
    return key


def file_uri(text: str) -> str:
    """The absolute path of ``file:///path``, percent escapes decoded, or of ``credential:NAME``."""
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise Unfit
    if scheme.lower() == SCHEME:
        place = credential_path(rest)
        if place is None:
            raise Unfit(found="a credential whose name is none", allowed=f"{SCHEME}:NAME; {NAME_FORM}")
        return place
    if scheme.lower() == "pkcs11":
        raise Unfit(
            found="a pkcs11: URI", allowed=f"{FILE_URI_FORM}; PKCS#11 is not supported in this release"
        )
    if scheme.lower() != "file":
        raise Unfit
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in {"", "localhost"}:
            raise Unfit(found="a file URI with a host")
        rest = slash + path
    if "?" in rest or "#" in rest or re.search("%(?![0-9A-Fa-f]{2})", rest):
        raise Unfit
    try:
        return absolute_path(unquote(rest, errors="strict"))
    except UnicodeDecodeError as exc:
        raise Unfit from exc


def file_name(text: str) -> str:
    """A file URI as in the original, or the bare path, which the original refuses."""
    return absolute_path(text) if text.startswith("/") else file_uri(text)


def absolute_path(text: str) -> str:
    if not text.startswith("/") or text.endswith("/") or len(text) > 4095 or not text.isprintable():
        raise Unfit
    return text


def windows(items: list[object]) -> tuple[MaintenanceWindow, ...]:
    if len(items) > MAX_WINDOWS:
        raise Unfit(found=f"an array of {len(items)}")
    bad = [item for item in items if not (isinstance(item, str) and _window(item))]
    if bad:
        raise Unfit(found=", ".join(shown(item) for item in bad[:3]) + ("" if len(bad) <= 3 else ", …"))
    return tuple(window for item in items if isinstance(item, str) and (window := _window(item)))


def _window(text: str) -> MaintenanceWindow | None:
    match = _WINDOW.fullmatch(text)
    if not match:
        return None
    start = int(match[1]) * 60 + int(match[2])
    end = MINUTES_A_DAY if match[3] is None else int(match[3]) * 60 + int(match[4])
    if start == end:
        return None
    return MaintenanceWindow(
        start_minute=start, duration_minutes=(end - start) % MINUTES_A_DAY or MINUTES_A_DAY
    )


def host_and_port(text: str) -> str:
    host, colon, port = text.partition(":")
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65_535):
        raise Unfit
    hostname(host)
    return text


def device_id(text: str) -> str:
    if not _DEVICE_ID.fullmatch(text):
        raise Unfit
    return text


def connection_string(text: str) -> tuple[str, str, bytes]:
    """Hub, device id and key of ``HostName=…;DeviceId=…;SharedAccessKey=…`` (config-and-cli.md §4.2).

    Names are exact, a later part wins over an earlier one of the same name, other parts are not read.
    """
    parts = dict(part.partition("=")[::2] for part in text.split(";"))
    for name in ("HostName", "DeviceId", "SharedAccessKey"):
        if name not in parts:
            raise Unfit(found=f'a connection string whose required parameter "{name}" is missing')
    return (
        _part(parts, "HostName", host_and_port, "not a host name"),
        _part(parts, "DeviceId", device_id, "not a device id"),
        _part(parts, "SharedAccessKey", base64_key, "not base64"),
    )


def _part(parts: dict[str, str], name: str, form: Callable[[str], T], what: str) -> T:
    try:
        return form(parts[name])
    except Unfit:
        # Without its cause: a traceback of it may show the value.
        raise Unfit(found=f'a connection string whose "{name}" is {what}') from None


def renewal_policy(text: str) -> str:
    match = _RENEWAL_POLICY.fullmatch(text)
    if not match or not 0 < int(text.removesuffix(match[1])) < (100 if match[1] == "%" else 10**8):
        raise Unfit
    return text


def printable_name(text: str) -> str:
    """An id, a pattern of ids, or a value of a subject."""
    if not 1 <= len(text) <= MAX_NAME_CHARS or not text.isprintable():
        raise Unfit
    return text


def subject(table: dict[str, object]) -> dict[str, str]:
    for name, value in table.items():
        if name not in SUBJECT_NAMES:
            said = "<hidden>" if looks_secret(name) else bounded(name, 40)
            raise Unfit(found=f'an attribute "{said}"', allowed=", ".join(sorted(SUBJECT_NAMES)))
        if not isinstance(value, str):
            raise Unfit(found=f"{_kind(value)} for {name}")
        printable_name(value)
        if name == "C" and len(value) != 2:
            raise Unfit(found=f"{shown(value)} for C", allowed="the two letters of a country")
    if not table:
        raise Unfit(found="an empty table")
    return {name: str(value) for name, value in table.items()}


def names(items: list[object]) -> tuple[str, ...]:
    """Ids, or patterns of ids."""
    return tuple(printable_name(item) for item in texts(items))


def place_or_names(value: str | list[object]) -> str | tuple[str, ...]:
    return file_uri(value) if isinstance(value, str) else names(value)


def users(items: list[object]) -> tuple[int | str, ...]:
    """User ids, and names that are looked up when the whole file is read."""
    if len(items) > MAX_ITEMS:
        raise Unfit(found=f"an array of {len(items)}")
    return tuple(_user(item) for item in items)


def _user(item: object) -> int | str:
    if isinstance(item, str):
        return printable_name(item)
    if isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= HIGHEST_UID:
        return item
    raise Unfit(found=f"{shown(item)} in it")


def digests(items: list[object]) -> tuple[str, ...]:
    """SHA-256 in hex, lower case; the colons that OpenSSL prints are dropped."""
    found = [item.replace(":", "") for item in texts(items)]
    for item, digest in zip(items, found, strict=True):
        if not _SHA256.fullmatch(digest):
            raise Unfit(found=shown(item))
    return tuple(digest.lower() for digest in found)


def identity_kinds(items: list[object]) -> tuple[str, ...]:
    for item in items:
        if item not in IDENTITY_KINDS:
            raise Unfit(found=shown(item))
    return tuple(kind for kind in IDENTITY_KINDS if kind in items)


def texts(items: list[object]) -> list[str]:
    if len(items) > MAX_ITEMS:
        raise Unfit(found=f"an array of {len(items)}")
    found = [item for item in items if isinstance(item, str)]
    if len(found) < len(items):
        raise Unfit(found=f"an array with {next(_kind(i) for i in items if not isinstance(i, str))} in it")
    return found


# --- showing what was found --------------------------------------------------------------------------


def hidden(value: object) -> str:
    return f"<secret, {len(value)} characters>" if isinstance(value, str) else _kind(value)


def shown(value: object) -> str:
    """The value as it may be printed: short, on one line, and never something that looks like a secret."""
    if isinstance(value, str):
        if looks_secret(value):
            return f"<hidden, {len(value)} characters: it may be a secret>"
        return f'"{bounded(value, 80)}"'
    if isinstance(value, bool):
        return str(value).lower()
    # A hexadecimal integer can be a megabyte long, and Python refuses to print it in decimal.
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 128):
        return str(value)
    return _kind(value)


def looks_secret(text: str) -> bool:
    """Keys end up under the wrong name; a mistake about them must not put them on a screen or in a log."""
    key = _MAYBE_KEY_IN_URI if _URI.match(text) else _MAYBE_KEY
    return bool(_MAYBE_SECRET.search(text) or key.search(text))


def _kind(value: object) -> str:
    match value:
        case dict():
            return "a table"
        case list():
            return f"an array of {len(value)}"
        case int() | float():
            return "a number"
        case datetime.date() | datetime.time():
            return "a date or time"
        case _:
            return "something else"


def nearest_of(word: str, known: Iterable[str]) -> str:
    """The valid name most like ``word``, or nothing."""
    import difflib  # only a mistake should cost its memory

    return next(iter(difflib.get_close_matches(word[:80].lower(), list(known), n=1)), "")
