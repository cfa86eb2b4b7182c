"""Puts a mutant into the live modules, so that everybody who imported from them has it.

A process that did so is spoilt for anything else: fork first. Functions keep their identity and get another
code object; rows are read anew and compiled by the machine's own builder; constants are bound anew wherever
they were imported to.
"""

import ast
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from statemachine import machine
from tests.mutation.mutants import TABLES
from tests.mutation.source import Mutant, Source

_OURS = ("statemachine", "tests", "adapters", "docs")
_BUILT = ("ATTEMPT", "LIFECYCLE")
"What machine.py compiles at import."
_TABLE_VALUES = ("ROWS", "IGNORED")


class NotGrafted(Exception):
    """The change cannot be put into a live module: a fault of this file, never a mutant killed."""


def graft(mutant: Mutant) -> None:
    """Make the change and put it in. Raises whatever importing the changed module would raise."""
    mutant.edit()
    source = mutant.source
    try:
        code = compile(ast.fix_missing_locations(source.tree), str(source.path), "exec")
    except (SyntaxError, TypeError, ValueError) as exc:
        raise NotGrafted(f"{mutant.id} is no program: {exc}") from exc
    if mutant.function is not None:
        _function(source, mutant.function, code)
        if source.module is machine:
            rebuild()
    elif source.name in TABLES:
        fresh = _executed(source, code)
        for name in _TABLE_VALUES:
            if name in fresh:
                _entries(source.module, name, fresh[name])
        rebuild()
    else:
        _values(source, code)


def _entries(owner: ModuleType, name: str, fresh: tuple[Any, ...]) -> None:
    """Give the rows of a table other contents, or leave some out.

    They stay the very objects they were: tests and explorer have long looked some of them up, and would
    take a row that was merely made anew for a wrong one.
    """
    live: tuple[Any, ...] = owner.__dict__[name]
    if len(fresh) != len(live):
        _bind(owner, name, tuple(next(row for row in live if row == one) for one in fresh))
        return
    for row, other in zip(live, fresh, strict=True):
        for field in dataclasses.fields(row):
            object.__setattr__(row, field.name, getattr(other, field.name))


def rebuild() -> None:
    """Compile both tables again, by the statements of machine.py itself. Raises TableMistake."""
    for statement in Source("statemachine.machine").tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if name in _BUILT:
                namespace = dict(machine.__dict__)
                exec(
                    compile(ast.Module(body=[statement], type_ignores=[]), machine.__name__, "exec"),
                    namespace,
                )
                _bind(machine, name, namespace[name])


def _executed(source: Source, code: CodeType) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": source.name, "__file__": str(source.path)}
    exec(code, namespace)
    return namespace


def _function(source: Source, qualname: str, code: CodeType) -> None:
    changed = next((one for one in _codes(code) if one.co_qualname == qualname), None)
    live = function_at(source.module, qualname)
    if changed is None or changed.co_freevars != live.__code__.co_freevars:
        raise NotGrafted(f"{source.name}.{qualname}")
    live.__code__ = changed


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def function_at(module: ModuleType, qualname: str) -> FunctionType:
    """The live function, or the getter of the live property, of that name."""
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    found = getattr(found, "fget", found)
    if not isinstance(found, FunctionType):
        raise NotGrafted(f"{module.__name__}.{qualname} is no function")
    return found


def _values(source: Source, code: CodeType) -> None:
    """Whatever is no function and no class, and came out different."""
    for name, value in _executed(source, code).items():
        if name.startswith("__") or name not in source.module.__dict__:
            continue
        if isinstance(value, FunctionType | type | ModuleType):
            continue
        value = _alive(source, value)
        if value != source.module.__dict__[name]:
            _bind(source.module, name, value)


def _alive(source: Source, value: Any) -> Any:
    """The same with the live functions and classes of the module in place of those just made beside them."""
    if isinstance(value, FunctionType | type) and value.__module__ == source.name:
        return source.module.__dict__[value.__name__]
    if isinstance(value, Mapping):
        return {_alive(source, key): _alive(source, one) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_alive(source, one) for one in value)
    return value


def _bind(owner: ModuleType, name: str, value: Any) -> None:
    """Give a module's value another, and everybody who has imported it under its name."""
    before = owner.__dict__[name]
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] in _OURS and module.__dict__.get(name) is before:
            module.__dict__[name] = value
    owner.__dict__[name] = value
