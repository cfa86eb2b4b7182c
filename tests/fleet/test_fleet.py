"""What one policy makes of a fleet: the draws, and a slice. ``python -m tests.fleet`` has the whole of it."""

import pytest

from statemachine.effects import ArmDeadline, ArmDelay
from statemachine.events import DeadlinePassed, RegistrationFailed
from statemachine.policy import backoff_ms, renew_at
from tests.fleet.model import HOUR, MINUTE, Plan, recover, renewals_by_minute
from tests.fleet.stepping import POLICY, World

SLICE = 2_000
WITHIN = 30
"Minutes: a few dozen devices a minute scatter too much to be judged by one."


def test_100_000_renewals_are_at_most_100_a_minute():
    by_minute = renewals_by_minute(Plan())
    assert sum(by_minute.values()) == 100_000
    assert max(by_minute.values()) <= 100
    # From 70 to 90 % of seven days, nobody outside.
    assert min(by_minute) >= 7 * 24 * 60 * 70 // 100
    assert max(by_minute) <= 7 * 24 * 60 * 90 // 100 + 1


def test_the_machine_draws_and_arms_as_the_model_says():
    found = []

    def saw(before, event, decision):
        armed = [one for one in decision.effects if isinstance(one, ArmDeadline) and one.name == "attempt"]
        if armed and isinstance(event, DeadlinePassed) and event.name == "window":
            found.append((armed[0].at_unix_ms, decision.snapshot.credential))

    recovery = World(Plan(outage_ms=0).scaled(100), saw).run()
    assert recovery.renewed == len(found) == 100
    for at_unix_ms, credential in found:
        assert at_unix_ms == renew_at(
            credential.not_before_unix_ms,
            credential.not_after_unix_ms,
            earliest_percent=70,
            latest_percent=90,
            draw_ppm=credential.draw_ppm,
        )
    # A draw of its own for each certificate.
    assert len({credential.draw_ppm for _, credential in found}) == 100


@pytest.fixture(scope="module")
def outage():
    """A day without cloud through the real step, and every wait after a failure: what and why."""
    waits = []

    def saw(before, event, decision):
        if isinstance(event, RegistrationFailed):
            armed = [one for one in decision.effects if isinstance(one, ArmDelay) and one.name == "attempt"]
            waits.append((armed[0].delay_ms, event, decision.snapshot))

    plan = Plan().scaled(SLICE)
    return plan, World(plan, saw).run(), waits


def test_every_wait_is_the_policys(outage):
    _, recovery, waits = outage
    assert len(waits) == recovery.unanswered + recovery.refused > SLICE
    for delay_ms, event, snapshot in waits:
        now = snapshot.last_unix_ms
        assert delay_ms == backoff_ms(
            failures=snapshot.failures,
            failure_class="retry",
            draw_ppm=event.draw_ppm,
            base_ms=POLICY.backoff_base_ms,
            cap_ms=POLICY.backoff_cap_ms,
            retry_after_ms=None,
            remaining_life_ms=snapshot.credential.not_after_unix_ms - now,
        )


def test_nobody_expires_after_a_day_without_cloud(outage):
    plan, recovery, _ = outage
    assert (recovery.renewed, recovery.expired) == (SLICE, 0)
    # The last renewals in the window have 10 % of seven days; the outage made it no worse.
    assert recovery.worst_slack_ms >= plan.life_ms // 10 - HOUR
    # It was an outage: most of the fleet was held up by it, for many attempts each.
    assert recovery.unanswered > 5 * SLICE


def test_the_demand_after_it_stays_under_what_the_cloud_admits(outage):
    plan, recovery, _ = outage
    assert recovery.peak_within(WITHIN) <= plan.admitted * WITHIN
    assert recovery.minutes_over(2 * plan.admitted) == 0


def test_who_cannot_be_helped_is_told_apart():
    # The outage lasts beyond the end of every certificate: whoever was not renewed before has no chance.
    plan = Plan(outage_ms=60 * HOUR, devices=50, admitted=10)
    recovery = recover(plan)
    assert recovery.renewed + recovery.expired == 50
    assert recovery.expired == recovery.hopeless > 0


def test_the_tally_counts_minutes_after_the_outage_only():
    plan = Plan(devices=40, admitted=1, outage_begins_ms=120 * HOUR, outage_ms=HOUR)
    recovery = recover(plan)
    assert recovery.since_minute == 121 * 60
    assert sum(recovery.after.values()) < sum(recovery.demand.values())
    assert recovery.peak == max(recovery.after.values())
    assert recovery.peak_within(1) == recovery.peak
    assert recovery.minutes_over(0) == len(recovery.after)
    assert all(minute * MINUTE >= plan.outage_ends_ms for minute in recovery.after)
