"""One key of a configuration file as a row: what it may hold, what it means, which field it fills."""

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from statemachine.settings import Configuration, NoProvisioning

Kind = Literal[
    "integer",
    "text",
    "boolean",
    "list of text",
    "table of text",
    "text or list of text",
    "integer or text",
]

DEFAULTS = Configuration(provisioning=NoProvisioning())

ANY_ID = "<id>"
"In a path: any name, chosen by the operator."

HIGHEST_UID = 2**32 - 2
"The one above it is no user: system calls take it for -1."

FILE_URI_FORM = "a file URI with an absolute path: file:///path"
FILE_FORM = "a file URI or an absolute path: file:///path or /path"


class Setting(Struct, frozen=True, kw_only=True):
    """One key."""

    path: str
    "Dotted key path in its file; ``<id>`` stands for a name of the operator's."
    kind: Kind
    meaning: str
    "One line for the reference page."
    target: str = ""
    "Dotted field of ``Configuration`` it fills; empty for keys that are assembled with others."
    fills: tuple[str, ...] = ()
    "Dotted fields of ``Configuration`` it is assembled into; empty for the parts of ``provisioning``."
    unit: str = ""
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    form: str = ""
    "What is allowed, in words, where neither a range nor choices say it."
    check: Callable[[Any], object] | None = None
    "The same as code: takes the value when it is of the kind, returns what is kept, or raises Unfit."
    secret: bool = False
    "The value may never be quoted."

    @property
    def default(self) -> int | str | bool | tuple[str, ...] | None:
        """The value used when the key is absent; None when there is no such value."""
        if not self.target:
            return None
        value: Any = DEFAULTS
        for name in self.target.split("."):
            value = getattr(value, name)
        default: int | str | bool | tuple[str, ...] | None = value
        return default

    @property
    def allowed(self) -> str:
        """The range in words: the text after "allowed" in an error, and in the reference page."""
        if self.form:
            return self.form
        if self.kind == "boolean":
            return "true or false"
        if self.choices:
            return one_of(self.choices)
        return f"a whole number from {self.low} to {self.high}" + (f" ({self.unit})" if self.unit else "")


def one_of(words: tuple[str, ...]) -> str:
    """``"a", "b" or "c"``."""
    quoted = [f'"{word}"' for word in words]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
