"""Which keys a reload found changed, and when each takes effect."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from adapters import config
from adapters.config_changes import FIELDS, changes
from adapters.config_setting import DEFAULTS
from statemachine.settings import (
    IssuanceRule,
    IssuedSource,
    NoProvisioning,
    SymmetricKeySource,
    X509Source,
)

DPS = """
[provisioning]
source = "dps"
global_endpoint = "https://dps.example.org"
id_scope = "0ne0001"
[provisioning.attestation]
method = "symmetric_key"
registration_id = "press-17"
symmetric_key = { value = "AAEC" }
"""
MANUAL = """
[provisioning]
source = "manual"
iothub_hostname = "hub.example.org"
device_id = "press-17"
[provisioning.authentication]
method = "sas"
device_id_pk = { value = "AAEC" }
"""


def found(before: str, after: str, *, started: str | None = None, another: bool = False) -> dict[str, str]:
    old = config.parse("before", before)
    start = old if started is None else config.parse("started", started)
    return dict(changes(old, config.parse("after", after), started=start, another=another))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (DPS, {}),
        ("cloud_retries = 1\n" + DPS, {}),
        ("cloud_retries = 4\n" + DPS, {"cloud_retries": "now"}),
        ('dps_trust_bundle = "roots"\n' + DPS, {"dps_trust_bundle": "next"}),
        (DPS.replace("AAEC", "AAED"), {"provisioning.attestation.symmetric_key": "next"}),
        (
            DPS.replace('value = "AAEC"', 'uri = "file:///key"'),
            {"provisioning.attestation.symmetric_key": "next"},
        ),
        (DPS + "[identityd.limits]\nconnections = 9\n", {"identityd.limits.connections": "restart"}),
        (DPS + "[aziot_max_requests]\nkeyd = 3\n", {"aziot_max_requests.keyd": "restart"}),
        (DPS + '[identityd.keys]\nalgorithm = "rsa-2048"\n', {"identityd.keys.algorithm": "next"}),
        (DPS + "[identityd.control]\nprincipals = [7]\n", {"identityd.control.principals": "now"}),
        (
            DPS + "[identityd.renewal]\nearliest_percent = 50\nlatest_percent = 60\n",
            {"identityd.renewal.earliest_percent": "now", "identityd.renewal.latest_percent": "now"},
        ),
        (
            DPS + '[preloaded_keys]\nedge = "file:///key"\n[preloaded_certs]\nroots = ["a", "b"]\n',
            {"preloaded_keys.edge": "now", "preloaded_certs.roots": "now"},
        ),
        (
            DPS.replace("0ne0001", '0ne0001"\npayload = { uri = "file:///payload" }\n#"'),
            {"provisioning.payload.uri": "next"},
        ),
    ],
)
def test_each_key_with_its_effect(after: str, expected: dict[str, str]) -> None:
    assert found(DPS, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        (DPS, DPS.replace("0ne0001", "0ne0002"), {"provisioning.id_scope"}),
        (DPS, DPS.replace("dps.example", "other.example"), {"provisioning.global_endpoint"}),
        (DPS, DPS.replace("press-17", "press-18"), {"provisioning.attestation.registration_id"}),
        (DPS, DPS + '[identityd]\napi_version = "2026-11-01"\n', {"identityd.api_version"}),
        (DPS, MANUAL, {"provisioning.source"}),
        (MANUAL, MANUAL.replace("hub.example", "other.example"), {"provisioning.iothub_hostname"}),
        (MANUAL, MANUAL.replace('device_id = "press-17"', 'device_id = "x"'), {"provisioning.device_id"}),
    ],
)
def test_what_makes_another_device_of_it_leads_to_a_reprovision(
    before: str, after: str, keys: set[str]
) -> None:
    assert found(before, after, another=True) == dict.fromkeys(keys, "reprovision")


def test_a_payload_beside_another_scope_is_not_why_it_registers_again() -> None:
    after = DPS.replace("0ne0001", '0ne0002"\npayload = { uri = "file:///payload" }\n#"')
    assert found(DPS, after, another=True) == {
        "provisioning.id_scope": "reprovision",
        "provisioning.payload.uri": "next",
    }


def test_a_key_that_waits_for_a_restart_is_told_until_there_is_none_to_wait_for() -> None:
    limited = DPS + "[identityd.limits]\nconnections = 9\n"
    assert found(limited, limited, started=DPS) == {"identityd.limits.connections": "restart"}
    assert found(limited, DPS, started=DPS) == {}


def test_no_value_is_told() -> None:
    told = str(found(DPS, DPS.replace("AAEC", "c2VjcmV0LWtleS1vZi10aGlzLWRldmljZQ==")))
    assert "c2Vj" not in told
    assert "secret" not in told


SOURCES = (
    SymmetricKeySource(value=b"1"),
    X509Source(certificate_path="/c", key_path="/k"),
    IssuedSource(rule=IssuanceRule(method="self_signed")),
)


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        (SOURCES[0], SOURCES[1], {"method"}),
        (SOURCES[1], SOURCES[2], {"method"}),
        (SOURCES[1], X509Source(certificate_path="/c2", key_path="/k"), {"identity_cert"}),
        (SOURCES[1], X509Source(certificate_path="/c2", key_path="/k2"), {"identity_cert", "identity_pk"}),
        (SOURCES[2], IssuedSource(rule=IssuanceRule(method="local_ca")), {"identity_cert"}),
    ],
)
@pytest.mark.parametrize(
    ("text", "field", "where"),
    [
        (DPS, "attestation", "provisioning.attestation"),
        (MANUAL, "authentication", "provisioning.authentication"),
    ],
)
def test_credentials_of_every_kind(
    old: Any, new: Any, keys: set[str], text: str, field: str, where: str
) -> None:
    base = config.parse("base", text)
    before, after = (
        replace(base, provisioning=replace(base.provisioning, **{field: one})) for one in (old, new)
    )
    told = changes(before, after, started=before, another=False)
    assert set(told) == {f"{where}.{key}" for key in keys}


OTHER: dict[type, Any] = {int: 987, str: "another", bool: True, type(None): "another", tuple: (1,), dict: {}}


def leaves(struct: msgspec.Struct, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct) and not isinstance(value, NoProvisioning):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def changed(struct: Any, path: tuple[str, ...]) -> Any:
    name, rest = path[0], path[1:]
    value = getattr(struct, name)
    if rest:
        return replace(struct, **{name: changed(value, rest)})
    if isinstance(value, dict):
        return replace(struct, **{name: {"an-id": "/a/path"}})
    other = OTHER[type(value)]
    return replace(struct, **{name: not value if isinstance(value, bool) else other})


@pytest.mark.parametrize("path", [p for p in leaves(DEFAULTS) if p != ("provisioning",)], ids=".".join)
def test_no_field_of_the_configuration_changes_unseen(path: tuple[str, ...]) -> None:
    after = changed(DEFAULTS, path)
    told = changes(DEFAULTS, after, started=DEFAULTS, another=False)
    assert len(told) == 1
    assert set(told.values()) == {FIELDS.get(path[0], "restart")}


def test_what_is_said_to_be_replaced_is_there() -> None:
    assert set(FIELDS) <= set(DEFAULTS.__struct_fields__)
