"""Whether the configuration can be used, and is the one in use."""

import ipaddress
import os
import socket
import string

from adapters.checks.outcome import Finding, Outcome, failed, fatal, ignored, judged, ok, skipped, warned
from adapters.checks.subject import Subject

_READING = "reading config.toml and the drop-ins beside it as the service does"
_REMARK = "remove it, or see the reference of settings"
MAX_HOSTNAME = 64
"Characters that a certificate's common name can hold."


def keyd_well_formed(subject: Subject) -> Outcome:
    """Its drop-ins."""
    return _drop_ins(subject, "keyd")


def certd_well_formed(subject: Subject) -> Outcome:
    """Its drop-ins."""
    return _drop_ins(subject, "certd")


def tpmd_well_formed(_: Subject) -> Outcome:
    """The original's fourth daemon."""
    return ignored("this release has no part that speaks to a TPM, so there is nothing to configure")


def identityd_well_formed(subject: Subject) -> Outcome:
    """config.toml, identityd's drop-ins, and what spans files."""
    if (denied := _denied(subject)) is not None:
        return denied
    others = [_folder(subject, service) for service in ("keyd", "certd")]
    read = subject.read
    problems = [one for one in read.problems if not one.startswith(tuple(others))]
    remarks = [one for one in read.notes if not one.startswith(tuple(others))]
    in_use = (
        "no last good configuration stands in, so the service cannot start"
        if read.loaded is None
        else "the service goes on with the last good configuration"
    )
    fix = f"correct it, then run `sudo identityd config reload`; until then {in_use}"
    findings = [
        *(Finding(seen=one, fix=fix) for one in problems),
        *(Finding(seen=one, fix=_REMARK, severe=False) for one in remarks),
    ]
    return judged(_READING, findings, seen=f"{subject.paths.config} can be used")


def up_to_date(subject: Subject) -> Outcome:
    """One process reads config.toml itself: what may be old is what it has in its memory."""
    if subject.read.loaded is None:
        return skipped("the configuration cannot be used")
    if "control" not in subject.running:
        return ignored("the service does not run; it reads config.toml when it starts")
    if subject.read.problems:
        return skipped("the configuration cannot be used; the last good one is in force")
    if subject.in_force is None:
        return ignored(f"{subject.paths.last_good_config} cannot be read, so nothing says what is in force")
    if subject.in_force == subject.read.loaded.text:
        return ok("the running service has read the files as they are")
    return warned(
        "comparing the files with what the running service keeps of those it read",
        "config.toml or a drop-in was changed since the service read them",
        "sudo identityd config reload",
    )


def hostname(subject: Subject) -> Outcome:
    """The name in config.toml, else the machine's."""
    machine = socket.gethostname()
    configuration = subject.configuration
    info: dict[str, object] = {"config_hostname": None, "machine_hostname": machine}
    if configuration is None:
        return skipped("the configuration cannot be used", **info)
    name = configuration.hostname or machine
    info["config_hostname"] = name
    tried = f"comparing {name} with the machine's name, and with the rules of RFC 1035"
    if _is_address(name):
        return ok(f"{name} is an address", **info)
    lower = machine.lower()
    if name.lower() != lower and not name.lower().startswith(f"{lower}."):
        seen = f"hostname is {name}, but this machine calls itself {machine}"
        fix = f'hostname = "{machine}" in config.toml, or sudo hostnamectl set-hostname {name}'
        return failed(tried, seen, fix, info=info)
    if not is_rfc1035(name):
        seen = f"{name} is no name by RFC 1035: labels of 1 to 63 letters, digits and hyphens, a letter first"
        return warned(tried, seen, "choose such a name; some TLS clients refuse others", info=info)
    if len(name) > MAX_HOSTNAME:
        seen = f"{name} has {len(name)} characters; a certificate's common name holds {MAX_HOSTNAME}"
        return warned(tried, seen, "choose a shorter name", info=info)
    return ok(f"{name} is a valid name", **info)


def is_rfc1035(name: str) -> bool:
    """Whether a name keeps to the preferred syntax of RFC 1035 section 2.3.1."""
    labels = name.split(".")
    return 1 <= len(name) <= 255 and all(_is_label(label) for label in labels)


def _is_label(label: str) -> bool:
    return (
        1 <= len(label) <= 63
        and label[0] in string.ascii_letters
        and label[-1] != "-"
        and all(one in f"{string.ascii_letters}{string.digits}-" for one in label)
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _drop_ins(subject: Subject, service: str) -> Outcome:
    if (denied := _denied(subject)) is not None:
        return denied
    folder = _folder(subject, service)
    problems = [one for one in subject.read.problems if one.startswith(folder)]
    findings = [
        *(
            Finding(seen=one, fix="correct the file, then run `sudo identityd config reload`")
            for one in problems
        ),
        *(
            Finding(seen=one, fix=_REMARK, severe=False)
            for one in subject.read.notes
            if one.startswith(folder)
        ),
    ]
    return judged(_READING, findings, seen=f"nothing in {folder} is wrong")


def _folder(subject: Subject, service: str) -> str:
    return os.path.join(os.path.dirname(subject.paths.config), service, "config.d")


def _denied(subject: Subject) -> Outcome | None:
    if subject.read.denied is None:
        return None
    return fatal(_READING, f"uid {os.geteuid()} may not read {subject.read.denied}", "use sudo")
