"""identityd support-bundle: what somebody far away needs to know of this device, and nothing secret."""

import base64
import gzip
import io
import os
import platform
import pwd
import socket
import sys
import tarfile
import time
from argparse import Namespace
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import msgspec

from adapters.checks.certificates import rfc3339
from adapters.checks.run import Done, run
from adapters.checks.subject import MAX_JOURNAL_BYTES, Subject
from adapters.cli.check import as_object, report_lines, subject_of
from adapters.cli.failure import DONE, CommandFailed
from adapters.cli.journal_export import write_private
from adapters.cli.screen import Ink
from adapters.config_files import read_sources
from adapters.config_findings import Findings
from adapters.config_redacted import redacted_files
from adapters.errors import bounded
from adapters.journal_copy import copy_journal, learn, pseudonymise_json
from adapters.pseudonyms import Pseudonyms
from adapters.release import VERSION
from statemachine.errors import JournalUnreadable
from statemachine.explain import story
from statemachine.journal import read
from statemachine.settings import DpsProvisioning, ManualProvisioning, SymmetricKeySource
from statemachine.status import Status

MAX_ASIDE_BYTES = 8 * 1024 * 1024
"Of all damaged journal files together."
FIRST_PERSON = 1000
"User ids below are the system's (login.defs(5), UID_MIN)."
LEAST_SECRET = 6
"Characters: a shorter password would be found in every text."
_PRIVATE = (b"PRIVATE KEY-----", b"SharedAccessKey=", b"SharedAccessSignature ")
"Nothing that may be told has these in it."

Members = dict[str, bytes]


def main(args: Namespace) -> int:
    """Write the bundle, mode 0600; the service may run or not."""
    subject = subject_of(args)
    leave_out = {name for given in args.dont_run for name in given.split()}
    done = list(run(subject, leave_out))
    if done and done[-1].outcome.kind == "fatal":
        raise CommandFailed(done[-1].outcome.message)
    pseudonyms = Pseudonyms() if args.pseudonymise else None
    if pseudonyms is not None:
        _learn(subject, pseudonyms)
    notes: list[str] = []
    members = dict(_members(subject, done, pseudonyms, notes))
    for name in [name for name, content in members.items() if _holds_secret(content, subject)]:
        del members[name]
        notes.append(f"{name} was left out: something in it looks like a secret")
    told = notes if pseudonyms is None else [pseudonyms.text(note) for note in notes]
    members["about.json"] = _json(_about(subject, args.pseudonymise, told))
    content = _packed(members, subject.now_unix_ms // 1000)
    name = args.file or time.strftime("identityd-support-%Y%m%d-%H%M%S.tar.gz", time.gmtime())
    for note in notes:
        print(f"identityd: {bounded(note)}", file=sys.stderr)
    if name == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return DONE
    write_private(name, content)
    names = "with other names" if args.pseudonymise else "with its real names: --pseudonymise replaces them"
    print(f"{name}: {len(content)} bytes, {len(members)} files, {names}")
    return DONE


def _members(
    subject: Subject, done: list[Done], pseudonyms: Pseudonyms | None, notes: list[str]
) -> Iterator[tuple[str, bytes]]:
    # The journal first: its names are then known in every text.
    yield from _journal(subject, pseudonyms, notes)

    def told(value: object) -> bytes:
        return _json(value if pseudonyms is None else pseudonymise_json(value, pseudonyms))

    def text(lines: list[str]) -> bytes:
        shown = lines if pseudonyms is None else [pseudonyms.text(line) for line in lines]
        return "".join(f"{line}\n" for line in shown).encode()

    words = str if pseudonyms is None else pseudonyms.text
    status, source = _status(subject)
    if status is not None:
        yield "status.json", told({"source": source, "status": msgspec.to_builtins(status)})
        yield "explain.txt", text([bounded(line, 1000) for line in story(status)])
    else:
        notes.append("there is no status: the service does not run, and no journal can be read")
    yield "check.json", told(as_object(done, subject))
    yield "check.txt", text(list(report_lines(done, Ink(environ={"NO_COLOR": "1"}), verbose=True)))
    findings = Findings(subject.paths.config)
    sources = read_sources(subject.paths.config, findings)
    if sources is not None:
        # Paths may tell a name; in the bundle they count from the directory of config.toml.
        top = os.path.dirname(subject.paths.config)
        for number, (path, content) in enumerate(redacted_files(sources, words)):
            place = os.path.relpath(path, top)
            shown = place if pseudonyms is None or number == 0 else _drop_in(place, number)
            yield f"config/{shown}", content.encode()
    problems = [*findings.lines, *subject.read.problems]
    if problems:
        yield "config/problems.txt", text(list(dict.fromkeys(problems)))


def _drop_in(place: str, number: int) -> str:
    """The operator named the file; its service and its place in the order matter."""
    return f"{place.partition('/')[0]}/config.d/{number:03}.toml"


def _journal(
    subject: Subject, pseudonyms: Pseudonyms | None, notes: list[str]
) -> Iterator[tuple[str, bytes]]:
    named: list[tuple[str, bytes]] = []
    left = MAX_JOURNAL_BYTES
    for path in reversed(subject.journal_files):
        content = _read(path, notes)
        left -= len(content or b"")
        if left < 0:
            notes.append(f"{os.path.basename(path)} and older journal files are left out: too large")
            break
        if content is not None:
            named.insert(0, (os.path.basename(path), content))
    if pseudonyms is None:
        yield from ((f"journal/{name}", content) for name, content in named)
        yield from _set_aside(subject, notes)
        return
    believed = [(name, whole) for name, content in named if (whole := _believed(name, content, notes))]
    if not believed:
        return
    try:
        copied = copy_journal(believed, pseudonyms)
    except JournalUnreadable as exc:
        notes.append(f"journal: left out: {bounded(str(exc))}")
        return
    notes.extend(f"journal: {note}" for note in copied.notes)
    yield "journal/journal.jsonl", copied.content


def _believed(name: str, content: bytes, notes: list[str]) -> bytes:
    """A file up to its first damage, for names can be replaced only in what is understood; else nothing."""
    reading = read(content)
    if reading.problem is None or reading.torn:
        return content
    if reading.snapshot is None:
        notes.append(f"{name} is left out: {reading.problem}")
        return b""
    notes.append(f"{name} ends before its first damage: {reading.problem}")
    return content[: reading.good_bytes]


def _set_aside(subject: Subject, notes: list[str]) -> Iterator[tuple[str, bytes]]:
    left = MAX_ASIDE_BYTES
    for path in reversed(subject.set_aside):
        content = _read(path, notes)
        left -= len(content or b"")
        if content is not None and left >= 0:
            yield f"journal/{os.path.basename(path)}", content


def _read(path: str, notes: list[str]) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_JOURNAL_BYTES + 1)
    except OSError as exc:
        notes.append(f"{os.path.basename(path)} cannot be read: {exc.strerror}")
        return None


def _status(subject: Subject) -> tuple[Status | None, str]:
    """The running service's own word, else what its journal comes to."""
    if "control" in subject.running:
        answer = subject.ask("control", "/v1/status")
        try:
            return msgspec.json.decode(answer.body, type=Status), "running service"
        except msgspec.DecodeError:
            pass
    return subject.status, "journal"


def _about(subject: Subject, pseudonymised: bool, notes: list[str]) -> dict[str, object]:
    return {
        "created": rfc3339(subject.now_unix_ms),
        "software_version": VERSION,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "running": sorted(subject.running),
        "pseudonymised": pseudonymised,
        "notes": notes,
    }


def _learn(subject: Subject, pseudonyms: Pseudonyms) -> None:
    """Every name that the configuration and the machine have."""
    configuration = subject.configuration
    pseudonyms.of("host", socket.gethostname())
    if configuration is not None:
        match configuration.provisioning:
            case DpsProvisioning(global_endpoint=endpoint, scope_id=scope, registration_id=name):
                pseudonyms.of("url", endpoint)
                pseudonyms.of("scope", scope)
                pseudonyms.of("device", name or "")
            case ManualProvisioning(hub=hub, device_id=name, gateway=gateway):
                pseudonyms.of("host", hub)
                pseudonyms.of("device", name)
                pseudonyms.of("host", gateway or "")
        pseudonyms.of("host", configuration.hostname or "")
        pseudonyms.of("host", configuration.identities.local_domain or "")
        for principal in configuration.identities.principals:
            pseudonyms.of("name", principal.name)
            pseudonyms.of("name", _user(principal.uid))
        uids = [grant.uid for grant in configuration.keys.grants]
        uids += [grant.uid for grant in configuration.certificates.grants]
        for uid in uids:
            pseudonyms.of("name", _user(uid))
    if subject.hub is not None:
        pseudonyms.of("host", subject.hub)
    if subject.status is not None:
        learn(msgspec.to_builtins(subject.status), pseudonyms)


def _user(uid: int) -> str:
    """Empty for root and other users of the system, who have the same names everywhere."""
    try:
        return pwd.getpwuid(uid).pw_name if uid >= FIRST_PERSON else ""
    except (KeyError, OverflowError):
        return ""


def _holds_secret(content: bytes, subject: Subject) -> bool:
    """A second look at everything: what is packed was made without secrets in the first place."""
    return any(secret in content for secret in (*_PRIVATE, *_secrets(subject)))


def _secrets(subject: Subject) -> Iterator[bytes]:
    credential = subject.credential
    if isinstance(credential, SymmetricKeySource) and credential.value is not None:
        key = credential.value
        yield from (key, base64.b64encode(key), base64.urlsafe_b64encode(key), key.hex().encode())
    for environ in (subject.environ, subject.service_environ or {}, subject.proxy_environ):
        for name in ("HTTPS_PROXY", "https_proxy"):
            try:
                password = urlsplit(environ.get(name, "")).password or ""
            except ValueError:
                password = ""
            for one in (password, unquote(password)):
                if len(one) >= LEAST_SECRET:
                    yield one.encode()


def _packed(members: Members, now_unix_s: int) -> bytes:
    """A .tar.gz that belongs to nobody, in one directory."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=now_unix_s) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in sorted(members.items()):
            member = tarfile.TarInfo(f"identityd-support/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, now_unix_s
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
