"""The demo as people run it: real processes, watched from outside; and how it puts records into words."""

import contextlib
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest

from adapters.__main__ import identityd
from adapters.cli import demo_once
from adapters.cli.demo_checks import CHECKS, Check, Checks, Said
from adapters.cli.demo_once import check_lines
from adapters.cli.demo_screen import Begin, JsonLines, Screen, Suggestion, Try
from adapters.cli.failure import CommandFailed
from adapters.cli.happenings import Happening, Timeline, Validity
from adapters.cli.screen import Ink
from statemachine.effects import (
    AnyEffect,
    ArmDeadline,
    ArmDelay,
    CommitCredential,
    PollRegistration,
    ProveCredential,
    RetireCredential,
    StageKey,
    SubmitRegistration,
)
from statemachine.events import (
    AnyEvent,
    BundleFacts,
    ChainFacts,
    ClockObserved,
    CredentialCommitted,
    CredentialProven,
    CredentialRetired,
    DeadlinePassed,
    Inventory,
    KeyStaged,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
    ReprovisionRequested,
    ShutdownRequested,
    Started,
    StoredCredential,
)
from statemachine.journal import Record
from statemachine.settings import PolicySettings
from statemachine.status import (
    ClockStatus,
    CredentialStatus,
    NextStatus,
    OnboardingStatus,
    Status,
)
from tests.service.device import WITHIN_S, Process, short_root

NOW = 1_795_572_000_000
"2026-11-25T02:00:00Z."


# --- real processes ----------------------------------------------------------------------------------


def children(root: Path | str) -> list[int]:
    """Everything that runs with that directory on its command line, the demo itself left out."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"adapters.cli.demo_child" in words and str(root).encode() in words:
                found.append(int(entry.name))
    return found


def until_gone(*pids: int) -> None:
    """No child of ours, so not to be waited for; a pidfd becomes readable when its process ends."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([handle], [], [], WITHIN_S)[0], f"{pid} still runs"
        finally:
            os.close(handle)


def told(process: Process, kind: str) -> list[dict]:
    """The JSON Lines of that type."""
    lines = [json.loads(line) for line in process.lines if line.startswith("{")]
    return [line for line in lines if line["type"] == kind]


@pytest.fixture
def root():
    with short_root() as path:
        yield path


def test_once_leads_a_whole_life_in_time_and_says_what_it_checked(root):
    demo = Process("demo", "--once", "--json", "--root", str(root))
    assert demo.wait(50) == 0, demo.log
    checks = told(demo, "check")
    assert {check["chapter"]: None for check in checks} == dict.fromkeys(CHECKS)
    assert [check["name"] for check in checks] == [name for row in CHECKS.values() for name in row]
    assert all(check["ok"] for check in checks)
    (result,) = told(demo, "result")
    assert result["ok"]
    assert result["failed"] == []
    assert result["kept"] == str(root)
    assert result["seconds"] <= 45
    assert json.loads(demo.lines[-1]) == result
    assert children(root) == []
    assert "earliest_percent = 50" in (root / "etc/aziot/config.toml").read_text()  # config/demo.toml


def test_the_live_demo_tells_what_to_try_survives_a_crash_and_leaves_nothing():
    demo = Process("demo", "--json")
    suggested = {one["about"]: one["line"] for one in json.loads(demo.until_line('"try"'))["lines"]}
    (begin,) = told(demo, "begin")
    where = begin["root"]
    assert sorted(children(where)) == sorted([begin["cloud_pid"], begin["service_pid"]])
    assert told(demo, "happening")[-1]["renewed"]

    if shutil.which("curl"):
        curls = [line for line in suggested.values() if line.startswith("curl --unix-socket")]
        answers = [subprocess.check_output(shlex.split(line), timeout=WITHIN_S) for line in curls]
        assert answers[0] == answers[1]
        assert json.loads(answers[0])["pem"].startswith("-----BEGIN CERTIFICATE-----")
        assert json.loads(answers[2])["assignment"]["device_id"] == begin["device"]

    kill = suggested["a crash; it goes on where it was"]
    assert kill == f"kill -9 {begin['service_pid']}"
    os.kill(begin["service_pid"], signal.SIGKILL)
    demo.until_line("runs again")
    assert "killed by signal 9" in told(demo, "note")[0]["text"]
    demo.until_line("service starts, renews", "service starts, makes", "service starts, attempt")

    demo.send(signal.SIGINT)
    assert demo.wait() == 0
    assert children(where) == []
    until_gone(begin["cloud_pid"], begin["service_pid"])
    assert not Path(where).exists()
    assert told(demo, "end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_interrupted_life_stops_its_children_and_keeps_what_happened(number):
    demo = Process("demo", "--once")
    where = demo.until_line("A whole life below").split()[4].rstrip(",")
    demo.until_line("belong together")
    running = children(where)
    assert len(running) == 2
    demo.send(number)
    assert demo.wait() == 130
    until_gone(*running)
    assert f"kept in {where}" in demo.log
    shutil.rmtree(where)


def test_the_children_of_a_killed_demo_end_with_it(root):
    demo = Process("demo", "--json", "--root", str(root))
    demo.until_line('"Provisioned"')
    running = children(root)
    demo.kill()
    assert len(running) == 2
    until_gone(*running)


def test_a_used_root_is_gone_on_with(root):
    first = Process("demo", "--json", "--root", str(root))
    first.until_line('"Provisioned"')
    first.send(signal.SIGINT)
    assert first.wait() == 0
    assert "goes on from here" in first.log
    second = Process("demo", "--json", "--root", str(root))
    line = json.loads(second.until_line('"happening"'))
    second.send(signal.SIGINT)
    second.wait()
    assert line["what"].startswith("service starts")
    assert line["sequence"] > told(first, "happening")[-1]["sequence"]
    assert line["certificate"]["serial"] == told(first, "happening")[-1]["certificate"]["serial"]


def test_a_service_that_does_not_stay_is_told_with_the_end_of_its_log(root):
    demo = Process("demo", "--json", "--root", str(root))
    demo.until_line('"begin"')
    (begin,) = told(demo, "begin")
    os.kill(begin["service_pid"], signal.SIGTERM)
    assert demo.wait() == 1
    assert "the service ended with 0 right after its start; the end of" in demo.log
    assert "level=info msg=STOPPED" in demo.log
    until_gone(begin["cloud_pid"])


def test_a_life_that_takes_too_long_fails_honestly(monkeypatch, capsys, root):
    monkeypatch.setattr(demo_once, "LIMIT_S", 0.01)
    assert identityd(["demo", "--once", "--json", "--root", str(root)]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    checks = [line for line in lines if line["type"] == "check"]
    assert checks[0]["seen"] == "not held within 0.01 s"
    assert {check["seen"] for check in checks[1:]} == {"not reached"}
    assert not lines[-1]["ok"]
    assert len(lines[-1]["failed"]) == len(checks)
    assert children(root) == []


# --- where -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "arguments", "why"),
    [
        (lambda root: "/", [], "never runs on the system itself"),
        (lambda root: f"{root}/..//../{'../' * 20}", [], "never runs on the system itself"),
        (lambda root: str(root / ("x" * 100)), [], "a Unix socket path holds 107"),
        (lambda root: _used(root, "cloud"), ["--once"], "is not empty"),
        (lambda root: _used(root, "etc"), [], "holds something else than a demo"),
        (lambda root: _file(root), [], "cannot be used"),
    ],
)
def test_a_root_that_will_not_do_is_refused(make, arguments, why, root, capsys):
    assert identityd(["demo", *arguments, "--root", make(root)]) == 2
    assert why in capsys.readouterr().err


def test_the_root_of_the_environment_counts(monkeypatch, capsys):
    monkeypatch.setenv("AZIOT_ROOT", "/")
    assert identityd(["demo"]) == 2
    assert "system itself" in capsys.readouterr().err


def test_a_long_temporary_directory_is_not_used(monkeypatch, root):
    from adapters.cli.demo_stage import Root

    long = root / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    made = Root(None, fresh=True)
    try:
        assert made.temporary
        assert made.paths.root.startswith("/tmp/")
    finally:
        made.remove()
    assert not os.path.exists(made.paths.root)
    assert os.listdir(long) == []


def _used(root: Path, name: str) -> str:
    (root / name).mkdir()
    return str(root)


def _file(root: Path) -> str:
    (root / "file").write_text("")
    return str(root / "file")


# --- checks ------------------------------------------------------------------------------------------


def test_a_check_that_is_passed_over_has_failed():
    seen: list[Check | Said] = []
    checks = Checks(seen.append, lambda: 1.0)
    checks.add("certificate-issued", True, "fine")
    assert [(one.name, one.ok) for one in checks.done] == [
        ("registered", False),
        ("certificate-issued", True),
    ]
    assert not checks.result(kept=None).ok
    checks.stop("broken")
    assert checks.done[2].seen == "broken"
    assert checks.done[-1].seen == "not reached"
    assert len(checks.done) == sum(map(len, CHECKS.values()))
    with pytest.raises(AssertionError, match="told before"):
        checks.add("registered", True, "again")


def test_a_life_without_its_last_check_has_not_held():
    checks = Checks(lambda _: None, lambda: 1.0)
    names = [name for row in CHECKS.values() for name in row]
    for name in names[:-1]:
        checks.add(name, True, "fine")
    assert not checks.result(kept=None).ok
    checks.add(names[-1], True, "fine")
    assert checks.result(kept=None).ok


def test_a_check_on_the_screen():
    check = Check(
        chapter="renew", name="new-certificate", about="another", ok=True, seen="a > b", after_s=9.26
    )
    plain = Ink(io.StringIO())
    assert list(check_lines(check, plain, 80)) == ["  ok       9.3 s  another", f"{' ' * 18}a > b"]
    failed = msgspec.structs.replace(check, ok=False, seen="word " * 30)
    lines = list(check_lines(failed, plain, 80))
    assert lines[0].startswith("  FAILED")
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert list(check_lines(Said(chapter="renew", about="waits", after_s=1), plain, 80)) == [
        "",
        "Renew  waits",
    ]


# --- records in words --------------------------------------------------------------------------------


def record(
    event: AnyEvent,
    *effects: AnyEffect,
    at: str = "Renewing/Polling",
    after_ms: int = 0,
    verdict: str = "taken",
    why: str = "Because.",
) -> Record:
    state, _, phase = at.partition("/")
    return Record(
        sequence=7,
        now_unix_ms=NOW + after_ms,
        event=event,
        effects=effects,
        state=state,
        phase=phase or "Idle",
        verdict=verdict,
        why=why,
    )


CHAIN = ChainFacts(
    chain_pem=b"",
    spki_sha256="ab",
    subject_cn="demo-device",
    not_before_unix_ms=NOW,
    not_after_unix_ms=NOW + 21_000,
    sha256="cd",
    serial="1f",
)
ASSIGNED = RegistrationAssigned(
    answers="1.6.0",
    assigned_hub="localhost:8443",
    device_id="demo-device",
    chain=CHAIN,
    bundle=BundleFacts(bundle_pem=b"", certificates=2, sha256=""),
)
STORED = StoredCredential(
    generation=1,
    source="issued",
    hub="localhost:8443",
    device_id="demo-device",
    fingerprint="",
    serial="1e",
    not_before_unix_ms=NOW - 10_000,
    not_after_unix_ms=NOW + 10_000,
)


def started(current: StoredCredential | None = None) -> Started:
    return Started(
        policy=PolicySettings(),
        fingerprint="",
        inventory=Inventory(current=current),
        build_unix_ms=0,
        rules_revision=1,
        software_version="0.1.0",
    )


def commit(generation: int) -> CommitCredential:
    return CommitCredential(
        generation=generation, hub="h", device_id="d", fingerprint="", chain_pem=None, bundle_id="b"
    )


POLL = PollRegistration(attempt=1, operation_id="5.a")
STAGE = StageKey(generation=2, algorithm="ec-p256", common_name="d")
SUBMIT = SubmitRegistration(attempt=1, generation=2)
PROVE = ProveCredential(generation=2, hub="h", device_id="d")
PENDING = RegistrationPending(answers="1.4.0")
REFUSED = RegistrationFailed(
    answers="1.2.0", failure_class="retry", code="dps-503", message="busy", tracking_id="7ac5"
)


def deadline(name: str) -> DeadlinePassed:
    return DeadlinePassed(name=name)


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (record(started(), STAGE), "service starts, makes key 2"),
        (record(KeyStaged(answers="1", generation=2, spki_sha256="ab"), SUBMIT), "registers with DPS"),
        (
            record(
                RegistrationAccepted(answers="1", operation_id="5.a"), ArmDelay(name="phase", delay_ms=100)
            ),
            "waits for DPS",
        ),
        (
            record(ASSIGNED, PROVE),
            "assigned to localhost:8443, certificate for 21 s, bundle of 2, shows it to the hub",
        ),
        (
            record(msgspec.structs.replace(ASSIGNED, chain=None, bundle=None)),
            "assigned to localhost:8443 without a certificate",
        ),
        (record(CredentialProven(answers="1", generation=2), commit(2)), "makes certificate 2 current"),
        (record(CredentialProven(answers="1", generation=2)), "the hub accepts certificate 2"),
        (record(CredentialCommitted(answers="1", generation=2)), "certificate 2 in use"),
        (
            record(
                CredentialRetired(answers="1"),
                ArmDeadline(name="window", at_unix_ms=NOW + 11_000),
                at="Provisioned",
            ),
            "done, renews from 02:00:11 on",
        ),
        (
            record(deadline("window"), ArmDeadline(name="attempt", at_unix_ms=NOW + 700), at="CertExpiring"),
            "renewal window open, attempt in 0.7 s",
        ),
        (record(deadline("attempt"), STAGE), "renewal begins, makes key 2"),
        (
            record(deadline("collect"), RetireCredential(keep=(2,))),
            "a replaced certificate has ended, its key is deleted",
        ),
        (
            record(REFUSED, ArmDelay(name="attempt", delay_ms=1500), at="CertExpiring"),
            "registration failed: dps-503 (retry) busy, tracking id 7ac5, attempt in 1.5 s",
        ),
        (
            record(REFUSED, ArmDelay(name="phase", delay_ms=2000)),
            "registration failed: dps-503 (retry) busy, tracking id 7ac5, again in 2.0 s",
        ),
        (record(ReprovisionRequested(uid=0), STAGE), "reprovision ordered by uid 0, makes key 2"),
        (record(ShutdownRequested(reason="SIGTERM")), "asked to stop (SIGTERM)"),
        (record(ClockObserved(kernel_synchronised=True, jump_ms=-5000)), "clock set back by 5.0 s"),
    ],
)
def test_what_happened_in_words(told, what):
    happening = Timeline().take(told)
    assert happening is not None
    assert (happening.what, happening.why) == (what, "Because.")


@pytest.mark.parametrize(
    "left_out",
    [
        record(deadline("phase"), POLL),
        record(PENDING, ArmDelay(name="phase", delay_ms=500)),
        record(CredentialRetired(answers="1"), at="Renewing/Polling"),
        record(CredentialRetired(answers="1"), verdict="ignored", at="Provisioned"),
        record(ClockObserved(kernel_synchronised=True)),
        record(deadline("collect")),
    ],
)
def test_what_nobody_gains_from_is_left_out(left_out):
    timeline = Timeline()
    timeline.take(record(RegistrationAccepted(answers="1", operation_id="5.a")))
    assert timeline.take(left_out) is None


def test_a_long_wait_for_dps_is_told_from_its_second_answer_on():
    timeline = Timeline()
    timeline.take(record(RegistrationAccepted(answers="1", operation_id="5.a")))
    answers = []
    for _ in range(3):
        timeline.take(record(deadline("phase"), POLL))
        answers.append(timeline.take(record(PENDING)))
    assert [answer is not None for answer in answers] == [False, True, True]


def test_the_certificate_in_use_is_the_committed_one():
    timeline = Timeline()
    records = [
        record(started(STORED), at="CertExpiring"),
        record(deadline("attempt"), STAGE),
        record(ASSIGNED, PROVE),
        record(CredentialCommitted(answers="1", generation=2)),
        record(CredentialRetired(answers="1"), at="Provisioned"),
    ]
    happenings = [timeline.take(one) for one in records]
    assert [one.certificate.serial for one in happenings] == ["1e", "1e", "1e", "1f", "1f"]
    assert [one.entered for one in happenings] == [True, True, False, False, True]
    assert [one.renewed for one in happenings] == [False, False, False, False, True]


def test_a_failed_renewal_is_marked_and_is_no_renewal():
    timeline = Timeline()
    timeline.take(record(deadline("attempt"), STAGE))
    happening = timeline.take(record(REFUSED, at="Provisioned"))
    assert (happening.failed, happening.renewed, happening.entered) == (True, False, True)


# --- how it looks ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


HAPPENING = Happening(
    time="2026-11-25T02:00:05.000Z",
    now_unix_ms=NOW + 5_250,
    sequence=7,
    state="CertExpiring",
    phase="Idle",
    what="renewal window open, attempt in 0.7 s",
    why="The certificate entered its renewal window.",
    entered=True,
    certificate=Validity(serial="1f", not_before_unix_ms=NOW, not_after_unix_ms=NOW + 21_000),
)


@pytest.fixture
def columns(monkeypatch):
    def wide(number: int) -> None:
        monkeypatch.setenv("COLUMNS", str(number))

    wide(120)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return wide


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", text)


def test_a_pipe_gets_lines_only(columns):
    stream = io.StringIO()
    screen = Screen(stream)
    screen.tell(HAPPENING)
    screen.tick(lambda: pytest.fail("nobody is asked for a pipe"))
    assert stream.getvalue() == (
        "02:00:05  CertExpiring    renewal window open, attempt in 0.7 s. "
        "The certificate entered its renewal window.\n"
    )


def test_a_terminal_gets_columns_and_a_bar(columns):
    stream = Terminal()
    Screen(stream).tell(HAPPENING)
    text = stream.getvalue()
    assert "\x1b[33m" in text
    assert plain(text) == (
        "02:00:05  CertExpiring    ██████░░  renewal window open, attempt in 0.7 s  "
        "The certificate entered its renewal window.\n"
    )


def test_a_narrow_terminal_gets_the_reason_below_in_the_same_column(columns):
    columns(80)
    stream = Terminal()
    Screen(stream).tell(HAPPENING)
    lines = plain(stream.getvalue()).splitlines()
    assert lines == [
        "02:00:05  CertExpiring    ██████░░  renewal window open, attempt in 0.7 s",
        f"{' ' * 36}The certificate entered its renewal window.",
    ]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_when_it_is_not_wanted(columns, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    stream = Terminal()
    Screen(stream).tell(HAPPENING)
    assert "\x1b" not in stream.getvalue()
    assert "██████░░" in stream.getvalue()


def test_blocks_only_where_they_can_be_shown(columns):
    stream = Terminal()
    stream.encoding = "ascii"
    Screen(stream).tell(HAPPENING)
    assert "######.." in plain(stream.getvalue())


def status(**facts: object) -> Status:
    credential = CredentialStatus(
        source="issued",
        generation=2,
        proven=True,
        serial="1f",
        not_before="2026-11-25T02:00:00Z",
        not_after="2026-11-25T02:00:21Z",
    )
    known = {
        "state": "Provisioned",
        "phase": "Idle",
        "since": "2026-11-25T02:00:00Z",
        "sequence": 21,
        "stuck": False,
        "degraded": (),
        "reason": "",
        "next": NextStatus(what="renewal", at="2026-11-25T02:00:12Z"),
        "attempt": None,
        "assignment": None,
        "credential": credential,
        "onboarding": OnboardingStatus(method="symmetric_key"),
        "clock": ClockStatus(trusted=True, reason=""),
        "trust_bundle": None,
        "version": "0.1.0",
    }
    return Status(**(known | facts))


def test_the_last_line_is_alive_and_gives_way(columns, monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW / 1000 + 7)
    stream = Terminal()
    screen = Screen(stream)
    screen.tick(status)
    drawn = stream.getvalue()
    assert drawn.startswith("\r\x1b[2K")
    assert "\n" not in drawn
    assert plain(drawn).strip() == (
        f"02:00:07  Provisioned     {'█' * 16}{'░' * 8} 14.0 s left  renewal in 5 s  Ctrl-C ends it"
    )
    screen.tell(HAPPENING)
    assert stream.getvalue()[len(drawn) :].startswith("\r\x1b[2K")
    columns(60)
    screen.tick(status)
    assert len(plain(stream.getvalue().rpartition("\r")[2])) <= 60


@pytest.mark.parametrize(
    ("facts", "coming"),
    [
        ({"next": None}, ""),
        ({"next": NextStatus(what="DPS is working on it")}, "DPS is working on it"),
        ({"next": NextStatus(what="renewal", at="2026-11-25T01:59:00Z")}, "renewal now"),
        ({"stuck": True, "reason": "somebody has to help"}, "somebody has to help"),
        ({"credential": None}, "renewal in 12 s"),
    ],
)
def test_what_comes_next(columns, monkeypatch, facts, coming):
    monkeypatch.setattr("time.time", lambda: NOW / 1000)
    stream = Terminal()
    Screen(stream).tick(lambda: status(**facts))
    assert coming in plain(stream.getvalue())


def test_a_service_that_is_away_is_told_in_the_last_line(columns):
    def away() -> Status:
        raise CommandFailed("nobody")

    stream = Terminal()
    Screen(stream).tick(away)
    assert "does not answer" in stream.getvalue()


def test_begin_and_suggestions_can_be_copied(columns):
    stream = Terminal()
    screen = Screen(stream)
    screen.tell(
        Begin(
            root="/tmp/r",
            endpoint="https://localhost:1",
            cloud_pid=1,
            service_pid=2,
            device="d",
            certificate_lifetime_s=20,
        )
    )
    screen.tell(Try(lines=(Suggestion(about="why", line="curl 'x'"),)))
    lines = plain(stream.getvalue()).splitlines()
    assert "  root     /tmp/r" in lines
    assert "  curl 'x'" in lines
    assert "  # why" in lines


def test_json_lines(capsys):
    JsonLines().tell(HAPPENING)
    JsonLines().tick(status)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["type"] == "happening"
