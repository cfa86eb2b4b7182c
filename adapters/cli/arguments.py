"""What can be typed. Nothing else is imported here: a command's code is loaded when it is chosen."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from adapters.release import VERSION

N = TypeVar("N", int, float)

WAIT_S = 330.0
"A little over the overall deadline of one attempt, attempt_timeout_seconds."

_EXITS = "exit status: 0 done, 1 the answer is no, 2 usage or configuration, 3 service unreachable"


class Command(NamedTuple):
    """One row of the command line."""

    words: str
    summary: str
    code: str
    "module:function, called with the parsed arguments; its return value is the exit status."
    example: str
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def _timeout(parser: argparse.ArgumentParser) -> None:
    about = "wait at most this long for the end (default %(default)g)"
    parser.add_argument("--timeout", type=_seconds, default=WAIT_S, metavar="SECONDS", help=about)


def _wait(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    _timeout(parser)
    parser.add_argument("--no-wait", action="store_true", help="return once the command was taken")


def _purge(parser: argparse.ArgumentParser) -> None:
    _wait(parser)
    either = parser.add_mutually_exclusive_group()
    about = "the device's id at its hub, or its registration id: nothing is asked then"
    either.add_argument("--confirm", metavar="ID", help=about)
    about = "whichever device this is; only where somebody sits at a terminal"
    either.add_argument("--yes", action="store_true", help=about)


def _wait_as_ever(parser: argparse.ArgumentParser) -> None:
    _timeout(parser)
    parser.set_defaults(json=True, no_wait=False)  # json keeps the progress quiet, as in the original


def _watch(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    about = "begin at this record (default: ten back)"
    parser.add_argument("--from", dest="start", type=_sequence, metavar="SEQ", help=about)


def _files(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    about = "journal files, oldest first; - is stdin (default: what the service of this root keeps)"
    parser.add_argument("files", nargs="*", metavar="FILE", help=about)


def _replay(parser: argparse.ArgumentParser) -> None:
    _files(parser)
    either = parser.add_mutually_exclusive_group()
    about = "compare two journals instead, each a file or a directory of files: where do they part"
    either.add_argument("--diff", nargs=2, metavar=("OLD", "NEW"), help=about)
    about = "say instead what the settings of this config.toml would have changed"
    either.add_argument("--what-if", metavar="SETTINGS", help=about)


def _explore(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    option = parser.add_argument
    about = "how much may go otherwise than it commonly does (default %(default)s: minutes)"
    option("--surprises", type=_few, default=1, metavar="N", help=about)
    about = (
        "follow surprises of these sorts alone (default: all): answer, kill, clock, command, configuration, "
        "loss, refusal"
    )
    option("--only", default="", metavar="SORT,...", help=about)
    option("--jobs", type=_jobs, metavar="N", help="processes side by side (default: one for each processor)")
    about = "give up beyond so many worlds (default: no bound; a million takes about 2 GiB)"
    option("--most", type=_sequence, metavar="N", help=about)
    about = "where the way to a violation is written, as a journal (default: the current directory)"
    option("--journal", metavar="FILE", help=about)


def _show(parser: argparse.ArgumentParser) -> None:
    _files(parser)
    about = "leave out the records before this one"
    parser.add_argument("--from", dest="start", type=_sequence, metavar="SEQ", help=about)


def _timeline(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    about = "journal files, oldest first; - is stdin (default: what the service of this root keeps)"
    option("files", nargs="*", metavar="FILE", help=about)
    about = "tell no records before this one; the picture is of all"
    option("--from", dest="start", type=_sequence, metavar="SEQ", help=about)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print the facts as JSON")
    about = "write a page with a picture instead; it needs no network; - is standard output"
    how.add_argument("--html", metavar="PAGE", help=about)


def _apply(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    option = parser.add_argument
    about = "what to read (default: /etc/aziot/config.toml, below --root)"
    option("-c", "--config", metavar="FILE", help=about)
    about = "of the device, when the file has none (default: that of this machine)"
    option("--hostname", metavar="NAME", help=about)
    about = "a daemon's user: aziotid, aziotcs, aziotks or aziottpm; may be repeated (default: looked up)"
    option("--user", action="append", default=[], type=_user, metavar="NAME=UID[:GID]", help=about)
    option("--dry-run", action="store_true", help="say what would be done, and do nothing")


def _quick(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    about = "of the device at its hub; - reads it from standard input, where no other user sees it"
    option("-c", "--connection-string", required=True, metavar="TEXT", help=about)
    about = "what to write (default: /etc/aziot/config.toml, below --root)"
    option("-o", "--out-config-file", metavar="FILE", help=about)
    about = "replace the file if there is one; the old one stays as FILE.bak"
    option("-f", "--force", action="store_true", help=about)


def _check_config(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    option = parser.add_argument
    about = "what to check, with the drop-ins beside it (default: /etc/aziot/config.toml, below --root)"
    option("file", nargs="?", metavar="FILE", help=about)
    about = "who is to use it: this service, config apply, or the original's identityd (default %(default)s)"
    option("--for", dest="reader", choices=("run", "apply", "identityd"), default="run", help=about)
    option("--warnings-as-errors", action="store_true", help="exit with 1 for remarks as well")


def _look(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    about = "ids of checks to leave out, in one argument; may be repeated"
    option("--dont-run", action="append", default=[], metavar="IDS", help=about)
    about = "where the time is asked for (default %(default)s)"
    option("--ntp-server", default="pool.ntp.org:123", metavar="HOST:PORT", help=about)
    option("--iothub-hostname", metavar="NAME", help="the hub (default: that of the assignment)")
    about = "proxy on the way to DPS and to port 443 of the hub (default: that of the service)"
    option("--proxy-uri", metavar="URI", help=about)
    option("--expected-aziot-version", metavar="VERSION", help="what is to be installed (default: any)")


def _check(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    about = "how it is told (default %(default)s)"
    option("-o", "--output", choices=("text", "json", "json-stream"), default="text", help=about)
    about = "tell of causes, of what was seen, and of checks that were not run"
    option("-v", "--verbose", action="store_true", help=about)
    option("--warnings-as-errors", action="store_true", help="exit with 1 for warnings as well")
    _look(parser)


def _check_list(parser: argparse.ArgumentParser) -> None:
    about = "how it is told (default %(default)s)"
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help=about)


def _support(parser: argparse.ArgumentParser) -> None:
    about = "a .tar.gz, mode 0600; - is standard output (default: named after the time, in this directory)"
    parser.add_argument("file", nargs="?", metavar="FILE", help=about)
    _pseudonymise(parser)
    _look(parser)


def _pseudonymise(parser: argparse.ArgumentParser) -> None:
    about = "replace names of the device, hosts, ids and certificates, the same by the same"
    parser.add_argument("--pseudonymise", action="store_true", help=about)


def _export_journal(parser: argparse.ArgumentParser) -> None:
    about = "replaced in one step, mode 0600 (default: standard output)"
    parser.add_argument("file", nargs="?", metavar="FILE", help=about)
    about = "read this file instead of the service's; may be repeated, oldest first"
    parser.add_argument("--journal", action="append", default=[], metavar="FILE", help=about)
    _pseudonymise(parser)


def _diagram(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    about = "which of the two (default %(default)s)"
    parser.add_argument("--table", choices=("lifecycle", "attempt"), default="lifecycle", help=about)
    about = "how it is drawn (default %(default)s)"
    parser.add_argument("--format", choices=("mermaid", "svg"), default="mermaid", help=about)


def _export(parser: argparse.ArgumentParser) -> None:
    about = "replaced in one step, mode 0644 (default: standard output)"
    parser.add_argument("file", nargs="?", metavar="FILE", help=about)


def _install(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


def _run(parser: argparse.ArgumentParser) -> None:
    about = "keep the metrics there for the node exporter's textfile collector, which reads names in .prom"
    parser.add_argument("--metrics-file", metavar="FILE", help=about)


def _adopt(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    option = parser.add_argument
    about = "root of the original's /etc/aziot and /var/lib/aziot (default: that of this service)"
    option("--from", dest="source", metavar="DIR", help=about)
    option("--partly", action="store_true", help="leave out what cannot be taken over, and take the rest")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--apply", "--yes", action="store_true", help="do it (default: say what would be done)")
    about = "put the original's files back and set aside what this service has made since"
    how.add_argument("--undo", action="store_true", help=about)


def _demo(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    parser.add_argument(
        "--once",
        action="store_true",
        help="live a whole life in at most 45 s, check it, and exit 0 only if all of it held",
    )


def _cloud(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--port", type=_port, default=0, help="of localhost (default: that of the last run, or any)")
    about = "life of issued certificates (default: 30 days)"
    option("--cert-lifetime", type=_seconds, default=30 * 86_400.0, metavar="SECONDS", help=about)
    option("--bundle", metavar="FILE", help="PEM file sent as the trust bundle")
    option("--no-identity-certs", action="store_true", help="assign without issuing certificates")
    option("--server-certs", action="store_true", help="say that devices may ask for server certificates")
    option("--api-version", metavar="VERSION", help="serve this dialect alone (default: every one)")
    option("--faults", metavar="FILE", help="TOML file of what shall go wrong")
    option("--assigning", type=_count, default=1, metavar="N", help="polls before an answer (default 1)")
    option("--retry-after", type=_count, default=1, metavar="SECONDS", help="0 sends none (default 1)")


def _simulate(parser: argparse.ArgumentParser) -> None:
    # As Python 3.14 has it: -2d is a value, no option.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    option = parser.add_argument
    option("--years", default="10", metavar="N", help="of 365 days; parts of one too (default %(default)s)")
    about = "config.toml whose policy is simulated (default: what this release does without one)"
    option("--config", metavar="FILE", help=about)
    about = "nobody reaches DPS or hub, such as 6h@2027-03-01; may be repeated"
    option("--outage", action="append", default=[], metavar="TIME@DATE", help=about)
    about = "the same of the hub alone"
    option("--hub-outage", action="append", default=[], metavar="TIME@DATE", help=about)
    about = (
        "the device's clock is set, such as -2d@2027-05-01; it stays wrong until another step puts it right"
    )
    option("--clock-step", action="append", default=[], metavar="TIME@DATE", help=about)
    about = "life of issued certificates (default %(default)s)"
    option("--cert-lifetime", default="30d", metavar="TIME", help=about)
    option("--seed", default="1", metavar="N", help="the same seed, the same result (default %(default)s)")
    about = "that begin together, each with a cloud of its own (default %(default)s)"
    option("--devices", default="1", metavar="N", help=about)
    option("--start", metavar="DATE", help="begins then, UTC (default: 2027-01-01)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print the facts as JSON")
    how.add_argument("--html", metavar="FILE", help="write a page with a plot as well; it needs no network")


_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_USERS = ("aziotid", "aziotcs", "aziotks", "aziottpm")
_ID = 2**32 - 2
"The one above it is nobody's."
_ANY = 2**63 - 1
"The largest sequence there can be; nobody needs to read that."
_LONGEST_S = 3650 * 86_400.0


def _seconds(text: str) -> float:
    """A duration: seconds, or a number with one of the units s, m, h, d."""
    unit = _UNITS.get(text[-1:], 1)
    number = text[:-1] if text[-1:] in _UNITS else text
    return unit * _number(
        float, number, 0.001 / unit, _LONGEST_S / unit, "a duration such as 20, 20s, 5m or 2h"
    )


def _count(text: str) -> int:
    return _number(int, text, 0, 10_000, "a count")


def _few(text: str) -> int:
    return _number(int, text, 0, 9, "a number of surprises")


def _jobs(text: str) -> int:
    return _number(int, text, 1, 64, "a number of processes")


def _user(text: str) -> tuple[str, int, int | None]:
    """Name, user id, and group id if there is one."""
    name, _, ids = text.partition("=")
    uid, colon, gid = ids.partition(":")
    if name not in _USERS:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(_USERS)}")
    what = f"an id of {name}"
    return name, _number(int, uid, 0, _ID, what), _number(int, gid, 0, _ID, what) if colon else None


def _sequence(text: str) -> int:
    return _number(int, text, 1, _ANY, "the sequence of a record")


def _port(text: str) -> int:
    return _number(int, text, 0, 65_535, "a port")


def _number(kind: Callable[[str], N], text: str, least: N, most: N, what: str) -> N:
    try:
        value = kind(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        allowed = f"from {least:g} to {most:g}" if most < _ANY else f"of {least:g} or more"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}: a number {allowed}")
    return value


GROUPS: Mapping[str, str] = {
    "config": "what config.toml says",
    "journal": "what the service remembers",
    "module-keys": "the keys of this device's modules at the hub",
    "system": "the service as a whole",
    "trust-bundle": "the certificates that programs on this device are to trust",
}

_CONFIG = (
    Command(
        words="config apply",
        summary="write the files of the original's daemons from config.toml",
        code="adapters.cli.config_apply:main",
        example="sudo identityd config apply --dry-run",
        arguments=_apply,
    ),
    Command(
        words="config mp",
        summary="write a config.toml for manual provisioning with a connection string",
        code="adapters.cli.config_quick:main",
        example="sudo identityd config mp --connection-string -",
        arguments=_quick,
    ),
)

_CHECKS = (
    Command(
        words="check",
        summary="whether all is well, what will go wrong, and how to put it right",
        code="adapters.cli.check:main",
        example="sudo identityd check --verbose",
        arguments=_check,
    ),
    Command(
        words="check-list",
        summary="every check there is; none is run",
        code="adapters.cli.check:list_checks",
        example="identityd check-list",
        arguments=_check_list,
    ),
)

IDENTITYD: Sequence[Command] = (
    Command(
        words="run",
        summary="run the service in the foreground",
        code="adapters.cli.run:main",
        example="sudo identityd run",
        arguments=_run,
    ),
    Command(
        words="demo",
        summary="a device, a cloud and a story, on this machine alone",
        code="adapters.cli.demo:main",
        example="identityd demo --once",
        arguments=_demo,
    ),
    Command(
        words="cloud",
        summary="a stand-in for DPS and IoT Hub, for tests and demonstrations",
        code="adapters.cli.cloud:main",
        example="identityd cloud --root /tmp/device --port 8443",
        arguments=_cloud,
    ),
    Command(
        words="status",
        summary="what is true now, on one screen",
        code="adapters.cli.client:status",
        example="identityd status --json",
        arguments=_json,
    ),
    Command(
        words="watch",
        summary="what happens, as it happens: a live picture on a terminal, else a line each",
        code="adapters.cli.watch:main",
        example="identityd watch --from 1",
        arguments=_watch,
    ),
    Command(
        words="explain",
        summary="why it is so, and what happens next",
        code="adapters.cli.client:explain",
        example="identityd explain",
        arguments=_json,
    ),
    Command(
        words="metrics",
        summary="the figures of the running service, as Prometheus reads them",
        code="adapters.cli.metrics:main",
        example="identityd metrics",
    ),
    Command(
        words="renew",
        summary="get a new certificate now",
        code="adapters.cli.client:renew",
        example="sudo identityd renew --timeout 60",
        arguments=_wait,
    ),
    Command(
        words="reprovision",
        summary="register from the start",
        code="adapters.cli.client:reprovision",
        example="sudo identityd reprovision --no-wait",
        arguments=_wait,
    ),
    Command(
        words="hold",
        summary="begin no attempt until release; what is in use is served",
        code="adapters.cli.client:hold",
        example="sudo identityd hold",
        arguments=_json,
    ),
    Command(
        words="release",
        summary="let attempts begin again after hold or purge",
        code="adapters.cli.client:release",
        example="sudo identityd release",
        arguments=_json,
    ),
    Command(
        words="purge",
        summary="erase whatever identifies this device to the cloud, and hold",
        code="adapters.cli.purge:main",
        example="sudo identityd purge --confirm press-17",
        arguments=_purge,
    ),
    Command(
        words="module-keys push",
        summary="give the hub the module keys of this device; a lost master key is made anew",
        code="adapters.cli.client:push_module_keys",
        example="sudo identityd module-keys push --timeout 60",
        arguments=_wait,
    ),
    *_CONFIG,
    Command(
        words="config check",
        summary="every mistake in config.toml and its drop-ins at once, with what is allowed",
        code="adapters.cli.config_check:main",
        example="identityd config check /etc/aziot/config.toml",
        arguments=_check_config,
    ),
    Command(
        words="adopt",
        summary="take over an installation of the original: its identity, keys, certificates and modules",
        code="adapters.cli.adopt:main",
        example="sudo identityd adopt --apply",
        arguments=_adopt,
    ),
    Command(
        words="config reload",
        summary="have the running service read its configuration again, and say when each change counts",
        code="adapters.cli.reload:main",
        example="sudo identityd config reload",
        arguments=_json,
    ),
    Command(
        words="replay",
        summary="check that journals replay to the same decisions",
        code="adapters.cli.journal:replay",
        example="identityd replay journal-000000000001.jsonl journal.jsonl",
        arguments=_replay,
    ),
    Command(
        words="explore",
        summary="look at every state that can be reached, and check what must hold in all of them",
        code="adapters.cli.explore:main",
        example="identityd explore --surprises 1",
        arguments=_explore,
    ),
    Command(
        words="simulate",
        summary="what the policy would come to over years, in seconds",
        code="adapters.cli.simulate:main",
        example="identityd simulate --years 10 --outage 6h@2027-03-01 --cert-lifetime 30d",
        arguments=_simulate,
    ),
    Command(
        words="journal show",
        summary="read a journal, a line for each record",
        code="adapters.cli.journal:show",
        example="identityd journal show --from 100",
        arguments=_show,
    ),
    Command(
        words="journal timeline",
        summary="the device's life out of its journal, in lines or as a page with a picture",
        code="adapters.cli.timeline:main",
        example="sudo identityd journal timeline --html life.html",
        arguments=_timeline,
    ),
    Command(
        words="journal export",
        summary="the journal as one file that replays, with other names in it if that is wanted",
        code="adapters.cli.journal_export:main",
        example="sudo identityd journal export --pseudonymise /tmp/journal.jsonl",
        arguments=_export_journal,
    ),
    *_CHECKS,
    Command(
        words="support-bundle",
        summary="status, journal, checks and configuration without secrets, for somebody far away",
        code="adapters.cli.support:main",
        example="sudo identityd support-bundle --pseudonymise /tmp/support.tar.gz",
        arguments=_support,
    ),
    Command(
        words="trust-bundle show",
        summary="each certificate, and which bundle it is from",
        code="adapters.cli.trust_bundle:show",
        example="identityd trust-bundle show --json",
        arguments=_json,
    ),
    Command(
        words="trust-bundle export",
        summary="the local bundle and that of DPS as one PEM text",
        code="adapters.cli.trust_bundle:export",
        example="identityd trust-bundle export /etc/app/roots.pem",
        arguments=_export,
    ),
    Command(
        words="trust-bundle install",
        summary="put the CA certificates of the DPS bundle into the system's trust store",
        code="adapters.cli.trust_bundle:install",
        example="sudo identityd trust-bundle install --dry-run",
        arguments=_install,
    ),
    Command(
        words="diagram",
        summary="the machine as Mermaid text or as a picture",
        code="adapters.cli.diagram:main",
        example="identityd diagram --table attempt",
        arguments=_diagram,
    ),
)


def _of_aziotctl(command: Command) -> Command:
    return command._replace(example=command.example.replace("identityd ", "aziotctl "))


_REPROVISION = Command(
    words="system reprovision",
    summary="register this device from the start",
    code="adapters.cli.client:system_reprovision",
    example="sudo aziotctl system reprovision",
    arguments=_wait_as_ever,
)

AZIOTCTL: Sequence[Command] = (_REPROVISION, *(_of_aziotctl(command) for command in (*_CONFIG, *_CHECKS)))
IOTEDGE: Sequence[Command] = (_REPROVISION._replace(example="sudo iotedge system reprovision"),)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{parser.prog} {VERSION}")
        parser.exit()


def parser_for(program: str, commands: Sequence[Command]) -> argparse.ArgumentParser:
    """The whole command line of ``program``; parsed arguments name their code as ``code``."""
    parser = _parser(
        argparse.ArgumentParser,
        prog=program,
        description="Device identity from the cloud.",
        epilog=f"example:\n  {commands[0].example}\n\n{_EXITS}",
    )
    parser.add_argument("--version", nargs=0, action=_Version, help="print the version and exit")
    _root(parser, default=None)
    groups = {"": parser.add_subparsers(metavar="COMMAND", required=True)}
    for command in commands:
        group, _, name = command.words.rpartition(" ")
        if group not in groups:
            outer = _parser(groups[""].add_parser, name=group, help=GROUPS[group])
            groups[group] = outer.add_subparsers(metavar="COMMAND", required=True)
        inner = _parser(
            groups[group].add_parser,
            name=name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=f"example:\n  {command.example}\n\n{_EXITS}",
        )
        command.arguments(inner)
        # Suppressed, or it would forget what was said before the command's name.
        _root(inner, default=argparse.SUPPRESS)
        inner.set_defaults(code=command.code, command=command.words)
    return parser


def _parser(make: Callable[..., argparse.ArgumentParser], **options: str) -> argparse.ArgumentParser:
    return make(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)


def _root(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--root",
        metavar="DIR",
        default=default,
        help="put DIR in front of /etc/aziot, /run/aziot and /var/lib/aziot (or set AZIOT_ROOT)",
    )
