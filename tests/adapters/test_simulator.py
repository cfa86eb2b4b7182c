"""The stand-in cloud, asked over real TLS: what DPS and IoT Hub are documented to answer."""

import base64
import datetime
import itertools
import json
import os
import socket
import stat
import time

import pytest
import tomli
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from adapters.errors import AdapterError
from adapters.simulators import sas as checks
from adapters.simulators.cloud import CloudOptions, run_cloud
from adapters.simulators.dps import DIALECTS, PLAIN, SCOPE_ID, iso
from adapters.simulators.state import REGISTRATION_ID, CloudError
from adapters.wire import sas
from tests.adapters.cloud_device import SEED, SUCCESSORS, as_pem, chain_of, csr, faulty, run

KEY = bytes(range(32))
KEPT_SLASH = (
    "SharedAccessSignature sr=0ne00abcdef/registrations/dev-1"
    "&sig=%2Bxo0IlQKp2MJ0fVAV6j%2BW6f%2FrpnlpXteD1T2BxFcJ3k%3D&se=1700000000&skn=registration"
)
ENCODED_SLASH = (
    "SharedAccessSignature sr=0ne00abcdef%2Fregistrations%2Fdev-1"
    "&sig=Rh5sW67URcwSOd%2BuSwm5WkbOgs3JSzWtmONfFZ90pBQ%3D&se=1700000000&skn=registration"
)
HUB_TOKEN = (
    "SharedAccessSignature sr=contoso.azure-devices.net/devices/dev-1"
    "&sig=BUdjJLldIeSV4qtbSt5l%2Fb%2FUlSI8F71UDmGBw1uYZt4%3D&se=1700000000"
)


# --- shared access signatures ------------------------------------------------------------------------


def dps_refusal(token, *, now=1_699_999_999.0, keys=(KEY,)):
    return checks.refusal(
        token,
        audience="0ne00AbCdEf/registrations/Dev-1",
        keys=keys,
        now_unix_s=now,
        key_name="registration",
    )


def test_the_documented_tokens_are_accepted():
    assert dps_refusal(KEPT_SLASH) is None
    assert dps_refusal(ENCODED_SLASH) is None
    assert dps_refusal(KEPT_SLASH, keys=(b"other", KEY)) is None
    hub = {"audience": "Contoso.azure-devices.net/devices/Dev-1", "keys": (KEY,)}
    assert checks.refusal(HUB_TOKEN, **hub, now_unix_s=1_700_000_000) is None


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "not a SharedAccessSignature"),
        ("Bearer x", "not a SharedAccessSignature"),
        (KEPT_SLASH.replace("dev-1", "dev-2"), "another resource"),
        # Signed with the slash kept, sent encoded: the bytes of sr are what is signed.
        (KEPT_SLASH.replace("/registrations/", "%2Fregistrations%2F"), "does not match"),
        (KEPT_SLASH.replace("1700000000", "1700000001"), "does not match"),
        (KEPT_SLASH.replace("1700000000", "soon"), "not a number"),
        (KEPT_SLASH.replace("Bxo0", "Bxo1"), "does not match"),
        (KEPT_SLASH.replace("%3D", "*"), "not base64"),
        (KEPT_SLASH.replace("&skn=registration", ""), "another key"),
        (KEPT_SLASH.replace("&se=1700000000", ""), "no se"),
        (KEPT_SLASH + "&se=1700000000", "twice"),
    ],
)
def test_other_tokens_are_refused_with_a_reason(token, why):
    assert why in dps_refusal(token)


def test_expiry_has_a_tolerance_for_clocks():
    assert dps_refusal(KEPT_SLASH, now=1_700_000_299.0) is None
    assert "expired" in dps_refusal(KEPT_SLASH, now=1_700_000_301.0)


def test_the_documented_group_key_is_derived():
    group = base64.b64decode(
        "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
    )
    device = checks.derived_key(group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
    assert base64.b64encode(device) == b"Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="


# --- a device that talks to it -----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick_trust(tmp_path, monkeypatch):
    """The system's roots take long to load and are not needed here."""
    (tmp_path / "none.pem").write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


# --- registration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", DIALECTS)
def test_registration_in_every_dialect(tmp_path, version):
    async def test(device):
        registered = await device.register()
        assert registered.status == 202
        assert registered.headers["retry-after"] == "1"
        assert registered.headers["content-type"] == "application/json"
        first = json.loads(registered.body)
        assert first["status"] == "assigning"
        polls = [await device.poll(first["operationId"]) for _ in range(4)]
        assert [poll.status for poll in polls] == [202, 202, 200, 200]
        assert polls[0].headers["retry-after"] == "1"
        assert polls[2].body == polls[3].body
        last = json.loads(polls[2].body)
        assert last["operationId"] == first["operationId"]
        assert last["status"] == "assigned"
        return last["registrationState"], device.hub, device.leaf_key

    before = time.time()
    state, hub, key = run(test, tmp_path, version=version, assigning=2, cert_lifetime_s=90.5)
    common = {
        "registrationId",
        "createdDateTimeUtc",
        "assignedHub",
        "deviceId",
        "status",
        "substatus",
        "lastUpdatedDateTimeUtc",
        "etag",
    }
    member = {SEED: {"issuedClientCertificate"}}.get(version, {"issuedCertificateChain"})
    assert set(state) == common | (set() if version in PLAIN else member)
    assert state["assignedHub"] == hub
    assert state["deviceId"] == state["registrationId"] == REGISTRATION_ID
    assert state["substatus"] == "initialAssignment"
    if version in PLAIN:
        return
    chain = chain_of(state, version)
    leaf = chain[0]
    assert leaf.public_key() == key.public_key()
    assert leaf.subject.rfc4514_string() == f"CN={REGISTRATION_ID}"
    assert len(chain) == (2 if version == SEED else 3)
    for certificate, issuer in itertools.pairwise(chain):
        certificate.verify_directly_issued_by(issuer)
    root = x509.load_pem_x509_certificate((tmp_path / "cloud" / "ca.pem").read_bytes())
    assert chain[-1].issuer == root.subject
    assert "NOT FOR PRODUCTION" in root.subject.rfc4514_string()
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert datetime.timedelta(seconds=90) < lifetime <= datetime.timedelta(seconds=92)
    assert int(before) <= leaf.not_valid_before_utc.timestamp() <= time.time()


def test_payload_and_second_registration(tmp_path):
    async def test(device):
        body = {"registrationId": REGISTRATION_ID, "payload": {"a": [1]}}
        answer = await device.ask("PUT", device.url("/register"), body)
        operation = json.loads(answer.body)["operationId"]
        first = json.loads((await device.poll(operation)).body)["registrationState"]
        second = (await device.provision())["registrationState"]
        lookup = await device.ask("POST", device.url(""), {"registrationId": REGISTRATION_ID})
        return first, second, json.loads(lookup.body)

    first, second, looked_up = run(test, tmp_path, assigning=0)
    assert first["payload"]["request_payload"] == {"a": [1]}
    assert "issuedClientCertificate" not in first
    assert second["substatus"] == "reprovisionedToInitialAssignment"
    assert second["createdDateTimeUtc"] == first["createdDateTimeUtc"]
    assert second["etag"] != first["etag"]
    assert looked_up == {k: v for k, v in second.items() if k != "issuedClientCertificate"}


def test_without_issuance_each_dialect_says_what_is_documented(tmp_path):
    async def test(device):
        return await device.provision()

    seed = run(test, tmp_path, identity_certs=False)
    del seed["operationId"], seed["registrationState"]["lastUpdatedDateTimeUtc"]
    assert seed == {
        "status": "failed",
        "registrationState": {
            "registrationId": REGISTRATION_ID,
            "status": "failed",
            "errorCode": 400000,
            "errorMessage": "Device sent CSR but it is not configured in the service.",
        },
    }
    for version in SUCCESSORS:
        state = run(test, tmp_path, version=version, identity_certs=False)["registrationState"]
        assert state["status"] == "assigned"
        assert "issuedCertificateChain" not in state


@pytest.mark.parametrize("method", ["PUT", "GET", "POST"])
def test_a_credential_is_needed_for_everything(tmp_path, method):
    async def test(device):
        path = {"PUT": "/register", "GET": "/operations/x", "POST": ""}[method]
        anonymous = await device.ask(method, device.url(path), b"{}", headers={"Authorization": ""})
        wrong = sas.dps_token(SCOPE_ID, REGISTRATION_ID, b"other", int(time.time()) + 60)
        forged = await device.ask(method, device.url(path), b"{}", headers={"Authorization": wrong})
        return anonymous, forged, await device.log()

    anonymous, forged, log = run(test, tmp_path)
    for answer in (anonymous, forged):
        assert answer.status == 401
        assert answer.headers["x-ms-error-code"] == "401002"
        error = json.loads(answer.body)
        assert set(error) == {"errorCode", "trackingId", "message", "timestampUtc"}
        assert error["errorCode"] == 401002
        assert error["timestampUtc"].endswith("Z")
    assert "signature does not match" in log[1]["why"]


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        ({"body": b"nonsense"}, 400, "not JSON"),
        ({"body": b"[]"}, 400, "not a JSON object"),
        ({"body": {"registrationId": "another"}}, 400, "registrationId"),
        ({"body": {"registrationId": REGISTRATION_ID, "tpm": {}}}, 400, "TPM"),
        ({"csr": 5}, 400, "not a string"),
        ({"csr": "AAAA"}, 400, "PKCS#10"),
        ({"csr": "not base64!"}, 400, "PKCS#10"),
        ({"csr": csr(cn="another")[1]}, 400, "CN of the CSR"),
        ({"csr": csr(rsa.generate_private_key(65537, 1024))[1]}, 400, "2048"),
        ({"headers": {"Content-Type": "text/plain"}}, 415, "application/json"),
        ({"method": "DELETE"}, 405, "PUT"),
        ({"path": f"/elsewhere/registrations/{REGISTRATION_ID}/register?api-version={SEED}"}, 404, "scope"),
        ({"path": f"/{SCOPE_ID}/registrations/-x/register?api-version={SEED}"}, 400, "registration id"),
        ({"path": f"/{SCOPE_ID}/registrations/{REGISTRATION_ID}/register"}, 400, "api-version is missing"),
        ({"path": f"/{SCOPE_ID}/registrations/x/register?api-version=2020-01-01"}, 400, "not served"),
        ({"path": "/elsewhere"}, 404, "no such"),
    ],
)
def test_bad_requests_get_the_documented_shape(tmp_path, change, status, why):
    async def test(device):
        body = {"registrationId": REGISTRATION_ID, "clientCertificateCsr": change.get("csr", csr()[1])}
        return await device.ask(
            change.get("method", "PUT"),
            change.get("path", device.url("/register")),
            change.get("body", body),
            headers=change.get("headers"),
        )

    answer = run(test, tmp_path)
    error = json.loads(answer.body)
    assert answer.status == status
    assert why in error["message"]
    assert error["errorCode"] == status * 1000
    assert error["trackingId"]


def test_a_csr_with_a_broken_signature_is_refused(tmp_path):
    der = bytearray(base64.b64decode(csr()[1]))
    der[-1] ^= 1

    async def test(device):
        body = {"registrationId": REGISTRATION_ID, "clientCertificateCsr": base64.b64encode(der).decode()}
        return await device.ask("PUT", device.url("/register"), body)

    answer = run(test, tmp_path)
    assert answer.status == 400
    assert b"signature" in answer.body or b"PKCS#10" in answer.body


def test_only_the_chosen_dialect_and_the_plain_ones_are_served(tmp_path):
    async def test(device):
        return {
            version: (await device.ask("GET", device.url("/operations/x", version))).status
            for version in DIALECTS
        }

    statuses = run(test, tmp_path, api_version=SUCCESSORS[0])
    assert statuses == {v: 404 if v in (*PLAIN, SUCCESSORS[0]) else 400 for v in DIALECTS}
    config = tomli.loads((tmp_path / "etc/aziot/config.toml").read_text())
    assert config["identityd"]["api_version"] == SUCCESSORS[0]


def test_a_lookup_takes_no_csr_and_knows_only_the_registered(tmp_path):
    async def test(device):
        body = {"registrationId": REGISTRATION_ID}
        unknown = await device.ask("POST", device.url(""), body)
        await device.register()
        under_way = await device.ask("POST", device.url(""), body)
        with_csr = await device.ask("POST", device.url(""), body | {"clientCertificateCsr": ""})
        return unknown.status, json.loads(under_way.body)["status"], with_csr.status

    assert run(test, tmp_path) == (404, "assigning", 400)


# --- X.509 onboarding --------------------------------------------------------------------------------


def self_signed(key, cn, *, ca=False, issuer=None, issuer_key=None):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key or key, hashes.SHA256())
    )


@pytest.mark.parametrize("enrolled", ["certificate", "its CA"])
def test_a_client_certificate_is_taken_once_it_is_enrolled(tmp_path, enrolled):
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = self_signed(ca_key, "Factory CA", ca=True)
    leaf = self_signed(key, REGISTRATION_ID, issuer=authority, issuer_key=ca_key)

    async def test(device):
        client = device.with_certificate(as_pem([leaf]), key)
        no_token = {"headers": {"Authorization": ""}, "client": client, "with_csr": False}
        with pytest.raises(AdapterError) as refused:
            await device.register(**no_token)
        pem = as_pem([leaf if enrolled == "certificate" else authority])
        (tmp_path / "cloud/clients/one.pem").write_bytes(pem)
        (tmp_path / "cloud/clients/broken.pem").write_text("nonsense")
        accepted = await device.register(**no_token)
        operation = json.loads(accepted.body)["operationId"]
        await device.ask("GET", device.url(f"/operations/{operation}"))
        on_hub = await device.modules(client=client)
        by_token = await device.modules(token=True)
        return refused.value.code, accepted.status, on_hub.status, by_token.status, await device.log()

    code, accepted, on_hub, by_token, log = run(test, tmp_path, assigning=0)
    assert code == "tls-certificate-alert"
    assert (accepted, on_hub, by_token) == (202, 200, 401)
    assert [entry["method"] for entry in log] == ["TLS", "PUT", "GET", "GET", "GET"]
    assert log[0]["why"]
    assert log[1]["client"] == "x509"


def test_another_cn_and_an_issued_certificate_do_not_onboard(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    other = self_signed(key, "somebody")

    async def test(device):
        (tmp_path / "cloud/clients/other.pem").write_bytes(as_pem([other]))
        issued = chain_of((await device.provision())["registrationState"])
        answers = []
        for chain, leaf_key in ((issued, device.leaf_key), ([other], key)):
            client = device.with_certificate(as_pem(chain), leaf_key)
            anonymous = {"headers": {"Authorization": ""}, "client": client}
            answers.append(await device.ask("GET", device.url("/operations/x"), **anonymous))
        return answers

    issued, other_answer = run(test, tmp_path)
    assert (issued.status, other_answer.status) == (401, 401)
    assert b"issued certificate" in issued.body
    assert b"CN" in other_answer.body


# --- the hub -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [SEED, *SUCCESSORS])
def test_the_issued_certificate_opens_the_hub_and_nothing_else_does(tmp_path, version):
    async def test(device):
        chain = chain_of((await device.provision())["registrationState"], version)
        client = device.with_certificate(as_pem(chain))
        accepted = await device.modules(client=client)
        assert accepted.status == 200
        assert accepted.body == b"[]"
        assert accepted.headers["content-type"] == "application/json"
        leaf_only = device.with_certificate(as_pem(chain[:1]))
        with pytest.raises(AdapterError, match="refused the client certificate"):
            await device.modules(client=leaf_only)
        assert (await device.modules(token=True)).status == 401
        assert (await device.modules()).status == 401
        unknown = await device.modules(client=client, device="nobody")
        assert unknown.status == 404
        assert "404001" in json.loads(unknown.body)["Message"]
        # Registered again without a CSR, the device proves itself with its key.
        await device.provision(with_csr=False)
        assert (await device.modules(token=True)).status == 200
        refused = await device.modules(client=client)
        assert refused.status == 401
        assert json.loads(refused.body)["Message"].startswith("ErrorCode:IotHubUnauthorizedAccess;")

    run(test, tmp_path, version=version)


def test_the_hub_wants_an_api_version_and_a_method_it_knows(tmp_path):
    async def test(device):
        await device.provision(with_csr=False)
        expiry = int(time.time()) + 60
        headers = {"Authorization": sas.hub_token(device.hub, REGISTRATION_ID, device.key, expiry)}
        base = f"/devices/{REGISTRATION_ID}/modules"
        return [
            (await device.ask(method, path, headers=headers)).status
            for method, path in (
                ("GET", base),
                ("PUT", f"{base}?api-version=1"),
                ("POST", f"{base}/m?api-version=1"),
                ("GET", f"{base}/m?api-version=1"),
            )
        ]

    assert run(test, tmp_path) == [400, 405, 405, 404]


# --- trust bundles -----------------------------------------------------------------------------------


def bundle_of(state):
    if "trustBundle" not in state:
        return None
    return [entry["certificate"] for entry in state["trustBundle"]["certificates"]]


def test_the_trust_bundle(tmp_path):
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    pems = [as_pem([self_signed(key, f"root {n}", ca=True)]) for n, key in enumerate(keys)]
    file = tmp_path / "bundle.pem"
    file.write_bytes(b"".join(pems))

    async def test(device):
        bundles = [bundle_of((await device.provision())["registrationState"])]
        for kind in ("present", "absent", "empty", "changed", "garbage"):
            await device.faults({"on": "operation", "kind": "bundle", "bundle": kind})
            bundles.append(bundle_of((await device.provision())["registrationState"]))
        await device.faults()
        assert (await device.ask("PUT", "/_cloud/bundle", b"nonsense")).status == 400
        assert (await device.ask("PUT", "/_cloud/bundle", pems[1])).status == 204
        bundles.append(bundle_of((await device.provision())["registrationState"]))
        assert (await device.ask("GET", "/_cloud/bundle")).body == pems[1]
        assert (await device.ask("PUT", "/_cloud/bundle", b"")).status == 204
        bundles.append(bundle_of((await device.provision())["registrationState"]))
        return bundles

    plain, present, absent, empty, changed, garbage, replaced, removed = run(
        test, tmp_path, bundle=str(file), assigning=0
    )
    both = [pem.decode() for pem in pems]
    assert plain == present == both
    assert absent is None
    assert empty == []
    assert changed[:2] == both
    assert len(x509.load_pem_x509_certificates("".join(changed).encode())) == 3
    with pytest.raises(ValueError, match=r".+"):
        x509.load_pem_x509_certificates(garbage[0].encode())
    assert replaced == [pems[1].decode()]
    assert removed is None


def test_successors_bring_no_trust_bundle(tmp_path):
    for version in SUCCESSORS:
        state, _, _ = faulty(
            tmp_path, {"on": "operation", "kind": "bundle", "bundle": "present"}, version=version
        )
        assert "trustBundle" not in state


# --- what it keeps and what may change ---------------------------------------------------------------


def test_a_restart_is_the_same_cloud(tmp_path):
    async def first(device):
        chain = chain_of((await device.provision())["registrationState"])
        return device.listening, device.key, as_pem(chain), device.leaf_key

    async def second(device):
        client = device.with_certificate(chain, leaf_key)
        accepted = await device.modules(client=client)
        return device.listening, device.key, accepted.status

    listening, key, chain, leaf_key = run(first, tmp_path)
    ca_pem = (tmp_path / "cloud" / "ca.pem").read_bytes()
    config = (tmp_path / "etc/aziot/config.toml").read_bytes()
    again, key_again, status = run(second, tmp_path)
    assert (again.endpoint, key_again, status) == (listening.endpoint, key, 200)
    assert (tmp_path / "cloud" / "ca.pem").read_bytes() == ca_pem
    assert (tmp_path / "etc/aziot/config.toml").read_bytes() == config
    assert (listening.config_written, again.config_written, again.config_matches) == (True, False, True)
    modes = {
        name: stat.S_IMODE(os.stat(tmp_path / name).st_mode)
        for name in ("cloud/ca.pem", "cloud/ca.key", "cloud/enrolment.key", "etc/aziot/config.toml")
    }
    assert list(modes.values()) == [0o644, 0o600, 0o600, 0o600]


async def listening(device):
    return device.listening


def test_a_port_that_is_taken_is_replaced_and_said_so(tmp_path):
    one = run(listening, tmp_path)
    port = int(one.endpoint.rpartition(":")[2])

    async def wanted():
        with pytest.raises(CloudError, match="cannot listen on port"):
            await run_cloud(CloudOptions(root=str(tmp_path / "x"), port=port), on_listening=print)

    with socket.create_server(("127.0.0.1", port)):
        trio.run(wanted)
        other = run(listening, tmp_path)
    assert one.endpoint != other.endpoint
    assert other.config_matches is False


def test_a_second_cloud_leaves_the_first_its_port(tmp_path):
    port = tmp_path / "cloud" / "port"

    async def second(device):
        before = port.read_bytes()
        with pytest.raises(CloudError, match="in use by another stand-in cloud; stop it first"):
            await run_cloud(CloudOptions(root=str(tmp_path)), on_listening=print)
        return before

    assert run(second, tmp_path) == port.read_bytes()
    assert run(listening, tmp_path).config_matches


def test_the_configuration_is_the_originals(tmp_path):
    async def test(device):
        return device.listening

    listening = run(test, tmp_path, cert_lifetime_s=60)
    config = tomli.loads((tmp_path / "etc/aziot/config.toml").read_text())
    key = (tmp_path / "cloud/enrolment.key").read_text().strip()
    assert config["provisioning"] == {
        "source": "dps",
        "global_endpoint": listening.endpoint,
        "id_scope": SCOPE_ID,
        "attestation": {
            "method": "symmetric_key",
            "registration_id": REGISTRATION_ID,
            "symmetric_key": {"value": key},
        },
    }
    assert config["identityd"]["tls"] == {"ca_file": listening.ca_file}
    assert config["identityd"]["attempts"]["backoff_base_sec"] == 1


def test_options_may_change_while_it_runs(tmp_path):
    async def test(device):
        put = await device.ask(
            "PUT", "/_cloud/options", {"identity_certs": False, "assigning": 0, "retry_after_s": None}
        )
        assert put.status == 204
        failed = await device.provision()
        registered = await device.register()
        unknown = await device.ask("PUT", "/_cloud/options", {"nonsense": 1})
        outside = await device.ask("PUT", "/_cloud/options", {"cert_lifetime_s": 0.1})
        shown = await device.ask("GET", "/_cloud/options")
        return failed["status"], registered.headers, unknown, outside, json.loads(shown.body)

    status, headers, unknown, outside, shown = run(test, tmp_path)
    assert status == "failed"
    assert "retry-after" not in headers
    assert unknown.status == 400
    assert b"identity_certs" in unknown.body
    assert outside.status == 400
    assert shown == {
        "cert_lifetime_s": 30 * 86_400.0,
        "identity_certs": False,
        "server_certs": False,
        "assigning": 0,
        "retry_after_s": None,
    }


def test_control_paths_that_are_wrong_say_what_is_right(tmp_path):
    async def test(device):
        return [
            await device.ask("GET", "/_cloud/nonsense"),
            await device.ask("DELETE", "/_cloud/log"),
            await device.ask("GET", "/_cloud/log?from=x"),
            await device.ask("POST", "/_cloud/faults", b'[[fault]]\non = "hub"\nkind = "nonsense"\n'),
            await device.ask("POST", "/_cloud/faults", b'[[fault]]\non = "hub"\nkind = "garbage"\n'),
        ]

    nowhere, method, sequence, kind, good = run(test, tmp_path)
    assert nowhere.status == 404
    assert b"log, faults, bundle, options" in nowhere.body
    assert method.status == 405
    assert sequence.status == 400
    assert kind.status == 400
    assert b"valid: status, stall" in kind.body
    assert good.status == 204


def test_the_log_tells_the_story(tmp_path):
    async def test(device):
        await device.provision()
        later = await device.ask("GET", "/_cloud/log?from=3")
        return await device.log(), json.loads(later.body)["entries"]

    log, later = run(test, tmp_path)
    assert [(e["sequence"], e["method"], e["status"], e["client"]) for e in log] == [
        (1, "PUT", 202, "sas"),
        (2, "GET", 202, "sas"),
        (3, "GET", 200, "sas"),
    ]
    assert later == log[2:]
    assert [entry.get("assigned_unix_ms") is not None for entry in log] == [False, False, True]
    assert log[2]["not_after_unix_ms"] - log[2]["not_before_unix_ms"] >= 30 * 86_400_000
    assert int(log[2]["certificate_serial"], 16) > 0
    assert "SharedAccess" not in json.dumps(log)


# --- refusing to start -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"root": "/"}, "--root"),
        ({"root": "/tmp/.."}, "--root"),
        ({"cert_lifetime_s": 0.5}, "cert_lifetime_s"),
        ({"assigning": -1}, "assigning"),
        ({"retry_after_s": -1}, "retry_after_s"),
        ({"api_version": "2020-01-01"}, "2021-11-01-preview"),
        ({"bundle": "/nonexistent"}, "bundle"),
        ({"faults": "/nonexistent"}, "faults"),
    ],
)
def test_what_cannot_run_says_why(tmp_path, options, why):
    def listening(_):
        raise AssertionError

    async def main():
        with pytest.raises(CloudError, match=why):
            await run_cloud(CloudOptions(**{"root": str(tmp_path), **options}), on_listening=listening)

    trio.run(main)


def test_files_that_are_no_use_say_why(tmp_path):
    (tmp_path / "file").touch()

    async def main():
        for options, why in (
            ({"root": str(tmp_path / "file")}, "file/cloud.* cannot be used: Not a directory$"),
            ({"bundle": str(tmp_path / "file")}, "file is not a PEM file of certificates"),
        ):
            with pytest.raises(CloudError, match=why):
                await run_cloud(CloudOptions(**{"root": str(tmp_path), **options}), on_listening=print)

    trio.run(main)


def test_a_damaged_state_says_so(tmp_path):
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud" / "ca.pem").write_text("x")
    (tmp_path / "cloud" / "ca.key").write_text("y")

    async def main():
        with pytest.raises(CloudError, match="remove it to begin anew"):
            await run_cloud(CloudOptions(root=str(tmp_path)), on_listening=print)

    trio.run(main)


def test_instants_have_seven_digits():
    assert iso(1_714_644_672.131) == "2024-05-02T10:11:12.1310000Z"
