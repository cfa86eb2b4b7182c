"""Who may be connected, and whose requests are worked on: bounds in sum and for each uid.

What counts against a uid is its requests in flight, from the first byte of a head to the last of its
answer. A connection between requests holds nothing: when places run out, the one that has been idle
longest makes room. The original counts connections, so that ten idle ones shut out everybody of that uid
for ever (reference/services.md §1.5 and §10, row 3).
"""

import logging
import math
import select
from collections import Counter
from typing import Literal

import trio
from msgspec import Struct

TELL_EVERY_S = 10.0
"One log line for a uid and a limit; a client that is refused can try again thousands of times a second."

log = logging.getLogger(__name__)


class ServerLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one ``serve``. Seconds, bytes, and how many at once."""

    connections: int = 64
    "Open at once. Idle ones make room, the longest idle first; only then is a new one closed."
    connections_per_uid: int | None = None
    "The same for each uid. Unix sockets only. None bounds the sum alone."
    requests_per_uid: int | None = None
    "In flight at once. Unix sockets only. None is no bound, 0 serves nobody."
    when_busy: Literal["close", "503"] = "close"
    """What a request over ``requests_per_uid`` gets: the original's close without a word, or 503 with
    Retry-After, after which the connection is closed too."""
    body_bytes: int = 1_048_576
    head_bytes: int = 16_384
    idle_s: float = 60.0
    "Between requests, and before the first."
    head_s: float = 5.0
    "From the first byte of a head to its last."
    body_s: float = 5.0
    "The whole request body."
    write_s: float = 10.0
    "One write: a whole answer, or one chunk of a stream."
    handshake_s: float = 10.0


class Admission:
    """Keeps the counts of one ``serve``; they are 0 again when every client is gone."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._open: Counter[int | None] = Counter()
        self._working: Counter[int | None] = Counter()
        self._idle: dict[Place, None] = {}
        "Longest idle first."
        self._quiet_until: dict[tuple[int, str], float] = {}
        self.turned_away = 0
        "Connections and requests over a limit so far."

    @property
    def connections(self) -> int:
        """Admitted and not yet gone."""
        return self._open.total()

    @property
    def idle(self) -> int:
        """How many of them are between requests."""
        return len(self._idle)

    @property
    def requests(self) -> int:
        """In flight."""
        return self._working.total()

    def admit(self, uid: int | None, sock: trio.socket.SocketType) -> "Place | None":
        """A place for a new connection, idle at first. None when all are busy."""
        limits = self._limits
        share = limits.connections_per_uid
        if share is not None and uid is not None and self._open[uid] >= share and not self._evict(uid):
            self._tell(uid, f"is over its share of {share} connections, none of them idle")
            return None
        if self.connections >= limits.connections and not self._evict(None):
            self._tell(uid, f"is one too many: {limits.connections} connections are open, none of them idle")
            return None
        self._open[uid] += 1
        return Place(self, uid, sock)

    def _evict(self, uid: int | None) -> bool:
        """Close the connection that is idle longest, of that uid unless None. False when there is none."""
        for place in self._idle:
            if (uid is None or place.uid == uid) and not place.has_something_to_say():
                place.give_up()
                return True
        return False

    def _begin(self, place: "Place") -> bool:
        limit, uid = self._limits.requests_per_uid, place.uid
        if limit is not None and uid is not None and self._working[uid] >= limit:
            return False
        self._working[uid] += 1
        return True

    def refused(self, place: "Place") -> str:
        """Log that a request of it was refused, and say why in words for its sender."""
        why = f"is over its limit of {self._limits.requests_per_uid} requests in flight"
        self._tell(place.uid, why)
        return f"uid {place.uid} {why}; try again"

    def _tell(self, uid: int | None, why: str) -> None:
        self.turned_away += 1
        now = trio.current_time()
        if uid is None or now < self._quiet_until.get((uid, why), -math.inf):
            return
        self._quiet_until = {key: until for key, until in self._quiet_until.items() if until > now}
        self._quiet_until[uid, why] = now + TELL_EVERY_S
        log.info("uid %d %s; refused", uid, why)


class Place:
    """One connection's: idle, or at work on a request, until it leaves."""

    def __init__(self, admission: Admission, uid: int | None, sock: trio.socket.SocketType) -> None:
        self._admission = admission
        self.uid = uid
        self.given_up = False
        "Somebody else has it: the connection is to close without a word."
        self._sock = sock
        self._scope: trio.CancelScope | None = None
        self._working = False
        admission._idle[self] = None

    def rest(self, within_s: float) -> trio.CancelScope:
        """Idle from now on. Wait in the scope: cancelled after ``within_s``, or when the place is needed."""
        self._scope = trio.CancelScope(deadline=trio.current_time() + within_s)
        if self.given_up:
            self._scope.cancel()
        else:
            self._admission._idle[self] = None
        return self._scope

    def stir(self) -> None:
        """No longer idle, and not at a request either: a TLS handshake."""
        self._admission._idle.pop(self, None)

    def begin(self) -> bool:
        """No longer idle: a request has begun. False when its uid has too many; it may be tried again."""
        self.stir()
        self._working = self._admission._begin(self)
        return self._working

    def end(self) -> None:
        """The request is answered, or nobody is left to answer."""
        if self._working:
            self._working = False
            _decrement(self._admission._working, self.uid)

    def give_up(self) -> None:
        """Make room: the connection counts no more, and closes as soon as its task runs."""
        self.leave()
        if self._scope is not None:
            self._scope.cancel()

    def leave(self) -> None:
        """The connection is gone. Again is no error."""
        self.end()
        self.stir()
        if not self.given_up:
            self.given_up = True
            _decrement(self._admission._open, self.uid)

    def has_something_to_say(self) -> bool:
        """Whether bytes have arrived that its task has not yet seen: not idle, only not yet its turn."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return any(event & select.POLLIN and not event & select.POLLHUP for _, event in poll.poll(0))


def _decrement(counter: Counter[int | None], uid: int | None) -> None:
    counter[uid] -= 1
    if not counter[uid]:
        del counter[uid]  # or each uid that ever came would be kept
