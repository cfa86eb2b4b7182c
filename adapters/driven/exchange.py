"""Repeats of one HTTP exchange after a transport error."""

from collections.abc import Awaitable, Callable

import trio

from adapters.errors import AdapterError, PeerUnreachable
from adapters.wire.http_client import HttpAnswer

Send = Callable[[], Awaitable[HttpAnswer]]

Timed = Callable[[str, float], None]
"Told of each try: what it came to, an HTTP status or the code of its failure, and how many seconds it took."


def untimed(result: str, seconds: float) -> None:
    """Nobody wants to know."""


async def with_retries(send: Send, retries: int, timed: Timed = untimed) -> HttpAnswer:
    """Send, and again up to ``retries`` times while there is no answer.

    Any HTTP status ends it, as does whatever a repeat cannot mend (TLS trust, an answer too large).
    The error raised is the last one, unless only an earlier one says that the peer may have seen the request.
    """
    sent: AdapterError | None = None
    for left in range(retries, -1, -1):
        began = trio.current_time()
        try:
            answer = await send()
        except AdapterError as exc:
            timed(exc.code, trio.current_time() - began)
            repeatable = isinstance(exc, PeerUnreachable) or exc.code == "connection-broken"
            if not exc.unsent:
                sent = exc
            if left == 0 or not repeatable:
                raise sent or exc from exc.__cause__
        else:
            timed(str(answer.status), trio.current_time() - began)
            return answer
    raise AssertionError("the last try returns or raises")
