"""identityd.sock as existing clients know it: the rows of services.md §3.1, §3.3 and §3.5, and E32 to E38."""

import logging
import os
import threading

import msgspec
import pytest
import trio
import trio.testing
from msgspec import structs

from adapters.driving.identity_messages import aziot, local
from adapters.driving.identityd_api import API_VERSIONS, identityd_handler
from adapters.driving.routes import NOBODY
from adapters.errors import (
    AdapterError,
    NotProvisioned,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    RequestRefused,
    StoreUnavailable,
)
from adapters.ports import Authentication, HubIdentity, LocalIdentity, Taken
from adapters.wire.http_server import Peer, Request
from statemachine.events import ReprovisionRequested
from statemachine.settings import (
    CertificateSettings,
    Configuration,
    DpsProvisioning,
    IdentityPrincipal,
    IdentitySettings,
    IssuanceRule,
    IssuedSource,
    LocalCa,
    ManualProvisioning,
    NoProvisioning,
    PolicySettings,
    SymmetricKeySource,
    X509Source,
)
from statemachine.snapshot import Assignment, Snapshot
from statemachine.status import AttemptStatus, LastError, NextStatus
from tests.adapters.unix_peer import Machine, exchange, over_a_socket, serving

V = "api-version=2020-09-01"
LATEST = "api-version=2021-12-01"
ROOT, OWN, DAEMON, SECOND_DAEMON, STRANGER = 0, 990, 1001, 1002, 4242
HOST_DEVICE, HOST_MODULE, HOST_LOCAL, HOST_BOTH, HOST_NOTHING = 2001, 2002, 1004, 1003, 2003
UNAUTHORISED = (401, {"message": "authorization error"})
BUNDLE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
HUB = "myhub.azure-devices.net"

KEYED = SymmetricKeySource(value=b"secret-bytes")
X509 = X509Source(certificate_path="/c.pem", key_path="/k.pem")
ISSUED = IssuedSource(rule=IssuanceRule(method="self_signed"))

PRINCIPALS = (
    IdentityPrincipal(uid=DAEMON, name="hostdaemon1"),
    IdentityPrincipal(uid=SECOND_DAEMON, name="hostdaemon2"),
    IdentityPrincipal(uid=HOST_DEVICE, name="devicehost", kinds=("device",)),
    IdentityPrincipal(uid=HOST_MODULE, name="modulehost", kinds=("module",)),
    IdentityPrincipal(uid=HOST_LOCAL, name="localhost", kinds=("local",), local="server"),
    IdentityPrincipal(uid=HOST_BOTH, name="hostprocess2", kinds=("module", "local")),
    IdentityPrincipal(uid=HOST_NOTHING, name="nothing", kinds=()),
)


def dps(**fields):
    return DpsProvisioning(
        **{
            "global_endpoint": "https://global.azure-devices-provisioning.net",
            "scope_id": "0ab1234C5D6",
            "registration_id": "my-device",
            "attestation": KEYED,
            **fields,
        }
    )


def configuration(provisioning=None, **fields):
    return Configuration(
        **{
            "provisioning": provisioning or dps(),
            "identities": IdentitySettings(principals=PRINCIPALS, local_domain="example.org"),
            "certificates": CertificateSettings(
                preloaded={"pinned": "/pinned.pem"},
                local_ca=LocalCa(certificate_id="device-ca", key_id="device-ca-key"),
            ),
            **fields,
        }
    )


SAS = Authentication(type="sas", key_handle="H")
ISSUED_AUTH = Authentication(type="x509", key_handle="H", certificate_id="aziot-dps-identity-cert")
DEVICE = HubIdentity(hub=HUB, gateway=HUB, device_id="device01", authentication=SAS)


class Hub:
    """Identities of one device. ``wrong`` is raised instead of any answer."""

    def __init__(self):
        self.asked = []
        self.wrong = None
        self.identity = DEVICE

    async def _ask(self, *asked):
        await trio.lowlevel.checkpoint()
        self.asked.append(asked)
        if self.wrong is not None:
            raise self.wrong

    def _module(self, module_id):
        derived = Authentication(type="sas", key_handle="HD")
        return structs.replace(
            self.identity, module_id=module_id, generation_id="637988", authentication=derived
        )

    async def device(self):
        await self._ask("device")
        return self.identity

    async def modules(self):
        await self._ask("modules")
        return (structs.replace(self._module("$edgeAgent"), generation_id="1"), self._module("other"))

    async def module(self, module_id):
        await self._ask("module", module_id)
        return self._module(module_id)

    async def create_module(self, module_id):
        await self._ask("create_module", module_id)
        return self._module(module_id)

    async def update_module(self, module_id):
        await self._ask("update_module", module_id)
        return self._module(module_id)

    async def delete_module(self, module_id):
        await self._ask("delete_module", module_id)


class Locals:
    """Issues what it is asked for."""

    def __init__(self):
        self.asked = []
        self.wrong = None

    async def issue(self, name, attributes):
        await trio.lowlevel.checkpoint()
        self.asked.append((name, attributes))
        if self.wrong is not None:
            raise self.wrong
        return LocalIdentity(
            private_key_pem="-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n",
            certificate_pem="-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
            not_after_unix_ms=1_798_761_599_000,
        )


class Certificates:
    """Holds a trust bundle."""

    def __init__(self):
        self.held = {"aziot-dps-trust-bundle": BUNDLE}
        self.wrong = None

    async def read_certificate(self, certificate_id):
        await trio.lowlevel.checkpoint()
        if self.wrong == "hangs":
            await trio.sleep_forever()
        if self.wrong is not None:
            raise self.wrong
        return self.held.get(certificate_id)


class Service:
    """Everything behind the socket, and the socket's handler."""

    def __init__(self, held=None):
        self.hub, self.locals, self.certificates, self.machine = Hub(), Locals(), Certificates(), Machine()
        self.machine.fields = {"reason": "The device has no identity yet."}
        self.configuration = held or configuration()
        self.snapshot = Snapshot(policy=PolicySettings(registration_id="from-the-certificate"))
        self.files = {}
        self.handler = identityd_handler(
            self.hub,
            self.locals,
            self.certificates,
            self.machine,
            lambda: self.configuration,
            lambda: self.snapshot,
            own_uid=OWN,
            read_file=self._read,
        )

    def _read(self, path):
        content = self.files.get(path)
        if content is None:
            raise StoreUnavailable(f"cannot read {path}: No such file", code="credential-unreadable")
        return content

    @property
    def asked(self):
        return [*self.hub.asked, *self.locals.asked, *self.machine.commands]

    def response(self, method, target, body=None, *, uid=ROOT, headers=(), clock=None):
        content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        request = Request(method, target, tuple(headers), content, Peer(uid=uid))
        if clock is None:
            return over_a_socket(self.handler, request)
        return trio.run(self.handler, request, clock=clock)

    def __call__(self, method, target, body=None, **more):
        response = self.response(method, target, body, **more)
        if response.status == 204:
            assert response.body == b""
            return 204
        assert response.content_type == "application/json"
        return response.status, msgspec.json.decode(response.body)


def raw(service, method, target, body=None, **more):
    """Status and body as they are sent."""
    response = service.response(method, target, body, **more)
    return response.status, response.body.decode()


def parameter(name, cause):
    return 400, {"message": f'parameter "{name}" has an invalid value\ncaused by: {cause}'}


def wrong_type(kind):
    return parameter("type", f"invalid type: {kind}".strip())


def short(value):
    return str(value)[:14]


MISSING_TYPE = parameter("type", "missing parameter")
EMPTY_NAME = parameter("module_id", "module name cannot be empty")
TYPED = {"type": "aziot"}
NEW = {"type": "aziot", "moduleId": "module01"}

# --- rights: services.md §3.1 ------------------------------------------------------------------------

CALLERS = {
    "root": ROOT,
    "own uid": OWN,
    "daemon": DAEMON,
    "second daemon": SECOND_DAEMON,
    "device": HOST_DEVICE,
    "module": HOST_MODULE,
    "local": HOST_LOCAL,
    "both": HOST_BOTH,
    "nothing": HOST_NOTHING,
    "unknown": STRANGER,
    "nobody": NOBODY,
}
MANAGERS = {"root", "own uid", "daemon"}

# what, method, target, body, who may beside those who manage
OPERATIONS = [
    ("I1", "GET", f"/identities/identity?{V}", None, {"device", "module", "both"}),
    ("I2", "POST", f"/identities/device?{V}", TYPED, {"device"}),
    ("I3", "GET", f"/identities/provisioning?{LATEST}", None, set(CALLERS)),
    ("I4", "GET", f"/identities/modules?{V}&type=aziot", None, set()),
    ("I5", "POST", f"/identities/modules?{V}", NEW, set()),
    ("I5 local", "POST", f"/identities/modules?{V}", {"type": "local", "moduleId": "web"}, set()),
    ("I6 other", "GET", f"/identities/modules/other?{V}&type=aziot", None, set()),
    ("I6 own", "GET", f"/identities/modules/modulehost?{V}&type=aziot", None, {"module"}),
    ("I6 both", "GET", f"/identities/modules/hostprocess2?{V}&type=aziot", None, {"both"}),
    ("I6 both local", "GET", f"/identities/modules/hostprocess2?{V}&type=local", None, {"both"}),
    ("I6 local", "GET", f"/identities/modules/localhost?{V}&type=local", None, {"local"}),
    ("I6 quirk 17", "GET", f"/identities/modules/localhost?{V}&type=aziot", None, set()),
    ("I6 device", "GET", f"/identities/modules/devicehost?{V}&type=aziot", None, set()),
    ("I6 nothing", "GET", f"/identities/modules/nothing?{V}&type=aziot", None, set()),
    ("I6 second", "GET", f"/identities/modules/hostdaemon2?{V}&type=aziot", None, set()),
    ("I7", "PUT", f"/identities/modules/modulehost?{V}&type=aziot", NEW, set()),
    ("I8", "DELETE", f"/identities/modules/modulehost?{V}&type=aziot", None, set()),
    ("I9", "POST", f"/identities/device/reprovision?{V}", TYPED, set()),
    ("I10", "GET", f"/trust-bundle?{V}", None, set(CALLERS)),
]


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(
    ("what", "method", "target", "body", "others"), OPERATIONS, ids=lambda one: str(one)[:14]
)
def test_who_may(what, method, target, body, others, caller, caplog):
    service = Service()
    service.machine.on_command = lambda event: service.machine.record(state="Provisioned")
    answer = service(method, target, body, uid=CALLERS[caller])
    if caller in MANAGERS or caller in others:
        assert answer == 204 or answer[0] == 200
        assert caplog.records == []
    else:
        assert answer == UNAUTHORISED
        assert service.asked == []
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert f"uid {CALLERS[caller]} may not " in record.getMessage()


def test_root_that_is_listed_as_a_host_process_is_one():
    listed = (IdentityPrincipal(uid=ROOT, name="rooted", kinds=("module",)),)
    service = Service(configuration(identities=IdentitySettings(principals=listed)))
    assert service("POST", f"/identities/device?{V}", TYPED) == UNAUTHORISED
    assert service("POST", f"/identities/device/reprovision?{V}") == UNAUTHORISED
    assert service("GET", f"/identities/identity?{V}")[1]["spec"]["moduleId"] == "rooted"


def test_principals_are_those_of_now():
    service = Service()
    assert service("POST", f"/identities/device?{V}", TYPED, uid=STRANGER) == UNAUTHORISED
    listed = (IdentityPrincipal(uid=STRANGER, name="new"),)
    service.configuration = configuration(identities=IdentitySettings(principals=listed))
    assert service("POST", f"/identities/device?{V}", TYPED, uid=STRANGER)[0] == 200
    assert service("POST", f"/identities/device?{V}", TYPED, uid=DAEMON) == UNAUTHORISED


@pytest.mark.parametrize("suffix", ["", "&type=local", "&type=nonsense", "&type="])
def test_rights_come_before_the_type(suffix):
    service = Service()
    for method, target in [
        ("GET", f"/identities/modules?{V}"),
        ("GET", f"/identities/modules/other?{V}"),
        ("PUT", f"/identities/modules/other?{V}"),
        ("DELETE", f"/identities/modules/%20?{V}"),
    ]:
        assert service(method, target + suffix, TYPED, uid=STRANGER) == UNAUTHORISED
    unknown = {"type": "nonsense", "moduleId": ""}
    assert service("POST", f"/identities/modules?{V}", unknown, uid=STRANGER) == UNAUTHORISED


# --- the routes and their versions: services.md §2.1 and §3.3 ----------------------------------------

EVERYWHERE = [
    ("GET", "/identities/identity", None, 200),
    ("POST", "/identities/device", TYPED, 200),
    ("GET", "/identities/modules?type=aziot", None, 200),
    ("POST", "/identities/modules", NEW, 200),
    ("GET", "/identities/modules/m?type=aziot", None, 200),
    ("PUT", "/identities/modules/m?type=aziot", TYPED, 200),
    ("DELETE", "/identities/modules/m?type=aziot", None, 204),
    ("POST", "/identities/device/reprovision", TYPED, 204),
    ("GET", "/trust-bundle", None, 200),
]


def versioned(target, version):
    return f"{target}{'&' if '?' in target else '?'}api-version={version}"


@pytest.mark.parametrize("version", API_VERSIONS)
@pytest.mark.parametrize(("method", "target", "body", "status"), EVERYWHERE)
def test_every_version_has_every_route(method, target, body, status, version):
    service = Service()
    service.machine.on_command = lambda event: service.machine.record()
    assert service.response(method, versioned(target, version), body).status == status


@pytest.mark.parametrize(
    ("version", "status"), [("2020-09-01", 404), ("2021-12-01", 200), ("2022-08-01", 200)]
)
def test_provisioning_info_came_later(version, status):
    assert Service()("GET", f"/identities/provisioning?api-version={version}")[0] == status


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/identities/identity", 400, "api-version not specified"),
        ("/nope", 400, "api-version not specified"),
        ("/nope?api-version=2021-05-01", 400, 'invalid api-version "2021-05-01"'),
        (f"/nope?{V}", 404, "not found"),
        (f"/device/reprovision?{V}", 404, "not found"),
        (f"/device/provisioning-info?{V}", 404, "not found"),
        (f"/identities/provisioning?{V}", 404, "not found"),
        (f"/identities/modules/?{V}&type=aziot", 404, "not found"),
        (f"/identities/modules/a/b?{V}&type=aziot", 404, "not found"),
        (f"/identities/modules/%ff?{V}&type=aziot", 404, "not found"),
        (f"/identities/device?{V}", 400, "method not allowed"),
        (f"/identities/device/reprovision?{V}", 400, "method not allowed"),
    ],
)
@pytest.mark.parametrize("uid", [ROOT, STRANGER])
def test_what_is_not_there(target, status, message, uid):
    assert Service()("GET", target, uid=uid) == (status, {"message": message})


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/identities/identity", {"GET"}),
        ("/identities/device", {"POST"}),
        ("/identities/provisioning", {"GET"}),
        ("/identities/modules", {"GET", "POST"}),
        ("/identities/modules/m", {"GET", "PUT", "DELETE"}),
        ("/identities/device/reprovision", {"POST"}),
        ("/trust-bundle", {"GET"}),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"])
def test_methods_that_a_route_does_not_have(path, served, method):
    if method in served:
        return
    assert Service()(method, f"{path}?{LATEST}", {}) == (400, {"message": "method not allowed"})


# --- the type, and names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "kinds"),
    [
        ("GET", "/identities/modules", {"aziot"}),
        ("GET", "/identities/modules/localhost", {"aziot", "local"}),
        ("PUT", "/identities/modules/m", {"aziot"}),
        ("DELETE", "/identities/modules/m", {"aziot"}),
    ],
)
def test_the_type_in_the_query(method, path, kinds):
    service = Service()
    assert service(method, f"{path}?{V}", {}) == MISSING_TYPE
    assert service(method, f"{path}?{V}&TYPE=aziot", {}) == MISSING_TYPE
    for kind in ("", "AZIOT", "local", "edge", "aziot ", "ä" * 3):
        if kind not in kinds:
            assert service(method, f"{path}?{V}&type={kind}", {}) == parameter(
                "type", f"invalid type: {kind}".strip()
            )
    assert service.asked == []
    for kind in kinds:
        answer = service(method, f"{path}?{V}&type={kind}&type=nonsense", {})
        assert answer == 204 or answer[0] == 200
    assert service(method, f"{path}?{V}&type=nonsense&type=aziot", {}) == parameter(
        "type", "invalid type: nonsense"
    )


@pytest.mark.parametrize("kind", ["", "AZIOT", "edge"])
def test_the_type_in_the_body(kind):
    service = Service()
    body = {"type": kind, "moduleId": "m"}
    assert service("POST", f"/identities/modules?{V}&type=aziot", body) == wrong_type(kind)
    assert service.asked == []


def test_the_type_of_a_device_request_is_not_looked_at():
    assert Service()("POST", f"/identities/device?{V}", {"type": "whatever", "more": 1})[0] == 200


HOSTILE = {
    "%20": EMPTY_NAME,
    "%09%20": EMPTY_NAME,
    "..": parameter("module_id", "module name cannot be a relative path"),
    ".": parameter("module_id", "module name cannot be a relative path"),
    "%2E%2E": parameter("module_id", "module name cannot be a relative path"),
    "m" * 129: parameter("module_id", "module name is longer than 128 characters"),
    "m" * 4096: parameter("module_id", "module name is longer than 128 characters"),
    "a%00b": parameter("module_id", "module name has characters that cannot be printed"),
    "a%0Ab": parameter("module_id", "module name has characters that cannot be printed"),
    "a%E2%80%8Bb": parameter("module_id", "module name has characters that cannot be printed"),
}


@pytest.mark.parametrize(("segment", "answer"), HOSTILE.items(), ids=short)
@pytest.mark.parametrize(
    ("method", "kind"), [("GET", "aziot"), ("GET", "local"), ("PUT", "aziot"), ("DELETE", "aziot")]
)
def test_names_no_module_has(segment, answer, method, kind):
    service = Service()
    assert service(method, f"/identities/modules/{segment}?{V}&type={kind}", {}) == answer
    assert service.asked == []


@pytest.mark.parametrize("kind", ["aziot", "local"])
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("", "module name cannot be empty"),
        (" \t", "module name cannot be empty"),
        ("..", "module name cannot be a relative path"),
        ("m" * 4096, "module name is longer than 128 characters"),
        ("a\0b", "module name has characters that cannot be printed"),
    ],
    ids=lambda one: one[:12],
)
def test_names_no_module_gets(name, cause, kind):
    service = Service()
    body = {"type": kind, "moduleId": name}
    assert service("POST", f"/identities/modules?{V}", body) == parameter("module_id", cause)
    assert service.asked == []


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("$edgeAgent", "$edgeAgent"),
        ("%24edgeAgent", "$edgeAgent"),
        ("a%2Fb", "a/b"),
        ("..%2F..%2Fetc", "../../etc"),
        ("%25", "%"),
        ("a+b", "a+b"),
        ("%C3%A4", "ä"),
        ("m" * 128, "m" * 128),
    ],
)
def test_odd_names_arrive_as_they_are_meant(segment, name):
    service = Service()
    assert service("GET", f"/identities/modules/{segment}?{V}&type=aziot")[1]["spec"]["moduleId"] == name
    assert service.hub.asked == [("module", name)]


# --- bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/identities/device", b"", 400),
        ("/identities/device", b"{}", 422),
        ("/identities/device", b'{"type":1}', 422),
        ("/identities/device", b'{"type":null}', 422),
        ("/identities/device", b'{"type":"aziot","type":"aziot"}', 422),
        ("/identities/device", b'{"type":"aziot"} x', 422),
        ("/identities/device", b"[" * 100_000, 422),
        ("/identities/device", b'{"type":"aziot","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422),
        ("/identities/device", b'{"type":"\xff"}', 422),
        ("/identities/modules", b"", 400),
        ("/identities/modules", b'{"type":"aziot"}', 422),
        ("/identities/modules", b'{"moduleId":"m"}', 422),
        ("/identities/modules", b'{"type":"aziot","moduleId":null}', 422),
        ("/identities/modules", b'{"type":"aziot","moduleId":"\\ud800"}', 422),
        ("/identities/device/reprovision", b"nonsense", 422),
    ],
    ids=lambda one: str(one)[:30],
)
def test_bodies_that_do_not_do(path, body, status):
    service = Service()
    answer = service("POST", f"{path}?{V}", body)
    assert answer[0] == status
    assert isinstance(answer[1]["message"], str)
    assert len(answer[1]["message"]) < 500
    if not body:
        assert answer[1] == {"message": "missing request body"}
    assert service.asked == []


@pytest.mark.parametrize(
    "options",
    [
        "x509",
        {},
        {"type": "sas"},
        {"type": "x509", "attributes": "both"},
        {"type": "x509", "attributes": 1},
        [],
    ],
)
@pytest.mark.parametrize("kind", ["aziot", "local"])
def test_malformed_options_are_told(options, kind):
    service = Service()
    body = {"type": kind, "moduleId": "web", "localIdOpts": options}
    assert service("POST", f"/identities/modules?{V}", body)[0] == 422
    assert service.asked == []


@pytest.mark.parametrize(
    ("more", "attributes"),
    [
        ({}, "client"),
        ({"localIdOpts": None}, "client"),
        ({"localIdOpts": {"type": "x509"}}, "client"),
        ({"localIdOpts": {"type": "x509", "attributes": None}}, "client"),
        ({"localIdOpts": {"type": "x509", "attributes": "client", "more": 1}}, "client"),
        ({"localIdOpts": {"type": "x509", "attributes": "server"}}, "server"),
    ],
)
def test_options_of_a_local_identity(more, attributes):
    service = Service()
    assert service("POST", f"/identities/modules?{V}", {"type": "local", "moduleId": "web", **more})[0] == 200
    assert service.locals.asked == [("web", attributes)]
    assert service.hub.asked == []


@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b'{"type":1}'])
def test_bodies_nobody_looks_at(body):
    service = Service()
    service.machine.on_command = lambda event: service.machine.record()
    assert service("POST", f"/identities/device/reprovision?{V}", body) == 204
    assert service("DELETE", f"/identities/modules/m?{V}&type=aziot", body) == 204
    assert service("PUT", f"/identities/modules/m?{V}&type=aziot", body)[0] == (200 if body else 422)


# --- what is said when it cannot be done: services.md §3.5 -------------------------------------------

UNPROVISIONED = NotProvisioned("what the status says, it says better", code="not-provisioned")
THROTTLED = PeerRefused("Throttled by the hub", code="hub-429", retry_after_ms=1000, tracking_id="T-7")
HUB_OPERATIONS = [one for one in OPERATIONS if one[0] in ("I2", "I4", "I5", "I6 other", "I7", "I8")]

WORDS = [
    (
        UNPROVISIONED,
        400,
        "device identity not found\ncaused by: The device has no identity yet; nothing happens without help",
    ),
    (
        PeerRefused("module nope not found", code="hub-404"),
        404,
        "Hub client error\ncaused by: module nope not found",
    ),
    (THROTTLED, 404, "Hub client error\ncaused by: Throttled by the hub (tracking id T-7)"),
    (
        PeerUnreachable("no answer within 10 s", code="timeout"),
        404,
        "Hub client error\ncaused by: no answer within 10 s",
    ),
    (
        PeerProtocolError("not JSON", code="answer-malformed"),
        404,
        "Hub client error\ncaused by: not JSON",
    ),
    (AdapterError("module m has none", code="generation-id-missing"), 400, "module identity not found"),
    (
        RequestRefused("not a name", code="name", parameter="module_id"),
        400,
        'parameter "module_id" has an invalid value\ncaused by: not a name',
    ),
    (AdapterError("odd", code="odd"), 500, "internal error"),
]


@pytest.mark.parametrize(("wrong", "status", "message"), WORDS, ids=short)
@pytest.mark.parametrize(
    ("what", "method", "target", "body", "others"), HUB_OPERATIONS, ids=lambda one: str(one)[:14]
)
def test_words(what, method, target, body, others, wrong, status, message):
    if what == "I2" and isinstance(wrong, RequestRefused):
        return
    service = Service()
    service.hub.wrong = wrong
    assert service(method, target, body) == (status, {"message": message})


@pytest.mark.parametrize(
    ("what", "method", "target", "body", "others"), HUB_OPERATIONS, ids=lambda one: str(one)[:14]
)
def test_stores_that_fail_are_told_in_the_log(what, method, target, body, others, caplog):
    service = Service()
    service.hub.wrong = StoreUnavailable("/secret/place: disk full; free some", code="disk-full")
    status, said = service(method, target, body)
    if what == "I2":
        assert (status, said["message"]) == (
            404,
            "Key client error\ncaused by: the store of keys failed: disk-full",
        )
    else:
        assert (status, said) == (500, {"message": "internal error"})
    assert "/secret/place: disk full" in caplog.text
    assert "secret" not in said["message"]


def test_a_key_that_is_not_there_is_a_key_client_error():
    service = Service()
    service.hub.wrong = RequestRefused("there is no key device-id", code="not-found")
    for method, target in [("POST", f"/identities/device?{V}"), ("GET", f"/identities/identity?{V}")]:
        assert service(method, target, TYPED) == (
            404,
            {"message": "Key client error\ncaused by: there is no key device-id"},
        )


ERROR = LastError(failure_class="retry", code="dps-503", message="busy")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "no identity yet; nothing happens without help"),
        (
            {"next": NextStatus(what="another attempt", at="2026-11-25T02:00:00.000Z")},
            "no identity yet; next: another attempt, at 2026-11-25T02:00:00.000Z",
        ),
        (
            {"next": NextStatus(what="DPS works on it"), "attempt": AttemptStatus(number=1)},
            "no identity yet; next: DPS works on it",
        ),
        (
            {"attempt": AttemptStatus(number=1, last_error=ERROR)},
            "no identity yet; the latest attempt ran into dps-503: busy; nothing happens without help",
        ),
    ],
)
def test_the_status_says_what_comes_next(fields, told):
    service = Service()
    service.hub.wrong = NotProvisioned("", code="not-provisioned")
    service.machine.fields = {"reason": "no identity yet."} | fields
    assert service("POST", f"/identities/device?{V}", TYPED) == (
        400,
        {"message": f"device identity not found\ncaused by: {told}"},
    )


def test_what_the_peer_says_is_bounded():
    service = Service()
    service.hub.wrong = PeerRefused("no\r\n\x1b[31m" * 1000, code="hub-400")
    message = service("POST", f"/identities/device?{V}", TYPED)[1]["message"]
    assert len(message) < 500
    assert message.count("\n") == 1


# --- identities: services.md §3.2, E32 to E35 --------------------------------------------------------

DEVICE_JSON = (
    '{"type":"aziot","spec":{"hubName":"myhub.azure-devices.net","gatewayHost":"myhub.azure-devices.net",'
    '"deviceId":"device01","auth":{"type":"sas","keyHandle":"H"}}}'
)
MODULE_JSON = (
    '{"type":"aziot","spec":{"hubName":"myhub.azure-devices.net","gatewayHost":"myhub.azure-devices.net",'
    '"deviceId":"device01","moduleId":"hostprocess2","genId":"637988","auth":{"type":"sas","keyHandle":"HD"}}}'
)


def test_e32_device():
    service = Service()
    assert raw(service, "POST", f"/identities/device?{V}", TYPED) == (200, DEVICE_JSON)
    service.hub.identity = structs.replace(DEVICE, authentication=ISSUED_AUTH, gateway="parent.local")
    assert raw(service, "POST", f"/identities/device?{V}", TYPED) == (
        200,
        '{"type":"aziot","spec":{"hubName":"myhub.azure-devices.net","gatewayHost":"parent.local",'
        '"deviceId":"device01","auth":{"type":"x509","keyHandle":"H","certId":"aziot-dps-identity-cert"}}}',
    )
    assert service("POST", f"/identities/device?{V}", b"") == (400, {"message": "missing request body"})
    assert service("POST", f"/identities/device?{V}", b"{}")[0] == 422
    service.hub.wrong = UNPROVISIONED
    status, said = service("POST", f"/identities/device?{V}", TYPED)
    assert status == 400
    assert said["message"].startswith("device identity not found\ncaused by: ")


def test_e33_caller():
    service = Service()
    assert raw(service, "GET", f"/identities/identity?{V}", uid=HOST_BOTH) == (200, MODULE_JSON)
    assert service("GET", f"/identities/identity?{V}", uid=STRANGER) == UNAUTHORISED
    for uid in (ROOT, DAEMON, HOST_DEVICE):
        assert raw(service, "GET", f"/identities/identity?{V}", uid=uid) == (200, DEVICE_JSON)


def test_e34_list():
    service = Service()
    status, body = raw(service, "GET", f"/identities/modules?{V}&type=aziot")
    assert status == 200
    assert body.startswith(
        '{"identities":[{"type":"aziot","spec":{"hubName":"myhub.azure-devices.net",'
        '"gatewayHost":"myhub.azure-devices.net","deviceId":"device01","moduleId":"$edgeAgent","genId":"1"}},'
    )
    assert "auth" not in body
    assert service("GET", f"/identities/modules?{V}") == MISSING_TYPE
    assert service("GET", f"/identities/modules?{V}&type=local") == wrong_type("local")


def test_e35_by_name():
    service = Service()
    for segment in ("%24edgeAgent", "$edgeAgent"):
        answer = service("GET", f"/identities/modules/{segment}?{V}&type=aziot")
        assert (answer[0], answer[1]["spec"]["moduleId"]) == (200, "$edgeAgent")
    assert service("DELETE", f"/identities/modules/module01?{V}&type=aziot") == 204
    assert service.hub.asked[-1] == ("delete_module", "module01")
    service.hub.wrong = PeerRefused("module nope not found", code="hub-404")
    assert service("GET", f"/identities/modules/nope?{V}&type=aziot") == (
        404,
        {"message": "Hub client error\ncaused by: module nope not found"},
    )


@pytest.mark.parametrize(
    ("method", "target", "body", "asked"),
    [
        ("POST", f"/identities/modules?{V}", NEW, ("create_module", "module01")),
        ("PUT", f"/identities/modules/module01?{V}&type=aziot", NEW, ("update_module", "module01")),
        ("PUT", f"/identities/modules/module01?{V}&type=aziot", {"x": 1}, ("update_module", "module01")),
        ("GET", f"/identities/modules/module01?{V}&type=aziot", None, ("module", "module01")),
    ],
)
def test_modules_are_made_and_kept(method, target, body, asked):
    service = Service()
    answer = service(method, target, body)
    assert answer[0] == 200
    assert answer[1]["spec"]["auth"] == {"type": "sas", "keyHandle": "HD"}
    assert service.hub.asked == [asked]


def test_no_handle_or_key_is_in_a_representation():
    told = aziot(structs.replace(DEVICE, authentication=Authentication(type="sas", key_handle="bearer")))
    issued = local("web", LocalIdentity(private_key_pem="secret", certificate_pem="c", not_after_unix_ms=0))
    assert "bearer" not in repr(told)
    assert "secret" not in repr(issued)


def test_a_module_without_a_generation_leaves_it_out():
    service = Service()
    service.hub._module = lambda module_id: structs.replace(DEVICE, module_id=module_id)
    spec = service("GET", f"/identities/modules/m?{V}&type=aziot")[1]["spec"]
    assert list(spec) == ["hubName", "gatewayHost", "deviceId", "moduleId", "auth"]


# --- local identities: services.md §3.6, E36 ---------------------------------------------------------


def test_e36_local_server_identity():
    service = Service()
    body = {"type": "local", "moduleId": "web", "localIdOpts": {"type": "x509", "attributes": "server"}}
    assert raw(service, "POST", f"/identities/modules?{V}", body) == (
        200,
        '{"type":"local","spec":{"moduleId":"web","auth":{'
        '"privateKey":"-----BEGIN PRIVATE KEY-----\\nx\\n-----END PRIVATE KEY-----\\n",'
        '"certificate":"-----BEGIN CERTIFICATE-----\\nx\\n-----END CERTIFICATE-----\\n",'
        '"expiration":"2026-12-31T23:59:59+00:00"}}}',
    )
    assert service.locals.asked == [("web", "server")]


@pytest.mark.parametrize(("name", "attributes"), [("localhost", "server"), ("hostprocess2", "client")])
@pytest.mark.parametrize("uid", [ROOT, DAEMON, None])
def test_principals_have_their_local_identity(name, attributes, uid):
    service = Service()
    own = {"localhost": HOST_LOCAL, "hostprocess2": HOST_BOTH}[name]
    answer = service("GET", f"/identities/modules/{name}?{V}&type=local", uid=own if uid is None else uid)
    assert (answer[0], answer[1]["type"], answer[1]["spec"]["moduleId"]) == (200, "local", name)
    assert service.locals.asked == [(name, attributes)]
    assert service.hub.asked == []


@pytest.mark.parametrize("name", ["web", "modulehost", "devicehost", "hostdaemon1"])
def test_nobody_else_has_one(name):
    service = Service()
    assert service("GET", f"/identities/modules/{name}?{V}&type=local") == parameter(
        "moduleId", f"local identity for {name} doesn't exist"
    )
    assert service.asked == []


@pytest.mark.parametrize("name", ["localhost", "hostprocess2"])
def test_a_principals_name_is_not_given_away(name):
    service = Service()
    assert service("POST", f"/identities/modules?{V}", {"type": "local", "moduleId": name}) == parameter(
        "moduleId", f"local identity for {name} already exists"
    )
    assert service.asked == []


@pytest.mark.parametrize("uid", [ROOT, DAEMON])
@pytest.mark.parametrize("name", ["aziot-dps-identity-cert", "aziot-dps-trust-bundle"])
def test_no_certificate_of_the_machine_is_replaced(name, uid, caplog):
    service = Service()
    assert (
        service("POST", f"/identities/modules?{V}", {"type": "local", "moduleId": name}, uid=uid)
        == UNAUTHORISED
    )
    assert service.asked == []
    assert f"uid {uid} may not have certificate {name} replaced" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "device-id",
        "device-id-temp",
        "device-ca",
        "pinned",
        "aziot-edged-trust-bundle",
        "aziot-edged-manifest-trust-bundle",
    ],
)
def test_no_configured_certificate_is_replaced(name):
    service = Service()
    assert service("POST", f"/identities/modules?{V}", {"type": "local", "moduleId": name}) == parameter(
        "moduleId", f"certificate {name} is configured for something else"
    )
    assert service.asked == []


def test_a_principal_is_no_way_around_that():
    listed = (IdentityPrincipal(uid=7, name="aziot-dps-identity-cert", kinds=("local",)),)
    service = Service(configuration(identities=IdentitySettings(principals=listed, local_domain="x")))
    target = f"/identities/modules/aziot-dps-identity-cert?{V}&type=local"
    assert service("GET", target, uid=7) == UNAUTHORISED
    assert service.asked == []


def test_without_a_local_ca_its_usual_name_is_free():
    service = Service(configuration(certificates=CertificateSettings()))
    assert service("POST", f"/identities/modules?{V}", {"type": "local", "moduleId": "device-ca"})[0] == 200


@pytest.mark.parametrize(
    "wrong",
    [
        RequestRefused("set [localid] domain", code="local-domain-missing"),
        RequestRefused("no issuance rule", code="no-rule", parameter="csr"),
        StoreUnavailable("disk full", code="disk-full"),
    ],
)
def test_what_keeps_a_local_identity_from_being_issued_is_in_the_log(wrong, caplog):
    service = Service()
    service.locals.wrong = wrong
    body = {"type": "local", "moduleId": "web"}
    assert service("POST", f"/identities/modules?{V}", body) == (500, {"message": "internal error"})
    assert wrong.message in caplog.text


def test_a_name_that_fits_no_certificate_is_told():
    service = Service()
    service.locals.wrong = RequestRefused("not a subject", code="name-unusable", parameter="moduleId")
    body = {"type": "local", "moduleId": "web"}
    assert service("POST", f"/identities/modules?{V}", body) == parameter("moduleId", "not a subject")


@pytest.mark.parametrize(
    ("not_after", "expiration"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (-5, "1970-01-01T00:00:00+00:00"),
        (1_798_761_599_999, "2026-12-31T23:59:59+00:00"),
        (10**18, "9999-12-31T23:59:59+00:00"),
    ],
)
def test_expirations(not_after, expiration):
    service = Service()
    plain = service.locals.issue

    async def issue(name, attributes):
        return structs.replace(await plain(name, attributes), not_after_unix_ms=not_after)

    service.locals.issue = issue
    body = {"type": "local", "moduleId": "web"}
    assert service("POST", f"/identities/modules?{V}", body)[1]["spec"]["auth"]["expiration"] == expiration


# --- provisioning info: services.md §3.4, E37 --------------------------------------------------------

INFO = f"/identities/provisioning?{LATEST}"


def info(provisioning, assignment=None, files=(), uid=STRANGER):
    service = Service(configuration(provisioning))
    service.snapshot = structs.replace(service.snapshot, assignment=assignment)
    service.files = dict(files)
    return raw(service, "GET", INFO, uid=uid)


def assigned(certificate_type):
    return Assignment(hub=HUB, device_id="device01", fingerprint="f", certificate_type=certificate_type)


HEAD = (
    '{"source":"dps","auth":"%s","endpoint":"https://global.azure-devices-provisioning.net/",'
    '"scope_id":"0ab1234C5D6","registration_id":"%s",'
)
SAS_HEAD, X509_HEAD = (HEAD % (auth, "my-device") for auth in ("symmetric_key", "x509"))


def manual(authentication):
    return ManualProvisioning(hub=HUB, device_id="d", authentication=authentication)


@pytest.mark.parametrize(
    ("provisioning", "assignment", "body"),
    [
        (dps(attestation=X509), None, X509_HEAD + '"payload":null}'),
        (dps(attestation=ISSUED), None, X509_HEAD + '"payload":null}'),
        (dps(), assigned(None), SAS_HEAD + '"payload":null}'),
        (
            dps(),
            assigned("serverCertificate"),
            SAS_HEAD + '"cert_policy":{"certificateType":"serverCertificate"},"payload":null}',
        ),
        (
            dps(),
            assigned("none"),
            SAS_HEAD + '"cert_policy":{"certificateType":"none"},"payload":null}',
        ),
        (
            dps(attestation=X509, registration_id=None),
            None,
            HEAD % ("x509", "from-the-certificate") + '"payload":null}',
        ),
        (
            manual(KEYED),
            None,
            '{"source":"manual","auth":"sas"}',
        ),
        (
            manual(X509),
            None,
            '{"source":"manual","auth":"x509"}',
        ),
        (
            manual(ISSUED),
            None,
            '{"source":"manual","auth":"x509"}',
        ),
        (NoProvisioning(), None, '{"source":"none"}'),
    ],
)
def test_e37_provisioning_info(provisioning, assignment, body):
    assert info(provisioning, assignment) == (200, body)


@pytest.mark.parametrize(
    "content", [b'{ "model": "press", "n": [1, 2.5, null] }', b"null", b'"text"', b"\t[ ]\n"]
)
def test_the_payload_is_the_parsed_file(content):
    status, body = info(dps(payload_path="/payload.json"), files={"/payload.json": content})
    assert status == 200
    compact = msgspec.json.encode(msgspec.json.decode(content)).decode()
    assert body.endswith(f'"registration_id":"my-device","payload":{compact}}}')


def test_the_payload_is_read_again_each_time():
    service = Service(configuration(dps(payload_path="/p")))
    for content in (b"1", b"2"):
        service.files["/p"] = content
        assert service("GET", INFO)[1]["payload"] == int(content)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"nonsense", b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'"\xff"', b"{} {}"],
    ids=lambda one: repr(one)[:12],
)
def test_a_payload_that_is_none_is_told_in_the_log(content, caplog):
    files = {} if content is None else {"/place/p.json": content}
    assert info(dps(payload_path="/place/p.json"), files=files) == (500, '{"message":"internal error"}')
    assert "/place/p.json" in caplog.text


def test_a_payload_on_a_disk_that_hangs_is_not_waited_for(caplog):
    service = Service(configuration(dps(payload_path="/mnt/p.json")))
    mended = threading.Event()
    service.files = HangingFiles(mended)
    try:
        clock = trio.testing.MockClock(autojump_threshold=0)
        assert service("GET", INFO, clock=clock) == (500, {"message": "internal error"})
    finally:
        mended.set()
    assert "/mnt/p.json could not be read in time" in caplog.text


class HangingFiles:
    """Reading takes until it is mended."""

    def __init__(self, mended):
        self._mended = mended

    def get(self, path):
        self._mended.wait(30)


def test_an_endpoint_with_a_port_or_path_keeps_it():
    for endpoint, told in [
        ("https://localhost:8443", "https://localhost:8443/"),
        ("https://dps.example/path", "https://dps.example/path"),
    ]:
        assert f'"endpoint":"{told}"' in info(dps(global_endpoint=endpoint))[1]


def test_without_any_registration_id_the_reason_is_in_the_log(caplog):
    service = Service(configuration(dps(attestation=X509, registration_id=None)))
    service.snapshot = Snapshot()
    assert service("GET", INFO) == (500, {"message": "internal error"})
    assert "no registration id" in caplog.text


# --- reprovision and trust bundle: E38 ---------------------------------------------------------------

REPROVISION = f"/identities/device/reprovision?{V}"


@pytest.mark.parametrize(("uid", "privileged"), [(ROOT, True), (OWN, True), (DAEMON, False)])
def test_e38_reprovision(uid, privileged):
    service = Service()

    def taken(event):
        service.machine.record(state="Reprovisioning", phase="Staging", effects=[{"type": "stage-key"}])
        service.machine.record({"type": "credential-committed"}, state="Reprovisioning", phase="Retiring")
        service.machine.record({"type": "credential-retired"})

    service.machine.on_command = taken
    assert service("POST", REPROVISION, TYPED, uid=uid) == 204
    assert service.machine.commands == [ReprovisionRequested(uid=uid, privileged=privileged)]


def test_a_reprovision_that_fails_says_why():
    service = Service()
    error = LastError(
        failure_class="wait",
        code="dps-429",
        message="Too many requests",
        tracking_id="T-1",
        retry_at="2026-11-25T02:00:00.000Z",
    )

    def taken(event):
        service.machine.record(state="Reprovisioning", phase="Submitting")
        service.machine.record({"type": "registration-failed"}, state="Reprovisioning")
        service.machine.fields = {"attempt": AttemptStatus(number=2, last_error=error)}

    service.machine.on_command = taken
    assert service("POST", REPROVISION, TYPED) == (
        404,
        {
            "message": "DPS client error\ncaused by: dps-429: Too many requests "
            "(class wait, tracking id T-1, tried again at 2026-11-25T02:00:00.000Z)"
        },
    )


def test_a_reprovision_that_is_refused_says_why():
    service = Service()
    service.machine.taken = Taken(sequence=1, verdict="refused", why="Attempts are on hold.")
    assert service("POST", REPROVISION) == (
        404,
        {"message": "DPS client error\ncaused by: Attempts are on hold."},
    )


@pytest.mark.parametrize(("retry_after_ms", "seconds"), [(None, "5"), (1, "1"), (12_001, "13")])
def test_a_reprovision_that_cannot_be_journalled_is_to_be_repeated(retry_after_ms, seconds):
    service = Service()
    service.machine.unavailable = StoreUnavailable(
        "journal: disk full", code="journal-unavailable", retry_after_ms=retry_after_ms
    )
    response = service.response("POST", REPROVISION)
    assert (response.status, response.headers) == (503, (("retry-after", seconds),))
    assert msgspec.json.decode(response.body)["message"] == (
        "the journal cannot be written, so nothing was done: journal: disk full; "
        f"free or repair its disk and repeat this in {seconds} s"
    )


@pytest.mark.parametrize("uid", CALLERS.values())
def test_e38_trust_bundle(uid):
    service = Service()
    target = f"/trust-bundle?{V}"
    assert service("GET", target, uid=uid) == (200, {"certificate": BUNDLE.decode()})
    service.certificates.held = {}
    assert raw(service, "GET", target, uid=uid) == (200, '{"certificate":""}')


def test_the_trust_bundle_is_the_configured_one():
    service = Service(configuration(trust_bundle_id="mine"))
    service.certificates.held["mine"] = b"other"
    assert service("GET", f"/trust-bundle?{V}") == (200, {"certificate": "other"})


@pytest.mark.parametrize("wrong", [StoreUnavailable("/secret: no", code="x"), "latin1", "hangs"], ids=str)
def test_a_trust_bundle_that_cannot_be_read(wrong, caplog):
    service = Service()
    if wrong == "latin1":
        service.certificates.held["aziot-dps-trust-bundle"] = b"\xe4"
    else:
        service.certificates.wrong = wrong
    clock = trio.testing.MockClock(autojump_threshold=0)
    assert service("GET", f"/trust-bundle?{V}", clock=clock) == (500, {"message": "internal error"})
    assert caplog.records


# --- over a socket -----------------------------------------------------------------------------------


def spoken(path, handler, *requests):
    async def main():
        async with serving(path, handler):
            return [await exchange(path, one) for one in requests]

    return trio.run(main)


def http(method, target, body="", *, host="Host: identityd.sock\r\n"):
    head = f"{method} {target} HTTP/1.1\r\n{host}Connection: close\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n{body}"


@pytest.fixture
def on_socket(tmp_path):
    """Requests to a service whose daemon is whoever runs this test."""
    listed = (IdentityPrincipal(uid=os.getuid(), name="me"),)
    service = Service(configuration(identities=IdentitySettings(principals=listed, local_domain="x")))

    def taken(event):
        service.machine.record()
        service.machine.taken = Taken(sequence=len(service.machine.lines), verdict="taken", why="stands")

    service.machine.on_command = taken
    service.speak = lambda *requests: spoken(str(tmp_path / "identityd.sock"), service.handler, *requests)
    return service


def parts(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body.decode()


def test_every_route_over_a_real_socket(on_socket):
    aziot, named = '{"type":"aziot"}', '{"type":"aziot","moduleId":"hostprocess2"}'
    rows = [
        (http("GET", f"/identities/identity?{V}"), 200, DEVICE_JSON),
        (http("POST", f"/identities/device?{V}", aziot), 200, DEVICE_JSON),
        (http("POST", f"http://identityd.sock/identities/device?{V}", aziot), 200, DEVICE_JSON),
        (http("POST", f"/identities/device?{V}", aziot, host=""), 200, DEVICE_JSON),
        (http("GET", f"/identities/modules/hostprocess2?{V}&type=aziot"), 200, MODULE_JSON),
        (
            http("POST", f"/identities/modules?{V}", named),
            200,
            MODULE_JSON,
        ),
        (http("PUT", f"/identities/modules/hostprocess2?{V}&type=aziot", "{}"), 200, MODULE_JSON),
        (http("DELETE", f"/identities/modules/hostprocess2?{V}&type=aziot"), 204, ""),
        (http("POST", f"/identities/device/reprovision?{V}", aziot), 204, ""),
        (http("POST", f"/identities/device/reprovision?{V}"), 204, ""),
        (
            http("GET", f"/identities/provisioning?{LATEST}"),
            200,
            SAS_HEAD + '"payload":null}',
        ),
        (
            http("GET", f"/trust-bundle?{V}"),
            200,
            msgspec.json.encode({"certificate": BUNDLE.decode()}).decode(),
        ),
        (http("GET", f"/identities/modules?{V}"), 400, msgspec.json.encode(MISSING_TYPE[1]).decode()),
        (http("GET", f"/identities/modules/%ff?{V}"), 404, '{"message":"not found"}'),
    ]
    for answer, (_, status, body) in zip(on_socket.speak(*[row[0] for row in rows]), rows, strict=True):
        head, said = parts(answer)
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert said == body
        assert len(head) < 512
        assert (b"content-type: application/json\r\n" in head + b"\r\n") is (status != 204)
    assert on_socket.machine.commands[0] == ReprovisionRequested(uid=os.getuid(), privileged=False)


def test_the_uid_is_the_kernels(on_socket):
    listed = (IdentityPrincipal(uid=os.getuid(), name="me", kinds=("local",)),)
    on_socket.configuration = configuration(identities=IdentitySettings(principals=listed))
    [answer] = on_socket.speak(http("POST", f"/identities/device?{V}", '{"type":"aziot"}'))
    assert parts(answer)[0].startswith(b"HTTP/1.1 401 ")
    assert parts(answer)[1] == '{"message":"authorization error"}'


def test_who_waits_for_a_reprovision_keeps_nobody_else_waiting(tmp_path):
    service = Service(
        configuration(
            identities=IdentitySettings(principals=(IdentityPrincipal(uid=os.getuid(), name="me"),))
        )
    )
    service.machine.on_command = lambda event: service.machine.record(state="Reprovisioning", phase="Polling")
    path = str(tmp_path / "identityd.sock")

    async def main():
        answers = []

        async def reprovision():
            answers.append(await exchange(path, http("POST", REPROVISION)))

        async with serving(path, service.handler), trio.open_nursery() as nursery:
            nursery.start_soon(reprovision)
            while not service.machine.watchers:
                await trio.lowlevel.checkpoint()
            read = await exchange(path, http("POST", f"/identities/device?{V}", '{"type":"aziot"}'))
            assert parts(read)[0].startswith(b"HTTP/1.1 200 ")
            assert answers == []
            service.machine.record({"type": "credential-committed"}, state="Reprovisioning", phase="Retiring")
            service.machine.record({"type": "credential-retired"})
        return answers

    [answer] = trio.run(main)
    assert parts(answer)[0].startswith(b"HTTP/1.1 204 ")
