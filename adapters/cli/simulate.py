"""identityd simulate: what a policy would come to over years, in seconds, without a network."""

import logging
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable

import msgspec

from adapters.cli.failure import DONE, NO, USAGE, CommandFailed
from adapters.cli.screen import Ink
from adapters.simulation import options
from adapters.simulation.options import OptionWrong, Scenario
from adapters.simulation.report import Report
from adapters.simulation.run import simulate

REGISTRATION_ID = "device"
"Where the configuration leaves it to the certificate."


def main(args: Namespace) -> int:
    """0 when no device was ever without a valid certificate after its first; 1 when one was."""
    try:
        scenario = _scenario(args)
    except OptionWrong as exc:
        raise CommandFailed(exc.message, USAGE) from exc
    if args.html is not None:
        # Before minutes are spent on what cannot be written.
        _check_writable(args.html)
    # What the simulated service would log, the timeline tells; unheard, its warnings would go to stderr.
    logging.getLogger("identityd").addHandler(logging.NullHandler())
    report = simulate(scenario, _progress(scenario.devices))
    if args.json:
        print(msgspec.json.encode(report).decode())
    else:
        _print(report)
    if args.html is not None:
        _write(args.html, report)
    return NO if report.total.missed_renewals or report.total.never_provisioned else DONE


def _scenario(args: Namespace) -> Scenario:
    """Raises OptionWrong, and ConfigurationInvalid with every mistake in the file."""
    start = options.START_UNIX_MS if args.start is None else options.instant("--start", args.start)
    years = options.number("--years", args.years, options.LEAST_YEARS, options.MOST_YEARS, whole=False)
    scenario = Scenario(
        start_unix_ms=start,
        end_unix_ms=start + round(years * options.YEAR_MS),
        cert_lifetime_ms=options.span_ms("--cert-lifetime", args.cert_lifetime),
        seed=int(options.number("--seed", args.seed, 0, options.MOST_SEED)),
        devices=int(options.number("--devices", args.devices, 1, options.MOST_DEVICES)),
        outages=(
            *options.outages("--outage", args.outage, ("dps", "hub")),
            *options.outages("--hub-outage", args.hub_outage, ("hub",)),
        ),
        clock_steps=options.clock_steps("--clock-step", args.clock_step),
    )
    return options.check(scenario if args.config is None else _configured(scenario, args.config))


def _configured(scenario: Scenario, path: str) -> Scenario:
    """With what decides in that file; its secrets are neither needed nor looked at."""
    from adapters.config import load_noted, policy
    from statemachine.settings import DpsProvisioning

    loaded = load_noted(path)
    for note in loaded.notes:
        print(f"identityd: {note}", file=sys.stderr)
    configuration = loaded.configuration
    provisioning = configuration.provisioning
    if not isinstance(provisioning, DpsProvisioning):
        raise OptionWrong("--config", f'{path} says no source = "dps", and only DPS issues what is simulated')
    settings = policy(configuration, provisioning.registration_id or REGISTRATION_ID)
    tries = 1 + configuration.cloud_retries
    return msgspec.structs.replace(
        scenario,
        policy=settings,
        answer_timeout_ms=configuration.cloud_timeout_seconds * tries * 1000,
        segment_bytes=configuration.journal.segment_bytes,
    )


def _progress(devices: int) -> Callable[[int], None]:
    """A line that is drawn over, for who waits at a terminal for many devices."""
    if devices == 1 or not sys.stderr.isatty():
        return lambda device: None

    def tell(device: int) -> None:
        end = "\r" if device < devices else "\r\x1b[2K"
        print(f"device {device} of {devices}", end=end, file=sys.stderr, flush=True)

    return tell


def _print(report: Report) -> None:
    from adapters.simulation.text import WIDEST, lines

    ink = Ink()
    columns = shutil.get_terminal_size((WIDEST, 24)).columns
    for line in lines(report, columns, lambda style, text: ink(style, text) if style else text):
        print(line)


def _check_writable(path: str) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(directory) or not os.access(directory, os.W_OK):
        fix = "name a file in a directory of yours"
        raise CommandFailed(f"argument --html: {path} cannot be written; {fix}", USAGE)


def _write(path: str, report: Report) -> None:
    from adapters.durable import replace_file
    from adapters.simulation.page import page

    target = os.path.abspath(path)
    try:
        replace_file(target, page(report).encode(), mode=0o644)
    except OSError as exc:
        raise CommandFailed(f"cannot write {path}: {exc.strerror}") from exc
    print(f"\nthe page is {path}")
