"""Certificates that certd issues: who signs, what is in them, what is refused (services.md §4.5, §4.6)."""

import base64
import datetime

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.driven.certificates import embedded
from adapters.errors import RequestRefused, StoreUnavailable
from adapters.ports import Issuer
from statemachine.settings import IssuanceRule, LocalCa
from tests.adapters.certd_parts import (
    DAY,
    EC_KEYS,
    HANDLE,
    NOW,
    RSA_KEY,
    Certd,
    Clock,
    Keys,
    ca_pem,
    csr,
    instant,
    key_usage,
    named,
)

LEAF_KEY, CA_KEY, OTHER_KEY = EC_KEYS
SELF_SIGNED = IssuanceRule(method="self_signed")
LOCAL_CA = IssuanceRule(method="local_ca")
NAMES = LocalCa(certificate_id="local-ca", key_id="ca-key")
BY_CA = Issuer(certificate_id="ca", key_handle=f"{HANDLE}ca-key")
CA_FALSE = x509.BasicConstraints(ca=False, path_length=None)
CA_TRUE = x509.BasicConstraints(ca=True, path_length=0)
SERVER = (
    x509.SubjectAlternativeName([x509.DNSName("device.example")]),
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    (key_usage(digital_signature=True), True),
)


def with_ca(root, ca_key=CA_KEY, *, rule=LOCAL_CA, **ca):
    """Its local CA is also there under the id ``ca``, for callers who name it."""
    certd = Certd(
        root,
        keys=Keys(**{"ca-key": ca_key, "x": LEAF_KEY}),
        rules={"x": rule} if rule else {},
        local_ca=NAMES,
    )
    pem = ca_pem(ca_key, **ca)
    certd.put("local-ca", pem)
    certd.put("ca", pem)
    return certd


def with_self(root, key=LEAF_KEY, **rule):
    return Certd(root, keys=Keys(x=key), rules={"x": IssuanceRule(method="self_signed", **rule)})


def chain_of(pem):
    return x509.load_pem_x509_certificates(pem)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


# --- who signs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [LEAF_KEY, RSA_KEY], ids=["ec", "rsa"])
def test_self_signed(tmp_path, key):
    certd = with_self(tmp_path, key)
    pem = certd.create("x", csr(key, "leaf"))
    [leaf] = chain_of(pem)
    leaf.verify_directly_issued_by(leaf)
    assert leaf.issuer == leaf.subject == named("leaf")
    assert leaf.public_key() == key.public_key()
    assert leaf.version is x509.Version.v3
    assert isinstance(leaf.signature_hash_algorithm, SHA256)
    assert certd.file("x") == pem == certd.read("x")


@pytest.mark.parametrize("ca_key", [CA_KEY, RSA_KEY], ids=["ec", "rsa"])
@pytest.mark.parametrize("leaf_key", [LEAF_KEY, RSA_KEY], ids=["for ec", "for rsa"])
@pytest.mark.parametrize("issuer", [None, BY_CA], ids=["local ca", "named"])
def test_issued_by_a_ca(tmp_path, ca_key, leaf_key, issuer):
    certd = with_ca(tmp_path, ca_key)
    pem = certd.create("x", csr(leaf_key, "leaf", *SERVER), issuer)
    leaf, ca = chain_of(pem)
    assert ca.public_bytes(Encoding.PEM) == certd.file("ca")
    assert leaf.public_key() == leaf_key.public_key()
    verifier = (
        PolicyBuilder()
        .store(Store([ca]))
        .time(instant(NOW + DAY).replace(tzinfo=None))
        .build_server_verifier(x509.DNSName("device.example"))
    )
    assert verifier.verify(leaf, []) == [leaf, ca]
    assert certd.file("x") == pem


def test_the_whole_chain_of_the_issuer_follows(tmp_path):
    certd = with_ca(tmp_path)
    root = ca_pem(OTHER_KEY, "root")
    certd.put("ca", b"words\n" + certd.file("ca").rstrip(b"\n") + b"\n" + root)
    pem = certd.create("x", csr(LEAF_KEY), BY_CA)
    assert pem.endswith(certd.file("local-ca") + root)
    assert len(chain_of(pem)) == 3


@pytest.mark.filterwarnings("ignore:Parsed a serial")
def test_a_ca_that_the_original_made_goes_on(tmp_path):
    """It has the serial number 0 (services.md §10, quirk 15)."""
    certd = with_ca(tmp_path)
    made = x509.load_pem_x509_certificate(ca_pem(CA_KEY)).public_bytes(Encoding.DER)
    position = made.index(b"\xa0\x03\x02\x01\x02\x02\x01\x07") + 7
    zero = x509.load_der_x509_certificate(made[:position] + b"\0" + made[position + 1 :])
    assert zero.serial_number == 0
    certd.put("local-ca", zero.public_bytes(Encoding.PEM))
    leaf, ca = chain_of(certd.create("x", csr(LEAF_KEY)))
    leaf.verify_directly_issued_by(ca)
    assert ca == zero


def test_a_named_issuer_needs_no_rule(tmp_path):
    leaf, _ = chain_of(with_ca(tmp_path, rule=None).create("x", csr(LEAF_KEY), BY_CA))
    assert leaf.not_valid_after_utc == instant(NOW + 30 * DAY)


def test_a_named_issuer_comes_before_the_method_of_the_rule(tmp_path):
    rule = IssuanceRule(method="self_signed", expiry_days=5, common_name="by rule")
    leaf, ca = chain_of(with_ca(tmp_path, rule=rule).create("x", csr(LEAF_KEY), BY_CA))
    leaf.verify_directly_issued_by(ca)
    assert leaf.subject == named("by rule")
    assert leaf.not_valid_after_utc == instant(NOW + 5 * DAY)


def test_what_was_there_is_replaced(tmp_path):
    certd = with_self(tmp_path)
    first = certd.create("x", csr(LEAF_KEY))
    second = certd.create("x", csr(LEAF_KEY))
    assert first != second == certd.file("x")
    assert len(certd.files()) == 1


# --- what is in them ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expiry_days", "issuer_days", "expected_days"),
    [(30, 1000, 30), (1, 1000, 1), (1000, 999, 999), (2000, 1000, 1000)],
)
def test_validity(tmp_path, expiry_days, issuer_days, expected_days):
    rule = IssuanceRule(method="local_ca", expiry_days=expiry_days)
    certd = with_ca(tmp_path, rule=rule, end=NOW + issuer_days * DAY)
    certd.clock.now = NOW + 999  # certificates know no milliseconds
    leaf, _ = chain_of(certd.create("x", csr(LEAF_KEY)))
    assert leaf.not_valid_before_utc == instant(NOW)
    assert leaf.not_valid_after_utc == instant(NOW + expected_days * DAY)


def test_an_expiry_past_the_calendar_is_the_end_of_it(tmp_path):
    [leaf] = chain_of(with_self(tmp_path, expiry_days=2**32 - 1).create("x", csr(LEAF_KEY)))
    assert leaf.not_valid_after_utc == datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def test_serials_are_positive_different_and_short_enough(tmp_path):
    certd = with_self(tmp_path)
    serials = {chain_of(certd.create("x", csr(LEAF_KEY)))[0].serial_number for _ in range(30)}
    assert len(serials) == 30
    assert all(0 < serial < 2**128 for serial in serials)
    assert max(serial.bit_length() for serial in serials) > 120


@pytest.mark.parametrize(("drawn", "serial"), [(0, 1), (2**128 - 2, 2**128 - 1)])
def test_the_ends_of_the_draw(tmp_path, monkeypatch, drawn, serial):
    monkeypatch.setattr(embedded.secrets, "randbelow", lambda end: drawn if end == 2**128 - 1 else None)
    assert chain_of(with_self(tmp_path).create("x", csr(LEAF_KEY)))[0].serial_number == serial


def test_extensions_are_copied_and_completed(tmp_path):
    odd = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x04\x03odd")
    asked = [*SERVER, (odd, True), (CA_FALSE, True)]
    leaf, ca = chain_of(with_ca(tmp_path).create("x", csr(LEAF_KEY, "leaf", *asked)))
    expected = [(one if isinstance(one, tuple) else (one, False)) for one in asked]
    identifier = x509.SubjectKeyIdentifier.from_public_key(LEAF_KEY.public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        extension(ca, x509.SubjectKeyIdentifier).value
    )
    expected += [(identifier, False), (authority, False)]
    assert [(one.value, one.critical) for one in leaf.extensions] == expected


def test_key_identifiers_that_are_asked_for_stay(tmp_path):
    mine = x509.SubjectKeyIdentifier(b"mine")
    theirs = x509.AuthorityKeyIdentifier(b"theirs", None, None)
    leaf, _ = chain_of(with_ca(tmp_path).create("x", csr(LEAF_KEY, "leaf", mine, theirs)))
    assert extension(leaf, x509.SubjectKeyIdentifier).value == mine
    assert extension(leaf, x509.AuthorityKeyIdentifier).value == theirs


def test_an_issuer_without_an_identifier_gives_none(tmp_path):
    leaf, _ = chain_of(with_ca(tmp_path, identifier=False).create("x", csr(LEAF_KEY)))
    present = {one.oid for one in leaf.extensions}
    assert present == {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.SUBJECT_KEY_IDENTIFIER}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, "CN=asked for"),
        ({"common_name": "by rule"}, "CN=by rule"),
        ({"common_name": "n" * 64}, f"CN={'n' * 64}"),
        ({"common_name": "n" * 65}, f"CN={'n' * 64}"),
        ({"common_name": "ä" * 65}, f"CN={'ä' * 32}"),
        ({"subject": (("CN", "n" * 70),)}, f"CN={'n' * 64}"),
        (
            {"subject": (("O", "Contoso"), ("CN", "dev"), ("C", "DE"), ("emailAddress", "a@example.org"))},
            "1.2.840.113549.1.9.1=a@example.org,O=Contoso,CN=dev,C=DE",
        ),
    ],
)
@pytest.mark.parametrize("issuer", [None, BY_CA], ids=["rule", "named"])
def test_subjects(tmp_path, rule, expected, issuer):
    certd = with_ca(tmp_path, rule=IssuanceRule(method="local_ca", **rule))
    leaf, _ = chain_of(certd.create("x", csr(LEAF_KEY, "asked for"), issuer))
    assert leaf.subject.rfc4514_string() == expected


def test_a_self_signed_subject_is_its_issuer_too(tmp_path):
    [leaf] = chain_of(with_self(tmp_path, common_name="by rule").create("x", csr(LEAF_KEY, "asked")))
    assert leaf.subject == leaf.issuer == named("by rule")


def test_a_subject_may_be_in_the_alternative_name_only(tmp_path):
    nobody = x509.Name([])
    leaf, _ = chain_of(with_ca(tmp_path).create("x", csr(LEAF_KEY, nobody, *SERVER)))
    assert leaf.subject == nobody
    with pytest.raises(RequestRefused, match="needs a subject") as caught:
        with_self(tmp_path).create("x", csr(LEAF_KEY, nobody, *SERVER))
    assert caught.value.parameter == "csr"


# --- CA certificates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", [(CA_TRUE, True), (CA_TRUE, False), (key_usage(key_cert_sign=True), True)], ids=str
)
@pytest.mark.parametrize("issuer", [None, BY_CA], ids=["rule", "named"])
def test_a_ca_is_made_only_where_a_rule_allows_it(tmp_path, asked, issuer):
    certd = with_ca(tmp_path)
    with pytest.raises(RequestRefused, match=r"allow_ca = true in \[cert_issuance\.x\]") as caught:
        certd.create("x", csr(LEAF_KEY, "leaf", asked), issuer)
    assert caught.value.parameter == "csr"
    assert (certd.file("x"), certd.keys.used) == (None, 0)
    certd = with_ca(tmp_path, rule=IssuanceRule(method="local_ca", allow_ca=True))
    leaf, _ = chain_of(certd.create("x", csr(LEAF_KEY, "leaf", asked), issuer))
    assert extension(leaf, type(asked[0])).value == asked[0]


def test_a_named_issuer_without_a_rule_makes_no_ca(tmp_path):
    with pytest.raises(RequestRefused, match="allow_ca"):
        with_ca(tmp_path, rule=None).create("x", csr(LEAF_KEY, "leaf", CA_TRUE), BY_CA)


@pytest.mark.parametrize("allow_ca", [False, True])
def test_what_does_not_say_that_it_is_no_ca_says_so(tmp_path, allow_ca):
    [leaf] = chain_of(with_self(tmp_path, allow_ca=allow_ca).create("x", csr(LEAF_KEY)))
    said = [one for one in leaf.extensions if one.oid == ExtensionOID.BASIC_CONSTRAINTS]
    assert [(one.value, one.critical) for one in said] == ([] if allow_ca else [(CA_FALSE, True)])


# --- what is refused, and leaves what was there ------------------------------------------------------


GOOD = csr(LEAF_KEY)


def forged():
    """The request of one key with the signature of another over the same subject."""
    mine = x509.load_pem_x509_csr(csr(LEAF_KEY).encode())
    der = bytearray(mine.public_bytes(Encoding.DER))
    der[der.index(b"leaf")] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a PEM certificate request"),
        ("hello", "not a PEM certificate request"),
        (ca_pem(LEAF_KEY).decode(), "not a PEM certificate request"),
        (GOOD[:200], "not a PEM certificate request"),
        ("\ud800", "not a PEM certificate request"),
        (GOOD.replace("MI", "AA", 1), "not a PEM certificate request"),
        (" " * 65_536 + GOOD, "larger than 65536 bytes"),
        (forged(), "its signature is not by its key"),
        (
            csr(
                LEAF_KEY,
                "leaf",
                x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x04\x03odd"),
            ),
            "not a PEM certificate request",
        ),
    ],
    ids=["empty", "text", "certificate", "cut", "surrogate", "damaged", "huge", "forged", "extension"],
)
def test_requests_that_do_not_do(tmp_path, text, said):
    certd = with_self(tmp_path)
    certd.put("x", b"before")
    with pytest.raises(RequestRefused, match=said) as caught:
        certd.create("x", text)
    assert caught.value.parameter == "csr"
    assert (certd.file("x"), certd.keys.used) == (b"before", 0)


def test_without_a_rule_the_message_says_how_to_make_one(tmp_path):
    with pytest.raises(RequestRefused, match=r'"norule" has no issuance rule.*\[cert_issuance\]') as caught:
        with_ca(tmp_path).create("norule", GOOD)
    assert caught.value.parameter is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not found"),
        (b"", "invalid issuer"),
        (b"hello", "invalid issuer"),
        (ca_pem(CA_KEY) * 17, "invalid issuer"),
        (b" " * 300_000 + ca_pem(CA_KEY), "invalid issuer"),
        (ca_pem(CA_KEY)[:300], "invalid issuer"),
        (ca_pem(CA_KEY, end=NOW), "invalid issuer: the issuer expired at 2025-11-24T16:00:00Z"),
    ],
    ids=["absent", "empty", "text", "many", "huge", "cut", "expired"],
)
def test_issuers_that_do_not_do(tmp_path, content, said):
    certd = with_ca(tmp_path)
    if content is None:
        certd.delete("ca")
    else:
        certd.put("ca", content)
    with pytest.raises(RequestRefused, match=f"^{said}") as caught:
        certd.create("x", GOOD, BY_CA)
    assert caught.value.parameter == "issuer.certId"
    assert (certd.file("x"), certd.keys.used) == (None, 0)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda certd: certd.delete("local-ca"), '"local-ca" does not exist'),
        (lambda certd: certd.put("local-ca", b""), '"local-ca" is no certificate'),
        (lambda certd: certd.put("local-ca", ca_pem(CA_KEY, end=NOW - DAY)), "expired"),
        (lambda certd: certd.put("local-ca", ca_pem(OTHER_KEY)), "for another key"),
        (lambda certd: setattr(certd.keys, "signed_by", OTHER_KEY), "signature is not by the issuer's key"),
        (lambda certd: certd.keys.pairs.pop("ca-key"), "key pair ca-key cannot be used"),
        (
            lambda certd: setattr(certd, "settings", type(certd.settings)(rules={"x": LOCAL_CA})),
            r"set \"cert\" and \"pk\" in \[cert_issuance.local_ca\]",
        ),
    ],
    ids=["absent", "empty", "expired", "mismatch", "wrong signature", "no key", "not configured"],
)
def test_a_local_ca_that_does_not_do_is_nobodys_parameter(tmp_path, spoil, said):
    certd = with_ca(tmp_path)
    certd.put("x", b"before")
    spoil(certd)
    with pytest.raises((RequestRefused, StoreUnavailable), match=said) as caught:
        certd.create("x", GOOD)
    assert getattr(caught.value, "parameter", None) is None
    assert certd.file("x") == b"before"


def test_self_signed_is_for_the_key_pair_of_the_same_name(tmp_path):
    certd = with_self(tmp_path, OTHER_KEY)
    with pytest.raises(RequestRefused, match="for another key") as caught:
        certd.create("x", GOOD)
    assert (caught.value.parameter, certd.file("x"), certd.keys.used) == (None, None, 0)


@pytest.mark.parametrize("issuer", [None, BY_CA], ids=["rule", "named"])
def test_a_key_for_another_certificate_is_nobodys_parameter(tmp_path, issuer):
    certd = with_ca(tmp_path)
    certd.keys.pairs["ca-key"] = OTHER_KEY
    with pytest.raises(RequestRefused, match="for another key") as caught:
        certd.create("x", GOOD, issuer)
    assert (caught.value.parameter, certd.file("x"), certd.keys.used) == (None, None, 0)


def test_a_handle_that_does_not_do_is_told_nobody(tmp_path):
    certd = with_ca(tmp_path)
    stolen = Issuer(certificate_id="ca", key_handle=f"{HANDLE}stolen")
    with pytest.raises(StoreUnavailable, match="cannot be used: invalid handle") as caught:
        certd.create("x", GOOD, stolen)
    assert HANDLE not in caught.value.message
    assert certd.file("x") is None


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("algorithm", "DSA"),
        ("ec-curve-oid", "BgUrgQQAIg=="),
        ("ec-point", "AAAA"),
        ("ec-point", "not base64"),
    ],
)
def test_a_key_of_another_kind(tmp_path, monkeypatch, name, answer):
    certd = with_self(tmp_path)
    real = certd.keys.public_parameter

    async def parameter(handle, asked):
        return answer if asked == name else await real(handle, asked)

    monkeypatch.setattr(certd.keys, "public_parameter", parameter)
    with pytest.raises(StoreUnavailable) as caught:
        certd.create("x", GOOD)
    assert caught.value.code == "key-unusable"


def test_keys_that_fail_while_they_sign(tmp_path):
    certd = with_self(tmp_path)

    async def fail():
        raise StoreUnavailable("the disk is gone", code="io-error")

    certd.keys.before_use = fail
    with pytest.raises(StoreUnavailable, match="cannot be used: the disk is gone"):
        certd.create("x", GOOD)
    assert certd.file("x") is None


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ((("XX", "y"),), "unknown attribute 'XX'; known are C, CN"),
        ((("C", "Germany"),), "cannot be one of a certificate"),
        ((("CN", ""),), "cannot be one of a certificate"),
        ((("emailAddress", "ä@example.org"),), "emailAddress has characters"),
        ((("serialNumber", "no_1"),), "serialNumber has characters"),
    ],
)
def test_configured_subjects_that_do_not_do(tmp_path, subject, said):
    certd = with_ca(tmp_path, rule=IssuanceRule(method="local_ca", subject=subject))
    with pytest.raises(RequestRefused, match=said):
        certd.create("x", GOOD)
    assert certd.file("x") is None


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_request_is_refused(position, flip):
    """Unless the damage is in how the signature is written, and it still is one of what was asked for."""
    whole = x509.load_pem_x509_csr(csr(LEAF_KEY, "leaf", *SERVER).encode())
    der = bytearray(whole.public_bytes(Encoding.DER))
    der[position % len(der)] ^= flip
    text = (
        "-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(bytes(der)).decode()
        + "-----END CERTIFICATE REQUEST-----\n"
    )
    try:
        embedded.read_request(text)
    except RequestRefused as refused:
        parameter = refused.parameter
    else:
        read = x509.load_pem_x509_csr(text.encode())
        parameter = "csr" if read.tbs_certrequest_bytes == whole.tbs_certrequest_bytes else "forged"
    assert parameter == "csr"


def test_the_subject_of_a_request_is_kept_as_it_is_written(tmp_path):
    several = x509.Name(
        [
            x509.RelativeDistinguishedName(
                [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.USER_ID, "b")]
            ),
            x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "c")]),
        ]
    )
    [leaf] = chain_of(with_self(tmp_path).create("x", csr(LEAF_KEY, several)))
    assert leaf.subject.public_bytes() == several.public_bytes()


# --- waiting for keys --------------------------------------------------------------------------------


def test_keys_that_take_their_time_keep_nobody_from_reading_and_writing(tmp_path):
    certd = with_ca(tmp_path)
    certd.put("there", b"content")

    async def main():
        free = trio.Event()
        certd.keys.before_use = free.wait
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(certd.certificates.create_certificate, "x", GOOD, None)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert await certd.certificates.read_certificate("there") == b"content"
            assert await certd.certificates.read_certificate("x") is None
            await certd.certificates.delete_certificate("there")
            await trio.to_thread.run_sync(lambda: None)
            free.set()

    trio.run(main)
    assert certd.keys.used == 12
    assert certd.file("x").startswith(b"-----BEGIN CERTIFICATE-----")
    assert certd.file("there") is None


def test_keys_that_need_threads_get_them(tmp_path):
    certd = with_self(tmp_path)

    async def main():
        everybodys = trio.to_thread.current_default_thread_limiter()
        everybodys.total_tokens = 1

        async def in_thread():
            await trio.to_thread.run_sync(lambda: None)

        certd.keys.before_use = in_thread
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(certd.certificates.create_certificate, "x", GOOD, None)

    trio.run(main)
    assert certd.keys.used == 10


def test_a_caller_that_is_gone_frees_what_waits_for_keys(tmp_path):
    certd = with_self(tmp_path)

    async def main():
        certd.keys.before_use = trio.sleep_forever
        with trio.move_on_after(10) as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(certd.certificates.create_certificate, "x", GOOD, None)
                await trio.testing.wait_all_tasks_blocked(0.02)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        certd.keys.before_use = trio.lowlevel.checkpoint
        return await certd.certificates.create_certificate("x", GOOD, None)

    assert trio.run(main) == certd.file("x")
    assert certd.keys.used == 1


def test_the_clock_is_asked_each_time(tmp_path):
    certd = Certd(tmp_path, keys=Keys(x=LEAF_KEY), clock=Clock(NOW), rules={"x": SELF_SIGNED})
    certd.create("x", GOOD)
    certd.clock.now += DAY
    [leaf] = chain_of(certd.create("x", GOOD))
    assert leaf.not_valid_before_utc == instant(NOW + DAY)


# --- a local CA that is made here --------------------------------------------------------------------


class MakingKeys(Keys):
    """A key service that makes pairs, too."""

    async def create_key_pair(self, key_id, algorithms):
        await trio.lowlevel.checkpoint()
        self.pairs.setdefault(key_id, CA_KEY)
        return HANDLE + key_id


def without_ca(root, **rule):
    """certd whose CA is to be made at its first use; ``rule`` is the CA's, empty for none."""
    rules = {"x": LOCAL_CA, "y": LOCAL_CA}
    if rule:
        rules["local-ca"] = IssuanceRule(**rule)
    return Certd(root, keys=MakingKeys(), rules=rules, local_ca=NAMES)


@pytest.mark.parametrize(
    ("named_so", "cn"), [({"common_name": "plant CA"}, "plant CA"), ({}, embedded.LOCAL_CA_NAME)]
)
def test_a_local_ca_is_made_at_its_first_use_and_kept(tmp_path, named_so, cn):
    certd = without_ca(tmp_path, method="self_signed", allow_ca=True, expiry_days=3650, **named_so)
    leaf, ca = chain_of(certd.create("x", csr(LEAF_KEY, "leaf")))
    leaf.verify_directly_issued_by(ca)
    assert ca.subject == ca.issuer == named(cn)
    assert extension(ca, x509.BasicConstraints).value.ca
    assert extension(ca, x509.KeyUsage).value.key_cert_sign
    again, same = chain_of(certd.create("y", csr(LEAF_KEY, "other")))
    assert same == ca
    assert again.serial_number != leaf.serial_number


def test_requests_that_wait_for_the_same_ca_get_the_same(tmp_path):
    certd = without_ca(tmp_path, method="self_signed", allow_ca=True)
    made = {}

    async def create(name):
        made[name] = await certd.certificates.create_certificate(name, csr(LEAF_KEY, name), None)

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, "x")
            nursery.start_soon(create, "y")

    trio.run(main)
    assert chain_of(made["x"])[1] == chain_of(made["y"])[1] == chain_of(certd.file("local-ca"))[0]


@pytest.mark.parametrize("rule", [{}, {"method": "local_ca"}, {"method": "self_signed"}])
def test_no_ca_is_made_without_a_rule_that_allows_one(tmp_path, rule):
    certd = without_ca(tmp_path, **rule)
    with pytest.raises(RequestRefused) as caught:
        certd.create("x", csr(LEAF_KEY, "leaf"))
    assert caught.value.parameter is None
    assert "does not exist" in caught.value.message
    assert certd.keys.pairs == {}
    assert certd.file("x") is certd.file("local-ca") is None
