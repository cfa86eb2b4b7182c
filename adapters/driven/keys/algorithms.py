"""``preferredAlgorithms``: which kind of key pair a caller asked for (services.md §5.5)."""

from typing import Literal

PairAlgorithm = Literal["ec-p256", "rsa-2048", "rsa-4096"]

_WORDS: dict[str, PairAlgorithm] = {
    "ec-p256": "ec-p256",
    "rsa-2048": "rsa-2048",
    "rsa-4096": "rsa-4096",
    # On a file system only the first of what it stands for (ec-p256, then rsa-2048) counts.
    "*": "ec-p256",
}


def chosen(preferred: str | None) -> PairAlgorithm | None:
    """The first word that is known; None when there is none. An absent list means ``*``."""
    words = "*" if preferred is None else preferred
    return next((_WORDS[word] for word in words.split(":") if word in _WORDS), None)
