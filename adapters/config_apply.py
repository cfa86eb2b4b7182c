"""``config apply``: from the file an operator writes to the files the original's daemons read.

Reading and checking here, the mapping in ``config_outputs.py``, the files in ``config_install.py``.
"""

import contextlib
from typing import Any

from msgspec import Struct

from adapters.config_files import MAX_CONFIG_BYTES, parsed, read_text
from adapters.config_findings import Findings
from adapters.config_install import NewFile
from adapters.config_outputs import DEVICE_KEY_FILE, RENEWAL_KEYS, Daemon, Outputs, outputs
from adapters.config_provisioning import GLOBAL_ENDPOINT, check_provisioning
from adapters.config_rows_apply import APPLY, AUTH_PAIRS, EST, EST_AUTH, EST_RENEWAL, ISSUED_TABLES
from adapters.config_rules import check_pairs
from adapters.config_services import LOCAL_CA_ID, NO_LOCAL_CA, Collected
from adapters.config_setting import ANY_ID
from adapters.config_toml import toml_text
from adapters.config_walk import walk
from adapters.errors import ConfigurationInvalid
from statemachine.settings import DEFAULT_TRUST_BUNDLE_ID

USERS = {"identityd": "aziotid", "certd": "aziotcs", "keyd": "aziotks", "tpmd": "aziottpm"}
"Whose a daemon's files are."

GENERATED_FILE = "00-super.toml"

HEADER = (
    "# Written by `config apply` from config.toml: what is changed here is lost when it runs again.\n"
    "# Put what config.toml has no place for into another file of this directory.\n\n"
)

_EST_KEYS = frozenset({"url", *(name for pair in AUTH_PAIRS for name in pair)})
_HTTP = (
    "a server without TLS: whoever sits in between can read and change what is sent, and issue to the "
    "device what they like; use https"
)


class Checked(Struct, frozen=True, kw_only=True):
    """A file without mistakes."""

    tree: dict[str, Any]
    values: dict[str, Any]

    def __repr__(self) -> str:
        return f"Checked({', '.join(sorted(self.tree))})"


def read(path: str, findings: Findings) -> Checked:
    """``config.toml`` as the original's daemons need it. Raises ConfigurationInvalid with every mistake."""
    text = read_text(path, MAX_CONFIG_BYTES, findings)
    tree = None if text is None else parsed(text, findings)
    values = {} if tree is None else check(tree, findings)
    if tree is None or findings.mistakes:
        raise ConfigurationInvalid(path, findings.lines, findings.notes)
    return Checked(tree=tree, values=values)


def examine(path: str) -> Findings:
    """Everything there is to say of the file, without raising for it."""
    findings = Findings(path)
    with contextlib.suppress(ConfigurationInvalid):
        made(read(path, findings), findings, hostname="", users=dict.fromkeys(USERS.values(), 0))
    return findings


def check(tree: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """What passed, by path; of use when ``findings`` has no mistake after it."""
    values = walk(APPLY, tree, findings)
    check_pairs(values, findings)
    check_provisioning(APPLY.rows, tree, values, findings)
    collected = Collected(APPLY.rows)
    collected.add_config(tree, values, findings)
    collected.finish(
        findings,
        provisioning=None,
        trust_bundle_id=values.get("dps_trust_bundle", DEFAULT_TRUST_BUNDLE_ID),
        prefer_cache=False,
        lenient=False,
    )
    _check_servers(values, findings)
    _check_authentication(tree, findings)
    _check_renewal(tree, findings)
    _check_issuers(tree, values, findings)
    return values


def made(checked: Checked, findings: Findings, *, hostname: str, users: dict[str, int]) -> Outputs:
    """The trees. ``users`` are ids by name, at least of aziotid and aziotcs."""
    found = outputs(
        checked.tree,
        checked.values,
        hostname=hostname,
        identityd_uid=users[USERS["identityd"]],
        certd_uid=users[USERS["certd"]],
    )
    for path in found.replaced:
        if not path.endswith(f".{LOCAL_CA_ID}"):  # already told
            findings.note(path, "replaced: the id is in use for something else that config.toml says")
    return found


def files(found: Outputs) -> tuple[NewFile, ...]:
    """In the order they are put in place: the key first, then who reads it, then who asks them."""
    wanted: list[NewFile] = []
    if found.device_key is not None:
        wanted.append(
            NewFile(
                path=DEVICE_KEY_FILE, content=found.device_key, owner=USERS["keyd"], reached_by_owner=True
            )
        )
    order: tuple[Daemon, ...] = ("keyd", "certd", "identityd", "tpmd")
    wanted += [
        NewFile(
            path=f"/etc/aziot/{daemon}/config.d/{GENERATED_FILE}",
            content=(HEADER + toml_text(found.trees[daemon])).encode(),
            owner=USERS[daemon],
        )
        for daemon in order
    ]
    return tuple(wanted)


# --- what several keys say together -------------------------------------------------------------------


def _check_servers(values: dict[str, Any], findings: Findings) -> None:
    urls = {f"{EST}.urls.{name}": url for name, url in values.get(f"{EST}.urls.{ANY_ID}", {}).items()}
    urls |= {path: values[path] for table in ISSUED_TABLES if (path := f"{table}.url") in values}
    if GLOBAL_ENDPOINT in values:
        urls[GLOBAL_ENDPOINT] = values[GLOBAL_ENDPOINT]
    for path, url in urls.items():
        if url.startswith("http:"):
            findings.note(path, _HTTP)


def _check_authentication(tree: dict[str, Any], findings: Findings) -> None:
    """Of a pair by halves the original drops the half it has, without a word."""
    for path in (*ISSUED_TABLES, EST_AUTH):
        table = _table(tree, path)
        method = table.get("method", "est")
        for name in table:
            if name in _EST_KEYS and method != "est":
                findings.note(f"{path}.{name}", 'not written: only method "est" has a use for it')
        for pair in AUTH_PAIRS:
            given = [name for name in pair if name in table]
            if len(given) == 1 and method == "est":
                missing = pair[1] if given == [pair[0]] else pair[0]
                findings.unfit(f"{path}.{missing}", "nothing", f"{given[0]} and {missing}, or neither")
        if method == "est" and {"identity_cert", "bootstrap_identity_cert"} <= table.keys():
            findings.note(f"{path}.identity_cert", "not written: bootstrap_identity_cert takes its place")


def _check_renewal(tree: dict[str, Any], findings: Findings) -> None:
    table = _table(tree, EST_RENEWAL)
    for name in RENEWAL_KEYS if table else ():
        if name not in table:
            findings.unfit(f"{EST_RENEWAL}.{name}", "nothing", APPLY.rows[f"{EST_RENEWAL}.{name}"].allowed)


def _check_issuers(tree: dict[str, Any], values: dict[str, Any], findings: Findings) -> None:
    urls = values.get(f"{EST}.urls.{ANY_ID}", {})
    for path, certificate_id in zip(ISSUED_TABLES, ("device-id", "device-id", LOCAL_CA_ID), strict=True):
        table, method = _table(tree, path), values.get(f"{path}.method")
        if method == "local_ca" and "local_ca" not in _table(tree, "cert_issuance"):
            findings.add(f"{path}.method", NO_LOCAL_CA)
        if method == "est" and "url" not in table and not {certificate_id, "default"} & urls.keys():
            findings.note(f"{path}.url", f"none here, nor in {EST}.urls: certd will have no server to ask")
        shown = any(name in table for pair in AUTH_PAIRS for name in pair)
        if method == "est" and not _table(tree, EST_AUTH) and (not shown or certificate_id == LOCAL_CA_ID):
            findings.note(path, f"nothing to show the EST server, nor in {EST_AUTH}")


def _table(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """An empty one where there is none."""
    for name in path.split("."):
        below = tree.get(name)
        tree = below if isinstance(below, dict) else {}
    return tree
