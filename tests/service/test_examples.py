"""Every worked example of the wire reference as a ``curl`` command against real processes.

E1 to E41 are its numbers. What is fixed there is fixed here, down to the text; where ours is better on
purpose (docs/reference/compatibility.md) the row says so.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.service.curl import Said, as_another_user, curl
from tests.service.device import Cloud, Device, short_root
from tests.service.peers import authority, csr_pem

CERTD, KEYD = "api-version=2020-09-01", "api-version=2021-05-01"
OLD, NEW = "api-version=2020-09-01", "api-version=2021-12-01"
NOT_FOUND = {"message": 'parameter "id" has an invalid value\ncaused by: not found'}
INVALID = {"message": "a parameter has an invalid value"}
HK1 = (
    "sr=eyJrZXlfaWQiOnsiS2V5IjoiazEifSwibm9uY2UiOiJwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFX"
    "bHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwUT09In0="
    "&sig=SihAIaCpmrp95Wym8i8+STvXfI+SuVjwhUYUw2FviYU="
)
DEVICE_ID_HANDLE = (
    "sr=eyJrZXlfaWQiOnsiS2V5UGFpciI6ImRldmljZS1pZCJ9LCJub25jZSI6InBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVds"
    "cGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBRPT0ifQ=="
    "&sig=xTnmT4yWmZrMgFYPlbwR+Vo32/VTDrfAvIOlBGb0HRU="
)
DAEMON, HOST_PROCESS, LOCAL_PROCESS, STRANGER = 1001, 1003, 1004, 4242

needs_root = pytest.mark.skipif(not as_another_user(), reason="becoming another user needs root")


# --- devices -----------------------------------------------------------------------------------------


def drop_in(root: Path, service: str, text: str) -> None:
    path = root / "etc/aziot" / service / "config.d" / "principals.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def open_to_others(root: Path) -> None:
    """Other users must be able to walk to the sockets."""
    for path in (root, *root.parents):
        if path in (Path("/dev/shm"), Path("/tmp")):
            break
        path.chmod(0o755)


class Bench(NamedTuple):
    """A device without a cloud: keyd and certd by themselves, with the vectors' keys."""

    device: Device
    ca_pem: str

    def __call__(self, service: str, url: str, **given: Any) -> Said:
        return curl(self.device.root / f"run/aziot/{service}.sock", url, **given)

    def keyd(self, path: str, body: object = None, **given: Any) -> Said:
        data = None if body is None else json.dumps(body)
        return self("keyd", f"http://keyd.sock/{path}?{KEYD}", data=data, **given)

    def certd(self, path: str, body: object = None, **given: Any) -> Said:
        data = None if body is None else json.dumps(body)
        return self("certd", f"http://certd.sock/{path}?{CERTD}", data=data, **given)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with short_root() as root:
        device = Device(root / "b", None)
        device.config.parent.mkdir(parents=True)
        device.config.write_text('[provisioning]\nsource = "none"\n')
        keys = device.root / "var/lib/aziot/keyd/keys"
        keys.mkdir(parents=True, mode=0o700)
        name = "handlevalidationkey-40f1ca41fe8b50f53e10f3e3a580dcae24087f37aa498ba9903f2612b03e90ba.key"
        (keys / name).write_bytes(bytes(range(32)))
        open_to_others(device.root)
        device.start()
        try:
            made = Bench(device, authority())
            imported = made.keyd("key", {"keyId": "k1", "keyBytes": "ER" * 21 + "E=", "usage": "derive,sign"})
            assert imported.status == 200, imported
            yield made
        finally:
            device.kill()


@pytest.fixture(scope="module")
def plant(cloud: Cloud) -> Iterator[Device]:
    """A provisioned device with the principals of the reference."""
    with short_root() as root:
        device = Device(root / "p", cloud, "device01").configure(
            more='[localid]\ndomain = "plant.example"\n'
            '[cert_issuance.local_ca]\ncert = { method = "self_signed", common_name = "plant CA" }'
        )
        drop_in(
            device.root,
            "identityd",
            f'[[principal]]\nuid = {DAEMON}\nname = "hostdaemon1"\n'
            f'[[principal]]\nuid = {HOST_PROCESS}\nname = "hostprocess2"\nidtype = ["module", "local"]\n'
            'localid = { type = "x509", attributes = "server" }\n'
            f'[[principal]]\nuid = {LOCAL_PROCESS}\nname = "local3"\nidtype = ["local"]\n',
        )
        drop_in(
            device.root,
            "certd",
            "[cert_issuance]\n"
            'web = { method = "local_ca", expiry_days = 20 }\n'
            'hostprocess2 = { method = "local_ca" }\n',
        )
        open_to_others(device.root)
        device.start()
        try:
            device.until_provisioned()
            yield device
        finally:
            device.kill()


def identityd(device: Device, method: str, path: str, version: str = OLD, **given: Any) -> Said:
    url = f"http://identityd.sock/{path}{'&' if '?' in path else '?'}{version}"
    return curl(device.root / "run/aziot/identityd.sock", url, method=method, **given)


# --- 9.1 the pipeline --------------------------------------------------------------------------------

PIPELINE = [
    ("E1", "certd", "certificates/x", {}, 400, {"message": "api-version not specified"}),
    ("E2", "certd", f"nope?{KEYD}", {}, 400, {"message": 'invalid api-version "2021-05-01"'}),
    # one segment is the documented short form of a certificate here, so the unknown path has two
    ("E3", "certd", f"nope/nope?{CERTD}", {}, 404, {"message": "not found"}),
    ("E3", "certd", f"certificates/x/?{CERTD}", {}, 404, {"message": "not found"}),
    ("E3", "identityd", f"identities/provisioning?{OLD}", {}, 404, {"message": "not found"}),
    ("E4", "certd", f"certificates/x?api-version=bogus&{CERTD}", {}, 400, NOT_FOUND),
    ("E5", "certd", f"certificates/x?{CERTD}", {"method": "PATCH"}, 400, {"message": "method not allowed"}),
    ("E5", "certd", f"certificates?{CERTD}", {"method": "GET"}, 400, {"message": "method not allowed"}),
    ("E5", "certd", f"certificates?{CERTD}", {"method": "PUT"}, 422, None),
    (
        "E6",
        "certd",
        f"certificates/x?{CERTD}",
        {"method": "PUT", "kind": "text/plain", "data": "x"},
        415,
        {"message": "request body must be application/json"},
    ),
    (
        "E6",
        "keyd",
        f"keypair?{KEYD}",
        {"kind": "text/plain", "data": '{"keyId":"a"}'},
        400,
        {"message": "missing request body"},
    ),
    (
        "E6",
        "keyd",
        f"keypair?{KEYD}",
        {"kind": "application/json; charset=utf-8", "data": '{"keyId":"a"}'},
        200,
        None,
    ),
    ("E7", "keyd", f"key?{KEYD}", {"data": '{"keyId":"a"}'}, 422, None),
]


@pytest.mark.parametrize(
    ("service", "target", "given", "status", "expected"),
    [pytest.param(*row[1:], id=f"{row[0]}-{i}") for i, row in enumerate(PIPELINE)],
)
def test_pipeline(bench, service, target, given, status, expected):
    said = bench(service, f"http://{service}.sock/{target}", **given)
    assert said.status == status, said
    if expected is not None:
        assert said.json == expected
    elif status >= 400:
        assert list(said.json) == ["message"]
        assert said.json["message"]


def test_e7_names_the_field(bench):
    assert "usage" in bench.keyd("key", {"keyId": "a"}).json["message"]


# --- 9.2 certd ---------------------------------------------------------------------------------------


def test_e9_import_and_read_back(bench):
    put = bench.certd("certificates/my-ca", {"pem": bench.ca_pem}, method="PUT")
    assert (put.status, put.json) == (201, {"pem": bench.ca_pem})
    got = bench.certd("certificates/my-ca")
    assert (got.status, got.json) == (200, {"pem": bench.ca_pem})


def test_e10_the_trust_bundle_by_both_paths(plant, cloud):
    bundle = (cloud.root / "cloud/ca.pem").read_bytes()
    cloud.bundle(bundle)
    assert identityd(plant, "POST", "identities/device/reprovision", data='{"type":"aziot"}').status == 204
    socket = plant.root / "run/aziot/certd.sock"
    long = curl(socket, f"http://localhost/certificates/aziot-dps-trust-bundle?{CERTD}")
    short = curl(socket, f"http://localhost/aziot-dps-trust-bundle?{CERTD}")
    assert long == short
    assert (long.status, x509.load_pem_x509_certificates(long.json["pem"].encode())) == (
        200,
        x509.load_pem_x509_certificates(bundle),
    )


def test_e11_no_bundle(bench):
    said = bench.certd("certificates/aziot-dps-trust-bundle")
    assert (said.status, said.json) == (400, NOT_FOUND)


@needs_root
def test_e12_writing_is_guarded_and_reading_is_not(bench):
    assert bench.certd("certificates/my-ca", {"pem": bench.ca_pem}, method="PUT").status == 201
    said = bench.certd("certificates/my-ca", method="DELETE", uid=1000)
    message = "user 1000 is not authorized to modify the cert my-ca"
    assert (said.status, said.json) == (401, {"message": message})
    assert bench.certd("certificates/my-ca", uid=1000).status == 200


def test_e13_deleting_is_idempotent(bench):
    said = bench.certd("certificates/does-not-exist", method="DELETE")
    assert (said.status, said.body) == (204, b"")


def test_e14_an_id_with_a_slash(bench):
    assert bench.certd("certificates/a%20b%2Fc", {"pem": bench.ca_pem}, method="PUT").status == 201
    assert bench.certd("certificates/a%20b%2Fc").json == {"pem": bench.ca_pem}


def test_e15_created_with_an_explicit_issuer(bench):
    handle = bench.keyd("keypair", {"keyId": "my-ca-key"}).json["keyHandle"]
    root = bench.certd("certificates/self", {"pem": bench.ca_pem}, method="PUT")
    assert root.status == 201
    ca = certificate_for_key_of_keyd(bench, handle, "my-ca-key")
    assert bench.certd("certificates/issuing-ca", {"pem": ca}, method="PUT").status == 201
    issuer = {"certId": "issuing-ca", "privateKeyHandle": handle}
    said = bench.certd("certificates", {"certId": "leaf", "csr": csr_pem("leaf.example"), "issuer": issuer})
    assert said.status == 201, said
    leaf, *chain = x509.load_pem_x509_certificates(said.json["pem"].encode())
    assert chain == x509.load_pem_x509_certificates(ca.encode())
    leaf.verify_directly_issued_by(chain[0])
    assert 0 < leaf.serial_number < 2**128
    assert bench.certd("certificates/leaf").json == said.json


def certificate_for_key_of_keyd(bench: Bench, handle: str, name: str) -> str:
    """A CA certificate for a key that only keyd has: keyd signs it, through its socket."""
    point = base64.b64decode(bench.keyd("parameters/ec-point", {"keyHandle": handle}).json["value"])
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)

    class Remote(ec.EllipticCurvePrivateKey):
        curve = public.curve
        key_size = 256

        def __copy__(self):
            return self

        def __deepcopy__(self, memo):
            return self

        def exchange(self, algorithm, peer_public_key):
            raise NotImplementedError

        def public_key(self):
            return public

        def sign(self, data, signature_algorithm):
            body = {
                "keyHandle": handle,
                "algorithm": "ECDSA",
                "parameters": {"digest": base64.b64encode(hashlib.sha256(data).digest()).decode()},
            }
            return base64.b64decode(bench.keyd("sign", body).json["signature"])

        def private_numbers(self):
            raise NotImplementedError

        def private_bytes(self, encoding, format, encryption_algorithm):  # noqa: A002
            raise NotImplementedError

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    root = x509.load_pem_x509_certificate(bench.ca_pem.encode())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return builder.sign(Remote(), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def test_e16_refusals_of_creation(bench):
    good = csr_pem("x.example")
    without_rule = bench.certd("certificates", {"certId": "norule", "csr": good})
    assert (without_rule.status, without_rule.json) == (500, {"message": "internal error"})
    bad = bench.certd("certificates", {"certId": "norule", "csr": "hello"})
    assert bad.status == 400
    assert bad.json["message"].startswith('parameter "csr" has an invalid value\ncaused by: ')
    nobody = {"certId": "nope", "privateKeyHandle": "h"}
    missing = bench.certd("certificates", {"certId": "x", "csr": good, "issuer": nobody})
    message = 'parameter "issuer.certId" has an invalid value\ncaused by: not found'
    assert (missing.status, missing.json) == (400, {"message": message})


@pytest.mark.parametrize(
    ("certificate_id", "file"),
    [
        ("device-id", "deviceid-bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655"),
        ("%C3%A4%2Fb%20c", "bc-c9bcc6f5720b5f900029eec074c815aa9eb14d8e52ad5f3448bb1debe30ca9ee"),
    ],
)
def test_e17_file_names(bench, certificate_id, file):
    assert bench.certd(f"certificates/{certificate_id}", {"pem": bench.ca_pem}, method="PUT").status == 201
    path = bench.device.root / "var/lib/aziot/certd/certs" / f"{file}.cer"
    assert path.read_text() == bench.ca_pem


# --- 9.3 keyd ----------------------------------------------------------------------------------------


def test_e18_and_e19_a_key_pair_and_the_vector_of_its_handle(bench):
    made = bench.keyd("keypair", {"keyId": "device-id", "preferredAlgorithms": "ec-p256:rsa-4096:*"})
    assert made.status == 200
    assert re.fullmatch(r"sr=[A-Za-z0-9+/]+=*&sig=[A-Za-z0-9+/]+=*", made.json["keyHandle"])
    points = [
        bench.keyd("parameters/ec-point", {"keyHandle": handle}).json
        for handle in (made.json["keyHandle"], DEVICE_ID_HANDLE)
    ]
    assert points[0] == points[1]


def test_e21_import_load_and_miss(bench):
    first = bench.keyd("key/k1")
    second = bench.keyd("key/k1")
    assert first.status == second.status == 200
    assert first.json != second.json
    missing = bench.keyd("key/nope")
    assert (missing.status, missing.json) == (400, INVALID)


HELLO = "aGVsbG8="
AAD = {"iv": "MDEyMzQ1Njc4OWFi", "aad": "YWFk"}


def hmac_of(handle: str) -> dict[str, Any]:
    return {"keyHandle": handle, "algorithm": "HMAC-SHA256", "parameters": {"message": HELLO}}


def test_e20_and_e22_a_handle_from_elsewhere_signs(bench):
    said = bench.keyd("sign", hmac_of(HK1))
    assert (said.status, said.json) == (200, {"signature": "ev4PeGwuFre5HZY7JRFJY59b3sAbByTQUQVAnK982Ac="})


def derived(bench: Bench) -> str:
    said = bench.keyd(
        "derivedkey", {"baseKeyHandle": HK1, "derivationData": "bW9kdWxlMDE6MTIzNDU6cHJpbWFyeQ=="}
    )
    assert said.status == 200
    handle: str = said.json["keyHandle"]
    return handle


def test_e23_derived_keys(bench):
    handle = derived(bench)
    request = json.loads(base64.b64decode(handle.split("&")[0].removeprefix("sr=")))
    assert request["key_id"] == {"Derived": [HK1, list(b"module01:12345:primary")]}
    exported = bench.keyd("derivedkey/export", {"keyHandle": handle})
    assert exported.json == {"key": "p+jYwXzt9ph7oXirKJ1syube2BZvI8GHK1i26HtP1Zw="}
    assert bench.keyd("sign", hmac_of(handle)).json == {
        "signature": "T4+xXQ4SKQxq0FLnTu4xqxx3kzccDQHkJ/4pyD1qsWk="
    }


def test_e24_handles_that_do_not_do(bench):
    prefix = 'parameter "handle" has an invalid value\ncaused by: '
    nested = bench.keyd("derivedkey", {"baseKeyHandle": derived(bench), "derivationData": "AA=="})
    assert nested.status == 400
    assert nested.json["message"].startswith(prefix + "nested derived keys are not supported")
    wrong = bench.keyd("derivedkey/export", {"keyHandle": HK1})
    assert (wrong.status, wrong.json) == (400, {"message": prefix + "handle is not for a derived key"})
    forged = bench.keyd("parameters/algorithm", {"keyHandle": "sr=e30=&sig=AAAA"})
    assert (forged.status, forged.json) == (400, {"message": prefix + "invalid handle"})


def test_e25_authenticated_encryption(bench):
    def ask(path: str, handle: str = HK1, **given: Any) -> Said:
        return bench.keyd(path, {"keyHandle": handle, "algorithm": "AEAD", "parameters": AAD, **given})

    sealed = "AhQN29DUDBq8Lc5o2yxHjYortaHzqw=="
    assert ask("encrypt", plaintext=HELLO).json == {"ciphertext": sealed}
    for text in (sealed, "AQwavC3OaNssR42KK7Wh86sUDdvQ1A=="):
        assert ask("decrypt", ciphertext=text).json == {"plaintext": HELLO}
    assert ask("encrypt", derived(bench), plaintext=HELLO).json == {
        "ciphertext": "AqU1qClAcGy8ZjSHJm5pmXjgYtrH/w=="
    }
    wrong = ask("decrypt", ciphertext=sealed, parameters={**AAD, "aad": "AAAA"})
    assert (wrong.status, wrong.json) == (500, {"message": "internal error"})
    unknown = base64.b64encode(b"\3" + base64.b64decode(sealed)[1:]).decode()
    assert ask("decrypt", ciphertext=unknown).status == 400
    assert ask("decrypt", ciphertext=base64.b64encode(b"\2" + b"x" * 15).decode()).status == 400


def ecdsa_of(handle: str, algorithm: str = "ECDSA") -> dict[str, Any]:
    digest = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="
    return {"keyHandle": handle, "algorithm": algorithm, "parameters": {"digest": digest}}


def test_e26_ecdsa(bench):
    handle = bench.keyd("keypair", {"keyId": "e26"}).json["keyHandle"]
    said = bench.keyd("sign", ecdsa_of(handle))
    assert said.status == 200
    point = base64.b64decode(bench.keyd("parameters/ec-point", {"keyHandle": handle}).json["value"])
    ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point).verify(
        base64.b64decode(said.json["signature"]),
        hashlib.sha256(b"hello").digest(),
        ec.ECDSA(utils.Prehashed(hashes.SHA256())),
    )
    symmetric = bench.keyd("sign", ecdsa_of(HK1))
    message = (
        'parameter "mechanism" has an invalid value\ncaused by: mechanism cannot be used with this key type'
    )
    assert (symmetric.status, symmetric.json) == (400, {"message": message})
    other = bench.keyd("keypair", {"keyId": "e27", "preferredAlgorithms": "rsa-2048"}).json["keyHandle"]
    assert (bench.keyd("sign", ecdsa_of(other)).status, bench.keyd("sign", ecdsa_of(other)).json) == (
        400,
        INVALID,
    )
    assert bench.keyd("sign", ecdsa_of(handle, "RSA-PSS")).status == 422


def test_e27_rsa_signatures_through_encrypt(bench):
    handle = bench.keyd("keypair", {"keyId": "e27", "preferredAlgorithms": "rsa-2048"}).json["keyHandle"]
    digest = hashlib.sha256(b"message").digest()
    info = base64.b64encode(bytes.fromhex("3031300d060960864801650304020105000420") + digest).decode()
    said = bench.keyd("encrypt", {"keyHandle": handle, "algorithm": "RSA-PKCS1", "plaintext": info})
    assert said.status == 200

    def number(name: str) -> int:
        value = bench.keyd(f"parameters/{name}", {"keyHandle": handle}).json["value"]
        return int.from_bytes(base64.b64decode(value))

    public = rsa.RSAPublicNumbers(number("rsa-exponent"), number("rsa-modulus")).public_key()
    signature = base64.b64decode(said.json["ciphertext"])
    public.verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())
    block = base64.b64encode(b"\0" + b"x" * 255).decode()
    bare = bench.keyd("encrypt", {"keyHandle": handle, "algorithm": "RSA-NO-PADDING", "plaintext": block})
    assert bare.status == 200
    raised = pow(int.from_bytes(base64.b64decode(bare.json["ciphertext"])), 65537, number("rsa-modulus"))
    assert raised == int.from_bytes(b"\0" + b"x" * 255)
    back = bench.keyd("decrypt", {"keyHandle": handle, "algorithm": "RSA-PKCS1", "ciphertext": info})
    assert back.status == 400
    assert back.json["message"].startswith('parameter "mechanism" has an invalid value')


def test_e28_public_parameters(bench):
    one = ec.derive_private_key(1, ec.SECP256R1())
    from tests.service.peers import key_pem  # the only user

    name = f"one-{hashlib.sha256(b'one').hexdigest()}.key"
    (bench.device.root / "var/lib/aziot/keyd/keys" / name).write_bytes(key_pem(one))
    handle = bench.keyd("keypair/one").json["keyHandle"]
    values = {
        name: bench.keyd(f"parameters/{name}", {"keyHandle": handle}).json["value"]
        for name in ("algorithm", "ec-curve-oid", "ec-point")
    }
    assert values == {
        "algorithm": "ECDSA",
        "ec-curve-oid": "BggqhkjOPQMBBw==",
        "ec-point": "A2sX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKW",
    }
    other = bench.keyd("keypair", {"keyId": "e27", "preferredAlgorithms": "rsa-2048"}).json["keyHandle"]
    assert bench.keyd("parameters/rsa-exponent", {"keyHandle": other}).json == {"value": "AQAB"}
    wrong = bench.keyd("parameters/rsa-exponent", {"keyHandle": handle})
    assert (wrong.status, wrong.json) == (400, INVALID)


def test_e29_move_and_delete(bench):
    handle = bench.keyd("keypair", {"keyId": "e29-temp"}).json["keyHandle"]
    point = bench.keyd("parameters/ec-point", {"keyHandle": handle}).json
    moved = bench.keyd("keypair/e29", {"from": "e29-temp"})
    assert (moved.status, moved.body) == (204, b"")
    handle = bench.keyd("keypair/e29").json["keyHandle"]
    assert bench.keyd("parameters/ec-point", {"keyHandle": handle}).json == point
    same = bench.keyd("keypair/e29", {"from": "e29"})
    message = "source and destination for move are identical"
    assert (same.status, same.json) == (400, {"message": message})
    for _ in range(2):
        assert bench.keyd("keypair", {"keyHandle": handle}, method="DELETE").status == 204
    wrong = bench.keyd("keypair", {"keyHandle": HK1}, method="DELETE")
    assert wrong.status == 400
    assert wrong.json["message"].endswith("caused by: handle is not for a key pair")


@needs_root
def test_e30_only_ids_are_guarded(bench):
    named = bench.keyd("key/k1", uid=1000)
    message = "user 1000 is not authorized to access the key k1"
    assert (named.status, named.json) == (401, {"message": message})
    assert bench.keyd("sign", hmac_of(HK1), uid=1000).status == 200


def test_e31_file_names(bench, plant):
    master = "aziotidentitydmasterid-91b92c2c06a5a5dda5fbc9c48b4d428d930b9c1b8b2956a1044ccbc7a266afc9.key"
    identity = "aziotdpsidentitycertkey-40cd8def7d390781e92aa1e0ab6b65513ba91a3fb5644738cee9f1aa5e61732f.key"
    assert bench.keyd("keypair", {"keyId": "device-id"}).status == 200
    device_id = "deviceid-bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655.key"
    assert (bench.device.root / "var/lib/aziot/keyd/keys" / device_id).exists()
    assert (
        identityd(plant, "POST", "identities/modules", data='{"type":"aziot","moduleId":"e31"}').status == 200
    )
    assert len((plant.root / "var/lib/aziot/keyd/keys" / master).read_bytes()) == 32
    assert (plant.root / "var/lib/aziot/keyd/keys" / identity).exists()


# --- 9.4 identityd -----------------------------------------------------------------------------------


def test_e32_the_device_identity(plant, cloud):
    said = identityd(plant, "POST", "identities/device", data='{"type":"aziot"}')
    assert said.status == 200
    found = said.json
    auth = found["spec"].pop("auth")
    spec = {"hubName": cloud.hub, "gatewayHost": cloud.hub, "deviceId": "device01"}
    assert found == {"type": "aziot", "spec": spec}
    assert auth.pop("keyHandle").startswith("sr=")
    assert auth == {"type": "x509", "certId": "aziot-dps-identity-cert"}
    empty = identityd(plant, "POST", "identities/device", data="")
    assert (empty.status, empty.json) == (400, {"message": "missing request body"})
    assert identityd(plant, "POST", "identities/device", data="{}").status == 422


def test_e32_not_provisioned(bench):
    said = identityd(bench.device, "POST", "identities/device", data='{"type":"aziot"}')
    assert said.status == 400
    # ours goes on to say why, and what happens next
    assert said.json["message"].startswith("device identity not found\ncaused by: ")


@needs_root
def test_e33_the_caller(plant, cloud):
    made = identityd(plant, "POST", "identities/modules", data='{"type":"aziot","moduleId":"hostprocess2"}')
    assert made.status == 200
    said = identityd(plant, "GET", "identities/identity", uid=HOST_PROCESS)
    assert said.status == 200, said
    spec = said.json["spec"]
    assert (spec["moduleId"], spec["genId"]) == ("hostprocess2", made.json["spec"]["genId"])
    assert spec["auth"]["type"] == "sas"
    stranger = identityd(plant, "GET", "identities/identity", uid=STRANGER)
    assert (stranger.status, stranger.json) == (401, {"message": "authorization error"})


def test_e34_lists(plant, cloud):
    said = identityd(plant, "GET", "identities/modules?type=aziot")
    assert said.status == 200
    assert all("auth" not in one["spec"] for one in said.json["identities"])
    for path, cause in (("", "missing parameter"), ("?type=local", "invalid type: local")):
        wrong = identityd(plant, "GET", f"identities/modules{path}")
        message = f'parameter "type" has an invalid value\ncaused by: {cause}'
        assert (wrong.status, wrong.json) == (400, {"message": message})


def test_e35_a_module_by_name(plant):
    create = '{"type":"aziot","moduleId":"$edgeAgent"}'
    assert identityd(plant, "POST", "identities/modules", data=create).status == 200
    for name in ("%24edgeAgent", "$edgeAgent"):
        assert identityd(plant, "GET", f"identities/modules/{name}?type=aziot").status == 200
    unknown = identityd(plant, "GET", "identities/modules/nope?type=aziot")
    message = "Hub client error\ncaused by: module nope not found"
    assert (unknown.status, unknown.json) == (404, {"message": message})
    gone = identityd(plant, "DELETE", "identities/modules/%24edgeAgent?type=aziot")
    assert (gone.status, gone.body) == (204, b"")


def test_e36_a_local_server_identity(plant):
    body = '{"type":"local","moduleId":"web","localIdOpts":{"type":"x509","attributes":"server"}}'
    said = identityd(plant, "POST", "identities/modules", data=body)
    assert said.status == 200, said
    spec = said.json["spec"]
    assert (said.json["type"], spec["moduleId"]) == ("local", "web")
    auth = spec["auth"]
    assert auth["privateKey"].startswith("-----BEGIN PRIVATE KEY-----\n")
    leaf, issuer = x509.load_pem_x509_certificates(auth["certificate"].encode())
    leaf.verify_directly_issued_by(issuer)
    assert auth["expiration"] == leaf.not_valid_after_utc.isoformat()
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_e37_provisioning(plant, bench, cloud):
    said = identityd(plant, "GET", "identities/provisioning", NEW)
    expected = {
        "source": "dps",
        "auth": "symmetric_key",
        "endpoint": f"{cloud.endpoint}/",
        "scope_id": "0ne00STANDIN",
        "registration_id": "device01",
        "payload": None,
    }
    assert (said.status, said.json) == (200, expected)
    assert identityd(bench.device, "GET", "identities/provisioning", NEW).json == {"source": "none"}


@needs_root
def test_e38_reprovision_and_the_bundle_for_anybody(plant, cloud):
    cloud.bundle((cloud.root / "cloud/ca.pem").read_bytes())
    said = identityd(plant, "POST", "identities/device/reprovision", data='{"type":"aziot"}')
    assert (said.status, said.body) == (204, b"")
    bundle = identityd(plant, "GET", "trust-bundle", uid=STRANGER)
    # ours gives the stored bundle instead of an empty text
    assert bundle.status == 200
    assert x509.load_pem_x509_certificates(bundle.json["certificate"].encode())


def test_e39_the_module_backup(plant, cloud):
    assert (
        identityd(plant, "POST", "identities/modules", data='{"type":"aziot","moduleId":"module01"}').status
        == 200
    )
    directory = "-".join(hashlib.sha256(text.encode()).hexdigest() for text in (cloud.hub, "device01"))
    name = "module01-d39924f0eda7f7712fc98b569c17eac54723158ed5f2c33909a82b96c732af8e"
    kept = json.loads((plant.state / "modules" / directory / name).read_bytes())
    assert (kept["moduleId"], kept["deviceId"]) == ("module01", "device01")
    assert kept["generationId"]


# --- 9.5 workload ------------------------------------------------------------------------------------


def test_e40_the_workload_trust_bundle(bench, plant, cloud):
    version = "api-version=2018-06-28"

    def ask(device: Device, path: str) -> Said:
        return curl(device.root / "run/aziot/workload.sock", f"http://workload.sock/{path}?{version}")

    for path in ("trust-bundle", "manifest-trust-bundle"):
        said = ask(bench.device, path)
        assert (said.status, said.json) == (200, {"certificate": ""})
    bundle = (cloud.root / "cloud/ca.pem").read_bytes()
    cloud.bundle(bundle + bundle)
    assert identityd(plant, "POST", "identities/device/reprovision", data='{"type":"aziot"}').status == 204
    found = x509.load_pem_x509_certificates(ask(plant, "trust-bundle").json["certificate"].encode())
    assert found == x509.load_pem_x509_certificates(bundle)
