"""What text and page both say: numbers in words, the timeline with routine renewals drawn together."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

from adapters.simulation.report import Entry, Numbers, Report
from statemachine.policy import PATIENT_CAPS

ROUTINE = "renewed"


def span(seconds: float) -> str:
    """In its two largest units; with a sign when negative."""
    sign, left = ("-" if seconds < 0 else ""), abs(seconds)
    if left < 60:
        shown = f"{left:.1f}".removesuffix(".0")
        return f"{sign if shown != '0' else ''}{shown} s"
    whole = int(left)
    for unit_s, unit, part_s, part in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{sign}{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    raise AssertionError("60 s are a minute")


def size(count: int) -> str:
    """Of bytes, in the unit that leaves one to three digits before the point."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1_000 or unit == "GiB":
            break
        value /= 1_024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def day(at: str) -> str:
    """The date of an RFC 3339 instant."""
    return at[:10]


def minute(at: str) -> str:
    return f"{at[:10]} {at[11:16]}"


# --- the numbers -------------------------------------------------------------------------------------


def title(report: Report) -> str:
    assumed = report.assumed
    return f"{many(assumed.devices, 'device')}, {day(assumed.start)} to {day(assumed.end)}"


def assumptions(report: Report) -> Iterator[tuple[str, str]]:
    """Label and text of each thing that was assumed."""
    assumed = report.assumed
    window = f"{assumed.renewal_earliest_percent} to {assumed.renewal_latest_percent} %"
    yield "certificates", f"live {span(assumed.cert_lifetime_s)}, renewed at {window} of that"
    cap_s = assumed.backoff_cap_s
    patient = f"{span(cap_s * PATIENT_CAPS)} while a certificate has time"
    yield "backoff", f"{span(assumed.backoff_base_s)} to {span(cap_s)}, or {patient}; full jitter"
    budget = f"{assumed.budget_registrations} registrations in {span(assumed.budget_window_s)}"
    yield "budget", f"{budget} without success"
    yield "cloud", f"issues in 3 s; a request nobody answers lasts {span(assumed.answer_timeout_s)}"
    yield "seed", str(assumed.seed)


def verdict(total: Numbers, devices: int) -> str:
    """One sentence, the most important first."""
    of = "the device" if devices == 1 else "a device"
    if total.never_provisioned:
        return f"{many(total.never_provisioned, 'device')} never got an identity."
    if total.missed_renewals:
        return (
            f"Identity was lost for {span(total.unavailable_s)} in all: "
            f"{many(total.missed_renewals, 'certificate')} ended before the next was there."
        )
    return f"At no time was {of} without a valid certificate."


def results(report: Report) -> Iterator[tuple[str, str]]:
    """Label and text of each number."""
    total, devices = report.total, report.assumed.devices
    years = total.device_years
    per_year = f"{total.unavailable_s_per_device_year:,.1f} s per device-year"
    yield "identity unavailable", f"{span(total.unavailable_s)} ({per_year})"
    slack = "no certificate was replaced"
    if total.worst_slack_s is not None:
        slack = f"{span(total.worst_slack_s)} before expiry"
        if total.worst_slack_s < 0:
            slack = f"{span(-total.worst_slack_s)} after expiry"
    yield "worst slack", slack
    yield "missed renewals", f"{total.missed_renewals:,}, of {many(total.certificates, 'certificate')}"
    if total.first_identity_s is not None:
        yield "first identity", f"after {span(total.first_identity_s)}"
    yield (
        "registrations",
        f"{total.registrations_sent:,} sent, {total.registrations_billed:,} billed "
        f"({total.registrations_billed / years:.1f} per device-year)",
    )
    yield "other requests", f"{many(total.polls_sent, 'poll')}, {total.hub_requests_sent:,} to the hub"
    yield "unanswered", many(total.unanswered_requests, "request")
    yield "failed attempts", f"{total.failed_attempts:,}"
    if devices > 1:
        yield "peak", f"{many(total.peak_registrations_per_minute, 'registration')} in one minute"
    per_day = total.journal_bytes / years / 365
    records = many(total.journal_records, "line")
    yield "journal", f"{size(total.journal_bytes)}, {records} ({size(round(per_day))} a device-day)"


# --- the timeline ------------------------------------------------------------------------------------


def told(timeline: Sequence[Entry]) -> Iterator[tuple[str, str, str]]:
    """When, what, and the kind of each line. Renewals in time that follow each other are one line."""
    for routine, group in groupby(timeline, key=_routine):
        entries = list(group)
        if routine and len(entries) > 1:
            yield _several(entries)
        else:
            yield from map(line, entries)


def _routine(entry: Entry) -> bool:
    return entry.kind == ROUTINE and (entry.slack_s or 0) >= 0


def line(entry: Entry) -> tuple[str, str, str]:
    """When, what, kind."""
    return minute(entry.at), _what(entry), entry.kind


def _several(entries: Sequence[Entry]) -> tuple[str, str, str]:
    slacks = sorted(one.slack_s for one in entries if one.slack_s is not None)
    until = day(entries[-1].at)
    left = f"{span(slacks[0])} to {span(slacks[-1])} before expiry"
    return minute(entries[0].at), f"{len(entries)} renewals until {until}, {left}", ROUTINE


def _what(entry: Entry) -> str:
    match entry.kind:
        case "registered":
            return f"registered, first certificate after {span(_seconds(entry))}"
        case "renewed":
            return f"renewed, {_slack(entry)}"
        case "reprovisioned":
            return f"registered anew, {_slack(entry)}"
        case "failed":
            lasts = _seconds(entry)
            if entry.count == 1:
                return f"an attempt failed: {entry.code}"
            return f"{entry.count} attempts failed in {span(lasts)}: {entry.code}"
        case "without-identity":
            return f"NO VALID CERTIFICATE for {span(_seconds(entry))}"
        case "outage":
            return f"nobody reaches DPS or hub for {span(_seconds(entry))}"
        case "hub-outage":
            return f"nobody reaches the hub for {span(_seconds(entry))}"
        case "clock-set":
            by_s = entry.by_s or 0
            return f"the clock is set {'ahead' if by_s > 0 else 'back'} by {span(abs(by_s))}"


def _slack(entry: Entry) -> str:
    slack_s = entry.slack_s or 0
    return f"{span(slack_s)} before expiry" if slack_s >= 0 else f"{span(-slack_s)} after expiry"


def _seconds(entry: Entry) -> float:
    return unix_s(entry.until) - unix_s(entry.at)


def unix_s(at: str) -> float:
    """Of an RFC 3339 instant."""
    return datetime.fromisoformat(at).timestamp()
