"""Who this device is, as far as configuration and machine say, without secrets."""

import hashlib

from msgspec import Struct, structs

from adapters import config
from adapters.driven.onboarding import load_credential, onboarding_not_after_unix_ms
from adapters.errors import AdapterError
from adapters.wire import x509
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    ManualProvisioning,
    NoProvisioning,
    PolicySettings,
)
from statemachine.snapshot import Snapshot


class Identity(Struct, frozen=True, kw_only=True):
    """What the configuration says of who we are, without secrets."""

    policy: PolicySettings
    fingerprint: str
    onboarding_not_after_unix_ms: int | None
    note: str | None = None
    "Why the onboarding credential could not be read."

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.note is None else (self.note,)


def identify(configuration: Configuration, before: Snapshot) -> Identity:
    """Never raises: a device whose onboarding credential cannot be read still serves what it has.

    Part of who we are is the public key of a configured certificate. When that one cannot be read now,
    and nothing else changed since ``before``, we are who we were: a file system that is mounted late, or
    a mode set wrong, must not reprovision a device.
    """
    provisioning = configuration.provisioning
    registration_id, public, note, not_after = "", "", None, None
    if not isinstance(provisioning, NoProvisioning):
        registration_id = _named(provisioning)
        try:
            credential = load_credential(configuration)
            registration_id = credential.registration_id
            if credential.tls.client_chain_pem is not None:
                public = x509.facts(credential.tls.client_chain_pem).spki_sha256
            not_after = onboarding_not_after_unix_ms(configuration)
        except AdapterError as exc:
            note = f"onboarding credential: {exc.message}"
    policy = config.policy(configuration, registration_id)
    fingerprint = config.fingerprint(configuration, registration_id, public)
    if note is not None and _may_be_the_same(policy, before.policy):
        policy = structs.replace(policy, registration_id=before.policy.registration_id)
        fingerprint, not_after = before.fingerprint, before.onboarding_not_after_unix_ms
    return Identity(policy=policy, fingerprint=fingerprint, onboarding_not_after_unix_ms=not_after, note=note)


def _named(provisioning: DpsProvisioning | ManualProvisioning) -> str:
    if isinstance(provisioning, ManualProvisioning):
        return provisioning.device_id
    return provisioning.registration_id or ""


def _may_be_the_same(policy: PolicySettings, before: PolicySettings) -> bool:
    """Whether all that can be known of a device with a configured certificate is as it was."""
    known = (policy.manual, policy.endpoint, policy.scope_id, policy.attestation, policy.api_version)
    was = (before.manual, before.endpoint, before.scope_id, before.attestation, before.api_version)
    named = policy.registration_id in ("", before.registration_id)
    return policy.attestation == "x509" and known == was and named


def machine_hash() -> str:
    """Tells a copied image from this machine without telling which machine it is; empty when unknown."""
    try:
        with open("/etc/machine-id", "rb") as file:
            content = file.read(64).strip()
    except OSError:
        return ""
    return hashlib.sha256(b"identityd machine " + content).hexdigest()[:32] if content else ""
