"""How a certificate is issued, as several keys say it together, maybe in several files."""

from collections.abc import Mapping
from typing import Any

from adapters.config_findings import Findings
from statemachine.settings import IssuanceRule

_FIELDS = ("method", "expiry_days", "common_name", "subject", "allow_ca")


def rule_fields(values: Mapping[str, Any], at: str, key: str | None = None) -> dict[str, Any]:
    """What of a rule passed below ``at``; ``key`` is the id when ``at`` ends with ``<id>``."""
    found = {name: values.get(f"{at}.{name}") for name in _FIELDS}
    if key is not None:
        found = {name: (by_id or {}).get(key) for name, by_id in found.items()}
    return {name: value for name, value in found.items() if value is not None}


def check_rule(table: Mapping[str, Any], label: str, findings: Findings, *, allowed: str) -> None:
    """What a rule in ``config.toml`` needs beside keys that are right each for itself.

    ``allowed`` are the methods, in words.
    """
    if "method" not in table:
        findings.unfit(f"{label}.method", "nothing", allowed)
    if "common_name" in table and "subject" in table:
        findings.unfit(label, "both common_name and subject", "one of them")


def rule_of(fields: Mapping[str, Any]) -> IssuanceRule:
    """``fields`` has a method. With both names the common name counts, as in the original's certd."""
    both = "common_name" in fields
    return IssuanceRule(
        **{**fields, "subject": () if both else tuple(sorted(fields.get("subject", {}).items()))}
    )
