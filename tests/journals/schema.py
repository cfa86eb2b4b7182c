"""What a journal may hold, as data: every tag, field, type and default: ``python -m tests.journals.schema``

One is kept for each release, beside what that release wrote, and never changed. ``problems`` compares: what a
later release may do to the vocabulary, and what not (docs/reference/journal.md). Names of classes are no
part of it; what is compared is what stands in the lines.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from adapters.release import VERSION
from statemachine.journal import FORMAT, AnyLine
from statemachine.machine import RULES_REVISION

HERE = Path(__file__).parent

NUMBER = "header.format"
"Its default is the number itself, and it is always written."

Json = dict[str, Any]


# --- making ------------------------------------------------------------------------------------------


def present() -> Json:
    """The vocabulary of this code."""
    structs: dict[str, Json] = {}
    lines = _alternatives(inspect.type_info(AnyLine), structs)
    return {"format": FORMAT, "rules_revision": RULES_REVISION, "line": lines, "structs": structs}


def _alternatives(found: inspect.Type, structs: dict[str, Json]) -> list[Any]:
    """What a value may be: names of plain types, quoted words, arrays, and structs by class name."""
    match found:
        case inspect.UnionType():
            return [one for part in found.types for one in _alternatives(part, structs)]
        case inspect.StructType():
            _add(found, structs)
            return [{"struct": found.cls.__name__}]
        case inspect.VarTupleType():
            return [{"array": _alternatives(found.item_type, structs)}]
        case inspect.LiteralType():
            return [json.dumps(word) for word in found.values]
        case inspect.EnumType():
            return [json.dumps(member.value) for member in found.cls]
        case inspect.NoneType():
            return ["null"]
        case inspect.BoolType() | inspect.IntType() | inspect.StrType():
            return [type(found).__name__.removesuffix("Type").lower()]
        case inspect.BytesType():
            return ["bytes"]
    raise TypeError(f"no journal line held {found} so far: say here what it is in JSON")


def _add(found: inspect.StructType, structs: dict[str, Json]) -> None:
    name = found.cls.__name__
    if name in structs:
        return
    structs[name] = entry = {"tag": found.tag, "strict": found.forbid_unknown_fields, "fields": {}}
    for field in found.fields:
        described: Json = {"type": _alternatives(field.type, structs)}
        if not field.required:
            made = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            described["default"] = json.loads(msgspec.json.encode(made))
        entry["fields"][field.encode_name] = described


# --- comparing ---------------------------------------------------------------------------------------


def problems(old: Json, new: Json, *, rules: set[int]) -> list[str]:
    """What ``new`` may not do to ``old``, each with the rule it breaks. ``rules`` are those callable now."""
    found: list[str] = []
    if new["format"] < old["format"]:
        found.append("the format's number went back: it only counts up")
    if old["rules_revision"] not in rules:
        found.append(f"rules revision {old['rules_revision']} is gone: what decided once stays callable")
    compared: set[tuple[str, str]] = set()
    found += _narrowed("a line", old["line"], new["line"], old, new, compared)
    return sorted(set(found))


def _narrowed(
    where: str, before: list[Any], after: list[Any], old: Json, new: Json, compared: set[tuple[str, str]]
) -> Iterator[str]:
    """Every value that was possible still is."""
    for one in before:
        if isinstance(one, str):
            if one not in after and not (one.startswith('"') and "str" in after):
                yield f"{where}: {one} is gone: values and types are only added"
        elif "array" in one:
            items = [other["array"] for other in after if isinstance(other, dict) and "array" in other]
            if not items:
                yield f"{where}: no array any more: values and types are only added"
            else:
                yield from _narrowed(where, one["array"], items[0], old, new, compared)
        else:
            yield from _struct_narrowed(where, one["struct"], after, old, new, compared)


def _struct_narrowed(
    where: str, name: str, after: list[Any], old: Json, new: Json, compared: set[tuple[str, str]]
) -> Iterator[str]:
    was = old["structs"][name]
    names = [other["struct"] for other in after if isinstance(other, dict) and "struct" in other]
    same = [other for other in names if new["structs"][other]["tag"] == was["tag"]]
    if not same:
        called = f"the tag {was['tag']}" if was["tag"] else name
        yield f"{where}: {called} is gone: what was written once is read for ever"
        return
    if (name, same[0]) in compared:
        return
    compared.add((name, same[0]))
    now, called = new["structs"][same[0]], was["tag"] or name
    if not now["strict"]:
        yield f"{called}: unknown fields are let through: an older release must notice what it does not know"
    for field, before in was["fields"].items():
        here = f"{called}.{field}"
        if field not in now["fields"]:
            yield f"{here} is gone: a field is never removed or renamed"
            continue
        is_now = now["fields"][field]
        if here == NUMBER:
            continue
        if "default" in before and "default" not in is_now:
            yield f"{here} has no default any more: lines without it were written"
        elif "default" in before and before["default"] != is_now["default"]:
            yield f"{here} has another default: lines that left it out would mean something else"
        yield from _narrowed(here, before["type"], is_now["type"], old, new, compared)
    for field, is_now in now["fields"].items():
        if field not in was["fields"] and "default" not in is_now:
            yield f"{called}.{field} is new and has no default: older lines do not hold it"


# --- keeping -----------------------------------------------------------------------------------------


def kept() -> dict[str, Json]:
    """What each release could write, by the name of its folder."""
    return {path.parent.name: json.loads(path.read_bytes()) for path in HERE.glob("recorded-*/schema.json")}


def main() -> int:
    path = HERE / f"recorded-{VERSION}" / "schema.json"
    if path.exists():
        print(f"{path.parent.name}: kept")
        return 0
    path.write_text(json.dumps(present(), indent=1) + "\n")
    print(f"{path.parent.name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
