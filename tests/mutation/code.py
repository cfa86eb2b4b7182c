"""Mutants of functions: operators, constants, conditions, statements, and what is written or wished for.

Each generator takes one function and yields every change of its sort. Left out is what decides nothing:
docstrings, annotations, asserts, and words for people.
"""

import ast
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import get_args

from msgspec import NODEFAULT, Struct, structs

from statemachine.states import FailureClass, Timer
from tests.mutation.source import Change, Edit, Mutant, Source, drop_item, named, set_field, set_item, shown

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
"Boundary and opposite."

COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
}
SYMBOLS: dict[type[ast.AST], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.LShift: "<<",
    ast.RShift: ">>",
}
BUILDER = "statemachine.machine"
CALLED = {"min": "max", "max": "min"}
WISHES = ("ask", "tell", "arm_at", "arm_after", "disarm", "signal")
"Methods of Work through which effects and signals leave a step."
WORDS = (get_args(Timer), get_args(FailureClass), ("issued", "configured"))
FOR_PEOPLE = frozenset({"message", "reason", "why"})
"Keywords whose values are words for people: decisions never read them."


def code_mutants(source: Source) -> Iterator[Mutant]:
    """Everything in a module's functions and in the values at its top."""
    return named(source, _changes(source))


def _changes(source: Source) -> Iterator[Change]:
    for function, qualname, outermost in functions(source.tree.body):
        lines = _lines(function)
        for kind, what, node, edit in _of_function(source, function):
            yield Change(
                kind=kind,
                what=what,
                node=node,
                edit=edit,
                function=outermost,
                where=qualname,
                # Some of it runs when the tables are built, before any test does.
                lines=frozenset() if source.name == BUILDER else lines[node],
            )
    yield from _top(source)


def functions(
    body: list[ast.stmt], prefix: str = "", outermost: str | None = None
) -> Iterator[tuple[ast.FunctionDef, str, str]]:
    """(function, qualified name, qualified name of the outermost function around it)."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            name = f"{prefix}{node.name}"
            yield node, name, outermost or name
            yield from functions(node.body, f"{name}.", outermost or name)


def _lines(function: ast.FunctionDef) -> dict[ast.AST, frozenset[int]]:
    """By node, the lines of the statement around it: a test that runs none of them cannot notice a change.

    What a compiler makes of a statement may be filed under any of its lines.
    """
    found: dict[ast.AST, frozenset[int]] = {}
    # Outer statements come first, so what lies in an inner one ends with that.
    for one in ast.walk(function):
        if isinstance(one, ast.stmt) and one is not function:
            first, last = one.lineno, one.end_lineno or one.lineno
            if isinstance(one, ast.If | ast.For | ast.While):
                # The header is run whenever the statement is reached.
                last = one.body[0].lineno - 1
            lines = frozenset(range(first, max(first, last) + 1))
            found.update(dict.fromkeys(ast.walk(one), lines))
    return found


Found = Iterator[tuple[str, str, ast.AST, Edit]]
"kind, code before and after, place, edit"


def _of_function(source: Source, function: ast.FunctionDef) -> Found:
    for owner, name, node in _children(function):
        yield from _expression(source, owner, name, node)
    for body in _bodies(function):
        yield from _dropped(function, body)
        yield from _reordered(body)


# --- expressions -------------------------------------------------------------------------------------


def _children(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str, ast.AST]]:
    """(owner, field, node) for every node that may decide something; nested functions come by themselves."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        owner = todo.pop(0)
        if isinstance(owner, ast.Assert | ast.Raise | ast.FunctionDef | ast.JoinedStr):
            continue
        for name, value in ast.iter_fields(owner):
            if name in ("annotation", "ctx"):
                continue
            if isinstance(owner, ast.keyword) and owner.arg in FOR_PEOPLE:
                continue
            for node in value if isinstance(value, list) else [value]:
                if isinstance(node, ast.AST):
                    yield owner, name, node
                    todo.append(node)


def _expression(source: Source, owner: ast.AST, name: str, node: ast.AST) -> Found:
    match node:
        case ast.Compare():
            yield from _compared(node)
        case ast.BoolOp():
            yield from _joined(owner, name, node)
        case ast.UnaryOp(op=ast.Not()):
            yield (
                "negation",
                f"{shown(node)} -> {shown(node.operand)}",
                node,
                _put(owner, name, node, node.operand),
            )
        case ast.BinOp(op=ast.BitOr()):
            # A union of types.
            for kept in (node.left, node.right):
                yield "union", f"{shown(node)} -> {shown(kept)}", node, _put(owner, name, node, kept)
        case ast.BinOp() if type(node.op) in COMPUTED:
            other = COMPUTED[type(node.op)]
            what = f"{shown(node)}: {SYMBOLS[type(node.op)]} -> {SYMBOLS[other]}"
            yield "arithmetic", what, node, set_field(node, "op", other())
        case ast.IfExp():
            swapped = ast.IfExp(test=node.test, body=node.orelse, orelse=node.body)
            yield "choice", f"{shown(node)} swapped", node, _put(owner, name, node, swapped)
        case ast.Constant():
            yield from _constant(owner, name, node)
        case ast.Call():
            yield from _called(source, owner, name, node)
        case ast.Tuple(elts=elements, ctx=ast.Load()) if len(elements) > 1 and _is_collection(owner, name):
            for index, element in enumerate(elements):
                yield "element", f"{shown(node)} without {shown(element)}", node, drop_item(elements, index)
        case ast.comprehension():
            for index, test in enumerate(node.ifs):
                yield "filter", f"without if {shown(test)}", test, drop_item(node.ifs, index)
        case ast.Slice(lower=lower) if lower is not None:
            yield "slice", f"[{shown(node)}] -> [:]", lower, set_field(node, "lower", None)
    if isinstance(owner, ast.If | ast.While) and name == "test":
        for value in (True, False):
            yield (
                "condition",
                f"if {shown(node)} -> if {value}",
                node,
                set_field(owner, "test", ast.Constant(value)),
            )


def _is_collection(owner: ast.AST, name: str) -> bool:
    """A tuple that is compared as a whole, or returned, is a value; elsewhere it is a list of things."""
    if isinstance(owner, ast.Compare):
        return name == "comparators" and all(isinstance(op, ast.In | ast.NotIn) for op in owner.ops)
    if isinstance(owner, ast.Assign):
        return not isinstance(owner.targets[0], ast.Tuple)
    return isinstance(owner, ast.Call | ast.keyword)


def _put(owner: ast.AST, name: str, node: ast.AST, value: ast.expr) -> Edit:
    """Replace a node in its field, be it alone there or one of a list."""
    held = getattr(owner, name)
    if isinstance(held, list):
        return set_item(held, next(index for index, one in enumerate(held) if one is node), value)
    return set_field(owner, name, value)


def _compared(node: ast.Compare) -> Found:
    sides = [node.left, *node.comparators]
    for index, op in enumerate(node.ops):
        pair = ast.Compare(left=sides[index], ops=[op], comparators=[sides[index + 1]])
        for other in COMPARED[type(op)]:
            ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
            what = f"{shown(pair)}: {SYMBOLS[type(op)]} -> {SYMBOLS[other]}"
            yield "comparison", what, node, set_field(node, "ops", ops)


def _joined(owner: ast.AST, name: str, node: ast.BoolOp) -> Found:
    other: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    word = type(node.op).__name__.lower()
    yield (
        "and/or",
        f"{shown(node)}: {word} -> {type(other).__name__.lower()}",
        node,
        set_field(node, "op", other),
    )
    for index, operand in enumerate(node.values):
        left = [*node.values[:index], *node.values[index + 1 :]]
        kept = left[0] if len(left) == 1 else ast.BoolOp(op=node.op, values=left)
        yield "operand", f"without {word} {shown(operand)}", operand, _put(owner, name, node, kept)


def _constant(owner: ast.AST, name: str, node: ast.Constant) -> Found:
    value = node.value
    if isinstance(owner, ast.Expr):
        return
    if isinstance(value, bool):
        yield (
            "constant",
            f"{_around(owner, node)}{value} -> {not value}",
            node,
            set_field(node, "value", not value),
        )
    elif isinstance(value, int):
        yield (
            "constant",
            f"{_around(owner, node)}{value} -> {value + 1}",
            node,
            set_field(node, "value", value + 1),
        )
    elif isinstance(value, str):
        for words in WORDS:
            if value in words:
                other = words[(words.index(value) + 1) % len(words)]
                what = f"{_around(owner, node)}{value} -> {other}"
                yield "word", what, node, set_field(node, "value", other)
                return


def _around(owner: ast.AST, node: ast.Constant) -> str:
    """The code a constant stands in, where that is not the constant alone."""
    if isinstance(owner, ast.keyword):
        return f"{owner.arg}="
    return "" if isinstance(owner, ast.stmt) else f"in {shown(owner, 50)}, "


def _called(source: Source, owner: ast.AST, name: str, node: ast.Call) -> Found:
    callee = node.func
    if isinstance(callee, ast.Name) and callee.id in CALLED:
        other = ast.Name(id=CALLED[callee.id], ctx=ast.Load())
        yield "min/max", f"{shown(node)} -> {other.id}", node, set_field(node, "func", other)
    if isinstance(callee, ast.Name) and callee.id == "abs":
        yield "abs", f"{shown(node)} -> {shown(node.args[0])}", node, _put(owner, name, node, node.args[0])
    if isinstance(callee, ast.Attribute) and callee.attr in ("disarm", "forget_asked") and len(node.args) > 1:
        for index, argument in enumerate(node.args):
            yield (
                "effect dropped",
                f"{shown(node)} without {shown(argument)}",
                node,
                drop_item(node.args, index),
            )
    if len(node.keywords) == 1 and not node.args:
        # Without its only field the call does nothing: that is the statement dropped.
        return
    for index, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, *FOR_PEOPLE) and _may_be_left_out(source, callee, keyword.arg):
            what = f"{shown(callee)}(..) without {keyword.arg}"
            yield "field dropped", what, keyword.value, drop_item(node.keywords, index)


def _may_be_left_out(source: Source, callee: ast.expr, field: str | None) -> bool:
    """Only where that is legal; else every caller would raise, which proves nothing."""
    text = ast.unparse(callee)
    if text in ("work.change", "self.change", "structs.replace", "_note"):
        return True
    if not isinstance(callee, ast.Name):
        return False
    kind = source.module.__dict__.get(callee.id)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return any(
            one.name == field and (one.default is not NODEFAULT or one.default_factory is not NODEFAULT)
            for one in structs.fields(kind)
        )
    if inspect.isfunction(kind):
        return inspect.signature(kind).parameters[field or ""].default is not inspect.Parameter.empty
    return False


# --- statements --------------------------------------------------------------------------------------


def _bodies(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    """Every list of statements in it."""
    todo: list[ast.AST] = [function]
    while todo:
        owner = todo.pop(0)
        for name in ("body", "orelse", "finalbody"):
            body = getattr(owner, name, None)
            if isinstance(body, list) and body:
                yield body
                todo.extend(one for one in body if not isinstance(one, ast.FunctionDef))


def wish_of(statement: ast.stmt) -> str | None:
    """The method through which a statement wishes for something; None: it does not."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=attr))) if attr in WISHES:
            return attr
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Attribute(attr="effects"), attr="append"))):
            return "append"
    return None


def _acts(statement: ast.stmt) -> bool:
    """It is there for what it does, not for a name that it binds."""
    match statement:
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            return True
        case ast.Assign(targets=[ast.Attribute()]):
            return True
    return False


def _dropped(function: ast.FunctionDef, body: list[ast.stmt]) -> Found:
    for index, statement in enumerate(body):
        if _acts(statement):
            kind = "statement dropped" if wish_of(statement) is None else "effect dropped"
        elif (
            isinstance(statement, ast.Return)
            and statement.value is None
            and statement is not function.body[-1]
        ):
            kind = "return dropped"
        else:
            continue
        yield kind, shown(statement), statement, _instead(body, index, ast.Pass())


def _instead(body: list[ast.stmt], index: int, statement: ast.stmt) -> Edit:
    def edit() -> None:
        body[index] = statement

    return edit


def _reordered(body: list[ast.stmt]) -> Found:
    for index, (first, second) in enumerate(itertools.pairwise(body)):
        if not (_acts(first) or _acts(second)) or isinstance(second, ast.Return | ast.Assert):
            continue
        if isinstance(first, ast.Assert) or any(
            isinstance(one, ast.Expr) and not _acts(one) for one in (first, second)
        ):
            continue
        if _stored(first) & _loaded(second) or (isinstance(first, ast.If) and _leaves(first)):
            # A name would be missing, or the second never be reached: other mutants say that.
            continue
        yield "reordered", f"{shown(first, 40)} <-> {shown(second, 40)}", second, _swap(body, index)


def _stored(statement: ast.stmt) -> set[str]:
    names = {
        one.id for one in ast.walk(statement) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }
    return names | {one.name for one in ast.walk(statement) if isinstance(one, ast.FunctionDef)}


def _loaded(statement: ast.stmt) -> set[str]:
    return {
        one.id for one in ast.walk(statement) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)
    }


def _leaves(statement: ast.stmt) -> bool:
    return any(isinstance(one, ast.Return) for one in ast.walk(statement))


def _swap(body: list[ast.stmt], index: int) -> Edit:
    def edit() -> None:
        body[index], body[index + 1] = body[index + 1], body[index]

    return edit


# --- values at the top of a module -------------------------------------------------------------------


def _top(source: Source) -> Iterator[Change]:
    for statement in source.tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                continue
        for kind, what, node, edit in _value(statement, value):
            yield Change(kind=kind, what=what, node=node, edit=edit, where=name)


def _value(statement: ast.stmt, value: ast.expr) -> Found:
    match value:
        case ast.Dict():
            for index, key in enumerate(value.keys):
                assert key is not None
                yield "entry dropped", shown(key), key, _drop_entry(value, index)
        case ast.Tuple(elts=elements):
            for index, element in enumerate(elements):
                if isinstance(element, ast.Constant):
                    yield from _constant(value, "elts", element)
                else:
                    yield "element", f"without {shown(element)}", element, drop_item(elements, index)
        case ast.Constant():
            yield from _constant(statement, "value", value)
        case ast.BinOp() if isinstance(value.op, ast.Mult):
            for owner in ast.walk(value):
                for side in ("left", "right"):
                    node = getattr(owner, side, None)
                    if isinstance(node, ast.Constant):
                        yield from _constant(owner, side, node)


def _drop_entry(value: ast.Dict, index: int) -> Edit:
    def edit() -> None:
        del value.keys[index], value.values[index]

    return edit


# --- whole guards ------------------------------------------------------------------------------------


def guard_mutants(source: Source) -> Iterator[Mutant]:
    """Every guard: always yes, always no, the opposite."""
    return named(source, _guards(source))


def _guards(source: Source) -> Iterator[Change]:
    for function, qualname, outermost in functions(source.tree.body):
        if not (isinstance(function.returns, ast.Name) and function.returns.id == "bool"):
            continue
        bodies: tuple[tuple[str, Callable[[ast.FunctionDef], list[ast.stmt]]], ...] = (
            ("always True", lambda _: [ast.Return(ast.Constant(True))]),
            ("always False", lambda _: [ast.Return(ast.Constant(False))]),
            ("negated", _opposite),
        )
        for what, body in bodies:
            yield Change(
                kind="guard",
                what=what,
                node=function,
                edit=_rebody(function, body),
                function=outermost,
                where=qualname,
                lines=frozenset(range(function.body[0].lineno, (function.end_lineno or 0) + 1)),
            )


def _rebody(function: ast.FunctionDef, body: Callable[[ast.FunctionDef], list[ast.stmt]]) -> Edit:
    def edit() -> None:
        function.body = body(function)

    return edit


def _opposite(function: ast.FunctionDef) -> list[ast.stmt]:
    inner = ast.FunctionDef(name="_held", args=function.args, body=function.body, decorator_list=[])
    arguments: list[ast.expr] = [ast.Name(id=one.arg, ctx=ast.Load()) for one in function.args.args]
    call = ast.Call(func=ast.Name(id="_held", ctx=ast.Load()), args=arguments, keywords=[])
    return [inner, ast.Return(ast.UnaryOp(op=ast.Not(), operand=call))]
