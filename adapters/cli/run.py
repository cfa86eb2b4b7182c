"""identityd run: the service itself, in the foreground."""

import os
from argparse import Namespace

from adapters.cli.failure import NO, CommandFailed
from adapters.errors import AlreadyRunning


def main(args: Namespace) -> int:
    """Serve until a signal asks to stop."""
    from adapters.service import main as serve

    # Said where it was typed, whatever becomes of the working directory.
    metrics_file = None if args.metrics_file is None else os.path.abspath(args.metrics_file)
    try:
        return serve(root=args.root, metrics_file=metrics_file)
    except AlreadyRunning as exc:
        raise CommandFailed(f"{exc}; stop it first, or use another --root", NO) from exc
