"""What identityd.sock takes and says, as the original's clients spell it (services.md §3.2 to §3.4).

Members stand in the order of the original's answers. What is optional is left out, not null; the payload
of the provisioning info alone is null when there is none.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from adapters.ports import HubIdentity, LocalIdentity
from statemachine.settings import LocalAttributes

_LAST_S = 253_402_300_799
"9999-12-31T23:59:59Z, the last second RFC 3339 can spell; a certificate without an end has it."


# --- requests ----------------------------------------------------------------------------------------


class DeviceRequest(Struct, frozen=True):
    """Body of ``POST /identities/device``."""

    type: str
    "Required and not looked at, as in the original."


class LocalOptions(Struct, frozen=True):
    """``localIdOpts``. The original takes a malformed one for none (services.md §10, quirk 18)."""

    type: Literal["x509"]
    attributes: LocalAttributes | None = None


class ModuleRequest(Struct, frozen=True, rename="camel"):
    """Body of ``POST /identities/modules``."""

    type: str
    module_id: str
    local_id_opts: LocalOptions | None = None


# --- answers -----------------------------------------------------------------------------------------


class Auth(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """With what an identity proves itself to the hub."""

    type: Literal["sas", "x509"]
    key_handle: str
    "A bearer capability."
    cert_id: str | None = None

    def __repr__(self) -> str:
        return f"Auth(type={self.type}, cert_id={self.cert_id})"


class AziotSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A device or a module at its hub."""

    hub_name: str
    gateway_host: str
    device_id: str
    module_id: str | None = None
    gen_id: str | None = None
    auth: Auth | None = None


class AziotIdentity(Struct, frozen=True, tag_field="type", tag="aziot"):
    """``{"type": "aziot", "spec": …}``."""

    spec: AziotSpec


class LocalAuth(Struct, frozen=True, kw_only=True, rename="camel"):
    """A certificate with its key."""

    private_key: str
    certificate: str
    expiration: str

    def __repr__(self) -> str:
        return f"LocalAuth(expiration={self.expiration})"


class LocalSpec(Struct, frozen=True, kw_only=True, rename="camel"):
    """An identity of this device only."""

    module_id: str
    auth: LocalAuth


class LocalAnswer(Struct, frozen=True, tag_field="type", tag="local"):
    """``{"type": "local", "spec": …}``."""

    spec: LocalSpec


class Modules(Struct, frozen=True):
    """Every module, without ``auth``."""

    identities: tuple[AziotIdentity, ...]


class CertificatePolicy(Struct, frozen=True, rename="camel"):
    """What DPS said of the certificates it issues."""

    certificate_type: str


class DpsInfo(Struct, frozen=True, kw_only=True, tag_field="source", tag="dps"):
    """The device is provisioned by DPS."""

    auth: Literal["symmetric_key", "x509"]
    endpoint: str
    scope_id: str
    registration_id: str
    cert_policy: CertificatePolicy | UnsetType = UNSET
    "Left out when DPS said none."
    payload: Any = None
    "The parsed JSON file, null without one."


class ManualInfo(Struct, frozen=True, kw_only=True, tag_field="source", tag="manual"):
    """The configuration is the assignment."""

    auth: Literal["sas", "x509"]


class NoInfo(Struct, frozen=True, tag_field="source", tag="none"):
    """Local identities only."""


class TrustBundle(Struct, frozen=True):
    """PEM, or nothing."""

    certificate: str


def aziot(identity: HubIdentity, *, with_auth: bool = True) -> AziotIdentity:
    """As clients read it; lists have no ``auth``."""
    own = identity.authentication if with_auth else None
    auth = None
    if own is not None:
        auth = Auth(type=own.type, key_handle=own.key_handle, cert_id=own.certificate_id)
    return AziotIdentity(
        AziotSpec(
            hub_name=identity.hub,
            gateway_host=identity.gateway,
            device_id=identity.device_id,
            module_id=identity.module_id,
            gen_id=identity.generation_id,
            auth=auth,
        )
    )


def local(name: str, identity: LocalIdentity) -> LocalAnswer:
    """As clients read it; the end of the certificate in whole seconds, UTC as ``+00:00``."""
    seconds = min(max(identity.not_after_unix_ms // 1000, 0), _LAST_S)
    return LocalAnswer(
        LocalSpec(
            module_id=name,
            auth=LocalAuth(
                private_key=identity.private_key_pem,
                certificate=identity.certificate_pem,
                expiration=datetime.fromtimestamp(seconds, UTC).isoformat(),
            ),
        )
    )
