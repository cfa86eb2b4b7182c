"""Key handles, byte for byte as the original makes them (services.md §5.4).

::

    handle = "sr=" b64(SR) "&sig=" b64(HMAC-SHA256(validation key, SR))
    SR     = {"key_id":{"KeyPair":"<id>"},"nonce":"<64 random bytes>"}
             {"key_id":{"Key":"<id>"},"nonce":"…"}
             {"key_id":{"Derived":["<base handle>",[<byte>,…]]},"nonce":"…"}

A handle of the issued identity's key has one member more, ``"generation":7``, after those the original
knows and reads past. Whoever holds a handle may use its key: a handle is a secret.
"""

import base64
import hmac

import msgspec
from msgspec import UNSET, Struct, UnsetType

from adapters.errors import RequestRefused

MAX_HANDLE_CHARS = 16 * 1024
"Of one that is made, and of one that is looked at."
NONCE_BYTES = 64

_TOO_LONG = f"the handle would be longer than {MAX_HANDLE_CHARS} characters"


class PairHandle(Struct, frozen=True):
    """Of a key pair."""

    key_id: str
    generation: int | None = None
    "Of the issued identity's key only: which generation's."


class KeyHandle(Struct, frozen=True):
    """Of a symmetric key."""

    key_id: str


class DerivedHandle(Struct, frozen=True):
    """Of HMAC-SHA256(base key, data)."""

    base: str
    "The whole handle of the base key. Secret."
    data: bytes

    def __repr__(self) -> str:
        return "DerivedHandle()"


Meaning = PairHandle | KeyHandle | DerivedHandle


class _KeyId(Struct, frozen=True):
    """Exactly one of them."""

    pair: str | UnsetType = msgspec.field(default=UNSET, name="KeyPair")
    key: str | UnsetType = msgspec.field(default=UNSET, name="Key")
    derived: tuple[str, list[int]] | UnsetType = msgspec.field(default=UNSET, name="Derived")


class _Signed(Struct, frozen=True):
    """SR."""

    key_id: _KeyId
    nonce: str
    generation: int | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Signed)


def make_handle(validation_key: bytes, meaning: Meaning, nonce: bytes) -> str:
    """Raises RequestRefused for one that would be too long."""
    generation: int | UnsetType = UNSET
    match meaning:
        case PairHandle(key_id=key_id, generation=named):
            inner = _KeyId(pair=key_id)
            generation = UNSET if named is None else named
        case KeyHandle(key_id=key_id):
            inner = _KeyId(key=key_id)
        case DerivedHandle(base=base, data=data):
            if len(base) + len(data) > MAX_HANDLE_CHARS:
                raise RequestRefused(_TOO_LONG, code="handle-too-long", parameter="derivationData")
            inner = _KeyId(derived=(base, list(data)))
    signed = msgspec.json.encode(_Signed(inner, _base64(nonce), generation))
    handle = f"sr={_base64(signed)}&sig={_base64(_mac(validation_key, signed))}"
    if len(handle) > MAX_HANDLE_CHARS:
        parameter = "derivationData" if isinstance(meaning, DerivedHandle) else "id"
        raise RequestRefused(_TOO_LONG, code="handle-too-long", parameter=parameter)
    return handle


def read_handle(validation_key: bytes, handle: str) -> Meaning:
    """What a genuine handle stands for. Raises RequestRefused (parameter ``handle``) for any other."""
    if len(handle) > MAX_HANDLE_CHARS:
        raise invalid_handle()
    signed = signature = None
    for part in handle.split("&"):
        # The last of each counts, others are nobody's business.
        if part.startswith("sr="):
            signed = part[len("sr=") :]
        elif part.startswith("sig="):
            signature = part[len("sig=") :]
    if signed is None or signature is None:
        raise invalid_handle()
    content = _strict(signed)
    if not hmac.compare_digest(_mac(validation_key, content), _strict(signature)):
        raise invalid_handle()
    return _meaning(content)


def invalid_handle() -> RequestRefused:
    return wrong_handle("invalid handle")


def wrong_handle(why: str) -> RequestRefused:
    """In the original's words."""
    return RequestRefused(why, code="handle-invalid", parameter="handle")


def _meaning(content: bytes) -> Meaning:
    try:
        signed = _decoder.decode(content)
        match signed.key_id:
            case _KeyId(pair=str(key_id), key=UnsetType(), derived=UnsetType()):
                return PairHandle(key_id, None if signed.generation is UNSET else signed.generation)
            case _KeyId(pair=UnsetType(), key=str(key_id), derived=UnsetType()):
                return KeyHandle(key_id)
            case _KeyId(pair=UnsetType(), key=UnsetType(), derived=(base, data)):
                return DerivedHandle(base, bytes(data))
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as exc:
        raise invalid_handle() from exc
    raise invalid_handle()


def _mac(validation_key: bytes, signed: bytes) -> bytes:
    return hmac.digest(validation_key, signed, "sha256")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _strict(text: str) -> bytes:
    """Only what ``_base64`` writes: Python looks past set bits behind the last byte."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise invalid_handle() from exc
    if _base64(content) != text:
        raise invalid_handle()
    return content
