"""Unix sockets that listen: bound here without a moment of the wrong mode, or handed over by systemd."""

import contextlib
import errno
import grp
import logging
import os
import socket
import stat

import trio

from adapters.errors import StoreUnavailable

BACKLOG = 128

log = logging.getLogger(__name__)


def unix_listener(path: str, mode: int = 0o660, group: str | None = None) -> trio.SocketListener:
    """Listen on ``path``; a stale socket there is replaced, and so is an empty directory.

    The socket gets its group and mode under another name before it listens, and its own name last: at no
    time can a process connect that they forbid. Where ``group`` does not exist or may not be given, the
    socket keeps the service's own: fewer can connect, and the device serves. A missing parent directory is
    made with mode 0755.
    Raises StoreUnavailable: class operator, code ``socket-path-taken``; class retry, code
    ``socket-unavailable`` (also for a path that is too long; ``paths.py`` says that before, and better).
    """
    # No longer than the path itself, which may be at the limit. One name, so a crash leaves one file.
    temporary = path[:-1] + ("~" if path[-1:] != "~" else "#")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _make_parents(os.path.dirname(path) or ".")
        _clear_place(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        bound.bind(temporary)
        _open_under_its_name(bound, temporary, path, mode, group)
    except OSError as exc:
        bound.close()
        raise StoreUnavailable(
            f"cannot listen on {path}: {exc.strerror or exc}", code="socket-unavailable"
        ) from exc
    except StoreUnavailable:
        bound.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def listener_from_fd(fd: int) -> trio.SocketListener:
    """The listener that somebody else bound, as systemd does. The descriptor is owned from here on.

    Its path, mode and owner stay as they are. Raises StoreUnavailable (class operator, code
    ``activation-invalid``) for anything but a Unix stream socket.
    """
    try:
        given = socket.socket(fileno=fd)
    except OSError as exc:
        raise _activation_invalid(fd, exc.strerror or "unusable") from exc
    if given.family != socket.AF_UNIX or given.type != socket.SOCK_STREAM:
        given.close()
        raise _activation_invalid(fd, "not a Unix stream socket")
    try:
        given.set_inheritable(False)
        if not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            given.listen(BACKLOG)
    except OSError as exc:
        given.close()
        raise _activation_invalid(fd, exc.strerror or "unusable") from exc
    return trio.SocketListener(trio.socket.from_stdlib_socket(given))


def _open_under_its_name(
    bound: socket.socket, temporary: str, path: str, mode: int, group: str | None
) -> None:
    try:
        if group is not None:
            _give(temporary, group, path)
        os.chmod(temporary, mode)
        bound.listen(BACKLOG)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _give(temporary: str, group: str, path: str) -> None:
    try:
        os.chown(temporary, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        pass  # the original is not installed, so its clients are not either
    except OSError as exc:
        # An ordinary user may not give a socket away; in a container the group may not be mapped (EINVAL).
        if exc.errno != errno.EPERM:
            log.warning("%s keeps its group: %s", path, exc.strerror)


def _activation_invalid(fd: int, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"descriptor {fd} cannot be served: {why}", code="activation-invalid", failure_class="operator"
    )


def _make_parents(directory: str) -> None:
    missing = []
    while not os.path.isdir(directory):
        missing.append(directory)
        directory = os.path.dirname(directory) or "."
    for name in reversed(missing):
        os.mkdir(name)
        os.chmod(name, 0o755)  # whatever the umask says: clients must reach the socket


def _clear_place(path: str) -> None:
    """Make sure that a rename onto ``path`` takes nothing away but a socket."""
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(kind):
        return
    if stat.S_ISDIR(kind):
        # Container engines make a directory where the source of a bind mount is missing.
        with contextlib.suppress(OSError):
            os.rmdir(path)
            return
    raise StoreUnavailable(
        f"{path} exists and is not a socket; move it away", code="socket-path-taken", failure_class="operator"
    )
