"""Records the journals in this folder from scripted worlds: `python -m tests.journals.make`.

They are the release gate for replay: what a device wrote once must fold to the same for ever. So a file
that exists is never written again, and never edited; a new rule gets a new file beside the old ones.
"""

import random
from pathlib import Path

from msgspec import structs

from statemachine.effects import (
    CommitCredential,
    Disarm,
    PollRegistration,
    ProveCredential,
    PurgeCredentials,
    PushModuleKeys,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    ClockObserved,
    ConfigurationChanged,
    CredentialLost,
    HoldRequested,
    HookEnded,
    HubRefusedCredential,
    ModuleKeysLost,
    ModuleKeysRequested,
    PurgeRequested,
    RegistrationPending,
    RenewRequested,
    ReprovisionRequested,
    ShutdownRequested,
)
from statemachine.journal import Header, Record, encode_line, head_lines
from statemachine.machine import RULES_REVISION
from statemachine.snapshot import Snapshot
from statemachine.states import Phase
from tests.core.world import (
    DAY,
    ELSEWHERE,
    HOUR,
    MANUAL,
    MINUTE,
    POLICY,
    T0,
    World,
    configured,
    fingerprint_of,
    record_of,
    started,
    with_policy,
)

FOLDER = Path(__file__).parent


class Recorded(World):
    """Every event gets a draw, as the runtime gives it one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._chance = random.Random(seed)

    def take(self, event, *, after_ms=0):
        return super().take(
            structs.replace(event, draw_ppm=self._chance.randrange(1_000_000)), after_ms=after_ms
        )


def register_renew():
    """A registration with pending polls, a year of renewals, a forced one, a certificate-less answer."""
    world = Recorded(1)
    world.take(started())
    world.until(Phase.POLLING)
    for _ in range(4):
        world.fire("phase")
        world.take(RegistrationPending(answers=world.pending(PollRegistration).id, retry_after_ms=1_000))
    world.fire("phase")
    world.answer(PollRegistration, server_date_unix_ms=world.now)
    world.settle()
    for _ in range(4):
        world.fire("window")
        world.take(ClockObserved(kernel_synchronised=True))
        world.fire("attempt")
        world.settle()
        world.fire("collect")
        world.settle()
    world.take(RenewRequested(uid=0), after_ms=DAY)
    world.settle()
    world.fire("window")
    world.fire("attempt")
    world.until(Phase.SUBMITTING)
    world.deny(SubmitRegistration, failure_class="operator", code="csr-not-configured", message="no CSR here")
    world.take(ReprovisionRequested(uid=0))
    world.deny(SubmitRegistration, failure_class="operator", code="csr-not-configured", message="no CSR here")
    world.settle()
    world.fire("reissue")
    world.settle()
    return world


def reprovision_and_restart():
    """Kills in several phases, a move to another hub, changed configurations, a lost store, a hold."""
    world = Recorded(2)
    world.take(started())
    for phase in (Phase.STAGING, Phase.SUBMITTING, Phase.POLLING, Phase.PROVING, Phase.COMMITTING):
        world.until(phase)
        world.restart()
    world.settle()
    world.take(ReprovisionRequested(uid=1000, privileged=False), after_ms=HOUR)
    world.until(Phase.POLLING)
    world.restart(down_ms=HOUR)
    world.until(Phase.POLLING)
    world.fire("phase")
    world.answer(PollRegistration, assigned_hub="other.example:8443", bundle=None)
    world.deny(ProveCredential, refused=True, failure_class="operator", code="hub-401")
    world.fire("phase")
    world.settle()
    world.take(ReprovisionRequested(uid=1000, privileged=False), after_ms=30_000)
    world.take(ConfigurationChanged(policy=with_policy(scope_id="0ne1"), fingerprint="f2"))
    world.until(Phase.COMMITTING)
    world.perform(world.pending(CommitCredential))
    world.restart(fingerprint="f2", policy=with_policy(scope_id="0ne1"))
    world.settle()
    for _ in range(4):
        world.take(
            HubRefusedCredential(generation=world.snapshot.credential.generation, code="hub-404001"),
            after_ms=6 * MINUTE,
        )
    world.settle()
    generation = world.snapshot.credential.generation
    world.store.lose()
    world.take(CredentialLost(generation=generation, reason="removed by hand"))
    world.settle()
    world.take(HoldRequested(hold=True, uid=0))
    world.fire("window")
    world.fire("attempt")
    world.take(HoldRequested(hold=False, uid=0), after_ms=HOUR)
    world.take(ShutdownRequested(reason="SIGTERM"))
    world.restart(fingerprint="f2", policy=with_policy(scope_id="0ne1"), down_ms=2 * DAY)
    world.fire("attempt")
    world.settle()
    return world


def failures_and_backoff():
    """Every class of failure, a jumping clock, an unreachable hub, an outage until after the expiry."""
    world = Recorded(3)
    world.take(started(kernel_synchronised=False))
    world.deny(StageKey, code="disk-full")
    world.fire("attempt")
    world.answer(StageKey)
    for failure_class in ("retry", "wait", "operator", "new_key", "reregister", "clock"):
        world.deny(
            SubmitRegistration,
            failure_class=failure_class,
            code=f"dps-{failure_class}",
            tracking_id="11111111-2222-3333-4444-555555555555",
            retry_after_ms=90_000 if failure_class == "wait" else None,
        )
        world.fire("attempt")
        world.until(Phase.SUBMITTING)
    world.answer(SubmitRegistration)
    world.fire("phase")
    world.deny(PollRegistration, code="dps-503")
    world.fire("phase")
    world.deny(PollRegistration, failure_class="reregister", code="dps-404")
    world.until(Phase.PROVING)
    world.deny(ProveCredential, code="unreachable")
    world.deny(CommitCredential, code="disk-full")
    world.fire("phase")
    world.settle()
    world.take(ClockObserved(kernel_synchronised=False, jump_ms=-400 * DAY), after_ms=-400 * DAY)
    world.fire("prove")
    world.answer(ProveCredential)
    world.take(ClockObserved(kernel_synchronised=True, jump_ms=400 * DAY), after_ms=400 * DAY)
    world.settle()
    world.fire("window")
    world.fire("attempt")
    world.until(Phase.SUBMITTING)
    for _ in range(12):
        world.deny(SubmitRegistration, code="unreachable")
        world.fire("attempt")
    world.take(ConfigurationChanged(policy=POLICY, fingerprint="f1"))
    world.fire("expiry")
    world.deny(SubmitRegistration, code="unreachable")
    world.fire("attempt")
    world.settle()
    return world


def manual():
    """A configuration that is the assignment: refused, moved, killed in its phases, before DPS and after."""
    world = Recorded(4)
    here = {"policy": MANUAL, "fingerprint": fingerprint_of(MANUAL)}
    there = {"policy": ELSEWHERE, "fingerprint": fingerprint_of(ELSEWHERE)}
    world.take(started(kernel_synchronised=False, **here))
    world.deny(ProveCredential, refused=True, code="hub-401", server_date_unix_ms=world.now + 90 * DAY)
    world.fire("phase")
    world.deny(ProveCredential, refused=True, code="hub-401")
    world.take(ClockObserved(kernel_synchronised=True, jump_ms=90 * DAY), after_ms=90 * DAY)
    world.restart(**here)
    for phase in (Phase.PROVING, Phase.COMMITTING, Phase.RETIRING):
        world.until(phase)
        world.restart(**here)
    world.settle()
    world.take(RenewRequested(uid=0))
    world.take(ReprovisionRequested(uid=1000, privileged=False), after_ms=HOUR)
    world.settle()
    for _ in range(3):
        generation = world.snapshot.credential.generation
        world.take(HubRefusedCredential(generation=generation, code="hub-401"), after_ms=8 * MINUTE)
    for _ in range(2):
        world.deny(ProveCredential, refused=True, code="hub-401")
        world.fire("phase" if world.snapshot.attempt is not None else "attempt")
    world.take(configured(ELSEWHERE), after_ms=MINUTE)
    world.deny(ProveCredential)
    world.settle()
    world.fire("prove")
    world.settle()
    world.take(configured(POLICY), after_ms=DAY)
    world.settle()
    world.fire("window")
    world.fire("attempt")
    world.until(Phase.POLLING)
    world.take(configured(MANUAL))
    world.deny(ProveCredential)
    world.restart(**there)
    world.settle()
    world.take(ClockObserved(kernel_synchronised=True), after_ms=DAY)
    world.fire("collect")
    world.settle()
    return world


def module_keys():
    """A master key that is lost, pushes that fail, join, outlive a renewal and a restart, and are refused."""
    world = Recorded(5)
    world.take(started())
    world.take(ModuleKeysRequested(uid=0))
    world.settle()
    world.take(ModuleKeysLost(reason="aziot_identityd_master_id is not there"), after_ms=HOUR)
    world.take(ModuleKeysRequested(uid=0))
    world.take(ModuleKeysRequested(uid=1000))
    world.deny(PushModuleKeys, code="hub-429", retry_after_ms=30_000)
    world.fire("window")
    world.fire("attempt")
    world.until(Phase.POLLING)
    world.take(ModuleKeysRequested(uid=0))
    world.restart()
    world.take(world.perform(world.pending(PushModuleKeys)), after_ms=10)
    world.settle()
    world.take(ModuleKeysRequested(uid=0), after_ms=DAY)
    world.settle()
    world.take(ShutdownRequested(reason="SIGTERM"))
    world.take(ModuleKeysRequested(uid=0))
    return world


def purge():
    """Held and released, given up in the middle of a renewal, erased at the third try, registered anew."""
    world = Recorded(6)
    world.take(started())
    world.settle()
    world.take(HoldRequested(hold=True, uid=0), after_ms=HOUR)
    world.fire("window")
    world.fire("attempt")
    world.take(RenewRequested(uid=0), after_ms=HOUR)
    world.take(HoldRequested(hold=False, uid=0), after_ms=HOUR)
    world.fire("attempt")
    world.settle()
    world.take(HookEnded(hook="renewal", outcome="done"), after_ms=MINUTE)
    world.take(ReprovisionRequested(uid=0), after_ms=DAY)
    world.settle()
    world.take(HookEnded(hook="reprovision", outcome="failed", message="exit status 3"), after_ms=MINUTE)
    world.take(RenewRequested(uid=0), after_ms=DAY)
    world.until(Phase.COMMITTING)
    world.take(PurgeRequested(uid=0))
    world.take(HoldRequested(hold=False, uid=0))
    world.deny(PurgeCredentials, code="disk-full", message="no room for the pointer")
    world.take(PurgeRequested(uid=0))
    world.restart()
    world.fire("collect")
    world.restart(down_ms=DAY)
    world.deny(PurgeCredentials, failure_class="operator", code="read-only", message="remount it")
    world.fire("collect")
    world.answer(PurgeCredentials)
    world.restart(down_ms=30 * DAY)
    world.take(ReprovisionRequested(uid=0))
    world.take(HoldRequested(hold=False, uid=0), after_ms=HOUR)
    world.fire("attempt")
    world.settle()
    world.take(ShutdownRequested(reason="SIGTERM"), after_ms=HOUR)
    return world


SCRIPTS = {
    "register-renew.jsonl": register_renew,
    "reprovision-and-restart.jsonl": reprovision_and_restart,
    "failures-and-backoff.jsonl": failures_and_backoff,
    "manual.jsonl": manual,
    "module-keys.jsonl": module_keys,
    "purge.jsonl": purge,
}


def content_of(records: list[Record]) -> bytes:
    header = Header(
        rules_revision=RULES_REVISION,
        software_version="0.1.0",
        machine="0f0e0d0c",
        device="device-1",
        epoch=1,
        first_sequence=1,
        created_unix_ms=T0,
    )
    head, digest = head_lines(header, Snapshot())
    lines = list(head)
    for record in records:
        line, digest = encode_line(record, digest)
        lines.append(line)
    return b"".join(lines)


def recorded(script) -> list[Record]:
    return [record_of(*one) for one in script().history]


def divergent() -> list[Record]:
    """Divergent on purpose: one recorded effect is not what any rules ever wished for."""
    records = recorded(register_renew)
    records[20] = structs.replace(records[20], effects=(Disarm(name="window"),))
    return records


def main() -> None:
    contents = {name: recorded(script) for name, script in SCRIPTS.items()}
    for name, records in {**contents, "divergent.jsonl": divergent()}.items():
        path = FOLDER / name
        if path.exists():
            print(f"{name}: kept")
            continue
        path.write_bytes(content_of(records))
        print(f"{name}: {len(records)} records")


if __name__ == "__main__":
    main()
