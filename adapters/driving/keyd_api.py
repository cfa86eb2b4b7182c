"""keyd.sock: keys by id and by handle, as the original's keys service answers (services.md §5).

===============================  ==============================================
``POST /key``                    a symmetric key, made when absent or imported
``POST /keypair``                a key pair, made when absent
``GET /key/<id>``                a handle of what is there; ``/keypair/<id>`` too
``POST /keypair/<id>``           move a key pair here
``DELETE /key``                  by handle; ``/keypair`` too
``POST /derivedkey``             a handle of a derived key; nothing is stored
``POST /derivedkey/export``      its bytes
``POST /parameters/<name>``      a public parameter of a key pair
``POST /sign``                   ECDSA and HMAC-SHA256
``POST /encrypt``                AES-256-GCM, and the private RSA operations
``POST /decrypt``                AES-256-GCM
===============================  ==============================================

What names an id asks who calls; what has a handle does not, for the handle is the permission. Ids of the
machine are neither made nor changed here, whoever asks.
"""

import logging
from collections.abc import Callable, Sequence

import trio

from adapters.driving import key_messages as messages
from adapters.driving.ownership import matches, owns_key
from adapters.driving.routes import Call, Method, Route, api_handler, json_response, parameter_response
from adapters.errors import AdapterError, RequestRefused, bounded
from adapters.ports import KeyService
from adapters.wire.http_server import Handler, Response, error_response
from statemachine.settings import KeyGrant

API_VERSIONS = ("2020-09-01", "2021-05-01")
MAX_ID_BYTES = 1024
"Longer ids are refused before they are compared with patterns and quoted in answers."

_INVALID = "a parameter has an invalid value"
_INTERNAL = "internal error"

log = logging.getLogger(__name__)


def keyd_handler(keys: KeyService, grants: Callable[[], Sequence[KeyGrant]]) -> Handler:
    """The handler of keyd.sock. Grants are asked for with each request: a reload may change them."""
    api = _Api(keys, grants)
    routes = (
        Route(
            "/key",
            {
                "POST": Method(api.create_key, messages.CreateKey),
                "DELETE": Method(api.delete_key, messages.OfKey),
            },
        ),
        Route(
            "/keypair",
            {
                "POST": Method(api.create_key_pair, messages.CreateKeyPair),
                "DELETE": Method(api.delete_key_pair, messages.OfKey),
            },
        ),
        Route(
            "/key/{keyId}",
            {"GET": Method(api.load_key), "POST": Method(api.move_key, messages.MoveKeyPair)},
        ),
        Route(
            "/keypair/{keyId}",
            {"GET": Method(api.load_key_pair), "POST": Method(api.move_key_pair, messages.MoveKeyPair)},
        ),
        Route("/derivedkey", {"POST": Method(api.derive_key, messages.DeriveKey)}),
        Route("/derivedkey/export", {"POST": Method(api.export_derived_key, messages.OfKey)}),
        Route("/parameters/{name}", {"POST": Method(api.public_parameter, messages.OfKey)}),
        Route("/sign", {"POST": Method(api.sign, messages.SIGN)}),
        Route("/encrypt", {"POST": Method(api.encrypt, messages.ENCRYPT)}),
        Route("/decrypt", {"POST": Method(api.decrypt, messages.DECRYPT)}),
    )
    return api_handler(API_VERSIONS, routes, _refuse)


class _Unauthorised(AdapterError):
    """Answered with 401."""

    def __init__(self, uid: int, key_id: str) -> None:
        super().__init__(
            f"uid {uid} is not authorised to access key {bounded(key_id, 80)!r}",
            code="unauthorised",
            failure_class="operator",
        )
        # The answer quotes the whole id; the message is cut.
        self.answer = f"user {uid} is not authorized to access the key {key_id}"


class _Api:
    def __init__(self, keys: KeyService, grants: Callable[[], Sequence[KeyGrant]]) -> None:
        self._keys = keys
        self._grants = grants

    # --- by id -----------------------------------------------------------------------------------------

    async def create_key(self, call: Call) -> Response:
        body: messages.CreateKey = call.body
        self._may_change(call.uid, body.key_id)
        return _handle(await self._keys.create_key(body.key_id, body.usages, body.key_bytes))

    async def create_key_pair(self, call: Call) -> Response:
        body: messages.CreateKeyPair = call.body
        self._may_change(call.uid, body.key_id)
        return _handle(await self._keys.create_key_pair(body.key_id, body.preferred_algorithms))

    async def load_key(self, call: Call) -> Response:
        (key_id,) = call.parameters
        self._may_name(call.uid, key_id)
        return _handle(await self._keys.load_key(key_id))

    async def load_key_pair(self, call: Call) -> Response:
        (key_id,) = call.parameters
        self._may_name(call.uid, key_id)
        return _handle(await self._keys.load_key_pair(key_id))

    async def move_key(self, call: Call) -> Response:
        return _identical(call) or error_response(400, 'invalid type "key"')

    async def move_key_pair(self, call: Call) -> Response:
        identical = _identical(call)
        if identical is not None:
            return identical
        (target,) = call.parameters
        body: messages.MoveKeyPair = call.body
        self._may_change(call.uid, body.source)
        self._may_change(call.uid, target)
        try:
            await self._keys.move_key_pair(body.source, target)
        except RequestRefused as exc:
            if exc.code != "not-found":
                raise
            # Of all operations this one answers so for what is not there (services.md §5.5).
            log.warning("a key pair cannot be moved: %s", exc.message)
            return error_response(500, _INTERNAL)
        return Response(204)

    # --- by handle -------------------------------------------------------------------------------------

    async def delete_key(self, call: Call) -> Response:
        handle = await self._deletable(call)
        await self._keys.delete_key(handle)
        return Response(204)

    async def delete_key_pair(self, call: Call) -> Response:
        handle = await self._deletable(call)
        await self._keys.delete_key_pair(handle)
        return Response(204)

    async def derive_key(self, call: Call) -> Response:
        body: messages.DeriveKey = call.body
        return _handle(await self._keys.derive_key(body.base_key_handle, body.derivation_data))

    async def export_derived_key(self, call: Call) -> Response:
        body: messages.OfKey = call.body
        return json_response({"key": await self._keys.export_derived_key(body.key_handle)})

    async def public_parameter(self, call: Call) -> Response:
        (name,) = call.parameters
        body: messages.OfKey = call.body
        return json_response({"value": await self._keys.public_parameter(body.key_handle, name)})

    async def sign(self, call: Call) -> Response:
        body: messages.SignEcdsa | messages.SignHmac = call.body
        return json_response({"signature": await self._keys.sign(body.key_handle, body.mechanism)})

    async def encrypt(self, call: Call) -> Response:
        body: messages.EncryptAead | messages.EncryptRsaPkcs1 | messages.EncryptRsaRaw = call.body
        made = await self._keys.encrypt(body.key_handle, body.mechanism, body.plaintext)
        return json_response({"ciphertext": made})

    async def decrypt(self, call: Call) -> Response:
        body: messages.DecryptAead | messages.DecryptRsaPkcs1 | messages.DecryptRsaRaw = call.body
        made = await self._keys.decrypt(body.key_handle, body.mechanism, body.ciphertext)
        return json_response({"plaintext": made})

    # --- rights ----------------------------------------------------------------------------------------

    def _may_name(self, uid: int, key_id: str) -> None:
        """Raises _Unauthorised, and RequestRefused for an id that is too long to be looked at."""
        if len(key_id.encode()) > MAX_ID_BYTES:
            raise RequestRefused(
                f"it is longer than {MAX_ID_BYTES} bytes", code="id-unusable", parameter="id"
            )
        if uid != 0 and not any(
            matches(pattern, key_id) for grant in self._grants() if grant.uid == uid for pattern in grant.keys
        ):
            raise _Unauthorised(uid, key_id)

    def _may_change(self, uid: int, key_id: str) -> None:
        """As ``_may_name``; nobody may change what is the machine's."""
        self._may_name(uid, key_id)
        if owns_key(key_id):
            raise _Unauthorised(uid, key_id)

    async def _deletable(self, call: Call) -> str:
        """The handle of a key that is not the machine's. Raises _Unauthorised and RequestRefused."""
        body: messages.OfKey = call.body
        key_id = await trio.to_thread.run_sync(self._keys.key_id_of, body.key_handle)
        if owns_key(key_id):
            raise _Unauthorised(call.uid, key_id)
        return body.key_handle


def _handle(handle: str) -> Response:
    return json_response({"keyHandle": handle})


def _identical(call: Call) -> Response | None:
    body: messages.MoveKeyPair = call.body
    if call.parameters == (body.source,):
        return error_response(400, "source and destination for move are identical")
    return None


def _refuse(exc: AdapterError, call: Call) -> Response:
    match exc:
        case _Unauthorised():
            log.info("%s", exc.message)
            return error_response(401, exc.answer)
        case RequestRefused(code="crypto-failed"):
            # What went wrong inside is not for the caller to learn from (services.md §5.3).
            log.info("a request of uid %d failed: %s", call.uid, exc.message)
            return error_response(500, _INTERNAL)
        case RequestRefused(parameter=str(parameter)):
            return parameter_response(parameter, exc.message)
        case RequestRefused():
            return error_response(400, _INVALID)
    # The answer says no more than the original's; people find the cause in the log.
    log.error("a key cannot be used: %s", exc.message)
    return error_response(500, _INTERNAL)
