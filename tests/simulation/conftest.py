"""Fixtures of the simulations."""

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Years of a device's life are logged."""
    caplog.set_level(logging.CRITICAL, logger="identityd")
