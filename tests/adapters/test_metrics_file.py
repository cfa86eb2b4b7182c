"""The metrics as a file: whole or not there, written on change, seldom, and never by a service at rest."""

import logging
import os
import stat

import pytest
import trio
import trio.testing

from adapters.driven import metrics_file
from adapters.driven.metrics_file import EVERY_S, MetricsFile

HOUR = 3600.0


class Kept:
    """A MetricsFile under virtual time, its content, and when it was written."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.content = b"one 1\n"
        self.renders = 0
        self.written_at: list[float] = []
        self.file = MetricsFile(str(path), self.text)
        replace = metrics_file._replace

        async def on_this_thread(function, *arguments):
            # Threads know no virtual time; what they do is what counts here.
            assert function is replace
            self.written_at.append(trio.current_time())
            replace(*arguments)
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(trio.to_thread, "run_sync", on_this_thread)

    def text(self):
        self.renders += 1
        return self.content

    def change(self, content):
        self.content = content
        self.file.changed()

    def live(self, story):
        async def main():
            async with trio.open_nursery() as nursery:
                await nursery.start(self.file.run)
                self.began = trio.current_time()
                await story()
                nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    @property
    def written(self):
        """Seconds since the beginning."""
        return [round(at - self.began, 3) for at in self.written_at]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    return Kept(tmp_path / "identityd.prom", monkeypatch)


def test_it_is_there_soon_after_the_start_for_everybody_to_read(kept):
    async def story():
        await trio.sleep(2)
        assert kept.path.read_bytes() == b"one 1\n"
        assert stat.S_IMODE(os.stat(kept.path).st_mode) == 0o644
        assert os.listdir(kept.path.parent) == ["identityd.prom"]

    os.umask(os.umask(0o077))  # as systemd units have it, the mode is the same
    kept.live(story)


def test_a_service_at_rest_writes_and_renders_nothing(kept):
    async def story():
        await trio.sleep(1000 * HOUR)

    kept.live(story)
    assert (len(kept.written), kept.renders) == (1, 1)


def test_a_change_after_a_while_is_there_at_once(kept):
    async def story():
        await trio.sleep(HOUR)
        kept.change(b"two 2\n")
        await trio.sleep(2)
        assert kept.path.read_bytes() == b"two 2\n"

    kept.live(story)
    assert kept.written == [1, HOUR + 1]


def test_changes_are_written_together_and_seldom(kept):
    async def story():
        for number in range(600):
            kept.change(b"busy %d\n" % number)
            await trio.sleep(0.1)
        await trio.sleep(2 * EVERY_S)
        assert kept.path.read_bytes() == b"busy 599\n"

    kept.live(story)
    assert len(kept.written) == 5
    assert all(
        later - before >= EVERY_S for before, later in zip(kept.written, kept.written[1:], strict=False)
    )


def test_what_did_not_change_is_not_written(kept):
    async def story():
        for _ in range(10):
            kept.change(kept.content)
            await trio.sleep(HOUR)

    kept.live(story)
    assert len(kept.written) == 1


def test_it_goes_with_the_service(kept):
    async def story():
        await trio.sleep(2)
        assert kept.path.exists()

    kept.live(story)
    assert not kept.path.exists()


def test_a_file_of_another_hand_stays_when_ours_was_never_written(kept):
    kept.path.write_bytes(b"theirs\n")

    async def story():
        await trio.sleep(0.5)

    kept.live(story)
    assert kept.path.read_bytes() == b"theirs\n"


def test_a_directory_that_is_missing_is_told_once_and_no_reason_to_fail(kept, caplog):
    kept.file = MetricsFile(str(kept.path.parent / "not" / "there.prom"), kept.text)

    async def story():
        for number in range(5):
            kept.change(b"%d\n" % number)
            await trio.sleep(HOUR)
        (kept.path.parent / "not").mkdir()
        kept.change(b"now\n")
        await trio.sleep(2)
        assert (kept.path.parent / "not" / "there.prom").read_bytes() == b"now\n"

    with caplog.at_level(logging.WARNING, logger="identityd"):
        kept.live(story)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "not/there.prom cannot be written: No such file or directory" in told


def test_a_link_that_lies_in_the_way_is_not_followed(kept):
    victim = kept.path.parent / "victim"
    victim.write_bytes(b"precious\n")
    os.symlink(victim, f"{kept.path}.new")
    os.symlink(victim, kept.path)

    async def story():
        await trio.sleep(HOUR)
        kept.change(b"two 2\n")
        await trio.sleep(2)
        assert kept.path.read_bytes() == b"two 2\n"
        assert not kept.path.is_symlink()

    kept.live(story)
    assert victim.read_bytes() == b"precious\n"
