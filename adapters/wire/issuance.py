"""A certificate for a request, signed by a key that is somewhere else (reference/services.md §4.6).

What is read here is handed on as a closed box, so that it is parsed once and ``cryptography`` stays
within ``wire``. Everything blocks: for worker threads.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from msgspec import Struct

from adapters.errors import CertificateRejected, FailureClass, RequestRefused
from adapters.wire.local_csr import cut
from adapters.wire.remote_key import RemoteKey, signing_key
from adapters.wire.x509 import MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, UNREADABLE

MAX_CSR_BYTES = 64 * 1024

_END_OF_TIME = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"No well-defined end (RFC 5280 section 4.1.2.5)."
_ATTRIBUTES = {
    "C": NameOID.COUNTRY_NAME,
    "CN": NameOID.COMMON_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "GN": NameOID.GIVEN_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "SN": NameOID.SURNAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "UID": NameOID.USER_ID,
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "postalCode": NameOID.POSTAL_CODE,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "street": NameOID.STREET_ADDRESS,
    "title": NameOID.TITLE,
}
"Short names of a configured subject (RFC 4519, and OpenSSL's where that has none)."
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
_WRITTEN = dict.fromkeys(("C", "serialNumber"), _PRINTABLE) | dict.fromkeys(
    ("DC", "emailAddress"), re.compile(r"[\x00-\x7f]*")
)
"Attributes whose types do not hold every text (RFC 5280 appendix A.1), which the library does not check."


class Terms(Struct, frozen=True, kw_only=True):
    """What the request does not say."""

    serial: int
    "Positive, at most 159 bits (RFC 5280 section 4.1.2.2)."
    now_unix_ms: int
    expiry_days: int
    subject: tuple[tuple[str, str], ...] = ()
    "Short attribute names and values instead of the request's subject; emitted sorted by name."
    allow_ca: bool = False
    "Otherwise the certificate says of itself that it is no CA."


class CertificateRequest:
    """A request whose signature fits its key."""

    def __init__(self, request: x509.CertificateSigningRequest) -> None:
        self._request = request
        self._public_key = request.public_key()
        self._subject = request.subject
        self._extensions = request.extensions

    @property
    def asks_for_ca(self) -> bool:
        """By basicConstraints, or by a key usage that readers take for one where those are missing."""
        return any(
            (isinstance(extension.value, x509.BasicConstraints) and extension.value.ca)
            or (isinstance(extension.value, x509.KeyUsage) and extension.value.key_cert_sign)
            for extension in self._extensions
        )


class IssuerChain:
    """The certificate that signs, and what is to follow it."""

    def __init__(self, certificates: Sequence[x509.Certificate]) -> None:
        self._certificate = certificates[0]
        self._subject = self._certificate.subject
        self._not_after = self._certificate.not_valid_after_utc
        self._spki_der = self._certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self._key_identifier = _key_identifier(self._certificate.extensions)
        self.pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def read_request(csr_pem: str) -> CertificateRequest:
    """Raises RequestRefused (parameter ``csr``)."""
    if len(csr_pem) > MAX_CSR_BYTES:
        raise _refused_request(f"larger than {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        valid = request.is_signature_valid
        read = CertificateRequest(request)
    except UNREADABLE as exc:
        raise _refused_request("not a PEM certificate request that can be read") from exc
    if not valid:
        raise _refused_request("its signature is not by its key")
    return read


def read_issuer(chain_pem: bytes) -> IssuerChain:
    """Leaf first. Raises CertificateRejected (code ``chain-unparsable``)."""
    if len(chain_pem) > MAX_CHAIN_BYTES:
        raise _rejected("chain-unparsable", f"larger than {MAX_CHAIN_BYTES} bytes")
    try:
        certificates = x509.load_pem_x509_certificates(chain_pem)
        if len(certificates) > MAX_CHAIN_CERTIFICATES:
            raise _rejected("chain-unparsable", f"more than {MAX_CHAIN_CERTIFICATES} certificates")
        return IssuerChain(certificates)
    except UNREADABLE as exc:
        raise _rejected("chain-unparsable", "not PEM certificates") from exc


def issue(request: CertificateRequest, issuer: IssuerChain | None, key: RemoteKey, terms: Terms) -> bytes:
    """PEM of the new certificate, followed by the issuer's chain. Without an issuer it signs itself.

    Raises RequestRefused (parameter ``csr``: what it asks for cannot be put into a certificate; code
    ``subject-unusable``: the configured one), CertificateRejected (codes ``issuer-expired``, and
    ``key-mismatch`` when ``key`` is not the issuer's or its signatures are not by that key), and whatever
    ``key`` raises.
    """
    subject = request._subject if not terms.subject else _subject(terms.subject)
    begin = datetime.fromtimestamp(terms.now_unix_ms // 1000, UTC)
    end = _plus_days(begin, terms.expiry_days)
    signs: bytes
    if issuer is None:
        if not list(subject):
            raise _refused_request("a certificate that signs itself needs a subject")
        signs = request._public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        signs = issuer._spki_der
        end = min(end, issuer._not_after)
        if end <= begin:
            raise _rejected("issuer-expired", f"the issuer expired at {issuer._not_after:%Y-%m-%dT%H:%M:%SZ}")
    if signs != key.spki_der:
        raise _rejected(
            "key-mismatch", "the issuer's certificate is for another key than the one to sign with"
        )
    try:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer._subject)
            .public_key(request._public_key)
            .serial_number(terms.serial)
            .not_valid_before(begin)
            .not_valid_after(end)
        )
        for value, critical in _extensions(request, issuer, terms):
            builder = builder.add_extension(value, critical)
    except (*UNREADABLE, NotImplementedError) as exc:
        raise _refused_request("it asks for what a certificate cannot say") from exc
    try:
        certificate = builder.sign(signing_key(key), SHA256())
        certificate.verify_directly_issued_by(certificate if issuer is None else issuer._certificate)
    except InvalidSignature as exc:
        raise _rejected("key-mismatch", "the signature is not by the issuer's key") from exc
    except (*UNREADABLE, NotImplementedError) as exc:
        raise _refused_request("it asks for what a certificate cannot say") from exc
    return certificate.public_bytes(Encoding.PEM) + (b"" if issuer is None else issuer.pem)


def _extensions(
    request: CertificateRequest, issuer: IssuerChain | None, terms: Terms
) -> list[tuple[x509.ExtensionType, bool]]:
    """All that the request asks for, then what readers of the certificate need besides."""
    asked = request._extensions
    found: list[tuple[x509.ExtensionType, bool]] = [(one.value, one.critical) for one in asked]
    present = {one.oid for one in asked}
    # Without it, old readers take some key usages and Netscape's types for those of a CA.
    if x509.BasicConstraints.oid not in present and not terms.allow_ca:
        found.append((x509.BasicConstraints(ca=False, path_length=None), True))
    if x509.SubjectKeyIdentifier.oid not in present:
        identifier = x509.SubjectKeyIdentifier.from_public_key(request._public_key)
        found.append((identifier, False))
    if x509.AuthorityKeyIdentifier.oid not in present and issuer is not None:
        known = issuer._key_identifier
        if known is not None:
            found.append((x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known), False))
    return found


def _key_identifier(extensions: x509.Extensions) -> x509.SubjectKeyIdentifier | None:
    values = (extension.value for extension in extensions)
    return next((value for value in values if isinstance(value, x509.SubjectKeyIdentifier)), None)


def _subject(pairs: Sequence[tuple[str, str]]) -> x509.Name:
    try:
        return x509.Name([_attribute(name, value) for name, value in sorted(pairs)])
    except KeyError as exc:
        raise RequestRefused(
            f"the configured subject has an unknown attribute {exc.args[0]!r}; known are "
            f"{', '.join(sorted(_ATTRIBUTES))}",
            code="subject-unusable",
        ) from exc
    except ValueError as exc:
        raise RequestRefused(
            f"the configured subject cannot be one of a certificate: {exc}", code="subject-unusable"
        ) from exc


def _attribute(name: str, value: str) -> x509.NameAttribute[str]:
    """Raises KeyError for an unknown name, ValueError for a value that it does not hold."""
    oid = _ATTRIBUTES[name]
    if name in _WRITTEN and not _WRITTEN[name].fullmatch(value):
        raise ValueError(f"{name} has characters that it does not hold")
    return x509.NameAttribute(oid, cut(value) if name == "CN" else value)


def _plus_days(begin: datetime, days: int) -> datetime:
    try:
        return min(begin + timedelta(days=days), _END_OF_TIME)
    except OverflowError:
        return _END_OF_TIME


def _refused_request(why: str) -> RequestRefused:
    return RequestRefused(why, code="csr-invalid", parameter="csr")


def _rejected(code: str, why: str, failure_class: FailureClass = "operator") -> CertificateRejected:
    return CertificateRejected(why, code=code, failure_class=failure_class)
