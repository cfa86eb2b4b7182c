"""Settings are plain values; what is secret in them is never printed."""

import pytest

from statemachine.settings import (
    DpsProvisioning,
    IdentityPrincipal,
    IdentitySettings,
    IssuanceRule,
    IssuedSource,
    ManualProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    credential_of,
)


def test_a_key_is_never_printed():
    assert repr(SymmetricKeySource(value=b"very secret")) == "SymmetricKeySource(<inline>)"
    assert "secret" not in repr([SymmetricKeySource(value=b"very secret")])
    assert repr(SymmetricKeySource(path="/etc/aziot/key")) == "SymmetricKeySource(/etc/aziot/key)"


def test_modules_are_the_principals_that_say_so():
    principals = (
        IdentityPrincipal(uid=1, name="daemon"),
        IdentityPrincipal(uid=2, name="telemetry", kinds=("module", "local")),
        IdentityPrincipal(uid=3, name="local-only", kinds=("local",)),
        IdentityPrincipal(uid=4, name="agent", kinds=("device", "module")),
    )
    assert IdentitySettings(principals=principals).modules == ("telemetry", "agent")
    assert IdentitySettings().modules == ()


KEY = SymmetricKeySource(path="/etc/aziot/key")
ISSUED = IssuedSource(rule=IssuanceRule(method="self_signed"))


@pytest.mark.parametrize(
    ("provisioning", "credential"),
    [
        (
            DpsProvisioning(
                global_endpoint="https://dps.example", scope_id="0ne0", registration_id="d", attestation=KEY
            ),
            KEY,
        ),
        (ManualProvisioning(hub="hub.example", device_id="d", authentication=ISSUED), ISSUED),
        (NoProvisioning(), None),
        (None, None),
    ],
    ids=["dps", "manual", "none", "unconfigured"],
)
def test_what_the_device_is_proven_with_whatever_the_source(provisioning, credential):
    assert credential_of(provisioning) is credential
