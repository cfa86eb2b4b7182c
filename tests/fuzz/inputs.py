"""What one execution is made of, and how the kept ones are filed.

A corpus file is what the peer says, byte for byte; its name says to whom and how the connection goes on:
``TARGET.ENDING.PIECE.name.http``.
"""

from pathlib import Path
from typing import Literal, get_args

from msgspec import Struct

Target = Literal["submit-pem", "submit-der", "poll-pem", "poll-der", "prove"]
TARGETS: tuple[Target, ...] = get_args(Target)
"The adapter's call, and of DPS the dialect."
Ending = Literal["close", "reset", "stall"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)
PIECES = (1 << 20, 1, 7, 100, 1_460)
"How many bytes arrive at once."
CORPUS = Path(__file__).with_name("corpus")


class Input(Struct, frozen=True):
    """One execution."""

    target: Target
    data: bytes
    ending: Ending = "close"
    piece: int = PIECES[0]

    def file_name(self, name: str) -> str:
        """As it is kept."""
        return f"{self.target}.{self.ending}.{self.piece}.{name}.http"


def kept(directory: Path = CORPUS) -> list[Input]:
    """In the order of their names."""
    found = []
    for path in sorted(directory.glob("*.http")):
        target, ending, piece, _ = path.name.split(".", 3)
        (known,) = (one for one in TARGETS if one == target)
        (end,) = (one for one in ENDINGS if one == ending)
        found.append(Input(known, path.read_bytes(), end, int(piece)))
    return found


def from_bytes(content: bytes) -> Input:
    """Of a fuzzer that knows only bytes: the first two choose, the rest is said."""
    first, second, said = content[:1] or b"\0", content[1:2] or b"\0", content[2:]
    return Input(
        TARGETS[first[0] % len(TARGETS)],
        said,
        ENDINGS[first[0] // 16 % len(ENDINGS)],
        PIECES[second[0] % len(PIECES)],
    )


def to_bytes(given: Input) -> bytes:
    """The other way round."""
    first = TARGETS.index(given.target)
    while (
        first % len(TARGETS) != TARGETS.index(given.target)
        or ENDINGS[first // 16 % len(ENDINGS)] != given.ending
    ):
        first += 1
    return bytes([first, PIECES.index(given.piece)]) + given.data
