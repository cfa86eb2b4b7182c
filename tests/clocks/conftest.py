"""Fixtures of the clock scenarios."""

import logging

import pytest


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Scenarios in virtual time log years of a device's life."""
    caplog.set_level(logging.CRITICAL, logger="identityd")
