"""Real processes for tests: a cloud, devices, and what can be asked of them or read off their disks.

Nothing here sleeps. A test waits for a line: of a process's log, of ``/v1/events``, of the journal. Every
wait is bounded by ``WITHIN_S``, far more than a busy machine needs, and says what it saw when it ends badly.
"""

import contextlib
import glob
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from statemachine.journal import Reading, read
from tests.service.forks import Forked, ForkServer
from tests.service.told import Told

WITHIN_S = 60.0
REPOSITORY = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("child.py")
SEED = "2021-11-01-preview"
SCOPE_ID = "0ne00STANDIN"

Json = dict[str, Any]


MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"SIGKILL loses nothing that was written, synced or not, so a shared disk need not be waited for."


@contextlib.contextmanager
def short_root() -> Iterator[Path]:
    """A directory with a short name: a Unix socket's path holds 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="id-", dir=MEMORY))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _spawn(
    *options: str, environ: Mapping[str, str] | None = None, pass_fds: tuple[int, ...] = ()
) -> "subprocess.Popen[bytes]":
    """A child that waits to be told what it is."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-P", str(CHILD), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=kept | {"PYTHONPATH": str(REPOSITORY)} | dict(environ or {}),
        start_new_session=True,
        pass_fds=pass_fds,
    )


class Ahead:
    """One child is always growing up while a test goes on: imports are most of what a start takes.

    Off unless a test suite asks for it: benchmarks want whole starts. Main thread only, since a child dies
    with the thread that started it (prctl(2)).
    """

    wanted = False
    _waiting: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def take(cls) -> "subprocess.Popen[bytes]":
        taken, cls._waiting = cls._waiting or _spawn("--ahead"), _spawn("--ahead")
        return taken

    @classmethod
    def close(cls) -> None:
        cls.wanted = False
        waiting, cls._waiting = cls._waiting, None
        if waiting is not None:
            waiting.kill()
            waiting.communicate()


class Process:
    """One command. Its output is collected; it is killed by its pid, and dies with the test anyway."""

    def __init__(
        self,
        *arguments: str,
        program: str = "identityd",
        cold: bool = False,
        peculiar: Mapping[str, int] | None = None,
        forks: ForkServer | None = None,
        **environ: str,
    ) -> None:
        """``cold`` starts from nothing, as in life; ``peculiar`` is what child.py says."""
        peculiar = peculiar or {}
        asked = {"program": program, "arguments": arguments, "environ": environ, "parent": os.getpid()}
        self._process: subprocess.Popen[bytes] | Forked
        if forks is not None and not cold:
            self._process = forks.start(asked | dict(peculiar))
        elif Ahead.wanted and not cold and "socket" not in peculiar:
            self._process = Ahead.take()
        else:
            fds = tuple(peculiar[name] for name in peculiar if name == "socket")
            self._process = _spawn(environ=environ, pass_fds=fds)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(json.dumps(asked | dict(peculiar)).encode() + b"\n")
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._told = Told(self._process.stdout)

    @property
    def lines(self) -> list[str]:
        return self._told.lines

    @property
    def log(self) -> str:
        return self._told.text

    def until_line(self, *texts: str, within_s: float = WITHIN_S) -> str:
        """The first line that holds one of these."""
        place = 0

        def come() -> bool:
            nonlocal place
            while place < len(self.lines):
                if any(text in self.lines[place] for text in texts):
                    return True
                place += 1
            return False

        if not self._told.until(come, time.monotonic() + within_s):
            raise AssertionError(f"no line with {' or '.join(texts)} in:\n{self.log}")
        return self.lines[place]

    def until_more_than(self, lines: int, deadline: float) -> bool:
        """Whether another line came before that instant of time.monotonic()."""
        return self._told.until(lambda: len(self.lines) > lines, deadline)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and gone on return."""
        self._process.kill()
        self.wait()

    def stop(self) -> int:
        """SIGTERM, and gone on return; its exit status."""
        self._process.terminate()
        return self.wait()

    def wait(self, within_s: float = WITHIN_S) -> int:
        try:
            status = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"still running after {within_s} s:\n{self.log}") from None
        self._told.wait(within_s)
        return status


class Answer(NamedTuple):
    """Of one HTTP request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


def ask(path: Path, target: str, method: str = "GET", body: bytes | None = None) -> Answer:
    """One request over a Unix socket."""
    connection = _UnixConnection(str(path))
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


class Cloud:
    """The stand-in for DPS and IoT Hub. Everything about it is set per request, so tests can share one."""

    def __init__(self, root: Path, *options: str, lifetime_s: float = 3600) -> None:
        self.root = root
        arguments = ["cloud", "--root", str(root), "--cert-lifetime", str(lifetime_s), "--retry-after", "0"]
        self.process = Process(*arguments, *options)
        self.endpoint: str = json.loads(self.process.until_line('{"endpoint"'))["endpoint"]
        self.port = int(self.endpoint.rpartition(":")[2])
        self.ca_file = root / "cloud" / "ca.pem"
        self.key = (root / "cloud" / "enrolment.key").read_text().strip()
        self._tls = ssl.create_default_context(cafile=str(self.ca_file))

    @property
    def hub(self) -> str:
        return f"localhost:{self.port}"

    def ask(self, target: str, method: str = "GET", body: bytes | None = None) -> Answer:
        connection = http.client.HTTPSConnection("localhost", self.port, context=self._tls, timeout=WITHIN_S)
        try:
            connection.request(method, target, body)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def faults(self, *faults: Json) -> None:
        """These, from now on; none heals everything."""
        answer = self.ask("/_cloud/faults", "PUT", json.dumps({"fault": faults}).encode())
        assert answer.status == 204, answer.body

    def options(self, **options: object) -> None:
        answer = self.ask("/_cloud/options", "PUT", json.dumps(options).encode())
        assert answer.status == 204, answer.body

    def bundle(self, pem: bytes) -> None:
        """What is sent as the trust bundle; nothing removes it."""
        answer = self.ask("/_cloud/bundle", "PUT", pem)
        assert answer.status == 204, answer.body

    def log(self, start: int = 1) -> list[Json]:
        entries: list[Json] = self.ask(f"/_cloud/log?from={start}").json["entries"]
        return entries

    def close(self) -> None:
        self.process.kill()


class Pair(NamedTuple):
    """What the disk holds as current, certificate and key compared."""

    generation: int
    leaf: x509.Certificate
    chain_pem: bytes
    spki: bytes


class Torn(AssertionError):
    """The disk does not hold what it must."""


class Device:
    """One device below its own root."""

    def __init__(self, root: Path, cloud: Cloud | None, name: str = "device") -> None:
        self.root, self.cloud, self.name = root, cloud, name
        self.config = root / "etc/aziot/config.toml"
        self.state = root / "var/lib/aziot/identityd"
        self.credentials = self.state / "credentials"
        self.journal = self.state / "journal.jsonl"
        self.control = root / "run/aziot/control.sock"
        self.certd = root / "run/aziot/certd.sock"
        self.process: Process | None = None
        self.forks: ForkServer | None = None
        "Where its processes come from, unless they start cold; none: from the harness itself."
        self.logs: list[str] = []
        "Of every process so far."

    # --- configuration and life ----------------------------------------------------------------------

    def configure(
        self,
        *,
        top: str = "",
        attestation: str | None = None,
        identityd: str = "",
        attempts: str = "backoff_base_sec = 1\nbackoff_cap_sec = 2",
        more: str = "",
        provisioning: str = "",
        ca_file: bool = True,
    ) -> "Device":
        """Write config.toml for the cloud; each part may be replaced or added to."""
        assert self.cloud is not None
        if attestation is None:
            attestation = (
                f'method = "symmetric_key"\nregistration_id = "{self.name}"\n'
                f'symmetric_key = {{ value = "{self.cloud.key}" }}'
            )
        parts = [
            top,
            '[provisioning]\nsource = "dps"',
            f'global_endpoint = "{self.cloud.endpoint}"\nid_scope = "{SCOPE_ID}"',
            provisioning,
            f"[provisioning.attestation]\n{attestation}",
            f"[identityd]\n{identityd}",
            f"[identityd.attempts]\nbudget_registrations = 10000\n{attempts}",
            f'[identityd.tls]\nca_file = "{self.cloud.ca_file}"' if ca_file else "",
            more,
        ]
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text("\n".join(parts) + "\n")
        return self

    def start(
        self,
        *,
        ready: bool = True,
        cold: bool = False,
        peculiar: Mapping[str, int] | None = None,
        **environ: str,
    ) -> "Device":
        """Run the service; ``ready`` waits until it says so."""
        assert self.process is None
        self.process = Process(
            "run", "--root", str(self.root), cold=cold, peculiar=peculiar, forks=self.forks, **environ
        )
        if ready:
            self.process.until_line("READY")
        return self

    def kill(self) -> None:
        self._end("kill")

    def stop(self) -> int:
        status = self._end("stop")
        assert status is not None
        return status

    def _end(self, how: str) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        status: int | None = getattr(process, how)()
        self.logs.append(process.log)
        return status

    @property
    def log(self) -> str:
        return "\n".join([*self.logs, self.process.log if self.process is not None else ""])

    # --- asking it -----------------------------------------------------------------------------------

    def status(self) -> Json:
        answer = ask(self.control, "/v1/status")
        assert answer.status == 200, answer
        status: Json = answer.json
        return status

    def events(self, start: int | None = None) -> Iterator[Json]:
        """Records from ``start`` on (default: those to come), heartbeats included, until it hangs up."""
        connection = _UnixConnection(str(self.control))
        try:
            connection.request("GET", "/v1/events" + ("" if start is None else f"?from={start}"))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            while line := answer.readline():
                yield json.loads(line)
            answer.close()
        except (ConnectionError, http.client.IncompleteRead):
            return
        finally:
            connection.close()

    def until(self, wanted: Callable[[Json], bool], within_s: float = WITHIN_S) -> Json:
        """The first status seen that is wanted; looked at whenever the service has logged something.

        Not the event stream: that one ends while the journal is unavailable.
        """
        assert self.process is not None
        deadline = time.monotonic() + within_s
        while True:
            seen = len(self.process.lines)
            status = self.status()
            if wanted(status):
                return status
            if not self.process.until_more_than(seen, deadline):
                raise AssertionError(f"never came about; last was {status}\n{self.log}")

    def until_record(self, wanted: Callable[[Json], bool], start: int = 1) -> Json:
        """The first record from ``start`` on that is wanted."""
        deadline = time.monotonic() + WITHIN_S
        for line in self.events(start):
            if line["type"] == "record" and wanted(line):
                return line
            if time.monotonic() > deadline:
                break
        raise AssertionError(f"no such record from {start} on\n{self.log}")

    def until_provisioned(self) -> Json:
        return self.until(lambda status: status["state"] == "Provisioned" and status["phase"] == "Idle")

    def command(self, name: str) -> int:
        """`renew` or `reprovision`; the sequence of its record."""
        answer = ask(self.control, f"/v1/{name}", "POST")
        assert answer.status == 202, answer.body
        sequence: int = answer.json["sequence"]
        return sequence

    def attempt(self, name: str) -> list[Json]:
        """Order an attempt and see it end: its records, the command's first."""
        start = self.command(name)
        records: list[Json] = []
        for line in self.events(start):
            if line["type"] == "record":
                records.append(line)
                if line["phase"] == "Idle":
                    return records
        raise AssertionError(f"{name} did not end\n{self.log}")

    def certificate(self, certificate_id: str, *, short: bool = False) -> Answer:
        """As IoT Edge asks certd."""
        prefix = "" if short else "/certificates"
        return ask(self.certd, f"{prefix}/{certificate_id}?api-version=2020-09-01")

    def run(self, *words: str, program: str = "identityd") -> tuple[int, str]:
        """A command line against this root: status and output."""
        process = Process(*words, "--root", str(self.root), program=program)
        return process.wait(), process.log

    # --- its disk ------------------------------------------------------------------------------------

    def pair(self) -> Pair | None:
        """What is current; None when nothing is, or a certificate-less assignment. Raises Torn."""
        try:
            generation = int(os.readlink(self.credentials / "current"))
        except FileNotFoundError:
            self._nothing_published()
            return None
        directory = self.credentials / str(generation)
        if json.loads((directory / "assignment.json").read_bytes())["source"] == "configured":
            self._nothing_published()
            return None
        pair = _read_pair(generation, directory / "chain.pem", directory / "key.pem")
        certificate, key = self.published("certd/certs", "cert"), self.published("keyd/keys", "certkey")
        if certificate is None or key is None or _read_pair(generation, certificate, key) != pair:
            raise Torn(f"the original's names do not lead to generation {generation}")
        return pair

    def published(self, directory: str, kind: str) -> Path | None:
        """The file or link under the original's name, when it leads somewhere."""
        found = glob.glob(str(self.root / "var/lib/aziot" / directory / f"aziotdpsidentity{kind}-*"))
        return next((Path(path) for path in found if os.path.exists(path)), None)

    def _nothing_published(self) -> None:
        found = self.published("certd/certs", "cert") or self.published("keyd/keys", "certkey")
        if found is not None:
            raise Torn(f"{found} leads somewhere although no credential is current")

    def reading(self) -> Reading:
        """The active journal file, judged."""
        return read(self.journal.read_bytes())

    def records(self) -> list[Json]:
        """Of every journal file, as far as whole."""
        paths = [*sorted(self.state.glob("journal-*.jsonl")), self.journal]
        lines = [line for path in paths for line in path.read_bytes().split(b"\n")[:-1]]
        return [record for record in map(json.loads, lines) if record["type"] == "record"]


def _read_pair(generation: int, chain: Path, key: Path) -> Pair:
    try:
        chain_pem = chain.read_bytes()
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        private = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError) as exc:
        raise Torn(f"{chain} or {key}: {exc}") from exc
    if leaf.public_key() != private.public_key():
        raise Torn(f"{chain} is not for {key}")
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Pair(generation, leaf, chain_pem, spki)


# --- shorthand for predicates ------------------------------------------------------------------------


def event_is(kind: str, **facts: object) -> Callable[[Json], bool]:
    """A record of that event."""

    def check(record: Json) -> bool:
        event = record["event"]
        return event["type"] == kind and all(event.get(name) == value for name, value in facts.items())

    return check


def wishes(kind: str) -> Callable[[Json], bool]:
    """A record with that effect."""
    return lambda record: any(effect["type"] == kind for effect in record["effects"])


def effects_of(records: list[Json], kind: str) -> list[Json]:
    return [effect for record in records for effect in record["effects"] if effect["type"] == kind]


def hang_up(number: Process) -> None:
    number.send(signal.SIGHUP)
