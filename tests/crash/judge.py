"""Starts the service on a disk, and says what is wrong with what comes of it.

First the disk is read as a stranger would, by published name and without any code of the stores: whatever
was promised is there. Then the service starts on it, must reach Provisioned, must get a further credential
when it is asked to, and everything is read again. ``Wrong`` is the verdict; no verdict is a good one.
"""

import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from adapters.driven.generations import certificate_file_name, key_file_name
from adapters.paths import Paths, paths_below
from statemachine.events import RenewRequested, ReprovisionRequested
from statemachine.journal import read
from statemachine.replay import replay_files
from statemachine.settings import IDENTITY_CERTIFICATE_ID, IDENTITY_KEY_ID
from tests.crash.device import Start, live
from tests.crash.image import Image, put
from tests.crash.promises import PAIR, Owed, Promises
from tests.crash.sequence import (
    CHAPTERS,
    Moment,
    generation_of,
    provisioned,
    until,
    write_certificate,
    write_key,
    write_modules,
)

DOWN_MS = 60_000
"How long the power is away."
RECOVERED_WITHIN_S = 45 * 86_400.0
"What is due only late in a certificate's life is waited for: the clock jumps."
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

TORN_END = "journal: a torn end of "


class Wrong(Exception):
    """Something that must never be."""


@contextmanager
def empty_directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="crash-") as path:
        os.chmod(path, 0o700)
        yield os.path.realpath(path)


def judge(image: Image, moment: Moment, *, tidy: bool) -> None:
    """``tidy``: no write is there in part, so there is nothing to remark. Raises Wrong."""
    with empty_directory() as root:
        put(image, root)
        judge_directory(root, moment, tidy=tidy)


def judge_directory(root: str, moment: Moment, *, tidy: bool) -> None:
    """The same for a disk that is there already. Raises Wrong."""
    paths = paths_below(root)
    held = look(paths, moment.owed)
    chapter = CHAPTERS[min(moment.chapter, len(CHAPTERS) - 1)]
    promises = Promises(moment.owed)
    start = Start(
        root,
        now_unix_ms=moment.now_unix_ms + DOWN_MS,
        cloud=moment.cloud,
        rotate_key=chapter.rotate_key,
        seed=2,
        promises=promises,
    )

    async def recover() -> None:
        async with start.running() as runtime:
            opened = look(paths, promises.owed)
            if held is not None and opened is None and moment.cloud.issues:
                raise Wrong("there was a pair; since the start there is none")
            _judge_opening(start, moment, tidy=tidy)
            await until(runtime, provisioned, RECOVERED_WITHIN_S)
            _judge_rest(start)
            before = generation_of(runtime.snapshot)
            start.registrar.issues = True
            issued = (
                runtime.snapshot.credential is not None and runtime.snapshot.credential.source == "issued"
            )
            await runtime.command(RenewRequested(uid=0) if issued else ReprovisionRequested(uid=0))
            await until(
                runtime,
                lambda snapshot: provisioned(snapshot) and generation_of(snapshot) > before,
                RECOVERED_WITHIN_S,
            )
            await write_key(start, "afterwards", b"third" * 8)
            await write_certificate(start, "afterwards", "five")
            await write_modules(start, start.registrar.hub, "edgeAgent")
            _judge_rest(start)

    try:
        live(recover, root)
    except Wrong:
        raise
    except BaseExceptionGroup as group:
        raise Wrong(first_of(group)) from group
    except (AssertionError, OSError, RuntimeError, trio.TooSlowError) as exc:
        raise Wrong(f"the start failed: {type(exc).__name__}: {exc}") from exc
    look(paths, promises.owed)
    judge_journal(paths, promises.owed)
    judge_leftovers(paths)


def first_of(exc: BaseException) -> str:
    """What went wrong, out of however many groups."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, trio.TooSlowError):
        return "it never came to rest in Provisioned"
    return str(exc) if isinstance(exc, Wrong) else f"{type(exc).__name__}: {exc}"


# --- a running service -------------------------------------------------------------------------------


def _judge_opening(start: Start, moment: Moment, *, tidy: bool) -> None:
    snapshot = start.runtime.snapshot
    degraded = list(snapshot.degraded)
    if not tidy:
        degraded = [note for note in degraded if not note.startswith(TORN_END)]
    if degraded:
        raise Wrong(f"it says that it is degraded: {degraded}")
    if snapshot.sequence <= moment.owed.sequence:
        raise Wrong(f"the history ends at {snapshot.sequence}, {moment.owed.sequence} was durable")
    if snapshot.epoch != 1:
        raise Wrong("a new epoch was begun")


def _judge_rest(start: Start) -> None:
    credential = start.runtime.snapshot.credential
    held = start.store.inventory().current
    if credential is None or held is None or credential.sha256 != held.sha256:
        raise Wrong(f"the machine believes in {credential}, the store holds {held}")
    if held.source == "issued" and credential.not_after_unix_ms <= start.clock.now_unix_ms():
        raise Wrong("the certificate has ended")


# --- a disk ------------------------------------------------------------------------------------------


def look(paths: Paths, owed: Owed) -> bytes | None:
    """The published chain, which has its key; None when there is none and none was promised.

    Raises Wrong for a pair or file that should be there, does not fit, or may be read by others.
    """
    chain = _judge_pair(paths, owed)
    for relative in owed.files:
        if owed.forbids(relative, content := _content(Path(paths.root, relative))):
            raise Wrong(f"{relative} is {'missing' if content is None else 'another one'}")
    _judge_modes(paths)
    return chain


def _judge_pair(paths: Paths, owed: Owed) -> bytes | None:
    chain = _content(Path(paths.certd_home, "certs", certificate_file_name(IDENTITY_CERTIFICATE_ID)))
    key = _content(Path(paths.keyd_home, "keys", key_file_name(IDENTITY_KEY_ID)))
    if owed.forbids(PAIR, chain):
        raise Wrong("no certificate is published" if chain is None else "another certificate is published")
    if chain is None:
        return None
    if key is None:
        raise Wrong("a certificate is published, its key is not there")
    try:
        leaf = x509.load_pem_x509_certificate(chain).public_key()
        fits = load_pem_private_key(key, None).public_key() == leaf
    except ValueError as exc:
        raise Wrong(f"certificate or key cannot be read: {exc}") from exc
    if not fits:
        raise Wrong("the key is not that of the certificate")
    return chain


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _judge_modes(paths: Paths) -> None:
    for directory, directories, files in os.walk(paths.root):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode) and mode & 0o077:
                raise Wrong(f"{path} has mode {stat.S_IMODE(mode):04o}")


def judge_journal(paths: Paths, owed: Owed) -> None:
    """What was written before and after continues, and folds to the same decisions. Raises Wrong."""
    state = Path(paths.state_dir)
    if aside := sorted(path.name for path in state.glob("*.damaged-*")):
        raise Wrong(f"set aside: {aside}")
    files = [*sorted(state.glob("journal-*.jsonl")), Path(paths.journal)]
    named = [(path.name, path.read_bytes()) for path in files]
    outcome = replay_files(named)
    if not outcome.equal or outcome.snapshot is None:
        raise Wrong(f"replay: {outcome.unreadable or outcome.divergence}")
    if outcome.snapshot.sequence != owed.sequence:
        raise Wrong(f"the journal ends with {outcome.snapshot.sequence}, not with {owed.sequence}")
    readings = [(name, read(content)) for name, content in named]
    for (before, first), (name, second) in itertools.pairwise(readings):
        if second.header is None or second.header.continues != first.last_hash:
            raise Wrong(f"{name} does not continue {before}: a file is missing between them")


def judge_leftovers(paths: Paths) -> None:
    """What a crash left half-made is gone after a start and the first change beside it. Raises Wrong.

    Not looked for: ``last-good.toml.new`` and files of the modules' cache, one for each name at most, which
    the next write under that name takes over.
    """
    for directory, directories, files in os.walk(paths.root):
        if "/modules" in directory:
            continue
        for name in (*directories, *files):
            if name.endswith((".new", ".gone")) and not name.startswith("last-good"):
                raise Wrong(f"left behind: {os.path.join(directory, name)}")
