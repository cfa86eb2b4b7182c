"""What is looked at: one service below one root. Each fact is read once, when a check first asks for it."""

import os
import time
from collections.abc import Mapping
from functools import cached_property

from msgspec import Struct

from adapters import config
from adapters.checks.background import Background
from adapters.checks.local_socket import Answered, ask, connects
from adapters.config_files import MAX_SEALED_BYTES
from adapters.driven.files import read_file
from adapters.driven.generations import Damaged, Layout
from adapters.driven.onboarding_trial import Places, issued_source
from adapters.errors import ConfigurationInvalid, bounded
from adapters.paths import Paths
from statemachine.explain import status_of
from statemachine.journal import Reading, read
from statemachine.replay import restore
from statemachine.settings import (
    Configuration,
    DpsProvisioning,
    IssuedSource,
    ManualProvisioning,
    SymmetricKeySource,
    X509Source,
    credential_of,
)
from statemachine.snapshot import Snapshot
from statemachine.status import Status

MAX_JOURNAL_BYTES = 64 * 1024 * 1024
MAX_ENVIRONMENT_BYTES = 256 * 1024
_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")


class Options(Struct, frozen=True, kw_only=True):
    """What can be said on the command line."""

    ntp_server: str = "pool.ntp.org:123"
    iothub_hostname: str | None = None
    proxy_uri: str | None = None
    expected_version: str | None = None


class Read(Struct, frozen=True, kw_only=True):
    """The configuration, as far as it goes."""

    loaded: config.Loaded | None
    "None: nothing usable, not even the last good one."
    problems: tuple[str, ...] = ()
    "What is wrong with the files; ``loaded`` is then the last good configuration."
    notes: tuple[str, ...] = ()
    "What is no mistake in them, but maybe not what their writer expects."
    denied: str | None = None
    "A file that we may not read."


class Subject:
    """Reads lazily and keeps what it read; nothing raises, what cannot be read is None."""

    def __init__(self, paths: Paths, options: Options, environ: Mapping[str, str]) -> None:
        self.paths = paths
        self.options = options
        self.environ = environ
        self.now_unix_ms = time.time_ns() // 1_000_000
        self.layout = Layout(paths.state_dir, paths.certd_home, paths.keyd_home)
        self.background = Background()

    # --- configuration -------------------------------------------------------------------------------

    @cached_property
    def read(self) -> Read:
        denied = self._denied()
        if denied is not None:
            return Read(loaded=None, denied=denied)
        paths = self.paths
        found = config.examine(paths.config, root=paths.root)
        try:
            loaded = config.load_with_fallback(paths.config, paths.last_good_config, paths.root)
        except ConfigurationInvalid:
            loaded = None
        return Read(loaded=loaded, problems=found.lines, notes=found.notes)

    def _denied(self) -> str | None:
        directory = os.path.dirname(self.paths.config)
        folders = [os.path.join(directory, service, "config.d") for service in ("keyd", "certd", "identityd")]
        try:
            with open(self.paths.config, "rb"):
                pass
            for folder in folders:
                if os.path.isdir(folder):
                    os.listdir(folder)
            if os.path.isdir(self.paths.state_dir):
                os.listdir(self.paths.state_dir)
        except PermissionError as exc:
            return str(exc.filename)
        except OSError:
            return None
        return None

    @property
    def configuration(self) -> Configuration | None:
        return None if self.read.loaded is None else self.read.loaded.configuration

    @cached_property
    def in_force(self) -> str | None:
        """What the service keeps as the configuration it runs with; None when there is none."""
        try:
            kept = read_file(self.paths.last_good_config, MAX_SEALED_BYTES)
        except OSError:
            return None
        return None if kept is None else kept.decode(errors="replace")

    @property
    def dps(self) -> DpsProvisioning | None:
        provisioning = None if self.configuration is None else self.configuration.provisioning
        return provisioning if isinstance(provisioning, DpsProvisioning) else None

    @property
    def manual(self) -> ManualProvisioning | None:
        provisioning = None if self.configuration is None else self.configuration.provisioning
        return provisioning if isinstance(provisioning, ManualProvisioning) else None

    @property
    def credential(self) -> SymmetricKeySource | X509Source | IssuedSource | None:
        return None if self.configuration is None else credential_of(self.configuration.provisioning)

    @cached_property
    def certificate(self) -> X509Source | None:
        """The files of the configured certificate, issued here or not; they may be missing."""
        configuration, credential = self.configuration, self.credential
        if isinstance(credential, X509Source):
            return credential
        if configuration is None or issued_source(configuration) is None:
            return None
        places = Places(self.paths.state_dir, self.paths.certd_home, self.paths.keyd_home)
        try:
            view = places.view(places.read_marker())
        except (OSError, ValueError):
            view = places.view(None)
        return view.current or places.pair("device-id", "device-id")

    # --- the service ---------------------------------------------------------------------------------

    @cached_property
    def running(self) -> frozenset[str]:
        """Which sockets somebody listens on."""
        return frozenset(name for name in SOCKETS if connects(self.socket(name)) is None)

    def socket(self, name: str) -> str:
        path: str = getattr(self.paths, f"{name}_sock")
        return path

    def ask(self, name: str, target: str) -> Answered:
        return ask(self.socket(name), target)

    @cached_property
    def pid(self) -> int | None:
        """Of the service, when it runs."""
        if "control" not in self.running:
            return None
        try:
            kept = read_file(os.path.join(self.paths.state_dir, "identityd.lock"), 64)
            return int(kept or b"")
        except (OSError, ValueError):
            return None

    @cached_property
    def service_environ(self) -> Mapping[str, str] | None:
        """The proxy variables of the running service; None when it does not run or may not be looked at."""
        if self.pid is None:
            return None
        try:
            with open(f"/proc/{self.pid}/environ", "rb") as file:
                content = file.read(MAX_ENVIRONMENT_BYTES)
        except OSError:
            return None
        pairs = (one.decode(errors="replace").partition("=") for one in content.split(b"\0"))
        return {name: value for name, _, value in pairs if name in _PROXY_VARIABLES}

    @cached_property
    def own_environ(self) -> Mapping[str, str]:
        """The proxy variables of this command."""
        return {name: self.environ[name] for name in _PROXY_VARIABLES if name in self.environ}

    @property
    def proxy_environ(self) -> Mapping[str, str]:
        """Those that count for looks at the network: what was said, the service's, else our own."""
        if self.options.proxy_uri is not None:
            return {"HTTPS_PROXY": self.options.proxy_uri}
        return self.own_environ if self.service_environ is None else self.service_environ

    # --- what it remembers ---------------------------------------------------------------------------

    @cached_property
    def journal_files(self) -> tuple[str, ...]:
        """Closed ones in order, then the active one."""
        names = self._listed()
        closed = sorted(name for name in names if name.startswith("journal-") and name.endswith(".jsonl"))
        active = [name for name in names if name == "journal.jsonl"]
        return tuple(os.path.join(self.paths.state_dir, name) for name in (*closed, *active))

    @cached_property
    def set_aside(self) -> tuple[str, ...]:
        """Journal files that were damaged."""
        damaged = [name for name in self._listed() if ".jsonl.damaged-" in name]
        names = sorted(name for name in damaged if not name.endswith(".reason"))
        return tuple(os.path.join(self.paths.state_dir, name) for name in names)

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self.paths.state_dir)
        except OSError:
            return []

    @cached_property
    def active(self) -> Reading | None:
        """The active journal file."""
        try:
            content = read_file(self.paths.journal, MAX_JOURNAL_BYTES)
        except OSError:
            return None
        return None if content is None else read(content)

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """Where the journal ends; None when it is damaged: nobody knows how it went on from there."""
        if self.active is None or (self.active.problem is not None and not self.active.torn):
            return None
        try:
            return restore(self.active)
        except Exception:
            # Whole, but from where this machine never was; `journal-intact` tells of it.
            return None

    @cached_property
    def status(self) -> Status | None:
        """What the service would say, whether it runs or not."""
        return None if self.snapshot is None else status_of(self.snapshot, self.now_unix_ms)

    # --- the cloud -----------------------------------------------------------------------------------

    @cached_property
    def hub(self) -> str | None:
        """The hub that the device talks to, with a port when it was named with one."""
        if self.options.iothub_hostname is not None:
            return self.options.iothub_hostname
        if self.manual is not None:
            return self.manual.gateway or self.manual.hub
        if self.dps is None:
            return None
        if self.snapshot is not None and self.snapshot.assignment is not None:
            return self.snapshot.assignment.hub
        generation = self.layout.pointer().generation
        try:
            return None if generation is None else self.layout.assignment(generation).hub
        except Damaged:
            return None

    @cached_property
    def dps_host(self) -> tuple[str, int] | None:
        """Host and port of DPS."""
        if self.dps is None:
            return None
        return split_host(self.dps.global_endpoint.partition("://")[2].partition("/")[0], 443)

    @property
    def cloud_timeout_s(self) -> int:
        return 10 if self.configuration is None else self.configuration.cloud_timeout_seconds


SOCKETS = ("certd", "keyd", "identityd", "workload", "control")


def split_host(text: str, port: int) -> tuple[str, int]:
    """Host and port of a name that may carry one."""
    host, colon, named = text.rpartition(":")
    if colon and named.isdigit() and len(named) <= 5:
        return host.strip("[]"), int(named)
    return text.strip("[]"), port


def reason_of(exc: OSError) -> str:
    return bounded(exc.strerror or str(exc), 120)
