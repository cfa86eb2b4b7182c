"""The units for systemd say what the code does, and let it do little else."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from adapters.driven.hook_turns import KINDS
from adapters.driving.systemd import ACTIVATION_NAMES
from adapters.paths import paths_below
from adapters.sockets import SOCKET_GROUPS, SOCKET_MODE, WORKLOAD_SOCKET_MODE

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "config/systemd"
SERVICE = SYSTEMD / "identityd.service"
EXPOSURE = 2.0
"What `systemd-analyze security` may say at most."

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


class Unit(configparser.ConfigParser):
    """A unit file; of a key that is said twice only the last counts here."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
        self.optionxform = str
        self.read_string(path.read_text(encoding="utf-8"))


def said(key: str, path: Path = SERVICE) -> list[str]:
    """Every value of a key, in order."""
    return re.findall(rf"^{key}=(.*)$", path.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("name", sorted(SOCKET_GROUPS))
def test_each_socket_is_as_the_service_would_make_it(name):
    unit = Unit(SYSTEMD / f"identityd-{name}.socket")["Socket"]
    assert unit["ListenStream"] == getattr(paths_below("/"), f"{name}_sock")
    assert unit["SocketGroup"] == SOCKET_GROUPS[name]
    mode = WORKLOAD_SOCKET_MODE if name == "workload" else SOCKET_MODE
    assert int(unit["SocketMode"], 8) == mode
    assert unit["Service"] == "identityd.service"
    # No FileDescriptorName=: the unit's own name is the one that is looked for.
    assert f"identityd-{name}.socket" in ACTIVATION_NAMES[name]


def test_the_service_wants_every_socket_there_is():
    sockets = {path.name for path in SYSTEMD.glob("*.socket")}
    assert sockets == {f"identityd-{name}.socket" for name in SOCKET_GROUPS}
    for key in ("Requires", "After", "Also"):
        assert sockets <= set(" ".join(said(key)).split()), key


def test_every_user_and_group_is_made():
    text = (SYSTEMD / "sysusers.conf").read_text(encoding="utf-8")
    made = set(re.findall(r"^[ug] (\S+)", text, re.M))
    wanted = set(SOCKET_GROUPS.values())
    for path in SYSTEMD.glob("*.socket"):
        wanted |= {*said("SocketUser", path), *said("SocketGroup", path)}
    assert wanted | set(said("User")) <= made


def test_the_service_is_fed_by_the_protocols_it_speaks():
    unit = Unit(SERVICE)["Service"]
    assert unit["Type"] == "notify"
    assert unit["WatchdogSec"] == "3min"
    assert said("ExecReload")[-1].endswith("-HUP $MAINPID")
    assert said("ExecStart") == ["/usr/bin/identityd run --root /"]


def test_it_may_write_where_the_code_writes():
    paths = paths_below("/")
    state = {f"/var/lib/{one}" for one in said("StateDirectory")[0].split()}
    assert state == {paths.state_dir, paths.certd_home, paths.keyd_home}
    assert f"/run/{said('RuntimeDirectory')[0]}" == f"{paths.run_dir}/hooks"


@pytest.mark.parametrize("path", sorted(SYSTEMD.glob("examples/*.path")), ids=lambda path: path.name)
def test_examples_watch_a_stamp_there_is(path):
    (stamp,) = said("PathChanged", path)
    assert stamp in {f"{paths_below('/').run_dir}/hooks/{kind}" for kind in KINDS}
    assert (path.parent / said("Unit", path)[0]).exists()


@needs_analyze
def test_exposure_is_what_the_docs_say():
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SERVICE)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unrecognized option" in done.stderr or "Unknown" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at files")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE
    page = (ROOT / "docs/how-to/install.md").read_text(encoding="utf-8")
    stated = re.search(r"exposure of ([0-9.]+)", page)
    assert stated, "docs/how-to/install.md states the figure"
    # Other releases weigh a little differently.
    assert abs(float(stated[1]) - float(found[1])) <= 0.3


@needs_analyze
@pytest.mark.parametrize("kind", ["service", "socket", "path"])
def test_systemd_understands_every_line(tmp_path, kind):
    for path in (*SYSTEMD.glob("identityd*"), *SYSTEMD.glob("examples/my-app-renewed.*")):
        # What is run is not installed here.
        text = re.sub(r"/usr/bin/identityd", "/bin/true", path.read_text(encoding="utf-8"))
        (tmp_path / path.name).write_text(text)
    units = sorted(str(path) for path in tmp_path.glob(f"*.{kind}"))
    assert units
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
    )
    ours = [line for line in done.stderr.splitlines() if "identityd" in line or "my-app-renewed" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers")
def test_users_are_made_below_a_root(tmp_path):
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(SYSTEMD / "sysusers.conf")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    groups = dict(re.findall(r"^(\w+):[^:]*:\d+:(.*)$", (tmp_path / "etc/group").read_text(), re.M))
    assert set(groups["aziotks"].split(",")) == {"aziotcs", "aziotid"}
    assert set(groups["aziotcs"].split(",")) == {"aziotid"}
