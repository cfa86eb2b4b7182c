"""Plays one scenario: real runtime, machine, timers and clock watch on virtual time, fakes around them."""

from collections import deque

import trio
from msgspec import structs

from adapters.driven.clock import (
    FIRST_RECHECK_S,
    RECHECK_S,
    UNSYNCHRONISED_RECHECK_S,
    SystemClockChanges,
)
from adapters.driven.timers import TrioTimers
from adapters.fakes.clock import VirtualClock
from adapters.runtime import Ports, Runtime
from statemachine.journal import Record
from statemachine.machine import decide
from statemachine.snapshot import Snapshot
from tests.adapters.simulated import Simulated, simulate, until
from tests.clocks.cloud import DatedHub, DatedRegistrar, WatchedStore
from tests.clocks.judge import wrong_now
from tests.clocks.scenario import (
    LIFE_MS,
    AtCommit,
    BeforeEnd,
    CloudShows,
    Dial,
    Drift,
    Happening,
    InPhase,
    Later,
    Off,
    Restart,
    Scenario,
    Set,
    Suspend,
)

LATENCY_S = 1.0
"Of every answer, so that a phase has a middle."
PATIENCE_S = 3 * 86_400
"How long a device that is not right again in time is watched, to say when it was."
NEVER_S = 400 * 86_400


async def no_watch() -> None:
    """A kernel that cannot say that its clock was set."""
    raise OSError


class PatientChanges(SystemClockChanges):
    """The product's, which at its steady pace looks in vain for months; those looks are left out here.

    Once the pace is steady it waits until there is something to see, and then until the next look.
    """

    def __init__(self, clock: VirtualClock, *, watch: bool) -> None:
        super().__init__(clock, clock.wait_until_set if watch else no_watch)
        self._virtual, self._watched = clock, watch

    async def wait(self) -> None:
        synchronised = self._virtual.kernel_synchronised()
        if self._watched and synchronised:
            pace_s = 0
        elif synchronised:
            pace_s = RECHECK_S
        elif self._recheck_s < UNSYNCHRONISED_RECHECK_S:
            pace_s = 0
        else:
            pace_s = UNSYNCHRONISED_RECHECK_S if self._watched else RECHECK_S
        if not self._began or not pace_s:
            await super().wait()
            return
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            was_set = trio.Event()

            async def told() -> None:
                await self._virtual.wait_until_set()
                was_set.set()

            nursery.start_soon(told)
            await self._virtual.wait()
            with trio.move_on_after(-(trio.current_time() - began) % pace_s):
                # Without a watch a step is seen at the next look, as everything else.
                await (was_set if self._watched else trio.Event()).wait()
            if self._watched and was_set.is_set():
                self._recheck_s = FIRST_RECHECK_S
            nursery.cancel_scope.cancel()


class ClockedDevice(Simulated):
    """One device, its clock and the true one."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(seed=sum(scenario.name.encode()), life_ms=LIFE_MS)
        self.scenario = scenario
        self.true = VirtualClock(scenario.begins_unix_ms)
        self.clock = VirtualClock(scenario.begins_unix_ms, synchronised=scenario.synchronised)
        self.store = WatchedStore(self.true, latency_s=LATENCY_S, asked=self.asked)
        self.registrar = DatedRegistrar(
            self.true, life_ms=LIFE_MS, latency_s=LATENCY_S, pending=1, asked=self.asked
        )
        self.hub = DatedHub(self.true, self.store, latency_s=LATENCY_S, asked=self.asked)
        self.registrar.ca_ahead_ms = scenario.ca_ahead_ms
        self.registrar.puts, self.registrar.polls = [], []
        for peer in (self.registrar, self.hub):
            peer.device, peer.true, peer.tries = self.clock, self.true, []
        self._cloud_shows(scenario.cloud_shows)
        self.snapshots: list[Snapshot] = []
        "After every record."
        self.true_at: list[int] = []
        "The true instants of the same."
        self.right_ms: int | None = None
        "True instant at which the script was over."
        self.right_after_s: float | None = None
        self.still_wrong = ""
        "What was wrong when time ran out."
        self.end_ms = 0

    @property
    def told(self) -> list[Record]:
        """The records, as they became durable."""
        return [one for one in self.trace if isinstance(one, Record)]

    # --- what Simulated asks for ---------------------------------------------------------------------

    def runtime(self) -> Runtime:
        self.timers = TrioTimers(self.clock, PatientChanges(self.clock, watch=self.scenario.watch))
        ports = Ports(
            registrar=self.registrar,
            hub=self.hub,
            store=self.store,
            module_keys=self.module_keys,
            timers=self.timers,
            clock=self.clock,
            chance=self.chance,
        )
        runtime = Runtime(self.open, ports, self.header(), self.provisional())
        runtime.observe(self._taken)
        return runtime

    def _taken(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self.true_at.append(self.true.now_unix_ms())

    def started(self):
        return structs.replace(
            super().started(), build_unix_ms=self.scenario.begins_unix_ms + self.scenario.build_ms
        )

    def provisional(self) -> Snapshot:
        return decide(Snapshot(hold=True), self.started(), self.clock.now_unix_ms()).snapshot

    # --- the script ----------------------------------------------------------------------------------

    async def live(self) -> None:
        script = deque(self.scenario.script)
        self._dial(self.scenario.dial)
        while True:
            async with self.running() as runtime:
                restart = None
                while script and restart is None:
                    restart = await self._happen(script.popleft(), runtime)
                if restart is None:
                    await self._watch(runtime)
                    return
            await trio.sleep(restart.down_ms / 1000)
            self._set(Set(restart.dial, restart.synchronised))

    async def _happen(self, happening: Happening, runtime: Runtime) -> Restart | None:
        """The restart that this ends in, for which the runtime has to be left."""
        match happening.when:
            case Later(ms):
                await trio.sleep(ms / 1000)
            case InPhase(phase, attempt):
                await until(
                    runtime,
                    lambda snapshot: snapshot.phase is phase and snapshot.attempts == attempt,
                    within_s=NEVER_S,
                )
                await trio.sleep(LATENCY_S / 2)
            case BeforeEnd(ms):
                assert self.store.current is not None
                left_ms = self.store.current.not_after_unix_ms - self.true.now_unix_ms() - ms
                await trio.sleep(left_ms / 1000)
            case AtCommit(after):
                flipped = trio.Event()

                def meanwhile() -> None:
                    self._do(happening.deeds)
                    flipped.set()

                if after:
                    self.store.after_flip = meanwhile
                else:
                    self.store.before_flip = meanwhile
                with trio.fail_after(NEVER_S):
                    await flipped.wait()
                return None
        return self._do(happening.deeds)

    def _do(self, deeds) -> Restart | None:
        for deed in deeds:
            match deed:
                case Set():
                    self._set(deed)
                case Suspend(ms, slip_ms):
                    self.true.suspend(ms)
                    self.clock.suspend(ms)
                    self.clock.step(slip_ms)
                case CloudShows(by_ms):
                    self._cloud_shows(by_ms)
                case Drift(ppm):
                    self.true.drift(ppm)
                case Restart():
                    return deed
        return None

    def _cloud_shows(self, by_ms: int | None) -> None:
        self.registrar.shows_ms = by_ms
        self.hub.shows_ms = None if by_ms is None else by_ms + self.scenario.hub_off_ms

    def _set(self, deed: Set) -> None:
        """First the step, as the kernel is told; then the word of whoever made it."""
        self._dial(deed.dial)
        self.clock.synchronise(deed.synchronised)

    def _dial(self, dial: Dial) -> None:
        shows = self.true.now_unix_ms() + dial.by_ms if isinstance(dial, Off) else dial.unix_ms
        if shows != self.clock.now_unix_ms():
            self.clock.step(shows - self.clock.now_unix_ms())

    # --- afterwards ----------------------------------------------------------------------------------

    async def _watch(self, runtime: Runtime) -> None:
        scenario, began = self.scenario, trio.current_time()
        self.right_ms = self.true.now_unix_ms()
        with runtime.follow() as lines, trio.move_on_after(PATIENCE_S):
            while (wrong := wrong_now(self, runtime.snapshot)) is not None:
                self.still_wrong = wrong
                await lines.receive()
            self.right_after_s = trio.current_time() - began
        await trio.sleep_until(began + scenario.days * 86_400)
        self.end_ms = self.true.now_unix_ms()
        self.still_wrong_at_end = wrong_now(self, runtime.snapshot)


def play(scenario: Scenario, seed: int = 0) -> ClockedDevice:
    """``seed`` is the order in which tasks of one instant run; the same one gives the same life."""
    device = ClockedDevice(scenario)
    # What trio's own documentation has test libraries do: the order is otherwise another in each run.
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio._core._run._r.seed(seed)
    try:
        simulate(device.live)
    finally:
        trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = False
    return device
