"""The stand-in cloud's certificate authority: a root that is kept, an issuing CA made at each start.

Like the product (reference/cloud.md §8.4): EC P-384 and SHA-384 for the CAs, a device key of the device's
choice. Names end in NOT FOR PRODUCTION. A leaf begins at the current second, not backdated further, and
lives its lifetime rounded up to the next second, since certificates count whole seconds.
"""

import base64
import binascii
import datetime
import ipaddress
import math
from collections.abc import Mapping
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE_S = 20 * 365 * 86_400
SERVER_LIFE_S = 397 * 86_400
DAY_S = 86_400
HOUR_S, YEAR_S = 3_600, 365 * DAY_S
WEAK_BITS = 1024
MANY = 17

Flaw = Literal[
    "wrong_key",
    "wrong_subject",
    "expired",
    "not_yet_valid",
    "inverted",
    "ca_leaf",
    "wrong_usage",
    "weak_key",
    "other_issuer",
    "missing_intermediate",
    "reordered",
    "duplicated",
    "extra_certificate",
    "too_many",
    "truncated_pem",
    "garbage_pem",
    "wrong_base64",
    "empty_chain",
]
FLAWS: Mapping[Flaw, str] = {
    "wrong_key": "the leaf is for another key than that of the CSR",
    "wrong_subject": "the leaf names somebody else",
    "expired": "the leaf ended a minute ago",
    "not_yet_valid": "the leaf begins in `seconds` (3600)",
    "inverted": "the leaf ends at the instant it begins",
    "ca_leaf": "the leaf is a CA certificate",
    "wrong_usage": "the leaf is for servers only",
    "weak_key": "the issuing CA has an RSA key of 1024 bits",
    "other_issuer": "another root than the one the hub trusts issued it",
    "missing_intermediate": "the issuing CA is left out",
    "reordered": "root first, leaf last",
    "duplicated": "each certificate comes twice",
    "extra_certificate": "one that has nothing to do with the others is among them",
    "too_many": "seventeen different certificates",
    "truncated_pem": "the leaf is cut off in the middle",
    "garbage_pem": "well-formed base64 of something else",
    "wrong_base64": "characters that are none of base64",
    "empty_chain": "there, but empty",
}
ENCODED: frozenset[Flaw] = frozenset({"truncated_pem", "garbage_pem", "wrong_base64", "empty_chain"})
"Flaws of how the chain is written down, not of its certificates."

ServerFlaw = Literal[
    "expired",
    "not_yet_valid",
    "other_name",
    "untrusted",
    "self_signed",
    "missing_intermediate",
    "wrong_usage",
    "weak_key",
]
SERVER_FLAWS: Mapping[ServerFlaw, str] = {
    "expired": "ended an hour ago",
    "not_yet_valid": "begins in a year",
    "other_name": "for elsewhere.example",
    "untrusted": "from a root nobody was told of",
    "self_signed": "signed by itself",
    "missing_intermediate": "sent without the issuing CA",
    "wrong_usage": "for clients only",
    "weak_key": "with an RSA key of 1024 bits",
}

DevicePublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
IssuingKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class CsrProblem(Exception):
    """The request is not one a certificate can be issued for; the text says why."""


class Csr:
    """A request whose signature was checked."""

    def __init__(self, subject: x509.Name, public_key: DevicePublicKey) -> None:
        self.subject = subject
        self.public_key = public_key


def parse_csr(text: object, registration_id: str) -> Csr:
    """Read base64 DER PKCS#10 whose CN is the registration id. Raises CsrProblem."""
    if not isinstance(text, str):
        raise CsrProblem("the CSR is not a string")
    try:
        request = x509.load_der_x509_csr(base64.b64decode(text, validate=True))
        public_key = request.public_key()
        valid = request.is_signature_valid
    except (binascii.Error, ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise CsrProblem("the CSR is not the base64 of a DER PKCS#10 request") from exc
    if not valid:
        raise CsrProblem("the signature of the CSR does not match its key")
    if isinstance(public_key, rsa.RSAPublicKey):
        if public_key.key_size < 2048:
            raise CsrProblem("the RSA key of the CSR has less than 2048 bits")
    elif not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise CsrProblem("the key of the CSR is neither EC nor RSA")
    names = common_names(request.subject)
    if [name.lower() for name in names] != [registration_id.lower()]:
        raise CsrProblem(f"the CN of the CSR must be the registration id {registration_id}")
    return Csr(request.subject, public_key)


def common_names(name: x509.Name) -> list[str]:
    """Every CN of a distinguished name."""
    return [str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]


class Authority:
    """Root and issuing CA."""

    def __init__(self, root: x509.Certificate, root_key: ec.EllipticCurvePrivateKey) -> None:
        self.root = root
        self._root_key = root_key
        self.issuing, self._key = self._issuing(ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def create(cls, now_unix_s: float) -> "Authority":
        """A new root."""
        key = ec.generate_private_key(ec.SECP384R1())
        return cls(_root_certificate("root CA", key, now_unix_s), key)

    @classmethod
    def load(cls, root_pem: bytes, key_pem: bytes) -> "Authority":
        """The kept root. Raises ValueError."""
        key = load_pem_private_key(key_pem, None)
        root = x509.load_pem_x509_certificate(root_pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or root.public_key() != key.public_key():
            raise ValueError("certificate and key do not belong together")
        return cls(root, key)

    @property
    def root_pem(self) -> bytes:
        """What devices trust."""
        return pem(self.root)

    @property
    def key_pem(self) -> bytes:
        """Secret: the root's key."""
        return private_pem(self._root_key)

    def server_chain(self, now_unix_s: float, flaw: ServerFlaw | None = None) -> tuple[bytes, bytes]:
        """Chain and key, both PEM, for localhost; begun a day ago so that a slow clock can connect."""
        if flaw == "untrusted":
            return Authority.create(now_unix_s).server_chain(now_unix_s)
        key: IssuingKey = ec.generate_private_key(ec.SECP256R1())
        if flaw == "weak_key":
            key = rsa.generate_private_key(public_exponent=65537, key_size=WEAK_BITS)
        start_s, end_s = now_unix_s - DAY_S, now_unix_s + SERVER_LIFE_S
        if flaw == "expired":
            end_s = now_unix_s - HOUR_S
        elif flaw == "not_yet_valid":
            start_s, end_s = now_unix_s + YEAR_S, now_unix_s + YEAR_S + SERVER_LIFE_S
        names: list[x509.GeneralName] = [x509.DNSName("localhost")]
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
        if flaw == "other_name":
            names = [x509.DNSName("elsewhere.example")]
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if flaw == "wrong_usage" else ExtendedKeyUsageOID.SERVER_AUTH
        subject = x509.Name([_cn("localhost")])
        issuer, issuer_key = self.issuing.subject, self._key
        if flaw == "self_signed":
            issuer, issuer_key = subject, key
        leaf = (
            _end_entity(subject, issuer, key.public_key(), issuer_key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .not_valid_before(_utc(int(start_s)))
            .not_valid_after(_utc(int(end_s)))
            .sign(issuer_key, SHA384())
        )
        alone = flaw in ("self_signed", "missing_intermediate")
        return pem(leaf) + (b"" if alone else pem(self.issuing)), private_pem(key)

    def issue(
        self,
        csr: Csr,
        *,
        now_unix_s: float,
        lifetime_s: float,
        flaw: Flaw | None = None,
        ahead_s: float = 3600.0,
    ) -> list[x509.Certificate]:
        """Leaf, issuing CA, root. ``ahead_s`` is how far `not_yet_valid` lies in the future.

        Flaws in ``ENCODED`` are left to whoever writes the chain down.
        """
        if flaw == "other_issuer":
            other = Authority.create(now_unix_s)
            return other.issue(csr, now_unix_s=now_unix_s, lifetime_s=lifetime_s)
        subject, public_key = csr.subject, csr.public_key
        start_s, end_s = now_unix_s, now_unix_s + lifetime_s
        if flaw == "wrong_subject":
            subject = x509.Name([_cn("somebody-else")])
        elif flaw == "wrong_key":
            public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
        elif flaw == "expired":
            start_s, end_s = now_unix_s - lifetime_s - 60, now_unix_s - 60
        elif flaw == "not_yet_valid":
            start_s, end_s = now_unix_s + ahead_s, now_unix_s + ahead_s + lifetime_s
        elif flaw == "inverted":
            start_s = end_s = math.floor(now_unix_s)
        issuing, issuing_key = self.issuing, self._key
        if flaw == "weak_key":
            issuing, issuing_key = self._issuing(
                rsa.generate_private_key(public_exponent=65537, key_size=WEAK_BITS)
            )
        usage = ExtendedKeyUsageOID.SERVER_AUTH if flaw == "wrong_usage" else ExtendedKeyUsageOID.CLIENT_AUTH
        leaf = (
            _end_entity(subject, issuing.subject, public_key, issuing_key.public_key(), ca=flaw == "ca_leaf")
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .not_valid_before(_utc(math.floor(start_s)))
            .not_valid_after(_utc(math.ceil(end_s)))
            .sign(issuing_key, SHA384())
        )
        chain = [leaf, issuing, self.root]
        match flaw:
            case "missing_intermediate":
                return [leaf, self.root]
            case "reordered":
                return chain[::-1]
            case "duplicated":
                return [twice for one in chain for twice in (one, one)]
            case "extra_certificate":
                return [leaf, _foreign_root(now_unix_s), issuing, self.root]
            case "too_many":
                return [*chain, *(_foreign_root(now_unix_s) for _ in range(MANY - len(chain)))]
            case _:
                return chain

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Whether its issuer is this authority by name; TLS has verified the chain before."""
        return certificate.issuer == self.issuing.subject

    def _issuing(self, key: IssuingKey) -> tuple[x509.Certificate, IssuingKey]:
        """An issuing CA below the root, with that key."""
        builder = _builder(
            _name("issuing CA"), self.root.subject, key.public_key(), self._root_key.public_key()
        ).serial_number(x509.random_serial_number())
        certificate = (
            _authority(builder, path_length=0)
            .not_valid_before(self.root.not_valid_before_utc)
            .not_valid_after(self.root.not_valid_after_utc)
            .sign(self._root_key, SHA384())
        )
        return certificate, key


def foreign_root_pem(now_unix_s: float) -> str:
    """A certificate for a trust bundle, another one each time."""
    return pem(_foreign_root(now_unix_s)).decode()


def certificates_in(pem_bytes: bytes) -> list[str]:
    """Each certificate of a PEM file as PEM text. Raises ValueError when there is none."""
    return [pem(certificate).decode() for certificate in x509.load_pem_x509_certificates(pem_bytes)]


def pem(certificate: x509.Certificate) -> bytes:
    """PEM with a final newline."""
    return certificate.public_bytes(Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    """DER."""
    return certificate.public_bytes(Encoding.DER)


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """PKCS#8 without a password. Secret."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _foreign_root(now_unix_s: float) -> x509.Certificate:
    return _root_certificate("bundle root", ec.generate_private_key(ec.SECP256R1()), now_unix_s)


def _root_certificate(role: str, key: ec.EllipticCurvePrivateKey, now_unix_s: float) -> x509.Certificate:
    name = _name(role)
    builder = _builder(name, name, key.public_key(), key.public_key())
    return (
        _authority(builder.serial_number(x509.random_serial_number()), path_length=None)
        .not_valid_before(_utc(int(now_unix_s) - DAY_S))
        .not_valid_after(_utc(int(now_unix_s) + CA_LIFE_S))
        .sign(key, SHA384() if key.key_size > 256 else SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: DevicePublicKey,
    issuer_key: DevicePublicKey,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _end_entity(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: DevicePublicKey,
    issuer_key: DevicePublicKey,
    *,
    ca: bool = False,
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(subject, issuer, public_key, issuer_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )


def _authority(builder: x509.CertificateBuilder, *, path_length: int | None) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(usage, critical=True)


def _name(role: str) -> x509.Name:
    return x509.Name([_cn(f"identityd stand-in {role} - NOT FOR PRODUCTION")])


def _cn(text: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, text)


def _utc(unix_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
