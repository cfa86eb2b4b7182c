"""Journal and stores to the history that this run goes on from."""

import logging
import os
from collections.abc import Callable

import trio
from msgspec import structs

from adapters import config
from adapters.driven import adopted
from adapters.driven.clock import SystemClock
from adapters.driven.credentials import GenerationStore
from adapters.driven.files import read_file
from adapters.driven.journal_file import ACTIVE, Meter, open_journal
from adapters.errors import StoreUnavailable
from adapters.paths import Paths
from adapters.release import BUILD_UNIX_MS, VERSION
from adapters.restore import restore_history
from adapters.runtime import Opened
from adapters.whoami import identify, machine_hash
from statemachine.events import AnyEvent, RulesChanged, Started
from statemachine.journal import Header, read, sequence_of
from statemachine.machine import RULES_REVISION, decide
from statemachine.replay import restore
from statemachine.settings import Configuration
from statemachine.snapshot import Snapshot

MAX_JOURNAL_BYTES = 64 * 1024 * 1024
"Of one file, far beyond any that is written."

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


def was_given_up(state_dir: str) -> bool:
    """Whether the journal asks for an erasure that it never saw finished. Blocks; never raises.

    To be known before anything is served: the journal itself is opened only while the sockets serve already.
    """
    try:
        content = read_file(os.path.join(state_dir, ACTIVE), MAX_JOURNAL_BYTES)
        # Most journals never heard of a purge, and need not be replayed twice for it.
        if content is None or b'"purge' not in content:
            return False
        snapshot = restore(read(content))
    except Exception as exc:
        # Whatever is wrong with it is found, and told, when it is opened.
        log.debug("the journal does not say yet whether the device was given up: %s", exc)
        return False
    return snapshot is not None and snapshot.purge is not None


class Opener:
    """Fills ``runtime.Opener``. ``trial`` is the configuration that registers with DPS."""

    def __init__(
        self,
        paths: Paths,
        trial: Callable[[], Configuration],
        store: GenerationStore,
        clock: SystemClock,
        notes: tuple[str, ...],
        meter: Meter | None = None,
    ) -> None:
        self._paths = paths
        self._trial = trial
        self._store = store
        self._clock = clock
        self._notes = notes
        self._meter = meter
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
            meter=self._meter,
        )
        self._inventory = self._store.inventory()
        header = self.header()
        restored = restore_history(
            journal,
            header,
            refuse_damage=settings.when_damaged == "refuse",
            stores_hold_something=self._inventory.newest_generation > 0 and not self._first_after_adoption(),
        )
        self._remember_journal()
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

    def _first_after_adoption(self) -> bool:
        """What is current was another service's until now, so that no journal is missing."""
        current = self._inventory.current
        generation = None if current is None else current.generation
        return adopted.is_first_start(self._paths.state_dir, generation)

    def _remember_journal(self) -> None:
        try:
            adopted.note_begun(self._paths.state_dir)
        except (OSError, ValueError) as exc:
            log.warning("the record of the adoption cannot be brought up to date: %s", exc)

    def header(self) -> Header:
        return Header(
            rules_revision=RULES_REVISION,
            software_version=VERSION,
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
            software_version=VERSION,
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
