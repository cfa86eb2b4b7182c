"""What may change in the vocabulary of a journal, held against what each release could write."""

import copy
import json
import re

import pytest

from statemachine.effects import EFFECTS
from statemachine.events import EVENTS, tag_of
from statemachine.machine import RULES_REVISION
from statemachine.replay import RULES
from tests.journals import schema
from tests.service.device import REPOSITORY

KEPT = schema.kept()


def spoilt(change):
    """This release's vocabulary after a change."""
    new = copy.deepcopy(schema.present())
    change(new, new["structs"])
    return schema.problems(schema.present(), new, rules=set(RULES))


def test_every_release_keeps_its_vocabulary():
    assert "recorded-0.1.0" in KEPT


@pytest.mark.parametrize("release", KEPT)
def test_this_release_reads_what_that_one_wrote(release):
    assert schema.problems(KEPT[release], schema.present(), rules=set(RULES)) == []


def test_nothing_is_left_out():
    """Every tag of this release; a vocabulary without one would not notice that it is gone."""
    tags = {entry["tag"] for entry in schema.present()["structs"].values()}
    assert {tag_of(one) for one in (*EVENTS, *EFFECTS)} | {"header", "checkpoint", "record"} <= tags
    text = json.dumps(schema.present())
    for word in ("retry", "window", "Committing", "CertExpiring", "taken", "rsa-4096", "spki_sha256"):
        assert word in text


def removed_event(new, structs):
    structs["Record"]["fields"]["event"]["type"].remove({"struct": "KeyStaged"})


def renamed_tag(new, structs):
    structs["SubmitRegistration"]["tag"] = "register"


def removed_field(new, structs):
    del structs["KeyStaged"]["fields"]["spki_sha256"]


def renamed_field(new, structs):
    fields = structs["Credential"]["fields"]
    fields["not_after_ms"] = fields.pop("not_after_unix_ms")


def new_required_field(new, structs):
    structs["Started"]["fields"]["colour"] = {"type": ["str"]}


def another_type(new, structs):
    structs["DeadlinePassed"]["fields"]["name"]["type"] = ["int"]


def narrowed(new, structs):
    structs["RegistrationAssigned"]["fields"]["substatus"]["type"].remove("null")


def word_gone(new, structs):
    structs["ArmDelay"]["fields"]["name"]["type"].remove('"reissue"')


def array_gone(new, structs):
    structs["RetireCredential"]["fields"]["keep"]["type"] = ["str"]


def item_narrowed(new, structs):
    structs["RetireCredential"]["fields"]["keep"]["type"] = [{"array": ["str"]}]


def another_default(new, structs):
    structs["PolicySettings"]["fields"]["renewal_latest_percent"]["default"] = 80


def default_gone(new, structs):
    del structs["ConfigurationChanged"]["fields"]["configuration_notes"]["default"]


def lenient(new, structs):
    structs["Snapshot"]["strict"] = False


def format_back(new, structs):
    new["format"] = 0


FOR_EVER = "is gone: what was written once is read for ever"
NEVER_RENAMED = "is gone: a field is never removed or renamed"
ONLY_ADDED = "values and types are only added"

NOT_ALLOWED = {
    removed_event: f"record.event: the tag key-staged {FOR_EVER}",
    renamed_tag: f"record.effects: the tag submit-registration {FOR_EVER}",
    removed_field: f"key-staged.spki_sha256 {NEVER_RENAMED}",
    renamed_field: f"Credential.not_after_unix_ms {NEVER_RENAMED}",
    new_required_field: "started.colour is new and has no default: older lines do not hold it",
    another_type: f'deadline-passed.name: "window" is gone: {ONLY_ADDED}',
    narrowed: f"registration-assigned.substatus: null is gone: {ONLY_ADDED}",
    word_gone: f'arm-delay.name: "reissue" is gone: {ONLY_ADDED}',
    array_gone: f"retire-credential.keep: no array any more: {ONLY_ADDED}",
    item_narrowed: f"retire-credential.keep: int is gone: {ONLY_ADDED}",
    another_default: "PolicySettings.renewal_latest_percent has another default: "
    "lines that left it out would mean something else",
    default_gone: "configuration-changed.configuration_notes has no default any more: "
    "lines without it were written",
    lenient: "Snapshot: unknown fields are let through: an older release must notice what it does not know",
    format_back: "the format's number went back: it only counts up",
}


@pytest.mark.parametrize("change", NOT_ALLOWED, ids=lambda change: change.__name__)
def test_what_is_not_allowed_is_told_with_its_rule(change):
    assert NOT_ALLOWED[change] in spoilt(change)


def test_rules_stay_callable():
    old = schema.present()
    (problem,) = schema.problems(old, old, rules={old["rules_revision"] + 1})
    assert problem.startswith(f"rules revision {old['rules_revision']} is gone")


def new_tag(new, structs):
    structs["Slept"] = {"tag": "slept", "strict": True, "fields": {}}
    structs["Record"]["fields"]["event"]["type"].append({"struct": "Slept"})


def new_optional_field(new, structs):
    structs["Started"]["fields"]["colour"] = {"type": ["str"], "default": ""}


def new_word(new, structs):
    structs["ArmDelay"]["fields"]["name"]["type"].append('"lunch"')


def any_word(new, structs):
    structs["ArmDelay"]["fields"]["name"]["type"] = ["str"]


def widened(new, structs):
    structs["RegistrationAccepted"]["fields"]["operation_id"]["type"].append("null")


def class_renamed(new, structs):
    structs["StagedKeyPair"] = structs.pop("StagedKey")
    structs["Snapshot"]["fields"]["staged"]["type"] = [{"struct": "StagedKeyPair"}, "null"]


def next_format(new, structs):
    new["format"] = 2
    structs["Header"]["fields"]["format"]["default"] = 2


@pytest.mark.parametrize(
    "change",
    [new_tag, new_optional_field, new_word, any_word, widened, class_renamed, next_format],
    ids=lambda change: change.__name__,
)
def test_what_is_allowed(change):
    assert spoilt(change) == []


def test_a_type_nobody_described_is_asked_about():
    with pytest.raises(TypeError, match="say here what it is in JSON"):
        schema._alternatives(schema.inspect.type_info(float), {})


def test_what_is_kept_is_not_written_again(capsys):
    assert schema.main() == 0
    assert capsys.readouterr().out == "recorded-0.1.0: kept\n"


def test_every_revision_of_the_rules_is_told_and_callable():
    page = (REPOSITORY / "docs/reference/journal.md").read_text()
    told = [int(number) for number in re.findall(r"^\| (\d+) \| .{6,} \|$", page, re.M)]
    assert told == list(range(1, RULES_REVISION + 1)) == sorted(RULES)
