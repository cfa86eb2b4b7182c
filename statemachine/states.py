"""The two positions of the machine, and the few closed word lists everybody shares."""

from enum import Enum
from typing import Literal


class State(Enum):
    """The device's lifecycle. Values are what people and programs read."""

    UNPROVISIONED = "Unprovisioned"
    REGISTERING = "Registering"
    PROVISIONED = "Provisioned"
    CERT_EXPIRING = "CertExpiring"
    RENEWING = "Renewing"
    REPROVISIONING = "Reprovisioning"


class Phase(Enum):
    """How far one attempt to obtain a credential has come."""

    IDLE = "Idle"
    STAGING = "Staging"
    SUBMITTING = "Submitting"
    POLLING = "Polling"
    PROVING = "Proving"
    COMMITTING = "Committing"
    RETIRING = "Retiring"


ATTEMPT_STATES = frozenset({State.REGISTERING, State.RENEWING, State.REPROVISIONING})
"Only in these may the phase be anything but IDLE."

FailureClass = Literal["retry", "wait", "operator", "new_key", "reregister", "clock"]
"What to do about a failure (design: the machine decides by class only)."

Timer = Literal["window", "attempt", "expiry", "reissue", "prove", "collect", "phase", "timeout"]
"""Names under which instants and delays are armed; arming a name again replaces it.

window: the certificate enters its renewal window. attempt: the next attempt may begin.
expiry: the certificate in use ends. reissue: ask again for issuance after a certificate-less answer.
prove: try again to prove a credential that was committed unproven. collect: a superseded key may go.
phase: the running phase acts again (poll, prove, stage, commit). timeout: the attempt's overall deadline.
"""
