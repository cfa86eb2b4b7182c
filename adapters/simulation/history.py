"""What became of one device, by the true time: certificates, attempts, states, and when it had no identity.

Filled while it lives from what everybody may see: the snapshots that the runtime makes known, and the
instants at which the store's pointer moved.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

from msgspec import Struct

from adapters.fakes.store import Flip
from adapters.ports import Clock
from statemachine.snapshot import Snapshot
from statemachine.states import State

AttemptKind = Literal["registration", "renewal", "reprovisioning"]


class Certificate(Struct, frozen=True, kw_only=True):
    """One that was in use."""

    serial: str
    begins_unix_ms: int
    ends_unix_ms: int
    used_from_unix_ms: int
    used_until_unix_ms: int
    "When its successor took over; the end of the simulation when none did."
    replaced: bool

    @property
    def slack_ms(self) -> int:
        """What was left of its life when it was replaced; below 0 it had ended."""
        return self.ends_unix_ms - self.used_until_unix_ms

    @property
    def missed(self) -> bool:
        """It ended before a successor was there."""
        return self.slack_ms < 0


class Attempt(Struct, frozen=True, kw_only=True):
    """One attempt to obtain a certificate that is over."""

    kind: AttemptKind
    begun_unix_ms: int
    ended_unix_ms: int
    code: str | None = None
    "Why it failed; None when it did not."


class Stretch(Struct, frozen=True, kw_only=True):
    """From when to when."""

    what: str
    from_unix_ms: int
    until_unix_ms: int

    @property
    def ms(self) -> int:
        return self.until_unix_ms - self.from_unix_ms


class Traffic(Struct, kw_only=True):
    """Requests and bytes of one device."""

    registrations_sent: int = 0
    "PUTs that were tried, also those that reached nobody."
    registrations_billed: int = 0
    "PUTs that DPS took: what it bills."
    polls_sent: int = 0
    hub_requests_sent: int = 0
    unanswered_requests: int = 0
    "Of all of them: nobody answered."
    journal_records: int = 0
    journal_bytes: int = 0


class Life(Struct, frozen=True, kw_only=True):
    """One device from start to end."""

    device: int
    start_unix_ms: int
    end_unix_ms: int
    certificates: tuple[Certificate, ...]
    attempts: tuple[Attempt, ...]
    states: tuple[Stretch, ...]
    "Without gaps; ``what`` is the state."
    without_identity: tuple[Stretch, ...]
    "After the first certificate: none in use was valid."
    traffic: Traffic
    registered_unix_ms: tuple[int, ...]
    "When DPS was asked to register, answered or not."
    final_state: str

    @property
    def first_identity_unix_ms(self) -> int | None:
        return self.certificates[0].used_from_unix_ms if self.certificates else None

    @property
    def slacks_ms(self) -> tuple[int, ...]:
        """Of every certificate that was replaced, or ended without a successor."""
        return tuple(one.slack_ms for one in self.certificates if one.replaced or one.missed)

    @property
    def missed(self) -> int:
        return sum(one.missed for one in self.certificates)

    @property
    def renewals(self) -> int:
        """Certificates that were replaced by another."""
        return sum(one.replaced for one in self.certificates)

    @property
    def unavailable_ms(self) -> int:
        return sum(one.ms for one in self.without_identity)


_KINDS: dict[State, AttemptKind] = {
    State.REGISTERING: "registration",
    State.RENEWING: "renewal",
    State.REPROVISIONING: "reprovisioning",
}


class Watch:
    """Sees every snapshot, as ``Runtime.observe`` has it called."""

    def __init__(self, true: Clock) -> None:
        self._true = true
        self._state: str | None = None
        self._since = 0
        self._begun: tuple[int, AttemptKind, int] | None = None
        "Number, kind and beginning of the running attempt."
        self.states: list[Stretch] = []
        self.attempts: list[Attempt] = []

    def __call__(self, snapshot: Snapshot) -> None:
        now = self._true.now_unix_ms()
        state = snapshot.state.value
        if state != self._state:
            self._close_state(now)
            self._state, self._since = state, now
        if self._begun is not None:
            self._note_end(snapshot, self._begun, now)
        attempt = snapshot.attempt
        if attempt is not None and self._begun is None:
            self._begun = attempt.number, _KINDS[snapshot.state], now

    def finish(self) -> str:
        """The end of the simulation; returns the state it finds."""
        self._close_state(self._true.now_unix_ms())
        return self._state or State.UNPROVISIONED.value

    def _note_end(self, snapshot: Snapshot, begun: tuple[int, AttemptKind, int], now: int) -> None:
        number, kind, since = begun
        if snapshot.attempt is not None and snapshot.attempt.number == number:
            return
        self._begun = None
        ended = snapshot.ended
        if ended is not None and ended.number == number:
            code = None if ended.error is None else ended.error.code
            self.attempts.append(Attempt(kind=kind, begun_unix_ms=since, ended_unix_ms=now, code=code))

    def _close_state(self, now: int) -> None:
        if self._state is not None and now > self._since:
            self.states.append(Stretch(what=self._state, from_unix_ms=self._since, until_unix_ms=now))


def certificates(flips: Sequence[Flip], end_unix_ms: int) -> tuple[Certificate, ...]:
    """Each that the store's pointer led to."""
    found = []
    for flip, following in zip_longest(flips, flips[1:]):
        current = flip.current
        assert current is not None, "nothing here deletes credentials"
        found.append(
            Certificate(
                serial=current.serial,
                begins_unix_ms=current.not_before_unix_ms,
                ends_unix_ms=current.not_after_unix_ms,
                used_from_unix_ms=flip.at_unix_ms,
                used_until_unix_ms=end_unix_ms if following is None else following.at_unix_ms,
                replaced=following is not None,
            )
        )
    return tuple(found)


def without_identity(used: Sequence[Certificate]) -> tuple[Stretch, ...]:
    """Where the certificate in use had ended."""
    return tuple(
        Stretch(
            what="without identity",
            from_unix_ms=max(one.ends_unix_ms, one.used_from_unix_ms),
            until_unix_ms=one.used_until_unix_ms,
        )
        for one in used
        if one.missed
    )
