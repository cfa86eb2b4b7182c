"""Repeats of one HTTP exchange after a transport error."""

from collections.abc import Awaitable, Callable

from adapters.errors import AdapterError, PeerUnreachable
from adapters.wire.http_client import HttpAnswer

Send = Callable[[], Awaitable[HttpAnswer]]


async def with_retries(send: Send, retries: int) -> HttpAnswer:
    """Send, and again up to ``retries`` times while there is no answer.

    Any HTTP status ends it, as does whatever a repeat cannot mend (TLS trust, an answer too large).
    """
    for _ in range(retries):
        try:
            return await send()
        except AdapterError as exc:
            if not (isinstance(exc, PeerUnreachable) or exc.code == "connection-broken"):
                raise
    return await send()
