"""One way of the cloud to go wrong, and what a device makes of it: the shape of a row of the catalogue.

The class and code of each row follow design §2: the class is what to do, the code is why. What happens next
is not written down row by row, it follows from them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

PEM, DER = "2021-11-01-preview", "2026-11-01"
"The two dialects that write a chain down in two ways."

Asks = Literal["submit", "poll", "prove"]
"What the device does when it meets the fault: the PUT, a GET of the operation, the proof at the hub."
Next = Literal[
    "goes-on",
    "next-attempt",
    "person",
    "new-key",
    "clock",
    "asked-again",
    "submitted-again",
    "shown-again",
    "new-hub",
]
NEXT: Mapping[Next, str] = {
    "goes-on": "The renewal goes on.",
    "next-attempt": "The attempt ends; the next one follows after a backoff.",
    "person": "The attempt ends and the status says `stuck`; the next one comes between half the longest "
    "backoff and all of it.",
    "new-key": "The attempt ends and its key is given up; the next one makes another after a backoff.",
    "clock": "The attempt ends and gives its registration back; the next one follows after a backoff.",
    "asked-again": "The operation is asked for again, until the attempt's deadline.",
    "submitted-again": "The same key and CSR are submitted once more in the same attempt; then it ends.",
    "shown-again": "The new credential is shown to the hub again, and committed unproven only in the last "
    "tenth of the old one's life.",
    "new-hub": "The new hub is asked again for a quarter of an hour; then the attempt ends, and DPS is asked "
    "anew after a backoff.",
}
"What happens while the fault lasts. In each case but the first the credential in use is kept."


class Case(Struct, frozen=True, kw_only=True):
    """One row."""

    name: str
    "Unique."
    fault: Mapping[str, Any]
    "The ``[[fault]]`` that produces it, without counters."
    cloud: str
    "What the cloud does, in words."
    asks: Asks
    api_version: str = PEM
    failure_class: str | None = None
    "None when it is no failure."
    code: str | None = None
    refused: bool = False
    "The hub's verdict on the credential is no."
    unsent: bool = False
    "The cloud saw nothing of the request."
    judged: bool = False
    "DPS assigned; what it issued is refused by the machine, not by the adapter."
    retry_after_ms: int | None = None
    flagged: bool = False
    "The trust bundle is reported as unusable."

    @property
    def event(self) -> str:
        """Tag of the event that answers the effect."""
        if self.asks == "prove":
            return "credential-proven" if self.code is None else "credential-proof-failed"
        if self.judged or (self.code is None and self.asks == "poll"):
            return "registration-assigned"
        return "registration-accepted" if self.code is None else "registration-failed"

    @property
    def then(self) -> Next:
        """What happens next, by the rules of design §2 and §4."""
        if self.failure_class is None:
            return "goes-on"
        if self.asks == "prove" and not self.refused:
            return "new-hub" if self.fault["kind"] == "moved" else "shown-again"
        if self.asks == "poll" and not self.judged:
            if self.failure_class == "reregister":
                return "submitted-again"
            if self.failure_class == "retry":
                return "asked-again"
        by_class: Mapping[str, Next] = {"operator": "person", "new_key": "new-key", "clock": "clock"}
        return by_class.get(self.failure_class, "next-attempt")

    @property
    def counts(self) -> bool:
        """Whether a registration that met it counts against the budget; a success begins the count anew."""
        return self.then not in ("goes-on", "clock") and not (self.asks == "submit" and self.unsent)
