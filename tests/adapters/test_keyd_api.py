"""keyd.sock as existing clients know it: endpoints, statuses, worked examples (services.md §5 and §9.3)."""

import hashlib
import logging
import os

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from hypothesis import given
from hypothesis import strategies as st

from adapters.driven.keys.handles import DerivedHandle, PairHandle, make_handle
from adapters.driving import key_messages
from adapters.driving.keyd_api import keyd_handler
from adapters.driving.ownership import matches
from adapters.wire.http_server import Peer, Request
from statemachine.settings import HANDLE_KEY_ID, IDENTITY_KEY_ID, MASTER_KEY_ID, KeyGrant
from tests.adapters.disk import believed_syncs  # noqa: F401 - fixture
from tests.adapters.keyd_home import (
    H_DEVICE,
    HK1,
    K1,
    P256_ONE,
    P384,
    RSA_2048,
    VALIDATION_KEY,
    Home,
    b64,
    file_of,
    fixed_nonce,
    parsed,
    pem_of,
    raw,
)
from tests.adapters.unix_peer import exchange, serving

pytestmark = pytest.mark.usefixtures("believed_syncs")

INVALID = (400, {"message": "a parameter has an invalid value"})
INTERNAL = (500, {"message": "internal error"})
DERIVATION = b64(b"module01:12345:primary")
DIGEST = b64(hashlib.sha256(b"hello").digest())
AEAD = {"algorithm": "AEAD", "parameters": {"iv": b64(b"0123456789ab"), "aad": b64(b"aad")}}
ECDSA = {"algorithm": "ECDSA", "parameters": {"digest": DIGEST}}
HMAC = {"algorithm": "HMAC-SHA256", "parameters": {"message": b64(b"hello")}}
HD = make_handle(VALIDATION_KEY, DerivedHandle(HK1, b"module01:12345:primary"), fixed_nonce(64))
HR = make_handle(VALIDATION_KEY, PairHandle("rsa"), fixed_nonce(64))
NOWHERE = make_handle(VALIDATION_KEY, PairHandle("nowhere"), fixed_nonce(64))


def of(handle, **members):
    return {"keyHandle": handle} | members


def wrong(parameter, cause):
    return 400, {"message": f'parameter "{parameter}" has an invalid value\ncaused by: {cause}'}


def denied(uid, key_id):
    return 401, {"message": f"user {uid} is not authorized to access the key {key_id}"}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


# --- the worked examples -----------------------------------------------------------------------------


def test_e18(home):
    body = {"keyId": "fresh", "preferredAlgorithms": "ec-p256:rsa-4096:*"}
    status, answer = home.ask("POST", "/keypair", body)
    assert (status, list(answer)) == (200, ["keyHandle"])
    assert isinstance(home.stored_pair("fresh").curve, ec.SECP256R1)


@pytest.mark.parametrize("version", ["2020-09-01", "2021-05-01"])
def test_e19_and_e20(home, version):
    assert home.ask("GET", f"/keypair/device-id?api-version={version}") == (200, {"keyHandle": H_DEVICE})
    assert home.ask("GET", f"/key/k1?api-version={version}") == (200, {"keyHandle": HK1})


def test_e21(home):
    home.nonce = os.urandom
    home.restart()
    body = {"keyId": "k1", "keyBytes": b64(b"\x11" * 32), "usage": "derive,sign"}
    (imported, loaded, missing) = home.over_socket(
        ("POST", "/key", body), ("GET", "/key/k1"), ("GET", "/key/nope")
    )
    assert imported[0] == loaded[0] == 200
    assert imported[1] != loaded[1]
    assert missing == INVALID
    (first, second) = (home.ask("POST", "/sign", one | HMAC) for one in (imported[1], loaded[1]))
    assert first == second


def test_e22(home):
    assert home.ask("POST", "/sign", of(HK1, **HMAC)) == (
        200,
        {"signature": "ev4PeGwuFre5HZY7JRFJY59b3sAbByTQUQVAnK982Ac="},
    )


def test_e23(home):
    derived, exported, signed = home.over_socket(
        ("POST", "/derivedkey", {"baseKeyHandle": HK1, "derivationData": DERIVATION}),
        ("POST", "/derivedkey/export", of(HD)),
        ("POST", "/sign", of(HD, **HMAC)),
    )
    assert derived == (200, {"keyHandle": HD})
    assert HD.endswith("&sig=1oRFhTkvVlvD+bHuIqwmKKV9SOwFrmY0y+n2Md/Yu1I=")
    assert exported == (200, {"key": "p+jYwXzt9ph7oXirKJ1syube2BZvI8GHK1i26HtP1Zw="})
    assert signed == (200, {"signature": "T4+xXQ4SKQxq0FLnTu4xqxx3kzccDQHkJ/4pyD1qsWk="})


def test_e24(home):
    nested, other, tampered = home.over_socket(
        ("POST", "/derivedkey", {"baseKeyHandle": HD, "derivationData": "AA=="}),
        ("POST", "/derivedkey/export", of(HK1)),
        ("POST", "/parameters/algorithm", of("sr=e30=&sig=AAAA")),
    )
    assert nested[0] == 400
    assert nested[1]["message"].startswith(
        'parameter "handle" has an invalid value\ncaused by: nested derived keys are not supported, '
    )
    assert other == wrong("handle", "handle is not for a derived key")
    assert tampered == wrong("handle", "invalid handle")


@pytest.mark.parametrize(
    ("path", "handle", "changes", "answer"),
    [
        ("/encrypt", HK1, {"plaintext": "aGVsbG8="}, {"ciphertext": "AhQN29DUDBq8Lc5o2yxHjYortaHzqw=="}),
        ("/encrypt", HD, {"plaintext": "aGVsbG8="}, {"ciphertext": "AqU1qClAcGy8ZjSHJm5pmXjgYtrH/w=="}),
        ("/decrypt", HK1, {"ciphertext": "AhQN29DUDBq8Lc5o2yxHjYortaHzqw=="}, {"plaintext": "aGVsbG8="}),
        ("/decrypt", HD, {"ciphertext": "AqU1qClAcGy8ZjSHJm5pmXjgYtrH/w=="}, {"plaintext": "aGVsbG8="}),
        ("/decrypt", HK1, {"ciphertext": "AQwavC3OaNssR42KK7Wh86sUDdvQ1A=="}, {"plaintext": "aGVsbG8="}),
    ],
)
def test_e25(home, path, handle, changes, answer):
    assert home.ask("POST", path, of(handle) | AEAD | changes) == (200, answer)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"parameters": {"iv": b64(b"0123456789ab"), "aad": ""}}, INTERNAL),
        ({"keyHandle": HD}, INTERNAL),
        ({"ciphertext": "AxQN29DUDBq8Lc5o2yxHjYortaHzqw=="}, INVALID),
        ({"ciphertext": b64(b"\x02" + b"x" * 15)}, INVALID),
        ({"ciphertext": ""}, INVALID),
        ({"parameters": {"iv": "", "aad": ""}}, INVALID),
    ],
    ids=["aad", "key", "version", "short", "empty", "iv"],
)
def test_e25_refusals(home, changes, answer):
    body = of(HK1, ciphertext="AhQN29DUDBq8Lc5o2yxHjYortaHzqw==") | AEAD | changes
    assert home.ask("POST", "/decrypt", body) == answer


def test_e26(home):
    signed, symmetric, rsa_pair, pss = home.over_socket(
        ("POST", "/sign", of(H_DEVICE, **ECDSA)),
        ("POST", "/sign", of(HK1, **ECDSA)),
        ("POST", "/sign", of(HR, **ECDSA)),
        ("POST", "/sign", of(HR, algorithm="RSA-PSS", parameters={"digest": DIGEST})),
    )
    assert signed[0] == 200
    signature = msgspec.convert(signed[1]["signature"], bytes)
    digest = hashlib.sha256(b"hello").digest()
    P256_ONE.public_key().verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    assert symmetric == wrong("mechanism", "mechanism cannot be used with this key type")
    assert rsa_pair == INVALID
    assert pss[0] == 422


def test_e27(home):
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(b"hello").digest()
    block = b"\0\1" + b"\xff" * (256 - 3 - len(info)) + b"\0" + info
    padded, raw_, null, back = home.over_socket(
        ("POST", "/encrypt", of(HR, algorithm="RSA-PKCS1", plaintext=b64(info))),
        ("POST", "/encrypt", of(HR, algorithm="RSA-NO-PADDING", plaintext=b64(block))),
        ("POST", "/encrypt", of(HR, algorithm="RSA-PKCS1", parameters=None, plaintext=b64(info))),
        ("POST", "/decrypt", of(HR, algorithm="RSA-PKCS1", ciphertext=b64(block))),
    )
    assert padded == raw_ == null
    assert padded[0] == 200
    signature = msgspec.convert(padded[1]["ciphertext"], bytes)
    RSA_2048.public_key().verify(signature, b"hello", padding.PKCS1v15(), hashes.SHA256())
    assert back == wrong("mechanism", "mechanism cannot be used with this key type")


@pytest.mark.parametrize(
    ("name", "handle", "answer"),
    [
        ("algorithm", H_DEVICE, (200, {"value": "ECDSA"})),
        ("algorithm", HR, (200, {"value": "RSA"})),
        ("ec-curve-oid", H_DEVICE, (200, {"value": "BggqhkjOPQMBBw=="})),
        ("ec-point", H_DEVICE, (200, {"value": "A2sX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKW"})),
        ("rsa-exponent", HR, (200, {"value": "AQAB"})),
        ("rsa-modulus", HR, (200, {"value": b64(RSA_2048.public_key().public_numbers().n.to_bytes(256))})),
        ("rsa-exponent", H_DEVICE, INVALID),
        ("rsa-modulus", H_DEVICE, INVALID),
        ("ec-point", HR, INVALID),
        ("ec-curve-oid", HR, INVALID),
        ("nope", HR, INVALID),
        ("rsa%2Dexponent", HR, (200, {"value": "AQAB"})),
        ("algorithm", NOWHERE, INVALID),
        ("algorithm", HK1, wrong("handle", "handle is not for a key pair")),
        ("algorithm", HD, wrong("handle", "handle is not for a key pair")),
    ],
)
def test_e28(home, name, handle, answer):
    assert home.ask("POST", f"/parameters/{name}", of(handle)) == answer


def test_other_curves_have_no_parameters_but_their_algorithm(home):
    home.put("p384", pem_of(P384))
    handle = home.handle("/keypair/p384")
    assert home.ask("POST", "/parameters/algorithm", of(handle)) == (200, {"value": "ECDSA"})
    assert home.ask("POST", "/parameters/ec-curve-oid", of(handle)) == INVALID


def test_e29(home):
    home.put("device-id-temp", pem_of(RSA_2048))
    assert home.over_socket(
        ("POST", "/keypair/device-id", {"from": "device-id-temp"}),
        ("POST", "/keypair/device-id", {"from": "device-id"}),
        ("POST", "/key/device-id", {"from": "device-id-temp"}),
        ("POST", "/key/device-id", {"from": "device-id"}),
        ("POST", "/keypair/device-id", {"from": "device-id-temp"}),
        ("DELETE", "/keypair", of(H_DEVICE)),
        ("DELETE", "/keypair", of(H_DEVICE)),
        ("DELETE", "/keypair", of(HK1)),
        ("DELETE", "/key", of(H_DEVICE)),
        ("DELETE", "/key", of(HD)),
        ("DELETE", "/key", of(HK1)),
        ("DELETE", "/key", of(HK1)),
    ) == [
        (204, None),
        (400, {"message": "source and destination for move are identical"}),
        (400, {"message": 'invalid type "key"'}),
        (400, {"message": "source and destination for move are identical"}),
        INTERNAL,
        (204, None),
        (204, None),
        wrong("handle", "handle is not for a key pair"),
        wrong("handle", "handle is not for a key"),
        wrong("handle", "handle is not for a key"),
        (204, None),
        (204, None),
    ]
    assert home.names() == sorted([file_of("rsa"), file_of(HANDLE_KEY_ID)])


def test_e30(home):
    home.grants = []
    assert home.as_uid(1000, "GET", "/key/k1") == denied(1000, "k1")
    assert home.as_uid(1000, "POST", "/sign", of(HK1, **HMAC))[0] == 200


def test_e31(home):
    home.ask("POST", "/key", {"keyId": "ä/b c", "usage": "sign"})
    home.ask("POST", "/keypair", {"keyId": "device-id-2"})
    assert set(home.names()) >= {
        "bc-c9bcc6f5720b5f900029eec074c815aa9eb14d8e52ad5f3448bb1debe30ca9ee.key",
        file_of("device-id-2"),
    }
    assert home.ask("GET", "/key/%C3%A4%2Fb%20c")[0] == 200


# --- binding and the pipeline ------------------------------------------------------------------------

ALL = [
    ("POST", "/key"),
    ("DELETE", "/key"),
    ("POST", "/keypair"),
    ("DELETE", "/keypair"),
    ("POST", "/keypair/x"),
    ("POST", "/key/x"),
    ("POST", "/derivedkey"),
    ("POST", "/derivedkey/export"),
    ("POST", "/parameters/algorithm"),
    ("POST", "/sign"),
    ("POST", "/encrypt"),
    ("POST", "/decrypt"),
]


@pytest.mark.parametrize(("method", "path"), ALL)
def test_every_endpoint_wants_its_body(home, method, path):
    assert home.ask(method, path) == (400, {"message": "missing request body"})
    assert home.ask(method, path, "{}")[0] == 422
    assert home.ask(method, path, "[]")[0] == 422
    assert home.ask(method, path, "{")[0] == 422


@pytest.mark.parametrize(("method", "path"), ALL)
def test_a_method_that_is_not_there(home, method, path):
    assert home.ask("PATCH", path) == (400, {"message": "method not allowed"})
    assert home.ask("PUT", path, "{}") == (400, {"message": "method not allowed"})


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/key/k1?api-version=2020-09-02", 400, 'invalid api-version "2020-09-02"'),
        ("/key/k1?x=1", 400, "api-version not specified"),
        ("/key/k1/?api-version=2020-09-01", 404, "not found"),
        ("/nope?api-version=2020-09-01", 404, "not found"),
        ("/keys/k1?api-version=2020-09-01", 404, "not found"),
        ("/key/%FF?api-version=2020-09-01", 404, "not found"),
        ("/key?api-version=2020-09-01", 400, "method not allowed"),
        ("/sign?api-version=2020-09-01", 400, "method not allowed"),
    ],
)
def test_the_pipeline(home, path, status, message):
    assert home.ask("GET", path) == (status, {"message": message})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/key", {"keyId": "n"}),
        ("/key", {"keyId": "n", "usage": ""}),
        ("/key", {"keyId": "n", "usage": "verify"}),
        ("/key", {"keyId": "n", "usage": "sign, derive"}),
        ("/key", {"keyId": "n", "usage": "sign,"}),
        ("/key", {"keyId": "n", "usage": None}),
        ("/key", {"keyId": "n", "usage": ["sign"]}),
        ("/key", {"usage": "sign"}),
        ("/key", {"keyId": 1, "usage": "sign"}),
        ("/key", {"keyId": "n", "usage": "sign", "keyBytes": "AA"}),
        ("/key", {"keyId": "n", "usage": "sign", "keyBytes": "A A="}),
        ("/key", {"keyId": "n", "usage": "sign", "keyBytes": "_-A="}),
        ("/key", {"keyId": "n", "usage": "sign", "keyBytes": [1]}),
        ("/key", '{"keyId":"n","keyId":"n","usage":"sign"}'),
        ("/key", '{"keyId":"\\ud800","usage":"sign"}'),
        ("/key", '{"keyId":"n","usage":"sign"} x'),
        ("/keypair", {"keyId": "n", "preferredAlgorithms": 1}),
        ("/keypair/n", {"from": None}),
        ("/keypair/n", {"source": "rsa"}),
        ("/derivedkey", {"baseKeyHandle": HK1}),
        ("/derivedkey", {"baseKeyHandle": HK1, "derivationData": "?"}),
        ("/sign", of(HK1, algorithm="HMAC-SHA256")),
        ("/sign", of(HK1, algorithm="HMAC-SHA256", parameters=None)),
        ("/sign", of(HK1, algorithm="HMAC-SHA256", parameters={"digest": ""})),
        ("/sign", of(HK1, algorithm="hmac-sha256", parameters={"message": ""})),
        ("/sign", of(HK1, parameters={"message": ""})),
        ("/sign", {"algorithm": "ECDSA", "parameters": {"digest": DIGEST}}),
        ("/sign", of(HR, algorithm="RSA-PKCS1", parameters={"digest": DIGEST})),
        ("/encrypt", of(HK1, algorithm="AEAD", plaintext="")),
        ("/encrypt", of(HK1, algorithm="AEAD", parameters={"iv": ""}, plaintext="")),
        ("/encrypt", of(HK1, algorithm="AEAD", parameters={"aad": ""}, plaintext="")),
        ("/encrypt", of(HK1, **AEAD)),
        ("/encrypt", of(HK1, **AEAD, ciphertext="")),
        ("/encrypt", of(HR, algorithm="RSA-OAEP", plaintext="")),
        ("/encrypt", of(HR, algorithm="RSA-PKCS1", parameters={}, plaintext="")),
        ("/decrypt", of(HK1, **AEAD, plaintext="")),
        ("/decrypt", of(HR, algorithm="AES", ciphertext="")),
    ],
)
def test_what_does_not_bind_is_unprocessable(home, path, body):
    before = home.names()
    status, answer = home.ask("POST", path, body)
    assert status == 422
    assert list(answer) == ["message"]
    assert HK1 not in answer["message"]
    assert home.names() == before


@pytest.mark.parametrize(
    "usage", ["derive", "encrypt", "sign", "derive,sign", "encrypt,sign,derive", "sign,sign"]
)
def test_any_usage_makes_the_same_key(home, usage):
    """On a file system nothing depends on it."""
    assert home.ask("POST", "/key", {"keyId": "n", "usage": usage, "keyBytes": None, "more": 1})[0] == 200
    assert len(home.get("n")) == 32


def test_members_may_come_in_any_order_and_with_others(home):
    body = '{"x":[],"parameters":{"message":"aGVsbG8=","y":1},"keyHandle":%s,"algorithm":"HMAC-SHA256"}'
    assert home.ask("POST", "/sign", body % msgspec.json.encode(HK1).decode())[0] == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ('{"keyId":"a"}', "text/plain", 400),
        ('{"keyId":"a"}', "application/x-www-form-urlencoded", 400),
        ('{"keyId":"a"}', "application/json; charset=utf-8", 200),
        ('{"keyId":"a"}', None, 200),
        ('{"keyId":"a","preferredAlgorithms":null}', "application/json", 200),
    ],
)
def test_content_types(home, body, kind, status):
    async def main():
        path = os.path.join(home.root, "keyd.sock")
        async with serving(path, home.handler):
            return parsed(await exchange(path, raw("POST", "/keypair", body, kind)))

    assert trio.run(main)[0] == status


# --- statuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "answer"),
    [
        ("GET", "/key/nope", None, INVALID),
        ("GET", "/keypair/nope", None, INVALID),
        ("GET", "/keypair/k1", None, INTERNAL),
        ("GET", "/key/empty", None, INTERNAL),
        ("GET", "/keypair/empty", None, INTERNAL),
        ("POST", "/key", {"keyId": "empty", "usage": "sign"}, INTERNAL),
        ("POST", "/keypair", {"keyId": "empty"}, INTERNAL),
        ("POST", "/keypair", {"keyId": "k1"}, INTERNAL),
        ("POST", "/keypair", {"keyId": "n", "preferredAlgorithms": "rsa-1024:x"}, INVALID),
        ("POST", "/keypair", {"keyId": "n", "preferredAlgorithms": ""}, INVALID),
        ("POST", "/keypair/n", {"from": "nope"}, INTERNAL),
        ("POST", "/keypair/n", {"from": "k1"}, INTERNAL),
        ("POST", "/sign", of(NOWHERE, **ECDSA), INVALID),
        ("POST", "/sign", of(H_DEVICE, algorithm="ECDSA", parameters={"digest": ""}), INVALID),
        ("POST", "/sign", of(H_DEVICE, algorithm="ECDSA", parameters={"digest": b64(b"d" * 33)}), INVALID),
        ("POST", "/sign", of("garbage", **HMAC), wrong("handle", "invalid handle")),
        ("POST", "/sign", of("x" * 100_000, **HMAC), wrong("handle", "invalid handle")),
        ("POST", "/encrypt", of("", **AEAD, plaintext=""), wrong("handle", "invalid handle")),
        (
            "POST",
            "/derivedkey",
            {"baseKeyHandle": "", "derivationData": ""},
            wrong("handle", "invalid handle"),
        ),
        (
            "POST",
            "/derivedkey",
            {"baseKeyHandle": H_DEVICE, "derivationData": ""},
            wrong("handle", "handle is not for a key"),
        ),
        ("POST", "/derivedkey/export", of(H_DEVICE), wrong("handle", "handle is not for a derived key")),
        ("POST", "/encrypt", of(HR, algorithm="RSA-NO-PADDING", plaintext="AA=="), INVALID),
        ("POST", "/encrypt", of(HR, algorithm="RSA-NO-PADDING", plaintext=b64(b"\xff" * 256)), INVALID),
        ("POST", "/encrypt", of(HR, algorithm="RSA-PKCS1", plaintext=b64(b"x" * 246)), INVALID),
        ("POST", "/encrypt", of(H_DEVICE, algorithm="RSA-PKCS1", plaintext="AA=="), INVALID),
        ("POST", "/encrypt", of(H_DEVICE, algorithm="RSA-NO-PADDING", plaintext="AA=="), INVALID),
        ("DELETE", "/key", of("sr=&sig="), wrong("handle", "invalid handle")),
        ("DELETE", "/keypair", of("sr=&sig="), wrong("handle", "invalid handle")),
    ],
)
def test_statuses(home, method, path, body, answer):
    home.put("empty", b"")
    assert home.ask(method, path, body) == answer


MISFITS = [
    ("/sign", HK1, ECDSA),
    ("/sign", HD, ECDSA),
    ("/sign", H_DEVICE, HMAC),
    ("/sign", HR, HMAC),
    ("/encrypt", H_DEVICE, AEAD | {"plaintext": ""}),
    ("/encrypt", HR, AEAD | {"plaintext": ""}),
    ("/encrypt", HK1, {"algorithm": "RSA-PKCS1", "plaintext": ""}),
    ("/encrypt", HD, {"algorithm": "RSA-PKCS1", "plaintext": ""}),
    ("/encrypt", HK1, {"algorithm": "RSA-NO-PADDING", "plaintext": ""}),
    ("/encrypt", HD, {"algorithm": "RSA-NO-PADDING", "plaintext": ""}),
    ("/decrypt", H_DEVICE, AEAD | {"ciphertext": ""}),
    ("/decrypt", HR, AEAD | {"ciphertext": ""}),
    ("/decrypt", HR, {"algorithm": "RSA-NO-PADDING", "ciphertext": ""}),
    ("/decrypt", HK1, {"algorithm": "RSA-PKCS1", "ciphertext": ""}),
    ("/decrypt", HD, {"algorithm": "RSA-NO-PADDING", "ciphertext": ""}),
]


@pytest.mark.parametrize(("path", "handle", "mechanism"), MISFITS)
def test_a_mechanism_for_another_kind_of_handle(home, path, handle, mechanism):
    answer = wrong("mechanism", "mechanism cannot be used with this key type")
    assert home.ask("POST", path, of(handle, **mechanism)) == answer


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_aead_keys_have_32_bytes(home, size):
    home.put("odd", b"k" * (size or 1))
    handle = home.handle("/key/odd")
    assert home.ask("POST", "/encrypt", of(handle, **AEAD, plaintext="")) == INVALID
    assert home.ask("POST", "/decrypt", of(handle, **AEAD, ciphertext=b64(b"\x02" + b"x" * 16))) == INVALID
    assert home.ask("POST", "/sign", of(handle, **HMAC))[0] == 200, "for HMAC any length does"


@pytest.mark.parametrize(
    ("key_id", "cause"),
    [
        ("a\0b", "a nul byte found in it"),
        ("-" * 1025, "it is longer than 1024 bytes"),
        ("x" * 200, "it has more letters and digits than a file name can hold"),
    ],
)
def test_ids_that_cannot_be(home, key_id, cause):
    answer = wrong("id", cause)
    quoted = "".join(f"%{byte:02X}" for byte in key_id.encode())
    assert (
        home.over_socket(
            ("POST", "/key", {"keyId": key_id, "usage": "sign"}),
            ("POST", "/keypair", {"keyId": key_id}),
            ("POST", "/keypair/n", {"from": key_id}),
            ("GET", f"/key/{quoted}"),
            ("GET", f"/keypair/{quoted}"),
            ("POST", f"/keypair/{quoted}", {"from": "rsa"}),
        )
        == [answer] * 6
    )
    assert home.get("rsa")


def test_an_import_of_nothing(home):
    status, answer = home.ask("POST", "/key", {"keyId": "k1", "usage": "sign", "keyBytes": ""})
    assert status == 400
    assert answer["message"].startswith('parameter "keyBytes" has an invalid value\n')
    assert home.get("k1") == K1


def test_too_much_derivation_data(home):
    body = {"baseKeyHandle": HK1, "derivationData": b64(b"d" * 100_000)}
    status, answer = home.ask("POST", "/derivedkey", body)
    assert status == 400
    assert answer["message"].startswith('parameter "derivationData" has an invalid value\n')


def test_the_cause_is_in_the_log_and_no_secret_is(home, caplog):
    caplog.set_level(logging.DEBUG)
    home.put("empty", b"")
    for method, path, body in (
        ("GET", "/key/empty", None),
        ("POST", "/decrypt", of(HK1, **AEAD, ciphertext=b64(b"\x02" + b"x" * 16))),
        ("POST", "/sign", of("garbage-handle", **HMAC)),
        ("POST", "/key", {"keyId": "k1", "usage": "sign", "keyBytes": ""}),
    ):
        home.ask(method, path, body)
    assert f"{home.path('empty')} is empty" in caplog.text
    assert "the tag does not match" in caplog.text
    for secret in (HK1, HK1.split("&")[0], "garbage-handle", b64(K1)):
        assert secret not in caplog.text


def test_messages_do_not_show_what_they_hold():
    body = key_messages.CreateKey(key_id="k", usage="sign", key_bytes=K1)
    assert repr(body) == "CreateKey(…)"
    assert "sr=" not in repr(key_messages.OfKey(key_handle=HK1))


# --- who may -----------------------------------------------------------------------------------------

BY_ID = [
    ("POST", "/key", {"keyId": "app-1", "usage": "sign"}),
    ("GET", "/key/app-1", None),
    ("POST", "/keypair", {"keyId": "app-1"}),
    ("GET", "/keypair/app-1", None),
    ("POST", "/keypair/app-1", {"from": "app-2"}),
    ("POST", "/keypair/app-2", {"from": "app-1"}),
]


@pytest.mark.parametrize(("method", "path", "body"), BY_ID)
def test_whoever_names_an_id_needs_a_grant(home, caplog, method, path, body):
    caplog.set_level(logging.INFO)
    for key_id in ("app-1", "app-2"):
        home.put(key_id, pem_of(P256_ONE))
    home.grants = [KeyGrant(uid=1000, keys=("app-2",)), KeyGrant(uid=1001, keys=("app-1",))]
    before = home.names()
    assert home.as_uid(1000, method, path, body) == denied(1000, "app-1")
    assert "uid 1000 is not authorised to access key 'app-1'" in caplog.text
    assert home.names() == before
    home.grants = [*home.grants, KeyGrant(uid=1000, keys=("nothing", "?pp-1*"))]
    assert home.as_uid(1000, method, path, body)[0] in (200, 204)


@pytest.mark.parametrize(("method", "path", "body"), BY_ID)
def test_root_needs_none(home, method, path, body):
    for key_id in ("app-1", "app-2"):
        home.put(key_id, pem_of(P256_ONE))
    home.grants = []
    assert home.as_uid(0, method, path, body)[0] in (200, 204)


def test_who_is_not_known_may_nothing(home):
    home.grants = [KeyGrant(uid=0, keys=("*",))]
    handler = keyd_handler(home.keys, lambda: home.grants)
    request = Request("GET", "/key/k1?api-version=2021-05-01", peer=Peer())
    assert trio.run(handler, request).status == 401


def test_binding_comes_first(home):
    home.grants = []
    assert home.as_uid(1000, "POST", "/key", {"keyId": "k1", "usage": ""})[0] == 422
    assert home.as_uid(1000, "POST", "/keypair/x", {"from": "x"})[0] == 400
    assert home.as_uid(1000, "POST", "/key/x", {"from": "y"}) == (400, {"message": 'invalid type "key"'})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/sign", of(H_DEVICE, **ECDSA)),
        ("POST", "/encrypt", of(HK1, **AEAD, plaintext="")),
        ("POST", "/decrypt", of(HK1, **AEAD, ciphertext="AhQN29DUDBq8Lc5o2yxHjYortaHzqw==")),
        ("POST", "/derivedkey", {"baseKeyHandle": HK1, "derivationData": ""}),
        ("POST", "/derivedkey/export", of(HD)),
        ("POST", "/parameters/algorithm", of(HR)),
        ("DELETE", "/key", of(HK1)),
        ("DELETE", "/keypair", of(H_DEVICE)),
    ],
)
def test_whoever_has_a_handle_needs_none(home, method, path, body):
    home.grants = []
    assert home.as_uid(1000, method, path, body)[0] in (200, 204)


@given(st.text("ab*?", max_size=6), st.text("ab", min_size=1, max_size=6))
def test_patterns_decide(pattern, key_id):
    class Keys:
        async def load_key(self, asked):
            return asked

    handler = keyd_handler(Keys(), lambda: [KeyGrant(uid=1000, keys=(pattern,))])
    request = Request("GET", f"/key/{key_id}?api-version=2021-05-01", peer=Peer(uid=1000))
    status = trio.run(handler, request).status
    assert status == (200 if matches(pattern, key_id) else 401)


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("owned", [HANDLE_KEY_ID, MASTER_KEY_ID, IDENTITY_KEY_ID])
def test_the_machines_keys_are_changed_by_nobody(home, owned, uid):
    home.grants = [KeyGrant(uid=1000, keys=("*",))]
    home.identity.issue(3)
    if owned == MASTER_KEY_ID:
        home.put(owned, b"m" * 32)
    before = home.contents()
    for method, path, body in (
        ("POST", "/key", {"keyId": owned, "usage": "sign"}),
        ("POST", "/key", {"keyId": owned, "usage": "sign", "keyBytes": "AAAA"}),
        ("POST", "/keypair", {"keyId": owned}),
        ("POST", f"/keypair/{owned}", {"from": "rsa"}),
        ("POST", "/keypair/rsa", {"from": owned}),
    ):
        assert home.as_uid(uid, method, path, body) == denied(uid, owned)
    assert home.contents() == before


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_machines_keys_are_loaded_by_grant_but_not_deleted(home, uid):
    home.put(MASTER_KEY_ID, b"m" * 32)
    home.identity.issue(3)
    home.grants = [KeyGrant(uid=1000, keys=("aziot*",))]
    master = home.as_uid(uid, "GET", f"/key/{MASTER_KEY_ID}")
    identity = home.as_uid(uid, "GET", f"/keypair/{IDENTITY_KEY_ID}")
    assert master[0] == identity[0] == 200
    assert home.as_uid(uid, "DELETE", "/key", master[1]) == denied(uid, MASTER_KEY_ID)
    assert home.as_uid(uid, "DELETE", "/keypair", identity[1]) == denied(uid, IDENTITY_KEY_ID)
    assert home.get(MASTER_KEY_ID) == b"m" * 32
    assert home.as_uid(uid, "POST", "/sign", identity[1] | ECDSA)[0] == 200
    assert home.as_uid(1001, "GET", f"/keypair/{IDENTITY_KEY_ID}") == denied(1001, IDENTITY_KEY_ID)


def test_the_validation_key_is_not_even_loaded(home):
    home.grants = [KeyGrant(uid=1000, keys=("*",))]
    for uid in (0, 1000):
        for kind in ("key", "keypair"):
            assert home.as_uid(uid, "GET", f"/{kind}/{HANDLE_KEY_ID}") == INVALID
    assert home.get(HANDLE_KEY_ID) == VALIDATION_KEY


# --- together ----------------------------------------------------------------------------------------


def test_handles_survive_a_restart(home):
    home.nonce = os.urandom
    home.restart()
    pair = home.handle("/keypair", {"keyId": "mine", "preferredAlgorithms": "ec-p256"})
    home.restart()
    assert home.ask("POST", "/sign", of(pair, **ECDSA))[0] == 200


def test_a_deleted_and_remade_key_is_what_old_handles_address(home):
    assert home.ask("DELETE", "/keypair", of(H_DEVICE)) == (204, None)
    assert home.ask("POST", "/parameters/algorithm", of(H_DEVICE)) == INVALID
    home.ask("POST", "/keypair", {"keyId": "device-id", "preferredAlgorithms": "rsa-2048:*"})
    assert home.ask("POST", "/parameters/algorithm", of(H_DEVICE)) == (200, {"value": "RSA"})


def test_many_at_once(home):
    """Signers get their answers while the same new key is asked for by several."""

    async def main():
        path = os.path.join(home.root, "keyd.sock")
        answers = []

        async def ask(*request):
            answers.append(parsed(await exchange(path, raw(*request))))

        async with serving(path, home.handler), trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask, "POST", "/sign", of(H_DEVICE, **ECDSA))
                nursery.start_soon(ask, "POST", "/keypair", {"keyId": "n", "preferredAlgorithms": "rsa-2048"})
                nursery.start_soon(ask, "GET", "/key/nope")
        return sorted(status for status, _ in answers)

    assert trio.run(main) == [200] * 20 + [400] * 10
    assert home.stored_pair("n").key_size == 2048
