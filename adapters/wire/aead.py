"""AES-256-GCM in keyd's framing (services.md §5.7).

``0x02`` ‖ ciphertext ‖ tag is written and read; ``0x01`` ‖ tag ‖ ciphertext, of IoT Edge 1.1, is read only.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adapters.wire.private_keys import CryptoFailed, Unsuitable

KEY_BYTES = 32
TAG_BYTES = 16
IV_BYTES = range(8, 129)
"What our library takes; 12 is what everybody uses."
WRITTEN, LEGACY = 0x02, 0x01


def seal(key: bytes, iv: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """The framed ciphertext. Raises Unsuitable."""
    return bytes([WRITTEN]) + _cipher(key, iv).encrypt(iv, plaintext, aad)


def unseal(key: bytes, iv: bytes, aad: bytes, framed: bytes) -> bytes:
    """The plaintext. Raises Unsuitable for malformed input, CryptoFailed when the tag does not match."""
    cipher = _cipher(key, iv)
    if len(framed) < 1 + TAG_BYTES:
        raise Unsuitable("the ciphertext is too short to hold a tag")
    version, rest = framed[0], framed[1:]
    if version == LEGACY:
        rest = rest[TAG_BYTES:] + rest[:TAG_BYTES]
    elif version != WRITTEN:
        raise Unsuitable(f"the ciphertext has the unknown version {version}")
    try:
        return cipher.decrypt(iv, rest, aad)
    except InvalidTag as exc:
        raise CryptoFailed("the tag does not match: another key, iv, aad or ciphertext") from exc


def _cipher(key: bytes, iv: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise Unsuitable(f"AEAD needs a key of {KEY_BYTES} bytes, not {len(key)}")
    if len(iv) not in IV_BYTES:
        raise Unsuitable(f"an iv has {IV_BYTES.start} to {IV_BYTES.stop - 1} bytes, not {len(iv)}")
    return AESGCM(key)
