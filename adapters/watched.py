"""Certificates as certd serves them, with an eye on the one the device lives by."""

from adapters.errors import StoreUnavailable
from adapters.ports import CertificateReader, CredentialStore
from adapters.runtime import Runtime
from statemachine.events import CredentialLost
from statemachine.settings import IDENTITY_CERTIFICATE_ID


class WatchedCertificates:
    """Fills ``ports.CertificateReader``. Somebody who reads a credential that is gone makes it known."""

    def __init__(self, certificates: CertificateReader, store: CredentialStore, runtime: Runtime) -> None:
        self._certificates = certificates
        self._store = store
        self._runtime = runtime
        self._told: int | None = None

    def read_certificate(self, certificate_id: str) -> bytes | None:
        try:
            found = self._certificates.read_certificate(certificate_id)
        except StoreUnavailable:
            self._look(certificate_id)
            raise
        if found is None:
            self._look(certificate_id)
        return found

    def _look(self, certificate_id: str) -> None:
        credential = self._runtime.snapshot.credential
        if certificate_id != IDENTITY_CERTIFICATE_ID or credential is None or credential.source != "issued":
            return
        generation = credential.generation
        if generation == self._told:
            return
        inventory = self._store.inventory()
        if inventory.current is None:
            self._told = generation
            reason = inventory.problem or "nothing is stored"
            self._runtime.post(CredentialLost(generation=generation, reason=reason))
