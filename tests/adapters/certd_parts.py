"""certd as the service composes it, on files below a directory, with real keys in a list instead of keyd."""

import base64
import datetime
import os

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from adapters.driven.certificates.embedded import EmbeddedCertificates
from adapters.driven.credentials import GenerationStore
from adapters.driven.generations import certificate_file_name
from adapters.errors import RequestRefused
from adapters.ports import Ecdsa, RsaPkcs1
from statemachine.settings import CertificateSettings

DAY = 86_400_000
NOW = 1_764_000_000_000
HANDLE = "secret handle of "
EC_KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Clock:
    """Stands still."""

    def __init__(self, now_unix_ms=NOW):
        self.now = now_unix_ms

    def now_unix_ms(self):
        return self.now


class Keys:
    """As much of ``ports.KeyService`` as certd uses, with real keys."""

    def __init__(self, **pairs):
        self.pairs = pairs
        self.signed_by = None
        "Another key, used behind everybody's back."
        self.used = 0
        self.before_use = trio.lowlevel.checkpoint

    async def load_key_pair(self, key_id):
        await trio.lowlevel.checkpoint()
        if key_id not in self.pairs:
            raise RequestRefused("a parameter has an invalid value", code="not-found")
        return HANDLE + key_id

    def _key(self, handle):
        key = self.pairs.get(handle.removeprefix(HANDLE)) if handle.startswith(HANDLE) else None
        if key is None:
            raise RequestRefused("invalid handle", code="handle-invalid", parameter="handle")
        return key

    async def public_parameter(self, handle, name):
        public = self._key(handle).public_key()
        if name == "algorithm":
            return "ECDSA" if isinstance(public, ec.EllipticCurvePublicKey) else "RSA"
        if name == "ec-curve-oid":
            return "BggqhkjOPQMBBw=="
        if name == "ec-point":
            return encoded(public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
        numbers = public.public_numbers()
        number = numbers.n if name == "rsa-modulus" else numbers.e
        return encoded(number.to_bytes((number.bit_length() + 7) // 8))

    async def sign(self, handle, mechanism):
        key = self.signed_by or self._key(handle)
        assert isinstance(mechanism, Ecdsa)
        assert len(mechanism.digest) == 32
        await self.before_use()
        self.used += 1
        return key.sign(mechanism.digest, ec.ECDSA(Prehashed(SHA256())))

    async def encrypt(self, handle, mechanism, plaintext):
        key = self._key(handle)
        assert isinstance(mechanism, RsaPkcs1)
        await self.before_use()
        self.used += 1
        numbers = key.private_numbers()
        n, size = numbers.public_numbers.n, key.key_size // 8
        block = b"\x00\x01" + b"\xff" * (size - 3 - len(plaintext)) + b"\x00" + plaintext
        return pow(int.from_bytes(block), numbers.d, n).to_bytes(size)


class Certd:
    """The adapter and where its files are."""

    def __init__(self, root, *, keys=None, clock=None, **settings):
        self.root = os.fspath(root)
        self.keys = keys or Keys()
        self.clock = clock or Clock()
        self.settings = CertificateSettings(**settings)
        store = GenerationStore(f"{self.root}/state", f"{self.root}/certd", f"{self.root}/keyd")
        self.certificates = EmbeddedCertificates(
            f"{self.root}/certd", store.read_certificate, lambda: self.settings, self.keys, self.clock
        )

    def path(self, certificate_id):
        return f"{self.root}/certd/certs/{certificate_file_name(certificate_id)}"

    def file(self, certificate_id):
        """What is on disk; None when nothing is."""
        try:
            with open(self.path(certificate_id), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def put(self, certificate_id, content):
        """Without asking anybody."""
        os.makedirs(f"{self.root}/certd/certs", exist_ok=True)
        with open(self.path(certificate_id), "wb") as file:
            file.write(content)

    def files(self):
        """All names below certd's home."""
        return sorted(name for _, _, names in os.walk(f"{self.root}/certd") for name in names)

    def create(self, certificate_id, csr_pem, issuer=None):
        return trio.run(self.certificates.create_certificate, certificate_id, csr_pem, issuer)

    def import_(self, certificate_id, pem):
        trio.run(self.certificates.import_certificate, certificate_id, pem)

    def read(self, certificate_id):
        return trio.run(self.certificates.read_certificate, certificate_id)

    def delete(self, certificate_id):
        trio.run(self.certificates.delete_certificate, certificate_id)


def encoded(data):
    return base64.b64encode(data).decode()


def named(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def instant(unix_ms):
    return datetime.datetime.fromtimestamp(unix_ms / 1000, datetime.UTC)


def csr(key, subject="leaf", *extensions):
    """PEM text of a request. ``extensions`` are values, or pairs of a value and whether it is critical."""
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(named(subject) if isinstance(subject, str) else subject)
    for extension in extensions:
        value, critical = extension if isinstance(extension, tuple) else (extension, False)
        builder = builder.add_extension(value, critical)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def ca_pem(key, subject="CA", *, end=NOW + 1000 * DAY, identifier=True, ca=True):
    """A self-signed certificate made without the code under test."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(subject))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(instant(min(NOW, end) - DAY))
        .not_valid_after(instant(end))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(key_usage(key_cert_sign=ca, digital_signature=not ca), critical=True)
    )
    if identifier:
        value = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(value, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def key_usage(**wanted):
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})
