"""Vectors of cloud.md §1.4 and §1.5."""

import base64

import pytest

from adapters.wire.sas import derive_group_key, dps_token, hub_token

KEY = bytes(range(32))


def test_dps_vector():
    assert dps_token("0ne00AbCdEf", "Dev-1", KEY, 1700000000) == (
        "SharedAccessSignature sr=0ne00abcdef/registrations/dev-1"
        "&sig=%2Bxo0IlQKp2MJ0fVAV6j%2BW6f%2FrpnlpXteD1T2BxFcJ3k%3D&se=1700000000&skn=registration"
    )


def test_hub_vector():
    assert hub_token("Contoso.azure-devices.net", "Dev-1", KEY, 1700000000) == (
        "SharedAccessSignature sr=contoso.azure-devices.net/devices/dev-1"
        "&sig=BUdjJLldIeSV4qtbSt5l%2Fb%2FUlSI8F71UDmGBw1uYZt4%3D&se=1700000000"
    )


def test_group_key_vector():
    group = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
    derived = derive_group_key(base64.b64decode(group), "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
    assert base64.b64encode(derived) == b"Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="


@pytest.mark.parametrize(
    ("registration_id", "encoded"),
    [
        ("a:b.c_d-e", "a:b.c_d-e"),
        ("a b", "a%20b"),
        ('"#<>?`{}=', "%22%23%3C%3E%3F%60%7B%7D%3D"),
        ("É", "%C3%A9"),
        ("!$%&'()*+,;@[\\]^|~", "!$%&'()*+,;@[\\]^|~"),
    ],
)
def test_the_set_that_is_escaped(registration_id, encoded):
    assert dps_token("s", registration_id, KEY, 1).startswith(
        f"SharedAccessSignature sr=s/registrations/{encoded}&sig="
    )
