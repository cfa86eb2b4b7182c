"""In which line of a TOML text a key stands: the parser keeps no positions, and people look for them.

The text is one that the parser took; of any other the answers mean nothing, and there is an end all the same.
"""

import re
from collections.abc import Callable, Iterator

MAX_LABEL_CHARS = 400
"Of a dotted path; what lies deeper is not looked up. A megabyte of dots must not become its square."

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_NAME = re.compile(r"""\s*(?:"((?:\\.|[^"\\\n])*)"|'([^'\n]*)'|([^\s.=\[\]{},"'#]+))\s*""")
_VALUE = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|[^,\]}\n#]+",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_SHORT = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def lines_by_key(text: str, shown: Callable[[str], str]) -> dict[str, int]:
    """Line, from 1, by dotted path, as it is said to people: ``shown`` says a name, ``[n]`` an element."""
    return _Scan(text, shown).lines


class _Scan:
    def __init__(self, text: str, shown: Callable[[str], str]) -> None:
        self.lines: dict[str, int] = {}
        self._text = text
        self._shown = shown
        self._at = 0
        self._line, self._counted = 1, 0
        self._elements: dict[str, int] = {}
        "How many there are so far, by the path of an array of tables."
        table = ""
        while self._skip():
            if self._text.startswith("[[", self._at):
                table = self._header(2)
            elif self._text[self._at] == "[":
                table = self._header(1)
            else:
                self._value(self._assigned(table))

    def _skip(self) -> bool:
        """Whether anything follows."""
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at < len(self._text)

    def _header(self, brackets: int) -> str:
        line, self._at = self._here(), self._at + brackets
        names, label = list(self._names()), ""
        for number, name in enumerate(names, start=1):
            label = _join(label, name)
            if number == len(names) and brackets == 2:
                self._elements[label] = self._elements.get(label, 0) + 1
                self._remember(label, line)
            if label in self._elements:
                label = _element(label, self._elements[label])
            self._remember(label, line)
        self._at = _end_of(self._text, "]", self._at) + brackets - 1
        return label

    def _assigned(self, label: str) -> str:
        line = self._here()
        for name in self._names():
            label = _join(label, name)
            self._remember(label, line)
        self._at = _end_of(self._text, "=", self._at)
        return label

    def _names(self) -> Iterator[str]:
        while found := _NAME.match(self._text, self._at):
            self._at = found.end()
            quoted, literal, bare = found.groups()
            yield self._shown(_unescaped(quoted) if quoted is not None else literal or bare or "")
            if not self._text.startswith(".", self._at):
                return
            self._at += 1

    def _value(self, label: str) -> None:
        """One value, however deeply it nests: without recursion, as it may be as deep as its text is long."""
        open_in: list[tuple[str, int]] = []
        "Path and elements so far of each array that is open; -1 for a table."
        self._open(label, open_in)
        while open_in and self._skip():
            inside, count = open_in[-1]
            following = self._text[self._at]
            if following in "]}":
                open_in.pop()
                self._at += 1
            elif following == ",":
                self._at += 1
            elif count < 0:
                self._open(self._assigned(inside), open_in)
            else:
                open_in[-1] = (inside, count + 1)
                element, line = _element(inside, count + 1), self._here()
                self._remember(element, line)
                self._open(element, open_in)

    def _open(self, label: str, open_in: list[tuple[str, int]]) -> None:
        if not self._skip():
            return
        if self._text[self._at] in "[{":
            open_in.append((label, 0 if self._text[self._at] == "[" else -1))
            self._at += 1
        else:
            found = _VALUE.match(self._text, self._at)
            self._at = found.end() if found else self._at + 1

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _remember(self, label: str, line: int) -> None:
        if 0 < len(label) < MAX_LABEL_CHARS:
            self.lines.setdefault(label, line)


def _join(label: str, name: str) -> str:
    return f"{label}.{name}"[:MAX_LABEL_CHARS] if label else name[:MAX_LABEL_CHARS]


def _element(label: str, number: int) -> str:
    return f"{label}[{number}]"[:MAX_LABEL_CHARS]


def _end_of(text: str, mark: str, start: int) -> int:
    found = text.find(mark, start)
    return len(text) if found < 0 else found + 1


def _unescaped(text: str) -> str:
    def meant(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        if code is None:
            return _SHORT.get(found[3], found[3])
        return chr(int(code, 16)) if int(code, 16) < 0x11_0000 else ""

    return _ESCAPE.sub(meant, text) if "\\" in text else text
