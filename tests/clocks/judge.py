"""What must be true of every life. Judged by the true time, which no rule of the machine can see."""

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from adapters.fakes.chains import read_leaf
from statemachine import policy
from statemachine.events import (
    ConfigurationChanged,
    CredentialLost,
    CredentialProofFailed,
    HubRefusedCredential,
    ReprovisionRequested,
)
from statemachine.snapshot import Snapshot
from statemachine.states import State
from tests.clocks.scenario import DAY, HOUR, SECOND

if TYPE_CHECKING:
    from tests.clocks.life import ClockedDevice

DELETED_EARLY_MS = DECLARED_EARLY_MS = DAY
"A step of up to a day needs no confirmation, so a key may go, and an end be declared, a day early."


class Seen(Struct, frozen=True, kw_only=True):
    """One life, in numbers, and what was wrong with it."""

    name: str
    family: str
    right_after_s: float | None
    a_day: int
    tries_a_day: int
    registrations: int
    records: int
    wrong: tuple[str, ...]


# --- right now? --------------------------------------------------------------------------------------


def wrong_now(device: "ClockedDevice", snapshot: Snapshot) -> str | None:
    """Why the device is not right at this instant; None when it is."""
    current, true = device.store.current, device.true.now_unix_ms()
    if current is None or current.source != "issued":
        return "there is no issued credential"
    if current.not_after_unix_ms <= true:
        return "the certificate in use has ended"
    if snapshot.state not in (State.PROVISIONED, State.CERT_EXPIRING):
        return f"an attempt is still owed: {snapshot.state.value}, {snapshot.phase.value}"
    return _deadlines(device, snapshot)


def _deadlines(device: "ClockedDevice", snapshot: Snapshot) -> str | None:
    """Whether what is armed fires at the right true instants."""
    current, true, slack_ms = device.store.current, device.true.now_unix_ms(), device.scenario.slack_ms
    begins, ends = current.not_before_unix_ms, current.not_after_unix_ms
    opens = policy.window_opens(begins, ends, earliest_percent=70)
    closes = policy.window_opens(begins, ends, earliest_percent=90)
    if snapshot.clock.trusted:
        fires = fires_at(device, "expiry")
        if fires is None or abs(fires - ends) > slack_ms:
            return f"the end is armed {_off(fires, ends)}"
    if snapshot.state is State.PROVISIONED:
        fires = fires_at(device, "window")
        if fires is None or abs(fires - opens) > slack_ms:
            return f"the window is armed {_off(fires, opens)}"
    else:
        fires = fires_at(device, "attempt")
        latest = max(closes, true + policy.START_SPREAD_MS) + slack_ms
        if fires is None or fires > latest:
            return f"the renewal is armed {_off(fires, latest)}"
    return None


def fires_at(device: "ClockedDevice", name: str) -> int | None:
    """The true instant at which it fires, if nothing happens before; None when it is not armed."""
    armed = device.timers._armed.get(name)
    if armed is None:
        return None
    left_ms = armed.due_in_ms(device.clock.now_unix_ms(), device.clock.elapsed_ms())
    return device.true.now_unix_ms() + left_ms


def _off(fires: int | None, wanted: int) -> str:
    return "not at all" if fires is None else f"{(fires - wanted) / DAY:.2f} days from where it belongs"


# --- over a whole life -------------------------------------------------------------------------------

Law = Callable[["ClockedDevice"], list[str]]


def working_pair_stays(device: "ClockedDevice") -> list[str]:
    """The pointer leads to a pair from the first flip on, and no key goes before its certificate's end."""
    found = []
    store = device.store
    if store.flips and store.current is None:
        found.append("the credential in use was lost")
    if store.current is not None:
        one = store.generations.get(store.current.generation)
        if one is None or one.chain_pem is None or one.spki_sha256 != store.current.spki_sha256:
            found.append("the pair in use is gone")
    for at_ms, generation, chain_pem in store.deleted:
        if chain_pem is None:
            continue
        left_ms = read_leaf(chain_pem).not_after_unix_ms - at_ms
        if left_ms > DELETED_EARLY_MS:
            found.append(
                f"key {generation} was deleted {left_ms / DAY:.1f} days before its certificate's end"
            )
    return found


def no_storm(device: "ClockedDevice") -> list[str]:
    """Registrations stay few, and polls and connections within what the cloud grants."""
    found = []
    scenario, registrar = device.scenario, device.registrar
    most = most_within(registrar.puts, DAY)
    if most > scenario.a_day:
        found.append(f"{most} registrations in a day, of {scenario.a_day}")
    tries = most_within(sorted([*registrar.tries, *device.hub.tries]), DAY)
    if tries > scenario.tries_a_day:
        found.append(f"{tries} connections in a day, of {scenario.tries_a_day}")
    polls = most_within(registrar.polls, 10 * SECOND)
    if polls > scenario.polls_in_10_s:
        found.append(f"{polls} polls in 10 s, of {scenario.polls_in_10_s}")
    return found


def most_within(instants: list[int], window_ms: int) -> int:
    """How many of them lie in the fullest window."""
    return max(
        (index + 1 - bisect_left(instants, at - window_ms + 1) for index, at in enumerate(instants)),
        default=0,
    )


def nothing_expires_unseen(device: "ClockedDevice") -> list[str]:
    """A clock that is not trusted declares nothing expired; nor does any other, days early."""
    others = (
        ReprovisionRequested,
        ConfigurationChanged,
        HubRefusedCredential,
        CredentialLost,
        CredentialProofFailed,
    )
    found = []
    before = Snapshot()
    for record, after in zip(device.told, device.snapshots, strict=True):
        enters = after.state is State.REPROVISIONING and before.state is not State.REPROVISIONING
        if not enters or isinstance(record.event, others):
            continue
        if not after.clock.trusted:
            found.append(f"record {record.sequence}: declared expired by a clock that {after.clock.reason}")
        elif not device.scenario.deceived and after.credential is not None:
            # By our own clock, wrong or right; how wrong it was the true one said in the same instant.
            true = device.true_at[record.sequence - 1]
            if after.credential.not_after_unix_ms - true > DECLARED_EARLY_MS:
                found.append(f"record {record.sequence}: declared expired long before its end")
        before = after
    return found


def right_again(device: "ClockedDevice") -> list[str]:
    """Soon after its clock is right, the device is; and it stays so."""
    scenario = device.scenario
    found = []
    if scenario.right:
        after_s = device.right_after_s
        if after_s is None or after_s > scenario.right_within_s:
            when = "never" if after_s is None else f"after {after_s:.0f} s"
            found.append(f"right again {when}, not within {scenario.right_within_s} s: {device.still_wrong}")
    if scenario.reachable and device.still_wrong_at_end is not None:
        found.append(f"in the end: {device.still_wrong_at_end}")
    return found


def never_without(device: "ClockedDevice") -> list[str]:
    """From then on there is no instant without a valid certificate, by the true time."""
    scenario = device.scenario
    if not scenario.reachable:
        return []
    since = device.right_ms + scenario.right_within_s * SECOND
    gap_ms = 0
    flips = device.store.flips
    for index, flip in enumerate(flips):
        until_ms = flips[index + 1].at_unix_ms if index + 1 < len(flips) else device.end_ms
        valid_ms = 0 if flip.current is None else flip.current.not_after_unix_ms
        gap_ms += max(until_ms - max(valid_ms, since, flip.at_unix_ms), 0)
    return [f"{gap_ms / HOUR:.1f} hours without a valid certificate"] if gap_ms else []


def replays_equal(device: "ClockedDevice") -> list[str]:
    """The journal comes to the same states and effects."""
    outcome = device.replay()
    return [] if outcome.equal else [f"the journal does not replay: {outcome.divergence}"]


LAWS: tuple[Law, ...] = (
    working_pair_stays,
    no_storm,
    nothing_expires_unseen,
    right_again,
    never_without,
    replays_equal,
)


def judge(device: "ClockedDevice") -> Seen:
    """Every law."""
    return Seen(
        name=device.scenario.name,
        family=device.scenario.family,
        right_after_s=device.right_after_s,
        a_day=most_within(device.registrar.puts, DAY),
        tries_a_day=most_within(sorted([*device.registrar.tries, *device.hub.tries]), DAY),
        registrations=len(device.registrar.puts),
        records=len(device.snapshots),
        wrong=tuple(wrong for law in LAWS for wrong in law(device)),
    )
