"""Steps and replay through ``transitions``, and ten years in virtual time."""

import logging
import random
import time
from collections.abc import Callable, Sequence

from transitions import Machine

from statemachine.events import RegistrationAssigned
from statemachine.journal import Record
from statemachine.machine import RULES_REVISION, decide
from statemachine.replay import fold, replay_files
from statemachine.snapshot import Snapshot
from statemachine.states import State
from tests.adapters.simulated import T0, YEAR, Simulated, live, rests_in, simulate, until
from tests.benchmarks.report import Measure, percentile

UNDERWAY_MS = 50
"Of the fake's latency: when the PUT reaches it."


def ten_years() -> tuple[float, Simulated]:
    """Seconds for a life of 90-day certificates with outages, kills, full disks, set clocks and commands."""
    device = Simulated(segment_bytes=1_000_000, keep=1_000)
    began = time.perf_counter()
    simulate(lambda: live(device, 3_650, random.Random(0)))
    took = time.perf_counter() - began
    if device.uncovered_ms(T0 + 10 * YEAR) or not device.replay().equal:
        raise AssertionError("the simulated life went wrong")
    return took, device


def measure_machine(*, quick: bool) -> list[Measure]:
    logging.disable()
    try:
        lives = [ten_years() for _ in range(2 if quick else 5)]
    finally:
        logging.disable(logging.NOTSET)
    device = lives[0][1]
    records = device.records
    files = [(str(n), b"".join(lines)) for n, lines in enumerate(device.journal.segments)]
    rounds = 4 if quick else 12
    steps = _best_rate(lambda: _steps(records), len(records), rounds)
    folded = _best_rate(lambda: _fold(records), len(records), rounds)
    read_and_folded = _best_rate(lambda: _replay(files), len(records), rounds)
    bare = _bare_triggers(rounds)
    events = f"{len(records)} events of ten simulated years"
    return [
        Measure(
            what="steps",
            measured=steps / 1000,
            unit="k/s",
            limit=50,
            at_least=True,
            beside=bare / 1000,
            beside_what="bare trigger()",
            detail=f"{events}; best of {rounds} rounds, one core",
        ),
        Measure(
            what="replay",
            measured=folded / 1000,
            unit="k/s",
            limit=50,
            at_least=True,
            beside=bare / 1000,
            beside_what="bare trigger()",
            detail="steps again, and their results compared with the recorded ones",
        ),
        Measure(
            what="replay from bytes",
            measured=read_and_folded / 1000,
            unit="k/s",
            detail="lines split, hashed, decoded, folded, compared: what `identityd replay` does",
        ),
        Measure(
            what="ten simulated years",
            measured=min(took for took, _ in lives),
            unit="s",
            limit=2,
            detail=f"{len(device.registrar.issued)} certificates, {len(records)} records; outages, kills, "
            f"full disks, set clocks; best of {len(lives)}",
        ),
        *_poll_delay(quick=quick),
    ]


def _steps(records: Sequence[Record]) -> None:
    snapshot = Snapshot()
    for record in records:
        snapshot = decide(snapshot, record.event, record.now_unix_ms).snapshot


def _fold(records: Sequence[Record]) -> None:
    _, count, divergence = fold(Snapshot(), records, RULES_REVISION)
    assert count == len(records), divergence


def _replay(files: Sequence[tuple[str, bytes]]) -> None:
    assert replay_files(files).equal


def _best_rate(work: Callable[[], None], count: int, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return count / best


def _bare_triggers(rounds: int) -> float:
    """The library alone: one guard, one callback, an unregistered model."""

    class Model:
        state = State.UNPROVISIONED

    states = list(State)
    machine = Machine(
        model=None,
        states=State,
        initial=State.UNPROVISIONED,
        transitions=[
            {
                "trigger": "next",
                "source": one,
                "dest": following,
                "conditions": lambda data: True,
                "after": lambda data: None,
            }
            for one, following in zip(states, [*states[1:], states[0]], strict=True)
        ],
        send_event=True,
        queued=False,
        auto_transitions=False,
        model_attribute="state",
    )
    event, model = machine.events["next"], Model()

    def work() -> None:
        for _ in range(5_000):
            event.trigger(model, [])

    return _best_rate(work, 5_000, rounds)


def _poll_delay(*, quick: bool) -> list[Measure]:
    """What the poll schedule adds when the cloud ends an operation at an instant of its own."""
    delays: list[float] = []
    for takes_ms in range(100, 4_000, 400 if quick else 100):
        device = Simulated()
        device.registrar.takes_ms = takes_ms

        async def scenario(device: Simulated = device) -> None:
            async with device.running() as runtime:
                await until(runtime, rests_in(State.PROVISIONED))

        simulate(scenario)
        assigned = next(one for one in device.records if isinstance(one.event, RegistrationAssigned))
        delays.append((assigned.now_unix_ms - T0 - UNDERWAY_MS - takes_ms) / 1000)
    return [
        Measure(
            what="poll schedule, operation of 0.1 to 4 s",
            measured=percentile(delays, 50),
            unit="s",
            beside=5.0,
            beside_what="the original's wait",
            detail=f"simulated; worst {max(delays):.2f} s, by the schedule of 0.1, 0.6, 1.6, 4, 7 s",
        )
    ]
