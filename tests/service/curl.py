"""``curl`` as people type it, against the sockets of a device; also as another user."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

WITHIN_S = 60


class Said(NamedTuple):
    """What curl brought back."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def curl(
    socket: Path,
    url: str,
    *,
    method: str | None = None,
    data: str | None = None,
    kind: str | None = "application/json",
    options: Sequence[str] = (),
    uid: int | None = None,
) -> Said:
    """One run. ``data`` goes with ``-d`` and the content type of ``kind``. Another ``uid`` needs root."""
    words = ["curl", "-sS", "--unix-socket", str(socket), "--max-time", str(WITHIN_S), *options]
    words += ["-X", method] if method is not None else []
    words += ["-H", f"content-type: {kind}"] if kind is not None and (data is not None or method) else []
    words += ["--data-binary", "@-"] if data is not None else []
    words += ["-w", "\n%{http_code}", url]
    # The group of the socket is what opens it to other users.
    group = os.stat(socket).st_gid
    other = {} if uid is None else {"user": uid, "group": group, "extra_groups": []}
    done = subprocess.run(words, input=(data or "").encode(), capture_output=True, timeout=WITHIN_S, **other)  # type: ignore[call-overload]
    assert done.returncode == 0, (done.returncode, done.stderr.decode(errors="replace"), words)
    body, _, status = done.stdout.rpartition(b"\n")
    return Said(int(status), body)


def as_another_user() -> bool:
    """Whether this process may become somebody else."""
    return os.geteuid() == 0
