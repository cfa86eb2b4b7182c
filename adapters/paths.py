"""Where everything lies: one prefix in front of the documented directories.

``--root DIR`` (or ``AZIOT_ROOT``) puts DIR in front. Without it root uses the directories themselves, and
an ordinary user's service lies below ``$XDG_STATE_HOME/identityd``. A client looks for a running service
under ``/run/aziot`` first, because that is the one a device has.
"""

import os
from collections.abc import Mapping

from msgspec import Struct

from adapters.errors import ConfigurationInvalid, bounded

SOCKET_PATH_BYTES = 107
"sun_path holds 108 bytes, the last one is its NUL (unix(7))."


class Paths(Struct, frozen=True, kw_only=True):
    """Absolute paths. Nothing here is created or looked at; sockets are named, not bound."""

    root: str
    "The prefix; `/` when there is none."
    config: str
    run_dir: str
    "Sockets; 0755, access is decided by each socket's own mode and group."
    state_dir: str
    "What identityd keeps: journal, last good configuration. 0700."
    certd_home: str
    keyd_home: str
    control_sock: str
    certd_sock: str
    keyd_sock: str
    identityd_sock: str
    workload_sock: str
    journal: str
    "The active file; closed ones lie beside it."
    last_good_config: str


def paths_below(root: str) -> Paths:
    """The paths below ``root``. Raises ConfigurationInvalid when a socket path would be too long."""
    if "\0" in root:
        raise ConfigurationInvalid("--root", ("--root holds a NUL byte, which no path can",))
    prefix = os.path.abspath(root)
    state = os.path.join(prefix, "var/lib/aziot")
    run = os.path.join(prefix, "run/aziot")
    return Paths(
        root=prefix,
        config=os.path.join(prefix, "etc/aziot/config.toml"),
        run_dir=run,
        state_dir=os.path.join(state, "identityd"),
        certd_home=os.path.join(state, "certd"),
        keyd_home=os.path.join(state, "keyd"),
        control_sock=socket_path(os.path.join(run, "control.sock")),
        certd_sock=socket_path(os.path.join(run, "certd.sock")),
        keyd_sock=socket_path(os.path.join(run, "keyd.sock")),
        identityd_sock=socket_path(os.path.join(run, "identityd.sock")),
        workload_sock=socket_path(os.path.join(run, "workload.sock")),
        journal=os.path.join(state, "identityd", "journal.jsonl"),
        last_good_config=os.path.join(state, "identityd", "last-good.toml"),
    )


def service_paths(
    root: str | None = None, *, environ: Mapping[str, str] | None = None, uid: int | None = None
) -> Paths:
    """Where a service of this user runs. Raises ConfigurationInvalid."""
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    chosen = root or environ.get("AZIOT_ROOT")
    if chosen:
        return paths_below(chosen)
    return paths_below("/" if uid == 0 else _user_root(environ))


def client_paths(
    root: str | None = None, *, environ: Mapping[str, str] | None = None, uid: int | None = None
) -> Paths:
    """Where a client of this user finds a service. Raises ConfigurationInvalid.

    Without a root: the system's service when it has a control socket, else this user's own.
    """
    environ = os.environ if environ is None else environ
    if not (root or environ.get("AZIOT_ROOT")):
        system = paths_below("/")
        if os.path.exists(system.control_sock):
            return system
    return service_paths(root, environ=environ, uid=uid)


def socket_path(path: str) -> str:
    """``path`` when a Unix socket can have it. Raises ConfigurationInvalid."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES:
        raise ConfigurationInvalid(
            path,
            (
                f"{bounded(path, 160)} is {length} bytes long, a Unix socket path holds {SOCKET_PATH_BYTES}: "
                "choose a shorter --root, or a symbolic link to it",
            ),
        )
    return path


def _user_root(environ: Mapping[str, str]) -> str:
    state = environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification: a relative path is invalid and to be ignored.
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "identityd")
