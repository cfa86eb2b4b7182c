"""The stand-in cloud byte for byte: the documents our own client is tested against, from the other side.

What differs from run to run (ids, instants, certificates, the port) is masked; every other byte counts.
"""

import json
import re

import pytest

from adapters.simulators.state import REGISTRATION_ID
from tests.adapters.cloud_device import SEED, SUCCESSORS, csr
from tests.adapters.test_simulator import run

_CERTIFICATE = r'"(?:MII[^"]*|-----BEGIN CERTIFICATE-----\\n[^"]*-----END CERTIFICATE-----\\n)"'
_MASKS = (
    (r'"5\.[0-9a-f]{16}\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"', '"OPERATION"'),
    (r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z"', '"INSTANT"'),
    (r'"localhost:\d+"', '"HUB"'),
    (r'"etag":"[A-Za-z0-9+/=]+"', '"etag":"ETAG"'),
    (_CERTIFICATE, '"CERTIFICATE"'),
)

ACCEPTED = (
    '{"operationId":"OPERATION","status":"assigning",'
    '"registrationState":{"registrationId":"demo-device","status":"assigning"}}'
)
ASSIGNED = (
    '{"operationId":"OPERATION","status":"assigned","registrationState":{"registrationId":"demo-device",'
    '"createdDateTimeUtc":"INSTANT","assignedHub":"HUB","deviceId":"demo-device","status":"assigned",'
    '"substatus":"initialAssignment","lastUpdatedDateTimeUtc":"INSTANT","etag":"ETAG",'
)
SEED_MEMBERS = (
    '"issuedClientCertificate":"CERTIFICATE","trustBundle":{"certificates":[{"certificate":"CERTIFICATE"}]}}}'
)
SUCCESSOR_MEMBERS = '"issuedCertificateChain":["CERTIFICATE","CERTIFICATE","CERTIFICATE"]}}'
REFUSED = (
    '{"operationId":"OPERATION","status":"failed","registrationState":{"registrationId":"demo-device",'
    '"status":"failed","lastUpdatedDateTimeUtc":"INSTANT","errorCode":400000,'
    '"errorMessage":"Device sent CSR but it is not configured in the service."}}'
)
MEMBER = {SEED: "clientCertificateCsr"} | dict.fromkeys(SUCCESSORS, "csr")


def masked(body):
    text = body.decode()
    for pattern, name in _MASKS:
        text = re.sub(pattern, name, text)
    return text


def exchange(root, version, **options):
    """The request as documented, byte for byte, and both answers."""

    async def test(device):
        device.leaf_key, request = csr()
        body = f'{{"registrationId":"{REGISTRATION_ID}","{MEMBER[version]}":"{request}"}}'.encode()
        path = f"/0ne00STANDIN/registrations/{REGISTRATION_ID}"
        registered = await device.ask("PUT", f"{path}/register?api-version={version}", body)
        operation = json.loads(registered.body)["operationId"]
        final = await device.poll(operation)
        return registered, final

    registered, final = run(test, root, version=version, assigning=0, **options)
    assert (registered.status, final.status) == (202, 200)
    return masked(registered.body), masked(final.body)


@pytest.mark.parametrize("version", [SEED, *SUCCESSORS])
def test_golden_assignment(tmp_path, version):
    bundle = tmp_path / "bundle.pem"
    run(copy_root_to(bundle), tmp_path)
    members = SEED_MEMBERS if version == SEED else SUCCESSOR_MEMBERS
    assert exchange(tmp_path, version, bundle=str(bundle)) == (ACCEPTED, ASSIGNED + members)


def test_golden_csr_refusal(tmp_path):
    assert exchange(tmp_path, SEED, identity_certs=False) == (ACCEPTED, REFUSED)


def copy_root_to(path):
    async def test(device):
        path.write_bytes((device.root / "cloud" / "ca.pem").read_bytes())

    return test
