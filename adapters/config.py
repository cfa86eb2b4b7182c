"""Reading the configuration, falling back to the last good one, and what is derived from either.

``config.toml`` and the drop-ins beside it are read whole, bounded, and every mistake in them is reported at
once. The files are in ``config_files.py``, their meaning begins in ``config_rules.py``, each key's row is in
``config_settings.py``.
"""

import contextlib
import hashlib
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.config_files import (
    MAX_CONFIG_BYTES,
    MAX_SEALED_BYTES,
    DropIn,
    Sources,
    read_sources,
    read_text,
    seal,
    unseal,
)
from adapters.config_files import parsed as parsed
from adapters.config_files import save_last_good as save_last_good
from adapters.config_findings import Findings
from adapters.config_rules import DropInTree, interpret
from adapters.config_setting import Setting
from adapters.config_settings import SETTINGS
from adapters.errors import ConfigurationInvalid
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    ManualAssignment,
    ManualProvisioning,
    PolicySettings,
    SymmetricKeySource,
    credential_of,
)

__all__ = [
    "MAX_CONFIG_BYTES",
    "SETTINGS",
    "Loaded",
    "Setting",
    "examine",
    "fingerprint",
    "load",
    "load_with_fallback",
    "parse",
    "policy",
    "save_last_good",
]


class Loaded(Struct, frozen=True, kw_only=True):
    """A usable configuration and where it came from."""

    configuration: Configuration
    source: Literal["file", "last-good"]
    problems: tuple[str, ...] = ()
    "What is wrong with the files, when the last good configuration stands in for them."
    notes: tuple[str, ...] = ()
    "What is no mistake, but maybe not what the writer of the files expects."
    text: str
    "What ``save_last_good`` keeps: every file behind ``configuration``. It may hold a secret key."

    def __repr__(self) -> str:
        return f"Loaded(source={self.source!r}, problems={self.problems!r}, notes={self.notes!r})"


def load(path: str, *, root: str = "/") -> Configuration:
    """The configuration in ``path`` and its drop-ins. Raises ConfigurationInvalid with every mistake.

    ``root`` goes in front of ``path`` unless ``path`` already lies below it. It does not go in front of paths
    *inside* the files (file URIs, ``ca_file``): those are absolute and taken as they are.
    """
    return load_noted(path, root=root).configuration


def load_noted(path: str, *, root: str = "/") -> Loaded:
    """The same, with what is no mistake and yet worth a word, such as an unknown key."""
    return _load(_below(root, path))


def load_with_fallback(path: str, last_good_path: str, root: str = "/") -> Loaded:
    """The configuration in ``path`` and its drop-ins, or the last good one with their mistakes beside it.

    A file that is missing or unreadable counts as broken. Raises ConfigurationInvalid when there is no usable
    last good configuration, or when that one says ``when_config_is_broken = "refuse"``.
    """
    try:
        return _load(_below(root, path))
    except ConfigurationInvalid as broken:
        kept = _load_last_good(_below(root, last_good_path))
        if kept is None or kept.configuration.when_config_is_broken == "refuse":
            raise
        return msgspec.structs.replace(kept, problems=broken.problems)


def examine(path: str, *, root: str = "/") -> Findings:
    """Everything there is to say of ``path`` and its drop-ins, without raising for it."""
    findings = Findings(_below(root, path))
    sources = read_sources(_below(root, path), findings)
    if sources is not None:
        with contextlib.suppress(ConfigurationInvalid):
            _interpreted(sources, findings)
    return findings


def parse(path: str, text: str, drop_ins: tuple[DropIn, ...] = ()) -> Configuration:
    """The configuration the texts describe; ``path`` only names ``text`` in mistakes."""
    return parse_noted(path, text, drop_ins).configuration


def parse_noted(path: str, text: str, drop_ins: tuple[DropIn, ...] = ()) -> Loaded:
    """The same, with what is no mistake and yet worth a word."""
    findings = Findings(path)
    sources = Sources(path=path, text=text, drop_ins=drop_ins)
    configuration = _interpreted(sources, findings)
    return Loaded(configuration=configuration, source="file", notes=findings.notes, text=seal(sources))


def _load(path: str) -> Loaded:
    findings = Findings(path)
    sources = read_sources(path, findings)
    if sources is None:
        raise ConfigurationInvalid(path, findings.lines, findings.notes)
    configuration = _interpreted(sources, findings)
    return Loaded(configuration=configuration, source="file", notes=findings.notes, text=seal(sources))


def _load_last_good(path: str) -> Loaded | None:
    findings = Findings(path)
    text = read_text(path, MAX_SEALED_BYTES, findings)
    sources = None if text is None else unseal(path, text)
    if text is None or sources is None:
        return None
    try:
        configuration = _interpreted(sources, findings, lenient=True)
    except ConfigurationInvalid:
        return None
    return Loaded(configuration=configuration, source="last-good", notes=findings.notes, text=text)


def _interpreted(sources: Sources, findings: Findings, *, lenient: bool = False) -> Configuration:
    """Raises ConfigurationInvalid with everything found, reading the files included."""
    tree = parsed(sources.text, findings)
    drop_ins = []
    for drop_in in sources.drop_ins:
        its_tree = parsed(drop_in.text, findings.of(drop_in.path))
        if its_tree is not None:
            drop_ins.append(DropInTree(service=drop_in.service, path=drop_in.path, tree=its_tree))
    configuration = None if tree is None else interpret(tree, findings, drop_ins, lenient=lenient)
    if configuration is None or findings.lines:
        raise ConfigurationInvalid(sources.path, findings.lines, findings.notes)
    return configuration


def policy(configuration: Configuration, registration_id: str) -> PolicySettings:
    """The part of the configuration that decisions need.

    ``registration_id`` is passed in because for X.509 it may come from the certificate instead of the file.
    """
    provisioning = configuration.provisioning
    dps = provisioning if isinstance(provisioning, DpsProvisioning) else None
    manual = None
    if isinstance(provisioning, ManualProvisioning):
        manual = ManualAssignment(hub=provisioning.hub, device_id=provisioning.device_id)
    return PolicySettings(
        dps=dps is not None,
        manual=manual,
        registration_id=registration_id,
        endpoint=dps.global_endpoint if dps is not None else "",
        scope_id=dps.scope_id if dps is not None else "",
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
    """Who we are to the cloud, as one SHA-256 in hex: a different value means another registration.

    For DPS made of endpoint, scope id, registration id (lower case: DPS ignores case), attestation kind,
    api-version and the public half of the credential: the SHA-256 of the X.509 leaf's SubjectPublicKeyInfo,
    "" for a symmetric key. For a manual assignment, of hub (lower case), device id, kind and public half.
    No secret goes in, so an exchanged symmetric key alone changes nothing here.
    """
    provisioning, kind = configuration.provisioning, _attestation_kind(configuration)
    public = credential_public_sha256.lower()
    if isinstance(provisioning, ManualProvisioning):
        manual = (
            "identityd-fingerprint-1-manual",
            provisioning.hub.lower(),
            provisioning.device_id,
            kind,
            public,
        )
        return hashlib.sha256(msgspec.json.encode(manual)).hexdigest()
    dps = provisioning if isinstance(provisioning, DpsProvisioning) else None
    facts = (
        "identityd-fingerprint-1",
        dps.global_endpoint if dps is not None else "",
        dps.scope_id if dps is not None else "",
        registration_id.lower() if dps is not None else "",
        kind,
        configuration.api_version,
        public,
    )
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _attestation_kind(configuration: Configuration) -> Literal["symmetric_key", "x509", "none"]:
    source = credential_of(configuration.provisioning)
    if source is None:
        return "none"
    return "symmetric_key" if isinstance(source, SymmetricKeySource) else "x509"


def _below(root: str, path: str) -> str:
    prefix = root.rstrip("/")
    if not prefix or not path.startswith("/") or path.startswith(f"{prefix}/"):
        return path
    return prefix + path
