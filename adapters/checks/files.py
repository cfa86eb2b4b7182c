"""Who may read or change a file, judged by owner and mode along its whole path."""

import os
import pwd
import stat
from collections.abc import Iterator

from adapters.checks.outcome import Finding
from adapters.checks.subject import Subject, reason_of

READABLE = stat.S_IRGRP | stat.S_IROTH
WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def service_uid(subject: Subject) -> int:
    """Whose the service is: the owner of its state, else we."""
    try:
        return os.stat(subject.paths.state_dir).st_uid
    except OSError:
        return os.geteuid()


def service_gid(subject: Subject) -> int | None:
    """The group of a service that is not root: root's files may be readable by it."""
    try:
        found = os.stat(subject.paths.state_dir)
    except OSError:
        return None
    return found.st_gid if found.st_uid else None


def named(uid: int) -> str:
    """A user in words."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def privacy(path: str, what: str, subject: Subject) -> Iterator[Finding]:
    """What is wrong with who may read a secret, or put another in its place. Links are followed."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        yield Finding(seen=f"{what}: {path}: {reason_of(exc)}", fix="use sudo, or correct its directories")
        return
    owners = frozenset({0, service_uid(subject)})
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == 0 and found.st_gid == service_gid(subject):
        mode &= ~(stat.S_IRGRP | stat.S_IXGRP)
    private = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
    if mode & (READABLE | WRITABLE):
        who = "everybody" if mode & (stat.S_IROTH | stat.S_IWOTH) else "its group"
        may = "read and change" if mode & WRITABLE else "read"
        yield Finding(
            seen=f"{what}: {path} has mode {mode:04o}, so {who} may {may} it",
            fix=f"sudo chmod {private:04o} {path}",
        )
    if found.st_uid not in owners:
        seen = f"{what}: {path} belongs to {named(found.st_uid)}"
        yield Finding(seen=seen, fix=f"sudo chown {named(max(owners))} {path}")
    yield from open_directories(path, what)


def open_directories(path: str, what: str) -> Iterator[Finding]:
    """Directories above in which somebody else could put another file in its place."""
    directory = os.path.dirname(os.path.realpath(path))
    while True:
        try:
            mode = stat.S_IMODE(os.stat(directory).st_mode)
        except OSError:
            return
        if mode & WRITABLE and not mode & stat.S_ISVTX:
            seen = f"{what}: {directory} has mode {mode:04o}: others can replace what is in it"
            yield Finding(seen=seen, fix=f"sudo chmod go-w {directory}")
        if directory == os.sep or os.path.ismount(directory):
            return
        directory = os.path.dirname(directory)
