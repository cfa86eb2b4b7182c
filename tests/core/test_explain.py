"""The machine in words: the status object, the story, one line per record."""

import json

import msgspec
import pytest
from msgspec import structs

from statemachine.effects import (
    AnyEffect,
    ArmDeadline,
    ArmDelay,
    CommitCredential,
    Disarm,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    RetireCredential,
    StageKey,
    StopService,
    SubmitRegistration,
)
from statemachine.events import (
    EVENTS,
    ClockObserved,
    ConfigurationChanged,
    DeadlinePassed,
    HoldRequested,
    HookEnded,
    ModuleKeysLost,
    ModuleKeysPushed,
    ReprovisionRequested,
    ShutdownRequested,
    tag_of,
)
from statemachine.explain import renewal_due, rfc3339, status_of, story, tell
from statemachine.rows import key_of
from statemachine.snapshot import Armed, Snapshot
from statemachine.states import Phase, State
from tests.core.test_tables import CASES
from tests.core.test_totality import OTHERS, answers
from tests.core.walks import seeded
from tests.core.world import (
    BUNDLE,
    DAY,
    ELSEWHERE,
    HOUR,
    NO_DPS,
    POLICY,
    T0,
    World,
    assigned,
    certless,
    configured,
    expiring,
    fresh,
    manual,
    provisioned,
    record_of,
    registering,
    renewing,
    started,
    unproven,
    unprovisioned,
    waiting,
    with_policy,
)


def status(world, **fields):
    return json.loads(msgspec.json.encode(status_of(world.snapshot, world.now, **fields)))


# --- the shape ---------------------------------------------------------------------------------------

FIELDS = [
    "state",
    "phase",
    "since",
    "sequence",
    "stuck",
    "hold",
    "degraded",
    "reason",
    "next",
    "attempt",
    "assignment",
    "credential",
    "renewal",
    "onboarding",
    "clock",
    "trust_bundle",
    "version",
]


def test_the_fields_are_exactly_these():
    world = waiting(failure_class="operator", code="dps-403", tracking_id="t-1", retry_after_ms=HOUR)
    found = status(world)
    assert list(found) == FIELDS
    assert list(found["next"]) == ["what", "at"]
    assert list(found["attempt"]) == ["number", "started", "last_error"]
    assert list(found["attempt"]["last_error"]) == ["class", "code", "message", "tracking_id", "retry_at"]
    assert list(found["assignment"]) == ["hub", "device_id"]
    assert list(found["credential"]) == [
        "source",
        "certificate_id",
        "sha256",
        "serial",
        "not_before",
        "not_after",
        "generation",
        "proven",
    ]
    assert list(found["onboarding"]) == ["source", "method", "not_after"]
    assert list(found["clock"]) == ["trusted", "reason"]
    assert list(found["trust_bundle"]) == ["id", "certificates", "sha256"]


def test_a_provisioned_device():
    found = status(provisioned())
    assert found == {
        "state": "Provisioned",
        "phase": "Idle",
        "since": rfc3339(T0 + 160),
        "sequence": 8,
        "stuck": False,
        "hold": False,
        "degraded": [],
        "reason": "Assigned, with a valid certificate.",
        "next": {"what": "renewal", "at": rfc3339(T0 + 120 + 63 * DAY)},
        "attempt": {"number": 1, "started": rfc3339(T0), "last_error": None},
        "assignment": {"hub": "hub.example", "device_id": "device-1"},
        "credential": {
            "source": "issued",
            "certificate_id": "aziot-dps-identity-cert",
            "sha256": f"cert-k1-{T0 + 120}",
            "serial": "1f",
            "not_before": rfc3339(T0 + 120),
            "not_after": rfc3339(T0 + 120 + 90 * DAY),
            "generation": 1,
            "proven": True,
        },
        "renewal": {
            "opens": rfc3339(T0 + 120 + 63 * DAY),
            "due": rfc3339(T0 + 120 + 63 * DAY),
            "closes": rfc3339(T0 + 120 + 81 * DAY),
        },
        "onboarding": {"source": "dps", "method": "symmetric_key", "not_after": None},
        "clock": {"trusted": True, "reason": "the kernel says it is synchronised"},
        "trust_bundle": {"id": "aziot-dps-trust-bundle", "certificates": 1, "sha256": BUNDLE.sha256},
        "version": "0.1.0",
    }


def test_a_device_that_never_started():
    found = status(World())
    assert (found["state"], found["next"], found["attempt"]) == ("Unprovisioned", None, None)
    assert (found["assignment"], found["credential"], found["trust_bundle"]) == (None, None, None)
    assert found["clock"] == {"trusted": False, "reason": "not looked at yet"}


def test_a_certless_device():
    found = status(certless())
    assert found["credential"] == {
        "source": "configured",
        "certificate_id": None,
        "sha256": None,
        "serial": None,
        "not_before": None,
        "not_after": None,
        "generation": 2,
        "proven": True,
    }
    assert found["next"]["what"] == "issuance is asked for again"
    assert "configured credential" in found["reason"]


def test_what_an_error_says():
    world = waiting(code="dps-503", message="busy", tracking_id="t-9", retry_after_ms=HOUR)
    found = status(world)
    assert found["attempt"]["last_error"] == {
        "class": "retry",
        "code": "dps-503",
        "message": "busy",
        "tracking_id": "t-9",
        "retry_at": rfc3339(world.now + HOUR),
    }
    assert found["next"] == {"what": "another attempt", "at": rfc3339(world.now + HOUR)}


def test_the_error_a_running_attempt_last_met():
    world = renewing(Phase.PROVING)
    world.deny(ProveCredential, code="unreachable")
    found = status(world)
    assert found["attempt"]["number"] == 2
    assert found["attempt"]["last_error"]["code"] == "unreachable"
    assert found["attempt"]["last_error"]["retry_at"] == found["next"]["at"]
    assert found["next"]["what"] == "the new credential is shown to the hub again"


# --- next --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (provisioned, "renewal"),
        (expiring, "another attempt"),
        (unprovisioned, "another attempt"),
        (waiting, "another attempt"),
        (certless, "issuance is asked for again"),
        (lambda: registering(Phase.SUBMITTING), "the answer that is waited for, or the attempt is given up"),
        (lambda: registering(Phase.POLLING), "DPS is asked again"),
        (lambda: renewing(Phase.RETIRING), "Superseded keys are being removed."),
    ],
)
def test_what_happens_next(place, what):
    assert status(place())["next"]["what"] == what


def test_waiting_for_an_answer_has_no_instant():
    assert status(renewing(Phase.COMMITTING))["next"]["at"] is None


def test_nothing_happens_next():
    world = World()
    world.take(started(policy=NO_DPS))
    assert status(world)["next"] is None
    world = provisioned()
    world.take(ShutdownRequested())
    assert status(world)["next"] is None
    assert "stopping" in status(world)["reason"]


def test_next_is_the_drawn_instant_not_the_opening_of_the_window():
    world = registering(Phase.COMMITTING)
    world.answer(CommitCredential, draw_ppm=500_000)
    world.settle()
    snapshot = world.snapshot
    assert status(world)["next"]["at"] == rfc3339(renewal_due(snapshot))
    assert renewal_due(snapshot) == snapshot.credential.not_before_unix_ms + 72 * DAY
    assert renewal_due(Snapshot()) is None
    assert renewal_due(certless().snapshot) is None


def test_the_renewal_window_and_the_drawn_instant_in_it():
    world = registering(Phase.COMMITTING)
    world.answer(CommitCredential, draw_ppm=500_000)
    world.settle()
    begins = world.snapshot.credential.not_before_unix_ms
    assert list(status(world)["renewal"]) == ["opens", "due", "closes"]
    assert status(world)["renewal"] == {
        "opens": rfc3339(begins + 63 * DAY),
        "due": rfc3339(begins + 72 * DAY),
        "closes": rfc3339(begins + 81 * DAY),
    }
    assert status(certless())["renewal"] is None
    assert status(World())["renewal"] is None


# --- stuck -------------------------------------------------------------------------------------------


def x509(**fields):
    return {"policy": with_policy(attestation="x509"), **fields}


@pytest.mark.parametrize(
    ("place", "stuck", "says"),
    [
        (
            lambda: waiting(failure_class="operator", code="dps-401", message="no such key"),
            True,
            "no such key",
        ),
        (lambda: waiting(), False, "Registration is repeated"),
        (lambda: fresh(foreign_machine=True, kernel_synchronised=True), True, "copied image"),
        (lambda: fresh(**x509(onboarding_not_after_unix_ms=T0)), True, "onboarding certificate expired"),
        (lambda: fresh(**x509(onboarding_not_after_unix_ms=T0 + 1)), False, "registers for the first time"),
        (
            lambda: fresh(
                **x509(onboarding_not_after_unix_ms=0, kernel_synchronised=False, build_unix_ms=2 * T0)
            ),
            False,
            "registers for the first time",
        ),
        (
            lambda: fresh(policy=NO_DPS, onboarding_not_after_unix_ms=0),
            False,
            "names no provisioning service",
        ),
    ],
)
def test_stuck(place, stuck, says):
    found = status(place())
    assert found["stuck"] is stuck
    assert says in found["reason"]


def test_an_enrolment_that_never_issues_needs_nobody():
    world = certless()
    world.fire("reissue")
    world.until(Phase.SUBMITTING)
    world.deny(SubmitRegistration, failure_class="operator", code="csr-not-configured")
    assert status(world)["stuck"] is False
    assert status(world)["attempt"]["last_error"]["code"] == "csr-not-configured"


def test_an_enrolment_that_stopped_issuing_needs_somebody():
    world = renewing(Phase.SUBMITTING)
    world.deny(SubmitRegistration, failure_class="operator", code="csr-not-configured")
    assert status(world)["stuck"] is True


def test_the_onboarding_credential_is_part_of_it():
    world = provisioned(**x509(onboarding_not_after_unix_ms=T0 + DAY))
    assert status(world)["onboarding"] == {
        "source": "dps",
        "method": "x509",
        "not_after": rfc3339(T0 + DAY),
    }
    world.now += DAY
    assert status(world)["stuck"] is True


# --- reason and degraded -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("phase", Phase)
def test_every_position_has_words(state, phase):
    found = status(World(Snapshot(state=state, phase=phase)))
    assert found["reason"]
    assert found["reason"][-1] == "."


def expired():
    world = waiting()
    world.now = world.snapshot.credential.not_after_unix_ms
    return world


def test_an_expired_certificate_is_called_so_only_by_a_trusted_clock():
    world = expired()
    assert "the certificate in use has expired" in status(world)["reason"]
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=2 * DAY))
    assert "stays until it is replaced" in status(world)["reason"]


def test_a_lost_credential_is_called_so():
    world = waiting()
    world.snapshot = structs.replace(world.snapshot, credential=None)
    assert "no usable credential is left" in status(world)["reason"]


def held(place=expiring):
    world = place()
    world.take(HoldRequested(hold=True, uid=0))
    return world


def test_a_hold_says_so_and_what_ends_it():
    found = status(held())
    assert found["reason"].endswith("Attempts are on hold until `identityd release`.")
    assert (found["hold"], found["stuck"]) == (True, False)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (provisioned, "renewal"),
        (expiring, "another attempt"),
        (certless, "issuance is asked for again"),
        (waiting, "another attempt"),
    ],
)
def test_what_a_hold_keeps_back_is_not_promised(place, what):
    world = held(place)
    assert status(world)["next"]["what"] == f"{what}, if the hold is released by then"
    lines = told(world)
    assert "What would change it: `identityd release`; no attempt begins before." in lines
    assert "`identityd reprovision`" not in lines
    world.take(HoldRequested(hold=False, uid=0))
    assert status(world)["next"]["what"] == what
    assert status(world)["hold"] is False


def test_a_hold_promises_less_of_nothing_else():
    """What runs is finished, and what is no attempt comes all the same."""
    world = held(lambda: registering(Phase.POLLING))
    assert status(world)["next"]["what"] == "DPS is asked again"
    assert "the answer of DPS" in told(world)
    world = held(provisioned)
    world.snapshot = structs.replace(world.snapshot, armed=(Armed(name="expiry", at_unix_ms=T0 + DAY),))
    assert status(world)["next"] == {"what": "the certificate expires", "at": rfc3339(T0 + DAY)}


def test_degraded_is_the_starts_the_runtimes_and_the_bundles():
    world = provisioned(degraded=("journal: missing",))
    world.snapshot = structs.replace(world.snapshot, bundle_problem="garbage")
    assert status(world, notes=("journal: unavailable: full",))["degraded"] == [
        "journal: missing",
        "journal: unavailable: full",
        "trust bundle from the cloud not usable: garbage",
    ]


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1970-01-01T00:00:00.000Z"),
        (T0 + 7, "2026-09-21T14:13:20.007Z"),
        (10**18, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_instants(instant, text):
    assert rfc3339(instant) == text


@pytest.mark.parametrize("seed", range(25))
def test_any_walk_can_be_told(seed):
    for now, event, decision in seeded(seed, 60).history:
        found = status_of(decision.snapshot, now)
        assert all(story(found))
        line = tell(record_of(now, event, decision))
        assert "\n" not in line
        assert line.startswith(rfc3339(now))


# --- the story ---------------------------------------------------------------------------------------


def told(world):
    return "\n".join(story(status_of(world.snapshot, world.now)))


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (
            provisioned,
            [
                "The device is device-1 at hub.example.",
                "(generation 1, accepted by the hub)",
                "Next: renewal, at",
            ],
        ),
        (unproven, ["not shown to the hub yet"]),
        (certless, ["The hub is spoken to with the configured credential."]),
        (lambda: renewing(Phase.COMMITTING), ["Next: The new credential is being made current."]),
        (
            lambda: waiting(code="dps-503", message="busy", tracking_id="t-9"),
            ["Attempt 2 ran into dps-503, class retry: busy (tracking id t-9)"],
        ),
        (lambda: waiting(code="dps-503", message="busy"), ["class retry: busy\n"]),
        (lambda: provisioned(degraded=("journal: missing",)), ["Degraded: journal: missing."]),
        (
            lambda: fresh(kernel_synchronised=False, build_unix_ms=2 * T0),
            ["The clock is not trusted: it is earlier"],
        ),
        (World, ["What would change it: a successful registration"]),
    ],
)
def test_the_story(place, says):
    text = told(place())
    for sentence in says:
        assert sentence in text


def test_nothing_happens_without_help():
    world = World()
    world.take(started(foreign_machine=True))
    assert "Nothing happens without help." in told(world)


# --- one line per record -----------------------------------------------------------------------------


def test_one_line_per_record():
    world = registering(Phase.POLLING)
    world.fire("phase")
    now, event, decision = world.history[-1]
    assert tell(record_of(now, event, decision)) == (
        "2026-09-21T14:13:20.120Z     4 Registering/Polling        phase reached -> poll"
    )
    record = record_of(now, ReprovisionRequested(uid=0), decision)
    assert " [refused] -> poll" in tell(structs.replace(record, verdict="refused"))


def test_every_event_has_words():
    kinds = set()
    world = World()
    for event in (*OTHERS, *answers("1.1.0", 1)):
        kinds.add(type(event))
        line = tell(record_of(T0, event, world.take(event)))
        assert line
        if not isinstance(event, DeadlinePassed):
            assert key_of(event).replace("-", " ") in line
    assert kinds == set(EVENTS)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (assigned("1.1.0", "k1", T0), "to hub.example with a certificate, trusted CAs: 1"),
        (assigned("1.1.0", "", T0, bundle=None), "to hub.example without a certificate"),
    ],
)
def test_an_assignment_in_words(event, words):
    record = record_of(T0, event, World().take(event))
    assert tell(structs.replace(record, verdict="taken")).endswith(words)


EFFECTS = (
    (ArmDeadline(name="window", at_unix_ms=T0), "window at 2026-09-21T14:13:20.000Z"),
    (ArmDelay(name="phase", delay_ms=500), "phase in 0.5 s"),
    (StageKey(generation=2, algorithm="ec-p256", common_name="x"), "stage key 2"),
    (SubmitRegistration(attempt=1, generation=2), "register"),
    (SubmitRegistration(attempt=1, generation=None), "register without a CSR"),
    (PollRegistration(attempt=1, operation_id="op"), "poll"),
    (ProveCredential(generation=2, hub="h", device_id="d"), "show credential 2 to the hub"),
    (
        CommitCredential(
            generation=2, hub="h", device_id="d", fingerprint="f", chain_pem=None, bundle_id="b"
        ),
        "make credential 2 current",
    ),
    (RetireCredential(keep=(1, 2)), "keep generations 1, 2"),
    (RetireCredential(keep=()), "keep generations none"),
    (PurgeCredentials(), "erase what identifies the device"),
    (PushModuleKeys(), "push module keys"),
    (StopService(), "stop"),
)


@pytest.mark.parametrize(("effect", "words"), EFFECTS, ids=[words for _, words in EFFECTS])
def test_an_effect_in_words(effect, words):
    record = record_of(T0, ShutdownRequested(), World().take(ShutdownRequested()))
    assert tell(structs.replace(record, effects=(effect,))).endswith(f"shutdown requested -> {words}")


def test_forgotten_timers_are_not_worth_a_word():
    record = record_of(T0, ShutdownRequested(), World().take(ShutdownRequested()))
    assert tell(structs.replace(record, effects=(Disarm(name="phase"),))).endswith("shutdown requested")
    assert {type(effect) for effect, _ in EFFECTS} | {Disarm} == set(AnyEffect.__args__)


def test_tags_are_those_of_the_journal():
    assert tag_of(EVENTS[0]) == "deadline-passed"
    assert len({tag_of(kind) for kind in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize("case", CASES[::6], ids=lambda case: case.why[:40])
def test_a_status_can_be_told_at_every_place(case):
    world = case.place()
    assert told(world)


def test_when_a_certificate_is_to_be_renewed():
    """The window that the settings give it, and the instant inside it that was drawn."""
    world = provisioned()
    credential = world.snapshot.credential
    life = credential.not_after_unix_ms - credential.not_before_unix_ms
    renewal = status(world)["renewal"]
    assert renewal["opens"] == rfc3339(credential.not_before_unix_ms + life * 70 // 100)
    assert renewal["closes"] == rfc3339(credential.not_before_unix_ms + life * 90 // 100)
    assert renewal["opens"] <= renewal["due"] <= renewal["closes"]
    assert renewal["due"] == status(world)["next"]["at"]
    assert status(registering())["renewal"] is None


def test_notes_on_the_configuration_last_until_the_next_one():
    world = provisioned(configuration_notes=("configuration: not usable",), degraded=("journal: cut",))
    assert status(world)["degraded"] == ["configuration: not usable", "journal: cut"]
    world.take(
        ConfigurationChanged(policy=POLICY, fingerprint="f1", onboarding_not_after_unix_ms=T0 + 90 * DAY)
    )
    found = status(world)
    assert found["degraded"] == ["journal: cut"]
    assert found["onboarding"]["not_after"] == rfc3339(T0 + 90 * DAY)


# --- where the configuration is the assignment --------------------------------------------------------


def test_a_manual_device():
    found = status(manual())
    assert (found["state"], found["stuck"], found["next"]) == ("Provisioned", False, None)
    assert found["reason"] == "Assigned by the configuration; the configured credential serves the hub."
    assert found["onboarding"] == {"source": "manual", "method": "symmetric_key", "not_after": None}
    lines = told(manual())
    assert "DPS" not in lines
    assert "renew" not in lines
    assert "certificate" not in lines


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (lambda: manual(Phase.PROVING), "is taken up for the first time. The new credential is being shown"),
        (lambda: moved(ELSEWHERE), "is taken up; what is in use stays until then. The new credential"),
    ],
)
def test_a_manual_device_on_its_way(place, words):
    world = place()
    assert words in status(world)["reason"]
    assert "DPS" not in told(world)


def moved(policy):
    world = manual()
    world.take(configured(policy))
    return world


def test_a_manual_device_that_the_hub_refuses():
    world = manual(Phase.PROVING)
    world.deny(ProveCredential, refused=True, code="hub-401", message="who are you?")
    world.fire("phase")
    world.deny(ProveCredential, refused=True, code="hub-401", message="who are you?")
    found = status(world)
    assert found["stuck"]
    assert found["reason"] == "The latest attempt failed and needs somebody's help: hub-401: who are you?"
    assert found["next"]["what"] == "another attempt"
    assert "a hub that accepts the configured credential" in told(world)


def test_a_manual_certificate_ends():
    world = manual(onboarding_not_after_unix_ms=T0 + DAY)
    world.now += DAY
    ended = rfc3339(T0 + DAY)
    assert status(world)["reason"] == (
        f"The configured certificate expired at {ended}; without a new one in config.toml there is no way "
        "to the hub."
    )


def test_a_copied_image_means_nothing_to_a_manual_assignment():
    assert not status(manual(foreign_machine=True))["stuck"]


def test_without_a_source():
    found = status(fresh(policy=NO_DPS, fingerprint=""))
    assert found["onboarding"] == {"source": "none", "method": "none", "not_after": None}


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (ModuleKeysLost(reason="no such file"), "module keys lost: no such file"),
        (ModuleKeysPushed(answers="1.1.0", modules=3), "module keys pushed: 3"),
    ],
)
def test_module_keys_in_words(event, words):
    record = record_of(T0, event, World().take(event))
    assert tell(structs.replace(record, verdict="taken")).endswith(words)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (HoldRequested(hold=True, uid=0), "hold requested: until released"),
        (HoldRequested(hold=False, uid=0), "hold requested: released"),
        (HookEnded(hook="moved", outcome="done"), "hook ended: moved, done"),
        (
            HookEnded(hook="renewal", outcome="failed", message="exit status 3"),
            "hook ended: renewal, failed: exit status 3",
        ),
        (HookEnded(hook="renewal", outcome="refused", message="x" * 400), f"refused: {'x' * 270}"),
    ],
)
def test_holds_and_hooks_in_words(event, words):
    record = record_of(T0, event, World().take(event))
    assert tell(structs.replace(record, verdict="taken", effects=())).endswith(words)
