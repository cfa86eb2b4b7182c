"""The request pipeline that the original's services share, in its order (reference/services.md §2).

api-version, path, method, body, and only then the work: the order can be told from the status codes. A
service is a table of routes; what differs between services is in the table and in how it words errors.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct

from adapters.errors import AdapterError, bounded
from adapters.wire.http_server import Handler, Request, Response, error_response

JSON = "application/json"
NOBODY = -1
"The uid of a caller whose credentials are not known; nothing is granted to it."

_PARAMETER = re.compile(r"\{[^}]*\}")


class Call(Struct, frozen=True, kw_only=True):
    """One request that found its route, with what the route asked for."""

    uid: int
    "Of the peer, by SO_PEERCRED."
    parameters: tuple[str, ...] = ()
    "Path parameters, percent-decoded, never empty."
    query: tuple[tuple[str, str], ...] = ()
    "In order, ``api-version`` left out."
    body: Any = None
    "An instance of the method's ``body``; None when it has none."

    def first(self, name: str) -> str | None:
        """The first value of that query parameter."""
        return next((value for key, value in self.query if key == name), None)


Work = Callable[[Call], Awaitable[Response]]


class Method(Struct, frozen=True):
    """What a method of a route does."""

    work: Work
    body: type[Struct] | None = None
    "Bound before ``work`` is called; None ignores a body, which must still be JSON."


class Route(Struct, frozen=True):
    """One path, with `{…}` for each parameter."""

    path: str
    methods: Mapping[str, Method]
    since: str = ""
    "The first api-version that has it; earlier ones do not see it."


Refuse = Callable[[AdapterError, Call], Response]
"How a service words what an adapter refused or could not do."


class _Failed(Exception):
    """The pipeline's own answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.response = error_response(status, message)


def api_handler(versions: Sequence[str], routes: Sequence[Route], refuse: Refuse) -> Handler:
    """The handler of one service. ``versions`` are all it knows; routes are tried in order."""
    compiled = [(_pattern(route.path), route) for route in routes]

    async def handle(request: Request) -> Response:
        try:
            pairs = request.query_pairs
            version = _version(pairs, versions)
            route, parameters = _route(request.path, version, compiled)
            method = route.methods.get(request.method)
            body = _body(request, method)
        except _Failed as failed:
            return failed.response
        assert method is not None
        uid = NOBODY if request.peer.uid is None else request.peer.uid
        query = tuple(pair for pair in pairs if pair[0] != "api-version")
        call = Call(uid=uid, parameters=parameters, query=query, body=body)
        try:
            return await method.work(call)
        except AdapterError as exc:
            return refuse(exc, call)

    return handle


def json_response(value: object, status: int = 200) -> Response:
    """Compact JSON."""
    return Response(status, msgspec.json.encode(value))


def parameter_response(parameter: str, cause: str) -> Response:
    """400 in the original's words for a parameter that does not do."""
    return error_response(400, f'parameter "{parameter}" has an invalid value\ncaused by: {bounded(cause)}')


def _pattern(path: str) -> re.Pattern[str]:
    literal = [re.escape(part) for part in _PARAMETER.split(path)]
    return re.compile("([^/]+)".join(literal))


def _version(pairs: list[tuple[str, str]], versions: Sequence[str]) -> str:
    found = next((value for name, value in reversed(pairs) if name == "api-version"), None)
    if found is None:
        raise _Failed(400, "api-version not specified")
    if found not in versions:
        raise _Failed(400, f'invalid api-version "{bounded(found, 100)}"')
    return found


def _route(
    path: str, version: str, compiled: Sequence[tuple[re.Pattern[str], Route]]
) -> tuple[Route, tuple[str, ...]]:
    for pattern, route in compiled:
        matched = pattern.fullmatch(path)
        # Versions are dates: as text they compare as they should.
        if matched is None or version < route.since:
            continue
        try:
            return route, tuple(unquote_to_bytes(raw).decode() for raw in matched.groups())
        except UnicodeDecodeError:
            continue
    raise _Failed(404, "not found")


def _body(request: Request, method: Method | None) -> object:
    """The bound body. Raises _Failed, also for a method that the route does not have."""
    content: bytes | None = None
    if request.method in ("PUT", "POST", "DELETE"):
        kind = request.header("content-type")
        is_json = kind is None or kind.partition(";")[0].strip() == JSON
        if request.method == "PUT" and not is_json:
            raise _Failed(415, "request body must be application/json")
        if request.method == "PUT" or (is_json and request.body):
            content = request.body
            _decode(content, msgspec.Raw)
    if method is None:
        raise _Failed(400, "method not allowed")
    if method.body is None:
        return None
    if content is None:
        raise _Failed(400, "missing request body")
    bound = _decode(content, method.body)
    _refuse_duplicates(content)
    return bound


def _decode(content: bytes, kind: type[Any]) -> object:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        _unprocessable(exc)


def _refuse_duplicates(content: bytes) -> None:
    """msgspec takes the last of two members; the original takes neither, so nobody can hide one."""
    try:
        json.loads(content, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as exc:
        _unprocessable(exc)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate field `{bounded(twice, 60)}`")
    return members


def _unprocessable(exc: Exception) -> NoReturn:
    text = "nested too deeply" if isinstance(exc, RecursionError) else bounded(str(exc), 200)
    raise _Failed(422, text) from exc
