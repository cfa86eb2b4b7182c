"""Private keys that are somewhere else, in the shape that certificate builders sign with.

Only the operation that the key's place offers is asked for: ECDSA over a digest, or RSA over a padded
DigestInfo (reference/services.md §5.6 and §5.7). No private number is ever seen here.
"""

import hashlib
from collections.abc import Callable
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from msgspec import Struct

# The OID with tag and length, as `ec-curve-oid` names the curve; keyd knows no other.
_P256_OID_DER = bytes.fromhex("06082a8648ce3d030107")
# DigestInfo of SHA-256 up to the digest itself (RFC 8017 section 9.2, note 1).
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


class RemoteKey(Struct, frozen=True, kw_only=True):
    """A key that signs when asked. Both calls block, and may raise what their maker likes."""

    spki_der: bytes
    "The public half: DER of the SubjectPublicKeyInfo."
    ecdsa: Callable[[bytes], bytes]
    "DER Ecdsa-Sig-Value over the given digest. EC keys only."
    rsa_pkcs1: Callable[[bytes], bytes]
    "The private-key operation with type 1 padding over the given bytes. RSA keys only."


def ec_spki(curve_oid_der: bytes, point: bytes) -> bytes:
    """Of a SEC1 point, compressed or not. Raises ValueError, also for every curve but P-256."""
    if curve_oid_der != _P256_OID_DER:
        raise ValueError("not a key on the curve P-256")
    return _spki(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))


def rsa_spki(modulus: bytes, exponent: bytes) -> bytes:
    """Of big-endian unsigned integers. Raises ValueError."""
    numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus))
    return _spki(numbers.public_key())


def signing_key(key: RemoteKey) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """What a builder of ``cryptography`` takes; SHA-256 only. Raises ValueError."""
    public = load_der_public_key(key.spki_der)
    if isinstance(public, ec.EllipticCurvePublicKey):
        return _EcKey(public, key.ecdsa)
    if isinstance(public, rsa.RSAPublicKey):
        return _RsaKey(public, key.rsa_pkcs1)
    raise ValueError("only EC and RSA keys sign certificates")


def _spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _sha256(data: bytes, algorithm: object) -> bytes:
    if not isinstance(algorithm, SHA256):
        raise UnsupportedAlgorithm("a remote key signs with SHA-256")
    return hashlib.sha256(data).digest()


def _elsewhere() -> NoReturn:
    raise UnsupportedAlgorithm("the private key is somewhere else")


class _EcKey(ec.EllipticCurvePrivateKey):
    def __init__(self, public: ec.EllipticCurvePublicKey, ecdsa: Callable[[bytes], bytes]) -> None:
        self._public = public
        self._ecdsa = ecdsa

    def sign(self, data: object, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        assert isinstance(data, bytes)
        return self._ecdsa(_sha256(data, signature_algorithm.algorithm))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, *_: object) -> bytes:
        _elsewhere()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        _elsewhere()

    def private_bytes(self, *_: object) -> bytes:
        _elsewhere()

    def __copy__(self) -> "_EcKey":
        return self

    def __deepcopy__(self, memo: object) -> "_EcKey":
        return self


class _RsaKey(rsa.RSAPrivateKey):
    def __init__(self, public: rsa.RSAPublicKey, rsa_pkcs1: Callable[[bytes], bytes]) -> None:
        self._public = public
        self._rsa_pkcs1 = rsa_pkcs1

    def sign(self, data: object, padding_: object, algorithm: HashAlgorithm | object) -> bytes:
        assert isinstance(data, bytes)
        if not isinstance(padding_, padding.PKCS1v15):
            raise UnsupportedAlgorithm("a remote key pads with PKCS#1 v1.5")
        return self._rsa_pkcs1(_SHA256_INFO + _sha256(data, algorithm))

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def decrypt(self, *_: object) -> bytes:
        _elsewhere()

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        _elsewhere()

    def private_bytes(self, *_: object) -> bytes:
        _elsewhere()

    def __copy__(self) -> "_RsaKey":
        return self

    def __deepcopy__(self, memo: object) -> "_RsaKey":
        return self
