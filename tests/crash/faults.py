"""A disk that says no: every call that changes something fails once, in every chapter of the life.

A chapter begins on the disk that the recorded life had left there. One call is answered with ENOSPC or EIO
instead; of a write that a full disk refuses, half is there. Or the disk is full from one call on for ten
minutes. The service goes on, the chapter ends as ever, what was promised is there throughout; and then the
power goes: the disk with everything on it, and the one with nothing that was not synced, are judged.

A sync that failed is not believed later: what it should have brought to the disk is lost with the power.
"""

import errno
from typing import Literal, TypeAlias

from msgspec import Struct

from tests.crash.image import put
from tests.crash.judge import Wrong, empty_directory, first_of, judge
from tests.crash.models import prefixes
from tests.crash.recording import Fault
from tests.crash.sequence import CHAPTERS, Life, Opening, Recording

FULL_MS = 600_000

Kind: TypeAlias = Literal["ENOSPC", "EIO", "full"]
KINDS: tuple[Kind, ...] = ("ENOSPC", "EIO", "full")


class Injection(Struct, frozen=True, kw_only=True):
    kind: Kind
    chapter: int
    call: int
    "Number within the chapter, from 1."


def injections(life: Life) -> list[Injection]:
    """Every kind at every call. What ``full`` begins with is a call that takes space or any other."""
    found = []
    ends = [*(one.calls for one in life.opening[1:]), life.recorder.calls]
    for chapter, (opening, end) in enumerate(zip(life.opening, ends, strict=True)):
        for call in range(1, end - opening.calls + 1):
            found += [Injection(kind=kind, chapter=chapter, call=call) for kind in KINDS]
    return found


def suffer(opening: Opening, injection: Injection) -> bool:
    """Whether the fault was met. Raises Wrong."""
    error = errno.EIO if injection.kind == "EIO" else errno.ENOSPC
    lasts_ms = FULL_MS if injection.kind == "full" else 0
    fault = Fault(at=injection.call, error=error, lasts_ms=lasts_ms)
    with empty_directory() as root:
        put(opening.image, root)
        recording = Recording(root, opening.moment, image=opening.image, fault=fault)
        try:
            recording.live()
        except BaseExceptionGroup as group:
            raise Wrong(f"{_told(fault)}: {first_of(group)}") from group
        except Exception as exc:
            raise Wrong(f"{_told(fault)}: {type(exc).__name__}: {exc}") from exc
        if unrecorded := recording.recorder.unrecorded():
            raise Wrong(f"not recorded: {unrecorded}")
        life = Life(recorder=recording.recorder, opening=(opening,), end=recording.moment)
    synced = prefixes(life)[-1].durable
    for name, image in (("killed", recording.recorder.image), ("power cut", synced)):
        try:
            judge(image, recording.moment, tidy=True)
        except Wrong as exc:
            raise Wrong(f"{_told(fault)}, then {name}: {exc}") from exc
    return bool(fault.hit)


def _told(fault: Fault) -> str:
    return f"{errno.errorcode[fault.error]} at {fault.hit[0] if fault.hit else 'nothing'}"


def told(injection: Injection) -> str:
    return f"{injection.kind} at call {injection.call} of chapter '{CHAPTERS[injection.chapter].name}'"
