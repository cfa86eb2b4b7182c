"""A fork server: everything is imported and every test collected once, then each mutant gets a child.

The child grafts the change, lets the killers look in order of their price, says in one line who found it,
and is gone. CPU time is bounded for each look, so a mutant that never ends is noticed without any clock on a
wall; a bound on memory does the same for one that grows.
"""

import contextlib
import gc
import io
import json
import mmap
import os
import resource
import selectors
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import coverage
import pytest
from hypothesis import Phase, settings

from statemachine import machine
from statemachine.errors import TableMistake
from tests.mutation.difference import Step, difference
from tests.mutation.graft import NotGrafted, graft
from tests.mutation.killers import KILLERS, Explorer, Journals, explorer, named, run_tests, test_finds
from tests.mutation.source import Mutant

ROOT = Path(__file__).parents[2]
TESTS = "tests/core"
QUICK_CPU_S = 4.0
"The tests that may look before the explorer does."
LISTED_CPU_S = 1.0
"The same for what is called equivalent: it is compared with the original afterwards, which sees more."
LEAST_LIMIT_S = 10.0
TIMES_SLOWER = 10
"A look may take this much longer than on the unchanged machine, or LEAST_LIMIT_S; then it is a hang."
EXPLORER_LIMIT_S = 600.0
STUCK_S = 1_800.0
"Wall time after which a child that uses no CPU is killed as well."
MEMORY_BYTES = 3 << 30


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one mutant."""

    mutant: Mutant
    killer: str | None
    "One of KILLERS, or None: it survived. ``difference``: listed as equivalent, and it is not."
    found: str = ""
    test: str = ""
    "The test that found it, by its node id."
    cpu_s: float = 0.0


@dataclass(kw_only=True)
class Look:
    """One test on the unchanged machine: what it costs, and what it reaches."""

    ok: bool
    cpu_s: float
    lines: dict[str, frozenset[int]] = field(default_factory=dict)
    "By module."
    pairs: frozenset[tuple[str, str]] = frozenset()
    "(position, event) that were looked up in either table."
    measured: bool = False
    "Without it nobody knows what the test reaches."

    def may_notice(self, mutant: Mutant) -> bool:
        if not self.measured:
            return True
        if mutant.pairs:
            return bool(self.pairs & mutant.pairs)
        if mutant.lines:
            return bool(self.lines.get(mutant.source.name, frozenset()) & mutant.lines)
        return True


class GreenFirst(Exception):
    """A killer that fails on the unchanged machine would kill everything."""


class _Collector:
    """Collects as pytest does and then hands the tests over instead of running them."""

    def __init__(self, work: Callable[[list[pytest.Item]], None]) -> None:
        self._work = work

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        # Modules are imported after this. Nobody reads a smaller example, so none is looked for.
        settings.register_profile(
            "mutation", settings.get_profile("same-every-time"), phases=(Phase.explicit, Phase.generate)
        )
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise GreenFirst("collecting the tests failed")
        self._work(session.items)
        return True


def with_tests(work: Callable[[list[pytest.Item]], None], paths: Sequence[str] = (TESTS,)) -> None:
    """Collect the tests and call ``work`` with them, in a process that may fork. Raises what it raises."""
    raised: list[BaseException] = []

    def guarded(items: list[pytest.Item]) -> None:
        try:
            work(items)
        except BaseException as exc:
            raised.append(exc)

    arguments = [
        "-q",
        "--no-header",
        "--no-summary",
        "-p",
        "no:cacheprovider",
        "--capture=no",
        "--assert=plain",
    ]
    arguments += [f"--rootdir={ROOT}", *(str(ROOT / path) for path in paths)]
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main(arguments, plugins=[_Collector(guarded)])
    if raised:
        raise raised[0]
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise GreenFirst(f"pytest ended with {status!r}")


# --- the unchanged machine ---------------------------------------------------------------------------


def look_at_unchanged(items: Sequence[pytest.Item], *, measured: bool) -> dict[str, Look]:
    """Run the tests once without any change. Raises GreenFirst when one of them fails.

    ``measured`` also says what each of them reaches; that takes about twice the time.
    """
    return green(_in_child(lambda: json.dumps(_looks(items, measured=measured))))


SLOW = (
    "test_explore",
    "test_invariants",
    "test_journal",
    "test_laws",
    "test_policy",
    "test_reduction",
    "test_renewal_policy",
    "test_replay",
    "test_totality",
    "test_what_if",
)
"Walks and Hypothesis, at home in these."


def supposed_looks(items: Sequence[pytest.Item]) -> dict[str, Look]:
    """The same without looking: for a caller that has run the tests already."""

    def price(name: str) -> float:
        return 0.4 if name in SLOW else 0.002 if name.startswith("test_mutants") else 0.005

    return {item.nodeid: Look(ok=True, cpu_s=price(item.path.stem)) for item in items}


def remembered_looks(items: Sequence[pytest.Item], file: Path) -> dict[str, Look]:
    """The same, measured, and kept in a file.

    What was found out stands while neither the machine nor anything a test is made of has changed; tests of a
    changed test module are looked at again.
    """
    helpers = [path for path in (ROOT / TESTS).glob("*.py") if not path.name.startswith("test_")]
    shared = max(path.stat().st_mtime for path in [*(ROOT / "statemachine").glob("*.py"), *helpers])
    kept: dict[str, object] = {}
    if file.exists() and (since := file.stat().st_mtime) > shared:
        standing = {item.nodeid for item in items if item.path.stat().st_mtime < since}
        kept = json.loads(file.read_text(encoding="utf-8"))
        kept = {name: look for name, look in kept.items() if name in standing}
    new = [item for item in items if item.nodeid not in kept]
    if new:
        kept |= json.loads(_in_child(lambda: json.dumps(_looks(new, measured=True))))
    answer = json.dumps(kept)
    looks = green(answer)
    file.write_text(answer, encoding="utf-8")
    return looks


def green(answer: str) -> dict[str, Look]:
    """What was found out of each test. Raises GreenFirst."""
    looks = {name: _look_of(fields) for name, fields in json.loads(answer).items()}
    red = [name for name, look in looks.items() if not look.ok]
    if red:
        raise GreenFirst(f"a test fails without any change: {red[0]}")
    return looks


def _look_of(fields: dict[str, object]) -> Look:
    look = Look(**fields)  # type: ignore[arg-type]  # Our own JSON, a moment old.
    look.lines = {module: frozenset(lines) for module, lines in look.lines.items()}
    look.pairs = frozenset((position, event) for position, event in look.pairs)
    return look


def _looks(items: Sequence[pytest.Item], *, measured: bool) -> dict[str, dict[str, object]]:
    pairs: set[tuple[str, str]] = set()
    run = machine._run

    def listening(compiled, work, key, taken):
        pairs.add((getattr(work, compiled.machine.model_attribute).name, key))
        return run(compiled, work, key, taken)

    if measured:
        machine._run = listening
    tracer = coverage.Coverage(data_file=None, config_file=False, include=[f"{ROOT}/statemachine/*"])
    if measured:
        tracer.start()
    found: dict[str, dict[str, object]] = {}
    for item, following in zip(items, [*items[1:], None], strict=True):
        pairs.clear()
        if measured:
            tracer.switch_context(item.nodeid)
        began = time.process_time()
        wrong = test_finds(item, following)
        cpu_s = time.process_time() - began
        found[item.nodeid] = {
            "ok": wrong is None,
            "cpu_s": cpu_s,
            "pairs": sorted(pairs),
            "measured": measured,
        }
        if wrong is not None:
            # Nobody needs to know of the others then.
            break
    if measured:
        tracer.stop()
        data = tracer.get_data()
        modules = {
            path: ".".join(Path(path).relative_to(ROOT).with_suffix("").parts)
            for path in data.measured_files()
        }
        for name, look in found.items():
            data.set_query_context(name)
            look["lines"] = {module: sorted(data.lines(path) or ()) for path, module in modules.items()}
    return found


def _in_child(work: Callable[[], str]) -> str:
    """What a function returns that must leave no trace in this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "w") as pipe:
                pipe.write(work())
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


# --- one mutant --------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Panel:
    """The killers, as they are before any change."""

    items: list[pytest.Item]
    looks: dict[str, Look]
    killers: frozenset[str] = frozenset(KILLERS)
    journals: Journals = field(default_factory=Journals)
    explorer: Explorer | None = field(default_factory=explorer)
    listed: frozenset[str] = frozenset()
    "Ids of mutants that are called equivalent: compared step by step instead of being looked for long."
    steps: list[Step] = field(default_factory=list)
    kills: dict[str, Counter[str]] = field(default_factory=dict)
    "How often a test killed: under the function's name, the module's, and under ``all``."

    def ordered(self, mutant: Mutant) -> list[pytest.Item]:
        """The tests that may notice it, the likeliest for their price first."""
        places = [
            (self.kills.get(key, Counter()), weight)
            for key, weight in zip(_keys(mutant), (30, 5, 1), strict=True)
        ]

        def price(item: pytest.Item) -> float:
            hits = sum(weight * counter[item.nodeid] for counter, weight in places)
            return (self.looks[item.nodeid].cpu_s + 0.001) / (hits + 0.2)

        able = [item for item in self.items if self.looks[item.nodeid].may_notice(mutant)]
        # A fixture of a whole module would be made anew whenever a test of another one came in between.
        return sorted((one for one in able if not _shares(one)), key=price) + [
            one for one in able if _shares(one)
        ]

    def learn(self, verdict: Verdict) -> None:
        if verdict.test:
            for key in _keys(verdict.mutant):
                self.kills.setdefault(key, Counter())[verdict.test] += 1

    def quick(self, items: Sequence[pytest.Item], cpu_s: float) -> int:
        """How many of them fit into so much time."""
        spent = 0.0
        for index, item in enumerate(items):
            spent += self.looks[item.nodeid].cpu_s
            if spent > cpu_s:
                return index
        return len(items)


def _shares(item: pytest.Item) -> bool:
    """It uses a fixture that lives longer than one test."""
    if not isinstance(item, pytest.Function):
        return False
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(one[-1].scope == "module" for one in definitions)


def _keys(mutant: Mutant) -> tuple[str, str, str]:
    return f"{mutant.source.short}.{mutant.function}", mutant.source.short, "all"


Outcome = tuple[str, str, str]
"killer, what it says, node id of the test"


class _Place:
    """Shared memory in which a child says what it looks with, for when it does not come back."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    def set(self, number: int) -> None:
        self._memory[:8] = struct.pack("q", number)

    def get(self) -> int:
        number: int = struct.unpack("q", self._memory[:8])[0]
        return number


def _limit(cpu_s: float) -> None:
    """The process ends by SIGPROF when it uses more from now on."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)


def _examine(mutant: Mutant, panel: Panel, ordered: Sequence[pytest.Item], place: _Place) -> Outcome | None:
    """Who found it, what, and by which test; or None. Spoils the process."""
    _limit(LEAST_LIMIT_S)
    try:
        graft(mutant)
    except NotGrafted:
        raise
    except TableMistake as exc:
        return "build", f"TableMistake: {exc}", ""
    except Exception as exc:
        return "build", named(exc), ""
    if "journals" in panel.killers and (wrong := panel.journals.finds()) is not None:
        return "journals", wrong, ""

    def before(item: pytest.Item) -> None:
        place.set(panel.items.index(item) + 1)
        _limit(max(LEAST_LIMIT_S, panel.looks[item.nodeid].cpu_s * TIMES_SLOWER))

    quick = panel.quick(ordered, LISTED_CPU_S if mutant.id in panel.listed else QUICK_CPU_S)
    if "tests" in panel.killers and (found := run_tests(ordered[:quick], before)) is not None:
        return "tests", found[1], found[0]
    if mutant.id in panel.listed:
        place.set(-1)
        _limit(EXPLORER_LIMIT_S)
        wrong = difference(panel.steps)
        return None if wrong is None else ("difference", wrong, "")
    if "explorer" in panel.killers and panel.explorer is not None:
        place.set(-1)
        _limit(EXPLORER_LIMIT_S)
        try:
            wrong = panel.explorer()
        except Exception as exc:
            wrong = named(exc)
        if wrong is not None:
            return "explorer", wrong, ""
    if "rest" in panel.killers and (found := run_tests(ordered[quick:], before)) is not None:
        return "rest", found[1], found[0]
    return None


@dataclass(kw_only=True)
class _Child:
    mutant: Mutant
    pid: int
    reading: int
    place: _Place
    began: float
    said: bytes = b""


def _spawn(mutant: Mutant, panel: Panel) -> _Child:
    ordered = panel.ordered(mutant)
    place = _Place()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            try:
                outcome = _examine(mutant, panel, ordered, place)
            except MemoryError:
                outcome = ("tests", "out of memory", "")
            _limit(0)
            os.write(writing, json.dumps(outcome).encode())
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    os.close(writing)
    return _Child(mutant=mutant, pid=pid, reading=reading, place=place, began=time.monotonic())


def _ended(child: _Child, panel: Panel) -> Verdict:
    os.close(child.reading)
    _, status, usage = os.wait4(child.pid, 0)
    cpu_s = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        number = child.place.get()
        test = panel.items[number - 1].nodeid if number > 0 else ""
        what = test or ("the explorer" if number < 0 else "the journals")
        killer = "tests" if test else "explorer" if number < 0 else "journals"
        return Verdict(
            mutant=child.mutant, killer=killer, found=f"{what}: does not end", test=test, cpu_s=cpu_s
        )
    if status != 0:
        raise NotGrafted(f"{child.mutant.id}: the child failed; run it alone to see why")
    outcome: Outcome | None = json.loads(child.said)
    if outcome is None:
        return Verdict(mutant=child.mutant, killer=None, cpu_s=cpu_s)
    killer, found, test = outcome
    return Verdict(mutant=child.mutant, killer=killer, found=found, test=test, cpu_s=cpu_s)


def examine(mutants: Sequence[Mutant], panel: Panel, *, jobs: int) -> Iterator[Verdict]:
    """Every mutant's fate, as it becomes known."""
    gc.collect()
    gc.freeze()
    left = list(reversed(mutants))
    with selectors.DefaultSelector() as selector:
        running: dict[int, _Child] = {}
        while left or running:
            while left and len(running) < jobs:
                child = _spawn(left.pop(), panel)
                running[child.reading] = child
                selector.register(child.reading, selectors.EVENT_READ)
            for key, _ in selector.select(timeout=5):
                child = running[key.fd]
                said = os.read(key.fd, 65_536)
                if said:
                    child.said += said
                    continue
                selector.unregister(key.fd)
                del running[key.fd]
                verdict = _ended(child, panel)
                panel.learn(verdict)
                yield verdict
            for child in running.values():
                if time.monotonic() - child.began > STUCK_S:
                    os.kill(child.pid, signal.SIGKILL)
