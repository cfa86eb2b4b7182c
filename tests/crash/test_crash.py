"""A slice of the enumeration, and the proof that it can fail: stores broken on purpose are found."""

import os

import pytest

from adapters.driven import generation_changes, journal_file
from tests.crash import faults, image, models, twice
from tests.crash.__main__ import Trial
from tests.crash.judge import Wrong, empty_directory, judge
from tests.crash.recording import Recorder
from tests.crash.sequence import BEGINNING, CHAPTERS, Life, Recording, lived

SLICE = 10
"Cases of each model, spread evenly."


@pytest.fixture(scope="module")
def trial():
    return Trial()


def around_a_flip(trial, before=6, after=3):
    """The second credential becomes current: everything is at stake."""
    said = [one.said for one in trial.life.recorder.operations]
    flips = [n for n, one in enumerate(said) if one.endswith("credentials/current")]
    return range(flips[1] - before, flips[1] + after)


def wrong(trial, cases):
    step = max(1, len(cases) // SLICE)
    return [(case, verdict.wrong) for case, verdict in trial.try_all(cases[::step]) if verdict.wrong]


def test_the_recording_is_the_disk(trial):
    assert trial.unrecorded == []
    assert len(trial.life.opening) == len(CHAPTERS)
    assert len(trial.life.recorder.recorded) > 500


def test_all_that_is_to_be_tried_is_in_the_life(trial):
    said = [one.said for one in trial.life.recorder.operations]
    keys = [
        node.data
        for one in trial.life.recorder.operations
        if isinstance(one, image.Names) and one.said.endswith(".new/key.pem")
        if isinstance(node := trial.life.recorder.image[one.assigned[0][2]], image.File)
    ]
    assert keys[0] == keys[1], "the second credential has the key of the first"
    assert len(set(keys)) == len(keys) - 1 >= 4, "every other has its own"
    assert trial.life.end.cloud.hub == "hub-2.example"
    assert any(one.startswith("link") and "/journal-" in one for one in said), "a file is closed"
    assert any(one.startswith("unlink") and "/journal-" in one for one in said), "one is dropped"
    assert any(one.endswith("credentials/1.gone") for one in said), "a generation goes"


@pytest.mark.parametrize("model", models.MODELS)
def test_a_slice_of_every_model_passes(trial, model):
    found = models.enumerate_states(
        trial.life, trial.prefixes, model, sample=0, seed=1, only=around_a_flip(trial)
    )
    assert found.reduced == 0
    assert len(found.states) >= 4
    assert wrong(trial, found.states) == []


def test_a_slice_of_two_crashes_passes(trial):
    kills = [twice.Kill(around_a_flip(trial)[3])]
    ((_, verdict),) = trial.try_all(kills)
    assert verdict.wrong is None
    assert verdict.judged > 4


def test_a_slice_of_the_faults_passes(trial):
    injections = faults.injections(trial.life)
    assert {one.kind for one in injections} == set(faults.KINDS)
    assert wrong(trial, injections) == []


# --- the models --------------------------------------------------------------------------------------


def test_a_name_may_be_there_without_its_content_and_the_other_way_round():
    with empty_directory() as root, Recorder(root, lambda: BEGINNING) as recorder:
        path = f"{root}/file"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(b"content")
        assert recorder.unrecorded() == []
    found = models.prefixes(Life(recorder=recorder, opening=(), end=BEGINNING))
    for missing, seen in (((), b"content"), ((1,), b""), ((0,), None), ((0, 1), None)):
        state = models.State(model="reordered", prefix=len(found) - 1, missing=missing)
        disk = models.image_of(found[-1], state)
        names = disk[image.ROOT].entries
        assert (disk[names["file"]].data if names else None) == seen


def test_what_is_not_recorded_is_noticed():
    with empty_directory() as root:
        with Recorder(root) as recorder:
            os.mkdir(f"{root}/seen", 0o700)
        os.mkdir(f"{root}/unseen")
        os.chmod(f"{root}/seen", 0o750)
        assert len(recorder.unrecorded()) == 2


# --- the judge can fail ------------------------------------------------------------------------------


def first_wrong(model, *, since=0, operations=1):
    """Of a first registration by the stores as they are now; ``since`` counts from its flip."""
    with empty_directory() as root:
        life = lived(root, 1)
        assert life.recorder.unrecorded() == []
    found = models.prefixes(life)
    flips = [n for n, one in enumerate(life.recorder.operations) if one.said.endswith("credentials/current")]
    begin = flips[0] + 1 + since
    only = range(begin, begin + operations)
    states = models.enumerate_states(life, found, model, sample=50, seed=1, only=only)
    for state in sorted(states.states, key=lambda state: -len(state.missing)):  # unluckiest first
        prefix = found[state.prefix]
        try:
            judge(models.image_of(prefix, state), prefix.moment, tidy=model != "torn")
        except Wrong as exc:
            return str(exc)
    return None


def without_sync(path, content, *, mode=0o600):
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(handle, "wb") as file:
        file.write(content)


def test_a_commit_of_files_that_are_not_synced_is_found(monkeypatch):
    monkeypatch.setattr(generation_changes, "write_synced", without_sync)
    assert first_wrong("reordered", since=1) is not None


def test_a_flip_that_is_not_synced_is_found(monkeypatch):
    monkeypatch.setattr(
        generation_changes.GenerationChanges, "flip", lambda changes, generation: changes._aim(generation)
    )
    assert first_wrong("reordered", operations=2) == "no certificate is published"


def test_an_append_that_is_not_synced_is_found(monkeypatch):
    def write(journal, line):
        journal_file._write_at(journal._handle, line, journal._length)

    monkeypatch.setattr(journal_file.JournalFile, "_write", write)
    assert "was durable" in first_wrong("reordered", since=2)


def test_a_flip_in_two_steps_is_found(monkeypatch):
    def aim(changes, generation):
        path = changes.layout.pointer_path
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(str(generation), path)

    monkeypatch.setattr(generation_changes.GenerationChanges, "_aim", aim)
    with empty_directory() as root:
        life = lived(root, 2)
    found = models.prefixes(life)
    states = models.enumerate_states(life, found, "ordered", sample=0, seed=1)
    unlinked = [
        n + 1
        for n, one in enumerate(life.recorder.operations)
        if one.said == "unlink var/lib/aziot/identityd/credentials/current"
    ]
    (state,) = [state for state in states.states if state.prefix == unlinked[0]]
    with pytest.raises(Wrong, match="no certificate is published"):
        judge(models.image_of(found[state.prefix], state), found[state.prefix].moment, tidy=True)


def test_a_file_that_others_may_read_is_found(monkeypatch):
    with empty_directory() as root:
        recording = Recording(root, BEGINNING)
        with recording.recorder:
            os.mkdir(f"{root}/var", 0o755)
            os.chmod(f"{root}/var", 0o755)
        with pytest.raises(Wrong, match="has mode 0755"):
            judge(recording.recorder.image, BEGINNING, tidy=True)
