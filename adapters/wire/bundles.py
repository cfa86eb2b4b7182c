"""Several trust bundles as one: first-seen order, each certificate once, what cannot be read left out.

The rule is services.md §7.3 with its "better": one bad block costs that block only, an empty bundle is
none, and the same input gives the same text every time.
"""

import ssl
from collections.abc import Sequence

from msgspec import Struct

from adapters.errors import bounded
from adapters.wire.pem import certificate_blocks, sha256_hex, whole_der
from adapters.wire.x509 import MAX_BUNDLE_BYTES

__all__ = ["MAX_BUNDLE_BYTES", "BundledCertificate", "Merged", "merge_bundles"]

MAX_CERTIFICATES = 512
"Of all bundles together, different ones: three times what a distribution trusts."
MAX_BLOCKS = 2048
"Looked at in one bundle: the same certificate over and over must not cost more than that."
MAX_WARNINGS = 16


class BundledCertificate(Struct, frozen=True, kw_only=True):
    """One certificate of the merged bundle."""

    pem: bytes
    "64 columns, LF, ends in a newline."
    sha256: str
    "Hex SHA-256 of the DER."
    bundles: tuple[str, ...]
    "The names of all bundles that hold it, first seen first."


class Merged(Struct, frozen=True, kw_only=True):
    """What is left of the bundles."""

    certificates: tuple[BundledCertificate, ...]
    warnings: tuple[str, ...]
    "What was left out, and why; they name bundle and block, counted from 1."

    @property
    def pem(self) -> bytes:
        """All certificates as one text; empty when there is none."""
        return b"".join(certificate.pem for certificate in self.certificates)


def merge_bundles(bundles: Sequence[tuple[str, bytes]]) -> Merged:
    """Name and content of each, the most important first. Never raises, whatever the content.

    Nothing is judged: expired certificates and certificates of no CA stay. Blocks for as long as it takes
    to parse them.
    """
    # OpenSSL is asked, because it is what the programs on the device read the bundle with. ``cryptography``
    # is stricter, for one about the serial number 0 that the original's own CA gives.
    reader = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    seen: dict[bytes, list[str]] = {}
    "DER to the names of its bundles."
    warnings: list[str] = []
    for name, content in bundles:
        unread = _Unread(name)
        for number, der in enumerate(certificate_blocks(content[:MAX_BUNDLE_BYTES]), 1):
            if number > MAX_BLOCKS or (len(seen) >= MAX_CERTIFICATES and der not in seen):
                unread.say(f"is left out from block {number} on: it holds too many certificates")
                break
            if der is not None and der not in seen and _is_certificate(der, reader):
                seen[der] = []
            if der is None or der not in seen:
                unread.say(f"block {number} is not a certificate, and is left out")
            elif name not in seen[der]:
                seen[der].append(name)
        if len(content) > MAX_BUNDLE_BYTES:
            unread.say(f"is cut off after {MAX_BUNDLE_BYTES} bytes")
        elif content.strip() and b"-----BEGIN " not in content:
            unread.say("holds no certificate")
        warnings += unread.said
    if len(warnings) > MAX_WARNINGS:
        rest = len(warnings) - MAX_WARNINGS
        warnings = [*warnings[:MAX_WARNINGS], f"and {rest} more of the kind"]
    certificates = [
        BundledCertificate(
            pem=ssl.DER_cert_to_PEM_cert(der).encode(), sha256=sha256_hex(der), bundles=tuple(names)
        )
        for der, names in seen.items()
    ]
    return Merged(certificates=tuple(certificates), warnings=tuple(warnings))


class _Unread:
    """What is wrong with one bundle."""

    def __init__(self, name: str) -> None:
        self._name = bounded(name, 100)
        self.said: list[str] = []

    def say(self, what: str) -> None:
        self.said.append(f'trust bundle "{self._name}": {what}')


def _is_certificate(der: bytes, reader: ssl.SSLContext) -> bool:
    if not whole_der(der):
        return False
    try:
        reader.load_verify_locations(cadata=der)
    except ssl.SSLError:
        return False
    return True
