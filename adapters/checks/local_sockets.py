"""Who can connect to the sockets, and whether those who are to can."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator

from adapters.checks.files import WRITABLE, named, service_uid
from adapters.checks.outcome import Finding, Outcome, ignored, judged, skipped
from adapters.checks.subject import SOCKETS, Subject, reason_of
from adapters.sockets import SOCKET_GROUPS, SOCKET_MODE, WORKLOAD_SOCKET_MODE

_RESTART = "restart the service, or the socket unit that made it"


def permissions(subject: Subject) -> Outcome:
    """Owner, group and mode of each socket, and of the directory they are in."""
    run_dir = subject.paths.run_dir
    tried = f"looking at owner, group and mode of {run_dir} and the sockets in it"
    if not os.path.isdir(run_dir):
        return ignored(f"{run_dir} does not exist: the service has not run since the machine started")
    findings = list(_directory(run_dir))
    owners = frozenset({0, service_uid(subject)})
    there = 0
    for name in SOCKETS:
        path = subject.socket(name)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            if subject.running:
                seen = f"{path} does not exist, although the service runs"
                findings.append(Finding(seen=seen, fix=_RESTART))
            continue
        except OSError as exc:
            findings.append(Finding(seen=f"{path}: {reason_of(exc)}", fix="use sudo"))
            continue
        there += 1
        findings += _socket(name, path, found, owners)
    if not there and not findings:
        return ignored("the service does not run, so there are no sockets")
    return judged(tried, findings, seen=f"{there} sockets are as they should be")


def principals(subject: Subject) -> Outcome:
    """Every user the configuration gives rights to."""
    configuration = subject.configuration
    if configuration is None:
        return skipped("the configuration cannot be used")
    wanted: dict[int, set[str]] = {}
    findings = []
    for principal in configuration.identities.principals:
        wanted.setdefault(principal.uid, set()).add("identityd")
        if principal.uid == 0:
            seen = f'uid 0 is the principal "{principal.name}", and has lost the rights of root by that'
            fix = "run that program as a user of its own, and name this one"
            findings.append(Finding(seen=seen, fix=fix, severe=False))
    for grant in configuration.keys.grants:
        wanted.setdefault(grant.uid, set()).add("keyd")
        if "*" in grant.keys and grant.uid != 0:
            seen = f"{named(grant.uid)} may use every key there is (keyd, pattern *)"
            findings.append(Finding(seen=seen, fix="name the keys it needs", severe=False))
    for allowed in configuration.certificates.grants:
        wanted.setdefault(allowed.uid, set()).add("certd")
        if "*" in allowed.certs and allowed.uid != 0:
            seen = f"{named(allowed.uid)} may write every certificate (certd, pattern *)"
            findings.append(Finding(seen=seen, fix="name the certificates it writes", severe=False))
    for uid in configuration.control.principals:
        wanted.setdefault(uid, set()).add("control")
    if not wanted:
        return ignored("there are no principals")
    for uid, sockets in sorted(wanted.items()):
        findings += _reach(subject, uid, sorted(sockets))
    return judged(
        "looking up each user of a [[principal]], and the groups that open the sockets it needs",
        findings,
        seen=f"{len(wanted)} users exist and can connect",
    )


def _directory(path: str) -> Iterator[Finding]:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & WRITABLE and not mode & stat.S_ISVTX:
        seen = f"{path} has mode {mode:04o}: others can put sockets of their own in place of the service's"
        yield Finding(seen=seen, fix=f"sudo chmod 0755 {path}")
    elif mode & 0o055 != 0o055:
        seen = f"{path} has mode {mode:04o}: only its owner can reach the sockets"
        yield Finding(seen=seen, fix=f"sudo chmod 0755 {path}", severe=False)


def _socket(name: str, path: str, found: os.stat_result, owners: frozenset[int]) -> Iterator[Finding]:
    if not stat.S_ISSOCK(found.st_mode):
        yield Finding(seen=f"{path} is not a socket", fix="move it away and restart the service")
        return
    mode = stat.S_IMODE(found.st_mode)
    expected = WORKLOAD_SOCKET_MODE if name == "workload" else SOCKET_MODE
    if mode & ~expected:
        seen = f"{path} has mode {mode:04o}, which lets in more than {expected:04o}"
        yield Finding(seen=seen, fix=f"sudo chmod {expected:04o} {path}, and see who changed it")
    elif mode != expected:
        seen = f"{path} has mode {mode:04o} instead of {expected:04o}: some who are to connect cannot"
        yield Finding(seen=seen, fix=f"sudo chmod {expected:04o} {path}", severe=False)
    if found.st_uid not in owners:
        yield Finding(seen=f"{path} belongs to {named(found.st_uid)}", fix=_RESTART)
    group = _gid(SOCKET_GROUPS[name])
    if group is not None and found.st_gid != group and os.geteuid() == 0:
        seen = f"{path} does not belong to group {SOCKET_GROUPS[name]}"
        yield Finding(seen=seen, fix=f"sudo chgrp {SOCKET_GROUPS[name]} {path}", severe=False)


def _reach(subject: Subject, uid: int, sockets: list[str]) -> Iterator[Finding]:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        seen = f"uid {uid} is a principal, and no user of this machine"
        yield Finding(seen=seen, fix="create the user, or correct uid in the drop-in", severe=False)
        return
    if uid == 0:
        return
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    for name in sockets:
        path = subject.socket(name)
        try:
            found = os.stat(path)
        except OSError:
            continue
        if found.st_uid == uid and found.st_mode & stat.S_IWUSR:
            continue
        if not found.st_mode & stat.S_IWOTH and not (found.st_mode & stat.S_IWGRP and found.st_gid in groups):
            group = _group_name(found.st_gid)
            seen = (
                f"{user.pw_name} is a principal of {name}, but is not in group {group} and cannot open {path}"
            )
            yield Finding(seen=seen, fix=f"sudo usermod -aG {group} {user.pw_name}", severe=False)


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"
