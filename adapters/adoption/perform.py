"""Carrying out an adoption, and undoing it. The original's own files are only ever read, until an undo.

The order is what makes a crash harmless: copies first, which nobody looks at without an identity; then the
record; then the generation, whose pointer is flipped last by one rename. Up to there nothing was taken over,
from there on all of it. Run again, every step finds what is there and goes on.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

import msgspec
from msgspec import structs

from adapters import config
from adapters.adoption.original import Homes, Original, read_original
from adapters.adoption.plan import Copy, Here, Intended, Plan, intend
from adapters.driven.adopted import (
    FILE,
    Adopted,
    Kept,
    directory,
    kept_path,
    read_record,
    write_record,
)
from adapters.driven.files import make_durable_directory, read_file, unavailable
from adapters.driven.generation_changes import GenerationChanges
from adapters.driven.generations import Damaged, Layout
from adapters.driven.hub_modules import Where
from adapters.driven.instance_lock import FILE as LOCK
from adapters.driven.instance_lock import InstanceLock
from adapters.driven.module_cache import directory_name
from adapters.driven.onboarding_trial import Places, effective
from adapters.driven.reconcile import FILE as RECONCILED
from adapters.durable import replace_file, sync_directory
from adapters.errors import AdapterError, StoreUnavailable
from adapters.paths import Paths
from adapters.whoami import identify
from statemachine.events import Inventory
from statemachine.settings import Configuration
from statemachine.snapshot import Snapshot

MAX_THERE_BYTES = 2 * 1024 * 1024
UNDONE = "undone-"
_DAEMONS = frozenset({"aziot-identityd", "aziot-certd", "aziot-keyd"})


def plan_adoption(paths: Paths, source: str, *, partly: bool = False) -> Plan:
    """What would be done; writes nothing. Raises ConfigurationInvalid and StoreUnavailable."""
    plan = _intended(paths, source, partly=partly).plan
    running = [*_locked(paths.state_dir), *_original_runs(plan)]
    return structs.replace(plan, refusals=(*plan.refusals, *running)) if running else plan


def adopt(paths: Paths, source: str, *, partly: bool = False) -> Plan:
    """Do it, unless something refuses. Raises ConfigurationInvalid, AlreadyRunning and StoreUnavailable."""
    first = plan_adoption(paths, source, partly=partly)
    if first.refusals or first.nothing_to_do:
        return first
    lock = InstanceLock(paths.state_dir)
    with _as_owner(paths.state_dir):
        lock.acquire()  # which makes directory and file
    try:
        intended = _intended(paths, source, partly=partly)
        if intended.plan.refusals or intended.plan.nothing_to_do:
            return intended.plan
        with _as_owner(paths.state_dir):
            _carry_out(paths, intended)
        return structs.replace(intended.plan, applied=True)
    finally:
        lock.release()


def _intended(paths: Paths, source: str, *, partly: bool) -> Intended:
    configuration = config.load(paths.config, root=paths.root)
    original = read_original(source)
    return intend(original, _here(paths, original, configuration), partly=partly)


def _here(paths: Paths, original: Original, configuration: Configuration) -> Here:
    homes, ours = original.homes, Homes.below(paths.root)
    # A credential that is issued on the device: its files are the original's, wherever they lie.
    view = Places(homes.identityd, homes.certd, homes.keyd).view(None)
    layout = Layout(paths.state_dir, paths.certd_home, paths.keyd_home)
    try:
        record = read_record(paths.state_dir)
    except (OSError, ValueError) as exc:
        raise StoreUnavailable(
            f"{os.path.join(directory(paths.state_dir), FILE)} cannot be read: {exc}; move it away",
            code="record-unusable",
            failure_class="operator",
        ) from exc
    return Here(
        root=paths.root,
        in_place=homes.root == ours.root,
        configuration=configuration,
        identity=identify(effective(configuration, view.trial), Snapshot()),
        inventory=_inventory(layout),
        record=record,
        files={} if homes.root == ours.root else _there(paths, original),
        reconciled=os.path.lexists(os.path.join(paths.state_dir, RECONCILED)),
        now_unix_ms=time.time_ns() // 1_000_000,
    )


def _inventory(layout: Layout) -> Inventory:
    """As GenerationStore has it, without the tidying up that opening does."""
    pointer = layout.pointer()
    if pointer.generation is None:
        return Inventory(problem=pointer.problem, newest_generation=layout.newest())
    try:
        return Inventory(current=layout.check(pointer.generation), newest_generation=layout.newest())
    except Damaged as exc:
        return Inventory(problem=str(exc), newest_generation=layout.newest())


def _there(paths: Paths, original: Original) -> dict[tuple[str, str], bytes]:
    """What this service has of the names it would be given."""
    wanted = [("certs", name) for name in original.certificates] + [("keys", name) for name in original.keys]
    wanted += [("modules", file.name) for file in original.modules]
    device = original.device
    where = Where(hub=device.hub if device else "", device_id=device.device_id if device else "")
    found = {}
    for home, name in wanted:
        path = os.path.join(_home(paths, where, home), name)
        try:
            content = read_file(path, MAX_THERE_BYTES)
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                continue  # a name that leads into our store
            raise unavailable(exc, path) from exc
        if content is not None:
            found[home, name] = content
    return found


def _home(paths: Paths, where: Where, home: str) -> str:
    match home:
        case "certs":
            return os.path.join(paths.certd_home, "certs")
        case "keys":
            return os.path.join(paths.keyd_home, "keys")
    return os.path.join(paths.state_dir, "modules", directory_name(where))


# --- doing -------------------------------------------------------------------------------------------


def _carry_out(paths: Paths, intended: Intended) -> None:
    """Raises StoreUnavailable and what GenerationChanges does."""
    plan = intended.plan
    layout = Layout(paths.state_dir, paths.certd_home, paths.keyd_home)
    generation = layout.newest() + 1
    try:
        for copy in intended.copies:
            _copy(paths, plan, copy)
        if intended.reconciled is not None:
            path = os.path.join(paths.state_dir, RECONCILED)
            replace_file(path, msgspec.json.encode(intended.reconciled))
        kept = intended.kept if intended.commit is not None else ()
        for one, content in kept:
            replace_file(kept_path(paths.state_dir, one), content)
        write_record(
            paths.state_dir,
            Adopted(
                source=plan.source,
                in_place=plan.in_place,
                at_unix_ms=time.time_ns() // 1_000_000,
                generation=None if intended.commit is None else generation,
                sha256=intended.sha256,
                kept=tuple(one for one, _ in kept),
            ),
        )
        if intended.commit is not None:
            changes = GenerationChanges(layout)
            if intended.key_pem is not None:
                changes.take_key(generation, intended.key_pem)
            commit = structs.replace(intended.commit, generation=generation)
            changes.commit(commit, publish=not plan.in_place)
    except OSError as exc:
        raise unavailable(exc, paths.state_dir) from exc


def _copy(paths: Paths, plan: Plan, copy: Copy) -> None:
    home = _home(paths, Where(hub=plan.hub or "", device_id=plan.device_id or ""), copy.home)
    make_durable_directory(home)
    replace_file(os.path.join(home, copy.name), copy.content)


@contextlib.contextmanager
def _as_owner(path: str) -> Iterator[None]:
    """As whoever owns ``path``, or what of it is there: root must leave nothing that its owner cannot read.

    Where the owner could not write, neither will the service be able to; so it is better found out now.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    status = os.stat(path)
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0 or status.st_uid == 0:
        yield
        return
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)


# --- who is in the way -------------------------------------------------------------------------------


def _locked(state_dir: str) -> Iterator[str]:
    """A look at the lock that leaves no trace."""
    path = os.path.join(state_dir, LOCK)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        yield f"a service runs on {state_dir}: stop it first"
    finally:
        os.close(handle)


def _original_runs(plan: Plan, proc: str = "/proc") -> Iterator[str]:
    """Only of the system's own root can it be told whose processes these are."""
    if plan.source != "/":
        return
    found = set()
    for name in os.listdir(proc):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(os.path.join(proc, name, "comm")) as file:
                found.add(file.read(64).strip())
    if running := sorted(found & _DAEMONS):
        yield f"the original runs ({', '.join(running)}): `aziotctl system stop`, and mask its sockets"


# --- and back ----------------------------------------------------------------------------------------


def undo(paths: Paths) -> tuple[str, ...]:
    """Put the original's files back where our links are, and set our state aside. Returns what was done.

    Raises AlreadyRunning and StoreUnavailable; run again it goes on where it ended.
    """
    for problem in _locked(paths.state_dir):
        raise StoreUnavailable(problem, code="running", failure_class="operator")
    if not os.path.isdir(paths.state_dir):
        raise _nothing_to_undo(paths)
    with InstanceLock(paths.state_dir):
        try:
            record = read_record(paths.state_dir)
            if record is None:
                raise _nothing_to_undo(paths)
            return tuple(_undo(paths, record))
        except ValueError as exc:
            raise StoreUnavailable(
                f"the record of the adoption is damaged: {exc}", code="record-unusable"
            ) from exc
        except OSError as exc:
            raise unavailable(exc, paths.state_dir) from exc


def _nothing_to_undo(paths: Paths) -> AdapterError:
    return StoreUnavailable(
        f"{paths.state_dir} remembers no adoption, so there is none to undo",
        code="not-adopted",
        failure_class="operator",
    )


def _undo(paths: Paths, record: Adopted) -> Iterator[str]:
    layout = Layout(paths.state_dir, paths.certd_home, paths.keyd_home)
    if record.in_place:
        for kept in record.kept:
            _put_back(paths, layout, kept)
            yield f"put back: {_original_path(layout, kept)}"
        for home in (layout.certs, layout.keys):
            yield from (f"removed: {link}" for link in _our_links(layout, home))
    aside = _free_name(paths.state_dir)
    moved = [
        name
        for name in sorted(os.listdir(paths.state_dir))
        if name in ("credentials", RECONCILED) or (name.startswith("journal") and ".jsonl" in name)
    ]
    os.mkdir(aside, 0o700)
    for name in moved:
        os.rename(os.path.join(paths.state_dir, name), os.path.join(aside, name))
    sync_directory(aside)
    sync_directory(paths.state_dir)
    # Last: without it there is nothing to go on with.
    os.rename(os.path.join(directory(paths.state_dir), FILE), os.path.join(aside, FILE))
    sync_directory(directory(paths.state_dir))
    yield f"set aside: {aside}"


def _put_back(paths: Paths, layout: Layout, kept: Kept) -> None:
    source = kept_path(paths.state_dir, kept)
    content = read_file(source, MAX_THERE_BYTES)
    if content is None:
        raise FileNotFoundError(errno.ENOENT, "the copy of the original's file is missing", source)
    target = _original_path(layout, kept)
    replace_file(target, content, mode=kept.mode)
    with contextlib.suppress(PermissionError):
        os.chown(target, kept.uid, kept.gid)


def _original_path(layout: Layout, kept: Kept) -> str:
    return os.path.join(layout.certs if kept.kind == "certs" else layout.keys, kept.name)


def _our_links(layout: Layout, home: str) -> Iterator[str]:
    try:
        names = sorted(os.listdir(home))
    except FileNotFoundError:
        return
    lead = os.path.join(os.path.relpath(os.path.realpath(layout.root), os.path.realpath(home)), "current")
    for name in names:
        path = os.path.join(home, name)
        if os.path.islink(path) and os.readlink(path).startswith(f"{lead}/"):
            os.unlink(path)
            yield path
    sync_directory(home)


def _free_name(state_dir: str) -> str:
    for number in range(1, 10_000):
        path = os.path.join(directory(state_dir), f"{UNDONE}{number}")
        if not os.path.lexists(path):
            return path
    raise FileExistsError(errno.EEXIST, "too many earlier ones", directory(state_dir))
