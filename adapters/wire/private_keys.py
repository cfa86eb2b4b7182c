"""Key pairs as keyd uses them: signatures, RSA operations, public parameters (services.md §5.6 to 5.8).

``cryptography`` objects do not leave this file. Everything blocks: it is for worker threads.
"""

import base64
from functools import cached_property

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from adapters.wire.rsa_private import FaultyResult, RsaNumbers, consistent, raw_private

MAX_RSA_BITS = 8192
"A longer key, which nobody has, would keep a processor busy for seconds."

_P256_OID_DER = bytes.fromhex("06082a8648ce3d030107")
_PKCS1_OVERHEAD_BYTES = 11
_HASH_BY_LENGTH: dict[int, hashes.HashAlgorithm] = {
    algorithm.digest_size: algorithm
    for algorithm in (
        hashes.SHA1(),  # nothing is hashed with it: it says how long the caller's digest is
        hashes.SHA224(),
        hashes.SHA256(),
        hashes.SHA384(),
        hashes.SHA512(),
    )
}


class KeyUnreadable(Exception):
    """Not the PEM of an unencrypted RSA or EC private key."""


class Unsuitable(Exception):
    """This key, or this input, is not for that operation; the text says why."""


class CryptoFailed(Exception):
    """The operation failed for a reason the caller cannot mend."""


class KeyPair:
    """A private key, parsed once. Safe to use from several threads."""

    def __init__(self, pem: bytes) -> None:
        """PKCS#8 or the traditional form. Raises KeyUnreadable."""
        try:
            # The library's own check of an RSA key looks for primes, and holds up every thread meanwhile.
            key = load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise KeyUnreadable("no unencrypted private key in PEM form") from exc
        if isinstance(key, rsa.RSAPrivateKey):
            if key.key_size > MAX_RSA_BITS:
                raise KeyUnreadable(f"an RSA key of more than {MAX_RSA_BITS} bits")
            if not consistent(_numbers_of(key), key.private_numbers().d):
                raise KeyUnreadable("an RSA key whose parts do not belong together")
        elif not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyUnreadable("neither an RSA nor an EC key")
        self._key = key

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA over a digest made elsewhere, as a DER ``ECDSA-Sig-Value``. Raises Unsuitable.

        A digest longer than the curve's order counts with its leftmost bits (FIPS 186-5 section 6.4.1).
        """
        if not isinstance(self._key, ec.EllipticCurvePrivateKey):
            raise Unsuitable("ECDSA needs an EC key")
        algorithm = _HASH_BY_LENGTH.get(len(digest))
        if algorithm is None:
            raise Unsuitable(f"a digest has 20, 28, 32, 48 or 64 bytes, not {len(digest)}")
        return self._key.sign(digest, ec.ECDSA(utils.Prehashed(algorithm)))

    def rsa_pkcs1(self, content: bytes) -> bytes:
        """Padded as RFC 8017 section 9.2 pads a DigestInfo, which ``content`` need not be.

        As long as the modulus. OpenSSL blinds and checks it. Raises Unsuitable.
        """
        key = self._rsa()
        room = (key.key_size + 7) // 8 - _PKCS1_OVERHEAD_BYTES
        if len(content) > room:
            raise Unsuitable(f"this key takes at most {room} bytes, not {len(content)}")
        return key.sign(content, padding.PKCS1v15(), utils.NoDigestInfo())

    def rsa_raw(self, block: bytes) -> bytes:
        """The bare operation; ``block`` is as long as the modulus and the less number, so is the result.

        Raises Unsuitable and CryptoFailed.
        """
        size = (self._rsa().key_size + 7) // 8
        if len(block) != size:
            raise Unsuitable(f"this key takes exactly {size} bytes, not {len(block)}")
        try:
            return raw_private(self._numbers, int.from_bytes(block)).to_bytes(size)
        except ValueError as exc:
            raise Unsuitable(str(exc)) from exc
        except FaultyResult as exc:
            raise CryptoFailed(str(exc)) from exc

    def parameter(self, name: str) -> str:
        """A public parameter as keyd.sock writes it. Raises Unsuitable for one this key does not have."""
        match name, self._key:
            case "algorithm", ec.EllipticCurvePrivateKey():
                return "ECDSA"
            case "algorithm", rsa.RSAPrivateKey():
                return "RSA"
            case "ec-curve-oid", ec.EllipticCurvePrivateKey(curve=ec.SECP256R1()):
                return _base64(_P256_OID_DER)
            case "ec-point", ec.EllipticCurvePrivateKey(curve=ec.SECP256R1()):
                return _base64(
                    self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
                )
            case "rsa-modulus", rsa.RSAPrivateKey():
                return _base64(_minimal(self._key.public_key().public_numbers().n))
            case "rsa-exponent", rsa.RSAPrivateKey():
                return _base64(_minimal(self._key.public_key().public_numbers().e))
        raise Unsuitable("no such parameter of this key")

    def _rsa(self) -> rsa.RSAPrivateKey:
        if not isinstance(self._key, rsa.RSAPrivateKey):
            raise Unsuitable("RSA needs an RSA key")
        return self._key

    @cached_property
    def _numbers(self) -> RsaNumbers:
        return _numbers_of(self._rsa())


def _numbers_of(key: rsa.RSAPrivateKey) -> RsaNumbers:
    private = key.private_numbers()
    public = private.public_numbers
    return RsaNumbers(
        n=public.n,
        e=public.e,
        p=private.p,
        q=private.q,
        d_p=private.dmp1,
        d_q=private.dmq1,
        q_inv=private.iqmp,
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)
