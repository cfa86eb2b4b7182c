"""Taking over what the original left: what is shown, what is done, what is refused, and the way back."""

import json
import os
import re
import stat
from pathlib import Path

import pytest

from adapters import __main__ as entry_points
from adapters.adoption import perform
from adapters.driven.credentials import GenerationStore
from adapters.driven.instance_lock import InstanceLock
from adapters.paths import paths_below
from adapters.wire import x509 as wire_x509
from tests.adapters.original_home import (
    BUNDLE,
    CERTIFICATE,
    CONFIG,
    DEVICE,
    HANDLES,
    HUB,
    KEY,
    MASTER,
    PREV_STATE,
    OriginalHome,
    file_name,
    issue,
)
from tests.service.device import short_root


@pytest.fixture
def original(memory):
    home = OriginalHome(memory / "o")
    home.configure()
    return home


@pytest.fixture
def memory():
    """Where syncing costs nothing."""
    with short_root() as root:
        yield root


@pytest.fixture
def elsewhere(original, memory):
    """The root of a service that has nothing yet but a configuration."""
    root = memory / "s"
    original.configure(root)
    return root


def adopt(capsys, root, *words):
    status = entry_points.identityd(["adopt", "--root", str(root), *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def planned(capsys, root, *words):
    status, out, err = adopt(capsys, root, "--json", *words)
    return status, json.loads(out), err


def actions(plan):
    return {(item["kind"], item["name"]): item["action"] for item in plan["items"]}


def current(root):
    paths = paths_below(str(root))
    store = GenerationStore(paths.state_dir, paths.certd_home, paths.keyd_home)
    return store, store.inventory().current


# --- the plan ----------------------------------------------------------------------------------------


def test_a_plan_in_place_changes_nothing_at_all(original, capsys):
    before = original.image()
    everything = sorted(original.root.rglob("*"))
    status, plan, err = planned(capsys, original.root)
    assert (status, err) == (0, "")
    assert plan["outcome"] == "goes-on"
    assert (plan["hub"], plan["device_id"], plan["in_place"]) == (HUB, DEVICE, True)
    assert plan["certificate"]["common_name"] == DEVICE
    assert actions(plan) == {
        ("identity", CERTIFICATE): "take",
        ("trust bundle", BUNDLE): "take",
        ("certificate", "aziot-edged-ca"): "stays",
        ("key", "aziot-edged-ca"): "stays",
        ("key", MASTER): "stays",
        ("key", HANDLES): "stays",
        ("modules", "2 of this device"): "stays",
    }
    assert original.image() == before
    assert sorted(original.root.rglob("*")) == everything


def test_a_plan_for_another_root_says_what_would_be_copied(original, elsewhere, capsys):
    status, plan, _ = planned(capsys, elsewhere, "--from", str(original.root))
    assert status == 0
    assert plan["outcome"] == "goes-on"
    assert set(actions(plan).values()) == {"take"}
    assert not (elsewhere / "var").exists()


def test_people_read_it(original, capsys):
    status, out, _ = adopt(capsys, original.root)
    assert status == 0
    for words in (DEVICE, HUB, r"take over +identity aziot-dps-identity-cert", "matches", r"in (29|30) d"):
        assert re.search(words, out), words
    assert "goes on as it is, without registering" in out
    assert "Nothing was changed. Do it with --apply." in out


def test_no_secret_is_told(original, capsys):
    (original.root / "etc/aziot/keyd/config.d/00-super.toml").write_text(
        '[aziot_keys]\npkcs11_base_slot = "pkcs11:token=t?pin-value=98765"\n'
    )
    _, out, err = adopt(capsys, original.root)
    _, plan, _ = planned(capsys, original.root)
    for text in (out, err, json.dumps(plan)):
        assert "98765" not in text
        assert "PRIVATE" not in text
        assert "c2VjcmV0" not in text


# --- doing it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--apply", "--yes"])
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "from elsewhere"])
def test_what_was_planned_is_done(original, elsewhere, capsys, in_place, flag):
    root = original.root if in_place else elsewhere
    before = original.image()
    status, plan, err = planned(capsys, root, flag, "--from", str(original.root))
    assert (status, err, plan["applied"]) == (0, "", True)
    assert original.image() == before, "the original starts again as it was"

    store, credential = current(root)
    assert (credential.hub, credential.device_id, credential.source) == (HUB, DEVICE, "issued")
    assert credential.certificate_type == "serverCertificate"
    assert credential.sha256 == wire_x509.facts(original.chain).sha256
    assert (credential.bundle_id, credential.bundle_certificates) == (BUNDLE, 2)
    assert store.repairs == ()
    assert store.read_certificate(CERTIFICATE) == original.chain
    assert store.read_certificate(BUNDLE) == original.bundle
    assert store.key_pem(1) == original.key
    state = root / "var/lib/aziot"
    assert (state / "keyd/keys" / file_name(MASTER, "key")).read_bytes() == bytes(range(32))
    assert (state / "certd/certs" / file_name("aziot-edged-ca", "cer")).exists()
    modules = sorted(path.name for path in (state / "identityd/modules").rglob("*") if path.is_file())
    assert [name.partition("-")[0] for name in modules] == ["edgeAgent", "telemetry"]
    reconciled = json.loads((state / "identityd/reconciled.json").read_text())
    assert reconciled == {"hub": HUB, "device_id": DEVICE, "modules": ["telemetry"]}
    for path in (state / "identityd").rglob("*"):
        if path.is_file() and "modules" not in str(path) and path.name not in ("device_info", "prev_state"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "from elsewhere"])
def test_done_twice_is_done_once(original, elsewhere, capsys, in_place):
    root = original.root if in_place else elsewhere
    words = ("--apply", "--from", str(original.root))
    assert adopt(capsys, root, *words)[0] == 0
    status, plan, _ = planned(capsys, root, *words)
    assert (status, plan["nothing_to_do"], plan["applied"]) == (0, True, False)
    current(root)  # a start, which has our links take the names over
    status, plan, _ = planned(capsys, root, *words)
    assert (status, plan["nothing_to_do"], plan["refusals"]) == (0, True, [])
    assert os.listdir(root / "var/lib/aziot/identityd/credentials").count("2") == 0
    status, out, _ = adopt(capsys, root, "--from", str(original.root))
    assert "Nothing to do. The device goes on as it is" in out


def test_an_assignment_without_certificate_is_one_too(original, capsys):
    (original.certs / file_name(CERTIFICATE, "cer")).unlink()
    (original.keys / file_name(KEY, "key")).unlink()
    status, plan, _ = planned(capsys, original.root, "--apply")
    assert (status, plan["outcome"], plan["certificate"]) == (0, "goes-on", None)
    _, credential = current(original.root)
    assert (credential.source, credential.hub, credential.bundle_certificates) == ("configured", HUB, 2)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ('[provisioning]\nsource = "none"\n', "none"),
        (
            '[provisioning]\nsource = "manual"\niothub_hostname = "h.example"\ndevice_id = "d"\n'
            '[provisioning.authentication]\nmethod = "sas"\ndevice_id_pk = { value = "AAEC" }\n',
            "assignment",
        ),
    ],
)
def test_where_the_configuration_is_the_assignment_only_the_rest_is_taken(
    original, elsewhere, capsys, config, why
):
    original.configure(elsewhere, config)
    status, plan, _ = planned(capsys, elsewhere, "--apply", "--from", str(original.root))
    assert (status, plan["outcome"]) == (0, "configured")
    assert why in plan["outcome_why"]
    assert actions(plan)[("identity", CERTIFICATE)] == "leave"
    assert actions(plan)[("key", MASTER)] == "take"
    assert actions(plan)[("certificate", BUNDLE)] == "take", "an ordinary certificate then"
    assert current(elsewhere)[1] is None


# --- whether it fits ---------------------------------------------------------------------------------


def other(old, new):
    return PREV_STATE.replace(old, new)


@pytest.mark.parametrize(
    ("prev_state", "words"),
    [
        (None, "no prev_state"),
        (other("0ne0001", "0ne0002"), "provisioning.id_scope"),
        (other("global.azure", "other.azure"), "provisioning.global_endpoint"),
        (other(f'"{DEVICE}"', '"another"'), "provisioning.attestation.registration_id"),
        (other('"symmetric_key"', '"x509"'), "provisioning.attestation.method"),
        (other('source = "dps"', 'source = "manual"'), "provisioning.source"),
        ("[provisioning\n", "prev_state is not TOML"),
        ("hostname = 1\n", "prev_state has no [provisioning]"),
        (other("https://", "ftp://"), "an endpoint that cannot be one"),
    ],
)
def test_an_assignment_made_for_something_else_serves_while_the_device_registers(
    original, capsys, prev_state, words
):
    path = original.identityd / "prev_state"
    path.unlink() if prev_state is None else path.write_text(prev_state)
    status, plan, _ = planned(capsys, original.root, "--apply")
    assert (status, plan["outcome"]) == (0, "registers")
    assert words in plan["outcome_why"]
    _, credential = current(original.root)
    assert credential.sha256 == wire_x509.facts(original.chain).sha256


@pytest.mark.parametrize(
    "prev_state",
    [
        other(f'"{DEVICE}"', f'"{DEVICE.upper()}"'),
        other(f'registration_id = "{DEVICE}"', f'registration_id = {{ CN = "{DEVICE}", O = "Contoso" }}'),
        other(f'registration_id = "{DEVICE}"\n', ""),
        other("devices-provisioning.net/", "devices-provisioning.net"),
    ],
    ids=["case", "a whole subject", "from the certificate", "without a slash"],
)
def test_another_spelling_is_the_same_registration(original, capsys, prev_state):
    (original.identityd / "prev_state").write_text(prev_state)
    status, plan, _ = planned(capsys, original.root)
    assert (status, plan["outcome"]) == (0, "goes-on")


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (lambda: issue(days=-0.5, begins=-2), "ended on"),
        (lambda: issue("somebody-else"), "CN"),
    ],
)
def test_a_certificate_that_will_not_do_for_long(original, capsys, pair, words):
    chain, key = pair()
    original.certificate(CERTIFICATE, chain)
    original.key_file(KEY, key)
    status, plan, _ = planned(capsys, original.root, "--apply")
    assert (status, plan["outcome"]) == (0, "registers")
    assert words in plan["outcome_why"]


def test_a_certificate_from_the_future_is_remarked(original, capsys):
    chain, key = issue(begins=2)
    original.certificate(CERTIFICATE, chain)
    original.key_file(KEY, key)
    status, plan, _ = planned(capsys, original.root)
    assert status == 0
    assert "clock" in plan["remarks"][0]


@pytest.mark.parametrize("content", [b"", b"   \n", None], ids=["empty", "blank", "absent"])
def test_no_trust_bundle_is_none(original, capsys, content):
    path = original.certs / file_name(BUNDLE, "cer")
    path.unlink() if content is None else path.write_bytes(content)
    assert planned(capsys, original.root, "--apply")[0] == 0
    assert current(original.root)[1].bundle_id is None


NO_CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("content", [NO_CERTIFICATE, b"\xff"], ids=["torn", "not text"])
def test_a_damaged_trust_bundle_takes_no_identity_with_it(original, capsys, content):
    original.certificate(BUNDLE, content)
    status, plan, _ = planned(capsys, original.root, "--apply")
    assert status == 0
    assert actions(plan)[("trust bundle", BUNDLE)] == "leave"
    assert current(original.root)[1].bundle_id is None


def test_a_renamed_trust_bundle_is_found_under_its_old_name(original, capsys):
    original.configure(text='dps_trust_bundle = "plant-roots"\n' + CONFIG)
    status, _, _ = planned(capsys, original.root, "--apply")
    assert status == 0
    store, credential = current(original.root)
    assert credential.bundle_id == "plant-roots"
    assert store.read_certificate("plant-roots") == original.bundle


# --- refusals ----------------------------------------------------------------------------------------


def half_a_pair(home):
    (home.keys / file_name(KEY, "key")).unlink()


def other_half(home):
    (home.certs / file_name(CERTIFICATE, "cer")).unlink()


def stranger_key(home):
    home.key_file(KEY, issue()[1])


def torn_key(home):
    home.key_file(KEY, home.key[:100])


def torn_chain(home):
    home.certificate(CERTIFICATE, home.chain[:200])


def authority(home):
    chain, key = issue(ca=True)
    home.certificate(CERTIFICATE, chain)
    home.key_file(KEY, key)


def huge_chain(home):
    home.certificate(CERTIFICATE, b"x" * 3_000_000)


def torn_device_info(home):
    (home.identityd / "device_info").write_text("hub_name = \n")


def odd_device_info(home):
    home.device_info(hub="no host at all")


def half_device_info(home):
    (home.identityd / "device_info").write_text('hub_name = "h.example"\n')


def fifo(home):
    path = home.certs / file_name(CERTIFICATE, "cer")
    path.unlink()
    os.mkfifo(path)


def token(home):
    (home.root / "etc/aziot/keyd/config.d/00-super.toml").write_text(
        '[aziot_keys]\npkcs11_lib_path = "/lib/p11.so"\npkcs11_base_slot = "pkcs11:slot-id=1"\n'
    )


def token_key(home):
    (home.root / "etc/aziot/keyd/config.toml").write_text(
        '[preloaded_keys]\ndevice-id = "pkcs11:token=t;object=device"\n'
    )


REFUSALS = [
    (half_a_pair, "a certificate but no key"),
    (other_half, "a key but no certificate"),
    (stranger_key, "for another key"),
    (torn_key, "is damaged"),
    (torn_chain, "is damaged"),
    (authority, "a CA certificate"),
    (huge_chain, "larger than"),
    (torn_device_info, "device_info is not TOML"),
    (odd_device_info, "hub or device that cannot be one"),
    (half_device_info, "has no device_id"),
    (fifo, "not a plain file"),
    (token, "pkcs11_base_slot"),
    (token_key, 'key "device-id"'),
]


@pytest.mark.parametrize(("damage", "words"), REFUSALS, ids=[one.__name__ for one, _ in REFUSALS])
def test_what_cannot_be_taken_over_stops_everything(original, elsewhere, capsys, damage, words):
    damage(original)
    before = original.image()
    for root in (original.root, elsewhere):
        status, plan, err = planned(capsys, root, "--apply", "--from", str(original.root))
        assert (status, plan["applied"]) == (1, False)
        assert words in " ".join(plan["refusals"])
        assert words in err
        assert current(root)[1] is None or root == original.root
    assert not (elsewhere / "var/lib/aziot/keyd/keys" / file_name(MASTER, "key")).exists()
    assert {k: v for k, v in original.image().items() if k in before} == before


@pytest.mark.parametrize(("damage", "words"), REFUSALS, ids=[one.__name__ for one, _ in REFUSALS])
def test_or_is_left_out_when_that_is_wanted(original, elsewhere, capsys, damage, words):
    damage(original)
    status, plan, _ = planned(capsys, elsewhere, "--apply", "--partly", "--from", str(original.root))
    assert (status, plan["applied"]) == (0, True)
    assert "leave" in actions(plan).values()
    assert (elsewhere / "var/lib/aziot/keyd/keys" / file_name(MASTER, "key")).exists()
    store, credential = current(elsewhere)
    assert (credential is None) == (not damage.__name__.startswith("token"))
    assert store.read_certificate(BUNDLE) == original.bundle, "with an identity or without"


@pytest.mark.parametrize("content", ["unprovisioned", None])
def test_a_device_that_had_no_assignment_registers_and_keeps_its_keys(original, capsys, content):
    path = original.identityd / "device_info"
    path.unlink() if content is None else path.write_text(content)
    status, plan, _ = planned(capsys, original.root)
    assert (status, plan["outcome"]) == (0, "registers")
    assert "no assignment either" in plan["outcome_why"]


@pytest.mark.parametrize(
    ("name", "extension", "content", "words"),
    [
        ("edge", "key", b"", "is empty"),
        ("edge", "key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is damaged"),
        ("edge", "key", b"k" * 70_000, "larger than"),
        ("edge", "cer", b"hello", "is damaged"),
        ("edge", "cer", b"\xff\xfe", "not text"),
    ],
)
def test_other_damaged_files_are_not_copied_and_stay_where_they_are(
    original, elsewhere, capsys, name, extension, content, words
):
    (original.certificate if extension == "cer" else original.key_file)(name, content)
    status, plan, _ = planned(capsys, elsewhere, "--from", str(original.root))
    assert status == 1
    assert words in plan["refusals"][0]
    status, plan, _ = planned(capsys, original.root)
    assert status == 0
    assert [item["why"] for item in plan["items"] if words in item["why"]]


def test_files_that_are_here_already_are_never_replaced(original, elsewhere, capsys):
    here = elsewhere / "var/lib/aziot/keyd/keys"
    here.mkdir(parents=True)
    (here / file_name(MASTER, "key")).write_bytes(b"another")
    (here / file_name(HANDLES, "key")).write_bytes(b"another")
    status, plan, _ = planned(capsys, elsewhere, "--apply", "--from", str(original.root))
    assert status == 1
    assert plan["refusals"] == [f"key {MASTER}: this service has another under that name"]
    assert actions(plan)[("key", HANDLES)] == "leave"
    assert (here / file_name(MASTER, "key")).read_bytes() == b"another"


def test_an_identity_of_our_own_is_not_given_up(original, elsewhere, capsys):
    assert adopt(capsys, elsewhere, "--apply", "--from", str(original.root))[0] == 0
    chain, key = issue()
    original.certificate(CERTIFICATE, chain)
    original.key_file(KEY, key)
    (elsewhere / "var/lib/aziot/identityd/adopted/adopted.json").unlink()
    status, plan, _ = planned(capsys, elsewhere, "--apply", "--from", str(original.root))
    assert status == 1
    assert "has an identity of its own" in plan["refusals"][0]
    assert HUB in plan["refusals"][0]


def test_the_same_identity_without_a_record_is_known_again(original, elsewhere, capsys):
    assert adopt(capsys, elsewhere, "--apply", "--from", str(original.root))[0] == 0
    (elsewhere / "var/lib/aziot/identityd/adopted/adopted.json").unlink()
    status, plan, _ = planned(capsys, elsewhere, "--from", str(original.root))
    assert (status, plan["nothing_to_do"]) == (0, True)
    assert actions(plan)[("identity", CERTIFICATE)] == "there"


@pytest.mark.parametrize("words", [(), ("--apply",), ("--undo",)])
def test_not_while_a_service_runs(original, capsys, words):
    state = original.identityd
    with InstanceLock(str(state)):
        status, _, err = adopt(capsys, original.root, *words)
    assert status == 1
    assert "stop it first" in err
    assert not (state / "credentials").exists()


def test_not_while_the_original_runs(tmp_path):
    for pid, comm in (("1", "init"), ("77", "aziot-identityd"), ("78", "aziot-certd")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(f"{comm}\n")
    (tmp_path / "self").mkdir()
    plan = perform.Plan(source="/", root="/", in_place=True, outcome="goes-on", outcome_why="")
    (said,) = perform._original_runs(plan, str(tmp_path))
    assert "aziot-certd, aziot-identityd" in said


def test_nothing_to_adopt_and_nothing_to_undo(elsewhere, tmp_path, capsys):
    status, _, err = adopt(capsys, elsewhere, "--from", str(tmp_path / "nowhere"))
    assert status == 1
    assert "no installation of the original was found" in err
    status, _, err = adopt(capsys, elsewhere, "--undo")
    assert status == 1
    assert "no adoption" in err


def test_without_a_usable_configuration_nothing_can_be_said(original, capsys):
    original.configure(text="[provisioning]\nsource = 7\n")
    status, out, err = adopt(capsys, original.root)
    assert (status, out) == (2, "")
    assert "provisioning.source" in err


# --- crashes -----------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone."""


def crash_at(monkeypatch, number):
    """The machine dies at that call which changes a disk. Returns how many there were so far."""
    seen = [0]
    for name in ("rename", "fsync", "symlink", "mkdir"):
        real = getattr(os, name)

        def step(*args, real=real, **options):
            seen[0] += 1
            if seen[0] == number:
                raise Crash
            return real(*args, **options)

        monkeypatch.setattr(os, name, step)
    return seen


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "from elsewhere"])
def test_wherever_it_crashes_all_or_nothing_was_taken_over(original, memory, in_place):
    """And run again it is whole, and nothing of the original was touched."""
    number, complete = 0, False
    while not complete:
        number += 1
        home = original.copy(memory / f"o{number}")
        root = home.root if in_place else memory / f"s{number}"
        home.configure(root)
        before = home.image()
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, number)
            try:
                perform.adopt(paths_below(str(root)), str(home.root))
                complete = True
            except Crash:
                pass
        assert home.image().items() >= before.items()
        if number % 2:
            credential = current(root)[1]  # a start comes first
            assert credential is None or credential.sha256 == wire_x509.facts(home.chain).sha256
        plan = perform.adopt(paths_below(str(root)), str(home.root))
        assert plan.applied or plan.nothing_to_do
        store, credential = current(root)
        assert credential.sha256 == wire_x509.facts(home.chain).sha256
        assert store.read_certificate(BUNDLE) == home.bundle
    assert number > 20


# --- back --------------------------------------------------------------------------------------------


def test_the_way_back(original, capsys):
    before = original.image()
    assert adopt(capsys, original.root, "--apply")[0] == 0
    current(original.root)  # a start: links take the three names over
    assert (original.certs / file_name(CERTIFICATE, "cer")).is_symlink()
    status, out, _ = adopt(capsys, original.root, "--undo")
    assert status == 0
    assert "The original can be started again." in out
    after = original.image()
    assert after.keys() == before.keys()
    for path, (mode, uid, _, content) in before.items():
        assert (after[path][0], after[path][1], after[path][3]) == (mode, uid, content), path
    assert not (original.identityd / "credentials").exists()
    status, plan, _ = planned(capsys, original.root)
    assert (status, actions(plan)[("identity", CERTIFICATE)]) == (0, "take"), "and forth again"
    assert adopt(capsys, original.root, "--apply")[0] == 0
    assert adopt(capsys, original.root, "--undo", "--json")[0] == 0


def test_the_way_back_with_another_root_leaves_the_original_alone(original, elsewhere, capsys):
    before = original.image()
    assert adopt(capsys, elsewhere, "--apply", "--from", str(original.root))[0] == 0
    assert adopt(capsys, elsewhere, "--undo")[0] == 0
    assert original.image() == before
    assert current(elsewhere)[1] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_root_leaves_nothing_that_the_service_cannot_read(original, elsewhere, capsys):
    user = 12345
    homes = [elsewhere / "var/lib/aziot" / name for name in ("identityd", "certd", "keyd")]
    for home in homes:
        home.mkdir(parents=True)
        os.chown(home, user, user)
    elsewhere.parent.chmod(0o711)
    status, _, err = adopt(capsys, elsewhere, "--apply", "--from", str(original.root))
    assert (status, err) == (0, "")
    assert os.geteuid() == 0
    for home in homes:
        for path in home.rglob("*"):
            assert path.lstat().st_uid == user, path


def test_a_file_that_is_not_of_the_original_is_not_looked_at(original, elsewhere, capsys):
    (original.keys / "notes.txt").write_text("mine")
    (original.keys / "link.key").symlink_to("/etc/shadow")
    (original.keys / file_name("linked", "key")).symlink_to("/etc/shadow")
    status, plan, _ = planned(capsys, elsewhere, "--from", str(original.root))
    assert status == 0
    assert "notes" not in json.dumps(plan)
    assert file_name("linked", "key") not in json.dumps(plan)
    assert Path("/etc/shadow").exists()
