"""A Debian package built from this tree, and clean roots to install it in."""

import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EPOCH = "1790000000"
SUITE = "bookworm"
ASKED = os.environ.get("IDENTITYD_CLEAN_ROOT") == "1"
"`make deb-test`. It takes a minute or two and, the first time, Debian's archive and some minutes more."

CONFIG = """
[provisioning]
source = "dps"
global_endpoint = "{cloud.endpoint}"
id_scope = "0ne00STANDIN"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "clean-root"
symmetric_key = {{ {key} }}
[identityd.tls]
ca_file = "/etc/aziot/cloud.pem"
"""
"Of a device of the stand-in cloud, which runs outside: the package has none."
NEEDED = ("python3", "ca-certificates", "procps", "systemd-sysv")
"What the package depends on, and an empty Debian does not have; and systemd, to be booted."


def build(directory: Path, sources: Path = ROOT) -> Path:
    """The package, as `make deb` makes it."""
    done = subprocess.run(
        [str(sources / "packaging/build-deb.sh"), str(directory)],
        capture_output=True,
        text=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "DEB_LEVEL": "1", "PYTHON": sys.executable},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def contents(package: Path) -> list[tarfile.TarInfo]:
    """Of its file system part."""
    return _members(["dpkg-deb", "--fsys-tarfile", str(package)])


def control(package: Path, name: str) -> str:
    done = subprocess.run(
        ["dpkg-deb", "--info", str(package), name], capture_output=True, check=True, text=True
    )
    return done.stdout


def extract(package: Path, directory: Path) -> Path:
    subprocess.run(["dpkg-deb", "--extract", str(package), str(directory)], check=True, timeout=60)
    return directory


def _members(command: list[str]) -> list[tarfile.TarInfo]:
    packed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        return archive.getmembers()


def why_no_root() -> str | None:
    """Why no clean root can be had here; None when one can."""
    if os.geteuid() != 0:
        return "making a root needs root"
    for tool in ("unshare", "chroot", "dpkg-deb"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    if not cached_root().exists() and maker() is None:
        return "neither mmdebstrap nor debootstrap"
    return None


def maker() -> str | None:
    return next((tool for tool in ("mmdebstrap", "debootstrap") if shutil.which(tool)), None)


def cached_root() -> Path:
    return ROOT / "build" / f"clean-root-{SUITE}.tar"


needs_clean_root = pytest.mark.skipif(
    not ASKED or why_no_root() is not None, reason=(ASKED and why_no_root()) or "make deb-test runs it"
)


def clean_root(directory: Path) -> Path:
    """An empty Debian with what the package depends on; downloaded once, then unpacked anew each time."""
    tar = cached_root()
    if not tar.exists():
        tar.parent.mkdir(exist_ok=True)
        _make_root(tar)
    directory.mkdir()
    subprocess.run(
        ["tar", "-xf", str(tar), "-C", str(directory), "--exclude=./dev/*"], check=True, timeout=120
    )
    (directory / "dev").mkdir(exist_ok=True)
    os.mknod(directory / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
    os.chmod(directory / "dev/null", 0o666)
    # The installer of a real system writes it.
    (directory / "etc/hosts").write_text("127.0.0.1 localhost\n")
    return directory


def _make_root(tar: Path) -> None:
    new = tar.with_suffix(".new")
    if maker() == "mmdebstrap":
        command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"]
        command += [f"--include={','.join(NEEDED)}", SUITE, str(new)]
        subprocess.run(command, check=True, timeout=540, capture_output=True)
    else:
        tree = tar.with_suffix(".tree")
        shutil.rmtree(tree, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(NEEDED)}", SUITE, str(tree)]
        subprocess.run(command, check=True, timeout=540, capture_output=True)
        subprocess.run(["tar", "-cf", str(new), "-C", str(tree), "."], check=True, timeout=300)
        shutil.rmtree(tree)
    new.rename(tar)


class Root:
    """Commands inside a root, each in a process and mount namespace of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def command(self, *words: str) -> list[str]:
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return ["unshare", *namespaces, f"--root={self.directory}", "--", *words]

    def run(self, *words: str, status: int = 0, within_s: float = 120, **environ: str) -> str:
        """Its output, both kinds together; it must end with that status."""
        done = subprocess.run(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", **environ},
            timeout=within_s,
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def path(self, name: str) -> Path:
        return self.directory / name.lstrip("/")

    def set_up_device(self, *, config: str, ca_file: Path) -> None:
        """Configuration as an administrator leaves it: root's, and private."""
        etc = self.path("/etc/aziot")
        etc.mkdir(exist_ok=True)
        shutil.copy(ca_file, etc / "cloud.pem")
        (etc / "cloud.pem").chmod(0o644)
        (etc / "config.toml").write_text(config)
        (etc / "config.toml").chmod(0o600)
