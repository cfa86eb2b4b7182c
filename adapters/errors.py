"""What can go wrong in the world, in our words.

Every error says what to do about it (``failure_class``) and why it happened (``code``); foreign
exceptions stop at the adapter's edge and become one of these, with the foreign one as its cause.
"""

import re
from typing import Literal

FailureClass = Literal["retry", "wait", "operator", "new_key", "reregister", "clock"]
"The same words as statemachine.states.FailureClass; errors.py imports the standard library only."

MAX_MESSAGE_CHARS = 400
"A peer's words are quoted, never trusted to be short."


_SIGNATURE = re.compile(r"\bsig=[^&\s\"'<>]+", re.IGNORECASE)
"Of a SharedAccessSignature: what makes the token one. It is valid for an hour."


def bounded(text: str, limit: int = MAX_MESSAGE_CHARS) -> str:
    """One line of printable text, at most ``limit`` characters, an ellipsis where it was cut.

    A peer may quote the token it was sent; its signature is left out.
    """
    # Megabytes are not looked through for one line.
    begins = _SIGNATURE.sub("sig=…", text[: 8 * limit])
    line = "".join(c if c.isprintable() else " " for c in begins).strip()
    whole = len(line) <= limit and len(text) <= 8 * limit
    return line if whole else line[: limit - 1] + "…"


class AdapterError(Exception):
    """Root of everything the adapters raise on purpose."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        failure_class: FailureClass = "retry",
        retry_after_ms: int | None = None,
        tracking_id: str | None = None,
    ) -> None:
        super().__init__(bounded(message))
        self.message = bounded(message)
        self.code = code
        self.failure_class: FailureClass = failure_class
        self.retry_after_ms = retry_after_ms
        self.tracking_id = bounded(tracking_id, 80) if tracking_id else None
        self.unsent = False
        "Set by the client: the peer saw nothing of the request."


class PeerUnreachable(AdapterError):
    """No connection, or no answer in time. Offline is the usual reason; class retry."""


class PeerProtocolError(AdapterError):
    """The peer answered, but not in its protocol: malformed, truncated, too large."""


class PeerRefused(AdapterError):
    """The peer answered and said no."""


class CertificateRejected(AdapterError):
    """A certificate or chain is not what was asked for."""


class StoreUnavailable(AdapterError):
    """A file could not be read or written: disk full, read-only, permissions."""


class RequestRefused(AdapterError):
    """A local caller asked for what cannot be done; nothing was changed. Class operator."""

    def __init__(self, message: str, *, code: str, parameter: str | None = None) -> None:
        super().__init__(message, code=code, failure_class="operator")
        self.parameter = parameter
        "The original's name of the parameter that is wrong, when it names one."


class NotProvisioned(AdapterError):
    """There is no device identity that could be used. The message says why and what happens next."""


class ConfigurationInvalid(Exception):
    """``config.toml`` cannot be used. ``problems`` holds every mistake found, one line each."""

    def __init__(self, path: str, problems: tuple[str, ...]) -> None:
        self.path = path
        self.problems = problems
        super().__init__("\n".join(problems))


class AlreadyRunning(Exception):
    """Another instance holds the state directory; ``pid`` is its process id, None if unknown."""

    def __init__(self, directory: str, pid: int | None) -> None:
        self.directory = directory
        self.pid = pid
        super().__init__(f"{directory} is in use by process {pid if pid is not None else 'unknown'}")
