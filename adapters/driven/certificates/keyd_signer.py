"""Keys of the key service as keys to sign certificates with.

The key itself stays where it is: wherever keyd keeps it, now in a file, later perhaps in hardware.
"""

import base64

import trio

from adapters.errors import AdapterError, StoreUnavailable
from adapters.ports import Ecdsa, KeyService, RsaPkcs1
from adapters.wire.remote_key import RemoteKey, ec_spki, rsa_spki


async def remote_key(keys: KeyService, handle: str) -> RemoteKey:
    """The key behind that handle. Its calls are for a thread that trio started and does not abandon.

    Raises StoreUnavailable (code ``key-unusable``), and so do the calls.
    """

    async def ecdsa(digest: bytes) -> bytes:
        try:
            return await keys.sign(handle, Ecdsa(digest))
        except AdapterError as exc:
            raise unusable(exc) from exc

    async def rsa_pkcs1(digest_info: bytes) -> bytes:
        try:
            return await keys.encrypt(handle, RsaPkcs1(), digest_info)
        except AdapterError as exc:
            raise unusable(exc) from exc

    try:
        spki_der = await _public_half(keys, handle)
    except AdapterError as exc:
        raise unusable(exc) from exc
    except ValueError as exc:
        raise StoreUnavailable(
            f"the key service describes a key that signs no certificates: {exc}",
            code="key-unusable",
            failure_class="operator",
        ) from exc
    return RemoteKey(
        spki_der=spki_der,
        ecdsa=lambda digest: trio.from_thread.run(ecdsa, digest),
        rsa_pkcs1=lambda digest_info: trio.from_thread.run(rsa_pkcs1, digest_info),
    )


def unusable(exc: AdapterError, what: str = "the key to sign with") -> StoreUnavailable:
    """What the key service refused: of certd's callers nobody can do anything about it (services.md §4.3)."""
    return StoreUnavailable(
        f"{what} cannot be used: {exc.message}",
        code="key-unusable",
        failure_class=exc.failure_class,
    )


async def _public_half(keys: KeyService, handle: str) -> bytes:
    """DER of its SubjectPublicKeyInfo. Raises AdapterError and ValueError."""

    async def parameter(name: str) -> bytes:
        return base64.b64decode(await keys.public_parameter(handle, name), validate=True)

    algorithm = await keys.public_parameter(handle, "algorithm")
    if algorithm == "ECDSA":
        return ec_spki(await parameter("ec-curve-oid"), await parameter("ec-point"))
    if algorithm == "RSA":
        return rsa_spki(await parameter("rsa-modulus"), await parameter("rsa-exponent"))
    raise ValueError(f"its algorithm is {algorithm[:20]!r}")
