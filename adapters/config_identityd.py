"""``identityd.toml``, as the original's identityd reads it: its own schema and its own check (§6).

This service does not run on it. It is what ``config apply`` has to come to, and what a device that is moved
over has.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from adapters import config_forms as forms
from adapters import config_uris as uris
from adapters.config_files import MAX_CONFIG_BYTES, parsed, read_text
from adapters.config_findings import Findings
from adapters.config_grants import principals
from adapters.config_rows_apply import APPLY
from adapters.config_rows_drop_ins import DROP_INS
from adapters.config_rows_original import ID_FORM
from adapters.config_setting import FILE_URI_FORM, Setting
from adapters.config_walk import schema, walk
from statemachine.settings import DEFAULT_TRUST_BUNDLE_ID, IdentityPrincipal

SOURCE = "provisioning.source"
AUTHENTICATION, ATTESTATION = "provisioning.authentication", "provisioning.attestation"

DEFAULTS: Mapping[str, Any] = {
    "cloud_timeout_sec": 10,
    "cloud_retries": 1,
    "dps_trust_bundle": DEFAULT_TRUST_BUNDLE_ID,
    "max_requests": 10,
    "prefer_module_identity_cache": False,
}


def _same(path: str, under: str = "", **options: Any) -> Setting:  # noqa: ANN401 - members of Setting
    """A row that means the same in both files, maybe under another name."""
    return replace(APPLY.rows[path], path=under or path, **options)


def _id(path: str, what: str) -> Setting:
    return Setting(
        path=path,
        kind="text",
        form=f"an id of {ID_FORM}",
        check=forms.printable_name,
        meaning=f"Id of {what}.",
        secret=not path.endswith("cert"),  # what stands here by mistake is the key itself
    )


ROWS: tuple[Setting, ...] = (
    _same("hostname"),
    Setting(
        path="homedir",
        kind="text",
        form="an absolute path",
        check=forms.absolute_path,
        meaning="Where identityd keeps what it knows.",
    ),
    *(_same(name) for name in DEFAULTS if name != "max_requests"),
    _same("aziot_max_requests.identityd", under="max_requests"),
    _same("localid.domain"),
    _same(SOURCE),
    _same("local_gateway_hostname", under="provisioning.local_gateway_hostname"),
    *(
        _same(f"provisioning.{name}")
        for name in ("iothub_hostname", "device_id", "authentication.method", "global_endpoint")
    ),
    _same("provisioning.id_scope", under="provisioning.scope_id"),
    Setting(
        path="provisioning.payload.uri",
        kind="text",
        form=FILE_URI_FORM,
        check=uris.file_uri,
        meaning="A JSON file sent with every registration.",
    ),
    _id(f"{AUTHENTICATION}.device_id_pk", "the device's symmetric key"),
    _same(f"{ATTESTATION}.method"),
    _same(f"{ATTESTATION}.registration_id"),
    _id(f"{ATTESTATION}.symmetric_key", "the device's symmetric key"),
    *(
        _id(f"{table}.{name}", what)
        for table in (AUTHENTICATION, ATTESTATION)
        for name, what in (("identity_cert", "the device's certificate"), ("identity_pk", "its key"))
    ),
    *(
        _same(
            f"{ATTESTATION}.identity_cert.auto_renew.{name}",
            under=f"{ATTESTATION}.identity_auto_renew.{name}",
        )
        for name in ("rotate_key", "threshold", "retry")
    ),
    *(row for row in DROP_INS["identityd"] if row.path.startswith("principal.")),
)

REQUIRED: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("", None): ("hostname", "homedir", SOURCE),
    (SOURCE, "manual"): (
        "provisioning.iothub_hostname",
        "provisioning.device_id",
        f"{AUTHENTICATION}.method",
    ),
    (SOURCE, "dps"): ("provisioning.global_endpoint", "provisioning.scope_id", f"{ATTESTATION}.method"),
    (f"{AUTHENTICATION}.method", "sas"): (f"{AUTHENTICATION}.device_id_pk",),
    (f"{AUTHENTICATION}.method", "x509"): (
        f"{AUTHENTICATION}.identity_cert",
        f"{AUTHENTICATION}.identity_pk",
    ),
    (f"{ATTESTATION}.method", "symmetric_key"): (
        f"{ATTESTATION}.registration_id",
        f"{ATTESTATION}.symmetric_key",
    ),
    (f"{ATTESTATION}.method", "x509"): (f"{ATTESTATION}.identity_cert", f"{ATTESTATION}.identity_pk"),
    (f"{ATTESTATION}.method", "tpm"): (f"{ATTESTATION}.registration_id",),
}
"What a value of a key makes required."

SCHEMA = schema(
    ROWS, unread=dict.fromkeys(("connect", "endpoints", "listen"), ""), arrays=("principal",), not_yet={}
)


class IdentitydFile(Struct, frozen=True, kw_only=True):
    """What the file says, defaults filled in."""

    values: dict[str, Any]
    "By dotted path; paths of rows that have no value and no default are absent."
    principals: tuple[IdentityPrincipal, ...]

    @property
    def daemon_uid(self) -> int | None:
        """Of the one principal without ``idtype``, who may do everything."""
        return next((one.uid for one in self.principals if one.kinds is None), None)

    def named(self, kind: str) -> frozenset[str]:
        """Names of the principals that have this kind of identity."""
        return frozenset(one.name for one in self.principals if one.kinds is not None and kind in one.kinds)


def read_identityd(tree: dict[str, Any], findings: Findings) -> IdentitydFile | None:
    """None with every mistake in ``findings``. ``tree`` may be several files, merged."""
    values = walk(SCHEMA, tree, findings)
    source = values.get(SOURCE)
    for (path, value), names in REQUIRED.items():
        if path and values.get(path) != value:
            continue
        for name in names:
            if not _stands(tree, name):
                findings.unfit(name, "nothing", SCHEMA.rows[name].allowed)
    gateway = "provisioning.local_gateway_hostname"
    if source == "dps" and gateway in values:
        findings.add(gateway, "DPS provisioning is not supported in nested mode; allowed without DPS only")
    users = principals(
        [(element, findings) for element in values.get("principal", [])],
        local_identities="localid.domain" in values,
        hub=None if source is None else source != "none",
        lenient=False,
    )
    if findings.mistakes:
        return None
    own = {path: value for path, value in values.items() if path in SCHEMA.rows}
    return IdentitydFile(values={**DEFAULTS, **own}, principals=users)


def examine(path: str) -> Findings:
    """Everything there is to say of the file, without raising for it."""
    findings = Findings(path)
    text = read_text(path, MAX_CONFIG_BYTES, findings)
    tree = None if text is None else parsed(text, findings)
    if tree is not None:
        read_identityd(tree, findings)
    return findings


def _stands(tree: dict[str, Any], path: str) -> bool:
    """Rightly or not: what did not pass was told already."""
    for name in path.split("."):
        if not isinstance(tree, dict):
            return True
        if name not in tree:
            return False
        tree = tree[name]
    return True
