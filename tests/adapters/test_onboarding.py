"""The configured credential as it lies in its files."""

import os

import pytest
import trustme
from cryptography import x509

from adapters.driven import onboarding
from adapters.errors import AdapterError
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    TlsSettings,
    X509Source,
)

ISSUED = trustme.CA().issue_cert(common_name="Press-17")
NAMELESS = trustme.CA().issue_cert("press.test")
KEY = b"\x00raw key bytes\n"
X509 = X509Source(certificate_path="device.pem", key_path="device.key")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ISSUED.cert_chain_pems[0].write_to_path("device.pem")
    NAMELESS.cert_chain_pems[0].write_to_path("nameless.pem")
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "link").symlink_to("key")
    os.mkfifo("fifo")  # nobody writes to it: opening it for reading would wait for ever
    (tmp_path / "huge").write_bytes(b"x" * (onboarding.MAX_FILE_BYTES + 1))


def configured(attestation, registration_id=None):
    provisioning = DpsProvisioning(
        global_endpoint="https://dps.test",
        scope_id="s",
        registration_id=registration_id,
        attestation=attestation,
    )
    return Configuration(provisioning=provisioning, tls=TlsSettings(ca_file="ca.pem"))


@pytest.mark.parametrize(
    "source",
    [SymmetricKeySource(value=KEY), SymmetricKeySource(path="key"), SymmetricKeySource(path="link")],
)
def test_a_symmetric_key_is_its_bytes(source):
    credential = onboarding.load_credential(configured(source, "Dev-1"))
    assert (credential.symmetric_key, credential.registration_id) == (KEY, "Dev-1")
    assert credential.tls.client_chain_pem is None
    assert credential.tls.ca_file == "ca.pem"
    assert "raw key" not in repr(credential)


@pytest.mark.parametrize(("configured_id", "expected"), [(None, "Press-17"), ("Other", "Other")])
def test_a_certificate_names_the_device_unless_configured(configured_id, expected):
    credential = onboarding.load_credential(configured(X509, configured_id))
    assert credential.registration_id == expected
    assert credential.symmetric_key is None
    assert credential.tls.client_chain_pem == ISSUED.cert_chain_pems[0].bytes()
    assert credential.tls.client_key_path == "device.key"
    assert "x509" in repr(credential)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (SymmetricKeySource(path="gone"), "credential-unreadable"),
        (SymmetricKeySource(path="."), "credential-unreadable"),
        (SymmetricKeySource(path="a\0b"), "credential-unreadable"),
        (SymmetricKeySource(path="huge"), "credential-unreadable"),
        (SymmetricKeySource(path="fifo"), "credential-unreadable"),
        (SymmetricKeySource(path="empty"), "credential-unusable"),
        (SymmetricKeySource(value=b""), "credential-unusable"),
        (X509Source(certificate_path="gone", key_path="k"), "credential-unreadable"),
        (X509Source(certificate_path="key", key_path="k"), "credential-unusable"),
        (X509Source(certificate_path="nameless.pem", key_path="k"), "registration-id-unknown"),
    ],
)
def test_what_cannot_be_used(source, code):
    registration_id = "Dev-1" if isinstance(source, SymmetricKeySource) else None
    with pytest.raises(AdapterError) as caught:
        onboarding.load_credential(configured(source, registration_id))
    assert (caught.value.code, caught.value.failure_class) == (code, "operator")
    assert "raw key" not in str(caught.value)


def test_a_symmetric_key_needs_a_registration_id():
    with pytest.raises(AdapterError) as caught:
        onboarding.load_credential(configured(SymmetricKeySource(value=KEY)))
    assert caught.value.code == "registration-id-unknown"


def test_without_dps():
    with pytest.raises(AdapterError) as caught:
        onboarding.load_credential(Configuration(provisioning=NoProvisioning()))
    assert caught.value.code == "not-configured"


def test_when_it_expires():
    expiry = x509.load_pem_x509_certificate(ISSUED.cert_chain_pems[0].bytes()).not_valid_after_utc
    assert onboarding.onboarding_not_after_unix_ms(configured(X509)) == int(expiry.timestamp()) * 1000
    assert onboarding.onboarding_not_after_unix_ms(configured(SymmetricKeySource(value=KEY))) is None
    assert onboarding.onboarding_not_after_unix_ms(Configuration(provisioning=NoProvisioning())) is None
    for path, code in (("gone", "credential-unreadable"), ("key", "credential-unusable")):
        with pytest.raises(AdapterError) as caught:
            onboarding.onboarding_not_after_unix_ms(
                configured(X509Source(certificate_path=path, key_path="k"))
            )
        assert caught.value.code == code
