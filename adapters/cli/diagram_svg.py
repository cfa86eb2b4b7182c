"""A table as a picture: a column for each position, and below it an arrow for each way between two.

Every arrow and every label has a row of its own, so that nothing can lie on anything else however the table
changes. No tool draws it: the text is the same wherever it is made.
"""

from collections.abc import Iterator, Sequence
from html import escape

from adapters.page_style import COLOURS
from adapters.tables import TableFacts, arrows_of

WIDTH = 960
MARGIN, TOP = 16, 34
HEAD = 30
"Height of a position's box."
ROW, ARROW, GAP = 16, 14, 12
"Heights: of a line of text, of an arrow below it, and between two ways."
CHARACTER = 7.3
"Width of one at 12 px, of any monospaced font, rounded up."

_COLOURS = {
    "Unprovisioned": "bad",
    "Registering": "used",
    "Provisioned": "calm",
    "CertExpiring": "wait",
    "Renewing": "wait",
    "Reprovisioning": "work",
}
_KINDS = tuple(dict.fromkeys(_COLOURS.values()))


def svg(table: TableFacts, about: str) -> str:
    """The whole file; ``about`` is its title."""
    drawing = _Drawing(table)
    body = "\n".join(drawing.parts())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {drawing.height}" width="{WIDTH}" '
        f'height="{drawing.height}" role="img" aria-label="{escape(about)}">\n'
        f"<title>{escape(about)}</title>\n"
        f"<style>{_STYLE}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>\n'
        f'<rect class="paper" width="{WIDTH}" height="{drawing.height}"/>\n{body}\n</svg>\n'
    )


def _colours(dark: bool) -> str:
    """Spelt out: many viewers know no variables."""
    ink, dim, paper, card, line = (COLOURS[name][dark] for name in ("ink", "dim", "paper", "card", "line"))
    heads = "".join(f".h-{name}{{fill:{COLOURS[name][dark]};fill-opacity:.4}}" for name in _KINDS)
    return (
        f"text,.tip,.start{{fill:{ink}}}.label{{fill:{dim}}}.paper{{fill:{paper}}}.head{{stroke:{ink};"
        f"fill:{card}}}.life,.rule{{stroke:{line}}}.way{{stroke:{ink}}}.label,.title{{stroke:{paper}}}{heads}"
    )


_STYLE = (
    "text{font:12px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace}"
    ".life,.way{stroke-width:1.5;fill:none}.name,.title{font-weight:700}.name{text-anchor:middle}"
    ".label,.title{stroke-width:4px;paint-order:stroke;stroke-linejoin:round}.end{text-anchor:end}"
    f"{_colours(False)}@media (prefers-color-scheme:dark){{{_colours(True)}}}"
)


class _Drawing:
    """Places everything once, from the top down."""

    def __init__(self, table: TableFacts) -> None:
        self._table = table
        self._pitch = (WIDTH - 2 * MARGIN) / len(table.positions)
        self._body: list[str] = []
        self._y = TOP + HEAD + MARGIN
        arrows = arrows_of(table.rows)
        for source in table.positions:
            ways = [(dest, arrows[source, dest]) for dest in table.positions if (source, dest) in arrows]
            if ways:
                self._rule()
            for dest, labels in ways:
                self._way(source, dest, labels)
        self._end = self._y
        self.height = round(self._y + HEAD + MARGIN)

    def parts(self) -> Iterator[str]:
        """Columns below, ways above."""
        for position in self._table.positions:
            x = self._x(position)
            yield f'<line class="life" x1="{x:g}" y1="{TOP + HEAD}" x2="{x:g}" y2="{self._end}"/>'
        yield from self._body
        for position in self._table.positions:
            yield from self._head(position, TOP)
            yield from self._head(position, self._end)
        x = self._x(self._table.initial)
        yield f'<circle class="start" cx="{x:g}" cy="6" r="4"/>'
        yield f'<path class="way" d="M{x:g} 8V{TOP}" marker-end="url(#tip)"/>'

    def _x(self, position: str) -> float:
        return round(MARGIN + (self._table.positions.index(position) + 0.5) * self._pitch, 1)

    def _head(self, position: str, y: float) -> Iterator[str]:
        x, width = self._x(position), self._pitch - 10
        colour = f" h-{_COLOURS[position]}" if position in _COLOURS else ""
        place = f'x="{x - width / 2:g}" y="{y:g}" width="{width:g}" height="{HEAD}"'
        yield f'<rect class="head{colour}" {place} rx="6"/>'
        yield f'<text class="name" x="{x:g}" y="{y + HEAD / 2 + 4:g}">{escape(position)}</text>'

    def _rule(self) -> None:
        line = f'<line class="rule" x1="{MARGIN}" y1="{self._y:g}" x2="{WIDTH - MARGIN}" y2="{self._y:g}"/>'
        self._body.append(line)
        self._y += GAP

    def _way(self, source: str, dest: str, labels: Sequence[str]) -> None:
        """A title, its labels, and the arrow below them."""
        texts = [("title", f"{source} → {dest}"), *(("label", label) for label in labels)]
        since, until = self._x(source), self._x(dest)
        left, right = min(since, until) + 8, max(since, until) - 8
        widest = max(len(text) for _, text in texts) * CHARACTER
        # To the right of the arrow's left end, unless the picture ends before the text.
        from_left = left + widest <= WIDTH - MARGIN
        for kind, text in texts:
            self._y += ROW
            anchor = kind if from_left else f"{kind} end"
            x = left if from_left else right
            self._body.append(f'<text class="{anchor}" x="{x:g}" y="{self._y:g}">{escape(text)}</text>')
        self._y += ARROW
        self._body.append(
            f'<path class="way" d="M{since:g} {self._y:g}H{until:g}" marker-end="url(#tip)"/>'
            f'<circle class="start" cx="{since:g}" cy="{self._y:g}" r="3"/>'
        )
        self._y += GAP
