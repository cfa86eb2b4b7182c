"""A stand-in for DPS and IoT Hub: real HTTPS on loopback, its own CA, faults as data. NOT FOR PRODUCTION.

One port serves both services; devices are assigned to ``localhost:PORT``. Beside them:

- ``GET /_cloud/log?from=SEQUENCE``: what was asked and answered, as JSON.
- ``GET``, ``PUT``, ``POST /_cloud/faults``: the faults in force; a body of TOML or JSON replaces them.
- ``GET``, ``PUT /_cloud/bundle``: the trust bundle as PEM; an empty body removes it.
- ``GET``, ``PUT /_cloud/options``: what may be changed while it runs.
"""

import logging
import socket
import time
from collections.abc import Callable, Sequence

import msgspec
import trio
from msgspec import Struct, structs

from adapters.simulators import ca
from adapters.simulators.contexts import Contexts
from adapters.simulators.doors import guarded
from adapters.simulators.dps import DIALECTS, PLAIN, Behaviour, Dps
from adapters.simulators.faults import Fault, Faults, FaultsInvalid, parse_faults
from adapters.simulators.hub import Hub
from adapters.simulators.request_log import RequestLog
from adapters.simulators.state import CloudError, State
from adapters.wire.http_server import Request, Response, ServerLimits, error_response, http_date, serve

LIMITS = ServerLimits(connections=512, body_bytes=96 * 1024)
"DPS takes messages of 96 KB."
MAX_LIFETIME_S = 3650 * 86_400
MAX_POLLS = 10_000

log = logging.getLogger(__name__)


class CloudOptions(Struct, frozen=True, kw_only=True):
    """How the stand-in cloud starts."""

    root: str
    "Everything it keeps lies below; not `/`."
    port: int = 0
    "0: the port of the last run when that is free, else any."
    cert_lifetime_s: float = 30 * 86_400.0
    bundle: str | None = None
    "PEM file of the trust bundle; None sends none."
    identity_certs: bool = True
    "False: the enrolment issues no certificates."
    server_certs: bool = False
    "The enrolment says that devices may ask for server certificates, and issues none."
    api_version: str | None = None
    "None serves every dialect; otherwise this one and the plain ones, which know no certificates."
    faults: str | None = None
    "TOML file, see faults.py."
    assigning: int = 1
    "Polls answered `assigning` before the one that ends an operation."
    retry_after_s: int | None = 1
    "Retry-After of register and `assigning` answers; None sends none."


class CloudListening(Struct, frozen=True, kw_only=True):
    """What a device needs to know."""

    endpoint: str
    "https://localhost:PORT"
    ca_file: str
    config: str
    "Path of the device's config.toml."
    config_written: bool
    "False: there was one already, and it was left alone."
    config_matches: bool
    "Whether it names this endpoint."


async def run_cloud(options: CloudOptions, *, on_listening: Callable[[CloudListening], None]) -> None:
    """Serve until cancelled. Raises CloudError before ``on_listening`` is called, or not at all."""
    now = time.time
    state = State(options.root, now())
    with state.alone():
        await _run(options, state, now, on_listening)


async def _run(
    options: CloudOptions,
    state: State,
    now: Callable[[], float],
    on_listening: Callable[[CloudListening], None],
) -> None:
    behaviour = _behaviour(options)
    faults = Faults(_read_faults(options.faults))
    listeners, port = _bind(options.port, state.port)
    try:
        state.keep_port(port)
        endpoint = f"https://localhost:{port}"
        written = state.write_config(
            endpoint,
            cert_lifetime_s=options.cert_lifetime_s,
            # A plain version is for other clients: the device itself always speaks one with certificates.
            api_version=None if options.api_version in PLAIN else options.api_version,
        )
    except OSError as exc:
        for listener in listeners:
            listener.socket.close()
        raise CloudError(f"{state.root} cannot be written: {exc.strerror}") from exc
    cloud = Cloud(state, behaviour, faults, f"localhost:{port}", now)
    async with trio.open_nursery() as nursery:
        await nursery.start(cloud.serve, listeners)
        on_listening(
            CloudListening(
                endpoint=endpoint,
                ca_file=state.ca_file,
                config=state.config,
                config_written=written,
                config_matches=state.config_names(endpoint),
            )
        )


# --- starting ----------------------------------------------------------------------------------------


def _behaviour(options: CloudOptions) -> Behaviour:
    if options.api_version is not None and options.api_version not in DIALECTS:
        raise CloudError(f"api-version {options.api_version} is not known, valid: {', '.join(DIALECTS)}")
    behaviour = Behaviour(
        cert_lifetime_s=options.cert_lifetime_s,
        identity_certs=options.identity_certs,
        server_certs=options.server_certs,
        assigning=options.assigning,
        retry_after_s=options.retry_after_s,
        api_version=options.api_version,
    )
    problem = _behaviour_problem(behaviour)
    if problem is not None:
        raise CloudError(problem)
    if options.bundle is not None:
        behaviour.bundle = _read_bundle(options.bundle)
    return behaviour


def _behaviour_problem(behaviour: Behaviour) -> str | None:
    if not 1 <= behaviour.cert_lifetime_s <= MAX_LIFETIME_S:
        return f"cert_lifetime_s must be 1 to {MAX_LIFETIME_S}"
    if not 0 <= behaviour.assigning <= MAX_POLLS:
        return f"assigning must be 0 to {MAX_POLLS}"
    if behaviour.retry_after_s is not None and not 0 <= behaviour.retry_after_s <= 86_400:
        return "retry_after_s must be 0 to 86400"
    return None


def _read_bundle(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            return ca.certificates_in(file.read())
    except OSError as exc:
        raise CloudError(f"the trust bundle {path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise CloudError(f"the trust bundle {path} is not a PEM file of certificates") from exc


def _read_faults(path: str | None) -> list[Fault]:
    if path is None:
        return []
    try:
        with open(path, "rb") as file:
            return parse_faults(file.read())
    except OSError as exc:
        raise CloudError(f"the faults in {path} cannot be read: {exc.strerror}") from exc
    except FaultsInvalid as exc:
        raise CloudError(f"{path}: {exc}") from exc


def _bind(wanted: int, last: int) -> tuple[list[trio.SocketListener], int]:
    """Listeners on 127.0.0.1 and, where there is one, ::1, with one port. Raises CloudError."""
    for port in dict.fromkeys((wanted,) if wanted else (last, 0)):
        try:
            first = _listen(socket.AF_INET, "127.0.0.1", port)
        except OSError as exc:
            reason = exc
            continue
        port = first.getsockname()[1]
        sockets = [first]
        try:
            # `localhost` is ::1 for some clients.
            sockets.append(_listen(socket.AF_INET6, "::1", port))
        except OSError:
            log.debug("not listening on ::1", exc_info=True)
        return [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in sockets], port
    raise CloudError(f"cannot listen on port {wanted} of localhost: {reason.strerror}") from reason


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(128)
    except OSError:
        bound.close()
        raise
    return bound


# --- serving -----------------------------------------------------------------------------------------


class _RuntimeOptions(Struct, forbid_unknown_fields=True):
    """What ``PUT /_cloud/options`` may change."""

    cert_lifetime_s: float | msgspec.UnsetType = msgspec.UNSET
    identity_certs: bool | msgspec.UnsetType = msgspec.UNSET
    server_certs: bool | msgspec.UnsetType = msgspec.UNSET
    assigning: int | msgspec.UnsetType = msgspec.UNSET
    retry_after_s: int | msgspec.UnsetType | None = msgspec.UNSET


class Cloud:
    """Both services behind one listener, with what controls them."""

    def __init__(
        self, state: State, behaviour: Behaviour, faults: Faults, hub: str, now: Callable[[], float]
    ) -> None:
        self._behaviour = behaviour
        self._faults = faults
        self._now = now
        self._log = RequestLog()
        self._contexts = Contexts(state, faults, now)
        self._dps = Dps(
            authority=state.authority,
            enrolment_key=state.enrolment_key,
            hub=hub,
            behaviour=behaviour,
            devices=state.devices,
            faults=faults,
            now=now,
        )
        self._hub = Hub(
            authority=state.authority,
            enrolment_key=state.enrolment_key,
            name=hub,
            devices=state.devices,
            faults=faults,
            now=now,
        )

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            await serve(
                [guarded(listener, self._faults, nursery) for listener in listeners],
                self.handle,
                LIMITS,
                tls=self._contexts.current,
                on_error=self.on_error,
                task_status=task_status,
            )

    async def handle(self, request: Request) -> Response:
        if request.path.startswith("/_cloud/"):
            return self._control(request)
        entry = self._log.open(request.method, request.target, self._now())
        if self._hub.matches(request.path):
            response = await self._hub.answer(request, entry)
        else:
            response = await self._dps.answer(request, entry)
        entry.status = response.status
        return self._dated(response)

    def _dated(self, response: Response) -> Response:
        """By this cloud's clock, which in tests is not the server's."""
        if any(name == "date" for name, _ in response.headers):
            return response
        return structs.replace(response, headers=(*response.headers, ("date", http_date(int(self._now())))))

    def on_error(self, doing: str, exc: Exception) -> None:
        """Handshakes are part of the story a test or a demo tells; the rest is for the log."""
        if doing == "a TLS handshake":
            entry = self._log.open("TLS", "", self._now())
            entry.why = getattr(exc, "verify_message", None) or getattr(exc, "reason", None) or repr(exc)
        else:
            log.error("%s failed", doing, exc_info=exc)

    def _control(self, request: Request) -> Response:
        match request.method, request.path.removeprefix("/_cloud/"):
            case "GET", "log":
                return self._get_log(request)
            case "GET", "faults":
                return Response(200, msgspec.json.encode({"fault": self._faults.report()}))
            case (("PUT" | "POST"), "faults"):
                return self._put_faults(request)
            case "GET", "bundle":
                pem = "".join(self._behaviour.bundle or ()).encode()
                return Response(200, pem, content_type="application/x-pem-file")
            case "PUT", "bundle":
                return self._put_bundle(request)
            case "GET", "options":
                return self._get_options()
            case "PUT", "options":
                return self._put_options(request)
            case _, ("log" | "faults" | "bundle" | "options"):
                return error_response(405, "method not allowed")
            case _:
                return error_response(404, "valid here: log, faults, bundle, options")

    def _get_log(self, request: Request) -> Response:
        text = request.query("from") or "1"
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            return error_response(400, "from must be a sequence number")
        return Response(200, msgspec.json.encode({"entries": self._log.since(int(text))}))

    def _put_faults(self, request: Request) -> Response:
        try:
            self._faults.replace(parse_faults(request.body))
        except FaultsInvalid as exc:
            return error_response(400, str(exc))
        return Response(204)

    def _put_bundle(self, request: Request) -> Response:
        try:
            self._behaviour.bundle = ca.certificates_in(request.body) if request.body.strip() else None
        except ValueError:
            return error_response(400, "the body is not a PEM file of certificates")
        return Response(204)

    def _get_options(self) -> Response:
        names = _RuntimeOptions.__struct_fields__
        return Response(200, msgspec.json.encode({name: getattr(self._behaviour, name) for name in names}))

    def _put_options(self, request: Request) -> Response:
        valid = ", ".join(_RuntimeOptions.__struct_fields__)
        try:
            given = msgspec.json.decode(request.body, type=_RuntimeOptions)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            return error_response(400, f"{exc}; valid: {valid}")
        changes = {
            name: value
            for name in _RuntimeOptions.__struct_fields__
            if (value := getattr(given, name)) is not msgspec.UNSET
        }
        problem = _behaviour_problem(msgspec.structs.replace(self._behaviour, **changes))
        if problem is not None:
            return error_response(400, problem)
        for name, value in changes.items():
            setattr(self._behaviour, name, value)
        return Response(204)
