"""No secret leaves by a sink: every kind of secret, and every type that carries one, through each of them."""

import ast
import base64
import io
import json
import logging
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
import trio

from adapters import config
from adapters.config import Loaded
from adapters.driven.hub_credential import HubCredential
from adapters.driven.keys.handles import DerivedHandle, PairHandle, make_handle
from adapters.driven.onboarding import OnboardingCredential
from adapters.driving.control import control_handler
from adapters.errors import AdapterError, ConfigurationInvalid, bounded, without_secrets
from adapters.logs import Log
from adapters.meters import Meters
from adapters.ports import Authentication, Issuer, LocalIdentity
from adapters.wire import sas
from adapters.wire.http_client import TlsOptions
from adapters.wire.http_server import Peer, Request, Response, error_response
from adapters.wire.hub import ModuleKeyPair
from adapters.wire.proxies import proxy_for
from adapters.wire.rsa_private import RsaNumbers
from statemachine.events import RegistrationFailed
from statemachine.explain import status_of, story
from statemachine.journal import encode_line, record_of
from statemachine.machine import decide
from statemachine.settings import SymmetricKeySource
from statemachine.snapshot import Snapshot
from tests.adapters.unix_peer import Machine

ROOT = Path(__file__).parents[2]

KEY = bytes(range(1, 33))
LONG_KEY = bytes(range(100, 164))
KEY_TEXT = base64.b64encode(KEY).decode()
TOKEN = sas.dps_token("0ne00ABC", "device", KEY, 1_796_000_000)
SIGNATURE = TOKEN.partition("sig=")[2].partition("&")[0]
HANDLE = make_handle(KEY, PairHandle("device-id"), LONG_KEY)
HANDLE_WORDS = HANDLE.partition("sig=")[2]
PEM_LINE = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVcB/UNPxalR9zDYA"
PEM = f"-----BEGIN PRIVATE KEY-----\n{PEM_LINE}\nAAAA\n-----END PRIVATE KEY-----\n"
PIN, PASSWORD = "4711-pin", "pr0xy-p4ss"
PROXY = f"http://operator:{PASSWORD}@proxy.example:3128"

SECRETS: dict[str, tuple[str, str]] = {
    # A text that carries it, and the part that nobody may see.
    "connection string": (f"HostName=hub.example;DeviceId=d;SharedAccessKey={KEY_TEXT}", KEY_TEXT),
    "connection string, module": (f"SharedAccessKey = {KEY_TEXT};GatewayHostName=up", KEY_TEXT),
    "symmetric key": (KEY_TEXT, KEY_TEXT),
    "symmetric key of 64 bytes": (base64.b64encode(LONG_KEY).decode(), base64.b64encode(LONG_KEY).decode()),
    "SAS token": (TOKEN, SIGNATURE),
    "SAS token in a header": (f"Authorization: {TOKEN}", SIGNATURE),
    "SAS token, quoted by a peer": (json.dumps({"Message": f"token {TOKEN} refused"}), SIGNATURE),
    "SAS token, encoded again": (quote(TOKEN, safe=""), quote(SIGNATURE, safe="")),
    "SAS token as Go writes JSON": (TOKEN.replace("&", "\\u0026").replace("=", "\\u003d"), SIGNATURE),
    "key handle": (HANDLE, HANDLE_WORDS),
    "key handle in a path": (f"/keys/{quote(HANDLE, safe='')}", quote(HANDLE_WORDS, safe="")),
    "private key": (PEM, PEM_LINE),
    "private key, EC": (PEM.replace("PRIVATE", "EC PRIVATE"), PEM_LINE),
    "private key, cut off": (PEM.partition("-----END")[0], PEM_LINE),
    "private key in JSON": (json.dumps({"privateKey": PEM}), PEM_LINE),
    "PIN": (f"pkcs11:token=device?pin-value={PIN}", PIN),
    "PIN before others": (f"pkcs11:object=k?pin-value={PIN}&module-name=m", PIN),
    "proxy password": (PROXY, PASSWORD),
    "proxy password with an at sign": (f"https://u:{PASSWORD}@x@proxy.example", PASSWORD),
    "password by name": (f"password: {PASSWORD}", PASSWORD),
}
each = pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)


def as_error(text):
    return AdapterError(f"the peer says: {text}", code="dps-401", failure_class="operator")


# --- sinks -------------------------------------------------------------------------------------------


def logged(form, *arguments, exc=None):
    stream = io.StringIO()
    log = Log(stream, {"AZIOT_LOG": "trace"})
    log.configure(form, "debug")
    try:
        logging.getLogger("adapters.driven.dps").error("%s", *arguments, exc_info=exc)
    finally:
        log.close()
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _loggers():
    names = ("", "identityd", "adapters")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def decided(message):
    """What a failure with that message makes of a device: journal line, and snapshot."""
    event = RegistrationFailed(answers="1.1.0", failure_class="operator", code="dps-401", message=message)
    decision = decide(Snapshot(), event, 1)
    line, _ = encode_line(record_of(1, event, decision), "")
    return line.decode()


@each
@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_the_log_as_a_message(form, text, secret):
    line = logged(form, f"before {text} after")
    assert "before" in line
    assert secret not in line


@each
@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_the_log_as_a_defect(form, text, secret):
    try:
        try:
            raise KeyError(text)
        except KeyError as cause:
            raise RuntimeError(f"while looking at {text}") from cause
    except RuntimeError as exc:
        told = logged(form, "failed", exc=exc)
    assert "RuntimeError" in told
    assert secret not in told


@each
@pytest.mark.parametrize("padding", [0, 1990, 7990])
def test_a_secret_that_is_cut_in_half_is_none(text, secret, padding):
    told = logged("json", "x" * padding + " " + text)
    assert not any(secret[:length] in told for length in (20, 12) if len(secret) > length)


@each
def test_errors(text, secret):
    exc = as_error(text)
    assert secret not in exc.message
    assert secret not in str(exc) + repr(exc)
    assert secret not in bounded(text)
    assert "the peer says" in exc.message


@each
def test_the_journal(text, secret):
    line = decided(as_error(text).message)
    assert "the peer says" in line
    assert secret not in line


@each
def test_the_control_socket(text, secret):
    """Status and story of a device that failed so, and the answers to whoever asks wrongly."""
    event = RegistrationFailed(
        answers="1.1.0", failure_class="operator", code="dps-401", message=as_error(text).message
    )
    snapshot = decide(Snapshot(), event, 1).snapshot
    status = status_of(snapshot, 1, notes=(f"journal: unavailable: {as_error(text).message}",))
    answers = [msgspec.json.encode(status).decode(), *story(status)]

    async def main():
        handle = control_handler(Machine(), own_uid=990, machine=lambda: b"{}")
        for target in (f"/{text}", f"/v1/events?from={quote(text, safe='')}"):
            answers.append((await handle(Request("GET", target, peer=Peer(uid=0)))).body.decode())
        answers.append((await handle(Request(text, "/v1/status"))).body.decode())

    trio.run(main)
    assert not [answer for answer in answers if secret in answer]


@each
def test_the_metrics(text, secret):
    """Labels are statuses and codes; a code that a peer could choose would be one of these."""

    class Still:
        def now_unix_ms(self):
            return 0

        def elapsed_ms(self):
            return 0

        def kernel_synchronised(self):
            return False

    meters = Meters(Still())
    exc = as_error(text)
    meters.exchanged("dps")(exc.code, 0.1)
    snapshot = Snapshot(degraded=(exc.message,))
    told = meters.text(snapshot, status_of(snapshot, 1), journal_available=False).decode()
    assert 'result="dps-401"' in told
    assert secret not in told


@each
def test_mistakes_in_the_configuration(text, secret):
    """Wherever it was put by mistake."""
    quoted = json.dumps(text)
    for lines in (
        f"[provisioning]\nsource = {quoted}",
        f'[provisioning]\nsource = "none"\n{quoted} = 1',
        f'[provisioning]\nsource = "manual"\nconnection_string = {quoted}',
        f'[provisioning]\nsource = "manual"\niothub_hostname = {quoted}\ndevice_id = {quoted}',
        f'hostname = {quoted}\n[provisioning]\nsource = "none"',
        f'[preloaded_keys]\nk = {quoted}\n[provisioning]\nsource = "none"',
        f"not toml {quoted} = = 1",
    ):
        try:
            found = repr(config.parse("c.toml", lines))
        except ConfigurationInvalid as exc:
            found = f"{exc}{exc!r}{exc.problems}"
        assert secret not in found.replace("\\n", "\n"), lines


# --- types that carry one ----------------------------------------------------------------------------

TLS = TlsOptions()
CARRIERS: dict[str, object] = {
    "SymmetricKeySource": SymmetricKeySource(value=KEY),
    "OnboardingCredential": OnboardingCredential(registration_id="d", tls=TLS, symmetric_key=KEY),
    "HubCredential": HubCredential(generation=1, source="configured", tls=TLS, symmetric_key=KEY),
    "ModuleKeyPair": ModuleKeyPair(primary=KEY, secondary=KEY),
    "Authentication": Authentication(type="sas", key_handle=HANDLE),
    "Issuer": Issuer(certificate_id="c", key_handle=HANDLE),
    "DerivedHandle": DerivedHandle(base=HANDLE, data=b"d"),
    "LocalIdentity": LocalIdentity(private_key_pem=PEM, certificate_pem="", not_after_unix_ms=0),
    "Proxy": proxy_for("hub.example", 443, {"HTTPS_PROXY": PROXY}),
    "RsaNumbers": RsaNumbers(
        **dict.fromkeys(("n", "e", "p", "q", "d_p", "d_q", "q_inv"), int.from_bytes(KEY, "big"))
    ),
    "Loaded": Loaded(
        configuration=config.parse("c", '[provisioning]\nsource = "none"'),
        source="file",
        text=f"symmetric_key = {KEY_TEXT}",
    ),
    "Request": Request("PUT", f"/keys/{HANDLE}", (("authorization", TOKEN),), KEY),
    "Response": Response(200, KEY),
    "error_response": error_response(400, f"{KEY_TEXT}"),
}
FORMS = [
    str(int.from_bytes(KEY, "big")),
    repr(KEY)[2:-1],
    KEY.hex(),
    KEY_TEXT,
    KEY_TEXT.rstrip("="),
    SIGNATURE,
    HANDLE_WORDS,
    PEM_LINE,
    PASSWORD,
]


@pytest.mark.parametrize("name", CARRIERS)
def test_a_type_that_carries_a_secret_does_not_show_it(name):
    carrier = CARRIERS[name]
    for told in (
        logged("logfmt", carrier),
        logged("json", f"{carrier!r}"),
        logged("logfmt", [carrier]),
        without_secrets(f"{carrier}"),
    ):
        assert not [form for form in FORMS if form in told], told


def documented_as_secret():
    """Classes of ours with a field whose docstring says that it is secret."""
    for path in sorted((ROOT / "adapters").rglob("*.py")) + sorted((ROOT / "statemachine").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            texts = [
                line.value.value
                for line in node.body
                if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
            ]
            if any(str(text).rstrip().endswith(("Secret.", "Secret: never printed.")) for text in texts):
                yield node


@pytest.mark.parametrize("node", [*documented_as_secret()], ids=lambda node: node.name)
def test_whoever_holds_a_secret_says_how_it_is_shown(node):
    assert any(isinstance(line, ast.FunctionDef) and line.name == "__repr__" for line in node.body)


HUGE = [
    unit * 20_000
    for unit in (
        "x",
        "x=",
        "sig",
        "sig=",
        "a://",
        "a://b@",
        "-----BEGIN PRIVATE KEY-----",
        "password ",
        "\\",
        "%25",
    )
]


@pytest.mark.parametrize("text", HUGE, ids=lambda text: text[:12])
def test_a_hostile_text_is_looked_through_in_no_time(text):
    """Steps grow with its length alone; otherwise this takes minutes, not milliseconds."""
    assert len(without_secrets(text)) <= len(text) + 20_000 * 3


# --- what is no secret stays -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "registration assigned to localhost:40983 with a certificate, trusted CAs: 1",
        "/var/lib/aziot/identityd/credentials/current: Permission denied; give the directory to its user",
        "https://global.azure-devices-provisioning.net:443/0ne00ABC/registrations/my-device",
        "chain of 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 is stored",
        "tracking id a4a5c3b2-0d1e-4f5a-8b9c-0d1e2f3a4b5c-G:0-TimeStamp:11/25/2026 02:03:29-G:0",
        "mail operator@example.com, or see user@host",
        "Authorization header missing; sig is needed",
        "-----BEGIN CERTIFICATE-----",
        "epoch=3 sequence=12",
    ],
)
def test_what_an_operator_needs_is_left(text):
    assert without_secrets(text) == text
