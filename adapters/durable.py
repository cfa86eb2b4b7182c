"""Files that survive a power cut: written beside, synced, renamed; private from their first byte."""

import contextlib
import os


def make_private(directory: str) -> None:
    """Create ``directory`` and whatever is missing above it, each with mode 0700. Raises OSError."""
    missing = []
    while not os.path.isdir(directory):
        missing.append(directory)
        directory = os.path.dirname(directory) or "."
    for name in reversed(missing):
        os.mkdir(name, 0o700)


def replace_file(path: str, content: bytes, *, mode: int = 0o600) -> None:
    """Put ``content`` at ``path`` in one step, durable on return; the old file is intact when it raises.

    Missing directories are made private. Raises OSError.
    """
    # One temporary name, so that a crash leaves at most one file, and the next write reuses it.
    temporary = f"{path}.new"
    directory = os.path.dirname(path) or "."
    make_private(directory)
    try:
        write_synced(temporary, content, mode=mode)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


def write_synced(path: str, content: bytes, *, mode: int = 0o600) -> None:
    """Write the whole file and fsync it. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(handle, "wb") as file:
        os.fchmod(handle, mode)  # the name may be a leftover with another mode
        file.write(content)
        file.flush()
        os.fsync(handle)


def sync_directory(directory: str) -> None:
    """Make renames and new names in ``directory`` durable. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
