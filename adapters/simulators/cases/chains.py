"""Issued chains that are broken in every way that matters, in both ways of writing them down."""

from adapters.simulators.ca import FLAWS, Flaw
from adapters.simulators.case import DER, PEM, Case

_JUDGED = {
    # By the machine, from the facts that the adapter read.
    "wrong_key": ("new_key", "chain-wrong-key"),
    "wrong_subject": ("retry", "chain-wrong-subject"),
    "expired": ("retry", "chain-expired"),
    "not_yet_valid": ("retry", "chain-not-yet-valid"),
    "inverted": ("retry", "chain-inverted"),
    "ca_leaf": ("retry", "chain-is-ca"),
    "extra_certificate": ("retry", "chain-broken"),
    "empty_chain": ("operator", "not-issued"),
}
_UNREADABLE = ("too_many", "truncated_pem", "garbage_pem", "wrong_base64")
_HARMLESS = ("reordered", "duplicated")
"Put right by the adapter."
_REFUSED = ("wrong_usage", "other_issuer", "missing_intermediate")
"In order as far as a device can tell; the hub refuses it."


def _case(flaw: Flaw, meaning: str, version: str) -> Case:
    form = "PEM" if version == PEM else "DER"
    fault = {"on": "operation", "kind": flaw}
    name, cloud = f"chain {flaw}, {form}", f"The chain: {meaning}."
    if flaw == "missing_intermediate" and version == DER:
        # This dialect sends the root as well, which then stands apart.
        return _judged(name, fault, cloud, version, "retry", "chain-broken")
    if flaw in _JUDGED:
        return _judged(name, fault, cloud, version, *_JUDGED[flaw])
    if flaw in _UNREADABLE:
        return Case(
            name=name,
            fault=fault,
            cloud=cloud,
            asks="poll",
            api_version=version,
            failure_class="reregister",
            code="chain-unparsable",
        )
    if flaw in _HARMLESS:
        return Case(name=name, fault=fault, cloud=cloud, asks="poll", api_version=version)
    # What our own TLS library will not present, no hub can accept.
    verdict = (
        ("retry", "tls-certificate-alert") if flaw in _REFUSED else ("new_key", "client-credential-unusable")
    )
    return Case(
        name=name,
        fault=fault,
        cloud=cloud,
        asks="prove",
        api_version=version,
        failure_class=verdict[0],
        code=verdict[1],
        refused=True,
    )


def _judged(
    name: str, fault: dict[str, str], cloud: str, version: str, failure_class: str, code: str
) -> Case:
    return Case(
        name=name,
        fault=fault,
        cloud=cloud,
        asks="poll",
        api_version=version,
        failure_class=failure_class,
        code=code,
        judged=True,
    )


CASES: tuple[Case, ...] = tuple(
    _case(flaw, meaning, version) for version in (PEM, DER) for flaw, meaning in FLAWS.items()
)
