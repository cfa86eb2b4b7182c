"""What counts as a refusal, and nothing else (design §2, Refused by the hub)."""

from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import PeerProtocolError, RequestRefused
from adapters.wire import hub


def test_a_module_s_url_has_nothing_but_unreserved_characters():
    assert hub.module_url("localhost:8443", "d", "a b%2F?#&é=$+'~._-") == (
        "https://localhost:8443/devices/d/modules/a%20b%252F%3F%23%26%C3%A9%3D%24%2B%27~._-"
        "?api-version=2017-11-08-preview"
    )


def raised_by(work, kind):
    """The error of that kind, None when there was none; any other is a failure."""
    try:
        work()
    except kind as exc:
        return exc
    return None


@given(st.text())
def test_any_id_is_one_segment_or_refused(module_id):
    refused = raised_by(lambda: hub.check_module_id(module_id), RequestRefused)
    if refused is not None:
        assert refused.parameter == "module_id"
        return
    url = hub.module_url("h", "d", module_id)
    path = urlsplit(url).path
    assert path.count("/") == 4
    assert unquote(path.rpartition("/")[2]) == module_id
    body = msgspec.json.decode(hub.module_request("d", module_id))
    assert body == {"moduleId": module_id, "deviceId": "d"}


def test_url():
    assert hub.modules_url("localhost:8443", "a b@c=1") == (
        "https://localhost:8443/devices/a%20b%40c%3D1/modules?api-version=2017-11-08-preview"
    )


@pytest.mark.parametrize(
    ("status", "body", "refused"),
    [
        (401, b"", True),
        (401, b'{"Message": "Unauthorized"}', True),
        (404, b'{"Message": "ErrorCode:DeviceNotFound;Device x not registered (404001)"}', True),
        (404, b'{"Message":"ErrorCode:DeviceNotFound;Device x not registered"}', True),
        (404, b'{"Message":"ErrorCode:DeviceNotFoundElsewhere"}', False),
        (404, b'{"Message":"ErrorCode:ModuleNotFound;"}', False),
        (404, b'{"errorCode": 404001}', True),
        (404, b'{"errorCode": "404001", "message": "x"}', True),
        (404, b'{"Message": "ErrorCode:404001;"}', True),
        (404, b'{"Message": "tracking 94040015"}', False),
        (404, b'{"errorCode": 404010}', False),
        (404, b"<html>", False),
        (200, b'{"errorCode": 404001}', False),
        (403, b'{"Message": "quota, 404001"}', False),
        (429, b"", False),
        (500, b"", False),
        (503, b'{"errorCode": 401000}', False),
    ],
)
def test_refusals(status, body, refused):
    assert (hub.refusal_code(status, body) is not None) == refused


def test_error_text():
    assert hub.parse_error(b'{"Message": "no\\nway", "ExceptionMessage": "x"}') == hub.HubError(
        message="no way"
    )
    assert hub.parse_error(b'{"errorMessage": "m", "trackingId": "t"}') == hub.HubError(
        message="m", tracking_id="t"
    )


@pytest.mark.parametrize(
    ("exception_message", "tracking_id"),
    [
        ("Tracking ID:a1b2-G:10-TimeStamp:05/20/2018 19:26:21", "a1b2-G"),
        ("Tracking ID: x", "x"),
        ("Tracking ID:", None),
        ("", None),
    ],
)
def test_the_tracking_id_of_a_hub(exception_message, tracking_id):
    body = msgspec.json.encode({"Message": "m", "ExceptionMessage": exception_message})
    assert hub.parse_error(body) == hub.HubError(message="m", tracking_id=tracking_id)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_module_or_a_typed_error(body):
    for parse in (lambda: hub.parse_module(body, "m"), lambda: hub.parse_modules(body)):
        refused = raised_by(parse, PeerProtocolError)
        assert refused is None or refused.code == "answer-malformed"


@given(st.integers(100, 599), st.binary(max_size=80))
def test_any_bytes(status, body):
    assert isinstance(hub.parse_error(body), hub.HubError)
    expected = {401: ("hub-401",), 404: (None, "hub-404001")}.get(status, (None,))
    assert hub.refusal_code(status, body) in expected
