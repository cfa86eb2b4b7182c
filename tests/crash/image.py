"""What a disk holds, as a value: inodes, names, and the operations that change them.

Everything is told by inode, not by path, so that an operation means the same in whatever order the
kernel brings it to the disk. An operation on names says absolutely which inode a name leads to; leaving
one out, or doing a later one without it, is therefore always possible.
"""

import hashlib
import os
import stat
from typing import TypeAlias

from msgspec import Struct

ROOT = 0
"Inode of the directory that everything lies below."


class File(Struct, frozen=True):
    mode: int
    data: bytes = b""


class Directory(Struct, frozen=True):
    mode: int
    entries: dict[str, int] = {}
    "Never changed in place."


class Link(Struct, frozen=True):
    target: str


Node: TypeAlias = File | Directory | Link
Image: TypeAlias = dict[int, Node]


class Names(Struct, frozen=True, kw_only=True):
    """Some names lead elsewhere, all at once: a creation, a removal, a link, or a rename."""

    assigned: tuple[tuple[int, str, int | None], ...]
    "Directory, name, and the inode it leads to from now on; None for nowhere."
    said: str
    "For people: the call and its paths."

    @property
    def inodes(self) -> frozenset[int]:
        return frozenset(directory for directory, _, _ in self.assigned)


class Write(Struct, frozen=True, kw_only=True):
    inode: int
    offset: int
    data: bytes
    said: str

    @property
    def inodes(self) -> frozenset[int]:
        return frozenset((self.inode,))


class Resize(Struct, frozen=True, kw_only=True):
    """A truncation, or an extension with zeros."""

    inode: int
    length: int
    said: str

    @property
    def inodes(self) -> frozenset[int]:
        return frozenset((self.inode,))


class Mode(Struct, frozen=True, kw_only=True):
    inode: int
    mode: int
    said: str

    @property
    def inodes(self) -> frozenset[int]:
        return frozenset((self.inode,))


class Sync(Struct, frozen=True, kw_only=True):
    """All that was done to this inode before is durable."""

    inode: int
    said: str
    failed: bool = False
    """It was answered with an error. Linux then marks a file's pages clean: what was written may have been
    lost, and no later sync brings it back."""


Change: TypeAlias = Names | Write | Resize | Mode
Operation: TypeAlias = Change | Sync


def perform(image: Image, change: Change) -> None:
    match change:
        case Names():
            for inode, name, target in change.assigned:
                directory = image[inode]
                assert isinstance(directory, Directory)
                entries = dict(directory.entries)
                if target is None:
                    entries.pop(name, None)
                else:
                    entries[name] = target
                image[inode] = Directory(directory.mode, entries)
        case Write():
            file = _file(image, change.inode)
            head = file.data[: change.offset].ljust(change.offset, b"\0")
            tail = file.data[change.offset + len(change.data) :]
            image[change.inode] = File(file.mode, head + change.data + tail)
        case Resize():
            file = _file(image, change.inode)
            image[change.inode] = File(file.mode, file.data[: change.length].ljust(change.length, b"\0"))
        case Mode():
            node = image[change.inode]
            assert not isinstance(node, Link)
            if isinstance(node, File):
                image[change.inode] = File(change.mode, node.data)
            else:
                image[change.inode] = Directory(change.mode, node.entries)


def _file(image: Image, inode: int) -> File:
    node = image[inode]
    assert isinstance(node, File)
    return node


def with_changes(base: Image, changes: list[Change]) -> Image:
    image = dict(base)
    for change in changes:
        perform(image, change)
    return image


# --- telling disks apart -----------------------------------------------------------------------------

_digests: dict[int, tuple[File, bytes]] = {}
"By identity of the value, which is kept alive with it: most files are the same in thousands of images."


def _digest_of(file: File) -> bytes:
    known = _digests.get(id(file))
    if known is not None and known[0] is file:
        return known[1]
    digest = hashlib.blake2b(b"%o " % file.mode + file.data, digest_size=12).digest()
    _digests[id(file)] = (file, digest)
    return digest


def digest(image: Image, *, alike: int | None = None) -> bytes:
    """Of what can be reached from the root: names, contents, modes, and which names are one file.

    ``alike`` is a directory of files whose names are of no interest, only how many there are of each kind.
    """
    state = hashlib.blake2b(digest_size=12)
    numbers: dict[int, int] = {}

    def walk(inode: int) -> None:
        node = image[inode]
        if isinstance(node, Directory):
            state.update(b"d%o{" % node.mode)
            if inode == alike:
                files = [image[child] for child in node.entries.values()]
                state.update(b"".join(sorted(_digest_of(one) for one in files if isinstance(one, File))))
                return
            for name in sorted(node.entries):
                state.update(name.encode() + b"\0")
                walk(node.entries[name])
            state.update(b"}")
        elif isinstance(node, Link):
            state.update(b"l" + node.target.encode() + b"\0")
        else:
            number = numbers.setdefault(inode, len(numbers))
            state.update(b"f%d " % number + _digest_of(node))

    walk(ROOT)
    return state.digest()


# --- to and from real directories --------------------------------------------------------------------


def put(image: Image, path: str) -> None:
    """Make the image real, below an empty directory."""
    made: dict[int, str] = {}

    def walk(inode: int, path: str) -> None:
        node = image[inode]
        if isinstance(node, Directory):
            if inode != ROOT:
                os.mkdir(path, 0o700)
            for name, child in node.entries.items():
                walk(child, f"{path}/{name}")
            os.chmod(path, node.mode)
        elif isinstance(node, Link):
            os.symlink(node.target, path)
        elif inode in made:
            os.link(made[inode], path)
        else:
            made[inode] = path
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, node.mode)
            if node.data.count(0) == len(node.data):
                os.ftruncate(handle, len(node.data))  # held back space: no need to fill it
            else:
                os.write(handle, node.data)
            if node.mode & ~0o700:
                os.fchmod(handle, node.mode)
            os.close(handle)

    walk(ROOT, path)


def differences(image: Image, path: str) -> list[str]:
    """Between the image and what is really there, one sentence each; empty when they are the same."""
    found: list[str] = []
    twins: dict[int, int] = {}

    def walk(inode: int, path: str) -> None:
        node, status = image[inode], os.lstat(path)
        mode = stat.S_IMODE(status.st_mode)
        if isinstance(node, Link):
            if not stat.S_ISLNK(status.st_mode) or os.readlink(path) != node.target:
                found.append(f"{path} is not a link to {node.target}")
        elif isinstance(node, Directory):
            if not stat.S_ISDIR(status.st_mode) or mode != node.mode:
                found.append(f"{path} is not a directory of mode {node.mode:o}, but {status.st_mode:o}")
                return
            names = set(os.listdir(path))
            found.extend(
                f"{path}/{name}: nothing that was recorded made it" for name in names - set(node.entries)
            )
            found.extend(
                f"{path}/{name}: nothing that was recorded removed it" for name in set(node.entries) - names
            )
            for name in names & set(node.entries):
                walk(node.entries[name], f"{path}/{name}")
        else:
            if not stat.S_ISREG(status.st_mode) or mode != node.mode:
                found.append(f"{path} is not a file of mode {node.mode:o}, but {status.st_mode:o}")
                return
            if twins.setdefault(inode, status.st_ino) != status.st_ino:
                found.append(f"{path} is not the same file as under its other name")
            with open(path, "rb") as file:
                if file.read() != node.data:
                    found.append(f"{path} holds something else than was recorded")

    walk(ROOT, path)
    return found


def shown(image: Image) -> list[str]:
    """The tree for people: modes, sizes, targets."""
    lines: list[str] = []

    def walk(inode: int, path: str) -> None:
        node = image[inode]
        if isinstance(node, Directory):
            lines.append(f"{node.mode:04o} {path}/")
            for name in sorted(node.entries):
                walk(node.entries[name], f"{path}/{name}")
        elif isinstance(node, Link):
            lines.append(f"     {path} -> {node.target}")
        else:
            lines.append(f"{node.mode:04o} {path} {len(node.data)} bytes")

    walk(ROOT, "")
    return lines
