"""Journal and stores to the history that this run goes on from."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

import trio
from msgspec import structs

from adapters import config
from adapters.driven.clock import SystemClock
from adapters.driven.credentials import GenerationStore
from adapters.driven.journal_file import open_journal
from adapters.errors import StoreUnavailable
from adapters.paths import Paths
from adapters.restore import restore_history
from adapters.runtime import Opened
from adapters.whoami import identify, machine_hash
from statemachine.events import AnyEvent, RulesChanged, Started
from statemachine.journal import Header, sequence_of
from statemachine.machine import RULES_REVISION, decide
from statemachine.settings import Configuration
from statemachine.snapshot import Snapshot

BUILD_UNIX_MS = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp() * 1000)
"Date of this release: no clock can truly be earlier."

log = logging.getLogger("identityd")


def keep_last_good(paths: Paths, loaded: config.Loaded) -> tuple[str, ...]:
    """Keep what is in force, or tell why it stands in for the files. Returns notes for the status."""
    for note in loaded.notes:
        log.warning("%s", note)
    if loaded.source == "last-good":
        for problem in loaded.problems:
            log.error("%s", problem)
        first = loaded.problems[0] if loaded.problems else "unusable"
        return (f"configuration: not usable, the last good one is in force ({first})",)
    try:
        config.save_last_good(paths.last_good_config, loaded.text)
    except StoreUnavailable as exc:
        log.warning("%s", exc.message)
    return ()


class Opener:
    """Fills ``runtime.Opener``. ``trial`` is the configuration that registers with DPS."""

    def __init__(
        self,
        paths: Paths,
        trial: Callable[[], Configuration],
        store: GenerationStore,
        clock: SystemClock,
        notes: tuple[str, ...],
    ) -> None:
        self._paths = paths
        self._trial = trial
        self._store = store
        self._clock = clock
        self._notes = notes
        self._identity = identify(trial(), Snapshot())
        self._inventory = store.inventory()

    async def open(self) -> Opened:
        return await trio.to_thread.run_sync(self._open)

    def _open(self) -> Opened:
        settings = self._trial().journal
        journal = open_journal(
            self._paths.state_dir,
            sequence_of,
            segment_bytes=settings.segment_bytes,
            keep_bytes=settings.keep_bytes,
        )
        self._inventory = self._store.inventory()
        header = self.header()
        restored = restore_history(
            journal,
            header,
            refuse_damage=settings.when_damaged == "refuse",
            stores_hold_something=self._inventory.newest_generation > 0,
        )
        self._identity = identify(self._trial(), restored.snapshot)
        for note in restored.notes:
            log.warning("%s", note)
        events: tuple[AnyEvent, ...] = (
            self.started(restored.notes, foreign_machine=restored.foreign_machine),
        )
        if restored.rules_revision != RULES_REVISION:
            events = (RulesChanged(before=restored.rules_revision, after=RULES_REVISION), *events)
        return Opened(
            journal=journal,
            snapshot=restored.snapshot,
            last_hash=restored.last_hash,
            events=events,
            rotate=restored.foreign_machine or restored.rules_revision != RULES_REVISION,
        )

    def header(self) -> Header:
        return Header(
            rules_revision=RULES_REVISION,
            software_version=version("identityd"),
            machine=machine_hash(),
            device=self._identity.policy.registration_id,
            epoch=1,
            first_sequence=1,
            created_unix_ms=self._clock.now_unix_ms(),
        )

    def started(self, notes: tuple[str, ...] = (), *, foreign_machine: bool = False) -> Started:
        identity = self._identity
        return Started(
            policy=identity.policy,
            fingerprint=identity.fingerprint,
            inventory=self._inventory,
            build_unix_ms=BUILD_UNIX_MS,
            rules_revision=RULES_REVISION,
            software_version=version("identityd"),
            kernel_synchronised=self._clock.kernel_synchronised(),
            foreign_machine=foreign_machine,
            degraded=(*self._store.repairs, *notes),
            configuration_notes=(*self._notes, *identity.notes),
            onboarding_not_after_unix_ms=identity.onboarding_not_after_unix_ms,
        )


def provisional(opener: Opener) -> Snapshot:
    """What status says while the journal cannot be read: the stores' credential, and no attempt."""
    held = Snapshot(hold=True)
    return structs.replace(
        decide(held, opener.started(), BUILD_UNIX_MS).snapshot, sequence=0, armed=(), outstanding=()
    )
