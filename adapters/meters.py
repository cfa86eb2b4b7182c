"""Where figures are taken: small hooks for those who act, and one reading of everything when somebody asks.

Nothing here wakes by itself. Counters and histograms live from the start of the process; everything else is
read off the machine at the moment of the question.
"""

from collections.abc import Callable
from typing import Literal, get_args

from adapters import metrics
from adapters.metrics import Readings, exposition
from adapters.ports import Clock
from adapters.wire.admission import Admission
from statemachine.explain import renewal_due
from statemachine.snapshot import Ended, Snapshot
from statemachine.states import FailureClass, State
from statemachine.status import Status

Peer = Literal["dps", "hub"]
STEP_MS = 1_000
"A clock that was set by less leaves the start of the process where it is."


class Meters:
    """One for a process. All but ``synced`` and ``stored`` are for the thread that runs the service."""

    def __init__(self, clock: Clock) -> None:
        self._told_of = ("", "")
        "Source and method in the last text."
        self._clock = clock
        self._started_elapsed_ms = clock.elapsed_ms()
        self._started_unix_ms = clock.now_unix_ms()
        self._readings = Readings()
        self._ended: Ended | None = None
        self._observed = False
        self._sockets: dict[str, Admission] = {}
        self._changed: Callable[[], None] = lambda: None
        # What may happen is known before it does: a series that appears at 1 was never seen to grow.
        self._syncs = self._readings.distribution(metrics.JOURNAL_SYNC_SECONDS)
        self._exchanges = {
            peer: self._readings.distribution(metrics.CLOUD_SECONDS, peer) for peer in get_args(Peer)
        }
        self._readings.add(metrics.ATTEMPTS, "succeeded", "", by=0)
        for failure_class in get_args(FailureClass):
            self._readings.add(metrics.ATTEMPTS, "failed", failure_class, by=0)

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have it called when a figure has become another, by the service's own thread."""
        self._changed = changed

    # --- hooks ---------------------------------------------------------------------------------------

    def observe(self, snapshot: Snapshot) -> None:
        """After each event. What had ended before the first one is history of another process."""
        ended, before = snapshot.ended, self._ended
        self._ended = ended
        if self._observed and ended is not None and ended != before:
            if ended.error is None:
                self._readings.add(metrics.ATTEMPTS, "succeeded", "")
            else:
                self._readings.add(metrics.ATTEMPTS, "failed", ended.error.failure_class)
        self._observed = True
        self._changed()

    def exchanged(self, peer: Peer) -> Callable[[str, float], None]:
        """Told of each HTTP exchange with that peer: what it came to, and its seconds."""

        def exchanged(result: str, seconds: float) -> None:
            self._readings.add(metrics.CLOUD_REQUESTS, peer, result)
            self._exchanges[peer].add(seconds)
            self._changed()

        return exchanged

    def answered(self, socket: str) -> Callable[[int], None]:
        """Told the status of each request on that socket, once it is over."""

        def answered(status: int) -> None:
            self._readings.add(metrics.REQUESTS, socket, str(status))
            self._changed()

        return answered

    def listening(self, socket: str, admission: Admission) -> None:
        """Who is in at that socket."""
        self._sockets[socket] = admission

    def synced(self, seconds: float) -> None:
        """A record is on the disk. From the thread that writes it."""
        self._syncs.add(seconds)

    def stored(self, journal_bytes: int) -> None:
        """What the journal's files hold now. From the thread that writes them."""
        self._readings.set(metrics.JOURNAL_BYTES, journal_bytes)

    # --- reading -------------------------------------------------------------------------------------

    def text(self, snapshot: Snapshot, status: Status, *, journal_available: bool) -> bytes:
        """The exposition of this moment."""
        put = self._readings.set
        put(metrics.BUILD_INFO, 1, status.version)
        put(metrics.PROVISIONING_INFO, None, *self._told_of)
        self._told_of = (status.onboarding.source, status.onboarding.method)
        put(metrics.PROVISIONING_INFO, 1, *self._told_of)
        put(metrics.START_TIME, self._start_ms() // 1000)
        for state in State:
            put(metrics.STATE, float(state is snapshot.state), state.value)
        put(metrics.STUCK, float(status.stuck))
        put(metrics.DEGRADED, len(status.degraded))
        put(metrics.HOLD, float(snapshot.hold))
        self._certificates(snapshot)
        put(metrics.CLOCK_TRUSTED, float(snapshot.clock.trusted))
        put(metrics.FAILED_IN_A_ROW, snapshot.failures)
        put(metrics.JOURNAL_AVAILABLE, float(journal_available))
        for name, admission in self._sockets.items():
            put(metrics.REQUESTS_IN_FLIGHT, admission.requests, name)
            put(metrics.TURNED_AWAY, admission.turned_away, name)
        return exposition(self._readings)

    def _certificates(self, snapshot: Snapshot) -> None:
        credential = snapshot.credential
        issued = credential if credential is not None and credential.source == "issued" else None
        for metric, unix_ms in (
            (metrics.NOT_BEFORE, None if issued is None else issued.not_before_unix_ms),
            (metrics.NOT_AFTER, None if issued is None else issued.not_after_unix_ms),
            (metrics.RENEWAL_DUE, renewal_due(snapshot)),
            (metrics.ONBOARDING_NOT_AFTER, snapshot.onboarding_not_after_unix_ms),
        ):
            self._readings.set(metric, None if unix_ms is None else unix_ms / 1000)

    def _start_ms(self) -> int:
        """Moves with a clock that is set, and otherwise stays, so that it reads the same twice."""
        began = self._clock.now_unix_ms() - (self._clock.elapsed_ms() - self._started_elapsed_ms)
        if abs(began - self._started_unix_ms) >= STEP_MS:
            self._started_unix_ms = began
        return self._started_unix_ms
