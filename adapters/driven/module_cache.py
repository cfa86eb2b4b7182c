"""What is known of modules when the hub cannot be asked: one file for each, as the original keeps them.

``<state>/modules/<sha256(hub)>-<sha256(device)>/<letters and digits of the id>-<sha256(id)>`` holds
``{"moduleId", "managedBy"?, "deviceId", "generationId"?}`` (cloud.md §4.1), so a device that was the
original's goes on with its own. Files are written only when their content changes. What cannot be read, or
is not what its name says, is left alone with a warning: it is never a reason to fail.

Methods run in worker threads, those that change something one after the other. They raise StoreUnavailable.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import TypeVar, TypeVarTuple

import msgspec
import trio

from adapters.driven.files import make_durable_directory, read_file, remove_tree, unavailable
from adapters.driven.hub_modules import Where
from adapters.driven.settled import Settled
from adapters.durable import replace_file, sync_directory
from adapters.errors import RequestRefused
from adapters.wire.hub import MAX_MODULES, Module, check_module_id

MAX_FILE_BYTES = 16 * 1024

_DIRECTORY = re.compile(r"[0-9a-f]{64}-[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9]{0,128}-[0-9a-f]{64}")
_MODULE = msgspec.json.Decoder(Module)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = logging.getLogger("identityd")


def directory_name(where: Where) -> str:
    return f"{_digest(where.hub)}-{_digest(where.device_id)}"


def file_name(module_id: str) -> str:
    """For an id that a module can have: at most 128 characters."""
    letters = "".join(c for c in module_id if c.isascii() and c.isalnum())
    return f"{letters}-{_digest(module_id)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class ModuleCache:
    """Below ``state_dir``, which is identityd's own directory."""

    def __init__(self, state_dir: str) -> None:
        self.root = os.path.join(state_dir, "modules")
        self._writer = trio.CapacityLimiter(1)
        self._warned: set[str] = set()
        self._settled = Settled()

    async def read(self, where: Where, module_id: str) -> Module | None:
        return await self._look(self._read, self._path(where, module_id), where)

    async def of(self, where: Where) -> tuple[Module, ...]:
        """By file name."""
        return await self._look(self._of, where)

    async def holds_any(self) -> bool:
        """Whether a module of any device was ever kept and not removed, readable or not."""
        return await self._look(self._holds_any)

    async def write(self, where: Where, modules: Iterable[Module], *, complete: bool = False) -> None:
        """Durable on return. ``complete``: the device has these modules and no others."""
        await self._change(self._write, where, tuple(modules), complete)

    async def remove(self, where: Where, module_id: str) -> None:
        """One that is not there is fine."""
        await self._change(self._remove, self._path(where, module_id))

    async def forget_others(self, where: Where) -> None:
        """Remove what is known of other devices, once ``where`` is where this one belongs for good."""
        await self._change(self._forget_others, where)

    async def erase(self) -> None:
        """Nothing is known of any device's modules."""
        await self._change(self._erase)

    # --- in threads ----------------------------------------------------------------------------------

    def _path(self, where: Where, module_id: str) -> str:
        return os.path.join(self.root, directory_name(where), file_name(module_id))

    def _read(self, path: str, where: Where) -> Module | None:
        try:
            content = read_file(path, MAX_FILE_BYTES)
            if content is None:
                return None
            module = _MODULE.decode(content)
            check_module_id(module.module_id)
            if file_name(module.module_id) != os.path.basename(path) or module.device_id != where.device_id:
                raise ValueError("it is about another module or device")
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as exc:
            self._warn(path, exc.strerror if isinstance(exc, OSError) else str(exc))
        except RequestRefused as exc:
            self._warn(path, exc.message)
        else:
            return module
        return None

    def _of(self, where: Where) -> tuple[Module, ...]:
        directory = os.path.join(self.root, directory_name(where))
        names = self._names(directory)
        found = (self._read(os.path.join(directory, name), where) for name in names[:MAX_MODULES])
        return tuple(module for module in found if module is not None)

    def _names(self, directory: str, pattern: re.Pattern[str] = _FILE) -> list[str]:
        try:
            return sorted(name for name in os.listdir(directory) if pattern.fullmatch(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as exc:
            raise unavailable(exc, directory) from exc

    def _holds_any(self) -> bool:
        directories = self._names(self.root, _DIRECTORY)
        return any(self._names(os.path.join(self.root, name)) for name in directories)

    def _write(self, where: Where, modules: tuple[Module, ...], complete: bool) -> None:
        directory = os.path.join(self.root, directory_name(where))
        wanted = {file_name(module.module_id): module for module in modules}
        try:
            for name, module in wanted.items():
                path = os.path.join(directory, name)
                # The directory says whose it is: the hub's spelling of our own id is of no interest.
                content = msgspec.json.encode(msgspec.structs.replace(module, device_id=where.device_id))
                if self._content(path) == content:
                    self._settled.settle(directory)
                    continue
                make_durable_directory(directory)
                with self._settled.changing(directory):
                    replace_file(path, content)
        except OSError as exc:
            raise unavailable(exc, directory) from exc
        if complete:
            for name in self._names(directory):
                if name not in wanted:
                    self._remove(os.path.join(directory, name))

    def _content(self, path: str) -> bytes | None:
        try:
            return read_file(path, MAX_FILE_BYTES)
        except OSError:
            return None  # whatever it is, it is replaced, or that fails with a reason

    def _remove(self, path: str) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            # Also when it was gone: an earlier try may have got no further than that.
            sync_directory(os.path.dirname(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise unavailable(exc, path) from exc

    def _forget_others(self, where: Where) -> None:
        kept = directory_name(where)
        try:
            names = [name for name in os.listdir(self.root) if name != kept and _DIRECTORY.fullmatch(name)]
            if not names:
                self._settled.settle(self.root)
                return
            with self._settled.changing(self.root):
                for name in names:
                    remove_tree(os.path.join(self.root, name))
                sync_directory(self.root)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise unavailable(exc, self.root) from exc

    def _erase(self) -> None:
        try:
            remove_tree(self.root)
            sync_directory(os.path.dirname(self.root))
        except OSError as exc:
            raise unavailable(exc, self.root) from exc

    def _warn(self, path: str, why: str | None) -> None:
        if path not in self._warned:  # once for each file, not with each list
            self._warned.add(path)
            log.warning("%s is not used: %s", path, why)

    async def _look(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(work, *args, abandon_on_cancel=True)

    async def _change(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._writer)
