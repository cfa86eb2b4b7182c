"""The same events under other settings: decisions one by one, and a device followed as far as can be told."""

import random

import msgspec
import pytest
from msgspec import structs

from statemachine.effects import PollRegistration, SubmitRegistration
from statemachine.errors import JournalUnreadable
from statemachine.events import (
    ClockObserved,
    ConfigurationChanged,
    CredentialLost,
    HubRefusedCredential,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
)
from statemachine.settings import PolicySettings
from statemachine.what_if import IDENTITY, other, what_if
from tests.core.test_replay import file_of, records_of
from tests.core.walks import walk
from tests.core.world import (
    DAY,
    ELSEWHERE,
    HOUR,
    MINUTE,
    POLICY,
    SECOND,
    T0,
    Phase,
    certless,
    expiring,
    provisioned,
    refusal,
    renewing,
    with_policy,
)

EARLY = with_policy(renewal_earliest_percent=30, renewal_latest_percent=40)
LATE = with_policy(renewal_earliest_percent=91, renewal_latest_percent=95)
SLOW = with_policy(backoff_base_ms=HOUR, backoff_cap_ms=2 * HOUR)
WINDOW_OPENS = 63 * DAY
"After the beginning of a certificate of 90 days, by default."


def asked(world, wanted):
    return what_if([("journal", file_of(records_of(world))[0])], wanted)


def changes(found):
    return [(one.event, change) for one in found.decisions for change in one.changes]


def only(found):
    (stretch,) = found.stretches
    return stretch


# --- nothing is different ----------------------------------------------------------------------------


def lived():
    """A year with renewals, a command, a move, an outage and restarts."""
    world = provisioned()
    for _ in range(2):
        world.fire("window")
        world.restart()
        world.fire("attempt")
        world.settle()
    world.take(RenewRequested(uid=0), after_ms=DAY)
    world.until(Phase.POLLING)
    world.restart()
    world.settle()
    world.fire("window")
    world.fire("attempt")
    world.until(Phase.SUBMITTING)
    for _ in range(3):
        world.deny(SubmitRegistration)
        world.fire("attempt")
    world.settle()
    world.take(ShutdownRequested(reason="SIGTERM"))
    world.restart(down_ms=DAY)
    return world


def test_the_settings_that_were_change_nothing():
    world = lived()
    found = asked(world, POLICY)
    assert not found.different
    assert (found.settings, found.decisions) == ({}, ())
    stretch = only(found)
    assert (stretch.ends, stretch.why) == ("journal", "")
    assert stretch.recorded == stretch.other
    assert (stretch.passed_alone, stretch.not_due, stretch.not_asked) == (0, 0, 0)
    assert stretch.next_recorded_attempt_unix_ms is None
    assert found.records == len(world.history)


def test_who_the_device_is_stays_as_it_was():
    wanted = structs.replace(
        ELSEWHERE, registration_id="x", endpoint="https://x", scope_id="x", api_version="2026-11-01"
    )
    assert other(POLICY, wanted) == POLICY
    assert set(IDENTITY) < set(PolicySettings.__struct_fields__)
    found = asked(lived(), wanted)
    assert (found.different, found.settings) == (False, {})


def test_nothing_at_all():
    assert what_if([], EARLY) == msgspec.convert(
        {"records": 0, "settings": {}, "decisions": (), "stretches": ()}, type(what_if([], EARLY))
    )


@pytest.mark.parametrize("seed", [6, 12, 13, 16, 17, 18, 20])
def test_any_walk_under_its_own_settings_is_the_same_life(seed):
    """Of the walks that change no other settings than who the device is."""
    world = walk(random.Random(seed), 60)
    assert {other(POLICY, event.policy) for _, event, _ in world.history if hasattr(event, "policy")} == {
        POLICY
    }
    found = asked(world, POLICY)
    assert not found.different, found.decisions
    stretch = only(found)
    assert stretch.ends == "journal", stretch.why
    assert stretch.recorded == stretch.other


@pytest.mark.parametrize("wanted", [EARLY, LATE, SLOW, with_policy(rotate_key=False, attempt_timeout_ms=1)])
@pytest.mark.parametrize("seed", range(6))
def test_any_walk_under_any_settings_comes_to_an_end(seed, wanted):
    world = walk(random.Random(seed), 60)
    found = asked(world, wanted)
    assert found.records == len(world.history)
    firsts = [stretch.first_sequence for stretch in found.stretches]
    assert firsts == sorted(set(firsts))
    assert firsts[0] == 1
    assert [stretch.ends for stretch in found.stretches[:-1]] == ["evidence"] * (len(firsts) - 1)
    assert found == asked(world, wanted), "no chance is in it"


# --- renewing at another time ------------------------------------------------------------------------


def test_renewing_earlier():
    world = renewing().settle()
    found = asked(world, EARLY)
    assert found.different
    assert found.settings == {
        "renewal_earliest_percent": (70, 30),
        "renewal_latest_percent": (90, 40),
    }
    (event, window), *_ = changes(found)
    assert (event, window.what, window.later_ms) == ("credential-retired", "deadline window", -36 * DAY)
    first, second = found.stretches
    assert first.ends == "evidence"
    assert "its deadline `attempt` would have passed and it would have asked: stage-key" in first.why
    begun = first.other.attempts_unix_ms[-1]
    assert first.next_recorded_attempt_unix_ms - begun > 20 * DAY
    assert first.passed_alone == 2, "window and attempt"
    assert (first.recorded.state, first.other.state) == ("Provisioned", "Renewing")
    assert first.until_unix_ms == begun
    # From the next certificate on it is followed again.
    assert world.history[second.first_sequence - 1][1].__class__.__name__ == "CredentialRetired"
    assert second.ends == "journal"


def test_renewing_later():
    world = renewing().settle()
    world.take(ClockObserved(kernel_synchronised=True), after_ms=DAY)
    found = asked(world, LATE)
    stretch = only(found)
    assert stretch.ends == "journal"
    assert len(stretch.recorded.attempts_unix_ms) == 2
    assert len(stretch.other.attempts_unix_ms) == 1, "it would not have renewed yet"
    assert stretch.not_due >= 2
    assert stretch.not_asked >= 5
    assert stretch.recorded.committed == (1, 2)
    assert stretch.other.committed == (1,)


def test_the_same_thing_is_told_once():
    world = provisioned()
    for _ in range(3):
        world.restart()
    windows = [change for _, change in changes(asked(world, EARLY)) if change.what == "deadline window"]
    assert len(windows) == 1


def test_what_happens_by_itself_waits_for_no_start_that_comes_first():
    """The process may have been down when its deadline would have passed."""
    world = provisioned()
    world.take(ShutdownRequested(reason="SIGTERM"))
    world.restart(down_ms=40 * DAY)
    world.take(ClockObserved(kernel_synchronised=True), after_ms=HOUR)
    stretch = only_first(asked(world, EARLY))
    assert stretch.ends == "evidence"
    assert stretch.until_unix_ms > T0 + 40 * DAY
    assert stretch.other.starts == 2


def only_first(found):
    return found.stretches[0]


# --- other waits -------------------------------------------------------------------------------------


def outage(times):
    """DPS cannot be reached when the certificate is to be renewed; every wait is drawn in the middle."""
    world = expiring()
    world.fire("attempt")
    world.until(Phase.SUBMITTING)
    for _ in range(times):
        failed = refusal(world.pending(SubmitRegistration))
        world.take(structs.replace(failed, draw_ppm=500_000), after_ms=10)
        world.fire("attempt")
    return world.settle()


def test_longer_waits_after_failures():
    found = asked(outage(3), SLOW)
    waits = [change for event, change in changes(found) if event == "registration-failed"]
    assert [(one.what, one.recorded, one.other) for one in waits] == [
        ("deadline attempt", "after 1 s", "after 1800 s"),
        ("deadline attempt", "after 2 s", "after 3600 s"),
        ("deadline attempt", "after 4 s", "after 7200 s"),
    ]
    first, *_ = found.stretches
    # It would have waited on while the recorded device was successful.
    assert first.ends == "journal"
    assert first.recorded.failures == {"unreachable": 3}
    assert first.other.failures == {"unreachable": 1}
    assert first.recorded.registrations == 5
    assert first.other.registrations == 2
    assert (first.recorded.committed, first.other.committed) == ((1, 2), (1,))


def test_shorter_waits_after_failures():
    world = outage(2)
    found = asked(world, with_policy(backoff_base_ms=1))
    first, second = found.stretches
    assert first.why.startswith("at ")
    assert "submit-registration" in first.why
    assert first.passed_alone == 1
    assert second.ends == "journal"


# --- what is asked -----------------------------------------------------------------------------------


def test_the_same_key_instead_of_a_fresh_one_is_followed_as_if_the_answers_were_the_same():
    world = renewing().settle()
    found = asked(world, with_policy(rotate_key=False))
    ((event, change),) = changes(found)
    assert (event, change.what) == ("deadline-passed", "ask stage-key")
    assert '"reuse_generation":1' in change.other
    assert '"reuse_generation"' not in change.recorded
    stretch = only(found)
    assert stretch.ends == "journal"
    assert stretch.other.committed == (1, 2)


def test_an_attempt_that_would_have_timed_out():
    world = renewing(Phase.POLLING)
    world.fire("phase")
    world.answer(PollRegistration, after_ms=MINUTE)
    world.settle()
    found = asked(world, with_policy(attempt_timeout_ms=30 * SECOND))
    stretch = found.stretches[0]
    assert stretch.passed_alone >= 1
    assert stretch.other.failures == {}
    assert stretch.other.committed == (1,)
    assert {change.what for _, change in changes(found)} == {"deadline timeout"}


def test_asking_where_the_recorded_device_waited():
    """A record that makes only the other one ask: no answer to that is in the journal."""
    tight = with_policy(budget_registrations=1, budget_window_ms=400 * DAY)
    world = expiring(policy=tight)
    world.fire("attempt")
    world.until(Phase.SUBMITTING)
    failed = refusal(world.pending(SubmitRegistration))
    world.take(structs.replace(failed, draw_ppm=500_000), after_ms=10)
    world.take(CredentialLost(generation=1, reason="removed by hand"), after_ms=10)
    stretch = only(asked(world, POLICY))
    assert stretch.ends == "evidence"
    assert stretch.why.startswith(f"record {len(world.history)} would have made it ask: ")
    assert (stretch.recorded.phase, stretch.other.phase) == ("Idle", "Submitting")


# --- events that name a generation -------------------------------------------------------------------


def test_generations_are_followed():
    """Where numbers differ, what names one is told by the number it has there."""
    world = certless()
    world.take(
        HubRefusedCredential(generation=world.snapshot.credential.generation, code="hub-401"), after_ms=DAY
    )
    world.take(CredentialLost(generation=world.snapshot.credential.generation, reason="by hand"))
    world.settle()
    found = asked(world, with_policy(reissue_interval_ms=HOUR))
    stretch = found.stretches[0]
    assert stretch.ends == "evidence"
    assert "`reissue`" in stretch.why


def test_a_start_whose_stores_it_would_have_left_otherwise():
    world = renewing().settle()
    world.restart()
    stretch = asked(world, LATE).stretches[0]
    assert stretch.ends == "evidence"
    assert stretch.why == "a start found another credential than this device would have had"


def test_a_start_that_lost_everything():
    world = renewing().settle()
    world.store.lose()
    world.restart()
    world.settle()
    stretch = only(asked(world, with_policy(rotate_key=False)))
    assert stretch.ends == "journal", stretch.why
    assert stretch.other.committed == (1, 2, 3)


def test_configurations_on_the_way():
    world = provisioned()
    world.take(ConfigurationChanged(policy=with_policy(scope_id="0ne1"), fingerprint="f2"), after_ms=DAY)
    world.settle()
    world.take(ReprovisionRequested(uid=0), after_ms=DAY)
    world.settle()
    found = asked(world, EARLY)
    assert {change.what for _, change in changes(found)} == {"deadline window"}
    assert only(found).other.committed == (1, 2, 3)


# --- what cannot be asked ----------------------------------------------------------------------------


def test_a_journal_that_does_not_replay():
    records = records_of(provisioned())
    records[3] = structs.replace(records[3], effects=())
    with pytest.raises(JournalUnreadable, match="it does not replay: journal, sequence 4: effects differ"):
        what_if([("journal", file_of(records)[0])], EARLY)


def test_a_journal_that_cannot_be_read():
    with pytest.raises(JournalUnreadable, match="journal: line 1"):
        what_if([("journal", b"garbage\n")], EARLY)
