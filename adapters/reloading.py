"""What changes who we are while the service runs: SIGHUP, and a configured certificate that is renewed."""

import logging
import os
from collections.abc import Callable

import trio

from adapters import config
from adapters.errors import ConfigurationInvalid
from adapters.opening import keep_last_good
from adapters.paths import Paths
from adapters.runtime import Runtime
from adapters.whoami import identify
from statemachine.events import ConfigurationChanged
from statemachine.settings import Configuration

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
        identity = await trio.to_thread.run_sync(identify, self._trial(), self._runtime.snapshot)
        if identity.note is not None:
            log.warning("%s", identity.note)
        remark = self._remark()
        remarks = () if remark is None else (remark,)
        self._runtime.post(
            ConfigurationChanged(
                policy=identity.policy,
                fingerprint=identity.fingerprint,
                configuration_notes=(*self._notes, *identity.notes, *remarks),
                onboarding_not_after_unix_ms=identity.onboarding_not_after_unix_ms,
            )
        )

    async def reloaded(self) -> None:
        """From a configuration that was just read: what had to be said of the one before is over."""
        self._notes = ()
        await self()

    def unchanged(self, problem: str) -> None:
        """What is in force stays; status says that the files could not be used."""
        snapshot = self._runtime.snapshot
        self._notes = (f"configuration: not usable, the one before stays ({problem})",)
        self._runtime.post(
            ConfigurationChanged(
                policy=snapshot.policy,
                fingerprint=snapshot.fingerprint,
                configuration_notes=self._notes,
                onboarding_not_after_unix_ms=snapshot.onboarding_not_after_unix_ms,
            )
        )


class Reload:
    """SIGHUP: the configuration again. A broken one changes nothing and is told."""

    def __init__(
        self, paths: Paths, held: Held, announcer: Announcer, then: Callable[[], None] = lambda: None
    ) -> None:
        """``then`` is called after a reload, for those who look at the configuration by themselves."""
        self._paths = paths
        self._held = held
        self._announcer = announcer
        self._then = then

    async def __call__(self) -> None:
        try:
            loaded = await trio.to_thread.run_sync(self._load)
        except ConfigurationInvalid as exc:
            for problem in exc.problems:
                log.error("%s", problem)
            log.error("configuration not reloaded; the one in force stays")
            self._announcer.unchanged(exc.problems[0])
            return
        self._held.configuration = loaded.configuration
        await self._announcer.reloaded()
        self._then()
        log.info("configuration reloaded")

    def _load(self) -> config.Loaded:
        # Without a fallback: running on what is in force is better than going back further.
        loaded = config.load_with_fallback(self._paths.config, os.devnull, self._paths.root)
        keep_last_good(self._paths, loaded)
        return loaded
