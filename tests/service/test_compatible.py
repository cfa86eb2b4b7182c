"""The original's acceptance list (A1 to D2) with real processes, and what it leaves out.

Clients are those of the original: requests to certd, keyd and identityd, nothing of our own, except where a
test needs to know that something has happened.
"""

import base64
import contextlib
import http.client
import json
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509

from tests.service.curl import as_another_user, curl
from tests.service.device import SCOPE_ID, Answer, Cloud, Device, ask, event_is, hang_up, short_root
from tests.service.test_examples import drop_in, open_to_others
from tests.service.test_ways import client_credential

OLD, MIDDLE, NEW = "2020-09-01", "2021-12-01", "2022-08-01"
NOT_FOUND = 'parameter "id" has an invalid value caused by: not found'


def identityd(device: Device, method: str, path: str, body: object = None, version: str = OLD) -> Answer:
    target = f"/{path}{'&' if '?' in path else '?'}api-version={version}"
    data = None if body is None else json.dumps(body).encode()
    return ask(device.root / "run/aziot/identityd.sock", target, method, data)


def keyd(device: Device, path: str, body: object) -> Answer:
    target = f"/{path}?api-version=2021-05-01"
    return ask(device.root / "run/aziot/keyd.sock", target, "POST", json.dumps(body).encode())


def device_spec(device: Device) -> dict[str, object]:
    answer = identityd(device, "POST", "identities/device", {"type": "aziot"})
    assert answer.status == 200, answer
    spec: dict[str, object] = answer.json["spec"]
    return spec


def reprovision(device: Device) -> None:
    answer = identityd(device, "POST", "identities/device/reprovision", {"type": "aziot"})
    assert (answer.status, answer.body) == (204, b""), answer


def signed_by_device(device: Device) -> bytes:
    """A signature made with whatever the device identity names."""
    auth = device_spec(device)["auth"]
    request = (
        {"algorithm": "HMAC-SHA256", "parameters": {"message": "aGVsbG8="}}
        if auth["type"] == "sas"
        else {
            "algorithm": "ECDSA",
            "parameters": {"digest": base64.b64encode(bytes(32)).decode()},
        }
    )
    answer = keyd(device, "sign", {"keyHandle": auth["keyHandle"], **request})
    assert answer.status == 200, answer
    return base64.b64decode(answer.json["signature"])


def test_a1_to_a3_symmetric_key_then_x509_without_certificates_of_dps(make, cloud, place):
    cloud.options(identity_certs=False)
    payload = {"msg": "custom", "nested": {"numbers": [1, 2.5]}}
    (place / "payload.json").write_text(json.dumps(payload))
    device = make("mock-iot-provision")
    device.configure(provisioning=f'payload = {{ uri = "file://{place}/payload.json" }}').start()
    device.until_provisioned()
    info = identityd(device, "GET", "identities/provisioning", version=NEW)
    expected = {
        "source": "dps",
        "auth": "symmetric_key",
        "endpoint": f"{cloud.endpoint}/",
        "scope_id": SCOPE_ID,
        "registration_id": "mock-iot-provision",
        "payload": payload,
    }
    assert (info.status, info.json) == (200, expected)
    spec = device_spec(device)
    assert spec["auth"]["type"] == "sas"
    assert len(signed_by_device(device)) == 32

    assert device.stop() == 0
    credential = client_credential(cloud, device)
    device.configure(
        attestation=credential, provisioning=f'payload = {{ uri = "file://{place}/payload.json" }}'
    )
    device.start().until_provisioned()
    reprovision(device)
    info = identityd(device, "GET", "identities/provisioning", version=MIDDLE)
    assert info.json == {**expected, "auth": "x509"}
    auth = device_spec(device)["auth"]
    assert (auth["type"], auth["certId"]) == ("x509", "device-id")
    assert device.certificate("device-id").json["pem"] == (device.root / "client.pem").read_text()
    assert signed_by_device(device)


def test_b1_and_b2_a_trust_bundle_comes_and_goes(make, cloud):
    two = (cloud.root / "cloud/ca.pem").read_bytes() + make_certificate()
    cloud.bundle(two)
    device = make("bundled").start()
    device.until_provisioned()
    stored = device.certificate("aziot-dps-trust-bundle")
    assert stored.status == 200
    assert x509.load_pem_x509_certificates(stored.json["pem"].encode()) == x509.load_pem_x509_certificates(
        two
    )
    cloud.bundle(b"")
    reprovision(device)
    gone = device.certificate("aziot-dps-trust-bundle")
    assert gone.status == 400
    assert " ".join(gone.json["message"].split()) == NOT_FOUND
    assert identityd(device, "GET", "trust-bundle").json == {"certificate": ""}


def make_certificate() -> bytes:
    from tests.service.peers import authority

    return authority("second root").encode()


def test_c1_and_c2_an_identity_certificate_comes_and_goes(make, cloud):
    device = make("certified").start()
    device.until_provisioned()
    pem = device.certificate("aziot-dps-identity-cert").json["pem"]
    leaf = x509.load_pem_x509_certificates(pem.encode())[0]
    assert device_spec(device)["auth"]["type"] == "x509"
    signature = signed_by_device(device)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    leaf.public_key().verify(signature, bytes(32), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    cloud.options(identity_certs=False)
    reprovision(device)
    gone = device.certificate("aziot-dps-identity-cert")
    assert gone.status == 400
    assert " ".join(gone.json["message"].split()) == NOT_FOUND
    assert device_spec(device)["auth"]["type"] == "sas"


def test_d1_and_d2_the_certificate_policy_outlives_a_restart(make, cloud):
    cloud.options(server_certs=True)
    device = make("policed").start()
    device.until_provisioned()

    def policy() -> object:
        return identityd(device, "GET", "identities/provisioning", version=NEW).json["cert_policy"]

    assert policy() == {"certificateType": "serverCertificate"}
    assert device.stop() == 0
    device.start()
    assert policy() == {"certificateType": "serverCertificate"}


# --- what the list leaves out ------------------------------------------------------------------------


def create_module(device: Device, name: str) -> dict[str, object]:
    answer = identityd(device, "POST", "identities/modules", {"type": "aziot", "moduleId": name})
    assert answer.status == 200, answer
    spec: dict[str, object] = answer.json["spec"]
    return spec


def module_key(device: Device, name: str) -> tuple[str, str]:
    """Generation id and primary key of a module, as its users get to them."""
    answer = identityd(device, "GET", f"identities/modules/{name}?type=aziot")
    assert answer.status == 200, answer
    spec = answer.json["spec"]
    exported = keyd(device, "derivedkey/export", {"keyHandle": spec["auth"]["keyHandle"]})
    assert exported.status == 200, exported
    return spec["genId"], exported.json["key"]


def test_modules_and_their_keys_outlive_renewal_reprovisioning_and_restart(provisioned, cloud):
    device = provisioned.start()
    create_module(device, "telemetry")
    before = module_key(device, "telemetry")
    device.attempt("renew")
    assert module_key(device, "telemetry") == before
    reprovision(device)
    assert module_key(device, "telemetry") == before
    device.kill()
    device.start()
    assert module_key(device, "telemetry") == before


def test_what_is_known_is_answered_while_the_cloud_is_away(place):
    cloud = Cloud(place / "cloud", "--assigning", "0")
    device = Device(place / "device", cloud).configure(top="cloud_timeout_sec = 2\ncloud_retries = 0")
    try:
        device.start().until_provisioned()
        create_module(device, "telemetry")
        before = module_key(device, "telemetry")
        cloud.close()
        assert device.stop() == 0
        device.start()
        assert device_spec(device)["deviceId"] == "device"
        assert signed_by_device(device)
        assert module_key(device, "telemetry") == before
        listed = identityd(device, "GET", "identities/modules?type=aziot")
        assert [one["spec"]["moduleId"] for one in listed.json["identities"]] == ["telemetry"]
        unknown = identityd(device, "GET", "identities/modules/never-seen?type=aziot")
        assert unknown.status == 404
        assert unknown.json["message"].startswith("Hub client error\ncaused by: ")
    finally:
        device.kill()
        cloud.close()


def test_throttling_and_refusals_of_the_hub_are_not_answered_from_the_cache(provisioned, cloud):
    device = provisioned.start()
    create_module(device, "telemetry")
    cloud.faults({"on": "hub", "kind": "status", "status": 429, "message": "slow down", "times": 2})
    answer = identityd(device, "GET", "identities/modules/telemetry?type=aziot")
    assert answer.status == 404
    assert "slow down" in answer.json["message"]
    assert device.status()["state"] == "Provisioned"


def test_before_the_first_registration_the_sockets_say_why(make, cloud):
    cloud.faults({"on": "register", "kind": "status", "status": 503, "message": "closed for today"})
    device = make("waiting").start()
    device.until(lambda status: status["attempt"] and status["attempt"]["last_error"])
    answer = identityd(device, "POST", "identities/device", {"type": "aziot"})
    assert answer.status == 400
    first, _, cause = answer.json["message"].partition("\ncaused by: ")
    assert first == "device identity not found"
    assert "closed for today" in cause or "503" in cause
    cloud.faults()
    device.until_provisioned()
    assert device_spec(device)["deviceId"] == "waiting"


def test_a_reprovision_that_fails_says_so_and_leaves_the_device_as_it_was(provisioned, cloud):
    device = provisioned.start()
    before = device.certificate("aziot-dps-identity-cert").json
    cloud.faults({"on": "register", "kind": "status", "status": 401, "message": "enrolment is gone"})
    answer = identityd(device, "POST", "identities/device/reprovision", {"type": "aziot"})
    assert answer.status == 404
    assert answer.json["message"].startswith("DPS client error\ncaused by: ")
    assert "enrolment is gone" in answer.json["message"]
    assert device.certificate("aziot-dps-identity-cert").json == before
    assert signed_by_device(device)


def test_a_handle_signs_with_its_own_key_across_a_renewal(provisioned):
    device = provisioned.start()
    auth = device_spec(device)["auth"]
    pem = device.certificate(auth["certId"]).json["pem"]
    device.attempt("renew")
    assert device.certificate(auth["certId"]).json["pem"] != pem
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    body = {"algorithm": "ECDSA", "parameters": {"digest": base64.b64encode(bytes(32)).decode()}}
    answer = keyd(device, "sign", {"keyHandle": auth["keyHandle"], **body})
    assert answer.status == 200, answer
    leaf = x509.load_pem_x509_certificates(pem.encode())[0]
    signature = base64.b64decode(answer.json["signature"])
    leaf.public_key().verify(signature, bytes(32), ec.ECDSA(utils.Prehashed(hashes.SHA256())))


@pytest.mark.parametrize(
    ("service", "method", "path", "body"),
    [
        ("certd", "PUT", "certificates/aziot-dps-identity-cert", {"pem": ""}),
        ("certd", "DELETE", "certificates/aziot-dps-identity-cert", None),
        ("certd", "DELETE", "certificates/aziot-dps-trust-bundle", None),
        ("certd", "POST", "certificates", {"certId": "aziot-dps-identity-cert", "csr": ""}),
        ("keyd", "POST", "keypair", {"keyId": "aziot-dps-identity-cert-key"}),
        ("keyd", "POST", "keypair/aziot-dps-identity-cert-key", {"from": "other"}),
        ("keyd", "POST", "keypair/other", {"from": "aziot-dps-identity-cert-key"}),
        ("keyd", "POST", "key", {"keyId": "aziot_identityd_master_id", "usage": "sign"}),
        ("keyd", "POST", "key", {"keyId": "handle-validation-key", "usage": "sign", "keyBytes": "AAAA"}),
    ],
)
def test_what_the_machine_owns_is_not_even_for_root(running, service, method, path, body):
    data = None if body is None else json.dumps(body).encode()
    version = "2020-09-01"
    answer = ask(running.root / f"run/aziot/{service}.sock", f"/{path}?api-version={version}", method, data)
    assert answer.status == 401, answer
    assert "is not authorized to" in answer.json["message"]
    assert running.certificate("aziot-dps-identity-cert").status == 200


@pytest.fixture(scope="module")
def running(template):
    with short_root() as root:
        shutil.copytree(template, root / "d", symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
        device = Device(root / "d", None).start()
        try:
            yield device
        finally:
            device.kill()


def test_configured_modules_are_made_once_and_follow_the_configuration(make, cloud):
    device = make("principals")
    drop_in(device.root, "identityd", '[[principal]]\nuid = 1003\nname = "host1"\nidtype = ["module"]\n')
    device.start().until_provisioned()

    def listed() -> dict[str, str]:
        answer = identityd(device, "GET", "identities/modules?type=aziot")
        return {one["spec"]["moduleId"]: one["spec"]["genId"] for one in answer.json["identities"]}

    def until_listed(name: str) -> None:
        deadline = _deadline()
        while name not in listed():
            assert time.monotonic() < deadline, device.log

    until_listed("host1")
    before = listed()
    assert list(before) == ["host1"]
    reprovision(device)
    device.kill()
    device.start().until_provisioned()
    assert listed() == before, "a module that is recreated has other keys than its users hold"
    (device.root / "etc/aziot/identityd/config.d/principals.toml").write_text(
        '[[principal]]\nuid = 1003\nname = "host2"\nidtype = ["module"]\n'
    )
    hang_up(device.process)
    until_listed("host2")
    assert "host1" not in listed()


def _deadline() -> float:
    return time.monotonic() + 30


def test_a_lost_master_key_asks_for_help_and_is_mended_by_a_command(provisioned):
    device = provisioned.start()
    create_module(device, "telemetry")
    before = module_key(device, "telemetry")
    assert device.stop() == 0
    (master,) = (device.root / "var/lib/aziot/keyd/keys").glob("aziotidentitydmasterid-*")
    master.unlink()
    device.start()
    answer = identityd(device, "GET", "identities/modules/telemetry?type=aziot")
    assert answer.status == 500
    assert not master.exists(), "a master key was made up while modules hold keys of the old one"
    status = device.until(lambda status: status["stuck"])
    assert "identityd module-keys push" in status["reason"]
    code, output = device.run("module-keys", "push")
    assert code == 0, output
    assert module_key(device, "telemetry")[0] == before[0], "the module was recreated"
    assert module_key(device, "telemetry")[1] != before[1]
    assert not device.status()["stuck"]


def test_from_dps_to_manual_the_credentials_of_dps_are_removed(make, cloud):
    device = make("by-hand").start()
    device.until_provisioned()
    assert device.certificate("aziot-dps-identity-cert").status == 200
    hub_key = device_key(cloud, "by-hand")
    cloud.options(identity_certs=False)
    reprovision(device)
    device.config.write_text(
        f'[provisioning]\nsource = "manual"\niothub_hostname = "{cloud.hub}"\ndevice_id = "by-hand"\n'
        f'[provisioning.authentication]\nmethod = "sas"\ndevice_id_pk = {{ value = "{hub_key}" }}\n'
        f'[identityd.tls]\nca_file = "{cloud.ca_file}"\n'
    )
    hang_up(device.process)
    device.until_record(event_is("configuration-changed"))
    device.until_provisioned()
    info = identityd(device, "GET", "identities/provisioning", version=NEW)
    assert info.json == {"source": "manual", "auth": "sas"}
    assert device.certificate("aziot-dps-identity-cert").status == 400
    assert device.certificate("aziot-dps-trust-bundle").status == 400
    spec = device_spec(device)
    assert (spec["hubName"], spec["auth"]["type"]) == (cloud.hub, "sas")
    assert create_module(device, "telemetry")["genId"]


def device_key(cloud: Cloud, device_id: str) -> str:
    from adapters.wire.sas import derive_group_key

    return base64.b64encode(derive_group_key(base64.b64decode(cloud.key), device_id)).decode()


# --- limits ------------------------------------------------------------------------------------------


def test_a_slow_hub_delays_nobody_else(provisioned, cloud):
    device = provisioned.start()
    create_module(device, "telemetry")
    cloud.faults({"on": "hub", "kind": "stall", "seconds": 30})

    def wait_for_the_hub() -> None:
        # The device is stopped before the hub has answered.
        with contextlib.suppress(OSError, http.client.HTTPException):
            identityd(device, "GET", "identities/modules/telemetry?type=aziot")

    stalled = threading.Thread(target=wait_for_the_hub, daemon=True)
    stalled.start()
    assert device_spec(device)["deviceId"] == "device"
    assert signed_by_device(device)
    assert device.certificate("aziot-dps-identity-cert").status == 200
    assert identityd(device, "GET", "trust-bundle").status == 200
    assert stalled.is_alive(), "the hub was not slow, so nothing was shown"


def test_e8_the_eleventh_stalled_request_of_a_uid_is_closed_without_an_answer(provisioned):
    device = provisioned.start()
    path = str(device.root / "run/aziot/keyd.sock")
    begun = b"POST /sign?api-version=2021-05-01 HTTP/1.1\r\nhost: keyd.sock\r\ncontent-length: 10\r\n\r\n{"
    stalled = []
    try:
        for _ in range(10):
            stalled.append(_connected(path))
            stalled[-1].sendall(begun)
        with _connected(path) as eleventh:
            eleventh.sendall(b"GET /key/a?api-version=2021-05-01 HTTP/1.1\r\nhost: keyd.sock\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert eleventh.recv(100) == b""
        if as_another_user():
            open_to_others(device.root)
            said = curl(Path(path), "http://keyd.sock/key/a?api-version=2021-05-01", uid=1000)
            assert said.status == 401, "another uid has its own ten"
        stalled.pop().close()
        answer = ask(Path(path), "/key/a?api-version=2021-05-01")
        assert answer.status == 400, "a request that has ended holds nothing"
    finally:
        for one in stalled:
            one.close()


def _connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(30)
    client.connect(path)
    return client


def test_the_sockets_have_the_modes_of_the_original(running):
    modes = {
        name: (running.root / f"run/aziot/{name}.sock").stat().st_mode & 0o777
        for name in ("certd", "keyd", "identityd", "control", "workload")
    }
    assert modes == dict.fromkeys(("certd", "keyd", "identityd", "control"), 0o660) | {"workload": 0o666}


def test_stopping_in_the_middle_of_a_reprovision_answers_its_caller(provisioned, cloud):
    device = provisioned.start()
    cloud.faults({"on": "register", "kind": "stall", "seconds": 30})
    outcome: list[object] = []

    def call() -> None:
        try:
            outcome.append(
                identityd(device, "POST", "identities/device/reprovision", {"type": "aziot"}).status
            )
        except (ConnectionError, OSError, http.client.HTTPException) as exc:
            outcome.append(exc)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    device.until_record(event_is("reprovision-requested"))
    device.process.send(signal.SIGTERM)
    assert device.process.wait() == 0
    caller.join(30)
    assert not caller.is_alive()
    assert outcome[0] != 204
