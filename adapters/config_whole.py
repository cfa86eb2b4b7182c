"""The configuration with what no decision needs and only the service itself reads."""

from typing import Literal

from msgspec import Struct, field

from statemachine.settings import Configuration


class HookSettings(Struct, frozen=True, kw_only=True):
    """``[identityd.hooks]``: a command for each kind; None runs none."""

    renewal: str | None = None
    reprovision: str | None = None
    moved: str | None = None
    timeout_seconds: int = 60


LogFormat = Literal["logfmt", "json"]
LogLevel = Literal["error", "warn", "info", "debug"]


class LogSettings(Struct, frozen=True, kw_only=True):
    """``[identityd.log]``: how the service writes to standard error."""

    format: LogFormat = "logfmt"
    level: LogLevel = "info"


class WholeConfiguration(Configuration, frozen=True, kw_only=True):
    """What reading the files gives."""

    hooks: HookSettings = field(default_factory=HookSettings)
    log: LogSettings = field(default_factory=LogSettings)


def hooks_of(configuration: Configuration) -> HookSettings:
    """Of a configuration that was read; one that was not has none."""
    return configuration.hooks if isinstance(configuration, WholeConfiguration) else HookSettings()


def log_of(configuration: Configuration) -> LogSettings:
    """Of a configuration that was read; one that was not has the defaults."""
    return configuration.log if isinstance(configuration, WholeConfiguration) else LogSettings()
