"""What keyd.sock takes, as the original's clients spell it (services.md §5.2, §5.6, §5.7).

Bytes are base64 with padding. Key handles and keys are secrets: no message shows its members.
"""

from typing import cast

from msgspec import Struct, field

from adapters.ports import Aead, Ecdsa, HmacSha256, KeyUsage, RsaNoPadding, RsaPkcs1

_USAGES: dict[str, KeyUsage] = {"derive": "derive", "encrypt": "encrypt", "sign": "sign"}


class Message(Struct, frozen=True, rename="camel"):
    """A request's body."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class CreateKey(Message, frozen=True, rename="camel"):
    """K1."""

    key_id: str
    usage: str
    "Comma-separated, without spaces."
    key_bytes: bytes | None = None

    def __post_init__(self) -> None:
        # Raised while binding, so that it is answered like any other malformed member.
        unknown = [word for word in self.usage.split(",") if word not in _USAGES]
        if unknown:
            raise ValueError("unknown usage, expected some of derive, encrypt and sign")

    @property
    def usages(self) -> tuple[KeyUsage, ...]:
        return tuple(_USAGES[word] for word in self.usage.split(","))


class CreateKeyPair(Message, frozen=True, rename="camel"):
    """K4."""

    key_id: str
    preferred_algorithms: str | None = None


class MoveKeyPair(Message, frozen=True):
    """K6."""

    source: str = field(name="from")


class OfKey(Message, frozen=True, rename="camel"):
    """K2, K7, K9, K10."""

    key_handle: str


class DeriveKey(Message, frozen=True, rename="camel"):
    """K8."""

    base_key_handle: str
    derivation_data: bytes


class DigestParameters(Message, frozen=True):
    digest: bytes


class MessageParameters(Message, frozen=True):
    message: bytes


class AeadParameters(Message, frozen=True):
    iv: bytes
    aad: bytes


class SignEcdsa(Message, frozen=True, rename="camel", tag_field="algorithm", tag="ECDSA"):
    key_handle: str
    parameters: DigestParameters

    @property
    def mechanism(self) -> Ecdsa:
        return Ecdsa(self.parameters.digest)


class SignHmac(Message, frozen=True, rename="camel", tag_field="algorithm", tag="HMAC-SHA256"):
    key_handle: str
    parameters: MessageParameters

    @property
    def mechanism(self) -> HmacSha256:
        return HmacSha256(self.parameters.message)


class EncryptAead(Message, frozen=True, rename="camel", tag_field="algorithm", tag="AEAD"):
    key_handle: str
    parameters: AeadParameters
    plaintext: bytes

    @property
    def mechanism(self) -> Aead:
        return Aead(self.parameters.iv, self.parameters.aad)


class EncryptRsaPkcs1(Message, frozen=True, rename="camel", tag_field="algorithm", tag="RSA-PKCS1"):
    key_handle: str
    plaintext: bytes
    parameters: None = None

    @property
    def mechanism(self) -> RsaPkcs1:
        return RsaPkcs1()


class EncryptRsaRaw(Message, frozen=True, rename="camel", tag_field="algorithm", tag="RSA-NO-PADDING"):
    key_handle: str
    plaintext: bytes
    parameters: None = None

    @property
    def mechanism(self) -> RsaNoPadding:
        return RsaNoPadding()


class DecryptAead(Message, frozen=True, rename="camel", tag_field="algorithm", tag="AEAD"):
    key_handle: str
    parameters: AeadParameters
    ciphertext: bytes

    @property
    def mechanism(self) -> Aead:
        return Aead(self.parameters.iv, self.parameters.aad)


class DecryptRsaPkcs1(Message, frozen=True, rename="camel", tag_field="algorithm", tag="RSA-PKCS1"):
    key_handle: str
    ciphertext: bytes
    parameters: None = None

    @property
    def mechanism(self) -> RsaPkcs1:
        return RsaPkcs1()


class DecryptRsaRaw(Message, frozen=True, rename="camel", tag_field="algorithm", tag="RSA-NO-PADDING"):
    key_handle: str
    ciphertext: bytes
    parameters: None = None

    @property
    def mechanism(self) -> RsaNoPadding:
        return RsaNoPadding()


# A route binds whatever msgspec can bind; a choice of Structs is no type in the eyes of a type checker.
SIGN = cast("type[Struct]", SignEcdsa | SignHmac)
ENCRYPT = cast("type[Struct]", EncryptAead | EncryptRsaPkcs1 | EncryptRsaRaw)
DECRYPT = cast("type[Struct]", DecryptAead | DecryptRsaPkcs1 | DecryptRsaRaw)
