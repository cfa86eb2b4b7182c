"""The composition root: which adapter fills which port, and the list of everything that is alive."""

import gc
import logging
import os
from collections.abc import Callable
from functools import partial

import trio

from adapters import config, logs
from adapters.driven import configured
from adapters.driven.allocator import share_one_arena
from adapters.driven.certificates.embedded import EmbeddedCertificates
from adapters.driven.certificates.preloaded import preloaded_notes
from adapters.driven.clock import SystemChance, SystemClock, SystemClockChanges
from adapters.driven.credentials import GenerationStore
from adapters.driven.dps import DpsRegistrar
from adapters.driven.hook_turns import KINDS, Kind
from adapters.driven.hooks import Commands, Hooks
from adapters.driven.hub import HubProver
from adapters.driven.hub_modules import HubModules
from adapters.driven.identities import Identities
from adapters.driven.instance_lock import InstanceLock
from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driven.local_identities import LocalIdentityIssuer
from adapters.driven.metrics_file import MetricsFile
from adapters.driven.module_cache import ModuleCache
from adapters.driven.module_keys import ModuleKeys, ModuleKeysPusher
from adapters.driven.onboarding import read_file
from adapters.driven.onboarding_issue import OnboardingIssuer
from adapters.driven.onboarding_trial import Places
from adapters.driven.reconcile import Reconciler
from adapters.driven.remains import Remains
from adapters.driven.timers import TrioTimers
from adapters.driving.certd_api import certd_handler
from adapters.driving.control import control_handler
from adapters.driving.identityd_api import identityd_handler
from adapters.driving.keyd_api import keyd_handler
from adapters.driving.reprovision import reprovision
from adapters.driving.signals import watch_signals
from adapters.driving.systemd import Notifier, close_unclaimed, inherited_fds
from adapters.driving.workload_api import workload_handler
from adapters.meters import Meters
from adapters.opening import Opener, keep_last_good, provisional, was_given_up
from adapters.paths import Paths, service_paths
from adapters.ports import Reloaded
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


def main(*, root: str | None, metrics_file: str | None = None) -> int:
    """Serve until asked to stop. Raises ConfigurationInvalid, AlreadyRunning, StoreUnavailable."""
    share_one_arena()
    lines = logs.install(os.environ)
    paths = service_paths(root)
    with InstanceLock(paths.state_dir):
        loaded = config.load_with_fallback(paths.config, paths.last_good_config, paths.root)
        try:
            trio.run(_serve, paths, loaded, lines, metrics_file)
        except BaseExceptionGroup as group:
            # Ctrl-C before the signals are caught: nothing had begun, so nothing is to be told.
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
            raise KeyboardInterrupt from None
    return 0


async def _serve(paths: Paths, loaded: config.Loaded, lines: logs.Log, metrics_file: str | None) -> None:
    held = Held(loaded.configuration)

    def configure_log() -> None:
        lines.configure(held().log.format, held().log.level)

    configure_log()
    notes = keep_last_good(paths, loaded)
    store = GenerationStore(
        paths.state_dir, paths.certd_home, paths.keyd_home, purge_more=lambda: remains.erase()
    )
    given_up = await trio.to_thread.run_sync(was_given_up, paths.state_dir)
    await trio.to_thread.run_sync(partial(store.open, given_up=given_up))
    clock, chance = SystemClock(), SystemChance()
    meters = Meters(clock)
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
    at_hub = meters.exchanged("hub")
    registrar = DpsRegistrar(trial, clock, store, distrusted=distrusted, timed=meters.exchanged("dps"))
    modules = HubModules(current, snapshot, clock, store, post, distrusted=distrusted, timed=at_hub)
    cache = ModuleCache(paths.state_dir)
    module_keys = ModuleKeys(keys, cache, post)
    identities = Identities(current, snapshot, clock, keys, modules, cache, module_keys)
    reconciler = Reconciler(paths.state_dir, current, snapshot, clock, chance, modules, cache, module_keys)
    remains = Remains(paths.state_dir, keys, cache, (modules.aclose, registrar.aclose, reconciler.forget))
    timers = TrioTimers(clock, SystemClockChanges(clock))
    ports = Ports(
        registrar=registrar,
        hub=HubProver(trial, clock, store, distrusted=distrusted, timed=at_hub),
        store=store,
        module_keys=ModuleKeysPusher(modules, cache, module_keys),
        timers=timers,
        clock=clock,
        chance=chance,
    )
    opener = Opener(paths, trial, store, clock, notes, meters)
    runtime = Runtime(opener.open, ports, opener.header(), provisional(opener))
    hooks = Hooks(
        paths.state_dir, paths.run_dir, lambda: _hook_commands(held()), lambda: announcer(), runtime.post
    )
    announcer = Announcer(runtime, trial, lambda: _remarks(onboarding.note, hooks.note), notes)

    def look_again() -> None:
        onboarding.wake()
        reconciler.wake()

    def taken_over() -> None:
        configure_log()
        look_again()

    def metrics() -> bytes:
        available = runtime.journal_available
        return meters.text(runtime.snapshot, runtime.status(), journal_available=available)

    read_again = Reload(paths, held, announcer, then=taken_over)
    notifier = Notifier.from_environment(os.environ, os.getpid())

    async def reload() -> Reloaded:
        with notifier.reloading():
            return await read_again()

    certificates = WatchedCertificates(stored, store.inventory, runtime)
    own_uid = os.geteuid()
    inherited = inherited_fds(os.environ, os.getpid())
    requests = held().requests

    # Before anything is alive: a socket that cannot be had is one plain error, not a group of them.
    sockets = (
        (
            "certd",
            listener_of("certd", paths.certd_sock, inherited),
            certd_handler(certificates, lambda: held().certificates.grants, lambda: held().trust_bundle_id),
            requests.certd,
        ),
        (
            "keyd",
            listener_of("keyd", paths.keyd_sock, inherited),
            keyd_handler(keys, lambda: held().keys.grants),
            requests.keyd,
        ),
        (
            "identityd",
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
            "workload",
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
            "control",
            listener_of("control", paths.control_sock, inherited),
            control_handler(
                runtime,
                own_uid=own_uid,
                principals=lambda: held().control.principals,
                names=lambda: _names(snapshot()),
                machine=machine_json,
                metrics=metrics,
                reload=reload,
            ),
            None,  # watching is a request without an end
        ),
    )
    close_unclaimed(inherited)
    runtime.observe(_Turns(look_again))
    runtime.observe(hooks.observe)
    runtime.observe(meters.observe)
    if notifier.heard:
        runtime.observe(lambda _: notifier.status(_one_line(runtime)))
    async with trio.open_nursery() as nursery:
        await nursery.start(modules.run)
        await nursery.start(identities.run)
        for name, listener, handler, limit in sockets:
            limits, answered = limits_of(held(), limit), meters.answered(name)
            served = partial(serve, [listener], handler, limits, on_answer=answered)
            meters.listening(name, await nursery.start(served))
        await nursery.start(timers.run, runtime.post)
        await nursery.start(watch_signals, runtime.post, reload)
        nursery.start_soon(notifier.run_watchdog, runtime.come_round)
        await nursery.start(hooks.run)
        nursery.start_soon(_remark_preloaded, held, clock)
        # A certificate that is issued here at first boot is part of who we are.
        await nursery.start(onboarding.run)
        await nursery.start(reconciler.run)
        lived = trio.Event()
        nursery.start_soon(_live, runtime, lived, notifier)
        if metrics_file is not None:
            kept = MetricsFile(metrics_file, metrics)
            meters.on_change(kept.changed)
            await nursery.start(kept.run)
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
        log.info("READY %s", runtime.status().state)
        notifier.ready()
        notifier.status(_one_line(runtime))
        _forget_the_start()
    lived.set()


def _one_line(runtime: Runtime) -> str:
    status = runtime.status()
    return f"{status.state}: {status.reason}"


def _names(snapshot: Snapshot) -> tuple[str, ...]:
    """What this device is called: at its hub, and where it registers."""
    assignment, policy = snapshot.assignment, snapshot.policy
    names = (
        None if assignment is None else assignment.device_id,
        None if policy.manual is None else policy.manual.device_id,
        policy.registration_id,
    )
    return tuple(dict.fromkeys(filter(None, names)))


def _remarks(*notes: str | None) -> str | None:
    return "; ".join(filter(None, notes)) or None


def _hook_commands(configuration: Configuration) -> Commands:
    settings = configuration.hooks
    paths: dict[Kind, str | None] = {kind: getattr(settings, kind) for kind in KINDS}
    wanted = {kind: path for kind, path in paths.items() if path is not None}
    return Commands(paths=wanted, within_s=settings.timeout_seconds)


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
