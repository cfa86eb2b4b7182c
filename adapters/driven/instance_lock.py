"""One service a state directory. The kernel drops the lock with the process, however that ends."""

import contextlib
import errno
import fcntl
import os
from types import TracebackType

from adapters.driven.files import make_durable_directory, unavailable
from adapters.errors import AlreadyRunning

FILE = "identityd.lock"
_ANYWAY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)
_PID_BYTES = 20


class InstanceLock:
    """``with InstanceLock(state_dir):`` or ``acquire`` and ``release``.

    The file stays when the lock is released: removing it would let two services each lock their own.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._path = os.path.join(directory, FILE)
        self._handle: int | None = None

    def acquire(self) -> None:
        """Raises AlreadyRunning, or StoreUnavailable when there is nothing to lock."""
        try:
            handle = self._open()
        except OSError as exc:
            raise unavailable(exc, self._path) from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            pid = _pid_in(handle)
            os.close(handle)
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise AlreadyRunning(self.directory, pid) from exc
            raise unavailable(exc, self._path) from exc
        with contextlib.suppress(OSError):
            # For the message of the next one; no use of the lock depends on it.
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Safe to call again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "InstanceLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _open(self) -> int:
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            make_durable_directory(self.directory)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | flags, 0o600)
        except OSError as exc:
            if exc.errno not in _ANYWAY or not os.path.isdir(self.directory):
                raise
        # A device on a read-only or full file system still serves what it has.
        try:
            return os.open(self._path, os.O_RDONLY | flags)
        except FileNotFoundError:
            return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _pid_in(handle: int) -> int | None:
    try:
        return int(os.pread(handle, _PID_BYTES, 0))
    except (OSError, ValueError):
        return None
