"""What the service has said is so, and what it has begun: at any moment, what a disk may and must hold."""

import hashlib
from collections.abc import Callable

from msgspec import Struct

from statemachine.journal import Record, decode_line

PAIR = "pair"
"The subject that is no file: the chain that the published names show, with its key."
ANYTHING = "anything"


def said(content: bytes | None) -> str | None:
    """Contents are compared, not kept. None is the absence of a file."""
    return None if content is None else hashlib.sha256(content).hexdigest()


class Owed(Struct, frozen=True):
    """What a disk must hold if power is cut now. Equal ones are judged alike."""

    allowed: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    "By subject: what was promised last, and whatever was begun since."
    sequence: int = 0
    "Of the last record that was said to be durable."

    def forbids(self, subject: str, content: bytes | None) -> bool:
        allowed = dict(self.allowed).get(subject, (None,))
        if content is not None and ANYTHING in allowed:
            return False
        return said(content) not in allowed

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(subject for subject, _ in self.allowed if subject != PAIR)


class Promises:
    """Made while a life is recorded; ``owed`` is looked at before each operation."""

    def __init__(self, owed: Owed | None = None) -> None:
        self.owed = Owed() if owed is None else owed

    def begin(self, subject: str, content: str | None) -> Callable[[bytes | None], None]:
        """From now on this may be there. The answer is called with what must be from then on."""
        before = dict(self.owed.allowed).get(subject, (None,))
        self._set(subject, tuple(dict.fromkeys((*before, content))))
        return lambda content: self._set(subject, (said(content),))

    def appended(self, line: bytes) -> None:
        record = decode_line(line)
        assert isinstance(record, Record)
        self.owed = Owed(self.owed.allowed, record.sequence)

    def _set(self, subject: str, allowed: tuple[str | None, ...]) -> None:
        self.owed = Owed(tuple((dict(self.owed.allowed) | {subject: allowed}).items()), self.owed.sequence)
