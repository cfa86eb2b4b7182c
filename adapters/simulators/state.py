"""What the stand-in cloud keeps below its root, so that a restart is the same cloud.

``DIR/cloud``: ``ca.pem`` and ``ca.key``, ``enrolment.key`` (base64), ``port``, ``devices.json`` and
``clients/*.pem``, the client certificates or their CAs that an operator enrols. ``DIR/etc/aziot/config.toml``
is written once, for a device that provisions itself here with the symmetric key.
"""

import base64
import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator

import msgspec

from adapters.simulators.ca import Authority
from adapters.simulators.devices import Devices
from adapters.simulators.dps import SCOPE_ID

REGISTRATION_ID = "demo-device"
SHORT_LIFE_S = 3600.0
"Certificates that live shorter need a device that is quicker than its defaults."


class CloudError(Exception):
    """The stand-in cloud cannot run; the text says why and what to do."""


class State:
    """Opened files. Everything private has mode 0600."""

    def __init__(self, root: str, now_unix_s: float) -> None:
        """Create what is missing. Raises CloudError."""
        root = os.path.realpath(root)
        if root == "/":
            raise CloudError("the stand-in cloud never runs on the system itself: give it a --root DIR")
        self.root = root
        self.directory = os.path.join(root, "cloud")
        self.ca_file = os.path.join(self.directory, "ca.pem")
        self.clients = os.path.join(self.directory, "clients")
        self.config = os.path.join(root, "etc/aziot/config.toml")
        try:
            # Reachable for a device that runs as another user: it reads ca.pem.
            os.makedirs(self.clients, 0o755, exist_ok=True)
            self.authority = self._open_authority(now_unix_s)
            self.enrolment_key = self._open_enrolment_key()
            self.devices = Devices(os.path.join(self.directory, "devices.json"), write_private)
        except OSError as exc:
            raise CloudError(f"{exc.filename or self.directory} cannot be used: {exc.strerror}") from exc
        except (ValueError, msgspec.MsgspecError) as exc:
            raise CloudError(f"{self.directory} cannot be used ({exc}); remove it to begin anew") from exc

    def _open_authority(self, now_unix_s: float) -> Authority:
        key_file = os.path.join(self.directory, "ca.key")
        certificate, key = _read(self.ca_file), _read(key_file)
        if certificate is not None and key is not None:
            return Authority.load(certificate, key)
        authority = Authority.create(now_unix_s)
        # The certificate last: with only one of the two on disk the next start makes both.
        write_private(key_file, authority.key_pem)
        write_private(self.ca_file, authority.root_pem, mode=0o644)
        return authority

    def _open_enrolment_key(self) -> bytes:
        path = os.path.join(self.directory, "enrolment.key")
        kept = _read(path)
        if kept is not None:
            return base64.b64decode(kept.strip(), validate=True)
        key = secrets.token_bytes(32)
        write_private(path, base64.b64encode(key) + b"\n")
        return key

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Two on one directory would take each other's port and devices. Raises CloudError."""
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as exc:
            raise CloudError(
                f"{self.directory} is in use by another stand-in cloud; stop it first, or use another --root"
            ) from exc
        finally:
            os.close(handle)

    @property
    def port(self) -> int:
        """The port of the last run; 0 when there was none."""
        kept = _read(os.path.join(self.directory, "port")) or b""
        text = kept.strip()
        return int(text) if text.isdigit() and int(text) < 65536 else 0

    def keep_port(self, port: int) -> None:
        """Raises OSError."""
        write_private(os.path.join(self.directory, "port"), b"%d\n" % port)

    def client_anchors(self) -> list[tuple[str, bytes]]:
        """Path and content of each enrolled PEM file. Files that cannot be read are left out."""
        found = []
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.clients)):
                path = os.path.join(self.clients, name)
                with contextlib.suppress(OSError):
                    if name.endswith(".pem") and (content := _read(path)):
                        found.append((path, content))
        return found

    def write_config(self, endpoint: str, *, cert_lifetime_s: float, api_version: str | None) -> bool:
        """Write the device's config.toml unless there is one; True when it was written. Raises OSError."""
        if os.path.exists(self.config):
            return False
        os.makedirs(os.path.dirname(self.config), 0o755, exist_ok=True)
        text = device_config(
            endpoint,
            enrolment_key=self.enrolment_key,
            ca_file=self.ca_file,
            cert_lifetime_s=cert_lifetime_s,
            api_version=api_version,
        )
        write_private(self.config, text.encode())
        return True

    def config_names(self, endpoint: str) -> bool:
        """Whether the device's config.toml speaks of that endpoint."""
        return f'"{endpoint}"' in (_read(self.config) or b"").decode(errors="replace")


def device_config(
    endpoint: str, *, enrolment_key: bytes, ca_file: str, cert_lifetime_s: float, api_version: str | None
) -> str:
    """config.toml in the original's form, with our own ``[identityd]`` table. Holds the key."""
    lines = [
        "# Written by the stand-in cloud for a device that provisions itself there. NOT FOR PRODUCTION.",
        "",
        "[provisioning]",
        'source = "dps"',
        f"global_endpoint = {_quoted(endpoint)}",
        f"id_scope = {_quoted(SCOPE_ID)}",
        "",
        "[provisioning.attestation]",
        'method = "symmetric_key"',
        f"registration_id = {_quoted(REGISTRATION_ID)}",
        f"symmetric_key = {{ value = {_quoted(base64.b64encode(enrolment_key).decode())} }}",
        "",
    ]
    if api_version is not None:
        lines += ["[identityd]", f"api_version = {_quoted(api_version)}", ""]
    lines += ["[identityd.tls]", f"ca_file = {_quoted(ca_file)}", ""]
    if cert_lifetime_s < SHORT_LIFE_S:
        lines += [
            "# Certificates live shorter than an hour here, so attempts follow each other sooner.",
            "[identityd.attempts]",
            "timeout_sec = 30",
            "backoff_base_sec = 1",
            "backoff_cap_sec = 5",
            "budget_registrations = 10000",
            "",
        ]
    return "\n".join(lines)


def write_private(path: str, content: bytes, *, mode: int = 0o600) -> None:
    """Replace the file in one step, with its mode from the first byte. Raises OSError."""
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
        file.flush()
        os.fsync(handle)
    os.rename(temporary, path)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _quoted(text: str) -> str:
    # A JSON string is a TOML basic string, but for DEL, which no path here has.
    return msgspec.json.encode(text).decode()
