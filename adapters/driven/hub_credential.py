"""The credential that requests to IoT Hub are made with, and where they go.

An issued certificate is presented in TLS, with its generation's key; so is a configured one. A configured
symmetric key signs a token for each request. Reading blocks: it is for worker threads.
"""

from typing import Literal

from msgspec import Struct

from adapters.driven.onboarding import TOKEN_LIFE_S, load_credential
from adapters.ports import StagedKey
from adapters.wire import sas
from adapters.wire.http_client import TlsOptions
from statemachine.settings import Configuration, ManualProvisioning


class HubCredential(Struct, frozen=True, kw_only=True):
    """Ready for use."""

    generation: int
    source: Literal["issued", "configured"]
    tls: TlsOptions
    "Presents the certificate, or none for a symmetric key."
    symmetric_key: bytes | None = None
    "Decoded. Secret."

    def __repr__(self) -> str:
        return f"HubCredential({self.generation}, {self.source})"

    def headers(self, hub: str, device_id: str, now_unix_ms: int) -> dict[str, str]:
        """Of one request. ``now_unix_ms`` is the best known true time: the token lives from it.

        The token is for ``hub`` as it was assigned, whatever host the request goes to (cloud.md §3.1).
        """
        headers = {"Accept": "application/json"}
        if self.symmetric_key is not None:
            expiry_unix_s = now_unix_ms // 1000 + TOKEN_LIFE_S
            headers["Authorization"] = sas.hub_token(hub, device_id, self.symmetric_key, expiry_unix_s)
        return headers


def network_host(configuration: Configuration, hub: str) -> str:
    """The gateway of the manual configuration that names this hub, else the hub (cloud.md §3.2).

    What was assigned otherwise is still asked directly while the provisioning source is being changed.
    """
    match configuration.provisioning:
        case ManualProvisioning(hub=named, gateway=str(gateway)) if named.lower() == hub.lower():
            return gateway
    return hub


def hub_credential(
    configuration: Configuration,
    staged: StagedKey,
    generation: int,
    *,
    issued: bool,
    chain_pem: bytes | None = None,
    distrust: frozenset[str] = frozenset(),
) -> HubCredential:
    """The certificate of that generation, or what the configuration names.

    ``chain_pem`` is given while an issued one is not committed. Raises StoreUnavailable, and for a configured
    one AdapterError and its kinds, class operator: ``not-configured``, ``credential-unreadable``,
    ``credential-unusable``, ``credential-not-issued``, ``registration-id-unknown``.
    """
    if not issued:
        credential = load_credential(configuration, distrust)
        return HubCredential(
            generation=generation,
            source="configured",
            tls=credential.tls,
            symmetric_key=credential.symmetric_key,
        )
    return HubCredential(
        generation=generation,
        source="issued",
        tls=TlsOptions(
            ca_file=configuration.tls.ca_file,
            distrust=distrust,
            client_chain_pem=chain_pem or staged.chain_pem(generation),
            client_key_path=staged.key_path(generation),
        ),
    )
