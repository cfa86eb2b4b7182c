"""A recording layer between ``os`` and the stores: every call that changes the disk, in order.

It stands in for functions of ``os`` and for ``open`` while a run goes on in this process, does what they
do, and notes what that was. Only what lies below one directory is noted. A call that is made some other
way is not seen; ``Recorder.unrecorded`` compares what was noted with what is really there and finds it.

Reserving blocks without making a file longer (fallocate with FALLOC_FL_KEEP_SIZE, which the journal calls
through libc) changes nothing that a reader or a power cut could tell, and is not noted.
"""

import builtins
import io
import os
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Any

from msgspec import Struct

from tests.crash.image import (
    ROOT,
    Directory,
    File,
    Image,
    Link,
    Mode,
    Names,
    Node,
    Operation,
    Resize,
    Sync,
    Write,
    differences,
    perform,
)

_REAL_OPEN = builtins.open
_REAL = {
    name: getattr(os, name)
    for name in (
        "open",
        "mkdir",
        "rmdir",
        "unlink",
        "remove",
        "rename",
        "replace",
        "link",
        "symlink",
        "write",
        "pwrite",
        "ftruncate",
        "truncate",
        "posix_fallocate",
        "fsync",
        "fdatasync",
        "chmod",
        "fchmod",
    )
}

TAKING = ("open", "mkdir", "link", "symlink", "write", "pwrite", "posix_fallocate")
"What a full disk refuses for as long as it is full."


class Fault(Struct, kw_only=True):
    """An error instead of a call: of one, or of every one that takes space until ``lasts_ms`` are over."""

    at: int
    "Number of the call, from 1."
    error: int
    lasts_ms: int = 0
    began_unix_ms: int | None = None
    hit: list[str] = []

    def hits(self, number: int, name: str, now_unix_ms: int) -> bool:
        if number == self.at:
            self.began_unix_ms = now_unix_ms
            return True
        if self.began_unix_ms is None or not self.lasts_ms or name not in TAKING:
            return False
        return now_unix_ms < self.began_unix_ms + self.lasts_ms


class Recorded(Struct, frozen=True):
    """One operation, and what was true just before it."""

    operation: Operation
    context: object


class _Raw(io.FileIO):
    """What ``open`` makes of a path or a descriptor, except that it writes through ``os.write``."""

    def write(self, content: Any) -> int:
        return os.write(self.fileno(), content)


class Recorder:
    """``with Recorder(directory) as recorder:``. ``context`` is asked before each operation is noted."""

    def __init__(
        self,
        root: str,
        context: Callable[[], object] = lambda: None,
        *,
        now_unix_ms: Callable[[], int] = lambda: 0,
        fault: Fault | None = None,
        image: Image | None = None,
    ) -> None:
        """``image`` is what lies below ``root`` already."""
        self.root = os.path.realpath(root)
        self.recorded: list[Recorded] = []
        self.born: dict[int, Node] = {}
        "Each inode as it was when it was made, before anything led to it."
        self.calls = 0
        self.names: list[str] = []
        "Of the calls, by number."
        self.start: Image = {ROOT: Directory(0o700)} if image is None else dict(image)
        self.image: Image = dict(self.start)
        "What the process sees."
        self._context = context
        self._now_unix_ms = now_unix_ms
        self._fault = fault
        self._inodes: dict[tuple[int, int], int] = {}
        self._next = max(self.image) + 1
        self._adopt(ROOT, self.root)

    def _adopt(self, inode: int, path: str) -> None:
        self._inodes[_identity(os.lstat(path))] = inode
        node = self.image[inode]
        if isinstance(node, Directory):
            for name, child in node.entries.items():
                self._adopt(child, f"{path}/{name}")

    def __enter__(self) -> "Recorder":
        for name in _REAL:
            setattr(os, name, getattr(self, f"_{name}"))
        builtins.open = self._opened
        io.open = self._opened
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, call in _REAL.items():
            setattr(os, name, call)
        builtins.open = io.open = _REAL_OPEN

    @property
    def operations(self) -> list[Operation]:
        return [one.operation for one in self.recorded]

    def unrecorded(self) -> list[str]:
        """Where the recording and the real directory differ."""
        return differences(self.image, self.root)

    # --- noting --------------------------------------------------------------------------------------

    def _ours(self, path: Any) -> bool:
        if isinstance(path, int):
            return _identity(os.fstat(path)) in self._inodes
        return os.path.abspath(str(path)).startswith(f"{self.root}/")

    def _call(self, name: str, said: str, *paths: str) -> None:
        """Count a call that changes something, and fail it if it is its turn."""
        self.calls += 1
        self.names.append(name)
        fault = self._fault
        if fault is not None and fault.hits(self.calls, name, self._now_unix_ms()):
            fault.hit.append(said)
            raise OSError(fault.error, os.strerror(fault.error), *paths[:1], None, *paths[1:])

    def _note(self, operation: Operation) -> None:
        self.recorded.append(Recorded(operation, self._context()))
        if not isinstance(operation, Sync):
            perform(self.image, operation)

    def _place(self, path: str) -> tuple[int, str]:
        """The directory's inode, and the name in it."""
        directory, name = os.path.split(os.path.abspath(path))
        return self._inodes[_identity(os.stat(directory))], name

    def _short(self, path: Any) -> str:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        return os.path.relpath(os.path.abspath(path), self.root)

    def _birth(self, path: str, node: Node) -> int:
        inode, self._next = self._next, self._next + 1
        self.born[inode] = self.image[inode] = node
        self._inodes[_identity(os.lstat(path))] = inode
        return inode

    def _of(self, handle: int) -> tuple[int, File] | None:
        """The recorded plain file behind a descriptor."""
        inode = self._inodes.get(_identity(os.fstat(handle)))
        node = None if inode is None else self.image[inode]
        return (inode, node) if inode is not None and isinstance(node, File) else None

    # --- os ------------------------------------------------------------------------------------------

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        assert dir_fd is None, "not recorded"
        if not (flags & (os.O_CREAT | os.O_TRUNC)) or not self._ours(path):
            return int(_REAL["open"](path, flags, mode))
        said = f"open {self._short(path)}"
        new = not os.path.lexists(path)
        if new or flags & os.O_TRUNC:
            self._call("open", said, path)
        handle = int(_REAL["open"](path, flags, mode))
        if new:
            inode = self._birth(path, File(stat.S_IMODE(os.fstat(handle).st_mode)))
            self._note(Names(assigned=((*self._place(path), inode),), said=f"create {self._short(path)}"))
        elif flags & os.O_TRUNC and (found := self._of(handle)) is not None and found[1].data:
            self._note(Resize(inode=found[0], length=0, said=f"truncate {self._short(path)}"))
        return handle

    def _opened(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+") or not self._ours(file):
            return _REAL_OPEN(file, mode, buffering, *rest, **more)
        assert isinstance(file, int), "not recorded"
        assert mode == "wb", "not recorded"
        return io.BufferedWriter(_Raw(file, "wb", **{k: v for k, v in more.items() if k == "closefd"}))

    def _write(self, handle: int, content: Any) -> int:
        found = self._of(handle)
        if found is None:
            return int(_REAL["write"](handle, content))
        offset = os.lseek(handle, 0, os.SEEK_CUR)
        return self._written("write", handle, found[0], content, offset)

    def _pwrite(self, handle: int, content: Any, offset: int) -> int:
        found = self._of(handle)
        if found is None:
            return int(_REAL["pwrite"](handle, content, offset))
        return self._written("pwrite", handle, found[0], content, offset)

    def _written(self, name: str, handle: int, inode: int, content: Any, offset: int) -> int:
        said, content = f"write {self._short(handle)} at {offset}", bytes(content)
        failure: OSError | None = None
        try:
            self._call(name, said)
        except OSError as exc:
            # A disk that is full takes what fits.
            failure, content = exc, content[: len(content) // 2]
        where = (offset,) if name == "pwrite" else ()
        written = int(_REAL[name](handle, content, *where))
        self._note(Write(inode=inode, offset=offset, data=content[:written], said=said))
        if failure is not None:
            raise failure
        return written

    def _resized(self, name: str, handle: int, said: str, *args: int) -> None:
        found = self._of(handle)
        if found is not None:
            self._call(name, said)
        _REAL[name](handle, *args)
        length = os.fstat(handle).st_size
        if found is not None and length != len(found[1].data):
            self._note(Resize(inode=found[0], length=length, said=f"{said} to {length} bytes"))

    def _ftruncate(self, handle: int, length: int) -> None:
        self._resized("ftruncate", handle, f"truncate {self._short(handle)}", length)

    def _posix_fallocate(self, handle: int, offset: int, length: int) -> None:
        self._resized("posix_fallocate", handle, f"fallocate {self._short(handle)}", offset, length)

    def _truncate(self, path: Any, length: int) -> None:
        assert not self._ours(path), "not recorded"
        _REAL["truncate"](path, length)

    def _synced(self, name: str, handle: int) -> None:
        inode = self._inodes.get(_identity(os.fstat(handle)))
        if inode is None:
            return  # above the root: only its name could be meant
        said = f"sync {self._short(handle)}"
        # The real thing is not done: what a sync means is what the models are about.
        try:
            self._call(name, said)
        except OSError:
            self._note(Sync(inode=inode, said=said, failed=True))
            raise
        self._note(Sync(inode=inode, said=said))

    def _fsync(self, handle: int) -> None:
        self._synced("fsync", handle)

    def _fdatasync(self, handle: int) -> None:
        self._synced("fdatasync", handle)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        assert dir_fd is None, "not recorded"
        if not self._ours(path):
            _REAL["mkdir"](path, mode)
            return
        said = f"mkdir {self._short(path)}"
        self._call("mkdir", said, path)
        _REAL["mkdir"](path, mode)
        inode = self._birth(path, Directory(stat.S_IMODE(os.lstat(path).st_mode)))
        self._note(Names(assigned=((*self._place(path), inode),), said=said))

    def _removed(self, name: str, path: Any, dir_fd: int | None) -> None:
        assert dir_fd is None, "not recorded"
        if not self._ours(path):
            _REAL[name](path)
            return
        said = f"{name} {self._short(path)}"
        if os.path.lexists(path):
            self._call(name, said, path)
        _REAL[name](path)
        self._note(Names(assigned=((*self._place(path), None),), said=said))

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", path, dir_fd)

    def _remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("rmdir", path, dir_fd)

    def _rename(
        self,
        source: Any,
        target: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> None:
        assert src_dir_fd is dst_dir_fd is None, "not recorded"
        if not (self._ours(source) or self._ours(target)):
            _REAL["rename"](source, target)
            return
        said = f"rename {self._short(source)} to {self._short(target)}"
        self._call("rename", said, source, target)
        inode = self._inodes[_identity(os.lstat(source))]
        twins = os.path.lexists(target) and os.path.samestat(os.lstat(source), os.lstat(target))
        _REAL["rename"](source, target)
        if not twins:  # rename(2) does nothing at all with two names of one file
            assigned = ((*self._place(target), inode), (*self._place(source), None))
            self._note(Names(assigned=assigned, said=said))

    _replace = _rename

    def _link(self, source: Any, target: Any, **more: Any) -> None:
        assert not more, "not recorded"
        if not self._ours(target):
            _REAL["link"](source, target)
            return
        said = f"link {self._short(source)} as {self._short(target)}"
        self._call("link", said, source, target)
        _REAL["link"](source, target)
        inode = self._inodes[_identity(os.lstat(target))]
        self._note(Names(assigned=((*self._place(target), inode),), said=said))

    def _symlink(self, target: Any, path: Any, *args: Any, dir_fd: int | None = None) -> None:
        assert dir_fd is None, "not recorded"
        if not self._ours(path):
            _REAL["symlink"](target, path)
            return
        said = f"symlink {self._short(path)} to {target}"
        self._call("symlink", said, target, path)
        _REAL["symlink"](target, path)
        inode = self._birth(path, Link(str(target)))
        self._note(Names(assigned=((*self._place(path), inode),), said=said))

    def _changed_mode(self, name: str, path: Any, mode: int) -> None:
        inode = self._inodes.get(_identity(os.stat(path)))
        if inode is None:
            _REAL[name](path, mode)
            return
        said = f"chmod {self._short(path)} {mode:04o}"
        self._call(name, said)
        before = stat.S_IMODE(os.stat(path).st_mode)
        _REAL[name](path, mode)
        if before != mode:
            self._note(Mode(inode=inode, mode=mode, said=said))

    def _chmod(self, path: Any, mode: int, **more: Any) -> None:
        assert not more, "not recorded"
        self._changed_mode("chmod", path, mode)

    def _fchmod(self, handle: int, mode: int) -> None:
        self._changed_mode("fchmod", handle, mode)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
