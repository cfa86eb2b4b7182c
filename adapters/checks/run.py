"""Runs the checks in their order and says what each came to."""

from collections.abc import Callable, Collection, Iterator, Mapping

from msgspec import Struct

from adapters.checks import (
    bundle,
    certificates,
    clock,
    configuration,
    disk,
    history,
    issued,
    local_sockets,
    network,
    onboarding,
    services,
    software,
)
from adapters.checks.catalogue import CHECKS, Check
from adapters.checks.outcome import Outcome, ignored
from adapters.checks.subject import Subject

RUNS: Mapping[str, Callable[[Subject], Outcome]] = {
    "keyd-config-well-formed": configuration.keyd_well_formed,
    "certd-config-well-formed": configuration.certd_well_formed,
    "tpmd-config-well-formed": configuration.tpmd_well_formed,
    "identityd-config-well-formed": configuration.identityd_well_formed,
    "configs-up-to-date": configuration.up_to_date,
    "hostname": configuration.hostname,
    "aziot-version": software.up_to_date,
    "host-local-time": clock.host_local_time,
    "identity-certificate-expiry": certificates.identity_certificate,
    "est-identity-and-bootstrap-certificate-expiry": certificates.est_certificates,
    "local-ca-certificate-expiry": certificates.local_ca,
    "certs-preloaded": certificates.preloaded,
    "keyd-running": services.keyd_running,
    "certd-running": services.certd_running,
    "tpmd-running": services.tpmd_running,
    "identityd-running": services.identityd_running,
    "certs-read": certificates.read_through_service,
    "key-pairs-read": certificates.key_pairs,
    "est-server-https": certificates.est_servers,
    "certs-match-private-keys": certificates.certificates_match_keys,
    "onboarding-credential-usable": onboarding.usable,
    "onboarding-credential-expiry": onboarding.within_dates,
    "onboarding-credential-private": onboarding.private,
    "issued-credential-whole": issued.whole,
    "issued-certificate-expiry": issued.within_dates,
    "renewal-slack": issued.renewal_slack,
    "trust-bundle-valid": bundle.valid,
    "service-healthy": services.healthy,
    "journal-intact": history.intact,
    "clock-trusted": clock.trusted,
    "socket-permissions": local_sockets.permissions,
    "principals": local_sockets.principals,
    "state-private": disk.private,
    "state-durable": disk.durable,
    "state-space": disk.space,
    "proxy": network.proxy,
    "name-resolution": network.names,
    "host-connect-iothub-amqp": network.hub_amqp,
    "host-connect-iothub-https": network.hub_https,
    "host-connect-iothub-mqtt": network.hub_mqtt,
    "host-connect-dps-endpoint": network.dps,
}


class Done(Struct, frozen=True, kw_only=True):
    """A check and what it came to."""

    check: Check
    outcome: Outcome


def run(subject: Subject, dont_run: Collection[str] = ()) -> Iterator[Done]:
    """Each check as it ends; nothing follows one that is fatal."""
    wanted = [check.id for check in CHECKS if check.id not in dont_run]
    if subject.read.denied is None:
        if "host-local-time" in wanted:
            clock.begin(subject)
        network.begin(subject, wanted)
    for check in CHECKS:
        if check.id not in wanted:
            yield Done(check=check, outcome=ignored("not to be run"))
            continue
        outcome = RUNS[check.id](subject)
        yield Done(check=check, outcome=outcome)
        if outcome.kind == "fatal":
            return
