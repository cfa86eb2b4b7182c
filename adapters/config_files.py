"""The files of a configuration: ``config.toml``, the drop-ins beside it, and the last good ones in one file.

Everything is bounded; what cannot be read is a mistake in the configuration, with the file named.
"""

import json
import os
import stat
from collections.abc import Iterator
from typing import Any

import msgspec
import tomli
from msgspec import Struct

from adapters.config_findings import Findings
from adapters.config_forms import looks_secret
from adapters.config_rows_drop_ins import SERVICES, Service
from adapters.durable import replace_file
from adapters.errors import StoreUnavailable, bounded

MAX_CONFIG_BYTES = 262_144
"Ten times the original's template; the slowest TOML of this size takes the parser a few seconds."
MAX_DROP_IN_BYTES = 65_536
MAX_DROP_INS_BYTES = 262_144
"Of all drop-ins together."
MAX_DROP_INS = 256

GENERATED = "00-super.toml"
"What ``config apply`` of the original makes of config.toml: said twice, arrays would be doubled."

SEAL = "#identityd-last-good 1 "
"""Begins the first line of a last good configuration; one JSON object with the drop-ins ends that line, and
config.toml follows as it was. To TOML it is a comment: an earlier release reads the rest, and a file without
it is what an earlier release wrote."""

MAX_SEALED_BYTES = MAX_CONFIG_BYTES + 8 * MAX_DROP_INS_BYTES + MAX_DROP_INS * 8192
"JSON of valid TOML is at most six times as long; and the paths."


class DropIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a ``config.d``."""

    service: Service
    path: str
    text: str

    def __repr__(self) -> str:
        return f"DropIn({self.path})"


class Sources(Struct, frozen=True, kw_only=True):
    """The texts a configuration is made of."""

    path: str
    text: str
    drop_ins: tuple[DropIn, ...] = ()
    "By service, then by path, as they are merged."

    def __repr__(self) -> str:
        return f"Sources({self.path}, {self.drop_ins})"


class _Sealed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    drop_ins: tuple[DropIn, ...]


def read_sources(path: str, findings: Findings) -> Sources | None:
    """``config.toml`` and the drop-ins beside it; None when it cannot be read."""
    text = read_text(path, MAX_CONFIG_BYTES, findings)
    drop_ins = tuple(_read_drop_ins(os.path.dirname(path), findings))
    return None if text is None else Sources(path=path, text=text, drop_ins=drop_ins)


def _read_drop_ins(directory: str, findings: Findings) -> Iterator[DropIn]:
    left, count = MAX_DROP_INS_BYTES, 0
    for service in SERVICES:
        folder = os.path.join(directory, service, "config.d")
        for path in _drop_in_paths(folder, findings.of(folder)):
            count += 1
            if count > MAX_DROP_INS:
                findings.of(folder).add(
                    "", f"found more than {MAX_DROP_INS} drop-ins; allowed at most that many"
                )
                return
            its_own = findings.of(path)
            text = read_text(path, MAX_DROP_IN_BYTES, its_own, missing="found no such file any more")
            if text is None:
                continue
            left -= len(text.encode())
            if left < 0:
                its_own.add(
                    "",
                    f"found more than {MAX_DROP_INS_BYTES} bytes in all drop-ins; allowed at most that many",
                )
                return
            yield DropIn(service=service, path=path, text=text)


def _drop_in_paths(folder: str, findings: Findings) -> list[str]:
    """config-and-cli.md §2: plain files by their directory entry, extension exactly toml, sorted by byte."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if os.path.splitext(entry.name)[1] != ".toml" or entry.name == GENERATED:
                    continue
                if entry.is_file(follow_symlinks=False):
                    found.append(entry.path)
                elif entry.is_symlink():
                    findings.of(entry.path).note("", "not read: a symbolic link; put the file itself there")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        findings.add("", f"cannot be read: {exc.strerror}")
    except ValueError:
        findings.add("", "is not a usable path")
    return sorted(found, key=os.fsencode)


def read_text(
    path: str,
    limit: int,
    findings: Findings,
    *,
    missing: str = "found no such file; create it, config/default.toml explains every key; or correct --root",
) -> str | None:
    """The text of ``path``, or None and why not in ``findings``."""
    try:
        # Non-blocking, so that a FIFO in its place cannot hold the start.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                findings.add("", "found something that is not a regular file; allowed a TOML file")
                return None
            with open(handle, "rb", closefd=False) as file:
                content = file.read(limit + 1)
        finally:
            os.close(handle)
    except FileNotFoundError:
        findings.add("", missing)
        return None
    except OSError as exc:
        findings.add("", f"cannot be read: {exc.strerror}")
        return None
    except ValueError:
        findings.add("", "is not a usable path")
        return None
    if len(content) > limit:
        findings.add("", f"found more than {limit} bytes; allowed at most that many")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        findings.add("", "found bytes that are not UTF-8; allowed UTF-8 text", line=line)
        return None


def parsed(text: str, findings: Findings) -> dict[str, Any] | None:
    """What ``text`` says, or None and why it cannot be told in ``findings``."""
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError as exc:
        # Not str(exc): it says the position again, or "at end of document". A message may quote a key.
        reason = "a key is defined twice" if looks_secret(exc.msg) else bounded(exc.msg, 120)
        findings.add("", f"not valid TOML: {reason}", line=exc.lineno, column=exc.colno)
        return None
    except (ValueError, RecursionError):
        # tomli lets these through for integers of thousands of digits and for deep nesting.
        findings.add("", "not usable TOML: a number is too long, or arrays or tables are nested too deeply")
        return None
    findings.has_text(text)
    return tree


# --- the last good configuration ---------------------------------------------------------------------


def seal(sources: Sources) -> str:
    """All texts as one, so that one rename keeps or loses all of them."""
    drop_ins = [msgspec.structs.asdict(drop_in) for drop_in in sources.drop_ins]
    # ASCII, and without DEL: TOML allows no control character in a comment.
    line = json.dumps({"drop_ins": drop_ins}, separators=(",", ":")).replace("\x7f", "\\u007f")
    return f"{SEAL}{line}\n{sources.text}"


def unseal(path: str, text: str) -> Sources | None:
    """What ``seal`` made of, also of a plain ``config.toml``; None when the first line is damaged."""
    if not text.startswith(SEAL):
        return Sources(path=path, text=text)
    line, _, rest = text.removeprefix(SEAL).partition("\n")
    try:
        sealed = msgspec.json.decode(line, type=_Sealed)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return Sources(path=path, text=rest, drop_ins=sealed.drop_ins)


def save_last_good(path: str, text: str) -> None:
    """Keep ``text`` as the last good configuration: mode 0600, durable on return, untouched when unchanged.

    ``text`` is what ``seal`` returns. Missing directories are created with mode 0700. Raises
    StoreUnavailable; the old file is then intact.
    """
    content = text.encode()
    try:
        if not _holds(path, content):
            replace_file(path, content)
    except OSError as exc:
        raise StoreUnavailable(
            f"cannot save the last good configuration as {path}: {exc.strerror}",
            code="last-good-not-saved",
        ) from exc


def _holds(path: str, content: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            private = stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
            return private and file.read(len(content) + 1) == content
    except FileNotFoundError:
        return False
