"""The device's modules at IoT Hub, over REST with the credential in use (cloud.md §3).

Nothing is decided here but what an answer means: a refusal of the credential is told to the machine, a
module that the hub does not know is gone, everything else is the hub's own words. No lock is held while the
network is waited for; requests that would queue for a pooled connection get one of their own.
"""

from collections.abc import Callable, Mapping

import trio
from msgspec import Struct

from adapters.driven.exchange import Timed, untimed, with_retries
from adapters.driven.hub_credential import (
    HubCredential,
    hub_credential,
    network_host,
)
from adapters.errors import (
    AdapterError,
    FailureClass,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    StoreUnavailable,
)
from adapters.ports import Clock, Post, StagedKey
from adapters.wire import hub as wire
from adapters.wire.http_client import HttpAnswer, HttpsClient
from statemachine.events import HubRefusedCredential
from statemachine.settings import Configuration
from statemachine.snapshot import Snapshot

REFUSAL_INTERVAL_MS = 60_000
"The machine counts refusals over a quarter of an hour; a busy client must not fill its journal."
POOLED = 2
"Connections that HttpsClient keeps for one host."
IDLE_CLOSE_S = 15.0
"After the last answer; HttpsClient itself does not use a connection again that rested for 10 s."
MODULE_GONE = "module-gone"
HUB_MOVED = "hub-moved"
REFUSALS = frozenset({"hub-401", f"hub-{wire.DEVICE_NOT_FOUND}", "tls-certificate-alert"})
"Codes of the errors that say that the credential was refused (design §2, Refused by the hub)."

_OPERATOR_STATUSES = frozenset({400, 403, 404, 405, 409, 412, 413, 415})
_TLS_CODES = frozenset({"tls-dates", "tls-untrusted", "request-invalid"})


class Where(Struct, frozen=True, kw_only=True):
    """The device that modules belong to."""

    hub: str
    device_id: str


class _Lease(Struct):
    """A client, for whom it is, and how many exchanges use it: nobody closes it under another."""

    client: HttpsClient
    credential: HubCredential
    users: int = 0


class _Asking(Struct, frozen=True, kw_only=True):
    """One request, and what it is about."""

    method: str
    where: Where
    module_id: str | None = None
    body: bytes | None = None
    match_any: bool = False
    limit: int = wire.MAX_MODULE_BYTES


class _Answered(Struct, frozen=True, kw_only=True):
    answer: HttpAnswer
    repeated: bool
    "An earlier try may have been served, too."


class HubModules:
    """Modules of the device that ``snapshot`` says we are. ``configuration`` and it are asked at each use.

    ``distrusted`` names roots that TLS must not believe though the system does (``wire.installed_roots``);
    it is called in worker threads.

    Every method may take cloud_timeout_seconds times (cloud_retries + 1). They raise:

    - PeerUnreachable: no answer, which is what being offline looks like;
    - PeerProtocolError: not the hub's protocol, or TLS that is not believed;
    - PeerRefused: the hub said no, in its own words; code ``module-gone`` for a module it does not know,
      ``hub-moved`` (class retry) when the device is no longer ``where``;
    - RequestRefused for an impossible module id, before anything is sent;
    - StoreUnavailable when the credential cannot be read.

    Call ``aclose`` when the credential changed and at the end; ``run`` does so after the last answer.
    """

    def __init__(
        self,
        configuration: Callable[[], Configuration],
        snapshot: Callable[[], Snapshot],
        clock: Clock,
        staged: StagedKey,
        post: Post,
        *,
        distrusted: Callable[[], frozenset[str]] = frozenset,
        environ: Mapping[str, str] | None = None,
        timed: Timed = untimed,
    ) -> None:
        self._distrusted = distrusted
        self._configuration = configuration
        self._snapshot = snapshot
        self._clock = clock
        self._staged = staged
        self._post = post
        self._environ = environ
        self._timed = timed
        self._lease: _Lease | None = None
        self._used = trio.Event()
        self._told: tuple[int, int] | None = None
        "Generation and elapsed time of the last refusal that was told."

    def where(self) -> Where | None:
        """The device we are, None without an assignment that may be used."""
        snapshot = self._snapshot()
        if snapshot.assignment is None or snapshot.credential is None:
            return None
        return Where(hub=snapshot.assignment.hub, device_id=snapshot.assignment.device_id)

    # --- the five requests ---------------------------------------------------------------------------

    async def list(self, where: Where) -> tuple[wire.Module, ...]:
        """Complete: this api-version has no pages."""
        done = await self._ask(_Asking(method="GET", where=where, limit=wire.MAX_LIST_BYTES))
        return wire.parse_modules(self._good(done, None, 200).body)

    async def get(self, where: Where, module_id: str) -> wire.Module:
        wire.check_module_id(module_id)
        done = await self._ask(_Asking(method="GET", where=where, module_id=module_id))
        return wire.parse_module(self._good(done, module_id, 200).body, module_id)

    async def create(self, where: Where, module_id: str) -> wire.Module:
        """Without keys. One that is there already is taken as it is: a lost answer must strand nobody."""
        wire.check_module_id(module_id)
        body = wire.module_request(where.device_id, module_id)
        done = await self._ask(_Asking(method="PUT", where=where, module_id=module_id, body=body))
        if done.answer.status == 409:
            return await self.get(where, module_id)
        return wire.parse_module(self._good(done, module_id, 200, 201).body, module_id)

    async def update(self, where: Where, module: wire.Module, keys: wire.ModuleKeyPair) -> wire.Module:
        """Gives the hub the module's keys; whoever manages the module stays as the hub said."""
        wire.check_module_id(module.module_id)
        body = wire.module_request(where.device_id, module.module_id, managed_by=module.managed_by, keys=keys)
        done = await self._ask(
            _Asking(method="PUT", where=where, module_id=module.module_id, body=body, match_any=True)
        )
        answer = self._good(done, module.module_id, 200, 201)
        return wire.parse_module(answer.body, module.module_id)

    async def delete(self, where: Where, module_id: str) -> None:
        """Raises PeerRefused (code ``module-gone``) unless a try of ours was what made it go."""
        wire.check_module_id(module_id)
        done = await self._ask(_Asking(method="DELETE", where=where, module_id=module_id, match_any=True))
        try:
            self._good(done, module_id, 200, 204)
        except PeerRefused as exc:
            if exc.code != MODULE_GONE or not done.repeated:
                raise

    # --- connections ---------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Gives back sockets and trust roots once the hub has not been asked for a while."""
        task_status.started()
        try:
            while True:
                await self._used.wait()
                self._used = trio.Event()
                with trio.move_on_after(IDLE_CLOSE_S) as resting:
                    await self._used.wait()
                if resting.cancelled_caught and (self._lease is None or self._lease.users == 0):
                    await self.aclose()
        finally:
            with trio.CancelScope(shield=True):
                await self.aclose()

    async def aclose(self) -> None:
        """Forget the connections; they are made anew when needed. One in use is closed by its last user."""
        lease, self._lease = self._lease, None
        if lease is not None and lease.users == 0:
            await lease.client.aclose()

    def _leased(self, credential: HubCredential) -> tuple[_Lease, _Lease | None]:
        """Counted as in use; and the one it replaces, when that is to be closed now."""
        lease = self._lease
        if lease is not None and lease.credential == credential:
            lease.users += 1
            return lease, None
        self._lease = _Lease(HttpsClient(credential.tls, environ=self._environ), credential, users=1)
        return self._lease, lease if lease is not None and lease.users == 0 else None

    # --- one exchange --------------------------------------------------------------------------------

    async def _ask(self, asking: _Asking) -> _Answered:
        configuration, snapshot = self._configuration(), self._snapshot()
        where = self.where()
        if where != asking.where or snapshot.credential is None:
            raise PeerRefused(
                f"device {asking.where.device_id} is no longer assigned to {asking.where.hub}; ask again",
                code=HUB_MOVED,
            )
        credential = snapshot.credential
        bound_s = configuration.cloud_timeout_seconds * (configuration.cloud_retries + 1)
        read = False
        try:
            with trio.fail_after(bound_s):
                held = await trio.to_thread.run_sync(
                    self._credential,
                    configuration,
                    credential.source,
                    credential.generation,
                    abandon_on_cancel=True,
                )
                read = True
                return await self._exchange(configuration, held, asking)
        except trio.TooSlowError as exc:
            if not read:
                raise StoreUnavailable(
                    f"the credential for the hub could not be read within {bound_s} s", code="io-error"
                ) from exc
            raise PeerUnreachable(
                f"no answer from {asking.where.hub} within {bound_s} s", code="timeout"
            ) from exc
        except AdapterError as exc:
            if exc.code == "tls-certificate-alert":
                self._tell_refused(credential.generation, exc.code)
            raise _ours(exc) from exc.__cause__

    def _credential(self, configuration: Configuration, source: str, generation: int) -> HubCredential:
        return hub_credential(
            configuration,
            self._staged,
            generation,
            issued=source == "issued",
            distrust=self._distrusted(),
        )

    async def _exchange(
        self, configuration: Configuration, credential: HubCredential, asking: _Asking
    ) -> _Answered:
        where = asking.where
        host = network_host(configuration, where.hub)
        if asking.module_id is None:
            url = wire.modules_url(host, where.device_id)
        else:
            url = wire.module_url(host, where.device_id, asking.module_id)
        tries = 0
        lease, superseded = self._leased(credential)
        # httpcore queues who finds the pool used up; a hub that stalls two must not stall a third.
        fresh = lease.users > POOLED

        async def send() -> HttpAnswer:
            nonlocal tries
            tries += 1
            now_unix_ms = self._clock.now_unix_ms() + self._snapshot().clock.correction_ms
            headers = credential.headers(where.hub, where.device_id, now_unix_ms)
            if asking.body is not None:
                headers["Content-Type"] = "application/json"
            if asking.match_any:
                headers["If-Match"] = "*"
            return await lease.client.request(
                asking.method,
                url,
                headers=headers,
                body=asking.body,
                timeout_s=configuration.cloud_timeout_seconds,
                max_answer_bytes=asking.limit,
                fresh=fresh,
            )

        try:
            if superseded is not None:
                await superseded.client.aclose()
            answer = await with_retries(send, configuration.cloud_retries, self._timed)
        finally:
            lease.users -= 1
            self._used.set()
            if lease is not self._lease and lease.users == 0:
                with trio.CancelScope(shield=True):
                    await lease.client.aclose()
        refused = wire.refusal_code(answer.status, answer.body)
        if refused is not None:
            self._tell_refused(credential.generation, refused)
        return _Answered(answer=answer, repeated=tries > 1)

    def _good(self, done: _Answered, module_id: str | None, *statuses: int) -> HttpAnswer:
        """The answer when its status is one of these. Raises PeerRefused."""
        answer = done.answer
        if answer.status in statuses:
            return answer
        error = wire.parse_error(answer.body)
        refused = wire.refusal_code(answer.status, answer.body)
        if answer.status == 404 and refused is None and module_id is not None:
            raise PeerRefused(
                f"module {module_id} not found",
                code=MODULE_GONE,
                failure_class="operator",
            )
        said = f": {error.message}" if error.message else ""
        raise PeerRefused(
            f"the hub answered HTTP {answer.status}{said}",
            code=refused or f"hub-{answer.status}",
            failure_class=_class_of(answer.status),
            retry_after_ms=answer.retry_after_ms(self._clock.now_unix_ms()),
            tracking_id=error.tracking_id,
        )

    def _tell_refused(self, generation: int, code: str) -> None:
        now = self._clock.elapsed_ms()
        if self._told is not None:
            told, at = self._told
            if told == generation and now - at < REFUSAL_INTERVAL_MS:
                return
        self._told = (generation, now)
        self._post(HubRefusedCredential(generation=generation, code=code))


def _class_of(status: int) -> FailureClass:
    return "operator" if status in _OPERATOR_STATUSES else "retry"


def _ours(exc: AdapterError) -> AdapterError:
    """As the error kinds of the port: what concerns the peer is a Peer error, what lies here is a store's."""
    if isinstance(exc, PeerUnreachable | PeerProtocolError | PeerRefused | StoreUnavailable):
        return exc
    kind = PeerProtocolError if exc.code in _TLS_CODES else StoreUnavailable
    return kind(exc.message, code=exc.code, failure_class=exc.failure_class)
