"""Certificates are judged in one place; these are its sentences."""

import base64
import datetime
import functools
import hashlib

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.errors import CertificateRejected
from adapters.wire import x509 as wire

DAY = 86_400_000
T0 = 1_700_000_000_000
CN = "line4-press-17"


def name(cn):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])


def instant(unix_ms):
    return datetime.datetime.fromtimestamp(unix_ms / 1000, datetime.UTC)


class Issuer:
    def __init__(self, cn, parent=None):
        self.cn, self.key = cn, ec.generate_private_key(ec.SECP256R1())
        self.certificate = (parent or self).issue(self.key.public_key(), cn, ca=True)

    def issue(self, public_key, cn, *, ca=False, begin=T0 - DAY, end=T0 + 30 * DAY, serial=0x0ABC):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(cn))
            .issuer_name(name(self.cn))
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(instant(begin))
            .not_valid_after(instant(end))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        return builder.sign(self.key, SHA256())


ROOT = Issuer("root")
MIDDLE = Issuer("middle", ROOT)
KEY_PEM = wire.new_key("ec-p256")
SPKI = wire.spki_sha256_of_key(KEY_PEM)
PUBLIC = load_pem_private_key(KEY_PEM, None).public_key()
LEAF = MIDDLE.issue(PUBLIC, CN)


def pem(*certificates):
    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)


def ordered(chain, spki=SPKI):
    return wire.order_chain(chain, spki_sha256=spki)


@pytest.mark.parametrize("algorithm", ["ec-p256", "rsa-2048"])
def test_a_csr_is_exactly_its_cn(algorithm):
    key_pem = wire.new_key(algorithm)
    request = x509.load_der_x509_csr(wire.make_csr(key_pem, CN))
    assert request.subject == name(CN)
    assert not list(request.attributes)
    assert not list(request.extensions)
    assert isinstance(request.signature_hash_algorithm, SHA256)
    assert request.is_signature_valid
    spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert wire.spki_sha256_of_key(key_pem) == hashlib.sha256(spki).hexdigest()
    assert key_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_what_is_no_request():
    with pytest.raises(ValueError, match="unknown key algorithm"):
        wire.new_key("dsa")
    with pytest.raises(ValueError, match="length"):
        wire.make_csr(KEY_PEM, "x" * 65)
    with pytest.raises(CertificateRejected) as caught:
        wire.make_csr(b"garbage", CN)
    assert (caught.value.code, caught.value.failure_class) == ("key-unusable", "operator")


def test_facts():
    facts = wire.facts(pem(LEAF, MIDDLE.certificate))
    assert facts == wire.CertificateFacts(
        subject_cn=CN,
        serial_hex="abc",
        not_before_unix_ms=T0 - DAY,
        not_after_unix_ms=T0 + 30 * DAY,
        spki_sha256=SPKI,
        sha256=hashlib.sha256(LEAF.public_bytes(Encoding.DER)).hexdigest(),
        is_ca=False,
    )
    assert wire.facts(pem(ROOT.certificate)).is_ca


@pytest.mark.parametrize(
    "order",
    [
        (LEAF, MIDDLE.certificate, ROOT.certificate),
        (ROOT.certificate, MIDDLE.certificate, LEAF),
        (MIDDLE.certificate, LEAF, ROOT.certificate, LEAF),
    ],
)
def test_order_is_repaired(order):
    chain = ordered(pem(*order).replace(b"\n", b"\r\n"))
    assert chain.intact
    assert chain.chain_pem == pem(LEAF, MIDDLE.certificate, ROOT.certificate)


def test_a_lone_leaf_is_a_chain():
    assert ordered(pem(LEAF)).intact
    assert ordered(pem(LEAF)).chain_pem == pem(LEAF)


OTHER = Issuer("other")
IMPOSTOR = Issuer("middle")


@pytest.mark.parametrize(
    "chain",
    [b"", pem(LEAF)[:-80], pem(*[ROOT.certificate] * 17), b" " * (256 * 1024) + pem(LEAF)],
)
def test_what_is_no_chain(chain):
    with pytest.raises(CertificateRejected) as caught:
        ordered(chain)
    assert (caught.value.code, caught.value.failure_class) == ("chain-unparsable", "retry")


@pytest.mark.parametrize("stranger", [OTHER.certificate, IMPOSTOR.certificate, ROOT.certificate])
def test_a_chain_with_a_gap_is_not_intact(stranger):
    assert not ordered(pem(LEAF, stranger)).intact


def test_the_leaf_is_the_one_for_the_key():
    other = OTHER.issue(load_pem_private_key(wire.new_key("ec-p256"), None).public_key(), "another")
    assert ordered(pem(other, LEAF)).leaf.spki_sha256 == SPKI
    assert ordered(pem(other), spki=SPKI).leaf.subject_cn == "another"


def test_ordering_judges_nothing():
    chain = wire.order_chain(pem(LEAF, OTHER.certificate), spki_sha256="")
    assert not chain.intact
    assert chain.leaf.subject_cn == CN
    assert chain.chain_pem == pem(LEAF, OTHER.certificate)


def test_der_chain():
    ders = [c.public_bytes(Encoding.DER) for c in (LEAF, MIDDLE.certificate)]
    assert wire.der_chain_to_pem(ders) == pem(LEAF, MIDDLE.certificate)
    for bad in ([], [b"x"], ders * 9):
        with pytest.raises(CertificateRejected, match="certificate"):
            wire.der_chain_to_pem(bad)


def test_bundle_is_cleaned():
    first, second = pem(ROOT.certificate).decode(), pem(MIDDLE.certificate).decode()
    bundle = wire.normalise_bundle(
        [first.rstrip("\n"), "# note\r\n" + second.replace("\n", "\r\n") + first, second]
    )
    assert bundle.pem == pem(ROOT.certificate, MIDDLE.certificate)
    assert bundle.count == 2
    assert bundle.sha256 == hashlib.sha256(bundle.pem).hexdigest()


@pytest.mark.parametrize(
    "pems",
    [
        [],
        [""],
        ["no"],
        [pem(ROOT.certificate).decode(), ""],
        [pem(ROOT.certificate).decode()] * 129,
        ["x" * (1024 * 1024 + 1)],
    ],
)
def test_bad_bundles(pems):
    with pytest.raises(CertificateRejected) as caught:
        wire.normalise_bundle(pems)
    assert caught.value.code == "bundle-unparsable"


def test_pairs():
    assert wire.facts(pem(LEAF)).spki_sha256 == wire.spki_sha256_of_key(KEY_PEM)
    assert wire.facts(pem(MIDDLE.certificate)).spki_sha256 != wire.spki_sha256_of_key(KEY_PEM)
    trusted = trustme.CA().issue_cert("x.test")
    chain, key = trusted.cert_chain_pems[0].bytes(), trusted.private_key_pem.bytes()
    assert wire.facts(chain).spki_sha256 == wire.spki_sha256_of_key(key)


def with_version(number):
    """The leaf with another number in ``[0] { INTEGER }``; nobody asks whether the signature still fits."""
    der = bytearray(LEAF.public_bytes(Encoding.DER))
    position = der.index(b"\xa0\x03\x02\x01\x02")
    der[position + 4] = number
    return bytes(der)


def test_a_version_from_the_future_is_a_rejection():
    with pytest.raises(CertificateRejected) as caught:
        wire.der_chain_to_pem([with_version(3)])
    assert caught.value.code == "chain-unparsable"
    lines = base64.encodebytes(with_version(3)).decode()
    text = f"-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n"
    with pytest.raises(CertificateRejected):
        wire.facts(text.encode())
    with pytest.raises(CertificateRejected):
        wire.normalise_bundle([text])


@functools.cache
def leaf_der():
    return LEAF.public_bytes(Encoding.DER)


# A serial that is not positive is still read, with a warning; old roots have one.
@pytest.mark.filterwarnings("ignore:Parsed a serial:cryptography.utils.CryptographyDeprecationWarning")
@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10_000), st.integers(1, 255))
@example(90, 15).via("a CN of type BIT STRING, which the library answers with a TypeError")
def test_a_damaged_certificate_is_facts_or_a_rejection(position, flip):
    der = bytearray(leaf_der())
    der[position % len(der)] ^= flip
    caught = []
    try:
        chain = wire.der_chain_to_pem([bytes(der)])
        wire.order_chain(chain + pem(MIDDLE.certificate), spki_sha256=SPKI)
    except CertificateRejected as exc:
        caught.append(exc.code)
    assert caught in ([], ["chain-unparsable"])


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_are_no_chain(garbage):
    with pytest.raises(CertificateRejected):
        wire.facts(b"-----BEGIN CERTIFICATE-----\n" + garbage + b"\n-----END CERTIFICATE-----\n")
