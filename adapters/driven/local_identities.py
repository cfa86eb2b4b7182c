"""Certificates that are known on this device only, each with a new key (services.md §3.6).

Nothing is kept here: the certificate is filed by certd under the name, the key exists in the answer alone.
"""

import socket
from collections.abc import Callable

import trio

from adapters.errors import CertificateRejected, RequestRefused, StoreUnavailable
from adapters.ports import CertificateService, LocalIdentity
from adapters.wire import local_csr, x509
from statemachine.settings import Configuration, LocalAttributes

KEYS_AT_ONCE = 1
"An RSA key takes a processor for itself; the others of the device belong to everybody else."


class LocalIdentityIssuer:
    """Fills ``ports.LocalIdentities`` with what certd issues."""

    def __init__(self, certificates: CertificateService, settings: Callable[[], Configuration]) -> None:
        self._certificates = certificates
        self._settings = settings
        self._threads = trio.CapacityLimiter(KEYS_AT_ONCE)

    async def issue(self, name: str, attributes: LocalAttributes) -> LocalIdentity:
        """For ``CN=<name>.<hostname>.<domain>``. Raises RequestRefused and StoreUnavailable."""
        common_name = _common_name(name, self._settings())
        key_pem, csr_pem = await trio.to_thread.run_sync(
            _request, common_name, attributes == "server", limiter=self._threads, abandon_on_cancel=True
        )
        pem = await self._certificates.create_certificate(name, csr_pem, None)
        try:
            facts = x509.facts(pem)
            ours = facts.spki_sha256 == x509.spki_sha256_of_key(key_pem)
        except CertificateRejected as exc:
            raise StoreUnavailable(
                f"what was issued for local identity {name} cannot be read: {exc.message}",
                code="certificate-unusable",
            ) from exc
        if not ours:
            raise StoreUnavailable(
                f"what was issued for local identity {name} is for another key", code="certificate-unusable"
            )
        return LocalIdentity(
            private_key_pem=key_pem.decode("ascii"),
            certificate_pem=pem.decode("utf-8", "replace"),
            not_after_unix_ms=facts.not_after_unix_ms,
        )


def _common_name(name: str, settings: Configuration) -> str:
    domain = settings.identities.local_domain
    if domain is None:
        raise RequestRefused(
            'local identities need a domain; set [localid] domain = "…" in the configuration of identityd',
            code="local-domain-missing",
        )
    return f"{name}.{settings.hostname or socket.gethostname()}.{domain}"


def _request(common_name: str, server: bool) -> tuple[bytes, str]:
    try:
        return local_csr.new_request(common_name, server=server)
    except ValueError as exc:
        raise RequestRefused(
            "that name cannot be part of a certificate's subject", code="name-unusable", parameter="moduleId"
        ) from exc
