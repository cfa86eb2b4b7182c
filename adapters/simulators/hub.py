"""IoT Hub as a device sees it: the list of its modules, which is also how it proves itself, and each of them
(cloud.md §3).

A PUT creates, or with ``If-Match`` replaces; a DELETE wants ``If-Match``. Modules prove themselves to nobody
here, so their keys are only kept. Errors have the hub's own shape, ``Message`` in upper case.
"""

import base64
import re
import uuid
from collections.abc import Callable
from typing import Any, Literal, NoReturn
from urllib.parse import unquote

import msgspec
from cryptography import x509

from adapters.simulators import ca, sas
from adapters.simulators.devices import Device, Devices
from adapters.simulators.distortions import date, distort, retry_after
from adapters.simulators.faults import Fault, Faults
from adapters.simulators.modules import Module, ModuleWish
from adapters.simulators.request_log import Entry
from adapters.wire.http_server import Request, Response

DEVICE_NOT_FOUND = 404001
MODULE_NOT_FOUND = 404010
MAX_ID_CHARS = 128

_ROUTE = re.compile(r"/devices/([^/]+)/modules(?:/([^/]+))?")


class Refusal(Exception):
    """An error answer in the hub's shape."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Hub:
    """Answers requests; faults are offered those that would be served."""

    def __init__(
        self,
        *,
        authority: ca.Authority,
        enrolment_key: bytes,
        name: str,
        devices: Devices,
        faults: Faults,
        now: Callable[[], float],
    ) -> None:
        self._authority = authority
        self._enrolment_key = enrolment_key
        self._name = name
        self._devices = devices
        self._faults = faults
        self._now = now

    def matches(self, path: str) -> bool:
        """Whether the path belongs to this service."""
        return _ROUTE.fullmatch(path) is not None

    async def answer(self, request: Request, entry: Entry) -> Response:
        """Fills in the log entry on the way."""
        try:
            return await self._answer(request, entry)
        except Refusal as refusal:
            entry.why = refusal.message
            return _error(refusal.status, refusal.code, refusal.message)

    async def _answer(self, request: Request, entry: Entry) -> Response:
        route = _ROUTE.fullmatch(request.path)
        if route is None:
            raise Refusal(404, "NotFound", "no such resource")
        if request.query("api-version") is None:
            raise Refusal(400, "InvalidProtocolVersion", "api-version is missing")
        device = self._devices.get(unquote(route[1]))
        if device is None:
            _refuse_device(404001, unquote(route[1]))
        entry.client = self._authenticate(request, device)
        allowed = ("GET",) if route[2] is None else ("GET", "PUT", "DELETE")
        if request.method not in allowed:
            raise Refusal(405, "MethodNotAllowed", f"valid here: {', '.join(allowed)}")
        fault = self._faults.take("hub")
        entry.fault = fault.kind if fault is not None else None
        if fault is not None and fault.kind == "hub_refuses":
            _refuse_device(fault.code, device.device_id)
        if fault is not None and fault.kind == "status":
            return _stated(fault, self._now())
        if route[2] is None:
            response = Response(200, msgspec.json.encode(self._devices.modules.of(device.device_id)))
        else:
            response = self._module(request, device, unquote(route[2]))
        return await distort(fault, response, self._now())

    def _module(self, request: Request, device: Device, module_id: str) -> Response:
        modules = self._devices.modules
        held = modules.get(device.device_id, module_id)
        match = request.header("if-match")
        if request.method == "PUT":
            wish = _wish(request.body, device, module_id)
            if match is not None:
                _check_match(match, held, module_id)
            elif held is not None:
                raise Refusal(409, "ModuleAlreadyExistsOnDevice", f"409301: module {module_id} exists")
            return Response(200, msgspec.json.encode(modules.put(wish, self._now())))
        if held is None:
            raise _no_module(module_id)
        if request.method == "GET":
            return Response(200, msgspec.json.encode(held))
        if match is None:
            raise Refusal(400, "ArgumentNull", "If-Match is missing")
        _check_match(match, held, module_id)
        modules.delete(device.device_id, module_id)
        return Response(204)

    def _authenticate(self, request: Request, device: Device) -> Literal["sas", "x509"]:
        why = self._proof_problem(request, device)
        if why is not None:
            raise Refusal(401, "IotHubUnauthorizedAccess", f"Unauthorized: {why}")
        return "sas" if device.proof == "sas" else "x509"

    def _proof_problem(self, request: Request, device: Device) -> str | None:
        if device.proof == "sas":
            return sas.refusal(
                request.header("authorization") or "",
                audience=f"{self._name}/devices/{device.device_id}",
                keys=(self._enrolment_key, sas.derived_key(self._enrolment_key, device.device_id)),
                now_unix_s=self._now(),
            )
        shown = request.peer.certificate_der
        if shown is None:
            return "this device proves itself with a certificate, and none was shown"
        certificate = x509.load_der_x509_certificate(shown)
        if self._authority.has_issued(certificate) != (device.proof == "issued"):
            return "the certificate is not of the kind the last registration decided on"
        if device.device_id.lower() not in [name.lower() for name in ca.common_names(certificate.subject)]:
            return "the certificate's CN is not the device id"
        return None


def _wish(body: bytes, device: Device, module_id: str) -> ModuleWish:
    if not 0 < len(module_id) <= MAX_ID_CHARS or not module_id.isprintable():
        raise Refusal(400, "ArgumentInvalid", "the module id is not one")
    try:
        wish = msgspec.json.decode(body, type=ModuleWish)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Refusal(400, "ArgumentInvalid", f"not a module: {exc}") from exc
    if wish.module_id != module_id or wish.device_id.lower() != device.device_id.lower():
        raise Refusal(400, "ArgumentInvalid", "body and path name different modules")
    if wish.authentication is not None:
        _check_authentication(wish.authentication)
    return wish


def _check_authentication(authentication: dict[str, Any]) -> None:
    """Keys are base64 of 16 to 64 bytes, and there are both or none."""
    if authentication.get("type") not in ("none", "sas", "selfSigned", "certificateAuthority"):
        raise Refusal(400, "ArgumentInvalid", "authentication.type is not known")
    keys = authentication.get("symmetricKey")
    if keys is None:
        return
    for name in ("primaryKey", "secondaryKey"):
        key = keys.get(name) if isinstance(keys, dict) else None
        try:
            size = len(base64.b64decode(key or "", validate=True))
        except (TypeError, ValueError) as exc:
            raise Refusal(400, "ArgumentInvalid", f"{name} is not base64") from exc
        if not 16 <= size <= 64:
            raise Refusal(400, "ArgumentInvalid", f"{name} has not 16 to 64 bytes")


def _check_match(match: str, held: Module | None, module_id: str) -> None:
    if held is None:
        raise _no_module(module_id)
    if match != "*" and match.strip('"') != held.etag:
        raise Refusal(412, "PreconditionFailed", "the module has another etag")


def _no_module(module_id: str) -> Refusal:
    return Refusal(404, "ModuleNotFound", f"{MODULE_NOT_FOUND}: there is no module {module_id}")


def _refuse_device(code: int, device_id: str) -> NoReturn:
    if code == DEVICE_NOT_FOUND:
        raise Refusal(404, "DeviceNotFound", f"{DEVICE_NOT_FOUND}: device {device_id} is not registered")
    raise Refusal(401, "IotHubUnauthorizedAccess", "Unauthorized")


def _stated(fault: Fault, now_unix_s: float) -> Response:
    status, headers = fault.status or 500, retry_after(fault, now_unix_s) + date(fault, now_unix_s)
    if fault.body is not None:
        return Response(status, fault.body.encode(), headers=headers)
    message = fault.message or "this answer was asked for by a fault"
    if fault.error_code is not None:
        message = f"{fault.error_code}: {message}"
    return _error(status, "Fault", message, tracking_id=fault.tracking_id, headers=headers)


def _error(
    status: int,
    code: str,
    message: str,
    *,
    tracking_id: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    body = {
        "Message": f"ErrorCode:{code};{message}",
        "ExceptionMessage": f"Tracking ID:{tracking_id or uuid.uuid4().hex}",
    }
    return Response(status, msgspec.json.encode(body), headers=(("iothub-errorcode", code), *headers))
