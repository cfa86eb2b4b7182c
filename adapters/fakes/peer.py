"""What the answering fakes share: a latency, an outage, a script, and a list of what was asked.

Time is trio's, so under ``trio.testing.MockClock`` it is virtual. Nothing is drawn: the same questions
at the same instants get the same answers.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import trio
from msgspec import Struct

from statemachine.effects import (
    Asking,
    CommitCredential,
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
    CredentialCommitFailed,
    CredentialProofFailed,
    CredentialRetireFailed,
    CredentialsPurgeFailed,
    Failure,
    KeyStageFailed,
    ModuleKeysPushFailed,
    RegistrationFailed,
)

Reply = Callable[[str, Any], AnyEvent]
"Effect id and effect to the answer. What it raises passes for a defect of the adapter."

E = TypeVar("E", bound=Asking)
A = TypeVar("A", bound=AnyEvent)

_NO: Mapping[type[Asking], type[Failure]] = {
    StageKey: KeyStageFailed,
    SubmitRegistration: RegistrationFailed,
    PollRegistration: RegistrationFailed,
    ProveCredential: CredentialProofFailed,
    CommitCredential: CredentialCommitFailed,
    RetireCredential: CredentialRetireFailed,
    PurgeCredentials: CredentialsPurgeFailed,
    PushModuleKeys: ModuleKeysPushFailed,
}


class Asked(Struct, frozen=True):
    """One effect that arrived."""

    effect_id: str
    effect: Asking


def no(code: str, failure_class: str = "retry", **facts: Any) -> Reply:  # noqa: ANN401  fields of the event
    """A reply that says no, whatever was asked. ``facts`` are further fields of the failure."""

    def reply(effect_id: str, effect: Asking) -> AnyEvent:
        about: dict[str, object] = {}
        if isinstance(effect, ProveCredential):
            about = {"generation": effect.generation, "refused": False}
        kind = cast("Callable[..., AnyEvent]", _NO[type(effect)])
        return kind(answers=effect_id, failure_class=failure_class, code=code, **about | facts)

    return reply


def broken(exc: Exception) -> Reply:
    """A defect: the adapter raises instead of answering."""

    def reply(effect_id: str, effect: Asking) -> AnyEvent:
        raise exc

    return reply


class Peer:
    """Answers as usual, unless the script says otherwise or nobody is there.

    ``down`` is an outage: after ``timeout_s`` the answer is ``absent``, that nobody was reached. ``math.inf``
    as ``latency_s`` never answers.
    """

    def __init__(self, *, latency_s: float, timeout_s: float, asked: list[Asked] | None) -> None:
        self.latency_s = latency_s
        self.timeout_s = timeout_s
        self.down = False
        self.pace: Callable[[str], float] | None = None
        "Instead of ``latency_s``: seconds, by effect id. Where no two answers may come at one instant."
        self.absent = no("unreachable", message="nobody answered")
        self.asked = asked if asked is not None else []
        "In order; peers may share one."
        self._script: deque[Reply] = deque()

    def then(self, *replies: Reply) -> None:
        """The next answers, one each, also to what is under way; after them it answers as usual again."""
        self._script.extend(replies)

    async def _answer(self, effect_id: str, effect: E, usual: Callable[[str, E], A]) -> A:
        """``A`` is what the port says; a script is trusted to keep to it."""
        self.asked.append(Asked(effect_id, effect))
        if self.down:
            await trio.sleep(self.timeout_s)
            return cast("A", self.absent(effect_id, effect))
        await trio.sleep(self.latency_s if self.pace is None else self.pace(effect_id))
        if self._script:
            return cast("A", self._script.popleft()(effect_id, effect))
        return usual(effect_id, effect)
