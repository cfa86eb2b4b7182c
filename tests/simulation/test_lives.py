"""What must be true of simulated lives, whatever the seed."""

from itertools import pairwise

import pytest
import trio
import trio.testing

from adapters.fakes.chains import Leaf, issue, read_leaf
from adapters.simulation.options import START_UNIX_MS, YEAR_MS, ClockStep, Outage, Scenario
from adapters.simulation.run import simulate
from adapters.simulation.world import CHAIN_PADDING, World, live, seed_of
from statemachine.journal import read
from statemachine.replay import replay_files

HOUR, DAY = 3_600_000, 86_400_000
LIFE = 3 * DAY
"Of certificates: what is true of long ones is, at a tenth of the attempts that an outage costs."
SEEDS = range(1, 4)


def scenario(days=12, **facts):
    return Scenario(end_unix_ms=START_UNIX_MS + days * DAY, cert_lifetime_ms=LIFE, **facts)


def outage(day, lasts_ms, peers=("dps", "hub")):
    begins = START_UNIX_MS + round(day * DAY)
    return Outage(peers=peers, begins_unix_ms=begins, ends_unix_ms=begins + lasts_ms)


def step(day, by_ms):
    return ClockStep(at_unix_ms=START_UNIX_MS + round(day * DAY), by_ms=by_ms)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_calm_life(seed):
    life = live(scenario(days=60, seed=seed), 1)
    assert (life.missed, life.unavailable_ms) == (0, 0)
    # Renewed between 70 and 90 % of three days, within a minute.
    assert all(LIFE // 10 - 60_000 <= slack <= LIFE * 3 // 10 for slack in life.slacks_ms)
    assert 60 / 2.7 - 1 <= life.renewals <= 60 / 2.1 + 1
    traffic = life.traffic
    assert traffic.registrations_billed == traffic.registrations_sent == len(life.certificates)
    assert traffic.unanswered_requests == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outage_longer_than_the_slack_costs_the_identity(seed):
    # From before the window to three hours after the first certificate's end.
    life = live(scenario(seed=seed, outages=(outage(2, 27 * HOUR),)), 1)
    assert life.missed == 1
    assert 3 * HOUR - 60_000 <= life.unavailable_ms <= 4 * HOUR
    assert life.final_state in ("Provisioned", "CertExpiring")
    assert life.traffic.registrations_sent > life.traffic.registrations_billed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("day", [2.0, 2.2, 2.4, 2.55, 2.69])
def test_an_outage_shorter_than_the_slack_costs_nothing(seed, day):
    # The latest renewal is begun with 7.2 hours left; no wait is longer than a fifth of what remains.
    life = live(scenario(days=6, seed=seed, outages=(outage(day, 6 * HOUR),)), 1)
    assert (life.missed, life.unavailable_ms) == (0, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hub_that_is_away_for_a_whole_life_costs_nothing(seed):
    life = live(scenario(seed=seed, outages=(outage(1.5, LIFE, ("hub",)),)), 1)
    assert (life.missed, life.unavailable_ms) == (0, 0)
    assert life.traffic.unanswered_requests > 0


@pytest.mark.parametrize(
    "by_ms", [-2 * DAY, 2 * DAY, -400 * DAY, 400 * DAY, 30 * YEAR_MS, -6 * HOUR, 6 * HOUR]
)
@pytest.mark.parametrize("put_right", [True, False])
def test_a_clock_that_is_set_costs_nothing(by_ms, put_right):
    steps = [step(1, by_ms), *([step(4, -by_ms)] if put_right else [])]
    life = live(scenario(clock_steps=tuple(steps)), 1)
    assert (life.missed, life.unavailable_ms) == (0, 0)
    assert life.renewals >= 4


def test_a_device_that_begins_in_an_outage_gets_its_identity_afterwards():
    life = live(scenario(days=2, outages=(outage(0, DAY),)), 1)
    assert life.first_identity_unix_ms is not None
    assert DAY <= life.first_identity_unix_ms - START_UNIX_MS <= DAY + HOUR
    assert life.unavailable_ms == 0


def test_a_device_that_never_reaches_anybody_never_gets_one():
    report = simulate(scenario(days=1, outages=(outage(0, DAY),)))
    assert report.total.never_provisioned == 1
    assert (report.total.first_identity_s, report.total.worst_slack_s) == (None, None)


def test_outages_may_overlap():
    alone = live(scenario(days=6, outages=(outage(2, 27 * HOUR),)), 1)
    overlapped = live(scenario(days=6, outages=(outage(2, 27 * HOUR), outage(2.5, HOUR))), 1)
    assert alone == overlapped


def test_states_leave_no_gap_and_attempts_do_not_overlap():
    asked = scenario(outages=(outage(2, 27 * HOUR),), clock_steps=(step(5, DAY),))
    life = live(asked, 1)
    assert life.states[0].from_unix_ms == asked.start_unix_ms
    assert life.states[-1].until_unix_ms == asked.end_unix_ms
    assert all(one.until_unix_ms == following.from_unix_ms for one, following in pairwise(life.states))
    assert all(one.ended_unix_ms <= following.begun_unix_ms for one, following in pairwise(life.attempts))
    failed = sum(one.code is not None for one in life.attempts)
    assert failed == life.traffic.registrations_sent - life.traffic.registrations_billed > 0


def test_it_is_the_real_machine_so_its_journal_replays():
    world = World(scenario(outages=(outage(2, 12 * HOUR),)), 1)
    trio.run(world.run, clock=trio.testing.MockClock(autojump_threshold=0))
    (content,) = (b"".join(lines) for lines in world._journal.segments)
    assert replay_files([("journal", content)]).equal
    life = world.life()
    assert life.traffic.journal_bytes == len(content)
    assert life.traffic.journal_records == len(content.splitlines()) == len(read(content).records) + 2


def test_chains_have_the_size_of_real_ones():
    leaf = Leaf(
        serial="1",
        subject_cn="device",
        spki_sha256="ab" * 32,
        not_before_unix_ms=START_UNIX_MS,
        not_after_unix_ms=START_UNIX_MS + LIFE,
        padding="." * CHAIN_PADDING,
    )
    chain = issue(leaf).chain_pem
    assert 2_000 <= len(chain) <= 2_400
    assert read_leaf(chain) == leaf


def test_devices_are_independent_of_each_other():
    asked = scenario(devices=3)
    report = simulate(asked)
    assert [row.device for row in report.devices] == [1, 2, 3]
    assert len({row.numbers.worst_slack_s for row in report.devices}) == 3
    assert len({seed_of(1, device) for device in range(1_000)} | {seed_of(2, 1)}) == 1_001
    alone = simulate(scenario(devices=1))
    assert alone.devices[0] == report.devices[0]
    worst = min(report.devices, key=lambda row: row.numbers.worst_slack_s)
    assert report.device.device == worst.device
    # They all register in the first minute.
    assert report.total.peak_registrations_per_minute == 3
    assert report.total.renewals == sum(row.numbers.renewals for row in report.devices)
