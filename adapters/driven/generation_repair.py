"""Opening the credential store: tidy up after a crash, repair what can be repaired, say what was wrong.

Refusing to start is losing the device, so nothing here raises. A step that fails leaves a note.
"""

import contextlib
import os
import stat

from adapters.driven.files import make_durable_directory, remove_tree, settle_directory, unavailable
from adapters.driven.generation_changes import GenerationChanges
from adapters.driven.generations import ASSIGNMENT, LIMITS, NEW, Damaged, Layout
from adapters.errors import bounded


def repair(changes: GenerationChanges, *, given_up: bool = False) -> tuple[str, ...]:
    """What was wrong, one sentence each; empty when nothing was.

    ``given_up``: the device is to be erased, so nothing of it is put right or shown.
    """
    notes: list[str] = []
    steps = [_make_directories, _purge, _sweep, _tighten]
    for step in steps if given_up else [*steps, _aim, _settle]:
        try:
            step(changes, notes)
        except OSError as exc:
            notes.append(unavailable(exc, changes.layout.root).message)
    return tuple(dict.fromkeys(bounded(note) for note in notes))


def _make_directories(changes: GenerationChanges, notes: list[str]) -> None:
    layout = changes.layout
    for directory in (layout.root, layout.certs, layout.keys):
        make_durable_directory(directory)
        if layout.pointer().generation is None:
            # Nothing was promised yet. Once it is, all of this is on disk, and starts need not care.
            settle_directory(directory)


def _purge(changes: GenerationChanges, notes: list[str]) -> None:
    if changes.layout.being_purged():
        changes.purge()


def _sweep(changes: GenerationChanges, notes: list[str]) -> None:
    """Half-written and half-removed things are worth nothing."""
    layout = changes.layout
    for name in layout.leftovers():
        remove_tree(os.path.join(layout.root, name))
    for generation in layout.generations():
        directory = layout.directory(generation)
        with contextlib.suppress(NotADirectoryError):
            for name in os.listdir(directory):
                if name.endswith(NEW):
                    remove_tree(os.path.join(directory, name))
    changes.names.sweep()


def _tighten(changes: GenerationChanges, notes: list[str]) -> None:
    """Restored backups and copied images bring foreign modes along."""
    layout = changes.layout
    generations = [layout.directory(generation) for generation in layout.generations()]
    wanted = dict.fromkeys([layout.root, *generations], 0o700)
    wanted |= {os.path.join(directory, name): 0o600 for directory in generations for name in LIMITS}
    for path, mode in wanted.items():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = os.lstat(path)
            if status.st_mode & 0o077 and not stat.S_ISLNK(status.st_mode):
                os.chmod(path, mode)
                notes.append(f"{path} was open to others; its mode is {mode:04o} now")


def _aim(changes: GenerationChanges, notes: list[str]) -> None:
    """When the pointer leads to no complete generation, adopt the newest that is one."""
    layout = changes.layout
    if layout.being_purged():
        return
    pointer = layout.pointer()
    reason = pointer.problem
    belongs: tuple[str, str] | None = None
    if pointer.generation is not None:
        try:
            layout.check(pointer.generation)
        except Damaged as exc:
            reason = str(exc)
        else:
            return
        with contextlib.suppress(Damaged):
            assignment = layout.assignment(pointer.generation)
            belongs = (assignment.hub, assignment.device_id)
    for generation in layout.generations():
        try:
            found = layout.check(generation)
        except Damaged:
            continue
        # A device that was moved must not go back to the hub it came from.
        if belongs is None or belongs == (found.hub, found.device_id):
            changes.flip(generation)
            if reason is not None or _has_history(layout, generation):
                why = reason or f"{layout.pointer_path} is missing"
                notes.append(f"{why}; generation {generation} is in use, the newest that is complete")
            return
    if reason is not None:
        notes.append(reason)


def _has_history(layout: Layout, generation: int) -> bool:
    """Whether another one was ever committed. If not, the very first commit was cut short before its flip,
    which takes nothing away from anybody."""
    others = (one for one in layout.generations() if one != generation)
    return any(os.path.lexists(layout.file(one, ASSIGNMENT)) for one in others)


def _settle(changes: GenerationChanges, notes: list[str]) -> None:
    """Finish what a commit does around its flip."""
    if changes.layout.being_purged():
        return
    generation = changes.layout.pointer().generation
    try:
        assignment = None if generation is None else changes.layout.assignment(generation)
    except Damaged:
        assignment = None
    if generation is None or assignment is None:
        # Nothing of ours to show: what the original left under these names stays readable.
        changes.names.show()
        return
    if assignment.source == "configured":
        changes.unpublish(generation)
    changes.names.show(assignment.bundle_id, over_files=True)
    changes.names.drop_old_bundles(assignment.bundle_id)
