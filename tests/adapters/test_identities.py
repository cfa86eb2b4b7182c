"""Device and modules, against the stand-in cloud over real TLS."""

import base64
import hashlib
import hmac
import json
import os
import shutil

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from adapters.errors import (
    NotProvisioned,
    PeerProtocolError,
    PeerRefused,
    PeerUnreachable,
    RequestRefused,
    StoreUnavailable,
)
from adapters.simulators.state import REGISTRATION_ID
from adapters.wire.hub import Module
from statemachine.effects import PushModuleKeys
from statemachine.events import HubRefusedCredential, ModuleKeysLost, ModuleKeysPushed, ModuleKeysPushFailed
from statemachine.settings import (
    IDENTITY_CERTIFICATE_ID,
    MASTER_KEY_ID,
    IssuanceRule,
    IssuedSource,
    ManualProvisioning,
    NoProvisioning,
    SymmetricKeySource,
    X509Source,
)
from statemachine.snapshot import Snapshot
from tests.adapters.cloud_device import as_pem, chain_of, run
from tests.adapters.hub_device import Parts, alive, primary_of, provisioned, with_cloud

PUSH = PushModuleKeys()


# --- the life of a module ----------------------------------------------------------------------------


def test_create_get_update_list_delete(tmp_path):
    async def test(parts, cloud):
        identities = parts.identities
        created = await identities.create_module("telemetry")
        (known,) = (await cloud.modules()).values()
        assert (created.module_id, created.generation_id) == ("telemetry", known["generationId"])
        assert (created.hub, created.gateway, created.device_id) == (
            cloud.device.hub,
            cloud.device.hub,
            REGISTRATION_ID,
        )
        assert created.authentication.type == "sas"
        master = parts.master_path().read_bytes()
        for which in ("primary", "secondary"):
            derived = hmac.digest(
                master, f"telemetry:{known['generationId']}:{which}".encode(), hashlib.sha256
            )
            held = known["authentication"]["symmetricKey"][f"{which}Key"]
            assert base64.b64decode(held, validate=True) == derived
        assert await parts.exported(created) == primary_of(known)

        read = await identities.module("telemetry")
        assert read.generation_id == created.generation_id
        assert read.authentication.key_handle != created.authentication.key_handle
        assert await parts.exported(read) == primary_of(known)

        updated = await identities.update_module("telemetry")
        assert updated.generation_id == created.generation_id
        (listed,) = await identities.modules()
        assert (listed.module_id, listed.generation_id) == ("telemetry", created.generation_id)
        assert listed.authentication is None

        again = await identities.create_module("telemetry")
        assert again.generation_id == created.generation_id

        await identities.delete_module("telemetry")
        assert await cloud.modules() == {}
        assert await parts.cache.of(parts.where) == ()
        return await cloud.requests()

    assert with_cloud(test, tmp_path) == [
        ("PUT", "telemetry"),
        ("PUT", "telemetry"),
        ("GET", ""),
        ("GET", "telemetry"),
        ("GET", "telemetry"),
        ("PUT", "telemetry"),
        ("GET", ""),
        ("PUT", "telemetry"),
        ("GET", "telemetry"),
        ("PUT", "telemetry"),
        ("DELETE", "telemetry"),
        ("GET", ""),
    ]


def test_the_documented_key_vector(tmp_path):
    async def main():
        parts = Parts(tmp_path, "myhub.azure-devices.net")
        await parts.keys.create_key(MASTER_KEY_ID, ("derive", "sign"), b"\x11" * 32)
        module = Module(module_id="telemetry", device_id="line4-press-17", generation_id="637000000000000000")
        pair = await parts.module_keys.pair(module)
        assert repr(pair) == "ModuleKeyPair()"
        return base64.b64encode(pair.primary), base64.b64encode(pair.secondary)

    assert trio.run(main) == (
        b"VVvAeF663ENdJOGjUz/7g9C+Q20klKANTMfrT++TiaE=",
        b"sOd3U4chqssU/65JthWNzlyV/Wiv8gvIgavdU6Ltoh8=",
    )


def test_whoever_manages_a_module_stays(tmp_path):
    async def test(parts, cloud):
        await cloud.put("$edgeAgent", managedBy="IotEdge")
        await parts.identities.update_module("$edgeAgent")
        return (await cloud.modules())["$edgeAgent"], await parts.cache.of(parts.where)

    held, (kept,) = with_cloud(test, tmp_path)
    assert (held["managedBy"], kept.managed_by) == ("IotEdge", "IotEdge")
    assert held["authentication"]["type"] == "sas"


def test_an_id_arrives_as_it_is(tmp_path):
    name = "a b%2F?#&é=$+'"

    async def test(parts, cloud):
        identity = await parts.identities.create_module(name)
        read = await parts.identities.module(name)
        return identity.module_id, read.module_id, list(await cloud.modules())

    assert with_cloud(test, tmp_path) == (name, name, [name])


@pytest.mark.parametrize(
    ("module_id", "why"),
    [
        ("", "module name cannot be empty"),
        (" \t", "module name cannot be empty"),
        ("a/b", "slash"),
        ("a\0b", "printed"),
        ("a\nb", "printed"),
        ("\ud800", "printed"),
        ("m" * 129, "longer than 128"),
        ("m" * 4096, "longer than 128"),
        ("..", "relative"),
    ],
)
def test_ids_that_no_module_has(tmp_path, module_id, why):
    async def main():
        parts = Parts(tmp_path, "unused.test")
        identities = parts.identities
        for ask in (
            identities.module,
            identities.create_module,
            identities.update_module,
            identities.delete_module,
        ):
            with pytest.raises(RequestRefused, match=why) as refused:
                await ask(module_id)
            assert refused.value.parameter == "module_id"

    trio.run(main)


def test_a_module_without_a_generation(tmp_path):
    async def test(parts, cloud):
        body = json.dumps({"moduleId": "m", "deviceId": REGISTRATION_ID})
        await cloud.device.faults({"on": "hub", "kind": "status", "status": 200, "body": body})
        for ask in (parts.identities.module, parts.identities.update_module, parts.identities.create_module):
            with pytest.raises(RequestRefused, match="module identity not found") as refused:
                await ask("m")
            assert refused.value.code == "generation-id-missing"
            assert refused.value.parameter is None

    with_cloud(test, tmp_path)


# --- gone, offline, and neither ----------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["module", "update_module", "delete_module"])
def test_a_module_that_the_hub_does_not_know_is_forgotten(tmp_path, ask):
    async def test(parts, cloud):
        await parts.identities.create_module("m")
        assert (await cloud.ask("DELETE", "m", **{"If-Match": "*"})).status == 204
        with pytest.raises(PeerRefused, match=r"^module m not found$") as refused:
            await getattr(parts.identities, ask)("m")
        assert refused.value.code == "module-gone"
        assert refused.value.tracking_id is None, "the original's text is exactly this"
        assert parts.posted == []
        return await parts.cache.of(parts.where)

    assert with_cloud(test, tmp_path) == ()


OTHER_FAILURES = [
    ({"kind": "status", "status": 429, "retry_after": 7}, PeerRefused, "hub-429"),
    ({"kind": "status", "status": 403}, PeerRefused, "hub-403"),
    ({"kind": "status", "status": 500, "message": "busy"}, PeerRefused, "hub-500"),
    ({"kind": "status", "status": 503}, PeerRefused, "hub-503"),
    ({"kind": "status", "status": 302}, PeerRefused, "hub-302"),
    ({"kind": "garbage"}, PeerProtocolError, "answer-malformed"),
    ({"kind": "huge_body", "bytes": 5 << 20}, PeerProtocolError, "answer-too-large"),
    ({"kind": "reset"}, PeerProtocolError, "connection-broken"),
    ({"kind": "hub_refuses", "code": 401}, PeerRefused, "hub-401"),
    ({"kind": "hub_refuses", "code": 404001}, PeerRefused, "hub-404001"),
]


@pytest.mark.parametrize(("fault", "kind", "code"), OTHER_FAILURES)
def test_only_the_network_is_a_reason_for_the_cache(tmp_path, fault, kind, code):
    async def test(parts, cloud):
        created = await parts.identities.create_module("m")
        await cloud.device.faults({"on": "hub", **fault})
        errors = []
        for ask in (parts.identities.modules, lambda: parts.identities.module("m")):
            with pytest.raises(kind) as refused:
                await ask()
            errors.append(refused.value)
        await cloud.device.faults()
        # Kept all the same: nothing said that it is gone.
        assert (await parts.cache.read(parts.where, "m")).generation_id == created.generation_id
        return errors, parts.posted

    errors, posted = with_cloud(test, tmp_path)
    assert {error.code for error in errors} == {code}
    if fault.get("retry_after"):
        assert errors[0].retry_after_ms == 7000
    if fault.get("message"):
        assert "busy" in errors[0].message
    refusals = [HubRefusedCredential(generation=1, code=code)] if fault["kind"] == "hub_refuses" else []
    assert posted == refusals


def test_a_hub_that_cannot_be_reached_is_answered_for(tmp_path):
    async def test(parts, cloud):
        created = await parts.identities.create_module("m")
        parts.configure(cloud_timeout_seconds=0.3)
        await cloud.device.faults({"on": "hub", "kind": "stall"})
        read = await parts.identities.module("m")
        (listed,) = await parts.identities.modules()
        assert read.generation_id == listed.generation_id == created.generation_id
        assert await parts.exported(read) == await parts.exported(created)

    with_cloud(test, tmp_path)


def test_offline_after_a_restart(tmp_path):
    async def test(parts, cloud):
        return await parts.identities.create_module("m"), parts.snapshot

    created, snapshot = with_cloud(test, tmp_path)

    async def main():
        parts = Parts(tmp_path, "", snapshot=snapshot)
        async with trio.open_nursery() as nursery:
            await alive(parts, nursery)
            read = await parts.identities.module("m")
            (listed,) = await parts.identities.modules()
            for ask in (parts.identities.update_module, parts.identities.create_module):
                with pytest.raises(PeerUnreachable):
                    await ask("m")
            with pytest.raises(PeerUnreachable):
                await parts.identities.delete_module("m")
            with pytest.raises(PeerUnreachable):
                await parts.identities.module("unknown")
            # Another device knows none of this, and no modules known is not the same as no modules.
            parts.snapshot = provisioned(snapshot.assignment.hub, "another")
            with pytest.raises(PeerUnreachable):
                await parts.identities.modules()
            nursery.cancel_scope.cancel()
        return read, listed

    read, listed = trio.run(main)
    assert read.generation_id == listed.generation_id == created.generation_id


def test_the_cache_first_when_it_is_preferred(tmp_path):
    async def test(parts, cloud):
        await cloud.put("other")
        created = await parts.identities.create_module("m")
        parts.configure(prefer_cache=True)
        before = len(await cloud.requests())
        assert (await parts.identities.module("m")).generation_id == created.generation_id
        assert len(await parts.identities.modules()) == 1
        assert len(await cloud.requests()) == before
        assert (await parts.identities.module("other")).module_id == "other"
        assert len(await cloud.requests()) == before + 1

    with_cloud(test, tmp_path)


def test_a_list_tells_the_cache_what_is_no_more(tmp_path):
    async def test(parts, cloud):
        await parts.identities.create_module("a")
        await parts.identities.create_module("b")
        await cloud.ask("DELETE", "a", **{"If-Match": "*"})
        await parts.identities.modules()
        return [module.module_id for module in await parts.cache.of(parts.where)]

    assert with_cloud(test, tmp_path) == ["b"]


# --- the device --------------------------------------------------------------------------------------


def test_the_device_with_a_key(tmp_path):
    async def main():
        parts = Parts(tmp_path, "hub.test:8443")
        identity = await parts.identities.device()
        again = await parts.identities.device()
        assert identity.authentication.key_handle != again.authentication.key_handle
        assert parts.keys.key_id_of(identity.authentication.key_handle) == "device-id"
        return identity

    identity = trio.run(main)
    assert (identity.hub, identity.gateway, identity.device_id) == (
        "hub.test:8443",
        "hub.test:8443",
        REGISTRATION_ID,
    )
    assert (identity.module_id, identity.generation_id) == (None, None)
    assert (identity.authentication.type, identity.authentication.certificate_id) == ("sas", None)
    assert identity.authentication.key_handle not in repr(identity)


@pytest.mark.parametrize(
    "source",
    [
        X509Source(certificate_path="/c", key_path="/k"),
        IssuedSource(rule=IssuanceRule(method="self_signed")),
    ],
)
@pytest.mark.parametrize("gateway", [None, "parent.test"])
def test_the_device_with_a_configured_certificate(tmp_path, source, gateway):
    async def main():
        manual = ManualProvisioning(hub="h.test", device_id="d", authentication=source, gateway=gateway)
        parts = Parts(tmp_path, "", snapshot=provisioned("h.test", "d"), provisioning=manual)
        with pytest.raises(RequestRefused):
            await parts.identities.device()
        parts.key = str(tmp_path / "device.pem")
        await parts.keys.create_key_pair("device-id", None)
        return await parts.identities.device()

    identity = trio.run(main)
    assert (identity.gateway, identity.device_id) == (gateway or "h.test", "d")
    assert (identity.authentication.type, identity.authentication.certificate_id) == ("x509", "device-id")


def test_the_device_with_an_issued_certificate_even_an_expired_one(tmp_path):
    async def main():
        parts = Parts(
            tmp_path, "", snapshot=provisioned("h.test", source="issued", not_after_unix_ms=1), key=b"k"
        )
        await parts.keys.create_key_pair("x", "ec-p256")
        (pem,) = (tmp_path / "keyd" / "keys").glob("x-*.key")
        shutil.copy(pem, tmp_path / "1.key")
        return await parts.identities.device()

    identity = trio.run(main)
    assert (identity.authentication.type, identity.authentication.certificate_id) == (
        "x509",
        IDENTITY_CERTIFICATE_ID,
    )


@pytest.mark.parametrize("ask", ["device", "modules"])
@pytest.mark.parametrize(
    ("snapshot", "settings", "why"),
    [
        (Snapshot(), {}, "The device has no identity yet"),
        (None, {"provisioning": NoProvisioning()}, "Assigned"),
    ],
)
def test_without_an_assignment_the_reason_is_said(tmp_path, ask, snapshot, settings, why):
    async def main():
        parts = Parts(tmp_path, "h.test", snapshot=snapshot, **settings)
        with pytest.raises(NotProvisioned, match=why):
            await getattr(parts.identities, ask)()

    trio.run(main)


def test_modules_with_the_issued_certificate_and_after_it_was_replaced(tmp_path):
    async def main(device):
        def keep(generation, state):
            (tmp_path / f"{generation}.pem").write_bytes(as_pem(chain_of(state)))
            (tmp_path / f"{generation}.key").write_bytes(
                device.leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )

        keep(1, (await device.provision())["registrationState"])
        parts = Parts(tmp_path, "", ca_file=device.listening.ca_file)
        parts.snapshot = provisioned(device.hub, source="issued", generation=1)
        async with trio.open_nursery() as nursery:
            await alive(parts, nursery)
            created = await parts.identities.create_module("m")
            keep(2, (await device.provision())["registrationState"])
            os.unlink(tmp_path / "1.key")
            parts.snapshot = provisioned(device.hub, source="issued", generation=2)
            assert (await parts.identities.module("m")).generation_id == created.generation_id
            # Registered without a CSR, the device proves itself by its key; the hub refuses the certificate.
            await device.provision(with_csr=False)
            for _ in range(2):
                with pytest.raises(PeerRefused):
                    await parts.identities.module("m")
            parts.clock.elapsed += 60_000
            with pytest.raises(PeerRefused):
                await parts.identities.module("m")
            parts.snapshot = provisioned(device.hub, generation=3)
            parts.key = device.key
            parts.configure()
            assert (await parts.identities.module("m")).generation_id == created.generation_id
            nursery.cancel_scope.cancel()
        return parts.posted

    assert (
        run(main, tmp_path, assigning=0, retry_after_s=0)
        == [HubRefusedCredential(generation=2, code="hub-401")] * 2
    )


# --- the master key ----------------------------------------------------------------------------------


def test_a_lost_master_key_is_never_made_anew_by_itself(tmp_path):
    async def test(parts, cloud):
        created = await parts.identities.create_module("m")
        await parts.identities.create_module("n")
        path = parts.master_path()
        shutil.move(path, tmp_path / "backup")
        before = len(await cloud.requests())
        for ask in (
            parts.identities.module,
            parts.identities.update_module,
            parts.identities.create_module,
        ):
            with pytest.raises(StoreUnavailable, match="identityd module-keys push") as lost:
                await ask("m")
            assert (lost.value.code, lost.value.failure_class) == ("master-key-missing", "operator")
        assert not path.exists()
        # Nothing was changed at the hub, and a list needs no key.
        assert ("PUT", "m") not in (await cloud.requests())[before:]
        assert len(await parts.identities.modules()) == 2
        (posted,) = parts.posted
        assert isinstance(posted, ModuleKeysLost)
        assert MASTER_KEY_ID in posted.reason

        shutil.move(tmp_path / "backup", path)
        assert await parts.exported(await parts.identities.module("m")) == await parts.exported(created)

        os.unlink(path)
        await cloud.ask("DELETE", "n", **{"If-Match": "*"})
        pushed = await parts.pusher.push("1.2.3", PUSH)
        assert pushed == ModuleKeysPushed(answers="1.2.3", modules=1)
        renewed = await parts.identities.module("m")
        assert renewed.generation_id == created.generation_id
        assert await parts.exported(renewed) == primary_of((await cloud.modules())["m"])
        assert [module.module_id for module in await parts.cache.of(parts.where)] == ["m"]
        held = primary_of((await cloud.modules())["m"])
        assert await parts.pusher.push("1.2.4", PUSH) == ModuleKeysPushed(answers="1.2.4", modules=1)
        assert primary_of((await cloud.modules())["m"]) == held

    with_cloud(test, tmp_path)


def test_a_push_that_fails_says_why(tmp_path):
    async def test(parts, cloud):
        await parts.identities.create_module("m")
        fault = {"on": "hub", "kind": "status", "status": 429, "retry_after": 9, "tracking_id": "t-1"}
        await cloud.device.faults(fault)
        failed = await parts.pusher.push("1.2.3", PUSH)
        parts.snapshot = Snapshot()
        return failed, await parts.pusher.push("1.2.4", PUSH)

    failed, unassigned = with_cloud(test, tmp_path)
    assert isinstance(failed, ModuleKeysPushFailed)
    assert (failed.answers, failed.code, failed.failure_class) == ("1.2.3", "hub-429", "retry")
    assert (failed.retry_after_ms, failed.tracking_id) == (9000, "t-1")
    assert (unassigned.code, unassigned.failure_class) == ("not-provisioned", "operator")


def test_a_list_on_a_fresh_device_is_not_a_lost_key(tmp_path):
    async def test(parts, cloud):
        await cloud.put("theirs")
        await parts.identities.modules()
        await parts.identities.create_module("m")
        return parts.posted

    assert with_cloud(test, tmp_path) == []


def test_a_gateway_takes_the_place_of_the_hub_on_the_network_only(tmp_path):
    """The stand-in checks the token's audience: were it the gateway's, it would refuse."""

    async def test(parts, cloud):
        manual = ManualProvisioning(
            hub=cloud.device.hub,
            device_id=REGISTRATION_ID,
            authentication=SymmetricKeySource(value=parts.key),
            gateway="127.0.0.1:" + cloud.device.hub.partition(":")[2],
        )
        parts.configure(provisioning=manual)
        return await parts.identities.create_module("m")

    identity = with_cloud(test, tmp_path)
    assert identity.gateway.startswith("127.0.0.1:")
    assert identity.hub.startswith("localhost:")
