"""Which devices the stand-in hub knows, and with what each must prove itself. Kept over restarts."""

import os
from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.simulators.modules import Modules

Proof = Literal["sas", "x509", "issued"]
"SAS with the enrolment's key, the enrolled certificate, or a certificate issued by this cloud."


class Device(Struct, frozen=True, kw_only=True):
    """One device identity. The last registration decides how it proves itself, as in the product."""

    device_id: str
    proof: Proof
    created: str
    "ISO 8601, UTC."
    etag: str


class Devices:
    """By device id, without regard to case."""

    def __init__(self, path: str, write: Callable[[str, bytes], None]) -> None:
        """Raises OSError or ValueError when the file is there and cannot be used."""
        self._path = path
        self._write = write
        self._devices: dict[str, Device] = {}
        self.modules = Modules(os.path.join(os.path.dirname(path), "modules.json"), write)
        if os.path.exists(path):
            with open(path, "rb") as file:
                rows = msgspec.json.decode(file.read(), type=list[Device])
            self._devices = {row.device_id.lower(): row for row in rows}

    def get(self, device_id: str) -> Device | None:
        """None when it was never assigned."""
        return self._devices.get(device_id.lower())

    def put(self, device: Device) -> None:
        """Written at once. Raises OSError."""
        self._devices[device.device_id.lower()] = device
        self._write(self._path, msgspec.json.encode(list(self._devices.values())))
