"""The journal: whole, chained, and of decisions that this release would make again."""

import os

from adapters.checks.outcome import Finding, Outcome, failed, ignored, judged
from adapters.checks.subject import MAX_JOURNAL_BYTES, Subject, reason_of
from adapters.driven.files import read_file
from adapters.errors import bounded
from statemachine.replay import replay_files

_ASIDE = "nothing needs to be done; send the file to whoever looks into it, then remove it"
_GOES_ON = "a restart sets it aside and goes on from what the stores hold; look at the disk"


def intact(subject: Subject) -> Outcome:
    """Every file's chain of hashes, and a replay of all of them."""
    tried = "following the chain of hashes in each journal file, and deciding every record again"
    findings = [
        Finding(
            seen=f"{path} was damaged and set aside: {_reason(path)}",
            fix=_ASIDE,
            severe=False,
        )
        for path in subject.set_aside
    ]
    if not subject.journal_files:
        if subject.layout.pointer().generation is None and not findings:
            return ignored("there is no journal: the service has not run here yet")
        seen = f"there is no journal in {subject.paths.state_dir}, but credentials are"
        findings.append(Finding(seen=seen, fix="the service begins a new one from what the stores hold"))
        return judged(tried, findings, seen="")
    named: list[tuple[str, bytes]] = []
    bytes_left, left_out = MAX_JOURNAL_BYTES, 0
    for path in reversed(subject.journal_files):
        try:
            content = read_file(path, MAX_JOURNAL_BYTES)
        except OSError as exc:
            return failed(tried, f"{path} cannot be read: {reason_of(exc)}", "use sudo, or move it away")
        bytes_left -= len(content or b"")
        if bytes_left < 0:
            left_out += 1
        elif content is not None:
            named.insert(0, (path, content))
    try:
        found = replay_files(named)
    except Exception as exc:
        # Whole, but from where this machine never was: rules may trust what a snapshot of theirs implies.
        return failed(
            tried, f"it does not replay under the rules of this release ({type(exc).__name__})", _GOES_ON
        )
    if found.unreadable is not None:
        findings.append(Finding(seen=bounded(found.unreadable, 400), fix=_GOES_ON))
    elif not found.equal:
        first, _, rest = str(found.divergence).partition("\n")
        seen = f"it does not replay: {first}"
        fix = "see the difference with `identityd replay`, and report it: no release may decide otherwise"
        findings.append(Finding(seen=seen, fix=fix))
        return judged(tried, findings, seen="", causes=[bounded(line) for line in rest.splitlines()[:4]])
    older = f"; {left_out} older files were not looked at" if left_out else ""
    files = f"{len(named)} file{'' if len(named) == 1 else 's'}"
    return judged(
        tried,
        findings,
        seen=f"{found.records} records in {files} replay to the same decisions{older}",
        info={"records": found.records, "files": len(named)},
    )


def _reason(path: str) -> str:
    try:
        content = read_file(f"{path}.reason", 4096)
    except OSError:
        content = None
    return bounded((content or b"nobody noted why").decode(errors="replace"), 200) or os.path.basename(path)
