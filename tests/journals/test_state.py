"""Across releases: what an earlier one left starts here; what a later one left is set aside, and served.

The first with everything that a release left on disk, as a real process. The second with journals that are
changed as a later release may change them (docs/reference/journal.md).
"""

import hashlib
import json
import os
import tarfile
from pathlib import Path

import msgspec
import pytest

from adapters.driven.journal_file import ACTIVE, open_journal
from adapters.restore import restore_history
from statemachine.journal import FORMAT, START, read, sequence_of
from statemachine.machine import RULES_REVISION
from statemachine.replay import replay_files
from tests.journals import state
from tests.service.device import effects_of, short_root

HERE = Path(__file__).parent
ARCHIVES = sorted(HERE.glob("recorded-*/state.tar.gz"))


def rechained(content, change):
    """The journal with its lines as ``change`` makes them from their members, and every hash after it."""
    lines, last = [], START
    for number, line in enumerate(content.splitlines()):
        members = {key: value for key, value in json.loads(line).items() if key != "hash"}
        for one in change(number, members):
            body = json.dumps(one, separators=(",", ":")).encode()
            last = hashlib.sha256(last.encode() + body).hexdigest()
            lines.append(body[:-1] + b',"hash":"' + last.encode() + b'"}\n')
    return b"".join(lines)


def record_after(members):
    """The next record, of an event that this release does not know."""
    event = {"type": "something-new", "draw_ppm": 5}
    return members | {"sequence": members["sequence"] + 1, "event": event, "effects": []}


def last_of(content):
    return content.count(b"\n") - 1


# --- what a later release may write ------------------------------------------------------------------


def newer_format(content):
    return rechained(content, lambda n, line: [line | {"format": FORMAT + 1}] if n == 0 else [line])


def newer_rules(content):
    return rechained(
        content, lambda n, line: [line | {"rules_revision": RULES_REVISION + 1}] if n == 0 else [line]
    )


def newer_rules_after_an_upgrade(content):
    """A later release that goes on in the file it found."""
    event = {"type": "rules-changed", "before": RULES_REVISION, "after": RULES_REVISION + 1}
    last = last_of(content)
    return rechained(
        content, lambda n, line: [line] if n < last else [line, record_after(line) | {"event": event}]
    )


def newer_checkpoint_alone(content):
    """Right after its compaction: no record says that the rules were others."""
    snapshot = msgspec.to_builtins(replay_files([("journal", content)]).snapshot)
    first = snapshot["sequence"] + 1

    def change(number, line):
        if number == 0:
            return [line | {"rules_revision": RULES_REVISION + 1, "first_sequence": first}]
        return [line | {"snapshot": snapshot}] if number == 1 else []

    return rechained(content, change)


def newer_field_of_the_snapshot(content):
    return rechained(
        content,
        lambda n, line: [line | {"snapshot": line["snapshot"] | {"colour": "red"}}] if n == 1 else [line],
    )


def newer_tag(content):
    return rechained(
        content, lambda n, line: [line | {"event": {"type": "something-new"}}] if n == 5 else [line]
    )


def newer_tag_at_the_end(content):
    """Whole, with its right hash: no torn write, and maybe acted upon."""
    last = last_of(content)
    return rechained(content, lambda n, line: [line] if n < last else [line, record_after(line)])


def newer_effect(content):
    last = last_of(content)
    return rechained(
        content, lambda n, line: [line] if n < last else [line | {"effects": [{"type": "sing"}]}]
    )


def newer_field(content):
    return rechained(
        content, lambda n, line: [line | {"event": line["event"] | {"colour": "red"}}] if n == 4 else [line]
    )


def newer_word(content):
    return rechained(content, lambda n, line: [line | {"verdict": "postponed"}] if n == 4 else [line])


def newer_line(content):
    last = last_of(content)
    return rechained(content, lambda n, line: [line] if n < last else [line, {"type": "footer"}])


NEWER = {
    newer_format: "from a newer release",
    newer_rules: "does not replay under the rules of this release",
    newer_rules_after_an_upgrade: "does not replay under the rules of this release",
    newer_checkpoint_alone: "does not replay under the rules of this release",
    newer_field_of_the_snapshot: "not a line this release knows",
    newer_tag: "not a line this release knows",
    newer_tag_at_the_end: "not a line this release knows",
    newer_effect: "not a line this release knows",
    newer_field: "not a line this release knows",
    newer_word: "not a line this release knows",
    newer_line: "not a line this release knows",
}


@pytest.fixture(scope="module")
def written():
    return (HERE / "recorded-0.1.0/renewal.jsonl").read_bytes()


def test_nothing_changed_is_the_same_bytes(written):
    """So that what is told below is told for the change."""
    assert rechained(written, lambda _, line: [line]) == written


@pytest.mark.parametrize("change", NEWER, ids=lambda change: change.__name__)
def test_a_journal_of_a_later_release_is_set_aside_untouched(tmp_path, written, change):
    content = change(written)
    assert content != written
    (tmp_path / ACTIVE).write_bytes(content)
    header = read(written).header
    journal = open_journal(str(tmp_path), sequence_of)
    restored = restore_history(journal, header)
    journal.close()
    assert (tmp_path / f"{ACTIVE}.damaged-1").read_bytes() == content
    (note,) = restored.notes
    assert NEWER[change] in note
    assert "set aside" in note
    assert restored.snapshot.epoch > header.epoch
    assert restored.snapshot.sequence >= 1_000_000, "no number that the later release can have used"


# --- real processes ----------------------------------------------------------------------------------


@pytest.fixture
def kept(request):
    with short_root() as root:
        state.unpack(request.param, root)
        made = state.Kept(root)
        try:
            yield made
        finally:
            made.close()


each_release = pytest.mark.parametrize("kept", ARCHIVES, indirect=True, ids=lambda path: path.parent.name)


def test_every_release_left_something():
    assert ARCHIVES
    with tarfile.open(ARCHIVES[0]) as tar:
        assert {"device/etc/aziot/config.toml", "cloud/cloud/ca.key"} <= set(tar.getnames())


@each_release
def test_what_a_release_left_starts_under_this_one(kept):
    device = kept.device
    assert kept.cloud.port == state.PORT, "something else listens there: the device knows its cloud by that"
    before, last = device.pair(), device.records()[-1]["sequence"]
    kept.start()
    status = device.until_provisioned()
    assert device.pair() == before
    assert status["credential"]["generation"] == before.generation
    assert status["degraded"] == []
    assert not status["stuck"]
    reading = device.reading()
    assert reading.snapshot.epoch == 1, "the same history goes on"
    new = [record for record in device.records() if record["sequence"] > last]
    assert new[0]["sequence"] == last + 1
    assert not effects_of(new, "submit-registration")
    assert device.attempt("renew")[-1]["state"] == "Provisioned"
    after = device.pair()
    assert after.generation == before.generation + 1
    assert after.spki != before.spki
    assert device.stop() == 0
    status, said = device.run("replay")
    assert (status, said[:5]) == (0, "equal")


@each_release
def test_what_a_later_release_left_is_served_from_the_stores(kept):
    device = kept.device
    before = device.pair()
    content = newer_tag_at_the_end(device.journal.read_bytes())
    device.journal.write_bytes(content)
    os.chmod(device.journal, 0o600)
    kept.start()
    status = device.until_provisioned()
    (note,) = status["degraded"]
    assert "set aside" in note
    assert device.journal.with_name(f"{ACTIVE}.damaged-1").read_bytes() == content
    assert device.pair() == before
    served = device.certificate("aziot-dps-identity-cert").json["pem"].encode()
    assert served == before.chain_pem
    assert not effects_of(device.records(), "submit-registration")
    assert device.attempt("renew")[-1]["state"] == "Provisioned"
    assert device.pair().generation == before.generation + 1
