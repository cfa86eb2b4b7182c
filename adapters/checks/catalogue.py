"""Every check in the order in which it is run. Ids of the original are kept; ours come beside them.

Nothing is imported here but what a list needs: `check-list` runs nothing.
"""

from collections.abc import Sequence

from msgspec import Struct

CONFIGURATION = "Configuration checks"
IDENTITY = "Identity checks"
HOST = "Host checks"
CONNECTIVITY = "Connectivity checks"


class Check(Struct, frozen=True, kw_only=True):
    """One row of the list."""

    section: str
    id: str
    description: str
    original: bool = True
    "The id is the original's (config-and-cli.md §10.3)."


def _rows(section: str, original: bool, *rows: tuple[str, str]) -> tuple[Check, ...]:
    return tuple(
        Check(section=section, id=name, description=description, original=original)
        for name, description in rows
    )


CHECKS: Sequence[Check] = (
    *_rows(
        CONFIGURATION,
        True,
        ("keyd-config-well-formed", "keyd configuration is well-formed"),
        ("certd-config-well-formed", "certd configuration is well-formed"),
        ("tpmd-config-well-formed", "tpmd configuration is well-formed"),
        ("identityd-config-well-formed", "identityd configuration is well-formed"),
        ("configs-up-to-date", "daemon configurations up-to-date with config.toml"),
        ("hostname", "identityd config toml file specifies a valid hostname"),
        ("aziot-version", "aziot-identity-service package is up-to-date"),
        ("host-local-time", "host time is close to reference time"),
        ("identity-certificate-expiry", "production readiness: identity certificates expiry"),
        (
            "est-identity-and-bootstrap-certificate-expiry",
            "production readiness: EST identity and bootstrap certificates expiry",
        ),
        ("local-ca-certificate-expiry", "production readiness: Local CA certificates expiry"),
        ("certs-preloaded", "preloaded certificates are valid"),
        ("keyd-running", "keyd is running"),
        ("certd-running", "certd is running"),
        ("tpmd-running", "tpmd is running"),
        ("identityd-running", "identityd is running"),
        ("certs-read", "read all preloaded certificates from the Certificates Service"),
        ("key-pairs-read", "read all preloaded key pairs from the Keys Service"),
        ("est-server-https", "check all EST server URLs utilize HTTPS"),
        (
            "certs-match-private-keys",
            "ensure all preloaded certificates match preloaded private keys with the same ID",
        ),
    ),
    *_rows(
        IDENTITY,
        False,
        ("onboarding-credential-usable", "onboarding credential can be used"),
        ("onboarding-credential-expiry", "onboarding credential is within its dates"),
        ("onboarding-credential-private", "onboarding credential is nobody else's to read"),
        ("issued-credential-whole", "issued certificate and key are there and match"),
        ("issued-certificate-expiry", "issued certificate is within its dates"),
        ("renewal-slack", "renewal is on time"),
        ("trust-bundle-valid", "trust bundle from DPS can be read and its roots are within their dates"),
        ("service-healthy", "service needs no help and works around nothing"),
        ("journal-intact", "journal is whole and replays"),
    ),
    *_rows(
        HOST,
        False,
        ("clock-trusted", "clock can be trusted"),
        ("socket-permissions", "sockets have their owners and modes"),
        ("principals", "principals are users who can reach their sockets"),
        ("state-private", "state is nobody else's to read"),
        ("state-durable", "state directory outlives a restart"),
        ("state-space", "state directory has room for a renewal"),
    ),
    *_rows(
        CONNECTIVITY,
        False,
        ("proxy", "proxy settings can be used"),
        ("name-resolution", "names of DPS and hub resolve"),
    ),
    *_rows(
        CONNECTIVITY,
        True,
        (
            "host-connect-iothub-amqp",
            "host can connect to and perform TLS handshake with iothub AMQP port",
        ),
        (
            "host-connect-iothub-https",
            "host can connect to and perform TLS handshake with iothub HTTPS / WebSockets port",
        ),
        (
            "host-connect-iothub-mqtt",
            "host can connect to and perform TLS handshake with iothub MQTT port",
        ),
        (
            "host-connect-dps-endpoint",
            "host can connect to and perform TLS handshake with DPS endpoint",
        ),
    ),
)
