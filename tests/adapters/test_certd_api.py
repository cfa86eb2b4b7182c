"""certd.sock as existing clients know it: which check comes first, and what exactly is said."""

import logging

import msgspec
import pytest
import trio
from trio.testing import MockClock

from adapters.driving.certd_api import certd_handler
from adapters.errors import StoreUnavailable
from adapters.wire.http_server import Request
from tests.adapters.unix_peer import exchange, serving

BUNDLE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
NOT_FOUND = 'parameter "id" has an invalid value\ncaused by: not found'
V = "api-version=2020-09-01"


class Certificates:
    """Four of them, two not as they should be."""

    def __init__(self):
        self.asked = []

    async def read_certificate(self, certificate_id):
        self.asked.append(certificate_id)
        if certificate_id == "damaged":
            raise StoreUnavailable("cannot read /secret/place", code="store-unreadable")
        return {
            "aziot-dps-trust-bundle": BUNDLE,
            "a b/c": b"odd",
            "ä": b"umlaut",
            "certificates": b"c",
            "latin1": b"\xe4",
            "empty": b"",
        }.get(certificate_id)


def answer(target, method="GET", body=b"", headers=(), certificates=None):
    handle = certd_handler(certificates or Certificates())
    response = trio.run(handle, Request(method, target, tuple(headers), body))
    assert response.content_type == "application/json"
    return response.status, msgspec.json.decode(response.body)


@pytest.mark.parametrize(
    ("target", "pem"),
    [
        (f"/certificates/aziot-dps-trust-bundle?{V}", BUNDLE.decode()),
        (f"/aziot-dps-trust-bundle?{V}", BUNDLE.decode()),
        (f"http://certd.sock/certificates/aziot-dps-trust-bundle?{V}", BUNDLE.decode()),
        (f"/certificates/%61ziot-dps-trust-bundle?{V}", BUNDLE.decode()),
        (f"/certificates/aziot-dps-trust-bundle?api-version=bogus&{V}", BUNDLE.decode()),
        (f"/certificates/aziot-dps-trust-bundle?x=1&{V}&y", BUNDLE.decode()),
        (f"/certificates/a%20b%2Fc?{V}", "odd"),
        (f"/a%20b%2Fc?{V}", "odd"),
        (f"/certificates/%C3%A4?{V}", "umlaut"),
        (f"/certificates/certificates?{V}", "c"),
        (f"/certificates/empty?{V}", ""),
    ],
)
def test_read(target, pem):
    assert answer(target) == (200, {"pem": pem})


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/certificates/x", 400, "api-version not specified"),
        ("/nope/nope", 400, "api-version not specified"),
        ("/certificates/x?API-VERSION=2020-09-01", 400, "api-version not specified"),
        ("/nope/nope?api-version=2021-05-01", 400, 'invalid api-version "2021-05-01"'),
        ("/certificates/x?api-version=", 400, 'invalid api-version ""'),
        (f"/certificates/x?{V}&api-version=bogus", 400, 'invalid api-version "bogus"'),
        (f"/nope/nope?{V}", 404, "not found"),
        (f"/certificates/x/?{V}", 404, "not found"),
        (f"/certificates//x?{V}", 404, "not found"),
        (f"/certificates/?{V}", 404, "not found"),
        (f"/?{V}", 404, "not found"),
        (f"//x?{V}", 404, "not found"),
        (f"/certificates/%FF?{V}", 404, "not found"),
        (f"/Certificates/x?{V}", 404, "not found"),
        (f"/certificates/absent?{V}", 400, NOT_FOUND),
        (f"/absent?{V}", 400, NOT_FOUND),
        (f"/certificates?{V}", 400, "method not allowed"),
        (f"/certificates/damaged?{V}", 500, "internal error"),
        (f"/certificates/latin1?{V}", 500, "internal error"),
    ],
)
def test_refusals_of_get(target, status, message, caplog):
    caplog.set_level(logging.CRITICAL + 1)
    assert answer(target) == (status, {"message": message})


@pytest.mark.parametrize(
    ("method", "path", "kind", "body", "status", "message"),
    [
        ("PATCH", "/certificates/x", None, b"{", 400, "method not allowed"),
        ("HEAD", "/certificates/x", None, b"", 400, "method not allowed"),
        ("OPTIONS", "/certificates", None, b"", 400, "method not allowed"),
        ("DELETE", "/certificates/x", None, b"", 400, "method not allowed"),
        ("DELETE", "/aziot-dps-trust-bundle", None, b"", 400, "method not allowed"),
        ("POST", "/certificates", "application/json", b'{"certId": "x"}', 400, "method not allowed"),
        ("POST", "/certificates", "text/plain", b"{", 400, "method not allowed"),
        ("POST", "/certificates", "application/json; charset=utf-8", b"{", 422, None),
        ("POST", "/certificates", None, b"{", 422, None),
        ("PUT", "/certificates/x", "application/json", b'{"pem": ""}', 400, "method not allowed"),
        ("PUT", "/certificates/x", "text/plain", b"x", 415, "request body must be application/json"),
        ("PUT", "/certificates", "application/json", b"", 422, None),
        ("PUT", "/certificates/x", None, b"[" * 100_000, 422, None),
        ("PUT", "/certificates/x/y", None, b"[", 404, "not found"),
    ],
)
def test_nothing_can_be_written_yet(method, path, kind, body, status, message):
    certificates = Certificates()
    headers = [("content-type", kind)] if kind else []
    got, said = answer(f"{path}?{V}", method, body, headers, certificates)
    assert got == status
    assert list(said) == ["message"]
    assert message in (None, said["message"])
    assert certificates.asked == []


def test_a_long_id_never_reaches_the_store():
    certificates = Certificates()
    assert answer(f"/certificates/{'x' * 1024}?{V}", certificates=certificates)[0] == 400
    assert answer(f"/certificates/{'x' * 1025}?{V}", certificates=certificates) == (
        400,
        {"message": NOT_FOUND},
    )
    assert certificates.asked == ["x" * 1024]


def test_a_card_that_hangs_is_answered_for(caplog):
    """And a client that asks for what is there is not kept waiting by one who asked for what hangs."""

    class Hanging(Certificates):
        async def read_certificate(self, certificate_id):
            if certificate_id == "hangs":
                await trio.sleep_forever()
            return await super().read_certificate(certificate_id)

    async def main():
        handle = certd_handler(Hanging())
        answers = []

        async def ask(target):
            answers.append((await handle(Request("GET", target))).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, f"/hangs?{V}")
            nursery.start_soon(ask, f"/empty?{V}")
        return answers

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == [200, 500]
    assert "'hangs' cannot be read" in caplog.text


def test_the_log_knows_more_than_the_client(caplog):
    answer(f"/damaged?{V}")
    assert "cannot read /secret/place" in caplog.text


def test_over_the_socket(tmp_path):
    """The documented command, and the original's synchronous client, which reads 512 bytes once."""

    async def main():
        path = str(tmp_path / "certd.sock")
        async with serving(path, certd_handler(Certificates())):
            got = await exchange(
                path, f"GET /aziot-dps-trust-bundle?{V} HTTP/1.1\r\nConnection: close\r\n\r\n"
            )
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"content-type: application/json" in head
        assert len(head) < 512
        assert msgspec.json.decode(body) == {"pem": BUNDLE.decode()}

    trio.run(main)
