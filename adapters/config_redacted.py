"""A configuration as it may be shown to somebody far away: what is known to be harmless, and nothing else.

Comments are left out, and so is the value of every key that is secret, unknown, or looks like a secret.
"""

import json
from collections.abc import Callable, Iterator, Mapping

import tomli

from adapters.config_files import Sources
from adapters.config_forms import looks_secret
from adapters.config_rows_drop_ins import DROP_INS
from adapters.config_setting import ANY_ID, Setting
from adapters.config_settings import SETTINGS

SECRET = "<secret, not shown>"
UNKNOWN = "<unknown key, not shown>"
UNREADABLE = "# not valid TOML, so nothing of it is shown\n"

HIDDEN = "<hidden>"

Words = Callable[[str], str]

MAX_LINES = 10_000


def redacted_files(sources: Sources, words: Words = str) -> Iterator[tuple[str, str]]:
    """Path and text of each file, valid TOML with a line for each key; ``words`` makes them of its texts."""
    yield sources.path, redacted(sources.text, {row.path: row for row in SETTINGS}, words)
    for drop_in in sources.drop_ins:
        rows = {row.path: row for row in DROP_INS[drop_in.service]}
        yield drop_in.path, redacted(drop_in.text, rows, words)


def redacted(text: str, rows: Mapping[str, Setting], words: Words = str) -> str:
    """One file."""
    try:
        tree = tomli.loads(text)
    except (ValueError, RecursionError):
        return UNREADABLE
    lines: list[str] = []
    for line in _lines(tree, "", "", rows, words):
        if len(lines) == MAX_LINES:
            lines.append("# and more")
            break
        lines.append(line)
    return "\n".join((*lines, ""))


def _lines(
    table: Mapping[str, object], at: str, label: str, rows: Mapping[str, Setting], words: Words
) -> Iterator[str]:
    """``at`` is the path as rows have it, ``label`` the dotted key."""
    for name, value in table.items():
        path = _known(at, name, rows)
        # Somebody may have put a secret on the left of the equals sign.
        shown = HIDDEN if looks_secret(name) else name
        if path is None or path.endswith(ANY_ID):
            shown = words(shown)  # the operator's own word
        key = f"{label}.{_quoted(shown)}" if label else _quoted(shown)
        if path is None:
            yield f"{key} = {_text(UNKNOWN)}"
        elif isinstance(value, dict) and path not in rows:
            yield from _lines(value, path, key, rows, words)
        elif isinstance(value, list) and path not in rows:
            tables = (_lines(one, path, "", rows, words) for one in value if isinstance(one, dict))
            yield f"{key} = [{', '.join(_inline(lines) for lines in tables)}]"
        else:
            yield f"{key} = {_value(value, rows.get(path), words)}"


def _inline(lines: Iterator[str]) -> str:
    return f"{{ {', '.join(lines)} }}"


def _known(at: str, name: str, rows: Mapping[str, Setting]) -> str | None:
    """The path of a row, or of a table that has rows below it."""
    start = f"{at}." if at else ""
    for last in (name, ANY_ID) if "." not in name else (ANY_ID,):
        path = start + last
        if path in rows or any(one.startswith(f"{path}.") for one in rows):
            return path
    return None


def _value(value: object, row: Setting | None, words: Words) -> str:
    if row is None or row.secret or isinstance(value, dict):
        return _text(SECRET)
    match value:
        case bool():
            return str(value).lower()
        case int() if value.bit_length() < 64:
            return str(value)
        case str():
            return _text(SECRET if looks_secret(value) or "@" in value else words(value))
        case list():
            return f"[{', '.join(_value(one, row, words) for one in value)}]"
    return _text(SECRET)


def _quoted(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else _text(name)


def _text(value: str) -> str:
    # A JSON string is a TOML string, but for DEL.
    return json.dumps(value).replace("\x7f", "\\u007f")
