"""A simulation as facts: what text, JSON and page are all made from. Units are in the names of numbers.

Instants are RFC 3339 UTC. Of several devices each has a row of numbers, and the one that fared worst is told
whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from adapters.simulation.history import Attempt, Life, Stretch, Traffic
from adapters.simulation.options import YEAR_MS, Scenario
from statemachine.explain import rfc3339
from statemachine.policy import DAY_MS

MERGE_MS = DAY_MS
"Failures of one kind that follow each other within this time are told as one."

Kind = Literal[
    "registered",
    "renewed",
    "reprovisioned",
    "failed",
    "without-identity",
    "outage",
    "hub-outage",
    "clock-set",
]


class OutageRow(Struct, frozen=True, kw_only=True):
    """As it was asked for."""

    peers: tuple[str, ...]
    begins: str
    duration_s: float


class ClockStepRow(Struct, frozen=True, kw_only=True):
    """As it was asked for."""

    at: str
    by_s: float


class Assumed(Struct, frozen=True, kw_only=True):
    """What was simulated."""

    start: str
    end: str
    seed: int
    devices: int
    cert_lifetime_s: float
    renewal_earliest_percent: int
    renewal_latest_percent: int
    backoff_base_s: float
    backoff_cap_s: float
    budget_registrations: int
    budget_window_s: float
    attempt_timeout_s: float
    answer_timeout_s: float
    outages: tuple[OutageRow, ...]
    clock_steps: tuple[ClockStepRow, ...]


class Numbers(Struct, frozen=True, kw_only=True):
    """Of one device, or of all together."""

    device_years: float
    certificates: int
    "That were in use."
    renewals: int
    "Certificates replaced by another."
    failed_attempts: int
    missed_renewals: int
    "Certificates that ended before another was there."
    worst_slack_s: float | None
    "Least that was left of a certificate's life when it was replaced; negative when missed."
    unavailable_s: float
    "Without a valid certificate, after the first one."
    unavailable_s_per_device_year: float
    first_identity_s: float | None
    "From the start to the first certificate, the longest; None when one device never got one."
    never_provisioned: int
    registrations_sent: int
    registrations_billed: int
    polls_sent: int
    hub_requests_sent: int
    unanswered_requests: int
    peak_registrations_per_minute: int
    journal_records: int
    journal_bytes: int


class DeviceRow(Struct, frozen=True, kw_only=True):
    """One device, numbered from 1."""

    device: int
    numbers: Numbers


class Entry(Struct, frozen=True, kw_only=True):
    """One line of the timeline. ``until`` is ``at`` for what has no length."""

    at: str
    until: str
    kind: Kind
    count: int = 1
    code: str | None = None
    "Why attempts failed."
    slack_s: float | None = None
    "What was left of the old certificate."
    by_s: float | None = None
    "How far the clock was set."


class CertificateRow(Struct, frozen=True, kw_only=True):
    """One certificate that was in use."""

    serial: str
    begins: str
    ends: str
    used_from: str
    used_until: str
    replaced: bool
    slack_s: float


class StateRow(Struct, frozen=True, kw_only=True):
    """All the time that was spent in one state."""

    state: str
    times: int
    total_s: float


class StateStretch(Struct, frozen=True, kw_only=True, rename={"since": "from"}):
    """One stay in a state."""

    state: str
    since: str
    until: str


class Told(Struct, frozen=True, kw_only=True):
    """One device, whole."""

    device: int
    final_state: str
    timeline: tuple[Entry, ...]
    certificates: tuple[CertificateRow, ...]
    states: tuple[StateRow, ...]
    stretches: tuple[StateStretch, ...]
    "The same without sums, without gaps."


class Report(Struct, frozen=True, kw_only=True):
    """The result."""

    format: int = 1
    assumed: Assumed
    total: Numbers
    device: Told
    "The device that fared worst."
    devices: tuple[DeviceRow, ...]


class Summary(Struct, frozen=True, kw_only=True):
    """What is kept of a life that is not told: a fleet must not fill the memory."""

    row: DeviceRow
    registrations: Counter[int]
    "By minute since 1970."


def summary_of(life: Life) -> Summary:
    minutes = Counter(at // 60_000 for at in life.registered_unix_ms)
    return Summary(row=DeviceRow(device=life.device, numbers=_numbers(life, minutes)), registrations=minutes)


def badness(life: Life) -> tuple[int, int, int]:
    """Greater is worse; of equals the first is told."""
    never = life.end_unix_ms - life.start_unix_ms if life.first_identity_unix_ms is None else 0
    return never, life.unavailable_ms, -min(life.slacks_ms, default=life.end_unix_ms)


def report(scenario: Scenario, worst: Life, summaries: Sequence[Summary]) -> Report:
    """The whole, from what each device left behind."""
    rows = tuple(one.row for one in summaries)
    minutes: Counter[int] = Counter()
    for one in summaries:
        minutes.update(one.registrations)
    return Report(
        assumed=_assumed(scenario),
        total=_total([row.numbers for row in rows], max(minutes.values(), default=0)),
        device=_told(scenario, worst),
        devices=rows,
    )


def _assumed(scenario: Scenario) -> Assumed:
    policy = scenario.policy
    return Assumed(
        start=rfc3339(scenario.start_unix_ms),
        end=rfc3339(scenario.end_unix_ms),
        seed=scenario.seed,
        devices=scenario.devices,
        cert_lifetime_s=scenario.cert_lifetime_ms / 1000,
        renewal_earliest_percent=policy.renewal_earliest_percent,
        renewal_latest_percent=policy.renewal_latest_percent,
        backoff_base_s=policy.backoff_base_ms / 1000,
        backoff_cap_s=policy.backoff_cap_ms / 1000,
        budget_registrations=policy.budget_registrations,
        budget_window_s=policy.budget_window_ms / 1000,
        attempt_timeout_s=policy.attempt_timeout_ms / 1000,
        answer_timeout_s=scenario.answer_timeout_ms / 1000,
        outages=tuple(
            OutageRow(
                peers=one.peers,
                begins=rfc3339(one.begins_unix_ms),
                duration_s=(one.ends_unix_ms - one.begins_unix_ms) / 1000,
            )
            for one in scenario.outages
        ),
        clock_steps=tuple(
            ClockStepRow(at=rfc3339(one.at_unix_ms), by_s=one.by_ms / 1000) for one in scenario.clock_steps
        ),
    )


def _numbers(life: Life, minutes: Counter[int]) -> Numbers:
    traffic: Traffic = life.traffic
    years = (life.end_unix_ms - life.start_unix_ms) / YEAR_MS
    first = life.first_identity_unix_ms
    return Numbers(
        device_years=years,
        certificates=len(life.certificates),
        renewals=life.renewals,
        failed_attempts=sum(one.code is not None for one in life.attempts),
        missed_renewals=life.missed,
        worst_slack_s=min(life.slacks_ms) / 1000 if life.slacks_ms else None,
        unavailable_s=life.unavailable_ms / 1000,
        unavailable_s_per_device_year=round(life.unavailable_ms / 1000 / years, 3),
        first_identity_s=None if first is None else (first - life.start_unix_ms) / 1000,
        never_provisioned=int(first is None),
        registrations_sent=traffic.registrations_sent,
        registrations_billed=traffic.registrations_billed,
        polls_sent=traffic.polls_sent,
        hub_requests_sent=traffic.hub_requests_sent,
        unanswered_requests=traffic.unanswered_requests,
        peak_registrations_per_minute=max(minutes.values(), default=0),
        journal_records=traffic.journal_records,
        journal_bytes=traffic.journal_bytes,
    )


def _total(each: Sequence[Numbers], peak: int) -> Numbers:
    years = sum(one.device_years for one in each)
    unavailable_s = sum(one.unavailable_s for one in each)
    slacks = [one.worst_slack_s for one in each if one.worst_slack_s is not None]
    firsts = [one.first_identity_s for one in each if one.first_identity_s is not None]
    return Numbers(
        device_years=round(years, 6),
        certificates=sum(one.certificates for one in each),
        renewals=sum(one.renewals for one in each),
        failed_attempts=sum(one.failed_attempts for one in each),
        missed_renewals=sum(one.missed_renewals for one in each),
        worst_slack_s=min(slacks, default=None),
        unavailable_s=round(unavailable_s, 3),
        unavailable_s_per_device_year=round(unavailable_s / years, 3),
        first_identity_s=max(firsts) if len(firsts) == len(each) else None,
        never_provisioned=sum(one.never_provisioned for one in each),
        registrations_sent=sum(one.registrations_sent for one in each),
        registrations_billed=sum(one.registrations_billed for one in each),
        polls_sent=sum(one.polls_sent for one in each),
        hub_requests_sent=sum(one.hub_requests_sent for one in each),
        unanswered_requests=sum(one.unanswered_requests for one in each),
        peak_registrations_per_minute=peak,
        journal_records=sum(one.journal_records for one in each),
        journal_bytes=sum(one.journal_bytes for one in each),
    )


# --- one device, whole -------------------------------------------------------------------------------


def _told(scenario: Scenario, life: Life) -> Told:
    entries = [*_from_world(scenario), *_from_attempts(life), *_gaps(life.without_identity)]
    return Told(
        device=life.device,
        final_state=life.final_state,
        timeline=tuple(sorted(entries, key=lambda one: (one.at, one.kind))),
        certificates=tuple(
            CertificateRow(
                serial=one.serial,
                begins=rfc3339(one.begins_unix_ms),
                ends=rfc3339(one.ends_unix_ms),
                used_from=rfc3339(one.used_from_unix_ms),
                used_until=rfc3339(one.used_until_unix_ms),
                replaced=one.replaced,
                slack_s=one.slack_ms / 1000,
            )
            for one in life.certificates
        ),
        states=_states(life.states),
        stretches=tuple(
            StateStretch(state=one.what, since=rfc3339(one.from_unix_ms), until=rfc3339(one.until_unix_ms))
            for one in life.states
        ),
    )


def _states(stretches: Iterable[Stretch]) -> tuple[StateRow, ...]:
    total: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for one in stretches:
        total[one.what] += one.ms
        times[one.what] += 1
    return tuple(
        StateRow(state=state, times=times[state], total_s=ms / 1000)
        for state, ms in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))
    )


def _from_world(scenario: Scenario) -> Iterator[Entry]:
    for outage in scenario.outages:
        yield Entry(
            at=rfc3339(outage.begins_unix_ms),
            until=rfc3339(min(outage.ends_unix_ms, scenario.end_unix_ms)),
            kind="outage" if "dps" in outage.peers else "hub-outage",
        )
    for step in scenario.clock_steps:
        at = rfc3339(step.at_unix_ms)
        yield Entry(at=at, until=at, kind="clock-set", by_s=step.by_ms / 1000)


def _gaps(stretches: Iterable[Stretch]) -> Iterator[Entry]:
    for one in stretches:
        yield Entry(at=rfc3339(one.from_unix_ms), until=rfc3339(one.until_unix_ms), kind="without-identity")


def _from_attempts(life: Life) -> Iterator[Entry]:
    # The pointer moves a little before its attempt ends, and once for each that succeeds: one order for both.
    replaced = iter([one.slack_ms / 1000 for one in life.certificates if one.replaced])
    first = True
    run: list[Attempt] = []
    for attempt in life.attempts:
        if run and not _goes_on(run[-1], attempt):
            yield _failures(run)
            run = []
        if attempt.code is not None:
            run.append(attempt)
            continue
        kind: Kind = "renewed" if attempt.kind == "renewal" else "reprovisioned"
        slack_s = None if first else next(replaced, None)
        yield Entry(
            at=rfc3339(attempt.begun_unix_ms),
            until=rfc3339(attempt.ended_unix_ms),
            kind="registered" if first else kind,
            slack_s=slack_s,
        )
        first = False
    if run:
        yield _failures(run)


def _goes_on(before: Attempt, attempt: Attempt) -> bool:
    return before.code == attempt.code and attempt.begun_unix_ms - before.ended_unix_ms <= MERGE_MS


def _failures(run: Sequence[Attempt]) -> Entry:
    return Entry(
        at=rfc3339(run[0].begun_unix_ms),
        until=rfc3339(run[-1].ended_unix_ms),
        kind="failed",
        count=len(run),
        code=run[0].code,
    )
