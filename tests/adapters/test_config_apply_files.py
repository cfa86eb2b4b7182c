"""config apply, mp and check as a person runs them: files, owners, backups, words and exit statuses."""

import base64
import contextlib
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from adapters.__main__ import aziotctl, identityd
from adapters.cli import config_apply as config_apply  # before a test gives up the right to read it
from adapters.config import load
from adapters.config_install import NewFile, Owner, install, plan
from adapters.errors import StoreUnavailable

KEY = bytes(range(200, 232))
KEY_TEXT = base64.b64encode(KEY).decode()
STRING = f"HostName=hub.example;DeviceId=press-17;SharedAccessKey={KEY_TEXT}"
MANUAL = f'provisioning = {{ source = "manual", connection_string = "{STRING}" }}\n'
NONE = 'hostname = "there"\nprovisioning.source = "none"\n'
NAMES = {"aziotid": 5556, "aziotcs": 5555, "aziotks": 5557, "aziottpm": 5558}
USERS = [word for name, uid in NAMES.items() for word in ("--user", f"{name}={uid}:{uid + 1000}")]
DAEMONS = {"keyd": "aziotks", "certd": "aziotcs", "identityd": "aziotid", "tpmd": "aziottpm"}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")


class Image:
    """A root of its own, and a config.toml beside it."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.config = directory / "config.toml"

    def apply(self, text: str, *options: str) -> int:
        self.config.write_text(text)
        return identityd(
            ["config", "apply", "-c", str(self.config), "--root", str(self.root), *USERS, *options]
        )

    def generated(self, daemon: str) -> Path:
        return self.root / "etc/aziot" / daemon / "config.d/00-super.toml"

    @property
    def key(self) -> Path:
        return self.root / "var/secrets/aziot/keyd/device-id"

    def everything(self) -> dict[str, bytes]:
        """Content of every file by its path."""
        found = (path for path in sorted(self.root.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in found}


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


# --- what is written ---------------------------------------------------------------------------------


def test_all_files_private_and_where_the_daemons_look(image, capsys) -> None:
    previous = os.umask(0)
    try:
        assert image.apply(MANUAL) == 0
    finally:
        os.umask(previous)
    assert set(image.everything()) == {
        *(f"etc/aziot/{daemon}/config.d/00-super.toml" for daemon in DAEMONS),
        "var/secrets/aziot/keyd/device-id",
    }
    assert image.key.read_bytes() == KEY
    for path in (image.key, *map(image.generated, DAEMONS)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o755
    told = capsys.readouterr()
    assert KEY_TEXT not in told.out + told.err
    assert [line.split()[:2] for line in told.out.splitlines()[:5]] == [
        ["new", str(path)] for path in (image.key, *map(image.generated, DAEMONS))
    ]


def test_a_narrow_umask_leaves_directories_passable(image) -> None:
    previous = os.umask(0o077)
    try:
        assert image.apply(MANUAL) == 0
    finally:
        os.umask(previous)
    assert stat.S_IMODE((image.root / "etc/aziot").stat().st_mode) == 0o755


def test_the_same_again_touches_nothing(image, capsys) -> None:
    assert image.apply(MANUAL) == 0
    before = {path: path.stat().st_ino for path in image.root.rglob("*")}
    assert image.apply(MANUAL) == 0
    assert {path: path.stat().st_ino for path in image.root.rglob("*")} == before
    assert capsys.readouterr().out.count("unchanged") == 5


def test_what_is_replaced_stays_as_the_set_it_was(image, capsys) -> None:
    assert image.apply(MANUAL) == 0
    before = {str(path): path.read_bytes() for path in (image.key, *map(image.generated, DAEMONS))}
    other = KEY_TEXT.replace("y", "x", 1)
    assert image.apply(MANUAL.replace(KEY_TEXT, other)) == 0
    assert image.key.read_bytes() != KEY
    for path, content in before.items():
        assert Path(f"{path}.bak").read_bytes() == content, "also of those that are as they were"
        assert stat.S_IMODE(Path(f"{path}.bak").stat().st_mode) == 0o600
    assert "lies beside each file as NAME.bak" in capsys.readouterr().out
    assert not any(path.endswith(".new") for path in image.everything())


def test_a_file_that_was_not_there_has_no_backup_of_an_earlier_day(image) -> None:
    assert image.apply(MANUAL) == 0
    image.key.with_name("device-id.bak").write_bytes(b"of an earlier day")
    image.key.unlink()
    assert image.apply(MANUAL) == 0
    assert not image.key.with_name("device-id.bak").exists()


def test_a_mode_that_is_wrong_is_put_right(image) -> None:
    assert image.apply(MANUAL) == 0
    image.key.chmod(0o644)
    assert image.apply(MANUAL) == 0
    assert stat.S_IMODE(image.key.stat().st_mode) == 0o600


def test_a_key_from_before_is_left_and_told(image, capsys) -> None:
    assert image.apply(MANUAL) == 0
    assert image.apply(NONE) == 0
    assert image.key.read_bytes() == KEY
    assert f"remark: {image.config}: {image.key} is left from before" in capsys.readouterr().err


@root_only
def test_owners_are_those_of_the_daemons(image, capsys) -> None:
    assert image.apply(MANUAL) == 0
    paths = {image.generated(daemon): user for daemon, user in DAEMONS.items()} | {image.key: "aziotks"}
    for path, user in paths.items():
        uid = NAMES[user]
        for one in (path, path.parent):
            assert (one.stat().st_uid, one.stat().st_gid) == (uid, uid + 1000), one
    assert (image.root / "etc/aziot/keyd").stat().st_uid == 0
    assert "Owners are not changed" not in capsys.readouterr().out


@root_only
def test_keyd_gets_past_directories_that_barred_its_way(image, capsys) -> None:
    barred = image.root / "var/secrets"
    barred.mkdir(parents=True)
    barred.chmod(0o700)
    image.root.joinpath("var").chmod(0o755)
    assert image.apply(MANUAL) == 0
    assert stat.S_IMODE(barred.stat().st_mode) == 0o705
    assert f"{barred} can now be read by everybody" in capsys.readouterr().out


@root_only
def test_a_link_planted_in_a_daemons_directory_is_not_followed(image, tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    assert image.apply(NONE) == 0
    path = image.generated("certd")
    Path(f"{path}.new").symlink_to(victim)
    Path(f"{path}.bak.new").symlink_to(victim)
    assert image.apply(NONE.replace("there", "elsewhere")) == 0
    path.unlink()
    path.symlink_to(victim)
    assert image.apply(NONE) == 1, "a link in place of the file itself is nobody's to replace unseen"
    assert victim.read_bytes() == b"precious"
    assert victim.stat().st_uid == 0


@root_only
def test_who_is_not_root_leaves_owners_alone_and_says_so() -> None:
    # Nobody may pass the directory that pytest gives.
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        image = Image(Path(place))
        Path(place).chmod(0o777)
        image.config.write_text(MANUAL)
        image.config.chmod(0o644)
        said = Path(place) / "said"
        child = os.fork()
        if child == 0:
            status = 9
            try:
                os.setgroups([])
                os.setgid(65_534)
                os.setuid(65_534)
                with said.open("w") as out, contextlib.redirect_stdout(out):
                    words = ["config", "apply", "-c", str(image.config), "--root", str(image.root)]
                    status = identityd([*words, *USERS[:4]])
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert "Owners are not changed: only root can." in said.read_text()
        assert image.key.stat().st_uid == 65_534
        assert b"uid = 5556" in image.generated("keyd").read_bytes()


# --- nothing by halves -------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["open", "fsync", "link"])
def test_before_the_first_rename_all_is_as_it_was(image, monkeypatch, capsys, call) -> None:
    assert image.apply(MANUAL) == 0
    before = image.everything()
    real, left = getattr(os, call), [4]

    def fails(*args: object, **kwargs: object) -> object:
        # The fourth file is the one the disk has no room for.
        if call != "open" or str(args[0]).endswith(".new"):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(28, "No space left on device", None if call == "fsync" else str(args[0]))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        assert image.apply(NONE.replace("none", "none") + f'localid.domain = "{call}"') == 1
    assert "No space left on device; the files are as they were" in capsys.readouterr().err
    after = {path: content for path, content in image.everything().items() if not path.endswith(".bak")}
    assert after == before


@pytest.mark.parametrize("failing", range(1, 6))
def test_a_rename_that_fails_puts_the_others_back(tmp_path, monkeypatch, failing) -> None:
    def wanted(word: str) -> tuple[NewFile, ...]:
        return tuple(
            NewFile(path=f"/d{number}/f", content=f"{word} {number}".encode(), owner="u")
            for number in range(5)
        )

    root = str(tmp_path)
    install(plan(wanted("old")[1:], root=root, owners=None), root=root)
    real, left = os.rename, [failing]

    def fails(source: str, target: str) -> None:
        if source.endswith("f.new"):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(5, "Input/output error", target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        with pytest.raises(StoreUnavailable, match="the files are as they were"):
            install(plan(wanted("new"), root=root, owners=None), root=root)
    assert not (tmp_path / "d0/f").exists(), "it was not there before"
    for number in range(1, 5):
        assert (tmp_path / f"d{number}/f").read_bytes() == f"old {number}".encode()
    install(plan(wanted("new"), root=root, owners=None), root=root)
    assert (tmp_path / "d0/f").read_bytes() == b"new 0"
    assert not list(tmp_path.rglob("*.new"))


class PowerCut(BaseException):
    """Nothing after it runs."""


@pytest.mark.parametrize("after", range(9))
def test_a_power_cut_leaves_whole_files_and_the_next_run_ends_it(image, monkeypatch, after) -> None:
    assert image.apply(MANUAL) == 0
    old = image.everything()
    text = NONE + "aziot_max_requests = { keyd = 1, certd = 1, identityd = 1, tpmd = 1 }\n"
    real, left = os.rename, [after]

    def cut(source: str, target: str) -> None:
        if left[0] == 0:
            raise PowerCut
        left[0] -= 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", cut)
        if after < 8:  # four files and their backups
            with pytest.raises(PowerCut):
                image.apply(text)
        else:
            assert image.apply(text) == 0
    halfway = image.everything()
    assert image.apply(text) == 0
    new = image.everything()
    for path in old:
        assert halfway[path] in (old[path], new[path])
    assert not any(path.endswith(".new") for path in new)


# --- words -------------------------------------------------------------------------------------------


def test_a_mistake_writes_nothing(image, capsys) -> None:
    assert image.apply(MANUAL + "cloud_retries = -1\n[tpm]\nauth_key_index = -1\n") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        f"identityd: {image.config}: line 2: cloud_retries: found -1; allowed a whole number from 0 to 10 "
        "(extra tries)",
        f"identityd: {image.config}: line 4: tpm.auth_key_index: found -1; allowed a whole number from 0 to "
        "8388607 (offset of a persistent handle)",
    ]
    assert not image.root.exists()


def test_a_dry_run_says_the_same_and_writes_nothing(image, capsys) -> None:
    assert image.apply(MANUAL, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Nothing was written."
    assert not image.root.exists()


def test_json(image, capsys) -> None:
    assert image.apply(MANUAL.replace("}", "} \nclod_retries = 1"), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["written"] is True
    assert [(one["change"], one["owner"]) for one in answer["files"]] == [
        ("new", user) for user in ("aziotks", *DAEMONS.values())
    ]
    assert answer["files"][0]["size_bytes"] == len(KEY)
    assert [(one["line"], one["key"]) for one in answer["remarks"]] == [
        (2, "clod_retries"),
        (None, "hostname"),
    ]
    assert image.apply(NONE, "--json", "--dry-run") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["written"], answer["backups"]) == (False, [])


def test_the_name_of_another_machine_is_not_taken_unsaid(image, capsys) -> None:
    assert image.apply(MANUAL) == 0
    assert "hostname: nothing here, so the name of this machine" in capsys.readouterr().err
    assert image.apply(MANUAL, "--hostname", "my-device") == 0
    assert capsys.readouterr().err == ""
    assert b'hostname = "my-device"' in image.generated("identityd").read_bytes()
    assert image.apply(MANUAL, "--hostname", "my device") == 2


def test_users_of_the_image_are_looked_up_in_the_image(image, capsys) -> None:
    passwd = image.root / "etc/passwd"
    passwd.parent.mkdir(parents=True)
    lines = [f"{name}:x:{uid + 1}:{uid + 2}::/:/bin/false" for name, uid in NAMES.items()]
    passwd.write_text("\n".join(["broken", "x:y", *lines, "aziotid:x:0:0::/:"]))
    image.config.write_text(NONE)
    words = ["config", "apply", "-c", str(image.config), "--root", str(image.root)]
    assert identityd(words) == 0
    assert b"uid = 5557" in image.generated("certd").read_bytes()
    passwd.write_text("\n".join(lines[1:]))
    capsys.readouterr()
    assert identityd(words) == 2
    assert capsys.readouterr().err == (
        f"identityd: there is no user aziotid in {image.root}/etc/passwd: say --user aziotid=UID\n"
    )
    assert identityd([*words, "--user", "aziotid=7"]) == 0


@pytest.mark.parametrize(
    "said", ["aziotid", "aziotid=", "aziotid=-1", "other=1", "aziotid=1:x", "aziotid=4294967295"]
)
def test_users_that_are_none(image, said, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        image.apply(NONE, "--user", said)
    assert ended.value.code == 2
    assert "--user" in capsys.readouterr().err


def test_under_the_name_of_the_original(image, capsys) -> None:
    image.config.write_text(NONE)
    words = ["config", "apply", "--config", str(image.config), "--root", str(image.root)]
    assert aziotctl([*words, *USERS]) == 0
    assert image.generated("identityd").exists()


def test_where_it_cannot_be_written(image, capsys) -> None:
    image.root.parent.joinpath("root").write_text("a file")
    assert image.apply(NONE) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_plan_with_owners_sees_a_wrong_owner(tmp_path) -> None:
    wanted = (NewFile(path="/d/f", content=b"x", owner="u"),)
    root = str(tmp_path)
    install(plan(wanted, root=root, owners=None), root=root)
    mine, other = Owner(os.getuid(), os.getgid()), Owner(os.getuid() + 1, os.getgid())
    assert plan(wanted, root=root, owners={"u": mine})[0].change == "unchanged"
    assert plan(wanted, root=root, owners={"u": other})[0].change == "changed"


# --- mp ----------------------------------------------------------------------------------------------


def mp(*words: str) -> int:
    return aziotctl(["config", "mp", *words])


def test_mp_writes_what_run_and_apply_read(tmp_path, capsys) -> None:
    path = tmp_path / "etc aziot" / "config.toml"
    previous = os.umask(0)
    try:
        assert mp("-c", STRING, "-o", str(path)) == 0
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(str(path)) == load(write(tmp_path / "c.toml", MANUAL))
    told = capsys.readouterr()
    assert KEY_TEXT not in told.out + told.err
    assert told.out.splitlines()[-1] == f"  sudo aziotctl config apply -c '{path}'"
    assert [one.name for one in path.parent.iterdir()] == ["config.toml"]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_mp_replaces_only_when_told_to(tmp_path, capsys) -> None:
    path = write(tmp_path / "config.toml", "mine = 1\n")
    assert mp("-c", STRING, "-o", path) == 1
    assert Path(path).read_text() == "mine = 1\n"
    assert f"{path} is there already" in capsys.readouterr().err
    assert mp("-c", STRING, "-o", path, "--force") == 0
    assert Path(f"{path}.bak").read_text() == "mine = 1\n"
    assert mp("-c", STRING, "-o", path, "-f") == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["config.toml", "config.toml.bak"]


def test_mp_from_standard_input_below_a_root(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{STRING}\n"))
    assert mp("-c", "-", "--root", str(tmp_path)) == 0
    assert load(str(tmp_path / "etc/aziot/config.toml")) == load(write(tmp_path / "c.toml", MANUAL))


NO_STRINGS = {
    STRING.replace("HostName", "Hostname"): 'whose required parameter "HostName" is missing',
    STRING.replace(KEY_TEXT, KEY_TEXT[:-3]): 'whose "SharedAccessKey" is not base64',
    KEY_TEXT: 'whose required parameter "HostName" is missing',
    "x" * 5000: "more than 4096 characters",
}


@pytest.mark.parametrize(("said", "why"), NO_STRINGS.items(), ids=NO_STRINGS.values())
def test_mp_says_what_is_wrong_without_the_key(tmp_path, capsys, said, why) -> None:
    assert mp("-c", said, "-o", str(tmp_path / "c.toml")) == 2
    told = capsys.readouterr().err
    assert why in told
    assert KEY_TEXT[:16] not in told
    assert list(tmp_path.iterdir()) == []


def test_mp_where_it_cannot_write(tmp_path, capsys) -> None:
    write(tmp_path / "file", "")
    assert mp("-c", STRING, "-o", str(tmp_path / "file" / "c.toml")) == 1
    assert "cannot write" in capsys.readouterr().err


# --- check -------------------------------------------------------------------------------------------

BAD = 'clod_retries = 1\n[provisioning]\nsource = "dsp"\n[aziot_keys]\npkcs11_base_slot = "x"\n'


def checked(path: Path, text: str, *options: str) -> int:
    return identityd(["config", "check", write(path, text), *options])


def test_check_tells_all_of_it(tmp_path, capsys) -> None:
    path = tmp_path / "config.toml"
    drop_in = tmp_path / "keyd/config.d/a.toml"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("\n[[principal]]\nuid = -1\nkeys = []\n")
    assert checked(path, BAD) == 1
    told = capsys.readouterr().out.splitlines()
    assert told == [
        f'mistake: {path}: line 3: provisioning.source: found "dsp"; allowed "manual", "dps" or "none"; '
        'did you mean "dps"?',
        f"mistake: {drop_in}: line 3: principal[1].uid: found -1; allowed a user id from 0 to 4294967294, "
        "or a user's name",
        f'remark: {path}: line 1: clod_retries: an unknown key, not used; did you mean "cloud_retries"?',
        f"{path} cannot be used by identityd run: 2 mistakes, 1 remark",
    ]


def test_check_for_others(tmp_path, capsys) -> None:
    path = tmp_path / "config.toml"
    assert checked(path, NONE + "[aziot_keys]\npkcs11_base_slot = 'x'") == 0
    assert checked(path, NONE + "[aziot_keys]\npkcs11_base_slot = 'x'", "--for", "apply") == 1
    assert "aziot_keys.pkcs11_base_slot" in capsys.readouterr().out
    assert (
        checked(path, 'hostname = "h"\nhomedir = "/h"\nprovisioning.source = "none"', "--for", "identityd")
        == 0
    )
    assert checked(path, 'hostname = "h"\nprovisioning.source = "none"', "--for", "identityd") == 1
    assert "homedir: found nothing; allowed an absolute path" in capsys.readouterr().out


def test_check_counts_remarks_when_told_to(tmp_path, capsys) -> None:
    path = tmp_path / "config.toml"
    assert checked(path, NONE) == 0
    assert checked(path, f"x = 1\n{NONE}") == 0
    assert checked(path, f"x = 1\n{NONE}", "--warnings-as-errors") == 1


def test_check_as_data(tmp_path, capsys) -> None:
    path = tmp_path / "config.toml"
    assert checked(path, BAD, "--json") == 1
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert (answer["file"], answer["reader"], answer["usable"]) == (str(path), "run", False)
    assert [(one["line"], one["key"]) for one in answer["mistakes"]] == [(3, "provisioning.source")]
    assert [(one["line"], one["key"]) for one in answer["remarks"]] == [(1, "clod_retries")]
    assert checked(path, "a = ?", "--json") == 1
    (mistake,) = msgspec.json.decode(capsys.readouterr().out)["mistakes"]
    assert (mistake["line"], mistake["column"]) == (1, 5)


def test_check_folds_lines_on_a_terminal_only(tmp_path) -> None:
    path = write(tmp_path / "config.toml", BAD)
    command = [sys.executable, "-m", "adapters", "config", "check", path]
    where = {"cwd": Path(__file__).parents[2], "env": {**os.environ, "COLUMNS": "40", "TERM": "xterm"}}
    leader, follower = os.openpty()
    try:
        subprocess.run(command, stdout=follower, timeout=60, check=False, **where)
        shown = os.read(leader, 65_536).decode()
    finally:
        os.close(leader)
        os.close(follower)
    piped = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **where).stdout
    assert "\x1b[" in shown
    assert "\x1b[" not in piped
    assert len(piped.splitlines()) == 3
    plain = shown.replace("\x1b[31;1m", "").replace("\x1b[33m", "").replace("\x1b[0m", "")
    # A path is not broken, so a line with one may be longer.
    assert all(len(line) <= 40 or str(tmp_path) in line for line in plain.splitlines())


@pytest.mark.parametrize("reader", ["run", "apply", "identityd"])
def test_check_of_what_is_not_there(tmp_path, capsys, reader) -> None:
    assert identityd(["config", "check", str(tmp_path / "none.toml"), "--for", reader]) == 1
    assert "found no such file" in capsys.readouterr().out
