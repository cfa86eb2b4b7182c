"""What the demo runs on: a directory, and the stand-in cloud and the service below it as real processes."""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

from adapters.cli.control_client import ControlClient
from adapters.cli.demo_peers import CloudControl
from adapters.cli.failure import NO, UNREACHABLE, USAGE, CommandFailed
from adapters.errors import ConfigurationInvalid, bounded
from adapters.paths import Paths, paths_below
from adapters.simulators.ca import foreign_root_pem
from statemachine.journal import read

CERT_LIFETIME_S = 20
DEVICE = "demo-device"
"As in config/demo.toml."
START_S = 20.0
"A busy machine may need long to start Python; a process that ended is noticed at once."
LOOK_AGAIN_S = 0.02
STOP_S = 2.0
"The service stops in a fraction of it; what does not is killed."

RAISING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
"Signals that end a demo with an exception. Threads other than the main one must block them."

_NOT_INHERITED = (
    "AZIOT_ROOT",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)
"They speak to the demo, when it runs as somebody's service, and not to its children."


class Child:
    """One ``identityd`` command. What it says to people is kept in a file."""

    def __init__(self, name: str, words: list[str], log: str) -> None:
        self.name = name
        self.log = log
        environ = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        with open(log, "ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "adapters.cli.demo_child", str(os.getpid()), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=environ,
                # Ctrl-C is for the demo, which then stops its children in order.
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.started_s = time.monotonic()

    @property
    def ended(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def first_line(self) -> bytes:
        """What it says first on stdout. Raises CommandFailed when it says nothing in time."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            said = bool(selector.select(START_S))
        line = self._process.stdout.readline() if said else b""
        if not line.endswith(b"\n"):
            raise self.failed("did not start")
        return line

    def failed(self, how: str) -> CommandFailed:
        """It did not do as it should; the end of its log tells why."""
        lines = Path(self.log).read_text(errors="replace").splitlines()[-5:]
        told = "".join(f"\n  {bounded(line, 300)}" for line in lines)
        return CommandFailed(f"the {self.name} {how}; the end of {self.log}:{told or ' (empty)'}", NO)

    def ask_to_stop(self) -> None:
        if self.ended is None:
            self._process.terminate()

    def wait(self, until: float) -> int | None:
        """Its exit status, None when it still runs at that instant of time.monotonic()."""
        try:
            return self._process.wait(max(until - time.monotonic(), 0.001))
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> int:
        """SIGKILL, and gone on return."""
        self._process.kill()
        status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status


class Stage:
    """Cloud and service. Leaving it stops both by their pids, whatever happened."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.control = ControlClient(paths.control_sock)
        self.running: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_cloud(self) -> None:
        """Returns when it listens, has a trust bundle to give and the device is configured for it."""
        root = self.paths.root
        # Without Retry-After the service polls as fast as DPS allows: a demo is watched.
        options = ["--cert-lifetime", str(CERT_LIFETIME_S), "--retry-after", "0"]
        self.cloud_process = self._start("cloud", ["cloud", "--root", root, *options])
        listening = json.loads(self.cloud_process.first_line())
        self.endpoint: str = listening["endpoint"]
        self.ca_file: str = listening["ca_file"]
        self.cloud = CloudControl(self.endpoint, self.ca_file)
        self.cloud.set_bundle(foreign_root_pem(time.time()))
        # One that already names this cloud may have been edited by whoever is watching: it stays.
        if listening["config_written"] or not listening["config_matches"]:
            self._configure()

    def start_service(self) -> None:
        """Returns when its sockets answer."""
        self.service = self._start("service", ["run", "--root", self.paths.root])
        until = time.monotonic() + START_S
        while True:
            try:
                self.control.status()
            except CommandFailed as exc:
                if exc.status != UNREACHABLE or time.monotonic() > until:
                    raise self.service.failed("does not answer") from exc
            else:
                return
            if self.service.ended is not None:
                raise self.service.failed("ended at its start")
            time.sleep(LOOK_AGAIN_S)

    def journals(self) -> list[tuple[str, bytes]]:
        """Name and content of every journal file, oldest first."""
        state = Path(self.paths.state_dir)
        # Zero-padded sequences: their order as text is their order in time.
        found = [*sorted(state.glob("journal-*.jsonl")), Path(self.paths.journal)]
        return [(path.name, path.read_bytes()) for path in found]

    def last_sequence(self) -> int:
        """Of the record an earlier run ended with, 0 when there was none."""
        if not os.path.exists(self.paths.journal):
            return 0
        reading = read(Path(self.paths.journal).read_bytes())
        if reading.records:
            return reading.records[-1].sequence
        return reading.snapshot.sequence if reading.snapshot is not None else 0

    def close(self) -> None:
        """Everything that still runs is asked to stop, then made to."""
        for child in self.running:
            child.ask_to_stop()
        until = time.monotonic() + STOP_S
        for child in self.running:
            child.wait(until)
            child.kill()
        self.running.clear()

    def _start(self, name: str, words: list[str]) -> Child:
        self.running = [child for child in self.running if child.ended is None]
        with _undisturbed():
            child = Child(name, words, os.path.join(self.paths.root, f"{name}.log"))
            self.running.append(child)
        return child

    def _configure(self) -> None:
        key = Path(self.paths.root, "cloud", "enrolment.key").read_text().strip()
        text = _template()
        for name, value in (("endpoint", self.endpoint), ("symmetric_key", key), ("ca_file", self.ca_file)):
            # A JSON string is a TOML basic string.
            text = text.replace(f'"@{name}@"', json.dumps(value, ensure_ascii=False))
        config = Path(self.paths.config)
        config.write_text(text)  # the cloud made it, with mode 0600, which stays


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A signal that came between a start and its being noted would leave a child that nobody stops."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, RAISING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _template() -> str:
    packaged = files("adapters") / "data" / "demo.toml"
    if packaged.is_file():
        return packaged.read_text()
    return Path(__file__).parents[2].joinpath("config", "demo.toml").read_text()


# --- the directory -----------------------------------------------------------------------------------


class Root:
    """The demo's directory: the one asked for, or one that is only for now."""

    def __init__(self, chosen: str | None, *, fresh: bool) -> None:
        """Raises CommandFailed or ConfigurationInvalid. ``fresh`` refuses one that was used before."""
        self.temporary = not chosen
        self.paths = _checked(chosen, fresh=fresh) if chosen else _temporary()

    def remove(self) -> None:
        shutil.rmtree(self.paths.root, ignore_errors=True)


def _checked(chosen: str, *, fresh: bool) -> Paths:
    if os.path.realpath(chosen) == "/":
        raise CommandFailed(
            "the demo never runs on the system itself: give it a --root DIR of its own", USAGE
        )
    paths = paths_below(chosen)
    try:
        os.makedirs(paths.root, 0o755, exist_ok=True)
        held = os.listdir(paths.root)
    except OSError as exc:
        raise CommandFailed(f"{paths.root} cannot be used: {exc.strerror}", USAGE) from exc
    if held and fresh:
        raise CommandFailed(f"{paths.root} is not empty, and --once tells a whole life: name another", USAGE)
    if held and "cloud" not in held:
        raise CommandFailed(f"{paths.root} holds something else than a demo: name another", USAGE)
    return paths


def _temporary() -> Paths:
    # A long TMPDIR leaves no room for a socket's name.
    for parent in (None, "/tmp"):
        root = tempfile.mkdtemp(prefix="identityd-", dir=parent)
        try:
            return paths_below(root)
        except ConfigurationInvalid:
            os.rmdir(root)
            if parent is not None:
                raise
    raise AssertionError("the loop returns or raises")
