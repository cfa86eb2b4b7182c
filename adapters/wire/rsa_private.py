"""The bare RSA private-key operation, which ``cryptography`` does not offer (RFC 8017 section 5.1.2).

Python's integers take a time that depends on their values, so none of them may be the caller's: the block
is blinded with a fresh random factor, both exponents with a fresh multiple of their order. The result is
checked before anybody sees it: one faulty half of a CRT computation would give the key away.
"""

import secrets

from msgspec import Struct

_EXPONENT_BLINDING_BITS = 64


class RsaNumbers(Struct, frozen=True, kw_only=True):
    """A private key, as RFC 8017 section 3.2 names its parts. Secret: never printed."""

    n: int
    e: int
    p: int
    q: int
    d_p: int
    d_q: int
    q_inv: int

    def __repr__(self) -> str:
        return f"RsaNumbers({self.n.bit_length()} bits)"


def consistent(key: RsaNumbers, d: int) -> bool:
    """Whether all parts and the private exponent belong together (RFC 8017 section 3.2).

    That p and q are prime is not looked into.
    """
    return (
        key.p > 2
        and key.q > 2
        and key.p != key.q
        and key.p * key.q == key.n
        and key.e > 2
        and key.e * d % (key.p - 1) == key.e * key.d_p % (key.p - 1) == 1
        and key.e * d % (key.q - 1) == key.e * key.d_q % (key.q - 1) == 1
        and key.q_inv * key.q % key.p == 1
    )


class FaultyResult(Exception):
    """The computation went wrong. Nothing of it may be shown."""


def raw_private(key: RsaNumbers, block: int) -> int:
    """``block`` to the private exponent, modulo n. Raises ValueError unless 0 <= block < n, FaultyResult."""
    if not 0 <= block < key.n:
        raise ValueError("the block is not smaller than the modulus")
    factor, inverse = _blinding(key.n)
    blinded = block * pow(factor, key.e, key.n) % key.n
    m_p = pow(blinded % key.p, _blinded_exponent(key.d_p, key.p), key.p)
    m_q = pow(blinded % key.q, _blinded_exponent(key.d_q, key.q), key.q)
    result = m_q + key.q * ((m_p - m_q) * key.q_inv % key.p)
    if pow(result, key.e, key.n) != blinded:
        raise FaultyResult("the private-key operation did not come out right")
    return result * inverse % key.n


def _blinding(n: int) -> tuple[int, int]:
    while True:
        factor = 2 + secrets.randbelow(n - 2)
        try:
            return factor, pow(factor, -1, n)
        except ValueError:  # it shares a factor with n, which nobody has ever seen
            continue


def _blinded_exponent(exponent: int, prime: int) -> int:
    return exponent + secrets.randbits(_EXPONENT_BLINDING_BITS) * (prime - 1)
