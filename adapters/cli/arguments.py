"""What can be typed. Nothing else is imported here: a command's code is loaded when it is chosen."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

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
    option("--jobs", type=_jobs, metavar="N", help="processes side by side (default: one for each processor)")
    about = "give up beyond so many worlds (default: no bound; a million takes about 2 GiB)"
    option("--most", type=_sequence, metavar="N", help=about)
    about = "where the way to a violation is written, as a journal (default: the current directory)"
    option("--journal", metavar="FILE", help=about)


def _show(parser: argparse.ArgumentParser) -> None:
    _files(parser)
    about = "leave out the records before this one"
    parser.add_argument("--from", dest="start", type=_sequence, metavar="SEQ", help=about)


def _diagram(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    about = "which of the two (default %(default)s)"
    parser.add_argument("--table", choices=("lifecycle", "attempt"), default="lifecycle", help=about)


def _export(parser: argparse.ArgumentParser) -> None:
    about = "replaced in one step, mode 0644 (default: standard output)"
    parser.add_argument("file", nargs="?", metavar="FILE", help=about)


def _install(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


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
    "journal": "what the service remembers",
    "module-keys": "the keys of this device's modules at the hub",
    "system": "the service as a whole",
    "trust-bundle": "the certificates that programs on this device are to trust",
}

IDENTITYD: Sequence[Command] = (
    Command(
        words="run",
        summary="run the service in the foreground",
        code="adapters.cli.run:main",
        example="sudo identityd run",
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
        summary="what happens, a line each, until Ctrl-C",
        code="adapters.cli.client:watch",
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
        words="module-keys push",
        summary="give the hub the module keys of this device; a lost master key is made anew",
        code="adapters.cli.client:push_module_keys",
        example="sudo identityd module-keys push --timeout 60",
        arguments=_wait,
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
        summary="the machine as Mermaid text",
        code="adapters.cli.diagram:main",
        example="identityd diagram --table attempt",
        arguments=_diagram,
    ),
)

_REPROVISION = Command(
    words="system reprovision",
    summary="register this device from the start",
    code="adapters.cli.client:system_reprovision",
    example="sudo aziotctl system reprovision",
    arguments=_wait_as_ever,
)

AZIOTCTL: Sequence[Command] = (_REPROVISION,)
IOTEDGE: Sequence[Command] = (_REPROVISION._replace(example="sudo iotedge system reprovision"),)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # 20 ms that only this option should cost

        print(f"{parser.prog} {version('identityd')}")
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
