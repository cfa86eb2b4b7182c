"""Files of the modules' cache: the original's names and content, and nothing that fails because of a file."""

import json
import logging
import os
import stat

import pytest
import trio

from adapters.driven.hub_modules import Where
from adapters.driven.module_cache import ModuleCache, directory_name, file_name
from adapters.errors import StoreUnavailable
from adapters.wire.hub import Module

HERE = Where(hub="myhub.azure-devices.net", device_id="device01")
MOVED = Where(hub="other.azure-devices.net", device_id="device01")
DIRECTORY = (
    "7d4a2c5ea3b698a673926d4ebb8c0d2034c367424a491480224fbd729008150e-"
    "8e283fbd277154eac89a8627d2d6c90efdc4490bec2a68e1151202da69a73673"
)
FILES = {
    "module01": "module01-d39924f0eda7f7712fc98b569c17eac54723158ed5f2c33909a82b96c732af8e",
    "$edgeAgent": "edgeAgent-5ba97f29eeaf1ede50f792fcb138819f78bcd25e146340ba8ffdfcb9bb2d73e7",
}


def module(module_id, generation_id="1", **members):
    return Module(module_id=module_id, device_id=HERE.device_id, generation_id=generation_id, **members)


def cached(root, *modules, where=HERE):
    cache = ModuleCache(str(root))
    trio.run(cache.write, where, modules)
    return cache


def of(cache, where=HERE):
    return trio.run(cache.of, where)


def test_e39_the_names_are_the_original_s(tmp_path):
    assert directory_name(HERE) == DIRECTORY
    assert {name: file_name(name) for name in FILES} == FILES
    assert file_name("é-Ä") == "-" + file_name("é-Ä").rpartition("-")[2]
    assert len(os.fsencode(file_name("m" * 128))) < 200


def test_the_content_is_the_original_s_and_private(tmp_path):
    cached(tmp_path, module("module01", managed_by="IotEdge"), module("$edgeAgent", None))
    directory = tmp_path / "modules" / DIRECTORY
    assert {path.name: json.loads(path.read_bytes()) for path in directory.iterdir()} == {
        FILES["module01"]: {
            "moduleId": "module01",
            "managedBy": "IotEdge",
            "deviceId": "device01",
            "generationId": "1",
        },
        FILES["$edgeAgent"]: {"moduleId": "$edgeAgent", "deviceId": "device01"},
    }
    for path in (tmp_path / "modules", directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_the_original_left_is_used(tmp_path):
    directory = tmp_path / "modules" / DIRECTORY
    directory.mkdir(parents=True)
    (directory / FILES["module01"]).write_text(
        '{ "generationId": "637", "deviceId": "device01", "moduleId": "module01", "other": [1] }'
    )
    cache = ModuleCache(str(tmp_path))
    assert trio.run(cache.read, HERE, "module01") == module("module01", "637")
    assert of(cache) == (module("module01", "637"),)


def test_read_write_remove(tmp_path):
    cache = cached(tmp_path, module("a"), module("b"))
    assert {one.module_id for one in of(cache)} == {"a", "b"}
    trio.run(cache.remove, HERE, "a")
    trio.run(cache.remove, HERE, "a")
    assert trio.run(cache.read, HERE, "a") is None
    assert of(cache) == (module("b"),)
    assert of(cache, MOVED) == ()


def test_a_complete_list_removes_the_rest(tmp_path):
    cache = cached(tmp_path, module("a"), module("b"))

    async def complete():
        await cache.write(HERE, (module("b"), module("c")), complete=True)

    trio.run(complete)
    assert {one.module_id for one in of(cache)} == {"b", "c"}


def test_nothing_is_written_when_nothing_changed(tmp_path):
    cache = cached(tmp_path, module("a"))
    path = tmp_path / "modules" / DIRECTORY / file_name("a")
    before = path.stat().st_ino
    trio.run(cache.write, HERE, (module("a"),))
    assert path.stat().st_ino == before
    trio.run(cache.write, HERE, (module("a", "2"),))
    assert of(cache) == (module("a", "2"),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"x" * 20_000,
        b"null",
        b'{"moduleId": "a"}',
        b'{"moduleId": 1, "deviceId": "device01"}',
        b'{"moduleId": "b", "deviceId": "device01"}',
        b'{"moduleId": "a", "deviceId": "another"}',
        b'{"moduleId": "../a", "deviceId": "device01"}',
        b'{"moduleId": "\\ud800", "deviceId": "device01"}',
    ],
)
def test_a_file_that_is_no_use_is_left_alone_with_one_warning(tmp_path, content, caplog):
    cache = cached(tmp_path, module("a"), module("b"))
    path = tmp_path / "modules" / DIRECTORY / file_name("a")
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert of(cache) == of(cache) == (module("b"),)
        assert trio.run(cache.read, HERE, "a") is None
    assert [record.getMessage().startswith(str(path)) for record in caplog.records] == [True]
    assert path.read_bytes() == content
    assert trio.run(cache.holds_any)
    trio.run(cache.write, HERE, (module("a"),))
    assert trio.run(cache.read, HERE, "a") == module("a")


@pytest.mark.parametrize("strange", ["directory", "fifo", "link"])
def test_something_else_under_a_file_s_name(tmp_path, strange, caplog):
    cache = cached(tmp_path, module("b"))
    path = tmp_path / "modules" / DIRECTORY / file_name("a")
    if strange == "directory":
        path.mkdir()
    elif strange == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/hostname")
    assert of(cache) == (module("b"),)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["notes.txt", f"{FILES['module01']}.new", ".hidden", "a-b"])
def test_names_that_are_not_ours_are_not_looked_at(tmp_path, name, caplog):
    directory = tmp_path / "modules" / DIRECTORY
    directory.mkdir(parents=True)
    (directory / name).write_text("{")
    cache = ModuleCache(str(tmp_path))
    assert of(cache) == ()
    assert not trio.run(cache.holds_any)
    assert not caplog.records


def test_whether_any_device_has_any(tmp_path):
    cache = ModuleCache(str(tmp_path))
    assert not trio.run(cache.holds_any)
    cached(tmp_path, module("a"), where=MOVED)
    assert trio.run(cache.holds_any)
    trio.run(cache.remove, MOVED, "a")
    assert not trio.run(cache.holds_any)


def test_other_devices_are_forgotten_and_nothing_else(tmp_path):
    cache = cached(tmp_path, module("a"))
    cached(tmp_path, module("a"), where=MOVED)
    (tmp_path / "modules" / "notes").mkdir()
    trio.run(cache.forget_others, HERE)
    assert sorted(path.name for path in (tmp_path / "modules").iterdir()) == [DIRECTORY, "notes"]
    assert of(cache) == (module("a"),)
    trio.run(ModuleCache(str(tmp_path / "nowhere")).forget_others, HERE)


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "modules").write_text("in the way")
    cache = ModuleCache(str(tmp_path))
    with pytest.raises(StoreUnavailable, match="modules"):
        trio.run(cache.write, HERE, (module("a"),))
    assert of(cache) == ()
    trio.run(cache.remove, HERE, "a")


def test_writers_at_the_same_time(tmp_path):
    cache = ModuleCache(str(tmp_path))

    async def main():
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(cache.write, HERE, (module("a", str(number)), module(f"m{number}")))

    trio.run(main)
    assert len(of(cache)) == 31
