"""workload.sock as modules know it (services.md §7): always an answer, always the same one."""

import json
import logging

import pytest
import trio
from trio.testing import MockClock

from adapters.driving import workload_api
from adapters.driving.workload_api import API_VERSIONS, workload_handler
from adapters.errors import RequestRefused, StoreUnavailable
from adapters.wire.http_server import Request
from tests.adapters.roots import root_pem
from tests.adapters.unix_peer import exchange, serving

A, B, C, D = (root_pem(name) for name in "ABCD")
LOCAL, DPS, MANIFEST = (
    "aziot-edged-trust-bundle",
    "aziot-dps-trust-bundle",
    "aziot-edged-manifest-trust-bundle",
)
V = "api-version=2018-06-28"


class Certificates:
    """What is stored, in a dict that a test may change; exceptions are raised."""

    def __init__(self, **stored):
        self.stored = dict(stored)
        self.asked = []

    async def read_certificate(self, certificate_id):
        self.asked.append(certificate_id)
        await trio.lowlevel.checkpoint()
        found = self.stored.get(certificate_id)
        if isinstance(found, Exception):
            raise found
        if found == "hangs":
            await trio.sleep_forever()
        return found


def stored(local=None, dps=None, manifest=None):
    return Certificates(**{LOCAL: local, DPS: dps, MANIFEST: manifest})


def handler(certificates):
    return workload_handler(certificates, lambda: LOCAL, lambda: DPS, lambda: MANIFEST)


def answer(certificates, path="/trust-bundle", *, handle=None):
    """Status and text of one answer, in virtual time."""
    handle = handle or handler(certificates)
    response = trio.run(handle, Request("GET", f"{path}?{V}"), clock=MockClock(autojump_threshold=0))
    body = json.loads(response.body)
    assert list(body) == ["certificate" if response.status == 200 else "message"]
    return response.status, body.get("certificate", body.get("message")).encode()


def over_socket(tmp_path, certificates, target, method="GET", extra=""):
    """Head and decoded body, as curl would see them."""

    async def main():
        path = str(tmp_path / "workload.sock")
        async with serving(path, handler(certificates)):
            return await exchange(path, f"{method} {target} HTTP/1.1\r\n{extra}Connection: close\r\n\r\n")

    head, _, body = trio.run(main).partition(b"\r\n\r\n")
    return head, json.loads(body)


# --- E40 and the table of §7.2, over the socket ------------------------------------------------------


@pytest.mark.parametrize("version", API_VERSIONS)
@pytest.mark.parametrize(
    ("path", "text"),
    [("/trust-bundle", A + B + C), ("/manifest-trust-bundle", D)],
    ids=["device", "manifest"],
)
def test_bundles_of_every_version(tmp_path, version, path, text):
    head, body = over_socket(tmp_path, stored(A + B, B + C, D), f"{path}?api-version={version}")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-type: application/json\r\n" in head + b"\r\n"
    assert body == {"certificate": text.decode()}


def test_the_documented_command(tmp_path):
    target = f"http://workload.sock/trust-bundle?{V}"
    head, body = over_socket(tmp_path, stored(dps=A), target, extra="Host: workload.sock\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body["certificate"].startswith("-----BEGIN CERTIFICATE-----\n")


@pytest.mark.parametrize("path", ["/trust-bundle", "/manifest-trust-bundle"])
def test_nothing_configured(tmp_path, path):
    head, body = over_socket(tmp_path, stored(), f"{path}?{V}")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == {"certificate": ""}


@pytest.mark.parametrize(
    ("method", "target", "status", "message"),
    [
        ("GET", "/trust-bundle", 400, "api-version not specified"),
        ("GET", "/nope", 400, "api-version not specified"),
        ("GET", "/trust-bundle?api-version=2020-09-01", 400, 'invalid api-version "2020-09-01"'),
        ("GET", "/trust-bundle?api-version=2018-06-27", 400, 'invalid api-version "2018-06-27"'),
        ("GET", f"/trust-bundle/?{V}", 404, "not found"),
        ("GET", f"/trust-bundles?{V}", 404, "not found"),
        ("GET", f"/Trust-Bundle?{V}", 404, "not found"),
        ("GET", f"/?{V}", 404, "not found"),
        ("DELETE", f"/trust-bundle?{V}", 400, "method not allowed"),
        ("POST", f"/manifest-trust-bundle?{V}", 400, "method not allowed"),
    ],
)
def test_refusals(tmp_path, method, target, status, message):
    certificates = stored(A, B, C)
    head, body = over_socket(tmp_path, certificates, target, method)
    assert head.startswith(f"HTTP/1.1 {status}".encode())
    assert body == {"message": message}
    assert certificates.asked == []


# --- what is left out --------------------------------------------------------------------------------

UNREADABLE = StoreUnavailable("cannot read /secret/place", code="io-error")


@pytest.mark.parametrize(
    ("local", "dps", "text"),
    [
        (A, None, A),
        (None, A, A),
        (b"", A, A),
        (b"\n", b"", b""),
        (UNREADABLE, A, A),
        (A, UNREADABLE, A),
        (UNREADABLE, UNREADABLE, b""),
        (RequestRefused("no such id", code="not-found"), A, A),
        ("hangs", A, A),
        (A, "hangs", A),
        ("hangs", "hangs", b""),
        (b"\xff\xfe", A, A),
        (A.rstrip(b"\n"), B, A + B),
        (A + b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----" + B, A, A + B),
    ],
)
def test_what_cannot_be_read_costs_only_itself(local, dps, text):
    assert answer(stored(local, dps)) == (200, text)


def test_the_manifest_bundle_is_its_own():
    certificates = stored(A, B, b"junk" + D + D)
    assert answer(certificates, "/manifest-trust-bundle") == (200, D)
    assert certificates.asked == [MANIFEST]


def test_one_id_for_both_is_read_once():
    certificates = stored(A)
    handle = workload_handler(certificates, lambda: LOCAL, lambda: LOCAL, lambda: MANIFEST)
    assert answer(certificates, handle=handle) == (200, A)
    assert certificates.asked == [LOCAL]


def test_a_reload_changes_the_ids():
    ids = [LOCAL, DPS]
    certificates = stored(A, B)
    handle = workload_handler(certificates, lambda: ids[0], lambda: DPS, lambda: MANIFEST)
    assert answer(certificates, handle=handle) == (200, A + B)
    ids[0] = "another"
    certificates.stored["another"] = C
    assert answer(certificates, handle=handle) == (200, C + B)


def test_each_cause_is_told_once(caplog):
    certificates = stored(dps=A)
    handle = handler(certificates)
    for _ in range(3):
        answer(certificates, handle=handle)
    assert caplog.messages == [f"trust bundle '{LOCAL}' is left out: there is none"]
    for content in (UNREADABLE, UNREADABLE, "hangs", "hangs", None, None, B, None, None):
        certificates.stored[LOCAL] = content
        answer(certificates, handle=handle)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "there is none",
        "cannot read /secret/place",
        "it could not be read within 10 s",
        "there is none",
        "there is none",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_the_client_is_told_nothing_of_the_causes():
    assert b"secret" not in answer(stored(UNREADABLE))[1]


def test_a_bad_block_is_told_once_for_the_same_text(caplog):
    certificates = stored(b"-----BEGIN CERTIFICATE-----", A)
    handle = handler(certificates)
    for _ in range(3):
        assert answer(certificates, handle=handle) == (200, A)
    assert caplog.messages == [f'trust bundle "{LOCAL}": block 1 is not a certificate, and is left out']


def test_the_same_text_is_merged_once(monkeypatch):
    merged = []
    real = workload_api.merge_bundles
    monkeypatch.setattr(workload_api, "merge_bundles", lambda parts: merged.append(parts) or real(parts))
    certificates = stored(A, B, D)
    handle = handler(certificates)
    for _ in range(3):
        assert answer(certificates, handle=handle) == (200, A + B)
        assert answer(certificates, "/manifest-trust-bundle", handle=handle) == (200, D)
    assert len(merged) == 2
    # What a digest over the mere concatenation would not see.
    certificates.stored |= {LOCAL: A + DPS.encode() + B, DPS: None}
    answer(certificates, handle=handle)
    assert len(merged) == 3
    certificates.stored |= {LOCAL: A, DPS: C}
    assert answer(certificates, handle=handle) == (200, A + C)


def test_a_card_that_hangs_holds_up_nobody_else():
    """The one is answered only after the other was."""

    async def main():
        certificates = stored("slow", A, D)
        handle = handler(certificates)
        answered = trio.Event()
        real = certificates.read_certificate

        async def slow(certificate_id):
            if await real(certificate_id) == "slow":
                await answered.wait()
                return B
            return certificates.stored[certificate_id]

        certificates.read_certificate = slow
        texts = {}

        async def ask(path):
            response = await handle(Request("GET", f"{path}?{V}"))
            texts[path] = json.loads(response.body)["certificate"].encode()

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, "/trust-bundle")
                await ask("/manifest-trust-bundle")
                assert list(texts) == ["/manifest-trust-bundle"]
                answered.set()
        return texts

    assert trio.run(main) == {"/manifest-trust-bundle": D, "/trust-bundle": B + A}
