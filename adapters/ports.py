"""What the runtime and the sockets need from the world: promises, not mechanisms.

Adapters that answer effects return the answer event. They raise nothing but cancellation: a failure
is a ``…Failed`` event with its class and code. All are safe to call again with the same effect id.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import trio
from msgspec import Struct

from statemachine.effects import (
    ArmDeadline,
    ArmDelay,
    CommitCredential,
    Disarm,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    AnyEvent,
    CredentialCommitFailed,
    CredentialCommitted,
    CredentialProofFailed,
    CredentialProven,
    CredentialRetired,
    CredentialRetireFailed,
    Inventory,
    KeyStaged,
    KeyStageFailed,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
)
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

    def inventory(self) -> Inventory:
        """Read back and checked: the chain parses, the key is there and matches."""


class StoredCertificates(Protocol):
    """Certificates as files. Both methods block: they are for worker threads."""

    def read_certificate(self, certificate_id: str) -> bytes | None:
        """PEM, or None when nothing is filed. Raises StoreUnavailable."""

    def inventory(self) -> Inventory:
        """What is current, read back and checked."""


class CertificateReader(Protocol):
    """What certd serves."""

    async def read_certificate(self, certificate_id: str) -> bytes | None:
        """PEM, or None when nothing is filed. Raises StoreUnavailable. Gives up its wait when cancelled."""


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
