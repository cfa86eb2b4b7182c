"""The stand-in hub's modules: what the documented calls do, and what they refuse."""

import base64
import json

import pytest
from msgspec import DecodeError

from adapters.simulators.modules import Modules, ModuleWish
from adapters.simulators.state import REGISTRATION_ID, write_private
from tests.adapters.cloud_device import run
from tests.adapters.hub_device import Cloud

ANY = {"If-Match": "*"}
KEY = base64.b64encode(bytes(32)).decode()
SAS = {"type": "sas", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}


def with_hub(test, root):
    async def main(device):
        await device.provision(with_csr=False)
        return await test(Cloud(device))

    return run(main, root, assigning=0, retry_after_s=0)


def said(answer):
    return answer.status, answer.headers.get("iothub-errorcode")


def body(module_id="m", **members):
    return {"moduleId": module_id, "deviceId": REGISTRATION_ID, **members}


def test_a_module_s_life(tmp_path):
    async def test(hub):
        created = json.loads((await hub.ask("PUT", "m", body())).body)
        assert set(created) == {"moduleId", "deviceId", "generationId", "etag", "authentication"}
        assert created["generationId"].isdigit()
        updated = await hub.ask("PUT", "m", body(authentication=SAS, managedBy="x"), **ANY)
        updated = json.loads(updated.body)
        assert (updated["generationId"], updated["managedBy"]) == (created["generationId"], "x")
        assert updated["authentication"] == SAS
        assert updated["etag"] != created["etag"]
        assert json.loads((await hub.ask("GET", "m")).body) == updated
        by_tag = await hub.ask("PUT", "m", body(), **{"If-Match": f'"{updated["etag"]}"'})
        assert by_tag.status == 200
        deleted = await hub.ask("DELETE", "m", **ANY)
        assert (deleted.status, deleted.body) == (204, b"")
        again = json.loads((await hub.ask("PUT", "m", body())).body)
        assert again["generationId"] != created["generationId"]
        await hub.put("b")
        return list(await hub.modules())

    assert with_hub(test, tmp_path) == ["m", "b"]


@pytest.mark.parametrize(
    ("method", "sent", "headers", "refusal"),
    [
        ("GET", None, {}, (404, "ModuleNotFound")),
        ("DELETE", None, ANY, (404, "ModuleNotFound")),
        ("PUT", body("gone"), ANY, (404, "ModuleNotFound")),
        ("PUT", body("other"), {}, (400, "ArgumentInvalid")),
        ("PUT", {"moduleId": "gone", "deviceId": "other"}, {}, (400, "ArgumentInvalid")),
        ("PUT", {"moduleId": "gone"}, {}, (400, "ArgumentInvalid")),
        ("PUT", b"[" * 90_000, {}, (400, "ArgumentInvalid")),
        ("PUT", b"\xff", {}, (400, "ArgumentInvalid")),
        ("PUT", body("gone", authentication={"type": "tpm"}), {}, (400, "ArgumentInvalid")),
        (
            "PUT",
            body("gone", authentication={"type": "sas", "symmetricKey": {"primaryKey": "§"}}),
            {},
            (400, "ArgumentInvalid"),
        ),
        (
            "PUT",
            body("gone", authentication={"type": "sas", "symmetricKey": {"primaryKey": "AAAA"}}),
            {},
            (400, "ArgumentInvalid"),
        ),
        ("POST", body("gone"), {}, (405, "MethodNotAllowed")),
    ],
)
def test_what_is_refused(tmp_path, method, sent, headers, refusal):
    async def test(hub):
        answer = await hub.ask(method, "gone", sent, **headers)
        assert await hub.modules() == {}
        message = json.loads(answer.body)["Message"]
        assert ("404010" in message) == (answer.status == 404)
        return said(answer)

    assert with_hub(test, tmp_path) == refusal


def test_what_is_refused_of_a_module_that_is_there(tmp_path):
    async def test(hub):
        await hub.put("m")
        return [
            said(await hub.ask("PUT", "m", body())),
            said(await hub.ask("PUT", "m", body(), **{"If-Match": '"old"'})),
            said(await hub.ask("DELETE", "m")),
            said(await hub.ask("DELETE", "m", **{"If-Match": '"old"'})),
        ]

    assert with_hub(test, tmp_path) == [
        (409, "ModuleAlreadyExistsOnDevice"),
        (412, "PreconditionFailed"),
        (400, "ArgumentNull"),
        (412, "PreconditionFailed"),
    ]


def test_a_fault_of_transport_works_first(tmp_path):
    async def test(hub):
        await hub.device.faults({"on": "hub", "kind": "garbage", "times": 1})
        assert (await hub.ask("PUT", "m", body())).body == b"\x00\xff{{ garbage"
        await hub.device.faults({"on": "hub", "kind": "status", "status": 503, "times": 1})
        assert (await hub.ask("DELETE", "m", **ANY)).status == 503
        return list(await hub.modules())

    assert with_hub(test, tmp_path) == ["m"]


def test_a_restart_and_a_registration_keep_them(tmp_path):
    async def first(hub):
        return await hub.put("m", authentication=SAS)

    async def second(hub):
        return await hub.modules()

    made = with_hub(first, tmp_path)
    assert with_hub(second, tmp_path) == {"m": made}
    assert (tmp_path / "cloud" / "modules.json").stat().st_mode & 0o777 == 0o600


def test_modules_of_devices_do_not_mix(tmp_path):
    modules = Modules(str(tmp_path / "modules.json"), write_private)
    for device in ("Dev", "other"):
        modules.put(ModuleWish(module_id="m", device_id=device), 1.0)
    modules.put(ModuleWish(module_id="M", device_id="dev"), 1.0)
    assert [module.module_id for module in modules.of("DEV")] == ["m", "M"]
    modules.delete("dev", "m")
    assert modules.get("other", "m") is not None
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(DecodeError):
        Modules(str(tmp_path / "modules.json"), write_private)
