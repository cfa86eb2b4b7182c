"""The figures of a run, for people and for programs."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.mutation.harness import Verdict
from tests.mutation.killers import KILLERS


@dataclass(kw_only=True)
class Run:
    """What became of every mutant of a run."""

    verdicts: list[Verdict] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    "By id: why a mutant that survived is equivalent."
    stale: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def killed(self) -> list[Verdict]:
        return [one for one in self.verdicts if one.killer in KILLERS]

    @property
    def equivalent(self) -> list[Verdict]:
        return [one for one in self.verdicts if one.killer is None and one.mutant.id in self.reasons]

    @property
    def survivors(self) -> list[Verdict]:
        """Those that nobody has a reason for, or none that holds."""
        quiet = [one for one in self.verdicts if one.killer not in KILLERS]
        return [one for one in quiet if one.killer is not None or one.mutant.id not in self.reasons]

    @property
    def passed(self) -> bool:
        return not self.survivors and not self.stale

    @property
    def score(self) -> str:
        asked = len(self.verdicts) - len(self.equivalent)
        return f"{len(self.killed)}/{asked} = {100 * len(self.killed) / max(asked, 1):.2f} %"


def text(run: Run) -> str:
    lines = [f"{'kind':<20}{'mutants':>8}{'killed':>8}{'equivalent':>11}{'survived':>9}"]
    sets = (run.verdicts, run.killed, run.equivalent, run.survivors)
    counts = [Counter(one.mutant.kind for one in some) for some in sets]
    lines += [f"{kind:<20}" + _figures(count[kind] for count in counts) for kind in sorted(counts[0])]
    lines.append(f"{'all':<20}" + _figures(len(some) for some in sets))
    by = Counter(one.killer for one in run.killed)
    lines += ["", "killed by " + ", ".join(f"{killer} {by[killer]}" for killer in KILLERS)]
    lines.append(f"score: killed / non-equivalent = {run.score}")
    lines.append(f"CPU {sum(one.cpu_s for one in run.verdicts):.0f} s, wall {run.wall_s:.0f} s")
    if run.equivalent:
        lines += ["", "equivalent:"]
        for one in run.equivalent:
            lines += [f"  {one.mutant.place}  {one.mutant.id}", f"      {run.reasons[one.mutant.id]}"]
    if run.survivors:
        lines += ["", "SURVIVED, and nobody says why:"]
        for one in run.survivors:
            lines.append(f"  {one.mutant.place}  {one.mutant.id}")
            if one.killer is not None:
                lines.append(f"      listed as equivalent, but: {one.found}")
    if run.stale:
        lines += ["", "STALE entries of equivalent.toml:", *(f"  {one}" for one in run.stale)]
    return "\n".join(lines)


def _figures(numbers) -> str:  # type: ignore[no-untyped-def]
    return "".join(f"{number:>{width}}" for number, width in zip(numbers, (8, 8, 11, 9), strict=True))


def as_json(verdicts: Sequence[Verdict], reasons: dict[str, str]) -> str:
    """One object a mutant."""
    return json.dumps(
        [
            {
                "id": one.mutant.id,
                "kind": one.mutant.kind,
                "place": one.mutant.place,
                "killer": one.killer,
                "found": one.found,
                "test": one.test,
                "cpu_s": round(one.cpu_s, 2),
                "equivalent": reasons.get(one.mutant.id),
            }
            for one in verdicts
        ],
        indent=1,
        ensure_ascii=False,
    )
