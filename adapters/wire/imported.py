"""Whether a text is what certd may be given to keep: PEM certificates, one at least, and nothing secret.

The original keeps any text, even an empty one (reference/services.md §10, quirk 10). What stands around
the blocks is nobody's business (RFC 7468 section 2), but a block of another kind is refused: certificates
are handed to everybody who asks, and a private key among them would be too.
"""

import ssl

from adapters.errors import RequestRefused
from adapters.wire.pem import certificate_blocks, whole_der
from adapters.wire.x509 import MAX_BUNDLE_BYTES

MAX_CERTIFICATES = 512
"Different ones in one text."


def check_import(pem: str) -> bytes:
    """The text as bytes, unchanged. Raises RequestRefused (parameter ``pem``). Blocks while it parses."""
    try:
        text = pem.encode()
    except UnicodeEncodeError as exc:
        raise _refused("not text") from exc
    if len(text) > MAX_BUNDLE_BYTES:
        raise _refused(f"larger than {MAX_BUNDLE_BYTES} bytes")
    # OpenSSL is asked, because it reads the certificates with serial number 0 that the original issued.
    reader = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    seen: set[bytes] = set()
    number = 0
    for number, der in enumerate(certificate_blocks(text), 1):
        if der is None or (der not in seen and not _is_certificate(der, reader)):
            raise _refused(f"certificate {number} cannot be parsed")
        seen.add(der)
        if len(seen) > MAX_CERTIFICATES:
            raise _refused(f"more than {MAX_CERTIFICATES} certificates")
    if not seen:
        raise _refused("it holds no PEM certificate")
    if text.count(b"-----BEGIN ") != number or text.count(b"-----END ") != number:
        raise _refused("it holds a PEM block that is not a certificate, or half of one")
    return text


def _is_certificate(der: bytes, reader: ssl.SSLContext) -> bool:
    if not whole_der(der):
        return False
    try:
        reader.load_verify_locations(cadata=der)
    except ssl.SSLError:
        return False
    return True


def _refused(why: str) -> RequestRefused:
    return RequestRefused(why, code="pem-invalid", parameter="pem")
