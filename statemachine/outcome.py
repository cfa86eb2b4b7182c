"""How the attempt behind a command goes, judged from what the machine makes known.

Whoever gave the command follows the records from its own on; who lost sight of them asks the status.
The judgement is the same for every socket and for the command line, and nobody decides anything by it.
"""

from statemachine.states import Phase, State
from statemachine.status import Status

_SERVING = frozenset({State.PROVISIONED.value, State.CERT_EXPIRING.value})
_ENDING = frozenset({Phase.RETIRING.value, Phase.IDLE.value})
_COMMITTED = "credential-committed"
"Tag of the event. Spelt out: a command line that only asks must not load every event there is."


class Course:
    """The attempt behind one command. Values are text, as records and status spell them."""

    def __init__(self, sequence: int) -> None:
        self._sequence = sequence
        "Of the command's own record."
        self._running = False
        self._committed = False
        self._phase = Phase.IDLE.value
        self.position = ""
        "Where the machine is, for people; empty until a record was taken."
        self.over = False
        self.succeeded = False
        "Says something once it is over."
        self.was_nothing_to_do = False
        "No attempt began: an earlier result stands, or there is none to be had."

    def take(self, *, sequence: int, state: str, phase: str, event: str, wished: bool) -> bool:
        """One record. ``event`` is its event's tag, ``wished`` whether it has effects.

        True when the machine's position is another than before. Records before the command are passed over.
        """
        if sequence < self._sequence:
            return False
        if self._phase in _ENDING and phase not in _ENDING:
            # A configuration that changed at the last moment has the next attempt follow at once.
            self._committed = False
        self._phase = phase
        if phase == Phase.RETIRING.value or event == _COMMITTED:
            self._committed = True
        if phase != Phase.IDLE.value:
            self._running = True
        elif self._running:
            self.over, self.succeeded = True, self._committed
        elif sequence == self._sequence and not wished:
            # Nothing was wished for, so nothing follows: there is no attempt to wait for.
            self.over, self.succeeded = True, state in _SERVING
            self.was_nothing_to_do = True
        before = self.position
        self.position = state if phase == Phase.IDLE.value else f"{state}, {phase}"
        return self.position != before

    def catch_up(self, status: Status) -> None:
        """Records were missed: what is true now stands for them."""
        if status.sequence < self._sequence:
            return
        if status.phase != Phase.IDLE.value:
            self._running = True
            self._committed = status.phase == Phase.RETIRING.value
            return
        failed = status.attempt is not None and status.attempt.last_error is not None
        self.over, self.succeeded = True, status.state in _SERVING and not failed
