"""Seeded chance on what a peer says: bytes, lines of HTTP, values of JSON, certificates in their base64.

Mutations that keep an answer well-formed reach what lies behind the parsers: after a change of the body its
length is put right, most of the time.
"""

import base64
import binascii
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.fuzz.inputs import ENDINGS, PIECES, TARGETS, Input

MAX_BYTES = 64 * 1024
HUGE_BYTES = 5 * 1024 * 1024
"More than any answer may have."

TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\x00",
    b"\xff\xfe",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0 401 No\r\n",
    b"transfer-encoding: chunked\r\n",
    b"content-length: 0\r\n",
    b"content-length: 99999999999\r\n",
    b"content-encoding: gzip\r\n",
    b"connection: close\r\n",
    b"retry-after: 99999999999999999999\r\n",
    b"retry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\n",
    b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
    b"date: Mon, 31 Feb 2026 99:99:99 GMT\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"@AUTHORIZATION@",
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
    b"404001",
    b'"\\ud800"',
    b"\xf4\x90\x80\x80",
)
VALUES: Sequence[Any] = (
    None,
    True,
    0,
    -1,
    1e308,
    2**63,
    10**40,
    "",
    " ",
    "\u0000",
    "\u202e\u2028",
    "\U0001f600" * 50,
    "x" * 5_000,
    "..",
    "a/b?c#d",
    "@AUTHORIZATION@",
    "assigned",
    "assigning",
    "failed",
    "disabled",
    "hub.example",
    "localhost:65536",
    "Device sent CSR but it is not configured in the service.",
    400000,
    "404001",
    401002,
    [],
    {},
    [[]],
    {"certificates": [{"certificate": 5}]},
    {"certificates": []},
)
NAMES = (
    "operationId",
    "status",
    "registrationState",
    "assignedHub",
    "deviceId",
    "substatus",
    "errorCode",
    "errorMessage",
    "code",
    "message",
    "Message",
    "ErrorCode",
    "ExceptionMessage",
    "trackingId",
    "issuedClientCertificate",
    "issuedCertificateChain",
    "trustBundle",
    "deviceCertificateIssuanceSettings",
    "networkError",
)

_HEAD = re.compile(rb"\A(.*?\r\n\r\n)(.*)\Z", re.S)
_LENGTH = re.compile(rb"(?im)^content-length:[^\r\n]*")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")


class Mutator:
    """One source of chance: the same seed gives the same inputs."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._ways: tuple[Callable[[bytes, bytes], bytes], ...] = (
            self._bytes,
            self._lines,
            self._json,
            self._json,
            self._certificate,
            self._splice,
        )

    def next(self, pool: Sequence[Input]) -> Input:
        """Something made of something in the pool."""
        chance = self._chance
        given, other = chance.choice(pool), chance.choice(pool)
        data = given.data
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            data = chance.choice(self._ways)(data, other.data)[:MAX_BYTES]
        if chance.random() < 0.0005:
            data += b"x" * HUGE_BYTES
        target, ending, piece = given.target, given.ending, given.piece
        if chance.random() < 0.1:
            target = chance.choice(TARGETS)
        if chance.random() < 0.1:
            ending, piece = chance.choice(ENDINGS), chance.choice(PIECES)
        if piece == 1 and len(data) > 4_096:
            piece = 100
        return Input(target, data, ending, piece)

    # --- bytes ---------------------------------------------------------------------------------------

    def _bytes(self, data: bytes, _: bytes) -> bytes:
        chance = self._chance
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 8, 64)))
        match chance.randrange(6):
            case 0:
                return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
            case 1:
                return data[:at] + data[end:]
            case 2:
                return data[:at] + data[at:end] * chance.choice((2, 2, 50)) + data[end:]
            case 3:
                return data[:at] + chance.choice(TOKENS) + data[at:]
            case 4:
                return data[:at]
            case _:
                return data[:at] + chance.randbytes(chance.randrange(1, 16)) + data[at:]

    def _splice(self, data: bytes, other: bytes) -> bytes:
        return data[: self._chance.randrange(len(data) + 1)] + other[self._chance.randrange(len(other) + 1) :]

    # --- HTTP ----------------------------------------------------------------------------------------

    def _lines(self, data: bytes, other: bytes) -> bytes:
        """A header more, less or twice, or another status."""
        chance = self._chance
        head, body = _split(data)
        lines = head.split(b"\r\n")
        at = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                lines.insert(at, lines[chance.randrange(len(lines))])
            case 1:
                del lines[at]
            case 2:
                status = chance.choice((200, 202, 204, 301, 400, 401, 403, 404, 409, 429, 500, 503, 599, 999))
                lines[0] = b"HTTP/1.1 %d X" % status
            case _:
                lines.insert(at, chance.choice(TOKENS).strip())
        return b"\r\n".join(lines) + body

    def _with_body(self, data: bytes, body: bytes) -> bytes:
        """The length put right, most of the time."""
        head = _split(data)[0]
        if self._chance.random() < 0.95:
            head = _LENGTH.sub(b"content-length: %d" % len(body), head)
        return head + body

    # --- JSON ----------------------------------------------------------------------------------------

    def _json(self, data: bytes, other: bytes) -> bytes:
        """One value replaced, removed, added, or taken from elsewhere."""
        chance = self._chance
        try:
            document = json.loads(_split(data)[1])
        except (ValueError, RecursionError):
            return self._bytes(data, other)
        places = list(_places(document))
        if not places:
            return self._with_body(data, json.dumps(chance.choice(VALUES)).encode())
        container, key = chance.choice(places)
        match chance.randrange(4):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[chance.choice(NAMES)] = chance.choice(VALUES)
            case 2:
                container[key] = [container[key]] * chance.choice((1, 2, 20))
            case _:
                container[key] = chance.choice(VALUES)
        text = json.dumps(document, ensure_ascii=chance.random() < 0.5)
        return self._with_body(data, text.encode(errors="surrogatepass"))

    # --- certificates --------------------------------------------------------------------------------

    def _certificate(self, data: bytes, other: bytes) -> bytes:
        """Some bytes of the DER, behind the base64."""
        chance = self._chance
        head, body = _split(data)
        # In a text of JSON the line ends of PEM are two characters each.
        flat = body.replace(b"\\n", b"")
        found = list(_BASE64.finditer(flat))
        if not found:
            return self._json(data, other)
        block = chance.choice(found)
        try:
            der = bytearray(base64.b64decode(block[0]))
        except binascii.Error:
            return self._bytes(data, other)
        for _ in range(chance.choice((1, 1, 2, 5))):
            der[chance.randrange(len(der))] = chance.randrange(256)
        if chance.random() < 0.2:
            del der[chance.randrange(len(der)) :]
        flat = flat[: block.start()] + base64.b64encode(bytes(der)) + flat[block.end() :]
        for edge in (b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"):
            flat = flat.replace(edge, b"\\n" + edge + b"\\n")
        return self._with_body(head + body, flat)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Head with its empty line, and body."""
    found = _HEAD.match(data)
    return (found[1], found[2]) if found else (b"", data)


def _places(value: Any) -> Any:
    """Every container with each of its keys or indexes."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
