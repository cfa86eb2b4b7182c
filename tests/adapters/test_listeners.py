"""Unix sockets that listen: group and mode before the name, what may be replaced, what may be handed over."""

import errno
import grp
import logging
import os
import socket
import stat
from types import SimpleNamespace

import pytest
import trio

from adapters.errors import StoreUnavailable
from adapters.wire.http_server import listener_from_fd, unix_listener
from tests.adapters.served import CLOSE, asked, run_served


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.sock")


def test_a_unix_listener_has_its_mode_and_makes_its_directory(tmp_path):
    async def main():
        path = tmp_path / "run" / "aziot" / "x.sock"
        listener = unix_listener(str(path), mode=0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        # A stale socket is replaced; the one bound before loses only its name.
        again = unix_listener(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert [entry.name for entry in path.parent.iterdir()] == ["x.sock"]
        await listener.aclose()
        await again.aclose()

    trio.run(main)


def test_an_empty_directory_gives_way_and_anything_else_does_not(tmp_path):
    async def main():
        (tmp_path / "d.sock").mkdir()
        await unix_listener(str(tmp_path / "d.sock")).aclose()
        (tmp_path / "full.sock").mkdir()
        (tmp_path / "full.sock" / "x").touch()
        (tmp_path / "file.sock").write_text("precious")
        for name in ("full.sock", "file.sock"):
            with pytest.raises(StoreUnavailable, match="not a socket") as caught:
                unix_listener(str(tmp_path / name))
            assert caught.value.code == "socket-path-taken"
        assert (tmp_path / "file.sock").read_text() == "precious"
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreUnavailable) as caught:
            unix_listener(str(tmp_path / "file" / "x.sock"))
        assert caught.value.code == "socket-unavailable"

    trio.run(main)


def test_107_bytes_of_path_are_served_and_108_are_not(tmp_path):
    longest = str(tmp_path) + "/" + "s" * (107 - len(str(tmp_path)) - 1)
    answer, _ = asked(longest, CLOSE)
    assert b"200" in answer
    with pytest.raises(StoreUnavailable, match="path too long") as caught:
        unix_listener(longest + "s")
    assert caught.value.code == "socket-unavailable"
    assert os.listdir(tmp_path) == [os.path.basename(longest)]


def test_a_descriptor_bound_by_somebody_else_is_served(path):
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(path)
    bound.listen()
    fd = bound.detach()
    os.set_inheritable(fd, True)
    answers = []

    async def client(served):
        assert not os.get_inheritable(fd)
        answers.append(await served.ask(CLOSE))

    run_served(client, path=path, listeners=lambda: [listener_from_fd(fd)])
    assert b"200" in answers[0]


def test_a_descriptor_of_another_kind_is_refused():
    tcp = socket.socket(socket.AF_INET)
    with pytest.raises(StoreUnavailable, match="not a Unix stream socket"):
        listener_from_fd(tcp.detach())
    unused = socket.socket()
    fd = unused.fileno()
    unused.close()
    with pytest.raises(StoreUnavailable) as caught:
        listener_from_fd(fd)
    assert caught.value.code == "activation-invalid"


# --- group and mode ----------------------------------------------------------------------------------

GROUP = SimpleNamespace(gr_gid=4711)


@pytest.fixture
def steps(monkeypatch, path):
    """Everything that happens to the socket, and whether it could be reached by its name at that time."""
    seen = []

    def watched(owner, name):
        real = getattr(owner, name)

        def call(*given):
            seen.append((name, given[-1] if name in ("chmod", "chown") else None, os.path.exists(path)))
            if name != "chown":
                return real(*given)
            return None

        monkeypatch.setattr(owner, name, call)

    for name in ("chown", "chmod", "rename"):
        watched(os, name)
    watched(socket.socket, "listen")
    return seen


def listen_and_close(path, mode=0o660, group=None):
    async def main():
        await unix_listener(path, mode, group).aclose()

    trio.run(main)


@pytest.mark.parametrize("mode", [0o660, 0o666])
def test_group_then_mode_then_listening_then_the_name(path, monkeypatch, steps, mode):
    monkeypatch.setattr(grp, "getgrnam", lambda name: {"aziotcs": GROUP}[name])
    listen_and_close(path, mode, "aziotcs")
    assert steps == [
        ("chown", GROUP.gr_gid, False),
        ("chmod", mode, False),
        ("listen", None, False),
        ("rename", None, False),
    ]
    assert stat.S_IMODE(os.stat(path).st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a socket to any group")
def test_the_group_is_given(path):
    group = max(grp.getgrall(), key=lambda one: one.gr_gid)
    listen_and_close(path, group=group.gr_name)
    assert os.stat(path).st_gid == group.gr_gid
    assert os.stat(path).st_uid == os.geteuid()


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (None, []),  # no such group
        (PermissionError(errno.EPERM, "not permitted"), []),
        (OSError(errno.EINVAL, "Invalid argument"), ["{} keeps its group: Invalid argument"]),
    ],
)
def test_a_group_that_cannot_be_given_costs_the_group_only(path, monkeypatch, caplog, failure, told):
    def chown(*_):
        raise failure

    def lookup(name):
        if failure is None:
            raise KeyError(name)
        return GROUP

    monkeypatch.setattr(grp, "getgrnam", lookup)
    monkeypatch.setattr(os, "chown", chown)
    with caplog.at_level(logging.INFO):
        listen_and_close(path, group="aziotks")
    assert caplog.messages == [line.format(path) for line in told]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


@pytest.mark.parametrize("step", ["chmod", "rename"])
def test_a_failure_on_the_way_leaves_nothing(path, monkeypatch, step):
    def fail(*_):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(StoreUnavailable, match="broken") as caught:
            unix_listener(path)
    assert caught.value.code == "socket-unavailable"
    assert os.listdir(os.path.dirname(path)) == []


def test_nobody_connects_under_the_temporary_name(path, monkeypatch):
    """It is bound but does not listen until group and mode are right."""
    outcome = []
    chmod = os.chmod

    def intrude(name, mode):
        with socket.socket(socket.AF_UNIX) as peer:
            outcome.append(peer.connect_ex(name))
        chmod(name, mode)

    monkeypatch.setattr(os, "chmod", intrude)
    listen_and_close(path)
    assert outcome == [errno.ECONNREFUSED]
