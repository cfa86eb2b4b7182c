"""`identityd journal export`: one file that replays as its original does, with its names or with others."""

import re
import stat
import typing
from enum import Enum
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from adapters import journal_copy
from adapters.__main__ import identityd
from adapters.journal_copy import KEPT, KINDS, TEXTS, copy_journal
from adapters.pseudonyms import Pseudonyms
from statemachine.compare import compare
from statemachine.errors import JournalUnreadable
from statemachine.events import RegistrationAssigned
from statemachine.journal import AnyLine, Header, Record, encode_line, head_lines, read
from statemachine.replay import fold, replay_files

HERE = Path(__file__).parent
JOURNALS = sorted(
    [*HERE.glob("*.jsonl"), *HERE.glob("recorded-*/*.jsonl"), *HERE.glob("recorded-*/compaction")]
)
RENEWAL = HERE / "recorded-0.1.0/renewal.jsonl"
COMPACTION = HERE / "recorded-0.1.0/compaction"


def contents(path):
    files = [path] if path.is_file() else [*sorted(path.glob("journal-*.jsonl")), path / "journal.jsonl"]
    return [(file.name, file.read_bytes()) for file in files]


def named(*paths):
    return [word for path in paths for word in ("--journal", str(path))]


def values(content, fields):
    """What stands in these fields anywhere in a journal."""
    found = set()

    def look(value):
        if isinstance(value, dict):
            for name, one in value.items():
                if name in fields and isinstance(one, str) and one:
                    found.add(one)
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    for line in content.splitlines():
        look(msgspec.json.decode(line))
    return found


NAMES = {name.rpartition(".")[2] for name in KINDS} - {"trust_bundle_id", "bundle_id", "id"}


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.parametrize("other_names", [False, True])
def test_every_journal_replays_as_its_original_does(path, other_names):
    before = replay_files(contents(path))
    copied = copy_journal(contents(path), Pseudonyms() if other_names else None)
    after = replay_files([("the copy", copied.content)])
    assert after.unreadable is None
    assert (after.equal, after.records) == (before.equal, before.records)
    assert copied.records == sum(len(read(content).records) for _, content in contents(path))
    if before.equal:
        assert [step.record.state for step in _steps(copied.content)] == [
            record.state for _, content in contents(path) for record in read(content).records
        ]


def _steps(content):
    from statemachine.replay import steps_of

    return list(steps_of([("the copy", content)]))


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_name_is_left(path):
    original = b"".join(content for _, content in contents(path))
    copied = copy_journal(contents(path), Pseudonyms()).content
    names = {one for one in values(original, NAMES) if "localhost" not in one}
    assert names
    assert not names & values(copied, NAMES)
    for name in names:
        # anon-device-1 is nobody's device-1.
        assert not re.search(rb"(?<![\w-])" + re.escape(name.encode()) + rb"(?![\w-])", copied), name
    for certificate in values(original, {"chain_pem", "bundle_pem"}):
        assert certificate.encode() not in copied


def test_the_same_names_are_the_same_everywhere():
    original, copied = RENEWAL.read_bytes(), copy_journal(contents(RENEWAL), Pseudonyms()).content
    for fields in (
        {"spki_sha256"},
        {"sha256"},
        {"operation_id"},
        {"chain_pem"},
        {"device_id", "common_name"},
    ):
        assert len(values(copied, fields)) == len(values(original, fields)), fields
    assert values(copied, {"device_id", "common_name", "registration_id", "subject_cn", "device"}) == {
        "anon-device-1"
    }


def test_the_same_journal_gives_the_same_copy():
    first, second = (copy_journal(contents(RENEWAL), Pseudonyms()).content for _ in range(2))
    assert first == second


def test_without_other_names_nothing_but_the_hashes_may_change():
    copied = copy_journal(contents(RENEWAL))
    assert compare(contents(RENEWAL), [("the copy", copied.content)]).same
    assert copied.content == RENEWAL.read_bytes()


def test_several_files_become_one():
    copied = copy_journal(contents(COMPACTION))
    (first, second) = (read(content) for _, content in contents(COMPACTION))
    whole = read(copied.content)
    assert whole.problem is None
    assert whole.records == (*first.records, *second.records)
    assert whole.header.first_sequence == copied.first_sequence == 1
    assert copied.notes == ()


def test_where_history_begins_anew_the_copy_begins():
    """A new epoch, or a file that was lost between two."""
    first, (name, second) = contents(COMPACTION)
    other = RENEWAL.read_bytes()
    copied = copy_journal([("journal-000000000001.jsonl", other), (name, second)])
    assert copied.first_sequence == read(second).header.first_sequence
    assert copied.notes == (f"35 records before {name} are left out: the history begins anew there",)
    assert first


def test_a_torn_end_is_left_out_and_told():
    content = RENEWAL.read_bytes()
    copied = copy_journal([("journal.jsonl", content[:-40])])
    assert copied.records == 34
    assert copied.notes == ("journal.jsonl: its last line is cut off, and left out",)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda content: content.replace(b'"generation":1', b'"generation":2', 1),
            "its hash does not follow",
        ),
        (lambda content: b"", "it ends before its checkpoint"),
        (lambda content: b"\x00" * 1000, "line 1"),
    ],
    ids=["changed", "empty", "garbage"],
)
def test_what_cannot_be_read_is_not_copied(damage, words, tmp_path, capsys):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(damage(RENEWAL.read_bytes()))
    with pytest.raises(JournalUnreadable, match=words):
        copy_journal([("journal.jsonl", path.read_bytes())], Pseudonyms())
    assert identityd(["journal", "export", *named(path)]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "--journal" in said.err
    assert said.out == ""


def test_a_copy_that_tells_another_story_is_refused(monkeypatch):
    """Should a field that decisions look at ever be replaced by mistake."""
    monkeypatch.setattr(journal_copy, "KEPT", KEPT - {"answers"})
    with pytest.raises(JournalUnreadable, match="does not replay as the journal does"):
        copy_journal(contents(RENEWAL), Pseudonyms())


# --- every field has its row -------------------------------------------------------------------------


def _texts(kind, seen, where=""):
    """Fields of the journal's values that hold text or bytes, and are no closed word list."""
    origin = typing.get_origin(kind)
    if origin is not None or isinstance(kind, typing._UnionGenericAlias | type(int | str)):
        for one in () if origin is typing.Literal else typing.get_args(kind):
            yield from _texts(one, seen, where)
    elif isinstance(kind, type) and issubclass(kind, Struct):
        if kind not in seen:
            seen.add(kind)
            for name, one in typing.get_type_hints(kind).items():
                if not name.startswith("__"):
                    yield from _texts(one, seen, f"{kind.__name__}.{name}")
    elif kind in (str, bytes) and not issubclass(kind, Enum):
        yield where, kind


def test_every_text_of_a_journal_is_a_name_words_or_kept():
    fields = dict(_texts(AnyLine, set()))
    assert len(fields) > 50
    for place, kind in fields.items():
        name = place.rpartition(".")[2]
        if kind is bytes:
            assert name.endswith("_pem"), place
        else:
            assert (place in KINDS) + (name in KINDS) + (name in TEXTS) + (name in KEPT) >= 1, place
    told = {place.rpartition(".")[2] for place in fields}
    assert told >= TEXTS
    assert {name for name in KINDS if "." not in name} <= told


# --- words -------------------------------------------------------------------------------------------


@pytest.fixture
def names():
    pseudonyms = Pseudonyms()
    pseudonyms.of("device", "Thermostat-7")
    pseudonyms.of("host", "acme.azure-devices.net:8443")
    pseudonyms.of("scope", "0ne00ACME")
    return pseudonyms


@pytest.mark.parametrize(
    ("words", "replaced"),
    [
        (
            "cannot connect to acme.azure-devices.net: refused",
            "cannot connect to anon-host-1.invalid: refused",
        ),
        ("no device THERMOSTAT-7 here", "no device anon-DEVICE-1 here"),
        ("thermostat-70 is another", "thermostat-70 is another"),
        ("scope 0ne00ACME/registrations", "scope anon-scope-1/registrations"),
        ("at 10.1.2.3 and fe80:0:0:0:1::2", "at anon-address-1 and anon-address-2"),
        ("see https://intern.acme.example/x/y", "see https://anon-host-2.invalid/anon-path-1"),
        ("files /home/ann/keys/a.pem", "files /anon-path-1"),
        ("/home/ann/root/etc/aziot/config.toml is not TOML", "/etc/aziot/config.toml is not TOML"),
        ("asked global.azure-devices-provisioning.net", "asked global.azure-devices-provisioning.net"),
        ("id 441bcbd4-506b-4563-9606-01ac97adf627", "id anon-tracking-1"),
        ("key aGVsbG8gd29ybGQgdGhpcyBpcyAx", "key anon-name-1"),
        (
            "The device has no identity yet, so it registers.",
            "The device has no identity yet, so it registers.",
        ),
        ("cut off in Thermos", "cut off in anon-device-1"),
        ("", ""),
    ],
)
def test_words(names, words, replaced):
    def spelling(text):
        return re.sub(r"(?i)anon-device-1", "anon-device-1", text)

    assert spelling(names.text(words)) == spelling(replaced)


def test_names_that_differ_in_case_alone_still_do():
    """DPS compares common names without regard to case, and other names are compared as they are."""
    pseudonyms = Pseudonyms()
    spellings = ["device", "DEVICE", "Device", "deVice"]
    others = [pseudonyms.of("device", one) for one in spellings]
    assert len(set(others)) == 4
    assert len({one.casefold() for one in others}) == 1
    assert pseudonyms.of("device", "another").casefold() not in {one.casefold() for one in others}


def test_a_certificate_for_another_spelling_is_still_taken():
    content = RENEWAL.read_bytes()
    reading = read(content)
    records = []
    for record in reading.records:
        event = record.event
        if isinstance(event, RegistrationAssigned):
            chain = msgspec.structs.replace(event.chain, subject_cn=event.chain.subject_cn.upper())
            record = msgspec.structs.replace(record, event=msgspec.structs.replace(event, chain=chain))
        records.append(record)
    assert fold(reading.snapshot, records, reading.header.rules_revision)[2] is None
    copied = copy_journal(
        [("journal.jsonl", _written(reading.header, reading.snapshot, records))], Pseudonyms()
    )
    assert replay_files([("the copy", copied.content)]).equal
    assert len(values(copied.content, {"subject_cn", "common_name"})) == 2


def _written(header: Header, snapshot, records: list[Record]) -> bytes:
    lines, digest = head_lines(header, snapshot)
    content = b"".join(lines)
    for record in records:
        line, digest = encode_line(record, digest)
        content += line
    return content


def test_ports_stay():
    pseudonyms = Pseudonyms()
    assert pseudonyms.of("host", "hub.example:8443") == "anon-host-1.invalid:8443"
    assert pseudonyms.of("url", "https://hub.example") == "https://anon-host-1.invalid"
    assert pseudonyms.of("url", "https://user:word@hub.example:1") == "https://anon-host-1.invalid:1"


# --- as typed ----------------------------------------------------------------------------------------


def test_to_a_file(tmp_path, capsys):
    to = tmp_path / "out.jsonl"
    assert identityd(["journal", "export", "--pseudonymise", *named(RENEWAL), str(to)]) == 0
    assert capsys.readouterr().out == f"{to}: 35 records, from record 1\n"
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    assert identityd(["replay", str(to)]) == 0
    assert capsys.readouterr().out.startswith("equal: 35 records")


def test_to_standard_output(capfdbinary):
    assert (
        identityd(["journal", "export", *named(*(COMPACTION / name for name, _ in contents(COMPACTION)))])
        == 0
    )
    assert replay_files([("out", capfdbinary.readouterr().out)]).equal


def test_a_place_that_is_no_file(tmp_path, capsys):
    assert identityd(["journal", "export", *named(RENEWAL), str(tmp_path)]) == 1
    assert "is not a plain file" in capsys.readouterr().err
    assert identityd(["journal", "export", *named(RENEWAL), str(tmp_path / "none/out")]) == 1
    assert "make it first" in capsys.readouterr().err
