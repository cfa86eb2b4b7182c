"""A few renewals of the long life, and that what it looks for would be found."""

import contextlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from tests.service import soak
from tests.service.device import WITHIN_S
from tests.service.handle_tls import HandleTls, TlsFailed, chain_of
from tests.service.peers import authority

FLAT = soak.Sample(renewals=0, rss_kib=52_000, fds=18, threads=3, journal_bytes=200_000, files=70)


def test_a_few_renewals():
    said: list[str] = []
    assert soak.soak(renewals=2, lifetime_s=5, say=said.append) == []
    assert any("failures: none" in line for line in said)


def life(**grow: float) -> list[soak.Sample]:
    """A thousand renewals in which some figures grow by that much with each."""
    return [
        FLAT._replace(renewals=i, **{name: int(getattr(FLAT, name) + i * by) for name, by in grow.items()})
        for i in range(1001)
    ]


def test_what_is_flat_is_not_called_growth():
    noisy = [one._replace(fds=one.fds + one.renewals % 5, threads=3 + one.renewals % 2) for one in life()]
    assert list(soak.judge(noisy)) == []


@pytest.mark.parametrize(
    ("grow", "said"),
    [
        ({"rss_kib": 1.5}, "memory grew by 1202 KiB"),
        ({"fds": 0.01}, "fds: never below 19 at first, never below 27 at last"),
        ({"threads": 0.002}, "threads: never below 3 at first, never below 4 at last"),
        ({"journal_bytes": 300}, "the journal took 500000 bytes"),
        ({"files": 0.5}, "there were 570 files"),
    ],
)
def test_what_grows_is_found(grow, said):
    (problem,) = soak.judge(life(**grow))
    assert problem.startswith(said)


def test_few_renewals_say_nothing_about_memory():
    assert soak.compared(life()[:300]) is None
    assert soak.compared(life()[:301]) is not None


@pytest.fixture
def client(provisioned, cloud):
    provisioned.start().until_provisioned()
    return soak.Client(provisioned, cloud)


def signed_by_another(_, digest):
    return ec.generate_private_key(ec.SECP256R1()).sign(digest, ec.ECDSA(utils.Prehashed(SHA256())))


def test_a_mismatch_is_forgiven_once(client, monkeypatch):
    right, signers = client._sign, [signed_by_another]
    monkeypatch.setattr(client, "_sign", lambda *asked: (signers.pop() if signers else right)(*asked))
    assert list(client.attempt(0)) == []
    assert (client.rounds, client.read_again) == (1, 1)
    monkeypatch.setattr(client, "_sign", signed_by_another)
    (problem,) = client.attempt(7)
    assert problem.startswith("after 7 renewals: Mismatch: the handle does not sign for certificate")
    assert client.rounds == 1


def test_the_hub_takes_no_other_key_for_the_certificate(client, cloud):
    """The handshake proves possession: it is no use to show the certificate alone."""
    handle, pem = client._read()

    def connect(sign):
        chain = chain_of(pem)
        return contextlib.closing(
            HandleTls(cloud.port, anchors=client.anchors, chain=chain, sign=sign, within_s=WITHIN_S)
        )

    with connect(lambda digest: client._sign(handle, digest)) as right:
        assert right.get(f"/devices/{client.device.name}/modules?api-version=2021-04-12") == (200, b"[]")
    with (
        connect(lambda digest: signed_by_another(handle, digest)) as wrong,
        pytest.raises(TlsFailed, match="alert 51"),  # decrypt_error
    ):
        wrong.get("/")


def test_another_authority_is_no_hub(client, cloud, monkeypatch):
    monkeypatch.setattr(client, "anchors", [x509.load_pem_x509_certificate(authority("other").encode())])
    (problem,) = client.attempt(0)
    assert "VerificationError" in problem
