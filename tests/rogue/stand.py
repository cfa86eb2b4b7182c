"""A stand-in cloud in this very process, on loopback or in memory, and the real adapters to ask it with."""

import base64
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import trio

from adapters.driven.credentials import GenerationStore
from adapters.driven.dps import DpsRegistrar
from adapters.driven.hub import HubProver
from adapters.ports import Clock
from adapters.simulators.cloud import Cloud
from adapters.simulators.dps import SCOPE_ID, Behaviour
from adapters.simulators.faults import Faults, parse_faults
from adapters.simulators.state import REGISTRATION_ID, State
from statemachine.settings import (
    ApiVersion,
    Configuration,
    DpsProvisioning,
    SymmetricKeySource,
    TlsSettings,
)
from tests.rogue.memory import MemoryNetwork

MEMORY_PORT = 8443


@contextlib.contextmanager
def quick_trust(directory: Path) -> Iterator[None]:
    """The system's roots take long to load and are not needed here."""
    none = directory / "none.pem"
    none.write_text("")
    with mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(none), "SSL_CERT_DIR": str(directory / "none")}):
        yield


class Stand:
    """The cloud, and what a device needs to know of it."""

    def __init__(self, root: Path, clock: Clock, *, life_s: float = 30 * 86_400.0) -> None:
        self.clock = clock
        self.state = State(str(root), clock.now_unix_ms() / 1000)
        self.faults = Faults()
        self.behaviour = Behaviour(
            cert_lifetime_s=life_s,
            identity_certs=True,
            server_certs=False,
            assigning=0,
            retry_after_s=None,
            api_version=None,
        )
        self.port = 0

    def fault(self, *rows: Mapping[str, Any]) -> None:
        """These and no others; as data, the way a file would be read."""
        self.faults.replace(parse_faults(msgspec.json.encode({"fault": list(rows)})))

    @contextlib.asynccontextmanager
    async def serving(self, network: MemoryNetwork | None = None) -> AsyncIterator[None]:
        """On a port of loopback, or in memory."""
        if network is None:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
        else:
            listener, self.port = network.listen(MEMORY_PORT), MEMORY_PORT

        def now() -> float:
            return self.clock.now_unix_ms() / 1000

        cloud = Cloud(self.state, self.behaviour, self.faults, f"localhost:{self.port}", now)
        async with trio.open_nursery() as nursery:
            await nursery.start(cloud.serve, [listener])
            yield
            nursery.cancel_scope.cancel()

    def configuration(self, api_version: ApiVersion = "2021-11-01-preview", **settings: Any) -> Configuration:
        """A device that registers here with the enrolment's key."""
        return Configuration(
            provisioning=DpsProvisioning(
                global_endpoint=f"https://localhost:{self.port}",
                scope_id=SCOPE_ID,
                registration_id=REGISTRATION_ID,
                attestation=SymmetricKeySource(value=self.state.enrolment_key),
            ),
            api_version=api_version,
            tls=TlsSettings(ca_file=self.state.ca_file),
            **settings,
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text of ours may hold."""
        return (base64.b64encode(self.state.enrolment_key).decode(), "SharedAccessSignature", "PRIVATE KEY")


def store_below(root: Path) -> GenerationStore:
    """The real one, on a directory of its own."""
    homes = [root / "identityd", root / "certd", root / "keyd"]
    for home in homes:
        home.mkdir(parents=True, exist_ok=True)
    return GenerationStore(*map(str, homes))


def adapters(
    configuration: Configuration, clock: Clock, store: GenerationStore
) -> tuple[DpsRegistrar, HubProver]:
    """The real ones."""
    return (
        DpsRegistrar(lambda: configuration, clock, store, environ={}),
        HubProver(lambda: configuration, clock, store, environ={}),
    )
