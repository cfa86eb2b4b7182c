"""identityd config apply: the files of the original's daemons, made of config.toml."""

import os
import pwd
import socket
from argparse import Namespace
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from adapters.cli.config_check import tell_remarks
from adapters.cli.failure import DONE, USAGE, CommandFailed
from adapters.cli.screen import Ink
from adapters.config_apply import USERS, files, made, read
from adapters.config_findings import Finding, Findings
from adapters.config_forms import Unfit, hostname
from adapters.config_install import BACKUP, Installed, Owner, Planned, install, plan
from adapters.config_outputs import DEVICE_KEY_FILE
from adapters.paths import service_paths

MAX_PASSWD_BYTES = 4_194_304


class FileAnswer(Struct, frozen=True, kw_only=True):
    """One file of ``--json``."""

    path: str
    change: str
    "`new`, `changed` or `unchanged`; before it was written, when it was."
    owner: str
    uid: int | None
    "None when the owner is not changed."
    size_bytes: int


class Answer(Struct, frozen=True, kw_only=True):
    """What ``--json`` prints."""

    written: bool
    files: tuple[FileAnswer, ...]
    backups: tuple[str, ...]
    opened: tuple[str, ...]
    "Directories that got read permission for everybody."
    remarks: tuple[Finding, ...]


def main(args: Namespace) -> int:
    """Nothing is written unless all of it can be."""
    paths = service_paths(args.root)
    source = args.config or paths.config
    findings = Findings(source)
    checked = read(source, findings)
    as_root = os.geteuid() == 0
    users = _users(args.user, paths.root, everybody=as_root)
    name = _hostname(args.hostname)
    if args.hostname is None and "hostname" not in checked.values and paths.root != "/":
        findings.note("hostname", f'nothing here, so the name of this machine: "{name}"; or say --hostname')
    ids = {user: owner.uid for user, owner in users.items()}
    outputs = made(checked, findings, hostname=name, users=ids)
    planned = plan(files(outputs), root=paths.root, owners=users if as_root else None)
    _note_old_key(outputs.device_key, paths.root, findings)
    installed = Installed(replaced=(), opened=())
    if not args.dry_run:
        installed = install(planned, root=paths.root)
    if args.json:
        _print_json(planned, installed, findings, written=not args.dry_run)
        return DONE
    tell_remarks(findings)
    for line in _told(planned, installed, Ink(), dry_run=args.dry_run):
        print(line)
    if not args.dry_run:
        print(f"The daemons read these files when they start; identityd reads {source} itself.")
    return DONE


def _told(planned: Sequence[Planned], installed: Installed, ink: Ink, *, dry_run: bool) -> Iterator[str]:
    width = max(len(one.path) for one in planned)
    for one in planned:
        style = "dim" if one.change == "unchanged" else "strong"
        yield f"{ink(style, one.change.ljust(9))}  {one.path.ljust(width)}  {one.file.owner}, 0600"
    if planned[0].owner is None:
        yield "Owners are not changed: only root can. They are to be the users named."
    for path in installed.opened:
        yield f"{path} can now be read by everybody: {USERS['keyd']} has to get past it."
    if installed.replaced:
        yield f"What was there before lies beside each file as NAME{BACKUP}."
    if dry_run:
        yield "Nothing was written."


def _print_json(
    planned: Sequence[Planned], installed: Installed, findings: Findings, *, written: bool
) -> None:
    answer = Answer(
        written=written,
        files=tuple(
            FileAnswer(
                path=one.path,
                change=one.change,
                owner=one.file.owner,
                uid=None if one.owner is None else one.owner.uid,
                size_bytes=len(one.file.content),
            )
            for one in planned
        ),
        backups=installed.replaced,
        opened=installed.opened,
        remarks=findings.remarks,
    )
    print(msgspec.json.encode(answer).decode())


def _note_old_key(device_key: bytes | None, root: str, findings: Findings) -> None:
    left = os.path.join(root, DEVICE_KEY_FILE.lstrip("/"))
    if device_key is None and os.path.lexists(left):
        findings.note("", f"{left} is left from before; nothing reads it now, and it holds a key")


# --- users and names ---------------------------------------------------------------------------------


def _hostname(given: str | None) -> str:
    if given is None:
        return socket.gethostname()
    try:
        return hostname(given)
    except Unfit as exc:
        allowed = "a host name of 1 to 253 letters, digits, '-', '_' and '.'"
        raise CommandFailed(f"--hostname is not {allowed}", USAGE) from exc


def _users(said: Sequence[tuple[str, int, int | None]], root: str, *, everybody: bool) -> dict[str, Owner]:
    """By name. Two are in what is written; the others only own it, which is root's to say."""
    wanted = USERS.values() if everybody else (USERS["identityd"], USERS["certd"])
    known = _of_image(root)
    given = {name: Owner(uid, uid if gid is None else gid) for name, uid, gid in said}
    found: dict[str, Owner] = {}
    for name in wanted:
        owner = given.get(name) or (_of_machine(name) if known is None else known.get(name))
        if owner is None:
            where = "on this machine" if known is None else f"in {root}/etc/passwd"
            raise CommandFailed(f"there is no user {name} {where}: say --user {name}=UID", USAGE)
        found[name] = owner
    return found


def _of_machine(name: str) -> Owner | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Owner(entry.pw_uid, entry.pw_gid)


def _of_image(root: str) -> dict[str, Owner] | None:
    """The users of the file system below ``root``, if it has any: they may not be those of this machine."""
    if root == "/":
        return None
    try:
        with open(os.path.join(root, "etc/passwd"), "rb") as file:
            content = file.read(MAX_PASSWD_BYTES)
    except OSError:
        return None
    found: dict[str, Owner] = {}
    for line in content.decode(errors="replace").splitlines():
        name, *rest = line.split(":")
        if len(rest) >= 3 and rest[1].isdigit() and rest[2].isdigit():
            found.setdefault(name, Owner(int(rest[1]), int(rest[2])))
    return found
