"""Certificates that are none: PEM whose content says what a fake must read back from it.

Real X.509 costs a signature each, and fakes may not import cryptography.
"""

import hashlib
from base64 import b64decode, b64encode

import msgspec
from msgspec import Struct

from statemachine.events import ChainFacts

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"


class Leaf(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a real leaf would say."""

    serial: str
    subject_cn: str
    spki_sha256: str
    not_before_unix_ms: int
    not_after_unix_ms: int
    padding: str = ""
    "Where size matters: brings the PEM to that of a real chain."


def issue(leaf: Leaf) -> ChainFacts:
    """The chain as the adapter would have read it."""
    content = msgspec.json.encode(leaf)
    return ChainFacts(
        chain_pem=_BEGIN + b64encode(content) + _END,
        spki_sha256=leaf.spki_sha256,
        subject_cn=leaf.subject_cn,
        not_before_unix_ms=leaf.not_before_unix_ms,
        not_after_unix_ms=leaf.not_after_unix_ms,
        sha256=fingerprint(leaf),
        serial=leaf.serial,
    )


def read_leaf(chain_pem: bytes) -> Leaf:
    """Raises ValueError for anything but ``issue``'s."""
    body = chain_pem.removeprefix(_BEGIN).removesuffix(_END)
    return msgspec.json.decode(b64decode(body, validate=True), type=Leaf)


def fingerprint(leaf: Leaf) -> str:
    """Hex SHA-256, as of a real leaf's DER."""
    return hashlib.sha256(msgspec.json.encode(leaf)).hexdigest()
