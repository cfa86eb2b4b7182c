"""``credential:NAME``: a key that the service manager hands over instead of a path."""

import pytest

from adapters.config import parse
from adapters.config_credentials import UNIT_DIRECTORY, credential_path
from adapters.driven.onboarding import load_credential
from adapters.errors import ConfigurationInvalid

SYMMETRIC = """
[provisioning]
source = "dps"
global_endpoint = "https://dps.example"
id_scope = "0ne0"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "d-1"
symmetric_key = {{ uri = "{uri}" }}
"""
X509 = """
[provisioning]
source = "dps"
global_endpoint = "https://dps.example"
id_scope = "0ne0"
[provisioning.attestation]
method = "x509"
registration_id = "d-1"
identity_cert = "credential:device.pem"
identity_pk = "credential:device.key"
"""


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"CREDENTIALS_DIRECTORY": "/run/credentials/other.service"}, "/run/credentials/other.service/key"),
        ({"CREDENTIALS_DIRECTORY": "relative"}, f"{UNIT_DIRECTORY}/key"),
        ({}, f"{UNIT_DIRECTORY}/key"),
    ],
)
def test_where_it_lies(environ, path):
    assert credential_path("key", environ) == path


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../key", "a%2Fb", "a b", "k\0", "ä", "x" * 256]
)
def test_what_is_no_name(name):
    assert credential_path(name) is None
    with pytest.raises(ConfigurationInvalid) as caught:
        parse("c.toml", SYMMETRIC.format(uri=f"credential:{name}".replace("\0", "\\u0000")))
    assert "provisioning.attestation.symmetric_key.uri" in str(caught.value)
    assert "credential:NAME" in str(caught.value)


def test_the_key_is_read_from_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "device-key").write_bytes(b"\x00raw key\xff")
    configuration = parse("c.toml", SYMMETRIC.format(uri="credential:device-key"))
    assert load_credential(configuration).symmetric_key == b"\x00raw key\xff"


def test_a_credential_that_was_not_handed_over_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    configuration = parse("c.toml", SYMMETRIC.format(uri="credential:device-key"))
    with pytest.raises(Exception, match="device-key") as caught:
        load_credential(configuration)
    assert caught.value.code == "credential-unreadable"


def test_certificate_and_key_may_both_be_credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    source = parse("c.toml", X509).provisioning.attestation
    assert source.certificate_path == str(tmp_path / "device.pem")
    assert source.key_path == str(tmp_path / "device.key")
