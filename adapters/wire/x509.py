"""Keys, requests and certificates as bytes and facts; ``cryptography`` objects do not leave this file.

Every certificate a peer sent is judged here with one error, ``CertificateRejected``. Its class is
``retry`` throughout, because asking again with the same key is what helps (a mismatch is usually the
answer to an earlier operation), except ``expired`` under an untrusted clock: class ``clock``.
Key generation and parsing block: a caller with sockets to serve runs RSA generation in a thread.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from msgspec import Struct

from adapters.errors import CertificateRejected, FailureClass

MAX_CHAIN_CERTIFICATES = 16
MAX_CHAIN_BYTES = 256 * 1024
MAX_BUNDLE_CERTIFICATES = 128
MAX_BUNDLE_BYTES = 1024 * 1024

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"What ``cryptography`` says of a certificate it cannot read; only the first is an error of values."
_RSA_BITS = {"rsa-2048": 2048, "rsa-3072": 3072, "rsa-4096": 4096}


class CertificateFacts(Struct, frozen=True, kw_only=True):
    """What decisions need to know of one certificate."""

    subject_cn: str
    "First CN of the subject; empty when there is none."
    serial_hex: str
    "Without leading zeros."
    not_before_unix_ms: int
    not_after_unix_ms: int
    spki_sha256: str
    "Hex SHA-256 of the SubjectPublicKeyInfo."
    sha256: str
    "Hex SHA-256 of the DER."
    is_ca: bool


class OrderedChain(Struct, frozen=True, kw_only=True):
    """A chain put into issuing order as far as that went. Nothing is judged."""

    chain_pem: bytes
    "Leaf first, re-encoded with LF. As received (leaf moved to the front) when not intact."
    intact: bool
    "Each certificate is issued by the next, and none is left over."
    leaf: CertificateFacts


class BundleFacts(Struct, frozen=True, kw_only=True):
    """A trust bundle, every certificate parsed."""

    pem: bytes
    "Re-encoded with LF, in the cloud's order."
    count: int
    sha256: str
    "Hex SHA-256 of pem."


# --- keys and requests -------------------------------------------------------------------------------


def new_key(algorithm: str) -> bytes:
    """A fresh private key as PKCS#8 PEM. Raises ValueError for an unknown algorithm."""
    key: _PrivateKey
    if algorithm == "ec-p256":
        key = ec.generate_private_key(ec.SECP256R1())
    elif algorithm in _RSA_BITS:
        key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS[algorithm])
    else:
        raise ValueError(f"unknown key algorithm {algorithm!r}")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_csr(key_pem: bytes, common_name: str) -> bytes:
    """DER of a request whose subject is exactly ``CN=common_name``, signed with SHA-256.

    Raises ValueError for a CN that is empty or over 64 characters; CertificateRejected
    (code ``key-unusable``, class operator) for a key that cannot be used.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(_load_key(key_pem), SHA256()).public_bytes(Encoding.DER)


def spki_sha256_of_key(key_pem: bytes) -> str:
    """Hex SHA-256 of the public half. Raises CertificateRejected (code ``key-unusable``)."""
    return _spki_sha256(_load_key(key_pem).public_key())


# --- chains ------------------------------------------------------------------------------------------


def facts(chain_pem: bytes) -> CertificateFacts:
    """Of the first certificate. Raises CertificateRejected (code ``chain-unparsable``)."""
    return _facts(_load_chain(chain_pem)[0])


def subject(chain_pem: bytes) -> str:
    """Subject of the first certificate as RFC 4514 text.

    Raises CertificateRejected (code ``chain-unparsable``).
    """
    try:
        return _load_chain(chain_pem)[0].subject.rfc4514_string()
    except UNREADABLE as exc:
        raise _rejected("chain-unparsable", "a certificate of the chain is malformed") from exc


def order_chain(chain_pem: bytes, *, spki_sha256: str) -> OrderedChain:
    """Find the leaf by its public key and put its issuers behind it.

    Without a certificate for that key (or with an empty ``spki_sha256``) the first one is taken as
    the leaf. Raises CertificateRejected (code ``chain-unparsable``).
    """
    received = list(dict.fromkeys(_load_chain(chain_pem)))
    read = [_facts(certificate) for certificate in received]
    position = next((i for i, leaf in enumerate(read) if leaf.spki_sha256 == spki_sha256), 0)
    leaf = received.pop(position)
    ordered, rest = [leaf], received[:]
    while (issuer := next((c for c in rest if _issued(ordered[-1], by=c)), None)) is not None:
        ordered.append(issuer)
        rest.remove(issuer)
    return OrderedChain(
        chain_pem=_pem([leaf, *received] if rest else ordered), intact=not rest, leaf=read[position]
    )


def der_chain_to_pem(chain: Sequence[bytes]) -> bytes:
    """PEM of DER certificates, order kept. Raises CertificateRejected (code ``chain-unparsable``)."""
    if not 0 < len(chain) <= MAX_CHAIN_CERTIFICATES or sum(map(len, chain)) > MAX_CHAIN_BYTES:
        raise _rejected("chain-unparsable", f"expected 1 to {MAX_CHAIN_CERTIFICATES} certificates")
    try:
        return _pem([x509.load_der_x509_certificate(der) for der in chain])
    except UNREADABLE as exc:
        raise _rejected("chain-unparsable", "not a DER certificate") from exc


def normalise_bundle(pems: Sequence[str]) -> BundleFacts:
    """One clean PEM text of a trust bundle. Each text holds at least one certificate.

    The cloud's order is kept, and of equal certificates the first; missing and foreign line ends are
    repaired, and text around the certificates is dropped.
    Raises CertificateRejected (code ``bundle-unparsable``).
    """
    if not pems:
        raise _rejected("bundle-unparsable", "the trust bundle is empty")
    if sum(map(len, pems)) > MAX_BUNDLE_BYTES:
        raise _rejected("bundle-unparsable", f"the trust bundle is larger than {MAX_BUNDLE_BYTES} bytes")
    certificates: list[x509.Certificate] = []
    for index, text in enumerate(pems):
        try:
            certificates += x509.load_pem_x509_certificates(text.encode())
        except UNREADABLE as exc:
            raise _rejected(
                "bundle-unparsable", f"certificate {index} of the trust bundle is not PEM"
            ) from exc
    if len(certificates) > MAX_BUNDLE_CERTIFICATES:
        raise _rejected("bundle-unparsable", f"more than {MAX_BUNDLE_CERTIFICATES} certificates")
    distinct = list(dict.fromkeys(certificates))
    pem = _pem(distinct)
    return BundleFacts(pem=pem, count=len(distinct), sha256=hashlib.sha256(pem).hexdigest())


# --- inside ------------------------------------------------------------------------------------------


def _rejected(code: str, message: str, failure_class: FailureClass = "retry") -> CertificateRejected:
    return CertificateRejected(message, code=code, failure_class=failure_class)


def _load_key(key_pem: bytes) -> _PrivateKey:
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        # TypeError: the key is encrypted. No detail of the cause is quoted: it is about a secret.
        raise _rejected("key-unusable", "not an unencrypted PEM private key", "operator") from exc
    if not isinstance(key, _PrivateKey):
        raise _rejected("key-unusable", "only EC and RSA keys are supported", "operator")
    return key


def _load_chain(chain_pem: bytes) -> list[x509.Certificate]:
    if len(chain_pem) > MAX_CHAIN_BYTES:
        raise _rejected("chain-unparsable", f"larger than {MAX_CHAIN_BYTES} bytes")
    try:
        certificates = x509.load_pem_x509_certificates(chain_pem)
    except UNREADABLE as exc:
        raise _rejected("chain-unparsable", "not a PEM certificate chain") from exc
    if len(certificates) > MAX_CHAIN_CERTIFICATES:
        raise _rejected("chain-unparsable", f"more than {MAX_CHAIN_CERTIFICATES} certificates")
    return certificates


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return CertificateFacts(
            subject_cn=str(names[0].value) if names else "",
            serial_hex=f"{certificate.serial_number:x}",
            not_before_unix_ms=_unix_ms(certificate.not_valid_before_utc),
            not_after_unix_ms=_unix_ms(certificate.not_valid_after_utc),
            spki_sha256=_spki_sha256(certificate.public_key()),
            sha256=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
            is_ca=_is_ca(certificate),
        )
    except UNREADABLE as exc:
        # Parts of a certificate are parsed only when looked at.
        raise _rejected("chain-unparsable", "a certificate of the chain is malformed") from exc


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _spki_sha256(public_key: object) -> str:
    if not hasattr(public_key, "public_bytes"):
        raise UnsupportedAlgorithm("public key")
    spki: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _issued(certificate: x509.Certificate, *, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _unix_ms(instant: datetime) -> int:
    return int(instant.timestamp()) * 1000


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
