"""All that a release leaves on disk, kept: ``python -m tests.journals.state [--source DIR]``

``recorded-<version>/state.tar.gz`` holds the root of a device that was provisioned, renewed and stopped, and
what its stand-in cloud keeps, so that a later release can be started on the one and go on with the other. The
keys in it were made for it. Certificates live ten years; the cloud has a port of its own, since the device
knows it by that. The machine had no machine id, so that any machine is it.
"""

import argparse
import fcntl
import gzip
import io
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.journals.record import version_of
from tests.service import device as processes
from tests.service.device import REPOSITORY, Cloud, Device, short_root

HERE = Path(__file__).parent
NAME = "device-1"
PORT = 24_873
"Below the ports that connections get, and nobody's by IANA's list."
TEN_YEARS_S = 3_650 * 86_400.0


class Kept:
    """A device and its cloud below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Two at once would take each other's port: the second waits for the first.
        name = os.path.join(tempfile.gettempdir(), f"identityd-test-port-{PORT}")
        self._turn = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        # As SSL_CERT_FILE, not as ca_file: a path in config.toml would be that of one machine.
        self.ca_file = root / "cloud/cloud/ca.pem"
        self.cloud = Cloud(root / "cloud", "--port", str(PORT), lifetime_s=TEN_YEARS_S)
        self.device = Device(root / "device", self.cloud, NAME)

    def start(self, **environ: str) -> Device:
        return self.device.start(cold=True, SSL_CERT_FILE=str(self.ca_file), **environ)

    def close(self) -> None:
        self.device.kill()
        self.cloud.close()
        os.close(self._turn)


def unpack(archive: Path, root: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="tar")


def pack(root: Path) -> bytes:
    """The same tree is the same bytes, whoever owns it and whenever it was made."""
    made = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=made, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for path in sorted(root.rglob("*")):
            entry = tar.gettarinfo(path, str(path.relative_to(root)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = 0
            if entry.isreg():
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    return made.getvalue()


def record() -> bytes:
    with short_root() as root:
        kept = Kept(root)
        try:
            kept.device.configure(ca_file=False)
            kept.start().until_provisioned()
            kept.device.attempt("renew")
            if kept.device.stop() != 0:
                raise RuntimeError("the service did not stop gracefully")
        finally:
            kept.close()
        # Sockets, and the example of a device's configuration that the cloud writes for people.
        for path in (*root.rglob("*.sock"), *root.rglob("*.lock")):
            path.unlink()
        shutil.rmtree(root / "cloud/etc")
        shutil.rmtree(root / "device/run")
        for path in root.rglob("*"):
            if path.is_file() and os.fsencode(root) in path.read_bytes():
                raise RuntimeError(f"{path} names where it was made")
        return pack(root)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.journals.state", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="whose code runs (default: this one)")
    args = parser.parse_args(argv)
    target = HERE / f"recorded-{version_of(args.source)}" / "state.tar.gz"
    if target.exists():
        print(f"{target.parent.name}: kept")
        return 0
    processes.CHILD, processes.REPOSITORY = HERE / "child.py", args.source.resolve()
    target.write_bytes(record())
    print(f"{target.parent.name}: {target.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
