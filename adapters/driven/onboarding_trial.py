"""Which files are the configured credential that is issued here, before, during and after its renewal.

A renewal puts the new certificate, and with ``rotate_key`` the new key, beside the old ones. From then on
one small file says which of the two pairs to use::

    identityd/onboarding-renewal.json
        absent or "resting"   certificate device-id, key device-id
        "trial"               who registers: certificate device-id-temp and its key; everybody else: as before
        "promoting"           DPS has accepted the new pair, which is on its way to the final names

With any of them, and at any point of the way between two, each view is a certificate and its own key.
What asks ``Places`` blocks; the rest is pure.
"""

import os
from typing import Literal

import msgspec
from msgspec import Struct, structs

from adapters.driven.files import read_file, unavailable
from adapters.driven.generations import certificate_file_name, key_file_name
from adapters.durable import replace_file, sync_directory
from statemachine.settings import (
    DEVICE_ID,
    DEVICE_TEMPORARY_ID,
    Configuration,
    DpsProvisioning,
    IssuedSource,
    ManualProvisioning,
    X509Source,
    credential_of,
)
from statemachine.snapshot import Snapshot

MARKER = "onboarding-renewal.json"
_MARKER_LIMIT = 4096


class Marker(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``onboarding-renewal.json``. Unknown members are ignored: an older release can read a newer file."""

    state: Literal["trial", "promoting", "resting"]
    rotated: bool = False
    "The new certificate has a key of its own."
    attempts: int = 0
    "trial: number of the machine's latest attempt when the new pair came into use."
    fingerprint: str = ""
    "trial: who we were to DPS until then."
    resumed: bool = False
    "trial: it was gone on with after a restart. A second restart gives it up."
    until_unix_ms: int = 0
    "resting: when the next try may be made after a failed one."


class View(Struct, frozen=True, kw_only=True):
    """The two answers to which files are the credential; None while none was issued."""

    current: X509Source | None = None
    "For what talks to the hub."
    trial: X509Source | None = None
    "For what registers, proves, or says who we are to DPS."


def issued_source(configuration: Configuration) -> IssuedSource | None:
    """The configured credential, if it is one that is issued on this device."""
    source = credential_of(configuration.provisioning)
    return source if isinstance(source, IssuedSource) else None


def common_name(configuration: Configuration) -> str:
    """Of the first certificate; empty when the configuration does not say (cloud.md §1.4)."""
    match configuration.provisioning:
        case DpsProvisioning(registration_id=str(registration_id)):
            return registration_id
        case ManualProvisioning(device_id=device_id):
            return device_id
    return ""


def effective(configuration: Configuration, pair: X509Source | None) -> Configuration:
    """The same with that pair instead of the rule it was issued by, for those who only use credentials."""
    provisioning = configuration.provisioning
    if pair is None or issued_source(configuration) is None:
        return configuration
    if isinstance(provisioning, DpsProvisioning):
        return structs.replace(configuration, provisioning=structs.replace(provisioning, attestation=pair))
    return structs.replace(configuration, provisioning=structs.replace(provisioning, authentication=pair))


def accepted(marker: Marker, snapshot: Snapshot) -> bool:
    """Whether DPS has taken the pair on trial: the assignment in force was obtained with it.

    A new key shows in the fingerprint. The same key does not: there it takes an attempt that was begun
    after the new certificate had come into use, and that succeeded.
    """
    assignment, ended = snapshot.assignment, snapshot.ended
    if assignment is None or assignment.fingerprint != snapshot.fingerprint:
        return False
    if marker.rotated and marker.fingerprint != snapshot.fingerprint:
        return True
    return ended is not None and ended.error is None and ended.number > marker.attempts


class Places:
    """The files of both pairs, and the marker."""

    def __init__(self, state_dir: str, certd_home: str, keyd_home: str) -> None:
        self._certs = os.path.join(certd_home, "certs")
        self._keys = os.path.join(keyd_home, "keys")
        self._marker = os.path.join(state_dir, MARKER)

    def pair(self, certificate_id: str, key_id: str) -> X509Source:
        return X509Source(certificate_path=self._certificate(certificate_id), key_path=self._key(key_id))

    def view(self, marker: Marker | None) -> View:
        """What the files that are there now allow. Reads none of them."""
        old = self._present(DEVICE_ID, DEVICE_ID)
        if marker is None or marker.state == "resting":
            return View(current=old, trial=old)
        moved = not marker.rotated or not os.path.exists(self._key(DEVICE_TEMPORARY_ID))
        key_id = DEVICE_ID if moved else DEVICE_TEMPORARY_ID
        new = self._present(DEVICE_TEMPORARY_ID, key_id)
        if marker.state == "promoting":
            # Its temporary name is the last thing to go: without it the new certificate has its final one.
            return View(current=new or old, trial=new or old)
        if marker.rotated and moved:
            new = None  # somebody took the key away
        return View(current=old, trial=new or old)

    def read_marker(self) -> Marker | None:
        """Raises OSError, and ValueError for a damaged one."""
        content = read_file(self._marker, _MARKER_LIMIT)
        return None if content is None else msgspec.json.decode(content, type=Marker)

    def write_marker(self, marker: Marker | None) -> None:
        """Durable on return. Raises StoreUnavailable; what was there is then intact."""
        try:
            if marker is not None:
                replace_file(self._marker, msgspec.json.encode(marker))
            elif os.path.lexists(self._marker):
                os.unlink(self._marker)
                sync_directory(os.path.dirname(self._marker))
        except OSError as exc:
            raise unavailable(exc, self._marker) from exc

    def _present(self, certificate_id: str, key_id: str) -> X509Source | None:
        pair = self.pair(certificate_id, key_id)
        there = os.path.exists(pair.certificate_path) and os.path.exists(pair.key_path)
        return pair if there else None

    def _certificate(self, certificate_id: str) -> str:
        return os.path.join(self._certs, certificate_file_name(certificate_id))

    def _key(self, key_id: str) -> str:
        return os.path.join(self._keys, key_file_name(key_id))
