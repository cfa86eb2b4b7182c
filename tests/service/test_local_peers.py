"""Who else speaks to the local sockets: hostile, slow, or merely curious. And what nobody must ever read."""

import base64
import contextlib
import os
import shutil
import socket
import stat
import subprocess

import pytest

from tests.service.device import WITHIN_S, Device, ask, short_root

CERTIFICATE = "aziot-dps-identity-cert"


@pytest.fixture(scope="module")
def device(cloud):
    """One for the whole module: nothing that is done to it may matter."""
    with short_root() as place:
        made = Device(place, cloud).configure(
            more="[identityd.limits]\nconnections = 8\nbody_bytes = 4096\n"
            "head_sec = 1\nbody_sec = 1\nidle_sec = 1"
        )
        made.start()
        try:
            made.until_provisioned()
            yield made
        finally:
            made.kill()


def connect(path):
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(WITHIN_S)
    peer.connect(str(path))
    return peer


def say(paths, content):
    """Say it to all of them, and hear everything there is to hear from each."""
    peers = [connect(path) for path in paths]
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.sendall(content)
    return [hear(peer) for peer in peers]


def hear(peer):
    heard = b""
    with peer, contextlib.suppress(ConnectionError):
        while piece := peer.recv(65536):
            heard += piece
    return heard


def check_serves(device):
    assert device.certificate(CERTIFICATE).status == 200
    assert device.status()["state"] == "Provisioned"
    assert device.process.running


POST = b"POST /v1/renew HTTP/1.1\r\nHost: x\r\n"
CERTIFICATES = b"GET /certificates/%b?api-version=2020-09-01 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNK = b"1000\r\n" + bytes(4096) + b"\r\n"

HOSTILE = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100,
    "zeros": bytes(100_000),
    "a request line without end": b"GET /" + b"a" * 100_000,
    "a header without end": b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
    "a thousand headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "a body that is too large": POST + b"Content-Length: 9999999\r\n\r\n" + bytes(9999),
    "a length that is none": POST + b"Content-Length: -5\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "chunks that are none": POST + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n",
    "chunks without end": POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 2,
    "a path out of the store": CERTIFICATES % b"..%2f..%2fcurrent%2fkey.pem",
    "a nul": CERTIFICATES % b"a%00b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nonsense_is_answered_or_dropped(device, name):
    before = device.status()["sequence"]
    for heard in say((device.control, device.certd), HOSTILE[name]):
        assert not heard.startswith(b"HTTP/1.1 2"), heard
        assert b"PRIVATE KEY" not in heard
        assert b"Traceback" not in heard
    check_serves(device)
    assert device.status()["sequence"] == before, "nobody commanded anything"


def slow_clients(device):
    """More of them than connections are allowed, all in the middle of a head."""
    slow = [connect(path) for path in (device.control, device.certd) for _ in range(30)]
    for peer in slow:
        with contextlib.suppress(OSError):
            peer.sendall(b"GET /v1/sta")
    return slow


def test_slow_clients_are_dropped_in_time(device):
    slow = slow_clients(device)
    for peer in slow:
        hear(peer)
    for _ in range(10_000):
        # Dropped is not yet counted as gone.
        with contextlib.suppress(ConnectionError):
            check_serves(device)
            break
    check_serves(device)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("curl") is None, reason="needs another user, and curl")
def test_slow_clients_do_not_keep_other_users_out(device):
    os.chmod(device.root, 0o711)
    slow = slow_clients(device)
    try:
        # Socket group and nothing else: curl, since the interpreter may live where only root reads.
        answer = subprocess.run(
            ["curl", "-sS", "--unix-socket", str(device.control), "http://localhost/v1/status"],
            user=65534,
            group=0,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        assert b'"Provisioned"' in answer.stdout
        refused = subprocess.run(
            ["curl", "-sS", "--unix-socket", str(device.control), "-X", "POST", "http://localhost/v1/renew"],
            user=65534,
            group=0,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
        assert b"may read but not command" in refused.stdout
    finally:
        for peer in slow:
            peer.close()


def test_who_says_only_half_of_it_is_dropped_in_time(device):
    before = device.status()["sequence"]
    halves = (b"", b"GET /v1/status HTT", POST + b"Content-Length: 100\r\n\r\nhalf")
    peers = [connect(path) for path in (device.control, device.certd) for _ in halves]
    for peer, half in zip(peers, halves * 2, strict=True):
        peer.sendall(half)
    heard = [hear(peer) for peer in peers]
    assert heard[0] == heard[3] == b""
    assert not any(answer.startswith(b"HTTP/1.1 2") for answer in heard)
    assert device.status()["sequence"] == before


def test_a_reader_of_events_who_does_not_read_is_dropped(device):
    with connect(device.control) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(b"GET /v1/events?from=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(3):
            assert device.attempt("renew")[-1]["state"] == "Provisioned"
        check_serves(device)


def test_who_watches_from_the_start_sees_everything_once(device):
    last = device.status()["sequence"]
    seen = []
    for line in device.events(1):
        if line["type"] == "record":
            seen.append(line["sequence"])
        if line["sequence"] >= last:
            break
    assert seen == list(range(1, last + 1))


def test_modes_of_the_sockets(device):
    for path in (device.control, device.certd):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert not path.with_name(path.name[:-1] + "~").exists()


# --- secrets -----------------------------------------------------------------------------------------


def test_no_secret_is_ever_told(make, cloud):
    """After a life with every kind of trouble: not in the journal, the log, an answer, or an error text."""
    cloud.options(cert_lifetime_s=3600)
    device = make("secretive").configure(top="cloud_retries = 0")
    keys = set()
    device.start().until_provisioned()
    for fault in (
        {"on": "register", "kind": "status", "status": 401},
        {"on": "register", "kind": "garbage"},
        {"on": "operation", "kind": "wrong_key"},
        {"on": "operation", "kind": "truncated_pem"},
        {"on": "hub", "kind": "hub_refuses"},
    ):
        cloud.faults(fault)
        device.attempt("renew")
        keys |= private_keys(device)
    cloud.faults({"on": "register", "kind": "stall"})
    device.command("renew")
    device.until(lambda status: status["phase"] == "Submitting")
    device.kill()
    keys |= private_keys(device)
    cloud.faults()
    device.start()
    device.until_provisioned()
    # A mistake on the very line of the key, and a reload of it.
    good = device.config.read_text()
    device.config.write_text(good.replace("symmetric_key = {", "symmetric_key = {{"))
    device.process.send(1)
    device.process.until_line("not reloaded")
    keys |= private_keys(device)
    answers = [
        ask(device.control, "/v1/status").body,
        ask(device.control, "/v1/machine").body,
        device.certificate(CERTIFICATE).body,
        device.certificate("aziot-dps-identity-cert-key").body,
        device.run("status", "--json")[1].encode(),
        device.run("explain")[1].encode(),
    ]
    device.stop()
    answers.append(device.run("journal", "show")[1].encode())
    device.start(ready=False)
    device.process.until_line("READY")
    device.stop()

    told = b"\n".join([device.journal.read_bytes(), device.log.encode(), *answers])
    assert len(keys) >= 2
    symmetric = base64.b64decode(cloud.key)
    for form in (cloud.key.encode(), symmetric, symmetric.hex().encode(), cloud.key.rstrip("=").encode()):
        assert form not in told
    for key in keys:
        for line in key.splitlines():
            if len(line) > 20 and not line.startswith(b"-----"):
                assert line not in told
    for word in (b"PRIVATE KEY", b"SharedAccessSignature", b"sig=", b"Authorization"):
        assert word not in told, word
    check_modes(device)


def private_keys(device):
    keys = set()
    for path in device.credentials.glob("*/key.pem"):
        with contextlib.suppress(FileNotFoundError):  # retired meanwhile
            keys.add(path.read_bytes())
    return keys


def check_modes(device):
    for path in (device.root / "var/lib/aziot").rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))
