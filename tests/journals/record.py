"""Records journals from real runs: ``python -m tests.journals.record [--source DIR] [NAME ...]``

Each is what the real service wrote as a real process, over real sockets and TLS, against the stand-in cloud.
They go to ``recorded-<version>``, a folder for each release: what a release wrote must replay for ever. So a
file that exists is never written again, and never edited. ``--source`` records with the code of another
directory, such as a clean copy of the release.

Nothing is cut out of what was recorded. What must not be in it is looked for before it is kept: keys,
tokens, paths, the name of this machine. The hash of the machine id is made up (see child.py). ``wrong-clock``
ran with its wall clock replaced, for a machine has only one and others need it right; every other clock is
real.
``hub-refusal`` takes 16 minutes, because that is what the rules ask of refusals.
"""

import argparse
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from statemachine.replay import replay_files
from tests.service import device as processes
from tests.service.device import REPOSITORY, Cloud, Device, ask, event_is, hang_up, short_root, wishes

HERE = Path(__file__).parent
MACHINE = "0f0e0d0c0b0a09080706050403020100"
LONG_S = 30 * 86_400
"Nobody waits for the end of these certificates."
TRIES = 40
"To hit one moment of an attempt with a signal."
REFUSALS_APART_S = 8 * 60
SHORT_S = 12
"A tenth of it is more than a renewal takes."

Json = dict[str, object]


class Stage:
    """One cloud and one device, with what a recording sets up about them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = root / "clock"
        self.cloud = Cloud(root / "cloud", lifetime_s=LONG_S)
        self.made = 0
        self.device = self.fresh()

    def fresh(self) -> Device:
        """Another device, as if there had never been one."""
        self.made += 1
        self.device = Device(self.root / f"d{self.made}", self.cloud, "device-1")
        return self.device.configure()

    def start(self, **environ: str) -> Device:
        return self.device.start(cold=True, RECORDED_MACHINE=MACHINE, **environ)

    def close(self) -> None:
        self.device.kill()
        self.cloud.close()


# --- what is recorded --------------------------------------------------------------------------------


def first_start(stage: Stage) -> None:
    stage.start().until_provisioned()


def csr_refused(stage: Stage) -> None:
    stage.cloud.options(identity_certs=False)
    device = stage.start()
    device.until_provisioned()
    stage.cloud.options(identity_certs=True)
    device.attempt("renew")


def renewal(stage: Stage) -> None:
    stage.cloud.options(cert_lifetime_s=SHORT_S)
    device = stage.start()
    device.until_record(event_is("credential-committed", generation=2))
    stage.cloud.options(cert_lifetime_s=LONG_S)
    committed = device.until_record(event_is("credential-committed", generation=3))
    device.until_record(event_is("credential-retired"), committed["sequence"])


def key_kept(stage: Stage) -> None:
    stage.device.configure(identityd="[identityd.renewal]\nrotate_key = false")
    stage.cloud.options(cert_lifetime_s=SHORT_S)
    device = stage.start()
    device.until_record(event_is("credential-committed", generation=1))
    stage.cloud.options(cert_lifetime_s=LONG_S)
    committed = device.until_record(event_is("credential-committed", generation=2))
    device.until_record(event_is("credential-retired"), committed["sequence"])
    device.attempt("renew")


def outage_past_expiry(stage: Stage) -> None:
    stage.cloud.options(cert_lifetime_s=4)
    device = stage.start()
    device.until_provisioned()
    stage.cloud.close()
    expired = device.until_record(event_is("deadline-passed", name="expiry"))
    failed = device.until_record(event_is("registration-failed"), expired["sequence"])
    # The same CA, the same key, the same port: the cloud is back.
    stage.cloud = device.cloud = Cloud(stage.root / "cloud", lifetime_s=LONG_S)
    committed = device.until_record(event_is("credential-committed"), failed["sequence"])
    device.until_record(event_is("credential-retired"), committed["sequence"])


def hub_refusal(stage: Stage) -> None:
    device = stage.start()
    device.until_provisioned()
    identityd = device.root / "run/aziot/identityd.sock"
    for turn in range(3):
        if turn:
            time.sleep(REFUSALS_APART_S)
        stage.cloud.faults({"on": "hub", "kind": "hub_refuses", "code": 404001})
        begun = device.status()["sequence"]
        ask(identityd, "/identities/modules?api-version=2020-09-01&type=aziot")
        refused = device.until_record(event_is("hub-refused-credential"), begun + 1)
        stage.cloud.faults()
    device.until_record(event_is("credential-committed"), refused["sequence"])
    device.until_provisioned()


def wrong_clock(stage: Stage) -> None:
    years_ms = 5 * 365 * 86_400_000
    stage.clock.write_text(f"{-years_ms} 0")
    device = stage.start(RECORDED_CLOCK=str(stage.clock))
    device.until_provisioned()
    stage.clock.write_text("0 1")
    # Whatever arms a timer has the clock looked at; else it would be noticed within two minutes.
    device.attempt("renew")
    device.until_record(event_is("clock-observed", kernel_synchronised=True))


def crash(phase: str) -> Callable[[Stage], None]:
    """SIGKILL in that phase of the first registration; the next start finishes it."""

    def recording(stage: Stage) -> None:
        for _ in range(TRIES):
            device = stage.device
            if phase == "Staging":  # takes long enough to be caught in the middle
                device.configure(identityd="[identityd.keys]\nalgorithm = 'rsa-2048'")
            stage.start()
            device.until_record(lambda record: record["phase"] == phase)
            device.kill()
            if device.records()[-1]["phase"] == phase and device.reading().problem is None:
                break
            stage.fresh()
        else:
            raise RuntimeError(f"{phase} was not hit in {TRIES} tries")
        stage.start()
        device.until_provisioned()

    return recording


def configuration_change(stage: Stage) -> None:
    device = stage.start()
    device.until_provisioned()
    assert device.process is not None
    first = device.status()["sequence"]
    device.configure(identityd="[identityd.renewal]\nlatest_percent = 85\nrotate_key = false")
    hang_up(device.process)
    changed = device.until_record(event_is("configuration-changed"), first + 1)
    device.name = "renamed"
    device.configure(identityd="[identityd.renewal]\nlatest_percent = 85\nrotate_key = false")
    hang_up(device.process)
    changed = device.until_record(event_is("configuration-changed"), changed["sequence"] + 1)
    device.until_record(event_is("credential-retired"), changed["sequence"])


def operator_reprovision(stage: Stage) -> None:
    device = stage.start()
    device.until_provisioned()
    device.attempt("reprovision")
    stage.cloud.faults({"on": "operation", "kind": "stall", "seconds": 2, "times": 1})
    begun = device.command("reprovision")
    device.until_record(wishes("poll-registration"), begun)
    device.command("reprovision")
    device.until_record(event_is("credential-retired"), begun)


def bundle_change(stage: Stage) -> None:
    stage.cloud.bundle(stage.cloud.ca_file.read_bytes())
    device = stage.start()
    device.until_provisioned()
    stage.cloud.faults({"on": "operation", "kind": "bundle", "bundle": "changed"})
    device.attempt("renew")
    stage.cloud.faults({"on": "operation", "kind": "bundle", "bundle": "garbage"})
    device.attempt("renew")
    stage.cloud.faults({"on": "operation", "kind": "bundle", "bundle": "absent"})
    device.attempt("reprovision")


def compaction(stage: Stage) -> None:
    device = stage.device.configure(more="[identityd.journal]\nsegment_bytes = 65536")
    stage.start()
    device.until_provisioned()
    while not list(device.state.glob("journal-*.jsonl")):
        device.attempt("renew")
    device.stop()
    stage.start()
    device.attempt("renew")


RECORDINGS: dict[str, Callable[[Stage], None]] = {
    "first-start": first_start,
    "csr-refused": csr_refused,
    "renewal": renewal,
    "key-kept": key_kept,
    "outage-past-expiry": outage_past_expiry,
    "hub-refusal": hub_refusal,
    "wrong-clock": wrong_clock,
    "crash-staging": crash("Staging"),
    "crash-submitting": crash("Submitting"),
    "crash-polling": crash("Polling"),
    "crash-proving": crash("Proving"),
    "crash-committing": crash("Committing"),
    "crash-retiring": crash("Retiring"),
    "configuration-change": configuration_change,
    "operator-reprovision": operator_reprovision,
    "bundle-change": bundle_change,
    "compaction": compaction,
}
"In each the service is asked to stop at the end."

# --- what must not be in it --------------------------------------------------------------------------

FORBIDDEN = (
    re.compile(r"/(?:dev|etc|home|mnt|opt|root|run|srv|tmp|usr|var|work)/"),
    re.compile(r"PRIVATE KEY|SharedAccess|sig=|password", re.I),
)


def unfit(content: bytes, *words: str) -> str | None:
    """The first text in a journal that tells a secret or the machine; None when there is none."""
    for line in content.splitlines():
        for text in _texts(json.loads(line)):
            if any(pattern.search(text) for pattern in FORBIDDEN) or any(word in text for word in words):
                return text
    return None


def _texts(value: object, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)
    elif isinstance(value, str) and not name.endswith("_pem"):  # base64 looks like anything
        yield value


# --- recording ---------------------------------------------------------------------------------------


def version_of(source: Path) -> str:
    """As its build would have it: pyproject.toml of older ones says it, later ones name where it stands."""
    asked = [sys.executable, "-m", "hatchling", "version"]
    return subprocess.run(asked, cwd=source, check=True, capture_output=True, text=True).stdout.strip()


def record(name: str) -> list[tuple[str, bytes]]:
    """File names and contents, oldest first. Raises RuntimeError for what must not be kept."""
    with short_root() as root:
        stage = Stage(root)
        try:
            RECORDINGS[name](stage)
            if stage.device.stop() != 0:
                raise RuntimeError(f"{name}: the service did not stop gracefully")
            state, key = stage.device.state, stage.cloud.key
            files = [*sorted(state.glob("journal-*.jsonl")), stage.device.journal]
            contents = [(path.name, path.read_bytes()) for path in files]
        except BaseException:
            print(stage.device.log[-4000:], file=sys.stderr)
            raise
        finally:
            stage.close()
    for _, content in contents:
        found = unfit(content, key, socket.gethostname())
        if found is not None:
            raise RuntimeError(f"{name}: {found}")
    if not replay_files(contents).equal:
        raise RuntimeError(f"{name} does not replay")
    return contents


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.journals.record", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECORDINGS)}; default: all")
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="whose code runs (default: this one)")
    args = parser.parse_args(argv)
    folder = HERE / f"recorded-{version_of(args.source)}"
    processes.CHILD, processes.REPOSITORY = HERE / "child.py", args.source.resolve()
    for name in args.names or RECORDINGS:
        if list(folder.glob(f"{name}.jsonl")) or (folder / name).exists():
            print(f"{name}: kept")
            continue
        contents = record(name)
        target = folder if len(contents) == 1 else folder / name
        target.mkdir(parents=True, exist_ok=True)
        for file, content in contents:
            (target / (f"{name}.jsonl" if len(contents) == 1 else file)).write_bytes(content)
        lines, size = sum(c.count(b"\n") for _, c in contents), sum(len(c) for _, c in contents)
        print(f"{name}: {lines} lines, {size:,} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
