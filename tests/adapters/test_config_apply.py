"""config apply as a function: what config.toml comes to in each daemon's file, and what is refused."""

import base64
from typing import Any

import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import config_uris as uris
from adapters.config_apply import HEADER, Checked, check, files, made
from adapters.config_files import parsed
from adapters.config_findings import Findings
from adapters.config_forms import Unfit
from adapters.config_outputs import Outputs
from adapters.config_rows_apply import APPLY, APPLY_ONLY
from tests.adapters.test_config import document, put, values

KEY = bytes(range(200, 232))
KEY_TEXT = base64.b64encode(KEY).decode()
USERS = {"aziotid": 11, "aziotcs": 12}
MASTER, DPS_KEY = "aziot_identityd_master_id", "aziot-dps-identity-cert-key"
BUNDLE, DPS_CERT = "aziot-dps-trust-bundle", "aziot-dps-identity-cert"
SECRETS_FILE = "file:///var/secrets/aziot/keyd/device-id"
ATTESTATION, AUTHENTICATION = "provisioning.attestation", "provisioning.authentication"
RENEWING = 'auto_renew = { rotate_key = true, threshold = "1440min", retry = "90min" }'

NONE = 'provisioning.source = "none"\n'
MANUAL = """
[provisioning]
source = "manual"
iothub_hostname = "hub.example"
device_id = "press-17"
[provisioning.authentication]
"""
DPS = """
[provisioning]
source = "dps"
global_endpoint = "https://DPS.example:443"
id_scope = "s"
payload = { uri = "file:///etc/p%20q.json" }
[provisioning.attestation]
"""
X509 = DPS + 'method = "x509"\nregistration_id = "press-17"\n'
SAS = MANUAL + f'method = "sas"\ndevice_id_pk = {{ value = "{KEY_TEXT}" }}\n'


def findings_of(text: str) -> tuple[Findings, dict[str, Any], dict[str, Any]]:
    findings = Findings("c.toml")
    tree = parsed(text, findings)
    assert tree is not None
    return findings, tree, check(tree, findings)


def applied(text: str) -> Outputs:
    findings, tree, checked = findings_of(text)
    assert findings.lines == ()
    return made(Checked(tree=tree, values=checked), findings, hostname="here", users=USERS)


def trees(text: str) -> dict[str, Any]:
    """As a daemon reads them: from the text that is written."""
    found = applied(text)
    return {
        file.path.split("/")[3]: tomli.loads(file.content.decode())
        for file in files(found)
        if file.path.startswith("/etc")
    }


def problems(text: str) -> list[str]:
    found, _, _ = findings_of(text)
    assert KEY_TEXT[:16] not in str(found.lines)
    return [line.removeprefix("c.toml: ") for line in found.lines]


def remarks(text: str) -> list[str]:
    findings, tree, checked = findings_of(text)
    assert findings.lines == ()
    made(Checked(tree=tree, values=checked), findings, hostname="here", users=USERS)
    return [f"{one.key}: {one.text}" for one in findings.remarks]


def keys_of(tree: dict[str, Any], uid: int) -> list[str] | None:
    return next((one["keys"] for one in tree["keyd"]["principal"] if one["uid"] == uid), None)


# --- each daemon's file ------------------------------------------------------------------------------


def test_nothing_but_a_source() -> None:
    found = trees(NONE)
    assert found == {
        "identityd": {
            "hostname": "here",
            "homedir": "/var/lib/aziot/identityd",
            "provisioning": {"source": "none"},
        },
        "certd": {
            "homedir_path": "/var/lib/aziot/certd",
            "cert_issuance": {},
            "preloaded_certs": {},
            "principal": [{"uid": 11, "certs": [BUNDLE, DPS_CERT]}],
        },
        "keyd": {
            "aziot_keys": {"homedir_path": "/var/lib/aziot/keyd"},
            "preloaded_keys": {},
            "principal": [{"uid": 11, "keys": [MASTER, DPS_KEY]}],
        },
        "tpmd": {},
    }
    assert applied(NONE).device_key is None


def test_what_is_not_the_default_is_written_and_nothing_else() -> None:
    text = f"""
hostname = "there"
cloud_timeout_sec = 10
cloud_retries = 3
dps_trust_bundle = "b"
prefer_module_identity_cache = true
parent_hostname = "up:8443"
aziot_max_requests = {{ keyd = 1, certd = 2, tpmd = 3, identityd = 10 }}
localid.domain = "example.com"
{SAS}
[tpm]
tcti = ""
auth_key_index = 0x7f_ff_ff
hierarchy_authorization = {{ endorsement = "e", owner = "" }}
"""
    found = trees(text)
    assert found["identityd"] == {
        "hostname": "there",
        "homedir": "/var/lib/aziot/identityd",
        "cloud_retries": 3,
        "dps_trust_bundle": "b",
        "prefer_module_identity_cache": True,
        "localid": {"domain": "example.com"},
        "provisioning": {
            "local_gateway_hostname": "up:8443",
            "source": "manual",
            "iothub_hostname": "hub.example",
            "device_id": "press-17",
            "authentication": {"method": "sas", "device_id_pk": "device-id"},
        },
    }
    assert found["certd"]["max_requests"] == 2
    assert found["certd"]["principal"] == [{"uid": 11, "certs": ["b", DPS_CERT]}]
    assert found["keyd"]["max_requests"] == 1
    assert found["tpmd"] == {
        "max_requests": 3,
        "tcti": "",
        "auth_key_index": 0x7FFFFF,
        "hierarchy_authorization": {"endorsement": "e"},
    }
    assert applied(text).device_key == KEY
    defaults = 'tpm = { tcti = "device", auth_key_index = 256 }\nprefer_module_identity_cache = false\n'
    assert trees(defaults + NONE) == trees(NONE)


def test_by_key_in_pkcs11() -> None:
    text = SAS.replace(f'value = "{KEY_TEXT}"', 'uri = "pkcs11:token=my%20token;object=a-b"')
    assert trees(text)["keyd"]["preloaded_keys"] == {"device-id": "pkcs11:token=my%20token;object=a%2Db"}
    assert applied(text).device_key is None


def test_preloaded_by_path() -> None:
    found = trees(X509 + 'identity_cert = "/c d.pem"\nidentity_pk = "file:/k.pem"')
    assert found["certd"]["preloaded_certs"] == {"device-id": "file:///c%20d.pem"}
    assert found["keyd"]["preloaded_keys"] == {"device-id": "file:///k.pem"}
    assert found["certd"]["principal"] == [{"uid": 11, "certs": [BUNDLE, DPS_CERT]}]
    assert found["identityd"]["provisioning"] == {
        "source": "dps",
        "global_endpoint": "https://dps.example/",
        "scope_id": "s",
        "payload": {"uri": "file:///etc/p%20q.json"},
        "attestation": {
            "method": "x509",
            "registration_id": "press-17",
            "identity_cert": "device-id",
            "identity_pk": "device-id",
        },
    }


def test_issued_and_renewed() -> None:
    issued = 'method = "self_signed", expiry_days = 9, subject = { O = "o", serialNumber = "7", CN = "c" }'
    found = trees(f"{X509}identity_cert = {{ {issued}, {RENEWING} }}")
    entry = {
        "method": "self_signed",
        "expiry_days": 9,
        "subject": {"CN": "c", "O": "o", "serialNumber": "7"},
    }
    assert found["certd"]["cert_issuance"] == {"device-id": entry, "device-id-temp": entry}
    assert list(found["certd"]["cert_issuance"]["device-id"]["subject"]) == ["CN", "O", "serialNumber"]
    assert found["certd"]["principal"] == [
        {"uid": 11, "certs": [BUNDLE, DPS_CERT, "device-id-temp", "device-id"]}
    ]
    assert keys_of(found, 11) == [MASTER, DPS_KEY, "device-id", "device-id-temp"]
    assert found["identityd"]["provisioning"]["attestation"]["identity_auto_renew"] == {
        "rotate_key": True,
        "threshold": "1day",
        "retry": "90min",
    }


def test_of_a_manual_certificate_the_renewal_is_left_out() -> None:
    found = trees(f'{MANUAL}method = "x509"\nidentity_cert = {{ method = "self_signed", {RENEWING} }}')
    assert found["certd"]["cert_issuance"] == {"device-id": {"method": "self_signed"}}
    assert found["certd"]["principal"][0]["certs"] == [BUNDLE, DPS_CERT, "device-id"]
    assert keys_of(found, 11) == [MASTER, DPS_KEY, "device-id"]
    assert "identity_auto_renew" not in found["identityd"]["provisioning"]["authentication"]


def test_the_registration_id_may_be_left_to_the_certificate() -> None:
    text = X509.replace('registration_id = "press-17"', "") + 'identity_cert.method = "self_signed"'
    assert "registration_id" not in trees(text)["identityd"]["provisioning"]["attestation"]


PAIR = '{0}identity_cert = "file:///{0}c", {0}identity_pk = "file:///{0}k"'
IDENTITY, BOOTSTRAP = PAIR.format(""), PAIR.format("bootstrap_")
BASIC = 'username = "u", password = "p"'

EST: dict[str, tuple[str, dict[str, Any], dict[str, str], list[str]]] = {
    "basic": (BASIC, {"username": "u", "password": "p"}, {}, []),
    "identity": (
        f"{BASIC}, {IDENTITY}",
        {"username": "u", "password": "p", "identity_cert": "est-id", "identity_pk": "est-id"},
        {"est-id": "k"},
        ["est-id"],
    ),
    "bootstrap": (
        f"{BOOTSTRAP}, {IDENTITY}",
        {
            "identity_cert": "est-id",
            "identity_pk": "est-id",
            "bootstrap_identity_cert": "est-bootstrap-id",
            "bootstrap_identity_pk": "est-bootstrap-id",
        },
        {"est-bootstrap-id": "bootstrap_k"},
        ["est-bootstrap-id", "est-id", "est-id-temp"],
    ),
}
"What is said; what certd has of it; keys that are preloaded; keys certd may use."


@pytest.mark.parametrize(("said", "auth", "preloaded", "keys"), EST.values(), ids=EST)
def test_one_way_to_an_est_server_for_all(said, auth, preloaded, keys) -> None:
    text = f"""
[cert_issuance.est]
auth = {{ {said} }}
trusted_certs = ["file:///a.pem", "file:///b.pem"]
urls = {{ default = "http://e:80", x = "https://e/y?z" }}
"""
    found = trees(NONE + text)
    assert found["certd"]["cert_issuance"]["est"] == {
        **auth,
        "trusted_certs": ["est-server-ca-1", "est-server-ca-2"],
        "urls": {"default": "http://e/", "x": "https://e/y?z"},
    }
    assert found["keyd"]["preloaded_keys"] == {name: f"file:///{path}" for name, path in preloaded.items()}
    assert found["certd"]["preloaded_certs"] == {
        "est-server-ca-1": "file:///a.pem",
        "est-server-ca-2": "file:///b.pem",
        **{name: f"file:///{path[:-1]}c" for name, path in preloaded.items()},
    }
    assert keys_of(found, 12) == (keys or None)


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("threshold", ["80%", "50%"])
def test_renewal_of_what_the_est_server_is_shown(rotate, threshold) -> None:
    renewal = {"rotate_key": rotate, "threshold": threshold, "retry": "4%"}
    text = f"{NONE}cert_issuance.est = {{ auth = {{ {BOOTSTRAP} }} }}\n"
    tree = tomli.loads(text)
    tree["cert_issuance"]["est"]["identity_auto_renew"] = renewal
    found = trees(document(tree))
    assert keys_of(found, 12) == ["est-bootstrap-id", "est-id", *(["est-id-temp"] if rotate else [])]
    is_default = rotate and threshold == "80%"
    assert found["certd"]["cert_issuance"]["est"].get("identity_auto_renew") == (
        None if is_default else renewal
    )


def test_an_est_table_without_anything_is_there() -> None:
    assert trees(f"{NONE}[cert_issuance.est]")["certd"]["cert_issuance"] == {"est": {}}


def test_everything_certd_needs_keys_for() -> None:
    text = f"""{X509}
identity_cert = {{ method = "est", url = "https://e", {IDENTITY} }}
[cert_issuance]
local_ca = {{ cert = "file:///ca.pem", pk = "pkcs11:slot-id=007" }}
est = {{ auth = {{ {IDENTITY} }} }}
"""
    found = trees(text)
    assert keys_of(found, 12) == ["est-id-device-id", "est-id", "local-ca"]
    assert found["keyd"]["preloaded_keys"]["local-ca"] == "pkcs11:slot-id=7"


def test_a_local_ca_that_is_issued() -> None:
    text = (
        f'{NONE}cert_issuance.local_ca.cert = {{ method = "est", url = "https://e", {BASIC}, {IDENTITY} }}\n'
    )
    found = trees(text + f"cert_issuance.est.auth = {{ {BASIC} }}")
    assert found["certd"]["cert_issuance"]["local-ca"] == {"method": "est", "url": "https://e/"}
    assert found["certd"]["cert_issuance"]["local_ca"] == {"cert": "local-ca", "pk": "local-ca"}
    assert found["keyd"]["preloaded_keys"] == {}
    assert keys_of(found, 12) == ["local-ca"]


def test_entries_of_the_operators() -> None:
    text = f"""
preloaded_keys.mine = "pkcs11:token=t;object=o;type=private?pin-value=1%324&x=y"
preloaded_keys.device-id = "file:///old"
preloaded_certs = {{ mine = "file:///m.pem", both = ["mine", "other"] }}
aziot_keys.homedir_path = "/elsewhere"
aziot_keys.pkcs11_lib_path = "/l.so"
aziot_keys.pkcs11_base_slot = "pkcs11:token=a b"
{SAS}"""
    found = trees(text)
    assert found["keyd"]["preloaded_keys"] == {
        "mine": "pkcs11:token=t;object=o?pin-value=124",
        "device-id": SECRETS_FILE,
    }
    assert found["certd"]["preloaded_certs"] == {"mine": "file:///m.pem", "both": ["mine", "other"]}
    assert found["keyd"]["aziot_keys"] == {
        "homedir_path": "/var/lib/aziot/keyd",
        "pkcs11_lib_path": "/l.so",
        "pkcs11_base_slot": "pkcs11:token=a b",
    }
    assert (
        "preloaded_keys.device-id: replaced: the id is in use for something else that config.toml says"
        in (remarks(text))
    )


def test_a_tpm() -> None:
    found = trees(f'{DPS}method = "tpm"\nregistration_id = "press-17"')
    assert found["identityd"]["provisioning"]["attestation"] == {
        "method": "tpm",
        "registration_id": "press-17",
    }
    assert keys_of(found, 11) == [MASTER, DPS_KEY]


def test_names_and_texts_that_toml_has_to_quote() -> None:
    text = 'preloaded_certs = { "a.b \\"c\\" \\u00e9" = "file:///%C3%A9%22" }\n'
    assert trees(text + NONE)["certd"]["preloaded_certs"] == {'a.b "c" é': "file:///%C3%A9%22"}


def test_each_file_says_where_it_comes_from() -> None:
    for file in files(applied(NONE)):
        assert file.content.startswith(HEADER.encode())
        assert file.path.endswith("/config.d/00-super.toml")


def test_the_key_comes_first_and_is_never_shown() -> None:
    first, *others = files(applied(SAS))
    assert (first.path, first.content, first.owner) == ("/var/secrets/aziot/keyd/device-id", KEY, "aziotks")
    assert [file.owner for file in others] == ["aziotks", "aziotcs", "aziotid", "aziottpm"]
    assert all(KEY_TEXT.encode() not in file.content for file in others)
    assert str(KEY) not in f"{first} {applied(SAS)}"


# --- mistakes and remarks ----------------------------------------------------------------------------

PAIRS = f"{ATTESTATION}.identity_cert"

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "nothing": ("", ['provisioning.source: found nothing; allowed "manual", "dps" or "none"']),
    "half a pair": (
        f'{X509}identity_cert = {{ method = "est", password = "p", identity_cert = "file:///c" }}',
        [
            f"line 10: {PAIRS}.username: found nothing; allowed password and username, or neither",
            f"line 10: {PAIRS}.identity_pk: found nothing; allowed identity_cert and identity_pk, or neither",
        ],
    ),
    "half a pair for all": (
        f'{NONE}cert_issuance.est.auth.bootstrap_identity_pk = "file:///k"',
        [
            "line 2: cert_issuance.est.auth.bootstrap_identity_cert: found nothing; allowed "
            "bootstrap_identity_pk and bootstrap_identity_cert, or neither"
        ],
    ),
    "no such way": (
        f'{X509}identity_cert.method = "scep"',
        [f'line 10: {PAIRS}.method: found "scep"; allowed "self_signed", "local_ca" or "est"'],
    ),
    "no local CA": (
        f'{X509}identity_cert.method = "local_ca"',
        [
            f'line 10: {PAIRS}.method: found "local_ca"; allowed with a CA in cert_issuance.local_ca, '
            "which is not there"
        ],
    ),
    "tpm without a registration id": (
        f'{DPS}method = "tpm"',
        [
            f"line 7: {ATTESTATION}.registration_id: found nothing; allowed "
            f"{APPLY.rows[f'{ATTESTATION}.registration_id'].form}"
        ],
    ),
    "nested with DPS": (
        f'local_gateway_hostname = "up"\n{DPS}method = "tpm"\nregistration_id = "d"',
        [
            "line 1: local_gateway_hostname: DPS provisioning is not supported in nested mode; allowed "
            "without DPS only"
        ],
    ),
    "a PIN in a bad URI": (
        f'{NONE}preloaded_keys.k = "pkcs11:object=o?pin-value=1234"',
        [
            "line 2: preloaded_keys.k: found a pkcs11: URI without slot-id and token; "
            f"allowed {uris.KEY_URI_FORM}"
        ],
    ),
    "the key in place of its URI": (
        SAS.replace("value =", "uri ="),
        [
            f"line 8: {AUTHENTICATION}.device_id_pk.uri: found <secret, 44 characters>; "
            f"allowed {uris.KEY_URI_FORM}"
        ],
    ),
    "a certificate in PKCS#11": (
        f'{NONE}preloaded_certs.c = "pkcs11:token=t"',
        [
            "line 2: preloaded_certs.c: found a pkcs11: URI; allowed a file URI with an absolute path: "
            "file:///path, or an array of certificate ids"
        ],
    ),
    "an index no TPM has": (
        f"{NONE}tpm.auth_key_index = 0x80_0000",
        [
            "line 2: tpm.auth_key_index: found 8388608; allowed a whole number from 0 to 8388607 "
            "(offset of a persistent handle)"
        ],
    ),
    "a table of our own": (
        f"{NONE}identityd.renewal.latest_percent = 3",
        [
            "line 2: identityd.renewal.latest_percent: found 3; allowed more than earliest_percent "
            "(70, the default)"
        ],
    ),
    "an id of the service": (
        f'{NONE}preloaded_keys.{DPS_KEY} = "file:///k"',
        [
            f"line 2: preloaded_keys.{DPS_KEY}: found an id the service uses itself "
            "(the key of the certificate that DPS issues); allowed another id"
        ],
    ),
    "half a renewal": (
        f'{NONE}cert_issuance.est.identity_auto_renew.retry = "4%"',
        [
            "line 2: cert_issuance.est.identity_auto_renew.rotate_key: found nothing; allowed true or false",
            "line 2: cert_issuance.est.identity_auto_renew.threshold: found nothing; allowed "
            f"{APPLY.rows['cert_issuance.est.identity_auto_renew.threshold'].form}",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(text, expected) -> None:
    assert problems(text) == expected


REMARKS: dict[str, tuple[str, list[str]]] = {
    "good": (X509 + 'identity_cert = "/c"\nidentity_pk = "/k"', []),
    "unknown": (
        f"clod_retries = 1\n{NONE}",
        ['clod_retries: an unknown key, not used; did you mean "cloud_retries"?'],
    ),
    "a key that keyd would not start with": (
        f'{NONE}aziot_keys.pkcs11_libpath = "/l"',
        ['aziot_keys.pkcs11_libpath: an unknown key, not used; did you mean "pkcs11_lib_path"?'],
    ),
    "IoT Edge's": (
        f'trust_bundle_cert = "file:///t"\nagent = {{ name = "x" }}\n{NONE}',
        ["trust_bundle_cert: not written: it is IoT Edge's tool that does"],
    ),
    "issuance by id": (
        f'{NONE}cert_issuance.web.method = "est"',
        ["cert_issuance.web: not written; a drop-in of certd has issuance by certificate id"],
    ),
    "no server, nothing to show": (
        f'{X509}identity_cert.method = "est"',
        [
            f"{PAIRS}.url: none here, nor in cert_issuance.est.urls: certd will have no server to ask",
            f"{PAIRS}: nothing to show the EST server, nor in cert_issuance.est.auth",
        ],
    ),
    "both elsewhere": (
        f'{X509}identity_cert.method = "est"\n[cert_issuance.est]\nauth = {{ {BASIC} }}\n'
        'urls.default = "https://e"',
        [],
    ),
    "keys of another way": (
        f'{X509}identity_cert = {{ method = "self_signed", {BASIC} }}',
        [
            f'{PAIRS}.{name}: not written: only method "est" has a use for it'
            for name in ("username", "password")
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), REMARKS.values(), ids=REMARKS)
def test_remarks(text, expected) -> None:
    assert remarks(text) == expected


def test_a_server_without_tls_is_told_wherever_it_is() -> None:
    text = f"""{X509.replace("https", "http").replace(":443", "")}
identity_cert = {{ method = "est", url = "http://e", {BOOTSTRAP}, {IDENTITY} }}
cert_issuance.est.urls.x = "http://e"
""".replace("cert_issuance.est.urls.x", "[cert_issuance.est.urls]\nx")
    told = [line.partition(": ")[0] for line in remarks(text) if "without TLS" in line]
    assert told == ["cert_issuance.est.urls.x", f"{PAIRS}.url", "provisioning.global_endpoint"]
    assert f"{PAIRS}.identity_cert: not written: bootstrap_identity_cert takes its place" in remarks(text)


# --- URIs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "text", "written"),
    [
        (uris.key_uri, "file:///a/b", "file:///a/b"),
        (uris.key_uri, "FILE://localhost/a%2fb%41", "file:///a/bA"),
        (uris.key_uri, "pkcs11:slot-id=0;object=-?pin-value=1", "pkcs11:slot-id=0;object=%2D?pin-value=1"),
        (uris.key_uri, "pkcs11:token=t;slot-id=3", "pkcs11:slot-id=3"),
        (uris.key_uri, "pkcs11:token=%C3%A9;id=%01", "pkcs11:token=%C3%A9"),
        (uris.key_place, "/a b#c", "file:///a%20b%23c"),
        (uris.url, "HTTPS://Example.ORG", "https://example.org/"),
        (uris.url, "http://h:443/a/b?c=d", "http://h:443/a/b?c=d"),
        (uris.url, "https://[::1]:443/x", "https://[::1]/x"),
    ],
)  # fmt: skip
def test_uris(form, text, written) -> None:
    assert form(text) == written
    assert form(written) == written, "what was written can be read again"


NO_KEY = (
    "",
    "k",
    "/k",
    "http://h/k",
    "file://h/k",
    "file:///a/../b",
    "file:///",
    "pkcs11:",
    "pkcs11:object=o",
)
NO_PKCS11 = ("slot-id=x", f"slot-id={2**64}", "token=%zz", "token=%ff", f"token=t?pin-value={'1' * 5000}")
NO_URL = (
    "h",
    "ftp://h",
    "https://",
    "https://u:p@h",
    "https://h:0",
    "https://h/#f",
    "https://h /",
    "https://[::1",
)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        *((uris.key_uri, text) for text in NO_KEY),
        *((uris.key_uri, f"pkcs11:{text}") for text in NO_PKCS11),
        *((uris.url, text) for text in NO_URL),
        (uris.pkcs11_slot, "file:///k"),
        (uris.file_place, "a"),
    ],
)
def test_what_is_no_uri(form, text) -> None:
    with pytest.raises(Unfit):
        form(text)


# --- whatever stands there ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    base=st.sampled_from([NONE, SAS, X509 + 'identity_cert = "/c"\nidentity_pk = "/k"']),
    changes=st.lists(st.tuples(st.sampled_from(sorted(APPLY.rows)), values), max_size=4),
)
def test_any_value_at_any_key(base: str, changes: list[tuple[str, object]]) -> None:
    tree = tomli.loads(base)
    for path, value in changes:
        put(tree, path, value)
    findings = Findings("c.toml")
    checked = check(tree, findings)
    assert KEY_TEXT not in str(findings.lines) + str(findings.notes)
    if not findings.mistakes:
        found = made(Checked(tree=tree, values=checked), findings, hostname="here", users=USERS)
        for file in files(found)[-4:]:
            assert tomli.loads(file.content.decode()) is not None


def test_every_row_says_what_it_allows_and_stands_once() -> None:
    assert len({row.path for row in APPLY_ONLY}) == len(APPLY_ONLY)
    for row in APPLY.rows.values():
        assert row.allowed, row.path
        assert row.meaning.endswith("."), row.path
        assert row.check or row.choices or row.kind in ("boolean", "integer"), row.path
