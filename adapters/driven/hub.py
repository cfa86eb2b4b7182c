"""IoT Hub, asked whether it accepts a credential. Fills ``ports.Hub``."""

import ssl
from collections.abc import Callable, Mapping

import trio

from adapters.driven.exchange import Timed, untimed, with_retries
from adapters.driven.hub_credential import (
    HubCredential,
    hub_credential,
    network_host,
)
from adapters.errors import AdapterError
from adapters.ports import Clock, StagedKey
from adapters.wire import hub as wire
from adapters.wire.http_client import HttpsClient
from statemachine.effects import ProveCredential
from statemachine.events import CredentialProofFailed, CredentialProven
from statemachine.settings import Configuration

_ALERT = "tls-certificate-alert"


class HubProver:
    """Every proof has its own client, hence its own TLS context and connection, gone with its answer.

    ``configuration`` is called at each use; ``environ`` is where the proxy variables are looked up, by
    default the process's. ``distrusted`` names roots that TLS must not believe though the system does
    (``wire.installed_roots``); it is called in worker threads.
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

    async def prove(
        self, effect_id: str, effect: ProveCredential
    ) -> CredentialProven | CredentialProofFailed:
        """Any HTTP answer but a refusal proves the credential: a hub out of quota has let us in."""
        date: int | None = None
        try:
            configuration = self._configuration()
            credential = await trio.to_thread.run_sync(self._credential, configuration, effect)
            now_unix_ms = self._clock.now_unix_ms() + effect.clock_offset_ms
            headers = credential.headers(effect.hub, effect.device_id, now_unix_ms)
            client = HttpsClient(credential.tls, environ=self._environ)
            url = wire.modules_url(network_host(configuration, effect.hub), effect.device_id)
            try:
                answer = await with_retries(
                    lambda: client.request(
                        "GET",
                        url,
                        headers=headers,
                        timeout_s=configuration.cloud_timeout_seconds,
                        fresh=True,
                    ),
                    configuration.cloud_retries,
                    self._timed,
                )
            finally:
                await client.aclose()
            date = answer.date_unix_ms
            refused = wire.refusal_code(answer.status, answer.body)
            if refused is None:
                return CredentialProven(
                    answers=effect_id, server_date_unix_ms=date, generation=effect.generation
                )
            error = wire.parse_error(answer.body)
            return CredentialProofFailed(
                answers=effect_id,
                server_date_unix_ms=date,
                generation=effect.generation,
                refused=True,
                failure_class="retry",
                code=refused,
                message=error.message or f"the hub answered HTTP {answer.status}",
                retry_after_ms=answer.retry_after_ms(self._clock.now_unix_ms()),
                tracking_id=error.tracking_id,
            )
        except AdapterError as exc:
            unusable = effect.issued and _unusable(exc)
            return CredentialProofFailed(
                answers=effect_id,
                server_date_unix_ms=date,
                generation=effect.generation,
                refused=exc.code == _ALERT or unusable,
                failure_class="new_key" if unusable else exc.failure_class,
                code=exc.code,
                message=exc.message,
                retry_after_ms=exc.retry_after_ms,
                tracking_id=exc.tracking_id,
            )

    def _credential(self, configuration: Configuration, effect: ProveCredential) -> HubCredential:
        """Reads files, so it runs in a worker thread."""
        return hub_credential(
            configuration,
            self._staged,
            effect.generation,
            issued=effect.issued,
            chain_pem=effect.chain_pem,
            distrust=self._distrusted(),
        )


def _unusable(exc: AdapterError) -> bool:
    """Our own TLS library will not present it, so that no hub can ever accept it.

    Not when its files could not be read: that may pass.
    """
    return exc.code == "client-credential-unusable" and isinstance(exc.__cause__, ssl.SSLError)
