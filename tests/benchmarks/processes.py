"""The service as a process: how soon it is there, what it holds, how quietly it waits, how it registers."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.report import Measure
from tests.service.device import Cloud, Device

SETTLE_S = 12
"Idle worker threads end after ten seconds."
FLOOR = "import trio, ssl, cryptography.x509, transitions, msgspec, msgspec.json, h11"
"What nothing that serves, speaks TLS, reads certificates and runs the tables can do without."


# --- start -------------------------------------------------------------------------------------------


def measure_start(device: Device, *, quick: bool) -> list[Measure]:
    """``device`` was provisioned; its cloud is gone."""
    took, floor = [], []
    for _ in range(5 if quick else 15):
        began = time.perf_counter()
        device.start()
        took.append(time.perf_counter() - began)
        assert device.process is not None
        assert "Provisioned" in device.process.until_line("READY")
        device.kill()
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", FLOOR], check=True)
        floor.append(time.perf_counter() - began)
    return [
        Measure(
            what="start to READY, offline",
            measured=statistics.median(took),
            unit="s",
            limit=0.5,
            beside=statistics.median(floor),
            beside_what="interpreter and libraries alone",
            detail=f"median of {len(took)}, from exec to the line in the log; worst {max(took):.3f} s",
        )
    ]


# --- memory ------------------------------------------------------------------------------------------


def resident_mib(pid: int) -> float:
    return _status(pid)["VmRSS"] / 1024


def measure_memory(device: Device) -> list[Measure]:
    """Of a device that has registered once, over TLS, and rests."""
    assert device.process is not None
    anonymous = _status(device.process.pid)["RssAnon"] / 1024
    return [
        Measure(
            what="memory after one registration",
            measured=resident_mib(device.process.pid),
            unit="MiB",
            limit=52,
            beside=_floor_mib(),
            beside_what="interpreter and libraries alone",
            detail=f"VmRSS, {SETTLE_S} s later; {anonymous:.1f} MiB of it anonymous",
        )
    ]


def measure_growth(device: Device, renewals: int) -> list[Measure]:
    """Registers ``renewals`` times more; at rest before and after."""
    assert device.process is not None
    time.sleep(SETTLE_S)
    before = resident_mib(device.process.pid)
    for _ in range(renewals):
        device.attempt("renew")
    time.sleep(SETTLE_S)
    after = resident_mib(device.process.pid)
    return [
        Measure(
            what=f"memory after {renewals} renewals more",
            measured=after,
            unit="MiB",
            limit=52,
            beside=before,
            beside_what="before them",
        )
    ]


def _floor_mib() -> float:
    code = f"{FLOOR}\nprint(open('/proc/self/status').read())"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return _parse(told)["VmRSS"] / 1024


def _status(pid: int) -> dict[str, int]:
    return _parse(Path(f"/proc/{pid}/status").read_text())


def _parse(text: str) -> dict[str, int]:
    """Numbers only, in the unit the kernel gives: kB, or a count."""
    pairs = (line.partition(":")[::2] for line in text.splitlines())
    return {
        name: int(value.split()[0])
        for name, value in pairs
        if value.split()[:1] and value.split()[0].isdigit()
    }


# --- idleness ----------------------------------------------------------------------------------------


class Idleness:
    """From its making on the device is watched; nobody may ask it anything."""

    def __init__(self, device: Device) -> None:
        assert device.process is not None
        self._device, self._pid = device, device.process.pid
        self._began = time.monotonic()
        self._before = self._look()

    def _look(self) -> tuple[int, int, int, float]:
        wakes = sum(
            _parse((task / "status").read_text())["voluntary_ctxt_switches"]
            for task in Path(f"/proc/{self._pid}/task").iterdir()
        )
        io = _parse(Path(f"/proc/{self._pid}/io").read_text())
        return wakes, io["syscw"], self._device.journal.stat().st_size, resident_mib(self._pid)

    def end(self, at_least_s: float) -> list[Measure]:
        """Waits until the window is long enough."""
        time.sleep(max(0.0, self._began + at_least_s - time.monotonic()))
        seconds = time.monotonic() - self._began
        (wakes, writes, size, memory), before = self._look(), self._before
        woken = wakes - before[0]
        return [
            Measure(
                what="idle wake-ups",
                measured=woken * 60 / seconds,
                unit="a minute",
                limit=1,
                detail=f"{woken} voluntary context switches of all threads in {seconds:.0f} s",
            ),
            Measure(
                what="idle writes",
                measured=writes - before[1] + size - before[2],
                unit="calls and bytes",
                limit=0,
                detail="write calls of the process, and growth of its journal",
            ),
            Measure(
                what="idle memory growth", measured=memory - before[3], unit="MiB", limit=0, detail="flat"
            ),
        ]


# --- registration ------------------------------------------------------------------------------------


def measure_registration(device: Device, cloud: Cloud, *, quick: bool) -> list[Measure]:
    """Both ends have the same clock."""
    above: list[float] = []
    whole: list[float] = []
    for _ in range(4 if quick else 12):
        seen = len(cloud.log())
        records = device.attempt("reprovision")
        told = next(one for one in records if one["event"]["type"] == "registration-assigned")
        assigned = [one["assigned_unix_ms"] for one in cloud.log(seen + 1) if "assigned_unix_ms" in one]
        above.append((told["now_unix_ms"] - assigned[-1]) / 1000)
        whole.append((records[-1]["now_unix_ms"] - records[0]["now_unix_ms"]) / 1000)
    return [
        Measure(
            what="registration above DPS's own time",
            measured=max(above),
            unit="s",
            limit=0.5,
            beside=5.0,
            beside_what="the original's least wait",
            detail=f"worst of {len(above)}, median {statistics.median(above):.3f} s; from command to "
            f"Provisioned {statistics.median(whole):.2f} s with two polls",
        )
    ]
