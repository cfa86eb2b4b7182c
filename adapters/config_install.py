"""Several files put in place together: all are whole beside the old ones before the first is replaced.

What is replaced stays beside it as ``NAME.bak``, always the whole set as it was before. When a rename fails,
what was renamed already is put back. A power cut between two renames leaves some files old and some new, each
of them whole; the next run ends it.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from adapters.durable import sync_directory
from adapters.errors import StoreUnavailable

BACKUP, STAGED = ".bak", ".new"
"Neither ends with .toml: a daemon would read it."

FILE_MODE, PRIVATE_DIRECTORY_MODE, DIRECTORY_MODE = 0o600, 0o700, 0o755

Change = Literal["new", "changed", "unchanged"]


class NewFile(Struct, frozen=True, kw_only=True):
    """A file as it shall be, with mode 0600 in a directory of mode 0700, both its owner's."""

    path: str
    "Absolute, without the root."
    content: bytes
    owner: str
    reached_by_owner: bool = False
    "Whether directories above that its owner cannot pass are opened."

    def __repr__(self) -> str:
        return f"NewFile({self.path}, {len(self.content)} bytes, {self.owner})"


class Owner(Struct, frozen=True):
    uid: int
    gid: int


class Planned(Struct, frozen=True, kw_only=True):
    """What is done about one file."""

    file: NewFile
    path: str
    "With the root."
    change: Change
    owner: Owner | None
    "None: ownership stays that of whoever runs this."


class Installed(Struct, frozen=True, kw_only=True):
    replaced: tuple[str, ...]
    "Paths of backups."
    opened: tuple[str, ...]
    "Directories that got read permission for everybody."


def plan(files: Iterable[NewFile], *, root: str, owners: Mapping[str, Owner] | None) -> tuple[Planned, ...]:
    """What would be done, by name of the owners; without them ownership is left alone.

    Raises StoreUnavailable when a file that is there cannot be read.
    """
    planned = []
    for file in files:
        path = os.path.join(root, file.path.lstrip("/"))
        owner = None if owners is None else owners[file.owner]
        planned.append(Planned(file=file, path=path, change=_change(path, file, owner), owner=owner))
    return tuple(planned)


def install(planned: Sequence[Planned], *, root: str) -> Installed:
    """Does it. Nothing when all are unchanged. Raises StoreUnavailable; the old files are then in place."""
    if all(one.change == "unchanged" for one in planned):
        return Installed(replaced=(), opened=())
    staged: list[Planned] = []
    try:
        opened = _make_directories(planned, root)
        for one in planned:
            staged.append(one)
            _stage(one)
        replaced = tuple(backup for one in planned if (backup := _back_up(one.path)) is not None)
        _replace(staged)
    except OSError as exc:
        for one in staged:
            with contextlib.suppress(OSError):
                os.unlink(one.path + STAGED)
        where = f"{exc.filename}: " if isinstance(exc.filename, str) else ""
        raise StoreUnavailable(
            f"{where}{exc.strerror}; the files are as they were", code="files-not-written"
        ) from exc
    return Installed(replaced=replaced, opened=opened)


def _change(path: str, file: NewFile, owner: Owner | None) -> Change:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as current:
            found = os.fstat(handle)
            same = (
                stat.S_ISREG(found.st_mode)
                and stat.S_IMODE(found.st_mode) == FILE_MODE
                and (owner is None or (found.st_uid, found.st_gid) == (owner.uid, owner.gid))
                and current.read(len(file.content) + 1) == file.content
            )
    except FileNotFoundError:
        return "new"
    except OSError as exc:
        raise StoreUnavailable(
            f"{path} is there and cannot be read: {exc.strerror}", code="file-unreadable"
        ) from exc
    return "unchanged" if same else "changed"


# --- directories -------------------------------------------------------------------------------------


def _make_directories(planned: Sequence[Planned], root: str) -> tuple[str, ...]:
    """Returns those that were opened. Raises OSError. The others that are there stay as they are."""
    opened: list[str] = []
    os.makedirs(root, DIRECTORY_MODE, exist_ok=True)
    for one in planned:
        directory = os.path.dirname(one.path)
        above = _between(root, os.path.dirname(directory))
        for path in above:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, DIRECTORY_MODE)
                os.chmod(path, DIRECTORY_MODE)  # whatever the umask says
        try:
            os.mkdir(directory, PRIVATE_DIRECTORY_MODE)
        except FileExistsError:
            made = False
        else:
            made = True
        if one.owner is not None and (made or one.file.reached_by_owner):
            os.chown(directory, one.owner.uid, one.owner.gid, follow_symlinks=False)
            os.chmod(directory, PRIVATE_DIRECTORY_MODE)
        if one.owner is not None and one.file.reached_by_owner:
            opened += [path for path in above if _open(path, one.owner)]
    return tuple(dict.fromkeys(opened))


def _between(root: str, directory: str) -> list[str]:
    """The directories from below ``root`` down to this one, the outermost first."""
    found = []
    while directory not in (root, "/", ""):
        found.append(directory)
        directory = os.path.dirname(directory)
    return found[::-1]


def _open(path: str, owner: Owner) -> bool:
    """As the original does: a directory that ``owner`` cannot pass gets r-x for everybody."""
    found = os.stat(path)
    mode = stat.S_IMODE(found.st_mode)
    passes = 0o5
    shifts = (0, 3 if found.st_gid == owner.gid else 0, 6 if found.st_uid == owner.uid else 0)
    if any(mode >> shift & passes == passes for shift in shifts):
        return False
    os.chmod(path, mode | passes)
    return True


# --- files -------------------------------------------------------------------------------------------


def _stage(one: Planned) -> None:
    """Raises OSError. The directory may be another user's: nothing that is there is written to."""
    staged = one.path + STAGED
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged)
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with open(handle, "wb") as file:
        os.fchmod(handle, FILE_MODE)
        if one.owner is not None:
            os.fchown(handle, one.owner.uid, one.owner.gid)
        file.write(one.file.content)
        file.flush()
        os.fsync(handle)


def _back_up(path: str) -> str | None:
    """Another name for what is there; of a file that is not there, no backup stays either."""
    backup, staged = path + BACKUP, path + BACKUP + STAGED
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged)
    try:
        os.link(path, staged, follow_symlinks=False)
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(backup)
        return None
    os.rename(staged, backup)
    # Two names of one file: the rename did nothing, and its source is still there.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged)
    return backup


def _replace(staged: Sequence[Planned]) -> None:
    done: list[Planned] = []
    try:
        for one in staged:
            os.rename(one.path + STAGED, one.path)
            done.append(one)
        for directory in {os.path.dirname(one.path) for one in staged}:
            sync_directory(directory)
    except OSError:
        for one in reversed(done):
            with contextlib.suppress(OSError):
                _put_back(one.path)
        raise


def _put_back(path: str) -> None:
    if os.path.lexists(path + BACKUP):
        os.link(path + BACKUP, path + STAGED, follow_symlinks=False)
        os.rename(path + STAGED, path)
    else:
        os.unlink(path)
