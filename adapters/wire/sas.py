"""Shared access signatures for DPS and IoT Hub, in the exact bytes of cloud.md §1.5.

``/`` stays as it is. The bytes signed are the bytes that follow ``sr=``, so encoding happens once.
"""

import base64
import hashlib
import hmac
from urllib.parse import quote

_LEFT_ALONE = "!$%&'()*+,-./:;@[\\]^_|~"
'Printable ASCII that is not escaped in ``sr``; the rest of the set is space and `"#<>?`{}=` and non-ASCII.'


def derive_group_key(group_key: bytes, registration_id: str) -> bytes:
    """The device key of a symmetric-key enrolment group. Both keys are the decoded bytes."""
    return hmac.digest(group_key, registration_id.encode(), hashlib.sha256)


def dps_token(scope_id: str, registration_id: str, key: bytes, expiry_unix_s: int) -> str:
    """Value of ``Authorization`` for DPS. ``key`` is the decoded key."""
    audience = f"{scope_id}/registrations/{registration_id}"
    return _token(audience, key, expiry_unix_s) + "&skn=registration"


def hub_token(hub: str, device_id: str, key: bytes, expiry_unix_s: int) -> str:
    """Value of ``Authorization`` for IoT Hub. ``hub`` as DPS assigned it; a port stays in the audience."""
    return _token(f"{hub}/devices/{device_id}", key, expiry_unix_s)


def _token(audience: str, key: bytes, expiry_unix_s: int) -> str:
    resource = quote(audience.lower(), safe=_LEFT_ALONE)
    signed = hmac.digest(key, f"{resource}\n{expiry_unix_s}".encode(), hashlib.sha256)
    signature = quote(base64.b64encode(signed).decode("ascii"), safe="")
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry_unix_s}"
