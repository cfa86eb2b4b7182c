"""Settings are plain values; what is secret in them is never printed."""

from statemachine.settings import SymmetricKeySource


def test_a_key_is_never_printed():
    assert repr(SymmetricKeySource(value=b"very secret")) == "SymmetricKeySource(<inline>)"
    assert "secret" not in repr([SymmetricKeySource(value=b"very secret")])
    assert repr(SymmetricKeySource(path="/etc/aziot/key")) == "SymmetricKeySource(/etc/aziot/key)"
