"""Stamps and commands: what others find at a turn of the device's life, and what a bad command cannot do."""

import json
import logging
import os
import signal
import stat
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec import structs

from adapters.driven import hook_command
from adapters.driven.hook_command import Ended, run_command, untrusted
from adapters.driven.hook_turns import turns
from adapters.driven.hooks import Commands, Hooks, environment_of
from statemachine.events import HookEnded
from statemachine.snapshot import Snapshot
from statemachine.states import Phase
from tests.adapters.test_hook_turns import LIFE, TOLD, life

UID = os.getuid()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Heard(logging.Handler):
    """What the service logged, line by line, for those who wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._more = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        more, self._more = self._more, trio.Event()
        if trio.lowlevel.in_trio_run():
            more.set()
        else:
            trio.from_thread.run_sync(more.set)

    async def until(self, text: str, times: int = 1) -> None:
        while sum(text in line for line in self.lines) < times:
            await self._more.wait()


class Device:
    """Hooks over directories of a test, and what they have told."""

    def __init__(self, place: Path) -> None:
        self.state, self.run_dir = place / "state", place / "run"
        self.run_dir.mkdir()
        self.commands: dict[str, str] = {}
        self.within_s = 30.0
        self.notes: list[str | None] = []
        self.ended: list[HookEnded] = []
        self.heard = Heard()

    @asynccontextmanager
    async def running(self, owner=UID):
        async def changed():
            self.notes.append(hooks.note)

        hooks = Hooks(
            str(self.state),
            str(self.run_dir),
            lambda: Commands(paths=self.commands, within_s=self.within_s),
            changed,
            self.ended.append,
            owner=owner,
        )
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(hooks.run)
                yield hooks
                nursery.cancel_scope.cancel()

    def stamp(self, kind: str) -> dict[str, object] | None:
        path = self.run_dir / "hooks" / kind
        return json.loads(path.read_bytes()) if path.exists() else None

    async def tell(self, hooks: Hooks, snapshot: Snapshot) -> None:
        """Have it seen, and wait until that is on disk."""
        known = f"generation {snapshot.credential.generation} is known"
        before = sum(known in line for line in self.heard.lines)
        hooks.observe(snapshot)
        await self.heard.until(known, before + 1)


@pytest.fixture
def device(tmp_path):
    device = Device(tmp_path)
    log = logging.getLogger("identityd")
    before = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(device.heard)
    yield device
    log.removeHandler(device.heard)
    log.setLevel(before)


def settle(device, *snapshots, owner=UID):
    """Observe each, and let it be told before the next."""

    async def main():
        async with device.running(owner) as hooks:
            for snapshot in snapshots:
                await device.tell(hooks, snapshot)

    trio.run(main)


# --- stamps ------------------------------------------------------------------------------------------


def test_a_renewal_leaves_a_stamp_that_anybody_may_read(device):
    umask = os.umask(0o077)
    try:
        settle(device, life(generation=3), life(generation=4, sequence=50))
    finally:
        os.umask(umask)
    stamp = device.stamp("renewal")
    assert stamp["kind"] == "renewal"
    assert (stamp["hub"], stamp["device_id"], stamp["generation"], stamp["sequence"]) == (
        "hub.example",
        "d-1",
        4,
        50,
    )
    assert stamp["not_after"] == "2027-01-15T08:00:00.000Z"
    assert mode_of(device.run_dir / "hooks") == 0o755
    assert mode_of(device.run_dir / "hooks/renewal") == 0o644
    assert mode_of(device.state / "hooks-told.json") == 0o600
    assert [device.stamp("moved"), device.stamp("reprovision")] == [None, None]


def test_a_first_identity_is_no_turn_and_a_restart_tells_nothing_again(device):
    settle(device, life(generation=3))

    async def main():
        async with device.running() as hooks:
            hooks.observe(life(generation=3))
            hooks.observe(life(generation=3, phase=Phase.COMMITTING))
            await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    assert list(device.run_dir.iterdir()) == []


def test_what_a_crash_kept_from_being_told_is_told_at_the_next_start(device):
    settle(device, life(generation=3))
    # Renewed and moved, and killed before anybody heard of it.
    settle(device, life(generation=5, hub="other.example"))
    assert device.stamp("renewal")["generation"] == 5
    assert device.stamp("moved")["previous_hub"] == "hub.example"


@pytest.mark.parametrize("content", [b"", b"{", b'{"hub": 1}', b"x" * 9000, b'{"hub":"\xff"}'])
def test_a_damaged_memory_begins_anew(device, content):
    device.state.mkdir()
    (device.state / "hooks-told.json").write_bytes(content)
    settle(device, life(generation=4))
    assert device.stamp("renewal") is None
    settle(device, life(generation=6))
    assert device.stamp("renewal")["generation"] == 6


def test_a_stamp_that_cannot_be_written_is_told_and_tried_again(device, monkeypatch):
    monkeypatch.setattr("adapters.driven.hooks.AGAIN_S", 0)
    (device.run_dir / "hooks").write_text("in the way")
    settle(device, life(generation=3))

    async def main():
        async with device.running() as hooks:
            hooks.observe(life(generation=4))
            await device.heard.until("hook stamp")
            (device.run_dir / "hooks").unlink()
            await device.heard.until("hook renewal: told")
            await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    assert device.stamp("renewal")["generation"] == 4
    problem, over = device.notes
    assert problem.startswith("hook stamp: ")
    assert str(device.run_dir / "hooks") in problem
    assert over is None


def test_nothing_is_told_of_a_device_without_identity(device):
    async def main():
        async with device.running() as hooks:
            hooks.observe(Snapshot())
            await trio.testing.wait_all_tasks_blocked()
            assert not device.state.exists()
            await device.tell(hooks, LIFE)

    trio.run(main)
    assert json.loads((device.state / "hooks-told.json").read_bytes()) == structs.asdict(TOLD)


# --- commands ----------------------------------------------------------------------------------------


def script(place: Path, text: str, mode: int = 0o755) -> str:
    path = place / "hook"
    path.write_text(f"#!{sys.executable} -S\n{text}\n")
    path.chmod(mode)
    return str(path)


@pytest.fixture
def own_place(monkeypatch, tmp_path):
    """What lies above a test's directory is nobody's concern: /tmp is for everybody."""
    real, inside = hook_command._problem, str(tmp_path)
    monkeypatch.setattr(
        hook_command,
        "_problem",
        lambda place, *rest, last: real(place, *rest, last=last) if place.startswith(inside) else None,
    )


def test_a_command_finds_the_facts_and_nothing_else_in_its_environment(device, tmp_path, own_place):
    out = tmp_path / "out"
    device.commands["renewal"] = script(
        tmp_path,
        "import json, os, sys\n"
        "facts = [dict(os.environ), os.getcwd(), sys.stdin.read()]\n"
        f"open({str(out)!r}, 'w').write(json.dumps(facts))",
    )

    async def main():
        async with device.running() as hooks:
            await device.tell(hooks, life(generation=3))
            hooks.observe(life(generation=4))
            await device.heard.until("ended well")

    trio.run(main)
    environ, directory, stdin = json.loads(out.read_text())
    assert environ.pop("PATH") == hook_command.PATH
    environ.pop("LC_CTYPE", None)  # Python's own
    assert environ == {
        "IDENTITYD_KIND": "renewal",
        "IDENTITYD_SEQUENCE": "40",
        "IDENTITYD_AT": "2026-09-21T14:13:20.000Z",
        "IDENTITYD_HUB": "hub.example",
        "IDENTITYD_DEVICE_ID": "d-1",
        "IDENTITYD_GENERATION": "4",
        "IDENTITYD_SOURCE": "issued",
        "IDENTITYD_CERTIFICATE_ID": "aziot-dps-identity-cert",
        "IDENTITYD_SHA256": "ab",
        "IDENTITYD_SERIAL": "7",
        "IDENTITYD_NOT_BEFORE": "2026-05-28T20:26:40.000Z",
        "IDENTITYD_NOT_AFTER": "2027-01-15T08:00:00.000Z",
    }
    assert (directory, stdin) == ("/", "")
    assert device.notes == []
    assert device.ended == [HookEnded(hook="renewal", outcome="done")]


def test_a_failure_is_noted_until_the_next_success(device, tmp_path, own_place):
    device.commands["renewal"] = script(tmp_path, "print('no such service'); raise SystemExit(3)")

    async def main():
        async with device.running() as hooks:
            await device.tell(hooks, life(generation=3))
            hooks.observe(life(generation=4))
            await device.heard.until("exit status 3")
            script(tmp_path, "pass")
            hooks.observe(life(generation=5))
            await device.heard.until("ended well")
            await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    assert device.notes == [
        f"hook renewal: {device.commands['renewal']} exit status 3; it said: no such service",
        None,
    ]
    assert device.ended == [
        HookEnded(hook="renewal", outcome="failed", message="exit status 3"),
        HookEnded(hook="renewal", outcome="done"),
    ]


def test_turns_during_a_command_come_to_one_more_run(device, tmp_path, own_place):
    log, go = tmp_path / "log", tmp_path / "go"
    os.mkfifo(go)
    device.commands["renewal"] = script(
        tmp_path,
        "import os\n"
        f"open({str(log)!r}, 'a').write(os.environ['IDENTITYD_GENERATION'] + ' ')\n"
        f"open({str(go)!r}).read()",
    )

    async def main():
        async with device.running() as hooks:
            await device.tell(hooks, life(generation=3))
            hooks.observe(life(generation=4))
            await device.heard.until("running")
            for generation in range(5, 10):
                await device.tell(hooks, life(generation=generation))
            for ended in (1, 2):
                await trio.to_thread.run_sync(go.write_text, "go")
                await device.heard.until("ended well", ended)

    trio.run(main)
    assert log.read_text() == "4 9 "


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import time; time.sleep(1000)", "did not end within 0.5 s and was ended"),
        ("while True: print('y' * 1000, flush=True)", "did not end within 0.5 s"),
        (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)",
            "did not end within 0.5 s",
        ),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\x1b[31m\\n\\n'); sys.exit(1)", "it said: \ufffd [31m"),
    ],
    ids=["sleeps", "talks", "deaf", "killed", "not-text"],
)
def test_commands_that_behave_badly(tmp_path, text, why):
    path = script(tmp_path, text)
    ended = trio.run(lambda: run_command(path, {}, within_s=0.5 if "within" in why else 60))
    assert ended.outcome == ("timeout" if "within" in why else "failed")
    problem = ended.problem
    assert why in problem
    assert len(problem) < 300


def test_what_is_left_in_the_background_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(hook_command, "GRACE_S", 0.05)
    pid = tmp_path / "pid"
    path = script(
        tmp_path,
        "import os, time\nchild = os.fork()\nif child: open("
        f"{str(pid)!r}, 'w').write(str(child)); os._exit(0)\ntime.sleep(1000)",
    )
    try:
        assert trio.run(lambda: run_command(path, {}, within_s=60)) == Ended("done")
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_service_that_stops_takes_its_command_along(tmp_path):
    started = tmp_path / "started"
    os.mkfifo(started)
    path = script(
        tmp_path,
        f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)",
    )

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run_command(path, {}, within_s=60))
            pid = int(await trio.to_thread.run_sync(started.read_text))
            nursery.cancel_scope.cancel()
        return pid

    with pytest.raises(ProcessLookupError):
        os.kill(trio.run(main), 0)


@pytest.mark.parametrize("content", [b"not a program", b"\x7fELF broken", b"#!/no/such/interpreter\n"])
def test_a_file_that_is_no_program(tmp_path, content):
    path = tmp_path / "hook"
    path.write_bytes(content)
    path.chmod(0o755)
    assert "cannot be run" in trio.run(lambda: run_command(str(path), {}, within_s=60)).why


# --- whom to trust -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("relative", "not a plain absolute path"),
        ("/usr/../bin/true", "not a plain absolute path"),
        ("//usr/bin/env", "not a plain absolute path"),
        ("/usr/bin/", "not a plain absolute path"),
        ("/usr/bin/no-such-program", "No such file"),
        ("/usr/bin/\0", "not a usable path"),
        ("/usr/bin", "not a plain file"),
        ("/dev/null", "not a plain file"),
        ("/etc/passwd", "may not be executed"),
        ("/" + "x" * 5000, "name too long"),
    ],
)
def test_paths_nobody_runs(path, why):
    assert why in untrusted(path)
    assert len(untrusted(path)) < 400


def test_a_program_of_the_system_is_trusted():
    assert untrusted(os.path.realpath("/usr/bin/env")) is None


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda place: (place / "hook").chmod(0o775), "written by others"),
        (lambda place: (place / "hook").chmod(0o757), "written by others"),
        (lambda place: place.chmod(0o777), "written by others"),
        (lambda place: (place / "hook").chmod(0o644), "may not be executed"),
        (lambda place: ((place / "hook").rename(place / "x"), (place / "hook").symlink_to("x")), "is a link"),
        (lambda place: ((place / "hook").unlink(), (place / "hook").mkdir()), "not a plain file"),
    ],
    ids=["group", "others", "directory", "mode", "link", "directory-itself"],
)
def test_what_others_could_have_changed_is_not_run(tmp_path, own_place, spoil, why):
    place = tmp_path / "safe"
    place.mkdir(mode=0o755)
    path = script(place, "pass")
    spoil(place)
    try:
        assert why in untrusted(path, owner=UID)
    finally:
        place.chmod(0o700)


def test_a_command_of_somebody_else_is_not_run_and_that_is_told(device, tmp_path):
    device.commands["renewal"] = script(tmp_path, "pass")

    async def main():
        async with device.running(owner=UID + 1) as hooks:
            await device.tell(hooks, life(generation=3))
            hooks.observe(life(generation=4))
            await device.heard.until("not run")
            await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    assert f"not run: {device.commands['renewal']} belongs to uid {UID}" in device.notes[-1]
    assert [one.outcome for one in device.ended] == ["refused"]
    assert device.stamp("renewal")["generation"] == 4, "the stamp needs nobody's leave"


def test_what_the_cloud_named_cannot_spoil_an_environment():
    facts = life(hub="a\0b\n" + "x" * 1000)
    (turn,) = [one for one in turns(TOLD, facts) if one.kind == "moved"]
    value = environment_of(turn)["IDENTITYD_HUB"]
    assert value.isprintable()
    assert len(value) <= 255
    assert value.startswith("a b x")
