"""The Device Provisioning Service's device API, as reference/cloud.md §1, §8.2 and §9 describe it.

One enrolment: every registration id is taken that proves itself with the enrolment key, with the key
derived from it for that id, or with a client certificate of that CN which the listener trusts. The
message shapes are written here once more, on purpose: nothing is shared with the client.
"""

import base64
import math
import re
import secrets
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import unquote

import msgspec
from cryptography import x509
from msgspec import Struct

from adapters.simulators import ca, sas
from adapters.simulators.devices import Device, Devices, Proof
from adapters.simulators.distortions import date, distort, retry_after
from adapters.simulators.faults import Fault, Faults
from adapters.simulators.request_log import Entry
from adapters.wire.http_server import Request, Response

SCOPE_ID = "0ne00STANDIN"
CSR_REFUSED = (400000, "Device sent CSR but it is not configured in the service.")
OPERATIONS_KEPT = 1000

_ROUTE = re.compile(r"/([^/]+)/registrations/([^/]+)(?:/(register|operations/([^/]+)))?")
_REGISTRATION_ID = re.compile(r"(?=.{1,128}\Z)[A-Za-z0-9]([A-Za-z0-9:._-]*[A-Za-z0-9-])?")


class Dialect(Struct, frozen=True, kw_only=True):
    """What one api-version says."""

    csr: str | None = None
    "Request member; None where the version knows no certificates."
    chain: Literal["pem", "der"] | None = None
    bundle: bool = False
    object_payload: bool = False


DIALECTS = {
    "2021-11-01-preview": Dialect(csr="clientCertificateCsr", chain="pem", bundle=True),
    "2025-07-01-preview": Dialect(csr="csr", chain="der", object_payload=True),
    "2026-11-01": Dialect(csr="csr", chain="der", object_payload=True),
    "2019-03-31": Dialect(),
    "2021-06-01": Dialect(),
    "2021-10-01": Dialect(),
}
PLAIN = tuple(version for version, dialect in DIALECTS.items() if dialect.csr is None)


class Behaviour(Struct, kw_only=True):
    """What may be changed while it runs."""

    cert_lifetime_s: float
    identity_certs: bool
    server_certs: bool
    "Sent as deviceCertificateIssuanceSettings, in the dialect that has them."
    assigning: int
    "Polls answered `assigning` before the one that ends the operation."
    retry_after_s: int | None
    "Retry-After of register and `assigning` answers."
    api_version: str | None
    "Served beside the plain ones; None serves all."
    bundle: list[str] | None = None
    "PEM of each certificate; None sends no trust bundle."

    def serves(self, version: str) -> bool:
        """Whether requests of that api-version are taken."""
        return version in DIALECTS and (
            self.api_version is None or version == self.api_version or version in PLAIN
        )


class Operation(Struct, kw_only=True):
    """One registration under way, or ended."""

    operation_id: str
    registration_id: str
    proof: Proof
    csr: ca.Csr | None
    payload: Any
    polls: int = 0
    result: "Result | None" = None


class Result(Struct, kw_only=True):
    """How an operation ended; encoded for the dialect of each poll."""

    status: str
    members: dict[str, Any]
    chain: list[x509.Certificate] | None = None
    flaw: ca.Flaw | None = None
    "Of how the chain is written down."
    bundle: list[str] | None = None


class Refusal(Exception):
    """An error answer in the documented shape."""

    def __init__(self, status: int, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = status * 1000 if code is None else code


class Dps:
    """Answers requests; faults are offered those that would be served."""

    def __init__(
        self,
        *,
        authority: ca.Authority,
        enrolment_key: bytes,
        hub: str,
        behaviour: Behaviour,
        devices: Devices,
        faults: Faults,
        now: Callable[[], float],
    ) -> None:
        self._authority = authority
        self._enrolment_key = enrolment_key
        self._hub = hub
        self._behaviour = behaviour
        self._devices = devices
        self._faults = faults
        self._now = now
        self._operations: dict[str, Operation] = {}
        self._latest: dict[str, Operation] = {}
        "By registration id in lower case, for the lookup call; bounded by _operations."

    def matches(self, path: str) -> bool:
        """Whether the path belongs to this service."""
        return _ROUTE.fullmatch(path) is not None

    async def answer(self, request: Request, entry: Entry) -> Response:
        """Fills in the log entry on the way."""
        try:
            return await self._answer(request, entry)
        except Refusal as refusal:
            entry.why = refusal.message
            return error(refusal.status, refusal.message, self._now(), code=refusal.code)

    async def _answer(self, request: Request, entry: Entry) -> Response:
        route = _ROUTE.fullmatch(request.path)
        if route is None:
            raise Refusal(404, "no such resource")
        scope, registration_id = unquote(route[1]), unquote(route[2])
        serve, method = {
            "register": (self._register, "PUT"),
            None: (self._look_up, "POST"),
        }.get(route[3], (self._poll, "GET"))
        if request.method != method:
            raise Refusal(405, f"{request.method} is not allowed here, {method} is")
        dialect = self._dialect(request.query("api-version"))
        if scope != SCOPE_ID:
            raise Refusal(404, f"the ID scope {scope} is not known; this cloud's is {SCOPE_ID}")
        if not _REGISTRATION_ID.fullmatch(registration_id):
            raise Refusal(400, "the registration id is not 1 to 128 of letters, digits and : . _ -")
        proof = self._authenticate(request, registration_id)
        entry.client = "sas" if proof == "sas" else "x509"
        return await serve(request, entry, dialect, registration_id, proof)

    # the three calls

    async def _register(
        self, request: Request, entry: Entry, dialect: Dialect, registration_id: str, proof: Proof
    ) -> Response:
        body = _json_object(request)
        csr = _csr(body, dialect, registration_id)
        payload = body.get("payload")
        if dialect.object_payload and payload is not None and not isinstance(payload, dict):
            raise Refusal(400, "the payload is not a JSON object")
        fault = self._met(entry, self._faults.take("register", csr=csr is not None))
        if fault is not None and fault.kind == "status":
            return stated(fault, self._now())
        if fault is not None and fault.kind == "csr_refused":
            raise Refusal(400, CSR_REFUSED[1], code=CSR_REFUSED[0])
        operation = Operation(
            operation_id=f"5.{secrets.token_hex(8)}.{uuid.uuid4()}",
            registration_id=registration_id,
            proof=proof,
            csr=csr,
            payload=payload,
        )
        self._remember(operation)
        entry.operation_id = operation.operation_id
        return await self._send(fault, 202, self._pending(operation))

    async def _poll(
        self, request: Request, entry: Entry, dialect: Dialect, registration_id: str, _: Proof
    ) -> Response:
        operation_id = unquote(request.path.rpartition("/")[2])
        operation = self._operations.get(operation_id)
        if operation is None or operation.registration_id.lower() != registration_id.lower():
            raise Refusal(404, "the operation is not known")
        entry.operation_id = operation_id
        ends = operation.result is None and operation.polls >= self._behaviour.assigning
        fault = self._met(
            entry, self._faults.take("operation", csr=ends and operation.csr is not None, final=ends)
        )
        if fault is not None and fault.kind == "status":
            return stated(fault, self._now())
        if fault is not None and fault.kind == "operation_vanishes":
            del self._operations[operation_id]
            raise Refusal(404, "the operation is not known")
        if ends:
            operation.result = self._end(operation, dialect, fault, entry)
        operation.polls += 1
        if operation.result is None:
            return await self._send(fault, 202, self._pending(operation))
        return await self._send(fault, 200, _ended(operation, operation.result, dialect))

    async def _look_up(
        self, request: Request, _: Entry, dialect: Dialect, registration_id: str, __: Proof
    ) -> Response:
        body = _json_object(request)
        if dialect.csr is not None and dialect.csr in body:
            raise Refusal(400, "a lookup takes no CSR")
        _check_id(body, registration_id)
        operation = self._latest.get(registration_id.lower())
        if operation is None:
            raise Refusal(404, "the registration is not known")
        result = operation.result
        if result is None:
            return _json(200, {"registrationId": registration_id, "status": "assigning"})
        return _json(200, result.members)

    # parts of them

    def _dialect(self, version: str | None) -> Dialect:
        if version is None:
            raise Refusal(400, "api-version is missing")
        if not self._behaviour.serves(version):
            served = ", ".join(known for known in DIALECTS if self._behaviour.serves(known))
            raise Refusal(400, f"api-version {version[:40]} is not served, these are: {served}")
        return DIALECTS[version]

    def _authenticate(self, request: Request, registration_id: str) -> Proof:
        token = request.header("authorization")
        if token is not None:
            why = sas.refusal(
                token,
                audience=f"{SCOPE_ID}/registrations/{registration_id}",
                keys=(self._enrolment_key, sas.derived_key(self._enrolment_key, registration_id)),
                now_unix_s=self._now(),
                key_name="registration",
            )
            if why is not None:
                raise Refusal(401, f"Unauthorized: {why}", code=401002)
            return "sas"
        shown = request.peer.certificate_der
        if shown is None:
            raise Refusal(401, "Unauthorized: neither a token nor a client certificate", code=401002)
        certificate = x509.load_der_x509_certificate(shown)
        if self._authority.has_issued(certificate):
            raise Refusal(
                401, "Unauthorized: an issued certificate is for the hub, not for enrolment", code=401002
            )
        if registration_id.lower() not in [name.lower() for name in ca.common_names(certificate.subject)]:
            raise Refusal(401, "Unauthorized: the certificate's CN is not the registration id", code=401002)
        return "x509"

    def _remember(self, operation: Operation) -> None:
        self._operations[operation.operation_id] = operation
        self._latest[operation.registration_id.lower()] = operation
        if len(self._operations) > OPERATIONS_KEPT:
            oldest = self._operations.pop(next(iter(self._operations)))
            key = oldest.registration_id.lower()
            if self._latest.get(key) is oldest:
                del self._latest[key]

    def _end(self, operation: Operation, dialect: Dialect, fault: Fault | None, entry: Entry) -> Result:
        kind = fault.kind if fault is not None else None
        behaviour, now = self._behaviour, self._now()
        refused = operation.csr is not None and not behaviour.identity_certs and dialect.chain == "pem"
        if kind == "csr_refused" or refused:
            return self._failure(operation, "failed", *CSR_REFUSED)
        if fault is not None and kind == "failed":
            return self._failure(
                operation,
                "failed",
                400000 if fault.error_code is None else fault.error_code,
                fault.message or "The registration failed, as the fault demands.",
                tracking_id=fault.tracking_id,
            )
        if kind == "disabled":
            return self._failure(operation, "disabled", None, None)
        result = Result(status="assigned", members={}, bundle=self._bundle(fault, now))
        if operation.csr is not None and behaviour.identity_certs and kind != "no_certificate":
            result.flaw = next((flaw for flaw in ca.FLAWS if flaw == kind), None)
            result.chain = self._authority.issue(
                operation.csr,
                now_unix_s=now,
                lifetime_s=behaviour.cert_lifetime_s,
                flaw=result.flaw,
                ahead_s=3600.0 if fault is None or fault.seconds is None else fault.seconds,
            )
        result.members = self._assignment(operation, issued=result.chain is not None, now=now)
        if fault is not None and kind == "moved":
            port = self._hub.rpartition(":")[2]
            result.members |= {
                "assignedHub": fault.hub or f"127.0.0.1:{port}",
                "substatus": fault.substatus,
            }
        if behaviour.server_certs and dialect.bundle:
            result.members["deviceCertificateIssuanceSettings"] = {"certificateType": "serverCertificate"}
        entry.assigned_unix_ms = round(now * 1000)
        if result.chain is not None:
            _note_leaf(entry, result.chain[-1 if result.flaw == "reordered" else 0])
        return result

    def _assignment(self, operation: Operation, *, issued: bool, now: float) -> dict[str, Any]:
        known = self._devices.get(operation.registration_id)
        device = Device(
            device_id=operation.registration_id if known is None else known.device_id,
            proof="issued" if issued else operation.proof,
            created=iso(now) if known is None else known.created,
            etag=base64.b64encode(secrets.token_bytes(12)).decode(),
        )
        self._devices.put(device)
        members: dict[str, Any] = {
            "registrationId": operation.registration_id,
            "createdDateTimeUtc": device.created,
            "assignedHub": self._hub,
            "deviceId": device.device_id,
            "status": "assigned",
            "substatus": "initialAssignment" if known is None else "reprovisionedToInitialAssignment",
            "lastUpdatedDateTimeUtc": iso(now),
            "etag": device.etag,
        }
        if operation.payload is not None:
            # What the original's test server answers in place of a custom allocation.
            members["payload"] = {
                "msg": "custom allocation payload received",
                "request_payload": operation.payload,
            }
        return members

    def _failure(
        self,
        operation: Operation,
        status: str,
        code: int | None,
        message: str | None,
        *,
        tracking_id: str | None = None,
    ) -> Result:
        members: dict[str, Any] = {
            "registrationId": operation.registration_id,
            "status": status,
            "lastUpdatedDateTimeUtc": iso(self._now()),
        }
        if code is not None:
            members |= {"errorCode": code, "errorMessage": message}
        if tracking_id is not None:
            members["trackingId"] = tracking_id
        return Result(status=status, members=members)

    def _bundle(self, fault: Fault | None, now: float) -> list[str] | None:
        bundle = self._behaviour.bundle
        match fault.bundle if fault is not None and fault.kind == "bundle" else None:
            case "present":
                return bundle or [ca.foreign_root_pem(now)]
            case "changed":
                return [*(bundle or []), ca.foreign_root_pem(now)]
            case "garbage":
                return ["-----BEGIN CERTIFICATE-----\ngarbage\n-----END CERTIFICATE-----\n"]
            case "empty":
                return []
            case "absent":
                return None
            case _:
                return bundle

    def _pending(self, operation: Operation) -> dict[str, Any]:
        return {
            "operationId": operation.operation_id,
            "status": "assigning",
            "registrationState": {"registrationId": operation.registration_id, "status": "assigning"},
        }

    async def _send(self, fault: Fault | None, status: int, body: dict[str, Any]) -> Response:
        wait = self._behaviour.retry_after_s if status == 202 else None
        headers = () if wait is None else (("retry-after", str(wait)),)
        return await distort(fault, _json(status, body, headers), self._now())

    def _met(self, entry: Entry, fault: Fault | None) -> Fault | None:
        entry.fault = fault.kind if fault is not None else None
        return fault


# --- reading -----------------------------------------------------------------------------------------


def _json_object(request: Request) -> dict[str, Any]:
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "the content type must be application/json")
    try:
        body = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Refusal(400, "the body is not JSON") from exc
    if not isinstance(body, dict):
        raise Refusal(400, "the body is not a JSON object")
    return body


def _check_id(body: dict[str, Any], registration_id: str) -> None:
    stated = body.get("registrationId")
    if not isinstance(stated, str) or stated.lower() != registration_id.lower():
        raise Refusal(400, "registrationId of the body is not the one of the URL")


def _csr(body: dict[str, Any], dialect: Dialect, registration_id: str) -> ca.Csr | None:
    _check_id(body, registration_id)
    if "tpm" in body:
        raise Refusal(400, "this stand-in has no TPM enrolments")
    if dialect.csr is None or dialect.csr not in body:
        return None
    try:
        return ca.parse_csr(body[dialect.csr], registration_id)
    except ca.CsrProblem as exc:
        raise Refusal(400, str(exc)) from exc


# --- writing -----------------------------------------------------------------------------------------


def _ended(operation: Operation, result: Result, dialect: Dialect) -> dict[str, Any]:
    state = dict(result.members)
    if result.chain is not None and dialect.chain == "pem":
        state["issuedClientCertificate"] = _pem_chain(result.chain, result.flaw)
    elif result.chain is not None and dialect.chain == "der":
        state["issuedCertificateChain"] = _der_chain(result.chain, result.flaw)
    if dialect.bundle and result.bundle is not None:
        state["trustBundle"] = {"certificates": [{"certificate": text} for text in result.bundle]}
    return {"operationId": operation.operation_id, "status": result.status, "registrationState": state}


def _pem_chain(chain: list[x509.Certificate], flaw: ca.Flaw | None) -> str:
    # The root stays out: this dialect's clients get it, if at all, in the trust bundle.
    texts = [ca.pem(one).decode() for one in chain if one.subject != one.issuer or flaw == "too_many"]
    match flaw:
        case "truncated_pem":
            return texts[0][: len(texts[0]) // 2]
        case "garbage_pem":
            return _armoured(base64.b64encode(b"no certificate at all").decode())
        case "wrong_base64":
            return _armoured("@@@ this is not base64 @@@")
        case "empty_chain":
            return ""
        case "extra_certificate":
            texts = [ca.pem(one).decode() for one in chain[:-1]]
    return "".join(texts)


def _armoured(text: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"


def _der_chain(chain: list[x509.Certificate], flaw: ca.Flaw | None) -> list[str]:
    parts = [ca.der(one) for one in chain]
    match flaw:
        case "truncated_pem":
            parts[0] = parts[0][: len(parts[0]) // 2]
        case "garbage_pem":
            parts = [b"no certificate at all"]
        case "wrong_base64":
            return ["@@@ this is not base64 @@@"]
        case "empty_chain":
            return []
    return [base64.b64encode(part).decode() for part in parts]


def error(
    status: int,
    message: str,
    now_unix_s: float,
    *,
    code: int,
    tracking_id: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """The documented error shape of the service."""
    body = {
        "errorCode": code,
        "trackingId": tracking_id or str(uuid.uuid4()),
        "message": message,
        "timestampUtc": iso(now_unix_s),
    }
    return _json(status, body, (("x-ms-error-code", str(code)), *headers))


def stated(fault: Fault, now_unix_s: float) -> Response:
    """The answer a `status` fault asks for."""
    status, headers = fault.status or 500, retry_after(fault, now_unix_s) + date(fault, now_unix_s)
    if fault.body is not None:
        return Response(status, fault.body.encode(), headers=headers)
    return error(
        status,
        fault.message or "this answer was asked for by a fault",
        now_unix_s,
        code=status * 1000 if fault.error_code is None else fault.error_code,
        tracking_id=fault.tracking_id,
        headers=headers,
    )


def iso(unix_s: float) -> str:
    """As the service writes instants: seven digits of a second, Z."""
    seconds = math.floor(unix_s)
    fraction = int((unix_s - seconds) * 10_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:07}Z"


def _json(status: int, body: dict[str, Any], headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, msgspec.json.encode(body), headers=headers)


def _note_leaf(entry: Entry, leaf: x509.Certificate) -> None:
    entry.certificate_serial = f"{leaf.serial_number:x}"
    entry.not_before_unix_ms = round(leaf.not_valid_before_utc.timestamp() * 1000)
    entry.not_after_unix_ms = round(leaf.not_valid_after_utc.timestamp() * 1000)
