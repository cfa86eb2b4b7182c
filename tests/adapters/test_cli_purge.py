"""hold, release and purge as people type them: what is asked, what is printed, with which status."""

import io
import sys

import msgspec
import pytest
from msgspec import structs

from adapters.driving.control import control_handler
from adapters.wire.http_server import Peer
from statemachine.events import HoldRequested, PurgeRequested
from tests.adapters.test_cli import ASSIGNED, course, plain, run  # noqa: F401 - fixtures
from tests.adapters.unix_peer import Machine

NAME = "dev-1"
PURGED = {"type": "credentials-purged"}
NOT_PURGED = {
    "type": "credentials-purge-failed",
    "class": "retry",
    "code": "read-only",
    "message": "/var/lib/aziot/identityd: Read-only file system\x1b[2J; mount it read-write",
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """Standard input is no terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{NAME}\n"))


@pytest.fixture
def types(monkeypatch):
    def types(text):
        monkeypatch.setattr(sys, "stdin", Terminal(text))

    return types


def erasing(*answers):
    machine = Machine()
    machine.fields = ASSIGNED
    course(
        machine,
        ("purge-requested", "Unprovisioned", "Idle"),
        *((answer, "Unprovisioned", "Idle") for answer in answers),
        then={"reason": "Not provisioned. Attempts are on hold."},
    )
    return machine


def of_root(machine, names=(NAME, "reg-1"), uid=0):
    """Whoever runs these tests is taken for root."""
    handler = control_handler(machine, own_uid=uid, names=lambda: names, machine=lambda: b"")

    async def handle(request):
        return await handler(structs.replace(request, peer=Peer(uid=uid)))

    return handle


def purge(run, machine, *words, **about):  # noqa: F811
    return run(machine, "purge", *words, handler=of_root(machine, **about))


@pytest.mark.parametrize(("word", "hold"), [("hold", True), ("release", False)])
def test_hold_and_release(run, word, hold):  # noqa: F811
    machine = Machine()
    machine.fields = {"reason": "Attempts are on hold." if hold else "Provisioned."}
    status, out, err = run(machine, word, handler=of_root(machine))
    assert (status, out, err) == (0, f"{word} done: {machine.fields['reason']}\n", "")
    assert machine.commands == [HoldRequested(hold=hold, uid=0)]
    told = msgspec.json.decode(run(machine, word, "--json", handler=of_root(machine))[1])
    assert (told["outcome"], told["state"]) == ("done", "Provisioned")


@pytest.mark.parametrize("word", [NAME, "reg-1"])
def test_confirmed_on_the_command_line(run, word):  # noqa: F811
    machine = erasing(PURGED)
    status, out, err = purge(run, machine, "--confirm", word)
    assert (status, err) == (0, "")
    assert out.startswith(
        "purge done: what the cloud gave this device is erased\nerased: issued certificates"
    )
    assert "\nnot erased: the configuration and its onboarding credential" in out
    assert out.endswith("No attempt begins until `identityd release`.\n")
    assert machine.commands == [PurgeRequested(uid=0)]


def test_the_wrong_device(run):  # noqa: F811
    machine = erasing(PURGED)
    status, out, err = purge(run, machine, "--confirm", "dev-2")
    assert (status, out) == (1, "")
    assert '"dev-2" is not this device; nothing was erased. To erase it confirm "dev-1" or "reg-1"' in err
    assert machine.commands == []


@pytest.mark.parametrize("words", [(), ("--yes",)])
def test_without_a_terminal_it_must_be_named(run, words):  # noqa: F811
    machine = erasing(PURGED)
    status, out, err = purge(run, machine, *words)
    assert (status, out) == (2, "")
    assert err == "identityd: nobody is there to confirm this; say --confirm dev-1\n"
    assert machine.commands == []


def test_typed_in_on_a_terminal(run, types):  # noqa: F811
    machine = erasing(PURGED)
    types(f" {NAME} \n")
    status, out, err = purge(run, machine)
    assert status == 0
    assert "nothing brings the keys back" in err
    assert err.endswith("Type dev-1 to go on: ")
    assert out.startswith("purge done")
    assert machine.commands == [PurgeRequested(uid=0)]


@pytest.mark.parametrize("typed", ["", "\n", "y\n", "yes\n", "reg-1\n", "DEV-1\n"])
def test_anything_else_on_a_terminal(run, types, typed):  # noqa: F811
    machine = erasing(PURGED)
    types(typed)
    status, _, err = purge(run, machine)
    assert status == 2
    assert "that is not this device; nothing was erased" in err
    assert machine.commands == []


def test_yes_on_a_terminal(run, types):  # noqa: F811
    machine = erasing(PURGED)
    types("")
    status, _, err = purge(run, machine, "--yes")
    assert (status, err) == (0, "")
    assert machine.commands == [PurgeRequested(uid=0)]


def test_yes_and_confirm_contradict_each_other(run, capsys):  # noqa: F811
    with pytest.raises(BaseExceptionGroup):
        purge(run, erasing(PURGED), "--yes", "--confirm", NAME)
    assert "not allowed with" in capsys.readouterr().err


def test_who_is_not_root_is_told_before_he_is_asked(run, types):  # noqa: F811
    machine = erasing(PURGED)
    types(f"{NAME}\n")
    status, out, err = purge(run, machine, uid=1000)
    assert (status, out) == (1, "")
    assert err == "identityd: uid 1000 may not purge this device; root may (try sudo)\n"


def test_what_cannot_be_erased_at_once_is_told_and_waited_for(run):  # noqa: F811
    status, out, err = purge(run, erasing(NOT_PURGED, PURGED), "--confirm", NAME)
    assert (status, err) == (0, "")
    assert out.startswith("not all could be erased: /var/lib/aziot/identityd: Read-only file system")
    assert "\x1b" not in out
    assert "; it is tried again\npurge done: " in out


def test_what_cannot_be_erased_in_time(run):  # noqa: F811
    status, out, err = purge(run, erasing(NOT_PURGED), "--confirm", NAME, "--timeout", "0.05")
    assert status == 1
    assert "erased: issued" not in out
    assert err.startswith("read-only (retry): /var/lib/aziot/identityd: Read-only file system")
    assert "purge failed. Now: not ended after 0.05 s; it goes on. Now: Not provisioned" in err


def test_not_waited_for(run):  # noqa: F811
    status, out, _ = purge(run, erasing(), "--confirm", NAME, "--no-wait")
    assert (status, out) == (0, "purge running: begins now\n")


@pytest.mark.parametrize(("answer", "status"), [(PURGED, 0), (NOT_PURGED, 1)])
def test_json(run, answer, status):  # noqa: F811
    got, out, err = purge(run, erasing(answer), "--confirm", NAME, "--json", "--timeout", "0.05")
    assert (got, err) == (status, "")
    told = msgspec.json.decode(out)
    assert told["outcome"] == ("done" if status == 0 else "failed")
    assert (told["error"] is None) == (status == 0)


def test_an_answer_of_before_ends_nothing(run):  # noqa: F811
    """A record that the machine ignored is of another erasure."""
    machine = erasing(PURGED)
    first = machine.on_command

    def stale(event):
        first(event)
        machine.lines[-1] = machine.lines[-1].replace(b'"taken"', b'"ignored"')

    machine.on_command = stale
    status, out, _ = purge(run, machine, "--confirm", NAME, "--timeout", "0.05")
    assert status == 1
    assert out.startswith("purge running: not ended after 0.05 s")
