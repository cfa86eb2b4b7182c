"""Where certificates by id lie: certd's home, or the file that the configuration names for one.

Reading takes no lock, because a file is replaced by a rename. Changes happen one at a time, each in one
step: a caller that gives up its wait leaves the old file or the new one, and the next change waits for
what it left behind. All work is done in threads that are for this alone, so that a card that hangs does not
use up those that the journal and the keys need.
"""

import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import Callable

import trio

from adapters.driven.certificates.preloaded import MAX_FILE_BYTES, Preloaded, flatten, join
from adapters.driven.files import Misshapen, make_durable_directory, read_file, unavailable
from adapters.driven.generations import NAME_MAX_BYTES, NEW, certificate_file_name
from adapters.durable import replace_file, sync_directory, write_synced
from adapters.errors import RequestRefused, bounded

READS = 8
"At once."

_BESIDE = ".identityd.new"
"A file of the operator is written beside itself under a name that nobody else uses."
_LEFTOVER = re.compile(r"[A-Za-z0-9]*-[0-9a-f]{64}\.cer" + re.escape(NEW))

ReadStored = Callable[[str], bytes | None]
"Of any id below certd's home, as ``GenerationStore`` reads it; blocks."

log = logging.getLogger(__name__)


class CertificateFiles:
    """Certificates by id as bytes. ``preloaded`` is asked for with each call: a reload may change it."""

    def __init__(self, certd_home: str, read_stored: ReadStored, preloaded: Callable[[], Preloaded]) -> None:
        self._directory = os.path.join(certd_home, "certs")
        self._read_stored = read_stored
        self._preloaded = preloaded
        self._readers = trio.CapacityLimiter(READS)
        self._writer = trio.CapacityLimiter(1)
        self._swept = False
        self._cycles: set[tuple[str, str]] = set()
        "Told once."

    async def read(self, certificate_id: str) -> bytes | None:
        """None when there is none. Raises StoreUnavailable. Gives up its wait when cancelled."""
        # Reading leaves nothing half-done behind, so a caller that is gone needs nobody to wait for it.
        return await trio.to_thread.run_sync(
            self._read, certificate_id, abandon_on_cancel=True, limiter=self._readers
        )

    async def write(self, certificate_id: str, content: bytes) -> None:
        """Durable on return. Raises RequestRefused and StoreUnavailable; what was there is then intact."""
        await trio.to_thread.run_sync(
            self._write, certificate_id, content, abandon_on_cancel=True, limiter=self._writer
        )

    async def delete(self, certificate_id: str) -> None:
        """Durable on return; one that is gone is fine. Raises RequestRefused and StoreUnavailable."""
        await trio.to_thread.run_sync(
            self._delete, certificate_id, abandon_on_cancel=True, limiter=self._writer
        )

    def check_writable(self, certificate_id: str) -> None:
        """Raises RequestRefused for an id that can have no file of its own: a list, or too long a name."""
        self._location(certificate_id)

    # --- in threads ----------------------------------------------------------------------------------

    def _read(self, certificate_id: str) -> bytes | None:
        preloaded = self._preloaded()
        if not isinstance(preloaded.get(certificate_id), tuple):
            return self._read_one(certificate_id, preloaded)
        members = flatten(
            certificate_id, preloaded, on_cycle=lambda member: self._tell_cycle(certificate_id, member)
        )
        return join(certificate_id, (self._read_one(member, preloaded) for member in members))

    def _read_one(self, certificate_id: str, preloaded: Preloaded) -> bytes | None:
        path = preloaded.get(certificate_id)
        if not isinstance(path, str):
            return self._read_stored(certificate_id)
        try:
            return read_file(path, MAX_FILE_BYTES, follow=True)
        except OSError as exc:
            raise unavailable(exc, path) from exc

    def _tell_cycle(self, list_id: str, member: str) -> None:
        if (list_id, member) not in self._cycles:
            self._cycles.add((list_id, member))
            log.warning(
                "preloaded certificate %r leads back to its member %r, which is left out; "
                "remove it from one of the lists",
                bounded(list_id, 100),
                bounded(member, 100),
            )

    def _write(self, certificate_id: str, content: bytes) -> None:
        path, ours = self._location(certificate_id)
        try:
            if ours:
                self._sweep()
                make_durable_directory(self._directory)
                replace_file(path, content)
            else:
                _replace_foreign(os.path.realpath(path), content)
        except OSError as exc:
            raise unavailable(exc, path) from exc

    def _delete(self, certificate_id: str) -> None:
        try:
            path, _ = self._location(certificate_id)
        except RequestRefused as exc:
            if exc.parameter is None:
                raise
            return  # nothing can be filed under such an id
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            # Also when it was gone: an earlier try may have got no further than that.
            sync_directory(os.path.dirname(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise unavailable(exc, path) from exc

    def _location(self, certificate_id: str) -> tuple[str, bool]:
        """Where it lies, and whether that is a place of ours. Raises RequestRefused."""
        preloaded = self._preloaded().get(certificate_id)
        if isinstance(preloaded, str):
            return preloaded, False
        if preloaded is not None:
            raise RequestRefused(
                f'preloaded certificate "{bounded(certificate_id, 100)}" is a list of ids, not a file; '
                "change its members instead",
                code="preloaded-list",
            )
        try:
            name = certificate_file_name(certificate_id)
        except UnicodeEncodeError as exc:
            raise RequestRefused("not text", code="id-unusable", parameter="id") from exc
        if not certificate_id:
            raise RequestRefused("empty", code="id-unusable", parameter="id")
        if len(name + NEW) > NAME_MAX_BYTES:
            raise RequestRefused("longer than a file name can be", code="id-unusable", parameter="id")
        return os.path.join(self._directory, name), True

    def _sweep(self) -> None:
        """Once: what a crash left half-written. Raises OSError."""
        if self._swept:
            return
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                if _LEFTOVER.fullmatch(name):
                    os.unlink(os.path.join(self._directory, name))
        self._swept = True


def _replace_foreign(path: str, content: bytes) -> None:
    """A file of the operator, in one step; whoever could read it before still can. Raises OSError."""
    try:
        before = os.stat(path)
    except FileNotFoundError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):
        raise Misshapen(errno.EINVAL, "not a plain file", path)
    mode = 0o600 if before is None else stat.S_IMODE(before.st_mode) & 0o777
    temporary = f"{path}{_BESIDE}"
    try:
        write_synced(temporary, content, mode=mode)
        if before is not None:
            # Only root may give files away; for anybody else the service's own user will have to do.
            with contextlib.suppress(PermissionError):
                os.chown(temporary, before.st_uid, before.st_gid)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))
