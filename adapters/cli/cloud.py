"""identityd cloud: the stand-in for DPS and IoT Hub, in the foreground. NOT FOR PRODUCTION."""

import os
import signal
import sys
from argparse import Namespace

import msgspec
import trio

from adapters.cli.failure import DONE, USAGE, CommandFailed
from adapters.simulators.cloud import CloudListening, CloudOptions, run_cloud
from adapters.simulators.state import CloudError


def main(args: Namespace) -> int:
    """Serve until a signal; one JSON line says where, as soon as it listens."""
    root = args.root or os.environ.get("AZIOT_ROOT")
    if not root:
        raise CommandFailed("the stand-in cloud keeps everything below a --root DIR of its own", USAGE)
    options = CloudOptions(
        root=root,
        port=args.port,
        cert_lifetime_s=args.cert_lifetime,
        bundle=args.bundle,
        identity_certs=not args.no_identity_certs,
        server_certs=args.server_certs,
        api_version=args.api_version,
        faults=args.faults,
        assigning=args.assigning,
        retry_after_s=args.retry_after or None,
    )
    trio.run(_serve, options)
    return DONE


async def _serve(options: CloudOptions) -> None:
    problem: CloudError | None = None
    # Caught before anything listens: whoever was told where to connect may also stop it.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            try:
                await run_cloud(options, on_listening=_announce)
            except CloudError as exc:
                problem = exc
            nursery.cancel_scope.cancel()
    if problem is not None:
        raise CommandFailed(str(problem), USAGE) from problem


def _announce(listening: CloudListening) -> None:
    print(msgspec.json.encode(listening).decode(), flush=True)
    if not listening.config_matches:
        print(
            f"identityd: {listening.config} names another cloud than this one at {listening.endpoint}; "
            "correct its global_endpoint, or remove it and start again to have it written",
            file=sys.stderr,
        )
