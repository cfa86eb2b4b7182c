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
from collections.abc import AsyncIterator, Callable, Sequence

import trio
from msgspec import Struct

from adapters.durable import make_private, sync_directory, write_synced
from adapters.errors import StoreUnavailable, bounded

ACTIVE = "journal.jsonl"
MAX_FILE_BYTES = 64 * 1024 * 1024
"A journal file larger than this is not one of ours; reading it is refused."
MAX_SET_ASIDE = 16
"Files set aside are kept up to this number, the newest first: a failing card must not fill up."
READ_BYTES = 64 * 1024

SequenceOf = Callable[[bytes], int | None]

_CLOSED = re.compile(r"journal-(\d{12,})\.jsonl")
_SET_ASIDE = re.compile(r"journal.*\.jsonl\.damaged-(\d+)")
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FIXES = {
    errno.ENOSPC: "free some space on that file system",
    errno.EDQUOT: "raise the quota or free some space",
    errno.EROFS: "mount that file system read-write",
    errno.EACCES: "give the file to the service's user",
    errno.EPERM: "give the file to the service's user",
    errno.EFBIG: "move it away",
}


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
) -> "JournalFile":
    """The journal in ``directory``, with an interrupted rotation finished. Nothing is judged.

    Look at ``read_all``, then ``cut`` or ``set_aside`` what is damaged, then ``resume`` or ``begin``.
    Raises StoreUnavailable.
    """
    journal = JournalFile(directory, sequence_of, segment_bytes=segment_bytes, keep_bytes=keep_bytes)
    journal.recover()
    return journal


class JournalFile:
    """One writer; appends happen one at a time. Reading may overlap with them."""

    def __init__(
        self, directory: str, sequence_of: SequenceOf, *, segment_bytes: int, keep_bytes: int
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

    # --- what is there -------------------------------------------------------------------------------

    def files(self) -> tuple[str, ...]:
        """Closed files in order, then the active one if there is one. Raises StoreUnavailable."""
        with _translated(self.directory):
            return self._files()

    def read(self, path: str) -> bytes:
        """A whole journal file. Raises StoreUnavailable."""
        with _translated(path):
            handle = _open_plain(path)
            with open(handle, "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES} bytes", path)
            return content

    def read_all(self) -> list[Segment]:
        """Every file, in order; one that cannot be read is there with its problem."""
        segments = []
        for path in self.files():
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
        """Finish or undo a rotation that was cut short. Raises StoreUnavailable."""
        with self._lock, _translated(self.directory):
            make_private(self.directory)
            if os.stat(self.directory).st_mode & 0o077:
                os.chmod(self.directory, 0o700)
            fresh = f"{self.active_path}.new"
            if not os.path.lexists(fresh):
                return
            if self._closed() and not os.path.lexists(self.active_path):
                # The fresh file was synced before the active one was closed: it is whole.
                os.rename(fresh, self.active_path)
            else:
                os.unlink(fresh)
            sync_directory(self.directory)

    def cut(self, path: str, length: int) -> None:
        """Take off a torn tail, durable on return. Raises StoreUnavailable."""
        with self._lock, _translated(path):
            self._close()
            handle = _open_plain(path, os.O_WRONLY)
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
            if path == self.active_path:
                self._close()
            numbers = [int(match[1]) for name in os.listdir(self.directory) if (match := _aside(name))]
            aside = f"{path}.damaged-{max(numbers, default=0) + 1}"
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
            make_private(self.directory)
            self._replace_active(head)

    def resume(self) -> None:
        """Go on at the end of the active file, which is whole. Raises StoreUnavailable."""
        with self._lock:
            content = self.read(self.active_path)
            with _translated(self.active_path):
                self._close()
                self._length = len(content)
                self._first = self._first_sequence(content)
                self._reopen()
                self._ready = True

    async def append(self, line: bytes) -> None:
        """One line with its newline. Durable on return, gone when it raises StoreUnavailable."""
        if not line.endswith(b"\n"):
            raise ValueError("a journal line ends with a newline")
        await trio.to_thread.run_sync(self.append_now, line, abandon_on_cancel=False)

    def append_now(self, line: bytes) -> None:
        """The same, on the calling thread."""
        with self._lock, _translated(self.active_path):
            self._check_ready()
            try:
                self._write(line)
            except OSError as exc:
                self._restore()
                # History is worth less than going on: on a full disk the oldest file makes room.
                if exc.errno not in _FULL or not self._drop_oldest():
                    raise
                self._retry(line)
            self._length += len(line)
            if self._first is None:
                self._first = self._sequence_of(line)

    async def rotate(self, head: Sequence[bytes]) -> None:
        """Close the active file and begin a new one with these lines. Raises StoreUnavailable.

        When it raises, the active file is as before and may be appended to. A file without a record
        leaves nothing behind.
        """
        await trio.to_thread.run_sync(self.rotate_now, head, abandon_on_cancel=False)

    def rotate_now(self, head: Sequence[bytes]) -> None:
        """The same, on the calling thread."""
        with self._lock, _translated(self.active_path):
            self._check_ready()
            try:
                self._rotate(head)
            except OSError as exc:
                if exc.errno not in _FULL or not self._drop_oldest():
                    raise
                self._rotate(head)
            with contextlib.suppress(OSError):
                while sum(os.stat(path).st_size for path in self._closed()) > self.keep_bytes:
                    if not self._drop_oldest():
                        break

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
        if self._handle is None:
            self._reopen()
        handle = self._handle
        assert handle is not None
        offset = self._length
        rest = memoryview(line)
        while rest:
            # At the known length, not O_APPEND: what a failed write left behind is overwritten.
            written = os.pwrite(handle, rest, offset)
            rest, offset = rest[written:], offset + written
        os.fdatasync(handle)

    def _retry(self, line: bytes) -> None:
        try:
            self._write(line)
        except OSError:
            self._restore()
            raise

    def _restore(self) -> None:
        """Back to the last good length on a new descriptor: a failed sync is never tried again on the old.

        Linux reports a write-back error once and then marks the pages clean, so a second fsync on the
        same descriptor can succeed without the data. What fails here is done before the next append.
        """
        self._close()
        with contextlib.suppress(OSError):
            self._reopen()

    def _reopen(self) -> None:
        handle = _open_plain(self.active_path, os.O_RDWR)
        try:
            status = os.fstat(handle)
            if status.st_mode & 0o077:
                os.fchmod(handle, 0o600)
            if status.st_size > self._length:
                os.ftruncate(handle, self._length)
                os.fsync(handle)
            elif status.st_size < self._length:
                raise OSError(errno.EIO, "shorter than what was written to it", self.active_path)
            _allocate(handle, max(self.segment_bytes, self._length))
        except OSError:
            os.close(handle)
            raise
        self._handle = handle

    def _close(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None

    def _rotate(self, head: Sequence[bytes]) -> None:
        if self._first is None:
            self._replace_active(head)
            return
        closed = os.path.join(self.directory, f"journal-{self._first:012d}.jsonl")
        if os.path.lexists(closed):
            # Sequences began anew after the journal was lost; the older file would come in between.
            os.rename(closed, self._free_name(closed))
        self._replace_active(head, closed)

    def _replace_active(self, head: Sequence[bytes], closed: str | None = None) -> None:
        """New file first, synced; then the renames; then the directory. A crash in between is recovered."""
        content = b"".join(head)
        fresh = f"{self.active_path}.new"
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        moved = False
        try:
            os.fchmod(handle, 0o600)
            _allocate(handle, max(self.segment_bytes, len(content)))
            rest, offset = memoryview(content), 0
            while rest:
                written = os.pwrite(handle, rest, offset)
                rest, offset = rest[written:], offset + written
            os.fsync(handle)
            if closed is not None:
                os.rename(self.active_path, closed)
                moved = True
            os.rename(fresh, self.active_path)
            moved = False
            sync_directory(self.directory)
        except OSError:
            os.close(handle)
            with contextlib.suppress(OSError):
                if moved and closed is not None:
                    os.rename(closed, self.active_path)
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
        if closed is not None and self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._length)  # give back what was allocated ahead
        self._close()
        self._handle, self._length = handle, len(content)
        self._first = self._first_sequence(content)
        self._ready = True

    def _first_sequence(self, content: bytes) -> int | None:
        for line in content.splitlines(keepends=True):
            found = self._sequence_of(line)
            if found is not None:
                return found
        return None

    def _drop_oldest(self) -> bool:
        closed = self._closed()
        if not closed:
            return False
        os.unlink(closed[0])
        sync_directory(self.directory)
        return True

    def _free_name(self, path: str) -> str:
        number = 1
        while os.path.lexists(f"{path}.damaged-{number}"):
            number += 1
        return f"{path}.damaged-{number}"

    def _forget_oldest_aside(self) -> None:
        names = [name for name in os.listdir(self.directory) if _aside(name)]
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
                    handle = _open_plain(path)
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


def _aside(name: str) -> re.Match[str] | None:
    return _SET_ASIDE.fullmatch(name)


def _read_at(path: str, handle: int, size: int, offset: int) -> bytes:
    with _translated(path):
        return os.pread(handle, size, offset)


def _open_plain(path: str, flags: int = os.O_RDONLY) -> int:
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not os.path.isfile(f"/proc/self/fd/{handle}"):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a plain file", path)
    return handle


def _allocate(handle: int, length: int) -> None:
    """Reserve blocks up to ``length`` without making the file longer. A courtesy: its failure is fine."""
    with contextlib.suppress(AttributeError, OSError):
        _libc.fallocate64(handle, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length))


_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def _translated(path: str):  # type: ignore[no-untyped-def]
    try:
        yield
    except OSError as exc:
        where = exc.filename if isinstance(exc.filename, str) else path
        fix = _FIXES.get(exc.errno or 0, "check the disk")
        raise StoreUnavailable(
            f"{where}: {exc.strerror or exc}; {fix}", code="journal-unavailable"
        ) from exc
