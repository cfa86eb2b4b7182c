"""Kills the service at random moments, again and again, and looks at the disk each time.

``python -m tests.service.kill_anywhere [--kills 2000] [--roots 4] [--seed N] [--minutes-limit M]``

One cloud, whose certificates live four seconds, and several devices side by side. A device's life begins
with an empty root and goes through a random number of kills: during its start, after an order to renew or
reprovision, in a phase of the attempt, or just some time later. The moments are drawn from the seed; what
the machine does at them is its own affair, so the seed repeats the plan and not the run. Then it may reach
Provisioned, and its journals are replayed.

One start in ten is a whole one, from nothing. The others are forked from a process that has imported
everything before (``forks.py``): the same entry point and the same code, without the half second in which
there is nothing to lose.

After every kill: what was ever committed is there, as a certificate with its key; no certificate is without
its key; the journal reads to its end, but for a torn last line, and goes on from what was seen before; a
command that was answered is in it. Exit status 0 only if nothing was lost, and all kills were made before
the limit.
"""

import argparse
import contextlib
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from statemachine.events import CredentialCommitted, KeyStaged
from statemachine.journal import Record, read
from statemachine.replay import replay_files
from tests.service.device import Cloud, Device, Pair, Torn, short_root
from tests.service.forks import ForkServer

LIFETIME_S = 4
KILLS_OF_A_LIFE = (4, 24)
COLD_START_S, START_S, ORDER_S, PHASE_S, LATER_S = 0.6, 0.1, 0.8, 0.004, 2.5
"How long after being started, after an order, after a phase began, after READY, a kill may come."
COLD_STARTS = 0.1
"Share of the starts that import everything themselves."
PROGRESS_S = 60.0
PHASES = ("Staging", "Submitting", "Polling", "Proving", "Committing", "Retiring")

Say = Callable[[str], None]


class Lost(Exception):
    """Something that must survive did not."""


class Witness:
    """What was seen of one life, and must be seen again."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.sequence = 0
        self.generation = 0
        "Of the newest credential that was committed."
        self.keys: dict[int, str] = {}
        self.torn = 0

    def look(self) -> str:
        """Where the machine was, by its last record. Raises Lost."""
        try:
            pair = self.device.pair()
        except (Torn, OSError, ValueError) as exc:
            raise Lost(str(exc)) from exc
        records = self._records()
        for record in records:
            self._remember(record)
        self._judge_pair(pair)
        if list(self.device.state.glob("*.damaged-*")):
            raise Lost("a journal file was set aside")
        if not records:
            return "no record yet"
        last = records[-1]
        return last.state if last.phase == "Idle" else f"{last.state}/{last.phase}"

    def _records(self) -> tuple[Record, ...]:
        """Of the active file."""
        if not self.device.journal.exists():
            # Between the two renames of a rotation; the new file is whole, and put into place at the start.
            between = self.device.journal.with_name("journal.jsonl.new").exists()
            if self.sequence and not between:
                raise Lost("the journal is gone")
            return ()
        reading = self.device.reading()
        if reading.problem is not None and not reading.torn:
            raise Lost(f"journal: {reading.problem}")
        self.torn += reading.torn
        assert reading.snapshot is not None
        if reading.snapshot.epoch != 1:
            raise Lost("a new epoch was begun")
        last = reading.snapshot.sequence + len(reading.records)
        if last < self.sequence:
            raise Lost(f"the journal ends at {last}, {self.sequence} was seen before")
        self.sequence = last
        if reading.snapshot.credential is not None:
            self.generation = max(self.generation, reading.snapshot.credential.generation)
        return reading.records

    def _remember(self, record: Record) -> None:
        event = record.event
        if isinstance(event, CredentialCommitted):
            self.generation = max(self.generation, event.generation)
        elif isinstance(event, KeyStaged):
            before = self.keys.setdefault(event.generation, event.spki_sha256)
            if before != event.spki_sha256:
                raise Lost(f"generation {event.generation} was staged with two keys")

    def _judge_pair(self, pair: Pair | None) -> None:
        if pair is None:
            if self.generation:
                raise Lost(f"generation {self.generation} was committed, nothing is current")
            return
        if pair.generation < self.generation:
            raise Lost(f"generation {self.generation} was committed, {pair.generation} is current")
        self.generation = pair.generation


class Killer:
    """One thread, one device at a time."""

    def __init__(self, cloud: Cloud, root: Path, number: int, seed: int, turns: "Turns") -> None:
        self.cloud, self.root, self.number, self.turns = cloud, root, number, turns
        self.chance = random.Random(f"{seed}/{number}")
        self.kills: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        self.lives = self.attempts = self.generations = self.records = self.journals = self.torn = 0
        self.cold = self.finished = 0
        self.problem: str | None = None

    def run(self) -> None:
        try:
            # Made here: it ends with the thread that makes it.
            with contextlib.closing(ForkServer()) as forks:
                while self.turns.more():
                    self._live(forks)
        except Exception as exc:
            # Of whatever kind: a harness that cannot go on has not shown that nothing was lost.
            self.problem = f"device {self.number}, life {self.lives}: {type(exc).__name__}: {exc}"

    def _live(self, forks: ForkServer) -> None:
        self.lives += 1
        root = self.root / f"{self.number}-{self.lives}"
        device = Device(root, self.cloud, f"device-{self.number}-{self.lives}")
        device.configure(more="[identityd.journal]\nsegment_bytes = 65536")
        device.forks = forks
        witness = Witness(device)
        try:
            for _ in range(self.chance.randint(*KILLS_OF_A_LIFE)):
                if not self.turns.take():
                    break
                self._kill_once(device, witness)
            self._end(device, witness)
        except Exception:
            print(f"--- log of {root}\n{device.log[-6000:]}\n---", file=sys.stderr)
            raise
        finally:
            device.kill()

    def _kill_once(self, device: Device, witness: Witness) -> None:
        begun = witness.sequence
        moment = self.chance.choices(("start", "order", "phase", "later"), (25, 20, 45, 10))[0]
        cold = self.chance.random() < COLD_STARTS
        device.start(ready=moment != "start", cold=cold)
        self.cold += cold
        if moment == "start":
            time.sleep(self.chance.uniform(0, COLD_START_S if cold else START_S))
        elif moment == "later":
            time.sleep(self.chance.uniform(0, LATER_S))
        else:
            ordered = self._order(device)
            start = ordered or witness.sequence + 1
            witness.sequence = max(witness.sequence, ordered)
            if moment == "phase":
                phase = self.chance.choice(PHASES)
                device.until_record(lambda record: record["phase"] == phase, start)
            time.sleep(self.chance.uniform(0, PHASE_S if moment == "phase" else ORDER_S))
        assert device.process is not None
        if not device.process.running:
            raise Lost("the service had ended by itself")
        device.kill()
        before = begun
        where = witness.look()
        self.moments[moment] += 1
        self.kills["before it was ready" if witness.sequence == before else where] += 1

    def _order(self, device: Device) -> int:
        """An attempt, if none is under way. The sequence of what is known to be in the journal."""
        name = self.chance.choice(("renew", "reprovision"))
        # A device without an identity refuses to renew; it registers anyway.
        if name == "reprovision" or device.status()["state"] not in ("Unprovisioned", "Registering"):
            return device.command(name)
        return 0

    def _end(self, device: Device, witness: Witness) -> None:
        device.start()
        status = device.until_provisioned()
        if status["degraded"]:
            raise Lost(f"it says that it is degraded: {status['degraded']}")
        if device.stop() != 0:
            raise Lost("it did not stop gracefully")
        witness.look()
        paths = [*sorted(device.state.glob("journal-*.jsonl")), device.journal]
        outcome = replay_files([(str(path), path.read_bytes()) for path in paths])
        if not outcome.equal or outcome.snapshot is None:
            raise Lost(f"replay: {outcome.unreadable or outcome.divergence}")
        self.journals += len(paths)
        self.records += outcome.records
        records = [record for path in paths for record in read(path.read_bytes()).records]
        phases = ["Idle", *(record.phase for record in records)]
        self.attempts += outcome.snapshot.attempts
        self.finished += sum(a != "Idle" == b for a, b in pairwise(phases))
        self.generations += sum(isinstance(record.event, CredentialCommitted) for record in records)
        self.torn += witness.torn


class Turns:
    """How many kills are left, for all threads, and until when."""

    def __init__(self, kills: int, deadline: float) -> None:
        """``deadline`` is an instant of time.monotonic()."""
        self._left, self._deadline = kills, deadline
        self._lock = threading.Lock()

    def more(self) -> bool:
        """Whether there may be another."""
        return self._left > 0 and time.monotonic() < self._deadline

    def take(self) -> bool:
        """One of them, if there may be another."""
        with self._lock:
            if not self.more():
                return False
            self._left -= 1
            return True


def kill_anywhere(
    *, kills: int, roots: int, seed: int, minutes_limit: float = 60.0, say: Say = print
) -> list[str]:
    """Problems; empty when nothing was lost. After the limit no further kill is begun."""
    begun = time.monotonic()
    with short_root() as directory:
        cloud = Cloud(directory / "cloud", lifetime_s=LIFETIME_S)
        try:
            turns = Turns(kills, begun + minutes_limit * 60)
            killers = [Killer(cloud, directory, number, seed, turns) for number in range(1, roots + 1)]
            threads = [threading.Thread(target=killer.run) for killer in killers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PROGRESS_S)
                while thread.is_alive():
                    say(f"{sum(killer.kills.total() for killer in killers)} kills")
                    thread.join(PROGRESS_S)
        finally:
            cloud.close()
    _tally(killers, say, time.monotonic() - begun)
    problems = [killer.problem for killer in killers if killer.problem is not None]
    made = sum(killer.kills.total() for killer in killers)
    if made < kills and not problems:
        problems.append(f"only {made} of {kills} kills in {minutes_limit:g} minutes")
    return problems


def _tally(killers: list[Killer], say: Say, took_s: float) -> None:
    kills = sum((killer.kills for killer in killers), Counter[str]())
    moments = sum((killer.moments for killer in killers), Counter[str]())

    def total(name: str) -> int:
        return sum(getattr(killer, name) for killer in killers)

    say(f"{kills.total()} kills of {len(killers)} devices in {total('lives')} lives, {took_s:.0f} s")
    say("  " + ", ".join(f"{count} {moment}" for moment, count in moments.most_common()))
    say(f"  {total('cold')} of whole starts, the others of forked ones")
    for where, count in kills.most_common():
        say(f"  {count:4} {where}")
    say(
        f"{total('attempts')} attempts begun, {total('finished')} finished, "
        f"{total('generations')} generations committed"
    )
    say(f"{total('journals')} journals replayed, {total('records')} records, {total('torn')} torn lines cut")


def main(argv: list[str] | None = None) -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.service.kill_anywhere", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--roots", type=int, default=2, help="devices side by side (default 2)")
    parser.add_argument("--seed", type=int, help="of the plan (default: another each time)")
    parser.add_argument("--minutes-limit", type=float, default=60.0, help="no kill after that (default 60)")
    args = parser.parse_args(argv)
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    problems = kill_anywhere(
        kills=args.kills,
        roots=args.roots,
        seed=seed,
        minutes_limit=args.minutes_limit,
        say=lambda line: print(line, flush=True),
    )
    for problem in problems:
        print(f"LOST  {problem}", file=sys.stderr)
    print("a claim failed" if problems else "nothing was lost")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
