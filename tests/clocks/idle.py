"""A real device at rest: how often its process wakes up, and whether it writes."""

import time
from pathlib import Path

from tests.benchmarks.processes import SETTLE_S, Idleness
from tests.service.device import Cloud, Device, short_root


def measure_idle_process(seconds: float) -> int:
    """``identityd run``, provisioned by the stand-in cloud, then left alone. 0 when it rests as claimed."""
    with short_root() as root:
        cloud = Cloud(Path(root) / "c")
        device = Device(Path(root) / "d", cloud, "idle")
        try:
            device.configure().start()
            device.until_provisioned()
            time.sleep(SETTLE_S)
            idleness = Idleness(device)
            cloud.close()
            measures = idleness.end(seconds)
        finally:
            device.kill()
            cloud.close()
    for one in measures:
        print(f"{one.what}: {one.measured:.2f} {one.unit} of {one.limit} ({one.detail})")
    return int(not all(one.met for one in measures))
