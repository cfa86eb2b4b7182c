"""A provisioned device holds a matching key and certificate at every instant; here that is tried."""

import contextlib
import datetime
import errno
import itertools
import os
import pathlib
import shutil
import stat

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from adapters.driven import spare
from adapters.driven.credentials import GenerationStore
from adapters.driven.generations import certificate_file_name, key_file_name
from adapters.errors import StoreUnavailable
from adapters.wire import x509 as wire
from statemachine.effects import CommitCredential, RetireCredential, StageKey
from statemachine.events import (
    CredentialCommitFailed,
    CredentialCommitted,
    CredentialRetired,
    CredentialRetireFailed,
    Inventory,
    KeyStaged,
    KeyStageFailed,
)
from statemachine.settings import DEFAULT_TRUST_BUNDLE_ID, IDENTITY_CERTIFICATE_ID, IDENTITY_KEY_ID
from tests.adapters.disk import Disk, believed_syncs, ram_path  # noqa: F401 - fixtures

pytestmark = pytest.mark.usefixtures("believed_syncs")

CN = "line4-press-17"
T0 = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ISSUER_KEY = ec.generate_private_key(ec.SECP256R1())


def name(cn):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])


def certify(public_key, cn=CN):
    builder = x509.CertificateBuilder().subject_name(name(cn)).issuer_name(name("issuer"))
    builder = builder.public_key(public_key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(T0).not_valid_after(T0 + datetime.timedelta(days=30))
    return builder.sign(ISSUER_KEY, SHA256()).public_bytes(Encoding.PEM)


BUNDLE = certify(ISSUER_KEY.public_key(), "root one") + certify(ISSUER_KEY.public_key(), "root two")
OTHER_BUNDLE = certify(ISSUER_KEY.public_key(), "root three")


class Device:
    """A state directory, with the effects the machine would send."""

    def __init__(self, root, *, opened=True):
        self.root = str(root)
        self.state = os.path.join(self.root, "identityd")
        self.certd, self.keyd = os.path.join(self.root, "certd"), os.path.join(self.root, "keyd")
        self.store = GenerationStore(self.state, self.certd, self.keyd)
        if opened:
            self.store.open()

    def reopen(self):
        self.store = GenerationStore(self.state, self.certd, self.keyd)
        self.store.open()

    def stage(self, generation, **fields):
        wish = {"algorithm": "ec-p256", "common_name": CN} | fields
        return trio.run(self.store.stage, "1.1.0", StageKey(generation=generation, **wish))

    def commit(self, generation, chain=..., **fields):
        return trio.run(self.store.commit, "1.2.0", self.wish(generation, chain, **fields))

    def wish(self, generation, chain=..., **fields):
        if chain is ...:
            chain = self.chain(generation)
        facts = {
            "hub": "hub-1.azure-devices.net",
            "device_id": "press-17",
            "fingerprint": "f" * 64,
            "bundle_id": DEFAULT_TRUST_BUNDLE_ID,
            "bundle_pem": BUNDLE,
        }
        return CommitCredential(generation=generation, chain_pem=chain, **(facts | fields))

    def chain(self, generation):
        return certify(self.public_key(generation))

    def retire(self, *keep):
        return trio.run(self.store.retire, "1.3.0", RetireCredential(keep=keep))

    def provision(self, generation=1, **fields):
        assert isinstance(self.stage(generation), KeyStaged)
        assert isinstance(self.commit(generation, **fields), CredentialCommitted)
        return self.current()

    def current(self):
        return self.store.inventory().current

    def path(self, *names):
        return os.path.join(self.state, "credentials", *map(str, names))

    def read(self, *names):
        return pathlib.Path(self.path(*names)).read_bytes()

    def public_key(self, generation):
        return load_pem_private_key(self.read(generation, "key.pem"), None).public_key()

    def published_key(self):
        path = os.path.join(self.keyd, "keys", key_file_name(IDENTITY_KEY_ID))
        return pathlib.Path(path).read_bytes() if os.path.exists(path) else None

    def published(self, certificate_id=IDENTITY_CERTIFICATE_ID):
        """Read as the original would: by name, following links."""
        path = os.path.join(self.certd, "certs", certificate_file_name(certificate_id))
        content = pathlib.Path(path).read_bytes() if os.path.exists(path) else None
        assert self.store.read_certificate(certificate_id) == content
        return content

    def tree(self):
        """Everything below the root but the spare, with modes; link targets for links."""
        found = {}
        for directory, directories, files in os.walk(self.root):
            for entry in [*directories, *files]:
                path = os.path.join(directory, entry)
                if "/spare" in path:
                    continue
                mode = stat.S_IMODE(os.lstat(path).st_mode)
                if os.path.islink(path):
                    found[path] = os.readlink(path)
                elif os.path.isdir(path):
                    found[path] = (mode, "directory")
                else:
                    found[path] = (mode, pathlib.Path(path).read_bytes())
        return found

    def check_coherent(self):
        """What may never be otherwise, whatever happened."""
        current = self.current()
        chain, key = self.published(), self.published_key()
        if current is None or current.source == "configured":
            assert chain is None
            assert current is None or key is None
            return current
        assert wire.facts(chain).spki_sha256 == wire.spki_sha256_of_key(key)
        assert wire.facts(chain).sha256 == current.sha256
        return current


@pytest.fixture
def tmp_path(ram_path):  # noqa: F811 - the fixture above
    return ram_path


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device")


# --- names and layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "file"),
    [
        ("device-id", "deviceid-bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655.cer"),
        (
            "aziot-dps-trust-bundle",
            "aziotdpstrustbundle-ecf7d40ad30ca3b20401cb0ca7f1f4b0717f491396bfa3d8efd53db8892a40be.cer",
        ),
        ("ä/b c", "bc-c9bcc6f5720b5f900029eec074c815aa9eb14d8e52ad5f3448bb1debe30ca9ee.cer"),
    ],
)
def test_certificate_files_have_the_originals_names(identifier, file):
    assert certificate_file_name(identifier) == file


def test_the_key_file_has_the_originals_name():
    assert key_file_name(IDENTITY_KEY_ID) == (
        "aziotdpsidentitycertkey-40cd8def7d390781e92aa1e0ab6b65513ba91a3fb5644738cee9f1aa5e61732f.key"
    )


def test_nothing_is_there_at_first(device):
    assert device.store.inventory() == Inventory()
    assert device.store.repairs == ()
    assert device.published() is None
    assert device.published_key() is None
    assert device.store.layout.pointer().generation is None


def test_inventory_opens_a_store_nobody_opened(tmp_path):
    store = GenerationStore(str(tmp_path / "s"), str(tmp_path / "c"), str(tmp_path / "k"))
    assert store.inventory() == Inventory()
    assert os.path.isdir(tmp_path / "s" / "credentials" / "spare")


def test_a_whole_life(device):
    staged = device.stage(1)
    assert staged == KeyStaged(
        answers="1.1.0", generation=1, spki_sha256=wire.spki_sha256_of_key(device.read(1, "key.pem"))
    )
    assert device.published_key() is None
    assert device.store.inventory() == Inventory(newest_generation=1)
    request = x509.load_der_x509_csr(device.store.csr_der(1))
    assert request.is_signature_valid
    assert request.subject == name(CN)
    chain = certify(device.public_key(1))

    assert device.commit(1, chain, substatus="initialAssignment", certificate_type="x") == (
        CredentialCommitted(answers="1.2.0", generation=1)
    )
    current = device.check_coherent()
    leaf = wire.facts(chain)
    assert (current.generation, current.source, current.hub) == (1, "issued", "hub-1.azure-devices.net")
    assert (current.device_id, current.fingerprint) == ("press-17", "f" * 64)
    assert (current.substatus, current.certificate_type) == ("initialAssignment", "x")
    assert (current.sha256, current.serial, current.spki_sha256) == (
        leaf.sha256,
        leaf.serial_hex,
        staged.spki_sha256,
    )
    assert (current.not_before_unix_ms, current.not_after_unix_ms) == (
        leaf.not_before_unix_ms,
        leaf.not_after_unix_ms,
    )
    assert (current.bundle_id, current.bundle_certificates) == (DEFAULT_TRUST_BUNDLE_ID, 2)
    assert device.published(DEFAULT_TRUST_BUNDLE_ID) == BUNDLE
    assert device.published_key() == device.read(1, "key.pem")

    device.provision(2, bundle_pem=None, keep_bundle=True)
    assert device.check_coherent().generation == 2
    assert device.published(DEFAULT_TRUST_BUNDLE_ID) == BUNDLE
    assert os.path.exists(device.store.key_path(1))

    assert device.retire(1) == CredentialRetired(answers="1.3.0")
    assert os.path.exists(device.path(1))
    assert device.retire() == CredentialRetired(answers="1.3.0")
    assert not os.path.exists(device.path(1))
    assert device.retire() == CredentialRetired(answers="1.3.0")
    assert device.check_coherent().generation == 2
    device.reopen()
    assert device.store.repairs == ()
    assert device.check_coherent().generation == 2


def test_everything_is_private(device):
    before = os.umask(0)
    try:
        device.provision()
    finally:
        os.umask(before)
    for path, found in device.tree().items():
        if isinstance(found, tuple):
            assert found[0] == (0o700 if found[1] == "directory" else 0o600), path


def test_a_moved_root_still_publishes(device, tmp_path):
    device.provision()
    shutil.move(device.root, str(tmp_path / "moved"))
    moved = Device(str(tmp_path / "moved"))
    assert moved.check_coherent().generation == 1
    assert moved.store.repairs == ()


def test_a_root_behind_a_link_still_publishes(tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "state").symlink_to(tmp_path / "real" / "deep")
    device = Device(tmp_path)
    device.state = str(tmp_path / "state" / "identityd")
    device.reopen()
    device.provision()
    assert device.check_coherent().generation == 1


# --- repeats -------------------------------------------------------------------------------------------


def test_repeats_change_nothing(device):
    first = device.stage(1)
    key, request = device.read(1, "key.pem"), device.read(1, "csr.der")
    assert device.stage(1, algorithm="rsa-2048") == first
    assert (device.read(1, "key.pem"), device.read(1, "csr.der")) == (key, request)
    wish = device.wish(1)
    trio.run(device.store.commit, "1.2.0", wish)
    before = device.tree()
    entries = [device.path(1, "chain.pem"), device.path(1, "assignment.json"), device.path("current")]
    written = [os.lstat(entry).st_ino for entry in entries]
    with Disk() as disk:
        assert trio.run(device.store.commit, "1.2.0", wish) == CredentialCommitted(
            answers="1.2.0", generation=1
        )
    assert device.tree() == before
    assert [os.lstat(entry).st_ino for entry in entries] == written
    # It syncs again, because the earlier run may have ended before it did, and does nothing else.
    assert disk.calls == 3
    assert device.stage(1) == first


def test_a_lost_request_is_made_again_for_the_same_key(device):
    first = device.stage(1)
    os.unlink(device.path(1, "csr.der"))
    with pytest.raises(StoreUnavailable) as caught:
        device.store.csr_der(1)
    assert (caught.value.code, caught.value.failure_class) == ("key-missing", "new_key")
    assert device.stage(1) == first
    assert x509.load_der_x509_csr(device.store.csr_der(1)).is_signature_valid


def test_a_staged_key_that_is_damaged_is_made_anew(device):
    first = device.stage(1)
    pathlib.Path(device.path(1, "key.pem")).write_text("-----BEGIN PRIVATE KEY-----\n")
    second = device.stage(1)
    assert isinstance(second, KeyStaged)
    assert second.spki_sha256 != first.spki_sha256
    assert second.spki_sha256 == wire.spki_sha256_of_key(device.read(1, "key.pem"))


def test_the_key_is_reused_when_asked(device):
    old = device.provision()
    assert device.stage(2, reuse_generation=1).spki_sha256 == old.spki_sha256
    assert isinstance(device.commit(2), CredentialCommitted)
    assert device.check_coherent().spki_sha256 == old.spki_sha256
    assert device.retire() == CredentialRetired(answers="1.3.0")
    assert device.check_coherent().generation == 2


def test_algorithms(device):
    device.stage(1, algorithm="rsa-2048")
    assert isinstance(device.public_key(1), rsa.RSAPublicKey)
    device.stage(2, algorithm="ec-p256")
    assert isinstance(device.public_key(2), ec.EllipticCurvePublicKey)


@pytest.mark.parametrize(
    ("fields", "failure_class", "code"),
    [
        ({"algorithm": "dsa"}, "operator", "algorithm-unknown"),
        ({"common_name": "x" * 65}, "operator", "common-name-invalid"),
        ({"reuse_generation": 7}, "new_key", "key-missing"),
    ],
)
def test_what_cannot_be_staged(device, fields, failure_class, code):
    failed = device.stage(1, **fields)
    assert isinstance(failed, KeyStageFailed)
    assert (failed.failure_class, failed.code) == (failure_class, code)
    assert not os.path.exists(device.path(1))


def test_current_is_never_staged_over(device):
    device.provision()
    os.unlink(device.path(1, "key.pem"))
    failed = device.stage(1)
    assert (failed.failure_class, failed.code) == ("operator", "generation-in-use")
    assert os.path.exists(device.path(1, "chain.pem"))


# --- commit --------------------------------------------------------------------------------------------


def test_a_certificate_is_never_published_without_its_key(device):
    old = device.provision()
    before = device.tree()
    failed = device.commit(2, certify(ISSUER_KEY.public_key()))
    assert isinstance(failed, CredentialCommitFailed)
    assert (failed.failure_class, failed.code) == ("new_key", "key-missing")
    assert device.tree() == before

    device.stage(2)
    before = device.tree()
    for chain, code in (
        (certify(ISSUER_KEY.public_key()), "key-mismatch"),
        (b"-----BEGIN CERTIFICATE-----\nrubbish\n", "chain-unparsable"),
        (b"", "chain-unparsable"),
    ):
        failed = device.commit(2, chain)
        assert (failed.failure_class, failed.code) == ("new_key", code)
        assert device.tree() == before
    assert device.check_coherent() == old


def test_a_certificateless_commit_unpublishes_both(device):
    device.provision()
    device.stage(2)
    assert isinstance(device.commit(2, None), CredentialCommitted)
    current = device.check_coherent()
    assert (current.source, current.sha256, current.bundle_certificates) == ("configured", "", 2)
    assert device.published() is None
    assert device.published_key() is None
    assert device.published(DEFAULT_TRUST_BUNDLE_ID) == BUNDLE
    assert sorted(os.listdir(device.path(2))) == ["assignment.json", "bundle.pem"]
    # The old pair is still there to be flipped back to, until it is retired.
    assert isinstance(device.commit(1, device.read(1, "chain.pem")), CredentialCommitted)
    assert device.check_coherent().generation == 1


def test_a_certificateless_commit_needs_nothing_staged(device):
    assert isinstance(device.commit(1, None, bundle_pem=None), CredentialCommitted)
    current = device.check_coherent()
    assert (current.source, current.bundle_id, current.bundle_certificates) == ("configured", None, 0)
    assert device.published(DEFAULT_TRUST_BUNDLE_ID) is None
    device.provision(2)
    assert device.check_coherent().source == "issued"
    assert isinstance(device.commit(2, None), CredentialCommitted)
    assert device.check_coherent().source == "configured"


def test_a_damaged_certificate_is_repaired_by_committing_it_again(device):
    current = device.provision()
    wish = device.wish(1, device.read(1, "chain.pem"))
    pathlib.Path(device.path(1, "chain.pem")).write_bytes(b"")
    assert "chain.pem is damaged" in device.store.inventory().problem
    assert isinstance(trio.run(device.store.commit, "1.9.0", wish), CredentialCommitted)
    assert device.check_coherent() == current


def test_renaming_the_bundle_removes_the_old_name(device):
    device.provision()
    device.stage(2)
    device.commit(2, bundle_id="plant-roots", bundle_pem=OTHER_BUNDLE)
    assert device.published("plant-roots") == OTHER_BUNDLE
    assert device.published(DEFAULT_TRUST_BUNDLE_ID) is None
    certs = os.listdir(os.path.join(device.certd, "certs"))
    assert sorted(certs) == sorted(map(certificate_file_name, ["plant-roots", IDENTITY_CERTIFICATE_ID]))
    # Also without a new generation: the setting alone may change.
    device.commit(2, device.read(2, "chain.pem"), bundle_id="other", bundle_pem=None, keep_bundle=True)
    assert device.published("other") == OTHER_BUNDLE
    assert device.published("plant-roots") is None
    assert device.current().bundle_id == "other"
    device.commit(2, device.read(2, "chain.pem"), bundle_id="other", bundle_pem=None)
    assert device.published("other") is None
    assert (device.current().bundle_id, device.current().bundle_certificates) == (None, 0)


@pytest.mark.parametrize("bundle_id", [IDENTITY_CERTIFICATE_ID, "x" * 300, "\ud800"])
def test_a_bundle_name_that_cannot_be(device, bundle_id):
    old = device.provision()
    device.stage(2)
    failed = device.commit(2, bundle_id=bundle_id)
    assert (failed.failure_class, failed.code) == ("operator", "bundle-id-unusable")
    assert device.check_coherent() == old


def test_a_damaged_bundle_fails_no_credential(device):
    current = device.provision()
    pathlib.Path(device.path(1, "bundle.pem")).write_bytes(b"\xff not PEM")
    found = device.check_coherent()
    assert (found.sha256, found.bundle_certificates) == (current.sha256, 0)
    os.unlink(device.path(1, "bundle.pem"))
    os.mkfifo(device.path(1, "bundle.pem"))
    assert device.current().bundle_certificates == 0
    device.stage(2)
    assert isinstance(device.commit(2, bundle_pem=None, keep_bundle=True), CredentialCommitted)
    assert device.current().generation == 2
    assert isinstance(device.commit(2, device.read(2, "chain.pem")), CredentialCommitted)
    assert device.current().bundle_certificates == 2


def test_files_of_the_original_stay_until_a_successor_is_current(device):
    certificate = pathlib.Path(device.certd, "certs", certificate_file_name(IDENTITY_CERTIFICATE_ID))
    key = pathlib.Path(device.keyd, "keys", key_file_name(IDENTITY_KEY_ID))
    certificate.unlink()
    key.unlink()
    certificate.write_bytes(b"old certificate")
    key.write_bytes(b"old key")
    device.reopen()
    assert device.published() == b"old certificate"
    device.stage(1)
    wish = device.wish(1)
    with Disk(fail_at=1, error=errno.EIO, only=("rename",), lasting=True):
        assert isinstance(trio.run(device.store.commit, "1.2.0", wish), CredentialCommitFailed)
    assert device.published() == b"old certificate"
    assert device.published_key() == b"old key"
    assert isinstance(trio.run(device.store.commit, "1.2.0", wish), CredentialCommitted)
    assert device.check_coherent().generation == 1


def test_cancellation_leaves_no_step_half_done(device):
    device.stage(1)
    wish = device.wish(1)
    answers = []

    async def main():
        async def commit():
            answers.append(await device.store.commit("1.2.0", wish))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert device.check_coherent() is None or device.check_coherent().generation == 1
    assert answers == [] or device.current().generation == 1


# --- reading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "certificate_id",
    ["", ".", "..", "../../identityd/credentials/1/key.pem", "/etc/passwd", "a\0b", "x" * 100_000, "\ud800"],
)
def test_hostile_ids_find_nothing(device, certificate_id):
    device.provision()
    assert device.store.read_certificate(certificate_id) is None


def test_other_certificates_of_the_store_are_read_as_they_are(device):
    path = pathlib.Path(device.certd, "certs", certificate_file_name("device-id"))
    path.write_bytes(b"\xff anything")
    assert device.store.read_certificate("device-id") == b"\xff anything"
    path.write_bytes(b"")
    assert device.store.read_certificate("device-id") == b""
    path.write_bytes(bytes(3 * 1024 * 1024))
    with pytest.raises(StoreUnavailable, match="larger than"):
        device.store.read_certificate("device-id")
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="not a plain file"):
        device.store.read_certificate("device-id")
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(StoreUnavailable, match="not a plain file"):
        device.store.read_certificate("device-id")


@pytest.mark.parametrize("target", ["/etc/hostname", "/nowhere", "../keys", "link"])
def test_a_link_to_somewhere_else_is_not_followed(device, target):
    path = pathlib.Path(device.certd, "certs", certificate_file_name("device-id"))
    path.symlink_to(target)
    with pytest.raises(StoreUnavailable) as caught:
        device.store.read_certificate("device-id")
    assert (caught.value.code, caught.value.failure_class) == ("foreign-link", "operator")


def test_reading_spans_a_flip_and_a_retirement(device, monkeypatch):
    device.provision(1)
    device.provision(2)
    second = device.read(2, "chain.pem")
    device.commit(1, device.read(1, "chain.pem"))
    real = device.store.layout.read

    def slow(generation, name):
        if generation == 1:
            device.commit(2, second)
            device.retire()
        return real(generation, name)

    monkeypatch.setattr(device.store.layout, "read", slow)
    # Retired between the two looks: the new one is answered, not nothing.
    assert device.store.read_certificate(IDENTITY_CERTIFICATE_ID) == second
    assert device.current().generation == 2


def test_the_inventory_spans_a_flip_and_a_retirement(device, monkeypatch):
    device.provision(1)
    device.stage(2)
    chain = device.chain(2)
    real = device.store.layout.check

    def slow(generation):
        if generation == 1:
            device.commit(2, chain)
            device.retire()
        return real(generation)

    monkeypatch.setattr(device.store.layout, "check", slow)
    assert device.current().generation == 2


# --- repair at start -----------------------------------------------------------------------------------


def damage_pointer_directory(device):
    path = device.path("current")
    generation = os.readlink(path)
    os.unlink(path)
    shutil.copytree(device.path(generation), path)


def damage_pointer_file(device):
    os.unlink(device.path("current"))
    pathlib.Path(device.path("current")).write_text("1")


def damage_pointer_target(target):
    def damage(device):
        os.unlink(device.path("current"))
        os.symlink(target, device.path("current"))

    return damage


def damage_pointer_missing(device):
    os.unlink(device.path("current"))


def damage_file(name, content):
    def damage(device):
        path = pathlib.Path(device.path(2, name))
        path.unlink()
        if content is not None:
            path.write_bytes(content)
            path.chmod(0o600)

    return damage


DAMAGES = {
    "pointer is a directory": (damage_pointer_directory, 2),
    "pointer is a file": (damage_pointer_file, 2),
    "pointer leads out": (damage_pointer_target("/etc"), 2),
    "pointer is hostile": (damage_pointer_target("../../1"), 2),
    "pointer is odd": (damage_pointer_target("02"), 2),
    "pointer dangles": (damage_pointer_target("9"), 2),
    "pointer is missing": (damage_pointer_missing, 2),
    "chain is missing": (damage_file("chain.pem", None), 1),
    "chain is empty": (damage_file("chain.pem", b""), 1),
    "chain is huge": (damage_file("chain.pem", bytes(300_000)), 1),
    "chain of another key": (damage_file("chain.pem", BUNDLE), 1),
    "key is missing": (damage_file("key.pem", None), 1),
    "key is rubbish": (damage_file("key.pem", b"rubbish"), 1),
    "key is huge": (damage_file("key.pem", bytes(70_000)), 1),
    "assignment is missing": (damage_file("assignment.json", None), 1),
    "assignment is torn": (damage_file("assignment.json", b'{"source":"iss'), 1),
    "assignment is nested": (damage_file("assignment.json", b"[" * 60_000), 1),
    "assignment is huge": (damage_file("assignment.json", b" " * 70_000), 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_repaired_with_the_newest_matching_pair(device, damage):
    device.provision(1)
    device.provision(2)
    work, expected = DAMAGES[damage]
    work(device)
    device.reopen()
    assert device.check_coherent().generation == expected
    assert len(device.store.repairs) == 1
    assert f"generation {expected} is in use" in device.store.repairs[0]
    assert device.store.inventory().newest_generation >= 2
    assert not [entry for entry in os.listdir(device.path()) if entry.endswith((".new", ".gone"))]
    device.reopen()
    assert device.store.repairs == ()
    # And it goes on from there.
    assert isinstance(device.stage(3), KeyStaged)
    assert isinstance(device.commit(3), CredentialCommitted)
    assert device.retire() == CredentialRetired(answers="1.3.0")
    assert device.check_coherent().generation == 3


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_without_another_pair_is_told(device, damage):
    device.provision(2)
    DAMAGES[damage][0](device)
    device.reopen()
    inventory = device.store.inventory()
    if DAMAGES[damage][1] == 2:
        assert inventory.current.generation == 2
        return
    assert inventory.current is None
    assert inventory.problem
    assert inventory.newest_generation == 2
    assert len(device.store.repairs) == 1
    assert isinstance(device.stage(3), KeyStaged)
    assert isinstance(device.commit(3), CredentialCommitted)
    assert device.check_coherent().generation == 3


def test_damage_while_running_is_told_and_not_acted_upon(device):
    device.provision(1)
    device.provision(2)
    damage_pointer_target("/etc")(device)
    inventory = device.store.inventory()
    assert inventory.current is None
    assert "does not lead to a generation" in inventory.problem
    failed = device.retire()
    assert isinstance(failed, CredentialRetireFailed)
    assert (failed.failure_class, failed.code) == ("operator", "pointer-damaged")
    with pytest.raises(StoreUnavailable, match="does not lead to a generation"):
        device.store.read_certificate(IDENTITY_CERTIFICATE_ID)
    assert os.path.exists(device.path(1))


def test_a_moved_device_does_not_go_back_to_its_old_hub(device):
    device.provision(1, hub="hub-0.azure-devices.net")
    device.provision(2)
    os.unlink(device.path(2, "key.pem"))
    device.reopen()
    assert device.store.inventory().current is None
    assert "key.pem is missing" in device.store.inventory().problem


def test_a_copied_tree_without_links_is_repaired(device, tmp_path):
    device.provision(1)
    shutil.copytree(device.root, str(tmp_path / "copy"), symlinks=False)
    copy = Device(str(tmp_path / "copy"))
    assert copy.check_coherent().generation == 1
    assert not os.path.lexists(copy.path("current.gone"))
    assert os.path.islink(os.path.join(copy.keyd, "keys", key_file_name(IDENTITY_KEY_ID)))


def test_wrong_modes_are_tightened_and_told(device):
    device.provision()
    os.chmod(device.path(1, "key.pem"), 0o644)
    os.chmod(device.path(1), 0o755)
    device.reopen()
    assert stat.S_IMODE(os.stat(device.path(1, "key.pem")).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(device.path(1)).st_mode) == 0o700
    assert len(device.store.repairs) == 2
    assert all("open to others" in note for note in device.store.repairs)


@pytest.mark.parametrize("leftover", ["9.new", "9.gone", "current.new", "1/chain.pem.new"])
def test_what_a_crash_left_is_swept(device, leftover):
    device.provision()
    os.mkdir(device.path(leftover))
    pathlib.Path(device.path(leftover), "key.pem").write_text("half")
    device.reopen()
    assert not os.path.lexists(device.path(leftover))
    assert device.store.repairs == ()
    assert device.check_coherent().generation == 1


def test_a_store_that_cannot_be_opened_says_so_and_goes_on(tmp_path):
    (tmp_path / "identityd").write_text("a file where the directory should be")
    device = Device(tmp_path)
    assert device.store.repairs
    assert device.store.inventory().current is None
    failed = device.stage(1)
    assert isinstance(failed, KeyStageFailed)
    assert failed.failure_class == "retry"
    assert str(tmp_path) in failed.message


def test_an_assignment_of_a_later_release_is_understood(device):
    current = device.provision()
    facts = msgspec.json.decode(device.read(1, "assignment.json")) | {"colour": "blue"}
    pathlib.Path(device.path(1, "assignment.json")).write_bytes(msgspec.json.encode(facts))
    assert device.current() == current


# --- power cuts ----------------------------------------------------------------------------------------


def provisioned(device):
    device.provision(1)


def renewal_ready(device):
    device.provision(1)
    device.stage(2)


def superseded(device):
    device.provision(1)
    device.provision(2)


def half_removed(device):
    device.provision(1)
    os.makedirs(device.path("7.new"))
    os.makedirs(device.path("8.gone", "deeper"))
    pathlib.Path(device.path("8.gone", "deeper", "key.pem")).touch()


def copied(device):
    superseded(device)
    damage_pointer_directory(device)


def nothing(device):
    pass


def key_ready(device):
    device.stage(1)


# name: what is there before, the step, the current generation before and after it
STEPS = {
    "first stage": (nothing, lambda d: ("stage", (1,), {}), None, None),
    "first commit": (key_ready, lambda d: ("commit", (1, d.chain(1)), {}), None, 1),
    "stage": (provisioned, lambda d: ("stage", (2,), {}), 1, 1),
    "stage the same key": (provisioned, lambda d: ("stage", (2,), {"reuse_generation": 1}), 1, 1),
    "commit": (renewal_ready, lambda d: ("commit", (2, d.chain(2)), {}), 1, 2),
    "commit, renaming the bundle": (
        renewal_ready,
        lambda d: ("commit", (2, d.chain(2)), {"bundle_id": "x", "bundle_pem": None, "keep_bundle": True}),
        1,
        2,
    ),
    "rename the bundle": (
        provisioned,
        lambda d: ("commit", (1, d.read(1, "chain.pem")), {"bundle_id": "x"}),
        1,
        1,
    ),
    "commit without a certificate": (renewal_ready, lambda d: ("commit", (2, None), {}), 1, 2),
    "flip back": (superseded, lambda d: ("commit", (1, d.read(1, "chain.pem")), {}), 2, 1),
    "retire": (superseded, lambda d: ("retire", (), {}), 2, 2),
    "open": (half_removed, lambda d: ("reopen", (), {}), 1, 1),
    "open a copy": (copied, lambda d: ("reopen", (), {}), None, 2),
}
EFFECTS = [step for step in STEPS if not step.startswith("open")]


class Trial:
    """The same step on fresh copies of the same device."""

    def __init__(self, step, tmp_path):
        before, work, *self.generations = STEPS[step]
        self.device = Device(tmp_path / "prepared")
        before(self.device)
        self.method, self.args, self.fields = work(self.device)
        self.root = tmp_path / "try"

    def fresh(self):
        """Nobody has opened it yet: opening repairs."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.device.root, self.root, symlinks=True)
        self.copy = Device(self.root, opened=False)
        return self.copy

    def run(self):
        return getattr(self.copy, self.method)(*self.args, **self.fields)


@pytest.fixture
def small_spare(monkeypatch):
    monkeypatch.setattr(spare, "FILES", 2)
    monkeypatch.setattr(spare, "FILE_BYTES", 4096)


def generation_of(current):
    return None if current is None else current.generation


@pytest.mark.usefixtures("small_spare")
@pytest.mark.parametrize("lost", [False, True], ids=["killed", "power lost"])
@pytest.mark.parametrize("step", STEPS)
def test_a_matching_pair_survives_a_cut_at_every_call(tmp_path, step, lost):
    trial = Trial(step, tmp_path)
    before, after = trial.generations
    for cut_at in itertools.count(1):
        copy = trial.fresh()
        with Disk(cut_at=cut_at) as disk:
            trial.run()
        if not disk.dead:
            break
        if lost:
            disk.lose_unsynced(copy.root, torn_bytes=cut_at % 3 * 100)
        copy.reopen()
        assert generation_of(copy.check_coherent()) in (before, after), cut_at
        assert not [entry for entry in os.listdir(copy.path()) if entry.endswith((".new", ".gone"))]
        # The machine sends the effect again, under the same id.
        assert not type(trial.run()).__name__.endswith("Failed"), cut_at
        assert generation_of(copy.check_coherent()) == after
    assert cut_at > 3


@pytest.mark.usefixtures("small_spare")
def test_the_first_credential_is_durable_with_the_directories_it_needs(tmp_path):
    with Disk() as disk:
        device = Device(tmp_path / "a" / "b")
        device.provision(1)
    disk.lose_unsynced(tmp_path)
    device.reopen()
    assert device.check_coherent().generation == 1
    assert device.store.repairs == ()


@pytest.mark.usefixtures("small_spare")
@pytest.mark.parametrize("step", EFFECTS)
def test_done_means_durable(tmp_path, step):
    """The plug is pulled right after the answer."""
    trial = Trial(step, tmp_path)
    copy = trial.fresh()
    with Disk() as disk:
        answer = trial.run()
    disk.lose_unsynced(copy.root)
    copy.reopen()
    assert generation_of(copy.check_coherent()) == trial.generations[1]
    if isinstance(answer, KeyStaged):
        assert wire.spki_sha256_of_key(copy.read(answer.generation, "key.pem")) == answer.spki_sha256
        assert copy.store.csr_der(answer.generation)
    if isinstance(answer, CredentialRetired):
        assert not os.path.exists(copy.path(1))


# --- faults --------------------------------------------------------------------------------------------

FAULTS = {
    "disk-full": (errno.ENOSPC, False),
    "io-error": (errno.EIO, False),
    "permission": (errno.EACCES, True),
    "read-only": (errno.EROFS, True),
}


@pytest.mark.usefixtures("small_spare")
@pytest.mark.parametrize("code", FAULTS)
@pytest.mark.parametrize("step", EFFECTS)
def test_a_fault_at_every_call_is_told_and_harmless(tmp_path, step, code):
    error, lasting = FAULTS[code]
    trial = Trial(step, tmp_path)
    before, after = trial.generations
    for fail_at in itertools.count(1, step=3 if lasting else 1):
        copy = trial.fresh()
        copy.store.open()
        with Disk(fail_at=fail_at, error=error, lasting=lasting) as disk:
            answer = trial.run()
        if not disk.failed:
            break
        current = copy.check_coherent()
        assert generation_of(current) in (before, after), disk.failed
        if type(answer).__name__.endswith("Failed"):
            assert (answer.failure_class, answer.code) == ("retry", code), disk.failed
            assert answer.message.startswith(copy.root), disk.failed
            assert "; " in answer.message
            if not lasting:
                assert generation_of(current) == before, disk.failed
                assert not [path for path in copy.tree() if path.endswith(".new")], disk.failed
        assert not type(trial.run()).__name__.endswith("Failed"), disk.failed
        assert generation_of(copy.check_coherent()) == after
    assert fail_at > 3


@pytest.mark.usefixtures("small_spare")
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("step", ["open", "open a copy"])
def test_a_fault_at_every_call_of_opening_is_survived(tmp_path, step, lasting):
    trial = Trial(step, tmp_path)
    for fail_at in itertools.count(1):
        copy = trial.fresh()
        with Disk(fail_at=fail_at, error=errno.EIO, lasting=lasting) as disk:
            trial.run()
        if not disk.failed:
            break
        assert generation_of(copy.current()) in trial.generations, disk.failed
        trial.run()
        assert generation_of(copy.check_coherent()) == trial.generations[1]
    assert fail_at > 3


@pytest.mark.parametrize("call", ["open", "mkdir", "symlink", "fsync"])
def test_a_full_disk_costs_the_spare_and_not_the_renewal(device, call):
    device.provision(1)
    whole = sum(os.stat(device.path("spare", i)).st_blocks for i in range(spare.FILES)) * 512
    assert whole >= spare.FILES * spare.FILE_BYTES

    class FullDisk(Disk):
        """Full as long as the spare is held."""

        def _wrapped(self, name):
            inner = super()._wrapped(name)

            def wrapped(*args, **kwargs):
                self.fail_at = 1 if os.path.exists(device.path("spare", 0)) else None
                return inner(*args, **kwargs)

            return wrapped

    for wish in (lambda: device.stage(2), lambda: device.commit(2)):
        with FullDisk(error=errno.ENOSPC, lasting=True, only=(call,)) as disk:
            answer = wish()
        assert not type(answer).__name__.endswith("Failed")
        if disk.failed:
            # It was made again as soon as there was room.
            device.store._spare.make()
    assert device.check_coherent().generation == 2
    assert sum(os.stat(device.path("spare", i)).st_blocks for i in range(spare.FILES)) * 512 == whole


def test_the_spare_is_completed_when_there_is_room_again(tmp_path):
    with Disk(fail_at=3, error=errno.ENOSPC, lasting=True, only=("posix_fallocate",)):
        device = Device(tmp_path)
    assert len(os.listdir(device.path("spare"))) < spare.FILES
    assert not device.store._spare.whole
    assert device.store.repairs == ()
    device.stage(1)
    assert len(os.listdir(device.path("spare"))) == spare.FILES
    assert device.store._spare.whole
    pathlib.Path(device.path("spare", "3")).unlink()
    pathlib.Path(device.path("spare", "3")).symlink_to("/etc/hostname")
    device.reopen()
    assert not os.path.islink(device.path("spare", "3"))


def test_an_error_without_a_path_names_the_store(device):
    with Disk(fail_at=1, error=errno.EIO, only=("fsync",)):
        failed = device.stage(1)
    assert device.path() in failed.message
    with contextlib.suppress(FileNotFoundError):
        assert not [entry for entry in os.listdir(device.path()) if entry.endswith(".new")]
