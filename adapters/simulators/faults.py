"""Faults as data: which request goes wrong, how, how often.

A file holds ``[[fault]]`` tables. Every request that would be served is offered to them in file order,
and the first that applies is taken; a request refused for its own faults is offered to none.

- ``on``: ``register``, ``operation`` or ``hub``. ``kind``: a row of ``KINDS``.
- ``after``: the first so many requests offered to this fault pass. Default 0.
- ``times``: applies to so many requests; without it, until the faults are replaced.

A kind that concerns the result applies to the poll that ends an operation, one that concerns the issued
chain only when there was a CSR.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec
import tomli
import trio
from msgspec import Struct, structs

from adapters.simulators.ca import FLAWS
from adapters.wire.http_server import Response, http_date

On = Literal["register", "operation", "hub"]
ALL: tuple[On, ...] = ("register", "operation", "hub")
HUGE_BYTES = 4 * 1024 * 1024
STALL_S = 3600.0
BUNDLES = ("present", "absent", "empty", "changed", "garbage")
_ERROR_KEYS = ("status", "error_code", "tracking_id", "message", "body", "retry_after", "retry_after_date")


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
        "retry_after_date: an HTTP date so many seconds ahead; body: a text sent as it is.",
        on=ALL,
        keys=_ERROR_KEYS,
    ),
    "stall": Kind(
        meaning="Works, then waits `seconds` before the head, or in the middle of the body "
        '(where = "head" or "body").',
        on=ALL,
        keys=("where", "seconds"),
    ),
    "reset": Kind(
        meaning="Works, then resets the connection after `bytes` of the body (default: half of it).",
        on=ALL,
        keys=("bytes",),
    ),
    "garbage": Kind(meaning="Works, then answers bytes that are not JSON.", on=ALL),
    "huge_body": Kind(meaning="Works, then answers JSON of `bytes`.", on=ALL, keys=("bytes",)),
    "wrong_content_type": Kind(
        meaning="Works; the right body is called `content_type`.", on=ALL, keys=("content_type",)
    ),
    "date": Kind(meaning="Works; the Date header is wrong by `seconds`.", on=ALL, keys=("seconds",)),
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
            meaning=f"The issued chain is {flaw.replace('_', ' ')}.",
            on=("operation",),
            keys=("seconds",) if flaw == "not_yet_valid" else (),
            needs="csr",
        )
        for flaw in FLAWS
    },
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
    where: Literal["head", "body"] = "head"
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
    if fault.kind == "date" and fault.seconds is None:
        yield "seconds is needed"
    if fault.kind != "date" and fault.seconds is not None and fault.seconds < 0:
        yield "seconds is not negative"
    if fault.bytes is not None and not 0 <= fault.bytes <= 1 << 30:
        yield "bytes is 0 to 1073741824"
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


# --- what a fault does to an answer ------------------------------------------------------------------


def retry_after(fault: Fault, now_unix_s: float) -> tuple[tuple[str, str], ...]:
    """The Retry-After header a `status` fault asks for."""
    if fault.retry_after_date is not None:
        return (("retry-after", http_date(int(now_unix_s) + fault.retry_after_date)),)
    if fault.retry_after is not None:
        return (("retry-after", str(fault.retry_after)),)
    return ()


async def distort(fault: Fault | None, response: Response, now_unix_s: float) -> Response:
    """The answer as it leaves when the fault is one of transport; the same answer otherwise."""
    distortion = _DISTORTIONS.get(fault.kind) if fault is not None else None
    if fault is None or distortion is None:
        return response
    if fault.kind == "stall" and fault.where == "head":
        await trio.sleep(STALL_S if fault.seconds is None else fault.seconds)
        return response
    return distortion(fault, response, now_unix_s)


def _stall(fault: Fault, response: Response, _: float) -> Response:
    half = len(response.body) // 2

    async def halves() -> AsyncIterator[bytes]:
        yield response.body[:half]
        await trio.sleep(STALL_S if fault.seconds is None else fault.seconds)
        yield response.body[half:]

    length = ("content-length", str(len(response.body)))
    return structs.replace(response, stream=halves(), headers=(*response.headers, length))


def _reset(fault: Fault, response: Response, _: float) -> Response:
    after = len(response.body) // 2 if fault.bytes is None else fault.bytes
    return structs.replace(response, abort_after=after)


def _garbage(_: Fault, response: Response, __: float) -> Response:
    return structs.replace(response, body=b"\x00\xff{{ garbage")


def _huge(fault: Fault, response: Response, _: float) -> Response:
    padding = b"x" * (HUGE_BYTES if fault.bytes is None else fault.bytes)
    return structs.replace(response, body=b'{"padding":"' + padding + b'"}')


def _mislabel(fault: Fault, response: Response, _: float) -> Response:
    return structs.replace(response, content_type=fault.content_type)


def _misdate(fault: Fault, response: Response, now_unix_s: float) -> Response:
    date = http_date(int(now_unix_s + (fault.seconds or 0)))
    return structs.replace(response, headers=(*response.headers, ("date", date)))


_DISTORTIONS: dict[str, Callable[[Fault, Response, float], Response]] = {
    "stall": _stall,
    "reset": _reset,
    "garbage": _garbage,
    "huge_body": _huge,
    "wrong_content_type": _mislabel,
    "date": _misdate,
}
