"""How credentials lie on disk: a directory for each generation, one pointer, and the original's names.

::

    identityd/credentials/
        current -> 7          the pointer: a symbolic link, replaced by one rename
        7/                    key.pem  csr.der  chain.pem  bundle.pem  assignment.json
        purging -> 7          the pointer once the device is given up; until all the rest is erased
        8.new/                being written; worth nothing after a crash
        5.gone/               being removed
        spare/                space and names held back for a full disk (spare.py)
    certd/certs/aziotdpsidentitycert-….cer    -> ../../identityd/credentials/current/chain.pem
    certd/certs/aziotdpstrustbundle-….cer     -> ../../identityd/credentials/current/bundle.pem
    keyd/keys/aziotdpsidentitycertkey-….key   -> ../../../identityd/credentials/current/key.pem

Every published name leads through the pointer, so its one rename switches all of them. Within a
generation ``assignment.json`` is written last: with it, the generation is complete.
"""

import errno
import hashlib
import os
import re
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.driven.files import read_file
from adapters.errors import CertificateRejected
from adapters.wire import x509
from statemachine.events import StoredCredential
from statemachine.settings import IDENTITY_CERTIFICATE_ID, IDENTITY_KEY_ID

KEY, CSR, CHAIN, BUNDLE, ASSIGNMENT = "key.pem", "csr.der", "chain.pem", "bundle.pem", "assignment.json"
LIMITS = {
    KEY: 64 * 1024,
    CSR: 64 * 1024,
    CHAIN: x509.MAX_CHAIN_BYTES,
    BUNDLE: 2 * x509.MAX_BUNDLE_BYTES,  # twice what is accepted: it is stored re-encoded
    ASSIGNMENT: 64 * 1024,
}
"Larger files are not ours, and are not read."
NEW, GONE = ".new", ".gone"
POINTER, PURGING = "current", "purging"
NAME_MAX_BYTES = 255

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


class Assignment(Struct, frozen=True, kw_only=True):
    """``assignment.json``. Unknown members are ignored, so that an older release can read a newer file."""

    source: Literal["issued", "configured"]
    hub: str
    device_id: str
    fingerprint: str
    substatus: str | None = None
    certificate_type: str | None = None
    bundle_id: str | None = None
    bundle_certificates: int = 0
    bundle_sha256: str = ""


class Damaged(Exception):
    """A generation cannot be used; the text says why."""


class Pointer(Struct, frozen=True):
    """Where ``current`` leads: a generation, nowhere (both None), or it is damaged."""

    generation: int | None = None
    problem: str | None = None


# --- names -------------------------------------------------------------------------------------------


def certificate_file_name(certificate_id: str) -> str:
    """The original's name of a certificate file. Raises UnicodeEncodeError for a lone surrogate."""
    return f"{_original_name(certificate_id)}.cer"


def key_file_name(key_id: str) -> str:
    """The original's name of a key file. Raises UnicodeEncodeError for a lone surrogate."""
    return f"{_original_name(key_id)}.key"


def _original_name(name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{''.join(c for c in name if c.isascii() and c.isalnum())}-{digest}"


class Layout:
    """Paths, and what is on disk right now. Changes nothing."""

    def __init__(self, state_dir: str, certd_home: str, keyd_home: str) -> None:
        self.root = os.path.join(state_dir, "credentials")
        self.pointer_path = os.path.join(self.root, POINTER)
        self.purging_path = os.path.join(self.root, PURGING)
        self.certs = os.path.join(certd_home, "certs")
        self.keys = os.path.join(keyd_home, "keys")
        self.certificate_link = os.path.join(self.certs, certificate_file_name(IDENTITY_CERTIFICATE_ID))
        self.key_link = os.path.join(self.keys, key_file_name(IDENTITY_KEY_ID))

    def directory(self, generation: int) -> str:
        return os.path.join(self.root, str(generation))

    def file(self, generation: int, name: str) -> str:
        return os.path.join(self.root, str(generation), name)

    def target(self, directory: str, name: str) -> str:
        """What a published link in ``directory`` says: relative, so that a whole root can be moved."""
        # realpath: a relative link is followed from where the directory really is.
        root = os.path.relpath(os.path.realpath(self.root), os.path.realpath(directory))
        return os.path.join(root, POINTER, name)

    def pointer(self) -> Pointer:
        """Never raises."""
        try:
            target = os.readlink(self.pointer_path)
        except FileNotFoundError:
            return Pointer()
        except OSError as exc:
            # EINVAL: it is no link, which is what a copy that follows links leaves behind.
            reason = "is not a link" if exc.errno == errno.EINVAL else f"cannot be read: {exc.strerror}"
            return Pointer(problem=f"{self.pointer_path} {reason}")
        if not _NUMBER.fullmatch(target):
            return Pointer(problem=f"{self.pointer_path} does not lead to a generation")
        return Pointer(generation=int(target))

    def being_purged(self) -> bool:
        """Whatever is still here is of no worth."""
        return os.path.lexists(self.purging_path)

    def entries(self) -> list[str]:
        """Names in the credentials directory; empty when it cannot be listed."""
        try:
            return sorted(os.listdir(self.root))
        except OSError:
            return []

    def generations(self) -> list[int]:
        """Finished generation directories, newest first."""
        return sorted((int(name) for name in self.entries() if _NUMBER.fullmatch(name)), reverse=True)

    def leftovers(self) -> list[str]:
        """Names of what a crash left half-written or half-removed."""
        return [name for name in self.entries() if name.endswith((NEW, GONE))]

    def newest(self) -> int:
        """The highest number that was ever given out, as far as the disk knows."""
        bases = (name.removesuffix(NEW).removesuffix(GONE) for name in self.entries())
        numbers = [int(base) for base in bases if _NUMBER.fullmatch(base)]
        return max([*numbers, self.pointer().generation or 0])

    # --- reading back --------------------------------------------------------------------------------

    def read(self, generation: int, name: str) -> bytes | None:
        """One file of a generation, None when absent. Raises OSError."""
        return read_file(self.file(generation, name), LIMITS[name])

    def assignment(self, generation: int) -> Assignment:
        """Raises Damaged."""
        path = self.file(generation, ASSIGNMENT)
        try:
            return msgspec.json.decode(self._present(generation, ASSIGNMENT), type=Assignment)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise Damaged(f"{path} is damaged: {exc}") from exc

    def check(self, generation: int) -> StoredCredential:
        """The whole generation, read and compared. Raises Damaged.

        The bundle is reported as found: a damaged one has no certificates, and fails nothing.
        """
        assignment = self.assignment(generation)
        leaf = None
        if assignment.source == "issued":
            leaf = self._leaf(generation)
        bundle = self._bundle(generation)
        return StoredCredential(
            generation=generation,
            source=assignment.source,
            hub=assignment.hub,
            device_id=assignment.device_id,
            fingerprint=assignment.fingerprint,
            substatus=assignment.substatus,
            certificate_type=assignment.certificate_type,
            sha256="" if leaf is None else leaf.sha256,
            serial="" if leaf is None else leaf.serial_hex,
            spki_sha256="" if leaf is None else leaf.spki_sha256,
            not_before_unix_ms=0 if leaf is None else leaf.not_before_unix_ms,
            not_after_unix_ms=0 if leaf is None else leaf.not_after_unix_ms,
            bundle_id=None if bundle is None else assignment.bundle_id,
            bundle_certificates=0 if bundle is None else bundle.count,
            bundle_sha256="" if bundle is None else hashlib.sha256(bundle.pem).hexdigest(),
        )

    def _leaf(self, generation: int) -> x509.CertificateFacts:
        chain = self._present(generation, CHAIN)
        key = self._present(generation, KEY)
        try:
            leaf = x509.facts(chain)
        except CertificateRejected as exc:
            raise Damaged(f"{self.file(generation, CHAIN)} is damaged: {exc.message}") from exc
        try:
            spki = x509.spki_sha256_of_key(key)
        except CertificateRejected as exc:
            raise Damaged(f"{self.file(generation, KEY)} is damaged: {exc.message}") from exc
        if leaf.spki_sha256 != spki:
            raise Damaged(f"{self.directory(generation)} holds a certificate for another key")
        return leaf

    def _bundle(self, generation: int) -> x509.BundleFacts | None:
        try:
            content = self.read(generation, BUNDLE)
            if content is None:
                return None
            read = x509.normalise_bundle([content.decode()])
        except (OSError, UnicodeDecodeError, CertificateRejected):
            return x509.BundleFacts(pem=b"", count=0, sha256="")
        return x509.BundleFacts(pem=content, count=read.count, sha256=read.sha256)

    def _present(self, generation: int, name: str) -> bytes:
        path = self.file(generation, name)
        try:
            content = self.read(generation, name)
        except OSError as exc:
            raise Damaged(f"{path} cannot be read: {exc.strerror}") from exc
        if content is None:
            raise Damaged(f"{path} is missing")
        return content
