"""identityd demo: a device, a cloud and a story, on this machine alone. NOT FOR PRODUCTION."""

import os
import signal
from argparse import Namespace
from types import FrameType

from adapters.cli.demo_stage import Root

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"SIGINT too: a shell that starts something in the background has it ignored."


def main(args: Namespace) -> int:
    """``--once`` leads one whole life and checks it; otherwise it goes on until Ctrl-C."""
    root = Root(args.root or os.environ.get("AZIOT_ROOT"), fresh=args.once)
    before = {number: signal.signal(number, _interrupt) for number in _ENDS}
    try:
        if args.once:
            from adapters.cli.demo_once import once

            return once(root, as_json=args.json)
        from adapters.cli.demo_live import live

        return live(root, as_json=args.json)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_: int, __: FrameType | None) -> None:
    # Once is enough: what follows is the stopping of the children, which is short and not to be cut off.
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
