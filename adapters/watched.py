"""Certificates as certd serves them, with an eye on the one the device lives by."""

from collections.abc import Callable
from typing import TypeVar

import trio

from adapters.errors import StoreUnavailable
from adapters.ports import StoredCertificates
from adapters.runtime import Runtime
from statemachine.events import CredentialLost
from statemachine.settings import IDENTITY_CERTIFICATE_ID

READS = 8
"At once: readers on a card that hangs must not use up the threads that the journal and the stores need."

T = TypeVar("T")


class WatchedCertificates:
    """Fills ``ports.CertificateReader``. Somebody who reads a credential that is gone makes it known."""

    def __init__(self, stored: StoredCertificates, runtime: Runtime) -> None:
        self._stored = stored
        self._runtime = runtime
        self._threads = trio.CapacityLimiter(READS)
        self._told: int | None = None

    async def read_certificate(self, certificate_id: str) -> bytes | None:
        try:
            found = await self._off_thread(lambda: self._stored.read_certificate(certificate_id))
        except StoreUnavailable:
            await self._look(certificate_id)
            raise
        if found is None:
            await self._look(certificate_id)
        return found

    async def _look(self, certificate_id: str) -> None:
        generation = self._issued_generation()
        if certificate_id != IDENTITY_CERTIFICATE_ID or generation in (None, self._told):
            return
        inventory = await self._off_thread(self._stored.inventory)
        # Another reader may have told it meanwhile, and another credential may be in use.
        if inventory.current is None and generation == self._issued_generation() != self._told:
            self._told = generation
            reason = inventory.problem or "nothing is stored"
            self._runtime.post(CredentialLost(generation=generation, reason=reason))

    def _issued_generation(self) -> int | None:
        credential = self._runtime.snapshot.credential
        return None if credential is None or credential.source != "issued" else credential.generation

    async def _off_thread(self, work: Callable[[], T]) -> T:
        # Reading leaves nothing half-done behind, so a caller that is gone needs nobody to wait for it.
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
