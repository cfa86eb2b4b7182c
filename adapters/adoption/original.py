"""What an installation of the original left on its disk, read with suspicion and never written.

Certificates and keys by file name (services.md §4.4, §5.5), the assignment in ``device_info``, the settings
of its last success in ``prev_state`` and the module cache (cloud.md §4.1). An id cannot be read off a file's
name, but the names of ids that are known can be made.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import tomli
from msgspec import Struct

from adapters import config_forms as forms
from adapters.driven.files import open_plain, read_file
from adapters.driven.hub_modules import Where
from adapters.driven.module_cache import MAX_FILE_BYTES as MAX_MODULE_BYTES
from adapters.driven.module_cache import directory_name
from adapters.errors import bounded
from statemachine.settings import DEFAULT_TRUST_BUNDLE_ID

MAX_STATE_BYTES = 1024 * 1024
"Of device_info, prev_state, and each of keyd's files."
MAX_STORED_BYTES = 2 * 1024 * 1024
"Of a certificate or key file."
MAX_FILES = 4096
"In one directory."
MAX_TOTAL_BYTES = 64 * 1024 * 1024

_STORED = {
    "certs": re.compile(r"[A-Za-z0-9]{0,180}-[0-9a-f]{64}\.cer"),
    "keys": re.compile(r"[A-Za-z0-9]{0,180}-[0-9a-f]{64}\.key"),
}
_MODULE = re.compile(r"[A-Za-z0-9]{0,128}-[0-9a-f]{64}")


class Homes(Struct, frozen=True, kw_only=True):
    """Its directories. Not ``Paths``: those of a root that is only read need no room for sockets."""

    root: str
    identityd: str
    certd: str
    keyd: str
    settings: str

    @classmethod
    def below(cls, root: str) -> "Homes":
        prefix = os.path.realpath(root)
        state = os.path.join(prefix, "var/lib/aziot")
        return cls(
            root=prefix,
            identityd=os.path.join(state, "identityd"),
            certd=os.path.join(state, "certd"),
            keyd=os.path.join(state, "keyd"),
            settings=os.path.join(prefix, "etc/aziot"),
        )


class File(Struct, frozen=True, kw_only=True):
    """One file. ``content`` may be a secret."""

    name: str
    path: str
    content: bytes = b""
    problem: str | None = None
    "Why it cannot be used; it has no content then."
    mode: int = 0
    uid: int = 0
    gid: int = 0

    def __repr__(self) -> str:
        return f"File({self.path!r}, problem={self.problem!r})"


class Device(Struct, frozen=True, kw_only=True):
    """``device_info``."""

    hub: str
    device_id: str
    certificate_type: str | None = None


class Applied(Struct, frozen=True, kw_only=True):
    """``prev_state``: what the settings were when the assignment was last confirmed."""

    source: str
    endpoint: str = ""
    scope_id: str = ""
    method: str = ""
    registration_id: str | None = None
    trust_bundle_id: str = DEFAULT_TRUST_BUNDLE_ID
    modules: tuple[str, ...] = ()
    "Names of the principals that are modules."


class Original(Struct, frozen=True, kw_only=True):
    """The installation."""

    homes: Homes
    device: Device | None = None
    device_problem: str | None = None
    "Why device_info cannot be used; None when it can, and when there is none."
    applied: Applied | None = None
    applied_problem: str | None = None
    certificates: Mapping[str, File] = {}
    "By file name."
    keys: Mapping[str, File] = {}
    modules: tuple[File, ...] = ()
    "The cache of this device."
    pkcs11: tuple[str, ...] = ()
    "What of its keys lies in a PKCS#11 token, each with the file that says so."
    problems: tuple[str, ...] = ()
    "Of directories and files of settings."

    @property
    def found(self) -> bool:
        """Whether anything of it is there."""
        return bool(self.device or self.device_problem or self.applied or self.certificates or self.keys)


class Unusable(Exception):
    """The text says which file, why, and what to do."""


def read_original(root: str) -> Original:
    """Blocks. Raises nothing for what is damaged: the Original tells."""
    homes = Homes.below(root)
    problems: list[str] = []
    left = [MAX_TOTAL_BYTES]
    certificates = _stored(os.path.join(homes.certd, "certs"), "certs", left, problems)
    keys = _stored(os.path.join(homes.keyd, "keys"), "keys", left, problems)
    device, device_problem, applied, applied_problem = None, None, None, None
    try:
        device = _device(os.path.join(homes.identityd, "device_info"))
    except Unusable as exc:
        device_problem = str(exc)
    try:
        applied = _applied(os.path.join(homes.identityd, "prev_state"))
    except Unusable as exc:
        applied_problem = str(exc)
    return Original(
        homes=homes,
        device=device,
        device_problem=device_problem,
        applied=applied,
        applied_problem=applied_problem,
        certificates=certificates,
        keys=keys,
        modules=() if device is None else _modules(homes, device, left, problems),
        pkcs11=tuple(_pkcs11(homes, problems)),
        problems=tuple(problems),
    )


# --- certificates and keys ---------------------------------------------------------------------------


def _stored(directory: str, kind: str, left: list[int], problems: list[str]) -> dict[str, File]:
    found = {}
    for name in _names(directory, _STORED[kind], problems):
        file = _file(directory, name, MAX_STORED_BYTES, left)
        if file is not None:
            found[name] = file
    return found


def _names(directory: str, pattern: re.Pattern[str], problems: list[str]) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(directory) if pattern.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        problems.append(f"{directory} cannot be read: {exc.strerror}; run this as root")
        return []
    if len(names) > MAX_FILES:
        problems.append(f"{directory} holds more than {MAX_FILES} files; the rest is not looked at")
    return names[:MAX_FILES]


def _file(directory: str, name: str, limit: int, left: list[int]) -> File | None:
    """None for a link: the original makes none, so it is ours."""
    path = os.path.join(directory, name)
    if os.path.islink(path):
        return None
    try:
        content = read_file(path, min(limit, left[0]))
        handle = open_plain(path)
        try:
            status = os.fstat(handle)
        finally:
            os.close(handle)
    except OSError as exc:
        return File(name=name, path=path, problem=f"cannot be read: {exc.strerror or exc}")
    if content is None:
        return None
    left[0] -= len(content)
    return File(
        name=name,
        path=path,
        content=content,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def _modules(homes: Homes, device: Device, left: list[int], problems: list[str]) -> tuple[File, ...]:
    where = Where(hub=device.hub, device_id=device.device_id)
    directory = os.path.join(homes.identityd, "modules", directory_name(where))
    files = (_file(directory, name, MAX_MODULE_BYTES, left) for name in _names(directory, _MODULE, problems))
    return tuple(file for file in files if file is not None)


# --- the identity service's own files ----------------------------------------------------------------


def _device(path: str) -> Device | None:
    text = _text(path)
    if text is None or text.strip() == "unprovisioned":
        return None
    tree = _toml(path, text)
    policy = tree.get("cert_policy")
    kind = policy.get("certificateType") if isinstance(policy, dict) else None
    try:
        return Device(
            hub=forms.host_and_port(_string(path, tree, "hub_name")),
            device_id=forms.device_id(_string(path, tree, "device_id")),
            certificate_type=bounded(kind, 80) if isinstance(kind, str) else None,
        )
    except forms.Unfit:
        raise Unusable(f"{path} names a hub or device that cannot be one") from None


def _applied(path: str) -> Applied | None:
    text = _text(path)
    if text is None:
        return None
    tree = _toml(path, text)
    table = tree.get("provisioning")
    if not isinstance(table, dict):
        raise Unusable(f"{path} has no [provisioning]")
    attestation = table.get("attestation")
    if not isinstance(attestation, dict):
        attestation = {}
    endpoint, registration_id = table.get("global_endpoint"), attestation.get("registration_id")
    if isinstance(registration_id, dict):
        registration_id = registration_id.get("CN")  # a whole subject, in the later releases
    try:
        return Applied(
            source=_string(path, table, "source"),
            endpoint=forms.endpoint(endpoint) if isinstance(endpoint, str) else "",
            scope_id=_optional(table.get("scope_id")) or "",
            method=_optional(attestation.get("method")) or "",
            registration_id=_optional(registration_id),
            trust_bundle_id=_optional(tree.get("dps_trust_bundle")) or DEFAULT_TRUST_BUNDLE_ID,
            modules=tuple(_module_names(tree.get("principal"))),
        )
    except forms.Unfit:
        raise Unusable(f"{path} names an endpoint that cannot be one") from None


def _module_names(principals: object) -> Iterator[str]:
    for principal in principals if isinstance(principals, list) else []:
        kinds = principal.get("idtype") if isinstance(principal, dict) else None
        name = principal.get("name") if isinstance(principal, dict) else None
        if isinstance(kinds, list) and "module" in kinds and isinstance(name, str):
            try:
                yield forms.device_id(name)
            except forms.Unfit:
                continue


def _pkcs11(homes: Homes, problems: list[str]) -> Iterator[str]:
    """A PIN may stand in these URIs, so no value is told."""
    for path in _keyd_files(homes, problems):
        try:
            text = _text(path)
            tree = {} if text is None else _toml(path, text)
        except Unusable as exc:
            problems.append(str(exc))
            continue
        keys, preloaded = tree.get("aziot_keys"), tree.get("preloaded_keys")
        if isinstance(keys, dict) and "pkcs11_base_slot" in keys:
            yield f"keys that were made there (pkcs11_base_slot in {path})"
        for key_id, place in (preloaded if isinstance(preloaded, dict) else {}).items():
            if isinstance(place, str) and place.lower().startswith("pkcs11:"):
                yield f'key "{bounded(key_id, 80)}" (preloaded_keys in {path})'


def _keyd_files(homes: Homes, problems: list[str]) -> list[str]:
    base = os.path.join(homes.settings, "keyd")
    drop_ins = os.path.join(base, "config.d")
    names = _names(drop_ins, re.compile(r".*\.toml"), problems)
    return [os.path.join(base, "config.toml"), *(os.path.join(drop_ins, name) for name in names)]


def _text(path: str) -> str | None:
    try:
        content = read_file(path, MAX_STATE_BYTES)
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        raise Unusable(f"{path} is not text") from None
    except OSError as exc:
        raise Unusable(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _toml(path: str, text: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except (ValueError, RecursionError):
        # Not what the parser says: it may quote a secret.
        raise Unusable(f"{path} is not TOML") from None


def _string(path: str, table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise Unusable(f"{path} has no {name}")
    return value


def _optional(value: object) -> str | None:
    return bounded(value, 255) if isinstance(value, str) else None
