"""identityd check and check-list, also under the original's name: is all well, and will it stay so?"""

import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from adapters.checks.catalogue import CHECKS
from adapters.cli.encoding import takes_unicode
from adapters.cli.failure import DONE, NO
from adapters.cli.screen import Ink, columns, wrapped
from adapters.errors import bounded
from adapters.paths import client_paths

if TYPE_CHECKING:
    from adapters.checks.run import Done
    from adapters.checks.subject import Subject

_WORDS = {
    "ok": ("OK", "good"),
    "warning": ("Warning", "busy"),
    "skipped": ("Warning", "busy"),
    "ignored": ("Ignored", "dim"),
    "error": ("Error", "bad"),
    "fatal": ("Error", "bad"),
}
_MARKS = {"OK": "√", "Warning": "‼", "Error": "\N{MULTIPLICATION SIGN}", "Ignored": "\N{EN DASH}"}
_PLAIN_MARKS = {"OK": "v", "Warning": "!", "Error": "x", "Ignored": "-"}
_ADVICE = {"fix: ": "", "tried: ": "dim"}
"Style of the lines that begin so."
_SKIPPING = "skipping because of previous failures"


def main(args: Namespace) -> int:
    """Run every check: 0 when none is an error, or a warning under --warnings-as-errors, else 1."""
    from adapters.checks.run import run

    subject = subject_of(args)
    leave_out = {name for given in args.dont_run for name in given.split()}
    ended = run(subject, leave_out)
    match args.output:
        case "json":
            done = list(ended)
            print(msgspec.json.encode(as_object(done, subject)).decode())
        case "json-stream":
            done = _stream(ended, subject)
        case _:
            done = _tell(ended, verbose=args.verbose)
    return DONE if _good(done, warnings_as_errors=args.warnings_as_errors) else NO


def list_checks(args: Namespace) -> int:
    """Every check there is; none is run."""
    if args.output == "json":
        listed = {
            section: [{"id": check.id, "description": check.description} for check in checks]
            for section, checks in groupby(CHECKS, lambda check: check.section)
        }
        print(msgspec.json.encode(listed).decode())
        return DONE
    widths = [
        1 + max(len(text) for text in column)
        for column in zip(*((c.section, c.id) for c in CHECKS), strict=True)
    ]
    print(f"{'CATEGORY':{widths[0]}}{'ID':{widths[1]}}DESCRIPTION\n")
    for _, checks in groupby(CHECKS, lambda check: check.section):
        for check in checks:
            print(f"{check.section:{widths[0]}}{check.id:{widths[1]}}{check.description}")
        print()
    return DONE


def subject_of(args: Namespace) -> "Subject":
    """The service below the root that was named."""
    from adapters.checks.subject import Options, Subject

    options = Options(
        ntp_server=args.ntp_server,
        iothub_hostname=args.iothub_hostname,
        proxy_uri=args.proxy_uri,
        expected_version=args.expected_aziot_version,
    )
    return Subject(client_paths(args.root), options, os.environ)


# --- text --------------------------------------------------------------------------------------------


def _tell(ended: "Iterator[Done]", *, verbose: bool) -> "list[Done]":
    done: list[Done] = []

    def noted() -> "Iterator[Done]":
        for one in ended:
            done.append(one)
            yield one

    width = columns()
    for line in report_lines(noted(), Ink(), verbose=verbose, width=width):
        print(line, flush=True)
    return done


def report_lines(
    ended: "Iterable[Done]", ink: Ink, *, verbose: bool, width: int | None = None
) -> "Iterator[str]":
    """The whole report, each line as soon as it is known."""
    marks = _MARKS if takes_unicode(sys.stdout) else _PLAIN_MARKS
    done, section = [], ""
    for one in ended:
        if one.check.section != section:
            if section:
                yield ""
            section = one.check.section
            yield ink("strong", section)
            yield "-" * len(section)
        yield from text_lines(one, ink, marks, verbose=verbose, width=width)
        done.append(one)
    yield ""
    for line in totals(done, verbose=verbose):
        yield from wrapped(line, width)
    yield ""


def text_lines(
    one: "Done", ink: Ink, marks: Mapping[str, str], *, verbose: bool, width: int | None = None
) -> Iterator[str]:
    """What is said of one check; nothing of those that do not apply, unless somebody wants to know."""
    outcome, description = one.outcome, one.check.description
    if outcome.kind in ("ignored", "skipped") and not verbose:
        return
    word, style = _WORDS[outcome.kind]
    for line in wrapped(f"{marks[word]} {description} - {word}", width):
        yield ink(style, line)
    match outcome.kind:
        case "ok" | "ignored":
            details = [("dim", outcome.seen)] if verbose and outcome.seen else []
        case "skipped":
            details = [(style, _SKIPPING), ("dim", f"    caused by: {outcome.seen}")]
        case _:
            lines = outcome.message.splitlines()
            details = [(_style(line, style), line) for line in lines]
            details += [("", line) for line in _causes(outcome.causes)] if verbose else []
    for detail_style, text in details:
        for line in wrapped(f"    {text}", width, hanging=9):
            yield ink(detail_style, line) if detail_style else line


def _style(line: str, otherwise: str) -> str:
    return next((style for begins, style in _ADVICE.items() if line.startswith(begins)), otherwise)


def _causes(causes: Sequence[str]) -> Iterator[str]:
    for cause in causes:
        first, *more = cause.splitlines() or [""]
        yield f"    caused by: {first}"
        yield from (f"               {line}" for line in more)


def totals(done: "Sequence[Done]", *, verbose: bool) -> Iterator[str]:
    """How many came to what."""
    kinds = [one.outcome.kind for one in done]
    more = "" if verbose else " Re-run with --verbose for more details."
    yield f"{kinds.count('ok')} check(s) succeeded."
    if warnings := kinds.count("warning"):
        yield f"{warnings} check(s) raised warnings.{more}"
    if errors := kinds.count("error") + kinds.count("fatal"):
        yield f"{errors} check(s) raised errors.{more}"
    if skipped := kinds.count("skipped"):
        yield f"{skipped} check(s) were skipped due to errors from other checks.{more}"


# --- JSON --------------------------------------------------------------------------------------------


def as_object(done: "Sequence[Done]", subject: "Subject") -> dict[str, object]:
    """The original's object: ids sorted, the kind of a result inside its result."""
    from adapters.checks.facts import facts

    checks = {one.check.id: {"result": _result(one), "additional_info": _info(one)} for one in done}
    return {"additional_info": facts(subject), "checks": dict(sorted(checks.items()))}


def _stream(ended: "Iterator[Done]", subject: "Subject") -> "list[Done]":
    """Objects one after another, each as soon as it is known."""
    from adapters.checks.facts import facts

    done, section = [], ""
    for one in ended:
        if one.check.section != section:
            section = one.check.section
            _write({"kind": "section", "name": section})
        _write(
            {
                "kind": "check",
                "id": one.check.id,
                "description": one.check.description,
                "result": _result(one),
                "additional_info": _info(one),
            }
        )
        done.append(one)
    _write({"kind": "additional_info"} | facts(subject))
    print()
    return done


def _write(value: object) -> None:
    print(msgspec.json.encode(value).decode(), end="", flush=True)


def _result(one: "Done") -> dict[str, object]:
    result: dict[str, object] = {"result": one.outcome.kind}
    return result | ({"details": list(one.outcome.details)} if one.outcome.details else {})


def _info(one: "Done") -> dict[str, object]:
    """Why one was not looked at has no place in the original's result, so it stands beside it."""
    info = one.outcome.info
    if one.outcome.kind in ("ignored", "skipped"):
        return info | {"reason": bounded(one.outcome.seen, 600)}
    return info


def _good(done: "Sequence[Done]", *, warnings_as_errors: bool) -> bool:
    bad = {"error", "fatal"} | ({"warning"} if warnings_as_errors else set())
    return not any(one.outcome.kind in bad for one in done)
