"""The configured (onboarding) credential, read from its files at each use.

Everything here blocks: a caller with sockets to serve calls it in a worker thread.
"""

import errno
import os

from msgspec import Struct, structs

from adapters.driven import files
from adapters.errors import AdapterError, CertificateRejected, StoreUnavailable
from adapters.wire import x509
from adapters.wire.http_client import TlsOptions
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    IssuedSource,
    ManualProvisioning,
    SymmetricKeySource,
)

TOKEN_LIFE_S = 3600
MAX_FILE_BYTES = 1024 * 1024


class OnboardingCredential(Struct, frozen=True, kw_only=True):
    """Exactly one of the two kinds, ready for use."""

    registration_id: str
    "With manual provisioning, where nobody registers, the device id."
    tls: TlsOptions
    "Presents the configured certificate, or none for a symmetric key."
    symmetric_key: bytes | None = None
    "Decoded. Secret."

    def __repr__(self) -> str:
        kind = "x509" if self.symmetric_key is None else "symmetric_key"
        return f"OnboardingCredential({self.registration_id}, {kind})"


def dps_provisioning(configuration: Configuration) -> DpsProvisioning:
    """Raises AdapterError (class operator, code ``not-configured``)."""
    if isinstance(configuration.provisioning, DpsProvisioning):
        return configuration.provisioning
    raise AdapterError("the configuration does not use DPS", code="not-configured", failure_class="operator")


def load_credential(
    configuration: Configuration, distrust: frozenset[str] = frozenset()
) -> OnboardingCredential:
    """Of DPS or manual provisioning. ``distrust`` goes into its TLS options.

    Raises AdapterError and its kinds, class operator: ``not-configured``, ``credential-unreadable``,
    ``credential-unusable``, ``credential-not-issued``, ``registration-id-unknown``.
    """
    provisioning = configuration.provisioning
    name: str | None
    if isinstance(provisioning, ManualProvisioning):
        source, name = provisioning.authentication, provisioning.device_id
    else:
        provisioning = dps_provisioning(configuration)
        source, name = provisioning.attestation, provisioning.registration_id
    tls = TlsOptions(ca_file=configuration.tls.ca_file, distrust=distrust)
    if isinstance(source, SymmetricKeySource):
        if name is None:
            raise _operator("registration_id is needed with a symmetric key", "registration-id-unknown")
        key = source.value if source.path is None else read_file(source.path)
        if not key:
            raise _operator("the configured symmetric key is empty", "credential-unusable")
        return OnboardingCredential(registration_id=name, tls=tls, symmetric_key=key)
    if isinstance(source, IssuedSource):
        raise _operator("the configured certificate is yet to be issued", "credential-not-issued")
    chain_pem = read_file(source.certificate_path)
    try:
        registration_id = name or x509.facts(chain_pem).subject_cn
    except CertificateRejected as exc:
        raise _operator(f"{source.certificate_path}: {exc.message}", "credential-unusable") from exc
    if not registration_id:
        raise _operator(
            f"registration_id is not configured and {source.certificate_path} has no CN",
            "registration-id-unknown",
        )
    tls = structs.replace(tls, client_chain_pem=chain_pem, client_key_path=source.key_path)
    return OnboardingCredential(registration_id=registration_id, tls=tls)


def onboarding_not_after_unix_ms(configuration: Configuration) -> int | None:
    """Expiry of the configured X.509 credential; None for a symmetric key and without DPS.

    Raises AdapterError and its kinds, class operator: ``credential-unreadable``, ``credential-unusable``.
    """
    provisioning = configuration.provisioning
    if not isinstance(provisioning, DpsProvisioning) or isinstance(
        provisioning.attestation, SymmetricKeySource
    ):
        return None
    if isinstance(provisioning.attestation, IssuedSource):
        raise _operator("the configured certificate is yet to be issued", "credential-not-issued")
    path = provisioning.attestation.certificate_path
    try:
        return x509.facts(read_file(path)).not_after_unix_ms
    except CertificateRejected as exc:
        raise _operator(f"{path}: {exc.message}", "credential-unusable") from exc


def read_file(path: str, *, code: str = "credential-unreadable") -> bytes:
    """The whole of a small file; a link is followed. Raises StoreUnavailable (class operator)."""
    try:
        content = files.read_file(path, MAX_FILE_BYTES, follow=True)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a path"
        raise StoreUnavailable(f"cannot read {path}: {reason}", code=code, failure_class="operator") from exc
    return content


def _operator(message: str, code: str) -> AdapterError:
    return AdapterError(message, code=code, failure_class="operator")
