"""From journal files to a snapshot to go on from, whatever state the files are in."""

import os

import pytest
from msgspec import structs

from adapters.driven.journal_file import ACTIVE, JournalFile, open_journal
from adapters.errors import StoreUnavailable
from adapters.restore import GAP, restore_history
from statemachine.journal import (
    FORMAT,
    Checkpoint,
    Header,
    Record,
    encode_line,
    head_lines,
    read,
    sequence_of,
)
from statemachine.machine import RULES_REVISION
from statemachine.replay import replay_files
from statemachine.snapshot import Snapshot
from statemachine.states import Phase, State
from tests.adapters.disk import believed_syncs  # noqa: F401 - a fixture
from tests.core.world import provisioned

pytestmark = pytest.mark.usefixtures("believed_syncs")

HEADER = Header(
    rules_revision=RULES_REVISION,
    software_version="0.1.0",
    machine="this",
    device="device-1",
    epoch=1,
    first_sequence=1,
    created_unix_ms=0,
)
WORLD = provisioned()
RECORDS = [
    Record(
        sequence=decision.snapshot.sequence,
        now_unix_ms=now,
        event=event,
        effects=decision.effects,
        state=decision.snapshot.state.value,
        phase=decision.snapshot.phase.value,
        verdict=decision.verdict,
        why=decision.why,
    )
    for now, event, decision in WORLD.history
]


def lines_of(records=RECORDS, *, header=HEADER, snapshot=None):
    """A whole file's lines."""
    head, digest = head_lines(header, snapshot or Snapshot())
    lines = list(head)
    for record in records:
        line, digest = encode_line(record, digest)
        lines.append(line)
    return lines


def put(directory, content, name=ACTIVE):
    path = directory / name
    path.write_bytes(b"".join(content) if isinstance(content, list) else content)
    return path


def restored(directory, *, header=HEADER, **options):
    """What comes of the directory, and its journal, ready for appending."""
    journal = open_journal(str(directory), sequence_of)
    return restore_history(journal, header, **options), journal


def goes_on(result, journal, sequence):
    """The next record can be appended, and the active file then replays."""
    world = type(WORLD)(snapshot=result.snapshot, now=WORLD.now)
    decision = world.take(RECORDS[0].event)
    assert decision.snapshot.sequence == sequence
    record = structs.replace(
        RECORDS[0],
        sequence=sequence,
        now_unix_ms=world.now,
        effects=decision.effects,
        state=decision.snapshot.state.value,
        phase=decision.snapshot.phase.value,
        verdict=decision.verdict,
    )
    journal.append_now(encode_line(record, result.last_hash)[0])
    journal.close()
    reading = read(journal.read(journal.active_path))
    assert reading.problem is None
    assert reading.records[-1].sequence == sequence
    assert replay_files([("active", journal.read(journal.active_path))]).equal


def set_aside(directory):
    return sorted(one.name for one in directory.iterdir() if "damaged" in one.name)


# --- the ordinary ways -------------------------------------------------------------------------------


def test_a_fresh_device_begins_without_a_word(tmp_path):
    result, journal = restored(tmp_path)
    assert result.snapshot == Snapshot(epoch=1, sequence=0)
    assert result.notes == ()
    assert result.rules_revision == RULES_REVISION
    assert not result.foreign_machine
    goes_on(result, journal, 1)


def test_a_whole_journal_is_gone_on_from(tmp_path):
    path = put(tmp_path, lines_of())
    content = path.read_bytes()
    result, journal = restored(tmp_path)
    assert result.snapshot == WORLD.snapshot
    assert result.last_hash == read(content).last_hash
    assert result.notes == ()
    assert path.read_bytes() == content
    goes_on(result, journal, len(RECORDS) + 1)


def test_only_the_active_file_is_folded(tmp_path):
    half = len(RECORDS) // 2
    snapshot = WORLD.history[half - 1][2].snapshot
    before = lines_of(RECORDS[:half])
    put(tmp_path, before, "journal-000000000001.jsonl")
    header = structs.replace(HEADER, first_sequence=half + 1, continues=read(b"".join(before)).last_hash)
    put(tmp_path, lines_of(RECORDS[half:], header=header, snapshot=snapshot))
    result, journal = restored(tmp_path)
    assert result.snapshot == WORLD.snapshot
    goes_on(result, journal, len(RECORDS) + 1)


def test_a_checkpoint_without_records_is_enough(tmp_path):
    header = structs.replace(HEADER, first_sequence=WORLD.snapshot.sequence + 1)
    put(tmp_path, lines_of([], header=header, snapshot=WORLD.snapshot))
    result, journal = restored(tmp_path)
    assert result.snapshot == WORLD.snapshot
    goes_on(result, journal, WORLD.snapshot.sequence + 1)


# --- a torn end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 40, -1])
@pytest.mark.parametrize("refuse_damage", [False, True])
def test_a_torn_end_is_cut_and_told(tmp_path, kept, refuse_damage):
    lines = lines_of()
    whole = b"".join(lines[:-1])
    path = put(tmp_path, whole + lines[-1][:kept])
    result, journal = restored(tmp_path, refuse_damage=refuse_damage)
    assert result.snapshot == WORLD.history[-2][2].snapshot
    assert path.read_bytes() == whole
    lost = len(lines[-1][:kept])
    assert len(result.notes) == 1
    assert result.notes[0].startswith(f"journal: a torn end of {lost} bytes was cut (line {len(lines)}:")
    assert not set_aside(tmp_path)
    goes_on(result, journal, len(RECORDS))


# --- damage ------------------------------------------------------------------------------------------


def _garbled(number):
    lines = lines_of()
    lines[number] = lines[number].replace(b'"', b"'", 1)
    return lines


def _changed():
    lines = lines_of()
    lines[4] = lines[4].replace(b"Registering", b"Provisioned", 1)
    return lines


def _diverging():
    """Whole, but not what this release's rules come to."""
    return lines_of([*RECORDS[:3], structs.replace(RECORDS[3], effects=()), *RECORDS[4:]])


def _without_a_line():
    lines = lines_of()
    del lines[5]
    return lines


def _impossible_checkpoint():
    """Whole, but a position in which no release of this machine can be: the rules cannot run on it."""
    snapshot = Snapshot(sequence=8, state=State.REGISTERING, phase=Phase.STAGING)
    return lines_of(
        [structs.replace(RECORDS[1], sequence=9)],
        header=structs.replace(HEADER, first_sequence=9),
        snapshot=structs.replace(snapshot, outstanding=RECORDS_OUTSTANDING),
    )


RECORDS_OUTSTANDING = WORLD.history[0][2].snapshot.outstanding

DAMAGED = {
    "empty": b"",
    "zeros": bytes(4096),
    "garbage": b"\xff\xfe" * 500 + b"\n",
    "only a header": lines_of()[0],
    "torn checkpoint": b"".join(lines_of()[:2])[:-5],
    "no header": b"".join(lines_of()[1:]),
    "garbled header": _garbled(0),
    "garbled checkpoint": _garbled(1),
    "garbled record": _garbled(5),
    "changed record": _changed(),
    "missing record": _without_a_line(),
    "diverging": _diverging(),
    "impossible": _impossible_checkpoint(),
    "newer format": lines_of(header=structs.replace(HEADER, format=FORMAT + 1)),
    "newer rules": lines_of(header=structs.replace(HEADER, rules_revision=RULES_REVISION + 1)),
    "newer line": lines_of()[0]
    + encode_line(Checkpoint(snapshot=Snapshot()), "0" * 64)[0].replace(b"epoch", b"epic"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_journal_is_set_aside_untouched_and_a_new_epoch_begins(tmp_path, content):
    path = put(tmp_path, content)
    before = path.read_bytes()
    result, journal = restored(tmp_path)
    assert (tmp_path / f"{ACTIVE}.damaged-1").read_bytes() == before
    assert set_aside(tmp_path) == [f"{ACTIVE}.damaged-1", f"{ACTIVE}.damaged-1.reason"]
    assert len(result.notes) == 1
    assert f"set aside as {path}.damaged-1, the state was rebuilt from the stores" in result.notes[0]
    assert (tmp_path / f"{ACTIVE}.damaged-1.reason").read_text().strip() in result.notes[0]
    snapshot = result.snapshot
    assert snapshot == Snapshot(epoch=snapshot.epoch, sequence=snapshot.sequence)
    assert snapshot.epoch > 1
    assert snapshot.sequence >= GAP
    assert result.rules_revision == RULES_REVISION
    goes_on(result, journal, snapshot.sequence + 1)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_refused_where_that_was_asked_for(tmp_path, content):
    path = put(tmp_path, content)
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="when_damaged says to refuse; move the file away") as caught:
        restored(tmp_path, refuse_damage=True)
    assert (caught.value.code, caught.value.failure_class) == ("journal-damaged", "operator")
    assert str(path) in caught.value.message
    assert path.read_bytes() == before
    assert not set_aside(tmp_path)


def test_a_file_that_cannot_be_read_is_set_aside_too(tmp_path):
    target = tmp_path / "elsewhere"
    target.write_bytes(b"".join(lines_of()))
    os.symlink(target, tmp_path / ACTIVE)
    result, journal = restored(tmp_path)
    assert "set aside" in result.notes[0]
    assert (tmp_path / f"{ACTIVE}.damaged-1").is_symlink()
    assert target.read_bytes() == b"".join(lines_of())
    goes_on(result, journal, result.snapshot.sequence + 1)


def test_numbers_lie_beyond_everything_that_was_used(tmp_path):
    header = structs.replace(HEADER, epoch=7, first_sequence=3 * GAP + 1)
    snapshot = Snapshot(epoch=7, sequence=3 * GAP)
    put(tmp_path, [*lines_of([], header=header, snapshot=snapshot), b"garbage\n", b"garbage\n"])
    result, _ = restored(tmp_path)
    assert result.snapshot.epoch > 7
    assert result.snapshot.sequence == 4 * GAP


@pytest.mark.parametrize("content", [b"garbage\n", DAMAGED["garbled record"]], ids=["header", "record"])
def test_every_loss_begins_another_epoch(tmp_path, content):
    used = set()
    for _ in range(4):
        put(tmp_path, content)
        result, journal = restored(tmp_path)
        journal.close()
        assert result.snapshot.epoch not in used
        assert result.snapshot.sequence % GAP == 0
        used.add(result.snapshot.epoch)
    assert len(set_aside(tmp_path)) == 8


def test_closed_files_say_what_was_used_when_the_active_one_cannot(tmp_path):
    header = structs.replace(HEADER, epoch=4, first_sequence=2 * GAP + 1)
    put(
        tmp_path,
        lines_of([], header=header, snapshot=Snapshot(epoch=4, sequence=2 * GAP)),
        f"journal-{2 * GAP + 1:012d}.jsonl",
    )
    put(tmp_path, b"garbage\n")
    result, _ = restored(tmp_path)
    assert result.snapshot.epoch > 4
    assert result.snapshot.sequence == 3 * GAP


# --- missing -----------------------------------------------------------------------------------------


def test_missing_although_the_stores_hold_something(tmp_path):
    result, journal = restored(tmp_path, stores_hold_something=True)
    assert result.notes == ("journal: missing; the state was rebuilt from the stores",)
    assert result.snapshot.epoch > 1
    goes_on(result, journal, GAP + 1)


def test_missing_although_there_are_closed_files(tmp_path):
    put(tmp_path, lines_of(), "journal-000000000001.jsonl")
    result, journal = restored(tmp_path)
    assert result.notes == ("journal: missing; the state was rebuilt from the stores",)
    assert result.snapshot == Snapshot(epoch=result.snapshot.epoch, sequence=GAP)
    assert result.snapshot.epoch > 1
    goes_on(result, journal, GAP + 1)
    assert (tmp_path / "journal-000000000001.jsonl").read_bytes() == b"".join(lines_of())


def test_a_start_reads_no_more_history_than_it_relies_on(tmp_path, monkeypatch):
    """What is kept may be larger than memory."""
    put(tmp_path, lines_of())
    for first in (1, 100, 200):
        put(tmp_path, b"x", f"journal-{first:012d}.jsonl")
    opened = []

    def read_and_note(journal, path, read=JournalFile.read):
        opened.append(os.path.basename(path))
        return read(journal, path)

    monkeypatch.setattr(JournalFile, "read", read_and_note)
    found, _ = restored(tmp_path)
    assert found.notes == ()
    assert set(opened) == {"journal-000000000200.jsonl", ACTIVE}


@pytest.mark.parametrize("closed", [False, True])
def test_missing_is_refused_where_that_was_asked_for(tmp_path, closed):
    if closed:
        put(tmp_path, lines_of(), "journal-000000000001.jsonl")
    with pytest.raises(StoreUnavailable, match=r"journal\.jsonl is missing") as caught:
        restored(tmp_path, refuse_damage=True, stores_hold_something=not closed)
    assert caught.value.code == "journal-damaged"
    assert not (tmp_path / ACTIVE).exists()


def test_a_fresh_device_is_no_damage(tmp_path):
    result, _ = restored(tmp_path, refuse_damage=True)
    assert result.notes == ()
    assert (tmp_path / ACTIVE).exists()


# --- another machine, another release ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "there", "foreign"),
    [("this", "this", False), ("this", "other", True), ("", "other", False), ("this", "", False)],
)
def test_a_copied_image_is_noticed(tmp_path, here, there, foreign):
    put(tmp_path, lines_of(header=structs.replace(HEADER, machine=there)))
    result, journal = restored(tmp_path, header=structs.replace(HEADER, machine=here))
    assert result.foreign_machine is foreign
    # Nothing is lost: whether to register is the operator's word.
    assert result.snapshot == WORLD.snapshot
    assert result.notes == ()
    goes_on(result, journal, len(RECORDS) + 1)


def test_the_rules_in_force_come_from_the_file(tmp_path):
    put(tmp_path, lines_of())
    result, _ = restored(tmp_path, header=structs.replace(HEADER, rules_revision=RULES_REVISION + 1))
    assert result.rules_revision == RULES_REVISION


# --- a disk that does not do as it is told -----------------------------------------------------------


def test_what_cannot_be_set_aside_is_said_and_may_be_tried_again(tmp_path, monkeypatch):
    path = put(tmp_path, b"garbage\n")
    rename = os.rename

    def refused(*_args, **_options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(StoreUnavailable, match="Read-only file system"):
        restored(tmp_path)
    assert path.read_bytes() == b"garbage\n"
    monkeypatch.setattr(os, "rename", rename)
    result, journal = restored(tmp_path)
    goes_on(result, journal, result.snapshot.sequence + 1)
