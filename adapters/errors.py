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


_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # What makes a token of a SharedAccessSignature, and a key handle of its words.
    (re.compile(r"(?<![a-z])sig(=|%(?:25)*3d|\\+u003d)[^&\s\"'<>]+", re.IGNORECASE), r"sig\1…"),
    # Of a connection string.
    (re.compile(r"(SharedAccessKey\s*=\s*)[^;\s\"']+", re.IGNORECASE), r"\1…"),
    # Of a PKCS#11 URI, and of whatever else names it.
    (re.compile(r"((?:pin-value|password|passwd)\s*[=:]\s*)[^;&?,\s\"']+", re.IGNORECASE), r"\1…"),
    # Of a proxy: all before the last @ of the authority.
    (re.compile(r"(\w://)[^/\s\"'<>]*@"), r"\1…@"),
    (re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END|\Z)", re.DOTALL), "<private key>"),
    # Bytes in padded base64, 16 and more: keys are written so, and nothing that is worth a line.
    # Only from where it begins: looked for from everywhere in it, a long text takes seconds.
    (re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{22,}={1,2}"), "<base64>"),
)
"What a secret looks like, and what is left of it."


def without_secrets(text: str) -> str:
    """The text with whatever looks like a secret left out.

    A net below those who know what they write: nobody is to pass on a secret in the first place.
    """
    for pattern, left in _SECRETS:
        text = pattern.sub(left, text)
    return text


def bounded(text: str, limit: int = MAX_MESSAGE_CHARS) -> str:
    """One line of printable text, at most ``limit`` characters, an ellipsis where it was cut.

    A peer may quote the token it was sent; what looks like a secret is left out.
    """
    # Megabytes are not looked through for one line.
    begins = without_secrets(text[: 8 * limit])
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

    def __init__(self, path: str, problems: tuple[str, ...], notes: tuple[str, ...] = ()) -> None:
        self.path = path
        self.problems = problems
        self.notes = notes
        "What is no mistake, but maybe the reason of one: a key misspelt is unknown, and another is missing."
        super().__init__("\n".join((*problems, *notes)))


class AlreadyRunning(Exception):
    """Another instance holds the state directory; ``pid`` is its process id, None if unknown."""

    def __init__(self, directory: str, pid: int | None) -> None:
        self.directory = directory
        self.pid = pid
        super().__init__(f"{directory} is in use by process {pid if pid is not None else 'unknown'}")
