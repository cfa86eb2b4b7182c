"""A record as one happening: what happened, in words, and why. Demo, watch and timeline tell these.

Left out is what a person gains nothing from: records that changed nothing, deadlines that only make the
running attempt go on, and the first time DPS says that it is not done.
"""

from msgspec import Struct

from adapters.cli.screen import clock_time, span
from adapters.errors import bounded
from statemachine.effects import (
    ArmDeadline,
    ArmDelay,
    CommitCredential,
    Effect,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    AnyEvent,
    ClockObserved,
    ConfigurationChanged,
    CredentialCommitted,
    CredentialLost,
    CredentialProven,
    CredentialRetired,
    DeadlinePassed,
    Failure,
    HoldRequested,
    HubRefusedCredential,
    KeyStaged,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationPending,
    RenewRequested,
    ReprovisionRequested,
    RulesChanged,
    ShutdownRequested,
    Started,
)
from statemachine.explain import rfc3339
from statemachine.journal import Record

_TIME_OF_DAY = len("HH:MM:SS")
_HALF_A_DAY_MS = 43_200_000


class Validity(Struct, frozen=True, kw_only=True):
    """Of the certificate in use."""

    serial: str
    not_before_unix_ms: int
    not_after_unix_ms: int

    def left(self, now_unix_ms: int) -> float:
        """The part of its life that is left, 0 to 1."""
        life = max(self.not_after_unix_ms - self.not_before_unix_ms, 1)
        return min(max((self.not_after_unix_ms - now_unix_ms) / life, 0.0), 1.0)


class Happening(Struct, frozen=True, kw_only=True, tag_field="type", tag="happening", omit_defaults=True):
    """One line."""

    time: str
    now_unix_ms: int
    sequence: int
    state: str
    phase: str
    what: str
    why: str
    failed: bool = False
    entered: bool = False
    "The state is another one than before."
    renewed: bool = False
    "A renewal has just ended well."
    certificate: Validity | None = None
    "The one in use."


class Timeline:
    """Records in order become happenings."""

    def __init__(self) -> None:
        self._state = ""
        self._in_use: Validity | None = None
        self._issued: Validity | None = None
        self._pending = 0
        "How often DPS said that this operation is not done."

    def take(self, record: Record) -> Happening | None:
        """None when there is nothing to tell."""
        self._follow(record.event)
        before, self._state = self._state, record.state
        if record.verdict == "ignored":
            return None
        if record.state == before and not self._worth_telling(record):
            return None
        return Happening(
            time=rfc3339(record.now_unix_ms),
            now_unix_ms=record.now_unix_ms,
            sequence=record.sequence,
            state=record.state,
            phase=record.phase,
            what=bounded(_what(record)),
            why=record.why,
            failed=isinstance(record.event, Failure) or record.verdict == "refused",
            entered=record.state != before,
            renewed=(before, record.state) == ("Renewing", "Provisioned")
            and isinstance(record.event, CredentialRetired),
            certificate=self._in_use,
        )

    def _follow(self, event: AnyEvent) -> None:
        """Which certificate is in use, and which one is on its way to be."""
        match event:
            case RegistrationAccepted():
                self._pending = 0
            case RegistrationPending():
                self._pending += 1
            case Started(inventory=inventory):
                current = inventory.current
                issued = current is not None and current.source == "issued"
                self._in_use = None
                if current is not None and issued:
                    self._in_use = Validity(
                        serial=current.serial,
                        not_before_unix_ms=current.not_before_unix_ms,
                        not_after_unix_ms=current.not_after_unix_ms,
                    )
            case RegistrationAssigned(chain=chain):
                self._issued = None
                if chain is not None:
                    self._issued = Validity(
                        serial=chain.serial,
                        not_before_unix_ms=chain.not_before_unix_ms,
                        not_after_unix_ms=chain.not_after_unix_ms,
                    )
            case CredentialCommitted():
                self._in_use = self._issued
            case CredentialLost():
                self._in_use = None
            case _:
                pass

    def _worth_telling(self, record: Record) -> bool:
        """Of the records that stay in their state."""
        match record.event:
            case DeadlinePassed(name="phase") | CredentialRetired() | RulesChanged():
                return False
            case RegistrationPending():
                return self._pending > 1
            case DeadlinePassed(name="collect"):
                return any(isinstance(effect, RetireCredential) for effect in record.effects)
            case ClockObserved(jump_ms=jump):
                return abs(jump) >= 1000
            case _:
                return True


# --- words -------------------------------------------------------------------------------------------


def _what(record: Record) -> str:
    """What happened, then what is done now."""
    happened = _happened(record)
    done = [words for effect in record.effects if (words := _done(effect, record)) is not None]
    return ", ".join([*filter(None, [happened]), *done])


def _happened(record: Record) -> str:
    event = record.event
    match event:
        case Started():
            return "service starts"
        case DeadlinePassed():
            if event.name == "attempt" and record.state != "Renewing":
                return "another attempt begins"
            return _DEADLINES.get(event.name, f"{event.name} reached")
        case ReprovisionRequested():
            return f"reprovision ordered by uid {event.uid}"
        case RenewRequested():
            return f"renewal ordered by uid {event.uid}"
        case HoldRequested():
            return f"attempts {'put on hold' if event.hold else 'released'} by uid {event.uid}"
        case ConfigurationChanged():
            return "new configuration read"
        case ShutdownRequested():
            return f"asked to stop{f' ({event.reason})' if event.reason else ''}"
        case ClockObserved():
            ahead = "ahead" if event.jump_ms > 0 else "back"
            return f"clock set {ahead} by {_seconds(abs(event.jump_ms))}"
        case HubRefusedCredential():
            return f"the hub refuses certificate {event.generation} ({event.code})"
        case CredentialLost():
            return f"credential {event.generation} is gone: {event.reason}"
        case KeyStaged():
            return ""
        case RegistrationAccepted():
            return "waits for DPS"
        case RegistrationPending():
            return "goes on waiting"
        case RegistrationAssigned():
            return _assigned(event)
        case CredentialProven():
            return "" if record.effects else f"the hub accepts certificate {event.generation}"
        case CredentialCommitted():
            return f"certificate {event.generation} in use"
        case CredentialRetired():
            return "done"
        case Failure():
            tracking = f", tracking id {event.tracking_id}" if event.tracking_id else ""
            name = str(event.__struct_config__.tag).replace("-", " ")
            return f"{name}: {event.code} ({event.failure_class}) {event.message}{tracking}"
        case _:
            return str(event.__struct_config__.tag).replace("-", " ")


def _assigned(event: RegistrationAssigned) -> str:
    what = f"assigned to {event.assigned_hub}"
    if event.chain is None:
        what += " without a certificate"
    else:
        life_ms = event.chain.not_after_unix_ms - event.chain.not_before_unix_ms
        what += f", certificate for {span(life_ms)}"
    return what if event.bundle is None else f"{what}, bundle of {event.bundle.certificates}"


_DEADLINES = {
    "window": "renewal window open",
    "attempt": "renewal begins",
    "expiry": "certificate expires",
    "timeout": "attempt took too long",
    "collect": "a replaced certificate has ended",
    "prove": "hub to be asked again",
    "reissue": "issuance to be asked for again",
}


def _done(effect: Effect, record: Record) -> str | None:
    match effect:
        case StageKey():
            return f"makes key {effect.generation}" if effect.reuse_generation is None else "keeps the key"
        case SubmitRegistration():
            return "registers with DPS"
        case PollRegistration() if not isinstance(record.event, DeadlinePassed):
            return "asks DPS"
        case ProveCredential():
            return "shows it to the hub" if effect.issued else "asks the hub"
        case CommitCredential():
            return f"makes certificate {effect.generation} current"
        case RetireCredential() if isinstance(record.event, DeadlinePassed):
            return "its key is deleted"
        case ArmDeadline(name="window"):
            return f"renews from {moment(effect.at_unix_ms, record.now_unix_ms)} on"
        case ArmDeadline(name="attempt"):
            return f"attempt in {_seconds(effect.at_unix_ms - record.now_unix_ms)}"
        case ArmDelay(name="attempt"):
            return f"attempt in {_seconds(effect.delay_ms)}"
        case ArmDelay(name="phase") if isinstance(record.event, Failure):
            return f"again in {_seconds(effect.delay_ms)}"
        case _:
            return None


def _seconds(ms: int) -> str:
    return f"{max(ms, 0) / 1000:.1f} s" if ms < 60_000 else span(ms)


def clock(unix_ms: int) -> str:
    """Time of day, UTC as in every other output."""
    return clock_time(unix_ms).removesuffix("Z")[-_TIME_OF_DAY:]


def moment(unix_ms: int, now_unix_ms: int) -> str:
    """Time of day while that says enough: within half a day."""
    near = abs(unix_ms - now_unix_ms) < _HALF_A_DAY_MS
    return clock(unix_ms) if near else clock_time(unix_ms).removesuffix("Z")[: -len(":SS")]
