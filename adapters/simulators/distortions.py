"""What a fault does to an answer that was right: the bytes of it, where they stop, and when."""

import gzip
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import msgspec
import trio
from msgspec import structs

from adapters.simulators.faults import Fault, Place
from adapters.wire.http_server import Response, http_date

HUGE_BYTES = 4 * 1024 * 1024
HUGE_HEADER_BYTES = 1024 * 1024
STALL_S = 3600.0


def retry_after(fault: Fault, now_unix_s: float) -> tuple[tuple[str, str], ...]:
    """The Retry-After header a `status` fault asks for."""
    if fault.retry_after_date is not None:
        return (("retry-after", http_date(int(now_unix_s) + fault.retry_after_date)),)
    if fault.retry_after is not None:
        return (("retry-after", str(fault.retry_after)),)
    return ()


def date(fault: Fault, now_unix_s: float) -> tuple[tuple[str, str], ...]:
    """The Date header a fault asks for."""
    if fault.text is not None:
        return (("date", fault.text),)
    if fault.seconds is not None:
        return (("date", http_date(int(now_unix_s + fault.seconds))),)
    return ()


async def distort(fault: Fault | None, response: Response, now_unix_s: float) -> Response:
    """The answer as it leaves when the fault is one of transport; the same answer otherwise."""
    distortion = _DISTORTIONS.get(fault.kind) if fault is not None else None
    if fault is None or distortion is None:
        return response
    if fault.kind == "stall" and fault.where in (None, "head"):
        await trio.sleep(STALL_S if fault.seconds is None else fault.seconds)
        return response
    return distortion(fault, response, now_unix_s)


# --- where -------------------------------------------------------------------------------------------


def _head(response: Response, framing: tuple[tuple[str, str], ...], now_unix_s: float) -> bytes:
    """The bytes before the body. Status line and content type first: there a place can be named."""
    phrase = HTTPStatus(response.status).phrase
    lines = [f"HTTP/1.1 {response.status} {phrase}", f"content-type: {response.content_type}"]
    lines.append(f"date: {http_date(int(now_unix_s))}")
    lines += [f"{name}: {value}" for name, value in (*framing, *response.headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _whole(response: Response, now_unix_s: float) -> tuple[bytes, int]:
    """The answer as bytes, and how many of them are its head."""
    head = _head(response, (("content-length", str(len(response.body))),), now_unix_s)
    return head + response.body, len(head)


def _offset(place: Place, content: bytes, head_bytes: int) -> int:
    """How many bytes come before that place."""
    match place:
        case "head":
            return 0
        case "status_line":
            return len(b"HTTP/1.1 2")
        case "headers":
            return content.index(b"\r\n", content.index(b"\r\n") + 2) + 2
        case "body_start":
            return head_bytes
        case "body":
            return (head_bytes + len(content)) // 2
        case "last_byte":
            return len(content) - 1


async def _bytes(*parts: bytes, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    """Each part at once, with a pause between two."""
    for number, part in enumerate(parts):
        if number:
            await trio.sleep(pause_s)
        yield part


def _raw(response: Response, *parts: bytes, reset: bool = False, pause_s: float = 0.0) -> Response:
    return structs.replace(response, raw=_bytes(*parts, pause_s=pause_s), abort_after=0 if reset else None)


# --- what --------------------------------------------------------------------------------------------


def _stall(fault: Fault, response: Response, now_unix_s: float) -> Response:
    content, head_bytes = _whole(response, now_unix_s)
    at = _offset(fault.where or "head", content, head_bytes)
    pause_s = STALL_S if fault.seconds is None else fault.seconds
    return _raw(response, content[:at], content[at:], pause_s=pause_s)


def _reset(fault: Fault, response: Response, now_unix_s: float) -> Response:
    if fault.where is None:
        after = len(response.body) // 2 if fault.bytes is None else fault.bytes
        return structs.replace(response, abort_after=after)
    content, head_bytes = _whole(response, now_unix_s)
    return _raw(response, content[: _offset(fault.where, content, head_bytes)], reset=True)


def _cut(fault: Fault, response: Response, now_unix_s: float) -> Response:
    content, head_bytes = _whole(response, now_unix_s)
    return _raw(response, content[: _offset(fault.where or "body", content, head_bytes)])


def _replace(fault: Fault, response: Response, _: float) -> Response:
    return _raw(response, (fault.text or "").encode("latin-1"))


def _garbage(_: Fault, response: Response, __: float) -> Response:
    return structs.replace(response, body=b"\x00\xff{{ garbage")


def _huge(fault: Fault, response: Response, _: float) -> Response:
    padding = b"x" * (HUGE_BYTES if fault.bytes is None else fault.bytes)
    return structs.replace(response, body=b'{"padding":"' + padding + b'"}')


def _nest(fault: Fault, response: Response, _: float) -> Response:
    return structs.replace(response, body=b"[" * fault.depth + b"]" * fault.depth)


def _huge_header(fault: Fault, response: Response, now_unix_s: float) -> Response:
    # Not through the server's own parser, which has a limit of its own.
    padding = "x" * (HUGE_HEADER_BYTES if fault.bytes is None else fault.bytes)
    padded = structs.replace(response, headers=(*response.headers, ("x-padding", padding)))
    return _raw(response, _whole(padded, now_unix_s)[0])


def _gzip(_: Fault, response: Response, __: float) -> Response:
    headers = (*response.headers, ("content-encoding", "gzip"))
    return structs.replace(response, body=gzip.compress(response.body, mtime=0), headers=headers)


def _bad_chunk(_: Fault, response: Response, now_unix_s: float) -> Response:
    head = _head(response, (("transfer-encoding", "chunked"),), now_unix_s)
    half = response.body[: len(response.body) // 2]
    return _raw(response, head + b"%x\r\n%b\r\n" % (len(half), half) + b"not a size\r\n")


def _wrong_length(fault: Fault, response: Response, now_unix_s: float) -> Response:
    stated = len(response.body) + (1 if fault.bytes is None else fault.bytes)
    head = _head(response, (("content-length", str(stated)),), now_unix_s)
    return _raw(response, head + response.body)


def _mislabel(fault: Fault, response: Response, _: float) -> Response:
    return structs.replace(response, content_type=fault.content_type)


def _change(fault: Fault, response: Response, _: float) -> Response:
    body: dict[str, Any] = msgspec.json.decode(response.body)
    body |= fault.members
    state = body.get("registrationState")
    if isinstance(state, dict):
        state |= fault.state
    for name in fault.without:
        body.pop(name, None)
        if isinstance(state, dict):
            state.pop(name, None)
    return structs.replace(response, body=msgspec.json.encode(body))


def _put_off(fault: Fault, response: Response, now_unix_s: float) -> Response:
    kept = tuple(header for header in response.headers if header[0] != "retry-after")
    return structs.replace(response, headers=(*kept, *retry_after(fault, now_unix_s)))


def _misdate(fault: Fault, response: Response, now_unix_s: float) -> Response:
    return structs.replace(response, headers=(*response.headers, *date(fault, now_unix_s)))


_DISTORTIONS: dict[str, Callable[[Fault, Response, float], Response]] = {
    "stall": _stall,
    "reset": _reset,
    "cut": _cut,
    "raw": _replace,
    "garbage": _garbage,
    "huge_body": _huge,
    "nested_json": _nest,
    "huge_header": _huge_header,
    "gzip": _gzip,
    "bad_chunk": _bad_chunk,
    "wrong_length": _wrong_length,
    "wrong_content_type": _mislabel,
    "members": _change,
    "date": _misdate,
    "retry_after": _put_off,
}
