"""Signatures, private RSA operations, AEAD and parameters, checked with somebody else's other half."""

import base64
import hashlib
import secrets

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from adapters.wire import aead, private_keys, rsa_private
from adapters.wire.private_keys import CryptoFailed, KeyPair, KeyUnreadable, Unsuitable
from adapters.wire.rsa_private import FaultyResult, RsaNumbers, consistent, raw_private
from tests.adapters.keyd_home import K1, P256_ONE, P384, RSA_2048, RSA_3072, b64, pem_of

SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
IV, AAD = b"0123456789ab", b"aad"

EC_PAIR, P384_PAIR = KeyPair(pem_of(P256_ONE)), KeyPair(pem_of(P384))
RSA_PAIRS = {key.key_size: (key, KeyPair(pem_of(key))) for key in (RSA_2048, RSA_3072)}


def numbers_of(key):
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


def pss_block(message, bits, salt=b"s" * 32):
    """EMSA-PSS-ENCODE of RFC 8017 section 9.1.1 with SHA-256, as a client does it."""
    size = (bits - 1 + 7) // 8
    digest = hashlib.sha256(b"\0" * 8 + hashlib.sha256(message).digest() + salt).digest()
    data = b"\0" * (size - len(salt) - len(digest) - 2) + b"\1" + salt
    mask = b"".join(
        hashlib.sha256(digest + counter.to_bytes(4)).digest() for counter in range(len(data) // 32 + 1)
    )
    masked = bytearray(a ^ b for a, b in zip(data, mask, strict=False))
    masked[0] &= 0xFF >> (8 * size - (bits - 1))
    return bytes(masked) + digest + b"\xbc"


# --- ECDSA -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", [hashes.SHA1(), hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
)
@pytest.mark.parametrize(("pair", "key"), [(EC_PAIR, P256_ONE), (P384_PAIR, P384)], ids=["p256", "p384"])
def test_ecdsa_over_each_length_of_digest(pair, key, algorithm):
    digest = secrets.token_bytes(algorithm.digest_size)
    signature = pair.sign_digest(digest)
    scheme = ec.ECDSA(utils.Prehashed(algorithm))
    key.public_key().verify(signature, digest, scheme)
    with pytest.raises(InvalidSignature):
        # The first byte counts, however long the digest is.
        key.public_key().verify(signature, bytes([digest[0] ^ 1]) + digest[1:], scheme)


@pytest.mark.parametrize("size", [0, 1, 16, 31, 33, 36, 65, 1000])
def test_other_digests_are_refused(size):
    with pytest.raises(Unsuitable):
        EC_PAIR.sign_digest(b"d" * size)


def test_an_rsa_key_makes_no_ecdsa_signature():
    with pytest.raises(Unsuitable):
        RSA_PAIRS[2048][1].sign_digest(b"d" * 32)


# --- RSA ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", RSA_PAIRS)
def test_pkcs1_with_a_digest_info_is_an_ordinary_signature(bits):
    key, pair = RSA_PAIRS[bits]
    signature = pair.rsa_pkcs1(SHA256_INFO + hashlib.sha256(b"hello").digest())
    assert len(signature) == bits // 8
    key.public_key().verify(signature, b"hello", padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("size", [0, 1, 36, 200, 245])
def test_pkcs1_pads_whatever_fits(size):
    key, pair = RSA_PAIRS[2048]
    content = secrets.token_bytes(size)
    public = key.public_key().public_numbers()
    block = pow(int.from_bytes(pair.rsa_pkcs1(content)), public.e, public.n).to_bytes(256)
    assert block == b"\0\1" + b"\xff" * (253 - size) + b"\0" + content


def test_pkcs1_refuses_what_does_not_fit():
    with pytest.raises(Unsuitable, match="at most 245 bytes, not 246"):
        RSA_PAIRS[2048][1].rsa_pkcs1(b"x" * 246)


@pytest.mark.parametrize("bits", RSA_PAIRS)
def test_raw_makes_a_pss_signature(bits):
    key, pair = RSA_PAIRS[bits]
    signature = pair.rsa_raw(pss_block(b"hello", bits))
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)
    key.public_key().verify(signature, b"hello", scheme, hashes.SHA256())


def test_raw_and_pkcs1_agree():
    _, pair = RSA_PAIRS[2048]
    assert pair.rsa_raw(b"\0\1" + b"\xff" * 250 + b"\0abc") == pair.rsa_pkcs1(b"abc")


@pytest.mark.parametrize("block", [b"", b"x", b"\0" * 255, b"\0" * 257, b"\xff" * 256])
def test_raw_refuses_what_is_no_block(block):
    with pytest.raises(Unsuitable):
        RSA_PAIRS[2048][1].rsa_raw(block)


@pytest.mark.parametrize("value", [0, 1, 2])
def test_the_result_keeps_its_leading_zeros(value):
    key, pair = RSA_PAIRS[2048]
    private = key.private_numbers()
    expected = pow(value, private.d, private.public_numbers.n)
    assert pair.rsa_raw(value.to_bytes(256)) == expected.to_bytes(256)


@given(st.integers(0, 2**64))
def test_raw_inverts_the_public_operation(seed):
    """With small primes, so that the edges of the CRT are met: multiples of p and of q among them."""
    p, q, e = 1_000_003, 1_000_033, 65537
    n = p * q
    d = pow(e, -1, (p - 1) * (q - 1))
    key = RsaNumbers(n=n, e=e, p=p, q=q, d_p=d % (p - 1), d_q=d % (q - 1), q_inv=pow(q, -1, p))
    for block in (seed % n, seed % q * p, seed % p * q):
        assert raw_private(key, block) == pow(block, d, n)


@pytest.mark.parametrize("part", ["p", "q", "d_p", "d_q", "q_inv"])
def test_a_fault_gives_nothing_away(part):
    """One wrong half would let anybody compute the other prime."""
    right = numbers_of(RSA_2048)
    parts = {name: getattr(right, name) for name in ("n", "e", "p", "q", "d_p", "d_q", "q_inv")}
    with pytest.raises(FaultyResult):
        raw_private(RsaNumbers(**(parts | {part: parts[part] ^ 2})), 12345)


def test_a_fault_is_told_as_a_failure(monkeypatch):
    pair = KeyPair(pem_of(RSA_2048))
    numbers = numbers_of(RSA_2048)
    broken = RsaNumbers(**({f: getattr(numbers, f) for f in numbers.__struct_fields__} | {"d_p": 3}))
    monkeypatch.setattr(pair, "_numbers", broken)
    with pytest.raises(CryptoFailed):
        pair.rsa_raw(b"\0" * 255 + b"\2")


def test_neither_block_nor_exponents_are_computed_with_as_they_are(monkeypatch):
    """Every private power is of a blinded block to a blinded exponent, and never the same twice."""
    seen = []

    def spy(base, exponent, modulus):
        seen.append((base, exponent, modulus))
        return pow(base, exponent, modulus)

    monkeypatch.setattr(rsa_private, "pow", spy, raising=False)
    key = numbers_of(RSA_2048)
    for _ in range(2):
        raw_private(key, 12345)
    private = [(base, exponent) for base, exponent, modulus in seen if modulus in (key.p, key.q)]
    assert len(private) == 4
    assert len({base for base, _ in private}) == 4
    assert 12345 not in {base for base, _ in private}
    assert not {key.d_p, key.d_q} & {exponent for _, exponent in private}


def test_an_ec_key_does_no_rsa():
    with pytest.raises(Unsuitable):
        EC_PAIR.rsa_pkcs1(b"x")
    with pytest.raises(Unsuitable):
        EC_PAIR.rsa_raw(b"x" * 256)


# --- parameters --------------------------------------------------------------------------------------


def test_e28():
    assert EC_PAIR.parameter("algorithm") == "ECDSA"
    assert EC_PAIR.parameter("ec-curve-oid") == "BggqhkjOPQMBBw=="
    assert EC_PAIR.parameter("ec-point") == "A2sX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKW"
    key, pair = RSA_PAIRS[2048]
    assert pair.parameter("algorithm") == "RSA"
    assert pair.parameter("rsa-exponent") == "AQAB"
    assert pair.parameter("rsa-modulus") == b64(key.public_key().public_numbers().n.to_bytes(256))
    assert P384_PAIR.parameter("algorithm") == "ECDSA"


@pytest.mark.parametrize(
    ("pair", "name"),
    [
        (EC_PAIR, "rsa-modulus"),
        (EC_PAIR, "rsa-exponent"),
        (EC_PAIR, "nope"),
        (EC_PAIR, ""),
        (EC_PAIR, "Algorithm"),
        (P384_PAIR, "ec-curve-oid"),
        (P384_PAIR, "ec-point"),
        (RSA_PAIRS[2048][1], "ec-point"),
        (RSA_PAIRS[2048][1], "ec-curve-oid"),
    ],
)
def test_parameters_a_key_does_not_have(pair, name):
    with pytest.raises(Unsuitable):
        pair.parameter(name)


# --- reading keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [P256_ONE, RSA_2048], ids=["ec", "rsa"])
def test_the_traditional_form_is_read_too(key):
    pem = pem_of(key, PrivateFormat.TraditionalOpenSSL)
    assert pem.startswith((b"-----BEGIN EC PRIVATE KEY", b"-----BEGIN RSA PRIVATE KEY"))
    assert KeyPair(pem).parameter("algorithm") in ("ECDSA", "RSA")


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"\0" * 32,
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem_of(P256_ONE)[:120],
        pem_of(ed25519.Ed25519PrivateKey.generate()),
        P256_ONE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
    ],
    ids=["empty", "bytes", "garbage", "cut", "ed25519", "encrypted"],
)
def test_keys_that_cannot_be_used(pem):
    with pytest.raises(KeyUnreadable):
        KeyPair(pem)


@pytest.mark.parametrize("part", ["d", "dmp1", "dmq1", "iqmp"])
def test_an_rsa_key_whose_parts_do_not_belong_together(part):
    """As a bad block on a card leaves it: read without its own check, the library would use it."""
    private = RSA_2048.private_numbers()
    parts = {name: getattr(private, name) for name in ("p", "q", "d", "dmp1", "dmq1", "iqmp")}
    broken = rsa.RSAPrivateNumbers(
        **(parts | {part: parts[part] ^ 4}), public_numbers=private.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    with pytest.raises(KeyUnreadable, match="belong together"):
        KeyPair(pem_of(broken))


@pytest.mark.parametrize("part", ["n", "e", "p", "q", "d_p", "d_q", "q_inv"])
def test_every_part_is_compared(part):
    key, d = numbers_of(RSA_2048), RSA_2048.private_numbers().d
    assert consistent(key, d)
    assert not consistent(key, d ^ 4)
    for value in (getattr(key, part) ^ 4, 0, 1, 2):
        parts = {name: getattr(key, name) for name in key.__struct_fields__}
        assert not consistent(RsaNumbers(**(parts | {part: value})), d)


def test_no_byte_of_a_key_file_crashes_its_reader():
    """A changed byte makes the key unreadable, or is one that does not matter."""
    der = RSA_2048.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    good = KeyPair(pem_of(RSA_2048)).rsa_pkcs1(b"x")
    for at in range(0, len(der), 3):
        changed = der[:at] + bytes([der[at] ^ 0x11]) + der[at + 1 :]
        armoured = b"-----BEGIN PRIVATE KEY-----\n%b-----END PRIVATE KEY-----\n" % base64.encodebytes(changed)
        try:
            pair = KeyPair(armoured)
        except KeyUnreadable:
            continue
        assert pair.rsa_pkcs1(b"x") == good


def test_an_rsa_key_out_of_all_measure_is_not_used(monkeypatch):
    monkeypatch.setattr(private_keys, "MAX_RSA_BITS", 2048)
    KeyPair(pem_of(RSA_2048))
    with pytest.raises(KeyUnreadable, match="more than 2048 bits"):
        KeyPair(pem_of(RSA_3072))


def test_numbers_are_not_shown():
    assert repr(numbers_of(RSA_2048)) == "RsaNumbers(2048 bits)"


# --- AEAD --------------------------------------------------------------------------------------------


def test_e25():
    assert b64(aead.seal(K1, IV, AAD, b"hello")) == "AhQN29DUDBq8Lc5o2yxHjYortaHzqw=="


@given(st.binary(max_size=100), st.binary(min_size=8, max_size=128), st.binary(max_size=40))
def test_both_framings_are_read(plaintext, iv, aad):
    framed = aead.seal(K1, iv, aad, plaintext)
    legacy = b"\x01" + framed[-16:] + framed[1:-16]
    assert framed[0] == 2
    assert aead.unseal(K1, iv, aad, framed) == aead.unseal(K1, iv, aad, legacy) == plaintext


@given(st.data())
def test_a_changed_bit_is_noticed(data):
    framed = bytearray(aead.seal(K1, IV, AAD, b"hello"))
    framed[data.draw(st.integers(1, len(framed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CryptoFailed):
        aead.unseal(K1, IV, AAD, bytes(framed))


@pytest.mark.parametrize("framed", [b"", b"\x02", b"\x02" + b"x" * 15, b"\x03" + b"x" * 32, b"\x00" * 17])
def test_malformed_ciphertext(framed):
    with pytest.raises(Unsuitable):
        aead.unseal(K1, IV, AAD, framed)


@pytest.mark.parametrize(
    ("key", "iv"), [(b"k" * 31, IV), (b"k" * 16, IV), (b"", IV), (K1, b""), (K1, b"7bytes_")]
)
def test_keys_and_ivs_that_do_not_do(key, iv):
    with pytest.raises(Unsuitable):
        aead.seal(key, iv, AAD, b"hello")
    with pytest.raises(Unsuitable):
        aead.unseal(key, iv, AAD, b"\x02" + b"x" * 32)
