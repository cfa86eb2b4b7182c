"""The system's trust store: what of it is ours, what is to change, and changing it.

Only files that the manifest names, or that hold exactly what we would write, are touched. The manifest is
written before the first file and shortened after the last (`wire/installed_roots.py` says why), so that a
crash anywhere leaves work for the next run and never a root that the service would believe.
"""

import contextlib
import errno
import fcntl
import os
import ssl
import stat
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.cli.failure import CommandFailed
from adapters.durable import replace_file, sync_directory
from adapters.errors import bounded
from adapters.wire.installed_roots import (
    LAYOUTS,
    MANIFEST,
    SYSTEM_ROOT,
    UNFINISHED,
    Layout,
    Manifest,
    certificates_of,
    find_layout,
    installed_roots,
    read_manifest,
    trusted_by_itself,
)
from adapters.wire.pem import certificate_blocks, sha256_hex

UPDATE_WITHIN_S = 120.0
"The system's command reads every root there is; on a slow card that takes some seconds."
MAX_FILE_BYTES = 512 * 1024

Run = Callable[[Sequence[str]], None]
"Runs the system's command. Raises CommandFailed."


class Left(Struct, frozen=True, kw_only=True):
    """A file where ours should be, left as it is."""

    sha256: str
    path: str
    why: str


class Plan(Struct, frozen=True, kw_only=True):
    """What one run does. All are hex SHA-256 in order of the bundle, then of the alphabet."""

    layout: str
    root: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    already_trusted: tuple[str, ...] = ()
    "The system trusts them by itself: nothing of ours is needed."
    refused: tuple[str, ...] = ()
    "Not on the operator's list."
    left: tuple[Left, ...] = ()
    update: Literal["run", "not-needed", "other-root"] = "not-needed"
    "Of the system's own command; it knows the root `/` alone."


class TrustStore:
    """That of the system below ``root``. Every method raises CommandFailed."""

    def __init__(self, root: str, state_dir: str, *, run: Run | None = None) -> None:
        layout = find_layout(root)
        if layout is None:
            known = ", ".join(f"{one.name}: {os.path.join(root, one.marker)}" for one in LAYOUTS)
            raise CommandFailed(f"no trust store known here is below {root} ({known})")
        self._layout: Layout = layout
        self._root = root
        self._state_dir = state_dir
        self._directory = os.path.join(root, layout.directory)
        self._run = run or run_command

    def plan(self, wanted: Mapping[str, bytes], allow: Collection[str]) -> Plan:
        """What ``install`` would do. ``wanted`` is hex SHA-256 to PEM; an empty ``allow`` allows all."""
        return self._plan(wanted, allow, self._manifest())

    def install(self, wanted: Mapping[str, bytes], allow: Collection[str]) -> Plan:
        """Make the store hold these certificates, and none that earlier runs put there."""
        with self._alone():
            manifest = self._manifest()
            plan = self._plan(wanted, allow, manifest)
            self._carry_out(plan, wanted, manifest)
            return plan

    def _plan(self, wanted: Mapping[str, bytes], allow: Collection[str], manifest: Manifest) -> Plan:
        combined = set(certificates_of(os.path.join(self._root, self._layout.combined)))
        combined -= installed_roots(self._state_dir, self._root)
        by_itself = trusted_by_itself(self._layout, self._root) | combined
        refused = tuple(sha256 for sha256 in wanted if allow and sha256 not in allow)
        trusted = tuple(sha256 for sha256 in wanted if sha256 in by_itself and sha256 not in refused)
        added: list[str] = []
        removed: list[str] = []
        kept: list[str] = []
        left: list[Left] = []
        gone = False
        with self._ours() as directory:
            for sha256 in dict.fromkeys((*wanted, *manifest.certificates)):
                target = sha256 in wanted and sha256 not in refused and sha256 not in trusted
                if not target and sha256 not in manifest.certificates:
                    continue
                found = self._look(directory, sha256)
                if found == "other":
                    path = os.path.join(self._directory, self._layout.file_name(sha256))
                    left.append(Left(sha256=sha256, path=path, why="it is not as it was written here"))
                elif target:
                    (kept if found == "ours" else added).append(sha256)
                elif found == "ours":
                    removed.append(sha256)
                else:
                    # Somebody deleted it; what programs load may hold it still.
                    gone = True
        plan = Plan(
            layout=self._layout.name,
            root=self._root,
            added=tuple(added),
            removed=tuple(removed),
            kept=tuple(kept),
            already_trusted=trusted,
            refused=refused,
            left=tuple(left),
        )
        if added or removed or gone or manifest.update_due:
            plan = msgspec.structs.replace(plan, update="run" if self._root == SYSTEM_ROOT else "other-root")
        return plan

    def _carry_out(self, plan: Plan, wanted: Mapping[str, bytes], before: Manifest) -> None:
        # Changed by somebody, they are still in the store, and were ours: they stay disbelieved.
        left = [one.sha256 for one in plan.left if one.sha256 in before.certificates]
        final = Manifest(certificates=tuple(sorted({*plan.added, *plan.kept, *left})))
        if plan.update != "not-needed":
            meanwhile = {*before.certificates, *final.certificates}
            self._write_manifest(
                Manifest(certificates=tuple(sorted(meanwhile)), update_due=True), unless=before
            )
            self._change_files(plan, wanted)
            if plan.update == "run":
                self._run(self._layout.update)
        self._write_manifest(final, unless=before if plan.update == "not-needed" else None)

    def _change_files(self, plan: Plan, wanted: Mapping[str, bytes]) -> None:
        with self._translated(self._directory):
            if plan.added and not os.path.lexists(self._directory):
                os.mkdir(self._directory, 0o755)
                os.chmod(self._directory, 0o755)  # whatever the umask
        with self._ours() as directory, self._translated(self._directory):
            if directory is None:
                return
            # The descriptor stays the directory that was looked at, whatever happens to its name.
            within = f"/proc/self/fd/{directory}"
            for sha256 in plan.added:
                pem = wanted[sha256]
                replace_file(os.path.join(within, self._layout.file_name(sha256)), pem, mode=0o644)
            for sha256 in plan.removed:
                os.unlink(self._layout.file_name(sha256), dir_fd=directory)
            for sha256 in (*plan.added, *plan.removed, *plan.kept):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._layout.file_name(sha256) + UNFINISHED, dir_fd=directory)
            sync_directory(within)
        if self._layout.directory != self._layout.marker:
            with contextlib.suppress(OSError):
                os.rmdir(self._directory)  # succeeds only when nothing is left in it

    def _look(self, directory: int | None, sha256: str) -> Literal["ours", "other", "absent"]:
        """Whether our file for that certificate holds what we would write."""
        if directory is None:
            return "absent"
        name = self._layout.file_name(sha256)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            handle = os.open(name, flags, dir_fd=directory)
        except FileNotFoundError:
            return "absent"
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
                return "other"
            raise self._failed(exc, os.path.join(self._directory, name)) from exc
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return "other"
            with open(handle, "rb", closefd=False) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(handle)
        ders = list(certificate_blocks(content[:MAX_FILE_BYTES]))
        der = ders[0] if len(ders) == 1 else None
        known = der is not None and sha256_hex(der) == sha256
        return "ours" if known and content == ssl.DER_cert_to_PEM_cert(der or b"").encode() else "other"

    @contextlib.contextmanager
    def _ours(self) -> Iterator[int | None]:
        """A descriptor of the directory of our files; None when there is none."""
        try:
            handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                raise CommandFailed(f"{self._directory} is not a directory; move it away") from exc
            raise self._failed(exc, self._directory) from exc
        try:
            if os.fstat(handle).st_uid not in (0, os.geteuid()):
                raise CommandFailed(f"{self._directory} belongs to another user; move it away")
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        marker = os.path.join(self._root, self._layout.marker)
        with self._translated(marker):
            handle = os.open(marker, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise CommandFailed("another `trust-bundle install` is at work; try again") from exc
            yield
        finally:
            os.close(handle)

    def _manifest(self) -> Manifest:
        path = os.path.join(self._state_dir, MANIFEST)
        try:
            return read_manifest(self._state_dir)
        except OSError as exc:
            raise self._failed(exc, path) from exc
        except ValueError as exc:
            fix = "remove it: files that earlier runs installed then stay, and stay disbelieved"
            raise CommandFailed(f"{path} is damaged ({bounded(str(exc), 120)}); {fix}") from exc

    def _write_manifest(self, manifest: Manifest, *, unless: Manifest | None) -> None:
        if manifest == unless:
            return
        path = os.path.join(self._state_dir, MANIFEST)
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        with self._translated(path):
            # Readable for the service, whoever it runs as; the directory is private to it.
            replace_file(path, content, mode=0o644)

    @contextlib.contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise self._failed(exc, path) from exc

    def _failed(self, exc: OSError, path: str) -> CommandFailed:
        fix = "use sudo" if isinstance(exc, PermissionError) else "mend that and run it again"
        return CommandFailed(f"{path}: {exc.strerror or exc}; {fix}")


def run_command(command: Sequence[str]) -> None:
    """Raises CommandFailed with the last words of the command."""
    name = os.path.basename(command[0])
    fix = "the files are in place, so run `identityd trust-bundle install` again once that is mended"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=UPDATE_WITHIN_S,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise CommandFailed(f"{name} did not end within {UPDATE_WITHIN_S:g} s; {fix}") from exc
    except OSError as exc:
        raise CommandFailed(f"{command[0]} cannot be run: {exc.strerror}; {fix}") from exc
    if done.returncode != 0:
        said = bounded(done.stderr.decode(errors="replace")[-300:])
        raise CommandFailed(f"{name} failed with exit status {done.returncode}: {said or 'no word'}; {fix}")
