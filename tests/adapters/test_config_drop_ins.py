"""Drop-ins: which files are read, how they are merged, who may do what, and mistakes name their file."""

import os
import pwd
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import config_files
from adapters.config import load, load_with_fallback, parse, save_last_good
from adapters.config_files import SEAL, DropIn, Sources, seal, unseal
from adapters.config_findings import MAX_PROBLEMS
from adapters.config_grants import NO_USER
from adapters.config_rows_drop_ins import DROP_INS
from adapters.errors import ConfigurationInvalid
from statemachine.settings import (
    CertificateGrant,
    Configuration,
    IdentityPrincipal,
    IssuanceRule,
    KeyGrant,
    LocalCa,
)

NONE = 'provisioning.source = "none"\n'
MANUAL = (
    'provisioning.source = "manual"\n'
    'provisioning.connection_string = "HostName=h;DeviceId=d;SharedAccessKey=bm90IGEgcmVhbCBrZXk="\n'
)
CONFORMANCE = Path(__file__).resolve().parents[3] / "shared" / "conformance"
UID = "a user id from 0 to 4294967294, or a user's name"
NAME = "1 to 128 letters, digits and characters of -.+%_#*?!(),:=@$'"
ID = "1 to 255 printable characters"

Files = dict[str, str]
"By SERVICE/NAME, as below /etc/aziot with config.d left out."


class Device:
    """A directory like /etc/aziot."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.last_good = str(directory / "state" / "last-good.toml")
        self.write("config.toml", NONE)

    def write(self, name: str, text: str) -> str:
        service, _, file = name.rpartition("/")
        folder = self.directory / service / "config.d" if service else self.directory
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
        return str(folder / file)

    @property
    def config(self) -> str:
        return str(self.directory / "config.toml")

    def loaded(self, files: Files, text: str = NONE) -> Configuration:
        self.write("config.toml", text)
        for name, content in files.items():
            self.write(name, content)
        return load(self.config)

    def problems(self, files: Files, text: str = NONE) -> list[str]:
        with pytest.raises(ConfigurationInvalid) as caught:
            self.loaded(files, text)
        return [self.short(line) for line in caught.value.problems]

    def notes(self, files: Files, text: str = NONE) -> list[str]:
        self.loaded(files, text)
        return [self.short(line) for line in load_with_fallback(self.config, os.devnull).notes]

    def short(self, line: str) -> str:
        told = line.removeprefix(f"{self.directory}/").replace("/config.d/", "/")
        return re.sub(r": line \d+: ", ": ", told)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


# --- identityd ---------------------------------------------------------------------------------------

AGENTS = """
[localid]
domain = "example.com"
[[principal]]
uid = 1001
name = "daemon"
[[principal]]
uid = 1003
name = "$agent"
idtype = ["local", "module", "local"]
localid = { type = "x509", attributes = "server" }
"""


def test_principals(device) -> None:
    identities = device.loaded({"identityd/a.toml": AGENTS}, MANUAL).identities
    assert identities.local_domain == "example.com"
    assert identities.principals == (
        IdentityPrincipal(uid=1001, name="daemon"),
        IdentityPrincipal(uid=1003, name="$agent", kinds=("module", "local"), local="server"),
    )
    assert identities.modules == ("$agent",)


def test_a_user_by_name(device) -> None:
    user = pwd.getpwuid(os.getuid())
    text = f'[[principal]]\nuid = "{user.pw_name}"\n'
    configuration = device.loaded(
        {
            "identityd/a.toml": f'{text}name = "n"',
            "certd/a.toml": f'{text}certs = ["a*"]',
            "keyd/a.toml": f'{text}keys = ["b?", "c"]',
        }
    )
    assert configuration.identities.principals == (IdentityPrincipal(uid=user.pw_uid, name="n"),)
    assert configuration.certificates.grants == (CertificateGrant(uid=user.pw_uid, certs=("a*",)),)
    assert configuration.keys.grants == (KeyGrant(uid=user.pw_uid, keys=("b?", "c")),)


def test_the_original_example(device) -> None:
    path = CONFORMANCE / "identityd-config" / "good_auth_settings.toml"
    if not path.exists():
        pytest.skip("the conformance files are not beside this repository")
    identities = device.loaded({"identityd/auth.toml": path.read_text()}, MANUAL).identities
    assert identities.local_domain == "example.com"
    assert {p.uid: (p.name, p.kinds) for p in identities.principals} == {
        1001: ("hostdaemon1", None),
        1002: ("hostprocess1", ("device",)),
        1003: ("hostprocess2", ("module", "local")),
    }
    assert identities.modules == ("hostprocess2",)


def one(rest: str, uid: str = "1") -> str:
    return f"[[principal]]\nuid = {uid}\n{rest}\n"


PRINCIPALS: dict[str, tuple[str, list[str]]] = {
    "a name twice": (
        one('name = "n"') + one('name = "n"\nidtype = []', "2"),
        ['identityd/a.toml: principal[2].name: found "n" once more; allowed each name once'],
    ),
    "a user twice": (
        one('name = "n"') + one('name = "m"\nidtype = []'),
        ["identityd/a.toml: principal[2].uid: found 1 once more; allowed one principal for each user"],
    ),
    "local without localid": (
        one('name = "n"\nidtype = ["local"]'),
        [
            'identityd/a.toml: principal[1].idtype: found "local" without a [localid] domain; '
            "allowed that, or a domain in config.toml"
        ],
    ),
    "localid without local": (
        one('name = "n"\nidtype = []\nlocalid = { type = "x509" }'),
        [
            'identityd/a.toml: principal[1].localid: found options of a local identity without "local" in '
            "idtype; allowed both"
        ],
    ),
    "a module without a hub": (
        one('name = "n"\nidtype = ["module"]'),
        [
            'identityd/a.toml: principal[1].idtype: found "device" or "module" with '
            'provisioning.source = "none"; allowed "local"'
        ],
    ),
    "nothing in it": (
        "[[principal]]",
        [
            f"identityd/a.toml: principal[1].uid: found nothing; allowed {UID}",
            f"identityd/a.toml: principal[1].name: found nothing; allowed {NAME}",
        ],
    ),
    "wrong in every way": (
        '[[principal]]\nuid = -1\nname = "a/b"\nidtype = "module"\nlocalid = { attributes = "both" }',
        [
            f"identityd/a.toml: principal[1].uid: found -1; allowed {UID}",
            f'identityd/a.toml: principal[1].name: found "a/b"; allowed {NAME}',
            'identityd/a.toml: principal[1].idtype: found "module"; allowed an array of "device", "module" '
            'and "local"',
            'identityd/a.toml: principal[1].localid.attributes: found "both"; allowed "client" or "server"',
            'identityd/a.toml: principal[1].localid.type: found nothing; allowed "x509"',
        ],
    ),
    "nobody": (
        one('name = "n"', '"no-such-user"'),
        [
            'identityd/a.toml: principal[1].uid: found "no-such-user", who is no user here; '
            "allowed a user of this machine"
        ],
    ),
    "a number in quotes": (
        one('name = "n"', '"987654321"'),
        [
            'identityd/a.toml: principal[1].uid: found "987654321", who is no user here; '
            "allowed a user of this machine; write a number without quotes"
        ],
    ),
    "a table": (
        '[principal]\nuid = 1\nname = "n"',
        ["identityd/a.toml: principal: found a table; allowed an array of tables: [[principal]]"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), PRINCIPALS.values(), ids=PRINCIPALS)
def test_mistakes_about_principals(device, text, expected) -> None:
    assert device.problems({"identityd/a.toml": text}) == expected


def test_a_second_daemon_is_not_used(device) -> None:
    files = {"identityd/a.toml": one('name = "n"'), "identityd/b.toml": one('name = "m"', "2")}
    assert device.notes(files) == [
        "identityd/b.toml: principal[1]: a second daemon (without idtype), not used: only the first one "
        "counts"
    ]
    assert [p.name for p in load(device.config).identities.principals] == ["n"]


# --- certd and keyd ----------------------------------------------------------------------------------


def test_issuance_by_id(device) -> None:
    text = """
[cert_issuance]
local_ca = { cert = "ca", pk = "ca-key" }
[cert_issuance.edge-ca]
method = "local_ca"
allow_ca = true
expiry_days = 7
[cert_issuance."web.1"]
method = "self_signed"
subject = { O = "Contoso" }
[preloaded_certs]
ca = "file:///ca.pem"
"""
    certificates = device.loaded({"certd/a.toml": text}).certificates
    assert certificates.local_ca == LocalCa(certificate_id="ca", key_id="ca-key")
    assert certificates.preloaded == {"ca": "/ca.pem"}
    assert certificates.rules == {
        "edge-ca": IssuanceRule(method="local_ca", allow_ca=True, expiry_days=7),
        "web.1": IssuanceRule(method="self_signed", subject=(("O", "Contoso"),)),
    }


def test_tables_are_merged_arrays_joined_and_the_last_value_counts(device) -> None:
    configuration = device.loaded(
        {
            "certd/20.toml": 'cert_issuance.x.method = "self_signed"\ncert_issuance.x.expiry_days = 2\n'
            'cert_issuance.x.subject = { O = "o" }\n'
            'preloaded_certs = { list = ["a"], file = "file:///1", turned = ["a"] }\n'
            '[[principal]]\nuid = 1\ncerts = ["a"]',
            "certd/30.toml": 'cert_issuance.x = { expiry_days = 3, subject = { L = "l" } }\n'
            'preloaded_certs = { list = ["b"], file = "file:///2", turned = "file:///t" }\n'
            '[[principal]]\nuid = 1\ncerts = ["b"]',
            # Sorted by byte: an upper case Z comes before a lower case a.
            "keyd/a.toml": 'preloaded_keys.k = "file:///a"',
            "keyd/Z.toml": 'preloaded_keys.k = "file:///Z"\n[[principal]]\nuid = 2\nkeys = []',
            "identityd/a.toml": 'localid.domain = "second.example"',
        },
        f'{NONE}localid.domain = "first.example"\npreloaded_keys.k = "file:///config"\n'
        'preloaded_certs.list = ["0"]\n',
    )
    assert configuration.certificates.rules == {
        "x": IssuanceRule(method="self_signed", expiry_days=3, subject=(("L", "l"), ("O", "o")))
    }
    assert configuration.certificates.preloaded == {"list": ("0", "a", "b"), "file": "/2", "turned": "/t"}
    assert configuration.certificates.grants == (
        CertificateGrant(uid=1, certs=("a",)),
        CertificateGrant(uid=1, certs=("b",)),
    )
    assert configuration.keys.preloaded == {"k": "/a"}
    assert configuration.keys.grants == (KeyGrant(uid=2, keys=()),)
    assert configuration.identities.local_domain == "second.example"


OF_STORES: dict[str, tuple[Files, list[str]]] = {
    "an id over EST": (
        {"certd/a.toml": 'cert_issuance.x = { method = "est", username = "u", password = "hunter2" }'},
        [
            'certd/a.toml: cert_issuance.x.method: found "est"; allowed in this release "self_signed" or '
            '"local_ca"; the way by EST comes later'
        ],
    ),
    "no method": (
        {"certd/a.toml": "cert_issuance.x = { expiry_days = 1 }", "certd/b.toml": "cert_issuance.y = {}"},
        [
            'certd/a.toml: cert_issuance.x.method: found nothing; allowed "self_signed" or "local_ca"',
            'certd/b.toml: cert_issuance.y.method: found nothing; allowed "self_signed" or "local_ca"',
        ],
    ),
    "half a local CA": (
        {"certd/a.toml": 'cert_issuance.local_ca.cert = "ca"'},
        [
            "certd/a.toml: cert_issuance.local_ca.pk: found nothing; "
            "allowed an id; both cert and pk are needed"
        ],
    ),
    "no local CA": (
        {"certd/a.toml": 'cert_issuance.x.method = "local_ca"'},
        [
            'certd/a.toml: cert_issuance.x.method: found "local_ca"; allowed with a CA in '
            "cert_issuance.local_ca, which is not there"
        ],
    ),
    "ids of the machine": (
        {
            "certd/a.toml": 'cert_issuance.aziot-dps-identity-cert.method = "self_signed"\n'
            'cert_issuance.local_ca = { cert = "ca", pk = "aziot-dps-identity-cert-key" }\n'
            'preloaded_certs.aziot-dps-trust-bundle = "file:///x"',
            "keyd/a.toml": 'preloaded_keys.handle-validation-key = "file:///x"',
        },
        [
            "keyd/a.toml: preloaded_keys.handle-validation-key: found an id the service uses itself (it "
            "authenticates key handles); allowed another id",
            "certd/a.toml: preloaded_certs.aziot-dps-trust-bundle: found an id the service uses itself (the "
            "trust bundle of DPS); allowed another id",
            "certd/a.toml: cert_issuance.aziot-dps-identity-cert: found an id the service uses itself (the "
            "certificate that DPS issues); allowed another id",
            "certd/a.toml: cert_issuance.local_ca.pk: found an id the service uses itself (the key of the "
            "certificate that DPS issues); allowed another id",
        ],
    ),
    "a circle over two files": (
        {"certd/a.toml": 'preloaded_certs.a = ["b"]', "certd/b.toml": 'preloaded_certs.b = ["a"]'},
        [
            "certd/a.toml: preloaded_certs.a: found a list that leads back to itself: a, b, a; "
            "allowed lists that end in certificates"
        ],
    ),
    "a key in PKCS#11": (
        {"keyd/a.toml": 'preloaded_keys.k = "pkcs11:token=t?pin-value=1234"'},
        [
            "keyd/a.toml: preloaded_keys.k: found a pkcs11: URI; allowed a file URI with an absolute path: "
            "file:///path; PKCS#11 is not supported in this release"
        ],
    ),
    "patterns": (
        {"certd/a.toml": one('certs = "*"'), "keyd/a.toml": one('keys = ["a", 7, ""]')},
        [
            f'certd/a.toml: principal[1].certs: found "*"; allowed at most 1000 patterns of {ID}',
            "keyd/a.toml: principal[1].keys: found an array with a number in it; "
            f"allowed at most 1000 patterns of {ID}",
        ],
    ),
    "nobody": (
        {"certd/a.toml": one("certs = []", '"no-such-user"'), "keyd/a.toml": "[[principal]]"},
        [
            f"keyd/a.toml: principal[1].uid: found nothing; allowed {UID}",
            f"keyd/a.toml: principal[1].keys: found nothing; allowed at most 1000 patterns of {ID}",
            'certd/a.toml: principal[1].uid: found "no-such-user", who is no user here; '
            "allowed a user of this machine",
        ],
    ),
    "not TOML": (
        {"certd/a.toml": "a =", "keyd/b.toml": "[", "identityd/c.toml": "x = " + "[" * 9999},
        [
            "identityd/c.toml: not usable TOML: a number is too long, or arrays or tables are nested "
            "too deeply",
            "certd/a.toml: line 1, column 4: not valid TOML: Invalid value",
            "keyd/b.toml: line 1, column 2: not valid TOML: Invalid initial character for a key part",
        ],
    ),
}


@pytest.mark.parametrize(("files", "expected"), OF_STORES.values(), ids=OF_STORES)
def test_mistakes_about_keys_and_certificates(device, files, expected) -> None:
    assert device.problems(files) == expected


def test_mistakes_of_all_files_are_told_at_once(device) -> None:
    files = {"certd/a.toml": "cert_issuance.x = 1", "identityd/a.toml": "[[principal]]\nuid = 1"}
    assert [line.partition(": ")[0] for line in device.problems(files, "cloud_retries = -1")] == [
        "config.toml",
        "config.toml",
        "certd/a.toml",
        "identityd/a.toml",
    ]


def test_remarks(device) -> None:
    files = {
        "identityd/a.toml": 'hostname = "h"\nhomedir = "/h"\nmax_requests = 1\nprovisioning = {}\n'
        '[[principal]]\nuid = 1\nname = "n"\nidtypes = []',
        "certd/a.toml": 'cert_issuance.est.password = "hunter2"\n'
        'cert_issuance.x = { method = "self_signed", common_name = "c", subject = { O = "o" }, url = "u" }',
        "keyd/a.toml": 'aziot_keys.pkcs11_base_slot = "pkcs11:pin-value=1234"\nendpoints = {}\n'
        "preloaded_key = 1",
    }
    assert device.notes(files) == [
        "identityd/a.toml: hostname: not read from a drop-in; config.toml says it",
        "identityd/a.toml: homedir: not read; this service keeps to its directory",
        "identityd/a.toml: max_requests: not read from a drop-in; config.toml says it as "
        "aziot_max_requests.identityd",
        "identityd/a.toml: provisioning: not read from a drop-in; config.toml says it",
        'identityd/a.toml: principal[1].idtypes: an unknown key, not used; did you mean "idtype"?',
        "certd/a.toml: cert_issuance.est: not read; certificates over EST come later",
        "certd/a.toml: cert_issuance.x.url: an unknown key, not used; known here: allow_ca, common_name, "
        "expiry_days, method, subject",
        "keyd/a.toml: aziot_keys: not read; keys are kept in files, PKCS#11 comes later",
        'keyd/a.toml: preloaded_key: an unknown key, not used; did you mean "preloaded_keys"?',
        "certd/a.toml: cert_issuance.x: has both common_name and subject; common_name counts",
    ]


def test_every_row_says_what_it_allows() -> None:
    for service, rows in DROP_INS.items():
        assert len({row.path for row in rows}) == len(rows), service
        for row in rows:
            assert row.allowed, (service, row.path)
            assert row.meaning.endswith("."), (service, row.path)


# --- which files -------------------------------------------------------------------------------------


def test_only_plain_files_with_the_exact_extension_are_read(device) -> None:
    bad = "this is not TOML"
    for name in ("00-super.toml", "x.toml.bak", "x.TOML", "toml", "README"):
        device.write(f"keyd/{name}", bad)
    folder = device.directory / "keyd" / "config.d"
    (folder / "folder.toml").mkdir()
    os.mkfifo(folder / "fifo.toml")
    (folder / "link.toml").symlink_to("x.TOML")
    assert device.notes({"keyd/good.toml": 'preloaded_keys.k = "file:///k"'}) == [
        "keyd/link.toml: not read: a symbolic link; put the file itself there"
    ]
    assert load(device.config).keys.preloaded == {"k": "/k"}


def test_drop_ins_lie_below_the_root(device) -> None:
    root = str(device.directory)
    etc = Device(device.directory / "etc")
    etc.loaded({"keyd/a.toml": 'preloaded_keys.k = "file:///k"'})
    assert load("/etc/config.toml", root=root).keys.preloaded == {"k": "/k"}


UNREADABLE = {
    "not UTF-8": (b"\xff", "keyd/a.toml: found bytes that are not UTF-8; allowed UTF-8 text"),
    "too large": (
        b"#" * (config_files.MAX_DROP_IN_BYTES + 1),
        f"keyd/a.toml: found more than {config_files.MAX_DROP_IN_BYTES} bytes; allowed at most that many",
    ),
    "100 000 principals": (
        b"[[principal]]\nuid = 1\nkeys = []\n" * 100_000,
        f"keyd/a.toml: found more than {config_files.MAX_DROP_IN_BYTES} bytes; allowed at most that many",
    ),
    **{
        name: (
            content,
            "keyd/a.toml: not usable TOML: a number is too long, or arrays or tables are nested too deeply",
        )
        for name, content in {
            "deep arrays": b"a = " + b"[" * 60_000,
            "deep tables": b"a." * 30_000 + b"a = 1",
            "a number too long": b"a = " + b"9" * 60_000,
        }.items()
    },
}


@pytest.mark.parametrize(("content", "expected"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_drop_in_that_cannot_be_read_is_a_broken_configuration(device, content, expected) -> None:
    Path(device.write("keyd/a.toml", "")).write_bytes(content)
    assert device.problems({}) == [expected]


def test_a_directory_that_cannot_be_listed(device, monkeypatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    assert device.problems({}) == [
        f"{service}/config.d: cannot be read: Permission denied" for service in ("identityd", "certd", "keyd")
    ]


def test_a_drop_in_that_vanishes_between_listing_and_reading(device, monkeypatch) -> None:
    path = device.write("keyd/a.toml", "")
    listed = config_files._drop_in_paths

    def then_gone(folder: str, findings: object) -> list[str]:
        found = listed(folder, findings)  # type: ignore[arg-type]
        Path(path).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(config_files, "_drop_in_paths", then_gone)
    device.write("config.toml", NONE)
    monkeypatch.setattr(config_files, "SERVICES", ("keyd",))
    assert device.problems({}) == ["keyd/a.toml: found no such file any more"]


def test_all_drop_ins_together_are_bounded(device, monkeypatch) -> None:
    monkeypatch.setattr(config_files, "MAX_DROP_INS_BYTES", 100)
    files = {f"certd/{number}.toml": "#" * 40 for number in range(3)}
    assert device.problems(files) == [
        "certd/2.toml: found more than 100 bytes in all drop-ins; allowed at most that many"
    ]
    monkeypatch.setattr(config_files, "MAX_DROP_INS", 2)
    monkeypatch.setattr(config_files, "MAX_DROP_INS_BYTES", 10_000)
    assert device.problems(files) == ["certd/config.d: found more than 2 drop-ins; allowed at most that many"]


def test_as_many_mistakes_as_the_files_allow_are_told_in_a_hundred(device) -> None:
    principals = f"principal = [{'{}, ' * 16_000}]"
    found = device.problems({f"keyd/{number}.toml": principals for number in range(4)})
    assert len(found) == MAX_PROBLEMS + 1
    assert found[0] == f"keyd/0.toml: principal[1].uid: found nothing; allowed {UID}"
    assert found[-1] == f"config.toml: and {4 * 16_000 * 2 - MAX_PROBLEMS} more mistakes like these"


# --- the last good one -------------------------------------------------------------------------------


def test_the_last_good_one_brings_its_drop_ins(device) -> None:
    good = device.loaded(
        {"keyd/a.toml": 'preloaded_keys.k = "file:///ü"', "certd/a.toml": one('certs = ["x"]')}
    )
    loaded = load_with_fallback(device.config, device.last_good)
    save_last_good(device.last_good, loaded.text)
    device.write("keyd/a.toml", "broken")
    device.write("certd/a.toml", one('certs = ["y"]'))
    again = load_with_fallback(device.config, device.last_good)
    assert again.source == "last-good"
    assert again.configuration == good
    assert [device.short(line) for line in again.problems] == [
        "keyd/a.toml: line 1, column 7: not valid TOML: Expected '=' after a key in a key/value pair"
    ]
    # What is in force is kept as it is, so that a second start finds the same.
    save_last_good(device.last_good, again.text)
    assert load_with_fallback(device.config, device.last_good).configuration == good


def test_an_earlier_release_reads_config_toml_out_of_it(device) -> None:
    device.loaded({"keyd/a.toml": 'preloaded_keys.k = "file:///ü"'}, f"{NONE}cloud_retries = 7\n")
    text = load_with_fallback(device.config, os.devnull).text
    assert text.startswith(SEAL)
    plain = parse("c.toml", text)
    assert (plain.cloud_retries, plain.keys.preloaded) == (7, {})


def test_one_that_was_copied_to_config_toml_is_config_toml_only(device) -> None:
    device.loaded({"keyd/a.toml": 'preloaded_keys.k = "file:///old"'}, f"{NONE}cloud_retries = 7\n")
    sealed = load_with_fallback(device.config, os.devnull).text
    copy = device.loaded({"keyd/a.toml": 'preloaded_keys.k = "file:///new"'}, sealed)
    save_last_good(device.last_good, load_with_fallback(device.config, os.devnull).text)
    device.write("config.toml", "broken")
    loaded = load_with_fallback(device.config, device.last_good)
    assert (loaded.source, loaded.configuration) == ("last-good", copy)
    assert (copy.cloud_retries, copy.keys.preloaded) == (7, {"k": "/new"})


def test_what_an_earlier_release_kept_still_stands_in(device) -> None:
    save_last_good(device.last_good, f"{NONE}cloud_retries = 7\n")
    device.write("config.toml", "broken")
    loaded = load_with_fallback(device.config, device.last_good)
    assert (loaded.source, loaded.configuration.cloud_retries) == ("last-good", 7)


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"drop_ins":[{}]}', '{"drop_ins":[],"more":1}', "[" * 99_999]
)
def test_a_damaged_one_does_not_stand_in(device, line) -> None:
    save_last_good(device.last_good, f"{SEAL}{line}\n{NONE}")
    device.write("config.toml", "broken")
    with pytest.raises(ConfigurationInvalid) as caught:
        load_with_fallback(device.config, device.last_good)
    assert caught.value.path == device.config


def test_a_user_who_has_gone_does_not_keep_the_device_from_starting(device, monkeypatch) -> None:
    def here(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", 4711, 4711, "", "/", ""))

    with monkeypatch.context() as patch:
        patch.setattr(pwd, "getpwnam", here)
        files = {
            "identityd/a.toml": one('name = "n"\nidtype = ["module"]', '"agent"')
            + one('name = "m"\nidtype = ["module"]', "5"),
            "keyd/a.toml": one('keys = ["*"]', '"agent"'),
        }
        assert device.loaded(files, MANUAL).keys.grants == (KeyGrant(uid=4711, keys=("*",)),)
        save_last_good(device.last_good, load_with_fallback(device.config, device.last_good).text)

    def gone(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", gone)
    loaded = load_with_fallback(device.config, device.last_good)
    assert loaded.source == "last-good"
    assert [(p.uid, p.name) for p in loaded.configuration.identities.principals] == [(NO_USER, "n"), (5, "m")]
    assert loaded.configuration.identities.modules == ("n", "m"), "its module is not removed from the hub"
    assert loaded.configuration.keys.grants == ()
    assert len(loaded.notes) == 2


def test_texts_are_not_in_a_repr() -> None:
    sources = Sources(
        path="/p", text="hunter2", drop_ins=(DropIn(service="keyd", path="/d", text="hunter2"),)
    )
    assert repr(sources) == "Sources(/p, (DropIn(/d),))"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
drop_ins = st.builds(
    DropIn,
    service=st.sampled_from(["identityd", "certd", "keyd"]),
    path=texts.map("/etc/".__add__),
    text=texts,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=texts | texts.map(SEAL.__add__), drop_ins=st.lists(drop_ins, max_size=3).map(tuple))
def test_what_is_sealed_comes_out_again(text, drop_ins) -> None:
    sources = Sources(path="/p", text=text, drop_ins=drop_ins)
    assert unseal("/p", seal(sources)) == sources
    line = seal(sources).split("\n")[0]
    assert all(" " <= c < "\x7f" for c in line)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.sampled_from(
    (
        *(
            "principal",
            "uid",
            "name",
            "idtype",
            "localid",
            "domain",
            "type",
            "certs",
            "keys",
            "preloaded_certs",
        ),
        *(
            "cert_issuance",
            "x",
            "method",
            "local_ca",
            "cert",
            "pk",
            "subject",
            "preloaded_keys",
            "<id>",
            "est",
        ),
    )
)
values = st.recursive(
    words
    | st.integers(-5, 5)
    | st.booleans()
    | st.sampled_from(["local_ca", "self_signed", "file:///a", "local"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(names | words, v, max_size=3),
    max_leaves=12,
)


def toml(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{toml(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case bool() | int():
            return str(value).lower()
        case _:
            escaped = "".join(
                c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in str(value)
            )
            return f'"{escaped}"'


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    service=st.sampled_from(["identityd", "certd", "keyd"]), tree=st.dictionaries(names, values, max_size=4)
)
def test_whatever_a_drop_in_says(service, tree) -> None:
    text = "".join(f"{toml(name)} = {toml(value)}\n" for name, value in tree.items())
    drop_in = DropIn(service=service, path="/d.toml", text=text)
    found = ()
    try:
        assert parse("c.toml", NONE, (drop_in,)).hostname is None
    except ConfigurationInvalid as invalid:
        found = invalid.problems
    for line in found:
        assert line.startswith("/d.toml: ")
        assert line.isprintable()
        assert len(line) < 1000
