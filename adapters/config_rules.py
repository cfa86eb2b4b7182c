"""What ``config.toml`` may say: a parsed TOML tree becomes a ``Configuration``, or a list of mistakes.

``msgspec.convert`` stops at the first mistake; a person wants them all. So each key is checked on its own
against its row in ``config_settings.py``, and the Structs are filled with what passed.
"""

import base64
import binascii
import datetime
import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec.structs import replace

from adapters.config_settings import (
    BY_PATH,
    DEFAULTS,
    FILE_URI_FORM,
    NOT_READ_YET,
    TABLES,
    Setting,
)
from adapters.errors import bounded
from statemachine.settings import (
    IDENTITY_CERTIFICATE_ID,
    IDENTITY_KEY_ID,
    Configuration,
    DpsProvisioning,
    MaintenanceWindow,
    NoProvisioning,
    SymmetricKeySource,
    X509Source,
)

MAX_PROBLEMS = 100
"A file of nonsense is a megabyte of mistakes; nobody reads past these."

MAX_REGISTRATION_ID_CHARS = 128
MAX_COMMON_NAME_CHARS = 64
"RFC 5280 ub-common-name; the CSR's CN is the registration id."

MAX_WINDOWS = 24
MINUTES_A_DAY = 1440

SOURCE = "provisioning.source"
ATTESTATION = "provisioning.attestation"
METHOD = f"{ATTESTATION}.method"
REGISTRATION_ID = f"{ATTESTATION}.registration_id"
SYMMETRIC_KEY = f"{ATTESTATION}.symmetric_key"
IDENTITY_CERT = f"{ATTESTATION}.identity_cert"
IDENTITY_PK = f"{ATTESTATION}.identity_pk"

THIS_RELEASE = (
    'in this release source "dps" with method "symmetric_key", or with method "x509" and files named in '
    'identity_cert and identity_pk, or source "none"; the other ways come later'
)

NOT_YET = {(SOURCE, "manual"), (METHOD, "tpm")}
"Valid in the original, not here yet: (key, value)."

MANUAL_KEYS = frozenset({"source", "connection_string", "iothub_hostname", "device_id", "authentication"})

METHOD_KEYS = {
    "symmetric_key": ("method", "registration_id", "symmetric_key"),
    "x509": ("method", "registration_id", "identity_cert", "identity_pk"),
}

TABLE_FORMS = {
    SYMMETRIC_KEY: 'a table with one of value and uri: symmetric_key = { value = "BASE64" }',
    "provisioning.payload": 'a table: payload = { uri = "file:///path" }',
}
"Tables that people write as a bare value."

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


class Findings:
    """The mistakes of one file, in the order they were found, bounded in number and length."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: list[str] = []
        self._left_out = 0

    @property
    def full(self) -> bool:
        return len(self._lines) >= MAX_PROBLEMS

    @property
    def lines(self) -> tuple[str, ...]:
        if not self._left_out:
            return tuple(self._lines)
        return (*self._lines, f"{bounded(self._file, 500)}: and {self._left_out} more mistakes like these")

    def add(self, where: str, text: str) -> None:
        if self.full:
            self._left_out += 1
            return
        file = bounded(self._file, 500)
        self._lines.append(f"{file}: {bounded(where, 120)}: {text}" if where else f"{file}: {text}")

    def unfit(self, where: str, found: str, allowed: str, nearest: str = "") -> None:
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        self.add(where, f"found {found}; allowed {allowed}{hint}")


def interpret(tree: dict[str, Any], findings: Findings) -> Configuration | None:
    """The configuration ``tree`` describes, or None with every mistake in ``findings``."""
    values: dict[str, Any] = {}
    _walk(tree, "", values, findings)
    _check_pairs(values, findings)
    _check_gateway(tree, findings)
    provisioning = _provisioning(tree, values, findings)
    if provisioning is None or findings.lines:
        return None
    parts: dict[str, Any] = {"tls": {}, "journal": {}, "limits": {}}
    top: dict[str, Any] = {}
    for path, value in values.items():
        target = BY_PATH[path].target
        part, dot, name = target.partition(".")
        if dot:
            parts[part][name] = value
        elif target:
            top[target] = value
    built = {part: replace(getattr(DEFAULTS, part), **fields) for part, fields in parts.items()}
    return replace(DEFAULTS, provisioning=provisioning, **top, **built)


def _walk(table: dict[str, Any], prefix: str, values: dict[str, Any], findings: Findings) -> None:
    """Check every key of ``table``; what passed goes into ``values`` by its path."""
    if prefix == "provisioning" and table.get("source") == "manual":
        # Its keys are not ours to check yet, and half of them are secrets.
        for name in table:
            if name not in MANUAL_KEYS:
                _unknown(name, prefix, MANUAL_KEYS, findings)
        table = {"source": "manual"}
    for name, value in table.items():
        path = f"{prefix}.{name}" if prefix else name
        if path in BY_PATH and "." not in name:
            _take(BY_PATH[path], value, values, findings)
        elif path in TABLES and "." not in name:
            if isinstance(value, dict):
                _walk(value, path, values, findings)
            else:
                found = hidden(value) if path == SYMMETRIC_KEY else shown(value)
                findings.unfit(path, found, TABLE_FORMS.get(path, "a table"))
        elif prefix or name not in NOT_READ_YET:
            _unknown(name, prefix, _names_in(prefix), findings)


def _names_in(prefix: str) -> frozenset[str]:
    start = f"{prefix}." if prefix else ""
    below = {p[len(start) :].partition(".")[0] for p in BY_PATH if p.startswith(start)}
    return frozenset(below if prefix else below | NOT_READ_YET)


def _unknown(name: str, prefix: str, known: Iterable[str], findings: Findings) -> None:
    shown_name = "<hidden>" if looks_secret(name) else name
    path = f"{prefix}.{shown_name}" if prefix else shown_name
    if findings.full:
        findings.add(path, "")
        return
    names = sorted(known)
    nearest = nearest_of(name, names)
    elsewhere = [p for p in (*BY_PATH, *TABLES) if p.rpartition(".")[2] == name]
    if len(elsewhere) == 1:
        # Typically a key below a [table] header that was meant to stand above it.
        nearest = elsewhere[0]
    # The original's keys nobody is reading are left out, unless that is what was misspelt.
    listed = [n for n in names if prefix or n not in NOT_READ_YET]
    findings.unfit(path, "an unknown key", ", ".join(listed), nearest)


def _take(setting: Setting, value: object, values: dict[str, Any], findings: Findings) -> None:
    try:
        values[setting.path] = _checked(setting, value)
    except Unfit as unfit:
        found = unfit.found or (hidden(value) if setting.secret else shown(value))
        nearest = nearest_of(value, setting.choices) if isinstance(value, str) and not unfit.allowed else ""
        findings.unfit(setting.path, found, unfit.allowed or setting.allowed, nearest)


def _checked(setting: Setting, value: object) -> object:
    match setting.kind:
        case "boolean" if isinstance(value, bool):
            return value
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            if setting.low is not None and setting.high is not None and setting.low <= value <= setting.high:
                return value
        case "text" if isinstance(value, str):
            if (setting.path, value) in NOT_YET:
                raise Unfit(allowed=THIS_RELEASE)
            if setting.choices and value in setting.choices:
                return value
            if not setting.choices:
                return FORMS[setting.path](value)
        case "list of text" if isinstance(value, list):
            return _windows(value)
        case _ if setting.path == IDENTITY_CERT and isinstance(value, dict):
            # config-and-cli.md §4.4: a certificate the service is to have issued, by EST or a local CA.
            raise Unfit(found="a table: a certificate to be issued", allowed=THIS_RELEASE)
    raise Unfit


def _check_pairs(values: dict[str, Any], findings: Findings) -> None:
    for low_path, high_path, gap, words in (
        ("identityd.renewal.earliest_percent", "identityd.renewal.latest_percent", 1, "more than"),
        ("identityd.attempts.backoff_base_sec", "identityd.attempts.backoff_cap_sec", 0, "at least"),
    ):
        low: Any = values.get(low_path, BY_PATH[low_path].default)
        high: Any = values.get(high_path, BY_PATH[high_path].default)
        if high - low < gap:
            found, limit = (
                f"{value}" if path in values else f"{value}, the default"
                for path, value in ((high_path, high), (low_path, low))
            )
            findings.unfit(high_path, found, f"{words} {low_path.rpartition('.')[2]} ({limit})")


def _check_gateway(tree: dict[str, Any], findings: Findings) -> None:
    given = [name for name in ("parent_hostname", "local_gateway_hostname") if name in tree]
    if len(given) == 2:
        findings.add(given[0], f"found beside {given[1]}, which means the same; allowed one of them")
    source = tree.get("provisioning")
    if given and isinstance(source, dict) and source.get("source") == "dps":
        findings.add(given[0], "DPS provisioning is not supported in nested mode; allowed without DPS only")


def _provisioning(
    tree: dict[str, Any], values: dict[str, Any], findings: Findings
) -> DpsProvisioning | NoProvisioning | None:
    """What depends on more than one key: which keys must, and which may not, be there."""
    table = tree.get("provisioning", {})
    if not isinstance(table, dict):
        return None
    if "source" not in table:
        findings.unfit(SOURCE, "nothing", BY_PATH[SOURCE].allowed)
    if values.get(SOURCE) != "dps":
        return NoProvisioning() if values.get(SOURCE) == "none" else None
    for name in ("global_endpoint", "id_scope"):
        _require(table, "provisioning", name, findings)
    attestation = table.get("attestation", {})
    if not isinstance(attestation, dict):
        return None
    _require(attestation, ATTESTATION, "method", findings)
    source = _attestation(attestation, values, findings)
    if source is None or findings.lines:
        return None
    return DpsProvisioning(
        global_endpoint=values["provisioning.global_endpoint"],
        scope_id=values["provisioning.id_scope"],
        registration_id=values.get(REGISTRATION_ID),
        attestation=source,
        payload_path=values.get("provisioning.payload.uri"),
    )


def _attestation(
    table: dict[str, Any], values: dict[str, Any], findings: Findings
) -> SymmetricKeySource | X509Source | None:
    method = values.get(METHOD)
    if method is None:
        return None
    for name in table:
        if name not in METHOD_KEYS[method] and name in _names_in(ATTESTATION):
            allowed = ", ".join(METHOD_KEYS[method])
            findings.unfit(f"{ATTESTATION}.{name}", f'a key that method "{method}" does not have', allowed)
    if method == "x509":
        _require(table, ATTESTATION, "identity_cert", findings)
        if not isinstance(table.get("identity_cert"), dict):
            _require(table, ATTESTATION, "identity_pk", findings)
        if IDENTITY_CERT in values and IDENTITY_PK in values:
            return X509Source(certificate_path=values[IDENTITY_CERT], key_path=values[IDENTITY_PK])
        return None
    _require(table, ATTESTATION, "registration_id", findings)
    key = table.get("symmetric_key")
    if key is None or (isinstance(key, dict) and not {"value", "uri"} & key.keys()):
        findings.unfit(SYMMETRIC_KEY, "nothing", TABLE_FORMS[SYMMETRIC_KEY])
    elif isinstance(key, dict) and {"value", "uri"} <= key.keys():
        # The original lets value win; a person who wrote both deserves to know which key is in use.
        findings.unfit(SYMMETRIC_KEY, "both value and uri", "one of them")
    else:
        value, path = values.get(f"{SYMMETRIC_KEY}.value"), values.get(f"{SYMMETRIC_KEY}.uri")
        if value is not None or path is not None:
            return SymmetricKeySource(value=value, path=path)
    return None


def _require(table: dict[str, Any], prefix: str, name: str, findings: Findings) -> None:
    if name not in table:
        path = f"{prefix}.{name}"
        findings.unfit(path, "nothing", BY_PATH[path].allowed)


# What a text must look like. Each takes the text and returns what the configuration holds, or raises Unfit.


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


def _windows(items: list[object]) -> tuple[MaintenanceWindow, ...]:
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


FORMS: dict[str, Callable[[str], object]] = {
    "hostname": hostname,
    "dps_trust_bundle": bundle_id,
    "provisioning.global_endpoint": endpoint,
    "provisioning.id_scope": id_scope,
    "provisioning.payload.uri": file_uri,
    REGISTRATION_ID: registration_id,
    f"{SYMMETRIC_KEY}.value": base64_key,
    f"{SYMMETRIC_KEY}.uri": file_uri,
    IDENTITY_CERT: file_name,
    IDENTITY_PK: file_name,
    "identityd.tls.ca_file": absolute_path,
}
"By key path; a text setting without choices has its entry here."


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
