"""[provisioning] by hand, certificates that are issued here, and what stands beside them in config.toml."""

import base64
import re

import pytest

from adapters.config import fingerprint, parse, policy
from adapters.config_findings import Findings
from adapters.config_rules import interpret
from adapters.config_setting import one_of
from adapters.errors import ConfigurationInvalid
from statemachine.settings import (
    AutoRenew,
    CertificateSettings,
    Configuration,
    DpsProvisioning,
    IssuanceRule,
    IssuedSource,
    KeySettings,
    LocalCa,
    ManualAssignment,
    ManualProvisioning,
    PolicySettings,
    SymmetricKeySource,
    X509Source,
)

KEY = bytes(range(200, 232))
KEY_TEXT = base64.b64encode(KEY).decode()
NONE = 'provisioning.source = "none"\n'
STRING = f"HostName=hub.example:8443;DeviceId=press=17;SharedAccessKey={KEY_TEXT}"
BY_STRING = f'[provisioning]\nsource = "manual"\nconnection_string = "{STRING}"\n'
BY_HAND = """
[provisioning]
source = "manual"
iothub_hostname = "hub.example:8443"
device_id = "press-17"
[provisioning.authentication]
"""
DPS = """
[provisioning]
source = "dps"
global_endpoint = "https://dps.example"
id_scope = "s"
[provisioning.attestation]
method = "x509"
registration_id = "press-17"
"""
RENEWING = '{ rotate_key = false, threshold = "50%", retry = "90min" }'
AUTHENTICATION, ATTESTATION = "provisioning.authentication", "provisioning.attestation"
LOCAL_CA = "cert_issuance.local_ca"
POLICY = 'a renewal policy: "80%" of its life elapsed (1 to 99), or "7day" or "90min" before its end'
HOST = "a host name of 1 to 253 letters, digits, '-', '_' and '.', or HOST:PORT"
FILE_URI = "a file URI with an absolute path: file:///path"
TWO_FORMS = "connection_string, or iothub_hostname, device_id and authentication"
IN_STRING = 'a text "HostName=HUB;DeviceId=ID;SharedAccessKey=BASE64"'


def unnumbered(line: str) -> str:
    """Without file and line; which line a key stands in has tests of its own."""
    return re.sub(r"^line \d+: ", "", line.removeprefix("c.toml: "))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationInvalid) as caught:
        parse("c.toml", text)
    assert KEY_TEXT[:16] not in str(caught.value)
    return [unnumbered(line) for line in caught.value.problems]


def notes(tree: dict[str, object]) -> list[str]:
    findings = Findings("c.toml")
    interpret(tree, findings)
    assert findings.lines == ()
    return [unnumbered(line) for line in findings.notes]


def manual(text: str) -> ManualProvisioning:
    provisioning = parse("c.toml", text).provisioning
    assert isinstance(provisioning, ManualProvisioning)
    return provisioning


# --- manual ------------------------------------------------------------------------------------------


def test_a_connection_string() -> None:
    assert manual(BY_STRING) == ManualProvisioning(
        hub="hub.example:8443", device_id="press=17", authentication=SymmetricKeySource(value=KEY)
    )


@pytest.mark.parametrize(
    "text",
    [
        f"{STRING};",
        f"{STRING};GatewayHostName=up;x509",
        f"DeviceId=old;{STRING}",
        STRING.replace(KEY_TEXT, KEY_TEXT.rstrip("=")),
    ],
    ids=["trailing semicolon", "others are not read", "the later counts", "no padding"],
)
def test_other_spellings_of_it(text) -> None:
    assert manual(BY_STRING.replace(STRING, text)) == manual(BY_STRING)


@pytest.mark.parametrize("name", ["local_gateway_hostname", "parent_hostname"])
def test_a_parent(name) -> None:
    assert manual(f'{name} = "up.example:443"\n{BY_STRING}').gateway == "up.example:443"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (f'method = "sas"\ndevice_id_pk = {{ value = "{KEY_TEXT}" }}', SymmetricKeySource(value=KEY)),
        ('method = "sas"\ndevice_id_pk = { uri = "file:///k" }', SymmetricKeySource(path="/k")),
        (
            'method = "x509"\nidentity_cert = "file:///c.pem"\nidentity_pk = "file:///k.pem"',
            X509Source(certificate_path="/c.pem", key_path="/k.pem"),
        ),
        (
            'method = "x509"\nidentity_cert = { method = "self_signed", expiry_days = 9, common_name = "x" }',
            IssuedSource(rule=IssuanceRule(method="self_signed", expiry_days=9, common_name="x")),
        ),
        (
            f'method = "x509"\nidentity_cert = {{ method = "self_signed", auto_renew = {RENEWING} }}',
            IssuedSource(rule=IssuanceRule(method="self_signed")),
        ),
    ],
    ids=["inline", "in a file", "x509", "issued", "auto_renew is dropped"],
)
def test_by_hand(written, meant) -> None:
    assert manual(BY_HAND + written).authentication == meant


MISTAKES: dict[str, tuple[str, list[str]]] = {
    "nothing": (
        '[provisioning]\nsource = "manual"',
        [f"provisioning.connection_string: found nothing; allowed {TWO_FORMS}"],
    ),
    "half": (
        '[provisioning]\nsource = "manual"\ndevice_id = "d"',
        [
            f"provisioning.iothub_hostname: found nothing; allowed {HOST}",
            f'{AUTHENTICATION}.method: found nothing; allowed "sas" or "x509"',
        ],
    ),
    "both forms": (
        f'{BY_STRING}device_id = "d"',
        [f"provisioning.device_id: found a key beside connection_string; allowed {TWO_FORMS}"],
    ),
    "keys of dps": (
        f'{BY_STRING}id_scope = "s"',
        [
            'provisioning.id_scope: found a key that source "manual" does not have; allowed source, '
            "connection_string, iothub_hostname, device_id, authentication"
        ],
    ),
    "no string at all": (
        BY_STRING.replace(f'"{STRING}"', "7"),
        [f"provisioning.connection_string: found a number; allowed {IN_STRING}"],
    ),
    **{
        f"without {name}": (
            BY_STRING.replace(f"{name}=", "Other="),
            [
                "provisioning.connection_string: found a connection string whose required parameter "
                f'"{name}" is missing; allowed {IN_STRING}'
            ],
        )
        for name in ("HostName", "DeviceId", "SharedAccessKey")
    },
    **{
        f"bad {name}": (
            BY_STRING.replace(old, new),
            [
                f'provisioning.connection_string: found a connection string whose "{name}" is {what}; '
                f"allowed {IN_STRING}"
            ],
        )
        for name, old, new, what in (
            ("HostName", "hub.example:8443", "hub.example:0", "not a host name"),
            ("DeviceId", "press=17", "press 17", "not a device id"),
            ("SharedAccessKey", KEY_TEXT, KEY_TEXT[:-3], "not base64"),
        )
    },
    "sas without its key": (
        f'{BY_HAND}method = "sas"',
        [
            f"{AUTHENTICATION}.device_id_pk: found nothing; allowed a table with one of value and uri: "
            'device_id_pk = { value = "BASE64" }'
        ],
    ),
    "keys of the other method": (
        f'{BY_HAND}method = "sas"\ndevice_id_pk = {{ uri = "file:///k" }}\nidentity_pk = "/k"',
        [
            f'{AUTHENTICATION}.identity_pk: found a key that method "sas" does not have; '
            "allowed method, device_id_pk"
        ],
    ),
    "a device id too long for a CN": (
        f'{BY_HAND}method = "x509"\nidentity_cert.method = "self_signed"'.replace("press-17", "p" * 65),
        [
            "provisioning.device_id: found 65 characters; "
            "allowed at most 64 for an issued certificate, whose CN it becomes"
        ],
    ),
    "issued without a registration id": (
        f'{DPS}identity_cert.method = "self_signed"'.replace('registration_id = "press-17"', ""),
        [
            f"{ATTESTATION}.registration_id: found nothing; allowed 1 to 64 letters, digits, ':', '.', '_' "
            "and '-', the last one a letter, a digit or '-'"
        ],
    ),
    "issued without a method": (
        f"{DPS}identity_cert = {{}}",
        [f"{ATTESTATION}.identity_cert.method: found nothing; allowed {one_of(('self_signed', 'local_ca'))}"],
    ),
    "two names": (
        f'{DPS}identity_cert = {{ method = "self_signed", common_name = "x", subject = {{ CN = "x" }} }}',
        [f"{ATTESTATION}.identity_cert: found both common_name and subject; allowed one of them"],
    ),
    "a subject nobody can read": (
        f'{DPS}identity_cert = {{ method = "self_signed", subject = {{ XY = "x" }} }}',
        [
            f'{ATTESTATION}.identity_cert.subject: found an attribute "XY"; allowed C, CN, DC, GN, L, O, OU, '
            "SN, ST, UID, emailAddress, postalCode, serialNumber, street, title"
        ],
    ),
    "half a renewal": (
        f'{DPS}identity_cert = {{ method = "self_signed", auto_renew = {{ retry = "4%" }} }}',
        [
            f"{ATTESTATION}.identity_cert.auto_renew.rotate_key: found nothing; allowed true or false",
            f"{ATTESTATION}.identity_cert.auto_renew.threshold: found nothing; allowed {POLICY}",
        ],
    ),
    "no local CA": (
        f'{DPS}identity_cert.method = "local_ca"',
        [
            f'{ATTESTATION}.identity_cert.method: found "local_ca"; allowed with a CA in '
            "cert_issuance.local_ca, which is not there"
        ],
    ),
    "a local CA over EST": (
        f'{NONE}{LOCAL_CA}.cert = {{ method = "est", url = "https://u:hunter2@h" }}',
        [
            f'{LOCAL_CA}.cert.method: found "est"; allowed in this release "self_signed" or "local_ca"; '
            "the way by EST comes later"
        ],
    ),
    "a local CA that issues itself": (
        f'{NONE}{LOCAL_CA}.cert.method = "local_ca"',
        ['cert_issuance.local-ca.method: found "local_ca" for the CA itself; allowed "self_signed"'],
    ),
    "a local CA without its key": (
        f'{NONE}{LOCAL_CA}.cert = "file:///ca.pem"',
        [f"{LOCAL_CA}.pk: found nothing; allowed {FILE_URI}"],
    ),
    "preloaded in PKCS#11": (
        f'{NONE}preloaded_keys.k = "pkcs11:token=t?pin-value=1234"',
        [
            f"preloaded_keys.k: found a pkcs11: URI; allowed {FILE_URI}; "
            "PKCS#11 is not supported in this release"
        ],
    ),
    "preloaded from the network": (
        f'{NONE}preloaded_certs.c = "https://h/c.pem"',
        [f'preloaded_certs.c: found "https://h/c.pem"; allowed {FILE_URI}, or an array of certificate ids'],
    ),
    "a list that is its own member": (
        f'{NONE}preloaded_certs = {{ a = ["x", "b"], b = ["c"], c = ["b"] }}',
        [
            "preloaded_certs.b: found a list that leads back to itself: b, c, b; "
            "allowed lists that end in certificates"
        ],
    ),
    "a list of lists of lists": (
        NONE + "".join(f'preloaded_certs.l{i} = ["l{i + 1}", "l{i + 1}"]\n' for i in range(40)),
        [
            "preloaded_certs.l30: found a list of too many certificates, those of its lists counted; "
            "allowed at most 1000"
        ],
    ),
    "fingerprints": (
        f'{NONE}identityd.trust_store.allow = ["abcd"]',
        ['identityd.trust_store.allow: found "abcd"; allowed at most 1000 SHA-256 fingerprints in hex'],
    ),
    "ids of the machine": (
        f'{NONE}dps_trust_bundle = "b"\npreloaded_keys.handle-validation-key = "file:///k"\n'
        'preloaded_keys.aziot_identityd_master_id = "file:///k"\n'
        'preloaded_keys.aziot-dps-identity-cert-key = "file:///k"\npreloaded_certs.b = ["c"]\n'
        'preloaded_certs.aziot-dps-identity-cert = "file:///c"',
        [
            "preloaded_keys.handle-validation-key: found an id the service uses itself (it authenticates key "
            "handles); allowed another id",
            "preloaded_keys.aziot_identityd_master_id: found an id the service uses itself (module keys are "
            "derived from it); allowed another id",
            "preloaded_keys.aziot-dps-identity-cert-key: found an id the service uses itself (the key of the "
            "certificate that DPS issues); allowed another id",
            "preloaded_certs.b: found an id the service uses itself (the trust bundle of DPS); "
            "allowed another id",
            "preloaded_certs.aziot-dps-identity-cert: found an id the service uses itself (the certificate "
            "that DPS issues); allowed another id",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(text, expected) -> None:
    assert problems(text) == expected


def test_a_chain_of_lists_longer_than_the_stack() -> None:
    chain = "".join(f'preloaded_certs.l{i} = ["l{i + 1}"]\n' for i in range(3000))
    assert len(parse("c.toml", NONE + chain).certificates.preloaded) == 3000
    (line,) = problems(NONE + chain + 'preloaded_certs.l3000 = ["l0"]')
    assert "leads back to itself: l0, l1, l2, …, l3000, l0;" in line


# --- issued ------------------------------------------------------------------------------------------


def test_an_issued_certificate_for_dps() -> None:
    text = (
        f'{DPS}identity_cert = {{ method = "self_signed", subject = {{ O = "Contoso", C = "AQ" }}, '
        f"auto_renew = {RENEWING} }}"
    )
    provisioning = parse("c.toml", text).provisioning
    assert isinstance(provisioning, DpsProvisioning)
    assert provisioning.registration_id == "press-17"
    assert provisioning.attestation == IssuedSource(
        rule=IssuanceRule(method="self_signed", subject=(("C", "AQ"), ("O", "Contoso"))),
        auto_renew=AutoRenew(rotate_key=False, threshold="50%", retry="90min"),
    )


@pytest.mark.parametrize("text", ["1%", "99%", "1min", "7day", "99999999min"])
def test_renewal_policies(text) -> None:
    written = f'{DPS}identity_cert = {{ method = "self_signed", auto_renew = {RENEWING} }}'
    provisioning = parse("c.toml", written.replace("50%", text)).provisioning
    assert isinstance(provisioning, DpsProvisioning)
    assert isinstance(provisioning.attestation, IssuedSource)
    assert provisioning.attestation.auto_renew == AutoRenew(rotate_key=False, threshold=text, retry="90min")


@pytest.mark.parametrize(
    "text", ["", "0%", "100%", "0min", "1year", "day", "1 day", "-1%", "1.5%", "٣%", "9" * 50 + "min"]
)
def test_what_is_no_renewal_policy(text) -> None:
    written = f'{DPS}identity_cert = {{ method = "self_signed", auto_renew = {RENEWING} }}'
    (line,) = problems(written.replace("50%", text))
    assert line.startswith(f"{ATTESTATION}.identity_cert.auto_renew.threshold: found ")
    assert line.endswith(f"; allowed {POLICY}")


def test_a_local_ca_in_files() -> None:
    text = (
        f'{LOCAL_CA} = {{ cert = "file:///ca.pem", pk = "file:///ca.key" }}\n'
        f'{DPS}identity_cert.method = "local_ca"'
    )
    configuration = parse("c.toml", text)
    assert configuration.keys == KeySettings(preloaded={"local-ca": "/ca.key"})
    assert configuration.certificates == CertificateSettings(
        preloaded={"local-ca": "/ca.pem"}, local_ca=LocalCa(certificate_id="local-ca", key_id="local-ca")
    )


def test_a_local_ca_that_is_issued_here() -> None:
    configuration = parse(
        "c.toml", f'{NONE}{LOCAL_CA}.cert = {{ method = "self_signed", expiry_days = 365 }}'
    )
    assert configuration.keys == KeySettings()
    assert configuration.certificates == CertificateSettings(
        rules={"local-ca": IssuanceRule(method="self_signed", expiry_days=365, allow_ca=True)},
        local_ca=LocalCa(certificate_id="local-ca", key_id="local-ca"),
    )


# --- bundles -----------------------------------------------------------------------------------------


def test_preloaded() -> None:
    certificates = '{ c = "file:///c", d = ["c", "e"] }'
    text = f'{NONE}preloaded_keys."a/b" = "file:///k%20"\npreloaded_certs = {certificates}'
    configuration = parse("c.toml", text)
    assert configuration.keys.preloaded == {"a/b": "/k "}
    assert configuration.certificates.preloaded == {"c": "/c", "d": ("c", "e")}


def test_the_bundles_of_iot_edge() -> None:
    text = 'trust_bundle_cert = "file:///t.pem"\nmanifest_trust_bundle_cert = "file:///m.pem"\n'
    assert parse("c.toml", text + NONE).certificates.preloaded == {
        "trust-bundle-user": "/t.pem",
        "aziot-edged-trust-bundle": ("aziot-edged-ca", "trust-bundle-user"),
        "aziot-edged-manifest-trust-bundle": "/m.pem",
    }


def test_fingerprints_as_openssl_prints_them() -> None:
    digest = ":".join(["aB"] * 32)
    configuration = parse("c.toml", f'{NONE}identityd.trust_store.allow = ["{digest}"]')
    assert configuration.trust_store_allow == ("ab" * 32,)


# --- remarks -----------------------------------------------------------------------------------------

NOTES: dict[str, tuple[dict[str, object], list[str]]] = {
    "EST that nothing needs": (
        {"cert_issuance": {"est": {"auth": {"password": "hunter2"}}}},
        ["cert_issuance.est: not read; certificates over EST come later"],
    ),
    "issuance by id": (
        {"cert_issuance": {"web": {"method": "est"}}},
        ["cert_issuance.web: not read here; a drop-in of certd has issuance by certificate id"],
    ),
    "entries that others replace": (
        {
            "trust_bundle_cert": "file:///t",
            "preloaded_certs": {"trust-bundle-user": "file:///old", "local-ca": "file:///old"},
            "preloaded_keys": {"local-ca": "file:///old"},
            "cert_issuance": {"local_ca": {"cert": "file:///ca", "pk": "file:///ca"}},
        },
        [
            "preloaded_certs.trust-bundle-user: replaced by what other keys say of it",
            "preloaded_certs.local-ca: replaced by what other keys say of it",
            f"preloaded_keys.local-ca: replaced by {LOCAL_CA}.pk",
        ],
    ),
    "a key that is not used": (
        {
            "cert_issuance": {
                "local_ca": {"cert": {"method": "self_signed", "auto_renew": 1}, "pk": "file:///k"}
            }
        },
        [
            f"{LOCAL_CA}.cert.auto_renew: not read; only the device's own certificate is renewed",
            f"{LOCAL_CA}.pk: not used: the key of a certificate to be issued is made here",
        ],
    ),
    "nothing to remark": ({"aziot_keys": {"pkcs11_lib_path": "/l"}, "tpm": {}}, []),
}


@pytest.mark.parametrize(("tree", "expected"), NOTES.values(), ids=NOTES)
def test_remarks(tree, expected) -> None:
    assert notes({"provisioning": {"source": "none"}, **tree}) == expected


def test_the_configured_credential_replaces_what_is_preloaded_under_its_id() -> None:
    assert notes(
        {
            "provisioning": {"source": "manual", "connection_string": STRING},
            "preloaded_keys": {"device-id": "file:///k"},
            "preloaded_certs": {"device-id": "file:///c"},
        }
    ) == ["preloaded_keys.device-id: replaced by the configured credential"]


# --- what is derived ---------------------------------------------------------------------------------


def test_policy_of_a_manual_assignment() -> None:
    derived = policy(parse("c.toml", BY_STRING), "")
    assert (derived.dps, derived.endpoint) == (False, "")
    assert derived.manual == ManualAssignment(hub="hub.example:8443", device_id="press=17")
    assert isinstance(derived, PolicySettings)


def test_policy_of_an_issued_certificate_is_that_of_x509() -> None:
    derived = policy(parse("c.toml", f'{DPS}identity_cert.method = "self_signed"'), "press-17")
    assert (derived.attestation, derived.dps, derived.manual) == ("x509", True, None)


def test_fingerprint_of_a_manual_assignment() -> None:
    def of(text: str, public: str = "") -> str:
        return fingerprint(parse("c.toml", text), "", public)

    assert of(BY_STRING) == of(BY_STRING.replace("hub.example", "HUB.example"))
    assert of(BY_STRING) == of(f'parent_hostname = "up"\n{BY_STRING}')
    others = [
        of(BY_STRING),
        of(BY_STRING.replace("press", "Press")),
        of(BY_STRING.replace("hub.", "other.")),
        of(BY_HAND + 'method = "x509"\nidentity_cert = "/c"\nidentity_pk = "/k"', "aa"),
        of(BY_HAND + 'method = "x509"\nidentity_cert = "/c"\nidentity_pk = "/k"', "bb"),
        of(NONE),
    ]
    assert len(set(others)) == len(others)


def test_the_fingerprint_of_dps_is_what_it_was() -> None:
    """A new release must not reprovision every device."""
    configuration = Configuration(
        provisioning=DpsProvisioning(
            global_endpoint="https://dps.example",
            scope_id="s",
            registration_id="press-17",
            attestation=SymmetricKeySource(value=KEY),
        )
    )
    assert fingerprint(configuration, "press-17", "") == (
        "5a0bd7b1409b5df3969c6a906257a0a8c76ddaf44f0393966a29683d7fdab75d"
    )
