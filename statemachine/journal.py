"""Journal lines as bytes: one JSON object a line, readable with ``less``, chained by hashes.

A file begins with a header and a checkpoint; records follow. Every line ends with a member ``hash``:
hex SHA-256 over the previous line's hash and this line without that member. The chain is over the
stored bytes, which are never re-encoded. It detects corruption, not tampering by somebody who can
write the file.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from statemachine.effects import AnyEffect
from statemachine.errors import JournalUnreadable
from statemachine.events import AnyEvent
from statemachine.snapshot import Snapshot

if TYPE_CHECKING:
    from statemachine.machine import Decision

FORMAT = 1
MAX_LINE_BYTES = 8 * 1024 * 1024
"A checkpoint holds a candidate's chain and bundle at most; no honest line comes near this."

START = "0" * 64
"What stands in for a previous hash at the head of a file."

_HASH_MEMBER = b',"hash":"'
_TAIL_BYTES = len(_HASH_MEMBER) + 64 + len(b'"}\n')


class Header(Struct, frozen=True, kw_only=True, tag_field="type", tag="header", forbid_unknown_fields=True):
    """First line of every file."""

    format: int = FORMAT
    rules_revision: int
    software_version: str
    machine: str
    "Hash of the machine id: a copied image is noticed, the id itself is nobody's business."
    device: str
    "Registration id at the time."
    epoch: int
    first_sequence: int
    "Sequence of the first record that follows."
    created_unix_ms: int
    continues: str = START
    "Hash of the last line of the file before."


class Checkpoint(
    Struct, frozen=True, kw_only=True, tag_field="type", tag="checkpoint", forbid_unknown_fields=True
):
    """Second line of every file: everything before it, folded."""

    snapshot: Snapshot


class Record(Struct, frozen=True, kw_only=True, tag_field="type", tag="record", forbid_unknown_fields=True):
    """One event and what it came to."""

    sequence: int
    now_unix_ms: int
    event: AnyEvent
    effects: tuple[AnyEffect, ...] = ()
    state: str
    phase: str
    verdict: Literal["taken", "ignored", "refused"]
    why: str


AnyLine = Header | Checkpoint | Record


def record_of(now: int, event: AnyEvent, decision: "Decision") -> Record:
    """What a decision comes to in the journal. ``now`` is the stamp, Unix milliseconds UTC."""
    return Record(
        sequence=decision.snapshot.sequence,
        now_unix_ms=now,
        event=event,
        effects=decision.effects,
        state=decision.snapshot.state.value,
        phase=decision.snapshot.phase.value,
        verdict=decision.verdict,
        why=decision.why,
    )


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(AnyLine)


def encode_line(line: AnyLine, previous_hash: str) -> tuple[bytes, str]:
    """The stored bytes, newline included, and the line's hash for the next one."""
    body = _encoder.encode(line)
    digest = _digest(previous_hash, body)
    return b"".join((body[:-1], _HASH_MEMBER, digest.encode(), b'"}\n')), digest


def decode_line(line: bytes) -> AnyLine:
    """The typed value; the hash is checked by ``Chain``. Raises JournalUnreadable."""
    return _decode(_split(line)[0])


def _split(line: bytes) -> tuple[bytes, str]:
    """Body and hash of a stored line."""
    if len(line) > MAX_LINE_BYTES:
        raise JournalUnreadable(f"longer than {MAX_LINE_BYTES} bytes")
    if not line.endswith(b"\n"):
        raise JournalUnreadable("cut off before its end")
    tail = line[-_TAIL_BYTES:]
    if len(line) <= _TAIL_BYTES or not tail.startswith(_HASH_MEMBER) or not tail.endswith(b'"}\n'):
        raise JournalUnreadable("does not end with a hash")
    return line[:-_TAIL_BYTES] + b"}", tail[len(_HASH_MEMBER) : -3].decode("ascii", "replace")


def _decode(body: bytes) -> AnyLine:
    try:
        value: AnyLine = _decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise JournalUnreadable(f"not a line this release knows: {str(exc)[:200]}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise JournalUnreadable("not valid JSON") from exc
    return value


def _digest(previous_hash: str, body: bytes) -> str:
    return hashlib.sha256(previous_hash.encode() + body).hexdigest()


class Chain:
    """Follows one file's hashes."""

    def __init__(self) -> None:
        self.last = START
        self.whole = True
        "The line that was looked at last is as it was written, understood or not."

    def take(self, line: bytes) -> AnyLine:
        """Check and decode the next line. Raises JournalUnreadable."""
        self.whole = False
        body, found = _split(line)
        expected = _digest(self.last, body)
        if found != expected:
            raise JournalUnreadable("its hash does not follow from the line before")
        self.whole = True
        value = _decode(body)
        self.last = expected
        return value


class Reading(Struct, frozen=True, kw_only=True):
    """One journal file, as far as it can be believed."""

    header: Header | None
    snapshot: Snapshot | None
    "From the checkpoint."
    records: tuple[Record, ...]
    last_hash: str
    good_bytes: int
    "Length of the prefix that can be believed."
    problem: str | None = None
    "The first line that cannot, by number, and why."
    torn: bool = False
    """The problem is the very last line, and its hash is wrong: a write that a crash cut short. A last line
    that is whole and not understood was written by another release, and may have been acted upon."""


def read(content: bytes) -> Reading:
    """Read a whole file. Never raises: what is wrong is in the result."""
    chain = Chain()
    header: Header | None = None
    snapshot: Snapshot | None = None
    records: list[Record] = []
    good = 0
    problem: str | None = None
    lines = list(_lines(content))
    for number, line in enumerate(lines, start=1):
        try:
            before = chain.last
            value = chain.take(line)
            try:
                header, snapshot = _place(value, number, header, snapshot, records)
            except JournalUnreadable:
                chain.last = before
                raise
        except JournalUnreadable as exc:
            problem = f"line {number}: {exc}"
            break
        good += len(line)
    last = snapshot is not None and len(records) + 2 == len(lines) - 1
    torn = problem is not None and last and not chain.whole
    if problem is None and snapshot is None:
        problem = "it ends before its checkpoint"
    return Reading(
        header=header,
        snapshot=snapshot,
        records=tuple(records),
        last_hash=chain.last,
        good_bytes=good,
        problem=problem,
        torn=torn,
    )


def _place(
    value: AnyLine,
    number: int,
    header: Header | None,
    snapshot: Snapshot | None,
    records: list[Record],
) -> tuple[Header | None, Snapshot | None]:
    """Header, checkpoint, then records in sequence. Raises JournalUnreadable."""
    if number == 1:
        if not isinstance(value, Header):
            raise JournalUnreadable("a journal begins with its header")
        if value.format != FORMAT:
            raise JournalUnreadable(f"format {value.format} is from a newer release; this one knows {FORMAT}")
        return value, snapshot
    if number == 2:
        if not isinstance(value, Checkpoint) or header is None:
            raise JournalUnreadable("the second line is the checkpoint")
        if value.snapshot.sequence + 1 != header.first_sequence or value.snapshot.epoch != header.epoch:
            raise JournalUnreadable("the checkpoint is of another place than the header says")
        return header, value.snapshot
    if not isinstance(value, Record) or snapshot is None:
        raise JournalUnreadable("only records follow the checkpoint")
    if value.sequence != snapshot.sequence + 1 + len(records):
        raise JournalUnreadable(f"sequence {value.sequence} is out of order")
    records.append(value)
    return header, snapshot


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end + 1
        yield content[start:end]
        start = end


def head_lines(header: Header, snapshot: Snapshot) -> tuple[tuple[bytes, bytes], str]:
    """The two lines a file begins with, and the hash to go on from."""
    first, digest = encode_line(header, START)
    second, digest = encode_line(Checkpoint(snapshot=snapshot), digest)
    return (first, second), digest


_RECORD_HEAD = b'{"type":"record","sequence":'


def sequence_of(line: bytes) -> int | None:
    """The sequence of a stored record line without decoding the rest; None for anything else."""
    if not line.startswith(_RECORD_HEAD):
        return None
    digits = line[len(_RECORD_HEAD) : len(_RECORD_HEAD) + 20].partition(b",")[0]
    return int(digits) if digits.isdigit() else None
