"""``[identityd.control] principals``: who may command, by number or by name."""

import os
import pwd

import pytest

from adapters import config
from adapters.errors import ConfigurationInvalid

BASE = '[provisioning]\nsource = "none"\n[identityd.control]\nprincipals = '
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize(
    ("written", "principals"),
    [
        ("[]", ()),
        ("[1001]", (1001,)),
        ("[1002, 1001, 1002]", (1001, 1002)),
        ("[0, 4294967294]", (0, 4294967294)),
        (f'["{ME}"]', (os.getuid(),)),
        (f'["{ME}", {os.getuid()}]', (os.getuid(),)),
    ],
)
def test_users_by_number_and_by_name(written, principals):
    assert config.parse("c.toml", BASE + written).control.principals == principals


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("1001", "1001"),
        ("[-1]", "-1 in it"),
        ("[4294967295]", "4294967295 in it"),
        ("[true]", "true in it"),
        ("[1.5]", "1.5 in it"),
        ("[[1]]", "an array of 1 in it"),
        ('["nobody-of-that-name"]', "is no user here"),
        ('["1001"]', "write a number without quotes"),
        (f"[{', '.join('1' for _ in range(1001))}]", "an array of 1001"),
    ],
)
def test_what_is_no_user_is_told(written, found):
    with pytest.raises(ConfigurationInvalid) as caught:
        config.parse("c.toml", BASE + written)
    (problem,) = caught.value.problems
    assert "identityd.control.principals" in problem
    assert found in problem


def test_a_user_who_has_gone_does_not_keep_the_last_good_configuration_from_starting(tmp_path):
    kept = tmp_path / "last-good.toml"
    kept.write_text(BASE + '["nobody-of-that-name", 1001]')
    loaded = config.load_with_fallback(str(tmp_path / "missing.toml"), str(kept))
    assert loaded.source == "last-good"
    assert loaded.configuration.control.principals == (1001,)
    assert any("nobody has its rights" in note for note in loaded.notes)
