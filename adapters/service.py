"""The composition root: which adapter fills which port, and the list of everything that is alive."""

import errno
import gc
import grp
import hashlib
import logging
import os
import sys
from datetime import UTC, datetime
from importlib.metadata import version

import trio
from msgspec import Struct, structs

from adapters import config
from adapters.driven.clock import SystemChance, SystemClock, SystemClockChanges
from adapters.driven.credentials import GenerationStore
from adapters.driven.dps import DpsRegistrar
from adapters.driven.hub import HubProver
from adapters.driven.instance_lock import InstanceLock
from adapters.driven.journal_file import open_journal
from adapters.driven.onboarding import load_credential, onboarding_not_after_unix_ms
from adapters.driven.timers import TrioTimers
from adapters.driving.certd_api import certd_handler
from adapters.driving.control import control_handler
from adapters.driving.signals import watch_signals
from adapters.driving.systemd import Notifier, inherited_fds
from adapters.errors import AdapterError, ConfigurationInvalid, StoreUnavailable
from adapters.paths import Paths, service_paths
from adapters.restore import restore_history
from adapters.runtime import Opened, Ports, Runtime
from adapters.tables import machine_json
from adapters.watched import WatchedCertificates
from adapters.wire import x509
from adapters.wire.http_server import ServerLimits, listener_from_fd, serve, unix_listener
from statemachine.events import AnyEvent, ConfigurationChanged, RulesChanged, Started
from statemachine.journal import Header, sequence_of
from statemachine.machine import RULES_REVISION, decide
from statemachine.settings import Configuration, DpsProvisioning, PolicySettings
from statemachine.snapshot import Snapshot

BUILD_UNIX_MS = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp() * 1000)
"Date of this release: no clock can truly be earlier."

SOCKET_MODE = 0o660
SOCKET_GROUPS = {"certd": "aziotcs", "control": "aziotid"}
"Of the original's packages; where such a group does not exist, the socket keeps the service's own."

log = logging.getLogger("identityd")


class Identity(Struct, frozen=True, kw_only=True):
    """What the configuration says of who we are, without secrets."""

    policy: PolicySettings
    fingerprint: str
    onboarding_not_after_unix_ms: int | None
    note: str | None = None
    "Why the onboarding credential could not be read."


def main(*, root: str | None) -> int:
    """Serve until asked to stop. Raises ConfigurationInvalid, AlreadyRunning, StoreUnavailable."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    # The state machine library tells each callback at level info; the journal says it better.
    logging.getLogger("transitions").setLevel(logging.WARNING)
    paths = service_paths(root)
    with InstanceLock(paths.state_dir):
        loaded = config.load_with_fallback(paths.config, paths.last_good_config, paths.root)
        try:
            trio.run(_serve, paths, loaded)
        except BaseExceptionGroup as group:
            # Ctrl-C before the signals are caught: nothing had begun, so nothing is to be told.
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
            raise KeyboardInterrupt from None
    return 0


class _Held:
    """The configuration in force; replaced by a reload."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration

    def __call__(self) -> Configuration:
        return self.configuration


async def _serve(paths: Paths, loaded: config.Loaded) -> None:
    held = _Held(loaded.configuration)
    notes = _keep_last_good(paths, loaded)
    store = GenerationStore(paths.state_dir, paths.certd_home, paths.keyd_home)
    await trio.to_thread.run_sync(store.open)
    clock = SystemClock()
    timers = TrioTimers(clock, SystemClockChanges(clock))
    registrar = DpsRegistrar(held, clock, store)
    ports = Ports(
        registrar=registrar,
        hub=HubProver(held, clock, store),
        store=store,
        timers=timers,
        clock=clock,
        chance=SystemChance(),
    )
    opener = _Opener(paths, held, store, clock, notes)
    runtime = Runtime(opener.open, ports, opener.header(), _provisional(opener))
    notifier = Notifier.from_environment(os.environ, os.getpid())
    inherited = inherited_fds(os.environ, os.getpid())
    limits = _limits(held())
    certificates = WatchedCertificates(store, runtime)
    certd = certd_handler(certificates)
    control = control_handler(runtime, own_uid=os.geteuid(), machine=machine_json)

    # Before anything is alive: a socket that cannot be had is one plain error, not a group of them.
    sockets = (
        (_listener("certd", paths.certd_sock, inherited), certd),
        (_listener("control", paths.control_sock, inherited), control),
    )
    async with trio.open_nursery() as nursery:
        for listener, handler in sockets:
            await nursery.start(serve, [listener], handler, limits)
        await nursery.start(timers.run, runtime.post)
        await nursery.start(watch_signals, runtime.post, _Reload(paths, held, runtime))
        nursery.start_soon(notifier.run_watchdog)
        lived = trio.Event()
        nursery.start_soon(_live, runtime, lived, notifier)
        await lived.wait()
        notifier.stopping()
        with trio.move_on_after(1):
            await registrar.aclose()
        nursery.cancel_scope.cancel()
    log.info("STOPPED")


async def _live(runtime: Runtime, lived: trio.Event, notifier: Notifier) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(runtime.run)
        status = runtime.status()
        log.info("READY %s", status.state)
        notifier.ready()
        notifier.status(f"{status.state}: {status.reason}")
        _forget_the_start()
    lived.set()


def _forget_the_start() -> None:
    """What imports and the restored history left is kept for good, so the collector need not look at it.

    A full collection then takes a tenth of the time it did, and happens while little has piled up: each
    TLS connection of trio is a cycle, and holds a context with the system's roots (1.7 MiB) until then.
    """
    gc.collect()
    gc.freeze()


# --- who we are --------------------------------------------------------------------------------------


def identify(configuration: Configuration, before: Snapshot) -> Identity:
    """Never raises: a device whose onboarding credential cannot be read still serves what it has.

    Part of who we are is the public key of a configured certificate. When that one cannot be read now,
    and nothing else changed since ``before``, we are who we were: a file system that is mounted late, or
    a mode set wrong, must not reprovision a device.
    """
    provisioning = configuration.provisioning
    registration_id, public, note, not_after = "", "", None, None
    if isinstance(provisioning, DpsProvisioning):
        registration_id = provisioning.registration_id or ""
        try:
            credential = load_credential(configuration)
            registration_id = credential.registration_id
            if credential.tls.client_chain_pem is not None:
                public = x509.facts(credential.tls.client_chain_pem).spki_sha256
            not_after = onboarding_not_after_unix_ms(configuration)
        except AdapterError as exc:
            note = f"onboarding credential: {exc.message}"
    policy = config.policy(configuration, registration_id)
    fingerprint = config.fingerprint(configuration, registration_id, public)
    if note is not None and _may_be_the_same(policy, before.policy):
        policy = structs.replace(policy, registration_id=before.policy.registration_id)
        fingerprint, not_after = before.fingerprint, before.onboarding_not_after_unix_ms
    return Identity(policy=policy, fingerprint=fingerprint, onboarding_not_after_unix_ms=not_after, note=note)


def _may_be_the_same(policy: PolicySettings, before: PolicySettings) -> bool:
    """Whether all that can be known of a device with a configured certificate is as it was."""
    known = (policy.endpoint, policy.scope_id, policy.attestation, policy.api_version)
    was = (before.endpoint, before.scope_id, before.attestation, before.api_version)
    named = policy.registration_id in ("", before.registration_id)
    return policy.attestation == "x509" and known == was and named


def _keep_last_good(paths: Paths, loaded: config.Loaded) -> tuple[str, ...]:
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


def machine_hash() -> str:
    """Tells a copied image from this machine without telling which machine it is; empty when unknown."""
    try:
        with open("/etc/machine-id", "rb") as file:
            content = file.read(64).strip()
    except OSError:
        return ""
    return hashlib.sha256(b"identityd machine " + content).hexdigest()[:32] if content else ""


class _Opener:
    """Journal and stores to the history this run goes on from."""

    def __init__(
        self,
        paths: Paths,
        held: _Held,
        store: GenerationStore,
        clock: SystemClock,
        notes: tuple[str, ...],
    ) -> None:
        self._paths = paths
        self._held = held
        self._store = store
        self._clock = clock
        self._notes = notes
        self._identity = identify(held(), Snapshot())
        self._inventory = store.inventory()

    async def open(self) -> Opened:
        return await trio.to_thread.run_sync(self._open)

    def _open(self) -> Opened:
        settings = self._held().journal
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
        self._identity = identify(self._held(), restored.snapshot)
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
            configuration_notes=(*self._notes, *_noted(identity.note)),
            onboarding_not_after_unix_ms=identity.onboarding_not_after_unix_ms,
        )


def _provisional(opener: _Opener) -> Snapshot:
    """What status says while the journal cannot be read: the stores' credential, and no attempt."""
    held = Snapshot(hold=True)
    return structs.replace(
        decide(held, opener.started(), BUILD_UNIX_MS).snapshot, sequence=0, armed=(), outstanding=()
    )


# --- sockets and reload ------------------------------------------------------------------------------


def _limits(configuration: Configuration) -> ServerLimits:
    limits = configuration.limits
    return ServerLimits(
        connections=limits.connections,
        # A quarter is left to the other users, whatever one of them does.
        connections_per_uid=max(1, limits.connections * 3 // 4),
        body_bytes=limits.body_bytes,
        idle_s=limits.idle_seconds,
        head_s=limits.head_seconds,
        body_s=limits.body_seconds,
    )


def _listener(name: str, path: str, inherited: dict[str, int]) -> trio.SocketListener:
    """systemd's socket when it hands one over by that name, else our own. Raises StoreUnavailable."""
    for given in (name, f"aziot-{name}", f"aziot-{name}.socket", f"identityd-{name}.socket"):
        if given in inherited:
            return listener_from_fd(inherited[given])
    listener = unix_listener(path, SOCKET_MODE)
    try:
        os.chown(path, -1, grp.getgrnam(SOCKET_GROUPS[name]).gr_gid)
    except KeyError:
        pass
    except OSError as exc:
        # An ordinary user may not give sockets away, and in a container the group may not be mapped (EINVAL).
        # The socket keeps the service's own group: fewer can read, and the device serves.
        if exc.errno != errno.EPERM:
            log.warning("%s keeps its group: %s", path, exc.strerror)
    return listener


def _noted(note: str | None) -> tuple[str, ...]:
    return () if note is None else (note,)


class _Reload:
    """SIGHUP: the configuration again. A broken one changes nothing and is told."""

    def __init__(self, paths: Paths, held: _Held, runtime: Runtime) -> None:
        self._paths = paths
        self._held = held
        self._runtime = runtime

    async def __call__(self) -> None:
        try:
            loaded = await trio.to_thread.run_sync(self._load)
        except ConfigurationInvalid as exc:
            for problem in exc.problems:
                log.error("%s", problem)
            log.error("configuration not reloaded; the one in force stays")
            self._runtime.post(self._unchanged(exc))
            return
        self._held.configuration = loaded.configuration
        identity = await trio.to_thread.run_sync(identify, loaded.configuration, self._runtime.snapshot)
        if identity.note is not None:
            log.warning("%s", identity.note)
        self._runtime.post(
            ConfigurationChanged(
                policy=identity.policy,
                fingerprint=identity.fingerprint,
                configuration_notes=_noted(identity.note),
                onboarding_not_after_unix_ms=identity.onboarding_not_after_unix_ms,
            )
        )
        log.info("configuration reloaded")

    def _unchanged(self, exc: ConfigurationInvalid) -> ConfigurationChanged:
        """What is in force stays; status says that the file could not be used."""
        snapshot = self._runtime.snapshot
        return ConfigurationChanged(
            policy=snapshot.policy,
            fingerprint=snapshot.fingerprint,
            configuration_notes=(f"configuration: not usable, the one before stays ({exc.problems[0]})",),
            onboarding_not_after_unix_ms=snapshot.onboarding_not_after_unix_ms,
        )

    def _load(self) -> config.Loaded:
        # Without a fallback: running on what is in force is better than going back further.
        loaded = config.load_with_fallback(self._paths.config, os.devnull, self._paths.root)
        _keep_last_good(self._paths, loaded)
        return loaded
