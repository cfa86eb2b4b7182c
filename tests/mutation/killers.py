"""Who may notice a mutant, cheapest first.

``build``     the machine's own checks of its rows, or the import itself
``journals``  the recorded journals no longer replay
``tests``     tests of tests/core, the strongest for their price first
``explorer``  exhaustive exploration, where there is a statemachine/explore.py
``rest``      all other tests of tests/core

All but the first are told apart by nothing but what they say: None, or what they found.
"""

import importlib
import importlib.util
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from statemachine.journal import Reading, read
from statemachine.replay import fold, replay_files

KILLERS = ("build", "journals", "tests", "explorer", "rest")
JOURNALS = Path(__file__).parents[1] / "journals"
EXPLORER = "statemachine.explore"

EXPLORED = 3_000
"Worlds; a whole search takes minutes, and a run asks thousands of times."

Explorer = Callable[[], str | None]


class Journals:
    """Recorded journals, read once: a mutant only has to fold them."""

    def __init__(self, folder: Path = JOURNALS) -> None:
        paths = sorted(folder.rglob("*.jsonl"))
        contents = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        self.readings: dict[str, Reading] = {
            name: read(content) for name, content in contents.items() if replay_files([(name, content)]).equal
        }
        "Those that replay today; the ones kept divergent on purpose prove nothing here."

    def finds(self) -> str | None:
        """The first record that is decided otherwise."""
        for name, reading in self.readings.items():
            assert reading.header is not None
            assert reading.snapshot is not None
            try:
                _, _, divergence = fold(reading.snapshot, reading.records, reading.header.rules_revision)
            except Exception as exc:
                return f"{name}: {named(exc)}"
            if divergence is not None:
                return f"{name}, {divergence.splitlines()[0]}"
        return None


def test_finds(item: pytest.Item, following: pytest.Item | None) -> str | None:
    """Run one collected test with its fixtures. ``following`` decides which of them are kept."""
    for report in runtestprotocol(item, log=False, nextitem=following):
        if report.failed:
            return _last_line(report.longreprtext)
    return None


test_finds.__test__ = False  # type: ignore[attr-defined]  # The name is what it does; it is no test itself.


def run_tests(
    items: Sequence[pytest.Item], before_each: Callable[[pytest.Item], None]
) -> tuple[str, str] | None:
    """Node id of the first that fails, and what it says."""
    for index, item in enumerate(items):
        before_each(item)
        found = test_finds(item, items[index + 1] if index + 1 < len(items) else None)
        if found is not None:
            return item.nodeid, found
    return None


def explorer(worlds: int = EXPLORED) -> Explorer | None:
    """Exploration with the step in force: None when every invariant holds, else the first that fails.

    ``explore_finds`` of the explorer where it offers one. Else its ``search``, of the worlds that are reached
    without any surprise, and of the first ``worlds`` of them only: what is wrong is seldom far from the first
    start. None: there is no explorer.
    """
    if importlib.util.find_spec(EXPLORER) is None:
        return None
    module = importlib.import_module(EXPLORER)
    if hasattr(module, "explore_finds"):
        found: Explorer = module.explore_finds
        return found
    if not hasattr(module, "search"):
        return None

    def first() -> str | None:
        found = module.search(0, worlds).found
        return f"{found[0].law}: {found[0].what}" if found else None

    return first


def named(exc: BaseException) -> str:
    """An exception in one line, with its place."""
    frames = traceback.extract_tb(exc.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(exc).__name__}{place}: {str(exc)[:120]}"


def _last_line(text: str) -> str:
    """What pytest says went wrong, without the way there."""
    lines = [line for line in text.splitlines() if line.startswith("E ")]
    return (lines[0][1:].strip() if lines else text.strip().rpartition("\n")[2])[:160]
