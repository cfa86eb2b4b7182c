"""The composition root's own decisions: who may open the sockets, and a reload that keeps serving."""

import errno
import logging
import os
import threading

import pytest
import trio

from adapters import config, service
from adapters.paths import paths_below
from statemachine.events import ConfigurationChanged
from statemachine.snapshot import Snapshot

CONFIGURED = '[provisioning]\nsource = "none"\n'


# --- socket groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"), [(errno.EPERM, ""), (errno.EINVAL, "certd.sock keeps its group: Invalid argument")]
)
def test_a_socket_that_cannot_be_given_its_group_is_served_all_the_same(
    code, said, tmp_path, monkeypatch, caplog
):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(service, "SOCKET_GROUPS", {"certd": "root"})
    monkeypatch.setattr(os, "chown", refused)

    async def main():
        listener = service._listener("certd", str(tmp_path / "certd.sock"), {})
        await listener.aclose()

    trio.run(main)
    assert (tmp_path / "certd.sock").stat().st_mode & 0o777 == 0o660
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


# --- reload ------------------------------------------------------------------------------------------


class Machine:
    def __init__(self):
        self.snapshot = Snapshot()
        self.posted = []

    def post(self, event):
        self.posted.append(event)


@pytest.fixture
def paths(tmp_path):
    found = paths_below(str(tmp_path))
    os.makedirs(os.path.dirname(found.config))
    return found


def reloaded(paths, text):
    with open(paths.config, "w", encoding="utf-8") as file:
        file.write(text)
    held = service._Held(config.parse("before", CONFIGURED))
    machine = Machine()
    trio.run(service._Reload(paths, held, machine))
    return held.configuration, machine.posted


def test_a_reload_does_its_file_work_in_a_worker_thread(paths, monkeypatch):
    saved_on = []

    def save(*_):
        saved_on.append(threading.current_thread())

    monkeypatch.setattr(config, "save_last_good", save)
    configuration, (event,) = reloaded(paths, "cloud_retries = 3\n" + CONFIGURED)
    assert configuration.cloud_retries == 3
    assert isinstance(event, ConfigurationChanged)
    assert event.configuration_notes == ()
    assert saved_on != []
    assert threading.main_thread() not in saved_on


def test_a_broken_file_changes_nothing_and_is_told(paths, caplog):
    caplog.set_level(logging.CRITICAL)
    configuration, (event,) = reloaded(paths, "cloud_retries = 3\n")
    assert configuration == config.parse("before", CONFIGURED)
    assert event.configuration_notes[0].startswith("configuration: not usable, the one before stays (")
    assert not os.path.exists(paths.last_good_config)
