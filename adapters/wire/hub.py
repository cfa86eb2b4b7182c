"""Module identities of IoT Hub over REST, api-version 2017-11-08-preview (cloud.md §3): URLs, bodies, errors.

A proof of a credential is the list of modules, too. Members we do not know are ignored, ``authentication``
among them when it is read: its types have grown before, and one more must not make a list fail.
"""

import base64
import re
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from adapters.errors import PeerProtocolError, RequestRefused, bounded

API_VERSION = "2017-11-08-preview"
DEVICE_NOT_FOUND = 404001
MAX_ID_CHARS = 128
"What IoT Hub takes, for devices and modules."
MAX_MODULES = 1000
"Of one device; IoT Hub has 50 (unverified)."
MAX_MODULE_BYTES = 64 * 1024
MAX_LIST_BYTES = 4 * 1024 * 1024
"Of answers: whatever a hub sends, it costs no more memory than this."

_TRACKING_IN_TEXT = re.compile(r"Tracking ID:\s*([0-9A-Za-z-]{1,80})")
"In ExceptionMessage, which IoT Hub sends beside Message."
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
    exception_message: str | None = msgspec.field(name="ExceptionMessage", default=None)


_ERROR = msgspec.json.Decoder(_Error)


# --- modules -----------------------------------------------------------------------------------------


class Module(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One module identity, without its authentication. The original's cache files have the same members."""

    module_id: str
    managed_by: str | None = None
    device_id: str
    generation_id: str | None = None
    "Changes when a module is deleted and made again."


class ModuleKeyPair(Struct, frozen=True, kw_only=True):
    """What a module proves itself to the hub with: either will do. Secret."""

    primary: bytes
    secondary: bytes

    def __repr__(self) -> str:
        return "ModuleKeyPair()"


class _SymmetricKey(Struct, frozen=True, rename="camel"):
    primary_key: str
    secondary_key: str


class _Sas(Struct, frozen=True, rename="camel"):
    type: str
    symmetric_key: _SymmetricKey


class _Body(Struct, frozen=True, kw_only=True, rename="camel"):
    module_id: str
    device_id: str
    managed_by: str | UnsetType = UNSET
    authentication: _Sas | UnsetType = UNSET


_MODULE = msgspec.json.Decoder(Module)
_MODULES = msgspec.json.Decoder(list[Module])


def modules_url(host: str, device_id: str) -> str:
    """GET here. ``host`` is host or host:port."""
    return f"https://{host}/devices/{_segment(device_id)}/modules?api-version={API_VERSION}"


def module_url(host: str, device_id: str, module_id: str) -> str:
    """GET, PUT, DELETE here. ``module_id`` has passed ``check_module_id``."""
    return f"https://{host}/devices/{_segment(device_id)}/modules/{_segment(module_id)}?api-version={API_VERSION}"


def _segment(name: str) -> str:
    # Everything but RFC 3986 unreserved characters (services.md §10, quirk 23).
    return quote(name, safe="")


def check_module_id(module_id: str) -> None:
    """Raises RequestRefused (parameter ``module_id``) for what no module can be called."""
    cause = None
    if not module_id.strip():
        cause = "module name cannot be empty"
    elif len(module_id) > MAX_ID_CHARS:
        cause = f"module name is longer than {MAX_ID_CHARS} characters"
    elif not module_id.isprintable():
        cause = "module name has characters that cannot be printed"
    elif "/" in module_id:
        cause = "module name cannot have a slash"
    elif module_id in (".", ".."):
        cause = "module name cannot be a relative path"
    if cause is not None:
        raise RequestRefused(cause, code="module-id-unusable", parameter="module_id")


def module_request(
    device_id: str, module_id: str, *, managed_by: str | None = None, keys: ModuleKeyPair | None = None
) -> bytes:
    """Body of a PUT; without keys it creates. ``managed_by`` is sent back as the hub said it, to stay."""
    body = _Body(
        module_id=module_id, device_id=device_id, managed_by=UNSET if managed_by is None else managed_by
    )
    if keys is not None:
        pair = _SymmetricKey(
            base64.b64encode(keys.primary).decode("ascii"), base64.b64encode(keys.secondary).decode("ascii")
        )
        body = structs.replace(body, authentication=_Sas("sas", pair))
    return msgspec.json.encode(body)


def parse_module(body: bytes, module_id: str) -> Module:
    """Raises PeerProtocolError (code ``answer-malformed``), also for another module than was asked about."""
    module: Module = _decoded(_MODULE, body, "a module")
    if module.module_id != module_id:
        raise _malformed(f"it was asked about module {bounded(module_id, 80)} and told of another")
    return module


def parse_modules(body: bytes) -> tuple[Module, ...]:
    """In the hub's order. Raises PeerProtocolError (code ``answer-malformed``)."""
    modules: list[Module] = _decoded(_MODULES, body, "a list of modules")
    if len(modules) > MAX_MODULES:
        raise _malformed(f"it lists {len(modules)} modules, more than {MAX_MODULES}")
    for number, module in enumerate(modules):
        try:
            check_module_id(module.module_id)
        except RequestRefused as exc:
            raise _malformed(f"$[{number}].moduleId: {exc.message}") from exc
    return tuple(modules)


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes, what: str) -> Any:  # noqa: ANN401  each its own
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise _malformed(f"it is not {what}: {bounded(str(exc), 160)}") from exc


def _malformed(why: str) -> PeerProtocolError:
    return PeerProtocolError(f"the hub's answer cannot be used: {why}", code="answer-malformed")


# --- errors ------------------------------------------------------------------------------------------


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
    tracking_id = error.tracking_id
    if not tracking_id and (found := _TRACKING_IN_TEXT.search(error.exception_message or "")):
        tracking_id = found[1]
    return HubError(
        code=code,
        message=bounded(message) if message else None,
        tracking_id=bounded(tracking_id, 80) if tracking_id else None,
    )


def refusal_code(status: int, body: bytes) -> str | None:
    """``hub-401`` or ``hub-404001``; None for what is no refusal (design §2, Refused by the hub).

    A refusal is 401, or 404 with 404001 as errorCode or in the message. Every other 403, 404, 429 and 5xx is
    not: a hub out of quota must not reprovision a fleet.
    """
    if status == 401:
        return "hub-401"
    if status == 404 and parse_error(body).code == DEVICE_NOT_FOUND:
        return f"hub-{DEVICE_NOT_FOUND}"
    return None
