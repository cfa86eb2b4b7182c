"""control.sock as its clients see it: plain HTTP/1.1 over a Unix socket, one connection per question."""

import http.client
import socket
import time
from collections.abc import Iterator
from typing import Annotated, NoReturn

import msgspec
from msgspec import Struct, field

from adapters.cli.failure import NO, UNREACHABLE, CommandFailed
from adapters.errors import bounded
from statemachine.status import Status

ANSWER_S = 30.0
"A command waits for its record to be durable; a card can be slow."
SILENCE_S = 45.0
"Three heartbeats missed: nobody is there any more."
COME_BACK_S = 0.5
GONE_S = 15.0
"How long a service may be away, a restart for example, before a follower gives up."
MAX_BYTES = 8 * 1024 * 1024
"More than any answer or line; a wrong peer must not fill the memory."


class Taken(Struct, frozen=True):
    """The answer to a command that was taken."""

    sequence: int
    verdict: str
    why: str


class Happening(Struct, frozen=True):
    """As much of any event as a client needs: failures say what went wrong."""

    type: str
    failure_class: str | None = field(name="class", default=None)
    code: str | None = None
    message: str = ""
    tracking_id: str | None = None
    modules: int = 0


class Line(Struct, frozen=True):
    """One line of ``/v1/events``, read tolerantly: the service may be newer than this client."""

    type: str
    sequence: int = 0
    now_unix_ms: int = 0
    event: Happening | None = None
    effects: tuple[msgspec.Raw, ...] = ()
    state: str = ""
    phase: str = ""
    verdict: str = ""
    why: str = ""
    message: str = ""
    raw: bytes = b""


class _Said(Struct, frozen=True):
    message: str


class _Expected(Struct, frozen=True):
    expected: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ControlClient:
    """Every method raises CommandFailed: status 3 when nobody answers, 1 when the answer is no."""

    def __init__(self, path: str) -> None:
        self._path = path

    def status_json(self) -> bytes:
        """The Status object as the service wrote it."""
        return self._ask("GET", "/v1/status")

    def status(self) -> Status:
        """What is true now."""
        try:
            return msgspec.json.decode(self.status_json(), type=Status)
        except msgspec.DecodeError as exc:
            raise self._unknown(exc) from exc

    def command(self, name: str) -> Taken:
        """`renew`, `reprovision`, `module-keys`, `hold` or `release`."""
        try:
            return msgspec.json.decode(self._ask("POST", f"/v1/{name}"), type=Taken)
        except msgspec.DecodeError as exc:
            raise self._unknown(exc) from exc

    def purge(self, confirm: str) -> Taken:
        """``confirm`` is what the device is called."""
        body = msgspec.json.encode({"confirm": confirm})
        try:
            return msgspec.json.decode(self._ask("POST", "/v1/purge", body=body), type=Taken)
        except msgspec.DecodeError as exc:
            raise self._unknown(exc) from exc

    def names(self) -> tuple[str, ...]:
        """What may be confirmed to have the device erased, its own name first; never empty.

        Asked with a name that no device has, so that who may not purge is told so before he is asked.
        """
        body = msgspec.json.encode({"confirm": ""})
        try:
            asked = self._ask("POST", "/v1/purge", accepted=(409,), body=body)
            return msgspec.json.decode(asked, type=_Expected).expected
        except msgspec.DecodeError as exc:
            raise self._unknown(exc) from exc

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self._ask("GET", "/metrics")

    def reload(self) -> bytes:
        """What became of reading the configuration again, as the service wrote it."""
        return self._ask("POST", "/v1/reload", accepted=(200, 409))

    def follow(self, start: int, *, until: float | None = None) -> Iterator[Line]:
        """Records from ``start`` on, heartbeats included, across restarts of the service.

        ``until`` is an instant of time.monotonic(): past it the iteration ends, whatever has come by then.
        """
        away_since: float | None = None
        while True:
            why: BaseException = EOFError("it hangs up")
            try:
                for line in self._lines(start, until):
                    away_since = None
                    if line.type == "error":
                        raise CommandFailed(f"the service cannot read its journal: {bounded(line.message)}")
                    start = max(start, line.sequence + 1)
                    yield line
            except msgspec.DecodeError as exc:
                raise self._unknown(exc) from exc
            except (OSError, http.client.HTTPException) as exc:
                why = exc
            now = time.monotonic()
            if until is not None and now >= until:
                return
            away_since = now if away_since is None else away_since
            if now - away_since > GONE_S:
                unreachable(self._path, why)
            time.sleep(COME_BACK_S)

    def _lines(self, start: int, until: float | None) -> Iterator[Line]:
        connection, answer = self._open("GET", f"/v1/events?from={start}", _patience(until))
        reader = connection.sock
        try:
            if answer.status != 200:
                self._refused(answer)
            while True:
                # No socket left means that the whole answer is already here.
                if reader is not None and reader.fileno() >= 0:
                    reader.settimeout(_patience(until))
                raw = answer.readline(MAX_BYTES)
                if not raw.endswith(b"\n"):
                    return
                line = msgspec.json.decode(raw, type=Line)
                yield msgspec.structs.replace(line, raw=raw.rstrip())
        finally:
            answer.close()
            connection.close()

    def _ask(
        self, method: str, target: str, accepted: tuple[int, ...] = (200, 202), body: bytes | None = None
    ) -> bytes:
        try:
            connection, answer = self._open(method, target, ANSWER_S, body)
            try:
                if answer.status not in accepted:
                    self._refused(answer)
                return answer.read(MAX_BYTES)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as exc:
            unreachable(self._path, exc)

    def _open(
        self, method: str, target: str, timeout: float, body: bytes | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = UnixConnection(self._path, timeout)
        try:
            connection.request(method, target, body)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _unknown(self, exc: msgspec.DecodeError) -> CommandFailed:
        return CommandFailed(
            f"the service at {self._path} answers in a way unknown here: {bounded(str(exc))}"
        )

    def _refused(self, answer: http.client.HTTPResponse) -> NoReturn:
        try:
            message = msgspec.json.decode(answer.read(MAX_BYTES), type=_Said).message
        except msgspec.DecodeError:
            message = f"{self._path} answered {answer.status}; is it the control socket of identityd?"
        raise CommandFailed(bounded(message), NO)


def unreachable(path: str, exc: BaseException) -> NoReturn:
    """Raises CommandFailed: nobody answers at that socket, why, and what to do."""
    if isinstance(exc, PermissionError):
        fix = "use sudo, or join the socket's group"
    else:
        fix = "start it with `identityd run`, or point --root at the one that runs"
    why = bounded(getattr(exc, "strerror", None) or str(exc) or type(exc).__name__)
    raise CommandFailed(f"no service answers at {path} ({why}): {fix}", UNREACHABLE) from exc


def _patience(until: float | None) -> float:
    """How long one wait on the socket may last; never 0, which would mean not to wait at all."""
    return SILENCE_S if until is None else min(SILENCE_S, max(until - time.monotonic(), 0.001))
