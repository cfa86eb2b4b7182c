"""A TLS client whose private key stays in keyd: the handshake asks for one signature over a digest.

IoT Edge does this with an engine for OpenSSL; Python's ssl wants the key itself. So this is the client's half
of TLS 1.3 (RFC 8446) with one group (x25519), one cipher suite (TLS_AES_128_GCM_SHA256) and EC P-256 for
the client's signature, as much as talking to the stand-in hub needs. The peer is a real OpenSSL, which checks
every byte of it. The server is authenticated as well: its chain, its name, its signature.
"""

import hashlib
import hmac
import os
import re
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store

Sign = Callable[[bytes], bytes]
"DER Ecdsa-Sig-Value over a SHA-256 digest."

MAX_ANSWER_BYTES = 1 << 20

_ALERT, _HANDSHAKE, _DATA, _CHANGE_CIPHER_SPEC = 21, 22, 23, 20
_CLIENT_HELLO, _SERVER_HELLO, _TICKET, _ENCRYPTED_EXTENSIONS = 1, 2, 4, 8
_CERTIFICATE, _CERTIFICATE_REQUEST, _CERTIFICATE_VERIFY, _FINISHED = 11, 13, 15, 20
_SUITE, _X25519, _ECDSA_P256, _TLS13 = 0x1301, 0x001D, 0x0403, 0x0304
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_RETRY = hashlib.sha256(b"HelloRetryRequest").digest()


class TlsFailed(Exception):
    """The connection came to nothing; the text says where."""


@dataclass
class _Direction:
    """One way of the connection: its traffic secret's key, and how many records went."""

    key: AESGCM
    iv: bytes
    count: int = 0

    @classmethod
    def of(cls, secret: bytes) -> "_Direction":
        return cls(AESGCM(_expand(secret, b"key", b"", 16)), _expand(secret, b"iv", b"", 12))

    def nonce(self) -> bytes:
        number = self.count
        self.count += 1
        return bytes(a ^ b for a, b in zip(self.iv, number.to_bytes(12), strict=True))


class HandleTls:
    """One connection, client authenticated. Raises TlsFailed and OSError."""

    def __init__(
        self,
        port: int,
        *,
        anchors: Sequence[x509.Certificate],
        chain: Sequence[bytes],
        sign: Sign,
        within_s: float,
    ) -> None:
        """To localhost; ``chain`` is DER, leaf first, of the key that ``sign`` signs with."""
        self._anchors, self._chain, self._sign = anchors, chain, sign
        self._hashed = hashlib.sha256()
        self._rest = b""
        "Of handshake messages that came in one record with the one before."
        self._reading: _Direction | None = None
        self._writing: _Direction | None = None
        self._socket = socket.create_connection(("localhost", port), within_s)
        try:
            self._shake_hands()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def get(self, target: str) -> tuple[int, bytes]:
        """One request: the status and the body, whose length the peer states.

        A certificate the server will not have is an alert here, not in the handshake (RFC 8446 §4.4.2.4).
        """
        self._send(_DATA, f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        answer = b""
        while len(answer) < MAX_ANSWER_BYTES:
            kind, content = self._record()
            if kind == _ALERT:
                raise TlsFailed(f"alert {content[1]} in place of an answer")
            if kind == _HANDSHAKE and content[0] == _TICKET:
                continue
            if kind != _DATA:
                raise TlsFailed(f"a record of kind {kind} in place of an answer")
            answer += content
            head, end, body = answer.partition(b"\r\n\r\n")
            stated = _LENGTH.search(head)
            if end and stated is not None and len(body) >= int(stated[1]):
                return int(head.split(b" ", 2)[1]), body
        raise TlsFailed("the answer has no end")

    # --- the handshake -------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        own = X25519PrivateKey.generate()
        hello = _client_hello(own.public_key().public_bytes_raw())
        self._hashed.update(hello)
        self._send(_HANDSHAKE, hello)
        share = _server_share(self._message(_SERVER_HELLO))
        secret = own.exchange(X25519PublicKey.from_public_bytes(share))
        early = _extract(bytes(32), bytes(32))
        handshake = _extract(self._derive(early, b"derived", b""), secret)
        client, server = (
            self._derive(handshake, label, self._hash()) for label in (b"c hs traffic", b"s hs traffic")
        )
        self._reading, self._writing = _Direction.of(server), _Direction.of(client)
        self._message(_ENCRYPTED_EXTENSIONS)
        self._message(_CERTIFICATE_REQUEST)
        self._judge_server(self._message(_CERTIFICATE))
        expected = self._finished(server)
        if not hmac.compare_digest(self._message(_FINISHED)[4:], expected):
            raise TlsFailed("the server's Finished is wrong")
        master = _extract(self._derive(handshake, b"derived", b""), bytes(32))
        following = [
            self._derive(master, label, self._hash()) for label in (b"c ap traffic", b"s ap traffic")
        ]
        self._say(
            _CERTIFICATE, b"\0" + _vector(3, b"".join(_vector(3, der) + b"\0\0" for der in self._chain))
        )
        signature = self._sign(hashlib.sha256(_to_sign(b"client", self._hash())).digest())
        self._say(_CERTIFICATE_VERIFY, struct.pack(">H", _ECDSA_P256) + _vector(2, signature))
        self._say(_FINISHED, self._finished(client))
        self._writing, self._reading = map(_Direction.of, following)

    def _judge_server(self, message: bytes) -> None:
        """Its chain, its name, and that it has the key."""
        before = self._hash()
        entries, _ = _cut(3, message[5:])
        chain: list[x509.Certificate] = []
        while entries:
            der, entries = _cut(3, entries)
            chain.append(x509.load_der_x509_certificate(der))
            _, entries = _cut(2, entries)
        verifier = (
            PolicyBuilder().store(Store(list(self._anchors))).build_server_verifier(x509.DNSName("localhost"))
        )
        verifier.verify(chain[0], chain[1:])
        body = self._message(_CERTIFICATE_VERIFY)[4:]
        key = chain[0].public_key()
        if struct.unpack(">H", body[:2]) != (_ECDSA_P256,) or not isinstance(key, ec.EllipticCurvePublicKey):
            raise TlsFailed("the server signed with what was not offered")
        key.verify(_cut(2, body[2:])[0], _to_sign(b"server", before), ec.ECDSA(SHA256()))

    def _finished(self, secret: bytes) -> bytes:
        """The verify_data of that side over what was said so far."""
        return hmac.digest(_expand(secret, b"finished", b"", 32), self._hash(), "sha256")

    def _derive(self, secret: bytes, label: bytes, hashed: bytes) -> bytes:
        return _expand(secret, label, hashed or hashlib.sha256().digest(), 32)

    def _hash(self) -> bytes:
        return self._hashed.copy().digest()

    # --- messages and records ------------------------------------------------------------------------

    def _say(self, kind: int, body: bytes) -> None:
        message = bytes((kind,)) + _vector(3, body)
        self._hashed.update(message)
        self._send(_HANDSHAKE, message)

    def _message(self, kind: int) -> bytes:
        """The next handshake message, its head included; it must be of that kind."""
        while len(self._rest) < 4 or len(self._rest) < 4 + int.from_bytes(self._rest[1:4]):
            got, content = self._record()
            if got == _ALERT:
                raise TlsFailed(f"alert {content[1]} in the handshake")
            if got != _HANDSHAKE:
                raise TlsFailed(f"a record of kind {got} in the handshake")
            self._rest += content
        size = 4 + int.from_bytes(self._rest[1:4])
        message, self._rest = self._rest[:size], self._rest[size:]
        if message[0] != kind:
            raise TlsFailed(f"handshake message {message[0]}, {kind} is due")
        self._hashed.update(message)
        return message

    def _send(self, kind: int, content: bytes) -> None:
        if self._writing is None:
            self._socket.sendall(struct.pack(">BHH", kind, 0x0303, len(content)) + content)
            return
        head = struct.pack(">BHH", _DATA, 0x0303, len(content) + 17)
        way = self._writing
        self._socket.sendall(head + way.key.encrypt(way.nonce(), content + bytes((kind,)), head))

    def _record(self) -> tuple[int, bytes]:
        while True:
            head = self._exactly(5)
            kind, _, size = struct.unpack(">BHH", head)
            content = self._exactly(size)
            if kind == _CHANGE_CIPHER_SPEC:
                continue  # for middle boxes (RFC 8446 §D.4)
            if self._reading is None or kind != _DATA:
                return kind, content
            inner = self._reading.key.decrypt(self._reading.nonce(), content, head).rstrip(b"\0")
            return inner[-1], inner[:-1]

    def _exactly(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            piece = self._socket.recv(size - len(content))
            if not piece:
                raise TlsFailed("the peer closed the connection")
            content += piece
        return content


# --- bytes -------------------------------------------------------------------------------------------


def _vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width) + content


def _cut(width: int, content: bytes) -> tuple[bytes, bytes]:
    """A vector at the front, and what follows it."""
    end = width + int.from_bytes(content[:width])
    return content[width:end], content[end:]


def _client_hello(share: bytes) -> bytes:
    def extension(number: int, body: bytes) -> bytes:
        return struct.pack(">H", number) + _vector(2, body)

    extensions = (
        extension(0, _vector(2, b"\0" + _vector(2, b"localhost")))  # server_name
        + extension(10, _vector(2, struct.pack(">H", _X25519)))  # supported_groups
        # Signatures of a chain may be P-384, as the stand-in's CAs make them.
        + extension(13, _vector(2, struct.pack(">HH", _ECDSA_P256, 0x0503)))
        + extension(43, _vector(1, struct.pack(">H", _TLS13)))  # supported_versions
        + extension(51, _vector(2, struct.pack(">H", _X25519) + _vector(2, share)))  # key_share
    )
    body = (
        struct.pack(">H", 0x0303)
        + os.urandom(32)
        + _vector(1, b"")
        + _vector(2, struct.pack(">H", _SUITE))
        + _vector(1, b"\0")
        + _vector(2, extensions)
    )
    return bytes((_CLIENT_HELLO,)) + _vector(3, body)


def _server_share(message: bytes) -> bytes:
    """The server's x25519 point, when it speaks as it was asked to."""
    body = message[4:]
    if body[2:34] == _RETRY:
        raise TlsFailed("the server wants another hello")
    _, rest = _cut(1, body[34:])
    (suite,) = struct.unpack(">H", rest[:2])
    extensions, _ = _cut(2, rest[3:])
    found: dict[int, bytes] = {}
    while extensions:
        (number,) = struct.unpack(">H", extensions[:2])
        found[number], extensions = _cut(2, extensions[2:])
    if suite != _SUITE or found.get(43) != struct.pack(">H", _TLS13) or 51 not in found:
        raise TlsFailed("the server does not speak TLS 1.3 as offered")
    return _cut(2, found[51][2:])[0]


def _to_sign(side: bytes, hashed: bytes) -> bytes:
    """RFC 8446 §4.4.3."""
    return b" " * 64 + b"TLS 1.3, " + side + b" CertificateVerify\0" + hashed


def _extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, secret, "sha256")


def _expand(secret: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """HKDF-Expand-Label; one block of SHA-256 is enough for all that is asked for here."""
    info = struct.pack(">H", size) + _vector(1, b"tls13 " + label) + _vector(1, context)
    return hmac.digest(secret, info + b"\1", "sha256")[:size]


def chain_of(pem: str) -> list[bytes]:
    """DER of each certificate, leaf first."""
    return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(pem.encode())]
