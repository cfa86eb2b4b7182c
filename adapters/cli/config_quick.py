"""identityd config mp: a config.toml for manual provisioning, made of a connection string."""

import contextlib
import errno
import os
import shlex
import sys
from argparse import Namespace

from adapters.cli.failure import DONE, NO, USAGE, CommandFailed
from adapters.config_forms import Unfit, connection_string
from adapters.config_install import BACKUP, DIRECTORY_MODE
from adapters.config_toml import toml_text
from adapters.durable import sync_directory, write_synced
from adapters.paths import service_paths

MAX_CHARS = 4096
"Of a connection string; hub, device id and key come to a few hundred."


def main(args: Namespace) -> int:
    """The file is complete before it has its name, private from its first byte."""
    path = args.out_config_file or service_paths(args.root).config
    text = _given(args.connection_string)
    try:
        connection_string(text)
    except Unfit as exc:
        found = exc.found or "something else"
        raise CommandFailed(
            f'--connection-string: found {found}; allowed "HostName=HUB;DeviceId=ID;SharedAccessKey=BASE64"',
            USAGE,
        ) from None  # its cause may show the key
    content = toml_text({"provisioning": {"source": "manual", "connection_string": text}})
    try:
        backup = _write(path, content.encode(), replace=args.force)
    except FileExistsError as exc:
        again = f"config apply -c {shlex.quote(path)}"
        raise CommandFailed(
            f"{path} is there already, so this device is configured: `{again}` has it take effect, "
            "--force replaces it",
            NO,
        ) from exc
    except OSError as exc:
        raise CommandFailed(f"cannot write {path}: {exc.strerror}", NO) from exc
    print(f"Written: {path}, mode 0600. It holds the device's key.")
    if backup is not None:
        print(f"What was there before lies beside it: {backup}")
    print("identityd reads it itself. For the daemons of the original, next:")
    print(f"  sudo aziotctl config apply -c {shlex.quote(path)}")
    return DONE


def _given(argument: str) -> str:
    text = sys.stdin.read(MAX_CHARS + 2) if argument == "-" else argument
    text = text.strip()
    if len(text) > MAX_CHARS:
        raise CommandFailed(f"--connection-string: found more than {MAX_CHARS} characters", USAGE)
    return text


def _write(path: str, content: bytes, *, replace: bool) -> str | None:
    """The name of the backup, if there is one. Raises OSError, FileExistsError unless ``replace``."""
    directory, staged = os.path.dirname(path) or ".", f"{path}.new"
    if not os.path.isdir(directory):
        if os.path.lexists(directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
        os.makedirs(directory, DIRECTORY_MODE)
    if not replace and os.path.lexists(path):
        raise FileExistsError
    write_synced(staged, content)
    try:
        # A link, unlike a rename, never replaces what somebody else has put there since.
        if not replace:
            os.link(staged, path)
            return None
        backup = _back_up(path)
        os.rename(staged, path)
        return backup
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        sync_directory(directory)


def _back_up(path: str) -> str | None:
    backup = path + BACKUP
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{backup}.new")
    try:
        os.link(path, f"{backup}.new", follow_symlinks=False)
    except FileNotFoundError:
        return None
    os.rename(f"{backup}.new", backup)
    return backup
