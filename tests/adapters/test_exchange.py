"""How often one exchange is repeated, and which of its errors is told."""

import pytest
import trio

from adapters.driven.exchange import with_retries
from adapters.errors import AdapterError, PeerProtocolError, PeerUnreachable
from adapters.wire.http_client import HttpAnswer

OFFLINE = PeerUnreachable("nobody there", code="unreachable")
OFFLINE.unsent = True
SLOW = PeerUnreachable("no answer", code="timeout")
BROKEN = PeerProtocolError("broke", code="connection-broken")
UNTRUSTED = AdapterError("who are you", code="tls-untrusted", failure_class="operator")
UNTRUSTED.unsent = True
ANSWER = HttpAnswer(status=200, headers={}, body=b"")


def exchange(*outcomes, retries):
    left = list(outcomes)

    async def send():
        outcome = left.pop(0)
        if isinstance(outcome, AdapterError):
            raise outcome
        return outcome

    try:
        return trio.run(with_retries, send, retries), len(left)
    except AdapterError as exc:
        return exc, len(left)


@pytest.mark.parametrize(
    ("outcomes", "retries", "told"),
    [
        ((ANSWER,), 0, ANSWER),
        ((OFFLINE, ANSWER), 1, ANSWER),
        ((BROKEN, SLOW, ANSWER), 2, ANSWER),
        ((OFFLINE,), 0, OFFLINE),
        ((OFFLINE, OFFLINE), 1, OFFLINE),
        ((SLOW, OFFLINE), 1, SLOW),
        ((OFFLINE, BROKEN, OFFLINE), 2, BROKEN),
        ((OFFLINE, SLOW), 1, SLOW),
        ((UNTRUSTED,), 3, UNTRUSTED),
        ((OFFLINE, UNTRUSTED), 3, UNTRUSTED),
        ((SLOW, UNTRUSTED), 3, SLOW),
    ],
)
def test_repeats(outcomes, retries, told):
    assert exchange(*outcomes, retries=retries) == (told, 0)
