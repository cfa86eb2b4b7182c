"""Certificates for trust bundles: real ones, made quickly."""

import datetime
import functools
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from adapters.wire.pem import sha256_hex

NOT_AFTER = datetime.datetime(2040, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def root_der(name: str, *, ca: bool = True) -> bytes:
    """A self-signed certificate; the same one for the same name."""
    return _der(name, ca)


@functools.cache
def _der(name: str, ca: bool) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(0x55)
        .not_valid_before(NOT_AFTER - datetime.timedelta(days=9000))
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def root_pem(name: str, *, ca: bool = True) -> bytes:
    return ssl.DER_cert_to_PEM_cert(root_der(name, ca=ca)).encode()


def root_id(name: str, *, ca: bool = True) -> str:
    """Hex SHA-256 of its DER."""
    return sha256_hex(root_der(name, ca=ca))
