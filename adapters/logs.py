"""The log: what people read of a service that runs, one line for each fact on standard error.

A line is logfmt (``time=… level=info msg="…"``) or a JSON object. Its first members are always ``time``
(UTC), ``level`` (``error``, ``warn``, ``info``, ``debug``) and ``msg``; a record of the journal adds its
``sequence``, ``state``, ``phase`` and ``event``, and of a failure ``class`` and ``code``; a defect adds
``error`` and ``trace``. Line ends, control characters and quotes are escaped, values are bounded, and what
looks like a secret is left out, so that one fact stays one line whatever it quotes.

Under systemd a line begins with its priority, ``<6>`` (sd-daemon(3)): when standard error is the journal's
own stream, which JOURNAL_STREAM says. ``AZIOT_LOG`` has the original's syntax: a level, or ``module=level``
for modules of ours, separated by commas.
"""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

from adapters.errors import bounded, without_secrets
from statemachine.events import Failure, tag_of
from statemachine.explain import rfc3339, tell
from statemachine.journal import Record

OURS = ("identityd", "adapters")
"Roots of our loggers. Libraries are heard from ``warn`` on: what they tell otherwise may be a request whole."
LEVELS: Mapping[str, int] = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_OF_AZIOT_LOG: Mapping[str, int] = {**LEVELS, "off": logging.CRITICAL + 1, "trace": logging.DEBUG}
MAX_VALUE_CHARS = 2_000
MAX_TRACE_CHARS = 6_000
"Its end, where the reason is. A line as a whole stays far below what journald takes as one, 48 KiB."

Fact = str | int


class Log:
    """The lines of one process. ``configure`` may be called again, at a reload for example."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._asked = environ.get("AZIOT_LOG", "")
        self._told = False
        self._handler = _Handler(stream, priorities=_is_journal(stream, environ.get("JOURNAL_STREAM", "")))
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(logging.WARNING)
        self.configure("logfmt", "info")

    def configure(self, form: str, level: str) -> None:
        """``logfmt`` or ``json``, and one of LEVELS; AZIOT_LOG wins over the level."""
        self._handler.form = form
        asked, unknown = directives(self._asked)
        everywhere = asked.pop("", LEVELS[level])
        for name, number in (dict.fromkeys(OURS, everywhere) | asked).items():
            logging.getLogger(name).setLevel(number)
        if unknown and not self._told:
            logging.getLogger("identityd").warning(
                "AZIOT_LOG: %s is not understood; use a level (%s), or a module of ours such as "
                "adapters.driven=debug",
                ", ".join(unknown),
                ", ".join(_OF_AZIOT_LOG),
            )
        self._told = True

    def crashed(self, kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
        """The ``sys.excepthook`` of a service: its end is a line as well."""
        logging.getLogger("identityd").critical("the service ends by a defect", exc_info=(kind, exc, trace))

    def close(self) -> None:
        """Give the root logger back."""
        logging.getLogger().removeHandler(self._handler)


def install(environ: Mapping[str, str]) -> Log:
    """For the life of this process, on standard error."""
    log = Log(sys.stderr or open(os.devnull, "w"), environ)  # noqa: SIM115  closed with the process
    sys.excepthook = log.crashed
    return log


def directives(text: str) -> tuple[dict[str, int], list[str]]:
    """Levels by logger, "" for all of ours; and what is not understood."""
    levels: dict[str, int] = {}
    unknown = []
    text, slash, pattern = text[:1000].partition("/")
    if slash:
        unknown.append(f"the filter /{bounded(pattern, 40)}")
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, word = part.rpartition("=")
        level = _OF_AZIOT_LOG.get(word.strip().lower())
        name = name.strip().replace("::", ".")
        if level is None and not equals and _is_ours(part):
            levels[part.replace("::", ".")] = logging.DEBUG
        elif level is None or (name and not _is_ours(name)):
            unknown.append(bounded(part, 60))
        else:
            levels[name] = level
    return levels, unknown


def _is_ours(name: str) -> bool:
    return name.replace("::", ".").split(".")[0] in OURS


# --- one line ----------------------------------------------------------------------------------------


def facts_of(record: logging.LogRecord) -> dict[str, Fact]:
    """What a line says, in order."""
    facts: dict[str, Fact] = {
        "time": rfc3339(int(record.created * 1000)),
        "level": _level(record.levelno),
        "msg": _text(record.getMessage()),
    }
    journalled = getattr(record, "journalled", None)
    if isinstance(journalled, Record):
        facts |= _of_record(journalled)
    if record.exc_info is not None and record.exc_info[1] is not None:
        kind, exc, trace = record.exc_info
        facts["error"] = _text("".join(traceback.format_exception_only(kind, exc)).strip())
        facts["trace"] = _trace("".join(traceback.format_exception(kind, exc, trace)))
    return facts


def _of_record(record: Record) -> dict[str, Fact]:
    # The instant, the sequence and the position are members of their own.
    *_, words = tell(record).split(maxsplit=3)
    event = record.event
    facts: dict[str, Fact] = {
        "msg": _text(words),
        "sequence": record.sequence,
        "state": record.state,
        "phase": record.phase,
        "event": tag_of(event),
    }
    if isinstance(event, Failure):
        facts |= {"class": event.failure_class, "code": event.code}
    return facts


def logfmt(facts: Mapping[str, Fact]) -> str:
    """Values with a space, a quote or an unprintable character are quoted, and escaped as in JSON."""
    return " ".join(f"{name}={_logfmt_value(value)}" for name, value in facts.items())


def json_line(facts: Mapping[str, Fact]) -> str:
    """ASCII only, so that no locale can spoil it."""
    return json.dumps(facts, separators=(",", ":")).replace("\x7f", "\\u007f")


_BARE = re.compile(r'[^\s"=\\]+')


def _logfmt_value(value: Fact) -> str:
    text = str(value)
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else json.dumps(character)[1:-1].replace("\x7f", "\\u007f")


def _text(text: str) -> str:
    # Twice: a secret that was cut in half does not look like one any more.
    text = without_secrets(text[: 4 * MAX_VALUE_CHARS])
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"


def _trace(text: str) -> str:
    text = without_secrets(text[-4 * MAX_TRACE_CHARS :])
    return text if len(text) <= MAX_TRACE_CHARS else "…" + text[1 - MAX_TRACE_CHARS :]


def _level(number: int) -> str:
    return next((name for name, least in LEVELS.items() if number >= least), "debug")


def _priority(number: int) -> int:
    """As syslog(3) counts."""
    if number >= logging.CRITICAL:
        return 2
    return {"error": 3, "warn": 4, "info": 6, "debug": 7}[_level(number)]


_FORMS = {"logfmt": logfmt, "json": json_line}


class _Handler(logging.StreamHandler[TextIO]):
    """Nothing that a caller passed wrongly, or that a stream refuses, is printed in another way."""

    def __init__(self, stream: TextIO, *, priorities: bool) -> None:
        super().__init__(stream)
        self.form = "logfmt"
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        line = _FORMS[self.form](facts_of(record))
        return f"<{_priority(record.levelno)}>{line}" if self._priorities else line

    def handleError(self, record: logging.LogRecord) -> None:
        # The library would print the arguments, which nobody has looked at.
        try:
            facts: dict[str, Fact] = {
                "time": rfc3339(int(record.created * 1000)),
                "level": "error",
                "msg": f"a line of {record.name} could not be written: {_kind_of_failure()}",
            }
            self.stream.write(_FORMS[self.form](facts) + self.terminator)
        except (OSError, ValueError):
            pass  # nobody reads it any more; the service goes on


def _kind_of_failure() -> str:
    kind = sys.exc_info()[0]
    return "unknown" if kind is None else kind.__name__


def _is_journal(stream: TextIO, journal_stream: str) -> bool:
    """Whether ``stream`` is what systemd connected to its journal: device and inode are the same."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"
