"""Journal lines: what is written, what is believed when it is read, and what is wrong with the rest."""

import hashlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.errors import JournalUnreadable
from statemachine.events import ShutdownRequested
from statemachine.journal import (
    MAX_LINE_BYTES,
    START,
    Chain,
    Checkpoint,
    Header,
    Record,
    decode_line,
    encode_line,
    head_lines,
    read,
    sequence_of,
)
from statemachine.snapshot import Snapshot
from tests.core.walks import seeded
from tests.core.world import T0, provisioned, record_of

QUIET = settings(deadline=None, derandomize=True, max_examples=150, database=None)


def header(**fields):
    return Header(
        **{
            "rules_revision": 1,
            "software_version": "0.1.0",
            "machine": "m1",
            "device": "device-1",
            "epoch": 1,
            "first_sequence": 1,
            "created_unix_ms": T0,
            **fields,
        }
    )


def lines_of(world, snapshot=None, **fields):
    """A whole file: the head, then every record of that history."""
    head, digest = head_lines(header(**fields), snapshot or Snapshot())
    lines = list(head)
    for now, event, decision in world.history:
        line, digest = encode_line(record_of(now, event, decision), digest)
        lines.append(line)
    return lines


@pytest.fixture(scope="module")
def lines():
    return lines_of(provisioned())


def chained(values):
    """Well-chained lines of whatever values."""
    digest, lines = START, []
    for value in values:
        line, digest = encode_line(value, digest)
        lines.append(line)
    return b"".join(lines)


def raw(members):
    """A well-chained first line of whatever members."""
    body = json.dumps(members, separators=(",", ":")).encode()
    digest = hashlib.sha256(START.encode() + body).hexdigest()
    return body[:-1] + b',"hash":"' + digest.encode() + b'"}\n'


# --- what is written ---------------------------------------------------------------------------------


def test_a_line_is_one_json_object_that_ends_with_its_hash(lines):
    for line in lines:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        members = json.loads(line)
        assert next(iter(members)) == "type"
        assert list(members)[-1] == "hash"


def test_the_hash_is_over_the_hash_before_and_the_stored_bytes(lines):
    before = START
    for line in lines:
        members = json.loads(line)
        body = line[: line.rindex(b',"hash"')] + b"}"
        assert members["hash"] == hashlib.sha256(before.encode() + body).hexdigest()
        before = members["hash"]


def test_the_same_history_is_the_same_bytes(lines):
    assert lines_of(provisioned()) == lines


def test_what_is_read_is_what_was_written(lines):
    world = provisioned()
    reading = read(b"".join(lines))
    assert reading.header == header()
    assert reading.snapshot == Snapshot()
    assert reading.records == tuple(record_of(*one) for one in world.history)
    assert (reading.problem, reading.torn) == (None, False)
    assert reading.good_bytes == sum(map(len, lines))
    assert reading.last_hash == json.loads(lines[-1])["hash"]


@pytest.mark.parametrize("seed", range(20))
def test_any_walk_survives_the_journal(seed):
    world = seeded(seed, 80)
    reading = read(b"".join(lines_of(world)))
    assert reading.problem is None
    assert [record.event for record in reading.records] == [event for _, event, _ in world.history]
    checkpoint, _ = encode_line(Checkpoint(snapshot=world.snapshot), START)
    assert decode_line(checkpoint) == Checkpoint(snapshot=world.snapshot)


def test_a_file_may_begin_anywhere():
    world = provisioned()
    snapshot = world.history[3][2].snapshot
    world.history = world.history[4:]
    reading = read(b"".join(lines_of(world, snapshot, first_sequence=5)))
    assert reading.problem is None
    assert reading.records[0].sequence == 5


# --- torn and damaged --------------------------------------------------------------------------------


def test_a_torn_tail_at_every_byte_of_the_last_line(lines):
    whole, last = b"".join(lines), lines[-1]
    for cut in range(1, len(last)):
        reading = read(whole[:-cut])
        assert reading.torn
        assert len(reading.records) == len(lines) - 3
        assert reading.good_bytes == len(whole) - len(last)
        assert "cut off" in reading.problem
        assert reading.last_hash == json.loads(lines[-2])["hash"]


def test_a_tail_that_is_there_but_wrong_is_torn_too(lines):
    """A block of the last write that never reached the card."""
    damaged = lines[-1][:20] + b"\0" * (len(lines[-1]) - 21) + b"\n"
    reading = read(b"".join(lines[:-1]) + damaged)
    assert reading.torn
    assert reading.problem == f"line {len(lines)}: does not end with a hash"


def test_a_last_line_that_is_whole_but_not_understood_is_not_torn(lines):
    """Another release wrote it, and has done what it asked for: cutting it would forget that."""
    newer = json.loads(lines[-1])
    body = json.dumps(newer | {"event": {"type": "something-new"}}, separators=(",", ":")).encode()
    body = body[: body.rindex(b',"hash"')] + b"}"
    digest = hashlib.sha256(json.loads(lines[-2])["hash"].encode() + body).hexdigest()
    reading = read(b"".join(lines[:-1]) + body[:-1] + b',"hash":"' + digest.encode() + b'"}\n')
    assert reading.problem.startswith(f"line {len(lines)}: not a line this release knows")
    assert not reading.torn
    assert len(reading.records) == len(lines) - 3


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_damage_in_the_middle_is_not_a_torn_tail(lines, number):
    damaged = list(lines)
    line = bytearray(damaged[number - 1])
    line[40] ^= 1
    damaged[number - 1] = bytes(line)
    reading = read(b"".join(damaged))
    assert not reading.torn
    assert reading.problem.startswith(f"line {number}: ")
    assert len(reading.records) == max(number - 3, 0)
    assert reading.good_bytes == sum(map(len, lines[: number - 1]))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda lines: lines[:3] + lines[4:], "line 4: its hash does not follow"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "line 4: its hash does not follow"),
        (lambda lines: [*lines[:3], *lines[2:]], "line 4: its hash does not follow"),
        (lambda lines: lines[1:], "line 1: its hash does not follow"),
        (lambda lines: [*lines[:3], b"\n", *lines[3:]], "line 4: does not end with a hash"),
        (lambda lines: [b"garbage\n"], "line 1: does not end with a hash"),
        (lambda lines: [b"x" * 200 + b"\n"], "line 1: does not end with a hash"),
        (lambda lines: [*lines[:3], b"x" * (MAX_LINE_BYTES + 1) + b"\n", *lines[3:]], "line 4: longer than"),
        (lambda lines: lines[:1], "it ends before its checkpoint"),
        (lambda lines: [], "it ends before its checkpoint"),
        (lambda lines: [lines[0], lines[1][:-9]], "line 2: cut off before its end"),
    ],
)
def test_what_is_wrong_with_a_file(lines, spoil, problem):
    reading = read(b"".join(spoil(lines)))
    assert reading.problem.startswith(problem)
    assert not reading.torn


RECORD = Record(
    sequence=1,
    now_unix_ms=T0,
    event=ShutdownRequested(),
    state="Unprovisioned",
    phase="Idle",
    verdict="taken",
    why="It is tested.",
)
CHECKPOINT = Checkpoint(snapshot=Snapshot())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([CHECKPOINT], "line 1: a journal begins with its header"),
        ([RECORD], "line 1: a journal begins with its header"),
        ([header(format=2)], "line 1: format 2 is from a newer release; this one knows 1"),
        ([header(), header()], "line 2: the second line is the checkpoint"),
        ([header(first_sequence=2), CHECKPOINT], "line 2: the checkpoint is of another place"),
        ([header(epoch=2), CHECKPOINT], "line 2: the checkpoint is of another place"),
        ([header(), CHECKPOINT, CHECKPOINT], "line 3: only records follow the checkpoint"),
        ([header(), CHECKPOINT, RECORD, header()], "line 4: only records follow the checkpoint"),
        ([header(), CHECKPOINT, RECORD, RECORD], "line 4: sequence 1 is out of order"),
    ],
)
def test_lines_in_their_order(values, problem):
    reading = read(chained(values))
    assert reading.problem.startswith(problem)
    assert reading.good_bytes == len(chained(values[:-1]))


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"type": "something-new"}, "not a line this release knows: Invalid value 'something-new'"),
        ({"type": "header", "format": 1, "colour": "red"}, "not a line this release knows"),
        ({"type": "checkpoint", "snapshot": {"state": "Elsewhere"}}, "not a line this release knows"),
    ],
)
def test_a_line_of_another_release(members, problem):
    assert read(raw(members)).problem.startswith(f"line 1: {problem}")


@pytest.mark.parametrize("body", [b"[" * 100_000 + b"}", b'{"type":"header",}', b'{"type":"\xff"}', b"{}}"])
def test_well_hashed_nonsense(body):
    digest = hashlib.sha256(START.encode() + body).hexdigest()
    line = body[:-1] + b',"hash":"' + digest.encode() + b'"}\n'
    reading = read(line)
    assert reading.problem.startswith("line 1: not ")


def test_a_chain_stays_where_it_was_after_a_line_it_refused(lines):
    chain = Chain()
    chain.take(lines[0])
    before = chain.last
    with pytest.raises(JournalUnreadable):
        chain.take(lines[0])
    assert chain.last == before
    assert chain.take(lines[1]) == CHECKPOINT


@QUIET
@given(st.data())
def test_no_bytes_make_reading_raise(data):
    lines = lines_of(provisioned())
    whole = bytearray(b"".join(lines))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    reading = read(bytes(whole))
    good = reading.good_bytes
    assert b"".join(lines)[:good] == bytes(whole[:good])


@QUIET
@given(st.binary(max_size=400))
def test_no_file_at_all_makes_reading_raise(content):
    reading = read(content)
    assert reading.problem is not None
    assert reading.good_bytes == 0


# --- without decoding --------------------------------------------------------------------------------


def test_the_sequence_of_a_stored_line(lines):
    assert [sequence_of(line) for line in lines] == [None, None, *range(1, len(lines) - 1)]


@pytest.mark.parametrize(
    "line", [b"", b"{}\n", b'{"type":"record","sequence":x,', b'{"type":"record","sequence":-1,']
)
def test_no_sequence(line):
    assert sequence_of(line) is None


def test_no_secret_has_a_place_in_a_record():
    """Names of every field that a journal can hold; a key, a token or a password is none of them."""
    schema = json.dumps(msgspec.json.schema(Record)).lower()
    for word in ("private", "password", "token", "nonce", "secret", "sas"):
        assert f'"{word}' not in schema
        assert f"_{word}" not in schema
