"""What was measured against which budget, as a table for people and JSON for programs."""

import math
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct


class Measure(Struct, frozen=True, kw_only=True):
    """One row. ``limit`` None is no budget: a figure to read the others by."""

    what: str
    measured: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    "The limit is a lower one."
    beside: float | None = None
    "The same measured, in the same run, of what it rests on."
    beside_what: str = ""
    detail: str = ""
    same_work: bool = False
    """What is beside it is part of it: where that alone takes more than the budget, the machine was too
    busy to tell."""

    @property
    def met(self) -> bool:
        if self.limit is None:
            return True
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        if self.met:
            return "met"
        hopeless = self.same_work and self.beside is not None and self.beside > self.limit
        return "NOT MET, machine busy" if hopeless else "NOT MET"

    @property
    def ratio(self) -> float | None:
        return None if not self.beside else self.measured / self.beside


def table(measures: Sequence[Measure]) -> str:
    """Columns as wide as what is in them."""
    rows = [("what", "budget", "measured", "beside it", "ratio", "verdict"), *map(_cells, measures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    details = [f"  {measure.what}: {measure.detail}" for measure in measures if measure.detail]
    return "\n".join([*(line.rstrip() for line in lines), "", *details])


def as_json(measures: Sequence[Measure]) -> str:
    rows = [
        msgspec.to_builtins(one) | {"met": one.met, "verdict": one.verdict, "ratio": one.ratio}
        for one in measures
    ]
    return msgspec.json.format(msgspec.json.encode(rows)).decode()


def _cells(measure: Measure) -> tuple[str, ...]:
    budget = ""
    if measure.limit is not None:
        budget = f"{'≥' if measure.at_least else '≤'} {_number(measure.limit)} {measure.unit}"
    beside = ""
    if measure.beside is not None:
        beside = f"{_number(measure.beside)} {measure.unit} {measure.beside_what}"
    ratio = "" if measure.ratio is None else f"{measure.ratio:.2f}"
    measured = f"{_number(measure.measured)} {measure.unit}"
    return measure.what, budget, measured, beside, ratio, measure.verdict


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


# --- statistics --------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: a value that was really seen."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class Batches:
    """Iterate to make the next batch. The best is judged, by its 99th percentile: others share the machine.

    While none is good enough more are made, up to a bound: a busy minute must not decide.
    """

    def __init__(self, limit: float, *, least: int = 5, most: int = 20) -> None:
        self.limit = limit
        self._least, self._most = least, most
        self.ours: list[list[float]] = []
        self.bare: list[list[float]] = []
        "Of what is measured beside it, in the same batch."

    def __iter__(self) -> Iterator[None]:
        while len(self.ours) < self._least or (min(self.tails) > self.limit and len(self.ours) < self._most):
            self.ours.append([])
            self.bare.append([])
            yield

    @property
    def tails(self) -> list[float]:
        return [percentile(batch, 99) for batch in self.ours]

    def measure(self, what: str, beside: str, each: str, note: str = "") -> Measure:
        tails = self.tails
        best = tails.index(min(tails))
        middle, bare = percentile(self.ours[best], 50), percentile(self.bare[best], 50)
        return Measure(
            what=what,
            measured=tails[best],
            unit="ms",
            limit=self.limit,
            beside=percentile(self.bare[best], 99),
            beside_what=beside,
            same_work=True,
            detail=f"best of {len(tails)} batches of {each}; median {middle:.3f} ms, beside it {bare:.3f} "
            f"(ratio {middle / bare:.2f}); worst batch's p99 {max(tails):.2f} ms{note}",
        )
