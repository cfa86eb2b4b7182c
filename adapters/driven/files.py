"""Small plain files read with suspicion, and file-system errors in our words."""

import contextlib
import errno
import os
import stat

from adapters.durable import make_private, sync_directory
from adapters.errors import StoreUnavailable

FULL = (errno.ENOSPC, errno.EDQUOT)

_CAUSES = {
    errno.ENOSPC: ("disk-full", "free some space on that file system"),
    errno.EDQUOT: ("disk-full", "raise the quota or free some space"),
    errno.EROFS: ("read-only", "mount that file system read-write"),
    errno.EACCES: ("permission", "give the directory and its files to the service's user"),
    errno.EPERM: ("permission", "give the directory and its files to the service's user"),
}


class Misshapen(OSError):
    """Where a small plain file should be there is something else: a link, a FIFO, a huge file."""


def open_plain(path: str, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
    """A descriptor of a plain file.

    Raises OSError; its kind Misshapen for a link that is not to be followed (ELOOP), a directory, or a
    special file (EINVAL).
    """
    # O_NONBLOCK: opening somebody's FIFO must not wait for its writer.
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # ENXIO: a socket
            raise Misshapen(exc.errno, exc.strerror, path) from exc
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Misshapen(errno.EINVAL, "not a plain file", path)
    return handle


def read_file(path: str, limit: int, *, follow: bool = False) -> bytes | None:
    """The whole of a plain file, None when absent.

    Raises OSError; its kind Misshapen as ``open_plain`` does, and for more than ``limit`` bytes (EFBIG).
    """
    try:
        handle = open_plain(path, follow=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        content = bytearray()
        while len(content) <= limit:
            piece = os.read(handle, limit + 1 - len(content))
            if not piece:
                return bytes(content)
            content += piece
        raise Misshapen(errno.EFBIG, f"larger than {limit} bytes", path)
    finally:
        os.close(handle)


def make_durable_directory(directory: str) -> None:
    """As ``durable.make_private``, and synced: what is durable below must not vanish with a directory.

    One that cannot be synced is removed again: whoever finds it there takes it for durable. Raises OSError.
    """
    missing = []
    while not os.path.isdir(directory):
        missing.append(directory)
        directory = os.path.dirname(directory) or "."
    for path in reversed(missing):
        make_private(path)
        try:
            sync_directory(os.path.dirname(path) or ".")
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(path)
            raise


def settle_directory(directory: str) -> None:
    """Sync what is above ``directory``: a process that made some of it may have been killed before it could.

    Within its file system, up to the first directory that we could have made nothing in. Raises OSError.
    """
    while not os.path.ismount(directory):
        directory = os.path.dirname(directory)
        if not os.access(directory, os.R_OK | os.W_OK):
            break
        sync_directory(directory)


def remove_tree(path: str) -> None:
    """Delete a file, a link, or a directory and what is in it; links are not followed. Raises OSError."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except FileNotFoundError:
        return
    for name in os.listdir(path):
        remove_tree(os.path.join(path, name))
    os.rmdir(path)


def unavailable(exc: OSError, path: str, *, code: str | None = None) -> StoreUnavailable:
    """The code says why, unless one is given; the message names the path and the fix."""
    cause, fix = _CAUSES.get(exc.errno or 0, ("io-error", "check the disk"))
    if isinstance(exc, Misshapen):
        fix = "move it away"
    # Of a call with two paths the second is what was to change; a link's target is not even a path of ours.
    named = [name for name in (exc.filename2, exc.filename) if isinstance(name, str) and os.path.isabs(name)]
    where = named[0] if named else path
    return StoreUnavailable(f"{where}: {exc.strerror or exc}; {fix}", code=code or cause)
