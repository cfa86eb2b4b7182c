"""When a configured certificate that is issued on this device is renewed (cloud.md §5).

Instants are Unix milliseconds UTC, durations milliseconds. The original counts whole seconds and truncates;
certificates begin and end on whole seconds, for which no division by a hundred leaves a rest in milliseconds,
so that a certificate is due exactly from its deadline on. Every function is total for any integers.
"""

import re

from msgspec import Struct

RETRY_LEAST_MS = 1_000
"A failed renewal is not repeated sooner, however short the certificate's life."

_UNITS_MS = {"min": 60_000, "day": 86_400_000}
_TEXT = re.compile(r"([0-9]{1,8})(%|min|day)")


class Percent(Struct, frozen=True):
    """A share of the certificate's life."""

    share: int
    "1 to 99."


class Span(Struct, frozen=True):
    """A time, whatever the certificate's life."""

    ms: int
    "Positive."


RenewalPolicy = Percent | Span


class Life(Struct, frozen=True):
    """From when to when a certificate is valid."""

    not_before_unix_ms: int
    not_after_unix_ms: int

    @property
    def ms(self) -> int:
        """0 for an inverted one."""
        return max(self.not_after_unix_ms - self.not_before_unix_ms, 0)


def parse(text: str) -> RenewalPolicy:
    """``<n>%`` (1 to 99), ``<n>min`` or ``<n>day``, without spaces. Raises ValueError for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError("a renewal policy is <n>%, <n>min or <n>day with n above 0")
    number, unit = int(match[1]), match[2]
    if unit != "%":
        return Span(number * _UNITS_MS[unit])
    if number > 99:
        raise ValueError("a share of a certificate's life is below 100 %")
    return Percent(number)


def deadline(life: Life, threshold: RenewalPolicy) -> int:
    """When renewal is due: such a share of the life is over, or so much is left. May lie before the life."""
    if isinstance(threshold, Span):
        return life.not_after_unix_ms - threshold.ms
    return life.not_after_unix_ms - (life.ms - life.ms * threshold.share // 100)


def should_renew(life: Life, threshold: RenewalPolicy, *, now: int) -> bool:
    """Whether renewal is due now; always so for what has expired or could never be valid."""
    return life.ms == 0 or now >= life.not_after_unix_ms or now >= deadline(life, threshold)


def retry_ms(life: Life, retry: RenewalPolicy) -> int:
    """How long after a failed renewal the next one follows."""
    wait_ms = retry.ms if isinstance(retry, Span) else life.ms * retry.share // 100
    return max(wait_ms, RETRY_LEAST_MS)
