"""One execution: the real adapter is told the bytes, and its event must be a good one.

Good is: an event its port may answer with; class and code known words; text short, printable and without
secrets; numbers within their bounds; small enough for a journal, from which it comes back the same; and the
machine can judge it.
"""

import base64
import re
from pathlib import Path

import trio
from msgspec import Struct

from adapters.driven.dps import DpsRegistrar
from adapters.driven.hub import HubProver
from adapters.fakes.clock import VirtualClock
from adapters.wire.http_client import MAX_RETRY_AFTER_MS
from statemachine.effects import PollRegistration, ProveCredential, SubmitRegistration
from statemachine.events import (
    AnyEvent,
    CredentialProofFailed,
    CredentialProven,
    Failure,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
    tag_of,
)
from statemachine.journal import Record, decode_line, encode_line
from statemachine.judge import chain_problem
from statemachine.settings import ApiVersion, Configuration, DpsProvisioning, SymmetricKeySource
from statemachine.snapshot import Snapshot, StagedKey
from tests.fuzz.inputs import Input, Target
from tests.fuzz.peer import Peer

NOW_UNIX_MS = 1_790_000_000_000
KEY = bytes(range(32))
SPKI = "03baf57e421591dcd7d9f4752145abb89f5ccc21d5f11fb2ed4b21802e8e5350"
"Of the key that the chains in the corpus are for."
HUB, DEVICE = "hub.example", "device-1"
MAX_EVENT_BYTES = 2 * 1024 * 1024
MAX_TEXT_CHARS, MAX_WORD_CHARS = 400, 80

_CODE = re.compile(
    r"answer-malformed|answer-too-large|assignment-invalid|chain-unparsable|connection-broken"
    r"|csr-not-configured|dps-(disabled|failed|[0-9]{1,9})|hub-401|hub-404001|operation-unknown|status-unknown"
    r"|timeout"
)
"What may come of bytes alone; `internal-error` and what is said of our own files may not."
_SECRET = re.compile(rf"{re.escape(base64.b64encode(KEY).decode())}|sig=[A-Za-z0-9%+/]{{4}}")
"The key itself, and the signature of a token made with it, which a peer may quote."
_ANSWERS: dict[str, tuple[type[AnyEvent], ...]] = {
    "submit": (RegistrationAccepted, RegistrationAssigned, RegistrationFailed),
    "poll": (RegistrationPending, RegistrationAssigned, RegistrationFailed),
    "prove": (CredentialProven, CredentialProofFailed),
}
_DIALECTS: dict[Target, ApiVersion] = {"submit-der": "2026-11-01", "poll-der": "2026-11-01"}


class Bad(AssertionError):
    """The event is not a good one."""


class Outcome(Struct, frozen=True):
    """What came of it."""

    event: AnyEvent
    judgement: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """For the histogram: event, and class and code."""
        if isinstance(self.event, Failure):
            return tag_of(type(self.event)), f"{self.event.failure_class} {self.event.code}"
        return tag_of(type(self.event)), "" if self.judgement is None else f"judged {self.judgement}"

    @property
    def shape(self) -> tuple[str, ...]:
        """Coarse enough that there are some hundreds, fine enough to tell a new one from an old one."""
        text = self.event.message if isinstance(self.event, Failure) else repr(self.event)
        return (*self.key, re.sub(r"[0-9]+", "#", text)[:60])


class _Staged:
    """Nothing is read from a disk here."""

    def csr_der(self, generation: int) -> bytes:
        return b"csr"

    def chain_pem(self, generation: int) -> bytes:
        return b"chain"

    def key_path(self, generation: int) -> str:
        return str(Path("/nowhere/key.pem"))


class Harness:
    """The adapters, made once for each dialect."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._clock = VirtualClock(NOW_UNIX_MS)
        self._snapshot = Snapshot(
            staged=StagedKey(generation=1, spki_sha256=SPKI, algorithm="ec-p256", common_name=DEVICE)
        )

    async def run(self, given: Input) -> Outcome:
        """Raises Bad, and whatever the adapter lets through."""
        self._peer.given = given
        with trio.fail_after(3_600):
            event = await self._ask(given.target)
        return self._checked(given.target, event)

    async def _ask(self, target: Target) -> AnyEvent:
        configuration = Configuration(
            provisioning=DpsProvisioning(
                global_endpoint="https://dps.example",
                scope_id="0ne0",
                registration_id=DEVICE,
                attestation=SymmetricKeySource(value=KEY),
            ),
            api_version=_DIALECTS.get(target, "2021-11-01-preview"),
            cloud_retries=0,
        )
        if target == "prove":
            prover = HubProver(lambda: configuration, self._clock, _Staged(), environ={})
            # With the configured key: its proof has a token that could leak.
            wish = ProveCredential(generation=1, hub=HUB, device_id=DEVICE, issued=False)
            return await prover.prove("1.1.0", wish)
        registrar = DpsRegistrar(lambda: configuration, self._clock, _Staged(), environ={})
        try:
            if target.startswith("submit"):
                return await registrar.submit(
                    "1.1.0", SubmitRegistration(attempt=1, generation=1, spki_sha256=SPKI)
                )
            return await registrar.poll(
                "1.1.0", PollRegistration(attempt=1, operation_id="5.a", spki_sha256=SPKI)
            )
        finally:
            await registrar.aclose()

    def _checked(self, target: Target, event: AnyEvent) -> Outcome:
        if not isinstance(event, _ANSWERS[target.partition("-")[0]]):
            raise Bad(f"{event!r:.300} answers {target}")
        if isinstance(event, Failure):
            _check_failure(event)
        wait_ms = getattr(event, "retry_after_ms", None)
        if wait_ms is not None and not 0 <= wait_ms <= MAX_RETRY_AFTER_MS:
            raise Bad(f"retry_after_ms is {wait_ms}")
        line, _ = encode_line(
            Record(
                sequence=1,
                now_unix_ms=NOW_UNIX_MS,
                event=event,
                effects=(),
                state="Renewing",
                phase="Polling",
                verdict="taken",
                why="",
            ),
            "",
        )
        if len(line) > MAX_EVENT_BYTES:
            raise Bad(f"{len(line)} bytes for a journal")
        record = decode_line(line)
        if not isinstance(record, Record) or record.event != event:
            raise Bad("it does not come back from a journal as it was")
        text = line.decode()
        if _SECRET.search(text):
            raise Bad(f"a secret is in {text:.400}")
        judgement = None
        if isinstance(event, RegistrationAssigned):
            problem = chain_problem(self._snapshot, event, NOW_UNIX_MS)
            judgement = None if problem is None else problem.code
        return Outcome(event, judgement)


def _check_failure(event: Failure) -> None:
    if event.failure_class not in ("retry", "wait", "operator", "new_key", "reregister", "clock"):
        raise Bad(f"class {event.failure_class}")
    if _CODE.fullmatch(event.code) is None:
        raise Bad(f"code {event.code}: {event.message}")
    texts = (event.message, MAX_TEXT_CHARS), (event.tracking_id or "-", MAX_WORD_CHARS)
    for text, limit in texts:
        if not text or len(text) > limit or not text.isprintable():
            raise Bad(f"{len(text)} characters: {text!r:.200}")


def described(exc: BaseException) -> str:
    """One line."""
    return f"{type(exc).__name__}: {str(exc)[:300]}"
