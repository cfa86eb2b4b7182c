"""The configured credential: it is the only way back, so it is looked at as sharply as the issued one."""

import base64
import binascii
import os
from collections.abc import Iterator

from adapters.checks.certificates import DAY_MS, dates_finding, rfc3339
from adapters.checks.files import privacy
from adapters.checks.outcome import Finding, Outcome, ignored, judged, skipped
from adapters.checks.subject import Subject
from adapters.driven.files import read_file
from adapters.driven.onboarding import MAX_FILE_BYTES
from adapters.errors import CertificateRejected
from adapters.wire import described, x509
from adapters.wire.pem import certificate_blocks
from statemachine.settings import IssuedSource, SymmetricKeySource, X509Source

SOON_MS = 30 * DAY_MS
"Replacing it is often a person's work, and takes an appointment."
KEY_BYTES = range(16, 65)
"What DPS and IoT Hub take as a symmetric key."

_MANAGED = "/run/credentials/"
"Where systemd keeps what it hands to a service, with an access list of its own (systemd.exec(5))."
_NOT_NOW = "the service manager hands it over while the service runs, and it does not run"
_NONE = "the device has no credential: provisioning.source is none"
_UNUSABLE = "the configuration cannot be used"


def usable(subject: Subject) -> Outcome:
    """Readable, whole, and what its name says."""
    if subject.configuration is None:
        return skipped(_UNUSABLE)
    if _out_of_reach(subject):
        return skipped(_NOT_NOW)
    match subject.credential:
        case None:
            return ignored(_NONE)
        case SymmetricKeySource(path=None, value=value):
            tried = "decoding the symmetric key in config.toml, and looking at its length"
            return judged(
                tried, list(_key_findings(value or b"", "config.toml")), seen="a key of usual length"
            )
        case SymmetricKeySource(path=path):
            tried = f"reading the symmetric key in {path}, and looking at its length"
            content, findings = _content(str(path), "symmetric key")
            if content is not None:
                findings += _key_findings(content, str(path), from_file=True)
            return judged(tried, findings, seen="a key of usual length")
        case credential:
            return _pair(subject, issued_here=isinstance(credential, IssuedSource))


def within_dates(subject: Subject) -> Outcome:
    """Every certificate of its chain."""
    if subject.configuration is None:
        return skipped(_UNUSABLE)
    if subject.credential is None:
        return ignored(_NONE)
    if subject.certificate is None:
        return ignored("a symmetric key has no end")
    if _out_of_reach(subject):
        return skipped(_NOT_NOW)
    path = subject.certificate.certificate_path
    content, findings = _content(path, "certificate")
    if content is None:
        return skipped(findings[0].seen)
    chain = described.describe([der for der in certificate_blocks(content) if der is not None])
    if not chain:
        return skipped(f"{path} holds no certificate that can be read")
    fix = "replace it before it ends: without it the device cannot register again"
    if isinstance(subject.credential, IssuedSource) and subject.credential.auto_renew is not None:
        fix = "it renews itself; see why not with `identityd explain`"
    for place, one in enumerate(chain):
        whose = f"{'certificate' if place == 0 else 'intermediate'} {one.subject} in {path}"
        soon = min(SOON_MS, (one.not_after_unix_ms - one.not_before_unix_ms) // 5)
        found = dates_finding(
            whose, one.not_before_unix_ms, one.not_after_unix_ms, subject.now_unix_ms, soon, fix
        )
        findings += [] if found is None else [found]
    ends = min(one.not_after_unix_ms for one in chain)
    return judged(
        f"reading {path}, and the dates of each certificate in it",
        findings,
        seen=f"valid until {rfc3339(ends)}",
        info={"not_after": rfc3339(ends)},
    )


def private(subject: Subject) -> Outcome:
    """Owner and mode of every file that holds a secret of it."""
    if subject.configuration is None:
        return skipped(_UNUSABLE)
    if any(path.startswith(_MANAGED) for path in _secret_files(subject)):
        return ignored("the service manager keeps it for the service alone")
    match subject.credential:
        case None:
            return ignored(_NONE)
        case SymmetricKeySource(path=None):
            path = subject.paths.config
            findings = list(privacy(path, "symmetric key", subject))
        case SymmetricKeySource(path=str(path)):
            findings = list(privacy(path, "symmetric key", subject))
        case _:
            if subject.certificate is None:
                return skipped("its files are not known")
            path = subject.certificate.key_path
            findings = list(privacy(path, "private key", subject))
    return judged(
        f"looking at owner and mode of {path} and its directories", findings, seen=f"{path} is private"
    )


def _secret_files(subject: Subject) -> list[str]:
    if isinstance(subject.credential, SymmetricKeySource):
        return [] if subject.credential.path is None else [subject.credential.path]
    return [] if subject.certificate is None else [subject.certificate.key_path]


def _out_of_reach(subject: Subject) -> bool:
    """Handed over by the service manager, and taken away with the service."""
    return any(
        path.startswith(_MANAGED) and not os.path.lexists(path) and "control" not in subject.running
        for path in _secret_files(subject)
    )


def _pair(subject: Subject, *, issued_here: bool) -> Outcome:
    files = subject.certificate
    if files is None:
        return skipped("its files are not known")
    tried = f"reading {files.certificate_path} and {files.key_path}, and comparing them"
    chain_pem, findings = _content(files.certificate_path, "certificate")
    key_pem, more = _content(files.key_path, "private key")
    findings += more
    if issued_here and chain_pem is None and key_pem is None:
        return ignored(
            "the certificate is issued on this device, and not yet: the service makes it at its start"
        )
    if chain_pem is not None:
        findings += _chain_findings(subject, files, chain_pem)
    if key_pem is not None:
        findings += _private_key_findings(files, key_pem, chain_pem)
    return judged(tried, findings, seen="certificate and key match")


def _chain_findings(subject: Subject, files: X509Source, chain_pem: bytes) -> Iterator[Finding]:
    path = files.certificate_path
    try:
        leaf = x509.facts(chain_pem)
        ordered = x509.order_chain(chain_pem, spki_sha256=leaf.spki_sha256)
    except CertificateRejected as exc:
        yield Finding(
            seen=f"{path}: {exc.message}", fix="put the certificate in PEM form there, issuers behind it"
        )
        return
    if (
        not ordered.intact
        or ordered.chain_pem.split() != x509.normalise_bundle([chain_pem.decode("latin-1")]).pem.split()
    ):
        seen = f"the certificates in {path} are not in issuing order, or one does not belong to them"
        fix = "put the device's certificate first, then the CA that issued it, and so on"
        yield Finding(seen=seen, fix=fix, severe=False)
    if leaf.is_ca:
        seen = f"the first certificate in {path} is that of a CA"
        yield Finding(seen=seen, fix="put the device's own certificate first")
    dps = subject.dps
    if dps is not None and dps.registration_id and leaf.subject_cn.lower() != dps.registration_id.lower():
        seen = f'{path} names "{leaf.subject_cn}", but registration_id is "{dps.registration_id}"'
        fix = "DPS wants the common name to be the registration id: correct one of them"
        yield Finding(seen=seen, fix=fix)
    if dps is not None and not dps.registration_id and not leaf.subject_cn:
        seen = f"{path} has no common name, and registration_id is not configured"
        yield Finding(seen=seen, fix="set provisioning.attestation.registration_id")


def _private_key_findings(files: X509Source, key_pem: bytes, chain_pem: bytes | None) -> Iterator[Finding]:
    try:
        public = x509.spki_sha256_of_key(key_pem)
        if chain_pem is not None and x509.facts(chain_pem).spki_sha256 != public:
            seen = f"{files.certificate_path} is a certificate for another key than {files.key_path}"
            yield Finding(seen=seen, fix="put the key there that the certificate was issued for")
    except CertificateRejected as exc:
        if exc.code == "key-unusable":
            yield Finding(
                seen=f"{files.key_path}: {exc.message}", fix="put the key there in PEM form, not encrypted"
            )
    weak = described.weakness_of_key(key_pem)
    if weak is not None:
        fix = "use an RSA key of 2048 bits or more, or an EC key on P-256"
        yield Finding(seen=f"{files.key_path} holds {weak}", fix=fix, severe=False)


def _key_findings(key: bytes, where: str, *, from_file: bool = False) -> Iterator[Finding]:
    """Never a byte of the key, only how many there are."""
    if from_file and (decoded := _as_base64(key)) is not None:
        seen = f"{where} holds base64 text; the file is to hold the {len(decoded)} bytes that it stands for"
        yield Finding(seen=seen, fix=f"base64 -d {where} >key.raw, and put key.raw in its place")
    elif from_file and key.endswith(b"\n") and len(key) - 1 in (32, 64):
        seen = f"{where} holds {len(key) - 1} bytes and a line end, which counts as a part of the key"
        yield Finding(seen=seen, fix=f"truncate -s {len(key) - 1} {where}")
    elif len(key) not in KEY_BYTES:
        seen = (
            f"the symmetric key in {where} has {len(key)} bytes, DPS takes {KEY_BYTES[0]} to {KEY_BYTES[-1]}"
        )
        yield Finding(seen=seen, fix="copy the whole key of the enrolment", severe=len(key) < KEY_BYTES[0])


def _as_base64(content: bytes) -> bytes | None:
    text = content.strip()
    if len(text) not in (24, 44, 88):  # of 16, 32 and 64 bytes
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _content(path: str, what: str) -> tuple[bytes | None, list[Finding]]:
    fix = "put it there, readable by the service's user; or correct its place in config.toml"
    try:
        content = read_file(path, MAX_FILE_BYTES, follow=True)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not a path"
        return None, [Finding(seen=f"{what} {path} cannot be read: {why}", fix=fix)]
    if content is None:
        return None, [Finding(seen=f"{what} {path} does not exist", fix=fix)]
    return content, []
