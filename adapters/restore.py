"""From journal files to a snapshot to go on from. Refusing to start is losing the device.

A torn tail is cut. A file that is damaged elsewhere, of a newer release, or that does not replay is
set aside untouched, and a new epoch begins from what the stores hold. Every workaround is told.
"""

from collections.abc import Sequence

from msgspec import Struct, structs

from adapters.driven.journal_file import ACTIVE, JournalFile, Segment
from adapters.errors import StoreUnavailable
from statemachine.journal import Header, Reading, head_lines, read
from statemachine.replay import restore
from statemachine.snapshot import Snapshot

GAP = 1_000_000
"A new epoch's records are numbered from beyond whatever the lost ones can have reached."

RELIED_ON = 2
"Files: the active one, and the one before, which tells how far the numbers had come."


class Restored(Struct, frozen=True, kw_only=True):
    """Where the history stands; the journal is ready for appending."""

    snapshot: Snapshot
    last_hash: str
    rules_revision: int
    "The one in force when the journal was last written."
    notes: tuple[str, ...] = ()
    "What had to be worked around."
    foreign_machine: bool = False


def restore_history(
    journal: JournalFile, header: Header, *, refuse_damage: bool = False, stores_hold_something: bool = False
) -> Restored:
    """``header`` is what this release would write. Raises StoreUnavailable."""
    segments = journal.read_newest(RELIED_ON)
    active = segments[-1] if segments and segments[-1].path.endswith(f"/{ACTIVE}") else None
    if active is None:
        missing = bool(segments) or stores_hold_something
        notes = ("journal: missing; the state was rebuilt from the stores",) if missing else ()
        if missing and refuse_damage:
            raise _refused(f"{journal.active_path} is missing")
        return _begin(journal, header, segments, None, notes)
    reading = read(active.content) if active.problem is None else None
    notes = ()
    if reading is not None and reading.problem is not None and reading.torn:
        journal.cut(active.path, reading.good_bytes)
        lost = len(active.content) - reading.good_bytes
        notes = (f"journal: a torn end of {lost} bytes was cut ({reading.problem})",)
    elif reading is None or reading.problem is not None:
        problem = active.problem if reading is None else reading.problem
        return _set_aside(journal, header, segments, reading, str(problem), refuse_damage=refuse_damage)
    snapshot, problem = _folded(reading)
    if snapshot is None or reading.header is None:
        return _set_aside(journal, header, segments, reading, problem, refuse_damage=refuse_damage)
    journal.resume()
    foreign = bool(header.machine and reading.header.machine and header.machine != reading.header.machine)
    return Restored(
        snapshot=snapshot,
        last_hash=reading.last_hash,
        rules_revision=reading.header.rules_revision,
        notes=notes,
        foreign_machine=foreign,
    )


def _folded(reading: Reading) -> tuple[Snapshot | None, str]:
    """Where the file ends; None, and why, when the rules of this release do not lead there."""
    problem = "it does not replay under the rules of this release"
    try:
        return restore(reading), problem
    except Exception as exc:
        # Whole, but from where this machine never was: rules may trust what a snapshot of theirs implies.
        return None, f"{problem} ({type(exc).__name__})"


def _set_aside(
    journal: JournalFile,
    header: Header,
    segments: Sequence[Segment],
    reading: Reading | None,
    problem: str,
    *,
    refuse_damage: bool,
) -> Restored:
    path = segments[-1].path
    if refuse_damage:
        raise _refused(f"{path}: {problem}")
    aside = journal.set_aside(path, problem)
    note = f"journal: {problem}; set aside as {aside}, the state was rebuilt from the stores"
    losses = int(aside.rpartition("-")[2])
    return _begin(journal, header, segments[:-1], reading, (note,), losses)


def _refused(problem: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{problem}; [identityd.journal] when_damaged says to refuse; move the file away to go on",
        code="journal-damaged",
        failure_class="operator",
    )


def _begin(
    journal: JournalFile,
    header: Header,
    closed: Sequence[Segment],
    damaged: Reading | None,
    notes: tuple[str, ...],
    losses: int = 0,
) -> Restored:
    """A new epoch. Its numbers lie beyond everything that was ever used.

    ``losses`` counts the files set aside: where they cannot say what they used, it bounds it.
    """
    epoch, sequence = 2 * losses, max(losses - 1, 0) * GAP
    readings = [read(segment.content) for segment in closed[-1:]]
    for reading in (*readings, *(() if damaged is None else (damaged,))):
        if reading.header is not None:
            epoch = max(epoch, reading.header.epoch)
            sequence = max(sequence, reading.header.first_sequence + len(reading.records))
    if notes:
        # What was lost may have been ahead of anything that can still be read.
        epoch, sequence = epoch + 1, (sequence // GAP + 1) * GAP
    snapshot = Snapshot(epoch=epoch + 1, sequence=sequence)
    head, digest = head_lines(
        structs.replace(header, epoch=snapshot.epoch, first_sequence=snapshot.sequence + 1), snapshot
    )
    journal.begin(head)
    return Restored(snapshot=snapshot, last_hash=digest, rules_revision=header.rules_revision, notes=notes)
