"""A provisioned device's hub parts, wired as the service does, against the stand-in cloud."""

import base64
import json
import time

import trio

from adapters.driven.hub_modules import HubModules, Where
from adapters.driven.identities import Identities
from adapters.driven.keys.embedded import EmbeddedKeys
from adapters.driven.module_cache import ModuleCache
from adapters.driven.module_keys import ModuleKeys, ModuleKeysPusher
from adapters.driven.reconcile import Reconciler
from adapters.fakes.clock import SeededChance
from adapters.simulators.state import REGISTRATION_ID
from adapters.wire import sas
from statemachine.settings import (
    DEVICE_ID,
    Configuration,
    DpsProvisioning,
    IdentityPrincipal,
    IdentitySettings,
    SymmetricKeySource,
    TlsSettings,
)
from statemachine.snapshot import Assignment, Credential, Snapshot
from statemachine.states import State
from tests.adapters.cloud_device import run


class Clock:
    """The real one; elapsed time moves when told."""

    def __init__(self):
        self.elapsed = 0

    def now_unix_ms(self):
        return time.time_ns() // 1_000_000

    def elapsed_ms(self):
        return self.elapsed


class Issued:
    """Chain and key of issued generations, as files."""

    def __init__(self, root):
        self.root = root

    def chain_pem(self, generation):
        return (self.root / f"{generation}.pem").read_bytes()

    def key_path(self, generation):
        return str(self.root / f"{generation}.key")

    def current_key_generation(self):
        return 1

    def key_pem(self, generation):
        return (self.root / f"{generation}.key").read_bytes()


def provisioned(hub, device_id=REGISTRATION_ID, *, source="configured", generation=1, **credential):
    credential.setdefault("proven", True)
    return Snapshot(
        state=State.PROVISIONED,
        assignment=Assignment(hub=hub, device_id=device_id, fingerprint="f"),
        credential=Credential(generation=generation, source=source, **credential),
    )


def configured(key, ca_file, *, modules=(), prefer_cache=False, **settings):
    settings.setdefault("cloud_timeout_seconds", 4)
    settings.setdefault("cloud_retries", 0)
    settings.setdefault(
        "provisioning",
        DpsProvisioning(
            global_endpoint="https://dps.test",
            scope_id="s",
            registration_id=REGISTRATION_ID,
            attestation=SymmetricKeySource(value=key),
        ),
    )
    principals = tuple(
        IdentityPrincipal(uid=1000 + n, name=name, kinds=("module",)) for n, name in enumerate(modules)
    )
    return Configuration(
        tls=TlsSettings(ca_file=ca_file),
        identities=IdentitySettings(principals=principals, prefer_cache=prefer_cache),
        **settings,
    )


class Parts:
    """Everything that asks the hub; ``configuration`` and ``snapshot`` may be replaced at any time."""

    def __init__(self, root, hub, *, key=b"k" * 32, ca_file=None, snapshot=None, **settings):
        self.root = root
        self.key, self.ca_file = key, ca_file
        self.configuration = configured(key, ca_file, **settings)
        self.snapshot = snapshot or provisioned(hub)
        self.clock = Clock()
        self.posted = []
        self.issued = Issued(root)
        self.keys = EmbeddedKeys(str(root / "keyd"), lambda: {DEVICE_ID: self.key}, self.issued)
        self.state_dir = root / "identityd"
        self.begin()

    def begin(self):
        """As after a restart."""

        def settings():
            return self.configuration

        def snapshot():
            return self.snapshot

        self.hub = HubModules(settings, snapshot, self.clock, self.issued, self.posted.append, environ={})
        self.cache = ModuleCache(str(self.state_dir))
        self.module_keys = ModuleKeys(self.keys, self.cache, self.posted.append)
        self.pusher = ModuleKeysPusher(self.hub, self.cache, self.module_keys)
        self.identities = Identities(
            settings, snapshot, self.clock, self.keys, self.hub, self.cache, self.module_keys
        )
        self.reconciler = Reconciler(
            str(self.state_dir),
            settings,
            snapshot,
            self.clock,
            SeededChance(1),
            self.hub,
            self.cache,
            self.module_keys,
        )

    @property
    def where(self):
        return Where(hub=self.snapshot.assignment.hub, device_id=self.snapshot.assignment.device_id)

    def configure(self, **settings):
        self.configuration = configured(self.key, self.ca_file, **settings)

    def master_path(self):
        (path,) = (self.root / "keyd" / "keys").glob("aziotidentitydmasterid-*.key")
        return path

    async def exported(self, identity):
        return await self.keys.export_derived_key(identity.authentication.key_handle)


async def alive(parts, nursery):
    await nursery.start(parts.hub.run)
    await nursery.start(parts.identities.run)


class Cloud:
    """The stand-in cloud as its operator sees it, with a device that proves itself by its key."""

    def __init__(self, device):
        self.device = device

    async def ask(self, method, module_id=None, body=None, **headers):
        expiry = int(time.time()) + 60
        token = sas.hub_token(self.device.hub, REGISTRATION_ID, self.device.key, expiry)
        rest = "" if module_id is None else f"/{module_id}"
        return await self.device.ask(
            method,
            f"/devices/{REGISTRATION_ID}/modules{rest}?api-version=2017-11-08-preview",
            body,
            headers={"Authorization": token, **headers},
        )

    async def put(self, module_id, **members):
        body = {"moduleId": module_id, "deviceId": REGISTRATION_ID, **members}
        answer = await self.ask("PUT", module_id, body)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    async def modules(self):
        return {one["moduleId"]: one for one in json.loads((await self.ask("GET")).body)}

    async def requests(self):
        """Of the hub, in order: method and module."""
        return [
            (entry["method"], entry["path"].partition("?")[0].rpartition("/modules")[2].lstrip("/"))
            for entry in await self.device.log()
            if "/modules" in entry["path"]
        ]


def with_cloud(test, root, **settings):
    """``test(parts, cloud)`` against the stand-in cloud, over real TLS."""

    async def main(device):
        await device.provision(with_csr=False)
        parts = Parts(root, device.hub, key=device.key, ca_file=device.listening.ca_file, **settings)
        async with trio.open_nursery() as nursery:
            await alive(parts, nursery)
            result = await test(parts, Cloud(device))
            nursery.cancel_scope.cancel()
        return result

    return run(main, root, assigning=0, retry_after_s=0)


def primary_of(module):
    return base64.b64decode(module["authentication"]["symmetricKey"]["primaryKey"])
