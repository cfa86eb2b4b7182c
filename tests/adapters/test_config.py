"""config.toml: what is accepted, how every mistake reads, and what stands in when the file is broken."""

import base64
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adapters.durable
from adapters import config
from adapters.config import Loaded, fingerprint, load, load_with_fallback, parse, policy, save_last_good
from adapters.config_files import SEAL, parsed
from adapters.config_findings import MAX_PROBLEMS, Findings
from adapters.config_rules import interpret
from adapters.config_setting import ANY_ID, DEFAULTS, Setting
from adapters.config_settings import BY_PATH, NOT_READ_YET, SETTINGS
from adapters.errors import ConfigurationInvalid, StoreUnavailable
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    MaintenanceWindow,
    ManualProvisioning,
    NoProvisioning,
    PolicySettings,
    SymmetricKeySource,
    X509Source,
    credential_of,
)

REPOSITORY = Path(__file__).resolve().parents[2]
CONFORMANCE = REPOSITORY.parent / "shared" / "conformance"

KEY = bytes(range(200, 232))
KEY_TEXT = base64.b64encode(KEY).decode()

NONE = '[provisioning]\nsource = "none"\n'

DPS = """
[provisioning]
source = "dps"
global_endpoint = "https://global.azure-devices-provisioning.net/"
id_scope = "0ne00ABC"
"""

BY_KEY = f"""
[provisioning.attestation]
method = "symmetric_key"
registration_id = "my-device"
symmetric_key = {{ value = "{KEY_TEXT}" }}
"""

SYMMETRIC = DPS + BY_KEY

X509 = f"""{DPS}
[provisioning.attestation]
method = "x509"
identity_cert = "file:///var/secrets/device%20id.pem"
identity_pk = "/var/secrets/device-id.key.pem"
"""

TWO_WAYS = 'a table with one of value and uri: symmetric_key = { value = "BASE64" }'
NO_TPM = 'in this release "symmetric_key" or "x509"; the way by TPM comes later'
NO_EST = 'in this release "self_signed" or "local_ca"; the way by EST comes later'
SOURCES = '"manual", "dps" or "none"'
TOP_LEVEL = (
    "aziot_max_requests, cert_issuance, cloud_retries, cloud_timeout_sec, dps_trust_bundle, hostname, "
    "identityd, local_gateway_hostname, localid, manifest_trust_bundle_cert, parent_hostname, "
    "prefer_module_identity_cache, preloaded_certs, preloaded_keys, provisioning, trust_bundle_cert"
)
IN_PROVISIONING = (
    "attestation, authentication, connection_string, device_id, global_endpoint, id_scope, iothub_hostname, "
    "payload, source"
)
FILE_URI = "a file URI with an absolute path: file:///path"
FILE = "a file URI or an absolute path: file:///path or /path"
ATTESTATION = "provisioning.attestation"
AUTHENTICATION = "provisioning.authentication"
CONNECTION = "provisioning.connection_string"


def unnumbered(line: str) -> str:
    """Without file and line; which line a key stands in has tests of its own."""
    return re.sub(r"^line \d+: ", "", line.removeprefix("c.toml: "))


def problems(text: str) -> list[str]:
    """The mistakes in ``text``, without the file name each begins with."""
    with pytest.raises(ConfigurationInvalid) as caught:
        parse("c.toml", text)
    assert all(line.startswith("c.toml: ") for line in caught.value.problems)
    return [unnumbered(line) for line in caught.value.problems]


def notes(text: str) -> list[str]:
    """The remarks on ``text``, which is good."""
    findings = Findings("c.toml")
    tree = parsed(text, findings)
    assert tree is not None
    interpret(tree, findings)
    assert findings.lines == ()
    return [unnumbered(line) for line in findings.notes]


def outcome_lines(text: str) -> list[str]:
    """As ``problems``; empty when there are none."""
    try:
        parse("c.toml", text)
    except ConfigurationInvalid as invalid:
        return [unnumbered(line) for line in invalid.problems]
    return []


# What is accepted.


def test_symmetric_key_inline() -> None:
    assert parse("c.toml", SYMMETRIC) == Configuration(
        provisioning=DpsProvisioning(
            global_endpoint="https://global.azure-devices-provisioning.net",
            scope_id="0ne00ABC",
            registration_id="my-device",
            attestation=SymmetricKeySource(value=KEY),
        )
    )


def test_symmetric_key_without_padding_is_the_same_key() -> None:
    assert parse("c.toml", SYMMETRIC.replace(KEY_TEXT, KEY_TEXT.rstrip("="))) == parse("c.toml", SYMMETRIC)


def test_symmetric_key_in_a_file() -> None:
    text = SYMMETRIC.replace(f'value = "{KEY_TEXT}"', 'uri = "file:///var/secrets/key"')
    provisioning = parse("c.toml", text).provisioning
    assert isinstance(provisioning, DpsProvisioning)
    assert provisioning.attestation == SymmetricKeySource(path="/var/secrets/key")


def test_x509_takes_file_uris_and_paths_and_no_registration_id() -> None:
    provisioning = parse("c.toml", X509).provisioning
    assert isinstance(provisioning, DpsProvisioning)
    assert provisioning.registration_id is None
    assert provisioning.attestation == X509Source(
        certificate_path="/var/secrets/device id.pem", key_path="/var/secrets/device-id.key.pem"
    )


def test_everything_at_once() -> None:
    text = f"""
hostname = "gateway-7"
dps_trust_bundle = "our-bundle"
cloud_timeout_sec = 20
cloud_retries = 3
prefer_module_identity_cache = true
aziot_max_requests = {{ keyd = 0, certd = 1, identityd = 1000, tpmd = 2 }}
localid.domain = "example.com"
{DPS}
payload = {{ uri = "file:///p.json" }}
{BY_KEY}
[identityd]
api_version = "2026-11-01"
when_config_is_broken = "refuse"
keys.algorithm = "rsa-3072"
tls.ca_file = "/etc/aziot/roots.pem"
[identityd.renewal]
earliest_percent = 10
latest_percent = 11
rotate_key = false
maintenance_windows = ["22:30-01:00", "00:00-24:00", "05:00-24:00"]
[identityd.attempts]
timeout_sec = 1
backoff_base_sec = 1
backoff_cap_sec = 1
budget_registrations = 10
budget_days = 2
reissue_hours = 3
[identityd.journal]
segment_bytes = 65536
keep_bytes = 0
when_damaged = "refuse"
[identityd.limits]
connections = 1
body_bytes = 1024
idle_sec = 2
head_sec = 3
body_sec = 4
workload_requests = 5
when_busy = "503"
[identityd.hooks]
renewal = "/usr/local/lib/renewed"
reprovision = "/usr/local/lib/reprovisioned"
moved = "/usr/local/lib/moved"
timeout_sec = 5
[identityd.log]
format = "json"
level = "debug"

[identityd.trust_store]
allow = ["{":".join(["AB"] * 32)}"]
"""
    given_all = parse("c.toml", text)
    assert isinstance(given_all.provisioning, DpsProvisioning)
    assert given_all.provisioning.payload_path == "/p.json"
    assert given_all.maintenance_windows == (
        MaintenanceWindow(start_minute=22 * 60 + 30, duration_minutes=150),
        MaintenanceWindow(start_minute=0, duration_minutes=1440),
        MaintenanceWindow(start_minute=300, duration_minutes=1140),
    )
    for setting in SETTINGS:
        if setting.target:
            value: Any = given_all
            for name in setting.target.split("."):
                value = getattr(value, name)
            assert value != setting.default, f"{setting.path} was not taken"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://localhost:8443", "https://localhost:8443"),
        ("https://LOCALHOST/path?query", "https://localhost"),
        ("https://[::1]:8443/", "https://[::1]:8443"),
        ("https://10.0.0.1", "https://10.0.0.1"),
    ],
)
def test_endpoints(written, meant) -> None:
    text = SYMMETRIC.replace("https://global.azure-devices-provisioning.net/", written)
    provisioning = parse("c.toml", text).provisioning
    assert isinstance(provisioning, DpsProvisioning)
    assert provisioning.global_endpoint == meant


@pytest.mark.parametrize("registration_id", ["a", "A" * 64, "a:b.c_d-e", "ends-with-", "_begins"])
def test_registration_ids(registration_id) -> None:
    provisioning = parse("c.toml", SYMMETRIC.replace("my-device", registration_id)).provisioning
    assert isinstance(provisioning, DpsProvisioning)
    assert provisioning.registration_id == registration_id


@pytest.mark.parametrize("name", sorted(NOT_READ_YET))
@pytest.mark.parametrize("value", ['"text"', "7", "{ anything = [{ below = 1 }] }"])
def test_keys_of_the_original_that_are_not_read(name, value) -> None:
    assert parse("c.toml", f"{name} = {value}\n{SYMMETRIC}") == parse("c.toml", SYMMETRIC)


def test_a_gateway_without_dps() -> None:
    assert parse("c.toml", f'local_gateway_hostname = "up"\n{NONE}') == DEFAULTS


COMPANIONS = {
    "identityd.renewal.earliest_percent": ("identityd.renewal.latest_percent", 95),
    "identityd.renewal.latest_percent": ("identityd.renewal.earliest_percent", 1),
    "identityd.attempts.backoff_base_sec": ("identityd.attempts.backoff_cap_sec", 3600),
    "identityd.attempts.backoff_cap_sec": ("identityd.attempts.backoff_base_sec", 1),
}
"What has to be set along with one key, so that its whole range is free."


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.kind == "integer"], ids=lambda s: s.path)
def test_ranges_hold_at_both_ends(setting) -> None:
    def told(value: object) -> list[str]:
        tree: dict[str, Any] = {}
        put(tree, "provisioning.source", "none")
        put(tree, *COMPANIONS.get(setting.path, ("provisioning.source", "none")))
        put(tree, setting.path, value)
        if setting.path.endswith(".expiry_days"):
            put(tree, f"{setting.path.removesuffix('expiry_days')}method", "self_signed")
        return outcome_lines(document(tree))

    for value in {setting.low, setting.default or setting.low, setting.high}:
        assert told(value) == []
    for value in (setting.low - 1, setting.high + 1):
        assert told(value) == [f"{setting.path}: found {value}; allowed {setting.allowed}"]


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.choices], ids=lambda s: s.path)
def test_choices(setting) -> None:
    for value in (c for c in setting.choices if setting.target):
        parse("c.toml", f'{setting.path} = "{value}"\n{NONE}')
    near = setting.choices[-1][:-1]
    (line,) = (p for p in problems(f'{setting.path} = "{near}"') if p.startswith(setting.path))
    assert line == (
        f'{setting.path}: found "{near}"; allowed {setting.allowed}; did you mean "{setting.choices[-1]}"?'
    )


# Mistakes.

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "nothing at all": ("", ['provisioning.source: found nothing; allowed "manual", "dps" or "none"']),
    "provisioning is not a table": ("provisioning = 7", ["provisioning: found 7; allowed a table"]),
    "identityd is not a table": (
        f'identityd = "yes"\n{NONE}',
        ['identityd: found "yes"; allowed a table'],
    ),
    "source unknown": (
        '[provisioning]\nsource = "dsp"',
        ['provisioning.source: found "dsp"; allowed "manual", "dps" or "none"; did you mean "dps"?'],
    ),
    "source of another type": (
        "[provisioning]\nsource = true",
        ['provisioning.source: found true; allowed "manual", "dps" or "none"'],
    ),
    "tpm": (
        f'{DPS}\n[provisioning.attestation]\nmethod = "tpm"\nregistration_id = "d"',
        [f'{ATTESTATION}.method: found "tpm"; allowed {NO_TPM}'],
    ),
    "a certificate over EST": (
        f'{DPS}\n[provisioning.attestation]\nmethod = "x509"\nregistration_id = "d"\n'
        'identity_cert = { method = "est", username = "u", password = "hunter2" }',
        [f'{ATTESTATION}.identity_cert.method: found "est"; allowed {NO_EST}'],
    ),
    "a key in PKCS#11": (
        X509.replace("/var/secrets/device-id.key.pem", "pkcs11:token=t;object=o?pin-value=1234"),
        [
            f"{ATTESTATION}.identity_pk: found a pkcs11: URI; allowed {FILE_URI}; "
            "PKCS#11 is not supported in this release"
        ],
    ),
    "dps without the rest": (
        '[provisioning]\nsource = "dps"',
        [
            "provisioning.global_endpoint: found nothing; allowed a URL https://HOST or https://HOST:PORT",
            "provisioning.id_scope: found nothing; allowed 1 to 128 letters, digits, '-' and '_'",
            f'{ATTESTATION}.method: found nothing; allowed "symmetric_key" or "x509"',
        ],
    ),
    "symmetric key without the rest": (
        f'{DPS}\n[provisioning.attestation]\nmethod = "symmetric_key"',
        [
            f"{ATTESTATION}.registration_id: found nothing; "
            f"allowed {BY_PATH[f'{ATTESTATION}.registration_id'].form}",
            f"{ATTESTATION}.symmetric_key: found nothing; allowed {TWO_WAYS}",
        ],
    ),
    "x509 without the rest": (
        f'{DPS}\n[provisioning.attestation]\nmethod = "x509"',
        [
            f"{ATTESTATION}.identity_cert: found nothing; allowed {FILE}",
            f"{ATTESTATION}.identity_pk: found nothing; allowed {FILE}",
        ],
    ),
    "keys of the other method": (
        X509 + 'symmetric_key = { uri = "file:///k" }',
        [
            f'{ATTESTATION}.symmetric_key: found a key that method "x509" does not have; '
            "allowed method, registration_id, identity_cert, identity_pk"
        ],
    ),
    "a bare symmetric key": (
        SYMMETRIC.replace(f'{{ value = "{KEY_TEXT}" }}', f'"{KEY_TEXT}"'),
        [f"{ATTESTATION}.symmetric_key: found <secret, 44 characters>; allowed {TWO_WAYS}"],
    ),
    "value and uri": (
        SYMMETRIC.replace("value =", 'uri = "file:///k", value ='),
        [f"{ATTESTATION}.symmetric_key: found both value and uri; allowed one of them"],
    ),
    "an empty symmetric_key": (
        SYMMETRIC.replace(f'value = "{KEY_TEXT}"', ""),
        [f"{ATTESTATION}.symmetric_key: found nothing; allowed {TWO_WAYS}"],
    ),
    "a key in the wrong alphabet": (
        SYMMETRIC.replace(KEY_TEXT, "__-_"),
        [
            f"{ATTESTATION}.symmetric_key.value: found <secret, 4 characters>; "
            "allowed a key in standard base64, padding complete or absent, no spaces"
        ],
    ),
    "stray bits": (
        SYMMETRIC.replace(KEY_TEXT, "AAB="),
        [
            f"{ATTESTATION}.symmetric_key.value: found <secret, 4 characters>; "
            "allowed a key in standard base64, padding complete or absent, no spaces"
        ],
    ),
    "the key where its file should be": (
        SYMMETRIC.replace("value =", "uri ="),
        [f"{ATTESTATION}.symmetric_key.uri: found <secret, 44 characters>; allowed {FILE_URI}"],
    ),
    "the key as a key": (
        SYMMETRIC.replace(f'value = "{KEY_TEXT}"', f'"{KEY_TEXT}" = 1'),
        [f"{ATTESTATION}.symmetric_key: found nothing; allowed {TWO_WAYS}"],
    ),
    "a private key in place": (
        X509.replace("/var/secrets/device-id.key.pem", "-----BEGIN PRIVATE KEY-----\\nMIG"),
        [f"{ATTESTATION}.identity_pk: found <hidden, 31 characters: it may be a secret>; allowed {FILE}"],
    ),
    "relative paths": (
        'identityd.tls.ca_file = "roots.pem"\n' + X509.replace("/var/secrets/device-id.key.pem", "key.pem"),
        [
            'identityd.tls.ca_file: found "roots.pem"; allowed an absolute path',
            f'{ATTESTATION}.identity_pk: found "key.pem"; allowed {FILE}',
        ],
    ),
    "a URI with a host": (
        X509.replace("file:///var", "file://server/var"),
        [f"{ATTESTATION}.identity_cert: found a file URI with a host; allowed {FILE}"],
    ),
    "a URI with a bad escape": (
        X509.replace("%20", "%zz"),
        [f'{ATTESTATION}.identity_cert: found "file:///var/secrets/device%zzid.pem"; allowed {FILE}'],
    ),
    "a URI that is not UTF-8": (
        X509.replace("%20", "%ff"),
        [f'{ATTESTATION}.identity_cert: found "file:///var/secrets/device%ffid.pem"; allowed {FILE}'],
    ),
    "a NUL in a path": (
        X509.replace("%20", "%00"),
        [f'{ATTESTATION}.identity_cert: found "file:///var/secrets/device%00id.pem"; allowed {FILE}'],
    ),
    "payload as a text": (
        f'{DPS}payload = "file:///p"{BY_KEY}',
        ['provisioning.payload: found "file:///p"; allowed a table: payload = { uri = "file:///path" }'],
    ),
    "an endpoint without TLS": (
        SYMMETRIC.replace("https:", "http:"),
        [
            "provisioning.global_endpoint: found a URL without TLS (http); "
            "allowed a URL https://HOST or https://HOST:PORT"
        ],
    ),
    "an endpoint with a password": (
        SYMMETRIC.replace("https://", "https://user:hunter2@"),
        [
            "provisioning.global_endpoint: found a URL with a user name or password; "
            "allowed a URL https://HOST or https://HOST:PORT"
        ],
    ),
    "a host name as endpoint": (
        SYMMETRIC.replace("https://global.azure-devices-provisioning.net/", "dps.example"),
        [
            'provisioning.global_endpoint: found "dps.example"; '
            "allowed a URL https://HOST or https://HOST:PORT"
        ],
    ),
    "a port too high": (
        SYMMETRIC.replace("provisioning.net/", "provisioning.net:65536"),
        [
            'provisioning.global_endpoint: found "https://global.azure-devices-provisioning.net:65536"; '
            "allowed a URL https://HOST or https://HOST:PORT"
        ],
    ),
    "a CN too long": (
        SYMMETRIC.replace("my-device", "a" * 65),
        [
            f"{ATTESTATION}.registration_id: found 65 characters; "
            "allowed at most 64 for an identity certificate, whose CN it becomes"
        ],
    ),
    "a registration id that ends with a dot": (
        SYMMETRIC.replace("my-device", "dev."),
        [
            f'{ATTESTATION}.registration_id: found "dev."; allowed 1 to 64 letters, digits, '
            "':', '.', '_' and '-', the last one a letter, a digit or '-'"
        ],
    ),
    "the bundle under an id of ours": (
        f'dps_trust_bundle = "aziot-dps-identity-cert"\n{NONE}',
        [
            'dps_trust_bundle: found "aziot-dps-identity-cert", an id the service uses itself; '
            f"allowed {BY_PATH['dps_trust_bundle'].form}"
        ],
    ),
    "the bundle under a pattern": (
        f'dps_trust_bundle = "*"\n{NONE}',
        [f'dps_trust_bundle: found "*"; allowed {BY_PATH["dps_trust_bundle"].form}'],
    ),
    "a host name with a space": (
        f'hostname = "my device"\n{NONE}',
        [f'hostname: found "my device"; allowed {BY_PATH["hostname"].form}'],
    ),
    "nested with DPS": (
        f'parent_hostname = "up"\n{SYMMETRIC}',
        ["parent_hostname: DPS provisioning is not supported in nested mode; allowed without DPS only"],
    ),
    "both names of the parent": (
        f'parent_hostname = "up"\nlocal_gateway_hostname = "up"\n{NONE}',
        ["parent_hostname: found beside local_gateway_hostname, which means the same; allowed one of them"],
    ),
    "renewal bounds swapped": (
        f"identityd.renewal = {{ earliest_percent = 90, latest_percent = 70 }}\n{NONE}",
        ["identityd.renewal.latest_percent: found 70; allowed more than earliest_percent (90)"],
    ),
    "renewal bounds equal": (
        f"identityd.renewal.latest_percent = 70\n{NONE}",
        ["identityd.renewal.latest_percent: found 70; allowed more than earliest_percent (70, the default)"],
    ),
    "renewal bound above a default": (
        f"identityd.renewal.earliest_percent = 92\n{NONE}",
        ["identityd.renewal.latest_percent: found 90, the default; allowed more than earliest_percent (92)"],
    ),
    "backoff cap below its base": (
        f"identityd.attempts.backoff_cap_sec = 1\n{NONE}",
        ["identityd.attempts.backoff_cap_sec: found 1; allowed at least backoff_base_sec (2, the default)"],
    ),
    "windows": (
        f'identityd.renewal.maintenance_windows = ["2:00-04:00", "03:00-03:00", "24:00-01:00", 5]\n{NONE}',
        [
            'identityd.renewal.maintenance_windows: found "2:00-04:00", "03:00-03:00", "24:00-01:00", …; '
            f"allowed {BY_PATH['identityd.renewal.maintenance_windows'].form}"
        ],
    ),
    "one window that is not a list": (
        f'identityd.renewal.maintenance_windows = "02:00-04:00"\n{NONE}',
        [
            'identityd.renewal.maintenance_windows: found "02:00-04:00"; '
            f"allowed {BY_PATH['identityd.renewal.maintenance_windows'].form}"
        ],
    ),
    "too many windows": (
        f"identityd.renewal.maintenance_windows = {['02:00-04:00'] * 25}\n{NONE}",
        [
            "identityd.renewal.maintenance_windows: found an array of 25; "
            f"allowed {BY_PATH['identityd.renewal.maintenance_windows'].form}"
        ],
    ),
    "numbers of another type": (
        f"cloud_timeout_sec = 10.0\ncloud_retries = true\n{NONE}",
        [
            "cloud_timeout_sec: found 10.0; allowed a whole number from 1 to 3600 (seconds)",
            "cloud_retries: found true; allowed a whole number from 0 to 10 (extra tries)",
        ],
    ),
    "a boolean as text": (
        f'identityd.renewal.rotate_key = "yes"\n{NONE}',
        ['identityd.renewal.rotate_key: found "yes"; allowed true or false'],
    ),
    "other types": (
        f"hostname = 1979-05-27\ndps_trust_bundle = []\ncloud_retries = 0x{'f' * 90}\n{NONE}",
        [
            f"hostname: found a date or time; allowed {BY_PATH['hostname'].form}",
            f"dps_trust_bundle: found an array of 0; allowed {BY_PATH['dps_trust_bundle'].form}",
            "cloud_retries: found a number; allowed a whole number from 0 to 10 (extra tries)",
        ],
    ),
    "not TOML": (
        "[provisioning]\nsource = none",
        ["line 2, column 10: not valid TOML: Invalid value"],
    ),
    "a NUL": ('hostname = "\0"', ["line 1, column 13: not valid TOML: Illegal character '\\x00'"]),
    "a secret defined twice": (
        f"a = {{ {KEY_TEXT.rstrip('=')} = 1, {KEY_TEXT.rstrip('=')} = 2 }}".replace("/", "").replace("+", ""),
        ["line 1, column 99: not valid TOML: a key is defined twice"],
    ),
    "nested too deeply": (
        f"hostname = {'[' * 100_000}",
        ["not usable TOML: a number is too long, or arrays or tables are nested too deeply"],
    ),
    "a dotted key too deep": (
        f"{'a.' * 50_000}a = 1",
        ["not usable TOML: a number is too long, or arrays or tables are nested too deeply"],
    ),
    "a number too long": (
        f"cloud_retries = {'9' * 100_000}",
        ["not usable TOML: a number is too long, or arrays or tables are nested too deeply"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(text, expected) -> None:
    assert problems(text) == expected


def test_every_mistake_is_reported_at_once() -> None:
    text = (
        "cloud_retries = -1\nhostnam = 1\n[provisioning]\nsource = 'dps'\nid_scope = '!'\n[identityd]\ntls=1"
    )
    assert [line.partition(": ")[0] for line in problems(text)] == [
        "cloud_retries",
        "provisioning.id_scope",
        "identityd.tls",
        "provisioning.global_endpoint",
        f"{ATTESTATION}.method",
    ]


def test_mistakes_are_bounded_in_number_and_length() -> None:
    found = problems("".join(f'preloaded_keys."{i} {"long " * 9}" = 1\n' for i in range(4000)))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == "and 3901 more mistakes like these"
    unknown = notes(NONE + "".join(f'"{i} {"long " * 9}" = 1\n' for i in range(4000)))
    assert len(unknown) == MAX_PROBLEMS + 1
    assert unknown[-1] == "and 3900 more remarks like these"
    long = problems(f'hostname = "{"x y" * 50_000}"\npreloaded_keys."{"y z" * 30_000}" = 1\n{NONE}')
    assert len(long) == 2
    assert max(map(len, long)) < 500


# Unknown keys are told, and change nothing: a release before this one must run with a file of this one.

UNKNOWN: dict[str, tuple[str, list[str]]] = {
    "misspelt": (
        f"cloud_timeout_secs = 5\n{NONE}[identityd.renewel]\n[identityd.limits]\nidle_seconds = 1",
        [
            'cloud_timeout_secs: an unknown key, not used; did you mean "cloud_timeout_sec"?',
            'identityd.renewel: an unknown key, not used; did you mean "renewal"?',
            'identityd.limits.idle_seconds: an unknown key, not used; did you mean "idle_sec"?',
        ],
    ),
    "below the wrong header": (
        f"{NONE}cloud_retries = 2",
        ['provisioning.cloud_retries: an unknown key, not used; did you mean "cloud_retries"?'],
    ),
    "like nothing": (
        f"{NONE}[identityd.journal]\nxyz = 2",
        [
            "identityd.journal.xyz: an unknown key, not used; known here: keep_bytes, segment_bytes, "
            "when_damaged"
        ],
    ),
    "a dotted path in quotes is one name": (
        f'"provisioning.source" = "dps"\n{NONE}',
        ['provisioning.source: an unknown key, not used; did you mean "provisioning"?'],
    ),
    "the key as a key": (
        SYMMETRIC + f'"{KEY_TEXT}" = 1',
        [
            f"{ATTESTATION}.<hidden>: an unknown key, not used; known here: identity_cert, identity_pk, "
            "method, registration_id, symmetric_key"
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_keys(text, expected) -> None:
    assert notes(text) == expected


def test_what_is_missing_may_be_misspelt() -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        parse("c.toml", SYMMETRIC.replace("id_scope", "scope_id"))
    assert str(caught.value).splitlines() == [
        "c.toml: line 2: provisioning.id_scope: found nothing; allowed 1 to 128 letters, digits, '-' and '_'",
        'c.toml: line 5: provisioning.scope_id: an unknown key, not used; did you mean "id_scope"?',
    ]


# Hypothesis: whatever stands there, the answer is a Configuration or a list of mistakes without secrets.


def toml(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{toml(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool() | int() | float():
            return str(value).lower()
        case _:
            return str(value)


def tree_of(text: str) -> dict[str, Any]:
    return tomli.loads(text)


def put(tree: dict[str, Any], path: str, value: object) -> None:
    *tables, name = path.split(".")
    for table in tables:
        below = tree.setdefault(table, {})
        if not isinstance(below, dict):
            return
        tree = below
    tree[name] = value


def document(tree: dict[str, Any]) -> str:
    return "".join(f"{toml(name)} = {toml(value)}\n" for name, value in tree.items())


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
choices = ["", "none", "dps", "manual", "tpm", "x509", "symmetric_key", "refuse", "AAAA", "00:00-24:00"]
places_named = ["file:///a", "file:", "file://h", "pkcs11:a", "/a", "//", "%", "file:///%"]
urls = [
    "https://h:1",
    "https://[::1",
    "https://[v1.a]",
    "https://h:x",
    "https://h\t",
    "https://@h",
    "https://",
]
likely = st.sampled_from([*choices, *places_named, *urls])
scalars = (
    likely
    | words
    | st.integers()
    | st.integers(min_value=1, max_value=100)
    | st.floats()
    | st.booleans()
    | st.dates()
    | st.times()
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=6
)
tables = ["provisioning", "provisioning.payload", ATTESTATION, f"{ATTESTATION}.symmetric_key", "identityd"]
strangers = ["other", "identityd.other", "provisioning.authentication", f"{ATTESTATION}.auto_renew"]
paths = st.sampled_from([*BY_PATH, *sorted(NOT_READ_YET), *tables, *strangers])
fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(text: str) -> Configuration | list[str]:
    try:
        return parse("c.toml", text)
    except ConfigurationInvalid as invalid:
        found = list(invalid.problems)
    assert found
    for line in found:
        assert line.startswith("c.toml: ")
        assert line.isprintable()
        assert len(line) < 1000
    return found


@fuzzed
@given(base=st.sampled_from([NONE, SYMMETRIC, X509]), changes=st.lists(st.tuples(paths, values), max_size=4))
def test_any_value_at_any_key(base, changes) -> None:
    tree = tree_of(base)
    for path, value in changes:
        put(tree, path, value)
    result = outcome(document(tree))
    assert KEY_TEXT not in repr(result)
    assert repr(KEY) not in repr(result)


@fuzzed
@given(text=words | st.lists(st.sampled_from(list('[]{}="\n.,a0#\\')), max_size=30).map("".join))
def test_any_text(text) -> None:
    outcome(text)


@fuzzed
@given(at=st.integers(0, len(SYMMETRIC)), gone=st.integers(0, 12), put_in=words)
def test_any_damage_to_a_good_file(at, gone, put_in) -> None:
    result = outcome(SYMMETRIC[:at] + put_in + SYMMETRIC[at + gone :])
    assert KEY_TEXT not in repr(result)


@fuzzed
@given(
    secret=st.binary(min_size=16, max_size=64).map(lambda raw: base64.b64encode(raw).decode()),
    path=paths,
    wrap=st.sampled_from(["{}", "SharedAccessKey={}", "pkcs11:object=o?pin-value={}", "https://u:{}@h"]),
    as_name=st.booleans(),
)
def test_a_misplaced_secret_is_never_shown(secret, path, wrap, as_name) -> None:
    tree = tree_of(SYMMETRIC)
    put(tree, path, {secret: 1} if as_name else wrap.format(secret))
    put(tree, "identityd.limits.connections", 0)  # so that there always are mistakes to print
    with pytest.raises(ConfigurationInvalid) as caught:
        parse("c.toml", document(tree))
    assert secret[:16] not in str(caught.value)


# Files.


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_load(tmp_path: Path) -> None:
    assert load(write(tmp_path / "c.toml", SYMMETRIC)) == parse("c.toml", SYMMETRIC)
    assert load(write(tmp_path / "bom.toml", b"\xef\xbb\xbf" + NONE.encode())) == DEFAULTS


def test_load_below_a_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    where = write(tmp_path / "etc" / "config.toml", NONE)
    for root in (str(tmp_path), f"{tmp_path}/"):
        assert load("/etc/config.toml", root=root) == DEFAULTS
        assert load(where, root=root) == DEFAULTS
    assert load(where, root="/") == DEFAULTS


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, tuple[str, str]]:
    os.mkfifo(tmp_path / "fifo")
    limit = config.MAX_CONFIG_BYTES
    return {
        "missing": (str(tmp_path / "missing"), "found no such file; create it, config/default.toml"),
        "directory": (str(tmp_path), "found something that is not a regular file"),
        "fifo": (str(tmp_path / "fifo"), "found something that is not a regular file"),
        "device": ("/dev/zero", "found something that is not a regular file"),
        "loop": (str(tmp_path / "loop"), "cannot be read: Too many levels of symbolic links"),
        "huge": (write(tmp_path / "huge", b"#" * (limit + 1)), f"found more than {limit} bytes"),
        "latin-1": (
            write(tmp_path / "latin", f'{SYMMETRIC}hostname = "'.encode() + b'\xe9"'),
            "line 11: found bytes that are not UTF-8; allowed UTF-8 text",
        ),
        "nul in the path": ("/etc/\0", "is not a usable path"),
        "long name": ("/" + "x" * 5000, "cannot be read: File name too long"),
    }


@pytest.mark.parametrize(
    "name",
    ["missing", "directory", "fifo", "device", "loop", "huge", "latin-1", "nul in the path", "long name"],
)
def test_files_that_are_no_configuration(hostile, tmp_path, name) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path, expected = hostile[name]
    handles = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigurationInvalid) as caught:
        load(path)
    assert len(os.listdir("/proc/self/fd")) == handles
    (line,) = caught.value.problems
    assert expected in line
    assert len(line) < 700
    assert KEY_TEXT not in line


def test_the_largest_file_allowed(tmp_path: Path) -> None:
    text = NONE + "#" * (config.MAX_CONFIG_BYTES - len(NONE))
    assert load(write(tmp_path / "c.toml", text)) == DEFAULTS


# The last good one.


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "config.toml", tmp_path / "last-good.toml"


def test_a_good_file_is_used(places) -> None:
    path, last_good = places
    save_last_good(str(last_good), SYMMETRIC)
    loaded = load_with_fallback(write(path, NONE), str(last_good))
    assert loaded == Loaded(configuration=DEFAULTS, source="file", text=f'{SEAL}{{"drop_ins":[]}}\n{NONE}')


@pytest.mark.parametrize("broken", [None, "", "source = ", b"\xff", "cloud_retries = -1\n" + SYMMETRIC])
def test_the_last_good_one_stands_in(places, broken) -> None:
    path, last_good = places
    if broken is not None:
        write(path, broken)
    save_last_good(str(last_good), SYMMETRIC)
    loaded = load_with_fallback(str(path), str(last_good))
    assert loaded.source == "last-good"
    assert loaded.configuration == parse("c.toml", SYMMETRIC)
    assert loaded.text == SYMMETRIC
    assert loaded.problems
    assert all(line.startswith(f"{path}: ") for line in loaded.problems)
    assert KEY_TEXT not in repr(loaded)


@pytest.mark.parametrize(
    "last", [None, "also broken", f'{NONE}[identityd]\nwhen_config_is_broken = "refuse"']
)
def test_no_last_good_one_to_stand_in(places, last) -> None:
    path, last_good = places
    if last is not None:
        write(last_good, last)
    with pytest.raises(ConfigurationInvalid) as caught:
        load_with_fallback(write(path, "broken"), str(last_good))
    assert caught.value.path == str(path)


def test_fallback_below_a_root(tmp_path: Path) -> None:
    save_last_good(f"{tmp_path}/var/last-good.toml", NONE)
    loaded = load_with_fallback("/etc/config.toml", "/var/last-good.toml", str(tmp_path))
    assert loaded.source == "last-good"
    assert f"{tmp_path}/etc/config.toml: found no such file" in loaded.problems[0]


def test_saved_privately_and_only_when_changed(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identityd" / "last-good.toml"
    previous = os.umask(0)
    try:
        save_last_good(str(path), SYMMETRIC)
    finally:
        os.umask(previous)
    assert path.read_text() == SYMMETRIC
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    first = path.stat().st_ino
    save_last_good(str(path), SYMMETRIC)
    assert path.stat().st_ino == first, "an idle device writes nothing"
    path.chmod(0o644)
    save_last_good(str(path), SYMMETRIC)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    save_last_good(str(path), NONE)
    assert path.read_text() == NONE
    assert [p.name for p in path.parent.iterdir()] == ["last-good.toml"]


class PowerCut(BaseException):
    """Nothing after it runs, as far as the file is concerned."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PowerCut()], ids=["full", "cut"])
@pytest.mark.parametrize("call", ["open", "fchmod", "fsync", "rename"])
def test_a_save_that_fails_leaves_the_old_one(tmp_path, monkeypatch, call, error) -> None:
    path = tmp_path / "last-good.toml"
    save_last_good(str(path), SYMMETRIC)

    def fails(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises((StoreUnavailable, PowerCut)) as caught:
            save_last_good(str(path), NONE)
    if isinstance(caught.value, StoreUnavailable):
        assert caught.value.code == "last-good-not-saved"
        assert caught.value.message == (
            f"cannot save the last good configuration as {path}: No space left on device"
        )
    assert path.read_text() == SYMMETRIC
    save_last_good(str(path), NONE)
    assert [p.name for p in tmp_path.iterdir()] == ["last-good.toml"]
    assert path.read_text() == NONE


def test_a_cut_after_the_rename_left_the_new_one_whole(tmp_path, monkeypatch) -> None:
    path = tmp_path / "last-good.toml"
    save_last_good(str(path), SYMMETRIC)

    def cut(directory: str) -> None:
        raise PowerCut

    monkeypatch.setattr(adapters.durable, "sync_directory", cut)
    with pytest.raises(PowerCut):
        save_last_good(str(path), NONE)
    assert path.read_text() == NONE


def test_a_directory_in_its_place_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        save_last_good(str(tmp_path), NONE)


# What is derived.


def test_policy_defaults_are_those_of_the_core() -> None:
    assert policy(DEFAULTS, "") == PolicySettings(dps=False)


def test_policy_for_dps() -> None:
    derived = policy(parse("c.toml", f"identityd.attempts.timeout_sec = 7\n{X509}"), "from-the-cn")
    assert derived == PolicySettings(
        registration_id="from-the-cn",
        endpoint="https://global.azure-devices-provisioning.net",
        scope_id="0ne00ABC",
        attestation="x509",
        attempt_timeout_ms=7000,
    )
    symmetric = policy(parse("c.toml", SYMMETRIC), "my-device")
    assert symmetric.attestation == "symmetric_key"
    assert KEY_TEXT.encode() not in msgspec.json.encode(symmetric)


def test_fingerprint_is_who_we_are_to_dps() -> None:
    base = parse("c.toml", SYMMETRIC)
    same = [
        fingerprint(base, "my-device", ""),
        fingerprint(base, "My-Device", ""),
        fingerprint(parse("c.toml", f"cloud_retries = 9\n{SYMMETRIC}"), "my-device", ""),
        fingerprint(parse("c.toml", SYMMETRIC.replace(KEY_TEXT, "AAAA")), "my-device", ""),
    ]
    assert len(set(same)) == 1
    x509 = parse("c.toml", X509)
    others = [
        fingerprint(base, "other", ""),
        fingerprint(x509, "my-device", ""),
        fingerprint(x509, "my-device", "aa"),
        fingerprint(parse("c.toml", SYMMETRIC.replace("0ne00ABC", "0ne00ABD")), "my-device", ""),
        fingerprint(parse("c.toml", SYMMETRIC.replace("global.", "eu.")), "my-device", ""),
        fingerprint(parse("c.toml", f'identityd.api_version = "2026-11-01"\n{SYMMETRIC}'), "my-device", ""),
        fingerprint(DEFAULTS, "", ""),
    ]
    assert len({*same, *others}) == 1 + len(others)
    assert fingerprint(x509, "d", "AB") == fingerprint(x509, "d", "ab")


# config/default.toml, config/demo.toml.


class KeyLine(msgspec.Struct, kw_only=True):
    path: str
    active: bool
    value: object
    comment: str
    "What stands above it, as one line."


def documented(text: str) -> list[KeyLine]:
    table, comment, found = "", "", []
    for line in text.splitlines():
        code = line.removeprefix("#")
        if not line or line == "#":
            comment = ""
        elif line.startswith("# "):
            comment = f"{comment} {line[2:]}".strip()
        elif code.startswith("["):
            table, comment = code.strip("[]"), ""
        else:
            ((path, value),) = flat(tomli.loads(code), table)
            found.append(KeyLine(path=path, active=code == line, value=value, comment=comment))
            comment = ""
    return found


def flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        path = f"{prefix}.{name}" if prefix else name
        if f"{prefix}.{ANY_ID}" in BY_PATH:
            yield f"{prefix}.{ANY_ID}", value
        elif isinstance(value, dict) and path not in BY_PATH:
            yield from flat(value, path)
        else:
            yield path, value


DEFAULT_TOML = (REPOSITORY / "config" / "default.toml").read_text()


def test_default_toml_is_the_default_configuration() -> None:
    assert parse("default.toml", DEFAULT_TOML) == DEFAULTS
    assert Configuration(provisioning=NoProvisioning()) == DEFAULTS
    assert parse("c.toml", NONE) == DEFAULTS


def test_default_toml_has_every_key_once() -> None:
    assert [key.path for key in documented(DEFAULT_TOML)] == [setting.path for setting in SETTINGS]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.path)
def test_default_toml_says_of_a_key_what_its_row_says(setting: Setting) -> None:
    (key,) = (key for key in documented(DEFAULT_TOML) if key.path == setting.path)
    assert setting.meaning in key.comment
    allowed = setting.allowed.removesuffix(f" ({setting.unit})")
    assert f"Allowed: {allowed}. " in key.comment
    assert (f"Unit: {setting.unit}. " in key.comment) == bool(setting.unit)
    if setting.default is None:
        assert key.comment.endswith("No default.")
        assert key.active == (setting.path == "provisioning.source")
    else:
        assert key.active
        expected = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        assert key.value == expected
        assert key.comment.endswith(f"Default: {toml(expected)}.")


def test_every_setting_has_a_unit_or_needs_none_and_a_bound() -> None:
    for setting in SETTINGS:
        if setting.kind == "integer":
            assert setting.unit, setting.path
            assert setting.low is not None, setting.path
            assert setting.high is not None, setting.path
        assert setting.allowed, setting.path


def test_every_field_of_the_configuration_has_a_row() -> None:
    def fields(struct: Any, prefix: str = "") -> Iterator[str]:
        for name in struct.__struct_fields__:
            value = getattr(struct, name)
            if isinstance(value, msgspec.Struct):
                yield from fields(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    targets = [setting.target for setting in SETTINGS if setting.target]
    assert len(targets) == len(set(targets))
    assembled = {field for setting in SETTINGS for field in setting.fills}
    # Principals have their place in drop-ins, and these two names are IoT Edge's own.
    elsewhere = {"keys.grants", "certificates.grants", "identities.principals"}
    fixed = {"workload_bundle_id", "manifest_bundle_id"}
    assert {*targets, *assembled, *elsewhere, *fixed} == set(fields(DEFAULTS))


CREDENTIALS = ("symmetric_key.", "device_id_pk.", "identity_cert", "identity_pk")
SOURCE_OF_KEY = {
    "manual": ("provisioning.connection_string", "provisioning.iothub_hostname", "provisioning.device_id"),
    "dps": ("provisioning.global_endpoint", "provisioning.id_scope", "provisioning.payload.uri"),
}
EXAMPLES = [
    ("dps", "symmetric_key", ("registration_id", "symmetric_key.uri")),
    ("dps", "symmetric_key", ("registration_id", "symmetric_key.value")),
    ("dps", "x509", ("identity_cert", "identity_pk")),
    ("dps", "x509", ("registration_id", "identity_cert.method", "identity_cert.common_name")),
    (
        "dps",
        "x509",
        (
            "registration_id",
            "identity_cert.method",
            "identity_cert.auto_renew.rotate_key",
            "identity_cert.auto_renew.threshold",
            "identity_cert.auto_renew.retry",
        ),
    ),
    ("manual", "sas", ("device_id_pk.value",)),
    ("manual", "sas", ("device_id_pk.uri",)),
    ("manual", "x509", ("identity_cert", "identity_pk")),
    ("manual", "x509", ("identity_cert.method", "identity_cert.subject", "identity_cert.expiry_days")),
]
"Source, method, and the keys of the credential's table that go with it."


@pytest.mark.parametrize(("source", "method", "its_own"), EXAMPLES)
def test_the_examples_of_default_toml_are_good(source, method, its_own) -> None:
    at = ATTESTATION if source == "dps" else AUTHENTICATION
    tree: dict[str, Any] = {}
    for key in documented(DEFAULT_TOML):
        path = key.path.replace(ANY_ID, "example")
        if path.startswith("provisioning."):
            wanted = path in SOURCE_OF_KEY[source] or path.removeprefix(f"{at}.") in its_own
        else:
            # A certificate is in a file or to be issued, and so are the two names of a parent.
            wanted = not path.startswith(("cert_issuance.local_ca.cert.", "parent", "local_gateway"))
        if wanted and not path.endswith("connection_string"):
            put(tree, path, key.value)
    put(tree, "provisioning.source", source)
    put(tree, f"{at}.method", method)
    assert outcome_lines(document(tree)) == []


def test_the_other_examples_of_default_toml_are_good() -> None:
    examples = {key.path: key.value for key in documented(DEFAULT_TOML)}
    text = f"provisioning.source = 'manual'\nprovisioning.connection_string = {toml(examples[CONNECTION])}\n"
    issued = {
        path: value for path, value in examples.items() if path.startswith("cert_issuance.local_ca.cert.")
    }
    tree: dict[str, Any] = {"local_gateway_hostname": examples["local_gateway_hostname"]}
    for path, value in issued.items():
        if not path.endswith("common_name"):
            put(tree, path, value)
    assert outcome_lines(document(tree) + text) == []


def test_demo_toml_as_the_demo_fills_it_in() -> None:
    text = (REPOSITORY / "config" / "demo.toml").read_text()
    head, _, body = text.partition("\n\n")
    for name, value in (
        ("@endpoint@", "https://localhost:8443"),
        ("@symmetric_key@", KEY_TEXT),
        ("@ca_file@", "/tmp/demo/ca.pem"),
    ):
        assert body.count(name) == 1
        assert name in head
        body = body.replace(name, value)
    demo = parse("demo.toml", body)
    life_s = 20
    left_s = life_s * (100 - demo.renewal_latest_percent) / 100
    assert demo.cloud_timeout_seconds <= left_s
    assert demo.attempt_timeout_seconds <= left_s
    assert demo.backoff_cap_seconds <= left_s


# The original's own files, where they are at hand.

APPLY = {
    "dps-symmetric-key": [],
    "dps-symmetric-key-no-pad": [],
    "dps-tpm": [f'{ATTESTATION}.method: found "tpm"; allowed in this release'],
    "dps-x509": [],
    "dps-x509-est-bootstrap-auto-renew": [
        f'{ATTESTATION}.identity_cert.method: found "est"; allowed in this release'
    ],
    "dps-x509-pkcs11-localca": ["cert_issuance.local_ca.pk: found a pkcs11: URI; allowed a file URI"],
    "manual-connection-string": [],
    "manual-symmetric-key": [],
    "manual-x509": [],
    "manual-x509-est-custom": [
        f'{AUTHENTICATION}.identity_cert.method: found "est"; allowed in this release'
    ],
}
"Case of config apply: how each mistake begins; none means accepted."

DAEMON = {
    # identityd.toml is another format; what can be told is told by name.
    "bad_config.toml": [f'provisioning.source: found "dps2"; allowed {SOURCES}; did you mean "dps"?'],
    "good_auth_settings.toml": [
        f"{AUTHENTICATION}.device_id_pk: found <secret, 3 characters>; allowed a table",
    ],
    "good_dps_config_with_simple_payload.toml": [
        "provisioning.global_endpoint: found a URL without TLS (http)",
        f"{ATTESTATION}.symmetric_key: found <secret, 3 characters>; allowed a table",
    ],
    "good_sas_config.toml": [f"{AUTHENTICATION}.device_id_pk: found <secret, 3 characters>; allowed a table"],
}


def conformance(*parts: str) -> Path:
    path = CONFORMANCE.joinpath(*parts)
    if not path.exists():
        pytest.skip("the conformance files are not beside this repository")
    return path


@pytest.mark.parametrize("case", APPLY)
def test_config_apply_cases(case) -> None:
    directory = conformance("config-apply", case)
    text = (directory / "config.toml").read_text()
    if not APPLY[case]:
        provisioning = load(str(directory / "config.toml")).provisioning
        wanted = tomli.loads((directory / "identityd.toml").read_text())["provisioning"]
        if isinstance(provisioning, DpsProvisioning):
            assert provisioning.scope_id == wanted["scope_id"]
            assert provisioning.registration_id == wanted["attestation"]["registration_id"]
            assert f"{provisioning.global_endpoint}/" == wanted["global_endpoint"]
        else:
            assert isinstance(provisioning, ManualProvisioning)
            assert provisioning.hub == wanted["iothub_hostname"]
            assert provisioning.device_id == wanted["device_id"]
        source = credential_of(provisioning)
        if isinstance(source, SymmetricKeySource):
            assert source.value == (directory / "device-id").read_bytes()
        return
    for line, begin in zip(problems(text), APPLY[case], strict=True):
        assert line.startswith(begin)
        assert "YXppb3Q" not in line


def test_no_config_apply_case_is_forgotten() -> None:
    assert {p.parent.name for p in conformance("config-apply").glob("*/config.toml")} == set(APPLY)


@pytest.mark.parametrize("name", DAEMON)
def test_daemon_files(name) -> None:
    found = problems(conformance("identityd-config", name).read_text())
    for begin in DAEMON[name]:
        assert any(line.startswith(begin) for line in found), found
