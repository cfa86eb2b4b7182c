"""Fakes keep the promises of their ports, also where no life of a device happens to lead."""

import math

import pytest
import trio

from adapters.errors import StoreUnavailable
from adapters.fakes.chains import Leaf, issue, read_leaf
from adapters.fakes.clock import VirtualClock
from adapters.fakes.cloud import FakeHub, FakeRegistrar
from adapters.fakes.peer import no
from adapters.fakes.store import MemoryStore
from statemachine.effects import (
    CommitCredential,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    CredentialCommitFailed,
    CredentialCommitted,
    CredentialProofFailed,
    CredentialProven,
    KeyStaged,
    KeyStageFailed,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
)
from statemachine.states import State
from tests.adapters.simulated import DAY, T0, Simulated, rests_in, simulate, until, until_provisioned

STAGE = StageKey(generation=1, algorithm="ec-p256", common_name="device-1")


def commit_of(generation, chain_pem, **fields):
    return CommitCredential(
        **{
            "generation": generation,
            "hub": "hub.example",
            "device_id": "device-1",
            "fingerprint": "f1",
            "chain_pem": chain_pem,
            "bundle_id": "b",
            **fields,
        }
    )


def leaf_for(spki_sha256):
    return Leaf(
        serial="1",
        subject_cn="device-1",
        spki_sha256=spki_sha256,
        not_before_unix_ms=T0,
        not_after_unix_ms=T0 + DAY,
    )


def test_a_chain_says_what_it_was_issued_for():
    leaf = leaf_for("aa")
    facts = issue(leaf)
    assert read_leaf(facts.chain_pem) == leaf
    assert (facts.subject_cn, facts.not_after_unix_ms) == ("device-1", T0 + DAY)
    with pytest.raises(ValueError, match=r"base64|padding|alphabet"):
        read_leaf(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")


def test_the_store_stages_commits_and_retires():
    store = MemoryStore(VirtualClock(T0))

    async def scenario():
        staged = await store.stage("1", STAGE)
        assert isinstance(staged, KeyStaged)
        assert await store.stage("1", STAGE) == staged
        with pytest.raises(StoreUnavailable, match="no chain"):
            store.chain_pem(1)
        wrong = await store.commit("2", commit_of(1, issue(leaf_for("other")).chain_pem))
        assert isinstance(wrong, CredentialCommitFailed)
        assert (wrong.failure_class, wrong.code) == ("new_key", "key-mismatch")
        chain_pem = issue(leaf_for(staged.spki_sha256)).chain_pem
        missing = await store.commit("2", commit_of(5, chain_pem))
        assert missing.code == "key-missing"
        assert store.flips == []
        effect = commit_of(1, chain_pem, bundle_pem=b"-----BEGIN CERTIFICATE-----\n")
        for _ in range(2):
            assert isinstance(await store.commit("3", effect), CredentialCommitted)
        assert len(store.flips) == 1
        assert store.chain_pem(1) == chain_pem
        current = store.inventory().current
        assert (current.generation, current.not_after_unix_ms) == (1, T0 + DAY)
        assert (current.bundle_id, current.bundle_certificates) == ("b", 1)
        reused = await store.stage(
            "4", StageKey(**{**_fields(STAGE), "generation": 2, "reuse_generation": 1})
        )
        assert reused.spki_sha256 == staged.spki_sha256
        lost = await store.stage("5", StageKey(**{**_fields(STAGE), "generation": 3, "reuse_generation": 9}))
        assert isinstance(lost, KeyStageFailed)
        assert store.inventory().newest_generation == 2
        await store.retire("6", RetireCredential(keep=()))
        assert set(store.generations) == {1}
        await store.commit("7", commit_of(1, chain_pem, keep_bundle=True))
        assert store.current == current
        with pytest.raises(StoreUnavailable, match="no generation 2"):
            store.csr_der(2)
        assert store.key_path(1).endswith("/1/key.pem")

    simulate(scenario)


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_the_registrar_takes_its_time_forgets_and_refuses():
    registrar = FakeRegistrar(VirtualClock(T0), pending=1)
    registrar.takes_ms = 3_000

    async def scenario():
        submit = SubmitRegistration(attempt=1, generation=1, spki_sha256="aa")
        accepted = await registrar.submit("1", submit)
        assert isinstance(accepted, RegistrationAccepted)
        poll = PollRegistration(attempt=1, operation_id=accepted.operation_id, spki_sha256="aa")
        for _ in range(2):
            assert isinstance(await registrar.poll("2", poll), RegistrationPending)
        await trio.sleep(3)
        assigned = await registrar.poll("2", poll)
        assert isinstance(assigned, RegistrationAssigned)
        assert assigned.chain.spki_sha256 == "aa"
        assert assigned.server_date_unix_ms % 1000 == 0
        registrar.forget_operations()
        unknown = await registrar.poll("2", poll)
        assert isinstance(unknown, RegistrationFailed)
        assert (unknown.failure_class, unknown.code) == ("reregister", "operation-unknown")
        registrar.issues = False
        assert (await registrar.submit("3", submit)).code == "csr-not-configured"

    simulate(scenario)


def test_the_hub_goes_by_the_true_time_and_by_the_key():
    clock = VirtualClock(T0)
    store = MemoryStore(clock)
    hub = FakeHub(clock, store)

    async def scenario():
        staged = await store.stage("1", STAGE)
        prove = ProveCredential(
            generation=1,
            hub="hub.example",
            device_id="device-1",
            chain_pem=issue(leaf_for(staged.spki_sha256)).chain_pem,
        )
        assert isinstance(await hub.prove("2", prove), CredentialProven)
        other = ProveCredential(**{**_fields(prove), "chain_pem": issue(leaf_for("other")).chain_pem})
        assert (await hub.prove("2", other)).refused
        hub.refuses = True
        assert (await hub.prove("2", prove)).code == "hub-401"
        hub.refuses = False
        await trio.sleep(86_400)
        late = await hub.prove("2", prove)
        assert isinstance(late, CredentialProofFailed)
        assert late.refused
        configured = ProveCredential(**{**_fields(prove), "chain_pem": None, "issued": False})
        assert isinstance(await hub.prove("2", configured), CredentialProven)

    simulate(scenario)


def test_a_peer_is_slow_silent_or_away():
    registrar = FakeRegistrar(VirtualClock(T0), latency_s=2, timeout_s=10)
    submit = SubmitRegistration(attempt=1, generation=None)

    async def took():
        began = trio.current_time()
        answer = await registrar.submit("1", submit)
        return answer, trio.current_time() - began

    async def scenario():
        answer, seconds = await took()
        assert isinstance(answer, RegistrationAccepted)
        assert seconds == 2
        registrar.down = True
        answer, seconds = await took()
        assert (answer.code, answer.failure_class, seconds) == ("unreachable", "retry", 10)
        registrar.down = False
        registrar.then(no("dps-429", "wait", retry_after_ms=5))
        answer, _ = await took()
        assert (answer.code, answer.failure_class, answer.retry_after_ms) == ("dps-429", "wait", 5)
        assert isinstance((await took())[0], RegistrationAccepted)
        registrar.latency_s = math.inf
        with trio.move_on_after(1_000) as scope:
            await registrar.submit("1", submit)
        assert scope.cancelled_caught

    simulate(scenario)
    assert len(registrar.asked) == 5


def test_a_device_whose_enrolment_issues_no_certificates():
    device = Simulated()
    device.registrar.issues = False

    async def scenario():
        async with device.running() as runtime:
            await until(runtime, rests_in(State.PROVISIONED))
            assert runtime.status().credential.source == "configured"
            device.registrar.issues = True
            await until(runtime, lambda snapshot: snapshot.attempts == 2)
            await until_provisioned(runtime)
            assert runtime.status().credential.source == "issued"

    simulate(scenario)
    assert device.replay().equal
    assert device.uncovered_ms(device.true_unix_ms(2)) == 0
