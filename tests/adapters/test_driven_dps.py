"""DPS over real TLS: every answer it may give, as the event that says what to do about it."""

import base64
import contextlib
import datetime
import gzip
import hashlib
import json
import socket
import threading

import msgspec
import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adapters.driven.dps import DpsRegistrar
from adapters.errors import StoreUnavailable
from statemachine.effects import PollRegistration, SubmitRegistration
from statemachine.events import (
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
)
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    TlsSettings,
    X509Source,
)
from tests.adapters.tls_peer import Peer, http, replies, server_context

ROOT = trustme.CA()
MIDDLE = trustme.CA(parent_cert=ROOT)
SERVER = ROOT.issue_cert("localhost")
DEVICE = ROOT.issue_cert(common_name="Dev-1")
STRANGER = trustme.CA().issue_cert(common_name="Dev-1")
ISSUED = MIDDLE.issue_cert(common_name="Dev-1")
LEAF, ICA, CA = (
    x509.load_pem_x509_certificate(pem.bytes()) for pem in (*ISSUED.cert_chain_pems, ROOT.cert_pem)
)
EFFECT_ID = "1.7.0"

NOW = 1_700_000_000_000 - 3_600_000
"An hour before the instant of the golden tokens: tokens live for an hour."
KEY = bytes(range(32))
TOKEN = (
    "SharedAccessSignature sr=0ne00abcdef/registrations/dev-1"
    "&sig=%2Bxo0IlQKp2MJ0fVAV6j%2BW6f%2FrpnlpXteD1T2BxFcJ3k%3D&se=1700000000&skn=registration"
)
"cloud.md §1.5."
CSR = "MIHZMIGAAgEAMB4xHDAaBgNVBAMME2xpbmU0LXByZXNzLTE3"
REFUSAL = "Device sent CSR but it is not configured in the service."
DATE = "Date: Thu, 02 May 2024 10:11:12 GMT"
DATE_MS = 1714644672000


def pem(*certificates):
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def der64(certificate):
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ROOT.cert_pem.write_to_path("ca.pem")
    for name, issued in (("device", DEVICE), ("stranger", STRANGER)):
        (tmp_path / f"{name}.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(f"{name}.key")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


class Clock:
    def __init__(self, now=NOW):
        self.now = now

    def now_unix_ms(self):
        return self.now


class Staged:
    """As the store does, it reads a file: never on the thread that serves the sockets."""

    def csr_der(self, generation):
        assert threading.current_thread() is not threading.main_thread()
        if generation != 3:
            raise StoreUnavailable("no such key", code="key-missing", failure_class="new_key")
        return base64.b64decode(CSR)


SYMMETRIC = SymmetricKeySource(value=KEY)
X509 = X509Source(certificate_path="device.pem", key_path="device.key")


def configured(port, *, attestation=SYMMETRIC, registration_id="Dev-1", payload=None, **settings):
    settings.setdefault("cloud_timeout_seconds", 5)
    settings.setdefault("cloud_retries", 0)
    return Configuration(
        provisioning=DpsProvisioning(
            global_endpoint=f"https://localhost:{port}",
            scope_id="0ne00AbCdEf",
            registration_id=registration_id,
            attestation=attestation,
            payload_path=payload,
        ),
        tls=TlsSettings(ca_file="ca.pem"),
        **settings,
    )


def submit(**members):
    return SubmitRegistration(**{"attempt": 1, "generation": 3, "spki_sha256": spki(LEAF), **members})


def poll(operation_id="5.a1.0b-4e", **members):
    return PollRegistration(
        **{"attempt": 1, "operation_id": operation_id, "spki_sha256": spki(LEAF), **members}
    )


def spki(certificate):
    return hashlib.sha256(
        certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


async def perform(registrar, effect):
    perform_it = registrar.submit if isinstance(effect, SubmitRegistration) else registrar.poll
    return await perform_it(EFFECT_ID, effect)


def ask(respond, *effects, context=None, clock=None, **settings):
    """The events that answer the effects, one after the other, and the peer."""
    peer = Peer(respond, context or server_context(SERVER))
    events = []

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            configuration = configured(peer.port, **settings)
            registrar = DpsRegistrar(lambda: configuration, clock or Clock(), Staged(), environ={})
            for effect in effects:
                events.append(await perform(registrar, effect))
            await registrar.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert {event.answers for event in events} <= {EFFECT_ID}
    assert base64.b64encode(KEY).decode() not in repr(events)
    return events, peer


def failure(respond, effect, **settings):
    (event,), _ = ask(respond, effect, **settings)
    assert isinstance(event, RegistrationFailed)
    return event.code, event.failure_class


def answer(body, *headers, status=200):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http(status, content, "Content-Type: application/json; charset=utf-8", *headers)


def state(status="assigned", operation_id="5.a1.0b-4e", **members):
    told = {"registrationId": "Dev-1", "assignedHub": "h.example", "deviceId": "Dev-1", "status": status}
    return answer({"operationId": operation_id, "status": status, "registrationState": told | members})


# --- the bytes we send -------------------------------------------------------------------------------


def test_golden_registration_with_a_symmetric_key():
    accepted = answer(
        {"operationId": "5.a1.0b-4e", "status": "assigning"}, "Retry-After: 3", DATE, status=202
    )
    (event,), peer = ask(replies(accepted), submit())
    assert event == RegistrationAccepted(
        answers=EFFECT_ID, operation_id="5.a1.0b-4e", retry_after_ms=3_000, server_date_unix_ms=DATE_MS
    )
    (seen,) = peer.seen
    assert (seen.method, seen.target) == (
        "PUT",
        "/0ne00AbCdEf/registrations/Dev-1/register?api-version=2021-11-01-preview",
    )
    assert seen.body == b'{"registrationId":"Dev-1","clientCertificateCsr":"' + CSR.encode() + b'"}'
    assert seen.headers == {
        "host": f"localhost:{peer.port}",
        "accept": "application/json",
        "content-type": "application/json",
        "content-length": str(len(seen.body)),
        "authorization": TOKEN,
    }


@pytest.mark.parametrize("version", ["2025-07-01-preview", "2026-11-01"])
def test_golden_registration_of_the_successor(tmp_path, version):
    (tmp_path / "payload.json").write_bytes(b' {"site": 4}\n')
    accepted = answer({"operationId": "op"})
    _, peer = ask(replies(accepted), submit(), api_version=version, payload="payload.json")
    assert peer.seen[0].target.endswith(f"/register?api-version={version}")
    assert peer.seen[0].body == (
        b'{"registrationId":"Dev-1","csr":"' + CSR.encode() + b'","payload":{"site": 4}}'
    )


def test_golden_poll():
    (event,), peer = ask(replies(answer({"status": "assigning"}, DATE, status=202)), poll("5.a b/c"))
    assert event == RegistrationPending(answers=EFFECT_ID, server_date_unix_ms=DATE_MS)
    (seen,) = peer.seen
    assert (seen.method, seen.target) == (
        "GET",
        "/0ne00AbCdEf/registrations/Dev-1/operations/5.a%20b%2Fc?api-version=2021-11-01-preview",
    )
    assert seen.body == b""
    assert seen.headers == {
        "host": f"localhost:{peer.port}", "accept": "application/json", "authorization": TOKEN,
    }  # fmt: skip


def test_without_a_csr():
    _, peer = ask(replies(answer({"operationId": "op"})), submit(generation=None))
    assert peer.seen[0].body == b'{"registrationId":"Dev-1"}'


def test_registration_with_a_certificate_names_its_cn():
    context = server_context(SERVER, clients=ROOT)
    _, peer = ask(
        replies(answer({"operationId": "op"})),
        submit(),
        context=context,
        attestation=X509,
        registration_id=None,
    )
    (seen,) = peer.seen
    assert seen.client_certificate
    assert "authorization" not in seen.headers
    assert json.loads(seen.body)["registrationId"] == "Dev-1"


def test_the_learned_offset_moves_the_token_s_life():
    _, peer = ask(
        replies(answer({"operationId": "op"})), submit(clock_offset_ms=7_000), clock=Clock(NOW - 7_000)
    )
    assert peer.seen[0].headers["authorization"] == TOKEN


# --- the payload -------------------------------------------------------------------------------------


def test_the_payload_is_read_again_each_time(tmp_path):
    for text in (b'{"a":  1}', b"[2]"):
        (tmp_path / "p").write_bytes(text)
        _, peer = ask(replies(answer({"operationId": "op"})), submit(generation=None), payload="p")
        assert peer.seen[0].body == b'{"registrationId":"Dev-1","payload":' + text + b"}"


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (None, "2021-11-01-preview"),
        (b"{", "2021-11-01-preview"),
        (b"", "2021-11-01-preview"),
        (b"[1]", "2026-11-01"),
        (b'"' + b"x" * 1_100_000 + b'"', "2021-11-01-preview"),
    ],
)
def test_a_payload_that_cannot_be_sent_fails_before_any_connection(tmp_path, content, version):
    if content is not None:
        (tmp_path / "p").write_bytes(content)
    (event,), peer = ask(replies(answer({})), submit(), payload="p", api_version=version)
    assert (event.code, event.failure_class) == ("payload-invalid", "operator")
    assert not peer.connections


# --- assigned ----------------------------------------------------------------------------------------


def test_golden_assignment():
    """cloud.md §1.8, with a chain and a bundle that parse."""
    bundle = [pem(CA).decode().replace("\n", "\r\n"), pem(ICA).decode().rstrip()]
    told = {
        "registrationId": "Dev-1",
        "createdDateTimeUtc": "2024-05-02T10:11:12.1310000Z",
        "assignedHub": "contoso-plant.azure-devices.net",
        "deviceId": "line4-press-17",
        "status": "assigned",
        "substatus": "initialAssignment",
        "lastUpdatedDateTimeUtc": "2024-05-02T10:11:15.0140000Z",
        "etag": "IjAxMDA0NzY2LTAwMDAi",
        "issuedClientCertificate": pem(LEAF, ICA).decode(),
        "deviceCertificateIssuanceSettings": {"certificateType": "serverCertificate"},
        "trustBundle": {"certificates": [{"certificate": text} for text in bundle]},
        "payload": {"ring": "canary"},
    }
    (event,), _ = ask(
        replies(answer({"operationId": "5.a1", "status": "assigned", "registrationState": told}, DATE)),
        poll(),
    )
    assert isinstance(event, RegistrationAssigned)
    assert event.assigned_hub == "contoso-plant.azure-devices.net"
    assert event.device_id == "line4-press-17"
    assert event.substatus == "initialAssignment"
    assert event.certificate_type == "serverCertificate"
    assert event.server_date_unix_ms == DATE_MS
    assert event.chain.chain_pem == pem(LEAF, ICA)
    assert event.chain.intact
    assert event.chain.spki_sha256 == spki(LEAF)
    assert event.chain.subject_cn == "Dev-1"
    assert event.chain.not_after_unix_ms == int(LEAF.not_valid_after_utc.timestamp()) * 1000
    assert event.bundle.bundle_pem == pem(CA, ICA)
    assert event.bundle.certificates == 2
    assert event.bundle_problem is None
    assert event.bundle_spoken


def test_golden_assignment_of_the_successor():
    chain = [der64(certificate) for certificate in (LEAF, ICA, CA)]
    members = {
        "substatus": "reprovisionedToInitialAssignment",
        "symmetricKey": {"enrollmentGroupId": "plant-a"},
        "issuedCertificateChain": chain,
        "trustBundle": {"certificates": [{"certificate": pem(CA).decode()}]},
    }
    (event,), _ = ask(replies(state(**members)), poll(), api_version="2026-11-01")
    assert event.chain.chain_pem == pem(LEAF, ICA, CA)
    assert (event.bundle, event.bundle_problem, event.bundle_spoken) == (None, None, False)


def test_a_chain_out_of_order_is_repaired():
    text = pem(ICA, CA, LEAF, ICA).decode()
    (event,), _ = ask(replies(state(issuedClientCertificate=text)), poll())
    assert event.chain.chain_pem == pem(LEAF, ICA, CA)
    assert event.chain.intact


def test_another_key_s_chain_is_handed_over_for_judgement():
    (event,), _ = ask(replies(state(issuedClientCertificate=pem(CA).decode())), poll())
    assert event.chain.spki_sha256 == spki(CA)


@pytest.mark.parametrize(
    ("version", "members"),
    [
        ("2021-11-01-preview", {"issuedClientCertificate": "MIIB..."}),
        ("2021-11-01-preview", {"issuedClientCertificate": "x" * 300_000}),
        ("2026-11-01", {"issuedCertificateChain": ["MIIB2zCCAWGg...leaf"]}),
        ("2026-11-01", {"issuedCertificateChain": [der64(LEAF)] * 17}),
    ],
)
def test_a_chain_nobody_can_read(version, members):
    expected = ("chain-unparsable", "reregister")
    assert failure(replies(state(**members)), poll(), api_version=version) == expected


def test_no_certificate_was_issued():
    (event,), _ = ask(replies(state(issuedClientCertificate="")), poll())
    assert event.chain is None


def bundle_of(*texts):
    return {"certificates": [{"certificate": text} for text in texts]}


@pytest.mark.parametrize("bundle", [None, {}, bundle_of()])
def test_an_empty_bundle_is_absent(bundle):
    (event,), _ = ask(replies(state(trustBundle=bundle)), poll())
    assert (event.bundle, event.bundle_problem) == (None, None)


def test_equal_certificates_of_a_bundle_are_one():
    texts = [pem(part).decode() for part in (CA, ICA, CA)]
    (event,), _ = ask(replies(state(trustBundle=bundle_of(*texts))), poll())
    assert event.bundle.bundle_pem == pem(CA, ICA)


@pytest.mark.parametrize(
    "bundle",
    ["garbage", 7, [1], {"certificates": [{}]}, bundle_of(""), bundle_of("no"),
     bundle_of(pem(CA).decode(), ""), bundle_of("x" * 1_100_000), bundle_of(*[pem(CA).decode()] * 129)],
)  # fmt: skip
def test_a_bad_bundle_is_its_own_problem_only(bundle):
    (event,), _ = ask(
        replies(state(trustBundle=bundle, issuedClientCertificate=pem(LEAF, ICA).decode())), poll()
    )
    assert event.chain.intact
    assert event.bundle is None
    assert event.bundle_problem
    assert len(event.bundle_problem) <= 400


def test_the_first_answer_may_be_final():
    (event,), _ = ask(replies(state(issuedClientCertificate=pem(LEAF, ICA).decode())), submit())
    assert isinstance(event, RegistrationAssigned)


# --- not yet, and no ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["unassigned", "assigning"])
def test_pending(status):
    body = answer({"operationId": "op", "status": status}, "Retry-After: 2", status=202)
    (event,), _ = ask(replies(body), poll())
    assert event == RegistrationPending(answers=EFFECT_ID, retry_after_ms=2_000)


@pytest.mark.parametrize("effect", [submit(), poll()])
@pytest.mark.parametrize(
    ("status", "failure_class"),
    [(400, "operator"), (401, "operator"), (403, "operator"), (405, "operator"), (413, "operator"),
     (415, "operator"), (409, "retry"), (412, "retry"), (429, "retry"), (500, "retry"), (503, "retry"),
     (302, "retry"), (204, "retry")],
)  # fmt: skip
def test_statuses(effect, status, failure_class):
    body = b"" if status == 204 else b'{"errorCode":1,"message":"m","trackingId":"t"}'
    reply = http(status, body, "Retry-After: 9", DATE)
    if status == 204:
        reply = f"HTTP/1.1 204 X\r\nRetry-After: 9\r\n{DATE}\r\n\r\n".encode()
    # A clock within a token's life of the peer's Date, so that 401 is about the key.
    (event,), peer = ask(replies(reply), effect, cloud_retries=1, clock=Clock(DATE_MS + 60_000))
    assert event == RegistrationFailed(
        answers=EFFECT_ID,
        server_date_unix_ms=DATE_MS,
        failure_class=failure_class,
        code=f"dps-{status}",
        message="m" if body else "DPS answered HTTP 204",
        retry_after_ms=9_000,
        tracking_id="t" if body else None,
    )
    assert len(peer.seen) == 1


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [("Thu, 02 May 2024 10:12:12 GMT", 60_000), ("Thu, 02 May 2002 10:12:12 GMT", 0), ("soon", None),
     ("Thu, 02 May 2124 10:12:12 GMT", 86_400_000), ("99999999", 86_400_000), ("-3", None)],
)  # fmt: skip
def test_how_long_to_wait(retry_after, expected):
    (event,), _ = ask(replies(http(429, b"{}", f"Retry-After: {retry_after}", DATE)), submit())
    assert event.retry_after_ms == expected


def test_what_the_peer_says_is_bounded():
    body = {"errorCode": 400004, "message": "m\n\x1b" * 4000, "trackingId": "t" * 4000}
    (event,), _ = ask(replies(answer(body, status=400)), submit())
    assert len(event.message) == 400
    assert event.message.isprintable()
    assert len(event.tracking_id) == 80


def test_a_token_that_was_dead_on_arrival_is_the_clock_s_fault():
    reply = http(401, b'{"errorCode":401002}', DATE)
    late = Clock(DATE_MS - 3_700_000)
    assert failure(replies(reply), submit(), clock=late) == ("dps-401", "clock")
    # Once the offset is known it is not the clock any more.
    assert failure(replies(reply), submit(clock_offset_ms=3_700_000), clock=late) == ("dps-401", "operator")
    assert failure(replies(http(401, b"")), submit(), clock=late) == ("dps-401", "operator")
    # A certificate has no expiry of ours in it.
    assert failure(replies(reply), submit(), clock=late, attestation=X509) == ("dps-401", "operator")


def test_an_unknown_enrolment_and_an_unknown_operation():
    reply = answer({"errorCode": 404002, "message": "gone", "trackingId": "t"}, status=404)
    assert failure(replies(reply), submit()) == ("dps-404", "operator")
    (event,), _ = ask(replies(reply), poll())
    assert (event.code, event.failure_class) == ("operation-unknown", "reregister")
    assert (event.message, event.tracking_id) == ("gone", "t")


@pytest.mark.parametrize(
    ("effect", "reply"),
    [
        (submit(), answer({"errorCode": 400000, "message": REFUSAL}, status=400)),
        (submit(), state("failed", errorCode=400000, errorMessage=REFUSAL)),
        (poll(), answer({"code": 400000, "errorMessage": REFUSAL.upper()}, status=400)),
        (poll(), state("failed", errorCode=400000, errorMessage=REFUSAL)),
        (poll(), state("failed", code=400000, message=REFUSAL.removesuffix("."))),
    ],
)
def test_a_csr_nobody_asked_for(effect, reply):
    (event,), _ = ask(replies(reply), effect)
    assert (event.code, event.failure_class) == ("csr-not-configured", "operator")
    assert event.message.lower().startswith("device sent csr")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (state("disabled"), ("dps-disabled", "operator")),
        (state("failed"), ("dps-failed", "reregister")),
        (state("failed", errorCode=400000, errorMessage="Bad CSR"), ("dps-400000", "operator")),
        (state("failed", errorCode=401002), ("dps-401002", "operator")),
        (state("failed", errorCode=429001), ("dps-429001", "reregister")),
        (state("failed", errorCode=500001), ("dps-500001", "reregister")),
        (state("pondering"), ("status-unknown", "retry")),
        (state(assignedHub="https://h"), ("assignment-invalid", "reregister")),
        (state(deviceId=".."), ("assignment-invalid", "reregister")),
        (answer({"status": "assigned"}), ("assignment-invalid", "reregister")),
    ],
)
def test_final_states_that_are_no_assignment(reply, expected):
    assert failure(replies(reply), poll()) == expected


# --- rubbish -----------------------------------------------------------------------------------------

DEEP = b'{"status":"assigned","registrationState":{"trustBundle":' + b"[" * 200_000


@pytest.mark.parametrize("effect", [submit(), poll()])
@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (http(200, b""), "answer-malformed"),
        (http(200, b"<html>sign in</html>", "Content-Type: text/html"), "answer-malformed"),
        (http(200, b'{"operationId":"op","status":"assig'), "answer-malformed"),
        (http(200, DEEP), "answer-malformed"),
        (http(200, b"[" * 200_000), "answer-malformed"),
        (http(200, b"\xff\xfe"), "answer-malformed"),
        (http(200, gzip.compress(b'{"status":"assigning"}'), "Content-Encoding: gzip"), "answer-malformed"),
        (http(200, b"x" * (4 * 1024 * 1024 + 1)), "answer-too-large"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "answer-malformed"),
        (b"", "connection-broken"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "connection-broken"),
    ],
)
def test_garbage(effect, reply, code):
    async def respond(stream, seen):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(reply)

    assert failure(respond, effect) == (code, "retry")


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
def test_json_by_another_name_is_json(kind):
    (event,), _ = ask(replies(http(200, b'{"operationId":"op"}', f"Content-Type: {kind}")), submit())
    assert isinstance(event, RegistrationAccepted)


@pytest.mark.parametrize("body", [b"<html>", b"", b"[" * 200_000, gzip.compress(b"{}")])
def test_an_error_status_with_rubbish_is_that_status(body):
    assert failure(replies(http(503, body)), submit()) == ("dps-503", "retry")


# --- the connection ----------------------------------------------------------------------------------


def test_nobody_there():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    registrar = DpsRegistrar(lambda: configured(port), Clock(), Staged(), environ={})
    event = trio.run(registrar.submit, EFFECT_ID, submit())
    assert (event.code, event.failure_class) == ("unreachable", "retry")
    assert event.server_date_unix_ms is None
    assert event.unsent


async def stalled(stream, seen):
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
    await trio.sleep_forever()


def test_a_slow_peer():
    assert failure(stalled, poll(), cloud_timeout_seconds=0.1) == ("timeout", "retry")


def test_what_may_have_arrived_was_sent():
    (event,), _ = ask(stalled, submit(), cloud_timeout_seconds=0.1)
    assert (event.code, event.unsent) == ("timeout", False)


def test_a_broken_exchange_is_repeated_as_often_as_configured():
    def flaky():
        async def respond(stream, seen):
            if len(peer_seen) < 2:
                peer_seen.append(seen)
                return False
            await stream.send_all(answer({"operationId": "op"}))
            return True

        peer_seen = []
        return respond

    assert failure(flaky(), submit(), cloud_retries=1) == ("connection-broken", "retry")
    (event,), peer = ask(flaky(), submit(), cloud_retries=2)
    assert isinstance(event, RegistrationAccepted)
    assert peer.connections == 3


def test_who_is_not_believed():
    stranger = server_context(trustme.CA().issue_cert("localhost"))
    assert failure(replies(state()), submit(), context=stranger) == ("tls-untrusted", "operator")
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    expired = server_context(ROOT.issue_cert("localhost", not_before=past, not_after=past.replace(year=2002)))
    assert failure(replies(state()), submit(), context=expired) == ("tls-dates", "clock")
    (event,), _ = ask(replies(state()), submit(), context=stranger)
    assert event.unsent, "nothing is said to somebody who is not believed"


def test_a_refused_onboarding_certificate():
    context = server_context(SERVER, clients=ROOT)
    strange = X509Source(certificate_path="stranger.pem", key_path="stranger.key")
    assert failure(replies(state()), submit(), context=context, attestation=strange) == (
        "tls-certificate-alert",
        "retry",
    )


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"attestation": X509Source(certificate_path="gone", key_path="k")}, "credential-unreadable"),
        ({"attestation": X509Source(certificate_path="device.pem", key_path="stranger.key")},
         "client-credential-unusable"),
        ({"attestation": SymmetricKeySource(path="gone")}, "credential-unreadable"),
    ],
)  # fmt: skip
def test_a_credential_that_cannot_be_used(settings, code):
    (event,), peer = ask(replies(state()), submit(), **settings)
    assert (event.code, event.failure_class) == (code, "operator")
    assert event.unsent, "what never was a request costs no budget"
    assert not peer.connections


def test_without_dps():
    registrar = DpsRegistrar(
        lambda: Configuration(provisioning=NoProvisioning()), Clock(), Staged(), environ={}
    )
    for effect in (submit(), poll()):
        event = trio.run(perform, registrar, effect)
        assert (event.code, event.failure_class) == ("not-configured", "operator")


def test_a_staged_key_that_is_gone():
    (event,), peer = ask(replies(state()), submit(generation=4))
    assert (event.code, event.failure_class) == ("key-missing", "new_key")
    assert event.unsent
    assert not peer.connections


def test_one_connection_from_the_first_byte_to_the_final_answer():
    accepted, pending = answer({"operationId": "op"}, status=202), answer({"status": "assigning"})
    round_trip = (submit(), poll(), poll())
    events, peer = ask(
        replies(accepted, pending, state(), accepted, pending, state("failed")), *round_trip, *round_trip
    )
    assert [type(event).__name__.removeprefix("Registration") for event in events] == [
        "Accepted", "Pending", "Assigned", "Accepted", "Pending", "Failed",
    ]  # fmt: skip
    assert peer.connections == 2


def test_a_final_answer_leaves_another_exchange_alone():
    """An attempt that was given up may still wait for its answer when the next one ends."""
    final = trio.Event()

    async def respond(stream, seen):
        if seen.target.endswith("slow?api-version=2021-11-01-preview"):
            await final.wait()
            await stream.send_all(answer({"status": "assigning"}))
        else:
            await stream.send_all(state())
        return True

    peer = Peer(respond, server_context(SERVER))
    events = {}

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            registrar = DpsRegistrar(lambda: configured(peer.port), Clock(), Staged(), environ={})

            async def slow():
                events["slow"] = await registrar.poll("1.1.0", poll("slow"))

            async with trio.open_nursery() as exchanges:
                exchanges.start_soon(slow)
                while not peer.seen:
                    await trio.lowlevel.checkpoint()
                events["quick"] = await registrar.poll("1.2.0", poll("quick"))
                assert registrar._lease is None
                final.set()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert isinstance(events["quick"], RegistrationAssigned)
    assert isinstance(events["slow"], RegistrationPending)


def test_a_changed_credential_gets_a_connection_of_its_own():
    peer = Peer(
        replies(answer({"status": "assigning"})), server_context(SERVER, clients=ROOT, required=False)
    )
    attestations = [SYMMETRIC, X509]

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            now = [configured(peer.port)]
            registrar = DpsRegistrar(lambda: now[0], Clock(), Staged(), environ={})
            for attestation in attestations:
                now[0] = configured(peer.port, attestation=attestation)
                await registrar.poll(EFFECT_ID, poll())
            await registrar.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert [seen.client_certificate for seen in peer.seen] == [False, True]


@pytest.mark.parametrize("effect", [submit(), poll()])
def test_cancelled_in_the_middle(effect):
    """Nothing is left open (an unclosed socket would be a ResourceWarning), and the next call works."""
    cancelled, asking = [], trio.CancelScope()

    async def respond(stream, seen):
        if cancelled:
            await stream.send_all(answer({"operationId": "op", "status": "assigning"}))
            return True
        cancelled.append(seen)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        asking.cancel()
        await trio.sleep_forever()
        return False

    peer = Peer(respond, server_context(SERVER))
    events = []

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            registrar = DpsRegistrar(lambda: configured(peer.port), Clock(), Staged(), environ={})
            with asking:
                events.append(await perform(registrar, effect))
            assert asking.cancelled_caught
            events.append(await perform(registrar, effect))
            await registrar.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert isinstance(events[0], RegistrationAccepted | RegistrationPending)


def test_no_event_holds_a_secret():
    (event,), _ = ask(replies(answer({"message": "no"}, status=401)), submit())
    text = msgspec.json.encode(event)
    assert b"sig=" not in text
    assert b"SharedAccess" not in text
