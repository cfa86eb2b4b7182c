"""Checks shared access signatures the way the services do: from the bytes that arrived.

Written from reference/cloud.md §1.5 and sharing nothing with the code that signs, so that one mistake
cannot cancel out the other. Both encodings of ``/`` in ``sr`` are in use; what was sent is what was signed.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import unquote

SKEW_S = 300
"How long after its expiry a token is still taken. No allowance is documented; clocks differ a little."

_SCHEME = "SharedAccessSignature "


def refusal(
    authorization: str,
    *,
    audience: str,
    keys: Iterable[bytes],
    now_unix_s: float,
    key_name: str | None = None,
    skew_s: float = SKEW_S,
) -> str | None:
    """Why the ``Authorization`` value is not accepted, or None when it is.

    ``audience`` is the resource before encoding, in any case; any of ``keys`` (decoded bytes) may have
    signed; ``key_name`` is what ``skn`` must say, None when it must not say anything.
    """
    if not authorization.startswith(_SCHEME):
        return "the Authorization header is not a SharedAccessSignature"
    fields: dict[str, str] = {}
    for part in authorization.removeprefix(_SCHEME).split("&"):
        name, _, value = part.partition("=")
        if name in fields:
            return f"the token says {name} twice"
        fields[name] = value
    missing = [name for name in ("sr", "sig", "se") if not fields.get(name)]
    if missing:
        return f"the token says no {missing[0]}"
    if unquote(fields["sr"]).lower() != audience.lower():
        return f"the token is for another resource than {audience.lower()}"
    if unquote(fields.get("skn", "")) != (key_name or ""):
        return "the token names another key (skn)"
    if not fields["se"].isascii() or not fields["se"].isdigit() or len(fields["se"]) > 12:
        return "the token's expiry (se) is not a number of seconds"
    try:
        signature = base64.b64decode(unquote(fields["sig"]), validate=True)
    except (binascii.Error, ValueError):
        return "the token's signature is not base64"
    signed = f"{fields['sr']}\n{fields['se']}".encode()
    if not any(hmac.compare_digest(signature, hmac.digest(key, signed, hashlib.sha256)) for key in keys):
        return "the token's signature does not match"
    if now_unix_s > int(fields["se"]) + skew_s:
        return "the token is expired"
    return None


def derived_key(group_key: bytes, registration_id: str) -> bytes:
    """The device key of a symmetric-key enrolment group (reference/cloud.md §1.4)."""
    return hmac.digest(group_key, registration_id.encode(), hashlib.sha256)
