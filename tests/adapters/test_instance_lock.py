"""One service a state directory."""

import errno
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from adapters.driven.instance_lock import FILE, InstanceLock
from adapters.errors import AlreadyRunning, StoreUnavailable
from tests.adapters.disk import Disk, crashed_descriptors  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("crashed_descriptors")


def test_the_second_is_told_who_has_it(tmp_path):
    directory = str(tmp_path / "identityd")
    with InstanceLock(directory):
        with pytest.raises(AlreadyRunning) as caught:
            InstanceLock(directory).acquire()
        assert (caught.value.directory, caught.value.pid) == (directory, os.getpid())
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(os.path.join(directory, FILE)).st_mode) == 0o600
    with InstanceLock(directory):
        pass


def test_another_process_is_told_and_does_not_inherit_it(tmp_path):
    lock = InstanceLock(str(tmp_path))
    lock.acquire()
    # pid of the holder on its standard output; the child inherits no descriptor of ours
    program = (
        "import sys\n"
        "from adapters.driven.instance_lock import InstanceLock\n"
        "from adapters.errors import AlreadyRunning\n"
        "try:\n"
        "    InstanceLock(sys.argv[1]).acquire()\n"
        "    print('acquired')\n"
        "except AlreadyRunning as exc:\n"
        "    print(exc.pid)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.check_output(command, text=True, close_fds=False) == f"{os.getpid()}\n"
    lock.release()
    lock.release()
    assert subprocess.check_output(command, text=True) == "acquired\n"
    # It ended without releasing: the kernel did.
    with InstanceLock(str(tmp_path)):
        pass


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 100_000])
def test_an_unreadable_pid_is_unknown(tmp_path, content):
    with InstanceLock(str(tmp_path)):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(AlreadyRunning, match="unknown") as caught:
            InstanceLock(str(tmp_path)).acquire()
        assert caught.value.pid is None


def test_a_stale_longer_pid_is_overwritten(tmp_path):
    (tmp_path / FILE).write_bytes(b"99999999999999999999\n")
    with InstanceLock(str(tmp_path)):
        assert (tmp_path / FILE).read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("exists", [False, True])
def test_a_device_that_cannot_write_still_serves_but_only_once(tmp_path, error, exists):
    if exists:
        (tmp_path / FILE).touch()
    with Disk(fail_at=1, error=error, lasting=True):
        lock = InstanceLock(str(tmp_path))
        lock.acquire()
        with pytest.raises(AlreadyRunning):
            InstanceLock(str(tmp_path)).acquire()
        lock.release()
        InstanceLock(str(tmp_path)).acquire()


def test_what_cannot_be_locked_is_told(tmp_path):
    with Disk(fail_at=1, error=errno.EIO), pytest.raises(StoreUnavailable) as caught:
        InstanceLock(str(tmp_path)).acquire()
    assert caught.value.code == "io-error"
    (tmp_path / FILE).symlink_to("/etc/hostname")
    with pytest.raises(StoreUnavailable) as caught:
        InstanceLock(str(tmp_path)).acquire()
    assert FILE in caught.value.message
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable) as caught:
        InstanceLock(str(tmp_path / "file" / "below")).acquire()
    assert str(tmp_path) in caught.value.message
    assert pathlib.Path("/etc/hostname").exists()


def test_a_directory_that_cannot_be_made_is_told_with_its_reason(tmp_path):
    with Disk(fail_at=1, error=errno.EACCES, lasting=True), pytest.raises(StoreUnavailable) as caught:
        InstanceLock(str(tmp_path / "below")).acquire()
    assert caught.value.code == "permission"


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", failing)
    with pytest.raises(StoreUnavailable) as caught:
        InstanceLock(str(tmp_path)).acquire()
    assert caught.value.code == "io-error"
