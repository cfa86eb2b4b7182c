"""IoT Hub over real TLS: what proves a credential, what refuses it, and what says nothing."""

import base64
import contextlib
import datetime
import gzip
import hashlib
import hmac
import json
import socket
import ssl
import struct
import threading
from urllib.parse import quote

import pytest
import trio
import trustme

from adapters.driven.hub import HubProver
from statemachine.effects import ProveCredential
from statemachine.events import CredentialProofFailed, CredentialProven
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    ManualProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    TlsSettings,
    X509Source,
)
from tests.adapters.tls_peer import Peer, http, replies, server_context

ROOT = trustme.CA()
MIDDLE = trustme.CA(parent_cert=ROOT)
SERVER = ROOT.issue_cert("localhost")
DEVICE = ROOT.issue_cert(common_name="onboarding")
ISSUED = MIDDLE.issue_cert(common_name="Dev-1")
STRANGER = trustme.CA().issue_cert(common_name="Dev-1")
EFFECT_ID = "1.9.0"
NOW = 1_700_000_000_000
KEY = bytes(range(32))
DATE = "Date: Thu, 02 May 2024 10:11:12 GMT"
DATE_MS = 1714644672000
SYMMETRIC = SymmetricKeySource(value=KEY)
X509 = X509Source(certificate_path="device.pem", key_path="device.key")


def chain(issued):
    return b"".join(pem.bytes() for pem in issued.cert_chain_pems)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ROOT.cert_pem.write_to_path("ca.pem")
    (tmp_path / "device.pem").write_bytes(chain(DEVICE))
    DEVICE.private_key_pem.write_to_path("device.key")
    ISSUED.private_key_pem.write_to_path("generation-3.key")
    STRANGER.private_key_pem.write_to_path("generation-4.key")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


class Clock:
    def now_unix_ms(self):
        return NOW


class Staged:
    """As the store does, it reads a file: never on the thread that serves the sockets."""

    def key_path(self, generation):
        assert threading.current_thread() is not threading.main_thread()
        return f"generation-{generation}.key"


def configured(*, attestation=SYMMETRIC, **settings):
    settings.setdefault("cloud_timeout_seconds", 5)
    settings.setdefault("cloud_retries", 0)
    return Configuration(
        provisioning=DpsProvisioning(
            global_endpoint="https://dps.test",
            scope_id="0ne00AbCdEf",
            registration_id="Dev-1",
            attestation=attestation,
        ),
        tls=TlsSettings(ca_file="ca.pem"),
        **settings,
    )


def prove(port, **members):
    given = {"generation": 3, "hub": f"localhost:{port}", "device_id": "Dev-1", "chain_pem": chain(ISSUED)}
    given |= members
    return ProveCredential(**given, issued=given["chain_pem"] is not None)


def ask(respond, *, context=None, times=1, configuration=None, **members):
    """The last event, and the peer."""
    given = members.pop("settings", {})
    peer = Peer(respond, context or server_context(SERVER, clients=ROOT, required=False))
    events = []

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            prover = HubProver(lambda: configuration or configured(**given), Clock(), Staged(), environ={})
            for _ in range(times):
                events.append(await prover.prove(EFFECT_ID, prove(peer.port, **members)))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert events[-1].answers == EFFECT_ID
    return events[-1], peer


def failure(respond, **options):
    event, _ = ask(respond, **options)
    assert isinstance(event, CredentialProofFailed)
    return event.code, event.failure_class, event.refused


# --- what is presented -------------------------------------------------------------------------------


def test_golden_question_with_the_issued_certificate():
    event, peer = ask(replies(http(200, b"[]", DATE)))
    assert event == CredentialProven(answers=EFFECT_ID, generation=3, server_date_unix_ms=DATE_MS)
    (seen,) = peer.seen
    assert (seen.method, seen.target) == ("GET", "/devices/Dev-1/modules?api-version=2017-11-08-preview")
    assert seen.body == b""
    assert seen.headers == {"host": f"localhost:{peer.port}", "accept": "application/json"}
    assert seen.client_certificate


def test_the_whole_chain_is_presented():
    """The peer trusts the root alone, so the intermediate must come from us."""
    event, _ = ask(replies(http(200, b"[]")), context=server_context(SERVER, clients=ROOT))
    assert isinstance(event, CredentialProven)
    (leaf, *_) = ISSUED.cert_chain_pems
    assert failure(
        replies(http(200)), context=server_context(SERVER, clients=ROOT), chain_pem=leaf.bytes()
    ) == ("tls-certificate-alert", "retry", True)


def test_the_configured_certificate():
    event, peer = ask(
        replies(http(200, b"[]")),
        context=server_context(SERVER, clients=ROOT),
        chain_pem=None,
        settings={"attestation": X509},
    )
    assert isinstance(event, CredentialProven)
    assert "authorization" not in peer.seen[0].headers


@pytest.mark.parametrize("offset_ms", [0, 86_400_000, -86_400_000])
def test_the_configured_symmetric_key(offset_ms):
    event, peer = ask(replies(http(200, b"[]")), chain_pem=None, clock_offset_ms=offset_ms)
    assert isinstance(event, CredentialProven)
    expiry = (NOW + offset_ms) // 1000 + 3600
    resource = f"localhost:{peer.port}/devices/dev-1"
    signed = hmac.digest(KEY, f"{resource}\n{expiry}".encode(), hashlib.sha256)
    signature = quote(base64.b64encode(signed), safe="")
    (seen,) = peer.seen
    assert seen.headers["authorization"] == f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"
    assert not seen.client_certificate


def manual(authentication, *, hub="h", **members):
    return Configuration(
        provisioning=ManualProvisioning(hub=hub, device_id="Dev-1", authentication=authentication, **members),
        tls=TlsSettings(ca_file="ca.pem"),
        cloud_timeout_seconds=5,
        cloud_retries=0,
    )


@pytest.mark.parametrize(("source", "certificate"), [(SYMMETRIC, False), (X509, True)])
def test_a_manually_provisioned_device_proves_its_configured_credential(source, certificate):
    event, peer = ask(replies(http(200, b"[]")), chain_pem=None, configuration=manual(source))
    assert isinstance(event, CredentialProven)
    (seen,) = peer.seen
    assert seen.client_certificate == certificate
    assert ("authorization" in seen.headers) != certificate


def test_a_gateway_takes_the_place_of_the_hub_on_the_network_only():
    peer = Peer(replies(http(200, b"[]")), server_context(SERVER))

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            configuration = manual(SYMMETRIC, hub="contoso.test", gateway=f"localhost:{peer.port}")
            prover = HubProver(lambda: configuration, Clock(), Staged(), environ={})
            effect = ProveCredential(generation=3, hub="Contoso.test", device_id="Dev-1", issued=False)
            assert isinstance(await prover.prove(EFFECT_ID, effect), CredentialProven)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert "sr=contoso.test/devices/dev-1&" in peer.seen[0].headers["authorization"]


def test_a_gateway_is_for_the_hub_that_its_configuration_names():
    """What DPS assigned is still in use while the source is being changed."""
    configuration = manual(SYMMETRIC, hub="new.test", gateway="parent.test")
    event, peer = ask(replies(http(200, b"[]")), configuration=configuration)
    assert isinstance(event, CredentialProven)
    assert len(peer.seen) == 1


def test_every_proof_has_a_fresh_connection():
    _, peer = ask(replies(http(200, b"[]")), times=3)
    assert peer.connections == 3


def test_a_device_id_is_one_path_segment():
    _, peer = ask(replies(http(200, b"[]")), device_id="a=b'c#d")
    assert peer.seen[0].target.startswith("/devices/a%3Db%27c%23d/modules?")


# --- what the hub says -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        http(200, b"[]"),
        http(200, b'[{"moduleId": "m'),
        http(200, b"[" * 200_000),
        http(200, gzip.compress(b"[]"), "Content-Encoding: gzip"),
        http(200, b"<html>", "Content-Type: text/html"),
        http(302, b"", "Location: https://elsewhere.test/"),
        http(400, b'{"Message": "ErrorCode:ArgumentInvalid;"}'),
        http(403, b'{"Message": "ErrorCode:IotHubQuotaExceeded;"}'),
        http(403, b'{"Message": "404001"}'),
        http(404, b""),
        http(404, b'{"Message": "ErrorCode:ModuleNotFound;"}'),
        http(404, b"[" * 200_000),
        http(429, b"", "Retry-After: 9"),
        http(500, b'{"errorCode": 401000}'),
        http(503, b"<html>"),
    ],
)
def test_any_answer_but_a_refusal_proves_it(reply):
    event, peer = ask(replies(reply), settings={"cloud_retries": 1})
    assert isinstance(event, CredentialProven)
    assert len(peer.seen) == 1


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, b"", "hub-401"),
        (401, b"<html>", "hub-401"),
        (401, b"[" * 200_000, "hub-401"),
        (404, b'{"errorCode": 404001}', "hub-404001"),
        (404, b'{"Message": "ErrorCode:DeviceNotFound;Device Dev-1 not registered"}', "hub-404001"),
    ],
)
def test_refusals(status, body, code):
    event, peer = ask(replies(http(status, body, DATE)), settings={"cloud_retries": 3})
    assert (event.code, event.failure_class, event.refused) == (code, "retry", True)
    assert (event.generation, event.server_date_unix_ms) == (3, DATE_MS)
    assert event.message
    assert len(peer.seen) == 1


def test_a_refusal_s_words_are_kept_and_bounded():
    body = {"Message": "m\n" * 4000, "trackingId": "t" * 4000}
    reply = http(401, json.dumps(body).encode(), "Retry-After: 7")
    event, _ = ask(replies(reply), chain_pem=None)
    assert (len(event.message), len(event.tracking_id), event.retry_after_ms) == (400, 80, 7_000)
    assert base64.b64encode(KEY).decode() not in repr(event)
    assert "sig=" not in repr(event)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_alert_is_a_refusal(version):
    context = server_context(SERVER, clients=ROOT)
    context.minimum_version = context.maximum_version = version
    event, peer = ask(
        replies(http(200)),
        context=context,
        generation=4,
        chain_pem=chain(STRANGER),
        settings={"cloud_retries": 3},
    )
    assert (event.code, event.failure_class, event.refused) == ("tls-certificate-alert", "retry", True)
    assert event.generation == 4
    assert event.server_date_unix_ms is None
    assert peer.connections == 1


# --- what says nothing -------------------------------------------------------------------------------


def test_nobody_there():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    prover = HubProver(configured, Clock(), Staged(), environ={})
    event = trio.run(prover.prove, EFFECT_ID, prove(port))
    assert (event.code, event.failure_class, event.refused) == ("unreachable", "retry", False)


async def hangs_up(stream, seen):
    pass


async def resets(stream, seen):
    linger = struct.pack("ii", 1, 0)
    stream.transport_stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def stalls(stream, seen):
    await stream.send_all(b"HTTP/1.1 401 X\r\nContent-Length: 99\r\n\r\n{")
    await trio.sleep_forever()


async def oversize(stream, seen):
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(http(200, b"x" * (1024 * 1024 + 1)))


@pytest.mark.parametrize(
    ("respond", "code"),
    [
        (hangs_up, "connection-broken"),
        (resets, "connection-broken"),
        (stalls, "timeout"),
        (oversize, "answer-too-large"),
        (replies(b"SSH-2.0-x\r\n\r\n"), "answer-malformed"),
        (replies(b"HTTP/1.1 401 X\r\nContent-Length: 9\r\n\r\n{"), None),
    ],
)
def test_no_answer(respond, code):
    if code is None:
        sent = respond

        async def respond(stream, seen):
            await sent(stream, seen)
            return False

        code = "connection-broken"
    assert failure(respond, settings={"cloud_timeout_seconds": 0.15}) == (code, "retry", False)


def test_a_broken_exchange_is_repeated_on_another_connection():
    _, peer = ask(hangs_up, settings={"cloud_retries": 2})
    assert peer.connections == 3


def test_a_hub_that_is_not_believed_refuses_nothing():
    stranger = server_context(trustme.CA().issue_cert("localhost"))
    assert failure(replies(http(401)), context=stranger) == ("tls-untrusted", "operator", False)
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    expired = server_context(ROOT.issue_cert("localhost", not_before=past, not_after=past.replace(year=2002)))
    assert failure(replies(http(401)), context=expired) == ("tls-dates", "clock", False)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"generation": 5}, "client-credential-unusable"),
        ({"chain_pem": None, "settings": {"attestation": SymmetricKeySource(path="gone")}},
         "credential-unreadable"),
        ({"chain_pem": None, "configuration": Configuration(provisioning=NoProvisioning())},
         "not-configured"),
    ],
)  # fmt: skip
def test_a_credential_that_cannot_be_presented(members, code):
    event, peer = ask(replies(http(200)), **members)
    assert (event.code, event.failure_class, event.refused) == (code, "operator", False)
    assert not peer.connections


@pytest.mark.parametrize("members", [{"generation": 4}, {"chain_pem": b"x"}])
def test_an_issued_credential_that_no_hub_could_ever_accept(members):
    """Files that are there and of no use: waiting for the hub would only lead to committing them."""
    event, peer = ask(replies(http(200)), **members)
    assert (event.code, event.failure_class) == ("client-credential-unusable", "new_key")
    assert event.refused
    assert not peer.connections


def test_cancelled_in_the_middle():
    """Nothing is left open: an unclosed socket would be a ResourceWarning."""
    asking = trio.CancelScope()

    async def respond(stream, seen):
        asking.cancel()
        await trio.sleep_forever()

    peer = Peer(respond, server_context(SERVER))

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            with asking:
                await HubProver(configured, Clock(), Staged(), environ={}).prove(EFFECT_ID, prove(peer.port))
            assert asking.cancelled_caught
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_cancelled_in_the_handshake():
    asking = trio.CancelScope()

    async def main():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]

        async def accept():
            async with await listener.accept() as far:
                await far.receive_some()
                asking.cancel()
                # Whatever else comes, the end comes too: the client let go of its socket.
                with contextlib.suppress(trio.BrokenResourceError):
                    while await far.receive_some():
                        pass

        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with asking:
                await HubProver(configured, Clock(), Staged(), environ={}).prove(EFFECT_ID, prove(port))
            assert asking.cancelled_caught

    trio.run(main)
