"""What ``config apply`` makes of ``config.toml``: one tree for each daemon, and perhaps a key (§5).

A pure function of what was checked, of two user ids, and of a host name.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from adapters.config_provisioning import (
    ATTESTATION,
    AUTHENTICATION,
    CONNECTION_STRING,
    DEVICE_ID,
    GATEWAYS,
    PROVISIONING,
    REGISTRATION_ID,
    SOURCE,
)
from adapters.config_rows_apply import AUTH_PAIRS, EST, EST_AUTH, EST_RENEWAL
from adapters.config_services import LOCAL_CA, LOCAL_CA_ID
from adapters.config_setting import ANY_ID
from statemachine.settings import (
    DEFAULT_TRUST_BUNDLE_ID,
    DEVICE_TEMPORARY_ID,
    IDENTITY_CERTIFICATE_ID,
    IDENTITY_KEY_ID,
    MASTER_KEY_ID,
)
from statemachine.settings import DEVICE_ID as DEVICE

Daemon = Literal["identityd", "certd", "keyd", "tpmd"]
DAEMONS: tuple[Daemon, ...] = ("identityd", "certd", "keyd", "tpmd")

DEVICE_KEY_FILE = "/var/secrets/aziot/keyd/device-id"
"Where keyd finds a symmetric key that stands in config.toml."

EST_ID = "est-id"
EST_BOOTSTRAP_ID = "est-bootstrap-id"
EST_RENEWAL_DEFAULT = {"rotate_key": True, "threshold": "80%", "retry": "4%"}
RENEWAL_KEYS = ("rotate_key", "threshold", "retry")
MAX_REQUESTS = 10
TPM_KEY_INDEX = 256

Tree = dict[str, Any]


class Outputs(Struct, frozen=True, kw_only=True):
    """What is to be written."""

    trees: dict[Daemon, Tree]
    device_key: bytes | None
    "Raw bytes for ``DEVICE_KEY_FILE``; None when the key, if there is one, lies elsewhere."
    replaced: tuple[str, ...]
    "Entries of the operator's that had an id which is in use for something else, by their paths."

    def __repr__(self) -> str:
        return f"Outputs({', '.join(self.trees)})"


def outputs(
    tree: Tree, values: Mapping[str, Any], *, hostname: str, identityd_uid: int, certd_uid: int
) -> Outputs:
    """``values`` are what passed of ``tree`` against the rows of config apply, without a mistake.

    ``hostname`` is used when the file has none.
    """
    made = _Made(tree, values)
    identityd = made.identityd(hostname)
    certd, keyd = made.certd(identityd_uid), made.keyd(identityd_uid, certd_uid)
    trees: dict[Daemon, Tree] = {"identityd": identityd, "certd": certd, "keyd": keyd, "tpmd": made.tpmd()}
    return Outputs(trees=trees, device_key=made.device_key, replaced=made.replaced())


class _Made:
    def __init__(self, tree: Tree, values: Mapping[str, Any]) -> None:
        self._values = values
        issuance = tree.get("cert_issuance", {})
        self._has_est, self._has_ca = "est" in issuance, "local_ca" in issuance
        self.device_key: bytes | None = None
        self._keys: dict[str, str] = {}
        self._certificates: dict[str, str] = {}
        self._issuance: dict[str, Tree] = {}
        self._keys_of_identityd = [MASTER_KEY_ID, IDENTITY_KEY_ID]
        self._keys_of_certd: list[str] = []
        self._certificates_of_identityd = [
            values.get("dps_trust_bundle", DEFAULT_TRUST_BUNDLE_ID),
            IDENTITY_CERTIFICATE_ID,
        ]
        self._provisioning = self._of_provisioning()
        self._of_est()
        self._of_local_ca()

    def replaced(self) -> tuple[str, ...]:
        tables = (("preloaded_keys", self._keys), ("preloaded_certs", self._certificates))
        return tuple(
            f"{table}.{name}"
            for table, ours in tables
            for name in self._named(f"{table}.{ANY_ID}")
            if name in ours
        )

    # --- provisioning --------------------------------------------------------------------------------

    def _of_provisioning(self) -> Tree:
        source = self._values[SOURCE]
        gateway = self._first(GATEWAYS)
        table = {} if gateway is None else {"local_gateway_hostname": gateway}
        table["source"] = source
        if source == "dps":
            table |= self._of_dps()
        elif source == "manual":
            table |= self._of_manual()
        return table

    def _of_manual(self) -> Tree:
        if CONNECTION_STRING in self._values:
            hub, device_id, key = self._values[CONNECTION_STRING]
            authentication = self._by_key("device_id_pk", None, key)
        else:
            hub, device_id = self._values[f"{PROVISIONING}.iothub_hostname"], self._values[DEVICE_ID]
            at = f"{AUTHENTICATION}.device_id_pk"
            if self._values[f"{AUTHENTICATION}.method"] == "sas":
                uri, key = self._values.get(f"{at}.uri"), self._values.get(f"{at}.value")
                authentication = self._by_key("device_id_pk", uri, key)
            else:
                authentication = self._by_certificate(AUTHENTICATION)
        authentication["method"] = "x509" if "identity_cert" in authentication else "sas"
        return {"iothub_hostname": hub, "device_id": device_id, "authentication": authentication}

    def _of_dps(self) -> Tree:
        method = self._values[f"{ATTESTATION}.method"]
        attestation: Tree = {"method": method}
        if REGISTRATION_ID in self._values:
            attestation["registration_id"] = self._values[REGISTRATION_ID]
        if method == "symmetric_key":
            at = f"{ATTESTATION}.symmetric_key"
            uri, key = self._values.get(f"{at}.uri"), self._values.get(f"{at}.value")
            attestation |= self._by_key("symmetric_key", uri, key)
        elif method == "x509":
            attestation |= self._by_certificate(ATTESTATION)
            renewal = self._renewal(f"{ATTESTATION}.identity_cert.auto_renew")
            if renewal is not None:
                attestation["identity_auto_renew"] = renewal
                self._issuance[DEVICE_TEMPORARY_ID] = self._issuance[DEVICE]
                self._certificates_of_identityd.insert(-1, DEVICE_TEMPORARY_ID)
                if renewal["rotate_key"]:
                    self._keys_of_identityd.append(DEVICE_TEMPORARY_ID)
        table = {
            "global_endpoint": self._values[f"{PROVISIONING}.global_endpoint"],
            "scope_id": self._values[f"{PROVISIONING}.id_scope"],
        }
        payload = self._values.get(f"{PROVISIONING}.payload.uri")
        if payload is not None:
            table["payload"] = {"uri": payload}
        return {**table, "attestation": attestation}

    def _by_key(self, name: str, uri: str | None, key: bytes | None) -> Tree:
        self._keys_of_identityd.append(DEVICE)
        self.device_key = key
        self._keys[DEVICE] = f"file://{DEVICE_KEY_FILE}" if uri is None else uri
        return {name: DEVICE}

    def _by_certificate(self, at: str) -> Tree:
        self._keys_of_identityd.append(DEVICE)
        if f"{at}.identity_cert.method" in self._values:
            self._issuance[DEVICE] = self._issued(f"{at}.identity_cert", DEVICE)
            self._certificates_of_identityd.append(DEVICE)
        else:
            self._keys[DEVICE] = self._values[f"{at}.identity_pk"]
            self._certificates[DEVICE] = self._values[f"{at}.identity_cert"]
        return {"identity_cert": DEVICE, "identity_pk": DEVICE}

    # --- certificates that are issued ----------------------------------------------------------------

    def _issued(self, at: str, certificate_id: str | None) -> Tree:
        """Without an id: what authenticates to an EST server is left to ``cert_issuance.est``."""
        method = self._values[f"{at}.method"]
        entry: Tree = {"method": method}
        if method == "est":
            entry |= self._present(at, ("url",))
            if certificate_id is not None:
                entry |= self._authenticated(at, f"-{certificate_id}", temporary=True)
        return entry | self._present(at, ("expiry_days", "common_name", "subject"))

    def _authenticated(self, at: str, suffix: str, *, temporary: bool) -> Tree:
        """How the EST server is shown who asks; ``temporary``: its certificate's key may be replaced."""
        basic, identity, bootstrap = (
            self._present(at, pair) if f"{at}.{pair[0]}" in self._values else {} for pair in AUTH_PAIRS
        )
        identity_id, bootstrap_id = f"{EST_ID}{suffix}", f"{EST_BOOTSTRAP_ID}{suffix}"
        names = {"identity_cert": identity_id, "identity_pk": identity_id}
        if bootstrap:
            self._keys[bootstrap_id] = bootstrap["bootstrap_identity_pk"]
            self._certificates[bootstrap_id] = bootstrap["bootstrap_identity_cert"]
            names |= {"bootstrap_identity_cert": bootstrap_id, "bootstrap_identity_pk": bootstrap_id}
            temporaries = [f"{identity_id}-temp"] if temporary else []
            # In the order the original has: of one certificate the temporary key comes second.
            order = [*temporaries, identity_id] if suffix else [identity_id, *temporaries]
            self._keys_of_certd += [bootstrap_id, *order]
        elif identity:
            self._keys[identity_id] = identity["identity_pk"]
            self._certificates[identity_id] = identity["identity_cert"]
            self._keys_of_certd.append(identity_id)
        return basic | (names if bootstrap or identity else {})

    def _of_est(self) -> None:
        if not self._has_est:
            return
        est: Tree = {}
        trusted = self._values.get(f"{EST}.trusted_certs", ())
        if trusted:
            ids = [f"est-server-ca-{number}" for number in range(1, len(trusted) + 1)]
            est["trusted_certs"] = ids
            self._certificates |= dict(zip(ids, trusted, strict=True))
        renewal = self._renewal(EST_RENEWAL) or EST_RENEWAL_DEFAULT
        est |= self._authenticated(EST_AUTH, "", temporary=bool(renewal["rotate_key"]))
        if renewal != EST_RENEWAL_DEFAULT:
            est["identity_auto_renew"] = renewal
        urls = self._named(f"{EST}.urls.{ANY_ID}")
        if urls:
            est["urls"] = urls
        self._issuance["est"] = est

    def _of_local_ca(self) -> None:
        if not self._has_ca:
            return
        if f"{LOCAL_CA}.cert.method" in self._values:
            self._issuance[LOCAL_CA_ID] = self._issued(f"{LOCAL_CA}.cert", None)
        else:
            self._keys[LOCAL_CA_ID] = self._values[f"{LOCAL_CA}.pk"]
            self._certificates[LOCAL_CA_ID] = self._values[f"{LOCAL_CA}.cert"]
        self._keys_of_certd.append(LOCAL_CA_ID)
        self._issuance["local_ca"] = {"cert": LOCAL_CA_ID, "pk": LOCAL_CA_ID}

    # --- the daemons ---------------------------------------------------------------------------------

    def identityd(self, hostname: str) -> Tree:
        tree = {"hostname": self._values.get("hostname", hostname), "homedir": "/var/lib/aziot/identityd"}
        for name, default in (
            ("cloud_timeout_sec", 10),
            ("cloud_retries", 1),
            ("dps_trust_bundle", DEFAULT_TRUST_BUNDLE_ID),
            ("prefer_module_identity_cache", False),
        ):
            if self._values.get(name, default) != default:
                tree[name] = self._values[name]
        tree |= self._max_requests("identityd")
        if "localid.domain" in self._values:
            tree["localid"] = {"domain": self._values["localid.domain"]}
        return {**tree, "provisioning": self._provisioning}

    def certd(self, identityd_uid: int) -> Tree:
        return {
            "homedir_path": "/var/lib/aziot/certd",
            **self._max_requests("certd"),
            "cert_issuance": self._issuance,
            "preloaded_certs": self._named(f"preloaded_certs.{ANY_ID}") | self._certificates,
            "principal": [{"uid": identityd_uid, "certs": self._certificates_of_identityd}],
        }

    def keyd(self, identityd_uid: int, certd_uid: int) -> Tree:
        principals = [
            {"uid": uid, "keys": keys}
            for uid, keys in ((identityd_uid, self._keys_of_identityd), (certd_uid, self._keys_of_certd))
            if keys
        ]
        return {
            **self._max_requests("keyd"),
            "aziot_keys": {
                "homedir_path": "/var/lib/aziot/keyd",
                **self._present("aziot_keys", ("pkcs11_lib_path", "pkcs11_base_slot")),
            },
            "preloaded_keys": self._named(f"preloaded_keys.{ANY_ID}") | self._keys,
            "principal": principals,
        }

    def tpmd(self) -> Tree:
        tree = self._max_requests("tpmd")
        for name, default in (("tcti", "device"), ("auth_key_index", TPM_KEY_INDEX)):
            if self._values.get(f"tpm.{name}", default) != default:
                tree[name] = self._values[f"tpm.{name}"]
        given = self._present("tpm.hierarchy_authorization", ("endorsement", "owner"))
        authorisation = {name: value for name, value in given.items() if value}
        return tree | ({"hierarchy_authorization": authorisation} if authorisation else {})

    # --- looking up ----------------------------------------------------------------------------------

    def _max_requests(self, daemon: Daemon) -> Tree:
        most = self._values.get(f"aziot_max_requests.{daemon}", MAX_REQUESTS)
        return {} if most == MAX_REQUESTS else {"max_requests": most}

    def _renewal(self, at: str) -> Tree | None:
        found = self._present(at, RENEWAL_KEYS)
        return found if len(found) == len(RENEWAL_KEYS) else None

    def _present(self, at: str, names: tuple[str, ...]) -> Tree:
        return {name: self._values[f"{at}.{name}"] for name in names if f"{at}.{name}" in self._values}

    def _named(self, path: str) -> Tree:
        return dict(self._values.get(path, {}))

    def _first(self, names: tuple[str, ...]) -> Any:  # noqa: ANN401 - whatever the row holds
        return next((self._values[name] for name in names if name in self._values), None)
