"""What it costs to be durable, beside the bare system calls on the same disk in the same minute."""

import datetime
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from adapters.driven.credentials import GenerationStore
from adapters.driven.journal_file import open_journal
from statemachine.effects import CommitCredential, RetireCredential, StageKey
from statemachine.events import CredentialCommitted, KeyStaged
from statemachine.journal import sequence_of
from tests.benchmarks.report import Batches, Measure

LINE_BYTES = 500
"About what a record has."


def measure_disk(*, quick: bool) -> list[Measure]:
    with _directory() as directory:
        return trio.run(_measure, directory, 100 if quick else 400, 15 if quick else 60)


async def _measure(directory: Path, appends: int, swaps: int) -> list[Measure]:
    append = await _appends(directory, appends)
    swap = await _swaps(directory, swaps)
    return [
        append.measure("durable append p99", "write + fdatasync", f"{appends} records"),
        swap.measure("credential swap p99", "temp, rename, 2 fsync", f"{swaps} swaps"),
    ]


async def _appends(directory: Path, count: int) -> Batches:
    journal = open_journal(str(directory / "journal"), sequence_of)
    journal.begin([b'{"type":"header"}\n', b'{"type":"checkpoint"}\n'])
    handle = os.open(directory / "bare", os.O_RDWR | os.O_CREAT)
    batches = Batches(1)
    sequence = 0
    try:
        for _ in batches:
            for _ in range(count):
                sequence += 1
                head = b'{"type":"record","sequence":%d,"pad":"' % sequence
                line = head + b"x" * (LINE_BYTES - len(head) - 3) + b'"}\n'
                began = time.perf_counter()
                await journal.append(line)
                middle = time.perf_counter()
                os.write(handle, line)
                os.fdatasync(handle)
                batches.ours[-1].append((middle - began) * 1000)
                batches.bare[-1].append((time.perf_counter() - middle) * 1000)
    finally:
        os.close(handle)
        journal.close()
    return batches


async def _swaps(directory: Path, count: int) -> Batches:
    store = GenerationStore(*(str(directory / name) for name in ("identityd", "certd", "keyd")))
    store.open()
    ca = ec.generate_private_key(ec.SECP256R1())
    batches = Batches(10)
    generation = 0
    for _ in batches:
        for _ in range(count):
            generation += 1
            staged = await store.stage(
                "1.1.0", StageKey(generation=generation, algorithm="ec-p256", common_name="device-1")
            )
            assert isinstance(staged, KeyStaged), staged
            effect = CommitCredential(
                generation=generation,
                hub="hub.example",
                device_id="device-1",
                fingerprint="f1",
                chain_pem=_certificate(ca, store.key_path(generation)),
                bundle_id="aziot-dps-trust-bundle",
            )
            began = time.perf_counter()
            committed = await store.commit("1.2.0", effect)
            middle = time.perf_counter()
            assert isinstance(committed, CredentialCommitted), committed
            _replace(directory / "pointer")
            batches.ours[-1].append((middle - began) * 1000)
            batches.bare[-1].append((time.perf_counter() - middle) * 1000)
            await store.retire("1.3.0", RetireCredential(keep=(generation,)))
    return batches


def _replace(path: Path) -> None:
    """The least a durable replacement takes."""
    handle = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(handle, b"x" * 4096)
    os.fsync(handle)
    os.close(handle)
    os.rename(f"{path}.new", path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _certificate(ca: ec.EllipticCurvePrivateKey, key_path: str) -> bytes:
    key = load_pem_private_key(Path(key_path).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device-1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=90))
        .sign(ca, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


@contextmanager
def _directory() -> Iterator[Path]:
    """On a real disk: a file system in memory syncs for nothing."""
    path = Path(tempfile.mkdtemp(prefix="identityd-bench-", dir="/var/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
