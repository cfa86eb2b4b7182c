"""The rows of ``config.toml`` as the original's daemons have a use for it: what ``config apply`` reads.

They are the rows of this service, wider where it does less than the daemons (EST, PKCS#11, a TPM), and the
rows of what it does not read at all (config-and-cli.md §4).
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from adapters import config_forms as forms
from adapters import config_uris as uris
from adapters.config_forms import Unfit
from adapters.config_rows_original import ID_FORM, METHODS, ORIGINAL, POLICY_FORM, auto_renew
from adapters.config_rows_own import OWN
from adapters.config_setting import ANY_ID, FILE_FORM, FILE_URI_FORM, Setting
from adapters.config_settings import NOT_READ_YET
from adapters.config_walk import Schema, schema
from adapters.errors import bounded

ISSUED_TABLES = (
    "provisioning.authentication.identity_cert",
    "provisioning.attestation.identity_cert",
    "cert_issuance.local_ca.cert",
)
"Where a certificate may be described that is to be issued."

EST = "cert_issuance.est"
EST_AUTH = f"{EST}.auth"
EST_RENEWAL = f"{EST}.identity_auto_renew"

AUTH_PAIRS = (
    ("username", "password"),
    ("identity_cert", "identity_pk"),
    ("bootstrap_identity_cert", "bootstrap_identity_pk"),
)
"How a device shows the EST server who it is: each pair whole or not at all."

HIGHEST_KEY_INDEX = 0x7F_FFFF
"Persistent handles of a TPM are 0x81000000 and up; this is the offset."

_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9.-]{0,63}")


def _policy(text: str) -> str:
    """A time in days, if it is whole days."""
    forms.renewal_policy(text)
    minutes = int(text[:-3]) if text.endswith("min") else 0
    return f"{minutes // 1440}day" if minutes and minutes % 1440 == 0 else text


def _subject(table: dict[str, object]) -> dict[str, str]:
    """By any names: the daemons know more of them than this service. In the order of certificates."""
    for name, value in table.items():
        if not _ATTRIBUTE.fullmatch(name):
            raise Unfit(found="an attribute that is no name", allowed="names of letters, digits, '.' and '-'")
        if not isinstance(value, str):
            raise Unfit(found=f"no text for {bounded(name, 40)}")
        forms.printable_name(value)
    if not table:
        raise Unfit(found="an empty table")
    return {name: str(table[name]) for name in sorted(table)}


def _short(text: str) -> str:
    if len(text) > forms.MAX_NAME_CHARS or not text.isprintable():
        raise Unfit
    return text


_KEY = {"form": uris.KEY_FORM, "check": uris.key_place, "secret": True}
_KEY_URI = {"form": uris.KEY_URI_FORM, "check": uris.key_uri, "secret": True}
_FILE = {"form": FILE_FORM, "check": uris.file_place}
_FILE_URI = {"form": FILE_URI_FORM, "check": uris.file_uri}
_POLICY = {"form": POLICY_FORM, "check": _policy}

_WIDER: Mapping[str, Mapping[str, Any]] = {
    "provisioning.global_endpoint": {"form": uris.URL_FORM, "check": uris.url},
    "provisioning.payload.uri": _FILE_URI,
    "provisioning.authentication.device_id_pk.uri": _KEY_URI,
    "provisioning.attestation.symmetric_key.uri": _KEY_URI,
    "provisioning.attestation.method": {"choices": ("symmetric_key", "x509", "tpm")},
    **{f"provisioning.{table}.identity_cert": _FILE for table in ("authentication", "attestation")},
    **{f"provisioning.{table}.identity_pk": _KEY for table in ("authentication", "attestation")},
    f"preloaded_keys.{ANY_ID}": _KEY_URI,
    f"preloaded_certs.{ANY_ID}": {"check": uris.place_or_names},
    "cert_issuance.local_ca.cert": _FILE_URI,
    "cert_issuance.local_ca.pk": _KEY_URI,
    **{f"{table}.method": {"choices": (*METHODS, "est")} for table in ISSUED_TABLES},
    **{f"{table}.subject": {"check": _subject} for table in ISSUED_TABLES},
    **{f"{table}.auto_renew.{name}": _POLICY for table in ISSUED_TABLES for name in ("threshold", "retry")},
}
"What is said otherwise of a row of this service."


def _text(path: str, meaning: str, **options: Any) -> Setting:  # noqa: ANN401 - members of Setting
    return Setting(path=path, kind="text", meaning=meaning, **options)


def _auth(table: str) -> tuple[Setting, ...]:
    return (
        _text(
            f"{table}.username",
            "Name for the EST server; with password.",
            form=ID_FORM,
            check=forms.printable_name,
        ),
        _text(
            f"{table}.password",
            "Password for the EST server; with username.",
            form=ID_FORM,
            check=forms.printable_name,
            secret=True,
        ),
        _text(f"{table}.identity_cert", "Certificate for the EST server; with identity_pk.", **_FILE_URI),
        _text(f"{table}.identity_pk", "Its private key.", **_KEY_URI),
        _text(
            f"{table}.bootstrap_identity_cert",
            "Certificate with which the one for the EST server is asked for; instead of identity_cert.",
            **_FILE_URI,
        ),
        _text(f"{table}.bootstrap_identity_pk", "Its private key.", **_KEY_URI),
    )


def _renewal() -> tuple[Setting, ...]:
    meanings = {"threshold": "When the certificate that the EST server is shown is renewed."}
    return tuple(
        replace(
            row,
            meaning=meanings.get(row.path.rpartition(".")[2], row.meaning),
            **(_POLICY if row.kind == "text" else {}),
        )
        for row in auto_renew(EST_RENEWAL)
    )


APPLY_ONLY: tuple[Setting, ...] = (
    *(
        row
        for table in ISSUED_TABLES
        for row in (
            _text(f"{table}.url", "The EST server, for method est.", form=uris.URL_FORM, check=uris.url),
            *_auth(table),
        )
    ),
    Setting(
        path=f"{EST}.trusted_certs",
        kind="list of text",
        form=f"an array; each {FILE_URI_FORM}",
        check=uris.places,
        meaning="CA certificates for the EST server, beside the system's.",
    ),
    *_auth(EST_AUTH),
    *_renewal(),
    _text(
        f"{EST}.urls.{ANY_ID}",
        "The EST server for a certificate id; that of `default` is for all others.",
        form=uris.URL_FORM,
        check=uris.url,
    ),
    _text(
        "aziot_keys.homedir_path",
        "Accepted; keyd always gets its own directory.",
        form="an absolute path",
        check=forms.absolute_path,
    ),
    _text(
        "aziot_keys.pkcs11_lib_path",
        "The PKCS#11 library of keyd.",
        form="an absolute path",
        check=forms.absolute_path,
    ),
    _text(
        "aziot_keys.pkcs11_base_slot",
        "Where keyd makes new keys.",
        form="a PKCS#11 URI: pkcs11:slot-id=N?pin-value=P or pkcs11:token=T?pin-value=P",
        check=uris.pkcs11_slot,
        secret=True,
    ),
    _text(
        "tpm.tcti",
        "How tpmd reaches the TPM; its own list is tried when empty, and device when absent.",
        form="a text of at most 255 printable characters",
        check=_short,
    ),
    Setting(
        path="tpm.auth_key_index",
        kind="integer",
        unit="offset of a persistent handle",
        low=0,
        high=HIGHEST_KEY_INDEX,
        meaning="Where tpmd keeps its authentication key; 256 when absent.",
    ),
    *(
        _text(
            f"tpm.hierarchy_authorization.{name}",
            f"Authorisation of the TPM's {name} hierarchy.",
            form="a text of at most 255 printable characters",
            check=_short,
            secret=True,
        )
        for name in ("endorsement", "owner")
    ),
)
"What this service does not read."

_UNREAD = {
    **dict.fromkeys(NOT_READ_YET - {"aziot_keys", "tpm"}, ""),
    **dict.fromkeys(
        ("trust_bundle_cert", "manifest_trust_bundle_cert"), "not written: it is IoT Edge's tool that does"
    ),
    "cert_issuance.local_ca.cert.auto_renew": "not written; only the device's own certificate is renewed",
    f"cert_issuance.{ANY_ID}": "not written; a drop-in of certd has issuance by certificate id",
}


def _rows() -> tuple[Setting, ...]:
    wider = (replace(row, **_WIDER.get(row.path, {})) for row in ORIGINAL)
    return (*(row for row in wider if row.path not in _UNREAD), *OWN, *APPLY_ONLY)


APPLY: Schema = schema(_rows(), unread=_UNREAD, not_yet={})
