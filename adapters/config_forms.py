"""What one value of ``config.toml`` must look like, and how a value may be shown when it does not.

Each form takes the text and returns what the configuration holds, or raises Unfit. Which key has which form
is in ``config_rules.py``.
"""

import base64
import binascii
import datetime
import difflib
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from adapters.config_settings import FILE_URI_FORM
from adapters.errors import bounded
from statemachine.settings import IDENTITY_CERTIFICATE_ID, IDENTITY_KEY_ID, MaintenanceWindow

MAX_REGISTRATION_ID_CHARS = 128
MAX_COMMON_NAME_CHARS = 64
"RFC 5280 ub-common-name; the CSR's CN is the registration id."

MAX_WINDOWS = 24
MINUTES_A_DAY = 1440

OWN_IDS = frozenset({IDENTITY_CERTIFICATE_ID, IDENTITY_KEY_ID, "device-id", "device-id-temp"})
"Ids the trust bundle may not overwrite (config-and-cli.md §13 item 13)."

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_ID_SCOPE = re.compile(r"[A-Za-z0-9_-]{1,128}")
# The documented rule; the published specification is stricter, but an id that DPS enrolled has to work.
_REGISTRATION_ID = re.compile(r"[A-Za-z0-9:._-]*[A-Za-z0-9-]")
_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_MAYBE_SECRET = re.compile(r"sharedaccess|pin-value|password|//.*@|-----begin", re.IGNORECASE)
# The base64 of 16 bytes and more. A URI is the one place where a slash separates words.
_MAYBE_KEY = re.compile(r"[A-Za-z0-9+/]{21}[A-Za-z0-9+/=]")
_MAYBE_KEY_IN_URI = re.compile(r"[A-Za-z0-9+]{21}[A-Za-z0-9+=]")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


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
    """The absolute path of ``file:///path``, percent escapes decoded."""
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise Unfit
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


def nearest_of(word: str, names: Iterable[str]) -> str:
    """The valid name most like ``word``, or nothing."""
    return next(iter(difflib.get_close_matches(word[:80].lower(), list(names), n=1)), "")
