"""What changes who we are while the service runs: a reload, and a configured certificate that is renewed."""

import logging
import os
from collections.abc import Callable

import trio
from msgspec import Struct

from adapters import config
from adapters.config_changes import TakesEffect, changes
from adapters.errors import ConfigurationInvalid, StoreUnavailable, bounded
from adapters.opening import keep_last_good
from adapters.paths import Paths
from adapters.ports import ChangedKey, Reloaded, Taken
from adapters.runtime import Runtime
from adapters.whoami import identify
from statemachine.events import ConfigurationChanged
from statemachine.settings import Configuration

MEANINGS: dict[TakesEffect, str] = {
    "now": "in force",
    "next": "in force from the next registration or new key on",
    "restart": "takes effect with a restart of the service",
    "reprovision": "the device registers again",
}

log = logging.getLogger("identityd")


class Held:
    """The configuration in force; replaced by a reload."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration

    def __call__(self) -> Configuration:
        return self.configuration


class Announcer:
    """Has the machine know who we are now.

    ``trial`` is the configuration that registers with DPS; ``remark`` what else there is to say of it.
    """

    def __init__(
        self,
        runtime: Runtime,
        trial: Callable[[], Configuration],
        remark: Callable[[], str | None],
        notes: tuple[str, ...],
    ) -> None:
        self._runtime = runtime
        self._trial = trial
        self._remark = remark
        self._notes = notes

    async def __call__(self) -> None:
        """From the configuration in force."""
        self._runtime.post(await self._event())

    async def reloaded(self, notes: tuple[str, ...]) -> "Announced":
        """From a configuration that was just read: what had to be said of the one before is over."""
        self._notes = notes
        event = await self._event()
        another = event.fingerprint != self._runtime.snapshot.fingerprint
        return Announced(another=another, taken=await self._taken(event))

    async def unchanged(self, problem: str) -> Taken | None:
        """What is in force stays; status says that the files could not be used."""
        snapshot = self._runtime.snapshot
        self._notes = (f"configuration: not usable, the one before stays ({problem})",)
        return await self._taken(
            ConfigurationChanged(
                policy=snapshot.policy,
                fingerprint=snapshot.fingerprint,
                configuration_notes=self._notes,
                onboarding_not_after_unix_ms=snapshot.onboarding_not_after_unix_ms,
            )
        )

    async def _event(self) -> ConfigurationChanged:
        identity = await trio.to_thread.run_sync(identify, self._trial(), self._runtime.snapshot)
        if identity.note is not None:
            log.warning("%s", identity.note)
        remark = self._remark()
        remarks = () if remark is None else (remark,)
        return ConfigurationChanged(
            policy=identity.policy,
            fingerprint=identity.fingerprint,
            configuration_notes=(*self._notes, *identity.notes, *remarks),
            onboarding_not_after_unix_ms=identity.onboarding_not_after_unix_ms,
        )

    async def _taken(self, event: ConfigurationChanged) -> Taken | None:
        """Returns once its record is durable; None when the journal cannot take it yet."""
        try:
            return await self._runtime.command(event)
        except StoreUnavailable:
            # The configuration is in force all the same, and the machine hears of it when it can.
            self._runtime.post(event)
            return None


class Announced(Struct, frozen=True):
    """What the machine made of a configuration."""

    another: bool
    "The device is somebody else to the cloud."
    taken: Taken | None


def _waits(keys: list[str]) -> str:
    return bounded(f"configuration: takes effect with a restart: {', '.join(keys)}")


class Reload:
    """SIGHUP and ``POST /v1/reload``: the configuration again. A broken one changes nothing and is told."""

    def __init__(
        self, paths: Paths, held: Held, announcer: Announcer, then: Callable[[], None] = lambda: None
    ) -> None:
        """``then`` is called after a reload, for those who look at the configuration by themselves."""
        self._paths = paths
        self._held = held
        self._announcer = announcer
        self._then = then
        self._started = held.configuration
        self._turn = trio.Lock()

    async def __call__(self) -> Reloaded:
        """One after the other, however many ask."""
        async with self._turn:
            try:
                loaded = await trio.to_thread.run_sync(self._load)
            except ConfigurationInvalid as exc:
                return await self._refused(exc)
            return await self._reloaded(loaded)

    async def _refused(self, exc: ConfigurationInvalid) -> Reloaded:
        for problem in exc.problems:
            log.error("%s", problem)
        message = "configuration not reloaded; the one in force stays"
        log.error("%s", message)
        taken = await self._announcer.unchanged(exc.problems[0])
        return Reloaded(
            outcome="refused",
            message=message,
            sequence=None if taken is None else taken.sequence,
            findings=exc.problems,
        )

    async def _reloaded(self, loaded: config.Loaded) -> Reloaded:
        before, self._held.configuration = self._held.configuration, loaded.configuration
        waiting = [key for key, effect in self._changes(before).items() if effect == "restart"]
        notes = () if not waiting else (_waits(waiting),)
        announced = await self._announcer.reloaded(notes)
        self._then()
        found = self._changes(before, another=announced.another)
        for effect, meaning in MEANINGS.items():
            if keys := [key for key in found if found[key] == effect]:
                log.info("configuration: %s: %s", meaning, bounded(", ".join(keys)))
        log.info("configuration reloaded")
        return Reloaded(
            outcome="reloaded",
            message="configuration reloaded" if found else "configuration reloaded; nothing has changed",
            sequence=None if announced.taken is None else announced.taken.sequence,
            keys=tuple(ChangedKey(key=key, effect=effect) for key, effect in found.items()),
            notes=(*loaded.notes, *notes),
        )

    def _changes(self, before: Configuration, *, another: bool = False) -> dict[str, TakesEffect]:
        return changes(before, self._held.configuration, started=self._started, another=another)

    def _load(self) -> config.Loaded:
        # Without a fallback: running on what is in force is better than going back further.
        loaded = config.load_with_fallback(self._paths.config, os.devnull, self._paths.root)
        keep_last_good(self._paths, loaded)
        return loaded
