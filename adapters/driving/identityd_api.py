"""identityd.sock: who the device and its modules are, as the original's identity service answers.

============================================  ==================================================
``GET /identities/identity``                  the caller's own identity
``POST /identities/device``                   the device's
``GET /identities/provisioning``              how the device is provisioned, from 2021-12-01
``GET /identities/modules?type=aziot``        all modules
``POST /identities/modules``                  a new module, or a local identity
``GET /identities/modules/<id>?type=…``       a module, or a local identity
``PUT /identities/modules/<id>?type=aziot``   its keys are pushed again
``DELETE /identities/modules/<id>?type=…``    it is gone
``POST /identities/device/reprovision``       registration from the start; answers when it has ended
``GET /trust-bundle``                         the CA certificates DPS sent
============================================  ==================================================

Rights come before the ``type`` of a request (services.md §3.3); who has none reads ``authorization error``
and no more. Nothing waits for provisioning: without an identity the documented error says why, and what
happens next. A certificate that has expired is still answered with: the machine renews, no request does.
"""

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec
import trio
from msgspec import UNSET, structs

from adapters.driving import identity_messages as messages
from adapters.driving.authorisation import Caller, caller_of
from adapters.driving.ownership import owns_certificate
from adapters.driving.reprovision import reprovision
from adapters.driving.routes import (
    Call,
    Method,
    Route,
    api_handler,
    json_response,
    parameter_response,
)
from adapters.errors import (
    AdapterError,
    NotProvisioned,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    RequestRefused,
    StoreUnavailable,
    bounded,
)
from adapters.ports import CertificateReader, HubIdentities, Lifecycle, LocalIdentities
from adapters.wire.http_server import Handler, Response, error_response
from statemachine.settings import (
    DEVICE_ID,
    DEVICE_TEMPORARY_ID,
    Configuration,
    DpsProvisioning,
    IdentityPrincipal,
    LocalAttributes,
    ManualProvisioning,
    SymmetricKeySource,
)
from statemachine.snapshot import Snapshot
from statemachine.status import Status

API_VERSIONS = ("2020-09-01", "2021-12-01", "2022-08-01")
MAX_MODULE_ID_CHARS = 128
"What IoT Hub takes."
READ_WITHIN_S = 10.0
"A card that hangs longer than this is answered for with an error."
RETRY_AFTER_S = 5
"When the journal does not say when to come back."

NO_GENERATION_CODE = "generation-id-missing"
"Of the error for a module that the hub reports without a generation id."

ReadFile = Callable[[str], bytes]
"The whole of a small file the operator named. Blocks. Raises StoreUnavailable."

log = logging.getLogger(__name__)


def identityd_handler(
    identities: HubIdentities,
    locals_: LocalIdentities,
    certificates: CertificateReader,
    lifecycle: Lifecycle,
    settings: Callable[[], Configuration],
    snapshot: Callable[[], Snapshot],
    *,
    own_uid: int,
    read_file: ReadFile,
) -> Handler:
    """The handler of identityd.sock. ``read_file`` reads the payload file, in a worker thread."""
    api = _Api(identities, locals_, certificates, lifecycle, settings, snapshot, own_uid, read_file)
    routes = (
        Route("/identities/identity", {"GET": Method(api.own_identity)}),
        Route("/identities/device", {"POST": Method(api.device, messages.DeviceRequest)}),
        Route("/identities/provisioning", {"GET": Method(api.provisioning)}, since="2021-12-01"),
        Route(
            "/identities/modules",
            {"GET": Method(api.list_modules), "POST": Method(api.create_module, messages.ModuleRequest)},
        ),
        Route(
            "/identities/modules/{moduleId}",
            {
                "GET": Method(api.get_module),
                "PUT": Method(api.update_module),
                "DELETE": Method(api.delete_module),
            },
        ),
        Route("/identities/device/reprovision", {"POST": Method(api.reprovision)}),
        Route("/trust-bundle", {"GET": Method(api.trust_bundle)}),
    )

    def refuse(exc: AdapterError, call: Call) -> Response:
        if isinstance(exc, NotProvisioned):
            cause = _why_not_provisioned(lifecycle.status())
            return error_response(400, f"device identity not found\ncaused by: {cause}")
        return _refuse(exc, call)

    return api_handler(API_VERSIONS, routes, refuse)


class _Api:
    def __init__(
        self,
        identities: HubIdentities,
        locals_: LocalIdentities,
        certificates: CertificateReader,
        lifecycle: Lifecycle,
        settings: Callable[[], Configuration],
        snapshot: Callable[[], Snapshot],
        own_uid: int,
        read_file: ReadFile,
    ) -> None:
        self._identities = identities
        self._locals = locals_
        self._certificates = certificates
        self._lifecycle = lifecycle
        self._settings = settings
        self._snapshot = snapshot
        self._own_uid = own_uid
        self._read_file = read_file

    # --- the device ----------------------------------------------------------------------------------

    async def own_identity(self, call: Call) -> Response:
        caller = self._caller(call)
        if caller.may_read_device:
            return await self._device()
        if caller.may_read_module(caller.name, "aziot"):
            return json_response(messages.aziot(await self._identities.module(caller.name)))
        return _not_allowed(call, "have an identity here")

    async def device(self, call: Call) -> Response:
        if not self._caller(call).may_read_device:
            return _not_allowed(call, "read the device's identity")
        return await self._device()

    async def _device(self) -> Response:
        try:
            return json_response(messages.aziot(await self._identities.device()))
        except (RequestRefused, StoreUnavailable) as exc:
            log.error("the device's key cannot be used: %s", exc.message)
            # A store's message names places on this device, which are for the log.
            said = exc.message if isinstance(exc, RequestRefused) else f"the store of keys failed: {exc.code}"
            return error_response(404, f"Key client error\ncaused by: {said}")

    async def provisioning(self, call: Call) -> Response:
        provisioning = self._settings().provisioning
        if isinstance(provisioning, ManualProvisioning):
            keyed = isinstance(provisioning.authentication, SymmetricKeySource)
            return json_response(messages.ManualInfo(auth="sas" if keyed else "x509"))
        if not isinstance(provisioning, DpsProvisioning):
            return json_response(messages.NoInfo())
        snapshot = self._snapshot()
        registration_id = provisioning.registration_id or snapshot.policy.registration_id
        if not registration_id:
            return _internal_error(
                "provisioning info", "no registration id is configured, and the certificate's CN is not known"
            )
        assignment = snapshot.assignment
        policy = None if assignment is None else assignment.certificate_type
        keyed = isinstance(provisioning.attestation, SymmetricKeySource)
        return json_response(
            messages.DpsInfo(
                auth="symmetric_key" if keyed else "x509",
                endpoint=_normalised(provisioning.global_endpoint),
                scope_id=provisioning.scope_id,
                registration_id=registration_id,
                cert_policy=UNSET if policy is None else messages.CertificatePolicy(policy),
                payload=await self._payload(provisioning.payload_path),
            )
        )

    async def _payload(self, path: str | None) -> object:
        """The parsed file, read again each time. Raises StoreUnavailable."""
        if path is None:
            return None
        try:
            with trio.fail_after(READ_WITHIN_S):
                return await trio.to_thread.run_sync(_parsed, self._read_file, path, abandon_on_cancel=True)
        except trio.TooSlowError as exc:
            raise StoreUnavailable(f"{path} could not be read in time", code="payload-invalid") from exc

    async def reprovision(self, call: Call) -> Response:
        caller = self._caller(call)
        if not caller.may_manage:
            return _not_allowed(call, "reprovision the device")
        try:
            why = await reprovision(self._lifecycle, uid=call.uid, privileged=caller.standing == "root")
        except StoreUnavailable as exc:
            wait_ms = exc.retry_after_ms
            seconds = RETRY_AFTER_S if wait_ms is None else max(1, -(-wait_ms // 1000))
            message = (
                f"the journal cannot be written, so nothing was done: {exc.message}; "
                f"free or repair its disk and repeat this in {seconds} s"
            )
            return structs.replace(error_response(503, message), headers=(("retry-after", str(seconds)),))
        if why is None:
            return Response(204)
        return error_response(404, f"DPS client error\ncaused by: {bounded(why, 1000)}")

    async def trust_bundle(self, call: Call) -> Response:
        try:
            with trio.fail_after(READ_WITHIN_S):
                pem = await self._certificates.read_certificate(self._settings().trust_bundle_id)
            return json_response(messages.TrustBundle((pem or b"").decode()))
        except UnicodeDecodeError:
            return _internal_error("the trust bundle", "it is not text")
        except trio.TooSlowError:
            return _internal_error("the trust bundle", "it could not be read in time")

    # --- modules -------------------------------------------------------------------------------------

    async def list_modules(self, call: Call) -> Response:
        if not self._caller(call).may_manage:
            return _not_allowed(call, "list modules")
        if (wrong := _wrong_type(call.first("type"), "aziot")) is not None:
            return wrong
        modules = await self._identities.modules()
        told = tuple(messages.aziot(one, with_auth=False) for one in modules)
        return json_response(messages.Modules(told))

    async def create_module(self, call: Call) -> Response:
        if not self._caller(call).may_manage:
            return _not_allowed(call, "create modules")
        body: messages.ModuleRequest = call.body
        module_id = body.module_id
        if (wrong := _wrong_type(body.type, "aziot", "local") or _wrong_id(module_id)) is not None:
            return wrong
        if body.type == "aziot":
            return json_response(messages.aziot(await self._identities.create_module(module_id)))
        if self._local_principal(module_id) is not None:
            return parameter_response("moduleId", f"local identity for {module_id} already exists")
        options = body.local_id_opts
        attributes = None if options is None else options.attributes
        return await self._issue(call, module_id, attributes or "client")

    async def get_module(self, call: Call) -> Response:
        [module_id] = call.parameters
        kind = call.first("type")
        if not self._caller(call).may_read_module(module_id, kind):
            return _not_allowed(call, f"read module {module_id}")
        if (wrong := _wrong_type(kind, "aziot", "local") or _wrong_id(module_id)) is not None:
            return wrong
        if kind == "aziot":
            return json_response(messages.aziot(await self._identities.module(module_id)))
        principal = self._local_principal(module_id)
        if principal is None:
            return parameter_response("moduleId", f"local identity for {module_id} doesn't exist")
        return await self._issue(call, module_id, principal.local)

    async def update_module(self, call: Call) -> Response:
        return await self._change(call, "update", self._update)

    async def delete_module(self, call: Call) -> Response:
        return await self._change(call, "delete", self._delete)

    async def _change(self, call: Call, verb: str, work: Callable[[str], Awaitable[Response]]) -> Response:
        [module_id] = call.parameters
        if not self._caller(call).may_manage:
            return _not_allowed(call, f"{verb} module {module_id}")
        if (wrong := _wrong_type(call.first("type"), "aziot") or _wrong_id(module_id)) is not None:
            return wrong
        return await work(module_id)

    async def _update(self, module_id: str) -> Response:
        return json_response(messages.aziot(await self._identities.update_module(module_id)))

    async def _delete(self, module_id: str) -> Response:
        await self._identities.delete_module(module_id)
        return Response(204)

    # --- local identities ----------------------------------------------------------------------------

    def _local_principal(self, name: str) -> IdentityPrincipal | None:
        """Of all that are configured, also those whose uid a later one took over."""
        principals = self._settings().identities.principals
        return next((one for one in principals if one.name == name and "local" in (one.kinds or ())), None)

    async def _issue(self, call: Call, name: str, attributes: LocalAttributes) -> Response:
        settings = self._settings()
        if owns_certificate(name, settings.trust_bundle_id):
            return _not_allowed(call, f"have certificate {name} replaced by that of a local identity")
        if _is_configured(name, settings):
            return parameter_response("moduleId", f"certificate {name} is configured for something else")
        try:
            return json_response(messages.local(name, await self._locals.issue(name, attributes)))
        except RequestRefused as exc:
            if exc.parameter == "moduleId":
                raise
            # No domain, no issuance rule: the original answers as little.
            return _internal_error(f"local identity {name}", exc.message)

    def _caller(self, call: Call) -> Caller:
        return caller_of(call.uid, self._settings().identities.principals, self._own_uid)


# --- judging a request -------------------------------------------------------------------------------


def _wrong_type(given: str | None, *served: str) -> Response | None:
    if given is None:
        return parameter_response("type", "missing parameter")
    return None if given in served else parameter_response("type", f"invalid type: {bounded(given, 60)}")


def _wrong_id(module_id: str) -> Response | None:
    """Names that no module can have, and that would mean something else in a path or a subject."""
    cause = None
    if not module_id.strip():
        cause = "module name cannot be empty"
    elif len(module_id) > MAX_MODULE_ID_CHARS:
        cause = f"module name is longer than {MAX_MODULE_ID_CHARS} characters"
    elif not module_id.isprintable():
        cause = "module name has characters that cannot be printed"
    elif module_id in (".", ".."):
        cause = "module name cannot be a relative path"
    return None if cause is None else parameter_response("module_id", cause)


def _is_configured(certificate_id: str, settings: Configuration) -> bool:
    """A certificate that the operator answers for; a caller's is not put in its place.

    The original leaves this to certd's rights of identityd's uid; here the two are one process.
    """
    certificates = settings.certificates
    configured = {
        DEVICE_ID,
        DEVICE_TEMPORARY_ID,
        settings.workload_bundle_id,
        settings.manifest_bundle_id,
        *certificates.preloaded,
    }
    if certificates.local_ca is not None:
        configured.add(certificates.local_ca.certificate_id)
    return certificate_id in configured


def _parsed(read_file: ReadFile, path: str) -> object:
    content = read_file(path)
    try:
        parsed: object = msgspec.json.decode(content)
        # Said once here, so that what cannot be written again fails where its reason is known.
        msgspec.json.encode(parsed)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise StoreUnavailable(
            f"the payload {path} is not JSON: {exc}", code="payload-invalid", failure_class="operator"
        ) from exc
    return parsed


def _normalised(endpoint: str) -> str:
    """As the original prints a URL: one without a path has the root as its path."""
    return endpoint if urlsplit(endpoint).path else f"{endpoint}/"


# --- saying no ---------------------------------------------------------------------------------------


def _not_allowed(call: Call, what: str) -> Response:
    log.warning("uid %d may not %s", call.uid, bounded(what, 200))
    return error_response(401, "authorization error")


def _internal_error(what: str, why: str) -> Response:
    log.error("%s: %s", bounded(what, 200), why)
    return error_response(500, "internal error")


def _refuse(exc: AdapterError, call: Call) -> Response:
    """The status table of services.md §3.5. Cloud failures are 404 there, and so here (quirk 9)."""
    match exc:
        case PeerUnreachable() | PeerProtocolError() | PeerRefused():
            return error_response(404, f"Hub client error\ncaused by: {exc.message}{_tracking(exc)}")
        case AdapterError(code=code) if code == NO_GENERATION_CODE:
            return error_response(400, "module identity not found")
        case RequestRefused(parameter=str() as parameter):
            return parameter_response(parameter, exc.message)
        case _:
            return _internal_error(f"a request of uid {call.uid}", f"{exc.code}: {exc.message}")


def _why_not_provisioned(status: Status) -> str:
    """Why, and what happens next, by the status; it knows more than whoever looked for an identity."""
    told = [status.reason.rstrip(".")]
    if status.attempt is not None and status.attempt.last_error is not None:
        error = status.attempt.last_error
        told.append(f"the latest attempt ran into {error.code}: {bounded(error.message)}")
    if status.next is not None:
        told.append(f"next: {status.next.what}" + (f", at {status.next.at}" if status.next.at else ""))
    else:
        told.append("nothing happens without help")
    return "; ".join(told)


def _tracking(exc: AdapterError) -> str:
    return "" if exc.tracking_id is None else f" (tracking id {exc.tracking_id})"
