"""The machine in a few facts: what comes beside the checks in JSON, as in the original."""

import os
import platform
import struct
from collections.abc import Iterator
from typing import TypeAlias

from adapters.checks.certificates import rfc3339
from adapters.checks.disk import MAX_MOUNTS_BYTES
from adapters.checks.subject import Subject
from adapters.errors import bounded

Facts: TypeAlias = dict[str, object]

MAX_DISKS = 64
_RELEASE = {"ID": "id", "VERSION_ID": "version_id", "VARIANT_ID": "variant_id", "BUILD_ID": "build_id"}


def facts(subject: Subject) -> Facts:
    """Whatever is unknown is left out."""
    found: Facts = {"now": rfc3339(subject.now_unix_ms), "os": _os(), "dmi": _dmi(), "system_info": _system()}
    if subject.manual is not None:
        found["iothub_hostname"] = subject.manual.hub
        if subject.manual.gateway is not None:
            found["local_gateway_hostname"] = subject.manual.gateway
    return found


def _os() -> Facts:
    found: Facts = {}
    for line in _text("/etc/os-release").splitlines():
        name, _, value = line.partition("=")
        if name in _RELEASE:
            found[_RELEASE[name]] = bounded(value.strip("\"'"), 80)
    return found | {"arch": platform.machine(), "bitness": 8 * struct.calcsize("P")}


def _dmi() -> Facts:
    return {
        "product": bounded(_text("/sys/devices/virtual/dmi/id/product_name"), 120) or None,
        "vendor": bounded(_text("/sys/devices/virtual/dmi/id/sys_vendor"), 120) or None,
    }


def _system() -> Facts:
    memory = {}
    for line in _text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            memory[name] = int(number[0]) * 1024
    total, swap = memory.get("MemTotal", 0), memory.get("SwapTotal", 0)
    return {
        "used_ram": binary_units(total - memory.get("MemAvailable", total)),
        "total_ram": binary_units(total),
        "used_swap": binary_units(swap - memory.get("SwapFree", swap)),
        "total_swap": binary_units(swap),
        "disks": list(_disks()),
    }


def _disks() -> Iterator[Facts]:
    """Each block device that is mounted, once."""
    seen: set[str] = set()
    for line in _text("/proc/self/mounts").splitlines():
        fields = line.split(" ")
        if (
            len(fields) < 3
            or not fields[0].startswith("/dev/")
            or fields[0] in seen
            or len(seen) == MAX_DISKS
        ):
            continue
        seen.add(fields[0])
        try:
            of = os.statvfs(fields[1])
        except OSError:
            continue
        total, free = of.f_blocks * of.f_frsize, of.f_bavail * of.f_frsize
        if not total:
            continue
        yield {
            "name": bounded(os.path.basename(fields[0]), 80),
            "percent_free": f"{100 * free / total:.1f}%",
            "available_space": binary_units(free),
            "total_space": binary_units(total),
            "file_system": fields[2],
            "file_type": _medium(os.path.basename(fields[0])),
        }


def _medium(device: str) -> str:
    """HDD, SSD or Unknown; a partition has its disk's directory above its own."""
    for path in (f"/sys/class/block/{device}", f"/sys/class/block/{device}/.."):
        turns = _text(f"{path}/queue/rotational").strip()
        if turns in ("0", "1"):
            return "HDD" if turns == "1" else "SSD"
    return "Unknown"


def binary_units(count: int) -> str:
    """Bytes, as people read them."""
    size, unit = float(max(count, 0)), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_MOUNTS_BYTES).decode(errors="replace")
    except OSError:
        return ""
