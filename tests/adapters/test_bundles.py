"""Merging trust bundles: what stays, in which order, and what no text between the blocks can do."""

import base64
import itertools
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from adapters.wire import bundles as wire
from adapters.wire.bundles import MAX_BUNDLE_BYTES, MAX_WARNINGS, merge_bundles
from adapters.wire.pem import certificate_blocks, whole_der
from tests.adapters.roots import root_der, root_id, root_pem

A, B, C = (root_pem(name) for name in "ABC")
PADDED = next(pem for pem in (root_pem(f"P{number}") for number in itertools.count()) if b"=" in pem)
NAMES = "ABCDE"


def block(content: bytes, label: bytes = b"CERTIFICATE") -> bytes:
    begin, end = b"-----BEGIN " + label + b"-----\n", b"\n-----END " + label + b"-----\n"
    return begin + base64.b64encode(content) + end


def with_serial(serial: bytes) -> bytes:
    """A certificate whose signature no longer fits, which nobody looks at here."""
    der = root_der("A")
    at = der.index(b"\x02\x01\x55")
    return der[: at + 2] + serial + der[at + 3 :]


LEFT_OUT = 'trust bundle "x": block {} is not a certificate, and is left out'

CASES = {
    "order": ([A + B, B + C], A + B + C, []),
    "nothing": ([], b"", []),
    "empty": ([b"", b" \r\n"], b"", []),
    "twice": ([A + A, A], A, []),
    "no newline between": ([(A + B).replace(b"-----\n-----", b"----------")], A + B, []),
    "no newline at the end": ([A.rstrip(), B], A + B, []),
    "one line": ([block(root_der("A"))], A, []),
    "CRLF": ([(A + B).replace(b"\n", b"\r\n")], A + B, []),
    "CR": ([A.replace(b"\n", b"\r")], A, []),
    "BOM": ([b"\xef\xbb\xbf" + A], A, []),
    "not UTF-8": ([b"\xff\xfe caf\xe9\n" + A + b"\x80\x00" + B], A + B, []),
    "comments": ([b"# Root A\nsubject=CN\n" + A + b"\n\n# B\n" + B + b"-- the end"], A + B, []),
    "indented": ([A.replace(b"\n", b"\n   ")], A, []),
    "old label": ([A.replace(b"CERTIFICATE", b"X509 CERTIFICATE")], A, []),
    "a key is none of it": ([block(b"secret", b"PRIVATE KEY") + A], A, []),
    "nor is a trusted certificate": ([block(root_der("B"), b"TRUSTED CERTIFICATE") + A], A, []),
    "bad block": ([A + block(b"junk") + B], A + B, [2]),
    "not base64": ([b"-----BEGIN CERTIFICATE-----\nM*I\n-----END CERTIFICATE-----\n" + B], B, [1]),
    "wrong padding": ([PADDED.replace(b"=", b"") + B + block(b"")], B, [1, 3]),
    "no end": ([A + b"-----BEGIN CERTIFICATE-----\nMIIB"], A, [2]),
    "lost end": ([A.replace(b"-----END CERTIFICATE-----", b"") + B], B, [1]),
    "wrong end": ([A.replace(b"END CERTIFICATE", b"END X509 CERTIFICATE") + B], B, [1]),
    "bytes behind": ([block(root_der("A") + b"\0") + B], B, [1]),
    "two in one": ([block(root_der("A") + root_der("B"))], b"", [1]),
    "cut": ([block(root_der("A")[:-1]) + B], B, [1]),
    "other DER": ([block(b"\x30\x03\x02\x01\x05")], b"", [1]),
}


@pytest.mark.parametrize(("bundles", "pem", "bad"), CASES.values(), ids=CASES)
def test_merge(bundles, pem, bad):
    merged = merge_bundles([("x", content) for content in bundles])
    assert merged.pem == pem
    assert list(merged.warnings) == [LEFT_OUT.format(number) for number in bad]


def test_each_certificate_knows_where_it_is_from():
    merged = merge_bundles([("local", A + B), ("DPS", B + C + B)])
    assert [(one.sha256, one.bundles) for one in merged.certificates] == [
        (root_id("A"), ("local",)),
        (root_id("B"), ("local", "DPS")),
        (root_id("C"), ("DPS",)),
    ]


def test_same_name_and_another_der_are_two():
    other = with_serial(b"\x56")
    merged = merge_bundles([("x", A + block(other))])
    assert [one.pem for one in merged.certificates] == [A, ssl.DER_cert_to_PEM_cert(other).encode()]


def test_the_serial_of_the_originals_own_ca_is_taken():
    """It issues every certificate with serial 0, which stricter readers refuse."""
    assert len(merge_bundles([("x", block(with_serial(b"\0")))]).certificates) == 1


def test_a_bundle_without_any_block_is_told():
    (warning,) = merge_bundles([("local", b"see http://pki.example\n")]).warnings
    assert warning == 'trust bundle "local": holds no certificate'


def test_what_is_too_large_is_cut_and_told():
    merged = merge_bundles([("x", A + b"#" * MAX_BUNDLE_BYTES + B)])
    assert merged.pem == A
    assert merged.warnings == (f'trust bundle "x": is cut off after {MAX_BUNDLE_BYTES} bytes',)


def test_too_many_certificates_are_cut_and_told(monkeypatch):
    monkeypatch.setattr(wire, "MAX_CERTIFICATES", 2)
    merged = merge_bundles([("x", A + A + B + A + C), ("y", A + C)])
    assert merged.pem == A + B
    assert merged.warnings == (
        'trust bundle "x": is left out from block 5 on: it holds too many certificates',
        'trust bundle "y": is left out from block 2 on: it holds too many certificates',
    )
    assert [one.bundles for one in merged.certificates] == [("x", "y"), ("x",)]


def test_too_many_blocks_are_cut_and_told(monkeypatch):
    monkeypatch.setattr(wire, "MAX_BLOCKS", 3)
    merged = merge_bundles([("x", A * 3 + B)])
    assert merged.pem == A
    assert merged.warnings == (
        'trust bundle "x": is left out from block 4 on: it holds too many certificates',
    )


def test_warnings_are_bounded_and_names_are_made_fit():
    merged = merge_bundles([("n\n" * 300, block(b"junk") * 40)])
    assert len(merged.warnings) == MAX_WARNINGS + 1
    assert merged.warnings[-1] == f"and {40 - MAX_WARNINGS} more of the kind"
    assert all(len(one) < 200 and one.isprintable() for one in merged.warnings)


# --- laws --------------------------------------------------------------------------------------------

orders = st.lists(st.sampled_from(NAMES), max_size=8)
junk = st.binary(max_size=40).filter(lambda some: b"-----" not in some)


def pems(names):
    return b"".join(map(root_pem, names))


@given(st.lists(orders, max_size=4))
def test_order_is_that_of_the_first_sight(lists):
    merged = merge_bundles([(str(number), pems(names)) for number, names in enumerate(lists)])
    assert merged.pem == pems(dict.fromkeys(itertools.chain(*lists)))
    assert merged.warnings == ()


@given(orders, orders)
def test_merging_again_changes_nothing(left, right):
    once = merge_bundles([("left", pems(left)), ("right", pems(right))])
    assert merge_bundles([("once", once.pem)]).pem == once.pem
    assert merge_bundles([("once", once.pem), ("right", pems(right))]).pem == once.pem


@given(orders, orders, orders)
def test_how_bundles_are_grouped_does_not_matter(one, two, three):
    flat = merge_bundles([("1", pems(one)), ("2", pems(two)), ("3", pems(three))])
    grouped = merge_bundles(
        [("12", merge_bundles([("1", pems(one)), ("2", pems(two))]).pem), ("3", pems(three))]
    )
    assert grouped.pem == flat.pem


@given(st.lists(st.tuples(junk, st.sampled_from(NAMES)), max_size=6), junk)
def test_text_between_blocks_is_nobodys(parts, last):
    # A line end, or the end of one word and the dashes of the next would make another word.
    content = b"".join(some + b"\n" + root_pem(name) for some, name in parts) + last
    names = dict.fromkeys(name for _, name in parts)
    assert merge_bundles([("x", content)]).pem == pems(names)


@given(st.binary(max_size=400), st.sampled_from([b"", b"-----BEGIN CERTIFICATE-----", A[:200]]))
def test_no_content_is_too_odd(content, before):
    merged = merge_bundles([("x", before + content), ("y", B)])
    assert merged.pem.endswith(B)
    x509.load_pem_x509_certificates(merged.pem)


@given(st.binary(min_size=1, max_size=300))
def test_blocks_give_back_what_was_put_in(content):
    assert list(certificate_blocks(block(content) + block(content, b"X509 CERTIFICATE"))) == [
        content,
        content,
    ]


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"", False),
        (b"\x30", False),
        (b"\x30\x00", True),
        (b"\x31\x00", False),
        (b"\x30\x01", False),
        (b"\x30\x80" + b"\0" * 128, False),
        (b"\x30\x81\x80" + b"\0" * 128, True),
        (b"\x30\x81\x7f" + b"\0" * 127, False),
        (b"\x30\x82\x00\x80" + b"\0" * 128, False),
        (b"\x30\x82\x01\x00" + b"\0" * 256, True),
        (b"\x30\x85" + b"\xff" * 5, False),
        (b"\x30\x84", False),
    ],
)
def test_whole_der(content, whole):
    assert whole_der(content) is whole


def test_real_certificates_are_whole():
    for name in NAMES:
        assert whole_der(root_der(name))
        assert root_pem(name) == x509.load_der_x509_certificate(root_der(name)).public_bytes(Encoding.PEM)
