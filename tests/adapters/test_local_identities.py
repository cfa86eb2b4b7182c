"""Local identities: a key of its own each time, a request as the original makes it, and what is answered."""

import socket

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.driven.local_identities import LocalIdentityIssuer
from adapters.errors import RequestRefused, StoreUnavailable
from adapters.wire import local_csr
from statemachine.settings import Configuration, IdentitySettings, NoProvisioning
from tests.adapters.test_wire_x509 import DAY, T0, Issuer

CA = Issuer("local ca")


def configuration(hostname="edge-1", domain="example.org"):
    return Configuration(
        provisioning=NoProvisioning(),
        hostname=hostname,
        identities=IdentitySettings(local_domain=domain),
    )


class Certd:
    """Issues what it is asked for, or what it is told to."""

    def __init__(self, answer=None):
        self.asked = []
        self.answer = answer

    async def create_certificate(self, certificate_id, csr_pem, issuer):
        await trio.lowlevel.checkpoint()
        request = x509.load_pem_x509_csr(csr_pem.encode())
        self.asked.append((certificate_id, request, issuer))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or chain(request.public_key())


def chain(public_key):
    return pem(CA.issue(public_key, "web")) + pem(CA.certificate)


def pem(certificate):
    return certificate.public_bytes(Encoding.PEM)


def issue(certd=None, name="web", attributes="client", held=None):
    issuer = LocalIdentityIssuer(certd or Certd(), lambda: held or configuration())
    return trio.run(issuer.issue, name, attributes)


def test_the_answer_is_a_key_its_chain_and_its_end():
    identity = issue()
    key = load_pem_private_key(identity.private_key_pem.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    assert identity.private_key_pem.startswith("-----BEGIN PRIVATE KEY-----\n")
    leaf, ca = x509.load_pem_x509_certificates(identity.certificate_pem.encode())
    assert leaf.public_key() == key.public_key()
    assert ca == CA.certificate
    assert identity.not_after_unix_ms == T0 + 30 * DAY


def test_its_representation_keeps_the_key_to_itself():
    assert "PRIVATE" not in repr(issue())


@pytest.mark.parametrize(
    ("attributes", "usages"),
    [
        ("client", [ExtendedKeyUsageOID.CLIENT_AUTH]),
        ("server", [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
    ],
)
def test_the_request(attributes, usages):
    certd = Certd()
    issue(certd, attributes=attributes)
    [(certificate_id, request, issuer)] = certd.asked
    assert (certificate_id, issuer) == ("web", None)
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=web.edge-1.example.org"
    assert {one.oid: (one.critical, one.value) for one in request.extensions} == {
        ExtensionOID.BASIC_CONSTRAINTS: (True, x509.BasicConstraints(ca=False, path_length=None)),
        ExtensionOID.KEY_USAGE: (
            True,
            x509.KeyUsage(True, True, True, False, False, False, False, False, False),
        ),
        ExtensionOID.EXTENDED_KEY_USAGE: (True, x509.ExtendedKeyUsage(usages)),
    }


def test_each_time_another_key():
    certd = Certd()

    async def main():
        issuer = LocalIdentityIssuer(certd, configuration)
        answers = []

        async def one():
            answers.append(await issuer.issue("web", "client"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        return answers

    answers = trio.run(main)
    assert len({one.private_key_pem for one in answers}) == 3
    assert len({request.public_key().public_numbers().n for _, request, _ in certd.asked}) == 3


def test_the_hosts_own_name_serves_when_none_is_configured():
    certd = Certd()
    issue(certd, held=configuration(hostname=None))
    [(_, request, _)] = certd.asked
    expected = local_csr.cut(f"web.{socket.gethostname()}.example.org")
    assert request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == expected


@pytest.mark.parametrize(
    ("name", "common_name"),
    [
        ("m" * 64, "m" * 64),
        ("m" * 128, "m" * 64),
        ("m" * 40, "m" * 40 + ".edge-1.example.org"),
        ("m" * 50, "m" * 50 + ".edge-1.exampl"),
        ("ä" * 40, "ä" * 32),
        ("m" + "ä" * 40, "m" + "ä" * 31),
    ],
)
def test_a_long_name_is_cut(name, common_name):
    certd = Certd()
    issue(certd, name=name)
    [(certificate_id, request, _)] = certd.asked
    assert certificate_id == name
    assert request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == common_name


@settings(derandomize=True, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\U0001f512" * 17)
def test_a_cut_is_a_prefix_and_cuts_no_character(text):
    held = local_csr.cut(text)
    assert text.startswith(held)
    assert len(held.encode()) <= 64
    assert held == text or len(held.encode()) + len(text[len(held)].encode()) > 64


# --- what goes wrong ---------------------------------------------------------------------------------


def test_without_a_domain_nothing_is_asked_for():
    certd = Certd()
    with pytest.raises(RequestRefused, match=r"\[localid\] domain") as told:
        issue(certd, held=configuration(domain=None))
    assert told.value.parameter is None
    assert certd.asked == []


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(RequestRefused) as told:
        issue(name="\ud800")
    assert told.value.parameter == "moduleId"


@pytest.mark.parametrize(
    "answer",
    [
        RequestRefused("no issuance rule for web", code="no-rule"),
        StoreUnavailable("the disk is full", code="disk-full"),
    ],
)
def test_what_certd_says_is_passed_on(answer):
    with pytest.raises(type(answer)) as told:
        issue(Certd(answer))
    assert told.value is answer


@pytest.mark.parametrize(
    "answer", [b"rubbish", chain(ec.generate_private_key(ec.SECP256R1()).public_key()), pem(CA.certificate)]
)
def test_what_is_not_for_the_key_is_not_answered(answer):
    with pytest.raises(StoreUnavailable) as told:
        issue(Certd(answer))
    assert told.value.code == "certificate-unusable"
