"""identityd metrics: the figures of a running service, as Prometheus reads them."""

from argparse import Namespace

from adapters.cli.control_client import ControlClient
from adapters.cli.failure import DONE
from adapters.paths import client_paths


def main(args: Namespace) -> int:
    """The text as it is."""
    print(ControlClient(client_paths(args.root).control_sock).metrics().decode(), end="")
    return DONE
