"""Questions of the demo that are no command's: to certd.sock, to the stand-in cloud, and to the disk.

What the disk and the sockets hold is read with the cryptography library itself, not with wire/x509.py:
a check must not share a mistake with what it checks.
"""

import hashlib
import http.client
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from msgspec import Struct

from adapters.cli.control_client import UnixConnection
from adapters.cli.failure import CommandFailed
from adapters.paths import Paths

ANSWER_S = 10.0
MAX_BYTES = 8 * 1024 * 1024
API_VERSION = "2020-09-01"
CERTIFICATE = "aziot-dps-identity-cert"
BUNDLE = "aziot-dps-trust-bundle"
LONG, SHORT = "/certificates/", "/"
"Both paths under which certd serves a certificate."


class Answer(NamedTuple):
    """Of one HTTP request."""

    status: int
    body: bytes

    @property
    def json(self) -> object:
        """None when it is none."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class Asked(Struct, frozen=True):
    """One request in the cloud's log, as far as a check looks at it."""

    method: str
    path: str
    status: int | None = None
    client: str = "none"
    operation_id: str | None = None
    certificate_serial: str | None = None


class _Log(Struct, frozen=True):
    entries: list[Asked]


def ask_certd(
    paths: Paths, certificate_id: str, *, path: str = LONG, version: str | None = API_VERSION
) -> Answer:
    """As the printed curl lines do. Raises CommandFailed."""
    target = f"{path}{certificate_id}" + ("" if version is None else f"?api-version={version}")
    return _exchange(lambda: UnixConnection(paths.certd_sock, ANSWER_S), "GET", target, paths.certd_sock)


def _exchange(
    connect: Callable[[], http.client.HTTPConnection],
    method: str,
    target: str,
    peer: str,
    body: bytes | None = None,
) -> Answer:
    connection = connect()
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(MAX_BYTES))
    except (OSError, http.client.HTTPException) as exc:
        raise CommandFailed(f"{peer} does not answer {method} {target}: {exc}") from exc
    finally:
        connection.close()


class CloudControl:
    """The stand-in cloud's control paths, and its hub. Every method raises CommandFailed."""

    def __init__(self, endpoint: str, ca_file: str) -> None:
        self.endpoint = endpoint
        self._port = int(endpoint.rpartition(":")[2])
        self._ca_file = ca_file
        self._context = ssl.create_default_context(cafile=ca_file)

    def set_bundle(self, pem: str) -> None:
        """The trust bundle of every registration from now on."""
        self._put("bundle", pem.encode())

    def set_polls(self, count: int) -> None:
        """How often `assigning` is answered before an operation ends."""
        self._put("options", msgspec.json.encode({"assigning": count}))

    def log(self) -> list[Asked]:
        """What it was asked and answered."""
        return msgspec.json.decode(self._ask("GET", "/_cloud/log").body, type=_Log).entries

    def hub_accepts(self, paths: Paths, device_id: str) -> Answer:
        """The hub's answer to a client that shows what the original's file names lead to."""
        context = ssl.create_default_context(cafile=self._ca_file)
        try:
            context.load_cert_chain(published(paths, "certificate"), published(paths, "key"))
        except OSError as exc:  # SSLError is one
            raise CommandFailed(f"OpenSSL does not take certificate and key: {exc}") from exc
        target = f"/devices/{device_id}/modules?api-version=2020-09-30"
        return _exchange(lambda: self._connection(context), "GET", target, "the hub")

    def _put(self, what: str, body: bytes) -> None:
        answer = self._ask("PUT", f"/_cloud/{what}", body)
        if answer.status != 204:
            raise CommandFailed(
                f"the cloud does not take that {what}: {answer.body.decode(errors='replace')}"
            )

    def _ask(self, method: str, target: str, body: bytes | None = None) -> Answer:
        return _exchange(lambda: self._connection(self._context), method, target, "the cloud", body)

    def _connection(self, context: ssl.SSLContext) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", self._port, context=context, timeout=ANSWER_S)


# --- certificates and keys ---------------------------------------------------------------------------


class Leaf(NamedTuple):
    """What a certificate says."""

    serial: str
    "Hex, as status and journal spell it."
    spki: str
    "Hex SHA-256 of its SubjectPublicKeyInfo."
    common_name: str
    not_before_s: float
    not_after_s: float

    @property
    def valid(self) -> bool:
        return self.not_before_s <= time.time() < self.not_after_s


def leaf_of(chain_pem: bytes) -> Leaf:
    """Raises CommandFailed."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    except ValueError as exc:
        raise CommandFailed(f"not a certificate: {exc}") from exc
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Leaf(
        serial=f"{leaf.serial_number:x}",
        spki=_spki(leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
        common_name=", ".join(str(name.value) for name in names),
        not_before_s=leaf.not_valid_before_utc.timestamp(),
        not_after_s=leaf.not_valid_after_utc.timestamp(),
    )


def key_spki(path: Path) -> str:
    """Which public key belongs to the private one in that file. Raises CommandFailed."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as exc:
        raise CommandFailed(f"{path} is no key: {exc}") from exc
    return _spki(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _spki(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def published(paths: Paths, what: str) -> str:
    """The file an existing client of the original opens: `certificate` or `key`. Raises CommandFailed."""
    directory, pattern = {
        "certificate": (os.path.join(paths.certd_home, "certs"), "aziotdpsidentitycert-*.cer"),
        "key": (os.path.join(paths.keyd_home, "keys"), "aziotdpsidentitycertkey-*.key"),
    }[what]
    for path in Path(directory).glob(pattern):
        return str(path)
    raise CommandFailed(f"there is no {pattern} in {directory}")


def generation(paths: Paths, number: int | None = None) -> Path:
    """Where one generation lies, by default the current one, whichever that is later."""
    directory = Path(paths.state_dir, "credentials")
    return directory / str(number) if number is not None else (directory / "current").resolve()


def pair_on_disk(paths: Paths) -> Leaf:
    """The current certificate, its key compared with it. Raises CommandFailed when they do not match."""
    # Resolved once: between reading one and the other the pointer may move on.
    directory = generation(paths)
    try:
        leaf = leaf_of((directory / "chain.pem").read_bytes())
    except OSError as exc:
        raise CommandFailed(f"no certificate can be read in {directory}: {exc.strerror}") from exc
    if key_spki(directory / "key.pem") != leaf.spki:
        raise CommandFailed(f"certificate and key in {directory} do not match")
    return leaf
