"""What hooks are for: the turns in a device's life that other programs want to know of. Pure.

A turn is read off the difference between what was told last and what is true, not off single records: a
record that was missed (a crash, a power cut, a start without hooks) is then told with the next one, and
several in a row are told as one.
"""

from typing import Literal

from msgspec import Struct

from statemachine.explain import rfc3339
from statemachine.settings import IDENTITY_CERTIFICATE_ID
from statemachine.snapshot import Assignment, Credential, Snapshot
from statemachine.states import Phase

Kind = Literal["renewal", "reprovision", "moved"]

KINDS: tuple[Kind, ...] = ("moved", "reprovision", "renewal")
"In the order in which they are told: who moved wants to know that first."


_IN_BETWEEN = (Phase.COMMITTING, Phase.RETIRING)
"The credential may be another one already, and how that came about is not settled yet."


class Told(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The life that was told last, as far as turns are concerned."""

    hub: str
    device_id: str
    generation: int
    reprovisioned_unix_ms: int


class Turn(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kind, and the facts. Nothing here is secret."""

    kind: Kind
    sequence: int
    "Of the record after which it was seen."
    at: str
    "Stamp of that record, RFC 3339, like all instants here."
    hub: str
    device_id: str
    generation: int
    "Of the credential in use."
    source: Literal["issued", "configured"]
    certificate_id: str | None = None
    "The rest of the certificate: issued only."
    sha256: str | None = None
    serial: str | None = None
    not_before: str | None = None
    not_after: str | None = None
    substatus: str | None = None
    "What the cloud said of the assignment."
    previous_hub: str | None = None
    "moved only, like the next."
    previous_device_id: str | None = None


def told_of(snapshot: Snapshot) -> Told | None:
    """What there is to tell; None while there is no identity, or one is just being put in place."""
    assignment, credential = snapshot.assignment, snapshot.credential
    if assignment is None or credential is None or snapshot.phase in _IN_BETWEEN:
        return None
    return Told(
        hub=assignment.hub,
        device_id=assignment.device_id,
        generation=credential.generation,
        reprovisioned_unix_ms=snapshot.reprovisioned_unix_ms,
    )


def turns(told: Told, snapshot: Snapshot) -> tuple[Turn, ...]:
    """What became of the life that was told last. A device that lost its identity is told once it has one."""
    now, assignment, credential = told_of(snapshot), snapshot.assignment, snapshot.credential
    if now is None or assignment is None or credential is None:
        return ()
    # Host names compare without case; device ids do not (cloud.md §1.1).
    moved = (now.hub.lower(), now.device_id) != (told.hub.lower(), told.device_id)
    happened: dict[Kind, bool] = {
        "moved": moved,
        # A clock that was set back takes this instant along, and that is no turn.
        "reprovision": now.reprovisioned_unix_ms > told.reprovisioned_unix_ms,
        "renewal": now.generation != told.generation,
    }
    return tuple(_turn(kind, told, snapshot, assignment, credential) for kind in KINDS if happened[kind])


def _turn(kind: Kind, told: Told, snapshot: Snapshot, assignment: Assignment, credential: Credential) -> Turn:
    issued = credential.source == "issued"
    moved = kind == "moved"
    return Turn(
        kind=kind,
        sequence=snapshot.sequence,
        at=rfc3339(snapshot.last_unix_ms),
        hub=assignment.hub,
        device_id=assignment.device_id,
        generation=credential.generation,
        source=credential.source,
        certificate_id=IDENTITY_CERTIFICATE_ID if issued else None,
        sha256=credential.sha256 if issued else None,
        serial=credential.serial if issued else None,
        not_before=rfc3339(credential.not_before_unix_ms) if issued else None,
        not_after=rfc3339(credential.not_after_unix_ms) if issued else None,
        substatus=assignment.substatus,
        previous_hub=told.hub if moved else None,
        previous_device_id=told.device_id if moved else None,
    )
