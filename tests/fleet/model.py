"""A fleet and a cloud that admits so many registrations a minute, with the real policy and nothing else real.

What it is: every device draws its renewal instant by ``renew_at`` and every wait after a failure by
``backoff_ms``, with the settings of this release. An attempt is one PUT that takes no time. The cloud admits
the first so many PUTs of each minute and answers 429 to the rest of it; during the outage it answers nobody.
Who was admitted has its certificate.

What it is not: latency, polls, devices that are switched off, several enrolments with instants of their own,
and a cloud that is slow instead of away.
"""

import heapq
import random
from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import Struct, field, structs

from statemachine.policy import backoff_ms, renew_at
from statemachine.settings import PolicySettings

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
SETTINGS = PolicySettings()
DRAWS = 1_000_000


class Plan(Struct, frozen=True, kw_only=True):
    """Instants are milliseconds since the fleet's first enrolment."""

    devices: int = 100_000
    life_ms: int = 7 * DAY
    enrolled_within_ms: int = MINUTE
    outage_begins_ms: int = 7 * DAY * 70 // 100
    "When the first renewal window opens, so that most renewals fall into it."
    outage_ms: int = 24 * HOUR
    admitted: int = 1_000
    "Registrations a minute: the limit of one DPS (cloud.md)."
    retry_after_ms: int | None = None
    "Of a 429."
    seed: int = 1

    @property
    def outage_ends_ms(self) -> int:
        return self.outage_begins_ms + self.outage_ms

    def scaled(self, devices: int) -> "Plan":
        """So many devices instead, with their share of the cloud."""
        return structs.replace(
            self, devices=devices, admitted=max(self.admitted * devices // self.devices, 1)
        )


class Recovery(Struct, kw_only=True):
    """What an outage came to."""

    renewed: int = 0
    expired: int = 0
    "Ended before they were renewed."
    hopeless: int = 0
    "Of those: their certificates ended before the outage did."
    unanswered: int = 0
    "Attempts during the outage."
    refused: int = 0
    "With 429."
    worst_slack_ms: int = 10**15
    "Least that was left at a renewal."
    demand: Counter[int] = field(default_factory=Counter)
    "Attempts that reached the cloud, by minute."
    since_minute: int = 0
    "The first one after the outage."

    @property
    def after(self) -> Mapping[int, int]:
        """Of the demand, what came after the outage."""
        return {minute: count for minute, count in self.demand.items() if minute >= self.since_minute}

    @property
    def peak(self) -> int:
        return max(self.after.values(), default=0)

    def minutes_over(self, admitted: int) -> int:
        return sum(count > admitted for count in self.after.values())

    def peak_within(self, minutes: int) -> int:
        """Of so many minutes in a row, for fleets too small to be judged by one."""
        counts = self.after
        starts = range(self.since_minute, max(counts, default=self.since_minute) + 1)
        return max(sum(counts.get(start + one, 0) for one in range(minutes)) for start in starts)


def begins(plan: Plan) -> Iterator[int]:
    """When each certificate begins."""
    return (device * plan.enrolled_within_ms // plan.devices for device in range(plan.devices))


def instants(plan: Plan, chance: random.Random) -> Iterator[int]:
    """When each device renews, were there no outage."""
    for begin in begins(plan):
        yield renew_at(
            begin,
            begin + plan.life_ms,
            earliest_percent=SETTINGS.renewal_earliest_percent,
            latest_percent=SETTINGS.renewal_latest_percent,
            draw_ppm=chance.randrange(DRAWS),
        )


def renewals_by_minute(plan: Plan) -> Counter[int]:
    return Counter(at // MINUTE for at in instants(plan, random.Random(plan.seed)))


def recover(plan: Plan) -> Recovery:
    """The whole fleet through its first renewal, outage included."""
    chance = random.Random(plan.seed)
    ends = [begin + plan.life_ms for begin in begins(plan)]
    waiting = [(at, device) for device, at in enumerate(instants(plan, chance))]
    heapq.heapify(waiting)
    failures = [0] * plan.devices
    cloud = Cloud(plan)
    result = cloud.recovery
    while waiting:
        at, device = heapq.heappop(waiting)
        remaining_ms = ends[device] - at
        if remaining_ms <= 0:
            cloud.lost(ends[device])
            continue
        admitted, retry_after_ms = cloud.asked(at)
        if admitted:
            result.renewed += 1
            result.worst_slack_ms = min(result.worst_slack_ms, remaining_ms)
            continue
        failures[device] += 1
        wait_ms = backoff_ms(
            failures=failures[device],
            failure_class="retry",
            draw_ppm=chance.randrange(DRAWS),
            base_ms=SETTINGS.backoff_base_ms,
            cap_ms=SETTINGS.backoff_cap_ms,
            retry_after_ms=retry_after_ms,
            remaining_life_ms=remaining_ms,
        )
        heapq.heappush(waiting, (at + wait_ms, device))
    return result


class Cloud:
    """Away during the outage; admits so many a minute otherwise. Keeps the tally."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._admitted: Counter[int] = Counter()
        self.recovery = Recovery(since_minute=-(-plan.outage_ends_ms // MINUTE))

    def away(self, at: int) -> bool:
        return self._plan.outage_begins_ms <= at < self._plan.outage_ends_ms

    def asked(self, at: int) -> tuple[bool, int | None]:
        """Whether it is admitted; else the Retry-After of the 429, None when nobody answered."""
        if self.away(at):
            self.recovery.unanswered += 1
            return False, None
        minute = at // MINUTE
        self.recovery.demand[minute] += 1
        if self._admitted[minute] < self._plan.admitted:
            self._admitted[minute] += 1
            return True, None
        self.recovery.refused += 1
        return False, self._plan.retry_after_ms

    def lost(self, ended_at: int) -> None:
        self.recovery.expired += 1
        self.recovery.hopeless += self._plan.outage_begins_ms <= ended_at <= self._plan.outage_ends_ms
