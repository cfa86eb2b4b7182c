"""``identityd watch`` on a terminal: status and records as a picture, each second and at each record."""

import sys
import time
from collections import deque

from adapters.cli.control_client import ControlClient, Line
from adapters.cli.failure import DONE, UNREACHABLE, CommandFailed
from adapters.cli.follower import Follower
from adapters.cli.happenings import Happening, Timeline
from adapters.cli.history import Historian
from adapters.cli.screen import Ink, headline
from adapters.cli.terminal import Canvas, signs_of
from adapters.cli.watch_view import View, frame
from statemachine.errors import JournalUnreadable
from statemachine.explain import rfc3339
from statemachine.journal import Record, decode_line
from statemachine.status import Status

BACKLOG_RECORDS = 300
"So far back it looks for the settings and the draw of the certificate in use: a dozen renewals and more."
MOST_HAPPENINGS = 200
ASK_S = 2.0
"How often the status is asked for while no record comes."


def live(client: ControlClient, now: Status, start: int) -> int:
    """Until Ctrl-C. Raises CommandFailed when the service stays away."""
    ink, signs = Ink(), signs_of(sys.stdout)
    follower = Follower(client, start)
    watched = Watched(client, now)
    try:
        with Canvas(sys.stdout, follower.wake) as canvas:
            while True:
                canvas.draw(frame(watched.view, _now(), canvas.size, ink, signs))
                # To the next full second: a countdown that skips one looks broken.
                watched.take(follower.some(1 - time.time() % 1))
    except KeyboardInterrupt:
        pass
    for text in headline(watched.status, ink, now_unix_ms=_now()):
        print(text)
    return DONE


class Watched:
    """What is known of the service, kept up to date by its records."""

    def __init__(self, client: ControlClient, status: Status) -> None:
        self.status = status
        self._client = client
        self._asked_s = time.monotonic()
        self._away = ""
        self._historian = Historian()
        self._timeline = Timeline()
        self._happenings: deque[Happening] = deque(maxlen=MOST_HAPPENINGS)

    @property
    def view(self) -> View:
        return View(
            status=self.status,
            happenings=tuple(self._happenings),
            certificate=self._historian.certificate,
            away=self._away,
        )

    def take(self, lines: list[Line]) -> None:
        """What the event stream said, if anything. Raises CommandFailed when the service says no."""
        for line in lines:
            if line.type == "record":
                self._record(line)
        if lines or time.monotonic() - self._asked_s > ASK_S:
            self._ask()

    def _ask(self) -> None:
        self._asked_s = time.monotonic()
        try:
            self.status, self._away = self._client.status(), ""
        except CommandFailed as exc:
            if exc.status != UNREACHABLE:
                raise
            self._away = exc.message

    def _record(self, line: Line) -> None:
        try:
            record = decode_line(line.raw + b"\n")
        except JournalUnreadable:
            # The service is newer than this program; its tags say enough to go on with.
            self._happenings.append(_of_tomorrow(line))
            return
        if isinstance(record, Record):
            self._historian.take(record)
            happening = self._timeline.take(record)
            if happening is not None:
                self._happenings.append(happening)


def _of_tomorrow(line: Line) -> Happening:
    return Happening(
        time=rfc3339(line.now_unix_ms),
        now_unix_ms=line.now_unix_ms,
        sequence=line.sequence,
        state=line.state,
        phase=line.phase,
        what=line.event.type if line.event is not None else line.type,
        why=line.why,
    )


def _now() -> int:
    return int(time.time() * 1000)
