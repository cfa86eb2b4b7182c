"""What a handler sees and what it answers. Where it came from and how it is framed is the server's."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class Peer(Struct, frozen=True, kw_only=True):
    """Who is at the other end, as the kernel or TLS vouch for it."""

    uid: int | None = None
    "With gid and pid from SO_PEERCRED, as of connect(). None on other than Unix sockets."
    gid: int | None = None
    pid: int | None = None
    certificate_der: bytes | None = None
    "The client's leaf certificate, verified by the listener's TLS context. None when it showed none."


class Request(Struct, frozen=True):
    """One complete request."""

    method: str
    target: str
    "As received: origin-form or absolute-form."
    headers: tuple[tuple[str, str], ...] = ()
    "Names in lower case, in order."
    body: bytes = b""
    peer: Peer = Peer()

    def __repr__(self) -> str:
        # Headers carry tokens, and bodies keys.
        return f"Request({self.method}, {len(self.body)} bytes)"

    @property
    def path(self) -> str:
        """The raw path, percent-encoding untouched, so that ``%2F`` stays inside its segment."""
        return _ABSOLUTE.sub("", self.target, count=1).partition("?")[0] or "/"

    @property
    def query_pairs(self) -> list[tuple[str, str]]:
        """The query as a form: ``+`` is a space, ``%XX`` decoded, invalid UTF-8 replaced."""
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    def query(self, name: str) -> str | None:
        """The last value under that name, None when there is none."""
        return next((value for key, value in reversed(self.query_pairs) if key == name), None)

    def header(self, name: str) -> str | None:
        """The first value of that header, None when there is none."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key == wanted), None)


class Response(Struct, frozen=True):
    """One answer. ``date`` and the framing headers are added unless ``headers`` has them."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    "Names in lower case."
    stream: AsyncIterator[bytes] | None = None
    """Sent instead of ``body``, each chunk as it comes; chunked, unless ``headers`` has a content-length.
    A reader that takes none of a chunk for ``write_s`` is dropped. An exception cuts the connection."""
    abort_after: int | None = None
    "Reset the connection after the head and this many bytes of ``body``. For stand-in peers."
    raw: AsyncIterator[bytes] | None = None
    """Sent as it is in place of all of this, after which the connection is closed; reset when ``abort_after``
    is given. For stand-in peers."""

    def __repr__(self) -> str:
        # Bodies carry keys and handles.
        return f"Response({self.status}, {len(self.body)} bytes)"


Handler = Callable[[Request], Awaitable[Response]]


def error_response(status: int, message: str) -> Response:
    """The error body of every socket: ``{"message": "…"}``."""
    return Response(status, msgspec.json.encode({"message": message}))
