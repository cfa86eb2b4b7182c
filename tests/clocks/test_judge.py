"""The judge can fail: rules and adapters are broken on purpose, and each time the right law says so."""

import pytest
import trio
from msgspec import structs

from adapters.driven.timers import TrioTimers
from adapters.runtime import Runtime
from statemachine import absorb, actions, guards, policy
from tests.adapters.simulated import simulate
from tests.clocks.cloud import WatchedStore
from tests.clocks.judge import judge
from tests.clocks.life import ClockedDevice, PatientChanges, play
from tests.clocks.scenario import MINUTE, Happening, Later
from tests.clocks.scenarios import SYNC, scenarios

pytestmark = pytest.mark.usefixtures("quiet")

BY_NAME = {one.name: one for one in scenarios()}


def wrong(name: str) -> str:
    return "; ".join(judge(play(BY_NAME[name])).wrong)


async def never(changes):
    await trio.sleep_forever()


def _replace_code(monkeypatch, function, other):
    """Rows hold the function itself, so another of the same name would not be asked."""
    monkeypatch.setattr(function, "__code__", other.__code__)


# --- rules -------------------------------------------------------------------------------------------


def test_a_clock_that_is_trusted_whatever_it_shows(monkeypatch):
    monkeypatch.setattr(
        absorb,
        "_clock_at_start",
        lambda snapshot, event, stamp: structs.replace(snapshot.clock, trusted=True),
    )
    assert "declared expired long before its end" in wrong("restart +400d fresh synced-in-1h")


def test_jumps_that_nobody_doubts(monkeypatch):
    monkeypatch.setattr(policy, "JUMP_MS", 10**15)
    assert "declared expired long before its end" in wrong("jump +400d at-rest synced-in-1d")


def test_an_end_that_any_clock_may_declare(monkeypatch):
    def expired(work):
        credential = work.snapshot.credential
        return credential is not None and 0 < credential.not_after_unix_ms <= work.now

    _replace_code(monkeypatch, guards.credential_expired, expired)
    assert "declared expired by a clock that moved" in wrong("restart +400d fresh synced-in-1h")


def test_keys_that_any_clock_may_delete(monkeypatch):
    monkeypatch.setattr(
        actions,
        "_still_needed",
        lambda work, proven: tuple(
            one for one in work.snapshot.superseded if one.keep_until_unix_ms > work.now
        ),
    )
    assert "was deleted" in wrong("restart +400d renewed synced-in-10s")


def test_small_steps_that_do_not_add_up(monkeypatch):
    observed = absorb._clock_observed
    monkeypatch.setattr(
        absorb,
        "_clock_observed",
        lambda clock, *rest, **facts: observed(structs.replace(clock, moved_ms=0), *rest, **facts),
    )
    assert "the window is armed" in wrong("back-and-forth back-a-day-at-a-time 1min")


def test_a_bound_that_outvotes_who_set_the_clock(monkeypatch):
    monkeypatch.setattr(absorb, "_distrusted", _never_a_bound(absorb._distrusted))
    assert "an attempt is still owed" in wrong("restart 1970 across-the-end by-hand-in-1h")


def _never_a_bound(distrusted):
    return lambda clock, reason, **facts: distrusted(clock, reason, **{**facts, "at_least": False})


def test_a_wait_that_is_sat_out(monkeypatch):
    monkeypatch.setattr(absorb, "_try_again", lambda work: None)
    assert "right again after" in wrong("boot 1970 synced-in-1h")


def test_attempts_without_a_backoff(monkeypatch):
    monkeypatch.setattr(policy, "backoff_ms", lambda **_: 0)
    script = (Happening(Later(10 * MINUTE), (SYNC,)),)
    scenario = structs.replace(BY_NAME["boot 1970 synced-in-1h"], script=script, days=2)
    assert any("connections in a day" in one for one in judge(play(scenario)).wrong)


def test_polls_without_a_gap(monkeypatch):
    monkeypatch.setattr(policy, "poll_delay_ms", lambda polls, retry_after_ms: 0)
    device = ClockedDevice(structs.replace(BY_NAME["boot -2min synced-in-10s"], days=2))
    device.registrar.pending = 20
    simulate(device.live)
    assert any("polls in 10 s" in one for one in judge(device).wrong)


def test_renewals_that_follow_each_other(monkeypatch):
    """Every certificate is in its window at once."""
    monkeypatch.setattr(policy, "window_opens", lambda begins, ends, earliest_percent: begins)
    scenario = structs.replace(BY_NAME["boot -2min synced-in-10s"], days=1)
    assert any("registrations in a day" in one for one in judge(play(scenario)).wrong)


def test_rules_that_changed_since_the_journal_was_written(monkeypatch):
    device = play(BY_NAME["boot 1970 synced-in-10s"])
    monkeypatch.setattr(policy, "CLOCK_TOLERANCE_MS", -1)
    assert any("does not replay" in one for one in judge(device).wrong)


# --- adapters ----------------------------------------------------------------------------------------


def test_timers_that_notice_no_step(monkeypatch):
    monkeypatch.setattr(PatientChanges, "wait", never)
    assert "right again" in wrong("boot 1970 synced-in-1h")


def test_timers_that_notice_no_sleep(monkeypatch):
    monkeypatch.setattr(PatientChanges, "wait", never)
    assert "hours without a valid certificate" in wrong("suspended across the-end exact synced")


def test_a_step_that_is_told_after_what_is_stamped_later(monkeypatch):
    """As if the news of a step stood in the inbox behind an answer."""
    looking, after = TrioTimers.look, Runtime._after
    late = []

    def look(armed):
        observed = looking(armed)
        if observed is not None:
            late.append(observed)

    async def and_then(runtime, decision, effects):
        going_on = await after(runtime, decision, effects)
        while late:
            runtime.post(late.pop())
        return going_on

    monkeypatch.setattr(TrioTimers, "look", look)
    monkeypatch.setattr(Runtime, "_after", and_then)
    assert "was deleted" in wrong("jump +400d before-flip synced-in-10min")


def test_a_store_that_keeps_less_than_it_was_told(monkeypatch):
    retiring = WatchedStore._retire
    monkeypatch.setattr(
        WatchedStore,
        "_retire",
        lambda store, effect_id, effect: retiring(store, effect_id, structs.replace(effect, keep=())),
    )
    assert "was deleted" in wrong("jump -2min at-rest synced-in-10min")


def test_a_store_that_loses_the_pair_in_use(monkeypatch):
    retiring = WatchedStore._retire

    def losing(store, effect_id, effect):
        answer = retiring(store, effect_id, effect)
        store.generations.pop(store.current.generation, None)
        return answer

    monkeypatch.setattr(WatchedStore, "_retire", losing)
    scenario = structs.replace(BY_NAME["boot -2min synced-in-10s"], days=2)
    assert "the pair in use is gone" in "; ".join(judge(play(scenario)).wrong)
