"""The original's own examples of ``identityd.toml``: which are good, and what they mean."""

from typing import Any

import tomli

from adapters.config_findings import Findings
from adapters.config_identityd import read_identityd
from statemachine.settings import IdentityPrincipal
from tests.conformance.places import CONFORMANCE

DIRECTORY = CONFORMANCE / "identityd-config"

MISTAKES = {
    "bad_config.toml": [
        'provisioning.source: found "dps2"; allowed "manual", "dps" or "none"; did you mean "dps"?'
    ]
}
"Of the files that are to be refused; the others are good."

_BY_DEFAULT = {"cloud_timeout_sec": 10, "cloud_retries": 1, "dps_trust_bundle": "aziot-dps-trust-bundle"}
_SAS = {
    "provisioning.source": "manual",
    "provisioning.iothub_hostname": "hubname",
    "provisioning.device_id": "deviceid",
    "provisioning.authentication.method": "sas",
    "provisioning.authentication.device_id_pk": "sas",
}

VALUES: dict[str, dict[str, Any]] = {
    "good_sas_config.toml": _SAS | _BY_DEFAULT,
    "good_dps_config_with_simple_payload.toml": {
        "provisioning.source": "dps",
        "provisioning.attestation.method": "symmetric_key",
        "provisioning.scope_id": "scope",
        "provisioning.attestation.registration_id": "regid",
        "provisioning.attestation.symmetric_key": "dps",
        "provisioning.global_endpoint": "http://globaldevices.net/",
        "provisioning.payload.uri": "file:///tmp/simple_payload.json",
    },
    "good_auth_settings.toml": {**_SAS, "localid.domain": "example.com"},
}

PRINCIPALS = {
    "good_auth_settings.toml": (
        IdentityPrincipal(uid=1001, name="hostdaemon1"),
        IdentityPrincipal(uid=1002, name="hostprocess1", kinds=("device",)),
        IdentityPrincipal(uid=1003, name="hostprocess2", kinds=("module", "local")),
    )
}
"Of the files that have some."


def names() -> list[str]:
    """Of all files; none when they are not beside this repository."""
    found = sorted(path.name for path in DIRECTORY.glob("*.toml"))
    assert not found or set(found) == {*MISTAKES, *VALUES}
    return found


def differences(name: str) -> list[str]:
    """What is not as it should be, a line each."""
    findings = Findings(name)
    read = read_identityd(tomli.loads((DIRECTORY / name).read_text()), findings)
    told = [line.removeprefix(f"{name}: ") for line in findings.lines]
    if told != MISTAKES.get(name, []):
        return [f"mistakes: {told}"]
    if read is None:
        return []
    found = [
        f"{path}: {read.values.get(path)!r}, expected {value!r}"
        for path, value in VALUES[name].items()
        if read.values.get(path) != value
    ]
    if read.principals != PRINCIPALS.get(name, ()):
        found.append(f"principals: {read.principals}")
    hosts = {"hostprocess2"} if name in PRINCIPALS else set()
    for kind in ("module", "local"):
        if read.named(kind) != hosts:
            found.append(f"{kind} identities: {sorted(read.named(kind))}")
    if read.daemon_uid != (1001 if name in PRINCIPALS else None):
        found.append(f"the daemon's uid: {read.daemon_uid}")
    return found
