"""The state directory: private, durable, and not full."""

import os

from msgspec import Struct

from adapters.checks.files import open_directories, privacy, service_uid
from adapters.checks.outcome import Finding, Outcome, failed, ignored, judged, ok, warned
from adapters.checks.subject import Subject, reason_of

MIB = 1024 * 1024
LEAST_BYTES = 2 * MIB
"A renewal and the records of it fit, and little else."
RESERVE_BYTES = 8 * MIB
"Above what the journal may still grow to."
LEAST_FILES = 32
MAX_ENTRIES = 10_000
MAX_MOUNTS_BYTES = 4 * MIB

_GONE_AT_RESTART = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_OF_A_CONTAINER = frozenset({"overlay", "aufs", "fuse-overlayfs"})
_WITHOUT_OWNERS = frozenset({"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk"})
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs"})


class Mount(Struct, frozen=True, kw_only=True):
    """The file system a path is on."""

    point: str
    kind: str
    options: frozenset[str]


def private(subject: Subject) -> Outcome:
    """Nobody but the service's user reads state, keys, or a configuration with a secret in it."""
    paths = subject.paths
    tried = "looking at owner and mode of the state directories and of every file with a secret in them"
    if not os.path.isdir(paths.state_dir):
        return ignored(f"{paths.state_dir} does not exist: the service has not run here yet")
    findings = list(open_directories(os.path.join(paths.state_dir, "."), "state"))
    secret = [paths.state_dir, paths.journal, paths.last_good_config, os.path.join(paths.keyd_home, "keys")]
    for directory in (os.path.join(paths.keyd_home, "keys"), subject.layout.root):
        found, problem = _keys_below(directory)
        secret += found
        findings += [] if problem is None else [problem]
    for path in dict.fromkeys(secret):
        findings += privacy(path, "state", subject)
    distinct = {one.seen: one for one in findings}
    return judged(tried, list(distinct.values()), seen=f"{len(secret)} files and directories are private")


def durable(subject: Subject) -> Outcome:
    """What kind of file system it is on, and whether it can be written."""
    directory = _existing(subject.paths.state_dir)
    mount = mount_of(directory, _mountinfo())
    if mount is None:
        return ignored("this system does not tell what is mounted where")
    info: dict[str, object] = {"mount": mount.point, "file_system": mount.kind}
    tried = f"looking up what {directory} is on ({mount.kind} at {mount.point})"
    if "ro" in mount.options:
        seen = f"{mount.point} is mounted read-only: nothing can be renewed, and nothing is remembered"
        return failed(tried, seen, f"sudo mount -o remount,rw {mount.point}; see dmesg for why", info=info)
    if not os.access(directory, os.W_OK) and os.geteuid() == service_uid(subject):
        return failed(tried, f"{directory} cannot be written", "correct its owner and mode", info=info)
    if mount.kind in _GONE_AT_RESTART:
        seen = (
            f"{mount.point} is memory ({mount.kind}): every restart of the machine registers the device anew"
        )
        return warned(tried, seen, f"mount {directory} from a disk", info=info)
    if mount.kind in _OF_A_CONTAINER:
        seen = f"{mount.point} is the layer of a container ({mount.kind}): it is gone with the container"
        return warned(tried, seen, f"mount a volume at {directory}", info=info)
    if mount.kind in _WITHOUT_OWNERS:
        seen = f"{mount.point} is {mount.kind}, which keeps neither owners nor links"
        return failed(tried, seen, "use a Linux file system, such as ext4", info=info)
    if mount.kind in _REMOTE:
        seen = f"{mount.point} is on another machine ({mount.kind}): without the network there is no identity"
        return warned(tried, seen, "use a disk of this machine", info=info)
    return ok(f"{mount.kind} at {mount.point}", **info)


def space(subject: Subject) -> Outcome:
    """Room for the journal's growth and a generation of credentials."""
    directory = _existing(subject.paths.state_dir)
    tried = f"asking how much is free where {directory} is"
    try:
        free = os.statvfs(directory)
    except OSError as exc:
        return failed(tried, f"{directory}: {reason_of(exc)}", "use sudo, or check the disk")
    free_bytes = free.f_bavail * free.f_frsize
    info: dict[str, object] = {
        "free_bytes": free_bytes,
        "free_files": free.f_favail if free.f_files else None,
    }
    findings = []
    journal = subject.configuration.journal if subject.configuration is not None else None
    grows = 0 if journal is None else journal.keep_bytes + journal.segment_bytes
    used = sum(os.path.getsize(path) for path in subject.journal_files if os.path.exists(path))
    wanted = max(grows - used, 0) + RESERVE_BYTES
    fix = "free some space there, or set [identityd.journal] keep_bytes lower"
    if free_bytes < LEAST_BYTES:
        seen = f"{free_bytes // 1024} KiB are free: a renewal hardly fits"
        findings.append(Finding(seen=seen, fix=fix))
    elif free_bytes < wanted:
        seen = f"{free_bytes // MIB} MiB are free; with the journal's growth {wanted // MIB} MiB are needed"
        findings.append(Finding(seen=seen, fix=fix, severe=False))
    if free.f_files and free.f_favail < LEAST_FILES:
        seen = f"{free.f_favail} more files can be made there; a renewal makes about ten"
        findings.append(Finding(seen=seen, fix="remove files there: the inodes are used up"))
    return judged(tried, findings, seen=f"{free_bytes // MIB} MiB are free", info=info)


def mount_of(path: str, mountinfo: str) -> Mount | None:
    """The mount that ``path`` is below, of the text of /proc/self/mountinfo (proc(5))."""
    path = os.path.realpath(path)
    best: Mount | None = None
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or len(rest) < 3:
            continue
        point = _unescaped(fields[4])
        if path != point and not path.startswith(f"{point.rstrip('/')}/"):
            continue
        # Of mounts over one another the last one is seen.
        if best is None or len(point) >= len(best.point):
            options = frozenset({*fields[5].split(","), *rest[2].split(",")})
            best = Mount(point=point, kind=rest[0], options=options)
    return best


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _mountinfo() -> str:
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            return file.read(MAX_MOUNTS_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _existing(path: str) -> str:
    while not os.path.isdir(path) and path != os.sep:
        path = os.path.dirname(path)
    return path


def _keys_below(directory: str) -> tuple[list[str], Finding | None]:
    found: list[str] = []
    seen = 0
    for folder, _, names in os.walk(directory):
        seen += 1 + len(names)
        if seen > MAX_ENTRIES:
            text = f"there are more than {MAX_ENTRIES} files below {directory}; not all were looked at"
            return found, Finding(seen=text, fix="find out who puts them there", severe=False)
        found += [
            os.path.join(folder, name)
            for name in sorted(names)
            if name.endswith((".key", "key.pem")) and not os.path.islink(os.path.join(folder, name))
        ]
    return found, None
