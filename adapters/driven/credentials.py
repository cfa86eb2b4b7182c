"""The store of issued credentials. Fills ``ports.CredentialStore``.

The layout is in generations.py, what changes it in generation_changes.py, opening in
generation_repair.py. Here those meet the ports: worker threads, answers, the spare space, reading.

File work runs in a worker thread that is never abandoned, so a cancelled caller leaves no half-done
step without an owner. Steps are done one after the other, in the order in which they were asked for;
reading waits for none.
"""

import errno
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from adapters.driven.files import FULL, read_file, unavailable
from adapters.driven.generation_changes import GenerationChanges
from adapters.driven.generation_repair import repair
from adapters.driven.generations import (
    BUNDLE,
    CHAIN,
    CSR,
    KEY,
    LIMITS,
    NAME_MAX_BYTES,
    Damaged,
    Layout,
    Pointer,
    certificate_file_name,
)
from adapters.driven.spare import SpareSpace
from adapters.errors import AdapterError, CertificateRejected, StoreUnavailable, bounded
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
)
from statemachine.settings import IDENTITY_CERTIFICATE_ID

MAX_CERTIFICATE_FILE_BYTES = LIMITS[BUNDLE]
FLIP_READS = 3
"How often a read starts over when the pointer moves under it."

T = TypeVar("T")


async def _nothing_more() -> None:
    """What is erased with the store where it is all there is."""


class GenerationStore:
    """Certificate, key, bundle and assignment together, as generations with one current.

    ``open`` is called once before use; ``inventory`` does it when nobody has. ``purge_more`` erases what else
    identifies the device; it raises AdapterError.
    """

    def __init__(
        self,
        state_dir: str,
        certd_home: str,
        keyd_home: str,
        *,
        purge_more: Callable[[], Awaitable[None]] = _nothing_more,
    ) -> None:
        self.layout = Layout(state_dir, certd_home, keyd_home)
        self.repairs: tuple[str, ...] = ()
        "What opening had to work around, one sentence each, for the status."
        self._changes = GenerationChanges(self.layout)
        self._spare = SpareSpace(os.path.join(self.layout.root, "spare"))
        self._purge_more = purge_more
        self._turn = trio.CapacityLimiter(1)
        self._lock = threading.Lock()
        "Against an opening beside them."
        self._opened = False
        self._given_up = False
        "The device is being erased: what is still here is not handed out."

    # --- reading -------------------------------------------------------------------------------------

    def open(self, *, given_up: bool = False) -> None:
        """Tidy up after a crash and repair the pointer. Never raises: ``repairs`` says what was wrong.

        ``given_up``: a purge was asked for and not finished, so nothing is shown until ``purge`` has run.
        """
        with self._lock:
            self.repairs = repair(self._changes, given_up=given_up)
            self._given_up = given_up or self.layout.being_purged()
            self._spare.make()
            self._opened = True

    def _pointer(self) -> Pointer:
        return Pointer() if self._given_up else self.layout.pointer()

    def inventory(self) -> Inventory:
        if not self._opened:
            self.open()
        pointer, newest = self._pointer(), self.layout.newest()
        problem = pointer.problem
        for _ in range(FLIP_READS):
            if pointer.generation is None:
                break
            try:
                return Inventory(current=self.layout.check(pointer.generation), newest_generation=newest)
            except Damaged as exc:
                problem = str(exc)
            before, pointer = pointer, self._pointer()
            if pointer == before:
                break
        return Inventory(problem=None if problem is None else bounded(problem), newest_generation=newest)

    def key_path(self, generation: int) -> str:
        return self.layout.file(generation, KEY)

    def chain_pem(self, generation: int) -> bytes:
        path = self.layout.file(generation, CHAIN)
        try:
            content = self.layout.read(generation, CHAIN)
        except OSError as exc:
            raise unavailable(exc, path) from exc
        if content is None:
            raise StoreUnavailable(f"{path} is missing", code="chain-missing")
        return content

    def csr_der(self, generation: int) -> bytes:
        path = self.layout.file(generation, CSR)
        try:
            content = self.layout.read(generation, CSR)
        except OSError as exc:
            raise unavailable(exc, path) from exc
        if content is None:
            raise StoreUnavailable(f"{path} is missing", code="key-missing", failure_class="new_key")
        return content

    def current_key_generation(self) -> int | None:
        """The generation that is current, None when it has no key: nothing was issued. Blocks.

        Raises StoreUnavailable (code ``pointer-damaged``).
        """
        seen = self._pointer()
        for _ in range(FLIP_READS):
            if seen.generation is None:
                break
            if self.key_pem(seen.generation) is not None:
                return seen.generation
            before, seen = seen, self._pointer()
            if seen == before:
                return None
        if seen.problem is not None:
            raise StoreUnavailable(seen.problem, code="pointer-damaged", failure_class="operator")
        return None

    def key_pem(self, generation: int) -> bytes | None:
        """The key of a generation, None once it is deleted. Blocks. Raises StoreUnavailable."""
        if self._given_up:
            return None
        path = self.key_path(generation)
        try:
            return self.layout.read(generation, KEY)
        except OSError as exc:
            raise unavailable(exc, path) from exc

    def read_certificate(self, certificate_id: str) -> bytes | None:
        """Of any id filed below certd's home; the content is handed out as it is."""
        if self._given_up and certificate_id == IDENTITY_CERTIFICATE_ID:
            return None
        try:
            name = certificate_file_name(certificate_id)
        except UnicodeEncodeError:
            return None
        if len(name) > NAME_MAX_BYTES:
            return None
        path = os.path.join(self.layout.certs, name)
        try:
            return read_file(path, MAX_CERTIFICATE_FILE_BYTES)
        except OSError as exc:
            if exc.errno != errno.ELOOP:
                raise unavailable(exc, path) from exc
        return self._read_through_link(path)

    def _read_through_link(self, path: str) -> bytes | None:
        try:
            target = os.readlink(path)
            for name in (CHAIN, BUNDLE):
                if target == self.layout.target(self.layout.certs, name):
                    return self._read_current(name)
        except OSError as exc:
            raise unavailable(exc, path) from exc
        raise StoreUnavailable(
            f"{path} is a link to somewhere else; move it away",
            code="foreign-link",
            failure_class="operator",
        )

    def _read_current(self, name: str) -> bytes | None:
        """Of the current generation, also while it is being flipped and retired."""
        seen = self._pointer()
        for _ in range(FLIP_READS):
            if seen.generation is None:
                break
            content = self.layout.read(seen.generation, name)
            before, seen = seen, self._pointer()
            if content is not None or seen == before:
                return content
        if seen.problem is not None:
            raise StoreUnavailable(seen.problem, code="pointer-damaged", failure_class="operator")
        return None

    # --- answering effects ---------------------------------------------------------------------------

    async def stage(self, effect_id: str, effect: StageKey) -> KeyStaged | KeyStageFailed:
        try:
            spki = await self._perform(lambda: self._changes.stage(effect))
        except AdapterError as exc:
            return KeyStageFailed(
                answers=effect_id, failure_class=exc.failure_class, code=exc.code, message=exc.message
            )
        return KeyStaged(answers=effect_id, generation=effect.generation, spki_sha256=spki)

    async def commit(
        self, effect_id: str, effect: CommitCredential
    ) -> CredentialCommitted | CredentialCommitFailed:
        try:
            await self._perform(lambda: self._changes.commit(effect))
        except AdapterError as exc:
            return CredentialCommitFailed(
                answers=effect_id, failure_class=exc.failure_class, code=exc.code, message=exc.message
            )
        return CredentialCommitted(answers=effect_id, generation=effect.generation)

    async def retire(
        self, effect_id: str, effect: RetireCredential
    ) -> CredentialRetired | CredentialRetireFailed:
        try:
            await self._perform(lambda: self._changes.retire(effect))
        except AdapterError as exc:
            return CredentialRetireFailed(
                answers=effect_id, failure_class=exc.failure_class, code=exc.code, message=exc.message
            )
        return CredentialRetired(answers=effect_id)

    async def purge(
        self, effect_id: str, effect: PurgeCredentials
    ) -> CredentialsPurged | CredentialsPurgeFailed:
        self._given_up = True
        try:
            await self._perform(self._changes.purge)
            await self._purge_more()
        except AdapterError as exc:
            return CredentialsPurgeFailed(
                answers=effect_id, failure_class=exc.failure_class, code=exc.code, message=exc.message
            )
        self._given_up = False
        return CredentialsPurged(answers=effect_id)

    async def _perform(self, work: Callable[[], T]) -> T:
        """Raises AdapterError. Who came first is served first."""
        return await trio.to_thread.run_sync(self._rescued, work, abandon_on_cancel=False, limiter=self._turn)

    def _rescued(self, work: Callable[[], T]) -> T:
        """``work``, and once more on the spare space when the disk is full."""
        with self._lock:
            try:
                try:
                    return work()
                except OSError as exc:
                    if exc.errno not in FULL or not self._spare.give_up():
                        raise
                    return work()
            except OSError as exc:
                raise unavailable(exc, self.layout.root) from exc
            except CertificateRejected as exc:
                # Key or certificate is unreadable: asking for the same again will not help.
                raise AdapterError(exc.message, code=exc.code, failure_class="new_key") from exc
            finally:
                self._spare.make()
