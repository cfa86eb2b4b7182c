"""Key handles: the original's bytes, and nothing else passes."""

import base64
import hashlib
import hmac

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.driven.keys.handles import (
    MAX_HANDLE_CHARS,
    DerivedHandle,
    KeyHandle,
    PairHandle,
    make_handle,
    read_handle,
)
from adapters.errors import RequestRefused
from tests.adapters.keyd_home import H_DEVICE, HK1, NONCE, VALIDATION_KEY, b64, fixed_nonce

DATA = b"module01:12345:primary"
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
MEANINGS = st.one_of(
    st.builds(PairHandle, IDS, st.none() | st.integers(0, 2**53)),
    st.builds(KeyHandle, IDS),
    st.builds(DerivedHandle, st.just(HK1), st.binary(max_size=200)),
)


def make(meaning, nonce=None):
    return make_handle(VALIDATION_KEY, meaning, fixed_nonce(64) if nonce is None else nonce)


def read(handle, key=VALIDATION_KEY):
    return read_handle(key, handle)


def signed(content):
    """A handle around whatever content, with the right signature."""
    mac = hmac.digest(VALIDATION_KEY, content, hashlib.sha256)
    return f"sr={b64(content)}&sig={b64(mac)}"


def content_of(handle):
    return base64.b64decode(handle.split("&")[0].removeprefix("sr="))


def refused(handle, key=VALIDATION_KEY):
    with pytest.raises(RequestRefused) as caught:
        read(handle, key)
    assert (caught.value.parameter, caught.value.message) == ("handle", "invalid handle")


def test_e19_and_e20():
    assert make(PairHandle("device-id")) == H_DEVICE
    assert make(KeyHandle("k1")) == HK1
    assert content_of(H_DEVICE).decode() == f'{{"key_id":{{"KeyPair":"device-id"}},"nonce":"{NONCE}"}}'


def test_e23():
    handle = make(DerivedHandle(HK1, DATA))
    assert handle.endswith("&sig=1oRFhTkvVlvD+bHuIqwmKKV9SOwFrmY0y+n2Md/Yu1I=")
    numbers = ",".join(str(byte) for byte in DATA)
    assert (
        content_of(handle).decode() == f'{{"key_id":{{"Derived":["{HK1}",[{numbers}]]}},"nonce":"{NONCE}"}}'
    )


def test_the_generation_stands_last():
    handle = make(PairHandle("aziot-dps-identity-cert-key", 7))
    assert content_of(handle).decode() == (
        f'{{"key_id":{{"KeyPair":"aziot-dps-identity-cert-key"}},"nonce":"{NONCE}","generation":7}}'
    )


@given(MEANINGS, st.binary(min_size=64, max_size=64))
def test_what_is_made_can_be_read(meaning, nonce):
    assert read(make(meaning, nonce)) == meaning


@given(MEANINGS, st.data())
def test_one_changed_character_is_enough(meaning, data):
    handle = make(meaning)
    at = data.draw(st.integers(0, len(handle) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != handle[at]))
    refused(handle[:at] + other + handle[at + 1 :])


@given(MEANINGS, st.data())
def test_a_piece_of_it_is_not_enough(meaning, data):
    handle = make(meaning)
    refused(handle[: data.draw(st.integers(0, len(handle) - 1))])


@given(MEANINGS, st.binary(min_size=1, max_size=64))
def test_another_validation_key_made_it(meaning, key):
    refused(make(meaning), key)


@pytest.mark.parametrize(
    "handle",
    [
        "",
        "&",
        "sr=&sig=",
        "sr=e30=&sig=AAAA",
        HK1.replace("&sig=", "&SIG="),
        HK1.split("&")[0],
        HK1.split("&")[1],
        HK1.replace("=&", "&"),
        HK1 + "=",
        HK1 + " ",
        HK1.replace("sr=", "sr= "),
        # Two bits behind the last byte are set: Python's decoder would not mind.
        HK1.replace("viYU=", "viYV="),
        HK1 + "&sig=AAAA",
        "sr=\u00e9&sig=\u00e9",
        "x" * 100_000,
        HK1 + "&" * MAX_HANDLE_CHARS,
    ],
)
def test_garbage(handle):
    refused(handle)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 5000,
        b'{"key_id":{},"nonce":""}',
        b'{"key_id":{"Key":"a"}}',
        b'{"key_id":{"Key":1},"nonce":""}',
        b'{"key_id":{"Other":"a"},"nonce":""}',
        b'{"key_id":{"Key":"a","KeyPair":"a"},"nonce":""}',
        b'{"key_id":{"Derived":"a"},"nonce":""}',
        b'{"key_id":{"Derived":["a"]},"nonce":""}',
        b'{"key_id":{"Derived":["a",[256]]},"nonce":""}',
        b'{"key_id":{"Derived":["a",[-1]]},"nonce":""}',
        b'{"key_id":{"KeyPair":"a"},"nonce":"","generation":"7"}',
    ],
)
def test_a_genuine_signature_does_not_excuse_the_content(content):
    refused(signed(content))


def test_parts_nobody_knows_are_passed_over_and_the_last_counts():
    assert read(f"v=2&{HK1}&later") == KeyHandle("k1")
    assert read(f"sr=AAAA&sig=AAAA&{HK1}") == KeyHandle("k1")


def test_members_of_a_later_release_are_passed_over():
    assert read(signed(b'{"key_id":{"Key":"k1"},"nonce":"","more":[1]}')) == KeyHandle("k1")


def test_a_handle_has_its_bounds():
    make(DerivedHandle(HK1, b"\xff" * 2000))
    for size in (3000, MAX_HANDLE_CHARS, 1_000_000):
        with pytest.raises(RequestRefused, match="longer than"):
            make(DerivedHandle(HK1, b"\xff" * size))
    with pytest.raises(RequestRefused, match="longer than"):
        make(KeyHandle("x" * MAX_HANDLE_CHARS))


def test_the_base_handle_is_not_shown():
    assert repr(DerivedHandle(HK1, b"data")) == "DerivedHandle()"


def test_ids_are_spelt_as_json_spells_them():
    handle = make(KeyHandle('a"b\\c/d\né\x7f'))
    assert content_of(handle).startswith(rb'{"key_id":{"Key":"a\"b\\c/d\n' + "é\x7f".encode() + b'"}')
    assert msgspec.json.decode(content_of(handle))["key_id"]["Key"] == 'a"b\\c/d\né\x7f'
