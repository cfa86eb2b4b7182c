"""Credentials that the service manager hands over (systemd.exec(5), LoadCredential= and its like).

``credential:NAME`` in place of a file URI names one: the file is readable to the service alone, may be kept
encrypted to the machine's TPM, and never lies on the disk in the clear. It is read as any file is, bounded.
"""

import os
import re
from collections.abc import Mapping

SCHEME = "credential"
UNIT_DIRECTORY = "/run/credentials/identityd.service"
"Where other processes of root see those of the running service."
NAME_FORM = "a name of 1 to 255 letters, digits, '-', '_' and '.', not beginning with '.'"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


def credential_path(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The path of that credential, which need not exist; None for what cannot be a credential's name."""
    environ = os.environ if environ is None else environ
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if not _NAME.fullmatch(name):
        return None
    return os.path.join(directory if os.path.isabs(directory) else UNIT_DIRECTORY, name)
