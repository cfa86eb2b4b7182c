"""`identityd replay` with `--diff` and `--what-if`, on recorded journals."""

import shutil
from pathlib import Path

import msgspec
import pytest

from adapters.__main__ import identityd
from statemachine.compare import Comparison
from statemachine.what_if import WhatIf

HERE = Path(__file__).parent
RECORDED = HERE / "recorded-0.1.0"
SCRIPTED = str(HERE / "register-renew.jsonl")
RENEWAL = str(RECORDED / "renewal.jsonl")
COMPACTION = RECORDED / "compaction"

EARLIER = """
[identityd.renewal]
earliest_percent = 40
latest_percent = 50
"""


@pytest.fixture
def settings(tmp_path):
    def write(text):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return str(path)

    return write


# --- two journals ------------------------------------------------------------------------------------


def test_the_same_journal(capsys):
    assert identityd(["replay", "--diff", RENEWAL, RENEWAL]) == 0
    assert capsys.readouterr().out == "same: 35 records, from record 1\n"


def test_where_two_lives_part(capsys):
    assert identityd(["replay", "--diff", SCRIPTED, str(HERE / "divergent.jsonl")]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "the same for 20 records, from record 1"
    assert said[1].startswith("they part at record 21: The same event was answered otherwise")
    assert said[2].startswith('- [{"type":"arm-delay"')
    assert said[3].startswith('+ [{"type":"disarm"')
    assert said[4] == "first other: effects at 21"
    assert any(line.split() == ["registrations", "10", "10"] for line in said)


def test_what_is_not_the_same_is_marked(capsys):
    assert identityd(["replay", "--diff", RENEWAL, str(RECORDED / "outage-past-expiry.jsonl")]) == 1
    said = capsys.readouterr().out.splitlines()
    marked = {line[2:].split("  ")[0] for line in said if line.startswith("* ")}
    assert {"records", "attempts begun", "failed: unreachable"} <= marked
    unmarked = {line[2:].split("  ")[0] for line in said if line.startswith("  ")}
    assert {"starts", "at the end"} <= unmarked


def test_directories_are_series(tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(COMPACTION, copy)
    assert identityd(["replay", "--diff", str(COMPACTION), str(copy)]) == 0
    said = capsys.readouterr().out
    (copy / "journal-000000000001.jsonl").unlink()
    assert identityd(["replay", "--diff", str(COMPACTION), str(copy)]) == 0
    assert capsys.readouterr().out != said, "what only one remembers is left out"


def test_a_comparison_for_programs(capsys):
    assert identityd(["replay", "--json", "--diff", SCRIPTED, str(HERE / "divergent.jsonl")]) == 1
    found = msgspec.json.decode(capsys.readouterr().out, type=Comparison)
    assert (found.same, found.parting.sequence) == (False, 21)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--diff", SCRIPTED, "{dir}/nowhere"], "nowhere"),
        (["--diff", SCRIPTED, "{dir}"], "there is no journal in"),
        (["--diff", SCRIPTED, "{dir}/garbage"], "garbage: line 1: "),
        (["--diff", SCRIPTED, SCRIPTED, SCRIPTED], "--diff takes two journals and no other files"),
        (["--what-if", "{dir}/nowhere", SCRIPTED], "nowhere"),
        (["--what-if", "{dir}/garbage", SCRIPTED], "garbage is not TOML"),
        (["--what-if", "{dir}/good", "{dir}/garbage"], "garbage: line 1: "),
        (["--what-if", "{dir}/good", str(HERE / "divergent.jsonl")], "it does not replay"),
    ],
)
def test_what_cannot_be_read(tmp_path, capsys, words, problem):
    (tmp_path / "garbage").write_bytes(b"\x00garbage = \n")
    (tmp_path / "good").write_text(EARLIER)
    directory = str(tmp_path / "sub") if words[-1] == "{dir}" else str(tmp_path)
    (tmp_path / "sub").mkdir()
    assert identityd(["replay", *(word.replace("{dir}", directory) for word in words)]) == 2
    assert problem in capsys.readouterr().err


def test_a_key_that_says_nothing_is_told(tmp_path, capsys):
    """Or the answer would be taken for one to another question."""
    (tmp_path / "unknown").write_text("[identityd.renewal]\ncolour = 1\n")
    assert identityd(["replay", "--what-if", str(tmp_path / "unknown"), SCRIPTED]) == 0
    assert "colour" in capsys.readouterr().err


def test_one_or_the_other(capsys):
    with pytest.raises(SystemExit) as ended:
        identityd(["replay", "--what-if", "x", "--diff", SCRIPTED, SCRIPTED])
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


# --- other settings ----------------------------------------------------------------------------------


def test_settings_that_change_nothing(settings, capsys):
    assert identityd(["replay", "--what-if", settings(""), SCRIPTED]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["these are the settings of the journal", "0 of 92 decisions would have been otherwise"]


def test_renewing_earlier(settings, capsys):
    assert identityd(["replay", "--what-if", settings(EARLIER), SCRIPTED]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["renewal_earliest_percent: 70 -> 40", "renewal_latest_percent: 90 -> 50"]
    assert "(27 d earlier)" in "".join(said)
    ends = [line for line in said if line.startswith("  there the evidence ends: at ")]
    assert len(ends) == 5, "one for each certificate that was renewed by its deadline"
    assert "  to the end of the journal" in said


def test_a_whole_configuration_will_do(settings, capsys):
    """What it says of who the device is, is not looked at."""
    text = (
        '[provisioning]\nsource = "dps"\n'
        'global_endpoint = "https://elsewhere.example"\nid_scope = "0ne0other"\n'
        '[provisioning.attestation]\nmethod = "symmetric_key"\nregistration_id = "another"\n'
        'symmetric_key = { value = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=" }\n'
    )
    assert identityd(["replay", "--what-if", settings(text), SCRIPTED]) == 0
    assert capsys.readouterr().out.startswith("these are the settings of the journal")
    assert identityd(["replay", "--what-if", settings(text + EARLIER), SCRIPTED]) == 1


def test_what_if_for_programs(settings, capsys):
    words = ["replay", "--json", "--what-if", settings(EARLIER), RENEWAL]
    assert identityd(words) == 1
    found = msgspec.json.decode(capsys.readouterr().out, type=WhatIf)
    assert found.records == 35
    assert found.different
    assert [stretch.ends for stretch in found.stretches] == ["evidence", "evidence", "journal"]


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.jsonl")), ids=lambda path: path.stem)
def test_every_recording_under_other_settings(settings, capsys, path):
    """Whatever happened to a device, the question has an answer, and the same one each time."""
    text = (
        EARLIER
        + "[identityd.attempts]\nbackoff_base_sec = 60\nbackoff_cap_sec = 600\n"
        + '[identityd.keys]\nalgorithm = "rsa-2048"\n'
    )
    words = ["replay", "--what-if", settings(text), str(path)]
    assert identityd(words) == 1
    said = capsys.readouterr().out
    assert identityd(words) == 1
    assert capsys.readouterr().out == said
    assert "followed from record 1, " in said
