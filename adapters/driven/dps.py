"""DPS, asked with the configured credential. Fills ``ports.Registrar``."""

from collections.abc import Callable, Mapping
from typing import NoReturn

import trio
from msgspec import Struct, structs

from adapters.driven.exchange import Timed, untimed, with_retries
from adapters.driven.onboarding import (
    TOKEN_LIFE_S,
    OnboardingCredential,
    dps_provisioning,
    load_credential,
    read_file,
)
from adapters.errors import AdapterError, CertificateRejected, FailureClass, PeerProtocolError, PeerRefused
from adapters.ports import Clock, StagedKey
from adapters.wire import dps as wire
from adapters.wire import sas, x509
from adapters.wire.http_client import HttpAnswer, HttpsClient, TlsOptions
from statemachine.effects import PollRegistration, SubmitRegistration
from statemachine.events import (
    BundleFacts,
    ChainFacts,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
)
from statemachine.settings import Configuration, DpsProvisioning

MAX_ANSWER_BYTES = 4 * x509.MAX_BUNDLE_BYTES
"Over what a bundle may have, so that one that is too large is that bundle's problem only."

_OPERATOR_STATUSES = frozenset({400, 401, 403, 404, 405, 413, 415})
"Repeating these soon changes nothing; the machine backs off slowly and keeps what it has."


class _Lease(Struct):
    """A client and how many exchanges are using it, so that nobody closes it under another."""

    client: HttpsClient
    options: TlsOptions
    users: int = 0


class _Prepared(Struct, frozen=True):
    """What a call takes from configuration and files."""

    configuration: Configuration
    provisioning: DpsProvisioning
    dialect: wire.Dialect
    credential: OnboardingCredential
    body: bytes | None = None
    "Of a PUT."


class DpsRegistrar:
    """One client is kept from the PUT to the final answer, so that polls reuse its connection.

    ``configuration`` is called at each use, so that a reload needs nothing else; ``environ`` is where
    the proxy variables are looked up, by default the process's. ``distrusted`` names roots that TLS must
    not believe though the system does (``wire.installed_roots``); it is called in worker threads. Call
    ``aclose`` at the end.
    """

    def __init__(
        self,
        configuration: Callable[[], Configuration],
        clock: Clock,
        staged: StagedKey,
        *,
        distrusted: Callable[[], frozenset[str]] = frozenset,
        environ: Mapping[str, str] | None = None,
        timed: Timed = untimed,
    ) -> None:
        self._distrusted = distrusted
        self._configuration = configuration
        self._clock = clock
        self._staged = staged
        self._environ = environ
        self._timed = timed
        self._lease: _Lease | None = None

    async def submit(
        self, effect_id: str, effect: SubmitRegistration
    ) -> RegistrationAccepted | RegistrationAssigned | RegistrationFailed:
        """PUT the registration. A payload or credential that cannot be used fails before any network call."""
        date: int | None = None
        try:
            asking = await trio.to_thread.run_sync(self._prepare_submit, effect.generation)
        except AdapterError as exc:
            await self.aclose()
            return _failed(effect_id, exc, date, unsent=True)
        try:
            dialect, provisioning = asking.dialect, asking.provisioning
            url = wire.register_url(
                dialect,
                provisioning.global_endpoint,
                provisioning.scope_id,
                asking.credential.registration_id,
            )
            answer = await self._send("PUT", url, asking, effect.clock_offset_ms)
            date = answer.date_unix_ms
            self._check(answer, asking.credential, effect.clock_offset_ms)
            registered = wire.parse_register(dialect, answer.body)
            if registered.state is not None and registered.status not in ("unassigned", "assigning"):
                final = _assigned(effect_id, dialect, registered.state, effect.spki_sha256, answer)
                await self.aclose()
                return final
            if registered.operation_id is None:
                raise PeerProtocolError("DPS named no operation", code="answer-malformed")
            return RegistrationAccepted(
                answers=effect_id,
                server_date_unix_ms=date,
                operation_id=registered.operation_id,
                retry_after_ms=answer.retry_after_ms(self._clock.now_unix_ms()),
            )
        except AdapterError as exc:
            await self.aclose()
            return _failed(effect_id, exc, date, unsent=exc.unsent)

    async def poll(
        self, effect_id: str, effect: PollRegistration
    ) -> RegistrationPending | RegistrationAssigned | RegistrationFailed:
        """GET the operation, once (and again after a transport error)."""
        date: int | None = None
        try:
            asking = await trio.to_thread.run_sync(self._prepare)
            dialect, provisioning = asking.dialect, asking.provisioning
            url = wire.operation_url(
                dialect,
                provisioning.global_endpoint,
                provisioning.scope_id,
                asking.credential.registration_id,
                effect.operation_id,
            )
            answer = await self._send("GET", url, asking, effect.clock_offset_ms)
            date = answer.date_unix_ms
            if answer.status == 404:
                error = wire.parse_error(answer.body)
                raise PeerRefused(
                    error.message or "DPS does not know the operation",
                    code="operation-unknown",
                    failure_class="reregister",
                    tracking_id=error.tracking_id,
                )
            self._check(answer, asking.credential, effect.clock_offset_ms)
            state = wire.parse_status(dialect, answer.body)
            if state.status in ("unassigned", "assigning"):
                return RegistrationPending(
                    answers=effect_id,
                    server_date_unix_ms=date,
                    retry_after_ms=answer.retry_after_ms(self._clock.now_unix_ms()),
                )
            final = _assigned(effect_id, dialect, state, effect.spki_sha256, answer)
            await self.aclose()
            return final
        except AdapterError as exc:
            await self.aclose()
            return _failed(effect_id, exc, date, unsent=exc.unsent)

    async def aclose(self) -> None:
        """Close the connection to DPS and forget its trust roots until they are needed again.

        A client that is in use is closed by its last user.
        """
        lease, self._lease = self._lease, None
        if lease is not None and lease.users == 0:
            await lease.client.aclose()

    def _prepare(self) -> _Prepared:
        """Reads files, so it runs in a worker thread."""
        configuration = self._configuration()
        return _Prepared(
            configuration,
            dps_provisioning(configuration),
            wire.DIALECTS[configuration.api_version],
            load_credential(configuration, self._distrusted()),
        )

    def _prepare_submit(self, generation: int | None) -> _Prepared:
        asking = self._prepare()
        csr_der = None if generation is None else self._staged.csr_der(generation)
        body = _register_body(asking.dialect, asking.credential, csr_der, asking.provisioning.payload_path)
        return structs.replace(asking, body=body)

    async def _send(self, method: str, url: str, asking: _Prepared, clock_offset_ms: int) -> HttpAnswer:
        configuration, provisioning, credential = asking.configuration, asking.provisioning, asking.credential
        headers = {"Accept": "application/json"}
        if asking.body is not None:
            headers["Content-Type"] = "application/json"
        if credential.symmetric_key is not None:
            expiry_unix_s = (self._clock.now_unix_ms() + clock_offset_ms) // 1000 + TOKEN_LIFE_S
            headers["Authorization"] = sas.dps_token(
                provisioning.scope_id, credential.registration_id, credential.symmetric_key, expiry_unix_s
            )
        lease = self._lease
        if lease is None or lease.options != credential.tls:
            await self.aclose()
            client = HttpsClient(credential.tls, environ=self._environ)
            lease = self._lease = _Lease(client=client, options=credential.tls)
        lease.users += 1
        try:
            return await with_retries(
                lambda: lease.client.request(
                    method,
                    url,
                    headers=headers,
                    body=asking.body,
                    timeout_s=configuration.cloud_timeout_seconds,
                    max_answer_bytes=MAX_ANSWER_BYTES,
                ),
                configuration.cloud_retries,
                self._timed,
            )
        finally:
            lease.users -= 1
            if lease is not self._lease and lease.users == 0:
                await lease.client.aclose()

    def _check(self, answer: HttpAnswer, credential: OnboardingCredential, clock_offset_ms: int) -> None:
        """Raise unless the status is one DPS succeeds with."""
        if answer.status in (200, 202):
            return
        error = wire.parse_error(answer.body)
        retry_after_ms = answer.retry_after_ms(self._clock.now_unix_ms())
        if wire.is_csr_refused(error.code, error.message):
            _raise_csr_refused(error.message, error.tracking_id)
        failure_class = _class_of(answer.status)
        if answer.status == 401 and credential.symmetric_key is not None:
            date = answer.date_unix_ms
            skew_ms = 0 if date is None else self._clock.now_unix_ms() + clock_offset_ms - date
            if abs(skew_ms) > TOKEN_LIFE_S * 1000:
                # The token was dead on arrival; the Date that goes with this answer puts it right.
                failure_class = "clock"
        raise PeerRefused(
            error.message or f"DPS answered HTTP {answer.status}",
            code=f"dps-{answer.status}",
            failure_class=failure_class,
            retry_after_ms=retry_after_ms,
            tracking_id=error.tracking_id,
        )


def _class_of(status: int) -> FailureClass:
    return "operator" if status in _OPERATOR_STATUSES else "retry"


def _register_body(
    dialect: wire.Dialect, credential: OnboardingCredential, csr_der: bytes | None, payload_path: str | None
) -> bytes:
    payload = None if payload_path is None else read_file(payload_path, code="payload-invalid")
    try:
        return wire.register_request(dialect, credential.registration_id, csr_der, payload)
    except ValueError as exc:
        raise AdapterError(
            f"the payload {payload_path} cannot be sent: {exc}",
            code="payload-invalid",
            failure_class="operator",
        ) from exc


def _assigned(
    effect_id: str, dialect: wire.Dialect, state: wire.DpsState, spki_sha256: str, answer: HttpAnswer
) -> RegistrationAssigned:
    """A final state as an event. Raises AdapterError for `failed`, `disabled` and an unreadable chain."""
    if state.status == "disabled":
        raise PeerRefused(
            state.error_message or "the enrolment is disabled",
            code="dps-disabled",
            failure_class="operator",
            tracking_id=state.tracking_id,
        )
    if state.status != "assigned" or state.assigned_hub is None or state.device_id is None:
        _raise_failed(state)
    bundle, bundle_problem = _bundle(state)
    return RegistrationAssigned(
        answers=effect_id,
        server_date_unix_ms=answer.date_unix_ms,
        assigned_hub=state.assigned_hub,
        device_id=state.device_id,
        substatus=state.substatus,
        certificate_type=state.certificate_type,
        chain=_chain(state, spki_sha256),
        bundle=bundle,
        bundle_problem=bundle_problem,
        bundle_spoken=dialect.trust_bundle,
    )


def _raise_failed(state: wire.DpsState) -> NoReturn:
    if wire.is_csr_refused(state.error_code, state.error_message):
        _raise_csr_refused(state.error_message, state.tracking_id)
    # errorCode is HTTP status x 1000 + sub-code (cloud.md §9.2). The operation is over: what an HTTP status
    # would have us repeat takes another one here.
    status = 0 if state.error_code is None else state.error_code // 1000
    raise PeerRefused(
        state.error_message or "DPS says that the registration failed",
        code="dps-failed" if state.error_code is None else f"dps-{state.error_code}",
        failure_class="operator" if status in _OPERATOR_STATUSES else "reregister",
        tracking_id=state.tracking_id,
    )


def _raise_csr_refused(message: str | None, tracking_id: str | None) -> NoReturn:
    # Where an answer without a certificate is welcome the machine goes by the code; elsewhere only the
    # operator can make the enrolment issue one.
    raise PeerRefused(
        message or "the enrolment issues no certificates",
        code="csr-not-configured",
        failure_class="operator",
        tracking_id=tracking_id,
    )


def _chain(state: wire.DpsState, spki_sha256: str) -> ChainFacts | None:
    if state.chain_problem is not None:
        raise _unreadable(state.chain_problem)
    if state.chain_pem is None:
        return None
    try:
        chain = x509.order_chain(state.chain_pem, spki_sha256=spki_sha256)
    except CertificateRejected as exc:
        raise _unreadable(exc.message) from exc
    leaf = chain.leaf
    return ChainFacts(
        chain_pem=chain.chain_pem,
        intact=chain.intact,
        spki_sha256=leaf.spki_sha256,
        subject_cn=leaf.subject_cn,
        is_ca=leaf.is_ca,
        not_before_unix_ms=leaf.not_before_unix_ms,
        not_after_unix_ms=leaf.not_after_unix_ms,
        sha256=leaf.sha256,
        serial=leaf.serial_hex,
    )


def _unreadable(why: str) -> CertificateRejected:
    # The operation is over, so that asking for it again would bring the same chain.
    return CertificateRejected(
        f"the issued chain: {why}", code="chain-unparsable", failure_class="reregister"
    )


def _bundle(state: wire.DpsState) -> tuple[BundleFacts | None, str | None]:
    if state.bundle is None:
        return None, state.bundle_problem
    try:
        read = x509.normalise_bundle(state.bundle)
    except CertificateRejected as exc:
        return None, exc.message
    return BundleFacts(bundle_pem=read.pem, certificates=read.count, sha256=read.sha256), None


def _failed(
    effect_id: str, exc: AdapterError, server_date_unix_ms: int | None, *, unsent: bool
) -> RegistrationFailed:
    return RegistrationFailed(
        answers=effect_id,
        server_date_unix_ms=server_date_unix_ms,
        failure_class=exc.failure_class,
        code=exc.code,
        message=exc.message,
        retry_after_ms=exc.retry_after_ms,
        tracking_id=exc.tracking_id,
        unsent=unsent,
    )
