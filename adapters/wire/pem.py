"""Where the certificates of a PEM text are. Nothing is parsed beyond base64; text around blocks is nobody's.

Files that people edit and programs concatenate come with missing line ends, CRLF, byte order marks and
words in any encoding between the blocks; only the blocks matter (RFC 7468 section 2).
"""

import base64
import binascii
import hashlib
import itertools
import re
from collections.abc import Iterator

# "X509 CERTIFICATE" is the name of old (RFC 7468 section 5.1). OpenSSL's "TRUSTED CERTIFICATE" holds more
# than a certificate, and a reader that ignored the rest would trust it for too much: no block of ours.
_BEGIN = re.compile(rb"-----BEGIN ((?:X509 )?CERTIFICATE)-----")


def certificate_blocks(text: bytes) -> Iterator[bytes | None]:
    """The content of each certificate block in order: what should be DER, or None when it is not base64.

    A block without an end, or with another beginning inside, is None as well. Time is linear in ``text``.
    """
    begins = list(_BEGIN.finditer(text))
    for begin, following in itertools.zip_longest(begins, begins[1:]):
        limit = len(text) if following is None else following.start()
        end = text.find(b"-----END " + begin[1] + b"-----", begin.end(), limit)
        yield None if end < 0 else _content(text[begin.end() : end])


def sha256_hex(der: bytes) -> str:
    """How a certificate is told from every other."""
    return hashlib.sha256(der).hexdigest()


def whole_der(content: bytes) -> bool:
    """Whether this is one ASN.1 SEQUENCE and nothing behind it, its length in the form that DER wants."""
    if len(content) < 2 or content[0] != 0x30:
        return False
    first = content[1]
    if first < 0x80:
        return len(content) == 2 + first
    size = first & 0x7F
    length = int.from_bytes(content[2 : 2 + size])
    return 0 < size <= 4 and length >= 0x80 and content[2] != 0 and len(content) == 2 + size + length


def _content(body: bytes) -> bytes | None:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True) or None
    except binascii.Error:
        return None
