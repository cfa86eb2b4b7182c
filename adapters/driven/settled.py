"""What is seen in a directory may not be on disk: the sync after a change failed, or an earlier process
ended before it. Who finds that there is nothing left to do settles that before he says that it is done.
"""

import contextlib
from collections.abc import Iterator

from adapters.durable import sync_directory


class Settled:
    """Directories that this process has synced since it last changed them."""

    def __init__(self) -> None:
        self._synced: set[str] = set()
        self._failed: set[str] = set()

    @contextlib.contextmanager
    def changing(self, directory: str) -> Iterator[None]:
        """Around a change that ends with a sync of ``directory``."""
        try:
            yield
        except BaseException:
            self._synced.discard(directory)
            self._failed.add(directory)
            raise
        self._settled(directory)

    def settle(self, directory: str) -> None:
        """Bring to disk what this process could not, or an earlier one did not. Raises OSError.

        The latter very likely is on disk: a disk that fails at it must not take it away.
        """
        self.finish(directory)
        if directory not in self._synced:
            with contextlib.suppress(OSError):
                sync_directory(directory)
                self._settled(directory)

    def finish(self, directory: str) -> None:
        """Only what this process could not. Raises OSError."""
        if directory in self._failed:
            sync_directory(directory)
            self._settled(directory)

    def _settled(self, directory: str) -> None:
        self._failed.discard(directory)
        self._synced.add(directory)
