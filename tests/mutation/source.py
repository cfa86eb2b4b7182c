"""What a mutant is: one named change to the syntax tree of one module."""

import ast
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

Edit = Callable[[], None]
"""Changes, in place, the tree the mutant was made from. One tree takes one edit: whoever needs another
mutant forks first, or reads the sources again."""


class Source:
    """One module: the live one, and the tree of its text."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module: ModuleType = importlib.import_module(name)
        assert self.module.__file__ is not None
        self.path = Path(self.module.__file__)
        self.tree = ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def short(self) -> str:
        """``guards`` for ``statemachine.guards``."""
        return self.name.rpartition(".")[2]

    @property
    def shown_path(self) -> str:
        return f"{self.name.replace('.', '/')}.py"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change, with the words to speak of it."""

    id: str
    "Made of names and of the code that is changed, never of line numbers. Unique."
    kind: str
    source: Source
    line: int
    function: str | None
    "Qualified name of the outermost function it lies in; None: module level."
    edit: Edit
    lines: frozenset[int] = frozenset()
    "A test that runs none of these lines cannot notice it. Empty: nobody knows."
    pairs: frozenset[tuple[str, str]] = frozenset()
    "The same, for rows: (position, event) pairs that are looked up."

    @property
    def place(self) -> str:
        return f"{self.source.shown_path}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A mutant before it has an id."""

    kind: str
    what: str
    "The code before and after, in few words."
    node: ast.AST
    edit: Edit
    function: str | None = None
    where: str = ""
    "Function or row: the first part of the id."
    lines: frozenset[int] = frozenset()
    pairs: frozenset[tuple[str, str]] = frozenset()


def named(source: Source, changes: Iterable[Change]) -> Iterator[Mutant]:
    """Ids: where, kind and code; the second of the same gets ``#2``."""
    seen: Counter[str] = Counter()
    for one in changes:
        base = " ".join(f"{source.short}.{one.where}: {one.kind}: {one.what}".split())
        seen[base] += 1
        number = seen[base]
        yield Mutant(
            id=base if number == 1 else f"{base} #{number}",
            kind=one.kind,
            source=source,
            line=getattr(one.node, "lineno", 1),
            function=one.function,
            edit=one.edit,
            lines=one.lines,
            pairs=one.pairs,
        )


def shown(node: ast.AST, limit: int = 100) -> str:
    """Code in one line."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= limit else f"{text[: limit - 2]}.."


def set_field(owner: ast.AST, name: str, value: object) -> Edit:
    """The edit that gives a node another child."""

    def edit() -> None:
        setattr(owner, name, value)

    return edit


def set_item(items: list[ast.expr], index: int, value: ast.expr) -> Edit:
    def edit() -> None:
        items[index] = value

    return edit


def drop_item(items: list[ast.expr] | list[ast.keyword] | list[ast.stmt], index: int) -> Edit:
    def edit() -> None:
        del items[index]

    return edit
