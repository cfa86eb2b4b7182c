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
    return _main("aziotctl", AZIOTCTL, argv, shared=True)


def iotedge(argv: Sequence[str] | None = None) -> int:
    """IoT Edge's tool, its one command for the identity service."""
    return _main("iotedge", IOTEDGE, argv, shared=True)


def _main(
    program: str, commands: Sequence[Command], argv: Sequence[str] | None, *, shared: bool = False
) -> int:
    """``shared``: the vendor has a tool of that name, and what is not ours is for it."""
    if sys.stdout is None:
        # Closed by whoever started us. Descriptor 1 is taken, or the next socket would be our output.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        if shared:
            _pass_on_the_vendors(program, commands, sys.argv[1:] if argv is None else argv)
        args = parser_for(program, commands).parse_args(argv)
        # Not before: a mistake in what was typed is told without any import.
        from adapters.cli.encoding import make_tolerant

        make_tolerant(sys.stdout)
        status = _code_of(args.code, f"{program} {args.command}")(args)
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


def _pass_on_the_vendors(program: str, commands: Sequence[Command], typed: Sequence[str]) -> None:
    """Does not return when it is for the vendor's tool."""
    from adapters.cli.vendor import pass_on, vendors_tool

    tool = vendors_tool(program, (command.words for command in commands), typed)
    if tool is not None:
        pass_on(tool, typed)


def _code_of(place: str, typed: str) -> Callable[[object], int]:
    """Raises CommandFailed for a command that was left out when this installation was made."""
    module, _, function = place.partition(":")
    try:
        run: Callable[[object], int] = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as exc:
        if exc.name is None or not exc.name.startswith("adapters."):
            raise
        raise CommandFailed(
            f"`{typed}` is not part of this installation: a device has no use for the stand-in cloud. "
            "It comes with the Python package: `pipx install .` in the sources",
            USAGE,
        ) from exc
    return run


def _mute() -> None:
    """The interpreter must not try to flush into a broken output again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(program: str, message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"{program}: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(identityd())
