"""Which signs an output can take: no text may end in an error because of where it is written."""

import codecs
import io
import os
from collections.abc import Mapping
from typing import TextIO

_HANDLER = "identityd.spelt"


def takes_unicode(stream: TextIO, environ: Mapping[str, str] | None = None) -> bool:
    """Both the stream and the locale can show any sign.

    Python writes UTF-8 in the C locale too, and sets LC_CTYPE=C.UTF-8 then (PEP 538); the terminal may not.
    """
    environ = os.environ if environ is None else environ
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "").replace("_", "")
    kind = environ.get("LC_CTYPE", "")
    locale = environ.get("LC_ALL") or ("" if kind == "C.UTF-8" else kind) or environ.get("LANG", "")
    return encoding == "utf8" and locale not in ("C", "POSIX")


def make_tolerant(stream: TextIO, environ: Mapping[str, str] | None = None) -> None:
    """From now on what the output cannot take is spelt in signs that it can.

    A pipe or a file in the C locale still gets UTF-8: it may be JSON, and nobody looks at it.
    """
    if not isinstance(stream, io.TextIOWrapper) or takes_unicode(stream, environ):
        return
    codecs.register_error(_HANDLER, _spelt)
    utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
    if not utf8:
        stream.reconfigure(errors=_HANDLER)
    elif stream.isatty():
        stream.reconfigure(encoding="ascii", errors=_HANDLER)


def _spelt(exc: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(exc, UnicodeEncodeError), "it is registered for writing only"
    return "".join("..." if sign == "…" else "?" for sign in exc.object[exc.start : exc.end]), exc.end
