"""What the stand-in cloud was asked and what became of it: one entry a request, oldest dropped first."""

from collections import deque
from typing import Literal

from msgspec import Struct

KEPT = 10_000


class Entry(Struct, kw_only=True, omit_defaults=True):
    """One request. Filled in as the request is worked on, so one that stalls is seen, without a status."""

    sequence: int
    time_unix_ms: int
    method: str
    "`TLS` for a handshake that failed."
    path: str
    "With the query. Holds no secret: tokens travel in headers."
    status: int | None = None
    fault: str | None = None
    "Kind of the fault that was applied."
    client: Literal["sas", "x509", "none"] = "none"
    "The credential it was accepted with."
    why: str | None = None
    "Why it was refused."
    operation_id: str | None = None
    assigned_unix_ms: int | None = None
    "When the operation became assigned; on the poll that ended it."
    certificate_serial: str | None = None
    "Hex. With the two below: the leaf issued to that operation."
    not_before_unix_ms: int | None = None
    not_after_unix_ms: int | None = None


class RequestLog:
    """In memory only."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._next = 1

    def open(self, method: str, path: str, now_unix_s: float) -> Entry:
        """A new entry, already in the log."""
        entry = Entry(
            sequence=self._next, time_unix_ms=round(now_unix_s * 1000), method=method, path=path[:2048]
        )
        self._next += 1
        self._entries.append(entry)
        return entry

    def since(self, sequence: int) -> list[Entry]:
        """Entries from that sequence on."""
        return [entry for entry in self._entries if entry.sequence >= sequence]
