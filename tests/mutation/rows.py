"""Mutants of rows: dropped, redirected, reordered, their guards and actions taken away or turned round."""

import ast
from collections.abc import Iterator
from enum import Enum
from typing import Any

from statemachine.rows import Ignored, Row
from statemachine.states import Phase, State
from tests.mutation.source import Change, Edit, Mutant, Source, drop_item, named, set_field, shown

NEGATED = """
def _negated(guard):
    def negated(work):
        return not guard(work)
    negated.__name__ = "not_" + guard.__name__
    return negated
"""
"Put before the rows: a row of its own may ask the opposite while all others ask as before."


def row_mutants(source: Source, positions: type[Enum]) -> Iterator[Mutant]:
    """Every change to one row of ``ROWS``, and every entry of ``IGNORED`` dropped."""
    return named(source, _changes(source, positions))


def positions_of(source: Source) -> type[Enum]:
    return Phase if source.short == "attempt" else State


def _changes(source: Source, positions: type[Enum]) -> Iterator[Change]:
    calls = _elements(source, "ROWS")
    live: tuple[Row[Any], ...] = source.module.__dict__["ROWS"]
    assert len(calls) == len(live), "rows are written one by one"
    names = _names(source, positions)
    items = _items(source, "ROWS")
    for index, (call, row) in enumerate(zip(calls, live, strict=True)):
        for kind, what, edit in _of_row(source, items, calls, live, index, names):
            yield Change(
                kind=kind,
                what=what,
                node=call,
                edit=edit,
                where=_where(call),
                pairs=_pairs(row),
            )
    if "IGNORED" in source.module.__dict__:
        for index, call in enumerate(_elements(source, "IGNORED")):
            entry: Ignored[Any] = source.module.__dict__["IGNORED"][index]
            yield Change(
                kind="entry dropped",
                what="ignored",
                node=call,
                edit=drop_item(_items(source, "IGNORED"), index),
                where=_where(call),
                pairs=_pairs(entry),
            )


def _items(source: Source, name: str) -> list[ast.expr]:
    for statement in source.tree.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=found), value=ast.Tuple(elts=elements)) if found == name:
                return elements
    raise AssertionError(f"{source.name} has no tuple {name}")


def _elements(source: Source, name: str) -> list[ast.Call]:
    return [one for one in _items(source, name) if isinstance(one, ast.Call)]


def _names(source: Source, positions: type[Enum]) -> dict[Enum, str]:
    """The name under which the module knows each position."""
    return {value: name for name, value in source.module.__dict__.items() if isinstance(value, positions)}


def _keyword(call: ast.Call, name: str) -> ast.keyword | None:
    return next((one for one in call.keywords if one.arg == name), None)


def _value(call: ast.Call, name: str) -> ast.expr:
    found = _keyword(call, name)
    assert found is not None
    return found.value


def _where(call: ast.Call) -> str:
    """Which row it is: unique, for the builder refuses a second one with the same guard."""
    guard = _keyword(call, "guard")
    asked = f" if {shown(guard.value).removeprefix('when.')}" if guard is not None else ""
    return f"{shown(_value(call, 'event'))} in {shown(_value(call, 'source'))}{asked}"


def _pairs(row: Row[Any] | Ignored[Any]) -> frozenset[tuple[str, str]]:
    return frozenset((source.name, row.event) for source in row.source)


def _of_row(
    source: Source,
    items: list[ast.expr],
    calls: list[ast.Call],
    live: tuple[Row[Any], ...],
    index: int,
    names: dict[Enum, str],
) -> Iterator[tuple[str, str, Edit]]:
    call, row = calls[index], live[index]
    yield "row dropped", shown_row(row), drop_item(items, index)
    yield from _elsewhere(call, row, names)
    for name in ("guard", "action", "refuses"):
        keyword = _keyword(call, name)
        if keyword is not None:
            at = call.keywords.index(keyword)
            yield f"{name} dropped", shown(keyword.value), drop_item(call.keywords, at)
    guard = _keyword(call, "guard")
    if guard is not None:
        yield "guard negated", shown(guard.value), _negate(source, guard)
    for other in range(index + 1, len(live)):
        if _pairs(live[other]) & _pairs(row):
            yield "order swapped", f"after {_where(calls[other])}", _swap(items, index, other)
            break
    if len(row.source) > 1:
        keyword = _keyword(call, "source")
        assert keyword is not None
        for one in row.source:
            left: list[ast.expr] = [
                ast.Name(id=names[two], ctx=ast.Load()) for two in row.source if two is not one
            ]
            value = ast.Tuple(elts=left, ctx=ast.Load())
            yield "source dropped", f"not in {one.name}", set_field(keyword, "value", value)


def shown_row(row: Row[Any]) -> str:
    return "stays" if row.dest is None else f"to {row.dest.name}"


def _elsewhere(call: ast.Call, row: Row[Any], names: dict[Enum, str]) -> Iterator[tuple[str, str, Edit]]:
    """Every other target; for a row that stays, every position it could be sent to."""
    keyword = _keyword(call, "dest")
    for position, name in names.items():
        if position is row.dest or row.source == (position,):
            continue
        value = ast.Name(id=name, ctx=ast.Load())
        what = f"{shown_row(row)} -> to {position.name}"
        if keyword is None:
            added = ast.keyword(arg="dest", value=value)
            yield "target swapped", what, _append(call.keywords, added)
        else:
            yield "target swapped", what, set_field(keyword, "value", value)
    if keyword is not None:
        at = call.keywords.index(keyword)
        yield "target dropped", f"{shown_row(row)} -> stays", drop_item(call.keywords, at)


def _append(keywords: list[ast.keyword], keyword: ast.keyword) -> Edit:
    def edit() -> None:
        keywords.append(keyword)

    return edit


def _negate(source: Source, guard: ast.keyword) -> Edit:
    def edit() -> None:
        guard.value = ast.Call(func=ast.Name(id="_negated", ctx=ast.Load()), args=[guard.value], keywords=[])
        # Behind the docstring, where imports may still follow.
        source.tree.body[1:1] = ast.parse(NEGATED).body

    return edit


def _swap(items: list[ast.expr], one: int, other: int) -> Edit:
    def edit() -> None:
        items[one], items[other] = items[other], items[one]

    return edit
