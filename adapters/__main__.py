"""Entry points. Only the chosen command's code is imported: a status must not wait for a server's imports."""

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from adapters.cli.arguments import AZIOTCTL, IDENTITYD, IOTEDGE, Command, parser_for
from adapters.cli.failure import NO, USAGE, CommandFailed
from adapters.errors import AdapterError, ConfigurationInvalid

INTERRUPTED = 130
"128 + SIGINT, what shells expect."
_OUTPUT_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def identityd(argv: Sequence[str] | None = None) -> int:
    """The service and its tools."""
    return _main("identityd", IDENTITYD, argv)


def aziotctl(argv: Sequence[str] | None = None) -> int:
    """The original's tool, as far as people's habits go."""
    return _main("aziotctl", AZIOTCTL, argv)


def iotedge(argv: Sequence[str] | None = None) -> int:
    """IoT Edge's tool, its one command for the identity service."""
    return _main("iotedge", IOTEDGE, argv)


def _main(program: str, commands: Sequence[Command], argv: Sequence[str] | None) -> int:
    if sys.stdout is None:
        # Closed by whoever started us. Descriptor 1 is taken, or the next socket would be our output.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        args = parser_for(program, commands).parse_args(argv)
        module, _, function = args.code.partition(":")
        run: Callable[[object], int] = getattr(importlib.import_module(module), function)
        status = run(args)
        sys.stdout.flush()
        return status
    except CommandFailed as exc:
        return _say(program, exc.message, exc.status)
    except ConfigurationInvalid as exc:
        return _say(program, str(exc), USAGE)
    except AdapterError as exc:
        return _say(program, f"{exc.message} ({exc.code})", NO)
    except BrokenPipeError:
        # The reader of a pipe has seen enough.
        _mute()
        return NO
    except OSError as exc:
        # Without a name it is no file of ours.
        if exc.filename is not None or exc.errno not in _OUTPUT_FAILS:
            raise
        _mute()
        return _say(program, f"cannot write the output: {exc.strerror}", NO)
    except KeyboardInterrupt:
        return INTERRUPTED


def _mute() -> None:
    """The interpreter must not try to flush into a broken output again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(program: str, message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"{program}: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(identityd())
