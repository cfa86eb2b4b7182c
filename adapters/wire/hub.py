"""The one IoT Hub call that tells whether a credential is accepted, and how its answer reads."""

import re
from urllib.parse import quote

import msgspec
from msgspec import Struct

from adapters.errors import bounded

API_VERSION = "2017-11-08-preview"
DEVICE_NOT_FOUND = 404001

_SEGMENT_SAFE = "!$&'()*+,;:@"
_CODE_IN_TEXT = re.compile(rf"(?<!\d){DEVICE_NOT_FOUND}(?!\d)|\bErrorCode:DeviceNotFound\b")
"IoT Hub's own Message begins with the name of 404001, other texts carry the number."


class HubError(Struct, frozen=True, kw_only=True):
    """The body of a non-success status; every member may be missing."""

    code: int | None = None
    message: str | None = None
    tracking_id: str | None = None


class _Error(Struct):
    upper_message: str | None = msgspec.field(name="Message", default=None)
    lower_message: str | None = msgspec.field(name="message", default=None)
    error_message: str | None = msgspec.field(name="errorMessage", default=None)
    error_code: int | str | None = msgspec.field(name="errorCode", default=None)
    upper_code: int | str | None = msgspec.field(name="ErrorCode", default=None)
    tracking_id: str | None = msgspec.field(name="trackingId", default=None)


_ERROR = msgspec.json.Decoder(_Error)


def modules_url(hub: str, device_id: str) -> str:
    """GET here. ``hub`` is host or host:port."""
    return f"https://{hub}/devices/{quote(device_id, safe=_SEGMENT_SAFE)}/modules?api-version={API_VERSION}"


def parse_error(body: bytes) -> HubError:
    """Never raises: a body that says nothing gives an empty error."""
    try:
        error = _ERROR.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return HubError()
    message = error.upper_message or error.lower_message or error.error_message
    stated = (error.error_code if error.error_code is not None else error.upper_code) or ""
    code = int(stated) if re.fullmatch(r"[0-9]{1,9}", str(stated)) else None
    if code is None and message and _CODE_IN_TEXT.search(message):
        code = DEVICE_NOT_FOUND
    return HubError(
        code=code,
        message=bounded(message) if message else None,
        tracking_id=bounded(error.tracking_id, 80) if error.tracking_id else None,
    )


def is_refusal(status: int, body: bytes) -> bool:
    """401, or 404 with 404001 as errorCode or in the message (design §2, Refused by the hub).

    Every other 403, 404, 429 and 5xx is not: a hub out of quota must not reprovision a fleet.
    """
    return status == 401 or (status == 404 and parse_error(body).code == DEVICE_NOT_FOUND)
