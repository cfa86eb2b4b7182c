"""identityd config reload: the running service reads its configuration again and says what came of it."""

import sys
from argparse import Namespace

import msgspec
from msgspec import Struct

from adapters.cli.control_client import ControlClient
from adapters.cli.failure import DONE, NO, CommandFailed
from adapters.errors import bounded
from adapters.paths import client_paths

MEANINGS = {
    "now": "in force",
    "next": "from the next registration or new key on",
    "restart": "after a restart of the service",
    "reprovision": "the device registers again",
}
"In this order they are told."


class ChangedKey(Struct, frozen=True):
    """One key; the service may be newer than this client and know other effects."""

    key: str
    effect: str


class Answer(Struct, frozen=True):
    """What ``POST /v1/reload`` says."""

    outcome: str
    message: str
    keys: tuple[ChangedKey, ...] = ()
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def main(args: Namespace) -> int:
    """Exit status 1 when the files cannot be used; the service goes on with what it has."""
    path = client_paths(args.root).control_sock
    said = ControlClient(path).reload()
    try:
        answer = msgspec.json.decode(said, type=Answer)
    except msgspec.DecodeError as exc:
        raise CommandFailed(
            f"the service at {path} answers in a way unknown here: {bounded(str(exc))}"
        ) from exc
    if args.json:
        print(said.decode())
    else:
        _print(answer)
    return DONE if answer.outcome == "reloaded" else NO


def _print(answer: Answer) -> None:
    for finding in answer.findings:
        print(bounded(finding, 1000), file=sys.stderr)
    if answer.outcome != "reloaded":
        print(bounded(answer.message), file=sys.stderr)
        return
    print(bounded(answer.message))
    for effect in dict.fromkeys((*MEANINGS, *(key.effect for key in answer.keys))):
        keys = [key.key for key in answer.keys if key.effect == effect]
        if keys:
            print(f"  {MEANINGS.get(effect, effect)}:")
        for key in keys:
            print(f"    {bounded(key, 200)}")
    for note in answer.notes:
        print(f"note: {bounded(note, 1000)}")
