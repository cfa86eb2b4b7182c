"""The cases of ``config apply``: each ``config.toml`` and the files it has to come to, compared as data."""

import json
from typing import Any

import tomli

from adapters.config_apply import Checked, check, made
from adapters.config_files import parsed
from adapters.config_findings import Findings
from adapters.config_outputs import DAEMONS, Outputs
from adapters.config_toml import toml_text
from tests.conformance.places import CONFORMANCE

DIRECTORY = CONFORMANCE / "config-apply"
HOSTNAME, USERS = "my-device", {"aziotcs": 5555, "aziotid": 5556}


def names() -> list[str]:
    """Of all cases; none when the files are not beside this repository."""
    if not DIRECTORY.is_dir():
        return []
    listed = json.loads((DIRECTORY / "cases.json").read_text())["cases"]
    found = sorted(path.parent.name for path in DIRECTORY.glob("*/config.toml"))
    assert sorted(case["case"] for case in listed) == found
    return found


def differences(name: str) -> list[str]:
    """What is not equal, a line each."""
    outputs, mistakes = _made(name)
    if outputs is None:
        return mistakes
    found = []
    for daemon in DAEMONS:
        # What is compared is what a daemon would read, not what was meant to be written.
        ours = tomli.loads(toml_text(outputs.trees[daemon]))
        theirs = _expected(name, daemon)
        found += [f"{daemon}.toml: {line}" for line in _unequal(ours, theirs, "")]
    key = DIRECTORY / name / "device-id"
    if outputs.device_key != (key.read_bytes() if key.exists() else None):
        found.append("device-id: the key is not the one expected")
    return found


def _made(name: str) -> tuple[Outputs | None, list[str]]:
    findings = Findings("config.toml")
    text = (DIRECTORY / name / "config.toml").read_text()
    tree = parsed(text, findings)
    values = {} if tree is None else check(tree, findings)
    if tree is None or findings.mistakes:
        return None, list(findings.lines)
    return made(Checked(tree=tree, values=values), findings, hostname=HOSTNAME, users=USERS), []


def _expected(name: str, daemon: str) -> dict[str, Any]:
    """With what the case's README says of those that come from a line without DPS-issued certificates."""
    tree = tomli.loads((DIRECTORY / name / f"{daemon}.toml").read_text())
    listed = json.loads((DIRECTORY / "cases.json").read_text())["cases"]
    if next(case["origin"] for case in listed if case["case"] == name) == "dps":
        return tree
    match daemon:
        case "identityd":
            if tree.get("prefer_module_identity_cache") is False:
                del tree["prefer_module_identity_cache"]
        case "keyd":
            of_identityd(tree)["keys"].insert(1, "aziot-dps-identity-cert-key")
        case "certd":
            of_identityd(tree).setdefault("certs", [])[:0] = [
                "aziot-dps-trust-bundle",
                "aziot-dps-identity-cert",
            ]
    return tree


def of_identityd(tree: dict[str, Any]) -> dict[str, Any]:
    """The principal of aziotid, made if need be."""
    principals = tree.setdefault("principal", [])
    if not any(one["uid"] == USERS["aziotid"] for one in principals):
        principals.append({"uid": USERS["aziotid"]})
    found: dict[str, Any] = next(one for one in principals if one["uid"] == USERS["aziotid"])
    return found


def _unequal(ours: Any, theirs: Any, path: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = {**theirs, **ours}
        return [
            line
            for key in keys
            for line in _unequal(ours.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if ours == theirs else [f"{path}: {ours!r}, expected {theirs!r}"]
