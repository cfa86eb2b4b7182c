"""Guards asked directly: on a machine that knows nothing yet, and at the very edge of their intervals.

Found by mutation: rows that come before hide most of these from any sequence of events.
"""

import pytest
from msgspec import structs

from statemachine import guards
from statemachine.events import (
    CredentialProofFailed,
    HubRefusedCredential,
    RegistrationAssigned,
    ReprovisionRequested,
)
from statemachine.machine import RULES_REVISION
from statemachine.policy import HUB_LATE_MS, OPERATION_LIFE_MS, REPEAT_MS, last_part_begins
from statemachine.snapshot import (
    Assignment,
    Attempt,
    Budget,
    Bundle,
    Candidate,
    ClockTrust,
    Credential,
    Refusals,
    Snapshot,
)
from statemachine.states import Phase, State
from statemachine.work import Work
from tests.core.world import DAY, HOUR, MANUAL, POLICY, T0, chain

KNOWN = ClockTrust(trusted=True)
ISSUED = Credential(
    generation=1,
    source="issued",
    not_before_unix_ms=T0,
    not_after_unix_ms=T0 + 100 * DAY,
    proven=True,
    committed_unix_ms=T0,
)
CONFIGURED = Credential(generation=1, source="configured", proven=True)
HERE = Assignment(hub="hub.example", device_id="device-1", fingerprint="f1")
RUNNING = Attempt(number=1, fingerprint="f1", started_unix_ms=T0)
LAST = last_part_begins(ISSUED.not_before_unix_ms, ISSUED.not_after_unix_ms)
END = ISSUED.not_after_unix_ms

REFUSED = CredentialProofFailed(
    answers="1.1.0", failure_class="operator", code="hub-401", generation=1, refused=True
)
ASSIGNED = RegistrationAssigned(answers="1.1.0", assigned_hub="hub.example", device_id="device-1")
CALLER = ReprovisionRequested(uid=1000, privileged=False)

ASKED_ABOUT = {
    "beyond_callers_rights": CALLER,
    "repeats_recent": CALLER,
    "chain_acceptable": structs.replace(ASSIGNED, chain=chain("k1", T0)),
    "certless_accepted": ASSIGNED,
    "refusals_confirmed": HubRefusedCredential(generation=1, code="hub-401"),
    "csr_refused": structs.replace(REFUSED, code="csr-not-configured"),
    "must_reregister": structs.replace(REFUSED, failure_class="reregister"),
    "worth_repeating": structs.replace(REFUSED, failure_class="retry"),
    "commit_worth_repeating": structs.replace(REFUSED, failure_class="retry"),
}
"By guard, an event that gives it most to ask for. All others look at a refused proof, or at none."


def asked(guard, now=T0, event=REFUSED, phase=Phase.IDLE, state=State.UNPROVISIONED, **fields):
    """What a guard says of a snapshot with these fields; DPS is configured and the clock is good."""
    facts = {
        "rules_revision": RULES_REVISION,
        "policy": POLICY,
        "fingerprint": "f1",
        "clock": KNOWN,
        "state": state,
        "phase": phase,
        **fields,
    }
    return guard(Work(Snapshot(**facts), event, now))


GUARDS = {
    name: guard
    for name, guard in vars(guards).items()
    if getattr(guard, "__module__", "") == guards.__name__ and not name.startswith("_")
}

TRUE_OF_NOTHING = {
    "may_begin",
    "may_begin_by_command",
    "within_budget",
    "lost_credential",
    "clock_known",
    "resting",
    "attempt_goes_on",
    "certless_welcome",
    "certless_accepted",
    "worth_repeating",
    "commit_worth_repeating",
    "candidate_refused",
    "nobody_to_push_to",
}
"Of a device that has nothing at all but a configuration with DPS and a good clock."


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_has_an_answer_where_there_is_nothing(name):
    """No credential, no assignment, no attempt, no candidate: each question has an answer all the same."""
    assert asked(GUARDS[name], event=ASKED_ABOUT.get(name, REFUSED)) is (name in TRUE_OF_NOTHING)


# --- the credential in use ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "expected"), [(LAST - 1, False), (LAST, True), (END - 1, True), (END, False), (END + 1, False)]
)
def test_the_last_part_of_a_life_has_a_first_and_a_last_instant(now, expected):
    assert asked(guards.in_last_part, now, credential=ISSUED) is expected


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (ClockTrust(trusted=True), True),
        (ClockTrust(trusted=False, measured=True), True),
        (ClockTrust(trusted=False), False),
    ],
)
def test_the_time_is_known_by_trust_or_by_measure(clock, expected):
    assert asked(guards.clock_known, clock=clock) is expected


def test_an_assignment_is_outdated_only_beside_a_credential():
    """Without one there is nothing that would serve until it is replaced."""
    assert asked(guards.assignment_outdated, credential=ISSUED, assignment=HERE, fingerprint="f2")
    assert not asked(guards.assignment_outdated, credential=None, assignment=HERE, fingerprint="f2")
    assert not asked(guards.assignment_outdated, credential=ISSUED, assignment=None, fingerprint="f2")
    assert not asked(guards.assignment_outdated, credential=ISSUED, assignment=HERE)


@pytest.mark.parametrize(
    ("bundle_id", "expected"), [(POLICY.trust_bundle_id, False), ("bundle-2", True), (None, False)]
)
def test_a_bundle_under_another_name_outdates_what_dps_assigned(bundle_id, expected):
    bundle = None if bundle_id is None else Bundle(id=bundle_id, certificates=1, sha256="b1")
    assert asked(guards.assignment_outdated, credential=ISSUED, assignment=HERE, bundle=bundle) is expected


@pytest.mark.parametrize(
    ("refusals", "expected"),
    [
        (Refusals(count=3, first_unix_ms=T0 - HOUR), True),
        (Refusals(count=2, first_unix_ms=T0 - HOUR), False),
        (Refusals(count=3, first_unix_ms=T0 - HOUR // 4), True),
        (Refusals(count=3, first_unix_ms=T0 - HOUR // 4 + 1), False),
        (Refusals(count=3, first_unix_ms=T0 - HOUR, driven_unix_ms=T0 - HOUR, interval_ms=HOUR), True),
        (Refusals(count=3, first_unix_ms=T0 - HOUR, driven_unix_ms=T0 - HOUR, interval_ms=HOUR + 1), False),
        (Refusals(count=3, first_unix_ms=T0 - HOUR, driven_unix_ms=0, interval_ms=2 * T0), True),
        (Refusals(count=3, first_unix_ms=T0 - HOUR, driven_unix_ms=1, interval_ms=2 * T0), False),
    ],
)
def test_refusals_are_believed_by_number_by_spread_and_by_interval(refusals, expected):
    event = HubRefusedCredential(generation=ISSUED.generation, code="hub-401")
    facts = {"event": event, "credential": ISSUED, "refusals": refusals}
    assert asked(guards.refusals_confirmed, **facts) is expected
    # What is not counted confirms nothing.
    other = structs.replace(event, generation=ISSUED.generation + 1)
    assert not asked(guards.refusals_confirmed, **facts | {"event": other})
    assert not asked(guards.refusals_confirmed, **facts | {"credential": None})
    assert not asked(guards.refusals_confirmed, **facts, clock=ClockTrust(trusted=False, measured=True))


@pytest.mark.parametrize(
    ("before_ms", "privileged", "expected"),
    [(0, False, True), (REPEAT_MS - 1, False, True), (REPEAT_MS, False, False), (0, True, False)],
)
def test_a_repeat_is_recent_for_less_than_a_minute(before_ms, privileged, expected):
    event = structs.replace(CALLER, privileged=privileged)
    assert asked(guards.repeats_recent, event=event, reprovisioned_unix_ms=T0 - before_ms) is expected


@pytest.mark.parametrize(
    ("spent", "since", "now", "expected"),
    [
        (POLICY.budget_registrations - 1, T0, T0, True),
        (POLICY.budget_registrations, T0, T0, False),
        (POLICY.budget_registrations, T0, T0 + POLICY.budget_window_ms - 1, False),
        (POLICY.budget_registrations, T0, T0 + POLICY.budget_window_ms, True),
    ],
)
def test_a_budget_is_used_up_until_its_window_has_passed(spent, since, now, expected):
    budget = Budget(spent=spent, since_unix_ms=since)
    assert asked(guards.within_budget, now, budget=budget) is expected


# --- the running attempt -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_ms", "expected"),
    [(-1, True), (0, False), (OPERATION_LIFE_MS - 1, False), (OPERATION_LIFE_MS, True)],
)
def test_an_operation_is_too_old_or_from_the_future(age_ms, expected):
    attempt = structs.replace(RUNNING, operation_id="op-1", operation_unix_ms=T0 - age_ms)
    assert asked(guards.operation_too_old, attempt=attempt, phase=Phase.POLLING) is expected


@pytest.mark.parametrize(
    ("submits", "budget", "expected"),
    [
        (1, Budget(), True),
        (2, Budget(), False),
        (1, Budget(spent=POLICY.budget_registrations, since_unix_ms=T0), False),
    ],
)
def test_a_forgotten_operation_is_submitted_again_within_bounds(submits, budget, expected):
    """Not more than so often in one attempt, and not beyond the budget."""
    attempt = structs.replace(RUNNING, submits=submits)
    event = ASKED_ABOUT["must_reregister"]
    assert asked(guards.must_reregister, event=event, attempt=attempt, budget=budget) is expected


@pytest.mark.parametrize(
    ("age_ms", "new", "refused", "expected"),
    [
        (0, True, True, True),
        (HUB_LATE_MS - 1, True, True, True),
        (HUB_LATE_MS, True, True, False),
        (0, False, True, False),
        (0, True, False, False),
    ],
)
def test_a_hub_is_late_for_a_quarter_of_an_hour_after_a_new_assignment(age_ms, new, refused, expected):
    candidate = Candidate(
        generation=2,
        hub="hub.example",
        device_id="device-1",
        assigned_unix_ms=T0 - age_ms,
        new_assignment=new,
    )
    event = structs.replace(REFUSED, refused=refused)
    assert asked(guards.hub_may_be_late, event=event, candidate=candidate) is expected


@pytest.mark.parametrize(
    ("credential", "now", "policy", "expected"),
    [
        (ISSUED, LAST - 1, POLICY, True),
        (ISSUED, LAST, POLICY, False),
        (CONFIGURED, T0, POLICY, True),
        (CONFIGURED, T0, MANUAL, False),
        (None, T0, POLICY, False),
    ],
)
def test_a_proof_waits_while_something_good_serves(credential, now, policy, expected):
    assert asked(guards.proof_can_wait, now, credential=credential, policy=policy) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"proven": True}, False),
        ({"committed_unix_ms": T0 - HUB_LATE_MS + 1}, False),
        ({"generation": 2}, False),
    ],
)
def test_an_unproven_credential_is_refused_for_good_when_hubs_are_late_no_more(fields, expected):
    facts = {"proven": False, "committed_unix_ms": T0 - HUB_LATE_MS, **fields}
    credential = structs.replace(ISSUED, **facts)
    assert asked(guards.current_refused_for_good, credential=credential) is expected
    unreachable = structs.replace(REFUSED, refused=False)
    assert not asked(guards.current_refused_for_good, event=unreachable, credential=credential)


@pytest.mark.parametrize(
    ("event", "clock", "count", "expected"),
    [
        (REFUSED, ClockTrust(), 3, True),
        (REFUSED, ClockTrust(), 2, False),
        (REFUSED, KNOWN, 3, False),
        (structs.replace(REFUSED, refused=False), ClockTrust(), 3, False),
        (structs.replace(REFUSED, generation=2), ClockTrust(), 3, False),
    ],
)
def test_without_a_clock_three_refusals_of_what_is_in_use_are_believed(event, clock, count, expected):
    refusals = Refusals(count=count)
    said = asked(
        guards.refused_without_a_clock, event=event, credential=ISSUED, clock=clock, refusals=refusals
    )
    assert said is expected


@pytest.mark.parametrize(("phase", "expected"), [(Phase.IDLE, True), (Phase.PROVING, False)])
def test_a_running_attempt_goes_before_a_proof_of_what_is_in_use(phase, expected):
    unproven = structs.replace(ISSUED, proven=False)
    assert asked(guards.rests_and_proof_wanted, phase=phase, credential=unproven) is expected


# --- since revision 2 --------------------------------------------------------------------------------

CANDIDATE = Candidate(
    generation=2,
    hub="hub.example",
    device_id="device-1",
    assigned_unix_ms=T0,
    chain=chain("k2", T0, life_ms=DAY),
)


@pytest.mark.parametrize(
    ("now", "fields", "expected"),
    [
        (T0 + DAY - 1, {}, False),
        (T0 + DAY, {}, True),
        (T0 + DAY, {"clock": ClockTrust()}, False),
        (T0 + DAY, {"clock": ClockTrust(measured=True)}, True),
        (T0 + DAY, {"candidate": structs.replace(CANDIDATE, chain=None)}, False),
        (T0 + DAY, {"rules_revision": 1}, False),
    ],
)
def test_a_candidate_has_ended_at_the_end_of_its_certificate(now, fields, expected):
    assert asked(guards.candidate_ended, now, **{"candidate": CANDIDATE, **fields}) is expected
    event = structs.replace(REFUSED, failure_class="retry")
    again = asked(guards.commit_worth_repeating, now, event, **{"candidate": CANDIDATE, **fields})
    assert again is not expected


@pytest.mark.parametrize(
    ("failure_class", "revision", "expected"),
    [("new_key", 2, True), ("new_key", 1, False), ("retry", 2, False)],
)
def test_a_store_that_lost_the_key_says_new_key(failure_class, revision, expected):
    event = structs.replace(REFUSED, failure_class=failure_class)
    assert asked(guards.staged_key_gone, event=event, rules_revision=revision) is expected


@pytest.mark.parametrize(
    ("ahead_ms", "age_ms", "revision", "expected"),
    [
        (1, 0, 2, True),
        (1, HUB_LATE_MS - 1, 2, True),
        (1, HUB_LATE_MS, 2, False),
        (0, 0, 2, False),
        (1, 0, 1, False),
    ],
)
def test_a_certificate_that_has_yet_to_begin_is_refused_early(ahead_ms, age_ms, revision, expected):
    """By a hub that knew the device before."""
    candidate = structs.replace(CANDIDATE, chain=chain("k2", T0 + ahead_ms))
    said = asked(guards.hub_may_be_late, T0 + age_ms, candidate=candidate, rules_revision=revision)
    assert said is expected


@pytest.mark.parametrize(
    ("age_ms", "fields", "expected"),
    [
        (HUB_LATE_MS - 1, {}, False),
        (HUB_LATE_MS, {}, True),
        (HUB_LATE_MS, {"credential": None}, False),
        (HUB_LATE_MS, {"candidate": CANDIDATE}, False),
        (HUB_LATE_MS, {"rules_revision": 1}, False),
    ],
)
def test_a_new_hub_is_silent_for_as_long_as_hubs_may_be_late(age_ms, fields, expected):
    moved = structs.replace(CANDIDATE, new_assignment=True)
    facts = {"candidate": moved, "credential": ISSUED, **fields}
    assert asked(guards.new_hub_silent, T0 + age_ms, **facts) is expected


@pytest.mark.parametrize(
    ("failure_class", "expected"),
    [
        ("retry", True),
        ("wait", True),
        ("operator", False),
        ("new_key", False),
        ("reregister", False),
        ("clock", False),
    ],
)
def test_only_what_may_pass_is_asked_again(failure_class, expected):
    event = structs.replace(REFUSED, failure_class=failure_class)
    assert asked(guards.worth_repeating, event=event) is expected
