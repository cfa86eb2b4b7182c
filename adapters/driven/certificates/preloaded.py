"""Certificates that the configuration names: the operator's files, and lists of ids (services.md §4.4).

A list is read as its members one after another. What is wrong with it costs that member only, as far as
the rest still makes sense: an absent one is skipped, and so is one that leads back to itself.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from adapters.driven.files import read_file
from adapters.errors import CertificateRejected, StoreUnavailable, bounded
from adapters.wire import x509

MAX_FILE_BYTES = 2 * x509.MAX_BUNDLE_BYTES
"Of one file, and of a whole list."
MAX_MEMBERS = 1024
"Looked at in one list with all that are nested in it, however often each is named."

Preloaded = Mapping[str, str | tuple[str, ...]]
"Certificate id to absolute path, or to the ids of a list."


def flatten(list_id: str, preloaded: Preloaded, *, on_cycle: Callable[[str], None]) -> Iterator[str]:
    """Ids of the files that make up a list, in order; those that several lists name come several times.

    ``on_cycle`` is told each id that is left out because it would lead back to itself. Raises
    StoreUnavailable (code ``list-too-long``).
    """
    visited = 0
    path = [list_id]
    "From the list that was asked for to the one being read."
    pending = [_members(list_id, preloaded)]
    while pending:
        member = next(pending[-1], None)
        if member is None:
            pending.pop()
            path.pop()
            continue
        visited += 1
        if visited > MAX_MEMBERS:
            raise StoreUnavailable(
                f"preloaded certificate {_named(list_id)} has more than {MAX_MEMBERS} members; "
                "shorten the list",
                code="list-too-long",
                failure_class="operator",
            )
        if not isinstance(preloaded.get(member), tuple):
            yield member
        elif member in path:
            on_cycle(member)
        else:
            path.append(member)
            pending.append(_members(member, preloaded))


def join(list_id: str, members: Iterator[bytes | None]) -> bytes | None:
    """Contents one after another, each on lines of its own; None when all are absent.

    Raises StoreUnavailable (code ``list-too-large``).
    """
    joined: bytearray | None = None
    for content in members:
        if content is None:
            continue
        if joined is None:
            joined = bytearray()
        if content and joined and not joined.endswith(b"\n"):
            joined += b"\n"
        joined += content
        if len(joined) > MAX_FILE_BYTES:
            raise StoreUnavailable(
                f"preloaded certificate {_named(list_id)} is larger than {MAX_FILE_BYTES} bytes; "
                "shorten the list",
                code="list-too-large",
                failure_class="operator",
            )
    return None if joined is None else bytes(joined)


def preloaded_notes(preloaded: Preloaded, now_unix_ms: int) -> tuple[str, ...]:
    """What the operator should know of the configured files, a sentence each. For worker threads.

    Which cannot be read, by whom and why, and when the others expire: nobody renews them
    (services.md §10, quirks 28 and 32). Lists have no files of their own.
    """
    files = ((one, path) for one, path in preloaded.items() if isinstance(path, str))
    return tuple(f"preloaded certificate {_named(one)}: {_note(path, now_unix_ms)}" for one, path in files)


def _note(path: str, now_unix_ms: int) -> str:
    try:
        content = read_file(path, MAX_FILE_BYTES, follow=True)
    except PermissionError:
        return f"uid {os.geteuid()}, gid {os.getegid()} may not {_barrier(path)}; give it the right to"
    except OSError as exc:
        return f"{path} cannot be read: {exc.strerror}"
    if content is None:
        return f"{path} does not exist"
    try:
        not_after_unix_ms = x509.facts(content).not_after_unix_ms
    except CertificateRejected:
        return f"{path} does not begin with a certificate that can be read"
    when = f"{datetime.fromtimestamp(not_after_unix_ms // 1000, UTC):%Y-%m-%d}"
    if not_after_unix_ms <= now_unix_ms:
        return f"{path} expired on {when}; replace the file, it is not renewed here"
    return f"{path} expires on {when}; replace the file before that, it is not renewed here"


def _barrier(path: str) -> str:
    """The first thing on the way that is refused."""
    directory = os.sep
    for name in os.path.dirname(path).split(os.sep):
        directory = os.path.join(directory, name)
        if not os.access(directory, os.X_OK, effective_ids=True):
            return f"search {directory}"
    return f"read {path}"


def _members(list_id: str, preloaded: Preloaded) -> Iterator[str]:
    members = preloaded.get(list_id)
    return iter(members if isinstance(members, tuple) else ())


def _named(certificate_id: str) -> str:
    return f'"{bounded(certificate_id, 100)}"'
