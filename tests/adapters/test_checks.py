"""Parts of `identityd check` that no device is needed for: mounts, space, chains, what may be shown."""

import os
import threading
from pathlib import Path

import pytest
import tomli
import trustme

from adapters.checks import disk, network, onboarding
from adapters.checks.background import Background
from adapters.checks.catalogue import CHECKS
from adapters.checks.configuration import is_rfc1035
from adapters.checks.facts import binary_units, facts
from adapters.checks.outcome import MAX_FINDINGS, Finding, judged
from adapters.checks.subject import Options, Subject, split_host
from adapters.config_files import DropIn, Sources
from adapters.config_redacted import SECRET, UNKNOWN, redacted_files
from adapters.paths import paths_below
from adapters.wire.described import chain_lines, describe
from adapters.wire.http_client import TlsOptions
from adapters.wire.pem import certificate_blocks
from adapters.wire.tls_probe import probe

ORIGINAL = [
    "keyd-config-well-formed",
    "certd-config-well-formed",
    "tpmd-config-well-formed",
    "identityd-config-well-formed",
    "configs-up-to-date",
    "hostname",
    "aziot-version",
    "host-local-time",
    "identity-certificate-expiry",
    "est-identity-and-bootstrap-certificate-expiry",
    "local-ca-certificate-expiry",
    "certs-preloaded",
    "keyd-running",
    "certd-running",
    "tpmd-running",
    "identityd-running",
    "certs-read",
    "key-pairs-read",
    "est-server-https",
    "certs-match-private-keys",
    "host-connect-iothub-amqp",
    "host-connect-iothub-https",
    "host-connect-iothub-mqtt",
    "host-connect-dps-endpoint",
]


def test_the_original_s_ids_are_kept_in_their_order():
    assert [one.id for one in CHECKS if one.original] == ORIGINAL


@pytest.fixture
def subject(tmp_path):
    (tmp_path / "var/lib/aziot/identityd").mkdir(parents=True)
    (tmp_path / "etc/aziot").mkdir(parents=True)
    (tmp_path / "etc/aziot/config.toml").write_text('[provisioning]\nsource = "none"\n')
    return Subject(paths_below(str(tmp_path)), Options(), {})


# --- disk --------------------------------------------------------------------------------------------

MOUNTS = r"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /var rw,relatime shared:2 - {kind} none {options}
23 22 0:21 / /var/lib\040two rw - ext4 /dev/sdb1 rw
24 21 0:22 / /variant rw - tmpfs tmpfs rw
garbage
25 21 0:23 / /run
"""


@pytest.mark.parametrize(
    ("path", "point"),
    [("/var/lib/aziot", "/var"), ("/variant", "/variant"), ("/var/lib two/x", "/var/lib two"), ("/opt", "/")],
)
def test_the_mount_of_a_path(path, point):
    found = disk.mount_of(path, MOUNTS.format(kind="xfs", options="rw"))
    assert found is not None
    assert found.point == point


@pytest.mark.parametrize(
    ("kind", "options", "comes_to", "words"),
    [
        ("ext4", "rw", "ok", "ext4"),
        ("tmpfs", "rw", "warning", "every restart of the machine registers the device anew"),
        ("overlay", "rw", "warning", "mount a volume"),
        ("ext4", "ro", "error", "is mounted read-only"),
        ("vfat", "rw", "error", "keeps neither owners nor links"),
        ("nfs4", "rw", "warning", "on another machine"),
    ],
)
def test_what_the_state_is_on(subject, monkeypatch, kind, options, comes_to, words):
    root = str(Path(subject.paths.root).resolve())
    mounts = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / {root} rw - {kind} none {options}\n"
    monkeypatch.setattr(disk, "_mountinfo", lambda: mounts)
    found = disk.durable(subject)
    assert found.kind == comes_to
    assert words in f"{found.seen} {found.message}"


def test_where_nothing_tells_of_mounts(subject, monkeypatch):
    monkeypatch.setattr(disk, "_mountinfo", lambda: "")
    assert disk.durable(subject).kind == "ignored"


@pytest.mark.parametrize(
    ("free_kib", "free_files", "comes_to", "words"),
    [
        (64 * 1024, 1000, "ok", "64 MiB are free"),
        (10 * 1024, 1000, "warning", "with the journal's growth"),
        (1024, 1000, "error", "a renewal hardly fits"),
        (64 * 1024, 3, "error", "3 more files"),
    ],
)
def test_room_for_a_renewal(subject, monkeypatch, free_kib, free_files, comes_to, words):
    real = os.statvfs(subject.paths.state_dir)
    fields = list(real)
    fields[0:8] = [1024, 1024, 10**6, free_kib, free_kib, 10**6, free_files, free_files]
    monkeypatch.setattr(disk.os, "statvfs", lambda path: os.statvfs_result(fields))
    found = disk.space(subject)
    assert found.kind == comes_to
    assert words in f"{found.seen} {found.message}"


# --- what the service manager hands over -------------------------------------------------------------


@pytest.mark.parametrize(
    "attestation",
    [
        'method = "symmetric_key"\nsymmetric_key = { uri = "credential:key" }',
        'method = "x509"\nidentity_cert = "credential:device.pem"\nidentity_pk = "credential:device.key"',
    ],
)
def test_a_credential_of_a_service_that_does_not_run_is_not_called_missing(subject, monkeypatch, attestation):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    Path(subject.paths.config).write_text(
        '[provisioning]\nsource = "dps"\nglobal_endpoint = "https://dps.example"\nid_scope = "0ne0"\n'
        f'[provisioning.attestation]\nregistration_id = "d"\n{attestation}\n'
    )
    assert onboarding.usable(subject).kind == "skipped"
    assert onboarding.private(subject).kind == "ignored"
    assert onboarding.within_dates(subject).kind in ("skipped", "ignored")


# --- names and words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("gateway", True),
        ("gateway-7.plant.example", True),
        ("7gateway", False),
        ("gateway-", False),
        ("gate_way", False),
        ("", False),
        ("a..b", False),
        ("a" * 64, False),
        (".".join(["abc"] * 64), True),
        (".".join(["abc"] * 65), False),
        ("größe", False),
    ],
)
def test_names_by_rfc_1035(name, valid):
    assert is_rfc1035(name) == valid


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("hub.example", ("hub.example", 443)),
        ("hub.example:8443", ("hub.example", 8443)),
        ("[::1]:123", ("::1", 123)),
        ("hub.example:port", ("hub.example:port", 443)),
    ],
)
def test_host_and_port(text, split):
    assert split_host(text, 443) == split


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (5 * 2**30, "5.00 GiB"), (-1, "0 B")]
)
def test_sizes(size, text):
    assert binary_units(size) == text


def test_findings_are_bounded_and_the_severe_ones_come_first():
    mild = [Finding(seen=f"mild {number}\x1b[2J", fix="f", severe=False) for number in range(50)]
    found = judged("t", [*mild, Finding(seen="severe", fix="f")], seen="")
    assert found.kind == "error"
    lines = found.message.splitlines()
    assert lines[0] == "severe"
    assert lines[-2] == f"and {51 - MAX_FINDINGS} more like these"
    assert "\x1b" not in found.message


def test_facts_of_the_machine(subject):
    told = facts(subject)
    assert set(told) == {"now", "os", "dmi", "system_info"}
    assert told["os"]["bitness"] in (32, 64)
    assert told["system_info"]["total_ram"].endswith("iB")
    for one in told["system_info"]["disks"]:
        assert set(one) == {
            "name",
            "percent_free",
            "available_space",
            "total_space",
            "file_system",
            "file_type",
        }


# --- work that hangs ---------------------------------------------------------------------------------


def test_what_hangs_is_not_waited_for():
    background, never = Background(), threading.Event()
    try:
        background.begin("hangs", never.wait)
        assert background.result("hangs", 0.01, "not yet") == "not yet"
        assert background.result("unknown", 0.01, "none") == "none"
    finally:
        never.set()


def test_what_fails_fails_where_it_is_asked_for():
    background = Background()
    background.begin("fails", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        background.result("fails", 10, None)


# --- TLS ---------------------------------------------------------------------------------------------


class TlsServer:
    """Handshakes on loopback until it is closed."""

    def __init__(self, leaf):
        import socket
        import ssl

        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(self._context)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                taken, _ = self._socket.accept()
            except OSError:
                return
            try:
                self._context.wrap_socket(taken, server_side=True).close()
            except OSError:
                taken.close()

    def close(self):
        self._socket.close()


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def serve():
    made = []

    def serve(leaf):
        made.append(TlsServer(leaf))
        return made[-1].port

    yield serve
    for one in made:
        one.close()


@pytest.fixture
def trusting(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return TlsOptions(ca_file=str(path))


def look(port, options, host="localhost"):
    return probe(host, port, options, environ={}, within_s=20)


def explained(subject, found):
    finding = network.explained(subject, found, "localhost", 443)
    return finding.seen, finding.fix, finding.evidence


def test_a_chain_that_is_believed(authority, serve, trusting):
    found = look(serve(authority.issue_cert("localhost")), trusting)
    assert (found.stage, found.verify_code, found.presented) == ("done", 0, ())
    assert found.protocol.startswith("TLSv1.")
    assert found.addresses


def test_a_certificate_for_another_name(authority, serve, trusting, subject):
    found = look(serve(authority.issue_cert("elsewhere.example")), trusting)
    seen, fix, (chain, *_) = explained(subject, found)
    assert "is for elsewhere.example" in seen
    assert "correct the name" in fix
    assert chain.startswith("presented 1: ")
    assert " for elsewhere.example, issued by " in chain


def test_a_root_that_is_not_known(authority, serve, subject):
    leaf = authority.create_child_ca().issue_cert("localhost")
    found = look(serve(leaf), TlsOptions())
    seen, fix, chain = explained(subject, found)
    assert "which is not in the system's roots" in seen
    assert "ca_file" in fix
    assert [line[:12] for line in chain] == ["presented 1:", "presented 2:"], "the leaf, and its issuer"


def test_dates_that_are_over(authority, serve, trusting, subject):
    import datetime

    expired = authority.issue_cert("localhost", not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    found = look(serve(expired), trusting)
    seen, fix, (chain, *_) = explained(subject, found)
    assert "is expired" in seen
    assert "the clock of this device is wrong" in fix
    assert "2020-01-01" in chain


def test_a_ca_file_that_cannot_be_used(serve, authority, tmp_path):
    options = TlsOptions(ca_file=str(tmp_path / "none.pem"))
    found = look(serve(authority.issue_cert("localhost")), options)
    assert found.stage == "configuration"
    assert "none.pem cannot be used" in found.problem


def test_a_chain_that_is_broken_is_told():
    first, second = trustme.CA(organization_name="one"), trustme.CA(organization_name="two")
    pems = first.issue_cert("device.example").cert_chain_pems[0].bytes() + second.cert_pem.bytes()
    chain = describe([der for der in certificate_blocks(pems) if der])
    assert [one.issued_by_next for one in chain] == [False, None]
    assert "the next one did not sign it" in chain_lines(chain)[0]
    assert describe([b"nonsense"]) == ()


# --- what may be shown -------------------------------------------------------------------------------

KEY = "c2VjcmV0LXN5bW1ldHJpYy1rZXktb2YtYS1kZXZpY2U="


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('hostname = "plant" # the key is ' + KEY, 'hostname = "plant"'),
        (
            f'[provisioning.attestation]\nsymmetric_key = {{ value = "{KEY}" }}',
            f'provisioning.attestation.symmetric_key.value = "{SECRET}"',
        ),
        (
            f'[provisioning.attestation]\nsymmetric_key = "{KEY}"',
            f'provisioning.attestation.symmetric_key = "{SECRET}"',
        ),
        (
            f'[provisioning]\nconnection_string = "HostName=h;DeviceId=d;SharedAccessKey={KEY}"',
            f'provisioning.connection_string = "{SECRET}"',
        ),
        (f'hostname = "{KEY}"', f'hostname = "{SECRET}"'),
        ('[provisioning]\nglobal_endpoint = "https://a:b@c"', f'provisioning.global_endpoint = "{SECRET}"'),
        ('[aziot_keys]\npkcs11_base_slot = "pkcs11:pin-value=1234"', f'aziot_keys = "{UNKNOWN}"'),
        ('pasword = "1234"', f'pasword = "{UNKNOWN}"'),
        (f'"{KEY}" = 1', f'"<hidden>" = "{UNKNOWN}"'),
        ('[preloaded_certs]\n"a b" = ["c"]', 'preloaded_certs."a b" = ["c"]'),
        ("cloud_retries = 3", "cloud_retries = 3"),
        ("= nonsense", "# not valid TOML, so nothing of it is shown"),
    ],
)
def test_a_configuration_as_it_may_be_shown(text, line):
    ((_, shown),) = redacted_files(Sources(path="/c", text=text))
    assert line in shown.splitlines()
    assert KEY not in shown
    assert "1234" not in shown
    tomli.loads(shown)


def test_a_drop_in_as_it_may_be_shown():
    text = '[[principal]]\nuid = 1000\nname = "m"\nlocalid = { type = "x509" }\n[[principal]]\nuid = "ann"\n'
    sources = Sources(path="/c", text="", drop_ins=(DropIn(service="identityd", path="/d", text=text),))
    _, (path, shown) = redacted_files(sources, lambda word: word.upper())
    assert path == "/d"
    assert tomli.loads(shown) == {
        "principal": [{"uid": 1000, "name": "M", "localid": {"type": "X509"}}, {"uid": "ANN"}]
    }


def test_a_huge_configuration_is_cut():
    text = "\n".join(f"unknown-{number} = 1" for number in range(20_000))
    ((_, shown),) = redacted_files(Sources(path="/c", text=text))
    assert shown.splitlines()[-1] == "# and more"
    assert len(shown.splitlines()) == 10_001
