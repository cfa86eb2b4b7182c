"""workload.sock: the trust bundles of this device, as IoT Edge serves them to its modules (services.md §7).

``GET /trust-bundle`` is the locally configured bundle, then that of DPS; ``GET /manifest-trust-bundle`` is
a bundle of its own. Both answer 200 to everybody, with an empty text when there is nothing: a module that
gets an error here does not start (services.md §10, quirk 22).
"""

import hashlib
import logging
from collections.abc import Callable, Sequence

import trio
from msgspec import Struct

from adapters.driving.routes import Call, Method, Route, api_handler, json_response
from adapters.errors import AdapterError
from adapters.ports import CertificateReader
from adapters.wire.bundles import merge_bundles
from adapters.wire.http_server import Handler, Response, error_response

API_VERSIONS = (
    "2018-06-28",
    "2019-01-30",
    "2019-10-22",
    "2019-11-05",
    "2020-07-07",
    "2020-10-10",
    "2021-12-07",
    "2022-08-03",
)
"Those of both lines of the original."
READ_WITHIN_S = 10.0
"A bundle on a card that hangs longer is left out of this answer."

log = logging.getLogger(__name__)


def workload_handler(
    certificates: CertificateReader,
    local_bundle_id: Callable[[], str],
    dps_bundle_id: Callable[[], str],
    manifest_bundle_id: Callable[[], str],
) -> Handler:
    """The handler of workload.sock. Ids are asked for with each request: a reload may change them."""
    device = _Bundle(certificates)
    manifest = _Bundle(certificates)

    async def trust_bundle(call: Call) -> Response:
        return await device.answer((local_bundle_id(), dps_bundle_id()))

    async def manifest_trust_bundle(call: Call) -> Response:
        return await manifest.answer((manifest_bundle_id(),))

    routes = (
        Route("/trust-bundle", {"GET": Method(trust_bundle)}),
        Route("/manifest-trust-bundle", {"GET": Method(manifest_trust_bundle)}),
    )
    return api_handler(API_VERSIONS, routes, _unexpected)


class _Made(Struct, frozen=True):
    """An answer, and what it was made of."""

    of: bytes
    answer: Response


class _Bundle:
    """What one route serves: merged when its parts have changed, kept otherwise."""

    def __init__(self, certificates: CertificateReader) -> None:
        self._certificates = certificates
        self._made: _Made | None = None
        self._missing: dict[str, str] = {}
        "Why a bundle was last left out; told once, and again only after it had been there."

    async def answer(self, ids: Sequence[str]) -> Response:
        parts = []
        for bundle_id in dict.fromkeys(ids):
            content = await self._read(bundle_id)
            if content:
                parts.append((bundle_id, content))
        return await trio.to_thread.run_sync(self._answer_of, parts, abandon_on_cancel=True)

    def _answer_of(self, parts: list[tuple[str, bytes]]) -> Response:
        digest = _digest(parts)
        made = self._made
        if made is None or made.of != digest:
            merged = merge_bundles(parts)
            for warning in merged.warnings:
                log.warning("%s", warning)
            made = _Made(digest, json_response({"certificate": merged.pem.decode()}))
            self._made = made
        return made.answer

    async def _read(self, bundle_id: str) -> bytes | None:
        """The stored text; None when it is to be left out, which is told once for each reason."""
        why = "there is none"
        try:
            with trio.fail_after(READ_WITHIN_S):
                content = await self._certificates.read_certificate(bundle_id)
            if content is not None:
                self._missing.pop(bundle_id, None)
                return content
        except AdapterError as exc:
            why = exc.message
        except trio.TooSlowError:
            why = f"it could not be read within {READ_WITHIN_S:g} s"
        if self._missing.get(bundle_id) != why:
            self._missing[bundle_id] = why
            log.warning("trust bundle %r is left out: %s", bundle_id, why)
        return None


def _digest(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Of names and contents; each is measured, so that no two lists look the same."""
    digest = hashlib.sha256()
    for part in parts:
        for field in (part[0].encode(errors="surrogateescape"), part[1]):
            digest.update(len(field).to_bytes(8))
            digest.update(field)
    return digest.digest()


def _unexpected(exc: AdapterError, call: Call) -> Response:
    log.error("a trust bundle cannot be served: %s", exc.message)
    return error_response(500, "internal error")
