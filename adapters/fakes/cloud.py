"""DPS and IoT Hub as a device sees them, without a network. Both go by a clock of their own: the true one."""

from msgspec import Struct

from adapters.fakes.chains import Leaf, issue, read_leaf
from adapters.fakes.peer import Asked, Peer
from adapters.ports import Clock, StagedKey
from statemachine.effects import PollRegistration, ProveCredential, SubmitRegistration
from statemachine.events import (
    BundleFacts,
    CredentialProofFailed,
    CredentialProven,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
)
from statemachine.states import FailureClass

DAY_MS = 86_400_000


class Operation(Struct):
    """One registration under way."""

    spki_sha256: str
    "Empty: no CSR came with it."
    ends_unix_ms: int
    polls: int = 0


class FakeRegistrar(Peer):
    """Fills ``ports.Registrar``. What it assigns and issues may be changed at any time."""

    def __init__(
        self,
        clock: Clock,
        *,
        registration_id: str = "device-1",
        hub: str = "hub.example",
        life_ms: int = 90 * DAY_MS,
        pending: int = 1,
        latency_s: float = 0.05,
        timeout_s: float = 10.0,
        asked: list[Asked] | None = None,
    ) -> None:
        super().__init__(latency_s=latency_s, timeout_s=timeout_s, asked=asked)
        self._clock = clock
        self.registration_id = registration_id
        self.hub = hub
        self.life_ms = life_ms
        "Of the certificates it issues."
        self.pending = pending
        "Polls answered `assigning` before the one that ends an operation."
        self.takes_ms = 0
        "An operation ends so long after its PUT at the earliest, whenever it is asked for."
        self.issues = True
        "False: the enrolment issues no certificates, and says so when it gets a CSR."
        self.padding = ""
        "Of the certificates it issues."
        self.bundle: BundleFacts | None = None
        self.issued: list[Leaf] = []
        self._operations: dict[str, Operation] = {}
        self._count = 0

    def forget_operations(self) -> None:
        """As DPS does after a while."""
        self._operations.clear()

    async def submit(
        self, effect_id: str, effect: SubmitRegistration
    ) -> RegistrationAccepted | RegistrationAssigned | RegistrationFailed:
        return await self._answer(effect_id, effect, self._submit)

    async def poll(
        self, effect_id: str, effect: PollRegistration
    ) -> RegistrationPending | RegistrationAssigned | RegistrationFailed:
        return await self._answer(effect_id, effect, self._poll)

    def _submit(
        self, effect_id: str, effect: SubmitRegistration
    ) -> RegistrationAccepted | RegistrationAssigned | RegistrationFailed:
        if effect.spki_sha256 and not self.issues:
            return self._no(effect_id, "csr-not-configured", "operator")
        self._count += 1
        operation_id = f"op-{self._count}"
        ends = self._clock.now_unix_ms() + self.takes_ms
        self._operations[operation_id] = Operation(effect.spki_sha256, ends)
        return RegistrationAccepted(
            answers=effect_id, operation_id=operation_id, server_date_unix_ms=self._date()
        )

    def _poll(
        self, effect_id: str, effect: PollRegistration
    ) -> RegistrationPending | RegistrationAssigned | RegistrationFailed:
        operation = self._operations.get(effect.operation_id)
        if operation is None:
            return self._no(effect_id, "operation-unknown", "reregister")
        operation.polls += 1
        if operation.polls <= self.pending or self._clock.now_unix_ms() < operation.ends_unix_ms:
            return RegistrationPending(answers=effect_id, server_date_unix_ms=self._date())
        leaf = self._leaf(operation.spki_sha256) if operation.spki_sha256 else None
        return RegistrationAssigned(
            answers=effect_id,
            server_date_unix_ms=self._date(),
            assigned_hub=self.hub,
            device_id=self.registration_id,
            substatus="initialAssignment",
            chain=None if leaf is None else issue(leaf),
            bundle=self.bundle,
        )

    def _leaf(self, spki_sha256: str) -> Leaf:
        now = self._clock.now_unix_ms()
        leaf = Leaf(
            serial=f"{len(self.issued) + 1:x}",
            subject_cn=self.registration_id,
            spki_sha256=spki_sha256,
            not_before_unix_ms=now,
            not_after_unix_ms=now + self.life_ms,
            padding=self.padding,
        )
        self.issued.append(leaf)
        return leaf

    def _date(self) -> int:
        """A Date header has whole seconds."""
        return self._clock.now_unix_ms() // 1000 * 1000

    def _no(self, effect_id: str, code: str, failure_class: FailureClass) -> RegistrationFailed:
        return RegistrationFailed(
            answers=effect_id, failure_class=failure_class, code=code, server_date_unix_ms=self._date()
        )


class FakeHub(Peer):
    """Fills ``ports.Hub``: lets in whoever presents a certificate that has not ended, with its key."""

    def __init__(
        self,
        clock: Clock,
        staged: StagedKey,
        *,
        latency_s: float = 0.05,
        timeout_s: float = 10.0,
        asked: list[Asked] | None = None,
    ) -> None:
        super().__init__(latency_s=latency_s, timeout_s=timeout_s, asked=asked)
        self._clock = clock
        self._staged = staged
        self.refuses = False
        "Everybody, with 401."

    async def prove(
        self, effect_id: str, effect: ProveCredential
    ) -> CredentialProven | CredentialProofFailed:
        return await self._answer(effect_id, effect, self._prove)

    def _prove(self, effect_id: str, effect: ProveCredential) -> CredentialProven | CredentialProofFailed:
        date = self._clock.now_unix_ms() // 1000 * 1000
        if self.refuses or not self._lets_in(effect):
            return CredentialProofFailed(
                answers=effect_id,
                generation=effect.generation,
                refused=True,
                failure_class="retry",
                code="hub-401",
                server_date_unix_ms=date,
            )
        return CredentialProven(answers=effect_id, generation=effect.generation, server_date_unix_ms=date)

    def _lets_in(self, effect: ProveCredential) -> bool:
        if not effect.issued:
            return True
        leaf = read_leaf(effect.chain_pem or self._staged.chain_pem(effect.generation))
        # What a CSR is in MemoryStore: its public key.
        key_fits = self._staged.csr_der(effect.generation).decode() == leaf.spki_sha256
        return key_fits and self._clock.now_unix_ms() < leaf.not_after_unix_ms
