"""The journal as files. Fills ``ports.Journal``; knows lines and files, not records.

``journal.jsonl`` is written, ``journal-<first sequence, 12 digits>.jsonl`` are closed,
``<name>.damaged-<n>`` were set aside and are never touched again. What a line means is the caller's:
``sequence_of`` tells the sequence of a record's line, and None for a header, a checkpoint, or damage.

Space is allocated ahead of the end of the file (FALLOC_FL_KEEP_SIZE), not by making the file longer:
so the file reads with ``less`` to its last line, at the price of one more metadata write an append
than a preallocated, zero-filled file costs.
"""

import contextlib
import ctypes
import errno
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

import trio
from msgspec import Struct

from adapters.driven.files import (
    FULL,
    make_durable_directory,
    open_plain,
    read_file,
    remove_tree,
    settle_directory,
    unavailable,
)
from adapters.durable import sync_directory, write_synced
from adapters.errors import StoreUnavailable, bounded

ACTIVE = "journal.jsonl"
MAX_FILE_BYTES = 64 * 1024 * 1024
"A journal file larger than this is not one of ours; reading it is refused."
MAX_SET_ASIDE = 16
"Files set aside are kept up to this number, the newest first: a failing card must not fill up."
READ_BYTES = 64 * 1024
SLACK_BYTES = 256 * 1024
"Allocated beyond a segment's size, and given up for the head of the next one when the disk is full."

SequenceOf = Callable[[bytes], int | None]


class Meter(Protocol):
    """Who wants figures. Called by the thread that writes, with the lock held; must not raise."""

    def synced(self, seconds: float) -> None:
        """So long a record took to be on the disk."""

    def stored(self, journal_bytes: int) -> None:
        """So much the journal's files hold now."""


class Unmetered:
    """Nobody does."""

    def synced(self, seconds: float) -> None: ...

    def stored(self, journal_bytes: int) -> None: ...


_CLOSED = re.compile(r"journal-(\d{12,})\.jsonl")
_SET_ASIDE = re.compile(r"journal.*\.jsonl\.damaged-(\d+)")
_NEW = ".new"
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h


class Segment(Struct, frozen=True, kw_only=True):
    """One journal file as it was found."""

    path: str
    content: bytes = b""
    problem: str | None = None
    "Why the content could not be read."


def open_journal(
    directory: str,
    sequence_of: SequenceOf,
    *,
    segment_bytes: int = 1_048_576,
    keep_bytes: int = 8_388_608,
    meter: Meter | None = None,
) -> "JournalFile":
    """The journal in ``directory``, with an interrupted rotation undone. Nothing is judged.

    Look at ``read_newest``, then ``cut`` or ``set_aside`` what is damaged, then ``resume`` or ``begin``.
    Raises StoreUnavailable.
    """
    journal = JournalFile(
        directory, sequence_of, segment_bytes=segment_bytes, keep_bytes=keep_bytes, meter=meter
    )
    journal.recover()
    return journal


class JournalFile:
    """One writer; appends happen one at a time. Reading may overlap with them."""

    def __init__(
        self,
        directory: str,
        sequence_of: SequenceOf,
        *,
        segment_bytes: int,
        keep_bytes: int,
        meter: Meter | None = None,
    ) -> None:
        self.directory = directory
        self.active_path = os.path.join(directory, ACTIVE)
        self.segment_bytes = segment_bytes
        self.keep_bytes = keep_bytes
        self._sequence_of = sequence_of
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._length = 0
        "Up to here the active file is whole and durable."
        self._first: int | None = None
        "Sequence of the active file's first record."
        self._ready = False
        self._directory_unsynced = False
        self._meter = Unmetered() if meter is None else meter
        self._closed_bytes = 0
        "Of the closed files together."

    # --- what is there -------------------------------------------------------------------------------

    def files(self) -> tuple[str, ...]:
        """Closed files in order, then the active one if there is one. Raises StoreUnavailable."""
        with _translated(self.directory):
            return self._files()

    def read(self, path: str) -> bytes:
        """A whole journal file. Raises StoreUnavailable."""
        with _translated(path):
            content = read_file(path, MAX_FILE_BYTES)
            if content is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return content

    def read_newest(self, count: int) -> list[Segment]:
        """The last files, in order; one that cannot be read is there with its problem.

        Not all of them: how much is kept is the operator's choice, and may be more than there is memory.
        """
        segments = []
        for path in self.files()[-count:]:
            try:
                segments.append(Segment(path=path, content=self.read(path)))
            except StoreUnavailable as exc:
                segments.append(Segment(path=path, problem=exc.message))
        return segments

    @property
    def active_bytes(self) -> int:
        return self._length

    @property
    def rotation_due(self) -> bool:
        """The active file has reached its size: call ``rotate`` with a checkpoint."""
        return self._length >= self.segment_bytes

    # --- repair, before the first append -------------------------------------------------------------

    def recover(self) -> None:
        """Undo a rotation that was cut short. Raises StoreUnavailable."""
        with self._lock, _translated(self.directory):
            make_durable_directory(self.directory)
            if os.stat(self.directory).st_mode & 0o077:
                os.chmod(self.directory, 0o700)
            remove_tree(self.active_path + _NEW)
            self._drop_twins()
            sync_directory(self.directory)

    def cut(self, path: str, length: int) -> None:
        """Take off a torn tail, durable on return. Raises StoreUnavailable."""
        with self._lock, _translated(path):
            self._stop_using(path)
            handle = open_plain(path, os.O_WRONLY)
            try:
                if os.fstat(handle).st_size > length:
                    os.ftruncate(handle, length)
                os.fsync(handle)
            finally:
                os.close(handle)

    def set_aside(self, path: str, reason: str) -> str:
        """Give a damaged file a name under which nobody looks for it; its content stays as it is.

        The reason goes into a small text file beside it. Returns the new path. Raises StoreUnavailable.
        """
        with self._lock, _translated(path):
            self._stop_using(path)
            aside = self._aside_name(path)
            os.rename(path, aside)
            sync_directory(self.directory)
            with contextlib.suppress(OSError):
                write_synced(f"{aside}.reason", f"{bounded(reason)}\n".encode())
            with contextlib.suppress(OSError):
                self._forget_oldest_aside()
            return aside

    # --- begin, resume, append, rotate ---------------------------------------------------------------

    def begin(self, head: Sequence[bytes]) -> None:
        """Start a new active file with these lines, durable on return. Raises StoreUnavailable.

        There must be none: an old one is rotated, or set aside.
        """
        with self._lock, _translated(self.active_path):
            if os.path.lexists(self.active_path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.active_path)
            make_durable_directory(self.directory)
            settle_directory(self.directory)
            self._making_room(lambda: self._replace_active(head))
            with self._closed_on_failure():
                self._sync_directory()
            self._measure()

    def resume(self) -> None:
        """Go on at the end of the active file, which is whole. Raises StoreUnavailable."""
        with self._lock:
            content = self.read(self.active_path)
            with _translated(self.active_path):
                self._close()
                self._length = content.rfind(b"\n") + 1  # what has no end was never durable
                self._first = self._first_sequence(content)
                handle = self._reopen()
                with self._closed_on_failure():
                    # What the last process wrote but did not get to sync is now relied upon.
                    os.fsync(handle)
                    sync_directory(self.directory)
                self._ready = True
                self._measure()

    async def append(self, line: bytes) -> None:
        """One line with its newline. Durable on return, gone when it raises StoreUnavailable."""
        if not line.endswith(b"\n"):
            raise ValueError("a journal line ends with a newline")
        await trio.to_thread.run_sync(self.append_now, line, abandon_on_cancel=False)

    def append_now(self, line: bytes) -> None:
        """The same, on the calling thread."""
        with self._lock, _translated(self.active_path):
            self._check_ready()
            self._making_room(lambda: self._write(line))
            self._length += len(line)
            self._meter.stored(self._closed_bytes + self._length)
            if self._first is None:
                self._first = self._sequence_of(line)

    async def rotate(self, head: Sequence[bytes]) -> None:
        """Close the active file and begin a new one with these lines. Raises StoreUnavailable.

        When it raises, the old file is still the active one. When it returns, the new file is, and is
        durable with the next append at the latest. A file without a record leaves nothing behind.
        """
        await trio.to_thread.run_sync(self.rotate_now, head, abandon_on_cancel=False)

    def rotate_now(self, head: Sequence[bytes]) -> None:
        """The same, on the calling thread."""
        with self._lock, _translated(self.active_path):
            self._check_ready()
            self._making_room(lambda: self._rotate(head), give_up_slack=True)
            with contextlib.suppress(OSError):
                self._sync_directory()
                while sum(os.stat(path).st_size for path in self._closed()) > self.keep_bytes:
                    self._drop_oldest()
            self._measure()

    async def lines_from(self, sequence: int) -> AsyncIterator[bytes]:
        """Record lines from that sequence on, oldest first, up to the last durable one of now.

        Raises StoreUnavailable.
        """
        handles = await trio.to_thread.run_sync(self._open_from, sequence)
        try:
            for path, handle, length in handles:
                offset, rest = 0, b""
                while offset < length:
                    size = min(READ_BYTES, length - offset)
                    piece = await trio.to_thread.run_sync(_read_at, path, handle, size, offset)
                    if not piece:
                        break
                    offset += len(piece)
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        found = self._sequence_of(line + b"\n")
                        if found is not None and found >= sequence:
                            yield line + b"\n"
                    if len(rest) > MAX_FILE_BYTES:
                        break
        finally:
            for _, handle, _ in handles:
                os.close(handle)

    def close(self) -> None:
        """Give up the descriptor and what was allocated ahead."""
        with self._lock:
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._length)
            self._close()
            self._ready = False

    # --- inside, lock held ---------------------------------------------------------------------------

    def _files(self) -> tuple[str, ...]:
        active = [self.active_path] if os.path.lexists(self.active_path) else []
        return (*self._closed(), *active)

    def _closed(self) -> list[str]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        numbered = [(int(match[1]), name) for name in names if (match := _CLOSED.fullmatch(name))]
        return [os.path.join(self.directory, name) for _, name in sorted(numbered)]

    def _check_ready(self) -> None:
        if not self._ready:
            raise OSError(errno.EBADF, "the journal was neither begun nor resumed", self.active_path)

    def _write(self, line: bytes) -> None:
        try:
            handle = self._reopen() if self._handle is None else self._handle
            self._sync_directory()
            began = time.monotonic()
            _write_at(handle, line, self._length)
            os.fdatasync(handle)
            self._meter.synced(time.monotonic() - began)
        except OSError:
            self._restore()
            raise

    def _making_room(self, work: Callable[[], None], *, give_up_slack: bool = False) -> None:
        """``work``, and once more when the disk is full, after the oldest file was removed: history is
        worth less than going on."""
        try:
            work()
        except OSError as exc:
            if exc.errno not in FULL:
                raise
            if give_up_slack and self._handle is not None:
                os.ftruncate(self._handle, self._length)
            self._drop_oldest()
            try:
                work()
            finally:
                if self._handle is not None:
                    self._allocate(self._handle)

    def _restore(self) -> None:
        """Back to the last good length on a new descriptor: a failed sync is never tried again on the old.

        Linux reports a write-back error once and then marks the pages clean, so a second fsync on the
        same descriptor can succeed without the data. What fails here is done before the next append.
        """
        self._close()
        with contextlib.suppress(OSError):
            self._reopen()

    def _reopen(self) -> int:
        handle = open_plain(self.active_path, os.O_RDWR)
        try:
            status = os.fstat(handle)
            if status.st_mode & 0o077:
                os.fchmod(handle, 0o600)
            if status.st_size > self._length:
                os.ftruncate(handle, self._length)
                os.fsync(handle)
            elif status.st_size < self._length:
                raise OSError(errno.EIO, "shorter than what was written to it", self.active_path)
            self._allocate(handle)
        except OSError:
            os.close(handle)
            raise
        self._handle = handle
        return handle

    def _stop_using(self, path: str) -> None:
        if path == self.active_path:
            self._close()
            self._ready = False

    @contextlib.contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        """Whoever opens the journal again makes another object; nobody would close what this one holds."""
        try:
            yield
        except OSError:
            self._close()
            self._ready = False
            raise

    def _close(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None

    def _rotate(self, head: Sequence[bytes]) -> None:
        if self._handle is None:
            self._reopen()  # a failed append may have left something behind
        if self._first is None:
            self._replace_active(head)
            return
        closed = os.path.join(self.directory, f"journal-{self._first:012d}.jsonl")
        self._drop_twins()
        if os.path.lexists(closed):
            # Sequences began anew after the journal was lost: the older file would be taken for this one.
            os.rename(closed, self._aside_name(closed))
        self._replace_active(head, closed)

    def _replace_active(self, head: Sequence[bytes], closed: str | None = None) -> None:
        """New file first, synced; then a second name for the old; then one rename: there always is an
        active file, and it is whole."""
        content = b"".join(head)
        fresh = self.active_path + _NEW
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(handle, 0o600)
            _write_at(handle, content, 0)
            os.fsync(handle)
            if closed is not None:
                os.link(self.active_path, closed)
                # On disk before the rename is: else a power cut could leave the new name without this one.
                sync_directory(self.directory)
            os.rename(fresh, self.active_path)
        except OSError:
            os.close(handle)
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            with contextlib.suppress(OSError):
                self._drop_twins()
            raise
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._length)  # give back what was allocated ahead
        self._close()
        self._handle, self._length = handle, len(content)
        self._first = self._first_sequence(content)
        self._ready = True
        self._directory_unsynced = True
        self._allocate(handle)

    def _sync_directory(self) -> None:
        """Until this was done, a power cut brings the old file back: no append is durable before."""
        if self._directory_unsynced:
            sync_directory(self.directory)
            self._directory_unsynced = False

    def _drop_twins(self) -> None:
        """A rotation that was cut short leaves the active file with a second name."""
        try:
            active = os.lstat(self.active_path)
        except FileNotFoundError:
            return
        for path in self._closed():
            if os.path.samestat(os.lstat(path), active):
                os.unlink(path)

    def _allocate(self, handle: int) -> None:
        """Reserve blocks ahead without making the file longer. A courtesy: its failure is fine."""
        # glibc has fallocate64 everywhere; musl's only fallocate takes 64 bits everywhere.
        call = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
        if call is not None:
            length = max(self.segment_bytes, self._length) + SLACK_BYTES
            call(handle, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length))

    def _first_sequence(self, content: bytes) -> int | None:
        for line in content.splitlines(keepends=True):
            found = self._sequence_of(line)
            if found is not None:
                return found
        return None

    def _drop_oldest(self) -> None:
        closed = self._closed()
        if closed:
            os.unlink(closed[0])
            sync_directory(self.directory)
            self._measure()

    def _measure(self) -> None:
        """Whenever the closed files became others; a file that cannot be asked counts nothing."""
        self._closed_bytes = 0
        with contextlib.suppress(OSError):
            for path in self._closed():
                self._closed_bytes += os.stat(path).st_size
        self._meter.stored(self._closed_bytes + self._length)

    def _aside_name(self, path: str) -> str:
        names = os.listdir(self.directory)
        numbers = [int(match[1]) for name in names if (match := _SET_ASIDE.fullmatch(name))]
        return f"{path}.damaged-{max(numbers, default=0) + 1}"

    def _forget_oldest_aside(self) -> None:
        names = [name for name in os.listdir(self.directory) if _SET_ASIDE.fullmatch(name)]
        names.sort(key=lambda name: os.lstat(os.path.join(self.directory, name)).st_mtime_ns)
        for name in names[:-MAX_SET_ASIDE]:
            for path in (name, f"{name}.reason"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.directory, path))

    def _open_from(self, sequence: int) -> list[tuple[str, int, int]]:
        """Open everything at once: a rotation or removal meanwhile then changes nothing."""
        with self._lock, _translated(self.directory):
            files = self._files()
            firsts = [self._first_of(path) for path in files]
            handles: list[tuple[str, int, int]] = []
            try:
                for i, path in enumerate(files):
                    following = firsts[i + 1] if i + 1 < len(files) else None
                    if following is not None and following <= sequence:
                        continue
                    handle = open_plain(path)
                    active = path == self.active_path and self._ready
                    handles.append((path, handle, self._length if active else os.fstat(handle).st_size))
            except OSError:
                for _, handle, _ in handles:
                    os.close(handle)
                raise
            return handles

    def _first_of(self, path: str) -> int | None:
        match = _CLOSED.fullmatch(os.path.basename(path))
        return int(match[1]) if match else self._first


def _write_at(handle: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        # At a known offset, not O_APPEND: what a failed write left behind is overwritten.
        written = os.pwrite(handle, rest, offset)
        rest, offset = rest[written:], offset + written


def _read_at(path: str, handle: int, size: int, offset: int) -> bytes:
    with _translated(path):
        return os.pread(handle, size, offset)


_libc = ctypes.CDLL(None)


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise unavailable(exc, path, code="journal-unavailable") from exc
