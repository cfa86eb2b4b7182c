"""Faults as data: which connection or request goes wrong, how, how often.

A file holds ``[[fault]]`` tables. Every request that would be served is offered to them in file order,
and the first that applies is taken; a request refused for its own faults is offered to none.

- ``on``: ``register``, ``operation`` or ``hub``; or ``accept`` and ``handshake``, which are offered every
  connection, whoever makes it, before TLS and when TLS begins. ``kind``: a row of ``KINDS``.
- ``after``: the first so many offered to this fault pass. Default 0.
- ``times``: applies to so many; without it, until the faults are replaced.

A kind that concerns the result applies to the poll that ends an operation, one that concerns the issued
chain only when there was a CSR. What a kind does to the bytes of an answer is in ``distortions.py``, to a
connection in ``doors.py`` and ``contexts.py``. What devices make of each is in ``catalogue.py``.
"""

import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import msgspec
import tomli
from msgspec import Struct

from adapters.simulators.ca import FLAWS, SERVER_FLAWS

On = Literal["accept", "handshake", "register", "operation", "hub"]
ALL: tuple[On, ...] = ("register", "operation", "hub")
"Requests, not connections."
Place = Literal["head", "status_line", "headers", "body_start", "body", "last_byte"]
PLACES: tuple[Place, ...] = get_args(Place)
BUNDLES = ("present", "absent", "empty", "changed", "garbage")
ALERTS = tuple(one.name.removeprefix("ALERT_DESCRIPTION_").lower() for one in ssl.AlertDescription)
_ERROR_KEYS = (
    "status",
    "error_code",
    "tracking_id",
    "message",
    "body",
    "retry_after",
    "retry_after_date",
    "seconds",
)
_PLACES = ", ".join(PLACES)


class Kind(Struct, frozen=True, kw_only=True):
    """One way to go wrong."""

    meaning: str
    on: tuple[On, ...]
    keys: tuple[str, ...] = ()
    "Keys a fault of this kind may have, beside on, kind, after and times."
    needs: Literal["nothing", "result", "csr"] = "nothing"
    """`result`: only the poll that ends the operation. `csr`: only a registration with a CSR, and on an
    operation only its end."""


KINDS: dict[str, Kind] = {
    "status": Kind(
        meaning="Answers `status` instead of working. retry_after: seconds, or a text sent as it is; "
        "retry_after_date: an HTTP date so many seconds ahead; body: a text sent as it is; seconds: the Date "
        "header is wrong by so much.",
        on=ALL,
        keys=_ERROR_KEYS,
    ),
    "stall": Kind(
        meaning="Works, then waits `seconds` (an hour) before going on, at `where` of the answer: "
        f"{_PLACES}; default head, which is before the first byte. On accept nothing is said for so long.",
        on=("accept", *ALL),
        keys=("where", "seconds"),
    ),
    "reset": Kind(
        meaning="Works, then resets the connection: at `where` as for stall, or after `bytes` of the body "
        "(default: half of it). On accept at once.",
        on=("accept", *ALL),
        keys=("where", "bytes"),
    ),
    "cut": Kind(
        meaning="Works, then ends the connection without a word at `where`, as for reset (default: body).",
        on=("accept", *ALL),
        keys=("where",),
    ),
    "raw": Kind(
        meaning="Works, then sends `text` instead of an answer, each character one byte, and ends the "
        "connection. On accept without TLS.",
        on=("accept", *ALL),
        keys=("text",),
    ),
    "garbage": Kind(meaning="Works, then answers bytes that are not JSON.", on=ALL),
    "huge_body": Kind(meaning="Works, then answers JSON of `bytes`.", on=ALL, keys=("bytes",)),
    "nested_json": Kind(
        meaning="Works, then answers arrays in arrays, `depth` (100000) deep.", on=ALL, keys=("depth",)
    ),
    "huge_header": Kind(
        meaning="Works; the answer has one more header, `bytes` (1048576) long.", on=ALL, keys=("bytes",)
    ),
    "gzip": Kind(
        meaning="Works; the body is compressed with gzip, which nobody asked for, and says so.", on=ALL
    ),
    "bad_chunk": Kind(meaning="Works; the answer is chunked, and the second chunk has no size.", on=ALL),
    "wrong_length": Kind(
        meaning="Works; Content-Length is wrong by `bytes` (1), and the connection ends after the body.",
        on=ALL,
        keys=("bytes",),
    ),
    "wrong_content_type": Kind(
        meaning="Works; the right body is called `content_type`.", on=ALL, keys=("content_type",)
    ),
    "members": Kind(
        meaning="Works; members of the answer are replaced by those of `members`, of its registrationState "
        "by those of `state`, and those named in `without` are left out of both.",
        on=("register", "operation"),
        keys=("members", "state", "without"),
    ),
    "date": Kind(
        meaning="Works; the Date header is wrong by `seconds`, or is `text`.",
        on=ALL,
        keys=("seconds", "text"),
    ),
    "retry_after": Kind(
        meaning="Works; the answer has a Retry-After: retry_after and retry_after_date as for status.",
        on=ALL,
        keys=("retry_after", "retry_after_date"),
    ),
    "moved": Kind(
        meaning="Assigned to another hub, `hub` (default: this one as 127.0.0.1), with `substatus`.",
        on=("operation",),
        keys=("hub", "substatus"),
        needs="result",
    ),
    "csr_refused": Kind(
        meaning="The documented answer of an enrolment that issues no certificates.",
        on=("register", "operation"),
        needs="csr",
    ),
    "operation_vanishes": Kind(meaning="404; the operation is forgotten for good.", on=("operation",)),
    "failed": Kind(
        meaning="The operation ends as `failed`.",
        on=("operation",),
        keys=("error_code", "message", "tracking_id"),
        needs="result",
    ),
    "disabled": Kind(meaning="The operation ends as `disabled`.", on=("operation",), needs="result"),
    "no_certificate": Kind(meaning="Assigned, but without a chain.", on=("operation",), needs="csr"),
    "bundle": Kind(
        meaning=f"The trust bundle of this assignment is {', '.join(BUNDLES)}.",
        on=("operation",),
        keys=("bundle",),
        needs="result",
    ),
    "hub_refuses": Kind(
        meaning="The hub refuses the credential: code = 401 or 404001.", on=("hub",), keys=("code",)
    ),
    **{
        flaw: Kind(
            meaning=f"The issued chain: {meaning}.",
            on=("operation",),
            keys=("seconds",) if flaw == "not_yet_valid" else (),
            needs="csr",
        )
        for flaw, meaning in FLAWS.items()
    },
    "server_certificate": Kind(
        meaning="The server shows another certificate, by `flaw`: "
        + "; ".join(f"{flaw}, {meaning}" for flaw, meaning in SERVER_FLAWS.items())
        + ".",
        on=("handshake",),
        keys=("flaw",),
    ),
    "tls_alert": Kind(
        meaning="The server ends the handshake with `alert`, an alert of TLS by its name in RFC 8446.",
        on=("handshake",),
        keys=("alert",),
    ),
    "client_refused": Kind(
        meaning="The server trusts no client certificate, its own issuer's neither, and says so in an alert. "
        "`version`: no newer TLS than 1.2 or 1.3.",
        on=("handshake",),
        keys=("version",),
    ),
}


class Fault(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One ``[[fault]]``."""

    on: On
    kind: str
    after: int = 0
    times: int | None = None
    status: int | None = None
    error_code: int | None = None
    tracking_id: str | None = None
    message: str | None = None
    body: str | None = None
    retry_after: int | str | None = None
    retry_after_date: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    where: Place | None = None
    text: str | None = None
    depth: int = 100_000
    members: dict[str, Any] = {}
    state: dict[str, Any] = {}
    without: list[str] = []
    hub: str | None = None
    substatus: str = "deviceDataMigrated"
    flaw: str | None = None
    alert: str = "internal_error"
    version: Literal["1.2", "1.3"] = "1.3"
    content_type: str = "text/html"
    bundle: str = "absent"
    code: int = 401
    offered: int = 0
    "How many requests were offered to it; counted, not read."
    taken: int = 0
    "How many it was applied to; counted, not read."


_COMMON = ("on", "kind", "after", "times")


class FaultsInvalid(Exception):
    """Not faults; ``problems`` has one line for each mistake, with what would be valid."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def parse_faults(content: bytes) -> list[Fault]:
    """TOML, or JSON when it begins with ``{``. Raises FaultsInvalid with every problem."""
    try:
        text = content.decode()
        document = msgspec.json.decode(text) if text.lstrip().startswith("{") else tomli.loads(text)
    except (UnicodeDecodeError, msgspec.DecodeError, tomli.TOMLDecodeError, RecursionError) as exc:
        raise FaultsInvalid([f"neither TOML nor JSON: {exc}"]) from exc
    problems = [f"unknown key {key}, valid: fault" for key in document if key != "fault"]
    rows = document.get("fault", [])
    if not isinstance(rows, list):
        problems.append("fault is not an array of tables: write [[fault]]")
        rows = []
    faults = []
    for number, row in enumerate(rows, 1):
        try:
            faults.append(_fault(row))
        except FaultsInvalid as exc:
            problems += [f"fault {number}: {problem}" for problem in exc.problems]
    if problems:
        raise FaultsInvalid(problems)
    return faults


def _fault(row: object) -> Fault:
    if not isinstance(row, dict):
        raise FaultsInvalid(["not a table"])
    name = row.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise FaultsInvalid([f"unknown kind {name}, valid: {', '.join(KINDS)}"])
    if row.get("on") not in kind.on:
        raise FaultsInvalid([f"kind {name} is not for on = {row.get('on')}, valid: {', '.join(kind.on)}"])
    valid = (*_COMMON, *kind.keys)
    unknown = [key for key in row if key not in valid]
    if unknown:
        raise FaultsInvalid([f"unknown key {key}, valid for {name}: {', '.join(valid)}" for key in unknown])
    try:
        fault = msgspec.convert(row, Fault)
    except msgspec.ValidationError as exc:
        raise FaultsInvalid([str(exc)]) from exc
    problems = list(_value_problems(fault))
    if problems:
        raise FaultsInvalid(problems)
    return fault


def _value_problems(fault: Fault) -> Iterable[str]:
    if fault.after < 0 or (fault.times is not None and fault.times < 1):
        yield "after is at least 0, times at least 1"
    if fault.kind == "status" and not 200 <= (fault.status or 0) <= 599:
        yield "status is needed, 200 to 599"
    if fault.kind == "date" and (fault.seconds is None) == (fault.text is None):
        yield "seconds is needed, or text"
    if fault.kind == "raw" and fault.text is None:
        yield "text is needed"
    if fault.text is not None and any(ord(character) > 255 for character in fault.text):
        yield "each character of text is one byte, up to U+00FF"
    if fault.kind not in ("date", "status") and fault.seconds is not None and fault.seconds < 0:
        yield "seconds is not negative"
    if fault.bytes is not None and not (0 <= fault.bytes <= 1 << 30 or fault.kind == "wrong_length"):
        yield "bytes is 0 to 1073741824"
    if not 1 <= fault.depth <= 1_000_000:
        yield "depth is 1 to 1000000"
    if fault.where is not None and fault.on == "accept":
        yield "where is of an answer; on accept there is none"
    if fault.where is not None and fault.bytes is not None:
        yield "where or bytes, not both"
    if fault.kind == "server_certificate" and fault.flaw not in SERVER_FLAWS:
        yield f"unknown flaw {fault.flaw}, valid: {', '.join(SERVER_FLAWS)}"
    if fault.alert not in ALERTS:
        yield f"unknown alert {fault.alert}, valid: {', '.join(ALERTS)}"
    if fault.bundle not in BUNDLES:
        yield f"unknown bundle {fault.bundle}, valid: {', '.join(BUNDLES)}"
    if fault.code not in (401, 404001):
        yield "code is 401 or 404001"


class Faults:
    """The list in force."""

    def __init__(self, faults: list[Fault] | None = None) -> None:
        self._faults = faults or []

    def replace(self, faults: list[Fault]) -> None:
        """Counters start anew."""
        self._faults = faults

    def report(self) -> list[Mapping[str, Any]]:
        """As read, with the counters ``offered`` and ``taken``."""
        return [
            {**msgspec.to_builtins(fault), "offered": fault.offered, "taken": fault.taken}
            for fault in self._faults
        ]

    def take(self, on: On, *, csr: bool = False, final: bool = False) -> Fault | None:
        """The fault this request meets, counted. ``final``: it is the poll that ends an operation."""
        for fault in self._faults:
            kind = KINDS[fault.kind]
            if fault.on != on or not _concerns(kind, on, csr=csr, final=final):
                continue
            fault.offered += 1
            if fault.offered > fault.after and (fault.times is None or fault.taken < fault.times):
                fault.taken += 1
                return fault
        return None


def _concerns(kind: Kind, on: On, *, csr: bool, final: bool) -> bool:
    if kind.needs == "nothing":
        return True
    ends = final or on != "operation"
    return ends and (csr or kind.needs == "result")
