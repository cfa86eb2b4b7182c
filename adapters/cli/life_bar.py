"""A certificate's life as a bar: what is over, what is left, the renewal window, and the drawn instant."""

from collections.abc import Iterator
from itertools import groupby

from adapters.cli.happenings import Validity
from adapters.cli.history import Certificate
from adapters.cli.terminal import Signs, Span

URGENT = 0.2
"Below this part of its life the rest of it is red."


def life_bar(
    life: Validity, certificate: Certificate | None, now_unix_ms: int, columns: int, signs: Signs
) -> list[Span]:
    """From its beginning to its end, so many columns wide. ``certificate`` knows when it is renewed."""
    cells = _cells(life, certificate, now_unix_ms, columns, signs)
    return [
        (style, "".join(sign for _, sign in group))
        for style, group in groupby(cells, key=lambda cell: cell[0])
    ]


def _cells(
    life: Validity, certificate: Certificate | None, now: int, columns: int, signs: Signs
) -> Iterator[Span]:
    begins, length = life.not_before_unix_ms, max(life.not_after_unix_ms - life.not_before_unix_ms, 1)
    known = certificate is not None and certificate.ends_unix_ms == life.not_after_unix_ms
    opens = certificate.opens_unix_ms if certificate is not None and known else None
    closes = certificate.closes_unix_ms if certificate is not None and known else None
    due = certificate.due_unix_ms if certificate is not None and known else None
    drawn = None if due is None else min((due - begins) * columns // length, columns - 1)
    in_window = opens is not None and now >= opens
    style = "bad" if life.left(now) < URGENT else "busy" if in_window else "good"
    for column in range(columns):
        middle = begins + (2 * column + 1) * length // (2 * columns)
        if column == drawn:
            yield "strong", signs.drawn
        elif middle <= now:
            yield "dim", signs.empty
        elif opens is not None and closes is not None and opens <= middle < closes:
            yield style, signs.window
        else:
            yield style, signs.full
