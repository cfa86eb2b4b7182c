"""Reading ``config.toml``, falling back to the last good one, and what is derived from either.

The file is read whole, bounded, and every mistake in it is reported at once. What a key may hold is in
``config_settings.py``, what its text must look like in ``config_forms.py``; how keys depend on each other is
in ``config_rules.py``.
"""

import hashlib
import os
import stat
from typing import Literal

import msgspec
import tomli
from msgspec import Struct

from adapters.config_forms import looks_secret
from adapters.config_rules import Findings, interpret
from adapters.config_settings import SETTINGS, Setting
from adapters.durable import replace_file
from adapters.errors import ConfigurationInvalid, StoreUnavailable, bounded
from statemachine.settings import Configuration, DpsProvisioning, PolicySettings, SymmetricKeySource

__all__ = [
    "MAX_CONFIG_BYTES",
    "SETTINGS",
    "Loaded",
    "Setting",
    "fingerprint",
    "load",
    "load_with_fallback",
    "parse",
    "policy",
    "save_last_good",
]

MAX_CONFIG_BYTES = 262_144
"Ten times the original's template; the slowest TOML of this size takes the parser a few seconds."


class Loaded(Struct, frozen=True, kw_only=True):
    """A usable configuration and where it came from."""

    configuration: Configuration
    source: Literal["file", "last-good"]
    problems: tuple[str, ...] = ()
    "What is wrong with the file, when the last good configuration stands in for it."
    text: str
    "The TOML text behind ``configuration``, for ``save_last_good``. It may hold a secret key."

    def __repr__(self) -> str:
        return f"Loaded(source={self.source!r}, problems={self.problems!r})"


def load(path: str, *, root: str = "/") -> Configuration:
    """The configuration in ``path``. Raises ConfigurationInvalid with every mistake in the file.

    ``root`` goes in front of ``path`` unless ``path`` already lies below it. It does not go in front of paths
    *inside* the file (file URIs, ``ca_file``): those are absolute and taken as they are.
    """
    where = _below(root, path)
    return parse(where, _read(where))


def load_with_fallback(path: str, last_good_path: str, root: str = "/") -> Loaded:
    """The configuration in ``path``, or the last good one with the mistakes of ``path`` beside it.

    A file that is missing or unreadable counts as broken. Raises ConfigurationInvalid when there is no usable
    last good configuration, or when that one says ``when_config_is_broken = "refuse"``.
    """
    where = _below(root, path)
    try:
        text = _read(where)
        return Loaded(configuration=parse(where, text), source="file", text=text)
    except ConfigurationInvalid as broken:
        fallback = _below(root, last_good_path)
        try:
            text = _read(fallback)
            configuration = parse(fallback, text)
        except ConfigurationInvalid:
            raise broken from None
        if configuration.when_config_is_broken == "refuse":
            raise
        return Loaded(configuration=configuration, source="last-good", problems=broken.problems, text=text)


def parse(path: str, text: str) -> Configuration:
    """The configuration ``text`` describes; ``path`` only names it in mistakes."""
    findings = Findings(path)
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError as exc:
        # Not str(exc): it says the position again, or "at end of document". A message may quote a key.
        reason = "a key is defined twice" if looks_secret(exc.msg) else bounded(exc.msg, 120)
        findings.add(f"line {exc.lineno}, column {exc.colno}", f"not valid TOML: {reason}")
        raise ConfigurationInvalid(path, findings.lines) from None
    except (ValueError, RecursionError) as exc:
        # tomli lets these through for integers of thousands of digits and for deep nesting.
        findings.add("", "not usable TOML: a number is too long, or arrays or tables are nested too deeply")
        raise ConfigurationInvalid(path, findings.lines) from exc
    configuration = interpret(tree, findings)
    if configuration is None:
        raise ConfigurationInvalid(path, findings.lines)
    return configuration


def policy(configuration: Configuration, registration_id: str) -> PolicySettings:
    """The part of the configuration that decisions need.

    ``registration_id`` is passed in because for X.509 it may come from the certificate instead of the file.
    """
    provisioning = configuration.provisioning
    dps = isinstance(provisioning, DpsProvisioning)
    return PolicySettings(
        dps=dps,
        registration_id=registration_id,
        endpoint=provisioning.global_endpoint if isinstance(provisioning, DpsProvisioning) else "",
        scope_id=provisioning.scope_id if isinstance(provisioning, DpsProvisioning) else "",
        attestation=_attestation_kind(configuration),
        api_version=configuration.api_version,
        trust_bundle_id=configuration.trust_bundle_id,
        key_algorithm=configuration.key_algorithm,
        rotate_key=configuration.rotate_key,
        renewal_earliest_percent=configuration.renewal_earliest_percent,
        renewal_latest_percent=configuration.renewal_latest_percent,
        maintenance_windows=configuration.maintenance_windows,
        attempt_timeout_ms=configuration.attempt_timeout_seconds * 1000,
        backoff_base_ms=configuration.backoff_base_seconds * 1000,
        backoff_cap_ms=configuration.backoff_cap_seconds * 1000,
        budget_registrations=configuration.budget_registrations,
        budget_window_ms=configuration.budget_days * 86_400_000,
        reissue_interval_ms=configuration.reissue_hours * 3_600_000,
    )


def fingerprint(configuration: Configuration, registration_id: str, credential_public_sha256: str) -> str:
    """Who we are to DPS, as one SHA-256 in hex: a different value means a different registration.

    Made of endpoint, scope id, registration id (lower case: DPS ignores case), attestation kind, api-version
    and the public half of the credential: the SHA-256 of the X.509 leaf's SubjectPublicKeyInfo, "" for a
    symmetric key. No secret goes in, so an exchanged symmetric key alone changes nothing here.
    """
    provisioning = configuration.provisioning
    dps = isinstance(provisioning, DpsProvisioning)
    facts = (
        "identityd-fingerprint-1",
        provisioning.global_endpoint if isinstance(provisioning, DpsProvisioning) else "",
        provisioning.scope_id if isinstance(provisioning, DpsProvisioning) else "",
        registration_id.lower() if dps else "",
        _attestation_kind(configuration),
        configuration.api_version,
        credential_public_sha256.lower(),
    )
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def save_last_good(path: str, text: str) -> None:
    """Keep ``text`` as the last good configuration: mode 0600, durable on return, untouched when unchanged.

    Missing directories are created with mode 0700. Raises StoreUnavailable; the old file is then intact.
    """
    content = text.encode()
    try:
        if not _holds(path, content):
            replace_file(path, content)
    except OSError as exc:
        raise StoreUnavailable(
            f"cannot save the last good configuration as {path}: {exc.strerror}",
            code="last-good-not-saved",
        ) from exc


def _attestation_kind(configuration: Configuration) -> Literal["symmetric_key", "x509", "none"]:
    if not isinstance(configuration.provisioning, DpsProvisioning):
        return "none"
    return (
        "symmetric_key" if isinstance(configuration.provisioning.attestation, SymmetricKeySource) else "x509"
    )


def _below(root: str, path: str) -> str:
    prefix = root.rstrip("/")
    if not prefix or not path.startswith("/") or path.startswith(f"{prefix}/"):
        return path
    return prefix + path


def _read(path: str) -> str:
    """The text of ``path``. Raises ConfigurationInvalid."""
    findings = Findings(path)
    try:
        # Non-blocking, so that a FIFO in its place cannot hold the start.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                findings.add("", "found something that is not a regular file; allowed a TOML file")
                raise ConfigurationInvalid(path, findings.lines)
            with open(handle, "rb", closefd=False) as file:
                content = file.read(MAX_CONFIG_BYTES + 1)
        finally:
            os.close(handle)
    except FileNotFoundError as exc:
        fix = "create it, config/default.toml explains every key; or correct --root"
        findings.add("", f"found no such file; {fix}")
        raise ConfigurationInvalid(path, findings.lines) from exc
    except OSError as exc:
        findings.add("", f"cannot be read: {exc.strerror}")
        raise ConfigurationInvalid(path, findings.lines) from exc
    except ValueError as exc:
        findings.add("", "is not a usable path")
        raise ConfigurationInvalid(path, findings.lines) from exc
    if len(content) > MAX_CONFIG_BYTES:
        findings.add("", f"found more than {MAX_CONFIG_BYTES} bytes; allowed at most that many")
        raise ConfigurationInvalid(path, findings.lines)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        findings.add(f"line {line}", "found bytes that are not UTF-8; allowed UTF-8 text")
        # Without its cause: a UnicodeDecodeError carries the whole file, key included.
        raise ConfigurationInvalid(path, findings.lines) from None


def _holds(path: str, content: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            private = stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
            return private and file.read(len(content) + 1) == content
    except FileNotFoundError:
        return False
