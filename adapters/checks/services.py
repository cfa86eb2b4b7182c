"""Whether the service answers, and what it says of itself."""

from adapters.checks.local_socket import connects
from adapters.checks.outcome import Finding, Outcome, failed, ignored, judged, ok, skipped
from adapters.checks.subject import Subject


def keyd_running(subject: Subject) -> Outcome:
    """Its socket."""
    return _running(subject, "keyd")


def certd_running(subject: Subject) -> Outcome:
    """Its socket."""
    return _running(subject, "certd")


def tpmd_running(_: Subject) -> Outcome:
    """The original's fourth daemon."""
    return ignored("this release has no part that speaks to a TPM")


def identityd_running(subject: Subject) -> Outcome:
    """Its socket."""
    return _running(subject, "identityd")


def healthy(subject: Subject) -> Outcome:
    """What the service would say: stuck, degraded, on hold."""
    status = subject.status
    if status is None:
        return skipped("there is no journal that could be read, so nothing is known of the service")
    tried = "reading what the service remembers, as `identityd status` tells it"
    findings = []
    if status.stuck:
        findings.append(Finding(seen=status.reason, fix="see `identityd explain`, and the failure's page"))
    for one in status.degraded:
        findings.append(Finding(seen=f"degraded: {one}", fix="see `identityd explain`", severe=False))
    snapshot = subject.snapshot
    if snapshot is not None and snapshot.hold:
        seen = "attempts are on hold: nothing is renewed"
        findings.append(Finding(seen=seen, fix="sudo identityd release", severe=False))
    error = None if status.attempt is None else status.attempt.last_error
    if error is not None and not status.stuck:
        seen = f"the latest attempt failed: {error.code}: {error.message}"
        fix = f"it is tried again{f' at {error.retry_at}' if error.retry_at else ''}; see `identityd explain`"
        findings.append(Finding(seen=seen, fix=fix, severe=False))
    return judged(tried, findings, seen=f"{status.state}: {status.reason}")


def _running(subject: Subject, name: str) -> Outcome:
    path = subject.socket(name)
    if name in subject.running:
        return ok(f"{path} answers")
    return failed(
        f"connecting to {path}",
        f"Could not connect to {name} on unix://{path}",
        "start the service: sudo identityd run, or sudo systemctl start aziot-identityd",
        causes=(connects(path) or "it does now",),
    )
