"""The DPS device protocol: URLs, bodies and answers of every api-version we speak.

What differs between versions is a row of ``DIALECTS``; answers of all of them become one
``DpsState``. A peer's JSON is read tolerantly: unknown members are ignored and nothing but the
members a caller cannot do without is required (cloud.md §1, §8.2, §9.1).
"""

import base64
import re
from typing import Literal
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from adapters.errors import CertificateRejected, PeerProtocolError, bounded
from adapters.wire.x509 import MAX_CHAIN_CERTIFICATES, der_chain_to_pem

MAX_WORD_CHARS = 64

Status = Literal["unassigned", "assigning", "assigned", "failed", "disabled"]
STATUSES: tuple[Status, ...] = ("unassigned", "assigning", "assigned", "failed", "disabled")

_SEGMENT_SAFE = "!$&'()*+,;:@"
"Beside the unreserved ones, what RFC 3986 lets stand in a path segment; `=` is escaped as the original does."
_HUB = re.compile(
    r"(?=.{1,253}(?::|\Z))([a-z0-9]([a-z0-9-]*[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.I
)
_DEVICE_ID = re.compile(r"[A-Za-z0-9\-.%_*?!(),:=@$'+#]{1,128}")
_OPERATION_ID = re.compile(r"[!-~]{1,512}")


# --- dialects ----------------------------------------------------------------------------------------


class Dialect(Struct, frozen=True, kw_only=True):
    """How one api-version spells what the others have too."""

    api_version: str
    csr_member: str
    "Member of the register body that holds the base64 DER request."
    chain_form: Literal["pem", "der-array"]
    "issuedClientCertificate, one PEM text; or issuedCertificateChain, base64 DER, leaf first."
    trust_bundle: bool
    "Whether registrations bring a trust bundle at all."
    payload_object_only: bool
    "The custom payload must be a JSON object, not any JSON value."


DIALECTS: dict[str, Dialect] = {
    row.api_version: row
    for row in (
        Dialect(
            api_version="2021-11-01-preview",
            csr_member="clientCertificateCsr",
            chain_form="pem",
            trust_bundle=True,
            payload_object_only=False,
        ),
        Dialect(
            api_version="2025-07-01-preview",
            csr_member="csr",
            chain_form="der-array",
            trust_bundle=False,
            payload_object_only=True,
        ),
        Dialect(
            api_version="2026-11-01",
            csr_member="csr",
            chain_form="der-array",
            trust_bundle=False,
            payload_object_only=True,
        ),
    )
}


class CsrRefusal(Struct, frozen=True):
    """One way of DPS to say that a CSR was sent to an enrolment that issues no certificates."""

    error_code: int
    text: str
    "Lower case, without its final dot."


CSR_REFUSALS = (CsrRefusal(400000, "device sent csr but it is not configured in the service"),)


def is_csr_refused(error_code: int | None, message: str | None) -> bool:
    """Whether this error says that a registration without CSR would be taken (cloud.md §1.9).

    The number alone is any bad request, so the text must match; a missing number is tolerated.
    """
    text = (message or "").strip().lower().removesuffix(".")
    return any(text == row.text and error_code in (row.error_code, None) for row in CSR_REFUSALS)


# --- requests ----------------------------------------------------------------------------------------


def register_url(dialect: Dialect, endpoint: str, scope_id: str, registration_id: str) -> str:
    """PUT here. ``endpoint`` is scheme and authority."""
    return _url(dialect, endpoint, scope_id, registration_id, "register")


def operation_url(
    dialect: Dialect, endpoint: str, scope_id: str, registration_id: str, operation_id: str
) -> str:
    """GET here."""
    return _url(dialect, endpoint, scope_id, registration_id, f"operations/{_segment(operation_id)}")


def register_request(
    dialect: Dialect, registration_id: str, csr_der: bytes | None, payload_json: bytes | None
) -> bytes:
    """Body of the PUT. Absent members are left out; ``payload_json`` is inserted as it is.

    Raises ValueError when the payload is not JSON, or not the JSON this dialect takes.
    """
    body: dict[str, str | Raw] = {"registrationId": registration_id}
    if csr_der is not None:
        body[dialect.csr_member] = base64.b64encode(csr_der).decode("ascii")
    if payload_json is not None:
        body["payload"] = Raw(_checked_payload(dialect, payload_json))
    return msgspec.json.encode(body)


def _checked_payload(dialect: Dialect, payload_json: bytes) -> bytes:
    try:
        value = msgspec.json.decode(payload_json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"not JSON: {exc}") from exc
    if dialect.payload_object_only and not isinstance(value, dict):
        raise ValueError(f"api-version {dialect.api_version} takes only a JSON object")
    return payload_json.strip()


def _url(dialect: Dialect, endpoint: str, scope_id: str, registration_id: str, rest: str) -> str:
    path = f"{_segment(scope_id)}/registrations/{_segment(registration_id)}/{rest}"
    return f"{endpoint.rstrip('/')}/{path}?api-version={dialect.api_version}"


def _segment(text: str) -> str:
    return quote(text, safe=_SEGMENT_SAFE)


# --- answers -----------------------------------------------------------------------------------------


class DpsState(Struct, frozen=True, kw_only=True):
    """A registration as DPS describes it, the same for every dialect."""

    status: Status
    assigned_hub: str | None = None
    "host or host:port; present and well-formed when assigned."
    device_id: str | None = None
    "Present and well-formed when assigned."
    substatus: str | None = None
    chain_pem: bytes | None = None
    "As issued, order not yet checked. None when no certificate was issued."
    chain_problem: str | None = None
    "Why an issued chain could not be read at all; chain_pem is None then, but a certificate was meant."
    bundle: tuple[str, ...] | None = None
    "PEM texts. None when absent or empty, and when the dialect has none."
    bundle_problem: str | None = None
    "Why a bundle that came could not be read; it never fails the rest."
    certificate_type: str | None = None
    error_code: int | None = None
    error_message: str | None = None
    tracking_id: str | None = None


class RegisterAnswer(Struct, frozen=True, kw_only=True):
    """DPS took the registration."""

    operation_id: str | None
    "None only when the state is final already."
    status: Status
    state: DpsState | None = None
    "Present when DPS described the registration in this very answer."


class DpsError(Struct, frozen=True, kw_only=True):
    """The body of a non-success status; every member may be missing."""

    code: int | None = None
    message: str | None = None
    tracking_id: str | None = None


class _State(Struct, rename="camel"):
    assigned_hub: str | None = None
    device_id: str | None = None
    substatus: str | None = None
    error_code: int | str | None = None
    error_message: str | None = None
    # The same two as some peers spell them (cloud.md §6).
    code: int | str | None = None
    message: str | None = None
    tracking_id: str | None = None
    issued_client_certificate: str | None = None
    issued_certificate_chain: list[str] | None = None
    # Read on their own, so that a foreign shape costs nothing but themselves.
    trust_bundle: Raw = Raw(b"null")
    device_certificate_issuance_settings: Raw = Raw(b"null")


class _Operation(Struct, rename="camel"):
    operation_id: str | None = None
    status: str | None = None
    registration_state: _State | None = None


class _BundleCertificate(Struct):
    certificate: str


class _Bundle(Struct):
    certificates: list[_BundleCertificate] | None = None


class _IssuanceSettings(Struct, rename="camel"):
    certificate_type: str | None = None


class _Error(Struct, rename="camel"):
    error_code: int | str | None = None
    code: int | str | None = None
    message: str | None = None
    error_message: str | None = None
    tracking_id: str | None = None


_OPERATION = msgspec.json.Decoder(_Operation)
_BUNDLE = msgspec.json.Decoder(_Bundle | None)
_ISSUANCE = msgspec.json.Decoder(_IssuanceSettings | None)
_ERROR = msgspec.json.Decoder(_Error)


def parse_register(dialect: Dialect, body: bytes) -> RegisterAnswer:
    """Raises PeerProtocolError (codes ``answer-malformed``, ``status-unknown``, ``assignment-invalid``)."""
    answer = _operation(body)
    status = _status(answer.status or "assigning")
    if answer.operation_id is None:
        if status in ("unassigned", "assigning"):
            raise PeerProtocolError("DPS named no operation", code="answer-malformed")
    elif not _OPERATION_ID.fullmatch(answer.operation_id):
        raise PeerProtocolError("DPS named an impossible operation id", code="answer-malformed")
    # A final status without its state says too little; the operation, where one is named, says the rest.
    told = answer.registration_state is not None or answer.operation_id is None
    state = _normalised(dialect, status, answer.registration_state) if told else None
    return RegisterAnswer(operation_id=answer.operation_id, status=status, state=state)


def parse_status(dialect: Dialect, body: bytes) -> DpsState:
    """Raises PeerProtocolError (codes ``answer-malformed``, ``status-unknown``, ``assignment-invalid``)."""
    answer = _operation(body)
    if answer.status is None:
        raise PeerProtocolError("DPS gave no status", code="answer-malformed")
    return _normalised(dialect, _status(answer.status), answer.registration_state)


def parse_error(body: bytes) -> DpsError:
    """Never raises: a body that says nothing gives an empty error."""
    try:
        error = _ERROR.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return DpsError()
    message = error.message or error.error_message
    return DpsError(
        code=_number(error.error_code if error.error_code is not None else error.code),
        message=bounded(message) if message else None,
        tracking_id=_word(error.tracking_id, 80),
    )


def _operation(body: bytes) -> _Operation:
    try:
        return _OPERATION.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise PeerProtocolError(f"DPS answered something else: {exc}", code="answer-malformed") from exc


def _status(text: str) -> Status:
    for status in STATUSES:
        if text.lower() == status:
            return status
    raise PeerProtocolError(f"DPS gave an unknown status {bounded(text, 40)}", code="status-unknown")


def _normalised(dialect: Dialect, status: Status, state: _State | None) -> DpsState:
    state = state or _State()
    if status == "assigned":
        _check_assignment(state)
    chain_pem, chain_problem = _chain(dialect, state)
    bundle, bundle_problem = _bundle(state.trust_bundle) if dialect.trust_bundle else (None, None)
    error_message = state.error_message or state.message
    return DpsState(
        status=status,
        assigned_hub=state.assigned_hub,
        device_id=state.device_id,
        substatus=_word(state.substatus, MAX_WORD_CHARS),
        chain_pem=chain_pem,
        chain_problem=chain_problem,
        bundle=bundle,
        bundle_problem=bundle_problem,
        certificate_type=_certificate_type(state.device_certificate_issuance_settings),
        error_code=_number(state.error_code if state.error_code is not None else state.code),
        error_message=bounded(error_message) if error_message else None,
        tracking_id=_word(state.tracking_id, 80),
    )


def _check_assignment(state: _State) -> None:
    # The operation is over, so that asking for it again would bring the same.
    if not is_hub_name(state.assigned_hub or ""):
        raise PeerProtocolError(
            "DPS assigned no usable hub name", code="assignment-invalid", failure_class="reregister"
        )
    if not is_device_id(state.device_id or ""):
        raise PeerProtocolError(
            "DPS assigned no usable device id", code="assignment-invalid", failure_class="reregister"
        )


def is_hub_name(text: str) -> bool:
    """host or host:port, as it may go into a URL."""
    host, colon, port = text.partition(":")
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        return False
    return _HUB.fullmatch(host) is not None


def is_device_id(text: str) -> bool:
    """What IoT Hub takes as an id; `.` and `..` would change a URL's path."""
    return _DEVICE_ID.fullmatch(text) is not None and text not in (".", "..")


def _chain(dialect: Dialect, state: _State) -> tuple[bytes | None, str | None]:
    if dialect.chain_form == "pem":
        text = state.issued_client_certificate
        return (text.encode(), None) if text and text.strip() else (None, None)
    parts = state.issued_certificate_chain
    if not parts:
        return None, None
    if len(parts) > MAX_CHAIN_CERTIFICATES:
        return None, f"more than {MAX_CHAIN_CERTIFICATES} certificates"
    try:
        return der_chain_to_pem([base64.b64decode(part, validate=True) for part in parts]), None
    except (ValueError, CertificateRejected) as exc:
        return None, bounded(str(exc))


def _bundle(raw: Raw) -> tuple[tuple[str, ...] | None, str | None]:
    try:
        bundle = _BUNDLE.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        return None, bounded(f"the trust bundle has another shape: {exc}")
    if bundle is None or not bundle.certificates:
        return None, None
    return tuple(entry.certificate for entry in bundle.certificates), None


def _certificate_type(raw: Raw) -> str | None:
    try:
        settings = _ISSUANCE.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return _word(settings.certificate_type, MAX_WORD_CHARS) if settings is not None else None


def _number(code: int | str | None) -> int | None:
    if isinstance(code, str):
        return int(code) if code.isascii() and code.isdigit() and len(code) <= 9 else None
    return code if code is not None and 0 <= code < 10**9 else None


def _word(text: str | None, limit: int) -> str | None:
    return (bounded(text, limit) or None) if text else None
