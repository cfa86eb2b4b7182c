"""The certificate that DPS issued: whole, in time, and its successor on the way."""

import os

from adapters.checks.certificates import DAY_MS, dates_finding, rfc3339
from adapters.checks.files import privacy
from adapters.checks.outcome import Finding, Outcome, failed, ignored, judged, skipped, warned
from adapters.checks.subject import Subject
from adapters.driven.generations import CHAIN, KEY, Damaged
from adapters.errors import bounded
from adapters.wire import described
from adapters.wire.pem import certificate_blocks
from statemachine.events import StoredCredential
from statemachine.explain import renewal_due

SOON_MS = 30 * DAY_MS
LAST_PART = 10
"A tenth of a certificate's life: within it every failed attempt is worth a look."
REGISTER_AGAIN = "sudo identityd reprovision"


def whole(subject: Subject) -> Outcome:
    """Certificate and key of the current generation, and the names under which they are published."""
    layout = subject.layout
    tried = f"reading what {layout.pointer_path} leads to, and comparing certificate and key"
    pointer = layout.pointer()
    if pointer.problem is not None:
        return failed(tried, pointer.problem, f"restart the service, which repairs it; else {REGISTER_AGAIN}")
    if pointer.generation is None:
        return _nothing_issued(subject, tried)
    try:
        current = layout.check(pointer.generation)
    except Damaged as exc:
        return failed(
            tried, bounded(str(exc), 400), f"{REGISTER_AGAIN}; the onboarding credential is what it needs"
        )
    info: dict[str, object] = {"generation": current.generation, "source": current.source}
    if current.source == "configured":
        return ignored("DPS issues no certificate: the configured credential is in use", **info)
    findings = list(_published(subject))
    findings += privacy(layout.file(current.generation, KEY), "issued key", subject)
    snapshot = subject.snapshot
    if snapshot is not None and snapshot.credential is not None:
        known = snapshot.credential
        if (known.generation, known.sha256) != (current.generation, current.sha256) and known.sha256:
            seen = f"the journal tells of generation {known.generation}, the disk of {current.generation}"
            fix = "restart the service: what the disk holds is believed"
            findings.append(Finding(seen=seen, fix=fix, severe=False))
    return judged(tried, findings, seen=f"generation {current.generation} matches", info=info)


def within_dates(subject: Subject) -> Outcome:
    """The leaf and every issuer that came with it."""
    current = current_of(subject)
    if current is None or current.source != "issued":
        return ignored("no certificate of DPS can be read")
    path = subject.layout.file(current.generation, CHAIN)
    try:
        content = subject.layout.read(current.generation, CHAIN) or b""
    except OSError as exc:
        return skipped(f"{path} cannot be read: {exc.strerror}")
    findings = []
    for place, one in enumerate(described.describe([der for der in certificate_blocks(content) if der])):
        whose = f"{'issued certificate' if place == 0 else 'intermediate'} {one.subject}"
        # A leaf is renewed long before; its own slack is the next check's.
        soon = 0 if place == 0 else SOON_MS
        found = dates_finding(
            whose, one.not_before_unix_ms, one.not_after_unix_ms, subject.now_unix_ms, soon, REGISTER_AGAIN
        )
        findings += [] if found is None else [found]
    return judged(
        f"reading {path}, and the dates of each certificate in it",
        findings,
        seen=f"valid until {rfc3339(current.not_after_unix_ms)}",
        info={
            "not_before": rfc3339(current.not_before_unix_ms),
            "not_after": rfc3339(current.not_after_unix_ms),
            "serial": current.serial,
        },
    )


def renewal_slack(subject: Subject) -> Outcome:
    """How much life is left after the instant at which the successor is due."""
    current, snapshot = current_of(subject), subject.snapshot
    if current is None or current.source != "issued":
        return ignored("no certificate of DPS is in use, so none is renewed")
    if snapshot is None:
        return skipped("there is no journal that could be read, so nobody knows when renewal is due")
    now = subject.now_unix_ms + snapshot.clock.correction_ms
    life = current.not_after_unix_ms - current.not_before_unix_ms
    left = current.not_after_unix_ms - now
    due = renewal_due(snapshot)
    due_text = "no instant" if due is None else rfc3339(due)
    tried = "comparing the certificate's end with the journal's instant of renewal and its attempts"
    info: dict[str, object] = {
        "renewal_due": None if due is None else rfc3339(due),
        "not_after": rfc3339(current.not_after_unix_ms),
        "failures_in_a_row": snapshot.failures,
    }
    error = snapshot.attempt.last_error if snapshot.attempt is not None else None
    if error is None and snapshot.ended is not None:
        error = snapshot.ended.error
    why = f"; the last error was {error.code}: {error.message}" if error is not None else ""
    see = "see `identityd explain` for what holds it up"
    if left <= 0:
        return failed(tried, f"the certificate ended before its renewal succeeded{why}", see, info=info)
    overdue = due is not None and due < now
    if left * LAST_PART < life and (overdue or snapshot.failures):
        seen = f"less than a tenth of the certificate's life is left, and {_attempts(snapshot.failures)}{why}"
        return failed(tried, seen, see, info=info)
    if snapshot.failures:
        return warned(tried, f"{_attempts(snapshot.failures)}{why}", see, info=info)
    if overdue and "control" not in subject.running:
        seen = f"renewal was due at {due_text}, and the service does not run"
        return warned(tried, seen, "start the service", info=info)
    if due is None and not snapshot.hold:
        return warned(tried, "no renewal is armed", see, info=info)
    ends = rfc3339(current.not_after_unix_ms)
    return judged(tried, [], seen=f"due {due_text}; the certificate ends {ends}", info=info)


def _attempts(failures: int) -> str:
    if not failures:
        return "renewal is overdue"
    return f"{failures} attempt{'' if failures == 1 else 's'} in a row failed"


def current_of(subject: Subject) -> StoredCredential | None:
    """What the disk holds as current, None when it cannot be used."""
    pointer = subject.layout.pointer()
    if pointer.generation is None:
        return None
    try:
        return subject.layout.check(pointer.generation)
    except Damaged:
        return None


def _nothing_issued(subject: Subject, tried: str) -> Outcome:
    snapshot = subject.snapshot
    if snapshot is not None and snapshot.credential is not None and snapshot.credential.source == "issued":
        seen = f"the journal tells of generation {snapshot.credential.generation}, and nothing is on the disk"
        return failed(tried, seen, f"{REGISTER_AGAIN}; the onboarding credential is what it needs")
    if subject.dps is None:
        return ignored("the device is not provisioned by DPS")
    if snapshot is not None and (snapshot.given_up or snapshot.purge is not None):
        return ignored("the device was given up: nothing is to identify it any more")
    seen = "DPS has issued nothing yet"
    return warned(tried, seen, "see `identityd explain` for how far registration has come")


def _published(subject: Subject) -> list[Finding]:
    """The original's names lead through the pointer; whoever reads files by them must find this pair."""
    layout, findings = subject.layout, []
    for link, name in ((layout.certificate_link, CHAIN), (layout.key_link, KEY)):
        try:
            target = os.readlink(link)
        except OSError as exc:
            seen = f"{link} does not lead to the issued {name}: {exc.strerror}"
            findings.append(
                Finding(seen=seen, fix="move it away and restart the service, which makes it anew")
            )
            continue
        if target != layout.target(os.path.dirname(link), name):
            findings.append(
                Finding(
                    seen=f"{link} leads to {bounded(target, 120)}", fix="remove it and restart the service"
                )
            )
    return findings
