"""identityd trust-bundle show, export, install: the bundles of this device, for people and for the system."""

import contextlib
import http.client
import os
import sys
import warnings
from argparse import Namespace
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from adapters import config
from adapters.cli.control_client import ANSWER_S, MAX_BYTES, UnixConnection, unreachable
from adapters.cli.failure import DONE, NO, CommandFailed
from adapters.durable import replace_file
from adapters.errors import CertificateRejected, ConfigurationInvalid, bounded
from adapters.paths import Paths, client_paths
from adapters.wire import x509
from adapters.wire.bundles import BundledCertificate, Merged, merge_bundles
from statemachine.settings import DEFAULT_TRUST_BUNDLE_ID, DEFAULT_WORKLOAD_BUNDLE_ID, Configuration

LOCAL, DPS = "local", "DPS"

T = TypeVar("T")

_SHORT = 16
"Hexadecimal digits of a SHA-256 that people compare."


class Shown(Struct, frozen=True, kw_only=True):
    """One certificate, what ``show --json`` prints."""

    subject: str
    "RFC 4514; empty when it cannot be read."
    not_after: str
    "RFC 3339, UTC; empty when it cannot be read."
    sha256: str
    ca: bool
    bundles: tuple[str, ...]
    "`local`, `DPS`, or both."


class Skipped(Struct, frozen=True, kw_only=True):
    """A certificate that is no CA's."""

    sha256: str
    subject: str
    why: str


def show(args: Namespace) -> int:
    """A line for each certificate of both bundles."""
    paths = client_paths(args.root)
    local_id, dps_id = _bundle_ids(paths)
    parts = [
        (name, content)
        for name, bundle_id in ((LOCAL, local_id), (DPS, dps_id))
        if (content := _certificate(paths, bundle_id))
    ]
    merged = _merge(parts)
    shown = [_shown(certificate) for certificate in merged.certificates]
    if args.json:
        print(msgspec.json.encode(shown).decode())
        return DONE
    if not shown:
        print("no bundle holds a certificate")
        return DONE
    print(f"{'SHA-256':{_SHORT}}  {'NOT AFTER':10}  {'FROM':10}  SUBJECT")
    for one in shown:
        bundles = ", ".join(one.bundles)
        print(f"{one.sha256[:_SHORT]}  {one.not_after[:10]:10}  {bundles:10}  {bounded(one.subject, 200)}")
    return DONE


def export(args: Namespace) -> int:
    """What modules get, to standard output or into a file."""
    paths = client_paths(args.root)
    status, content = _ask(paths.workload_sock, "/trust-bundle?api-version=2022-08-03")
    if status != 200:
        raise _refused(paths.workload_sock, status, content)
    pem = _decode(content, paths.workload_sock, _Served).certificate
    if not pem:
        raise CommandFailed("there is no trust bundle, so nothing was written")
    if args.file in (None, "-"):
        print(pem, end="")
        return DONE
    # A link stays a link; a pipe or a device must not be renamed over.
    path = os.path.realpath(args.file)
    if os.path.lexists(path) and not os.path.isfile(path):
        raise CommandFailed(f"{args.file} is not a plain file")
    if not os.path.isdir(os.path.dirname(path)):
        raise CommandFailed(f"{os.path.dirname(path)} is not a directory; make it first")
    try:
        replace_file(path, pem.encode(), mode=0o644)
    except OSError as exc:
        raise CommandFailed(f"cannot write {args.file}: {exc.strerror}") from exc
    return DONE


def install(args: Namespace) -> int:
    """Bring the system's trust store in line with the bundle of DPS."""
    from adapters.cli.trust_store import TrustStore

    paths = client_paths(args.root)
    configuration = _configuration(paths)
    store = TrustStore(paths.root, paths.state_dir)
    content = _certificate(paths, configuration.trust_bundle_id)
    merged = _merge([(DPS, content)] if content else [])
    if content and not merged.certificates:
        raise CommandFailed("the bundle of DPS holds no certificate that can be read; nothing was changed")
    skipped, wanted = _sorted_out(merged)
    allow = frozenset(one.lower() for one in configuration.trust_store_allow)
    plan = (store.plan if args.dry_run else store.install)(wanted, allow)
    if args.json:
        facts = msgspec.to_builtins(plan) | {"skipped": skipped, "dry_run": args.dry_run}
        print(msgspec.json.encode(facts).decode())
        return NO if plan.left else DONE
    subjects = {one.sha256: _shown(one).subject for one in merged.certificates}
    for what, some in (
        ("would be added" if args.dry_run else "added", plan.added),
        ("would be removed" if args.dry_run else "removed", plan.removed),
        ("already there", plan.kept),
        ("trusted by the system itself", plan.already_trusted),
        ("refused, not in [identityd.trust_store] allow", plan.refused),
    ):
        for sha256 in some:
            print(f"{what}: {sha256} {bounded(subjects.get(sha256, ''), 200)}".rstrip())
    for one in skipped:
        print(f"skipped, {one.why}: {one.sha256} {bounded(one.subject, 200)}".rstrip())
    for left in plan.left:
        print(f"left, {left.why}: {left.path}", file=sys.stderr)
    if not (plan.added or plan.removed):
        print("nothing to change")
    if plan.update == "other-root":
        print(f"the system's update command was not run: this store lies below {plan.root}")
    return NO if plan.left else DONE


# --- what the bundles hold ---------------------------------------------------------------------------


def _merge(parts: list[tuple[str, bytes]]) -> Merged:
    merged = merge_bundles(parts)
    for warning in merged.warnings:
        print(f"identityd: {warning}", file=sys.stderr)
    return merged


def _shown(certificate: BundledCertificate) -> Shown:
    subject, not_after, ca = "", "", False
    # An odd certificate is told in a column of its own; a warning beside it would look like a failure.
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(CertificateRejected):
        facts = x509.facts(certificate.pem)
        not_after, ca = _instant(facts.not_after_unix_ms), facts.is_ca
        subject = x509.subject(certificate.pem)
    return Shown(
        subject=subject,
        not_after=not_after,
        sha256=certificate.sha256,
        ca=ca,
        bundles=certificate.bundles,
    )


def _sorted_out(merged: Merged) -> tuple[tuple[Skipped, ...], dict[str, bytes]]:
    """What is not installed, and what may be, SHA-256 to PEM."""
    skipped, wanted = [], {}
    for certificate in merged.certificates:
        shown = _shown(certificate)
        if shown.ca:
            wanted[certificate.sha256] = certificate.pem
        else:
            why = "not a CA certificate" if shown.not_after else "not readable"
            skipped.append(Skipped(sha256=shown.sha256, subject=shown.subject, why=why))
    return tuple(skipped), wanted


def _instant(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


# --- the service and its configuration ---------------------------------------------------------------


class _Stored(Struct, frozen=True):
    pem: str


class _Served(Struct, frozen=True):
    certificate: str


class _Said(Struct, frozen=True):
    message: str = ""


def _configuration(paths: Paths) -> Configuration:
    """What the service runs on. Raises ConfigurationInvalid."""
    return config.load_with_fallback(paths.config, paths.last_good_config, paths.root).configuration


def _bundle_ids(paths: Paths) -> tuple[str, str]:
    try:
        configuration = _configuration(paths)
    except ConfigurationInvalid:
        # It may hold a key and is then not for everybody; the bundles are.
        print("identityd: the configuration cannot be read; looking under the default ids", file=sys.stderr)
        return DEFAULT_WORKLOAD_BUNDLE_ID, DEFAULT_TRUST_BUNDLE_ID
    return configuration.workload_bundle_id, configuration.trust_bundle_id


def _certificate(paths: Paths, certificate_id: str) -> bytes | None:
    """What certd has under that id, None when nothing. Raises CommandFailed."""
    target = f"/certificates/{quote(certificate_id, safe='')}?api-version=2020-09-01"
    status, content = _ask(paths.certd_sock, target)
    if status == 200:
        return _decode(content, paths.certd_sock, _Stored).pem.encode()
    refusal = _refused(paths.certd_sock, status, content)
    # The wire has no status of its own for it (services.md §10, quirk 8).
    if status in (400, 404) and "not found" in refusal.message:
        return None
    raise refusal


def _ask(path: str, target: str) -> tuple[int, bytes]:
    connection = UnixConnection(path, ANSWER_S)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_BYTES)
    except (OSError, http.client.HTTPException) as exc:
        unreachable(path, exc)
    finally:
        connection.close()


def _decode(content: bytes, path: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise CommandFailed(f"{path} answers in a way unknown here: {bounded(str(exc))}") from exc


def _refused(path: str, status: int, content: bytes) -> CommandFailed:
    try:
        message = msgspec.json.decode(content, type=_Said).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = ""
    return CommandFailed(bounded(message) or f"{path} answered {status}")
