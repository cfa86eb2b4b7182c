"""Wildcards, and the ids that belong to the machine."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.driving.ownership import matches, owns_certificate, owns_key

ALPHABET = st.text("ab*?[]!-", max_size=12)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("example1", "example1", True),
        ("example1", "example12", False),
        ("aziot-*", "aziot-", True),
        ("aziot-*", "aziot-edged-ca", True),
        ("aziot-*", "xaziot-edged", False),
        ("*", "", True),
        ("?", "", False),
        ("?", "ä", True),
        ("?", "ab", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("**", "anything", True),
        ("", "", True),
        ("", "a", False),
        ("A", "a", False),
        ("[ab]", "a", False),
        ("a\\*", "a*", False),
        ("*", "with/slash and\nnewline", True),
    ],
)
def test_a_pattern_matches_the_whole_id(pattern, name, expected):
    assert matches(pattern, name) is expected


@given(pattern=ALPHABET, name=ALPHABET)
def test_a_match_is_what_the_same_regular_expression_finds(pattern, name):
    translated = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    assert matches(pattern, name) == (re.fullmatch(translated, name, re.DOTALL) is not None)
    if not set(pattern) & set("[]!"):
        assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


def test_a_pattern_of_stars_against_a_long_id_is_quick():
    # A backtracking matcher needs longer than the universe has for this one.
    assert matches("*a" * 40, "a" * 4096 + "b") is False


@pytest.mark.parametrize(
    ("key_id", "owned"),
    [
        ("aziot-dps-identity-cert-key", True),
        ("aziot_identityd_master_id", True),
        ("handle-validation-key", True),
        ("device-id", False),
        ("aziot-dps-identity-cert", False),
    ],
)
def test_keys_of_the_machine(key_id, owned):
    assert owns_key(key_id) is owned


@pytest.mark.parametrize(
    ("certificate_id", "owned"),
    [
        ("aziot-dps-identity-cert", True),
        ("plant-roots", True),
        ("aziot-dps-trust-bundle", False),
        ("device-id", False),
    ],
)
def test_certificates_of_the_machine_under_a_renamed_bundle(certificate_id, owned):
    assert owns_certificate(certificate_id, "plant-roots") is owned
