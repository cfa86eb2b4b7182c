"""certd's certificates, kept and issued on this device. Fills ``ports.CertificateService``.

Issued are those with a rule of their own, self-signed or by the local CA, and those whose issuer the
caller names and whose key it holds a handle of. Who may do what is for the sockets to say.
"""

import logging
import secrets
from collections.abc import Callable
from functools import partial

import trio
from msgspec import Struct

from adapters.driven.certificates.keyd_signer import remote_key, unusable
from adapters.driven.certificates.store import CertificateFiles, ReadStored
from adapters.errors import AdapterError, CertificateRejected, RequestRefused, bounded
from adapters.ports import Clock, Issuer, KeyService
from adapters.wire.imported import check_import
from adapters.wire.issuance import (
    CertificateRequest,
    IssuerChain,
    Terms,
    issue,
    read_issuer,
    read_request,
)
from adapters.wire.remote_csr import new_request
from statemachine.settings import (
    DEVICE_ID,
    DEVICE_TEMPORARY_ID,
    CertificateSettings,
    IssuanceRule,
    LocalCa,
)

DEFAULT_EXPIRY_DAYS = 30
SERIAL_BITS = 128
LOCAL_CA_NAME = "identityd local CA"
"CN of a local CA that is to be issued here and was given no name."
COMPUTING = 4
"""Threads that parse and sign at once. They are of their own: a signing one waits for keys, which may need
threads to come by."""

log = logging.getLogger(__name__)

_NO_RULE = IssuanceRule(method="local_ca", expiry_days=DEFAULT_EXPIRY_DAYS)
"For an id without one whose issuer is given; then the method is nobody's business."


class _Signing(Struct, frozen=True):
    """What signs: a key, and the chain of its certificate; None when the new certificate is its own."""

    handle: str
    chain: IssuerChain | None
    asked_for: bool
    "Whether the caller named it, and so is told what is wrong with it."


class EmbeddedCertificates:
    """Certificates below ``certd_home``; ``settings`` is asked for with each call."""

    def __init__(
        self,
        certd_home: str,
        read_stored: ReadStored,
        settings: Callable[[], CertificateSettings],
        keys: KeyService,
        clock: Clock,
    ) -> None:
        self._files = CertificateFiles(certd_home, read_stored, lambda: settings().preloaded)
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._computing = trio.CapacityLimiter(COMPUTING)
        self._making_ca = trio.Lock()
        "Of two CAs made at once the first would be forgotten, with all that it has signed."

    async def read_certificate(self, certificate_id: str) -> bytes | None:
        return await self._files.read(certificate_id)

    async def import_certificate(self, certificate_id: str, pem: str) -> None:
        content = await trio.to_thread.run_sync(check_import, pem, limiter=self._computing)
        await self._files.write(certificate_id, content)

    async def delete_certificate(self, certificate_id: str) -> None:
        await self._files.delete(certificate_id)

    async def create_certificate(self, certificate_id: str, csr_pem: str, issuer: Issuer | None) -> bytes:
        request = await trio.to_thread.run_sync(read_request, csr_pem, limiter=self._computing)
        self._files.check_writable(certificate_id)
        settings = self._settings()
        rule = settings.rules.get(certificate_id)
        if issuer is not None:
            signing = await self._named(issuer)
        elif rule is None:
            raise _misconfigured(
                certificate_id,
                'has no issuance rule; add it to [cert_issuance] with method = "self_signed" or "local_ca", '
                "or name an issuer in the request",
            )
        elif rule.method == "self_signed":
            signing = _Signing(await self._own_key_pair(certificate_id), None, False)
        else:
            signing = await self._local_ca(certificate_id, settings)
        pem = await self._issue(certificate_id, request, rule or _NO_RULE, signing)
        # No lock was held while the keys were waited for; of two certificates the last to be stored stays.
        await self._files.write(certificate_id, pem)
        return pem

    # --- who signs -----------------------------------------------------------------------------------

    async def _named(self, issuer: Issuer) -> _Signing:
        try:
            chain = await self._chain(issuer.certificate_id)
        except CertificateRejected as exc:
            raise _refused_issuer(f"invalid issuer: {exc.message}") from exc
        if chain is None:
            raise _refused_issuer("not found")
        return _Signing(issuer.key_handle, chain, True)

    async def _local_ca(self, certificate_id: str, settings: CertificateSettings) -> _Signing:
        local_ca = settings.local_ca
        if local_ca is None:
            raise _misconfigured(
                certificate_id, 'is issued by the local CA; set "cert" and "pk" in [cert_issuance.local_ca]'
            )
        name = bounded(local_ca.certificate_id, 100)
        try:
            chain = await self._chain(local_ca.certificate_id)
        except CertificateRejected as exc:
            raise _misconfigured(
                certificate_id, f'is issued by the local CA, whose "{name}" is no certificate: {exc.message}'
            ) from exc
        if chain is None:
            chain = await self._make_local_ca(local_ca, settings.rules.get(local_ca.certificate_id))
        if chain is None:
            raise _misconfigured(certificate_id, f'is issued by the local CA, whose "{name}" does not exist')
        return _Signing(await self._load_key_pair(local_ca.key_id), chain, False)

    async def _make_local_ca(self, local_ca: LocalCa, rule: IssuanceRule | None) -> IssuerChain | None:
        """At its first use, when it is to be issued here; None without a rule that says so."""
        if rule is None or rule.method != "self_signed" or not rule.allow_ca:
            return None
        async with self._making_ca:
            # Another request may have waited for the same.
            made = await self._chain(local_ca.certificate_id)
            if made is not None:
                return made
            try:
                handle = await self._keys.create_key_pair(local_ca.key_id, None)
            except AdapterError as exc:
                raise unusable(exc, f"key pair {bounded(local_ca.key_id, 100)}") from exc
            key = await remote_key(self._keys, handle)
            name = rule.common_name or LOCAL_CA_NAME
            csr_pem = await trio.to_thread.run_sync(partial(new_request, name, key, ca=True))
            request = await trio.to_thread.run_sync(read_request, csr_pem, limiter=self._computing)
            pem = await self._issue(local_ca.certificate_id, request, rule, _Signing(handle, None, False))
            await self._files.write(local_ca.certificate_id, pem)
            log.info("the local CA %s was made", bounded(local_ca.certificate_id, 100))
        return await self._chain(local_ca.certificate_id)

    async def _chain(self, certificate_id: str) -> IssuerChain | None:
        """Raises CertificateRejected and StoreUnavailable."""
        content = await self._files.read(certificate_id)
        if content is None:
            return None
        return await trio.to_thread.run_sync(read_issuer, content, limiter=self._computing)

    async def _own_key_pair(self, certificate_id: str) -> str:
        """Of a certificate that signs itself. Raises StoreUnavailable."""
        if certificate_id == DEVICE_TEMPORARY_ID:
            # The onboarding certificate is being renewed (cloud.md §5): with another key, or the one in use.
            try:
                return await self._keys.load_key_pair(certificate_id)
            except RequestRefused:
                certificate_id = DEVICE_ID
        return await self._load_key_pair(certificate_id)

    async def _load_key_pair(self, key_id: str) -> str:
        """Its handle. Raises StoreUnavailable."""
        try:
            return await self._keys.load_key_pair(key_id)
        except AdapterError as exc:
            raise unusable(exc, f"key pair {bounded(key_id, 100)}") from exc

    # --- signing -------------------------------------------------------------------------------------

    async def _issue(
        self, certificate_id: str, request: CertificateRequest, rule: IssuanceRule, signing: _Signing
    ) -> bytes:
        if request.asks_for_ca and not rule.allow_ca:
            raise RequestRefused(
                "it asks for a CA certificate; certd issues one only with allow_ca = true in "
                f"[cert_issuance.{bounded(certificate_id, 100)}]",
                code="ca-not-allowed",
                parameter="csr",
            )
        key = await remote_key(self._keys, signing.handle)
        terms = Terms(
            serial=1 + secrets.randbelow(2**SERIAL_BITS - 1),
            now_unix_ms=self._clock.now_unix_ms(),
            expiry_days=rule.expiry_days,
            subject=rule.subject if rule.common_name is None else (("CN", rule.common_name),),
            allow_ca=rule.allow_ca,
        )
        try:
            return await trio.to_thread.run_sync(
                issue, request, signing.chain, key, terms, limiter=self._computing
            )
        except CertificateRejected as exc:
            if signing.asked_for and exc.code == "issuer-expired":
                raise _refused_issuer(f"invalid issuer: {exc.message}") from exc
            raise _misconfigured(certificate_id, f"is not issued: {exc.message}") from exc


def _misconfigured(certificate_id: str, why: str) -> RequestRefused:
    """Without a parameter: no request of anybody makes it right."""
    return RequestRefused(f'certificate "{bounded(certificate_id, 100)}" {why}', code="cannot-be-issued")


def _refused_issuer(why: str) -> RequestRefused:
    return RequestRefused(why, code="issuer-invalid", parameter="issuer.certId")
