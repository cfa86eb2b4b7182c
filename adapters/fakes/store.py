"""A credential store in memory: what ``driven.credentials`` promises, without files or threads."""

import hashlib

from msgspec import Struct

from adapters.errors import StoreUnavailable
from adapters.fakes.chains import Leaf, fingerprint, read_leaf
from adapters.fakes.peer import Asked, Peer
from adapters.ports import Clock
from statemachine.effects import CommitCredential, PurgeCredentials, RetireCredential, StageKey
from statemachine.events import (
    CredentialCommitFailed,
    CredentialCommitted,
    CredentialRetired,
    CredentialRetireFailed,
    CredentialsPurged,
    CredentialsPurgeFailed,
    Inventory,
    KeyStaged,
    KeyStageFailed,
    StoredCredential,
)


class Generation(Struct):
    """One key, and what was committed with it."""

    spki_sha256: str
    "Stands for the key."
    chain_pem: bytes | None = None


class Flip(Struct, frozen=True):
    """The pointer moved."""

    at_unix_ms: int
    current: StoredCredential | None
    "None: it was lost."


class MemoryStore(Peer):
    """Fills ``ports.CredentialStore``. Outlives a runtime, as a disk does.

    ``clock`` only stamps ``flips``: give it the true one.
    """

    def __init__(self, clock: Clock, *, latency_s: float = 0.0, asked: list[Asked] | None = None) -> None:
        super().__init__(latency_s=latency_s, timeout_s=latency_s, asked=asked)
        self._clock = clock
        self.generations: dict[int, Generation] = {}
        self.current: StoredCredential | None = None
        self.flips: list[Flip] = []

    async def stage(self, effect_id: str, effect: StageKey) -> KeyStaged | KeyStageFailed:
        return await self._answer(effect_id, effect, self._stage)

    async def commit(
        self, effect_id: str, effect: CommitCredential
    ) -> CredentialCommitted | CredentialCommitFailed:
        return await self._answer(effect_id, effect, self._commit)

    async def retire(
        self, effect_id: str, effect: RetireCredential
    ) -> CredentialRetired | CredentialRetireFailed:
        return await self._answer(effect_id, effect, self._retire)

    async def purge(
        self, effect_id: str, effect: PurgeCredentials
    ) -> CredentialsPurged | CredentialsPurgeFailed:
        return await self._answer(effect_id, effect, self._purge)

    def inventory(self) -> Inventory:
        return Inventory(current=self.current, newest_generation=max(self.generations, default=0))

    def lose(self) -> None:
        """Everything is deleted."""
        self.generations.clear()
        self._flip(None)

    def csr_der(self, generation: int) -> bytes:
        return self._generation(generation).spki_sha256.encode()

    def chain_pem(self, generation: int) -> bytes:
        chain_pem = self._generation(generation).chain_pem
        if chain_pem is None:
            raise StoreUnavailable(f"generation {generation} has no chain", code="chain-missing")
        return chain_pem

    def key_path(self, generation: int) -> str:
        return f"/nowhere/{generation}/key.pem"

    def _generation(self, generation: int) -> Generation:
        if generation not in self.generations:
            raise StoreUnavailable(f"no generation {generation}", code="key-missing", failure_class="new_key")
        return self.generations[generation]

    def _stage(self, effect_id: str, effect: StageKey) -> KeyStaged | KeyStageFailed:
        number, reused = effect.generation, effect.reuse_generation
        if number not in self.generations:
            if reused is not None and reused not in self.generations:
                return KeyStageFailed(answers=effect_id, failure_class="new_key", code="key-missing")
            spki = _spki(number) if reused is None else self.generations[reused].spki_sha256
            self.generations[number] = Generation(spki_sha256=spki)
        spki = self.generations[number].spki_sha256
        return KeyStaged(answers=effect_id, generation=number, spki_sha256=spki)

    def _commit(
        self, effect_id: str, effect: CommitCredential
    ) -> CredentialCommitted | CredentialCommitFailed:
        leaf = None if effect.chain_pem is None else read_leaf(effect.chain_pem)
        if leaf is not None:
            staged = self.generations.get(effect.generation)
            if staged is None or staged.spki_sha256 != leaf.spki_sha256:
                code = "key-missing" if staged is None else "key-mismatch"
                return CredentialCommitFailed(answers=effect_id, failure_class="new_key", code=code)
            staged.chain_pem = effect.chain_pem
        current = self._credential(effect, leaf)
        if current != self.current:
            self._flip(current)
        return CredentialCommitted(answers=effect_id, generation=effect.generation)

    def _credential(self, effect: CommitCredential, leaf: Leaf | None) -> StoredCredential:
        bundle_sha256 = "" if effect.bundle_pem is None else hashlib.sha256(effect.bundle_pem).hexdigest()
        certificates = 0 if effect.bundle_pem is None else effect.bundle_pem.count(b"-----BEGIN")
        if effect.keep_bundle and self.current is not None:
            bundle_sha256, certificates = self.current.bundle_sha256, self.current.bundle_certificates
        facts = {} if leaf is None else {name: getattr(leaf, name) for name in _LEAF_FACTS}
        return StoredCredential(
            generation=effect.generation,
            source="configured" if leaf is None else "issued",
            hub=effect.hub,
            device_id=effect.device_id,
            fingerprint=effect.fingerprint,
            substatus=effect.substatus,
            certificate_type=effect.certificate_type,
            sha256="" if leaf is None else fingerprint(leaf),
            bundle_id=effect.bundle_id if certificates else None,
            bundle_certificates=certificates,
            bundle_sha256=bundle_sha256,
            **facts,
        )

    def _retire(self, effect_id: str, effect: RetireCredential) -> CredentialRetired | CredentialRetireFailed:
        current = () if self.current is None else (self.current.generation,)
        for number in self.generations.keys() - {*effect.keep, *current}:
            if effect.newest is None or number <= effect.newest:
                del self.generations[number]
        return CredentialRetired(answers=effect_id)

    def _purge(self, effect_id: str, effect: PurgeCredentials) -> CredentialsPurged | CredentialsPurgeFailed:
        self.lose()
        return CredentialsPurged(answers=effect_id)

    def _flip(self, current: StoredCredential | None) -> None:
        self.current = current
        self.flips.append(Flip(self._clock.now_unix_ms(), current))


_LEAF_FACTS = ("serial", "spki_sha256", "not_before_unix_ms", "not_after_unix_ms")


def _spki(generation: int) -> str:
    return hashlib.sha256(b"key %d" % generation).hexdigest()
