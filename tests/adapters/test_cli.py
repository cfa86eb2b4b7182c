"""The command line as people type it, against a real socket: what is printed, where, with which status."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest
import trio

from adapters.__main__ import aziotctl, identityd, iotedge
from adapters.cli import control_client
from adapters.cli.arguments import AZIOTCTL, IDENTITYD, IOTEDGE, parser_for
from adapters.cli.screen import Ink, instant, span, status_screen
from adapters.driving.control import control_handler
from adapters.errors import AlreadyRunning, ConfigurationInvalid, StoreUnavailable
from adapters.ports import Taken
from adapters.simulators.cloud import CloudListening, CloudOptions
from adapters.wire.http_server import Response
from statemachine.events import (
    ClockObserved,
    HubRefusedCredential,
    ModuleKeysRequested,
    ShutdownRequested,
)
from statemachine.journal import Header, Record, decode_line, encode_line, head_lines
from statemachine.machine import RULES_REVISION, decide
from statemachine.snapshot import Snapshot
from statemachine.status import (
    AssignmentStatus,
    AttemptStatus,
    CredentialStatus,
    LastError,
    NextStatus,
    TrustBundleStatus,
)
from tests.adapters.unix_peer import Machine, serving

NOW = 1_795_572_000_000
"2026-11-25T02:00:00Z."

ASSIGNED = {"assignment": AssignmentStatus(hub="hub.test:8443", device_id="dev-1")}
ISSUED = ASSIGNED | {
    "credential": CredentialStatus(
        source="issued",
        generation=3,
        proven=True,
        serial="1f",
        not_after="2026-12-01T00:00:00Z",
    )
}
ERROR = LastError(
    failure_class="operator",
    code="dps-401",
    message="Unauthorized\x1b[2J",
    tracking_id="7ac5",
    retry_at="2026-11-25T02:00:00Z",
)
FAILED = {
    "attempt": AttemptStatus(number=4, last_error=ERROR),
    "reason": "the attempt failed; the next one is at 02:00",
}


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """Nothing of this machine leaks in."""
    for name in ("AZIOT_ROOT", "NO_COLOR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(control_client, "COME_BACK_S", 0)


@pytest.fixture
def run(tmp_path, capsys):
    """Types a command at a machine that listens below tmp_path: status, stdout, stderr."""

    def run(machine, *argv, entry=identityd, handler=None):
        handler = handler or control_handler(machine, own_uid=os.getuid(), machine=lambda: b"")

        async def main():
            async with serving(str(tmp_path / "run/aziot/control.sock"), handler):
                return await trio.to_thread.run_sync(entry, [*argv, "--root", str(tmp_path)])

        status = trio.run(main)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def course(machine, *positions, then=None):
    """Records an attempt: its events and positions, in order."""

    def record(event):
        for kind, state, phase in positions:
            effects = [{"type": "stage-key"}] if phase != "Idle" else []
            facts = {"type": kind} if isinstance(kind, str) else kind
            machine.record(facts, state=state, phase=phase, effects=effects)
            machine.state, machine.phase = state, phase
        machine.fields = then or {}

    machine.on_command = record


def renewal(machine, then=ISSUED):
    course(
        machine,
        ("renew-requested", "Renewing", "Staging"),
        ("key-staged", "Renewing", "Submitting"),
        ("credential-committed", "Renewing", "Retiring"),
        ("credential-retired", "Provisioned", "Idle"),
        then=then,
    )


def failing(machine):
    course(
        machine,
        ("reprovision-requested", "Reprovisioning", "Submitting"),
        ({"type": "registration-failed", "class": "operator", "code": "dps-401"}, "Reprovisioning", "Idle"),
        then=FAILED,
    )


# --- status ------------------------------------------------------------------------------------------


def test_status(run):
    machine = Machine()
    machine.fields = ISSUED
    status, out, err = run(machine, "status")
    assert (status, err) == (0, "")
    assert out.startswith("Provisioned since 2026-11-25 01:20:11Z (")
    assert "hub           hub.test:8443" in out
    assert "issued, generation 3, serial 1f, valid to 2026-12-01 00:00:00Z" in out
    assert "\x1b" not in out


def test_status_json(run):
    machine = Machine()
    status, out, _ = run(machine, "status", "--json")
    assert status == 0
    assert msgspec.json.decode(out)["state"] == "Provisioned"
    assert out.count("\n") == 1


def test_status_of_trouble():
    machine = Machine()
    machine.state, machine.phase = "Reprovisioning", "Polling"
    machine.fields = ISSUED | {
        "stuck": True,
        "reason": "DPS refuses the key\x1b[31m",
        "degraded": ("journal set aside",),
        "attempt": AttemptStatus(number=4, started="2026-11-25T01:20:00Z", last_error=ERROR),
        "next": NextStatus(what="the next attempt", at="2026-11-25T02:00:00Z"),
        "trust_bundle": TrustBundleStatus(id="aziot-dps-trust-bundle", certificates=1, sha256="00"),
    }
    plain = "\n".join(status_screen(machine.status(), Ink(io.StringIO()), now_unix_ms=NOW))
    assert plain.splitlines()[:3] == [
        "Reprovisioning, Polling since 2026-11-25 01:20:11Z (39 min 48 s ago)",
        "  help needed DPS refuses the key [31m",
        "  degraded journal set aside",
    ]
    assert "next          the next attempt, 2026-11-25 02:00:00Z (in 0 s)" in plain
    assert "attempt       number 4, begun 2026-11-25 01:20:00Z (40 min ago)" in plain
    assert "last error    dps-401 (operator): Unauthorized [2J, tracking id 7ac5" in plain
    assert "trust bundle  aziot-dps-trust-bundle, 1 certificate" in plain


@pytest.mark.parametrize("columns", [24, 40, 60, 80])
def test_status_is_broken_to_the_columns_of_a_terminal(columns):
    machine = Machine()
    machine.fields = ISSUED | FAILED | {"stuck": True, "reason": "help " * 30, "degraded": ("a note " * 20,)}
    whole = list(status_screen(machine.status(), Ink(io.StringIO()), now_unix_ms=NOW))
    broken = list(status_screen(machine.status(), Ink(io.StringIO()), now_unix_ms=NOW, columns=columns))
    assert max(map(len, broken)) <= columns
    assert " ".join(" ".join(broken).split()) == " ".join(" ".join(whole).split())


@pytest.mark.parametrize(
    ("terminal", "environ", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_only_on_a_terminal(terminal, environ, coloured):
    stream = SimpleNamespace(isatty=lambda: terminal)
    text = "\n".join(status_screen(Machine().status(), Ink(stream, environ)))
    assert ("\x1b[" in text) == coloured


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (3_661_000, "1 h 1 min"),
        (86_400_000, "1 d"),
        (90_000_000_000, "1041 d 16 h"),
    ],
)
def test_spans(ms, text):
    assert span(ms) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1970-01-01T00:01:00Z", "1970-01-01 00:01:00Z (in 1 min)"),
        ("1970-01-01T02:00:00+02:00", "1970-01-01 00:00:00Z (in 0 s)"),
        ("soon", "soon"),
    ],
)
def test_instants(text, shown):
    assert instant(text, 0) == shown


# --- nobody there, somebody else there ---------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["status", "watch", "explain", "renew", "reprovision", "module-keys push"]
)
def test_no_service(command, tmp_path, capsys):
    assert identityd([*command.split(), "--root", str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert f"no service answers at {tmp_path}/run/aziot/control.sock (No such file or directory)" in err
    assert "identityd run" in err


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (Response(200, b"<html>"), "answers in a way unknown here"),
        (Response(200, b"{}"), "answers in a way unknown here"),
        (Response(404, b'{"message": "not\\u001b found"}'), "identityd: not  found"),
        (Response(500, b"oops"), "answered 500; is it the control socket"),
    ],
)
def test_another_service(run, response, message):
    async def handler(request):
        return response

    status, out, err = run(Machine(), "status", handler=handler)
    assert (status, out) == (1, "")
    assert message in err


def test_the_root_of_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("AZIOT_ROOT", "/nowhere")
    assert identityd(["status"]) == 3
    assert "/nowhere/run/aziot/control.sock" in capsys.readouterr().err


def test_root_before_the_command(capsys):
    assert identityd(["--root", "/nowhere", "status"]) == 3
    assert "/nowhere/run/aziot/control.sock" in capsys.readouterr().err


def test_a_root_too_long_for_a_socket(capsys):
    assert identityd(["status", "--root", "/" + "d" * 100]) == 2
    assert "a Unix socket path holds 107" in capsys.readouterr().err


# --- renew and reprovision ---------------------------------------------------------------------------


def test_renew_follows_to_the_end(run):
    machine = Machine()
    renewal(machine)
    status, out, err = run(machine, "renew")
    assert (status, err) == (0, "")
    moves = [line.split("  ")[1] for line in out.splitlines()[:-1]]
    assert moves == ["Renewing, Staging", "Renewing, Submitting", "Renewing, Retiring", "Provisioned"]
    assert out.splitlines()[-1] == (
        "renew done: dev-1 at hub.test:8443, certificate valid to 2026-12-01T00:00:00Z"
    )


def test_without_a_certificate(run):
    machine = Machine()
    configured = CredentialStatus(source="configured", generation=4, proven=True)
    renewal(machine, then=ASSIGNED | {"credential": configured})
    assert "no certificate was issued" in run(machine, "renew")[1]


def test_renew_json(run):
    machine = Machine()
    renewal(machine)
    status, out, _ = run(machine, "renew", "--json")
    assert status == 0
    told = msgspec.json.decode(out)
    assert (told["outcome"], told["sequence"], told["state"], told["error"]) == (
        "done",
        1,
        "Provisioned",
        None,
    )


def test_nothing_to_do(run):
    machine = Machine()
    machine.taken = Taken(sequence=1, verdict="taken", why="Its result stands.")
    course(machine, ("reprovision-requested", "CertExpiring", "Idle"))
    status, out, _ = run(machine, "reprovision")
    assert status == 0
    assert out.endswith("reprovision done: Its result stands.\n")


def test_a_failed_attempt(run):
    machine = Machine()
    failing(machine)
    status, _, err = run(machine, "reprovision")
    assert status == 1
    assert "dps-401 (operator): Unauthorized [2J, tracking id 7ac5" in err
    assert "reprovision failed. Now: the attempt failed; the next one is at 02:00" in err


def test_a_failed_attempt_json(run):
    machine = Machine()
    failing(machine)
    status, out, err = run(machine, "reprovision", "--json")
    assert (status, err) == (1, "")
    told = msgspec.json.decode(out)
    assert told["outcome"] == "failed"
    assert told["error"]["class"] == "operator"
    assert told["error"]["tracking_id"] == "7ac5"


def test_a_failure_that_ends_provisioned_is_a_failure(run):
    machine = Machine()
    course(
        machine,
        ("renew-requested", "Renewing", "Submitting"),
        ("registration-assigned", "Provisioned", "Idle"),
        then=ISSUED | FAILED,
    )
    assert run(machine, "renew")[0] == 1


def test_joining_an_attempt_that_is_already_retiring(run):
    machine = Machine()
    course(
        machine,
        ("renew-requested", "Renewing", "Retiring"),
        ("credential-retire-failed", "Provisioned", "Idle"),
    )
    assert run(machine, "renew")[0] == 0


@pytest.mark.parametrize(
    ("taken", "status", "message"),
    [
        (
            Taken(sequence=1, verdict="ignored", why="Nothing to renew."),
            1,
            "renew ignored: Nothing to renew.",
        ),
        (Taken(sequence=1, verdict="refused", why="Attempts are on hold."), 1, "Attempts are on hold."),
    ],
)
def test_not_taken(run, taken, status, message):
    machine = Machine()
    machine.taken = taken
    got, out, err = run(machine, "renew")
    assert (got, out) == (status, "")
    assert message in err


def test_journal_unavailable(run):
    machine = Machine()
    machine.unavailable = StoreUnavailable("disk full", code="journal-unavailable")
    status, _, err = run(machine, "renew")
    assert status == 1
    assert "disk full" in err


def test_no_wait(run):
    machine = Machine()
    machine.taken = Taken(sequence=9, verdict="taken", why="A renewal begins.")
    status, out, _ = run(machine, "renew", "--no-wait")
    assert (status, out) == (0, "renew running: A renewal begins.\n")


def test_not_ended_in_time(run):
    machine = Machine()
    course(machine, ("renew-requested", "Renewing", "Polling"))
    status, out, _ = run(machine, "renew", "--timeout", "0.05")
    assert status == 1
    assert "not ended after 0.05 s (Renewing, Polling); it goes on" in out


def test_a_restart_in_between(run):
    """The stream ends, the client comes back and asks for what it has not seen."""
    machine = Machine()
    renewal(machine)
    first = machine.on_command
    held = []

    def interrupted(event):
        first(event)
        held.extend(machine.lines[2:])
        del machine.lines[2:]

    connections = []

    def before_stored():
        connections.append(1)
        if len(connections) == 1:
            machine.end()
        else:
            machine.lines.extend(held)

    machine.on_command = interrupted
    machine.before_stored = before_stored
    status, out, _ = run(machine, "renew")
    assert status == 0
    assert len(connections) == 2
    assert out.count("Renewing, Staging") == 1
    assert "Renewing, Retiring" in out


def test_a_service_that_stays_away(run, monkeypatch, caplog):
    monkeypatch.setattr(control_client, "GONE_S", -1)
    caplog.set_level("CRITICAL")
    machine = Machine()
    course(machine, ("renew-requested", "Renewing", "Polling"))
    answers = control_handler(machine, own_uid=0, machine=lambda: b"")

    async def cut():
        raise OSError("cut")
        yield b""

    async def handler(request):
        return Response(200, stream=cut()) if request.path == "/v1/events" else await answers(request)

    status, _, err = run(machine, "renew", handler=handler)
    assert status == 3
    assert "no service answers" in err


def test_a_journal_that_cannot_be_read(run):
    machine = Machine()
    machine.on_command = lambda event: machine.lines.append(StoreUnavailable("I/O error", code="x"))
    status, _, err = run(machine, "renew")
    assert status == 1
    assert "cannot read its journal: I/O error" in err


@pytest.mark.parametrize("entry", [aziotctl, iotedge])
def test_the_habits_people_have(run, entry):
    machine = Machine()
    renewal(machine)
    assert run(machine, "system", "reprovision", entry=entry) == (
        0,
        "Successfully reprovisioned with IoT Hub.\n",
        "",
    )
    machine = Machine()
    failing(machine)
    status, out, err = run(machine, "system", "reprovision", entry=entry)
    assert (status, out) == (1, "")
    told = "Failed to reprovision: dps-401 (operator): Unauthorized [2J, tracking id 7ac5"
    assert err == f"{entry.__name__}: {told}\n"


def test_ctrl_c_while_waiting_says_that_it_goes_on(run, monkeypatch):
    machine = Machine()
    course(machine, ("renew-requested", "Renewing", "Staging"))
    machine.before_stored = machine.end

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(control_client.time, "sleep", interrupt)
    status, _, err = run(machine, "renew")
    assert (status, err) == (130, "no longer waiting: renew goes on, `identityd status` tells how\n")


# --- module-keys push --------------------------------------------------------------------------------

PUSHED = {"type": "module-keys-pushed", "modules": 3}
NOT_PUSHED = {
    "type": "module-keys-push-failed",
    "class": "wait",
    "code": "hub-429",
    "message": "slow down\x1b[2J",
    "tracking_id": "7ac5",
}


def pushing(machine, answer):
    """The device renews meanwhile; the answer comes in the middle of that."""
    course(
        machine,
        ("module-keys-requested", "Renewing", "Polling"),
        ("credential-retired", "Provisioned", "Idle"),
        *((answer, "Provisioned", "Idle") for _ in range(answer is not None)),
        then={"reason": "the master key is missing"},
    )


def test_a_push_waits_for_its_own_answer(run):
    machine = Machine()
    pushing(machine, PUSHED)
    assert run(machine, "module-keys", "push") == (
        0,
        "module-keys push done: new keys pushed to 3 modules\n",
        "",
    )
    assert machine.commands == [ModuleKeysRequested(uid=os.getuid())]


def test_a_push_that_fails(run):
    machine = Machine()
    pushing(machine, NOT_PUSHED)
    status, out, err = run(machine, "module-keys", "push")
    assert (status, out) == (1, "")
    assert err == (
        "hub-429 (wait): slow down [2J, tracking id 7ac5\n"
        "module-keys push failed. Now: the master key is missing\n"
    )


@pytest.mark.parametrize(("answer", "outcome"), [(PUSHED, "done"), (NOT_PUSHED, "failed")])
def test_a_push_json(run, answer, outcome):
    machine = Machine()
    pushing(machine, answer)
    status, out, err = run(machine, "module-keys", "push", "--json")
    assert (status, err) == (0 if outcome == "done" else 1, "")
    told = msgspec.json.decode(out)
    assert (told["outcome"], told["state"], told["error"] is None) == (
        outcome,
        "Provisioned",
        outcome == "done",
    )


def test_a_push_that_takes_longer_than_somebody_waits(run):
    machine = Machine()
    pushing(machine, None)
    status, out, _ = run(machine, "module-keys", "push", "--timeout", "0.05")
    assert (status, out) == (1, "module-keys push running: not ended after 0.05 s; it goes on\n")


def test_an_answer_to_nothing_is_not_waited_for(run):
    """A record that the machine ignored says nothing about this push."""
    machine = Machine()
    pushing(machine, NOT_PUSHED)
    first = machine.on_command

    def stale(event):
        first(event)
        machine.lines[-1] = machine.lines[-1].replace(b'"taken"', b'"ignored"')
        machine.record(PUSHED)

    machine.on_command = stale
    assert run(machine, "module-keys", "push")[0] == 0


def test_a_push_nobody_waits_for(run):
    machine = Machine()
    status, out, _ = run(machine, "module-keys", "push", "--no-wait")
    assert (status, out) == (0, "module-keys push running: begins now\n")


def test_a_push_that_is_refused(run):
    machine = Machine()
    machine.taken = Taken(sequence=1, verdict="refused", why="No hub would take module keys now.")
    status, out, err = run(machine, "module-keys", "push")
    assert (status, out) == (1, "")
    assert "No hub would take module keys now." in err


def test_ctrl_c_while_a_push_is_waited_for(run, monkeypatch):
    machine = Machine()
    pushing(machine, None)
    machine.before_stored = machine.end

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(control_client.time, "sleep", interrupt)
    status, _, err = run(machine, "module-keys", "push")
    assert (status, err) == (
        130,
        "no longer waiting: module-keys push goes on, `identityd status` tells how\n",
    )


# --- watch -------------------------------------------------------------------------------------------


def test_watch_json_until_ctrl_c(run, monkeypatch):
    machine = Machine()
    for _ in range(14):
        machine.record()
    machine.before_stored = machine.end

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(control_client.time, "sleep", interrupt)
    status, out, err = run(machine, "watch", "--json")
    assert (status, err) == (0, "")
    assert [msgspec.json.decode(line)["sequence"] for line in out.splitlines()] == list(range(5, 15))
    status, out, _ = run(machine, "watch", "--json", "--from", "14")
    assert out.splitlines() == [machine.lines[13].decode()]


def test_watch_tells_a_story(run, monkeypatch, history):
    machine = Machine()
    machine.lines = list(history)
    machine.record({"type": "event-of-tomorrow"})
    machine.before_stored = machine.end

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(control_client.time, "sleep", interrupt)
    status, out, err = run(machine, "watch")
    assert (status, err) == (0, "")
    headline, empty, *told = out.splitlines()
    assert headline.startswith("Provisioned since 2026-11-25")
    assert empty == ""
    assert [line.split()[1] for line in told[:3]] == ["1", "2", "3"]
    assert "clock observed" in told[0]
    assert "shutdown requested" in told[2]
    assert told[3].endswith("Provisioned/Idle event-of-tomorrow")


def test_explain(run):
    machine = Machine()
    machine.fields = ISSUED | {"reason": "The certificate is valid.", "degraded": ("one\x07thing",)}
    status, out, err = run(machine, "explain")
    assert (status, err) == (0, "")
    assert re.match(r"Provisioned since 2026-11-25 01:20:11Z \(.*\)\. The certificate is valid\.\n", out)
    assert "The device is dev-1 at hub.test:8443." in out
    assert "one thing" in out
    status, out, _ = run(machine, "explain", "--json")
    assert len(msgspec.json.decode(out)["story"]) >= 4


# --- journals ----------------------------------------------------------------------------------------


@pytest.fixture
def history():
    """Three records as the service would have written them."""
    return list(journal_lines()[2:])


def journal_lines(events=None):
    snapshot = Snapshot()
    header = Header(
        rules_revision=RULES_REVISION,
        software_version="0.1.0",
        machine="m",
        device="dev-1",
        epoch=snapshot.epoch,
        first_sequence=1,
        created_unix_ms=NOW,
    )
    lines, digest = head_lines(header, snapshot)
    lines = list(lines)
    for event in events or (
        ClockObserved(kernel_synchronised=True),
        HubRefusedCredential(generation=1, code="hub-401"),
        ShutdownRequested(reason="SIGTERM"),
    ):
        decision = decide(snapshot, event, NOW)
        snapshot = decision.snapshot
        record = Record(
            sequence=snapshot.sequence,
            now_unix_ms=NOW,
            event=event,
            effects=decision.effects,
            state=snapshot.state.value,
            phase=snapshot.phase.value,
            verdict=decision.verdict,
            why=decision.why,
        )
        line, digest = encode_line(record, digest)
        lines.append(line)
    return lines


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "var/lib/aziot/identityd/journal.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(journal_lines()))
    return path


def test_replay(journal, tmp_path, capsys):
    for where in ([str(journal)], ["--root", str(tmp_path)]):
        assert identityd(["replay", *where]) == 0
        assert capsys.readouterr().out == "equal: 3 records replay to the same effects and positions\n"
    assert identityd(["replay", str(journal), "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert told == {"equal": True, "records": 3, "divergence": None}


def test_replay_of_other_decisions(tmp_path, capsys, monkeypatch):
    lines = journal_lines()
    last = msgspec.structs.replace(decode_line(lines[-1]), state="Provisioned")
    path = tmp_path / "divergent.jsonl"
    path.write_bytes(b"".join([*lines[:-1], encode_line(last, lines[-2][-67:-3].decode())[0]]))
    assert identityd(["replay", str(path)]) == 1
    out = capsys.readouterr().out
    assert "sequence 3: state differ" in out
    assert '- "Provisioned"' in out


def test_replay_of_damage(journal, capsys):
    journal.write_bytes(journal.read_bytes().replace(b"hub-401", b"hub-403"))
    assert identityd(["replay", str(journal)]) == 2
    assert "line 4: its hash does not follow" in capsys.readouterr().err


def test_journal_show(journal, tmp_path, capsys, monkeypatch):
    assert identityd(["journal", "show", "--root", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in told] == ["1", "2", "3"]
    assert identityd(["journal", "show", str(journal), "--from", "3", "--json"]) == 0
    assert capsys.readouterr().out.encode() == journal_lines()[-1]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(journal.read_bytes())))
    assert identityd(["journal", "show", "-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_journal_files_are_read_in_order(journal, tmp_path, capsys):
    for first in ("000000000010", "000000000009"):
        (journal.parent / f"journal-{first}.jsonl").write_bytes(b'{"type":"header"}\n')
    (journal.parent / "journal-damaged.jsonl.1").write_bytes(b"x")
    assert identityd(["replay", "--root", str(tmp_path)]) == 2
    assert "journal-000000000009.jsonl: line 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["replay"], ["journal", "show"]])
def test_journals_that_are_not_there(command, tmp_path, capsys):
    assert identityd([*command, "--root", str(tmp_path)]) == 2
    assert "No such file or directory; name the files" in capsys.readouterr().err
    (tmp_path / "var/lib/aziot/identityd").mkdir(parents=True)
    assert identityd([*command, "--root", str(tmp_path)]) == 2
    assert "there is no journal in" in capsys.readouterr().err
    assert identityd([*command, "/no/such/file"]) == 2
    assert "cannot read /no/such/file: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("garbage", [b"\x00\xff\n", b"\x00\xff"])
def test_show_of_garbage(garbage, tmp_path, capsys):
    (tmp_path / "g").write_bytes(garbage)
    assert identityd(["journal", "show", str(tmp_path / "g")]) == 2
    assert "/g, line 1, is not a journal line" in capsys.readouterr().err


def test_a_last_line_that_is_cut_off_is_left_out(journal, capsys):
    journal.write_bytes(journal.read_bytes()[:-10])
    assert identityd(["journal", "show", str(journal)]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err == f"identityd: {journal}: its last line is cut off, and left out\n"


def test_a_journal_of_somebody_else(tmp_path, monkeypatch, capsys):
    def refused(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.listdir", refused)
    assert identityd(["replay", "--root", str(tmp_path)]) == 2
    assert "Permission denied; use sudo" in capsys.readouterr().err


# --- the stand-in cloud ------------------------------------------------------------------------------


@pytest.mark.parametrize("matches", [True, False])
def test_cloud(matches, monkeypatch, capsys):
    seen = []

    async def run_cloud(options, *, on_listening):
        seen.append(options)
        on_listening(
            CloudListening(
                endpoint="https://localhost:1",
                ca_file="/r/ca",
                config="/r/c",
                config_written=True,
                config_matches=matches,
            )
        )
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()

    monkeypatch.setattr("adapters.cli.cloud.run_cloud", run_cloud)
    numbers = ["--port", "8443", "--cert-lifetime", "60", "--retry-after", "0", "--assigning", "2"]
    words = ["--no-identity-certs", "--api-version", "2019-03-31"]
    assert identityd(["cloud", "--root", "/r", *numbers, *words]) == 0
    said = capsys.readouterr()
    assert msgspec.json.decode(said.out)["endpoint"] == "https://localhost:1"
    assert ("/r/c names another cloud" in said.err) is not matches
    assert seen == [
        CloudOptions(
            root="/r",
            port=8443,
            cert_lifetime_s=60.0,
            retry_after_s=None,
            assigning=2,
            identity_certs=False,
            api_version="2019-03-31",
        )
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "below a --root DIR"),
        (["--root", "/"], "never runs on the system itself"),
        (["--root", "{tmp}", "--faults", "/no/such"], "the faults in /no/such cannot be read"),
    ],
)
def test_cloud_that_cannot_run(argv, message, tmp_path, capsys):
    assert identityd(["cloud", *(one.replace("{tmp}", str(tmp_path)) for one in argv)]) == 2
    assert message in capsys.readouterr().err


# --- the rest ----------------------------------------------------------------------------------------


def test_diagrams(capsys):
    assert identityd(["diagram"]) == 0
    lifecycle = capsys.readouterr().out
    assert lifecycle.startswith("stateDiagram-v2\n    [*] --> Unprovisioned\n")
    assert "    Provisioned --> CertExpiring: " in lifecycle
    assert "window due" in lifecycle
    assert identityd(["diagram", "--table", "attempt"]) == 0
    assert "    [*] --> Idle" in capsys.readouterr().out
    assert identityd(["diagram", "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert told["lifecycle"]["positions"][0] == "Unprovisioned"
    assert all(row["why"] for row in told["attempt"]["rows"])


def running(outcome):
    def main(*, root, metrics_file):
        assert metrics_file is None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if root == "/r" else 99

    return SimpleNamespace(main=main)


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (AlreadyRunning("/r/var", 12), 1, "/r/var is in use by process 12; stop it first"),
        (ConfigurationInvalid("/r/c", ("one is wrong", "two too")), 2, "identityd: two too"),
        (StoreUnavailable("cannot bind", code="socket"), 1, "identityd: cannot bind (socket)"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_run(outcome, status, message, monkeypatch, capsys):
    if isinstance(outcome, KeyboardInterrupt):

        def main(*, root, metrics_file):
            raise outcome

        service = SimpleNamespace(main=main)
    else:
        service = running(outcome)
    monkeypatch.setitem(sys.modules, "adapters.service", service)
    assert identityd(["run", "--root", "/r"]) == status
    assert message in capsys.readouterr().err


def test_the_metrics_file_is_where_it_was_said(monkeypatch, tmp_path):
    seen = []
    service = SimpleNamespace(main=lambda *, root, metrics_file: seen.append(metrics_file) or 0)
    monkeypatch.setitem(sys.modules, "adapters.service", service)
    monkeypatch.chdir(tmp_path)
    assert identityd(["run", "--metrics-file", "m.prom"]) == 0
    assert seen == [str(tmp_path / "m.prom")]


def test_demo_is_handed_its_options(monkeypatch):
    seen = []
    demo = SimpleNamespace(main=lambda args: seen.append((args.root, args.once, args.json)) or 0)
    monkeypatch.setitem(sys.modules, "adapters.cli.demo", demo)
    assert identityd(["demo", "--root", "/r", "--once"]) == 0
    assert seen == [("/r", True, False)]


EVERY = [
    (entry, command)
    for entry, commands in ((identityd, IDENTITYD), (aziotctl, AZIOTCTL), (iotedge, IOTEDGE))
    for command in commands
]


@pytest.mark.parametrize(("entry", "command"), EVERY)
def test_every_command_has_help_with_an_example(entry, command, capsys):
    with pytest.raises(SystemExit) as left:
        entry([*command.words.split(), "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert f"example:\n  {command.example}\n" in out
    assert "3 service unreachable" in out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["stat"],
        ["nonsense"],
        ["status", "--jso"],
        ["journal"],
        ["renew", "--timeout", "0"],
        ["renew", "--timeout", "nan"],
        ["renew", "--timeout", "x"],
        ["watch", "--from", "0"],
        ["cloud", "--port", "65536"],
        ["diagram", "--table", "none"],
    ],
)
def test_usage(argv, capsys):
    with pytest.raises(SystemExit) as left:
        identityd(argv)
    assert left.value.code == 2
    assert "usage: identityd" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        identityd(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("identityd ")


def test_only_the_chosen_command_is_imported():
    """A status asked for in a loop must not pay for a server."""
    code = (
        "import sys, adapters.__main__ as m; from adapters.cli.arguments import *\n"
        "parser_for('identityd', IDENTITYD).parse_args(['status']); print(*sys.modules); "
        "m.identityd(['status', '--root', '/nowhere']); print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = (set(line.split()) for line in out.splitlines())
    assert not before & {"msgspec", "trio", "json", "http.client", "statemachine"}
    assert "http.client" in after
    assert not after & {"trio", "h11", "cryptography", "transitions", "statemachine.events"}


def test_a_reader_that_has_seen_enough(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "adapters", "diagram", "--json"]
    with open(write, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_that_cannot_be_written(tmp_path):
    command = [sys.executable, "-m", "adapters", "diagram", "--json"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    told = b"identityd: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_other_errors_are_not_taken_for_the_outputs(monkeypatch):
    def failing(args):
        raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

    monkeypatch.setattr("adapters.cli.diagram.main", failing)
    with pytest.raises(OSError, match="/some/file"):
        identityd(["diagram"])


def test_output_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert identityd(["diagram"]) == 0
    sys.stdout.close()


def test_ctrl_c_at_the_very_start(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("adapters.__main__.parser_for", interrupted)
    assert identityd([]) == 130


@pytest.mark.parametrize(
    ("raised", "seen"), [(KeyboardInterrupt(), KeyboardInterrupt), (ValueError(), ExceptionGroup)]
)
def test_ctrl_c_while_the_service_starts(raised, seen, tmp_path, monkeypatch):
    from adapters import service

    async def serving(*_):
        raise BaseExceptionGroup("", [raised])

    (tmp_path / "etc/aziot").mkdir(parents=True)
    (tmp_path / "etc/aziot/config.toml").write_text('[provisioning]\nsource = "none"\n')
    monkeypatch.setattr(service, "_serve", serving)
    with pytest.raises(seen):
        service.main(root=str(tmp_path))


def test_a_sequence_has_no_largest_for_people(capsys):
    with pytest.raises(SystemExit):
        identityd(["watch", "--from", "x"])
    assert "a number of 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20", 20), ("20s", 20), ("0.5s", 0.5), ("5m", 300), ("2h", 7_200), ("30d", 2_592_000)],
)
def test_durations(text, seconds):
    args = parser_for("identityd", IDENTITYD).parse_args(["cloud", "--cert-lifetime", text])
    assert args.cert_lifetime == seconds


@pytest.mark.parametrize("text", ["", "s", "0", "nan", "inf", "20x", "9999999d", "1e999s"])
def test_what_is_no_duration(text, capsys):
    with pytest.raises(SystemExit) as caught:
        parser_for("identityd", IDENTITYD).parse_args(["cloud", "--cert-lifetime", text])
    assert caught.value.code == 2
    assert "is not a duration such as 20, 20s, 5m or 2h" in capsys.readouterr().err
