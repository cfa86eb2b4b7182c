"""The client against real TLS on loopback: who is believed, who is refused, what a bound is."""

import base64
import datetime
import gc
import socket
import ssl
import struct
import weakref

import httpcore
import pytest
import trio
import trustme
from msgspec import structs

from adapters.errors import AdapterError
from adapters.wire import http_client as wire
from adapters.wire.http_client import HttpAnswer, HttpsClient, TlsOptions
from adapters.wire.http_date import parse_http_date
from adapters.wire.pem import sha256_hex
from adapters.wire.proxies import proxy_for
from tests.adapters.tls_peer import Peer, http, replies, server_context, tunnel_to

CA = trustme.CA()
OTHER_CA = trustme.CA()
SERVER = CA.issue_cert("localhost", "hub.test")
CLIENT = CA.issue_cert("dev-1")
STRANGER = OTHER_CA.issue_cert("dev-1")
SECRET = "SharedAccessSignature sig=hush"


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """System roots are one foreign CA: fast to load, and SSL_CERT_FILE is seen to be honoured."""
    monkeypatch.chdir(tmp_path)
    CA.cert_pem.write_to_path("ca.pem")
    OTHER_CA.cert_pem.write_to_path("system.pem")
    CLIENT.private_key_pem.write_to_path("client.key")
    STRANGER.private_key_pem.write_to_path("stranger.key")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))


def chain(issued):
    return b"".join(pem.bytes() for pem in issued.cert_chain_pems)


PLAIN = TlsOptions(ca_file="ca.pem")
WITH_CERTIFICATE = TlsOptions(ca_file="ca.pem", client_chain_pem=chain(CLIENT), client_key_path="client.key")
STRANGE = TlsOptions(ca_file="ca.pem", client_chain_pem=chain(STRANGER), client_key_path="stranger.key")


def ask(respond, *, options=PLAIN, context=None, host="localhost", environ=None, times=1, **request):
    """Answers (or raises) of the client, the peer, all on a real clock."""
    peer = Peer(respond, context or server_context(SERVER))
    answers = []

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            client = HttpsClient(options, environ=environ or {})
            request.setdefault("timeout_s", 5)
            try:
                for _ in range(times):
                    answers.append(
                        await client.request("GET", f"https://{host}:{peer.port}/x?y=1", **request)
                    )
            finally:
                await client.aclose()
                nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    except* AdapterError as group:
        caught = group
    else:
        return answers, peer
    raise caught.exceptions[0]


def refusal(respond, **options):
    with pytest.raises(AdapterError) as caught:
        ask(respond, headers={"Authorization": SECRET}, **options)
    assert "hush" not in str(caught.value)
    return caught.value.code, caught.value.failure_class, type(caught.value).__name__


# --- what works --------------------------------------------------------------------------------------


def test_an_exchange(tmp_path):
    respond = replies(http(202, b'{"a":1}', "Date: Thu, 02 May 2024 10:11:12 GMT", "X-A: 1", "x-a: 2"))
    (answer,), peer = ask(respond, headers={"Authorization": SECRET}, body=b"[]")
    assert answer.status == 202
    assert answer.body == b'{"a":1}'
    assert answer.headers["x-a"] == "1, 2"
    assert answer.date_unix_ms == 1714644672000
    (seen,) = peer.seen
    assert (seen.method, seen.target, seen.body) == ("GET", "/x?y=1", b"[]")
    assert seen.headers == {
        "host": f"localhost:{peer.port}", "authorization": SECRET, "content-length": "2",
    }  # fmt: skip
    assert not (tmp_path / "keys.log").exists()


def test_connections_are_reused_unless_fresh():
    _, peer = ask(replies(http(200)), times=3)
    assert peer.connections == 1
    _, peer = ask(replies(http(200)), times=3, fresh=True)
    assert peer.connections == 3


def test_a_closed_client_may_be_used_again():
    peer = Peer(replies(http(200)), server_context(SERVER))

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            client = HttpsClient(PLAIN, environ={})
            for _ in range(2):
                await client.request("GET", f"https://localhost:{peer.port}/", timeout_s=5)
                await client.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert peer.connections == 2


@pytest.mark.parametrize("fresh", [False, True])
def test_a_closed_client_leaves_no_trust_roots_behind(monkeypatch, fresh):
    made = []
    real = wire.client_context

    def noted(options):
        context = real(options)
        made.append(weakref.ref(context))
        return context

    monkeypatch.setattr(wire, "client_context", noted)
    gc.disable()
    try:
        ask(replies(http(200)), times=2, fresh=fresh)
    finally:
        gc.enable()
    assert [context() for context in made] == [None]


def test_redirects_are_answers():
    (answer,), peer = ask(replies(http(302, b"", "Location: https://localhost:1/")))
    assert answer.status == 302
    assert len(peer.seen) == 1


def test_system_roots_are_believed_too():
    (answer,), _ = ask(replies(http(200)), context=server_context(OTHER_CA.issue_cert("localhost")))
    assert answer.status == 200


def test_client_certificate_is_presented():
    _, peer = ask(replies(http(200)), options=WITH_CERTIFICATE, context=server_context(SERVER, clients=CA))
    assert peer.seen[0].client_certificate


# --- who is refused ----------------------------------------------------------------------------------


def test_untrusted_ca():
    context = server_context(trustme.CA().issue_cert("localhost"))
    assert refusal(replies(http(200)), context=context) == ("tls-untrusted", "operator", "AdapterError")


def test_wrong_name():
    assert refusal(replies(http(200)), host="127.0.0.1")[:2] == ("tls-untrusted", "operator")


@pytest.mark.parametrize("years", [(2001, 2002), (2120, 2121)])
def test_dates(years):
    begin, end = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in years)
    context = server_context(CA.issue_cert("localhost", not_before=begin, not_after=end))
    assert refusal(replies(http(200)), context=context)[:2] == ("tls-dates", "clock")


def test_tls_1_1_is_not_spoken():
    context = server_context(SERVER)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    assert refusal(replies(http(200)), context=context)[0] in ("tls-failed", "unreachable")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificate_refused(version):
    context = server_context(SERVER, clients=CA)
    context.maximum_version = context.minimum_version = version
    assert refusal(replies(http(200)), options=STRANGE, context=context) == (
        "tls-certificate-alert", "retry", "PeerRefused",
    )  # fmt: skip


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_alert_while_we_are_still_sending(version):
    """The peer refuses and resets; our sending fails before we have read why."""
    context = server_context(SERVER, clients=CA)
    context.maximum_version = context.minimum_version = version
    assert refusal(replies(http(200)), options=STRANGE, context=context, body=b"x" * 8_000_000) == (
        "tls-certificate-alert", "retry", "PeerRefused",
    )  # fmt: skip


def test_an_answer_while_we_are_still_sending():
    async def main():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]

        async def early():
            async with await listener.accept() as transport:
                stream = trio.SSLStream(
                    transport, server_context(SERVER), server_side=True, https_compatible=True
                )
                await stream.receive_some(1)
                await stream.send_all(http(413))

        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(early)
            client = HttpsClient(PLAIN, environ={})
            answer = await client.request(
                "PUT", f"https://localhost:{port}/", body=b"x" * 8_000_000, timeout_s=5
            )
            assert answer.status == 413
            await client.aclose()

    trio.run(main)


def test_last_words_are_heard_after_a_reset():
    async def main():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            near = wire.LastWords(await trio.open_tcp_stream(*listener.socket.getsockname()))
            far = await listener.accept()
            await near.send_all(b"never read")
            await far.send_all(b"goodbye")
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await far.aclose()
            for _ in range(3):
                await near.send_all(b"dropped")
            assert await near.receive_some() == b"goodbye"
            assert await near.receive_some() == b""
            await near.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await near.receive_some()

    trio.run(main)


@pytest.mark.parametrize(
    ("reason", "refused"),
    [
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", True),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", True),
        ("TLSV1_ALERT_UNKNOWN_CA", True),
        ("TLSV1_ALERT_ACCESS_DENIED", True),
        ("TLS_ALERT_BAD_CERTIFICATE", True),
        ("TLSV1_ALERT_INTERNAL_ERROR", False),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", False),
        ("CERTIFICATE_UNKNOWN", False),
    ],
)
def test_alerts_are_found_however_deep(reason, refused):
    """Behind causes and contexts, also when the nearer cause says nothing."""
    alert = ssl.SSLError(1, reason)
    alert.reason = reason
    near = OSError(32, "Broken pipe")
    near.__context__ = alert
    broken = httpcore.ReadError()
    broken.__cause__ = near
    near.__cause__ = broken  # a ring ends too
    with pytest.raises(AdapterError) as caught, wire._Progress(host="h", proxied=False).errors():
        raise broken
    assert caught.value.code == ("tls-certificate-alert" if refused else "tls-failed")


def test_client_certificate_missing():
    context = server_context(SERVER, clients=CA)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    assert refusal(replies(http(200)), context=context)[0] == "tls-certificate-alert"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (TlsOptions(ca_file="gone.pem"), "ca-file-unusable"),
        (TlsOptions(ca_file="client.key"), "ca-file-unusable"),
        (TlsOptions(client_chain_pem=b"x", client_key_path="client.key"), "client-credential-unusable"),
        (
            TlsOptions(client_chain_pem=chain(CLIENT), client_key_path="stranger.key"),
            "client-credential-unusable",
        ),
        (TlsOptions(client_chain_pem=chain(CLIENT), client_key_path="gone"), "client-credential-unusable"),
    ],
)
def test_files_that_cannot_be_used(options, code):
    assert refusal(replies(http(200)), options=options)[:2] == (code, "operator")


# --- what is bounded ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [101, 300_000])
def test_oversized_body(size):
    respond = replies(http(200, b"x" * size))
    assert refusal(respond, max_answer_bytes=100)[::2] == ("answer-too-large", "PeerProtocolError")


def test_a_body_of_exactly_the_bound():
    (answer,), _ = ask(replies(http(200, b"x" * 100)), max_answer_bytes=100)
    assert len(answer.body) == 100


def endless(stream, seen):
    async def respond():
        await stream.send_all(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    return respond()


def test_endless_body():
    assert refusal(endless)[0] == "answer-too-large"


async def stalled_head(stream, seen):
    await trio.sleep_forever()


async def stalled_body(stream, seen):
    await stream.send_all(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nabc")
    await trio.sleep_forever()


@pytest.mark.parametrize("respond", [stalled_head, stalled_body])
def test_stalls(respond):
    assert refusal(respond, timeout_s=0.2) == ("timeout", "retry", "PeerUnreachable")


def test_a_peer_that_never_shakes_hands():
    async def main():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            url = f"https://localhost:{listener.socket.getsockname()[1]}/"
            with pytest.raises(AdapterError) as caught:
                await HttpsClient(PLAIN, environ={}).request("GET", url, timeout_s=0.2)
            assert caught.value.code == "unreachable", "nothing of the request was sent"

    trio.run(main)


async def closes_mid_body(stream, seen):
    await stream.send_all(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nabc")


async def resets_mid_body(stream, seen):
    await closes_mid_body(stream, seen)
    linger = struct.pack("ii", 1, 0)
    stream.transport_stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def hangs_up(stream, seen):
    pass


@pytest.mark.parametrize("respond", [closes_mid_body, resets_mid_body, hangs_up])
def test_broken_connections(respond):
    assert refusal(respond) == ("connection-broken", "retry", "PeerProtocolError")


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 2000 X\r\n\r\n", b"HTTP/1.1 200 X\r\nContent-Length: x\r\n\r\n"],
)
def test_not_http(answer):
    assert refusal(replies(answer))[0] == "answer-malformed"


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def fetch(url, **options):
    with pytest.raises(AdapterError) as caught:
        trio.run(lambda: HttpsClient(PLAIN, environ={}).request("GET", url, timeout_s=5, **options))
    return caught.value


def test_nobody_listens():
    error = fetch(f"https://127.0.0.1:{closed_port()}/")
    assert (error.code, type(error).__name__) == ("unreachable", "PeerUnreachable")
    assert "refused" in error.message


def test_a_name_no_resolver_can_take():
    assert fetch(f"https://{'a' * 64}.test/").code == "unreachable"


def test_a_request_that_cannot_be_sent():
    error = refusal(replies(http(200)), body=b"", host="localhost", fresh=True, max_answer_bytes=-1)
    assert error[0] == "answer-too-large"


def test_headers_that_cannot_be_sent_are_not_quoted():
    peer = Peer(replies(http(200)), server_context(SERVER))

    async def main():
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            with pytest.raises(AdapterError) as caught:
                await HttpsClient(PLAIN, environ={}).request(
                    "GET",
                    f"https://localhost:{peer.port}/",
                    headers={"Authorization": f"{SECRET}\r\nX: y"},
                    timeout_s=5,
                )
            nursery.cancel_scope.cancel()
        assert caught.value.code == "request-invalid"
        assert "hush" not in str(caught.value)

    trio.run(main)


@pytest.mark.parametrize("url", ["http://h/", "https:///x", "https://é/", "h"])
def test_only_https(url):
    with pytest.raises(ValueError, match="https"):
        trio.run(lambda: HttpsClient(PLAIN, environ={}).request("GET", url, timeout_s=1))


# --- proxies -----------------------------------------------------------------------------------------


def through_proxy(proxy_context, scheme, *, respond=None, options=WITH_CERTIFICATE, credentials="", **target):
    """Status (or error) and both peers."""
    far = Peer(replies(http(200)), server_context(SERVER, clients=CA, **target))
    near = Peer(respond or replies(b""), proxy_context)
    got = []

    async def main():
        async with trio.open_nursery() as nursery:
            await far.start(nursery)
            if respond is None:
                near.respond = tunnel_to(far.port)
            await near.start(nursery)
            environ = {"HTTPS_PROXY": f"{scheme}://{credentials}localhost:{near.port}"}
            client = HttpsClient(options, environ=environ)
            try:
                answer = await client.request("GET", f"https://hub.test:{far.port}/x", timeout_s=5)
                got.append(answer.status)
            except AdapterError as exc:
                got.append(exc)
            await client.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)
    return got[0], near, far


def test_connect_proxy_with_credentials():
    status, near, far = through_proxy(None, "http", credentials="us%3Aer:p%40ss@")
    assert status == 200
    (seen,) = near.seen
    assert (seen.method, seen.target) == ("CONNECT", f"hub.test:{far.port}")
    assert seen.headers["proxy-authorization"] == f"Basic {base64.b64encode(b'us:er:p@ss').decode()}"
    assert far.seen[0].client_certificate
    assert "proxy-authorization" not in far.seen[0].headers


def test_https_proxy_is_never_offered_the_client_certificate():
    status, near, far = through_proxy(server_context(SERVER, clients=CA, required=False), "https")
    assert status == 200
    assert not near.seen[0].client_certificate
    assert far.seen[0].client_certificate


def test_a_disbelieved_root_does_not_vouch_for_a_proxy_either(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    (tmp_path / "none.pem").write_bytes(OTHER_CA.cert_pem.bytes())
    believing, not_believing = (
        structs.replace(WITH_CERTIFICATE, ca_file="none.pem", distrust=frozenset({sha256}))
        for sha256 in ("0" * 64, sha256_hex(ssl.PEM_cert_to_DER_cert(CA.cert_pem.bytes().decode())))
    )
    status, _, _ = through_proxy(server_context(SERVER), "https", options=believing)
    assert status == 200
    error, near, _ = through_proxy(server_context(SERVER), "https", options=not_believing)
    assert (error.code, near.seen) == ("tls-untrusted", [])


def test_an_alert_from_the_proxy_is_not_the_hub_s():
    context = server_context(SERVER, clients=CA)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    error, _, far = through_proxy(context, "https")
    assert error.code == "proxy-tls"
    assert not far.connections


def test_an_alert_through_the_proxy_is_the_hub_s():
    error, _, _ = through_proxy(None, "http", options=STRANGE)
    assert error.code == "tls-certificate-alert"


@pytest.mark.parametrize(("status", "failure_class"), [(407, "operator"), (502, "retry"), (403, "retry")])
def test_a_proxy_that_opens_no_tunnel(status, failure_class):
    error, _, _ = through_proxy(None, "http", respond=replies(http(status, b"")), credentials="u:hush@")
    assert (error.code, error.failure_class) == (f"proxy-{status}", failure_class)
    assert "hush" not in str(error)


def test_a_proxy_that_is_not_there_is_what_could_not_be_reached():
    async def main():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        await listener.aclose()
        client = HttpsClient(PLAIN, environ={"HTTPS_PROXY": f"http://u:hush@127.0.0.1:{port}"})
        with pytest.raises(AdapterError) as caught:
            await client.request("GET", "https://hub.test/x", timeout_s=5)
        return caught.value

    error = trio.run(main)
    assert error.code == "unreachable"
    assert error.message == "cannot connect to the proxy on the way to hub.test: Connection refused"


def test_loopback_never_goes_to_a_proxy():
    environ = {"HTTPS_PROXY": f"http://127.0.0.1:{closed_port()}"}
    (answer,), _ = ask(replies(http(200)), environ=environ)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("hub.test", "", False),
        ("hub.test", "*", True),
        ("hub.test", "hub.test", True),
        ("HUB.test.", "hub.TEST", True),
        ("hub.test", "test", True),
        ("hub.test", ".test", True),
        ("hub.test", "*.test", True),
        ("hub.test", "other , x.y  hub.test", True),
        ("hub.test", "hub.test:443", True),
        ("hub.test", "hub.test:8443", False),
        ("hub.test", "ub.test", False),
        ("hub.test", ".", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:1", False),
        ("10.1.2.3", "2.3", False),
        ("10.1.2.3", "11.0.0.0/8, 10.0.0.0/x", False),
        ("fd00::1", "[fd00::1]", True),
        ("fd00::1", "[fd00::1]:443", True),
        ("fd00::1", "fd00::/8", True),
        ("localhost", "", True),
        ("a.localhost", "", True),
        ("127.9.9.9", "", True),
        ("::1", "", True),
    ],
)
def test_no_proxy(host, no_proxy, direct):
    environ = {"HTTPS_PROXY": "http://p.test", "no_proxy": no_proxy}
    assert (proxy_for(host, 443, environ) is None) == direct


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"https_proxy": "p.test:3128"}, "http://p.test:3128"),
        ({"HTTPS_PROXY": "https://p.test/", "https_proxy": "http://q.test"}, "https://p.test"),
        ({"HTTPS_PROXY": "http://[fd00::1]:8"}, "http://[fd00::1]:8"),
    ],
)
def test_proxy_variables(environ, url):
    proxy = proxy_for("hub.test", 443, environ)
    assert (proxy and proxy.url) == url


@pytest.mark.parametrize("text", ["socks5://p", "http://", "http://u:hush@p:x", "http://u:hush@é"])
def test_unusable_proxies(text):
    with pytest.raises(AdapterError) as caught:
        proxy_for("hub.test", 443, {"HTTPS_PROXY": text})
    assert (caught.value.code, caught.value.failure_class) == ("proxy-invalid", "operator")
    assert "hush" not in str(caught.value)


def test_proxy_credentials_are_not_printed():
    proxy = proxy_for("hub.test", 443, {"HTTPS_PROXY": "http://u:hush@p.test"})
    assert proxy.credentials == (b"u", b"hush")
    assert "hush" not in repr(proxy)


# --- headers -----------------------------------------------------------------------------------------

NOW = 1714644672000
DATE = "Thu, 02 May 2024 10:11:12 GMT"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3_000),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "999999999"}, 86_400_000),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Thu, 02 May 2024 10:12:12 GMT"}, 60_000),
        ({"retry-after": DATE, "date": "Thu, 02 May 2024 10:11:02 GMT"}, 10_000),
        ({"retry-after": "Thu, 02 May 2002 10:12:12 GMT"}, 0),
    ],
)
def test_retry_after(headers, expected):
    assert HttpAnswer(status=429, headers=headers, body=b"").retry_after_ms(NOW) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DATE, NOW),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228799000),
        ("Thu, 31 Feb 2024 10:11:12 GMT", None),
        ("Thu, 02 Mai 2024 10:11:12 GMT", None),
        ("Thursday, 02-May-24 10:11:12 GMT", None),
        ("", None),
    ],
)
def test_http_dates(text, expected):
    assert parse_http_date(text) == expected
