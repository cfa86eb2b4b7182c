"""`identityd check` on a real device, whole and broken in each way that it is to notice."""

import base64
import datetime
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import struct
import threading
import time
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from adapters.__main__ import aziotctl, identityd
from adapters.checks import subject as subjects
from adapters.checks.catalogue import CHECKS
from adapters.checks.run import RUNS
from adapters.checks.subject import Options, Subject
from adapters.paths import paths_below
from statemachine.explain import renewal_due
from statemachine.journal import encode_line, read
from statemachine.replay import replay_files
from tests.service.device import REPOSITORY, Device, Process, event_is
from tests.service.peers import authority, key_pem

DAY_S = 86_400
OFFLINE = "host-local-time state-durable"
"There is no time server, and tests keep their roots in memory where they can."


class Report:
    """What a run printed, as JSON."""

    def __init__(self, status, text):
        self.status = status
        self.json = json.loads(text)

    def kind(self, check_id):
        return self.json["checks"][check_id]["result"]["result"]

    def said(self, check_id):
        return "\n".join(self.json["checks"][check_id]["result"].get("details", ()))

    def info(self, check_id):
        return self.json["checks"][check_id]["additional_info"]

    def of_kind(self, *kinds):
        return {one for one in self.json["checks"] if self.kind(one) in kinds}


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Nothing of this machine's way to the network leaks in."""
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "AZIOT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "gateway")


@pytest.fixture
def check(capfd):
    """Runs it against a device: a report."""

    def check(device, *options, entry=identityd, leave_out=OFFLINE):
        words = ["check", "--root", str(device.root), "--output", "json", "--dont-run", leave_out, *options]
        capfd.readouterr()
        status = entry(words)
        return Report(status, capfd.readouterr().out)

    return check


@pytest.fixture
def device(provisioned):
    """As a careful operator has it."""
    provisioned.config.chmod(0o600)
    return provisioned


# --- a device that is well ---------------------------------------------------------------------------


def test_a_device_that_is_well(make, cloud, check):
    cloud.bundle(cloud.ca_file.read_bytes())
    device = make().start()
    device.config.chmod(0o600)
    device.until_provisioned()
    report = check(device)
    assert report.of_kind("warning") == set()
    assert report.of_kind("error", "fatal", "skipped") == set()
    assert report.status == 0
    assert report.kind("trust-bundle-valid") == report.kind("renewal-slack") == "ok"
    assert report.info("host-connect-dps-endpoint") == {
        "dps_endpoint": cloud.endpoint,
        "dps_hostname": "localhost",
        "proxy": None,
    }
    assert report.info("host-connect-iothub-https")["iothub_hostname"] == cloud.hub
    assert set(report.json["checks"]) == {one.id for one in CHECKS}
    assert list(report.json["checks"]) == sorted(report.json["checks"])
    assert report.info("tpmd-running")["reason"]


def test_the_same_when_it_is_stopped(device, check):
    report = check(device)
    assert report.status == 1
    assert report.of_kind("error") == {"keyd-running", "certd-running", "identityd-running"}
    assert "Could not connect to keyd on unix://" in report.said("keyd-running")
    assert report.kind("issued-credential-whole") == report.kind("journal-intact") == "ok"
    assert report.kind("host-connect-iothub-https") == "ok", "the hub is known from the journal"


def test_before_it_has_ever_run(make, check):
    device = make()
    device.config.chmod(0o600)
    report = check(device)
    running = {"keyd-running", "certd-running", "identityd-running"}
    assert report.of_kind("error", "fatal") == running
    assert report.kind("journal-intact") == "ignored"
    assert report.kind("host-connect-iothub-https") == "warning", "it asks for --iothub-hostname"
    assert "--iothub-hostname" in report.said("host-connect-iothub-https")
    named = check(device, "--iothub-hostname", device.cloud.hub)
    assert named.kind("host-connect-iothub-https") == "ok"


# --- broken, and stopped -----------------------------------------------------------------------------


def generation(device, name) -> Path:
    return device.credentials / "1" / name


def rewritten_journal(device, change):
    """Every record through ``change``, with hashes that follow."""
    reading = read(device.journal.read_bytes())
    head = device.journal.read_bytes().splitlines(keepends=True)[:2]
    digest = json.loads(head[1])["hash"]
    lines = list(head)
    for record in reading.records:
        line, digest = encode_line(change(record), digest)
        lines.append(line)
    device.journal.write_bytes(b"".join(lines))


def certificate(name, key, *, days=(-1, 30), issuer=None, ca=False):
    """PEM. ``issuer`` is a pair of name and key; none: it signs itself."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    by_name, by_key = issuer or (name, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    return builder.sign(by_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def ec_key():
    return ec.generate_private_key(ec.SECP256R1())


def x509_device(device, chain, key, *, registration_id="device"):
    """Configured with these files."""
    folder = device.root / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "device.pem").write_bytes(chain)
    (folder / "device.key").write_bytes(key)
    (folder / "device.key").chmod(0o600)
    named = f'registration_id = "{registration_id}"\n' if registration_id else ""
    device.configure(
        attestation=f'method = "x509"\n{named}identity_cert = "file://{folder}/device.pem"\n'
        f'identity_pk = "file://{folder}/device.key"'
    )
    device.config.chmod(0o600)


def key_file_device(device, content, mode=0o600):
    path = device.root / "device.key"
    path.write_bytes(content)
    path.chmod(mode)
    device.configure(
        attestation='method = "symmetric_key"\nregistration_id = "device"\n'
        f'symmetric_key = {{ uri = "file://{path}" }}'
    )


def drop_in(device, service, text):
    path = device.root / f"etc/aziot/{service}/config.d/test.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def two_certificates(device, *, matching):
    key = ec_key()
    pem = certificate("device", key if matching else ec_key())
    x509_device(device, pem, key_pem(key))


def ordered(device, *, right):
    root_key, leaf_key = ec_key(), ec_key()
    root = certificate("root", root_key, ca=True, days=(-1, 3000))
    leaf = certificate("device", leaf_key, issuer=("root", root_key))
    extra = certificate("stranger", ec_key(), ca=True, days=(-1, 3000))
    x509_device(device, leaf + (root if right else extra + root), key_pem(leaf_key))


def of_life(device, days):
    key = ec_key()
    x509_device(device, certificate("device", key, days=days), key_pem(key))


def replace_bundle(device, pem):
    generation(device, "bundle.pem").write_bytes(pem)


def other_decision(device):
    def change(record):
        return msgspec.structs.replace(record, state="Provisioned") if record.sequence == 3 else record

    rewritten_journal(device, change)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def set_aside(device):
    (device.state / "journal.jsonl.damaged-1").write_bytes(b"x")
    (device.state / "journal.jsonl.damaged-1.reason").write_bytes(b"line 7: its hash does not follow\n")


def relink(device):
    link = device.published("certd/certs", "cert")
    content = link.read_bytes()
    link.unlink()
    link.write_bytes(content)


def inline_key(device, key):
    device.configure(
        attestation='method = "symmetric_key"\nregistration_id = "device"\n'
        f'symmetric_key = {{ value = "{base64.b64encode(key).decode()}" }}'
    )


def preloaded(device, pem, key=None):
    (device.root / "extra.pem").write_bytes(pem)
    more = f'[preloaded_certs]\nextra = "file://{device.root}/extra.pem"\n'
    if key is not None:
        (device.root / "extra.key").write_bytes(key)
        more += f'[preloaded_keys]\nextra = "file://{device.root}/extra.key"\n'
    device.configure(more=more)


def weak_pair(device):
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    preloaded(device, certificate("extra", ec_key()), key_pem(key))


def another_hostname(device):
    device.configure(top='hostname = "somewhere-else"')


BROKEN = [
    # --- configuration
    ("identityd-config-well-formed", "error", lambda d: d.config.write_text("= nothing"), "not valid TOML"),
    ("identityd-config-well-formed", "error", lambda d: d.config.unlink(), "found no such file"),
    (
        "identityd-config-well-formed",
        "error",
        lambda d: d.configure(top="cloud_timeout_sec = 0"),
        "the service goes on with the last good configuration",
    ),
    (
        "keyd-config-well-formed",
        "error",
        lambda d: drop_in(d, "keyd", "principal = 1"),
        "keyd/config.d/test.toml",
    ),
    ("certd-config-well-formed", "error", lambda d: drop_in(d, "certd", "="), "certd/config.d/test.toml"),
    ("certd-config-well-formed", "warning", lambda d: drop_in(d, "certd", "colour = 1"), "colour"),
    ("hostname", "error", another_hostname, "this machine calls itself"),
    # --- what the configuration names
    (
        "certs-preloaded",
        "error",
        lambda d: preloaded(d, certificate("extra", ec_key(), days=(-9, -2))),
        "expired at",
    ),
    (
        "certs-preloaded",
        "warning",
        lambda d: preloaded(d, certificate("extra", ec_key(), days=(-9, 3))),
        "will expire in",
    ),
    ("certs-preloaded", "error", lambda d: preloaded(d, b"nonsense"), "not a PEM certificate chain"),
    (
        "certs-match-private-keys",
        "error",
        lambda d: preloaded(d, certificate("extra", ec_key()), key_pem(ec_key())),
        "for another key",
    ),
    ("key-pairs-read", "warning", weak_pair, "an RSA key of 1024 bits"),
    ("identity-certificate-expiry", "warning", lambda d: of_life(d, (-9, 3)), "will expire in"),
    # --- the only way back
    ("onboarding-credential-usable", "error", lambda d: two_certificates(d, matching=False), "another key"),
    (
        "onboarding-credential-usable",
        "error",
        lambda d: x509_device(d, certificate("other", (key := ec_key())), key_pem(key)),
        'names "other", but registration_id is "device"',
    ),
    ("onboarding-credential-usable", "warning", lambda d: ordered(d, right=False), "not in issuing order"),
    (
        "onboarding-credential-usable",
        "error",
        lambda d: x509_device(d, certificate("device", ec_key()), b"no key"),
        "not an unencrypted PEM private key",
    ),
    (
        "onboarding-credential-usable",
        "error",
        lambda d: (two_certificates(d, matching=True), (d.root / "secrets/device.key").unlink()),
        "does not exist",
    ),
    ("onboarding-credential-expiry", "error", lambda d: of_life(d, (-9, -2)), "expired at"),
    ("onboarding-credential-expiry", "error", lambda d: of_life(d, (2, 9)), "still to come"),
    ("onboarding-credential-expiry", "warning", lambda d: of_life(d, (-300, 20)), "will expire in 19 days"),
    ("onboarding-credential-usable", "error", lambda d: inline_key(d, b"short"), "has 5 bytes"),
    (
        "onboarding-credential-usable",
        "error",
        lambda d: key_file_device(d, base64.b64encode(bytes(range(64)))),
        "holds base64 text",
    ),
    (
        "onboarding-credential-usable",
        "error",
        lambda d: key_file_device(d, bytes(range(32)) + b"\n"),
        "32 bytes and a line end",
    ),
    ("onboarding-credential-private", "error", lambda d: d.config.chmod(0o644), "everybody may read it"),
    (
        "onboarding-credential-private",
        "error",
        lambda d: key_file_device(d, bytes(range(32)), 0o660),
        "its group may read and change it",
    ),
    # --- what DPS issued
    ("issued-credential-whole", "error", lambda d: generation(d, "key.pem").unlink(), "key.pem is missing"),
    (
        "issued-credential-whole",
        "error",
        lambda d: generation(d, "key.pem").write_bytes(key_pem(ec_key())),
        "a certificate for another key",
    ),
    (
        "issued-credential-whole",
        "error",
        lambda d: generation(d, "chain.pem").write_bytes(b"x"),
        "is damaged",
    ),
    ("issued-credential-whole", "error", lambda d: generation(d, "key.pem").chmod(0o640), "mode 0640"),
    (
        "issued-credential-whole",
        "error",
        lambda d: ((d.credentials / "current").unlink(), (d.credentials / "current").write_bytes(b"1")),
        "is not a link",
    ),
    ("issued-credential-whole", "error", lambda d: shutil.rmtree(d.credentials), "nothing is on the disk"),
    ("issued-credential-whole", "error", relink, "does not lead to the issued chain.pem"),
    ("trust-bundle-valid", "error", lambda d: replace_bundle(d, b"nonsense"), "holds no certificate"),
    (
        "trust-bundle-valid",
        "error",
        lambda d: replace_bundle(d, certificate("old root", ec_key(), ca=True, days=(-9, -2))),
        "CA CN=old root expired",
    ),
    (
        "trust-bundle-valid",
        "warning",
        lambda d: replace_bundle(
            d, certificate("old root", ec_key(), ca=True, days=(-9, -2)) + authority().encode()
        ),
        "CA CN=old root expired",
    ),
    # --- the journal
    ("journal-intact", "error", lambda d: flip(d.journal), "line"),
    ("journal-intact", "error", lambda d: d.journal.unlink(), "there is no journal"),
    ("journal-intact", "error", other_decision, "does not replay"),
    ("journal-intact", "warning", set_aside, "line 7: its hash does not follow"),
    # --- the machine
    ("state-private", "error", lambda d: d.journal.chmod(0o644), "journal.jsonl has mode 0644"),
    ("state-private", "error", lambda d: d.state.chmod(0o777), "others can replace what is in it"),
    (
        "principals",
        "warning",
        lambda d: drop_in(d, "identityd", '[[principal]]\nuid = 54321\nname = "m"\nidtype = ["module"]'),
        "uid 54321 is a principal, and no user",
    ),
    (
        "principals",
        "warning",
        lambda d: drop_in(d, "identityd", '[[principal]]\nuid = 0\nname = "m"\nidtype = ["module"]'),
        "has lost the rights of root",
    ),
    (
        "principals",
        "warning",
        lambda d: drop_in(d, "keyd", '[[principal]]\nuid = 1\nkeys = ["*"]'),
        "may use every key",
    ),
]


@pytest.mark.parametrize(
    ("check_id", "kind", "break_it", "words"), BROKEN, ids=[f"{row[0]}: {row[3]}" for row in BROKEN]
)
def test_broken(device, check, check_id, kind, break_it, words):
    secrets = secrets_of(device)
    before = check(device, leave_out=NETWORK)
    assert before.kind(check_id) in ("ok", "ignored"), before.said(check_id)
    break_it(device)
    after = check(device, leave_out=NETWORK)
    assert (after.kind(check_id), words in after.said(check_id)) == (kind, True), after.said(check_id)
    assert "fix: " in after.said(check_id)
    assert "tried: " in after.said(check_id)
    assert after.status == 1
    for secret in secrets | secrets_of(device):
        assert secret not in json.dumps(after.json)


NETWORK = " ".join(
    one.id for one in CHECKS if one.section == "Connectivity checks" or one.id == "host-local-time"
)


def secrets_of(device):
    """What must not be told: keys in any form, a line of PEM as well."""
    found = {device.cloud.key}
    for path in (path for path in device.root.rglob("*") if path.name.endswith((".key", "key.pem"))):
        if path.is_file():
            content = path.read_bytes()
            lines = content.decode("latin-1").splitlines()
            found |= {base64.b64encode(content).decode(), content.hex(), *lines}
    return {one for one in found if len(one) > 8 and not one.startswith("-----")}


# --- broken, and running -----------------------------------------------------------------------------


RUNNING = [
    ("configs-up-to-date", "warning", lambda d: d.configure(top="cloud_retries = 3"), "was changed since"),
    ("certd-running", "error", lambda d: d.certd.unlink(), "Could not connect to certd"),
    ("socket-permissions", "error", lambda d: d.certd.chmod(0o666), "certd.sock has mode 0666"),
    ("socket-permissions", "warning", lambda d: d.certd.chmod(0o600), "instead of 0660"),
    ("socket-permissions", "error", lambda d: d.certd.unlink(), "does not exist, although the service runs"),
    ("socket-permissions", "error", lambda d: (d.root / "run/aziot").chmod(0o777), "sockets of their own"),
]


@pytest.mark.parametrize(
    ("check_id", "kind", "break_it", "words"), RUNNING, ids=[f"{row[0]}: {row[3]}" for row in RUNNING]
)
def test_broken_while_it_runs(device, check, check_id, kind, break_it, words):
    device.start()
    device.until_provisioned()
    break_it(device)
    report = check(device, leave_out=NETWORK)
    assert (report.kind(check_id), words in report.said(check_id)) == (kind, True), report.said(check_id)


def test_a_preloaded_certificate_is_read_as_a_client_reads_it(device, check):
    preloaded(device, certificate("extra", ec_key()))
    device.config.chmod(0o600)
    device.start()
    assert check(device, leave_out=NETWORK).kind("certs-read") == "ok"
    (device.root / "extra.pem").unlink()
    report = check(device, leave_out=NETWORK)
    assert report.kind("certs-read") == "error"
    assert '"extra" cannot be read: it answered 400' in report.said("certs-read")


def test_renewals_that_fail_are_told_while_there_is_time(device, check, cloud):
    device.start()
    start = device.until_provisioned()["sequence"]
    cloud.faults({"on": "register", "kind": "status", "status": 503, "message": "closed for today"})
    device.command("renew")
    device.until_record(event_is("registration-failed", code="dps-503"), start + 1)
    device.until(lambda status: status["attempt"]["last_error"] is not None and status["phase"] == "Idle")
    report = check(device, leave_out=NETWORK)
    assert report.kind("renewal-slack") == report.kind("service-healthy") == "warning"
    assert "in a row failed; the last error was dps-503" in report.said("renewal-slack")
    assert "closed for today" in report.said("service-healthy")


def test_an_enrolment_that_is_gone_needs_somebody(device, check, cloud):
    device.start()
    start = device.until_provisioned()["sequence"]
    cloud.faults({"on": "register", "kind": "status", "status": 401, "message": "enrolment is gone"})
    device.command("renew")
    device.until_record(event_is("registration-failed", code="dps-401"), start + 1)
    device.until(lambda status: status["stuck"])
    report = check(device, leave_out=NETWORK)
    assert report.kind("service-healthy") == "error"
    assert "enrolment is gone" in report.said("service-healthy")


# --- the network -------------------------------------------------------------------------------------


class Listener:
    """Takes connections on loopback and says one thing, or nothing, ever."""

    def __init__(self, says=b""):
        self._says = says
        self._held = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                taken, _ = self._socket.accept()
            except OSError:
                return
            self._held.append(taken)
            if self._says:
                taken.recv(4096)
                taken.sendall(self._says)

    def close(self):
        for one in (self._socket, *self._held):
            one.close()


@pytest.fixture
def listener():
    made = []

    def make(says=b""):
        made.append(Listener(says))
        return made[-1]

    yield make
    for one in made:
        one.close()


def reconfigured(device, endpoint, **more):
    text = device.configure(**more).config.read_text().replace(device.cloud.endpoint, endpoint)
    device.config.write_text(text)
    device.config.chmod(0o600)


def test_a_chain_that_is_not_believed_is_explained(device, check):
    device.configure(ca_file=False)
    report = check(device)
    said = report.said("host-connect-dps-endpoint")
    assert report.kind("host-connect-dps-endpoint") == "error"
    assert "which is not in the system's roots" in said
    assert "[identityd.tls] ca_file" in said
    assert "  presented 1: CN=localhost for localhost" in said
    assert "NOT FOR PRODUCTION" in said
    assert report.kind("host-connect-iothub-https") == "error"
    assert report.kind("journal-intact") == "ok", "the rest is told nonetheless"


def test_a_name_that_does_not_resolve(device, check):
    reconfigured(device, "https://dps.invalid", top="cloud_timeout_sec = 3")
    report = check(device)
    assert report.kind("name-resolution") == report.kind("host-connect-dps-endpoint") == "error"
    assert "dps.invalid does not resolve" in report.said("name-resolution")


def test_nobody_listens(device, check):
    with socket.socket() as silent:
        # Bound, so that nobody else gets the port meanwhile.
        silent.bind(("127.0.0.1", 0))
        reconfigured(device, f"https://localhost:{silent.getsockname()[1]}")
        assert "Connection refused" in check(device).said("host-connect-dps-endpoint")


def test_a_peer_that_never_answers_is_not_waited_for(device, check, listener):
    reconfigured(device, f"https://localhost:{listener().port}", top="cloud_timeout_sec = 1")
    began = time.monotonic()
    report = check(device)
    said = report.said("host-connect-dps-endpoint")
    assert "Failed to do TLS Handshake, Connection Attempt Timed out in 1 Seconds" in said
    assert time.monotonic() - began < 30, "one second for all looks together, on a busy machine"


def test_a_peer_that_speaks_no_tls(device, check, listener):
    reconfigured(device, f"https://localhost:{listener(b'HTTP/1.1 400 Bad Request').port}")
    assert "TLS with localhost failed" in check(device).said("host-connect-dps-endpoint")


def test_a_proxy_that_opens_no_tunnel(device, check, listener, monkeypatch):
    proxy = listener(b"HTTP/1.1 403 No\r\n\r\n")
    reconfigured(device, "https://dps.invalid")
    monkeypatch.setenv("HTTPS_PROXY", f"http://ann:pass-word@127.0.0.1:{proxy.port}")
    report = check(device)
    said = report.said("host-connect-dps-endpoint")
    assert "the proxy opened no tunnel; it answered HTTP/1.1 403 No" in said
    assert f"through http://127.0.0.1:{proxy.port}" in said
    assert report.kind("name-resolution") == "warning", "the proxy looks names up"
    assert "pass-word" not in json.dumps(report.json)


def test_a_proxy_that_cannot_be_used(device, check):
    report = check(device, "--proxy-uri", "ftp://somewhere")
    assert report.kind("proxy") == "error"
    assert "HTTPS_PROXY must be" in report.said("proxy")


def test_the_service_may_go_another_way_than_this_command(device, check, monkeypatch):
    device.start(HTTPS_PROXY="http://127.0.0.1:9")
    device.until_provisioned()
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:10")
    report = check(device)
    assert report.kind("proxy") == "warning"
    assert "are not those of the service" in report.said("proxy")


# --- time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift_s", "check_id", "kind", "words"),
    [
        (2 * DAY_S, "issued-certificate-expiry", "error", "expired at"),
        (2 * DAY_S, "renewal-slack", "error", "ended before its renewal succeeded"),
        (3450, "renewal-slack", "error", "less than a tenth"),
        (-2 * DAY_S, "issued-certificate-expiry", "error", "is the clock right?"),
        (-2 * DAY_S, "clock-trusted", "error", "has passed for certain"),
        (-3650 * DAY_S, "clock-trusted", "error", "this release was made on"),
    ],
)
def test_at_another_time(device, check, monkeypatch, shift_s, check_id, kind, words):
    (start,) = (
        record.now_unix_ms
        for record in read(device.journal.read_bytes()).records
        if type(record.event).__name__ == "CredentialCommitted"
    )
    monkeypatch.setattr(subjects.time, "time_ns", lambda: (start + 1000 * shift_s) * 1_000_000)
    report = check(device, leave_out=NETWORK)
    assert report.kind(check_id) == kind, report.said(check_id)
    assert words in report.said(check_id)


def test_a_renewal_that_is_due_while_nothing_runs(device, check, monkeypatch):
    due = renewal_due(Subject(paths_below(str(device.root)), Options(), {}).snapshot)
    monkeypatch.setattr(subjects.time, "time_ns", lambda: (due + 1) * 1_000_000)
    report = check(device, leave_out=NETWORK)
    assert report.kind("renewal-slack") == "warning", report.said("renewal-slack")
    assert "the service does not run" in report.said("renewal-slack")


class TimeServer:
    """Answers as RFC 4330 says, off by so much, or with whatever it is given."""

    def __init__(self, off_s=0.0, answer=None):
        self._off_s, self._answer = off_s, answer
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        try:
            request, peer = self._socket.recvfrom(512)
        except OSError:
            return
        at = time.time() + self._off_s + 2_208_988_800
        stamp = struct.pack("!II", int(at), int((at % 1) * 2**32))
        answer = bytes([0x24, 2]) + bytes(22) + request[40:48] + stamp + stamp
        self._socket.sendto(answer if self._answer is None else self._answer, peer)

    def close(self):
        self._socket.close()


@pytest.mark.parametrize(
    ("server", "kind", "words"),
    [
        ({}, "ok", ""),
        ({"off_s": 100}, "warning", "behind it"),
        ({"off_s": -100}, "warning", "ahead of it"),
        ({"answer": b"short"}, "error", "an answer of 5 bytes"),
        ({"answer": bytes([0x24, 2]) + bytes(46)}, "error", "an answer to another question"),
    ],
)
def test_the_time_of_a_server(device, check, server, kind, words):
    asked = TimeServer(**server)
    try:
        report = check(device, "--ntp-server", asked.name, leave_out="host-connect-dps-endpoint")
    finally:
        asked.close()
    assert report.kind("host-local-time") == kind, report.said("host-local-time")
    assert words in report.said("host-local-time")
    if kind != "error":
        assert abs(report.info("host-local-time")["offset"] - abs(server.get("off_s", 0))) < 5


# --- as typed ----------------------------------------------------------------------------------------


def test_exit_statuses(device, check):
    """Warnings count when somebody says so."""
    device.start()
    device.until_provisioned()
    assert check(device).status == 0
    assert check(device, "--warnings-as-errors").status == 0
    drop_in(device, "keyd", '[[principal]]\nuid = 1\nkeys = ["*"]')
    assert check(device).status == 0
    assert check(device, "--warnings-as-errors").status == 1
    for words in (["check", "--output", "yaml"], ["check", "--no-such-option"]):
        with pytest.raises(SystemExit) as exit_:
            identityd(words)
        assert exit_.value.code == 2


def test_a_file_that_may_not_be_read_ends_it(device, check):
    device.config.chmod(0)
    words = ["check", "--root", str(device.root), "--output", "json"]
    process = Process(*words, peculiar={"obedient": 1})
    assert process.wait() == 1
    report = Report(1, process.log)
    assert report.of_kind("fatal") == {"keyd-config-well-formed"}
    assert set(report.json["checks"]) == {"keyd-config-well-formed"}
    assert "use sudo" in report.said("keyd-config-well-formed")


def test_the_original_s_name_and_its_stream(device, capfd):
    assert aziotctl(["check", "--root", str(device.root), "-o", "json-stream", "--dont-run", NETWORK]) == 1
    out = capfd.readouterr().out
    objects, decoder, at = [], json.JSONDecoder(), 0
    while at < len(out.rstrip()):
        one, at = decoder.raw_decode(out, at)
        objects.append(one)
    assert {one["kind"] for one in objects} == {"section", "check", "additional_info"}
    assert [one["id"] for one in objects if one["kind"] == "check"] == [one.id for one in CHECKS]
    assert objects[-1]["kind"] == "additional_info"
    assert set(objects[-1]) >= {"now", "os", "dmi", "system_info"}
    assert {"id", "arch", "bitness"} <= set(objects[-1]["os"])


def test_text(device, capfd, monkeypatch):
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.delenv("LC_ALL", raising=False)
    device.config.chmod(0o644)
    assert identityd(["check", "--root", str(device.root), "--dont-run", f"{NETWORK} no-such-check"]) == 1
    said = capfd.readouterr().out
    lines = said.splitlines()
    assert lines[:2] == ["Configuration checks", "--------------------"]
    assert "√ keyd configuration is well-formed - OK" in lines
    at = lines.index("\N{MULTIPLICATION SIGN} onboarding credential is nobody else's to read - Error")
    assert lines[at + 1].startswith("    symmetric key: ")
    assert lines[at + 2].startswith("    fix: sudo chmod 0600 ")
    assert "tpmd" not in said
    assert "check(s) succeeded." in said
    assert "4 check(s) raised errors. Re-run with --verbose for more details." in lines
    assert identityd(["check", "--root", str(device.root), "--verbose", "--dont-run", NETWORK]) == 1
    verbose = capfd.readouterr().out
    assert "tpmd configuration is well-formed - Ignored" in verbose
    assert "        caused by: No such file or directory" in verbose
    assert "Re-run" not in verbose


def test_an_output_without_such_signs(device):
    status, said = device.run("check", "--dont-run", NETWORK)
    assert status == 1
    assert said.isascii() or "√" in said


def test_the_list(capsys):
    assert identityd(["check-list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["CATEGORY", "ID", "DESCRIPTION"]
    assert lines[1] == ""
    listed = [line for line in lines[2:] if line]
    assert [line.split("  ")[0].rpartition(" ")[0] for line in listed[:1]]
    assert len(listed) == len(CHECKS)
    assert aziotctl(["check-list", "--output", "json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert [one["id"] for rows in as_json.values() for one in rows] == [one.id for one in CHECKS]


def test_every_check_of_the_list_is_there():
    assert list(RUNS) == [one.id for one in CHECKS]
    assert len({one.id for one in CHECKS}) == len(CHECKS)


def test_nothing_is_changed(device, check):
    """A check that repairs would hide what it is to show."""

    def fingerprint():
        return {
            str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, _content(path))
            for path in sorted(device.root.rglob("*"))
        }

    set_aside(device)
    flip(device.journal)
    before = fingerprint()
    check(device)
    assert fingerprint() == before


def _content(path):
    if path.is_symlink():
        return os.readlink(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def test_the_page_about_it_is_true(device, tmp_path, capfd):
    """Every command of the how-to, on a device that runs."""
    device.start()
    device.until_provisioned()
    page = (REPOSITORY / "docs/how-to/check.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()]
    assert len(lines) == 8
    for line in lines:
        words = shlex.split(line.removeprefix("sudo ").replace("/tmp/", f"{tmp_path}/"))
        assert words.pop(0) == "identityd"
        if words[0] == "check":
            words += ["--ntp-server", "127.0.0.1:9"]
        expected = 1 if "--warnings-as-errors" in words else 0  # nobody is at that NTP server
        assert identityd([*words, "--root", str(device.root)]) == expected, line
    said = capfd.readouterr().out
    assert "replay to the same effects and positions" in said


def test_the_harness_breaks_what_it_means_to(device):
    """The journal that decides otherwise is whole: only the replay can tell."""
    other_decision(device)
    assert read(device.journal.read_bytes()).problem is None
    assert not replay_files([("journal", device.journal.read_bytes())]).equal
    assert isinstance(device, Device)
