"""Certificate requests for keys that are somewhere else (reference/cloud.md §1.3, steps 3 and 4).

Signing waits for the key's place: for worker threads.
"""

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from adapters.wire.remote_key import RemoteKey, signing_key

_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def new_request(common_name: str, key: RemoteKey, *, ca: bool = False) -> str:
    """PEM of a request whose subject is exactly ``CN=common_name``, signed with SHA-256.

    Without extensions, unless it is for a ``ca``: then with basicConstraints and keyUsage of RFC 5280
    sections 4.2.1.9 and 4.2.1.3.

    Raises ValueError for a CN that is empty or too long and for a key that signs no requests, and whatever
    ``key`` raises.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_CA_USAGE, critical=True)
    request = builder.sign(signing_key(key), SHA256())
    return request.public_bytes(Encoding.PEM).decode("ascii")
