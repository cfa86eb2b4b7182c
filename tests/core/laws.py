"""Every invariant over a history that a test made."""

from statemachine.invariants import STATE_LAWS, STEP_LAWS
from statemachine.snapshot import Snapshot


def broken(history, before: Snapshot | None = None) -> list[str]:
    """Every law broken in a history, with the place. It begins at ``before``, or as a new device."""
    before = Snapshot() if before is None else before
    found = []
    for now, event, decision in history:
        after = decision.snapshot
        wrong = {law.__name__: law(after) for law in STATE_LAWS}
        wrong |= {law.__name__: law(before, now, event, decision) for law in STEP_LAWS}
        found += [
            f"{name} at {after.sequence}, {after.state.value}/{after.phase.value} after {event}: {what}"
            for name, what in wrong.items()
            if what is not None
        ]
        before = after
    return found
