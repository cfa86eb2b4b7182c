"""What a check comes to, and the words of a finding: what was seen, what was tried, how to fix it."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from adapters.errors import bounded

Kind = Literal["ok", "warning", "ignored", "skipped", "fatal", "error"]
"The original's words. fatal: nothing further can be looked at."

MAX_FINDINGS = 20
"Of one check: a directory of a thousand wrong modes is told in as many lines as anybody reads."


class Outcome(Struct, frozen=True, kw_only=True):
    """Of one check."""

    kind: Kind
    seen: str = ""
    "What was looked at and found, or why it was not looked at."
    message: str = ""
    "Of a warning, an error, or the fatal one."
    causes: tuple[str, ...] = ()
    "Further detail, shown on request."
    info: dict[str, object] = {}
    "`additional_info` of the original's ids, facts of ours."

    @property
    def details(self) -> tuple[str, ...]:
        """The message, then the causes."""
        return (self.message, *self.causes) if self.kind in ("warning", "fatal", "error") else ()


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    seen: str
    fix: str
    severe: bool = True
    "An error; else a warning."
    evidence: tuple[str, ...] = ()
    "Lines without which the finding cannot be judged."


def ok(seen: str, **info: object) -> Outcome:
    return Outcome(kind="ok", seen=bounded(seen, 600), info=info)


def ignored(reason: str, **info: object) -> Outcome:
    """It does not apply here."""
    return Outcome(kind="ignored", seen=bounded(reason, 600), info=info)


def skipped(reason: str, **info: object) -> Outcome:
    """Something else has to be right first."""
    return Outcome(kind="skipped", seen=bounded(reason, 600), info=info)


def judged(
    tried: str,
    findings: Sequence[Finding],
    *,
    seen: str,
    causes: Sequence[str] = (),
    info: dict[str, object] | None = None,
) -> Outcome:
    """An error or a warning with all findings, or ok with what was ``seen`` when there are none."""
    if not findings:
        return ok(seen, **(info or {}))
    # The severe ones first: they decide what the check comes to.
    ordered = sorted(findings, key=lambda finding: not finding.severe)
    lines = []
    for finding in ordered[:MAX_FINDINGS]:
        lines.append(bounded(finding.seen, 600))
        lines += [f"  {bounded(line, 400)}" for line in finding.evidence]
        lines.append(f"fix: {bounded(finding.fix, 400)}")
    if len(ordered) > MAX_FINDINGS:
        lines.append(f"and {len(ordered) - MAX_FINDINGS} more like these")
    lines.append(f"tried: {bounded(tried, 400)}")
    return Outcome(
        kind="error" if ordered[0].severe else "warning",
        message="\n".join(lines),
        causes=tuple(bounded(cause, 600) for cause in causes),
        info=info or {},
    )


def failed(
    tried: str, seen: str, fix: str, *, causes: Sequence[str] = (), info: dict[str, object] | None = None
) -> Outcome:
    """An error with one finding."""
    return judged(tried, [Finding(seen=seen, fix=fix)], seen="", causes=causes, info=info)


def warned(
    tried: str, seen: str, fix: str, *, causes: Sequence[str] = (), info: dict[str, object] | None = None
) -> Outcome:
    """A warning with one finding."""
    return judged(tried, [Finding(seen=seen, fix=fix, severe=False)], seen="", causes=causes, info=info)


def fatal(tried: str, seen: str, fix: str) -> Outcome:
    """Nothing further can be looked at."""
    message = f"{bounded(seen, 600)}\nfix: {fix}\ntried: {tried}"
    return Outcome(kind="fatal", message=message)
