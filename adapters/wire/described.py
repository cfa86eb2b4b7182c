"""Certificates and keys in words for people who look for a fault; ``cryptography`` stays in this file."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from adapters.errors import bounded
from adapters.wire.x509 import UNREADABLE

MAX_NAMES = 6
_LONGEST = 120


class Described(Struct, frozen=True, kw_only=True):
    """One certificate."""

    subject: str
    "RFC 4514."
    issuer: str
    not_before_unix_ms: int
    not_after_unix_ms: int
    names: tuple[str, ...] = ()
    "What it is valid for: DNS names and addresses."
    self_signed: bool = False
    issued_by_next: bool | None = None
    "Signed by the certificate that follows; None for the last one."


def describe(ders: Sequence[bytes]) -> tuple[Described, ...]:
    """Of each that can be read, in their order; of those that cannot, nothing."""
    certificates = []
    for der in ders:
        try:
            certificates.append(x509.load_der_x509_certificate(der))
        except UNREADABLE:
            continue
    return tuple(
        _described(certificate, certificates[place + 1] if place + 1 < len(certificates) else None)
        for place, certificate in enumerate(certificates)
    )


def chain_lines(chain: Sequence[Described]) -> tuple[str, ...]:
    """One line each, leaf first."""
    return tuple(_line(place, one) for place, one in enumerate(chain, 1))


def _line(place: int, one: Described) -> str:
    begins, ends = (
        f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}Z"
        for ms in (one.not_before_unix_ms, one.not_after_unix_ms)
    )
    names = f" for {', '.join(one.names)}" if one.names else ""
    issuer = "by itself" if one.self_signed else f"by {one.issuer}"
    broken = "; the next one did not sign it" if one.issued_by_next is False else ""
    return bounded(f"{place}: {one.subject}{names}, issued {issuer}, {begins} to {ends}{broken}", 400)


def _described(certificate: x509.Certificate, following: x509.Certificate | None) -> Described:
    try:
        subject, issuer = certificate.subject, certificate.issuer
        return Described(
            subject=bounded(subject.rfc4514_string(), _LONGEST) or "no subject",
            issuer=bounded(issuer.rfc4514_string(), _LONGEST) or "no name",
            not_before_unix_ms=int(certificate.not_valid_before_utc.timestamp()) * 1000,
            not_after_unix_ms=int(certificate.not_valid_after_utc.timestamp()) * 1000,
            names=_names(certificate),
            self_signed=subject == issuer and _signed(certificate, certificate),
            issued_by_next=None if following is None else _signed(certificate, following),
        )
    except UNREADABLE:
        return Described(subject="unreadable", issuer="unreadable", not_before_unix_ms=0, not_after_unix_ms=0)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = [
        *held.get_values_for_type(x509.DNSName),
        *(str(one) for one in held.get_values_for_type(x509.IPAddress)),
    ]
    shown = [bounded(name, 80) for name in names[:MAX_NAMES]]
    return (*shown, "…") if len(names) > MAX_NAMES else tuple(shown)


def _signed(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def weakness_of_key(key_pem: bytes) -> str | None:
    """Why a private key is not what the cloud's services are made for; None when it is, or is no key."""
    try:
        key = load_pem_private_key(key_pem, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, rsa.RSAPrivateKey):
        return f"an RSA key of {key.key_size} bits" if key.key_size < 2048 else None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return None if isinstance(key.curve, ec.SECP256R1) else f"an EC key on {key.curve.name}"
    return "neither an RSA nor an EC key"
