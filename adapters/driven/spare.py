"""Space and names held back, so that one more generation fits on a full disk.

A directory of files whose blocks are really allocated: giving them up frees blocks and inodes, which
run out independently. Between giving up and making again another process may take the space; on a
disk that stays full the spare is then smaller, and made whole as soon as there is room.
"""

import contextlib
import os

from adapters.driven.files import remove_tree
from adapters.durable import make_private, sync_directory

FILES = 12
"A generation needs 6 names, its links up to 4."
FILE_BYTES = 48 * 1024
"576 KiB in all: key, chain, and a trust bundle of some hundred certificates."


class SpareSpace:
    """One directory. No method raises: the spare is a courtesy, its lack is reported by ``whole``."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.whole = False

    def make(self) -> None:
        """Complete the spare as far as there is room."""
        if self.whole:
            return
        try:
            make_private(self.directory)
            made = [self._make_file(os.path.join(self.directory, str(i))) for i in range(FILES)]
            if any(made):
                sync_directory(self.directory)
        except OSError:
            return
        self.whole = True

    def give_up(self) -> bool:
        """Free all of it; False when there was nothing to free."""
        self.whole = False
        given = False
        for i in range(FILES):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.directory, str(i)))
                given = True
        with contextlib.suppress(OSError):
            # Journalling file systems reuse freed blocks only after the deletion is committed.
            sync_directory(self.directory)
        return given

    def _make_file(self, path: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_size == FILE_BYTES:
                return False
            remove_tree(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(handle, 0, FILE_BYTES)
            os.fsync(handle)
        except OSError:
            # A short file holds its blocks back all the same; one without any is of no use.
            with contextlib.suppress(OSError):
                if os.fstat(handle).st_blocks == 0:
                    os.unlink(path)
            raise
        finally:
            os.close(handle)
        return True
