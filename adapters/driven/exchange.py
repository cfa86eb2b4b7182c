"""Repeats of one HTTP exchange after a transport error."""

from collections.abc import Awaitable, Callable

from adapters.errors import AdapterError, PeerUnreachable
from adapters.wire.http_client import HttpAnswer

Send = Callable[[], Awaitable[HttpAnswer]]


async def with_retries(send: Send, retries: int) -> HttpAnswer:
    """Send, and again up to ``retries`` times while there is no answer.

    Any HTTP status ends it, as does whatever a repeat cannot mend (TLS trust, an answer too large).
    The error raised is the last one, unless only an earlier one says that the peer may have seen the request.
    """
    sent: AdapterError | None = None
    for left in range(retries, -1, -1):
        try:
            return await send()
        except AdapterError as exc:
            repeatable = isinstance(exc, PeerUnreachable) or exc.code == "connection-broken"
            if not exc.unsent:
                sent = exc
            if left == 0 or not repeatable:
                raise sent or exc from exc.__cause__
    raise AssertionError("the last try returns or raises")
