"""Golden bytes of cloud.md §1.2, 1.7, 1.8, 1.9 and 8.2, and what tolerance means."""

import base64
import json

import msgspec
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import AdapterError, PeerProtocolError
from adapters.wire import dps
from statemachine.settings import API_VERSIONS

OLD, NEW, GA = (dps.DIALECTS[version] for version in API_VERSIONS)
CSR = base64.b64decode("MIHZMIGAAgEAMB4xHDAaBgNVBAMME2xpbmU0LXByZXNzLTE3")
CHAIN = [pem.bytes() for pem in trustme.CA().issue_cert("x.test").cert_chain_pems]
DER = b"".join(CHAIN[0].split(b"\n")[1:-2]).decode()

ASSIGNED = b"""{
  "operationId": "5.a1b2c3d4e5f60718.0b7e3c1a-4e0f-4a55-9d54-3d5a8d0a4f11",
  "status": "assigned",
  "registrationState": {
    "registrationId": "line4-press-17",
    "createdDateTimeUtc": "2024-05-02T10:11:12.1310000Z",
    "assignedHub": "contoso-plant.azure-devices.net",
    "deviceId": "line4-press-17",
    "status": "assigned",
    "substatus": "initialAssignment",
    "lastUpdatedDateTimeUtc": "2024-05-02T10:11:15.0140000Z",
    "etag": "IjAxMDA0NzY2LTAwMDAi",
    "issuedClientCertificate": "-----BEGIN CERTIFICATE-----\\nMIIB...\\n-----END CERTIFICATE-----\\n",
    "deviceCertificateIssuanceSettings": {"certificateType": "serverCertificate"},
    "trustBundle": {"certificates": [{"certificate": "-----BEGIN CERTIFICATE-----\\r\\nMIID...\\r\\n-----END CERTIFICATE-----\\r\\n"}]},
    "payload": {"ring": "canary"}
  }
}"""  # noqa: E501 - one PEM text is one JSON string
REFUSED = b"""{
  "operationId": "5.a1b2...",
  "status": "failed",
  "registrationState": {"registrationId": "line4-press-17", "status": "failed",
    "errorCode": 400000, "errorMessage": "Device sent CSR but it is not configured in the service."}
}"""


def state(dialect=OLD, status="assigned", **members):
    told = {"assignedHub": "h.example", "deviceId": "d", **members}
    return dps.parse_status(dialect, json.dumps({"status": status, "registrationState": told}).encode())


def test_every_setting_has_its_dialect():
    assert set(dps.DIALECTS) == set(API_VERSIONS)


def test_urls():
    endpoint = "https://global.azure-devices-provisioning.net"
    assert dps.register_url(OLD, endpoint, "0ne00AbC", "Dev:1") == (
        f"{endpoint}/0ne00AbC/registrations/Dev:1/register?api-version=2021-11-01-preview"
    )
    assert dps.operation_url(GA, "https://localhost:8443/", "s", "d", "5.a b/#?") == (
        "https://localhost:8443/s/registrations/d/operations/5.a%20b%2F%23%3F?api-version=2026-11-01"
    )


def test_golden_register_body():
    body = dps.register_request(OLD, "line4-press-17", CSR, b' {"model_id": "PX-200", "site": 4}\n')
    assert body == (
        b'{"registrationId":"line4-press-17",'
        b'"clientCertificateCsr":"MIHZMIGAAgEAMB4xHDAaBgNVBAMME2xpbmU0LXByZXNzLTE3",'
        b'"payload":{"model_id": "PX-200", "site": 4}}'
    )


@pytest.mark.parametrize("dialect", [NEW, GA])
def test_golden_register_body_of_the_successor(dialect):
    assert dps.register_request(dialect, "line4-press-17", CSR, b'{"site": 4}') == (
        b'{"registrationId":"line4-press-17",'
        b'"csr":"MIHZMIGAAgEAMB4xHDAaBgNVBAMME2xpbmU0LXByZXNzLTE3","payload":{"site": 4}}'
    )


def test_absent_members_are_left_out():
    assert dps.register_request(OLD, "d", None, None) == b'{"registrationId":"d"}'


@pytest.mark.parametrize(
    ("dialect", "payload"),
    [(OLD, b""), (OLD, b"{"), (OLD, b"\xff"), (OLD, b"[" * 5000), (NEW, b"[1]"), (GA, b'"x"')],
)
def test_payloads_that_cannot_be_sent(dialect, payload):
    with pytest.raises(ValueError, match="JSON"):
        dps.register_request(dialect, "d", None, payload)


def test_old_dialect_takes_any_json():
    assert dps.register_request(OLD, "d", None, b"[1, null]").endswith(b'"payload":[1, null]}')


def test_register_answer():
    answer = dps.parse_register(OLD, b'{"operationId": "5.a1.0b-4e", "status": "assigning"}')
    assert answer == dps.RegisterAnswer(operation_id="5.a1.0b-4e", status="assigning", state=None)
    assert dps.parse_register(OLD, b'{"operationId":"op-1"}').status == "assigning"
    assert dps.parse_register(OLD, b'{"operationId":"op","status":"assigned"}').state is None
    final = dps.parse_register(OLD, ASSIGNED)
    assert final.state is not None
    assert final.state.device_id == "line4-press-17"
    assert dps.parse_register(OLD, b'{"status":"disabled"}').state == dps.DpsState(status="disabled")


def test_golden_assigned():
    assert dps.parse_status(OLD, ASSIGNED) == dps.DpsState(
        status="assigned",
        assigned_hub="contoso-plant.azure-devices.net",
        device_id="line4-press-17",
        substatus="initialAssignment",
        chain_pem=b"-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n",
        bundle=("-----BEGIN CERTIFICATE-----\r\nMIID...\r\n-----END CERTIFICATE-----\r\n",),
        certificate_type="serverCertificate",
    )


def test_golden_csr_refusal():
    failed = dps.parse_status(OLD, REFUSED)
    assert failed.status == "failed"
    assert dps.is_csr_refused(failed.error_code, failed.error_message)


def test_an_error_in_the_other_spelling():
    """The reference's mock (cloud.md §6)."""
    failed = dps.parse_status(
        OLD, REFUSED.replace(b"errorCode", b"code").replace(b"errorMessage", b"message")
    )
    assert dps.is_csr_refused(failed.error_code, failed.error_message)


def test_golden_assigned_of_the_successor():
    answer = state(NEW, issuedCertificateChain=[DER], trustBundle={"certificates": [{"certificate": "x"}]})
    assert answer.chain_pem == CHAIN[0]
    assert answer.bundle is None
    assert state(GA).chain_pem is None
    assert state(GA, issuedCertificateChain=[]).chain_pem is None


@pytest.mark.parametrize("chain", [["%%"], ["MIIB2zCCAWGg...leaf"], [DER[:-8]], [DER] * 17])
def test_a_chain_that_cannot_be_read_is_a_problem_not_an_absence(chain):
    answer = state(NEW, issuedCertificateChain=chain)
    assert answer.chain_pem is None
    assert answer.chain_problem


@pytest.mark.parametrize(
    ("bundle", "expected", "problem"),
    [
        (None, None, False),
        ({}, None, False),
        ({"certificates": []}, None, False),
        ({"certificates": None, "etag": "x"}, None, False),
        ({"certificates": [{"certificate": "A", "metadata": {}}, {"certificate": "B"}]}, ("A", "B"), False),
        ({"certificates": [{}]}, None, True),
        ("garbage", None, True),
        ([1], None, True),
    ],
)
def test_a_bad_bundle_never_fails_the_rest(bundle, expected, problem):
    answer = state(trustBundle=bundle, deviceCertificateIssuanceSettings=7)
    assert answer.bundle == expected
    assert (answer.bundle_problem is not None) == problem
    assert answer.device_id == "d"


@pytest.mark.parametrize("status", ["unassigned", "assigning", "Assigning"])
def test_pending_needs_no_state(status):
    answer = dps.parse_status(OLD, json.dumps({"status": status}).encode())
    assert answer == dps.DpsState(status=status.lower())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "answer-malformed"),
        (b"<html>", "answer-malformed"),
        (b"[]", "answer-malformed"),
        (b"{}", "answer-malformed"),
        (b'{"status": 3}', "answer-malformed"),
        (b"[" * 100_000, "answer-malformed"),
        (b'{"status": "pondering"}', "status-unknown"),
        (b'{"status": "assigned"}', "assignment-invalid"),
    ],
)
def test_status_answers_that_are_none(body, code):
    with pytest.raises(PeerProtocolError) as caught:
        dps.parse_status(OLD, body)
    assert caught.value.code == code


@pytest.mark.parametrize("operation_id", ["", "a b", "x" * 513, "é"])
def test_impossible_operation_ids(operation_id):
    with pytest.raises(PeerProtocolError, match="operation"):
        dps.parse_register(OLD, json.dumps({"operationId": operation_id}).encode())
    with pytest.raises(PeerProtocolError, match="operation"):
        dps.parse_register(OLD, b"{}")


@pytest.mark.parametrize(
    ("hub", "fine"),
    [
        ("contoso.azure-devices.net", True),
        ("localhost:8443", True),
        ("127.0.0.1:1", True),
        ("a" * 253, True),
        ("a" * 254, False),
        ("", False),
        ("https://h", False),
        ("h/x", False),
        ("h:0", False),
        ("h:65536", False),
        ("h:", False),
        ("h:٣", False),
        ("-h", False),
        ("h..x", False),
        ("h\n", False),
        ("user@h", False),
    ],
)
def test_hub_names(hub, fine):
    assert dps.is_hub_name(hub) == fine


@pytest.mark.parametrize(
    ("device_id", "fine"),
    [("Dev-1", True), ("a.b_c:d@e=$'", True), ("", False), (".", False), ("..", False), ("a/b", False),
     ("a b", False), ("x" * 128, True), ("x" * 129, False), ("é", False), ("a\n", False)],
)  # fmt: skip
def test_device_ids(device_id, fine):
    assert dps.is_device_id(device_id) == fine


TEXT = "Device sent CSR but it is not configured in the service"


@pytest.mark.parametrize(
    ("code", "message", "refused"),
    [
        (400000, TEXT + ".", True),
        (400000, TEXT.upper(), True),
        (None, TEXT, True),
        (401002, TEXT, False),
        (400000, "Bad request", False),
        (400000, None, False),
    ],
)
def test_csr_refusals(code, message, refused):
    assert dps.is_csr_refused(code, message) == refused


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"errorCode": 401002, "trackingId": "0e5c...", "message": "Unauthorized",'
            b' "timestampUtc": "2024-05-02T10:11:12Z"}',
            dps.DpsError(code=401002, message="Unauthorized", tracking_id="0e5c..."),
        ),
        (b'{"code": "404001", "errorMessage": "gone"}', dps.DpsError(code=404001, message="gone")),
        (b"{}", dps.DpsError()),
        (b"", dps.DpsError()),
        (b"<html>", dps.DpsError()),
        (b'{"errorCode": "many", "message": ""}', dps.DpsError()),
    ],
)
def test_errors(body, expected):
    assert dps.parse_error(body) == expected


VALUES = (None, True, 0, -7, 400000, 10**30, 1.5, "", "op-1", "h.example", "é\n", [], ["QUJD"], [1], {},
          {"certificates": [{"certificate": "x"}]}, {"certificateType": 4})  # fmt: skip
JSON = st.sampled_from(VALUES)
MEMBERS = st.sampled_from([f.encode_name for f in msgspec.structs.fields(dps._State)])
STATES = st.dictionaries(MEMBERS, JSON, max_size=6)
OPERATIONS = st.fixed_dictionaries(
    {}, optional={"operationId": JSON, "status": st.sampled_from(dps.STATUSES) | JSON,
                  "registrationState": STATES | JSON},
)  # fmt: skip


@given(st.sampled_from([OLD, NEW]), st.binary(max_size=60) | OPERATIONS.map(lambda o: json.dumps(o).encode()))
def test_any_bytes_are_a_typed_result_or_our_error(dialect, body):
    assert isinstance(dps.parse_error(body), dps.DpsError)
    for parse, result in ((dps.parse_status, dps.DpsState), (dps.parse_register, dps.RegisterAnswer)):
        try:
            assert isinstance(parse(dialect, body), result)
        except AdapterError as exc:
            assert exc.code in {"answer-malformed", "status-unknown", "assignment-invalid"}  # noqa: PT017
