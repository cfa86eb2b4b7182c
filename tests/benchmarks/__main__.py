"""The budgets of the design, measured. ``python -m tests.benchmarks [--quick] [--json] [--no-fail]``

Real processes where a process is meant, real syncs on the disk of /var/tmp, virtual time where years are.
Exit status 1 when a budget is not met, unless ``--no-fail``. Other work on the machine makes the figures
worse, never better: medians and best batches are shown, and worst ones beside them.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.disk import measure_disk
from tests.benchmarks.machine import measure_machine
from tests.benchmarks.processes import (
    SETTLE_S,
    Idleness,
    measure_growth,
    measure_memory,
    measure_registration,
    measure_start,
)
from tests.benchmarks.report import Measure, as_json, table
from tests.benchmarks.services import MANY, measure_services
from tests.benchmarks.sockets import CONFIG, measure_status, measure_watchers
from tests.service.device import Cloud, Device, short_root

IDLE_S, QUICK_IDLE_S = 120.0, 20.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and a shorter idle window")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--no-fail", action="store_true", help="exit 0 whatever the verdicts")
    args = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with short_root() as root:
        measures = measure_all(root, quick=args.quick, say=say)
    print(as_json(measures) if args.json else table(measures))
    return int(not args.no_fail and not all(one.met for one in measures))


def measure_all(root: Path, *, quick: bool, say: Callable[[str], None]) -> list[Measure]:
    """The idle device waits while everything else is measured: being idle takes no processor."""
    cloud = Cloud(root / "c")
    quiet, busy, watched = (Device(root / name, cloud, name) for name in ("q", "b", "w"))
    try:
        say("memory: one registration, then rest")
        quiet.configure().start()
        quiet.until_provisioned()
        time.sleep(SETTLE_S)
        measures = measure_memory(quiet)
        idleness = Idleness(quiet)
        say("registration and renewals")
        # Requests of one uid in flight: as many as the benchmark keeps connections busy.
        limits = "\n".join(f"{name} = {2 * MANY}" for name in ("keyd", "certd", "identityd"))
        busy.configure(more=f"[aziot_max_requests]\n{limits}").start()
        busy.until_provisioned()
        registration = measure_registration(busy, cloud, quick=quick)
        measures += measure_growth(busy, 5 if quick else 30)
        busy.stop()
        cloud.close()
        say("start to READY, offline")
        measures = measure_start(busy, quick=quick) + measures + registration
        say("disk")
        measures += measure_disk(quick=quick)
        say("steps, replay, ten years")
        measures += measure_machine(quick=quick)
        say("sockets")
        busy.start()
        measures += measure_status(busy, quick=quick)
        measures += measure_services(busy, quick=quick)
        watched.config.parent.mkdir(parents=True)
        watched.config.write_text(CONFIG)
        watched.start()
        measures += measure_watchers(watched, quick=quick)
        say("idleness")
        return measures + idleness.end(QUICK_IDLE_S if quick else IDLE_S)
    finally:
        for device in (quiet, busy, watched):
            device.kill()
        cloud.close()


if __name__ == "__main__":
    sys.exit(main())
