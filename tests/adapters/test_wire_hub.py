"""What counts as a refusal, and nothing else (design §2, Refused by the hub)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.wire import hub


def test_url():
    assert hub.modules_url("localhost:8443", "a b@c=1") == (
        "https://localhost:8443/devices/a%20b@c%3D1/modules?api-version=2017-11-08-preview"
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
    assert hub.is_refusal(status, body) == refused


def test_error_text():
    assert hub.parse_error(b'{"Message": "no\\nway", "ExceptionMessage": "x"}') == hub.HubError(
        message="no way"
    )
    assert hub.parse_error(b'{"errorMessage": "m", "trackingId": "t"}') == hub.HubError(
        message="m", tracking_id="t"
    )


@given(st.integers(100, 599), st.binary(max_size=80))
def test_any_bytes(status, body):
    assert isinstance(hub.parse_error(body), hub.HubError)
    assert hub.is_refusal(status, body) in (True, False)
