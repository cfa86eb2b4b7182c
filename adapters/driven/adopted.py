"""What is remembered of an installation of the original that was taken over: ``identityd/adopted/``.

::

    adopted/
        adopted.json      the record: from where, when, which generation came of it
        certs/  keys/     the original's own files under the names that our links take over

The copies are the way back where both services share their directories. The record also tells a first start
after an adoption, which has no journal yet, from one whose journal is missing.
"""

import os
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.driven.files import read_file
from adapters.durable import replace_file

DIRECTORY, FILE = "adopted", "adopted.json"
MAX_RECORD_BYTES = 64 * 1024


class Kept(Struct, frozen=True, kw_only=True):
    """A copy of one file of the original, and how to put it back."""

    kind: Literal["certs", "keys"]
    name: str
    mode: int
    uid: int
    gid: int


class Adopted(Struct, frozen=True, kw_only=True):
    """``adopted.json``. Unknown members are ignored: an older release can read a newer file."""

    source: str
    "Root of the original's directories."
    in_place: bool
    "They are this service's own."
    at_unix_ms: int
    generation: int | None = None
    "Of our store; None when no assignment was taken over."
    sha256: str = ""
    "Of the issued certificate, hex; empty without one."
    kept: tuple[Kept, ...] = ()
    begun: bool = False
    "A journal was begun since."


def directory(state_dir: str) -> str:
    return os.path.join(state_dir, DIRECTORY)


def kept_path(state_dir: str, kept: Kept) -> str:
    return os.path.join(state_dir, DIRECTORY, kept.kind, kept.name)


def read_record(state_dir: str) -> Adopted | None:
    """None when there is none. Raises OSError, and ValueError for a damaged one."""
    content = read_file(os.path.join(state_dir, DIRECTORY, FILE), MAX_RECORD_BYTES)
    return None if content is None else msgspec.json.decode(content, type=Adopted)


def write_record(state_dir: str, record: Adopted) -> None:
    """Durable on return. Raises OSError."""
    replace_file(os.path.join(state_dir, DIRECTORY, FILE), msgspec.json.encode(record))


def is_first_start(state_dir: str, current: int | None) -> bool:
    """Whether what is current was taken over and no journal was begun since. Never raises."""
    try:
        record = read_record(state_dir)
    except (OSError, ValueError):
        return False
    return record is not None and not record.begun and current is not None and record.generation == current


def note_begun(state_dir: str) -> None:
    """From here on a missing journal is missing. Raises OSError."""
    record = read_record(state_dir)
    if record is not None and not record.begun:
        write_record(state_dir, msgspec.structs.replace(record, begun=True))
