"""The composition root's own decisions: a reload that keeps serving, and who is told of what changed."""

import logging
import os
import threading

import pytest
import trio

from adapters import config, opening, reloading
from adapters.paths import paths_below
from adapters.ports import Taken
from statemachine.events import ConfigurationChanged
from statemachine.snapshot import Snapshot

CONFIGURED = '[provisioning]\nsource = "none"\n'


# --- reload ------------------------------------------------------------------------------------------


class Machine:
    def __init__(self):
        self.snapshot = Snapshot()
        self.posted = []

    def post(self, event):
        self.posted.append(event)

    async def command(self, event):
        self.post(event)
        return Taken(sequence=len(self.posted), verdict="taken", why="it is so")


@pytest.fixture
def paths(tmp_path):
    found = paths_below(str(tmp_path))
    os.makedirs(os.path.dirname(found.config))
    return found


def reloaded(paths, text):
    with open(paths.config, "w", encoding="utf-8") as file:
        file.write(text)
    held = reloading.Held(config.parse("before", CONFIGURED))
    machine = Machine()
    announcer = reloading.Announcer(machine, held, lambda: None, ("said at the start",))
    trio.run(reloading.Reload(paths, held, announcer))
    return held.configuration, machine.posted


def test_a_reload_does_its_file_work_in_a_worker_thread(paths, monkeypatch):
    saved_on = []

    def save(*_):
        saved_on.append(threading.current_thread())

    monkeypatch.setattr(opening.config, "save_last_good", save)
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


def test_whoever_looks_at_the_configuration_is_told_after_a_reload(paths):
    with open(paths.config, "w", encoding="utf-8") as file:
        file.write(CONFIGURED)
    held = reloading.Held(config.parse("before", "cloud_retries = 3\n" + CONFIGURED))
    seen = []
    announcer = reloading.Announcer(Machine(), held, lambda: None, ())
    trio.run(reloading.Reload(paths, held, announcer, then=lambda: seen.append(held().cloud_retries)))
    assert seen == [1]


def test_what_is_said_of_the_configuration_stays_until_it_is_read_again(paths):
    machine = Machine()
    held = reloading.Held(config.parse("before", CONFIGURED))
    remarks = iter(["no certificate yet", None, None])
    announcer = reloading.Announcer(machine, held, lambda: next(remarks), ("the last good one is in force",))
    trio.run(announcer)
    trio.run(announcer)
    trio.run(announcer.reloaded, ())
    assert [event.configuration_notes for event in machine.posted] == [
        ("the last good one is in force", "no certificate yet"),
        ("the last good one is in force",),
        (),
    ]
