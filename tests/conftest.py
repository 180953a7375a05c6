"""Fixtures that several areas share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers_command import Preloaded


@pytest.fixture(scope="session")
def command() -> Iterator[Preloaded]:
    """The real commands, each in a process of its own: ``command(folder, "debug=tiny", ...)``."""
    with Preloaded() as preloaded:
        yield preloaded
