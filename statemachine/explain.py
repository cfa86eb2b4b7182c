"""The machine in words: status for programs, a story for people, one line per record."""

from datetime import UTC, datetime, timedelta
from typing import Literal

from statemachine.effects import (
    AnyEffect,
    ArmDeadline,
    ArmDelay,
    CommitCredential,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    StopService,
    SubmitRegistration,
)
from statemachine.events import (
    DeadlinePassed,
    Event,
    Failure,
    HoldRequested,
    HookEnded,
    ModuleKeysLost,
    ModuleKeysPushed,
    RegistrationAssigned,
)
from statemachine.journal import Record
from statemachine.policy import renew_at, window_opens
from statemachine.rows import key_of
from statemachine.settings import IDENTITY_CERTIFICATE_ID
from statemachine.snapshot import Armed, Problem, Purge, Snapshot
from statemachine.states import Phase, State, Timer
from statemachine.status import (
    AssignmentStatus,
    AttemptStatus,
    ClockStatus,
    CredentialStatus,
    LastError,
    NextStatus,
    OnboardingStatus,
    RenewalStatus,
    Status,
    TrustBundleStatus,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999
"9999-12-31T23:59:59.999Z, the last instant RFC 3339 can spell."


def rfc3339(unix_ms: int) -> str:
    """UTC with milliseconds; instants outside the years 1970 to 9999 are shown as the nearest bound."""
    instant = _EPOCH + timedelta(milliseconds=min(max(unix_ms, 0), _LAST_MS))
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


# --- status ------------------------------------------------------------------------------------------


def status_of(snapshot: Snapshot, now: int, *, notes: tuple[str, ...] = ()) -> Status:
    """What `GET /v1/status` answers. ``notes`` are the runtime's own, such as an unavailable journal.

    ``now`` is by our own clock; what is said about times is said by the best known true time.
    """
    now += snapshot.clock.correction_ms
    degraded = (*snapshot.configuration_notes, *snapshot.degraded, *notes)
    if snapshot.bundle_problem is not None:
        degraded = (*degraded, f"trust bundle from the cloud not usable: {snapshot.bundle_problem}")
    if snapshot.module_keys_problem is not None:
        degraded = (*degraded, _push_problem(snapshot.module_keys_problem))
    if snapshot.purge is not None and snapshot.purge.problem is not None:
        problem = snapshot.purge.problem
        degraded = (
            *degraded,
            f"not all could be erased: {problem.code}: {problem.message}; it is tried again",
        )
    help_needed = " ".join(filter(None, (_help_needed(snapshot, now), _module_keys_help(snapshot))))
    return Status(
        state=snapshot.state.value,
        phase=snapshot.phase.value,
        since=rfc3339(snapshot.since_unix_ms),
        sequence=snapshot.sequence,
        stuck=bool(help_needed),
        hold=snapshot.hold,
        degraded=degraded,
        reason=help_needed or _reason(snapshot, now),
        next=_next(snapshot),
        attempt=_attempt(snapshot),
        assignment=_assignment(snapshot),
        credential=_credential(snapshot),
        renewal=_renewal(snapshot),
        onboarding=OnboardingStatus(
            source=_source(snapshot),
            method=snapshot.policy.attestation,
            not_after=_maybe(snapshot.onboarding_not_after_unix_ms),
        ),
        clock=ClockStatus(trusted=snapshot.clock.trusted, reason=snapshot.clock.reason),
        trust_bundle=None
        if snapshot.bundle is None
        else TrustBundleStatus(
            id=snapshot.bundle.id,
            certificates=snapshot.bundle.certificates,
            sha256=snapshot.bundle.sha256,
        ),
        version=snapshot.software_version,
    )


def _maybe(unix_ms: int | None) -> str | None:
    return None if unix_ms is None else rfc3339(unix_ms)


def _source(snapshot: Snapshot) -> Literal["dps", "manual", "none"]:
    if snapshot.policy.manual is not None:
        return "manual"
    return "dps" if snapshot.policy.dps else "none"


def _module_keys_help(snapshot: Snapshot) -> str | None:
    """Why an operator is needed for the modules; the device itself goes on."""
    if snapshot.module_keys_lost is None:
        return None
    pushing = any(isinstance(one.effect, PushModuleKeys) for one in snapshot.outstanding)
    return (
        f"The master key of the modules is missing ({snapshot.module_keys_lost}), so no module key can be "
        "made that the hub accepts; `identityd module-keys push` gives the hub the keys of a new one, or of "
        f"one that was put back from a backup.{' A push is under way.' if pushing else ''}"
    )


def _push_problem(problem: Problem) -> str:
    tracking = f" (tracking id {problem.tracking_id})" if problem.tracking_id else ""
    return (
        f"module keys were not pushed to the hub: {problem.code}: {problem.message}{tracking}; "
        "`identityd module-keys push` tries again"
    )


def _help_needed(snapshot: Snapshot, now: int) -> str | None:
    """Why an operator is needed for the device's own identity, or None."""
    if snapshot.purge is not None:
        return _purge_help(snapshot.purge)
    if _given_up(snapshot):
        # What kept it from an identity may wait until somebody wants one.
        return None
    source = _source(snapshot)
    if source == "none":
        return None
    if snapshot.foreign_machine and source == "dps":
        return (
            "This journal was written on another machine (a copied image?); nothing is registered until "
            "`identityd reprovision` confirms that this is the device."
        )
    onboarding = snapshot.onboarding_not_after_unix_ms
    if onboarding is not None and snapshot.clock.trusted and onboarding <= now:
        return (
            f"The {'onboarding' if source == 'dps' else 'configured'} certificate expired at "
            f"{rfc3339(onboarding)}; without a new one in config.toml there is no way "
            f"{'back to DPS' if source == 'dps' else 'to the hub'}."
        )
    error = _latest_error(snapshot)
    if error is not None and error.failure_class == "operator" and not _expected(snapshot, error):
        return f"The latest attempt failed and needs somebody's help: {error.code}: {error.message}"
    return None


def _purge_help(purge: Purge) -> str | None:
    if purge.problem is None or purge.problem.failure_class != "operator":
        return None
    return (
        "What identifies this device cannot be erased without somebody's help: "
        f"{purge.problem.code}: {purge.problem.message}"
    )


def _given_up(snapshot: Snapshot) -> bool:
    """By an operator, and nothing was put back since."""
    return snapshot.given_up and snapshot.credential is None


def _expected(snapshot: Snapshot, error: Problem) -> bool:
    """An enrolment that never issued certificates and still does not: nobody has to act."""
    credential = snapshot.credential
    certless = error.code in ("not-issued", "csr-not-configured")
    return certless and credential is not None and credential.source == "configured"


def _latest_error(snapshot: Snapshot) -> Problem | None:
    if snapshot.attempt is not None:
        return snapshot.attempt.last_error
    return snapshot.ended.error if snapshot.ended is not None else None


def _reason(snapshot: Snapshot, now: int) -> str:
    if snapshot.stopping:
        return "The service is stopping; what is under way goes on at the next start."
    if snapshot.purge is not None:
        return "This device was given up; what identifies it is being erased."
    if _source(snapshot) == "none":
        return "The configuration names no provisioning service."
    if _given_up(snapshot):
        return (
            "This device was given up, and what identified it is erased; "
            "`identityd release` lets it register again."
        )
    running = "" if snapshot.phase is Phase.IDLE else f" {_PHASE_WORDS[snapshot.phase]}"
    held = " Attempts are on hold until `identityd release`." if snapshot.hold else ""
    return f"{_state_words(snapshot, now)}{running}{held}"


def _state_words(snapshot: Snapshot, now: int) -> str:
    credential = snapshot.credential
    if _source(snapshot) == "manual" and snapshot.state in _MANUAL_WORDS:
        return _MANUAL_WORDS[snapshot.state]
    match snapshot.state:
        case State.UNPROVISIONED:
            return "The device has no identity yet."
        case State.REGISTERING:
            return "The device registers for the first time."
        case State.PROVISIONED if credential is not None and credential.source == "configured":
            return "Assigned; the cloud issued no certificate, so the configured credential serves the hub."
        case State.PROVISIONED:
            return "Assigned, with a valid certificate."
        case State.CERT_EXPIRING:
            return "The certificate is inside its renewal window and is still in use."
        case State.RENEWING:
            return "A new certificate is being obtained; the old one is still in use."
        case State.REPROVISIONING if credential is None:
            return "Registration is repeated; no usable credential is left."
        case State.REPROVISIONING if (
            snapshot.clock.trusted
            and credential is not None
            and credential.source == "issued"
            and credential.not_after_unix_ms <= now
        ):
            return "Registration is repeated; the certificate in use has expired."
        case _:
            return "Registration is repeated; what is in use stays until it is replaced."


_MANUAL_WORDS: dict[State, str] = {
    State.REGISTERING: "The assignment in the configuration is taken up for the first time.",
    State.PROVISIONED: "Assigned by the configuration; the configured credential serves the hub.",
    State.REPROVISIONING: "The assignment in the configuration is taken up; what is in use stays until then.",
}

_PHASE_WORDS: dict[Phase, str] = {
    Phase.IDLE: "Nothing is under way.",
    Phase.STAGING: "A new key is being stored.",
    Phase.SUBMITTING: "The registration is being sent to DPS.",
    Phase.POLLING: "DPS is working on it and is asked from time to time.",
    Phase.PROVING: "The new credential is being shown to the hub.",
    Phase.COMMITTING: "The new credential is being made current.",
    Phase.RETIRING: "Superseded keys are being removed.",
}

_AGAIN_WORDS: dict[Phase, str] = {
    Phase.POLLING: "DPS is asked again",
    Phase.PROVING: "the new credential is shown to the hub again",
    Phase.COMMITTING: "the store is asked again to make the new credential current",
}

_TIMER_WORDS: dict[Timer, str] = {
    "window": "renewal",
    "attempt": "another attempt",
    "expiry": "the certificate expires",
    "reissue": "issuance is asked for again",
    "prove": "the credential is shown to the hub again",
    "collect": "a superseded key is removed",
    "timeout": "the answer that is waited for, or the attempt is given up",
}

_HELD_BACK: tuple[Timer, ...] = ("window", "attempt", "reissue")
"What a hold keeps from beginning."

_RUNNING_ORDER: tuple[Timer, ...] = ("phase", "timeout")
_RESTING_ORDER: tuple[Timer, ...] = ("attempt", "window", "reissue", "prove", "expiry")


def _next(snapshot: Snapshot) -> NextStatus | None:
    if snapshot.stopping:
        return None
    if snapshot.purge is not None:
        again = snapshot.armed_as("collect")
        if again is None:
            return NextStatus(what="What identifies this device is being erased.")
        return NextStatus(what="what is left is erased", at=rfc3339(again.at_unix_ms))
    running = snapshot.phase is not Phase.IDLE
    for name in _RUNNING_ORDER if running else _RESTING_ORDER:
        armed = snapshot.armed_as(name)
        if armed is not None:
            what = _AGAIN_WORDS[snapshot.phase] if name == "phase" else _TIMER_WORDS[name]
            if snapshot.hold and name in _HELD_BACK:
                what += ", if the hold is released by then"
            return NextStatus(what=what, at=rfc3339(_when(snapshot, armed)))
    return NextStatus(what=_PHASE_WORDS[snapshot.phase]) if running else None


def _when(snapshot: Snapshot, armed: Armed) -> int:
    """For the window people want to know the drawn instant inside it, not its opening."""
    due = renewal_due(snapshot)
    return due if armed.name == "window" and due is not None else armed.at_unix_ms


def renewal_due(snapshot: Snapshot) -> int | None:
    """The drawn instant of renewal of the certificate in use, Unix milliseconds UTC."""
    credential, settings = snapshot.credential, snapshot.policy
    if credential is None or credential.source != "issued":
        return None
    return renew_at(
        credential.not_before_unix_ms,
        credential.not_after_unix_ms,
        earliest_percent=settings.renewal_earliest_percent,
        latest_percent=settings.renewal_latest_percent,
        draw_ppm=credential.draw_ppm,
        windows=settings.maintenance_windows,
    )


def _renewal(snapshot: Snapshot) -> RenewalStatus | None:
    credential, due = snapshot.credential, renewal_due(snapshot)
    if credential is None or due is None:
        return None
    settings = snapshot.policy
    opens, closes = (
        window_opens(credential.not_before_unix_ms, credential.not_after_unix_ms, earliest_percent=percent)
        for percent in (settings.renewal_earliest_percent, settings.renewal_latest_percent)
    )
    return RenewalStatus(opens=rfc3339(opens), due=rfc3339(due), closes=rfc3339(closes))


def _attempt(snapshot: Snapshot) -> AttemptStatus | None:
    if _given_up(snapshot):
        # Whatever the latest ran into was about another identity.
        return None
    retry = snapshot.armed_as("phase" if snapshot.attempt is not None else "attempt")
    retry_at = None if retry is None else rfc3339(retry.at_unix_ms)
    if snapshot.attempt is not None:
        return AttemptStatus(
            number=snapshot.attempt.number,
            started=rfc3339(snapshot.attempt.started_unix_ms),
            last_error=_error(snapshot.attempt.last_error, retry_at),
        )
    if snapshot.ended is not None:
        return AttemptStatus(
            number=snapshot.ended.number,
            started=rfc3339(snapshot.ended.started_unix_ms),
            last_error=_error(snapshot.ended.error, retry_at),
        )
    return None


def _error(problem: Problem | None, retry_at: str | None) -> LastError | None:
    if problem is None:
        return None
    return LastError(
        failure_class=problem.failure_class,
        code=problem.code,
        message=problem.message,
        tracking_id=problem.tracking_id,
        retry_at=retry_at,
    )


def _assignment(snapshot: Snapshot) -> AssignmentStatus | None:
    assignment = snapshot.assignment
    return (
        None if assignment is None else AssignmentStatus(hub=assignment.hub, device_id=assignment.device_id)
    )


def _credential(snapshot: Snapshot) -> CredentialStatus | None:
    credential = snapshot.credential
    if credential is None:
        return None
    if credential.source == "configured":
        return CredentialStatus(
            source="configured", generation=credential.generation, proven=credential.proven
        )
    return CredentialStatus(
        source="issued",
        certificate_id=IDENTITY_CERTIFICATE_ID,
        sha256=credential.sha256,
        serial=credential.serial,
        not_before=rfc3339(credential.not_before_unix_ms),
        not_after=rfc3339(credential.not_after_unix_ms),
        generation=credential.generation,
        proven=credential.proven,
    )


# --- a story for people ------------------------------------------------------------------------------


def story(status: Status) -> tuple[str, ...]:
    """Why this state, what next and when, what would change it."""
    lines = [f"{status.state} since {status.since}. {status.reason}"]
    credential, assignment = status.credential, status.assignment
    if assignment is not None:
        lines.append(f"The device is {assignment.device_id} at {assignment.hub}.")
    if credential is not None and credential.source == "issued":
        proven = "accepted by the hub" if credential.proven else "not shown to the hub yet"
        lines.append(
            f"Its certificate (generation {credential.generation}, {proven}) is valid until "
            f"{credential.not_after}."
        )
    elif credential is not None:
        lines.append("The hub is spoken to with the configured credential.")
    if status.attempt is not None and status.attempt.last_error is not None:
        error = status.attempt.last_error
        tracking = f" (tracking id {error.tracking_id})" if error.tracking_id else ""
        lines.append(
            f"Attempt {status.attempt.number} ran into {error.code}, class {error.failure_class}: "
            f"{error.message}{tracking}"
        )
    if status.next is not None:
        lines.append(f"Next: {status.next.what}" + (f", at {status.next.at}." if status.next.at else ""))
    elif status.stuck:
        lines.append("Nothing happens without help.")
    changes = _MANUAL_WOULD_CHANGE if status.onboarding.source == "manual" else _WOULD_CHANGE
    idle = status.phase == Phase.IDLE.value
    lines.append(_HOLD_WOULD_CHANGE if status.hold and idle else changes[status.state])
    if not status.clock.trusted:
        lines.append(f"The clock is not trusted: it {status.clock.reason}. Nothing is declared expired.")
    lines.extend(f"Degraded: {note}." for note in status.degraded)
    return tuple(lines)


_HOLD_WOULD_CHANGE = "What would change it: `identityd release`; no attempt begins before."

_WOULD_CHANGE: dict[str, str] = {
    "Unprovisioned": "What would change it: a successful registration, `identityd reprovision`, or a "
    "corrected config.toml.",
    "Registering": "What would change it: the answer of DPS or of the hub.",
    "Provisioned": "What would change it: the renewal window, `identityd renew`, `identityd reprovision`, "
    "a changed config.toml, or repeated refusals by the hub.",
    "CertExpiring": "What would change it: the next attempt, `identityd renew`, or expiry.",
    "Renewing": "What would change it: the answer of DPS or of the hub, or expiry.",
    "Reprovisioning": "What would change it: a successful registration.",
}


_MANUAL_WOULD_CHANGE: dict[str, str] = {
    **_WOULD_CHANGE,
    "Unprovisioned": "What would change it: a hub that accepts the configured credential, or a corrected "
    "config.toml.",
    "Registering": "What would change it: the answer of the hub.",
    "Provisioned": "What would change it: a changed config.toml, `identityd reprovision`, or repeated "
    "refusals by the hub.",
    "Reprovisioning": "What would change it: a hub that accepts the configured credential, or a corrected "
    "config.toml.",
}


# --- one line per record -----------------------------------------------------------------------------


def tell(record: Record) -> str:
    """One line for people: when, what happened, where that led, what was wished for."""
    position = record.state if record.phase == "Idle" else f"{record.state}/{record.phase}"
    wishes = ", ".join(filter(None, map(_effect_words, record.effects)))
    tail = f" -> {wishes}" if wishes else ""
    mark = "" if record.verdict == "taken" else f" [{record.verdict}]"
    return (
        f"{rfc3339(record.now_unix_ms)} {record.sequence:>5} {position:<26} "
        f"{_event_words(record.event)}{mark}{tail}"
    )


def _event_words(event: Event) -> str:
    if isinstance(event, DeadlinePassed):
        return f"{event.name} reached"
    name = key_of(event).replace("-", " ")
    if isinstance(event, Failure):
        return f"{name}: {event.failure_class}, {event.code}: {event.message}"[:300]
    if isinstance(event, RegistrationAssigned):
        issued = "with a certificate" if event.chain is not None else "without a certificate"
        bundle = f", trusted CAs: {event.bundle.certificates}" if event.bundle is not None else ""
        return f"{name} to {event.assigned_hub} {issued}{bundle}"
    if isinstance(event, HoldRequested):
        return f"{name}: {'until released' if event.hold else 'released'}"
    if isinstance(event, HookEnded):
        said = f": {event.message}" if event.message else ""
        return f"{name}: {event.hook}, {event.outcome}{said}"[:300]
    if isinstance(event, ModuleKeysLost):
        return f"{name}: {event.reason}"[:300]
    if isinstance(event, ModuleKeysPushed):
        return f"{name}: {event.modules}"
    return name


def _effect_words(effect: AnyEffect) -> str:
    match effect:
        case ArmDeadline():
            return f"{effect.name} at {rfc3339(effect.at_unix_ms)}"
        case ArmDelay():
            return f"{effect.name} in {effect.delay_ms / 1000:g} s"
        case StageKey():
            return f"stage key {effect.generation}"
        case SubmitRegistration():
            return "register" if effect.generation is not None else "register without a CSR"
        case PollRegistration():
            return "poll"
        case ProveCredential():
            return f"show credential {effect.generation} to the hub"
        case CommitCredential():
            return f"make credential {effect.generation} current"
        case RetireCredential():
            return f"keep generations {', '.join(map(str, effect.keep)) or 'none'}"
        case PurgeCredentials():
            return "erase what identifies the device"
        case PushModuleKeys():
            return "push module keys"
        case StopService():
            return "stop"
        case _:
            # Disarm is not worth a word: what takes its place is armed, or nothing is.
            return ""
