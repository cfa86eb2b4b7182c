"""The pages of docs/reference, as text. What is not in the sources (what a state means to people) is here."""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, get_args

import msgspec

from adapters.checks.catalogue import CHECKS
from adapters.cli.arguments import AZIOTCTL, IDENTITYD, IOTEDGE, Command, parser_for
from adapters.cli.diagram import TITLES
from adapters.cli.diagram_svg import svg
from adapters.config_rows_apply import APPLY_ONLY
from adapters.config_rows_drop_ins import DROP_INS
from adapters.config_rows_drop_ins import SERVICES as DROP_IN_SERVICES
from adapters.config_rules import NOT_YET
from adapters.config_settings import NOT_READ_YET, SETTINGS, Setting
from adapters.driven import files
from adapters.driven.dps import _OPERATOR_STATUSES
from adapters.driven.metrics_file import EVERY_S, SETTLE_S
from adapters.driving import certd_api, control, identityd_api, keyd_api, workload_api
from adapters.metrics import MAX_SERIES, METRICS, OTHER, Metric
from adapters.simulators.case import DER, NEXT, Case
from adapters.simulators.catalogue import CASES, CATALOGUE
from adapters.simulators.faults import KINDS
from adapters.sockets import SOCKET_GROUPS, SOCKET_MODE, WORKLOAD_SOCKET_MODE
from adapters.tables import RowFacts, TableFacts, machine_facts
from docs.reading import ROOT, Code, Field, Source, failure_codes, read
from statemachine.effects import EFFECTS, Asking
from statemachine.events import EVENTS, tag_of
from statemachine.rows import SIGNAL_KEYS
from statemachine.states import FailureClass, Phase, State

STATES: Mapping[State, str] = {
    State.UNPROVISIONED: "There is no assignment that may be used. The device waits for a configuration, a "
    "command, or its next attempt.",
    State.REGISTERING: "The first registration is under way, with the configured credential.",
    State.PROVISIONED: "The device is assigned to a hub and its credential is valid. Armed is the opening "
    "of the renewal window, or, when the cloud issued no certificate, the instant of asking for one again.",
    State.CERT_EXPIRING: "The certificate is inside its renewal window. It is still in use; the next attempt "
    "has an instant.",
    State.RENEWING: "A new certificate is being obtained. The old one is still in use.",
    State.REPROVISIONING: "Registration is repeated from the start: by command, after a changed "
    "configuration, after confirmed refusals by the hub, or because the certificate expired or was lost. "
    "What the device has stays in use until it is replaced.",
}

PHASES: Mapping[Phase, str] = {
    Phase.IDLE: "No attempt is under way.",
    Phase.STAGING: "A key is made beside the one in use, with its CSR.",
    Phase.SUBMITTING: "The registration is sent to DPS.",
    Phase.POLLING: "DPS works on it and is asked from time to time.",
    Phase.PROVING: "The new credential is shown to the hub.",
    Phase.COMMITTING: "Certificate, key, trust bundle and assignment are made current in one step.",
    Phase.RETIRING: "Generations that nothing refers to are removed.",
}

CLASSES: Mapping[str, str] = {
    "retry": "Asking again may help. A lost poll, a hub that cannot be asked and a failed commit are "
    "repeated within the attempt; otherwise the attempt ends and the next one follows after an exponential "
    "backoff with full jitter.",
    "wait": "Nothing is wrong that asking sooner could mend: the peer or the budget says when. Backs off "
    "like `retry`; the longest of the waits counts.",
    "operator": "Somebody has to act. What is in use is kept, the status says `stuck`, and the next attempt "
    "comes between half the longest backoff and all of it. A command ends the wait; so does a restart or a "
    "changed configuration in Unprovisioned and Reprovisioning.",
    "new_key": "The staged key is given up; the next attempt makes another one.",
    "reregister": "The operation is over or unknown. While polling, the same key and CSR are submitted once "
    "more in the same attempt; after that the attempt ends and backs off.",
    "clock": "The dates do not fit our clock. The attempt ends, costs nothing of the budget, and is repeated "
    "after a backoff. Validation is never loosened.",
}

CODE_NOTES: Mapping[str, str] = {
    "ca-file-unusable": "the file named by `[identityd.tls] ca_file`",
    "chain-missing": "the chain of a committed generation is not on disk",
    "chain-unparsable": "`reregister` when it is the chain DPS sent",
    "client-credential-unusable": "certificate and key of the configured or issued credential do not load. "
    "Of an issued one it counts as a refusal, class `new_key`, since no hub could accept it either",
    "credential-unreadable": "a file named in `[provisioning.attestation]` cannot be read",
    "csr-not-configured": "in Registering and Reprovisioning registration is repeated without a CSR",
    "dps-…": "`…` is the HTTP status, or the errorCode of DPS, which begins with one. Class `operator` for "
    + ", ".join(str(one) for one in sorted(_OPERATOR_STATUSES))
    + "; `clock` for 401 when the clock was so far off that the token was dead on arrival; else `retry`, "
    "and `reregister` when the operation had begun and failed",
    "hub-…": "`hub-401` and `hub-404001` (the hub does not know the device) are refusals: they count "
    "against the credential that was shown",
    "internal-error": "a defect in an adapter, met on some input; the log has the details",
    "journal-damaged": 'only with `[identityd.journal] when_damaged = "refuse"`',
    "journal-unavailable": "commands get 503; serving goes on",
    "payload-invalid": "the file named by `[provisioning.payload] uri`",
    "pointer-damaged": "the link `credentials/current`",
    "proxy-…": "`…` is the proxy's HTTP status; `proxy-407` asks for a user name",
    "proxy-407": "the proxy wants a user name and password in `HTTPS_PROXY`",
    "timeout": "see `cloud_timeout_sec`",
    "tls-certificate-alert": "from the hub: a refusal",
    "tls-dates": "the peer's certificate is not valid yet, or not any more, by our clock",
    "tls-untrusted": "the peer's certificate leads to no trusted root; see `[identityd.tls] ca_file`",
    "unreachable": "no network, no name, no listener: offline is the usual reason",
}

COMMAND_NOTES: Mapping[str, str] = {
    "config apply": "Writes `00-super.toml` for identityd, certd, keyd and tpmd below `/etc/aziot`, and the "
    "device's symmetric key, if `config.toml` has one, below `/var/secrets`. This service needs "
    "none of it: it "
    "reads `config.toml` itself. All files are complete before the first is replaced, and what was "
    "there stays "
    "as `NAME.bak`. With `--root` users are looked up in that root's `/etc/passwd`. Who is not root leaves "
    "owners as they are. Exit status 2 when `config.toml` has a mistake; then nothing is written.",
    "config mp": "The file gets mode 0600. Exit status 1 when there is one already, unless `--force`.",
    "config check": "No service is needed. Exit status 1 when there is a mistake.",
    "run": "SIGTERM and SIGINT stop it, SIGHUP has `config.toml` read again.",
    "cloud": "It needs a `--root` of its own, listens on loopback only, and prints one JSON line as soon as "
    "it listens. It writes a `config.toml` for a device below that root unless there is one. Not for "
    "production.",
    "status": "The exit status is 0 whatever the state is.",
    "metrics": "What each is: [metrics](metrics.md).",
    "watch": "On a terminal the whole screen: the lifecycle with the state it is in, the certificate's life "
    "with its renewal window and the drawn instant, what comes next, and the last events; drawn again when "
    "something happens and each second. Into a pipe, or with `TERM=dumb`, a line for each record. With "
    "`--json` the records as they are stored. `NO_COLOR` and `LANG=C` are honoured.",
    "renew": "Waits for the end of the attempt. Exit status 1 when it failed, or has not ended in time; it "
    "then goes on without you.",
    "reprovision": "Waits for the end of the attempt, like `renew`. What is in use serves until it is "
    "replaced.",
    "hold": "Does not wait: an attempt that is under way goes on to its end.",
    "release": "Does not wait: `identityd status` says whether and when an attempt begins.",
    "purge": "For a device that is given away or scrapped. Root only. On a terminal the device's id is to be "
    "typed in; elsewhere nothing is done without `--confirm`. Erased are the issued certificates with their "
    "keys, the trust bundle of the cloud, the assignment, the module cache, the master key of module "
    "identities, and what `adopt` kept of another installation. Not erased are the configuration with its "
    "onboarding credential, also one that this device issued itself, other programs' keys and certificates, "
    "and the journal, which holds no key. Files are deleted, not overwritten: flash keeps what was written, "
    "so rely on an encrypted disk where that matters. The cloud is not told: delete enrolment and "
    "device there. "
    "The device then stays on hold, also over restarts, until `release`. Exit status 1 when not all could be "
    "erased in time; it is tried again every minute, and after every restart.",
    "module-keys push": "For when the master key of module identities was lost: a new one is made and every "
    "module gets keys of it. Modules keep their generation ids; what they signed with before is refused "
    "from then on. Waits for the end.",
    "trust-bundle show": "Where each certificate comes from: the local configuration or DPS.",
    "trust-bundle install": "Exit status 1 when a file of another hand was in the way and left alone.",
    "replay": "Exit status 0 when every record comes to the same effects and positions, 1 with the first "
    "divergence, 2 when a file cannot be read. No service is needed. `--diff` and `--what-if` exit with 0 "
    "when there is no difference, 1 when there is one. `--what-if` reads of its file what `[identityd]` says "
    "about renewal, keys, attempts and budget; the device stays the recorded one. What it can tell and what "
    "not: [the journal](journal.md).",
    "journal show": "No service is needed. With `--json` the records as they are stored.",
    "journal export": "No service is needed. Files that continue one another become one; where the history "
    "begins anew, after a damage for example, the copy begins too, and says so. `--pseudonymise` replaces "
    "host names, device and registration ids, scope, certificates and their hashes, operation and tracking "
    "ids, and whatever in texts looks like one, the same by the same; instants, outcomes, codes and user "
    "ids stay. The copy is decided again before it is written: it replays as its original does. Exit "
    "status 2 when a file cannot be read.",
    "check": "With or without a running service; nothing is changed. What waits for the network waits at "
    "the same time, no longer than `cloud_timeout_sec`. Exit status 0 when no check is an error, 1 when "
    "one is, or a warning under `--warnings-as-errors`. `--output json` has the original's shape; why a "
    "check does not apply stands in its `additional_info.reason`. All of them: [checks](checks.md).",
    "support-bundle": "Status, explanation, checks, journal, configuration and versions. Of the "
    "configuration only values of known keys that are no secrets; comments are left out. With "
    "`--pseudonymise` names are replaced as by `journal export`, the same in every file. Every file is "
    "looked through for the device's secrets before it is packed, and left out if one is in it. Exit "
    "status as for any other command: what the checks came to does not count.",
    "journal timeline": "No service is needed. What is worth telling, day by day; with `--html` one page, "
    "without network or scripts: states, certificates, attempts, outages and events over time, and every "
    "record below. It is written with mode 0600, since a journal is nobody else's business. A clock "
    "that was set by more than an hour begins a new picture. What of a damaged file can be believed is "
    "shown, and the rest named.",
    "diagram": "With `--json` both tables with all their rows. `--format svg` is a file for light and dark.",
    "system reprovision": "Quiet until the end, as in the original.",
}

_NOT_SERVICE = ("simulators", "simulation", "fakes", "cli")


def all_pages() -> dict[str, str]:
    """Text by file name."""
    return {
        "states.md": states(),
        "events.md": events(),
        "effects.md": effects(),
        "settings.md": settings(),
        "checks.md": checks(),
        "control-api.md": control_api(),
        "failures.md": failures(),
        "cloud-faults.md": cloud_faults(),
        "cli.md": cli(),
        "metrics.md": metrics(),
        "lifecycle.svg": picture("lifecycle"),
        "attempt.svg": picture("attempt"),
    }


def picture(table: str) -> str:
    """What `identityd diagram --format svg` writes."""
    facts = machine_facts()
    return svg(facts.attempt if table == "attempt" else facts.lifecycle, TITLES[table])


# --- Markdown ----------------------------------------------------------------------------------------


def _page(title: str, *parts: str) -> str:
    head = (
        f"# {title}\n\n"
        "<!-- Generated by `make docs` (python -m docs.generate). Do not edit: change the source instead. "
        "-->\n\n*This page is generated from the source by `make docs`; edits here are lost.*"
    )
    return "\n\n".join([head, *(part.strip("\n") for part in parts if part.strip())]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    # GFM splits cells at every bar that is not escaped, also within code spans.
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _mermaid(text: str) -> str:
    return f"```mermaid\n{text.strip()}\n```"


def _prose(text: str) -> str:
    """reStructuredText of a docstring, as far as it is used here."""
    return text.replace("``", "`")


def _fields(fields: Iterable[Field]) -> str:
    rows = [
        (_code(one.name), _code(one.type), _code(one.default or "") or "required", _prose(one.meaning))
        for one in fields
    ]
    return _table(("field", "type", "default", "meaning"), rows) if rows else ""


def _struct(source: Source, name: str, *, level: int = 3, title: str = "") -> str:
    one = source.classes[name]
    heading = f"{'#' * level} {title or name}"
    return "\n\n".join(part for part in (heading, _prose(one.meaning), _fields(one.fields)) if part)


# --- states ------------------------------------------------------------------------------------------


def states() -> str:
    facts = machine_facts()
    guards = read("statemachine/guards.py").functions
    actions = (
        read("statemachine/absorb.py").functions
        | read("statemachine/actions.py").functions
        | read("statemachine/attempt_actions.py").functions
    )
    rows = (*facts.lifecycle.rows, *facts.attempt.rows)
    used_guards = sorted({row.guard for row in rows if row.guard})
    used_actions = sorted({row.action for row in rows if row.action})
    return _page(
        "States, phases and both tables",
        f"Rules revision {facts.rules_revision}. The position of the machine is a pair: the state of the "
        "lifecycle and the phase of the attempt. Names are spelt this way everywhere a person or a program "
        "reads them. Why the rules are as they are: [rules](../explanation/rules.md).",
        "## States\n\n"
        + _table(("state", "what is true in it"), ((one.value, STATES[one]) for one in State)),
        "## Phases\n\n" + _table(("phase", "what is going on"), ((one.value, PHASES[one]) for one in Phase)),
        "## Reachable positions\n\n" + _reachable(),
        "## The lifecycle at a glance\n\nWhat moves a device while the service runs under one "
        "configuration. Starts and changes of the configuration are left out here; they are in the diagrams "
        "further down and in the table.\n\n" + _mermaid(_overview(facts.lifecycle, back=False)),
        "And what has a registration repeated:\n\n" + _mermaid(_overview(facts.lifecycle, back=True)),
        "## One attempt at a glance\n\nEvery phase also goes back to Idle when the attempt is abandoned.\n\n"
        + _mermaid(_attempt(facts.attempt)),
        "## Both tables as pictures\n\nEvery way from one position to another, each with an arrow of its "
        "own; what stays where it is is left out. `identityd diagram --format svg` draws them.\n\n"
        + "\n\n".join(f"![{title}]({name}.svg)" for name, title in TITLES.items()),
        "## Every way out of each state\n\n"
        + "\n\n".join(_way_out(facts.lifecycle, state) for state in facts.lifecycle.positions),
        "## The attempt's table\n\n"
        + "An event goes to this table first, then to the lifecycle's. The first row whose guard holds is "
        "taken.\n\n" + _rows(facts.attempt),
        "## The lifecycle's table\n\n" + _rows(facts.lifecycle),
        "## Pairs that change nothing\n\nThey may happen; they are journalled and nothing follows.\n\n"
        + _table(
            ("state", "event", "why"),
            (
                (_where(one.source, facts.lifecycle), _event(one.event), one.why)
                for one in facts.lifecycle.ignored
            ),
        ),
        "## Guards\n\n"
        + _table(("guard", "holds when"), ((_code(n), _prose(guards[n])) for n in used_guards)),
        "## Actions\n\n" + _table(("action", "does"), ((_code(n), _prose(actions[n])) for n in used_actions)),
    )


def _reachable() -> str:
    found = re.search(r"Reachable positions: (.*?)\n\n", read("statemachine/table.py").meaning + "\n\n", re.S)
    assert found is not None, "statemachine/table.py says which positions can be reached"
    text = " ".join(found[1].split())
    return "\n".join(f"- {part.strip().rstrip('.')}." for part in text.split(";"))


def _rows(table: TableFacts) -> str:
    return _table(
        ("from", "event", "guard", "to", "action", "why", "rule"),
        (
            (
                _where(row.source, table),
                _event(row.event),
                _code(row.guard or ""),
                "*refused*" if row.refuses else row.dest or "stays",
                _code(row.action or ""),
                row.why,
                row.rule,
            )
            for row in table.rows
        ),
    )


def _where(source: Sequence[str], table: TableFacts) -> str:
    return "any" if set(source) == set(table.positions) else ", ".join(source)


def _event(key: str) -> str:
    """A link to the event; signals pass between the tables and are nowhere else."""
    if key in SIGNAL_KEYS:
        return f"*{key}*"
    tag = key.partition("/")[0]
    return f"[{key}](events.md#{tag})"


def _label(key: str) -> str:
    return f"{key.removeprefix('deadline-passed/')} due" if key.startswith("deadline-passed/") else key


def _arrows(rows: Sequence[RowFacts], *, guards: bool) -> dict[tuple[str, str], list[str]]:
    """Labels by pair of positions. Without ``guards`` one is shown only where it decides between two ways."""
    ways: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for source in row.source:
            if row.dest is not None and row.dest != source:
                ways.setdefault((source, row.event), set()).add(row.dest)
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for source in row.source:
            if row.dest is not None and row.dest != source:
                shown = row.guard and (guards or len(ways[source, row.event]) > 1)
                label = _label(row.event) + (f" [{row.guard}]" if shown else "")
                labels = arrows.setdefault((source, row.dest), [])
                if label not in labels:
                    labels.append(label)
    return arrows


def _drawn(arrows: Mapping[tuple[str, str], Sequence[str]], *first: str) -> str:
    lines = ["stateDiagram-v2", *(f"    {line}" for line in first)]
    lines += [f"    {source} --> {dest}: {'<br/>'.join(labels)}" for (source, dest), labels in arrows.items()]
    return "\n".join(lines)


def _overview(table: TableFacts, *, back: bool) -> str:
    """The ways back to Reprovisioning, or all others: in one picture they hide each other."""
    rows = [row for row in table.rows if row.event not in ("started", "configuration-changed")]
    arrows = _arrows(rows, guards=False)
    chosen = {pair: arrows[pair] for pair in arrows if (pair[1] == State.REPROVISIONING.value) is back}
    return _drawn(chosen, "direction LR" if back else f"[*] --> {table.initial}")


def _attempt(table: TableFacts) -> str:
    rows = [row for row in table.rows if row.event != "attempt-abandoned"]
    return _drawn(_arrows(rows, guards=True), f"[*] --> {table.initial}")


def _way_out(table: TableFacts, state: str) -> str:
    arrows = {pair: labels for pair, labels in _arrows(table.rows, guards=True).items() if pair[0] == state}
    return f"### From {state}\n\n" + _mermaid(_drawn(arrows, "direction LR"))


# --- events and effects ------------------------------------------------------------------------------


def events() -> str:
    source, asked = read("statemachine/events.py"), _askers()
    kinds = {kind.__name__: kind for kind in EVENTS}
    sections: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        one = source.classes[name]
        roots = [base.__name__ for base in kind.__mro__ if base.__name__ in ("Answer", "Failure")]
        also = {"Failure": "[every failure](#every-failure)", "Answer": "[every answer](#every-answer)"}
        effects_asking = " or ".join(f"[{tag}](effects.md#{tag})" for tag in asked.get(name, ()))
        answers = f"Answers {effects_asking}." if effects_asking else ""
        common = f"Also has the fields of {also[roots[0]]}." if roots else ""
        parts = (
            f"### {tag_of(kind)}",
            _prose(one.meaning),
            f"{answers} {common}".strip(),
            _fields(one.fields),
        )
        sections.setdefault(one.section, []).append("\n\n".join(part for part in parts if part))
    return _page(
        "Events",
        "An event is a fact that has happened. It carries no time: its journal record has the stamp. In the "
        "journal the member `type` is the name used here as a heading. Fields that have their default are "
        "left out there; bytes are base64.",
        "## Common fields",
        "### Every event\n\n" + _fields(source.classes["Event"].fields),
        "### Every answer\n\n" + _fields(source.classes["Answer"].fields),
        "### Every failure\n\nBeside the fields of every answer. What the classes mean and which codes there "
        "are: [failures](failures.md).\n\n" + _fields(source.classes["Failure"].fields),
        *(f"## {section.capitalize()}\n\n" + "\n\n".join(texts) for section, texts in sections.items()),
        "## Names of timers\n\nWhat is armed, and what `deadline-passed` says of it.\n\n" + _timers(),
        "## Facts carried by events",
        *(_struct(source, name) for name in ("ChainFacts", "BundleFacts", "StoredCredential", "Inventory")),
        *(
            _struct(read("statemachine/settings.py"), name)
            for name in ("PolicySettings", "MaintenanceWindow")
        ),
    )


def _timers() -> str:
    told = read("statemachine/states.py").constants["Timer"]
    found = re.findall(r"(?:^|\. )([a-z]+): (.*?)(?=\. [a-z]+: |\.?$)", told.partition("replaces it. ")[2])
    return _table(("name", "meaning"), ((_code(name), meaning) for name, meaning in found))


def _askers() -> dict[str, list[str]]:
    """Which effects an answer answers, by class name; the effects' docstrings say it."""
    source = read("statemachine/effects.py")
    names = {kind.__name__ for kind in EVENTS}
    found: dict[str, list[str]] = {}
    for kind in EFFECTS:
        said = re.search(r"Answered by (.*?)\.", source.classes[kind.__name__].meaning)
        for name in re.findall(r"\w+", said[1]) if said else ():
            if name in names:
                found.setdefault(name, []).append(tag_of(kind))
    return found


def effects() -> str:
    source = read("statemachine/effects.py")
    tags = {kind.__name__: tag_of(kind) for kind in EVENTS}

    def linked(text: str) -> str:
        return re.sub(
            r"\b[A-Z]\w+\b",
            lambda found: f"[{tags[found[0]]}](events.md#{tags[found[0]]})" if found[0] in tags else found[0],
            text,
        )

    def told(asking: bool) -> str:
        return "\n\n".join(
            "\n\n".join(
                part
                for part in (
                    f"### {tag_of(kind)}",
                    linked(_prose(source.classes[kind.__name__].meaning)),
                    _fields(source.classes[kind.__name__].fields),
                )
                if part
            )
            for kind in EFFECTS
            if issubclass(kind, Asking) is asking
        )

    return _page(
        "Effects",
        "An effect is a wish for the outside world. It is written to the journal before it is performed, is "
        "performed at least once, and a repeat does no harm. Its id is `epoch.sequence.index`: the record "
        "that wished for it and the place in that record's list. Names of timers: "
        "[events](events.md#names-of-timers).",
        "## Effects that are answered\n\nThey stay outstanding until their answer was taken, and are "
        "performed again, under the same id, after a restart.\n\n" + told(True),
        "## Effects without an answer\n\n" + told(False),
    )


# --- settings ----------------------------------------------------------------------------------------


def settings() -> str:
    ours = [one for one in SETTINGS if one.path.startswith("identityd.")]
    theirs = [one for one in SETTINGS if not one.path.startswith("identityd.")]
    return _page(
        "Settings",
        "What is read from `config.toml`. [`config/default.toml`](../../config/default.toml) is the same "
        "list as a file to start from. A broken file stops nothing that runs: see "
        "`identityd.when_config_is_broken`. SIGHUP has the file read again.",
        "## Keys of Azure IoT Identity Service\n\nThey keep their meaning.\n\n" + _settings(theirs),
        "## Keys of this service\n\nAll below `[identityd]`, a table that the original ignores.\n\n"
        + _settings(ours),
        *(
            f"## Drop-ins of {service}\n\nWhat is read from `/etc/aziot/{service}/config.d/NAME.toml`: see "
            "[how to let a program use the service](../how-to/principals.md). `principal` is an array of "
            "tables, `[[principal]]`.\n\n" + _settings(DROP_INS[service])
            for service in DROP_IN_SERVICES
        ),
        "## Accepted without a look inside\n\nTop-level keys of the original and of IoT Edge, so that a file "
        "in use keeps working: " + ", ".join(_code(name) for name in sorted(NOT_READ_YET)) + ".",
        "## Refused\n\nValid in the original, not in this release: "
        + ", ".join(_code(f'{key} = "{value}"') for key, value in sorted(NOT_YET))
        + ". What is in no list here is not used; a remark names the key that is most like it. All mistakes "
        "and remarks at once, with their lines: `identityd config check`.",
        "## Read by config apply only\n\nThis service does not use these; `identityd config apply` checks "
        "them and hands them to the daemons of the original. Keys may also be PKCS#11 URIs there, and the "
        "refused methods are written like others.\n\n" + _settings(APPLY_ONLY),
    )


def _settings(rows: Iterable[Setting]) -> str:
    return _table(
        ("key", "unit", "allowed", "default", "meaning"),
        (
            (
                _code(one.path),
                one.unit,
                one.allowed,
                _default(one),
                one.meaning + (" Secret." if one.secret else ""),
            )
            for one in rows
        ),
    )


def _default(one: Setting) -> str:
    value: Any = one.default
    if value is None:
        return "none"
    if isinstance(value, bool):
        return _code(str(value).lower())
    if isinstance(value, tuple):
        return _code("[]") if not value else _code(str(list(value)))
    return _code(f'"{value}"' if isinstance(value, str) else str(value))


# --- sockets --------------------------------------------------------------------------------------------


def control_api() -> str:
    status, journal = read("statemachine/status.py"), read("statemachine/journal.py")
    ports, tables = read("adapters/ports.py"), read("adapters/tables.py")
    meanings = dict(re.findall(r"``\w+ ([^`?]+)(?:\?[^`]*)?``\s{2,}(.+)", control.__doc__ or ""))
    nested = [name for name in status.classes if name not in ("Status", "LastError")]
    return _page(
        "Local sockets",
        "All speak HTTP/1.1 over Unix sockets, below `/run/aziot` (or `DIR/run/aziot` with `--root DIR`), "
        f"control.sock with mode {SOCKET_MODE:04o}. The peer is told by its uid (SO_PEERCRED). "
        "Requests are bounded in size, time and number: see "
        "[`identityd.limits`](settings.md#keys-of-this-service).",
        "## control.sock\n\n"
        + _table(
            ("route", "answer"),
            ((_code(f"{method} {path}"), meanings.get(path, "")) for path, method in control.ROUTES.items()),
        ),
        "Reading is for whoever can open the socket. Commands are for root, the service's own uid and the "
        "users in `identityd.control.principals`; anybody else gets 403.",
        "Times are RFC 3339 in UTC.",
        _struct(status, "Status", title="The status"),
        *(_struct(status, name, level=4) for name in [*nested, "LastError"]),
        "### The events\n\n`GET /v1/events?from=SEQ` answers `application/jsonl`: the stored records from "
        "that sequence on, then each new one as it becomes durable, until either side hangs up. Without "
        "`from` it begins after the newest record. Records that are no longer kept are left out.",
        _table(
            ("line", "meaning"),
            (
                ('`{"type": "record", …}`', "one journal record, as stored"),
                (
                    '`{"type": "heartbeat", "sequence": N}`',
                    "all stored records were sent, and then after each "
                    f"{control.HEARTBEAT_S:g} seconds of silence; come back with `from=N+1`",
                ),
                ('`{"type": "error", "message": …}`', "the journal cannot be read; the stream ends"),
            ),
        ),
        "A reader that cannot keep up is dropped, never waited for: its stream ends.",
        _struct(journal, "Record", level=4),
        "`event` is one of the [events](events.md), `effects` are the [effects](effects.md). Every stored "
        "line ends with a member `hash`.",
        '### Commands\n\n`POST /v1/purge` takes the body `{"confirm": "DEVICE"}`, the device id or '
        f"registration id of this very device (`{control.NAMELESS}` where it has neither), from root alone; "
        "the others take no body. "
        "They are answered as soon as the record is durable, not when the attempt has ended: "
        "follow the events for that.",
        _table(
            ("status", "body"),
            (
                ("202", "`sequence`, `verdict`, `why`"),
                ("400", "purge: `message`, `expected`: nothing was confirmed, and what would do"),
                ("403", "`message`: this uid may not command"),
                ("409", "`message`, `sequence`, `verdict`: the machine refuses, and why"),
                ("409", "purge: `message`, `expected`: another device was meant, and what would do"),
                (
                    "503",
                    "`message`, with Retry-After (by default "
                    f"{control.RETRY_AFTER_S} s): the journal cannot be written, nothing was done",
                ),
            ),
        ),
        _struct(ports, "Taken", level=4),
        "`POST /v1/reload` is answered when the files were read: 200 with what changed, 409 when they cannot "
        "be used and what was in force stays.",
        _struct(ports, "Reloaded", level=4),
        _struct(ports, "ChangedKey", level=4),
        "### The machine\n\n`GET /v1/machine` answers both tables as data, with a Mermaid diagram of each.",
        *(_struct(tables, n, level=4) for n in ("MachineFacts", "TableFacts", "RowFacts", "IgnoredFacts")),
        "### Errors\n\nEvery error is JSON with a `message` that names the cause and the fix.",
        _table(
            ("status", "when"),
            (
                ("400", "`from` is no sequence; the request is not HTTP"),
                ("403", "a command by somebody who may only read"),
                ("404", "no such path; the message lists those there are"),
                ("405", "the path takes another method; `Allow` names it"),
                ("408, 413, 431", "the request took too long, or is too large"),
                ("505", "something else than HTTP/1.1"),
                ("503", "the journal is unavailable"),
            ),
        ),
        "## The services of the original\n\nWhat they take and answer is in an OpenAPI 3.1 document each, "
        "which tests compare with the running service; where they differ from the original on purpose is in "
        "[compatibility](compatibility.md).",
        _table(
            ("socket", "mode", "group", "`api-version`", "for", "contract"),
            (_service_row(name, *SERVICES[name]) for name in SERVICES),
        ),
        "The ids that belong to this service itself are read and used like others, but no socket creates, "
        "imports, moves or deletes them, whoever asks: `aziot-dps-identity-cert` and its key "
        "`aziot-dps-identity-cert-key`, the trust bundle under `aziot-dps-trust-bundle` or the name in "
        "`dps_trust_bundle`, `aziot_identityd_master_id` and `handle-validation-key`. Private keys are "
        "served by no socket, except that of a local identity, to whoever it is made for.",
    )


SERVICES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "certd": (certd_api.API_VERSIONS, "certificates by id: read, create, import, delete"),
    "keyd": (keyd_api.API_VERSIONS, "keys by id, used by handle: sign, derive, encrypt"),
    "identityd": (identityd_api.API_VERSIONS, "identities of device and modules, reprovision"),
    "workload": (workload_api.API_VERSIONS, "trust bundles for modules, as IoT Edge serves them"),
}


def _service_row(name: str, versions: tuple[str, ...], purpose: str) -> tuple[str, ...]:
    mode = WORKLOAD_SOCKET_MODE if name == "workload" else SOCKET_MODE
    known = ", ".join(f"`{version}`" for version in versions)
    contract = f"[openapi/{name}.yaml](openapi/{name}.yaml)"
    return f"`{name}.sock`", f"{mode:04o}", f"`{SOCKET_GROUPS[name]}`", known, purpose, contract


# --- failures ----------------------------------------------------------------------------------------


def failures() -> str:
    unknown = set(get_args(FailureClass)) ^ set(CLASSES)
    assert not unknown, f"classes without a meaning, or meanings without a class: {unknown}"
    codes = failure_codes(_service_files())
    stale = set(CODE_NOTES) - {code.name for code in codes}
    assert not stale, f"docs/pages.py has notes on codes that no source raises: {stale}"
    fixes = dict(sorted(files._CAUSES.values(), reverse=True)) | {"io-error": "check the disk"}
    return _page(
        "Failures",
        "A failure has a class, which is what to do about it, and a code, which is why it happened. The "
        "machine decides by class only. `status`, `explain` and the journal show both, with the cloud's "
        "tracking id when there is one. What to do when somebody has to act: "
        "[get a device going again](../how-to/recover.md).",
        "## Classes\n\n" + _table(("class", "what the machine does"), _class_rows(codes)),
        "## Codes\n\nCollected from the source. `…` stands for what is known only when it happens.\n\n"
        + _table(("code", "class", "says", "note"), (_code_row(code) for code in codes)),
        "## Codes of the file system\n\nFrom any store, class `retry`. The message names the path.\n\n"
        + _table(("code", "fix"), ((_code(cause), fix) for cause, fix in sorted(fixes.items()))),
    )


def _class_rows(codes: Iterable[Code]) -> Iterable[tuple[str, str]]:
    raised = {one for code in codes for one in code.classes}
    for name in get_args(FailureClass):
        never = "" if name in raised else " Nothing in this release reports it."
        yield _code(name), CLASSES[name] + never


def _code_row(code: Code) -> tuple[str, str, str, str]:
    words = sorted(code.classes - {"…"})
    classes = " or ".join(_code(one) for one in words)
    if "…" in code.classes:
        classes += ", see note"
    messages = "; ".join(text for text in code.messages if text.strip("…") != "")
    return _code(code.name), classes, messages, CODE_NOTES.get(code.name, "")


def _service_files() -> list[str]:
    found = [
        path.relative_to(ROOT)
        for folder in ("adapters", "statemachine")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    return [str(path) for path in found if not set(path.parts) & set(_NOT_SERVICE)]


# --- faults of the cloud -----------------------------------------------------------------------------

_LONGEST = 48
"Of a value in a table; what is longer is a thousand times the same."


def cloud_faults() -> str:
    sections = (
        f"## {title}\n\n"
        + _table(
            ("case", "the cloud", "fault", "class", "code", "what happens next", "counts"),
            (_case_row(case) for case in cases),
        )
        for title, cases in CATALOGUE.items()
    )
    return _page(
        "Faults of the cloud",
        f"What DPS, IoT Hub and the way to them may do wrong, and what a device makes of it: {len(CASES)} "
        "cases of the stand-in cloud. The tests meet each with the real adapters over real TLS, and renew a "
        "device under each: the credential in use is kept, and a fresh one is there when the fault is gone. "
        "Classes and codes are explained on the page of [failures](failures.md).",
        "## What happens next\n\n"
        + _table(("next", "meaning"), ((_code(name), meaning) for name, meaning in NEXT.items())),
        "*Counts* says whether the registration counts against the budget. A success begins the count anew.",
        *sections,
        "## Kinds of faults\n\n"
        "`identityd cloud --faults FILE` takes `[[fault]]` tables with the keys of the column *fault* above; "
        "the first that applies is taken. Beside the keys of its kind a fault may have `after`, so many that "
        "pass first, and `times`, so many it applies to; without `times` it stays. Faults are replaced while "
        "the cloud runs by `PUT /_cloud/faults`. To those on `accept` and `handshake` that is a connection "
        "like any other, so give them `times`.",
        _table(
            ("kind", "on", "keys", "what it does"),
            (
                (_code(name), ", ".join(kind.on), ", ".join(map(_code, kind.keys)), kind.meaning)
                for name, kind in KINDS.items()
            ),
        ),
    )


def _case_row(case: Case) -> tuple[str, ...]:
    fault = ", ".join(f"{key} = {_value(value)}" for key, value in case.fault.items())
    code = _code(case.code or "") + (", a refusal" if case.refused else "")
    told = "" if case.retry_after_ms is None else f", not before {case.retry_after_ms / 1000:g} s have passed"
    return (
        case.name,
        case.cloud + (" (The newer dialect.)" if case.api_version == DER else ""),
        _code(fault),
        _code(case.failure_class or ""),
        code,
        _code(case.then) + told,
        "" if case.then == "goes-on" else "yes" if case.counts else "no",
    )


def _value(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


# --- metrics -----------------------------------------------------------------------------------------


def metrics() -> str:
    return _page(
        "Metrics",
        "What `GET /metrics` on control.sock and `identityd metrics` answer, and what "
        "`identityd run --metrics-file FILE` keeps in a file: Prometheus text, version 0.0.4. What to do "
        "with them: [watch a fleet](../how-to/monitor.md).",
        _table(
            ("metric", "type", "labels", "meaning"),
            (
                (_code(one.name), one.kind, _labels(one), one.meaning + _there(one) + _buckets(one))
                for one in METRICS
            ),
        ),
        "Counters and histograms begin anew with the process. Times are Unix time in seconds, UTC, by the "
        f"best known true time. One metric has at most {MAX_SERIES} series; further ones are counted "
        f"together as `{OTHER}`. No label names the device or its hub.",
        f"The file is written {SETTLE_S:g} s after a figure has changed and at most every {EVERY_S:g} s, in "
        "one step and with mode 0644, and is removed when the service ends. A service at rest writes "
        "nothing.",
    )


def _labels(metric: Metric) -> str:
    return "; ".join(f"{_code(name)}: {about}" for name, about in metric.labels.items())


def _there(metric: Metric) -> str:
    return f" Not there when {metric.absent}." if metric.absent else ""


def _buckets(metric: Metric) -> str:
    bounds = ", ".join(f"{bound:g}" for bound in metric.buckets)
    return f" Buckets: {bounds} s." if bounds else ""


# --- checks ------------------------------------------------------------------------------------------


def checks() -> str:
    sections = []
    for section, rows in groupby(CHECKS, lambda check: check.section):
        table = _table(
            ("id", "what is checked", "the original's"),
            [(_code(row.id), row.description, "yes" if row.original else "") for row in rows],
        )
        sections.append(f"## {section}\n\n{table}")
    return _page(
        "Checks",
        "What `identityd check` looks at, in this order. Ids and descriptions of the original are kept; "
        "those that cannot apply to a service of one process come to `ignored`, and say why. How to read "
        "the answers: [check a device](../how-to/check.md).",
        *sections,
    )


# --- command line ------------------------------------------------------------------------------------


def cli() -> str:
    statuses = read("adapters/cli/failure.py").constants
    everywhere = parser_for("identityd", IDENTITYD)
    gone = set(COMMAND_NOTES) - {command.words for command in (*IDENTITYD, *AZIOTCTL, *IOTEDGE)}
    assert not gone, f"docs/pages.py has notes on commands that are gone: {gone}"
    return _page(
        "Command line",
        "`identityd` is the service and its tools. Client commands talk to the service over `control.sock`, "
        "and look for it under `/run/aziot` unless `--root DIR` or `AZIOT_ROOT` says otherwise.",
        "## Exit status\n\n"
        + _table(
            ("status", "meaning"),
            (
                ("0", "Done."),
                ("1", statuses["NO"]),
                ("2", statuses["USAGE"]),
                ("3", statuses["UNREACHABLE"]),
                ("130", "Stopped by Ctrl-C."),
            ),
        ),
        "## Options of every command\n\n" + _options(everywhere),
        *(_command("identityd", command) for command in IDENTITYD),
        "## Under the original's names\n\nFor scripts and habits: the same command, the same words.",
        *(_command("aziotctl", command) for command in AZIOTCTL),
        *(_command("iotedge", command) for command in IOTEDGE),
    )


def _command(program: str, command: Command) -> str:
    parser = argparse.ArgumentParser(add_help=False)
    command.arguments(parser)
    told = COMMAND_NOTES.get(command.words, "")
    parts = (
        f"## {program} {command.words}",
        f"{command.summary[0].upper()}{command.summary[1:]}. {told}".strip(),
        _options(parser),
        f"Example: `{command.example}`",
    )
    return "\n\n".join(part for part in parts if part)


def _options(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        metavar = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
        metavar = metavar if isinstance(metavar, str) else " ".join(metavar)
        takes = "" if action.nargs == 0 else f" {metavar}"
        name = ", ".join(f"{option}{takes}" for option in action.option_strings) or str(metavar)
        rows.append((_code(name), (action.help or "") % vars(action)))
    return _table(("option", "meaning"), rows) if rows else ""
