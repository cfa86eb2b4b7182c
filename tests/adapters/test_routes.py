"""The request pipeline of services.md §2, row by row, over a real Unix socket."""

import json
from collections.abc import Mapping

import pytest
import trio
from msgspec import Struct

from adapters.driving.routes import Call, Method, Route, api_handler, json_response, parameter_response
from adapters.errors import RequestRefused
from adapters.wire.http_server import Request
from tests.adapters.unix_peer import serving

OLD, NEW = "2020-09-01", "2021-12-01"
JSON = {"content-type": "application/json"}
CHARSET = {"content-type": "application/json; charset=utf-8"}
REFUSED = 'parameter "id" has an invalid value\ncaused by: there is none'


class Named(Struct, frozen=True):
    """A body with a required, a binary and an optional member."""

    name: str
    data: bytes = b""
    note: str | None = None


async def _tell(call: Call):
    body = None if call.body is None else {"name": call.body.name, "note": call.body.note}
    return json_response({"parameters": call.parameters, "query": call.query, "body": body})


async def _refuse_all(call: Call):
    raise RequestRefused("there is none", code="not-found", parameter="id")


ROUTES = (
    Route("/things", {"POST": Method(_tell, Named)}),
    Route("/things/{id}", {"GET": Method(_tell), "PUT": Method(_tell, Named), "DELETE": Method(_tell)}),
    Route("/things/{id}/new", {"GET": Method(_tell)}, since=NEW),
    Route("/refused", {"GET": Method(_refuse_all)}),
    Route("/{id}", {"GET": Method(_tell)}),
)
HANDLER = api_handler((OLD, NEW), ROUTES, lambda exc, call: parameter_response("id", exc.message))


def ask(tmp_path, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None):
    """Status and decoded body of one request over a socket of its own."""

    async def main():
        path = str(tmp_path / "s.sock")
        lines = [f"{method} {target} HTTP/1.1", "host: s.sock", "connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"content-length: {len(body)}"] if body or method in ("PUT", "POST") else []
        async with serving(path, HANDLER), await trio.open_unix_socket(path) as stream:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)
            return b"".join([chunk async for chunk in stream])

    head, _, payload = trio.run(main).partition(b"\r\n\r\n")
    assert b"content-type: application/json\r\n" in head + b"\r\n"
    return int(head.split()[1]), json.loads(payload)


def versioned(path: str, version: str = OLD) -> str:
    return f"{path}?api-version={version}"


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "status", "message"),
    [
        # api-version comes before everything
        ("GET", "/nope/nope", b"", {}, 400, "api-version not specified"),
        ("GET", "/things/x?API-VERSION=2020-09-01", b"", {}, 400, "api-version not specified"),
        ("GET", "/nope/x?api-version=1", b"", {}, 400, 'invalid api-version "1"'),
        ("GET", "/things/x?api-version=", b"", {}, 400, 'invalid api-version ""'),
        ("GET", versioned("/things/x") + "&api-version=bogus", b"", {}, 400, 'invalid api-version "bogus"'),
        # then the path, exactly
        ("GET", versioned("/nope/x"), b"", {}, 404, "not found"),
        ("GET", versioned("/things/x/"), b"", {}, 404, "not found"),
        ("GET", versioned("/Things/x"), b"", {}, 404, "not found"),
        ("GET", versioned("/things//new"), b"", {}, 404, "not found"),
        ("GET", versioned("/things/%FF"), b"", {}, 404, "not found"),
        ("GET", versioned("/things/x/new"), b"", {}, 404, "not found"),
        # then the method, after the body that it would have had
        ("PATCH", versioned("/things/x"), b"", {}, 400, "method not allowed"),
        ("OPTIONS", versioned("/things/x"), b"", {}, 400, "method not allowed"),
        ("GET", versioned("/things"), b"", {}, 400, "method not allowed"),
        ("POST", versioned("/things/x"), b"", {}, 400, "method not allowed"),
        ("POST", versioned("/things/x"), b"{}", JSON, 400, "method not allowed"),
        ("POST", versioned("/things/x"), b"{", JSON, 422, None),
        ("PUT", versioned("/things"), b"", JSON, 422, None),
        ("PUT", versioned("/things"), b"", {}, 422, None),
        ("PUT", versioned("/things"), b"x", {"content-type": "text/plain"}, 415, None),
        # then the body
        ("POST", versioned("/things"), b"", JSON, 400, "missing request body"),
        (
            "POST",
            versioned("/things"),
            b'{"name":"a"}',
            {"content-type": "text/plain"},
            400,
            "missing request body",
        ),
        ("PUT", versioned("/things/x"), b"x", {"content-type": "text/plain"}, 415, None),
        ("PUT", versioned("/things/x"), b"", JSON, 422, None),
        ("POST", versioned("/things"), b"{}", JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":1}', JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":"a","name":"b"}', JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":"a","other":{"x":1,"x":2}}', JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":"a","data":"AAA"}', JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":"a","data":"A-_="}', JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":"a","data":"AA\\nAA"}', JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":"a"} x', JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":"\xff"}', JSON, 422, None),
        ("POST", versioned("/things"), b'{"name":"a","deep":' + b"[" * 100_000, JSON, 422, None),
        ("DELETE", versioned("/things/x"), b"{", JSON, 422, None),
        # and last the work
        ("GET", versioned("/refused"), b"", {}, 400, REFUSED),
    ],
)
def test_refusals_in_the_original_order(tmp_path, method, target, body, headers, status, message):
    found, answer = ask(tmp_path, method, target, body, headers)
    assert found == status
    assert list(answer) == ["message"]
    assert 0 < len(answer["message"]) < 400
    if message is not None:
        assert answer["message"] == message


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "parameters"),
    [
        ("GET", "/things/x?api-version=bogus&api-version=2020-09-01", b"", {}, ["x"]),
        ("GET", versioned("/things/a%20b%2Fc"), b"", {}, ["a b/c"]),
        ("GET", versioned("/things/%24edgeAgent"), b"", {}, ["$edgeAgent"]),
        ("GET", versioned("/things/$edgeAgent"), b"", {}, ["$edgeAgent"]),
        ("GET", versioned("/things/.."), b"", {}, [".."]),
        ("GET", versioned("/things/x/new", NEW), b"", {}, ["x"]),
        ("GET", versioned("/short"), b"", {}, ["short"]),
        ("GET", versioned("/things/x"), b"not json", JSON, ["x"]),
        ("DELETE", versioned("/things/x"), b"", {}, ["x"]),
        ("DELETE", versioned("/things/x"), b"{", {"content-type": "text/plain"}, ["x"]),
        ("POST", versioned("/things"), b'{"name":"a"}', JSON, []),
        ("POST", versioned("/things"), b'{"name":"a"}', {}, []),
        ("POST", versioned("/things"), b'{"name":"a"}', CHARSET, []),
        ("POST", versioned("/things"), b' {"name":"a","note":null,"unknown":[1]} ', JSON, []),
        ("PUT", versioned("/things/x"), b'{"name":"a"}', {}, ["x"]),
    ],
)
def test_what_is_served(tmp_path, method, target, body, headers, parameters):
    status, answer = ask(tmp_path, method, target, body, headers)
    assert (status, answer["parameters"]) == (200, parameters)


def test_other_query_parameters_are_kept_in_order_and_the_first_is_found():
    call = Call(uid=0, query=(("type", "aziot"), ("x", "1"), ("type", "local")))
    assert (call.first("type"), call.first("x"), call.first("y")) == ("aziot", "1", None)


def test_a_caller_without_credentials_is_nobody():
    seen = []

    async def look(call: Call):
        seen.append(call.uid)
        return json_response({})

    handler = api_handler((OLD,), [Route("/x", {"GET": Method(look)})], lambda exc, call: json_response({}))
    answer = trio.run(handler, Request("GET", versioned("/x")))
    assert (answer.status, seen) == (200, [-1])
