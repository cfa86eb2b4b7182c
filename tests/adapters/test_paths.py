"""One prefix in front of the documented directories."""

import os

import pytest

from adapters import paths
from adapters.errors import ConfigurationInvalid


def test_the_documented_directories():
    found = paths.service_paths(environ={}, uid=0)
    assert found.root == "/"
    assert found.config == "/etc/aziot/config.toml"
    assert found.run_dir == "/run/aziot"
    assert found.control_sock == "/run/aziot/control.sock"
    assert found.certd_sock == "/run/aziot/certd.sock"
    assert found.state_dir == "/var/lib/aziot/identityd"
    assert found.certd_home == "/var/lib/aziot/certd"
    assert found.keyd_home == "/var/lib/aziot/keyd"
    assert found.journal == "/var/lib/aziot/identityd/journal.jsonl"
    assert found.last_good_config == "/var/lib/aziot/identityd/last-good.toml"


@pytest.mark.parametrize(
    ("root", "environ", "uid", "control"),
    [
        ("/tmp/r", {"AZIOT_ROOT": "/tmp/e"}, 1000, "/tmp/r/run/aziot/control.sock"),
        ("/tmp/r/", {}, 0, "/tmp/r/run/aziot/control.sock"),
        (None, {"AZIOT_ROOT": "/tmp/e"}, 0, "/tmp/e/run/aziot/control.sock"),
        ("", {"AZIOT_ROOT": ""}, 0, "/run/aziot/control.sock"),
        ("/", {}, 1000, "/run/aziot/control.sock"),
        (None, {"XDG_STATE_HOME": "/x"}, 1000, "/x/identityd/run/aziot/control.sock"),
        (None, {"XDG_STATE_HOME": "/x"}, 0, "/run/aziot/control.sock"),
    ],
)
def test_which_prefix(root, environ, uid, control):
    assert paths.service_paths(root, environ=environ, uid=uid).control_sock == control


@pytest.mark.parametrize("state_home", [{}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}])
def test_without_a_usable_xdg_state_home(state_home, monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    assert paths.service_paths(environ=state_home, uid=1000).root == "/home/u/.local/state/identityd"


def test_a_relative_root_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert paths.service_paths("r", environ={}).config == f"{tmp_path}/r/etc/aziot/config.toml"


@pytest.mark.parametrize(("system_runs", "root"), [(True, "/"), (False, "/x/identityd")])
def test_a_client_looks_for_the_system_first(system_runs, root, monkeypatch):
    monkeypatch.setattr(os.path, "exists", lambda path: system_runs and path == "/run/aziot/control.sock")
    environ = {"XDG_STATE_HOME": "/x"}
    assert paths.client_paths(environ=environ, uid=1000).root == root
    assert paths.client_paths("/r", environ=environ, uid=1000).root == "/r"
    assert paths.client_paths(environ={"AZIOT_ROOT": "/e"}, uid=1000).root == "/e"


def test_the_longest_socket_path():
    longest = "/" + "d" * 106
    assert paths.socket_path(longest) == longest
    with pytest.raises(ConfigurationInvalid, match="is 108 bytes long, a Unix socket path holds 107"):
        paths.socket_path(longest + "d")


def test_bytes_count_not_characters():
    with pytest.raises(ConfigurationInvalid, match="shorter --root"):
        paths.paths_below("/" + "ä" * 50)


def test_a_nul_byte_is_refused():
    with pytest.raises(ConfigurationInvalid, match="NUL"):
        paths.paths_below("/a\0b")
