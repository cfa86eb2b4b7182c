"""DPS and IoT Hub without a network, as the fakes are, but with certificates that are real.

The store reads back what it is given: key and leaf must fit, so a fake certificate would not do.
"""

import datetime
import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from msgspec import Struct, structs

from adapters.fakes.clock import VirtualClock
from adapters.fakes.cloud import FakeHub, FakeRegistrar, Operation
from adapters.fakes.peer import Asked
from adapters.ports import StagedKey
from adapters.wire.x509 import facts
from statemachine.effects import PollRegistration, ProveCredential, SubmitRegistration
from statemachine.events import (
    BundleFacts,
    ChainFacts,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
)

ISSUER = ec.generate_private_key(ec.SECP256R1())
DEVICE_ID = "device-1"
LIFE_MS = 30 * 86_400_000

_public: dict[str, ec.EllipticCurvePublicKey] = {}
"By SHA-256 of the SubjectPublicKeyInfo: of every CSR that was ever sent."


class CloudState(Struct, frozen=True):
    """All a cloud remembers between two starts of a device."""

    hub: str = "hub-1.example"
    bundle: str = "one"
    issues: bool = True
    operations: tuple[tuple[str, str], ...] = ()
    "Operation id, and the public key of its CSR."


def certify(
    public_key: ec.EllipticCurvePublicKey, common_name: str, not_before_unix_ms: int, not_after_unix_ms: int
) -> bytes:
    def instant(unix_ms: int) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(unix_ms // 1000, datetime.UTC)

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    builder = x509.CertificateBuilder().subject_name(named(common_name)).issuer_name(named("issuer"))
    builder = builder.public_key(public_key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(instant(not_before_unix_ms)).not_valid_after(
        instant(not_after_unix_ms)
    )
    return builder.sign(ISSUER, SHA256()).public_bytes(Encoding.PEM)


_bundles: dict[str, BundleFacts] = {}


def bundle_named(name: str) -> BundleFacts:
    if name not in _bundles:
        pem = certify(ISSUER.public_key(), f"root {name}", 0, 4_000_000_000_000)
        digest = hashlib.sha256(pem).hexdigest()
        _bundles[name] = BundleFacts(bundle_pem=pem, certificates=1, sha256=digest)
    return _bundles[name]


class Registrar(FakeRegistrar):
    """``store`` is where it finds the CSR that an effect means."""

    def __init__(self, clock: VirtualClock, store: StagedKey, state: CloudState, asked: list[Asked]) -> None:
        super().__init__(clock, registration_id=DEVICE_ID, life_ms=LIFE_MS, hub=state.hub, asked=asked)
        self._store = store
        self._bundle_name = state.bundle
        self.issues = state.issues
        self.bundle = bundle_named(state.bundle)
        self._operations = {name: Operation(spki, 0) for name, spki in state.operations}
        self._count = len(self._operations)

    @property
    def state(self) -> CloudState:
        operations = tuple((name, one.spki_sha256) for name, one in self._operations.items())
        return CloudState(self.hub, self._bundle_name, self.issues, operations)

    def move(self, hub: str) -> None:
        self.hub = hub

    def show(self, bundle: str) -> None:
        self._bundle_name, self.bundle = bundle, bundle_named(bundle)

    def _submit(
        self, effect_id: str, effect: SubmitRegistration
    ) -> RegistrationAccepted | RegistrationAssigned | RegistrationFailed:
        if effect.generation is not None:
            request = x509.load_der_x509_csr(self._store.csr_der(effect.generation))
            key = request.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            if spki_of(key) != effect.spki_sha256:
                raise AssertionError("the CSR is not for the key that the machine knows")
            _public[effect.spki_sha256] = key
        return super()._submit(effect_id, effect)

    def _poll(
        self, effect_id: str, effect: PollRegistration
    ) -> RegistrationPending | RegistrationAssigned | RegistrationFailed:
        answer = super()._poll(effect_id, effect)
        if not isinstance(answer, RegistrationAssigned) or answer.chain is None:
            return answer
        told = answer.chain
        begins = told.not_before_unix_ms // 1000 * 1000
        key = _public[told.spki_sha256]
        pem = certify(key, DEVICE_ID, begins, begins + self.life_ms)
        leaf = facts(pem)
        chain = ChainFacts(
            chain_pem=pem,
            spki_sha256=leaf.spki_sha256,
            subject_cn=leaf.subject_cn,
            not_before_unix_ms=leaf.not_before_unix_ms,
            not_after_unix_ms=leaf.not_after_unix_ms,
            sha256=leaf.sha256,
            serial=leaf.serial_hex,
        )
        return structs.replace(answer, chain=chain)


class Hub(FakeHub):
    """Lets in who has a certificate that has not ended, and its key."""

    def _lets_in(self, effect: ProveCredential) -> bool:
        if not effect.issued:
            return True
        leaf = x509.load_pem_x509_certificate(effect.chain_pem or self._staged.chain_pem(effect.generation))
        key = load_pem_private_key(Path(self._staged.key_path(effect.generation)).read_bytes(), None)
        now = self._clock.now_unix_ms() / 1000
        return key.public_key() == leaf.public_key() and now < leaf.not_valid_after_utc.timestamp()


def spki_of(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
