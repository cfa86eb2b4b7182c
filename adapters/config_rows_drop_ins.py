"""The rows of what the drop-ins of each service may say: the daemons' own schema (config-and-cli.md §6-8).

A drop-in is a file ``/etc/aziot/SERVICE/config.d/NAME.toml``. Only what has no place in ``config.toml``, or
may be added to what stands there, is read from it.
"""

from collections.abc import Mapping
from typing import Literal

from adapters import config_forms as forms
from adapters.config_rows_original import ID_FORM, ORIGINAL, issued
from adapters.config_setting import ANY_ID, HIGHEST_UID, Setting

Service = Literal["identityd", "certd", "keyd"]

SERVICES: tuple[Service, ...] = ("identityd", "certd", "keyd")

_UID = Setting(
    path="principal.uid",
    kind="integer or text",
    low=0,
    high=HIGHEST_UID,
    form=f"a user id from 0 to {HIGHEST_UID}, or a user's name",
    check=forms.printable_name,
    meaning="The user this is about. A name is looked up when the file is read.",
)


def _same(path: str) -> Setting:
    return next(setting for setting in ORIGINAL if setting.path == path)


def _patterns(name: str, what: str) -> Setting:
    return Setting(
        path=f"principal.{name}",
        kind="list of text",
        form=f"at most 1000 patterns of {ID_FORM}",
        check=forms.names,
        meaning=f"Ids of {what}; `*` is any run of characters, `?` exactly one.",
    )


DROP_INS: Mapping[Service, tuple[Setting, ...]] = {
    "identityd": (
        _UID,
        Setting(
            path="principal.name",
            kind="text",
            form="1 to 128 letters, digits and characters of -.+%_#*?!(),:=@$'",
            check=forms.device_id,
            meaning="Name of its module or local identity; once only.",
        ),
        Setting(
            path="principal.idtype",
            kind="list of text",
            form='an array of "device", "module" and "local"',
            check=forms.identity_kinds,
            meaning="The identities it may ask for. Absent: the daemon, which may do everything; one only.",
        ),
        Setting(
            path="principal.localid.type",
            kind="text",
            choices=("x509",),
            meaning="Kind of its local identity.",
        ),
        Setting(
            path="principal.localid.attributes",
            kind="text",
            choices=("client", "server"),
            meaning="Extended key usage of its local identity; client when absent, and server includes "
            "client.",
        ),
        _same("localid.domain"),
    ),
    "certd": (
        _UID,
        _patterns("certs", "the certificates that it may create, import and delete"),
        *issued(f"cert_issuance.{ANY_ID}", "that of the request"),
        Setting(
            path=f"cert_issuance.{ANY_ID}.allow_ca",
            kind="boolean",
            meaning="Whether a request may ask for a CA certificate. Not of the original, which ignores it.",
        ),
        *(
            Setting(
                path=f"cert_issuance.local_ca.{name}",
                kind="text",
                form=f"an id of {ID_FORM}",
                check=forms.printable_name,
                meaning=f"Id of the {what} that issues on this device.",
            )
            for name, what in (("cert", "CA certificate"), ("pk", "CA's key"))
        ),
        _same(f"preloaded_certs.{ANY_ID}"),
    ),
    "keyd": (
        _UID,
        _patterns("keys", "the keys that it may name"),
        _same(f"preloaded_keys.{ANY_ID}"),
    ),
}
"Arrays of several files are joined, tables are merged, and of single values the last file's counts."

_IN_CONFIG = "not read from a drop-in; config.toml says it"

UNREAD: Mapping[Service, Mapping[str, str]] = {
    "identityd": {
        **dict.fromkeys(
            (
                *("hostname", "cloud_timeout_sec", "cloud_retries", "dps_trust_bundle", "provisioning"),
                "prefer_module_identity_cache",
            ),
            _IN_CONFIG,
        ),
        "max_requests": f"{_IN_CONFIG} as aziot_max_requests.identityd",
        "homedir": "not read; this service keeps to its directory",
        **dict.fromkeys(("endpoints", "connect", "listen"), ""),
    },
    "certd": {
        "max_requests": f"{_IN_CONFIG} as aziot_max_requests.certd",
        "homedir_path": "not read; this service keeps to its directory",
        "cert_issuance.est": "not read; certificates over EST come later",
        "endpoints": "",
    },
    "keyd": {
        "max_requests": f"{_IN_CONFIG} as aziot_max_requests.keyd",
        "aziot_keys": "not read; keys are kept in files, PKCS#11 comes later",
        "endpoints": "",
    },
}
"Keys the original reads there and this service does not, each with its remark; empty: none is made."
