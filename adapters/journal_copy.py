"""The files of a journal as one, for somebody far away: it still replays, with or without the real names."""

from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from msgspec import Struct, structs

from adapters.errors import bounded
from adapters.pseudonyms import Kind, Pseudonyms
from statemachine.errors import JournalUnreadable
from statemachine.events import RulesChanged
from statemachine.journal import START, Header, Reading, Record, encode_line, head_lines, read
from statemachine.replay import RULES, fold, replay_files
from statemachine.snapshot import Snapshot

KINDS: dict[str, Kind] = {
    "assigned_hub": "host",
    "bundle_id": "bundle",
    "bundle_sha256": "digest",
    "common_name": "device",
    "device": "device",
    "device_id": "device",
    "endpoint": "url",
    "fingerprint": "digest",
    "hub": "host",
    "machine": "digest",
    "operation_id": "operation",
    "registration_id": "device",
    "scope_id": "scope",
    "serial": "digest",
    "sha256": "digest",
    "spki_sha256": "digest",
    "subject_cn": "device",
    "tracking_id": "tracking",
    "trust_bundle_id": "bundle",
    "Bundle.id": "bundle",
}
"Fields that hold names, by field, or by struct and field."

TEXTS = frozenset(
    {
        "bundle_problem",
        "configuration_notes",
        "degraded",
        "message",
        "module_keys_lost",
        "problem",
        "reason",
        "why",
    }
)
"Fields that hold words, in which names may stand."

KEPT = frozenset(
    {
        "algorithm",
        "answers",
        "api_version",
        "certificate_type",
        "code",
        "continues",
        "id",
        "key_algorithm",
        "phase",
        "software_version",
        "state",
        "substatus",
    }
)
"Fields that hold words of ours or of the protocol. What is on no list is taken for a name."


T = TypeVar("T")


class Copied(Struct, frozen=True, kw_only=True):
    """A journal as one file."""

    content: bytes
    records: int
    first_sequence: int
    notes: tuple[str, ...] = ()
    "What was left out, and why."


def copy_journal(named: Sequence[tuple[str, bytes]], pseudonyms: Pseudonyms | None = None) -> Copied:
    """Files, oldest first, as one: from the latest place on where the history begins anew.

    Raises JournalUnreadable where one cannot be read, and when the copy does not replay as its original does.
    """
    notes: list[str] = []
    parts: list[tuple[str, Reading]] = []
    for name, content in named:
        reading = read(content)
        if reading.header is None or reading.snapshot is None or (reading.problem and not reading.torn):
            raise JournalUnreadable(f"{name}: {reading.problem}")
        if reading.torn:
            notes.append(f"{name}: its last line is cut off, and left out")
        if parts and not _continues(parts[-1][1], reading):
            left_out = sum(len(part.records) for _, part in parts)
            notes.append(f"{left_out} records before {name} are left out: the history begins anew there")
            parts.clear()
        parts.append((name, reading))
    if not parts:
        raise JournalUnreadable("there is no journal file")
    header, snapshot, records = _joined([reading for _, reading in parts])
    if pseudonyms is not None:
        header, snapshot, records = _pseudonymised(header, snapshot, records, pseudonyms)
    (first, second), digest = head_lines(header, snapshot)
    lines = [first, second]
    for record in records:
        line, digest = encode_line(record, digest)
        lines.append(line)
    copied = Copied(
        content=b"".join(lines),
        records=len(records),
        first_sequence=header.first_sequence,
        notes=tuple(bounded(note) for note in notes),
    )
    _compare(parts, copied)
    return copied


def pseudonymise(value: T, pseudonyms: Pseudonyms, *, texts: bool = True) -> T:
    """A line of a journal, or a part of one, with other names in it. ``texts``: also in words."""
    if not isinstance(value, Struct):
        return value
    changed = {}
    for field in structs.fields(value):
        if field.name in _word_lists(type(value)):
            continue
        before = getattr(value, field.name)
        after = _field(type(value).__name__, field.name, before, pseudonyms, texts)
        if after is not before:
            changed[field.name] = after
    return cast("T", structs.replace(value, **changed)) if changed else value


@lru_cache
def _word_lists(struct: type[Struct]) -> frozenset[str]:
    """Fields that hold one of a closed list of words, which no name can be."""
    hints = get_type_hints(struct)
    return frozenset(name for name, hint in hints.items() if _is_word_list(hint))


def _is_word_list(hint: object) -> bool:
    return get_origin(hint) is Literal or any(get_origin(one) is Literal for one in get_args(hint))


def _field(struct: str, name: str, value: object, pseudonyms: Pseudonyms, texts: bool) -> object:
    match value:
        case tuple():
            return tuple(_field(struct, name, one, pseudonyms, texts) for one in value)
        case bytes():  # certificates: nothing else of bytes enters a journal
            return pseudonyms.pem(value)
        case str() if not isinstance(value, Enum):
            kind = KINDS.get(f"{struct}.{name}") or KINDS.get(name)
            if kind is not None:
                return pseudonyms.of(kind, value)
            if name in TEXTS:
                return pseudonyms.text(value) if texts else value
            return value if name in KEPT else pseudonyms.of("name", value)
    return pseudonymise(value, pseudonyms, texts=texts)


def _continues(before: Reading, after: Reading) -> bool:
    """Whether one file can go on where the other ends, without its own head."""
    assert before.header is not None, "it was read"
    assert before.snapshot is not None, "it was read"
    assert after.header is not None, "it was read"
    if before.torn or after.header.continues != before.last_hash:
        return False
    revision = before.header.rules_revision
    for record in before.records:
        revision = record.event.after if isinstance(record.event, RulesChanged) else revision
    first = after.records[0].event if after.records else None
    if revision != after.header.rules_revision and not isinstance(first, RulesChanged):
        return False
    if before.header.rules_revision not in RULES:
        return False
    snapshot, _, divergence = fold(before.snapshot, before.records, before.header.rules_revision)
    return divergence is None and snapshot == after.snapshot


def _joined(parts: Sequence[Reading]) -> tuple[Header, Snapshot, list[Record]]:
    header, snapshot = parts[0].header, parts[0].snapshot
    assert header is not None, "it was read"
    assert snapshot is not None, "it was read"
    return header, snapshot, [record for part in parts for record in part.records]


def _pseudonymised(
    header: Header, snapshot: Snapshot, records: list[Record], pseudonyms: Pseudonyms
) -> tuple[Header, Snapshot, list[Record]]:
    # Every name is known before the first word is looked at: an early text may tell of a later name.
    for line in (header, snapshot, *records):
        pseudonymise(line, pseudonyms, texts=False)
    return (
        structs.replace(pseudonymise(header, pseudonyms), continues=START),
        pseudonymise(snapshot, pseudonyms),
        [pseudonymise(record, pseudonyms) for record in records],
    )


def _compare(parts: Sequence[tuple[str, Reading]], copied: Copied) -> None:
    """A copy that tells another story is worse than none."""
    header, snapshot, records = _joined([reading for _, reading in parts])
    known = header.rules_revision in RULES
    _, count, divergence = fold(snapshot, records, header.rules_revision) if known else (snapshot, 0, "")
    found = replay_files([("the copy", copied.content)])
    if found.unreadable is not None or (found.equal, found.records) != (divergence is None, count):
        raise JournalUnreadable(
            "the copy does not replay as the journal does: "
            + bounded(found.unreadable or found.divergence or "it replays, the journal does not")
        )


def pseudonymise_json(value: object, pseudonyms: Pseudonyms) -> object:
    """Plain data with every text in it looked through; keys stay."""
    match value:
        case str():
            return pseudonyms.text(value)
        case list() | tuple():
            return [pseudonymise_json(one, pseudonyms) for one in value]
        case dict():
            return {key: pseudonymise_json(one, pseudonyms) for key, one in value.items()}
    return value


def learn(value: object, pseudonyms: Pseudonyms) -> None:
    """Note the names in plain data that has fields of the journal's names, such as a status."""
    match value:
        case dict():
            for key, one in value.items():
                kind = KINDS.get(key)
                if kind is not None and isinstance(one, str) and one:
                    pseudonyms.of(kind, one)
                else:
                    learn(one, pseudonyms)
        case list() | tuple():
            for one in value:
                learn(one, pseudonyms)
