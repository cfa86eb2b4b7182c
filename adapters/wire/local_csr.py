"""Key and request of a local identity, with the extensions the original asks for (services.md §3.6).

Generating an RSA key blocks for a noticeable part of a second: this is for worker threads.
"""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MAX_CN_BYTES = 64
"ub-common-name of RFC 5280 counts characters, the original and our library count bytes: the lesser rules."

_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=True,
    key_encipherment=True,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def new_request(common_name: str, *, server: bool) -> tuple[bytes, str]:
    """A fresh RSA-2048 key as PKCS#8 PEM, and the PEM of a request for it, signed with SHA-256.

    The CN is cut to 64 bytes, never inside a character. Every certificate is for TLS clients, and for
    servers too when asked. Raises ValueError when nothing is left to be a CN, or it is not text.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if server:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cut(common_name))]))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=True)
        .sign(key, SHA256())
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key_pem, request.public_bytes(Encoding.PEM).decode("ascii")


def cut(common_name: str) -> str:
    """As much of it as a CN holds."""
    return common_name.encode()[:MAX_CN_BYTES].decode(errors="ignore")
