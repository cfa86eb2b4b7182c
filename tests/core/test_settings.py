"""Settings are plain values; what is secret in them is never printed."""

from statemachine.settings import IdentityPrincipal, IdentitySettings, SymmetricKeySource


def test_a_key_is_never_printed():
    assert repr(SymmetricKeySource(value=b"very secret")) == "SymmetricKeySource(<inline>)"
    assert "secret" not in repr([SymmetricKeySource(value=b"very secret")])
    assert repr(SymmetricKeySource(path="/etc/aziot/key")) == "SymmetricKeySource(/etc/aziot/key)"


def test_modules_are_the_principals_that_say_so():
    principals = (
        IdentityPrincipal(uid=1, name="daemon"),
        IdentityPrincipal(uid=2, name="telemetry", kinds=("module", "local")),
        IdentityPrincipal(uid=3, name="local-only", kinds=("local",)),
        IdentityPrincipal(uid=4, name="agent", kinds=("device", "module")),
    )
    assert IdentitySettings(principals=principals).modules == ("telemetry", "agent")
    assert IdentitySettings().modules == ()
