"""An installation of the original as it lies on disk, made by hand: its names and formats, not ours."""

import copy
import datetime
import hashlib
import json
import os
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HUB, DEVICE, SCOPE = "contoso-plant.azure-devices.net", "line4-press-17", "0ne0001"
ENDPOINT = "https://global.azure-devices-provisioning.net/"
CERTIFICATE, KEY, BUNDLE = "aziot-dps-identity-cert", "aziot-dps-identity-cert-key", "aziot-dps-trust-bundle"
MASTER, HANDLES = "aziot_identityd_master_id", "handle-validation-key"

CONFIG = f"""
[provisioning]
source = "dps"
global_endpoint = "{ENDPOINT}"
id_scope = "{SCOPE}"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "{DEVICE}"
symmetric_key = {{ value = "c2VjcmV0IG9uYm9hcmRpbmc=" }}
"""

PREV_STATE = f"""
hostname = "press"
homedir = "/var/lib/aziot/identityd"
[provisioning]
source = "dps"
global_endpoint = "{ENDPOINT}"
scope_id = "{SCOPE}"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "{DEVICE}"
symmetric_key = "device-id"
[[principal]]
uid = 1003
name = "telemetry"
idtype = ["module"]
[[principal]]
uid = 1004
name = "localonly"
idtype = ["local"]
"""


def file_name(one: str, extension: str) -> str:
    letters = "".join(c for c in one if c.isascii() and c.isalnum())
    return f"{letters}-{hashlib.sha256(one.encode()).hexdigest()}.{extension}"


def issue(
    common_name: str = DEVICE, *, days: float = 30, begins: float = -1, ca: bool = False
) -> tuple[bytes, bytes]:
    """Chain and key in PEM, self-signed: nobody here looks at who issued it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), pem


class OriginalHome:
    """Below ``root``; every part may be replaced or taken away afterwards."""

    def __init__(self, root: Path) -> None:
        self._place(root)
        for directory in (self.identityd, self.certs, self.keys, root / "etc/aziot/keyd/config.d"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.chain, self.key = issue()
        self.bundle = issue("Root", ca=True)[0] + issue("Other root", ca=True)[0]
        self.certificate(CERTIFICATE, self.chain)
        self.key_file(KEY, self.key)
        self.certificate(BUNDLE, self.bundle)
        self.key_file(MASTER, bytes(range(32)))
        self.key_file(HANDLES, bytes(range(32, 64)))
        edge_chain, edge_key = issue("edge ca", ca=True)
        self.certificate("aziot-edged-ca", edge_chain)
        self.key_file("aziot-edged-ca", edge_key)
        self.device_info()
        (self.identityd / "prev_state").write_text(PREV_STATE)
        self.module("telemetry", "637988")
        self.module("$edgeAgent", "1")

    def copy(self, root: Path) -> "OriginalHome":
        """The same at another place."""
        shutil.copytree(self.root, root)
        copied = copy.copy(self)
        copied._place(root)
        return copied

    def _place(self, root: Path) -> None:
        self.root = root
        state = root / "var/lib/aziot"
        self.identityd = state / "identityd"
        self.certs, self.keys = state / "certd/certs", state / "keyd/keys"

    def certificate(self, one: str, content: bytes) -> Path:
        path = self.certs / file_name(one, "cer")
        path.write_bytes(content)
        path.chmod(0o644)
        return path

    def key_file(self, one: str, content: bytes) -> Path:
        path = self.keys / file_name(one, "key")
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def device_info(self, hub: str = HUB, device: str = DEVICE) -> Path:
        path = self.identityd / "device_info"
        path.write_text(
            f'hub_name = "{hub}"\nlocal_gateway_hostname = "{hub}"\ndevice_id = "{device}"\n\n'
            '[cert_policy]\ncertificateType = "serverCertificate"\n'
        )
        return path

    def module(self, name: str, generation: str) -> Path:
        digest = [hashlib.sha256(one.encode()).hexdigest() for one in (HUB, DEVICE, name)]
        directory = self.identityd / "modules" / f"{digest[0]}-{digest[1]}"
        directory.mkdir(parents=True, exist_ok=True)
        letters = "".join(c for c in name if c.isascii() and c.isalnum())
        path = directory / f"{letters}-{digest[2]}"
        path.write_text(json.dumps({"moduleId": name, "deviceId": DEVICE, "generationId": generation}))
        return path

    def configure(self, root: Path | None = None, text: str = CONFIG) -> Path:
        """The configuration of the service that takes over."""
        path = (root or self.root) / "etc/aziot/config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def image(self) -> dict[str, tuple[int, int, int, bytes]]:
        """Every file of the original: owner, mode, time of change and content."""
        found = {}
        for base, _, names in os.walk(self.root / "var/lib/aziot"):
            for name in names:
                path = Path(base) / name
                ours = "/identityd/" in f"{path}" and "/modules/" not in f"{path}"
                if ours and name not in ("device_info", "prev_state"):
                    continue
                status = path.lstat()
                content = path.read_bytes() if path.is_file() else b"?"
                found[f"{path.relative_to(self.root)}"] = (
                    status.st_mode,
                    status.st_uid,
                    status.st_mtime_ns,
                    content,
                )
        return found
