"""identityd adopt: take over an installation of the original, and go back to it."""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from adapters.cli.failure import DONE, NO, CommandFailed
from adapters.cli.screen import Ink, instant
from adapters.errors import AlreadyRunning, bounded
from adapters.paths import service_paths

if TYPE_CHECKING:
    from adapters.adoption.plan import Item, Plan

_ACTIONS = {
    "take": ("take over", "good"),
    "stays": ("stays", "dim"),
    "there": ("is there", "dim"),
    "leave": ("leave out", "busy"),
    "refuse": ("CANNOT", "bad"),
}
_OUTCOMES = {
    "goes-on": "the device goes on as it is, without registering",
    "registers": "the device registers at its next start",
    "configured": "the device is what the configuration says",
}
_WIDTH = 12


def main(args: Namespace) -> int:
    """Exit status 1 when something refuses; then nothing was changed."""
    paths = service_paths(args.root)
    source = args.source if args.source is not None else paths.root
    try:
        if args.undo:
            return _undo(args)
        from adapters.adoption.perform import adopt, plan_adoption

        plan = (adopt if args.apply else plan_adoption)(paths, source, partly=args.partly)
    except AlreadyRunning as exc:
        raise CommandFailed(f"{exc}; stop it first") from exc
    if args.json:
        print(msgspec.json.encode(plan).decode())
    else:
        for line in _screen(plan, Ink(), apply=args.apply):
            print(line)
    for refusal in plan.refusals:
        print(f"identityd: {bounded(refusal, 600)}", file=sys.stderr)
    return NO if plan.refusals else DONE


def _undo(args: Namespace) -> int:
    from adapters.adoption.perform import undo

    done = undo(service_paths(args.root))
    if args.json:
        print(msgspec.json.encode({"undone": done}).decode())
    else:
        for line in done:
            print(bounded(line, 600))
        print("The original can be started again.")
    return DONE


def _screen(plan: "Plan", ink: Ink, *, apply: bool) -> Iterator[str]:
    where = "in place" if plan.in_place else f"for the service below {plan.root}"
    yield ink("strong", f"The installation below {bounded(plan.source)}, {where}")
    if plan.device_id is not None:
        yield _row(ink, "device", f"{plan.device_id} at {plan.hub}")
    if plan.certificate is not None:
        now = int(time.time() * 1000)
        one = plan.certificate
        yield _row(ink, "certificate", f"CN {one.common_name}, serial {one.serial}")
        yield _row(ink, "", f"from {instant(one.not_before, now)}")
        yield _row(ink, "", f"to {instant(one.not_after, now)}")
    yield ""
    for item in plan.items:
        yield _item(item, ink)
    if plan.items:
        yield ""
    for remark in plan.remarks:
        yield f"{ink('busy', 'note')} {bounded(remark, 600)}"
    yield from _ending(plan, ink, apply=apply)


def _item(item: "Item", ink: Ink) -> str:
    words, style = _ACTIONS[item.action]
    why = ink("dim", f" ({bounded(item.why, 400)})") if item.why else ""
    return f"  {ink(style, words.ljust(_WIDTH))}{item.kind} {bounded(item.name, 120)}{why}"


def _ending(plan: "Plan", ink: Ink, *, apply: bool) -> Iterator[str]:
    if plan.refusals:
        yield ink("bad", "Nothing was changed: what is marked CANNOT, or told below, stops it.")
        if any(item.action == "refuse" for item in plan.items):
            yield "  With --partly it is left out, and the rest is taken over."
        return
    outcome = f"{_OUTCOMES[plan.outcome]}: {bounded(plan.outcome_why, 400)}."
    if plan.nothing_to_do:
        yield f"Nothing to do. {outcome[0].upper()}{outcome[1:]}"
        return
    if plan.applied:
        yield f"{ink('good', 'Done.')} {outcome[0].upper()}{outcome[1:]}"
        back = "identityd adopt --undo" if plan.in_place else "start the original again, which is as it was"
        yield "Next: identityd run."
        yield f"The way back: {back}."
    else:
        yield f"Then {outcome}"
        yield "Nothing was changed. Do it with --apply."


def _row(ink: Ink, label: str, text: str) -> str:
    return f"  {ink('dim', label.ljust(12))}{bounded(text)}"
