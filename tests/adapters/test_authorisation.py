"""Who is the caller, and what may it do: the table of services.md §3.1."""

import pytest

from adapters.driving.authorisation import caller_of
from adapters.driving.routes import NOBODY
from statemachine.settings import IdentityPrincipal

ROOT, OWN, DAEMON, SECOND, STRANGER = 0, 990, 1001, 1002, 4242


def principal(uid, name, kinds=None):
    return IdentityPrincipal(uid=uid, name=name, kinds=kinds)


PRINCIPALS = (
    principal(DAEMON, "edged"),
    principal(SECOND, "edged2"),
    principal(2001, "device", ("device",)),
    principal(2002, "module", ("module",)),
    principal(2003, "local", ("local",)),
    principal(2004, "both", ("module", "local")),
    principal(2005, "all", ("device", "module", "local")),
    principal(2006, "nothing", ()),
)
EITHER = (None, "", "other")

# uid: standing, may manage, may read the device, kinds of which it may read the module of its own name
TABLE = {
    ROOT: ("root", True, True, ("aziot", "local", *EITHER)),
    OWN: ("root", True, True, ("aziot", "local", *EITHER)),
    DAEMON: ("daemon", True, True, ("aziot", "local", *EITHER)),
    SECOND: ("unknown", False, False, ()),
    2001: ("host process", False, True, ()),
    2002: ("host process", False, False, ("aziot", *EITHER)),
    2003: ("host process", False, False, ("local", *EITHER)),
    2004: ("host process", False, False, ("aziot", "local", *EITHER)),
    2005: ("host process", False, True, ("aziot", "local", *EITHER)),
    2006: ("host process", False, False, ()),
    STRANGER: ("unknown", False, False, ()),
    NOBODY: ("unknown", False, False, ()),
}


@pytest.mark.parametrize(("uid", "rights"), TABLE.items())
def test_the_table(uid, rights):
    caller = caller_of(uid, PRINCIPALS, OWN)
    own_kinds = tuple(
        kind for kind in ("aziot", "local", *EITHER) if caller.may_read_module(caller.name, kind)
    )
    assert (caller.standing, caller.may_manage, caller.may_read_device, own_kinds) == rights


@pytest.mark.parametrize("uid", TABLE)
@pytest.mark.parametrize("kind", ["aziot", "local", None])
@pytest.mark.parametrize("name", ["edged", "MODULE", "module ", "", "$edgeAgent"])
def test_another_name_is_for_those_who_manage(uid, kind, name):
    caller = caller_of(uid, PRINCIPALS, OWN)
    assert caller.may_read_module(name, kind) is caller.may_manage


def test_root_that_is_listed_has_its_principals_rights():
    caller = caller_of(ROOT, [principal(ROOT, "rooted", ("module",))], OWN)
    assert (caller.standing, caller.may_manage, caller.may_read_device) == ("host process", False, False)
    assert caller_of(ROOT, [principal(ROOT, "edged")], OWN).standing == "daemon"


def test_the_service_itself_that_is_listed_has_its_principals_rights():
    caller = caller_of(OWN, [principal(OWN, "me", ("device",))], OWN)
    assert (caller.standing, caller.may_manage, caller.may_read_device) == ("host process", False, True)


def test_a_second_daemon_takes_nothing_away():
    listed = [principal(7, "host", ("module",)), principal(DAEMON, "edged"), principal(7, "edged2")]
    assert caller_of(7, listed, OWN).standing == "host process"
    assert caller_of(ROOT, [principal(DAEMON, "edged"), principal(ROOT, "edged2")], OWN).standing == "root"


def test_of_two_entries_with_one_uid_the_later_counts():
    listed = [principal(7, "first", ("device",)), principal(7, "second", ("local",))]
    assert caller_of(7, listed, OWN).name == "second"
    assert not caller_of(7, listed, OWN).may_read_device
    assert caller_of(7, [*listed, principal(7, "edged")], OWN).standing == "daemon"
    assert caller_of(7, [principal(7, "edged"), *listed], OWN).standing == "host process"


def test_nobody_is_not_the_service():
    assert caller_of(NOBODY, (), NOBODY).standing == "unknown"
