"""The module requests as bytes, over real TLS to a scripted peer; and what its answers mean."""

import base64
import hashlib
import hmac
import json
import re
import socket
from urllib.parse import quote

import pytest
import trio
import trio.testing
import trustme

from adapters.driven.hub_modules import IDLE_CLOSE_S, Where
from adapters.errors import PeerProtocolError, PeerRefused, PeerUnreachable, StoreUnavailable
from adapters.wire import hub as wire
from adapters.wire.http_client import HttpsClient
from statemachine.events import HubRefusedCredential
from statemachine.settings import (
    IssuanceRule,
    IssuedSource,
    ManualProvisioning,
    SymmetricKeySource,
    X509Source,
)
from statemachine.snapshot import ClockTrust, Snapshot
from tests.adapters.hub_device import Parts, alive, provisioned
from tests.adapters.tls_peer import Peer, http, replies, server_context

ROOT = trustme.CA()
SERVER = ROOT.issue_cert("localhost")
ISSUED = {n: ROOT.issue_cert(common_name="Dev-1") for n in (1, 2)}
STRANGER = trustme.CA().issue_cert(common_name="Dev-1")
DEVICE = "Dev-1"
KEY = bytes(range(32))
PAIR = wire.ModuleKeyPair(primary=b"p" * 32, secondary=b"s" * 32)
VERSION = "?api-version=2017-11-08-preview"
MODULE = wire.Module(module_id="m", device_id=DEVICE, generation_id="7")
JSON = b'{"moduleId":"m","deviceId":"Dev-1","generationId":"7"}'


@pytest.fixture
def world(tmp_path, monkeypatch):
    ROOT.cert_pem.write_to_path(tmp_path / "ca.pem")
    for number, issued in (*ISSUED.items(), (3, STRANGER)):
        (tmp_path / f"{number}.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(tmp_path / f"{number}.key")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    return World(tmp_path)


class World:
    def __init__(self, root):
        self.root = root

    def ask(self, respond, test, *, context=None, source="configured", generation=1, **settings):
        """``test(parts, where)`` against the peer; what it returned or raised, and the peer."""
        peer = Peer(respond, context or server_context(SERVER, clients=ROOT, required=False))
        outcome = []

        async def main():
            async with trio.open_nursery() as nursery:
                await peer.start(nursery)
                hub = f"localhost:{peer.port}"
                snapshot = provisioned(hub, DEVICE, source=source, generation=generation)
                parts = self.parts = Parts(
                    self.root, hub, key=KEY, ca_file=str(self.root / "ca.pem"), snapshot=snapshot, **settings
                )
                await alive(parts, nursery)
                try:
                    outcome.append(await test(parts, parts.where))
                except Exception as exc:
                    outcome.append(exc)
                nursery.cancel_scope.cancel()

        with_deadline(main)
        return outcome[0], peer


def with_deadline(main):
    async def bounded():
        with trio.fail_after(9):
            await main()

    trio.run(bounded)


ASKS = {
    "list": lambda parts, where: parts.hub.list(where),
    "get": lambda parts, where: parts.hub.get(where, "m"),
    "create": lambda parts, where: parts.hub.create(where, "m"),
    "update": lambda parts, where: parts.hub.update(where, MODULE, PAIR),
    "delete": lambda parts, where: parts.hub.delete(where, "m"),
}


# --- what is sent ------------------------------------------------------------------------------------

UPDATE = (
    b'{"moduleId":"m","deviceId":"Dev-1","authentication":{"type":"sas","symmetricKey":{"primaryKey":"'
    + base64.b64encode(PAIR.primary)
    + b'","secondaryKey":"'
    + base64.b64encode(PAIR.secondary)
    + b'"}}}'
)


@pytest.mark.parametrize(
    ("ask", "method", "path", "body", "match", "reply"),
    [
        ("list", "GET", "", b"", None, http(200, b"[" + JSON + b"]")),
        ("get", "GET", "/m", b"", None, http(200, JSON)),
        ("create", "PUT", "/m", b'{"moduleId":"m","deviceId":"Dev-1"}', None, http(201, JSON)),
        ("update", "PUT", "/m", UPDATE, "*", http(200, JSON)),
        ("delete", "DELETE", "/m", b"", "*", http(204, b"")),
    ],
)
def test_golden_requests(world, ask, method, path, body, match, reply):
    outcome, peer = world.ask(replies(reply), ASKS[ask], source="issued")
    assert outcome == {"list": (MODULE,), "delete": None}.get(ask, MODULE)
    (seen,) = peer.seen
    assert (seen.method, seen.target, seen.body) == (method, f"/devices/Dev-1/modules{path}{VERSION}", body)
    assert seen.client_certificate
    expected = {"host": f"localhost:{peer.port}", "accept": "application/json"}
    if body:
        expected |= {"content-type": "application/json", "content-length": str(len(body))}
    if match:
        expected["if-match"] = match
    assert seen.headers == expected


@pytest.mark.parametrize("offset_ms", [0, 86_400_000])
def test_a_token_is_made_for_each_request_by_the_best_known_time(world, offset_ms):
    async def test(parts, where):
        trust = ClockTrust(trusted=False, offset_ms=offset_ms)
        parts.snapshot = Snapshot(
            assignment=parts.snapshot.assignment, credential=parts.snapshot.credential, clock=trust
        )
        parts.clock.now_unix_ms = lambda: 1_700_000_000_000 + 1000 * len(seen)
        seen.append(await parts.hub.get(where, "m"))
        seen.append(await parts.hub.get(where, "m"))

    seen = []
    _, peer = world.ask(replies(http(200, JSON)), test)
    for number, request in enumerate(peer.seen):
        expiry = 1_700_000_000 + number + offset_ms // 1000 + 3600
        resource = f"localhost:{peer.port}/devices/dev-1"
        signed = hmac.digest(KEY, f"{resource}\n{expiry}".encode(), hashlib.sha256)
        signature = quote(base64.b64encode(signed), safe="")
        assert request.headers["authorization"] == (
            f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"
        )
        assert not request.client_certificate
    assert peer.connections == 1


def manual(**members):
    source = members.pop("source", SymmetricKeySource(value=KEY))
    return ManualProvisioning(hub="h.test", device_id=DEVICE, authentication=source, **members)


def test_manual_provisioning_with_a_certificate_through_a_gateway(world):
    source = X509Source(certificate_path=str(world.root / "1.pem"), key_path=str(world.root / "1.key"))

    async def test(parts, where):
        port = where.hub.partition(":")[2]
        parts.snapshot = provisioned("h.test", DEVICE)
        parts.configure(provisioning=manual(source=source, gateway=f"localhost:{port}"))
        return await parts.hub.list(parts.where)

    outcome, peer = world.ask(replies(http(200, b"[]")), test, context=server_context(SERVER, clients=ROOT))
    assert outcome == ()
    assert peer.seen[0].client_certificate
    assert "authorization" not in peer.seen[0].headers


# --- what cannot be sent -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (SymmetricKeySource(path="gone"), "credential-unreadable"),
        (SymmetricKeySource(value=b""), "credential-unusable"),
        (X509Source(certificate_path="gone", key_path="gone"), "credential-unreadable"),
        (IssuedSource(rule=IssuanceRule(method="self_signed")), "credential-not-issued"),
    ],
)
def test_a_credential_that_cannot_be_read(world, source, code):
    async def test(parts, where):
        parts.configure(provisioning=manual(source=source))
        await parts.hub.list(where)

    error, peer = world.ask(replies(http(200, b"[]")), test)
    assert isinstance(error, StoreUnavailable)
    assert (error.code, error.failure_class, peer.connections) == (code, "operator", 0)


def test_an_issued_credential_with_another_s_key(world):
    (world.root / "1.key").write_bytes((world.root / "2.key").read_bytes())
    error, peer = world.ask(replies(http(200, b"[]")), ASKS["list"], source="issued")
    assert isinstance(error, StoreUnavailable)
    assert (error.code, peer.connections) == ("client-credential-unusable", 0)


@pytest.mark.parametrize("ask", ASKS)
def test_a_device_that_has_moved_asks_nobody(world, ask):
    async def test(parts, where):
        await ASKS[ask](parts, Where(hub="before.test", device_id=DEVICE))

    error, peer = world.ask(replies(http(200, b"[]")), test)
    assert isinstance(error, PeerRefused)
    assert (error.code, error.failure_class, peer.connections) == ("hub-moved", "retry", 0)


# --- repeats -----------------------------------------------------------------------------------------


def hangs_up_first(*answers):
    left = [None, *answers]

    async def respond(stream, seen):
        answer = left.pop(0)
        if answer is None:
            return False
        await stream.send_all(answer)
        return True

    return respond


@pytest.mark.parametrize(
    ("ask", "then", "outcome", "methods"),
    [
        ("get", [http(200, JSON)], MODULE, ["GET", "GET"]),
        ("create", [http(200, JSON)], MODULE, ["PUT", "PUT"]),
        ("create", [http(409, b""), http(200, JSON)], MODULE, ["PUT", "PUT", "GET"]),
        ("update", [http(200, JSON)], MODULE, ["PUT", "PUT"]),
        ("delete", [http(204, b"")], None, ["DELETE", "DELETE"]),
        ("delete", [http(404, b'{"Message":"ErrorCode:ModuleNotFound;"}')], None, ["DELETE", "DELETE"]),
    ],
)
def test_a_request_whose_answer_was_lost_is_repeated(world, ask, then, outcome, methods):
    got, peer = world.ask(hangs_up_first(*then), ASKS[ask], cloud_retries=1)
    assert got == outcome
    assert [seen.method for seen in peer.seen] == methods


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 429, 500, 503])
def test_no_status_is_repeated(world, status):
    error, peer = world.ask(replies(http(status)), ASKS["get"], cloud_retries=3)
    assert isinstance(error, PeerRefused)
    assert len(peer.seen) == 1


def test_a_module_that_is_there_already_is_taken_as_it_is(world):
    got, peer = world.ask(replies(http(409, b'{"Message":"exists"}'), http(200, JSON)), ASKS["create"])
    assert got == MODULE
    assert [seen.method for seen in peer.seen] == ["PUT", "GET"]


# --- what the hub says -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "code", "message", "refusal"),
    [
        (http(401, b'{"Message":"no","ExceptionMessage":"Tracking ID:abc-G:1-TimeStamp:x"}'),
         "hub-401", "the hub answered HTTP 401: no", True),
        (http(404, b'{"Message":"ErrorCode:DeviceNotFound;gone"}'),
         "hub-404001", "the hub answered HTTP 404: ErrorCode:DeviceNotFound;gone", True),
        (http(404, b'{"Message":"ErrorCode:ModuleNotFound;404010"}'), "module-gone",
         "module m not found", False),
        (http(404, b"<html>"), "module-gone", "module m not found", False),
        (http(403, b'{"Message":"ErrorCode:IotHubQuotaExceeded;404001"}'),
         "hub-403", "the hub answered HTTP 403: ErrorCode:IotHubQuotaExceeded;404001", False),
        (http(429, b"", "Retry-After: 9"), "hub-429", "the hub answered HTTP 429", False),
        (http(503, b'{"errorMessage":"later"}'), "hub-503", "the hub answered HTTP 503: later", False),
        (http(302, b"", "Location: https://elsewhere.test/"), "hub-302", "the hub answered HTTP 302", False),
        (http(202, JSON), "hub-202", "the hub answered HTTP 202", False),
    ],
)  # fmt: skip
def test_statuses(world, reply, code, message, refusal):
    error, _ = world.ask(replies(reply), ASKS["get"])
    assert isinstance(error, PeerRefused)
    assert (error.code, error.message) == (code, message)
    assert error.tracking_id == ("abc-G" if b"Tracking" in reply else None)
    assert error.retry_after_ms == (9000 if b"Retry-After" in reply else None)
    assert world.parts.posted == ([HubRefusedCredential(generation=1, code=code)] if refusal else [])


def test_a_list_that_is_not_found_is_not_a_module(world):
    error, _ = world.ask(replies(http(404, b"{}")), ASKS["list"])
    assert error.code == "hub-404"


@pytest.mark.parametrize(
    ("ask", "body", "why"),
    [
        ("list", b"", "not a list"),
        ("list", b"{}", "not a list"),
        ("list", b"null", "not a list"),
        ("list", b"[" * 500_000, "not a list"),
        ("list", b"\xff\xfe", "not a list"),
        ("list", b'[{"moduleId":1,"deviceId":"d"}]', r"\$\[0\].moduleId"),
        ("list", b'[{"deviceId":"d"}]', "moduleId"),
        ("list", b'[{"moduleId":"m","deviceId":"d","generationId":7}]', "generationId"),
        ("list", b'[{"moduleId":"a/b","deviceId":"d"}]', r"\$\[0\].moduleId: .*slash"),
        ("list", json.dumps([{"moduleId": f"m{n}", "deviceId": "d"} for n in range(10_000)]).encode(),
         "10000 modules, more than 1000"),
        ("get", b"[]", "not a module"),
        ("get", b"{", "not a module"),
        ("get", b'{"a":' * 10_000, "not a module"),
        ("get", b'{"moduleId":"other","deviceId":"d"}', "another"),
        ("update", b"", "not a module"),
    ],
)  # fmt: skip
def test_garbage(world, ask, body, why):
    error, _ = world.ask(replies(http(200, body)), ASKS[ask])
    assert isinstance(error, PeerProtocolError)
    assert error.code == "answer-malformed"
    assert re.search(why, error.message)


@pytest.mark.parametrize(("ask", "size"), [("list", 4 << 20), ("get", 64 << 10)])
def test_an_answer_that_is_too_large(world, ask, size):
    error, _ = world.ask(replies(http(200, b"[" + b" " * size)), ASKS[ask])
    assert error.code == "answer-too-large"


def test_members_and_types_that_are_not_known_are_ignored(world):
    body = json.dumps(
        [
            {"moduleId": "a", "deviceId": "d", "etag": "x", "connectionState": "Connected"},
            {"moduleId": "b", "deviceId": "d", "authentication": {"type": "selfSigned", "x": [1]}},
            {"moduleId": "c", "deviceId": "d", "authentication": "odd", "generationId": None},
        ]
    )
    got, _ = world.ask(replies(http(200, body.encode())), ASKS["list"])
    assert [(one.module_id, one.generation_id) for one in got] == [("a", None), ("b", None), ("c", None)]


def test_a_certificate_alert_is_a_refusal(world):
    async def test(parts, where):
        for _ in range(3):
            with pytest.raises(PeerRefused) as refused:
                await parts.hub.list(where)
        return refused.value.code

    code, _ = world.ask(
        replies(http(200, b"[]")),
        test,
        source="issued",
        generation=3,
        context=server_context(SERVER, clients=ROOT),
    )
    assert code == "tls-certificate-alert"
    assert world.parts.posted == [HubRefusedCredential(generation=3, code="tls-certificate-alert")]


def test_refusals_are_told_once_a_minute_for_each_generation(world):
    async def test(parts, where):
        for elapsed, generation in ((0, 1), (1, 1), (59_999, 1), (60_000, 1), (60_001, 2), (60_002, 2)):
            parts.clock.elapsed = elapsed
            parts.snapshot = provisioned(where.hub, DEVICE, generation=generation)
            with pytest.raises(PeerRefused):
                await parts.hub.get(where, "m")
        return [event.generation for event in parts.posted]

    told, _ = world.ask(replies(http(401)), test)
    assert told == [1, 1, 2]


def test_a_hub_that_is_not_believed_is_not_offline(world):
    stranger = server_context(trustme.CA().issue_cert("localhost"))
    error, _ = world.ask(replies(http(200)), ASKS["list"], context=stranger)
    assert isinstance(error, PeerProtocolError)
    assert (error.code, error.failure_class) == ("tls-untrusted", "operator")
    assert world.parts.posted == []


def test_nobody_there(world):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    async def test(parts, where):
        parts.snapshot = provisioned(f"localhost:{port}", DEVICE)
        await parts.hub.list(parts.where)

    error, _ = world.ask(replies(http(200)), test)
    assert isinstance(error, PeerUnreachable)
    assert error.code == "unreachable"


# --- slow hubs, many callers -------------------------------------------------------------------------


def stalling(*modules):
    """Stalls for these; for the others it answers."""

    async def respond(stream, seen):
        name = seen.target.partition("?")[0].rpartition("/")[2]
        if name in modules:
            await trio.sleep_forever()
        await stream.send_all(http(200, JSON.replace(b'"m"', f'"{name}"'.encode())))
        return True

    return respond


def test_a_hub_that_is_slow_for_some_delays_nobody_else(world):
    async def test(parts, where):
        async with trio.open_nursery() as nursery:
            for name in ("s1", "s2", "s3", "s4"):
                nursery.start_soon(parts.identities.module, name)
            await all_stalled.wait()
            answered = await parts.identities.module("quick")
            device = await parts.identities.device()
            nursery.cancel_scope.cancel()
        return answered.module_id, device.device_id

    respond = stalling("s1", "s2", "s3", "s4")
    seen, all_stalled = [], trio.Event()

    async def noticing(stream, request):
        seen.append(request)
        if len(seen) == 4:
            all_stalled.set()
        return await respond(stream, request)

    outcome, _ = world.ask(noticing, test)
    assert outcome == ("quick", DEVICE)


@pytest.mark.parametrize("ask", ["module", "modules"])
def test_identical_reads_are_one_request_and_a_cancelled_leader_fails_nobody(world, ask):
    arrived, go = trio.Event(), trio.Event()

    async def respond(stream, seen):
        arrived.set()
        await go.wait()
        await stream.send_all(http(200, JSON if ask == "module" else b"[" + JSON + b"]"))
        return True

    async def test(parts, where):
        arguments = ("m",) if ask == "module" else ()
        results = []

        async def one(scope):
            with scope:
                results.append(await getattr(parts.identities, ask)(*arguments))

        scopes = [trio.CancelScope() for _ in range(5)]
        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(one, scope)
            await arrived.wait()
            await trio.testing.wait_all_tasks_blocked()
            scopes[0].cancel()
            await trio.testing.wait_all_tasks_blocked()
            go.set()
        return results

    results, peer = world.ask(respond, test)
    assert len(results) == 4
    assert len(peer.seen) == 1
    if ask == "module":
        assert len({one.authentication.key_handle for one in results}) == 4


def test_the_deadline_is_of_all_tries_together(world):
    error, _ = world.ask(stalling("m"), ASKS["get"], cloud_timeout_seconds=0.2, cloud_retries=2)
    assert isinstance(error, PeerUnreachable)
    assert error.code == "timeout"


# --- connections -------------------------------------------------------------------------------------


def test_connections_are_reused_and_closed_when_the_credential_changes(world):
    async def test(parts, where):
        for generation in (1, 1, 2, 2, 1):
            parts.snapshot = provisioned(where.hub, DEVICE, source="issued", generation=generation)
            await parts.hub.get(where, "m")
        return parts.hub._lease.credential.generation

    generation, peer = world.ask(replies(http(200, JSON)), test, source="issued")
    assert (generation, peer.connections) == (1, 3)


def test_an_exchange_under_way_at_the_flip_is_finished_and_then_closed(world):
    arrived, go = trio.Event(), trio.Event()

    async def respond(stream, seen):
        if not arrived.is_set():
            arrived.set()
            await go.wait()
        await stream.send_all(http(200, JSON))
        return True

    async def test(parts, where):
        got = []

        async def first():
            got.append(await parts.hub.get(where, "m"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await arrived.wait()
            lease = parts.hub._lease
            await parts.hub.aclose()
            parts.snapshot = provisioned(where.hub, DEVICE, source="issued", generation=2)
            await parts.hub.get(where, "m")
            assert lease.client._pools
            go.set()
        assert not lease.client._pools
        return got

    got, peer = world.ask(respond, test, source="issued")
    assert got == [MODULE]
    assert peer.connections == 2


def test_after_a_while_nothing_is_held(world, monkeypatch):
    assert IDLE_CLOSE_S >= 10
    monkeypatch.setattr("adapters.driven.hub_modules.IDLE_CLOSE_S", 0.05)
    close, closed = HttpsClient.aclose, trio.Event()

    async def noticed(client):
        await close(client)
        closed.set()

    monkeypatch.setattr(HttpsClient, "aclose", noticed)

    async def test(parts, where):
        await parts.hub.get(where, "m")
        await closed.wait()
        assert parts.hub._lease is None
        return await parts.hub.get(where, "m")

    got, peer = world.ask(replies(http(200, JSON)), test)
    assert got == MODULE
    assert peer.connections == 2


def test_cancelled_in_the_middle(world):
    async def test(parts, where):
        with trio.move_on_after(0.1) as scope:
            await parts.hub.get(where, "m")
        lease = parts.hub._lease
        return scope.cancelled_caught, lease.users

    outcome, _ = world.ask(stalling("m"), test)
    assert outcome == (True, 0)


def test_secrets_stay_out_of_texts(world):
    async def test(parts, where):
        held = parts.hub._credential(parts.configuration, "configured", 1)
        assert held.symmetric_key == KEY
        return repr(held)

    text, _ = world.ask(replies(http(200)), test)
    assert repr(KEY)[2:-1] not in text
    assert "symmetric_key" not in text
