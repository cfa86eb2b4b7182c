"""What the sources say about themselves: docstrings of classes and fields, and failure codes.

The sources are parsed, not imported, because a string under a field leaves no trace at run time. Types and
defaults are quoted as they are written, so that a page does not depend on the version of Python.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Field:
    """One annotated line of a class body."""

    name: str
    "The name in JSON, which is the attribute's unless the source renames it."
    type: str
    default: str | None
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Class:
    """One class: its docstring and its own fields; inherited ones are with the base."""

    name: str
    section: str
    "The text of the `# --- text ---` line above it."
    meaning: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One module."""

    meaning: str
    classes: dict[str, Class]
    functions: dict[str, str]
    "Docstring by name."
    constants: dict[str, str]
    "String literal under an assignment, by name."


@cache
def read(path: str) -> Source:
    """``path`` is relative to the root of the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    tree = ast.parse(text)
    sections = [
        (number, found[1].strip())
        for number, line in enumerate(text.splitlines(), 1)
        if (found := re.fullmatch(r"# --- (.+?) -*", line))
    ]
    classes: dict[str, Class] = {}
    functions: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            above = [name for number, name in sections if number < node.lineno]
            classes[node.name] = Class(
                name=node.name,
                section=above[-1] if above else "",
                meaning=_flat(ast.get_docstring(node) or ""),
                fields=tuple(_fields(node, text)),
            )
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions[node.name] = _flat(ast.get_docstring(node) or "")
    return Source(
        meaning=ast.get_docstring(tree) or "",
        classes=classes,
        functions=functions,
        constants=dict(_constants(tree.body)),
    )


def _fields(node: ast.ClassDef, text: str) -> Iterator[Field]:
    for index, line in enumerate(node.body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name, default = line.target.id, line.value
            if isinstance(default, ast.Call) and getattr(default.func, "id", "") == "field":
                options = {one.arg: one.value for one in default.keywords}
                renamed = options.get("name")
                name = str(renamed.value) if isinstance(renamed, ast.Constant) else name
                default = options.get("default")
            yield Field(
                name=name,
                type=_segment(text, line.annotation),
                default=None if default is None else _segment(text, default),
                meaning=_string(node.body[index + 1 : index + 2]),
            )


def _constants(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for index, line in enumerate(body):
        targets = line.targets if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.AnnAssign):
            targets = [line.target]
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, _string(body[index + 1 : index + 2])


def _string(after: list[ast.stmt]) -> str:
    """The string literal that stands right under a line, if one does."""
    for line in after:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            return _flat(str(line.value.value))
    return ""


def _segment(text: str, node: ast.AST) -> str:
    return _flat(ast.get_source_segment(text, node) or "")


def _flat(text: str) -> str:
    return " ".join(text.split())


# --- failure codes -----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Code:
    """One failure code as the sources raise it."""

    name: str
    "`…` stands for what is known only when it happens."
    classes: set[str] = field(default_factory=set)
    "`…` stands for a class that depends on what happens."
    files: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)


_ANY = "…"
_ERRORS = "adapters/errors.py"


def failure_codes(paths: Iterable[str]) -> list[Code]:
    """Every literal that is passed on as a ``code``, with the class that goes with it.

    Followed are keywords, positional arguments and defaults of functions of the same file, one helper
    deep, and dict literals with a member "code". What is computed elsewhere is left to the page's prose.
    """
    found: dict[str, Code] = {}
    for path in paths:
        reader = _CodeReader(path)
        for name, classes, message in reader.codes():
            code = found.setdefault(name, Code(name=name))
            code.classes |= classes
            code.files.add(path)
            if message and message not in code.messages:
                code.messages.append(message)
    return sorted(found.values(), key=lambda code: code.name)


class _CodeReader:
    def __init__(self, path: str) -> None:
        self._tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        self._functions = {
            node.name: node
            for node in ast.walk(self._tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }

    def codes(self) -> Iterator[tuple[str, set[str], str]]:
        for node in ast.walk(self._tree):
            arguments: dict[str, ast.expr] = {}
            if isinstance(node, ast.Call):
                arguments = self._bound(node)
            elif isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                arguments = {str(k.value): v for k, v in pairs if isinstance(k, ast.Constant)}
                if "failure_class" not in arguments:
                    continue
            if "code" not in arguments:
                continue
            message = _texts(arguments["message"]) if "message" in arguments else [""]
            for name in _texts(arguments["code"]):
                if name and name != _ANY and re.fullmatch(r"[a-z0-9…-]+", name):
                    yield name, self._classes(node, arguments, name), message[0].strip()

    def _bound(self, call: ast.Call) -> dict[str, ast.expr]:
        """Arguments by parameter name: the file's own functions, and errors, whose first one is the text."""
        bound = {one.arg: one.value for one in call.keywords if one.arg}
        function = self._functions.get(getattr(call.func, "id", ""))
        if function is None:
            if call.args:
                bound.setdefault("message", call.args[0])
            return bound
        names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
        bound |= dict(zip(names, call.args, strict=False))
        return {**_defaults(function), **bound}

    def _classes(self, node: ast.AST, arguments: dict[str, ast.expr], code: str) -> set[str]:
        given = arguments.get("failure_class")
        if given is not None:
            return _classes_of(given, code)
        called = getattr(getattr(node, "func", None), "id", "")
        function = self._functions.get(called)
        if function is None:
            # AdapterError's own default. What another module's helper makes of a code is found there.
            return {"retry"} if called in read(_ERRORS).classes else set()
        for call in ast.walk(function):
            if isinstance(call, ast.Call):
                named = {one.arg: one.value for one in call.keywords}
                if "code" in named and "failure_class" in named:
                    return _classes_of(named["failure_class"], code)
        return {"retry"}


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, ast.expr]:
    arguments = function.args
    names = [*arguments.posonlyargs, *arguments.args]
    late = names[len(names) - len(arguments.defaults) :]
    found = {one.arg: value for one, value in zip(late, arguments.defaults, strict=True)}
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            found[one.arg] = default
    return found


def _classes_of(node: ast.expr, code: str) -> set[str]:
    """The words an expression can come to. One that asks for the code only is answered."""
    if isinstance(node, ast.IfExp) and isinstance(node.test, ast.Compare):
        test = node.test
        if getattr(test.left, "id", "") == "code" and isinstance(test.comparators[0], ast.Constant):
            return _classes_of(node.body if test.comparators[0].value == code else node.orelse, code)
    return set(_texts(node))


def _texts(node: ast.expr) -> list[str]:
    """The texts an expression can come to, ``…`` for every part that is not written out."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    if isinstance(node, ast.Subscript):
        return _texts(node.value)
    if isinstance(node, ast.BoolOp):
        return [text for one in node.values for text in _texts(one) if text != _ANY] or [_ANY]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(one.value) if isinstance(one, ast.Constant) else _ANY for one in node.values)]
    return [_ANY]
