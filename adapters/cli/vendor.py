"""The vendor's tools of the same names: where they are installed, what ours do not know is theirs.

``aziotctl`` and ``iotedge`` of this project know what concerns the identity service. On a device of IoT Edge
people type far more, and it has to go on working, whichever of the two is found first.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence

VENDOR_DIRECTORY = "/usr/bin"
PASSED_ON = "IDENTITYD_PASSED_ON"
"In the environment of what was passed on: two tools must not hand a command to each other for ever."


def knows(known: Iterable[str], argv: Sequence[str]) -> bool:
    """Whether the command line begins with ours: a command, a group alone, an option, or nothing."""
    words = [word.split(" ") for word in known]
    typed = [word for word in argv[:2] if not word.startswith("-")] if argv[:1] != ["--root"] else []
    if not argv or not typed or argv[0].startswith("-"):
        return True
    if [typed[0]] in words:
        return True
    group = [rest for first, *rest in words if first == typed[0]]
    return bool(group) and (len(typed) == 1 or [typed[1]] in group)


def vendors_tool(
    program: str,
    known: Iterable[str],
    argv: Sequence[str],
    *,
    directory: str = VENDOR_DIRECTORY,
    environ: Mapping[str, str] | None = None,
) -> str | None:
    """The path of the tool that this command line is meant for; None when it is meant for ours."""
    environ = os.environ if environ is None else environ
    path = os.path.join(directory, program)
    if knows(known, argv) or PASSED_ON in environ or not os.access(path, os.X_OK):
        return None
    try:
        itself = os.path.samefile(path, sys.argv[0])
    except OSError:
        itself = False
    return None if itself else path


def pass_on(path: str, argv: Sequence[str]) -> None:
    """Become that tool. Raises OSError, with the path as its file name."""
    os.execve(path, [path, *argv], {**os.environ, PASSED_ON: "1"})
