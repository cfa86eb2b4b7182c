"""Journal files become what a timeline shows: the history, and each record as an entry.

A file that is damaged is read as far as it can be believed; what is wrong is told, and the rest goes on.
"""

import os
import re
import sys
from collections import deque
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from adapters.cli.failure import USAGE, CommandFailed
from adapters.cli.happenings import Happening, Timeline
from adapters.cli.history import Historian, Section, leaps
from adapters.errors import bounded
from statemachine.explain import tell
from statemachine.journal import Reading, Record, read

MAX_FILE_BYTES = 64 * 1024 * 1024
"No journal file is as large; the service closes them far earlier."
MAX_ENTRIES = 20_000
"The newest are kept; the history is of all."
MAX_DETAIL_CHARS = 3_000

_PEM = re.compile(r'"(\w*_pem)":"([^"]*)"')


class Entry(Struct, frozen=True, kw_only=True):
    """One record."""

    sequence: int
    at_unix_ms: int
    state: str
    phase: str
    what: str
    why: str
    notable: bool
    "A person gains something from it."
    failed: bool = False
    entered: bool = False
    "The state is another one than before."
    section: int = 0
    "Index of the section that its stamp belongs to."
    detail: str = ""
    "Event and effects as the journal has them, certificates left out; empty when not asked for."


class Chronicle(Struct, frozen=True, kw_only=True):
    """A whole journal."""

    device: str
    hub: str
    records: int
    starts: int
    first_sequence: int
    last_sequence: int
    sections: tuple[Section, ...]
    entries: tuple[Entry, ...]
    "The newest, oldest first."
    left_out: int
    "Entries before those."
    notes: tuple[str, ...]
    "What could not be read, and what is not kept."


def chronicle(paths: Iterable[str], start: int = 0, *, details: int = 0) -> Chronicle:
    """Of these files, oldest first; records before ``start`` are in the history but are no entries.

    So many of the newest entries have their details.

    Raises CommandFailed when a file cannot be opened, is no journal, or none has a record.
    """
    historian, timeline = Historian(), Timeline()
    kept: deque[tuple[Record, Happening | None, int]] = deque(maxlen=MAX_ENTRIES)
    notes: list[str] = []
    first = told = 0
    for path in paths:
        reading = _reading(path)
        if reading.header is None or reading.snapshot is None:
            raise CommandFailed(f"{path} is no journal: {bounded(reading.problem or 'it is empty')}", USAGE)
        if reading.problem is not None:
            what = "its last line is cut off" if reading.torn else f"{reading.problem}; the rest is not shown"
            notes.append(f"{os.path.basename(path)}: {bounded(what)}")
        last = historian.last_sequence
        if first and reading.header.first_sequence <= last:
            raise CommandFailed(f"{path} begins before the file before it ends: give them in order", USAGE)
        if first and reading.header.first_sequence > last + 1:
            notes.append(f"records {last + 1} to {reading.header.first_sequence - 1} are missing")
        first = first or reading.header.first_sequence
        historian.begin(reading.snapshot)
        moved = leaps(reading.records)
        for record in reading.records:
            historian.take(record, moved.get(record.sequence, 0))
            happening = timeline.take(record)
            if record.sequence >= start:
                told += 1
                kept.append((record, happening, len(historian.sections) - 1))
    if not historian.sections:
        raise CommandFailed("there is no record in it yet", USAGE)
    return Chronicle(
        device=bounded(historian.device, 200),
        hub=bounded(historian.hub, 300),
        records=historian.records,
        starts=historian.starts,
        first_sequence=first,
        last_sequence=historian.last_sequence,
        sections=tuple(historian.sections),
        entries=tuple(_entry(*one, detailed=len(kept) - place <= details) for place, one in enumerate(kept)),
        left_out=told - len(kept),
        notes=tuple(notes),
    )


def _entry(record: Record, happening: Happening | None, section: int, *, detailed: bool) -> Entry:
    if happening is not None:
        what = happening.what
    else:
        # Only what follows the position: the rest is said beside it.
        what = bounded(tell(record).partition(record.state)[2].partition(" ")[2].strip())
    return Entry(
        sequence=record.sequence,
        at_unix_ms=record.now_unix_ms,
        state=bounded(record.state, 40),
        phase=bounded(record.phase, 40),
        what=what or "nothing",
        why=bounded(record.why),
        notable=happening is not None,
        failed=happening is not None and happening.failed,
        entered=happening is not None and happening.entered,
        section=section,
        detail=_detail(record) if detailed else "",
    )


def _detail(record: Record) -> str:
    shown = {"event": record.event, "effects": record.effects, "verdict": record.verdict}
    text = msgspec.json.encode(shown).decode()
    text = _PEM.sub(lambda found: f'"{found[1]}":"({len(found[2])} characters)"', text)
    return bounded(text, MAX_DETAIL_CHARS)


def _reading(path: str) -> Reading:
    try:
        if path == "-":
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise CommandFailed(f"cannot read {path}: {exc.strerror}", USAGE) from exc
    if len(content) > MAX_FILE_BYTES:
        raise CommandFailed(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB: no journal file is", USAGE)
    return read(content)
