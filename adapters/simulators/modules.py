"""Which modules the devices of the stand-in hub have. Kept over restarts, beside the devices.

A module gets a new generation id each time it is created, as in the product: keys made from the old one
are worth nothing afterwards.
"""

import os
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct


class Module(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One module, as the hub says it; absent members are omitted."""

    module_id: str
    device_id: str
    generation_id: str
    etag: str
    managed_by: str | None = None
    authentication: dict[str, Any]


class ModuleWish(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a client may say of a module. Other members are ignored."""

    module_id: str
    device_id: str
    managed_by: str | None = None
    authentication: dict[str, Any] | None = None


class Modules:
    """By device id, without regard to case, and module id, with it."""

    def __init__(self, path: str, write: Callable[[str, bytes], None]) -> None:
        """Raises OSError or ValueError when the file is there and cannot be used."""
        self._path = path
        self._write = write
        self._modules: dict[tuple[str, str], Module] = {}
        if os.path.exists(path):
            with open(path, "rb") as file:
                rows = msgspec.json.decode(file.read(), type=list[Module])
            self._modules = {_key(row.device_id, row.module_id): row for row in rows}

    def of(self, device_id: str) -> list[Module]:
        """In the order they were created."""
        return [module for (device, _), module in self._modules.items() if device == device_id.lower()]

    def get(self, device_id: str, module_id: str) -> Module | None:
        """None when there is none."""
        return self._modules.get(_key(device_id, module_id))

    def put(self, wish: ModuleWish, now_unix_s: float) -> Module:
        """Create or replace; written at once. Raises OSError."""
        key = _key(wish.device_id, wish.module_id)
        old = self._modules.get(key)
        module = Module(
            module_id=wish.module_id,
            device_id=wish.device_id,
            generation_id=self._generation(now_unix_s) if old is None else old.generation_id,
            etag=secrets.token_urlsafe(9),
            managed_by=wish.managed_by,
            authentication=wish.authentication or {"type": "none"},
        )
        self._modules[key] = module
        self._keep()
        return module

    def delete(self, device_id: str, module_id: str) -> None:
        """Written at once. Raises OSError, and KeyError when there is none."""
        del self._modules[_key(device_id, module_id)]
        self._keep()

    def _generation(self, now_unix_s: float) -> str:
        # 100 ns ticks since the year 1, and some chance: two creations within a tick differ, too.
        return str((int(now_unix_s * 1000) + 62_135_596_800_000) * 10_000 + secrets.randbelow(10_000))

    def _keep(self) -> None:
        self._write(self._path, msgspec.json.encode(list(self._modules.values())))


def _key(device_id: str, module_id: str) -> tuple[str, str]:
    return device_id.lower(), module_id
