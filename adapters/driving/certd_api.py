"""certd.sock: certificates by id, as the original's certificates service answers (services.md §4).

==============================  ==============================================
``POST /certificates``          issued for a request, and kept under its id
``GET /certificates/<id>``      what is kept; ``GET /<id>`` is its short form
``PUT /certificates/<id>``      kept as it is given
``DELETE /certificates/<id>``   gone, also when it was not there
==============================  ==============================================

All speak ``{"pem": "…"}``, leaf first. Reading is for everybody who can open the socket. Writing is for root
and for uids that a principal grants the id, except that the machine's own ids are written by nobody. Whether
somebody may write is judged before what is to be written is looked into.
"""

import logging
from collections.abc import Callable, Sequence

import trio
from msgspec import Struct, field

from adapters.driving.ownership import matches, owns_certificate
from adapters.driving.routes import (
    Call,
    Method,
    Route,
    api_handler,
    json_response,
    parameter_response,
)
from adapters.errors import AdapterError, RequestRefused, bounded
from adapters.ports import CertificateService, Issuer
from adapters.wire.http_server import Handler, Response, error_response
from statemachine.settings import CertificateGrant

API_VERSIONS = ("2020-09-01",)
MAX_ID_BYTES = 1024
"After decoding. No store files a longer id, so a longer one is simply not found."
READ_WITHIN_S = 10.0
"A card that hangs longer than this is answered for with an error."
WRITE_WITHIN_S = 25.0
"As long as keys and disk may take; the original's clients give up after 30 s."

log = logging.getLogger(__name__)


class Pem(Struct, frozen=True):
    """Of import, and of every answer."""

    pem: str


class IssuerMember(Struct, frozen=True, kw_only=True, rename="camel"):
    """What signs, instead of what the id's issuance rule says."""

    cert_id: str
    private_key_handle: str
    "Whoever holds it may sign: secret."

    def __repr__(self) -> str:
        return f"IssuerMember(cert_id={self.cert_id!r})"


class CreateRequest(Struct, frozen=True, kw_only=True, rename="camel"):
    """``POST /certificates``."""

    cert_id: str
    csr: str
    "PEM text."
    issuer: IssuerMember | None = field(default=None)


def certd_handler(
    certificates: CertificateService,
    grants: Callable[[], Sequence[CertificateGrant]],
    trust_bundle_id: Callable[[], str],
) -> Handler:
    """The handler of certd.sock. Settings are asked for with each request: a reload may change them."""
    api = _Api(certificates, grants, trust_bundle_id)
    routes = (
        Route("/certificates", {"POST": Method(api.create, CreateRequest)}),
        Route(
            "/certificates/{certId}",
            {
                "GET": Method(api.read),
                "PUT": Method(api.import_, Pem),
                "DELETE": Method(api.delete),
            },
        ),
        Route("/{certId}", {"GET": Method(api.read)}),
    )
    return api_handler(API_VERSIONS, routes, _refuse)


class _Api:
    def __init__(
        self,
        certificates: CertificateService,
        grants: Callable[[], Sequence[CertificateGrant]],
        trust_bundle_id: Callable[[], str],
    ) -> None:
        self._certificates = certificates
        self._grants = grants
        self._trust_bundle_id = trust_bundle_id

    async def create(self, call: Call) -> Response:
        body: CreateRequest = call.body
        if (denied := self._denied(call.uid, body.cert_id)) is not None:
            return denied
        asked = body.issuer
        issuer = None
        if asked is not None:
            issuer = Issuer(certificate_id=asked.cert_id, key_handle=asked.private_key_handle)
        try:
            with trio.fail_after(WRITE_WITHIN_S):
                pem = await self._certificates.create_certificate(body.cert_id, body.csr, issuer)
        except trio.TooSlowError:
            return _internal_error(body.cert_id, "created", "it took too long")
        return json_response(Pem(pem.decode("ascii")), 201)

    async def read(self, call: Call) -> Response:
        [certificate_id] = call.parameters
        if len(certificate_id.encode()) > MAX_ID_BYTES:
            return parameter_response("id", "not found")
        try:
            with trio.fail_after(READ_WITHIN_S):
                pem = await self._certificates.read_certificate(certificate_id)
            if pem is None:
                # 400, not 404, is what existing clients know (services.md §10, quirk 8).
                return parameter_response("id", "not found")
            return json_response(Pem(pem.decode()))
        except trio.TooSlowError:
            return _internal_error(certificate_id, "read", "it took too long")
        except UnicodeDecodeError:
            return _internal_error(certificate_id, "read", "it is not text")

    async def import_(self, call: Call) -> Response:
        [certificate_id] = call.parameters
        if (denied := self._denied(call.uid, certificate_id)) is not None:
            return denied
        try:
            with trio.fail_after(WRITE_WITHIN_S):
                await self._certificates.import_certificate(certificate_id, call.body.pem)
        except trio.TooSlowError:
            return _internal_error(certificate_id, "imported", "it took too long")
        return json_response(call.body, 201)

    async def delete(self, call: Call) -> Response:
        [certificate_id] = call.parameters
        if (denied := self._denied(call.uid, certificate_id)) is not None:
            return denied
        try:
            with trio.fail_after(WRITE_WITHIN_S):
                await self._certificates.delete_certificate(certificate_id)
        except trio.TooSlowError:
            return _internal_error(certificate_id, "deleted", "it took too long")
        return Response(204)

    def _denied(self, uid: int, certificate_id: str) -> Response | None:
        """The answer to somebody who may not write this certificate."""
        if not owns_certificate(certificate_id, self._trust_bundle_id()):
            if uid == 0:
                return None
            granted = (pattern for grant in self._grants() if grant.uid == uid for pattern in grant.certs)
            # Matching takes its time with a text of the size of a body, and no store files such an id.
            if len(certificate_id) <= MAX_ID_BYTES and any(matches(one, certificate_id) for one in granted):
                return None
        name = bounded(certificate_id, 200)
        log.warning("uid %d may not modify certificate %r", uid, name)
        return error_response(401, f"user {uid} is not authorized to modify the cert {name}")


def _refuse(exc: AdapterError, call: Call) -> Response:
    """The status table of services.md §4.3. What no request can mend is told to people only."""
    creating = isinstance(call.body, CreateRequest)
    if isinstance(exc, RequestRefused) and exc.parameter is not None:
        parameter = "certId" if creating and exc.parameter == "id" else exc.parameter
        return parameter_response(parameter, exc.message)
    certificate_id = call.body.cert_id if creating else call.parameters[0]
    return _internal_error(certificate_id, f"served to uid {call.uid}", f"{exc.code}: {exc.message}")


def _internal_error(certificate_id: str, done: str, why: str) -> Response:
    log.error("certificate %r cannot be %s: %s", bounded(certificate_id, 200), done, why)
    return error_response(500, "internal error")
