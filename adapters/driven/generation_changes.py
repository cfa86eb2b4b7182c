"""Everything that changes a generation or the pointer, synchronous and safe to run again.

In the order in which it matters:

- The pointer is flipped last, by one rename, after everything behind it was synced.
- A generation is never published without its key: commit compares leaf and key before the flip.
- Every step finds what an earlier run of the same effect left, and syncs it again before it returns.
- Nothing that is current is removed; what is superseded goes only when ``retire`` is told so.
- A purge takes the pointer away first, by the rename that also says that the rest is to go.

All raise OSError from the file system, AdapterError for what cannot be done, and CertificateRejected
for a key or certificate that cannot be read.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec

from adapters.driven.files import Misshapen, make_durable_directory, remove_tree
from adapters.driven.generations import (
    ASSIGNMENT,
    BUNDLE,
    CHAIN,
    CSR,
    GONE,
    KEY,
    NAME_MAX_BYTES,
    NEW,
    Assignment,
    Layout,
    certificate_file_name,
)
from adapters.driven.published import PublishedNames
from adapters.durable import sync_directory, write_synced
from adapters.errors import AdapterError, CertificateRejected
from adapters.wire import x509
from statemachine.effects import CommitCredential, RetireCredential, StageKey
from statemachine.settings import IDENTITY_CERTIFICATE_ID


class GenerationChanges:
    """One caller at a time."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.names = PublishedNames(layout)

    # --- stage ---------------------------------------------------------------------------------------

    def stage(self, effect: StageKey) -> str:
        """Hex SHA-256 of the staged key's SubjectPublicKeyInfo."""
        generation, directory = effect.generation, self.layout.directory(effect.generation)
        make_durable_directory(self.layout.root)
        key = self._usable_key(generation)
        if key is None:
            if self.layout.pointer().generation == generation:
                raise _refused("generation-in-use", f"{directory} is current and has no key to stage")
            key = self._new_key(effect)
            self._place(generation, {KEY: key, CSR: _request(key, effect.common_name)})
        elif self.layout.read(generation, CSR) is None:
            self._put(generation, CSR, _request(key, effect.common_name))
        # Also when all was there: an earlier run may have ended before it was on disk.
        sync_directory(directory)
        sync_directory(self.layout.root)
        return x509.spki_sha256_of_key(key)

    def take_key(self, generation: int, key: bytes) -> None:
        """Of an installation that is taken over: as ``stage``, with a key that is there already."""
        spki = x509.spki_sha256_of_key(key)
        make_durable_directory(self.layout.root)
        found = self._usable_key(generation)
        if found is None or x509.spki_sha256_of_key(found) != spki:
            if self.layout.pointer().generation == generation:
                raise _refused("generation-in-use", f"{self.layout.directory(generation)} is current")
            self._place(generation, {KEY: key})
        sync_directory(self.layout.root)

    def _usable_key(self, generation: int) -> bytes | None:
        try:
            key = self.layout.read(generation, KEY)
            if key is not None:
                x509.spki_sha256_of_key(key)
        except (Misshapen, CertificateRejected):
            return None
        return key

    def _new_key(self, effect: StageKey) -> bytes:
        if effect.reuse_generation is not None:
            key = self._usable_key(effect.reuse_generation)
            if key is None:
                path = self.layout.file(effect.reuse_generation, KEY)
                raise _refused("key-missing", f"{path} is missing or unusable", "new_key")
            return key
        try:
            return x509.new_key(effect.algorithm)
        except ValueError as exc:
            raise _refused("algorithm-unknown", f"{exc}; see [identityd.keys] algorithm") from exc

    def _place(self, generation: int, files: dict[str, bytes]) -> None:
        """A whole generation directory in one step. Replaces only what is worth nothing."""
        directory = self.layout.directory(generation)
        self._clear(directory + NEW)
        try:
            os.mkdir(directory + NEW, 0o700)
            for name, content in files.items():
                write_synced(os.path.join(directory + NEW, name), content)
            sync_directory(directory + NEW)
            self._clear(directory)
            os.rename(directory + NEW, directory)
        except OSError:
            with contextlib.suppress(OSError):
                remove_tree(directory + NEW)
            raise

    def _clear(self, path: str) -> None:
        if os.path.lexists(path):
            self.throw_away(path)

    def throw_away(self, path: str) -> None:
        """Delete, renamed first: half-deleted it must not be taken for whole."""
        gone = path.removesuffix(NEW) + GONE
        remove_tree(gone)
        os.rename(path, gone)
        remove_tree(gone)

    # --- commit --------------------------------------------------------------------------------------

    def commit(self, effect: CommitCredential, *, publish: bool = True) -> None:
        """Make it so; when it raises, what was current still is.

        ``publish`` False leaves the original's names as they are: they lead here from the next start on.
        """
        generation, chain = effect.generation, effect.chain_pem
        _check_bundle_id(effect.bundle_id)
        if chain is not None:
            self._check_pair(generation, chain)
        current = self.layout.pointer().generation
        bundle = effect.bundle_pem
        if effect.keep_bundle and current is not None:
            bundle = self._kept_bundle(current)
        self._prepare(effect, bundle)
        if chain is None:
            # The key goes before the flip: its published name must not outlive its certificate.
            self.unpublish(generation)
        if publish:
            self.names.show(effect.bundle_id)
        sync_directory(self.layout.root)
        if current != generation:
            self.flip(generation)
        if not publish:
            return
        # The commit has happened. What remains to be tidied is done at the next start if it fails here.
        with contextlib.suppress(OSError):
            self.names.show(effect.bundle_id, over_files=True)
            self.names.drop_old_bundles(effect.bundle_id)

    def _check_pair(self, generation: int, chain: bytes) -> None:
        key = self._usable_key(generation)
        if key is None:
            path = self.layout.file(generation, KEY)
            raise _refused("key-missing", f"{path} is missing or unusable", "new_key")
        if x509.facts(chain).spki_sha256 != x509.spki_sha256_of_key(key):
            directory = self.layout.directory(generation)
            raise _refused("key-mismatch", f"the certificate is not for the key in {directory}", "new_key")

    def _kept_bundle(self, current: int) -> bytes | None:
        """An unreadable bundle is lost anyway; it must not take a credential with it."""
        try:
            return self.layout.read(current, BUNDLE)
        except OSError:
            return None

    def _prepare(self, effect: CommitCredential, bundle: bytes | None) -> None:
        """Complete the generation. Where it is current already, each file is replaced in one step, and
        a certificate only by one for the same key, so that the pair matches throughout."""
        generation, chain = effect.generation, effect.chain_pem
        directory = self.layout.directory(generation)
        make_durable_directory(directory)
        if chain is not None:
            self._put(generation, CHAIN, chain)
        if bundle is None:
            remove_tree(os.path.join(directory, BUNDLE))
        else:
            self._put(generation, BUNDLE, bundle)
        sync_directory(directory)
        assignment = Assignment(
            source="configured" if chain is None else "issued",
            hub=effect.hub,
            device_id=effect.device_id,
            fingerprint=effect.fingerprint,
            substatus=effect.substatus,
            certificate_type=effect.certificate_type,
            bundle_id=effect.bundle_id,
            bundle_certificates=(bundle or b"").count(b"-----BEGIN CERTIFICATE-----"),
            bundle_sha256="" if bundle is None else hashlib.sha256(bundle).hexdigest(),
        )
        self._put(generation, ASSIGNMENT, msgspec.json.encode(assignment))
        sync_directory(directory)

    def _put(self, generation: int, name: str, content: bytes) -> None:
        """Replace one file; a repeat writes nothing. The caller syncs the directory."""
        path = self.layout.file(generation, name)
        with contextlib.suppress(Misshapen):
            if self.layout.read(generation, name) == content:
                return
        try:
            write_synced(path + NEW, content)
            if os.path.isdir(path) and not os.path.islink(path):
                remove_tree(path)
            os.rename(path + NEW, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path + NEW)
            raise

    def unpublish(self, generation: int) -> None:
        """Of a certificate-less assignment: no certificate, no key."""
        directory = self.layout.directory(generation)
        paths = [os.path.join(directory, name) for name in (CHAIN, KEY, CSR)]
        present = [path for path in paths if os.path.lexists(path)]
        for path in present:
            remove_tree(path)
        if present:
            sync_directory(directory)

    def flip(self, generation: int) -> None:
        """The one rename. When it cannot be made durable it is taken back, and OSError raised."""
        path = self.layout.pointer_path
        before = self.layout.pointer()
        if os.path.lexists(path) and not os.path.islink(path):
            # A copy that follows links leaves a directory here; the numbered original lies beside it.
            self.throw_away(path)
        self._aim(generation)
        try:
            sync_directory(self.layout.root)
        except OSError:
            with contextlib.suppress(OSError):
                if before.generation is not None:
                    self._aim(before.generation)
                elif before.problem is None:
                    os.unlink(path)
            raise

    def _aim(self, generation: int) -> None:
        temporary = self.layout.pointer_path + NEW
        remove_tree(temporary)
        try:
            os.symlink(str(generation), temporary)
            os.rename(temporary, self.layout.pointer_path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    # --- retire --------------------------------------------------------------------------------------

    def retire(self, effect: RetireCredential) -> None:
        """Remove all that is neither kept, current, nor younger than what was asked of.

        Goes on past what cannot be removed, then raises.
        """
        pointer = self.layout.pointer()
        if pointer.problem is not None:
            # Nobody knows what is current, so anything may be it.
            raise _refused("pointer-damaged", f"{pointer.problem}; restart the service to repair it")
        kept = {str(generation) for generation in (*effect.keep, pointer.generation)}
        superseded = [
            str(number)
            for number in self.layout.generations()
            if str(number) not in kept and (effect.newest is None or number <= effect.newest)
        ]
        failure: OSError | None = None
        for name in [*self.layout.leftovers(), *superseded]:
            path = os.path.join(self.layout.root, name)
            try:
                if name in superseded:
                    self.throw_away(path)
                else:
                    remove_tree(path)
            except OSError as exc:
                failure = failure or exc
        if failure is not None:
            raise failure
        if os.path.isdir(self.layout.root):
            sync_directory(self.layout.root)

    # --- purge ---------------------------------------------------------------------------------------

    def purge(self) -> None:
        """No generation is left, no key, and none of the published names.

        Goes on past what cannot be removed, then raises; whoever opens the store next finishes it.
        """
        layout = self.layout
        self._give_up()
        failure: OSError | None = None
        erasing: tuple[Callable[[], None], ...] = (
            *(partial(self.throw_away, layout.directory(number)) for number in layout.generations()),
            *(partial(remove_tree, os.path.join(layout.root, name)) for name in layout.leftovers()),
            self.names.hide,
        )
        for work in erasing:
            try:
                work()
            except OSError as exc:
                failure = failure or exc
        if failure is not None:
            raise failure
        if os.path.isdir(layout.root):
            sync_directory(layout.root)
            remove_tree(layout.purging_path)
            sync_directory(layout.root)

    def _give_up(self) -> None:
        """One rename, which needs no space: nothing is current, and what is complete is not adopted again."""
        layout = self.layout
        if not layout.being_purged() and os.path.lexists(layout.pointer_path):
            os.rename(layout.pointer_path, layout.purging_path)
        elif not layout.being_purged() and layout.generations():
            os.symlink("nowhere", layout.purging_path)
        else:
            remove_tree(layout.pointer_path)
        if os.path.isdir(layout.root):
            sync_directory(layout.root)


def _request(key: bytes, common_name: str) -> bytes:
    try:
        return x509.make_csr(key, common_name)
    except ValueError as exc:
        raise _refused("common-name-invalid", f"no CSR for CN={common_name}: {exc}") from exc


def _check_bundle_id(bundle_id: str) -> None:
    try:
        fits = len(certificate_file_name(bundle_id)) <= NAME_MAX_BYTES
    except UnicodeEncodeError:
        fits = False
    if not fits or bundle_id == IDENTITY_CERTIFICATE_ID:
        shown = bundle_id[:80].encode(errors="replace").decode()
        raise _refused(
            "bundle-id-unusable", f"the trust bundle cannot be named {shown!r}; set dps_trust_bundle"
        )


def _refused(
    code: str, message: str, failure_class: Literal["operator", "new_key"] = "operator"
) -> AdapterError:
    return AdapterError(message, code=code, failure_class=failure_class)
