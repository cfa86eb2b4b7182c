"""Names of a device and its cloud replaced by others that tell nothing: the same name, the same pseudonym.

What decisions compare, they compare for equality, common names without regard to case; both survive.
Pseudonyms are numbered in the order in which names are first seen, so nothing can be guessed from one, and
the same input always gives the same output.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from statemachine.settings import (
    DEFAULT_MANIFEST_BUNDLE_ID,
    DEFAULT_TRUST_BUNDLE_ID,
    DEFAULT_WORKLOAD_BUNDLE_ID,
)

Kind = Literal[
    "device", "host", "url", "scope", "digest", "operation", "tracking", "bundle", "address", "path", "name"
]

PUBLIC = frozenset(
    {
        "global.azure-devices-provisioning.net",
        "global.azure-devices-provisioning.us",
        "global.azure-devices-provisioning.cn",
        "localhost",
    }
)
"Hosts that everybody uses: they name nobody, and which of them it is may be the fault."
FIXED_IDS = frozenset({DEFAULT_TRUST_BUNDLE_ID, DEFAULT_WORKLOAD_BUNDLE_ID, DEFAULT_MANIFEST_BUNDLE_ID})

_FOUND_BY_NAME = frozenset({"device", "host", "scope", "bundle", "name"})
"Few of a kind in one life; the others are many, and have shapes of their own."

LEAST_PART = 4
"Characters of a name that a text was cut in: fewer tell nothing, and would be found in every word."

_DIGEST = re.compile(r"[0-9a-f]{12,}")
_OURS = re.compile(r"(?:etc|run|var/lib)/aziot\b")
_FILE_SUFFIXES = "toml|jsonl|json|pem|der|cer|crt|key|sock|lock|new|d|service|socket|path|py|md"
_SHAPES = rf"""
    (?P<url>https?://[^\s'"<>,;]+)
  | (?P<path>(?:(?<=file://)|(?<![\w.:/]))/(?:[\w.+@~%-]+/)*[\w.+@~%-]*\w)
  | (?P<tracking>\b[0-9a-fA-F]{{8}}(?:-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}\b)
  | (?P<address>\b\d{{1,3}}(?:\.\d{{1,3}}){{3}}\b
      |(?<![\w:])(?:[0-9a-fA-F]{{0,4}}:){{3,7}}[0-9a-fA-F]{{1,4}}(?![\w:]))
  | (?P<host>\b(?:[A-Za-z0-9_-]+\.)+(?!(?:{_FILE_SUFFIXES})\b)[A-Za-z][A-Za-z0-9-]+\b)
  | (?P<digest>\b[0-9a-fA-F]{{12,}}\b)
  | (?P<name>(?<![\w+/=-])(?=[\w+/=-]*\d)(?=[\w+/=-]*[A-Za-z])[\w+/=-]{{24,}})
"""
"What looks like a name although nobody told that it is one: in the words of a peer, for example."


class Pseudonyms:
    """One set of pseudonyms. Names met in fields of their own are then also found in texts."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Kind, str], int] = {}
        self._counts: dict[Kind, int] = {}
        self._spellings: dict[tuple[Kind, int], dict[str, int]] = {}
        self._known: dict[str, tuple[Kind, str]] = {}
        "By the folded name: what it is a name of, and how it was first spelt."
        self._pattern: re.Pattern[str] | None = None

    def of(self, kind: Kind, original: str) -> str:
        """The pseudonym of a name; empty stays empty."""
        if not original or original in FIXED_IDS:
            return original
        if kind == "host":
            return self._host(original)
        if kind == "url":
            return self._url(original)
        self._learn(kind, original)
        return self._numbered(kind, original)

    def pem(self, original: bytes) -> bytes:
        """Stands for certificates: bytes that are equal exactly when those are, and parse as nothing."""
        digest = self._numbered("digest", hashlib.sha256(original).hexdigest())
        return f"-----BEGIN PSEUDONYM-----\n{digest}\n-----END PSEUDONYM-----\n".encode()

    def text(self, original: str) -> str:
        """Words of people and peers, with every known name and what looks like one replaced."""
        replaced = self._names().sub(self._found, original)
        for kind, name in self._known.values():
            # A message is cut at some length: the beginning of a name at its end is one as well.
            for length in range(len(name) - 1, LEAST_PART - 1, -1):
                if original.endswith(name[:length]) and replaced.endswith(name[:length]):
                    return f"{replaced[:-length]}{self._numbered(kind, name)}"
        return replaced

    # --- inside --------------------------------------------------------------------------------------

    def _host(self, original: str) -> str:
        name, port = _split_port(original)
        if name.casefold() in PUBLIC:
            return original
        self._learn("host", name)
        return f"{self._numbered('host', name)}{port}"

    def _url(self, original: str) -> str:
        try:
            parts = urlsplit(original)
            host = parts.netloc.rpartition("@")[2]
        except ValueError:
            host = ""
        if not host:
            return self._numbered("url", original)
        rest = parts.path.rstrip("/")
        return f"{parts.scheme}://{self._host(host)}" + (f"/{self._numbered('path', rest)}" if rest else "")

    def _learn(self, kind: Kind, original: str) -> None:
        folded = original.casefold()
        if kind in _FOUND_BY_NAME and folded not in self._known:
            self._known[folded] = kind, original
            self._pattern = None

    def _numbered(self, kind: Kind, original: str) -> str:
        folded = original.casefold()
        number = self._numbers.get((kind, folded))
        if number is None:
            number = self._counts[kind] = self._counts.get(kind, 0) + 1
            self._numbers[(kind, folded)] = number
        spellings = self._spellings.setdefault((kind, number), {})
        return _spelt(_word(kind, number), spellings.setdefault(original, len(spellings)))

    def _names(self) -> re.Pattern[str]:
        if self._pattern is None:
            longest_first = sorted((name for _, name in self._known.values()), key=len, reverse=True)
            known = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in longest_first)
            shapes = f"(?P<known>{known})|{_SHAPES}" if known else _SHAPES
            self._pattern = re.compile(shapes, re.VERBOSE | re.IGNORECASE)
        return self._pattern

    def _found(self, match: re.Match[str]) -> str:
        kind, text = match.lastgroup, match.group()
        if kind == "known":
            return self._numbered(self._known[text.casefold()][0], text)
        return _SHAPED[str(kind)](self, text)

    def _path(self, text: str) -> str:
        ours = _OURS.search(text)
        if ours is None:
            return "/" + self._numbered("path", text)
        # What comes before is a root that somebody chose; below it names are ours, but for digests of names.
        rest = _DIGEST.sub(lambda found: self._numbered("digest", found.group()), text[ours.start() :])
        return f"/{rest}"


_SHAPED: dict[str, Callable[[Pseudonyms, str], str]] = {
    "url": lambda names, text: names._url(text),
    "path": lambda names, text: names._path(text),
    "host": lambda names, text: names._host(text),
    "tracking": lambda names, text: names._numbered("tracking", text),
    "address": lambda names, text: names._numbered("address", text),
    "digest": lambda names, text: names._numbered("digest", text),
    "name": lambda names, text: names._numbered("name", text),
}


def _split_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, f":{port}") if colon and port.isdigit() else (host, "")


def _word(kind: Kind, number: int) -> str:
    match kind:
        case "host":
            return f"anon-host-{number}.invalid"  # RFC 2606 section 2
        case "url":
            return f"https://anon-url-{number}.invalid"
        case "digest":
            return hashlib.sha256(f"pseudonym {number}".encode()).hexdigest()
    return f"anon-{kind}-{number}"


def _spelt(word: str, spelling: int) -> str:
    """Names that differ in case alone get pseudonyms that differ in case alone: a bit for each letter."""
    spelt = []
    for character in word:
        if character.isalpha():
            character = character.swapcase() if spelling & 1 else character
            spelling >>= 1
        spelt.append(character)
    # More spellings than the letters have: no longer equal in all but case, but still each its own.
    return "".join(spelt) + (f"-{spelling}" if spelling else "")
