"""A device in a few lines, for tests that ask the stand-in cloud over real TLS."""

import base64
import json
import time

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from adapters.simulators.cloud import CloudOptions, run_cloud
from adapters.simulators.dps import DIALECTS, SCOPE_ID
from adapters.simulators.state import REGISTRATION_ID
from adapters.wire import sas
from adapters.wire.http_client import HttpsClient, TlsOptions

SEED = "2021-11-01-preview"
SUCCESSORS = ("2025-07-01-preview", "2026-11-01")


def csr(key=None, cn=REGISTRATION_ID):
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return key, base64.b64encode(request.public_bytes(Encoding.DER)).decode()


class Device:
    """A device in a few lines, and a view into the cloud."""

    def __init__(self, listening, root, version):
        self.endpoint = listening.endpoint
        self.listening = listening
        self.root = root
        self.version = version
        self.key = base64.b64decode((root / "cloud" / "enrolment.key").read_bytes())
        self.clients = []
        self.client = self.make_client()

    @property
    def hub(self):
        return self.endpoint.removeprefix("https://")

    def token(self):
        return sas.dps_token(SCOPE_ID, REGISTRATION_ID, self.key, int(time.time()) + 60)

    async def ask(self, method, path, body=None, *, headers=None, timeout_s=5.0, client=None):
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        given = {"Authorization": self.token(), "Content-Type": "application/json"}
        given |= headers or {}
        return await (client or self.client).request(
            method,
            self.endpoint + path,
            headers={name: value for name, value in given.items() if value},
            body=body,
            timeout_s=timeout_s,
        )

    def url(self, rest, version=None):
        version = version or self.version
        return f"/{SCOPE_ID}/registrations/{REGISTRATION_ID}{rest}?api-version={version}"

    async def register(self, *, with_csr=True, key=None, **asked):
        self.leaf_key, text = csr(key)
        body = {"registrationId": REGISTRATION_ID}
        member = DIALECTS[self.version].csr
        if with_csr and member:
            body[member] = text
        return await self.ask("PUT", self.url("/register"), body, **asked)

    async def poll(self, operation_id, **asked):
        return await self.ask("GET", self.url(f"/operations/{operation_id}"), **asked)

    async def provision(self, **registered):
        """The state an operation ends with."""
        answer = await self.register(**registered)
        assert answer.status == 202, answer.body
        operation_id = json.loads(answer.body)["operationId"]
        for _ in range(10):
            answer = await self.poll(operation_id)
            if answer.status == 200:
                return json.loads(answer.body)
        raise AssertionError(answer)

    async def ask_for(self, on, operation_id, *, timeout_s=5.0):
        """One request of the class a fault names."""
        if on == "register":
            return await self.register(timeout_s=timeout_s)
        if on == "operation":
            return await self.poll(operation_id, timeout_s=timeout_s)
        return await self.modules(token=True, timeout_s=timeout_s)

    async def modules(self, *, token=False, device=REGISTRATION_ID, **asked):
        headers = {"Authorization": "", "Content-Type": ""}
        if token:
            expiry = int(time.time()) + 60
            headers["Authorization"] = sas.hub_token(self.hub, device, self.key, expiry)
        path = f"/devices/{device}/modules?api-version=2017-11-08-preview"
        return await self.ask("GET", path, headers=headers, **asked)

    def with_certificate(self, chain_pem, key=None):
        path = self.root / f"leaf-{len(self.clients)}.key"
        path.write_bytes(
            (key or self.leaf_key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return self.make_client(client_chain_pem=chain_pem, client_key_path=str(path))

    def make_client(self, **options):
        client = HttpsClient(TlsOptions(ca_file=self.listening.ca_file, **options))
        self.clients.append(client)
        return client

    async def aclose(self):
        for client in self.clients:
            await client.aclose()

    async def log(self):
        answer = await self.ask("GET", "/_cloud/log", headers={"Authorization": "", "Content-Type": ""})
        return json.loads(answer.body)["entries"]

    async def faults(self, *faults):
        answer = await self.ask("PUT", "/_cloud/faults", {"fault": list(faults)})
        assert answer.status == 204, answer.body


def run(test, root, *, version=SEED, **options):
    """Run ``test(device)`` against a cloud below ``root``; its result is returned."""
    results = []

    async def main():
        heard, told = trio.open_memory_channel(1)
        with trio.fail_after(9):
            async with trio.open_nursery() as nursery:

                async def cloud():
                    await run_cloud(CloudOptions(root=str(root), **options), on_listening=heard.send_nowait)

                nursery.start_soon(cloud)
                device = Device(await told.receive(), root, version)
                try:
                    results.append(await test(device))
                finally:
                    await device.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)
    return results[0]


def chain_of(state, version=SEED):
    """The issued certificates, as the dialect encodes them."""
    if version == SEED:
        return x509.load_pem_x509_certificates(state["issuedClientCertificate"].encode())
    parts = state["issuedCertificateChain"]
    return [x509.load_der_x509_certificate(base64.b64decode(part, validate=True)) for part in parts]


def as_pem(chain):
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def faulty(tmp_path, fault, *, version=SEED, **options):
    """The registration state and log under one fault."""

    async def test(device):
        await device.faults(fault)
        return (await device.provision())["registrationState"], await device.log(), device.leaf_key

    return run(test, tmp_path, version=version, **options)
