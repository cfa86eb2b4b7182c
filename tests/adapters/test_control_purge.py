"""Hold, release and purge over the control socket: who may, what is to be said, and what is answered."""

import os

import msgspec
import pytest
import trio

from adapters.driving.control import NAMELESS, control_handler
from adapters.wire.http_server import Peer, Request
from statemachine.events import HoldRequested, PurgeRequested
from tests.adapters.unix_peer import Machine, over_a_socket

OWN_UID, PRINCIPAL, STRANGER = 990, 1001, 4242
NAMES = ("press-17", "line4-press-17")


def ask(machine, path, uid=0, body=b"", names=NAMES):
    handler = control_handler(
        machine, own_uid=OWN_UID, principals=lambda: [PRINCIPAL], names=lambda: names, machine=lambda: b""
    )
    return over_a_socket(handler, Request("POST", path, body=body, peer=Peer(uid=uid)))


def said(response):
    return msgspec.json.decode(response.body)


@pytest.mark.parametrize("uid", [0, OWN_UID, PRINCIPAL])
@pytest.mark.parametrize(("path", "hold"), [("/v1/hold", True), ("/v1/release", False)])
def test_who_may_hold_and_release(uid, path, hold):
    machine = Machine()
    assert ask(machine, path, uid).status == 202
    assert machine.commands == [HoldRequested(hold=hold, uid=uid)]


@pytest.mark.parametrize("path", ["/v1/hold", "/v1/release", "/v1/purge"])
def test_a_stranger_may_nothing(path):
    machine = Machine()
    assert ask(machine, path, STRANGER, b'{"confirm": "press-17"}').status == 403
    assert machine.commands == []


@pytest.mark.parametrize("uid", [OWN_UID, PRINCIPAL])
def test_who_may_command_may_not_erase(uid):
    machine = Machine()
    refused = ask(machine, "/v1/purge", uid, b'{"confirm": "press-17"}')
    assert refused.status == 403
    assert said(refused)["message"] == f"uid {uid} may not purge this device; root may (try sudo)"
    assert machine.commands == []


@pytest.mark.parametrize("name", NAMES)
def test_root_names_the_device(name):
    machine = Machine()
    taken = ask(machine, "/v1/purge", body=msgspec.json.encode({"confirm": name, "later": 1}))
    assert (taken.status, said(taken)["sequence"]) == (202, 1)
    assert machine.commands == [PurgeRequested(uid=0)]


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", 400, 'the body is not {"confirm": "DEVICE"}'),
        (b"press-17", 400, 'the body is not {"confirm": "DEVICE"}'),
        (b"{}", 400, "missing required field `confirm`"),
        (b'{"confirm": null}', 400, "`$.confirm`"),
        (b'{"confirm": ["press-17"]}', 400, "`$.confirm`"),
        (b"\xff", 400, 'the body is not {"confirm": "DEVICE"}'),
        (b"[" * 5000, 400, 'the body is not {"confirm": "DEVICE"}'),
        (b'{"confirm": ""}', 409, '"" is not this device'),
        (b'{"confirm": "press-18"}', 409, '"press-18" is not this device'),
        (b'{"confirm": "PRESS-17"}', 409, '"PRESS-17" is not this device'),
        (b'{"confirm": "press-17 "}', 409, "is not this device"),
        (b'{"confirm": "a\\u001b[2Jb"}', 409, '"a [2Jb" is not this device'),
    ],
)
def test_whatever_else_is_said_erases_nothing(body, status, why):
    machine = Machine()
    refused = ask(machine, "/v1/purge", body=body)
    assert refused.status == status
    assert why in said(refused)["message"]
    assert said(refused)["message"].endswith(
        'nothing was erased. To erase it confirm "press-17" or "line4-press-17"'
    )
    assert said(refused)["expected"] == list(NAMES)
    assert machine.commands == []


def test_a_long_wrong_word_is_not_repeated_at_length():
    refused = ask(Machine(), "/v1/purge", body=msgspec.json.encode({"confirm": "x" * 5000}))
    assert refused.status == 409
    assert len(refused.body) < 600


def test_a_device_without_a_name():
    machine = Machine()
    refused = ask(machine, "/v1/purge", body=b"{}", names=())
    assert (refused.status, said(refused)["expected"]) == (400, [NAMELESS])
    confirmed = msgspec.json.encode({"confirm": NAMELESS})
    assert ask(machine, "/v1/purge", body=confirmed).status == 409, "it has one"
    assert ask(machine, "/v1/purge", body=confirmed, names=()).status == 202
    assert machine.commands == [PurgeRequested(uid=0)]


def test_the_names_are_asked_for_each_time():
    machine, names = Machine(), [("old",), ("new",)]
    handler = control_handler(machine, own_uid=os.getuid(), names=lambda: names.pop(0), machine=lambda: b"")
    request = Request("POST", "/v1/purge", body=b'{"confirm": "new"}', peer=Peer(uid=0))
    assert [trio.run(handler, request).status for _ in range(2)] == [409, 202]
