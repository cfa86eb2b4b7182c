"""Certificates and keys that the configuration names: the original's checks of files."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote

from adapters.checks.outcome import Finding, Outcome, failed, ignored, judged, skipped
from adapters.checks.subject import Subject
from adapters.driven import configured
from adapters.driven.certificates.preloaded import MAX_FILE_BYTES, flatten
from adapters.driven.files import read_file
from adapters.driven.generations import certificate_file_name
from adapters.errors import CertificateRejected, StoreUnavailable, bounded
from adapters.wire import described, x509
from adapters.wire.private_keys import KeyPair, KeyUnreadable
from statemachine.settings import CertificateSettings, Configuration, IssuedSource, SymmetricKeySource

SOON_MS = 7 * 86_400_000
DAY_MS = 86_400_000
_UNUSABLE = "the configuration cannot be used"
_SHOWN = 60

Info = dict[str, object]


def identity_certificate(subject: Subject) -> Outcome:
    """The configured X.509 credential, by the original's measure."""
    configuration = subject.configuration
    if configuration is None:
        return skipped(_UNUSABLE, provisioning_mode=None, certificate_info=None)
    source = "dps" if subject.dps is not None else "manual" if subject.manual is not None else "none"
    credential = subject.credential
    x509_used = credential is not None and not isinstance(credential, SymmetricKeySource)
    mode = "none" if source == "none" else f"{source}-{'x509' if x509_used else 'other'}"
    info: Info = {"provisioning_mode": mode, "certificate_info": None}
    if not x509_used or subject.certificate is None:
        return ignored("the device is not provisioned with an X.509 certificate", **info)
    findings, info["certificate_info"] = _validity(
        subject,
        "DPS identity" if source == "dps" else "Manual identity",
        "device-id",
        subject.certificate.certificate_path,
        issued_here=isinstance(credential, IssuedSource),
    )
    return judged(
        f"reading {subject.certificate.certificate_path}, and its dates",
        findings,
        seen="within its dates",
        info=info,
    )


def est_certificates(_: Subject) -> Outcome:
    """The original's way of issuing over the network."""
    return ignored(
        "this release issues nothing over EST",
        identity_certificate_info=None,
        bootstrap_certificate_info=None,
    )


def est_servers(_: Subject) -> Outcome:
    """The original's way of issuing over the network."""
    return ignored("this release issues nothing over EST, so no EST server is asked")


def local_ca(subject: Subject) -> Outcome:
    """The CA that issues on this device."""
    if subject.configuration is None:
        return skipped(_UNUSABLE, certificate_info=None)
    settings = subject.configuration.certificates
    if settings.local_ca is None:
        return ignored("there is no local CA", certificate_info=None)
    certificate_id = settings.local_ca.certificate_id
    path = _path(subject, settings, certificate_id)
    if path is None:
        seen = f"the local CA {_named(certificate_id)} is a list of certificates"
        return failed("looking for its file", seen, "name one certificate", info={"certificate_info": None})
    issued = certificate_id in settings.rules
    findings, info = _validity(subject, "Local CA", certificate_id, path, issued_here=issued)
    return judged(
        f"reading {path}, and its dates", findings, seen="within its dates", info={"certificate_info": info}
    )


def preloaded(subject: Subject) -> Outcome:
    """Every certificate that the configuration names, lists followed."""
    if subject.configuration is None:
        return skipped(_UNUSABLE)
    settings = configured.certificates_of(subject.configuration)
    if not settings.preloaded:
        return ignored("no certificate is preloaded")
    findings, seen = [], 0
    for certificate_id, path in _files(settings):
        seen += 1
        issued = certificate_id in settings.rules
        found, _ = _validity(subject, "preloaded", certificate_id, path, issued_here=issued)
        findings += found
    findings += _broken_lists(settings)
    return judged(
        "reading each file that preloaded_certs names, and its dates",
        findings,
        seen=f"{seen} files within dates",
    )


def read_through_service(subject: Subject) -> Outcome:
    """Each preloaded certificate as a client gets it."""
    if subject.configuration is None:
        return skipped(_UNUSABLE)
    settings = configured.certificates_of(subject.configuration)
    if not settings.preloaded:
        return ignored("no certificate is preloaded")
    if "certd" not in subject.running:
        return skipped("certd does not run")
    findings = []
    for certificate_id in sorted(settings.preloaded):
        answer = subject.ask(
            "certd", f"/certificates/{quote(certificate_id, safe='')}?api-version=2020-09-01"
        )
        if answer.status == 200:
            continue
        said = answer.problem or f"it answered {answer.status}: {answer.body[:200].decode(errors='replace')}"
        fix = "correct its file or its entry in preloaded_certs"
        findings.append(Finding(seen=f"{_named(certificate_id)} cannot be read: {said}", fix=fix))
    return judged(
        f"asking {subject.paths.certd_sock} for each preloaded certificate",
        findings,
        seen=f"{len(settings.preloaded)} can be read",
    )


def key_pairs(subject: Subject) -> Outcome:
    """Each preloaded key pair, and whether the cloud's services are made for it."""
    if subject.configuration is None:
        return skipped(_UNUSABLE)
    named = _key_files(subject.configuration)
    if not named:
        return ignored("no key is preloaded")
    findings, pairs = [], 0
    for key_id, path in named:
        try:
            content = read_file(path, 64 * 1024, follow=True)
        except OSError as exc:
            content, why = None, exc.strerror or "not readable"
        else:
            why = "it does not exist"
        if content is None:
            fix = f"put the key there, readable by the service's user, or correct preloaded_keys.{key_id}"
            findings.append(Finding(seen=f"key {_named(key_id)}: {path}: {why}", fix=fix))
            continue
        if not _is_pair(content):
            continue
        pairs += 1
        if (weak := described.weakness_of_key(content)) is not None:
            seen = f"key {_named(key_id)} in {path} is {weak}"
            fix = "use an RSA key of 2048 bits or more, or an EC key on P-256"
            findings.append(Finding(seen=seen, fix=fix, severe=False))
    return judged(
        "reading each file that preloaded_keys names", findings, seen=f"{pairs} key pairs can be used"
    )


def certificates_match_keys(subject: Subject) -> Outcome:
    """Certificate and key of one id."""
    if subject.configuration is None:
        return skipped(_UNUSABLE)
    settings = configured.certificates_of(subject.configuration)
    keys = dict(_key_files(subject.configuration))
    both = [(one, path) for one, path in _files(settings) if one in keys]
    if not both:
        return ignored("no id is that of a preloaded certificate and of a preloaded key")
    findings, compared = [], 0
    for one, path in both:
        try:
            certificate, key = (
                read_file(path, MAX_FILE_BYTES, follow=True),
                read_file(keys[one], 65_536, follow=True),
            )
        except OSError:
            continue  # told by the checks that read them
        if certificate is None or key is None or not _is_pair(key):
            continue
        try:
            same = x509.facts(certificate).spki_sha256 == x509.spki_sha256_of_key(key)
        except CertificateRejected:
            continue
        compared += 1
        if not same:
            seen = f"{path} is a certificate for another key than {keys[one]}, both of id {_named(one)}"
            findings.append(Finding(seen=seen, fix="put the key there that the certificate was issued for"))
    return judged(
        "comparing the public key in each certificate with the key of the same id",
        findings,
        seen=f"{compared} match",
    )


# --- files -------------------------------------------------------------------------------------------


def _files(settings: CertificateSettings) -> Iterator[tuple[str, str]]:
    """Every certificate that has a file of its own, by id; those only named in lists as well."""
    for certificate_id, value in sorted(settings.preloaded.items()):
        if isinstance(value, str):
            yield certificate_id, value


def _broken_lists(settings: CertificateSettings) -> Iterator[Finding]:
    for certificate_id, value in sorted(settings.preloaded.items()):
        if not isinstance(value, tuple):
            continue
        cycles: list[str] = []
        try:
            members = list(flatten(certificate_id, settings.preloaded, on_cycle=cycles.append))
        except StoreUnavailable as exc:
            yield Finding(seen=exc.message, fix="shorten the list")
            continue
        for missing in sorted({one for one in members if one not in settings.preloaded}):
            if missing not in settings.rules:
                yield Finding(
                    seen=f"list {_named(certificate_id)} names {_named(missing)}, which is neither "
                    "preloaded nor configured to be dynamically issued",
                    fix="correct the list, or preload that certificate",
                    severe=False,
                )


def _key_files(configuration: Configuration) -> list[tuple[str, str]]:
    held = configured.keys_of(configuration)
    return sorted((one, place) for one, place in held.items() if isinstance(place, str))


def _path(subject: Subject, settings: CertificateSettings, certificate_id: str) -> str | None:
    """None for a list."""
    value = settings.preloaded.get(certificate_id)
    if value is None:
        return os.path.join(subject.paths.certd_home, "certs", certificate_file_name(certificate_id))
    return value if isinstance(value, str) else None


def _is_pair(content: bytes) -> bool:
    try:
        KeyPair(content)
    except KeyUnreadable:
        return False
    return True


def _validity(
    subject: Subject, name: str, certificate_id: str, path: str, *, issued_here: bool
) -> tuple[list[Finding], Info | None]:
    """The original's measure of one file: there, readable, and not within a week of its end."""
    whose = f"{name} certificate {_named(certificate_id)}"
    try:
        content = read_file(path, MAX_FILE_BYTES, follow=True)
    except OSError as exc:
        seen = f"{whose}: {path} cannot be read: {exc.strerror}"
        return [
            Finding(seen=seen, fix="let the service's user read the file and search its directories")
        ], None
    if content is None:
        if issued_here:
            return [], None  # made when it is first needed
        seen = (
            f"{whose}: {path} does not exist; it is neither preloaded nor configured to be dynamically issued"
        )
        return [Finding(seen=seen, fix="put the certificate there, or correct the configuration")], None
    try:
        facts = x509.facts(content)
    except CertificateRejected as exc:
        return [
            Finding(seen=f"{whose}: {path}: {exc.message}", fix="put a certificate in PEM form there")
        ], None
    info: Info = {
        "cert_name": name,
        "cert_id": certificate_id,
        "not_after": rfc3339(facts.not_after_unix_ms),
        "not_before": rfc3339(facts.not_before_unix_ms),
    }
    finding = dates_finding(
        whose,
        facts.not_before_unix_ms,
        facts.not_after_unix_ms,
        subject.now_unix_ms,
        SOON_MS,
        "replace the file",
    )
    return [] if finding is None else [finding], info


def dates_finding(
    whose: str, not_before: int, not_after: int, now: int, soon_ms: int, fix: str
) -> Finding | None:
    """What is wrong with the dates of a certificate; instants in Unix milliseconds."""
    if not_before > now:
        seen = f"{whose} is valid from {rfc3339(not_before)}, which is still to come; is the clock right?"
        return Finding(seen=seen, fix=fix)
    if not_after <= now:
        return Finding(seen=f"{whose} expired at {rfc3339(not_after)}", fix=fix)
    if not_after - now < soon_ms:
        days = (not_after - now) // DAY_MS
        left = f"in {days} day{'' if days == 1 else 's'}" if days else "in less than a day"
        return Finding(seen=f"{whose} will expire {left}, at {rfc3339(not_after)}", fix=fix, severe=False)
    return None


def rfc3339(unix_ms: int) -> str:
    """UTC, whole seconds."""
    try:
        return f"{datetime.fromtimestamp(unix_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms"


def _named(name: str) -> str:
    return f'"{bounded(name, _SHOWN)}"'
