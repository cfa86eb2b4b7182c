"""A long life in little time: one service, certificates that live seconds, a client that never stops asking.

``python -m tests.service.soak [--renewals 1000]``

One ``identityd run`` renews by itself, over TLS, against the stand-in cloud in another process, while a
client uses what it serves. Once a second the client reads the device identity (identityd.sock) and the
certificate it names (certd.sock), has a digest signed with the key handle (keyd.sock), checks the signature
against the certificate, and connects to the stand-in hub with both: TLS 1.3 with client authentication whose
signature is made through the handle too (``handle_tls``), so that no private key is ever read from the disk.
A renewal may fall between two of its reads; then they do not fit, and it may read once more. Nothing else is
forgiven.

After every round the process is looked at: memory, descriptors, threads, journal, files. At the end the next
certificate lives long, what was superseded has gone, and the disk holds the same files as after the first
registration; every journal file, also those the service has dropped since, is replayed with
``identityd replay``. Exit status 0 only if nothing grew and nothing failed. No bound is one of time, so a
busy machine only makes it slower.
"""

import argparse
import base64
import contextlib
import json
import os
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from tests.service.device import WITHIN_S, Answer, Cloud, Device, Json, ask, short_root
from tests.service.handle_tls import HandleTls, chain_of

LIFETIME_S = 10
RENEWAL = "earliest_percent = 5\nlatest_percent = 11"
"A renewal about each second, when nine tenths of the life are left."
SEGMENT_BYTES, KEEP_BYTES = 65_536, 262_144
JOURNAL_BYTES = KEEP_BYTES + 2 * SEGMENT_BYTES
"Closed files are dropped after one more was closed; the last record may go beyond the end of its file."
PERIOD_S = 1.0

WARM_UP = 100
"Renewals after which memory is looked at: by then every path of a renewal was taken."
WINDOW = 100
"Renewals of the two stretches that are compared, the first after the warm-up and the last."
GROWTH_KIB = 1024
"Between the medians of the two stretches."
FILES = 300
"About a dozen generations of four files have certificates that have not ended; a leak has thousands."

Say = Callable[[str], None]


class Sample(NamedTuple):
    """The service between two rounds."""

    renewals: int
    rss_kib: int
    fds: int
    threads: int
    journal_bytes: int
    files: int


class Failed(Exception):
    """The client did not get what it was promised."""


class Mismatch(Failed):
    """Identity, certificate and signature do not fit each other."""


# --- the client --------------------------------------------------------------------------------------


class Client:
    """Somebody who needs the identity."""

    def __init__(self, device: Device, cloud: Cloud) -> None:
        self.device, self.cloud = device, cloud
        self.sockets = device.root / "run/aziot"
        self.anchors = x509.load_pem_x509_certificates(cloud.ca_file.read_bytes())
        self.rounds = self.read_again = 0
        self.serials: set[int] = set()

    def attempt(self, renewals: int) -> Iterator[str]:
        """One round; what went wrong, of whatever kind."""
        try:
            self.round()
        except Exception as exc:
            yield f"after {renewals} renewals: {type(exc).__name__}: {exc}"

    def round(self) -> None:
        """Raises Failed, TlsFailed, OSError, or what a parser makes of nonsense."""
        try:
            found = self._read()
        except Mismatch:
            self.read_again += 1
            found = self._read()
        self._connect(*found)
        self.rounds += 1

    def _read(self) -> tuple[str, str]:
        """The key handle, and the certificate as PEM, found to belong together."""
        answer = ask(
            self.sockets / "identityd.sock",
            "/identities/device?api-version=2020-09-01",
            "POST",
            b'{"type":"aziot"}',
        )
        auth = _body(answer, "the device identity")["spec"]["auth"]
        if auth["type"] != "x509":
            raise Failed(f"the identity is of type {auth['type']}")
        handle: str = auth["keyHandle"]
        pem: str = _body(self.device.certificate(auth["certId"]), "the certificate")["pem"]
        leaf = x509.load_pem_x509_certificate(pem.encode())
        digest = os.urandom(32)
        signature = self._sign(handle, digest)
        key = leaf.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        try:
            key.verify(signature, digest, ec.ECDSA(utils.Prehashed(SHA256())))
        except InvalidSignature:
            raise Mismatch(f"the handle does not sign for certificate {leaf.serial_number:x}") from None
        self.serials.add(leaf.serial_number)
        return handle, pem

    def _sign(self, handle: str, digest: bytes) -> bytes:
        request = {
            "keyHandle": handle,
            "algorithm": "ECDSA",
            "parameters": {"digest": base64.b64encode(digest).decode()},
        }
        answer = ask(
            self.sockets / "keyd.sock", "/sign?api-version=2021-05-01", "POST", json.dumps(request).encode()
        )
        return base64.b64decode(_body(answer, "the signature")["signature"])

    def _connect(self, handle: str, pem: str) -> None:
        connection = HandleTls(
            self.cloud.port,
            anchors=self.anchors,
            chain=chain_of(pem),
            sign=lambda digest: self._sign(handle, digest),
            within_s=WITHIN_S,
        )
        with contextlib.closing(connection):
            status, body = connection.get(f"/devices/{self.device.name}/modules?api-version=2021-04-12")
        if status != 200:
            raise Failed(f"the hub answers {status}: {body[:300]!r}")


def _body(answer: Answer, what: str) -> Json:
    if answer.status != 200:
        raise Failed(f"{what}: {answer.status} {answer.body[:300]!r}")
    body: Json = answer.json
    return body


# --- what is looked at -------------------------------------------------------------------------------


def sample(device: Device) -> Sample:
    """The process and its directories now."""
    assert device.process is not None
    process = Path(f"/proc/{device.process.pid}")
    facts = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    journal: dict[int, int] = {}
    for path in device.state.glob("journal*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            journal[status.st_ino] = status.st_size  # a file that is being closed has two names
    return Sample(
        # The first generation was registered; a failed attempt's key is used again, so numbers have no gap.
        renewals=device.status()["credential"]["generation"] - 1,
        rss_kib=int(facts["VmRSS"].split()[0]),
        fds=len(os.listdir(process / "fd")),
        threads=int(facts["Threads"]),
        journal_bytes=sum(journal.values()),
        files=len(files_of(device)),
    )


def files_of(device: Device) -> list[str]:
    """What lies in the state directories, journal files aside; a generation's number as N."""
    base = device.root / "var/lib/aziot"
    found: list[str] = []
    for directory, directories, names in os.walk(base):
        links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        found += [os.path.relpath(os.path.join(directory, name), base) for name in (*names, *links)]
    kept = (path for path in found if not re.match(r"identityd/journal[^/]*\.jsonl", path))
    return sorted(re.sub(r"credentials/\d+", "credentials/N", path) for path in kept)


class Archive:
    """Every journal file there ever was: those that are closed get a second name elsewhere."""

    def __init__(self, device: Device, directory: Path) -> None:
        self.device, self.directory = device, directory
        directory.mkdir()

    def keep(self) -> None:
        for path in self.device.state.glob("journal-*.jsonl"):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.link(path, self.directory / path.name)

    def all(self) -> list[Path]:
        """Oldest first; the service has ended."""
        self.keep()
        return [*sorted(self.directory.iterdir()), self.device.journal]

    @property
    def dropped(self) -> int:
        """How many the service has removed again."""
        return sum(not (self.device.state / path.name).exists() for path in self.directory.iterdir())


def judge(samples: Sequence[Sample]) -> Iterator[str]:
    """What grew; the growth of memory only when there were enough renewals to tell."""
    peak = max(one.journal_bytes for one in samples)
    if peak > JOURNAL_BYTES:
        yield f"the journal took {peak} bytes, {JOURNAL_BYTES} are allowed"
    peak = max(one.files for one in samples)
    if peak > FILES:
        yield f"there were {peak} files in the state directories, {FILES} are allowed"
    stretches = compared(samples)
    if stretches is None:
        return
    first, last = stretches
    grown = _median(last, "rss_kib") - _median(first, "rss_kib")
    if grown > GROWTH_KIB:
        yield f"memory grew by {grown:.0f} KiB, {GROWTH_KIB} are allowed"
    for name in ("fds", "threads"):
        # Connections and worker threads come and go; one that stays lifts the least there ever is.
        before, after = (min(getattr(one, name) for one in stretch) for stretch in (first, last))
        if after > before:
            yield f"{name}: never below {before} at first, never below {after} at last"


def compared(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]] | None:
    """The two stretches, when they are apart."""
    end = samples[-1].renewals
    if end < WARM_UP + 2 * WINDOW:
        return None
    first = [one for one in samples if WARM_UP <= one.renewals < WARM_UP + WINDOW]
    last = [one for one in samples if one.renewals > end - WINDOW]
    return (first, last) if first and last else None


def _median(samples: Sequence[Sample], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in samples))


# --- the whole ---------------------------------------------------------------------------------------


def soak(*, renewals: int, lifetime_s: int = LIFETIME_S, say: Say = print) -> list[str]:
    """Problems; empty when nothing grew and nothing failed."""
    begun = time.monotonic()
    with short_root() as directory:
        cloud = Cloud(directory / "cloud", "--assigning", "0", lifetime_s=lifetime_s)
        device = Device(directory / "device", cloud, "device").configure(
            more=f"[identityd.renewal]\n{RENEWAL}\n"
            f"[identityd.journal]\nsegment_bytes = {SEGMENT_BYTES}\nkeep_bytes = {KEEP_BYTES}"
        )
        try:
            return _soak(device, cloud, renewals, say, begun)
        except Exception:
            print(f"--- log of the service\n{device.log[-6000:]}\n---", file=sys.stderr)
            raise
        finally:
            device.kill()
            cloud.close()


def _soak(device: Device, cloud: Cloud, renewals: int, say: Say, begun: float) -> list[str]:
    # Not until it rests: with such lives it may do that between two looks only.
    device.start().until(lambda status: status["credential"] is not None)
    client = Client(device, cloud)
    archive = Archive(device, device.root.parent / "archive")
    problems = list(client.attempt(1))  # its handle makes the key that authenticates handles
    at_first = sorted(set(files_of(device)))
    samples = [sample(device)]
    tick, never = time.monotonic(), threading.Event()
    while samples[-1].renewals < renewals:
        tick = max(tick + PERIOD_S, time.monotonic())
        never.wait(tick - time.monotonic())
        problems += client.attempt(samples[-1].renewals)
        samples.append(sample(device))
        archive.keep()
        if samples[-1].renewals // 100 > samples[-2].renewals // 100:
            say(f"{time.monotonic() - begun:5.0f} s  {samples[-1]}")
    problems += judge(samples)
    problems += _end(device, cloud, at_first)
    problems += client.attempt(samples[-1].renewals)
    if device.stop() != 0:
        problems.append("it did not stop gracefully")
    _tell(samples, client, say, time.monotonic() - begun)
    problems += _history(device, archive, renewals, say)
    return problems


def _end(device: Device, cloud: Cloud, at_first: list[str]) -> Iterator[str]:
    """The next certificate lives long, and everything superseded goes."""
    cloud.options(cert_lifetime_s=86_400)
    here = device.status()["sequence"]
    numbers = re.compile(r"\d+")
    device.until_record(
        lambda _: sum(bool(numbers.fullmatch(name)) for name in os.listdir(device.credentials)) == 1, here
    )
    status = device.until_provisioned()
    if status["degraded"] or status["stuck"]:
        yield f"it is degraded or stuck: {status}"
    at_last = files_of(device)
    if at_last != at_first:
        yield f"files at first {at_first}, at last {at_last}"


def _tell(samples: Sequence[Sample], client: Client, say: Say, took_s: float) -> None:
    say(f"{samples[-1].renewals} renewals in {took_s:.0f} s, {client.rounds} rounds of the client")
    say(f"{len(client.serials)} certificates seen, {client.read_again} times read again")
    stretches = compared(samples)
    for name in ("rss_kib", "fds", "threads"):
        values = [getattr(one, name) for one in samples]
        line = f"{name}: {values[0]} at first, {min(values)} to {max(values)}"
        if stretches is not None:
            before, after = (_median(stretch, name) for stretch in stretches)
            line += (
                f"; median of the first {WINDOW} renewals after {WARM_UP}: {before:g}, of the last: {after:g}"
            )
        say(line)
    for name in ("journal_bytes", "files"):
        say(f"{name}: at most {max(getattr(one, name) for one in samples)}")


def _history(device: Device, archive: Archive, renewals: int, say: Say) -> Iterator[str]:
    """Every record there ever was, counted and replayed."""
    paths = archive.all()
    status, said = device.run("replay", *map(str, paths))
    if status != 0:
        yield f"replay: {said[-2000:]}"
    if archive.dropped == 0 and renewals >= WARM_UP:
        yield "the service has never dropped a journal file"
    lines = [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]
    records = [line for line in lines if line["type"] == "record"]
    if [record["sequence"] for record in records] != list(range(1, len(records) + 1)):
        yield "the journal has gaps"
    kinds = Counter(record["event"]["type"] for record in records)
    states = Counter(record["state"] for record in records)
    if kinds["credential-committed"] <= renewals:
        yield f"only {kinds['credential-committed']} credentials were committed"
    if states["Reprovisioning"]:
        yield "a certificate had ended, or was refused"
    failures = {kind: count for kind, count in kinds.items() if kind.endswith("-failed")}
    say(
        f"{len(records)} records in {len(paths)} journal files, {archive.dropped} of them dropped; "
        f"{kinds['credential-committed']} credentials committed; failures: {failures or 'none'}"
    )
    say(f"identityd replay: {said.splitlines()[-1] if said else ''} (exit status {status})")


def main(argv: list[str] | None = None) -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.service.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--renewals", type=int, default=1000)
    args = parser.parse_args(argv)
    problems = soak(renewals=args.renewals, say=lambda line: print(line, flush=True))
    for problem in problems[:20]:
        print(f"FAILED  {problem}", file=sys.stderr)
    print(f"{len(problems)} failures" if problems else "nothing grew, nothing failed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
