"""Where key material lies, and its files (services.md §5.5). Everything blocks but ``place``.

A preloaded key is where the configuration says, and nowhere else. Every other lies below keyd's home in
``keys/<alnum(id)>-<sha256hex(id)>.key``: raw bytes for a symmetric key, PEM for a pair, one file for both
if they share an id. These are the original's files: what it left is used as it is, and it can read ours.

What is there but cannot be used is never replaced by something fresh: a certificate or an identity may
depend on it, and an operator may still have a copy (services.md §10, quirk 11).
"""

import contextlib
import os
from collections.abc import Callable, Mapping

from msgspec import Struct

from adapters.driven.files import make_durable_directory, read_file, unavailable
from adapters.driven.generations import NAME_MAX_BYTES, key_file_name
from adapters.driven.settled import Settled
from adapters.durable import replace_file, sync_directory
from adapters.errors import RequestRefused, StoreUnavailable, bounded

MAX_KEY_BYTES = 64 * 1024
"Of a key file, and of a key that is imported."
MAX_ID_BYTES = 1024
"In UTF-8. The file name, which has only the letters and digits of an id, is bounded beside that."

Preloaded = Callable[[], Mapping[str, str | bytes]]
"Key id to absolute path, or to the bytes of a symmetric key that is written in the configuration."

_NEW = ".new"
"What replace_file appends while it writes."


class Place(Struct, frozen=True, kw_only=True):
    """Where one id lives: at a path, or in the configuration itself."""

    key_id: str
    path: str = ""
    preloaded: bool = False
    "The operator chose the path; it may lead through links."
    inline: bytes | None = None
    "Secret."

    def __repr__(self) -> str:
        return f"Place({self.key_id!r}, {self.path or 'inline'})"


class KeyFiles:
    """Key files by id. One caller at a time for each path that is written."""

    def __init__(self, keyd_home: str, preloaded: Preloaded) -> None:
        self.directory = os.path.join(keyd_home, "keys")
        self._preloaded = preloaded
        self._settled = Settled()

    def place(self, key_id: str) -> Place:
        """Touches no disk. Raises RequestRefused (parameter ``id``) for an id nothing can be filed under."""
        try:
            size = len(key_id.encode())
        except UnicodeEncodeError as exc:
            raise _bad_id("it is not UTF-8") from exc
        if "\0" in key_id:
            raise _bad_id("a nul byte found in it")
        if size > MAX_ID_BYTES:
            raise _bad_id(f"it is longer than {MAX_ID_BYTES} bytes")
        match self._preloaded().get(key_id):
            case bytes(content):
                return Place(key_id=key_id, preloaded=True, inline=content)
            case str(path):
                return Place(key_id=key_id, preloaded=True, path=path)
        name = key_file_name(key_id)
        if len(name) + len(_NEW) > NAME_MAX_BYTES:
            raise _bad_id("it has more letters and digits than a file name can hold")
        return Place(key_id=key_id, path=os.path.join(self.directory, name))

    def read(self, place: Place) -> bytes | None:
        """The whole key, None when there is none. Raises StoreUnavailable, also for an empty file."""
        if place.inline is not None:
            return place.inline
        try:
            content = read_file(place.path, MAX_KEY_BYTES, follow=place.preloaded)
        except OSError as exc:
            raise unavailable(exc, place.path) from exc
        if content == b"":
            raise unusable(place.path, "is empty")
        return content

    def write(self, place: Place, content: bytes) -> None:
        """Durable on return; what was there is intact when it raises RequestRefused or StoreUnavailable."""
        _refuse_inline(place)
        path = self._target(place)
        try:
            if not place.preloaded:
                make_durable_directory(self.directory)
            with self._settled.changing(os.path.dirname(path)):
                replace_file(path, content)
        except OSError as exc:
            raise unavailable(exc, path) from exc

    def settle(self, place: Place, *, ours_only: bool = False) -> None:
        """Of a key that was found: durable on return, as if it had been written. Raises StoreUnavailable.

        ``ours_only`` leaves out what an earlier process may not have brought to disk.
        """
        if place.preloaded:
            return
        try:
            if ours_only:
                self._settled.finish(self.directory)
            else:
                self._settled.settle(self.directory)
        except OSError as exc:
            raise unavailable(exc, place.path) from exc

    def delete(self, place: Place) -> None:
        """Durable on return; nothing there is fine. Raises RequestRefused and StoreUnavailable."""
        _refuse_inline(place)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place.path)
            # Also when it was gone: an earlier try may have got no further than that.
            sync_directory(os.path.dirname(place.path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise unavailable(exc, place.path) from exc

    def move(self, source: Place, target: Place) -> None:
        """One rename, over what is at the target. Raises RequestRefused and StoreUnavailable.

        When only the last sync fails the key has moved, and an error is raised all the same.
        """
        _refuse_inline(source)
        _refuse_inline(target)
        old, new = self._target(source), self._target(target)
        try:
            if not target.preloaded:
                make_durable_directory(self.directory)
            os.rename(old, new)
            for directory in {os.path.dirname(new), os.path.dirname(old)}:
                sync_directory(directory)
        except OSError as exc:
            raise unavailable(exc, new) from exc

    def sweep(self) -> None:
        """Remove half-written keys of an earlier life, as far as that can be done."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.directory):
                if name.endswith(f".key{_NEW}"):
                    os.unlink(os.path.join(self.directory, name))

    def _target(self, place: Place) -> str:
        """Where to write: behind the operator's links, and never into a directory nobody has made."""
        if not place.preloaded:
            return place.path
        path = os.path.realpath(place.path)
        if not os.path.isdir(os.path.dirname(path)):
            raise StoreUnavailable(
                f"{os.path.dirname(path)} does not exist; create it, or correct [preloaded_keys]",
                code="directory-missing",
                failure_class="operator",
            )
        return path


def no_key(key_id: str) -> RequestRefused:
    return RequestRefused(f'no key "{bounded(key_id, 80)}"', code="not-found")


def unusable(path: str, what: str) -> StoreUnavailable:
    """For what is there and must not be replaced."""
    return StoreUnavailable(
        f"{path} {what}; restore it from a backup, or move it away to have a new key made",
        code="key-unusable",
        failure_class="operator",
    )


def _bad_id(why: str) -> RequestRefused:
    return RequestRefused(why, code="id-unusable", parameter="id")


def _refuse_inline(place: Place) -> None:
    if place.inline is not None:
        raise RequestRefused(
            f'key "{bounded(place.key_id, 80)}" is written in the configuration; change it there',
            code="read-only",
        )
