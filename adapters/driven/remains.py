"""What identifies the device to the cloud and lies outside the credential store, and how it is erased.

===========================================  ============================================================
connections to DPS and the hub               closed: they were made with the credential
``modules/``, ``reconciled.json``            what is known of modules
the master key of module keys                unless the operator preloaded it
``device_info``                              the original's assignment, in directories it left to us
``adopted/``                                 copies of the original's own certificates and keys
===========================================  ============================================================

What the operator configured stays, and so does the onboarding certificate that this device issued itself
by the operator's rule: without it there may be no way back. Other programs' keys and certificates stay.
The journal stays: it holds certificates, which are public, and never a key.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from adapters.driven import adopted
from adapters.driven.files import remove_tree, unavailable
from adapters.driven.module_cache import ModuleCache
from adapters.durable import sync_directory
from statemachine.settings import MASTER_KEY_ID

DEVICE_INFO = "device_info"
"Of the original (cloud.md §4.1)."


class ErasableKeys(Protocol):
    """As much of the key store as is needed here."""

    async def erase(self, key_id: str) -> None:
        """Nothing is filed under the id. Raises RequestRefused and StoreUnavailable."""


class Remains:
    """``forget`` are the adapters that hold something of the device, in memory or on disk."""

    def __init__(
        self,
        state_dir: str,
        keys: ErasableKeys,
        cache: ModuleCache,
        forget: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self._state_dir = state_dir
        self._keys = keys
        self._cache = cache
        self._forget = forget

    async def erase(self) -> None:
        """Durable on return; a repeat goes on where an earlier one ended. Raises AdapterError."""
        for forget in self._forget:
            await forget()
        # Before the master key: modules that are known without it look like a loss.
        await self._cache.erase()
        await self._keys.erase(MASTER_KEY_ID)
        await trio.to_thread.run_sync(self._erase_files)

    def _erase_files(self) -> None:
        try:
            for name in (DEVICE_INFO, adopted.DIRECTORY):
                remove_tree(os.path.join(self._state_dir, name))
            # Also when all was gone: an earlier try may have got no further than that.
            sync_directory(self._state_dir)
        except OSError as exc:
            raise unavailable(exc, self._state_dir) from exc
