"""Devices one after another, each in a world of its own: what one asks slows no other down."""

from collections.abc import Callable

from adapters.simulation.history import Life
from adapters.simulation.options import Scenario
from adapters.simulation.report import Report, badness, report, summary_of
from adapters.simulation.world import live


def simulate(scenario: Scenario, progress: Callable[[int], None] = lambda device: None) -> Report:
    """The same scenario gives an equal report. ``progress`` is told each device that is over."""
    worst: Life | None = None
    summaries = []
    for device in range(1, scenario.devices + 1):
        life = live(scenario, device)
        summaries.append(summary_of(life))
        if worst is None or badness(life) > badness(worst):
            worst = life
        progress(device)
    assert worst is not None, "a scenario has at least one device"
    return report(scenario, worst, summaries)
