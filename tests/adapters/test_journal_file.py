"""What was appended is there after a power cut; what failed is not, and the next append works."""

import errno
import itertools
import json
import os
import pathlib
import shutil
import stat

import pytest
import trio

from adapters.driven import journal_file
from adapters.driven.journal_file import open_journal
from adapters.errors import StoreUnavailable
from adapters.fakes.journal import MemoryJournal
from tests.adapters.disk import Disk, believed_syncs, crashed_descriptors, ram_path  # noqa: F401 - fixtures

pytestmark = pytest.mark.usefixtures("crashed_descriptors", "believed_syncs")

HEAD = [b'{"type":"header"}\n', b'{"type":"checkpoint"}\n']


def record(sequence, size=0):
    return json.dumps({"type": "record", "sequence": sequence, "pad": "x" * size}).encode() + b"\n"


def sequence_of(line):
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found["sequence"] if found.get("type") == "record" else None


@pytest.fixture
def tmp_path(ram_path):  # noqa: F811 - the fixture above
    return ram_path


@pytest.fixture
def home(tmp_path):
    return str(tmp_path / "identityd")


def opened(home, **limits):
    journal = open_journal(home, sequence_of, **limits)
    if os.path.exists(journal.active_path):
        journal.resume()
    else:
        journal.begin(HEAD)
    return journal


def content(path):
    return pathlib.Path(path).read_bytes()


def names(home):
    return sorted(os.listdir(home))


def lines_from(journal, sequence):
    async def collect():
        return [line async for line in journal.lines_from(sequence)]

    return trio.run(collect)


# --- the ordinary --------------------------------------------------------------------------------------


def test_lines_are_stored_as_they_are_and_found_again(home):
    journal = opened(home)
    assert journal.files() == (os.path.join(home, "journal.jsonl"),)
    for sequence in range(1, 4):
        trio.run(journal.append, record(sequence))
    everything = b"".join([*HEAD, *map(record, range(1, 4))])
    assert content(journal.active_path) == everything
    assert journal.active_bytes == len(everything)
    journal.close()
    journal = opened(home)
    trio.run(journal.append, record(4))
    assert [segment.content for segment in journal.read_newest(10)] == [everything + record(4)]
    assert lines_from(journal, 3) == [record(3), record(4)]
    assert lines_from(journal, 0) == list(map(record, range(1, 5)))
    assert lines_from(journal, 9) == []


def test_everything_is_private(home):
    before = os.umask(0)
    try:
        opened(home).append_now(record(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(home).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(home, "journal.jsonl")).st_mode) == 0o600
    os.chmod(home, 0o755)
    os.chmod(os.path.join(home, "journal.jsonl"), 0o644)
    opened(home)
    assert stat.S_IMODE(os.stat(home).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(home, "journal.jsonl")).st_mode) == 0o600


def test_space_is_held_ahead_without_making_the_file_longer(home):
    journal = opened(home, segment_bytes=100_000)
    status = os.stat(journal.active_path)
    assert status.st_size == len(b"".join(HEAD))
    assert status.st_blocks * 512 >= 100_000 + journal_file.SLACK_BYTES
    journal.append_now(record(1))
    journal.rotate_now(HEAD)
    assert os.stat(os.path.join(home, "journal-000000000001.jsonl")).st_blocks * 512 < 100_000
    journal.close()
    assert os.stat(journal.active_path).st_blocks * 512 < 100_000


def test_rotation_closes_under_the_first_sequence_and_keeps_up_to_a_size(home):
    journal = opened(home, segment_bytes=1000, keep_bytes=3500)
    for sequence in range(7, 87):
        if journal.rotation_due:
            trio.run(journal.rotate, HEAD)
        trio.run(journal.append, record(sequence, 150))
    files = [os.path.basename(path) for path in journal.files()]
    assert files[-1] == "journal.jsonl"
    assert files == sorted(files[:-1]) + files[-1:]
    assert "journal-000000000007.jsonl" not in files
    assert 2000 < sum(os.stat(path).st_size for path in journal.files()[:-1]) <= 3500
    kept = [sequence_of(line) for line in lines_from(journal, 0)]
    assert kept == list(range(kept[0], 87))
    assert files[0] == f"journal-{kept[0]:012d}.jsonl"
    for first in (kept[0], kept[3], 80, 86):
        assert [sequence_of(line) for line in lines_from(journal, first)] == list(range(first, 87))
    journal.close()
    assert [sequence_of(line) for line in lines_from(opened(home), 0)] == kept


def test_a_file_without_a_record_is_not_kept(home):
    journal = opened(home)
    journal.rotate_now([b'{"type":"header","second":1}\n'])
    assert names(home) == ["journal.jsonl"]
    assert b"second" in content(journal.active_path)


def test_closed_names_are_never_overwritten(home):
    journal = opened(home)
    for pad in (1, 2):
        journal.append_now(record(1, pad))
        journal.rotate_now(HEAD)
    assert names(home) == [
        "journal-000000000001.jsonl",
        "journal-000000000001.jsonl.damaged-1",
        "journal.jsonl",
    ]
    assert content(os.path.join(home, "journal-000000000001.jsonl.damaged-1")).endswith(record(1, 1))


def test_sequences_beyond_twelve_digits_stay_in_order(home):
    journal = opened(home)
    for sequence in (10**12 - 1, 10**12):
        journal.append_now(record(sequence))
        journal.rotate_now(HEAD)
    assert [os.path.basename(path) for path in journal.files()] == [
        "journal-999999999999.jsonl",
        "journal-1000000000000.jsonl",
        "journal.jsonl",
    ]


def test_a_reader_sees_what_was_there_when_it_came(home):
    journal = opened(home, keep_bytes=0)
    for sequence in range(1, 4):
        journal.append_now(record(sequence, 100_000))  # larger than one piece

    async def main():
        seen = []
        async for line in journal.lines_from(2):
            if not seen:
                await journal.append(record(4))
                await journal.rotate(HEAD)  # with keep_bytes=0, this removes the file being read
                await journal.append(record(5))
            seen.append(sequence_of(line))
        assert seen == [2, 3]

    trio.run(main)
    assert [sequence_of(line) for line in lines_from(journal, 1)] == [5]


def test_cancellation_leaves_whole_lines(home):
    journal = opened(home)

    async def main():
        async with trio.open_nursery() as nursery:
            for sequence in range(1, 9):
                nursery.start_soon(journal.append, record(sequence))
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    stored = content(journal.active_path)
    assert len(stored) == journal.active_bytes
    assert all(sequence_of(line) for line in stored.splitlines(keepends=True)[2:])


def test_a_line_ends_with_a_newline(home):
    journal = opened(home)
    with pytest.raises(ValueError, match="newline"):
        trio.run(journal.append, b"{}")


def test_nothing_is_appended_before_the_journal_is_begun_or_after_it_was_set_aside(home):
    journal = open_journal(home, sequence_of)
    with pytest.raises(StoreUnavailable, match="neither begun nor resumed"):
        trio.run(journal.append, record(1))
    with pytest.raises(StoreUnavailable, match=r"journal\.jsonl"):
        journal.resume()
    journal.begin(HEAD)
    with pytest.raises(StoreUnavailable, match="exists"):
        journal.begin(HEAD)
    journal.set_aside(journal.active_path, "a test")
    with pytest.raises(StoreUnavailable, match="neither begun nor resumed"):
        trio.run(journal.rotate, HEAD)
    journal.begin(HEAD)
    trio.run(journal.append, record(1))
    assert lines_from(journal, 1) == [record(1)]


# --- damage --------------------------------------------------------------------------------------------


def test_setting_aside_keeps_the_file_as_it_is_and_says_why(home):
    journal = opened(home)
    journal.append_now(record(1))
    before = content(journal.active_path)
    assert journal.set_aside(journal.active_path, "hash of record 1\nis wrong") == os.path.join(
        home, "journal.jsonl.damaged-1"
    )
    journal.begin(HEAD)
    journal.append_now(record(1))
    journal.rotate_now(HEAD)
    closed = journal.files()[0]
    assert journal.set_aside(closed, "again") == f"{closed}.damaged-2"
    assert content(os.path.join(home, "journal.jsonl.damaged-1")) == before
    assert content(os.path.join(home, "journal.jsonl.damaged-1.reason")) == b"hash of record 1 is wrong\n"
    assert journal.files() == (journal.active_path,)


def test_set_aside_files_are_bounded(home):
    journal = opened(home)
    for i in range(journal_file.MAX_SET_ASIDE + 4):
        os.utime(journal.active_path, (i, i))
        journal.set_aside(journal.active_path, "a failing card")
        journal.begin(HEAD)
    numbers = {int(name.split("-")[1].split(".")[0]) for name in names(home) if "damaged" in name}
    assert numbers == set(range(5, journal_file.MAX_SET_ASIDE + 5))
    assert len(names(home)) == 2 * journal_file.MAX_SET_ASIDE + 1


@pytest.mark.parametrize("torn", range(1, len(record(2))))
def test_a_torn_tail_is_cut(home, torn):
    journal = opened(home)
    journal.append_now(record(1))
    good = journal.active_bytes
    journal.close()
    with open(journal.active_path, "ab") as file:
        file.write(record(2)[:torn])
    journal = open_journal(home, sequence_of)
    assert len(journal.read(journal.active_path)) == good + torn
    if torn % 2:
        journal.cut(journal.active_path, good)
        assert os.stat(journal.active_path).st_size == good
    journal.resume()  # drops what has no end by itself
    assert journal.active_bytes == good
    journal.append_now(record(2))
    assert lines_from(journal, 1) == [record(1), record(2)]


def test_cutting_never_makes_a_file_longer(home):
    journal = opened(home)
    journal.cut(journal.active_path, 10_000)
    assert content(journal.active_path) == b"".join(HEAD)


def test_files_that_are_no_journal_are_told_and_can_be_set_aside(home, tmp_path):
    journal = opened(home)
    journal.append_now(record(1))
    journal.rotate_now(HEAD)
    closed = journal.files()[0]
    journal.close()
    os.unlink(closed)
    os.mkfifo(closed)
    os.unlink(journal.active_path)
    (tmp_path / "elsewhere").write_bytes(record(1))
    os.symlink(tmp_path / "elsewhere", journal.active_path)
    pathlib.Path(home, "journal-abc.jsonl").touch()
    pathlib.Path(home, "journal-000000000001.jsonl.bak").touch()

    journal = open_journal(home, sequence_of)
    first, second = journal.read_newest(10)
    assert (first.path, first.content) == (closed, b"")
    assert "not a plain file" in first.problem
    assert "symbolic links" in second.problem
    with pytest.raises(StoreUnavailable) as caught:
        journal.resume()
    assert (caught.value.code, caught.value.failure_class) == ("journal-unavailable", "retry")
    for segment in (first, second):
        journal.set_aside(segment.path, segment.problem)
    journal.begin(HEAD)
    journal.append_now(record(1))
    assert (tmp_path / "elsewhere").read_bytes() == record(1)
    assert lines_from(journal, 1) == [record(1)]


def test_a_huge_file_is_not_read(home, monkeypatch):
    monkeypatch.setattr(journal_file, "MAX_FILE_BYTES", 10_000)
    journal = opened(home)
    journal.append_now(record(1, 20_000))
    assert "larger than 10000 bytes" in journal.read_newest(10)[0].problem


def test_garbage_between_records_is_passed_over_by_readers(home):
    journal = opened(home)
    journal.append_now(record(1))
    journal.append_now(b"\xff\x00 not JSON\n")
    journal.append_now(b"\n")
    journal.append_now(record(2))
    assert lines_from(journal, 1) == [record(1), record(2)]


def test_a_journal_that_shrank_is_not_continued(home):
    journal = opened(home)
    journal.append_now(record(1))
    os.truncate(journal.active_path, 5)
    with Disk(fail_at=1, error=errno.EIO), pytest.raises(StoreUnavailable):
        journal.append_now(record(2))
    with pytest.raises(StoreUnavailable, match="shorter than what was written"):
        journal.append_now(record(2))


# --- power cuts ----------------------------------------------------------------------------------------


def whole_lines(home):
    """What a reader of the files finds: torn tails dropped, as ``resume`` does."""
    journal = opened(home)
    return [sequence_of(line) for line in lines_from(journal, 0)]


SEGMENTS = {"segment_bytes": 300, "keep_bytes": 700}


def live(journal, done):
    """Appends and rotations; ``done`` is what must be durable so far."""
    for sequence in range(1, 14):
        if journal.rotation_due:
            journal.rotate_now(HEAD)
        journal.append_now(record(sequence, 50))
        done.append(sequence)


@pytest.mark.parametrize("lost", [False, True], ids=["killed", "power lost"])
def test_nothing_durable_is_lost_by_a_cut_at_any_call(tmp_path, lost):
    for cut_at in itertools.count(1):
        home = str(tmp_path / "try")
        shutil.rmtree(home, ignore_errors=True)
        done = []
        with Disk(cut_at=cut_at) as disk:
            live(opened(home, **SEGMENTS), done)
        if not disk.dead:
            break
        if lost:
            disk.lose_unsynced(home, torn_bytes=cut_at % 40)
        kept = whole_lines(home)
        # The oldest may have been dropped for size; the newest may be one more than was confirmed.
        assert kept == list(range(kept[0] if kept else 1, len(kept) + (kept[0] if kept else 1))), cut_at
        assert set(done[-3:]) <= set(kept), cut_at
        assert not kept or kept[-1] <= len(done) + 1
        assert [name for name in names(home) if name.endswith(".new")] == []
        # It goes on.
        journal = opened(home)
        journal.append_now(record(100))
        assert whole_lines(home)[-1] == 100
    assert cut_at > 40


def test_a_second_name_of_the_active_file_is_dropped(home):
    journal = opened(home)
    journal.append_now(record(1))
    twin = os.path.join(home, "journal-000000000001.jsonl")
    os.link(journal.active_path, twin)
    journal.rotate_now(HEAD)
    assert content(twin).endswith(record(1))
    assert names(home) == ["journal-000000000001.jsonl", "journal.jsonl"]
    journal.append_now(record(2))
    os.link(journal.active_path, os.path.join(home, "journal-000000000002.jsonl"))
    assert whole_lines(home) == [1, 2]
    assert names(home) == ["journal-000000000001.jsonl", "journal.jsonl"]


def test_a_begin_that_was_cut_short_leaves_nothing_to_mistake(home):
    journal = opened(home)
    journal.append_now(record(1))
    journal.rotate_now(HEAD)
    journal.set_aside(journal.active_path, "a test")
    journal.close()
    pathlib.Path(home, "journal.jsonl.new").write_bytes(HEAD[0][:5])
    journal = open_journal(home, sequence_of)
    assert [os.path.basename(path) for path in journal.files()] == ["journal-000000000001.jsonl"]
    assert not os.path.exists(os.path.join(home, "journal.jsonl.new"))


# --- faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failed_append_is_taken_back(home, call, error):
    journal = opened(home)
    journal.append_now(record(1))
    before = content(journal.active_path)
    with (
        Disk(fail_at=1, error=error, lasting=True, only=(call,)) as disk,
        pytest.raises(StoreUnavailable) as caught,
    ):
        trio.run(journal.append, record(2))
    assert (caught.value.code, caught.value.failure_class) == ("journal-unavailable", "retry")
    assert journal.active_path in caught.value.message
    assert disk.failed
    assert content(journal.active_path) == before
    assert journal.active_bytes == len(before)
    trio.run(journal.append, record(2))
    assert lines_from(journal, 1) == [record(1), record(2)]


def test_a_failed_sync_is_not_tried_again_on_the_same_descriptor(home):
    journal = opened(home)
    journal.append_now(record(1))
    used = []
    real = os.fdatasync

    def failing(handle):
        used.append(handle)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    opens = []
    real_open = os.open

    def counting(path, *rest):
        opens.append(path)
        return real_open(path, *rest)

    os.fdatasync, os.open = failing, counting
    try:
        with pytest.raises(StoreUnavailable):
            journal.append_now(record(2))
    finally:
        os.fdatasync, os.open = real, real_open
    assert len(used) == 1
    assert opens == [journal.active_path]


def test_a_short_write_is_continued(home, monkeypatch):
    journal = opened(home)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: real(handle, data[:7], offset))
    journal.append_now(record(1))
    assert content(journal.active_path) == b"".join(HEAD) + record(1)


def test_what_cannot_be_taken_back_at_once_is_taken_back_later(home):
    journal = opened(home)
    journal.append_now(record(1))
    with Disk(fail_at=2, error=errno.EIO, lasting=True, only=("pwrite", "fdatasync", "open", "ftruncate")):
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                journal.append_now(record(2, 500))
    # The write reached the file, nothing after it worked; readers do not see it.
    assert os.stat(journal.active_path).st_size > journal.active_bytes
    assert lines_from(journal, 1) == [record(1)]
    journal.append_now(record(2))
    assert content(journal.active_path) == b"".join([*HEAD, record(1), record(2)])


def test_a_fault_at_every_call_of_a_rotation_loses_nothing(tmp_path):
    for fail_at in itertools.count(1):
        home = str(tmp_path / "try")
        shutil.rmtree(home, ignore_errors=True)
        journal = opened(home)
        for sequence in range(1, 4):
            journal.append_now(record(sequence))
        with Disk(fail_at=fail_at, error=errno.EIO) as disk:
            old = os.stat(journal.active_path).st_ino
            try:
                journal.rotate_now([*HEAD, record(4)])
            except StoreUnavailable:
                assert os.stat(journal.active_path).st_ino == old
            else:
                assert os.stat(journal.active_path).st_ino != old
            disk.fail_at = None
            journal.append_now(record(5))  # goes on in the same breath
        if not disk.failed:
            break
        disk.lose_unsynced(home)
        kept = whole_lines(home)
        # Whoever was told that it failed goes on with the old file's chain of hashes.
        assert kept == ([1, 2, 3, 5] if os.stat(journal.active_path).st_ino == old else [1, 2, 3, 4, 5])
        assert not [name for name in names(home) if name.endswith(".new")]
    assert fail_at > 4


def test_a_renaming_that_is_not_durable_keeps_appends_from_being_called_so(home):
    journal = opened(home)
    journal.append_now(record(1))
    # Before it are synced: the new file, and the old one's second name.
    with Disk(fail_at=3, error=errno.EIO, lasting=True, only=("fsync",)):
        journal.rotate_now(HEAD)
        with pytest.raises(StoreUnavailable):
            journal.append_now(record(2))
    journal.append_now(record(2))
    assert whole_lines(home) == [1, 2]


def test_on_a_full_disk_the_oldest_file_makes_room(home):
    journal = opened(home, segment_bytes=200)
    for sequence in range(1, 4):
        journal.append_now(record(sequence, 200))
        journal.rotate_now(HEAD)
    assert len(journal.files()) == 4

    for work in (lambda: journal.append_now(record(4, 10)), lambda: journal.rotate_now(HEAD)):
        oldest = journal.files()[0]
        with Disk(fail_at=1, error=errno.ENOSPC, only=("pwrite",)) as disk:
            work()
        assert disk.failed
        assert not os.path.exists(oldest)
    assert [sequence_of(line) for line in lines_from(journal, 0)] == [3, 4]


def test_on_a_full_disk_without_history_appending_fails_and_recovers(home):
    journal = opened(home)
    journal.append_now(record(1))
    with Disk(fail_at=1, error=errno.ENOSPC, lasting=True, only=("pwrite",)):
        with pytest.raises(StoreUnavailable, match="free some space"):
            journal.append_now(record(2))
        with pytest.raises(StoreUnavailable, match="free some space"):
            journal.rotate_now(HEAD)
    journal.append_now(record(2))
    assert whole_lines(home) == [1, 2]


def test_a_directory_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "identityd").write_text("a file")
    with pytest.raises(StoreUnavailable) as caught:
        open_journal(str(tmp_path / "identityd"), sequence_of)
    assert caught.value.code == "journal-unavailable"
    assert str(tmp_path) in caught.value.message


def test_reading_that_fails_is_told(home, monkeypatch):
    journal = opened(home)
    journal.append_now(record(1))

    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(StoreUnavailable, match=r"journal\.jsonl.*check the disk"):
        lines_from(journal, 1)


# --- the fake ------------------------------------------------------------------------------------------


def test_the_memory_journal_keeps_the_same_promises():
    journal = MemoryJournal(sequence_of, segment_bytes=100, keep=1)
    journal.begin(HEAD)

    async def main():
        for sequence in range(1, 9):
            await journal.append(record(sequence))
            if journal.rotation_due:
                await journal.rotate(HEAD)
        journal.fail(2)
        for work in (journal.append(record(9)), journal.rotate(HEAD)):
            with pytest.raises(StoreUnavailable) as caught:
                await work
            assert caught.value.code == "journal-unavailable"
        await journal.append(record(9))
        with pytest.raises(ValueError, match="newline"):
            await journal.append(b"{}")
        assert [line async for line in journal.lines_from(8)] == [record(8), record(9)]

    trio.run(main)
    assert len(journal.segments) == 2
    assert journal.lines[-1] == record(9)
    assert journal.active_bytes == sum(map(len, journal.segments[-1]))
