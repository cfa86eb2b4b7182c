"""Certificates as certd serves them, with an eye on the one the device lives by."""

from collections.abc import Callable

import trio

from adapters.errors import StoreUnavailable
from adapters.ports import CertificateService, Issuer
from adapters.runtime import Runtime
from statemachine.events import CredentialLost, Inventory
from statemachine.settings import IDENTITY_CERTIFICATE_ID

LOOKS = 2
"At once: a card that hangs must not use up the threads that the journal and the stores need."


class WatchedCertificates:
    """Fills ``ports.CertificateService``. Somebody who reads a credential that is gone makes it known.

    ``inventory`` is that of ``ports.CredentialStore``; it blocks, and is called in threads.
    """

    def __init__(
        self, certificates: CertificateService, inventory: Callable[[], Inventory], runtime: Runtime
    ) -> None:
        self._certificates = certificates
        self._inventory = inventory
        self._runtime = runtime
        self._threads = trio.CapacityLimiter(LOOKS)
        self._told: int | None = None

    async def read_certificate(self, certificate_id: str) -> bytes | None:
        try:
            found = await self._certificates.read_certificate(certificate_id)
        except StoreUnavailable:
            await self._look(certificate_id)
            raise
        if found is None:
            await self._look(certificate_id)
        return found

    async def create_certificate(self, certificate_id: str, csr_pem: str, issuer: Issuer | None) -> bytes:
        return await self._certificates.create_certificate(certificate_id, csr_pem, issuer)

    async def import_certificate(self, certificate_id: str, pem: str) -> None:
        await self._certificates.import_certificate(certificate_id, pem)

    async def delete_certificate(self, certificate_id: str) -> None:
        await self._certificates.delete_certificate(certificate_id)

    async def _look(self, certificate_id: str) -> None:
        generation = self._issued_generation()
        if certificate_id != IDENTITY_CERTIFICATE_ID or generation in (None, self._told):
            return
        # Looking leaves nothing half-done behind, so a caller that is gone needs nobody to wait for it.
        inventory = await trio.to_thread.run_sync(
            self._inventory, abandon_on_cancel=True, limiter=self._threads
        )
        # Another reader may have told it meanwhile, and another credential may be in use.
        if inventory.current is None and generation == self._issued_generation() != self._told:
            self._told = generation
            reason = inventory.problem or "nothing is stored"
            self._runtime.post(CredentialLost(generation=generation, reason=reason))

    def _issued_generation(self) -> int | None:
        credential = self._runtime.snapshot.credential
        return None if credential is None or credential.source != "issued" else credential.generation
