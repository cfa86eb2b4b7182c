"""The trust bundle of DPS: readable, and of CAs that are within their dates."""

from adapters.checks.certificates import dates_finding
from adapters.checks.issued import REGISTER_AGAIN, SOON_MS, current_of
from adapters.checks.outcome import Finding, Outcome, failed, ignored, judged
from adapters.checks.subject import Subject
from adapters.driven.files import read_file
from adapters.driven.generations import BUNDLE, LIMITS
from adapters.wire import described
from adapters.wire.pem import certificate_blocks


def valid(subject: Subject) -> Outcome:
    """The CA certificates that DPS sent."""
    current = current_of(subject)
    if current is None:
        return ignored("no assignment of DPS can be read")
    path = subject.layout.file(current.generation, BUNDLE)
    tried = f"reading each certificate in {path}, and its dates"
    try:
        content = read_file(path, LIMITS[BUNDLE])
    except OSError as exc:
        return failed(tried, f"{path} cannot be read: {exc.strerror}", "use sudo, or check the disk")
    if content is None:
        if current.bundle_id is not None:
            return failed(tried, f"{path} is missing", REGISTER_AGAIN)
        return ignored("DPS sent no trust bundle")
    blocks = list(certificate_blocks(content))
    roots = described.describe([der for der in blocks if der is not None])
    findings = []
    if len(roots) < len(blocks) or not blocks:
        unreadable = len(blocks) - len(roots)
        seen = (
            f"{unreadable} of {len(blocks)} certificates cannot be read"
            if blocks
            else "it holds no certificate"
        )
        findings.append(
            Finding(seen=f"{path}: {seen}", fix=f"correct the bundle in DPS, then {REGISTER_AGAIN}")
        )
    alive = 0
    for root in roots:
        found = dates_finding(
            f"CA {root.subject}",
            root.not_before_unix_ms,
            root.not_after_unix_ms,
            subject.now_unix_ms,
            SOON_MS,
            f"put its successor into the bundle in DPS, then {REGISTER_AGAIN}",
        )
        alive += found is None or not found.severe
        if found is not None:
            findings.append(found)
    if alive:
        # One that has ended stays in a bundle for a while; as long as another lives, nobody is cut off by it.
        findings = [
            Finding(seen=one.seen, fix=one.fix, severe=False) if one.seen.startswith("CA ") else one
            for one in findings
        ]
    return judged(tried, findings, seen=f"{len(roots)} certificates, all within their dates")
