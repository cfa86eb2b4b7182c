"""keyd's work, done in this process on plain files. Fills ``ports.KeyService``.

Files and cryptography run in worker threads: a few at once for what is quick, one for the generation of
keys, so that an RSA key in the making delays nobody who signs. Who makes or changes a key has its path for
himself while he does; two callers who create the same id get the same key.

The issued identity's key (IDENTITY_KEY_ID) belongs to the machine: it is read through ``IdentityKeys``,
by generation, and not changed here. The key that authenticates handles (HANDLE_KEY_ID) serves only that:
who could use it as a key could make handles.
"""

import contextlib
import hmac
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, TypeVarTuple

import trio

from adapters.driven.keys.algorithms import chosen
from adapters.driven.keys.handles import (
    NONCE_BYTES,
    DerivedHandle,
    KeyHandle,
    Meaning,
    PairHandle,
    invalid_handle,
    make_handle,
    read_handle,
    wrong_handle,
)
from adapters.driven.keys.parsed import ParsedPairs
from adapters.driven.keys.store import MAX_KEY_BYTES, KeyFiles, Place, Preloaded, no_key, unusable
from adapters.driven.keys.turns import Turns
from adapters.errors import RequestRefused, StoreUnavailable
from adapters.ports import Aead, Ecdsa, HmacSha256, KeyUsage, RsaNoPadding, RsaPkcs1
from adapters.wire import aead, x509
from adapters.wire.private_keys import CryptoFailed, KeyPair, KeyUnreadable, Unsuitable
from statemachine.settings import HANDLE_KEY_ID, IDENTITY_KEY_ID

KEY_BYTES = 32
"Of a symmetric key that is made here."
OPERATIONS_AT_ONCE = 4
GENERATIONS_AT_ONCE = 1
USE_WITHIN_S = 10.0
"Reading a key and using it."

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Encryption = Aead | RsaPkcs1 | RsaNoPadding


class IdentityKeys(Protocol):
    """The keys of the issued identity. Both methods block: they are for worker threads."""

    def current_key_generation(self) -> int | None:
        """The generation whose key is in use; None when no identity was issued. Raises StoreUnavailable."""

    def key_pem(self, generation: int) -> bytes | None:
        """PKCS#8 PEM, None once it is deleted. Raises StoreUnavailable."""


class EmbeddedKeys:
    """``preloaded`` is asked with each use, so that a reload takes effect."""

    def __init__(
        self,
        keyd_home: str,
        preloaded: Preloaded,
        identity: IdentityKeys,
        *,
        nonce: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """``nonce`` gives that many random bytes; tests give their own."""
        self._files = KeyFiles(keyd_home, preloaded)
        self._identity = identity
        self._nonce = nonce
        self._operations = trio.CapacityLimiter(OPERATIONS_AT_ONCE)
        self._generations = trio.CapacityLimiter(GENERATIONS_AT_ONCE)
        self._turns = Turns()
        self._pairs = ParsedPairs()
        self._validation_lock = threading.Lock()
        self._validation_key: bytes | None = None

    # --- making and loading ----------------------------------------------------------------------------

    async def create_key(self, key_id: str, usage: Sequence[KeyUsage], material: bytes | None) -> str:
        """The handle of a symmetric key: made when absent, or imported over what is there.

        ``usage`` binds hardware only; files ignore it, as in the original. Raises RequestRefused and
        StoreUnavailable, the latter also for an empty file when nothing is imported.
        """
        if material is not None and not 0 < len(material) <= MAX_KEY_BYTES:
            raise RequestRefused(
                f"a key has 1 to {MAX_KEY_BYTES} bytes, not {len(material)}",
                code="key-length",
                parameter="keyBytes",
            )
        place = self._changeable(key_id)
        async with self._turns.of(place.path):
            return await self._change(self._create_key, place, material)

    def _create_key(self, place: Place, material: bytes | None) -> str:
        handle = self._handle(KeyHandle(place.key_id))  # first: it may need a file of its own
        if material is not None:
            self._files.write(place, material)
        elif self._files.read(place) is None:
            self._files.write(place, secrets.token_bytes(KEY_BYTES))
        else:
            self._files.settle(place)
        return handle

    async def load_key(self, key_id: str) -> str:
        return await self._use(self._load_key, key_id)

    def _load_key(self, key_id: str) -> str:
        self._symmetric(key_id)
        return self._handle(KeyHandle(key_id))

    async def create_key_pair(self, key_id: str, algorithms: str | None) -> str:
        """The handle of a key pair, made when absent. ``algorithms`` is a list like `ec-p256:rsa-4096:*`."""
        place = self._changeable(key_id)
        async with self._turns.of(place.path):
            if not await self._use(self._has_pair, place):
                algorithm = chosen(algorithms)
                if algorithm is None:
                    raise RequestRefused("no usable algorithm is asked for", code="algorithm-unknown")
                pem = await trio.to_thread.run_sync(
                    x509.new_key, algorithm, limiter=self._generations, abandon_on_cancel=True
                )
                return await self._change(self._store_pair, place, pem)
            return await self._use(self._keep_pair, place)

    def _has_pair(self, place: Place) -> bool:
        """Raises StoreUnavailable for something else under that name, which is not replaced."""
        return self._stored_pair(place) is not None

    def _keep_pair(self, place: Place) -> str:
        self._files.settle(place)
        return self._handle(PairHandle(place.key_id))

    def _store_pair(self, place: Place, pem: bytes) -> str:
        handle = self._handle(PairHandle(place.key_id))
        self._files.write(place, pem)
        return handle

    async def load_key_pair(self, key_id: str) -> str:
        """The handle of the issued identity's key names its generation."""
        return await self._use(self._load_key_pair, key_id)

    def _load_key_pair(self, key_id: str) -> str:
        meaning = PairHandle(key_id)
        if key_id == IDENTITY_KEY_ID:
            meaning = PairHandle(key_id, self._identity.current_key_generation())
        self._pair(meaning)
        return self._handle(meaning)

    # --- moving and deleting ---------------------------------------------------------------------------

    async def move_key_pair(self, source: str, target: str) -> None:
        """Replaces the target, when the source is a key pair that can be read."""
        old, new = self._changeable(source), self._changeable(target)
        if old.path == new.path:
            raise RequestRefused("source and destination are the same file", code="same-file")
        first, second = sorted((old.path, new.path))
        async with self._turns.of(first), self._turns.of(second):
            await self._change(self._move, old, new)

    def _move(self, source: Place, target: Place) -> None:
        if not self._has_pair(source):
            raise no_key(source.key_id)
        self._files.move(source, target)

    async def delete_key(self, handle: str) -> None:
        meaning = await self._use(self._meaning, handle)
        if not isinstance(meaning, KeyHandle):
            raise wrong_handle("handle is not for a key")
        await self._delete(meaning.key_id)

    async def delete_key_pair(self, handle: str) -> None:
        meaning = await self._use(self._meaning, handle)
        if not isinstance(meaning, PairHandle):
            raise wrong_handle("handle is not for a key pair")
        await self._delete(meaning.key_id)

    async def _delete(self, key_id: str) -> None:
        place = self._changeable(key_id)
        async with self._turns.of(place.path):
            await self._change(self._files.delete, place)

    async def erase(self, key_id: str) -> None:
        """Nothing is filed under the id, usable or not. A preloaded key is the operator's, and stays.

        What was parsed of any key is forgotten, too. Raises RequestRefused and StoreUnavailable.
        """
        self._pairs.forget()
        place = self._changeable(key_id)
        if not place.preloaded:
            await self._delete(key_id)

    # --- derived keys ----------------------------------------------------------------------------------

    async def derive_key(self, handle: str, data: bytes) -> str:
        return await self._use(self._derive, handle, data)

    def _derive(self, handle: str, data: bytes) -> str:
        self._base(handle)
        return self._handle(DerivedHandle(handle, data))

    async def export_derived_key(self, handle: str) -> bytes:
        return await self._use(self._export, handle)

    def _export(self, handle: str) -> bytes:
        meaning = self._meaning(handle)
        if not isinstance(meaning, DerivedHandle):
            raise wrong_handle("handle is not for a derived key")
        return self._secret(meaning)

    # --- using -----------------------------------------------------------------------------------------

    async def public_parameter(self, handle: str, name: str) -> str:
        return await self._use(self._parameter, handle, name)

    def _parameter(self, handle: str, name: str) -> str:
        meaning = self._meaning(handle)
        if not isinstance(meaning, PairHandle):
            raise wrong_handle("handle is not for a key pair")
        with _translated():
            return self._pair(meaning).parameter(name)

    async def sign(self, handle: str, mechanism: Ecdsa | HmacSha256) -> bytes:
        return await self._use(self._sign, handle, mechanism)

    def _sign(self, handle: str, mechanism: Ecdsa | HmacSha256) -> bytes:
        with _translated():
            match self._meaning(handle), mechanism:
                case PairHandle() as meaning, Ecdsa(digest):
                    return self._pair(meaning).sign_digest(digest)
                case KeyHandle() | DerivedHandle() as meaning, HmacSha256(message):
                    return hmac.digest(self._secret(meaning), message, "sha256")
        raise _wrong_mechanism()

    async def encrypt(self, handle: str, mechanism: Encryption, plaintext: bytes) -> bytes:
        return await self._use(self._encrypt, handle, mechanism, plaintext)

    def _encrypt(self, handle: str, mechanism: Encryption, plaintext: bytes) -> bytes:
        with _translated():
            match self._meaning(handle), mechanism:
                case PairHandle() as meaning, RsaPkcs1():
                    return self._pair(meaning).rsa_pkcs1(plaintext)
                case PairHandle() as meaning, RsaNoPadding():
                    return self._pair(meaning).rsa_raw(plaintext)
                case KeyHandle() | DerivedHandle() as meaning, Aead(iv, aad):
                    return aead.seal(self._secret(meaning), iv, aad, plaintext)
        raise _wrong_mechanism()

    async def decrypt(self, handle: str, mechanism: Encryption, ciphertext: bytes) -> bytes:
        """With Aead only, as in the original. A tag that does not match: code ``crypto-failed``."""
        return await self._use(self._decrypt, handle, mechanism, ciphertext)

    def _decrypt(self, handle: str, mechanism: Encryption, ciphertext: bytes) -> bytes:
        with _translated():
            match self._meaning(handle), mechanism:
                case KeyHandle() | DerivedHandle() as meaning, Aead(iv, aad):
                    return aead.unseal(self._secret(meaning), iv, aad, ciphertext)
        raise _wrong_mechanism()

    # --- handles ---------------------------------------------------------------------------------------

    def key_id_of(self, handle: str) -> str:
        """The id behind a valid handle; of the base key for a derived one. Blocks before the first use."""
        meaning = self._meaning(handle)
        if isinstance(meaning, DerivedHandle):
            return self._base(meaning.base).key_id
        return meaning.key_id

    def _handle(self, meaning: Meaning) -> str:
        return make_handle(self._validation(make=True), meaning, self._nonce(NONCE_BYTES))

    def _meaning(self, handle: str) -> Meaning:
        meaning = read_handle(self._validation(make=False), handle)
        if not isinstance(meaning, DerivedHandle) and meaning.key_id == HANDLE_KEY_ID:
            raise no_key(meaning.key_id)  # the original gives such handles away
        return meaning

    def _base(self, handle: str) -> KeyHandle:
        """Of a derived key: always a symmetric key itself."""
        match self._meaning(handle):
            case KeyHandle() as base:
                return base
            case DerivedHandle():
                raise wrong_handle("nested derived keys are not supported, derive from the base key instead")
        raise wrong_handle("handle is not for a key")

    def _validation(self, *, make: bool) -> bytes:
        """The key of all handles. Kept: it never changes while the service runs."""
        with self._validation_lock:
            if self._validation_key is None:
                place = self._files.place(HANDLE_KEY_ID)
                self._files.sweep()  # nothing is written before there is this key
                found = self._files.read(place)
                if found is None:
                    if not make:
                        raise invalid_handle()  # no handle was ever made, or all are lost with their key
                    found = secrets.token_bytes(KEY_BYTES)
                    self._files.write(place, found)
                else:
                    self._files.settle(place, ours_only=True)
                self._validation_key = found
            return self._validation_key

    # --- material --------------------------------------------------------------------------------------

    def _changeable(self, key_id: str) -> Place:
        if key_id == IDENTITY_KEY_ID:
            raise RequestRefused("the key of the issued identity is the machine's", code="machine-owned")
        return self._place(key_id)

    def _place(self, key_id: str) -> Place:
        if key_id == HANDLE_KEY_ID:
            raise no_key(key_id)
        return self._files.place(key_id)

    def _secret(self, meaning: KeyHandle | DerivedHandle) -> bytes:
        if isinstance(meaning, DerivedHandle):
            base = self._symmetric(self._base(meaning.base).key_id)
            return hmac.digest(base, meaning.data, "sha256")
        return self._symmetric(meaning.key_id)

    def _symmetric(self, key_id: str) -> bytes:
        content = None if key_id == IDENTITY_KEY_ID else self._files.read(self._place(key_id))
        if content is None:
            raise no_key(key_id)
        return content

    def _pair(self, meaning: PairHandle) -> KeyPair:
        place = self._place(meaning.key_id)
        identity = meaning.key_id == IDENTITY_KEY_ID
        pair = self._identity_pair(meaning, place) if identity else self._stored_pair(place)
        if pair is None:
            raise no_key(meaning.key_id)
        return pair

    def _identity_pair(self, meaning: PairHandle, place: Place) -> KeyPair | None:
        generation = meaning.generation
        if generation is None:
            generation = self._identity.current_key_generation()
        if generation is None:
            # Before anything was issued here, the original's own file may lie where our link will be.
            return None if os.path.islink(place.path) else self._stored_pair(place)
        pem = self._identity.key_pem(generation)
        return None if pem is None else self._parsed(pem, f"the key of generation {generation}")

    def _stored_pair(self, place: Place) -> KeyPair | None:
        if place.inline is not None:
            raise RequestRefused("this key is symmetric", code="wrong-kind")
        pem = self._files.read(place)
        return None if pem is None else self._parsed(pem, place.path)

    def _parsed(self, pem: bytes, where: str) -> KeyPair:
        try:
            return self._pairs.parsed(pem)
        except KeyUnreadable as exc:
            raise unusable(where, f"holds {exc}") from exc

    # --- threads ---------------------------------------------------------------------------------------

    async def _use(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Work that changes no key. Raises StoreUnavailable where a card hangs; its thread is left to it."""
        try:
            with trio.fail_after(USE_WITHIN_S):
                return await trio.to_thread.run_sync(
                    work, *args, limiter=self._operations, abandon_on_cancel=True
                )
        except trio.TooSlowError as exc:
            raise StoreUnavailable(
                f"{self._files.directory} gave no key within {USE_WITHIN_S:g} s; check the disk",
                code="too-slow",
            ) from exc

    async def _change(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Work that ends before its turn does."""
        return await trio.to_thread.run_sync(work, *args, limiter=self._operations, abandon_on_cancel=False)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Unsuitable as exc:
        raise RequestRefused(str(exc), code="key-unsuitable") from exc
    except CryptoFailed as exc:
        raise RequestRefused(str(exc), code="crypto-failed") from exc


def _wrong_mechanism() -> RequestRefused:
    return RequestRefused(
        "mechanism cannot be used with this key type", code="mechanism-unsuitable", parameter="mechanism"
    )
