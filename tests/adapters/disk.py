"""A disk that fails or loses power at a chosen call: stands between ``os`` and the code under test.

Only calls that change something are counted. Syncing is believed, not done, so that a test may lose
power hundreds of times. ``lose_unsynced`` then takes back, newest first, every directory entry whose
directory was not synced since, and what was added to a file: about the worst a kernel may do.
"""

import atexit
import contextlib
import functools
import itertools
import os
import pathlib
import shutil
import tempfile
import threading

import pytest

CHANGING = (
    "open",
    "mkdir",
    "rename",
    "link",
    "unlink",
    "rmdir",
    "symlink",
    "fsync",
    "fdatasync",
    "ftruncate",
    "pwrite",
    "posix_fallocate",
    "chmod",
    "fchmod",
)
_REAL = {name: getattr(os, name) for name in CHANGING}


@pytest.fixture
def believed_syncs(monkeypatch):
    """Syncing takes as long as a shared disk likes; where nothing is pulled, it need not be done."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda handle: None)


_numbers = itertools.count()
_BASE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


@pytest.fixture
def ram_path():
    """In memory where there is such a place: thousands of small files wear a disk, and wait for it."""
    with tempfile.TemporaryDirectory(dir=_BASE) as path:
        yield pathlib.Path(path)


@functools.cache
def _limbo():
    # Made with what os really is: a disk in use would count it.
    path = f"{_BASE}/limbo-{os.getpid()}"
    _REAL["mkdir"](path)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class _Entry:
    """A change of a directory; ``unsynced`` numbers the paths whose directory was not synced since."""

    def __init__(self, undo, paths):
        self.undo, self.paths, self.unsynced = undo, paths, set(range(len(paths)))


def _real(path):
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


class PowerCut(BaseException):
    """Nothing after this call happened. Not an OSError: nobody may handle it."""


class Disk:
    """``with Disk(fail_at=3, error=errno.EIO):`` — one fault, or all from then on when ``lasting``."""

    def __init__(self, *, fail_at=None, error=None, lasting=False, cut_at=None, only=CHANGING):
        self.calls = 0
        self.fail_at, self.error, self.lasting, self.cut_at, self.only = fail_at, error, lasting, cut_at, only
        self.failed = []
        self.dead = False
        self._unsynced_entries = []  # oldest first
        self._synced_bytes = {}  # by inode
        self._lock = threading.RLock()

    def __enter__(self):
        self._before = {name: getattr(os, name) for name in CHANGING}
        for name in CHANGING:
            setattr(os, name, self._wrapped(name))
        return self

    def __exit__(self, kind, exc, trace):
        for name, call in self._before.items():
            setattr(os, name, call)
        return kind is not None and issubclass(kind, PowerCut)

    def _wrapped(self, name):
        def call(*args, **kwargs):
            with self._lock:
                if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    return _REAL[name](*args, **kwargs)
                if self.dead:
                    raise PowerCut
                if name in self.only:
                    self.calls += 1
                    if self.calls == self.cut_at:
                        self.dead = True
                        raise PowerCut
                    if self.fail_at is not None and (
                        self.calls == self.fail_at or (self.lasting and self.calls > self.fail_at)
                    ):
                        paths = [path for path in args[:2] if isinstance(path, str)]
                        self.failed.append(f"{name} {paths}")
                        raise OSError(self.error, os.strerror(self.error), *paths[:1], None, *paths[1:])
                record = getattr(self, f"_{name}", None)
                return _REAL[name](*args, **kwargs) if record is None else record(*args, **kwargs)

        return call

    # --- what a kernel remembers until it is synced ----------------------------------------------

    def _entry(self, undo, *paths):
        self._unsynced_entries.append(_Entry(undo, list(map(_real, paths))))

    def _to_limbo(self, path):
        """Out of sight, but not gone: it may have to come back."""
        kept = f"{_limbo()}/{next(_numbers)}"
        _REAL["rename"](path, kept)
        return kept

    def _open(self, path, flags, *rest):
        new = not os.path.lexists(path)
        handle = _REAL["open"](path, flags, *rest)
        if new:
            self._entry(self._to_limbo, path)
        status = os.fstat(handle)
        self._synced_bytes.setdefault(status.st_ino, status.st_size)
        return handle

    def _mkdir(self, path, *rest):
        _REAL["mkdir"](path, *rest)
        self._entry(self._to_limbo, path)

    def _link(self, source, path):
        _REAL["link"](source, path)
        self._entry(_REAL["unlink"], path)

    def _symlink(self, target, path):
        _REAL["symlink"](target, path)
        self._entry(self._to_limbo, path)

    def _unlink(self, path):
        kept = self._to_limbo(path)
        self._entry(lambda path: _REAL["rename"](kept, path), path)

    def _rmdir(self, path):
        _REAL["rmdir"](path)
        self._entry(lambda path: _REAL["mkdir"](path, 0o700), path)

    def _rename(self, source, target):
        kept = None
        if os.path.lexists(target):
            if os.path.isdir(target) and not os.path.islink(target):
                return _REAL["rename"](source, target)
            kept = self._to_limbo(target)
        _REAL["rename"](source, target)

        self._moved(_real(source), _real(target))

        def undo(source, target):
            _REAL["rename"](target, source)
            self._moved(target, source)
            if kept is not None:
                _REAL["rename"](kept, target)

        self._entry(undo, source, target)

    def _moved(self, source, target):
        """What is pending below a directory follows it."""
        for entry in self._unsynced_entries:
            entry.paths = [
                target + path[len(source) :] if path.startswith(f"{source}/") else path
                for path in entry.paths
            ]

    def _fsync(self, handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        if os.path.isdir(path):
            for entry in self._unsynced_entries:
                entry.unsynced -= {i for i in entry.unsynced if os.path.dirname(entry.paths[i]) == path}
            self._unsynced_entries = [entry for entry in self._unsynced_entries if entry.unsynced]
        status = os.fstat(handle)
        self._synced_bytes[status.st_ino] = status.st_size

    _fdatasync = _fsync

    def lose_unsynced(self, root, torn_bytes=0):
        """After a power cut: what was not synced below ``root`` is gone, but for some bytes of each file."""
        for entry in reversed(self._unsynced_entries):
            with contextlib.suppress(FileNotFoundError):  # its directory is durably gone
                entry.undo(*entry.paths)
        for directory, _, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.islink(path):
                    continue
                status = os.lstat(path)
                synced = self._synced_bytes.get(status.st_ino, status.st_size)
                if status.st_size > synced + torn_bytes:
                    os.truncate(path, synced + torn_bytes)


@pytest.fixture
def crashed_descriptors():
    """The kernel closes what a crashed process had open; tests that only pretend to crash do it here."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    for name in set(os.listdir("/proc/self/fd")) - before:
        with contextlib.suppress(OSError):
            os.close(int(name))
