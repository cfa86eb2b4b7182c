"""The composition root: which adapter fills which port, and the list of everything that is alive."""

import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import partial

import trio

from adapters import config
from adapters.driven import configured
from adapters.driven.certificates.embedded import EmbeddedCertificates
from adapters.driven.certificates.preloaded import preloaded_notes
from adapters.driven.clock import SystemChance, SystemClock, SystemClockChanges
from adapters.driven.credentials import GenerationStore
from adapters.driven.dps import DpsRegistrar
from adapters.driven.hub import HubProver
from adapters.driven.hub_modules import HubModules
from adapters.driven.identities import Identities
from adapters.driven.instance_lock import InstanceLock
from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driven.local_identities import LocalIdentityIssuer
from adapters.driven.module_cache import ModuleCache
from adapters.driven.module_keys import ModuleKeys, ModuleKeysPusher
from adapters.driven.onboarding import read_file
from adapters.driven.onboarding_issue import OnboardingIssuer
from adapters.driven.onboarding_trial import Places
from adapters.driven.reconcile import Reconciler
from adapters.driven.timers import TrioTimers
from adapters.driving.certd_api import certd_handler
from adapters.driving.control import control_handler
from adapters.driving.identityd_api import identityd_handler
from adapters.driving.keyd_api import keyd_handler
from adapters.driving.reprovision import reprovision
from adapters.driving.signals import watch_signals
from adapters.driving.systemd import Notifier, close_unclaimed, inherited_fds
from adapters.driving.workload_api import workload_handler
from adapters.opening import Opener, keep_last_good, provisional
from adapters.paths import Paths, service_paths
from adapters.reloading import Announcer, Held, Reload
from adapters.runtime import Ports, Runtime
from adapters.sockets import limits_of, listener_of
from adapters.tables import machine_json
from adapters.watched import WatchedCertificates
from adapters.wire.http_server import serve
from adapters.wire.installed_roots import distrusted_roots
from statemachine.events import AnyEvent
from statemachine.settings import Configuration
from statemachine.snapshot import Snapshot

ITSELF = -1
"The uid of commands that the service gives itself."

log = logging.getLogger("identityd")


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


async def _serve(paths: Paths, loaded: config.Loaded) -> None:
    held = Held(loaded.configuration)
    notes = keep_last_good(paths, loaded)
    store = GenerationStore(paths.state_dir, paths.certd_home, paths.keyd_home)
    await trio.to_thread.run_sync(store.open)
    clock, chance = SystemClock(), SystemChance()
    keys = EmbeddedKeys(paths.keyd_home, lambda: configured.keys_of(held()), store)
    stored = EmbeddedCertificates(
        paths.certd_home, store.read_certificate, lambda: configured.certificates_of(held()), keys, clock
    )

    # The machine is made of ports and the ports look at the machine, but only once it runs.
    def snapshot() -> Snapshot:
        return runtime.snapshot

    def post(event: AnyEvent) -> None:
        runtime.post(event)

    onboarding = OnboardingIssuer(
        held,
        keys,
        stored,
        clock,
        Places(paths.state_dir, paths.certd_home, paths.keyd_home),
        snapshot=snapshot,
        changed=lambda: announcer(),
        reprovision=lambda: reprovision(runtime, uid=ITSELF, privileged=True),
    )
    await trio.to_thread.run_sync(onboarding.open)

    def current() -> Configuration:
        return onboarding.current(held())

    def trial() -> Configuration:
        return onboarding.trial(held())

    distrusted = partial(distrusted_roots, paths.state_dir, paths.root)
    registrar = DpsRegistrar(trial, clock, store, distrusted=distrusted)
    modules = HubModules(current, snapshot, clock, store, post, distrusted=distrusted)
    cache = ModuleCache(paths.state_dir)
    module_keys = ModuleKeys(keys, cache, post)
    identities = Identities(current, snapshot, clock, keys, modules, cache, module_keys)
    reconciler = Reconciler(paths.state_dir, current, snapshot, clock, chance, modules, cache, module_keys)
    timers = TrioTimers(clock, SystemClockChanges(clock))
    ports = Ports(
        registrar=registrar,
        hub=HubProver(trial, clock, store, distrusted=distrusted),
        store=store,
        module_keys=ModuleKeysPusher(modules, cache, module_keys),
        timers=timers,
        clock=clock,
        chance=chance,
    )
    opener = Opener(paths, trial, store, clock, notes)
    runtime = Runtime(opener.open, ports, opener.header(), provisional(opener))
    announcer = Announcer(runtime, trial, lambda: onboarding.note, notes)
    certificates = WatchedCertificates(stored, store.inventory, runtime)
    own_uid = os.geteuid()
    notifier = Notifier.from_environment(os.environ, os.getpid())
    inherited = inherited_fds(os.environ, os.getpid())
    requests = held().requests

    # Before anything is alive: a socket that cannot be had is one plain error, not a group of them.
    sockets = (
        (
            listener_of("certd", paths.certd_sock, inherited),
            certd_handler(certificates, lambda: held().certificates.grants, lambda: held().trust_bundle_id),
            requests.certd,
        ),
        (
            listener_of("keyd", paths.keyd_sock, inherited),
            keyd_handler(keys, lambda: held().keys.grants),
            requests.keyd,
        ),
        (
            listener_of("identityd", paths.identityd_sock, inherited),
            identityd_handler(
                identities,
                LocalIdentityIssuer(certificates, held),
                certificates,
                runtime,
                held,
                snapshot,
                own_uid=own_uid,
                read_file=read_file,
            ),
            requests.identityd,
        ),
        (
            listener_of("workload", paths.workload_sock, inherited),
            workload_handler(
                certificates,
                lambda: held().workload_bundle_id,
                lambda: held().trust_bundle_id,
                lambda: held().manifest_bundle_id,
            ),
            requests.workload,
        ),
        (
            listener_of("control", paths.control_sock, inherited),
            control_handler(runtime, own_uid=own_uid, machine=machine_json),
            None,  # watching is a request without an end
        ),
    )
    close_unclaimed(inherited)

    def look_again() -> None:
        onboarding.wake()
        reconciler.wake()

    runtime.observe(_Turns(look_again))
    async with trio.open_nursery() as nursery:
        await nursery.start(modules.run)
        await nursery.start(identities.run)
        for listener, handler, limit in sockets:
            await nursery.start(serve, [listener], handler, limits_of(held(), limit))
        await nursery.start(timers.run, runtime.post)
        await nursery.start(watch_signals, runtime.post, Reload(paths, held, announcer, then=look_again))
        nursery.start_soon(notifier.run_watchdog)
        nursery.start_soon(_remark_preloaded, held, clock)
        # A certificate that is issued here at first boot is part of who we are.
        await nursery.start(onboarding.run)
        await nursery.start(reconciler.run)
        lived = trio.Event()
        nursery.start_soon(_live, runtime, lived, notifier)
        await lived.wait()
        notifier.stopping()
        with trio.move_on_after(1):
            await registrar.aclose()
            await modules.aclose()
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


class _Turns:
    """An observer of the machine that speaks up at what others must look at again, and only then."""

    def __init__(self, look_again: Callable[[], None]) -> None:
        self._look_again = look_again
        self._seen: object = None

    def __call__(self, snapshot: Snapshot) -> None:
        clock, credential = snapshot.clock, snapshot.credential
        seen = (
            snapshot.state,
            snapshot.hold,
            snapshot.foreign_machine,
            snapshot.assignment,
            None if credential is None else (credential.generation, credential.proven),
            snapshot.module_keys_lost,
            (clock.trusted, clock.correction_ms),
        )
        if seen != self._seen:
            self._seen = seen
            self._look_again()


async def _remark_preloaded(held: Held, clock: SystemClock) -> None:
    """What is to be known of certificates that the operator named: nobody renews them."""
    preloaded = configured.certificates_of(held()).preloaded
    for note in await trio.to_thread.run_sync(preloaded_notes, preloaded, clock.now_unix_ms()):
        log.warning("%s", note)


def _forget_the_start() -> None:
    """What imports and the restored history left is kept for good, so the collector need not look at it.

    A full collection then takes a tenth of the time it did, and happens while little has piled up: each
    TLS connection of trio is a cycle, and holds a context with the system's roots (1.7 MiB) until then.
    """
    gc.collect()
    gc.freeze()
