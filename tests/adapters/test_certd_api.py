"""certd.sock as existing clients know it: which check comes first, and what exactly is said."""

import json
import logging
from urllib.parse import quote

import msgspec
import pytest
import trio
from trio.testing import MockClock

from adapters.driving.certd_api import CreateRequest, certd_handler
from adapters.errors import RequestRefused, StoreUnavailable
from adapters.wire.http_server import Peer, Request
from statemachine.settings import (
    IDENTITY_CERTIFICATE_ID,
    CertificateGrant,
    IssuanceRule,
    LocalCa,
)
from tests.adapters.certd_parts import EC_KEYS, HANDLE, Certd, Keys, ca_pem, csr
from tests.adapters.served import impersonate, run_served
from tests.adapters.unix_peer import exchange, over_a_socket, serving

BUNDLE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
BUNDLE_ID = "aziot-dps-trust-bundle"
NOT_FOUND = 'parameter "id" has an invalid value\ncaused by: not found'
V = "api-version=2020-09-01"
JSON = "application/json"
GRANTS = (
    CertificateGrant(uid=1000, certs=("example1", "aziot-*")),
    CertificateGrant(uid=1000, certs=("more-?",)),
    CertificateGrant(uid=1001, certs=("*",)),
)


class Certificates:
    """Some of them, two not as they should be. What is written is only remembered."""

    def __init__(self):
        self.asked = []
        self.written = []
        self.answer = None
        "Raised by whoever writes."

    async def read_certificate(self, certificate_id):
        self.asked.append(certificate_id)
        if certificate_id == "damaged":
            raise StoreUnavailable("cannot read /secret/place", code="store-unreadable")
        return {
            BUNDLE_ID: BUNDLE,
            "a b/c": b"odd",
            "ä": b"umlaut",
            "certificates": b"c",
            "latin1": b"\xe4",
            "empty": b"",
        }.get(certificate_id)

    async def create_certificate(self, certificate_id, csr_pem, issuer):
        await self._write("create", certificate_id, csr_pem, issuer)
        return b"issued"

    async def import_certificate(self, certificate_id, pem):
        await self._write("import", certificate_id, pem)

    async def delete_certificate(self, certificate_id):
        await self._write("delete", certificate_id)

    async def _write(self, *what):
        await trio.lowlevel.checkpoint()
        self.written.append(what)
        if self.answer is not None:
            raise self.answer


def handler(certificates):
    return certd_handler(certificates, lambda: GRANTS, lambda: BUNDLE_ID)


def answer(target, method="GET", body=b"", headers=(), certificates=None, uid=0):
    handle = handler(certificates or Certificates())
    request = Request(method, target, tuple(headers), body, Peer(uid=uid))
    response = over_a_socket(handle, request)
    assert response.content_type == "application/json"
    return response.status, msgspec.json.decode(response.body) if response.body else None


def post(certificates=None, uid=0, **members):
    """``POST /certificates``."""
    body = json.dumps({"certId": "x", "csr": "a request", **members}).encode()
    return answer(f"/certificates?{V}", "POST", body, (), certificates, uid)


def put(certificate_id, pem="P", certificates=None, uid=0):
    body = json.dumps({"pem": pem}).encode()
    return answer(f"/certificates/{quote(certificate_id, '')}?{V}", "PUT", body, (), certificates, uid)


def delete(certificate_id, certificates=None, uid=0):
    path = f"/certificates/{quote(certificate_id, '')}?{V}"
    return answer(path, "DELETE", certificates=certificates, uid=uid)


# --- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "pem"),
    [
        (f"/certificates/{BUNDLE_ID}?{V}", BUNDLE.decode()),
        (f"/{BUNDLE_ID}?{V}", BUNDLE.decode()),
        (f"http://certd.sock/certificates/{BUNDLE_ID}?{V}", BUNDLE.decode()),
        (f"/certificates/%61ziot-dps-trust-bundle?{V}", BUNDLE.decode()),
        (f"/certificates/{BUNDLE_ID}?api-version=bogus&{V}", BUNDLE.decode()),
        (f"/certificates/{BUNDLE_ID}?x=1&{V}&y", BUNDLE.decode()),
        (f"/certificates/a%20b%2Fc?{V}", "odd"),
        (f"/a%20b%2Fc?{V}", "odd"),
        (f"/certificates/%C3%A4?{V}", "umlaut"),
        (f"/certificates/certificates?{V}", "c"),
        (f"/certificates/empty?{V}", ""),
    ],
)
@pytest.mark.parametrize("uid", [0, 4242, None])
def test_read(target, pem, uid):
    assert answer(target, uid=uid) == (200, {"pem": pem})


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
        ("DELETE", "/certificates", None, b"", 400, "method not allowed"),
        ("POST", "/certificates/x", JSON, b"{}", 400, "method not allowed"),
        ("POST", "/certificates/x", JSON, b"{", 422, None),
        # the alias is for reading only
        ("DELETE", f"/{BUNDLE_ID}", None, b"", 400, "method not allowed"),
        ("DELETE", "/x", None, b"", 400, "method not allowed"),
        ("POST", "/x", JSON, b"{}", 400, "method not allowed"),
        ("PUT", "/x", JSON, b'{"pem":"P"}', 400, "method not allowed"),
        ("PUT", "/x", JSON, b"", 422, None),
        # bodies
        ("POST", "/certificates", "text/plain", b"{", 400, "missing request body"),
        ("POST", "/certificates", JSON, b"", 400, "missing request body"),
        ("POST", "/certificates", f"{JSON}; charset=utf-8", b"{", 422, None),
        ("POST", "/certificates", None, b"{", 422, None),
        ("POST", "/certificates", JSON, b'{"certId":"x"}', 422, None),
        ("POST", "/certificates", JSON, b'{"csr":"x"}', 422, None),
        ("POST", "/certificates", JSON, b'{"certId":"x","csr":null}', 422, None),
        ("POST", "/certificates", JSON, b'{"certId":"x","csr":"c","issuer":{}}', 422, None),
        ("POST", "/certificates", JSON, b'{"certId":"x","csr":"c","issuer":{"certId":"y"}}', 422, None),
        ("POST", "/certificates", JSON, b'{"certId":"x","csr":"c","issuer":"y"}', 422, None),
        ("POST", "/certificates", JSON, b'{"certId":"x","certId":"y","csr":"c"}', 422, None),
        ("POST", "/certificates", JSON, b'{"certId":"\xff","csr":"c"}', 422, None),
        ("PUT", "/certificates/x", "text/plain", b"x", 415, "request body must be application/json"),
        ("PUT", "/certificates/x", JSON, b"{}", 422, None),
        ("PUT", "/certificates/x", JSON, b'{"pem":7}', 422, None),
        ("PUT", "/certificates/x", JSON, b"", 422, None),
        ("PUT", "/certificates", JSON, b"", 422, None),
        ("PUT", "/certificates", JSON, b"{}", 400, "method not allowed"),
        ("PUT", "/certificates/x", None, b"[" * 100_000, 422, None),
        ("PUT", "/certificates/x/y", None, b"[", 404, "not found"),
        ("DELETE", "/certificates/x", JSON, b"{", 422, None),
    ],
)
def test_requests_that_come_to_nothing(method, path, kind, body, status, message):
    certificates = Certificates()
    headers = [("content-type", kind)] if kind else []
    got, said = answer(f"{path}?{V}", method, body, headers, certificates)
    assert got == status
    assert list(said) == ["message"]
    assert message in (None, said["message"])
    assert (certificates.asked, certificates.written) == ([], [])


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

        async def _write(self, *what):
            await trio.sleep_forever()

    async def main():
        handle = handler(Hanging())
        answers = []

        async def ask(target, method="GET", body=b""):
            request = Request(method, target, body=body, peer=Peer(uid=0))
            response = await handle(request)
            answers.append((response.status, trio.current_time() - begun, response.body))

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, f"/hangs?{V}")
            nursery.start_soon(ask, f"/empty?{V}")
            nursery.start_soon(ask, f"/certificates/x?{V}", "DELETE")
            nursery.start_soon(ask, f"/certificates/x?{V}", "PUT", b'{"pem":""}')
            nursery.start_soon(ask, f"/certificates?{V}", "POST", b'{"certId":"x","csr":""}')
        return answers

    answers = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [(status, round(waited)) for status, waited, _ in answers] == [
        (200, 0),
        (500, 10),
        *[(500, 25)] * 3,
    ]
    assert {body for status, _, body in answers if status == 500} == {b'{"message":"internal error"}'}
    for said in ("'hangs' cannot be read", "'x' cannot be deleted", "'x' cannot be created"):
        assert said in caplog.text


def test_the_log_knows_more_than_the_client(caplog):
    answer(f"/damaged?{V}", uid=77)
    assert "'damaged' cannot be served to uid 77: store-unreadable: cannot read /secret/place" in caplog.text


# --- writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issuer", "passed"),
    [
        ({}, None),
        ({"issuer": None}, None),
        ({"issuer": {"certId": "ca", "privateKeyHandle": "h", "more": 1}}, ("ca", "h")),
    ],
)
def test_create(issuer, passed):
    certificates = Certificates()
    assert post(certificates, unknown=1, **issuer) == (201, {"pem": "issued"})
    [(verb, certificate_id, csr_pem, by)] = certificates.written
    assert (verb, certificate_id, csr_pem) == ("create", "x", "a request")
    assert (by and (by.certificate_id, by.key_handle)) == passed


def test_a_handle_is_not_shown():
    body = msgspec.convert(
        {"certId": "x", "csr": "", "issuer": {"certId": "ca", "privateKeyHandle": HANDLE}}, CreateRequest
    )
    assert HANDLE not in repr(body)


def test_import_and_delete():
    certificates = Certificates()
    odd = "two\r\nlines \u00e4 and \ufffd\n"
    assert put("a b/c", odd, certificates) == (201, {"pem": odd})
    assert delete("a b/c", certificates) == (204, None)
    assert certificates.written == [("import", "a b/c", odd), ("delete", "a b/c")]


@pytest.mark.parametrize(
    ("exc", "status", "message"),
    [
        (
            RequestRefused("not PEM", code="csr-invalid", parameter="csr"),
            400,
            'parameter "csr" has an invalid value\ncaused by: not PEM',
        ),
        (
            RequestRefused("not found", code="issuer-invalid", parameter="issuer.certId"),
            400,
            'parameter "issuer.certId" has an invalid value\ncaused by: not found',
        ),
        (RequestRefused("no rule for secret", code="cannot-be-issued"), 500, "internal error"),
        (StoreUnavailable("/secret/place is full", code="disk-full"), 500, "internal error"),
    ],
)
@pytest.mark.parametrize("ask", [post, lambda c: put("x", "P", c), lambda c: delete("x", c)])
def test_what_the_store_says(exc, status, message, ask, caplog):
    certificates = Certificates()
    certificates.answer = exc
    assert ask(certificates) == (status, {"message": message})
    assert (exc.message in caplog.text) == (status == 500)


# --- who may write -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "certificate_id", "allowed"),
    [
        (0, "anything", True),
        (0, "a b/c", True),
        (1000, "example1", True),
        (1000, "example11", False),
        (1000, "Example1", False),
        (1000, "aziot-", True),
        (1000, "aziot-edge/ca", True),
        (1000, "xaziot-edge", False),
        (1000, "more-1", True),  # the second principal of that uid
        (1000, "more-12", False),
        (1000, "other", False),
        (1001, "other", True),
        (1001, "x" * 1024, True),
        (1001, "x" * 1025, False),
        (4242, "example1", False),
        (None, "example1", False),
        # of the machine, whoever asks
        (0, IDENTITY_CERTIFICATE_ID, False),
        (0, BUNDLE_ID, False),
        (1000, IDENTITY_CERTIFICATE_ID, False),
        (1001, BUNDLE_ID, False),
    ],
)
def test_who_may_write(uid, certificate_id, allowed, caplog):
    certificates = Certificates()
    denied = (
        401,
        {
            "message": f"user {-1 if uid is None else uid} is not authorized to modify the cert "
            f"{certificate_id if len(certificate_id) < 200 else 'x' * 199 + '…'}"
        },
    )
    answers = [
        post(certificates, uid, certId=certificate_id),
        put(certificate_id, "P", certificates, uid),
        delete(certificate_id, certificates, uid),
    ]
    if allowed:
        assert [status for status, _ in answers] == [201, 201, 204]
        assert [verb for verb, *_ in certificates.written] == ["create", "import", "delete"]
        assert caplog.text == ""
    else:
        assert answers == [denied] * 3
        assert certificates.written == []
        assert f"uid {-1 if uid is None else uid} may not modify" in caplog.text


def test_a_body_is_bound_before_rights_are_asked_about():
    assert answer(f"/certificates?{V}", "POST", b"{}", uid=4242)[0] == 422
    assert answer(f"/certificates/x?{V}", "PUT", b"{}", uid=4242)[0] == 422


def test_rights_are_asked_about_before_the_request_is_read(tmp_path):
    certd = Certd(tmp_path)
    assert post(certd.certificates, 4242, csr="hello")[0] == 401
    assert post(certd.certificates, 0, csr="hello")[0] == 400


def test_the_id_of_the_bundle_may_change():
    bundle = ["old"]
    handle = certd_handler(Certificates(), lambda: (), lambda: bundle[0])

    def ask(certificate_id):
        request = Request("DELETE", f"/certificates/{certificate_id}?{V}", peer=Peer(uid=0))
        return trio.run(handle, request).status

    assert [ask("old"), ask("new")] == [401, 204]
    bundle[0] = "new"
    assert [ask("old"), ask("new")] == [204, 401]


# --- over the socket ---------------------------------------------------------------------------------


def test_over_the_socket(tmp_path):
    """The documented command, and the original's synchronous client, which reads 512 bytes once."""

    async def main():
        path = str(tmp_path / "certd.sock")
        async with serving(path, handler(Certificates())):
            got = await exchange(path, f"GET /{BUNDLE_ID}?{V} HTTP/1.1\r\nConnection: close\r\n\r\n")
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"content-type: application/json" in head
        assert len(head) < 512
        assert msgspec.json.decode(body) == {"pem": BUNDLE.decode()}

    trio.run(main)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """The whole of certd on a real socket: ``ask(method, path, body, uid)`` is status and decoded body."""
    impersonate(monkeypatch)
    ca_key, leaf_key, self_key = EC_KEYS
    certd = Certd(
        tmp_path,
        keys=Keys(**{"ca-key": ca_key, "own": self_key}),
        rules={
            "own": IssuanceRule(method="self_signed"),
            "by-ca": IssuanceRule(method="local_ca"),
            "keyless": IssuanceRule(method="self_signed"),
        },
        local_ca=LocalCa(certificate_id="local-ca", key_id="ca-key"),
        preloaded={
            "bundle": ("part-1", "part-2", "bundle"),
            "empty-list": ("part-1", "bundle"),
            "mine": f"{tmp_path}/mine.pem",
        },
    )
    ca = ca_pem(ca_key)
    certd.put("local-ca", ca)
    certd.put("my-ca", ca)
    certd.put("latin1", b"\xe4")
    certd.put("hollow", b"")

    def exchanged(method, path, body=None, uid=0):
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: certd.sock\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        got = []

        async def client(served):
            got.append(await served.ask(head.encode() + content, uid=uid))

        errors = run_served(client, handler=handler(certd.certificates), path=str(tmp_path / "certd.sock"))
        assert errors == []
        told, _, payload = got[0].partition(b"\r\n\r\n")
        status = int(told.split()[1])
        if status == 204:
            assert payload == b""
            assert b"content-type" not in told
            return status, None
        assert b"\r\ncontent-type: application/json\r\n" in told
        assert len(told) < 512
        return status, json.loads(payload)

    exchanged.certd = certd
    exchanged.csr = csr(leaf_key)
    exchanged.own_csr = csr(self_key)
    exchanged.ca = ca.decode()
    return exchanged


def test_e9_import_and_read_back(ask):
    pem = "text before\n" + ask.ca
    assert ask("PUT", f"/certificates/my-new-ca?{V}", {"pem": pem}) == (201, {"pem": pem})
    assert ask("GET", f"/certificates/my-new-ca?{V}", uid=4242) == (200, {"pem": pem})
    assert ask("GET", f"/my-new-ca?{V}", uid=4242) == (200, {"pem": pem})


@pytest.mark.parametrize(
    "pem", ["", "hello", "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_not_imported(ask, pem):
    status, said = ask("PUT", f"/certificates/x?{V}", {"pem": pem})
    assert status == 400
    assert said["message"].startswith('parameter "pem" has an invalid value\ncaused by: ')
    assert ask("GET", f"/certificates/x?{V}") == (400, {"message": NOT_FOUND})


def test_e10_the_bundle_by_both_paths(ask):
    ask.certd.put(BUNDLE_ID, ask.ca.encode())
    for path in (f"/certificates/{BUNDLE_ID}", f"/{BUNDLE_ID}"):
        assert ask("GET", f"http://localhost{path}?{V}", uid=4242) == (200, {"pem": ask.ca})


def test_e11_no_bundle_yet(ask):
    assert ask("GET", f"/certificates/{BUNDLE_ID}?{V}") == (400, {"message": NOT_FOUND})


def test_e12_somebody_else_may_read_but_not_delete(ask):
    denied = {"message": "user 1000 is not authorized to modify the cert my-ca"}
    assert ask("DELETE", f"/certificates/my-ca?{V}", uid=1000) == (401, denied)
    assert ask("GET", f"/certificates/my-ca?{V}", uid=1000) == (200, {"pem": ask.ca})


def test_e13_what_is_not_there_is_deleted_all_the_same(ask):
    assert ask("DELETE", f"/certificates/does-not-exist?{V}") == (204, None)
    assert ask("DELETE", f"/certificates/my-ca?{V}") == (204, None)
    assert ask("GET", f"/certificates/my-ca?{V}")[0] == 400
    assert ask("DELETE", f"/certificates/{'x' * 4096}?{V}") == (204, None)


def test_e14_an_id_with_a_blank_and_a_slash(ask):
    ask.certd.put("a b/c", ask.ca.encode())
    assert ask("GET", f"/certificates/a%20b%2Fc?{V}") == (200, {"pem": ask.ca})
    assert ask("GET", f"/a%20b%2Fc?{V}") == (200, {"pem": ask.ca})


def test_e15_create_with_an_issuer(ask):
    issuer = {"certId": "my-ca", "privateKeyHandle": f"{HANDLE}ca-key"}
    body = {"certId": "leaf", "csr": ask.csr, "issuer": issuer}
    status, said = ask("POST", f"/certificates?{V}", body)
    assert status == 201
    assert said["pem"].endswith(ask.ca)
    assert said["pem"].count("BEGIN CERTIFICATE") == 2
    assert ask("GET", f"/certificates/leaf?{V}") == (200, said)


@pytest.mark.parametrize(("certificate_id", "length"), [("own", 1), ("by-ca", 2)])
def test_create_by_rule(ask, certificate_id, length):
    request = ask.own_csr if certificate_id == "own" else ask.csr
    status, said = ask("POST", f"/certificates?{V}", {"certId": certificate_id, "csr": request})
    assert (status, said["pem"].count("BEGIN CERTIFICATE")) == (201, length)
    assert ask("GET", f"/certificates/{certificate_id}?{V}") == (200, said)


NOPE = {"certId": "nope", "privateKeyHandle": "h"}


@pytest.mark.parametrize(
    ("members", "status", "message"),
    [
        # services.md §9.2, E16
        ({"certId": "norule"}, 500, "internal error"),
        ({"certId": "norule", "csr": "hello"}, 400, 'parameter "csr" has an invalid value\ncaused by: '),
        ({"issuer": NOPE}, 400, 'parameter "issuer.certId" has an invalid value\ncaused by: not found'),
        # services.md §4.3
        (
            {"issuer": {"certId": "hollow", "privateKeyHandle": "h"}},
            400,
            'parameter "issuer.certId" has an invalid value\ncaused by: invalid issuer',
        ),
        ({"issuer": {"certId": "my-ca", "privateKeyHandle": "h"}}, 500, "internal error"),
        ({"issuer": {"certId": "my-ca", "privateKeyHandle": f"{HANDLE}own"}}, 500, "internal error"),
        ({"certId": "keyless"}, 500, "internal error"),
        ({"certId": "bundle"}, 500, "internal error"),
        ({"certId": ""}, 400, 'parameter "certId" has an invalid value\ncaused by: empty'),
        ({"certId": "x" * 4096}, 400, 'parameter "certId" has an invalid value\ncaused by: longer than'),
    ],
)
def test_e16_what_is_not_created(ask, caplog, members, status, message):
    before = ask.certd.files()
    got, said = ask("POST", f"/certificates?{V}", {"certId": "x", "csr": ask.csr} | members)
    assert got == status
    assert said["message"].startswith(message)
    assert ask.certd.files() == before
    assert (len(caplog.records) == 1) == (status == 500)
    assert HANDLE not in caplog.text


@pytest.mark.parametrize(
    ("certificate_id", "status", "said"),
    [
        ("bundle", 400, {"message": NOT_FOUND}),
        ("empty-list", 400, {"message": NOT_FOUND}),
        ("mine", 400, {"message": NOT_FOUND}),
        ("hollow", 200, {"pem": ""}),
        ("latin1", 500, {"message": "internal error"}),
        ("x\0y", 400, {"message": NOT_FOUND}),
        ("../../../../etc/passwd", 400, {"message": NOT_FOUND}),
    ],
)
def test_reads_of_odd_ids(ask, certificate_id, status, said):
    assert ask("GET", f"/certificates/{quote(certificate_id, '')}?{V}") == (status, said)


def test_a_list_is_read_but_not_written(ask, caplog):
    ask.certd.put("part-1", ask.ca.rstrip("\n").encode())
    ask.certd.put("part-2", ask.ca.encode())
    before = ask.certd.files()
    assert ask("GET", f"/certificates/bundle?{V}") == (200, {"pem": ask.ca * 2})
    assert ask("GET", f"/bundle?{V}") == (200, {"pem": ask.ca * 2})
    caplog.clear()
    broken = (500, {"message": "internal error"})
    assert ask("PUT", f"/certificates/bundle?{V}", {"pem": ask.ca}) == broken
    assert ask("DELETE", f"/certificates/bundle?{V}") == broken
    assert [record.args[0] for record in caplog.records] == ["bundle", "bundle"]
    assert "is a list of ids" in caplog.text
    assert ask.certd.files() == before


def test_a_file_of_the_operator_is_written(ask, tmp_path):
    assert ask("PUT", f"/certificates/mine?{V}", {"pem": ask.ca})[0] == 201
    assert (tmp_path / "mine.pem").read_text() == ask.ca
    assert ask("DELETE", f"/certificates/mine?{V}") == (204, None)
    assert not (tmp_path / "mine.pem").exists()


@pytest.mark.parametrize("certificate_id", [IDENTITY_CERTIFICATE_ID, BUNDLE_ID])
def test_what_the_machine_owns_is_nobodys_to_write(ask, certificate_id):
    ask.certd.put(certificate_id, ask.ca.encode())
    issuer = {"certId": "my-ca", "privateKeyHandle": f"{HANDLE}ca-key"}
    denied = (401, {"message": f"user 0 is not authorized to modify the cert {certificate_id}"})
    body = {"certId": certificate_id, "csr": ask.csr, "issuer": issuer}
    assert ask("POST", f"/certificates?{V}", body) == denied
    assert ask("PUT", f"/certificates/{certificate_id}?{V}", {"pem": ask.ca}) == denied
    assert ask("DELETE", f"/certificates/{certificate_id}?{V}") == denied
    assert ask("GET", f"/certificates/{certificate_id}?{V}", uid=4242) == (200, {"pem": ask.ca})
