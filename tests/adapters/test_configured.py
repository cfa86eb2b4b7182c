"""What the configured credential adds to what keyd and certd know (config-and-cli.md §5.3)."""

import pytest

from adapters.driven.configured import certificates_of, keys_of
from statemachine.settings import (
    CertificateSettings,
    Configuration,
    DpsProvisioning,
    IssuanceRule,
    IssuedSource,
    KeySettings,
    ManualProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    X509Source,
)

RULE = IssuanceRule(method="self_signed")
OTHER = IssuanceRule(method="self_signed", expiry_days=7)
SYMMETRIC, FILED = SymmetricKeySource(value=b"secret"), SymmetricKeySource(path="/k")
X509, ISSUED = X509Source(certificate_path="/c.pem", key_path="/k.pem"), IssuedSource(rule=RULE)


def dps(credential):
    return DpsProvisioning(
        global_endpoint="https://d", scope_id="s", registration_id="r", attestation=credential
    )


def manual(credential):
    return ManualProvisioning(hub="h", device_id="d", authentication=credential)


def configured(provisioning):
    """An operator who has entries under the credential's own ids, and one beside."""
    return Configuration(
        provisioning=provisioning,
        keys=KeySettings(preloaded={"device-id": "/old", "device-id-temp": "/old", "other": "/o"}),
        certificates=CertificateSettings(
            preloaded={"device-id": "/old", "device-id-temp": "/old", "other": ("a", "b")},
            rules={"device-id": OTHER, "web": OTHER},
        ),
    )


OLD = {"device-id": "/old", "device-id-temp": "/old"}


@pytest.mark.parametrize("source", [dps, manual])
@pytest.mark.parametrize(
    ("credential", "keys", "certificates", "rules"),
    [
        (SYMMETRIC, OLD | {"device-id": b"secret"}, OLD, {"device-id": OTHER}),
        (FILED, OLD | {"device-id": "/k"}, OLD, {"device-id": OTHER}),
        (X509, OLD | {"device-id": "/k.pem"}, OLD | {"device-id": "/c.pem"}, {"device-id": OTHER}),
        (ISSUED, {}, {}, {"device-id": RULE, "device-id-temp": RULE}),
    ],
)
def test_the_credential_wins_over_the_operators_entries(source, credential, keys, certificates, rules):
    configuration = configured(source(credential))
    assert keys_of(configuration) == keys | {"other": "/o"}
    found = certificates_of(configuration)
    assert found.preloaded == certificates | {"other": ("a", "b")}
    assert found.rules == rules | {"web": OTHER}


def test_without_a_hub_only_the_operators_entries_count():
    configuration = configured(NoProvisioning())
    assert keys_of(configuration) == configuration.keys.preloaded
    assert certificates_of(configuration) == configuration.certificates
