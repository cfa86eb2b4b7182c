"""identityd run: the service itself, in the foreground."""

from argparse import Namespace

from adapters.cli.failure import NO, CommandFailed
from adapters.errors import AlreadyRunning


def main(args: Namespace) -> int:
    """Serve until a signal asks to stop."""
    from adapters.service import main as serve

    try:
        return serve(root=args.root)
    except AlreadyRunning as exc:
        raise CommandFailed(f"{exc}; stop it first, or use another --root", NO) from exc
