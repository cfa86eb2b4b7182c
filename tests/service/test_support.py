"""`identityd support-bundle`: all that somebody far away needs, and never a secret of the device."""

import base64
import io
import json
import stat
import tarfile

import pytest

from adapters.__main__ import identityd
from adapters.cli import support
from statemachine.replay import replay_files
from tests.service.test_check import NETWORK, drop_in, secrets_of, set_aside, x509_device

NAME = "pump-house-17"


@pytest.fixture
def device(make, cloud):
    cloud.bundle(cloud.ca_file.read_bytes())
    made = make(NAME)
    made.configure(top='hostname = "plant-nine"')
    drop_in(made, "identityd", '[[principal]]\nuid = 1\nname = "boiler-feed"\nidtype = ["module"]\n')
    made.start()
    made.until_provisioned()
    return made


@pytest.fixture
def bundle(tmp_path, capfd, monkeypatch):
    """Packs one: its members by name."""
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def bundle(device, *options, status=0):
        to = tmp_path / "support.tar.gz"
        words = ["support-bundle", str(to), "--root", str(device.root), "--dont-run", NETWORK, *options]
        assert identityd(words) == status, capfd.readouterr().err
        assert stat.S_IMODE(to.stat().st_mode) == 0o600
        return members(to.read_bytes())

    return bundle


def members(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = archive.getmembers()
        assert all(one.isfile() and one.mode == 0o600 and one.uid == 0 for one in found)
        assert all(one.name.startswith("identityd-support/") and ".." not in one.name for one in found)
        read = {one.name.partition("/")[2]: archive.extractfile(one).read() for one in found}
    assert len(read) == len(found)
    return read


def texts(packed):
    """Everything in it, also what JSON says in base64."""
    for name, content in packed.items():
        yield name, content.decode("latin-1")
        for line in content.splitlines():
            for word in line.replace(b'"', b" ").split():
                try:
                    yield name, base64.b64decode(word, validate=True).decode("latin-1")
                except ValueError:
                    continue


def test_what_is_in_it(device, bundle):
    packed = bundle(device)
    assert set(packed) == {
        "about.json",
        "check.json",
        "check.txt",
        "config/config.toml",
        "config/identityd/config.d/test.toml",
        "explain.txt",
        "journal/journal.jsonl",
        "status.json",
    }
    assert packed["journal/journal.jsonl"] == device.journal.read_bytes()
    told = json.loads(packed["status.json"])
    assert told["source"] == "running service"
    assert told["status"]["assignment"]["device_id"] == NAME
    assert "journal-intact" in json.loads(packed["check.json"])["checks"]
    assert b"journal is whole and replays - OK" in packed["check.txt"]
    about = json.loads(packed["about.json"])
    assert {"created", "software_version", "python", "platform"} <= set(about)
    assert about["notes"] == []
    assert f'registration_id = "{NAME}"'.encode() in packed["config/config.toml"]
    assert b"<secret, not shown>" in packed["config/config.toml"]


def test_no_secret_is_in_it(device, bundle):
    device.config.write_text(f"{device.config.read_text()}# the key is {device.cloud.key}\n")
    secrets = secrets_of(device)
    assert len(secrets) > 4
    for options in ((), ("--pseudonymise",)):
        for name, text in texts(bundle(device, *options)):
            assert "PRIVATE KEY" not in text, name
            assert "SharedAccess" not in text, name
            for secret in secrets:
                assert secret not in text, name


def test_an_x509_device_keeps_its_key(device, bundle, template):
    from tests.service.test_check import certificate, ec_key, key_pem

    key = ec_key()
    x509_device(device, certificate(NAME, key), key_pem(key), registration_id=NAME)
    secrets = secrets_of(device)
    for name, text in texts(bundle(device)):
        assert not any(secret in text for secret in secrets), name


def test_with_other_names_nobody_is_named(device, bundle):
    packed = bundle(device, "--pseudonymise")
    names = (NAME, "plant-nine", "boiler-feed", str(device.root), device.root.parent.name, "0ne00STANDIN")
    certificate = device.pair()
    named = [*names, f"{certificate.leaf.serial_number:x}", certificate.spki.hex()]
    for name, text in [*texts(packed), *((name, name) for name in packed)]:
        for one in named:
            assert one.lower() not in text.lower(), (name, one)
    assert replay_files([("journal", packed["journal/journal.jsonl"])]).equal
    status = json.loads(packed["status.json"])["status"]
    journal = packed["journal/journal.jsonl"].decode()
    assert status["assignment"]["device_id"] == "anon-device-1"
    assert f'"sha256":"{status["credential"]["sha256"]}"' in journal, "the same name in both"
    assert json.loads(packed["about.json"])["pseudonymised"] is True


def test_of_a_service_that_does_not_run(device, bundle):
    device.stop()
    told = json.loads(bundle(device)["status.json"])
    assert told["source"] == "journal"
    assert told["status"]["state"] == "Provisioned"


def test_of_a_device_in_trouble(device, bundle):
    """Configuration unusable, journal damaged: what is there is packed, and what is not is told."""
    device.stop()
    device.config.write_text("= nothing\n")
    set_aside(device)
    content = bytearray(device.journal.read_bytes())
    content[len(content) // 2] ^= 1
    device.journal.write_bytes(content)
    packed = bundle(device)
    assert "not valid TOML" in packed["config/problems.txt"].decode()
    assert packed["config/config.toml"].startswith(b"# not valid TOML")
    assert packed["journal/journal.jsonl.damaged-1"] == b"x"
    assert packed["journal/journal.jsonl"] == bytes(content)
    assert "status.json" not in packed
    others = bundle(device, "--pseudonymise")
    outcome = replay_files([("journal", others["journal/journal.jsonl"])])
    assert outcome.equal
    assert outcome.records == len(device.reading().records) > 0
    assert "ends before its first damage: line" in json.loads(others["about.json"])["notes"][0]


def test_what_holds_a_secret_nonetheless_is_left_out(device, bundle, monkeypatch):
    """Whatever mistake put it there."""
    monkeypatch.setattr(support, "redacted_files", lambda sources, words: [(sources.path, sources.text)])
    packed = bundle(device)
    assert "config/config.toml" not in packed
    assert json.loads(packed["about.json"])["notes"] == [
        "config/config.toml was left out: something in it looks like a secret"
    ]


def test_a_proxy_s_password_is_not_in_it(device, bundle, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:open%20sesame@proxy.invalid:3128")
    for name, text in texts(bundle(device)):
        assert "sesame" not in text, name


def test_to_standard_output(device, capfdbinary):
    assert identityd(["support-bundle", "-", "--root", str(device.root), "--dont-run", NETWORK]) == 0
    assert "check.json" in members(capfdbinary.readouterr().out)


def test_by_default_it_is_named_after_the_time(device, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert identityd(["support-bundle", "--root", str(device.root), "--dont-run", NETWORK]) == 0
    (made,) = tmp_path.iterdir()
    assert made.name.startswith("identityd-support-20")
    assert f"{made.name}: " in capfd.readouterr().out


def test_where_it_cannot_be_written(device, tmp_path, capfd):
    assert (
        identityd(["support-bundle", str(tmp_path), "--root", str(device.root), "--dont-run", NETWORK]) == 1
    )
    assert "is not a plain file" in capfd.readouterr().err
