"""A home of keyd with the keys of the reference's worked examples (services.md §9.3), and a client of it."""

import base64
import hashlib
import os
import pathlib

import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driving.keyd_api import keyd_handler
from adapters.wire.http_server import Peer, Request
from statemachine.settings import KeyGrant
from tests.adapters.unix_peer import exchange, serving

V = "api-version=2021-05-01"
VALIDATION_KEY = bytes(range(32))
K1 = b"\x11" * 32
P256_ONE = ec.derive_private_key(1, ec.SECP256R1())
"Its public point is the generator."
P384 = ec.generate_private_key(ec.SECP384R1())
RSA_2048 = rsa.generate_private_key(65537, 2048)
RSA_3072 = rsa.generate_private_key(65537, 3072)

NONCE = "paWl" * 21 + "pQ=="
HK1 = (
    "sr=eyJrZXlfaWQiOnsiS2V5IjoiazEifSwibm9uY2UiOiJwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdsc"
    "GFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwUT09In0=&sig=SihAIaCpmrp95Wym8i8+STvXfI+S"
    "uVjwhUYUw2FviYU="
)
H_DEVICE = (
    "sr=eyJrZXlfaWQiOnsiS2V5UGFpciI6ImRldmljZS1pZCJ9LCJub25jZSI6InBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwY"
    "VdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBhV2xwYVdscGFXbHBRPT0ifQ==&sig=xTnmT4yWmZrM"
    "gFYPlbwR+Vo32/VTDrfAvIOlBGb0HRU="
)


def fixed_nonce(size):
    return b"\xa5" * size


def b64(content):
    return base64.b64encode(content).decode()


def pem_of(key, form=PrivateFormat.PKCS8):
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def file_of(key_id):
    """Written down independently of the code under test."""
    letters = "".join(
        c for c in key_id if c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    )
    return f"{letters}-{hashlib.sha256(key_id.encode()).hexdigest()}.key"


class Identity:
    """Generations of the issued identity's key, as the credential store would show them."""

    def __init__(self):
        self.current = None
        self.keys = {}

    def current_key_generation(self):
        return self.current

    def key_pem(self, generation):
        return self.keys.get(generation)

    def issue(self, generation):
        key = ec.generate_private_key(ec.SECP256R1())
        self.keys[generation] = pem_of(key)
        self.current = generation
        return key


class Home:
    """``<root>/keyd``, and who may do what."""

    def __init__(self, root, *, nonce=fixed_nonce, vectors=True):
        self.root = str(root)
        self.home = os.path.join(self.root, "keyd")
        self.directory = os.path.join(self.home, "keys")
        self.preloaded = {}
        self.identity = Identity()
        self.nonce = nonce
        self.grants = [KeyGrant(uid=os.getuid(), keys=("*",))]
        if vectors:
            self.put("handle-validation-key", VALIDATION_KEY)
            self.put("k1", K1)
            self.put("device-id", pem_of(P256_ONE))
            self.put("rsa", pem_of(RSA_2048))
        self.restart()

    def restart(self):
        self.keys = EmbeddedKeys(self.home, lambda: self.preloaded, self.identity, nonce=self.nonce)
        self.handler = keyd_handler(self.keys, lambda: self.grants)

    def path(self, key_id):
        return os.path.join(self.directory, file_of(key_id))

    def put(self, key_id, content):
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        with open(self.path(key_id), "wb") as file:
            file.write(content)

    def get(self, key_id):
        with open(self.path(key_id), "rb") as file:
            return file.read()

    def stored_pair(self, key_id):
        return load_pem_private_key(self.get(key_id), None)

    def names(self):
        return sorted(os.listdir(self.directory))

    def contents(self):
        return {path.name: path.read_bytes() for path in pathlib.Path(self.directory).iterdir()}

    # --- asking ------------------------------------------------------------------------------------

    def over_socket(self, *requests):
        """Each request over a connection of its own: [(status, decoded body), …]."""

        async def main():
            path = os.path.join(self.root, "keyd.sock")
            async with serving(path, self.handler):
                return [parsed(await exchange(path, raw(*request))) for request in requests]

        return trio.run(main)

    def ask(self, method, path, body=None):
        (answer,) = self.over_socket((method, path, body))
        return answer

    def as_uid(self, uid, method, path, body=None):
        """As somebody else, whom a test cannot be."""
        request = Request(
            method,
            f"{path}?{V}",
            (("content-type", "application/json"),),
            b"" if body is None else msgspec.json.encode(body),
            Peer(uid=uid),
        )
        response = trio.run(self.handler, request)
        return response.status, msgspec.json.decode(response.body) if response.body else None

    def handle(self, path, body=None):
        """A handle, with whatever privileges it takes; ``path`` alone loads."""
        status, answer = self.ask("GET" if body is None else "POST", path, body)
        assert status == 200, answer
        return answer["keyHandle"]


def raw(method, path, body=None, kind="application/json"):
    content = body if isinstance(body, str) else "" if body is None else msgspec.json.encode(body).decode()
    target = path if "?" in path else f"{path}?{V}"
    heads = [f"{method} {target} HTTP/1.1", "host: keyd.sock", "connection: close"]
    if content:
        heads.append(f"content-length: {len(content.encode())}")
    if content and kind is not None:
        heads.append(f"content-type: {kind}")
    return "\r\n".join([*heads, "", content])


def parsed(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), msgspec.json.decode(body) if body else None
