"""Up and down between two releases, over one root, with real processes: ``python -m tests.upgrade``

``--previous REV`` names the release before this one in git (default: the newest tag, or HEAD without one).
Its code is taken out of git into a directory of its own and run from there with this environment. A device
lives on one root, under the one and the other in turn; after every start it must be provisioned, hold the
pair it held, have asked for nothing, and be able to renew. Then the previous release is given journals as a
later release may write them: it must set them aside and serve. Exit status 0 only if all of it held.
"""

import argparse
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from statemachine.replay import replay_files
from tests.journals.test_state import newer_field, newer_format, newer_rules, newer_tag
from tests.service.device import REPOSITORY, Cloud, Device, Torn, effects_of, short_root

THIS = "this"
LATER: tuple[Callable[[bytes], bytes], ...] = (newer_format, newer_rules, newer_tag, newer_field)
"Not in the last line: revisions up to 2b4efb4 take one that they do not understand for a torn write."


class Broken(Exception):
    """A change of the release lost something."""


def newest_release() -> str:
    found = _git("describe", "--tags", "--abbrev=0")
    return found.stdout.decode().strip() if found.returncode == 0 else "HEAD"


def take_out(revision: str, directory: Path) -> str:
    """The tree of a revision, and its short name. Raises Broken."""
    named, archive = _git("rev-parse", "--short", revision), _git("archive", revision)
    if named.returncode or archive.returncode:
        raise Broken(f"git has no {revision}: {(named.stderr or archive.stderr).decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return named.stdout.decode().strip()


def _git(*words: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, check=False)


class Lived:
    """One device, started by whichever release."""

    def __init__(self, root: Path, cloud: Cloud, releases: dict[str, Path], name: str) -> None:
        self.device = Device(root / name, cloud, name).configure()
        self.releases = releases

    def start(self, release: str) -> Device:
        return self.device.start(cold=True, PYTHONPATH=str(self.releases[release]))

    def change_to(self, release: str) -> str:
        """Start it over what the other one left, and judge. Returns what to tell. Raises Broken."""
        device = self.device
        before, records = device.pair(), device.records()
        last, under_way = records[-1]["sequence"], records[-1]["phase"] != "Idle"
        self.start(release)
        status = device.until_provisioned()
        pair = device.pair()
        if pair is None or (pair != before and not under_way):
            raise Broken(f"{release}: another pair than before")
        new = [record for record in device.records() if record["sequence"] > last]
        if effects_of(new, "submit-registration") and not under_way:
            raise Broken(f"{release}: it registered again")
        if device.reading().problem is not None:
            raise Broken(f"{release}: {device.reading().problem}")
        aside = [note for note in status["degraded"] if "set aside" in note]
        if status["stuck"] or len(aside) != len(status["degraded"]):
            raise Broken(f"{release}: {status['reason']}; {status['degraded']}")
        if device.attempt("renew")[-1]["state"] != "Provisioned":
            raise Broken(f"{release}: it cannot renew")
        after = device.pair()
        if after is None or after.generation <= pair.generation:
            raise Broken(f"{release}: renewed to nothing")
        how = f"set aside: {aside[0].partition('; ')[0]}" if aside else "the same history goes on"
        return f"generation {pair.generation} served, {after.generation} renewed; {how}"

    def stop(self) -> None:
        if self.device.stop() != 0:
            raise Broken("it did not stop gracefully")

    def kill_in(self, phase: str) -> None:
        begun = self.device.command("renew")
        self.device.until_record(lambda record: record["phase"] == phase, begun)
        self.device.kill()


def back_and_forth(lived: Lived, previous: str) -> Iterator[str]:
    """Upgrade and downgrade, after a graceful stop and after SIGKILL in an attempt."""
    lived.start(previous).until_provisioned()
    yield f"{previous}: provisioned on an empty disk"
    lived.stop()
    yield f"{previous} -> {THIS}: {lived.change_to(THIS)}"
    lived.stop()
    yield f"{THIS} -> {previous}: {lived.change_to(previous)}"
    lived.kill_in("Polling")
    yield f"{previous}, killed while polling -> {THIS}: {lived.change_to(THIS)}"
    lived.kill_in("Polling")
    yield f"{THIS}, killed while polling -> {previous}: {lived.change_to(previous)}"
    lived.stop()
    yield f"{previous} -> {THIS}: {lived.change_to(THIS)}"
    lived.stop()
    state = lived.device.state
    named = [
        (path.name, path.read_bytes())
        for path in (*sorted(state.glob("journal-*.jsonl")), lived.device.journal)
    ]
    outcome = replay_files(named)
    if not outcome.equal:
        raise Broken(f"replay: {outcome.unreadable or outcome.divergence}")
    yield f"{outcome.records} records in {len(named)} files replay equal under {THIS}"


def later_journals(lived: Lived, previous: str) -> Iterator[str]:
    """The previous release finds what a later one may write."""
    lived.start(THIS).until_provisioned()
    for change in LATER:
        lived.stop()
        content = change(lived.device.journal.read_bytes())
        lived.device.journal.write_bytes(content)
        told = lived.change_to(previous)
        if "set aside" not in told:
            raise Broken(f"{previous} took {change.__name__} for its own")
        yield f"{THIS}, {change.__name__} -> {previous}: {told}"


@contextmanager
def previous_release(revision: str) -> Iterator[tuple[str, dict[str, Path]]]:
    with short_root() as directory:
        name = take_out(revision, directory)
        yield name, {name: directory, THIS: REPOSITORY}


def main(argv: list[str] | None = None) -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--previous", metavar="REV", help="default: the newest tag, or HEAD without one")
    args = parser.parse_args(argv)
    done = 0
    try:
        with previous_release(args.previous or newest_release()) as (name, releases), short_root() as root:
            cloud = Cloud(root / "cloud", "--assigning", "1")
            try:
                for story in (back_and_forth, later_journals):
                    lived = Lived(root, cloud, releases, story.__name__.replace("_", "-"))
                    try:
                        for line in story(lived, name):
                            print(line, flush=True)
                            done += 1
                    except (Broken, Torn, AssertionError):
                        print(lived.device.log[-4000:], file=sys.stderr)
                        raise
                    finally:
                        lived.device.kill()
            finally:
                cloud.close()
    except (Broken, Torn, AssertionError) as exc:
        print(f"LOST  {exc}", file=sys.stderr)
        return 1
    print(f"{done} steps between {name} and {THIS}: nothing was lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
