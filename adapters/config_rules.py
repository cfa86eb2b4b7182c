"""What ``config.toml`` may say: a parsed TOML tree becomes a ``Configuration``, or a list of mistakes.

``msgspec.convert`` stops at the first mistake; a person wants them all. So each key is checked on its own
against its row in ``config_settings.py`` and its form in ``config_forms.py``, and the Structs are filled
with what passed.
"""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from adapters.config_forms import (
    Unfit,
    absolute_path,
    base64_key,
    bundle_id,
    endpoint,
    file_name,
    file_uri,
    hidden,
    hostname,
    id_scope,
    looks_secret,
    nearest_of,
    registration_id,
    shown,
    windows,
)
from adapters.config_settings import (
    BY_PATH,
    DEFAULTS,
    NOT_READ_YET,
    TABLES,
    Setting,
)
from adapters.errors import bounded
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    X509Source,
)

MAX_PROBLEMS = 100
"A file of nonsense is a megabyte of mistakes; nobody reads past these."

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
            return windows(value)
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
