"""Writing TOML: what the daemons of the original are given. Reading it gives the same data back."""

import json
from collections.abc import Iterator, Mapping, Sequence

Value = str | int | bool | Sequence["Value"] | Mapping[str, "Value"]
"An array of tables is a list whose members are all tables, and not empty."


def toml_text(tree: Mapping[str, Value]) -> str:
    """Plain values first, then the tables, each below its header, in the order they have."""
    return "\n".join(_table(tree, ())).lstrip("\n") + ("\n" if tree else "")


def _table(table: Mapping[str, Value], path: tuple[str, ...]) -> Iterator[str]:
    for name, value in table.items():
        if not isinstance(value, Mapping) and not _is_array_of_tables(value):
            yield f"{_key(name)} = {_inline(value)}"
    for name, value in table.items():
        below = (*path, name)
        header = ".".join(map(_key, below))
        if isinstance(value, Mapping):
            # A table of tables alone needs no header of its own.
            if not value or any(not isinstance(one, Mapping) for one in value.values()):
                yield f"\n[{header}]"
            yield from _table(value, below)
        elif isinstance(value, Sequence) and _is_array_of_tables(value):
            for element in value:
                assert isinstance(element, Mapping)
                yield f"\n[[{header}]]"
                yield from _table(element, below)


def _is_array_of_tables(value: Value) -> bool:
    if isinstance(value, str | int) or not isinstance(value, Sequence) or not value:
        return False
    return all(isinstance(element, Mapping) for element in value)


def _inline(value: Value) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case str():
            return _quoted(value)
        case Mapping():
            inside = ", ".join(f"{_key(name)} = {_inline(one)}" for name, one in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case _:
            return f"[{', '.join(map(_inline, value))}]"


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()
    return name if bare else _quoted(name)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's; of the control characters it leaves one as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
