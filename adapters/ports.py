"""What the runtime and the sockets need from the world: promises, not mechanisms.

Adapters that answer effects return the answer event. They raise nothing but cancellation: a failure
is a ``…Failed`` event with its class and code. All are safe to call again with the same effect id.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import trio
from msgspec import Struct

from statemachine.effects import (
    ArmDeadline,
    ArmDelay,
    CommitCredential,
    Disarm,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    AnyEvent,
    ClockObserved,
    CredentialCommitFailed,
    CredentialCommitted,
    CredentialProofFailed,
    CredentialProven,
    CredentialRetired,
    CredentialRetireFailed,
    CredentialsPurged,
    CredentialsPurgeFailed,
    Inventory,
    KeyStaged,
    KeyStageFailed,
    ModuleKeysPushed,
    ModuleKeysPushFailed,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
)
from statemachine.settings import LocalAttributes
from statemachine.status import Status

Post = Callable[[AnyEvent], None]
"Hands an event to the inbox; never blocks, never raises."


class Taken(Struct, frozen=True, kw_only=True):
    """What became of a command: the sequence of its event, and the machine's verdict."""

    sequence: int
    verdict: str
    "`taken`, `ignored` or `refused`."
    why: str
    "One sentence for the caller."


class Clock(Protocol):
    """Wall time and elapsed time."""

    def now_unix_ms(self) -> int:
        """UTC, milliseconds."""

    def elapsed_ms(self) -> int:
        """Milliseconds since some fixed point, never going backwards."""

    def kernel_synchronised(self) -> bool:
        """Whether the kernel says its clock is disciplined."""


class Chance(Protocol):
    """Where draws come from."""

    def draw_ppm(self) -> int:
        """Uniform in 0 to 999 999."""


class Timers(Protocol):
    """Armed names become DeadlinePassed events, posted once each."""

    def arm_deadline(self, effect: ArmDeadline) -> None:
        """Fires at the instant of wall time, also when the clock is stepped past it."""

    def arm_delay(self, effect: ArmDelay) -> None:
        """Fires after elapsed time."""

    def disarm(self, effect: Disarm) -> None:
        """A name that is not armed is fine."""

    def look(self) -> ClockObserved | None:
        """What became of the clock since the last look; None when that is no news.

        Asked before each stamp: a stamp from after a step must not be taken before the step is known.
        """

    async def run(self, post: Post, *, task_status: trio.TaskStatus[None]) -> None:
        """Lives as long as the service."""


class Registrar(Protocol):
    """DPS, spoken to with the configured credential only."""

    async def submit(
        self, effect_id: str, effect: SubmitRegistration
    ) -> RegistrationAccepted | RegistrationAssigned | RegistrationFailed:
        """Bounded by cloud_timeout_sec times its tries."""

    async def poll(
        self, effect_id: str, effect: PollRegistration
    ) -> RegistrationPending | RegistrationAssigned | RegistrationFailed:
        """One GET. An operation DPS does not know: class reregister, code operation-unknown."""


class Hub(Protocol):
    """IoT Hub."""

    async def prove(
        self, effect_id: str, effect: ProveCredential
    ) -> CredentialProven | CredentialProofFailed:
        """GET /devices/{id}/modules over a fresh connection, own TLS context, no resumption."""


class ModuleKeyPusher(Protocol):
    """Gives the hub the keys of this device's modules (cloud.md §3.3)."""

    async def push(self, effect_id: str, effect: PushModuleKeys) -> ModuleKeysPushed | ModuleKeysPushFailed:
        """Every module's keys, made from the master key; the same each time.

        A missing master key is made. While modules are known, this alone may make one.
        """


class StagedKey(Protocol):
    """What DPS and hub adapters need of a stored generation. Filled by the credential store."""

    def csr_der(self, generation: int) -> bytes:
        """The CSR made when the key was staged. Raises StoreUnavailable (code `key-missing` when absent)."""

    def chain_pem(self, generation: int) -> bytes:
        """The chain committed with the generation. Raises StoreUnavailable (code `chain-missing`)."""

    def key_path(self, generation: int) -> str:
        """Path of the PKCS#8 PEM key file, 0600, for loading into a TLS context."""


class CredentialStore(StagedKey, Protocol):
    """Certificate, key, bundle and assignment together, as generations with one current."""

    async def stage(self, effect_id: str, effect: StageKey) -> KeyStaged | KeyStageFailed:
        """Durable on return."""

    async def commit(
        self, effect_id: str, effect: CommitCredential
    ) -> CredentialCommitted | CredentialCommitFailed:
        """One atomic flip, durable on return."""

    async def retire(
        self, effect_id: str, effect: RetireCredential
    ) -> CredentialRetired | CredentialRetireFailed:
        """Removes what is not kept."""

    async def purge(
        self, effect_id: str, effect: PurgeCredentials
    ) -> CredentialsPurged | CredentialsPurgeFailed:
        """Nothing identifies the device any more. From the call on nothing of it is read or handed out.

        Steps that were asked for before are done by then, or never will be.
        """

    def inventory(self) -> Inventory:
        """Read back and checked: the chain parses, the key is there and matches."""


class CertificateReader(Protocol):
    """What certd serves."""

    async def read_certificate(self, certificate_id: str) -> bytes | None:
        """PEM, or None when nothing is filed. Raises StoreUnavailable. Gives up its wait when cancelled."""


# --- keys, certificates and identities that people and programs ask for ------------------------------

KeyUsage = Literal["derive", "encrypt", "sign"]


class Ecdsa(Struct, frozen=True):
    """ECDSA over a digest that the caller made."""

    digest: bytes


class HmacSha256(Struct, frozen=True):
    """HMAC-SHA256 over the message itself."""

    message: bytes


class Aead(Struct, frozen=True):
    """AES-256-GCM."""

    iv: bytes
    aad: bytes


class RsaPkcs1(Struct, frozen=True):
    """The private-key operation with PKCS#1 v1.5 type 1 padding (RFC 8017 section 9.2)."""


class RsaNoPadding(Struct, frozen=True):
    """The bare private-key operation over a block of the modulus's size."""


class KeyService(Protocol):
    """keyd: keys by id, used by handle. A handle is a bearer capability (services.md §5).

    All raise RequestRefused (bad id, handle, parameter or mechanism; code ``not-found`` when there is no
    such key, ``crypto-failed`` when the work itself failed, as for a tag that does not match) and
    StoreUnavailable; both leave the stores as they were.
    """

    async def create_key(self, key_id: str, usage: Sequence[KeyUsage], material: bytes | None) -> str:
        """The handle of a symmetric key: made when absent, or imported over what is there."""

    async def load_key(self, key_id: str) -> str: ...

    async def create_key_pair(self, key_id: str, algorithms: str | None) -> str:
        """The handle of a key pair, made when absent. ``algorithms`` is a list like `ec-p256:rsa-4096:*`."""

    async def load_key_pair(self, key_id: str) -> str: ...

    async def move_key_pair(self, source: str, target: str) -> None:
        """Replaces the target."""

    async def delete_key(self, handle: str) -> None:
        """A key that is gone is fine."""

    async def delete_key_pair(self, handle: str) -> None:
        """A key pair that is gone is fine."""

    async def derive_key(self, handle: str, data: bytes) -> str:
        """The handle of HMAC-SHA256(key, data); nothing is stored."""

    async def export_derived_key(self, handle: str) -> bytes: ...

    async def public_parameter(self, handle: str, name: str) -> str:
        """Of a key pair, as the wire writes it; ``name`` is one of services.md §5.8."""

    async def sign(self, handle: str, mechanism: Ecdsa | HmacSha256) -> bytes: ...

    async def encrypt(
        self, handle: str, mechanism: Aead | RsaPkcs1 | RsaNoPadding, plaintext: bytes
    ) -> bytes: ...

    async def decrypt(
        self, handle: str, mechanism: Aead | RsaPkcs1 | RsaNoPadding, ciphertext: bytes
    ) -> bytes: ...

    def key_id_of(self, handle: str) -> str:
        """The id behind a valid handle; of the base key for a derived one."""


class Issuer(Struct, frozen=True, kw_only=True):
    """What a caller of certd signs with: a certificate by id, and a handle of its key."""

    certificate_id: str
    key_handle: str


class CertificateService(CertificateReader, Protocol):
    """certd: certificates by id. Raises RequestRefused (nothing changed) and StoreUnavailable."""

    async def create_certificate(self, certificate_id: str, csr_pem: str, issuer: Issuer | None) -> bytes:
        """Issued, stored and returned as PEM, leaf first, followed by the issuer's chain."""

    async def import_certificate(self, certificate_id: str, pem: str) -> None:
        """At least one certificate, and every block parses; stored as it is."""

    async def delete_certificate(self, certificate_id: str) -> None:
        """One that is gone is fine."""


class Authentication(Struct, frozen=True, kw_only=True):
    """With what an identity proves itself to the hub."""

    type: Literal["sas", "x509"]
    key_handle: str
    certificate_id: str | None = None
    "x509 only."

    def __repr__(self) -> str:
        # A handle is a bearer capability.
        return f"Authentication(type={self.type!r}, certificate_id={self.certificate_id!r})"


class HubIdentity(Struct, frozen=True, kw_only=True):
    """A device or one of its modules."""

    hub: str
    gateway: str
    device_id: str
    module_id: str | None = None
    generation_id: str | None = None
    authentication: Authentication | None = None
    "None in lists."


class HubIdentities(Protocol):
    """The device's identity and those of its modules.

    All raise NotProvisioned, the Peer errors for what the hub or the way to it said, RequestRefused and
    StoreUnavailable.
    """

    async def device(self) -> HubIdentity: ...

    async def modules(self) -> tuple[HubIdentity, ...]: ...

    async def module(self, module_id: str) -> HubIdentity: ...

    async def create_module(self, module_id: str) -> HubIdentity: ...

    async def update_module(self, module_id: str) -> HubIdentity:
        """Its keys are pushed again."""

    async def delete_module(self, module_id: str) -> None: ...


class LocalIdentity(Struct, frozen=True, kw_only=True):
    """A certificate that is known on this device only, with its key. Never stored, never logged."""

    private_key_pem: str
    "PKCS#8. Secret."
    certificate_pem: str
    not_after_unix_ms: int

    def __repr__(self) -> str:
        return f"LocalIdentity(not_after_unix_ms={self.not_after_unix_ms})"


class LocalIdentities(Protocol):
    """Certificates for local use. Raises RequestRefused and StoreUnavailable."""

    async def issue(self, name: str, attributes: LocalAttributes) -> LocalIdentity: ...


class Journal(Protocol):
    """Append-only history. One line each; the chain is the caller's business."""

    async def append(self, line: bytes) -> None:
        """Durable on return. Raises StoreUnavailable after restoring the last good length."""

    def lines_from(self, sequence: int) -> AsyncIterator[bytes]:
        """Stored record lines from that sequence on, oldest first, as far as they are kept."""

    @property
    def rotation_due(self) -> bool:
        """The written file has reached its size."""

    async def rotate(self, head: Sequence[bytes]) -> None:
        """Begin a new file with these lines. Raises StoreUnavailable; appending then goes on."""


class ChangedKey(Struct, frozen=True, kw_only=True):
    """A key of the configuration that is not what it was."""

    key: str
    effect: Literal["now", "next", "restart", "reprovision"]
    "In force `now`, from the `next` registration or new key on, or after a `restart` of the service; "
    "`reprovision`: the device registers again."


class Reloaded(Struct, frozen=True, kw_only=True):
    """What became of reading the configuration again."""

    outcome: Literal["reloaded", "refused"]
    "`refused`: the files cannot be used, and what was in force stays."
    message: str
    "In words."
    sequence: int | None = None
    "Of its record; None while the journal cannot be written."
    keys: tuple[ChangedKey, ...] = ()
    findings: tuple[str, ...] = ()
    "Every mistake in the files."
    notes: tuple[str, ...] = ()
    "What is no mistake, but maybe not what was meant."


class Lifecycle(Protocol):
    """The running machine, as the sockets and signals that drive it see it."""

    def status(self) -> Status:
        """What is true now; never blocks, never fails, also while the journal is unavailable."""

    async def command(self, event: AnyEvent) -> Taken:
        """Have a command taken: returns once its record is durable.

        Raises StoreUnavailable (code `journal-unavailable`) when that cannot be done soon; the command
        is then not taken.
        """

    def follow(self) -> AbstractContextManager[trio.MemoryReceiveChannel[bytes]]:
        """Journal lines as they become durable. The channel ends at shutdown, or when read too slowly."""

    def lines_from(self, sequence: int) -> AsyncIterator[bytes]:
        """Stored record lines from that sequence on, as far as they are kept."""
