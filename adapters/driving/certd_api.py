"""certd.sock: certificates by id, as the original's certificates service answers.

``GET /certificates/<id>`` and its short form ``GET /<id>``, api-version 2020-09-01, answer
``{"pem": "…"}``. The order of the checks is the original's and can be told from the status codes:
api-version, path, method and body, then the certificate (reference/services.md §2 and §4).

Creating, importing and deleting are not served: they answer 400 ``method not allowed``, the
documented answer of a route without that method.
"""

import logging
from urllib.parse import unquote_to_bytes

import msgspec
import trio

from adapters.errors import StoreUnavailable
from adapters.ports import CertificateReader
from adapters.wire.http_server import Handler, Request, Response, error_response

API_VERSION = "2020-09-01"
MAX_ID_BYTES = 1024
"After decoding. No store files a longer id, so a longer one is simply not found."
READ_WITHIN_S = 10.0
"A card that hangs longer than this is answered for with an error."

_NOT_FOUND = 'parameter "id" has an invalid value\ncaused by: not found'
_METHOD_NOT_ALLOWED = "method not allowed"

log = logging.getLogger(__name__)


def certd_handler(certificates: CertificateReader) -> Handler:
    """The handler of certd.sock."""

    async def handle(request: Request) -> Response:
        version = request.query("api-version")
        if version is None:
            return error_response(400, "api-version not specified")
        if version != API_VERSION:
            return error_response(400, f'invalid api-version "{version}"')
        segments = request.path.split("/")[1:]
        match segments:
            case ["certificates"]:
                return _unserved_method(request)
            case ["certificates", segment] | [segment] if (found := _id_of(segment)) is not None:
                if request.method != "GET":
                    return _unserved_method(request)
                return await _read(certificates, found)
            case _:
                return error_response(404, "not found")

    return handle


def _id_of(segment: str) -> str | None:
    """The certificate id of one raw path segment; None when the route does not match."""
    try:
        return unquote_to_bytes(segment).decode() or None
    except UnicodeDecodeError:
        return None


async def _read(certificates: CertificateReader, certificate_id: str) -> Response:
    if len(certificate_id.encode()) > MAX_ID_BYTES:
        return error_response(400, _NOT_FOUND)
    try:
        with trio.fail_after(READ_WITHIN_S):
            pem = await certificates.read_certificate(certificate_id)
        if pem is None:
            # 400, not 404, is what existing clients know (services.md §10, quirk 8).
            return error_response(400, _NOT_FOUND)
        return Response(200, msgspec.json.encode({"pem": pem.decode()}))
    except (StoreUnavailable, UnicodeDecodeError, trio.TooSlowError):
        # The answer says no more than the original's; people find the cause in the log.
        log.exception("certificate %r cannot be read", certificate_id)
        return error_response(500, "internal error")


def _unserved_method(request: Request) -> Response:
    """The documented refusal; a body is checked first, as the original does."""
    kind = request.header("content-type")
    is_json = kind is None or kind.partition(";")[0].strip() == "application/json"
    if request.method == "PUT" and not is_json:
        return error_response(415, "request body must be application/json")
    if request.method == "PUT" or (request.method in ("POST", "DELETE") and is_json and request.body):
        try:
            msgspec.json.decode(request.body, type=msgspec.Raw)
        except (msgspec.DecodeError, RecursionError) as exc:
            return error_response(422, str(exc))
    return error_response(400, _METHOD_NOT_ALLOWED)
