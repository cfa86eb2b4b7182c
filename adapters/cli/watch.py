"""``identityd watch``: a live picture on a terminal, a line per record into anything else."""

import sys
import time
from argparse import Namespace

from adapters.cli.client import RECENT_RECORDS, record_line
from adapters.cli.control_client import ControlClient
from adapters.cli.failure import DONE
from adapters.cli.screen import Ink, headline
from adapters.cli.terminal import is_live
from adapters.paths import client_paths
from statemachine.status import Status


def main(args: Namespace) -> int:
    """Until Ctrl-C, which is a good end."""
    client = ControlClient(client_paths(args.root).control_sock)
    now = client.status()
    if args.json:
        return _records(client, _start(args, now, RECENT_RECORDS))
    if is_live(sys.stdout):
        from adapters.cli.watch_live import BACKLOG_RECORDS, live

        return live(client, now, _start(args, now, BACKLOG_RECORDS))
    return _lines(client, now, _start(args, now, RECENT_RECORDS))


def _start(args: Namespace, now: Status, back: int) -> int:
    return args.start if args.start is not None else max(1, now.sequence + 1 - back)


def _records(client: ControlClient, start: int) -> int:
    try:
        for line in client.follow(start):
            if line.type == "record":
                print(line.raw.decode(), flush=True)
    except KeyboardInterrupt:
        pass
    return DONE


def _lines(client: ControlClient, now: Status, start: int) -> int:
    ink = Ink()
    try:
        for text in headline(now, ink, now_unix_ms=_now()):
            print(text)
        print(flush=True)
        for line in client.follow(start):
            if line.type == "record":
                print(record_line(line, ink), flush=True)
    except KeyboardInterrupt:
        pass
    return DONE


def _now() -> int:
    return int(time.time() * 1000)
