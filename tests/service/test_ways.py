"""Other ways to the cloud: X.509 attestation, a proxy, other trust roots, every dialect, a payload."""

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time

import pytest
import trustme
from cryptography import x509

from adapters.wire import sas
from tests.service.device import SCOPE_ID, ask, event_is, hang_up

SECRET_PAYLOAD = {"modelId": "dtmi:com:example:thermostat;1", "remark": "payload-that-stays-home"}


def client_credential(cloud, device):
    """An enrolled client certificate for the device; its configuration."""
    authority = trustme.CA()
    issued = authority.issue_cert(common_name=device.name)
    certificate, key = device.root / "client.pem", device.root / "client.key"
    chain = issued.cert_chain_pems[0].bytes()
    certificate.write_bytes(chain)
    key.write_bytes(issued.private_key_pem.bytes())
    (cloud.root / "cloud/clients" / f"{device.name}.pem").write_bytes(chain)
    return f'method = "x509"\nidentity_cert = "file://{certificate}"\nidentity_pk = "file://{key}"'


@pytest.mark.parametrize("issues", [True, False], ids=["issued", "certificate-less"])
def test_x509_attestation(make, cloud, issues):
    cloud.options(identity_certs=issues)
    device = make("x509-device")
    device.configure(attestation=client_credential(cloud, device)).start()
    status = device.until_provisioned()
    # The certificate's CN is the registration id where none is configured.
    assert status["assignment"]["device_id"] == "x509-device"
    assert status["onboarding"]["method"] == "x509"
    assert status["onboarding"]["not_after"]
    assert status["credential"]["source"] == ("issued" if issues else "configured")
    assert status["credential"]["proven"], "the hub was asked with the credential that is in use"
    assert (device.pair() is not None) == issues
    asked = [entry for entry in cloud.log() if "x509-device" in entry["path"]]
    assert {entry["client"] for entry in asked} == {"x509"}


def test_an_unreadable_client_key_is_told_and_does_not_stop_the_service(make, cloud):
    device = make("x509-device")
    device.configure(attestation=client_credential(cloud, device))
    (device.root / "client.key").unlink()
    device.start()
    device.until(lambda status: status["attempt"] and status["attempt"]["last_error"])
    status = device.status()
    assert status["stuck"]
    assert "client.key" in status["reason"] + status["attempt"]["last_error"]["message"]


def test_an_onboarding_certificate_that_cannot_be_read_changes_nothing(make, cloud):
    """A file system that is mounted late is no new configuration; a new certificate is one."""
    device = make("x509-device")
    device.configure(attestation=client_credential(cloud, device)).start()
    device.until_provisioned()
    device.stop()
    before, certificate = device.pair(), device.root / "client.pem"
    content = certificate.read_bytes()
    certificate.unlink()

    device.start()
    status = device.until_provisioned()
    assert "client.pem" in str(status["degraded"])
    assert status["onboarding"]["not_after"], "as far as is known"
    hang_up(device.process)
    changed = device.until_record(event_is("configuration-changed"))
    assert changed["state"] == "Provisioned"
    device.process.until_line("onboarding credential: cannot read")
    certificate.write_bytes(content)
    hang_up(device.process)
    changed = device.until_record(event_is("configuration-changed"), changed["sequence"] + 1)
    assert changed["state"] == "Provisioned"
    assert device.pair() == before

    client_credential(cloud, device)
    hang_up(device.process)
    changed = device.until_record(event_is("configuration-changed"), changed["sequence"] + 1)
    assert changed["state"] == "Reprovisioning"
    device.until_provisioned()
    assert device.pair().generation > before.generation


@pytest.mark.parametrize("version", ["2025-07-01-preview", "2026-11-01"])
def test_dialects(make, cloud, version):
    device = make("dialect-device").configure(identityd=f'api_version = "{version}"').start()
    cloud.bundle(cloud.ca_file.read_bytes())
    status = device.until_provisioned()
    assert status["credential"]["source"] == "issued"
    assert len(x509.load_pem_x509_certificates(device.pair().chain_pem)) >= 2
    assert status["trust_bundle"] is None, "these dialects have none"
    device.attempt("renew")
    assert device.pair().generation == 2
    asked = [entry["path"] for entry in cloud.log() if "dialect-device/" in entry["path"]]
    assert any(path.endswith(f"api-version={version}") for path in asked)


def test_a_custom_payload(make, cloud, place):
    payload = place / "payload.json"
    payload.write_text(json.dumps(SECRET_PAYLOAD))
    device = make("payload-device")
    device.configure(provisioning=f'payload = {{ uri = "file://{payload}" }}').start()
    device.until_provisioned()
    assert looked_up(cloud, device)["payload"]["request_payload"] == SECRET_PAYLOAD
    # Read again each time.
    payload.write_text(json.dumps({"changed": True}))
    device.attempt("renew")
    assert looked_up(cloud, device)["payload"]["request_payload"] == {"changed": True}
    payload.write_text("{not json")
    device.attempt("renew")
    error = device.status()["attempt"]["last_error"]
    assert (error["class"], error["code"]) == ("operator", "payload-invalid")
    assert device.pair().generation == 2
    device.stop()
    assert b"payload-that-stays-home" not in device.journal.read_bytes()
    assert "payload-that-stays-home" not in device.log


def looked_up(cloud, device):
    """What DPS knows of the registration."""
    token = sas.dps_token(SCOPE_ID, device.name, base64.b64decode(cloud.key), int(time.time()) + 60)
    context = ssl.create_default_context(cafile=str(cloud.ca_file))
    connection = http.client.HTTPSConnection("localhost", cloud.port, context=context)
    with contextlib.closing(connection):
        connection.request(
            "POST",
            f"/{SCOPE_ID}/registrations/{device.name}?api-version=2021-11-01-preview",
            json.dumps({"registrationId": device.name}),
            {"Authorization": token, "Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        assert answer.status == 200
        return json.loads(answer.read())


def test_ssl_cert_file(make, cloud):
    device = make().configure(ca_file=False).start(SSL_CERT_FILE=str(cloud.ca_file))
    assert device.until_provisioned()["credential"]["proven"]


def test_tls_keys_are_never_written_down(make, cloud, place):
    device = make().start(SSLKEYLOGFILE=str(place / "keys.log"))
    device.until_provisioned()
    assert not (place / "keys.log").exists()


# --- a proxy -----------------------------------------------------------------------------------------


class Proxy:
    """A CONNECT proxy. Behind it `dps.test` is the cloud, with a certificate of its own for that name."""

    def __init__(self, cloud, authority):
        self.asked = []
        self._cloud = cloud
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("dps.test").configure_cert(self._server)
        self._client = ssl.create_default_context(cafile=str(cloud.ca_file))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near):
        with contextlib.suppress(OSError), near:
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(4096)
            self.asked.append(head.decode())
            near.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            far = socket.create_connection(("127.0.0.1", self._cloud.port))
            with (
                self._server.wrap_socket(near, server_side=True) as device_side,
                self._client.wrap_socket(far, server_hostname="localhost") as cloud_side,
            ):
                back = threading.Thread(target=_copy, args=(cloud_side, device_side), daemon=True)
                back.start()
                _copy(device_side, cloud_side)
                back.join()

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or the waiting thread would take one more
        self._listener.close()


def _copy(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def test_through_a_proxy(make, cloud, place):
    authority = trustme.CA()
    both = place / "both.pem"
    both.write_bytes(cloud.ca_file.read_bytes() + authority.cert_pem.bytes())
    proxy = Proxy(cloud, authority)
    try:
        device = make().configure(
            ca_file=False, more=f'[identityd.tls]\nca_file = "{both}"', top="cloud_retries = 0"
        )
        device.config.write_text(device.config.read_text().replace(cloud.endpoint, "https://dps.test"))
        device.start(HTTPS_PROXY=f"http://user:proxy-password@127.0.0.1:{proxy.port}")
        device.until_provisioned()
        assert {head.splitlines()[0] for head in proxy.asked} == {"CONNECT dps.test:443 HTTP/1.1"}
        assert all("proxy-authorization" in head.lower() for head in proxy.asked)

        proxy.close()
        device.attempt("renew")
        error = device.status()["attempt"]["last_error"]
        assert error["class"] == "retry"
        assert "proxy" in error["message"] or str(proxy.port) in error["message"]
        assert "proxy-password" not in device.log + json.dumps(device.status())
        assert b"proxy-password" not in device.journal.read_bytes()
    finally:
        proxy.close()


def test_a_configured_key_file_instead_of_a_value(make, cloud, place):
    key = place / "symmetric.key"
    key.write_bytes(base64.b64decode(cloud.key))
    device = make().configure(
        attestation='method = "symmetric_key"\nregistration_id = "device"\n'
        f'symmetric_key = {{ uri = "file://{key}" }}'
    )
    device.start().until_provisioned()
    assert ask(device.control, "/v1/status").json["onboarding"]["method"] == "symmetric_key"
    assert not any(map(event_is("registration-failed"), device.records()))
